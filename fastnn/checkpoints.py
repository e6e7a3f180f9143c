"""Checkpoints: a training as one file, from which it goes on to the bits that it would have reached.

A checkpoint is a model file (see `saving`) of its own kind, with these more:

* metadata ``training``, JSON: loss, optimizer, seed, counts of epochs and steps, factor of the rates, the fit
  that was running, the states of its callbacks, the names of the history; inside an epoch also ``inside``:
  the steps done of it, the sums of its loss and weights, and what the order of its steps depends on;
* tensors ``optimizer.state`` (rows, n_parameters), ``optimizer.numbers`` (scalars), ``history.epoch``
  (epochs,), ``history.values`` (epochs, names) with nan for what was not measured, and the
  arrays of callbacks' states.

Random numbers are functions of seed, epoch and step, so these are all that there is to keep of them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import container, descriptions, devices, errors, saving
from .errors import FormatError
from .history import History
from .layers import lower
from .losses import Custom, Loss
from .network import recipe_from_json
from .optimizers import Optimizer
from .saving import Description

__all__ = ["resume", "save", "writer"]

Array = NDArray[Any]

_FIELDS = {
    "loss",
    "optimizer",
    "seed",
    "epoch",
    "step",
    "rate_factor",
    "stop_reason",
    "fit_begun",
    "callbacks",
    "history",
}
_INSIDE = {"step", "loss_sum", "weight_sum", "plan"}


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds, found to fit itself.

    Parameters
    ----------
    description : Description
        Of the model.
    weights : dict of ndarray
    loss, optimizer : descriptions
    seed, epoch, step : int
    rate_factor : float
    stop_reason : str or None
    fit_begun : int or None
        Epochs that were done before the fit that was running; None: none was.
    states : list of (str, dict)
        Class and state of each of its callbacks.
    history : History
    state : ndarray (rows, n_parameters)
        Of the optimizer.
    numbers : ndarray (n,)
        Scalars of that.
    epoch_step : int
        Steps done of the epoch that was running; 0: none was.
    sums : (float, float)
        Of weight * loss and of weights in it.
    plan : dict
        What the order of its steps depends on.
    """

    description: Description
    weights: dict[str, Array]
    loss: Loss
    optimizer: Optimizer
    seed: int
    epoch: int
    step: int
    rate_factor: float
    stop_reason: str | None
    fit_begun: int | None
    states: list[tuple[str, dict[str, Any]]]
    history: History
    state: Array
    numbers: Array
    epoch_step: int
    sums: tuple[float, float]
    plan: dict[str, Any]


# ---------------------------------------------------------------- from and to the trainer


def save(trainer: Any, path: str | os.PathLike[str]) -> None:
    """`Trainer.save_checkpoint`."""
    writer(trainer, copied=False)(path)


def writer(trainer: Any, copied: bool) -> Callable[[Any], None]:
    """What writes the training of this moment to a path; with copies it may go on meanwhile."""
    model = trainer.model
    description = model._description()
    tensors = {**model.weights, **model.running}
    program = trainer._current_program()
    tensors["optimizer.state"], tensors["optimizer.numbers"] = program.state, program.numbers
    history = trainer.history
    tensors["history.epoch"] = np.array(history.epoch, np.int64)
    tensors["history.values"] = np.array([history[name] for name in history], np.float64).T
    if trainer._running:
        states = [(type(one).__name__, one.state_dict()) for one in trainer._callbacks]
    else:
        states = trainer._resumed_states
    encoded = []
    for i, (name, state) in enumerate(states):
        if not isinstance(state, dict):
            raise TypeError(f"state_dict of callbacks[{i}], {name}, must give a dict, got {state!r}")
        encoded.append({"class": name, "state": _encode(state, f"callbacks.{i}", tensors)})
    training = {
        "loss": _loss_to_json(trainer.loss),
        "optimizer": descriptions.to_json(trainer.optimizer),
        "seed": trainer.seed,
        "epoch": trainer.epoch,
        "step": trainer.step,
        "rate_factor": trainer.rate_factor,
        "stop_reason": trainer.stop_reason,
        "fit_begun": trainer._fit_begun if trainer._running or trainer._interrupted else None,
        "callbacks": encoded,
        "history": list(history),
    }
    if trainer._running and trainer._paused:  # not the end of what is to go on
        training["stop_reason"] = None
    if trainer.epoch_step:
        loss_sum, weight_sum = trainer._sums
        sums = {"loss_sum": loss_sum, "weight_sum": weight_sum}
        training["inside"] = {"step": trainer.epoch_step, **sums, "plan": trainer._plan}
    more = {"training": container.dump_json("the training", training)}
    if copied:
        tensors = {name: np.array(tensor) for name, tensor in tensors.items()}
    return lambda path: saving.write(path, "checkpoint", description, tensors, more)


def resume(trainer: Any, path: str | os.PathLike[str]) -> None:
    """`Trainer.resume`: all is judged before anything is changed."""
    if trainer._running:
        raise RuntimeError("resume must not be called while fit is running")
    found = _read(path)
    model, description = trainer.model, found.description
    differences = list(_differences(trainer, found))
    if differences:
        raise ValueError(
            f"{os.fspath(path)} must be a checkpoint of this training, but {'; '.join(differences)}"
        )
    steps = lower(description.layers, description.n_in)
    blank = np.zeros(found.state.shape[1], description.dtype)
    # Where the shapes do not depend on the device, and nothing is asked of a card.
    device = "numpy" if trainer.device == "numpy" else "cpu"
    probe = devices.make(
        device, steps, blank, loss=trainer.loss, optimizer=found.optimizer, seed=found.seed
    )
    try:
        devices.restore(probe, found.state, found.numbers)
    except ValueError as error:
        raise FormatError(f"{os.fspath(path)}: {error}") from None
    recipe = model.recipe
    if description.recipe is not None:
        recipe = recipe_from_json(os.fspath(path), description.recipe, description.n_in)

    if not model.is_built:
        model._allocate(description.n_in)
    for name, view in {**model.weights, **model.running}.items():
        view[...] = found.weights[name]
    model.recipe = recipe
    model.classes = model.classes if description.classes is None else description.classes
    trainer.seed, trainer.epoch = found.seed, found.epoch
    trainer.history, trainer.rate_factor, trainer.stop_reason = (
        found.history,
        found.rate_factor,
        found.stop_reason,
    )
    trainer._interrupted, trainer._fit_begun = found.fit_begun is not None, found.fit_begun or 0
    trainer._resumed_states = found.states
    trainer.epoch_step, trainer._sums, trainer._plan = found.epoch_step, found.sums, found.plan
    # The program is made anew, as the seed is part of it.
    trainer._program, trainer._saved = None, (found.state, found.numbers, found.step, model._n_builds)
    trainer._current_program()


def _differences(trainer: Any, found: Checkpoint) -> Iterable[str]:
    """What is another in the checkpoint than in the trainer."""
    model, description = trainer.model, found.description
    pairs: list[tuple[str, object, object]] = [("dtype", description.dtype, str(model.dtype))]
    if len(description.layers) == len(model.layers):
        both = zip(description.layers, model.layers, strict=True)
        pairs += [(f"layer {i}", theirs, ours) for i, (theirs, ours) in enumerate(both)]
    else:
        pairs.append(("the number of layers", len(description.layers), len(model.layers)))
    if model.is_built:
        pairs.append(("n_in", description.n_in, model.n_in))
    pairs += [("loss", found.loss, trainer.loss), ("optimizer", found.optimizer, trainer.optimizer)]
    if trainer._seed_is_given:
        pairs.append(("seed", found.seed, trainer.seed))
    if model.classes is not None:
        pairs.append(("classes", description.classes, list(model.classes)))
    for name, theirs, ours in pairs:
        if theirs != ours:
            yield f"{name} is {theirs!r} in it and {ours!r} here"
    if model.recipe is not None and description.recipe != model.recipe.to_json():
        yield "its recipe is another than the model's"


# ---------------------------------------------------------------- reading


def _read(path: object) -> Checkpoint:
    """What a checkpoint holds (OSError, FormatError)."""
    contents = saving.read(path, "checkpoint", {"training"})
    where = f"the training of {contents.path}"
    description = Description.from_metadata(contents.path, contents.metadata)
    shapes = {**description.shapes(), **description.running_shapes()}
    weights = saving.take(contents, shapes, description.dtype)
    n_parameters = sum(math.prod(shape) for shape in description.shapes().values())
    training = container.parse_json(where, contents.metadata["training"])
    if not isinstance(training, dict) or training.keys() - {"inside"} != _FIELDS:
        found = sorted(training) if isinstance(training, dict) else training
        raise FormatError(f"{where} must have {', '.join(sorted(_FIELDS))}, got {found!r:.400}")
    loss = _loss_from_json(f"loss of {where}", training["loss"])
    optimizer = descriptions.from_json(
        f"optimizer of {where}", training["optimizer"], descriptions.OPTIMIZERS
    )
    reason, begun = training["stop_reason"], training["fit_begun"]
    try:
        seed = errors.seed("seed", training["seed"])
        epoch = errors.integer("epoch", training["epoch"], 0, 2**62)
        step = errors.integer("step", training["step"], 0, 2**62)
        rate_factor = errors.real("rate_factor", training["rate_factor"])
        begun = None if begun is None else errors.integer("fit_begun", begun, 0, epoch)
        if reason is not None and not isinstance(reason, str):
            raise TypeError(f"stop_reason must be a text, got {reason!r:.200}")
        inside = _inside(training.get("inside"), begun)
        history = _history(contents.tensors, training["history"], epoch)
        state = _tensor(contents.tensors, "optimizer.state", description.dtype, 2)
        numbers = _tensor(contents.tensors, "optimizer.numbers", "float64", 1)
        if state.shape[1] != n_parameters:
            raise ValueError(f"'optimizer.state' must have {n_parameters} columns, got shape {state.shape}")
        states = [_state(i, entry, contents.tensors) for i, entry in enumerate(_list(training, "callbacks"))]
        if contents.tensors:
            raise ValueError(f"it must not have the tensors {', '.join(map(repr, contents.tensors)):.400}")
    except (TypeError, ValueError) as error:
        raise FormatError(f"{where}: {error}") from None
    return Checkpoint(
        description,
        weights,
        loss,
        optimizer,
        seed,
        epoch,
        step,
        rate_factor,
        reason,
        begun,
        states,
        history,
        state,
        numbers,
        *inside,
    )


def _inside(value: Any, begun: int | None) -> tuple[int, tuple[float, float], dict[str, Any]]:
    """Steps, sums and plan of the epoch that was running."""
    if value is None:
        return 0, (0.0, 0.0), {}
    if not isinstance(value, dict) or value.keys() != _INSIDE or not isinstance(value["plan"], dict):
        raise TypeError(f"inside must have {', '.join(sorted(_INSIDE))}, got {value!r:.200}")
    if begun is None:
        raise ValueError("inside must not be there where no fit was running")
    step = errors.integer("inside.step", value["step"], 1, 2**62)
    loss_sum = value["loss_sum"]
    if not isinstance(loss_sum, float) or not math.isfinite(loss_sum):  # below 0 where the loss is
        raise ValueError(f"inside.loss_sum must be a number, got {loss_sum!r:.200}")
    return step, (loss_sum, errors.real("inside.weight_sum", value["weight_sum"])), value["plan"]


def _loss_to_json(loss: Loss) -> dict[str, Any]:
    """A loss; of a user's own all but the function, which no file holds."""
    if isinstance(loss, Custom):
        return {"class": "Custom", "name": loss.name, "takes_labels": loss.takes_labels}
    found: dict[str, Any] = descriptions.to_json(loss)
    return found


def _loss_from_json(where: str, value: Any) -> Loss:
    """The same back; a user's own is equal to the trainer's of that name, and cannot be called."""
    if isinstance(value, dict) and value.get("class") == "Custom":
        if value.keys() != {"class", "name", "takes_labels"}:
            raise FormatError(f"{where}, Custom, must have name and takes_labels, got {value!r:.200}")
        try:
            return Custom(_not_kept, value["name"], value["takes_labels"])
        except (TypeError, ValueError) as error:
            raise FormatError(f"{where}, Custom: {error}") from None
    found: Loss = descriptions.from_json(where, value, descriptions.LOSSES)
    return found


def _not_kept(*_: Any) -> Any:
    raise RuntimeError("a checkpoint holds no functions")


def _list(training: dict[str, Any], name: str) -> list[Any]:
    found = training[name]
    if not isinstance(found, list):
        raise TypeError(f"{name} must be a list, got {found!r:.200}")
    return found


def _tensor(tensors: dict[str, Array], name: str, dtype: str, ndim: int) -> Array:
    """Take a tensor out."""
    if name not in tensors:
        raise ValueError(f"the tensor {name!r} is missing")
    found = tensors.pop(name)
    if found.dtype != np.dtype(dtype) or found.ndim != ndim:
        raise ValueError(f"{name!r} must be {ndim}-D {dtype}, got shape {found.shape} {found.dtype}")
    return found


def _history(tensors: dict[str, Array], names: Any, epoch: int) -> History:
    """The history from its tensors."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or "loss" not in names:
        raise TypeError(f"history must be names with 'loss' among them, got {names!r:.200}")
    epochs = _tensor(tensors, "history.epoch", "int64", 1)
    values = _tensor(tensors, "history.values", "float64", 2)
    if len(set(names)) != len(names) or values.shape != (len(epochs), len(names)):
        raise ValueError(f"'history.values' must have shape {len(epochs), len(names)}, got {values.shape}")
    if len(epochs) and (epochs[0] < 1 or epochs[-1] > epoch or (np.diff(epochs) < 1).any()):
        raise ValueError(f"'history.epoch' must rise from 1 to {epoch} at most")
    history = History(names)
    for number, row in zip(epochs.tolist(), values.tolist(), strict=True):
        history.append(number, **dict(zip(names, row, strict=True)))
    return history


def _state(i: int, entry: Any, tensors: dict[str, Array]) -> tuple[str, dict[str, Any]]:
    """Class and state of a callback."""
    if (
        not isinstance(entry, dict)
        or entry.keys() != {"class", "state"}
        or not isinstance(entry["class"], str)
    ):
        raise TypeError(f"callbacks[{i}] must have class and state, got {entry!r:.200}")
    state = _decode(entry["state"], tensors)
    if not isinstance(state, dict):
        raise TypeError(f"the state of callbacks[{i}] must be a dict, got {entry['state']!r:.200}")
    return entry["class"], state


# ---------------------------------------------------------------- states of callbacks

# Plain values stand as they are; what JSON has not is an object with one of these names.
_SPECIAL: dict[str, Callable[[Any, dict[str, Array]], Any]] = {
    "float": lambda text, tensors: {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[text],
    "dict": lambda items, tensors: {name: _decode(item, tensors) for name, item in items.items()},
    "tuple": lambda items, tensors: tuple(_decode(item, tensors) for item in items),
    "array": lambda name, tensors: tensors.pop(name),
}


def _encode(value: Any, name: str, tensors: dict[str, Array]) -> Any:
    """A value of a state as JSON; arrays are added to the tensors under `name`, which says where it is."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        items = [_encode(item, f"{name}.{i}", tensors) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _encode(item, f"{name}.{key}", tensors) for key, item in value.items()}}
    if isinstance(value, np.ndarray):
        while name in tensors:  # keys may have dots themselves
            name += "'"
        tensors[name] = value
        return {"array": name}
    raise TypeError(
        f"state_dict must give numbers, texts, None, lists, dicts and arrays, "
        f"got {type(value).__name__} as {name}"
    )


def _decode(value: Any, tensors: dict[str, Array]) -> Any:
    """What `_encode` made JSON of."""
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    try:
        ((kind, held),) = value.items()
        return _SPECIAL[kind](held, tensors)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{value!r:.200} is no value of a state ({error!r:.200})") from None
