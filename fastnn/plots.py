"""Pictures of a training; they need matplotlib, the extra `plots`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .history import History

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["learning_curves"]


def learning_curves(history: History, path: str | os.PathLike[str] | None = None) -> Figure:
    """Loss and metrics by epoch, training and validation beside each other: a matplotlib Figure.

    Parameters
    ----------
    path : path, optional
        Where the picture is saved, in the format of its ending.

    Raises
    ------
    ImportError
        Without matplotlib.
    ValueError
        The history holds no epoch.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'learning_curves needs matplotlib: run "python -m pip install matplotlib"'
        ) from error
    if not history.epoch:
        raise ValueError("history must hold at least one epoch, got none")
    names = [name for name in history if not name.startswith("val_")]
    names += [name[4:] for name in history if name.startswith("val_") and name[4:] not in names]
    # Figure itself, not pyplot: no window and no state of the whole process.
    figure = Figure(figsize=(4.5 * len(names), 3.4), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for key, label in ((name, "training"), (f"val_{name}", "validation")):
            if key in history:
                axis.plot(history.epoch, history[key], label=label)
        axis.set(title=name, xlabel="epoch")
        axis.grid(alpha=0.3)
        axis.legend()
    if path is not None:
        figure.savefig(path, dpi=90)
    return figure
