"""Layers against PyTorch's own: gradients, running statistics after training, noise: `make test-torch`."""

import numpy as np
import pytest
from test_layer_gradients import forward

import fastnn as fn
from fastnn import devices
from fastnn.layers import lower, n_parameters
from fastnn.steps import initial_buffers

pytestmark = pytest.mark.torch

# Of 6 columns, with 4 outputs.
NETWORKS = {
    "batch norm": (fn.BatchNorm(), fn.Dense(9), fn.BatchNorm(eps=1e-3), fn.Activation("relu"), fn.Dense(4)),
    "batch norm over all batches": (
        fn.Dense(33),
        fn.BatchNorm(momentum=None),
        fn.Activation("tanh"),
        fn.Concat((None, fn.BatchNorm(momentum=None, affine=False)), (slice(0, 4),)),
        fn.Dense(4),
    ),
    "batch norm, not affine": (fn.Dense(33), fn.BatchNorm(affine=False), fn.Activation("tanh"), fn.Dense(4)),
    "layer norm": (fn.LayerNorm(), fn.Dense(17, activation="tanh"), fn.LayerNorm(eps=1e-3), fn.Dense(4)),
    "layer norm, not affine": (fn.Dense(17), fn.LayerNorm(affine=False), fn.Dense(4)),
    "rms norm": (fn.RMSNorm(), fn.Dense(17, activation="tanh"), fn.RMSNorm(eps=1e-2), fn.Dense(4)),
    "prelu": (fn.PReLU(), fn.Dense(17), fn.PReLU(17), fn.Dense(4)),
    "residual": (
        fn.Dense(7),
        fn.Residual(fn.Dense(9, activation="relu"), fn.LayerNorm(), fn.Dense(7)),
        fn.Residual(fn.Residual(fn.Dense(5, activation="tanh"), projection=True), fn.Dense(7)),
        fn.Dense(4),
    ),
    "concat": (
        fn.Concat(((4, 0), fn.Dense(8, activation="tanh")), (slice(1, 6),), (None, fn.BatchNorm())),
        fn.Dense(4),
    ),
    "periodic": (fn.Dense(3), fn.Periodic(5, sigma=0.3), fn.Dense(4)),
}


@pytest.fixture(scope="module")
def torch():
    import torch

    torch.set_num_threads(1)
    return torch


@pytest.mark.parametrize("network", NETWORKS)
def test_gradients_equal_pytorchs(torch, isa, network):
    rng = np.random.default_rng(0)
    steps = lower(NETWORKS[network], 6)
    parameters = 0.5 * rng.standard_normal(n_parameters(steps))
    for n_rows in (2, 7, 17, 33, 64):
        x, y = rng.standard_normal((n_rows, 6)), rng.integers(0, 4, n_rows)
        theirs = torch.from_numpy(parameters.copy()).requires_grad_()
        buffers = torch.from_numpy(initial_buffers(steps, np.float64))
        z = forward(torch, steps, theirs, x, buffers)
        loss = torch.nn.functional.cross_entropy(z, torch.from_numpy(y))
        loss.backward()
        program = devices.make("cpu", steps, parameters, loss="cross_entropy")
        found, gradient = program.gradient(x, y)
        assert found == pytest.approx(loss.item(), rel=1e-10)
        np.testing.assert_allclose(gradient, theirs.grad.numpy(), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("network", NETWORKS)
def test_fifty_steps_equal_pytorchs(torch, isa, network):
    rng = np.random.default_rng(1)
    steps = lower(NETWORKS[network], 6)
    # sines of large numbers make chaos of 50 steps
    parameters = (0.1 if network == "periodic" else 0.5) * rng.standard_normal(n_parameters(steps))
    x, y = rng.standard_normal((100, 6)), rng.integers(0, 4, 100)
    order = rng.integers(0, 100, (50, 17))
    other = torch.from_numpy(parameters.copy()).requires_grad_()
    theirs = torch.from_numpy(initial_buffers(steps, np.float64))
    optimizer = torch.optim.SGD([other], lr=0.05, momentum=0.5)
    for rows in order:
        optimizer.zero_grad()
        z = forward(torch, steps, other, x[rows], theirs)
        torch.nn.functional.cross_entropy(z, torch.from_numpy(y[rows])).backward()
        optimizer.step()
    buffers = initial_buffers(steps, np.float64)
    ours = fn.SGD(lr=0.05, momentum=0.5)
    program = devices.make("cpu", steps, parameters, loss="cross_entropy", optimizer=ours, buffers=buffers)
    program.run(x, y, order, np.full(50, 0.05))
    np.testing.assert_allclose(buffers, theirs.numpy(), rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(parameters, other.detach().numpy(), rtol=1e-10, atol=1e-11)


def test_alpha_dropout_has_pytorchs_numbers(torch):
    x = np.full((40, 30), 0.7)
    theirs = torch.nn.functional.alpha_dropout(torch.from_numpy(x), 0.3, training=True).unique().numpy()
    steps = lower((fn.AlphaDropout(0.3), fn.Dense(30)), 30)
    parameters = np.concatenate([np.eye(30).ravel(), np.zeros(30)])
    for device in ("cpu", "numpy"):
        program = devices.make(device, steps, parameters, loss="mse", seed=1)
        # the gradient of the bias is 2 / 1200 times the sums of the columns
        sums = program.gradient(x, np.zeros_like(x), dropout_step=0)[1][-30:] * 1200 / 2
        dropped = (sums - 40 * theirs[1]) / (theirs[0] - theirs[1])
        np.testing.assert_allclose(dropped, np.rint(dropped), atol=1e-9)
        assert 8 <= dropped.mean() <= 16


def test_statistics_over_all_batches_equal_pytorchs_module(torch):
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((300, 6)), rng.standard_normal((300, 6))
    order = rng.integers(0, 300, (50, 17))
    theirs = torch.nn.BatchNorm1d(6, momentum=None, dtype=torch.float64)
    for rows in order:
        theirs(torch.from_numpy(x[rows]))
    for device in ("cpu", "numpy"):
        model = fn.Sequential(fn.BatchNorm(momentum=None), dtype="float64").build(6)
        fn.Trainer(model, "mse", fn.SGD(lr=0.1), device=device).run(x, y, order)
        for name, found in model.running.items():
            expected = theirs.state_dict()[name.removeprefix("0.")].numpy()
            np.testing.assert_allclose(found, np.reshape(expected, found.shape), rtol=1e-12, atol=1e-14)
        assert model.running["0.num_batches_tracked"] == 50
