"""Descriptions: layers, losses, optimizers, and their lowering to steps."""

from __future__ import annotations

import dataclasses
import math
import pickle
from typing import Any

import numpy as np
import pytest

import fastnn as fn
from fastnn import kernels, losses, optimizers
from fastnn.layers import Step, lower, n_parameters


def test_lowering_places_weight_and_bias_in_layer_order_without_gaps() -> None:
    layers = (
        fn.Dense(3, activation="relu"),
        fn.Dropout(0.25),
        fn.Dense(2, bias=False),
        fn.Activation("tanh"),
    )
    assert lower(layers, 4) == (
        Step("dense", 0, 4, 3, "relu", weight=0, bias=12),
        Step("dropout", 1, 3, 3, rate=0.25),
        Step("dense", 2, 3, 2, weight=15),
        Step("activation", 3, 2, 2, "tanh"),
    )
    assert [s.n_parameters for s in lower(layers, 4)] == [15, 0, 6, 0]
    assert n_parameters(lower(layers, 4)) == 21


def test_descriptions_compare_hash_print_and_pickle() -> None:
    dense = fn.Dense(128, activation="relu")
    assert dense == fn.Dense(128, "relu") != fn.Dense(128)
    assert hash(dense) == hash(fn.Dense(128, "relu"))
    assert repr(dense) == "Dense(units=128, activation='relu')"
    assert repr(fn.Dropout(0.2)) == "Dropout(rate=0.2)"
    assert eval(repr(fn.Activation("tanh")), {"Activation": fn.Activation}) == fn.Activation("tanh")
    for description in (dense, fn.Dropout(0.5), fn.Adam(), fn.SGD(momentum=0.9), fn.MSE()):
        assert pickle.loads(pickle.dumps(description)) == description


def test_descriptions_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        fn.Dense(3).units = 4  # type: ignore[misc]


def test_numpy_numbers_become_python_numbers() -> None:
    assert type(fn.Dense(np.int64(3)).units) is int  # type: ignore[arg-type]
    assert type(fn.Dropout(np.float32(0.5)).rate) is float  # type: ignore[arg-type]
    assert type(fn.SGD(lr=1).lr) is float


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: fn.Dense(0), ValueError, "units must be at least 1, got 0"),
        (lambda: fn.Dense(-3), ValueError, "units must be at least 1, got -3"),
        (lambda: fn.Dense(True), TypeError, "units must be an integer, got True"),
        (lambda: fn.Dense(3.0), TypeError, r"units must be an integer, got 3\.0"),  # type: ignore[arg-type]
        (lambda: fn.Dense(3, "rleu"), ValueError, "got 'rleu'; did you mean 'relu'"),
        (lambda: fn.Dense(3, bias=1), TypeError, "bias must be True or False, got 1"),  # type: ignore[arg-type]
        (lambda: fn.Dense(3, weight_init="he"), ValueError, "weight_init must be one of glorot_uniform"),
        (lambda: fn.Activation("Tanh"), ValueError, "did you mean 'tanh'"),
        (lambda: fn.Activation(None), TypeError, "name must be a name"),  # type: ignore[arg-type]
        (lambda: fn.Dropout(1.0), ValueError, r"rate must be at least 0 and below 1, got 1\.0"),
        (lambda: fn.Dropout(-0.1), ValueError, "rate must be"),
        (lambda: fn.Dropout(math.nan), ValueError, "rate must be .* got nan"),
        (lambda: fn.Dropout("0.5"), TypeError, "rate must be a number"),  # type: ignore[arg-type]
        (lambda: fn.SGD(lr=-1.0), ValueError, "lr must be at least 0"),
        (lambda: fn.SGD(lr=math.nan), ValueError, "lr must be at least 0 and finite, got nan"),
        (lambda: fn.SGD(lr=math.inf), ValueError, "lr must be"),
        (lambda: fn.SGD(nesterov=True), ValueError, "nesterov=True needs momentum"),
        (lambda: fn.Adam(betas=(0.9, 1.0)), ValueError, r"betas\[1\] must be at least 0 and below 1"),
        (lambda: fn.Adam(betas=0.9), TypeError, "betas must be two numbers"),  # type: ignore[arg-type]
        (lambda: fn.Adam(eps=-1e-8), ValueError, "eps must be"),
        (lambda: losses.get("cross-entropy"), ValueError, "did you mean 'cross_entropy'"),
        (lambda: losses.get(fn.MSE), TypeError, "loss must be a name"),
        (lambda: optimizers.get("adm"), ValueError, "did you mean 'adam'"),
        (lambda: optimizers.get(fn.Adam), TypeError, r"got the class; write Adam\(\)"),
    ],
)
def test_wrong_arguments_are_named(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()


def test_edge_values_are_legal() -> None:
    assert fn.Dropout(0).rate == 0.0
    assert fn.Dense(1).units == 1
    assert fn.SGD(lr=0.0).lr == 0.0


def test_defaults_are_those_of_pytorch() -> None:
    assert fn.SGD() == fn.SGD(lr=1e-3, momentum=0.0, nesterov=False, weight_decay=0.0)
    assert fn.Adam() == fn.Adam(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)


def test_every_kernel_name_has_a_description() -> None:
    assert {losses.get(name).name for name in kernels.LOSSES} == set(kernels.LOSSES)
    assert {optimizers.get(name).name for name in kernels.OPTIMIZERS} == set(kernels.OPTIMIZERS)
    assert all(fn.Activation(name) for name in kernels.ACTIVATIONS)
    assert losses.get("cross_entropy").takes_labels
    assert not losses.get("mse").takes_labels


def test_arrays_and_ranges_are_taken_as_tuples() -> None:
    assert fn.Embedding(np.array([[2, 5, 3]])) == fn.Embedding(((2, 5, 3),))
    assert fn.Concat((np.arange(3), fn.Dense(2)), (range(3, 5),)) == fn.Concat(
        ((0, 1, 2), fn.Dense(2)), ((3, 4),)
    )
    assert fn.PiecewiseLinear(np.array([[0, 1.0], [1, 2]])) == fn.PiecewiseLinear(((0.0, 1.0), (1.0, 2.0)))
    assert fn.PiecewiseLinear([np.array([0, 1.0])]) == fn.PiecewiseLinear(((0.0, 1.0),))
    assert fn.Group(layers=np.array([0, 2])) == fn.Group(layers=range(0, 4, 2)) == fn.Group(layers=(0, 2))
    assert fn.schedules.MultiStep(0.1, np.array([3, 5])) == fn.schedules.MultiStep(0.1, (3, 5))
    assert fn.losses.Quantile(np.array([0.1, 0.9])) == fn.losses.Quantile((0.1, 0.9))
    assert fn.Adam(betas=np.array([0.5, 0.75])) == fn.Adam(betas=(0.5, 0.75))
