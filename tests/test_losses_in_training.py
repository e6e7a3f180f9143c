"""Losses in trainings: what metrics make of their outputs, and weights of classes."""

import numpy as np
import pytest

import fastnn as fn
from fastnn import losses, validation


def trained(loss, n_out, metrics, x, y, **fit):
    model = fn.Sequential(fn.Dense(16, activation="tanh"), fn.Dense(n_out))
    trainer = fn.Trainer(model, loss, fn.Adam(lr=0.02), metrics, seed=0)
    trainer.fit(x, y, epochs=60, **fit)
    return trainer


def test_metrics_know_what_outputs_mean(rng):
    x = rng.standard_normal((200, 2))
    labels = (x[:, 0] > 0).astype(int) + (x[:, 1] > 0)
    signs = np.where(x[:, :1] > 0, 1.0, -1.0)
    line = x[:, 0] - 2 * x[:, 1]
    classes, values = ["accuracy", "balanced_accuracy", "f1", "auc"], ["r2", "mae"]
    for loss, n_out, y, metrics, name in [
        ("multi_margin", 3, labels, [*classes, "top_2_accuracy"], "accuracy"),
        ("softmax_focal", 3, labels, [*classes, "top_2_accuracy", "log_loss"], "accuracy"),
        (fn.CrossEntropy(label_smoothing=0.1), 3, np.eye(3)[labels], [*classes, "log_loss"], "accuracy"),
        ("kl_divergence", 3, np.eye(3)[labels], [*classes, "log_loss"], "accuracy"),
        ("hinge", 1, signs, classes, "accuracy"),
        ("hinge", 2, np.hstack([signs, -signs]), classes, "accuracy"),
        ("focal", 1, signs > 0, [*classes, "log_loss"], "accuracy"),
        ("gaussian_nll", 2, line, values, "r2"),
        (fn.Quantile((0.1, 0.5, 0.9)), 3, line, values, "r2"),
        ("poisson", 1, np.round(np.exp(x[:, 0])), values, "r2"),
        ("huber", 1, line, values, "r2"),
        ("mae", 1, line, values, "r2"),
        ("log_cosh", 1, line, values, "r2"),
    ]:
        found = trained(loss, n_out, metrics, x, y).evaluate(x, y)
        assert found[name] > 0.8, (loss, found)
        assert all(np.isfinite(list(found.values())))
    with pytest.raises(ValueError, match="metric 'log_loss' needs a loss with probabilities"):
        fn.Trainer(fn.Sequential(fn.Dense(3)), "multi_margin", "sgd", ["log_loss"])
    with pytest.raises(ValueError, match="metric 'r2' needs a loss of values"):
        fn.Trainer(fn.Sequential(fn.Dense(1)), "hinge", "sgd", ["r2"])


def test_quantiles_are_quantiles(rng):
    y = rng.exponential(size=2000)
    trainer = fn.Trainer(fn.Sequential(fn.Dense(3)), fn.Quantile((0.1, 0.5, 0.9)), fn.Adam(lr=0.05), seed=0)
    trainer.fit(np.zeros((2000, 1)), y, epochs=40, batch_size=100)
    below = (y[:, None] < trainer.predict(np.zeros((1, 1)))).mean(axis=0)
    np.testing.assert_allclose(below, [0.1, 0.5, 0.9], atol=0.04)


def test_class_weight_of_labels_and_of_signs(rng):
    x = rng.standard_normal((50, 2))
    labels = (x[:, 0] > 0.8).astype(int)
    for loss, n_out, y, keys in (
        ("cross_entropy", 2, labels, (0, 1)),
        ("multi_margin", 2, labels, (0, 1)),
        ("softmax_focal", 2, labels, (0, 1)),
        ("binary_cross_entropy", 1, labels, (0, 1)),
        ("focal", 1, labels, (0, 1)),
        ("hinge", 1, 2 * labels - 1, (-1, 1)),
    ):
        found = []
        for how in (
            {"class_weight": {keys[1]: 5}},
            {"class_weight": [1, 5]},
            {"sample_weight": 1 + 4 * labels},
        ):
            trainer = fn.Trainer(fn.Sequential(fn.Dense(n_out)), loss, "sgd", seed=0)
            trainer.fit(x, y, **how)
            found.append(trainer.model.parameters.tobytes())
        assert len(set(found)) == 1
        with pytest.raises(ValueError, match="class_weight must name labels"):
            trainer.fit(x, y, class_weight={7: 1})
        with pytest.raises(ValueError, match="class_weight must have a weight for each of 2 labels"):
            trainer.fit(x, y, class_weight=[1, 2, 3])


def soft_rows(rng):
    x = rng.normal(size=(24, 4)).astype(np.float32)
    return x, rng.dirichlet(np.ones(3), size=24).astype(np.float32)


def test_class_weight_of_probabilities_is_their_mean(rng):
    x, p = soft_rows(rng)
    for loss in ("cross_entropy", "kl_divergence"):
        found = []
        for given in ({"class_weight": [1, 5, 0.5]}, {"sample_weight": p.astype(float) @ [1, 5, 0.5]}):
            trainer = fn.Trainer(fn.Sequential(fn.Dense(3)), loss, "adam", seed=0)
            trainer.fit(x, p, epochs=2, **given)
            found.append(trainer.model.parameters.copy())
        np.testing.assert_allclose(*found, rtol=1e-6)
    weights = validation.class_weights("balanced", losses.CrossEntropy(), None, 3, p)
    np.testing.assert_allclose(weights, p.astype(float) @ (24 / (3 * p.astype(float).sum(axis=0))), rtol=1e-6)
    one_hot = np.eye(3, dtype=np.float32)[[0, 2, 2, 1]]
    np.testing.assert_array_equal(
        validation.class_weights("balanced", losses.CrossEntropy(), None, 3, one_hot),
        validation.class_weights("balanced", losses.CrossEntropy(), np.array([0, 2, 2, 1]), 3),
    )


def test_class_weight_of_soft_bits_and_of_several_questions(rng):
    x, p = soft_rows(rng)
    found = []
    for given in ({"class_weight": {1: 5}}, {"sample_weight": 1 + 4 * p[:, 0].astype(float)}):
        trainer = fn.Trainer(fn.Sequential(fn.Dense(1)), "binary_cross_entropy", "adam", seed=0)
        trainer.fit(x, p[:, 0], epochs=2, **given)
        found.append(trainer.model.parameters.copy())
    np.testing.assert_allclose(*found, rtol=1e-6)
    trainer = fn.Trainer(fn.Sequential(fn.Dense(3)), "binary_cross_entropy", "adam", seed=0)
    with pytest.raises(ValueError, match="several questions a row; BinaryCrossEntropy\\(pos_weight=\\)"):
        trainer.fit(x, p > 0.5, class_weight={1: 2})
