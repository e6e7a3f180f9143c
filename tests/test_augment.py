"""Augmentations: compiled equals reference, worked values, distributions; nothing but training is touched."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn as fn
from fastnn import augment
from fastnn.devices import array_augment
from fastnn.devices.array_augment import augmented

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 70)).astype(np.float32)
Y = RNG.integers(0, 4, 90)


def make(
    loss: Any = "cross_entropy", *, device: str = "cpu", dtype: str = "float32", n_out: int = 4
) -> fn.Trainer:
    model = fn.Sequential(fn.Dense(9, "tanh"), fn.Dense(n_out), dtype=dtype)
    return fn.Trainer(model, loss, fn.SGD(0.1), device=device, seed=3)


AUGMENTS = {
    "mixup": [fn.Mixup(0.4)],
    "mixup of large alpha": [fn.Mixup(3.0)],
    "swap": [fn.ColumnDropout(0.3)],
    "noise": [fn.GaussianNoise(0.2)],
    "all": [fn.Mixup(1.0), fn.ColumnDropout(0.2), fn.GaussianNoise(0.1), fn.ColumnDropout(0.1)],
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", AUGMENTS)
@pytest.mark.parametrize("weighted", [False, True])
def test_compiled_equals_the_reference(name: str, dtype: str, weighted: bool, isa: str) -> None:
    weight = np.where(np.arange(90) % 7 == 0, 0.0, np.linspace(0.5, 3, 90)) if weighted else None
    both = [make(device=device, dtype=dtype) for device in ("cpu", "numpy")]
    losses = [
        one.fit(X.astype(dtype), Y, epochs=2, batch_size=16, sample_weight=weight, augment=AUGMENTS[name])[
            "loss"
        ]
        for one in both
    ]
    # As for layers of noise: normal numbers differ in their last bits.
    tolerance = 2e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(losses[0], losses[1], rtol=tolerance)
    np.testing.assert_allclose(both[0].model.parameters, both[1].model.parameters, rtol=0, atol=5 * tolerance)


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        ("mse", X[:, :4] * 2),
        ("huber", X[:, :4] * 2),
        ("binary_cross_entropy", (X[:, :4] > 0).astype(np.float32)),
        ("cross_entropy", np.abs(X[:, :4]) / np.abs(X[:, :4]).sum(1, keepdims=True)),
        (fn.CrossEntropy(label_smoothing=0.1), Y),
        (fn.CrossEntropy(ignore_index=2), Y),
        (lambda z, y, w: (float(((z - y) ** 2).mean()), 2 * (z - y) / z.size), X[:, :4].copy()),
    ],
)
def test_targets_of_all_kinds_are_mixed(loss: Any, y: Any) -> None:
    both = [make(loss, device=device) for device in ("cpu", "numpy")]
    for one in both:
        one.fit(X, y, epochs=2, batch_size=13, augment=AUGMENTS["all"])
    np.testing.assert_allclose(both[0].model.parameters, both[1].model.parameters, rtol=0, atol=1e-4)


@pytest.mark.parametrize("scale", [None, fn.Scale(1 / 255), fn.Scale(1 / 64, -2.0)])
def test_bytes_are_augmented_in_their_own_units(scale: Any) -> None:
    x = RNG.integers(0, 256, (90, 70)).astype(np.uint8)
    first = [] if scale is None else [scale]
    both = []
    for device in ("cpu", "numpy"):
        model = fn.Sequential(*first, fn.Dense(4), dtype="float64")
        one = fn.Trainer(
            model, "cross_entropy", fn.SGD(1e-6 if scale is None else 0.1), device=device, seed=1
        )
        one.fit(
            x, Y, epochs=2, batch_size=16, augment=[fn.Mixup(), fn.ColumnDropout(0.1), fn.GaussianNoise(20.0)]
        )
        both.append(one.model.parameters)
    np.testing.assert_allclose(both[0], both[1], rtol=0, atol=1e-11)


def test_bits_do_not_depend_on_threads(threads: Any) -> None:
    found = set()
    x = RNG.normal(size=(600, 300)).astype(np.float32)
    y = RNG.integers(0, 10, 600)
    for n in (1, 2, 3):
        threads(n)
        one = fn.Trainer(fn.Sequential(fn.Dense(300, "relu"), fn.Dense(10)), "cross_entropy", "adam", seed=0)
        one.fit(x, y, epochs=3, batch_size=200, augment=AUGMENTS["all"])
        found.add(one.model.parameters.tobytes())
    assert len(found) == 1


def test_the_gradient_of_a_mixture_is_the_mixture_of_gradients() -> None:
    """Worked: with weights, each of the two rows counts in the loss as its weight and share say."""
    weights = np.linspace(0.2, 2, 8)
    x, y = X[:8].astype(np.float64), Y[:8]
    one, other = (make(dtype="float64") for _ in range(2))
    one.fit(x, y, batch_size=8, shuffle=False, sample_weight=weights, augment=[fn.Mixup(1.0)])
    share, shift = array_augment._mixture(np, 3, 0, 0xFF00, 1.0, 8)
    assert 0 < share < 1
    assert 1 <= shift <= 7
    partner = np.roll(np.arange(8), -shift)
    mixed = share * x + (1 - share) * x[partner]
    # The same step from 16 rows, each mixture twice, once for each of its labels.
    both = np.concatenate([mixed, mixed]), np.concatenate([y, y[partner]])
    counts = np.concatenate([share * weights, (1 - share) * weights[partner]])
    other.fit(*both, batch_size=16, shuffle=False, sample_weight=counts)
    np.testing.assert_allclose(one.model.parameters, other.model.parameters, rtol=0, atol=1e-14)


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0, 1.5, 8.0])
def test_shares_have_the_beta_distribution(alpha: float) -> None:
    n = 3000
    shares = np.array([array_augment._mixture(np, 5, step, 0xFF00, alpha, 4)[0] for step in range(n)])
    assert abs(shares.mean() - 0.5) < 5 * math.sqrt(1 / (4 * (2 * alpha + 1)) / n)
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(shares.var() / variance - 1) < 0.15
    shifts = np.bincount([array_augment._mixture(np, 5, step, 0xFF00, alpha, 4)[1] for step in range(300)])
    assert shifts[0] == 0
    assert (shifts[1:] > 60).all()


def test_swapped_numbers_are_those_of_their_column_and_as_many_as_the_rate_says() -> None:
    x = np.arange(400.0)[:, None] + 1000 * np.arange(50)
    rows = np.arange(100, 300)
    batch = x[rows].copy()
    y, weight = augmented(np, (("swap", 0.25),), 1, 7, (x, Y[:1].repeat(400), None), rows, batch, 4)
    assert weight is None
    assert (y == Y[0]).all()
    changed = batch != x[rows]
    share = 0.25 * (1 - 1 / 200)  # a row may draw itself
    assert abs(changed.mean() - share) < 5 * math.sqrt(share / changed.size)
    assert (batch // 1000 == np.arange(50)).all()
    assert set((batch % 1000).ravel()) <= set(rows.tolist())
    again = x[rows].copy()
    augmented(np, (("swap", 0.25),), 1, 8, (x, Y[:1].repeat(400), None), rows, again, 4)
    assert (again != batch).any()


def test_codes_of_categories_stay_codes() -> None:
    x = np.column_stack([RNG.integers(0, 5, 90), RNG.normal(size=90)]).astype(np.float32)
    model = fn.Sequential(fn.Embedding(((0, 5, 3),)), fn.Dense(4))
    one = fn.Trainer(model, "cross_entropy", "adam", seed=0)
    one.fit(x, Y, augment=[fn.ColumnDropout(0.5)])
    for wrong in ([fn.Mixup()], [fn.GaussianNoise(0.1)]):
        with pytest.raises(ValueError, match=r"augment\[0\] must not change category codes"):
            one.fit(x, Y, augment=wrong)


def test_nothing_but_training_is_augmented() -> None:
    one, other = make(), make()
    history = one.fit(X, Y, epochs=1, validation_data=(X, Y), augment=[fn.GaussianNoise(3.0)])
    assert history["val_loss"][0] == one.evaluate(X, Y)["loss"]
    before = one.model.parameters.copy()
    one.fit(X, Y, epochs=0, augment=[fn.Mixup()])
    assert (one.model.parameters == before).all()
    other.fit(X, Y, epochs=1, augment=[])
    plain = make()
    plain.fit(X, Y, epochs=1)
    assert other.model.parameters.tobytes() == plain.model.parameters.tobytes()
    assert other.run(X, Y, np.arange(90).reshape(3, 30)) == plain.run(X, Y, np.arange(90).reshape(3, 30))


def test_a_fit_that_is_resumed_inside_an_epoch_has_the_same_augmentations(tmp_path: Path) -> None:
    class Stop(fn.Callback):
        def next_step(self, trainer: Any) -> int | None:
            return 4

        def on_step(self, trainer: Any, epoch: int) -> None:
            trainer._pause("here")

    whole, part, resumed = make(), make(), make()
    given: dict[str, Any] = {"epochs": 2, "batch_size": 16, "augment": AUGMENTS["all"]}
    whole.fit(X, Y, **given)
    part.fit(X, Y, callbacks=[fn.ModelCheckpoint(tmp_path / "c"), Stop()], **given)
    resumed.resume(tmp_path / "c")
    files = [fn.ModelCheckpoint(tmp_path / "d"), type("Stop", (fn.Callback,), {})()]
    with pytest.raises(ValueError, match=r"augment was .*mixup.* and is None"):
        resumed.fit(X, Y, epochs=2, batch_size=16, callbacks=files)
    resumed.fit(X, Y, callbacks=files, **given)
    assert resumed.model.parameters.tobytes() == whole.model.parameters.tobytes()


def test_an_infinity_in_x_is_still_seen_before_the_update() -> None:
    x = X.copy()
    x[50, 3] = np.inf
    for device in ("cpu", "numpy"):
        one = make(device=device)
        with pytest.raises(fn.DivergenceError, match="x itself has a value that is not finite"):
            one.fit(x, Y, batch_size=90, augment=AUGMENTS["all"])
        assert one.step == 0


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        (fn.Mixup(), TypeError, "augment must be a list of augmentations, got Mixup"),
        ("mixup", TypeError, "augment must be a list"),
        ([fn.Dropout(0.1)], TypeError, r"augment\[0\] must be Mixup, ColumnDropout or GaussianNoise"),
        ([fn.ColumnDropout(0.1), fn.Mixup()], ValueError, r"augment\[1\] must not be Mixup, of which one"),
        ([fn.ColumnDropout(0.1)] * 17, ValueError, "augment must be at most 16"),
    ],
)
def test_wrong_augmentations_are_named(given: Any, error: type[Exception], text: str) -> None:
    one = make()
    with pytest.raises(error, match=text):
        one.fit(X, Y, augment=given)
    assert one.step == 0


def test_fit_and_program_have_one_limit() -> None:
    most, one = augment.MOST, make()
    one.fit(X, Y, augment=[fn.ColumnDropout(0.1)] * most)
    program, order = one._current_program(), np.arange(8).reshape(1, -1)
    too_many = (("swap", 0.1),) * (most + 1)
    with pytest.raises(ValueError, match=f"augment must be at most {most}, got {most + 1}"):
        program.run(X, Y, order, np.full(1, 0.1), augment=too_many)


def test_what_cannot_be_mixed_is_refused() -> None:
    for loss, y in (("multi_margin", Y), ("hinge", np.where(X[:, :4] > 0, 1.0, -1.0))):
        with pytest.raises(ValueError, match="loss must have targets that can be mixed"):
            make(loss).fit(X, y, augment=[fn.Mixup()])
    one = fn.Trainer(fn.Sequential(fn.Dense(4)), "cross_entropy", fn.LBFGS(), seed=0)
    with pytest.raises(ValueError, match="augment must be empty with LBFGS"):
        one.fit(X, Y, batch_size=None, augment=[fn.GaussianNoise(0.1)])
    with pytest.raises(ValueError, match="alpha must be above 0"):
        fn.Mixup(0)
    with pytest.raises(ValueError, match="rate must be"):
        fn.ColumnDropout(1.0)
