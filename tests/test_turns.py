"""The last trainings of several take turns: none ends late and alone, and no more compute than may."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

import fastnn as fn
from fastnn import kernels, workers

RNG = np.random.default_rng(0)
X = RNG.normal(size=(640, 64)).astype(np.float32)
Y = RNG.integers(0, 10, 640)


class Times(fn.Callback):
    """When a training began and ended."""

    begun = ended = 0.0

    def on_fit_begin(self, trainer: Any) -> None:
        self.begun = time.perf_counter()

    def on_fit_end(self, trainer: Any) -> None:
        self.ended = time.perf_counter()


def trainers(n: int) -> list[fn.Trainer]:
    layers = [(fn.Dense(64, "relu"), fn.Dense(10)) for _ in range(n)]
    return [fn.Trainer(fn.Sequential(*of), "cross_entropy", "adam", seed=i) for i, of in enumerate(layers)]


def test_the_last_of_three_begins_before_one_of_the_others_has_ended() -> None:
    begun: list[Any] = []

    class UntilAllHaveBegun(fn.Callback):
        def on_fit_begin(self, trainer: Any) -> None:
            begun.append(trainer)

        def on_epoch_end(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
            if len(begun) == 3:
                trainer.stop("all have begun")

    found, most = trainers(3), 20_000  # many seconds
    fn.fit_many(
        found, X, Y, epochs=most, n_workers=2, callbacks=lambda i: [UntilAllHaveBegun()], progress=False
    )
    assert all(one.stop_reason == "all have begun" and one.epoch < most for one in found)
    for one, alone in zip(found, trainers(3), strict=True):
        alone.fit(X, Y, epochs=one.epoch)
        assert one.model.parameters.tobytes() == alone.model.parameters.tobytes()


def test_one_worker_takes_one_after_the_other() -> None:
    times = [Times() for _ in range(3)]
    given: Any = [[one] for one in times]
    fn.fit_many(trainers(3), X, Y, epochs=3, n_workers=1, callbacks=given, progress=False)
    assert times[0].ended <= times[1].begun
    assert times[1].ended <= times[2].begun


def test_one_that_fails_gives_its_turn_to_others() -> None:
    class Fails(fn.Callback):
        def on_epoch_end(self, trainer: fn.Trainer, epoch: int, logs: dict[str, float]) -> None:
            raise OSError("full")

    with pytest.warns(RuntimeWarning, match="3 of 5 trainers failed"):
        histories = fn.fit_many(
            trainers(5), X, Y, epochs=40, n_workers=2, callbacks=lambda i: [Fails()] * (i not in (1, 4))
        )
    assert [isinstance(one, OSError) for one in histories] == [True, False, True, True, False]


def test_turns_are_for_so_many_and_come_in_the_order_of_waiting() -> None:
    turns, order, at_work = workers._Turns(1), [], 0
    turns.take(kernels.Reins())

    def work(number: int) -> None:
        nonlocal at_work
        turns.take(kernels.Reins())
        at_work += 1
        assert at_work == 1
        order.append(number)
        at_work -= 1
        turns.give()

    threads = []
    for i in range(4):
        threads.append(threading.Thread(target=work, args=(i,)))
        threads[-1].start()
        while len(turns._waiting) <= i:
            time.sleep(0.0005)
    assert turns.are_wanted
    turns.give()
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3]
    assert not turns.are_wanted


def test_who_waits_for_a_turn_hears_that_it_is_to_stop() -> None:
    turns, reins, met = workers._Turns(1), kernels.Reins(), []

    def work() -> None:
        try:
            turns.take(reins)
        except KeyboardInterrupt:
            met.append(True)

    turns.take(kernels.Reins())
    thread = threading.Thread(target=work)
    thread.start()
    while not turns.are_wanted:
        time.sleep(0.0005)
    reins.stop()
    thread.join()
    assert met == [True]
    assert not turns.are_wanted
    turns.give()
    turns.take(kernels.Reins())  # nobody else has it


def test_a_time_limit_is_not_spent_on_waiting_for_turns() -> None:
    found, times = trainers(3), [Times() for _ in range(3)]
    given: Any = [[one] for one in times]
    fn.fit_many(
        found, X, Y, epochs=10**6, n_workers=2, time_limit=0.1, callbacks=given, progress=False, batch_size=64
    )
    assert all(one.stop_reason is not None for one in found)
    ended = sorted(one.ended for one in times)
    assert max(one.begun for one in times) >= ended[0]  # the third one began when another had ended


def test_a_turn_is_waited_for_where_no_file_may_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(workers.os, "pipe", refused)
    test_the_last_of_three_begins_before_one_of_the_others_has_ended()
    test_who_waits_for_a_turn_hears_that_it_is_to_stop()
