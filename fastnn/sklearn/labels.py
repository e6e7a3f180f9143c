"""Plain labels, an integer or a string a row: what scikit-learn's LabelBinarizer makes of them, in one pass.

That one looks at y four times, which takes longer than some epochs of a small net.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import LabelBinarizer

__all__ = ["known", "new"]

Array = NDArray[Any]


def _is_plain(y: Any, n_rows: int | None) -> bool:
    if type(y) is not np.ndarray or y.ndim != 1 or not y.dtype.isnative:
        return False
    return y.dtype.kind in "iuU" and len(y) > 0 and len(y) == n_rows


def _marked(numbers: Array, n_classes: int) -> Array:
    """One column for two classes, else one a class, of bool."""
    if n_classes == 2:
        return numbers.astype(bool).reshape(-1, 1)
    found = np.zeros((len(numbers), n_classes), bool)
    found[np.arange(len(numbers)), numbers] = True
    return found


@functools.cache
def _pattern(n_classes: int, dtype: np.dtype[Any]) -> LabelBinarizer:
    return LabelBinarizer().fit(np.arange(n_classes).astype(dtype))


def _fitted(classes: Array) -> LabelBinarizer:
    """Fitted to sorted classes. Its own fit takes longer than an epoch of a small net; of whole numbers it
    learns no more than whether there are two."""
    if classes.dtype.kind == "U":
        return LabelBinarizer().fit(classes)
    found = LabelBinarizer()
    vars(found).update(vars(_pattern(min(len(classes), 3), classes.dtype)), classes_=classes)
    return found


def new(y: Any, n_rows: int | None) -> tuple[LabelBinarizer, Array] | None:
    """A binarizer of the classes of y, and y binarized; None where scikit-learn must look at y.

    Parameters
    ----------
    y : object
        As a user gave it.
    n_rows : int or None
        Rows of X.
    """
    if not _is_plain(y, n_rows):
        return None
    classes, numbers = np.unique(y, return_inverse=True)
    if not 2 <= len(classes) <= len(y) // 2:  # it warns of many classes, and does its own of one
        return None
    return _fitted(classes), _marked(numbers, len(classes))


def known(y: Any, n_rows: int | None, binarizer: LabelBinarizer, all_of_them: bool) -> Array | None:
    """y binarized by a binarizer of former classes; None where scikit-learn must look at y.

    Parameters
    ----------
    all_of_them : bool
        Whether each class must be there.
    """
    classes = binarizer.classes_
    if not (
        _is_plain(y, n_rows)
        and type(classes) is np.ndarray
        and len(classes) >= 2
        and binarizer.y_type_ in ("binary", "multiclass")
        and (classes.dtype == y.dtype or classes.dtype.kind == y.dtype.kind == "U")
    ):
        return None
    numbers = np.minimum(np.searchsorted(classes, y), len(classes) - 1)
    if not np.array_equal(classes[numbers], y):
        return None
    if all_of_them and not np.bincount(numbers, minlength=len(classes)).all():
        return None
    return _marked(numbers, len(classes))
