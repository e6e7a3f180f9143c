"""Residual and Concat: worked values, names, messages, files, predictions."""

import copy
import pickle

import numpy as np
import pytest
from layer_cases import NETWORKS

import fastnn as fn
from fastnn import descriptions, devices, kernels
from fastnn.layers import lower


def built(layers, n_in=6, dtype="float32", seed=0):
    model = fn.Sequential(*layers, dtype=dtype).build(n_in, seed=seed)
    model.parameters[...] = 0.3 * np.random.default_rng(seed).standard_normal(len(model.parameters))
    return model


def test_residual_adds_its_input_to_what_its_layers_give():
    model = fn.Sequential(fn.Residual(fn.Dense(2, activation="relu")), dtype="float64").build(2)
    model.weights["0.0.weight"][...] = [[1.0, -1.0], [2.0, 0.0]]
    model.weights["0.0.bias"][...] = [0.5, 0.25]
    assert model.predict([[1.0, 2.0], [-3.0, 1.0]]).tolist() == [[6.5, 2.0], [-3.0, 4.25]]


def test_a_projection_is_a_matrix_without_a_bias():
    model = fn.Sequential(fn.Residual(fn.Dense(1), projection=True), dtype="float64").build(2)
    assert list(model.weights) == ["0.0.weight", "0.0.bias", "0.projection.weight"]
    model.weights["0.projection.weight"][...] = [[10.0], [100.0]]
    model.weights["0.0.weight"][...] = [[1.0], [1.0]]
    assert model.predict([[1.0, 2.0]]).tolist() == [[213.0]]


def test_concat_puts_groups_of_columns_side_by_side():
    model = fn.Sequential(
        fn.Concat(((2, 0),), (slice(0, 3, 2), fn.Scale(10.0)), (None,)), dtype="float64"
    ).build(3)
    assert model.predict([[1.0, 2.0, 3.0]]).tolist() == [[3.0, 1.0, 10.0, 30.0, 1.0, 2.0, 3.0]]


def test_weights_are_named_by_all_positions():
    model = built(NETWORKS["nested"]("relu"))
    assert list(model.weights) == [
        "0.0.0.weight", "0.0.0.bias", "0.1.weight", "0.1.bias", "1.0.0.0.weight", "1.0.0.0.bias",
        "1.0.1.0.0.weight", "1.0.1.0.0.bias", "2.weight", "2.bias",
    ]  # fmt: skip


def test_embeddings_may_stand_in_a_group():
    layers = fn.Concat(((0, 2), fn.Dense(2)), ((1,), fn.Embedding(((0, 3, 4),)))), fn.Dense(1)
    model = built(layers, 3)
    assert model.weights["0.1.0.weight_0"].shape == (3, 4)
    assert model.weights["1.weight"].shape == (6, 1)
    x = np.array([[0.5, 2, -1.0], [0.1, 0, 0.3], [0.0, 7, 1.0]], np.float32)
    expected = np.empty((3, 1), np.float32)
    devices.make("numpy", model.steps, model._require()).predict(x, expected)
    np.testing.assert_allclose(model.predict(x), expected, rtol=1e-5)
    with pytest.raises(
        ValueError, match=r"layer 1\.0, Embedding.* must come before all layers with parameters"
    ):
        lower((fn.Dense(3), fn.Residual(fn.Embedding(((0, 3, 4),)))), 3)


@pytest.mark.parametrize("name", NETWORKS)
def test_descriptions_print_compare_copy_and_go_through_files(name, tmp_path):
    layers = NETWORKS[name]("tanh")
    for layer in layers:
        assert eval(repr(layer), vars(fn)) == layer
        assert hash(pickle.loads(pickle.dumps(layer))) == hash(copy.deepcopy(layer))
        assert descriptions.from_json("layer", descriptions.to_json(layer), descriptions.LAYERS) == layer
    model = built(layers)
    x = np.random.default_rng(1).standard_normal((5, 6)).astype(np.float32)
    model.save(tmp_path / "m.safetensors")
    for other in (
        fn.load(tmp_path / "m.safetensors"),
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
    ):
        assert other.layers == layers
        np.testing.assert_array_equal(other.predict(x), model.predict(x))
    assert f"{len(model.parameters):,} parameters" in model.summary()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_predictions_equal_the_array_program_and_do_not_depend_on_rows_beside(isa, threads, name, dtype):
    model = built(NETWORKS[name]("gelu" if "gelu" in kernels.ACTIVATIONS else "tanh"), dtype=dtype)
    x = np.random.default_rng(2).standard_normal((129, 6)).astype(dtype)
    expected = np.empty((129, 3), dtype)
    devices.make("numpy", model.steps, model._require()).predict(x, expected)
    handle = model.compile()
    for n in (1, 3):
        threads(n)
        given = model.predict(x)
        np.testing.assert_allclose(given, expected, rtol=1e-4 if dtype == "float32" else 1e-12, atol=1e-5)
        np.testing.assert_array_equal(handle(x), given)
        for rows in (slice(0, 0), slice(0, 1), slice(5, 7), slice(3, 20), slice(96, 129)):
            np.testing.assert_array_equal(model.predict(x[rows]), given[rows])
            np.testing.assert_array_equal(handle(np.ascontiguousarray(x[rows])), given[rows])
        bytes_ = (x * 20 + 128).astype(np.uint8)
        np.testing.assert_array_equal(model.predict(bytes_), model.predict(bytes_.astype(dtype)))


@pytest.mark.parametrize("name", NETWORKS)
def test_trained_weights_do_not_depend_on_threads_or_instruction_sets(threads, name):
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((150, 6)).astype(np.float32), rng.integers(0, 3, 150)
    found, before = set(), kernels.isa()
    try:
        for isa in kernels.isa_available():
            kernels.set_isa(isa)
            for n in (1, 2, 3, 4):
                threads(n)
                model = fn.Sequential(*NETWORKS[name]("tanh"))
                trainer = fn.Trainer(model, loss="cross_entropy", optimizer=fn.Adam(lr=0.01), seed=0)
                trainer.fit(x, y, epochs=2, batch_size=33)
                found.add(model.parameters.tobytes())
    finally:
        kernels.set_isa(before)
    assert len(found) == 1


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: fn.Residual(), ValueError, "layers must be at least one, got none"),
        (lambda: fn.Residual([fn.Dense(3)]), TypeError, "layers must be given one by one"),
        (lambda: fn.Residual(3), TypeError, r"layers\[0\] must be a layer such as Dense, got 3"),
        (lambda: fn.Residual(fn.Dense), TypeError, r"layers\[0\] must be a layer such as Dense"),
        (lambda: fn.Concat(), ValueError, "branches must be at least one, got none"),
        (lambda: fn.Concat(3), TypeError, r"branches\[0\] must be \(columns, \*layers\), got 3"),
        (lambda: fn.Concat(((0, 0),)), ValueError, "must name each column once"),
        (lambda: fn.Concat(((),)), ValueError, "must name at least one column"),
        (lambda: fn.Concat((slice(3, None),)), ValueError, r"must say where it ends, as slice\(3, 10\)"),
        (lambda: fn.Concat((("a", "b"),)), TypeError, r"branches\[0\]\[0\]\[0\] must be an integer"),
        (lambda: fn.Concat((fn.Dense(3),)), TypeError, "must be column numbers, a slice or None"),
        (
            lambda: lower((fn.Dense(3), fn.Residual(fn.Dense(4))), 2),
            ValueError,
            r"layer 1, Residual.*: x has 3 columns and f\(x\) 4; give both the same width, or set projection",
        ),
        (lambda: lower((fn.Concat(((5,),)),), 3), ValueError, "names column 5 of 3 columns"),
    ],
)
def test_errors_name_what_is_wrong(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_a_loss_that_is_not_finite_names_the_layer_around():
    model = built(NETWORKS["nested"]("relu"))
    model.weights["1.0.1.0.0.weight"][0, 0] = np.inf
    trainer = fn.Trainer(model, loss="mse", optimizer="sgd", seed=0)
    with pytest.raises(fn.DivergenceError, match="layer 1, Residual"):
        trainer.fit(np.ones((4, 6), np.float32), np.ones((4, 3)))
