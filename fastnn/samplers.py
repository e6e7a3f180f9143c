"""Which rows an epoch takes, in what order: functions of seed and epoch, which a resumed fit repeats.

`fit` without a sampler takes each row once. Predictions, validation and metrics are not touched by any.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import errors, kernels, validation
from .samples import Sample, Task

__all__ = ["Balanced", "Curriculum", "Sampler", "Weighted", "bound", "bound_to_source", "get"]

Array = NDArray[Any]

# As the number of a weight among a layer's: none has it, so that draws share no numbers with initial weights.
_DRAWS = 0x53414D50


class Rows:
    """The rows that a sampler may take.

    Parameters
    ----------
    n : int
        Rows of x.
    trained : ndarray of int
        Numbers of those to train on, ascending where x is trained on as a whole.
    classes : ndarray (n,) of int or None
        Class of each row where targets are classes.
    counts : ndarray (n,) of bool or None
        Which rows have a weight; None: all.
    """

    def __init__(self, n: int, trained: Array, classes: Array | None, counts: Array | None) -> None:
        self.n, self.trained, self.classes, self.counts = n, trained, classes, counts


class Sampler:
    """Base of samplers; a function ``f(rng, epoch) -> row numbers`` does as well.

    Numbers are those of rows of x as `fit` got it; the length of what it gives is the length of the epoch.

    Attributes
    ----------
    keeps_order : bool
        Whether a source of rows must be trained in the order that it gives. False: that order is chance, and
        rows of files are taken as often as it says, in blocks that are read from front to back.
    needs_classes : bool
        Whether it asks for the classes of rows; those of a source are read for it.
    """

    keeps_order = True
    needs_classes = True

    def prepare(self, rows: Rows) -> Callable[[int, int], Array]:
        """The function (seed, epochs done before) -> row numbers for a fit on these rows."""
        raise NotImplementedError(f"{type(self).__name__} must define prepare(rows)")

    def told(self) -> str:
        """What a checkpoint compares."""
        raise NotImplementedError(
            f"{type(self).__name__} must define told(): a text that a checkpoint compares"
        )


class Weighted(Sampler):
    """Draws rows with replacement, each as likely as its weight says; as PyTorch's ``WeightedRandomSampler``.

    Parameters
    ----------
    weights : array_like (n,) or dict
        Of each row of x, at least 0; or of classes by label, 1 for those that it does not name.
    n : int, optional
        Rows of an epoch; None: as many as there are to train on.
    """

    keeps_order = False

    def __init__(self, weights: ArrayLike | Mapping[int, float], n: int | None = None) -> None:
        self.by_class: dict[int, float] | None = None
        self.weights: Array | None = None
        if isinstance(weights, Mapping):
            self.by_class = {
                errors.integer("labels of weights", label, 0): errors.real(f"weights[{label}]", value)
                for label, value in weights.items()
            }
        else:
            found = errors.array("weights", weights)
            self.weights = errors.sample_weights("weights", found, len(found) if found.ndim else 0)
        self.n = None if n is None else errors.integer("n", n)
        self.needs_classes = self.weights is None

    def prepare(self, rows: Rows) -> Callable[[int, int], Array]:
        if self.weights is not None:
            if len(self.weights) != rows.n:
                raise ValueError(
                    f"weights of sampler must have {rows.n} elements as x has rows, got {len(self.weights)}"
                )
            return _drawn(rows.trained, self.weights[rows.trained], self.n)
        assert self.by_class is not None
        classes = _classes(self, rows)
        assert rows.classes is not None
        highest = int(rows.classes.max(initial=0))
        if wrong := [label for label in self.by_class if label > highest]:
            raise ValueError(f"weights of sampler must name labels from 0 to {highest}, got {wrong[0]}")
        weights = np.ones(len(rows.trained))
        for label, value in self.by_class.items():
            weights[classes == label] = value
        return _drawn(rows.trained, weights, self.n)

    def told(self) -> str:
        if self.weights is None:
            return f"Weighted({self.by_class}, n={self.n})"
        return f"Weighted({len(self.weights)} weights {zlib.crc32(self.weights.tobytes()):08x}, n={self.n})"

    def __repr__(self) -> str:
        return self.told()


class Balanced(Sampler):
    """Draws rows with replacement so that each class is as likely as any other.

    Rows without weight (those of `ignore_index`) are left out.

    Parameters
    ----------
    n : int, optional
        Rows of an epoch; None: as many as there are to train on.
    """

    keeps_order = False

    def __init__(self, n: int | None = None) -> None:
        self.n = None if n is None else errors.integer("n", n)

    def prepare(self, rows: Rows) -> Callable[[int, int], Array]:
        classes = _classes(self, rows)
        counted = np.ones(len(classes), bool) if rows.counts is None else rows.counts[rows.trained]
        sizes = np.bincount(classes[counted])
        weights = np.zeros(len(classes))
        weights[counted] = 1.0 / sizes[classes[counted]]
        return _drawn(rows.trained, weights, self.n)

    def told(self) -> str:
        return f"Balanced(n={self.n})"

    def __repr__(self) -> str:
        return self.told()


class Curriculum(Sampler):
    """Takes the easiest rows first, and more of them from epoch to epoch (Bengio et al. 2009).

    The share grows in equal steps from `start` in the first epoch to all in epoch number `epochs` and later,
    the linear pacing of Hacohen and Weinshall (2019). The rows of an epoch are shuffled.

    Parameters
    ----------
    difficulty : array_like (n,)
        Of each row of x; the smallest is the easiest. Equals are taken in the order of the rows.
    epochs : int
        The first epoch of the trainer that takes all.
    start : float
        Share of the first, above 0 to 1.
    """

    keeps_order = needs_classes = False

    def __init__(self, difficulty: ArrayLike, epochs: int, start: float = 0.2) -> None:
        found = errors.array("difficulty", difficulty)
        if found.ndim != 1 or found.dtype.kind not in "iufb" or not np.isfinite(found).all():
            raise ValueError(
                f"difficulty must be finite numbers (n,), got {found.dtype} of shape {found.shape}"
            )
        self.difficulty = found.astype(np.float64)
        self.epochs = errors.integer("epochs", epochs)
        self.start = errors.real("start", start)
        if not 0 < self.start <= 1:
            raise ValueError(f"start must be above 0 and at most 1, got {start!r}")

    def prepare(self, rows: Rows) -> Callable[[int, int], Array]:
        if len(self.difficulty) != rows.n:
            raise ValueError(
                f"difficulty of sampler must have {rows.n} elements as x has rows, got {len(self.difficulty)}"
            )
        easiest_first = rows.trained[np.argsort(self.difficulty[rows.trained], kind="stable")]

        def order(seed: int, done: int) -> Array:
            share = 1.0
            if done + 1 < self.epochs:
                share = self.start + (1 - self.start) * done / (self.epochs - 1)
            n = max(1, round(share * len(easiest_first)))
            return easiest_first[kernels.shuffle(seed, done, n)]

        return order

    def told(self) -> str:
        sum_ = zlib.crc32(self.difficulty.tobytes())
        return (
            f"Curriculum({len(self.difficulty)} rows {sum_:08x}, epochs={self.epochs}, start={self.start:g})"
        )

    def __repr__(self) -> str:
        return self.told()


class Own(Sampler):
    """A function of the user's."""

    needs_classes = False

    def __init__(self, function: Callable[[np.random.Generator, int], Any]) -> None:
        self.function = function

    def prepare(self, rows: Rows) -> Callable[[int, int], Array]:
        def order(seed: int, done: int) -> Any:
            return self.function(
                np.random.Generator(np.random.Philox(key=np.array([seed, done], np.uint64))), done + 1
            )

        return order

    def __repr__(self) -> str:
        return self.told()

    def told(self) -> str:
        return f"function {getattr(self.function, '__qualname__', type(self.function).__name__)}"


def get(sampler: object) -> Sampler:
    """The sampler that `fit` was given."""
    if isinstance(sampler, type) and issubclass(sampler, Sampler):
        raise TypeError(f"sampler must be a sampler, got the class; write {sampler.__name__}()")
    if isinstance(sampler, Sampler):
        return sampler
    if not callable(sampler):
        raise TypeError(
            "sampler must be one of fastnn.samplers, or a function of (rng, epoch), "
            f"got {errors.shown(sampler)}"
        )
    return Own(sampler)


def bound(
    sampler: Sampler, task: Task, trained: Sample, weights: Array | None
) -> Callable[[int, int], Array]:
    """The sampler's function for the rows of a fit."""
    n = len(trained.x)
    n_classes = task.n_out(trained.x) if task.loss.takes_labels else 2
    rows = Rows(
        n,
        np.arange(n) if trained.rows is None else trained.rows,
        validation.classes_of(task.loss, trained.y, None, n_classes),
        None if weights is None else weights > 0,
    )
    return _judged(sampler.prepare(rows), rows)


def bound_to_source(sampler: Sampler, stream: Any) -> Callable[[int, int], Array]:
    """The sampler's function for a `fastnn.streaming.Stream`, whose classes are read where it needs them."""
    n = stream.source.n_rows
    if n is None:
        raise ValueError(
            f"sampler must be None with {stream.source!r}, whose batches come in the order of who makes "
            "them; sources of rows (npy, shards, csv, parquet) take one"
        )
    if sampler.keeps_order and not stream.source.in_pieces:
        raise ValueError(
            f"sampler={sampler!r} keeps its order, which compressed shards cannot be read in; write them "
            "with np.savez or np.save"
        )
    classes, counts = stream.classes() if sampler.needs_classes else (None, None)
    rows = Rows(n, np.arange(n), classes, counts)
    return _judged(sampler.prepare(rows), rows)


def _judged(draw: Callable[[int, int], Any], rows: Rows) -> Callable[[int, int], Array]:
    """What a sampler gives for an epoch, seen to be numbers of rows that may be taken."""
    allowed: Array | None = None
    if len(rows.trained) < rows.n:
        allowed = np.zeros(rows.n, bool)
        allowed[rows.trained] = True

    def order(seed: int, done: int) -> Array:
        found = errors.array("what sampler gives", draw(seed, done))
        if found.ndim != 1 or not found.size:
            got = f"shape {found.shape} for epoch {done + 1}"
            raise ValueError(f"sampler must give row numbers (n,), one at least, got {got}")
        numbers: Array = errors.row_order("what sampler gives", found.reshape(1, -1), rows.n)[0]
        if allowed is not None and not allowed[numbers].all():
            bad = numbers[~allowed[numbers]][0]
            raise ValueError(f"sampler must give rows to train on, got {bad}, which is held out")
        return numbers

    return order


def _classes(sampler: Sampler, rows: Rows) -> Array:
    if rows.classes is None:
        raise ValueError(f"y must hold classes with sampler={sampler!r}, got values")
    found: Array = rows.classes[rows.trained]
    return found


def _drawn(numbers: Array, weights: Array, n: int | None) -> Callable[[int, int], Array]:
    """Draws among the numbers with replacement, by their weights."""
    sums = np.cumsum(weights)
    total = float(sums[-1])
    if not 0 < total < np.inf:
        raise ValueError(
            f"weights of sampler must have a sum above 0 over the rows to train on, got {total:g}"
        )
    last = int(np.flatnonzero(weights)[-1])  # the product below may round up to the sum itself

    def order(seed: int, done: int) -> Array:
        points = kernels.uniform(seed, done & 0xFFFFFFFF, _DRAWS, len(numbers) if n is None else n) * total
        return numbers[np.minimum(np.searchsorted(sums, points, side="right"), last)]

    return order
