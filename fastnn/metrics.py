"""Metrics as frozen descriptions, and their arithmetic: what `evaluate` and `fit` tell beside the loss.

A metric sees the model's outputs, not classes. The link of the loss says what they mean:

* softmax (cross_entropy, kl_divergence, softmax_focal): the class is the largest output, the first of equals;
  probabilities are the softmax. Of targets that are probabilities the largest is the class, too;
* scores (multi_margin): the same of labels, without probabilities;
* sigmoid (binary_cross_entropy, focal): an output above 0 (a probability above one half) is class 1. Several
  outputs are as many questions of their own, and the mean over them is given;
* signs (hinge): the same for targets -1 and 1, without probabilities;
* None (mse and the like): the outputs are the values: of gaussian_nll the means, of poisson the rates, of
  several quantiles the one nearest to the median.

Rows of weight 0 count for nothing. A metric that is not defined on the rows it gets (the AUC of one class
alone, the R2 of a constant) is nan.
"""

from __future__ import annotations

import inspect
import math
import numbers
import re
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import errors
from .late_dataclass import dataclass

__all__ = [
    "AUC",
    "F1",
    "MAE",
    "MSE",
    "R2",
    "RMSE",
    "Accuracy",
    "BalancedAccuracy",
    "Function",
    "LogLoss",
    "Metric",
    "TopKAccuracy",
    "get",
    "get_all",
]

Array = NDArray[Any]
_OF_LABELS = ("softmax", "scores")
LINKS = ("softmax", "sigmoid", "scores", "signs")


class Metric:
    """What all metrics share.

    Calling one gives its value: ``metric(y, output, sample_weight=None, link="softmax")``.

    Attributes
    ----------
    name : str
        Its key in `History` and in what `Trainer.evaluate` gives.
    mode : "max", "min" or None
        Which way is better; None: not said.
    """

    @property
    def name(self) -> str:
        raise NotImplementedError

    @property
    def mode(self) -> str | None:
        raise NotImplementedError

    of_values: ClassVar[bool] = False
    """Whether it takes what `Loss.prediction` makes of outputs, rather than outputs."""

    def check(self, link: str | None) -> None:
        """Refuse a link whose outputs this metric can make nothing of."""

    def check_data(self, argument: str, y: Array, n_out: int, link: str | None, weighted: bool) -> None:
        """Refuse judged targets, or a number of outputs, that have no such metric."""

    def measure(self, y: Array, output: Array, weight: Array | None, link: str | None) -> float:
        """The value for judged arrays: y as the loss takes it, output (rows, n_out), weight (rows,)."""
        raise NotImplementedError

    def __call__(
        self,
        y: ArrayLike,
        output: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        link: str | None = None,
    ) -> float:
        """The value of the metric.

        Parameters
        ----------
        y : array_like
            Labels (rows,) for softmax and scores, else values (rows, n_out), or (rows,) for one output.
        output : array_like (rows, n_out)
            What `model.predict` gives.
        sample_weight : array_like (rows,), optional
        link : "softmax", "sigmoid", "scores", "signs" or None
            What the outputs mean: `model.link`, or for losses without probabilities one of the others.
        """
        if link is not None:
            errors.choice("link", link, LINKS)
        self.check(link)
        z = errors.matrix("output", output, None, np.dtype(np.float64))
        n_rows, n_out = z.shape
        if n_rows == 0:
            raise ValueError(f"output must have at least one row, got shape {z.shape}")
        if link in _OF_LABELS:
            judged = errors.labels("y", y, n_rows, n_out)
        else:
            bounds = {"sigmoid": (0.0, 1.0), "signs": (-1.0, 1.0)}.get(link or "")
            judged = errors.values("y", y, n_rows, n_out, z.dtype, bounds)
        weight = errors.sample_weights("sample_weight", sample_weight, n_rows)
        self.check_data("y", judged, n_out, link, weight is not None)
        return self.measure(judged, z, weight, link)


def _counted(y: Array, output: Array, weight: Array | None) -> tuple[Array, Array, Array]:
    """Targets, float64 outputs and weights of the rows whose weight is not 0."""
    if weight is None:
        return y, output.astype(np.float64), np.ones(len(y))
    if not weight.all():
        kept = weight > 0
        y, output, weight = y[kept], output[kept], weight[kept]
    return y, output.astype(np.float64), weight


def _labels(y: Array) -> Array:
    """Labels, or the likeliest class of each row of probabilities."""
    return y if y.ndim == 1 else np.asarray(y.argmax(axis=1))


# ---------------------------------------------------------------- of classes


class _OfClasses(Metric):
    """A metric of labels and logits; each sigmoid output z is the softmax of (0, z)."""

    mode: ClassVar[str] = "max"
    takes_soft: ClassVar[bool] = False

    def check(self, link: str | None) -> None:
        if link is None:
            raise ValueError(
                f"metric {self.name!r} needs a loss of classes: cross_entropy, binary_cross_entropy"
            )

    def check_data(self, argument: str, y: Array, n_out: int, link: str | None, weighted: bool) -> None:
        if link in ("sigmoid", "signs") and not self.takes_soft:
            soft = (y != 0) & (y != 1) if link == "sigmoid" else np.abs(y) != 1
            if soft.any():
                row, column = (int(i) for i in np.unravel_index(int(soft.argmax()), soft.shape))
                levels = "0 or 1" if link == "sigmoid" else "-1 or 1"
                raise ValueError(
                    f"{argument} must be {levels} for metric {self.name!r}, got {y[row, column]} in row {row}"
                )

    def measure(self, y: Array, output: Array, weight: Array | None, link: str | None) -> float:
        y, z, w = _counted(y, output, weight)
        if link in _OF_LABELS:
            return float(self._of_labels(_labels(y), z, w))
        columns = [
            self._of_labels((y[:, j] > 0).astype(np.int64), np.column_stack([np.zeros(len(z)), z[:, j]]), w)
            for j in range(z.shape[1])
        ]
        return float(np.mean(columns))

    def _of_labels(self, y: Array, z: Array, w: Array) -> float:
        """From labels (rows,), logits (rows, n_classes) and weights above 0."""
        raise NotImplementedError


@dataclass(frozen=True)
class Accuracy(_OfClasses):
    """Share of rows whose class is right."""

    name: ClassVar[str] = "accuracy"

    def measure(self, y: Array, output: Array, weight: Array | None, link: str | None) -> float:
        if link in _OF_LABELS and weight is None:  # no copy in float64: which is the largest stays the same
            return int(np.count_nonzero(output.argmax(axis=1) == _labels(y))) / len(y)
        return super().measure(y, output, weight, link)

    def _of_labels(self, y: Array, z: Array, w: Array) -> float:
        return float(w @ (z.argmax(axis=1) == y) / w.sum())


@dataclass(frozen=True)
class TopKAccuracy(_OfClasses):
    """Share of rows whose label is among the k largest outputs; "top_5_accuracy" names the one of k=5.

    Of equal outputs the first is the larger, so that k=1 is the accuracy.
    """

    k: int = 5

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", errors.integer("k", self.k))

    @property
    def name(self) -> str:
        """With k in it."""
        return f"top_{self.k}_accuracy"

    def check(self, link: str | None) -> None:
        if link not in _OF_LABELS:
            raise ValueError(f"metric {self.name!r} needs the loss cross_entropy")

    def check_data(self, argument: str, y: Array, n_out: int, link: str | None, weighted: bool) -> None:
        if self.k > n_out:
            raise ValueError(f"metric {self.name!r} needs at least {self.k} outputs, the model has {n_out}")

    def _of_labels(self, y: Array, z: Array, w: Array) -> float:
        own = np.take_along_axis(z, y[:, None], axis=1)
        before = (z > own) | ((z == own) & (np.arange(z.shape[1]) < y[:, None]))
        return float(w @ (before.sum(axis=1) < self.k) / w.sum())


@dataclass(frozen=True)
class BalancedAccuracy(_OfClasses):
    """Mean over the classes that occur of the share of their rows that is right."""

    name: ClassVar[str] = "balanced_accuracy"

    def _of_labels(self, y: Array, z: Array, w: Array) -> float:
        there = np.bincount(y, w)
        right = np.bincount(y, w * (z.argmax(axis=1) == y))
        return float(np.mean(right[there > 0] / there[there > 0]))


@dataclass(frozen=True)
class F1(_OfClasses):
    """Harmonic mean of precision and recall, 2 tp / (2 tp + fp + fn).

    Parameters
    ----------
    average : "binary", "macro" or None
        "binary": of class 1, nan where it neither occurs nor is predicted. "macro": mean over the classes
        that occur or are predicted. None: binary for two classes, macro for more.
    """

    average: str | None = None
    name: ClassVar[str] = "f1"

    def __post_init__(self) -> None:
        if self.average is not None:
            errors.choice("average", self.average, ["binary", "macro"])

    def check_data(self, argument: str, y: Array, n_out: int, link: str | None, weighted: bool) -> None:
        super().check_data(argument, y, n_out, link, weighted)
        if self.average == "binary" and link in _OF_LABELS and n_out != 2:
            raise ValueError(f"F1(average='binary') needs two classes, the model has {n_out}; use 'macro'")

    def _of_labels(self, y: Array, z: Array, w: Array) -> float:
        n, predicted = z.shape[1], z.argmax(axis=1)
        both = np.bincount(y, w * (predicted == y), n)
        either = np.bincount(y, w, n) + np.bincount(predicted, w, n)
        if self.average == "binary" or (self.average is None and n == 2):
            return float(2 * both[1] / either[1]) if either[1] > 0 else math.nan
        return float(np.mean(2 * both[either > 0] / either[either > 0]))


@dataclass(frozen=True)
class AUC(_OfClasses):
    """Area under the ROC curve: how often a row of the class is ranked before one that is not; ties half.

    For more than two classes each against the rest by its probability, and the mean over the classes that
    occur. nan where all rows are of one class.
    """

    name: ClassVar[str] = "auc"

    def _of_labels(self, y: Array, z: Array, w: Array) -> float:
        if z.shape[1] == 1:
            return math.nan
        if z.shape[1] == 2:
            return _area(y == 1, z[:, 1] - z[:, 0], w)
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)  # not from the logarithm, whose rounding parts equal ones
        areas = [_area(y == c, p[:, c], w) for c in np.unique(y)]
        return float(np.mean(areas))


def _area(positive: Array, score: Array, w: Array) -> float:
    """Weighted share of pairs (positive, negative) that the score puts in this order, equal ones half."""
    _, rank = np.unique(score, return_inverse=True)
    up, down = np.bincount(rank, w * positive), np.bincount(rank, w * ~positive)
    pairs = up.sum() * down.sum()
    return float(up @ (np.cumsum(down) - down / 2) / pairs) if pairs > 0 else math.nan


def _log_softmax(z: Array) -> Array:
    shifted = z - z.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


@dataclass(frozen=True)
class LogLoss(_OfClasses):
    """Mean of -log p of what was true, in nats; probabilities as targets are legal for sigmoid outputs."""

    name: ClassVar[str] = "log_loss"
    mode: ClassVar[str] = "min"
    takes_soft: ClassVar[bool] = True

    def check(self, link: str | None) -> None:
        super().check(link)
        if link in ("scores", "signs"):
            raise ValueError(f"metric {self.name!r} needs a loss with probabilities, such as cross_entropy")

    def measure(self, y: Array, output: Array, weight: Array | None, link: str | None) -> float:
        y, z, w = _counted(y, output, weight)
        if link == "softmax" and y.ndim == 2:
            rows = -(y * _log_softmax(z)).sum(axis=1)
        elif link == "softmax":
            rows = -np.take_along_axis(_log_softmax(z), y[:, None], axis=1)[:, 0]
        else:
            # log(1 + e^z) - y z: nothing is lost where the sigmoid is 0 or 1
            rows = (np.logaddexp(0, z) - y * z).mean(axis=1)
        return float(w @ rows / w.sum())


# ---------------------------------------------------------------- of values


class _OfValues(Metric):
    """A metric of values (rows, n_out): of each output, then the mean over outputs."""

    of_values: ClassVar[bool] = True

    mode: ClassVar[str] = "min"

    def check(self, link: str | None) -> None:
        if link is not None:
            raise ValueError(f"metric {self.name!r} needs a loss of values: mse")

    def measure(self, y: Array, output: Array, weight: Array | None, link: str | None) -> float:
        y, values, w = _counted(y, output, weight)
        return float(np.mean(self._of_columns(y.astype(np.float64), values, w / w.sum())))

    def _of_columns(self, y: Array, values: Array, w: Array) -> Array:
        """One number for each output; w sums to 1."""
        raise NotImplementedError


@dataclass(frozen=True)
class MSE(_OfValues):
    """Mean of squared differences."""

    name: ClassVar[str] = "mse"

    def _of_columns(self, y: Array, values: Array, w: Array) -> Array:
        return np.asarray(w @ (values - y) ** 2)


@dataclass(frozen=True)
class RMSE(_OfValues):
    """Root of the mean of squared differences, of each output on its own."""

    name: ClassVar[str] = "rmse"

    def _of_columns(self, y: Array, values: Array, w: Array) -> Array:
        return np.asarray(np.sqrt(w @ (values - y) ** 2))


@dataclass(frozen=True)
class MAE(_OfValues):
    """Mean of absolute differences."""

    name: ClassVar[str] = "mae"

    def _of_columns(self, y: Array, values: Array, w: Array) -> Array:
        return np.asarray(w @ np.abs(values - y))


@dataclass(frozen=True)
class R2(_OfValues):
    """Share of the variance that is explained: 1 is perfect, 0 as good as the mean; nan for a constant."""

    name: ClassVar[str] = "r2"
    mode: ClassVar[str] = "max"

    def _of_columns(self, y: Array, values: Array, w: Array) -> Array:
        # A mean of equal numbers may be off by a rounding: a constant is told by its range.
        varies = np.ptp(y, axis=0) > 0
        total = np.where(varies, w @ (y - w @ y) ** 2, np.nan)
        return np.asarray(1 - (w @ (values - y) ** 2) / total)


# ---------------------------------------------------------------- your own


@dataclass(frozen=True)
class Function(Metric):
    """A metric of your own.

    Parameters
    ----------
    function : callable
        ``function(y, output) -> float``: y as the loss takes it (labels (rows,) as int64, or values
        (rows, n_out)), output (rows, n_out) as `model.predict` gives it. Where rows have weights they come
        as the keyword `sample_weight`, which the function must then have.
    name : str, optional
        None takes the function's own.
    mode : "max", "min" or None
        Which way is better; a callback that monitors it needs to know.
    """

    function: Callable[..., float]
    name: str = ""
    mode: str | None = None

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"function must be callable, got {errors.shown(self.function)}")
        name = self.name or getattr(self.function, "__name__", type(self.function).__name__)
        if not name.isidentifier():
            raise ValueError(f"a metric needs a name, got {name!r}; write metrics.Function(function, 'name')")
        object.__setattr__(self, "name", name)
        if self.mode is not None:
            errors.choice("mode", self.mode, ["min", "max"])

    def check_data(self, argument: str, y: Array, n_out: int, link: str | None, weighted: bool) -> None:
        if weighted and not self._takes_weights():
            raise TypeError(
                f"metric {self.name!r} must take sample_weight where rows have weights: "
                f"def {self.name}(y, output, sample_weight=None)"
            )

    def _takes_weights(self) -> bool:
        try:
            parameters = inspect.signature(self.function).parameters
        except ValueError:  # a builtin that does not tell
            return False
        kinds = {parameter.kind for parameter in parameters.values()}
        return "sample_weight" in parameters or inspect.Parameter.VAR_KEYWORD in kinds

    def measure(self, y: Array, output: Array, weight: Array | None, link: str | None) -> float:
        given = {} if weight is None else {"sample_weight": weight}
        value: Any = self.function(y, output, **given)
        if isinstance(value, np.ndarray) and value.shape == ():
            value = value[()]
        if not isinstance(value, (numbers.Real, np.floating, np.integer)):
            raise TypeError(f"metric {self.name!r} must give a number, got {value!r}")
        return float(value)


# ---------------------------------------------------------------- by name

_CLASSES: dict[str, type[Metric]] = {
    c.name: c for c in (Accuracy, BalancedAccuracy, F1, AUC, LogLoss, R2, MAE, RMSE, MSE)
}
_TOP_K = re.compile(r"top_(\d+)_accuracy")


def get(metric: object, argument: str = "metric") -> Metric:
    """The description of a metric given by name, as one, or as a function of yours."""
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, type) and issubclass(metric, Metric):
        raise TypeError(f"{argument} must be a description, got the class; write {metric.__name__}()")
    if isinstance(metric, str):
        match = _TOP_K.fullmatch(metric)
        if match:
            return TopKAccuracy(int(match[1]))
        if metric not in _CLASSES:
            _unknown(argument, metric)
        return _CLASSES[metric]()
    if callable(metric):
        return Function(metric)
    raise TypeError(f"{argument} must be a name, a description or a function, got {errors.shown(metric)}")


def _unknown(argument: str, name: str) -> NoReturn:
    errors.unknown(argument, name, [*_CLASSES, "top_5_accuracy"])


def get_all(metrics: object, link: str | None) -> tuple[Metric, ...]:
    """The descriptions of a list of metrics, each fit for the link, no name twice."""
    if isinstance(metrics, (str, Metric)) or callable(metrics) or not isinstance(metrics, Iterable):
        raise TypeError(
            f"metrics must be a list of metrics, got {errors.shown(metrics)}; write [...] around one"
        )
    found = tuple(get(metric, f"metrics[{i}]") for i, metric in enumerate(metrics))
    names = [metric.name for metric in found]
    for i, (metric, name) in enumerate(zip(found, names, strict=True)):
        metric.check(link)
        if name in ("loss", "epoch") or name.startswith("val_"):
            raise ValueError(f"metrics[{i}] must not be called {name!r}: the history has that name itself")
        if name in names[:i]:
            raise ValueError(f"metrics[{i}] must have a name of its own, got {name!r} twice")
    return found
