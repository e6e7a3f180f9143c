"""The scikit-learn adapter on other devices: the same weights there, and no engine but the one asked for.

"numpy" is the array program; "cuda" the captured step, or else that program, with a stand-in for CuPy.
"""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
from cuda_stand_in import StandIn
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits, make_multilabel_classification

import fastnn as fn
import fastnn.sklearn as ours
from fastnn.devices import arrays, cuda, cuda_cards
from fastnn.sklearn import base

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

DIGITS, LABELS = load_digits(return_X_y=True)
DIGITS, LABELS = DIGITS[:240] / 16, LABELS[:240]
DIABETES, PROGRESS = load_diabetes(return_X_y=True)
DIABETES, PROGRESS = DIABETES[:150], (PROGRESS[:150] - PROGRESS.mean()) / PROGRESS.std()
WEIGHTS = np.random.RandomState(0).uniform(0.5, 2, 240)


@pytest.fixture
def card(monkeypatch):
    """A machine with two cards."""
    found = StandIn(n_cards=2)
    monkeypatch.setattr(cuda_cards, "_cupy", lambda device: found)
    return found


def pair_on(device, name, x, y, weight=None, fit=None, **parameters):
    """Fitted alike on the CPU and on a device."""
    found = []
    for where in ("cpu", device):
        one = getattr(ours, name)(**{"random_state": 3, "max_iter": 3, "device": where, **parameters})
        found.append(one.fit(x, y, sample_weight=weight, **(fit or {})))
        assert (one.fit_info_["engine"], one.fit_info_["device"]) == ("fastnn", where)
    return found


def assert_alike(theirs, own, tolerance):
    for a, b in zip(theirs.coefs_ + theirs.intercepts_, own.coefs_ + own.intercepts_, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(b, a, rtol=0, atol=tolerance)
    curves = [getattr(one, "loss_curve_", [one.loss_]) for one in (own, theirs)]
    np.testing.assert_allclose(*curves, atol=tolerance)


def program_of(model):
    return base._NETWORKS[model].program


TWELVE = [
    pytest.param(solver, activation, early_stopping, weight)
    for solver, activation in (("sgd", "tanh"), ("adam", "relu"), ("adam", "logistic"))
    for early_stopping in (False, True)
    for weight in (None, WEIGHTS)
]


@pytest.mark.parametrize(("solver", "activation", "early_stopping", "weight"), TWELVE)
def test_the_array_program_gives_the_weights_of_the_cpu(solver, activation, early_stopping, weight):
    parameters = {"solver": solver, "activation": activation, "early_stopping": early_stopping}
    given = {**parameters, "batch_size": 37, "hidden_layer_sizes": (20,)}
    cpu, own = pair_on("numpy", "MLPClassifier", DIGITS, LABELS, weight, **given)
    assert isinstance(program_of(own), arrays.ArrayProgram)
    assert_alike(cpu, own, 1e-12)
    np.testing.assert_allclose(own.predict_proba(DIGITS), cpu.predict_proba(DIGITS), atol=1e-12)


@pytest.mark.parametrize(("solver", "activation", "early_stopping", "weight"), TWELVE)
def test_a_card_gives_the_weights_of_the_cpu(card, solver, activation, early_stopping, weight):
    parameters = {"solver": solver, "activation": activation, "early_stopping": early_stopping}
    x = DIGITS.astype(np.float32)
    given = {**parameters, "batch_size": 37, "hidden_layer_sizes": (20,), "max_iter": 2}
    cpu, own = pair_on("cuda", "MLPClassifier", x, LABELS, weight, **given)
    assert_alike(cpu, own, 1e-4)
    np.testing.assert_allclose(own.predict_proba(x), cpu.predict_proba(x), atol=1e-4)
    network = base._NETWORKS[own]
    for program in (network.program, network._predicting):
        assert isinstance(program, cuda.CudaProgram)
    assert network.program.not_captured is None
    assert network.program._captured._batches
    assert not network.program._rows._held  # what was sent for the fit


@pytest.mark.parametrize("device", ["numpy", "cuda"])
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("kind", ["binary", "multilabel", "squares", "several", "poisson"])
def test_every_kind_of_target_gives_the_weights_of_the_cpu(card, kind, solver, device):
    given = {"solver": solver, "hidden_layer_sizes": (7, 5), "alpha": 0.1, "random_state": 1}
    if kind == "binary":
        pair = pair_on(device, "MLPClassifier", DIGITS, LABELS > 4, **given)
    elif kind == "multilabel":
        several = make_multilabel_classification(90, 9, random_state=0)
        pair = pair_on(device, "MLPClassifier", *several, **given)
    else:
        several, counts = np.c_[PROGRESS, PROGRESS**2], np.rint(np.exp(PROGRESS))
        y = {"squares": PROGRESS, "several": several, "poisson": counts}
        loss = "poisson" if kind == "poisson" else "squared_error"
        pair = pair_on(device, "MLPRegressor", DIABETES, y[kind], loss=loss, **given)
    assert_alike(*pair, 1e-9)


@pytest.mark.parametrize("device", ["numpy", "cuda"])
@pytest.mark.parametrize(
    "parameters",
    [
        {"dropout": [0.3, 0.0], "batch_norm": True, "early_stopping": True},
        {"activation": ["gelu", "selu"], "class_weight": "balanced"},
        {"optimizer": fn.RAdam(0.01, weight_decay=0.01, accumulate=2), "clip_norm": 1.0},
        {"optimizer": fn.Adagrad(0.1, initial_accumulator_value=0.1), "loss": fn.losses.Focal()},
        {"solver": "sgd", "learning_rate": "invscaling", "clip_norm": 0.5},
    ],
    ids=str,
)
def test_what_scikit_learn_has_not_is_there_too(card, parameters, device):
    given = {"hidden_layer_sizes": (9, 8), "batch_size": 40, **parameters}
    pair = pair_on(device, "MLPClassifier", DIGITS, LABELS > 4 if "loss" in parameters else LABELS, **given)
    assert_alike(*pair, 1e-9)
    np.testing.assert_allclose(*(one.predict_proba(DIGITS) for one in pair), atol=1e-9)


@pytest.mark.parametrize("device", ["numpy", "cuda"])
def test_validation_data_callbacks_and_sparse_rows(card, device):
    class Seen(fn.Callback):
        def on_epoch_end(self, trainer, epoch, logs):
            found.append((trainer.device, trainer.predict(DIGITS[:3])))

    found = []
    rows = sparse.csr_matrix(DIGITS)
    held = {"validation_data": (rows[200:], LABELS[200:], WEIGHTS[200:])}
    given = rows, LABELS, WEIGHTS, held
    cpu, own = pair_on(device, "MLPClassifier", *given, callbacks=[Seen()], batch_size=50)
    assert_alike(cpu, own, 1e-9)
    assert "made dense" in own.fit_info_["reason"]
    np.testing.assert_allclose(own.validation_loss_curve_, cpu.validation_loss_curve_, rtol=1e-9)
    np.testing.assert_array_equal(own.predict(rows), cpu.predict(DIGITS))
    assert [name for name, _ in found] == ["cpu"] * 3 + [device] * 3
    np.testing.assert_allclose(found[5][1], found[2][1], atol=1e-9)


def test_training_goes_on_elsewhere_after_a_pickle(card):
    models = [ours.MLPClassifier((9,), solver=solver, random_state=0) for solver in ("sgd", "adam")]
    for model in models:
        cpu, own = clone(model), clone(model).set_params(device="numpy")
        for device in ("numpy", "cuda:1", "cpu"):
            for one in (cpu, own):
                one.partial_fit(DIGITS, LABELS, classes=range(10))
            np.testing.assert_allclose(own.predict_proba(DIGITS), cpu.predict_proba(DIGITS), atol=1e-9)
            assert_alike(cpu, own, 1e-9)
            own = pickle.loads(pickle.dumps(own)).set_params(device=device)
    assert clone(models[0].set_params(device="cuda:1")).device == "cuda:1"


def test_predictions_are_made_on_the_device_that_is_asked_for(card):
    model = ours.MLPRegressor(hidden_layer_sizes=(9,), device="cuda:1", max_iter=2).fit(DIABETES, PROGRESS)
    predicted = model.predict(DIABETES)
    assert base._NETWORKS[model]._predicting._device.id == 1
    # scikit-learn's own code would take other dtypes
    np.testing.assert_allclose(model.predict(DIABETES.astype(np.float32)), predicted, atol=1e-6)
    model.device = "cpu"
    np.testing.assert_allclose(model.predict(DIABETES), predicted, atol=1e-12)
    assert isinstance(base._NETWORKS[model]._predicting, fn.program.Program)
    stock = ours.to_sklearn(model.set_params(device="numpy"))
    np.testing.assert_allclose(stock.predict(DIABETES), predicted, atol=1e-12)


def test_without_cupy_it_is_a_device_error_with_the_line_for_pip(monkeypatch):
    monkeypatch.setattr(cuda_cards.importlib.util, "find_spec", lambda name: None)
    line = re.escape("pip install 'fastnn-core[cuda12]'")
    model = ours.MLPClassifier((9,), device="cuda", max_iter=1)
    for solver in ("adam", "lbfgs"):
        with pytest.raises(fn.DeviceError, match=line):
            model.set_params(solver=solver).fit(DIGITS, LABELS)
        assert not hasattr(model, "coefs_")
    model.set_params(device="cpu").fit(DIGITS, LABELS).device = "cuda"
    with pytest.raises(fn.DeviceError, match=line):
        model.predict(DIGITS)
    with pytest.raises(ValueError, match="device must be"):
        model.set_params(device="gpu").fit(DIGITS, LABELS)


def test_what_is_left_to_scikit_learn_on_the_cpu_is_an_error_elsewhere():
    class Own(ours.MLPClassifier):
        def _backprop(self, *given):
            return super()._backprop(*given)

    with pytest.raises(ValueError, match=r"device='numpy' cannot be done .* ours cannot: Own has its own"):
        Own(device="numpy").fit(DIGITS, LABELS)
    weight = np.full(240, 1e-40)
    with pytest.raises(ValueError, match=r"device='numpy' cannot be .* some of sample_weight are neither"):
        ours.MLPClassifier(device="numpy").fit(DIGITS, LABELS, weight)
    wild = {"solver": "sgd", "learning_rate_init": 1e30, "activation": "identity"}
    with pytest.raises(ValueError, match=r"the loss is not finite in epoch 3.*with device='numpy' scikit"):
        ours.MLPRegressor(device="numpy", **wild).fit(DIABETES, PROGRESS)
    model = ours.MLPClassifier((9,), device="numpy", max_iter=1).fit(DIGITS, LABELS)
    model.coefs_[0] = model.coefs_[0].astype(np.float32)
    with pytest.raises(ValueError, match="ours cannot: coefs_ and intercepts_ are not of one dtype"):
        model.predict(DIGITS)


@pytest.mark.parametrize("device", ["numpy", "cuda"])
def test_a_batch_without_weight_teaches_nothing(card, device):
    weight = WEIGHTS.copy()
    weight[200:] = 0
    given = {"solver": "sgd", "momentum": 0.0, "batch_size": 40, "shuffle": False, "alpha": 0.1}
    model = ours.MLPClassifier((9,), max_iter=1, random_state=0, device=device, **given)
    whole = clone(model).fit(DIGITS, LABELS, weight)
    part = clone(model).fit(DIGITS[:200], LABELS[:200], weight[:200])
    np.testing.assert_array_equal(whole.coefs_[0], part.coefs_[0])
    assert whole.loss_ == pytest.approx(part.loss_ * 200 / 240)
