"""Long epochs: files, limits and judgements inside them, and resumed trainings with the bits of the whole."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn as fn
from fastnn import model_checkpoint, schedules
from fastnn.callbacks import Team


def rows(n: int = 200) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 5)).astype(np.float32)
    return x, (x[:, 0] * x[:, 1] > 0).astype(np.int64)


class Killed(Exception):
    pass


class Kill(fn.Callback):
    """Ends a fit after a step, as if the process were gone; at 0 never."""

    def __init__(self, step: int = 0) -> None:
        self.step = step

    def next_step(self, trainer: Any) -> int | None:
        return self.step or None

    def on_step_checkpoint(self, trainer: Any, epoch: int) -> None:
        if trainer.step >= self.step > 0:
            raise Killed


def everything(trainer: fn.Trainer) -> dict[str, Any]:
    program = trainer._current_program()
    return {
        "parameters": trainer.model.parameters.tobytes(),
        "buffers": trainer.model.buffers.tobytes(),
        "state": program.state.tobytes(),
        "numbers": program.numbers.tobytes(),
        "counts": (trainer.epoch, trainer.step, trainer.seed, trainer.epoch_step),
        "history": (trainer.history.epoch, {name: repr(trainer.history[name]) for name in trainer.history}),
        "stop": trainer.stop_reason,
        "rate": trainer.rate_factor,
    }


def layers(norm: bool = False) -> tuple[Any, ...]:
    middle = [fn.BatchNorm()] if norm else []
    return fn.GaussianNoise(0.1), fn.Dense(7, "tanh"), *middle, fn.Dropout(0.3), fn.Dense(2)


CASES = {
    "adam, accumulated, averaged": (fn.Adam(0.01, accumulate=3, ema=0.9, clip_norm=1.0), layers(True)),
    "cycles": (fn.SGD(schedules.OneCycle(0.1, 60), momentum=0.9), layers()),
    "small": (fn.Adam(0.01, weight_decay=0.01), (fn.Dense(7, "tanh"), fn.Dense(2))),
    "own loss": (fn.RMSprop(0.01), layers()),
}


def own_loss(z: Any, y: Any, weight: Any) -> Any:
    weight = np.ones(len(z)) if weight is None else weight
    difference = z - y[:, None].astype(z.dtype)
    share = (weight / weight.sum()).astype(z.dtype)[:, None]
    return float((share * difference**2).sum()), 2 * share * difference


def make(case: str, device: str = "cpu") -> fn.Trainer:
    optimizer, net = CASES[case]
    loss = fn.losses.Custom(own_loss, takes_labels=True) if case == "own loss" else "cross_entropy"
    return fn.Trainer(fn.Sequential(*net), loss, optimizer, ["accuracy"], device=device, seed=5)


def callbacks(path: Path, kill: int, every: int = 4) -> list[fn.Callback]:
    return [
        fn.EarlyStopping(patience=50, every_steps=5),
        fn.WeightAverage(start=2),
        fn.ReduceLROnPlateau("loss", patience=0, threshold=1.0, threshold_mode="abs"),
        fn.CSVLogger(f"{path}.csv"),
        fn.ModelCheckpoint(path, every_steps=every),
        Kill(kill),
    ]


GIVEN: dict[str, Any] = {"epochs": 4, "batch_size": 13, "validation_split": 0.25}  # 12 steps an epoch


@pytest.mark.parametrize(
    ("case", "device"),
    [*((case, "cpu") for case in CASES), ("adam, accumulated, averaged", "numpy"), ("cycles", "numpy")],
)
@pytest.mark.parametrize("kill", [5, 18, 24, 35])
def test_a_fit_killed_inside_an_epoch_goes_on_to_the_same_bits(
    case: str, device: str, kill: int, tmp_path: Path
) -> None:
    x, y = rows()
    weight = np.linspace(0.5, 2, len(x))
    whole = make(case, device)
    expected = whole.fit(x, y, sample_weight=weight, callbacks=callbacks(tmp_path / "whole", 0), **GIVEN)
    path = tmp_path / "c"
    with pytest.raises(Killed):
        make(case, device).fit(x, y, sample_weight=weight, callbacks=callbacks(path, kill), **GIVEN)
    resumed = make(case, device)
    resumed.resume(path)
    at = kill // 4 * 4 if kill % 12 else kill  # at an epoch's end it was written there
    assert (resumed.step, resumed.epoch, resumed.epoch_step) == (at, at // 12, at % 12)
    again = callbacks(path, 0)
    history = resumed.fit(x, y, sample_weight=weight, callbacks=again, **GIVEN)
    assert history == expected
    assert everything(resumed) == everything(whole)
    assert again[0].judged == [(step, value) for step, value in again[0].judged if step % 5 == 0]
    assert len(again[0].judged) == 48 // 5
    assert (tmp_path / "c.csv").read_text() == (tmp_path / "whole.csv").read_text()
    assert resumed.fit(x, y, epochs=1) == whole.fit(x, y, epochs=1)


def test_where_a_fit_stops_in_between_changes_no_bit(tmp_path: Path) -> None:
    x, y = rows()
    plain, cut = make("adam, accumulated, averaged"), make("adam, accumulated, averaged")

    class Often(fn.Callback):
        def __init__(self) -> None:
            self.calls: list[tuple[int, int, int]] = []

        def next_step(self, trainer: Any) -> int | None:
            return trainer.step + 1

        def next_time(self, trainer: Any) -> float | None:
            return 0.0  # long over: a segment ends at its first step

        def on_step(self, trainer: Any, epoch: int) -> None:
            self.calls.append((epoch, trainer.epoch_step, trainer.step))

    often = Often()
    plain_history = plain.fit(x, y, epochs=2, batch_size=32)
    assert cut.fit(x, y, epochs=2, batch_size=32, callbacks=[often]) == plain_history
    assert everything(cut) == everything(plain)
    assert often.calls == [(1 + i // 7, 1 + i % 7, 1 + i) for i in range(14)]


def test_another_way_through_the_epoch_is_refused(tmp_path: Path) -> None:
    x, y = rows()
    with pytest.raises(Killed):
        make("small").fit(x, y, epochs=2, batch_size=10, callbacks=[ckpt(tmp_path), Kill(7)])
    trainer = make("small")
    trainer.resume(tmp_path / "c")
    before = everything(trainer)
    with pytest.raises(
        ValueError, match="epoch 1 after its step 7 as it was begun, but batch_size was 10 and is 5"
    ):
        trainer.fit(x, y, epochs=2, batch_size=5, callbacks=[ckpt(tmp_path), Kill()])
    with pytest.raises(ValueError, match="rows was 200 and is 100; shuffle was True and is False"):
        trainer.fit(x[:100], y[:100], batch_size=10, shuffle=False, callbacks=[ckpt(tmp_path), Kill()])
    assert everything(trainer) == before
    trainer.save_checkpoint(tmp_path / "again")  # nothing of it is lost meanwhile
    other = make("small")
    other.resume(tmp_path / "again")
    assert everything(other) == before


def test_a_callback_that_fails_at_the_begin_of_a_resumed_fit_takes_nothing_of_it(tmp_path: Path) -> None:
    x, y = rows()
    whole = make("small")
    whole.fit(x, y, callbacks=callbacks(tmp_path / "whole", 0), **GIVEN)
    with pytest.raises(Killed):
        make("small").fit(x, y, callbacks=callbacks(tmp_path / "c", 20), **GIVEN)
    trainer = make("small")
    trainer.resume(tmp_path / "c")
    before = everything(trainer)
    again = callbacks(tmp_path / "c", 0)
    again[-1].load_state_dict = None  # type: ignore[assignment,method-assign]
    with pytest.raises(TypeError):
        trainer.fit(x, y, callbacks=again, **GIVEN)
    assert everything(trainer) == before
    trainer.fit(x, y, callbacks=callbacks(tmp_path / "c", 0), **GIVEN)
    assert everything(trainer) == everything(whole)


def ckpt(folder: Path, **given: Any) -> fn.ModelCheckpoint:
    return fn.ModelCheckpoint(folder / "c", **{"every_steps": 1, **given})


# ---------------------------------------------------------------- time


class Later:
    """A clock that can be put forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds, real = 0.0, time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: real() + self.seconds)


def test_a_time_limit_ends_at_a_step_and_the_file_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = rows(20000)
    clock = Later(monkeypatch)
    whole, limited = make("cycles"), make("cycles")
    given: dict[str, Any] = {"epochs": 3, "batch_size": 4}

    class Slow(fn.Callback):
        """Takes an hour at step 7000, in the second epoch."""

        def next_step(self, trainer: Any) -> int | None:
            return 7000 if trainer.step < 7000 else None

        def on_step(self, trainer: Any, epoch: int) -> None:
            clock.seconds += 3600

    slow = Slow()
    expected = whole.fit(x, y, callbacks=[slow, fn.ModelCheckpoint(tmp_path / "w")], **given)
    history = limited.fit(
        x, y, callbacks=[slow, fn.ModelCheckpoint(tmp_path / "c")], time_limit=3600, **given
    )
    assert "the time limit of 3600 s is over in epoch 2, step " in str(limited.stop_reason)
    assert history.epoch == [1]
    assert limited.epoch == 1
    resumed = make("cycles")
    resumed.resume(tmp_path / "c")
    assert resumed.step == limited.step
    assert 7000 <= resumed.step < 10_000
    assert resumed.epoch_step == resumed.step - 5000
    assert resumed.stop_reason is None
    assert resumed.fit(x, y, callbacks=[slow, fn.ModelCheckpoint(tmp_path / "c")], **given) == expected
    assert everything(resumed) == everything(whole)


@pytest.mark.parametrize("device", ["cpu", "numpy"])
def test_the_clock_is_looked_at_every_few_steps(device: str) -> None:
    x, y = rows(50_000)
    net = fn.Sequential(fn.Dense(1000), fn.Dense(500), fn.Dense(2))
    trainer = fn.Trainer(net, "cross_entropy", "sgd", device=device, seed=0)
    begin = time.perf_counter()
    trainer.fit(x, y, epochs=10**6, batch_size=1, time_limit=0.2)
    assert time.perf_counter() - begin >= 0.2
    assert 0 < trainer.step < 50_000  # an epoch takes many seconds
    trainer.fit(x[:500], y[:500], batch_size=50)  # another fit begins with a whole epoch
    assert trainer.epoch_step == 0
    with pytest.raises(ValueError, match="time_limit must be"):
        trainer.fit(x, y, time_limit=-1)


def test_a_limit_that_is_over_between_epochs_is_no_end_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = rows()
    clock = Later(monkeypatch)

    class Slow(fn.Callback):
        def on_epoch_end(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
            clock.seconds += 3600

    trainer = make("small")
    trainer.fit(x, y, epochs=3, callbacks=[Slow(), fn.ModelCheckpoint(tmp_path / "c")], time_limit=3600)
    assert trainer.stop_reason == "the time limit of 3600 s is over after epoch 1"
    resumed = make("small")
    resumed.resume(tmp_path / "c")
    assert (resumed.stop_reason, resumed.epoch) == (None, 1)
    assert trainer.out_of_time
    assert not resumed.out_of_time
    trainer.fit(x, y)
    assert not trainer.out_of_time


def test_minutes_are_those_since_the_last_file(tmp_path: Path) -> None:
    x, y = rows(4000)
    checkpoint = fn.ModelCheckpoint(tmp_path / "{step}", every_minutes=0.1 / 60)
    make("cycles").fit(x, y, epochs=1, batch_size=1, callbacks=[checkpoint])
    written = sorted(int(name) for name in os.listdir(tmp_path))
    assert written[-1] == 4000
    assert all(later - one >= 1 for one, later in itertools.pairwise(written))


# ---------------------------------------------------------------- early stopping by steps


def test_early_stopping_judges_by_steps_and_restores_the_best_of_them() -> None:
    x, y = rows()
    trainer = make("small")
    stop = fn.EarlyStopping("val_accuracy", patience=2, every_steps=3, min_delta=0.5)
    history = trainer.fit(x, y, epochs=9, batch_size=10, validation_split=0.25, callbacks=[stop])
    assert [step for step, _ in stop.judged] == [3, 6, 9]
    assert trainer.step == 9
    assert trainer.stop_reason is not None
    assert "val_accuracy has not improved for 2 times of 3 steps since step 3" in trainer.stop_reason
    assert history.epoch == []
    alone = make("small")
    alone.fit(x, y, epochs=9, batch_size=10, validation_split=0.25, callbacks=[Halt(3)])
    assert alone.model.parameters.tobytes() == trainer.model.parameters.tobytes()
    with pytest.raises(ValueError, match="monitor of EarlyStopping must be of the validation rows"):
        fn.EarlyStopping("loss", every_steps=3)


class Halt(fn.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def next_step(self, trainer: Any) -> int | None:
        return self.step

    def on_step(self, trainer: Any, epoch: int) -> None:
        trainer.stop("here", now=True)


def test_a_stop_at_the_last_step_of_an_epoch_ends_the_epoch() -> None:
    x, y = rows()
    for step, epochs, rest in ((20, 1, 20), (21, 1, 21), (19, 0, 19)):
        trainer = make("small")
        history = trainer.fit(x, y, epochs=9, batch_size=10, callbacks=[Halt(step)])
        assert (len(history.epoch), trainer.step) == (epochs, rest)


def test_a_training_that_stopped_inside_an_epoch_stays_stopped(tmp_path: Path) -> None:
    x, y = rows()
    first = make("small")
    first.fit(x, y, epochs=9, batch_size=10, callbacks=[Halt(7), fn.ModelCheckpoint(tmp_path / "c")])
    again = make("small")
    again.resume(tmp_path / "c")
    history = again.fit(
        x, y, epochs=9, batch_size=10, callbacks=[Halt(7), fn.ModelCheckpoint(tmp_path / "c")]
    )
    assert history.epoch == []
    assert again.model.parameters.tobytes() == first.model.parameters.tobytes()


def test_validation_rows_are_measured_once_a_step_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = rows()
    trainer = make("small")
    measured: list[int] = []
    found = trainer._measured
    monkeypatch.setattr(trainer, "_measured", lambda *a: (measured.append(trainer.step), found(*a))[1])
    trainer.metrics = ()
    stops = [fn.EarlyStopping(patience=99, every_steps=n) for n in (5, 10)]
    trainer.fit(x, y, epochs=1, batch_size=10, validation_data=(x, y), callbacks=stops)
    assert measured == [5, 10, 15, 20]
    with pytest.raises(RuntimeError, match="while a fit with validation rows is running"):
        trainer.validate()


# ---------------------------------------------------------------- files


def test_the_newest_files_are_kept_and_the_best(tmp_path: Path) -> None:
    x, y = rows()

    values = iter([0.5, 0.9, 0.1, 0.2, 0.3])

    def score(y: Any, z: Any) -> float:
        return next(values)

    trainer = fn.Trainer(fn.Sequential(fn.Dense(2)), "cross_entropy", "adam", [score], seed=0)
    checkpoint = fn.ModelCheckpoint(
        tmp_path / "{epoch}-{step}", "score", mode="max", every_steps=3, keep=2, keep_best=True
    )
    trainer.fit(x, y, epochs=5, batch_size=50, callbacks=[checkpoint])
    # 4 steps an epoch, so files after 3, 4, 6, 8, 9, 12, 15, 16, 18, 20; the best epoch is the second
    assert sorted(os.listdir(tmp_path)) == ["2-8", "5-18", "5-20"]
    assert checkpoint.saved == str(tmp_path / "5-20")


def test_a_resumed_fit_takes_away_what_the_killed_one_left(tmp_path: Path) -> None:
    x, y = rows()
    given: dict[str, Any] = {"epochs": 2, "batch_size": 10}

    def files() -> fn.ModelCheckpoint:
        return fn.ModelCheckpoint(tmp_path / "{step:02d}", every_steps=4, keep=2)

    with pytest.raises(Killed):
        make("small").fit(x, y, callbacks=[files(), Kill(17)], **given)
    assert sorted(os.listdir(tmp_path)) == ["12", "16"]
    (tmp_path / "08").write_bytes((tmp_path / "12").read_bytes())  # killed before it was taken away
    trainer = make("small")
    trainer.resume(tmp_path / "16")
    trainer.fit(x, y, callbacks=[files(), Kill()], **given)
    assert sorted(os.listdir(tmp_path)) == ["36", "40"]
    (tmp_path / "32").write_bytes((tmp_path / "36").read_bytes())  # killed after the last file
    trainer = make("small")
    trainer.resume(tmp_path / "40")
    trainer.fit(x, y, callbacks=[files(), Kill()], **given)
    assert sorted(os.listdir(tmp_path)) == ["36", "40"]


def test_the_best_by_steps_alone(tmp_path: Path) -> None:
    x, y = rows()
    checkpoint = fn.ModelCheckpoint(
        tmp_path / "{step}", "val_loss", save_best_only=True, every_steps=3, keep=1
    )
    stop = fn.EarlyStopping(patience=99, every_steps=3, restore_best=True)
    trainer = make("small")
    trainer.fit(x, y, epochs=2, batch_size=10, validation_data=(x, y), callbacks=[checkpoint, stop])
    (name,) = os.listdir(tmp_path)
    best = make("small")
    best.resume(tmp_path / name)
    assert best.evaluate(x, y)["loss"] == checkpoint.best
    assert checkpoint.best is not None
    assert stop.best is not None
    assert checkpoint.best <= stop.best  # the ends of epochs count, too
    with pytest.raises(ValueError, match="every_minutes must be None with save_best_only"):
        fn.ModelCheckpoint("a", save_best_only=True, every_minutes=1)
    with pytest.raises(ValueError, match="every_minutes must be above 0"):
        fn.ModelCheckpoint("a", every_minutes=0)


def test_training_goes_on_while_a_file_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = rows()
    released, real = threading.Event(), model_checkpoint.checkpoints.saving.write

    def slow(*given: Any) -> None:
        assert threading.current_thread().name == "fastnn-checkpoint"
        assert released.wait(30)
        real(*given)

    class Release(fn.Callback):
        def next_step(self, trainer: Any) -> int | None:
            return 15

        def on_step(self, trainer: Any, epoch: int) -> None:
            assert not (tmp_path / "c").exists()
            released.set()
            monkeypatch.setattr(model_checkpoint.checkpoints.saving, "write", real)

    monkeypatch.setattr(model_checkpoint.checkpoints.saving, "write", slow)
    trainer = make("small")
    checkpoint = fn.ModelCheckpoint(tmp_path / "c", every_steps=10)
    trainer.fit(x, y, epochs=1, batch_size=10, callbacks=[checkpoint, Release()])
    assert released.is_set()
    assert (tmp_path / "c").exists()


def test_a_full_disk_is_one_clear_error_and_older_files_stay(tmp_path: Path) -> None:
    x, y = rows()
    trainer = make("small")
    size: list[int] = []

    class Fill(fn.Callback):
        """No file may grow beyond a few bytes from step 6 on."""

        def next_step(self, trainer: Any) -> int | None:
            return 6

        def on_step(self, trainer: Any, epoch: int) -> None:
            checkpoint._writer.wait()
            size.append((tmp_path / "4").stat().st_size)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    checkpoint = fn.ModelCheckpoint(tmp_path / "{step}", every_steps=4, keep=1)
    try:
        with pytest.raises(OSError, match=r"File too large: '.*/8'"):
            trainer.fit(x, y, epochs=1, batch_size=10, callbacks=[checkpoint, Fill()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(tmp_path) == ["4"]  # whole, and no rest of the other
    assert (tmp_path / "4").stat().st_size == size[0]
    resumed = make("small")
    resumed.resume(tmp_path / "4")
    assert resumed.step == 4
    assert trainer.step >= 8
    trainer.fit(x, y, callbacks=[fn.ModelCheckpoint(tmp_path / "5")])  # goes on where there is room
    assert (tmp_path / "5").exists()


def test_what_asks_for_nothing_costs_one_call_an_epoch() -> None:
    team = Team((fn.EarlyStopping(), fn.Callback()))
    assert team.asked(None) == (float("inf"), float("inf"))


def test_a_stop_between_two_fits_does_not_end_the_next() -> None:
    x, y = np.ones((40, 3), np.float32), np.zeros(40, np.int64)
    one = fn.Trainer(fn.Sequential(fn.Dense(2)), "cross_entropy", fn.SGD(0.1), seed=0)
    one.fit(x, y, batch_size=16)
    one.stop("too late", now=True)
    history = one.fit(x, y, batch_size=16, epochs=2)
    assert len(history["loss"]) == 2
    assert one.stop_reason is None
