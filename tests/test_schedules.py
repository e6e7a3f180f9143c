"""Schedules: against PyTorch's schedulers and by hand; where they go on; how they are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn as fn
from fastnn import descriptions, optimizers
from fastnn import schedules as s

T = np.arange(60)
CASES: list[tuple[Any, Any]] = [
    (s.Constant(0.1, factor=0.5, total_iters=4), lambda m, o: m.ConstantLR(o, 0.5, 4)),
    (s.Step(0.1, 7, gamma=0.3), lambda m, o: m.StepLR(o, 7, 0.3)),
    (s.MultiStep(0.1, (3, 10, 10, 40), gamma=0.5), lambda m, o: m.MultiStepLR(o, [3, 10, 10, 40], 0.5)),
    (s.Exponential(0.1, 0.9), lambda m, o: m.ExponentialLR(o, 0.9)),
    (s.Polynomial(0.1, 30), lambda m, o: m.PolynomialLR(o, 30)),
    (s.Polynomial(0.1, 30, power=2.5), lambda m, o: m.PolynomialLR(o, 30, 2.5)),
    (s.Linear(0.1, 0.2, 0.9, 20), lambda m, o: m.LinearLR(o, 0.2, 0.9, 20)),
    (s.Cosine(0.1, 17, eta_min=0.01), lambda m, o: m.CosineAnnealingLR(o, 17, 0.01)),
    (s.CosineRestarts(0.1, 7), lambda m, o: m.CosineAnnealingWarmRestarts(o, 7)),
    (s.CosineRestarts(0.1, 5, 2, 0.01), lambda m, o: m.CosineAnnealingWarmRestarts(o, 5, 2, 0.01)),
    (s.OneCycle(0.1, 60), lambda m, o: m.OneCycleLR(o, 0.1, 60, cycle_momentum=False)),
    (
        s.OneCycle(0.1, 60, 0.2, "linear", 10.0, 100.0, True),
        lambda m, o: m.OneCycleLR(
            o, 0.1, 60, None, None, 0.2, "linear", False, 0.85, 0.95, 10.0, 100.0, True
        ),
    ),
    (s.Cyclic(0.01, 0.1, 8), lambda m, o: m.CyclicLR(o, 0.01, 0.1, 8, cycle_momentum=False)),
    (
        s.Cyclic(0.01, 0.1, 5, 9, "triangular2"),
        lambda m, o: m.CyclicLR(o, 0.01, 0.1, 5, 9, "triangular2", cycle_momentum=False),
    ),
    (
        s.Cyclic(0.01, 0.1, 5, None, "exp_range", 0.97),
        lambda m, o: m.CyclicLR(o, 0.01, 0.1, 5, None, "exp_range", 0.97, cycle_momentum=False),
    ),
    (
        s.Warmup(s.Exponential(0.1, 0.9), 6, 0.25),
        lambda m, o: m.SequentialLR(o, [m.LinearLR(o, 0.25, 1.0, 6), m.ExponentialLR(o, 0.9)], [6]),
    ),
    (
        s.Sequential((s.Constant(0.1), s.Exponential(0.1, 0.9), s.Step(0.1, 3)), (5, 20)),
        lambda m, o: m.SequentialLR(
            o, [m.ConstantLR(o, 1.0), m.ExponentialLR(o, 0.9), m.StepLR(o, 3)], [5, 20]
        ),
    ),
    (
        s.Chained((s.Exponential(0.1, 0.95), s.Step(0.1, 9))),
        lambda m, o: m.ChainedScheduler([m.ExponentialLR(o, 0.95), m.StepLR(o, 9)]),
    ),
]
ALL = [case for case, _ in CASES] + [s.InverseScaling(0.1), s.Constant(0.1), s.Warmup(0.1, 5)]


@pytest.mark.torch
@pytest.mark.parametrize(("ours", "theirs"), CASES, ids=[repr(ours) for ours, _ in CASES])
@pytest.mark.filterwarnings("ignore")
def test_rates_equal_pytorchs(ours: Any, theirs: Any) -> None:
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = theirs(torch.optim.lr_scheduler, optimizer)
    expected = []
    for _ in T:
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(expected) < len(T):
            scheduler.step()
    np.testing.assert_allclose(ours.at(T), expected, rtol=1e-12, atol=1e-15)
    assert ours.at(T).max() <= ours.largest() * (1 + 1e-12)


def test_rates_worked_by_hand() -> None:
    np.testing.assert_allclose(s.InverseScaling(0.1).at(np.array([0, 3, 99])), [0.1, 0.05, 0.01], rtol=1e-15)
    np.testing.assert_array_equal(s.Constant(0.1).at(T), 0.1)
    np.testing.assert_allclose(s.Warmup(0.1, 4, 0.0).at(T[:6]), [0, 0.025, 0.05, 0.075, 0.1, 0.1], atol=1e-17)
    np.testing.assert_array_equal(s.Function(lambda t: 0.5 / (1 + t)).at(T), 0.5 / (1 + T))


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_parts_of_a_schedule_are_the_whole(schedule: Any) -> None:
    whole = schedule.at(T)
    assert whole.dtype == np.float64
    np.testing.assert_array_equal(np.concatenate([schedule.at(T[i : i + 7]) for i in range(0, 60, 7)]), whole)
    assert schedule.at(T[:0]).shape == (0,)
    assert np.isfinite(schedule.at(np.array([2**40]))).all()


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_schedules_come_back_from_json(schedule: Any) -> None:
    optimizer = fn.Adam(lr=schedule)
    text = descriptions.to_json(optimizer)
    assert descriptions.from_json("it", text, descriptions.OPTIMIZERS) == optimizer


def trainer(lr: Any, **given: Any) -> fn.Trainer:
    model = fn.Sequential(fn.Dense(5, activation="tanh"), fn.Dense(2))
    return fn.Trainer(model, "cross_entropy", fn.SGD(lr=lr, **given), seed=0)


def rows() -> tuple[Any, Any]:
    x = np.random.default_rng(0).normal(size=(70, 3)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(int)


@pytest.mark.parametrize("by", ["step", "epoch"])
def test_a_schedule_goes_on_across_fits_and_resume(by: str, tmp_path: Path) -> None:
    x, y = rows()
    lr = s.Exponential(0.1, 0.9, by=by)
    whole, parts, resumed = trainer(lr), trainer(lr), trainer(lr)
    whole.fit(x, y, epochs=4, batch_size=16)
    parts.fit(x, y, epochs=1, batch_size=16)
    parts.save_checkpoint(tmp_path / "c")
    resumed.resume(tmp_path / "c")
    for one in (parts, resumed):
        one.fit(x, y, epochs=3, batch_size=16)
        np.testing.assert_array_equal(one.model.parameters, whole.model.parameters)
        assert one.lr == whole.lr == pytest.approx(0.1 * 0.9 ** (20 if by == "step" else 4), rel=1e-14)


def test_a_schedule_by_step_counts_updates() -> None:
    optimizer = fn.SGD(lr=s.Exponential(1.0, 0.5), accumulate=3)
    np.testing.assert_array_equal(
        optimizers.rates(optimizer, 7, 1.0, 2), [1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]
    )


def test_the_rates_are_those_that_a_constant_one_would_be_given() -> None:
    x, y = rows()
    scheduled, by_hand = trainer(s.Step(0.2, 2)), trainer(0.2)
    scheduled.fit(x, y, epochs=2, batch_size=70, shuffle=False)
    order = np.arange(70)[None]
    for _ in range(2):
        by_hand.run(x, y, order)
    np.testing.assert_array_equal(scheduled.model.parameters, by_hand.model.parameters)
    scheduled.fit(x, y, epochs=1, batch_size=70, shuffle=False)
    by_hand.rate_factor = 0.1
    by_hand.run(x, y, order)
    np.testing.assert_allclose(scheduled.model.parameters, by_hand.model.parameters, rtol=1e-6)


def falling(t: int) -> float:
    return 0.1 / (1 + t)


@pytest.mark.parametrize(
    "make", [s.Function, lambda f: s.Warmup(s.Function(f), 3)], ids=["alone", "within another"]
)
def test_a_checkpoint_keeps_the_name_of_a_function(make: Any, tmp_path: Path) -> None:
    x, y = rows()
    whole, first, again = (trainer(make(falling)) for _ in range(3))
    whole.fit(x, y, epochs=3)
    first.fit(x, y, epochs=2, callbacks=[fn.ModelCheckpoint(tmp_path / "c")])
    again.resume(tmp_path / "c")
    again.fit(x, y, epochs=3, callbacks=[fn.ModelCheckpoint(tmp_path / "c")])
    np.testing.assert_array_equal(again.model.parameters, whole.model.parameters)
    for other in (s.Function(lambda t: 0.1), s.Function(falling, by="epoch"), 0.1):
        with pytest.raises(ValueError, match="optimizer is SGD"):
            trainer(other).resume(tmp_path / "c")


@pytest.mark.parametrize(
    "lr",
    [s.Exponential(1.0, 1e10), s.Step(1.0, 2, 1e30), s.Cyclic(0.1, 1.0, 1, None, "exp_range", 1e12, False)],
)
def test_rates_beyond_the_models_numbers_are_refused_before_the_step(lr: Any) -> None:
    x, y = rows()
    one = trainer(lr)
    order = np.arange(70)[None]
    first_bad = int((lr.at(np.arange(9)) > 3.4e38).argmax())
    for _ in range(first_bad):
        one.run(x, y, order, sample_weight=np.zeros(70))  # without weight the weights stay
    before = one.model.parameters.copy()
    with pytest.raises(ValueError, match=rf"lr must be at most 3.40282e\+38, got .* at step {first_bad} of"):
        one.run(x, y, order)
    np.testing.assert_array_equal(one.model.parameters, before)
    assert one.step == first_bad > 0


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: s.Step(0.1, 0), ValueError, "step_size must be from 1"),
        (lambda: s.Step(-0.1, 3), ValueError, "lr must be at least 0"),
        (lambda: s.Cosine(0.1, 3, by="batch"), ValueError, "by must be one of step, epoch"),
        (lambda: s.MultiStep(0.1, (3, 2)), ValueError, "milestones must not fall"),
        (lambda: s.MultiStep(0.1, 3), TypeError, "milestones must be a tuple"),
        (lambda: s.OneCycle(0.1, 9, pct_start=2.0), ValueError, "pct_start must be from 0 to 1"),
        (lambda: s.OneCycle(0.1, 9, anneal_strategy="cosine"), ValueError, "anneal_strategy must be one of"),
        (lambda: s.Cyclic(0.1, 0.2, mode="up"), ValueError, "mode must be one of"),
        (lambda: s.Warmup("cosine", 5), TypeError, "schedule must be a number"),
        (lambda: s.Sequential((s.Constant(0.1),), (3,)), ValueError, "milestones must be 0 numbers"),
        (lambda: s.Chained((s.Step(0.1, 3), s.Step(0.2, 3))), ValueError, "the same lr above 0"),
        (
            lambda: s.Chained((s.Step(0.1, 3), s.Step(0.1, 3, by="epoch"))),
            ValueError,
            "schedules must all count steps or all epochs",
        ),
        (lambda: s.Function(3), TypeError, "function must be a function of the step"),
        (lambda: s.Function(lambda t: -1.0).at(T), ValueError, r"of step 0 must be at least 0"),
        (lambda: fn.SGD(lr=s.Cosine), TypeError, "lr must be a number or a schedule, got the class Cosine"),
        (lambda: trainer(s.Step(1e39, 3)), ValueError, "lr must be at most"),
    ],
)
def test_bad_values_are_named(make: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        make()
