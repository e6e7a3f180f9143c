"""Schedules that cycle the momentum: values against PyTorch's, and what trainings make of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fastnn as fn
from fastnn import optimizers
from fastnn import schedules as s

N = 50
SCHEDULES: list[tuple[Any, Callable[[Any, Any], Any]]] = [
    (s.OneCycle(0.05, N), lambda m, o: m.OneCycleLR(o, 0.05, N)),
    (
        s.OneCycle(0.05, N, 0.4, "linear", three_phase=True, base_momentum=0.5, max_momentum=0.9),
        lambda m, o: m.OneCycleLR(
            o, 0.05, N, None, None, 0.4, "linear", True, 0.5, 0.9, three_phase=True
        ),
    ),
    (s.Cyclic(0.01, 0.05, 8), lambda m, o: m.CyclicLR(o, 0.01, 0.05, 8)),
    (
        s.Cyclic(0.01, 0.05, 5, 9, "triangular2", base_momentum=0.6, max_momentum=0.7),
        lambda m, o: m.CyclicLR(
            o, 0.01, 0.05, 5, 9, "triangular2", base_momentum=0.6, max_momentum=0.7
        ),
    ),
]  # fmt: skip
OPTIMIZERS: list[tuple[type, dict[str, Any]]] = [
    (fn.SGD, {"momentum": 0.9}),
    (fn.SGD, {}),  # PyTorch's schedulers give it a momentum all the same
    (fn.SGD, {"momentum": 0.5, "nesterov": True, "weight_decay": 0.01}),
    (fn.RMSprop, {"centered": True}),
    (fn.Adam, {"amsgrad": True}),
    (fn.AdamW, {}),
    (fn.Adamax, {}),
    (fn.RAdam, {}),
]


def rows() -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 5))
    return x, np.tanh(x @ rng.normal(size=(5, 2)))


def trainer(optimizer: Any, dtype: str = "float64", device: str = "cpu") -> fn.Trainer:
    model = fn.Sequential(fn.Dense(7, activation="tanh"), fn.Dense(2), dtype=dtype)
    return fn.Trainer(model, "mse", optimizer, device=device, seed=0)


@pytest.mark.torch
@pytest.mark.parametrize(("ours", "theirs"), SCHEDULES, ids=[repr(ours) for ours, _ in SCHEDULES])
@pytest.mark.parametrize(("kind", "given"), OPTIMIZERS, ids=str)
@pytest.mark.filterwarnings("ignore")
def test_fifty_steps_equal_pytorchs(ours: Any, theirs: Any, kind: Any, given: Any) -> None:
    import torch

    x, y = rows()
    mine = {device: trainer(kind(lr=ours, **given), device=device) for device in ("cpu", "numpy")}
    narrow = trainer(kind(lr=ours, **given), "float32")
    mine["numpy"].model.build(5, seed=0)
    tensors = [torch.tensor(w, requires_grad=True) for w in mine["numpy"].model.weights.values()]
    optimizer = getattr(torch.optim, kind.__name__)(tensors, lr=0.05, **given)
    scheduler = theirs(torch.optim.lr_scheduler, optimizer)
    for i in range(N):
        group = optimizer.param_groups[0]
        momentum = group["betas"][0] if "betas" in group else group["momentum"]
        assert ours.momenta(np.array([i]))[0] == pytest.approx(momentum, rel=1e-12)
        z = torch.tanh(torch.tensor(x) @ tensors[0] + tensors[1]) @ tensors[2] + tensors[3]
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(z, torch.tensor(y)).backward()
        optimizer.step()
        if i < N - 1:
            scheduler.step()
    order = np.tile(np.arange(16), (N, 1))
    for one in (*mine.values(), narrow):
        one.run(x, y, order)
        # RMSprop throws the weights far here, and roundings with them
        loose = {"rtol": 1e-5, "atol": 2e-4 if kind is fn.RMSprop else 2e-5}
        close = {"rtol": 1e-10, "atol": 1e-11} if one is not narrow else loose
        for w, tensor in zip(one.model.weights.values(), tensors, strict=True):
            np.testing.assert_allclose(w, tensor.detach().numpy(), **close)


@pytest.mark.parametrize("kind", [fn.SGD, fn.Adam, fn.RMSprop])
@pytest.mark.parametrize("by", ["step", "epoch"])
def test_compiled_equals_the_array_program(kind: Any, by: str, threads: Any) -> None:
    x, y = rows()
    lr = s.OneCycle(0.05, 12 if by == "step" else 4, by=by)
    found = []
    for device, n in (("cpu", 1), ("cpu", 3), ("numpy", 1)):
        threads(n)
        one = trainer(kind(lr=lr, clip_norm=1.0, accumulate=2), device=device)
        one.fit(x, y, epochs=4, batch_size=5)
        found.append(one.model.parameters.copy())
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], found[2], rtol=1e-11)


def test_a_cycle_goes_on_after_resume(tmp_path: Path) -> None:
    x, y = rows()
    whole, first, again = (trainer(fn.SGD(s.Cyclic(0.01, 0.1, 3), nesterov=True)) for _ in range(3))
    whole.fit(x, y, epochs=4, batch_size=5)
    first.fit(x, y, epochs=2, batch_size=5)
    first.save_checkpoint(tmp_path / "c")
    again.resume(tmp_path / "c")
    again.fit(x, y, epochs=2, batch_size=5)
    np.testing.assert_array_equal(again.model.parameters, whole.model.parameters)


def test_what_the_optimizer_names_is_used_without_a_cycle() -> None:
    x, y = rows()
    found = []
    for momentum in (0.5, 0.9):
        one = trainer(fn.SGD(s.OneCycle(0.1, 12, cycle_momentum=False), momentum=momentum))
        one.fit(x, y, epochs=3, batch_size=4)
        found.append(one.model.parameters.copy())
    assert (found[0] != found[1]).any()
    assert optimizers.momenta(fn.SGD(s.OneCycle(0.1, 12, cycle_momentum=False)), 3) is None
    assert optimizers.momenta(fn.SGD(0.1), 3) is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fn.Adagrad(s.OneCycle(0.1, 9)), "cycle_momentum=False, as Adagrad has no momentum"),
        (lambda: fn.LBFGS(s.OneCycle(0.1, 9)), "cycle_momentum=False, as LBFGS has no momentum"),
        (lambda: fn.NAdam(s.Cyclic(0.1, 0.2)), "as NAdam has a momentum of its own for each step"),
        (lambda: s.Warmup(s.OneCycle(0.1, 9), 3), "schedule must have cycle_momentum=False within another"),
        (lambda: s.OneCycle(0.1, 9, base_momentum=1.0), "base_momentum must be at least 0 and below 1"),
        (lambda: s.OneCycle(0.1, 9, base_momentum=0), "base_momentum must be above 0"),
        (lambda: s.Cyclic(0.1, 0.2, gamma=1.5), "gamma must be at most 1 with cycle_momentum=True"),
    ],
)
def test_cycles_that_nobody_can_follow_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
