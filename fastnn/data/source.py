"""Sources: data for `fit` that need not lie in memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import errors
from .columns import Kind
from .recipe import Recipe
from .source_batches import BatchReader, IterableFeed
from .source_files import Rows, open_rows
from .source_order import Drawn
from .source_parts import Part, Wanted
from .source_rows import RowReader
from .target import Task

__all__ = ["Source"]

Array = NDArray[Any]


class Source:
    """Data to train on, wherever it lies; made by one of its class methods, and given to `fit` in place of x.

    Two kinds. *Rows* of files (`npy`, `shards`, `csv`, `parquet`): the order is a function of seed and epoch,
    and any step can be gone to. Blocks of `block_rows` neighbours are put in random order, and the rows of as
    many blocks as `buffer_rows` holds are mixed with each other; where all rows fit into the buffer it is the
    order of an array, with the same bits. Rows that were neighbours in the file meet more often than chance
    would have them: what is sorted by its target should be mixed once when it is written.
    *Batches* that somebody else makes (`batches`, `torch`, `keras`, `arrow`) come in their own order.

    While the program trains, one thread reads what comes next. Its errors are raised in `fit`.

    Attributes
    ----------
    n_rows : int or None
        None where only running through it would tell.
    recipe : Recipe or None
        That made the rows of a table; `model.recipe = source.recipe` lets a model take tables.

    Examples
    --------
    >>> import fastnn as fn, numpy as np
    >>> x = np.linspace(-1, 1, 64, dtype=np.float32).reshape(-1, 1)
    >>> source = Source.npy(x, 3 * x)  # paths of .npy files as well
    >>> trainer = fn.Trainer(fn.Sequential(fn.Dense(1)), loss="mse", optimizer=fn.SGD(lr=0.1), seed=0)
    >>> trainer.fit(source, epochs=100)["loss"][-1] < 1e-6
    True
    """

    # `fit` knows a source by this name: it must not load the module to ask.
    is_fastnn_source = True

    def __init__(
        self, reader: RowReader | BatchReader, prefetch: bool, recipe: Recipe | None = None, notes: str = ""
    ) -> None:
        self._reader = reader
        self._prefetch = errors.flag("prefetch", prefetch)
        self.recipe = recipe
        self._notes = notes

    # ------------------------------------------------------------ rows

    @classmethod
    def npy(
        cls,
        x: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        block_rows: int | None = None,
        buffer_rows: int | None = None,
        prefetch: bool = True,
    ) -> Source:
        """Rows of .npy files, which are read in pieces, not loaded; of memory maps and arrays as well.

        Parameters
        ----------
        x, y, sample_weight : path or array, or list of them
            As for `fit`; of lists, a shard each. An x of the model's dtype (or uint8) is read without a
            conversion.
        block_rows : int, optional
            Neighbours in the file that stay together; None: as many as 256 KiB hold.
        buffer_rows : int, optional
            Rows that are mixed with each other; None: as many as 64 MiB hold.
        prefetch : bool
            Whether a thread reads ahead.

        Raises
        ------
        OSError, ValueError, TypeError
            A file cannot be read, or does not fit the others; it is named.
        """
        found = [_all_rows(name, value) for name, value in (("x", x), ("y", y))]
        weights = None if sample_weight is None else _all_rows("sample_weight", sample_weight)
        return cls(RowReader(found[0], found[1], weights, block_rows, buffer_rows), prefetch)

    @classmethod
    def shards(
        cls,
        folder: str | os.PathLike[str],
        *,
        block_rows: int | None = None,
        buffer_rows: int | None = None,
        prefetch: bool = True,
    ) -> Source:
        """Rows of all shards in a folder, in the order of their names.

        Parameters
        ----------
        folder : path
            With .npz files that hold "x", "y" and perhaps "sample_weight"; or pairs ``x<name>.npy`` and
            ``y<name>.npy``, perhaps with ``sample_weight<name>.npy``; or what `csv` and `parquet` wrote.
            A compressed .npz is read as a whole, and is one block.
        block_rows, buffer_rows, prefetch
            As for `npy`.
        """
        from .source_folder import open_folder

        x, y, weight, recipe, notes = open_folder(errors.file_path("folder", folder))
        return cls(RowReader(x, y, weight, block_rows, buffer_rows), prefetch, recipe, notes)

    @classmethod
    def csv(
        cls,
        paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        target: str,
        *,
        cache: str | os.PathLike[str] | None = None,
        recipe: Recipe | None = None,
        task: Task | None = None,
        kinds: Mapping[str, Kind] | None = None,
        drop: Iterable[str] = (),
        sample_weight: str | None = None,
        scale_target: bool = False,
        dtype: Any = np.float32,
        progress: bool | None = None,
        block_rows: int | None = None,
        buffer_rows: int | None = None,
        prefetch: bool = True,
    ) -> Source:
        """Rows of CSV files with a header, converted once to .npy files in a cache folder.

        The files are read once, by pyarrow, in pieces: their columns go to a temporary file, from which the
        recipe is fitted, one column at a time, and the rows are then written. What is there already, of the
        same files and arguments, is used as it is. It takes 8 bytes for each value on the disk meanwhile, and
        about 24 bytes a row in memory, and the distinct texts of a column.

        Parameters
        ----------
        paths : path or list of paths
            Of one table; all must have the same columns.
        target : str
            Column to predict; rows that lack it are left out.
        cache : path, optional
            Folder to be written; None: ``<first path>.fastnn`` beside it.
        recipe : Recipe, optional
            Of other data, to be used as it is (for validation files: the recipe of the training's source);
            None: fitted to these.
        task, kinds, drop
            As for `Recipe.fit`. The kind of a column is decided on the first rows; a later value of another
            kind is an error that names it, where `Recipe.fit` would take the column as texts.
        sample_weight : str, optional
            Column of weights.
        scale_target : bool
            Whether numbers to predict are written as (y - mean) / scale; after the training
            ``model.scale_outputs(target.scale, target.mean)`` gives them back in their own unit.
        dtype : "float32" or "float64"
            Of x: the model's.
        progress : bool, optional
            Whether the conversion is shown on stderr; None: where that is a terminal.
        block_rows, buffer_rows, prefetch
            As for `npy`.

        Raises
        ------
        ValueError, TypeError
            A line has too few or too many fields, a value does not fit its column, or files have other
            columns: the text names file, row, column and value.
        OSError
            The disk is full, for example; nothing is left of an unfinished cache.
        """
        from . import source_tables

        folder = source_tables.convert(
            "csv", paths, target, cache, recipe, task, kinds, drop, sample_weight, scale_target, dtype,
            progress,
        )  # fmt: skip
        return cls.shards(folder, block_rows=block_rows, buffer_rows=buffer_rows, prefetch=prefetch)

    @classmethod
    def parquet(
        cls,
        paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        target: str,
        *,
        cache: str | os.PathLike[str] | None = None,
        recipe: Recipe | None = None,
        task: Task | None = None,
        kinds: Mapping[str, Kind] | None = None,
        drop: Iterable[str] = (),
        sample_weight: str | None = None,
        scale_target: bool = False,
        dtype: Any = np.float32,
        progress: bool | None = None,
        block_rows: int | None = None,
        buffer_rows: int | None = None,
        prefetch: bool = True,
    ) -> Source:
        """Rows of Parquet files, converted once; all is as for `csv`."""
        from . import source_tables

        folder = source_tables.convert(
            "parquet", paths, target, cache, recipe, task, kinds, drop, sample_weight, scale_target, dtype,
            progress,
        )  # fmt: skip
        return cls.shards(folder, block_rows=block_rows, buffer_rows=buffer_rows, prefetch=prefetch)

    # ------------------------------------------------------------ batches

    @classmethod
    def batches(
        cls,
        batches: Any,
        *,
        steps: int | None = None,
        seeded: bool = False,
        regroup: bool = False,
        buffer_rows: int | None = None,
        prefetch: bool = True,
    ) -> Source:
        """Batches of an iterable, or of a function that makes one for each epoch.

        Parameters
        ----------
        batches : iterable or function
            Items are (x, y), (x, y, sample_weight) or a dict with these names. A list is run through in each
            epoch; a generator only once, so give the function that makes it.
        steps : int, optional
            Batches of an epoch. An iterator then goes on in the next epoch where it stopped, and is not
            resumed from a checkpoint, as nobody knows where it was.
        seeded : bool
            Whether the function is called with seed and epoch, of which its order may then be a function.
        regroup : bool
            False: each batch is a step, whatever the `batch_size` of fit. True: their rows are cut anew into
            batches of that size; with shuffle after those in a buffer are mixed.
        buffer_rows : int, optional
            With regroup; None: as many rows as 64 MiB hold.
        prefetch : bool
            Whether they are made in a thread, while the program trains.
        """
        feed = IterableFeed(batches, steps, errors.flag("seeded", seeded))
        return cls(BatchReader(feed, errors.flag("regroup", regroup), buffer_rows), prefetch)

    @classmethod
    def torch(cls, loader: Any, *, prefetch: bool = True) -> Source:
        """Batches of a PyTorch DataLoader, each a step.

        Its samplers and workers draw from a generator seeded by seed and epoch, so that each epoch can be
        repeated; a sampler with `set_epoch` is told the epoch. Random numbers that a dataset draws elsewhere
        are its own affair. A loader that draws is run through by one at a time.
        """
        from .source_frameworks import TorchFeed

        return cls(BatchReader(TorchFeed(loader), False, None), prefetch)

    @classmethod
    def keras(cls, dataset: Any, *, prefetch: bool = True) -> Source:
        """Batches of a Keras PyDataset, or of any object with `__getitem__` and `__len__`, each a step.

        With shuffle the numbers of the batches are permuted, as Keras does. `on_epoch_end` is called between
        epochs, also to catch up where a training was resumed.
        """
        from .source_frameworks import KerasFeed

        return cls(BatchReader(KerasFeed(dataset), False, None), prefetch)

    @classmethod
    def arrow(
        cls,
        stream: Any,
        target: str | Sequence[str] | None = None,
        *,
        features: Sequence[str] | None = None,
        sample_weight: str | None = None,
        recipe: Recipe | None = None,
        scale_target: bool = False,
        dtype: Any = np.float32,
        buffer_rows: int | None = None,
        prefetch: bool = True,
    ) -> Source:
        """Rows of an Arrow stream, never converted to files; mixed in a buffer as they come.

        Parameters
        ----------
        stream : object or function
            With ``__arrow_c_stream__`` (a pyarrow Table or Dataset scanner's reader, a polars DataFrame, a
            relation of DuckDB), or a function that makes one for each epoch: a RecordBatchReader can be run
            through only once.
        target : str or list of str
            Columns of y; with a recipe its own, or None.
        features : list of str, optional
            Columns of x, all numbers; None: all others.
        sample_weight : str, optional
            Column of weights.
        recipe : Recipe, optional
            Makes x and y of columns of any kind.
        scale_target : bool
            As for `csv`, with a recipe.
        dtype : "float32" or "float64"
            Of x.
        buffer_rows, prefetch
            As for `batches`.
        """
        from .source_frameworks import ArrowFeed

        feed = ArrowFeed(stream, target, features, sample_weight, recipe, scale_target, dtype)
        return cls(BatchReader(feed, True, buffer_rows), prefetch, recipe)

    # ------------------------------------------------------------ what it is

    @property
    def n_rows(self) -> int | None:
        return self._reader.n_rows

    @property
    def n_in(self) -> int:
        """Columns of x; of batches, of the first one, which is asked for."""
        return int(np.prod(self._reader.row_shape, dtype=np.int64))

    def n_steps(self, batch_size: int) -> int | None:
        """Steps of an epoch; None where only running through it would tell."""
        return self._reader.steps(errors.integer("batch_size", batch_size))

    def order(self, seed: int, epoch: int, shuffle: bool = True) -> Array:
        """Row numbers of an epoch (counted from 0) in the order of training, (n_rows,); of files only."""
        if not isinstance(self._reader, RowReader):
            raise ValueError("order needs a source of rows: batches come in the order of who makes them")
        return self._reader.order(errors.seed("seed", seed), errors.integer("epoch", epoch, 0), shuffle)

    def memory_bytes(self, batch_size: int, dtype: Any = "float32") -> int:
        """What training from it takes in memory at most, beside the model: bytes.

        With b = the rows of a buffer, and r = the bytes of a row of x, y and weight as programs take
        them: of files 2 (b + batch_size) (r + 8) + 72 b, a block where it is converted, and 40 bytes a
        block. Of arrays in memory 72 b. Of regrouped batches 3 (b + batch_size) (r + 8) + 24 b and two
        batches; of batches as they come three times 4 MiB or a batch, whichever is more, and a batch.
        Metrics keep the outputs and targets of all rows beside that.
        """
        wanted = Wanted(self.n_in, errors.real_dtype("dtype", dtype), self._has_labels())
        return self._reader.memory_bytes(errors.integer("batch_size", batch_size), wanted)

    def _has_labels(self) -> bool:
        reader = self._reader
        return not isinstance(reader, RowReader) or (
            reader.y[0].dtype.kind in "biu" and reader.y_shape in ((), (1,))
        )

    @property
    def fingerprint(self) -> str:
        """16 digits that tell this data from other; of batches, all that is known are their shapes."""
        return hashlib.sha256(self._reader.mark().encode()).hexdigest()[:16]

    @property
    def is_once(self) -> bool:
        """Whether it can be run through only once."""
        return isinstance(self._reader, BatchReader) and self._reader.feed.is_once

    @property
    def has_own_batches(self) -> bool:
        """Whether each of its batches is a step, whatever fit's batch_size."""
        return isinstance(self._reader, BatchReader) and not self._reader.regroup

    @property
    def in_pieces(self) -> bool:
        """Whether some rows can be read without others."""
        return isinstance(self._reader, RowReader) and self._reader.in_pieces

    def targets(self, n: int) -> Generator[tuple[int, Array, Array | None, Callable[[int], str]], None, None]:
        """Targets and weights of n rows at a time as they lie, without x; of files only.

        Yields
        ------
        first_row, y, weight, where
            where gives words for a row of the piece.
        """
        assert isinstance(self._reader, RowReader)
        return self._reader.targets(n)

    def parts(
        self,
        wanted: Wanted,
        seed: int,
        epoch: int,
        batch_size: int,
        shuffle: bool = True,
        start_step: int = 0,
        drawn: Drawn | None = None,
    ) -> Generator[list[Part], None, None]:
        """The rows of an epoch from a step on, some steps at a time; for trainers.

        A pure function of its arguments, where whoever makes the batches is one. drawn: what a sampler takes
        of files in this epoch.
        """
        if drawn is None:
            return self._reader.parts(wanted, seed, epoch, batch_size, shuffle, start_step)
        assert isinstance(self._reader, RowReader)
        return self._reader.parts(wanted, seed, epoch, batch_size, shuffle, start_step, drawn)

    def __repr__(self) -> str:
        rows = "rows unknown" if self.n_rows is None else f"{self.n_rows} rows"
        reader = self._reader
        what = reader.x[0].name if isinstance(reader, RowReader) else reader.feed.kind
        more = f" and {len(reader.x) - 1} more" if isinstance(reader, RowReader) and len(reader.x) > 1 else ""
        return f"Source({what}{more}, {rows}{', ' + self._notes if self._notes else ''})"


def _all_rows(argument: str, value: Any) -> list[Rows]:
    """The shards of an argument: one, or a list of paths or arrays."""
    if (
        isinstance(value, (list, tuple))
        and value
        and all(
            isinstance(one, (str, os.PathLike, np.ndarray)) and getattr(one, "ndim", 1) > 0 for one in value
        )
    ):
        return [open_rows(f"{argument}[{i}]", one) for i, one in enumerate(value)]
    return [open_rows(argument, value)]
