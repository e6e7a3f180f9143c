"""What all optimizers share: the rate, clipping, penalties, averages, groups of weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Set
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import errors
from ..late_dataclass import dataclass
from ..steps import Step, n_parameters, places

__all__ = ["Group", "Optimizer", "Rule", "Schedule", "positive"]


class Schedule:
    """Base of the descriptions in `fastnn.schedules`: a learning rate for each step or epoch."""

    by: str

    def at(self, t: NDArray[np.int64]) -> NDArray[np.float64]:
        """The rates at steps or epochs t, counted from 0."""
        raise NotImplementedError

    cycles: bool = False  # whether it gives the momentum too

    def momenta(self, t: NDArray[np.int64]) -> NDArray[np.float64]:
        """The momenta at steps or epochs t, of one that cycles."""
        raise NotImplementedError

    def largest(self) -> float:
        """A rate that it gives, or may give: none is above it, unless they grow without end."""
        raise NotImplementedError


def positive(argument: str, value: object) -> float:
    """A finite number above 0."""
    number = errors.real(argument, value)
    if number == 0.0:
        raise ValueError(f"{argument} must be above 0, got {value!r}")
    return number


@dataclass(frozen=True, repr=False)
class Group:
    """Weights that an optimizer treats in a way of their own.

    Where several groups hold a weight, each field is that of the last group that sets it; a weight in no
    group, and a field that is None, is treated as the optimizer says.

    Parameters
    ----------
    layers : int or tuple of int, optional
        Positions of layers in the model; None: all.
    weights : str or tuple of str, optional
        Names as in ``model.weights``, where ``*`` stands for any text (``"*.bias"``, ``"0.*"``); None: all.
        Given both, a weight must fit both.
    lr_factor : float, optional
        Multiplies the learning rate, whatever the schedule.
    weight_decay, l1, max_norm : float, optional
        Instead of the optimizer's own; 0 is none.
    frozen : bool, optional
        Whether the weights stay as they are: no gradient of theirs is computed, none below the first layer
        that is trained, and their optimizer state is left alone.

    Examples
    --------
    No decay of biases, a tenth of the rate in the first layer:

    >>> import fastnn as fn
    >>> groups = (fn.Group(weights="*.bias", weight_decay=0.0), fn.Group(layers=0, lr_factor=0.1))
    >>> optimizer = fn.AdamW(lr=1e-3, groups=groups)
    """

    layers: int | tuple[int, ...] | None = None
    weights: str | tuple[str, ...] | None = None
    lr_factor: float | None = None
    weight_decay: float | None = None
    l1: float | None = None
    max_norm: float | None = None
    frozen: bool | None = None

    def __post_init__(self) -> None:
        if self.layers is not None:
            given = errors.listed(self.layers)
            given = given if isinstance(given, (tuple, list)) else (given,)
            _set(self, "layers", tuple(errors.integer("layers", one, 0) for one in given))
        if self.weights is not None:
            names = self.weights if isinstance(self.weights, (tuple, list)) else (self.weights,)
            for name in names:
                if not isinstance(name, str):
                    raise TypeError(f"weights must be a name or names, got {errors.shown(self.weights)}")
            _set(self, "weights", tuple(names))
        for field in ("lr_factor", "weight_decay", "l1", "max_norm"):
            if getattr(self, field) is not None:
                _set(self, field, errors.real(field, getattr(self, field)))
        if self.frozen is not None:
            _set(self, "frozen", errors.flag("frozen", self.frozen))

    def __repr__(self) -> str:
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return f"Group({', '.join(f'{name}={v!r}' for name, v in given.items() if v is not None)})"

    def holds(self, name: str) -> bool:
        """Whether a weight of that name is in the group."""
        layers, patterns = self.layers, self.weights
        if isinstance(layers, tuple) and not any(name.startswith(f"{layer}.") for layer in layers):
            return False
        if not isinstance(patterns, tuple):
            return True
        from fnmatch import fnmatchcase

        return any(fnmatchcase(name, pattern) for pattern in patterns)


def _set(description: object, field: str, value: object) -> None:
    """Store the judged form of a field of a frozen description."""
    object.__setattr__(description, field, value)


@dataclass(frozen=True)
class Rule:
    """How one weight of a model is updated: its place in the flat block, and what holds for it.

    Parameters
    ----------
    offset, length : int
    columns : int
        Of a matrix whose columns `max_norm` limits; 0 for all else.
    lr, decay, l1, max_norm : float
        lr multiplies the step's rate; max_norm 0 is none.
    frozen : bool
    """

    offset: int
    length: int
    columns: int
    lr: float
    decay: float
    l1: float
    max_norm: float
    frozen: bool


def _rules(
    optimizer: Optimizer, places: Mapping[str, tuple[int, tuple[int, ...]]], matrices: Set[int]
) -> tuple[Rule, ...]:
    """The rule of each weight, from offset and shape by name."""
    used = [False] * len(optimizer.groups)
    found = []
    for name, (offset, shape) in places.items():
        fields: dict[str, Any] = {
            "lr_factor": 1.0,
            "weight_decay": optimizer.weight_decay,
            "l1": optimizer.l1,
            "max_norm": optimizer.max_norm or 0.0,
            "frozen": False,
        }
        for i, group in enumerate(optimizer.groups):
            if group.holds(name):
                used[i] = True
                given = {field: getattr(group, field) for field in fields}
                fields |= {field: value for field, value in given.items() if value is not None}
        # tables of categories and frequencies are none
        columns, limit = (shape[1], fields["max_norm"]) if offset in matrices else (0, 0.0)
        lr, decay, l1 = fields["lr_factor"], fields["weight_decay"], fields["l1"]
        found.append(Rule(offset, math.prod(shape), columns, lr, decay, l1, limit, fields["frozen"]))
    for group, was_used in zip(optimizer.groups, used, strict=True):
        if not was_used:
            raise ValueError(f"groups must each hold a weight, of {', '.join(places)}; {group!r} holds none")
    return tuple(found)


class _Own:
    """What each optimizer has, in an order of its own."""

    name: ClassVar[str]
    lr: float | Schedule
    weight_decay: float = 0.0
    full_batch: ClassVar[bool] = False  # whether a step takes all rows


@dataclass(frozen=True, kw_only=True, repr=False)
class Optimizer(_Own):
    """What all optimizers share.

    The order of a step is PyTorch's: the gradient is averaged over `accumulate` batches, clipped by value,
    then by norm; weight decay and l1 join it; the update; `max_norm`; the average of the weights.

    Parameters
    ----------
    l1 : float
        ``l1 * sign(w)`` is added to the gradient, after clipping, as coupled weight decay is.
    clip_norm : float, optional
        The whole gradient g is multiplied by ``min(1, clip_norm / (norm(g) + 1e-6))``, as
        ``torch.nn.utils.clip_grad_norm_`` does (Pascanu et al. 2013); frozen weights do not count.
    clip_value : float, optional
        Each number of the gradient is cut to ``-clip_value .. clip_value``.
    max_norm : float, optional
        After the update, the weights into a unit (a column of a dense layer's matrix) that are longer than
        this are scaled down to it (Srivastava et al. 2014).
    accumulate : int
        The weights change once in so many batches, by the gradient of the rows of all: sums of weights
        count, so a ragged batch counts by its rows. Goes on across epochs and fits. A schedule by steps
        counts changes; `trainer.step` counts batches.
    ema : float, optional
        Decay of an exponential moving average of the weights, ``mean += (1 - ema) * (w - mean)`` after each
        update, which begins as the weights after the first; see `Trainer.averaged`.
    groups : tuple of Group
        Rates, decays and frozen weights by layer or name.
    """

    l1: float = 0.0
    clip_norm: float | None = None
    clip_value: float | None = None
    max_norm: float | None = None
    accumulate: int = 1
    ema: float | None = None
    groups: tuple[Group, ...] = ()

    @property
    def n_states(self) -> int:
        """Vectors of state, each as long as the parameters."""
        raise NotImplementedError

    @property
    def has_velocity(self) -> bool:
        """Whether there is a momentum at some step; of an optimizer with the field momentum."""
        return self.momentum != 0 or (isinstance(self.lr, Schedule) and self.lr.cycles)  # type: ignore[attr-defined]

    def rules(self, steps: tuple[Step, ...]) -> tuple[Rule, ...]:
        """How each weight of a network is updated, by offset; one rule where all are alike.

        Raises
        ------
        ValueError
            A group holds no weight.
        """
        if self.groups or self.max_norm is not None:
            matrices = {step.weight for step in steps if step.kind == "dense"}
            return _rules(self, places(steps), matrices)
        n = n_parameters(steps)
        return (Rule(0, n, 0, 1.0, self.weight_decay, self.l1, 0.0, False),)

    def judge_flag(self, field: str) -> None:
        """Make the field a bool."""
        object.__setattr__(self, field, errors.flag(field, getattr(self, field)))

    def judge(self, *fields: str) -> None:
        """Judge the rate, the shared fields, and fields that must be finite and not negative."""
        lr: object = self.lr
        if isinstance(lr, type) and issubclass(lr, Schedule):
            raise TypeError(f"lr must be a number or a schedule, got the class {lr.__name__}")
        if not isinstance(lr, Schedule):
            _set(self, "lr", errors.real("lr", lr))
        elif lr.cycles and (
            self.name == "nadam" or not (hasattr(self, "momentum") or hasattr(self, "betas"))
        ):
            why = "has a momentum of its own for each step" if self.name == "nadam" else "has no momentum"
            raise ValueError(
                f"lr must be a schedule with cycle_momentum=False, as {type(self).__name__} {why}, got {lr!r}"
            )
        own = ("weight_decay",) if "weight_decay" in self.__dataclass_fields__ else ()
        for field in (*fields, *own, "l1"):
            _set(self, field, errors.real(field, getattr(self, field)))
        for field in ("clip_norm", "clip_value", "max_norm"):
            if getattr(self, field) is not None:
                _set(self, field, positive(field, getattr(self, field)))
        _set(self, "accumulate", errors.integer("accumulate", self.accumulate, 1, 2**31 - 1))
        if self.ema is not None:
            _set(self, "ema", errors.real("ema", self.ema, 0.0, 1.0))
        groups = (self.groups,) if isinstance(self.groups, Group) else self.groups
        if not isinstance(groups, (tuple, list)) or not all(isinstance(one, Group) for one in groups):
            raise TypeError(f"groups must be a tuple of fastnn.Group, got {errors.shown(self.groups)}")
        _set(self, "groups", tuple(groups))

    def judge_betas(self) -> None:
        """Judge two numbers from 0 to below 1."""
        try:
            beta1, beta2 = self.betas  # type: ignore[attr-defined]
        except (TypeError, ValueError):
            raise TypeError(f"betas must be two numbers, got {errors.shown(self.betas)}") from None  # type: ignore[attr-defined]
        _set(
            self,
            "betas",
            (errors.real("betas[0]", beta1, 0.0, 1.0), errors.real("betas[1]", beta2, 0.0, 1.0)),
        )

    def judge_dtype(self, dtype: np.dtype[Any]) -> None:
        """Refuse numbers that a model of that dtype cannot hold."""
        limits = np.finfo(dtype)
        largest, smallest = float(limits.max), float(limits.smallest_subnormal)
        for field, number in self._numbers():
            if number > largest:
                raise ValueError(f"{field} must be at most {largest:g} in {dtype}, got {number!r}")
            if field in ("eps", "clip_value", "max_norm") and 0.0 < number <= smallest / 2:  # rounded to 0
                raise ValueError(f"{field} must be 0 or at least {smallest:g} in {dtype}, got {number!r}")

    def _numbers(self) -> Iterator[tuple[str, float]]:
        """Fields with numbers that kernels round to the model's dtype."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and field.name != "clip_norm":
                yield field.name, value
        if isinstance(self.lr, Schedule):
            yield "lr", self.lr.largest()
        for i, group in enumerate(self.groups):
            for name in ("lr_factor", "weight_decay", "l1", "max_norm"):
                if getattr(group, name) is not None:
                    yield f"{name} of groups[{i}]", getattr(group, name)

    def __repr__(self) -> str:
        shared = {f.name: f.default for f in dataclasses.fields(Optimizer) if f.kw_only}
        names = [f.name for f in dataclasses.fields(self)]
        values = {name: getattr(self, name) for name in sorted(names, key=lambda name: name in shared)}
        shown = [f"{name}={v!r}" for name, v in values.items() if name not in shared or v != shared[name]]
        return f"{type(self).__name__}({', '.join(shown)})"
