"""What a run leaves: JSON, and a Markdown table with machine, versions and command."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from ..replacing import replacing
from .goals import best_peer, summary
from .peers import PEERS
from .processes import TIMED_OUT

__all__ = ["TITLES", "content", "judge_folder", "line", "markdown", "save"]

TITLES = {
    "train": "One training step beside the peers",
    "predict": "One call of predict beside the peers",
    "adam": "A training step with Adam beside SGD",
}
NOTES = {
    "train": (
        "A step is gather of shuffled rows, forward, loss, backward, SGD; float32, ReLU between the layers; "
        "b is the rows of a mini-batch."
    ),
    "predict": (
        "One call on b rows, float32, ReLU between the layers; fastnn is its compiled handle. oneDNN is "
        "called through PyTorch's operators, whose own cost for each layer is in its times."
    ),
    "adam": "fastnn alone: the ratio is Adam's time over SGD's, in turns in one process.",
}
COMMON = (
    "Each peer has a process of its own; its best of one and of all threads, and of its ways, counts. Its "
    "result was compared with float64 before it was timed. Processes take turns, each round starts with "
    "another one, and a turn begins when the process before it sleeps. Times are medians, ratios (peer's "
    "time over fastnn's) medians over rounds. Shares are of a loop of FMAs in registers on all threads, "
    "measured in the same rounds."
)
MKL = (
    "PyTorch's eager products are MKL's, which takes its AVX2 path on CPUs that are not Intel's: the ratios "
    "to it would be smaller on Intel. NumPy, SciPy (Numba) and scikit-learn use an uncapped OpenBLAS."
)

# As threadpoolctl calls the libraries whose threads and instruction set decide a table.
BLAS = ("openblas", "mkl", "blis")


def content(kind: str, rows: list[dict[str, Any]], facts: dict[str, Any]) -> dict[str, Any]:
    """All of a run, as it is saved; `facts` are machine, command, peers, left_out, plan."""
    return {"title": TITLES[kind], "kind": kind, **facts, "rows": rows, "summary": summary(kind, rows)}


def _microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:.3g}" if seconds < 1e-3 else f"{seconds * 1e6:.0f}"


def line(kind: str, row: dict[str, Any]) -> str:
    """A row as it is shown while the run goes on."""
    words = [f"{row['case']:<28}"]
    for key, one in row["timings"].items():
        name = PEERS[key].name if key in PEERS else key
        ratio = "" if one["ratio"] == 1 else f" ({one['ratio']:.2f}x)"
        busy = ", BUSY" if one["busy"] else ""
        words.append(f"{name} {_microseconds(one['median'])} us{ratio}{busy}")
    if row["share"] is not None:
        words.append(f"{100 * row['share']:.0f} % of peak")
    words += [f"REFUSED {who}: {why}" for who, why in row["refused"].items()]
    return "  ".join(words)


def _about(found: dict[str, Any]) -> list[str]:
    on = found["machine"]
    fastnn = on["fastnn"]
    versions: dict[str, str] = {}
    abouts = [about for threads in found["peers"].values() for about in threads.values()]
    for about in abouts:
        versions.update(about["versions"])
    blas = [pool for about in abouts for pool in about["pools"] if pool["internal_api"] in BLAS]
    kinds = sorted({f"{pool['internal_api']} {pool['version']} ({pool['architecture']})" for pool in blas})
    pools = f"pools: {', '.join(kinds)}" if kinds else ""
    libraries = ", ".join(f"{name} {text}" for name, text in versions.items() if name != "fastnn")
    plan = found["plan"]
    lines = [
        f"{on['cpu']}, {on['cores']} cores, {on['system']}; Python {on['python']}; "
        f"fastnn {fastnn['version']}, {fastnn['isa']}, {fastnn['num_threads']} threads, "
        + "; ".join(filter(None, (fastnn["compiler"], libraries, pools)))
        + f". Up to {plan['rounds']} rounds of {plan['seconds']} s.",
        f"Command: `{found['command']}`",
    ]
    if found["left_out"]:
        lines.append(
            "Left out: " + "; ".join(f"{who} ({why})" for who, why in found["left_out"].items()) + "."
        )
    return lines


def _table(found: dict[str, Any]) -> list[str]:
    kind, rows = found["kind"], found["rows"]
    keys = list(dict.fromkeys(key for row in rows for key in row["timings"]))
    names = [PEERS[key].name if key in PEERS else key for key in keys]
    head = ["net, rows", "MFLOP", f"{names[0]}, µs" if names else "", "share of peak", *names[1:]]
    if kind != "adam":
        head.append("best peer")
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for row in rows:
        taken, first = row["timings"], keys[0]
        cells = [row["case"], f"{row['flops'] / 1e6:.3g}"]
        cells.append(_microseconds(taken[first]["median"]) if first in taken else "")
        cells.append(f"{100 * row['share']:.0f} %" if row["share"] is not None else "")
        late = {who.partition(",")[0] for who, why in row["refused"].items() if why.startswith(TIMED_OUT)}
        cells += [
            f"{taken[key]['ratio']:.3g} x" if key in taken else TIMED_OUT * (key in late) for key in keys[1:]
        ]
        if kind != "adam":
            best = best_peer(row)
            cells.append(f"{best[1]:.2f} x ({PEERS[best[0]].name})" if best else "")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _ways(found: dict[str, Any]) -> list[str]:
    lines = ["| net, rows | way and threads of each |", "|---|---|"]
    for row in found["rows"]:
        words = [f"{PEERS[key].name if key in PEERS else key}: {way}" for key, way in row["ways"].items()]
        lines.append(f"| {row['case']} | {'; '.join(words)} |")
    return lines


def markdown(found: dict[str, Any]) -> str:
    """The table, with what a reader must know to measure it again."""
    kind = found["kind"]
    parts = [f"# {found['title']}", *_about(found), NOTES[kind], COMMON if kind != "adam" else "", MKL, ""]
    lines = [part for text in parts[:-1] if text for part in (text, "")]
    if kind == "adam":
        lines = lines[:-2]
    lines += [*_table(found), ""]
    means = found["summary"].get("geometric means", {})
    if means:
        words = [
            f"{'the best peer of each' if key == 'best' else PEERS[key].name} {value:.2f} x"
            for key, value in means.items()
        ]
        lines += ["Geometric means over the cells: " + ", ".join(words) + ".", ""]
    missed = found["summary"]["missed"]
    if missed:
        lines += ["Goals missed:", ""]
        lines += [f"* {case}: {'; '.join(what)}" for case, what in missed.items()]
        lines.append("")
    busy = [row["case"] for row in found["rows"] if any(one["busy"] for one in row["timings"].values())]
    if busy:
        lines += [f"The machine was busy with other things in: {', '.join(busy)}.", ""]
    refused = [(row["case"], who, why) for row in found["rows"] for who, why in row["refused"].items()]
    if refused:
        lines += ["Refused:", "", *(f"* {case}, {who}: {why}" for case, who, why in refused), ""]
    lines += ["## Ways that were taken", "", *_ways(found), ""]
    return "\n".join(lines)


def _paths(folder: Path, name: str) -> list[Path]:
    return [folder / f"{name}.json", folder / f"{name}.md"]


def judge_folder(folder: Path, names: list[str]) -> None:
    """Make the folder, and see that `save` can write these reports into it.

    Raises
    ------
    OSError
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from None
    for path in (path for name in names for path in _paths(folder, name)):
        if path.is_dir():
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))


def save(found: dict[str, Any], folder: Path, name: str) -> list[Path]:
    """Write <name>.json and <name>.md, each whole or, where the run is cut off just then, not at all."""
    paths = _paths(folder, name)
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in zip(paths, (json.dumps(found, indent=1) + "\n", markdown(found)), strict=True):
        with replacing(path) as file:
            file.write(text.encode())
    return paths
