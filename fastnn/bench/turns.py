"""A cell from start to figures: contenders made and checked, their best ways found, then rounds in turn."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..demo import NumpyNetwork
from .cells import LR, Array, Cell, data, order, parameters
from .judge import Sample, Timing, judge
from .peers import PEERS
from .processes import PeerError, Worker

__all__ = [
    "QUICK",
    "TOLERANCES",
    "Contender",
    "Plan",
    "Result",
    "about",
    "measure",
    "measure_adam",
    "reference",
    "rounds",
]

# Gives a context in which nobody else is at work.
Alone = Callable[[], contextlib.AbstractContextManager[object]]

# Largest error against float64 that is still taken. Training: of each array, in units of the change that
# training made to it (root mean squares); float32 weights carry roundings of 6e-8 of the weight, which is up
# to 1e-3 of a small change, and a unit on the other side of its ReLU up to 1e-2 of a narrow array; a rate or
# a mean that is wrong by some hundredths is found. Predictions: of the largest output.
TOLERANCES = {"train": 2e-2, "predict": 1e-5}


@dataclass(frozen=True)
class Plan:
    """How long things are timed: seconds of a sample, rounds, and those of the heats before."""

    seconds: float = 0.1
    rounds: int = 11
    heat_seconds: float = 0.03
    heats: int = 3
    # A call that takes this much is sampled in fewer rounds: three of them are steady enough.
    long_call: float = 0.15

    def rounds_for(self, call_seconds: float) -> int:
        """Rounds of a cell whose slowest contender takes so long for one call."""
        return self.rounds if call_seconds < self.long_call else max(3, self.rounds // 3)


QUICK = Plan(seconds=0.002, rounds=2, heat_seconds=0.002, heats=1, long_call=0.02)


@dataclass
class Contender:
    """A peer with one way and one number of threads, ready to be timed."""

    worker: Worker
    way: str
    name: str
    calls: int = 1

    @property
    def label(self) -> str:
        """As ``np.dot, 2 threads``."""
        return f"{self.way}, {self.worker.threads} thread{'s' * (self.worker.threads > 1)}"

    def make(self, cell: Cell, reference: str) -> None:
        """Have it made and compared; its worker's answer is the error."""
        command = {"cell": cell.to_json(), "way": self.way, "reference": reference, "name": self.name}
        self.worker.send("make", **command)

    def sample(self) -> Sample:
        """One turn; the process sleeps again when this returns."""
        before = self.worker.scheduled()
        found = self.worker.ask("sample", name=self.name, calls=self.calls)
        after = self.worker.scheduled()
        if not self.worker.wait_asleep():
            raise PeerError("its threads keep running between its turns, and would slow the others")
        lost = None if before is None or after is None else max(0.0, after[1] - before[1])
        return Sample(**found, lost=lost)


@dataclass
class Result:
    """Figures of one cell: by key of the peer."""

    cell: Cell
    timings: dict[str, Timing] = field(default_factory=dict)
    ways: dict[str, str] = field(default_factory=dict)
    heats: dict[str, dict[str, float]] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def reference(cell: Cell) -> Array:
    """Weights after the checked steps, or outputs, in float64: what every contender is held against."""
    x, y = data(cell)
    network = NumpyNetwork(cell.sizes, loss=cell.loss, batch=cell.batch, lr=LR, dtype="float64")
    start = parameters(cell).astype(np.float64)
    if cell.kind == "predict":
        network.parameters[:] = start
        return network.predict(x.astype(np.float64)).copy()
    if cell.optimizer == "adam":
        return _adam(cell, network, start, x, y)
    network.parameters[:] = start
    network.run(x.astype(np.float64), y if cell.loss == "cross_entropy" else y.astype(np.float64),
                order(cell, cell.checked_steps))  # fmt: skip
    return network.parameters


def _adam(cell: Cell, network: NumpyNetwork, w: Array, x: Array, y: Array) -> Array:
    """Steps of Adam (PyTorch's defaults) from gradients that single SGD steps of the network show."""
    x, y = x.astype(np.float64), y if cell.loss == "cross_entropy" else y.astype(np.float64)
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, rows in enumerate(order(cell, cell.checked_steps), start=1):
        network.parameters[:] = w
        network.run(x, y, rows[None])
        g = (w - network.parameters) / LR
        m += 0.1 * (g - m)
        v += 0.001 * (g * g - v)
        w = w - LR / 10 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return w


def rounds(
    contenders: dict[str, Contender],
    count: int,
    refused: dict[str, str],
    between: Callable[[], object] = lambda: None,
) -> dict[str, list[Sample]]:
    """Samples of all in turn; each round starts with another one. Who breaks is noted and left out.

    `between` is called after every round.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in contenders}
    for number in range(count):
        names = list(samples)
        turn = number % max(1, len(names))
        for name in names[turn:] + names[:turn]:
            try:
                samples[name].append(contenders[name].sample())
            except PeerError as error:
                refused[f"{name}, {contenders[name].label}"] = str(error)
                del samples[name]
        between()
    return samples


def _made(cell: Cell, workers: list[Worker], result: Result) -> dict[str, list[Contender]]:
    """Contenders by peer that gave the reference's result; processes make theirs side by side."""
    found: dict[str, list[Contender]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "reference.npy"))
        np.save(path, reference(cell))
        waiting: dict[Worker, list[Contender]] = {}
        for worker in workers:
            try:
                worker.revive()
                ways = worker.ask("ways", cell=cell.to_json())
                waiting[worker] = [Contender(worker, way, f"{cell.name} {way}") for way in ways]
            except PeerError as error:
                result.refused[worker.key] = str(error)
        while any(waiting.values()):
            wave = [contenders.pop(0) for contenders in waiting.values() if contenders]
            for contender in wave:
                with contextlib.suppress(PeerError):  # its answer will say so
                    contender.make(cell, path)
            for contender in wave:
                _judged(cell, contender, result, found)
    for worker in workers:
        worker.wait_asleep()
    return found


def _judged(cell: Cell, contender: Contender, result: Result, found: dict[str, list[Contender]]) -> None:
    """Take a contender in, or say why it is refused."""
    key, limit = contender.worker.key, TOLERANCES[cell.kind]
    try:
        error = contender.worker.answer()["error"]
        if not error <= limit:  # NaN is an error too
            contender.worker.ask("drop", name=contender.name)
            why = f"differs from the float64 reference by {error:.3g}, more than {limit:g}: not timed"
            result.refused[f"{key}, {contender.label}"] = why
            return
    except PeerError as problem:
        result.refused[f"{key}, {contender.label}"] = str(problem)
        return
    result.errors[key] = max(result.errors.get(key, 0.0), error)
    found.setdefault(key, []).append(contender)


class _Peak:
    """FLOP/s of FMAs in registers on all threads: the best of a run of short measurements."""

    def __init__(self, workers: list[Worker], seconds: float) -> None:
        own = [worker for worker in workers if worker.key == "own"]
        self._worker = max(own, key=lambda one: one.threads, default=None)
        self._seconds = seconds
        self.best: float | None = None

    def measure(self) -> None:
        """Once more."""
        if self._worker is not None:
            with contextlib.suppress(PeerError):
                rate = float(self._worker.ask("peak", seconds=self._seconds))
                self._worker.wait_asleep()
                self.best = max(rate, self.best or 0.0)


def measure(
    cell: Cell, workers: list[Worker], plan: Plan, alone: Alone = contextlib.nullcontext
) -> tuple[Result, float | None]:
    """Time one cell with all workers; gives figures, and the peak of all threads beside them.

    Parameters
    ----------
    cell : Cell
    workers : list of Worker
        Those of fastnn first.
    plan : Plan
    alone : callable
        Gives a context in which the machine is ours; everything timed happens in it.
    """
    result, peak = Result(cell), _Peak(workers, plan.seconds)
    by_peer = _made(cell, workers, result)
    with alone():
        chosen = _fastest(by_peer, plan, result)
        _timed(result, chosen, plan, peak)
    _dropped(by_peer, result)
    return result, peak.best


def measure_adam(
    cell: Cell, workers: list[Worker], plan: Plan, alone: Alone = contextlib.nullcontext
) -> tuple[Result, float | None]:
    """Time fastnn's steps with Adam beside those with SGD: the contenders are "own" (SGD) and "adam"."""
    result, peak = Result(cell), _Peak(workers, plan.seconds)
    made = {
        "own": _made(replace(cell, optimizer="sgd"), workers, result),
        "adam": _made(cell, workers, result),
    }
    by_name = {name: by_peer.get("own", []) for name, by_peer in made.items()}
    with alone():
        chosen = _fastest(by_name, plan, result)
        _timed(result, chosen, plan, peak)
    _dropped(by_name, result)
    return result, peak.best


def _timed(result: Result, chosen: dict[str, Contender], plan: Plan, peak: _Peak) -> None:
    """Rounds of the chosen ones; figures are of one step."""
    if "own" not in chosen:  # there is nothing to compare with: `refused` says why
        return
    steps = result.cell.steps
    slowest = max(min(result.heats[name].values()) for name in chosen)
    samples = rounds(chosen, plan.rounds_for(slowest), result.refused, peak.measure)
    for name, timing in (judge(samples) if "own" in samples else {}).items():
        timing.median /= steps
        timing.quartiles = timing.quartiles[0] / steps, timing.quartiles[1] / steps
        result.timings[name] = timing
        result.ways[name] = chosen[name].label
    for heats in result.heats.values():
        for label in heats:
            heats[label] /= steps


def _dropped(by_name: dict[str, list[Contender]], result: Result) -> None:
    """Forget all contenders of a cell.

    Not after an interrupt, or an error of ours, which ends the run and its workers: the answer to an earlier
    question may still be on its way, and would be taken for this one's.
    """
    for name, contenders in by_name.items():
        for contender in contenders:
            with contextlib.suppress(PeerError):
                if not contender.worker.ask("drop", name=contender.name)["finite"]:
                    result.refused[f"{name}, {contender.label}"] = "its weights were not finite at the end"


def _fastest(by_name: dict[str, list[Contender]], plan: Plan, result: Result) -> dict[str, Contender]:
    """The best of each one's ways and numbers of threads in short heats, taken in turn.

    In turn, so that what disturbs the machine for a moment does not meet one contender in all of its heats.
    """
    entered: dict[str, list[Contender]] = {name: [] for name in by_name}
    heats: dict[str, dict[str, float]] = {name: {} for name in by_name}
    for heat in range(plan.heats + 1):
        for name, contenders in by_name.items():
            for contender in contenders if heat == 0 else list(entered[name]):
                try:
                    if heat == 0:
                        _enter(contender, plan)
                        entered[name].append(contender)
                        continue
                    taken = contender.sample().seconds
                except PeerError as error:
                    result.refused[f"{name}, {contender.label}"] = str(error)
                    entered[name] = [one for one in entered[name] if one is not contender]
                    heats[name].pop(contender.label, None)
                    continue
                heats[name][contender.label] = min(taken, heats[name].get(contender.label, taken))
    result.heats = {name: found for name, found in heats.items() if found}
    chosen = {}
    for name, found in result.heats.items():
        best = min(found, key=found.__getitem__)
        chosen[name] = next(one for one in entered[name] if one.label == best)
        chosen[name].calls = max(1, round(plan.seconds / found[best]))
    return chosen


def _enter(contender: Contender, plan: Plan) -> None:
    """Find how many calls a heat has."""
    found = contender.worker.ask("calls", name=contender.name, seconds=plan.heat_seconds)
    contender.calls = found["calls"]
    contender.worker.wait_asleep()


def about(workers: list[Worker]) -> dict[str, Any]:
    """Versions and thread pools of each worker; one that cannot start is closed and named in `failed`."""
    found: dict[str, Any] = {"peers": {}, "failed": {}}
    for worker in workers:
        worker.send("about")
    for worker in list(workers):
        try:
            found["peers"].setdefault(worker.key, {})[str(worker.threads)] = worker.answer()
        except PeerError as error:
            found["failed"][PEERS[worker.key].name] = str(error)
            workers.remove(worker)
            worker.close()
    return found
