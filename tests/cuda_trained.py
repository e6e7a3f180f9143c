"""Small nets trained on "cuda" with the stand-in, and what two such trainings must have in common."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastnn as fn

F32 = np.float32
N, N_IN = 101, 7
X = np.random.default_rng(0).standard_normal((N, N_IN)).astype(F32)
Y = np.random.default_rng(1).integers(0, 5, N)
ROOM = 227 << 10  # shared memory of a block, as a Hopper has


def layers() -> tuple[Any, ...]:
    return fn.Dense(13, activation="relu"), fn.Dense(5)


def trained(
    *given: Any,
    device: str = "cuda",
    loss: Any = "cross_entropy",
    optimizer: Any = None,
    x: Any = X,
    y: Any = Y,
    **fit: Any,
) -> Any:
    model = fn.Sequential(*(given or layers()))
    trainer = fn.Trainer(model, loss, optimizer or fn.Adam(), seed=3, device=device)
    trainer.fit(x, y, **{"epochs": 2, "batch_size": 17, "progress": False, **fit})
    return trainer


def assert_same_bits(theirs: Any, ours: Any) -> None:
    np.testing.assert_array_equal(ours.model.parameters, theirs.model.parameters)
    np.testing.assert_array_equal(ours._program.state, theirs._program.state)
    assert ours.history["loss"] == theirs.history["loss"]
    assert ours.step == theirs.step


def both(machine: Any, *given: Any, room: int = ROOM, **fit: Any) -> Any:
    """Trained by the captured step and by the kernel for small nets: the same bits. Gives the latter."""
    machine(0)
    theirs = trained(*given, **fit)
    assert theirs._program.not_captured is None
    assert "of which a block may use 0 here" in theirs._program.not_persistent
    machine(room)
    ours = trained(*given, **fit)
    assert ours._program.not_persistent is None
    assert ours._program._captured is None  # whose kernels were not even compiled
    assert_same_bits(theirs, ours)
    return ours
