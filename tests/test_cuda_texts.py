"""The texts of CUDA that are shipped, and how they are joined for a compiler. Needs no card."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from fastnn.devices import cuda_kernels, cuda_persistent

FOLDER = Path(cuda_kernels.__file__).parent
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.cu")}


def test_every_text_is_compiled_once() -> None:
    sources = cuda_kernels.source(), cuda_persistent.source(), cuda_persistent.source(2)
    lists = [re.findall(r'^#line 1 "([\w.]+)"$', source, re.MULTILINE) for source in sources]
    for source, names in zip(sources, lists, strict=True):
        assert len(names) == len(set(names))
        assert all(TEXTS[name] in source for name in names)
    assert set().union(*lists) == set(TEXTS)
    # CuPy keeps what it has compiled by the text: none has what it does not need.
    assert all("persistent" not in name for name in lists[0])
    assert set(lists[2]) - set(lists[1]) == {"persistent_cluster.cu"}
    assert "kernels_products.cu" not in lists[2]
    assert cuda_persistent.source(2) != cuda_persistent.source(4)


def test_texts_are_in_the_wheel() -> None:
    project = FOLDER.parents[1] / "pyproject.toml"
    if not project.exists():
        pytest.skip("the package is installed without its sources")
    with project.open("rb") as file:
        given = tomllib.load(file)["tool"]["setuptools"]["package-data"]["*"]
    assert all(any(Path(name).match(pattern) for pattern in given) for name in TEXTS)
