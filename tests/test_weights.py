"""The update folded into the gradient of a weight matrix: the bits of one after the other."""

import itertools

import numpy as np
import pytest

import fastnn as fn
from fastnn import ops
from fastnn.layers import lower, n_parameters
from fastnn.program import Program

# Around vectors, tiles (6, 14 rows; 32, 16 columns) and blocks; narrow ones go another way.
N_IN = (1, 3, 14, 17, 40, 65)
N_OUT = (1, 2, 3, 6, 7, 10, 14, 15, 17, 33, 48)
BATCHES = (1, 7, 64, 257)
OPTIMIZERS = {
    "sgd": fn.SGD(lr=0.1),
    "decay": fn.SGD(lr=0.1, weight_decay=0.01),
    "momentum": fn.SGD(lr=0.1, momentum=0.9),
    "nesterov": fn.SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": fn.Adam(lr=0.1, weight_decay=0.01),
}


def program(n_in, n_out, dtype, optimizer, layers=None):
    steps = lower(layers or (fn.Dense(n_out),), n_in)
    parameters = np.random.default_rng(0).standard_normal(n_parameters(steps)).astype(dtype)
    return Program(steps, parameters, loss="mse", optimizer=optimizer, seed=0), parameters


def unfolded(optimizer, parameters, gradient, state, step):
    """The optimizer's own kernel on the whole block."""
    if optimizer.name in ("adam", "adamw"):
        update = ops.adam_update if optimizer.name == "adam" else ops.adamw_update
        update(parameters, gradient, *state, step=step, lr=optimizer.lr, weight_decay=optimizer.weight_decay)
    else:
        ops.sgd_update(
            parameters,
            gradient,
            state[0] if len(state) else None,
            lr=optimizer.lr,
            momentum=optimizer.momentum,
            nesterov=optimizer.nesterov,
            weight_decay=optimizer.weight_decay,
        )


def check(n_in, n_out, batch, dtype, optimizer, layers=None):
    rng = np.random.default_rng(n_in + 100 * n_out)
    x, y = (
        rng.standard_normal((2 * batch, n_in)).astype(dtype),
        rng.standard_normal((2 * batch, n_out)).astype(dtype),
    )
    order = np.stack([rng.permutation(2 * batch)[:batch] for _ in range(3)])
    folded, got = program(n_in, n_out, dtype, optimizer, layers)
    folded.run(x, y, order, np.full(3, optimizer.lr))
    plain, expected = program(n_in, n_out, dtype, optimizer, layers)
    state = np.zeros_like(folded.state)
    for step, rows in enumerate(order):
        _, gradient = plain.gradient(x[rows], y[rows])
        unfolded(optimizer, expected, gradient, state, step + 1)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(folded.state, state)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_folded_and_unfolded_updates_give_the_same_bits(isa, threads, optimizer, dtype):
    for n_threads, (n_in, n_out) in zip(itertools.cycle((1, 2, 3)), itertools.product(N_IN, N_OUT)):
        threads(n_threads)
        check(n_in, n_out, BATCHES[(n_in + n_out) % len(BATCHES)], dtype, OPTIMIZERS[optimizer])


def test_several_layers_and_blocks_of_weights_give_the_same_bits(isa, threads):
    layers = (fn.Dense(300, activation="relu"), fn.Dense(170, activation="tanh"), fn.Dense(5))
    for n_threads in (1, 2, 3):
        threads(n_threads)
        check(90, 5, 33, "float32", OPTIMIZERS["momentum"], layers)
        check(90, 5, 1, "float64", OPTIMIZERS["adam"], layers)
        check(90, 5, 7, "float32", OPTIMIZERS["sgd"], layers)
        check(90, 5, 40, "float64", fn.AdamW(lr=0.1, weight_decay=0.01), layers)


def test_weights_and_states_in_memory_give_the_same_bits(isa, threads):
    threads(1)
    check(1100, 1300, 2, "float64", fn.AdamW(lr=0.1, weight_decay=0.01))  # 34 MB, beyond FOLLOW_BYTES
