"""L-BFGS: against PyTorch's, to the bit over threads and resume, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn as fn
from fastnn import kernels
from fastnn.errors import DivergenceError

OPTIMIZERS = [
    fn.LBFGS(lr=0.1),
    fn.LBFGS(lr=0.5, max_iter=4, history_size=3),
    fn.LBFGS(line_search="strong_wolfe"),
    fn.LBFGS(lr=3.0, max_iter=7, history_size=5, line_search="strong_wolfe"),
    fn.LBFGS(max_iter=5, max_eval=6, line_search="strong_wolfe"),
]


def rows(dtype: str = "float64") -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 4)).astype(dtype)
    return x, (x[:, 0] * x[:, 1] > 0).astype(int)


def make(optimizer: Any, dtype: str = "float64", **given: Any) -> fn.Trainer:
    model = fn.Sequential(fn.Dense(6, activation="tanh"), fn.Dense(2), dtype=dtype)
    return fn.Trainer(model, "cross_entropy", optimizer, seed=1, **given)


def their_steps(torch: Any, ours: Any, start: list[Any], x: Any, y: Any, n_steps: int) -> tuple[Any, Any]:
    """Losses before PyTorch's steps, and the parameters after them."""
    tensors = [torch.from_numpy(w).requires_grad_() for w in start]
    names = ("lr", "max_iter", "max_eval", "tolerance_grad", "tolerance_change", "history_size")
    arguments = {name: getattr(ours, name) for name in names}
    optimizer = torch.optim.LBFGS(tensors, line_search_fn=ours.line_search, **arguments)

    def closure() -> Any:
        optimizer.zero_grad()
        a = torch.from_numpy(x)
        for i in range(0, len(tensors), 2):
            a = (torch.tanh(a) if i else a) @ tensors[i] + tensors[i + 1]
        criterion = torch.nn.functional.cross_entropy if y.dtype.kind == "i" else torch.nn.functional.mse_loss
        loss = criterion(a, torch.from_numpy(y))
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(n_steps)]
    return losses, np.concatenate([t.detach().numpy().ravel() for t in tensors])


@pytest.mark.torch
@pytest.mark.parametrize("ours", OPTIMIZERS, ids=repr)
def test_steps_equal_pytorchs(ours: Any) -> None:
    import torch

    torch.set_num_threads(1)
    x, _ = rows()
    y = (x[:, 0] + 2 * np.random.default_rng(1).normal(size=len(x)) > 0).astype(int)
    # A convex loss pulls roundings together: so fifty iterations. A net doubles them with each of its own.
    linear, net = (fn.Dense(2),), (fn.Dense(6), fn.Activation("tanh"), fn.Dense(2))
    for layers, dtype, n_iterations, tolerance in (
        (linear, "float64", 50, 1e-10),
        (linear, "float32", 50, 1e-3),  # ends where the loss in float32 no longer falls
        (net, "float64", 16, 1e-10),
    ):
        n_steps = max(1, n_iterations // ours.max_iter)
        trainer = fn.Trainer(fn.Sequential(*layers, dtype=dtype), "cross_entropy", ours, seed=1)
        trainer.model.build(4, seed=1)
        start = [w.astype(np.float64) for w in trainer.model.weights.values()]
        losses, expected = their_steps(torch, ours, start, x, y, n_steps)
        history = trainer.fit(x.astype(dtype), y, epochs=n_steps, batch_size=None)
        np.testing.assert_allclose(history["loss"], losses, rtol=tolerance)
        np.testing.assert_allclose(trainer.model.parameters, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.torch
@pytest.mark.parametrize("ours", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)])
def test_fifty_iterations_on_least_squares_equal_pytorchs(ours: Any, dtype: str, tolerance: float) -> None:
    """Strongly convex, with a gradient that keeps its places near the minimum: float32 gets there too."""
    import torch

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 4))
    y = x @ rng.normal(size=(4, 2)) + 0.1 * rng.normal(size=(80, 2))
    trainer = fn.Trainer(fn.Sequential(fn.Dense(2), dtype=dtype), "mse", ours, seed=1)
    trainer.model.build(4, seed=1)
    start = [w.astype(np.float64) for w in trainer.model.weights.values()]
    n_steps = max(1, 50 // ours.max_iter)
    losses, expected = their_steps(torch, ours, start, x, y, n_steps)
    history = trainer.fit(x.astype(dtype), y.astype(dtype), epochs=n_steps, batch_size=None)
    np.testing.assert_allclose(history["loss"], losses, rtol=tolerance)
    np.testing.assert_allclose(trainer.model.parameters, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_bits_do_not_depend_on_threads_or_instruction_set(optimizer: Any, threads: Any, request: Any) -> None:
    before = kernels.isa()
    request.addfinalizer(lambda: kernels.set_isa(before))
    x, y = rows("float32")
    found = set()
    for name in kernels.isa_available():
        kernels.set_isa(name)
        for n_threads in (1, 2, 3):
            threads(n_threads)
            trainer = make(optimizer, "float32")
            trainer.fit(x, y, epochs=3, batch_size=None, sample_weight=np.linspace(0.1, 1, 80))
            found.add(trainer.model.parameters.tobytes())
    assert len(found) == 1


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_a_resumed_training_ends_with_the_same_bits(optimizer: Any, tmp_path: Path) -> None:
    x, y = rows()
    whole, killed, resumed = make(optimizer), make(optimizer), make(optimizer)
    whole.fit(x, y, epochs=5, batch_size=None)
    killed.fit(x, y, epochs=2, batch_size=None)
    killed.save_checkpoint(tmp_path / "c")
    resumed.resume(tmp_path / "c")
    resumed.fit(x, y, epochs=3, batch_size=None)
    np.testing.assert_array_equal(resumed.model.parameters, whole.model.parameters)
    np.testing.assert_array_equal(resumed._current_program().state, whole._current_program().state)
    assert resumed.step == whole.step == 5


def test_it_solves_what_gradient_descent_does_not() -> None:
    x, y = rows()
    history = make(fn.LBFGS(line_search="strong_wolfe")).fit(x, y, epochs=10, batch_size=None)
    assert history["loss"][-1] < 1e-3
    assert make("sgd").fit(x, y, epochs=10, batch_size=None)["loss"][-1] > 0.1


def test_both_devices_agree() -> None:
    x, y = rows()
    found = []
    for device in ("cpu", "numpy"):
        trainer = make(fn.LBFGS(lr=0.1), device=device)
        trainer.fit(x, y, epochs=2, batch_size=None)
        found.append(trainer.model.parameters.copy())
    np.testing.assert_allclose(found[0], found[1], rtol=1e-8)


def test_a_loss_that_is_not_finite_leaves_all_as_it_was() -> None:
    x, y = rows()
    trainer = make(fn.LBFGS(lr=0.1))
    trainer.fit(x, y, epochs=1, batch_size=None)
    before, state = trainer.model.parameters.copy(), trainer._current_program().state
    broken = x.copy()
    broken[3, 0] = np.inf
    with pytest.raises(DivergenceError, match="x itself"):
        trainer.fit(broken, y, batch_size=None)
    np.testing.assert_array_equal(trainer.model.parameters, before)
    np.testing.assert_array_equal(trainer._current_program().state, state)
    trainer.fit(x, y, batch_size=None)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: make(fn.LBFGS()).fit(*rows()), ValueError, "batch_size must be None with LBFGS"),
        (lambda: fn.LBFGS(clip_norm=1.0), ValueError, "LBFGS takes no clip_norm, got 1.0"),
        (lambda: fn.LBFGS(line_search="wolfe"), ValueError, "line_search must be one of strong_wolfe"),
        (lambda: fn.LBFGS(max_iter=0), ValueError, "max_iter must be from 1"),
        (lambda: fn.LBFGS(tolerance_grad=-1), ValueError, "tolerance_grad must be at least 0"),
    ],
)
def test_bad_values_are_named(call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call()
