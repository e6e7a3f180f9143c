"""What the estimators have beyond scikit-learn's: parameters, judged, and what they mean."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._param_validation import Interval, StrOptions

from .. import devices, kernels
from ..callbacks import Callback
from ..losses import Loss
from ..optimizers import LBFGS, Optimizer
from ..steps import Objective
from .network import ACTIVATIONS, layers_of, task_of

__all__ = [
    "CONSTRAINTS",
    "activations_of",
    "description",
    "extensions",
    "judge",
    "layers",
    "plan",
    "threads",
    "unknown",
]

Array = NDArray[Any]

_NAMES = {*ACTIVATIONS, *(one for one in kernels.ACTIVATIONS if "softmax" not in one)}

CONSTRAINTS: dict[str, Any] = {
    "activation": [StrOptions(_NAMES), "array-like"],
    "dropout": [Interval(Real, 0, 1, closed="left"), "array-like"],
    "batch_norm": ["boolean"],
    "optimizer": [Optimizer, None],
    "clip_norm": [Interval(Real, 0, None, closed="neither"), None],
    "callbacks": ["array-like", None],
    "n_threads": [Interval(Integral, 1, None, closed="left"), None],
    "device": [str],
}


def _n_hidden(estimator: Any) -> int:
    sizes = estimator.hidden_layer_sizes
    return len(list(sizes)) if hasattr(sizes, "__iter__") else 1


def activations_of(estimator: Any, n_hidden: int) -> list[str]:
    """Our names, one a hidden layer."""
    given = estimator.activation
    names = [given] * n_hidden if isinstance(given, str) else list(given)
    if len(names) != n_hidden:
        raise ValueError(f"activation must be one name, or {n_hidden}, one a hidden layer, got {given!r}")
    for name in names:
        if not isinstance(name, str) or name not in _NAMES:
            raise ValueError(f"activation must be of {', '.join(sorted(_NAMES))}, got {name!r}")
    return [ACTIVATIONS.get(name, name) for name in names]


def _dropout(estimator: Any, n_hidden: int) -> list[float]:
    given = estimator.dropout
    rates: list[Any] = [given] * n_hidden if isinstance(given, Real) else list(given)
    if len(rates) != n_hidden or not all(isinstance(one, Real) and 0 <= float(one) < 1 for one in rates):
        raise ValueError(
            f"dropout must be a rate from 0 to below 1, or {n_hidden}, one a hidden layer, got {given!r}"
        )
    return [float(one) for one in rates] if any(rates) else []


def layers(estimator: Any, hidden: list[int], n_out: int) -> list[Any]:
    """Descriptions of an estimator's net."""
    return layers_of(
        hidden,
        n_out,
        activations_of(estimator, len(hidden)),
        dropout=_dropout(estimator, len(hidden)),
        batch_norm=bool(estimator.batch_norm),
    )


def description(estimator: Any) -> tuple[Any, ...]:
    """What a network and its programs are made by, beside widths; users may change it between calls."""
    activation, dropout = estimator.activation, estimator.dropout
    return (
        activation if isinstance(activation, str) else tuple(activation),
        dropout if isinstance(dropout, Real) else tuple(dropout),
        bool(estimator.batch_norm),
        estimator.out_activation_,
        estimator.device,
    )


def extensions(estimator: Any) -> list[str]:
    """Parameters that have values which scikit-learn's code does not know."""
    found = []
    if not (isinstance(estimator.activation, str) and estimator.activation in ACTIVATIONS):
        found.append("activation")
    if not isinstance(estimator.loss, str):
        found.append("loss")
    if np.any(np.asarray(estimator.dropout, float)):
        found.append("dropout")
    found += [name for name in ("batch_norm",) if getattr(estimator, name)]
    return found + [name for name in ("optimizer", "clip_norm") if getattr(estimator, name) is not None]


def unknown(estimator: Any) -> list[str]:
    """What scikit-learn's code cannot stand in for: extensions, and a device that was asked for."""
    device = estimator.device
    return extensions(estimator) + ([] if device == "cpu" else [f"device={device!r}"])


def judge(estimator: Any) -> None:
    """Refuse values that do not go together."""
    activations_of(estimator, _n_hidden(estimator))
    _dropout(estimator, _n_hidden(estimator))
    devices.check(estimator.device)
    found = extensions(estimator)
    given = [name for name in found if name in ("dropout", "batch_norm", "optimizer", "clip_norm")]
    if estimator.solver == "lbfgs" and given:
        raise ValueError(f"solver must be 'sgd' or 'adam' with {', '.join(given)}, got 'lbfgs'")
    if isinstance(estimator.optimizer, LBFGS):
        raise ValueError("optimizer must take mini-batches; for L-BFGS there is solver='lbfgs'")
    for one in estimator.callbacks or ():
        if not isinstance(one, Callback):
            raise TypeError(f"callbacks must be fastnn.Callback objects, got {one!r}")
    if estimator.callbacks and estimator.solver == "lbfgs":
        raise ValueError("solver must be 'sgd' or 'adam' with callbacks, got 'lbfgs'")


def plan(estimator: Any, n_out: int, dtype: np.dtype[Any]) -> tuple[Loss, Objective]:
    """The loss of an estimator, and what of it is minimised and told, with its penalty."""
    # With an optimizer of fastnn, its weight_decay stands for alpha.
    l2 = float(estimator.alpha) if estimator.optimizer is None else 0.0
    given, out = estimator.loss, estimator.out_activation_
    if isinstance(given, str):
        loss, objective = task_of(given, out, n_out, dtype)
        return loss, dataclasses.replace(objective, l2=l2)
    wanted = {"softmax": "softmax", "logistic": "sigmoid"}.get(out)
    if wanted is not None and given.link != wanted:
        raise ValueError(
            f"loss must be one of {'classes' if wanted == 'softmax' else 'yes or no'} (its link is {wanted}) "
            f"for this y, got {given!r}"
        )
    if not given.takes_labels and given.n_targets(n_out) != n_out:
        raise ValueError(f"loss must have one output a column of y, got {given!r}")
    if getattr(given, "function", None) is not None and l2:
        raise ValueError(f"alpha must be 0 with a loss of your own, got {l2!r}")
    return given, Objective(l2=l2, cap=math.inf)


@contextlib.contextmanager
def threads(n_threads: int | None) -> Iterator[None]:
    """So many threads for a while; None: as many as there are."""
    if n_threads is None:
        yield
        return
    before = kernels.get_num_threads()
    try:
        kernels.set_num_threads(int(n_threads))
    except ValueError as error:
        raise ValueError(f"n_threads{str(error).removeprefix('n')}") from None
    try:
        yield
    finally:
        kernels.set_num_threads(before)
