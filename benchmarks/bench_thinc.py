"""A network of Thinc with fastnn's operations, with NumpyOps as it is, on BLIS, and on NumPy's BLAS."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import timing
from thinc.api import Adam, Model, Relu, Softmax, chain, fix_random_seed
from thinc.backends import NumpyOps, set_current_ops

import fastnn.thinc

N_IN, N_HIDDEN, N_OUT, BATCH = 784, 256, 10, 128
STEPS = 4  # of one call, on as many batches
# Calls until the same rows come again: few enough rows are soon known by heart, and the squares of gradients
# that are all but zero are numbers below the normal range, which take a CPU many times as long.
CALLS = 32
DROPOUT = 0.2
NAMES = ("fastnn", "NumpyOps", "NumpyOps, BLAS")


def operations(name: str) -> Any:
    """What a contender's models compute with; fastnn is installed in Thinc's optimizers too."""
    fastnn.thinc.uninstall()
    if name == "fastnn":
        fastnn.thinc.install()
        return fastnn.thinc.FastnnOps()
    return NumpyOps(use_blis=name == "NumpyOps")


def network(ops: Any, dropout: float, x: np.ndarray, y: np.ndarray) -> Model:
    """The same initial weights for all."""
    set_current_ops(ops)
    fix_random_seed(0)
    model = chain(Relu(N_HIDDEN, dropout=dropout), Relu(N_HIDDEN, dropout=dropout), Softmax(N_OUT))
    model.initialize(X=x, Y=y)
    return model


def train(model: Model, optimizer: Any, x: np.ndarray, y: np.ndarray) -> None:
    """One step for each batch of x."""
    for first in range(0, len(x), BATCH):
        rows = slice(first, first + BATCH)
        found, backprop = model.begin_update(x[rows])
        backprop((found - y[rows]) / BATCH)
        model.finish_update(optimizer)


def predict(model: Model, x: np.ndarray, _: np.ndarray) -> None:
    for first in range(0, len(x), BATCH):
        model.predict(x[first : first + BATCH])


def reference(model: Model, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """What the model is to predict after its steps: the same by hand, in float64, by Thinc's rules."""
    nodes = [node for node in model.walk(order="dfs_pre") if node.has_param("W")]
    w = [node.get_param(name).astype(np.float64) for node in nodes for name in ("W", "b")]
    m, v = [np.zeros_like(one) for one in w], [np.zeros_like(one) for one in w]

    def forward(x: np.ndarray) -> list[np.ndarray]:
        found = [x]
        for i in range(0, len(w), 2):
            z = found[-1] @ w[i].T + w[i + 1]
            top = np.exp(z - z.max(1, keepdims=True))
            found.append(np.maximum(z, 0) if i < len(w) - 2 else top / top.sum(1, keepdims=True))
        return found

    for t in range(1, len(x) // BATCH + 1):
        rows = slice((t - 1) * BATCH, t * BATCH)
        a = forward(x[rows].astype(np.float64))
        d, gradients = (a[-1] - y[rows]) / BATCH, []
        for i in range(len(w) - 2, -1, -2):
            gradients[:0] = [d.T @ a[i // 2], d.sum(0)]
            d = (d @ w[i]) * (a[i // 2] > 0)
        for one, g, mean, square in zip(w, gradients, m, v, strict=True):
            g /= max(1.0, float(np.linalg.norm(g)))  # grad_clip=1
            mean += 0.1 * (g - mean)
            square += 0.001 * (g * g - square)
            one -= 0.001 * (1 - 0.999**t) ** 0.5 / (1 - 0.9**t) * mean / (np.sqrt(square) + 1e-8)
    return forward(x.astype(np.float64))[-1]


def contender(
    name: str, call: Callable[[np.ndarray, np.ndarray], object], x: Any, y: Any
) -> timing.Contender:
    """The call with the contender's operations in Thinc while it runs, on other rows each time."""
    turns = itertools.cycle(range(0, len(x), STEPS * BATCH))

    def whole() -> None:
        operations(name)
        first = next(turns)
        call(x[first : first + STEPS * BATCH], y[first : first + STEPS * BATCH])

    return timing.Contender(name, whole)


def main() -> None:
    arguments = timing.start(__doc__ or "")
    random = np.random.default_rng(0)
    x = random.standard_normal((CALLS * STEPS * BATCH, N_IN), np.float32)
    y = np.eye(N_OUT, dtype=np.float32)[random.integers(0, N_OUT, len(x))]
    report = timing.Report(
        "thinc",
        f"Thinc: {N_IN}-{N_HIDDEN}-{N_HIDDEN}-{N_OUT}, batches of {BATCH}",
        arguments,
        notes=[
            f"Microseconds of {STEPS} steps, or of predictions for {STEPS} batches. Adam with Thinc's "
            "defaults: gradients clipped, averages kept. fastnn: FastnnOps and `fastnn.thinc.install()`; "
            "NumpyOps: its default, products by BLIS; NumpyOps, BLAS: products by NumPy's BLAS."
        ],
    )
    few = slice(0, STEPS * BATCH)
    for case, dropout in ((f"training, dropout {DROPOUT}", DROPOUT), ("training", 0.0), ("prediction", 0.0)):
        contenders, error = [], 0.0
        for name in NAMES:
            # Without dropout, whose numbers differ, all must end at the same predictions.
            judged = network(operations(name), 0.0, x[few], y[few])
            expected = reference(judged, x[few], y[few])
            train(judged, Adam(0.001), x[few], y[few])
            error = max(error, timing.agree(name, judged.predict(x[few]), expected, 2e-3))
            model, optimizer = network(operations(name), dropout, x[few], y[few]), Adam(0.001)
            if case == "prediction":
                call = functools.partial(predict, model)
            else:
                call = functools.partial(train, model, optimizer)
            contenders.append(contender(name, call, x, y))
        report.add(case, timing.compare(contenders, arguments), error)
    fastnn.thinc.uninstall()
    report.save()


if __name__ == "__main__":
    main()
