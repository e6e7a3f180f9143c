"""Where the kernel for small nets has what in shared memory, and how a cluster of blocks divides it."""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from ..steps import Step
from .cuda_kernels import FROM_INPUT, text

__all__ = ["SIZES", "Places", "Tensor", "columns", "first_of", "flops", "may_be_divided", "places", "tensors"]

# Blocks of a cluster; 8 is the most that every card with clusters has.
SIZES = (1, 2, 4, 8)
_SPLIT_UNIT = 4  # SPLIT_UNIT of persistent_base.cu
_BY_ROW = ("softmax", "log_softmax")


@cache
def columns(prefix: str) -> list[str]:
    """Columns of the table that the kernel reads: an enum of persistent_base.cu, in small letters."""
    found = re.search(rf"enum {{\s*({prefix}_.*?){prefix}_COLUMNS", text("persistent_base.cu"), re.S)
    assert found is not None
    names = re.findall(r"\w+", re.sub(r"/\*.*?\*/", "", found[1]))
    return [name.removeprefix(f"{prefix}_").lower() for name in names]


def flops(steps: tuple[Step, ...], n_rows: int) -> int:
    """Of the products of a training step: forward, gradients of weights, of inputs but those of the first."""
    dense = [s for s in steps if s.kind == "dense"]
    return sum(2 * n_rows * s.n_in * s.n_out * (3 if i else 2) for i, s in enumerate(dense))


def first_of(steps: tuple[Step, ...]) -> int:
    """The first step with parameters: nobody needs the gradient below it."""
    return next(i for i, s in enumerate(steps) if s.n_parameters)


def may_be_divided(steps: tuple[Step, ...]) -> bool:
    """Whether several blocks can have a net: of what comes before its first matrix each has columns alone."""
    return all(s.activation not in _BY_ROW for s in steps[: first_of(steps)])


class Tensor(NamedTuple):
    """A weight or a bias: where it begins in the flat block, and in the part of it that each block has."""

    there: int
    here: int
    size: int  # of a block's part, in floats


class Places(NamedTuple):
    """Where things lie in the shared memory of a block, in floats; -1: in the memory of the card."""

    n_bytes: int
    net: dict[str, int]
    outputs: list[int]
    kept: list[int]


def _apart(n: int) -> int:
    """How far rows of n floats lie apart: see persistent_base.cu."""
    return n | 1


def _width(n: int, n_blocks: int, unit: int = 1) -> int:
    """Columns that each block has room for, of n: `part_of` of persistent_base.cu."""
    return n if n_blocks == 1 else unit * -(-n // (unit * n_blocks))


def tensors(steps: tuple[Step, ...], n_blocks: int) -> list[Tensor]:
    """The parameters, in the order of the flat block: a block has columns of each."""
    found: list[Tensor] = []
    here = 0
    for s in steps:
        parts = ((s.weight, s.n_in), (s.bias, 1)) if s.kind == "dense" else ()
        for there, n_rows in parts:
            if there >= 0:
                assert not found or there > found[-1].there  # the kernel looks for them in this order
                found.append(Tensor(there, here, n_rows * _width(s.n_out, n_blocks)))
                here += found[-1].size
    return found


def places(
    steps: tuple[Step, ...],
    n_rules: int,
    n_states: int,
    n_rows: int,
    n_targets: int,
    limit: int,
    n_blocks: int = 1,
) -> Places:
    """What a block, one of n_blocks, has in shared memory, of which it may use `limit` bytes.

    Parameters, the batch and its activations always are there, even beyond the limit; then the gradient and
    the states of the optimizer, where they fit as well.
    """
    at = 2 * (len(columns("NET")) + len(columns("OP")) * len(steps) + len(columns("RULE")) * n_rules)

    def room(n_floats: int) -> int:
        nonlocal at
        found, at = at, at + n_floats
        return found

    n_parameters = sum(one.size for one in tensors(steps, n_blocks))
    first = first_of(steps)
    x_apart = _apart(_width(steps[0].n_in, n_blocks, _SPLIT_UNIT))
    net = {"at_weights": room(2 * (n_rows + 1)), "at_losses": room(2 * n_rows), "at_w": room(n_parameters)}
    net["at_x"] = room(n_rows * x_apart)
    net["at_targets"] = net["at_labels"] = room(n_rows * _apart(n_targets) if n_targets else n_rows)
    widest = n_rows * max(_apart(s.n_out) for s in steps[first:])
    net["at_gradients"], net["at_gradients_too"] = room(widest), room(widest)
    rows_apart = [
        _apart(_width(s.n_out, n_blocks, _SPLIT_UNIT) if i < first else s.n_out) for i, s in enumerate(steps)
    ]
    outputs = [room(n_rows * n) for n in rows_apart]
    kept = [
        room(n_rows * n) if s.activation in FROM_INPUT else -1 for s, n in zip(steps, rows_apart, strict=True)
    ]
    net["at_stage"] = -1
    if n_blocks > 1:  # for one part of the first matrix's input, or of a later matrix
        later = (s for s in steps[first + 1 :] if s.kind == "dense")
        parts = (_width(s.n_in, n_blocks) * _width(s.n_out, n_blocks) for s in later)
        input_apart = _apart(_width(steps[first].n_in, n_blocks, _SPLIT_UNIT))
        net["at_stage"] = room(max(n_rows * input_apart, *parts, 0))
    for name, n in (("at_g", n_parameters), ("at_state", n_states * n_parameters)):
        net[name] = room(n) if 4 * (at + n) <= limit else -1
    return Places(4 * at, net, outputs, kept)
