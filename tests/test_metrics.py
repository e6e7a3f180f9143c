"""Metrics: against scikit-learn with and without weights, values by hand, and where they are not defined."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as reference

import fastnn as fn
from fastnn import metrics

Array = NDArray[Any]

# Sums of about 200 float64 numbers in another order.
TOLERANCE = 1e-12


def softmax(z: Array) -> Array:
    p: Array = np.exp(z - z.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


def rows(n_out: int, ties: bool = False) -> tuple[Array, Array]:
    """Random logits, rounded so that many are equal where ties are wanted, and labels that lean on them."""
    rng = np.random.default_rng(n_out)
    z = rng.normal(size=(203, n_out))
    if ties:
        z = z.round()
    y = (z + rng.normal(size=z.shape)).argmax(axis=1) if n_out > 1 else (z[:, 0] + rng.normal(size=203) > 0)
    return y.astype(np.int64), z


def weights(kind: str) -> Array | None:
    rng = np.random.default_rng(9)
    if kind == "no weights":
        return None
    w: Array = rng.random(203) if kind == "weights" else rng.integers(0, 3, 203).astype(float)
    return w


WEIGHTS = pytest.mark.parametrize("kind", ["no weights", "weights", "some weights zero"])


@WEIGHTS
@pytest.mark.parametrize("n_out", [2, 3, 7])
def test_metrics_of_labels_are_scikit_learns(n_out: int, kind: str) -> None:
    y, z = rows(n_out)
    w = weights(kind)
    given = {"sample_weight": w}
    p, predicted = softmax(z), z.argmax(axis=1)
    if n_out == 2:
        auc = reference.roc_auc_score(y, p[:, 1], **given)
        f1 = reference.f1_score(y, predicted, **given)
    else:
        auc = reference.roc_auc_score(y, p, multi_class="ovr", **given)
        f1 = reference.f1_score(y, predicted, average="macro", **given)
    expected = {
        metrics.Accuracy(): reference.accuracy_score(y, predicted, **given),
        metrics.BalancedAccuracy(): reference.balanced_accuracy_score(y, predicted, **given),
        metrics.F1(): f1,
        metrics.F1(average="macro"): reference.f1_score(y, predicted, average="macro", **given),
        metrics.AUC(): auc,
        metrics.LogLoss(): reference.log_loss(y, p, **given),
    }
    if n_out > 2:
        expected[metrics.TopKAccuracy(2)] = reference.top_k_accuracy_score(y, p, k=2, **given)
    for metric, value in expected.items():
        assert metric(y, z, w, link="softmax") == pytest.approx(value, rel=TOLERANCE), metric


@WEIGHTS
def test_metrics_of_one_sigmoid_output_are_scikit_learns(kind: str) -> None:
    y, z = rows(1)
    w = weights(kind)
    given = {"sample_weight": w}
    p = sigmoid(z[:, 0])
    expected = {
        "accuracy": reference.accuracy_score(y, p > 0.5, **given),
        "balanced_accuracy": reference.balanced_accuracy_score(y, p > 0.5, **given),
        "f1": reference.f1_score(y, p > 0.5, **given),
        "auc": reference.roc_auc_score(y, p, **given),
        "log_loss": reference.log_loss(y, p, **given),
    }
    for name, value in expected.items():
        assert metrics.get(name)(y, z, w, link="sigmoid") == pytest.approx(value, rel=TOLERANCE), name


@WEIGHTS
def test_several_sigmoid_outputs_give_the_mean_of_each(kind: str) -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(203, 3))
    y = (z + rng.normal(size=z.shape) > 0).astype(float)
    w = weights(kind)
    given = {"sample_weight": w}
    assert metrics.F1()(y, z, w, link="sigmoid") == pytest.approx(
        reference.f1_score(y, z > 0, average="macro", **given), rel=TOLERANCE
    )
    assert metrics.AUC()(y, z, w, link="sigmoid") == pytest.approx(
        reference.roc_auc_score(y, z, average="macro", **given), rel=TOLERANCE
    )
    assert metrics.Accuracy()(y, z, w, link="sigmoid") == pytest.approx(
        1 - reference.hamming_loss(y, z > 0, **given), rel=TOLERANCE
    )


@WEIGHTS
@pytest.mark.parametrize("n_out", [1, 3])
def test_metrics_of_values_are_scikit_learns(n_out: int, kind: str) -> None:
    rng = np.random.default_rng(n_out)
    y = rng.normal(size=(203, n_out)) * [1, 5, 0.1][:n_out] + 3
    values = y + rng.normal(size=y.shape)
    w = weights(kind)
    for name, function in {
        "r2": reference.r2_score,
        "mae": reference.mean_absolute_error,
        "mse": reference.mean_squared_error,
        "rmse": reference.root_mean_squared_error,
    }.items():
        expected = function(y, values, sample_weight=w)
        assert metrics.get(name)(y, values, w) == pytest.approx(expected, rel=TOLERANCE), name
    if n_out == 1:
        assert metrics.R2()(y[:, 0], values, w) == metrics.R2()(y, values, w)


@WEIGHTS
def test_equal_scores_count_half_in_the_auc(kind: str) -> None:
    w = weights(kind)
    for n_out in (2, 4):
        y, z = rows(n_out, ties=True)
        p = softmax(z)
        expected = reference.roc_auc_score(
            y, z[:, 1] - z[:, 0] if n_out == 2 else p, multi_class="ovr", sample_weight=w
        )
        assert metrics.AUC()(y, z, w, link="softmax") == pytest.approx(expected, rel=TOLERANCE)
    assert metrics.AUC()([0, 1, 0, 1], np.zeros((4, 1)), link="sigmoid") == 0.5


def test_values_by_hand() -> None:
    z = [[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 2.0, 1.0]]
    assert metrics.Accuracy()([0, 1, 2], z, link="softmax") == pytest.approx(1 / 3)
    assert metrics.TopKAccuracy(2)([0, 1, 2], z, link="softmax") == 1.0
    assert metrics.Accuracy()([0, 1, 2], z, [3, 1, 0], link="softmax") == 0.75
    assert metrics.AUC()([0, 0, 1, 1], [[0.1], [0.4], [0.35], [0.8]], link="sigmoid") == 0.75
    assert metrics.MAE()([1.0, 2.0], [[2.0], [0.0]]) == 1.5
    assert metrics.RMSE()([1.0, 2.0], [[2.0], [0.0]]) == pytest.approx(math.sqrt(2.5))
    assert metrics.LogLoss()([1], [[0.0]], link="sigmoid") == pytest.approx(math.log(2))
    assert metrics.LogLoss()([0.5], [[0.0]], link="sigmoid") == pytest.approx(math.log(2))


def test_of_equal_outputs_the_first_is_the_larger() -> None:
    z = np.zeros((3, 3))
    for k, share in ((1, 1 / 3), (2, 2 / 3), (3, 1)):
        assert metrics.TopKAccuracy(k)([0, 1, 2], z, link="softmax") == pytest.approx(share)
    assert metrics.Accuracy()([0, 1, 2], z, link="softmax") == pytest.approx(1 / 3)
    assert metrics.Accuracy()([0], [[0.0]], link="sigmoid") == 1.0  # one half is not above one half


def test_log_loss_of_large_logits_is_exact_where_a_probability_would_be_zero() -> None:
    assert metrics.LogLoss()([1], [[1000.0, 0.0]], link="softmax") == 1000.0
    assert metrics.LogLoss()([0], [[1000.0]], link="sigmoid") == 1000.0
    assert metrics.LogLoss()([1], [[1000.0]], link="sigmoid") == 0.0


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_what_is_not_defined_is_nan() -> None:
    z2, z3 = np.array([[1.0, 0.0]] * 3), np.array([[1.0, 0.0, 0.0]] * 3)
    assert math.isnan(metrics.AUC()([1, 1, 1], z2, link="softmax"))
    assert math.isnan(metrics.AUC()([1, 1, 1], z3, link="softmax"))
    assert math.isnan(metrics.AUC()([0, 1, 1], z2, [0, 1, 1], link="softmax"))  # weight leaves one class
    assert math.isnan(reference.roc_auc_score([1, 1, 1], [0.5, 0.5, 0.5]))
    assert math.isnan(metrics.F1()([0, 0, 0], z2, link="softmax"))
    assert math.isnan(reference.f1_score([0, 0, 0], [0, 0, 0], zero_division=np.nan))
    assert math.isnan(metrics.R2()([0.1, 0.1, 0.1], np.zeros((3, 1))))
    assert math.isnan(metrics.R2()([5.0], [[5.0]]))


def test_one_class_alone_has_an_accuracy() -> None:
    z = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    for name in ("accuracy", "balanced_accuracy", "top_1_accuracy"):
        assert metrics.get(name)([0, 0], z, link="softmax") == 0.5, name
    # Class 1 is predicted and never right: it counts with 0, as in scikit-learn.
    assert metrics.F1()([0, 0], z, link="softmax") == reference.f1_score([0, 0], [0, 1], average="macro")


def test_classes_that_do_not_occur_are_left_out_of_the_mean() -> None:
    y, z = rows(4)
    some = y != 2
    p = softmax(z[some])
    expected = np.mean([reference.roc_auc_score(y[some] == c, p[:, c]) for c in (0, 1, 3)])
    assert metrics.AUC()(y[some], z[some], link="softmax") == pytest.approx(expected, rel=TOLERANCE)


def test_float32_outputs_are_measured_in_float64() -> None:
    y, z = rows(3)
    single = z.astype(np.float32)
    for name in ("auc", "log_loss"):
        metric = metrics.get(name)
        assert metric.measure(y, single, None, "softmax") == metric(y, single.astype(float), link="softmax")


def test_your_own_function_sees_targets_and_outputs() -> None:
    def worst(y: Array, output: Array) -> Any:
        assert y.shape == output.shape
        return np.abs(y - output).max()

    metric = metrics.get(worst)
    assert metric.name == "worst"
    assert metric([1.0, 2.0], [[1.0], [5.0]]) == 3.0
    assert metrics.Function(lambda y, output: np.array(2), "two")([1.0], [[1.0]]) == 2.0
    with pytest.raises(TypeError, match=r"'worst' must take sample_weight where rows have weights"):
        metric([1.0, 2.0], [[1.0], [5.0]], [1, 2])

    def weighted(y: Array, output: Array, sample_weight: Array | None = None) -> float:
        return float(np.average(y[:, 0], weights=sample_weight))

    assert metrics.get(weighted)([1.0, 2.0], [[1.0], [5.0]], [1, 3]) == 1.75
    with pytest.raises(TypeError, match="'name' must give a number, got 'x'"):
        metrics.Function(lambda y, output: "x", "name")([1.0], [[1.0]])  # type: ignore[arg-type,return-value]


def test_descriptions_compare_print_and_pickle() -> None:
    assert metrics.get("top_3_accuracy") == metrics.TopKAccuracy(3)
    assert metrics.TopKAccuracy(3).name == "top_3_accuracy"
    assert repr(metrics.F1("macro")) == "F1(average='macro')"
    for name in ("accuracy", "f1", "auc", "r2", "top_5_accuracy"):
        metric = metrics.get(name)
        assert pickle.loads(pickle.dumps(metric)) == metric
        assert (metric.name, metric.mode) == (name, "max")
    for name in ("log_loss", "mae", "mse", "rmse"):
        assert metrics.get(name).mode == "min"


@pytest.mark.parametrize(
    ("act", "error", "text"),
    [
        (lambda: metrics.get("acuracy"), ValueError, "metric must be one of .*did you mean 'accuracy'"),
        (lambda: metrics.get("top_0_accuracy"), ValueError, "k must be at least 1, got 0"),
        (lambda: metrics.get(metrics.F1), TypeError, r"got the class; write F1\(\)"),
        (lambda: metrics.get(3), TypeError, "metric must be a name, a description or a function, got 3"),
        (lambda: metrics.get(lambda y, z: 0.0), ValueError, r"needs a name, got '<lambda>'"),
        (lambda: metrics.Function(3), TypeError, "function must be callable, got 3"),  # type: ignore[arg-type]
        (lambda: metrics.F1("weighted"), ValueError, "average must be one of binary, macro"),
        (
            lambda: metrics.F1("binary")([0, 1, 2], np.eye(3), link="softmax"),
            ValueError,
            r"F1\(average='binary'\) needs two classes, the model has 3",
        ),
        (
            lambda: metrics.TopKAccuracy(5)([0, 1, 2], np.eye(3), link="softmax"),
            ValueError,
            "'top_5_accuracy' needs at least 5 outputs, the model has 3",
        ),
        (lambda: metrics.Accuracy()([0.0], [[1.0]]), ValueError, "'accuracy' needs a loss of classes"),
        (lambda: metrics.R2()([0], [[1.0]], link="sigmoid"), ValueError, "'r2' needs a loss of values"),
        (
            lambda: metrics.Accuracy()([0.5], [[1.0]], link="sigmoid"),
            ValueError,
            r"y must be 0 or 1 for metric 'accuracy', got 0\.5 in row 0",
        ),
        (
            lambda: metrics.Accuracy()([3], [[1.0, 0]], link="softmax"),
            ValueError,
            "labels from 0 to 1, got 3",
        ),
        (lambda: metrics.Accuracy()([], np.zeros((0, 2)), link="softmax"), ValueError, "at least one row"),
        (lambda: metrics.Accuracy()([0], [[1.0, 0]], link="soft"), ValueError, "did you mean 'softmax'"),
        (
            lambda: metrics.Accuracy()([0], [[1.0, 0]], [-1], link="softmax"),
            ValueError,
            "sample_weight must be finite and not negative",
        ),
    ],
)
def test_wrong_use_is_named(act: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        act()


def test_evaluate_gives_loss_and_metrics_by_name() -> None:
    y, _ = rows(3)
    x = np.random.default_rng(0).normal(size=(203, 4))
    names = ["accuracy", "top_2_accuracy", "balanced_accuracy", "f1", "auc", "log_loss"]
    trainer = fn.Trainer(fn.Sequential(fn.Dense(3)), "cross_entropy", "adam", names, seed=0)
    trainer.fit(x, y)
    w = weights("some weights zero")
    for weight in (None, w):
        found = trainer.evaluate(x, y, weight)
        assert list(found) == ["loss", *names]
        assert found["loss"] == pytest.approx(found["log_loss"], rel=1e-6)
        output = trainer.predict(x)
        for name in names:
            assert found[name] == metrics.get(name)(y, output, weight, link="softmax")
