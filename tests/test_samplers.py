"""Which rows an epoch takes: drawn as the weights say, and the same again for the same seed and epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn as fn
from fastnn import samplers
from fastnn.samplers import Balanced, Curriculum, Rows, Weighted

X = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
Y = np.array([0] * 150 + [1] * 40 + [2] * 10)


def trainer(seed: int = 0) -> fn.Trainer:
    return fn.Trainer(fn.Sequential(fn.Dense(3)), "cross_entropy", "adam", seed=seed)


def rows(n: int = 200, trained: Any = None, counts: Any = None) -> Rows:
    return Rows(n, np.arange(n) if trained is None else np.asarray(trained), Y[:n], counts)


def test_rows_are_drawn_as_often_as_their_weights_say() -> None:
    weights = np.array([0.0, 1, 2, 3, 0])
    draw = Weighted(weights, n=60_000).prepare(Rows(5, np.arange(5), None, None))
    counts = np.bincount(draw(3, 0), minlength=5)
    assert counts[[0, 4]].tolist() == [0, 0]
    # Five standard deviations of a binomial count.
    for count, share in zip(counts[1:4], (1 / 6, 2 / 6, 3 / 6), strict=True):
        assert abs(count - 60_000 * share) < 5 * np.sqrt(60_000 * share * (1 - share))
    assert (draw(3, 0) == draw(3, 0)).all()
    assert (draw(3, 0) != draw(3, 1)).any()
    assert (draw(3, 0) != draw(4, 0)).any()


def test_balanced_draws_each_class_alike_and_no_row_without_weight() -> None:
    counts = np.ones(200, bool)
    counts[:149] = False
    draw = Balanced(n=30_000).prepare(rows(counts=counts))
    drawn = draw(0, 5)
    assert (abs(np.bincount(Y[drawn]) - 10_000) < 5 * np.sqrt(10_000)).all()
    assert drawn.min() == 149
    held = Balanced().prepare(rows(trained=np.arange(100, 200)))(0, 0)
    assert len(held) == 100
    assert held.min() >= 100


def test_weights_by_class_are_those_of_its_rows() -> None:
    draw = Weighted({0: 0.0, 2: 4.0}, n=8000).prepare(rows())
    found = np.bincount(Y[draw(1, 1)], minlength=3)
    assert found[0] == 0
    assert abs(found[1] - 4000) < 5 * np.sqrt(2000)  # 40 rows of 1 as likely as 10 of 4


def test_a_curriculum_takes_the_easiest_first_and_all_in_the_end() -> None:
    difficulty = np.arange(200)[::-1]
    draw = Curriculum(difficulty, epochs=5, start=0.2).prepare(rows())
    for done, n in enumerate((40, 80, 120, 160, 200, 200)):
        order = draw(0, done)
        assert sorted(order) == list(range(200 - n, 200))
    assert list(draw(0, 0)) != sorted(draw(0, 0))


def test_a_fit_with_a_sampler_is_the_run_of_its_orders() -> None:
    given: dict[str, Any] = {"epochs": 3, "batch_size": 16, "sampler": Balanced(100)}
    one, other = trainer(4), trainer(4)
    history = one.fit(X, Y, **given)
    draw = Balanced(100).prepare(rows())
    losses = []
    for epoch in range(3):
        order = draw(4, epoch)
        first = other.run(X, Y, order[:96].reshape(6, 16))
        losses.append((96 * first + 4 * other.run(X, Y, order[96:].reshape(1, 4))) / 100)
    assert one.model.parameters.tobytes() == other.model.parameters.tobytes()
    np.testing.assert_allclose(history["loss"], losses, rtol=1e-12)


def test_a_function_of_ones_own_gets_a_generator_of_seed_and_epoch() -> None:
    seen: list[Any] = []

    def own(rng: np.random.Generator, epoch: int) -> Any:
        seen.append((epoch, rng.integers(10**9)))
        return rng.permutation(200)[: 50 * epoch]

    first, second = trainer(), trainer()
    first.fit(X, Y, epochs=2, batch_size=50, sampler=own)
    assert first.step == 1 + 2
    second.fit(X, Y, epochs=2, batch_size=50, sampler=own)
    assert seen[:2] == seen[2:]
    assert seen[0][1] != seen[1][1]
    assert first.model.parameters.tobytes() == second.model.parameters.tobytes()


def test_held_out_rows_are_never_drawn() -> None:
    one = trainer()
    taken: list[Any] = []

    class Spy(Weighted):
        def prepare(self, rows: Rows) -> Any:
            draw = super().prepare(rows)
            taken.append(rows.trained)
            return lambda seed, done: (taken.append(draw(seed, done)), taken[-1])[1]

    one.fit(X, Y, validation_split=0.5, sampler=Spy(np.ones(200)))
    assert len(taken[0]) == len(taken[1]) == 100
    assert set(taken[1]) <= set(taken[0])
    with pytest.raises(ValueError, match=r"rows to train on, got .*, which is held out"):
        one.fit(X, Y, validation_split=0.5, sampler=lambda rng, epoch: np.arange(200))


def test_what_a_sampler_class_gives_is_judged_as_that_of_a_function() -> None:
    class Mine(fn.samplers.Sampler):
        needs_classes = False

        def __init__(self, given: Any) -> None:
            self.given = given

        def prepare(self, rows: Any) -> Any:
            return lambda seed, done: self.given

        def told(self) -> str:
            return "mine"

    one, same = trainer(), trainer()
    one.fit(X, Y, sampler=Mine([3, 1, 2]), batch_size=2)
    same.fit(X, Y, sampler=lambda rng, epoch: np.array([3, 1, 2]), batch_size=2)
    assert one.model.parameters.tobytes() == same.model.parameters.tobytes()
    for given, text in (([], "one at least"), ([200], "from 0 to 199, got 200"), (range(200), "is held out")):
        with pytest.raises(ValueError, match=text):
            trainer().fit(X, Y, sampler=Mine(given), validation_split=0.2)


def test_an_epoch_of_rows_without_weight_is_an_error() -> None:
    one = trainer()
    with pytest.raises(ValueError, match="sample weights of the rows taken must not be all zero in an epoch"):
        one.fit(X, Y, sample_weight=np.arange(200) >= 10, sampler=lambda rng, epoch: np.arange(10))


def test_batches_of_one_row_are_counted_in_what_is_drawn() -> None:
    model = fn.Sequential(fn.Dense(4), fn.BatchNorm(), fn.Dense(3))
    one = fn.Trainer(model, "cross_entropy", "adam", seed=0)
    one.fit(X[:33], Y[:33], sampler=Balanced(n=64))
    assert one.step == 2
    with pytest.raises(ValueError, match="a batch of one row has no variance"):
        one.fit(X, Y, sampler=Balanced(n=33))


def test_many_trainings_draw_among_their_own_rows() -> None:
    folds = [np.arange(0, 200, 2), np.arange(1, 200, 2)]
    many = [trainer(0), trainer(1)]
    fn.fit_many(many, X, Y, rows=folds, epochs=2, sampler=[Balanced(), None])
    for i, one in enumerate((trainer(0), trainer(1))):
        one.fit(X[folds[i]], Y[folds[i]], epochs=2, sampler=[Balanced(), None][i])
        assert one.model.parameters.tobytes() == many[i].model.parameters.tobytes()


def test_a_resumed_fit_goes_on_in_the_same_order_and_no_other(tmp_path: Path) -> None:
    class Stop(fn.Callback):
        def next_step(self, trainer: Any) -> int | None:
            return 5

        def on_step(self, trainer: Any, epoch: int) -> None:
            trainer._pause("here")

    whole, part, resumed = trainer(), trainer(), trainer()
    given: dict[str, Any] = {"epochs": 2, "sampler": Balanced()}
    whole.fit(X, Y, **given)
    part.fit(X, Y, callbacks=[fn.ModelCheckpoint(tmp_path / "c"), Stop()], **given)
    resumed.resume(tmp_path / "c")
    files = [fn.ModelCheckpoint(tmp_path / "c"), fn.Callback()]
    files[1].__class__ = type("Stop", (fn.Callback,), {})
    with pytest.raises(ValueError, match=r"sampler was 'Balanced\(n=None\)' and is 'Weighted\(200 weights"):
        resumed.fit(X, Y, epochs=2, sampler=Weighted(np.ones(200)), callbacks=files)
    resumed.fit(X, Y, callbacks=files, **given)
    assert resumed.model.parameters.tobytes() == whole.model.parameters.tobytes()


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: {"sampler": 3}, TypeError, "sampler must be one of fastnn.samplers, or a function"),
        (lambda: {"sampler": Balanced}, TypeError, r"got the class; write Balanced\(\)"),
        (lambda: {"sampler": Balanced(), "shuffle": False}, ValueError, "shuffle must be True"),
        (lambda: {"sampler": Balanced(), "batch_size": None}, ValueError, "sampler must be None"),
        (lambda: {"sampler": Weighted(np.ones(3))}, ValueError, "weights of sampler must have 200 elements"),
        (lambda: {"sampler": Weighted(np.zeros(200))}, ValueError, "sum above 0|not be all zero"),
        (lambda: {"sampler": Weighted([1, -1])}, ValueError, "weights"),
        (lambda: {"sampler": Curriculum([1, 2], 3)}, ValueError, "must have 200 elements"),
        (lambda: {"sampler": Curriculum([np.nan], 3)}, ValueError, "difficulty must be finite"),
        (lambda: {"sampler": Curriculum([1], 3, 0)}, ValueError, "start must be above 0"),
        (lambda: {"sampler": lambda rng, epoch: [200]}, ValueError, "row numbers from 0 to 199, got 200"),
        (lambda: {"sampler": lambda rng, epoch: [0.5]}, TypeError, "must hold integers"),
        (lambda: {"sampler": lambda rng, epoch: np.array([], int)}, ValueError, "one at least"),
        (lambda: {"sampler": Weighted({0: 1, -1: 3})}, ValueError, "labels of weights"),
        (lambda: {"sampler": Weighted({0: 1, 99: 3})}, ValueError, "labels from 0 to 2, got 99"),
    ],
)  # fmt: skip
def test_wrong_samplers_are_named(make: Any, error: type[Exception], text: str) -> None:
    one = trainer()
    with pytest.raises(error, match=text):
        one.fit(X, Y, **make())
    assert one.step == 0


def test_values_have_no_classes() -> None:
    one = fn.Trainer(fn.Sequential(fn.Dense(1)), "mse", "adam", seed=0)
    with pytest.raises(ValueError, match=r"y must hold classes with sampler=Balanced\(n=None\), got values"):
        one.fit(X, X[:, 0] / 3, sampler=samplers.Balanced())
    one.fit(X, X[:, 0] / 3, sampler=samplers.Weighted(np.arange(200)))
    assert one.step == 7
