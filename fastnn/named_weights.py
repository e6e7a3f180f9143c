"""Weights alone, in npz or safetensors files that other libraries read and write, under the names of each."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from . import build_check, container, errors, saving
from .errors import FormatError
from .network import Sequential
from .replacing import replacing
from .steps import Step

__all__ = ["LAYOUTS", "load_weights", "save_weights"]

Array = NDArray[Any]

LAYOUTS = ("fastnn", "torch", "keras")

# Our last part of a name -> Keras's, by the kind of step.
_KERAS = {
    "dense": {"weight": "kernel"},
    "batch_norm": {
        "weight": "gamma",
        "bias": "beta",
        "running_mean": "moving_mean",
        "running_var": "moving_variance",
    },
    "layer_norm": {"weight": "gamma", "bias": "beta"},
    "rms_norm": {"weight": "scale"},
    "prelu": {"weight": "alpha"},
}


@dataclass(frozen=True)
class _Entry:
    """Where a weight of the model goes: its name in a file, and whether it lies turned there."""

    name: str
    turned: bool


def save_weights(
    model: Sequential,
    path: str | os.PathLike[str],
    *,
    layout: str = "fastnn",
    names: Mapping[str, str] | None = None,
) -> None:
    """Write weights and running statistics, without the layers, as .npz or .safetensors by the path's ending.

    The file appears whole or not at all.

    Parameters
    ----------
    layout : "fastnn", "torch" or "keras"
        "fastnn": the names and shapes of ``model.weights`` and ``model.running``. "torch": the weight of a
        Dense is (n_out, n_in). "keras": "0.kernel", and "gamma", "beta", "moving_mean", "moving_variance" of
        norms.
    names : mapping of str, optional
        Other names in the file, by those of ``model.weights``: ``{"1.weight": "2.weight"}`` where an
        activation is a layer of its own there.
    """
    given, ending = _judged_path(path)
    arrays = {}
    views = _views(model)
    for ours, entry in _entries(model, layout, names).items():
        arrays[entry.name] = views[ours].T if entry.turned else views[ours]
    if ending == ".safetensors":
        metadata = {"kind": "weights", "fastnn_version": build_check.version()}
        container.write(given, arrays, metadata)
        return
    with replacing(given) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                npy.write_array(member, np.ascontiguousarray(array), allow_pickle=False)


def load_weights(
    model: Sequential,
    path: str | os.PathLike[str],
    *,
    layout: str = "fastnn",
    names: Mapping[str, str] | None = None,
) -> None:
    """Take weights and running statistics from a file of `save_weights` or of another library.

    Strict: the file must have each name of the model, in its shape, and no other ("num_batches_tracked" of
    PyTorch aside). Nothing is changed unless all fits. No code is run; there is no pickle.

    Parameters
    ----------
    layout, names
        As `save_weights` has them.

    Raises
    ------
    FormatError
        The file is broken, or names, shapes or types are not those of the model; all faults are listed.
    """
    given, ending = _judged_path(path)
    entries, views = _entries(model, layout, names), _views(model)
    shapes = {
        entry.name: views[ours].shape[::-1] if entry.turned else views[ours].shape
        for ours, entry in entries.items()
    }
    source = _from_safetensors(given) if ending == ".safetensors" else _from_npz(given, shapes)
    extra = source.keys() - shapes.keys()
    if layout == "torch":
        extra = {name for name in extra if not name.endswith("num_batches_tracked")}
    missing = shapes.keys() - source.keys()
    faults = [saving.names_fault(missing, extra)] if missing or extra else []
    for name, shape in shapes.items():
        if name in source and (source[name].shape != shape or source[name].dtype.kind != "f"):
            got = f"{source[name].shape} {source[name].dtype}"
            faults.append(f"must have {name!r} of shape {shape} and real numbers, got {got}")
    if faults:
        more = f"; and {len(faults) - 8} faults more" if len(faults) > 8 else ""
        raise FormatError(f"{given} {'; '.join(faults[:8])}{more}")
    found = {}
    for ours, entry in entries.items():
        cast = errors.cast(entry.name, source[entry.name], model.dtype)
        found[ours] = cast.T if entry.turned else cast
    for ours, array in found.items():
        views[ours][...] = array


def _judged_path(path: Any) -> tuple[str, str]:
    given = errors.file_path("path", path)
    ending = os.path.splitext(given)[1]
    if ending not in (".npz", ".safetensors"):
        raise ValueError(f"path must end with .npz or .safetensors, got {given!r}")
    return given, ending


def _views(model: Any) -> dict[str, Array]:
    if not isinstance(model, Sequential):
        raise TypeError(f"model must be a Sequential, got {type(model).__name__}")
    return {**model.weights, **model.running}


def _entries(model: Sequential, layout: str, names: Mapping[str, str] | None) -> dict[str, _Entry]:
    """The entry of each weight by our name."""
    errors.choice("layout", layout, LAYOUTS)
    views = _views(model)
    by_prefix: dict[str, Step] = {
        step.prefix: step for step in model.steps if step.n_parameters or step.running >= 0
    }
    other = dict(names or {})
    for ours, theirs in other.items():
        if ours not in views:
            errors.unknown("names", str(ours), list(views))
        if not isinstance(theirs, str) or not theirs:
            raise TypeError(f"names[{ours!r}] must be a text, got {theirs!r}")
    entries = {}
    for ours in views:
        prefix, _, last = ours.rpartition(".")
        kind = by_prefix[prefix].kind
        name = ours
        if layout == "keras":
            new = (
                last.replace("weight", "embeddings")
                if kind == "embedding"
                else _KERAS.get(kind, {}).get(last, last)
            )
            name = f"{prefix}.{new}"
        turned = layout == "torch" and kind == "dense" and last == "weight"
        entries[ours] = _Entry(other.get(ours, name), turned)
    used = [entry.name for entry in entries.values()]
    twice = sorted({name for name in used if used.count(name) > 1})
    if twice:
        raise ValueError(f"names must give each weight a name of its own, got {twice} for several")
    return entries


# ---------------------------------------------------------------- files


def _from_safetensors(path: str) -> dict[str, Array]:
    return container.read_tensors(path)


# What zipfile, zlib and NumPy raise on files that are not what they should be.
_BROKEN = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError, KeyError)


def _from_npz(path: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """Arrays by name; of those that are not wanted, or have another shape, the header alone is read."""
    found: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                name = member.removesuffix(".npy")
                if name in found:
                    raise FormatError(f"{path} has {name!r} twice")
                with archive.open(member) as file:
                    shape, fortran, dtype = _npy_header(file)
                    if name not in shapes or shape != shapes[name] or dtype.kind != "f":
                        found[name] = np.broadcast_to(np.zeros((), dtype), shape)
                        continue
                    n_bytes = math.prod(shape) * dtype.itemsize
                    data = file.read(n_bytes + 1)
                if len(data) != n_bytes:
                    raise FormatError(f"{name!r} in {path} must have {n_bytes} bytes of numbers")
                found[name] = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    except FormatError:
        raise
    except _BROKEN as error:
        raise FormatError(f"{path} must be an npz file of arrays of numbers: {error}") from None
    return found


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(file)
    if version == (1, 0):
        return npy.read_array_header_1_0(file)
    if version == (2, 0):
        return npy.read_array_header_2_0(file)
    raise ValueError(f"version {version} of the format of arrays")
