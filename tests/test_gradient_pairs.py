"""Gradients of every kind of layer with every activation and every loss, with depth, dropout and weights.

test_gradients.py has every activation with every loss behind Dense layers, test_layer_gradients.py every
kind of layer with dropout, weights and ragged batches. Here any two of kind, activation, loss and way meet:
each kind with all activations, while losses, depths, dropout and weights go round. One program takes batches
of 64, 7, 2 rows and 1: the smaller ones are ragged.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from loss_targets import targets_of, torch_rows
from test_gradients import close
from test_layer_gradients import KINDS, N_IN, SEED, STEP, forward

import fastnn as fn
from fastnn import devices, kernels
from fastnn.layers import lower, n_parameters

Array = np.ndarray[Any, Any]

N_OUT = 4
BATCHES = (64, 7, 2, 1)
# depth, dropout, weights
WAYS = tuple(itertools.product((1, 2, 4), (False, True), (False, True)))
ACTIVATIONS, LOSSES = list(kernels.ACTIVATIONS), list(kernels.LOSSES)
COUPLED = {"batch norm", "batch norm, not affine"}  # need two rows
H = 1e-6  # of a central difference along a direction of length 1


def cases(kind: str) -> Iterator[tuple[str, str, tuple[int, bool, bool]]]:
    """Activation, loss and way of each problem of a kind; the last test says that any two meet."""
    at = list(KINDS).index(kind)
    for i, activation in enumerate(ACTIVATIONS):
        yield activation, LOSSES[(at + i) % len(LOSSES)], WAYS[(at // 2 + i + i // 2) % len(WAYS)]


class Problem:
    """A network of a kind and batches for it."""

    def __init__(self, kind: str, activation: str, loss: str, way: tuple[int, bool, bool]) -> None:
        depth, dropout, weighted = way
        rng = np.random.default_rng([list(KINDS).index(kind), ACTIVATIONS.index(activation)])
        deeper = [fn.Dense(5, activation=activation) for _ in range(depth - 1)]
        between = [fn.Dropout(0.25)] if dropout else []
        layers = (*KINDS[kind], fn.Activation(activation), *deeper, *between, fn.Dense(N_OUT))
        self.loss, self.steps = loss, lower(layers, N_IN)
        # no larger: the logarithm of a variance of 1e-6 ends where its gradient, as PyTorch's, does not
        self.parameters = 0.3 * rng.standard_normal(n_parameters(self.steps))
        self.data: list[tuple[Array, Array, Array | None]] = []
        for n_rows in BATCHES[:3] if kind in COUPLED else BATCHES:
            x, y = rng.standard_normal((n_rows, N_IN)), targets_of(loss, rng, n_rows, N_OUT)
            x[:, [1, 4]] = rng.integers(-1, 6, (n_rows, 2))  # codes, where a layer takes them
            weight = np.r_[0.0, rng.random(n_rows - 1) + 0.1] if weighted and n_rows > 1 else None
            self.data.append((x, y, np.array([0.7]) if weighted and n_rows == 1 else weight))
        self.direction = rng.standard_normal(len(self.parameters))
        self.direction /= np.linalg.norm(self.direction)

    def gradients(self, device: str = "cpu", dtype: str = "float64") -> list[Array]:
        """Of each batch, by one program."""
        parameters = self.parameters.astype(dtype)
        program = devices.make(device, self.steps, parameters, loss=self.loss, seed=SEED)
        found = []
        for x, y, weight in self.data:
            y = y if y.dtype.kind == "i" else y.astype(dtype)
            found.append(program.gradient(x.astype(dtype), y, weight, dropout_step=STEP)[1].copy())
        return found

    def slopes(self) -> list[float]:
        """Central differences of the loss of each batch along the direction."""
        found = []
        programs = [
            devices.make("cpu", self.steps, self.parameters + h * self.direction, loss=self.loss, seed=SEED)
            for h in (H, -H)
        ]
        for x, y, weight in self.data:
            above, below = (p.gradient(x, y, weight, dropout_step=STEP)[0] for p in programs)
            found.append((above - below) / (2 * H))
        return found


def problems(kind: str) -> Iterator[Problem]:
    for case in cases(kind):
        yield Problem(kind, *case)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_central_differences_and_the_reference(kind: str) -> None:
    for problem in problems(kind):
        gradients = problem.gradients()
        for gradient, slope in zip(gradients, problem.slopes(), strict=True):
            size = max(1.0, float(np.abs(gradient).max()))
            assert abs(gradient @ problem.direction - slope) <= 1e-6 * size
        for got, expected in zip(problem.gradients("numpy"), gradients, strict=True):
            close(got, expected, 1e-10)
        for got, expected in zip(problem.gradients("cpu", "float32"), gradients, strict=True):
            close(got, expected, 1e-4)


@pytest.mark.torch
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_pytorchs(kind: str) -> None:
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    for problem in problems(kind):
        for (x, y, weight), got in zip(problem.data, problem.gradients(), strict=True):
            parameters = torch.from_numpy(problem.parameters.copy()).requires_grad_()
            a = forward(torch, problem.steps, parameters, x)
            rows = torch_rows(torch, problem.loss, a, torch.from_numpy(y))
            of_rows = torch.from_numpy(np.ones(len(x)) if weight is None else weight)
            ((rows * of_rows).sum() / of_rows.sum()).backward()
            close(got, parameters.grad.numpy(), 1e-10)


def test_any_two_meet() -> None:
    met: set[tuple[Any, Any]] = set()
    checks = 0
    for kind in KINDS:
        for activation, loss, (depth, dropout, weighted) in cases(kind):
            parts = (kind, activation, loss, ("depth", depth), ("dropout", dropout), ("weighted", weighted))
            met.update(itertools.combinations(parts, 2))
            checks += 4 * (3 if kind in COUPLED else 4)
    for one, other in itertools.combinations((list(KINDS), ACTIVATIONS, LOSSES), 2):
        assert met.issuperset(itertools.product(one, other))
    for names in (list(KINDS), ACTIVATIONS, LOSSES):
        ways = [("depth", d) for d in (1, 2, 4)] + [(w, b) for w in ("dropout", "weighted") for b in (0, 1)]
        assert met.issuperset(itertools.product(names, ways))
    assert checks >= 2500
