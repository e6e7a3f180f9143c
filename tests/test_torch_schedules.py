"""Fifty steps of every optimizer under every schedule against PyTorch's: `make test-torch`.

Both sides work out their rates by themselves: ours within `Trainer.run` and `fit`, theirs by their scheduler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_torch_optimizers import LionOfThePaper

import fastnn as fn
from fastnn import schedules as s

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]  # of deprecated arguments of theirs

N_STEPS, N_ROWS = 50, 16
# By the largest rate: ours, and PyTorch's from (lr_scheduler, optimizer, the rate).
SCHEDULES: dict[str, tuple[Callable[[float], Any], Callable[[Any, Any, float], Any]]] = {
    "constant": (s.Constant, lambda m, o, lr: m.LambdaLR(o, lambda t: 1.0)),
    "constant, at first less": (
        lambda lr: s.Constant(lr, factor=0.5, total_iters=20),
        lambda m, o, lr: m.ConstantLR(o, 0.5, 20),
    ),
    "step": (lambda lr: s.Step(lr, 17, gamma=0.3), lambda m, o, lr: m.StepLR(o, 17, 0.3)),
    "multi-step": (
        lambda lr: s.MultiStep(lr, (3, 10, 10, 40), gamma=0.5),
        lambda m, o, lr: m.MultiStepLR(o, [3, 10, 10, 40], 0.5),
    ),
    "exponential": (lambda lr: s.Exponential(lr, 0.95), lambda m, o, lr: m.ExponentialLR(o, 0.95)),
    "polynomial": (lambda lr: s.Polynomial(lr, 40, 1.5), lambda m, o, lr: m.PolynomialLR(o, 40, 1.5)),
    "linear": (lambda lr: s.Linear(lr, 0.9, 0.1, 30), lambda m, o, lr: m.LinearLR(o, 0.9, 0.1, 30)),
    "cosine": (
        lambda lr: s.Cosine(lr, 35, eta_min=lr / 10),
        lambda m, o, lr: m.CosineAnnealingLR(o, 35, lr / 10),
    ),
    "cosine with restarts": (
        lambda lr: s.CosineRestarts(lr, 7, 2),
        lambda m, o, lr: m.CosineAnnealingWarmRestarts(o, 7, 2),
    ),
    "one-cycle": (
        lambda lr: s.OneCycle(lr, N_STEPS, cycle_momentum=False),
        lambda m, o, lr: m.OneCycleLR(o, lr, N_STEPS, cycle_momentum=False),
    ),
    "one-cycle, straight": (
        lambda lr: s.OneCycle(lr, N_STEPS, 0.4, "linear", three_phase=True, cycle_momentum=False),
        lambda m, o, lr: m.OneCycleLR(
            o, lr, N_STEPS, None, None, 0.4, "linear", False, three_phase=True
        ),
    ),
    "linear warm-up": (
        lambda lr: s.Warmup(s.Exponential(lr, 0.97), 10, 0.25),
        lambda m, o, lr: m.SequentialLR(o, [m.LinearLR(o, 0.25, 1.0, 10), m.ExponentialLR(o, 0.97)], [10]),
    ),
    "inverse scaling": (s.InverseScaling, lambda m, o, lr: m.LambdaLR(o, lambda t: (t + 1) ** -0.5)),
    "cyclic": (
        lambda lr: s.Cyclic(lr / 10, lr, 8, 5, cycle_momentum=False),
        lambda m, o, lr: m.CyclicLR(o, lr / 10, lr, 8, 5, cycle_momentum=False),
    ),
    "cyclic, halved": (
        lambda lr: s.Cyclic(lr / 10, lr, 6, None, "triangular2", cycle_momentum=False),
        lambda m, o, lr: m.CyclicLR(o, lr / 10, lr, 6, None, "triangular2", cycle_momentum=False),
    ),
    "cyclic, falling": (
        lambda lr: s.Cyclic(lr / 10, lr, 6, None, "exp_range", 0.97, cycle_momentum=False),
        lambda m, o, lr: m.CyclicLR(o, lr / 10, lr, 6, None, "exp_range", 0.97, cycle_momentum=False),
    ),
    "one after the other": (
        lambda lr: s.Sequential((s.Constant(lr), s.Exponential(lr, 0.9), s.Step(lr, 9)), (5, 25)),
        lambda m, o, lr: m.SequentialLR(
            o, [m.ConstantLR(o, 1.0), m.ExponentialLR(o, 0.9), m.StepLR(o, 9)], [5, 25]
        ),
    ),
    "chained": (
        lambda lr: s.Chained((s.Exponential(lr, 0.98), s.Step(lr, 20, 0.5))),
        lambda m, o, lr: m.ChainedScheduler([m.ExponentialLR(o, 0.98), m.StepLR(o, 20, 0.5)]),
    ),
    "own function": (
        lambda lr: s.Function(lambda t: lr / (1 + 0.1 * t)),
        lambda m, o, lr: m.LambdaLR(o, lambda t: 1 / (1 + 0.1 * t)),
    ),
}  # fmt: skip
# With the largest rate, at which fifty steps do not yet make much of a rounding.
OPTIMIZERS: dict[str, tuple[type[Any], float, dict[str, Any]]] = {
    "gradient descent": (fn.SGD, 0.1, {}),
    "SGD": (fn.SGD, 0.05, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "SGD, dampened": (fn.SGD, 0.05, {"momentum": 0.9, "dampening": 0.5}),
    "RMSprop": (fn.RMSprop, 2e-3, {}),
    "RMSprop, centered": (fn.RMSprop, 5e-4, {"centered": True, "momentum": 0.5}),
    "Adagrad": (fn.Adagrad, 0.02, {"lr_decay": 0.01}),
    "Adadelta": (fn.Adadelta, 1.0, {}),
    "Adam": (fn.Adam, 0.01, {"weight_decay": 0.01}),
    "AMSGrad": (fn.Adam, 0.01, {"amsgrad": True}),
    "AdamW": (fn.AdamW, 0.01, {}),
    "Adamax": (fn.Adamax, 0.01, {}),
    "NAdam": (fn.NAdam, 0.01, {}),
    "RAdam": (fn.RAdam, 0.01, {}),
    "Lion": (fn.Lion, 1e-3, {"weight_decay": 0.1}),
}
CLOSE = (("float64", 1e-10), ("float32", 1e-5))


def rows() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(60, 5)), rng.integers(0, 3, 60)


def trainer(optimizer: Any, dtype: str = "float64") -> fn.Trainer:
    model = fn.Sequential(fn.Dense(7, activation="tanh"), fn.Dense(3), dtype=dtype)
    return fn.Trainer(model, "cross_entropy", optimizer, seed=0)


class Theirs:
    """PyTorch's training of the same network from the same weights."""

    def __init__(self, torch: Any, kind: type, lr: float, given: dict[str, Any]) -> None:
        self.torch = torch
        start = trainer(fn.SGD(), "float32").model.build(5, seed=0)  # numbers that both types hold
        self.tensors = [torch.tensor(w, dtype=torch.float64).requires_grad_() for w in start.weights.values()]
        if kind is fn.Lion:
            self.optimizer = Lion(torch, self.tensors, lr, given)
        else:
            self.optimizer = getattr(torch.optim, kind.__name__)(self.tensors, lr=lr, **given)

    def step(self, x: Any, y: Any) -> float:
        self.optimizer.zero_grad()
        hidden = self.torch.tanh(self.torch.from_numpy(x) @ self.tensors[0] + self.tensors[1])
        z = hidden @ self.tensors[2] + self.tensors[3]
        loss = self.torch.nn.functional.cross_entropy(z, self.torch.from_numpy(y))
        loss.backward()
        self.optimizer.step()
        return float(loss.item())

    def parameters(self) -> Any:
        return np.concatenate([tensor.detach().numpy().ravel() for tensor in self.tensors])


def Lion(torch: Any, tensors: list[Any], lr: float, given: dict[str, Any]) -> Any:
    """The paper's steps as an optimizer that PyTorch's schedulers take."""

    class Steps(torch.optim.Optimizer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(tensors, {"lr": lr, "betas": (0.9, 0.99), **given})
            self.paper = LionOfThePaper(self.param_groups)

        def step(self, closure: Any = None) -> None:
            self.paper.step()

    return Steps()


def start(one: fn.Trainer) -> None:
    """The weights of `Theirs`."""
    one.model.build(5, seed=0)
    same = trainer(fn.SGD(), "float32").model.build(5, seed=0)
    one.model.parameters[...] = same.parameters


@pytest.fixture(scope="module")
def torch() -> Iterator[Any]:
    import torch

    torch.set_num_threads(1)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # NAdam's product of momenta is of this dtype
    yield torch
    torch.set_default_dtype(before)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_fifty_steps_under_a_schedule_equal_pytorchs(torch: Any, optimizer: str) -> None:
    x, y = rows()
    order = np.random.default_rng(1).integers(0, len(x), (N_STEPS, N_ROWS))
    kind, lr, given = OPTIMIZERS[optimizer]
    for name, (ours, scheduler_of) in SCHEDULES.items():
        theirs = Theirs(torch, kind, lr, given)
        scheduler = scheduler_of(torch.optim.lr_scheduler, theirs.optimizer, lr)
        for i, batch in enumerate(order):
            theirs.step(x[batch], y[batch])
            if i + 1 < N_STEPS:  # OneCycleLR refuses one more
                scheduler.step()
        for dtype, tolerance in CLOSE:
            one = trainer(kind(lr=ours(lr), **given), dtype)
            start(one)
            for part in (order[:20], order[20:]):
                one.run(x.astype(dtype), y, part)
            np.testing.assert_allclose(
                one.model.parameters, theirs.parameters(), rtol=tolerance, atol=tolerance, err_msg=name
            )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_fifty_epochs_on_a_plateau_equal_pytorchs(torch: Any, optimizer: str) -> None:
    x, y = rows()
    kind, lr, given = OPTIMIZERS[optimizer]
    theirs = Theirs(torch, kind, lr, given)
    # a large threshold: the rate falls again and again
    settings: dict[str, Any] = {"factor": 0.7, "patience": 2, "threshold": 0.05, "cooldown": 1}
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs.optimizer, **settings)
    for _ in range(N_STEPS):
        scheduler.step(theirs.step(x, y))
    for dtype, tolerance in CLOSE:
        one = trainer(kind(lr=lr, **given), dtype)
        start(one)
        plateau = fn.ReduceLROnPlateau("loss", **settings)
        one.fit(x.astype(dtype), y, epochs=N_STEPS, batch_size=None, callbacks=[plateau], progress=False)
        assert one.rate_factor < 0.5
        np.testing.assert_allclose(one.model.parameters, theirs.parameters(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", SCHEDULES)
def test_fifty_epochs_of_two_steps_under_a_schedule_by_epochs_equal_pytorchs(torch: Any, name: str) -> None:
    x, y = rows()
    ours, scheduler_of = SCHEDULES[name]
    described = ours(0.1)
    inner = getattr(described, "schedules", None) or getattr(described, "schedule", None)
    if inner is not None:  # what counts are the schedules within
        one_by_one = inner if isinstance(inner, tuple) else (inner,)
        by_epoch = tuple(replace(one, by="epoch") for one in one_by_one)
        field = {"schedules": by_epoch} if isinstance(inner, tuple) else {"schedule": by_epoch[0]}
        described = replace(described, **field)
    else:
        described = replace(described, by="epoch")
    theirs = Theirs(torch, fn.SGD, 0.1, {"momentum": 0.5})
    scheduler = scheduler_of(torch.optim.lr_scheduler, theirs.optimizer, 0.1)
    for i in range(N_STEPS):
        for part in (slice(0, 40), slice(40, None)):
            theirs.step(x[part], y[part])
        if i + 1 < N_STEPS:
            scheduler.step()
    for dtype, tolerance in CLOSE:
        one = trainer(fn.SGD(lr=described, momentum=0.5), dtype)
        start(one)
        one.fit(x.astype(dtype), y, epochs=N_STEPS, batch_size=40, shuffle=False, progress=False)
        np.testing.assert_allclose(one.model.parameters, theirs.parameters(), rtol=tolerance, atol=tolerance)
