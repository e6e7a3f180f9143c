"""Trainers on one card, whose steps are launched together, with a stand-in for CuPy. Needs no card."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from typing import Any

import cuda_on_cpu
import numpy as np
import pytest
from cuda_stand_in import StandIn, put_in

import fastnn as fn
from fastnn import many
from fastnn.devices import cuda_persistent
from fastnn.devices.gangs import Gang, Task, current

N = 120
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, 9)).astype(np.float32)
Y = RNG.integers(0, 4, N)
FIT: dict[str, Any] = {"epochs": 3, "batch_size": 16, "progress": False}

needs_compiler = pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="needs a C++ compiler")


@pytest.fixture(autouse=True)
def card(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """A machine with two cards, whose arrays nobody takes for NumPy's."""
    return put_in(monkeypatch, n_cards=2, shared_bytes=227 << 10)


@pytest.fixture
def gangs(monkeypatch: pytest.MonkeyPatch) -> list[Gang]:
    """All gangs of the test."""
    found: list[Gang] = []

    def made(shared: Sequence[Any]) -> Gang:
        found.append(Gang(shared))
        return found[-1]

    monkeypatch.setattr(many, "Gang", made)
    return found


def one(i: int, device: str = "cuda") -> fn.Trainer:
    """Nets of several shapes, optimizers and rates."""
    net = [
        [fn.Dense(13, activation="relu"), fn.Dense(4)],
        [fn.Dense(17, activation="tanh"), fn.Dropout(0.2), fn.Dense(4)],
        [fn.Dense(4)],
        [fn.Scale(0.5), fn.Dense(8, activation="gelu"), fn.Dense(6, activation="silu"), fn.Dense(4)],
    ][i % 4]
    optimizer = [fn.Adam(0.01), fn.SGD(0.1, momentum=0.9), fn.AdamW(0.02, clip_norm=1.0)][i % 3]
    return fn.Trainer(fn.Sequential(*net), "cross_entropy", optimizer, seed=i, device=device)


def assert_same(theirs: fn.Trainer, ours: fn.Trainer) -> None:
    assert ours.history.keys() == theirs.history.keys()
    for name, values in theirs.history.items():
        assert ours.history[name] == values
    np.testing.assert_array_equal(ours.model.parameters, theirs.model.parameters)
    assert ours.step == theirs.step


# ---------------------------------------------------------------- the coroutines alone


def test_a_gang_launches_when_all_who_are_alive_have_come() -> None:
    gang, launched, inside = Gang(), [], []

    def launcher(tasks: Sequence[Task]) -> float:
        launched.append(sorted(task.table for task in tasks))
        return 0.5

    def work(i: int) -> None:
        with gang.member():
            inside.append(i)
            assert current() is gang
            assert len(inside) == 1
            for _ in range(i + 1):
                inside.clear()
                each, n_together = gang.submit(Task(i, 10, 0), launcher)
                assert (each, n_together) == (0.05, len(launched[-1]))
                inside.append(i)
                time.sleep(0.001)
                assert inside == [i]  # nobody else was at work
            inside.clear()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    with gang.closed(4):
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join(60)
    assert launched == [[0, 1, 2, 3], [1, 2, 3], [2, 3], [3]]
    assert (gang.n_launches, gang.n_tasks) == (4, 10)
    assert current() is None


def test_what_a_launch_raises_all_of_it_raise() -> None:
    gang, met = Gang(), []

    def launcher(tasks: Sequence[Task]) -> float:
        raise ValueError("no card any more")

    def work() -> None:
        with gang.member():
            try:
                gang.submit(Task(0, 1, 0), launcher)
            except ValueError as error:
                met.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(3)]
    with gang.closed(3):
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join(60)
    assert met == ["no card any more"] * 3


# ---------------------------------------------------------------- trainings


class Broken(fn.Callback):
    def on_epoch_end(self, trainer: Any, epoch: int, logs: Any) -> None:
        if epoch == 2:
            raise RuntimeError("mine")


@needs_compiler
@pytest.mark.parametrize("sizes", [(1,), (1, 2)], ids=["blocks", "clusters"])
def test_trainers_of_all_kinds_have_the_bits_that_each_has_alone(
    sizes: tuple[int, ...], gangs: list[Gang], card: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = 8
    monkeypatch.setattr(cuda_persistent, "SIZES", sizes)
    rows = [None, np.arange(90), np.arange(N) % 3 > 0, None, None, np.arange(5, 70), None, None]
    by_trainer: dict[str, Any] = {
        "epochs": [3, 2, 4, 3, 1, 6, 3, 3],
        "batch_size": [16, 7, 16, 5, 16, 16, 120, None],
        "validation_split": [0.2, 0.0, 0.0, 0.3, 0.0, 0.2, 0.0, 0.0],
        "callbacks": lambda i: [fn.EarlyStopping(patience=1, min_delta=10.0)] if i == 5 else [],
    }
    ours = [one(i) for i in range(n)]
    # The last one, with all rows in a batch, is too large for a block: it is captured, while the others wait,
    # or a cluster does it together with them.
    monkeypatch.setattr(cuda_persistent, "MOST_FLOPS", cuda_persistent.flops(_steps(7), N) - 1)
    sent: list[int] = []
    asarray = StandIn.asarray

    def counted(value: Any, dtype: Any = None) -> Any:
        sent.append(getattr(value, "nbytes", 0))
        return asarray(value, dtype)

    monkeypatch.setattr(card, "asarray", counted, raising=False)
    fn.fit_many(ours, X, Y, rows, on_error="raise", progress=False, **by_trainer)
    assert sent.count(X.nbytes) == 1
    (gang,) = gangs
    assert gang.n_tasks > 2 * gang.n_launches
    assert [trainer._program._captured is not None for trainer in ours] == [False] * 7 + [len(sizes) == 1]
    for i in range(n):
        alone = one(i)
        given = {name: value(i) if callable(value) else value[i] for name, value in by_trainer.items()}
        part = slice(None) if rows[i] is None else rows[i]
        alone.fit(X[part], Y[part], progress=False, **given)
        assert_same(alone, ours[i])
    assert len(ours[5].history["loss"]) < 6


def _steps(i: int) -> Any:
    trainer = one(i)
    trainer.model.build(9)
    return trainer.model.steps


@needs_compiler
@pytest.mark.filterwarnings("ignore:3 of 5 trainers failed:RuntimeWarning")
def test_one_that_fails_stops_no_other(gangs: list[Gang]) -> None:
    ours = [one(i) for i in range(5)]
    ours[4] = fn.Trainer(
        fn.Sequential(fn.Dense(9), fn.Dense(4)), "cross_entropy", fn.SGD(1e30), device="cuda"
    )
    given: Any = {**FIT, "callbacks": lambda i: [Broken()] if i == 1 else []}
    given["batch_size"] = [16, 16, -1, 16, 16]
    found = fn.fit_many(ours, X, Y, **given)
    assert [type(one).__name__ for one in found] == [
        "History",
        "RuntimeError",
        "ValueError",
        "History",
        "DivergenceError",
    ]
    for i in (0, 3):
        alone = one(i)
        alone.fit(X, Y, **FIT)
        assert_same(alone, ours[i])
    assert gangs[0].n_tasks > 2 * gangs[0].n_launches


@needs_compiler
@pytest.mark.parametrize("n_workers", [1, 3])
def test_so_many_at_a_time(n_workers: int, gangs: list[Gang]) -> None:
    ours = [one(i) for i in range(5)]
    fn.fit_many(ours, X, Y, n_workers=n_workers, on_error="raise", **FIT)
    assert len(gangs) == (n_workers > 1)
    for i, trainer in enumerate(ours):
        alone = one(i)
        alone.fit(X, Y, **FIT)
        assert_same(alone, trainer)


@needs_compiler
def test_cross_validation_and_grids_are_launched_together(gangs: list[Gang]) -> None:
    found = [
        fn.cross_validate(lambda: one(1), X, Y, folds=4, n_workers=n, epochs=2, progress=False)
        for n in (None, 1)
    ]
    assert found[0]["loss"] == found[1]["loss"]
    assert gangs[0].n_tasks == 4 * gangs[0].n_launches

    def make(width: int) -> fn.Trainer:
        model = fn.Sequential(fn.Dense(width), fn.Dense(4))
        return fn.Trainer(model, "cross_entropy", "sgd", device="cuda", seed=0)

    given = {"width": [3, 20], "batch_size": [8, 30]}
    tables = [fn.grid(make, given, X, Y, folds=2, n_workers=n, progress=False) for n in (None, 1)]
    assert tables[0]["loss"] == tables[1]["loss"]
    assert gangs[1].n_tasks > 2 * gangs[1].n_launches


@needs_compiler
def test_ctrl_c_stops_all(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = [one(i) for i in range(4)]
    seen = itertools.count()

    class Stops(fn.Callback):
        def on_epoch_end(self, trainer: Any, epoch: int, logs: Any) -> None:
            if next(seen) == 20:
                raise SystemExit(3)

    with pytest.raises(SystemExit):
        fn.fit_many(ours, X, Y, epochs=10**6, batch_size=16, progress=False, callbacks=lambda i: [Stops()])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fastnn-fit")]
    for trainer in ours:
        assert np.isfinite(trainer.model.parameters).all()
        assert 0 < trainer.step < 10**6


@needs_compiler
def test_trainers_of_several_devices_come_one_after_the_other(gangs: list[Gang]) -> None:
    for devices in (("cpu", "cuda"), ("cuda", "cuda:1")):
        trainers = [one(i, device) for i, device in enumerate(devices)]
        with pytest.raises(ValueError, match="n_workers must be 1 where a trainer has device 'cuda' and not"):
            fn.fit_many(trainers, X, Y, n_workers=2, **FIT)
        fn.fit_many(trainers, X, Y, on_error="raise", **FIT)
    fn.fit_many([one(0, "cuda"), one(1, "cuda:0")], X, Y, on_error="raise", **FIT)
    assert len(gangs) == 1
