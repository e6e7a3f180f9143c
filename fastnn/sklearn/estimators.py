"""scikit-learn's multilayer perceptrons on compiled steps."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn import neural_network
from sklearn.utils.validation import check_is_fitted

from .. import devices
from ..errors import DivergenceError
from . import stochastic
from .network import ACTIVATIONS, Network, layers_of, task_of
from .steps import targets_of

__all__ = ["MLPClassifier", "MLPRegressor"]

Array = NDArray[Any]

# The compiled network of each estimator: not in its __dict__, which users print, compare and pickle.
_NETWORKS: weakref.WeakKeyDictionary[Any, Network] = weakref.WeakKeyDictionary()
_REAL = (np.dtype(np.float32), np.dtype(np.float64))


def _hidden(estimator: Any) -> list[int]:
    sizes = estimator.hidden_layer_sizes
    return [int(n) for n in sizes] if hasattr(sizes, "__iter__") else [int(sizes)]


class _Compiled:
    """What both estimators put in the place of scikit-learn's."""

    # ------------------------------------------------------------ which engine

    def _obstacle(self, x: Any) -> str | None:
        """Why scikit-learn's own code must do it; None: nothing stands in the way."""
        if sparse.issparse(x):
            return "X is sparse"
        if x.dtype not in _REAL:
            return f"X is of {x.dtype}"
        base = neural_network.MLPClassifier.__mro__
        stock = next(one for one in base if one.__name__ == "BaseMultilayerPerceptron")
        for name in ("_backprop", "_forward_pass", "_compute_loss_grad"):
            if getattr(type(self), name) is not getattr(stock, name):
                return f"{type(self).__name__} has its own {name}"
        return None

    def _bound(self: Any, dtype: np.dtype[Any]) -> Network | None:
        """The network whose block `coefs_` and `intercepts_` are views of; None where they fit in none."""
        network = _NETWORKS.get(self)
        if network is not None and network.dtype == dtype and network.holds(self.coefs_, self.intercepts_):
            return network
        if network is None or not network.takes(self.coefs_, self.intercepts_):
            coefs = self.coefs_
            if self.activation not in ACTIVATIONS or any(np.ndim(w) != 2 for w in coefs):
                return None
            widths = [w.shape[1] for w in coefs]
            layers = layers_of(widths[:-1], widths[-1], [ACTIVATIONS[self.activation]] * (len(widths) - 1))
            network = Network(layers, coefs[0].shape[0], dtype, self.out_activation_)
            if not network.takes(coefs, self.intercepts_):
                return None
        network.load(self.coefs_, self.intercepts_)
        # In place: the lists are the user's.
        self.coefs_[:], self.intercepts_[:] = network.coefs, network.intercepts
        _NETWORKS[self] = network
        return network

    # ------------------------------------------------------------ training

    def _fit_stochastic(
        self: Any,
        X: Any,
        y: Array,
        sample_weight: Array | None,
        activations: list[Any],
        deltas: list[Any],
        coef_grads: list[Any],
        intercept_grads: list[Any],
        layer_units: list[int],
        incremental: bool,
    ) -> None:
        lists = activations, deltas, coef_grads, intercept_grads
        reason = self._obstacle(X)
        if reason is None and sample_weight is not None and not np.all(sample_weight > 0):
            reason = "some of sample_weight are not above 0"
        network = self._bound(X.dtype) if reason is None else None
        if network is None:
            self.fit_info_ = {
                "engine": "scikit-learn",
                "reason": reason or "coefs_ or intercepts_ are not of the dtype of X",
            }
            super()._fit_stochastic(  # type: ignore[misc]
                X, y, sample_weight, *lists, layer_units, incremental
            )
            return
        self.fit_info_ = {"engine": "fastnn", "reason": f"dense {X.dtype} data"}
        stochastic.fit(self, network, X, y, sample_weight, lists, incremental)

    # ------------------------------------------------------------ prediction

    def _forward_pass_fast(self: Any, X: Any, check_input: bool = True) -> Array:
        network = _NETWORKS.get(self)
        if (
            network is not None
            and type(X) is np.ndarray
            and X.dtype == network.dtype
            and X.ndim == 2
            and X.shape[1] == network.n_in
            and X.shape[0]
            and X.flags.c_contiguous
            and network.holds(self.coefs_, self.intercepts_)
            and not (check_input and not _is_plain(self, X))
        ):
            return network.output(X)
        return self._slow_pass(X, check_input)

    def _slow_pass(self: Any, X: Any, check_input: bool) -> Array:
        if check_input:
            X = self._validated(X)
        dtype = self.coefs_[0].dtype
        if self._obstacle_to_predict(X) is None and np.result_type(X.dtype, dtype) == dtype:
            network = self._bound(dtype)
            if network is not None:
                return network.output(np.ascontiguousarray(X, dtype))
        return super()._forward_pass_fast(X, check_input=False)  # type: ignore[misc,no-any-return]

    def _obstacle_to_predict(self, X: Any) -> str | None:
        return "X is sparse" if sparse.issparse(X) else None

    def _validated(self, X: Any) -> Any:
        from sklearn.utils.validation import validate_data

        return validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)

    def _require_fitted(self) -> None:
        if self not in _NETWORKS:
            check_is_fitted(self)


def _is_plain(estimator: Any, x: Array) -> bool:
    """Whether scikit-learn's validation would let x pass as it is."""
    return not hasattr(estimator, "feature_names_in_") and bool(np.isfinite(np.add.reduce(x, axis=None)))


class MLPClassifier(_Compiled, neural_network.MLPClassifier):  # type: ignore[misc]
    """scikit-learn's MLPClassifier, several times faster."""

    def predict(self, X: Any) -> Array:
        self._require_fitted()
        return self._predict(X)

    def _predict(self, X: Any, check_input: bool = True) -> Array:
        found = self._forward_pass_fast(X, check_input=check_input)
        binarizer = self._label_binarizer
        if binarizer.y_type_ == "multiclass" and not binarizer.sparse_input_ and len(self.classes_) > 2:
            return binarizer.classes_.take(found.argmax(axis=1), mode="clip")
        return binarizer.inverse_transform(found.ravel() if self.n_outputs_ == 1 else found)


class MLPRegressor(_Compiled, neural_network.MLPRegressor):  # type: ignore[misc]
    """scikit-learn's MLPRegressor, several times faster."""
