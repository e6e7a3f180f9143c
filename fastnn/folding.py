"""Batch normalisation folded into the product before it, for prediction.

A Dense without an activation, read by a BatchNorm alone, becomes one Dense: each column of its weight is
multiplied by what the norm would, and its bias holds the rest. Steps, a block of parameters of their own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .steps import Step, sources_of

__all__ = ["fold", "pairs"]

Array = NDArray[Any]


def pairs(steps: tuple[Step, ...]) -> dict[int, int]:
    """Number of the norm -> number of the product that it can be folded into."""
    n_readers = [0] * (len(steps) + 1)
    for i, step in enumerate(steps):
        for j in sources_of(i, step):
            n_readers[j] += 1  # -1, the input, is the last
    found = {}
    for i, step in enumerate(steps):
        (source, *_) = sources_of(i, step)
        if step.kind != "batch_norm" or source < 0 or n_readers[source] != 1:
            continue
        if steps[source].kind == "dense" and steps[source].activation == "identity":
            found[i] = source
    return found


def fold(steps: tuple[Step, ...], block: Array, buffers: Array) -> tuple[tuple[Step, ...], Array]:
    """Steps and parameters that predict the same with fewer steps.

    Parameters
    ----------
    block, buffers : ndarray
        Flat parameters and running statistics; not changed.
    """
    folded = pairs(steps)
    norm_of = {source: i for i, source in folded.items()}
    numbers: dict[int, int] = {-1: -1}
    new: list[Step] = []
    pieces: list[Array] = []
    length = 0

    def place(values: Array) -> int:
        nonlocal length
        pieces.append(values.ravel())
        length += values.size
        return length - values.size

    for i, step in enumerate(steps):
        if i in folded:
            numbers[i] = numbers[folded[i]]
            continue
        w = block[step.weight : step.weight + int(np.prod(step.weight_shape))] if step.weight >= 0 else None
        b = block[step.bias : step.bias + step.n_out] if step.bias >= 0 else None
        if i in norm_of:
            assert w is not None
            w, b = _folded(steps[norm_of[i]], w.reshape(step.n_in, step.n_out), b, block, buffers)
        tables = tuple(
            replace(t, weight=place(block[t.weight : t.weight + t.n_categories * t.width]))
            for t in step.tables
        )
        weight = place(w) if w is not None else -1
        bias = place(b) if b is not None else -1
        sources = tuple(numbers[j] for j in sources_of(i, step))
        if sources == (len(new) - 1,):
            sources = ()
        numbers[i] = len(new)
        new.append(replace(step, weight=weight, bias=bias, tables=tables, sources=sources))
    return tuple(new), np.concatenate([np.zeros(0, block.dtype), *pieces])


def _folded(norm: Step, w: Array, b: Array | None, block: Array, buffers: Array) -> tuple[Array, Array]:
    """Weight and bias of a product with its norm."""
    n = norm.n_out
    running = buffers[norm.running : norm.running + 2 * n].astype(np.float64)
    mean, scale = running[:n], 1 / np.sqrt(running[n:] + norm.eps)
    shift = np.zeros(n)
    if norm.weight >= 0:
        scale *= block[norm.weight : norm.weight + n]
        shift += block[norm.bias : norm.bias + n]
    bias = (0.0 if b is None else b.astype(np.float64)) - mean
    return (w * scale).astype(block.dtype), (bias * scale + shift).astype(block.dtype)
