"""Averages of weights, full batches, and the search for a learning rate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn as fn
from fastnn import schedules


def rows() -> tuple[Any, Any]:
    x = np.random.default_rng(0).normal(size=(70, 3)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(int)


def make(optimizer: Any, device: str = "cpu") -> fn.Trainer:
    model = fn.Sequential(fn.Dense(5, activation="tanh"), fn.Dense(2))
    return fn.Trainer(model, "cross_entropy", optimizer, seed=0, device=device)


class Seen(fn.Callback):
    def __init__(self) -> None:
        self.parameters: list[Any] = []

    def on_epoch_end(self, trainer: Any, epoch: int, logs: Any) -> None:
        self.parameters.append(trainer.model.parameters.copy())


@pytest.mark.parametrize("device", ["cpu", "numpy"])
def test_the_average_of_the_weights_follows_its_formula(device: str) -> None:
    x, y = rows()
    trainer, seen = make(fn.SGD(0.5, ema=0.8), device), Seen()
    trainer.fit(x, y, epochs=1, batch_size=None, callbacks=[seen])
    expected = trainer.model.parameters.astype(float)
    np.testing.assert_array_equal(trainer.averaged().parameters, trainer.model.parameters)
    trainer.fit(x, y, epochs=5, batch_size=None, callbacks=[seen])
    for w in seen.parameters[1:]:
        expected += 0.2 * (w - expected)
    averaged = trainer.averaged()
    np.testing.assert_allclose(averaged.parameters, expected, rtol=1e-5, atol=1e-7)
    assert averaged.predict(x).shape == (70, 2)
    assert not np.array_equal(averaged.parameters, trainer.model.parameters)


def test_an_average_before_the_first_update_is_the_model() -> None:
    x, y = rows()
    trainer = make(fn.SGD(0.5, ema=0.8, accumulate=3))
    trainer.partial_fit(x, y)
    np.testing.assert_array_equal(trainer.averaged().parameters, trainer.model.parameters)
    with pytest.raises(ValueError, match="averaged needs an optimizer with ema, got SGD"):
        make(fn.SGD()).averaged()


@pytest.mark.parametrize("device", ["cpu", "numpy"])
@pytest.mark.parametrize(
    "optimizer",
    [
        fn.AdamW(0.01, accumulate=4, ema=0.9, clip_norm=0.5),
        fn.RMSprop(centered=True, momentum=0.5),
        fn.NAdam(groups=(fn.Group(weights="*.bias", lr_factor=0.1),)),
        fn.Adagrad(schedules.Cosine(0.1, 30), initial_accumulator_value=0.1),
    ],
    ids=repr,
)
def test_a_resumed_training_ends_with_the_same_bits(optimizer: Any, device: str, tmp_path: Path) -> None:
    x, y = rows()
    whole, killed, resumed = (make(optimizer, device) for _ in range(3))
    for _ in range(5):  # 7 batches an epoch: 4 do not divide them
        whole.fit(x, y, batch_size=11)
    for _ in range(2):
        killed.fit(x, y, batch_size=11)
    killed.save_checkpoint(tmp_path / "c")
    resumed.resume(tmp_path / "c")
    for _ in range(3):
        resumed.fit(x, y, batch_size=11)
    programs = [one._current_program() for one in (whole, resumed)]
    np.testing.assert_array_equal(resumed.model.parameters, whole.model.parameters)
    np.testing.assert_array_equal(programs[0].state, programs[1].state)
    np.testing.assert_array_equal(programs[0].numbers, programs[1].numbers)


def test_swa_is_the_mean_of_the_epochs_that_count() -> None:
    x, y = rows()
    average, seen = fn.WeightAverage(start=3), Seen()
    trainer = make(fn.SGD(0.5))
    trainer.fit(x, y, epochs=6, callbacks=[average, seen])
    assert average.n_averaged == 4
    expected = np.mean(seen.parameters[2:], axis=0, dtype=float)
    np.testing.assert_allclose(trainer.model.parameters, expected, rtol=1e-5, atol=1e-7)
    kept = fn.WeightAverage(replace=False)
    trainer.fit(x, y, epochs=2, callbacks=[kept])
    assert not np.array_equal(kept.parameters, trainer.model.parameters)
    with pytest.raises(ValueError, match="start must be at least 1"):
        fn.WeightAverage(start=0)


def test_swa_resumes_to_the_same_bits(tmp_path: Path) -> None:
    class Kill(fn.Callback):
        at = 0

        def on_epoch_begin(self, trainer: Any, epoch: int) -> None:
            if epoch == self.at:
                raise KeyboardInterrupt

    x, y = rows()

    def callbacks(at: int) -> list[Any]:
        kill = Kill()
        kill.at = at
        return [fn.WeightAverage(start=2), fn.ModelCheckpoint(tmp_path / "c"), kill]

    whole, killed, resumed = (make(fn.SGD(0.5)) for _ in range(3))
    whole.fit(x, y, epochs=6, callbacks=callbacks(0))
    with pytest.raises(KeyboardInterrupt):
        killed.fit(x, y, epochs=6, callbacks=callbacks(4))
    resumed.resume(tmp_path / "c")
    resumed.fit(x, y, epochs=6, callbacks=callbacks(0))
    np.testing.assert_array_equal(resumed.model.parameters, whole.model.parameters)


def normed(dtype: str = "float64") -> fn.Sequential:
    inner = fn.Dense(5), fn.BatchNorm(momentum=0.5)
    layers = fn.Dense(5, activation="tanh"), fn.BatchNorm(), fn.Residual(*inner), fn.Dense(2)
    return fn.Sequential(*layers, dtype=dtype)


@pytest.mark.parametrize("use_buffers", [True, False])
def test_swa_averages_running_statistics_if_asked(use_buffers: bool) -> None:
    class SeenBuffers(fn.Callback):
        def __init__(self) -> None:
            self.buffers: list[Any] = []

        def on_epoch_end(self, trainer: Any, epoch: int, logs: Any) -> None:
            self.buffers.append(trainer.model.buffers.copy())

    x, y = rows()
    seen = SeenBuffers()
    trainer = fn.Trainer(normed(), "cross_entropy", fn.SGD(0.5), seed=0)
    average = fn.WeightAverage(start=2, use_buffers=use_buffers)
    trainer.fit(x, y, epochs=4, callbacks=[average, seen])
    expected = np.mean(seen.buffers[1:], axis=0) if use_buffers else seen.buffers[-1]
    np.testing.assert_allclose(trainer.model.buffers, expected, rtol=1e-12)
    assert not np.array_equal(seen.buffers[1], seen.buffers[-1])


def test_statistics_computed_anew_make_predictions_those_of_the_batch() -> None:
    x, y = rows()
    trainer = fn.Trainer(normed(), "cross_entropy", fn.SGD(0.5, ema=0.5), seed=0)
    trainer.fit(x, y, epochs=3, batch_size=14)
    averaged = trainer.averaged()
    parameters = averaged.parameters.copy()
    np.testing.assert_array_equal(averaged.buffers, trainer.model.buffers)
    fn.update_statistics(averaged, x, batch_size=14)
    np.testing.assert_array_equal(averaged.parameters, parameters)
    w = averaged.weights
    a = np.tanh(x.astype(float) @ w["0.weight"] + w["0.bias"])
    batches = a.reshape(5, 14, 5)  # cumulative: the mean over the batches, of unbiased variances
    np.testing.assert_allclose(averaged.buffers[:5], batches.mean(axis=(0, 1)), rtol=1e-12)
    np.testing.assert_allclose(averaged.buffers[5:10], batches.var(axis=1, ddof=1).mean(axis=0), rtol=1e-12)
    with pytest.raises(ValueError, match="x must have 3 columns"):
        fn.update_statistics(averaged, x[:, :2])
    with pytest.raises(ValueError, match="x must have at least 2 rows, got 1"):
        fn.update_statistics(averaged, x[:1])
    with pytest.raises(ValueError, match="batch_size must be at least 2"):
        fn.update_statistics(averaged, x, batch_size=1)


@pytest.mark.torch
def test_statistics_computed_anew_are_pytorchs() -> None:
    import torch

    x, _ = rows()
    model = fn.Sequential(fn.Dense(5, activation="tanh"), fn.BatchNorm(), fn.Dense(2), dtype="float64")
    model.build(3, seed=0)
    w = {name: torch.from_numpy(value.copy()) for name, value in model.weights.items()}
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.BatchNorm1d(5)).double()
    with torch.no_grad():
        theirs[0].weight.copy_(w["0.weight"].T)
        theirs[0].bias.copy_(w["0.bias"])
    torch.optim.swa_utils.update_bn(torch.from_numpy(x.astype(float)).split(16), theirs)
    fn.update_statistics(model, x, batch_size=16)
    running = torch.cat([theirs[2].running_mean, theirs[2].running_var]).numpy()
    np.testing.assert_allclose(model.buffers, running, rtol=1e-10)


def test_a_full_batch_is_one_step_on_all_rows_in_their_order() -> None:
    x, y = rows()
    full, by_hand = make(fn.SGD(0.5, momentum=0.9)), make(fn.SGD(0.5, momentum=0.9))
    full.fit(x, y, epochs=3, batch_size=None)
    by_hand.run(x, y, np.tile(np.arange(70), (3, 1)))
    assert full.step == 3
    np.testing.assert_array_equal(full.model.parameters, by_hand.model.parameters)


# ---------------------------------------------------------------- the finder


@pytest.mark.parametrize("optimizer", [fn.SGD(0.1, momentum=0.9), fn.AdamW(accumulate=2, ema=0.5)], ids=repr)
def test_the_finder_leaves_the_trainer_as_it_was(optimizer: Any) -> None:
    x, y = rows()
    searched, other = make(optimizer), make(optimizer)
    for trainer in (searched, other):
        trainer.fit(x, y, batch_size=16)
    found = fn.lr_find(searched, x, y, steps=40, batch_size=16)
    assert found.rates[0] == 1e-7
    assert len(found.rates) == len(found.losses) == len(found.smoothed) <= 40
    assert (np.diff(found.rates) > 0).all()
    for trainer in (searched, other):
        trainer.fit(x, y, epochs=2, batch_size=16)
    np.testing.assert_array_equal(searched.model.parameters, other.model.parameters)
    assert searched.step == other.step


def test_the_finder_suggests_a_rate_that_learns() -> None:
    x, y = rows()
    trainer = make(fn.SGD())
    found = fn.lr_find(trainer, x, y, batch_size=16)
    assert found.suggestion is not None
    assert 1e-3 < found.suggestion < 10
    history = make(replace(fn.SGD(), lr=found.suggestion)).fit(x, y, epochs=20, batch_size=16)
    assert history["loss"][-1] < 0.5 * history["loss"][0]


def test_the_finder_ends_where_the_loss_explodes() -> None:
    x = np.linspace(-1, 1, 64)[:, None]
    trainer = fn.Trainer(fn.Sequential(fn.Dense(1), dtype="float64"), "mse", fn.SGD(), seed=0)
    found = fn.lr_find(trainer, x, 3 * x[:, 0], max_lr=1e6, smoothing=0.0, stop_factor=10.0)
    assert len(found.rates) < 100
    assert found.losses[-1] > 10 * found.losses.min()
    assert np.isfinite(found.losses).all()


def test_the_finder_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from fastnn import plots

    x, y = rows()
    figure = plots.learning_rates(fn.lr_find(make("sgd"), x, y), tmp_path / "f.png")
    assert figure.axes[0].get_xscale() == "log"
    assert (tmp_path / "f.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"min_lr": 0.0}, "min_lr must be above 0 and below max_lr"),
        ({"min_lr": 1.0, "max_lr": 0.1}, "min_lr must be above 0 and below max_lr"),
        ({"steps": 1}, "steps must be at least 2"),
        ({"smoothing": 1.0}, "smoothing must be at least 0 and below 1"),
        ({"stop_factor": 1.0}, "stop_factor must be above 1"),
    ],
)
def test_bad_values_are_named(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fn.lr_find(make("sgd"), *rows(), **given)
    with pytest.raises(ValueError, match="optimizer must take mini-batches"):
        fn.lr_find(make("lbfgs"), *rows())


def test_a_batch_without_weight_is_left_out_of_the_finders_mean() -> None:
    rng = np.random.default_rng(0)
    x, y, weight = rng.normal(size=(64, 3)), rng.integers(0, 2, 64), np.ones(64)
    weight[5:30] = 0
    trainer = fn.Trainer(fn.Sequential(fn.Dense(2)), loss="cross_entropy", optimizer="sgd", seed=0)
    found = fn.lr_find(trainer, x, y, sample_weight=weight, batch_size=2)
    counted = np.isfinite(found.losses)
    assert 0 < counted.sum() < len(counted)
    assert np.isfinite(found.smoothed[np.argmax(counted) :]).all()


def test_the_finder_wants_a_trainer() -> None:
    with pytest.raises(TypeError, match="trainer must be a Trainer, got Sequential"):
        fn.lr_find(fn.Sequential(fn.Dense(2)), [[1.0]], [0])  # type: ignore[arg-type]


def test_a_straight_line_has_no_least_place() -> None:
    model = fn.Sequential(fn.Dense(1, bias=False), dtype="float64").build(1)
    model.parameters = [0.0]
    trainer = fn.Trainer(model, loss="mae", optimizer=fn.LBFGS(line_search="strong_wolfe"), seed=0)
    trainer.fit(np.ones((4, 1)), np.full(4, 1024.0), epochs=3, batch_size=None)
    assert trainer.history["loss"][-1] < trainer.history["loss"][0]


def test_max_norm_leaves_frequencies_alone() -> None:
    x, y = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32), np.zeros(20, np.float32)
    model = fn.Sequential(fn.Periodic(8, sigma=5.0), fn.Dense(1))
    trainer = fn.Trainer(model, loss="mse", optimizer=fn.SGD(lr=1e-12, max_norm=1.0), seed=0)
    trainer.partial_fit(x, y)
    assert (np.linalg.norm(model.weights["0.weight"], axis=0) > 1.5).any()
    assert (np.linalg.norm(model.weights["1.weight"], axis=0) <= 1 + 1e-6).all()


def test_flags_of_numpy_are_kept_as_pythons() -> None:
    assert fn.Adam(amsgrad=np.bool_(True)).amsgrad is True
    assert fn.SGD(momentum=0.9, nesterov=np.bool_(True)).nesterov is True


@pytest.mark.parametrize("split", [0.0, 0.25])
def test_a_finder_among_the_callbacks_changes_nothing_but_what_it_finds(split: float) -> None:
    x, y = rows()
    plain, searched, used = make("adam"), make("adam"), make("adam")
    plain.fit(x, y, epochs=2, validation_split=split)
    finder = fn.LRFinder(steps=40)
    assert finder.suggestion is None
    searched.fit(x, y, epochs=2, validation_split=split, callbacks=[finder])
    np.testing.assert_array_equal(searched.model.parameters, plain.model.parameters)
    assert searched.step == plain.step
    if not split:
        alone = fn.lr_find(make("adam"), x, y, steps=40)
        np.testing.assert_array_equal(finder.losses, alone.losses)
        assert finder.suggestion == alone.suggestion
    used.fit(x, y, epochs=0, validation_split=split, callbacks=[fn.LRFinder(steps=40, use=True)])
    assert used.lr == pytest.approx(finder.suggestion, rel=1e-12)


def test_a_resumed_fit_searches_no_second_time(tmp_path: Path) -> None:
    x, y = rows()
    whole, first, again = make("adam"), make("adam"), make("adam")
    finders = [fn.LRFinder(steps=40, use=True) for _ in range(3)]
    whole.fit(x, y, epochs=3, callbacks=[finders[0]])
    first.fit(x, y, epochs=1, callbacks=[finders[1], fn.ModelCheckpoint(tmp_path / "c")])
    again.resume(tmp_path / "c")
    again.fit(x, y, epochs=3, callbacks=[finders[2], fn.ModelCheckpoint(tmp_path / "d")])
    np.testing.assert_array_equal(again.model.parameters, whole.model.parameters)
    np.testing.assert_array_equal(finders[2].losses, finders[0].losses)
    assert finders[2].suggestion == finders[0].suggestion
