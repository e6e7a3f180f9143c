"""Callbacks: the contract, the given ones, their files, and what happens when one fails."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fastnn as fn

Array = NDArray[Any]


def data(n: int = 60) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 4)).astype(np.float32)
    return x, (x[:, 0] + x[:, 1] > 0).astype(int) + (x[:, 2] > 1)


def make(metrics: Any = (), **given: Any) -> fn.Trainer:
    model = fn.Sequential(fn.Dense(8, "relu"), fn.Dense(3))
    return fn.Trainer(model, "cross_entropy", given.pop("optimizer", "adam"), metrics, seed=3, **given)


def scripted(values: list[float], name: str = "score", mode: str | None = "max") -> fn.metrics.Function:
    """A metric whose values are those of a list, one an epoch."""
    remaining: Iterator[float] = iter(values)
    return fn.metrics.Function(lambda y, output: next(remaining), name, mode)


class Log(fn.Callback):
    """Notes every call, in a list that several share."""

    def __init__(self, name: str, notes: list[Any]) -> None:
        self.name, self.notes = name, notes

    def note(self, *what: Any) -> None:
        self.notes.append((self.name, *what))

    def on_fit_begin(self, trainer: Any) -> None:
        assert trainer.model.is_built
        self.note("fit begin", trainer.epoch)

    def on_epoch_begin(self, trainer: Any, epoch: int) -> None:
        self.note("begin", epoch, trainer.epoch)

    def on_epoch_end(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
        assert {name: trainer.history[name][-1] for name in logs} == logs
        self.note("end", epoch, trainer.epoch)
        logs.clear()  # its own copy

    def on_checkpoint(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
        assert "loss" in logs
        self.note("checkpoint", epoch, trainer.epoch)

    def on_fit_end(self, trainer: Any) -> None:
        self.note("fit end", trainer.epoch)


# ---------------------------------------------------------------- the contract


def test_all_learn_of_an_epoch_before_the_first_saves() -> None:
    x, y = data()
    notes: list[Any] = []
    trainer = make()
    trainer.fit(x, y)
    trainer.fit(x, y, epochs=2, callbacks=(Log(name, notes) for name in "ab"))
    expected = [("a", "fit begin", 1), ("b", "fit begin", 1)]
    for epoch in (2, 3):
        expected += [(name, "begin", epoch, epoch - 1) for name in "ab"]  # type: ignore[misc]
        expected += [(name, "end", epoch, epoch) for name in "ab"]  # type: ignore[misc]
        expected += [(name, "checkpoint", epoch, epoch) for name in "ab"]  # type: ignore[misc]
    assert notes == [*expected, ("a", "fit end", 3), ("b", "fit end", 3)]
    assert trainer._callbacks == ()


def test_stop_ends_the_fit_after_the_epoch_and_keeps_the_reason() -> None:
    x, y = data()

    class StopAt(fn.Callback):
        def on_epoch_begin(self, trainer: Any, epoch: int) -> None:
            if epoch == 2:
                trainer.stop("seen enough")

    trainer = make()
    assert trainer.fit(x, y, epochs=9, callbacks=[StopAt()]).epoch == [1, 2]
    assert trainer.stop_reason == "seen enough"
    assert trainer.last_epoch == 9
    assert trainer.fit(x, y, epochs=3).epoch == [3, 4, 5]
    assert trainer.stop_reason is None
    with pytest.raises(TypeError, match="reason must be a text, got None"):
        trainer.stop(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "where", ["on_fit_begin", "on_epoch_begin", "on_epoch_end", "on_checkpoint", "on_fit_end"]
)
def test_an_error_in_a_callback_propagates_after_the_fit_ended_for_all(where: str) -> None:
    x, y = data()
    notes: list[Any] = []

    def fail(self: Any, *arguments: Any) -> None:
        raise RuntimeError(f"failed in {where}")

    failing = type("Failing", (fn.Callback,), {where: fail})()
    trainer = make()
    with pytest.raises(RuntimeError, match=f"failed in {where}"):
        trainer.fit(x, y, epochs=2, callbacks=[Log("a", notes), failing, Log("b", notes)])
    begun = ["a"] if where == "on_fit_begin" else ["a", "b"]
    assert [note[0] for note in notes if note[1] == "fit end"] == begun
    done = {"on_fit_begin": 0, "on_epoch_begin": 0, "on_fit_end": 2}.get(where, 1)
    assert trainer.epoch == len(trainer.history["loss"]) == done
    assert trainer._callbacks == ()
    assert trainer.fit(x, y).epoch == [done + 1]


def test_a_second_failure_is_a_note_on_the_first() -> None:
    x, y = data()

    class Twice(fn.Callback):
        def on_epoch_end(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
            raise KeyboardInterrupt

        def on_fit_end(self, trainer: Any) -> None:
            raise ValueError("and this")

    with pytest.raises(KeyboardInterrupt) as caught:
        make().fit(x, y, callbacks=[Twice()])
    assert caught.value.__notes__ == ["then Twice.on_fit_end failed: ValueError('and this')"]


@pytest.mark.parametrize(
    ("callbacks", "error", "text"),
    [
        (fn.EarlyStopping(), TypeError, "callbacks must be a list of callbacks, got <"),
        ("progress", TypeError, "callbacks must be a list of callbacks, got 'progress'"),
        ([fn.EarlyStopping], TypeError, r"callbacks\[0\] must be a callback.*write EarlyStopping\(\)"),
        ([fn.ProgressBar(), print], TypeError, r"callbacks\[1\] must be a fastnn\.Callback, got <built-in"),
        ([fn.EarlyStopping()], ValueError, "one of loss, got 'val_loss'; it needs validation_data"),
        ([fn.EarlyStopping("los")], ValueError, "monitor of EarlyStopping must be one of loss, got 'los'"),
        ([fn.ModelCheckpoint("a", save_best_only=True)], ValueError, "monitor of ModelCheckpoint"),
        ([fn.ModelCheckpoint("{val_loss}")], ValueError, r"fields must be of .*loss, got \{val_loss\}"),
        ([fn.ModelCheckpoint("{}")], ValueError, r"fields must be of epoch, step, loss, got \{\}"),
        ([fn.ModelCheckpoint("{epoch")], ValueError, r"path of ModelCheckpoint, '\{epoch': expected '\}'"),
        ([fn.ModelCheckpoint("{epoch:.2q}")], ValueError, "path of ModelCheckpoint"),
        ([fn.ModelCheckpoint("no-folder/a")], FileNotFoundError, "no such folder: 'no-folder'"),
    ],
)
def test_wrong_callbacks_are_named_before_anything_happens(
    callbacks: Any, error: type[Exception], text: str
) -> None:
    x, y = data()
    trainer = make()
    with pytest.raises(error, match=text):
        trainer.fit(x, y, callbacks=callbacks)
    assert not trainer.model.is_built


@pytest.mark.parametrize(
    ("act", "error", "text"),
    [
        (lambda: fn.EarlyStopping(patience=0), ValueError, "patience must be at least 1, got 0"),
        (lambda: fn.EarlyStopping(patience=1.5), TypeError, "patience must be an integer"),
        (lambda: fn.EarlyStopping(min_delta=-1), ValueError, "min_delta must be at least 0"),
        (lambda: fn.EarlyStopping(mode="mx"), ValueError, "did you mean 'max'"),
        (lambda: fn.EarlyStopping(monitor=3), TypeError, "monitor must be a name, got 3"),
        (lambda: fn.EarlyStopping(restore_best=1), TypeError, "restore_best must be True or False"),
        (lambda: fn.ReduceLROnPlateau(factor=1), ValueError, "factor must be at least 0 and below 1"),
        (lambda: fn.ReduceLROnPlateau(factor=0), ValueError, "factor must be above 0"),
        (lambda: fn.ReduceLROnPlateau(cooldown=-1), ValueError, "cooldown must be at least 0"),
        (lambda: fn.ReduceLROnPlateau(threshold_mode="x"), ValueError, "threshold_mode must be one of"),
        (lambda: fn.ModelCheckpoint(3), TypeError, "path must be a path, got 3"),
        (lambda: fn.ModelCheckpoint(""), ValueError, "path must be a text that is not empty"),
        (lambda: fn.CSVLogger("a", append="yes"), TypeError, "append must be True or False"),
    ],
)
def test_wrong_settings_are_named(act: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        act()


# ---------------------------------------------------------------- EarlyStopping


@pytest.mark.parametrize(
    ("values", "mode", "patience", "min_delta", "epochs", "best"),
    [
        ([1, 2, 3, 3, 3, 3], "max", 2, 0.0, 5, 3),
        ([3, 2, 1, 1, 1, 1], "min", 2, 0.0, 5, 3),
        ([1, 2, 2.5, 2.9, 2.9], "max", 2, 1.0, 5, 3),
        ([1, 2.1, 2.5, 3.0, 9], "max", 2, 1.0, 4, 2),
        ([math.nan, math.nan, 1, 2, 3], "max", 2, 0.0, 2, None),
        ([math.nan, 1, math.nan, 2, 3], "max", 2, 0.0, 5, 5),
        ([5, 1, 2, 3, 4], "max", 1, 0.0, 2, 1),
    ],
)
def test_early_stopping_by_hand(
    values: list[float], mode: str, patience: int, min_delta: float, epochs: int, best: int | None
) -> None:
    x, y = data()
    stopping = fn.EarlyStopping("score", patience, min_delta)
    trainer = make([scripted(values, mode=mode)])
    history = trainer.fit(x, y, epochs=len(values), callbacks=[stopping])
    assert len(history.epoch) == epochs
    assert stopping.best_epoch == best
    assert (trainer.stop_reason is not None) == (stopping.wait >= patience)


def test_the_best_parameters_come_back_however_the_fit_ended() -> None:
    x, y = data()

    class Ends(fn.Callback):
        def on_epoch_end(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
            if epoch == 4:
                raise KeyboardInterrupt

    two = make()
    two.fit(x, y, epochs=2)
    for callbacks, values in (
        ([], [1, 2, 1, 1, 1]),  # stopped
        ([], [1, 2, 1, 1]),  # all epochs done
        ([Ends()], [1, 2, 1, 1, 1, 1]),
    ):
        trainer = make([scripted(values)])
        stopping = fn.EarlyStopping("score", patience=3)
        try:
            trainer.fit(x, y, epochs=len(values), callbacks=[stopping, *callbacks])
        except KeyboardInterrupt:
            assert trainer.epoch == 4
        np.testing.assert_array_equal(trainer.model.parameters, two.model.parameters)
    other = make([scripted([1, 2, 1, 1, 1])])
    other.fit(x, y, epochs=5, callbacks=[fn.EarlyStopping("score", 3, restore_best=False)])
    five = make()
    five.fit(x, y, epochs=5)
    np.testing.assert_array_equal(other.model.parameters, five.model.parameters)


def test_early_stopping_starts_anew_in_each_fit() -> None:
    x, y = data()
    stopping = fn.EarlyStopping("score", 2)
    trainer = make([scripted([9, 1, 1, 2, 1, 1, 1])])
    assert trainer.fit(x, y, epochs=9, callbacks=[stopping]).epoch == [1, 2, 3]
    assert trainer.fit(x, y, epochs=9, callbacks=[stopping]).epoch == [4, 5, 6]
    assert (stopping.best, stopping.best_epoch) == (2, 4)
    assert trainer.stop_reason == "score has not improved for 2 epochs since epoch 4 (2)"


def test_the_way_up_or_down_is_that_of_the_metric() -> None:
    x, y = data()
    names = ["accuracy", "f1", "auc", "log_loss", "balanced_accuracy"]
    trainer = make(names)
    stopping = fn.EarlyStopping()
    for name in ("loss", *names):
        for prefix in ("", "val_"):
            stopping.monitor = prefix + name
            trainer.fit(x, y, validation_split=0.3, callbacks=[stopping])
            assert stopping._sign == (-1 if name in ("loss", "log_loss") else 1)
    unsaid = make([scripted([1, 2, 3], mode=None)])
    with pytest.raises(ValueError, match="mode of EarlyStopping must be 'min' or 'max', got None"):
        unsaid.fit(x, y, callbacks=[fn.EarlyStopping("score")])
    unsaid.fit(x, y, epochs=3, callbacks=[fn.EarlyStopping("score", 1, mode="max")])
    assert unsaid.epoch == 3


# ---------------------------------------------------------------- ReduceLROnPlateau


def test_the_rate_is_reduced_on_a_plateau() -> None:
    x, y = data()
    factors: list[float] = []

    class Watch(fn.Callback):
        def on_checkpoint(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
            factors.append(trainer.rate_factor)

    values = [1, 1, 1, 1, 1, 1, 1, 2, 2]
    plateau = fn.ReduceLROnPlateau("score", factor=0.5, patience=1, cooldown=1)
    trainer = make([scripted(values)])
    trainer.fit(x, y, epochs=9, callbacks=[Watch(), plateau])
    # By hand: 1 is the best; 2 is borne, 3 reduces; 4 cools; 5 is borne, 6 reduces; 7 cools; 8 is better.
    assert factors == [1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25]
    assert trainer.rate_factor == 0.25


def test_the_rate_does_not_fall_below_its_least() -> None:
    x, y = data()
    trainer = make([scripted([1] * 20)], optimizer=fn.SGD(lr=0.1))
    trainer.fit(x, y, epochs=20, callbacks=[fn.ReduceLROnPlateau("score", 0.5, 0, min_lr=0.03)])
    assert trainer.rate_factor * 0.1 == pytest.approx(0.03)
    trainer.rate_factor = 0.1  # below the least already: left alone
    trainer.metrics = (scripted([1] * 5),)
    trainer.fit(x, y, epochs=5, callbacks=[fn.ReduceLROnPlateau("score", 0.5, 0, min_lr=0.03)])
    assert trainer.rate_factor == 0.1


def steered(values: list[float], mode: str, **given: Any) -> list[float]:
    """The rates of a ReduceLROnPlateau alone that sees these values."""

    class Plain:
        rate_factor = 1.0

        @property
        def lr(self) -> float:
            return 0.1 * self.rate_factor

    trainer = Plain()
    plateau = fn.ReduceLROnPlateau("score", mode=mode, **given)
    plateau.judge({"score": None})
    plateau.on_fit_begin(trainer)
    rates = []
    for epoch, value in enumerate(values, 1):
        plateau.on_epoch_end(trainer, epoch, {"score": value})
        rates.append(trainer.lr)
    return rates


@pytest.mark.torch
@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"patience": 0},
        {"patience": 2, "factor": 0.5, "cooldown": 3},
        {"patience": 1, "factor": 0.3, "threshold": 0.05, "threshold_mode": "abs", "min_lr": 1e-3},
        {"patience": 1, "threshold": 0.1, "cooldown": 1, "min_lr": 2e-6},
        {"patience": 0, "factor": 0.5, "eps": 1e-3},
    ],
    ids=repr,
)
def test_rates_on_a_plateau_equal_pytorchs(mode: str, given: dict[str, Any]) -> None:
    import torch

    numbers = np.random.default_rng(0)
    values = (np.exp(-np.arange(120) / 40) + 0.02 * numbers.normal(size=120)).clip(0).tolist()
    values[7], values[30], values[31] = float("nan"), float("inf"), 0.5
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode=mode, **given)
    expected = []
    for value in values:
        scheduler.step(value)
        expected.append(optimizer.param_groups[0]["lr"])
    np.testing.assert_allclose(steered(values, mode, **given), expected, rtol=1e-12)
    assert expected[-1] < 0.1


def test_what_is_no_better_than_a_negative_best_is_no_improvement() -> None:
    assert steered([-1.0] * 4, "min", patience=2, factor=0.5) == [0.1, 0.1, 0.1, 0.05]
    rates = steered([-1.0, -1.2, -1.3, -1.3], "min", patience=0, factor=0.5, threshold=0.1)
    assert rates == [0.1, 0.1, 0.05, 0.025]


# ---------------------------------------------------------------- ModelCheckpoint


@pytest.fixture
def saves(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, Any]]:
    """What was saved, in place of the savers: kind, path, and the epoch or the parameters then."""
    kept: list[tuple[str, str, Any]] = []
    monkeypatch.setattr(
        fn.Trainer,
        "save_checkpoint",
        lambda self, path: kept.append(
            ("checkpoint", path, [getattr(one, "best", None) for one in self._callbacks])
        ),
        raising=False,
    )
    monkeypatch.setattr(
        fn.Sequential,
        "save",
        lambda self, path: kept.append(("model", path, self.parameters.copy())),
        raising=False,
    )
    return kept


def test_a_checkpoint_after_each_epoch_has_its_name(saves: list[Any]) -> None:
    x, y = data()
    checkpoint = fn.ModelCheckpoint(Path("run-{epoch:03d}-{score:.1f}.ckpt"))
    make([scripted([1, 2.26])]).fit(x, y, epochs=2, callbacks=[checkpoint])
    assert [path for _, path, _ in saves] == ["run-001-1.0.ckpt", "run-002-2.3.ckpt"]
    assert checkpoint.saved == "run-002-2.3.ckpt"


def test_only_the_best_is_saved_where_that_is_wanted(saves: list[Any]) -> None:
    x, y = data()
    checkpoint = fn.ModelCheckpoint("best-{epoch}", "score", save_best_only=True, model_only=True)
    trainer = make([scripted([1, 0, math.nan, 3, 3])])
    trainer.fit(x, y, epochs=5, callbacks=[checkpoint])
    assert [save[:2] for save in saves] == [("model", "best-1"), ("model", "best-4")]
    four = make()
    four.fit(x, y, epochs=4)
    np.testing.assert_array_equal(saves[-1][2], four.model.parameters)


@pytest.mark.parametrize("backwards", [False, True])
def test_every_state_in_a_checkpoint_is_that_of_its_epoch(saves: list[Any], backwards: bool) -> None:
    x, y = data()
    given: list[fn.Callback] = [
        fn.ModelCheckpoint("a", "score", save_best_only=True),
        fn.EarlyStopping("score"),
        fn.ModelCheckpoint("b", "score", save_best_only=True),
        fn.ReduceLROnPlateau("score"),
    ]
    make([scripted([1, 2])]).fit(x, y, epochs=2, callbacks=given[::-1] if backwards else given)
    assert [states for _, _, states in saves] == [[1] * 4, [1] * 4, [2] * 4, [2] * 4]
