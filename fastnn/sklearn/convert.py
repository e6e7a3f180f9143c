"""From an estimator to a model and a file, and back."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.validation import check_is_fitted

from .. import folding
from ..network import Sequential
from ..steps import sources_of
from . import extras
from .estimators import STOCK, MLPClassifier, MLPRegressor
from .network import ACTIVATIONS, OUTPUTS, Network

__all__ = ["from_sklearn", "to_fastnn", "to_sklearn"]

Array = NDArray[Any]


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


def to_sklearn(model: Any) -> Any:
    """scikit-learn's own fitted estimator, which predicts what a model or an estimator of ours predicts.

    Parameters
    ----------
    model : Sequential, MLPClassifier or MLPRegressor
        Dense layers with one activation of identity, relu, sigmoid and tanh for all hidden ones. A BatchNorm
        beside a product is folded into it; dropout and noise, which predictions pass by, are left out.
        Outputs that a link makes probabilities, or a last layer of softmax or sigmoid, make a classifier; two
        of softmax become its one. All else is a regressor. An estimator of ours without more than
        scikit-learn has keeps its whole state, and training goes on.

    Returns
    -------
    sklearn.neural_network.MLPClassifier or MLPRegressor
        Arrays are copies, in the dtype of the model. Of classes it takes ``model.classes``, else 0, 1, ..

    Raises
    ------
    ValueError
        The model has a layer that scikit-learn has not.
    """
    if isinstance(model, STOCK) and not isinstance(model, (MLPClassifier, MLPRegressor)):
        return model
    if isinstance(model, (MLPClassifier, MLPRegressor)):
        check_is_fitted(model)
        if not extras.extensions(model):
            return _stock(model)
        labels = getattr(model, "classes_", None)
        if model.out_activation_ == "exp":
            raise ValueError("model must be without more than scikit-learn has where its outputs are rates")
        found = _estimator(to_fastnn(model), labels)
        if hasattr(model, "feature_names_in_"):
            found.feature_names_in_ = model.feature_names_in_.copy()
        return found
    if not isinstance(model, Sequential):
        kind = type(model).__name__
        raise TypeError(f"model must be a Sequential, MLPClassifier or MLPRegressor, got {kind}")
    return _estimator(model, None if model.classes is None else np.asarray(model.classes))


def _stock(estimator: Any) -> Any:
    """scikit-learn's estimator with the parameters and fitted state of ours."""
    stock = STOCK[0] if isinstance(estimator, MLPClassifier) else STOCK[1]
    names, ours = stock._get_param_names(), estimator.get_params(deep=False)
    found = stock(**{name: value for name, value in ours.items() if name in names})
    kept = {name: value for name, value in estimator.__getstate__().items() if name in _STATE}
    found.__dict__.update(copy.deepcopy(kept))
    return found


# What scikit-learn's estimators know once they are fitted.
_STATE = {
    "n_features_in_", "feature_names_in_", "coefs_", "intercepts_", "classes_", "n_layers_", "n_outputs_",
    "out_activation_", "n_iter_", "t_", "loss_", "loss_curve_", "best_loss_", "validation_scores_",
    "best_validation_score_", "_label_binarizer", "_no_improvement_count", "_random_state", "_optimizer",
    "_best_coefs", "_best_intercepts",
}  # fmt: skip


def _estimator(model: Sequential, labels: Array | None) -> Any:
    """scikit-learn's estimator of a model, its parameters in arrays of their own."""
    coefs, intercepts, activations = _products(model)
    theirs = {name: name_there for name_there, name in ACTIVATIONS.items()}
    *hidden, last = activations
    for activation in hidden:
        if activation not in theirs:
            raise ValueError(
                f"model must have hidden activations of {', '.join(theirs)}, which scikit-learn has, got "
                f"{activation!r}"
            )
    if len(set(hidden)) > 1:
        raise ValueError(f"model must have one activation for all hidden layers, got {', '.join(hidden)}")
    output = model.link or ("identity" if last == "identity" else last)
    if last not in ("identity", output) or output not in ("identity", "softmax", "sigmoid"):
        raise ValueError(f"model must end with no activation, softmax or sigmoid, got {last!r}")
    if output == "softmax" and coefs[-1].shape[1] == 2:  # softmax of two is the sigmoid of their difference
        coefs[-1] = np.ascontiguousarray(np.diff(coefs[-1], axis=1))
        intercepts[-1] = np.diff(intercepts[-1])
        output = "sigmoid"
    n_out = coefs[-1].shape[1]
    parameters = {
        "hidden_layer_sizes": tuple(w.shape[1] for w in coefs[:-1]),
        "activation": theirs[hidden[0]] if hidden else "relu",
    }
    found = STOCK[output == "identity"](**parameters)
    found.coefs_, found.intercepts_ = coefs, intercepts
    found.n_features_in_, found.n_outputs_, found.n_layers_ = coefs[0].shape[0], n_out, len(coefs) + 1
    found.out_activation_ = {"sigmoid": "logistic"}.get(output, output)
    if output != "identity":
        found._label_binarizer = _binarizer(labels, n_out, is_softmax=output == "softmax")
        found.classes_ = found._label_binarizer.classes_
    found.n_iter_, found.t_, found.loss_curve_ = 0, 0, []
    found.best_loss_, found._no_improvement_count = math.inf, 0
    found.validation_scores_ = found.best_validation_score_ = None
    return found


def _products(model: Sequential) -> tuple[list[Array], list[Array], list[str]]:
    """Weight, bias and activation of each product of a model that is a chain of them."""
    steps, block = model.steps, model.parameters
    if folding.can_fold(steps):
        steps, block = folding.fold(steps, block, model.buffers)
    coefs: list[Array] = []
    intercepts: list[Array] = []
    activations: list[str] = []
    for i, step in enumerate(steps):
        if sources_of(i, step) != (i - 1,):
            raise ValueError(f"model must be a chain of layers, has branches at layer {step.prefix}")
        if step.kind in ("dropout", "alpha_dropout", "noise"):
            continue
        if step.kind == "dense":
            weight = block[step.weight : step.weight + step.n_in * step.n_out]
            coefs.append(weight.reshape(step.n_in, step.n_out).copy())
            bias = block[step.bias : step.bias + step.n_out] if step.bias >= 0 else np.zeros(step.n_out)
            intercepts.append(bias.astype(model.dtype))
            activations.append(step.activation)
        elif step.kind == "activation" and activations and activations[-1] == "identity":
            activations[-1] = step.activation
        elif step.activation != "identity" or step.kind != "activation":
            raise ValueError(
                f"model must have dense layers alone, each with one activation, got a {step.kind} at layer "
                f"{step.prefix}"
            )
    if not coefs:
        raise ValueError("model must have a Dense, has none")
    return coefs, intercepts, activations


def _binarizer(labels: Array | None, n_out: int, *, is_softmax: bool) -> LabelBinarizer:
    """What scikit-learn turns outputs into labels with; one for many yes or no's, where several are asked."""
    n_classes = n_out if is_softmax or n_out > 1 else 2
    known = np.arange(n_classes) if labels is None else labels
    if len(known) != n_classes:
        raise ValueError(f"classes of the model must be {n_classes}, got {len(known)}")
    if np.any(np.asarray(known[:-1]) >= np.asarray(known[1:])):
        raise ValueError(f"classes of the model must be sorted, as scikit-learn has them, got {list(known)}")
    binarizer = LabelBinarizer()
    if not is_softmax and n_out > 1:  # a column of yes or no for each
        return binarizer.fit(np.vstack([np.ones((1, n_out), int), np.eye(n_out, dtype=int)]))
    return binarizer.fit(known)
