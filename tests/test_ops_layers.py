"""Norms, PReLU, noise and embeddings as functions of arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fastnn as fn
from fastnn import ops
from fastnn.devices.array_random import dropout_mask, normal_numbers

Array = NDArray[Any]
DTYPES = ["float32", "float64"]
TOLERANCE = {"float32": 3e-5, "float64": 1e-12}  # sums of up to 100 numbers near 1 in another order
SHAPES = [(2, 1), (3, 7), (7, 33), (33, 100)]


def random(*shape: int, dtype: Any = "float64", seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def close(found: Array, expected: Any, dtype: str) -> None:
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * 10)


def reference(kind: str, x: Array, weight: Array | None, bias: Array | None, eps: float) -> Array:
    x = x.astype(float)
    axis = 0 if kind == "batch" else -1
    if kind != "rms":
        x = x - x.mean(axis=axis, keepdims=True)
    y = x / np.sqrt((x * x).mean(axis=axis, keepdims=True) + eps)
    return y * (1 if weight is None else weight) + (0 if bias is None else bias)


FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "layer": (ops.layer_norm, ops.layer_norm_backward),
    "rms": (ops.rms_norm, ops.rms_norm_backward),
    "batch": (ops.batch_norm, ops.batch_norm_backward),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", FUNCTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_norms_equal_their_formula(kind: str, shape: tuple[int, int], dtype: str) -> None:
    x, w, b = (
        random(*shape, dtype=dtype),
        random(shape[1], dtype=dtype, seed=1),
        random(shape[1], dtype=dtype),
    )
    forward, _ = FUNCTIONS[kind]
    close(forward(x, eps=0.1), reference(kind, x, None, None, 0.1), dtype)
    close(forward(x, w, eps=0.1), reference(kind, x, w, None, 0.1), dtype)
    if kind != "rms":
        close(forward(x, w, b, eps=0.1), reference(kind, x, w, b, 0.1), dtype)
        close(forward(x, None, b, eps=0.1), reference(kind, x, None, b, 0.1), dtype)
    place = x.copy()
    assert forward(place, w, eps=0.1, out=place) is place
    np.testing.assert_array_equal(place, forward(x, w, eps=0.1))
    if kind != "batch":  # any number of dimensions; a row alone
        np.testing.assert_array_equal(forward(x[None, :, None], w), forward(x, w)[None, :, None])
        np.testing.assert_array_equal(forward(x[1], w), forward(x, w)[1])


@pytest.mark.parametrize("kind", FUNCTIONS)
@pytest.mark.parametrize("shape", SHAPES[:3])
def test_gradients_of_norms_equal_central_differences(kind: str, shape: tuple[int, int]) -> None:
    x, w, dy = random(*shape), random(shape[1], seed=1), random(*shape, seed=2)
    forward, backward = FUNCTIONS[kind]
    dx, dweight, *dbias = backward(dy, x, w, eps=0.1)
    step = 1e-6
    for array, gradient in ((x, dx), (w, dweight)):
        for place in np.ndindex(*array.shape):
            middle = array[place]
            sides = []
            for moved in (middle + step, middle - step):
                array[place] = moved
                sides.append(float((dy * forward(x, w, eps=0.1)).sum()))
            array[place] = middle
            assert gradient[place] == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-6, abs=1e-8)
    if dbias:
        np.testing.assert_allclose(dbias[0], dy.sum(axis=0), rtol=1e-12)
    for dtype in DTYPES:
        found = backward(dy.astype(dtype), x.astype(dtype), w.astype(dtype), eps=0.1)
        for mine, exact in zip(found, (dx, dweight, *dbias), strict=True):
            close(mine, exact, dtype)
    for place in (dy.copy(), x.copy()):
        given = {"dy": dy, "x": x} | {"dy" if np.array_equal(place, dy) else "x": place}
        found = backward(given["dy"], given["x"], w, eps=0.1, out=place)
        assert found[0] is place
        for mine, exact in zip(found, (dx, dweight, *dbias), strict=True):
            np.testing.assert_array_equal(mine, exact)


@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_norm_with_given_statistics(dtype: str) -> None:
    x, dy = random(9, 5, dtype=dtype), random(9, 5, dtype=dtype, seed=1)
    w, b, mean = (random(5, dtype=dtype, seed=i) for i in (2, 3, 4))
    var = np.abs(mean) + dtype_of(dtype)(0.5)
    scale = w / np.sqrt(var.astype(float) + 1e-5)
    close(ops.batch_norm(x, w, b, mean=mean, var=var), (x - mean) * scale + b, dtype)
    dx, dweight, dbias = ops.batch_norm_backward(dy, x, w, mean=mean, var=var)
    close(dx, dy * scale, dtype)
    close(dweight, (dy * (x - mean) / np.sqrt(var + 1e-5)).sum(axis=0), dtype)
    close(dbias, dy.sum(axis=0), dtype)
    found = ops.column_moments(x)
    close(found[0], x.astype(float).mean(axis=0), dtype)
    close(found[1], x.astype(float).var(axis=0), dtype)
    one_row = ops.batch_norm(x[:1], mean=mean, var=var)
    np.testing.assert_array_equal(one_row, ops.batch_norm(x, mean=mean, var=var)[:1])


def dtype_of(name: str) -> Any:
    return np.dtype(name).type


@pytest.mark.torch
@pytest.mark.parametrize("kind", FUNCTIONS)
def test_norms_equal_pytorchs(kind: str) -> None:
    import torch

    x, w, b, dy = random(8, 11), random(11, seed=1), random(11, seed=2), random(8, 11, seed=3)
    x_, w_, b_ = (torch.tensor(a, requires_grad=True) for a in (x, w, b))
    given: tuple[Any, ...] = (x, w, b)
    if kind == "batch":
        y = torch.nn.functional.batch_norm(x_, None, None, w_, b_, training=True)
    elif kind == "layer":
        y = torch.nn.functional.layer_norm(x_, (11,), w_, b_)
    else:
        y, given = torch.nn.functional.rms_norm(x_, (11,), w_), (x, w)
    forward, backward = FUNCTIONS[kind]
    np.testing.assert_allclose(forward(*given), y.detach().numpy(), rtol=1e-10, atol=1e-12)
    y.backward(torch.tensor(dy))
    for mine, theirs in zip(backward(dy, x, w), (x_, w_, b_)[: len(given)], strict=True):
        np.testing.assert_allclose(mine, theirs.grad.numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (5,), (3, 7), (2, 3, 33)])
def test_prelu(shape: tuple[int, ...], dtype: str) -> None:
    z, da = random(*shape, dtype=dtype), random(*shape, dtype=dtype, seed=1)
    n = shape[-1] if shape else 1
    for slope in (dtype_of(dtype)(0.25), random(1, dtype=dtype), random(n, dtype=dtype)):
        close(ops.prelu(z, slope), np.where(z > 0, z, slope * z), dtype)
        dz, dslope = ops.prelu_backward(da, z, slope)
        close(dz, np.where(z > 0, da, slope * da), dtype)
        each = np.where(z > 0, 0, z.astype(float) * da).reshape(-1, n).sum(axis=0)
        close(dslope, each if np.shape(slope) == (n,) else each.sum().reshape(np.shape(slope)), dtype)
    assert np.isnan(ops.prelu([np.nan], 0.1)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_noise_is_that_of_the_programs(dtype: str) -> None:
    x, dy = random(9, 13, dtype=dtype), random(9, 13, dtype=dtype, seed=1)
    y, mask = ops.dropout(x, 0.3, seed=7, step=5, layer=2)
    expected = np.empty_like(x)
    dropout_mask(np, 7, 5, 2, 0.3, expected)
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_array_equal(y, x * mask)
    np.testing.assert_array_equal(ops.dropout_backward(dy, mask), dy * mask)
    np.testing.assert_array_equal(ops.dropout(x[4:], 0.3, seed=7, step=5, layer=2, first_row=4)[0], y[4:])
    noisy = ops.gaussian_noise(x, 0.5, seed=7, step=5, layer=2)
    close(noisy, x + 0.5 * normal_numbers(np, 7, 5, 2, x), dtype)
    scale, shift, dropped = fn.AlphaDropout(0.3).numbers()
    y, mask = ops.alpha_dropout(x, 0.3, seed=7, step=5, layer=2)
    close(y, np.where(expected > 0, scale * x + shift, dropped), dtype)
    close(mask, np.where(expected > 0, scale, 0), dtype)
    close(ops.alpha_dropout_backward(dy, mask), dy * np.where(expected > 0, scale, 0), dtype)
    for f in (ops.dropout, ops.alpha_dropout):
        y, mask = f(x, 0.0, seed=0)
        np.testing.assert_array_equal(y, x)
        np.testing.assert_array_equal(mask, 1)
        place = x.copy()
        assert f(place, 0.3, seed=7, out=place)[0] is place
        np.testing.assert_array_equal(place, f(x, 0.3, seed=7)[0])
    np.testing.assert_array_equal(
        ops.gaussian_noise(x[:, None], 0.1, seed=1)[:, 0], ops.gaussian_noise(x, 0.1, seed=1)
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_embeddings(dtype: str) -> None:
    weight, codes = random(6, 5, dtype=dtype), np.array([[0, 5, 2], [2, -1, 6]])
    known = (codes >= 0) & (codes < 6)
    expected = np.where(known[..., None], weight[np.where(known, codes, 0)], 0)
    np.testing.assert_array_equal(ops.embedding(codes, weight), expected)
    np.testing.assert_array_equal(ops.embedding(codes.astype(np.int8), weight[:, ::-1]), expected[..., ::-1])
    dy = random(2, 3, 5, dtype=dtype, seed=1)
    exact = np.zeros((6, 5))
    np.add.at(exact, codes[known], dy[known].astype(float))
    close(ops.embedding_backward(dy, codes, 6), exact, dtype)
    assert ops.embedding(codes[:0], weight).shape == (0, 3, 5)
    assert not ops.embedding(codes, weight[:0]).any()
    out = np.ones((2, 3, 5), dtype)
    assert ops.embedding(codes, weight, out=out) is out
    np.testing.assert_array_equal(out, expected)


def test_empty_arrays() -> None:
    for shape in ((0, 3), (3, 0)):
        x = np.zeros(shape)
        for forward, backward in (FUNCTIONS["layer"], FUNCTIONS["rms"]):
            assert forward(x).shape == shape
            assert [g.shape for g in backward(x, x)][:2] == [shape, (shape[1],)]
        assert ops.dropout(x, 0.5, seed=0)[1].shape == shape
        assert ops.prelu(x, 0.1).shape == shape
    assert ops.batch_norm(np.zeros((3, 0))).shape == (3, 0)
    assert ops.batch_norm(np.zeros((0, 3)), mean=np.zeros(3), var=np.ones(3)).shape == (0, 3)


X = np.ones((4, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.layer_norm(X, np.ones(4)), ValueError, r"weight must have shape \(3,\), one a"),
        (lambda: ops.layer_norm(3.0), ValueError, "x must have at least one dimension"),
        (lambda: ops.layer_norm(X, eps=-1), ValueError, "eps must be at least 0"),
        (lambda: ops.layer_norm_backward(X[:2], X), ValueError, "dy must have the shape of x"),
        (lambda: ops.batch_norm(X[0]), ValueError, "x must be 2-D"),
        (lambda: ops.batch_norm(X[:0]), ValueError, "x must have at least one row"),
        (lambda: ops.batch_norm(X, mean=np.zeros(3)), ValueError, "var must be given with mean, got None"),
        (lambda: ops.batch_norm(X, mean=np.zeros(3), var=-np.ones(3)), ValueError, "var must not be neg"),
        (lambda: ops.rms_norm(X, out=np.empty((4, 3), "f4")), TypeError, "out must have dtype float64"),
        (lambda: ops.prelu(X, np.ones(2)), ValueError, r"slope must be a number or have shape \(3,\)"),
        (lambda: ops.prelu_backward(X[0], X, 0.1), ValueError, "da must have the shape of z"),
        (lambda: ops.dropout(X, 1.0, seed=0), ValueError, "rate must be at least 0 and below 1"),
        (lambda: ops.dropout(X, 0.5, seed=-1), ValueError, "seed must be"),
        (lambda: ops.dropout(X, 0.5, seed=0, layer=2**16), ValueError, "layer must be"),
        (lambda: ops.dropout(X, 0.5, seed=0, first_row=2**32 - 2), ValueError, "first_row must leave room"),
        (lambda: ops.dropout_backward(X, X[:1]), ValueError, "mask must have the shape of dy"),
        (lambda: ops.gaussian_noise(X, -1.0, seed=0), ValueError, "std must be at least 0"),
        (lambda: ops.embedding([0.5], X), TypeError, "codes must hold integers, got dtype float64"),
        (lambda: ops.embedding([0], X[0]), ValueError, "weight must be 2-D"),
        (lambda: ops.embedding_backward(X, [0, 1], 3), ValueError, "dy must have shape"),
    ],
)
def test_bad_arguments_are_named(call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call()
