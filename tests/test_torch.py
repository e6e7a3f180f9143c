"""Gradients and updates against PyTorch: `make test-torch`."""

import itertools

import numpy as np
import pytest
from loss_targets import targets_of, torch_rows

import fastnn as fn
from fastnn import devices, kernels
from fastnn.layers import lower, n_parameters

pytestmark = pytest.mark.torch

LAYERS = {
    "dense": lambda f: (fn.Dense(4, activation=f),),
    "deep": lambda f: (fn.Dense(17, activation=f), fn.Dense(9, activation=f, bias=False), fn.Dense(4)),
    "activation layers": lambda f: (fn.Dense(7), fn.Activation(f), fn.Dense(4), fn.Activation(f)),
    "dropout": lambda f: (fn.Dropout(0.2), fn.Dense(33, activation=f), fn.Dropout(0.5), fn.Dense(4)),
}


@pytest.fixture(scope="module")
def torch():
    import torch

    torch.set_num_threads(1)
    return torch


def apply(torch, name, z):
    functional = torch.nn.functional
    if name == "identity":
        return z
    if name in ("softmax", "log_softmax"):
        return getattr(torch, name)(z, dim=1)
    if name == "gelu_tanh":
        return functional.gelu(z, approximate="tanh")
    if name == "hard_sigmoid":  # theirs multiplies gradients by 1/6 in float32 whatever the dtype
        return functional.relu6(z + 3) / 6
    if name in ("hard_swish", "hard_tanh"):
        return getattr(functional, name.replace("_", ""))(z)
    return getattr(functional if hasattr(functional, name) else torch, name)(z)


def torch_loss(torch, steps, parameters, x, y, weight, loss, seed, dropout_step):
    """The same network by PyTorch, with our dropout masks; a weighted mean over rows."""
    a = torch.from_numpy(x)
    for s in steps:
        if s.kind == "dense":
            w = parameters[s.weight : s.weight + s.n_in * s.n_out].reshape(s.n_in, s.n_out)
            a = a @ w
            if s.bias >= 0:
                a = a + parameters[s.bias : s.bias + s.n_out]
        if s.kind == "dropout" and dropout_step is not None:
            ones = np.ones((len(x), s.n_out))
            _, mask = fn.ops.dropout(ones, s.rate, seed=seed, step=dropout_step, layer=s.layer)
            a = a * torch.from_numpy(mask)
        a = apply(torch, s.activation, a)
    rows = torch_rows(torch, loss, a, torch.from_numpy(y))
    w = torch.from_numpy(weight)
    return (rows * w).sum() / w.sum()


@pytest.mark.parametrize("name", [name for name, kind in kernels.ACTIVATIONS.items() if kind != "rowwise"])
def test_values_and_derivatives_at_kinks_equal_pytorchs(torch, isa, name):
    kinks = [-20.0, -6.0, -3.0, -1.0, -0.0, 0.0, 1.0, 3.0, 6.0, 20.0]
    z = np.array([*kinks, *np.nextafter(kinks, 99), *np.nextafter(kinks, -99), *np.linspace(-9, 9, 401)])
    # beyond its threshold their softplus is z, which here stands for numbers up to 20 + 2e-9
    z = z[z != np.nextafter(20.0, 99)] if name == "softplus" else z
    theirs = torch.from_numpy(z.copy()).requires_grad_()
    a = apply(torch, name, theirs)
    a.sum().backward()
    f, backward = fn.ops.ACTIVATIONS[name]
    np.testing.assert_allclose(f(z), a.detach().numpy(), rtol=1e-13, atol=1e-15)
    slopes = theirs.grad.numpy()
    if name == "hard_sigmoid":  # relu6(z + 3) / 6 by their autograd, which takes z + 3 for its kinks too
        np.testing.assert_allclose(backward(np.ones_like(z), z), slopes, rtol=1e-10)
    else:
        np.testing.assert_allclose(backward(np.ones_like(z), z), slopes, rtol=1e-10, atol=1e-14)


CASES = list(itertools.product(LAYERS, kernels.ACTIVATIONS, kernels.LOSSES))


@pytest.mark.parametrize(("layers", "activation", "loss"), CASES)
def test_gradients_equal_pytorchs(torch, isa, layers, activation, loss):
    rng = np.random.default_rng(0)
    steps = lower(LAYERS[layers](activation), 6)
    parameters = 0.5 * rng.standard_normal(n_parameters(steps))
    for n_rows, weighted, dropout_step in [(1, False, None), (7, True, 3), (64, True, 0)]:
        x = rng.standard_normal((n_rows, 6))
        y = targets_of(loss, rng, n_rows, 4)
        weight = rng.random(n_rows) if weighted else np.ones(n_rows)
        theirs = torch.from_numpy(parameters.copy()).requires_grad_()
        expected = torch_loss(torch, steps, theirs, x, y, weight, loss, 5, dropout_step)
        expected.backward()
        program = devices.make("cpu", steps, parameters, loss=loss, seed=5)
        found, gradient = program.gradient(x, y, weight if weighted else None, dropout_step=dropout_step)
        assert found == pytest.approx(expected.item(), rel=1e-10)
        # exp in a loss (poisson, gaussian_nll) gives gradients of any size, and sums of such cancel
        largest = max(1.0, float(theirs.grad.abs().max()))
        np.testing.assert_allclose(gradient, theirs.grad.numpy(), rtol=1e-10, atol=1e-12 * largest)
        single = devices.make("cpu", steps, parameters.astype(np.float32), loss=loss, seed=5)
        y32 = y if kernels.LOSSES[loss] == "label" else y.astype(np.float32)
        _, gradient = single.gradient(x.astype(np.float32), y32, weight, dropout_step=dropout_step)
        np.testing.assert_allclose(gradient, theirs.grad.numpy(), rtol=1e-4, atol=1e-5 * largest)


OPTIMIZERS = [
    (fn.SGD(lr=0.1), lambda t: (t.optim.SGD, {"lr": 0.1})),
    (
        fn.SGD(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
        lambda t: (t.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ),
    (fn.SGD(lr=0.05, momentum=0.5), lambda t: (t.optim.SGD, {"lr": 0.05, "momentum": 0.5})),
    (fn.Adam(), lambda t: (t.optim.Adam, {})),
    (
        fn.Adam(lr=0.01, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.1),
        lambda t: (t.optim.Adam, {"lr": 0.01, "betas": (0.8, 0.99), "eps": 1e-6, "weight_decay": 0.1}),
    ),
]


@pytest.mark.parametrize(("ours", "theirs"), OPTIMIZERS, ids=[repr(o) for o, _ in OPTIMIZERS])
def test_fifty_steps_equal_pytorchs(torch, isa, ours, theirs):
    rng = np.random.default_rng(1)
    steps = lower(LAYERS["deep"]("tanh"), 6)
    parameters = 0.5 * rng.standard_normal(n_parameters(steps))
    x, y = rng.standard_normal((100, 6)), rng.integers(0, 4, 100)
    order = rng.integers(0, 100, (50, 16))
    other = torch.from_numpy(parameters.copy()).requires_grad_()
    make, arguments = theirs(torch)
    optimizer = make([other], **arguments)
    for rows in order:
        optimizer.zero_grad()
        torch_loss(torch, steps, other, x[rows], y[rows], np.ones(16), "cross_entropy", 0, None).backward()
        optimizer.step()
    for dtype, tolerance in (("float64", 1e-10), ("float32", 1e-5)):
        mine = parameters.astype(dtype)
        program = devices.make("cpu", steps, mine, loss="cross_entropy", optimizer=ours)
        program.run(x.astype(dtype), y, order, np.full(50, ours.lr))
        np.testing.assert_allclose(mine, other.detach().numpy(), rtol=tolerance, atol=tolerance)
