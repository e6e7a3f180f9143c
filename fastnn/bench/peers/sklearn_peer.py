"""scikit-learn's own MLP classes, through `partial_fit`: one epoch a call, in an order of its own."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import numpy as np
import sklearn
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor

from ..cells import LR, Array
from . import Task


def _estimator(task: Task) -> tuple[Any, dict[str, Any]]:
    """One with the parameters of the task, and keywords of its `partial_fit`."""
    cell, regression = task.cell, task.cell.loss == "mse"
    keywords = {} if regression else {"classes": np.arange(cell.sizes[-1])}
    estimator = (MLPRegressor if regression else MLPClassifier)(
        hidden_layer_sizes=cell.sizes[1:-1],
        solver="sgd",
        alpha=0,
        batch_size=min(cell.batch, len(task.x)),
        # Its squared error has a factor 1/2, so the rate is doubled for equal steps.
        learning_rate_init=LR * (2 if regression else 1),
        momentum=0,
        nesterovs_momentum=False,
        random_state=0,
    )
    # A first call makes its arrays: it offers no way to give initial weights.
    size = estimator.batch_size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.partial_fit(task.x[:size], task.y[:size].ravel() * 0, **keywords)
    at = 0
    for array in _arrays(estimator):
        array[...] = task.parameters[at : at + array.size].reshape(array.shape)
        at += array.size
    return estimator, keywords


def _arrays(estimator: Any) -> list[Array]:
    pairs = zip(estimator.coefs_, estimator.intercepts_, strict=True)
    return [array for pair in pairs for array in pair]


class Trained:
    """One call is an epoch over as many rows as the order has; its step holds its shuffle and bookkeeping."""

    def __init__(self, task: Task) -> None:
        self._estimator, self._keywords = _estimator(task)
        self._x, self._y = task.x, task.y.ravel()

    def train(self, order: Array) -> None:
        """As many steps, in an order of its own."""
        self._estimator.partial_fit(self._x[: order.size], self._y[: order.size], **self._keywords)

    def check(self, order: Array) -> None:
        """The steps of order."""
        rows = order.ravel()
        self._estimator.shuffle = False
        self._estimator.partial_fit(self._x[rows], self._y[rows], **self._keywords)
        self._estimator.shuffle = True

    def parameters(self) -> Array:
        """Flat."""
        return np.concatenate([array.ravel() for array in _arrays(self._estimator)])


class Predicted:
    """`predict_proba`, or `predict` of a regressor."""

    def __init__(self, task: Task) -> None:
        estimator, _ = _estimator(task)
        regression = task.cell.loss == "mse"
        self.link = None if regression else "softmax"
        call, x = estimator.predict if regression else estimator.predict_proba, task.x
        self.predict = partial(call, x)

    def outputs(self, result: Any) -> Array:
        """As an array."""
        return np.asarray(result)


WAYS_TO_TRAIN = {"partial_fit": Trained}
WAYS_TO_PREDICT = {"predict": Predicted}


def about(threads: int) -> dict[str, str]:
    """Version."""
    return {"scikit-learn": sklearn.__version__}
