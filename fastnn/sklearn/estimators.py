"""scikit-learn's multilayer perceptrons on compiled steps."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sklearn import neural_network
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import column_or_1d, validate_data

from ..losses import Loss
from . import extras, labels
from .base import STOCK, Compiled

__all__ = ["STOCK", "MLPClassifier", "MLPRegressor"]


class MLPClassifier(Compiled, neural_network.MLPClassifier):  # type: ignore[misc]
    """scikit-learn's MLPClassifier, several times faster.

    Every parameter, attribute and method of scikit-learn's; the same seed gives the same weights. What
    follows is more, and does nothing by default.

    Parameters
    ----------
    activation : str or sequence of str
        Names of fastnn too ("gelu", "silu", "elu", ...), or one a hidden layer.
    loss : str or fastnn.losses.Loss
        "log_loss", or e.g. CrossEntropy(label_smoothing=0.1), Focal().
    class_weight : dict, "balanced" or None
        Multiplies sample_weight in training, as everywhere in scikit-learn.
    dropout : float or sequence of float
        Share of the outputs of hidden layers that a step leaves out, of all or one a layer.
    batch_norm : bool
        Whether each hidden layer's product is normalised over its batch before the activation.
    optimizer : fastnn optimizer, optional
        AdamW, Lion, RMSprop, ..., with its schedule and weight decay, in place of the solver's update and of
        `alpha`; `solver` must still be "sgd" or "adam".
    clip_norm : float, optional
        The gradient of a batch, with its penalty, is scaled down to this norm.
    callbacks : list of fastnn.Callback, optional
        Called between epochs with a fastnn.Trainer; logs hold "loss", with validation_data "val_loss" and
        "val_score".
    n_threads : int, optional
        Of fit and predict; None: as `fastnn.get_num_threads()` says.
    device : str
        Where our steps run: "cpu"; "cuda" or "cuda:1", a card; "numpy", the same steps as plain NumPy code.
        Only on "cpu" may scikit-learn's code stand in; elsewhere what cannot be done is an error.

    Attributes
    ----------
    fit_info_ : dict
        "engine" that the last fit ran on: "fastnn", "scikit-learn", or the one until the loss overflowed
        and then the other; "device" of it; "reason": why.
    validation_loss_curve_ : list of float
        Of `validation_data`, by epoch.
    """

    _label_binarizer: Any
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **neural_network.MLPClassifier._parameter_constraints,
        **extras.CONSTRAINTS,
        "loss": [StrOptions({"log_loss"}), Loss],
        "class_weight": [dict, list, StrOptions({"balanced"}), None],
    }

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: Any = "adam",
        alpha: Any = 0.0001,
        batch_size: Any = "auto",
        learning_rate: Any = "constant",
        learning_rate_init: Any = 0.001,
        power_t: Any = 0.5,
        max_iter: Any = 200,
        shuffle: Any = True,
        random_state: Any = None,
        tol: Any = 1e-4,
        verbose: Any = False,
        warm_start: Any = False,
        momentum: Any = 0.9,
        nesterovs_momentum: Any = True,
        early_stopping: Any = False,
        validation_fraction: Any = 0.1,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        epsilon: Any = 1e-8,
        n_iter_no_change: Any = 10,
        max_fun: Any = 15000,
        loss: Any = "log_loss",
        class_weight: Any = None,
        dropout: Any = 0.0,
        batch_norm: Any = False,
        optimizer: Any = None,
        clip_norm: Any = None,
        callbacks: Any = None,
        n_threads: Any = None,
        device: Any = "cpu",
    ) -> None:
        super().__init__(
            hidden_layer_sizes=hidden_layer_sizes,
            activation=activation,
            solver=solver,
            alpha=alpha,
            batch_size=batch_size,
            learning_rate=learning_rate,
            learning_rate_init=learning_rate_init,
            power_t=power_t,
            max_iter=max_iter,
            shuffle=shuffle,
            random_state=random_state,
            tol=tol,
            verbose=verbose,
            warm_start=warm_start,
            momentum=momentum,
            nesterovs_momentum=nesterovs_momentum,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            n_iter_no_change=n_iter_no_change,
            max_fun=max_fun,
        )
        self.loss = loss
        self.class_weight = class_weight
        self.dropout = dropout
        self.batch_norm = batch_norm
        self.optimizer = optimizer
        self.clip_norm = clip_norm
        self.callbacks = callbacks
        self.n_threads = n_threads
        self.device = device

    def _validate_input(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Any]:
        goes_on = hasattr(self, "classes_") and (self.warm_start or incremental)
        n_rows = X.shape[0] if isinstance(X, np.ndarray) and X.ndim == 2 else None
        marked = None
        if goes_on:
            marked = labels.known(y, n_rows, self._label_binarizer, all_of_them=self.warm_start)
        elif (found := labels.new(y, n_rows)) is not None:
            binarizer, marked = found
        if marked is None:
            return super()._validate_input(X, y, incremental, reset)  # type: ignore[no-any-return]
        how = {"ensure_all_finite": False} if self._is_scanned(X) else {}
        dtypes = np.float64, np.float32
        X = validate_data(self, X, accept_sparse=["csr", "csc"], dtype=dtypes, reset=reset, **how)
        if not goes_on:
            self._label_binarizer, self.classes_ = binarizer, binarizer.classes_
        return X, marked

    def predict(self, X: Any) -> Any:
        """Classes of the rows of X, (n_samples,) or (n_samples, n_classes)."""
        self._require_fitted()
        return self._predict(X)

    def _predict(self, X: Any, check_input: bool = True) -> Any:
        found = self._forward_pass_fast(X, check_input=check_input)
        binarizer = self._label_binarizer
        if binarizer.y_type_ == "multiclass" and not binarizer.sparse_input_ and len(self.classes_) > 2:
            return binarizer.classes_.take(found.argmax(axis=1), mode="clip")
        if binarizer.y_type_ == "binary" and not binarizer.sparse_input_ and len(self.classes_) == 2:
            return binarizer.classes_[(found.ravel() > 0.5).astype(int)]
        return binarizer.inverse_transform(found.ravel() if self.n_outputs_ == 1 else found)

    def predict_proba(self, X: Any) -> Any:
        """Probabilities (n_samples, n_classes) of the rows of X, in the order of `classes_`."""
        self._require_fitted()
        found = self._forward_pass_fast(X)
        if self.n_outputs_ > 1:
            return found
        both = np.empty((len(found), 2), found.dtype)
        both[:, 1] = found[:, 0]
        np.subtract(1, found[:, 0], out=both[:, 0])
        return both


class MLPRegressor(Compiled, neural_network.MLPRegressor):  # type: ignore[misc]
    """scikit-learn's MLPRegressor, several times faster.

    Every parameter, attribute and method of scikit-learn's; the same seed gives the same weights. What
    follows is more, and does nothing by default.

    Parameters
    ----------
    activation : str or sequence of str
        Names of fastnn too ("gelu", "silu", "elu", ...), or one a hidden layer.
    loss : str or fastnn.losses.Loss
        "squared_error", "poisson", or e.g. Huber(), MAE(), LogCosh().
    dropout : float or sequence of float
        Share of the outputs of hidden layers that a step leaves out, of all or one a layer.
    batch_norm : bool
        Whether each hidden layer's product is normalised over its batch before the activation.
    optimizer : fastnn optimizer, optional
        AdamW, Lion, RMSprop, ..., with its schedule and weight decay, in place of the solver's update and of
        `alpha`; `solver` must still be "sgd" or "adam".
    clip_norm : float, optional
        The gradient of a batch, with its penalty, is scaled down to this norm.
    callbacks : list of fastnn.Callback, optional
        Called between epochs with a fastnn.Trainer; logs hold "loss", with validation_data "val_loss" and
        "val_score".
    n_threads : int, optional
        Of fit and predict; None: as `fastnn.get_num_threads()` says.
    device : str
        Where our steps run: "cpu"; "cuda" or "cuda:1", a card; "numpy", the same steps as plain NumPy code.
        Only on "cpu" may scikit-learn's code stand in; elsewhere what cannot be done is an error.

    Attributes
    ----------
    fit_info_ : dict
        "engine" that the last fit ran on: "fastnn", "scikit-learn", or the one until the loss overflowed
        and then the other; "device" of it; "reason": why.
    validation_loss_curve_ : list of float
        Of `validation_data`, by epoch.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **neural_network.MLPRegressor._parameter_constraints,
        **extras.CONSTRAINTS,
        "loss": [*neural_network.MLPRegressor._parameter_constraints["loss"], Loss],
    }

    def __init__(
        self,
        loss: Any = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: Any = "adam",
        alpha: Any = 0.0001,
        batch_size: Any = "auto",
        learning_rate: Any = "constant",
        learning_rate_init: Any = 0.001,
        power_t: Any = 0.5,
        max_iter: Any = 200,
        shuffle: Any = True,
        random_state: Any = None,
        tol: Any = 1e-4,
        verbose: Any = False,
        warm_start: Any = False,
        momentum: Any = 0.9,
        nesterovs_momentum: Any = True,
        early_stopping: Any = False,
        validation_fraction: Any = 0.1,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        epsilon: Any = 1e-8,
        n_iter_no_change: Any = 10,
        max_fun: Any = 15000,
        dropout: Any = 0.0,
        batch_norm: Any = False,
        optimizer: Any = None,
        clip_norm: Any = None,
        callbacks: Any = None,
        n_threads: Any = None,
        device: Any = "cpu",
    ) -> None:
        super().__init__(
            loss=loss,
            hidden_layer_sizes=hidden_layer_sizes,
            activation=activation,
            solver=solver,
            alpha=alpha,
            batch_size=batch_size,
            learning_rate=learning_rate,
            learning_rate_init=learning_rate_init,
            power_t=power_t,
            max_iter=max_iter,
            shuffle=shuffle,
            random_state=random_state,
            tol=tol,
            verbose=verbose,
            warm_start=warm_start,
            momentum=momentum,
            nesterovs_momentum=nesterovs_momentum,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            n_iter_no_change=n_iter_no_change,
            max_fun=max_fun,
        )
        self.dropout = dropout
        self.batch_norm = batch_norm
        self.optimizer = optimizer
        self.clip_norm = clip_norm
        self.callbacks = callbacks
        self.n_threads = n_threads
        self.device = device

    def _validate_input(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Any]:
        if not self._is_scanned(X):
            return super()._validate_input(X, y, incremental, reset)  # type: ignore[no-any-return]
        X, y = validate_data(
            self, X, y, accept_sparse=["csr", "csc"], multi_output=True, y_numeric=True,
            dtype=(np.float64, np.float32), reset=reset, ensure_all_finite=False,
        )  # fmt: skip
        return X, column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y

    def predict(self, X: Any) -> Any:
        """Values (n_samples,) or (n_samples, n_outputs) for the rows of X."""
        self._require_fitted()
        return self._predict(X)
