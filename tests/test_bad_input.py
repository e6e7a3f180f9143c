"""Bad inputs: each is refused with the right class and a text that names argument, expected and got.

Afterwards nothing has changed: the next epoch gives the bits of a trainer that never saw the bad input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fastnn as fn

Array = NDArray[Any]

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 4)).astype(np.float32)
LABELS = RNG.integers(0, 3, 40)
VALUES = RNG.normal(size=40)
BITS = (VALUES > 0).astype(int)

Make = Callable[[], tuple[fn.Trainer, Any]]


def classifier() -> tuple[fn.Trainer, Any]:
    model = fn.Sequential(fn.Dense(6, "tanh"), fn.Dropout(0.1), fn.Dense(3))
    return fn.Trainer(model, "cross_entropy", fn.Adam(0.01), ["accuracy"], seed=1), LABELS


def binary() -> tuple[fn.Trainer, Any]:
    model = fn.Sequential(fn.Dense(6, "relu"), fn.Dense(1))
    return fn.Trainer(model, "binary_cross_entropy", "adam", ["accuracy"], seed=1), BITS


def regressor() -> tuple[fn.Trainer, Any]:
    model = fn.Sequential(fn.Dense(6, "relu"), fn.Dense(1), dtype="float64")
    return fn.Trainer(model, "mse", "adam", ["r2"], seed=1), VALUES


def altered(a: Array, row: int, value: Any, dtype: Any = None) -> Array:
    """A copy with one element, or one row, changed."""
    changed = a.astype(a.dtype if dtype is None else dtype)
    changed[row] = value
    return changed


def unweighted(y: Array, output: Array) -> float:
    return 0.0


def with_metric(trainer: fn.Trainer, metric: Any) -> fn.Trainer:
    """Another trainer of the same model that takes one more metric."""
    return fn.Trainer(trainer.model, trainer.loss, trainer.optimizer, [metric], seed=1)


Case = tuple[str, Make, Callable[[fn.Trainer], object], type[Exception], str]

CASES: list[Case] = [
    # ---- x
    ("columns", classifier, lambda t: t.fit(X[:, :3], LABELS), ValueError,
     r"^x must have 4 columns, got shape \(40, 3\)"),
    ("one row as vector", classifier, lambda t: t.fit(X[0], LABELS[:1]), ValueError,
     r"^x must be 2-D \(rows, 4\), got shape \(4,\); x\.reshape\(1, -1\)"),
    ("three dimensions", classifier, lambda t: t.fit(X.reshape(10, 4, 4), LABELS), ValueError,
     r"^x must be 2-D \(rows, 4\), got shape \(10, 4, 4\)"),
    ("a number", classifier, lambda t: t.fit(3.0, LABELS), ValueError, r"^x must be 2-D .* got shape \(\)"),
    ("no rows", classifier, lambda t: t.fit(X[:0], LABELS[:0]), ValueError,
     r"^x must have at least one row, got shape \(0, 4\)"),
    ("no columns", classifier, lambda t: t.fit(X[:, :0], LABELS),
     ValueError, r"^x must have 4 columns, got shape \(40, 0\)"),
    ("texts", classifier, lambda t: t.fit(X.astype(str), LABELS), TypeError,
     r"^x must hold real numbers, got dtype <U"),
    ("objects", classifier, lambda t: t.fit(X.astype(object), LABELS), TypeError,
     "^x must hold real numbers, got dtype object"),
    ("complex numbers", classifier, lambda t: t.fit(X + 1j, LABELS),
     TypeError, "^x must hold real numbers, got dtype complex"),
    ("ragged lists", classifier, lambda t: t.fit([[1, 2, 3, 4], [1, 2]], [0, 1]), ValueError,
     "^x must be an array of one shape"),
    ("None", classifier, lambda t: t.fit(None, LABELS),
     TypeError, "^x must hold real numbers, got NoneType, which is no array"),
    ("a generator", classifier, lambda t: t.evaluate((row for row in X), LABELS),
     TypeError, "^x must hold real numbers, got generator, which is no array"),
    ("a source for a model", classifier, lambda t: t.model.predict(fn.data.Source.npy(X, LABELS)),
     TypeError, "^x must hold real numbers, got Source, which is no array"),
    ("too large for float32", classifier, lambda t: t.fit(X.astype(float) * 1e300, LABELS), ValueError,
     "^x has values too large for float32"),
    ("dates", classifier, lambda t: t.fit(X.astype("datetime64[s]"), LABELS), TypeError,
     "^x must hold real numbers, got dtype datetime64"),
    ("NaN in x", classifier, lambda t: t.partial_fit(altered(X, 7, np.nan), LABELS), fn.DivergenceError,
     r"x itself has a value that is not finite.*np\.isfinite\(x\)"),
    ("Inf in x of gradient", classifier, lambda t: t.gradient(altered(X, 7, np.inf), LABELS),
     fn.DivergenceError,
     "in the gradient .*x itself"),
    ("NaN in x of evaluate", regressor, lambda t: t.evaluate(altered(X, 7, np.nan), VALUES),
     fn.DivergenceError,
     "over x .*x itself"),
    ("columns of predict", classifier, lambda t: t.predict(X[:, :2]), ValueError,
     r"^x must have 4 columns, got shape \(40, 2\)"),
    ("vector for predict_proba", classifier, lambda t: t.predict_proba(X[0]),
     ValueError, r"^x must be 2-D \(rows, 4\)"),
    ("columns of evaluate", classifier, lambda t: t.evaluate(X[:, :2], LABELS), ValueError,
     r"^x must have 4 columns, got shape \(40, 2\)"),
    ("no rows to evaluate", classifier, lambda t: t.evaluate(X[:0], LABELS[:0]), ValueError,
     r"^x must have at least one row, got shape \(0, 4\)"),
    # ---- y of classes
    ("fewer labels", classifier, lambda t: t.fit(X, LABELS[:39]), ValueError,
     r"^y must have shape \(40,\), got \(39,\)"),
    ("label too high", classifier, lambda t: t.fit(X, altered(LABELS, 5, 3)), ValueError,
     "^y must hold labels from 0 to 2, got 3 in row 5"),
    ("negative label", classifier, lambda t: t.fit(X, altered(LABELS, 5, -1)), ValueError,
     "^y must hold labels from 0 to 2, got -1 in row 5"),
    ("float labels", classifier, lambda t: t.fit(X, LABELS.astype(float)), TypeError,
     r"^y must hold integer labels, got dtype float64; use y\.astype\(int\)"),
    ("text labels", classifier, lambda t: t.fit(X, LABELS.astype(str)), TypeError,
     r"^y must hold integer labels from 0 to 2, got dtype <U.*np\.unique"),
    ("one-hot labels", classifier, lambda t: t.fit(X, np.eye(3, dtype=int)[LABELS]), ValueError,
     r"^y must have shape \(40,\), got \(40, 3\); y\.argmax\(axis=1\)"),
    ("label of partial_fit", classifier, lambda t: t.partial_fit(X, LABELS + 1),
     ValueError, "^y must hold labels from 0 to 2, got 3"),
    ("label of evaluate", classifier, lambda t: t.evaluate(X, LABELS + 1),
     ValueError, "^y must hold labels from 0 to 2, got 3"),
    ("one output and cross_entropy", regressor,
     lambda t: fn.Trainer(fn.Sequential(fn.Dense(1)), "cross_entropy", "sgd").fit(X, BITS), ValueError,
     r"^y must hold labels from 0 to 0, got 1 .*binary_cross_entropy takes one output"),
    # ---- y of values
    ("NaN target", regressor, lambda t: t.fit(X, altered(VALUES, 3, np.nan)), ValueError,
     "^y must be finite, got nan in row 3"),
    ("Inf target", regressor, lambda t: t.fit(X, altered(VALUES, 3, np.inf)),
     ValueError, "^y must be finite, got inf in row 3"),
    ("shape of values", regressor, lambda t: t.fit(X, np.zeros((40, 2))), ValueError,
     r"^y must have shape \(40,\) or \(40, 1\), got \(40, 2\)"),
    ("row of values", regressor, lambda t: t.fit(X, VALUES[None]), ValueError,
     r"^y must have shape \(40,\) or \(40, 1\), got \(1, 40\)"),
    ("text values", regressor, lambda t: t.fit(X, VALUES.astype(str)),
     TypeError, "^y must hold real numbers, got dtype <U"),
    ("bits above 1", binary, lambda t: t.fit(X, altered(BITS, 4, 2)),
     ValueError, "^y must lie from 0 to 1, got 2 in row 4"),
    ("bits of -1 and 1", binary, lambda t: t.fit(X, 2 * BITS - 1),
     ValueError, "^y must lie from 0 to 1, got -1"),
    ("probabilities and accuracy", binary, lambda t: t.fit(X, altered(BITS, 4, 0.5, float)), ValueError,
     r"^y must be 0 or 1 for metric 'accuracy', got 0\.5 in row 4"),
    # ---- numbers of fit
    ("epochs negative", classifier, lambda t: t.fit(X, LABELS, epochs=-1),
     ValueError, "^epochs must be at least 0, got -1"),
    ("epochs float", classifier, lambda t: t.fit(X, LABELS, epochs=2.0),
     TypeError, r"^epochs must be an integer, got 2\.0"),
    ("epochs bool", classifier, lambda t: t.fit(X, LABELS, epochs=True),
     TypeError, "^epochs must be an integer, got True"),
    ("batch_size 0", classifier, lambda t: t.fit(X, LABELS, batch_size=0),
     ValueError, "^batch_size must be at least 1, got 0"),
    ("batch_size text", classifier, lambda t: t.fit(X, LABELS, batch_size="32"),
     TypeError, "^batch_size must be an integer, got '32'"),
    ("shuffle 1", classifier, lambda t: t.fit(X, LABELS, shuffle=1),
     TypeError, "^shuffle must be True or False, got 1"),
    ("progress text", classifier, lambda t: t.fit(X, LABELS, progress="yes"),
     TypeError, "^progress must be True or False, got 'yes'"),
    ("rate_factor negative", classifier, lambda t: setattr(t, "rate_factor", -0.5), ValueError,
     r"^rate_factor must be at least 0 and finite, got -0\.5"),
    ("rate_factor NaN", classifier, lambda t: setattr(t, "rate_factor", np.nan), ValueError,
     "^rate_factor must be at least 0 and finite, got nan"),
    # ---- weights
    ("weights of another length", classifier, lambda t: t.fit(X, LABELS, sample_weight=np.ones(39)),
     ValueError,
     r"^sample_weight must have shape \(40,\), got \(39,\)"),
    ("negative weight", classifier, lambda t: t.fit(X, LABELS, sample_weight=altered(np.ones(40), 2, -1)),
     ValueError,
     r"^sample_weight must be finite and not negative, got -1\.0 in row 2"),
    ("NaN weight", classifier, lambda t: t.fit(X, LABELS, sample_weight=altered(np.ones(40), 2, np.nan)),
     ValueError,
     "^sample_weight must be finite and not negative, got nan in row 2"),
    ("weights all zero", classifier, lambda t: t.fit(X, LABELS, sample_weight=np.zeros(40)), ValueError,
     "^sample_weight must not be all zero"),
    ("weight of partial_fit", classifier, lambda t: t.partial_fit(X, LABELS, [1]), ValueError,
     r"^sample_weight must have shape \(40,\), got \(1,\)"),
    ("weight of evaluate", classifier, lambda t: t.evaluate(X, LABELS, -np.ones(40)), ValueError,
     r"^sample_weight must be finite and not negative, got -1\.0 in row 0"),
    ("class_weight of an unknown label", classifier, lambda t: t.fit(X, LABELS, class_weight={0: 1, 3: 2}),
     ValueError,
     "^class_weight must name labels from 0 to 2, got 3"),
    ("class_weight of a text label", classifier, lambda t: t.fit(X, LABELS, class_weight={"a": 2}), TypeError,
     "^class_weight must have labels as keys, got 'a'"),
    ("class_weight negative", classifier, lambda t: t.fit(X, LABELS, class_weight={1: -2}), ValueError,
     r"^class_weight\[1\] must be at least 0 and finite, got -2"),
    ("class_weight NaN", classifier, lambda t: t.fit(X, LABELS, class_weight={1: np.nan}), ValueError,
     r"^class_weight\[1\] must be at least 0 and finite, got nan"),
    ("class_weight a number", classifier, lambda t: t.fit(X, LABELS, class_weight=2.0), TypeError,
     r"^class_weight must be a dict or list of weights by label, or 'balanced', got 2\.0"),
    ("class_weight a short list", classifier, lambda t: t.fit(X, LABELS, class_weight=[1, 2]), ValueError,
     r"^class_weight must have a weight for each of 3 labels, got \[1, 2\]"),
    ("class_weight misspelled", classifier, lambda t: t.fit(X, LABELS, class_weight="balance"), ValueError,
     "^class_weight must be one of balanced, got 'balance'; did you mean 'balanced'"),
    ("class_weight of values", regressor, lambda t: t.fit(X, VALUES, class_weight="balanced"), ValueError,
     "^class_weight needs targets that are classes, got loss 'mse'"),
    ("class_weight all zero", binary, lambda t: t.fit(X, BITS, class_weight={0: 0, 1: 0}), ValueError,
     "^class_weight must not be all zero in the rows to train on"),
    ("both weights all zero", binary, lambda t: t.fit(X, BITS, sample_weight=BITS, class_weight={1: 0}),
     ValueError,
     "^sample_weight times class_weight must not be all zero in the rows to train on"),
    # ---- validation
    ("validation_data an array", classifier, lambda t: t.fit(X, LABELS, validation_data=X), TypeError,
     r"^validation_data must be \(x, y\) or \(x, y, sample_weight\), got ndarray"),
    ("validation_data of one", classifier, lambda t: t.fit(X, LABELS, validation_data=(X,)), TypeError,
     r"^validation_data must be \(x, y\) or .*, got 1 of them"),
    ("validation columns", classifier, lambda t: t.fit(X, LABELS, validation_data=(X[:, :3], LABELS)),
     ValueError,
     r"^validation_data\[0\] must have 4 columns, got shape \(40, 3\)"),
    ("validation without rows", classifier, lambda t: t.fit(X, LABELS, validation_data=(X[:0], LABELS[:0])),
     ValueError,
     r"^validation_data\[0\] must have at least one row"),
    ("validation labels", classifier, lambda t: t.fit(X, LABELS, validation_data=(X, LABELS + 1)), ValueError,
     r"^validation_data\[1\] must hold labels from 0 to 2, got 3"),
    ("validation shape", classifier, lambda t: t.fit(X, LABELS, validation_data=(X, LABELS[:9])), ValueError,
     r"^validation_data\[1\] must have shape \(40,\), got \(9,\)"),
    ("validation NaN", regressor, lambda t: t.fit(X, VALUES, validation_data=(X, altered(VALUES, 1, np.nan))),
     ValueError,
     r"^validation_data\[1\] must be finite, got nan in row 1"),
    ("validation weights", regressor, lambda t: t.fit(X, VALUES, validation_data=(X, VALUES, -np.ones(40))),
     ValueError,
     r"^validation_data\[2\] must be finite and not negative, got -1\.0 in row 0"),
    ("validation_split 1", classifier, lambda t: t.fit(X, LABELS, validation_split=1.0), ValueError,
     r"^validation_split must be at least 0 and below 1, got 1\.0"),
    ("validation_split negative", classifier, lambda t: t.fit(X, LABELS, validation_split=-0.1), ValueError,
     r"^validation_split must be at least 0 and below 1, got -0\.1"),
    ("validation_split NaN", classifier, lambda t: t.fit(X, LABELS, validation_split=np.nan), ValueError,
     "^validation_split must be at least 0 and below 1, got nan"),
    ("validation_split text", classifier, lambda t: t.fit(X, LABELS, validation_split="0.2"), TypeError,
     "^validation_split must be a number, got '0.2'"),
    ("validation_split of no row", classifier, lambda t: t.fit(X, LABELS, validation_split=0.01), ValueError,
     r"^validation_split=0\.01 must leave rows for both sides, got none to validate on of 40"),
    ("validation_split of all rows", classifier, lambda t: t.fit(X, LABELS, validation_split=0.99),
     ValueError,
     r"^validation_split=0\.99 must leave rows for both sides, got none to train on of 40"),
    ("validation_split of a class", classifier, lambda t: t.fit(X[:3], [0, 1, 2], validation_split=0.4),
     ValueError,
     r"^validation_split=0\.4 must leave a row of each class to train on, got 3 rows of 3 classes"),
    ("validation twice", classifier,
     lambda t: t.fit(X, LABELS, validation_data=(X, LABELS), validation_split=0.2), ValueError,
     r"^validation_split must be 0 where validation_data is given, got 0\.2"),
    ("own metric and weights", classifier,
     lambda t: with_metric(t, unweighted).fit(X, LABELS, sample_weight=np.ones(40)), TypeError,
     "^metric 'unweighted' must take sample_weight where rows have weights"),
    ("top_k of too few outputs", classifier, lambda t: with_metric(t, "top_5_accuracy").fit(X, LABELS),
     ValueError,
     "^metric 'top_5_accuracy' needs at least 5 outputs, the model has 3"),
    # ---- run
    ("order of one dimension", classifier, lambda t: t.run(X, LABELS, [0, 1]), ValueError,
     r"^order must be 2-D \(steps, batch\), got shape \(2,\)"),
    ("order out of range", classifier, lambda t: t.run(X, LABELS, [[0, 40]]), ValueError,
     "^order must hold row numbers from 0 to 39, got 40"),
    ("order of floats", classifier, lambda t: t.run(X, LABELS, [[0.0, 1.0]]),
     TypeError, "^order must hold integers, got dtype float64"),
    # ---- callbacks
    ("a callback alone", classifier, lambda t: t.fit(X, LABELS, callbacks=fn.ProgressBar()), TypeError,
     "^callbacks must be a list of callbacks, got <"),
    ("a callback class", classifier, lambda t: t.fit(X, LABELS, callbacks=[fn.EarlyStopping]), TypeError,
     r"^callbacks\[0\] must be a callback, got the class; write EarlyStopping\(\)"),
    ("nothing to monitor", classifier, lambda t: t.fit(X, LABELS, callbacks=[fn.EarlyStopping()]), ValueError,
     "^monitor of EarlyStopping must be one of loss, accuracy, got 'val_loss'; it needs validation_data"),
    # ---- constructors
    ("unknown loss", classifier, lambda t: fn.Trainer(t.model, "cross_entrpy", "sgd"), ValueError,
     "^loss must be one of .*, got 'cross_entrpy'; did you mean 'cross_entropy'"),
    ("unknown optimizer", classifier, lambda t: fn.Trainer(t.model, "mse", "adm"), ValueError,
     "^optimizer must be one of .*, got 'adm'; did you mean 'adam'"),
    ("unknown metric", classifier, lambda t: with_metric(t, "acuracy"), ValueError,
     r"^metrics\[0\] must be one of .*, got 'acuracy'; did you mean 'accuracy'"),
    ("metrics as a text", classifier, lambda t: fn.Trainer(t.model, "mse", "sgd", "r2"), TypeError,
     "^metrics must be a list of metrics, got 'r2'"),
    ("metric twice", classifier, lambda t: fn.Trainer(t.model, "mse", "sgd", ["r2", "mae", "r2"]), ValueError,
     r"^metrics\[2\] must have a name of its own, got 'r2' twice"),
    ("metric with the name of the loss", classifier,
     lambda t: with_metric(t, fn.metrics.Function(unweighted, "loss")),
     ValueError, r"^metrics\[0\] must not be called 'loss'"),
    ("metric of values", classifier, lambda t: with_metric(t, "r2"),
     ValueError, "^metric 'r2' needs a loss of values: mse"),
    ("metric of classes", regressor, lambda t: with_metric(t, "auc"),
     ValueError, "^metric 'auc' needs a loss of classes"),
    ("unknown device", classifier, lambda t: fn.Trainer(t.model, "mse", "sgd", device="gpu"), ValueError,
     "^device must be one of cpu, numpy, cuda, got 'gpu'"),
    ("no model", classifier, lambda t: fn.Trainer([1], "mse", "sgd"),
     TypeError, "^model must be a Sequential, got list"),  # type: ignore[arg-type]
    ("seed negative", classifier, lambda t: fn.Trainer(t.model, "mse", "sgd", seed=-1),
     ValueError, "^seed must be from 0 to"),
    ("lr negative", classifier, lambda t: fn.SGD(lr=-0.1),
     ValueError, r"^lr must be at least 0 and finite, got -0\.1"),
    ("lr NaN", classifier, lambda t: fn.Adam(lr=np.nan),
     ValueError, "^lr must be at least 0 and finite, got nan"),
    ("lr a text", classifier, lambda t: fn.Adam(lr="0.1"),
     TypeError, "^lr must be a number, got '0.1'"),  # type: ignore[arg-type]
    ("betas of 1", classifier, lambda t: fn.Adam(betas=(0.9, 1.0)),
     ValueError, r"^betas\[1\] must be at least 0 and below 1, got 1\.0"),
    ("units 0", classifier, lambda t: fn.Dense(0), ValueError, "^units must be at least 1, got 0"),
    ("units float", classifier, lambda t: fn.Dense(8.0),
     TypeError, r"^units must be an integer, got 8\.0"),  # type: ignore[arg-type]
    ("unknown activation", classifier, lambda t: fn.Dense(8, "rleu"),
     ValueError, "^activation must be one of .*, got 'rleu'; did you mean 'relu'"),
    ("dropout of 1", classifier, lambda t: fn.Dropout(1.0),
     ValueError, r"^rate must be at least 0 and below 1, got 1\.0"),
    ("no layers", classifier, lambda t: fn.Sequential(),
     ValueError, "^layers must be at least one, got none"),
    ("a layer's class", classifier, lambda t: fn.Sequential(fn.Dense(3), fn.Dropout),
     TypeError, r"^layer 1 must be a description, got the class; write Dropout"),  # type: ignore[arg-type]
    ("model of integers", classifier, lambda t: fn.Sequential(fn.Dense(3), dtype="int32"), ValueError,
     "^dtype must be 'float32' or 'float64', got 'int32'"),
    ("n_in 0", classifier, lambda t: fn.Sequential(fn.Dense(3)).build(0),
     ValueError, "^n_in must be at least 1, got 0"),
    ("parameters of another length", classifier, lambda t: setattr(t.model, "parameters", [1.0]), ValueError,
     r"^parameters must have shape \(51,\), got \(1,\)"),
    ("predict before training", classifier, lambda t: fn.Sequential(fn.Dense(3)).predict(X),
     fn.NotFittedError,
     "no parameters yet"),
    ("predict_proba of values", regressor, lambda t: t.predict_proba(X), ValueError,
     "predict_proba needs a model trained with cross_entropy or binary_cross_entropy"),
]  # fmt: skip


def trained(make: Make) -> tuple[fn.Trainer, Any]:
    trainer, y = make()
    trainer.fit(X, y, epochs=2, batch_size=16, validation_split=0.25)
    return trainer, y


def test_there_are_sixty_at_least_and_each_has_its_own_name() -> None:
    names = [case[0] for case in CASES]
    assert len(set(names)) == len(names) >= 60


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_a_bad_input_is_refused_and_leaves_all_as_it_was(case: Case) -> None:
    _, make, act, error, text = case
    trainer, y = trained(make)
    parameters, link = trainer.model.parameters.copy(), trainer.model.link
    known = trainer.step, trainer.epoch, trainer.rate_factor, trainer.last_epoch, trainer.history.copy()
    with pytest.raises(error, match=text) as caught:
        act(trainer)
    assert type(caught.value) is error or error is fn.NotFittedError
    np.testing.assert_array_equal(trainer.model.parameters, parameters)
    assert trainer.model.link == link
    assert (trainer.step, trainer.epoch, trainer.rate_factor, trainer.last_epoch, trainer.history) == known
    assert trainer.history.epoch == [1, 2]

    reference, _ = trained(make)
    for one in (trainer, reference):
        one.fit(X, y, batch_size=16, validation_split=0.25)
    np.testing.assert_array_equal(trainer.model.parameters, reference.model.parameters)
    assert trainer.history == reference.history


UNBUILT = [case for case in CASES if case[0].startswith(("validation", "class_weight", "label", "nothing"))]


@pytest.mark.parametrize("case", UNBUILT, ids=lambda case: case[0])
def test_a_refused_first_fit_does_not_build_the_model(case: Case) -> None:
    _, make, act, _, _ = case
    trainer, y = make()
    with pytest.raises((ValueError, TypeError)):
        act(trainer)
    assert not trainer.model.is_built
    trainer.fit(X, y)
