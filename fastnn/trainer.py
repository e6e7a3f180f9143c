"""The trainer: a model, a loss, an optimizer, metrics and a device; fit, run, evaluate, gradient."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike, NDArray

from . import callbacks as callbacks_
from . import devices, errors, losses, optimizers
from .callbacks import Callback
from .engine import Engine
from .epochs import TimeLimit, course_of, epochs_of, judge_plan, rows_of
from .errors import DivergenceError
from .history import History
from .losses import Loss
from .network import Sequential
from .optimizers import Optimizer
from .reports import ProgressBar, on_terminal
from .samples import Sample, described, is_source, judge_end, measure, without_targets
from .stepping import Gate, one_batch

if TYPE_CHECKING:
    from .data.source import Source
    from .metrics import Metric
    from .streaming import Stream

__all__ = ["Trainer"]

Array = NDArray[Any]


class Trainer(Engine):
    """Trains a model in place.

    Parameters
    ----------
    model : Sequential
    loss : str, Loss or callable
        "cross_entropy" (logits and labels), "binary_cross_entropy" (logits), "mse", "huber", ..., a
        description of `fastnn.losses`, or a function of yours (`fastnn.losses.Custom`).
    optimizer : str or Optimizer
        "sgd", "adam" with their defaults, or a description such as ``Adam(lr=3e-4)``.
    metrics : list
        What `evaluate` and `fit` tell beside the loss: names ("accuracy", "top_5_accuracy",
        "balanced_accuracy", "f1", "auc", "log_loss", "r2", "mae", "rmse", "mse"), descriptions of
        `fastnn.metrics`, or functions of yours, ``f(y, output) -> float``.
    device : str
        "cpu": compiled; "numpy": plain array code, the reference that the compiled one is tested against;
        "cuda" or "cuda:1": a card, with the extra ``cuda12`` or ``cuda13`` (docs/gpu.md).
    seed : int, optional
        Of initial weights, shuffles and dropout; None draws one from the operating system.
    precision : str
        Of the products of training steps: "float32"; on cards "tf32" or "bf16" too, which round factors.

    Attributes
    ----------
    seed : int
        The seed in use, drawn or given.
    epoch, step : int
        Epochs and optimizer steps done.
    epoch_step : int
        Steps done of the epoch that is running, or that an interrupted fit will go on with.
    last_epoch : int
        Epoch that the running fit, or the last one, was asked to reach.
    history : History
        All epochs of all fits.
    stop_reason : str or None
        Why the last fit ended before its last epoch, as `stop` was told.

    Examples
    --------
    >>> import fastnn as fn, numpy as np
    >>> x = np.linspace(-1, 1, 64).reshape(-1, 1)
    >>> trainer = fn.Trainer(fn.Sequential(fn.Dense(1)), loss="mse", optimizer=fn.SGD(lr=0.1), seed=0)
    >>> history = trainer.fit(x, 3 * x[:, 0] + 1, epochs=100)
    >>> history["loss"][-1] < 1e-6
    True
    """

    def __init__(
        self,
        model: Sequential,
        loss: str | Loss | Callable[..., Any],
        optimizer: str | Optimizer,
        metrics: Iterable[str | Metric | Callable[..., float]] = (),
        *,
        device: str = "cpu",
        seed: int | None = None,
        precision: str = "float32",
    ) -> None:
        if not isinstance(model, Sequential):
            raise TypeError(f"model must be a Sequential, got {type(model).__name__}")
        self.model = model
        self.loss = losses.get(loss)
        self.optimizer = optimizers.get(optimizer)
        self.optimizer.judge_dtype(model.dtype)
        self.metrics = described(metrics, self.loss.meaning)
        self.device = devices.check(device)
        self.precision = devices.check_precision(self.device, precision)
        self.seed = int.from_bytes(os.urandom(8), "little") if seed is None else errors.seed("seed", seed)
        self._seed_is_given = seed is not None
        self.epoch = self.epoch_step = 0
        self._sums = 0.0, 0.0  # of weight * loss and of weights in the running epoch
        self.last_epoch = 0
        self.history = History()
        self.stop_reason: str | None = None
        self._rate_factor = 1.0
        self._callbacks: tuple[Callback, ...] = ()  # of the running fit
        self._running = False  # whether a fit is
        self._fitted: tuple[Any, Array | None, int | None] | None = None  # its rows, weights, batch size
        self._validated: Sample | Stream | None = None  # its rows to measure on
        self._measured_at: tuple[int, dict[str, float]] | None = None  # the step, and what they gave
        self._plan: dict[str, Any] = {}  # what the steps of its epochs depend on beside the data
        self._halted = self._paused = False  # whether it ends inside an epoch; and is to go on some day
        self._rows: Array | None = None  # of x that a fit takes; set by fit_many, as are its callbacks
        self._watchers: tuple[Callback, ...] = ()
        self._fit_begun = 0  # epochs that were done before the running, the interrupted or the last fit
        self._interrupted = False  # whether the next fit finishes one that a checkpoint was taken from
        self._resumed_states: list[tuple[str, dict[str, Any]]] = []  # of its callbacks, by class name
        judge_end(model.layers, self.loss)
        model.link = self.loss.link
        self._program: devices.Program | None = None
        self._block: Array | None = None  # the model's block that the program trains
        self._gate: Gate | None = None  # of a program that judges rows itself
        self._learn: Callable[[Any, Any, float], float | None] | None = None  # its quick step
        # of a pickled one: state, its numbers, step, build of the model
        self._saved: tuple[Array, Array, int, int] | None = None

    # ------------------------------------------------------------ training

    def fit(
        self,
        x: ArrayLike | Source,
        y: ArrayLike | None = None,
        *,
        epochs: int = 1,
        batch_size: int | None = 32,
        shuffle: bool = True,
        validation_data: tuple[Any, ...] | Source | None = None,
        validation_split: float = 0.0,
        sample_weight: ArrayLike | None = None,
        class_weight: Mapping[int, float] | Sequence[float] | str | None = None,
        callbacks: Iterable[Callback] = (),
        progress: bool | None = None,
        time_limit: float | None = None,
        sampler: Any = None,
        augment: Sequence[Any] = (),
    ) -> History:
        """Train on mini-batches; a second call trains `epochs` more.

        The first call after `resume` finishes the interrupted fit instead: its `epochs` counts in total.

        Parameters
        ----------
        x : array_like (n, n_in), or fastnn.data.Source
            Not copied where it is a matrix of the model's dtype (or uint8) whose rows lie whole in memory,
            else converted once in each fit. Never scanned: a value that is not finite is met in its batch.
            A source has its targets and weights itself: y, sample_weight and validation_split are left out.
        y : array_like
            Labels (n,) for cross_entropy (or probabilities (n, n_out)) and multi_margin; values (n, n_out),
            or (n,) for one output, for the others; fewer for gaussian_nll and several quantiles.
        epochs : int
        batch_size : int or None
            The rest of an epoch is one smaller batch. None: all rows, in their order; one step an epoch.
            Of a source that has batches of its own it is left out.
        shuffle : bool
            Whether each epoch takes the rows in another order, a function of seed and epoch.
        validation_data : (x, y) or (x, y, sample_weight) or Source, optional
            Measured after each epoch and never trained on.
        validation_split : float
            Share of the rows, from 0 to below 1, that is taken for this instead; by the trainer's seed, the
            same rows in each fit. Each class gives its share where targets are classes.
        sample_weight : array_like (n,), optional
            The loss of a batch is sum(weight * loss) / sum(weight).
        class_weight : dict, sequence or "balanced", optional
            Weights by label (of one output: by target), 1 for others, multiplied with sample_weight in
            training; what is measured on validation rows, and all metrics, are without them. "balanced" gives
            each class the same sum. A row of probabilities has the mean of the weights by them. Rows of
            several questions have no class: see BinaryCrossEntropy.
        callbacks : list of Callback
            Called between epochs, and between steps where they ask for it.
        progress : bool, optional
            Whether epochs are shown on stderr; None: only where that is a terminal.
        time_limit : float, optional
            Seconds after which the fit ends at a step, and `ModelCheckpoint` saves: what resumes that file
            goes on to the bits of a fit without limit. `stop_reason` tells; the epoch begun does not count.
        sampler : Sampler or callable, optional
            Which rows an epoch takes and in what order: of `fastnn.samplers`, or of your own,
            ``f(rng, epoch) -> row numbers``; rng is a NumPy generator, epochs count from 1.
        augment : list
            What is done to each batch when it has been gathered, in this order: `Mixup`, `ColumnDropout`,
            `GaussianNoise`. Never to what is measured or predicted.

        Returns
        -------
        History
            Of this call; `trainer.history` holds all. "loss" is the mean over the rows of an epoch, each
            taken as its batch was trained, with dropout. Metrics are taken after the epoch, without dropout,
            on the trained rows ("accuracy") and on the validation rows ("val_accuracy", with "val_loss");
            those of the trained rows cost about as much as predicting them. A fit that finishes an
            interrupted one returns all its epochs.

        Raises
        ------
        DivergenceError
            The loss of a batch is not finite; seen before the update.
        """
        if self._running:
            raise RuntimeError("fit must not be called while fit is running")
        epochs = errors.integer("epochs", epochs, 0)
        batch_size = None if batch_size is None else errors.integer("batch_size", batch_size)
        if self.optimizer.full_batch and (batch_size is not None or is_source(x)):
            name = type(self.optimizer).__name__
            if is_source(x):
                raise ValueError(
                    f"x must be an array with {name}, which takes all rows in each step, got {x!r}"
                )
            raise ValueError(f"batch_size must be None with {name}, which takes all rows, got {batch_size}")
        shuffle = errors.flag("shuffle", shuffle)
        if progress is not None:
            errors.flag("progress", progress)
        limit = () if time_limit is None else (TimeLimit(errors.real("time_limit", time_limit)),)
        share = errors.real("validation_split", validation_split, 0.0, 1.0)
        given = callbacks_.get_all(callbacks)
        task = self._task
        asked: dict[str, Any] = {
            "epochs": epochs,
            "batch_size": batch_size,
            "shuffle": shuffle,
            "validation_data": validation_data,
            "validation_split": share,
            "class_weight": class_weight,
            "sampler": sampler,
            "augment": augment,
        }
        course: Any
        measured: Any
        if is_source(x):
            from . import streaming  # loaded with the first source

            course, measured = streaming.course_of(task, x, y, sample_weight, **asked)
        else:
            asked |= {"rows": self._rows, "seed": self.seed, "full_batch": self.optimizer.full_batch}
            course, measured = course_of(task, x, y, sample_weight, **asked)
        quantities = self._quantities(measured is not None)
        for one in given:
            one.judge(quantities)
        plan = course.told()
        if self._interrupted:
            callbacks_.judge_resumed(given, self._resumed_states)
            judge_plan(self, plan)

        program = self._ready(course.n_in)
        course.judge(program.steps)
        history = self._begin(epochs, quantities)
        bar = progress or (progress is None and on_terminal())
        shown = (ProgressBar(),) if bar and not any(isinstance(one, ProgressBar) for one in given) else ()
        put_back = self._held() if self._interrupted else None
        self._callbacks, self._running, self._plan = given, True, plan
        self._fitted, self._validated = (course.trained, course.weights, batch_size), measured
        self._measured_at = None
        team = callbacks_.Team(given, (*limit, *self._watchers, *shown))
        try:
            devices.hold(program, not is_source(x))
            team.begin(self, self._resumed_states)
            self._interrupted, self._resumed_states = False, []
            is_measured = measured is not None or bool(self.metrics)
            for sums in epochs_of(self, program, course, team, is_measured):
                interrupted: KeyboardInterrupt | None = None
                try:
                    done = rows_of(sums, self.epoch, course.name)
                except KeyboardInterrupt as error:  # of hundreds of epochs it takes 0.2 ms: they are trained
                    interrupted, done = error, rows_of(sums, self.epoch, course.name)
                # From here to the history no call: Python looks at signals in calls and loops alone.
                try:
                    (self.epoch, logs), self.epoch_step, self._sums = done[-1], 0, (0.0, 0.0)
                    if self.metrics:
                        logs |= self._measured(course.trained, with_loss=False)
                    if measured is not None:
                        logs |= self.validate()
                finally:  # the steps are done, so the epochs count, measured or not
                    self.history._rows += done
                    history._rows += done
                if interrupted is not None:
                    raise interrupted
                for epoch, found in done:
                    team.epoch_end(self, epoch, found)
        except BaseException as error:
            team.end(self, error)
            raise
        else:
            team.end(self, None)
        finally:
            self._callbacks, self._running, self._fitted, self._validated = (), False, None, None
            self._measured_at, self._halted = None, False
            devices.hold(program, False)
            self.epoch_step, self._sums = 0, (0.0, 0.0)  # steps of an epoch that did not end count as steps
            if self._interrupted and put_back is not None:  # a callback has failed before the first step
                put_back()
        return history

    # ------------------------------------------------------------ measuring

    def evaluate(
        self, x: ArrayLike | Source, y: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> dict[str, float]:
        """The mean loss, and the trainer's metrics, without dropout; nothing is changed.

        Parameters
        ----------
        x, y, sample_weight : array_like
            As for `fit`. x is read in blocks: one of another dtype is not copied as a whole. A
            `fastnn.data.Source` stands for all three.

        Returns
        -------
        dict
            "loss", then each metric by its name.
        """
        self.model._require()
        if is_source(x):
            from .streaming import alone

            return self._measured(alone(self._task, x, y, sample_weight))
        if y is None:
            raise without_targets(x)
        return self._measured(self._task.sample(x, y, sample_weight, ("x", "y", "sample_weight")))

    def _measured(self, sample: Sample | Stream, with_loss: bool = True) -> dict[str, float]:
        """Loss and metrics of a sample."""
        try:
            if not isinstance(sample, Sample):
                from . import streaming

                return streaming.measure(self._current_program(), self._task, sample, with_loss)
            return measure(self._current_program(), self._task, sample, with_loss)
        except DivergenceError as error:
            raise self._explained(error, f"over {sample.name}", sample.name) from None

    # ------------------------------------------------------------ steps

    def _steps(
        self,
        program: devices.Program,
        x: Array,
        y: Array,
        order: Array,
        weights: Array | None,
        first_batch: int | None,
        sums: tuple[float, float] = (0.0, 0.0),
        seconds_left: float | None = None,
        augment: tuple[tuple[str, float], ...] = (),
    ) -> tuple[float, float]:
        """One optimizer step for each row of order; first_batch is None outside of fit."""
        if order.size == 0:
            return sums
        rates = optimizers.rates(
            self.optimizer, len(order), self._rate_factor, program.step, self.epoch, self.model.dtype
        )
        momenta = optimizers.momenta(self.optimizer, len(order), program.step, self.epoch)
        try:
            if first_batch is None:  # as short a call as there is
                return program.run(x, y, order, rates, weights, momenta)
            return program.run(
                x, y, order, rates, weights, momenta, sums=sums, seconds_left=seconds_left, augment=augment
            )
        except DivergenceError as error:
            diverged = error
        at = diverged.step_in_call
        if first_batch is not None:
            raise self._told(diverged, x, y, order[at], first_batch + at + 1)
        self._task.targets("y", y, x, order[at : at + 1])
        raise self._explained(diverged, f"in row {at} of order")

    def _told(self, error: DivergenceError, x: Array, y: Array, rows: Array, batch: int) -> DivergenceError:
        """What ends a fit in a batch, from 1, of the running epoch; or the error of a target of its rows."""
        # What came through the gate has not been looked at: it may be the target.
        self._task.targets("y", y, x, rows.reshape(1, -1))
        epoch = self.epoch + 1
        return self._explained(error, f"in epoch {epoch}, batch {batch}", epoch=epoch, batch=batch)

    def run(
        self, x: ArrayLike, y: ArrayLike, order: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> float:
        """One optimizer step for each row of `order`; gives the mean loss over the rows taken.

        Parameters
        ----------
        x : array_like (n, n_in)
            Never scanned; one of another dtype or layout than the model takes is converted in each call.
        y : array_like
            As for `fit`; only the targets that order names are looked at. One that is not finite may, as in
            x, be met at its step, when those before are done.
        order : array_like of int (steps, batch)
            Row numbers into x and y.
        sample_weight : array_like (n,), optional

        Returns
        -------
        float
            Weighted mean; nan where no row has weight.
        """
        matrix, targets, weights, rows = self._judged(x, y, sample_weight, order)
        assert rows is not None
        program = self._ready(matrix.shape[1])
        loss_sum, weight_sum = self._steps(program, matrix, targets, rows, weights, None)
        return loss_sum / weight_sum if weight_sum else float("nan")

    def partial_fit(self, x: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """One optimizer step on all rows as one batch; gives their mean loss before the step."""
        learn = self._learn
        if learn is not None and sample_weight is None and self._block is self.model._block:
            loss = learn(x, y, self.optimizer.lr * self._rate_factor)  # type: ignore[operator]
            if loss is not None:
                return loss
        matrix, targets, weights, _ = self._judged(x, y, sample_weight)
        program = self._ready(matrix.shape[1])
        loss_sum, weight_sum = self._steps(program, matrix, targets, one_batch(len(matrix)), weights, None)
        return loss_sum / weight_sum

    def gradient(
        self, x: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> tuple[float, Array]:
        """Mean loss of the rows and its flat gradient, dropout off; nothing is changed.

        Returns
        -------
        loss : float
        gradient : ndarray (n_parameters,)
            In the order of `model.parameters`, in its dtype.
        """
        matrix, targets, weights, _ = self._judged(x, y, sample_weight)
        program = self._ready(matrix.shape[1])
        try:
            return program.gradient(matrix, targets, weights)
        except DivergenceError as error:
            self._task.targets("y", y, matrix)
            raise self._explained(error, "in the gradient") from None

    # ------------------------------------------------------------ prediction

    def predict(self, x: ArrayLike | Source) -> Array:
        """What the last layer gives for each row of x, or of a source; see `Sequential.predict`."""
        if is_source(x):
            from . import streaming

            self.model._require()
            stream = streaming.alone(self._task, x)
            return streaming.predict(self._current_program(), self._task, stream)
        return self._predicted(x)

    def predict_proba(self, x: ArrayLike) -> Array:
        """Probabilities for each row of x; see `Sequential.predict_proba`."""
        return self.model._linked(self._predicted, x)

    # ------------------------------------------------------------ files

    def save_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Write all that `resume` needs to go on to the same bits: parameters, optimizer, counts, history.

        From a callback: with the epoch that has just ended. A kill leaves this file or the one before whole.
        """
        from . import checkpoints  # loaded with the first file

        checkpoints.save(self, path)

    def resume(self, path: str | os.PathLike[str]) -> None:
        """Become the trainer that wrote a checkpoint; the model is built and gets its parameters.

        If a fit was running then, the next `fit` finishes it. A seed that was not given is taken over.

        Raises
        ------
        FormatError, OSError, ValueError
            As for `fastnn.load`, or layers, dtype, loss, optimizer or seed are others; nothing has changed.
        """
        from . import checkpoints

        checkpoints.resume(self, path)
