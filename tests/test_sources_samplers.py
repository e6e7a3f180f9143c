"""Samplers and augmentations of sources: the bits of arrays, the rows that were drawn, any step at once."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn as fn
from fastnn import samplers
from fastnn.data import Source
from fastnn.data.source_order import Drawn
from fastnn.data.source_parts import Wanted

N, N_IN = 1003, 7
FEW = {"block_rows": 10, "buffer_rows": 95}
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, N_IN)).astype(np.float32)
Y = np.minimum(RNG.integers(0, 12, N), 3)  # nine of twelve are of class 3
WEIGHTS = RNG.random(N) * (np.arange(N) % 5 > 0)


def own(rng: np.random.Generator, epoch: int) -> Any:
    return rng.permutation(N)[: 700 + epoch]


SAMPLERS: dict[str, Any] = {
    "balanced": samplers.Balanced(),
    "balanced, more": samplers.Balanced(3 * N),
    "by row": samplers.Weighted(WEIGHTS),
    "by class": samplers.Weighted({0: 0.0, 1: 5.0}, n=500),
    "curriculum": samplers.Curriculum(X[:, 0], epochs=3, start=0.1),
    "own": own,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """x and y as files, and as shards of two kinds, one of them without rows."""
    found = tmp_path_factory.mktemp("rows")
    np.save(found / "x.npy", X)
    np.save(found / "y.npy", Y)
    for kind in ("pairs", "packed"):
        (found / kind).mkdir()
    for i, part in enumerate((slice(0, 300), slice(300, 300), slice(300, 301), slice(301, N))):
        np.save(found / "pairs" / f"x-{i}.npy", X[part])
        np.save(found / "pairs" / f"y-{i}.npy", Y[part])
        np.savez_compressed(found / "packed" / f"{i}.npz", x=X[part], y=Y[part])
    return found


def make(loss: Any = "cross_entropy", n_out: int = 4) -> fn.Trainer:
    model = fn.Sequential(fn.Dense(8, "relu"), fn.Dropout(0.1), fn.Dense(n_out))
    return fn.Trainer(model, loss, fn.Adam(1e-2), seed=3)


def bits(trainer: fn.Trainer) -> bytes:
    return bytes(trainer.model.parameters.tobytes())


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_fits_into_the_buffer_is_sampled_to_the_bits_of_an_array(name: str, folder: Path) -> None:
    given: dict[str, Any] = {"epochs": 2, "batch_size": 32, "sampler": SAMPLERS[name]}
    array = make()
    array.fit(X, Y, **given)
    kinds = [
        Source.npy(folder / "x.npy", folder / "y.npy"),
        Source.shards(folder / "pairs"),
        Source.npy(X, Y),
    ]
    if name != "own":
        kinds.append(Source.shards(folder / "packed"))
    for source in kinds:
        streamed = make()
        streamed.fit(source, **given)
        assert bits(streamed) == bits(array)


def steps(source: Source, drawn: Drawn, batch: int, start: int = 0) -> list[Any]:
    """x of the steps of an epoch."""
    parts = source.parts(Wanted(N_IN, np.dtype(np.float32), True), 3, 1, batch, True, start, drawn)
    return [part.x[rows].copy() for some in parts for part in some for rows in part.order]


@pytest.mark.parametrize("keeps_order", [True, False])
def test_rows_come_as_often_as_they_were_drawn_from_any_step_on(keeps_order: bool, folder: Path) -> None:
    kinds = [
        Source.npy(folder / "x.npy", folder / "y.npy", **FEW),
        Source.shards(folder / "pairs", **FEW),
        Source.npy([X[:300], X[300:]], [Y[:300], Y[300:]], **FEW),
        Source.npy(X, Y, **FEW),
    ]
    if not keeps_order:
        kinds.append(Source.shards(folder / "packed", **FEW))
    rng = np.random.default_rng(1)
    for n, high in ((50, 1), (2500, N), (400, 200), (31, N)):  # one row 50 times; all; few blocks; few rows
        rows = rng.integers(0, high, n)
        for source in kinds:
            for batch in (7, 32, 128):
                whole = steps(source, Drawn(rows, keeps_order), batch)
                assert [len(one) for one in whole] == [len(rows[i : i + batch]) for i in range(0, n, batch)]
                found = np.concatenate(whole)
                if keeps_order:
                    np.testing.assert_array_equal(found, X[rows])
                else:
                    order = np.lexsort(found.T)
                    np.testing.assert_array_equal(found[order], X[rows][np.lexsort(X[rows].T)])
                for start in (1, len(whole) - 1, len(whole)):
                    rest = steps(source, Drawn(rows, keeps_order), batch, start)
                    assert len(rest) == len(whole) - start
                    for some, same in zip(rest, whole[start:], strict=True):
                        np.testing.assert_array_equal(some, same)


def test_an_order_of_ones_own_is_kept_beyond_the_buffer(folder: Path) -> None:
    array, streamed = make(), make()
    array.fit(X, Y, epochs=2, batch_size=32, sampler=own)
    streamed.fit(Source.shards(folder / "pairs", **FEW), epochs=2, batch_size=32, sampler=own)
    assert bits(streamed) == bits(array)


def test_classes_are_balanced_and_rows_mixed_beyond_the_buffer(folder: Path) -> None:
    class Spy(samplers.Balanced):
        def prepare(self, rows: samplers.Rows) -> Any:
            np.testing.assert_array_equal(rows.classes, Y)
            return super().prepare(rows)

    seen: list[Any] = []

    def looking(z: Any, y: Any, weight: Any) -> Any:
        seen.append(y.copy())
        return 0.0, np.zeros_like(z)

    source = Source.shards(folder / "pairs", **FEW)
    trainer = make(fn.losses.Custom(looking, takes_labels=True))
    trainer.fit(source, batch_size=16, sampler=Spy(8000))
    classes = np.concatenate(seen)
    assert (abs(np.bincount(classes) - 2000) < 5 * np.sqrt(1500)).all()  # five standard deviations
    # a batch has rows of all classes, as groups are mixed
    assert np.mean([len(set(batch)) for batch in seen]) > 3.5


def test_ignored_rows_and_weights_of_zero_are_not_drawn(tmp_path: Path) -> None:
    weight = np.where(np.arange(N) % 2, 1.0, 0.0)
    given: dict[str, Any] = {"epochs": 2, "class_weight": {1: 0.0}, "sampler": samplers.Balanced()}
    loss = fn.CrossEntropy(ignore_index=2)
    array, streamed = make(loss), make(loss)
    array.fit(X, Y, sample_weight=weight, **given)
    for name, values in (("x", X), ("y", Y), ("sample_weight", weight)):
        np.save(tmp_path / f"{name}.npy", values)
    streamed.fit(Source.shards(tmp_path), **given)
    assert bits(streamed) == bits(array)
    assert streamed.history["loss"] == pytest.approx(array.history["loss"], rel=1e-14)


AUGMENTS = {
    "mixup": [fn.Mixup(0.4)],
    "all": [fn.Mixup(1.0), fn.ColumnDropout(0.2), fn.GaussianNoise(0.1), fn.ColumnDropout(0.1)],
}


@pytest.mark.parametrize("name", AUGMENTS)
def test_batches_of_a_source_are_augmented_to_the_bits_of_an_array(name: str, folder: Path) -> None:
    given: dict[str, Any] = {"epochs": 2, "augment": AUGMENTS[name]}
    for shuffle in (True, False):
        array = make()
        array.fit(X, Y, batch_size=32, shuffle=shuffle, **given)
        kinds = [Source.npy(folder / "x.npy", folder / "y.npy"), Source.npy(X.astype(float), Y)]
        if not shuffle:
            kinds += [
                Source.npy(folder / "x.npy", folder / "y.npy", **FEW),
                Source.batches([(X[i : i + 100], Y[i : i + 100]) for i in range(0, N, 100)], regroup=True),
            ]
        for source in kinds:
            streamed = make()
            streamed.fit(source, batch_size=32, shuffle=shuffle, **given)
            assert bits(streamed) == bits(array)
        if not shuffle:
            streamed = make()
            streamed.fit(Source.batches([(X[i : i + 32], Y[i : i + 32]) for i in range(0, N, 32)]), **given)
            assert bits(streamed) == bits(array)
    plain = make()
    plain.fit(X, Y, epochs=2)
    assert bits(plain) != bits(array)


def test_values_weights_and_bytes_are_mixed_as_those_of_an_array(tmp_path: Path) -> None:
    weight, targets = np.linspace(0, 2, N), np.ascontiguousarray(X[:, :2])
    x = (X * 40 + 128).clip(0, 255).astype(np.uint8)
    given: dict[str, Any] = {"epochs": 2, "augment": AUGMENTS["all"]}
    for name, values in (("x", x), ("y", targets), ("w", weight)):
        np.save(tmp_path / f"{name}.npy", values)
    array, streamed = make("mse", 2), make("mse", 2)
    array.fit(x, targets, sample_weight=weight, **given)
    streamed.fit(Source.npy(*(tmp_path / f"{name}.npy" for name in "xyw")), **given)
    assert bits(streamed) == bits(array)


def test_sampled_and_augmented_training_goes_on_inside_an_epoch_to_the_bit(
    folder: Path, tmp_path: Path
) -> None:
    source = Source.shards(folder / "pairs", **FEW)
    for i, sampler in enumerate((samplers.Balanced(), own, None)):
        given: dict[str, Any] = {"epochs": 2, "sampler": sampler, "augment": AUGMENTS["all"]}
        whole, cut, again = make(), make(), make()
        whole.fit(source, **given)
        path = tmp_path / f"{i}.checkpoint"

        class Saves(fn.Callback):
            def next_step(self, trainer: Any) -> float:
                return 45

            def on_step(self, trainer: Any, epoch: int) -> None:
                if trainer.step == 45:
                    trainer.save_checkpoint(path)  # noqa: B023
                    trainer.stop("enough", now=True)

        if sampler is own:  # 22 steps an epoch
            given["epochs"] = 3
            whole = make()
            whole.fit(source, **given)
        cut.fit(source, **given, callbacks=[Saves()])
        assert cut.step == 45
        again.resume(path)
        assert again.epoch_step > 0
        for name, other in (("sampler", samplers.Curriculum(X[:, 0], 3)), ("augment", [fn.Mixup(0.5)])):
            with pytest.raises(ValueError, match=f"{name} was"):
                again.fit(source, **{**given, name: other}, callbacks=[Saves()])
        again.fit(source, **given, callbacks=[Saves()])
        assert bits(again) == bits(whole)
        assert again.history["loss"] == whole.history["loss"]


def test_drawing_takes_little_memory_and_reads_a_block_once(folder: Path, monkeypatch: Any) -> None:
    from fastnn.data.source_files import FileRows

    reads: list[int] = []
    read_pieces = FileRows.read_pieces

    def counted(self: Any, firsts: Any, sizes: Any, out: Any) -> bool:
        if self.path.endswith("x.npy"):
            reads.extend(firsts)
        return read_pieces(self, firsts, sizes, out)

    monkeypatch.setattr(FileRows, "read_pieces", counted)
    make().fit(Source.npy(folder / "x.npy", folder / "y.npy", **FEW), sampler=samplers.Balanced(100))
    assert len(reads) == len(set(reads)) <= 100


def test_stated_memory_holds_for_a_sampler(tmp_path: Path) -> None:
    n = 40_000
    x = np.zeros((n, 20), np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", np.arange(n) % 4)
    source = Source.npy(tmp_path / "x.npy", tmp_path / "y.npy", block_rows=50, buffer_rows=1000)
    trainer = make()
    trainer.partial_fit(x[:32], np.zeros(32, np.int64))
    tracemalloc.start()
    try:
        trainer.fit(source, batch_size=64, sampler=samplers.Balanced(), progress=False)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < source.memory_bytes(64) + 64 * n + 100_000


def test_what_a_source_cannot_do_is_said_before_the_training(folder: Path) -> None:
    source = Source.npy(folder / "x.npy", folder / "y.npy")
    batches = Source.batches([(X, Y)])
    packed = Source.shards(folder / "packed")
    values = Source.npy(X, X[:, :2])
    for data, given, loss, text in (
        (batches, {"sampler": samplers.Balanced()}, "cross_entropy", "sampler must be None with Source"),
        (packed, {"sampler": own}, "cross_entropy", r"function own keeps its order, which compressed"),
        (values, {"sampler": samplers.Balanced()}, "mse", "y must hold classes with sampler=Balanced"),
        (source, {"sampler": samplers.Weighted([1.0])}, "cross_entropy", "weights of sampler must have 1003"),
        (source, {"sampler": own, "shuffle": False}, "cross_entropy", "shuffle must be True"),
        (
            source,
            {"sampler": lambda rng, epoch: [N]},
            "cross_entropy",
            "must hold row numbers from 0 to 1002",
        ),
        (source, {"augment": [fn.Mixup()]}, "multi_margin", "loss must have targets that can be mixed"),
        (batches, {"augment": [fn.Mixup()]}, "multi_margin", "loss must have targets that can be mixed"),
        (source, {"augment": [fn.Mixup(), fn.Mixup()]}, "cross_entropy", r"augment\[1\] must not be Mixup"),
    ):
        trainer = make(loss, 2 if loss == "mse" else 4)
        with pytest.raises(ValueError, match=text):
            trainer.fit(data, **given)
        assert trainer.step == 0
    with pytest.raises(TypeError, match="augment must be a list"):
        make().fit(source, augment=fn.Mixup())
    wrong = Y.copy()
    wrong[700] = 9
    with pytest.raises(ValueError, match=r"y must hold labels from 0 to 3, got 9 in row 400 of x\[1\]"):
        make().fit(Source.npy([X[:300], X[300:]], [wrong[:300], wrong[300:]]), sampler=samplers.Balanced())


def test_evaluate_names_what_is_not_finite_by_its_row_in_its_file(tmp_path: Path) -> None:
    x = X.copy()
    x[700, 4] = np.inf
    for i, part in enumerate((slice(0, 500), slice(500, N))):
        np.save(tmp_path / f"x{i}.npy", x[part])
        np.save(tmp_path / f"y{i}.npy", Y[part])
    source = Source.shards(tmp_path, **FEW)
    trainer = make()
    trainer.fit(X, Y)
    before = bits(trainer)
    place = r"it is inf in column 4 of row 200 of .*x1\.npy"
    with pytest.raises(fn.DivergenceError, match=rf"over x .*{place}") as found:
        trainer.evaluate(source)
    assert "np.isfinite" not in str(found.value)
    with pytest.raises(fn.DivergenceError, match=rf"over validation_data .*{place}"):
        trainer.fit(X, Y, validation_data=source)
    with pytest.raises(fn.DivergenceError, match=rf"over validation_data .*{place}"):
        trainer.fit(Source.npy(X, Y), validation_data=source)
    batches = Source.batches([(x[i : i + 50], Y[i : i + 50]) for i in range(0, N, 50)])
    with pytest.raises(fn.DivergenceError, match=r"it is inf in column 4 of row 0 of batch 15"):
        trainer.evaluate(batches)
    assert bits(trainer) != before  # the two fits have trained
    assert np.isnan(trainer.predict(source)[700]).any()  # what is predicted is not judged


def test_one_source_is_trained_on_and_measured_on_at_once(folder: Path) -> None:
    """Each reader has files of its own: the end of a validation must not close those of the training."""
    for kind in ("pairs", "packed"):
        source = Source.shards(folder / kind, block_rows=5, buffer_rows=40)
        stopping = fn.EarlyStopping(patience=10**6, every_steps=1)
        one, other = make(), make()
        one.fit(source, batch_size=16, validation_data=source, callbacks=[stopping])
        assert len(stopping.judged) >= 63
        other.fit(source, batch_size=16)
        assert bits(one) == bits(other)


def test_samplers_take_and_give_what_they_say() -> None:
    assert not samplers.Weighted(np.ones(3)).needs_classes
    assert samplers.Weighted({0: 1.0}).needs_classes
    assert samplers.Balanced().needs_classes
    assert samplers.get(own).keeps_order
    assert not samplers.Curriculum([1.0], 1).keeps_order
