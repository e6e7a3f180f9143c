"""The order of rows that lie in files: a pure function of seed and epoch, without state.

A file is read quickly in long pieces, and training wants rows mixed. So the rows are cut into blocks of
neighbours, the blocks are put in random order, and as many as fit into a buffer are a group, whose rows are
mixed with each other. The order of an epoch is that of its groups, one after the other; where all rows fit
into one buffer it is the order that an array of them has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .. import kernels

__all__ = ["Blocks", "Group", "sub_seed"]

Order = NDArray[np.int64]

_WORD = 2**32 - 1


def sub_seed(seed: int, epoch: int, number: int) -> int:
    """A seed of its own for piece `number` of an epoch: 64 bits of Philox."""
    counter = (number & _WORD, number >> 32 & _WORD, epoch & _WORD, epoch >> 32 & _WORD)
    low, high, _, _ = kernels.philox(counter, (seed & _WORD, seed >> 32 & _WORD))
    return low | high << 32


@dataclass(frozen=True, eq=False)
class Group:
    """Rows that are mixed with each other.

    Parameters
    ----------
    blocks : ndarray (k,) of int
        Their numbers, ascending: the group is read from front to back.
    rows : ndarray (n,) of int
        Row numbers as they are read.
    place : ndarray (n,) of int
        The order of training: positions in rows.
    first : int
        Rows of the epoch before it.
    """

    blocks: Order
    rows: Order
    place: Order
    first: int

    def __len__(self) -> int:
        return len(self.rows)


class Blocks:
    """Rows of several shards cut into blocks; none goes over the end of a shard.

    Parameters
    ----------
    shard_rows : sequence of int
        Rows of each shard.
    block_rows : int
        Rows of a block; the last one of a shard has fewer.
    buffer_rows : int
        Rows of a group at most, or one block.
    whole : sequence of bool
        Shards that are one block each, as they cannot be read in pieces.
    """

    def __init__(
        self, shard_rows: Sequence[int], block_rows: int, buffer_rows: int, whole: Sequence[bool]
    ) -> None:
        firsts, shards, base = [], [], 0
        for i, n in enumerate(shard_rows):
            step = max(1, n) if whole[i] else block_rows
            first = np.arange(base, base + n, step, dtype=np.int64)
            firsts.append(first)
            shards.append(np.full(len(first), i, np.int64))
            base += n
        self.n_rows, self.buffer_rows = base, buffer_rows
        self.first = np.concatenate(firsts)
        self.shard = np.concatenate(shards)
        self.size = np.diff(self.first, append=base)
        self.shard_first = np.cumsum([0, *shard_rows])[:-1]

    @property
    def most_rows(self) -> int:
        """Rows of the largest group that there can be."""
        return min(self.n_rows, max(self.buffer_rows, int(self.size.max(initial=1))))

    def rows_of(self, blocks: Order) -> Order:
        """Row numbers of blocks, one after the other."""
        size = self.size[blocks]
        before = np.cumsum(size) - size
        return np.repeat(self.first[blocks] - before, size) + np.arange(size.sum())

    def groups(self, seed: int, epoch: int, shuffle: bool, first_row: int = 0) -> Iterator[Group]:
        """The groups of an epoch, from the one on that has row `first_row` of its order."""
        n_blocks = len(self.first)
        if shuffle and self.n_rows > self.buffer_rows:
            order = kernels.shuffle(sub_seed(seed, epoch, 0), epoch, n_blocks)
        else:
            order = np.arange(n_blocks)
        ends = np.cumsum(self.size[order])
        begin, done, number = 0, 0, 0
        while begin < n_blocks:
            # as many blocks as the buffer holds, one at least
            end = max(begin + 1, int(np.searchsorted(ends, done + self.buffer_rows, side="right")))
            number += 1
            n = int(ends[end - 1]) - done
            if done + n > first_row:
                blocks = np.sort(order[begin:end])
                if not shuffle:
                    place = np.arange(n)
                elif end - begin == n_blocks:  # all rows: the order that an array has
                    place = kernels.shuffle(seed, epoch, n)
                else:
                    place = kernels.shuffle(sub_seed(seed, epoch, number), epoch, n)
                yield Group(blocks, self.rows_of(blocks), place, done)
            begin, done = end, done + n

    def order(self, seed: int, epoch: int, shuffle: bool) -> Order:
        """Row numbers of a whole epoch, (n_rows,)."""
        found = [group.rows[group.place] for group in self.groups(seed, epoch, shuffle)]
        return np.concatenate(found) if found else np.zeros(0, np.int64)
