"""`fastnn info`, `fastnn demo` and `fastnn bench`."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from typing import Any

import fastnn as fn

__all__ = ["bench", "demo", "info"]

# The accuracy below which the demonstration has failed: it reaches 97 to 98.5 %.
DEMO_ACCURACY = 0.97


def info(arguments: argparse.Namespace) -> int:
    """Print the configuration, or what a model is."""
    if arguments.threads is not None:
        fn.set_num_threads(arguments.threads)
    if arguments.model is None:
        config = fn.show_config(mode="dict")
        cards, why = _cards()
        if arguments.json:
            print(json.dumps({**config, "cards": cards}))
            return 0
        fn.show_config()
        for card in cards:
            free, memory = card["free"] / 2**30, card["memory"] / 2**30
            room = f"{free:.1f} of {memory:.1f} GiB free"
            print(f"{card['device']:<16}{card['name']}, {room}, compute capability {card['capability']}")
        if why:
            print(f"{'cuda':<16}{why}")
        return 0
    model = fn.load(arguments.model)
    if isinstance(model, fn.Ensemble):
        return _info_of_ensemble(model, arguments.json)
    recipe = model.recipe
    if arguments.json:
        described: dict[str, Any] = {
            "layers": [repr(layer) for layer in model.layers],
            "dtype": str(model.dtype),
            "inputs": model.n_in,
            "outputs": model.n_out,
            "parameters": len(model.parameters),
            "classes": model.classes,
            "recipe": None if recipe is None else recipe.to_json(),
        }
        print(json.dumps(described))
        return 0
    print(model.summary())
    if recipe is not None:
        print(f"\n{recipe.describe()}")
    elif model.classes is not None:
        print(f"\nclasses: {', '.join(map(str, model.classes))}")
    return 0


def _cards() -> tuple[list[dict[str, Any]], str]:
    """The cards of the machine, and if there are none, why."""
    from fastnn.devices import cuda

    try:
        return cuda.cards(), ""
    except fn.DeviceError as error:
        return [], f"none: {error}"


def _info_of_ensemble(ensemble: fn.Ensemble, as_json: bool) -> int:
    """Print what the models of an ensemble are."""
    weights = ensemble.weights.tolist()
    if as_json:
        described: dict[str, Any] = {
            "models": [[repr(layer) for layer in one.layers] for one in ensemble],
            "weights": weights,
            "inputs": ensemble.n_in,
            "outputs": ensemble.n_out,
            "parameters": sum(len(one.parameters) for one in ensemble),
            "classes": ensemble.classes,
        }
        print(json.dumps(described))
        return 0
    print(repr(ensemble))
    for i, (model, weight) in enumerate(zip(ensemble, weights, strict=True)):
        print(f"\nmodel {i}, weight {weight:.6g}\n{model.summary()}")
    return 0


def demo(arguments: argparse.Namespace) -> int:
    """Run the demonstration."""
    from fastnn import demo

    given = ["--epochs", str(arguments.epochs), "--seconds", str(arguments.seconds)]
    given += ["--curves", arguments.curves]
    if arguments.threads is not None:
        fn.set_num_threads(arguments.threads)
        given += ["--threads", str(arguments.threads)]
    demo.uncap_blas(["-m", "fastnn", "demo", *given])
    accuracy = demo.run(arguments.epochs, arguments.seconds)
    if accuracy < DEMO_ACCURACY:
        print(f"fastnn: error: test accuracy {accuracy:.4f} is below {DEMO_ACCURACY}", file=sys.stderr)
        return 1
    print()
    demo.mnist(arguments.curves)
    return 0


def bench(arguments: argparse.Namespace) -> int:
    """Time training steps and predictions beside the peers that are installed."""
    from fastnn.bench import run

    kinds = [arguments.kind] if arguments.kind else list(run.KINDS)
    choice = run.Choice(
        kinds=kinds,
        peers=list(arguments.peers) if arguments.peers is not None else None,
        cells=list(arguments.cells) if arguments.cells is not None else None,
        threads=arguments.threads,
        rounds=arguments.rounds,
        quick=arguments.quick,
        out=arguments.out,
        lock=arguments.lock,
        peer_timeout=arguments.peer_timeout,
        command=_bench_command(arguments),
    )
    return run.main(choice, arguments.json)


def _bench_command(arguments: argparse.Namespace) -> str:
    """The command that measures the same again; where files go, and which lock, is left out."""
    words = ["fastnn", "bench", *([arguments.kind] if arguments.kind else [])]
    for name in ("peers", "cells"):
        if getattr(arguments, name) is not None:
            words += [f"--{name}", ",".join(getattr(arguments, name))]
    for name in ("threads", "rounds"):
        if getattr(arguments, name) is not None:
            words += [f"--{name}", str(getattr(arguments, name))]
    return shlex.join([*words, *(["--quick"] if arguments.quick else [])])
