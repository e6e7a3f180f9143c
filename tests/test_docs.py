"""The Python in the documentation runs as it stands, on the files and names that it takes for given."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn as fn

DOCS = Path(__file__).parents[1] / "docs"

# Shorter than a reader's: the same calls on less.
SHORTER = {
    "long_runs": {
        "epochs=500, time_limit=3500": "epochs=500, time_limit=0.05",
        "every_steps=5000": "every_steps=10",
        "run-00015000": "run-00000110",
        "epochs=20": "epochs=2",
        "epochs=50": "epochs=2",
    },
    "many": {"epochs=20": "epochs=2"},
    "files": {"epochs=100": "epochs=2"},
    "tables": {"epochs=50": "epochs=2"},
}


def rows_of(n: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, 12)).astype(np.float32), rng.integers(0, 10, n)


def write_files() -> None:
    """What the pages read, in the folder that is current."""
    x, y = rows_of(300)
    for name in ("", "-held"):
        np.save(f"x{name}.npy", x)
        np.save(f"y{name}.npy", y)
    np.savez("part.npz", x=x, y=y)
    tables = {
        "flights.csv": ("carrier,distance,delay", lambda i: f"{'ABC'[i % 3]},{i * 7 % 900},{i % 17 - 3}"),
        "houses.csv": ("rooms,town,price", lambda i: f"{i % 4},{('Ulm', 'Bonn')[i % 2]},{i * 37 % 91 / 8}"),
        "flowers.csv": ("a,b,species", lambda i: f"{i % 7},{i % 5},{'uvw'[i % 3]}"),
    }
    for name, (header, line) in tables.items():
        text = "\n".join([header, *map(line, range(150)), ""])
        Path(name).write_text(text, encoding="utf-8")
    Path("flights-2024.csv").write_text(Path("flights.csv").read_text(encoding="utf-8"), encoding="utf-8")
    recipe = fn.data.Recipe.fit("houses.csv", target="price")
    model = fn.Sequential(fn.Dense(1)).build(len(recipe.arrays("houses.csv")[0][0]))
    model.recipe = recipe
    model.save("houses.safetensors")


def given() -> dict[str, Any]:
    """Names that the pages use without making them."""
    x, y = rows_of(640)

    def make_model() -> fn.Sequential:
        return fn.Sequential(fn.Dense(8, "relu"), fn.Dense(10))

    def make_trainer() -> fn.Trainer:
        return fn.Trainer(make_model(), "cross_entropy", fn.Adam(1e-3), seed=0)

    def endless() -> Any:
        while True:
            yield x[:32], y[:32]

    trainer = make_trainer()
    trainer.fit(x, y)
    return {
        "fn": fn,
        "np": np,
        "os": os,
        "x": x,
        "y": y,
        "xv": x[:60],
        "yv": y[:60],
        "endless": endless,
        "make_model": make_model,
        "make_trainer": make_trainer,
        "trainer": trainer,
        "model": trainer.model,
        "paths": ["part.npz"],
        "weights": np.ones(len(x)),
        "difficulty": np.arange(len(x)),
    }


@pytest.mark.parametrize("page", ["data", "files", "long_runs", "many", "tables"])
def test_the_python_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("pandas", "pyarrow", "safetensors"):
        pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    write_files()
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    names = given()
    for i, block in enumerate(blocks):
        for long, short in SHORTER.get(page, {}).items():
            block = block.replace(long, short)
        exec(compile(block, f"{page}.md, block {i}", "exec"), names)
