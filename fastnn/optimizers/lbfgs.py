"""L-BFGS: the description; `fastnn.devices.lbfgs` runs it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from .. import errors
from ..late_dataclass import dataclass
from .base import Optimizer, Schedule

__all__ = ["LBFGS"]


@dataclass(frozen=True, repr=False)
class LBFGS(Optimizer):
    """Limited-memory BFGS (Liu and Nocedal 1989), PyTorch's algorithm, for ``fit(batch_size=None)``.

    One optimizer step is one ``step()`` of PyTorch's: up to `max_iter` iterations on all rows. It takes none
    of the fields that the other optimizers share. Each evaluation normalises by the statistics of the
    batch; the running statistics of BatchNorm are updated once a step, at the parameters that it ended
    with (PyTorch: at each evaluation, those of rejected step lengths too).

    Parameters
    ----------
    lr : float or Schedule
        Length of a step, or where the line search begins.
    max_iter : int
        Iterations of a step.
    max_eval : int, optional
        Evaluations of the loss in a step; None: ``max_iter * 5 // 4``.
    tolerance_grad, tolerance_change : float
        A step ends when no number of the gradient, or of the change and the loss's change, is above it.
    history_size : int
        Pairs of changes that are kept, each twice as long as the parameters.
    line_search : "strong_wolfe", optional
        PyTorch's ``line_search_fn`` (Nocedal and Wright 2006, algorithms 3.5 and 3.6).
    """

    name: ClassVar[str] = "lbfgs"
    full_batch: ClassVar[bool] = True
    lr: float | Schedule = 1.0
    max_iter: int = 20
    max_eval: int | None = None
    tolerance_grad: float = 1e-7
    tolerance_change: float = 1e-9
    history_size: int = 100
    line_search: str | None = None

    def __post_init__(self) -> None:
        self.judge("tolerance_grad", "tolerance_change")
        for field in ("max_iter", "history_size", *(() if self.max_eval is None else ("max_eval",))):
            object.__setattr__(self, field, errors.integer(field, getattr(self, field), 1, 2**31 - 1))
        if self.line_search is not None:
            errors.choice("line_search", self.line_search, ["strong_wolfe"])
        for shared in dataclasses.fields(Optimizer):
            if getattr(self, shared.name) != shared.default:
                raise ValueError(f"LBFGS takes no {shared.name}, got {getattr(self, shared.name)!r}")

    @property
    def n_states(self) -> int:
        """Its state grows with its history: see `fastnn.devices.lbfgs`."""
        return 0
