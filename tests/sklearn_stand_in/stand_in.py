"""A pytest plugin: scikit-learn's shipped tests run on our classes, and each fit is looked at.

With FASTNN_FITS=path in the environment, what `fit_info_` said of each fit goes there, a line a fit.
"""

from __future__ import annotations

import atexit
import os

from scipy import sparse

import fastnn.sklearn
from fastnn.sklearn.base import Compiled

fastnn.sklearn.patch()

_fits: list[str] = []
_fit_stochastic = Compiled._fit_stochastic


def _noted(self, X, *rest):
    try:
        return _fit_stochastic(self, X, *rest)
    finally:
        info = getattr(self, "fit_info_", {"engine": "none", "reason": ""})
        _fits.append(f"{info['engine']}\t{'sparse' if sparse.issparse(X) else 'dense'}\t{info['reason']}")


Compiled._fit_stochastic = _noted


@atexit.register
def _write() -> None:
    if path := os.environ.get("FASTNN_FITS"):
        with open(path, "a") as file:
            file.writelines(f"{line}\n" for line in _fits)
