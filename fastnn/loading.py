"""Files back into what was saved."""

from __future__ import annotations

import os

from . import container, saving
from .ensemble import Ensemble
from .network import Sequential, described

__all__ = ["load"]


def load(path: str | os.PathLike[str]) -> Sequential | Ensemble:
    """The model that `Sequential.save` wrote, or the ensemble of `Ensemble.save`, ready to predict.

    Loading runs no code and takes no more than about twice the memory of the file. The file must be intact
    and have each weight of its architecture and no other.

    Raises
    ------
    FormatError
        It is truncated, altered, of a newer format, of another program, or does not fit itself.
    OSError
        It can not be read.
    """
    found = container.read(path)
    if found.metadata.get("kind") == "ensemble":
        return Ensemble._from_file(found)
    description, weights = saving.read_model(found)
    return described(found.path, description, weights)
