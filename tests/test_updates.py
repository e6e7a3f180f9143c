"""Steps of optimizers over long vectors: several threads give the bits of one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastnn as fn
from fastnn import kernels

N = 140_003  # above TEAM_ELEMENTS of tuning.h, with a rest beyond whole lines
OPTIMIZERS = [
    fn.SGD(0.1),
    fn.SGD(0.1, momentum=0.9, nesterov=True),
    fn.RMSprop(centered=True, momentum=0.5),
    fn.Adagrad(),
    fn.Adadelta(),
    fn.Adam(),
    fn.Adam(amsgrad=True, l1=1e-3, clip_value=0.5),
    fn.AdamW(),
    fn.Adamax(),
    fn.NAdam(),
    fn.RAdam(),
    fn.Lion(),
]
# Two that meet within a line, a gap, one that overlaps the last: it is done twice, in this order.
SEGMENTS = [
    (0, 70_001, 1.0, 0.0, 0.0),
    (70_001, 60_000, 0.5, 0.1, 0.01),
    (135_000, 5_003, 2.0, 0.0, 0.0),
    (138_000, 1_000, 1.0, 0.3, 0.0),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_threads_and_instruction_sets_update_to_the_same_bits(
    optimizer: Any, dtype: str, threads: Any
) -> None:
    rng = np.random.default_rng(0)
    # one element in: no vector of the arrays begins at a line
    start, gradients = rng.standard_normal(N + 1).astype(dtype), rng.standard_normal((3, N)).astype(dtype)
    found, before = set(), kernels.isa()
    try:
        for isa in kernels.isa_available():
            kernels.set_isa(isa)
            for n in (1, 2, 3):
                threads(n)
                w, states = start.copy()[1:], np.zeros((optimizer.n_states, N + 1), dtype)[:, 1:]
                for step, g in enumerate(gradients, 1):
                    kernels.update(optimizer, w, g, list(states), step, 0.01, SEGMENTS)
                untouched = slice(130_001, 135_000)  # in no segment
                np.testing.assert_array_equal(w[untouched], start[1:][untouched])
                found.add(w.tobytes() + states.tobytes())
    finally:
        kernels.set_isa(before)
    assert len(found) == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 33, N])
def test_the_yardstick_adds_a_multiple_of_the_gradient(n: int, dtype: str, threads: Any, isa: str) -> None:
    rng = np.random.default_rng(1)
    g, arrays = rng.standard_normal(n).astype(dtype), rng.standard_normal((4, n)).astype(dtype)
    exact = arrays + 0.5 * g  # a product with a power of two is exact: one rounding, as FMA has
    threads(2)
    for count in (1, 2, 3, 4):
        given = arrays.copy()
        kernels.stream(g, list(given[:count]), 0.5)
        np.testing.assert_array_equal(given[:count], exact[:count])
        np.testing.assert_array_equal(given[count:], arrays[count:])


def test_the_yardstick_refuses_what_does_not_fit() -> None:
    g = np.zeros(5)
    with pytest.raises(ValueError, match="vectors must be 1 to 4 arrays, got 5"):
        kernels.stream(g, [np.zeros(5) for _ in range(5)], 1.0)
    with pytest.raises(ValueError, match="an array of vectors must"):
        kernels.stream(g, [np.zeros(4)], 1.0)
