"""Fifty steps of every optimizer with every clip, decay and group against PyTorch's: `make test-torch`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from test_optimizers import BASES, OPTIMIZERS, SHARED, problem

import fastnn as fn
from fastnn import devices
from fastnn.steps import places

pytestmark = pytest.mark.torch

MORE = [
    fn.SGD(0.1),
    fn.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    fn.SGD(0.05, momentum=0.9, dampening=0.5),
    fn.Adam(),
    fn.Adam(0.01, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.1),
    *OPTIMIZERS,
]


@pytest.fixture(scope="module")
def torch() -> Iterator[Any]:
    import torch

    torch.set_num_threads(1)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # NAdam's product of momenta is of this dtype
    yield torch
    torch.set_default_dtype(before)


class LionOfThePaper:
    """Chen et al. 2023, Algorithm 2, on tensors, in float64."""

    def __init__(self, groups: Any, **_: Any) -> None:
        self.param_groups = groups
        self.m: dict[int, Any] = {}

    def step(self) -> None:
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for w in group["params"]:
                if w.grad is None:
                    continue
                m = self.m.setdefault(id(w), 0 * w.detach())
                c = beta1 * m + (1 - beta1) * w.grad
                w.data -= group["lr"] * (c.sign() + group["weight_decay"] * w.data)
                self.m[id(w)] = beta2 * m + (1 - beta2) * w.grad


def theirs(torch: Any, ours: Any, tensors: dict[str, Any]) -> Any:
    """PyTorch's optimizer over the weights, with its groups."""
    # what PyTorch has beside its optimizers, or not at all
    shared = {"l1", "clip_norm", "clip_value", "max_norm", "accumulate", "ema", "groups", "eps_hat"}
    names = [field.name for field in fields(ours) if field.name not in shared]
    arguments = {name: getattr(ours, name) for name in names}
    groups = []
    for name, tensor in tensors.items():
        own = dict(arguments, params=[tensor])
        for group in ours.groups:
            if group.holds(name):
                if group.lr_factor is not None:
                    own["lr"] = ours.lr * group.lr_factor
                if group.weight_decay is not None:
                    own["weight_decay"] = group.weight_decay
                if group.frozen:
                    tensor.requires_grad_(False)
        groups.append(own)
    if ours.name == "lion":
        return LionOfThePaper(groups)
    return getattr(torch.optim, type(ours).__name__)(groups, **arguments)


def their_run(torch: Any, ours: Any, rates: Any, n_steps: int) -> tuple[Any, Any]:
    """Parameters after the steps, and their average."""
    steps, parameters, x, y, order, weight = problem("float64", n_steps=n_steps)
    tensors = {}
    for name, (offset, shape) in places(steps).items():
        part = parameters[offset : offset + int(np.prod(shape))].reshape(shape)
        tensors[name] = torch.from_numpy(part.copy()).requires_grad_()
    optimizer = theirs(torch, ours, tensors)
    factors = [group["lr"] / ours.lr for group in optimizer.param_groups]
    mean: dict[str, Any] = {}
    totals, k = 0.0, ours.accumulate
    for i, rows in enumerate(order):
        a = torch.from_numpy(x[rows])
        for layer in range(3):
            a = a @ tensors[f"{layer}.weight"]
            if f"{layer}.bias" in tensors:
                a = a + tensors[f"{layer}.bias"]
            a = torch.tanh(a) if layer < 2 else a
        losses = torch.nn.functional.cross_entropy(a, torch.from_numpy(y[rows]), reduction="none")
        (losses * torch.from_numpy(weight[rows])).sum().backward()
        totals += weight[rows].sum()
        if (i + 1) % k:
            continue
        live = [tensor for tensor in tensors.values() if tensor.grad is not None]
        for tensor in live:
            tensor.grad /= totals
        if ours.clip_value is not None:
            torch.nn.utils.clip_grad_value_(live, ours.clip_value)
        if ours.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(live, ours.clip_norm)
        for name, tensor in tensors.items():
            l1 = ours.l1
            for group in ours.groups:
                if group.holds(name) and group.l1 is not None:
                    l1 = group.l1
            if tensor.grad is not None:
                tensor.grad += l1 * torch.sign(tensor.data)
        for group, factor in zip(optimizer.param_groups, factors, strict=True):
            group["lr"] = rates[i] * factor
        optimizer.step()
        for name, tensor in tensors.items():
            limit = ours.max_norm
            for group in ours.groups:
                if group.holds(name) and group.max_norm is not None:
                    limit = group.max_norm
            if limit is not None and name.endswith(".weight") and tensor.requires_grad:
                length = tensor.data.norm(dim=0)
                tensor.data *= torch.where(length > limit, limit / length, torch.ones_like(length))
            if ours.ema is not None:
                if name in mean:
                    mean[name].lerp_(tensor.data, 1 - ours.ema)
                else:
                    mean[name] = tensor.data.clone()
            tensor.grad = None
        totals = 0.0
    flat = [
        np.concatenate([t.detach().numpy().ravel() for t in found.values()])
        for found in (tensors, mean)
        if found
    ]
    return flat[0], flat[1] if ours.ema is not None else None


CASES = MORE + [replace(base, **shared) for base in BASES for shared in SHARED]


# Every optimizer, at a rate of its own, with each clip, decay and group of weights.
EVERY = [
    fn.SGD(0.1),
    fn.SGD(0.05, momentum=0.9, nesterov=True),
    fn.SGD(0.05, momentum=0.9, dampening=0.5),
    fn.RMSprop(2e-3),  # at 1e-2 a weight goes through 0, where the sign that l1 takes is that of a rounding
    fn.RMSprop(1e-3, momentum=0.5, centered=True),
    fn.Adagrad(),
    fn.Adadelta(),
    fn.Adam(0.01),
    fn.Adam(0.01, amsgrad=True),
    fn.AdamW(0.01),
    fn.Adamax(0.01),
    fn.NAdam(0.01),
    fn.NAdam(0.01, decoupled_weight_decay=True),
    fn.RAdam(0.01),
    fn.Lion(1e-3),
]
CLIPS: list[dict[str, Any]] = [
    {},
    {"clip_value": 0.02},
    {"clip_norm": 0.1},
    {"clip_norm": 0.1, "clip_value": 0.03},
]
DECAYS: list[dict[str, Any]] = [
    {"weight_decay": 0.0},
    {"weight_decay": 0.05},
    {"weight_decay": 0.0, "l1": 0.01},
    {"weight_decay": 0.05, "l1": 0.01, "max_norm": 1.5},
]
GROUPS: list[dict[str, Any]] = [
    {},
    {"groups": (fn.Group(weights="*.bias", weight_decay=0.0), fn.Group(layers=0, lr_factor=0.1))},
    {"groups": (fn.Group(layers=0, frozen=True), fn.Group(layers=2, weight_decay=0.1, l1=0.02))},
]


def compare(torch: Any, ours: Any) -> None:
    """Fifty updates at rates that fall, in both types."""
    n_steps = 50 * ours.accumulate
    rates = ours.lr * np.linspace(1, 0.5, n_steps)
    expected, mean = their_run(torch, ours, rates, n_steps)
    for dtype, tolerance in (("float64", 1e-10), ("float32", 1e-5)):
        steps, parameters, x, y, order, weight = problem(dtype, n_steps=n_steps)
        program = devices.make("cpu", steps, parameters, loss="cross_entropy", optimizer=ours)
        program.run(x, y, order, rates, weight)
        close = {"rtol": tolerance, "atol": tolerance, "err_msg": repr(ours)}
        np.testing.assert_allclose(parameters, expected, **close)
        if mean is not None:
            np.testing.assert_allclose(program.state[-1], mean, **close)


@pytest.mark.parametrize("ours", CASES, ids=repr)
def test_fifty_steps_equal_pytorchs(torch: Any, isa: str, ours: Any) -> None:
    compare(torch, ours)


@pytest.mark.parametrize("ours", EVERY, ids=repr)
def test_fifty_steps_with_each_clip_decay_and_group_equal_pytorchs(torch: Any, ours: Any) -> None:
    for clip, decay, group in itertools.product(CLIPS, DECAYS, GROUPS):
        compare(torch, replace(ours, **clip, **decay, **group))


@pytest.mark.parametrize("ours", EVERY, ids=repr)
def test_fifty_updates_with_what_all_share_equal_pytorchs(torch: Any, ours: Any) -> None:
    for shared in (
        {"accumulate": 3},
        {"ema": 0.9},
        {"accumulate": 2, "clip_norm": 0.1, "ema": 0.9, "max_norm": 0.9},
    ):
        compare(torch, replace(ours, **shared))
