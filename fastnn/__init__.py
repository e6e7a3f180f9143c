"""fastnn: feed-forward networks, compiled, trained and served straight from NumPy arrays.

>>> import fastnn as fn
>>> model = fn.Sequential(fn.Dense(16, activation="relu"), fn.Dense(3))
>>> trainer = fn.Trainer(model, loss="cross_entropy", optimizer=fn.Adam(lr=1e-3), seed=0)
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal, overload

from . import build_check

try:
    build_check.check()  # one clear sentence before anything else can fail on a missing or stale module
except (ImportError, ValueError) as _error:
    if not build_check.is_command():
        raise
    print(f"fastnn: error: {_error}", file=sys.stderr)
    sys.exit(1 if isinstance(_error, ImportError) else 2)  # 2: FASTNN_ISA or FASTNN_NUM_THREADS is wrong

from . import devices, errors, ops, thread_control
from .callbacks import Callback, EarlyStopping, ReduceLROnPlateau
from .errors import DeviceError, DivergenceError, FormatError, NotFittedError
from .history import History
from .input_layers import Flatten, Periodic, PiecewiseLinear
from .kernels import COMPILER as _COMPILER
from .kernels import get_num_threads, isa, isa_available, set_num_threads, threads_started
from .layers import Activation, Concat, Dense, Dropout, Embedding, Residual, Scale
from .losses import (
    MAE,
    MSE,
    BinaryCrossEntropy,
    CrossEntropy,
    Focal,
    GaussianNLL,
    Hinge,
    Huber,
    KLDivergence,
    LogCosh,
    MultiMargin,
    Poisson,
    Quantile,
    SoftmaxFocal,
)
from .network import Sequential
from .noise_layers import AlphaDropout, GaussianNoise
from .norm_layers import BatchNorm, LayerNorm, PReLU, RMSNorm
from .optimizers import LBFGS, SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, Group, Lion, NAdam, RAdam, RMSprop
from .reports import CSVLogger, ProgressBar
from .trainer import Trainer

if TYPE_CHECKING:
    from . import data, metrics, samplers, schedules
    from .augment import ColumnDropout, Mixup
    from .averages import WeightAverage, update_statistics
    from .c_source import to_c
    from .ensemble import Ensemble
    from .loading import load
    from .lr_finder import LRFinder, lr_find
    from .many import fit_many
    from .model_checkpoint import ModelCheckpoint
    from .named_weights import load_weights, save_weights
    from .searching import cross_validate, grid

thread_control.watch()  # threadpoolctl is told of the pool, now or when it is imported

__version__ = build_check.version()  # of the compiled modules: importlib.metadata would take 30 ms

__all__ = [
    "LBFGS",
    "MAE",
    "MSE",
    "SGD",
    "Activation",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "AlphaDropout",
    "BatchNorm",
    "BinaryCrossEntropy",
    "CSVLogger",
    "Callback",
    "ColumnDropout",
    "Concat",
    "CrossEntropy",
    "Dense",
    "DeviceError",
    "DivergenceError",
    "Dropout",
    "EarlyStopping",
    "Embedding",
    "Ensemble",
    "Flatten",
    "Focal",
    "FormatError",
    "GaussianNLL",
    "GaussianNoise",
    "Group",
    "Hinge",
    "History",
    "Huber",
    "KLDivergence",
    "LRFinder",
    "LayerNorm",
    "Lion",
    "LogCosh",
    "Mixup",
    "ModelCheckpoint",
    "MultiMargin",
    "NAdam",
    "NotFittedError",
    "PReLU",
    "Periodic",
    "PiecewiseLinear",
    "Poisson",
    "ProgressBar",
    "Quantile",
    "RAdam",
    "RMSNorm",
    "RMSprop",
    "ReduceLROnPlateau",
    "Residual",
    "Scale",
    "Sequential",
    "SoftmaxFocal",
    "Trainer",
    "WeightAverage",
    "__version__",
    "cross_validate",
    "data",
    "fit_many",
    "get_include",
    "get_num_threads",
    "grid",
    "load",
    "load_weights",
    "lr_find",
    "metrics",
    "ops",
    "samplers",
    "save_weights",
    "schedules",
    "set_num_threads",
    "show_config",
    "to_c",
    "update_statistics",
]


_LAZY = ("data", "metrics", "samplers", "schedules")
# Names of modules that few need.
_LAZY_NAMES = {
    "WeightAverage": "averages",
    "update_statistics": "averages",
    "LRFinder": "lr_finder",
    "lr_find": "lr_finder",
    "ModelCheckpoint": "model_checkpoint",
    "ColumnDropout": "augment",
    "Mixup": "augment",
    "fit_many": "many",
    "cross_validate": "searching",
    "grid": "searching",
    "Ensemble": "ensemble",
    "load": "loading",
    "load_weights": "named_weights",
    "save_weights": "named_weights",
    "to_c": "c_source",
}


def __getattr__(name: str) -> Any:
    """Modules that are loaded when they are first used: `metrics` alone is a fifth of the import."""
    if name in _LAZY:
        import importlib

        return importlib.import_module(f".{name}", __name__)
    if name in _LAZY_NAMES:
        import importlib

        return getattr(importlib.import_module(f".{_LAZY_NAMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """All names, also of what is not loaded yet."""
    return sorted({*globals(), *__all__})


def get_include() -> str:
    """The folder of fastnn_c_api.h, for compiled packages that call the kernels (docs/backends.md)."""
    return build_check.include_folder()


@overload
def show_config(mode: None = None) -> None: ...
@overload
def show_config(mode: Literal["dict"]) -> dict[str, Any]: ...
def show_config(mode: str | None = None) -> dict[str, Any] | None:
    """Print what this fastnn is and runs on; with mode="dict" return it instead.

    Keys: version, isa (instruction set in use), isa_available, num_threads (that a call may use),
    threads_started (worker threads that exist now), compiler, devices.
    """
    if mode is not None:
        errors.choice("mode", mode, ["dict"])
    config = {
        "version": __version__,
        "isa": isa(),
        "isa_available": isa_available(),
        "num_threads": get_num_threads(),
        "threads_started": threads_started(),
        "compiler": _COMPILER,
        "devices": devices.available(),
    }
    if mode == "dict":
        return config
    for key, value in config.items():
        print(f"{key:<16}{', '.join(value) if isinstance(value, tuple) else value}")
    return None
