"""Many trainings at once: `fit_many`, and what may be told to each of them."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import callbacks as callbacks_
from . import devices, errors, kernels, workers
from .devices.gangs import Gang
from .history import History
from .samples import is_source
from .trainer import Trainer

__all__ = ["ARGUMENTS", "fit_many", "jobs_of", "row_numbers", "run", "shared", "tell_failures"]

Array = NDArray[Any]

# Trainings at a time on a card, each with a Python thread: more blocks than most cards can run at once.
_MOST_ON_A_CARD = 256

# What fit takes by name, but the bar, of which there is one for all.
ARGUMENTS = tuple(
    name
    for name, one in inspect.signature(Trainer.fit).parameters.items()
    if one.kind is inspect.Parameter.KEYWORD_ONLY and name != "progress"
)


def fit_many(
    trainers: Iterable[Trainer],
    x: ArrayLike,
    y: ArrayLike,
    rows: Sequence[ArrayLike | None] | None = None,
    *,
    n_workers: int | None = None,
    on_error: str = "return",
    progress: bool | None = None,
    **fit_arguments: Any,
) -> list[History | Exception]:
    """Train K networks side by side, each to the bits that it would reach alone.

    Parameters
    ----------
    trainers : list of Trainer
        Each with a model of its own; their shapes, losses, optimizers and seeds may differ.
    x, y : array_like
        Of all trainers. x is shared: converted once where it is not of the models' dtype, and never
        copied for a trainer or its rows. Arrays of CuPy where all trainers are on their card.
    rows : list, optional
        For each trainer the numbers of the rows to train on, a mask of them (n,), or None for all. A row
        may stand there several times, as in a bootstrap. The result is that of ``fit(x[rows], y[rows])``.
    n_workers : int, optional
        Trainings at a time, each on a thread of its own; None: as many as this process may use cores.
        With 1 they come one after the other, each on all threads. Where all trainers are on one card it is
        how many of them may launch their steps together, None: all, 256 at most; where some are, it is 1.
    on_error : "return" or "raise"
        A trainer that fails never stops the others. "return": its exception stands in the list in place of a
        history, and a RuntimeWarning tells of it. "raise": an ExceptionGroup when all have ended.
    progress : bool, optional
        Whether one bar for all is shown on stderr; None: only where that is a terminal.
    **fit_arguments
        Of `Trainer.fit`; one value for all, or by trainer: a *list* of K for epochs, batch_size, shuffle,
        validation_split, time_limit, sampler; of K tuples or None for validation_data; of K arrays or None
        for sample_weight; of K dicts, lists, texts or None for class_weight; of K lists for augment.
        callbacks is a list of K lists, or a function that is called with the number of each trainer and gives
        its list: a callback keeps the state of one training. Its methods are called in the trainer's worker
        thread.

    Returns
    -------
    list of History or Exception
        In the order of the trainers.

    Raises
    ------
    KeyboardInterrupt
        Ctrl-C: all have stopped at the end of a step, their models and histories are usable as after `fit`.
    ExceptionGroup
        With on_error="raise", of the exceptions; each has the number of its trainer as a note.

    Examples
    --------
    >>> import fastnn as fn, numpy as np
    >>> x = np.linspace(-1, 1, 64).reshape(-1, 1)
    >>> trainers = [fn.Trainer(fn.Sequential(fn.Dense(1)), "mse", fn.SGD(lr), seed=0) for lr in (0.01, 0.1)]
    >>> histories = fit_many(trainers, x, 3 * x[:, 0] + 1, epochs=50)
    >>> histories[1]["loss"][-1] < histories[0]["loss"][-1]
    True
    """
    errors.choice("on_error", on_error, ["return", "raise"])
    jobs = jobs_of(trainers, x, y, rows, fit_arguments)
    run(jobs, n_workers, None if progress is None else errors.flag("progress", progress))
    failed = [job.outcome for job in jobs if isinstance(job.outcome, Exception)]
    if failed and on_error == "raise":
        for i, job in enumerate(jobs):
            if isinstance(job.outcome, Exception):
                job.outcome.add_note(f"this was trainer {i}")
        raise ExceptionGroup(f"{len(failed)} of {len(jobs)} trainers failed", failed)
    tell_failures(jobs, "trainers")
    return [job.outcome for job in jobs if isinstance(job.outcome, (History, Exception))]


def tell_failures(jobs: Sequence[workers.Job], what: str) -> None:
    """Warn of those that failed; each exception gets its number as a note."""
    failed = [(i, job.outcome) for i, job in enumerate(jobs) if isinstance(job.outcome, Exception)]
    for i, error in failed:
        error.add_note(f"this was trainer {i}")
    if failed:
        i, first = failed[0]
        text = f"{len(failed)} of {len(jobs)} {what} failed; trainer {i}: {first!r:.500}"
        warnings.warn(text, RuntimeWarning, stacklevel=3)


def run(jobs: Sequence[workers.Job], n_workers: int | None, progress: bool | None) -> None:
    """Work on all jobs, `n_workers` at a time as `fit_many` has it."""
    cards = [job.trainer.device for job in jobs if _is_on_card(job.trainer)]
    is_one_card = len(cards) == len(jobs) and len({_number(card) for card in cards}) == 1
    n = None if n_workers is None else errors.integer("n_workers", n_workers)
    if cards and not is_one_card:
        if n is not None and n > 1:
            raise ValueError(
                f"n_workers must be 1 where a trainer has device {cards[0]!r} and not all have the same, got "
                f"{n}: these trainings come one after the other"
            )
        n = 1
    elif n is None:
        n = min(len(jobs), _MOST_ON_A_CARD) if is_one_card else kernels.get_num_threads()
    gang = Gang([job.x for job in jobs]) if is_one_card and n > 1 and len(jobs) > 1 else None
    workers.run(jobs, n, progress, gang)


def _number(card: str) -> int:
    """Of a card, by its name: "cuda" is the first."""
    return int(card.partition(":")[2] or 0)


def _is_on_card(trainer: Trainer) -> bool:
    """Whether it trains on a card, and takes arrays of CuPy."""
    return trainer.device not in devices.available()


def jobs_of(
    trainers: Iterable[Trainer],
    x: object,
    y: object,
    rows: Sequence[Any] | None,
    fit_arguments: dict[str, Any],
) -> list[workers.Job]:
    """The jobs of trainers, with all that is common to them judged."""
    found = _judged(trainers)
    n = len(found)
    arguments = _shared_out(n, fit_arguments)
    keeps_cards = all(_is_on_card(trainer) for trainer in found)
    by_dtype = {dtype: shared(x, dtype, keeps_cards) for dtype in {trainer.model.dtype for trainer in found}}
    if keeps_cards:
        y = errors.fetched(y)
    if not isinstance(y, np.ndarray):
        y = errors.array("y", y, "labels or values", "; fastnn.data.encode_labels numbers the classes")
    n_rows = len(by_dtype[found[0].model.dtype])
    if y.ndim == 0 or len(y) != n_rows:
        raise ValueError(f"y must have {n_rows} rows as x has, got shape {y.shape}")
    parts: list[Array | None] = [None] * n
    if rows is not None:
        given = _list("rows", rows, n)
        for i, one in enumerate(given):
            one = errors.fetched(one) if keeps_cards else one
            parts[i] = None if one is None else row_numbers(f"rows[{i}]", one, n_rows)
    return [
        workers.Job(trainer, by_dtype[trainer.model.dtype], y, arguments[i], parts[i])
        for i, trainer in enumerate(found)
    ]


def shared(x: object, dtype: np.dtype[Any], keeps_cards: bool) -> Array:
    """x as programs of a dtype take it, not yet judged by its columns; on its card where all are on one."""
    if is_source(x):
        raise TypeError(
            f"x must be an array where several trainers share it, got {x!r:.200}; fit takes sources"
        )
    if keeps_cards and errors.on_card(x):
        there: Array = errors.table_on_card("x", x, None, dtype)
        return there
    found = errors.array("x", x)
    if found.ndim < 2:
        return errors.table("x", found, None)  # which refuses it
    if found.dtype != np.uint8:
        found = errors.cast("x", found, dtype)
    return errors.rows(found) if found.ndim == 2 else np.ascontiguousarray(found)


def row_numbers(argument: str, value: object, n_rows: int) -> Array:
    """Row numbers from 0 to n_rows-1, one at least, from numbers or a mask."""
    found = errors.plain(argument, value)
    if found.dtype.kind == "b":
        if found.shape != (n_rows,):
            raise ValueError(f"{argument} must be a mask of shape ({n_rows},), got {found.shape}")
        found = np.flatnonzero(found)
    if found.ndim != 1 or not found.size:
        raise ValueError(f"{argument} must be row numbers, one at least, got shape {found.shape}")
    numbers: Array = errors.row_order(argument, found.reshape(1, -1), n_rows)[0]
    return numbers


def _judged(trainers: Iterable[Trainer]) -> list[Trainer]:
    if isinstance(trainers, Trainer) or not isinstance(trainers, Iterable):
        raise TypeError(f"trainers must be a list of trainers, got {type(trainers).__name__}")
    found = list(trainers)
    if not found:
        raise ValueError("trainers must be at least one, got none")
    seen: dict[int, int] = {}
    for i, one in enumerate(found):
        if not isinstance(one, Trainer):
            raise TypeError(f"trainers[{i}] must be a Trainer, got {type(one).__name__}")
        if id(one.model) in seen:
            other = seen[id(one.model)]
            raise ValueError(f"trainers[{i}] must have a model of its own, got that of trainers[{other}]")
        seen[id(one.model)] = i
    return found


def _list(argument: str, value: Any, n: int) -> list[Any]:
    """A list with something for each of n trainers."""
    if isinstance(value, (str, bytes, dict)) or not isinstance(value, (Sequence, np.ndarray)):
        got = type(value).__name__
        raise TypeError(f"{argument} must be a list with one for each of {n} trainers, got {got}")
    if len(value) != n:
        raise ValueError(f"{argument} must have one for each of {n} trainers, got {len(value)}")
    return list(value)


def _is_by_trainer(name: str, value: Any) -> bool:
    """Whether an argument has a value for each trainer; see `fit_many`."""
    if name in ("sample_weight", "class_weight"):
        # A list of numbers is weights by row or by class.
        return isinstance(value, list) and any(
            one is None or isinstance(one, (str, dict)) or np.ndim(one) > 0 for one in value
        )
    if name == "augment":  # a list itself
        return isinstance(value, list) and any(isinstance(one, (list, tuple)) for one in value)
    return isinstance(value, list)


def _shared_out(n: int, given: dict[str, Any]) -> list[dict[str, Any]]:
    """The arguments of fit for each of n trainers."""
    for name in given:
        if name not in ARGUMENTS:
            errors.unknown("fit_arguments", name, list(ARGUMENTS))
    found: list[dict[str, Any]] = [{} for _ in range(n)]
    for name, value in given.items():
        if name == "callbacks":
            values = _callbacks(n, value)
        elif _is_by_trainer(name, value):
            values = _list(name, value, n)
        else:
            values = [value] * n
        for one, of_trainer in zip(found, values, strict=True):
            one[name] = of_trainer
    for i, one in enumerate(found):
        if "epochs" in one:
            one["epochs"] = errors.integer(f"epochs of trainer {i}", one["epochs"], 0)
    return found


def _callbacks(n: int, value: Any) -> list[tuple[callbacks_.Callback, ...]]:
    """Those of each trainer, none of them twice."""
    if callable(value):
        value = [value(i) for i in range(n)]
    elif isinstance(value, (list, tuple)) and any(isinstance(one, callbacks_.Callback) for one in value):
        raise TypeError(
            "callbacks must be a list of lists, one for each trainer, or a function of the trainer's number "
            "that gives one: a callback keeps the state of one training"
        )
    elif isinstance(value, (list, tuple)) and not value:
        return [()] * n
    found = [callbacks_.get_all(one) for one in _list("callbacks", value, n)]
    seen: set[int] = set()
    for i, of_trainer in enumerate(found):
        for one in of_trainer:
            if id(one) in seen:
                name = type(one).__name__
                raise ValueError(f"callbacks[{i}] must have callbacks of its own, got a {name} a second time")
            seen.add(id(one))
    return found
