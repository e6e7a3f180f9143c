"""Products with one to four columns and 64 terms or more are dot products: their one order, everywhere."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_narrow_products import Guarded
from test_small import LOSSES, OPTIMIZERS, compare

import fastnn as fn
from fastnn import kernels, ops

REALS = [np.float32, np.float64]
# The least depth, and blocks of 8 and 16 numbers, plus and minus one.
DEPTHS = (63, 64, 65, 71, 72, 73, 79, 80, 81, 127, 300)
ROWS = (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 33, 63, 64, 65, 79, 130)
Array = NDArray[Any]


@pytest.fixture(autouse=True)
def _instruction_set() -> Iterator[None]:
    before = kernels.isa()
    yield
    kernels.set_isa(before)


def blockwise(x: Array, w: Array) -> Array:
    """64 bytes of running sums and a tree, one rounding a term: for float32 numbers of 12 bits."""
    block = 64 // x.itemsize
    sums = np.zeros((len(x), w.shape[1], block), x.dtype)
    for p in range(x.shape[1]):
        terms = x[:, p, None].astype(float) * w[p].astype(float)
        sums[:, :, p % block] = (sums[:, :, p % block].astype(float) + terms).astype(x.dtype)
    while sums.shape[2] > 1:
        half = sums.shape[2] // 2
        sums = sums[:, :, :half] + sums[:, :, half:]
    return sums[:, :, 0]


def test_the_order_is_blocks_and_a_tree(isa: str, rng: np.random.Generator) -> None:
    for m, k in [(1, 64), (3, 65), (40, 79), (70, 300)]:
        x, w = (rng.integers(-2048, 2048, shape).astype(np.float32) / 64 for shape in ((m, k), (k, 5)))
        for n in (1, 2, 3, 4):
            np.testing.assert_array_equal(ops.matmul(x, w[:, :n]), blockwise(x, w[:, :n]))
            assert kernels.product_path(m, n, k) == "dots"
        assert kernels.product_path(m, 5, k) != "dots"
    assert kernels.product_path(40, 4, 63) != "dots"


@pytest.mark.parametrize("dtype", REALS)
def test_a_sum_depends_on_its_own_numbers_alone(isa: str, rng: np.random.Generator, dtype: Any) -> None:
    whole, wide = rng.standard_normal((130, 310)).astype(dtype), rng.standard_normal((310, 4)).astype(dtype)
    for k in DEPTHS:
        x, w = whole[:, 3 : 3 + k], wide[:k]
        for n in (1, 2, 3, 4):
            if not kernels.by_dots(n, k):
                continue
            # Each column by itself, as a view with gaps: what no other way of these goes.
            expected = np.concatenate([ops.matmul(x, w[:, j : j + 1]) for j in range(n)], axis=1)
            exact = x.astype(float) @ w[:, :n].astype(float)
            np.testing.assert_allclose(expected, exact, rtol=0, atol=np.finfo(dtype).eps * 4 * k)
            together = np.ascontiguousarray(w[:, :n])
            for m in ROWS:
                where = f"{m} x {k} x {n}"
                np.testing.assert_array_equal(ops.matmul(x[:m], together), expected[:m], err_msg=where)
            np.testing.assert_array_equal(ops.matmul(np.asfortranarray(x), together), expected)
            gaps = np.repeat(x, 2, axis=1)[::2, ::2]
            np.testing.assert_array_equal(ops.matmul(gaps, together), expected[::2])
            np.testing.assert_array_equal(ops.matmul(x, np.asfortranarray(together)), expected)


@pytest.mark.parametrize("dtype", REALS)
def test_deep_sums_need_no_room(isa: str, rng: np.random.Generator, dtype: Any) -> None:
    x, w = (rng.standard_normal(shape).astype(dtype) for shape in ((9, 6001), (6001, 3)))
    expected = np.concatenate([ops.matmul(x, w[:, j : j + 1].copy()) for j in range(3)], axis=1)
    for w_ in (w, np.asfortranarray(w), np.repeat(w, 2, axis=1)[:, ::2]):
        np.testing.assert_array_equal(ops.matmul(x, w_), expected)


ON_A_SMALL_STACK = """
import threading
import numpy as np
from fastnn import kernels, ops

def work():
    for name in kernels.isa_available():
        kernels.set_isa(name)
        for dtype in (np.float32, np.float64):
            for m, k, n in ((8, 64, 4), (9, 300, 3), (8, 3072, 4), (8, 6144, 4), (8, 12288, 2), (4, 4096, 3)):
                x, w = np.ones((m, k), dtype), np.ones((k, n), dtype)
                assert (ops.linear(x, w, w[0], activation="relu") == k + 1).all()
                gaps = np.ones((k, n + 3), dtype)[:, 1 : n + 1]
                assert (ops.matmul(x, gaps) == k).all()
            dz, x, w = (np.ones(shape, dtype) for shape in ((1, 600), (1, 120), (120, 600)))
            assert (ops.linear_backward(dz, x, w)[0] == 600).all()
    print("done")

threading.stack_size(128 << 10)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def test_128_kilobytes_of_stack_are_enough() -> None:
    """As much as a thread has on some systems."""
    done = subprocess.run([sys.executable, "-c", ON_A_SMALL_STACK], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_a_path_is_told_for_the_gradient_of_one_row_too() -> None:
    for batch, n_in, n_out, by_dots in [(1, 512, 512, True), (2, 512, 512, False), (1, 511, 128, False)]:
        assert (kernels.product_path(batch, n_in, n_out, b_is_transposed=True) == "dots") == by_dots


def test_all_instruction_sets_and_threads_give_the_same_bits(rng: np.random.Generator, threads: Any) -> None:
    for dtype in REALS:
        x, w = (rng.standard_normal(shape).astype(dtype) for shape in ((1100, 333), (333, 4)))
        row, wide = (rng.standard_normal(shape).astype(dtype) for shape in ((1, 900), (301, 900)))
        found = set()
        for name in kernels.isa_available():
            kernels.set_isa(name)
            for count in (1, 3):
                threads(count)
                parts = [ops.linear(x, w[:, :n], w[0, :n], activation="tanh") for n in (1, 2, 3, 4)]
                dx = ops.linear_backward(row, np.ones((1, 301), dtype), wide)[0]
                assert dx is not None
                np.testing.assert_array_equal(dx, ops.matmul(wide, row.T).T)  # the same sums
                found.add(b"".join(part.tobytes() for part in (*parts, dx)))
        assert len(found) == 1


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("at_end", [False, True])
def test_nothing_outside_is_touched(isa: str, rng: np.random.Generator, dtype: Any, at_end: bool) -> None:
    guarded = Guarded()
    for m, k in [(1, 64), (3, 79), (17, 65), (33, 127)]:
        for n in (1, 2, 3, 4):
            x, w, b = (rng.standard_normal(shape).astype(dtype) for shape in ((m, k), (k, n), (n,)))
            expected = ops.linear(x, w, b)
            x, w, b, out = (guarded.copy(a, at_end) for a in (x, w, b, np.empty((m, n), dtype)))
            ops.linear(x, w, b, out=out)
            np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_row_alone_has_the_bits_of_a_row_in_a_batch(threads: Any, dtype: str) -> None:
    rng = np.random.default_rng(0)
    for n_out, layers in [
        (1, (fn.Dense(100, activation="relu"), fn.Dense(1))),
        (3, (fn.Dense(67, activation="tanh"), fn.Dropout(0.2), fn.Dense(3))),
        (2, (fn.Residual(fn.Dense(70, activation="relu")), fn.Dense(2, activation="softmax"))),
        (4, (fn.Dense(4),)),
    ]:
        x = rng.standard_normal((90, 70)).astype(dtype)
        model = fn.Sequential(*layers, dtype=dtype)
        model.build(70, seed=1)
        found = set()
        for name in kernels.isa_available():
            kernels.set_isa(name)
            for count in (1, 2):
                threads(count)
                whole, handle = model.predict(x), model.compile()
                assert whole.shape == (90, n_out)
                for rows in (slice(0, 1), slice(3, 5), slice(4, 7), slice(10, 15), slice(20, 61)):
                    np.testing.assert_array_equal(model.predict(x[rows]), whole[rows])
                    np.testing.assert_array_equal(handle(x[rows]), whole[rows])
                found.add(whole.tobytes())
        assert len(found) == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES)
def test_small_nets_have_the_bits_of_the_general_way(isa: str, loss: str, dtype: str) -> None:
    """Their last layer with lanes along rows or outputs, or as the only one; one in the middle."""
    for batch, n_out, activation in [
        (1, 1, None),
        (1, 3, "relu"),
        (2, 4, "gelu"),
        (4, 2, None),
        (5, 1, "tanh"),
        (9, 3, None),
        (17, 4, "relu"),
        (20, 2, "tanh"),
    ]:
        optimizer = OPTIMIZERS["sgd" if batch % 2 else "adam"]
        last = fn.Dense(n_out, activation=activation)
        compare((fn.Dense(67, activation="relu"), last), 3, batch, dtype, loss, optimizer)
        compare((last,), 65, batch, dtype, loss, optimizer)
        compare((last, fn.Dense(3)), 64, batch, dtype, loss, optimizer)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_wide_rows_alone_are_trained_to_one_result(threads: Any, dtype: str) -> None:
    """The gradient at the input of a batch of one row; and of two, whose threads have one each."""
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((5, 30)).astype(dtype), rng.standard_normal((5, 2)).astype(dtype)
    found = set()
    for name in kernels.isa_available():
        kernels.set_isa(name)
        for count in (1, 2, 4):
            threads(count)
            model = fn.Sequential(
                fn.Dense(300, activation="relu"), fn.Dense(250, activation="tanh"), fn.Dense(2), dtype=dtype
            )
            trainer = fn.Trainer(model, "mse", fn.SGD(0.01), seed=0)
            model.build(30, seed=0)
            trainer.run(x, y, np.arange(3).reshape(3, 1))
            trainer.run(x, y, np.arange(4).reshape(2, 2))
            found.add(model.parameters.tobytes() + trainer.gradient(x[:1], y[:1])[1].tobytes())
    assert len(found) == 1
