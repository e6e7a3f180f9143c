"""Pictures of a training; they need matplotlib, the extra `plots`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .history import History

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .lr_finder import LRFinder

__all__ = ["learning_curves", "learning_rates"]


def _figure(name: str) -> type[Figure]:
    """Matplotlib's Figure itself, not pyplot: no window and no state of the whole process."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f'{name} needs matplotlib: run "python -m pip install matplotlib"') from error
    return Figure


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
    Figure = _figure("learning_curves")
    if not history.epoch:
        raise ValueError("history must hold at least one epoch, got none")
    names = [name for name in history if not name.startswith("val_")]
    names += [name[4:] for name in history if name.startswith("val_") and name[4:] not in names]
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


def learning_rates(found: LRFinder, path: str | os.PathLike[str] | None = None) -> Figure:
    """Loss over the learning rate, with the rate suggested: a matplotlib Figure.

    Parameters
    ----------
    found : LRFinder
        What `fastnn.lr_find` gave.
    path : path, optional
        Where the picture is saved, in the format of its ending.

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    figure = _figure("learning_rates")(figsize=(5.5, 3.6), layout="constrained")
    axis = figure.subplots()
    axis.plot(found.rates, found.losses, alpha=0.35, label="loss of the batch")
    axis.plot(found.rates, found.smoothed, label="smoothed")
    if found.suggestion is not None:
        axis.axvline(found.suggestion, color="black", linestyle=":", label=f"lr = {found.suggestion:.2g}")
    axis.set(xscale="log", xlabel="learning rate", ylabel="loss")
    axis.grid(alpha=0.3)
    axis.legend()
    if path is not None:
        figure.savefig(path, dpi=90)
    return figure
