"""Odd surroundings, and numbers at the edge of a type: right results or a clear error."""

from __future__ import annotations

import copy
import io
import pickle
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fastnn as fn
from fastnn import devices

Array = NDArray[Any]

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 4)).astype(np.float32)
LABELS = RNG.integers(0, 3, 40)


def make(optimizer: Any = "adam", dtype: str = "float32", device: str = "cpu") -> fn.Trainer:
    model = fn.Sequential(fn.Dense(6, "tanh"), fn.Dense(3), dtype=dtype)
    return fn.Trainer(model, "cross_entropy", optimizer, ["accuracy"], device=device, seed=1)


# ---------------------------------------------------------------- models built anew

COPIES: list[Callable[[Any], Any]] = [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))]


@pytest.mark.parametrize("again", COPIES)
def test_a_copied_trainer_forgets_what_it_knew_of_a_model_that_is_built_anew(again: Any) -> None:
    fresh = make()
    fresh.model.build(4, seed=9)
    expected = fresh.fit(X, LABELS, epochs=2)
    trainer = make()
    trainer.fit(X, LABELS, epochs=3)
    copied = again(trainer)
    copied.model.build(4, seed=9)
    assert again(copied).fit(X, LABELS, epochs=2) == expected
    assert copied.fit(X, LABELS, epochs=2) == expected
    assert (copied.epoch, copied.step) == (2, fresh.step)
    assert copied.history == expected


@pytest.mark.parametrize("again", COPIES)
def test_a_trainer_copied_after_its_model_was_built_anew_starts_anew(again: Any) -> None:
    trainer = make()
    trainer.fit(X, LABELS, epochs=3)
    trainer.model.build(4, seed=9)
    copied = again(trainer)
    expected = trainer.fit(X, LABELS, epochs=2)
    assert copied.fit(X, LABELS, epochs=2) == expected
    assert copied.history == expected


def test_a_copied_trainer_whose_program_cannot_be_made_keeps_its_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer = make()
    trainer.fit(X, LABELS, epochs=2)
    copied = copy.deepcopy(trainer)

    def full(*arguments: Any, **keywords: Any) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(devices, "make", full)
        with pytest.raises(MemoryError):
            copied.fit(X, LABELS)
    assert copied.step == trainer.step
    assert copied.fit(X, LABELS) == trainer.fit(X, LABELS)


# ---------------------------------------------------------------- numbers at the edge


@pytest.mark.parametrize("last", ["sigmoid", "softmax"])
def test_probabilities_before_binary_cross_entropy_are_refused(last: str) -> None:
    for layers in ((fn.Dense(1, last),), (fn.Dense(1), fn.Activation(last), fn.Dropout(0.1))):
        with pytest.raises(ValueError, match="takes logits and applies sigmoid itself"):
            fn.Trainer(fn.Sequential(*layers), "binary_cross_entropy", "sgd")
    fn.Trainer(fn.Sequential(fn.Dense(1, last)), "mse", "sgd")
    fn.Trainer(fn.Sequential(fn.Dense(3, "sigmoid"), fn.Dense(1)), "binary_cross_entropy", "sgd")


@pytest.mark.parametrize("weight", [5e-324, 1e-320, 1e-310, 1e300, 1e308])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("device", ["cpu", "numpy"])
def test_means_do_not_depend_on_the_scale_of_the_weights(weight: float, dtype: str, device: str) -> None:
    plain, weighted = make(dtype=dtype, device=device), make(dtype=dtype, device=device)
    weights = np.full(40, weight)
    first = plain.fit(X, LABELS, epochs=2, batch_size=16, sample_weight=np.ones(40))
    second = weighted.fit(X, LABELS, epochs=2, batch_size=16, sample_weight=weights)
    np.testing.assert_allclose(second["loss"], first["loss"], rtol=1e-6)
    np.testing.assert_allclose(weighted.model.parameters, plain.model.parameters, rtol=1e-4, atol=1e-6)
    measured = weighted.evaluate(X, LABELS, weights)
    for name, value in weighted.evaluate(X, LABELS).items():
        assert measured[name] == pytest.approx(value, rel=1e-6)
    z = X[:, :3].astype(dtype)
    loss, gradient = fn.ops.cross_entropy(z, LABELS, weights)
    np.testing.assert_allclose(loss, fn.ops.cross_entropy(z, LABELS)[0], rtol=1e-6)
    np.testing.assert_allclose(gradient, fn.ops.cross_entropy(z, LABELS)[1], rtol=1e-5, atol=1e-8)
    for loss_of, y in ((fn.ops.mse, z), (fn.ops.binary_cross_entropy, (z > 0).astype(dtype))):
        plain_loss, _ = loss_of(z + 1, y)
        assert loss_of(z + 1, y, weights)[0] == pytest.approx(plain_loss, rel=1e-6)


def test_class_weights_of_any_scale_give_the_same_training() -> None:
    losses = []
    for scale in (1.0, 1e-300, 1e300):
        trainer = make(dtype="float64")
        weights = np.full(40, 1e308 * 0.5) if scale > 1 else None
        table = {0: scale, 1: 2 * scale, 2: 3 * scale}
        losses.append(trainer.fit(X, LABELS, epochs=2, sample_weight=weights, class_weight=table)["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-12)
    np.testing.assert_allclose(losses[2], losses[0], rtol=1e-12)


def test_ordinary_weights_are_left_as_they_are() -> None:
    weights = np.array([0.3, 0.0, 1e-12, 7.0])
    assert fn.errors.sample_weights("w", weights, 4) is weights


@pytest.mark.parametrize(
    ("optimizer", "dtype", "message"),
    [
        (fn.SGD(lr=1e39), "float32", "lr must be at most 3.40282e+38 in float32, got 1e+39"),
        (fn.SGD(weight_decay=1e39), "float32", "weight_decay must be at most"),
        (fn.Adam(eps=1e39), "float32", "eps must be at most"),
        (fn.Adam(eps=1e-50), "float32", "eps must be 0 or at least 1.4013e-45 in float32"),
    ],
)
def test_rates_are_judged_in_the_dtype_of_the_model(optimizer: Any, dtype: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make(optimizer, dtype)
    make(optimizer, "float64")


def test_numbers_too_large_for_a_float_are_refused() -> None:
    for refused in (lambda: fn.SGD(lr=10**400), lambda: fn.Adam(eps=10**5000), lambda: fn.Dropout(10**400)):
        with pytest.raises(ValueError, match="got an integer of"):
            refused()
    with pytest.raises(ValueError, match="lr must be at least 0 and finite"):
        fn.ops.sgd_update(np.zeros(2), np.zeros(2), lr=10**400)
    with pytest.raises(ValueError, match="seed must be from 0"):
        fn.Sequential(fn.Dense(1)).build(2, seed=10**5000)


def test_updates_of_ops_judge_as_the_optimizers_do() -> None:
    w, g, m, v = (np.zeros(3, np.float32) for _ in range(4))
    for betas in (0.9, (0.9,), (0.9, 0.99, 0.999)):
        with pytest.raises(TypeError, match="betas must be two numbers"):
            fn.ops.adam_update(w, g, m, v, step=1, betas=betas)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="step must be from 1 to"):
        fn.ops.adam_update(w, g, m, v, step=2**63)
    with pytest.raises(ValueError, match=r"lr must be at most 3.40282e\+38 in float32"):
        fn.ops.sgd_update(w, g, lr=1e39)
    with pytest.raises(ValueError, match="eps must be 0 or at least"):
        fn.ops.adam_update(w, g, m, v, step=1, eps=1e-50)
    fn.ops.adam_update(w, g, m, v, step=2**62)


def test_a_batch_larger_than_the_data_is_all_the_data() -> None:
    expected = make().fit(X, LABELS, epochs=2, batch_size=40)
    for size in (41, 2**31, 2**63, 10**30):
        assert make().fit(X, LABELS, epochs=2, batch_size=size) == expected


# ---------------------------------------------------------------- stderr


class Odd:
    """A stream of someone else's: what it does not have, nobody may need."""

    def __init__(self, error: type[Exception] | None = None) -> None:
        self.error = error
        self.looks = 0

    def __getattr__(self, name: str) -> Any:
        if self.error is None:
            raise AttributeError(name)
        if name in ("write", "flush", "isatty"):
            object.__setattr__(self, "looks", self.looks + 1)
            raise self.error("no")
        raise AttributeError(name)


def closed() -> Any:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [closed, Odd, lambda: Odd(OSError), lambda: Odd(ValueError), lambda: None])
@pytest.mark.parametrize("progress", [None, True, False])
def test_a_stderr_that_takes_nothing_ends_no_training(
    stream: Any, progress: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stops(fn.Callback):
        def on_epoch_end(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
            if epoch == 2:
                trainer.stop("enough")

    trainer, made = make(), stream()
    monkeypatch.setattr(sys, "stderr", made)
    trainer.fit(X, LABELS, epochs=3, progress=progress, callbacks=[Stops()])
    monkeypatch.undo()
    assert trainer.epoch == 2
    if progress is False and isinstance(made, Odd):
        assert made.looks == 0


class Broken(io.StringIO):
    """A terminal whose other end has gone."""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_a_terminal_that_goes_away_ends_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make()
    monkeypatch.setattr(sys, "stderr", Broken())
    trainer.fit(X, LABELS, epochs=3, progress=True)
    monkeypatch.undo()
    assert trainer.epoch == 3


# ---------------------------------------------------------------- arrays


def test_a_user_who_raises_on_all_floating_point_events_sees_none() -> None:
    tiny = X.astype(np.float64) * 1e-60  # underflows in float32
    with np.errstate(all="ignore"):
        expected = make().fit(tiny, LABELS, epochs=2, sample_weight=np.full(40, 1e-320))
        predicted = make().model.build(4).predict(tiny)
    with np.errstate(all="raise"):
        trainer = make()
        assert trainer.fit(tiny, LABELS, epochs=2, sample_weight=np.full(40, 1e-320)) == expected
        trainer.evaluate(tiny, LABELS)
        trainer.predict_proba(tiny)
        np.testing.assert_array_equal(make().model.build(4).predict(tiny), predicted)
        with pytest.raises(ValueError, match="x has values too large for float32"):
            trainer.predict(np.full((1, 4), 1e39))


@pytest.mark.parametrize("metric", ["mse", "rmse", "mae", "log_loss"])
def test_metrics_of_a_user_who_raises_on_all_events(metric: str) -> None:
    binary = metric == "log_loss"
    y = (X[:, 0] > 0).astype(float) if binary else X[:, 0] * 1e-200
    x, loss = X * (1e3 if binary else 1.0), "binary_cross_entropy" if binary else "mse"
    trainer = fn.Trainer(fn.Sequential(fn.Dense(1), dtype="float64"), loss, fn.SGD(0.0), [metric], seed=0)
    if not binary:
        trainer.model.build(4).parameters[...] = 0
    with np.errstate(all="raise"):
        history = trainer.fit(x, y, validation_split=0.2)
    assert np.isfinite(history[metric]).all()


def test_masked_values_are_refused_by_name() -> None:
    masked = np.ma.masked_invalid([[np.nan, 1, 2, 3]])
    trainer = make()
    trainer.fit(X, LABELS)
    for use in (trainer.predict, trainer.model.predict):
        with pytest.raises(TypeError, match=r"x must have no masked values; np.ma.filled\(x, "):
            use(masked)
    with pytest.raises(TypeError, match="y must have no masked values"):
        trainer.fit(X, np.ma.masked_equal(LABELS, 1))
    with pytest.raises(TypeError, match="sample_weight must have no masked"):
        trainer.fit(X, LABELS, sample_weight=np.ma.masked_less(np.arange(40), 3))
    with pytest.raises(TypeError, match="z must have no masked values"):
        fn.ops.relu(masked)
    whole = np.ma.masked_array(X, mask=np.zeros(X.shape, bool))
    np.testing.assert_array_equal(trainer.predict(whole), trainer.predict(X))


# ---------------------------------------------------------------- what a loss that is not finite comes from


def own_with_nan(z, y, weight):
    return float(((z - y) ** 2).mean()), np.full_like(z, np.nan)


@pytest.mark.parametrize("device", ["cpu", "numpy"])
def test_the_cause_of_a_loss_that_is_not_finite_is_named(device):
    x = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    codes = np.where(np.arange(4) == 2, 1.5, x).astype(np.float32)
    for layers, loss, rows, text in [
        ([], own_with_nan, x, "but 'own_with_nan' gave a loss or a dz .* fastnn.losses.check"),
        ([], fn.losses.Poisson(log_input=False), x, "one below 0 has no logarithm.* softplus"),
        ([fn.Embedding(((2, 3, 2),))], "mse", codes, r"a code in the columns \[2\] of x is no whole number"),
    ]:
        trainer = fn.Trainer(fn.Sequential(*layers, fn.Dense(1)), loss, "sgd", seed=0, device=device)
        with pytest.raises(fn.DivergenceError, match=text):
            trainer.fit(rows, abs(x[:, :1]))


def test_flatten_may_stand_behind_what_takes_numbers_one_by_one():
    x = np.arange(64, dtype=np.uint8).reshape(4, 4, 4)
    model = fn.Sequential(fn.Scale(1 / 64), fn.Dropout(0.2), fn.Flatten(), fn.Dense(2))
    trainer = fn.Trainer(model, "mse", "sgd", seed=0)
    trainer.fit(x, np.zeros((4, 2)))
    np.testing.assert_array_equal(model.predict(x), model.predict(x.reshape(4, 16)))
    late = fn.Sequential(fn.Dense(3), fn.Flatten(), fn.Dense(2)).build(16)
    with pytest.raises(ValueError, match=r"x must be 2-D, as Flatten comes after Dense\(units=3\)"):
        late.predict(x)
    with pytest.raises(
        ValueError, match=r"x must be 2-D .* a model that begins with Flatten\(\) takes rows of"
    ):
        fn.Sequential(fn.Dense(2)).build(16).predict(x)


def test_gaussian_nll_of_huge_numbers_is_one_on_both_devices():
    found = []
    for device in ("cpu", "numpy"):
        trainer = fn.Trainer(fn.Sequential(fn.Dense(2)), "gaussian_nll", "sgd", seed=0, device=device)
        trainer.model.build(2).parameters = np.array([1, 0, 0, 1, 0, 0])
        found.append(trainer.gradient(np.array([[1e38, 89]], np.float32), np.array([[-1e38]], np.float32)))
    assert found[0][0] == found[1][0] == 44.5
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-6)
