"""Sources of rows: the bits of arrays, an order of seed and epoch, bounded memory, errors with a place."""

from __future__ import annotations

import os
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn as fn
from fastnn.data import Source
from fastnn.data.source_ahead import Ahead
from fastnn.data.source_parts import Wanted

N, N_IN = 1003, 7
FEW = {"block_rows": 10, "buffer_rows": 95}  # blocks and buffers that a small test goes over the ends of


@pytest.fixture(scope="module")
def rows() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N, N_IN)).astype(np.float32)
    return x, (x[:, 0] > 0) + 2 * (x[:, 1] > 0)


@pytest.fixture(scope="module")
def folder(rows: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """x and y as files, as shards of two kinds."""
    x, y = rows
    found = tmp_path_factory.mktemp("rows")
    np.save(found / "x.npy", x)
    np.save(found / "y.npy", y)
    for kind in ("pairs", "archives", "packed"):
        (found / kind).mkdir()
    for i, part in enumerate((slice(0, 300), slice(300, 301), slice(301, N))):
        np.save(found / "pairs" / f"x-{i}.npy", x[part])
        np.save(found / "pairs" / f"y-{i}.npy", y[part])
        np.savez(found / "archives" / f"{i}.npz", x=x[part], y=y[part])
        np.savez_compressed(found / "packed" / f"{i}.npz", x=x[part], y=y[part])
    return found


def make(**more: Any) -> fn.Trainer:
    model = fn.Sequential(fn.Dense(8, "relu"), fn.Dropout(0.1), fn.Dense(4))
    return fn.Trainer(model, "cross_entropy", fn.Adam(1e-2), seed=3, **more)


def all_kinds(folder: Path, **more: Any) -> list[Source]:
    return [
        Source.npy(folder / "x.npy", folder / "y.npy", **more),
        Source.shards(folder / "pairs", **more),
        Source.shards(folder / "archives", **more),
        Source.shards(folder / "packed", **more),
    ]


def test_a_source_that_fits_into_its_buffer_trains_to_the_bits_of_an_array(rows: Any, folder: Path) -> None:
    x, y = rows
    for shuffle in (True, False):
        array = make(metrics=["accuracy"])
        history = array.fit(x, y, epochs=2, batch_size=32, shuffle=shuffle, validation_data=(x, y))
        more = [Source.npy(x, y), Source.npy(x.astype(float), y.astype(np.uint8), prefetch=False)]
        for source in all_kinds(folder) + more:
            streamed = make(metrics=["accuracy"])
            found = streamed.fit(source, epochs=2, batch_size=32, shuffle=shuffle, validation_data=source)
            np.testing.assert_array_equal(streamed.model.parameters, array.model.parameters)
            for name in history:
                # sums of an epoch's losses are added up in other pieces
                np.testing.assert_allclose(found[name], history[name], rtol=1e-14)
            assert streamed.evaluate(source) == array.evaluate(x, y)
            np.testing.assert_array_equal(streamed.predict(source), array.predict(x))


def test_the_order_is_what_run_would_be_given(rows: Any, folder: Path) -> None:
    x, y = rows
    for batch in (32, 128):  # the second is more than a buffer
        for source in all_kinds(folder, **FEW):
            streamed = make()
            streamed.fit(source, epochs=2, batch_size=batch)
            by_hand = make()
            by_hand.model.build(N_IN, seed=3)
            for epoch in range(2):
                order = source.order(3, epoch)
                np.testing.assert_array_equal(np.sort(order), np.arange(N))
                whole = N // batch * batch
                by_hand.epoch = epoch
                by_hand.run(x, y, order[:whole].reshape(-1, batch))
                by_hand.run(x, y, order[whole:].reshape(1, -1))
            np.testing.assert_array_equal(streamed.model.parameters, by_hand.model.parameters)
            assert source.n_steps(batch) * 2 == streamed.step


def taken(source: Source, batch: int, start: int, seed: int = 5, epoch: int = 2) -> list[tuple[int, Any]]:
    """Steps of an epoch: their numbers and rows of x."""
    wanted = Wanted(N_IN, np.dtype(np.float32), True)
    found = []
    for parts in source.parts(wanted, seed, epoch, batch, True, start):
        for part in parts:
            found += [(part.first_step + i, part.x[rows].copy()) for i, rows in enumerate(part.order)]
    return found


def test_an_epoch_can_be_begun_at_any_step(folder: Path) -> None:
    for source in all_kinds(folder, **FEW):
        for batch in (7, 32, 128):
            whole = taken(source, batch, 0)
            assert [number for number, _ in whole] == list(range(source.n_steps(batch) or 0))
            for start in (1, 2, len(whole) - 1, len(whole)):
                rest = taken(source, batch, start)
                assert [number for number, _ in rest] == list(range(start, len(whole)))
                for (_, some), (_, same) in zip(rest, whole[start:], strict=True):
                    np.testing.assert_array_equal(some, same)


def test_the_order_is_a_function_of_seed_and_epoch_and_mixes_blocks_and_rows(folder: Path) -> None:
    source = all_kinds(folder, **FEW)[0]
    one = source.order(1, 0)
    np.testing.assert_array_equal(one, all_kinds(folder, **FEW)[0].order(1, 0))
    assert not np.array_equal(one, source.order(1, 1))
    assert not np.array_equal(one, source.order(2, 0))
    np.testing.assert_array_equal(source.order(1, 0, shuffle=False), np.arange(N))
    # 9 blocks of 10 in a buffer: neighbours in training are seldom such in the file, and come from all of it
    assert (np.abs(np.diff(one)) == 1).mean() < 0.05
    first = one[:90] // 10
    assert len(set(first)) == 9
    assert first.max() - first.min() > 50


def test_weights_of_rows_and_classes_are_those_of_an_array(rows: Any, folder: Path, tmp_path: Path) -> None:
    x, y = rows
    weight = np.random.default_rng(1).random(N)
    np.save(tmp_path / "w.npy", weight)
    for x_of, w_of in ((folder / "x.npy", tmp_path / "w.npy"), ([x[:9], x[9:]], [weight[:9], weight[9:]])):
        y_of: Any = folder / "y.npy" if isinstance(x_of, Path) else [y[:9], y[9:]]
        for class_weight in (None, {0: 2.0, 3: 0.5}):
            array, streamed = make(), make()
            array.fit(x, y, sample_weight=weight, class_weight=class_weight)
            streamed.fit(Source.npy(x_of, y_of, w_of), class_weight=class_weight)
            np.testing.assert_array_equal(streamed.model.parameters, array.model.parameters)


def test_bytes_stay_bytes_and_pictures_are_flattened(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (200, 4, 5), dtype=np.uint8)
    y = rng.standard_normal((200, 2))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)

    def trainer() -> fn.Trainer:
        model = fn.Sequential(fn.Flatten(), fn.Scale(1 / 255), fn.Dense(2))
        return fn.Trainer(model, "mse", "sgd", seed=0)

    array = trainer()
    array.fit(x, y, epochs=2)
    for source in (
        Source.npy(tmp_path / "x.npy", tmp_path / "y.npy"),
        Source.npy([x[:50], x[50:]], [y[:50], y[50:]]),
    ):
        streamed = trainer()
        streamed.fit(source, epochs=2)
        np.testing.assert_array_equal(streamed.model.parameters, array.model.parameters)
    with pytest.raises(ValueError, match=r"x must be 2-D.*Flatten"):
        fn.Trainer(fn.Sequential(fn.Dense(2)), "mse", "sgd").fit(Source.npy(x, y))


def test_a_source_validates_beside_arrays_and_arrays_beside_a_source(rows: Any, folder: Path) -> None:
    x, y = rows
    source = all_kinds(folder)[0]
    want = make().fit(x, y, validation_data=(x, y))["val_loss"]
    assert make().fit(x, y, validation_data=source)["val_loss"] == want
    assert make().fit(source, validation_data=(x, y))["val_loss"] == want


def test_teams_leave_a_core_to_who_reads_and_the_bits_do_not_change(rows: Any) -> None:
    from fastnn import kernels

    wide = np.random.default_rng(0).standard_normal((640, 256)).astype(np.float32)
    y = rows[1][:640]

    def trained(n_aside: int) -> bytes:
        one = fn.Trainer(fn.Sequential(fn.Dense(256), fn.Dense(4)), "cross_entropy", "sgd", seed=0)
        kernels.step_aside(n_aside)
        try:
            one.fit(wide, y, epochs=2, batch_size=64)
        finally:
            kernels.step_aside(-n_aside)
        return one.model.parameters.tobytes()

    assert trained(0) == trained(1) == trained(300)


def test_a_thread_ends_with_its_reader_though_nobody_has_ended_it() -> None:
    def items() -> Any:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    closed = threading.Event()
    ahead = Ahead(items())
    ahead.__enter__()  # and a Ctrl-C before the context has begun
    assert next(ahead) == 1
    del ahead
    assert closed.wait(60)


# ---------------------------------------------------------------- memory


def test_reading_takes_the_memory_that_is_stated(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20000, 20)), rng.integers(0, 3, 20000)
    np.save(tmp_path / "x.npy", x.astype(np.float32))
    np.save(tmp_path / "y.npy", y)
    for data in (([x[:7000], x[7000:]], [y[:7000], y[7000:]]), (tmp_path / "x.npy", tmp_path / "y.npy")):
        for more in ({"block_rows": 50, "buffer_rows": 1000}, {"block_rows": 500, "buffer_rows": 3000}):
            source = Source.npy(*data, **more)
            wanted = Wanted(20, np.dtype(np.float32), True)
            tracemalloc.start()
            try:
                with Ahead(source.parts(wanted, 0, 0, 64, True)) as parts:
                    n = sum(part.order.size for group in parts for part in group)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert n == 20000
            # the rest is what a thread and its queue take
            assert peak < source.memory_bytes(64) + 20_000
            assert source.memory_bytes(64) < 0.3 * x.nbytes


# ---------------------------------------------------------------- what goes wrong


def test_what_is_not_finite_is_named_by_its_row_in_its_file(rows: Any, tmp_path: Path) -> None:
    x, y = rows[0].copy(), rows[1]
    x[700, 4] = np.nan
    for i, part in enumerate((slice(0, 500), slice(500, N))):
        np.save(tmp_path / f"x{i}.npy", x[part])
        np.save(tmp_path / f"y{i}.npy", y[part])
    np.save(tmp_path / "all.npy", x)
    np.save(tmp_path / "of_all.npy", y)
    for source, row, name in (
        (Source.shards(tmp_path, **FEW), 200, "x1.npy"),
        (Source.npy(tmp_path / "all.npy", tmp_path / "of_all.npy", **FEW), 700, "all.npy"),
    ):
        trainer = make()
        with pytest.raises(
            fn.DivergenceError, match=rf"it is nan in column 4 of row {row} of .*{name}"
        ) as found:
            trainer.fit(source)
        assert trainer.step == found.value.step  # all steps before it stay done
        assert np.isfinite(trainer.model.parameters).all()
        trainer.fit(*rows)


def test_a_wrong_target_is_named_by_its_row(rows: Any) -> None:
    x, y = rows[0], rows[1].copy()
    y[321] = 4
    for source in (Source.npy(x, y, **FEW), Source.npy([x[:300], x[300:]], [y[:300], y[300:]], **FEW)):
        row = 321 if len(source._reader.x) == 1 else 21
        trainer = make()
        with pytest.raises(ValueError, match=rf"y must hold labels from 0 to 3, got 4 in row {row} of x"):
            trainer.fit(source)
        trainer.fit(*rows)


def test_shards_that_do_not_fit_each_other_are_named(rows: Any, tmp_path: Path) -> None:
    x, y = rows
    np.save(tmp_path / "x0.npy", x[:10])
    np.save(tmp_path / "y0.npy", y[:10])
    np.save(tmp_path / "x1.npy", x[10:20, :5])
    with pytest.raises(ValueError, match=r"must have y1\.npy beside x1\.npy"):
        Source.shards(tmp_path)
    np.save(tmp_path / "y1.npy", y[10:20])
    with pytest.raises(
        ValueError, match=r"same columns in each shard: .*x0.npy has shape \(10, 7\).*x1.npy has"
    ):
        Source.shards(tmp_path)
    np.save(tmp_path / "x1.npy", x[10:20].astype(float))
    with pytest.raises(ValueError, match=r"same dtype in each shard: .*float32.*x1.npy has float64"):
        Source.shards(tmp_path)
    np.save(tmp_path / "x1.npy", x[10:21])
    with pytest.raises(ValueError, match=r"x1.npy has 11, .*y1.npy has 10"):
        Source.shards(tmp_path)
    (tmp_path / "x1.npy").write_bytes((tmp_path / "x0.npy").read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"x1.npy is cut off: it must have \d+ bytes, got \d+"):
        Source.shards(tmp_path)
    (tmp_path / "x1.npy").write_bytes(b"name,age\n")
    with pytest.raises(ValueError, match=r"x1.npy must be a .npy file"):
        Source.shards(tmp_path)
    np.save(tmp_path / "x1.npy", np.asfortranarray(x[10:20]))
    with pytest.raises(ValueError, match=r"x1.npy must hold whole rows \(C order\)"):
        Source.shards(tmp_path)
    np.save(tmp_path / "x1.npy", np.array(["a", "b"]))
    with pytest.raises(TypeError, match=r"x1.npy must hold real numbers, got dtype <U1"):
        Source.shards(tmp_path)


class At(fn.Callback):
    """Calls a function before an epoch."""

    def __init__(self, epoch: int, call: Any) -> None:
        self.epoch, self.call = epoch, call

    def on_epoch_begin(self, trainer: Any, epoch: int) -> None:
        if epoch == self.epoch:
            self.call()


@pytest.mark.parametrize("prefetch", [True, False])
def test_a_vanished_shard_ends_the_training_with_its_name_and_nothing_is_lost(
    rows: Any, tmp_path: Path, prefetch: bool
) -> None:
    x, y = rows
    for i, part in enumerate((slice(0, 500), slice(500, N))):
        np.savez(tmp_path / f"{i}.npz", x=x[part], y=y[part])
    source = Source.shards(tmp_path, prefetch=prefetch, block_rows=100, buffer_rows=200)
    trainer = make()
    with pytest.raises(FileNotFoundError, match=r"a shard cannot be opened.*1\.npz"):
        trainer.fit(source, epochs=3, callbacks=[At(2, (tmp_path / "1.npz").unlink)])
    assert len(trainer.history["loss"]) == trainer.epoch == 1
    assert threading.active_count() == 1 or all(t.name != "fastnn-source" for t in threading.enumerate())
    before = trainer.step
    trainer.fit(x, y)
    assert trainer.step == before + 32


@pytest.mark.parametrize("sharded", [True, False])
def test_a_file_that_becomes_shorter_is_an_error_not_a_crash(
    rows: Any, tmp_path: Path, sharded: bool
) -> None:
    x = np.repeat(rows[0], 5, axis=0)  # of several pages, so that some of them are gone
    np.save(tmp_path / "x.npy", x)
    y = np.repeat(rows[1], 5)
    cut = os.path.getsize(tmp_path / "x.npy") // 2
    of_x = [tmp_path / "x.npy", x[:3]] if sharded else tmp_path / "x.npy"
    source = Source.npy(of_x, [y, y[:3]] if sharded else y, block_rows=100, buffer_rows=200)
    trainer = make()
    with pytest.raises(ValueError, match=r"x\.npy has changed: it had \d+ bytes when the source was made"):
        trainer.fit(source, epochs=2, callbacks=[At(2, lambda: os.truncate(tmp_path / "x.npy", cut))])
    assert trainer.epoch == 1


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_shard_that_is_written_again_is_named(rows: Any, tmp_path: Path, save: Any) -> None:
    x, y = rows
    save(tmp_path / "0.npz", x=x, y=y)
    source = Source.shards(tmp_path)

    def again() -> None:
        save(tmp_path / "0.npz", x=x[::-1], y=y)
        stamp = os.stat(tmp_path / "0.npz").st_mtime_ns + 10**6  # where the clock of files is coarse
        os.utime(tmp_path / "0.npz", ns=(stamp, stamp))

    trainer = make()
    with pytest.raises(ValueError, match=r"0\.npz has changed: it"):
        trainer.fit(source, epochs=2, callbacks=[At(2, again)])
    assert trainer.epoch == 1
    trainer.fit(Source.shards(tmp_path))


def test_a_file_that_shrinks_within_an_epoch_is_an_error_too(rows: Any, tmp_path: Path) -> None:
    x = np.repeat(rows[0], 5, axis=0)
    np.save(tmp_path / "x.npy", x)
    source = Source.npy(tmp_path / "x.npy", np.repeat(rows[1], 5), block_rows=100, buffer_rows=200)
    parts = source.parts(Wanted(N_IN, np.dtype(np.float32), True), 0, 0, 32, False)
    next(parts)
    os.truncate(tmp_path / "x.npy", os.path.getsize(tmp_path / "x.npy") // 2)
    with pytest.raises(ValueError, match=r"x\.npy has become shorter: it ends in row 25\d\d of 5015"):
        list(parts)


def test_arguments_that_a_source_has_itself_are_refused(rows: Any) -> None:
    x, y = rows
    source = Source.npy(x, y)
    for wrong, error, text in (
        ({"y": y}, TypeError, "y must be left out with a source"),
        ({"sample_weight": np.ones(N)}, TypeError, "sample_weight must be left out"),
        ({"validation_split": 0.1}, ValueError, "validation_split must be 0 with a source"),
        ({"batch_size": None}, ValueError, "batch_size must be a number of rows"),
        ({"class_weight": "balanced"}, ValueError, "class_weight must be weights by label"),
        ({"validation_data": Source.npy(x[:, :3], y)}, ValueError, "validation_data must have 7 columns"),
        ({"callbacks": [fn.LRFinder()]}, ValueError, "LRFinder needs arrays"),
    ):
        with pytest.raises(error, match=text):
            make().fit(source, **wrong)
    with pytest.raises(TypeError, match="y must be given with an array"):
        make().fit(x)
    with pytest.raises(TypeError, match=r"x is of type generator: fastnn\.data\.Source makes one"):
        make().fit((batch for batch in [(x, y)]), None)
    with pytest.raises(ValueError, match="block_rows must be at most buffer_rows=5"):
        Source.npy(x, y, block_rows=6, buffer_rows=5)
    with pytest.raises(ValueError, match="y must have as many rows as x"):
        Source.npy(x, y[1:])
    normed = fn.Trainer(fn.Sequential(fn.BatchNorm(), fn.Dense(4)), "cross_entropy", "sgd")
    with pytest.raises(ValueError, match="BatchNorm"):
        normed.fit(source, batch_size=N - 1)


def test_a_fingerprint_tells_data_and_order_apart(rows: Any, folder: Path) -> None:
    x, y = rows
    other = y.copy()
    other[-1] += 1
    marks = [Source.npy(x, y).fingerprint, Source.npy(x, other).fingerprint]
    marks += [Source.npy(x, y, block_rows=3).fingerprint, Source.shards(folder / "pairs").fingerprint]
    assert len(set(marks)) == 4
    assert Source.npy(folder / "x.npy", folder / "y.npy").fingerprint == marks[0]


def test_a_run_on_a_source_goes_on_inside_an_epoch_to_the_bit(tmp_path):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((1000, 5)).astype(np.float32)
    y = rng.integers(0, 3, 1000)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    source = fn.data.Source.npy(tmp_path / "x.npy", tmp_path / "y.npy", block_rows=64, buffer_rows=256)

    def trainer():
        model = fn.Sequential(fn.Dense(8, "relu"), fn.Dropout(0.2), fn.Dense(3))
        return fn.Trainer(model, loss="cross_entropy", optimizer=fn.Adam(lr=0.01), seed=4)

    whole = trainer()
    whole.fit(source, epochs=3, progress=False)

    class Stops(fn.Callback):
        def __init__(self, step):
            self.step = step

        def next_step(self, trainer):
            return self.step

        def on_step(self, trainer, epoch):
            if trainer.step >= self.step:
                raise RuntimeError("the power went out")

    path = tmp_path / "c.ckpt"
    cut = trainer()
    saver = fn.ModelCheckpoint(path, every_steps=5)
    with pytest.raises(RuntimeError, match="the power"):
        cut.fit(source, epochs=3, callbacks=[saver, Stops(45)], progress=False)
    assert cut.step == 45
    again = trainer()
    again.resume(path)
    assert again.epoch == 1
    assert 0 < again.step <= 45
    other = fn.data.Source.npy(tmp_path / "x.npy", tmp_path / "y.npy", block_rows=32, buffer_rows=256)
    with pytest.raises(ValueError, match="source was"):
        again.fit(
            other,
            epochs=3,
            callbacks=[fn.ModelCheckpoint(path, every_steps=5), Stops(10_000)],
            progress=False,
        )
    again.fit(
        source, epochs=3, callbacks=[fn.ModelCheckpoint(path, every_steps=5), Stops(10_000)], progress=False
    )
    assert again.step == whole.step
    assert again.model.parameters.tobytes() == whole.model.parameters.tobytes()
    assert again.history["loss"] == whole.history["loss"]
