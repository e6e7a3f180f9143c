"""What surrounds the steps of fit: validation, splits, weights of classes, measuring, stopping, going on."""

from __future__ import annotations

import copy
import json
import math
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_class_weight

import fastnn as fn
from fastnn import validation

Array = NDArray[Any]


def data(n: int = 120) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 4)).astype(np.float32)
    return x, (x[:, 0] + x[:, 1] > 0).astype(int) + (x[:, 2] > 1)


def make(metrics: Any = (), device: str = "cpu", **given: Any) -> fn.Trainer:
    model = fn.Sequential(fn.Dense(8, "relu"), fn.Dropout(0.2), fn.Dense(3))
    arguments = {"loss": "cross_entropy", "optimizer": fn.Adam(lr=0.01), "seed": 3, **given}
    return fn.Trainer(model, metrics=metrics, device=device, **arguments)


# ---------------------------------------------------------------- validation


@pytest.mark.parametrize("device", ["cpu", "numpy"])
def test_history_has_both_sides_and_they_are_those_of_evaluate(device: str) -> None:
    x, y = data()
    xv, yv = x[80:].astype(np.float64), y[80:]
    trainer = make(["accuracy", "auc"], device)
    history = trainer.fit(x[:80], y[:80], epochs=3, validation_data=(xv, yv))
    assert list(history) == ["loss", "accuracy", "auc", "val_loss", "val_accuracy", "val_auc"]
    assert all(len(history[name]) == 3 for name in history)
    after = trainer.evaluate(xv, yv)
    assert after == {name: history[f"val_{name}"][-1] for name in after}
    assert trainer.evaluate(x[:80], y[:80])["auc"] == history["auc"][-1]
    by_hand = (trainer.predict(xv).argmax(axis=1) == yv).mean()
    assert history["val_accuracy"][-1] == pytest.approx(by_hand)


def test_validation_changes_no_bit_of_the_training() -> None:
    x, y = data()
    plain, validated = make(), make(["accuracy"])
    a = plain.fit(x[:80], y[:80], epochs=3)
    b = validated.fit(x[:80], y[:80], epochs=3, validation_data=(x[80:], y[80:]))
    np.testing.assert_array_equal(plain.model.parameters, validated.model.parameters)
    assert a["loss"] == b["loss"]


def test_validation_data_may_have_weights() -> None:
    x, y = data()
    w = np.arange(40.0)
    trainer = make(["accuracy"])
    history = trainer.fit(x[:80], y[:80], validation_data=[x[80:], y[80:], w])
    assert history["val_loss"] == [trainer.evaluate(x[80:], y[80:], w)["loss"]]
    assert history["val_loss"] != [trainer.evaluate(x[80:], y[80:])["loss"]]


def test_a_split_is_fit_on_one_part_and_validated_on_the_other() -> None:
    x, y = data()
    trainer = make(["accuracy"])
    history = trainer.fit(x, y, epochs=2, validation_split=0.25)
    rows, others = validation.split(0.25, y, 120, 3)
    assert (len(rows), len(others)) == (90, 30)
    assert set(rows) | set(others) == set(range(120))
    assert trainer.step == 6  # two epochs of 90 rows in batches of 32
    assert history["val_loss"][-1] == pytest.approx(trainer.evaluate(x[others], y[others])["loss"], rel=1e-12)
    by_hand = (trainer.predict(x[rows]).argmax(axis=1) == y[rows]).mean()
    assert history["accuracy"][-1] == pytest.approx(by_hand)
    changed = x.copy()
    changed[others] = 7.0
    again = make()
    again.fit(changed, y, epochs=2, validation_split=0.25)
    np.testing.assert_array_equal(again.model.parameters, trainer.model.parameters)


def test_a_split_gives_each_class_its_share() -> None:
    y = np.repeat([0, 1, 2, 3], [100, 41, 10, 1])
    rows, others = validation.split(0.2, y, 152, 5)
    assert np.bincount(y[others], minlength=4).tolist() == [20, 8, 2, 0]
    assert len(rows) + len(others) == 152
    assert validation.split(0.2, y, 152, 5)[1].tolist() == others.tolist()
    assert validation.split(0.2, y, 152, 6)[1].tolist() != others.tolist()
    for share in (0.01, 0.1, 1 / 3, 0.5, 0.9):
        parts = validation.split(share, y, 152, 0)
        assert len(parts[1]) == round(share * 152)
        assert (np.bincount(y[parts[0]], minlength=4) > 0).all()


def test_a_split_of_values_is_random_and_the_same_in_each_fit() -> None:
    x, _ = data()
    trainer = fn.Trainer(fn.Sequential(fn.Dense(1)), "mse", "sgd", ["r2"], seed=1)
    first = trainer.fit(x, x[:, 0], validation_split=0.5)
    _, others = validation.split(0.5, None, 120, 1)
    assert others.tolist() != sorted(range(60))
    assert trainer.evaluate(x[others], x[others, 0])["loss"] == pytest.approx(first["val_loss"][0])
    second = trainer.fit(x, x[:, 0], validation_split=0.5, shuffle=False)
    assert trainer.evaluate(x[others], x[others, 0])["r2"] == pytest.approx(second["val_r2"][0])


def test_both_sides_of_a_split_keep_their_sample_weights() -> None:
    x, y = data()
    w = np.random.default_rng(1).random(120)
    trainer, other = make(), make()
    history = trainer.fit(x, y, validation_split=0.25, sample_weight=w)
    _, others = validation.split(0.25, y, 120, 3)
    assert history["val_loss"][0] == pytest.approx(trainer.evaluate(x[others], y[others], w[others])["loss"])
    w[others] *= 5
    other.fit(x, y, validation_split=0.25, sample_weight=w)
    np.testing.assert_array_equal(trainer.model.parameters, other.model.parameters)


def test_evaluate_takes_many_blocks_and_any_dtype() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (5000, 4)).astype(np.uint8), rng.integers(0, 3, 5000)
    w = rng.random(5000)
    w[1024:2048] = 0  # a block without weight
    trainer = make(["accuracy", "log_loss"])
    trainer.fit(x / 255, y)
    for dtype in (np.uint8, np.float64, np.int32, np.float32):
        found = trainer.evaluate(x.astype(dtype), y, w)
        assert found["loss"] == pytest.approx(found["log_loss"], rel=1e-6)
    assert found == trainer.evaluate(np.asfortranarray(x), y.tolist(), w[:, None])


def test_evaluate_changes_nothing_and_needs_a_model() -> None:
    x, y = data()
    trainer = make()
    with pytest.raises(fn.NotFittedError):
        trainer.evaluate(x, y)
    trainer.fit(x, y)
    before, history = trainer.model.parameters.copy(), trainer.history.copy()
    trainer.evaluate(x, y)
    np.testing.assert_array_equal(trainer.model.parameters, before)
    assert (trainer.step, trainer.epoch, trainer.history) == (4, 1, history)


@pytest.mark.parametrize("device", ["cpu", "numpy"])
def test_validation_rows_that_are_not_finite_are_named(device: str) -> None:
    x, y = data()
    bad = x[80:].copy()
    bad[3] = np.nan
    trainer = make(device=device)
    with pytest.raises(
        fn.DivergenceError, match=r"over validation_data\[0\].*validation_data\[0\] itself has"
    ):
        trainer.fit(x[:80], y[:80], epochs=2, validation_data=(bad, y[80:]))
    assert trainer.epoch == 1  # its steps are done
    assert math.isnan(trainer.history["val_loss"][0])
    assert np.isfinite(trainer.history["loss"]).all()


# ---------------------------------------------------------------- weights of classes


def test_class_weight_is_sample_weight_by_label() -> None:
    x, y = data()
    by_class, by_row = make(), make()
    w = np.random.default_rng(0).random(120)
    a = by_class.fit(x, y, epochs=2, class_weight={0: 2.0, np.int64(2): 0.5}, sample_weight=w)
    b = by_row.fit(x, y, epochs=2, sample_weight=w * np.array([2.0, 1.0, 0.5])[y])
    np.testing.assert_array_equal(by_class.model.parameters, by_row.model.parameters)
    assert a == b


def test_balanced_weights_are_scikit_learns() -> None:
    x, y = data()
    balanced, by_row = make(), make()
    table = compute_class_weight("balanced", classes=np.arange(3), y=y)
    balanced.fit(x, y, class_weight="balanced")
    by_row.fit(x, y, class_weight=dict(enumerate(table)))
    np.testing.assert_array_equal(balanced.model.parameters, by_row.model.parameters)
    # a class that does not occur: the others share the sum
    loss = fn.CrossEntropy()
    weights = validation.class_weights("balanced", loss, np.array([0, 0, 0, 2]), 3)
    np.testing.assert_allclose(weights, [4 / 6, 4 / 6, 4 / 6, 2])


def test_class_weight_of_one_sigmoid_output() -> None:
    x, y = data()
    target = (y > 0).astype(float)
    results = []
    for given in ({"class_weight": {1: 3}}, {"sample_weight": np.where(target > 0, 3.0, 1.0)}):
        trainer = fn.Trainer(fn.Sequential(fn.Dense(1)), "binary_cross_entropy", "adam", seed=0)
        trainer.fit(x, target, validation_split=0.25, **given)  # type: ignore[arg-type]
        results.append(trainer.model.parameters)
    np.testing.assert_array_equal(*results)


def test_validation_and_metrics_are_without_class_weights() -> None:
    x, y = data()
    trainer = make(["accuracy"])
    history = trainer.fit(x, y, validation_split=0.25, class_weight={0: 100})
    rows, others = validation.split(0.25, y, 120, 3)
    assert history["val_loss"][0] == pytest.approx(trainer.evaluate(x[others], y[others])["loss"])
    assert history["accuracy"][0] == pytest.approx(trainer.evaluate(x[rows], y[rows])["accuracy"])


# ---------------------------------------------------------------- history


def test_history_has_attributes_and_fills_what_was_not_measured() -> None:
    x, y = data()
    trainer = make(["accuracy"])
    trainer.fit(x, y)
    second = trainer.fit(x, y, validation_split=0.2)
    history = trainer.history
    assert history.accuracy == history["accuracy"]
    assert history.epoch == [1, 2]
    assert math.isnan(history.val_loss[0])
    assert history.val_loss[1:] == second["val_loss"]
    assert "val_accuracy" in dir(history)
    with pytest.raises(AttributeError, match="no 'val_auc'"):
        history.val_auc  # noqa: B018
    other = pickle.loads(pickle.dumps(copy.deepcopy(history)))
    assert (other.epoch, repr(other)) == (history.epoch, repr(history))
    assert json.loads(json.dumps(dict(second))) == second


def test_zero_epochs_have_all_names_and_no_values() -> None:
    x, y = data()
    history = make(["f1"]).fit(x, y, epochs=0, validation_split=0.2)
    assert dict(history) == {"loss": [], "f1": [], "val_loss": [], "val_f1": []}


def test_history_becomes_a_data_frame() -> None:
    pytest.importorskip("pandas")
    x, y = data()
    history = make(["accuracy"]).fit(x, y, epochs=3)
    frame = history.to_pandas()
    assert frame.index.tolist() == [1, 2, 3]
    assert frame.index.name == "epoch"
    assert frame.to_dict("list") == dict(history)


def test_without_pandas_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match='python -m pip install pandas"'):
        fn.History().to_pandas()


# ---------------------------------------------------------------- rate factor


def test_the_rate_factor_multiplies_every_rate() -> None:
    x, y = data()
    halved, plain = make(optimizer=fn.SGD(lr=0.2)), make(optimizer=fn.SGD(lr=0.1))
    halved.rate_factor = 0.5
    for trainer in (halved, plain):
        trainer.fit(x, y, epochs=2)
        trainer.partial_fit(x, y)
        trainer.run(x, y, [[0, 1]])
    np.testing.assert_array_equal(halved.model.parameters, plain.model.parameters)
    assert copy.deepcopy(halved).rate_factor == 0.5
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="rate_factor must be at least 0"):
            halved.rate_factor = wrong
    halved.model.build(4)
    halved.fit(x, y)
    assert halved.rate_factor == 1.0


# ---------------------------------------------------------------- Ctrl-C

INTERRUPTED = """
import signal, sys, threading, numpy as np, fastnn as fn
signal.signal(signal.SIGINT, signal.default_int_handler)  # as Python has it, whoever started the tests
rng = np.random.default_rng(0)
x, y = rng.normal(size=(3000, 30)).astype(np.float32), rng.integers(0, 3, 3000)
model = fn.Sequential(fn.Dense(64, "relu"), fn.Dropout(0.1), fn.Dense(3))
trainer = fn.Trainer(model, "cross_entropy", "adam", ["accuracy", "auc"], seed=0)
ended = []
class Watch(fn.Callback):
    def on_epoch_end(self, trainer, epoch, logs):
        if epoch == 3:
            print("ready", flush=True)
    def on_fit_end(self, trainer):
        ended.append(trainer.epoch)
try:
    trainer.fit(x, y, epochs=10**6, validation_split=0.2, callbacks=[Watch()])
except KeyboardInterrupt:
    history = trainer.history
    assert len(history["loss"]) == trainer.epoch >= 3, trainer.epoch
    assert ended == [trainer.epoch]
    assert np.isfinite(model.predict(x)).all()
    step = trainer.step
    more = trainer.fit(x, y, epochs=1, validation_split=0.2)
    assert more.epoch == [len(history["loss"])] == [trainer.epoch]
    assert trainer.step == step + 75
    print("usable", flush=True)
"""


def test_a_real_ctrl_c_ends_fit_with_the_history_so_far() -> None:
    for delay in (0.0, 0.05):
        child = subprocess.Popen([sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(delay)
        child.send_signal(signal.SIGINT)
        rest, _ = child.communicate(timeout=60)
        assert rest == "usable\n"
        assert child.returncode == 0


def test_an_epoch_whose_measuring_is_interrupted_counts() -> None:
    x, y = data()

    def broken(y: Array, output: Array) -> float:
        raise KeyboardInterrupt

    trainer = make([broken])
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(x, y, epochs=3)
    assert (trainer.epoch, trainer.history.epoch) == (1, [1])
    assert math.isnan(trainer.history["broken"][0])
    assert not math.isnan(trainer.history["loss"][0])


# ---------------------------------------------------------------- going on after a checkpoint


def carried_over(trainer: fn.Trainer, states: list[tuple[str, dict[str, Any]]]) -> fn.Trainer:
    """What `resume` leaves: a trainer as it was at a checkpoint, with the states of the callbacks."""
    trainer._interrupted, trainer._resumed_states = True, states
    return trainer


class Checkpoint(fn.Callback):
    """Keeps a copy of the trainer and the states of all callbacks after one epoch, then kills the fit."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.kept: Any = None

    def on_checkpoint(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
        if epoch == self.at:
            states = [(type(one).__name__, one.state_dict()) for one in trainer._callbacks]
            self.kept = copy.deepcopy(trainer), copy.deepcopy(states)
            raise RuntimeError("killed")


CALLBACKS: list[Callable[[], list[fn.Callback]]] = [
    lambda: [fn.EarlyStopping("val_accuracy", 2, min_delta=0.05)],
    lambda: [fn.ReduceLROnPlateau(patience=0, factor=0.5, threshold=1.0, threshold_mode="abs")],
    lambda: [fn.ReduceLROnPlateau("loss", patience=1, cooldown=1), fn.EarlyStopping("val_accuracy", 3, 0.02)],
]


@pytest.mark.parametrize("at", [1, 4, 6, 99])
@pytest.mark.parametrize("callbacks", CALLBACKS)
def test_a_resumed_fit_ends_with_the_bits_of_the_undisturbed_one(at: int, callbacks: Any) -> None:
    x, y = data()
    given: dict[str, Any] = {"epochs": 12, "validation_split": 0.3}
    whole, other = make(["accuracy"]), make(["accuracy"])
    expected = whole.fit(x, y, callbacks=[*callbacks(), Checkpoint(0)], **given)
    killer = Checkpoint(min(at, len(expected.epoch)))
    with pytest.raises(RuntimeError, match="killed"):
        other.fit(x, y, callbacks=[killer, *callbacks()], **given)
    resumed = carried_over(*killer.kept)
    history = resumed.fit(x, y, callbacks=[Checkpoint(0), *callbacks()], **given)
    assert history == expected == resumed.history
    np.testing.assert_array_equal(resumed.model.parameters, whole.model.parameters)
    assert (resumed.epoch, resumed.rate_factor) == (whole.epoch, whole.rate_factor)
    assert resumed.stop_reason == whole.stop_reason
    # The one after it trains more again.
    assert resumed.fit(x, y, epochs=2).epoch == [whole.epoch + 1, whole.epoch + 2]


def test_a_resumed_fit_with_nothing_left_is_legal() -> None:
    x, y = data()
    trainer = make()
    trainer.fit(x, y, epochs=5)
    before = trainer.model.parameters.copy()
    assert carried_over(trainer, []).fit(x, y, epochs=4).epoch == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(trainer.model.parameters, before)
    assert (trainer.epoch, trainer.step) == (5, 20)


def test_a_resumed_fit_wants_the_callbacks_of_the_interrupted_one() -> None:
    x, y = data()
    trainer = carried_over(make(), [("EarlyStopping", fn.EarlyStopping().state_dict())])
    for wrong in ([], [fn.CSVLogger("x.csv")], [fn.EarlyStopping("loss"), fn.EarlyStopping("loss")]):
        with pytest.raises(ValueError, match=r"callbacks must be those .*, \[EarlyStopping\], got \["):
            trainer.fit(x, y, callbacks=wrong)
    assert trainer._interrupted
    trainer.fit(x, y, callbacks=[fn.EarlyStopping("loss")])
    assert not trainer._interrupted


def test_a_fit_killed_after_its_checkpoint_is_finished_from_the_file(tmp_path: Path) -> None:
    x, y = data(120)

    class Kill(fn.Callback):
        at = 0

        def on_epoch_begin(self, trainer: Any, epoch: int) -> None:
            if epoch == self.at:
                raise RuntimeError("killed")

    def fit(trainer: fn.Trainer, name: str, kill: Kill) -> fn.History:
        return trainer.fit(
            x,
            y,
            epochs=9,
            validation_split=0.3,
            callbacks=[
                fn.ModelCheckpoint(tmp_path / f"{name}.ckpt"),
                fn.ModelCheckpoint(tmp_path / (name + "-{epoch}.model"), "val_accuracy", True, True),
                fn.EarlyStopping("val_accuracy", 8),
                fn.ReduceLROnPlateau("loss", 0.5, 0, threshold=1.0, threshold_mode="abs"),
                fn.CSVLogger(tmp_path / f"{name}.csv"),
                kill,
            ],
        )

    whole, killed = make(["accuracy"]), make(["accuracy"])
    expected = fit(whole, "whole", Kill())
    kill = Kill()
    kill.at = 6
    with pytest.raises(RuntimeError, match="killed"):
        fit(killed, "killed", kill)
    resumed = make(["accuracy"])
    resumed.resume(tmp_path / "killed.ckpt")
    assert (resumed.epoch, resumed.rate_factor) == (5, 0.5**4)
    assert fit(resumed, "killed", Kill()) == expected
    np.testing.assert_array_equal(resumed.model.parameters, whole.model.parameters)
    assert (tmp_path / "killed.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    models = {
        name: sorted(p.name.split("-")[1] for p in tmp_path.glob(f"{name}-*")) for name in ("whole", "killed")
    }
    assert models["whole"] == models["killed"] != []
    best = expected.epoch[int(np.argmax(expected.val_accuracy))]
    np.testing.assert_array_equal(
        fn.load(tmp_path / f"whole-{best}.model").parameters, whole.model.parameters
    )


def test_a_fit_inside_a_fit_is_refused_and_ends_nothing() -> None:
    x, y = data()
    refused = []

    class Again(fn.Callback):
        def on_epoch_end(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
            with pytest.raises(RuntimeError, match="fit must not be called while fit is running"):
                trainer.fit(x, y)
            refused.append(epoch)

    assert make().fit(x, y, epochs=3, callbacks=[Again()]).epoch == refused == [1, 2, 3]
