"""Rows to train on and rows to test on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import errors, kernels

__all__ = ["encode_labels", "fold_rows", "split", "split_rows"]

Array = NDArray[Any]

# Far from the numbers of epochs, which the shuffles of a training are keyed by.
_SPLIT = 2**40


def split_rows(
    n_rows: int, fraction: float, *, stratify: ArrayLike | None = None, seed: int = 0
) -> tuple[Array, Array]:
    """Row numbers of two disjoint parts, each in ascending order.

    Parameters
    ----------
    fraction : float
        Share of the second part, above 0 and below 1; it is rounded, and neither part is left empty.
    stratify : array_like (n_rows,), optional
        Labels: each class gives its share to the second part, to within a row, and keeps one row at
        least in the first.
    seed : int
        The same seed gives the same parts, on every machine.
    """
    n_rows, seed = errors.integer("n_rows", n_rows, 2), errors.seed("seed", seed)
    fraction = _share("fraction", fraction)
    wanted = min(max(round(n_rows * fraction), 1), n_rows - 1)
    order = np.asarray(kernels.shuffle(seed, _SPLIT, n_rows))
    if stratify is None:
        second = order[:wanted]
    else:
        labels = np.asarray(stratify)
        if labels.shape != (n_rows,):
            raise ValueError(f"stratify must have shape ({n_rows},), got {labels.shape}")
        _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
        share = counts * (wanted / n_rows)
        quota = np.minimum(np.floor(share).astype(np.int64), counts - 1)
        # The rows that rounding left over go to the largest remainders that have a row to give.
        for i in np.argsort(-(share - quota), kind="stable"):
            if quota.sum() >= wanted:
                break
            quota[i] += quota[i] < counts[i] - 1
        codes = codes.reshape(-1)[order]
        by_class = np.argsort(codes, kind="stable")
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        rank = np.empty(n_rows, np.int64)
        rank[by_class] = np.arange(n_rows) - np.repeat(starts, counts)
        second = order[rank < quota[codes]]
        if not len(second):
            raise ValueError("stratify must have a class of two rows or more, got none")
    is_second = np.zeros(n_rows, bool)
    is_second[second] = True
    return np.flatnonzero(~is_second), np.flatnonzero(is_second)


def _share(argument: str, value: object) -> float:
    found = errors.real(argument, value, 0.0, 1.0)
    if found == 0.0:
        raise ValueError(f"{argument} must be above 0 and below 1, got {value!r}")
    return found


def fold_rows(
    n_rows: int, folds: int, *, stratify: ArrayLike | None = None, seed: int = 0
) -> list[tuple[Array, Array]]:
    """For each fold the rows to train on and those to test on, both ascending; each row is tested once.

    Parameters
    ----------
    folds : int
        From 2 to n_rows; their sizes differ by a row at most.
    stratify : array_like (n_rows,), optional
        Labels: the rows of each class in the test parts differ by one at most, too.
    seed : int
        The same seed gives the same folds, on every machine.
    """
    n_rows, seed = errors.integer("n_rows", n_rows, 2), errors.seed("seed", seed)
    folds = errors.integer("folds", folds, 2, n_rows)
    order = np.asarray(kernels.shuffle(seed, _SPLIT, n_rows))
    if stratify is not None:
        labels = np.asarray(stratify)
        if labels.shape != (n_rows,):
            raise ValueError(f"stratify must have shape ({n_rows},), got {labels.shape}")
        codes = np.unique(labels, return_inverse=True)[1].reshape(-1)
        order = order[np.argsort(codes[order], kind="stable")]
    # Dealt like cards, class after class: no fold gets two more than another, of any class or of all.
    fold = np.empty(n_rows, np.int64)
    fold[order] = np.arange(n_rows) % folds
    return [(np.flatnonzero(fold != i), np.flatnonzero(fold == i)) for i in range(folds)]


def split(
    *arrays: ArrayLike, test: float = 0.25, stratify: ArrayLike | None = None, seed: int = 0
) -> tuple[Array, ...]:
    """Each array in two parts, by rows: ``x_train, x_test, y_train, y_test = split(x, y)``.

    Parameters
    ----------
    *arrays : array_like
        All with the same number of rows.
    test, stratify, seed
        See `split_rows`; order among rows is kept.

    Examples
    --------
    >>> import numpy as np
    >>> x, x_test, y, y_test = split(np.arange(8).reshape(-1, 1), [0, 0, 0, 0, 1, 1, 1, 1], test=0.5,
    ...                              stratify=[0, 0, 0, 0, 1, 1, 1, 1])
    >>> y.tolist(), y_test.tolist()
    ([0, 0, 1, 1], [0, 0, 1, 1])
    """
    if not arrays:
        raise ValueError("arrays must be at least one, got none")
    found = [np.asarray(a) for a in arrays]
    if any(a.ndim == 0 or len(a) != len(found[0]) for a in found):
        raise ValueError(f"arrays must have one number of rows, got shapes {[a.shape for a in found]}")
    if len(found[0]) < 2:
        raise ValueError(f"arrays must have two rows or more, got {len(found[0])}")
    first, second = split_rows(len(found[0]), _share("test", test), stratify=stratify, seed=seed)
    return tuple(part for a in found for part in (a[first], a[second]))


def encode_labels(labels: ArrayLike) -> tuple[Array, list[Any]]:
    """Labels of any kind (texts, numbers with gaps, bools) as codes 0 .. n-1, and the sorted classes.

    Returns
    -------
    codes : ndarray of int64 (n,)
    classes : list
        ``classes[code]`` is the label, a plain Python value.

    Examples
    --------
    >>> encode_labels(["pear", "fig", "pear"])
    (array([1, 0, 1]), ['fig', 'pear'])
    """
    found = np.asarray(labels)
    if found.ndim != 1:
        raise ValueError(f"labels must be 1-D, got shape {found.shape}")
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        row = int((~np.isfinite(found)).argmax())
        raise ValueError(f"labels must not be missing, got {found[row]} in row {row}")
    try:
        classes, codes = np.unique(found, return_inverse=True)
    except TypeError:
        raise TypeError("labels must be all texts, all numbers or all bools, got a mixture") from None
    return codes.reshape(-1).astype(np.int64), classes.tolist()
