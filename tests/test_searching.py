"""Folds and grids: what they measure is what a loop by hand measures."""

import numpy as np
import pytest

import fastnn as fn

rng = np.random.default_rng(2)
X = rng.standard_normal((90, 5)).astype(np.float32)
Y = (X[:, 0] + 0.3 * X[:, 1] > 0.7).astype(int)


def make(lr=0.01, units=8):
    model = fn.Sequential(fn.Dense(units, "relu"), fn.Dense(2))
    return fn.Trainer(model, "cross_entropy", fn.Adam(lr), ["accuracy"], seed=0)


def test_folds_test_each_row_once_and_share_classes_alike():
    labels = np.repeat([0, 1, 2], [50, 31, 9])
    pairs = fn.data.fold_rows(90, 4, stratify=labels, seed=3)
    assert np.array_equal(np.sort(np.concatenate([test for _, test in pairs])), np.arange(90))
    for train, test in pairs:
        assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(90))
    counts = np.array([np.bincount(labels[test], minlength=3) for _, test in pairs])
    assert np.ptp(counts, axis=0).max() <= 1
    assert np.ptp(counts.sum(axis=1)) <= 1
    again = fn.data.fold_rows(90, 4, stratify=labels, seed=3)
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(pairs, again, strict=True))
    with pytest.raises(ValueError, match="folds must be"):
        fn.data.fold_rows(3, 4)
    with pytest.raises(ValueError, match=r"stratify must have shape \(90,\)"):
        fn.data.fold_rows(90, 4, stratify=[1])


def test_cross_validation_is_the_loop_by_hand():
    found = fn.cross_validate(make, X, Y, folds=3, epochs=4, batch_size=16)
    pairs = fn.data.fold_rows(90, 3, stratify=Y)
    for row, trainer, (train, test) in zip(found, found.trainers, pairs, strict=True):
        alone = make()
        alone.fit(X[train], Y[train], epochs=4, batch_size=16)
        measured = alone.evaluate(X[test], Y[test])
        assert (row["loss"], row["accuracy"]) == (measured["loss"], measured["accuracy"])
        assert trainer.model.parameters.tobytes() == alone.model.parameters.tobytes()
        assert row["epochs"] == 4
    assert found.by == "accuracy"
    assert found.mean("accuracy") == pytest.approx(np.mean(found["accuracy"]))
    with pytest.raises(ValueError, match=r"name must be one of .*, got 'accurracy'; did you mean"):
        found.mean("accurracy")
    assert fn.Ensemble([one.model for one in found.trainers]).predict(X).shape == (90, 2)


def test_a_grid_tells_the_best_combination_and_shows_a_table():
    found = fn.grid(
        make, {"lr": [1e-5, 0.05], "units": [4, 16], "batch_size": [8]}, X, Y, folds=3, epochs=6, by="loss"
    )
    assert len(found) == 4
    assert found["lr"] == [1e-5, 1e-5, 0.05, 0.05]
    one = fn.cross_validate(lambda: make(0.05, 4), X, Y, folds=3, epochs=6, batch_size=8)
    assert found[2]["loss"] == pytest.approx(one.mean("loss"))
    assert found[2]["loss_std"] == pytest.approx(np.std(one["loss"]))
    assert found.best["lr"] == 0.05
    assert found.best["loss"] == min(found["loss"])
    assert len(found.trainers[0]) == 3
    lines = repr(found).splitlines()
    assert lines[0].split()[:3] == ["lr", "units", "batch_size"]
    assert [line.startswith("*") for line in lines].index(True) == found.best_index + 1
    pytest.importorskip("pandas")
    assert list(found.to_pandas().columns) == list(found.names)


def test_one_that_fails_is_nan_and_never_the_best():
    def risky(lr):
        model = fn.Sequential(fn.Dense(4, "relu"), fn.Dense(1))
        return fn.Trainer(model, "mse", fn.SGD(lr), seed=0)

    with pytest.warns(RuntimeWarning, match="3 of 6 trainings failed"):
        found = fn.grid(risky, [{"lr": 1e30}, {"lr": 0.01}], X, X[:, 0], folds=3, epochs=3)
    assert np.isnan(found[0]["loss"])
    assert found.best["lr"] == 0.01
    with pytest.warns(RuntimeWarning), pytest.raises(ExceptionGroup, match="all 3 trainings failed"):
        fn.cross_validate(lambda: risky(1e30), X, X[:, 0], folds=3, epochs=3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"parameters": {"lr": 0.1}}, TypeError, r"parameters\['lr'\] must be a list"),
        ({"parameters": []}, ValueError, "at least one combination"),
        (
            {"parameters": [{"lr": 1}, {"units": 1}]},
            ValueError,
            r"parameters\[1\] must have the names \['lr'\]",
        ),
        ({"parameters": {"epochs": [1]}, "epochs": 2}, ValueError, "epochs must be given once"),
        ({"folds": 1}, ValueError, "folds must be"),
        ({"folds": [([0], [90])]}, ValueError, r"folds\[0\]\[1\] must hold row numbers from 0 to 89, got 90"),
        ({"by": "r2"}, ValueError, "by must be one of loss, accuracy"),
        ({"make": lambda **_: 3}, TypeError, "make must give a Trainer, got int"),
        ({"make": X}, TypeError, "make must be a function that gives a trainer, got ndarray of shape"),
        ({"parameters": {1: [2]}}, TypeError, "parameters must have texts as names, got 1"),
        ({"folds": 2.5}, TypeError, "folds must be a number or pairs of row numbers, got 2.5"),
        ({"folds": [3]}, ValueError, r"folds\[0\] must be \(rows, test rows\), got 3"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        fn.grid(**{"make": make, "parameters": {"lr": [0.1]}, "x": X, "y": Y, **arguments})
