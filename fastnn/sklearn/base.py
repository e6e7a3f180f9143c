"""What both estimators put in the place of scikit-learn's."""

from __future__ import annotations

import math
import weakref
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn import neural_network
from sklearn.base import is_classifier
from sklearn.utils import compute_sample_weight
from sklearn.utils._param_validation import validate_parameter_constraints
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from . import extras, ranges, stochastic
from .gradients import Gradients
from .network import OUTPUTS, Network
from .steps import row_parts

__all__ = ["STOCK", "Compiled"]

Array = NDArray[Any]

# The compiled network of each estimator: not in its __dict__, which users print, compare and pickle.
_NETWORKS: weakref.WeakKeyDictionary[Any, Network] = weakref.WeakKeyDictionary()
_VALIDATION: weakref.WeakKeyDictionary[Any, tuple[Any, ...]] = weakref.WeakKeyDictionary()  # of running fits
_GRADIENTS: weakref.WeakKeyDictionary[Any, Gradients] = weakref.WeakKeyDictionary()  # likewise
_NUMPY_FITS: weakref.WeakSet[Any] = weakref.WeakSet()  # estimators that scikit-learn's code is training now
_LARGEST: weakref.WeakKeyDictionary[Any, float] = weakref.WeakKeyDictionary()  # of the X of running fits


STOCK = (neural_network.MLPClassifier, neural_network.MLPRegressor)
_BASE: Any = next(one for one in STOCK[0].__mro__ if one.__name__ == "BaseMultilayerPerceptron")
# What the loss and the gradient are made of: a subclass with its own has scikit-learn's code call it.
_PARTS = "_backprop", "_forward_pass", "_compute_loss_grad"


class Compiled:
    """Before scikit-learn's classes in the order of methods."""

    # For estimators without ours in their state: pickles of scikit-learn's, read under `patch`.
    class_weight: Any = None
    dropout: Any = 0.0
    batch_norm: Any = False
    optimizer: Any = None
    clip_norm: Any = None
    callbacks: Any = None
    n_threads: Any = None
    device: Any = "cpu"

    # ------------------------------------------------------------ which engine

    def _obstacle(self: Any, x: Any, y: Any, weight: Array | None, *, dense: bool = False) -> str | None:
        """Why scikit-learn's own code must do it; None: nothing stands in the way."""
        if sparse.issparse(x) and not dense:
            return "X is sparse"
        if sparse.issparse(y):
            return "y is sparse"
        if x.dtype not in ranges.REAL:
            return f"X is of {x.dtype}"
        if odd := ranges.odd_weights(weight, x.dtype):
            return odd
        if y.dtype.kind not in "fiub":
            return f"y is of {y.dtype}"
        if y.shape[1] != self.coefs_[-1].shape[1]:
            return f"y has {y.shape[1]} columns, coefs_ {self.coefs_[-1].shape[1]}"
        if self.n_layers_ != len(self.coefs_) + 1:
            return f"n_layers_ is {self.n_layers_}, with {len(self.coefs_)} coefs_"
        links = ("softmax", "logistic") if is_classifier(self) else ("identity", "exp")
        if self.out_activation_ not in links:  # users set it, for logits
            return f"out_activation_ is {self.out_activation_!r}"
        for name in _PARTS:  # a subclass of ours with its own
            if getattr(type(self), name) is not getattr(_BASE, name):
                return f"{type(self).__name__} has its own {name}"
        if extras.unknown(self):  # which scikit-learn has not: there is nothing to be equal to
            return None
        if isinstance(self.loss, str) and self.loss == "poisson" and not (y >= 0).all():
            return "y has rates below 0, whose loss is NaN"
        if far := ranges.far("X", x, x.dtype, _LARGEST.get(self)):
            return far
        return ranges.far("alpha", np.array([self.alpha], float), x.dtype)

    def _bound(self: Any, dtype: np.dtype[Any]) -> Network | None:
        """The network whose block `coefs_` and `intercepts_` are views of; None where they fit in none."""
        network = _NETWORKS.get(self)
        if network is not None and network.described != extras.description(self):
            network = None
        if network is not None and network.dtype == dtype and network.holds(self.coefs_, self.intercepts_):
            return network
        if network is None or not network.takes(self.coefs_, self.intercepts_):
            network = self._built(dtype)
            if network is None:
                return None
        network.load(self.coefs_, self.intercepts_)
        # In place: the lists are the user's.
        self.coefs_[:], self.intercepts_[:] = network.coefs, network.intercepts
        _NETWORKS[self] = network
        return network

    def _built(self: Any, dtype: np.dtype[Any]) -> Network | None:
        coefs = self.coefs_
        if self.out_activation_ not in OUTPUTS or any(np.ndim(w) != 2 or not np.size(w) for w in coefs):
            return None
        widths = [w.shape[1] for w in coefs]
        network = Network(
            extras.layers(self, widths[:-1], widths[-1]),
            coefs[0].shape[0],
            dtype,
            self.out_activation_,
            self.device,
        )
        network.described = extras.description(self)
        if not network.takes(coefs, self.intercepts_):
            return None
        if self.batch_norm and (kept := getattr(self, "_norms", None)) is not None:
            network.model.parameters[...], network.model.buffers[...] = kept
        elif self.batch_norm:
            network.reset_norms()
        return network

    # ------------------------------------------------------------ training

    def _validate_params(self: Any) -> None:
        """scikit-learn's judgement; of a parameter that is its own, in its own words."""
        try:
            super()._validate_params()  # type: ignore[misc]
        except ValueError as error:
            stock = next(one for one in STOCK if isinstance(self, one))._parameter_constraints
            given = {name: value for name, value in self.get_params(deep=False).items() if name in stock}
            try:
                validate_parameter_constraints(stock, given, type(self).__name__)
            except ValueError as own_words:
                own_words.add_note(f"fastnn.sklearn: {error}")
                raise own_words from None
            raise

    def fit(
        self: Any, X: Any, y: Any, sample_weight: Any = None, validation_data: tuple[Any, ...] | None = None
    ) -> Any:
        """Fit to X and y.

        Parameters
        ----------
        X : {array-like, sparse matrix} (n_samples, n_features)
        y : array-like (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like (n_samples,), optional
        validation_data : (X, y) or (X, y, sample_weight), optional
            Scored after each epoch, into `validation_scores_` and `validation_loss_curve_`; early stopping
            goes by these rows and splits none off.

        Returns
        -------
        self
        """
        if validation_data is None:
            return super().fit(X, y, sample_weight=sample_weight)  # type: ignore[misc]
        if self.solver == "lbfgs":
            raise ValueError("solver must be 'sgd' or 'adam' with validation_data, got 'lbfgs'")
        if not isinstance(validation_data, (tuple, list)) or len(validation_data) not in (2, 3):
            raise ValueError("validation_data must be (X, y) or (X, y, sample_weight)")
        _VALIDATION[self] = tuple(validation_data)
        try:
            return super().fit(X, y, sample_weight=sample_weight)  # type: ignore[misc]
        finally:
            del _VALIDATION[self]

    def _fit(self: Any, X: Any, y: Any, sample_weight: Any = None, incremental: bool = False) -> Any:
        extras.judge(self)
        if self.class_weight is not None and _are_labels(y):
            if incremental and self.class_weight == "balanced":
                raise ValueError("class_weight must be a dict with partial_fit, which does not see all of y")
            weights = compute_sample_weight(self.class_weight, y)
            if sample_weight is None:
                sample_weight = weights
            elif (given := np.asarray(sample_weight)).shape in ((), weights.shape):
                sample_weight = weights * given  # of another shape, scikit-learn has words for it
        if not (incremental or self.warm_start):
            for name in ("_norms", "validation_loss_curve_"):
                self.__dict__.pop(name, None)
        try:
            with extras.threads(self.n_threads):
                return super()._fit(  # type: ignore[misc]
                    X, y, sample_weight=sample_weight, incremental=incremental
                )
        finally:
            _LARGEST.pop(self, None)

    def _is_scanned(self: Any, X: Any) -> bool:
        """Whether X is known to be finite, from one pass that also tells how large its numbers are."""
        _LARGEST.pop(self, None)
        found = ranges.largest(X) if type(X) is np.ndarray and X.ndim == 2 else None
        if found is None or not math.isfinite(found):  # scikit-learn says what is wrong with it
            return False
        _LARGEST[self] = found
        return True

    def _initialize(self: Any, y: Array, layer_units: list[int], dtype: Any) -> None:
        super()._initialize(y, layer_units, dtype)  # type: ignore[misc]
        if getattr(self.loss, "name", None) == "poisson" and self.loss.log_input:
            self.out_activation_ = "exp"
        _NETWORKS.pop(self, None)

    def _judged_validation(self: Any, dtype: np.dtype[Any]) -> tuple[Any, ...] | None:
        given = _VALIDATION.get(self)
        if given is None:
            return None
        x = validate_data(self, given[0], accept_sparse=["csr", "csc"], dtype=dtype, reset=False)
        x = x.tocsr() if sparse.issparse(x) else np.require(x, None, ["C", "A"])
        y = np.asarray(given[1])
        weight = None if len(given) < 3 or given[2] is None else _check_sample_weight(given[2], x)
        if weight is not None and not weight.sum() > 0:
            raise ValueError("validation_data must have some row of a weight above 0, has none")
        if y.shape[:1] != x.shape[:1]:
            raise ValueError(f"validation_data must have {x.shape[0]} targets, got shape {y.shape}")
        if not hasattr(self, "classes_"):
            columns = y.shape[1] if y.ndim == 2 else 1
            if y.dtype.kind not in "fiub" or y.ndim > 2 or columns != self.n_outputs_:
                raise ValueError(
                    f"validation_data must have numbers in {self.n_outputs_} columns for y, got {y.dtype} of "
                    f"shape {y.shape}"
                )
        several = not hasattr(self, "classes_") or self._label_binarizer.y_type_.startswith("multilabel")
        unknown = set() if several else set(np.unique(y).tolist()) - set(self.classes_.tolist())
        if unknown:
            raise ValueError(f"validation_data must hold classes of y alone, got {sorted(unknown)} too")
        return x, y, None if weight is None else weight.astype(np.float64)

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
        found = extras.unknown(self)
        how = f"dense {X.dtype} data"
        if sparse.issparse(X) and (found or self.callbacks or self in _VALIDATION):
            X, how = X.tocsr(), "rows of sparse X were made dense, some batches at a time"
        reason = self._obstacle(X, y, sample_weight, dense=how.startswith("rows"))
        network = self._bound(X.dtype) if reason is None else None
        if network is not None and not found:  # a user's, or left by a training that diverged
            reason = ranges.far("coefs_ or intercepts_", network.model.parameters, X.dtype)
        if network is None or reason is not None:
            reason = reason or "coefs_ or intercepts_ are not of the dtype of X"
            if found or self.callbacks or self in _VALIDATION:
                names = ", ".join([*found, *(["callbacks"] if self.callbacks else [])]) or "validation_data"
                raise ValueError(f"{names} cannot be done by scikit-learn's code, and ours cannot: {reason}")
            self.fit_info_ = {"engine": "scikit-learn", "device": "cpu", "reason": reason}
            _NUMPY_FITS.add(self)  # its optimizer updates the arrays of coefs_: they must stay there
            try:
                super()._fit_stochastic(  # type: ignore[misc]
                    X, y, sample_weight, *lists, layer_units, incremental
                )
            finally:
                _NUMPY_FITS.discard(self)
            return
        self.fit_info_ = {"engine": "fastnn", "device": self.device, "reason": how}
        validation = self._judged_validation(X.dtype)
        stochastic.fit(self, network, X, y, sample_weight, lists, incremental, validation)
        if self.batch_norm:
            self._norms = network.model.parameters.copy(), network.model.buffers.copy()

    def _fit_lbfgs(self: Any, X: Any, y: Array, sample_weight: Array | None, *rest: Any) -> None:
        reason = self._obstacle(X, y, sample_weight, dense=bool(extras.unknown(self)))
        if [w.shape for w in self.coefs_] != list(pairwise(rest[-1])):
            reason = f"coefs_ are not of layers of {rest[-1]}"
        found = extras.unknown(self)
        if reason is not None and found:
            raise ValueError(f"{', '.join(found)} cannot be done by scikit-learn's code: {reason}")
        if reason is not None:
            self.fit_info_ = {"engine": "scikit-learn", "device": "cpu", "reason": reason}
            super()._fit_lbfgs(X, y, sample_weight, *rest)  # type: ignore[misc]
            return
        gradients = Gradients(self, X, y, sample_weight)
        how = "" if gradients.is_whole else ", rows of sparse X made dense in parts"
        reason = f"its gradients under scipy's L-BFGS-B{how}"
        self.fit_info_ = {"engine": "fastnn", "device": self.device, "reason": reason}
        _GRADIENTS[self] = gradients
        try:
            super()._fit_lbfgs(X, y, sample_weight, *rest)  # type: ignore[misc]
        finally:
            del _GRADIENTS[self]

    def _loss_grad_lbfgs(self: Any, packed: Array, *rest: Any) -> Any:
        gradients = _GRADIENTS.get(self)
        if gradients is not None:
            found = gradients.at(packed)
            if found is not None:
                return found
            if named := extras.unknown(self):
                raise ValueError(
                    "the loss is not finite at a step of L-BFGS; scale X to about -1 .. 1 (with "
                    f"{', '.join(named)} scikit-learn's code cannot go on)"
                )
        return super()._loss_grad_lbfgs(packed, *rest)  # type: ignore[misc]

    # ------------------------------------------------------------ prediction

    def _forward_pass_fast(self: Any, X: Any, check_input: bool = True) -> Any:
        network = _NETWORKS.get(self)
        if (
            network is not None
            and type(X) is np.ndarray
            and X.dtype == network.dtype
            and X.ndim == 2
            and X.shape[1] == network.n_in == getattr(self, "n_features_in_", None)
            and X.shape[0]
            and self.n_layers_ == network.n_layers
            and X.flags.c_contiguous
            and X.flags.aligned
            and self.n_threads is None
            and type(self.activation) is str
            and type(self.dropout) is float
            and network.described
            == (self.activation, self.dropout, self.batch_norm, self.out_activation_, self.device)
            and network.holds(self.coefs_, self.intercepts_)
            and not (check_input and not _is_plain(self, X))
        ):
            return network.output(X)
        return self._slow_pass(X, check_input)

    def _slow_pass(self: Any, X: Any, check_input: bool) -> Any:
        if check_input:
            X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        n_layers = self.n_layers_  # what scikit-learn misses first, after a partial_fit that failed
        dtype = self.coefs_[0].dtype
        found = extras.unknown(self)
        if found:
            if sparse.issparse(X):
                X, parts = X.tocsr(), row_parts(X, dtype)
                return np.concatenate([self._slow_pass(X[part].toarray(), False) for part in parts])
            X = np.asarray(X).astype(dtype, copy=False)
        fits = dtype in ranges.REAL and self not in _NUMPY_FITS
        fits = fits and not sparse.issparse(X) and X.dtype.kind in "fiub"
        fits = fits and n_layers == len(self.coefs_) + 1  # users set it, for the output of an inner layer
        if fits and np.result_type(X.dtype, dtype) == dtype and len(X):
            network = self._bound(dtype)
            if network is not None and (found or X.shape[1] == network.n_in):
                with extras.threads(self.n_threads):
                    return network.output(np.require(X, dtype, ["C", "A"]))
        if found:
            reason = "coefs_ and intercepts_ are not of one dtype, float32 or float64"
            if n_layers != len(self.coefs_) + 1:
                reason = f"n_layers_ is {n_layers}, with {len(self.coefs_)} coefs_"
            raise ValueError(
                f"{', '.join(found)} cannot be done by scikit-learn's code, and ours cannot: {reason}"
            )
        return super()._forward_pass_fast(X, check_input=False)  # type: ignore[misc]

    def _require_fitted(self) -> None:
        if self not in _NETWORKS:
            check_is_fitted(self)


def _are_labels(y: Any) -> bool:
    """Whether y can be weighted by its classes; else scikit-learn has words for it."""
    return y is not None and not ((given := np.asarray(y)).dtype.kind == "f" and not np.isfinite(given).all())


def _is_plain(estimator: Any, x: Array) -> bool:
    """Whether scikit-learn's validation would let x pass as it is."""
    return not hasattr(estimator, "feature_names_in_") and math.isfinite(np.add.reduce(x, axis=None))
