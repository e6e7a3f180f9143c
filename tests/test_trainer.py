"""The trainer: fit, run, gradient, History, progress, errors, copies; on both devices."""

from __future__ import annotations

import copy
import io
import pickle
import signal
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fastnn as fn

Array = NDArray[Any]
DEVICES = ["cpu", "numpy"]


def data(n: int = 50, dtype: str = "float32") -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 4)).astype(dtype)
    return x, (x[:, 0] + x[:, 1] > 0).astype(int) + (x[:, 2] > 1)


def make(
    device: str = "cpu", dtype: str = "float32", optimizer: Any = "adam", seed: int | None = 3
) -> fn.Trainer:
    model = fn.Sequential(fn.Dense(8, "relu"), fn.Dropout(0.2), fn.Dense(3), dtype=dtype)
    return fn.Trainer(model, loss="cross_entropy", optimizer=optimizer, device=device, seed=seed)


@pytest.mark.parametrize("device", DEVICES)
def test_fit_learns(device: str) -> None:
    x, y = data(300)
    trainer = make(device, optimizer=fn.Adam(lr=0.02))
    history = trainer.fit(x, y, epochs=40, batch_size=16)
    assert history["loss"][-1] < 0.4 * history["loss"][0]
    assert (trainer.predict(x).argmax(axis=1) == y).mean() > 0.9
    np.testing.assert_allclose(trainer.predict_proba(x).sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "mse"])
@pytest.mark.parametrize(
    "optimizer", [fn.SGD(0.1), fn.SGD(0.1, 0.9, True, 1e-3), fn.Adam(0.01, weight_decay=1e-3)]
)
def test_compiled_training_is_that_of_the_reference(optimizer: Any, loss: str, dtype: str) -> None:
    x, labels = data(37, dtype)
    y = labels if loss == "cross_entropy" else np.eye(3)[labels]
    weight = np.random.default_rng(1).random(37)
    results = []
    for device in DEVICES:
        layers = (fn.Dense(9, "tanh"), fn.Dropout(0.3), fn.Dense(7, "leaky_relu"), fn.Dense(3))
        trainer = fn.Trainer(fn.Sequential(*layers, dtype=dtype), loss, optimizer, device=device, seed=1)
        history = trainer.fit(x, y, epochs=3, batch_size=10, sample_weight=weight)
        results.append((trainer.model.parameters, history["loss"]))
    # 12 steps of sums in another order: a few roundings of numbers near 1
    tolerance = 2e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=tolerance)


@pytest.mark.parametrize("device", DEVICES)
def test_fit_is_run_with_shuffled_orders_and_a_ragged_rest(device: str) -> None:
    x, y = data(23)
    fitted, run = make(device), make(device)
    losses = fitted.fit(x, y, epochs=2, batch_size=5)["loss"]
    for epoch, loss in enumerate(losses):
        order = fn.kernels.shuffle(3, epoch, 23)
        parts = run.run(x, y, order[:20].reshape(4, 5)), run.run(x, y, order[20:].reshape(1, 3))
        assert loss == pytest.approx((20 * parts[0] + 3 * parts[1]) / 23, rel=1e-12)
    np.testing.assert_array_equal(fitted.model.parameters, run.model.parameters)
    assert fitted.step == run.step == 10


def test_without_shuffle_rows_come_in_order() -> None:
    x, y = data(8)
    a, b = make(), make()
    a.fit(x, y, epochs=2, batch_size=4, shuffle=False)
    for _ in range(2):
        b.run(x, y, np.arange(8).reshape(2, 4))
    np.testing.assert_array_equal(a.model.parameters, b.model.parameters)


def test_a_second_fit_goes_on() -> None:
    x, y = data()
    once, twice = make(), make()
    whole = once.fit(x, y, epochs=5)
    parts = twice.fit(x, y, epochs=2), twice.fit(x, y, epochs=3)
    np.testing.assert_array_equal(once.model.parameters, twice.model.parameters)
    assert parts[0]["loss"] + parts[1]["loss"] == whole["loss"]
    assert parts[1].epoch == [3, 4, 5]
    assert twice.history == whole == once.history
    assert twice.history.epoch == [1, 2, 3, 4, 5]
    assert (twice.epoch, twice.step) == (5, 10)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("n", [1, 2, 7])
def test_a_batch_larger_than_the_data_is_one_full_step(device: str, n: int) -> None:
    x, y = data(n)
    a, b = make(device), make(device)
    loss = a.fit(x, y, batch_size=100, shuffle=False)["loss"]
    assert loss == [b.partial_fit(x, y)]
    np.testing.assert_array_equal(a.model.parameters, b.model.parameters)
    assert a.step == 1


def test_one_row_batches_are_legal() -> None:
    x, y = data(5)
    trainer = make()
    assert len(trainer.fit(x, y, epochs=2, batch_size=1)["loss"]) == 2
    assert trainer.step == 10


@pytest.mark.parametrize("device", DEVICES)
def test_gradient_is_without_dropout_and_changes_nothing(device: str) -> None:
    x, y = data()
    trainer = make(device, "float64")
    trainer.model.build(4)
    before = trainer.model.parameters.copy()
    loss, gradient = trainer.gradient(x, y)
    assert loss == trainer.gradient(x, y)[0]
    np.testing.assert_array_equal(trainer.model.parameters, before)
    assert trainer.step == 0
    step = 1e-6 * gradient / np.linalg.norm(gradient)
    trainer.model.parameters += step
    up = trainer.gradient(x, y)[0]
    trainer.model.parameters -= 2 * step
    assert (up - trainer.gradient(x, y)[0]) / 2e-6 == pytest.approx(np.linalg.norm(gradient), rel=1e-6)


def test_the_loss_is_that_of_the_logits_by_hand() -> None:
    model = fn.Sequential(fn.Dense(2, bias=False), dtype="float64").build(1)
    model.parameters = [0.0, np.log(3.0)]
    trainer = fn.Trainer(model, "cross_entropy", fn.SGD(lr=1.0), seed=0)
    loss, gradient = trainer.gradient([[1.0]], [1])
    assert loss == pytest.approx(np.log(4 / 3), rel=1e-14)
    np.testing.assert_allclose(gradient, [0.25, -0.25], rtol=1e-14)
    assert trainer.partial_fit([[1.0]], [1]) == pytest.approx(np.log(4 / 3), rel=1e-14)
    np.testing.assert_allclose(model.parameters, [-0.25, np.log(3) + 0.25], rtol=1e-14)


def test_targets_of_one_output_may_be_a_column() -> None:
    x, _ = data()
    flat = x[:, 0] * 2
    results = []
    for y in (flat, flat[:, None], flat.astype(np.float64), flat.tolist()):
        trainer = fn.Trainer(fn.Sequential(fn.Dense(1)), "mse", "sgd", seed=1)
        trainer.fit(x, y, epochs=2)
        results.append(trainer.model.parameters)
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


def test_any_layout_of_the_data_gives_the_same_bits() -> None:
    x, y = data()
    wide = np.zeros((50, 9), np.float32)
    wide[:, 2:6] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    for other in (np.asfortranarray(x), wide[:, 2:6], frozen, x.astype(np.float64), x.tolist()):
        a, b = make(), make()
        a.fit(x, y)
        b.fit(other, y.astype(np.uint8))
        np.testing.assert_array_equal(a.model.parameters, b.model.parameters)


def test_a_refused_call_leaves_the_model_unbuilt() -> None:
    x, y = data()
    trainer = make()
    for act in (trainer.fit, trainer.partial_fit, trainer.gradient):
        with pytest.raises(ValueError, match="y must have shape"):
            act(x[:, :2], y[:7])  # type: ignore[operator]
    assert not trainer.model.is_built
    trainer.fit(x, y)


def test_zero_epochs_build_the_model_only() -> None:
    x, y = data()
    trainer = make()
    assert trainer.fit(x, y, epochs=0)["loss"] == []
    assert trainer.model.is_built
    np.testing.assert_array_equal(
        trainer.model.parameters, fn.Sequential(*trainer.model.layers).build(4, 3).parameters
    )


def test_run_without_steps_or_weight_has_no_mean() -> None:
    x, y = data(4)
    trainer = make()
    assert np.isnan(trainer.run(x, y, np.zeros((0, 2), int)))
    assert np.isnan(trainer.run(x, y, np.zeros((1, 0), int)))
    assert trainer.step == 0
    assert np.isnan(trainer.run(x, y, [[0]], sample_weight=[0, 1, 1, 1]))
    assert trainer.step == 1


def test_run_never_looks_at_rows_it_is_not_given() -> None:
    x, y = data(4)
    x[1] = np.nan
    y[1] = 99
    assert np.isfinite(make().run(x, y, [[0, 2], [3, 0]]))


def test_a_seed_gives_the_same_training_and_none_draws_one() -> None:
    x, y = data()
    first, same, other = make(seed=5), make(seed=5), make(seed=6)
    for trainer in (first, same, other):
        trainer.fit(x, y, epochs=2)
    np.testing.assert_array_equal(first.model.parameters, same.model.parameters)
    assert not np.array_equal(first.model.parameters, other.model.parameters)
    drawn = make(seed=None)
    drawn.fit(x, y, epochs=2)
    again = make(seed=drawn.seed)
    again.fit(x, y, epochs=2)
    np.testing.assert_array_equal(drawn.model.parameters, again.model.parameters)
    assert drawn.seed != make(seed=None).seed


def test_a_model_built_before_keeps_its_weights() -> None:
    x, y = data()
    trainer = make(optimizer=fn.SGD(lr=0.0))
    before = trainer.model.build(4, seed=77).parameters.copy()
    trainer.fit(x, y)
    np.testing.assert_array_equal(trainer.model.parameters, before)


def test_a_model_built_anew_starts_the_training_anew() -> None:
    x, y = data()
    trainer = make()
    first = trainer.fit(x, y, epochs=2)
    trainer.model.build(4, seed=3)
    assert trainer.fit(x, y, epochs=2) == first
    assert (trainer.epoch, trainer.history) == (2, first)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
@pytest.mark.parametrize("device", DEVICES)
def test_a_copied_trainer_goes_on_where_the_original_was(device: str, again: Any) -> None:
    x, y = data()
    trainer = make(device)
    assert again(trainer).step == 0
    trainer.fit(x, y, epochs=2)
    other = again(again(trainer))
    assert (other.step, other.epoch, other.history) == (trainer.step, 2, trainer.history)
    assert other.fit(x, y, epochs=2) == trainer.fit(x, y, epochs=2)
    np.testing.assert_array_equal(other.model.parameters, trainer.model.parameters)
    assert other.model is not trainer.model


def test_history_is_a_mapping_of_lists() -> None:
    x, y = data()
    history = make().fit(x, y, epochs=3)
    assert list(history) == ["loss"]
    assert len(history) == 1
    assert dict(history) == {"loss": history["loss"]}
    assert repr(history).startswith("History(3 epochs, last: loss ")
    with pytest.raises(KeyError, match="there is loss"):
        history["val_loss"]
    assert repr(fn.History()) == "History(no epochs)"
    assert pickle.loads(pickle.dumps(history)) == history


# ---------------------------------------------------------------- what goes wrong


def test_divergence_names_epoch_batch_layer_and_remedy() -> None:
    x, y = data()
    x[7, 2] = np.nan
    trainer = make()
    with pytest.raises(
        fn.DivergenceError, match=r"in epoch 1, batch 2 \(step 1\): x itself has a value"
    ) as caught:
        trainer.fit(x, y, batch_size=4, shuffle=False)
    error = caught.value
    assert (error.epoch, error.batch, error.step, error.layer) == (1, 2, 1, -1)
    assert np.isfinite(trainer.model.parameters).all()
    assert trainer.step == 1


@pytest.mark.parametrize("device", DEVICES)
def test_divergence_by_a_rate_too_high_names_the_layer(device: str) -> None:
    x, y = data()
    trainer = make(device, optimizer=fn.SGD(lr=1e30))
    with pytest.raises(fn.DivergenceError, match=r"layer \d, Dense\(.*try a smaller lr \(it is 1e\+30\)"):
        trainer.fit(x, y, epochs=50)
    assert np.isfinite(trainer.model.parameters).all()
    with pytest.raises(fn.DivergenceError, match="in row 1 of order"):
        make(device, optimizer=fn.SGD(lr=1e38)).run(x * 1e10, y, [[0, 1], [2, 3]])


def test_divergence_in_the_ragged_rest_counts_batches_on() -> None:
    x, y = data(10)
    x[9] = np.inf
    with pytest.raises(fn.DivergenceError) as caught:
        make().fit(x, y, batch_size=4, shuffle=False)
    assert (caught.value.batch, caught.value.step) == (3, 2)


def test_a_loss_that_overflows_alone_says_so() -> None:
    trainer = fn.Trainer(fn.Sequential(fn.Dense(1)), "mse", "sgd", seed=0)
    with pytest.raises(fn.DivergenceError, match=r"loss itself overflowed.*scale the targets") as caught:
        trainer.gradient([[1.0]], [1e30])
    assert caught.value.layer is None


def test_ctrl_c_keeps_the_history_and_a_model_that_can_go_on() -> None:
    class Interrupted(fn.Callback):
        def on_epoch_begin(self, trainer: fn.Trainer, epoch: int) -> None:
            if epoch == 3:
                raise KeyboardInterrupt

    x, y = data()
    trainer = make()
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(x, y, epochs=5, callbacks=[Interrupted()])
    assert trainer.history.epoch == [1, 2]
    trainer.fit(x, y, epochs=3)
    reference = make()
    reference.fit(x, y, epochs=5)
    np.testing.assert_array_equal(trainer.model.parameters, reference.model.parameters)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("device", DEVICES)
def test_ctrl_c_is_answered_within_an_epoch(device: str) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20000, 64)).astype(np.float32), rng.integers(3, size=20000)
    trainer = fn.Trainer(
        fn.Sequential(fn.Dense(1000, "relu"), fn.Dense(3)), "cross_entropy", "adam", device=device, seed=0
    )
    order = rng.integers(20000, size=(30000, 64))  # many seconds of steps in one call
    trainer.fit(x[:64], y[:64])

    def interrupt() -> None:
        while trainer.step < 10:  # it is at work
            time.sleep(0.001)
        signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        trainer.run(x, y, order)
    thread.join()
    assert 10 <= trainer.step < 30002
    assert np.isfinite(trainer.fit(x[:64], y[:64])["loss"][0])


def test_softmax_before_cross_entropy_is_refused_with_the_reason() -> None:
    after_dense = [(fn.Dense(3), fn.Activation(f), fn.Dropout(0.1)) for f in ("softmax", "log_softmax")]
    for layers in ((fn.Dense(3, "softmax"),), *after_dense):
        with pytest.raises(ValueError, match="takes logits and applies softmax itself"):
            fn.Trainer(fn.Sequential(*layers), loss="cross_entropy", optimizer="sgd")
    with pytest.raises(ValueError, match="applies log_softmax: one after the other is work without effect"):
        fn.Trainer(fn.Sequential(fn.Dense(3, "log_softmax")), loss="cross_entropy", optimizer="sgd")
    fn.Trainer(fn.Sequential(fn.Dense(3, "softmax"), fn.Dense(3)), loss="cross_entropy", optimizer="sgd")
    fn.Trainer(fn.Sequential(fn.Dense(3, "softmax")), loss="mse", optimizer="sgd")


def trainer_of(**arguments: Any) -> fn.Trainer:
    given: dict[str, Any] = {"model": fn.Sequential(fn.Dense(3)), "loss": "cross_entropy", "optimizer": "sgd"}
    return fn.Trainer(**{**given, **arguments})


X, Y = data(10)


@pytest.mark.parametrize(
    ("act", "error", "text"),
    [
        (lambda: trainer_of(model=fn.Dense(3)), TypeError, "model must be a Sequential, got Dense"),
        (lambda: trainer_of(loss="mes"), ValueError, "did you mean 'mse'"),
        (lambda: trainer_of(optimizer="Adam"), ValueError, "did you mean 'adam'"),
        (lambda: trainer_of(device="gpu"), ValueError, "device must be one of cpu, numpy, cuda, got 'gpu'"),
        (lambda: trainer_of(precision="tf32"), ValueError, "precision must be 'float32' with device 'cpu'"),
        (lambda: trainer_of(precision="tf23"), ValueError, "did you mean 'tf32'"),
        (lambda: trainer_of(seed=-1), ValueError, "seed must be from 0 to"),
        (lambda: trainer_of(seed=1.5), TypeError, "seed must be an integer"),
        (lambda: trainer_of().fit(X, Y, epochs=-1), ValueError, "epochs must be at least 0"),
        (lambda: trainer_of().fit(X, Y, batch_size=0), ValueError, "batch_size must be at least 1"),
        (lambda: trainer_of().fit(X, Y, shuffle=1), TypeError, "shuffle must be True or False"),
        (lambda: trainer_of().fit(X, Y, progress="yes"), TypeError, "progress must be True or False"),
        (lambda: trainer_of().fit(X[:0], Y[:0]), ValueError, "x must have at least one row"),
        (lambda: trainer_of().fit(X[:5], Y), ValueError, r"y must have shape \(5,\), got \(10,\)"),
        (lambda: trainer_of().fit(X, Y + 2), ValueError, "y must hold labels from 0 to 2, got 3 in row"),
        (lambda: trainer_of().fit(X, Y.astype(float)), TypeError, r"y\.astype\(int\)"),
        (
            lambda: trainer_of().fit(X, Y, sample_weight=[1]),
            ValueError,
            r"sample_weight must have shape \(10,\)",
        ),
        (lambda: trainer_of().run(X, Y, [[10]]), ValueError, "order must hold row numbers from 0 to 9"),
        (lambda: trainer_of().run(X, Y, [0, 1]), ValueError, "order must be 2-D"),
        (lambda: trainer_of().gradient(X[:0], Y[:0]), ValueError, "x must have at least one row"),
        (lambda: trainer_of().partial_fit(X[:0], Y[:0]), ValueError, "x must have at least one row"),
        (lambda: trainer_of().predict(X), fn.NotFittedError, "no parameters yet"),
        (
            lambda: trainer_of(model=fn.Sequential(fn.Dense(3)).build(5)).fit(X, Y),
            ValueError,
            r"x must have 5 columns, got shape \(10, 4\)",
        ),
        (lambda: trainer_of(loss="mse").fit(X, Y), ValueError, r"y must have shape \(10, 3\), got \(10,\)"),
        (
            lambda: trainer_of(loss="binary_cross_entropy").fit(X, np.full((10, 3), 2)),
            ValueError,
            "from 0 to 1",
        ),
    ],
)
def test_wrong_use_is_named(act: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        act()


# ---------------------------------------------------------------- progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("terminal", "progress", "shown"),
    [
        (False, None, 0),
        (False, True, 1),
        (False, False, 0),
        (True, None, 1),
        (True, True, 1),
        (True, False, 0),
    ],
)
def test_progress_goes_to_stderr(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, progress: bool | None, shown: int
) -> None:
    x, y = data()
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setitem(sys.modules, "tqdm", None)  # as where it is not installed
    make().fit(x, y, epochs=2, progress=progress)
    text = stream.getvalue()
    assert ("epoch 2/2  loss " in text) == bool(shown)
    assert text.count("\n") == 2 * shown
    assert "\r" not in text


def test_a_process_without_stderr_can_train(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    x, y = data()
    make().fit(x, y, progress=True)


# ---------------------------------------------------------------- configuration


def test_threads_can_be_set_and_read() -> None:
    before = fn.get_num_threads()
    try:
        fn.set_num_threads(1)
        assert fn.get_num_threads() == fn.show_config("dict")["num_threads"] == 1
    finally:
        fn.set_num_threads(before)
    for wrong in (0, -1, 10**6):
        with pytest.raises(ValueError, match="n must be"):
            fn.set_num_threads(wrong)
    with pytest.raises(TypeError, match="n must be an integer"):
        fn.set_num_threads(1.5)  # type: ignore[arg-type]


def test_show_config(capsys: pytest.CaptureFixture[str]) -> None:
    config = fn.show_config(mode="dict")
    keys = ["version", "isa", "isa_available", "num_threads", "threads_started", "compiler", "devices"]
    assert list(config) == keys
    assert config["version"] == fn.__version__
    assert config["isa"] in config["isa_available"]
    assert config["devices"] == ("cpu", "numpy")
    assert fn.show_config() is None
    printed = capsys.readouterr().out
    assert all(key in printed for key in keys)
    with pytest.raises(ValueError, match="mode must be one of dict"):
        fn.show_config("dicts")  # type: ignore[call-overload]
