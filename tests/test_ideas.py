"""docs/ideas.md: what its blocks print is what stands below them, on every machine."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "ideas.md"
# A block, and what it prints, if it does.
BLOCK = re.compile(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", re.DOTALL)


@pytest.fixture(scope="module")
def printed() -> list[tuple[str, str, str]]:
    """Of each block: its code, what it prints, what the page says that it prints."""
    names: dict[str, Any] = {}
    found = []
    for code, stated in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        caught = io.StringIO()
        with contextlib.redirect_stdout(caught):
            exec(code, names)  # the page's own code
        lines = [line.rstrip() for line in caught.getvalue().rstrip().splitlines()]
        found.append((code, "\n".join(lines), stated.rstrip("\n")))
    return found


def test_the_page_prints_what_it_says(printed: list[tuple[str, str, str]]) -> None:
    assert len(printed) > 12
    for code, got, stated in printed:
        assert got == stated, code


def shares(printed: list[tuple[str, str, str]], word: str) -> dict[str, float]:
    """Of the block that calls `word`: share of right answers by the name at the line's begin."""
    (text,) = (got for code, got, _ in printed if f"\n{word}(" in code)
    lines = [re.split(r"  +\d+ of 16| +right", line)[0] for line in text.splitlines()]
    return dict(zip(lines, map(float, re.findall(r"right: ([\d.]+)", text)), strict=True))


def test_twenty_layers_of_sigmoids_do_not_learn_and_four_remedies_do(
    printed: list[tuple[str, str, str]],
) -> None:
    found = shares(printed, "deep_trained")
    assert found.pop("sigmoid") < 0.55
    assert len(found) >= 4
    assert min(found.values()) >= 0.9


def test_dead_units_stay_dead_and_remedies_keep_them_alive(printed: list[tuple[str, str, str]]) -> None:
    found = shares(printed, "with_rate")
    dead = [found.pop(name) for name in ("lr 10", "biases of -5, relu")]
    assert max(dead) < 0.55
    assert len(found) >= 4
    assert min(found.values()) >= 0.95


def test_what_is_done_about_overfitting_helps(printed: list[tuple[str, str, str]]) -> None:
    (text,) = (got for code, got, _ in printed if "\nreport(" in code)
    own = list(map(float, re.findall(r"([\d.]+) of its rows", text)))
    others = list(map(float, re.findall(r"([\d.]+) of others", text)))
    assert own[0] > max(own[1:])
    assert others[0] + 0.02 < min(others[1:])
