"""Odd values, odd data and odd sequences of calls: what scikit-learn does, ours does."""

from __future__ import annotations

import contextlib
import io
import math
import warnings

import numpy as np
import pytest
from scipy import sparse
from sklearn import neural_network
from sklearn.datasets import load_digits

import fastnn as fn
import fastnn.sklearn as ours

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

DIGITS, LABELS = load_digits(return_X_y=True)
SMALL, FEW = DIGITS[:90, ::4] / 16, LABELS[:90] % 3
SOME_ZERO = np.r_[np.zeros(30), np.ones(60)]
TWO = np.c_[FEW, FEW + 1.0]
MODULES = neural_network, ours


def told(module, name, parameters, *calls):
    """What an estimator is after some calls, and all that it said."""
    shown = io.StringIO()
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(shown):
        warnings.simplefilter("always")
        one = getattr(module, name)(
            **{"random_state": 3, "max_iter": 4, "hidden_layer_sizes": (5,), **parameters}
        )
        try:
            for call in calls:
                call(one)
            numbers = [*one.coefs_, *one.intercepts_, one.loss_, getattr(one, "loss_curve_", [])]
            what = [type(one.loss_), one.n_iter_, one.t_, [w.dtype for w in one.coefs_]]
        except Exception as error:
            numbers, what = [], [type(error).__name__, str(error)]
    return numbers, what, {(each.category, str(each.message)) for each in caught}, shown.getvalue()


def assert_told_alike(name, parameters, *calls, tolerance=1e-9):
    stock, own = (told(module, name, parameters, *calls) for module in MODULES)
    assert stock[1:] == own[1:]
    assert len(stock[0]) == len(own[0])
    for a, b in zip(stock[0], own[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "parameters",
    [
        {"activation": "nothing"},
        {"activation": None},
        {"loss": "nothing"},
        {"loss": 5},
        {"hidden_layer_sizes": ((3,),)},
        {"hidden_layer_sizes": (3, 0)},
        {"hidden_layer_sizes": 2.5},
        {"batch_size": 1000, "verbose": True},
        {"alpha": 1e300},
        {"learning_rate_init": 1e-320, "solver": "sgd"},
        {"max_iter": 0},
        {"n_iter_no_change": math.inf},
        {"early_stopping": True, "validation_fraction": 0.01, "verbose": True},
        {"early_stopping": True, "tol": 1.0, "n_iter_no_change": 2, "max_iter": 20, "verbose": 10},
        {"solver": "sgd", "learning_rate": "adaptive", "tol": 1.0, "n_iter_no_change": 1, "max_iter": 40},
        {"momentum": 1, "solver": "sgd"},
        {"beta_1": 0, "beta_2": 0},
        {"max_fun": 2, "solver": "lbfgs"},
        {"random_state": "seed"},
    ],
    ids=str,
)
def test_odd_values_have_scikit_learns_results_errors_and_warnings(parameters):
    assert_told_alike("MLPRegressor", parameters, lambda one: one.fit(SMALL, FEW / 1.0))


def test_an_unknown_activation_is_told_what_more_there_is_below_scikit_learns_words():
    with pytest.raises(ValueError, match="must be a str among") as caught:
        ours.MLPClassifier(activation="nothing").fit(SMALL, FEW)
    assert "gelu" not in str(caught.value)
    assert "gelu" in caught.value.__notes__[0]


def fits(*data, **changes):
    """A call that changes parameters and fits."""
    return lambda one: one.set_params(**changes).fit(*data)


def does_not_know_a_class(one):
    with pytest.raises(ValueError, match="y"):
        one.partial_fit(SMALL, FEW, classes=[0, 1])


SEQUENCES = {
    "zeros in weights": ("MLPClassifier", {"early_stopping": True}, [fits(SMALL, FEW, SOME_ZERO)]),
    "tiny weights": ("MLPClassifier", {}, [fits(SMALL, FEW, np.full(90, 1e-300))]),
    "other activation": (
        "MLPClassifier", {"warm_start": True}, [fits(SMALL, FEW), fits(SMALL, FEW, activation="tanh")]
    ),
    "best weights trained on": (
        "MLPClassifier", {"warm_start": True, "early_stopping": True}, [fits(SMALL, FEW), fits(SMALL, FEW)]
    ),
    "other sizes": (
        "MLPClassifier", {"warm_start": True}, [fits(SMALL, FEW), fits(SMALL, FEW, hidden_layer_sizes=(6,))]
    ),
    "other outputs": ("MLPRegressor", {"warm_start": True}, [fits(SMALL, TWO[:, 0]), fits(SMALL, TWO)]),
    "numbers as text": ("MLPRegressor", {}, [fits(SMALL, FEW.astype(str))]),
    "rates below 0": ("MLPRegressor", {"loss": "poisson"}, [fits(SMALL, FEW - 1.0)]),
    "rates of 0": ("MLPRegressor", {"loss": "poisson"}, [fits(SMALL, FEW * 0.0)]),
    "sparse targets": ("MLPRegressor", {}, [fits(SMALL, sparse.csr_matrix(TWO))]),
    "labels of the other byte order": (
        "MLPClassifier", {}, [fits(SMALL, FEW.astype(">i4")), lambda one: print(one.predict(SMALL).dtype)]
    ),
    "dates": ("MLPRegressor", {}, [fits(SMALL, FEW / 1.0), lambda one: one.predict(SMALL.astype("M8[s]"))]),
    "predict after partial_fit failed": (
        "MLPClassifier", {}, [does_not_know_a_class, lambda one: one.predict(SMALL)]
    ),
    "Fortran order": ("MLPRegressor", {}, [fits(np.asfortranarray(SMALL), np.asfortranarray(TWO))]),
}  # fmt: skip


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("sequence", SEQUENCES)
def test_sequences_of_calls_do_what_scikit_learns_do(sequence, solver):
    name, parameters, calls = SEQUENCES[sequence]
    assert_told_alike(name, {**parameters, "solver": solver}, *calls)


@pytest.mark.parametrize(
    "change", [{"activation": "tanh"}, {"out_activation_": "identity"}, {"out_activation_": "relu"}]
)
def test_predictions_follow_what_users_do_to_attributes(change):
    pair = [m.MLPClassifier((5,), random_state=3, max_iter=4).fit(SMALL, FEW) for m in MODULES]
    for one in pair:
        one.predict(SMALL)
        vars(one).update(change)
    np.testing.assert_allclose(*(one.predict_proba(SMALL) for one in pair), atol=1e-12)
    for one in pair:
        one.partial_fit(SMALL, FEW)
    np.testing.assert_allclose(pair[0].coefs_[0], pair[1].coefs_[0], atol=1e-9)
    np.testing.assert_allclose(pair[0].loss_curve_, pair[1].loss_curve_, atol=1e-9)


def unaligned(x):
    """The same numbers, one byte beside where they belong."""
    found = np.empty(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    found[...] = x
    assert not found.flags.aligned
    return found


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_unaligned_arrays_are_read_as_any(solver):
    x, y = unaligned(SMALL), unaligned(TWO)
    pair = [
        ours.MLPRegressor(solver=solver, random_state=0, max_iter=3).fit(*a) for a in ((x, y), (SMALL, TWO))
    ]
    np.testing.assert_array_equal(pair[0].coefs_[0], pair[1].coefs_[0])
    np.testing.assert_array_equal(pair[0].predict(x), pair[1].predict(SMALL))


def test_zeros_among_weights_stay_on_compiled_steps_until_a_batch_has_none():
    def fitted(weight):
        model = ours.MLPClassifier((5,), batch_size=10, shuffle=False, random_state=0, max_iter=3)
        return model.fit(SMALL, FEW, sample_weight=weight)

    assert fitted(np.arange(90) % 3).fit_info_["engine"] == "fastnn"
    with pytest.raises(ZeroDivisionError, match="Weights sum to zero"):
        fitted(np.r_[np.ones(40), np.zeros(10), np.ones(40)])


@pytest.mark.parametrize(
    ("parameters", "data", "message"),
    [
        ({"n_threads": 10**6}, {}, "n_threads must be from 1 to"),
        ({"dropout": ["0.1"]}, {}, "dropout must be a rate from 0 to below 1, or 1, one a hidden layer"),
        ({"dropout": [[0.1]]}, {}, "dropout must be a rate"),
        ({"callbacks": [fn.LRFinder()]}, {}, "LRFinder needs Trainer.fit or fn.lr_find"),
        ({"batch_norm": True, "batch_size": 89}, {}, "batch_size must leave no batch of one row"),
        ({"class_weight": "balanced"}, {"y": None}, "requires y to be passed"),
        ({"class_weight": "balanced"}, {"y": np.where(FEW == 1, np.nan, FEW)}, "Input y contains NaN"),
        ({"class_weight": "balanced"}, {"sample_weight": np.ones(3)}, "sample_weight.shape == "),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(parameters, data, message):
    with pytest.raises(ValueError, match=message):
        ours.MLPClassifier((5,), **parameters).fit(**{"X": SMALL, "y": FEW, **data})


def test_validation_targets_are_judged_and_their_curve_does_not_outlive_the_fit():
    model = ours.MLPRegressor(hidden_layer_sizes=(5,), max_iter=2)
    for y in (TWO[:, 0], FEW.astype(str), np.ones((90, 3))):
        with pytest.raises(ValueError, match="validation_data must have numbers in 2 columns for y"):
            model.fit(SMALL, TWO, validation_data=(SMALL, y))
    assert len(model.fit(SMALL, TWO, validation_data=(SMALL, TWO)).validation_loss_curve_) == 2
    assert not hasattr(model.fit(SMALL, TWO), "validation_loss_curve_")
