"""Kernels as other packages call them: turned weights, masks alone, vectors shared among threads."""

import numpy as np
import pytest

from fastnn import kernels, ops

REALS = ("float32", "float64")


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize(
    ("m", "n", "k"), [(1, 1, 1), (1, 40, 33), (3, 5, 7), (20, 3, 300), (130, 70, 65), (9, 1, 4)]
)
def test_a_turned_right_factor_gives_the_bits_of_its_copy(isa, threads, rng, m, n, k, dtype):
    x, bias = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal(n).astype(dtype)
    w = rng.standard_normal((n, k + 5)).astype(dtype)[:, 2 : k + 2]  # rows of their own length
    for count in (1, 3):
        threads(count)
        for f in ("identity", "relu", "softmax"):
            out, copied = np.empty((m, n), dtype), np.empty((m, n), dtype)
            kernels.matmul(x, w.T, bias, f, out)
            kernels.matmul(x, np.ascontiguousarray(w.T), bias, f, copied)
            assert np.array_equal(out, copied)
            assert np.array_equal(ops.linear(x, w.T, bias, activation=f), copied)


def test_a_turned_right_factor_is_not_copied(rng):
    w = rng.standard_normal((400, 300), np.float32)
    assert ops.shapes.right_factor(w.T).base is w
    for other in (w.T[:, ::-1], np.broadcast_to(w[:, :1], (400, 300)), w[::2, ::2]):
        assert np.array_equal(ops.matmul(np.eye(len(other), dtype=np.float32), other), other)


def test_shapes_of_a_turned_right_factor_are_judged():
    x, out = np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32)
    with pytest.raises(ValueError, match=r"b must have 3 rows, got shape \(5, 4\)"):
        kernels.matmul(x, np.zeros((4, 5), np.float32).T, None, "identity", out)
    with pytest.raises(ValueError, match=r"out must have shape \(2, 6\)"):
        kernels.matmul(x, np.zeros((6, 3), np.float32).T, None, "identity", out)


@pytest.mark.parametrize("dtype", REALS)
def test_long_vectors_have_one_result_on_any_number_of_threads(threads, rng, dtype):
    a, b = (rng.standard_normal(300_001).astype(dtype) for _ in range(2))
    found = []
    for count in (1, 2, 5):
        threads(count)
        mean = b.copy()
        kernels.average(0.25, a, mean)
        mask = np.empty((1000, 70), dtype)
        kernels.dropout(None, mask, 7, 1, 2, 0.3, 5)
        found.append((kernels.dot(a, b), mean, mask))
    for other in found[1:]:
        assert all(np.array_equal(x, y) for x, y in zip(found[0], other, strict=True))
    np.testing.assert_allclose(found[0][0], np.dot(a.astype(np.float64), b.astype(np.float64)), rtol=1e-9)
    np.testing.assert_allclose(found[0][1], b + 0.25 * (a - b), rtol=1e-4, atol=1e-6)


def test_a_mask_alone_is_the_mask_that_multiplies(isa, rng):
    x = rng.standard_normal((9, 37), np.float32)
    y, mask = ops.dropout(x, 0.4, seed=3, step=4, layer=1, first_row=2)
    alone = np.empty_like(x)
    kernels.dropout(None, alone, 3, 4, 1, 0.4, 2)
    assert np.array_equal(alone, mask)
    assert np.array_equal(y, x * mask)
