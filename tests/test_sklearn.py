"""The scikit-learn adapter: scikit-learn's numbers, its behaviour around them, and what is more."""

from __future__ import annotations

import contextlib
import copy
import io
import os
import pickle
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import joblib
import numpy as np
import pytest
from scipy import sparse
from sklearn import neural_network
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits, make_multilabel_classification
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fastnn as fn
import fastnn.sklearn as ours
from fastnn.sklearn import steps
from fastnn.sklearn.differences import DIFFERENCES

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

DIGITS, LABELS = load_digits(return_X_y=True)
DIGITS = DIGITS[:600] / 16
LABELS = LABELS[:600]
DIABETES, PROGRESS = load_diabetes(return_X_y=True)
PROGRESS = (PROGRESS - PROGRESS.mean()) / PROGRESS.std()
WEIGHTS = np.random.RandomState(0).uniform(0.5, 2, 600)


def both(name, x, y, sample_weight=None, **parameters):
    """scikit-learn's estimator and ours, fitted alike."""
    found = []
    for module in (neural_network, ours):
        one = getattr(module, name)(**{"random_state": 3, "max_iter": 5, **parameters})
        found.append(one.fit(x, y, sample_weight=sample_weight))
    return found


def assert_same(stock, own, tolerance=1e-10):
    assert own.fit_info_["engine"] == "fastnn"
    assert stock.n_iter_ == own.n_iter_
    for a, b in zip(stock.coefs_ + stock.intercepts_, own.coefs_ + own.intercepts_, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)
    curves = [getattr(one, "loss_curve_", []) for one in (stock, own)]
    np.testing.assert_allclose(*curves, atol=tolerance)


@pytest.mark.parametrize("weight", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize(("solver", "activation"), [("sgd", "tanh"), ("adam", "relu"), ("adam", "logistic")])
def test_weights_after_five_epochs_are_scikit_learns(solver, activation, early_stopping, weight):
    assert_same(
        *both(
            "MLPClassifier", DIGITS, LABELS, weight, solver=solver, activation=activation,
            early_stopping=early_stopping, hidden_layer_sizes=(20,), batch_size=37,
        )
    )  # fmt: skip


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("kind", ["binary", "multilabel", "squares", "several", "poisson"])
def test_every_kind_of_target_gives_scikit_learns_weights(kind, solver):
    given = {"solver": solver, "hidden_layer_sizes": (7, 5), "alpha": 0.1, "random_state": 1}
    if kind == "binary":
        pair = both("MLPClassifier", DIGITS, LABELS > 4, **given)
    elif kind == "multilabel":
        pair = both("MLPClassifier", *make_multilabel_classification(120, 9, random_state=0), **given)
    else:
        several, counts = np.c_[PROGRESS, PROGRESS**2], np.rint(np.exp(PROGRESS))
        y = {"squares": PROGRESS, "several": several, "poisson": counts}
        loss = "poisson" if kind == "poisson" else "squared_error"
        pair = both("MLPRegressor", DIABETES, y[kind], loss=loss, **given)
    assert_same(*pair, tolerance=1e-9)


@pytest.mark.parametrize(
    "parameters",
    [
        {"learning_rate": "invscaling", "nesterovs_momentum": False},
        {"learning_rate": "adaptive", "tol": 10.0, "n_iter_no_change": 1},
        {"momentum": 0.0},
        {"shuffle": False, "batch_size": 1000},
        {"hidden_layer_sizes": ()},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Got `batch_size`")
def test_policies_of_sgd_are_scikit_learns(parameters):
    assert_same(*both("MLPClassifier", DIGITS, LABELS, WEIGHTS, solver="sgd", **parameters))


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_training_goes_on_as_scikit_learns_does(solver):
    pair = [m.MLPClassifier(solver=solver, random_state=0) for m in (neural_network, ours)]
    for one in pair:
        for i in range(4):
            rows = slice(i * 100, i * 100 + 150)
            one.partial_fit(DIGITS[rows], LABELS[rows], classes=range(10))
    assert_same(*pair)
    own = pickle.loads(pickle.dumps(pair[1]))
    for one in (pair[0], own):
        one.partial_fit(DIGITS, LABELS)
    assert_same(pair[0], own)
    warm = both("MLPClassifier", DIGITS, LABELS, solver=solver, warm_start=True)
    for one in warm:
        one.set_params(max_iter=3).fit(DIGITS, LABELS)
    assert_same(*warm)


def test_float32_stays_float32():
    stock, own = both("MLPClassifier", DIGITS.astype(np.float32), LABELS)
    assert {w.dtype for w in own.coefs_} == {np.dtype(np.float32)}
    assert own.predict_proba(DIGITS.astype(np.float32)).dtype == np.float32
    assert_same(stock, own, tolerance=2e-5)  # float32 rounds at 6e-8, some 15 steps amplify it


def test_a_loss_that_overflows_goes_on_as_scikit_learns_does():
    x = np.random.RandomState(0).rand(40, 3) * 1e150
    with np.errstate(all="ignore"):
        for module in (neural_network, ours):
            with pytest.raises(ValueError, match="non-finite parameter weights"), pytest.warns():
                module.MLPRegressor(solver="sgd", random_state=0, max_iter=3).fit(x, x[:, 0])


def test_sparse_rows_go_to_scikit_learn_and_say_so():
    stock, own = both("MLPClassifier", sparse.csr_matrix(DIGITS), LABELS)
    assert own.fit_info_ == {"engine": "scikit-learn", "device": "cpu", "reason": "X is sparse"}
    np.testing.assert_array_equal(stock.coefs_[0], own.coefs_[0])
    np.testing.assert_allclose(stock.predict_proba(DIGITS), own.predict_proba(DIGITS), atol=1e-12)


def test_predictions_follow_what_users_do_to_coefs():
    stock, own = both("MLPClassifier", DIGITS, LABELS)
    for one in (stock, own):
        one.coefs_[1][...] *= -1
        one.intercepts_ = [b + 1 for b in one.intercepts_]
    np.testing.assert_allclose(stock.predict_proba(DIGITS), own.predict_proba(DIGITS), atol=1e-12)
    copied = copy.deepcopy(own)
    own.coefs_[0][...] = 0
    np.testing.assert_allclose(stock.predict_proba(DIGITS), copied.predict_proba(DIGITS), atol=1e-12)
    with pytest.raises(ValueError, match="NaN"):
        own.predict(np.full((1, 64), np.nan))


def test_estimators_live_in_pipelines_and_grids():
    names = np.array(["no", "yes"])[(LABELS > 4).astype(int)]
    grids = []
    for module in (neural_network, ours):
        model = make_pipeline(StandardScaler(), module.MLPClassifier((8,), max_iter=4, random_state=0))
        grid = GridSearchCV(model, {"mlpclassifier__alpha": [1e-4, 1.0]}, cv=2, n_jobs=2)
        grids.append(grid.fit(DIGITS[:200], names[:200]))
    np.testing.assert_allclose(*[grid.cv_results_["mean_test_score"] for grid in grids])
    assert set(grids[1].predict(DIGITS)) == {"no", "yes"}
    assert clone(grids[1].best_estimator_[-1]).get_params()["dropout"] == 0.0


KINDS = {
    "int64": LABELS * 7 - 3,
    "uint8": LABELS.astype(np.uint8),
    "two": 2 * (LABELS > 4) + 5,
    "text": np.array(["zero", "one", "two", "three", "four", "5", "6", "7", "8", "nine"])[LABELS],
    "object": np.array(["no", "yes"], object)[(LABELS > 4).astype(int)],
    "float": LABELS / 1.0,
    "one": np.zeros_like(LABELS),
    "column": LABELS.reshape(-1, 1),
    "many": np.arange(len(LABELS)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:A column-vector y", "ignore:The number of unique classes")
def test_labels_of_every_kind_are_read_as_scikit_learn_reads_them(kind):
    y = KINDS[kind]
    stock, own = neural_network.MLPClassifier(), ours.MLPClassifier()
    for x, reset in ((DIGITS, True), (DIGITS[:, :3], False)):
        found = []
        for one in (stock, own):
            one.warm_start = not reset
            if reset:
                found.append(one._validate_input(x, y, False, True)[1])
            else:
                with pytest.raises(ValueError, match="X has 3 features, but MLPClassifier is expecting 64"):
                    one._validate_input(x, y, False, False)
                found.append(one._validate_input(DIGITS[::-1], y[::-1], False, False)[1])
        assert found[0].dtype == found[1].dtype == bool
        np.testing.assert_array_equal(*found)
        assert vars(stock._label_binarizer).keys() == vars(own._label_binarizer).keys()
        assert stock.classes_.dtype == own.classes_.dtype
        np.testing.assert_array_equal(stock.classes_, own.classes_)
    for one in (stock, own):
        with pytest.raises(ValueError, match="warm_start can only be used where `y` has the same classes"):
            one._validate_input(DIGITS, LABELS - 1000, False, False)
        with pytest.raises(ValueError, match="`y` has classes not in"):
            one.set_params(warm_start=False)._validate_input(DIGITS, LABELS - 1000, True, False)


# ---------------------------------------------------------------- beyond scikit-learn


def test_dropout_norms_and_activations_by_layer_learn_and_survive_pickling():
    model = ours.MLPClassifier(
        (32, 16), ["gelu", "tanh"], dropout=[0.2, 0.0], batch_norm=True, max_iter=60, random_state=0,
        early_stopping=True, clip_norm=5.0,
    ).fit(DIGITS, LABELS)  # fmt: skip
    assert model.score(DIGITS, LABELS) > 0.9
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(model.predict_proba(DIGITS), again.predict_proba(DIGITS))
    moved = ours.to_fastnn(model)
    np.testing.assert_allclose(model.predict_proba(DIGITS), moved.predict_proba(DIGITS), atol=1e-14)


def test_optimizers_losses_and_schedules_of_fastnn():
    optimizer = fn.AdamW(lr=fn.schedules.Cosine(3e-3, 600), weight_decay=0.05)
    model = ours.MLPClassifier((16,), optimizer=optimizer, loss=fn.losses.CrossEntropy(label_smoothing=0.1),
                               batch_size=20, max_iter=20, random_state=0).fit(DIGITS, LABELS)  # fmt: skip
    assert model.score(DIGITS, LABELS) > 0.9
    model = ours.MLPRegressor(
        loss=fn.losses.Huber(), optimizer=fn.Lion(lr=3e-3), max_iter=100, random_state=0
    )
    assert model.fit(DIABETES, PROGRESS).score(DIABETES, PROGRESS) > 0.3
    with pytest.raises(ValueError, match="loss must be one of classes"):
        ours.MLPClassifier(loss=fn.losses.Focal()).fit(DIGITS, LABELS)


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
@pytest.mark.parametrize("weight", [None, WEIGHTS], ids=["plain", "weighted"])
def test_sparse_rows_are_made_dense_in_parts_and_give_the_same(monkeypatch, weight, loss):
    monkeypatch.setattr(steps, "DENSE_BYTES", 64 * 8 * 70)  # three batches
    found = []
    rows = sparse.csr_matrix(DIGITS)
    for x in (DIGITS, rows, rows.tocsc()):
        one = ours.MLPRegressor(loss, (9,), "gelu", dropout=0.3, batch_size=23, max_iter=3, random_state=0)
        held = x[500:], LABELS[500:], None if weight is None else weight[500:]
        found.append(one.fit(x, LABELS / 1.0, weight, validation_data=held))
        assert one.fit_info_["engine"] == "fastnn"
    for one in found[1:]:
        assert "some batches at a time" in one.fit_info_["reason"]
        np.testing.assert_array_equal(one.coefs_[0], found[0].coefs_[0])
        np.testing.assert_allclose(one.loss_curve_, found[0].loss_curve_, rtol=1e-13)  # summed in parts
        np.testing.assert_allclose(one.validation_loss_curve_, found[0].validation_loss_curve_, rtol=1e-13)
        np.testing.assert_array_equal(one.predict(rows), found[0].predict(DIGITS))


def test_class_weight_is_sample_weight():
    weight = {label: 1.0 + label for label in range(10)}
    a = ours.MLPClassifier((8,), class_weight=weight, max_iter=3, random_state=0).fit(DIGITS, LABELS)
    b = ours.MLPClassifier((8,), max_iter=3, random_state=0).fit(DIGITS, LABELS, sample_weight=1.0 + LABELS)
    np.testing.assert_array_equal(a.coefs_[0], b.coefs_[0])


def test_validation_data_and_callbacks():
    held = DIGITS[400:], LABELS[400:]
    stopping = fn.EarlyStopping(monitor="val_loss", patience=3)
    model = ours.MLPClassifier((32,), learning_rate_init=0.02, callbacks=[stopping], random_state=0)
    model.fit(DIGITS[:400], LABELS[:400], validation_data=held)
    assert len(model.validation_loss_curve_) == len(model.validation_scores_) == model.n_iter_ < 200
    p = model.predict_proba(held[0])[np.arange(200), held[1]]
    assert -np.log(p).mean() == pytest.approx(min(model.validation_loss_curve_))  # the best epoch's weights
    plain = ours.MLPClassifier((32,), learning_rate_init=0.02, random_state=0, max_iter=model.n_iter_)
    assert plain.fit(DIGITS[:400], LABELS[:400]).loss_curve_ == model.loss_curve_
    with pytest.raises(ValueError, match="validation_data must hold classes of y alone, got"):
        plain.fit(DIGITS[:400], LABELS[:400], validation_data=(held[0], held[1] + 1))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"dropout": 1.5}, "The 'dropout' parameter"),
        ({"dropout": [0.1, 0.2]}, "dropout must be a rate"),
        ({"activation": ["relu", "relu"]}, "activation must be one name"),
        ({"activation": ["softmax"]}, "activation must be of"),
        ({"dropout": 0.5, "solver": "lbfgs"}, "solver must be 'sgd' or 'adam' with dropout"),
        ({"optimizer": fn.LBFGS()}, "optimizer must take mini-batches"),
    ],
    ids=str,
)
def test_values_that_do_not_go_together_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        ours.MLPClassifier(**parameters).fit(DIGITS, LABELS)


EXAMPLES = Path(__file__).parents[1] / "examples" / "sklearn"


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_published_style_scripts_print_the_same_scores(script):
    command = [sys.executable, "-m", "fastnn.sklearn", script]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=EXAMPLES, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # As it is in this process: another one, and its workers, would take seconds to import the same again.
    with joblib.parallel_config("threading"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    expected, printed = shown.getvalue().split(), done.stdout.split()
    assert len(expected) == len(printed) > 2
    for stock, own in zip(expected, printed, strict=True):
        try:
            assert float(own) == pytest.approx(float(stock), abs=1e-6)
        except ValueError:
            assert own == stock


# ---------------------------------------------------------------- patching, models, differences

SCRIPT = """
from sklearn.neural_network import MLPClassifier
from sklearn.datasets import load_iris
import sys, sklearn.neural_network._multilayer_perceptron as deep
assert deep.MLPClassifier is MLPClassifier
x, y = load_iris(return_X_y=True)
print(MLPClassifier(max_iter=5, random_state=0).fit(x, y).fit_info_["engine"], sys.argv[1:], __name__)
"""


@pytest.mark.parametrize("as_module", [False, True])
def test_an_unchanged_script_runs_on_our_classes(tmp_path, as_module):
    (tmp_path / "unchanged.py").write_text(SCRIPT)
    what = ["-m", "unchanged"] if as_module else ["unchanged.py"]
    command = [sys.executable, "-W", "ignore", "-m", "fastnn.sklearn", *what, "--flag", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "fastnn ['--flag', '1'] __main__", done.stderr
    assert done.stderr.count("\n") == 1
    assert "are replaced" in done.stderr


def test_patch_reaches_names_imported_before_and_unpatch_brings_them_back():
    stock = neural_network.MLPClassifier
    globals()["imported_before"] = stock
    assert ours.patch() >= 5
    try:
        assert imported_before is ours.MLPClassifier  # noqa: F821
        assert ours.is_patched()
        assert ours.patch() == 0
    finally:
        ours.unpatch()
    assert globals().pop("imported_before") is stock is neural_network.MLPClassifier
    assert not ours.is_patched()


def test_pickles_of_scikit_learns_are_read_as_ours_under_patch():
    stock, _ = both("MLPClassifier", DIGITS, LABELS, warm_start=True, early_stopping=True)
    text = pickle.dumps(stock)
    ours.patch()
    try:
        own = pickle.loads(text)
        assert type(own) is ours.MLPClassifier
        assert own.get_params()["dropout"] == 0.0
        again = pickle.loads(pickle.dumps(stock))
        assert type(again) is type(copy.deepcopy(stock)) is type(stock)
    finally:
        ours.unpatch()
    np.testing.assert_allclose(own.predict_proba(DIGITS), stock.predict_proba(DIGITS), atol=1e-12)
    for one in (stock, own, again):
        one.fit(DIGITS, LABELS)
    assert_same(stock, own)
    np.testing.assert_array_equal(again.coefs_[0], stock.coefs_[0])
    assert b"fastnn" not in pickle.dumps(stock)


def test_models_move_both_ways(tmp_path):
    stock, _ = both("MLPClassifier", DIGITS, LABELS)
    model = ours.to_fastnn(stock)
    model.save(tmp_path / "digits.safetensors")
    loaded = fn.load(tmp_path / "digits.safetensors")
    np.testing.assert_allclose(loaded.predict_proba(DIGITS), stock.predict_proba(DIGITS), atol=1e-12)
    own = ours.from_sklearn(stock)
    for one in (stock, own):
        one.partial_fit(DIGITS, LABELS)
    assert_same(stock, own)
    with pytest.raises(TypeError, match="estimator must be an MLPClassifier"):
        ours.from_sklearn(StandardScaler())


LINKS = {
    "classes": (LABELS, "cross_entropy", 10),
    "two classes": ((LABELS > 4).astype(int), "cross_entropy", 2),
    "yes or no": ((LABELS > 4).astype(float), "binary_cross_entropy", 1),
    "values": (np.stack([DIGITS.sum(1), DIGITS[:, 20]], 1), "mse", 2),
}


@pytest.mark.parametrize("link", LINKS)
def test_models_become_estimators_of_scikit_learn(link):
    y, loss, n_out = LINKS[link]
    layers = fn.Dense(16), fn.BatchNorm(), fn.Activation("tanh"), fn.Dropout(0.1)
    model = fn.Sequential(*layers, fn.Dense(8, activation="tanh"), fn.Dense(n_out), dtype="float64")
    fn.Trainer(model, loss, fn.Adam(lr=0.01), seed=0).fit(DIGITS, y, epochs=5)
    stock = ours.to_sklearn(model)
    if link == "values":
        assert type(stock) is neural_network.MLPRegressor
        np.testing.assert_allclose(stock.predict(DIGITS), model.predict(DIGITS), rtol=1e-9, atol=1e-11)
    else:
        assert type(stock) is neural_network.MLPClassifier
        expected = model.predict_proba(DIGITS)
        np.testing.assert_allclose(stock.predict_proba(DIGITS), expected, rtol=1e-9, atol=1e-11)
        np.testing.assert_array_equal(stock.predict(DIGITS), expected.argmax(1))
    again = ours.to_fastnn(pickle.loads(pickle.dumps(stock)))
    if link != "two classes":  # one output there
        np.testing.assert_allclose(again.predict(DIGITS), model.predict(DIGITS), rtol=1e-9, atol=1e-11)
    stock.partial_fit(DIGITS, y)


def test_several_questions_become_a_classifier_of_many_labels():
    y = np.stack([LABELS > 4, LABELS % 2 == 0, LABELS == 3], 1).astype(float)
    model = fn.Sequential(fn.Dense(8, activation="relu"), fn.Dense(3), dtype="float64")
    fn.Trainer(model, "binary_cross_entropy", fn.Adam(lr=0.01), seed=0).fit(DIGITS, y, epochs=5)
    stock = ours.to_sklearn(model)
    np.testing.assert_allclose(stock.predict_proba(DIGITS), model.predict_proba(DIGITS), rtol=1e-12)
    np.testing.assert_array_equal(stock.predict(DIGITS), model.predict_proba(DIGITS) > 0.5)


def test_estimators_of_ours_become_scikit_learns():
    names = np.array(list("abcdefghij"))[LABELS]
    own = ours.MLPClassifier((8,), max_iter=4, random_state=0).fit(DIGITS, names)
    stock = ours.to_sklearn(own)
    assert type(stock) is neural_network.MLPClassifier
    assert ours.to_sklearn(stock) is stock
    for one in (stock, own):
        one.partial_fit(DIGITS, names)
    assert_same(stock, own)
    wide = ours.MLPClassifier((8,), dropout=0.1, batch_norm=True, max_iter=4, random_state=0)
    wide.fit(DIGITS, names)
    stock = ours.to_sklearn(wide)
    np.testing.assert_allclose(stock.predict_proba(DIGITS), wide.predict_proba(DIGITS), rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(stock.predict(DIGITS), wide.predict(DIGITS))


REFUSED = {
    "hidden activations of identity, sigmoid, tanh, relu": (fn.Dense(3, activation="gelu"), fn.Dense(2)),
    "one activation for all": (
        fn.Dense(3, activation="relu"), fn.Dense(3, activation="tanh"), fn.Dense(2),
    ),
    "got a layer_norm at layer 1": (fn.Dense(3), fn.LayerNorm(), fn.Dense(2)),
    "a chain of layers, has branches": (fn.Residual(fn.Dense(4)), fn.Dense(2)),
    "end with no activation, softmax or sigmoid, got 'tanh'": (fn.Dense(3, activation="tanh"),),
    "have a Dense": (fn.Activation("identity"),),
}  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_what_scikit_learn_has_not_is_named(text):
    with pytest.raises(ValueError, match=text):
        ours.to_sklearn(fn.Sequential(*REFUSED[text]).build(4))
    with pytest.raises(TypeError, match="model must be a Sequential"):
        ours.to_sklearn(StandardScaler())


@pytest.mark.parametrize(("sentence", "shown"), DIFFERENCES, ids=[one for one, _ in DIFFERENCES])
@pytest.mark.filterwarnings("ignore")
def test_known_differences_still_differ(sentence, shown):
    stock = shown(neural_network.MLPClassifier, neural_network.MLPRegressor)
    assert shown(ours.MLPClassifier, ours.MLPRegressor) != stock


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_counts_set_by_hand_after_fit_mean_what_they_mean_to_scikit_learn(name):
    x, y = DIGITS[:100], LABELS[:100]
    stock, own = both(name, x, y, hidden_layer_sizes=(9, 10))
    for n_layers in (3, 2):  # the output of an inner layer
        stock.n_layers_ = own.n_layers_ = n_layers
        assert own._forward_pass_fast(x).shape == (100, {3: 10, 2: 9}[n_layers])
        np.testing.assert_allclose(own._forward_pass_fast(x), stock._forward_pass_fast(x), rtol=0, atol=1e-10)
    stock.n_layers_ = own.n_layers_ = 4
    for n_features in (63, 65):
        stock.n_features_in_ = own.n_features_in_ = n_features
        for columns in (63, 64, 65):
            rows = np.ones((2, columns))
            errors = []
            for one in (stock, own):
                with pytest.raises(ValueError, match=r"features|mismatch") as caught:
                    one.predict(rows)
                errors.append(str(caught.value))
            assert errors[0] == errors[1]
    del stock.n_features_in_, own.n_features_in_  # nothing to judge by
    np.testing.assert_allclose(own.predict(x), stock.predict(x), rtol=0, atol=1e-9)
