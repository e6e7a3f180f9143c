"""Sources of rows that lie in files: their order is ours, and any step of an epoch can be gone to."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import errors
from .source_files import FileRows, HeldRows, Rows
from .source_order import Blocks, Group
from .source_parts import Buffer, Part, Wanted, assembled, target_dtype

__all__ = ["BLOCK_BYTES", "BUFFER_BYTES", "RowReader"]

Array = NDArray[Any]

# Of a block: what a disk reads at full speed without a neighbour. Smaller mixes better: there are more of
# them in a buffer.
BLOCK_BYTES = 2**18
# Of a buffer, of which there are two: rows in one are mixed with each other.
BUFFER_BYTES = 2**26

# Rows of shards that are open at a time: below the usual limit of 256 files of macOS.
_OPEN = 64

_NAMES = "x", "y", "sample_weight"


class RowReader:
    """Reads parts of epochs from shards of x, y and weights.

    One shard of the types that a program takes is used where it lies, mapped; pages of the next group
    are read ahead, and those of the last one given up. Else rows are copied into two buffers in turn.

    Parameters
    ----------
    x, y : list of Rows
        A shard each.
    weight : list of Rows or None
    block_rows, buffer_rows : int or None
    """

    def __init__(
        self,
        x: Sequence[Rows],
        y: Sequence[Rows],
        weight: Sequence[Rows] | None,
        block_rows: int | None,
        buffer_rows: int | None,
    ) -> None:
        self.x, self.y, self.weight = list(x), list(y), None if weight is None else list(weight)
        self._judge()
        row = max(1, self.x[0].row_bytes)
        self.block_rows = (
            max(1, BLOCK_BYTES // row) if block_rows is None else errors.integer("block_rows", block_rows)
        )
        self.buffer_rows = (
            max(self.block_rows, BUFFER_BYTES // row)
            if buffer_rows is None
            else errors.integer("buffer_rows", buffer_rows)
        )
        if self.block_rows > self.buffer_rows:
            if block_rows is not None:
                raise ValueError(
                    f"block_rows must be at most buffer_rows={self.buffer_rows}, got {self.block_rows}"
                )
            self.block_rows = self.buffer_rows
        whole = [not all(one[i].in_pieces for one in self._columns) for i in range(len(self.x))]
        self._blocks = Blocks([len(one) for one in self.x], self.block_rows, self.buffer_rows, whole)
        self._is_packed = any(whole)
        self.n_rows = self._blocks.n_rows
        self.row_shape = self.x[0].shape[1:]
        self.y_shape = self.y[0].shape[1:]

    @property
    def _columns(self) -> list[list[Rows]]:
        return [self.x, self.y, *([self.weight] if self.weight is not None else [])]

    def _judge(self) -> None:
        """Refuse shards that do not fit each other, by name."""
        if not self.x:
            raise ValueError("a source must have at least one shard, got none")
        for name, column in zip(("y", "sample_weight"), self._columns[1:], strict=False):
            if len(column) != len(self.x):
                raise ValueError(f"{name} must have a shard for each of x, {len(self.x)}, got {len(column)}")
            for of_x, one in zip(self.x, column, strict=True):
                if len(one) != len(of_x):
                    raise ValueError(
                        f"{name} must have as many rows as x: {of_x.name} has {len(of_x)}, {one.name} has "
                        f"{len(one)}"
                    )
        for name, column in zip(_NAMES, self._columns, strict=False):
            head = column[0]
            if name == "x" and (len(head.shape) < 2 or 0 in head.shape[1:]):
                raise ValueError(f"x must have rows and columns, got shape {head.shape} in {head.name}")
            if name == "sample_weight" and head.shape[1:] not in ((), (1,)):
                raise ValueError(f"sample_weight must have one column, got {head.shape} in {head.name}")
            for one in column[1:]:
                if one.shape[1:] != head.shape[1:]:
                    raise ValueError(
                        f"{name} must have the same columns in each shard: {head.name} has shape "
                        f"{head.shape}, {one.name} has {one.shape}"
                    )
                if one.dtype != head.dtype:
                    raise ValueError(
                        f"{name} must have the same dtype in each shard: {head.name} has {head.dtype}, "
                        f"{one.name} has {one.dtype}"
                    )
        if not sum(len(one) for one in self.x):
            raise ValueError(f"a source must have at least one row, got none in {self.x[0].name}")

    # ------------------------------------------------------------ words and numbers

    def where(self, row: int) -> str:
        """Words for a row by its number in all shards."""
        first = self._blocks.shard_first
        # of shards without rows, which begin at the same row, the last one has it
        shard = int(np.searchsorted(first, row, side="right")) - 1
        return f"row {row - int(first[shard])} of {self.x[shard].name}"

    def name_of(self, column: int, row: int) -> tuple[str, int]:
        """File of x (0), y (1) or the weights (2) that a row is in, and its row there."""
        first = self._blocks.shard_first
        shard = int(np.searchsorted(first, row, side="right")) - 1
        return self._columns[column][shard].name, row - int(first[shard])

    def steps(self, batch_size: int) -> int:
        """Steps of an epoch."""
        return -(-self.n_rows // batch_size)

    def order(self, seed: int, epoch: int, shuffle: bool) -> Array:
        """Row numbers of an epoch."""
        return self._blocks.order(seed, epoch, shuffle)

    def mark(self) -> str:
        """What a fingerprint is made of."""
        marks = [one.mark() for column in self._columns for one in column]
        return f"rows {self.block_rows} {self.buffer_rows} {' '.join(marks)}"

    def _lies_right(self, wanted: Wanted) -> bool:
        """Whether x can be used where it lies."""
        one = self.x[0]
        whole = one.array if isinstance(one, HeldRows) else None
        return (
            len(self.x) == 1
            and not wanted.copies
            and not self._is_packed
            and (one.dtype == wanted.dtype or one.dtype == np.uint8)
            and one.dtype.isnative
            and (whole is None or (whole.flags.c_contiguous and whole.flags.aligned))
            and (not isinstance(one, FileRows) or one.offset % one.dtype.itemsize == 0)
        )

    def _converted(self, wanted: Wanted) -> list[tuple[str, Rows, np.dtype[Any]]]:
        """Of one shard: targets and weights of another type than programs take, which are read at once."""
        found = [("y", self.y[0], target_dtype(self.y[0].dtype, wanted))]
        if self.weight is not None:
            found.append(("sample_weight", self.weight[0], np.dtype(np.float64)))
        return [
            (name, one, dtype)
            for name, one, dtype in found
            if one.dtype != dtype or (isinstance(one, FileRows) and one.offset % dtype.itemsize)
        ]

    def is_mapped(self, wanted: Wanted) -> bool:
        """Whether parts are looked at where they lie, not copied."""
        if not self._lies_right(wanted):
            return False
        size = sum(
            one.row_bytes // one.dtype.itemsize * dtype.itemsize * self.n_rows
            for _, one, dtype in self._converted(wanted)
        )
        return size <= self.buffer_rows * self.x[0].row_bytes

    def memory_bytes(self, batch_size: int, wanted: Wanted) -> int:
        """See `Source.memory_bytes`."""
        rows = self._blocks.most_rows
        y = self.y[0].row_bytes // self.y[0].dtype.itemsize * target_dtype(self.y[0].dtype, wanted).itemsize
        extra = y + (8 if self.weight is not None else 0)
        blocks = 40 * len(self._blocks.first)
        if self.is_mapped(wanted):
            page = 2 * 4096 * (rows // self.block_rows + 1)  # a block begins and ends within a page
            held = extra * self.n_rows if self._converted(wanted) else 0
            return 3 * (rows * (self.x[0].row_bytes + extra + 24) + page) + 8 * batch_size + held + blocks
        x = wanted.n_in * (1 if self.x[0].dtype == np.uint8 else wanted.dtype.itemsize)
        raw = sum(column[0].row_bytes for column in self._columns)
        read = rows if self._is_packed else min(rows, self.block_rows)
        buffers = 2 * (rows + batch_size) * (x + extra + 8)
        return buffers + 3 * rows * 24 + read * (raw + x) + blocks

    # ------------------------------------------------------------ parts

    def parts(
        self, wanted: Wanted, seed: int, epoch: int, batch_size: int, shuffle: bool, start_step: int
    ) -> Generator[list[Part], None, None]:
        """Parts of an epoch from a step on."""
        groups = self._blocks.groups(seed, epoch, shuffle, start_step * batch_size)
        parts = self._mapped if self.is_mapped(wanted) else self._copied
        try:
            for part in parts(groups, wanted, batch_size, start_step):
                yield [part]
        finally:
            for column in self._columns:
                for one in column:
                    one.close()

    def _mapped(
        self, groups: Iterator[Group], wanted: Wanted, batch_size: int, start_step: int
    ) -> Iterator[Part]:
        one = self.x[0]
        x = one.whole().reshape(self.n_rows, wanted.n_in)
        held = {
            name: errors.cast(name, rows.read(0, len(rows)), dtype)
            for name, rows, dtype in self._converted(wanted)
        }
        y = held["y"] if "y" in held else np.ascontiguousarray(self.y[0].whole())
        weight = None
        if self.weight is not None:
            weight = held["sample_weight"] if "sample_weight" in held else self.weight[0].whole()
            weight = np.ascontiguousarray(weight).reshape(self.n_rows)
        at, step = start_step * batch_size, start_step
        left = np.zeros(0, np.int64)
        before: list[Group] = []  # whose pages are there
        for group in groups:
            if len(before) == 2:
                self._each_run(before.pop(0), one.release)
            self._each_run(group, one.populate)
            before.append(group)
            pending = np.concatenate([left, group.rows[group.place][max(0, at - group.first) :]])
            at = group.first + len(group)
            whole = len(pending) // batch_size * batch_size
            left = pending[whole:]
            if whole:
                order = pending[:whole].reshape(-1, batch_size)
                yield Part(x, y, weight, order, step, self.where)
                step += len(order)
        if len(left):
            yield Part(x, y, weight, left.reshape(1, -1), step, self.where)

    def _each_run(self, group: Group, use: Callable[[int, int], None]) -> None:
        """Blocks of a group that are neighbours in the file, in one call each."""
        blocks = group.blocks
        cuts = np.flatnonzero(np.diff(blocks) != 1) + 1
        for run in np.split(blocks, cuts):
            first, last = int(run[0]), int(run[-1])
            begin = int(self._blocks.first[first])
            use(begin, int(self._blocks.first[last] + self._blocks.size[last]) - begin)

    def _copied(
        self, groups: Iterator[Group], wanted: Wanted, batch_size: int, start_step: int
    ) -> Iterator[Part]:
        room = self._blocks.most_rows + batch_size
        y = self.y[0].shape[1:], self.y[0].dtype
        opened: dict[int, None] = {}  # shards, the longest unused first

        def make() -> Buffer:
            return Buffer(room, wanted, self.x[0].dtype, y, self.weight is not None)

        def fill_from(group: Group) -> Callable[[Buffer, int], None]:
            def fill(buffer: Buffer, at: int) -> None:
                for block in group.blocks.tolist():
                    at += self._read_block(block, buffer, at, opened)

            return fill

        yield from assembled(
            ((group.first, len(group), group.place, fill_from(group)) for group in groups),
            make,
            batch_size,
            start_step,
            self.where,
        )

    def _read_block(self, block: int, buffer: Buffer, at: int, opened: dict[int, None]) -> int:
        """Read a block into a buffer; gives its rows."""
        blocks = self._blocks
        shard, n = int(blocks.shard[block]), int(blocks.size[block])
        row = int(blocks.first[block])
        first = row - int(blocks.shard_first[shard])
        opened.pop(shard, None)
        opened[shard] = None
        if len(opened) > _OPEN // len(self._columns):
            oldest = next(iter(opened))
            del opened[oldest]
            for column in self._columns:
                column[oldest].close()
        read = [column[shard].read(first, n) for column in self._columns]
        names = [
            f"{name} of {column[shard].name}" for name, column in zip(_NAMES, self._columns, strict=False)
        ]
        names += [""] * (3 - len(names))
        buffer.fill(
            at, read[0], read[1], read[2] if len(read) == 3 else None, row, (names[0], names[1], names[2])
        )
        return n
