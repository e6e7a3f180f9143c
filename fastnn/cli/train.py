"""`fastnn train`: from a CSV file to a model file."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastnn as fn
from fastnn import data, optimizers
from fastnn.callbacks import Callback
from fastnn.data import Kind

from .apply import measured, printed, read

__all__ = ["run"]

Array = NDArray[Any]


def run(arguments: argparse.Namespace) -> int:
    """Train and save; 130 after Ctrl-C, with the best so far saved."""
    begun = time.perf_counter()
    _judge_output(arguments.output)
    if arguments.threads is not None:
        fn.set_num_threads(arguments.threads)

    def say(text: str) -> None:
        if not arguments.quiet:
            print(f"fastnn: {text}", file=sys.stderr)

    table = read(arguments.data)
    recipe = data.Recipe.fit(
        table, arguments.target, task=arguments.task, kinds=_kinds(arguments), drop=arguments.drop
    )
    target = recipe.target
    assert target is not None
    x, y = recipe.arrays(table)
    for note in recipe.notes:
        say(note)
    if len(x) < table.n_rows:
        say(f"{table.n_rows - len(x)} rows are left out: they have no {target.name!r}")
    say(f"{len(x)} rows, {len(recipe.encoders)} columns ({x.shape[1]} after encoding)")
    say(f"target {target.name!r}: {target.describe()}")

    is_classes = target.task == "classification"
    kept, held = np.arange(len(x)), np.arange(0)
    if arguments.validation > 0:
        kept, held = data.split_rows(
            len(x), arguments.validation, stratify=y if is_classes else None, seed=arguments.seed
        )
    model = _model(arguments, recipe, target)
    trainer = fn.Trainer(
        model,
        loss="cross_entropy" if is_classes else "mse",
        optimizer=_optimizer(arguments),
        seed=arguments.seed,
    )
    scaled = y if is_classes else (y - target.mean) / target.scale
    stopping = fn.EarlyStopping(patience=arguments.patience) if len(held) else None
    files = _files(arguments)
    if arguments.resume and os.path.exists(_checkpoint(arguments)):
        trainer.resume(_checkpoint(arguments))
        inside = f", step {trainer.epoch_step} of the next" if trainer.epoch_step else ""
        say(f"goes on after epoch {trainer.epoch}{inside}, from {_checkpoint(arguments)}")
    elif arguments.resume:
        say(f"begins anew: there is no {_checkpoint(arguments)}")
    interrupted = False
    try:
        trainer.fit(
            x[kept],
            scaled[kept],
            epochs=arguments.epochs,
            batch_size=arguments.batch_size or default_batch_size(len(kept)),
            validation_data=(x[held], scaled[held]) if len(held) else None,
            callbacks=[one for one in (stopping, files) if one is not None],
            progress=not arguments.quiet,
            time_limit=arguments.time_limit,
        )
    except KeyboardInterrupt:
        if not trainer.history.epoch:
            raise  # nothing was learned yet
        interrupted = True
    unfinished = trainer.out_of_time
    if files is not None and not interrupted and not unfinished:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_checkpoint(arguments))  # or the next --resume would find nothing left to do
    if not is_classes:
        model.scale_outputs(target.scale, target.mean)
    model.recipe, model.classes = recipe, list(target.classes) or None
    model.save(arguments.output)

    best = stopping.best_epoch if stopping is not None else None
    summary: dict[str, Any] = {
        "model": arguments.output,
        "task": target.task,
        "rows": len(kept),
        "validation_rows": len(held),
        "epochs": len(trainer.history.epoch),
        "best_epoch": best,
        "interrupted": interrupted,
        "unfinished": unfinished,
        "seconds": round(time.perf_counter() - begun, 3),
        "parameters": len(model.parameters),
        "validation": measured(model, recipe, x[held], y[held]) if len(held) else None,
    }
    if arguments.json:
        print(json.dumps(summary))
    epochs = f"{summary['epochs']} epochs" + (f", the best is {best}" if best is not None else "")
    say(f"{epochs}, {summary['seconds']:.1f} s{', stopped by Ctrl-C' if interrupted else ''}")
    if summary["validation"] is not None:
        say(f"on the {len(held)} rows held back: {printed(summary['validation'])}")
    say(f"saved {arguments.output}")
    if unfinished:
        say(f"{trainer.stop_reason}; the same command with --resume goes on")
    return 130 if interrupted else 0


def default_batch_size(n_rows: int) -> int:
    """About a hundredth of the rows, a power of two from 32 to 256.

    Small tables need the steps more than the speed: 500 rows in batches of 256 are two steps an epoch.
    """
    size = 32
    while size < 256 and size * 100 < n_rows:
        size *= 2
    return size


def _checkpoint(arguments: argparse.Namespace) -> str:
    """The file that --resume goes on from."""
    return f"{arguments.output}.checkpoint"


def _files(arguments: argparse.Namespace) -> Callback | None:
    """What writes it."""
    every = arguments.checkpoint_every
    if every is None and not arguments.resume and arguments.time_limit is None:
        return None
    if isinstance(every, int):
        return fn.ModelCheckpoint(_checkpoint(arguments), every_steps=every)
    return fn.ModelCheckpoint(_checkpoint(arguments), every_minutes=None if every is None else every / 60)


def _judge_output(path: str) -> None:
    """Refuse a path that can not be written before the training, not after."""
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise FileNotFoundError(2, "the folder of the model file does not exist", folder)
    if os.path.isdir(path):
        raise IsADirectoryError(21, "the model file must not be a folder", path)
    if not os.access(folder, os.W_OK):
        raise PermissionError(13, "the folder of the model file cannot be written", folder)


def _kinds(arguments: argparse.Namespace) -> dict[str, Kind]:
    kinds: dict[str, Kind] = {}
    chosen: tuple[tuple[Kind, tuple[str, ...]], ...] = (
        ("category", arguments.category),
        ("number", arguments.number),
    )
    for kind, names in chosen:
        for name in names:
            if name in kinds or name in arguments.drop or name == arguments.target:
                raise ValueError(f"column {name!r} must have one role, got two")
            kinds[name] = kind
    return kinds


def _model(arguments: argparse.Namespace, recipe: data.Recipe, target: data.Target) -> fn.Sequential:
    embedding = recipe.embedding()
    layers: list[Any] = [] if embedding is None else [embedding]
    for units in arguments.layers:
        layers.append(fn.Dense(units, activation=arguments.activation))
        if arguments.dropout > 0:
            layers.append(fn.Dropout(arguments.dropout))
    return fn.Sequential(*layers, fn.Dense(target.n_out))


def _optimizer(arguments: argparse.Namespace) -> optimizers.Optimizer:
    optimizer = optimizers.get(arguments.optimizer)
    if arguments.optimizer == "sgd":
        optimizer = fn.SGD(lr=1e-2, momentum=0.9)
    return optimizer if arguments.lr is None else dataclasses.replace(optimizer, lr=arguments.lr)  # type: ignore[call-arg]
