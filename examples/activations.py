"""The curves of all activations, and their derivatives, in one picture. Needs matplotlib."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import fastnn as fn

COLUMNS = 4
RANGE = 5.0


def picture(path):
    """Draw every elementwise activation over -RANGE .. RANGE."""
    from matplotlib.figure import Figure

    names = [name for name, kind in fn.kernels.ACTIVATIONS.items() if kind != "rowwise"]
    rows = -(-len(names) // COLUMNS)
    figure = Figure(figsize=(2.6 * COLUMNS, 2.1 * rows), layout="constrained")
    z = np.linspace(-RANGE, RANGE, 1001)
    axes = figure.subplots(rows, COLUMNS, sharex=True, sharey=True).ravel()
    for axis, name in zip(axes, names, strict=False):
        f, backward = fn.ops.ACTIVATIONS[name]
        axis.plot(z, f(z), label="f(z)")
        axis.plot(z, backward(np.ones_like(z), z), label="f'(z)", linestyle="--")
        axis.set(title=name, ylim=(-2, 3))
        axis.grid(alpha=0.3)
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    axes[0].legend()
    figure.savefig(path, dpi=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("activations.png"), help="the picture (default: %(default)s)"
    )
    picture(parser.parse_args().out)


if __name__ == "__main__":
    main()
