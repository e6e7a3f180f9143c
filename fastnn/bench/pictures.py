"""Pictures of a run: bars of the ratios, and a roofline."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from .peers import PEERS

__all__ = ["draw"]


def draw(report: dict[str, Any], folder: Path, name: str) -> list[Path]:
    """Save <name>-ratios.png and <name>-roofline.png (where the peak was measured).

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError('pictures need matplotlib: run "python -m pip install matplotlib"') from None

    drawn = []
    for what, draw_one in (("ratios", _ratios), ("roofline", _roofline)):
        figure: Any = Figure(figsize=(11, 5.5), layout="constrained")
        FigureCanvasAgg(figure)
        if draw_one(figure.subplots(), report):
            path = folder / f"{name}-{what}.png"
            figure.savefig(path, dpi=110)
            drawn.append(path)
    return drawn


def _name(key: str) -> str:
    return PEERS[key].name if key in PEERS else key


def _ratios(axes: Any, report: dict[str, Any]) -> bool:
    """A group of bars for each cell: how many times fastnn's time each peer takes."""
    rows = [row for row in report["rows"] if "own" in row["timings"]]
    keys = list(dict.fromkeys(key for row in rows for key in row["timings"] if key != "own"))
    if not keys:
        return False
    width = 0.8 / len(keys)
    for i, key in enumerate(keys):
        at = [j for j, row in enumerate(rows) if key in row["timings"]]
        heights = [rows[j]["timings"][key]["ratio"] for j in at]
        axes.bar([j + (i - (len(keys) - 1) / 2) * width for j in at], heights, width, label=_name(key))
    axes.axhline(1, color="black", linewidth=1)
    axes.set_yscale("log")
    axes.set_xticks(range(len(rows)), [row["case"] for row in rows], rotation=35, ha="right", fontsize=8)
    axes.set_ylabel("time / fastnn's time")
    axes.set_title(report["title"])
    axes.legend(fontsize=8, ncols=2)
    return True


def _bytes(row: dict[str, Any]) -> float:
    """Least traffic of a step or call with memory: parameters, the rows, the outputs; each once, float32."""
    sizes, batch = row["sizes"], row["batch"]
    parameters = sum(a * b + b for a, b in itertools.pairwise(sizes))
    # A step reads and writes the parameters, a call reads them.
    elements = parameters * (2 if row["kind"] == "train" else 1) + batch * (sizes[0] + sizes[-1])
    return 4.0 * float(elements)


def _roofline(axes: Any, report: dict[str, Any]) -> bool:
    """Rates against the work for each byte that must move, below the measured peak."""
    rows = [row for row in report["rows"] if row["peak"] and "own" in row["timings"]]
    if not rows:
        return False
    peak = max(row["peak"] for row in rows)
    keys = list(dict.fromkeys(key for row in rows for key in row["timings"]))
    for key in keys:
        found = [row for row in rows if key in row["timings"]]
        axes.plot(
            [row["flops"] / _bytes(row) for row in found],
            [row["flops"] / row["timings"][key]["median"] / 1e9 for row in found],
            "o" if key == "own" else ".",
            markersize=9 if key == "own" else 6,
            color="black" if key == "own" else None,
            alpha=1 if key == "own" else 0.7,
            zorder=3 if key == "own" else 2,
            label=_name(key),
        )
    if report.get("memory"):
        # What reads everything from memory once cannot be above; what stays in caches can.
        ridge, least = peak / report["memory"], min(row["flops"] / _bytes(row) for row in rows)
        axes.plot([least, ridge], [least * report["memory"] / 1e9, peak / 1e9], "k--", linewidth=1)
        axes.text(least, least * report["memory"] / 1e9, f"memory, {report['memory'] / 1e9:.0f} GB/s ",
                  fontsize=8, va="top")  # fmt: skip
    axes.axhline(peak / 1e9, color="black", linewidth=1)
    axes.text(0.01, peak / 1e9 * 1.06, f"FMA peak, {peak / 1e9:.0f} GFLOP/s",
              transform=axes.get_yaxis_transform(), fontsize=8)  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("floating-point operations for each byte of parameters, rows and outputs")
    axes.set_ylabel("GFLOP/s")
    axes.set_title(report["title"])
    axes.legend(fontsize=8)
    return True
