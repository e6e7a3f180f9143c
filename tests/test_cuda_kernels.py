"""Each kernel of kernels_*.cu, run on the CPU, against NumPy and the array program. No card is needed."""

from __future__ import annotations

from typing import Any

import cuda_on_cpu
import numpy as np
import pytest
from loss_targets import targets_of

import fastnn as fn
from fastnn import kernels
from fastnn.devices import array_optimizers, cuda_constants
from fastnn.devices.array_activations import ACTIVATIONS, SLOPES, with_gradient
from fastnn.devices.array_losses import LOSSES, told_rows
from fastnn.devices.array_random import dropout_mask
from fastnn.devices.cuda_kernels import NO_ARRAY, source
from fastnn.devices.cuda_step import _LOSSES as CAPTURED_LOSSES
from fastnn.steps import Objective

pytestmark = pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="needs a C++ compiler")

F32 = np.float32
PLAIN = [name for name in ACTIVATIONS if name not in ("softmax", "log_softmax")]


def launch(name: str, n_blocks: int | tuple[int, int], *arguments: Any, threads: int = 256) -> None:
    grid = n_blocks if isinstance(n_blocks, tuple) else (n_blocks,)
    cuda_on_cpu.compiled(source())[name](grid, threads, arguments)


def number(names: Any, name: str) -> np.int32:
    return np.int32(list(names).index(name))


def act(name: str) -> np.int32:
    return number(kernels.ACTIVATIONS, name)


# ---------------------------------------------------------------- activations

POINTS = np.array(
    [
        -np.inf,
        -200,
        -30,
        -6,
        -3,
        -1.5,
        -1,
        -0.3,
        -1e-5,
        -0.0,
        0,
        1e-5,
        0.4,
        1,
        2.5,
        3,
        6,
        19.9,
        21,
        45,
        200,
        np.nan,
    ],
    F32,
)


@pytest.mark.parametrize("name", PLAIN)
def test_activations_are_those_of_the_array_program(name: str) -> None:
    z = POINTS if SLOPES.get(name) is None else POINTS[np.isfinite(POINTS) | (POINTS < 0)]
    out = np.empty_like(z)
    launch("activation", 1, z, out, np.int64(z.size), act(name))
    expected = z.reshape(1, -1).copy()
    with np.errstate(all="ignore"):
        ACTIVATIONS[name][0](np, expected)
    # expf and the like of two libraries; sums of them that cancel near 0
    np.testing.assert_allclose(out, expected[0], rtol=3e-6, atol=1e-7)


@pytest.mark.parametrize("name", PLAIN)
def test_slopes_are_those_of_the_array_program(name: str) -> None:
    z = POINTS[np.isfinite(POINTS)].reshape(1, -1)
    da, expected = np.full_like(z, 0.7), np.full_like(z, 0.7)
    with np.errstate(all="ignore"):
        a = z.copy()
        with_gradient(np, name, a, expected)
    kept = z if name in SLOPES else a
    db = np.empty(z.size, F32)
    launch("slope_and_bias", 1, da, kept.copy(), act(name), np.int32(1), np.int32(z.size), db)
    np.testing.assert_allclose(da, expected, rtol=1e-5, atol=2e-6)
    np.testing.assert_array_equal(db, da[0])


@pytest.mark.parametrize("shape", [(1, 1), (3, 31), (17, 33), (70, 97)])
def test_bias_gradients_are_sums_of_columns(shape: tuple[int, int], rng: Any) -> None:
    m, n = shape
    da, db = rng.standard_normal(shape).astype(F32), np.empty(n, F32)
    before = da.copy()
    launch("slope_and_bias", -(-n // 32), da, NO_ARRAY, np.int32(0), np.int32(m), np.int32(n), db)
    np.testing.assert_array_equal(da, before)
    np.testing.assert_allclose(db, before.sum(axis=0, dtype=np.float64), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("n", [1, 3, 33, 100])
def test_softmax_and_its_slope(name: str, n: int, rng: Any) -> None:
    m, logarithm = 9, np.int32(name == "log_softmax")
    z, da = 4 * rng.standard_normal((m, n)).astype(F32), rng.standard_normal((m, n)).astype(F32)
    a, d = z.copy(), da.copy()
    with_gradient(np, name, a, d)
    launch("softmax", 2, z, z, np.int32(m), np.int32(n), logarithm)
    np.testing.assert_allclose(z, a, rtol=2e-6, atol=2e-6)
    launch("softmax_slope", 2, z, da, np.int32(m), np.int32(n), logarithm)
    np.testing.assert_allclose(da, d, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- products


def chain(a: Any, b: Any) -> Any:
    """a b, each element one chain of FMAs in the order of k, as the CPU's kernels have it."""
    out = np.empty((len(a), b.shape[1]), F32)
    kernels.matmul(np.ascontiguousarray(a), np.ascontiguousarray(b), None, "identity", out)
    return out


@pytest.mark.parametrize("side", [32, 64, 128])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (33, 65, 31), (70, 129, 40)])
def test_products_have_the_bits_of_the_cpu(side: int, m: int, n: int, k: int, rng: Any) -> None:
    a, b = rng.standard_normal((m, k)).astype(F32), rng.standard_normal((k, n)).astype(F32)
    bias, expected = rng.standard_normal(n).astype(F32), chain(a, b)
    grid, sizes = (-(-n // side), -(-m // side)), (np.int32(m), np.int32(n), np.int32(k))
    for form, left, right in (("nn", a, b), ("nt", a, b.T.copy()), ("tn", a.T.copy(), b)):
        out, z = np.full((m, n), np.nan, F32), np.empty((m, n), F32)
        launch(f"matmul_{form}_{side}", grid, left, right, *sizes, out, NO_ARRAY, act("identity"), NO_ARRAY)
        np.testing.assert_array_equal(out, expected)
        launch(f"matmul_{form}_{side}", grid, left, right, *sizes, out, bias, act("relu"), z)
        np.testing.assert_array_equal(z, expected + bias)
        np.testing.assert_array_equal(out, np.maximum(z, 0))
    launch(f"matmul_nn_{side}", grid, a, b, *sizes, out, bias, act("tanh"), NO_ARRAY)
    np.testing.assert_allclose(out, np.tanh(z), rtol=1e-6, atol=1e-7)


def tf32(v: Any) -> Any:
    """Ties away from zero, 10 bits."""
    return ((v.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(F32)


def bf16(v: Any) -> Any:
    """Ties to even, 7 bits."""
    bits = v.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(F32)


@pytest.mark.parametrize(("name", "rounded", "error"), [("tf32", tf32, 2**-11), ("bf16", bf16, 2**-9)])
@pytest.mark.parametrize(("m", "n", "k"), [(5, 3, 1), (65, 33, 40)])
def test_rounded_products_round_what_they_multiply(
    name: str, rounded: Any, error: float, m: int, n: int, k: int, rng: Any
) -> None:
    a, b = rng.standard_normal((m, k)).astype(F32), rng.standard_normal((k, n)).astype(F32)
    expected = rounded(a).astype(np.float64) @ rounded(b).astype(np.float64)
    sizes = (np.int32(m), np.int32(n), np.int32(k))
    for form, left, right in (("nn", a, b), ("nt", a, b.T.copy()), ("tn", a.T.copy(), b)):
        out, bias = np.empty((m, n), F32), rng.standard_normal(n).astype(F32)
        kernel, grid = f"matmul_{form}_{name}", (-(-n // 64), -(-m // 64))
        launch(
            kernel, grid, left, right, *sizes, out, bias, act("gelu"), z := np.empty_like(out), threads=128
        )
        np.testing.assert_allclose(z, expected + bias, rtol=0, atol=1e-5)
        gelu = z.copy()
        ACTIVATIONS["gelu"][0](np, gelu)
        np.testing.assert_allclose(out, gelu, rtol=1e-5, atol=1e-6)
    # The stated error: two operands of relative error `error` or less.
    bound = 2.01 * error * (np.abs(a).astype(np.float64) @ np.abs(b).astype(np.float64))
    assert (np.abs(expected - a.astype(np.float64) @ b.astype(np.float64)) <= bound).all()


# ---------------------------------------------------------------- losses

STOPPED = {"none": 0, "loss": 1, "input": 2}


def weights(m: int, rng: Any) -> Any:
    w = rng.uniform(0, 2, m)
    w[m // 2] = 0
    return np.append(w, w.sum())


def objective(given: Objective = Objective()) -> tuple[Any, ...]:  # noqa: B008
    """What a loss is given of it."""
    return F32(given.factor), *map(np.float64, (given.told, given.floor, given.cap, given.limit))


@pytest.mark.parametrize("n", [2, 10, 37])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(n: int, smoothing: float, rng: Any) -> None:
    m = 11
    z, y = 5 * rng.standard_normal((m, n)).astype(F32), rng.integers(0, n, m)
    w, dz, loss, expected = weights(m, rng), np.empty((m, n), F32), np.empty(m), np.empty((m, n), F32)
    rows = LOSSES["cross_entropy"](np, z, y, expected, smoothing=smoothing)
    sizes = np.int32(m), np.int32(n)
    launch("cross_entropy", 2, z, y, w, *sizes, F32(smoothing), *objective(), dz, loss)
    np.testing.assert_allclose(loss, rows, rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(dz, expected * (w[:-1] / w[-1])[:, None], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", [name for name in CAPTURED_LOSSES if name != "cross_entropy"])
def test_losses_of_values(name: str, rng: Any) -> None:
    m, n = 9, 35
    z, y = 2 * rng.standard_normal((m, n)).astype(F32), targets_of(name, rng, m, n).astype(F32)
    numbers = {"delta": 0.7} if name == "huber" else {}
    w, dz, loss, expected = weights(m, rng), np.empty((m, n), F32), np.empty(m), np.empty((m, n), F32)
    rows = LOSSES[name](np, z, y, expected, **numbers)
    sizes = np.int32(m), np.int32(n)
    arrays = z, y, w, *sizes
    launch("loss_of_values", 2, number(kernels.LOSSES, name), F32(0.7), *arrays, *objective(), dz, loss)
    np.testing.assert_allclose(loss, rows, rtol=3e-6, atol=1e-6)
    np.testing.assert_allclose(dz, expected * (w[:-1] / w[-1])[:, None], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["cross_entropy", "binary_cross_entropy", "mse"])
def test_losses_are_told_and_cut_as_the_array_program_has_it(name: str, rng: Any) -> None:
    m, n = 9, 5
    cuts = {"floor": 0.3, "cap": 2.0} if name != "mse" else {}
    given = Objective(factor=2.5, told=0.5, limit=18.0, **cuts)
    z, w, expected = 3 * rng.standard_normal((m, n)).astype(F32), weights(m, rng), np.empty((m, n), F32)
    y = targets_of(name, rng, m, n)
    y = y if y.ndim == 1 else y.astype(F32)
    rows = LOSSES[name](np, z, y, expected)
    rows[4] = 10  # beyond the limit, as below
    z[4] = [40, -40, 40, -40, 40] if name == "binary_cross_entropy" else 20
    if y.ndim == 1:
        z[4, y[4]] = 0
    else:
        y[4] = 0
    dz, loss, sizes = np.empty((m, n), F32), np.empty(m), (np.int32(m), np.int32(n))
    if name == "cross_entropy":
        launch(name, 2, z, y, w, *sizes, F32(0), *objective(given), dz, loss)
    else:
        kind = number(kernels.LOSSES, name)
        launch("loss_of_values", 2, kind, F32(0), z, y, w, *sizes, *objective(given), dz, loss)
    assert np.isnan(loss[4])
    told = given.told * told_rows(np, name, z, y, rows, given)
    rest = np.arange(m) != 4
    np.testing.assert_allclose(loss[rest], told[rest], rtol=3e-6)
    scales = 2.5 * w[:-1] / w[-1]
    np.testing.assert_allclose(dz[rest], (expected * scales[:, None])[rest], rtol=1e-5, atol=1e-7)


def test_a_penalty_and_its_slope(rng: Any) -> None:
    w, g = (rng.standard_normal(700).astype(F32) for _ in range(2))
    expected = g + 0.3 / 2.5 * w
    launch("penalty_slope", 3, g, w, np.int64(w.size), np.array([2.5]), np.float64(0.3))
    np.testing.assert_allclose(g, expected, rtol=1e-6, atol=1e-6)
    before = g.copy()
    launch("penalty_slope", 3, g, w, np.int64(w.size), np.zeros(1), np.float64(0.3))
    np.testing.assert_array_equal(g, before)


@pytest.mark.parametrize(
    ("bad", "flag", "why"), [(0.5, 0, "none"), (np.nan, 0, "loss"), (np.inf, 0, "loss"), (0.5, 1, "input")]
)
def test_a_loss_or_input_that_is_not_finite_stops_before_the_update(bad: float, flag: int, why: str) -> None:
    m = 300
    loss, w = np.full(m, 2.0), np.append(np.full(m, 0.5), m * 0.5)
    loss[-1], w[m - 1] = bad, 0  # of a row without weight too
    progress, sums = np.array([3, 7, 0, flag]), np.array([1.0, 2.0])
    squares, told = np.array([4.0, 6.0, 1e9]), np.full(5, -1.0)
    sources = np.array([0, 0, 0, 0, 0, told.ctypes.data], np.uint64)
    penalty = squares, np.int32(2), np.float64(0.05)
    launch("loss_total", 1, loss, w, np.int32(m), *penalty, sources, progress, sums)
    assert progress[2] == STOPPED[why]
    batch = 0.5 * 2.0 * (m - 1) + 0.5
    expected = [1.0 + batch, 2.0 + w[-1]] if why == "none" else [1.0, 2.0]
    np.testing.assert_allclose(told, [-1, -1, -1, batch if why == "none" else -1, -1])
    np.testing.assert_allclose(sums, expected, rtol=1e-12)
    launch("advance", 1, progress)
    assert progress[:2].tolist() == ([4, 8] if why == "none" else [3, 7])


# ---------------------------------------------------------------- rows, dropout, scale


@pytest.mark.parametrize("dtype", [F32, np.uint8])
def test_rows_are_gathered_in_the_order_of_the_step(dtype: Any, rng: Any) -> None:
    x, y, w = rng.integers(0, 255, (50, 7)).astype(dtype), rng.integers(0, 5, 50), rng.uniform(0, 1, 50)
    targets, order = rng.standard_normal((50, 3)).astype(F32), rng.integers(0, 50, (4, 9))
    sources = np.array([a.ctypes.data for a in (x, y, w, order)] + [0], np.uint64)
    progress, m = np.array([2, 0, 0, 0]), np.int32(9)
    out, weight, labels = np.empty((9, 7), F32), np.empty(10), np.empty(9, np.int64)
    launch("gather_floats" if dtype == F32 else "gather_bytes", 1, sources, progress, m, np.int32(7), out)
    np.testing.assert_array_equal(out, x[order[2]])
    launch("gather_weights", 1, sources, progress, m, weight, labels)
    np.testing.assert_array_equal(weight[:9], w[order[2]])
    np.testing.assert_allclose(weight[9], w[order[2]].sum(), rtol=1e-14)
    np.testing.assert_array_equal(labels, y[order[2]])
    sources[1], sources[2] = targets.ctypes.data, 0
    launch("gather_weights", 1, sources, progress, m, weight, NO_ARRAY)
    np.testing.assert_array_equal(weight, [*[1.0] * 9, 9.0])
    found = np.empty((9, 3), F32)
    launch("gather_targets", 1, sources, progress, m, np.int32(3), found)
    np.testing.assert_array_equal(found, targets[order[2]])
    assert progress[3] == 0
    if dtype == F32:
        x[order[2, 4], 1] = np.inf
        launch("gather_floats", 1, sources, progress, m, np.int32(7), out)
        assert progress[3] == 1


@pytest.mark.parametrize("n", [1, 4, 5, 130])
@pytest.mark.parametrize("step", [0, 3, 2**33 + 5])
def test_dropout_has_the_masks_of_the_other_devices(n: int, step: int, rng: Any) -> None:
    m, rate, seed, layer = 7, 0.3, 2**40 + 17, 4
    x, out, mask = rng.standard_normal((m, n)).astype(F32), np.empty((m, n), F32), np.empty((m, n), F32)
    dropout_mask(np, seed, step, layer, rate, mask)
    numbers = np.uint32(layer), np.uint32(int(rate * 2**32 + 0.5)), F32(1 / (1 - rate))
    progress = np.array([0, step, 0, 0])
    launch("dropout", 4, x, out, np.int32(m), np.int32(n), np.uint64(seed), progress, *numbers)
    np.testing.assert_array_equal(out, x * mask)


def test_scale_by_one_number_and_by_columns(rng: Any) -> None:
    x, factors, shifts = (rng.standard_normal(s).astype(F32) for s in ((5, 7), 7, 7))
    out = np.empty_like(x)
    launch("scale", 1, x, out, np.int64(35), np.int32(7), F32(0.3), F32(-1.0), NO_ARRAY, NO_ARRAY)
    np.testing.assert_array_equal(out, x * F32(0.3) + F32(-1.0))
    launch("scale", 1, x, out, np.int64(35), np.int32(7), F32(1), F32(0), factors, shifts)
    np.testing.assert_array_equal(out, x * factors + shifts)


# ---------------------------------------------------------------- updates

OPTIMIZERS = [
    fn.SGD(weight_decay=0.1, l1=0.01),
    fn.SGD(momentum=0.9, dampening=0.5, clip_value=0.5),
    fn.SGD(momentum=0.9, nesterov=True),
    fn.RMSprop(),
    fn.RMSprop(momentum=0.5),
    fn.RMSprop(centered=True),
    fn.RMSprop(centered=True, momentum=0.5, weight_decay=0.1),
    fn.Adagrad(lr_decay=0.1),
    fn.Adadelta(lr=0.5),
    fn.Adam(weight_decay=0.01),
    fn.Adam(amsgrad=True, clip_norm=1.0, clip_value=0.9),
    fn.Adam(eps_hat=True),
    fn.AdamW(clip_norm=0.5),
    fn.Adamax(),
    fn.NAdam(weight_decay=0.1, decoupled_weight_decay=True),
    fn.RAdam(lr=0.01),
    fn.Lion(),
]


@pytest.mark.parametrize("o", OPTIMIZERS, ids=repr)
def test_updates_are_those_of_the_array_program(o: Any, rng: Any) -> None:
    n, n_steps = 300, 8
    w = rng.standard_normal(n)
    state = np.full((max(1, o.n_states), n), getattr(o, "initial_accumulator_value", 0.0))
    mine, s = w.astype(F32), state.astype(F32)
    w = mine.astype(np.float64)
    rule = fn.optimizers.Rule(0, n, 0, 0.7, o.weight_decay, o.l1, 0.0, False)
    rates = np.linspace(1, 0.5, n_steps) * o.lr
    table = cuda_constants.table(o, (rule,), rates, None, 0)
    progress, factor, partial = np.zeros(4, np.int64), np.ones(1, F32), np.zeros(64)
    sources = np.array([0, 0, 0, 0, table.ctypes.data], np.uint64)
    clip = F32(o.clip_value or 0)
    for t in range(1, n_steps + 1):
        g = rng.standard_normal(n).astype(F32)
        expected = g.astype(np.float64)
        if o.clip_norm is not None:
            launch("sum_of_squares", 2, g, np.int64(n), clip, partial)
            launch("norm_factor", 1, partial, np.int32(2), np.float64(o.clip_norm), factor)
            if o.clip_value is not None:
                np.clip(expected, -o.clip_value, o.clip_value, out=expected)
            array_optimizers.clip_norm(np, expected, o.clip_norm)
        array_optimizers.update(np, o, [rule], w, expected, state, rates[t - 1], t)
        decay = F32(0 if array_optimizers.is_decoupled(o) else o.weight_decay)
        arrays = mine, g, s, np.int64(n), np.int64(n), sources, progress, np.int32(0), np.int32(1)
        numbers = decay, F32(o.l1), clip, factor if o.clip_norm is not None else NO_ARRAY
        kind = number(kernels.OPTIMIZERS, o.name)
        launch("update", 2, kind, cuda_constants.flags_of(o), *arrays, *numbers)
        launch("advance", 1, progress)
    # float32 against float64
    np.testing.assert_allclose(mine, w, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(s[: o.n_states], state[: o.n_states], rtol=2e-5, atol=2e-6)
    progress[2], before = 1, mine.copy()
    launch("update", 2, kind, cuda_constants.flags_of(o), *arrays, *numbers)
    np.testing.assert_array_equal(mine, before)  # a training that has stopped


def test_the_moving_average_begins_with_the_first_weights(rng: Any) -> None:
    w, mean = rng.standard_normal(5).astype(F32), np.zeros(5, F32)
    progress = np.zeros(4, np.int64)
    launch("average", 1, mean, w, np.int64(5), progress, F32(0.25))
    np.testing.assert_array_equal(mean, w)
    progress[1] = 1
    launch("average", 1, mean, np.zeros(5, F32), np.int64(5), progress, F32(0.25))
    np.testing.assert_array_equal(mean, F32(0.75) * w)


def test_rules_that_say_the_same_are_one_launch() -> None:
    rule = fn.optimizers.Rule(0, 4, 0, 1.0, 0.1, 0.0, 0.0, False)
    rules = [
        rule,
        fn.optimizers.Rule(4, 2, 0, 1.0, 0.1, 0.0, 0.0, False),
        fn.optimizers.Rule(6, 2, 0, 0.5, 0.1, 0.0, 0.0, False),
    ]
    assert [(r.offset, r.length) for r in cuda_constants.merged(tuple(rules))] == [(0, 6), (6, 2)]


def test_arguments_of_the_wrong_type_are_found_out() -> None:
    out = np.zeros(3, F32)
    with pytest.raises(TypeError, match="argument 1 of fill, a i64: got int32"):
        launch("fill", 1, out, np.int32(3), F32(1))
    with pytest.raises(TypeError, match="argument 0 of fill, a float"):
        launch("fill", 1, out.astype(np.float64), np.int64(3), F32(1))
