"""Nets in the shared memory of a cluster of blocks, with a stand-in for CuPy: the bits of the captured step.

The kernel is persistent_*.cu, compiled for the CPU; what has to run on a card stands in test_gpu.py.
"""

from __future__ import annotations

from typing import Any

import cuda_on_cpu
import cuda_stand_in
import numpy as np
import pytest
from cuda_stand_in import StandIn, put_in
from cuda_trained import F32, N_IN, ROOM, N, X, Y, assert_same_bits, both, layers, trained
from loss_targets import targets_of

import fastnn as fn
from fastnn.devices import cuda_persistent, cuda_places
from fastnn.devices.array_activations import ACTIVATIONS

pytestmark = pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="needs a C++ compiler")

EVERYTHING = (
    fn.Dropout(0.2),
    fn.Scale(0.5, 0.1),
    fn.Scale(tuple(0.1 * j + 1 for j in range(N_IN))),
    fn.Activation("silu"),
    fn.Dense(70, activation="gelu"),  # of which one of two blocks has more than a warp
    fn.Dropout(0.3),
    fn.Activation("silu"),
    fn.Dense(11, activation="softmax", bias=False),
    fn.Scale(tuple(0.1 * j + 1 for j in range(11))),
    fn.Activation("tanh"),
    fn.Dense(18, activation="relu"),
    fn.Activation("log_softmax"),
    fn.Dense(5),
)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that gives the machine a card with clusters, and so much shared memory for a block."""

    def given(shared_bytes: int) -> StandIn:
        return put_in(monkeypatch, capability=(9, 0), shared_bytes=shared_bytes)

    given(ROOM)
    return given


def clusters_of(n_blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on all small nets have clusters of that size."""
    monkeypatch.setattr(cuda_persistent, "SIZES", (n_blocks,))


# ---------------------------------------------------------------- the same answers


@pytest.mark.parametrize("n_blocks", [2, 4, 8])
def test_every_size_has_the_bits_of_the_captured_step(
    n_blocks: int, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clusters_of(n_blocks, monkeypatch)
    groups = [
        fn.Group(weights=("7.weight",), frozen=True),
        fn.Group(weights=("*.bias",), lr_factor=0.5, weight_decay=0.1, l1=0.01),
    ]
    fit: Any = {
        "optimizer": fn.AdamW(clip_norm=1e-3, clip_value=0.02, ema=0.9, groups=groups),
        "sample_weight": np.random.default_rng(6).uniform(0, 2, 35),
        "x": X[:35],
        "y": Y[:35],
        "epochs": 1,
    }
    ours = both(machine, *EVERYTHING, **fit)
    if n_blocks < 8:  # the last thread of the last block first
        with cuda_on_cpu.backwards(cuda_persistent.source(n_blocks)):
            assert_same_bits(ours, trained(*EVERYTHING, **fit))


@pytest.mark.parametrize("part", [0, 1])
def test_activations(part: int, machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clusters_of(4, monkeypatch)
    names = list(ACTIVATIONS)[part::2]
    given = [layer for name in names for layer in (fn.Dense(6, activation=name), fn.Activation(name))]
    both(machine, *given, fn.Dense(5), x=X[:20], y=Y[:20], epochs=1)


@pytest.mark.parametrize(
    "optimizer",
    [
        fn.SGD(0.1),
        fn.SGD(0.05, momentum=0.9, nesterov=True, clip_value=0.01, ema=0.8),
        fn.RMSprop(1e-3, centered=True, momentum=0.5),
        fn.Adagrad(),
        fn.Adadelta(),
        fn.Adam(amsgrad=True, weight_decay=1e-3, clip_norm=0.1),
        fn.Adamax(),
        fn.NAdam(),
        fn.RAdam(),
        fn.Lion(),
    ],
    ids=lambda o: o.name,
)
def test_optimizers(optimizer: Any, machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # 1,525 parameters: six blocks of the sum of squares, for the four of a cluster
    clusters_of(4, monkeypatch)
    given = fn.Dropout(0.2), fn.Dense(40, activation="tanh"), fn.Dense(30), fn.Dense(5)
    both(machine, *given, optimizer=optimizer, x=X[:51], y=Y[:51], epochs=1)


@pytest.mark.parametrize("loss", ["mse", "binary_cross_entropy", fn.losses.CrossEntropy(label_smoothing=0.1)])
def test_losses(loss: Any, machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clusters_of(2, monkeypatch)
    y = Y if not isinstance(loss, str) else targets_of(loss, np.random.default_rng(2), N, 5).astype(F32)
    both(machine, loss=loss, y=y, epochs=1, sample_weight=np.random.default_rng(6).uniform(0, 2, N))


@pytest.mark.parametrize("n_blocks", [2, 8])
@pytest.mark.parametrize(
    ("n_in", "widths", "batch_size"),
    [(1, (1,), 1), (3, (33, 2, 65), 3), (40, (8, 17, 9), 33), (17, (3, 1), 5), (129, (7,), 2)],
)
def test_awkward_sizes(
    n_in: int,
    widths: tuple[int, ...],
    batch_size: int,
    n_blocks: int,
    machine: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clusters_of(n_blocks, monkeypatch)
    given = [fn.Dense(n, activation="tanh") for n in widths]
    n = 3 * batch_size + 1  # with a rest of one row
    x, y = np.resize(X, (n, n_in)), np.resize(X + 0.5, (n, widths[-1]))
    both(machine, *given, x=x, y=y, loss="mse", batch_size=batch_size, epochs=1)


def test_bytes_and_gradient_and_states_in_the_memory_of_the_card(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clusters_of(4, monkeypatch)
    x = np.random.default_rng(5).integers(0, 255, X.shape).astype(np.uint8)
    given = fn.Scale(1 / 255), *layers()
    fit: Any = {"x": x, "optimizer": fn.Adam(clip_norm=0.1), "epochs": 1}
    ours = both(machine, *given, **fit)
    where = cuda_places.places(ours.model.steps, 1, 2, 17, 0, 1 << 20, 4)
    n_bytes = 4 * sum(one.size for one in cuda_places.tensors(ours.model.steps, 4))
    for less, is_there in ((1, True), (2 * n_bytes + 1, False)):
        room = where.n_bytes - less
        found = cuda_places.places(ours.model.steps, 1, 2, 17, 0, room, 4)
        assert (found.net["at_g"] >= 0, found.net["at_state"]) == (is_there, -1)
        both(machine, *given, room=room + cuda_persistent._OWN_BYTES, **fit)


# ---------------------------------------------------------------- which way is taken


OPERATIONS = "operations in the products of a step, more than 4,000,000"


def test_the_least_cluster_that_has_room_is_taken(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_stand_in._Function, "__call__", lambda *a, **b: pytest.fail("launched"))
    wide = fn.Dense(128, activation="relu"), fn.Dense(10)

    def of(room: int, n_rows: int, capability: tuple[int, int] = (9, 0), layers: Any = wide) -> Any:
        model = fn.Sequential(*layers).build(784)
        given = fn.losses.CrossEntropy(), fn.Adam()
        state = np.zeros((2, model.parameters.size), F32)
        step = cuda_persistent.PersistentStep(
            machine(room),
            0,
            room,
            capability >= cuda_persistent.CLUSTERS_FROM,
            model.steps,
            *given,
            *(model.parameters, model.parameters, state, 0, None),
        )
        return step._choice(n_rows, 0)

    # Operations: 12.8 million in the first product and its gradient, 0.25 in the second.
    assert of(ROOM, 32) == (4, None)
    assert of(ROOM, 8, layers=(fn.Dense(64), fn.Dense(10))) == (2, None)
    assert of(ROOM, 64) == (8, None)
    n, why = of(ROOM, 128)
    assert n == 0
    assert why == f"{2 * 128 * (2 * 784 * 128 + 3 * 1280):,} {OPERATIONS} in each of 8 blocks"
    n, why = of(99 << 10, 64)
    assert n == 0
    assert why is not None
    assert why.endswith(" bytes of shared memory in each of 8 blocks, of which a block may use 97,280 here")
    n, why = of(ROOM, 8, (8, 9))
    assert n == 0
    assert why is not None
    assert why.endswith(" bytes of shared memory, of which a block may use 228,352 here")
    # A softmax has all columns of a row.
    assert of(ROOM, 8, layers=(fn.Activation("softmax"), *wide))[0] == 0
    assert of(ROOM, 8, layers=(fn.Dense(4, activation="softmax"), fn.Dense(10)))[0] == 1


def test_a_wide_net_is_trained_by_a_cluster_and_the_rest_of_an_epoch_by_less(machine: Any) -> None:
    x = np.random.default_rng(0).integers(0, 255, (72, 784)).astype(np.uint8)
    y = np.random.default_rng(1).integers(0, 10, 72)
    given = fn.Scale(1 / 255), fn.Dense(128, activation="relu"), fn.Dense(10)
    ours = both(machine, *given, x=x, y=y, batch_size=32, epochs=1)
    sizes = [task.n_blocks for _, task in ours._program._persistent._tables.values()]
    assert sizes == [8, 4]  # of 32 rows and of 8: x is there three times, in parts


def test_a_card_that_takes_no_cluster_has_captured_steps(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(0)
    theirs = trained()
    clusters_of(8, monkeypatch)
    launch = cuda_stand_in._Function.__call__
    tried = []

    def refused(self: Any, grid: Any, *given: Any, **more: Any) -> None:
        if self._kernel.cluster > 1:
            tried.append(grid)
            raise RuntimeError("CUDA_ERROR_INVALID_CLUSTER_SIZE")
        launch(self, grid, *given, **more)

    monkeypatch.setattr(cuda_stand_in._Function, "__call__", refused)
    machine(ROOM)
    ours = trained()
    assert_same_bits(theirs, ours)
    assert ours._program.not_captured is None
    assert ours._program.not_persistent.startswith("a cluster of 8 blocks, each with ")
    assert ours._program.not_persistent.endswith(
        " bytes of shared memory, could not be launched: RuntimeError: CUDA_ERROR_INVALID_CLUSTER_SIZE"
    )
    assert tried == [(8,), (8,)]  # of whole batches and of the rest of an epoch, once each


def test_clusters_of_several_nets_are_one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    clusters_of(2, monkeypatch)
    launch, grids = cuda_stand_in._Function.__call__, []

    def told(self: Any, grid: Any, *given: Any, **more: Any) -> None:
        grids.append(grid)
        launch(self, grid, *given, **more)

    monkeypatch.setattr(cuda_stand_in._Function, "__call__", told)
    fit: Any = {"epochs": 1, "batch_size": 20, "progress": False}
    ours = [
        fn.Trainer(fn.Sequential(fn.Dense(5)), "cross_entropy", "adam", seed=i, device="cuda")
        for i in range(3)
    ]
    fn.fit_many(ours, X[:40], Y[:40], on_error="raise", **fit)
    assert (6,) in grids
    for i, one in enumerate(ours):
        alone = fn.Trainer(fn.Sequential(fn.Dense(5)), "cross_entropy", "adam", seed=i, device="cuda")
        alone.fit(X[:40], Y[:40], **fit)
        assert_same_bits(alone, one)


# ---------------------------------------------------------------- what a training meets


def test_what_is_not_finite_ends_all_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    clusters_of(4, monkeypatch)
    for column in range(N_IN):  # each in the part of some block
        x = X.copy()
        x[100, column] = np.nan
        trainer = fn.Trainer(fn.Sequential(*layers()), "cross_entropy", fn.Adam(), seed=3, device="cuda")
        trainer.partial_fit(X[:20], Y[:20])
        before, state = trainer.model.parameters.copy(), trainer._program.state.copy()
        with pytest.raises(fn.DivergenceError, match="x itself") as met:
            trainer.run(x, Y, [[3, 4, 5], [100, 1, 2], [3, 4, 5]])
        assert met.value.step_in_call == 1
        assert trainer.step == 2
        assert not np.array_equal(trainer.model.parameters, before)
        assert not np.array_equal(trainer._program.state, state)
    found = []
    for device in ("cpu", "cuda"):
        model = fn.Sequential(fn.Scale(2.0), *layers())
        trainer = fn.Trainer(model, "cross_entropy", fn.SGD(1e30), seed=3, device=device)
        with pytest.raises(fn.DivergenceError, match="layer") as met:
            trainer.run(X, Y, np.arange(100).reshape(50, 2))
        error = met.value
        found.append((error.step_in_call, error.layer, trainer.step, error.weight_sum))
    assert found[0] == found[1]
    assert trainer._program.not_persistent is None
    x = X.copy()
    x[0, 5] = 3e38  # finite, but not what the second step makes of it, in the second block
    given = fn.Scale(1.0), fn.Scale(2.0), *layers()
    with pytest.raises(fn.DivergenceError, match="layer 1"):
        trained(*given, x=x)
    with (
        cuda_on_cpu.backwards(cuda_persistent.source(4)),
        pytest.raises(fn.DivergenceError, match="layer 1"),
    ):
        trained(*given, x=x)
