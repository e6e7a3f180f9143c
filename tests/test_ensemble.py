"""Ensembles: means and spreads worked by hand, one file that is judged like any other, copies."""

import copy
import pickle

import numpy as np
import pytest

import fastnn as fn
from fastnn import container

rng = np.random.default_rng(1)
X = rng.standard_normal((30, 4))
Y = (X[:, 0] > 0).astype(int)


def trained(seed, *layers, dtype="float32"):
    model = fn.Sequential(*layers, fn.Dense(2), dtype=dtype)
    fn.Trainer(model, "cross_entropy", "adam", seed=seed).fit(X, Y, epochs=2)
    return model


def different():
    return [
        trained(0, fn.Dense(5, "relu")),
        trained(1, fn.BatchNorm(), fn.Dense(9, "tanh"), fn.Dropout(0.5)),
        trained(2, dtype="float64"),
    ]


def test_mean_and_spread_are_those_of_the_models():
    models = different()
    both = fn.Ensemble(models, [1, 2, 5])
    out = np.stack([one.predict(X).astype(float) for one in models])
    mean = np.average(out, axis=0, weights=[1, 2, 5])
    assert both.predict(X) == pytest.approx(mean, rel=1e-12, abs=1e-12)
    spread = np.sqrt(np.average((out - mean) ** 2, axis=0, weights=[1, 2, 5]))
    assert both.std(X) == pytest.approx(spread, rel=1e-9)
    proba = np.stack([one.predict_proba(X).astype(float) for one in models])
    assert both.predict_proba(X) == pytest.approx(np.average(proba, axis=0, weights=[1, 2, 5]), rel=1e-12)
    assert both.predict_proba(X).sum(axis=1) == pytest.approx(np.ones(30), rel=1e-6)
    assert both.std(X, proba=True).max() < 0.5
    assert both.predict(X).dtype == np.float64
    assert fn.Ensemble(models[:2]).predict(X).dtype == np.float32


def test_one_model_is_itself_and_a_row_alone_is_the_row_in_a_batch():
    one = trained(0)
    assert fn.Ensemble([one]).predict(X).tobytes() == one.predict(X).tobytes()
    assert not fn.Ensemble([one, one]).std(X).any()
    both = fn.Ensemble(different())
    assert both.predict(X)[7:8].tobytes() == both.predict(X[7:8]).tobytes()


def test_one_file_keeps_all_to_the_bit(tmp_path):
    models = different()
    for model in models:
        model.classes = ["no", "yes"]
    both = fn.Ensemble(models, [0.1, 0.2, 0.7])
    both.save(tmp_path / "e.safetensors")
    again = fn.load(tmp_path / "e.safetensors")
    assert isinstance(again, fn.Ensemble)
    assert again.classes == ["no", "yes"]
    assert again.weights.tobytes() == both.weights.tobytes()
    assert [one.layers for one in again] == [one.layers for one in models]
    for other in (again, pickle.loads(pickle.dumps(both)), copy.deepcopy(both)):
        assert other.predict(X).tobytes() == both.predict(X).tobytes()
        assert other.std(X).tobytes() == both.std(X).tobytes()
    safetensors = pytest.importorskip("safetensors.numpy")
    assert set(safetensors.load_file(tmp_path / "e.safetensors")) >= {"0/0.weight", "1/0.running_mean"}


def test_a_damaged_or_wrong_file_is_refused(tmp_path):
    path = tmp_path / "e.safetensors"
    fn.Ensemble(different()).save(path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    (tmp_path / "bad.safetensors").write_bytes(data)
    with pytest.raises(fn.FormatError, match="altered"):
        fn.load(tmp_path / "bad.safetensors")
    with pytest.raises(fn.FormatError, match=r"got a file of kind 'ensemble': fn\.load"):
        fn.Trainer(fn.Sequential(fn.Dense(2)), "cross_entropy", "adam").resume(path)
    found = container.read(path)
    for change, message in (
        ({"weights": "[0.5]"}, "weights must have shape"),
        ({"weights": "[1, 1, 1]"}, "weights of .* must have the sum 1, got 3"),
        ({"members": "[]"}, "models must be at least one"),
        ({"members": "[3]"}, "must be texts by name"),
        ({"members": "[{}]"}, "member 0 of .* must have an architecture"),
        ({"architecture": "{}"}, "must not have 'architecture'"),
    ):
        container.write(path, found.tensors, {**found.metadata, **change})
        with pytest.raises(fn.FormatError, match=message):
            fn.load(path)
    more = {**found.tensors, "7/0.weight": np.zeros((2, 2), np.float32)}
    container.write(path, more, found.metadata)
    with pytest.raises(fn.FormatError, match=r"must not have '7/0\.weight'"):
        fn.load(path)


def test_models_that_do_not_fit_are_refused():
    one = trained(0)
    with pytest.raises(TypeError, match="models must be a list of models, got Sequential"):
        fn.Ensemble(one)
    with pytest.raises(ValueError, match="models must be at least one"):
        fn.Ensemble([])
    with pytest.raises(TypeError, match=r"models\[1\] must be a Sequential, got str"):
        fn.Ensemble([one, "two"])
    with pytest.raises(ValueError, match=r"models\[1\] must have n_in 4 as models\[0\] has, got 3"):
        fn.Ensemble([one, fn.Sequential(fn.Dense(2)).build(3)])
    with pytest.raises(ValueError, match=r"models\[1\] must have link 'softmax'"):
        fn.Ensemble([one, fn.Sequential(fn.Dense(2)).build(4)])
    with pytest.raises(fn.NotFittedError, match=r"models\[1\] has no parameters yet"):
        fn.Ensemble([one, fn.Sequential(fn.Dense(2))])
    for weights, message in (([1], "shape"), ([0, 0], "sum above 0"), ([1, -1], r"weights\[1\]")):
        with pytest.raises(ValueError, match=message):
            fn.Ensemble([one, one], weights)


def test_the_command_line_tells_what_an_ensemble_is(tmp_path, capsys):
    from fastnn.cli import main

    path = str(tmp_path / "e.safetensors")
    fn.Ensemble(different()).save(path)
    assert main(["info", path]) == 0
    assert "Ensemble(3 models, 4 inputs, 2 outputs" in capsys.readouterr().out
    assert main(["info", "--json", path]) == 0
    assert '"weights"' in capsys.readouterr().out
