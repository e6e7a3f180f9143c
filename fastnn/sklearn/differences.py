"""What is known to differ from scikit-learn. The goal is an empty list; an entry out of date fails a test.

An entry is a pair: a sentence, and a function that is given scikit-learn's two classes or ours and returns
what differs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["DIFFERENCES"]


def _fit_of_nothing(classifier: Any, regressor: Any) -> str:
    try:
        classifier().fit()
    except TypeError as error:
        return str(error)
    return ""


DIFFERENCES: list[tuple[str, Callable[[Any, Any], Any]]] = [
    ("the TypeError of a fit without X or y names another class before `.fit()`", _fit_of_nothing),
]
