"""The device "cuda" with a stand-in for CuPy and a card: what is trained, sent and refused. Needs no card.

Kernels are those of kernels_*.cu, compiled for the CPU, so that a fit goes through all of the device but CuPy
and CUDA themselves; what has to run on a card stands in test_gpu.py.
"""

from __future__ import annotations

import pickle
from typing import Any

import cuda_on_cpu
import numpy as np
import pytest
from cuda_stand_in import StandIn, put_in
from layer_cases import NETWORKS
from loss_targets import targets_of

import fastnn as fn
from fastnn import devices
from fastnn.devices import cuda_cards, cuda_data
from fastnn.devices.cuda_step import STEPS_A_GRAPH
from fastnn.steps import Objective

pytestmark = pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="needs a C++ compiler")

F32 = np.float32
N, N_IN = 150, 9
X = np.random.default_rng(0).standard_normal((N, N_IN)).astype(F32)
Y = np.random.default_rng(1).integers(0, 4, N)


@pytest.fixture(autouse=True)
def card(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """A machine with one card."""
    return put_in(monkeypatch)


def layers() -> tuple[Any, ...]:
    return fn.Dense(13, activation="relu"), fn.Dense(4)


def trainer_on(
    device: str, *given: Any, optimizer: Any = None, loss: Any = "cross_entropy", **more: Any
) -> Any:
    model = fn.Sequential(*(given or layers()))
    return fn.Trainer(model, loss=loss, optimizer=optimizer or fn.Adam(), seed=3, device=device, **more)


def assert_alike(theirs: Any, ours: Any, atol: float = 2e-6) -> None:
    """Losses and weights of two trainers: those of float32 in another order of sums."""
    np.testing.assert_allclose(ours.history["loss"], theirs.history["loss"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(ours.model.parameters, theirs.model.parameters, rtol=0, atol=atol)
    assert ours.step == theirs.step


def both(
    *given: Any, x: Any = X, y: Any = Y, loss: Any = "cross_entropy", optimizer: Any = None, **fit: Any
) -> Any:
    """Trained alike on both devices; gives that of the card."""
    found = []
    for device in ("cpu", "cuda"):
        trainer = trainer_on(device, *given, loss=loss, optimizer=optimizer)
        trainer.fit(x, y, **{"epochs": 2, "batch_size": 32, "progress": False, **fit})
        found.append(trainer)
    # L-BFGS takes 20 steps in one, and divides by small differences
    assert_alike(*found, atol=1e-4 if isinstance(optimizer, fn.LBFGS) else 2e-6)
    return found[1]


# ---------------------------------------------------------------- the same answers


def test_a_hundred_steps_have_the_losses_of_the_cpu() -> None:
    theirs, ours = trainer_on("cpu"), trainer_on("cuda")
    for i in range(100):
        order = np.random.default_rng(i).integers(0, N, (1, 24))
        assert abs(theirs.run(X, Y, order) - ours.run(X, Y, order)) < 1e-4
    np.testing.assert_allclose(ours.model.parameters, theirs.model.parameters, atol=1e-4)


@pytest.mark.parametrize(
    "optimizer", [fn.SGD(0.1, momentum=0.9), fn.AdamW(clip_norm=1.0, ema=0.9), fn.Lion()]
)
def test_dropout_and_all_kinds_of_captured_steps(optimizer: Any) -> None:
    given = (
        fn.Scale(0.5, 0.1),
        fn.Dense(13, activation="gelu"),
        fn.Dropout(0.3),
        fn.Activation("silu"),
        fn.Dense(11, activation="softmax", bias=False),
        fn.Scale(tuple(0.1 * j + 1 for j in range(11))),
        fn.Activation("tanh"),
        fn.Dense(4),
    )
    trainer = both(*given, optimizer=optimizer)
    assert trainer._program.not_captured is None


@pytest.mark.parametrize("loss", ["mse", "binary_cross_entropy", fn.losses.Huber(0.5)])
def test_losses_of_values(loss: Any) -> None:
    y = targets_of(getattr(loss, "name", loss), np.random.default_rng(2), N, 4).astype(F32)
    assert both(loss=loss, y=y, epochs=1)._program.not_captured is None


@pytest.mark.parametrize(
    "loss",
    [
        fn.losses.BinaryCrossEntropy(pos_weight=(1.0, 2.0, 0.5, 3.0)),
        fn.losses.Quantile((0.1, 0.9)),
        fn.losses.GaussianNLL(full=True),
        fn.losses.Poisson(full=True),
        fn.losses.Focal(),
        fn.losses.KLDivergence(),
    ],
    ids=lambda loss: loss.name,
)
def test_losses_of_the_array_program(loss: Any) -> None:
    y = targets_of(loss.name, np.random.default_rng(2), N, 4).astype(F32)
    assert "loss" in both(loss=loss, y=y[:, : loss.n_targets(4)], epochs=1)._program.not_captured


@pytest.mark.parametrize(
    "loss", [fn.losses.SoftmaxFocal(), fn.losses.MultiMargin(2)], ids=lambda loss: loss.name
)
def test_losses_of_labels_of_the_array_program(loss: Any) -> None:
    both(loss=loss, epochs=1)


def test_what_is_not_captured_is_the_array_program() -> None:
    trainer = both(*NETWORKS["batch norm"]("relu")[:-1], fn.Dense(4), optimizer=fn.SGD(0.1))
    assert "batch_norm" in trainer._program.not_captured
    for optimizer, why in ((fn.SGD(accumulate=2), "accumulate"), (fn.SGD(max_norm=1.0), "max_norm")):
        assert both(optimizer=optimizer, epochs=1)._program.not_captured == why
    soft = np.eye(4, dtype=F32)[Y]
    both(y=soft, epochs=1)


def test_a_penalty_and_the_loss_of_each_step_are_captured() -> None:
    order, weight = np.arange(N).reshape(5, 30), np.random.default_rng(2).uniform(0.5, 2, N)
    more = Objective(l2=1.0, factor=1.5, told=0.5, floor=0.1, cap=2.0)
    for objective in (None, Objective(), more):
        found = []
        for device in ("cpu", "cuda"):
            model = fn.Sequential(*layers()).build(N_IN)
            given = {"loss": "cross_entropy", "optimizer": fn.Adam(), "objective": objective}
            program = devices.make(device, model.steps, model._block, **given)
            told = np.zeros(5)
            sums = program.run(X, Y, order, np.full(5, 0.01), weight, step_losses=told)
            assert sums[0] == pytest.approx(told.sum())
            sums = program.run(X, Y, order, np.full(5, 0.01), weight, sums=sums)
            found.append([model.parameters, told, sums])
        for theirs, ours in zip(*found, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=2e-6)
        assert program.not_captured is None
        assert program._captured._batches


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_an_estimator_with_loss_and_optimizer_of_ours_trains_by_the_captured_step() -> None:
    from fastnn.sklearn import MLPClassifier, base

    given = {"loss": fn.losses.CrossEntropy(label_smoothing=0.1), "optimizer": fn.AdamW(0.01), "max_iter": 2}
    found = []
    for device in ("cpu", "cuda"):
        one = MLPClassifier((13,), **given, batch_size=32, random_state=0, device=device).fit(X, Y)
        found.append([*one.coefs_, *one.intercepts_, one.loss_curve_, one.predict_proba(X)])
    assert base._NETWORKS[one].program.not_captured is None
    for theirs, ours in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_each_kind_of_layer_trains_as_on_the_cpu(name: str) -> None:
    both(
        *NETWORKS[name]("tanh")[:-1],
        fn.Dense(3),
        x=X[:, :6].copy(),
        y=Y % 3,
        epochs=1,
        optimizer=fn.SGD(0.05),
    )


def test_a_loss_of_the_users_own_runs_on_the_host() -> None:
    def loss(z: Any, y: Any, weight: Any) -> Any:
        assert type(z) is np.ndarray
        return float(((z - y) ** 2).mean()), 2 * (z - y) / z.size

    both(loss=loss, y=np.eye(4, dtype=F32)[Y], epochs=1)


def test_groups_weights_bytes_schedules_and_rest_batches() -> None:
    groups = [
        fn.Group(layers=(1,), frozen=True),
        fn.Group(weights=("*.bias",), lr_factor=0.5, weight_decay=0.1),
    ]
    optimizer = fn.SGD(fn.schedules.OneCycle(0.1, total_steps=40), groups=groups, clip_norm=0.5)
    x = np.random.default_rng(5).integers(0, 255, X.shape).astype(np.uint8)
    weight = np.random.default_rng(6).uniform(0, 2, N)
    both(fn.Scale(1 / 255), *layers(), x=x, optimizer=optimizer, batch_size=7, sample_weight=weight, epochs=1)


def test_augmentations_and_validation() -> None:
    both(augment=[fn.GaussianNoise(0.1)], epochs=1)
    trainer = both(validation_data=(X[:20], Y[:20]), epochs=1)
    assert trainer.history["val_loss"][0] > 0


def test_evaluate_predict_and_gradient() -> None:
    theirs, ours = trainer_on("cpu"), trainer_on("cuda")
    for one in (theirs, ours):
        one.fit(X, Y, progress=False)
    assert ours.evaluate(X, Y)["loss"] == pytest.approx(theirs.evaluate(X, Y)["loss"], abs=1e-5)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), atol=1e-5)
    (loss, gradient), (other, expected) = ours.gradient(X, Y), theirs.gradient(X, Y)
    assert loss == pytest.approx(other, abs=1e-5)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_float64_and_lbfgs() -> None:
    both(optimizer=fn.LBFGS(), batch_size=None, epochs=1)
    found = []
    for device in ("cpu", "cuda"):
        trainer = fn.Trainer(
            fn.Sequential(*layers(), dtype="float64"), "cross_entropy", "adam", seed=1, device=device
        )
        found.append(trainer.fit(X, Y, progress=False)["loss"][0])
    assert found[0] == pytest.approx(found[1], abs=1e-12)


# ---------------------------------------------------------------- state and files


def test_a_checkpoint_goes_on_on_another_device(tmp_path: Any) -> None:
    whole = trainer_on("cpu")
    whole.fit(X, Y, epochs=4, progress=False)
    path = tmp_path / "half.ckpt"
    for first, second in (("cuda", "cpu"), ("cpu", "cuda"), ("cuda", "cuda")):
        half = trainer_on(first)
        half.fit(X, Y, epochs=2, progress=False)
        half.save_checkpoint(path)
        rest = trainer_on(second)
        rest.resume(path)
        rest.fit(X, Y, epochs=2, progress=False)
        np.testing.assert_allclose(rest.model.parameters, whole.model.parameters, atol=2e-5)
        copied = pickle.loads(pickle.dumps(half))
        copied.fit(X, Y, epochs=2, progress=False)
        np.testing.assert_allclose(copied.model.parameters, whole.model.parameters, atol=2e-5)


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    x = X.copy()
    x[100, 3] = np.nan
    for device in ("cpu", "cuda"):
        trainer = trainer_on(device)
        trainer.partial_fit(X[:20], Y[:20])
        before, state = trainer.model.parameters.copy(), trainer._program.state.copy()
        with pytest.raises(fn.DivergenceError, match="x itself") as met:
            trainer.run(x, Y, [[100, 1, 2]] + [[3, 4, 5]] * 20)
        assert met.value.step_in_call == 0
        np.testing.assert_array_equal(trainer.model.parameters, before)
        np.testing.assert_array_equal(trainer._program.state, state)
        assert trainer.step == 1
    # The third step meets it, and those queued behind change nothing.
    found = []
    for device in ("cpu", "cuda"):
        trainer = trainer_on(device, optimizer=fn.SGD(1e30))
        with pytest.raises(fn.DivergenceError, match="layer") as met:
            trainer.run(X, Y, np.arange(40).reshape(20, 2))
        error = met.value
        found.append((error.step_in_call, error.layer, trainer.step))
    assert found[0] == found[1]


def test_the_average_of_the_weights() -> None:
    trainer = both(optimizer=fn.Adam(ema=0.9), epochs=1)
    other = trainer_on("cpu", optimizer=fn.Adam(ema=0.9))
    other.fit(X, Y, progress=False)
    np.testing.assert_allclose(trainer.averaged().parameters, other.averaged().parameters, atol=1e-5)


def test_a_time_limit_ends_at_a_step() -> None:
    trainer = trainer_on("cuda")
    trainer.fit(X, Y, epochs=10**6, batch_size=8, progress=False, time_limit=0.05)
    assert trainer.out_of_time
    assert trainer.step > 0


# ---------------------------------------------------------------- data


def sent(card: StandIn, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each array that is sent as a whole from now on."""
    found: list[int] = []
    asarray = StandIn.asarray

    def counted(value: Any, dtype: Any = None) -> Any:
        if type(value) is np.ndarray:
            found.append(value.nbytes)
        return asarray(value, dtype)

    monkeypatch.setattr(card, "asarray", counted, raising=False)
    return found


def test_a_fit_sends_its_data_once(card: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_on("cuda")
    trainer.partial_fit(X, Y)
    found = sent(card, monkeypatch)
    trainer.fit(X, Y, epochs=5, progress=False)
    assert found.count(X.nbytes) == 1

    class Broken(fn.Callback):
        def on_epoch_end(self, trainer: Any, epoch: int, logs: Any) -> None:
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        trainer.fit(X, Y, progress=False, callbacks=[Broken()])
    assert not trainer._program._rows._held
    assert not trainer._program._rows._is_holding


def test_data_that_does_not_fit_is_sent_in_windows(card: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_data, "WINDOW_BYTES", 40 * X[0].nbytes)
    monkeypatch.setattr(cuda_data, "HELD_SHARE", 0.0)
    found = sent(card, monkeypatch)
    weight = np.random.default_rng(6).uniform(0, 2, N)
    both(batch_size=16, sample_weight=weight)
    assert X.nbytes not in found


def test_a_buffer_that_is_filled_anew_is_read_anew() -> None:
    theirs, ours = trainer_on("cpu"), trainer_on("cuda")
    x = X.copy()
    for _ in range(3):
        x += 0.5
        assert ours.partial_fit(x, Y) == pytest.approx(theirs.partial_fit(x, Y), abs=1e-5)


def test_memory_maps_and_rows_that_lie_apart(tmp_path: Any) -> None:
    np.save(tmp_path / "x.npy", X)
    both(x=np.load(tmp_path / "x.npy", mmap_mode="r"), epochs=1)
    both(x=np.repeat(X, 2, axis=0)[::2], epochs=1)
    both(x=np.hstack([X, X])[:, :N_IN], epochs=1)


def test_arrays_of_cupy_stay_where_they_are(card: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    there = [card.asarray(a) for a in (X, Y, np.ones(N))]
    theirs, ours = trainer_on("cuda", metrics=["accuracy"]), trainer_on("cuda", metrics=["accuracy"])
    more: Any = {"progress": False, "validation_split": 0.2}
    theirs.fit(X, Y, sample_weight=np.ones(N), **more)
    found = sent(card, monkeypatch)
    ours.fit(there[0], there[1], sample_weight=there[2], **more)
    assert X.nbytes not in found
    assert ours.history["loss"] == theirs.history["loss"]
    assert ours.history["val_accuracy"] == theirs.history["val_accuracy"]
    assert ours.evaluate(there[0], there[1]) == theirs.evaluate(X, Y)
    np.testing.assert_array_equal(ours.predict(there[0]), theirs.predict(X))
    assert ours.partial_fit(there[0], there[1]) == theirs.partial_fit(X, Y)
    with pytest.raises(ValueError, match=r"x must have 9 columns, got shape \(150, 8\)"):
        ours.evaluate(there[0][:, :8], there[1])
    # Another device does not fetch them unasked.
    with pytest.raises(TypeError, match='x must be in the memory of the CPU for device="cpu"'):
        trainer_on("cpu").partial_fit(there[0], there[1])


def test_a_source_trains_on_a_card() -> None:
    found = []
    for device in ("cpu", "cuda"):
        trainer = trainer_on(device)
        trainer.fit(fn.data.Source.npy(X, Y), epochs=2, batch_size=16, progress=False)
        found.append(trainer)
    assert_alike(*found)


def test_long_calls_are_made_of_long_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_on("cuda")
    order = np.arange(2 * (2 * STEPS_A_GRAPH + 3)).reshape(-1, 2) % N
    trainer.run(X, Y, order)
    batch = next(iter(trainer._program._captured._batches.values()))
    assert {n for _, n in batch.graphs} == {1, STEPS_A_GRAPH}


# ---------------------------------------------------------------- precision


@pytest.mark.parametrize(("precision", "most"), [("tf32", 2e-3), ("bf16", 2e-2)])
def test_rounded_products_train_nearly_alike(precision: str, most: float) -> None:
    theirs, ours = trainer_on("cuda"), trainer_on("cuda", precision=precision)
    for one in (theirs, ours):
        one.fit(X, Y, epochs=3, progress=False)
    away = np.abs(np.subtract(theirs.history["loss"], ours.history["loss"]))
    assert 0 < away.max() < most
    assert precision in repr(ours)


def test_precision_is_refused_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="layer 0, a batch_norm step"):
        trainer_on("cuda", fn.BatchNorm(), fn.Dense(4), precision="bf16").fit(X, Y)
    monkeypatch.setattr(cuda_cards, "_cupy", lambda device: StandIn(capability=(7, 5)))
    with pytest.raises(fn.DeviceError, match=r"compute capability 8\.0 or newer, got 7\.5"):
        trainer_on("cuda", precision="bf16").fit(X, Y)
