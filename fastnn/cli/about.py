"""`fastnn info`, `fastnn demo` and `fastnn bench`."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import numpy as np

import fastnn as fn

__all__ = ["bench", "demo", "info"]

# The accuracy below which the demonstration has failed: it reaches 97 to 98.5 %.
DEMO_ACCURACY = 0.97

# Networks of the short benchmark: name, widths, rows of a batch, steps of an epoch.
NETWORKS = (("digits", (64, 128, 10), 32, 64), ("MNIST", (784, 256, 10), 128, 32))


def info(arguments: argparse.Namespace) -> int:
    """Print the configuration, or what a model is."""
    if arguments.threads is not None:
        fn.set_num_threads(arguments.threads)
    if arguments.model is None:
        config = fn.show_config(mode="dict")
        if arguments.json:
            print(json.dumps(config))
        else:
            fn.show_config()
        return 0
    model = fn.load(arguments.model)
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


def demo(arguments: argparse.Namespace) -> int:
    """Run the demonstration."""
    from fastnn import demo

    given = ["--epochs", str(arguments.epochs), "--seconds", str(arguments.seconds)]
    if arguments.threads is not None:
        fn.set_num_threads(arguments.threads)
        given += ["--threads", str(arguments.threads)]
    demo.uncap_blas(["-m", "fastnn", "demo", *given])
    accuracy = demo.run(arguments.epochs, arguments.seconds)
    if accuracy < DEMO_ACCURACY:
        print(f"fastnn: error: test accuracy {accuracy:.4f} is below {DEMO_ACCURACY}", file=sys.stderr)
        return 1
    return 0


def bench(arguments: argparse.Namespace) -> int:
    """Print the median time of an epoch of fastnn and of NumPy, in turns, on random rows."""
    from fastnn import demo

    given = ["--seconds", str(arguments.seconds), *(["--json"] if arguments.json else [])]
    if arguments.threads is not None:
        fn.set_num_threads(arguments.threads)
        given += ["--threads", str(arguments.threads)]
    demo.uncap_blas(["-m", "fastnn", "bench", *given])
    random = np.random.default_rng(0)
    found: list[dict[str, Any]] = []
    for name, widths, batch, steps in NETWORKS:
        x = random.standard_normal((batch * steps, widths[0]), dtype=np.float32)
        y = random.integers(0, widths[-1], len(x))
        order = np.arange(len(x)).reshape(steps, batch)
        hidden = [fn.Dense(units, activation="relu") for units in widths[1:-1]]
        model = fn.Sequential(*hidden, fn.Dense(widths[-1])).build(widths[0])
        trainer = fn.Trainer(model, loss="cross_entropy", optimizer=fn.SGD(lr=1e-3, momentum=0.9), seed=0)
        network = demo.NumpyNetwork(list(widths), loss="cross_entropy", batch=batch, lr=1e-3, momentum=0.9)
        network.parameters[:] = model.parameters
        times = demo.epoch_times(
            {
                "fastnn": lambda t=trainer, x=x, y=y, o=order: t.run(x, y, o),  # type: ignore[misc]
                "numpy": lambda n=network, x=x, y=y, o=order: n.run(x, y, o),  # type: ignore[misc]
            },
            arguments.seconds,
        )
        shape = "-".join(map(str, widths))
        milliseconds = {who: round(1000 * t, 4) for who, t in times.items()}
        found.append({"network": name, "widths": shape, "batch": batch, "steps": steps, **milliseconds})
    if arguments.json:
        print(json.dumps(found))
        return 0
    print(f"milliseconds of an epoch, median of turns; {fn.get_num_threads()} threads")
    print(f"{'network':<8} {'widths':<12} {'batch':>5} {'steps':>5} {'fastnn':>9} {'NumPy':>9} {'ratio':>6}")
    for row in found:
        times_text = f"{row['fastnn']:>9.3f} {row['numpy']:>9.3f} {row['numpy'] / row['fastnn']:>6.2f}"
        print(f"{row['network']:<8} {row['widths']:<12} {row['batch']:>5} {row['steps']:>5} {times_text}")
    return 0
