"""Sources of batches that somebody else makes: iterables, functions, data loaders, streams of tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import errors, kernels
from .source_order import sub_seed
from .source_parts import Buffer, Part, Wanted, assembled, target_dtype
from .source_rows import BUFFER_BYTES

__all__ = ["BatchReader", "Feed", "IterableFeed", "unpacked"]

Array = NDArray[Any]
Batch = tuple[Array, Array, Array | None]
NO_BATCH = object()  # a batch that is None is one, of the wrong type

# Batches are handed over in lists of so many bytes, or what comes in so many seconds: handing over one
# small batch at a time would cost as much as training on it.
_LIST_BYTES = 2**22
_LIST_SECONDS = 0.02


class Feed:
    """Where the batches of an epoch come from.

    Attributes
    ----------
    kind : str
        For messages and fingerprints.
    is_once : bool
        Whether it can be run through only once.
    may_end : bool
        Whether that may be why there is no batch.
    """

    kind = "batches"
    is_once = False
    may_end = False

    def steps(self) -> int | None:
        """Batches of an epoch, where that is known."""
        return None

    def start(self, seed: int, epoch: int, shuffle: bool, skip: int) -> tuple[Iterator[Any], int]:
        """Batches of an epoch, and how many of the first `skip` have been left out already."""
        raise NotImplementedError

    def peek(self) -> Any:
        """The first batch, which an epoch will still begin with; NO_BATCH where there is none."""
        items, _ = self.start(0, 0, False, 0)
        try:
            return next(items, NO_BATCH)
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()


class IterableFeed(Feed):
    """Batches of an iterable, of a function that makes one for each epoch, or of an iterator.

    Parameters
    ----------
    given : iterable or function
    n_steps : int or None
        Batches taken in an epoch; None: all. An iterator goes on with the next epoch where it stopped.
    seeded : bool
        Whether the function is called with seed and epoch.
    """

    def __init__(self, given: Any, n_steps: int | None, seeded: bool, kind: str = "batches") -> None:
        self.kind, self._given, self._seeded = kind, given, seeded
        self._n_steps = None if n_steps is None else errors.integer("steps", n_steps)
        self._is_function = callable(given) and not isinstance(given, Iterable)
        is_iterable = isinstance(given, Iterable) and not isinstance(given, (str, bytes, Mapping))
        if not self._is_function and not is_iterable:
            raise TypeError(
                "batches must be an iterable of batches or a function that makes one, got "
                f"{type(given).__name__}"
            )
        if seeded and not self._is_function:
            raise TypeError(f"seeded needs a function of seed and epoch, got {type(given).__name__}")
        self.is_once = not self._is_function and isinstance(given, Iterator) and n_steps is None
        self.may_end = self._is_function or isinstance(given, Iterator)
        self._peeked: list[Any] = []

    def steps(self) -> int | None:
        if self._n_steps is not None:
            return self._n_steps
        if not self._is_function and hasattr(self._given, "__len__"):
            return len(self._given)
        return None

    def start(self, seed: int, epoch: int, shuffle: bool, skip: int) -> tuple[Iterator[Any], int]:
        if not self._is_function and isinstance(self._given, Iterator):
            return self._go_on(), 0
        found = self._given
        if self._is_function:
            found = found(seed, epoch) if self._seeded else found()
            if not isinstance(found, Iterable):
                raise TypeError(
                    f"the function of the source must give an iterable, got {type(found).__name__}"
                )
        return self._limited(iter(found)), 0

    def _limited(self, items: Iterator[Any]) -> Iterator[Any]:
        """As many as an epoch has, and then the end of a generator's own work."""
        try:
            for n, item in enumerate(items):
                yield item
                if self._n_steps is not None and n + 1 == self._n_steps:
                    break
        finally:
            close = getattr(items, "close", None)
            if close is not None and self._is_function:
                close()

    def _go_on(self) -> Iterator[Any]:
        """The next batches of an iterator, which belongs to the caller and is not closed."""
        n = 0
        while self._n_steps is None or n < self._n_steps:
            if self._peeked:
                item = self._peeked.pop()
            else:
                try:
                    item = next(self._given)
                except StopIteration:
                    return
            n += 1
            yield item

    def peek(self) -> Any:
        if not (not self._is_function and isinstance(self._given, Iterator)):
            return super().peek()
        if not self._peeked:
            found = next(self._given, NO_BATCH)
            if found is NO_BATCH:
                return found
            self._peeked.append(found)
        return self._peeked[-1]


def unpacked(item: Any, place: str) -> tuple[Any, Any, Any]:
    """x, y and weight (or None) of a batch."""
    if isinstance(item, Mapping) and {"x", "y"} <= item.keys() <= {"x", "y", "sample_weight"}:
        return _array(item["x"]), _array(item["y"]), _array(item.get("sample_weight"))
    if not isinstance(item, (tuple, list)) or len(item) not in (2, 3):
        got = f"{len(item)} of them" if isinstance(item, (tuple, list)) else type(item).__name__
        if isinstance(item, Mapping):
            got = f"a dict of {', '.join(map(repr, item))}"
        raise TypeError(f"{place} must be (x, y) or (x, y, sample_weight), got {got}")
    return _array(item[0]), _array(item[1]), _array(item[2]) if len(item) == 3 else None


def _array(value: Any) -> Any:
    """A tensor of PyTorch as an array without a copy where it is on the CPU; anything else as it is."""
    if hasattr(value, "detach") and hasattr(value, "cpu"):
        return value.detach().cpu().numpy()
    return value


class BatchReader:
    """Reads parts of epochs from a feed: its batches as they are, or cut anew.

    Parameters
    ----------
    feed : Feed
    regroup : bool
        Whether its rows are cut into batches of fit's size, after they are mixed in a buffer.
    buffer_rows : int or None
    """

    def __init__(self, feed: Feed, regroup: bool, buffer_rows: int | None) -> None:
        self.feed, self.regroup = feed, regroup
        if buffer_rows is not None and not regroup:
            raise ValueError(
                "buffer_rows must be None without regroup=True, as batches are taken as they come, "
                f"got {buffer_rows}"
            )
        self._buffer_rows = None if buffer_rows is None else errors.integer("buffer_rows", buffer_rows)
        self._row: tuple[tuple[int, ...], int] | None = None  # shape of x's rows, bytes of a batch

    n_rows = None

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of a row of x, of the first batch."""
        return self._first()[0]

    def _first(self) -> tuple[tuple[int, ...], int]:
        if self._row is None:
            item = self.feed.peek()
            if item is NO_BATCH:
                raise ValueError(f"the source ({self.feed.kind}) must give at least one batch, got none")
            x, y, _ = unpacked(item, "batch 1 of the source")
            found = errors.array("x of batch 1", x)
            if found.ndim < 2:
                raise ValueError(f"x of batch 1 must be 2-D (rows, columns), got shape {found.shape}")
            self._row = found.shape[1:], found.nbytes + np.asarray(y).nbytes
        return self._row

    def buffer_rows(self, wanted: Wanted) -> int:
        """Rows that are mixed with each other."""
        row = wanted.n_in * wanted.dtype.itemsize
        return max(1, BUFFER_BYTES // row) if self._buffer_rows is None else self._buffer_rows

    def steps(self, batch_size: int) -> int | None:
        """Steps of an epoch, where that is known."""
        return None if self.regroup else self.feed.steps()

    def mark(self) -> str:
        """What a fingerprint is made of; of batches that somebody else makes it is little."""
        return f"{self.feed.kind} {self.feed.steps()} {self.regroup} {self._buffer_rows} {self.row_shape}"

    def memory_bytes(self, batch_size: int, wanted: Wanted) -> int:
        """See `Source.memory_bytes`."""
        given = self._first()[1]
        if not self.regroup:
            return 3 * (max(_LIST_BYTES, given) + given)
        rows = self.buffer_rows(wanted)
        row = wanted.n_in * wanted.dtype.itemsize + 8 + 8 + 8
        return 3 * (rows + batch_size) * row + 3 * rows * 8 + 2 * given

    # ------------------------------------------------------------ parts

    def parts(
        self, wanted: Wanted, seed: int, epoch: int, batch_size: int, shuffle: bool, start_step: int
    ) -> Generator[list[Part], None, None]:
        """Parts of an epoch from a step on."""
        skip = 0 if self.regroup else start_step
        items, skipped = self.feed.start(seed, epoch, shuffle, skip)
        batches = self._numbered(items, skipped, epoch)
        try:
            if self.regroup:
                for part in self._regrouped(batches, wanted, seed, epoch, batch_size, shuffle, start_step):
                    yield [part]
            else:
                yield from self._lists(batches, start_step)
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()

    def _numbered(self, items: Iterator[Any], skipped: int, epoch: int) -> Iterator[tuple[int, Any]]:
        """Batches with their numbers from 0, and the words where they end too early."""
        n, known = skipped, self.feed.steps()
        while True:
            try:
                item = next(items)
            except StopIteration:
                break
            except Exception as error:
                error.add_note(f"this was in batch {n + 1} of epoch {epoch + 1} of the source")
                raise
            yield n, item
            n += 1
        if n == 0:
            advice = ""
            if self.feed.may_end or epoch:
                once = "an iterator can be run through once"
                advice = f": {once}; pass a function that makes a new one for each epoch"
            raise ValueError(f"the source ({self.feed.kind}) gave no batch in epoch {epoch + 1}{advice}")
        if known is not None and n < known:
            raise ValueError(
                f"the source ({self.feed.kind}) must give {known} batches in an epoch, it ended after {n} in "
                f"epoch {epoch + 1}"
            )

    def _lists(self, batches: Iterator[tuple[int, Any]], start_step: int) -> Iterator[list[Part]]:
        """Batches as they come, each a step."""
        found: list[Part] = []
        size, begun = 0, time.monotonic()
        try:
            for n, item in batches:
                if n < start_step:
                    continue
                part = self._part(n, item)
                found.append(part)
                size += part.x.nbytes + part.y.nbytes
                if size >= _LIST_BYTES or time.monotonic() - begun > _LIST_SECONDS:
                    yield found
                    found, size, begun = [], 0, time.monotonic()
        except Exception:
            yield found  # the steps before it are done
            raise
        yield found

    def _part(self, n: int, item: Any) -> Part:
        """A batch as a step."""
        place = f"batch {n + 1}"
        x, y, weight = unpacked(item, f"{place} of the source")
        names = f"x of {place}", f"y of {place}", f"sample_weight of {place}"
        x, y = errors.array(names[0], x), errors.array(names[1], y)
        weight = None if weight is None else errors.array(names[2], weight)
        if x.ndim < 2 or len(x) == 0:
            raise ValueError(f"{names[0]} must be 2-D with at least one row, got shape {x.shape}")
        order = np.arange(len(x)).reshape(1, -1)
        return Part(x.reshape(len(x), -1), y, weight, order, n, _row_of(place), names)

    def _regrouped(
        self,
        batches: Iterator[tuple[int, Any]],
        wanted: Wanted,
        seed: int,
        epoch: int,
        batch_size: int,
        shuffle: bool,
        start_step: int,
    ) -> Iterator[Part]:
        """Rows of all batches, cut anew; the first ones tell what the buffers hold."""
        most = self.buffer_rows(wanted)
        room = most + batch_size
        seen: list[tuple[np.dtype[Any], tuple[int, ...], np.dtype[Any], bool]] = []
        begins: list[int] = []  # first row of each batch, for messages
        numbers: list[int] = []

        def chunks() -> Iterator[tuple[int, tuple[str, str, str], Batch]]:
            row = 0
            for n, item in batches:
                place = f"batch {n + 1}"
                names = f"x of {place}", f"y of {place}", f"sample_weight of {place}"
                batch = self._judged(unpacked(item, f"{place} of the source"), names, wanted, seen)
                if len(batch[0]):
                    begins.append(row)
                    numbers.append(n + 1)
                    yield row, names, batch
                    row += len(batch[0])
            if row == 0:
                raise ValueError(f"the source ({self.feed.kind}) gave no row in epoch {epoch + 1}")

        def where(row: int) -> str:
            at = int(np.searchsorted(np.array(begins), row, side="right")) - 1
            return f"row {row - begins[at]} of batch {numbers[at]}"

        def make() -> Buffer:
            x_dtype, y_shape, y_dtype, weighted = seen[0]
            return Buffer(room, wanted, x_dtype, (y_shape, y_dtype), weighted)

        yield from assembled(
            _windows(chunks(), most, seed, epoch, shuffle), make, batch_size, start_step, where
        )

    def _judged(
        self,
        batch: tuple[Any, Any, Any],
        names: tuple[str, str, str],
        wanted: Wanted,
        seen: list[tuple[np.dtype[Any], tuple[int, ...], np.dtype[Any], bool]],
    ) -> Batch:
        """A batch whose shapes are those of the first one."""
        x = errors.array(names[0], batch[0])
        x = errors.table(names[0], x.reshape(len(x), -1) if x.ndim > 2 else x, wanted.n_in)
        y = errors.array(names[1], batch[1])
        if y.ndim == 0 or len(y) != len(x):
            raise ValueError(f"{names[1]} must have {len(x)} rows as x has, got shape {y.shape}")
        weight = None
        if batch[2] is not None:
            weight = errors.array(names[2], batch[2])
            if weight.shape not in ((len(x),), (len(x), 1)):
                raise ValueError(f"{names[2]} must have shape ({len(x)},), got {weight.shape}")
        if not seen:
            seen.append((x.dtype, y.shape[1:], y.dtype, weight is not None))
        x_dtype, y_shape, y_dtype, weighted = seen[0]
        if y.shape[1:] != y_shape:
            raise ValueError(f"{names[1]} must have rows of shape {y_shape} as before, got shape {y.shape}")
        if target_dtype(y.dtype, wanted) != target_dtype(y_dtype, wanted):
            raise TypeError(f"{names[1]} must hold {y_dtype} as before, got {y.dtype}")
        if x_dtype == np.uint8 and x.dtype != np.uint8:
            raise TypeError(f"{names[0]} must hold uint8 as before, got {x.dtype}")
        if (weight is not None) != weighted:
            which = "have" if weighted else "not have"
            raise ValueError(f"{names[2]} must {which} weights as batches before")
        return x, y, weight


def _row_of(place: str) -> Callable[[int], str]:
    return lambda row: f"row {row} of {place}"


def _windows(
    chunks: Iterator[tuple[int, tuple[str, str, str], Batch]],
    most: int,
    seed: int,
    epoch: int,
    shuffle: bool,
) -> Iterator[tuple[int, int, Any, Callable[[Buffer, int], None]]]:
    """Groups of `most` rows as they come, each mixed in itself."""
    held: list[tuple[int, tuple[str, str, str], Batch]] = []
    first, n, number = 0, 0, 0

    def group() -> tuple[int, int, Any, Callable[[Buffer, int], None]]:
        rows = held.copy()

        def fill(buffer: Buffer, at: int) -> None:
            for row, names, (x, y, weight) in rows:
                buffer.fill(at, x, y, weight, row, names)
                at += len(x)

        place = kernels.shuffle(sub_seed(seed, epoch, number), epoch, n) if shuffle else np.arange(n)
        return first, n, place, fill

    for row, names, (x, y, weight) in chunks:
        begin = 0
        while begin < len(x):
            end = min(len(x), begin + most - n)
            part = slice(begin, end)
            taken = x[part], y[part], None if weight is None else weight[part]
            held.append((row + begin, names, taken))
            n, begin = n + end - begin, end
            if n == most:
                number += 1
                yield group()
                first, n, held = first + n, 0, []
    if n:
        number += 1
        yield group()
