"""How single kernels are timed, in one process: contenders in turn, in short rounds, medians, paired ratios.

Whole steps and predictions are timed by `fastnn bench`, each peer in a process of its own.

A benchmark calls `start` first (it leaves the caps on OpenBLAS behind), compares every contender's result
with a float64 reference by `agree`, times by `compare`, and writes rows into a `Report`.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl

from fastnn.bench.judge import Sample, Timing, judge
from fastnn.bench.machine import machine as of_machine
from fastnn.demo import BLAS_CAPS, uncap_blas

RESULTS = Path(__file__).parent / "results"
# Long enough for the clock and for OpenBLAS's threads to be awake, short enough that a change of the
# machine's load meets all contenders of a round alike.
ROUND_SECONDS = 0.2
ROUNDS = 15
QUICK_SECONDS, QUICK_ROUNDS = 0.002, 2
# OpenBLAS's threads look for work for 2^28 ticks after a call, 0.1 s at 2.6 GHz, and two spinning pools
# fight. With a pause of 0.04 s our next 60 ms shared the cores with them (256 x 256 x 256 on two threads:
# 71 % of the peak, alone 91 %). So a sample begins after a pause in which this process was idle, or after
# MOST_PAUSES.
PAUSE_SECONDS = 0.02
IDLE_SHARE = 0.05
MOST_PAUSES = 25


@dataclass
class Contender:
    """Something to be timed.

    Parameters
    ----------
    name : str
    call : callable
        Does the work once.
    threads : int, optional
        Threads of the BLAS while it is timed; None leaves them.
    """

    name: str
    call: Callable[[], object]
    threads: int | None = None


def start(description: str) -> argparse.Namespace:
    """Read the command line, shared by all benchmarks, and leave the caps on OpenBLAS behind."""
    uncap_blas(sys.argv)
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a few short rounds, only to see that all runs")
    parser.add_argument(
        "--out", type=Path, help="folder of the tables (default: benchmarks/results; --quick: none)"
    )
    parser.add_argument("--rounds", type=int, help=f"rounds of {ROUND_SECONDS} s (default: {ROUNDS})")
    arguments = parser.parse_args()
    if arguments.out is None and not arguments.quick:
        arguments.out = RESULTS
    arguments.rounds = arguments.rounds or (QUICK_ROUNDS if arguments.quick else ROUNDS)
    arguments.seconds = QUICK_SECONDS if arguments.quick else ROUND_SECONDS
    arguments.pause = 0.0 if arguments.quick else PAUSE_SECONDS
    if arguments.quick:
        # Two threads of OpenBLAS on a busy machine can fall to 1/60 of one.
        threadpoolctl.threadpool_limits(limits=1, user_api="blas")
    return arguments


def agree(name: str, result: Any, reference: Any, tolerance: float) -> float:
    """Largest error against the float64 reference, in units of its largest value; too large ends the run."""
    result, reference = np.asarray(result, np.float64), np.asarray(reference, np.float64)
    if result.shape != reference.shape:
        sys.exit(f"{name}: shape {result.shape} is not that of the reference, {reference.shape}")
    scale = float(np.abs(reference).max(initial=0)) or 1.0
    error = float(np.abs(result - reference).max(initial=0)) / scale
    if not error <= tolerance:  # NaN is an error too
        sys.exit(
            f"{name}: differs from the float64 reference by {error:.3g}, more than {tolerance:g}: not timed"
        )
    return error


def compare(contenders: list[Contender], arguments: argparse.Namespace) -> dict[str, Timing]:
    """Time the contenders in turn; each round starts with another one."""
    if arguments.quick:
        contenders = [replace(one, threads=1) for one in contenders]
    calls = {one.name: _calls_for(one, arguments.seconds) for one in contenders}
    samples: dict[str, list[Sample]] = {one.name: [] for one in contenders}
    for number in range(arguments.rounds):
        turn = number % len(contenders)
        for one in contenders[turn:] + contenders[:turn]:
            samples[one.name].append(_sample(one, calls[one.name], arguments.pause))
    return judge(samples)


def _calls_for(one: Contender, seconds: float) -> int:
    """How many calls fill a round; runs the contender, which warms caches and starts threads."""
    calls = 1
    while True:
        taken = _sample(one, calls, 0.0).wall
        if taken >= seconds / 4:
            return max(1, round(calls * seconds / taken))
        calls = min(calls * 10, max(calls + 1, int(calls * seconds / 2 / taken)))


@functools.cache
def _blas() -> threadpoolctl.ThreadpoolController:
    return threadpoolctl.ThreadpoolController().select(user_api="blas")


def until_idle(pause: float) -> None:
    """Sleep until no thread of this process has used a core during a whole pause."""
    for _ in range(MOST_PAUSES if pause else 0):
        cpu = time.process_time()
        time.sleep(pause)
        if time.process_time() - cpu < IDLE_SHARE * pause:
            return


def _sample(one: Contender, calls: int, pause: float) -> Sample:
    with _blas().limit(limits=one.threads):
        call = one.call
        until_idle(pause)
        call()  # wakes threads that slept through the pause
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(calls):
            call()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Sample(max(wall, 1e-9), cpu, calls)


# ---------------------------------------------------------------- reports


def machine() -> dict[str, Any]:
    """What was measured on and with."""
    import sklearn

    keys = ("user_api", "internal_api", "version", "architecture", "num_threads")
    pools = [{key: pool.get(key) for key in keys} for pool in threadpoolctl.threadpool_info()]
    return {
        **of_machine(),
        "scikit-learn": sklearn.__version__,
        "blas": pools,
        "caps": {name: os.environ.get(name) for name in BLAS_CAPS},
    }


@dataclass
class Report:
    """Rows of one benchmark: printed as they come, saved as JSON and as a Markdown table.

    Parameters
    ----------
    name : str
        Of the files.
    title : str
    arguments : argparse.Namespace
        Of `start`.
    notes : list of str
        What a reader of the table must know.
    """

    name: str
    title: str
    arguments: argparse.Namespace
    notes: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.machine = machine()
        print(f"# {self.title}")
        for key, value in self.machine.items():
            print(f"{key}: {value}")
        print(flush=True)

    def add(self, case: str, timings: dict[str, Timing], error: float, **facts: Any) -> None:
        """One case: its timings, the first being fastnn's, and the largest error that `agree` found."""
        taken = {name: vars(one) for name, one in timings.items()}
        self.rows.append({"case": case, "error": error, **facts, "timings": taken})
        times = "  ".join(
            f"{name} {one.median * 1e6:.3g} us ({one.ratio:.2f}x, {one.dropped} dropped)"
            for name, one in timings.items()
        )
        extra = "  ".join(f"{key} {value}" for key, value in facts.items())
        print(f"{case:<36} {times}  {extra}  error {error:.1e}", flush=True)

    def markdown(self) -> str:
        """The table: microseconds of each contender, and how many times fastnn's they are."""
        columns = list(dict.fromkeys(name for row in self.rows for name in row["timings"]))
        facts = list(
            dict.fromkeys(key for row in self.rows for key in row if key not in ("case", "error", "timings"))
        )
        ratios = [f"{name} / {columns[0]}" for name in columns[1:]]
        head = ["case", *(f"{name}, µs" for name in columns), *ratios, *facts]
        lines = [f"# {self.title}", "", self._about(), "", *(f"{note}\n" for note in self.notes)]
        lines += ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
        for row in self.rows:
            taken = row["timings"]
            cells = [f"{taken[name]['median'] * 1e6:.3g}" if name in taken else "" for name in columns]
            cells += [f"{taken[name]['ratio']:.2f}" if name in taken else "" for name in columns[1:]]
            cells += [str(row.get(key, "")) for key in facts]
            lines.append("| " + " | ".join([row["case"], *cells]) + " |")
        return "\n".join(lines) + "\n"

    def _about(self) -> str:
        on, fastnn = self.machine, self.machine["fastnn"]
        blas = ", ".join(
            f"{pool['internal_api']} {pool['version']} ({pool.get('architecture')})"
            for pool in on["blas"]
            if pool["user_api"] == "blas"
        )
        return (
            f"{on['cpu']}, {on['cores']} cores; Python {on['python']}, NumPy {on['numpy']}, scikit-learn "
            f"{on['scikit-learn']}; BLAS: {blas}; fastnn {fastnn['version']}, {fastnn['isa']}, "
            f"{fastnn['num_threads']} threads, {fastnn['compiler']}. Medians of {self.arguments.rounds} "
            f"rounds of {self.arguments.seconds} s taken in turn; ratios are paired by round."
        )

    def save(self) -> None:
        """Write <name>.json and <name>.md where the command line wants them."""
        folder = self.arguments.out
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        content = {"title": self.title, "notes": self.notes, "machine": self.machine, "rows": self.rows}
        text = json.dumps(content, indent=1, default=str)
        (folder / f"{self.name}.json").write_text(f"{text}\n", encoding="utf-8")
        (folder / f"{self.name}.md").write_text(self.markdown(), encoding="utf-8")
        print(f"\nsaved {folder / self.name}.json and .md")
