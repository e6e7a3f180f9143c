"""What benchmarks with cases of their own kind report alike: the machine, and a table of times and facts."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import fastnn as fn
from fastnn.demo import BLAS_CAPS

RESULTS = Path(__file__).parent / "results"


def parser(description: str | None) -> argparse.ArgumentParser:
    """Of the command line, for more options; its help is the first line of a benchmark's docstring."""
    found = argparse.ArgumentParser(description=description.splitlines()[0] if description else None)
    found.add_argument("--quick", action="store_true", help="small and few, only to see that all runs")
    found.add_argument("--out", type=Path, help="folder of the tables (default: results; --quick: none)")
    return found


def folder(arguments: argparse.Namespace) -> Path | None:
    """Where the command line wants the tables."""
    return arguments.out or (None if arguments.quick else RESULTS)


def machine(**more: Any) -> dict[str, Any]:
    """What was measured on and with."""
    return {
        "cores": os.cpu_count(),
        **more,
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "fastnn": fn.__version__,
        "isa": fn.kernels.isa(),
        "caps": {name: os.environ.get(name) for name in BLAS_CAPS},
    }


def row(case: str, seconds: Mapping[str, float], **facts: Any) -> dict[str, Any]:
    """A line of the table: medians by contender."""
    return {"case": case, **facts, "timings": {name: {"median": of} for name, of in seconds.items()}}


def head(title: str, machine: Mapping[str, Any], limits: Mapping[str, str]) -> list[str]:
    """The lines over a table."""
    lines = [f"# {title}", "", ", ".join(f"{key} {value}" for key, value in machine.items()), ""]
    return [*lines, "Limits: " + ", ".join(f"{key} {value}" for key, value in limits.items()), ""]


def table(columns: str, rows: list[dict[str, Any]], shown: Callable[[str, float], str]) -> list[str]:
    """The lines of a table; `shown` tells a contender's seconds."""
    lines = [f"| {columns} | |", "|---|---|---|"]
    for one in rows:
        times = ", ".join(shown(name, of["median"]) for name, of in one["timings"].items())
        facts = ", ".join(
            f"{name.replace('_', ' ')} {value}"
            for name, value in one.items()
            if name not in ("case", "timings")
        )
        lines.append(f"| {one['case']} | {times} | {facts} |")
    return lines


def save(name: str, where: Path | None, content: dict[str, Any], markdown: str) -> None:
    """Print a table, and write <name>.json and <name>.md."""
    print(markdown)
    if where is not None:
        where.mkdir(parents=True, exist_ok=True)
        (where / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        (where / f"{name}.md").write_text(markdown, encoding="utf-8")
