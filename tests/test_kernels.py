"""Compiled kernels against plain arithmetic, on every instruction set of the machine."""

import numpy as np
import pytest
from loss_targets import targets_of

import fastnn as fn
from fastnn import kernels, losses, ops
from fastnn.devices import array_activations, array_losses, array_random

REALS = [np.float32, np.float64]
# one, small primes, lanes and tiles plus and minus one, beyond one tile
SIZES = [1, 7, 13, 14, 15, 17, 31, 32, 33, 100]
# Blocks of k (400), of rows (168, 336) and of turned products are crossed here; 0: an empty product or sum
EDGES = [
    (0, 5, 3),
    (3, 0, 5),
    (3, 5, 0),
    (255, 17, 33),
    (257, 33, 7),
    (167, 3, 513),
    (169, 34, 256),
    (340, 65, 255),
    (100, 70, 600),
    (300, 2, 900),
    (30, 5, 5000),
    (70, 1024, 401),
]
SHAPES = [(m, n, k) for m in SIZES for n in (1, 7, 16, 33, 100) for k in (1, 17, 100)] + EDGES
# every sum has k terms, each rounded once; both bounds have a factor of 3 to spare
TOLERANCE = {np.float32: 3e-7, np.float64: 1e-15}


def random(rng, *shape, dtype):
    return rng.standard_normal(shape).astype(dtype)


def assert_close(got, exact, k, dtype, scale=1.0):
    assert got.dtype == dtype
    np.testing.assert_allclose(got, exact, rtol=0, atol=TOLERANCE[dtype] * (k + 8) * scale)


@pytest.mark.parametrize("dtype", REALS)
def test_products_equal_exact_arithmetic(isa, rng, dtype):
    for m, n, k in SHAPES:
        x, w, b = (random(rng, *shape, dtype=dtype) for shape in ((m, k), (k, n), (n,)))
        dz = random(rng, m, n, dtype=dtype)
        z = x.astype(float) @ w.astype(float) + b
        assert_close(ops.linear(x, w, b), z, k, dtype)
        assert_close(ops.linear(x, w, b, activation="relu"), np.maximum(z, 0), k, dtype)
        dx, dw, db = ops.linear_backward(dz, x, w)
        assert_close(dx, dz.astype(float) @ w.T.astype(float), n, dtype)
        assert_close(dw, x.T.astype(float) @ dz.astype(float), m, dtype)
        assert_close(db, dz.sum(axis=0, dtype=float), m, dtype)


def fma_sum(x, w):
    """Sums in the order of k, one rounding a term: exact in float64 for float32 terms of few bits."""
    total = np.zeros((x.shape[0], w.shape[1]), np.float32)
    for p in range(x.shape[1]):
        total = (
            total.astype(np.float64) + x[:, p, None].astype(np.float64) * w[p].astype(np.float64)
        ).astype(np.float32)
    return total


def test_every_element_is_summed_in_the_order_of_k(isa, rng):
    # 12-bit numbers: a product has 24 bits, so float64 holds product plus sum exactly enough to round once
    for m, n, k in [(1, 33, 40), (5, 10, 300), (33, 16, 17), (200, 3, 20)]:
        x, w = (rng.integers(-2048, 2048, shape).astype(np.float32) / 64 for shape in ((m, k), (k, n)))
        np.testing.assert_array_equal(ops.matmul(x, w), fma_sum(x, w))


@pytest.mark.parametrize("dtype", REALS)
def test_all_instruction_sets_give_the_same_bits(rng, dtype, request):
    before = kernels.isa()
    request.addfinalizer(lambda: kernels.set_isa(before))
    z, y = random(rng, 37, 21, dtype=dtype), random(rng, 37, 21, dtype=dtype)
    x, w, b = (
        random(rng, 37, 300, dtype=dtype),
        random(rng, 300, 21, dtype=dtype),
        random(rng, 21, dtype=dtype),
    )
    labels, weight = rng.integers(0, 21, 37), rng.random(37)
    results = {}
    for name in kernels.isa_available():
        kernels.set_isa(name)
        found = [ops.linear(x, w, b, activation=f) for f in kernels.ACTIVATIONS]
        found += [getattr(ops, f"{f}_backward")(y, z) for f in kernels.ACTIVATIONS]
        found += list(ops.linear_backward(z, x, w))
        found += [ops.log_softmax(z), ops.exp(z), ops.log(np.abs(z))]
        found += [np.asarray(part) for part in ops.cross_entropy(z, labels, weight)]
        found += [
            np.asarray(part) for f in (ops.mse, ops.binary_cross_entropy) for part in f(z, np.clip(y, 0, 1))
        ]
        found += list(ops.dropout(z, 0.3, seed=5, step=7, layer=2))
        state = [w.copy(), np.zeros_like(w), np.zeros_like(w)]
        ops.adam_update(state[0], w / 3, state[1], state[2], step=3, lr=0.1, weight_decay=0.01)
        velocity = w / 7
        sgd = w.copy()
        ops.sgd_update(sgd, w / 3, velocity, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
        found += [*state, sgd, velocity]
        results[name] = [np.ascontiguousarray(part).tobytes() for part in found]
    first, *others = results.values()
    assert first
    assert all(other == first for other in others)


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("name", list(kernels.ACTIVATIONS))
def test_activations_equal_the_array_program(isa, rng, name, dtype):
    for shape in [(0, 3), (1, 1), (7, 17), (33, 100), (5, 257)]:
        z, da = 3 * random(rng, *shape, dtype=dtype), random(rng, *shape, dtype=dtype)
        a, dz = z.astype(float), da.astype(float)
        array_activations.with_gradient(np, name, a, dz)
        assert_close(getattr(ops, name)(z), a, 0, dtype, scale=4)
        assert_close(getattr(ops, f"{name}_backward")(da, z), dz, 0, dtype, scale=16)


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("name", list(kernels.ACTIVATIONS))
def test_nan_stays_nan(isa, name, dtype):
    for n in (1, 5, 16, 40):
        z = np.zeros((2, n), dtype)
        z[0, n // 2] = np.nan
        with np.errstate(invalid="ignore"):
            a = getattr(ops, name)(z)
        assert np.isnan(a[0, n // 2])
        assert np.isfinite(a[1]).all()
        w = np.ones((n, 3), dtype)
        assert np.isnan(ops.linear(z, w, activation=name)[0]).all()


# Largest error over all float32 numbers in units of the last place (docs/activations.md; tests/c/accuracy.c
# looks at every one); those that are not here are exact.
ULP = {
    "leaky_relu": 1,
    "hard_sigmoid": 1.5,
    "hard_swish": 2.5,
    "softsign": 1.5,
    "elu": 1,
    "celu": 1,
    "selu": 2,
    "softplus": 2,
    "silu": 3.7,
    "mish": 4.6,
    "gelu": 7.1,
    "gelu_tanh": 3.6,
    "sigmoid": 1.7,
    "tanh": 1.6,
}


@pytest.mark.parametrize("name", [name for name, kind in kernels.ACTIVATIONS.items() if kind != "rowwise"])
def test_activations_of_every_65537th_float32_are_within_their_units_of_the_last_place(isa, name):
    z = np.arange(0, 2**32, 65537, dtype=np.uint64).astype(np.uint32).view(np.float32)
    z = np.concatenate([z, np.array([np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45], np.float32)])
    with np.errstate(all="ignore"):  # some NaN are signalling ones
        exact = z.astype(float)[None]
        array_activations.ACTIVATIONS[name][0](np, exact)
        exact = exact[0]
        found = ops.ACTIVATIONS[name][0](z)
        unit = np.spacing(np.abs(exact).astype(np.float32)).astype(float)
        error = np.abs(found - exact) / unit
        infinite = np.isinf(exact.astype(np.float32))
    np.testing.assert_array_equal(np.isnan(found), np.isnan(z))
    np.testing.assert_array_equal(found[infinite], np.copysign(np.inf, exact[infinite]))
    right = ~infinite & ~np.isnan(z)
    # a rounded result below a power of two counts in units half as large
    assert error[right].max() <= ULP.get(name, 0) + 0.5


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("name", list(kernels.ACTIVATIONS))
def test_derivatives_are_finite_beside_infinities(isa, name, dtype):
    z = np.array([[1.0, np.inf, -np.inf, 3e38, -3e38, 0.5]], dtype)
    if kernels.ACTIVATIONS[name] == "rowwise":
        z = z[:, [0, 3, 4, 5]]
    assert np.isfinite(getattr(ops, f"{name}_backward")(np.ones_like(z), z)).all()


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("name", list(kernels.LOSSES))
def test_losses_equal_the_array_program(isa, rng, name, dtype):
    for m, n in [(1, 1), (1, 7), (33, 10), (100, 1), (17, 65)]:
        z = 3 * random(rng, m, n, dtype=dtype)
        if name == "gaussian_nll" and n % 2:
            n += 1
            z = 3 * random(rng, m, n, dtype=dtype)
        takes_labels = kernels.LOSSES[name] == "label"
        y = targets_of(name, rng, m, n, dtype)
        numbers = losses.get(name).numbers(n)
        weight = rng.random(m)
        dz = np.empty_like(z, float)
        rows = array_losses.LOSSES[name](
            np, z.astype(float), y if takes_labels else y.astype(float), dz, **numbers
        )
        got_rows, got_dz = np.empty(m), np.empty_like(z)
        kernels.loss(name, z, y, weight, 0.25, got_rows, got_dz, numbers)
        np.testing.assert_allclose(got_rows, rows, rtol=60 * TOLERANCE[dtype], atol=20 * TOLERANCE[dtype])
        assert got_dz.dtype == dtype
        expected = dz * weight[:, None] * 0.25  # those of poisson and gaussian_nll grow as exponentials
        np.testing.assert_allclose(got_dz, expected, rtol=60 * TOLERANCE[dtype], atol=32 * TOLERANCE[dtype])
        in_place = z.copy()
        kernels.loss(name, in_place, y, weight, 0.25, got_rows, in_place, numbers)
        np.testing.assert_array_equal(in_place, got_dz)


def test_losses_of_extreme_logits_stay_finite_and_right(isa):
    z = np.array([[1e4, -1e4, 0], [-1e30, 1e30, 0]], np.float32)
    loss, dz = ops.cross_entropy(z, np.array([0, 1]))
    assert loss == 0
    np.testing.assert_array_equal(dz, 0)
    loss, _ = ops.cross_entropy(z[:1], np.array([1]))
    assert loss == 2e4
    loss, dz = ops.binary_cross_entropy(np.array([[80.0], [-80.0]]), np.array([[1.0], [0.0]]))
    assert 0 < loss < 1e-30
    assert np.isfinite(dz).all()


def sgd_by_hand(w, g, v, lr, momentum, nesterov, decay):
    g = g + decay * w
    v = momentum * v + g
    return w - lr * (g + momentum * v if nesterov else v), v


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("n", [1, 7, 17, 33, 100])
def test_updates_equal_their_formulas(isa, rng, n, dtype):
    for momentum, nesterov, decay in [(0, False, 0), (0.9, False, 0.1), (0.9, True, 0.1)]:
        w, g, v = (random(rng, n, dtype=dtype) for _ in range(3))
        exact, exact_v = sgd_by_hand(*(a.astype(float) for a in (w, g, v)), 0.1, momentum, nesterov, decay)
        sgd = fn.SGD(0.1, momentum, nesterov, decay)
        kernels.update(sgd, w, g, [v] if momentum else [], 1, 0.1)
        assert_close(w, exact, 0, dtype)
        if momentum:
            assert_close(v, exact_v, 0, dtype, scale=2)
    w, g, m, v = (random(rng, n, dtype=dtype) for _ in range(4))
    v = v * v
    w0, g0, m0, v0 = (a.astype(float) for a in (w, g, m, v))
    g0 = g0 + 0.1 * w0
    m0, v0 = m0 + 0.1 * (g0 - m0), 0.999 * v0 + 0.001 * g0**2
    step = 0.01 / (1 - 0.9**3) * m0 / (np.sqrt(v0 / (1 - 0.999**3)) + 1e-8)
    kernels.update(fn.Adam(weight_decay=0.1), w, g, [m, v], 3, 0.01)
    # the step divides by sqrt(v), which is small in places: its error is relative
    np.testing.assert_allclose(
        w, w0 - step, rtol=20 * TOLERANCE[dtype], atol=20 * TOLERANCE[dtype] * np.abs(step).max()
    )
    assert_close(m, m0, 0, dtype, scale=2)
    assert_close(v, v0, 0, dtype, scale=4)


def test_segments_have_their_own_rate_and_decay(isa, rng):
    w, g = rng.standard_normal(50), rng.standard_normal(50)
    before = w.copy()
    kernels.update(fn.SGD(), w, g, [], 1, 0.1, [(0, 7, 1.0, 0.0, 0.0), (10, 33, 0.5, 0.2, 0.3)])
    np.testing.assert_allclose(w[:7], before[:7] - 0.1 * g[:7], rtol=1e-14)
    np.testing.assert_array_equal(w[7:10], before[7:10])  # in no segment: frozen
    moved = (g + 0.2 * before + 0.3 * np.sign(before))[10:43]
    np.testing.assert_allclose(w[10:43], before[10:43] - 0.05 * moved, rtol=1e-13)
    np.testing.assert_array_equal(w[43:], before[43:])


def test_philox_gives_the_known_answers():
    # known-answer vectors that Salmon et al. (2011) published with their Random123 library
    assert kernels.philox([0] * 4, [0] * 2) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    ones = 0xFFFFFFFF
    assert kernels.philox([ones] * 4, [ones] * 2) == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)
    pi = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0]
    assert kernels.philox(*pi) == (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)


@pytest.mark.parametrize("dtype", REALS)
def test_dropout_masks_equal_the_array_program(isa, dtype):
    for shape in [(1, 1), (3, 7), (2, 64), (5, 130)]:
        for rate, seed, step, layer in [(0.5, 1, 0, 0), (0.1, 2**63 + 5, 2**33 + 7, 3), (0.999, 0, 9, 65535)]:
            mask = np.empty(shape, dtype)
            array_random.dropout_mask(np, seed, step, layer, rate, mask)
            _, got = ops.dropout(np.ones(shape, dtype), rate, seed=seed, step=step, layer=layer)
            np.testing.assert_array_equal(got, mask)


def test_dropout_keeps_the_mean():
    out, mask = ops.dropout(np.ones((1000, 1000), np.float32), 0.3, seed=1)
    assert abs(out.mean() - 1) < 4 * np.sqrt(0.3 / 0.7 / 1e6)  # four standard deviations
    assert set(np.unique(mask)) == {np.float32(0), np.float32(1 / 0.7)}


def test_shuffles_are_permutations_that_differ_by_seed_and_epoch():
    assert len(kernels.shuffle(0, 0, 0)) == 0
    assert kernels.shuffle(0, 0, 1).tolist() == [0]
    orders = {
        kernels.shuffle(seed, epoch, 100).tobytes() for seed in (0, 1, 2**63) for epoch in (0, 1, 2**40)
    }
    assert len(orders) == 9
    for order in orders:
        assert sorted(np.frombuffer(order, np.int64)) == list(range(100))
    first = np.array([kernels.shuffle(seed, 0, 4)[0] for seed in range(4000)])
    assert np.abs(np.bincount(first, minlength=4) - 1000).max() < 4 * np.sqrt(750)  # four standard deviations


def test_uniform_numbers_lie_strictly_between_zero_and_one():
    u = kernels.uniform(0, 1, 2, 100_001)
    assert 0 < u.min() < 1e-4
    assert 1 - 1e-4 < u.max() < 1
    assert abs(u.mean() - 0.5) < 4 / np.sqrt(12 * len(u))
    np.testing.assert_array_equal(u[:10], kernels.uniform(0, 1, 2, 10))
    assert u[0] != kernels.uniform(0, 1, 3, 1)[0] != kernels.uniform(0, 2, 2, 1)[0]


# ---------------------------------------------------------------- memory layouts


def layouts(a):
    """The same numbers in other places: views, gaps, Fortran order, read-only."""
    padded = np.full((a.shape[0] + 2, a.shape[1] + 5), np.nan, a.dtype)
    padded[1:-1, 2:-3] = a
    wide = np.full((2 * a.shape[0], 3 * a.shape[1]), np.nan, a.dtype)
    wide[::2, ::3] = a
    read_only = a.copy()
    read_only.flags.writeable = False
    unaligned = np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape)
    return {
        "padded": padded[1:-1, 2:-3],
        "strided": wide[::2, ::3],
        "Fortran": np.asfortranarray(a),
        "backwards": a[::-1, ::-1].copy()[::-1, ::-1],
        "read-only": read_only,
        "unaligned": unaligned,
        "byte-swapped": a.astype(a.dtype.newbyteorder()),
    }


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize(("m", "k", "n"), [(9, 21, 35), (40, 50, 3), (20, 100, 60)])  # each path of a product
def test_memory_layout_does_not_change_a_bit(isa, rng, m, k, n, dtype):
    x, w, dz = (random(rng, *shape, dtype=dtype) for shape in ((m, k), (k, n), (m, n)))
    forward, backward = ops.linear(x, w), ops.linear_backward(dz, x, w)
    for name in layouts(x):
        xl, wl, dzl = layouts(x)[name], layouts(w)[name], layouts(dz)[name]
        np.testing.assert_array_equal(ops.linear(xl, wl), forward, err_msg=name)
        for got, expected in zip(ops.linear_backward(dzl, xl, wl), backward, strict=True):
            np.testing.assert_array_equal(got, expected, err_msg=name)
        np.testing.assert_array_equal(ops.tanh(xl), ops.tanh(x), err_msg=name)
        np.testing.assert_array_equal(ops.softmax(xl), ops.softmax(x), err_msg=name)


def test_products_read_and_write_nothing_outside(isa, rng):
    """Arrays in the middle of a guard of NaN: the guard stays, and no NaN gets in."""
    for m, n, k in [(1, 1, 1), (5, 3, 7), (17, 33, 9), (30, 10, 64), (37, 3, 65)]:
        x, w = rng.standard_normal((m, k)), rng.standard_normal((k, n))
        guarded = np.full(m * n + 64, np.nan)
        out = guarded[32 : 32 + m * n].reshape(m, n)
        ops.linear(x, w, out=out)
        np.testing.assert_allclose(out, x @ w, rtol=1e-12, atol=1e-12)
        assert np.isnan(guarded[:32]).all()
        assert np.isnan(guarded[32 + m * n :]).all()


def test_several_threads_give_the_bits_of_one(rng, threads):
    shapes = [(400, 130, 70), (2, 3000, 100), (700, 5, 300)]
    for m, n, k in shapes:
        x, w, dz = rng.standard_normal((m, k)), rng.standard_normal((k, n)), rng.standard_normal((m, n))
        found = []
        for count in (1, 2, 3):
            threads(count)
            found.append([ops.linear(x, w, activation="softmax"), *ops.linear_backward(dz, x, w)])
        for other in found[1:]:
            for got, expected in zip(other, found[0], strict=True):
                np.testing.assert_array_equal(got, expected)
