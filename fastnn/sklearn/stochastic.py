"""The loop over epochs of solvers "sgd" and "adam": scikit-learn's decisions, around compiled steps."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from . import extras
from .monitors import Monitors
from .network import Network
from .steps import CompiledSteps, NumpySteps, Unfit, new_optimizer, type_of_loss

__all__ = ["fit"]

Array = NDArray[Any]


def _split(estimator: Any, x: Any, y: Array, weight: Array | None) -> tuple[Any, ...]:
    """Training rows, validation rows, as early stopping wants them: x, y, weight of each."""
    stratify = y if is_classifier(estimator) and estimator.n_outputs_ == 1 else None
    arrays = (x, y) if weight is None else (x, y, weight)
    parts = train_test_split(
        *arrays,
        random_state=estimator._random_state,
        test_size=estimator.validation_fraction,
        stratify=stratify,
    )
    trained, held = parts[0::2], parts[1::2]
    if held[0].shape[0] < 2:
        raise ValueError(
            "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
        )
    if weight is None:
        trained, held = [*trained, None], [*held, None]
    if is_classifier(estimator):
        held[1] = estimator._label_binarizer.inverse_transform(held[1])
    return (*trained, *held)


def _batch_size(estimator: Any, n_rows: int) -> int:
    if isinstance(estimator.batch_size, str):  # "auto"
        return min(200, n_rows)
    if estimator.batch_size > n_rows:
        warnings.warn(
            "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=2
        )
    return int(np.clip(estimator.batch_size, 1, n_rows))


def _improved_message(estimator: Any) -> str:
    what = "Validation score did not" if estimator.early_stopping else "Training loss did not"
    return (
        f"{what} improve more than tol={estimator.tol:f} for {estimator.n_iter_no_change:d} "
        "consecutive epochs."
    )


def fit(
    estimator: Any,
    network: Network,
    x: Array,
    y: Array,
    weight: Array | None,
    lists: tuple[list[Any], ...],
    incremental: bool,
    validation: tuple[Any, ...] | None,
) -> None:
    """Train an estimator whose parameters are in `network`, for one epoch or until it has converged.

    Parameters
    ----------
    x, y : ndarray (rows, n_in), (rows, n_out)
        As scikit-learn has judged them.
    weight : ndarray (rows,) or None
    lists : tuple of list
        scikit-learn's room: activations, deltas, coef_grads, intercept_grads.
    incremental : bool
        partial_fit.
    validation : (x, y, weight) or None
        The user's, judged; it takes the place of a split.
    """
    if not incremental or not hasattr(estimator, "_optimizer"):
        estimator._optimizer = new_optimizer(estimator)
    if estimator.early_stopping and incremental:
        raise ValueError("partial_fit does not support early_stopping=True")
    stopping = bool(estimator.early_stopping)
    x_val = y_val = weight_val = None
    if validation is not None:
        x_val, y_val, weight_val = validation
    elif stopping:
        x, y, weight, x_val, y_val, weight_val = _split(estimator, x, y, weight)
    n_rows = x.shape[0]
    batch_size = _batch_size(estimator, n_rows)
    rows = np.arange(n_rows, dtype=np.int64)
    loss_type = type_of_loss(estimator, x, y, weight)
    compiled = CompiledSteps(estimator, network, x, y, weight, batch_size)
    steps: Any = compiled
    optimizer = estimator._optimizer
    monitors = Monitors(estimator, network, compiled, validation)
    try:
        compiled.hold(True)
        monitors.begin()
        estimator.n_iter_ = 0
        for _ in range(estimator.max_iter):
            if estimator.shuffle:  # the draws of sklearn.utils.shuffle, which takes longer than a small epoch
                drawn = np.arange(n_rows)
                estimator._random_state.shuffle(drawn)
                rows = rows[drawn]
            monitors.epoch_begin(steps)
            try:
                told = steps.epoch(rows)
            except Unfit as stopped:
                if found := extras.unknown(estimator):
                    raise ValueError(_diverged(estimator, stopped.reason, found)) from None
                steps.give_state()
                estimator.fit_info_ = {
                    "engine": "fastnn, then scikit-learn",
                    "device": "cpu",
                    "reason": f"{stopped.reason} in epoch {estimator.n_iter_ + 1}",
                }
                steps = NumpySteps(estimator, x, y, weight, batch_size, lists)
                told = steps.epoch(rows, stopped.done, stopped.loss)
            estimator.n_iter_ += 1
            estimator.loss_ = loss_type(told / n_rows)
            estimator.t_ += n_rows
            estimator.loss_curve_.append(estimator.loss_)
            if estimator.verbose:
                print(f"Iteration {estimator.n_iter_:d}, loss = {estimator.loss_:.8f}")
            estimator._update_no_improvement_count(stopping, x_val, y_val, weight_val)
            stop = monitors.epoch_end()
            optimizer.iteration_ends(estimator.t_)
            if estimator._no_improvement_count > estimator.n_iter_no_change:
                if optimizer.trigger_stopping(_improved_message(estimator), estimator.verbose):
                    break
                estimator._no_improvement_count = 0
            if incremental or stop:
                break
            if estimator.n_iter_ == estimator.max_iter:
                warnings.warn(
                    f"Stochastic Optimizer: Maximum iterations ({estimator.max_iter:d}) reached and the "
                    "optimization hasn't converged yet.",
                    ConvergenceWarning,
                    stacklevel=2,
                )
    except KeyboardInterrupt:
        warnings.warn("Training interrupted by user.", stacklevel=2)
    except BaseException as error:
        monitors.end(error)
        raise
    finally:
        compiled.hold(False)
    monitors.end(None)
    steps.give_state()
    if stopping:
        network.load(estimator._best_coefs, estimator._best_intercepts)
        monitors.restore_best()
    estimator.coefs_, estimator.intercepts_ = list(network.coefs), list(network.intercepts)
    if stopping:  # as scikit-learn leaves them: a warm start trains the best ones on in their place
        estimator._best_coefs, estimator._best_intercepts = estimator.coefs_, estimator.intercepts_


def _diverged(estimator: Any, reason: str, found: list[str]) -> str:
    return (
        f"{reason} in epoch {estimator.n_iter_ + 1}; parameters are as before that step. Scale X to about "
        f"-1 .. 1 or take a smaller learning rate (with {', '.join(found)} scikit-learn's code cannot go on)"
    )
