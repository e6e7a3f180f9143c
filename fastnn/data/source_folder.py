"""Folders of shards: what belongs together, by its names, or by the list that a conversion wrote."""

from __future__ import annotations

import json
import os
from typing import Any

from ..errors import FormatError
from .recipe import Recipe
from .source_files import Rows, open_rows, open_zip

__all__ = ["LIST", "open_folder"]

# Of a folder that `Source.csv` or `Source.parquet` wrote.
LIST = "source.json"

Found = tuple[list[Rows], list[Rows], list[Rows] | None, Recipe | None, str]


def open_folder(folder: str) -> Found:
    """Shards of x, y and weights, the recipe that made them, and a word on them."""
    names = sorted(os.listdir(folder))
    if LIST in names:
        return _listed(folder)
    archives = [name for name in names if name.endswith(".npz")]
    arrays = [name for name in names if name.startswith("x") and name.endswith(".npy")]
    if archives and arrays:
        raise ValueError(f"{folder} must have .npz or x*.npy shards, got both: {archives[0]} and {arrays[0]}")
    if archives:
        return _of_archives(folder, archives)
    if not arrays:
        raise ValueError(
            f"{folder} must have shards: .npz files with x and y, or x*.npy with y*.npy; it has "
            f"{', '.join(names[:6]) or 'nothing'}"
        )
    x, y, weight = [], [], []
    there = set(names)
    for name in arrays:
        of_y, of_weight = "y" + name[1:], "sample_weight" + name[1:]
        if of_y not in there:
            raise ValueError(f"{folder} must have {of_y} beside {name}")
        x.append(open_rows("x", os.path.join(folder, name)))
        y.append(open_rows("y", os.path.join(folder, of_y)))
        if of_weight in there:
            weight.append(open_rows("sample_weight", os.path.join(folder, of_weight)))
    if weight and len(weight) < len(x):
        raise ValueError(f"{folder} must have sample weights for each shard or for none")
    return x, y, weight or None, None, ""


def _of_archives(folder: str, archives: list[str]) -> Found:
    x, y, weight = [], [], []
    for name in archives:
        path = os.path.join(folder, name)
        found = open_zip(path, ("x", "y", "sample_weight"))
        if not {"x", "y"} <= found.keys():
            raise ValueError(f"{path} must hold the arrays x and y, got {', '.join(found) or 'none of them'}")
        x.append(found["x"])
        y.append(found["y"])
        if "sample_weight" in found:
            weight.append(found["sample_weight"])
    if weight and len(weight) < len(x):
        raise ValueError(f"{folder} must have sample weights in each shard or in none")
    return x, y, weight or None, None, ""


def _listed(folder: str) -> Found:
    """What a conversion wrote."""
    path = os.path.join(folder, LIST)
    try:
        with open(path, encoding="utf-8") as file:
            found: Any = json.load(file)
    except ValueError as error:
        raise FormatError(f"{path} must be JSON: {error}") from None
    if not isinstance(found, dict) or found.get("format") != 1 or not isinstance(found.get("rows"), int):
        raise FormatError(f"{path} must be of format 1, got {found!r:.200}")
    recipe = Recipe.from_json(found["recipe"])
    x = open_rows("x", os.path.join(folder, "x.npy"))
    y = open_rows("y", os.path.join(folder, "y.npy"))
    weight = None
    if found.get("has_weight"):
        weight = [open_rows("sample_weight", os.path.join(folder, "sample_weight.npy"))]
    if len(x) != found["rows"]:
        raise FormatError(f"{folder} must have {found['rows']} rows as {LIST} says, got {len(x)}")
    return [x], [y], weight, recipe, f"{len(recipe.features)} columns of {len(recipe.encoders)}"
