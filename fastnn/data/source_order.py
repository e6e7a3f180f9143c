"""The order of rows that lie in files: a pure function of seed and epoch, without state.

A file is read quickly in long pieces, and training wants rows mixed. So the rows are cut into blocks of
neighbours, the blocks are put in random order, and as many as fit into a buffer are a group, whose rows are
mixed with each other. The order of an epoch is that of its groups, one after the other; where all rows fit
into one buffer it is the order that an array of them has.

A sampler chooses the rows of an epoch. Where it leaves their order to chance, the groups are the same and
each takes its share of what was drawn, so that a file is still read once and from front to back; the order
that a function of the user's gives is kept, and rows are read one run of neighbours after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .. import kernels

__all__ = ["Blocks", "Drawn", "Group", "sub_seed"]

Order = NDArray[np.int64]

_WORD = 2**32 - 1


def sub_seed(seed: int, epoch: int, number: int) -> int:
    """A seed of its own for piece `number` of an epoch: 64 bits of Philox."""
    counter = (number & _WORD, number >> 32 & _WORD, epoch & _WORD, epoch >> 32 & _WORD)
    low, high, _, _ = kernels.philox(counter, (seed & _WORD, seed >> 32 & _WORD))
    return low | high << 32


@dataclass(frozen=True, eq=False)
class Drawn:
    """The rows that a sampler has chosen for an epoch.

    Parameters
    ----------
    rows : ndarray (m,) of int
        Row numbers in all shards; some may be missing, and some there several times.
    keeps_order : bool
        Whether they must be trained in this order.
    """

    rows: Order
    keeps_order: bool


@dataclass(frozen=True, eq=False)
class Group:
    """Rows that are read together.

    Parameters
    ----------
    first_rows, sizes : ndarray (k,) of int
        Pieces of neighbours, ascending: the group is read from front to back.
    rows : ndarray (n,) of int
        Row numbers as they are read.
    place : ndarray (m,) of int
        The order of training: positions in rows.
    first : int
        Rows of the epoch's order before it.
    """

    first_rows: Order
    sizes: Order
    rows: Order
    place: Order
    first: int


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
        firsts, base = [], 0
        for i, n in enumerate(shard_rows):
            step = max(1, n) if whole[i] else block_rows
            firsts.append(np.arange(base, base + n, step, dtype=np.int64))
            base += n
        self.n_rows, self.block_rows, self.buffer_rows = base, block_rows, buffer_rows
        self.first = np.concatenate(firsts)
        self.size = np.diff(self.first, append=base)
        self.shard_first = np.cumsum([0, *shard_rows])[:-1]

    @property
    def most_rows(self) -> int:
        """Rows of the largest group that there can be."""
        return min(self.n_rows, max(self.buffer_rows, int(self.size.max(initial=1))))

    def shard_of(self, rows: Order) -> Order:
        """Numbers of the shards that rows are in."""
        # of shards without rows, which begin at the same row, the last one has it
        found: Order = np.searchsorted(self.shard_first, rows, side="right") - 1
        return found

    def groups(
        self, seed: int, epoch: int, shuffle: bool, first_row: int = 0, drawn: Drawn | None = None
    ) -> Iterator[Group]:
        """The groups of an epoch, from the one on that has row `first_row` of its order.

        drawn: the rows that are taken, with shuffle; None: each once.
        """
        if drawn is None:
            for blocks, number, done in self._shares(seed, epoch, shuffle):
                n = int(self.size[blocks].sum())
                if done + n > first_row:
                    if not shuffle:
                        place = np.arange(n)
                    elif number == 0:  # all rows: the order that an array has
                        place = kernels.shuffle(seed, epoch, n)
                    else:
                        place = kernels.shuffle(sub_seed(seed, epoch, number), epoch, n)
                    yield self._group(blocks, place, done)
        elif drawn.keeps_order:
            yield from self._in_order(drawn.rows, first_row)
        else:
            yield from self._drawn(seed, epoch, drawn.rows, first_row)

    def _shares(self, seed: int, epoch: int, shuffle: bool) -> Iterator[tuple[Order, int, int]]:
        """Blocks that come together, ascending; their number (0 of the only ones); rows before."""
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
            is_all = end - begin == n_blocks
            yield np.sort(order[begin:end]), 0 if is_all else number, done
            begin, done = end, int(ends[end - 1])

    def _group(self, blocks: Order, place: Order, first: int) -> Group:
        first_rows, sizes = self.first[blocks], self.size[blocks]
        return Group(first_rows, sizes, _runs(first_rows, sizes), place, first)

    def _drawn(self, seed: int, epoch: int, drawn: Order, first_row: int) -> Iterator[Group]:
        """The groups that an epoch without a sampler has, each with what was drawn of its rows, mixed."""
        times = np.bincount(drawn, minlength=self.n_rows)
        of_blocks = np.add.reduceat(times, self.first)
        done = 0
        for shared, number, _ in self._shares(seed, epoch, True):
            if number == 0:  # all rows: the order that an array has
                if len(drawn) > first_row:
                    yield self._group(shared, drawn, 0)
                return
            blocks = shared[of_blocks[shared] > 0]  # of which nothing was drawn are not read
            n = int(of_blocks[blocks].sum())
            if n and done + n > first_row:
                times_here = times[_runs(self.first[blocks], self.size[blocks])]
                place = np.repeat(np.arange(len(times_here)), times_here)
                mixed = kernels.shuffle(sub_seed(seed, epoch, number), epoch, n)
                yield self._group(blocks, place[mixed], done)
            done += n

    def _in_order(self, order: Order, first_row: int) -> Iterator[Group]:
        """Windows of an order that is kept, as many rows as a buffer holds; of each, runs of neighbours."""
        for first in range(first_row, len(order), self.buffer_rows):
            rows, place = np.unique(order[first : first + self.buffer_rows], return_inverse=True)
            new = np.ones(len(rows), bool)
            new[1:] = (np.diff(rows) != 1) | (np.diff(self.shard_of(rows)) != 0)
            new[:: self.block_rows] = True  # none is longer than a block
            begins = np.flatnonzero(new)
            sizes = np.diff(begins, append=len(rows))
            yield Group(rows[begins], sizes, rows, place.reshape(-1).astype(np.int64, copy=False), first)

    def order(self, seed: int, epoch: int, shuffle: bool, drawn: Drawn | None = None) -> Order:
        """Row numbers of a whole epoch in the order of training."""
        found = [group.rows[group.place] for group in self.groups(seed, epoch, shuffle, drawn=drawn)]
        return np.concatenate(found) if found else np.zeros(0, np.int64)


def _runs(first: Order, size: Order) -> Order:
    """Row numbers of pieces of neighbours, one piece after the other."""
    before = np.cumsum(size) - size
    return np.repeat(first - before, size) + np.arange(size.sum())
