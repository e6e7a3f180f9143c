"""Gradients of a sample of all combinations of layer, activation, loss and circumstances: `make test-torch`.

test_gradient_pairs.py lets any two of them meet; here all come together, as the dice say. The product is of
kinds of layer, activations, losses (with other numbers than their defaults too), batches of 1, 2, 7 and 64
rows, depths 1, 2 and 4, each with and without dropout, weights of rows, and a larger batch before, whose
ragged end the batch then is. Each point is held in float64 to central differences (1e-6) and to PyTorch
(1e-10), and in float32 to PyTorch in float64 (1e-4). FASTNN_FULL=1 takes ten times as many points;
those beyond the first 5,000 in float64 alone, for in seven of them a rounding of float32 falls on the other
side of a kink, or is much of what two rows under a batch norm differ by.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pytest
from loss_targets import DESCRIPTIONS, targets_of, torch_rows
from test_layer_gradients import KINDS, N_IN, SEED, STEP, forward
from test_program import central_differences

import fastnn as fn
from fastnn import devices, kernels, losses
from fastnn.layers import lower, n_parameters

pytestmark = pytest.mark.torch

Array = np.ndarray[Any, Any]

N_OUT, N_POINTS, AT_ONCE = 4, 5000, 250
ALL_KINDS: dict[str, tuple[Any, ...]] = {
    "dense": (fn.Dense(5),),
    **KINDS,
    "batch norm over all batches": (fn.Dense(5), fn.BatchNorm(momentum=None)),
    "branches": (
        fn.Residual(fn.LayerNorm(), fn.Concat(((0, 3), fn.Dense(4)), (slice(1, 6), fn.PReLU())), fn.Dense(6)),
    ),
}
COUPLED = {"batch norm", "batch norm, not affine", "batch norm over all batches"}  # need two rows
# A loss, and whether its targets are probabilities where it takes labels too. Where a variance is below eps,
# as some here are below 0.5, the gradient of gaussian_nll is PyTorch's, which leaves it out: no derivative.
LOSSES = [
    *((loss, False) for loss in DESCRIPTIONS if loss != losses.GaussianNLL(full=True, eps=0.5)),
    (losses.GaussianNLL(full=True), False),
    (losses.CrossEntropy(), True),
    (losses.CrossEntropy(label_smoothing=0.2), True),
]


class Point(NamedTuple):
    """One combination."""

    kind: str
    activation: str
    loss: tuple[losses.Loss, bool]
    n_rows: int
    depth: int
    dropout: bool
    weighted: bool
    ragged: bool


AXES = (list(ALL_KINDS), list(kernels.ACTIVATIONS), LOSSES, (1, 2, 7, 64), (1, 2, 4), *[(False, True)] * 3)


def sample() -> list[tuple[int, Point]]:
    """Different points of the product, with their numbers; a batch of one row has no statistics."""
    size = math.prod(map(len, AXES))
    found = []
    for number in np.random.default_rng(0).permutation(size).tolist():
        places = np.unravel_index(number, tuple(map(len, AXES)))
        point = Point(*(axis[at] for axis, at in zip(AXES, places, strict=True)))
        if point.n_rows > 1 or point.kind not in COUPLED:
            found.append((number, point))
        if len(found) == N_POINTS * (10 if os.environ.get("FASTNN_FULL") else 1):
            break
    return found


POINTS = sample()


class Problem:
    """The network and the batches of a point."""

    def __init__(self, number: int, point: Point) -> None:
        self.point, self.rng = point, np.random.default_rng([1, number])
        dropout = [fn.Dropout(0.25)] if point.dropout else []
        deeper = [*dropout, fn.Dense(5, activation=point.activation)] * (point.depth - 1)
        layers = (*ALL_KINDS[point.kind], fn.Activation(point.activation), *deeper, *dropout, fn.Dense(N_OUT))
        self.steps = lower(layers, N_IN)
        self.parameters = 0.3 * self.rng.standard_normal(n_parameters(self.steps))
        self.data = self.batch(point.n_rows)
        self.before = self.batch(point.n_rows + 5) if point.ragged else None

    def batch(self, n_rows: int) -> tuple[Array, Array, Array | None]:
        """Rows, targets, weights; the first of several rows weighs nothing."""
        loss, soft = self.point.loss
        x, y = self.rng.standard_normal((n_rows, N_IN)), targets_of(loss, self.rng, n_rows, N_OUT, soft=soft)
        x[:, [1, 4]] = self.rng.integers(-1, 6, (n_rows, 2))  # codes, where a layer takes them
        weight = self.rng.random(n_rows) + 0.1
        weight[:-1][:1] = 0.0
        return x, y, weight if self.point.weighted else None

    def program(self, dtype: str = "float64") -> Any:
        """In float64 of our parameters themselves; it has done the larger batch where the point says so."""
        parameters = self.parameters if dtype == "float64" else self.parameters.astype(dtype)
        found = devices.make("cpu", self.steps, parameters, loss=self.point.loss[0], seed=SEED)
        if self.before is not None:
            self.loss_and_gradient(found, self.before, dtype)
        return found

    def loss_and_gradient(self, program: Any, batch: Any, dtype: str = "float64") -> tuple[float, Array]:
        x, y, weight = batch
        y = y if y.dtype.kind == "i" else y.astype(dtype)
        found: tuple[float, Array] = program.gradient(x.astype(dtype), y, weight, dropout_step=STEP)
        return found

    @cached_property
    def gradient(self) -> Array:
        return self.loss_and_gradient(self.program(), self.data)[1].copy()

    def by_differences(self, h: float) -> Array:
        program = self.program()
        found: Array = central_differences(
            lambda: self.loss_and_gradient(program, self.data)[0], self.parameters, h
        )
        return found

    def by_pytorch(self, torch: Any) -> Array:
        x, y, weight = self.data
        parameters = torch.from_numpy(self.parameters.copy()).requires_grad_()
        rows = torch_rows(
            torch, self.point.loss[0], forward(torch, self.steps, parameters, x), torch.from_numpy(y)
        )
        of_rows = torch.from_numpy(np.ones(len(x)) if weight is None else weight)
        ((rows * of_rows).sum() / of_rows.sum()).backward()
        found: Array = parameters.grad.numpy()
        return found


def off(got: Array, expected: Array, share: float) -> Array:
    """Where numbers differ by more than a share of themselves, or a tenth of it of the largest.

    What cancels keeps its terms' roundings.
    """
    size = max(1.0, float(np.abs(expected).max()))
    wrong: Array = ~(np.abs(got - expected) <= share * np.abs(expected) + share * size / 10)
    return wrong


def faults(torch: Any, problem: Problem, single: bool) -> Iterator[str]:
    """What is wrong with the gradients of a problem; single: in float32 too."""
    gradient = problem.gradient
    wrong = np.ones(len(gradient), bool)
    for h in (1e-5, 1e-7, 1e-8):  # a kink within the longer step is beside the shorter one
        if wrong.any():
            wrong &= off(problem.by_differences(h), gradient, 1e-6)
    if wrong.any():
        yield "central differences"
    expected = problem.by_pytorch(torch)
    if off(gradient, expected, 1e-10).any():
        yield "PyTorch"
    if single:
        got = problem.loss_and_gradient(problem.program("float32"), problem.data, "float32")[1]
        if off(got, expected, 1e-4).any():
            yield "float32"
    if problem.before is not None:
        problem.before = None
        if problem.loss_and_gradient(problem.program(), problem.data)[1].tobytes() != gradient.tobytes():
            yield "bits of the batch alone"


@pytest.mark.parametrize("first", range(0, len(POINTS), AT_ONCE))
def test_gradients_equal_differences_and_pytorchs(first: int) -> None:
    import torch

    torch.set_num_threads(1)
    found = {}
    for number, point in POINTS[first : first + AT_ONCE]:
        wrong = list(faults(torch, Problem(number, point), first < N_POINTS))
        if wrong:
            found[number] = (point, wrong)
    assert not found, "\n".join(map(repr, found.items()))


def test_there_are_enough_points_and_any_two_of_their_parts_meet() -> None:
    assert len({number for number, _ in POINTS}) == len({point for _, point in POINTS}) >= N_POINTS >= 2500
    met: set[tuple[tuple[int, Any], ...]] = set()
    circumstances = set()
    for _, point in POINTS:
        met.update(itertools.combinations(enumerate(point), 2))
        circumstances.add(point[3:])
    for one, other in itertools.combinations(range(len(AXES)), 2):
        for pair in itertools.product(AXES[one], AXES[other]):
            impossible = {one, other} == {0, 3} and pair[0] in COUPLED and pair[1] == 1
            assert impossible or tuple(zip((one, other), pair, strict=True)) in met
    assert circumstances == set(itertools.product(*AXES[3:]))
