"""How the rows given to `fit` are shared out: to train on, to validate on, and how much each counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import errors, kernels
from .losses import Loss
from .samples import Sample, Task
from .steps import Step

__all__ = ["class_weights", "classes_of", "of_rows", "put_back", "share_out", "split"]

Array = NDArray[Any]

# Numbers the split's permutation among a seed's shuffles: no training gets this far.
SPLIT_EPOCH = 2**64 - 1


def share_out(
    task: Task,
    given: Sample,
    *,
    validation_data: object,
    validation_split: float,
    class_weight: object,
    seed: int,
) -> tuple[Sample, Array | None, Sample | None]:
    """Rows to train on, the weights of all rows in training, and rows to validate on, or None."""
    trained, measured, weights = given, None, given.weight
    n_classes = task.n_out(given.x) if task.loss.takes_labels else 2
    classes = classes_of(task.loss, given.y, given.ignored, n_classes)
    if validation_data is not None:
        if validation_split > 0:
            raise ValueError(
                "validation_split must be 0 where validation_data is given, "
                f"got {validation_split:g}; give one of the two"
            )
        names = [f"validation_data[{i}]" for i in range(3)]
        measured = task.sample(*triple(validation_data), names)
        if measured.x.shape[1] != given.x.shape[1]:
            raise ValueError(
                f"{names[0]} must have {given.x.shape[1]} columns as x has, got shape {measured.x.shape}"
            )
    elif validation_split > 0:
        rows, others = split(validation_split, classes, len(given), seed)
        trained, measured = (Sample(given.x, given.y, weights, part) for part in (rows, others))
        if weights is not None and not weights[others].any():
            which = "sample_weight" if given.ignored is None else "the weight of labels that are not ignored"
            raise ValueError(f"{which} must not be all zero in the rows of validation_split")
    if class_weight is not None:
        soft = None if classes is not None else shares_of(task.loss, given.y)
        weighted = class_weights(
            class_weight,
            task.loss,
            None if classes is None else trained.of(classes),
            n_classes,
            None if soft is None else trained.of(soft),
        )
        of_class = np.zeros(len(given))
        of_class[slice(None) if trained.rows is None else trained.rows] = weighted
        of_class = errors.of_middle_size(of_class)
        if weights is not None:
            with np.errstate(under="ignore"):
                of_class = errors.of_middle_size(of_class * weights)
        weights = of_class
    if weights is not None and not trained.of(weights).any():
        own_weights = given.weight if given.ignored is None else None
        named = {"sample_weight": own_weights, "class_weight": class_weight}
        argument = " times ".join(name for name, value in named.items() if value is not None)
        argument = argument or "the weight of labels that are not ignored"
        raise ValueError(f"{argument} must not be all zero in the rows to train on")
    return trained, weights, measured


def of_rows(x: Array, y: object, weight: object, rows: Array) -> tuple[Array, Any, Any]:
    """A stand-in for some rows of x, of their number and without memory; their targets and weights."""
    stand_in = np.broadcast_to(x[:1], (len(rows), x.shape[1]))
    found = [stand_in]
    for name, value in (("y", y), ("sample_weight", weight)):
        if value is None:
            found.append(None)  # type: ignore[arg-type]
            continue
        array = errors.array(name, value)
        if array.ndim == 0 or len(array) != len(x):
            raise ValueError(f"{name} must have {len(x)} rows as x has, got shape {array.shape}")
        found.append(array[rows])
    return found[0], found[1], found[2]


def put_back(
    x: Array, rows: Array, trained: Sample, weights: Array | None, measured: Sample | None
) -> tuple[Sample, Array | None, Sample | None]:
    """What `share_out` made of a stand-in, by the row numbers of x itself: x is read where it lies."""

    def spread(values: Array | None) -> Array | None:
        if values is None:
            return None
        full = np.zeros((len(x), *values.shape[1:]), values.dtype)
        full[rows] = values
        return full

    def back(sample: Sample) -> Sample:
        part = rows if sample.rows is None else rows[sample.rows]
        y, weight = spread(sample.y), spread(sample.weight)
        assert y is not None
        return Sample(x, y, weight, part, sample.name, spread(sample.ignored))

    if measured is not None and measured.rows is not None:  # of validation_split
        measured = back(measured)
    return back(trained), spread(weights), measured


def triple(value: object) -> tuple[Any, Any, Any]:
    """x, y and weights (or None) of validation_data."""
    if not isinstance(value, (tuple, list)) or len(value) not in (2, 3):
        got = f"{len(value)} of them" if isinstance(value, (tuple, list)) else type(value).__name__
        raise TypeError(f"validation_data must be (x, y) or (x, y, sample_weight), got {got}")
    return value[0], value[1], value[2] if len(value) == 3 else None


def classes_of(loss: Loss, y: Array, ignored: Array | None = None, n_classes: int = 0) -> Array | None:
    """A class number for each row of judged targets, or None where the targets are no classes.

    Ignored rows are a class of their own, number `n_classes`.
    """
    if loss.takes_labels:
        if y.ndim == 2:
            return None
        return y if ignored is None else np.where(ignored, n_classes, y)
    if y.shape[1] == 1 and loss.meaning == "signs":
        return np.asarray(y[:, 0] > 0, np.int64)
    if loss.link == "sigmoid" and y.shape[1] == 1 and bool(((y == 0) | (y == 1)).all()):
        return np.asarray(y[:, 0], np.int64)
    return None


def shares_of(loss: Loss, y: Array) -> Array | None:
    """How much of each class each row of judged soft targets is, (n, n_classes); None where they are none."""
    if loss.takes_soft and y.ndim == 2:
        return y
    if loss.link == "sigmoid" and y.shape[1] == 1:
        return np.concatenate([1 - y, y], axis=1)
    return None


def split(share: float, classes: Array | None, n_rows: int, seed: int) -> tuple[Array, Array]:
    """Numbers of the rows to train on and of those to validate on, both ascending.

    A function of the arguments alone. With classes each is split alike: counts are rounded so that they sum
    up (largest remainder), and one row of each class at least stays to train on.
    """
    n_validation = round(share * n_rows)
    if not 0 < n_validation < n_rows:
        which = "to validate on" if n_validation == 0 else "to train on"
        raise ValueError(
            f"validation_split={share:g} must leave rows for both sides, got none {which} of {n_rows}"
        )
    order = kernels.shuffle(seed, SPLIT_EPOCH, n_rows)
    chosen = np.zeros(n_rows, bool)
    if classes is None:
        chosen[order[:n_validation]] = True
    else:
        number, counts = _numbered(classes)
        taken = _apportion(share, counts, n_validation)
        # Place of each row among those of its class, in the permuted order.
        grouped = order[np.argsort(number[order], kind="stable")]
        first = np.repeat(np.cumsum(counts) - counts, counts)
        chosen[grouped] = np.arange(n_rows) - first < np.repeat(taken, counts)
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _numbered(classes: Array) -> tuple[Array, Array]:
    """Classes numbered from 0 without gaps, in the smallest type that holds them, and the rows of each."""
    counts = np.bincount(classes)
    there = counts > 0
    # Of 16 bits or less a stable sort is a radix sort, ten times as fast as one of int64.
    number = (np.cumsum(there) - 1).astype(np.min_scalar_type(len(counts)))
    return number[classes], counts[there]


def _apportion(share: float, counts: Array, n_validation: int) -> Array:
    """How many rows of each class are split off: n_validation in all."""
    room: Array = counts - 1
    if room.sum() < n_validation:
        raise ValueError(
            f"validation_split={share:g} must leave a row of each class to train on, got {counts.sum()} rows "
            f"of {len(counts)} classes"
        )
    wanted = counts * (n_validation / counts.sum())
    taken: Array = np.minimum(np.floor(wanted).astype(np.int64), room)
    while (missing := n_validation - int(taken.sum())) > 0:
        # Most needed first, the lower class of equals; one row each until none is missing.
        open_classes = np.flatnonzero(taken < room)
        by_need = open_classes[np.argsort((taken - wanted)[open_classes], kind="stable")]
        taken[by_need[:missing]] += 1
    return taken


def class_weights(
    value: object, loss: Loss, classes: Array | None, n_classes: int, shares: Array | None = None
) -> Array:
    """A weight for each row from its class.

    Parameters
    ----------
    value : mapping, sequence or "balanced"
        Weights by label, 1 for labels that a mapping does not name; "balanced" gives each class that occurs
        the same sum: n_rows / (number of these classes * rows of the class).
    classes : ndarray or None
        Of the rows to train on, as `classes_of` gives them.
    n_classes : int
        Labels are 0 .. n_classes-1, but for losses with `levels`, of which the lower is class 0.
    shares : ndarray (n_rows, n_classes), optional
        In place of classes, probabilities of them: a row has the mean of the weights, and "balanced" counts
        the sums of the columns.
    """
    if shares is not None:
        shares, n_classes = shares.astype(np.float64), shares.shape[1]
    elif classes is None:
        several = loss.link == "sigmoid"
        hint = (
            "BinaryCrossEntropy(pos_weight=) weighs the ones of each column, sample_weight rows"
            if several
            else "use sample_weight"
        )
        raise ValueError(
            f"class_weight needs targets that are classes, got loss {loss.name!r} with "
            f"{'several questions a row' if several else 'other ones'}; {hint}"
        )
    table = np.ones(n_classes + 1)  # the last of ignored rows, whose weight is 0
    labels = list(range(n_classes)) if loss.levels is None else [int(level) for level in loss.levels]
    if isinstance(value, str):
        errors.choice("class_weight", value, ["balanced"])
        if classes is not None:
            counts = np.bincount(classes, minlength=n_classes + 1).astype(np.float64)
            counts[n_classes] = 0
        else:
            assert shares is not None
            counts = np.append(shares.sum(axis=0), 0.0)
        there = counts > 0
        table[there] = counts.sum() / (there.sum() * counts[there])
    elif isinstance(value, Mapping):
        for label, weight in value.items():
            if isinstance(label, (bool, np.bool_)) or not isinstance(label, (int, np.integer)):
                raise TypeError(f"class_weight must have labels as keys, got {errors.shown(label)}")
            if label not in labels:
                known = (
                    f"from 0 to {n_classes - 1}" if loss.levels is None else f"{labels[0]} and {labels[1]}"
                )
                raise ValueError(f"class_weight must name labels {known}, got {label}")
            table[labels.index(int(label))] = errors.real(f"class_weight[{label}]", weight)
    elif isinstance(value, (Sequence, np.ndarray)):
        if np.shape(value) != (n_classes,):
            raise ValueError(
                f"class_weight must have a weight for each of {n_classes} labels, got {errors.shown(value)}"
            )
        table[:n_classes] = [errors.real(f"class_weight[{i}]", one) for i, one in enumerate(value)]
    else:
        raise TypeError(
            "class_weight must be a dict or list of weights by label, or 'balanced', "
            f"got {errors.shown(value)}"
        )
    if classes is not None:
        return table[classes]
    assert shares is not None
    # column by column: a product of NumPy's has other bits on other machines
    found = np.zeros(len(shares))
    for j in range(n_classes):
        found += shares[:, j] * table[j]
    return found


def judge_batches(steps: Sequence[Step], n_rows: int, batch_size: int) -> None:
    """Refuse a batch of one row, be it the last, where batch normalisation is to train."""
    if any(step.running >= 0 for step in steps) and (batch_size == 1 or n_rows % batch_size == 1):
        raise ValueError(
            "batch_size must leave no batch of one row, which has no variance for BatchNorm to train on: "
            f"{n_rows} rows in batches of {batch_size} do"
        )
