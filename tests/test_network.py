"""Sequential: parameters, views, prediction, copies."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest

import fastnn as fn
from fastnn import initializers, network


def make(dtype: str = "float32") -> fn.Sequential:
    return fn.Sequential(fn.Dense(3, activation="relu"), fn.Dropout(0.5), fn.Dense(2), dtype=dtype).build(
        4, seed=1
    )


def test_a_network_worked_by_hand() -> None:
    model = fn.Sequential(fn.Dense(2, activation="relu"), fn.Dense(1), dtype="float64").build(2)
    model.parameters = [1, -1, 2, 1, 0.5, -3, 2, 10, 0.25]
    # z = x @ [[1, -1], [2, 1]] + [0.5, -3]; relu; @ [[2], [10]] + 0.25
    assert model.predict([[1, 1], [0, 5]]).tolist() == [[7.25], [41.25]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_parameters_are_one_aligned_block_with_room_behind(dtype: str) -> None:
    model = make(dtype)
    p = model.parameters
    assert p.shape == (4 * 3 + 3 + 3 * 2 + 2,)
    assert p.dtype == dtype
    assert p.flags.c_contiguous
    assert p.flags.writeable
    assert p.ctypes.data % 64 == 0
    base: Any = p.base
    while base.base is not None:
        base = base.base
    assert base.ctypes.data + base.nbytes >= p.ctypes.data + p.nbytes + 64


def test_weights_are_views_of_the_parameters_in_layer_order() -> None:
    model = make()
    model.parameters[:] = np.arange(23)
    w = model.weights
    assert list(w) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert w["0.weight"].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert w["0.bias"].tolist() == [12, 13, 14]
    assert w["2.weight"].shape == (3, 2)
    assert w["2.bias"].tolist() == [21, 22]
    w["2.bias"][:] = 0
    assert model.parameters[-2:].tolist() == [0, 0]
    assert model.predict(np.zeros((1, 4))).tolist() == [
        [12 * 15 + 13 * 17 + 14 * 19, 12 * 16 + 13 * 18 + 14 * 20]
    ]
    assert model.buffers.shape == (0,)


def test_assigned_parameters_are_copied_and_updates_in_place_work() -> None:
    model = make()
    block = model.parameters
    model.parameters = np.ones(23)
    model.parameters -= 0.5
    assert model.parameters is not block
    assert np.shares_memory(model.parameters, block)
    assert block.tolist() == [0.5] * 23
    with pytest.raises(ValueError, match=r"parameters must have shape \(23,\), got \(5,\)"):
        model.parameters = np.ones(5)


def test_predict_reads_changed_weights() -> None:
    model = make()
    before = model.predict(np.ones((1, 4)))
    model.weights["2.bias"][:] += 1
    np.testing.assert_allclose(model.predict(np.ones((1, 4))), before + 1, rtol=1e-6)


def test_dropout_is_off_in_prediction() -> None:
    x = np.ones((5, 3), np.float32)
    np.testing.assert_array_equal(fn.Sequential(fn.Dropout(0.5)).build(3).predict(x), x)


def test_a_row_alone_gives_the_bits_of_the_row_in_its_batch() -> None:
    model = fn.Sequential(fn.Dense(33, "tanh"), fn.Dense(17, "relu"), fn.Dense(5)).build(20, seed=2)
    x = np.random.default_rng(0).normal(size=(64, 20)).astype(np.float32)
    whole = model.predict(x)
    for i in range(64):
        np.testing.assert_array_equal(model.predict(x[i : i + 1])[0], whole[i])


def test_no_rows_give_no_rows() -> None:
    assert make().predict(np.zeros((0, 4))).shape == (0, 2)
    assert make().compile()(np.zeros((0, 4), np.float32)).shape == (0, 2)


def test_nan_in_gives_nan_out_of_its_row_alone() -> None:
    x = np.ones((2, 4))
    x[1, 2] = np.nan
    out = make().predict(x)
    assert np.isfinite(out[0]).all()
    assert np.isnan(out[1]).all()


def test_build_is_a_function_of_the_seed_and_starts_anew() -> None:
    model = make()
    first = model.parameters.copy()
    model.parameters[:] = 0
    assert model.build(4, seed=1) is model
    np.testing.assert_array_equal(model.parameters, first)
    assert not np.array_equal(model.build(4, seed=2).parameters, first)
    assert model.build(6).weights["0.weight"].shape == (6, 3)


def test_predict_proba_goes_through_the_link() -> None:
    model = fn.Sequential(fn.Dense(1, bias=False), dtype="float64").build(1)
    with pytest.raises(ValueError, match="predict_proba needs a model trained with"):
        model.predict_proba([[1.0]])
    model.weights["0.weight"][:] = 1
    model.link = "sigmoid"
    p = model.predict_proba([[0.0], [math.log(3)], [-50.0], [800.0]])
    np.testing.assert_allclose(p[:2], [[0.5, 0.5], [0.25, 0.75]], rtol=1e-14)
    assert p[2, 1] == pytest.approx(math.exp(-50), rel=1e-14)
    assert p[3].tolist() == [0.0, 1.0]

    wide = fn.Sequential(fn.Dense(2, bias=False), dtype="float64").build(1)
    wide.weights["0.weight"][:] = [[0, 1]]
    wide.link = "softmax"
    np.testing.assert_allclose(wide.predict_proba([[math.log(3)]]), [[0.25, 0.75]], rtol=1e-14)
    wide.link = "sigmoid"
    np.testing.assert_allclose(wide.predict_proba([[math.log(3)]]), [[0.5, 0.75]], rtol=1e-14)


def test_a_compiled_handle_is_a_snapshot() -> None:
    model = make()
    x = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    expected = model.predict(x)
    handle = model.compile()
    model.parameters[:] = 0
    np.testing.assert_array_equal(handle(x), expected)
    out = np.empty((7, 2), np.float32)
    assert handle(x, out) is out
    np.testing.assert_array_equal(handle(x, out=out), expected)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_equal_and_independent(again: Any) -> None:
    model = make()
    model.link = "softmax"
    other = again(model)
    assert other.layers == model.layers
    assert other.link == "softmax"
    assert other.dtype == model.dtype
    np.testing.assert_array_equal(other.parameters, model.parameters)
    assert other.parameters.ctypes.data % 64 == 0
    other.parameters[:] = 0
    assert model.parameters.any()
    unbuilt = again(fn.Sequential(fn.Dense(3), dtype="float64"))
    assert not unbuilt.is_built
    assert unbuilt.dtype == np.float64


def test_summary_and_repr() -> None:
    model = fn.Sequential(fn.Dense(3, "relu"), fn.Dropout(0.5), fn.Dense(2), dtype="float64")
    assert repr(model) == (
        "Sequential(Dense(units=3, activation='relu'), Dropout(rate=0.5), Dense(units=2), dtype='float64')"
    )
    assert "not built yet (float64)" in model.summary()
    lines = model.build(4).summary().split("\n")
    assert lines[1].split() == ["0", "Dense(units=3,", "activation='relu')", "3", "15"]
    assert lines[2].split()[-2:] == ["3", "0"]
    assert lines[-1] == "23 parameters (float64, 184 bytes), inputs of 4 columns"


def test_n_in_and_n_out() -> None:
    model = fn.Sequential(fn.Dense(3))
    assert (model.n_in, model.n_out) == (None, None)
    model.build(5)
    assert (model.n_in, model.n_out) == (5, 3)


@pytest.mark.parametrize(
    ("act", "error", "text"),
    [
        (lambda: fn.Sequential(), ValueError, "at least one"),
        (lambda: fn.Sequential([fn.Dense(1)]), TypeError, r"Sequential\(\*layers\)"),  # type: ignore[arg-type]
        (lambda: fn.Sequential(fn.Dense), TypeError, r"got the class; write Dense\(\.\.\.\)"),  # type: ignore[arg-type]
        (lambda: fn.Sequential(3), TypeError, "layer 0 must be a layer such as Dense"),  # type: ignore[arg-type]
        (
            lambda: fn.Sequential(fn.Dense(1), dtype="float16"),
            ValueError,
            "dtype must be 'float32' or 'float64'",
        ),
        (lambda: fn.Sequential(fn.Dense(1), dtype="f9"), TypeError, "dtype must be"),
        (lambda: fn.Sequential(fn.Dense(1), dtype=None), ValueError, "dtype must be"),
        (lambda: fn.Sequential(fn.Dense(1)).build(0), ValueError, "n_in must be at least 1"),
        (lambda: fn.Sequential(fn.Dense(1)).build(3, seed=-1), ValueError, "seed must be from 0"),
        (
            lambda: make().predict(np.zeros((10, 3))),
            ValueError,
            r"x must have 4 columns, got shape \(10, 3\)",
        ),
        (lambda: make().predict(np.zeros(4)), ValueError, "2-D"),
        (lambda: fn.Sequential(fn.Dense(1)).compile(), fn.NotFittedError, "no parameters yet"),
        (lambda: fn.Sequential(fn.Dense(1)).predict([[1]]), fn.NotFittedError, "no parameters yet"),
        (lambda: fn.Sequential(fn.Dense(1)).weights, fn.NotFittedError, "no parameters yet"),
    ],
)
def test_wrong_use_is_named(act: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        act()


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_a_build_that_fails_leaves_the_model_as_it_was(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fn.Sequential(fn.Dense(4, "relu"), fn.Dense(2)).build(3, seed=1)
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    before, predicted, block = model.parameters.copy(), model.predict(x), model.parameters
    draw = initializers.draw

    def fails(name: str, n_in: int, n_out: int, *, seed: int, layer: int) -> object:
        if layer == 1:
            raise error("no more")
        return draw(name, n_in, n_out, seed=seed, layer=layer)

    monkeypatch.setattr(initializers, "draw", fails)
    with pytest.raises(error):
        model.build(7, seed=2)
    assert (model.n_in, model.n_out) == (3, 2)
    assert np.shares_memory(model.parameters, block)
    np.testing.assert_array_equal(model.parameters, before)
    np.testing.assert_array_equal(model.predict(x), predicted)
    unbuilt = fn.Sequential(fn.Dense(4), fn.Dense(2))
    with pytest.raises(error):
        unbuilt.build(3)
    assert not unbuilt.is_built
    assert unbuilt.n_in is None


class Named(fn.Sequential):
    """A model with an attribute of its own."""

    def __init__(self, name: str) -> None:
        super().__init__(fn.Dense(2), dtype="float64")
        self.name = name


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("built", [True, False])
def test_copies_keep_the_attributes_of_a_subclass(copied: Any, built: bool) -> None:
    model = Named("ours")
    if built:
        model.build(3)
    twin = copied(model)
    assert type(twin) is Named
    assert twin.name == "ours"
    assert twin.is_built == built
    assert twin.dtype == np.float64
    if built:
        np.testing.assert_array_equal(twin.parameters, model.parameters)
        assert not np.shares_memory(twin.parameters, model.parameters)


@pytest.mark.parametrize("layer", [fn.Dense(2**62), fn.Dense(2**50), fn.Embedding(((0, 2**40, 2**20),))])
def test_a_layer_too_large_is_named_with_its_bytes(layer: Any) -> None:
    model = fn.Sequential(layer, fn.Dense(1))
    with pytest.raises(ValueError, match=r"layer 0, .* takes [\d,]+ bytes"):
        model.build(4)
    assert not model.is_built


def test_no_memory_names_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(n: int, dtype: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(network, "_aligned_zeros", full)
    with pytest.raises(MemoryError, match=r"layer 1, Dense\(units=9\), .* takes [\d,]+ bytes"):
        fn.Sequential(fn.Dense(4), fn.Dense(9)).build(4)
