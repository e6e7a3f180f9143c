"""`fastnn.ops` on arrays of CuPy, with a stand-in for it: each function beside that of NumPy's arrays.

What a real card does is not tried here; see docs/gpu.md.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from cuda_stand_in import StandIn, ndarray

import fastnn as fn
from fastnn import kernels, ops

RNG = np.random.default_rng(0)
DTYPES = ["float32", "float64"]
WEIGHT = RNG.uniform(0.5, 2, 6)
LABELS = RNG.integers(0, 4, 6)
ELEMENTWISE = RNG.standard_normal((2, 3, 4)) * 3
Z, Y = RNG.standard_normal((6, 4)), RNG.standard_normal((6, 4))
SHARES = RNG.dirichlet(np.ones(4), 6)
X, W, B = RNG.standard_normal((6, 5)), RNG.standard_normal((5, 4)), RNG.standard_normal(4)
KEY = {"seed": 2**40 + 3, "step": 5, "layer": 2, "first_row": 9}
MEAN, VAR = RNG.standard_normal(4), RNG.uniform(0.5, 2, 4)


def _steps() -> dict[str, list[dict[str, Any]]]:
    """Arguments of the steps of optimizers."""
    g, m, v = RNG.standard_normal((3, 2, 5))
    v = v * v
    common: dict[str, Any] = {"w": RNG.standard_normal((2, 5)), "g": g}
    two = {**common, "m": m, "v": v, "step": 7, "weight_decay": 0.1}
    return {
        "sgd_update": [
            {**common, "lr": 0.1},
            {**common, "velocity": m, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
            {**common, "velocity": m, "momentum": 0.9, "dampening": 0.5, "step": 2},
        ],
        "rmsprop_update": [
            {**common, "square": v},
            {**common, "square": v + 9, "velocity": m, "mean": g / 2, "momentum": 0.9, "centered": True},
        ],
        "adagrad_update": [{**common, "square_sum": v, "step": 3, "lr_decay": 0.1}],
        "adadelta_update": [{**common, "square": v, "step_square": v / 2, "weight_decay": 0.1}],
        "adam_update": [two, {**two, "largest_v": v * 1.1}],
        "adamw_update": [two, {**two, "largest_v": v * 1.1}],
        "adamax_update": [{**common, "m": m, "norm": v, "step": 4}],
        "nadam_update": [two, {**two, "decoupled_weight_decay": True}],
        "radam_update": [two, {**two, "step": 1, "decoupled_weight_decay": True}],
        "lion_update": [{**common, "m": m, "weight_decay": 0.1}],
    }


CASES: dict[str, list[dict[str, Any]]] = {
    **{name: [{"z": ELEMENTWISE}] for name in kernels.ACTIVATIONS},
    **{f"{name}_backward": [{"da": ELEMENTWISE[::-1], "z": ELEMENTWISE}] for name in kernels.ACTIVATIONS},
    "exp": [{"x": ELEMENTWISE}],
    "log": [{"x": np.array([2.0, 0.0, -1.0, np.nan, np.inf])}],
    "matmul": [{"a": X, "b": W}, {"a": X[:, :0], "b": W[:0]}, {"a": X[::-1], "b": W[:, ::-2]}],
    "linear": [
        {"x": X, "w": W},
        {"x": X, "w": W, "b": B, "activation": "gelu"},
        {"x": X, "w": W, "activation": "softmax"},
    ],
    "linear_backward": [{"dz": Z, "x": X, "w": W}, {"dz": Z, "x": X, "w": W, "need_dx": False}],
    "cross_entropy": [
        {"z": Z, "labels": LABELS},
        {"z": Z, "labels": np.where(LABELS == 1, -100, LABELS), "sample_weight": WEIGHT},
        {"z": Z, "labels": LABELS[:, None].astype(np.int16), "label_smoothing": 0.1},
        {"z": Z, "labels": SHARES, "sample_weight": WEIGHT},
    ],
    "kl_divergence": [{"z": Z, "y": SHARES}],
    "softmax_focal": [{"z": Z, "labels": LABELS, "sample_weight": WEIGHT, "gamma": 1.5}],
    "multi_margin": [{"z": Z, "labels": LABELS}, {"z": Z, "labels": LABELS, "p": 2, "margin": 0.5}],
    "binary_cross_entropy": [
        {"z": Z, "y": SHARES, "sample_weight": WEIGHT},
        {"z": Z, "y": SHARES, "pos_weight": np.array([1.0, 2.0, 3.0, 4.0])},
        {"z": Z[:, :1], "y": SHARES[:, 0]},
    ],
    "focal": [{"z": Z, "y": SHARES}, {"z": Z, "y": np.round(SHARES), "alpha": None}],
    "hinge": [{"z": Z, "y": np.sign(Y), "sample_weight": WEIGHT}],
    "mse": [{"z": Z, "y": Y}, {"z": Z, "y": Y, "sample_weight": WEIGHT * 1e-200}],
    "mae": [{"z": Z, "y": Y}],
    "huber": [{"z": Z, "y": Y, "delta": 0.5}],
    "log_cosh": [{"z": Z, "y": Y * 3}],
    "quantile": [{"z": Z, "y": Y, "q": 0.3}, {"z": Z, "y": Y[:, :2], "q": (0.1, 0.9)}],
    "poisson": [{"z": Z, "y": Y * Y}, {"z": Z * Z, "y": 9 * Y * Y, "log_input": False, "full": True}],
    "gaussian_nll": [{"z": Z, "y": Y[:, :2]}, {"z": 9 * Z, "y": Y[:, :2], "full": True}],
    "dropout": [{"x": ELEMENTWISE, "rate": 0.4, **KEY}, {"x": Z, "rate": 0.0, "seed": 1}],
    "dropout_backward": [{"dy": Z, "mask": Y}],
    "alpha_dropout": [{"x": ELEMENTWISE, "rate": 0.4, **KEY}, {"x": Z, "rate": 0, "seed": 1}],
    "alpha_dropout_backward": [{"dy": Z, "mask": Y}],
    "gaussian_noise": [{"x": ELEMENTWISE, "std": 0.5, **KEY}],
    "embedding": [
        {"codes": np.array([[0, 4], [-1, 5], [2, 2]]), "weight": W},
        {"codes": np.array([2**63, 1], np.uint64), "weight": W},
        {"codes": np.array([0, 1]), "weight": W[:0]},
    ],
    "embedding_backward": [{"dy": X, "codes": np.array([1, 1, -2, 3, 7, 0]), "n_categories": 5}],
    "layer_norm": [{"x": ELEMENTWISE}, {"x": Z, "weight": B, "bias": MEAN}, {"x": Z, "bias": B}],
    "layer_norm_backward": [{"dy": ELEMENTWISE[::-1], "x": ELEMENTWISE}, {"dy": Y, "x": Z, "weight": B}],
    "rms_norm": [{"x": ELEMENTWISE}, {"x": Z, "weight": B, "eps": 0.1}],
    "rms_norm_backward": [{"dy": Y, "x": Z}, {"dy": Y, "x": Z, "weight": B, "eps": 0.1}],
    "column_moments": [{"x": Z}],
    "batch_norm": [{"x": Z}, {"x": Z, "bias": B, "mean": MEAN, "var": VAR}],
    "batch_norm_backward": [
        {"dy": Y, "x": Z},
        {"dy": Y, "x": Z, "weight": B, "mean": MEAN, "var": VAR},
    ],
    "prelu": [{"z": ELEMENTWISE, "slope": B}, {"z": Z, "slope": np.array(0.2)}],
    "prelu_backward": [
        {"da": ELEMENTWISE[::-1], "z": ELEMENTWISE, "slope": B},
        {"da": Y, "z": Z, "slope": np.array([0.2])},
    ],
    **_steps(),
}
DOUBLE = ("sample_weight", "pos_weight")  # what stays float64 whatever the type of the others


@pytest.fixture(autouse=True)
def cp(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine where CuPy is loaded."""
    found = StandIn(n_cards=2)
    monkeypatch.setitem(sys.modules, "cupy", found)
    return found


def there(cp: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments, arrays being copied to the card as they lie, strides and all."""
    keep = ("pos_weight",)
    return {
        name: value.copy(order="K").view(ndarray)
        if isinstance(value, np.ndarray) and name not in keep
        else value
        for name, value in given.items()
    }


def copied(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments, arrays as they lie."""
    return {name: v.copy(order="K") if isinstance(v, np.ndarray) else v for name, v in given.items()}


def as_type(given: dict[str, Any], dtype: str) -> dict[str, Any]:
    def converted(name: str, value: Any) -> Any:
        is_float = isinstance(value, np.ndarray) and value.dtype.kind == "f"
        return value.astype(dtype) if is_float and name not in DOUBLE else value

    return {name: converted(name, value) for name, value in given.items()}


def assert_alike(theirs: Any, ours: Any, dtype: str) -> None:
    """The same type, shape and numbers; arrays are on the card."""
    if isinstance(theirs, tuple):
        assert isinstance(ours, tuple)
        assert len(theirs) == len(ours)
        for a, b in zip(theirs, ours, strict=True):
            assert_alike(a, b, dtype)
        return
    if isinstance(theirs, np.ndarray):
        assert type(ours) is ndarray
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        ours = ours.get()
    else:
        assert type(ours) is type(theirs)
    # Other orders of sums, other exponentials; noise is cos of large angles in float32.
    if theirs is not None:
        rtol, atol = (3e-5, 3e-6) if dtype == "float32" else (1e-10, 1e-11)
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol)


def test_all_functions_are_tried() -> None:
    assert sorted(CASES) == ops.__all__


@pytest.mark.parametrize("name", ops.__all__)
def test_a_card_gives_what_the_cpu_gives(name: str, cp: Any) -> None:
    function = getattr(ops, name)
    takes_out = "out" in inspect.signature(function.__wrapped__).parameters
    for dtype in DTYPES:
        for case in CASES[name]:
            given = as_type(case, dtype)
            mine, yours = copied(given), there(cp, given)
            expected = function(**mine)
            assert_alike(expected, function(**yours), dtype)
            for argument, value in yours.items():  # what is changed in place, and what is not
                if isinstance(value, ndarray):
                    assert_alike(mine[argument], value, dtype)
            if takes_out:
                first = expected[0] if isinstance(expected, tuple) else expected
                out = cp.full(first.shape, 7, first.dtype)
                found = function(**yours, out=out)
                assert (found[0] if isinstance(found, tuple) else found) is out
                assert_alike(expected, found, dtype)


@pytest.mark.parametrize("name", [n for n in ops.__all__ if n not in ("matmul", "linear", "embedding")])
def test_out_may_be_the_input_where_it_may_on_the_cpu(name: str, cp: Any) -> None:
    function = getattr(ops, name)
    if "out" not in inspect.signature(function.__wrapped__).parameters:
        return
    for case in CASES[name]:
        expected = function(**copied(case))
        for argument in ("da", "dy", "z", "x", "mask"):
            if argument in case:
                given = there(cp, case)
                if given[argument].flags.c_contiguous:
                    assert_alike(expected, function(**given, out=given[argument]), "float64")


def test_masks_have_the_bits_of_the_cpu(cp: Any) -> None:
    x = np.ones((7, 9), np.float32)
    for function in (ops.dropout, ops.alpha_dropout):
        y, mask = function(x, 0.3, seed=2**63 + 1, step=2**35, layer=3, first_row=2**31)
        theirs = function(cp.asarray(x), 0.3, seed=2**63 + 1, step=2**35, layer=3, first_row=2**31)
        np.testing.assert_array_equal(theirs[0].get(), y)
        np.testing.assert_array_equal(theirs[1].get(), mask)


def test_rows_of_out_may_lie_apart(cp: Any) -> None:
    room = cp.full((6, 9), 7.0)
    for name, case in (("linear", CASES["linear"][1]), ("exp", {"x": Z}), ("silu", {"z": Z})):
        out = room[:, 2:6]
        assert getattr(ops, name)(**there(cp, case), out=out) is out
        np.testing.assert_allclose(out.get(), getattr(ops, name)(**case), rtol=1e-12)
    assert (room.get()[:, :2] == 7).all()


def test_numbers_and_lists_are_no_arrays_of_another_place(cp: Any) -> None:
    z = cp.asarray(Z)
    assert_alike(ops.prelu(Z, 0.25), ops.prelu(z, 0.25), "float64")
    assert_alike(ops.mse(Z, Y.tolist()), ops.mse(z, Y.tolist()), "float64")
    half = Z.astype(np.float16)
    assert_alike(ops.relu(half), ops.relu(cp.asarray(half)), "float64")
    assert ops.ACTIVATIONS["tanh"][0](z).dtype == np.float64
    assert ops.relu(cp.asarray(Z[:0])).shape == (0, 4)


def test_arrays_in_two_places_are_refused_by_name(cp: Any) -> None:
    x, w = cp.asarray(X), cp.asarray(W)
    with pytest.raises(
        TypeError, match=r"w must be .* of CuPy as x is, got numpy.ndarray; pass cupy.asarray\(w\)"
    ):
        ops.linear(x, W)
    with pytest.raises(TypeError, match="x must be an array of CuPy as w is, got numpy"):
        ops.linear(X, w)
    with pytest.raises(TypeError, match="out must be an array of CuPy as x is, got numpy"):
        ops.linear(x, w, out=np.empty((6, 4)))
    with pytest.raises(TypeError, match="w must be an array of CuPy as g is, got numpy"):
        ops.sgd_update(W, w)
    with pytest.raises(TypeError, match="sample_weight must be an array of CuPy as z is, got numpy"):
        ops.mse(cp.asarray(Z), cp.asarray(Y), WEIGHT)
    with cp.cuda.Device(1):
        other = cp.asarray(W)
    with pytest.raises(TypeError, match="w must be on card 0 as x is, got an array on card 1"):
        ops.linear(x, other)
    assert ops.relu(other).device.id == 1


def test_what_is_wrong_is_told_as_on_the_cpu(cp: Any) -> None:
    """The same texts, but for the name of the library."""
    overlapping = np.zeros(9)
    calls: list[tuple[str, dict[str, Any]]] = [
        ("linear", {"x": X, "w": W.T}),
        ("linear", {"x": X, "w": W, "b": MEAN[:2]}),
        ("linear", {"x": X, "w": W, "activation": "rely"}),
        ("relu", {"z": Z.astype(complex)}),
        ("relu", {"z": Z, "out": np.empty((6, 4), np.float32)}),
        ("relu", {"z": Z, "out": np.empty((4, 6)).T}),
        ("softmax", {"z": np.array(1.0)}),
        ("cross_entropy", {"z": Z, "labels": LABELS + 1}),
        ("cross_entropy", {"z": Z, "labels": LABELS * 1.0}),
        ("cross_entropy", {"z": Z, "labels": SHARES * 2}),
        ("cross_entropy", {"z": Z, "labels": np.full(6, -100)}),
        ("mse", {"z": Z, "y": np.where(Y > 1, np.nan, Y)}),
        ("mse", {"z": Z.astype("f"), "y": Y * 1e60}),
        ("mse", {"z": Z, "y": Y, "sample_weight": -WEIGHT}),
        ("mse", {"z": Z, "y": Y, "sample_weight": WEIGHT * 0}),
        ("mse", {"z": Z[:0], "y": Y[:0]}),
        ("binary_cross_entropy", {"z": Z, "y": Y}),
        ("hinge", {"z": Z, "y": Y * 0}),
        ("gaussian_nll", {"z": Z[:, :3], "y": Y}),
        ("dropout", {"x": Z, "rate": 1.0, "seed": 0}),
        ("dropout", {"x": Z, "rate": 0.5, "seed": 0, "first_row": 2**32 - 2}),
        ("embedding", {"codes": X, "weight": W}),
        ("embedding_backward", {"dy": X, "codes": LABELS[:2], "n_categories": 4}),
        ("batch_norm", {"x": Z, "mean": MEAN}),
        ("batch_norm", {"x": Z, "mean": MEAN, "var": -VAR}),
        ("prelu", {"z": Z, "slope": MEAN[:2]}),
        ("sgd_update", {"w": W, "g": W.T}),
        ("sgd_update", {"w": W.T, "g": W.T}),
        ("sgd_update", {"w": W.astype(int), "g": W}),
        ("sgd_update", {"w": W, "g": W, "momentum": 0.9}),
        ("adam_update", {"w": W, "g": W, "m": W.astype("f"), "v": W, "step": 1}),
        ("adam_update", {"w": W, "g": W, "m": W}),
    ]
    for name, given in calls:
        found = []
        for arguments in (copied(given), there(cp, given)):
            if name == "sgd_update" and given["w"].shape == (4, 5):
                arguments["w"] = arguments["w"].T.copy().T
            with pytest.raises((TypeError, ValueError)) as met:
                getattr(ops, name)(**arguments)
            found.append((type(met.value), str(met.value)))
        assert found[0] == found[1]
    z = cp.asarray(overlapping)
    with pytest.raises(ValueError, match="out must not partly overlap an input"):
        ops.relu(z[:8], out=z[1:])
    with pytest.raises(ValueError, match="g must not overlap another array of the call"):
        ops.sgd_update(z[:8], z[1:])


def test_an_old_cupy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    old = StandIn()
    old.__version__ = "13.6.0"
    monkeypatch.setitem(sys.modules, "cupy", old)
    with pytest.raises(fn.DeviceError, match=r"an array of CuPy needs CuPy 14 or newer, got 13\.6\.0"):
        ops.relu(old.asarray(Z))


def test_other_arrays_load_neither_cupy_nor_this() -> None:
    code = (
        "import sys, numpy, array, fastnn.ops as ops; ops.relu(memoryview(array.array('d', [1.0]))); "
        "print([m for m in sys.modules if 'cupy' in m or 'cuda' in m or 'cards' in m])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
