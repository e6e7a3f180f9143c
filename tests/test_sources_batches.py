"""Sources of batches that somebody else makes: each a step, or cut anew; their thread; their errors."""

from __future__ import annotations

import _thread
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn as fn
from fastnn.data import Recipe, Source
from fastnn.data.source_ahead import Ahead
from fastnn.data.source_parts import Wanted

N, N_IN = 203, 5
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, N_IN)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)
WANTED = Wanted(N_IN, np.dtype(np.float32), True)


def make(**more: Any) -> fn.Trainer:
    model = fn.Sequential(fn.Dense(6, "tanh"), fn.Dense(2))
    return fn.Trainer(model, "cross_entropy", fn.Adam(1e-2), seed=3, **more)


def batches(size: int = 32) -> Iterator[Any]:
    for first in range(0, N, size):
        yield X[first : first + size], Y[first : first + size]


def trained(x: Any, y: Any = None, **more: Any) -> Any:
    trainer = make()
    trainer.fit(x, y, **{"epochs": 2, **more})
    return trainer.model.parameters


def no_thread_is_left() -> bool:
    return all(one.name != "fastnn-source" for one in threading.enumerate())


class Dataset:
    """As Keras's PyDataset is used."""

    def __init__(self, size: int = 32) -> None:
        self.size, self.ended = size, 0

    def __len__(self) -> int:
        return -(-N // self.size)

    def __getitem__(self, i: int) -> Any:
        some = slice(i * self.size, (i + 1) * self.size)
        return {"x": X[some], "y": Y[some]}

    def on_epoch_end(self) -> None:
        self.ended += 1


def test_batches_are_steps_in_their_order() -> None:
    want = trained(X, Y, batch_size=32, shuffle=False)
    ones = [(x, y, np.ones(len(x))) for x, y in batches()]
    for given in (list(batches()), batches, ones, lambda: iter(ones)):
        for prefetch in (True, False):
            np.testing.assert_array_equal(trained(Source.batches(given, prefetch=prefetch)), want)
    np.testing.assert_array_equal(trained(Source.keras(Dataset()), shuffle=False), want)
    assert no_thread_is_left()


def test_rows_of_batches_are_cut_anew_and_mixed_in_a_buffer() -> None:
    for size in (1, 7, 32, 500):
        source = Source.batches(lambda size=size: batches(size), regroup=True, buffer_rows=50)
        np.testing.assert_array_equal(
            trained(source, batch_size=16, shuffle=False), trained(X, Y, batch_size=16, shuffle=False)
        )
        taken = [
            rows for parts in source.parts(WANTED, 1, 0, 16, True) for p in parts for rows in p.x[p.order]
        ]
        found = np.concatenate(taken)
        where = [int(np.flatnonzero((row == X).all(axis=1))[0]) for row in found]
        assert sorted(where) == list(range(N))
        for first in range(0, N, 50):  # rows of a buffer stay together, mixed
            assert sorted(where[first : first + 50]) == list(range(first, min(N, first + 50)))
            assert where[first : first + 50] != sorted(where[first : first + 50]) or first == 200


def test_an_epoch_can_be_begun_at_any_step() -> None:
    sources = [
        Source.batches(batches),
        Source.batches(lambda: batches(13), regroup=True, buffer_rows=50),
        Source.keras(Dataset()),
    ]
    for source in sources:
        size = 32

        def steps(start: int, source: Source = source, size: int = size) -> list[Any]:
            found = []
            for parts in source.parts(WANTED, 1, 1, size, True, start):
                for p in parts:
                    found += [(p.first_step + i, p.x[rows].copy()) for i, rows in enumerate(p.order)]
            return found

        whole = steps(0)
        assert [n for n, _ in whole] == list(range(7))
        for start in (1, 3, 6):
            rest = steps(start)
            assert [n for n, _ in rest] == list(range(start, 7))
            for (_, a), (_, b) in zip(rest, whole[start:], strict=True):
                np.testing.assert_array_equal(a, b)


def test_a_function_may_be_told_seed_and_epoch() -> None:
    told = []

    def make_batches(seed: int, epoch: int) -> Any:
        told.append((seed, epoch))
        return batches()

    trainer = make()
    trainer.model.build(N_IN, seed=3)
    trainer.fit(Source.batches(make_batches, seeded=True), epochs=3)
    assert told == [(3, 0), (3, 1), (3, 2)]


def test_steps_make_epochs_of_an_endless_iterator() -> None:
    def endless() -> Iterator[Any]:
        while True:
            yield from batches()

    trainer = make()
    trainer.fit(Source.batches(endless(), steps=7), epochs=3)
    np.testing.assert_array_equal(trainer.model.parameters, trained(X, Y, epochs=3, shuffle=False))
    assert trainer.step == 21


def test_a_keras_dataset_is_shuffled_by_batch_and_told_the_ends_of_epochs() -> None:
    dataset = Dataset()
    source = Source.keras(dataset)
    trainer = make()
    trainer.fit(source, epochs=2)
    assert dataset.ended == 1
    order = fn.kernels.shuffle(3, 2, 7)
    first = [p.x for parts in source.parts(WANTED, 3, 2, 32, True) for p in parts]
    assert dataset.ended == 2
    for x, i in zip(first, order, strict=True):
        np.testing.assert_array_equal(x, dataset[i]["x"])


@pytest.mark.torch
@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_is_repeatable_and_leaves_its_random_numbers_alone(workers: int) -> None:
    torch = pytest.importorskip("torch")
    tensors = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    loader = torch.utils.data.DataLoader(tensors, batch_size=32, shuffle=True, num_workers=workers)
    source = Source.torch(loader)
    before = torch.random.get_rng_state()
    first = trained(source)
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(trained(source), first)
    assert loader.generator is None
    assert source.n_steps(32) == 7
    in_order = torch.utils.data.DataLoader(tensors, batch_size=32)
    want = trained(X, Y, batch_size=32, shuffle=False)
    np.testing.assert_array_equal(trained(Source.torch(in_order)), want)


@pytest.mark.torch
def test_a_data_loader_that_draws_is_run_through_by_one_at_a_time() -> None:
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    for shuffle in (True, False):
        loader = torch.utils.data.DataLoader(data, batch_size=32, shuffle=shuffle)
        want = trained(Source.torch(loader))
        running, _ = Source.torch(loader)._reader.feed.start(0, 0, True, 0)  # type: ignore[union-attr]
        next(running)
        if shuffle:
            with pytest.raises(RuntimeError, match="DataLoader is being run through already"):
                trained(Source.torch(loader))
        else:
            np.testing.assert_array_equal(trained(Source.torch(loader)), want)
        running.close()
        np.testing.assert_array_equal(trained(Source.torch(loader)), want)


def test_arrow_streams_give_rows_and_mix_them() -> None:
    pa = pytest.importorskip("pyarrow")
    table = pa.table({**{f"c{i}": X[:, i] for i in range(N_IN)}, "y": Y, "w": np.ones(N)})
    want = trained(X, Y, shuffle=False)
    more = {"target": "y", "sample_weight": "w"}
    for stream in (table, lambda: pa.RecordBatchReader.from_batches(table.schema, table.to_batches(17))):
        np.testing.assert_array_equal(trained(Source.arrow(stream, **more), shuffle=False), want)
    array = make()
    array.fit(X, Y)
    once = make()
    reader = pa.RecordBatchReader.from_batches(table.schema, table.to_batches(17))
    once.model.build(N_IN, seed=3)
    once.fit(Source.arrow(reader, **more), shuffle=False)
    in_order = make()
    in_order.fit(X, Y, shuffle=False)
    np.testing.assert_array_equal(once.model.parameters, in_order.model.parameters)


def test_arrow_streams_go_through_a_recipe() -> None:
    pa = pytest.importorskip("pyarrow")
    table = pa.table(
        {"size": X[:, 0], "kind": ["red" if v > 0 else "blue" for v in X[:, 1]], "y": X[:, 2] * 9}
    )
    recipe = Recipe.fit(table, "y")
    x, y = recipe.arrays(table)
    scaled = (y - recipe.target.mean) / recipe.target.scale

    def fitted(*data: Any, **more: Any) -> Any:
        trainer = fn.Trainer(fn.Sequential(fn.Dense(1)), "mse", "sgd", seed=0)
        trainer.fit(*data, shuffle=False, **more)
        return trainer.model.parameters

    streams = [Source.arrow(table, recipe=recipe), Source.arrow(table, "y", recipe=recipe, scale_target=True)]
    for source, target in zip(streams, (y, scaled), strict=True):
        np.testing.assert_array_equal(fitted(source), fitted(x, target))
        assert source.recipe is recipe
    with pytest.raises(ValueError, match="target must be the recipe's, 'y', got 'size'"):
        Source.arrow(table, "size", recipe=recipe)
    with pytest.raises(ValueError, match="features must be None with a recipe"):
        Source.arrow(table, features=["size"], recipe=recipe)


# ---------------------------------------------------------------- what goes wrong


def test_an_iterator_that_is_used_up_says_what_to_pass() -> None:
    with pytest.raises(
        ValueError, match="iterator, which can be run through once, got epochs=2; pass a function"
    ):
        make().fit(Source.batches(batches()), epochs=2)
    trainer = make()
    source = Source.batches(batches())
    trainer.fit(source)
    with pytest.raises(
        ValueError, match="gave no batch in epoch 2: an iterator can be run through once; pass"
    ):
        trainer.fit(source)
    trainer, shared = make(), batches()
    trainer.model.build(N_IN)
    with pytest.raises(
        ValueError, match="gave no batch in epoch 2: an iterator can be run through once; pass"
    ):
        trainer.fit(Source.batches(lambda: shared), epochs=2)


def test_an_epoch_that_ends_too_early_is_an_error() -> None:
    trainer = make()
    with pytest.raises(ValueError, match=r"must give 9 batches in an epoch, it ended after 7 in epoch 1"):
        trainer.fit(Source.batches(batches, steps=9))
    assert (trainer.step, trainer.epoch) == (7, 0)


@pytest.mark.parametrize("regroup", [False, True])
def test_batches_that_do_not_fit_are_named_by_their_number(regroup: bool) -> None:
    good = list(batches())
    nan = X[:32].copy()
    nan[7, 2] = np.inf
    for item, error, text in (
        ((X[:8, :3], Y[:8]), ValueError, "x of batch 3 must have 5 columns, got shape"),
        ((X[:8], Y[:7]), ValueError, "y of batch 3 must have "),
        (
            (X[:8], Y[:8] + 1),
            ValueError,
            r"y of batch 3 must hold labels from 0 to 1, got 2 in row \d of batch 3",
        ),
        ((X[:8], Y[:8] / 2), TypeError, "y of batch 3 must hold "),
        ((X[:8],), TypeError, "batch 3 of the source must be .x, y. or .x, y, sample_weight., got 1 of them"),
        (X[:8], TypeError, "batch 3 of the source must be .x, y. or .*, got ndarray"),
        ((nan, Y[:32]), fn.DivergenceError, "it is inf in column 2 of row 7 of batch 3"),
    ):
        if regroup and "labels" in text:
            text = "got 2 in row . of batch 3"
        trainer = make()
        source = Source.batches([*good[:2], item, *good[3:]], regroup=regroup)
        with pytest.raises(error, match=text):
            trainer.fit(source, shuffle=False)
        assert no_thread_is_left()
        assert trainer.epoch == 0
        assert np.isfinite(trainer.model.parameters).all()
        trainer.fit(X, Y)


def test_what_a_generator_raises_comes_with_its_traceback_and_batch() -> None:
    def breaking() -> Iterator[Any]:
        yield from list(batches())[:2]
        raise OSError("the tape broke")

    trainer = make()
    trainer.model.build(N_IN, seed=3)
    with pytest.raises(OSError, match="the tape broke") as found:
        trainer.fit(Source.batches(breaking))
    assert "breaking" in [frame.name for frame in traceback.extract_tb(found.value.__traceback__)]
    assert found.value.__notes__ == ["this was in batch 3 of epoch 1 of the source"]
    assert trainer.step == 2
    assert no_thread_is_left()
    np.testing.assert_array_equal(trainer.model.parameters, trained(X[:64], Y[:64], epochs=1, shuffle=False))


def test_an_error_of_a_step_ends_the_generator_and_its_thread() -> None:
    closed = threading.Event()

    def endless() -> Iterator[Any]:
        try:
            while True:
                yield X[:32], Y[:32]
        finally:
            closed.set()

    class Stop(fn.Callback):
        def on_epoch_end(self, trainer: Any, epoch: int, logs: Any) -> None:
            raise KeyboardInterrupt

    trainer = make()
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(Source.batches(endless, steps=5), epochs=2, callbacks=[Stop()])
    assert closed.is_set()
    assert no_thread_is_left()
    closed.clear()
    bad = make()
    bad.model.build(N_IN)
    bad.model.parameters[:] = np.nan
    with pytest.raises(fn.DivergenceError):
        bad.fit(Source.batches(endless))
    assert closed.is_set()
    assert no_thread_is_left()


def test_a_first_batch_that_is_none_is_of_the_wrong_type() -> None:
    for given in ([None], lambda: iter([None])):
        with pytest.raises(TypeError, match=r"batch 1 of the source must be \(x, y\) or .*, got NoneType"):
            trained(Source.batches(given))


def test_arguments_are_judged() -> None:
    for wrong, text in (
        (lambda: Source.batches(5), "batches must be an iterable of batches or a function"),
        (lambda: Source.batches("x.npy"), "batches must be an iterable of batches or a function"),
        (lambda: Source.batches([1], seeded=True), "seeded needs a function"),
        (lambda: Source.torch([1]), "loader must be a torch.utils.data.DataLoader"),
        (lambda: Source.keras(iter([1])), "dataset must have __getitem__ and __len__"),
        (
            lambda: make().fit(Source.batches(lambda: 5)),
            "function of the source must give an iterable, got int",
        ),
    ):
        with pytest.raises(TypeError, match=text):
            wrong()
    with pytest.raises(
        ValueError, match="batch_size must be left out with a source that has its own batches"
    ):
        make().fit(Source.batches(batches), batch_size=64)
    with pytest.raises(ValueError, match="at least one batch, got none"):
        make().fit(Source.batches([]))
    with pytest.raises(ValueError, match="buffer_rows must be None without regroup=True"):
        Source.batches(batches, buffer_rows=5)
    with pytest.raises(ValueError, match="order needs a source of rows"):
        Source.batches(batches).order(0, 0)


def test_what_a_source_cannot_be_used_for_is_said_before_the_first_step() -> None:
    trainer = make()
    once = {"validation_data": Source.batches(batches()), "epochs": 2}
    for given in ((X, Y), (Source.npy(X, Y),)):
        with pytest.raises(ValueError, match="validation_data is an iterator, which can be run through once"):
            trainer.fit(*given, **once)
    full = fn.Trainer(trainer.model, "cross_entropy", fn.LBFGS())
    for size in (32, None):
        with pytest.raises(ValueError, match="x must be an array with LBFGS, which takes all rows"):
            full.fit(Source.npy(X, Y), batch_size=size)
    with pytest.raises(ValueError, match="gave no row in epoch 1"):
        trainer.fit(Source.batches([(X[:0], Y[:0])], regroup=True))
    assert trainer.step == full.step == 0


def test_a_batch_larger_than_the_data_takes_the_room_of_the_data() -> None:
    np.testing.assert_array_equal(
        trained(Source.npy(X, Y[:, None]), batch_size=2**60), trained(X, Y, batch_size=2**60)
    )


def test_a_wrong_column_of_an_arrow_stream_is_named() -> None:
    pa = pytest.importorskip("pyarrow")
    for column, error, text in (
        (["a"] * N, TypeError, "column 'c' of batch 1 of the Arrow stream must hold numbers, got string"),
        ([*([1.0] * 9), None, *([1.0] * (N - 10))], ValueError, "column 'c' of batch 1 .* one in row 9"),
    ):
        table = pa.table({"c": column, "y": Y})
        with pytest.raises(error, match=text):
            make().fit(Source.arrow(table, "y"))
    with pytest.raises(ValueError, match=r"must have the columns .'z'., it has .'c', 'y'."):
        make().fit(Source.arrow(pa.table({"c": X[:, 0], "y": Y}), "z"))


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_is_heard_while_a_source_is_waited_for() -> None:
    """A lock without a timeout does not wake for a signal that the main thread was not given asleep."""
    asks, answered, heard = threading.Event(), threading.Event(), []

    def slow() -> Any:
        yield 1
        asks.wait(60)
        time.sleep(0.1)  # the main thread sleeps
        _thread.interrupt_main()
        heard.append(answered.wait(60))
        yield 2

    def ask(items: Ahead[int]) -> None:
        asks.set()
        next(items)

    with Ahead(slow()) as items:
        assert next(items) == 1
        with pytest.raises(KeyboardInterrupt):
            ask(items)
        answered.set()
    assert heard == [True]


def test_a_time_limit_that_comes_while_rows_are_waited_for_ends_before_the_next_step(tmp_path: Path) -> None:
    def source(pause: float) -> Source:
        def paused() -> Iterator[Any]:
            for i, batch in enumerate(batches()):
                # What comes within 20 ms is handed over in one list: the first two, then the others.
                time.sleep({1: pause / 10, 2: pause}.get(i, 0.0))
                yield batch

        return Source.batches(paused)

    class Each(fn.Callback):
        """Looks after each step; never twice at one."""

        def __init__(self) -> None:
            self.seen: list[int] = []

        def next_step(self, trainer: Any) -> int | None:
            return 0

        def on_step(self, trainer: Any, epoch: int) -> None:
            self.seen.append(trainer.step)

    limited, each = make(), Each()
    limited.fit(source(0.4), callbacks=[each, fn.ModelCheckpoint(tmp_path / "c")], time_limit=0.3)
    assert limited.out_of_time
    assert limited.step <= 2  # fewer where the machine was busy with others
    assert each.seen == list(range(1, limited.step + 1))
    resumed = make()
    resumed.resume(tmp_path / "c")
    assert resumed.epoch_step == limited.step
    resumed.fit(source(0.0), callbacks=[Each(), fn.ModelCheckpoint(tmp_path / "c")])
    assert resumed.model.parameters.tobytes() == trained(source(0.0), epochs=1).tobytes()
