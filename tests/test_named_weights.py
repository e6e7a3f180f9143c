"""Weights alone, in npz and safetensors, under the names and in the shapes of other libraries."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import fastnn as fn


def model(seed: int = 0, dtype: str = "float32") -> fn.Sequential:
    layers = (
        fn.Embedding(((1, 4, 2),)),
        fn.Dense(5, activation="relu"),
        fn.BatchNorm(),
        fn.Dense(3, bias=False),
    )
    made = fn.Sequential(*layers, fn.LayerNorm(), fn.PReLU(), fn.RMSNorm(), dtype=dtype).build(4, seed=seed)
    made.buffers += np.random.default_rng(seed).random(made.buffers.shape)
    return made


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
@pytest.mark.parametrize("layout", ["fastnn", "torch", "keras"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_come_back(tmp_path: Path, ending: str, layout: Any, dtype: str) -> None:
    path, first, second = tmp_path / f"w.{ending}", model(1, dtype), model(2, dtype)
    fn.save_weights(first, path, layout=layout)
    fn.load_weights(second, path, layout=layout)
    np.testing.assert_array_equal(first.parameters, second.parameters)
    np.testing.assert_array_equal(first.buffers, second.buffers)


def test_others_read_the_files(tmp_path: Path) -> None:
    made = model()
    fn.save_weights(made, tmp_path / "w.npz", layout="torch")
    with np.load(tmp_path / "w.npz", allow_pickle=False) as found:
        np.testing.assert_array_equal(found["1.weight"], made.weights["1.weight"].T)
        np.testing.assert_array_equal(found["0.weight_1"], made.weights["0.weight_1"])
        np.testing.assert_array_equal(found["2.running_var"], made.running["2.running_var"])
    fn.save_weights(made, tmp_path / "w.safetensors", layout="keras")
    tensors = safetensors.numpy.load_file(tmp_path / "w.safetensors")
    assert set(tensors) == {
        "0.embeddings_1", "1.kernel", "1.bias", "2.gamma", "2.beta", "2.moving_mean", "2.moving_variance",
        "3.kernel", "4.gamma", "4.beta", "5.alpha", "6.scale",
    }  # fmt: skip
    np.testing.assert_array_equal(tensors["1.kernel"], made.weights["1.weight"])


def test_files_of_others_are_read(tmp_path: Path) -> None:
    """A PyTorch state_dict of Linear, ReLU, BatchNorm1d, Linear, in float64."""
    random = np.random.default_rng(0)
    state = {
        "0.weight": random.standard_normal((4, 3)), "0.bias": np.ones(4),
        "2.weight": np.ones(4), "2.bias": np.ones(4),
        "2.running_mean": np.zeros(4), "2.running_var": np.ones(4), "2.num_batches_tracked": np.array(7),
        "3.weight": random.standard_normal((2, 4)), "3.bias": np.zeros(2),
    }  # fmt: skip
    made = fn.Sequential(fn.Dense(4, activation="relu"), fn.BatchNorm(), fn.Dense(2)).build(3)
    ours = [*made.weights, *made.running]
    names = {name: f"{int(name[0]) + 1}{name[1:]}" for name in ours if name[0] != "0"}
    safetensors.numpy.save_file(state, tmp_path / "w.safetensors")
    np.savez_compressed(tmp_path / "w.npz", **state)
    for file in ("w.safetensors", "w.npz"):
        made.build(3, seed=5)
        fn.load_weights(made, tmp_path / file, layout="torch", names=names)
        np.testing.assert_array_equal(made.weights["0.weight"], state["0.weight"].T.astype(np.float32))
        np.testing.assert_array_equal(made.weights["2.weight"], state["3.weight"].T.astype(np.float32))


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_faults_are_listed_and_nothing_is_changed(tmp_path: Path, ending: str) -> None:
    path, made = tmp_path / f"w.{ending}", fn.Sequential(fn.Dense(3), fn.Dense(2)).build(4)
    before = made.parameters.copy()
    arrays = {
        "0.weight": np.zeros((3, 4)),
        "0.bias": np.zeros(3, np.int64),
        "1.weight": np.zeros((3, 2)),
        "b": np.ones(1),
    }
    if ending == "npz":
        np.savez(path, **arrays)
    else:
        safetensors.numpy.save_file(arrays, path)
    with pytest.raises(fn.FormatError) as caught:
        fn.load_weights(made, path)
    text = str(caught.value)
    assert "misses '1.bias' and must not have 'b'" in text
    assert "must have '0.weight' of shape (4, 3) and real numbers, got (3, 4) float64" in text
    assert "must have '0.bias' of shape (3,) and real numbers, got (3,) int64" in text
    np.testing.assert_array_equal(made.parameters, before)


def test_broken_files_and_pickles_are_refused(tmp_path: Path) -> None:
    made, path = fn.Sequential(fn.Dense(3)).build(2), tmp_path / "w.npz"
    fn.save_weights(made, path)
    whole, before = path.read_bytes(), made.parameters.copy()
    random = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole[: random.integers(1, len(whole) + 1)])
        damaged[random.integers(len(damaged))] ^= 1 << random.integers(8)
        path.write_bytes(damaged)
        with contextlib.suppress(fn.FormatError):  # no other error; a flipped date is none
            fn.load_weights(made, path)
            np.testing.assert_array_equal(made.parameters, before)
    np.savez(path, **{"0.weight": np.array([print] * 6, object).reshape(2, 3), "0.bias": np.zeros(3)})
    with pytest.raises(fn.FormatError, match=r"real numbers, got .* object"):
        fn.load_weights(made, path)


def test_arguments_are_judged(tmp_path: Path) -> None:
    made = fn.Sequential(fn.Dense(3)).build(2)
    with pytest.raises(ValueError, match=r"path must end with .npz or .safetensors"):
        fn.save_weights(made, tmp_path / "w.pkl")
    with pytest.raises(ValueError, match="layout must be one of fastnn, torch, keras, got 'jax'"):
        fn.save_weights(made, tmp_path / "w.npz", layout="jax")
    with pytest.raises(ValueError, match=r"names must be one of 0.weight, 0.bias, got '0.weigth'"):
        fn.save_weights(made, tmp_path / "w.npz", names={"0.weigth": "a"})
    with pytest.raises(ValueError, match="names must give each weight a name of its own"):
        fn.save_weights(made, tmp_path / "w.npz", names={"0.weight": "0.bias"})
    with pytest.raises(TypeError, match="model must be a Sequential"):
        fn.save_weights(None, tmp_path / "w.npz")  # type: ignore[arg-type]
    with pytest.raises(fn.NotFittedError):
        fn.load_weights(fn.Sequential(fn.Dense(1)), tmp_path / "w.npz")
    assert not list(tmp_path.iterdir())
