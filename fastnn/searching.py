"""Folds and grids over `fit_many`, and the table of what they give."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import errors, many, validation, workers
from .data.splits import fold_rows
from .samples import measure
from .trainer import Trainer

__all__ = ["Results", "cross_validate", "grid"]

Array = NDArray[Any]


class Results(Sequence[dict[str, Any]]):
    """A table of trainings: each row a dict, the same names in all.

    Attributes
    ----------
    names : tuple of str
        Of the columns.
    by : str
        The column that tells the best.
    mode : "min" or "max"
        Which way it is better.
    trainers : list
        For each row its trainer, or of `grid` the list of trainers by fold.
    """

    def __init__(self, rows: Sequence[dict[str, Any]], trainers: Sequence[Any], by: str, mode: str) -> None:
        self._rows, self.trainers, self.by, self.mode = list(rows), list(trainers), by, mode
        self.names = tuple(rows[0])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: Any) -> Any:
        """A row by its number, or a column by its name."""
        return [row[i] for row in self._rows] if isinstance(i, str) else self._rows[i]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._rows)

    @property
    def best_index(self) -> int:
        """Number of the best row; the first of equals. Rows that failed (nan) are never it."""
        sign = 1.0 if self.mode == "min" else -1.0
        values = [sign * value for value in self[self.by]]
        return min(range(len(self)), key=lambda i: (math.isnan(values[i]), values[i]))

    @property
    def best(self) -> dict[str, Any]:
        """The best row."""
        return self._rows[self.best_index]

    def mean(self, name: str) -> float:
        """Mean of a column over its rows, those that failed left out."""
        errors.choice("name", name, self.names)
        return float(np.nanmean(np.asarray(self[name], float)))

    def to_pandas(self) -> Any:
        """A pandas.DataFrame of the same rows.

        Raises
        ------
        ImportError
            Without pandas.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError('to_pandas needs pandas: run "python -m pip install pandas"') from error
        return pandas.DataFrame(self._rows, columns=list(self.names))

    def __repr__(self) -> str:
        shown = [[_text(row[name]) for name in self.names] for row in self._rows]
        widths = [max(map(len, column)) for column in zip(self.names, *shown, strict=True)]
        lines = [[*self.names], *shown]
        marks = ["  ", *("* " if i == self.best_index else "  " for i in range(len(self)))]
        return "\n".join(
            mark + "  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True))
            for mark, line in zip(marks, lines, strict=True)
        )


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def cross_validate(
    make: Callable[[], Trainer],
    x: ArrayLike,
    y: ArrayLike,
    *,
    folds: int | Sequence[tuple[ArrayLike, ArrayLike]] = 5,
    seed: int = 0,
    by: str | None = None,
    n_workers: int | None = None,
    progress: bool | None = None,
    **fit_arguments: Any,
) -> Results:
    """Train a network on each of several folds, side by side, and measure it on the rest.

    Parameters
    ----------
    make : function
        Gives a new trainer for each fold; with a seed of its own the results can be had again.
    folds : int or list of (rows, test rows)
        A number: each row is tested once; classes are shared out alike where the targets are classes.
    seed : int
        Of the folds.
    by : str, optional
        The quantity that tells the better: "loss" or a metric of the trainers; None: the first metric,
        else "loss".
    **fit_arguments
        Of `Trainer.fit`, as for `fit_many` with one trainer for each fold.

    Returns
    -------
    Results
        A row for each fold: "fold", "loss" and the metrics on its test rows after the last epoch, "epochs"
        done; nan where a training failed, of which a RuntimeWarning tells. `trainers` are the trained ones:
        ``fn.Ensemble([one.model for one in results.trainers])``.

    Raises
    ------
    ExceptionGroup
        All trainings failed.
    """
    _judge_make(make)
    trainers, pairs = _folds([make], x, y, folds, seed)
    by, mode = _by(trainers[0], by)
    jobs = _run(trainers, pairs, x, y, fit_arguments, n_workers, progress)
    rows = [{"fold": i, **_measured(job)} for i, job in enumerate(jobs)]
    return Results(rows, trainers, by, mode)


def grid(
    make: Callable[..., Trainer],
    parameters: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]],
    x: ArrayLike,
    y: ArrayLike,
    *,
    folds: int | Sequence[tuple[ArrayLike, ArrayLike]] = 5,
    seed: int = 0,
    by: str | None = None,
    n_workers: int | None = None,
    progress: bool | None = None,
    **fit_arguments: Any,
) -> Results:
    """Cross-validate all combinations of parameters, all trainings side by side.

    Parameters
    ----------
    make : function
        Called with each combination by name; gives a new trainer. Names of arguments of `fit` ("epochs",
        "batch_size", ...) go to `fit` instead.
    parameters : dict of lists, or list of dicts
        All combinations of the lists, the last one changing quickest; or the combinations themselves.
    folds, seed, by, n_workers, progress, **fit_arguments
        As for `cross_validate`; fit_arguments have one value for all, callbacks is a function of the
        number of the training (combination times folds plus fold).

    Returns
    -------
    Results
        A row for each combination: its parameters, then the mean over the folds of "loss" and the metrics,
        each with its standard deviation ("loss_std"), nan where a fold failed. `best` is the best row,
        `trainers[i]` the trainers of its folds.

    Raises
    ------
    ExceptionGroup
        All trainings failed.

    Examples
    --------
    >>> import fastnn as fn, numpy as np
    >>> x = np.linspace(-1, 1, 60).reshape(-1, 1)
    >>> def make(lr):
    ...     return fn.Trainer(fn.Sequential(fn.Dense(1)), "mse", fn.SGD(lr), seed=0)
    >>> grid(make, {"lr": [1e-4, 0.1]}, x, 3 * x[:, 0], folds=3, epochs=20).best["lr"]
    0.1
    """
    _judge_make(make)
    combinations = _combinations(parameters)
    given = dict(fit_arguments)
    of_fit = [name for name in combinations[0] if name in many.ARGUMENTS]
    for name in of_fit:
        if name in given:
            raise ValueError(f"{name} must be given once, got it in parameters and as an argument")

    def maker(one: Mapping[str, Any]) -> Callable[[], Trainer]:
        return lambda: make(**{name: value for name, value in one.items() if name not in of_fit})

    trainers, pairs = _folds([maker(one) for one in combinations], x, y, folds, seed)
    n = len(pairs) // len(combinations)
    for name in of_fit:
        given[name] = [one[name] for one in combinations for _ in range(n)]
    by, mode = _by(trainers[0], by)
    jobs = _run(trainers, pairs, x, y, given, n_workers, progress)
    rows = []
    for i, one in enumerate(combinations):
        found = [_measured(job) for job in jobs[i * n : (i + 1) * n]]
        row = dict(one)
        for name in found[0]:
            values = np.array([of_fold[name] for of_fold in found], float)
            row[name] = float(values.mean())
            if name != "epochs":
                row[f"{name}_std"] = float(values.std())
            elif name in one:
                row[name] = one[name]
        rows.append(row)
    return Results(rows, [trainers[i * n : (i + 1) * n] for i in range(len(combinations))], by, mode)


def _judge_make(make: object) -> None:
    if not callable(make):
        raise TypeError(f"make must be a function that gives a trainer, got {errors.shown(make)}")


def _combinations(parameters: object) -> list[dict[str, Any]]:
    """Each combination by name."""
    if isinstance(parameters, Mapping):
        for name, values in parameters.items():
            if not isinstance(name, str):
                raise TypeError(f"parameters must have texts as names, got {errors.shown(name)}")
            if (
                isinstance(values, (str, bytes))
                or not isinstance(values, (Sequence, np.ndarray))
                or not len(values)
            ):
                raise TypeError(
                    f"parameters[{name!r}] must be a list of values, one at least, got {errors.shown(values)}"
                )
        return [
            dict(zip(parameters, values, strict=True)) for values in itertools.product(*parameters.values())
        ]
    if not isinstance(parameters, Sequence) or not all(isinstance(one, Mapping) for one in parameters):
        raise TypeError(
            f"parameters must be a dict of lists or a list of dicts, got {errors.shown(parameters)}"
        )
    found = [dict(one) for one in parameters]
    if not found:
        raise ValueError("parameters must be at least one combination, got none")
    for i, one in enumerate(found):
        if one.keys() != found[0].keys():
            raise ValueError(f"parameters[{i}] must have the names {list(found[0])}, got {list(one)}")
    return found


def _folds(
    makers: Sequence[Callable[[], Trainer]], x: object, y: object, folds: Any, seed: int
) -> tuple[list[Trainer], list[tuple[Array, Array]]]:
    """A trainer for each maker and fold, and the rows of each."""
    first = makers[0]()
    if not isinstance(first, Trainer):
        raise TypeError(f"make must give a Trainer, got {type(first).__name__}")
    task = first._task
    matrix = many.shared(x, first.model.dtype, task.keeps_cards)
    n_rows = len(matrix)
    if isinstance(folds, (int, np.integer)) and not isinstance(folds, bool):
        folds = errors.integer("folds", folds, 2)
        table = task.matrix("x", matrix)
        sample = task.sample_of(table, y, None, ("x", "y", "sample_weight"))
        classes = validation.classes_of(task.loss, sample.y, sample.ignored, task.n_out(table))
        pairs = fold_rows(n_rows, folds, stratify=classes, seed=seed)
    else:
        if isinstance(folds, (str, bytes, float, bool)) or not hasattr(folds, "__iter__"):
            raise TypeError(f"folds must be a number or pairs of row numbers, got {errors.shown(folds)}")
        pairs = []
        for i, pair in enumerate(folds):
            if not hasattr(pair, "__len__") or len(pair) != 2:
                raise ValueError(f"folds[{i}] must be (rows, test rows), got {errors.shown(pair)}")
            train, test = (many.row_numbers(f"folds[{i}][{j}]", pair[j], n_rows) for j in (0, 1))
            pairs.append((train, test))
        if not pairs:
            raise ValueError("folds must be at least one, got none")
    trainers = [
        first if i == j == 0 else maker() for i, maker in enumerate(makers) for j in range(len(pairs))
    ]
    return trainers, [*pairs] * len(makers)


def _run(
    trainers: list[Trainer],
    pairs: list[tuple[Array, Array]],
    x: object,
    y: object,
    fit_arguments: dict[str, Any],
    n_workers: int | None,
    progress: bool | None,
) -> list[workers.Job]:
    """All trainings, each measured on its test rows by its worker."""
    jobs = many.jobs_of(trainers, x, y, [train for train, _ in pairs], fit_arguments)
    for job, (_, test) in zip(jobs, pairs, strict=True):
        job.measure = _measurement(job, test)
    many.run(jobs, n_workers, progress)
    many.tell_failures(jobs, "trainings")
    failed = [job.outcome for job in jobs if isinstance(job.outcome, Exception)]
    if len(failed) == len(jobs):
        raise ExceptionGroup(f"all {len(jobs)} trainings failed", failed)
    return jobs


def _measurement(job: workers.Job, test: Array) -> Callable[[], dict[str, float]]:
    """What is measured on the test rows, without a copy of them."""

    def measured() -> dict[str, float]:
        trainer = job.trainer
        task = trainer._task
        matrix = task.matrix("x", job.x)
        stand_in, y, _ = validation.of_rows(matrix, job.y, None, test)
        sample = task.sample_of(stand_in, y, None, ("x", "y", "sample_weight"))
        sample, _, _ = validation.put_back(matrix, test, sample, None, None)
        return measure(trainer._current_program(), task, sample)

    return measured


def _measured(job: workers.Job) -> dict[str, Any]:
    """Columns of a job; nan where it failed."""
    names = ["loss", *(metric.name for metric in job.trainer.metrics)]
    found = job.measured or {}
    return {**{name: found.get(name, math.nan) for name in names}, "epochs": job.epochs_trained}


def _by(trainer: Trainer, by: str | None) -> tuple[str, str]:
    """The quantity that tells the best, and which way."""
    modes = trainer._quantities(False)
    if by is None:
        by = trainer.metrics[0].name if trainer.metrics else "loss"
    mode = modes[errors.choice("by", by, modes)]
    if mode is None:
        raise ValueError(f"by must be a quantity of which is known which way it is better, got {by!r}")
    return by, mode
