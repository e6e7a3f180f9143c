"""Small nets on "cuda", many steps in a launch, with a stand-in for CuPy: the bits of the captured step.

The kernel is persistent_*.cu, compiled for the CPU; what has to run on a card stands in test_gpu.py.
"""

from __future__ import annotations

from typing import Any

import cuda_on_cpu
import numpy as np
import pytest
from cuda_stand_in import StandIn, put_in
from cuda_trained import F32, N_IN, ROOM, N, X, Y, assert_same_bits, both, layers, trained
from loss_targets import targets_of

import fastnn as fn
from fastnn import devices
from fastnn.devices import cuda_data, cuda_persistent
from fastnn.devices.array_activations import ACTIVATIONS
from fastnn.steps import Objective

pytestmark = pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="needs a C++ compiler")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that gives the machine a card with so much shared memory for a block, and no clusters."""

    def given(shared_bytes: int) -> StandIn:
        return put_in(monkeypatch, capability=(8, 6), shared_bytes=shared_bytes)

    given(ROOM)
    return given


# ---------------------------------------------------------------- the same answers


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_a_hundred_steps_have_the_losses_of_the_cpu(loss: str) -> None:
    y = Y if loss == "cross_entropy" else targets_of(loss, np.random.default_rng(2), N, 5).astype(F32)
    theirs, ours = (
        fn.Trainer(fn.Sequential(*layers()), loss, fn.Adam(), seed=3, device=d) for d in ("cpu", "cuda")
    )
    for i in range(100):
        order = np.random.default_rng(i).integers(0, N, (1, 24))
        assert abs(theirs.run(X, y, order) - ours.run(X, y, order)) < 1e-4
    np.testing.assert_allclose(ours.model.parameters, theirs.model.parameters, atol=1e-4)
    assert ours._program.not_persistent is None
    order = np.random.default_rng(0).integers(0, N, (50, 9))
    assert abs(theirs.run(X, y, order) - ours.run(X, y, order)) < 1e-4  # in one launch or two


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_activations_have_the_bits_of_the_captured_step(name: str, machine: Any) -> None:
    both(machine, fn.Dense(11, activation=name), fn.Activation(name), fn.Dense(5), epochs=1)


@pytest.mark.parametrize(
    "optimizer",
    [
        fn.SGD(0.1),
        fn.SGD(0.05, momentum=0.9, dampening=0.1, weight_decay=1e-3),
        fn.SGD(0.05, momentum=0.9, nesterov=True, clip_value=0.01, ema=0.8),
        fn.RMSprop(1e-3, centered=True, momentum=0.5),
        fn.Adagrad(),
        fn.Adadelta(),
        fn.Adam(amsgrad=True, weight_decay=1e-3, clip_norm=0.1),
        fn.AdamW(ema=0.9, clip_norm=0.1, clip_value=0.02),
        fn.Adamax(),
        fn.NAdam(),
        fn.RAdam(),
        fn.Lion(),
    ],
    ids=lambda o: o.name,
)
def test_optimizers_have_the_bits_of_the_captured_step(optimizer: Any, machine: Any) -> None:
    # 1,525 parameters: six blocks of the sum of squares
    both(machine, fn.Dense(40, activation="tanh"), fn.Dense(30), fn.Dense(5), optimizer=optimizer, epochs=1)


@pytest.mark.parametrize(
    "loss",
    [
        "mse",
        "mae",
        fn.losses.Huber(0.5),
        "log_cosh",
        "binary_cross_entropy",
        "hinge",
        fn.losses.CrossEntropy(label_smoothing=0.1, ignore_index=2),
    ],
    ids=lambda loss: getattr(loss, "name", loss),
)
def test_losses_have_the_bits_of_the_captured_step(loss: Any, machine: Any) -> None:
    name = getattr(loss, "name", loss)
    y = Y if name == "cross_entropy" else targets_of(name, np.random.default_rng(2), N, 5).astype(F32)
    both(machine, loss=loss, y=y, epochs=1, sample_weight=np.random.default_rng(6).uniform(0, 2, N))


@pytest.mark.parametrize(("widths", "batch_size"), [((1, 1), 1), ((33, 2, 65), 3), ((8, 17, 9), 33)])
def test_awkward_sizes(widths: tuple[int, ...], batch_size: int, machine: Any) -> None:
    given = [fn.Dense(n, activation="tanh") for n in widths]
    n = 10 * batch_size + 1 if batch_size > 1 else 5  # with a rest of one row
    y = np.random.default_rng(2).standard_normal((N, widths[-1])).astype(F32)
    x, y = np.resize(X, (n, N_IN)), np.resize(y, (n, widths[-1]))
    both(machine, *given, x=x, y=y, loss="mse", batch_size=batch_size, epochs=1)


def test_layers_groups_schedules_weights_and_bytes(machine: Any) -> None:
    groups = [
        fn.Group(layers=(2,), frozen=True),
        fn.Group(weights=("*.bias",), lr_factor=0.5, weight_decay=0.1, l1=0.01),
    ]
    optimizer = fn.SGD(fn.schedules.OneCycle(0.1, total_steps=40), groups=groups, clip_norm=0.5)
    both(
        machine,
        fn.Scale(1 / 255, 0.1),
        fn.Dense(9, activation="silu", bias=False),
        fn.Dense(11, activation="softmax"),
        fn.Dropout(0.3),
        fn.Scale(tuple(0.1 * j + 1 for j in range(11))),
        fn.Dense(6, bias=False),
        fn.Dense(5),
        x=np.random.default_rng(5).integers(0, 255, X.shape).astype(np.uint8),
        optimizer=optimizer,
        sample_weight=np.random.default_rng(6).uniform(0, 2, N),
    )


def test_many_launches_have_the_bits_of_one(monkeypatch: pytest.MonkeyPatch, machine: Any) -> None:
    whole = trained()
    monkeypatch.setattr(cuda_data, "HELD_SHARE", 0.0)
    monkeypatch.setattr(cuda_data, "WINDOW_BYTES", 2 * 17 * 4 * N_IN)
    assert_same_bits(whole, trained())
    there = machine(ROOM)
    assert_same_bits(whole, trained(x=there.asarray(X)))


def test_no_two_threads_meet_without_a_barrier(machine: Any) -> None:
    given = (
        fn.Scale(0.5, 0.1),
        fn.Dense(35, activation="gelu"),
        fn.Dropout(0.3),
        fn.Activation("silu"),
        fn.Dense(11, activation="softmax", bias=False),
        fn.Scale(tuple(0.1 * j + 1 for j in range(11))),
        fn.Activation("tanh"),
        fn.Dense(5),
    )
    fit: Any = {
        "optimizer": fn.AdamW(
            clip_norm=1e-3, clip_value=0.02, ema=0.9, groups=[fn.Group(weights=("1.bias",), frozen=True)]
        ),
        "sample_weight": np.random.default_rng(6).uniform(0, 2, N),
    }
    theirs = trained(*given, **fit)
    with cuda_on_cpu.backwards(cuda_persistent.source()):
        assert_same_bits(theirs, trained(*given, **fit))
    y = np.random.default_rng(2).standard_normal((N, 5)).astype(F32)
    theirs = trained(*given, loss="mse", y=y)
    with cuda_on_cpu.backwards(cuda_persistent.source()):
        assert_same_bits(theirs, trained(*given, loss="mse", y=y))
    theirs, x = trained(), X.copy()
    x[40, 6] = np.nan
    with cuda_on_cpu.backwards(cuda_persistent.source()):
        assert_same_bits(theirs, trained())
        with pytest.raises(fn.DivergenceError, match="x itself"):
            trained(x=x)
        with pytest.raises(fn.DivergenceError, match="layer 1"):
            trained(optimizer=fn.SGD(1e30))


def test_the_loss_of_each_step(machine: Any) -> None:
    order, weight = np.arange(N - 1).reshape(10, 10), np.random.default_rng(2).uniform(0.5, 2, N)
    found = []
    for room in (0, ROOM):
        machine(room)
        model = fn.Sequential(*layers()).build(N_IN)
        given: Any = {"loss": "cross_entropy", "optimizer": fn.Adam()}
        program: Any = devices.make("cuda", model.steps, model._block, **given)
        told = np.zeros(10)
        sums = program.run(X, Y, order, np.full(10, 0.01), weight, step_losses=told)
        assert sums[0] == pytest.approx(told.sum())
        assert (program.not_persistent is None) == (room > 0)
        found.append((*told, *sums))
    assert found[0] == found[1]
    objective = Objective(l2=1.0, told=0.5, cap=2.0)
    program = devices.make("cuda", model.steps, model._block, **given, objective=objective)
    program.run(X, Y, order, np.full(10, 0.01))
    assert program.not_captured is None
    assert program.not_persistent == "an objective beyond the mean loss"


# ---------------------------------------------------------------- which way is taken


def test_gradient_and_states_lie_where_there_is_room(machine: Any) -> None:
    steps = trained().model.steps
    whole = cuda_persistent.places(steps, 1, 2, 17, 0, 1 << 20)
    own = cuda_persistent._OWN_BYTES
    n_bytes = 4 * sum(s.n_parameters for s in steps)
    for less, has_gradient in ((1, True), (2 * n_bytes + 1, False)):
        room = whole.n_bytes + own - less
        found = cuda_persistent.places(steps, 1, 2, 17, 0, room - own)
        assert (found.net["at_g"] >= 0, found.net["at_state"]) == (has_gradient, -1)
        both(machine, room=room)
    machine(whole.n_bytes + own - 3 * n_bytes - 1)
    trainer = trained()
    needed = whole.n_bytes - 3 * n_bytes
    # The rest of an epoch is smaller, and the last call had it: it does fit.
    assert trainer._program.not_persistent is None
    assert trainer._program._captured is not None
    trainer.run(X, Y, np.arange(17).reshape(1, 17))
    why = f"{needed:,} bytes of shared memory, of which a block may use {needed - 1:,} here"
    assert trainer._program.not_persistent == why


def test_what_is_too_much_for_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    n = cuda_persistent.flops(trained().model.steps, 17)
    assert n == 2 * 17 * (2 * 7 * 13 + 3 * 13 * 5)
    monkeypatch.setattr(cuda_persistent, "MOST_FLOPS", n)
    assert trained(epochs=1)._program._captured is None
    monkeypatch.setattr(cuda_persistent, "MOST_FLOPS", n - 1)
    trainer = trained(x=X[:34], y=Y[:34])
    why = f"{n:,} operations in the products of a step, more than {n - 1:,}"
    assert trainer._program.not_persistent == why
    assert trainer._program.not_captured is None


def test_what_the_captured_step_does_not_have_this_has_not_either() -> None:
    trainer = trained(optimizer=fn.SGD(accumulate=2))
    assert trainer._program.not_persistent == trainer._program.not_captured == "accumulate"
    model = fn.Sequential(*layers())
    rounded = fn.Trainer(model, "cross_entropy", fn.Adam(), seed=3, device="cuda", precision="tf32")
    rounded.fit(X, Y, progress=False)
    assert rounded._program.not_persistent == "precision 'tf32'"


def test_a_text_that_cannot_be_compiled_is_told(machine: Any) -> None:
    class Broken:
        def __init__(self, **given: Any) -> None:
            pass

        def get_function(self, name: str) -> Any:
            raise RuntimeError("no compiler")

    machine(ROOM).RawModule = Broken
    with pytest.raises(fn.DeviceError, match="its kernel for small nets: RuntimeError: no compiler; the"):
        trained()


# ---------------------------------------------------------------- what a training meets


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    x = X.copy()
    x[100, 3] = np.nan
    for device in ("cpu", "cuda"):
        trainer = fn.Trainer(fn.Sequential(*layers()), "cross_entropy", fn.Adam(), seed=3, device=device)
        trainer.partial_fit(X[:20], Y[:20])
        before, state = trainer.model.parameters.copy(), trainer._program.state.copy()
        with pytest.raises(fn.DivergenceError, match="x itself") as met:
            trainer.run(x, Y, [[100, 1, 2]] + [[3, 4, 5]] * 20)
        assert met.value.step_in_call == 0
        np.testing.assert_array_equal(trainer.model.parameters, before)
        np.testing.assert_array_equal(trainer._program.state, state)
        assert trainer.step == 1
    found = []
    for device in ("cpu", "cuda"):
        trainer = fn.Trainer(fn.Sequential(*layers()), "cross_entropy", fn.SGD(1e30), seed=3, device=device)
        with pytest.raises(fn.DivergenceError, match="layer") as met:
            trainer.run(X, Y, np.arange(100).reshape(50, 2))
        error = met.value
        found.append((error.step_in_call, error.layer, trainer.step, error.weight_sum))
    assert found[0] == found[1]
    assert trainer._program.not_persistent is None


def test_time_limits_and_checkpoints(tmp_path: Any) -> None:
    trainer = trained(epochs=10**6, time_limit=0.05)
    assert trainer.out_of_time
    whole = trained(epochs=4)
    half = trained()
    half.save_checkpoint(tmp_path / "half.ckpt")
    rest = fn.Trainer(fn.Sequential(*layers()), "cross_entropy", fn.Adam(), seed=3, device="cuda")
    rest.resume(tmp_path / "half.ckpt")
    rest.fit(X, Y, epochs=2, batch_size=17, progress=False)
    np.testing.assert_array_equal(rest.model.parameters, whole.model.parameters)
