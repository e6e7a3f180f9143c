"""Gradients of every activation with every loss, by batch and depth: central differences, and PyTorch.

One test an activation and loss; the batches, depths and types within are counted by the last test.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from loss_targets import targets_of, torch_rows
from test_program import central_differences
from test_torch import apply

import fastnn as fn
from fastnn import devices, kernels
from fastnn.layers import lower, n_parameters

BATCHES, DEPTHS = (1, 2, 7, 64), (1, 2, 4)
N_IN, UNITS, N_OUT, RATE, SEED = 3, 4, 4, 0.25, 3
CASES = list(itertools.product(kernels.ACTIVATIONS, kernels.LOSSES))
CHECKS_OF_A_CASE = len(BATCHES) * len(DEPTHS) * 2  # in float64 and float32


class Problem:
    """A network, rows and what is done with them: dropout, weights, by number of rows and depth."""

    def __init__(self, activation: str, loss: str, n_rows: int, depth: int) -> None:
        rng = np.random.default_rng(100 * depth + n_rows)
        self.loss = loss
        dropout = [fn.Dropout(RATE)] if (n_rows + depth) % 2 else []
        hidden = [
            layer for _ in range(depth - 1) for layer in (fn.Dense(UNITS, activation=activation), *dropout)
        ]
        self.steps = lower((*dropout, *hidden, fn.Dense(N_OUT, activation=activation)), N_IN)
        self.parameters = 0.5 * rng.standard_normal(n_parameters(self.steps))
        # weights of rows in half of the cases, one of them 0
        self.weight = np.r_[rng.random(n_rows - 1) + 0.1, 0.0] if n_rows > 1 and depth != 2 else None
        self.x = rng.standard_normal((n_rows, N_IN))
        self.y = targets_of(loss, rng, n_rows, N_OUT)
        self.dropout_step = 5 if dropout else None

    def gradient(self, dtype: str = "float64") -> np.ndarray[Any, Any]:
        """By the compiled program."""
        program = devices.make("cpu", self.steps, self.parameters.astype(dtype), loss=self.loss, seed=SEED)
        y = self.y if self.y.dtype.kind == "i" else self.y.astype(dtype)
        data = self.x.astype(dtype), y, self.weight
        return program.gradient(*data, dropout_step=self.dropout_step)[1]

    def loss_value(self) -> Callable[[], float]:
        """A function of nothing: the loss at the present parameters."""
        program = devices.make("cpu", self.steps, self.parameters, loss=self.loss, seed=SEED)
        return lambda: program.gradient(self.x, self.y, self.weight, dropout_step=self.dropout_step)[0]

    def by_pytorch(self, torch: Any) -> np.ndarray[Any, Any]:
        """By PyTorch's autograd, in float64, with our dropout masks."""
        parameters = torch.from_numpy(self.parameters.copy()).requires_grad_()
        a = torch.from_numpy(self.x)
        for s in self.steps:
            if s.kind == "dense":
                a = a @ parameters[s.weight : s.weight + s.n_in * s.n_out].reshape(s.n_in, s.n_out)
                a = a + parameters[s.bias : s.bias + s.n_out]
            else:
                ones = np.ones((len(a), s.n_out))
                mask = fn.ops.dropout(ones, s.rate, seed=SEED, step=5, layer=s.layer)[1]
                a = a * torch.from_numpy(mask)
            a = apply(torch, s.activation, a)
        rows = torch_rows(torch, self.loss, a, torch.from_numpy(self.y))
        weight = torch.from_numpy(np.ones(len(self.x)) if self.weight is None else self.weight)
        ((rows * weight).sum() / weight.sum()).backward()
        found: np.ndarray[Any, Any] = parameters.grad.numpy()
        return found


def problems(activation: str, loss: str) -> list[Problem]:
    return [Problem(activation, loss, n_rows, depth) for n_rows in BATCHES for depth in DEPTHS]


def close(got: Any, expected: Any, relative: float) -> None:
    """Within a share of the number itself, or of the largest: what cancels keeps its terms' roundings."""
    size = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(got, expected, rtol=relative, atol=relative * size / 10)


@pytest.mark.parametrize(("activation", "loss"), CASES)
def test_gradients_equal_central_differences(activation: str, loss: str) -> None:
    for problem in problems(activation, loss):
        gradient = problem.gradient()
        close(gradient, central_differences(problem.loss_value(), problem.parameters), 1e-6)
        close(problem.gradient("float32"), gradient, 1e-4)


@pytest.mark.torch
@pytest.mark.parametrize(("activation", "loss"), CASES)
def test_gradients_equal_pytorchs(activation: str, loss: str) -> None:
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    for problem in problems(activation, loss):
        close(problem.gradient(), problem.by_pytorch(torch), 1e-10)


def test_there_are_enough_checks() -> None:
    assert len(CASES) * CHECKS_OF_A_CASE >= 2500
