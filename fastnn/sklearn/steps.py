"""The steps of one epoch: ours, or as scikit-learn takes them.

Both have one face: `epoch(rows)` takes the batches of an epoch and gives the sum over batches of rows times
loss, which is what scikit-learn's loss curve is made of.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import is_classifier
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer

from .. import devices, optimizers
from ..errors import DivergenceError
from ..optimizers import SGD, Adam, Optimizer
from . import extras
from .network import Network

__all__ = [
    "CompiledSteps",
    "NumpySteps",
    "OwnOptimizer",
    "Unfit",
    "new_optimizer",
    "poisson_constant",
    "row_parts",
    "targets_of",
    "type_of_loss",
]

Array = NDArray[Any]

# A change of the rate rescales the velocity; one beyond this goes scikit-learn's way.
_MOST_RATIO = 1e12
# Of sparse rows made dense at a time, or one batch of more: long enough for a call, short beside the data.
DENSE_BYTES = 8 << 20


class Unfit(Exception):
    """The compiled program is not for what follows; `done` batches are, and what they add to the sum.

    Parameters
    ----------
    reason : str
    done : int
    loss : float
    """

    def __init__(self, reason: str, done: int = 0, loss: float = 0.0) -> None:
        super().__init__(reason)
        self.reason, self.done, self.loss = reason, done, loss


def targets_of(y: Array, labels: bool, dtype: np.dtype[Any]) -> Array:
    """Targets as a program takes them, of scikit-learn's (rows, n_out).

    Parameters
    ----------
    labels : bool
        Whether a row of y marks one class; then numbers of classes are given, else values of dtype.
    """
    if labels:
        return np.ascontiguousarray(y.argmax(axis=1), np.int64)
    return np.require(y, dtype, ["C", "A"])


def type_of_loss(estimator: Any, x: Array, y: Array, weight: Array | None) -> type[np.floating[Any]]:
    """Of `loss_` and the loss curve: what scikit-learn's arithmetic makes of these."""
    if is_classifier(estimator) or weight is not None or not np.issubdtype(y.dtype, np.floating):
        return np.float64
    return np.result_type(x.dtype, y.dtype).type


def row_parts(x: Any, dtype: np.dtype[Any]) -> list[slice]:
    """Parts of the rows of a sparse matrix that are made dense one at a time."""
    n_rows, n_in = x.shape
    size = max(1, DENSE_BYTES // max(1, n_in * dtype.itemsize))
    return [slice(at, at + size) for at in range(0, n_rows, size)]


class CompiledSteps:
    """Steps of the program on the estimator's device.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor
        With `_optimizer`, scikit-learn's, which goes on where this one stops.
    network : Network
        Holds the estimator's parameters.
    x, y : ndarray
        Rows and scikit-learn's targets, (rows, n_in) and (rows, n_out). Rows of a CSR matrix are made dense
        some batches at a time.
    weight : ndarray (rows,) or None
    batch_size : int
    """

    name = "fastnn"

    def __init__(
        self, estimator: Any, network: Network, x: Array, y: Array, weight: Array | None, batch_size: int
    ) -> None:
        self.estimator, self.network, self.batch_size = estimator, network, batch_size
        dtype = network.dtype
        loss, objective = extras.plan(estimator, network.n_out, dtype)
        self.loss, self.objective = loss, objective
        self.x: Any = x if sparse.issparse(x) else np.require(x, dtype, ["C", "A"])
        self.y = targets_of(y, estimator.out_activation_ == "softmax" and loss.takes_labels, dtype)
        self.weight = None if weight is None else np.ascontiguousarray(weight, np.float64)
        if estimator.batch_norm and (batch_size == 1 or x.shape[0] % batch_size == 1):
            raise ValueError(
                f"batch_size must leave no batch of one row, which has no variance, with batch_norm; got "
                f"{batch_size} for {x.shape[0]} rows"
            )
        self.constant = poisson_constant(self.y) if estimator.loss == "poisson" else None
        self.constant_sum = None if self.constant is None else float(self.constant.sum())
        optimizer = self._optimizer()
        own = getattr(loss, "function", None) is not None
        plan = (loss, optimizer, None if own else objective)
        if network.plan != plan or network.program is None:
            seed = 0
            if any(step.kind == "dropout" for step in network.model.steps):
                seed = int(estimator._random_state.randint(2**31))
            network.compile(*plan, seed)
            network.plan = plan
        assert network.program is not None
        self.program: Any = network.program  # of arrays of the host
        self.optimizer = optimizer
        self.factor = 1.0  # of the rates; callbacks change it
        self.rate: float = estimator._optimizer.learning_rate
        self._take_state()

    def _optimizer(self) -> Optimizer:
        one, clip = self.estimator._optimizer, self.estimator.clip_norm
        clip = {} if clip is None else {"clip_norm": float(clip)}
        if isinstance(one, OwnOptimizer):
            return dataclasses.replace(one.description, **clip)
        if isinstance(one, AdamOptimizer):
            betas, eps = (float(one.beta_1), float(one.beta_2)), float(one.epsilon)
            return Adam(lr=1.0, betas=betas, eps=eps, eps_hat=True, **clip)
        momentum = float(one.momentum)
        return SGD(lr=1.0, momentum=momentum, nesterov=bool(one.nesterov and momentum), **clip)

    # ------------------------------------------------------------ state, ours and scikit-learn's

    def _take_state(self) -> None:
        """From scikit-learn's optimizer to the program."""
        one, program = self.estimator._optimizer, self.program
        if isinstance(one, OwnOptimizer):
            one.give(program)
        elif isinstance(one, AdamOptimizer):
            for row, vectors in enumerate((one.ms, one.vs)):
                for to, given in zip(self.network.state_views(row), vectors, strict=True):
                    to[...] = given
            program.step = one.t
        elif len(program.state):
            rate = one.learning_rate
            for to, given in zip(self.network.state_views(0), one.velocities, strict=True):
                np.divide(given, -rate, out=to) if np.any(given) else to.fill(0)
            program.step = 0

    def give_state(self) -> None:
        """From the program to scikit-learn's optimizer."""
        one = self.estimator._optimizer
        if isinstance(one, OwnOptimizer):
            one.take(self.program)
        elif isinstance(one, AdamOptimizer):
            one.ms = [view.copy() for view in self.network.state_views(0)]
            one.vs = [view.copy() for view in self.network.state_views(1)]
            if not all(np.isfinite(np.add.reduce(v, axis=None)) for v in one.vs):
                np.square(np.finfo(self.network.dtype).max)  # warns, or not, as NumPy has been told to
            one.t = int(self.program.step)
            if one.t:
                one.learning_rate = (
                    one.learning_rate_init * np.sqrt(1 - one.beta_2**one.t) / (1 - one.beta_1**one.t)
                )
        elif len(self.program.state):
            one.velocities = [view * -self.rate for view in self.network.state_views(0)]

    def _rate_now(self) -> float:
        """The rate of this epoch; the velocity is scikit-learn's in units of the rate, ours is not."""
        one = self.estimator._optimizer
        if isinstance(one, OwnOptimizer):
            return 1.0
        if isinstance(one, AdamOptimizer):
            return float(one.learning_rate_init) * self.factor
        rate = float(one.learning_rate) * self.factor
        if rate != self.rate and len(self.program.state):
            if not rate or not 1 / _MOST_RATIO < self.rate / rate < _MOST_RATIO:
                raise Unfit(f"the learning rate fell from {self.rate:g} to {rate:g}")
            self.program.state[0] *= self.rate / rate
        self.rate = rate
        return rate

    # ------------------------------------------------------------ the steps

    def hold(self, is_holding: bool) -> None:
        """Whether the rows stay as they are: a card then gets them once; not those made dense as they go."""
        devices.hold(self.program, is_holding and not sparse.issparse(self.x))

    def epoch(self, rows: Array) -> float:
        """All batches of an epoch, whose row numbers follow each other in `rows`.

        Raises
        ------
        Unfit
            Before the batch that is not for the program; parameters and state are as before it.
        """
        rate = self._rate_now()
        size = self.batch_size
        whole = len(rows) // size
        told, done = 0.0, 0
        for order in (rows[: whole * size].reshape(whole, size), rows[whole * size :].reshape(1, -1)):
            if order.size:
                for given in self._gathered(order):
                    told += self._run(*given, rate, done, told)
                    done += len(given[-1])
        return told + (self.constant_sum if self.constant_sum is not None and self.weight is None else 0.0)

    def _gathered(self, order: Array) -> Iterator[tuple[Array, Array, Array | None, Array | None, Array]]:
        """x, y, weight, constant, and row numbers into them, of parts of an epoch."""
        if not sparse.issparse(self.x):
            yield self.x, self.y, self.weight, self.constant, order
            return
        steps = max(1, DENSE_BYTES // (order.shape[1] * self.x.shape[1] * self.network.dtype.itemsize))
        for begin in range(0, len(order), steps):
            part = order[begin : begin + steps]
            rows = part.ravel()
            weight, constant = (None if one is None else one[rows] for one in (self.weight, self.constant))
            numbers = np.arange(len(rows)).reshape(part.shape)
            yield self.x[rows].toarray(), self.y[rows], weight, constant, numbers

    def _run(
        self,
        x: Array,
        y: Array,
        weight: Array | None,
        constant: Array | None,
        order: Array,
        rate: float,
        done: int,
        told: float,
    ) -> float:
        steps = len(order)
        rates = self._rates(rate, steps)
        if weight is None:
            try:
                found: float = self.program.run(x, y, order, rates)[0]
                return found
            except DivergenceError as error:
                at, loss = error.step_in_call or 0, error.loss_sum or 0.0
                if constant is not None:
                    loss += float(constant.sum(axis=1)[order[:at]].sum())
                raise Unfit("the loss is not finite", done + at, told + loss) from None
        weights = weight[order]
        totals = weights.sum(axis=1)
        if not totals.all() and not extras.unknown(self.estimator):
            # A batch without weight has no mean: scikit-learn has words for it.
            at = int(np.argmin(totals != 0))
            if at:
                told += self._run(x, y, weight, constant, order[:at], rate, done, told)
            raise Unfit("a batch has no weight", done + at, told)
        losses = np.empty(steps)
        try:
            self.program.run(x, y, order, rates, weight, step_losses=losses)
        except DivergenceError as error:
            at = error.step_in_call or 0
            told += _mean(order[:at], weights, losses, totals, constant)
            raise Unfit("the loss is not finite", done + at, told) from None
        return _mean(order, weights, losses, totals, constant)

    def _rates(self, rate: float, steps: int) -> NDArray[np.float64]:
        one = self.estimator._optimizer
        if isinstance(one, OwnOptimizer):
            return optimizers.rates(self.optimizer, steps, self.factor, self.program.step, one.epoch)
        return np.full(steps, rate)


def _mean(order: Array, weights: Array, losses: Array, totals: Array, constant: Array | None) -> float:
    """Rows times weighted mean loss, over batches."""
    n = len(order)
    found = losses[:n]
    if constant is not None:
        found = found + (weights[:n] * constant.sum(axis=1)[order]).sum(axis=1)
    return float(np.divide(found, totals[:n], where=totals[:n] > 0, out=np.zeros(n)).sum() * order.shape[1])


def poisson_constant(y: Array) -> Array:
    """What scikit-learn's half deviance of a row has beyond exp(z) - y z."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(y > 0, y * np.log(y), 0.0) - y
    return found if found.ndim == 2 else found.reshape(-1, 1)


class NumpySteps:
    """scikit-learn's own steps, batch by batch, with its NumPy code.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor
    x, y, weight, batch_size
        As for CompiledSteps.
    lists : tuple of list
        scikit-learn's room: activations, deltas, coef_grads, intercept_grads.
    """

    name = "scikit-learn"

    def __init__(
        self,
        estimator: Any,
        x: Array,
        y: Array,
        weight: Array | None,
        batch_size: int,
        lists: tuple[list[Any], ...],
    ) -> None:
        self.estimator, self.x, self.y, self.weight = estimator, x, y, weight
        self.batch_size, self.lists = batch_size, lists

    def epoch(self, rows: Array, done: int = 0, told: float = 0.0) -> float:
        """All batches of an epoch but the first `done`, whose share of the sum is `told`."""
        estimator = self.estimator
        params = estimator.coefs_ + estimator.intercepts_
        activations, deltas, coef_grads, intercept_grads = self.lists
        for begin in range(done * self.batch_size, len(rows), self.batch_size):
            batch = rows[begin : begin + self.batch_size]
            x, y = self.x[batch], self.y[batch]
            weight = None if self.weight is None else self.weight[batch]
            activations[0] = x
            loss, coef_grads, intercept_grads = estimator._backprop(
                x, y, weight, activations, deltas, coef_grads, intercept_grads
            )
            told += loss * len(batch)
            estimator._optimizer.update_params(params, coef_grads + intercept_grads)
        return told

    def give_state(self) -> None:
        """Nothing: it is scikit-learn's optimizer that was at work."""


class OwnOptimizer:
    """An optimizer of fastnn with scikit-learn's face between epochs, and its state between fits.

    Parameters
    ----------
    description : Optimizer
    """

    learning_rate = 0.0

    def __init__(self, description: Optimizer) -> None:
        self.description, self.epoch, self.step = description, 0, 0
        self.state: Array | None = None
        self.numbers: Array | None = None

    def give(self, program: Any) -> None:
        """State to a program that was compiled for the same net."""
        if self.state is None or self.numbers is None:
            program.state[...] = getattr(self.description, "initial_accumulator_value", 0.0)
            program.numbers[...] = 0
        else:
            program.state[...], program.numbers[...] = self.state, self.numbers
        program.step = self.step

    def take(self, program: Any) -> None:
        """State from a program."""
        self.state, self.numbers, self.step = program.state.copy(), program.numbers.copy(), int(program.step)

    def iteration_ends(self, time_step: int) -> None:
        """An epoch is done."""
        self.epoch += 1

    def trigger_stopping(self, message: str, verbose: bool) -> bool:
        """Training has converged: it ends."""
        if verbose:
            print(f"{message} Stopping.")
        return True


def new_optimizer(estimator: Any) -> Any:
    """The optimizer of an estimator at its first step."""
    if estimator.optimizer is not None:
        return OwnOptimizer(estimator.optimizer)
    params, rate = estimator.coefs_ + estimator.intercepts_, estimator.learning_rate_init
    if estimator.solver == "adam":
        return AdamOptimizer(params, rate, estimator.beta_1, estimator.beta_2, estimator.epsilon)
    schedule, momentum = estimator.learning_rate, estimator.momentum
    return SGDOptimizer(params, rate, schedule, momentum, estimator.nesterovs_momentum, estimator.power_t)
