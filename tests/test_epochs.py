"""Epochs in one call of the program have the bits of epochs cut into steps, and are counted as those."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import numpy as np
import pytest

import fastnn as fn
from fastnn import epochs

RNG = np.random.default_rng(0)
X = RNG.normal(size=(71, 5)).astype(np.float32)
Y = RNG.integers(0, 3, 71)
VALUES = RNG.normal(size=(71, 2)).astype(np.float32)


class Looks(fn.Callback):
    """Between epochs, and after each step."""

    def __init__(self, every: int = 1) -> None:
        self.every, self.seen = every, []  # type: tuple[int, list[tuple[int, int, float]]]

    def next_step(self, trainer: Any) -> int:
        return int(trainer.step + self.every)

    def on_epoch_end(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
        assert trainer.epoch == epoch == trainer.history.epoch[-1]
        self.seen.append((epoch, trainer.step, logs["loss"]))


def plain(dtype: str = "float32") -> fn.Trainer:
    model = fn.Sequential(fn.Dense(8, "relu"), fn.Dense(3), dtype=dtype)  # type: ignore[arg-type]
    return fn.Trainer(model, "cross_entropy", fn.Adam(0.01), seed=3)


def dropping() -> fn.Trainer:
    model = fn.Sequential(fn.Dense(8, "tanh"), fn.Dropout(0.2), fn.BatchNorm(), fn.Dense(3))
    optimizer = fn.AdamW(0.01, accumulate=2, ema=0.9, clip_norm=1.0)
    return fn.Trainer(model, fn.losses.CrossEntropy(ignore_index=2), optimizer, seed=3)


def cosine() -> fn.Trainer:
    model = fn.Sequential(fn.Dense(8, "relu"), fn.Dense(2))
    return fn.Trainer(model, "mse", fn.SGD(fn.schedules.Cosine(0.05, 30), momentum=0.9), seed=3)


CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "whole batches and a rest": (plain, Y, {"batch_size": 16}),
    "no rest": (plain, Y[:64], {"batch_size": 16}),
    "a rest of one": (plain, Y[:65], {"batch_size": 16}),
    "batches of one": (plain, Y, {"batch_size": 1}),
    "a batch larger than the rows": (plain, Y, {"batch_size": 200}),
    "all rows as one batch": (plain, Y, {"batch_size": None}),
    "rows in their order": (plain, Y, {"batch_size": 16, "shuffle": False}),
    "rows held out": (plain, Y, {"batch_size": 16, "validation_split": 0.2}),
    "weights": (plain, Y, {"batch_size": 16, "sample_weight": np.arange(71.0)}),
    "float64": (lambda: plain("float64"), Y, {"batch_size": 16}),
    "dropout, ignored labels, accumulation": (dropping, Y, {"batch_size": 16}),
    "a schedule": (cosine, VALUES, {"batch_size": 16}),
    "augmentation": (plain, Y, {"batch_size": 16, "augment": [fn.Mixup(0.4), fn.GaussianNoise(0.1)]}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_fit_that_nobody_looks_at_has_the_bits_of_one_that_is_cut_at_each_step(name: str) -> None:
    make, y, given = CASES[name]
    x, found = X[: len(y)], []
    for callbacks in ([], [fn.Callback()], [Looks()]):
        trainer = make()
        history = trainer.fit(x, y, epochs=7, callbacks=callbacks, **given)
        assert trainer.epoch == 7
        assert trainer.epoch_step == 0
        assert history.epoch == list(range(1, 8))
        assert dict(trainer.history) == dict(history)
        found.append((trainer.model.parameters.tobytes(), trainer.step, dict(history)))
    assert found[0] == found[1] == found[2]


def test_rows_of_fit_many_are_those_of_a_fit_on_them_alone() -> None:
    rows = [RNG.permutation(71)[:45], RNG.integers(0, 71, 80), None]
    many = [plain() for _ in rows]
    histories = fn.fit_many(many, X, Y, rows, epochs=9, batch_size=16)
    for one, taken, history in zip(many, rows, histories, strict=True):
        alone = plain()
        x, y = (X, Y) if taken is None else (X[taken], Y[taken])
        assert dict(alone.fit(x, y, epochs=9, batch_size=16)) == dict(history)  # type: ignore[call-overload]
        assert alone.model.parameters.tobytes() == one.model.parameters.tobytes()


def test_epochs_of_a_program_are_runs_of_its_shuffles() -> None:
    one, other = plain(), plain()
    for trainer in (one, other):
        trainer.fit(X, Y, epochs=0)
    rows = np.arange(70, 20, -1)
    sums, rates = np.full((4, 2), -1.0), np.full(4, 0.01)
    given = {"n_rows": 50, "batch": 16, "seed": 5, "epoch": 2, "rows": rows}
    done = one._program.run_epochs(X, Y, rates, sums, **given)  # type: ignore[union-attr, arg-type]
    assert 1 <= done <= 4
    assert (sums[done:] == -1).all()
    assert one.step == 4 * done
    for epoch in range(done):
        order = rows[fn.kernels.shuffle(5, 2 + epoch, 50)]
        found = other._program.run(X, Y, order[:48].reshape(3, 16), rates[:3])  # type: ignore[union-attr]
        found = other._program.run(X, Y, order[48:].reshape(1, 2), rates[:1], sums=found)  # type: ignore[union-attr]
        assert found == tuple(sums[epoch])
    assert one.model.parameters.tobytes() == other.model.parameters.tobytes()


def test_epochs_of_a_program_refuse_what_does_not_fit() -> None:
    trainer = plain()
    trainer.fit(X, Y, epochs=0)
    program: Any = trainer._program
    rates, sums = np.full(5, 0.01), np.empty((2, 2))
    with pytest.raises(ValueError, match="rates must have 5 elements, got 4"):
        program.run_epochs(X, Y, rates[:4], sums, n_rows=71, batch=16)
    with pytest.raises(ValueError, match="momenta must have 5 elements, got 2"):
        program.run_epochs(X, Y, rates, sums, n_rows=71, batch=16, momenta=rates[:2])
    with pytest.raises(ValueError, match="rows must have 71 elements, got 3"):
        program.run_epochs(X, Y, rates, sums, n_rows=71, batch=16, rows=np.arange(3))
    with pytest.raises(ValueError, match="row numbers from 0 to 70, got 71"):
        program.run_epochs(X, Y, rates, sums, n_rows=71, batch=16, rows=np.arange(1, 72))
    with pytest.raises(ValueError, match="at least 1, got 0, 16"):
        program.run_epochs(X, Y, rates, sums, n_rows=0, batch=16)
    with pytest.raises(ValueError, match=r"at least 1, got 71, 16 and \(0, 2\)"):
        program.run_epochs(X, Y, rates, np.empty((0, 2)), n_rows=71, batch=16)
    assert trainer.step == 0


@pytest.mark.parametrize(("size", "lr", "place"), [(16, 0.8, (2, 3)), (70, 0.6, (6, 2)), (1, 0.2, (1, 8))])
def test_a_loss_that_is_not_finite_ends_the_same_step_whether_looked_at_or_not(
    size: int, lr: float, place: tuple[int, int]
) -> None:
    found: list[Any] = []
    for callbacks in ([], [Looks()]):
        model = fn.Sequential(fn.Dense(8), fn.Dense(2))
        trainer = fn.Trainer(model, "mse", fn.SGD(lr), seed=0)
        with pytest.raises(fn.DivergenceError) as met, np.errstate(all="ignore"):
            trainer.fit(X, VALUES, epochs=400, batch_size=size, callbacks=callbacks)
        error = met.value
        assert error.epoch == trainer.epoch + 1
        assert len(trainer.history.epoch) == trainer.epoch
        parameters = trainer.model.parameters.tobytes()
        found.append((str(error), error.epoch, error.batch, error.step, error.loss_sum, parameters))
        found[-1] += (dict(trainer.history),)
    assert found[0] == found[1]
    assert found[0][1:3] == place


def test_a_row_that_is_not_finite_is_met_in_its_batch() -> None:
    trainer = fn.Trainer(fn.Sequential(fn.Dense(2)), "mse", "sgd", seed=0)
    trainer.fit(X, VALUES, epochs=2, batch_size=16)
    x = X.copy()
    x[70, 0] = np.inf
    with pytest.raises(fn.DivergenceError, match=r"epoch 3, batch 5 .* x itself"):
        trainer.fit(x, VALUES, epochs=9, batch_size=16, shuffle=False)
    assert trainer.history.epoch == [1, 2]
    assert trainer.epoch == 2


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_in_the_midst_of_many_epochs_keeps_those_that_were_done() -> None:
    trainer, reference = plain(), plain()

    def interrupt() -> None:
        while trainer.epoch <= 20:
            time.sleep(0.001)
        signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(X, Y, epochs=10**7, batch_size=16)
    thread.join()
    n = trainer.epoch
    assert n > 20
    assert trainer.history.epoch == list(range(1, n + 1))
    assert trainer.step // 5 == n
    reference.fit(X, Y, epochs=n, batch_size=16)
    assert trainer.history["loss"] == reference.history["loss"]
    trainer.fit(X, Y, epochs=2, batch_size=16)
    assert trainer.epoch == n + 2


def interrupted(trainer: fn.Trainer, seconds: float) -> None:
    signal.setitimer(signal.ITIMER_REAL, seconds)
    trainer.fit(X, Y, epochs=10**7, batch_size=None)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no timer of this kind")
def test_ctrl_c_at_any_moment_loses_no_epoch_that_was_done() -> None:
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for i in range(40):
            trainer = plain()
            trainer.fit(X, Y, epochs=0)
            with pytest.raises(KeyboardInterrupt):  # however long the system lets this thread wait in between
                interrupted(trainer, 0.006 + 0.0001 * i)
            assert trainer.epoch == trainer.step
            assert trainer.history.epoch == list(range(1, trainer.epoch + 1))
    finally:
        signal.signal(signal.SIGALRM, before)


def test_ctrl_c_while_many_epochs_are_counted_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    rows_of, trainer = epochs.rows_of, plain()

    def interrupted(*given: Any) -> Any:
        monkeypatch.setattr("fastnn.trainer.rows_of", rows_of)
        raise KeyboardInterrupt

    monkeypatch.setattr("fastnn.trainer.rows_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(X, Y, epochs=10**7, batch_size=16)
    assert trainer.epoch >= 1
    assert trainer.step == 5 * trainer.epoch
    assert trainer.history.epoch == list(range(1, trainer.epoch + 1))


def test_callbacks_are_called_at_each_epoch_and_may_stop_there() -> None:
    class Stops(fn.Callback):
        def __init__(self) -> None:
            self.begun: list[tuple[int, int]] = []

        def on_epoch_begin(self, trainer: fn.Trainer, epoch: int) -> None:
            self.begun.append((epoch, trainer.step))

        def on_epoch_end(self, trainer: fn.Trainer, epoch: int, logs: dict[str, float]) -> None:
            if epoch == 4:
                trainer.stop("enough")

    one, trainer = Stops(), plain()
    trainer.fit(X, Y, epochs=50, batch_size=16, callbacks=[one])
    assert one.begun == [(1, 0), (2, 5), (3, 10), (4, 15)]
    assert trainer.epoch == 4


def test_what_derives_from_a_bar_may_look_at_the_training(capsys: pytest.CaptureFixture[str]) -> None:
    class Bar(fn.ProgressBar):
        def on_epoch_end(self, trainer: fn.Trainer, epoch: int, logs: dict[str, float]) -> None:
            assert trainer.epoch == epoch
            assert trainer.step == 5 * epoch

    plain().fit(X, Y, epochs=6, batch_size=16, callbacks=[Bar()])
    plain().fit(X, Y, epochs=6, batch_size=16, progress=True)
    lines = capsys.readouterr().err
    assert "6/6" in lines


def test_a_loss_of_your_own_sees_the_epoch_that_is_running() -> None:
    seen: list[int] = []

    def loss(z: Any, y: Any, sample_weight: Any) -> tuple[float, Any]:
        seen.append(trainer.epoch)
        return float(np.mean((z - y) ** 2)), 2 * (z - y) / z.size

    trainer = fn.Trainer(fn.Sequential(fn.Dense(2)), loss, "sgd", seed=0)
    trainer.fit(X, VALUES, epochs=3, batch_size=16)
    assert seen == [epoch for epoch in range(3) for _ in range(5)]


def test_callbacks_are_asked_once_between_two_steps() -> None:
    class Asked(Looks):
        def __init__(self) -> None:
            super().__init__(every=2)
            self.asked: list[tuple[int, int]] = []

        def next_step(self, trainer: Any) -> int:
            self.asked.append((trainer.epoch, trainer.step))
            return super().next_step(trainer)

    given = Asked()
    plain().fit(X, Y, epochs=2, batch_size=16, shuffle=False, callbacks=[given])
    # An epoch has five steps; the last is of fewer rows.
    assert given.asked == [(0, 0), (0, 2), (0, 4), (1, 5), (1, 7), (1, 9)]


def test_a_callback_that_asks_for_any_time_from_now_on_holds_nobody_up() -> None:
    class Now(fn.Callback):
        """Looks after some steps, and once before a piece of the epoch that was waited for."""

        def __init__(self) -> None:
            self.seen: list[int] = []

        def next_time(self, trainer: Any) -> float:
            return time.monotonic()

        def on_step(self, trainer: Any, epoch: int) -> None:
            self.seen.append(trainer.step)
            assert self.seen.count(trainer.step) <= 2

    given, trainer = Now(), plain()
    trainer.fit(X, Y, epochs=2, batch_size=16, callbacks=[given])
    assert trainer.step == given.seen[-1] == 10
