"""Gradients of every kind of layer with dropout, weights of rows and ragged batches.

Against central differences and PyTorch, on both devices.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from test_gradients import close
from test_program import central_differences
from test_torch import apply

import fastnn as fn
from fastnn import devices
from fastnn.layers import lower, n_parameters
from fastnn.steps import initial_buffers, sources_of

Array = np.ndarray[Any, Any]

N_IN, N_OUT, SEED, STEP = 6, 4, 3, 5
# One program takes all of these, the large one first: the others are the ragged ends of its batches.
BATCHES = (64, 7, 2, 17)
# Between the input, whose columns 1 and 4 hold codes, and a last Dense.
KINDS: dict[str, tuple[Any, ...]] = {
    "batch norm": (fn.Dense(5), fn.BatchNorm(), fn.Activation("tanh")),
    "batch norm, not affine": (fn.BatchNorm(affine=False), fn.Dense(5, activation="tanh")),
    "layer norm": (fn.Dense(5), fn.LayerNorm(), fn.Activation("tanh")),
    "layer norm, not affine": (fn.Dense(5), fn.LayerNorm(affine=False)),
    "rms norm": (fn.Dense(5), fn.RMSNorm(), fn.Activation("tanh")),
    "prelu": (fn.Dense(5), fn.PReLU()),
    "prelu by column": (fn.Dense(5), fn.PReLU(5, init=-0.5)),
    "residual": (fn.Residual(fn.Dense(5, activation="tanh"), fn.Dense(6)),),
    "projection": (fn.Dense(5), fn.Residual(fn.Dense(3, activation="tanh"), projection=True)),
    "concat": (fn.Dense(5), fn.Concat(((4, 0), fn.Dense(3, activation="tanh")), (slice(1, 4),))),
    "embedding": (fn.Embedding(((1, 5, 3), (4, 2, 1))), fn.Dense(5, activation="tanh")),
    "piecewise": (fn.Dense(2), fn.PiecewiseLinear(((-0.6, 0.1, 0.5), (-1.1, -0.4, 0.3, 0.9)))),
    "periodic": (fn.Dense(3), fn.Periodic(2, sigma=0.3)),
    "scale": (fn.Scale(0.5, 0.1), fn.Dense(5, activation="tanh"), fn.Scale(-0.7, 0.2)),
    "scale by column": (fn.Dense(3), fn.Scale((0.5, -2.0, 1.5), (0.0, 0.3, -0.2)), fn.Activation("tanh")),
    "alpha dropout": (fn.Dense(5, activation="selu"), fn.AlphaDropout(0.3)),
    "noise": (fn.Dense(5), fn.GaussianNoise(0.3), fn.Activation("tanh")),
}
CASES = list(itertools.product(KINDS, (False, True), (False, True)))


class Problem:
    """A network of a kind, with dropout or not, and rows with weights or without."""

    def __init__(self, kind: str, dropout: bool, weighted: bool) -> None:
        rng = np.random.default_rng(7)
        self.steps = lower((*KINDS[kind], *([fn.Dropout(0.25)] if dropout else []), fn.Dense(N_OUT)), N_IN)
        self.parameters = 0.5 * rng.standard_normal(n_parameters(self.steps))
        self.data = []
        for n_rows in BATCHES:
            x, y = rng.standard_normal((n_rows, N_IN)), rng.integers(0, N_OUT, n_rows)
            x[:, [1, 4]] = rng.integers(-1, 6, (n_rows, 2))  # some are no category
            weight = np.r_[rng.random(n_rows - 1) + 0.1, 0.0] if weighted else None
            self.data.append((x, y, weight))

    def program(self, device: str = "cpu", dtype: str = "float64") -> Any:
        """With its own parameters but for the first device and type, which share ours."""
        parameters = self.parameters
        if (device, dtype) != ("cpu", "float64"):
            parameters = parameters.astype(dtype)
        return devices.make(device, self.steps, parameters, loss="cross_entropy", seed=SEED)

    def gradients(self, device: str = "cpu", dtype: str = "float64") -> list[Array]:
        """Of each batch, by one program."""
        program = self.program(device, dtype)
        return [
            program.gradient(x.astype(dtype), y, weight, dropout_step=STEP)[1].copy()
            for x, y, weight in self.data
        ]

    def by_pytorch(self, torch: Any) -> list[Array]:
        """By autograd, with our random numbers."""
        found = []
        for x, y, weight in self.data:
            parameters = torch.from_numpy(self.parameters.copy()).requires_grad_()
            rows = torch.nn.functional.cross_entropy(
                forward(torch, self.steps, parameters, x), torch.from_numpy(y), reduction="none"
            )
            of_rows = torch.from_numpy(np.ones(len(x)) if weight is None else weight)
            ((rows * of_rows).sum() / of_rows.sum()).backward()
            found.append(parameters.grad.numpy())
        return found


def forward(torch: Any, steps: Any, parameters: Any, x: Array, buffers: Any = None) -> Any:
    """What the last step gives while training, by PyTorch; buffers: running statistics, which it moves."""
    functional = torch.nn.functional
    results = {-1: torch.from_numpy(x)}
    if buffers is None:
        buffers = torch.from_numpy(initial_buffers(steps, np.float64))
    for i, s in enumerate(steps):
        sources = [results[j] for j in sources_of(i, s)]
        a, w, b = sources[0], None, None
        if s.weight >= 0:
            w = parameters[s.weight : s.weight + int(np.prod(s.weight_shape))].reshape(s.weight_shape)
        if s.bias >= 0:
            b = parameters[s.bias : s.bias + s.n_out]
        if s.kind == "dense":
            a = functional.linear(a, w.T, b)
        elif s.kind == "batch_norm":
            mean, var = buffers[s.running : s.running + 2 * s.n_out].reshape(2, s.n_out)
            momentum = s.momentum
            if s.counted:  # as torch.nn.BatchNorm1d(momentum=None) does
                buffers.data[s.running + 2 * s.n_out] += 1
                momentum = 1 / buffers[s.running + 2 * s.n_out].item()
            a = functional.batch_norm(a, mean, var, w, b, True, momentum, s.eps)
        elif s.kind == "layer_norm":
            a = functional.layer_norm(a, (s.n_out,), w, b, s.eps)
        elif s.kind == "rms_norm":
            a = functional.rms_norm(a, (s.n_out,), w, None if s.eps < 0 else s.eps)
        elif s.kind == "prelu":
            a = functional.prelu(a, w)
        elif s.kind == "add":
            a = sources[0] + sources[1]
        elif s.kind == "columns":
            a = a[:, list(s.columns)]
        elif s.kind == "join":
            a = torch.cat(sources, dim=1)
        elif s.kind == "embedding":
            coded = [table.column for table in s.tables]
            parts = [a[:, [j for j in range(s.n_in) if j not in coded]]]
            for table in s.tables:
                n, width = table.n_categories, table.width
                numbers = parameters[table.weight : table.weight + n * width].reshape(n, width)
                known = (a[:, table.column] >= 0) & (a[:, table.column] < n)
                codes = torch.where(known, a[:, table.column], 0).long()
                parts.append(functional.embedding(codes, numbers) * known[:, None])
            a = torch.cat(parts, dim=1)
        elif s.kind == "piecewise":
            a = torch.cat([bins(torch, a[:, j], edges) for j, edges in enumerate(s.edges)], dim=1)
        elif s.kind == "periodic":
            angle = 2 * np.pi * a[:, :, None] * w
            a = torch.cat([torch.sin(angle), torch.cos(angle)], dim=2).reshape(len(a), -1)
        elif s.kind == "scale":
            a = a * s.factor + s.shift
        elif s.kind == "scale_columns":
            a = a * torch.tensor(s.factors, dtype=a.dtype) + torch.tensor(s.shifts, dtype=a.dtype)
        elif s.kind == "noise":
            none, keys = np.zeros((len(x), s.n_out)), {"seed": SEED, "step": STEP, "layer": s.draws}
            a = a + torch.from_numpy(fn.ops.gaussian_noise(none, s.factor, **keys))
        elif s.kind in ("dropout", "alpha_dropout"):
            ones = np.ones((len(x), s.n_out))
            mask = torch.from_numpy(fn.ops.dropout(ones, s.rate, seed=SEED, step=STEP, layer=s.draws)[1])
            dropped = torch.full_like(a, s.dropped)
            a = a * mask if s.kind == "dropout" else torch.where(mask > 0, a * s.factor + s.shift, dropped)
        else:
            assert s.kind == "activation"
        if s.activation != "identity":
            a = apply(torch, s.activation, a)
        results[i] = a
    return results[len(steps) - 1]


def bins(torch: Any, x: Any, edges: tuple[float, ...]) -> Any:
    """Piecewise-linear numbers of a column (Gorishniy et al. 2022, eq. 1)."""
    found = []
    for t, (left, right) in enumerate(itertools.pairwise(edges)):
        v = (x - left) / (right - left)
        v = v if t == 0 else v.clamp(min=0)
        found.append(v if t == len(edges) - 2 else v.clamp(max=1))
    return torch.stack(found, dim=1)


@pytest.mark.parametrize(("kind", "dropout", "weighted"), CASES)
def test_gradients_equal_central_differences(kind: str, dropout: bool, weighted: bool) -> None:
    problem = Problem(kind, dropout, weighted)
    gradients = problem.gradients()
    program = problem.program()
    for (x, y, weight), gradient in zip(problem.data, gradients, strict=True):

        def loss(x: Array = x, y: Array = y, weight: Array | None = weight) -> float:
            found: float = program.gradient(x, y, weight, dropout_step=STEP)[0]
            return found

        close(gradient, central_differences(loss, problem.parameters), 1e-6)
    for got, expected in zip(problem.gradients("numpy"), gradients, strict=True):
        close(got, expected, 1e-10)
    for device in ("cpu", "numpy"):
        for got, expected in zip(problem.gradients(device, "float32"), gradients, strict=True):
            close(got, expected, 1e-4)


@pytest.mark.torch
@pytest.mark.parametrize(("kind", "dropout", "weighted"), CASES)
def test_gradients_equal_pytorchs(kind: str, dropout: bool, weighted: bool) -> None:
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    problem = Problem(kind, dropout, weighted)
    for got, expected in zip(problem.gradients(), problem.by_pytorch(torch), strict=True):
        close(got, expected, 1e-10)


def test_every_kind_of_step_is_there() -> None:
    kinds = {s.kind for layers in KINDS.values() for s in lower((*layers, fn.Dropout(0.5)), N_IN)}
    made = {"dense", "activation", "dropout", "scale", "scale_columns", "embedding", "add", "columns", "join"}
    assert kinds == made | {
        *("batch_norm", "layer_norm", "rms_norm", "prelu"),
        *("alpha_dropout", "noise", "periodic", "piecewise"),
    }
