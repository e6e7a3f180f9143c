"""A batch's penalty, sums over outputs and capped losses: one result whichever way the steps go."""

from __future__ import annotations

import numpy as np
import pytest

import fastnn as fn
from fastnn import devices
from fastnn.devices.arrays import ArrayProgram
from fastnn.program import Program
from fastnn.steps import Objective


def trained(calls, *, dtype, optimizer, weighted, widths):
    rng = np.random.RandomState(0)
    n_in, *hidden, n_out = widths
    model = fn.Sequential(*(fn.Dense(n, "relu") for n in hidden), fn.Dense(n_out), dtype=dtype).build(n_in)
    x, y = rng.randn(96, n_in).astype(dtype), rng.randint(0, n_out, 96)
    weight = rng.uniform(0.5, 2, 96) if weighted else None
    objective = Objective(l2=0.3, factor=1.5, told=0.25, cap=2.0)
    program = Program(
        model.steps, model._block, loss=fn.losses.CrossEntropy(), optimizer=optimizer, objective=objective
    )
    order = rng.permutation(96).reshape(-1, 4)
    losses = np.empty(len(order))
    for part in np.split(np.arange(len(order)), calls):
        told = losses[part[0] : part[-1] + 1]
        program.run(x, y, order[part], np.full(len(part), 0.05), weight, step_losses=told)
    return program.small, model.parameters, losses


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("optimizer", [fn.SGD(), fn.SGD(momentum=0.9), fn.Adam(eps_hat=True)], ids=str)
@pytest.mark.parametrize("widths", [(5, 7, 3), (20, 33, 17), (4, 2)], ids=str)
def test_small_nets_kernel_and_general_steps_have_the_same_bits(dtype, weighted, optimizer, widths):
    arguments = {"dtype": dtype, "optimizer": optimizer, "weighted": weighted, "widths": widths}
    at_once, singly = trained(1, **arguments), trained(24, **arguments)
    assert at_once[0]
    assert not singly[0]
    np.testing.assert_array_equal(at_once[1], singly[1])
    np.testing.assert_array_equal(at_once[2], singly[2])


def test_one_step_by_hand():
    model = fn.Sequential(fn.Dense(1), dtype="float64").build(1)
    model.parameters = [2.0, 1.0]
    objective = Objective(l2=0.5, factor=0.5, told=0.5)
    loss = fn.losses.MSE()
    program = Program(model.steps, model._block, loss=loss, optimizer=fn.SGD(), objective=objective)
    x, y = np.array([[1.0], [3.0]]), np.array([[2.0], [3.0]])
    told = program.run(x, y, np.array([[0, 1]]), np.array([0.1]))
    # Errors 1 and 4; half their squares 8.5; half of l2 times w^2: 1.
    assert told == (8.5 + 1.0, 2.0)
    # Gradient of w: (1 * 1 + 4 * 3 + 0.5 * 2) / 2; of the bias, without penalty: (1 + 4) / 2.
    np.testing.assert_allclose(model.parameters, [2 - 0.1 * 7, 1 - 0.1 * 2.5], rtol=1e-15)


@pytest.mark.parametrize("program", [Program, ArrayProgram])
def test_decoupled_decay_and_accumulated_batches_take_no_penalty(program):
    model = fn.Sequential(fn.Dense(1), dtype="float64").build(1)
    for optimizer in (fn.AdamW(), fn.SGD(accumulate=2)):
        with pytest.raises(ValueError, match="l2 must be 0 with"):
            program(
                model.steps,
                model._block,
                loss=fn.losses.MSE(),
                optimizer=optimizer,
                objective=Objective(l2=1.0),
            )


@pytest.mark.parametrize("kind", [fn.Adam, fn.AdamW])
def test_eps_hat_is_that_of_the_array_program_and_not_the_other(kind):
    x = np.random.RandomState(0).randn(64, 3)
    found = {}
    for device, eps_hat in (("cpu", True), ("numpy", True), ("cpu", False)):
        model = fn.Sequential(fn.Dense(1), dtype="float64")
        optimizer = kind(lr=0.1, eps=0.1, eps_hat=eps_hat)
        fn.Trainer(model, "mse", optimizer, device=device, seed=0).fit(x, x[:, 0], epochs=2)
        found[device, eps_hat] = model.parameters.copy()
    np.testing.assert_allclose(found["cpu", True], found["numpy", True], rtol=1e-12)
    assert abs(found["cpu", True] - found["cpu", False]).max() > 1e-3


def told_of_labels(at_once, dtype, n_out, weighted, batch):
    """Losses of steps as they are told by the small nets' kernel, the general steps or the array program."""
    rng = np.random.RandomState(0)
    model = fn.Sequential(fn.Dense(7, "relu"), fn.Dense(n_out), dtype=dtype).build(5, seed=1)
    x, y = (40 * rng.randn(96, 5)).astype(dtype), rng.randint(0, 2, (96, n_out)).astype(dtype)
    objective = Objective(l2=0.3, factor=n_out, told=n_out, floor=1e-3, cap=6.0)
    given = {"loss": fn.losses.BinaryCrossEntropy(), "optimizer": fn.SGD(), "objective": objective}
    program = (Program if at_once is not None else ArrayProgram)(model.steps, model._block, **given)
    order = rng.permutation(96).reshape(-1, batch)
    weight = rng.uniform(0.5, 2, 96) if weighted else None
    parts = [order] if at_once else np.split(order, len(order))
    told = [program.run(x, y, rows, np.full(len(rows), 1e-3), weight)[0] for rows in parts]
    return model.parameters.copy(), sum(told), getattr(program, "small", None)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n_out", "batch"), [(2, 3), (3, 24), (9, 24), (40, 12)])
def test_bounds_of_each_label_are_the_same_whichever_way_the_steps_go(dtype, n_out, weighted, batch):
    arguments = dtype, n_out, weighted, batch
    small, general, array = (told_of_labels(way, *arguments) for way in (True, False, None))
    assert small[2]
    assert not general[2]
    np.testing.assert_array_equal(small[0], general[0])
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    assert small[1] == pytest.approx(general[1], rel=1e-14)  # sums of all steps, and of each
    assert small[1] == pytest.approx(array[1], rel=tolerance)
    np.testing.assert_allclose(small[0], array[0], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("program", [Program, ArrayProgram])
def test_bounds_by_hand(program):
    model = fn.Sequential(fn.Dense(2), dtype="float64").build(1)
    model.parameters = [10.0, -10.0, 0.0, 0.0]
    objective = Objective(told=2.0, floor=0.5, cap=3.0)
    given = {"loss": fn.losses.BinaryCrossEntropy(), "optimizer": fn.SGD(), "objective": objective}
    compiled = program(model.steps, model._block, **given)
    x, y = np.array([[1.0], [1.0]]), np.array([[1.0, 1.0], [0.0, 0.0]])
    # Shares of the outputs 0 and 10, then 10 and 0.
    told = compiled.run(x, y, np.array([[0, 1]]), np.zeros(1))
    assert told == (2 * (0.5 + 3.0), 2.0)


@pytest.mark.parametrize("program", [Program, ArrayProgram])
@pytest.mark.parametrize("batch", [2, 32])
def test_a_loss_beyond_the_limit_ends_a_run_before_its_update(program, batch):
    model = fn.Sequential(fn.Dense(1), dtype="float64").build(1)
    model.parameters = [1.0, 0.0]
    given = {"loss": fn.losses.MSE(), "optimizer": fn.SGD(), "objective": Objective(limit=100.0)}
    compiled = program(model.steps, model._block, **given)
    x = np.ones((64, 1))
    x[63] = 11.0
    order = np.arange(64).reshape(-1, batch)
    with pytest.raises(fn.DivergenceError) as caught:
        compiled.run(x, np.zeros_like(x), order, np.zeros(len(order)))
    assert caught.value.step_in_call == len(order) - 1
    assert caught.value.loss_sum == 64 - batch


@pytest.mark.parametrize("program", [Program, ArrayProgram])
def test_other_losses_take_no_bounds(program):
    model = fn.Sequential(fn.Dense(2), dtype="float64").build(1)
    for loss in (fn.losses.MSE(), fn.losses.BinaryCrossEntropy(pos_weight=[1.0, 2.0])):
        with pytest.raises(ValueError, match="floor and cap must be infinite with"):
            program(model.steps, model._block, loss=loss, objective=Objective(cap=3.0))
    own = fn.losses.get(lambda z, y, weight: (0.0, z))
    with pytest.raises(ValueError, match="objective must be None with a loss of your own"):
        program(model.steps, model._block, loss=own, objective=Objective())


@pytest.mark.parametrize("device", ["cpu", "numpy"])
def test_devices_take_an_objective_and_tell_each_steps_loss(device):
    model = fn.Sequential(fn.Dense(1), dtype="float64").build(1)
    model.parameters = [2.0, 1.0]
    given = {"loss": "mse", "optimizer": fn.SGD(), "objective": Objective(l2=0.5, told=0.5)}
    program = devices.make(device, model.steps, model._block, **given)
    x, y, told = np.array([[1.0], [3.0]]), np.array([[2.0], [3.0]]), np.empty(2)
    order, weight = np.array([[0], [1]]), np.array([1.0, 3.0])
    # Squares of errors 1 and 16, half of them told, with weights 1 and 3; half of l2 times w^2 is 1.
    assert program.run(x, y, order, np.zeros(2), weight, step_losses=told) == (1.5 + 25.0, 4.0)
    np.testing.assert_array_equal(told, [1.5, 25.0])
    with pytest.raises(ValueError, match="objective must be None with LBFGS"):
        devices.make(device, model.steps, model._block, **{**given, "optimizer": fn.LBFGS()})
