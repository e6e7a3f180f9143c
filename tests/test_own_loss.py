"""A loss of the user's own, on both devices, and the check of gradients."""

import copy

import numpy as np
import pytest

import fastnn as fn
from fastnn import losses

X = np.random.default_rng(0).standard_normal((60, 3))
Y = X[:, :2] ** 2
WEIGHT = np.random.default_rng(1).random(60)


def squares(z, y, sample_weight):
    """mse, written by a user."""
    w = np.ones(len(z)) if sample_weight is None else sample_weight
    w = (w / w.sum())[:, None] / z.shape[1]
    return float((w * (z - y) ** 2).sum()), 2 * w * (z - y)


def entropy(z, y, sample_weight):
    return fn.ops.cross_entropy(z, y, sample_weight)


def make(loss, device="cpu", **more):
    model = fn.Sequential(fn.Dense(5, activation="tanh"), fn.Dense(2), dtype="float64").build(3, seed=1)
    return fn.Trainer(model, loss, fn.Adam(lr=0.05), device=device, seed=0, **more)


@pytest.mark.parametrize("device", ["cpu", "numpy"])
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_it_trains_as_the_same_loss_of_ours(device, weight, threads):
    for own, ours, y in (
        (squares, "mse", Y),
        (losses.Custom(entropy, takes_labels=True), "cross_entropy", (X[:, 0] > 0).astype(int)),
    ):
        mine, theirs = make(own, device), make(ours, device)
        for trainer in (mine, theirs):
            trainer.fit(X, y, epochs=4, batch_size=16, sample_weight=weight, validation_split=0.2)
        np.testing.assert_allclose(mine.model.parameters, theirs.model.parameters, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(mine.history["loss"], theirs.history["loss"], rtol=1e-9)
        np.testing.assert_allclose(mine.history["val_loss"], theirs.history["val_loss"], rtol=1e-9)
        assert mine.evaluate(X, y, weight) == pytest.approx(theirs.evaluate(X, y, weight), rel=1e-9)
        for found, expected in zip(mine.gradient(X, y, weight), theirs.gradient(X, y, weight), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-12)


def test_threads_train_to_the_same_bits(threads):
    found = set()
    for n in (1, 2, 3, 4):
        threads(n)
        x = np.random.default_rng(3).standard_normal((256, 64)).astype(np.float32)
        model = fn.Sequential(fn.Dense(128, activation="relu"), fn.Dense(2))
        trainer = fn.Trainer(model, squares, "sgd", seed=0)
        trainer.fit(x, x[:, :2], epochs=3, batch_size=128)
        found.add(model.parameters.tobytes())
    assert len(found) == 1


@pytest.mark.parametrize("device", ["cpu", "numpy"])
def test_it_is_given_the_whole_batch_once_a_step_as_copies(device, threads):
    threads(2)
    seen = []

    def loss(z, y, sample_weight):
        found = squares(z, y, sample_weight)
        seen.append((z.shape, z.dtype, y.shape, None if sample_weight is None else sample_weight.dtype))
        z[:] = y[:] = np.nan
        return found

    trainer = make(loss, device)
    trainer.run(X, Y, np.arange(60).reshape(3, 20))
    trainer.run(X, Y, [[1]], sample_weight=WEIGHT)
    real = np.dtype(np.float64)
    assert seen == [((20, 2), real, (20, 2), None)] * 3 + [((1, 2), real, (1, 2), real)]
    assert np.isfinite(Y).all()
    assert np.isfinite(trainer.model.parameters).all()


class OfUsers(Exception):
    pass


@pytest.mark.parametrize("device", ["cpu", "numpy"])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_what_it_raises_ends_the_run_before_the_update(device, n, threads):
    threads(n)
    calls = []

    def loss(z, y, sample_weight):
        calls.append(len(z))
        if len(calls) == 3:
            raise error
        return squares(z, y, sample_weight)

    for error in (OfUsers("here"), KeyboardInterrupt()):
        calls.clear()
        trainer, other = make(loss, device), make(squares, device)
        order = np.arange(60).reshape(6, 10)
        with pytest.raises(type(error)) as found:
            trainer.run(X, Y, order)
        assert found.value is error
        assert any("loss" in entry.name for entry in found.traceback)
        other.run(X, Y, order[:2])
        assert trainer.step == other.step == 2
        assert trainer.model.parameters.tobytes() == other.model.parameters.tobytes()
        trainer.run(X, Y, order[2:])  # of use again
        other.run(X, Y, order[2:])
        assert trainer.model.parameters.tobytes() == other.model.parameters.tobytes()


@pytest.mark.parametrize("device", ["cpu", "numpy"])
@pytest.mark.parametrize(
    ("give", "error", "text"),
    [
        (lambda z: 1.0, TypeError, r"must give \(loss, dz\), got float"),
        (lambda z: ("1", z), TypeError, "must give a number as the loss, got '1'"),
        (lambda z: (1.0, z[:1]), ValueError, r"must give dz of shape \(60, 2\) as z, got \(1, 2\)"),
        (lambda z: (1.0, "no"), TypeError, "the gradient of loss 'loss' must hold real numbers"),
        (lambda z: (np.nan, z), fn.DivergenceError, "the loss is not finite"),
        (lambda z: (1.0, z * np.inf), fn.DivergenceError, "the loss is not finite"),
    ],
)
def test_what_it_gives_is_judged(device, give, error, text):
    def loss(z, y, sample_weight):
        return give(z)

    trainer = make(loss, device)
    before = trainer.model.parameters.copy()
    with pytest.raises(error, match=text):
        trainer.partial_fit(X, Y)
    with pytest.raises(error, match=text):
        trainer.gradient(X, Y)
    np.testing.assert_array_equal(trainer.model.parameters, before)


def test_a_batch_without_weight_does_not_reach_it():
    trainer = make(lambda z, y, sample_weight: pytest.fail("called"))
    before = trainer.model.parameters.copy()
    assert np.isnan(trainer.run(X, Y, [[0, 1]], sample_weight=(np.arange(60) > 1).astype(float)))
    np.testing.assert_array_equal(trainer.model.parameters, before)


def test_a_bad_row_ends_the_step_for_the_whole_team(threads):
    x = np.random.default_rng(3).standard_normal((512, 64)).astype(np.float32)
    x[500, 3] = np.inf
    for n in (1, 2, 4):
        threads(n)
        model = fn.Sequential(fn.Dense(256, activation="relu"), fn.Dense(2))
        trainer = fn.Trainer(model, squares, "sgd", seed=0)
        with pytest.raises(fn.DivergenceError, match="x itself has a value"):
            trainer.fit(x, x[:, :2] * 0, batch_size=512)


def test_checkpoints_keep_its_name_and_not_the_function(tmp_path):
    trainer = make(squares)
    trainer.fit(X, Y, epochs=2)
    trainer.save_checkpoint(tmp_path / "c")
    again = make(losses.Custom(lambda z, y, w: squares(z, y, w), name="squares"))
    again.resume(tmp_path / "c")
    assert again.evaluate(X, Y) == trainer.evaluate(X, Y)
    with pytest.raises(ValueError, match="loss is Custom"):
        make(losses.Custom(squares, "others")).resume(tmp_path / "c")
    copied = copy.deepcopy(trainer)
    assert copied.evaluate(X, Y) == trainer.evaluate(X, Y)


def test_its_labels_have_accuracy():
    labels = (X[:, 0] > 0).astype(int)
    trainer = make(losses.Custom(entropy, takes_labels=True), metrics=["accuracy"])
    trainer.fit(X, labels, epochs=30)
    assert trainer.evaluate(X, labels)["accuracy"] > 0.9
    with pytest.raises(ValueError, match="labels from 0 to 1, got 2"):
        trainer.fit(X, labels + 1)
    with pytest.raises(ValueError, match="predict_proba needs"):
        trainer.predict_proba(X)


def test_check_says_where_a_gradient_is_off():
    z, y = X[:4, :2], Y[:4]
    assert losses.check(squares, z, y, WEIGHT[:4]) < 1e-8
    assert losses.check(losses.Custom(entropy, takes_labels=True), z, [0, 1, 1, 0]) < 1e-8
    assert losses.check("cross_entropy", z, [0, -100, 1, 0]) < 1e-8

    def sums(z, y, w):
        return float(((z - y) ** 2).mean()), 2 * (z - y)

    with pytest.raises(
        ValueError, match=r"loss 'sums' .* \(8 of 8 numbers are off\); all of it is 8 times too large"
    ):
        losses.check(sums, z, y)

    def one_wrong(z, y, w):
        loss, dz = squares(z, y, w)
        dz[2, 1] += 1
        return loss, dz

    with pytest.raises(ValueError, match=r"got dz\[2, 1\] = .* \(1 of 8 numbers are off\)$"):
        losses.check(one_wrong, z, y)
    with pytest.raises(ValueError, match="z must have at least one row"):
        losses.check("mse", np.zeros((0, 2)), np.zeros((0, 2)))
