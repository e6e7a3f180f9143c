"""A whole run: which peers, which cells, what is written. `fastnn bench` and benchmarks/*.py call `run`."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import fastnn as fn

from .cells import ADAM, PREDICTION, TRAINING, Cell, chosen
from .goals import row_of, set_shares
from .machine import alone, machine
from .peers import PEERS, missing
from .processes import TIMEOUT, PeerError, Worker
from .report import content, judge_folder, line, save
from .turns import QUICK, Plan, about, measure, measure_adam

__all__ = ["KINDS", "Choice", "main", "run"]

KINDS = {"train": TRAINING, "predict": PREDICTION, "adam": ADAM}
FILES = {"train": "training", "predict": "prediction", "adam": "adam"}
# A quick run shows that all works: tiny cells, one of each loss.
QUICK_CELLS = {
    "train": (Cell("train", (4, 16, 3), 16), Cell("train", (6, 8, 1), 4)),
    "predict": (Cell("predict", (4, 16, 3), 1), Cell("predict", (6, 8, 1), 4)),
    "adam": (Cell("train", (4, 16, 3), 16, "adam"),),
}


@dataclass
class Choice:
    """What to measure.

    Parameters
    ----------
    kinds : list of str
        Of `KINDS`.
    peers : list of str, optional
        Keys of `PEERS`; all without. fastnn always takes part.
    cells : list of str, optional
        Words in the names of cells; all without.
    threads : int, optional
        The larger number of threads, beside one; all cores without.
    rounds : int, optional
    quick : bool
        Tiny cells, few short rounds.
    out : Path, optional
        Folder of the files; none are written without.
    picture : bool
        Whether pictures are drawn beside them.
    lock : Path, optional
        File that is locked (flock) while something is timed; held shared otherwise.
    show : bool
        Whether each row is printed as it comes.
    command : str
        For the report.
    peer_timeout : float
        Seconds that each preparation of a peer, and each of its rounds, may take.
    """

    kinds: list[str] = field(default_factory=lambda: ["train", "predict", "adam"])
    peers: list[str] | None = None
    cells: list[str] | None = None
    threads: int | None = None
    rounds: int | None = None
    quick: bool = False
    out: Path | None = None
    picture: bool = True
    lock: Path | None = None
    show: bool = True
    command: str = "fastnn bench"
    peer_timeout: float = TIMEOUT


def _taking_part(choice: Choice, kind: str) -> tuple[list[str], dict[str, str]]:
    """Keys of peers for a kind of cell, fastnn first; names of those left out and why."""
    keys, left_out = ["own"], {}
    for key, peer in PEERS.items():
        if key == "own" or kind not in peer.kinds or (choice.peers is not None and key not in choice.peers):
            continue
        absent = missing(peer)
        if absent:
            left_out[peer.name] = f"not installed: {', '.join(absent)}"
        else:
            keys.append(key)
    return keys, left_out


@contextlib.contextmanager
def _workers(keys: list[str], threads: list[int], timeout: float) -> Iterator[list[Worker]]:
    with contextlib.ExitStack() as closing:  # of all, whatever one of them raises
        everyone = []
        for key in keys:
            for n in threads:
                everyone.append(Worker(key, n, timeout=timeout))
                closing.callback(everyone[-1].close)
        try:
            yield list(everyone)
        finally:
            for worker in everyone:
                worker.let_go()


def _cells(choice: Choice, kind: str) -> tuple[Cell, ...]:
    if choice.quick:
        return QUICK_CELLS[kind]
    found = KINDS[kind]
    if choice.cells and len(choice.kinds) > 1:
        # A word may name cells of one kind alone.
        known = [word for word in choice.cells if any(word in cell.name for cell in found)]
        return chosen(found, known) if known else ()
    return chosen(found, choice.cells)


def run(choice: Choice) -> tuple[dict[str, dict[str, Any]], int]:
    """Measure what was chosen; gives what was found by kind, and an exit status.

    The status is 1 where a peer or fastnn gave a wrong result or broke.
    """
    for key in choice.peers or []:
        if key not in PEERS:
            raise ValueError(f"no peer is called {key!r}: there are {', '.join(PEERS)}")
    if choice.cells and not choice.quick:
        for word in choice.cells:
            if not any(word in cell.name for kind in choice.kinds for cell in KINDS[kind]):
                every = ", ".join(dict.fromkeys(cell.name for kind in choice.kinds for cell in KINDS[kind]))
                raise ValueError(f"no cell is called {word!r}: there are {every}")
    if choice.out is not None:  # said now, not when the first cell has been measured
        judge_folder(choice.out, [FILES[kind] for kind in choice.kinds])
    reports: dict[str, dict[str, Any]] = {}
    status = 0
    with alone(choice.lock) as ours:
        for kind in choice.kinds:
            cells = _cells(choice, kind)
            if cells:
                reports[kind], failed = _one_kind(choice, kind, cells, ours)
                status = max(status, failed)
    return reports, status


def _one_kind(choice: Choice, kind: str, cells: tuple[Cell, ...], ours: Any) -> tuple[dict[str, Any], int]:
    keys, left_out = _taking_part(choice, kind) if kind != "adam" else (["own"], {})
    most = choice.threads or fn.get_num_threads()
    plan = QUICK if choice.quick else Plan()
    if choice.rounds:
        plan = replace(plan, rounds=choice.rounds)
    threads = [1] if choice.quick else sorted({1, most})
    rows: list[dict[str, Any]] = []
    with _workers(keys, threads, choice.peer_timeout) as workers:
        found = about(workers)
        left_out |= found["failed"]
        if not any(worker.key == "own" for worker in workers):
            raise PeerError(f"fastnn itself could not start: {left_out[PEERS['own'].name]}")
        facts: dict[str, Any] = {
            "command": choice.command,
            "machine": machine(),
            "peers": found["peers"],
            "left_out": left_out,
            "plan": asdict(plan),
        }
        with ours():
            own = max((one for one in workers if one.key == "own"), key=lambda one: one.threads)
            facts["memory"] = own.ask("memory", seconds=plan.seconds)
            own.wait_asleep()
        if choice.show:
            for who, why in left_out.items():
                print(f"left out: {who} ({why})")
        for cell in cells:
            result, peak = (measure_adam if kind == "adam" else measure)(cell, workers, plan, ours)
            rows.append(row_of(result, peak))
            set_shares(rows)
            if choice.show:
                print(line(kind, rows[-1]), flush=True)
            if (
                choice.out is not None
            ):  # after each cell: what was measured is kept if the next one is cut off
                save(content(kind, rows, facts), choice.out, FILES[kind])
    report = content(kind, rows, facts)
    if choice.out is not None:
        saved = save(report, choice.out, FILES[kind])
        if choice.picture:
            saved += _pictures(report, choice.out, kind)
        print("saved " + ", ".join(map(str, saved)), file=sys.stderr)
    failed = bool(found["failed"]) or any(row["refused"] or not row["timings"] for row in rows)
    return report, int(failed)


def _pictures(report: dict[str, Any], folder: Path, kind: str) -> list[Path]:
    from . import pictures

    try:
        return pictures.draw(report, folder, FILES[kind])
    except ImportError as error:
        print(f"no picture: {error}", file=sys.stderr)
        return []


def main(choice: Choice, as_json: bool) -> int:
    """Run and print; gives the exit status."""
    choice.show = not as_json
    reports, status = run(choice)
    if as_json:
        print(json.dumps(reports))
        return status
    for kind, report in ({} if choice.quick else reports).items():
        means = report["summary"].get("geometric means", {})
        if means:
            print(f"{FILES[kind]}, geometric means: " + ", ".join(f"{k} {v:.2f}x" for k, v in means.items()))
        for case, what in report["summary"]["missed"].items():
            print(f"  missed: {case}: {'; '.join(what)}")
    return status
