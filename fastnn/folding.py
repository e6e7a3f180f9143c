"""Batch normalisation folded into the product before or after it, for prediction.

A Dense without an activation, read by a BatchNorm alone, becomes one Dense: each column of its weight is
multiplied by what the norm would, and its bias holds the rest. So does a BatchNorm that a Dense alone reads,
by the rows of the weight. Steps, a block of parameters of their own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import kernels
from .steps import Step, sources_of

__all__ = ["can_fold", "fold"]

Array = NDArray[Any]


# Means of a column beyond so many of its deviations leave the norm before a product where it is: x - mean is
# nearly exact, and x @ w - mean @ w would lose the digits that both share. Columns of raw data are like that.
_MOST_DEVIATIONS = 4.0


def can_fold(steps: tuple[Step, ...]) -> bool:
    """Whether a norm stands beside a product, with nothing between."""
    return any(_pairs(steps))


def _pairs(steps: tuple[Step, ...]) -> tuple[dict[int, int], dict[int, int]]:
    """Number of the norm -> number of the product before, and of that after, that it can be folded into."""
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
    later = {}
    for i, step in enumerate(steps):
        (source, *_) = sources_of(i, step)
        is_norm = source >= 0 and steps[source].kind == "batch_norm"
        if step.kind == "dense" and is_norm and source not in found and n_readers[source] == 1:
            later[source] = i
    return found, later


def _is_close(norm: Step, buffers: Array) -> bool:
    """Whether its columns are centred well enough to be folded into the product after it."""
    mean, var = _running(norm, buffers)
    with np.errstate(all="ignore"):
        return bool((np.abs(mean) <= _MOST_DEVIATIONS * np.sqrt(var + norm.eps)).all())


def fold(steps: tuple[Step, ...], block: Array, buffers: Array) -> tuple[tuple[Step, ...], Array]:
    """Steps and parameters that predict the same with fewer steps.

    Parameters
    ----------
    block, buffers : ndarray
        Flat parameters and running statistics; not changed.
    """
    folded, later = _pairs(steps)
    later = {norm: i for norm, i in later.items() if _is_close(steps[norm], buffers)}
    norm_before = {i: norm for norm, i in later.items()}
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
        if i in later:
            numbers[i] = numbers[sources_of(i, step)[0]]
            continue
        w = block[step.weight : step.weight + int(np.prod(step.weight_shape))] if step.weight >= 0 else None
        b = block[step.bias : step.bias + step.n_out] if step.bias >= 0 else None
        if i in norm_before:
            assert w is not None
            norm = steps[norm_before[i]]
            w, b = _folded_before(norm, w.reshape(step.n_in, step.n_out), b, block, buffers)
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


def _running(norm: Step, buffers: Array) -> tuple[Array, Array]:
    """Mean and variance of a norm in double precision."""
    found = buffers[norm.running : norm.running + 2 * norm.n_out].astype(np.float64)
    return found[: norm.n_out], found[norm.n_out :]


def _line(norm: Step, block: Array, buffers: Array) -> tuple[Array, Array]:
    """scale and shift by column: the norm is ``x * scale + shift``."""
    mean, var = _running(norm, buffers)
    scale = 1 / np.sqrt(var + norm.eps)
    shift = np.zeros(norm.n_out)
    if norm.weight >= 0:
        scale *= block[norm.weight : norm.weight + norm.n_out]
        shift += block[norm.bias : norm.bias + norm.n_out]
    return scale, shift - mean * scale


def _folded_before(
    norm: Step, w: Array, b: Array | None, block: Array, buffers: Array
) -> tuple[Array, Array]:
    """Weight and bias of a product that reads a norm, for what the norm reads."""
    scale, shift = _line(norm, block, buffers)
    exact, bias = w.astype(np.float64), np.empty((1, w.shape[1]))
    kernels.matmul(shift[None], exact, None, "identity", bias)  # NumPy's has other bits on other machines
    whole = bias[0] + (0.0 if b is None else b.astype(np.float64))
    return (exact * scale[:, None]).astype(block.dtype), whole.astype(block.dtype)


def _folded(norm: Step, w: Array, b: Array | None, block: Array, buffers: Array) -> tuple[Array, Array]:
    """Weight and bias of a product with its norm."""
    scale, shift = _line(norm, block, buffers)
    bias = 0.0 if b is None else b.astype(np.float64)
    return (w * scale).astype(block.dtype), (bias * scale + shift).astype(block.dtype)
