"""Descriptions as JSON and back: layers, losses and optimizers by the name of their class and their fields.

What may be named stands in a dictionary: a file can make descriptions and nothing else. Fields are judged by
the class itself, at the door that judges its users.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from . import schedules
from .errors import FormatError
from .initializers import Constant, Orthogonal, TruncatedNormal
from .input_layers import Flatten, Periodic, PiecewiseLinear
from .layers import Activation, Concat, Dense, Dropout, Embedding, Residual, Scale
from .losses import (
    MAE,
    MSE,
    BinaryCrossEntropy,
    CrossEntropy,
    Focal,
    GaussianNLL,
    Hinge,
    Huber,
    KLDivergence,
    LogCosh,
    MultiMargin,
    Poisson,
    Quantile,
    SoftmaxFocal,
)
from .noise_layers import AlphaDropout, GaussianNoise
from .norm_layers import BatchNorm, LayerNorm, PReLU, RMSNorm
from .optimizers import (
    LBFGS,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Group,
    Lion,
    NAdam,
    RAdam,
    RMSprop,
)

__all__ = ["LAYERS", "LOSSES", "OPTIMIZERS", "from_json", "to_json"]


def _by_name(*classes: type) -> dict[str, type]:
    return {known.__name__: known for known in classes}


LAYERS = _by_name(
    *(Dense, Activation, Dropout, Scale, Embedding, Residual, Concat),
    *(BatchNorm, LayerNorm, RMSNorm, PReLU, AlphaDropout, GaussianNoise),
    *(Flatten, PiecewiseLinear, Periodic),
)
LOSSES = _by_name(
    MAE,
    MSE,
    BinaryCrossEntropy,
    CrossEntropy,
    Focal,
    GaussianNLL,
    Hinge,
    Huber,
    KLDivergence,
    LogCosh,
    MultiMargin,
    Poisson,
    Quantile,
    SoftmaxFocal,
)
OPTIMIZERS = _by_name(SGD, Adam, RMSprop, Adagrad, Adadelta, AdamW, Adamax, NAdam, RAdam, Lion, LBFGS)
# What fields of the others may hold. Schedules and initializers have their module before their name: some are
# alike.
PARTS = {
    "Group": Group,
    **{f"initializers.{known.__name__}": known for known in (Constant, Orthogonal, TruncatedNormal)},
    **{f"schedules.{name}": getattr(schedules, name) for name in schedules.__all__},
}
_ALL = {**LAYERS, **LOSSES, **OPTIMIZERS, **PARTS}
_NAMES = {known: name for name, known in _ALL.items()}


def _kept(known: type) -> list[str]:
    """Fields that a file keeps: all but a user's function, which resume finds in the trainer."""
    return [
        field.name
        for field in dataclasses.fields(known)
        if not (known is schedules.Function and field.name == "function")
    ]


def _no_function(*_: Any) -> Any:
    raise RuntimeError("a file holds no functions")


def to_json(value: Any) -> Any:
    """A description, or what a field of one holds, as JSON takes it: ``{"class": "Dense", "units": 3, ...}``.

    Raises
    ------
    TypeError
        A description of a class that no file may name, or a value that is none.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    if type(value) not in _NAMES or not dataclasses.is_dataclass(value):
        raise TypeError(
            f"a file can keep descriptions of fastnn, got {value!r} of type {type(value).__name__}"
        )
    later = {
        field.name: field.default
        for field in dataclasses.fields(value)
        if field.name in getattr(value, "later", ())
    }
    fields = {
        name: to_json(getattr(value, name))
        for name in _kept(type(value))
        if name not in later or getattr(value, name) != later[name]
    }
    return {"class": _NAMES[type(value)], **fields}


def from_json(where: str, value: Any, classes: Mapping[str, type]) -> Any:
    """The description that `to_json` gave.

    Parameters
    ----------
    where : str
        What the messages call it.
    classes : mapping of type
        Those that may be named.

    Raises
    ------
    FormatError
        The class is unknown; fields are missing, unknown or wrong.
    """
    if not isinstance(value, dict) or not isinstance(value.get("class"), str):
        raise FormatError(f"{where} must be an object with a class, got {value!r:.200}")
    name = value["class"]
    if name not in classes:
        raise FormatError(f"class of {where} must be one of {', '.join(classes)}, got {name!r:.200}")
    # Fields that a class got after files of the format were written are kept where they are not the default.
    names, later = set(_kept(classes[name])), set(getattr(classes[name], "later", ()))
    given = {
        field: _field(f"{where}, {name}", item, classes) for field, item in value.items() if field != "class"
    }
    faults = [
        f"{fault} {', '.join(sorted(found))}"
        for fault, found in (
            ("misses", names - later - given.keys()),
            ("must not have", given.keys() - names),
        )
        if found
    ]
    if faults:
        raise FormatError(f"{where}, {name}, {' and '.join(faults)}")
    if classes[name] is schedules.Function:
        given["function"] = _no_function
    several = getattr(classes[name], "several", None)  # the field that is given as arguments one by one
    try:
        return classes[name](*given.pop(several), **given) if several else classes[name](**given)
    except (TypeError, ValueError) as error:
        raise FormatError(f"{where}, {name}: {error}") from None


def _field(where: str, value: Any, classes: Mapping[str, type]) -> Any:
    """What a field holds: a plain value, several, or a description."""
    if isinstance(value, dict):
        return from_json(where, value, {**classes, **PARTS})
    if isinstance(value, list):
        return tuple(_field(where, item, classes) for item in value)
    return value
