"""Loss and gradient of all rows, for L-BFGS."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..errors import DivergenceError
from . import extras, ranges
from .network import Network
from .steps import poisson_constant, row_parts, targets_of, type_of_loss

__all__ = ["Gradients"]

Array = NDArray[Any]


class Gradients:
    """The counterpart of scikit-learn's `_loss_grad_lbfgs`, on the estimator's device.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor
        Whose loss and layers are taken.
    x, y : ndarray (rows, n_in), (rows, n_out)
        Sparse x is made dense; where that is too long at once, in parts at each evaluation.
    weight : ndarray (rows,) or None

    Attributes
    ----------
    is_whole : bool
        Whether all rows are one batch. A loss of the user's own is a function of it.
    """

    def __init__(self, estimator: Any, x: Any, y: Array, weight: Array | None) -> None:
        self.estimator, self.x, self.y, self.weight = estimator, x, y, weight
        self.loss_type = type_of_loss(estimator, x, y, weight)
        self.network: Network | None = None
        # scipy asks for float64, whatever X is of.
        self.parts = row_parts(x, np.dtype(np.float64)) if sparse.issparse(x) else []
        self.is_whole = len(self.parts) < 2 or getattr(estimator.loss, "function", None) is not None
        if sparse.issparse(x):
            self.x = x.toarray() if self.is_whole else x.tocsr()

    def _prepare(self, dtype: np.dtype[Any]) -> Network:
        """scipy works in float64, whatever X is: so does scikit-learn's gradient then."""
        estimator = self.estimator
        widths = [w.shape[1] for w in estimator.coefs_]
        layers = extras.layers(estimator, widths[:-1], widths[-1])
        network = Network(layers, self.x.shape[1], dtype, estimator.out_activation_, estimator.device)
        loss, objective = extras.plan(estimator, network.n_out, dtype)
        if not self.is_whole:  # the sum over all parts has it once
            objective = dataclasses.replace(objective, l2=objective.l2 / len(self.parts))
        own = getattr(loss, "function", None) is not None
        network.compile(loss, None, None if own else objective)
        labels = estimator.out_activation_ == "softmax" and loss.takes_labels
        self.targets = targets_of(self.y, labels, dtype)
        self.rows: Any = np.require(self.x, dtype, ["C", "A"]) if self.is_whole else self.x
        self.weights = None if self.weight is None else self.weight.astype(np.float64)
        self.shift = 0.0
        if estimator.loss == "poisson":
            self.shift = float(np.average(poisson_constant(self.targets), axis=0, weights=self.weight).sum())
        self.network = network
        return network

    def at(self, packed: Array) -> tuple[Any, Array] | None:
        """Loss and gradient at packed parameters, all coefs before all intercepts; None where not finite."""
        network = self.network
        if network is None or packed.dtype != network.dtype:
            network = self._prepare(packed.dtype)
        begin = 0
        for view in (*network.coefs, *network.intercepts):
            view[...] = packed[begin : begin + view.size].reshape(view.shape)
            begin += view.size
        if ranges.far("", network.model.parameters, network.dtype):
            return None
        try:
            loss, flat = self._of_all_rows(network)
        except DivergenceError:
            return None
        gradient = np.concatenate([part.ravel() for part in network.parts(flat)])
        return self.loss_type(loss + self.shift), gradient

    def _of_all_rows(self, network: Network) -> tuple[float, Array]:
        """Mean loss and its flat gradient."""
        program: Any = network.program
        if self.is_whole:
            found: tuple[float, Array] = program.gradient(self.rows, self.targets, self.weights)
            return found
        total = loss = 0.0
        gradient: Any = 0.0
        for part in self.parts:
            x = self.rows[part].toarray().astype(network.dtype, copy=False)
            weights = None if self.weights is None else self.weights[part]
            size = float(len(x) if weights is None else weights.sum())
            of_part, flat = program.gradient(x, self.targets[part], weights)
            loss += size * of_part
            gradient = gradient + size * flat
            total += size
        return loss / total, gradient / total
