"""What stands around a training, on "cuda" with a stand-in for CuPy: as on the CPU. Needs no card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cuda_on_cpu
import numpy as np
import pytest
from cuda_stand_in import StandIn, put_in
from test_long_runs import GIVEN, Killed, callbacks, everything, make, rows

import fastnn as fn
from fastnn import samplers

pytestmark = pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="needs a C++ compiler")

N = 120
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, 9)).astype(np.float32)
Y = RNG.integers(0, 4, N)
FIT: dict[str, Any] = {"epochs": 2, "batch_size": 16, "progress": False}


@pytest.fixture(autouse=True, params=[0, 227 << 10], ids=["captured", "persistent"])
def card(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> StandIn:
    """A machine with two cards, whose arrays nobody takes for NumPy's; with room for small nets or none."""
    return put_in(monkeypatch, n_cards=2, shared_bytes=request.param)


def trainer_on(device: str, *layers: Any, seed: int = 3, **given: Any) -> fn.Trainer:
    net = layers or (fn.Dense(13, activation="relu"), fn.Dense(4))
    return fn.Trainer(
        fn.Sequential(*net),
        **{"loss": "cross_entropy", "optimizer": fn.Adam(0.01), "seed": seed, "device": device, **given},
    )


def assert_alike(theirs: fn.Trainer, ours: fn.Trainer, atol: float = 5e-6) -> None:
    """History and weights: those of float32 in another order of sums."""
    assert theirs.history.keys() == ours.history.keys()
    for name, values in theirs.history.items():
        np.testing.assert_allclose(ours.history[name], values, rtol=0, atol=1e-4 if atol else 0)
    np.testing.assert_allclose(ours.model.parameters, theirs.model.parameters, rtol=0, atol=atol)
    assert ours.step == theirs.step


def both(made: Any = None, **fit: Any) -> list[fn.Trainer]:
    """Trained alike on both devices."""
    found = []
    for device in ("cpu", "cuda"):
        given = {name: value() if name == "callbacks" else value for name, value in fit.items()}
        trainer = (made or trainer_on)(device)
        trainer.fit(X, Y, **{**FIT, **given})
        found.append(trainer)
    assert_alike(*found)
    return found


# ---------------------------------------------------------------- many trainings


def several(device: str) -> list[fn.Trainer]:
    return [trainer_on(device, seed=i, optimizer=fn.Adam(0.005 * (i + 1))) for i in range(3)]


def test_many_trainings_on_a_card() -> None:
    rows = [np.arange(90), np.arange(N) % 3 > 0, None]
    theirs, ours = several("cpu"), several("cuda")
    for trainers in (theirs, ours):
        fn.fit_many(trainers, X, Y, rows, validation_data=(X[:30], Y[:30]), on_error="raise", **FIT)
    for one, other in zip(theirs, ours, strict=True):
        assert_alike(one, other)
    alone = trainer_on("cuda", seed=1, optimizer=fn.Adam(0.01))
    alone.fit(X[rows[1]], Y[rows[1]], validation_data=(X[:30], Y[:30]), **FIT)
    assert_alike(alone, ours[1], atol=0)
    with pytest.raises(ValueError, match="n_workers must be 1 where a trainer has device 'cuda' and not"):
        fn.fit_many([*several("cpu"), trainer_on("cuda")], X, Y, n_workers=2, **FIT)


def test_many_trainings_share_arrays_of_cupy(card: StandIn) -> None:
    theirs, ours = several("cuda"), several("cuda")
    weight, rows = RNG.uniform(0, 1, N), np.arange(5, 100)
    fn.fit_many(theirs, X, Y, [rows, None, None], sample_weight=weight, on_error="raise", **FIT)
    there = [card.asarray(a) for a in (X, Y, rows, weight)]
    given: dict[str, Any] = {**FIT, "sample_weight": there[3], "on_error": "raise"}
    fn.fit_many(ours, there[0], there[1], [there[2], None, None], **given)
    for one, other in zip(theirs, ours, strict=True):
        assert_alike(one, other, atol=0)
    with pytest.raises(TypeError, match="x must be in the memory of the CPU"):
        fn.fit_many([trainer_on("cpu"), trainer_on("cuda")], there[0], Y, **FIT)


def test_cross_validation_and_ensembles(card: StandIn, tmp_path: Path) -> None:
    given: dict[str, Any] = {"folds": 3, "epochs": 1, "progress": False}
    found = [fn.cross_validate(lambda d=d: trainer_on(d), X, Y, **given) for d in ("cpu", "cuda")]
    np.testing.assert_allclose(found[1]["loss"], found[0]["loss"], atol=1e-4)
    there = fn.cross_validate(lambda: trainer_on("cuda"), card.asarray(X), card.asarray(Y), **given)
    assert there["loss"] == found[1]["loss"]
    trainers = several("cuda")
    fn.fit_many(trainers, X, Y, **FIT)
    ensemble = fn.Ensemble([trainer.model for trainer in trainers])
    ensemble.save(tmp_path / "three")
    np.testing.assert_array_equal(fn.load(tmp_path / "three").predict(X), ensemble.predict(X))


# ---------------------------------------------------------------- callbacks and files


@pytest.mark.parametrize(
    "given",
    [
        lambda: fn.EarlyStopping(patience=1, min_delta=0.5),
        lambda: fn.EarlyStopping(patience=2, every_steps=3, min_delta=0.1),
        lambda: fn.ReduceLROnPlateau(patience=0, threshold=0.5),
        lambda: fn.WeightAverage(start=1),
        lambda: fn.LRFinder(steps=15, use=True),
    ],
    ids=["early", "early by steps", "plateau", "average", "finder"],
)
def test_callbacks(given: Any) -> None:
    both(callbacks=lambda: [given()], epochs=5, validation_split=0.2)


@pytest.mark.parametrize("case", ["adam, accumulated, averaged", "cycles"])
def test_a_fit_killed_inside_an_epoch_goes_on_to_the_same_bits(case: str, tmp_path: Path) -> None:
    x, y = rows()
    whole = make(case, "cuda")
    expected = whole.fit(x, y, callbacks=callbacks(tmp_path / "whole", 0), **GIVEN)
    with pytest.raises(Killed):
        make(case, "cuda").fit(x, y, callbacks=callbacks(tmp_path / "c", 18), **GIVEN)
    resumed = make(case, "cuda")
    resumed.resume(tmp_path / "c")
    assert resumed.fit(x, y, callbacks=callbacks(tmp_path / "c", 0), **GIVEN) == expected
    assert everything(resumed) == everything(whole)


def test_averages_of_accumulated_steps_and_their_statistics() -> None:
    def made(device: str) -> fn.Trainer:
        net = fn.Dense(13), fn.BatchNorm(), fn.Activation("relu"), fn.Dense(4)
        return trainer_on(device, *net, optimizer=fn.SGD(0.05, ema=0.9, accumulate=2))

    models = [trainer.averaged() for trainer in both(made)]
    for model in models:
        fn.update_statistics(model, X)
    np.testing.assert_allclose(models[1].parameters, models[0].parameters, atol=5e-6)
    np.testing.assert_allclose(models[1].buffers, models[0].buffers, atol=1e-5)


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize(
    "sampler",
    [
        samplers.Balanced(),
        samplers.Weighted(np.linspace(0, 1, N)),
        samplers.Curriculum(np.arange(float(N)), epochs=2),
        lambda rng, epoch: rng.permutation(N)[: 50 * epoch],
    ],
    ids=["balanced", "weighted", "curriculum", "own"],
)
def test_samplers(sampler: Any) -> None:
    both(sampler=sampler)


@pytest.mark.parametrize("alpha", [0.3, 2.0])
def test_augmentations_of_arrays_here_and_there(alpha: float, card: StandIn) -> None:
    augment = [fn.Mixup(alpha), fn.ColumnDropout(0.2), fn.GaussianNoise(0.1)]
    weight = np.linspace(0, 1, N)
    _, sent = both(augment=augment, sample_weight=weight, class_weight="balanced", validation_split=0.2)
    ours = trainer_on("cuda")
    more: Any = {"augment": augment, "class_weight": "balanced", "validation_split": 0.2}
    ours.fit(card.asarray(X), card.asarray(Y), sample_weight=card.asarray(weight), **FIT, **more)
    assert_alike(sent, ours, atol=0)


def test_what_is_asked_of_a_card_with_arrays_of_cupy(card: StandIn) -> None:
    found = []
    for x, y, w in ((X, Y, np.ones(N)), tuple(card.asarray(a) for a in (X, Y, np.ones(N)))):
        trainer = trainer_on("cuda", metrics=["accuracy", "f1"])
        trainer.fit(x, y, validation_data=(x[:30], y[:30], w[:30]), **FIT)
        proba = trainer.predict_proba(x)
        found.append((trainer, trainer.evaluate(x, y, sample_weight=w), proba, trainer.gradient(x, y)))
    assert_alike(found[0][0], found[1][0], atol=0)
    assert found[0][1] == found[1][1]
    np.testing.assert_array_equal(found[0][2], found[1][2])
    np.testing.assert_array_equal(found[0][3][1], found[1][3][1])
    with pytest.raises(ValueError, match=r"x must have at least one row, got shape \(0, 9\)"):
        trainer.evaluate(card.asarray(X[:0]), Y[:0])


def test_arrays_of_another_card_or_library_are_refused(card: StandIn) -> None:
    trainer = trainer_on("cuda")
    trainer.partial_fit(X, Y)
    with card.cuda.Device(1):
        other = card.asarray(X)
    for call in (trainer.partial_fit, trainer.gradient, trainer.evaluate):
        with pytest.raises(ValueError, match="x must be on card 0 as the model is, got one on card 1"):
            call(other, Y)
    with pytest.raises(ValueError, match="got one on card 1"):
        trainer.predict(other)
    trainer_on("cuda:1").partial_fit(other, Y)

    class Tensor:
        __cuda_array_interface__ = None
        dtype, shape = X.dtype, X.shape

    with pytest.raises(TypeError, match=r"x must be an array of NumPy or CuPy, got .*\.Tensor; pass cupy"):
        trainer.partial_fit(Tensor(), Y)


def test_a_table_is_predicted_by_its_recipe() -> None:
    table = {f"c{j}": X[:, j] for j in range(9)} | {"kind": np.array(["a", "b", "c"])[Y % 3]}
    recipe = fn.data.Recipe.fit(table, target="kind")
    x = recipe.matrix(table, np.dtype("float32"))
    found = []
    for device in ("cpu", "cuda"):
        trainer = trainer_on(device)
        trainer.model.recipe = recipe
        trainer.fit(x, Y % 3, **FIT)
        found.append(trainer.predict(table))
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)
