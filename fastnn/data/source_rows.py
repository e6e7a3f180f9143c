"""Sources of rows that lie in files: their order is ours, and any step of an epoch can be gone to."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import errors
from .source_files import HeldRows, Rows
from .source_order import Blocks, Drawn, Group
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

    One array in memory of the types that a program takes is used where it lies. Else rows are copied into two
    buffers in turn. (Pages of a mapped file, read ahead and given up behind, lost: the system maps more
    than it is asked for, and a file that becomes shorter ends the process.)

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
        self.in_pieces = not any(whole)
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
        name, at = self.name_of(0, row)
        return f"row {at} of {name}"

    def name_of(self, column: int, row: int) -> tuple[str, int]:
        """File of x (0), y (1) or the weights (2) that a row is in, and its row there."""
        shard = int(self._blocks.shard_of(np.array([row]))[0])
        return self._columns[column][shard].name, row - int(self._blocks.shard_first[shard])

    def steps(self, batch_size: int) -> int:
        """Steps of an epoch."""
        return -(-self.n_rows // batch_size)

    def order(self, seed: int, epoch: int, shuffle: bool, drawn: Drawn | None = None) -> Array:
        """Row numbers of an epoch."""
        return self._blocks.order(seed, epoch, shuffle, drawn)

    def mark(self) -> str:
        """What a fingerprint is made of."""
        marks = [one.opened_anew().mark() for column in self._columns for one in column]
        return f"rows {self.block_rows} {self.buffer_rows} {' '.join(marks)}"

    def _in_place(self, wanted: Wanted) -> tuple[Array, Array, Array | None] | None:
        """x, y and weight of one shard in memory as programs take them; None where they are not."""
        if len(self.x) > 1 or wanted.copies:
            return None
        found: list[Array] = []
        for column, dtypes in zip(
            self._columns,
            ((wanted.dtype, np.uint8), (target_dtype(self.y[0].dtype, wanted),), (np.float64,)),
            strict=False,
        ):
            one = column[0]
            if not isinstance(one, HeldRows) or isinstance(one.array, np.memmap):
                return None
            right = one.dtype.isnative and one.array.flags.c_contiguous and one.array.flags.aligned
            if not right or one.dtype not in dtypes:
                return None
            found.append(one.array)
        x = found[0].reshape(self.n_rows, wanted.n_in)
        return x, found[1], found[2].reshape(self.n_rows) if len(found) == 3 else None

    def memory_bytes(self, batch_size: int, wanted: Wanted) -> int:
        """See `Source.memory_bytes`."""
        rows = self._blocks.most_rows
        y = self.y[0].row_bytes // self.y[0].dtype.itemsize * target_dtype(self.y[0].dtype, wanted).itemsize
        extra = y + (8 if self.weight is not None else 0)
        blocks = 40 * len(self._blocks.first)
        if self._in_place(wanted) is not None:
            return 3 * 24 * rows + 8 * batch_size + blocks
        x = wanted.n_in * (1 if self.x[0].dtype == np.uint8 else wanted.dtype.itemsize)
        raw = sum(column[0].row_bytes for column in self._columns)
        read = min(rows, self.block_rows) if self.in_pieces else rows  # where it is converted
        buffers = 2 * (rows + batch_size) * (x + extra + 8)
        return buffers + 3 * rows * 24 + read * (raw + x) + blocks

    # ------------------------------------------------------------ parts

    def parts(
        self,
        wanted: Wanted,
        seed: int,
        epoch: int,
        batch_size: int,
        shuffle: bool,
        start_step: int,
        drawn: Drawn | None = None,
    ) -> Generator[list[Part], None, None]:
        """Parts of an epoch from a step on, of all rows or of those that a sampler has drawn."""
        # Room is made for a batch: not for more rows than there are.
        batch_size = min(batch_size, self.n_rows if drawn is None else len(drawn.rows))
        groups = self._blocks.groups(seed, epoch, shuffle, start_step * batch_size, drawn)
        held = self._in_place(wanted)
        if held is not None:
            for part in self._held(groups, held, batch_size, start_step):
                yield [part]
            return
        with _opened(self._columns) as columns:
            for part in self._copied(columns, groups, wanted, batch_size, start_step):
                yield [part]

    def _held(
        self,
        groups: Iterator[Group],
        held: tuple[Array, Array, Array | None],
        batch_size: int,
        start_step: int,
    ) -> Iterator[Part]:
        x, y, weight = held
        at, step = start_step * batch_size, start_step
        left = np.zeros(0, np.int64)
        for group in groups:
            pending = np.concatenate([left, group.rows[group.place][max(0, at - group.first) :]])
            at = group.first + len(group.place)
            whole = len(pending) // batch_size * batch_size
            left = pending[whole:]
            if whole:
                order = pending[:whole].reshape(-1, batch_size)
                yield Part(x, y, weight, order, step, self.where)
                step += len(order)
        if len(left):
            yield Part(x, y, weight, left.reshape(1, -1), step, self.where)

    def _copied(
        self,
        columns: list[list[Rows]],
        groups: Iterator[Group],
        wanted: Wanted,
        batch_size: int,
        start_step: int,
    ) -> Iterator[Part]:
        room = self._blocks.most_rows + batch_size
        y = self.y[0].shape[1:], self.y[0].dtype
        opened: dict[int, None] = {}  # shards, the longest unused first

        def make() -> Buffer:
            return Buffer(room, wanted, self.x[0].dtype, y, self.weight is not None)

        def fill_from(group: Group) -> Callable[[Buffer, int], None]:
            def fill(buffer: Buffer, at: int) -> None:
                here = slice(at, at + len(group.rows))
                buffer.rows[here] = group.rows
                rooms = [one[here] for one in (buffer.x, buffer.y, buffer.weight) if one is not None]
                for shard, pieces in self._by_shard(group):
                    opened.pop(shard, None)
                    opened[shard] = None
                    if len(opened) > _OPEN // len(columns):
                        oldest = next(iter(opened))
                        del opened[oldest]
                        for column in columns:
                            column[oldest].close()
                    n = sum(pieces[1])
                    for name, column, room in zip(_NAMES, columns, rooms, strict=False):
                        _read(name, column[shard], *pieces, room[:n])
                    rooms = [room[n:] for room in rooms]

            return fill

        yield from assembled(
            ((group.first, len(group.rows), group.place, fill_from(group)) for group in groups),
            make,
            batch_size,
            start_step,
            self.where,
        )

    def _by_shard(self, group: Group) -> Iterator[tuple[int, tuple[list[int], list[int]]]]:
        """Pieces of a group by shard: their first rows there, and their rows."""
        shards = self._blocks.shard_of(group.first_rows)
        firsts = group.first_rows - self._blocks.shard_first[shards]
        ends = np.flatnonzero(np.diff(shards, append=-1)) + 1
        begin = 0
        for end in ends.tolist():
            yield int(shards[begin]), (firsts[begin:end].tolist(), group.sizes[begin:end].tolist())
            begin = end

    def targets(self, n: int) -> Generator[tuple[int, Array, Array | None, Callable[[int], str]], None, None]:
        """See `Source.targets`; no piece goes over the end of a shard."""
        with _opened(self._columns[1:]) as columns:
            for shard, base in enumerate(self._blocks.shard_first.tolist()):
                step = n if self.in_pieces else max(1, len(self.x[shard]))
                for first in range(0, len(self.x[shard]), step):
                    size, row = min(step, len(self.x[shard]) - first), base + first
                    found = [column[shard].read(first, size) for column in columns]
                    weight = found[1].reshape(size) if len(found) == 2 else None
                    yield row, found[0], weight, lambda i, row=row: self.where(row + i)  # type: ignore[misc]
                for column in columns:
                    column[shard].close()


def _read(name: str, rows: Rows, firsts: list[int], sizes: list[int], room: Array) -> None:
    """Read pieces of a shard, as they are or, one after the other, converted."""
    if rows.read_pieces(firsts, sizes, room):
        return
    at = 0
    for first, n in zip(firsts, sizes, strict=True):
        here = room[at : at + n]
        here[...] = errors.cast(f"{name} of {rows.name}", rows.read(first, n).reshape(here.shape), room.dtype)
        at += n


@contextlib.contextmanager
def _opened(columns: list[list[Rows]]) -> Generator[list[list[Rows]], None, None]:
    """The rows for one reader, whose files are closed at the end.

    A source may be read by several at once: the thread of a training and its validation, or two trainers.
    """
    own = [[one.opened_anew() for one in column] for column in columns]
    try:
        yield own
    finally:
        for column in own:
            for one in column:
                one.close()
