"""What model files and checkpoints hold: the names of their metadata and tensors, and their judgement.

Metadata of a model, each a text:

====================  ==========================================================================
checksum              ``sha256:`` and 64 digits, the first thing in the header; see `container`
format                ``fastnn``
format_version        ``1``
kind                  ``model``, ``ensemble`` or ``checkpoint``
fastnn_version        of the fastnn that wrote it
architecture          JSON: ``{"layers": [...], "dtype": "float32", "n_in": 4}``; see `descriptions`
link                  ``softmax`` or ``sigmoid``; absent for none
recipe                JSON: what turns a table into the matrix; absent for none
classes               JSON: a list of labels; absent for none
====================  ==========================================================================

Tensors of a model are its weights under the names of ``model.weights``, in the order of the flat block, then
its running statistics under those of ``model.running``. A checkpoint has the same, ``training`` (JSON) and
more tensors; see `checkpoints`. An ensemble has ``members`` and ``weights`` instead of an architecture; see
`ensemble`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from . import build_check, container, descriptions, errors
from .container import Contents
from .errors import FormatError
from .layers import AnyLayer, lower, places
from .steps import running_places

__all__ = [
    "KINDS",
    "Description",
    "judge_kind",
    "names_fault",
    "read",
    "read_model",
    "take",
    "write",
    "write_model",
]

Array = NDArray[Any]

KINDS = {
    "model": "fn.load",
    "ensemble": "fn.load",
    "weights": "fn.load_weights",
    "checkpoint": "trainer.resume",
}
LINKS = ("softmax", "sigmoid")


@dataclass(frozen=True)
class Description:
    """All that a file says of a model but its numbers.

    Parameters
    ----------
    layers : tuple
    dtype : "float32" or "float64"
    n_in : int
        Columns of the input.
    link : str or None
    recipe : JSON or None
        As `Recipe.to_json` gives it.
    classes : list or None
        Labels: texts, numbers, bools.
    """

    layers: tuple[AnyLayer, ...]
    dtype: str
    n_in: int
    link: str | None = None
    recipe: Any = None
    classes: list[Any] | None = None

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each weight by its name, in the order of the flat block; nothing is allocated."""
        return {name: shape for name, (_, shape) in places(lower(self.layers, self.n_in)).items()}

    def running_shapes(self) -> dict[str, tuple[int, ...]]:
        """The same of the running statistics."""
        found = running_places(lower(self.layers, self.n_in))
        return {name: shape for name, (_, shape) in found.items()}

    def to_metadata(self) -> dict[str, str]:
        """The texts that tell it."""
        layers = [descriptions.to_json(layer) for layer in self.layers]
        architecture = {"layers": layers, "dtype": self.dtype, "n_in": self.n_in}
        metadata = {"architecture": container.dump_json("the architecture", architecture)}
        if self.link is not None:
            metadata["link"] = errors.choice("link", self.link, LINKS)
        if self.recipe is not None:
            metadata["recipe"] = container.dump_json("the recipe", self.recipe)
        if self.classes is not None:
            metadata["classes"] = container.dump_json("classes", _plain_classes(self.classes))
        return metadata

    @classmethod
    def from_metadata(cls, path: str, metadata: Mapping[str, str]) -> Description:
        """What the texts of a file tell (FormatError)."""
        where = f"the architecture of {path}"
        found = container.parse_json(where, metadata["architecture"])
        names = {"layers", "dtype", "n_in"}
        if not isinstance(found, dict) or found.keys() != names or not isinstance(found["layers"], list):
            raise FormatError(f"{where} must have {', '.join(sorted(names))}, got {found!r:.200}")
        layers = tuple(
            descriptions.from_json(f"layer {i} of {path}", layer, descriptions.LAYERS)
            for i, layer in enumerate(found["layers"])
        )
        try:
            if not layers:
                raise ValueError("layers must be at least one, got none")
            dtype = errors.choice("dtype", found["dtype"], ["float32", "float64"])
            n_in = errors.integer("n_in", found["n_in"])
            lower(layers, n_in)  # layers that do not fit each other
            link = errors.choice("link", metadata["link"], LINKS) if "link" in metadata else None
        except (TypeError, ValueError) as error:
            raise FormatError(f"{where}: {error}") from None
        recipe = container.parse_json(f"the recipe of {path}", metadata.get("recipe", "null"))
        classes = None
        if "classes" in metadata:
            name = f"classes of {path}"
            classes = _judged_classes(name, container.parse_json(name, metadata["classes"]))
        return cls(layers, dtype, n_in, link, recipe, classes)


def _plain_classes(labels: Any) -> list[Any]:
    """Labels given as a list, tuple or array, without NumPy's types."""
    plain = labels.tolist() if isinstance(labels, np.ndarray) else labels
    if isinstance(plain, (list, tuple)):
        plain = [label.item() if isinstance(label, np.generic) else label for label in plain]
    if not _are_labels(plain):
        raise TypeError(f"classes must be a list of texts, numbers and bools, got {labels!r:.200}")
    return plain


def _are_labels(labels: Any) -> TypeGuard[list[Any]]:
    return isinstance(labels, list) and all(isinstance(label, (str, bool, int, float)) for label in labels)


def _judged_classes(name: str, labels: Any) -> list[Any]:
    """The labels of a file."""
    if not _are_labels(labels):
        raise FormatError(f"{name} must be a list of texts, numbers and bools, got {labels!r:.200}")
    return labels


# ---------------------------------------------------------------- models


def write_model(path: object, description: Description, weights: Mapping[str, Array]) -> None:
    """Write a model file; see `container.write`."""
    write(path, "model", description, weights, {})


def read_model(found: Contents) -> tuple[Description, dict[str, Array]]:
    """The description and the weights of a model file, found to fit each other.

    Raises
    ------
    FormatError
        It is of another kind, or names or shapes are not those of the architecture.
    """
    judge_kind(found, "model", {"architecture"})
    description = Description.from_metadata(found.path, found.metadata)
    shapes = {**description.shapes(), **description.running_shapes()}
    return description, take(found, shapes, description.dtype, others=False)


# ---------------------------------------------------------------- any kind


def write(
    path: object,
    kind: str,
    description: Description,
    tensors: Mapping[str, Array],
    metadata: Mapping[str, str],
) -> None:
    """Write a file of a kind: the description, what it has beyond that, and all tensors."""
    texts = {"kind": kind, "fastnn_version": build_check.version(), **description.to_metadata(), **metadata}
    container.write(path, tensors, texts)


def read(path: object, kind: str, more: set[str]) -> Contents:
    """A file of a kind, whose metadata has the names of its kind and no other.

    Parameters
    ----------
    more : set of str
        Names that this kind has beyond those of a model.
    """
    found = container.read(path)
    judge_kind(found, kind, {"architecture"} | more)
    return found


def judge_kind(found: Contents, kind: str, more: set[str]) -> None:
    """Refuse a file of another kind, or with other names in its metadata (FormatError).

    Parameters
    ----------
    more : set of str
        Names beside those of each kind and those that a model may have.
    """
    if found.metadata.get("kind") != kind:
        is_kind = found.metadata.get("kind", "")
        reader = f": {KINDS[is_kind]} reads it" if is_kind in KINDS else ""
        raise FormatError(f"{found.path} must be a {kind}, got a file of kind {is_kind!r:.200}{reader}")
    required = {"kind", "fastnn_version"} | more
    missing = required - found.metadata.keys()
    extra = found.metadata.keys() - required - {"link", "recipe", "classes"}
    if missing or extra:
        raise FormatError(f"the metadata of {found.path} {names_fault(missing, extra)}")


def take(
    found: Contents, shapes: Mapping[str, tuple[int, ...]], dtype: str, *, others: bool = True
) -> dict[str, Array]:
    """The tensors of these names, judged and taken out of the contents.

    Parameters
    ----------
    others : bool
        Whether there may be more.
    """
    missing = shapes.keys() - found.tensors.keys()
    extra = set() if others else found.tensors.keys() - shapes.keys()
    faults = [names_fault(missing, extra)] if missing or extra else []
    for name, shape in shapes.items():
        if name in missing:
            continue
        tensor = found.tensors[name]
        if tensor.shape != shape or tensor.dtype != np.dtype(dtype):
            got = f"{tensor.shape} {tensor.dtype}"
            faults.append(f"must have {name!r} of shape {shape} {dtype}, got {got}")
    if faults:
        more = f"; and {len(faults) - 8} faults more" if len(faults) > 8 else ""
        raise FormatError(f"{found.path} {'; '.join(faults[:8])}{more}")
    return {name: found.tensors.pop(name) for name in shapes}


def names_fault(missing: set[str], extra: set[str]) -> str:
    """Names that are missing and names that do not belong, some of each."""
    parts = []
    for fault, names in (("misses", missing), ("must not have", extra)):
        if names:
            shown = ", ".join(map(repr, sorted(names)[:8]))
            parts.append(f"{fault} {shown}" + (f" and {len(names) - 8} more" if len(names) > 8 else ""))
    return " and ".join(parts)
