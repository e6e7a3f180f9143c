"""Probabilities near 0 and 1, numbers near the ends of the range: told and trained as scikit-learn does."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn import neural_network

import fastnn as fn
import fastnn.sklearn as ours
from fastnn import kernels
from fastnn.sklearn import steps

pytestmark = pytest.mark.filterwarnings("ignore")
MODULES = neural_network, ours
SETTINGS = {"random_state": 0, "max_iter": 4, "hidden_layer_sizes": (6,), "learning_rate_init": 1e-9}


def saturated(kind, dtype, scale):
    """Rows and targets, and pairs of estimators whose logits reach scale and more."""
    rng = np.random.RandomState(1)
    x = rng.randn(60, 5).astype(dtype)
    classes = {"classes": 3, "yes or no": 2}
    y = rng.randint(0, classes[kind], 60) if kind in classes else rng.randint(0, 2, (60, 4))
    pair = []
    for module in MODULES:
        one = module.MLPClassifier(solver="sgd", warm_start=True, batch_size=7, **SETTINGS).fit(x, y)
        one.coefs_[-1] *= np.asarray(scale, dtype)
        pair.append(one)
    return x, y, pair


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["classes", "yes or no", "labels"])
@pytest.mark.parametrize("scale", [1e-2, 20.0, 500.0])
def test_told_losses_are_cut_off_label_by_label_as_scikit_learns(kind, dtype, scale):
    x, y, pair = saturated(kind, dtype, scale)
    weight = np.random.RandomState(2).uniform(0.5, 2, 60)
    for given in (None, weight):
        for one in pair:
            one.fit(x, y, sample_weight=given)
        assert pair[1].fit_info_["engine"] == "fastnn"
        # scikit-learn's 1 - p of a p that has been rounded loses digits where p is near 1, up to the last.
        tolerance = {"float32": 2e-6, "float64": 1e-12} if scale < 1 else {"float32": 1e-3, "float64": 2e-5}
        np.testing.assert_allclose(pair[1].loss_curve_, pair[0].loss_curve_, rtol=tolerance[dtype])
    for solver in ("adam", "lbfgs"):
        for one in pair:
            one.set_params(solver=solver, max_iter=1).fit(x, y)
        np.testing.assert_allclose(pair[1].loss_, pair[0].loss_, rtol=tolerance[dtype])


def test_certain_predictions_are_told_as_eps_and_not_as_nothing():
    x, y = np.array([[1.0], [-1.0]]), np.array([[1, 0], [0, 1]])
    for module in MODULES:
        one = module.MLPClassifier((), solver="sgd", learning_rate_init=1e-9, shuffle=False, alpha=0.0)
        one.partial_fit(x, y, classes=[0, 1])
        one.coefs_[0][...] = [[100.0, -100.0]]
        one.intercepts_[0][...] = 0
        one.partial_fit(x, y)
        assert one.loss_curve_[-1] == pytest.approx(2 * 2**-52, rel=1e-12)
        one.coefs_[0][...] *= -1
        one.partial_fit(x, y)
        assert one.loss_curve_[-1] == pytest.approx(2 * 52 * np.log(2), rel=1e-12)


def outcome(module, name, x, y, weight=None, **parameters):
    """Coefs and losses, or the error's words."""
    one = getattr(module, name)(**{"random_state": 0, "max_iter": 3, **parameters})
    try:
        one.fit(x, y, sample_weight=weight)
    except ValueError as error:
        return str(error), one
    return [*one.coefs_, np.atleast_1d(one.loss_)], one


LINE = np.linspace(-1, 1, 24).reshape(12, 2)
HALF = np.arange(12) % 2
EXTREMES = {
    "inputs": ("MLPClassifier", 1e308 * np.abs(LINE), HALF, {"hidden_layer_sizes": ()}),
    "inputs, float32": ("MLPClassifier", (3e38 * np.abs(LINE)).astype("f"), HALF, {}),
    "one input": ("MLPRegressor", np.where(LINE == -1, 1e300, LINE), HALF / 1.0, {"solver": "adam"}),
    "targets": ("MLPRegressor", LINE, 1e160 * LINE[:, 0], {}),
    "rates": ("MLPRegressor", 700 * np.abs(LINE), HALF, {"loss": "poisson", "learning_rate_init": 10.0}),
    "penalty": ("MLPClassifier", LINE, HALF, {"alpha": 1e307}),
    "Fortran order": ("MLPClassifier", np.asfortranarray(1e308 * np.abs(LINE)), HALF, {}),
}


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("case", EXTREMES)
def test_numbers_near_the_ends_of_the_range_do_what_they_do_in_scikit_learn(case, solver):
    name, x, y, parameters = EXTREMES[case]
    with np.errstate(all="ignore"):
        (stock, _), (own, one) = (outcome(m, name, x, y, **{**parameters, "solver": solver}) for m in MODULES)
    assert type(stock) is type(own)
    if isinstance(stock, str):
        assert stock == own
    else:
        for a, b in zip(stock, own, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9)
    assert "scikit-learn" in one.fit_info_["engine"] or solver == "lbfgs"


def test_weights_beyond_float32s_middle_and_parameters_of_users_go_to_scikit_learn():
    x, weight = LINE.astype("f"), np.full(12, 1e-20)
    for module in MODULES:
        one = module.MLPClassifier((3,), random_state=0, max_iter=2, warm_start=True)
        one.fit(x, HALF, sample_weight=weight)
        first = one.coefs_[0].copy()
        one.coefs_[0] *= 1e20
        one.fit(x, HALF)
        if module is neural_network:
            expected = first, one.coefs_[0].copy()
    np.testing.assert_array_equal(first, expected[0])
    np.testing.assert_array_equal(one.coefs_[0], expected[1])
    assert one.fit_info_["reason"].startswith("numbers of coefs_ or intercepts_ are beyond")


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_what_is_wrong_with_x_is_told_in_scikit_learns_words_and_order(name):
    bad = LINE.copy()
    bad[3, 1] = np.nan
    for x, y in ((bad, HALF), (bad, HALF[:5]), (LINE * np.inf, HALF), (LINE, HALF[:5]), (LINE[0], HALF)):
        said = []
        for module in MODULES:
            with pytest.raises(ValueError) as caught, np.errstate(all="ignore"):  # noqa: PT011
                getattr(module, name)().fit(x, y)
            said.append(str(caught.value))
        assert said[0] == said[1]


@pytest.mark.parametrize("weight", [None, np.linspace(0.5, 2, 200)], ids=["plain", "weighted"])
def test_lbfgs_on_sparse_rows_in_parts_gives_what_it_gives_on_all(monkeypatch, weight):
    rng = np.random.RandomState(0)
    rows = sparse.random(200, 30, 0.2, format="csc", random_state=rng)
    y = np.ravel(rows.sum(axis=1)) + rng.randn(200) / 10
    given = {"solver": "lbfgs", "activation": "gelu", "alpha": 0.1, "max_iter": 15, "random_state": 0}
    whole = ours.MLPRegressor(fn.losses.Huber(), (6,), **given).fit(rows.toarray(), y, weight)
    monkeypatch.setattr(steps, "DENSE_BYTES", 30 * 8 * 64)
    parts = ours.MLPRegressor(fn.losses.Huber(), (6,), **given).fit(rows, y, weight)
    assert "in parts" in parts.fit_info_["reason"]
    assert parts.loss_ == pytest.approx(whole.loss_, rel=1e-7)
    np.testing.assert_allclose(parts.predict(rows), whole.predict(rows.toarray()), atol=1e-5)
    with pytest.raises(ValueError, match="not finite at a step of L-BFGS"):
        ours.MLPRegressor(activation="gelu", solver="lbfgs").fit(LINE * 1e200, HALF / 1.0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [0, 1, 7, 64, 200, 300_001])
def test_the_largest_number_is_found_wherever_it_is_and_nan_before_it(dtype, n):
    x = np.random.RandomState(0).uniform(-1, 1, n).astype(dtype)
    assert kernels.largest(x) == (np.abs(x).max() if n else 0)
    for at in {0, n // 2, n - 1} if n else ():
        one = x.copy()
        one[at] = -5
        assert kernels.largest(one) == 5
        for bad in (np.nan, np.inf, -np.inf):
            one[at] = bad
            assert np.isnan(kernels.largest(one))
