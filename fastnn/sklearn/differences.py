"""What is known to differ from scikit-learn. The goal is an empty list; an entry out of date fails a test.

An entry is a pair: a sentence, and a function that is given scikit-learn's two classes or ours and returns
what differs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["DIFFERENCES"]


def _told_loss_of_labels(classifier: Any, regressor: Any) -> float:
    """Several labels, logits beyond 36: scikit-learn cuts each probability off at 2e-16 in what it tells."""
    model = classifier(hidden_layer_sizes=(), solver="sgd", learning_rate_init=1e-9, shuffle=False)
    x, y = np.array([[1.0], [-1.0]]), np.array([[1, 0], [0, 1]])
    model.partial_fit(x, y, classes=[0, 1])
    model.coefs_[0][...] = [[-100.0, 100.0]]
    model.partial_fit(x, y)
    return float(model.loss_curve_[-1])


def _sums_near_the_end_of_the_range(classifier: Any, regressor: Any) -> str:
    """scikit-learn divides the sum over a batch by its rows; here each row is divided before the sum."""
    x, y = np.full((8, 1), 1e308), np.arange(8) % 2
    try:
        classifier(hidden_layer_sizes=(), random_state=0, max_iter=1).fit(x, y)
    except ValueError as error:
        return str(error)
    return ""


DIFFERENCES: list[tuple[str, Callable[[Any, Any], Any]]] = [
    (
        "With several labels a row, the loss told is not cut off where the probability of a label is below "
        "2e-16 (1e-7 in float32); weights are the same.",
        _told_loss_of_labels,
    ),
    (
        "Numbers near the end of their dtype's range (1e37 in float32, 1e307 in float64) overflow in "
        "scikit-learn's sums over a batch and not here.",
        _sums_near_the_end_of_the_range,
    ),
]
