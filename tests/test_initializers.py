"""Initial weights: the normal quantile, the methods' variances, and the default for each activation."""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn as fn
from fastnn import initializers
from fastnn.initializers import (
    INITIALIZERS,
    Constant,
    Orthogonal,
    TruncatedNormal,
    default_for,
    draw,
    normal_quantile,
)

# The variance that each method's paper asks for.
VARIANCE = {
    "glorot": lambda n_in, n_out: 2 / (n_in + n_out),
    "he": lambda n_in, n_out: 2 / n_in,
    "lecun": lambda n_in, n_out: 1 / n_in,
}


def test_normal_quantile_agrees_with_the_standard_library() -> None:
    p = np.concatenate([np.linspace(1e-6, 1 - 1e-6, 4001), 10.0 ** -np.arange(2, 300, 7)])
    expected = np.array([statistics.NormalDist().inv_cdf(v) for v in p])
    # Both are AS 241; they differ in the order of a few operations.
    np.testing.assert_allclose(normal_quantile(p), expected, rtol=2e-15, atol=2e-16)


@pytest.mark.parametrize(
    ("p", "quantile"),
    [(0.5, 0.0), (0.975, 1.959963984540054), (1e-10, -6.361340902404056), (0.25, -0.6744897501960817)],
)
def test_normal_quantile_of_known_points(p: float, quantile: float) -> None:
    assert normal_quantile(np.array([p]))[0] == pytest.approx(quantile, rel=1e-15, abs=1e-300)


@pytest.mark.parametrize("name", [n for n in INITIALIZERS if n.split("_")[0] in VARIANCE])
def test_variance_is_that_of_the_paper(name: str) -> None:
    n_in, n_out = 300, 150
    w = draw(name, n_in, n_out, seed=1, layer=0)
    expected = VARIANCE[name.split("_")[0]](n_in, n_out)
    # 45,000 draws: the standard error of the variance is below 0.7 % of it, that of the mean 0.5 % of
    # the deviation.
    assert w.var() == pytest.approx(expected, rel=0.03)
    assert abs(w.mean()) < 0.02 * math.sqrt(expected)
    if name.endswith("uniform"):
        assert abs(w).max() < math.sqrt(3 * expected)
    else:
        assert 4 * math.sqrt(expected) < abs(w).max() < 6.5 * math.sqrt(expected)


def test_truncated_normal_has_the_moments_of_what_is_left() -> None:
    w = draw(TruncatedNormal(std=0.5, mean=3.0), 300, 150, seed=1, layer=0)
    assert 2.0 < w.min() < 2.01
    assert 3.99 < w.max() < 4.0
    assert w.mean() == pytest.approx(3.0, abs=0.01)
    # 1 - 2 * 2 * density(2) / (1 - 2 * Phi(-2)) of the variance
    assert w.var() == pytest.approx(0.25 * 0.7737413, rel=0.02)
    named = draw("truncated_normal", 4, 5, seed=1, layer=0)
    np.testing.assert_array_equal(named, draw(TruncatedNormal(), 4, 5, seed=1, layer=0))


@pytest.mark.parametrize(
    ("n_in", "n_out"), [(1, 1), (1, 7), (7, 1), (5, 5), (33, 17), (17, 33), (64, 64), (130, 131)]
)
def test_orthogonal_is_the_q_of_normal_numbers(n_in: int, n_out: int) -> None:
    w = draw("orthogonal", n_in, n_out, seed=4, layer=1)
    few = min(n_in, n_out)
    gram = w.T @ w if n_in >= n_out else w @ w.T
    np.testing.assert_allclose(gram, np.eye(few), atol=1e-14)
    numbers = normal_quantile(fn.kernels.uniform(4, 1, 0, n_in * n_out)).reshape(n_in, n_out)
    q, r = np.linalg.qr(numbers if n_in >= n_out else numbers.T)
    q *= np.sign(np.diag(r))
    np.testing.assert_allclose(w, q if n_in >= n_out else q.T, atol=1e-9)  # Q is as well conditioned as R
    scaled = draw(Orthogonal(gain=3.0), n_in, n_out, seed=4, layer=1)
    np.testing.assert_array_equal(scaled, 3.0 * w)


def test_initializers_with_parameters_reach_the_weights_and_files(tmp_path: Path) -> None:
    layers = (
        fn.Dense(5, "selu", weight_init=Constant(0.1)),
        fn.Dense(4, weight_init=TruncatedNormal(std=0.1)),
        fn.Dense(3, weight_init=Orthogonal(gain=2.0)),
    )
    model = fn.Sequential(*layers).build(6, seed=3)
    assert (model.weights["0.weight"] == np.float32(0.1)).all()
    assert 0 < abs(model.weights["1.weight"]).max() < 0.2
    w = model.weights["2.weight"]
    np.testing.assert_allclose(w.T @ w, 4 * np.eye(3), atol=1e-5)
    model.save(tmp_path / "model.safetensors")
    loaded = fn.load(tmp_path / "model.safetensors")
    assert loaded.layers == layers
    assert repr(loaded.layers[1]) == "Dense(units=4, weight_init=TruncatedNormal(std=0.1, mean=0.0))"


def test_parameters_of_initializers_are_judged() -> None:
    with pytest.raises(ValueError, match="std must be greater than 0"):
        TruncatedNormal(std=0.0)
    with pytest.raises(ValueError, match="gain must be at least 0"):
        Orthogonal(gain=-1.0)
    with pytest.raises(ValueError, match="value must be"):
        Constant(math.nan)
    with pytest.raises(TypeError, match="mean must be a number"):
        TruncatedNormal(mean="0")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"weight_init must be a name \(glorot_uniform"):
        fn.Dense(3, weight_init=0.1)  # type: ignore[arg-type]


def test_weights_are_a_function_of_seed_and_layer() -> None:
    first = draw("he_normal", 5, 3, seed=7, layer=2)
    np.testing.assert_array_equal(first, draw("he_normal", 5, 3, seed=7, layer=2))
    assert not np.array_equal(first, draw("he_normal", 5, 3, seed=8, layer=2))
    assert not np.array_equal(first, draw("he_normal", 5, 3, seed=7, layer=0))
    assert not np.array_equal(first, draw("he_normal", 5, 3, seed=7 + 2**32, layer=2))


def test_weights_do_not_depend_on_the_features_that_numpy_finds_in_the_cpu() -> None:
    code = """
import hashlib, warnings
import fastnn as fn
from fastnn.initializers import INITIALIZERS, draw, normal
from fastnn.kernels import isa
try:
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
except ImportError:  # NumPy 1
    from numpy.core._multiarray_umath import __cpu_dispatch__, __cpu_features__
used = [name for name in __cpu_dispatch__ if __cpu_features__.get(name)]
digest = hashlib.sha256()
for name in INITIALIZERS:
    digest.update(draw(name, 123, 457, seed=5, layer=1).tobytes())
digest.update(normal(9999, seed=5, layer=0, parameter=3).tobytes())
layers = fn.Embedding(((1, 40, 6),)), fn.Dense(33, "relu"), fn.Dense(7, "tanh"), fn.Dense(3)
digest.update(fn.Sequential(*layers, dtype="float64").build(5, seed=2).parameters.tobytes())
print(digest.hexdigest(), isa(), *used)
"""

    def run(**variables: str) -> list[str]:
        # A name that the processor has not anyway is only a warning.
        command = [sys.executable, "-W", "ignore", "-c", code]
        environment = {**os.environ, **variables}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return done.stdout.split()

    plain, isa, *used = run(NPY_DISABLE_CPU_FEATURES="")
    bare, same_isa, *left = run(NPY_DISABLE_CPU_FEATURES=" ".join(used))
    assert (left, same_isa) == ([], isa)
    assert bare == plain
    assert run(NPY_DISABLE_CPU_FEATURES=" ".join(used), FASTNN_ISA="generic")[0] == plain


def test_float32_weights_are_the_rounded_float64_weights() -> None:
    layers = (fn.Dense(7, activation="relu"), fn.Dense(3))
    double = fn.Sequential(*layers, dtype="float64").build(5, seed=3)
    single = fn.Sequential(*layers).build(5, seed=3)
    np.testing.assert_array_equal(single.parameters, double.parameters.astype(np.float32))


def test_default_suits_the_activation_that_follows() -> None:
    assert default_for("relu") == default_for("leaky_relu") == "he_normal"
    assert {default_for(f) for f in ("relu6", "elu", "gelu_tanh", "mish", "softplus")} == {"he_normal"}
    assert default_for("selu") == "lecun_normal"
    assert default_for("tanh") == default_for("softmax") == default_for("identity") == "glorot_uniform"

    def first_weight(*layers: fn.Dense | fn.Activation | fn.Dropout) -> object:
        return fn.Sequential(*layers).build(6, seed=1).weights["0.weight"].tolist()

    he = first_weight(fn.Dense(4, weight_init="he_normal"))
    glorot = first_weight(fn.Dense(4, weight_init="glorot_uniform"))
    assert first_weight(fn.Dense(4, "relu")) == he
    assert first_weight(fn.Dense(4), fn.Dropout(0.5), fn.Activation("relu")) == he
    assert first_weight(fn.Dense(4), fn.Dense(2, "relu")) == glorot
    assert first_weight(fn.Dense(4)) == glorot


def test_zeros_and_biases_are_zero() -> None:
    model = fn.Sequential(fn.Dense(4, weight_init="zeros"), fn.Dense(2)).build(3)
    assert not model.weights["0.weight"].any()
    assert not model.weights["0.bias"].any()
    assert not model.weights["1.bias"].any()
    assert model.weights["1.weight"].any()


def test_biases_start_as_told() -> None:
    layers = [
        fn.Dense(4, bias_init=-2.5),
        fn.Dense(2, bias_init=np.array([1.0, 3.0])),
        fn.Dense(2000, bias_init="he_uniform"),
        fn.Dense(3, bias_init=initializers.Constant(7.0)),
        fn.Dense(1000, bias_init=initializers.TruncatedNormal(std=0.5)),
        fn.Dense(2),
    ]
    model = fn.Sequential(*layers, dtype="float64").build(3, seed=4)
    bias = [model.weights[f"{i}.bias"] for i in range(6)]
    assert (bias[0] == -2.5).all()
    assert bias[1].tolist() == [1.0, 3.0]
    assert 0.95 < abs(bias[2]).max() <= 3**0.5  # fan-in 2: sqrt(6 / 2)
    assert (bias[3] == 7).all()
    assert 0.4 < bias[4].std() < 0.5
    assert not bias[5].any()
    plain = fn.Sequential(*[fn.Dense(layer.units) for layer in layers], dtype="float64").build(3, seed=4)
    for name in plain.weights:
        if name.endswith("weight"):
            np.testing.assert_array_equal(plain.weights[name], model.weights[name])


def test_bias_init_comes_back_from_files(tmp_path: Any) -> None:
    layers = fn.Dense(2, bias_init=(0.5, -1.0)), fn.Dense(1, bias_init=initializers.Constant(3.0))
    model = fn.Sequential(*layers).build(2)
    model.save(tmp_path / "m")
    assert fn.load(tmp_path / "m").layers == layers


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"bias_init": [1.0, 2.0]}, "bias_init must be one number or 3, one a unit, got 2"),
        ({"bias_init": "ones"}, "bias_init must be one of"),
        ({"bias_init": "orthogonal"}, "bias_init must be no distribution of matrices"),
        ({"bias_init": np.inf}, "bias_init must be at least"),
        ({"bias_init": 1.0, "bias": False}, "bias_init must be None with bias=False"),
    ],
)
def test_bad_bias_init_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fn.Dense(3, **given)
