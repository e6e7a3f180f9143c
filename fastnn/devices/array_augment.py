"""Augmentations of a batch as array code: what compiled results are compared with. See `fastnn.augment`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .array_random import normal_numbers, philox

__all__ = ["augmented"]

Array = NDArray[Any]

_FIRST_LAYER = 0xFF00  # in place of a layer's number: no network has so many
_LOW = 0xFFFFFFFF


def _tag(step: int, layer: int) -> int:
    return (layer & 0xFFFF) | (step >> 32 & 0xFFF) << 16


def augmented(
    xp: Any,
    augment: tuple[tuple[str, float], ...],
    seed: int,
    step: int,
    data: tuple[Array, Array, Array | None],
    rows: Array,
    batch: Array,
    n_out: int,
) -> tuple[Array, Array | None]:
    """Change the gathered rows `batch` in place; gives the targets and weights that go with them.

    Parameters
    ----------
    data : (x, y, sample_weight)
    rows : ndarray (batch,)
        Row numbers into those.
    """
    x, y, weights = data
    y, weight = y[rows], None if weights is None else weights[rows]
    for i, (kind, number) in enumerate(augment):
        layer = _FIRST_LAYER + i
        if kind == "mixup":
            share, shift = _mixture(xp, seed, step, layer, number, len(rows))
            other = xp.concatenate([rows[shift:], rows[:shift]])
            there = x[other].astype(batch.dtype)
            batch[...] = there + batch.dtype.type(share) * (batch - there)
            of_targets = xp.full(len(rows), share)
            if weights is not None and weight is not None:
                own, weight = weight, share * weight + (1 - share) * weights[other]
                of_targets = xp.where(weight > 0, share * own / xp.where(weight > 0, weight, 1), share)
            y = _mixed(xp, y, data[1][other], of_targets, n_out, batch.dtype)
        elif kind == "swap":
            _swap(xp, seed, step, layer, number, x, rows, batch)
        else:
            batch += batch.dtype.type(number) * normal_numbers(xp, seed, step, layer, batch)
    return y, weight


def _mixed(xp: Any, own: Array, other: Array, share: Array, n_out: int, dtype: Any) -> Array:
    """Targets, of labels as shares of the classes."""
    if own.ndim == 1:
        found: Array = xp.zeros((len(own), n_out), dtype)
        places = xp.arange(len(own))
        found[places, own] += share.astype(dtype)
        found[places, other] += (1 - share).astype(dtype)
        return found
    values: Array = other + share.astype(dtype)[:, None] * (own - other)
    return values


def _mixture(xp: Any, seed: int, step: int, layer: int, alpha: float, n: int) -> tuple[float, int]:
    """Share of the row itself, and how many places further the other one stands."""
    shift = 0
    for attempt in range(256):
        words = [int(w[0]) for w in philox(xp, (attempt, 0, step & _LOW, _tag(step, layer)), seed)]
        if attempt == 0 and n > 1:
            shift = 1 + (words[2] * (n - 1) >> 32)
        u, v = ((w >> 9) * 2.0**-23 + 2.0**-24 for w in words[:2])
        if alpha <= 1:
            a, b = math.log(u) / alpha, math.log(v) / alpha
            most = max(a, b)
            total = math.exp(a - most) + math.exp(b - most)
            if most + math.log(total) <= 0:
                return math.exp(a - most) / total, shift
        else:
            beta = math.sqrt(1 / alpha)
            odds = beta * math.log(u / (1 - u))
            w, z = alpha * math.exp(odds), u * u * v
            r, t = (alpha + 1 / beta) * odds - math.log(4), math.log(z)
            if r + 2 * alpha * math.log(2 * alpha / (alpha + w)) >= t:
                return w / (alpha + w), shift
    return 0.5, shift


def _swap(
    xp: Any, seed: int, step: int, layer: int, rate: float, x: Array, rows: Array, batch: Array
) -> None:
    """Numbers from other rows of the batch."""
    n, n_columns = batch.shape
    threshold = min(int(rate * 2.0**32 + 0.5), _LOW)
    if threshold < 1:
        return
    places = xp.arange(n, dtype=xp.uint64)[:, None]
    blocks = xp.arange(-(-n_columns // 4), dtype=xp.uint64)
    words = xp.stack(philox(xp, (blocks, places, step & _LOW, _tag(step, layer)), seed), axis=-1)
    words = words.reshape(n, -1)[:, :n_columns]
    taken = (words * np.uint64(n) // np.uint64(threshold)) % np.uint64(n)
    other = x[rows[taken.astype(np.int64)], xp.arange(n_columns)].astype(batch.dtype)
    batch[...] = xp.where(words < threshold, other, batch)
