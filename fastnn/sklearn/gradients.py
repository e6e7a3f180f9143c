"""Loss and gradient of all rows, for L-BFGS."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DivergenceError
from . import extras
from .network import Network
from .steps import poisson_constant, targets_of, type_of_loss

__all__ = ["Gradients"]

Array = NDArray[Any]


class Gradients:
    """The compiled counterpart of scikit-learn's `_loss_grad_lbfgs`.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor
        Whose loss and layers are taken.
    x, y : ndarray (rows, n_in), (rows, n_out)
    weight : ndarray (rows,) or None
    """

    def __init__(self, estimator: Any, x: Array, y: Array, weight: Array | None) -> None:
        self.estimator, self.x, self.y, self.weight = estimator, x, y, weight
        self.loss_type = type_of_loss(estimator, x, y, weight)
        self.network: Network | None = None

    def _prepare(self, dtype: np.dtype[Any]) -> Network:
        """scipy works in float64, whatever X is: so does scikit-learn's gradient then."""
        estimator = self.estimator
        widths = [w.shape[1] for w in estimator.coefs_]
        layers = extras.layers(estimator, widths[:-1], widths[-1])
        network = Network(layers, self.x.shape[1], dtype, estimator.out_activation_)
        loss, objective = extras.plan(estimator, network.n_out, dtype)
        own = getattr(loss, "function", None) is not None
        network.compile(loss, None, None if own else objective)
        labels = estimator.out_activation_ == "softmax" and loss.takes_labels
        self.targets = targets_of(self.y, labels, dtype)
        self.rows = np.ascontiguousarray(self.x, dtype)
        self.weights = None if self.weight is None else self.weight.astype(np.float64)
        self.shift = 0.0
        if estimator.loss == "poisson":
            self.shift = float(np.average(poisson_constant(self.targets), axis=0, weights=self.weight).sum())
        self.network = network
        return network

    def at(self, packed: Array) -> tuple[Any, Array] | None:
        """Loss and gradient at packed parameters, all coefs before all intercepts; None where not finite."""
        network = self.network if self.network is not None else self._prepare(packed.dtype)
        if packed.dtype != network.dtype:
            network = self._prepare(packed.dtype)
        begin = 0
        for view in (*network.coefs, *network.intercepts):
            view[...] = packed[begin : begin + view.size].reshape(view.shape)
            begin += view.size
        assert network.program is not None
        try:
            loss, flat = network.program.gradient(self.rows, self.targets, self.weights)
        except DivergenceError:
            return None
        gradient = np.concatenate([part.ravel() for part in network.parts(flat)])
        return self.loss_type(loss + self.shift), gradient
