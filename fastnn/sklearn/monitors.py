"""Between epochs, beyond scikit-learn's: validation loss, callbacks, the best epoch's batch norms."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import is_classifier

from .. import callbacks as callbacks_
from ..trainer import Trainer
from .network import Network
from .steps import CompiledSteps, poisson_constant, row_parts, targets_of

__all__ = ["Monitors"]

Array = NDArray[Any]


class Monitors:
    """Follows one fit.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor
    network : Network
    steps : CompiledSteps
    validation : (x, y, weight) or None
        The user's rows, with y as `score` takes it.
    """

    def __init__(
        self, estimator: Any, network: Network, steps: CompiledSteps, validation: tuple[Any, ...] | None
    ) -> None:
        self.estimator, self.network, self.validation = estimator, network, validation
        self.best: tuple[Array, Array] | None = None
        self.best_score = estimator.best_validation_score_ if estimator.early_stopping else None
        self.keeps_best = bool(estimator.batch_norm and estimator.early_stopping)
        self.trainer: Trainer | None = None
        self.quantities: dict[str, str | None] = {"loss": "min"}
        if validation is not None:
            self._prepare_validation(steps)
        given = callbacks_.get_all(estimator.callbacks or ())
        self.team: callbacks_.Team | None = callbacks_.Team(given) if given else None
        for one in given:
            one.judge(self.quantities)
        if given:
            self._prepare_trainer(steps, given)

    def _prepare_validation(self, steps: CompiledSteps) -> None:
        assert self.validation is not None
        estimator, network = self.estimator, self.network
        x, y, weight = self.validation
        if is_classifier(estimator):
            y = estimator._label_binarizer.transform(y)
        y = np.reshape(y, (x.shape[0], -1))
        labels = estimator.out_activation_ == "softmax" and steps.loss.takes_labels
        self.measured = x, targets_of(y, labels, network.dtype), weight
        own = getattr(steps.loss, "function", None) is not None
        objective = None if own else dataclasses.replace(steps.objective, l2=0.0)
        self.program = network.made(steps.loss, None, objective)
        constant = steps.constant is not None
        self.shift = 0.0
        if constant:
            self.shift = float(np.average(poisson_constant(self.measured[1]), axis=0, weights=weight).sum())
        if not hasattr(estimator, "validation_loss_curve_") or not estimator.loss_curve_:
            estimator.validation_loss_curve_ = []
        if not estimator.early_stopping and not estimator.validation_scores_:
            estimator.validation_scores_ = []
        self.quantities |= {"val_loss": "min", "val_score": "max"}

    def _prepare_trainer(self, steps: CompiledSteps, given: tuple[Any, ...]) -> None:
        """A trainer of the same program: what callbacks are given."""
        model, estimator = self.network.model, self.estimator
        trainer = Trainer(model, steps.loss, steps.optimizer, seed=0, device=self.network.device)
        trainer._program, trainer._block = steps.program, model._block
        trainer.epoch = trainer._fit_begun = len(estimator.loss_curve_)
        trainer.last_epoch = trainer.epoch + estimator.max_iter
        trainer.history.add_names(list(self.quantities))
        trainer._callbacks, trainer._running = given, True
        self.trainer = trainer

    # ------------------------------------------------------------ the epochs

    def begin(self) -> None:
        """Before the first epoch."""
        if self.team is not None:
            self.team.begin(self.trainer, ())

    def epoch_begin(self, steps: Any) -> None:
        """Before the steps of an epoch."""
        if self.team is not None and self.trainer is not None:
            self.team.epoch_begin(self.trainer, self.trainer.epoch + 1)
            steps.factor = self.trainer.rate_factor

    def _validation_loss(self) -> float:
        x, y, weight = self.measured
        if not sparse.issparse(x):
            return float(self.program.loss(x, y, weight))
        total = loss = 0.0
        for part in row_parts(x, self.network.dtype):
            rows, weights = x[part].toarray(), None if weight is None else weight[part]
            size = float(len(rows) if weights is None else weights.sum())
            if size:
                total += size
                loss += size * float(self.program.loss(rows, y[part], weights))
        return loss / total

    def epoch_end(self) -> bool:
        """After scikit-learn has judged the epoch; whether a callback wants to stop."""
        estimator = self.estimator
        logs = {"loss": float(estimator.loss_)}
        if self.validation is not None:
            logs["val_loss"] = self._validation_loss() + self.shift
            estimator.validation_loss_curve_.append(logs["val_loss"])
            if not estimator.early_stopping:
                estimator.validation_scores_.append(estimator._score(*self.validation))
            logs["val_score"] = float(estimator.validation_scores_[-1])
        if self.keeps_best and estimator.best_validation_score_ != self.best_score:
            self.best_score = estimator.best_validation_score_
            model = self.network.model
            self.best = model.parameters.copy(), model.buffers.copy()
        if self.team is None or self.trainer is None:
            return False
        self.trainer.epoch += 1
        self.trainer.history.append(self.trainer.epoch, **logs)
        self.team.epoch_end(self.trainer, self.trainer.epoch, logs)
        return self.trainer.stop_reason is not None

    def end(self, error: BaseException | None) -> None:
        """After the last epoch."""
        if self.team is not None and self.trainer is not None:
            self.team.end(self.trainer, error)
            self.trainer._callbacks, self.trainer._running = (), False

    def restore_best(self) -> None:
        """Parameters of norms and running statistics of the best epoch."""
        if self.best is not None:
            model = self.network.model
            model.parameters[...], model.buffers[...] = self.best
