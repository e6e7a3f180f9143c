"""The array program, which all compiled results are compared with: judged by hand and by differences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from loss_targets import OF_THREE_OUTPUTS, targets_of
from numpy.typing import NDArray

import fastnn as fn
from fastnn import kernels
from fastnn.devices import array_optimizers
from fastnn.devices.array_activations import ACTIVATIONS
from fastnn.devices.array_losses import LOSSES
from fastnn.devices.array_random import dropout_mask, philox
from fastnn.devices.arrays import ArrayProgram
from fastnn.layers import lower, n_parameters

Array = NDArray[Any]


def make(
    *layers: Any, n_in: int, loss: str = "mse", optimizer: Any = None, dtype: str = "float64", seed: int = 0
) -> Any:
    steps = lower(layers, n_in)
    parameters = np.random.default_rng(1).normal(size=n_parameters(steps)).astype(dtype)
    return ArrayProgram(steps, parameters, loss=loss, optimizer=optimizer or fn.SGD(lr=0.1), seed=seed)


def targets(loss: str, rng: np.random.Generator, n: int, n_out: int) -> Array:
    found: Array = targets_of(loss, rng, n, n_out)
    return found


def test_the_lists_are_those_of_the_kernels() -> None:
    assert set(ACTIVATIONS) == set(kernels.ACTIVATIONS)
    assert set(LOSSES) == set(kernels.LOSSES)
    assert set(array_optimizers.OPTIMIZERS) == set(kernels.OPTIMIZERS)


# ---------------------------------------------------------------- worked by hand

LN2, LN3 = math.log(2), math.log(3)


@pytest.mark.parametrize(
    ("name", "z", "a"),
    [
        ("identity", [-1, 0, 2], [-1, 0, 2]),
        ("relu", [-1, 0, 2], [0, 0, 2]),
        ("leaky_relu", [-2, 0, 2], [-0.02, 0, 2]),
        ("sigmoid", [0, LN3, -LN3, 800, -800], [0.5, 0.75, 0.25, 1, 0]),
        ("tanh", [0, LN2, -LN2, 400], [0, 0.6, -0.6, 1]),
        ("softmax", [0, LN2, LN3 + LN2], [1 / 9, 2 / 9, 6 / 9]),
        ("softmax", [1000, 1000, -1000], [0.5, 0.5, 0]),
    ],
)
def test_activations_of_known_points(name: str, z: Any, a: Any) -> None:
    found = np.array([z], dtype=float)
    ACTIVATIONS[name][0](np, found)
    np.testing.assert_allclose(found, [a], rtol=1e-15, atol=1e-300)


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_nan_stays_nan(name: str) -> None:
    z = np.array([[1.0, np.nan, -1.0]])
    ACTIVATIONS[name][0](np, z)
    assert np.isnan(z[0, 1])


@pytest.mark.parametrize(
    ("name", "z", "y", "loss", "dz"),
    [
        ("cross_entropy", [[0, LN3]], [1], [math.log(4 / 3)], [[0.25, -0.25]]),
        ("cross_entropy", [[1000, 0]], [1], [1000], [[1, -1]]),
        ("binary_cross_entropy", [[LN3]], [[1]], [math.log(4 / 3)], [[-0.25]]),
        ("binary_cross_entropy", [[-800, 800]], [[1, 1]], [400], [[-0.5, 0]]),
        ("mse", [[1, 3]], [[0, 1]], [2.5], [[1, 2]]),
    ],
)
def test_losses_of_known_points(name: str, z: Any, y: Any, loss: Any, dz: Any) -> None:
    found = np.empty((1, len(z[0])))
    rows = LOSSES[name](np, np.array(z, dtype=float), np.array(y), found)
    np.testing.assert_allclose(rows, loss, rtol=1e-15)
    np.testing.assert_allclose(found, dz, rtol=1e-15, atol=1e-300)


def step(o: Any, w: Any, g: Any, state: Any, lr: float, t: int) -> None:
    """One step of an optimizer on all of w."""
    rule = fn.optimizers.Rule(0, w.size, 0, 1.0, o.weight_decay, o.l1, 0.0, False)
    array_optimizers.update(np, o, [rule], w, g.copy(), state, lr, t)


def test_sgd_steps_worked_by_hand() -> None:
    w, g, v = np.array([1.0]), np.array([0.5]), np.zeros((1, 1))
    o = fn.SGD(momentum=0.5, weight_decay=0.1)
    step(o, w, g, v, 0.1, 1)  # g' = 0.6, v = 0.6
    assert w[0] == pytest.approx(0.94, rel=1e-15)
    step(o, w, g, v, 0.1, 2)  # g' = 0.594, v = 0.894
    assert w[0] == pytest.approx(0.94 - 0.0894, rel=1e-15)
    w, v = np.array([1.0]), np.zeros((1, 1))
    step(fn.SGD(momentum=0.5, nesterov=True), w, g, v, 0.1, 1)  # 0.5 + 0.5 * 0.5
    assert w[0] == pytest.approx(0.925, rel=1e-15)


def test_the_first_adam_step_is_lr_in_the_direction_of_the_sign() -> None:
    w, state = np.array([1.0, 1.0]), np.zeros((2, 2))
    step(fn.Adam(eps=0.0), w, np.array([1e-3, -7.0]), state, 0.01, 1)
    np.testing.assert_allclose(w, [0.99, 1.01], rtol=1e-14)
    # second step, g = (0, 7): m = 0.9 * 0.1 g1 + 0.1 g2, corrected by 0.19; v likewise by 1 - 0.999^2
    m = np.array([0.09e-3, 0.09 * -7 + 0.7]) / 0.19
    v = np.array([0.999e-3 * 1e-6, 0.999e-3 * 49 + 1e-3 * 49]) / (1 - 0.999**2)
    expected = w - 0.01 * m / np.sqrt(v)
    step(fn.Adam(eps=0.0), w, np.array([0.0, 7.0]), state, 0.01, 2)
    np.testing.assert_allclose(w, expected, rtol=1e-13)


# ---------------------------------------------------------------- random numbers


@pytest.mark.parametrize(
    ("counter", "seed", "words"),
    [
        # known answers of Random123, the library of the paper's authors
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((2**32 - 1,) * 4, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers(counter: Any, seed: int, words: Any) -> None:
    assert tuple(int(word[0]) for word in philox(np, counter, seed)) == words
    assert kernels.philox(counter, (seed & 0xFFFFFFFF, seed >> 32)) == words


def test_a_dropout_mask_is_a_function_of_seed_step_layer_row_and_column() -> None:
    def mask(
        *shape: int, seed: int = 5, step: int = 9, layer: int = 2, rate: float = 0.3, first: int = 0
    ) -> Array:
        found = np.empty(shape)
        dropout_mask(np, seed, step, layer, rate, found, first)
        return found

    whole = mask(40, 13)
    assert set(np.unique(whole)) == {0.0, 1 / 0.7}
    np.testing.assert_array_equal(mask(40, 7), whole[:, :7])
    np.testing.assert_array_equal(mask(10, 13, first=30), whole[30:])
    for other in (
        mask(40, 13, seed=6),
        mask(40, 13, step=10),
        mask(40, 13, layer=3),
        mask(40, 13, seed=5 + 2**32),
    ):
        assert not np.array_equal(other, whole)
    assert not np.array_equal(mask(40, 13, step=9 + 2**32), whole)
    assert (mask(3, 5, rate=0.0) == 1).all()
    # 200,000 draws: the standard error of the share is 0.001
    assert (mask(200, 1000) == 0).mean() == pytest.approx(0.3, abs=0.005)


# ---------------------------------------------------------------- gradients


def central_differences(program: Any, parameters: Array, x: Array, y: Array, weight: Any, step: Any) -> Array:
    """(f(p + h) - f(p - h)) / 2h for each parameter."""
    h = 1e-6
    found = np.empty_like(parameters)
    for i, value in enumerate(parameters.copy()):
        sides = []
        for moved in (value + h, value - h):
            parameters[i] = moved
            sides.append(program.gradient(x, y, weight, step)[0])
        parameters[i] = value
        found[i] = (sides[0] - sides[1]) / (2 * h)
    return found


# Every activation with one loss, every loss with one activation.
PAIRS = [(f, OF_THREE_OUTPUTS[i % len(OF_THREE_OUTPUTS)]) for i, f in enumerate(ACTIVATIONS)]
PAIRS += [("tanh", loss) for loss in OF_THREE_OUTPUTS if ("tanh", loss) not in PAIRS]


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "sample_weight"])
@pytest.mark.parametrize("dropout", [False, True], ids=["plain", "dropout"])
@pytest.mark.parametrize(("activation", "loss"), PAIRS)
def test_gradients_agree_with_central_differences(
    activation: str, loss: str, dropout: bool, weighted: bool
) -> None:
    rng = np.random.default_rng(2)
    layers = (
        fn.Dropout(0.2),
        fn.Dense(5, activation),
        fn.Activation(activation),
        fn.Dropout(0.4),
        fn.Dense(4, bias=False),
        fn.Activation("tanh"),
        fn.Dense(3, activation),
    )
    steps = lower(layers, 4)
    parameters = rng.normal(size=n_parameters(steps))
    program = ArrayProgram(steps, parameters, loss=loss, seed=11)
    x, y = rng.normal(size=(6, 4)), targets(loss, rng, 6, 3)
    weight = rng.random(6) * (np.arange(6) != 2) if weighted else None
    step = 4 if dropout else None
    _, gradient = program.gradient(x, y, weight, step)
    # relu's corner lies between the two sides for no parameter of these draws: an error would be 1e-1
    expected = central_differences(program, parameters, x, y, weight, step)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-8)
    assert program.step == 0


# ---------------------------------------------------------------- runs and invariants


def test_one_step_is_the_gradient_times_the_rate() -> None:
    rng = np.random.default_rng(0)
    program = make(fn.Dense(3, "tanh"), fn.Dense(2), n_in=4)
    x, y = rng.normal(size=(5, 4)), rng.normal(size=(5, 2))
    before = program._parameters.copy()
    loss, gradient = program.gradient(x, y)
    assert program.run(x, y, np.arange(5)[None], np.array([0.1])) == pytest.approx((5 * loss, 5))
    np.testing.assert_allclose(program._parameters, before - 0.1 * gradient, rtol=1e-14)
    assert program.step == 1


def test_steps_in_one_call_are_steps_in_many() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 4)), rng.integers(3, size=12)
    order, rates = rng.permutation(12).reshape(4, 3), np.array([0.1, 0.2, 0.05, 0.1])
    results = []
    for parts in ([4], [1, 3], [2, 2]):
        program = make(
            fn.Dense(5, "relu"),
            fn.Dropout(0.5),
            fn.Dense(3),
            n_in=4,
            loss="cross_entropy",
            optimizer=fn.Adam(),
        )
        first = 0
        for n in parts:
            program.run(x, y, order[first : first + n], rates[first : first + n])
            first += n
        results.append(program._parameters)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_a_weight_of_two_is_the_row_twice() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3, 4)), rng.integers(2, size=3)
    program = make(fn.Dense(2), n_in=4, loss="cross_entropy")
    loss, gradient = program.gradient(x, y, np.array([1.0, 2.0, 0.0]))
    twice = program.gradient(x[[0, 1, 1]], y[[0, 1, 1]])
    assert loss == pytest.approx(twice[0], rel=1e-14)
    np.testing.assert_allclose(gradient, twice[1], rtol=1e-13, atol=1e-15)
    assert program.loss(x, y, np.array([1.0, 2.0, 0.0])) == pytest.approx(loss, rel=1e-14)


def test_a_batch_without_weight_is_a_step_without_gradient() -> None:
    program = make(fn.Dense(1), n_in=2, optimizer=fn.SGD(lr=0.1))
    before = program._parameters.copy()
    x, y = np.ones((2, 2)), np.zeros((2, 1))
    assert program.run(x, y, np.array([[0]]), np.array([0.1]), np.array([0.0, 1.0])) == (0.0, 0.0)
    np.testing.assert_array_equal(program._parameters, before)
    assert program.step == 1


def test_a_shift_of_all_logits_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    z, y, dz, shifted = rng.normal(size=(5, 4)), rng.integers(4, size=5), np.empty((5, 4)), np.empty((5, 4))
    rows = LOSSES["cross_entropy"](np, z, y, dz)
    np.testing.assert_allclose(LOSSES["cross_entropy"](np, z + 100, y, shifted), rows, rtol=1e-12)
    np.testing.assert_allclose(shifted, dz, rtol=1e-12)


def test_a_loss_that_is_not_finite_is_seen_before_the_update() -> None:
    program = make(fn.Dense(2, "relu"), fn.Dense(1), n_in=2, optimizer=fn.Adam())
    x, y = np.ones((4, 2)), np.zeros((4, 1))
    x[2, 0] = np.nan
    order, rates = np.arange(4).reshape(4, 1), np.full(4, 0.1)
    reference = make(fn.Dense(2, "relu"), fn.Dense(1), n_in=2, optimizer=fn.Adam())
    sums = reference.run(x, y, order[:2], rates[:2])
    with pytest.raises(fn.DivergenceError) as caught:
        program.run(x, y, order, rates)
    error = caught.value
    assert (error.step_in_call, error.layer, error.loss_sum, error.weight_sum) == (2, -1, *sums)
    np.testing.assert_array_equal(program._parameters, reference._parameters)
    np.testing.assert_array_equal(program.state, reference.state)
    assert program.step == 2


def test_the_first_layer_that_overflows_is_named() -> None:
    program = make(fn.Dense(2), fn.Dense(1), n_in=2, dtype="float32")
    program._parameters[:] = 1e30
    x, y = np.ones((1, 2), np.float32), np.zeros((1, 1), np.float32)
    with pytest.raises(fn.DivergenceError) as caught:
        program.run(x, y, np.array([[0]]), np.array([0.1]))
    assert caught.value.layer == 1
    program._parameters[:] = [0] * 6 + [0, 0, 1e30]  # outputs are finite, their squares are not
    with pytest.raises(fn.DivergenceError) as caught:
        program.gradient(x, y)
    assert caught.value.layer is None


def test_float32_stays_float32() -> None:
    program = make(
        fn.Dense(2, "sigmoid"),
        fn.Dropout(0.5),
        fn.Dense(3),
        n_in=2,
        loss="cross_entropy",
        optimizer=fn.Adam(),
        dtype="float32",
    )
    x, y = np.ones((4, 2), np.float32), np.array([0, 1, 2, 0])
    program.run(x, y, np.arange(4).reshape(2, 2), np.full(2, 0.1), np.array([1.0, 0.5, 2.0, 1.0]))
    assert program.gradient(x, y)[1].dtype == np.float32
    space = next(iter(program._spaces.values()), None) or program._space(2)
    assert {a.dtype.name for a in [*space.outputs, space.dz]} == {"float32"}
    assert program.state.dtype == np.float32


def test_predict_takes_many_rows_in_blocks() -> None:
    program = make(fn.Dense(3, "tanh"), fn.Dropout(0.5), fn.Dense(2), n_in=4)
    x = np.random.default_rng(0).normal(size=(2500, 4))
    out = np.empty((2500, 2))
    assert program.predict(x, out) is out
    w, b = program._views[0]
    w2, b2 = program._views[2]
    np.testing.assert_allclose(out, np.tanh(x @ w + b) @ w2 + b2, rtol=1e-12, atol=1e-14)
