"""What fastnn wants to reach, and where it misses it: ratios to the peers, shares of the machine's peak."""

from __future__ import annotations

import math
from typing import Any

from .judge import geometric_mean
from .peers import PEERS

__all__ = ["GOALS", "best_peer", "missed", "row_of", "set_shares", "summary"]

# Ratio to the best peer of a cell with less work than `small_flops`; with more, the share of the FMA peak of
# all threads. Ratios of the geometric means over the training cells; of one row against the slow to call.
GOALS: dict[str, dict[str, Any]] = {
    "train": {
        "small_flops": 100e6,
        "ratio": 1.3,
        "share": 0.80,
        "means": {"torch_eager": 11.0, "sklearn": 11.0, "best": 2.0},
    },
    "predict": {
        "small_flops": 50e6,
        "ratio": 1.3,
        "share": 0.85,
        "one_row": ((64, 64, 10), {"onnxruntime": 15.0, "torch_eager": 50.0}),
    },
    "adam": {"ratio": 1.15},
}


def best_peer(row: dict[str, Any]) -> tuple[str, float] | None:
    """Key and ratio of the fastest peer of a row; None without peers."""
    ratios = {key: one["ratio"] for key, one in row["timings"].items() if key != "own"}
    if not ratios or "own" not in row["timings"]:
        return None
    key = min(ratios, key=lambda name: ratios[name])
    return key, ratios[key]


def missed(kind: str, row: dict[str, Any]) -> list[str]:
    """Goals that a row misses, one sentence each."""
    goals, found = GOALS[kind], []
    if kind == "adam":
        ratio = row["timings"]["adam"]["ratio"] if "adam" in row["timings"] else math.nan
        return (
            [] if ratio <= goals["ratio"] else [f"Adam takes {ratio:.2f} x SGD, more than {goals['ratio']}"]
        )
    best = best_peer(row)
    small = row["flops"] < goals["small_flops"]
    least = goals["ratio"] if small else 1.0
    if best is not None and best[1] < least:
        found.append(f"{PEERS[best[0]].name} takes {best[1]:.2f} x fastnn, less than {least:.1f}")
    if not small and row["share"] is not None and row["share"] < goals["share"]:
        found.append(f"{100 * row['share']:.0f} % of the peak, less than {100 * goals['share']:.0f}")
    sizes, ratios = goals.get("one_row", ((), {}))
    if tuple(row["sizes"]) == sizes and row["batch"] == 1:
        for key, least in ratios.items():
            if key in row["timings"] and row["timings"][key]["ratio"] < least:
                ratio = row["timings"][key]["ratio"]
                found.append(f"{PEERS[key].name} takes {ratio:.1f} x fastnn, less than {least:.0f}")
    return found


def summary(kind: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Geometric means of the ratios to each peer and to the best of each cell, and the goals missed."""
    if kind == "adam":
        return {"missed": {row["case"]: missed(kind, row) for row in rows if missed(kind, row)}}
    keys = list(dict.fromkeys(key for row in rows for key in row["timings"] if key != "own"))
    means = {}
    for key in keys:
        # Only where it was measured in every cell: a mean over other cells is another figure.
        ratios = [row["timings"][key]["ratio"] for row in rows if key in row["timings"]]
        if len(ratios) == len(rows):
            means[key] = geometric_mean(ratios)
    best = [found[1] for found in map(best_peer, rows) if found is not None]
    if best and len(best) == len(rows):
        means["best"] = geometric_mean(best)
    found = {row["case"]: missed(kind, row) for row in rows if missed(kind, row)}
    for key, least in GOALS[kind].get("means", {}).items():
        if key in means and means[key] < least:
            name = "the best peer of each cell" if key == "best" else PEERS[key].name
            found.setdefault("geometric mean", []).append(f"{name}: {means[key]:.2f}, less than {least:g}")
    return {"geometric means": means, "missed": found}


def row_of(result: Any, peak: float | None) -> dict[str, Any]:
    """A row of the report from a `turns.Result`; `peak` in FLOP/s, as measured beside it."""
    cell = result.cell
    own = result.timings.get("own")
    row = {
        "case": cell.name,
        **cell.to_json(),
        "flops": cell.flops,
        "steps": cell.steps,
        "peak": peak,
        "rate": cell.flops / own.median if own else None,
        "share": None,
        "timings": {key: vars(one) for key, one in result.timings.items()},
        "ways": result.ways,
        "heats": result.heats,
        "errors": result.errors,
        "refused": result.refused,
    }
    set_shares([row])
    return row


def set_shares(rows: list[dict[str, Any]]) -> None:
    """Shares of the best peak of the run: where a thread came late to a measurement, that one is too low."""
    peak = max((row["peak"] for row in rows if row["peak"]), default=None)
    for row in rows:
        row["share"] = row["rate"] / peak if row["rate"] and peak else None
