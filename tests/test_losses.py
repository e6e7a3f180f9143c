"""Losses: against the reference, PyTorch and central differences; what counts for nothing."""

import math

import numpy as np
import pytest
from loss_targets import DESCRIPTIONS, targets_of, torch_rows

import fastnn as fn
from fastnn import devices, kernels, losses, ops
from fastnn.devices import array_losses
from fastnn.layers import lower, n_parameters

REALS = [np.float32, np.float64]
TOLERANCE = {np.float32: 2e-5, np.float64: 4e-14}
IDS = [repr(loss) for loss in DESCRIPTIONS]
SIZES = [
    (1, 4),
    (7, 4),
    (33, 4),
    (5, 1),
    (40, 1),
    (3, 2),
    (4, 7),
    (2, 16),
    (3, 17),
    (2, 33),
    (2, 34),
    (2, 65),
    (1, 66),
]


def fits(loss, n_out):
    """Whether a model of so many outputs has this loss."""
    several = getattr(loss, "pos_weight", None)
    if isinstance(several, tuple):
        return n_out == len(several)
    try:
        loss.n_targets(n_out)
    except ValueError:
        return False
    return True


def cases(loss, rng, dtype):
    """z and y of many shapes; soft targets too where the loss takes either."""
    for m, n in SIZES:
        if fits(loss, n):
            for soft in {False, loss.takes_soft and n > 1}:
                yield (
                    (3 * rng.standard_normal((m, n))).astype(dtype),
                    targets_of(loss, rng, m, n, dtype, soft),
                )


def compiled(loss, z, y, weight=None, scale=1.0):
    rows, dz = np.empty(len(z)), np.empty_like(z)
    kernels.loss(loss.name, z, y, weight, scale, rows, dz, loss.numbers(z.shape[1]))
    return rows, dz


def reference(loss, z, y):
    z = z.astype(float)
    dz = np.empty_like(z)
    y = y if y.dtype.kind == "i" else y.astype(float)
    return array_losses.LOSSES[loss.name](np, z, y, dz, **loss.numbers(z.shape[1])), dz


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("loss", DESCRIPTIONS, ids=IDS)
def test_compiled_equals_the_reference(isa, rng, loss, dtype):
    for z, y in cases(loss, rng, dtype):
        weight = rng.random(len(z))
        rows, dz = compiled(loss, z, y, weight, 0.25)
        expected_rows, expected = reference(loss, z, y)
        close = {"rtol": 4 * TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
        np.testing.assert_allclose(rows, expected_rows, **close)
        np.testing.assert_allclose(dz, expected * weight[:, None] * 0.25, **close)
        in_place = z.copy()
        numbers = loss.numbers(z.shape[1])
        kernels.loss(loss.name, in_place, y, weight, 0.25, rows, in_place, numbers)
        np.testing.assert_array_equal(in_place, dz)
        alone = np.empty(len(z))
        kernels.loss(loss.name, z, y, weight, 0.25, alone, None, numbers)
        np.testing.assert_array_equal(alone, rows)
        one_row, one_dz = compiled(loss, z[-1:], y[-1:], weight[-1:], 0.25)
        assert (one_row[0], one_dz[0].tobytes()) == (rows[-1], dz[-1].tobytes())
    z = np.empty((0, 4), dtype)
    rows, dz = compiled(loss, z, targets_of(loss, rng, 0, 4, dtype))
    assert (rows.shape, dz.shape) == ((0,), (0, 4))


@pytest.mark.parametrize("loss", DESCRIPTIONS, ids=IDS)
def test_every_instruction_set_gives_the_same_bits(loss):
    before = kernels.isa()
    found = []
    try:
        for name in kernels.isa_available():
            kernels.set_isa(name)
            rng = np.random.default_rng(3)
            bits = [
                array.tobytes()
                for d in REALS
                for z, y in cases(loss, rng, d)
                for array in compiled(loss, z, y)
            ]
            found.append(bits)
    finally:
        kernels.set_isa(before)
    assert all(bits == found[0] for bits in found)


@pytest.mark.parametrize("loss", DESCRIPTIONS, ids=IDS)
def test_gradients_are_central_differences(isa, rng, loss):
    for n in (4, 34) if fits(loss, 34) else (4,):
        for soft in {False, loss.takes_soft}:
            z, y = 2 * rng.standard_normal((5, n)), targets_of(loss, rng, 5, n, soft=soft)
            if loss == losses.GaussianNLL(full=True, eps=0.5):
                z[:, n // 2 :] = np.abs(z[:, n // 2 :])  # PyTorch's gradient passes through the clamp
            assert losses.check(loss, z, y, rng.random(5), rtol=1e-6) < 1e-6


@pytest.mark.torch
@pytest.mark.parametrize("loss", [*DESCRIPTIONS, losses.Poisson(log_input=False)], ids=repr)
def test_losses_and_gradients_equal_pytorchs(isa, rng, loss):
    torch = pytest.importorskip("torch")
    for m, n in [(1, 4), (7, 4), (33, 4)]:
        for soft in {False, loss.takes_soft}:
            z, y = 3 * rng.standard_normal((m, n)), targets_of(loss, rng, m, n, soft=soft)
            if loss == losses.Poisson(log_input=False):
                z = np.abs(z)
            z[0, 0] = y[0, 0] if y.ndim == 2 and loss.name in ("mae", "huber") else z[0, 0]  # at the kink
            theirs = torch.from_numpy(z.copy()).requires_grad_()
            rows = torch_rows(torch, loss, theirs, torch.from_numpy(y))
            rows.sum().backward()
            found, dz = compiled(loss, z, y)
            np.testing.assert_allclose(found, rows.detach().numpy(), rtol=1e-10, atol=1e-13)
            np.testing.assert_allclose(dz, theirs.grad.numpy(), rtol=1e-10, atol=1e-13)


@pytest.mark.torch
def test_ignored_rows_equal_pytorchs(rng):
    torch = pytest.importorskip("torch")
    z, y = rng.standard_normal((9, 4)), rng.integers(0, 4, 9)
    for index, smoothing in ((-100, 0.0), (-1, 0.2), (2, 0.1)):
        labels = np.where(np.arange(9) % 3 == 0, index, y)
        theirs = torch.from_numpy(z).clone().requires_grad_()
        expected = torch.nn.functional.cross_entropy(
            theirs, torch.from_numpy(labels), ignore_index=index, label_smoothing=smoothing
        )
        expected.backward()
        loss, dz = ops.cross_entropy(z, labels, ignore_index=index, label_smoothing=smoothing)
        assert loss == pytest.approx(expected.item(), rel=1e-12)
        np.testing.assert_allclose(dz, theirs.grad.numpy(), rtol=1e-10, atol=1e-15)


def test_values_worked_by_hand():
    third = math.log(4 / 3)
    assert ops.cross_entropy([[0, math.log(3)]], [[0.25, 0.75]])[0] == pytest.approx(
        0.25 * math.log(4) + 0.75 * third, rel=1e-14
    )
    assert ops.cross_entropy([[0, math.log(3)]], [1], label_smoothing=0.5)[0] == pytest.approx(
        0.25 * math.log(4) + 0.75 * third, rel=1e-14
    )
    loss, dz = ops.kl_divergence([[0, math.log(3)]], [[0.25, 0.75]])
    assert abs(loss) < 1e-15
    np.testing.assert_allclose(dz, 0, atol=1e-16)
    assert ops.kl_divergence([[0.0, 0.0]], [[0.0, 1.0]])[0] == pytest.approx(math.log(2), rel=1e-15)
    assert ops.binary_cross_entropy([[0.0]], [1], pos_weight=3)[0] == pytest.approx(
        3 * math.log(2), rel=1e-15
    )
    loss, dz = ops.mae([[1.0, 2.0]], [[1.0, 4.0]])
    assert (loss, dz.tolist()) == (1.0, [[0.0, -0.5]])
    loss, dz = ops.huber([[0.5], [3.0]], [0.0, 0.0], delta=2.0)
    assert (loss, dz.tolist()) == ((0.125 + 4.0) / 2, [[0.25], [1.0]])
    loss, dz = ops.quantile([[1.0, 1.0]], [3.0], q=(0.25, 0.5))
    assert (loss, dz.tolist()) == ((0.5 + 1.0) / 2, [[-0.125, -0.25]])
    loss, dz = ops.poisson([[0.0]], [2.0])
    assert (loss, dz.tolist()) == (1.0, [[-1.0]])
    loss, dz = ops.gaussian_nll([[3.0, 0.0]], [1.0])
    assert (loss, dz.tolist()) == (2.0, [[2.0, -1.5]])
    loss, dz = ops.hinge([[0.5, -2.0]], [[1, -1]])
    assert (loss, dz.tolist()) == (0.25, [[-0.5, 0.0]])
    loss, dz = ops.multi_margin([[1.0, 0.5, -3.0]], [0])
    assert (loss, dz.tolist()) == (0.5 / 3, [[-1 / 3, 1 / 3, 0.0]])
    assert ops.focal([[0.0]], [1])[0] == pytest.approx(0.25 * 0.25 * math.log(2), rel=1e-14)
    assert ops.log_cosh([[1e-5]], [0.0])[0] == pytest.approx(5e-11, rel=1e-9)
    assert ops.log_cosh([[1e30]], [0.0])[0] == 1e30


@pytest.mark.parametrize("loss", DESCRIPTIONS, ids=IDS)
def test_a_nan_makes_its_row_nan_and_no_other(isa, rng, loss):
    for n in (4, 36):
        if not fits(loss, n):
            continue
        y = targets_of(loss, rng, 3, n)
        for j in range(n):
            z = rng.standard_normal((3, n))
            z[1, j] = np.nan
            rows, dz = compiled(loss, z, y)
            assert np.isnan(rows).tolist() == [False, True, False]
            assert np.isfinite(dz[[0, 2]]).all()


def test_large_logits_and_one_class(isa):
    z = np.array([[1e4, -1e4, 0], [-1e30, 1e30, 0]], np.float32)
    for loss, y in (
        (losses.CrossEntropy(label_smoothing=0.1), np.array([0, 1])),
        (losses.KLDivergence(), np.array([[1, 0, 0], [0.5, 0.5, 0]], np.float32)),
        (losses.BinaryCrossEntropy(pos_weight=2.0), np.array([[1, 0, 1], [1, 1, 0]], np.float32)),
        (losses.Focal(gamma=0.5), np.array([[1, 0, 1], [0, 1, 0]], np.float32)),
        (losses.Focal(), np.array([[0, 1, 1], [0.5, 1, 0]], np.float32)),
    ):
        rows, dz = compiled(loss, z, y)
        assert np.isfinite(rows).all()
        assert (rows >= 0).all()
        assert np.isfinite(dz).all()
    for smoothing in (0.0, 0.3, 1.0):
        loss, dz = ops.cross_entropy([[5.0], [-3.0]], [0, 0], label_smoothing=smoothing)
        assert (loss, dz.tolist()) == (0.0, [[0.0], [0.0]])


# ---------------------------------------------------------------- programs


def programs(loss, dtype="float64", n_rows=37, optimizer=None, n_out=4):
    rng = np.random.default_rng(5)
    steps = lower((fn.Dense(9, activation="tanh"), fn.Dense(n_out)), 6)
    parameters = (0.5 * rng.standard_normal(n_parameters(steps))).astype(dtype)
    made = [
        devices.make(device, steps, parameters.copy(), loss=loss, optimizer=optimizer)
        for device in ("cpu", "numpy")
    ]
    return *made, rng.standard_normal((n_rows, 6)).astype(dtype), targets_of(loss, rng, n_rows, n_out, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", DESCRIPTIONS, ids=IDS)
def test_programs_agree_in_gradients_and_training(isa, loss, dtype):
    program, array, x, y = programs(loss, dtype, optimizer=fn.SGD(lr=0.05))
    weight = np.random.default_rng(0).random(len(x))
    close = {"rtol": 2e-4 if dtype == "float32" else 1e-10, "atol": 1e-5 if dtype == "float32" else 1e-12}
    value, gradient = program.gradient(x, y, weight)
    expected, expected_gradient = array.gradient(x, y, weight)
    assert value == pytest.approx(expected, rel=close["rtol"])
    assert program.loss(x, y, weight) == pytest.approx(value, rel=close["rtol"])
    np.testing.assert_allclose(gradient, expected_gradient, **close)
    order, rates = np.random.default_rng(1).integers(0, len(x), (10, 8)), np.full(10, 0.05)
    sums = [each.run(x, y, order, rates, weight) for each in (program, array)]
    np.testing.assert_allclose(*sums, rtol=10 * close["rtol"])


@pytest.mark.parametrize("loss", DESCRIPTIONS, ids=IDS)
def test_threads_and_instruction_sets_train_to_the_same_bits(loss, threads):
    before, found = kernels.isa(), set()
    try:
        for isa in kernels.isa_available():
            kernels.set_isa(isa)
            for n in (1, 2, 3, 4):
                threads(n)
                steps = lower((fn.Dense(64, activation="relu"), fn.Dense(4)), 32)
                rng = np.random.default_rng(2)
                parameters = (0.1 * rng.standard_normal(n_parameters(steps))).astype(np.float32)
                x, y = rng.standard_normal((300, 32)).astype("f"), targets_of(loss, rng, 300, 4, np.float32)
                program = devices.make("cpu", steps, parameters, loss=loss, optimizer=fn.Adam())
                sums = program.run(x, y, np.arange(600).reshape(4, 150) % 300, np.full(4, 0.01))
                found.add((parameters.tobytes(), sums))
    finally:
        kernels.set_isa(before)
    assert len(found) == 1


# ---------------------------------------------------------------- labels that count for nothing


@pytest.mark.parametrize("device", ["cpu", "numpy"])
@pytest.mark.parametrize("index", [-100, 7, 1])
def test_ignored_rows_count_for_nothing(device, index, rng):
    x = rng.standard_normal((40, 3))
    y = np.where(rng.random(40) < 0.3, index, rng.choice([0, 2, 3], 40))
    kept = y != index

    def trainer():
        model = fn.Sequential(fn.Dense(8, activation="tanh"), fn.Dense(4), dtype="float64").build(3, seed=1)
        loss = fn.CrossEntropy(ignore_index=index)
        return fn.Trainer(model, loss, fn.SGD(lr=0.1), ["accuracy", "log_loss"], device=device, seed=0)

    one = trainer()
    loss, gradient = one.gradient(x, y)
    expected, expected_gradient = one.gradient(x[kept], y[kept])
    assert loss == pytest.approx(expected, rel=1e-14)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-10, atol=1e-14)
    found, without = one.evaluate(x, y), one.evaluate(x[kept], y[kept])
    assert found == pytest.approx(without, rel=1e-12)
    weight = rng.random(40)
    assert one.evaluate(x, y, weight) == pytest.approx(
        one.evaluate(x[kept], y[kept], weight[kept]), rel=1e-12
    )
    assert one.partial_fit(x, y) == pytest.approx(expected, rel=1e-12)
    before = one.model.parameters.copy()
    one.run(x, y, np.flatnonzero(~kept)[None, :4])  # a batch without weight
    np.testing.assert_array_equal(one.model.parameters, before)
    history = one.fit(x, y, epochs=3, batch_size=8, class_weight="balanced", validation_split=0.25)
    assert np.isfinite(history["val_loss"]).all()
    for act in (
        lambda: one.gradient(x[~kept], y[~kept]),
        lambda: one.evaluate(x[~kept], y[~kept]),
        lambda: one.fit(x[~kept], y[~kept]),
        lambda: one.partial_fit(x[~kept], y[~kept]),
        lambda: ops.cross_entropy(x[~kept], y[~kept] * 0 - 1, ignore_index=-1),
    ):
        with pytest.raises(ValueError, match="whose label is not ignore_index"):
            act()
    with pytest.raises(ValueError, match="labels from 0 to 3, got -5 in row 2"):
        one.gradient(x, np.where(np.arange(40) == 2, -5, y))


def test_balanced_weights_do_not_count_ignored_rows():
    x, y = np.ones((6, 2)), np.array([0, 0, 1, -100, -100, -100])
    from fastnn.samples import Task
    from fastnn.validation import share_out

    loss = fn.CrossEntropy()
    task = Task((fn.Dense(2),), 2, np.dtype(np.float64), loss, ())
    sample = task.sample_of(x, y, None, ("x", "y", "sample_weight"))
    _, weights, _ = share_out(
        task, sample, validation_data=None, validation_split=0.0, class_weight="balanced", seed=0
    )
    np.testing.assert_allclose(weights, [0.75, 0.75, 1.5, 0, 0, 0])


# ---------------------------------------------------------------- the door


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (lambda: ops.hinge([[1.0]], [0]), r"y must hold -1 or 1, got \[0.0\] in row 0"),
        (lambda: ops.poisson([[1.0]], [-1]), "y must be at least 0, got -1"),
        (lambda: ops.kl_divergence([[1.0, 2.0]], [[1.0, 1.0]]), "y must have rows that sum to 1"),
        (lambda: ops.cross_entropy([[1.0, 2.0]], [[1.0, 1.0]]), "labels must have rows that sum to 1"),
        (lambda: ops.cross_entropy([[1.0, 2.0]], [[1.5, -0.5]]), "labels must lie from 0 to 1, got 1.5"),
        (
            lambda: ops.gaussian_nll([[1.0, 2.0, 3.0]], [1.0]),
            "multiple of 2 outputs for loss 'gaussian_nll', got 3",
        ),
        (
            lambda: ops.quantile([[1.0, 2.0]], [[1.0, 2.0]], q=(0.1, 0.9)),
            r"y must have shape \(1,\) or \(1, 1\)",
        ),
        (lambda: ops.binary_cross_entropy([[1.0]], [1], pos_weight=[1, 2]), "pos_weight must have 1 numbers"),
        (lambda: ops.binary_cross_entropy([[1.0]], [1], pos_weight=-1), "pos_weight must be at least 0"),
        (lambda: losses.CrossEntropy(1.5), "label_smoothing must be from 0 to 1, got 1.5"),
        (lambda: losses.Huber(0), "delta must be above 0"),
        (lambda: losses.Quantile(0), "q must be above 0"),
        (lambda: losses.Quantile((0.5, 1.0)), r"q\[1\] must be at least 0 and below 1"),
        (lambda: losses.Quantile(()), "q must hold at least one number"),
        (lambda: losses.SoftmaxFocal(gamma=-1), "gamma must be at least 0"),
        (lambda: losses.MultiMargin(p=3), "p must be from 1 to 2, got 3"),
        (lambda: losses.Focal(gamma=-1), "gamma must be at least 0"),
        (lambda: losses.GaussianNLL(eps=0), "eps must be"),
        (lambda: losses.get("hubber"), "did you mean 'huber'"),
    ],
)
def test_wrong_arguments_are_named(act, text):
    with pytest.raises(ValueError, match=text):
        act()


def test_a_name_stands_for_the_defaults_and_numbers_are_those_of_the_kernels():
    for name in kernels.LOSSES:
        loss = losses.get(name)
        assert loss.name == name
        plain = name in ("cross_entropy", "binary_cross_entropy")  # needs none
        assert set(loss.numbers(4)) == (set() if plain else set(kernels.LOSS_NUMBERS[name]))
        assert getattr(fn, type(loss).__name__) is type(loss)
    with pytest.raises(ValueError, match="loss 'huber' must be given the numbers delta"):
        kernels.Loss("huber", None, 3, 8)


@pytest.mark.parametrize("loss", DESCRIPTIONS, ids=IDS)
def test_checkpoints_keep_every_loss(loss, tmp_path, rng):
    x, y = rng.standard_normal((8, 3)), targets_of(loss, rng, 8, 4)
    made = [fn.Trainer(fn.Sequential(fn.Dense(4), dtype="float64"), loss, fn.SGD(), seed=0) for _ in range(2)]
    made[0].fit(x, y, epochs=2)
    made[0].save_checkpoint(tmp_path / "c")
    made[1].resume(tmp_path / "c")
    assert made[1].evaluate(x, y) == made[0].evaluate(x, y)


# ---------------------------------------------------------------- focal, of classes


def test_softmax_focal_by_hand(isa, rng):
    # of two even classes p is one half
    assert ops.softmax_focal([[3.0, 3.0]], [1])[0] == pytest.approx(0.25 * math.log(2), rel=1e-14)
    z, labels, weight = rng.standard_normal((9, 37)), rng.integers(0, 37, 9), rng.random(9)
    for columns in (2, 5, 37):  # without gamma it is the cross-entropy
        given = z[:, :columns], labels % columns, weight
        (loss, dz), (expected, expected_dz) = ops.softmax_focal(*given, gamma=0.0), ops.cross_entropy(*given)
        assert loss == pytest.approx(expected, rel=1e-14)
        np.testing.assert_allclose(dz, expected_dz, rtol=1e-12, atol=1e-15)
    assert ops.softmax_focal([[5.0]], [0])[0] == 0


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.7])
def test_softmax_focal_of_sure_rows_keeps_its_digits(isa, gamma):
    for gap in (
        1.0,
        20.0,
        60.0,
        300.0,
    ):  # of two classes: q = 1 / (1 + exp(gap)), the cross-entropy log1p(exp(-gap))
        e = math.exp(-gap)
        q, cross = e / (1 + e), math.log1p(e)
        loss, dz = ops.softmax_focal([[gap, 0.0]], [0], gamma=gamma)
        slope = q ** (1 + gamma) * (1 + gamma * (1 - q) * cross / q)
        assert loss == pytest.approx(q**gamma * cross, rel=1e-11, abs=1e-300)
        np.testing.assert_allclose(dz, [[-slope, slope]], rtol=1e-11, atol=1e-300)
    loss, dz = ops.softmax_focal([[2000.0, 0.0]], [0], gamma=gamma)  # q is 0
    assert loss == 0
    assert not dz.any()
    assert ops.softmax_focal([[-2000.0, 0.0]], [0], gamma=gamma)[0] == 2000
