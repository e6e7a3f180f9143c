"""One result: every activation, loss and kind of layer, on each instruction set and 1 to 4 threads.

And of a row by itself, or among any others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from layer_cases import NETWORKS
from loss_targets import targets_of
from test_layer_gradients import KINDS

import fastnn as fn
from fastnn import kernels

N_IN, N_OUT, N_ROWS = 6, 4, 41


@pytest.fixture(autouse=True)
def _instruction_set() -> Iterator[None]:
    before = kernels.isa()
    yield
    kernels.set_isa(before)


def trained(activation: str, loss: str, dtype: str, dropout: bool) -> bytes:
    """Parameters and predictions after a few steps, by the general kernels, or by those of small nets."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N_ROWS, N_IN)).astype(dtype)
    y = targets_of(loss, rng, N_ROWS, N_OUT)
    y = y if y.dtype.kind == "i" else y.astype(dtype)
    between = (fn.Dropout(0.3),) if dropout else ()
    layers = fn.Dense(19, activation=activation), *between, fn.Dense(N_OUT)
    trainer = fn.Trainer(fn.Sequential(*layers, dtype=dtype), loss, fn.Adam(0.01), seed=2)
    trainer.model.build(N_IN, seed=2)
    order = rng.integers(0, N_ROWS, (4, 37))
    trainer.run(x, y, order, sample_weight=rng.random(N_ROWS) + 0.1)
    whole = trainer.model.predict(x)
    for i in (0, 17, 40):
        np.testing.assert_array_equal(trainer.model.predict(x[i : i + 1])[0], whole[i])
    return bytes(trainer.model.parameters.tobytes() + whole.tobytes())


def one_result(threads: Any, activation: str, loss: str) -> None:
    for dtype in ("float32", "float64"):
        for dropout in (True, False):
            found = set()
            for isa in kernels.isa_available():
                kernels.set_isa(isa)
                for n in (1, 2, 3, 4):
                    threads(n)
                    found.add(trained(activation, loss, dtype, dropout))
            assert len(found) == 1, (dtype, dropout)


@pytest.mark.parametrize("activation", kernels.ACTIVATIONS)
def test_every_activation_has_one_result(threads: Any, activation: str) -> None:
    one_result(threads, activation, "mse")


@pytest.mark.parametrize("loss", kernels.LOSSES)
def test_every_loss_has_one_result(threads: Any, loss: str) -> None:
    one_result(threads, "tanh", loss)


# Narrow ones, of which some take codes from columns 1 and 4, and those whose rows are several vectors.
LAYERS = {kind: (*layers, fn.Activation("mish"), fn.Dense(3)) for kind, layers in KINDS.items()}
LAYERS |= {f"{name}, wide": layers("gelu_tanh") for name, layers in NETWORKS.items()}


def trained_layers(kind: str, dtype: str) -> bytes:
    """Parameters, running statistics and predictions of a net after a few steps and a ragged one."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(N_ROWS, N_IN)).astype(dtype), rng.integers(0, 3, N_ROWS)
    x[:, [1, 4]] = rng.integers(-1, 6, (N_ROWS, 2))
    trainer = fn.Trainer(fn.Sequential(*LAYERS[kind], dtype=dtype), "cross_entropy", fn.AdamW(0.01), seed=2)
    trainer.model.build(N_IN, seed=2)
    trainer.run(x, y, rng.integers(0, N_ROWS, (3, 37)), sample_weight=rng.random(N_ROWS) + 0.1)
    trainer.run(x, y, rng.integers(0, N_ROWS, (1, 5)))
    model = trainer.model
    whole, handle = model.predict(x), model.compile()
    for rows in (slice(0, 1), slice(17, 19), slice(40, 41), slice(3, 32)):
        np.testing.assert_array_equal(model.predict(x[rows]), whole[rows])
        np.testing.assert_array_equal(handle(x[rows]), whole[rows])
    return bytes(model.parameters.tobytes() + model.buffers.tobytes() + whole.tobytes())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", LAYERS)
def test_every_kind_of_layer_has_one_result(threads: Any, kind: str, dtype: str) -> None:
    found = set()
    for isa in kernels.isa_available():
        kernels.set_isa(isa)
        for n in (1, 2, 3, 4):
            threads(n)
            found.add(trained_layers(kind, dtype))
    assert len(found) == 1
