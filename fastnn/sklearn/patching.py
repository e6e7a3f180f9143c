"""Putting our classes in the place of scikit-learn's, wherever they have been imported to."""

from __future__ import annotations

import copyreg
import sys
from typing import Any

from sklearn import neural_network
from sklearn.neural_network import _multilayer_perceptron

from .estimators import STOCK, MLPClassifier, MLPRegressor

__all__ = ["is_patched", "patch", "unpatch"]

_PAIRS = dict(zip(STOCK, (MLPClassifier, MLPRegressor), strict=True))
# Where names stood for scikit-learn's classes: namespace, name, class.
_replaced: list[tuple[dict[str, Any], str, Any]] = []


def _bare(name: str) -> Any:
    cls = next(one for one in STOCK if one.__name__ == name)
    return cls.__new__(cls)


def _reduced(estimator: Any) -> tuple[Any, ...]:
    return _bare, (type(estimator).__name__,), estimator.__getstate__()


def patch() -> int:
    """Put our MLPClassifier and MLPRegressor in the place of scikit-learn's, for the whole process.

    Names in scikit-learn itself, which later imports read, and in all modules that have imported the classes
    already are replaced. Objects that exist stay what they are; pickles of scikit-learn's are read as ours.

    Returns
    -------
    int
        Names that were replaced; 0 where that was done before.
    """
    before = len(_replaced)
    for stock in STOCK:  # by its name pickle would find our class and refuse
        copyreg.pickle(stock, _reduced)
    ours = __name__.rpartition(".")[0]
    for name, module in list(sys.modules.items()):
        if module is None or name == ours or name.startswith(f"{ours}."):
            continue
        namespace = getattr(module, "__dict__", None)
        if isinstance(namespace, dict):
            _replace_in(namespace)
    for module in (neural_network, _multilayer_perceptron):
        _replace_in(vars(module))
    return len(_replaced) - before


def _replace_in(namespace: dict[str, Any]) -> None:
    for key, value in list(namespace.items()):
        for stock, own in _PAIRS.items():
            if value is stock:
                namespace[key] = own
                _replaced.append((namespace, key, stock))


def unpatch() -> None:
    """Undo `patch`; names that have changed since, and those imported since, are left alone."""
    for stock in STOCK:
        copyreg.dispatch_table.pop(stock, None)
    own = set(_PAIRS.values())
    while _replaced:
        namespace, key, stock = _replaced.pop()
        if namespace.get(key) in own:
            namespace[key] = stock


def is_patched() -> bool:
    """Whether scikit-learn's names stand for our classes."""
    return bool(neural_network.MLPClassifier is MLPClassifier)
