"""Products with few columns, which go a way of their own: the bits of all others, and not a byte outside."""

import ctypes
import itertools
import mmap

import numpy as np
import pytest

from fastnn import kernels, ops

REALS = [np.float32, np.float64]
# Groups of rows and chunks of columns (2 to 8 numbers), several groups side by side, plus and minus one; less
# than one of either goes another way; 64 and more of up to four columns are dot products (test_dots.py).
ROWS = (0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 23, 24, 25, 31, 32, 33, 40, 63, 65, 100)
DEPTHS = (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33, 62, 63)
COLUMNS = (1, 2, 3, 4, 5)
# Taken in passes of at most five or ten, by pairs of groups; columns of which some go in place.
MORE_COLUMNS = (6, 7, 8, 9, 10, 11, 12, 14, 15)


@pytest.mark.parametrize("dtype", REALS)
def test_few_columns_have_the_bits_of_many(isa, rng, dtype):
    whole, wide = rng.standard_normal((100, 310)).astype(dtype), rng.standard_normal((300, 40)).astype(dtype)
    for k in DEPTHS:
        x, w = whole[:, 3 : 3 + k], wide[:k]
        expected = ops.matmul(x, w)
        for m in ROWS:
            for n in COLUMNS:
                where = f"{m} x {k} x {n}"
                np.testing.assert_array_equal(ops.matmul(x[:m], w[:, :n]), expected[:m, :n], err_msg=where)
        dense, w1 = np.ascontiguousarray(x), np.ascontiguousarray(w[:, :1])
        np.testing.assert_array_equal(ops.matmul(dense, w1), expected[:, :1])
        np.testing.assert_array_equal(ops.matmul(np.asfortranarray(dense), w1), expected[:, :1])


@pytest.mark.parametrize("dtype", REALS)
def test_more_columns_in_passes_have_the_bits_of_many(isa, rng, dtype):
    whole, wide = rng.standard_normal((70, 80)).astype(dtype), rng.standard_normal((70, 40)).astype(dtype)
    for k in (2, 4, 7, 9, 70):
        x, w = whole[:, 3 : 3 + k], wide[:k]
        expected = ops.matmul(x, w)
        for m in (8, 15, 16, 30, 32, 47, 70):
            for n in MORE_COLUMNS:
                where = f"{m} x {k} x {n}"
                np.testing.assert_array_equal(ops.matmul(x[:m], w[:, :n]), expected[:m, :n], err_msg=where)
    if isa in ("avx2", "avx512"):
        assert kernels.product_path(64, 10, 70, itemsize=x.itemsize) == "narrow"


def test_all_instruction_sets_give_the_same_bits(rng, request):
    before = kernels.isa()
    request.addfinalizer(lambda: kernels.set_isa(before))
    for dtype in REALS:
        x, w, b = (rng.standard_normal(shape).astype(dtype) for shape in ((77, 61), (61, 4), (4,)))
        results = set()
        for name in kernels.isa_available():
            kernels.set_isa(name)
            assert kernels.product_path(77, 4, 61, itemsize=x.itemsize) == "narrow"
            found = [ops.linear(x, w[:, :n], b[:n], activation="tanh") for n in (1, 2, 3, 4)]
            results.add(b"".join(part.tobytes() for part in found))
        assert len(results) == 1


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("stride", [1024, 2048, 4096, 12288])
def test_rows_that_share_sets_of_the_cache_are_summed_in_the_same_order(isa, rng, stride, dtype):
    k, width = 53, stride // np.dtype(dtype).itemsize
    x, w = (rng.standard_normal(shape).astype(dtype) for shape in ((41, width), (k, 2)))
    x = x[:, :k]
    elsewhere = np.empty((41, k + 7), dtype)[:, :k]
    elsewhere[...] = x
    np.testing.assert_array_equal(ops.matmul(x, w), ops.matmul(elsewhere, w))
    row, dx = w[:, :1].T.copy(), np.empty((1, 41), dtype)
    kernels.linear_input_gradient(row, x, dx)
    np.testing.assert_array_equal(dx[0], ops.matmul(x, w)[:, 0])


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("activation", list(kernels.ACTIVATIONS))
def test_bias_and_activation_follow_the_sum(isa, rng, activation, dtype):
    shapes = (1, 1), (1, 3), (3, 4), (5, 3), (8, 3), (33, 1), (41, 2), (70, 4), (47, 10)
    for (m, n), k in itertools.product(shapes, (29, 77)):  # 77: dot products up to four columns
        x, w, b = (rng.standard_normal(shape).astype(dtype) for shape in ((m, k), (k, n), (n,)))
        z = ops.matmul(x, w) + b
        expected = getattr(ops, activation)(z)
        np.testing.assert_array_equal(ops.linear(x, w, b, activation=activation), expected)
        out = np.full((m, 16), np.nan, dtype)
        ops.linear(x, w, b, activation=activation, out=out[:, 5 : 5 + n])
        np.testing.assert_array_equal(out[:, 5 : 5 + n], expected)
        assert np.isnan(out[:, :5]).all()
        assert np.isnan(out[:, 5 + n :]).all()


class Guarded:
    """Arrays that begin or end at a page which nobody may touch."""

    def __init__(self):
        self.maps = []
        self.protect = ctypes.CDLL(None, use_errno=True).mprotect
        self.protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

    def copy(self, a, at_end):
        page = mmap.PAGESIZE
        inner = -(-max(a.nbytes, 1) // page) * page
        memory = mmap.mmap(-1, inner + 2 * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for guard in (start, start + page + inner):
            assert self.protect(guard, page, 0) == 0  # PROT_NONE
        offset = page + (inner - a.nbytes if at_end else 0)
        copy = np.frombuffer(memory, a.dtype, a.size, offset).reshape(a.shape)
        copy[...] = a
        self.maps.append(memory)
        return copy


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("at_end", [False, True])
def test_nothing_outside_is_touched(isa, rng, dtype, at_end):
    guarded = Guarded()
    for m, k in [(8, 8), (9, 11), (17, 4), (32, 11), (33, 13), (37, 64), (65, 127)]:
        for n in (1, 2, 3, 4, 5, 9, 10):
            x, w, b = (rng.standard_normal(shape).astype(dtype) for shape in ((m, k), (k, n), (n,)))
            expected = ops.linear(x, w, b)
            x, w, b, out = (guarded.copy(a, at_end) for a in (x, w, b, np.empty((m, n), dtype)))
            ops.linear(x, w, b, out=out)
            np.testing.assert_array_equal(out, expected)
