"""Random numbers as array code over `xp`: Philox, and the masks of dropout."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["dropout_mask", "normal_numbers", "philox"]

Array = NDArray[Any]

_LOW = 0xFFFFFFFF


def philox(
    xp: Any, counter: tuple[Array | int, Array | int, Array | int, Array | int], seed: int
) -> tuple[Array, ...]:
    """Four words (as uint64 arrays) of Philox4x32-10 for each counter; Salmon et al. (2011).

    The four counter words are broadcast against each other.
    """
    # One axis at least: NumPy 1 turns uint64 scalars and Python integers into floats.
    words = (xp.atleast_1d(xp.asarray(word, dtype=xp.uint64)) for word in counter)
    c0, c1, c2, c3 = xp.broadcast_arrays(*words)
    k0, k1 = seed & _LOW, seed >> 32
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57  # 32 x 32 bits: fits 64
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & _LOW, (p0 >> 32) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + 0x9E3779B9) & _LOW, (k1 + 0xBB67AE85) & _LOW
    return c0, c1, c2, c3


def dropout_mask(
    xp: Any, seed: int, step: int, layer: int, rate: float, mask: Array, first_row: int = 0
) -> None:
    """Fill mask (rows, columns) with 0 or 1/(1-rate), a function of (seed, step, layer, row, column)."""
    n_rows, n_columns = mask.shape
    rows = xp.arange(first_row, first_row + n_rows, dtype=xp.uint64)[:, None]
    blocks = xp.arange(-(-n_columns // 4), dtype=xp.uint64)
    tag = (layer & 0xFFFF) | (step >> 32 & 0xFFF) << 16  # stream 0
    words = xp.stack(philox(xp, (blocks, rows, step & _LOW, tag), seed), axis=-1)
    words = words.reshape(n_rows, 4 * len(blocks))[:, :n_columns]
    threshold = min(int(rate * 2**32 + 0.5), _LOW)
    xp.multiply(words >= threshold, mask.dtype.type(1 / (1 - rate)), out=mask)


def normal_numbers(xp: Any, seed: int, step: int, layer: int, like: Array, first_row: int = 0) -> Array:
    """Normal numbers of the shape and dtype of `like` (rows, columns), keyed as `dropout_mask` is.

    Box and Muller (1958): two from two words, whose lowest bits are left out.
    """
    n_rows, n_columns = like.shape
    rows = xp.arange(first_row, first_row + n_rows, dtype=xp.uint64)[:, None]
    blocks = xp.arange(-(-n_columns // 4), dtype=xp.uint64)
    tag = (layer & 0xFFFF) | (step >> 32 & 0xFFF) << 16
    words = xp.stack(philox(xp, (blocks, rows, step & _LOW, tag), seed), axis=-1).reshape(n_rows, -1, 2)
    first = ((words[:, :, 0] >> 9) + 0.5) * 2.0**-23
    second = (words[:, :, 1] >> 8) * 2.0**-24 * (2 * np.pi)
    radius = xp.sqrt(-2 * xp.log(first))
    both = xp.stack([radius * xp.cos(second), radius * xp.sin(second)], axis=-1)
    numbers: Array = both.reshape(n_rows, -1)[:, :n_columns].astype(like.dtype)
    return numbers
