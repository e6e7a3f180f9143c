"""The lines of docs/interop.md do what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn as fn

DOCS = Path(__file__).parents[1] / "docs" / "interop.md"
TEXT = DOCS.read_text(encoding="utf-8")
LINES = [code for row in TEXT.splitlines() if row.startswith("| ") for code in re.findall(r"`([^`]+)`", row)]


def lines(*beginnings: str) -> list[str]:
    found = [line for line in LINES if line.startswith(beginnings)]
    assert len(found) >= len(beginnings)
    return found


def model() -> fn.Sequential:
    return fn.Sequential(fn.Dense(16), fn.BatchNorm(), fn.Activation("relu"), fn.Dense(3)).build(4)


def test_lines_about_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for line in lines("fn.save_weights", "fn.load_weights"):
        exec(line, {"fn": fn, "model": model()})


def test_lines_about_scikit_learn() -> None:
    import fastnn.sklearn

    network = pytest.importorskip("sklearn.neural_network")
    x, y = np.random.default_rng(0).standard_normal((30, 4)), np.arange(30) % 3
    fitted = network.MLPClassifier((5,), max_iter=300, random_state=0, tol=1e-2).fit(x, y)
    named = {"fastnn": fastnn, "model": model(), "fitted": fitted}
    found = [eval(line, named) for line in lines("fastnn.sklearn.")]
    assert [type(one).__name__ for one in found] == ["MLPRegressor", "Sequential", "MLPClassifier"]


@pytest.mark.torch
def test_lines_and_blocks_about_pytorch(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    import fastnn.torch

    named: dict[str, Any] = {"torch": torch, "fastnn": fastnn, "fn": fn}
    begin = TEXT.index("## PyTorch")
    section = TEXT[begin : TEXT.index("\n## ", begin)]
    for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        # what an installed distribution is found by
        exec(block.replace('backend="fastnn"', "backend=fastnn.torch.backend"), named)
    shown = re.search(r"# (\d+ of \d+ nodes in fastnn, .*)", section)
    assert shown is not None
    assert capsys.readouterr().out.strip() == shown.group(1)
    for line in lines("fastnn.torch.to_torch", "fastnn.torch.from_torch"):
        eval(line, named)
