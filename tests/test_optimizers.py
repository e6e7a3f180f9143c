"""Optimizers and what they share: against the array program, themselves in other circumstances, by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import fastnn as fn
from fastnn import descriptions, devices, kernels, optimizers
from fastnn.layers import lower
from fastnn.steps import n_parameters, places

LAYERS = (fn.Dense(17, activation="tanh"), fn.Dense(9, activation="tanh", bias=False), fn.Dense(4))
OPTIMIZERS = [
    fn.SGD(0.1),
    fn.SGD(0.1, momentum=0.9, dampening=0.3, weight_decay=0.01),
    fn.RMSprop(),
    fn.RMSprop(momentum=0.5),
    fn.RMSprop(centered=True, weight_decay=0.01),
    fn.RMSprop(lr=1e-3, alpha=0.9, momentum=0.5, centered=True),
    fn.Adagrad(),
    fn.Adagrad(0.05, lr_decay=0.1, weight_decay=0.01, initial_accumulator_value=0.2),
    fn.Adadelta(),
    fn.Adadelta(0.5, rho=0.8, eps=1e-4, weight_decay=0.01),
    fn.Adam(0.01, amsgrad=True, weight_decay=0.1),
    fn.AdamW(0.01),
    fn.AdamW(0.01, weight_decay=0.1, amsgrad=True),
    fn.Adamax(),
    fn.Adamax(0.01, betas=(0.8, 0.9), weight_decay=0.1),
    fn.NAdam(),
    fn.NAdam(0.01, momentum_decay=0.1, weight_decay=0.1),
    fn.NAdam(0.01, weight_decay=0.1, decoupled_weight_decay=True),
    fn.RAdam(),
    fn.RAdam(0.01, betas=(0.8, 0.9), weight_decay=0.1),
    fn.RAdam(0.01, weight_decay=0.1, decoupled_weight_decay=True),
    fn.Lion(),
    fn.Lion(1e-3, betas=(0.8, 0.95), weight_decay=0.1),
]
# What every optimizer has, on one that is folded into the products without it.
SHARED: list[dict[str, Any]] = [
    {"l1": 0.01},
    {"clip_value": 0.01},
    {"clip_norm": 0.1},
    {"clip_norm": 0.1, "clip_value": 0.02, "l1": 0.01},
    {"max_norm": 0.9},
    {"accumulate": 3},
    {"accumulate": 2, "clip_norm": 0.1, "ema": 0.9},
    {"ema": 0.9, "max_norm": 0.9},
    {"groups": (fn.Group(layers=0, lr_factor=0.1), fn.Group(weights="*.bias", weight_decay=0.0, l1=0.1))},
    {"groups": (fn.Group(layers=(0, 1), frozen=True),), "clip_norm": 0.1},
    {"groups": (fn.Group(weights="1.weight", frozen=True), fn.Group(layers=2, max_norm=0.5))},
]
BASES = [fn.SGD(0.1, momentum=0.9, weight_decay=0.01), fn.AdamW(0.01), fn.Lion(0.01, weight_decay=0.1)]
ALL = OPTIMIZERS + [replace(base, **shared) for base in BASES for shared in SHARED]
CLOSE = {"float32": {"rtol": 2e-4, "atol": 1e-5}, "float64": {"rtol": 1e-10, "atol": 1e-12}}


def problem(dtype: str, layers: Any = LAYERS, n_steps: int = 50) -> Any:
    rng = np.random.default_rng(1)
    steps = lower(layers, 6)
    parameters = (0.5 * rng.standard_normal(n_parameters(steps))).astype(dtype)
    x, y = rng.standard_normal((100, 6)).astype(dtype), rng.integers(0, 4, 100)
    return steps, parameters, x, y, rng.integers(0, 100, (n_steps, 16)), rng.random(100) + 0.1


def trained(
    optimizer: Any, dtype: str = "float32", device: str = "cpu", n_steps: int = 50, **given: Any
) -> Any:
    """Parameters and state after some steps with a rate that changes."""
    steps, parameters, x, y, order, weight = problem(dtype, n_steps=n_steps, **given)
    program = devices.make(device, steps, parameters, loss="cross_entropy", optimizer=optimizer)
    rates = optimizer.lr * np.linspace(1, 0.5, n_steps)
    for part in (slice(0, 20), slice(20, None)):
        program.run(x, y, order[part].copy(), rates[part].copy(), weight)
    return parameters, program.state.copy(), program.numbers.copy()


# Lion's sign of next to nothing turns a rounding of float32 into a step.
COMPARED = [("float64", optimizer) for optimizer in ALL]
COMPARED += [("float32", optimizer) for optimizer in ALL if optimizer.name != "lion"]


@pytest.mark.parametrize(("dtype", "optimizer"), COMPARED, ids=map(repr, COMPARED))
def test_training_equals_the_array_program(optimizer: Any, dtype: str) -> None:
    n_steps = 50 if dtype == "float64" else 8  # what divides by a small root doubles a rounding at each step
    got, expected = (trained(optimizer, dtype, device, n_steps) for device in ("cpu", "numpy"))
    for mine, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, **CLOSE[dtype])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_do_not_depend_on_threads_or_instruction_set(threads: Any, request: Any, dtype: str) -> None:
    before = kernels.isa()
    request.addfinalizer(lambda: kernels.set_isa(before))
    layers = (fn.Dense(60, activation="tanh"), fn.Dense(70, activation="tanh"), fn.Dense(4))
    for optimizer in ALL:
        found = set()
        for name in kernels.isa_available():
            kernels.set_isa(name)
            # The plain instructions take twenty times as long, and threads split the work alike.
            for n_threads in (1, 4) if name == "generic" else (1, 2, 3, 4):
                threads(n_threads)
                parts = trained(optimizer, dtype, n_steps=22, layers=layers)
                found.add(b"".join(np.ascontiguousarray(part).tobytes() for part in parts))
        assert len(found) == 1, optimizer


@pytest.mark.parametrize("optimizer", OPTIMIZERS + BASES, ids=repr)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_update_folded_into_the_product_has_the_bits_of_one_by_itself(
    isa: str, optimizer: Any, dtype: str
) -> None:
    for shared in ({}, {"l1": 0.01, "clip_value": 0.02}, {"groups": (fn.Group(layers=1, lr_factor=0.3),)}):
        folded = replace(optimizer, **shared)
        got = trained(folded, dtype)
        expected = trained(replace(folded, clip_norm=1e30), dtype)
        for mine, theirs in zip(got, expected, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_accumulated_batches_are_one_large_one() -> None:
    for weighted in (False, True):
        steps, parameters, x, y, order, weight = problem("float64")
        many, one = parameters.copy(), parameters.copy()
        program = devices.make(
            "cpu", steps, many, loss="cross_entropy", optimizer=fn.SGD(0.1, momentum=0.5, accumulate=3)
        )
        other = devices.make("cpu", steps, one, loss="cross_entropy", optimizer=fn.SGD(0.1, momentum=0.5))
        given = weight if weighted else None
        for rows in order[:4]:
            # three batches of 6, 6 and 4 rows: the ragged one counts by its rows
            for part in (rows[:6], rows[6:12], rows[12:]):
                before = many.copy()
                program.run(x, y, part[None].copy(), np.array([0.1]), given)
            assert not np.array_equal(before, many)
            other.run(x, y, rows[None].copy(), np.array([0.1]), given)
            np.testing.assert_allclose(many, one, rtol=1e-12)
        before = many.copy()
        program.run(x, y, order[:2], np.full(2, 0.1), given)
        np.testing.assert_array_equal(before, many)


def test_frozen_weights_and_their_state_stay() -> None:
    optimizer = fn.Adam(0.1, weight_decay=0.1, l1=0.1, groups=(fn.Group(layers=(0, 1), frozen=True),))
    for more in ({}, {"clip_norm": 1.0}, {"max_norm": 0.1}, {"accumulate": 2}):
        steps, start, *_ = problem("float32")
        parameters, state, _ = trained(replace(optimizer, **more))
        frozen = steps[2].weight
        np.testing.assert_array_equal(parameters[:frozen], start[:frozen])
        assert not state[:, :frozen].any()
        assert (parameters[frozen:] != start[frozen:]).all()
    everything = replace(optimizer, groups=(fn.Group(frozen=True),))
    np.testing.assert_array_equal(trained(everything)[0], start)


def test_the_gradient_of_frozen_weights_is_still_told() -> None:
    steps, parameters, x, y, *_ = problem("float64")
    found = [
        devices.make(
            "cpu", steps, parameters, loss="cross_entropy", optimizer=fn.SGD(groups=groups)
        ).gradient(x, y)
        for groups in ((), (fn.Group(layers=(0, 1), frozen=True),))
    ]
    np.testing.assert_array_equal(found[0][1], found[1][1])


def test_max_norm_limits_the_weights_into_each_unit() -> None:
    steps, *_ = problem("float32")
    parameters, *_ = trained(fn.SGD(0.5, max_norm=0.7))
    lengths = []
    for name, (offset, shape) in places(steps).items():
        if name.endswith(".weight"):
            w = parameters[offset : offset + np.prod(shape)].reshape(shape)
            lengths.append(np.linalg.norm(w, axis=0))
    assert all((length <= 0.7 * (1 + 1e-6)).all() for length in lengths)
    assert any((length > 0.69).any() for length in lengths)


def test_columns_are_limited_to_their_length(isa: str) -> None:
    for dtype in ("float32", "float64"):
        for shape in [(1, 1), (7, 17), (33, 5), (2, 40), (0, 3)]:
            w = np.random.default_rng(0).standard_normal(shape).astype(dtype)
            expected = w * np.minimum(1, 0.9 / np.maximum(np.linalg.norm(w, axis=0), 1e-30))
            kernels.limit_columns(w, 0.9)
            np.testing.assert_allclose(w, expected, rtol=1e-5 if dtype == "float32" else 1e-14)
    w = np.array([[np.nan, 0.0], [1.0, 0.0]])
    kernels.limit_columns(w, 0.5)
    assert np.isnan(w[:, 0]).all()
    assert not w[:, 1].any()


def test_dot_has_one_shape_and_does_not_overflow(isa: str) -> None:
    rng = np.random.default_rng(0)
    for n in (0, 1, 7, 17, 2047, 2048, 2049, 5000):
        a, b = rng.standard_normal((2, n))
        whole = kernels.dot(a, b)
        assert whole == pytest.approx(float(a @ b), rel=1e-12, abs=1e-12)
        parts = 0.0
        for first in range(0, n, 2048):
            parts += kernels.dot(a[first : first + 2048], b[first : first + 2048])
        assert parts == whole
    assert kernels.dot(np.full(3, 1e30, np.float32), np.full(3, 1e30, np.float32)) == pytest.approx(3e60)


def test_a_clipped_gradient_keeps_nan() -> None:
    for optimizer in (fn.SGD(0.1, clip_value=1.0), fn.Lion(0.1), fn.Adam(amsgrad=True), fn.Adamax()):
        w, g = np.ones(20), np.zeros(20)
        g[3] = np.nan
        kernels.update(optimizer, w, g, [np.zeros(20) for _ in range(optimizer.n_states)], 1, 0.1)
        assert np.isnan(w[3])
        assert np.isfinite(np.delete(w, 3)).all()


# ---------------------------------------------------------------- descriptions


@pytest.mark.parametrize("optimizer", ALL, ids=repr)
def test_descriptions_come_back_from_json(optimizer: Any) -> None:
    text = descriptions.to_json(optimizer)
    assert descriptions.from_json("it", text, descriptions.OPTIMIZERS) == optimizer


def test_a_group_is_no_optimizer() -> None:
    with pytest.raises(fn.FormatError, match="class of it must be one of SGD"):
        descriptions.from_json("it", descriptions.to_json(fn.Group()), descriptions.OPTIMIZERS)


def test_names_stand_for_defaults() -> None:
    assert {optimizers.get(name).name for name in kernels.OPTIMIZERS} == set(kernels.OPTIMIZERS)
    for name, most in kernels.OPTIMIZERS.items():
        assert optimizers.get(name).n_states <= most


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: fn.SGD(clip_norm=0.0), ValueError, "clip_norm must be above 0, got 0.0"),
        (lambda: fn.SGD(clip_value=-1), ValueError, "clip_value must be at least 0"),
        (lambda: fn.SGD(accumulate=0), ValueError, "accumulate must be from 1"),
        (lambda: fn.SGD(accumulate=1.5), TypeError, "accumulate must be an integer"),
        (lambda: fn.Adam(ema=1.0), ValueError, "ema must be at least 0 and below 1"),
        (lambda: fn.Adam(groups="0"), TypeError, "groups must be a tuple of fastnn.Group"),
        (lambda: fn.Adam(amsgrad=1), TypeError, "amsgrad must be True or False"),
        (lambda: fn.SGD(0.1, 0.9, True, dampening=0.1), ValueError, "nesterov=True needs dampening 0"),
        (lambda: fn.RMSprop(alpha=1.0), ValueError, "alpha must be at least 0 and below 1"),
        (lambda: fn.NAdam(betas=(0.9,)), TypeError, "betas must be two numbers"),
        (lambda: fn.Group(layers="0"), TypeError, "layers must be an integer"),
        (lambda: fn.Group(weights=3), TypeError, "weights must be a name or names"),
        (lambda: fn.Group(lr_factor=-1.0), ValueError, "lr_factor must be at least 0"),
        (
            lambda: trained(fn.SGD(0.1, groups=(fn.Group(layers=7),))),
            ValueError,
            "groups must each hold a weight",
        ),
        (lambda: fn.SGD(l1=1e39).judge_dtype(np.dtype("float32")), ValueError, "l1 must be at most"),
    ],
)
def test_bad_values_are_named(make: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        make()
