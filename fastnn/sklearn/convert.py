"""From an estimator to a model and a file, and back."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ..network import Sequential
from . import extras
from .estimators import STOCK, MLPClassifier, MLPRegressor
from .network import OUTPUTS, Network

__all__ = ["from_sklearn", "to_fastnn"]


def to_fastnn(estimator: Any) -> Sequential:
    """A model with a copy of a fitted estimator's parameters: `save` it, `compile` it, `predict` with it.

    `model.predict` gives what the last layer gives before its link (logits of a classifier, the logarithm of
    a Poisson rate); `predict_proba` of it gives the probabilities of a classifier.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor
        scikit-learn's or ours, fitted.

    Returns
    -------
    Sequential
        In the dtype of `coefs_`.
    """
    own = estimator if isinstance(estimator, (MLPClassifier, MLPRegressor)) else from_sklearn(estimator)
    check_is_fitted(own)
    coefs = own.coefs_
    widths = [w.shape[1] for w in coefs]
    dtype = np.dtype(coefs[0].dtype)
    layers = extras.layers(own, widths[:-1], widths[-1])
    network = Network(layers, coefs[0].shape[0], dtype, own.out_activation_)
    if own.batch_norm:
        network.model.parameters[...], network.model.buffers[...] = own._norms
    network.load(coefs, own.intercepts_)
    link = OUTPUTS[own.out_activation_]
    network.model.link = link if link != "identity" else None
    return network.model


def from_sklearn(estimator: Any) -> Any:
    """Our estimator with the parameters, attributes and fitted state of scikit-learn's.

    Parameters
    ----------
    estimator : sklearn.neural_network.MLPClassifier or MLPRegressor

    Returns
    -------
    fastnn.sklearn.MLPClassifier or MLPRegressor
        Arrays are copies. Ours is returned as it is.
    """
    if isinstance(estimator, (MLPClassifier, MLPRegressor)):
        return estimator
    for stock, own in zip(STOCK, (MLPClassifier, MLPRegressor), strict=True):
        if isinstance(estimator, stock):
            found = own(**estimator.get_params(deep=False))
            state = {name: value for name, value in vars(estimator).items() if name not in found.get_params()}
            found.__dict__.update(copy.deepcopy(state))
            return found
    raise TypeError(f"estimator must be an MLPClassifier or MLPRegressor, got {type(estimator).__name__}")
