"""The kernels as functions of arrays: values, shapes, dtypes, strict out=, awkward memory."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from loss_targets import targets_of
from numpy.typing import NDArray

import fastnn as fn
from fastnn import kernels, losses, ops
from fastnn.devices import array_activations, array_losses, array_optimizers, array_random

Array = NDArray[Any]
DTYPES = ["float32", "float64"]
SIZES = [0, 1, 7, 17, 33, 100]
# Sums of up to 100 products of numbers near 1, in another order; functions within 2 ULP.
TOLERANCE = {"float32": 2e-5, "float64": 1e-13}


def close(found: Array, expected: Any, dtype: str) -> None:
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def random(*shape: int, dtype: str = "float64", seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def reference(name: str, z: Array) -> Array:
    a = np.atleast_2d(np.array(z, dtype=float))
    array_activations.ACTIVATIONS[name][0](np, a)
    return a.reshape(z.shape)


def test_every_activation_has_its_two_functions() -> None:
    assert set(ops.ACTIVATIONS) == set(kernels.ACTIVATIONS)
    for name, (f, backward) in ops.ACTIVATIONS.items():
        assert (f.__name__, backward.__name__) == (name, f"{name}_backward")
        assert {name, f"{name}_backward"} <= set(ops.__all__)


# ---------------------------------------------------------------- products


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("m", "n", "k"), [*itertools.product([0, 1, 7, 33], [1, 17, 33], [0, 1, 17]), (65, 31, 100)]
)
def test_matmul_and_linear_of_awkward_sizes(m: int, n: int, k: int, dtype: str) -> None:
    a, b, bias = random(m, k, dtype=dtype), random(k, n, dtype=dtype, seed=1), random(n, dtype=dtype, seed=2)
    exact = a.astype(float) @ b.astype(float)
    close(ops.matmul(a, b), exact, dtype)
    close(ops.linear(a, b, bias), exact + bias, dtype)
    for name in kernels.ACTIVATIONS:
        close(ops.linear(a, b, bias, activation=name), reference(name, exact + bias) if m else exact, dtype)
    assert ops.matmul(a, np.zeros((k, 0), dtype)).shape == (m, 0)


def test_linear_worked_by_hand() -> None:
    x, w = [[1.0, 2.0]], [[1.0, -1.0], [2.0, -3.0]]
    assert ops.linear(x, w).tolist() == [[5.0, -7.0]]
    assert ops.linear(x, w, [1.0, 1.0], activation="relu").tolist() == [[6.0, 0.0]]
    dx, dw, db = ops.linear_backward([[1.0, 10.0]], x, w)
    assert dx is not None
    assert dx.tolist() == [[-9.0, -28.0]]
    assert dw.tolist() == [[1.0, 10.0], [2.0, 20.0]]
    assert db.tolist() == [1.0, 10.0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("m", "n_in", "n_out"), [(0, 3, 2), (1, 1, 1), (7, 17, 33), (33, 100, 10), (5, 0, 3), (5, 3, 0)]
)
def test_linear_backward(m: int, n_in: int, n_out: int, dtype: str) -> None:
    dz, x, w = random(m, n_out, dtype=dtype), random(m, n_in, dtype=dtype), random(n_in, n_out, dtype=dtype)
    dx, dw, db = ops.linear_backward(dz, x, w)
    assert dx is not None
    close(dx, dz.astype(float) @ w.T.astype(float), dtype)
    close(dw, x.T.astype(float) @ dz.astype(float), dtype)
    close(db, dz.astype(float).sum(axis=0), dtype)
    assert ops.linear_backward(dz, x, w, need_dx=False)[0] is None


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_memory_gives_the_same_bits(dtype: str) -> None:
    x, w, b = random(9, 20, dtype=dtype), random(20, 11, dtype=dtype), random(11, dtype=dtype)
    expected = ops.linear(x, w, b, activation="tanh")

    def variants(a: Array) -> list[Array]:
        frozen = a.copy()
        frozen.flags.writeable = False
        double = np.zeros(tuple(2 * n for n in a.shape), dtype)
        strided = double[tuple(slice(None, None, 2) for _ in a.shape)]
        strided[...] = a
        backwards = a[::-1].copy()[::-1]
        return [frozen, np.asfortranarray(a), strided, backwards, a.astype(a.dtype.newbyteorder())]

    for x_, w_, b_ in zip(variants(x), variants(w), variants(b), strict=True):
        np.testing.assert_array_equal(ops.linear(x_, w_, b_, activation="tanh"), expected)
        np.testing.assert_array_equal(ops.linear(x_, w, b, activation="tanh"), expected)
        np.testing.assert_array_equal(ops.relu(x_), np.maximum(x, 0))
        np.testing.assert_array_equal(ops.softmax(x_), ops.softmax(x))
        for mine, theirs in zip(
            ops.linear_backward(x_ @ w_, x_, w_), ops.linear_backward(x @ w, x, w), strict=True
        ):
            assert mine is not None
            assert theirs is not None
            close(mine, theirs, dtype)


# ---------------------------------------------------------------- functions of elements and rows


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", list(kernels.ACTIVATIONS))
def test_activations_of_any_shape(name: str, dtype: str) -> None:
    f, backward = ops.ACTIVATIONS[name]
    for shape in [(), (0,), (5,), (3, 0), (3, 7), (2, 3, 17), (2, 0, 3), (2, 2, 2, 5)]:
        if shape == () and kernels.ACTIVATIONS[name] == "rowwise":
            with pytest.raises(ValueError, match="at least one dimension"):
                f(np.zeros(shape, dtype))
            continue
        z, da = random(*shape, dtype=dtype), random(*shape, dtype=dtype, seed=1)
        a, dz = f(z), backward(da, z)
        assert a.shape == dz.shape == shape
        rows = np.array(z, dtype=float).reshape(-1, shape[-1] if shape else 1) if z.size else np.zeros((0, 1))
        gradient = np.array(da, dtype=float).reshape(rows.shape)
        if z.size:
            array_activations.with_gradient(np, name, rows, gradient)
        close(a, rows.reshape(shape), dtype)
        close(dz, gradient.reshape(shape), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", list(kernels.ACTIVATIONS))
def test_nan_stays_nan_and_its_neighbours_stay_as_they_are(name: str, dtype: str) -> None:
    z = random(3, 19, dtype=dtype)
    z[1, 4] = np.nan
    a = ops.ACTIVATIONS[name][0](z)
    assert np.isnan(a[1, 4])
    assert np.isfinite(a[[0, 2]]).all()
    assert np.isnan(a).sum() == (19 if kernels.ACTIVATIONS[name] == "rowwise" else 1)


def test_derivatives_at_the_corner_are_those_of_pytorch() -> None:
    z = np.array([0.0, -0.0])
    assert ops.relu_backward(np.ones(2), z).tolist() == [0.0, 0.0]
    assert ops.leaky_relu_backward(np.ones(2), z).tolist() == [0.01, 0.01]


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_softmax_keeps_what_softmax_loses(dtype: str) -> None:
    found = ops.log_softmax(np.array([[0.0, 1000.0], [0.0, math.log(3)]], dtype))
    close(found, [[-1000, 0], [math.log(0.25), math.log(0.75)]], dtype)
    close(np.exp(ops.log_softmax(random(5, 33, dtype=dtype))).sum(axis=-1), np.ones(5), dtype)
    assert ops.log_softmax(random(2, 3, 4)).shape == (2, 3, 4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_and_log(dtype: str) -> None:
    x = np.array([0.0, 1.0, -1.0, np.inf, -np.inf, np.nan], dtype)
    np.testing.assert_allclose(ops.exp(x), [1, math.e, 1 / math.e, np.inf, 0, np.nan], rtol=TOLERANCE[dtype])
    y = np.array([1.0, math.e, 0.0, np.inf, -1.0, np.nan], dtype)
    np.testing.assert_allclose(ops.log(y), [0, 1, -np.inf, np.inf, np.nan, np.nan], atol=TOLERANCE[dtype])
    wide = np.zeros((4, 9), dtype)[:, 2:7]
    assert ops.exp(wide, out=wide) is wide
    assert (wide == 1).all()


def test_float32_stays_and_everything_else_is_float64() -> None:
    assert ops.relu(np.float32([1])).dtype == np.float32
    for z in ([1.0], [1], np.arange(3), np.float16([1]), np.array([True]), 1.5):
        assert ops.relu(z).dtype == np.float64
    assert ops.matmul(random(2, 2, dtype="float32"), random(2, 2)).dtype == np.float64
    for wrong in (np.array(["a"]), np.array([1j]), np.array([None])):
        with pytest.raises(TypeError, match="z must hold real numbers"):
            ops.relu(wrong)


# ---------------------------------------------------------------- out=


def test_out_is_filled_and_returned() -> None:
    x, w = random(3, 4), random(4, 5)
    out = np.full((3, 8), 9.0)
    part = out[:, 1:6]
    assert ops.linear(x, w, out=part) is part
    np.testing.assert_array_equal(part, ops.linear(x, w))
    assert (out[:, [0, 6, 7]] == 9).all()
    for f in (ops.relu, ops.tanh, ops.softmax, ops.log_softmax):
        z = x.copy()
        assert f(z, out=z) is z
        np.testing.assert_array_equal(z, f(x))
    da = random(3, 4, seed=1)
    for backward in (ops.relu_backward, ops.softmax_backward):
        for aliased in (da.copy(), x.copy()):
            expected = backward(da, x)
            given = (aliased, x) if aliased[0, 0] == da[0, 0] else (da, aliased)
            np.testing.assert_array_equal(backward(*given, out=aliased), expected)


def read_only(shape: tuple[int, ...]) -> Array:
    out = np.zeros(shape)
    out.flags.writeable = False
    return out


@pytest.mark.parametrize(
    ("out", "error", "text"),
    [
        (np.zeros((3, 4)), ValueError, r"out must have shape \(3, 5\), got \(3, 4\)"),
        (np.zeros((1, 3, 5)), ValueError, "out must have shape"),
        (np.zeros((3, 5), np.float32), TypeError, "out must have dtype float64, got <f4"),
        (np.zeros((3, 5), ">f8"), TypeError, "out must have dtype float64, got >f8"),
        (read_only((3, 5)), ValueError, "out must be writable"),
        (
            np.asfortranarray(np.zeros((3, 5))),
            ValueError,
            "out must be C-contiguous, or 2-D with contiguous rows",
        ),
        (np.zeros((3, 10))[:, ::2], ValueError, "contiguous rows"),
        (np.zeros((3, 5))[::-1], ValueError, "contiguous rows"),
        ([[0.0] * 5] * 3, TypeError, "out must be a NumPy array, got list"),
    ],
)
def test_wrong_outputs_are_named(out: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        ops.matmul(random(3, 4), random(4, 5), out=out)
    with pytest.raises(error, match=text):
        ops.sigmoid(random(3, 5), out=out)


def test_out_must_not_overlap_an_input() -> None:
    block = random(6, 6)
    with pytest.raises(ValueError, match="out must not overlap an input"):
        ops.matmul(block, random(6, 6), out=block)
    with pytest.raises(ValueError, match="out must not overlap an input"):
        ops.linear(random(6, 6), random(6, 6), block[0], out=block)
    with pytest.raises(ValueError, match="out must not partly overlap an input"):
        ops.relu(block[:5], out=block[1:])
    with pytest.raises(ValueError, match="out must not partly overlap an input"):
        ops.tanh(block.T, out=block)
    ops.relu(block[:3], out=block[3:])


# ---------------------------------------------------------------- losses


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n", [1, 7, 33])
@pytest.mark.parametrize("name", list(kernels.LOSSES))
def test_losses_agree_with_the_reference(name: str, n: int, weighted: bool, dtype: str) -> None:
    rng = np.random.default_rng(0)
    z = random(n, 6, dtype=dtype)
    y = targets_of(name, rng, n, 6, dtype)
    weight = rng.random(n) if weighted else None
    dz = np.empty((n, 6))
    rows = array_losses.LOSSES[name](np, z.astype(float), y, dz, **losses.get(name).numbers(6))
    w = np.ones(n) if weight is None else weight
    loss, gradient = getattr(ops, name)(z, y, weight)
    assert loss == pytest.approx((w * rows).sum() / w.sum(), rel=TOLERANCE[dtype])
    close(gradient, dz * (w / w.sum())[:, None], dtype)


def test_losses_worked_by_hand() -> None:
    loss, dz = ops.cross_entropy([[0.0, math.log(3)], [0.0, 0.0]], [1, 0])
    assert loss == pytest.approx((math.log(4 / 3) + math.log(2)) / 2, rel=1e-14)
    np.testing.assert_allclose(dz, [[0.125, -0.125], [-0.25, 0.25]], rtol=1e-14)
    loss, dz = ops.mse([[1.0], [2.0]], [0.0, 0.0], [3.0, 1.0])
    assert loss == 7 / 4
    assert dz.tolist() == [[1.5], [1.0]]
    loss, dz = ops.binary_cross_entropy([[0.0]], [1])
    assert loss == pytest.approx(math.log(2), rel=1e-14)
    assert dz.tolist() == [[-0.5]]


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (
            lambda: ops.cross_entropy(np.zeros((2, 3)), [0, 3]),
            "labels must hold labels from 0 to 2, got 3 in row 1",
        ),
        (lambda: ops.cross_entropy(np.zeros(3), [0]), r"z must be 2-D, got shape \(3,\)"),
        (lambda: ops.cross_entropy(np.zeros((0, 3)), np.zeros(0, int)), "z must have at least one row"),
        (lambda: ops.mse(np.zeros((2, 1)), np.zeros((1, 2))), r"y must have shape \(2,\) or \(2, 1\)"),
        (lambda: ops.binary_cross_entropy(np.zeros((1, 1)), [2]), "y must lie from 0 to 1"),
        (lambda: ops.matmul(np.zeros((2, 3)), np.zeros((2, 3))), r"b must have 3 rows, as a has columns"),
        (
            lambda: ops.linear(np.zeros((2, 3)), np.zeros((3, 2)), [1.0]),
            r"b must have shape \(2,\), got \(1,\)",
        ),
        (lambda: ops.linear(np.zeros((2, 3)), np.zeros((3, 2)), activation="rleu"), "did you mean 'relu'"),
        (
            lambda: ops.linear_backward(np.zeros((2, 3)), np.zeros((2, 4)), np.zeros((4, 2))),
            "dz must have shape",
        ),
        (lambda: ops.relu_backward([1.0], [1.0, 2.0]), "da must have the shape of z"),
        (lambda: ops.dropout([1.0], 1.0, seed=0), "rate must be"),
        (lambda: ops.sgd_update(np.zeros(2), np.zeros(3)), r"g must have the shape of w, \(2,\), got \(3,\)"),
        (lambda: ops.sgd_update(np.zeros(2), np.zeros(2), momentum=0.9), "velocity must be an array"),
        (
            lambda: ops.adam_update(np.zeros(2), [1, 1], np.zeros(2), np.zeros(2), step=0),
            "step must be from 1 to",
        ),
        (lambda: ops.sgd_update(read_only((2,)), np.zeros(2)), "w must be writable"),
        (lambda: ops.sgd_update(np.zeros((4, 4))[:, :2], np.zeros((4, 2))), "w must be C-contiguous"),
    ],
)
def test_wrong_arguments_are_named(act: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        act()


# ---------------------------------------------------------------- dropout and updates


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0,), (9,), (5, 33), (2, 3, 70)])
def test_dropout_has_the_mask_of_training(shape: tuple[int, ...], dtype: str) -> None:
    x = random(*shape, dtype=dtype)
    out, mask = ops.dropout(x, 0.3, seed=2**40 + 1, step=2**33, layer=4)
    np.testing.assert_array_equal(out, x * mask)
    if x.size:
        expected = np.empty((x.size // shape[-1], shape[-1]), dtype)
        array_random.dropout_mask(np, 2**40 + 1, 2**33, 4, 0.3, expected)
        np.testing.assert_array_equal(mask, expected.reshape(shape))
    kept, ones = ops.dropout(x, 0, seed=0)
    np.testing.assert_array_equal(kept, x)
    assert (ones == 1).all()


def rules(optimizer: Any, w: Any) -> Any:
    """One rule for all of w."""
    return (fn.optimizers.Rule(0, w.size, 0, 1.0, optimizer.weight_decay, 0.0, 0.0, False),)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0,), (1,), (33,), (3, 7)])
def test_updates_agree_with_the_reference(shape: tuple[int, ...], dtype: str) -> None:
    w, g = random(*shape, dtype=dtype), random(*shape, dtype=dtype, seed=1)
    for o in (fn.SGD(0.1), fn.SGD(0.1, 0.9, False, 0.01), fn.SGD(0.1, 0.9, True)):
        mine, v = w.copy(), np.zeros_like(w)
        theirs, state = w.copy(), np.zeros((1, w.size), dtype)
        for t in (1, 2, 3):
            ops.sgd_update(
                mine, g, v, lr=o.lr, momentum=o.momentum, nesterov=o.nesterov, weight_decay=o.weight_decay
            )
            array_optimizers.update(
                np, o, rules(o, w), theirs.reshape(-1), g.copy().reshape(-1), state, o.lr, t
            )
        close(mine, theirs, dtype)
    adam = fn.Adam(lr=0.1, weight_decay=0.01)
    mine, m, v = w.copy(), np.zeros_like(w), np.zeros_like(w)
    theirs, state = w.copy(), np.zeros((2, w.size), dtype)
    for t in (1, 2, 3):
        ops.adam_update(mine, g, m, v, step=t, lr=0.1, weight_decay=0.01)
        array_optimizers.update(
            np, adam, rules(adam, w), theirs.reshape(-1), g.copy().reshape(-1), state, 0.1, t
        )
    close(mine, theirs, dtype)


def test_updates_refuse_arrays_that_overlap_or_have_another_dtype() -> None:
    w = np.zeros(4)
    with pytest.raises(ValueError, match="must not overlap"):
        ops.sgd_update(w, w)
    with pytest.raises(TypeError, match="m must have dtype float64"):
        ops.adam_update(w, np.ones(4), np.zeros(4, np.float32), np.zeros(4), step=1)
    with pytest.raises(TypeError, match="w must be a float32 or float64 array"):
        ops.sgd_update(np.zeros(4, int), np.ones(4))
    ops.sgd_update(w, [1, 2, 3, 4], lr=1.0)
    assert w.tolist() == [-1, -2, -3, -4]
