"""What `fit` does to the rows of a batch when it has gathered them; nothing else ever sees it.

Random numbers are keyed by seed, step, row of the batch and column, so that results depend neither on threads
nor on where a fit was interrupted. Rows are read where they lie: no copy of x is made.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from . import errors
from .late_dataclass import dataclass
from .layers import lower
from .noise_layers import GaussianNoise
from .samples import Task

__all__ = ["Augmentation", "ColumnDropout", "Mixup", "lowered"]

MOST = 16  # of a fit; as MOST_AUGMENTS of program.pyx, which has room for no more


@dataclass(frozen=True)
class Mixup:
    """Trains on mixtures of pairs of rows, targets mixed alike (Zhang, Cisse, Dauphin, Lopez-Paz 2018).

    A row becomes ``share * row + (1 - share) * other``, with one share a step from the Beta distribution
    (alpha, alpha), as in the authors' code. The other row stands a random number of places further on in the
    batch. Labels become shares of two classes. With sample weights each of the two counts as it would alone.

    Parameters
    ----------
    alpha : float
        Above 0. 0.2: mostly one of the two; 1: any share is as likely as any other.
    """

    alpha: float = 0.2

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", errors.real("alpha", self.alpha))
        if self.alpha == 0:
            raise ValueError("alpha must be above 0, got 0.0")


@dataclass(frozen=True)
class ColumnDropout:
    """Takes numbers of a row from other rows: swap noise (Jahrer 2017; Bahri et al. 2022, SCARF).

    With probability `rate` a number becomes that of the same column in a random row of the batch. So it is
    one that the column really has, category codes included, and needs no mean to be put in its place.

    Parameters
    ----------
    rate : float
        From 0 to below 1.
    """

    rate: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", errors.real("rate", self.rate, 0.0, 1.0))


Augmentation: TypeAlias = "Mixup | ColumnDropout | GaussianNoise"


def lowered(
    augment: Any, task: Task, n_in: int, full_batch: bool, has_labels: bool = True
) -> tuple[tuple[str, float], ...]:
    """The augmentations of a fit on n_in columns, judged, as programs take them: kinds and their numbers.

    has_labels: whether the targets of a loss that takes labels are such, not probabilities.
    """
    if isinstance(augment, (str, Mixup, ColumnDropout, GaussianNoise)) or not hasattr(augment, "__iter__"):
        raise TypeError(f"augment must be a list of augmentations, got {errors.shown(augment)}")
    found: list[tuple[str, float]] = []
    codes = any(step.kind == "embedding" for step in lower(task.layers, n_in))
    for i, one in enumerate(augment):
        if isinstance(one, ColumnDropout):
            found.append(("swap", one.rate))
        elif isinstance(one, (Mixup, GaussianNoise)):
            if codes:
                raise ValueError(
                    f"augment[{i}] must not change category codes of an Embedding, got {errors.shown(one)}; "
                    "ColumnDropout keeps them codes, and GaussianNoise may be a layer behind the Embedding"
                )
            if isinstance(one, Mixup) and i > 0:
                raise ValueError(
                    f"augment[{i}] must not be Mixup, of which one may stand, as the first, got {one!r}"
                )
            found.append(("mixup", one.alpha) if isinstance(one, Mixup) else ("noise", one.std))
        else:
            raise TypeError(
                f"augment[{i}] must be Mixup, ColumnDropout or GaussianNoise of fastnn, "
                f"got {errors.shown(one)}"
            )
    if len(found) > MOST:
        raise ValueError(f"augment must be at most {MOST} augmentations, got {len(found)}")
    if found and full_batch:
        raise ValueError("augment must be empty with LBFGS, whose steps see the same rows again and again")
    if found and found[0][0] == "mixup":
        loss, labels = task.loss, task.loss.takes_labels and has_labels
        if (labels and not loss.takes_soft) or loss.levels is not None:
            raise ValueError(
                "loss must have targets that can be mixed with Mixup (cross_entropy, or values), "
                f"got {loss.name!r}"
            )
    return tuple(found)
