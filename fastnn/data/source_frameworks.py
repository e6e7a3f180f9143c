"""Feeds of batches that other libraries make: PyTorch's DataLoader, Keras's PyDataset, Arrow's streams."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import errors, kernels
from .recipe import Recipe
from .source_batches import Feed, IterableFeed
from .source_order import sub_seed

__all__ = ["ArrowFeed", "KerasFeed", "TorchFeed", "arrow"]

Array = NDArray[Any]


def arrow(what: str) -> Any:
    """The module pyarrow."""
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError(f"{what} needs pyarrow: pip install 'fastnn-core[arrow]'") from error
    return pyarrow


# Loaders that draw and are being run through, by whatever source or thread.
_taken: set[int] = set()
_taking = threading.Lock()


class TorchFeed(Feed):
    """Batches of a DataLoader; its sampler and workers are seeded by seed and epoch."""

    kind = "DataLoader"

    def __init__(self, loader: Any) -> None:
        if not hasattr(loader, "dataset") or not isinstance(loader, Iterable):
            raise TypeError(f"loader must be a torch.utils.data.DataLoader, got {type(loader).__name__}")
        self._loader: Any = loader

    def steps(self) -> int | None:
        try:
            return len(self._loader)
        except TypeError:  # of a dataset without a length
            return None

    def start(self, seed: int, epoch: int, shuffle: bool, skip: int) -> tuple[Iterator[Any], int]:
        return self._seeded(seed, epoch), 0

    def _seeded(self, seed: int, epoch: int) -> Iterator[Any]:
        """The loader draws from a generator of its own meanwhile, and nothing from PyTorch's common one.

        Raises
        ------
        RuntimeError
            Somebody else runs through a loader that draws: both would draw from the generator of one.
        """
        loader = self._loader
        generator = sys.modules["torch"].Generator()
        generator.manual_seed(sub_seed(seed, epoch, 0) >> 1)
        samplers: list[Any] = [getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)]
        samplers.append(getattr(samplers[1], "sampler", None))
        drawing = {id(one): one for one in [loader, *samplers] if hasattr(one, "generator")}.values()
        changed = [(one, one.generator) for one in drawing]
        draws = len(changed) > 1 or getattr(loader, "num_workers", 0) > 0
        with _taking:
            if draws and id(loader) in _taken:
                raise RuntimeError(
                    "the DataLoader is being run through already, and draws its order from one generator: "
                    "give each training, and validation inside epochs, a loader of its own"
                )
            if draws:
                _taken.add(id(loader))
        try:
            for one in samplers:
                if hasattr(one, "set_epoch"):
                    one.set_epoch(epoch)
            for one, _ in changed:
                one.generator = generator
            yield from loader
        finally:
            for one, before in changed:
                one.generator = before
            if draws:
                _taken.discard(id(loader))


class KerasFeed(Feed):
    """Batches of a PyDataset, or of anything with a length whose items are batches.

    With shuffle the numbers of its batches are permuted, as Keras does. `on_epoch_end` is called as often as
    epochs have ended, also in a process that goes on with an interrupted training.
    """

    kind = "PyDataset"

    def __init__(self, dataset: Any) -> None:
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise TypeError(
                f"dataset must have __getitem__ and __len__ as a PyDataset, got {type(dataset).__name__}"
            )
        self._dataset = dataset
        self._ended = 0

    def steps(self) -> int | None:
        return len(self._dataset)

    def start(self, seed: int, epoch: int, shuffle: bool, skip: int) -> tuple[Iterator[Any], int]:
        dataset = self._dataset
        end = getattr(dataset, "on_epoch_end", None)
        while self._ended < epoch:
            self._ended += 1
            if end is not None:
                end()
        n = len(dataset)
        order = kernels.shuffle(seed, epoch, n) if shuffle else np.arange(n)
        return (dataset[i] for i in order[skip:].tolist()), min(skip, n)

    def peek(self) -> Any:
        return self._dataset[0] if len(self._dataset) else None


class ArrowFeed(IterableFeed):
    """Record batches of an Arrow stream as x, y and weights.

    Parameters
    ----------
    stream : object or function
        With ``__arrow_c_stream__``, or a RecordBatchReader; or a function that makes one for each epoch.
    target : str or sequence of str, or None
        Columns of y; None with a recipe, which names it.
    features : sequence of str, optional
        Columns of x; None: all others.
    weight : str, optional
        Column of sample weights.
    recipe : Recipe, optional
        Makes x and y of the columns.
    scale_target : bool
        Whether numbers to predict become (y - mean) / scale of the recipe's target.
    dtype : numpy.dtype
        Of x.
    """

    def __init__(
        self,
        stream: Any,
        target: str | Sequence[str] | None,
        features: Sequence[str] | None,
        weight: str | None,
        recipe: Recipe | None,
        scale_target: bool,
        dtype: Any,
    ) -> None:
        self._arrow = arrow("Source.arrow")
        self._recipe, self._dtype = recipe, errors.real_dtype("dtype", dtype)
        self._weight, self._scaled = weight, errors.flag("scale_target", scale_target)
        if scale_target and recipe is None:
            raise ValueError("scale_target needs a recipe, which knows mean and scale, got None")
        self._features = None if features is None else list(features)
        if recipe is None:
            if target is None:
                raise TypeError("target must name the columns of y, got None (a recipe names them itself)")
            self._targets = [target] if isinstance(target, str) else list(target)
            self._one = isinstance(target, str)
        else:
            if recipe.target is None:
                raise ValueError("recipe must have a target, got one that was made without")
            if features is not None:
                raise ValueError("features must be None with a recipe, which names the columns")
            if target not in (None, recipe.target.name):
                raise ValueError(f"target must be the recipe's, {recipe.target.name!r}, got {target!r}")
            self._targets, self._one = [recipe.target.name], True
        if hasattr(stream, "__arrow_c_stream__") or hasattr(stream, "read_next_batch"):
            once = not hasattr(stream, "__len__") and hasattr(stream, "read_next_batch")
            given: Any = self._batches(stream) if once else lambda: self._batches(stream)
        elif callable(stream):
            given = lambda: self._batches(stream())  # noqa: E731
        else:
            raise TypeError(
                "stream must have __arrow_c_stream__ or be a function that makes a stream, got "
                f"{type(stream).__name__}"
            )
        super().__init__(given, None, False, "Arrow stream")

    def _batches(self, stream: Any) -> Iterator[Any]:
        if not hasattr(stream, "read_next_batch"):
            if not hasattr(stream, "__arrow_c_stream__"):
                raise TypeError(
                    f"the function of the source must give an Arrow stream, got {type(stream).__name__}"
                )
            stream = self._arrow.RecordBatchReader.from_stream(stream)
        for number, batch in enumerate(stream):
            if batch.num_rows:
                yield self._arrays(batch, number + 1)

    def _arrays(self, batch: Any, number: int) -> tuple[Any, ...]:
        """x, y and weights of a record batch."""
        names = batch.schema.names
        weight = [] if self._weight is None else [self._weight]
        if self._recipe is not None:
            table = self._arrow.Table.from_batches([batch])
            try:
                x, y = self._recipe.matrix(table, self._dtype), self._target_of(table)
            except (ValueError, TypeError) as error:
                raise type(error)(f"{error} (batch {number} of the Arrow stream)") from None
        else:
            taken = {*self._targets, *weight}
            features = self._features or [name for name in names if name not in taken]
            lacking = [name for name in [*features, *taken] if name not in names]
            if lacking:
                raise ValueError(
                    f"batch {number} of the Arrow stream must have the columns {lacking}, it has {names}"
                )
            if not features:
                raise ValueError("the Arrow stream must have a column beside target and weight, got none")
            x = np.empty((batch.num_rows, len(features)), self._dtype)
            for j, name in enumerate(features):
                x[:, j] = errors.cast(f"column {name!r}", self._column(batch, name, number), self._dtype)
            y = np.stack([self._column(batch, name, number) for name in self._targets], axis=1)
            y = y[:, 0] if self._one else y
        return (x, y, *(self._column(batch, name, number) for name in weight))

    def _target_of(self, table: Any) -> Array:
        assert self._recipe is not None
        assert self._recipe.target is not None
        from .tables import read_table

        y = self._recipe.target.read(read_table(table.select(self._targets)))
        target = self._recipe.target
        return (y - target.mean) / target.scale if self._scaled and not target.classes else y

    def _column(self, batch: Any, name: str, number: int) -> Array:
        """A column of numbers without gaps."""
        column = batch.column(batch.schema.names.index(name))
        types = self._arrow.types
        place = f"column {name!r} of batch {number} of the Arrow stream"
        kind = column.type
        if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
            raise TypeError(f"{place} must hold numbers, got {kind}; a recipe makes numbers of other columns")
        if column.null_count:
            row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            raise ValueError(f"{place} must have no nulls, got one in row {row}")
        found: Array = column.to_numpy(zero_copy_only=False)
        return found
