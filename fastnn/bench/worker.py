"""The process of one peer: reads commands (JSON, one a line) from stdin, answers likewise on stdout.

It is started by `processes.Worker` with its threads in the environment, and sleeps in a read between turns.
"""

from __future__ import annotations

import gc
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from . import peers
from .cells import Array, Cell, arrays_of, data, order, parameters

__all__ = ["errors_of_outputs", "errors_of_training", "main"]


def errors_of_training(cell: Cell, found: Array, reference: Array, start: Array) -> float:
    """Error of the worst array of weights or biases, in units of the change that training made to it.

    Both are root mean squares: a unit whose sum is nearly zero may be on the other side of the ReLU in
    float32, and then its weights, and those alone, differ by a row's share.
    """
    if found.shape != reference.shape:
        return math.inf
    worst = 0.0
    for layer in zip(*(arrays_of(cell, flat) for flat in (found, reference, start)), strict=True):
        for got, true, before in zip(*layer, strict=True):
            error = _root_mean_square(np.asarray(got, np.float64) - true)
            worst = max(worst, error / (_root_mean_square(true - before) or 1.0))
            if not math.isfinite(error):
                return math.inf
    return worst


def _root_mean_square(a: Array) -> float:
    return float(np.sqrt(np.mean(np.square(a, dtype=np.float64))))


def errors_of_outputs(found: Array, reference: Array, link: str | None) -> float:
    """Largest error of predictions, in units of the largest of the reference."""
    if link == "softmax":
        e = np.exp(reference - reference.max(axis=1, keepdims=True))
        reference = e / e.sum(axis=1, keepdims=True)
    if found.size != reference.size:
        return math.inf
    error = float(np.abs(np.asarray(found, np.float64).reshape(reference.shape) - reference).max())
    return error / float(np.abs(reference).max()) if math.isfinite(error) else math.inf


def _always(cell: Cell) -> bool:
    return True


class _Process:
    """What the process keeps: the peer, and the calls that are ready to be timed."""

    def __init__(self, key: str, threads: int) -> None:
        self.peer, self.threads = peers.PEERS[key], threads
        self.module = peers.module(self.peer)
        self.versions = self.module.about(threads)
        self.calls: dict[str, Callable[[], object]] = {}
        self.made: dict[str, Any] = {}

    def about(self) -> dict[str, Any]:
        """Versions, ways, and the thread pools as threadpoolctl sees them."""
        found: dict[str, Any] = {"versions": self.versions, "pools": []}
        try:
            import threadpoolctl
        except ImportError:
            return found
        keys = ("internal_api", "version", "architecture", "num_threads", "threading_layer")
        found["pools"] = [{k: pool.get(k) for k in keys} for pool in threadpoolctl.threadpool_info()]
        return found

    def ways(self, cell: Cell) -> list[str]:
        """Names of the ways for this cell."""
        kind = self.module.WAYS_TO_TRAIN if cell.kind == "train" else self.module.WAYS_TO_PREDICT
        return [name for name, way in kind.items() if getattr(way, "suits", _always)(cell)]

    def make(self, cell: Cell, way: str, reference: str, name: str) -> dict[str, Any]:
        """Make the contender `name`, compare it with the reference, and leave its call to be timed."""
        began = time.perf_counter()
        x, y = data(cell)
        start = parameters(cell)
        task = peers.Task(cell, x, y, start, self.threads)
        true = np.load(reference)
        if cell.kind == "train":
            made = self.module.WAYS_TO_TRAIN[way](task)
            checked = order(cell, cell.checked_steps)
            getattr(made, "check", made.train)(checked)
            error = errors_of_training(cell, np.asarray(made.parameters()), true, start)
            steps = order(cell, cell.steps, seed=1)
            self.calls[name] = lambda: made.train(steps)
        else:
            made = self.module.WAYS_TO_PREDICT[way](task)
            error = errors_of_outputs(made.outputs(made.predict()), true, made.link)
            self.calls[name] = made.predict
        self.made[name] = made
        return {"error": error, "seconds": time.perf_counter() - began}

    def calls_for(self, name: str, seconds: float) -> dict[str, Any]:
        """How many calls take about so many seconds."""
        calls = 1
        while True:
            taken = self.sample(name, calls)["wall"]
            if taken >= seconds / 4:
                return {"calls": max(1, round(calls * seconds / taken))}
            calls = min(calls * 10, max(calls + 1, int(calls * seconds / 2 / taken)))

    def sample(self, name: str, calls: int) -> dict[str, Any]:
        """Wall and CPU seconds of that many calls."""
        call = self.calls[name]
        call()  # wakes threads that slept while others had their turn
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(calls):
            call()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return {"wall": max(wall, 1e-9), "cpu": cpu, "calls": calls}

    def drop(self, name: str) -> dict[str, Any]:
        """Forget a contender; says whether its weights are still finite."""
        made = self.made.pop(name, None)
        self.calls.pop(name, None)
        finite = not hasattr(made, "parameters") or bool(np.isfinite(made.parameters()).all())
        del made
        gc.collect()
        return {"finite": finite}

    def answer(self, command: dict[str, Any]) -> Any:
        """Do what a command says."""
        do = command["do"]
        if do == "about":
            return self.about()
        if do == "ways":
            return self.ways(Cell.from_json(command["cell"]))
        if do == "make":
            cell = Cell.from_json(command["cell"])
            return self.make(cell, command["way"], command["reference"], command["name"])
        if do == "calls":
            return self.calls_for(command["name"], command["seconds"])
        if do == "sample":
            return self.sample(command["name"], command["calls"])
        if do in ("peak", "memory"):
            return getattr(self.module, do)(self.threads, command["seconds"])
        return self.drop(command["name"])


def main(key: str, threads: int) -> None:
    """Serve until stdin ends."""
    # What libraries print goes to stderr, which the parent keeps in a file.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    process: _Process | None = None
    for line in sys.stdin:
        try:
            if process is None:
                process = _Process(key, threads)
            answer = {"done": process.answer(json.loads(line))}
        except Exception as error:
            answer = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
