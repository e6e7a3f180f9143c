"""Small nets train by a kernel of their own: the bits of the general way, and the same refusals."""

import itertools

import numpy as np
import pytest

import fastnn as fn
from fastnn.errors import DivergenceError
from fastnn.kernels import ACTIVATIONS
from fastnn.layers import lower, n_parameters
from fastnn.program import Program

LOSSES = {"cross_entropy": "label", "binary_cross_entropy": "values", "mse": "values"}  # that it knows
ELEMENTWISE = [name for name, kind in ACTIVATIONS.items() if kind != "rowwise"]
OPTIMIZERS = {
    "sgd": fn.SGD(lr=0.05),
    "decay": fn.SGD(lr=0.05, weight_decay=0.01),
    "momentum": fn.SGD(lr=0.05, momentum=0.9),
    "nesterov": fn.SGD(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": fn.Adam(lr=0.05, weight_decay=0.01),
}
BATCHES = (1, 2, 3, 4, 5, 7, 16, 17, 33)
N_ROWS, N_STEPS = 50, 6
LARGEST = 190_000  # operations of a step: SMALL_FLOPS of tuning.h


def make(layers, n_in, dtype, loss, optimizer):
    steps = lower(layers, n_in)
    parameters = np.random.default_rng(0).standard_normal(n_parameters(steps)).astype(dtype)
    return Program(steps, parameters, loss=loss, optimizer=optimizer, seed=0), parameters


def data(n_in, n_out, dtype, loss):
    rng = np.random.default_rng(n_in + 100 * n_out)
    x = rng.standard_normal((N_ROWS, n_in)).astype(dtype)
    if LOSSES[loss] == "label":
        return x, rng.integers(0, n_out, N_ROWS)
    y = rng.standard_normal((N_ROWS, n_out)) if loss == "mse" else rng.integers(0, 2, (N_ROWS, n_out))
    return x, y.astype(dtype)


def compare(layers, n_in, batch, dtype, loss, optimizer, weighted=False, x=None):
    """Train by both ways; a dropout of nothing keeps a net from the small one."""
    steps = lower(layers, n_in)
    batch = min(batch, LARGEST // sum(6 * step.n_in * step.n_out for step in steps))
    rng = np.random.default_rng(batch)
    x_, y = data(n_in, steps[-1].n_out, dtype, loss)
    x = x_ if x is None else x
    weight = rng.uniform(0, 2, N_ROWS) if weighted else None
    order, rates = rng.integers(0, N_ROWS, (N_STEPS, batch)), rng.uniform(0.01, 0.1, N_STEPS)
    results = []
    for small, way in ((True, layers), (False, (*layers, fn.Dropout(0.0)))):
        program, parameters = make(way, n_in, dtype, loss, optimizer)
        try:
            sums = [
                program.run(x, y, part, rate, weight)
                for part, rate in ((order, rates), (order[:4], rates[:4]))
            ]
        except DivergenceError as error:
            sums = [(error.step_in_call, error.loss_sum, error.weight_sum, error.layer)]
        assert program.small == small
        results.append((parameters, program.state, sums, program.step))
    (got, got_state, got_sums, got_step), (expected, state, sums, step) = results
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(got_state, state)
    assert got_sums == sums
    assert got_step == step


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES)
def test_widths_and_batches_give_the_bits_of_the_general_way(isa, loss, dtype):
    batches = itertools.cycle(BATCHES)
    activations = itertools.cycle(ELEMENTWISE)
    for n_in, hidden, n_out in itertools.product((1, 3, 8, 17), (1, 4, 9, 16, 33), range(1, 18, 1)):
        layers = (fn.Dense(hidden, activation=next(activations)), fn.Dense(n_out))
        compare(layers, n_in, next(batches), dtype, loss, OPTIMIZERS["sgd"])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES)
def test_single_rows_through_narrow_layers_give_the_bits_of_the_general_way(isa, loss, dtype):
    """Widths about a half, one and two vectors: the kernel that keeps rows in registers."""
    activations = itertools.cycle(("relu", None, "relu"))
    for hidden, n_out in itertools.product((1, 2, 4, 5, 8, 9, 16, 17, 32, 33), (1, 2, 3, 4, 5, 8, 9, 16, 17)):
        layers = (fn.Dense(hidden, activation=next(activations)), fn.Dense(n_out))
        compare(layers, 1 + 7 * hidden % 18, 1, dtype, loss, OPTIMIZERS["sgd"])
        compare((fn.Dense(7, activation="relu"), *layers), 2, 1, dtype, loss, OPTIMIZERS["sgd"])
        compare(layers[1:], 5, 1, dtype, loss, OPTIMIZERS["sgd"])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers_give_the_bits_of_the_general_way(isa, optimizer, dtype):
    for batch, n_out, weighted in itertools.product(BATCHES, (1, 3, 10), (False, True)):
        for loss in LOSSES:
            layers = (fn.Dense(9, activation="relu"), fn.Dense(20, activation="tanh"), fn.Dense(n_out))
            compare(layers, 5, batch, dtype, loss, OPTIMIZERS[optimizer], weighted)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_activation_in_every_place_gives_the_bits_of_the_general_way(isa, dtype):
    for (first, last), batch, optimizer in zip(
        itertools.product(ELEMENTWISE, ELEMENTWISE),
        itertools.cycle(BATCHES),
        itertools.cycle(("sgd", "adam")),
    ):
        for units in (2, 40):
            layers = (fn.Dense(6, activation=first, bias=False), fn.Dense(units, activation=last))
            compare(layers, 4, batch, dtype, "mse", OPTIMIZERS[optimizer])
            compare((fn.Dense(units, activation=last),), 4, batch, dtype, "mse", OPTIMIZERS[optimizer])
            compare(
                (fn.Dense(units, activation=last, bias=False),), 4, batch, dtype, "mse", OPTIMIZERS[optimizer]
            )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_what_is_not_finite_stops_both_ways_at_the_same_step(isa, value):
    for batch, optimizer in itertools.product((1, 2, 7, 16), ("sgd", "adam")):
        x, _ = data(4, 3, "float32", "cross_entropy")
        x[7, 3] = x[31, 0] = value
        for loss in LOSSES:
            for activation in ("relu", "sigmoid"):
                layers = (fn.Dense(16, activation=activation), fn.Dense(3))
                compare(layers, 4, batch, "float32", loss, OPTIMIZERS[optimizer], x=x)


def test_a_weight_of_zero_or_a_batch_of_none_gives_the_bits_of_the_general_way(isa):
    x, y = data(4, 3, "float32", "cross_entropy")
    weight = np.zeros(N_ROWS)
    weight[::3] = 1
    for batch in BATCHES:
        order = np.arange(6 * batch).reshape(6, batch) % N_ROWS
        results = []
        for layers in ((fn.Dense(16), fn.Dense(3)), (fn.Dense(16), fn.Dense(3), fn.Dropout(0.0))):
            program, parameters = make(layers, 4, "float32", "cross_entropy", OPTIMIZERS["momentum"])
            results.append((program.run(x, y, order, np.full(6, 0.1), weight), parameters.tobytes()))
        assert results[0] == results[1]


def test_rows_and_labels_out_of_range_are_refused(isa):
    x, y = data(4, 3, "float32", "cross_entropy")
    program, parameters = make((fn.Dense(16), fn.Dense(3)), 4, "float32", "cross_entropy", OPTIMIZERS["sgd"])
    before = parameters.copy()
    for row in (-1, N_ROWS):
        with pytest.raises(ValueError, match="row numbers"):
            program.run(x, y, np.array([[0], [0], [0], [row]]), np.full(4, 0.1))
    for label in (-1, 3):
        bad = y.copy()
        bad[5] = label
        with pytest.raises(ValueError, match="labels"):
            program.run(x, bad, np.array([[0], [0], [0], [5]]), np.full(4, 0.1))
    np.testing.assert_array_equal(parameters, before)


def test_more_work_and_few_steps_take_the_general_way():
    x, y = data(64, 10, "float32", "cross_entropy")
    for units, batch, n_steps, small in (
        (64, 1, 4, True),
        (64, 32, 4, True),
        (64, 512, 4, False),
        (2048, 1, 4, False),
        (64, 1, 3, False),
    ):
        program, _ = make((fn.Dense(units), fn.Dense(10)), 64, "float32", "cross_entropy", OPTIMIZERS["sgd"])
        program.run(x, y, np.zeros((n_steps, batch), np.int64), np.full(n_steps, 0.1))
        assert program.small == small
