"""The compiled program on inputs that are not taken as they are: scales, bytes, codes of categories."""

import numpy as np
import pytest
from test_program import CLOSE, central_differences

import fastnn as fn
from fastnn import devices, kernels
from fastnn.layers import lower, n_parameters

EMBEDDED = {
    "embedding": lambda: (fn.Embedding(((1, 5, 3), (4, 2, 1))), fn.Dense(9, activation="tanh"), fn.Dense(3)),
    "embedding, then activation": lambda: (fn.Embedding(((0, 5, 2),)), fn.Activation("tanh"), fn.Dense(3)),
    "scale, embedding, dropout": lambda: (
        fn.Scale(2.0, 1.0),
        fn.Embedding(((1, 5, 4),)),
        fn.Dropout(0.3),
        fn.Dense(3),
    ),
    "embedding alone": lambda: (fn.Embedding(((1, 5, 3), (4, 2, 1))),),
    "scale inside": lambda: (
        fn.Dense(8),
        fn.Scale(0.7, 0.2),
        fn.Dense(3, activation="sigmoid"),
        fn.Scale(-2.0),
    ),
    "scale first": lambda: (fn.Scale(0.5, -1.0), fn.Dense(7, activation="relu"), fn.Dense(3)),
    "scale alone": lambda: (fn.Scale(0.5, -1.0),),
}


def coded(name, n_rows, dtype):
    """A network of EMBEDDED over columns of which 0, 1 and 4 hold codes, some of them unknown."""
    rng = np.random.default_rng(3)
    steps = lower(EMBEDDED[name](), 6)
    parameters = (0.5 * rng.standard_normal(n_parameters(steps))).astype(dtype)
    x = rng.standard_normal((n_rows, 6)).astype(dtype)
    x[:, [0, 1, 4]] = rng.integers(-1, 7, (n_rows, 3))
    return steps, parameters, x, rng.random((n_rows, steps[-1].n_out)).astype(dtype)


@pytest.mark.parametrize("name", EMBEDDED)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scales_and_embeddings_equal_the_array_program(isa, name, dtype):
    for n_rows in (1, 7, 64):
        steps, parameters, x, y = coded(name, n_rows, dtype)
        programs = [
            devices.make(device, steps, parameters.copy(), loss="mse", seed=3) for device in ("cpu", "numpy")
        ]
        (loss, gradient), (expected_loss, expected) = (p.gradient(x, y, dropout_step=1) for p in programs)
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        np.testing.assert_allclose(gradient, expected, **CLOSE[dtype])
        outputs = [p.predict(x, np.empty_like(y)) for p in programs]
        np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-6)
        alone = np.vstack([programs[0].predict(x[i : i + 1], np.empty_like(y[:1])) for i in range(n_rows)])
        np.testing.assert_array_equal(alone, outputs[0])


@pytest.mark.parametrize("name", EMBEDDED)
def test_gradients_of_scales_and_embeddings_equal_central_differences(name):
    steps, parameters, x, y = coded(name, 9, "float64")
    program = devices.make("cpu", steps, parameters, loss="mse", seed=3)
    _, gradient = program.gradient(x, y, dropout_step=1)
    differences = central_differences(lambda: program.gradient(x, y, dropout_step=1)[0], parameters)
    np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-8)


def test_an_unknown_category_is_zeros_and_a_broken_code_is_nan(isa):
    model = fn.Sequential(fn.Embedding(((1, 3, 2),)), dtype="float64").build(2)
    table = model.weights["0.weight_1"]
    codes = [0, 2, 3, -1, 1e30, 0.5, np.nan, np.inf]
    out = model.predict([[7.0, code] for code in codes])
    np.testing.assert_array_equal(out[:, 0], 7)
    np.testing.assert_array_equal(out[:2, 1:], table[[0, 2]])
    np.testing.assert_array_equal(out[2:5, 1:], 0)
    assert np.isnan(out[5:, 1:]).all()


@pytest.mark.parametrize("device", ["cpu", "numpy"])
def test_bytes_give_what_their_floats_give(isa, threads, device):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (90, 40)).astype(np.uint8), rng.integers(0, 3, 90)
    for first in ((fn.Scale(1 / 255, -0.5),), ()):
        found = []
        for data in (x, x.astype(np.float32), np.pad(x, 3)[3:-3, 3:-3]):
            for n_threads in (1, 2):
                threads(n_threads)
                model = fn.Sequential(*first, fn.Dense(300, activation="tanh"), fn.Dense(3))
                trainer = fn.Trainer(model, loss="cross_entropy", optimizer=fn.Adam(), seed=1, device=device)
                trainer.fit(data, y, epochs=2, batch_size=64)
                outputs = [model.predict(data), model.compile()(np.ascontiguousarray(data))]
                found.append((model.parameters.tobytes(), *(out.tobytes() for out in outputs)))
        assert len(set(found)) == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_scale_by_column_has_the_bits_of_one_number(isa, dtype):
    rng = np.random.default_rng(0)
    for n in (1, 3, 16, 37, 130):
        x, y = rng.standard_normal((50, n)).astype(dtype), rng.integers(0, 3, 50)
        found = set()
        for layer in (fn.Scale(0.3, -0.1), fn.Scale(np.full(n, 0.3), -0.1), fn.Scale(0.3, [-0.1] * n)):
            model = fn.Sequential(layer, fn.Dense(3), dtype=dtype)
            fn.Trainer(model, "cross_entropy", fn.SGD(lr=0.1), seed=0).fit(x, y, epochs=2, batch_size=16)
            outputs = model.predict(x), model.compile()(x), model.compile()(x[:1])
            found.add((model.parameters.tobytes(), *(out.tobytes() for out in outputs)))
        assert len(found) == 1


@pytest.mark.parametrize("device", ["cpu", "numpy"])
def test_a_scale_by_column_takes_bytes(isa, device):
    x = np.array([[0, 1, 255], [7, 128, 2]], np.uint8)
    model = fn.Sequential(fn.Scale((1.0, 0.5, -2.0), (0.0, 1.0, 3.0)), dtype="float64").build(3)
    expected = [[0.0, 1.5, -507.0], [7.0, 65.0, -1.0]]
    assert model.predict(x).tolist() == model.compile()(x).tolist() == expected
    trainer = fn.Trainer(model, "mse", "sgd", device=device)
    assert trainer.gradient(x, np.array(expected))[0] == 0
    trained = []
    for data in (x, x.astype(np.float32)):
        model = fn.Sequential(fn.Scale((1.0, 0.5, -2.0), (0.0, 1.0, 3.0)), fn.Dense(2), dtype="float32")
        fn.Trainer(model, "cross_entropy", fn.SGD(1e-3), seed=0, device=device).fit(data, [0, 1], epochs=3)
        trained.append(model.parameters.tobytes())
    assert trained[0] == trained[1]


def test_a_scale_by_column_names_what_is_wrong():
    layer = fn.Scale([2, 3], shift=np.arange(2))
    assert layer == fn.Scale((2.0, 3.0), (0.0, 1.0))
    assert hash(layer) == hash(fn.Scale((2.0, 3.0), (0.0, 1.0)))
    assert repr(layer) == "Scale(factor=(2.0, 3.0), shift=(0.0, 1.0))"
    assert "Scale" in fn.Sequential(layer).build(2).summary()
    with pytest.raises(ValueError, match="factor must have 3 numbers, one for each column, got 2"):
        fn.Sequential(layer).build(3)
    with pytest.raises(ValueError, match="factor must be a number, or one for each column, got none"):
        fn.Scale(())
    with pytest.raises(ValueError, match=r"shift\[1\] must be .*finite"):
        fn.Scale(1.0, (0.0, np.inf))
    with pytest.raises(TypeError, match=r"factor\[0\] must be .*'a'"):
        fn.Scale(("a",))
    # Flatten goes behind what takes each number by itself, and this takes columns
    model = fn.Sequential(layer, fn.Flatten(), fn.Dense(1))
    with pytest.raises(ValueError, match="must be 2-D, as Flatten comes after Scale"):
        fn.Trainer(model, "mse", "sgd").fit(np.ones((4, 2, 1)), np.ones(4))


def test_embeddings_train_to_the_same_bits_on_any_threads_and_instruction_set(threads, request):
    before = kernels.isa()
    request.addfinalizer(lambda: kernels.set_isa(before))
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 50, (300, 8)).astype(np.float32), rng.standard_normal(300).astype(np.float32)
    found = set()
    for isa in kernels.isa_available():
        kernels.set_isa(isa)
        for n_threads in (1, 2, 3):
            threads(n_threads)
            columns = tuple((j, 45, 5) for j in (1, 3, 6))
            model = fn.Sequential(fn.Embedding(columns), fn.Dense(200, activation="relu"), fn.Dense(1))
            fn.Trainer(model, loss="mse", optimizer=fn.Adam(), seed=0).fit(x, y, epochs=2)
            found.add(model.parameters.tobytes())
    assert len(found) == 1
