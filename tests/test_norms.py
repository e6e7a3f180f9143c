"""Normalising layers, PReLU, noise and numerical embeddings: worked values, statistics, files, errors."""

import copy
import pickle

import numpy as np
import pytest

import fastnn as fn
from fastnn import devices, kernels
from fastnn.steps import running_places


def trained(model, rows=150, batch_size=30, **arguments):
    """A trainer that has run two epochs."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((rows, 6)).astype(model.dtype), rng.integers(0, 3, rows)
    arguments = {"optimizer": fn.Adam(lr=0.01), **arguments}
    trainer = fn.Trainer(model, loss="cross_entropy", seed=0, **arguments)
    trainer.fit(x, y, epochs=2, batch_size=batch_size)
    return trainer, x, y


def normed(dtype="float32"):
    return fn.Sequential(
        fn.Dense(17),
        fn.BatchNorm(),
        fn.Activation("relu"),
        fn.Residual(fn.Dense(17, activation="tanh"), fn.BatchNorm(momentum=0.5)),
        fn.Dense(3),
        dtype=dtype,
    )


# ---------------------------------------------------------------- worked values


def test_layer_norm_by_hand():
    model = fn.Sequential(fn.LayerNorm(eps=0.0), dtype="float64").build(2)
    model.weights["0.weight"][...], model.weights["0.bias"][...] = [2.0, 3.0], [10.0, 20.0]
    assert model.predict([[1.0, 3.0], [-5.0, -7.0]]).tolist() == [[8.0, 23.0], [12.0, 17.0]]


def test_rms_norm_by_hand():
    model = fn.Sequential(fn.RMSNorm(eps=0.0), dtype="float64").build(4)
    assert model.predict([[3.0, 3.0, -3.0, 3.0]]).tolist() == [[1.0, 1.0, -1.0, 1.0]]
    small = fn.Sequential(fn.RMSNorm(), dtype="float32").build(1)
    eps = np.finfo(np.float32).eps
    assert small.predict([[0.0]]) == 0
    np.testing.assert_allclose(small.predict([[1e-4]]), 1e-4 / np.sqrt(1e-8 + eps), rtol=1e-6)


def test_batch_norm_by_hand():
    model = fn.Sequential(fn.BatchNorm(momentum=0.25, eps=0.0), dtype="float64").build(1)
    trainer = fn.Trainer(model, loss="mse", optimizer=fn.SGD(lr=0.0 + 1e-300), seed=0)
    loss, _ = trainer.gradient([[1.0], [3.0]], [[0.0], [0.0]])
    assert loss == 1.0  # normalised to -1 and 1
    assert model.buffers.tolist() == [0.0, 1.0]
    trainer.partial_fit([[1.0], [3.0]], [[0.0], [0.0]])
    assert model.running["0.running_mean"].tolist() == [0.5]
    assert model.running["0.running_var"].tolist() == [0.75 + 0.25 * 2.0]  # unbiased
    np.testing.assert_allclose(model.predict([[0.5], [0.5 + 1.25**0.5]]), [[0.0], [1.0]], rtol=1e-15)
    assert trainer.evaluate([[0.5]], [[0.0]])["loss"] == 0.0  # running statistics, of any number of rows


@pytest.mark.parametrize("device", ["cpu", "numpy"])
def test_batch_norm_over_all_batches_by_hand(device):
    model = fn.Sequential(fn.BatchNorm(momentum=None), dtype="float64").build(1)
    assert model.buffers.tolist() == [0.0, 1.0, 0.0]
    trainer = fn.Trainer(model, loss="mse", optimizer=fn.SGD(lr=0.1), seed=0, device=device)
    for n, mean, var in ((1, 2.0, 2.0), (2, 1.5, 5.0), (3, 4.0, 4.0)):
        x = [[[1.0], [3.0]], [[-1.0], [3.0]], [[8.0], [10.0]]][n - 1]
        trainer.gradient(x, [[0.0], [0.0]])  # counts nothing
        trainer.partial_fit(x, [[0.0], [0.0]])
        assert model.buffers.tolist() == pytest.approx([mean, var, n], rel=1e-15)
    fn.update_statistics(model, [[1.0], [3.0], [5.0], [9.0]], batch_size=2)
    assert model.buffers.tolist() == pytest.approx([4.5, 5.0, 2.0], rel=1e-15)


def test_batch_norm_over_all_batches_has_equal_bits_on_threads_and_goes_on_from_a_checkpoint(
    tmp_path, threads
):
    def make():
        model = fn.Sequential(fn.Dense(170), fn.BatchNorm(momentum=None), fn.Activation("relu"), fn.Dense(3))
        return fn.Trainer(model, "cross_entropy", fn.Adam(lr=0.01), seed=0)

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((150, 6)).astype(np.float32), rng.integers(0, 3, 150)
    found = set()
    for n_threads in (1, 2, 3):
        threads(n_threads)
        whole, half, rest = make(), make(), make()
        whole.fit(x, y, epochs=4, batch_size=32)
        half.fit(x, y, epochs=2, batch_size=32)
        half.save_checkpoint(tmp_path / "c")
        rest.resume(tmp_path / "c")
        rest.fit(x, y, epochs=2, batch_size=32)
        assert whole.model.running["1.num_batches_tracked"] == 20
        found |= {(t.model.parameters.tobytes(), t.model.buffers.tobytes()) for t in (whole, rest)}
    assert len(found) == 1


def test_prelu_by_hand():
    model = fn.Sequential(fn.PReLU(2), dtype="float64").build(2)
    model.weights["0.weight"][...] = [0.5, -2.0]
    assert model.predict([[-4.0, -3.0], [1.0, 0.0]]).tolist() == [[-2.0, 6.0], [1.0, 0.0]]
    trainer = fn.Trainer(model, loss="mae" if "mae" in kernels.LOSSES else "mse", optimizer="sgd")
    assert np.isfinite(trainer.gradient([[-1.0, 0.0]], [[0.0, 0.0]])[1]).all()


def test_periodic_by_hand():
    model = fn.Sequential(fn.Periodic(2), dtype="float64").build(1)
    model.weights["0.weight"][...] = [[0.25, 1.0]]
    expected = [[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0], [-1.0, 0.0, 0.0, 1.0]]
    assert np.abs(model.predict([[1.0], [4e9], [-5.0]])).tolist() == np.abs(expected).tolist()
    assert model.predict([[1.0]]).tolist() == expected[:1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sines_are_right_and_equal_on_all_instruction_sets(dtype):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-3, 3, 5000), 10.0 ** rng.uniform(-30, 3, 5000), np.arange(-9, 9) / 8])
    x = x.astype(dtype)
    frequencies = np.ones((1, 1), dtype)
    found, before = [], kernels.isa()
    for isa in kernels.isa_available():
        kernels.set_isa(isa)
        model = fn.Sequential(fn.Periodic(1), dtype=dtype).build(1)
        model.weights["0.weight"][...] = frequencies
        found.append(model.predict(x[:, None]))
    kernels.set_isa(before)
    assert len({one.tobytes() for one in found}) == 1
    turns = x.astype(np.longdouble)
    turns -= np.rint(turns)
    exact = np.stack([np.sin(2 * np.pi * turns), np.cos(2 * np.pi * turns)], axis=1)
    assert np.abs(found[0] - exact).max() < 3 * np.finfo(dtype).eps / 2 + 1e-15 * (dtype == "float64")
    small = np.abs(x) < 1e-3
    np.testing.assert_allclose(
        found[0][small, 0], exact[small, 0].astype(float), rtol=3 * np.finfo(dtype).eps
    )


def test_bins_are_quantiles():
    x = np.column_stack([np.arange(101.0), np.repeat([0.0, 1.0], [90, 11])])
    layer = fn.PiecewiseLinear.of(x, 4)
    assert layer.bins == ((0.0, 25.0, 50.0, 75.0, 100.0), (0.0, 1.0))
    with pytest.raises(ValueError, match="column 0 of x must have two values or more"):
        fn.PiecewiseLinear.of(np.zeros((5, 1)))


def test_noise_is_normal_and_only_there_while_training():
    n = 200_000
    x = np.zeros((n // 50, 50), np.float32)
    made = []
    for device in ("cpu", "numpy"):
        steps = fn.layers.lower((fn.GaussianNoise(2.0), fn.Dense(50)), 50)
        parameters = np.concatenate([np.eye(50).ravel(), np.zeros(50)]).astype(np.float32)
        program = devices.make(device, steps, parameters, loss="mse", seed=5)
        made.append(program.gradient(x, x, dropout_step=7)[0])
        assert program.gradient(x, x)[0] == 0
    assert made[0] == pytest.approx(made[1], rel=1e-5)
    assert made[0] == pytest.approx(4.0, rel=4 * np.sqrt(2 / n))


def test_alpha_dropout_keeps_mean_and_variance():
    layers = (fn.AlphaDropout(0.3),)
    steps = fn.layers.lower((*layers, fn.Dense(50)), 50)
    parameters = np.concatenate([np.eye(50).ravel(), np.zeros(50)])
    x = np.random.default_rng(0).standard_normal((4000, 50))
    program = devices.make("cpu", steps, parameters, loss="mse", seed=5)
    assert program.gradient(x, np.zeros_like(x), dropout_step=3)[0] == pytest.approx(1.0, abs=0.02)
    mean = program.gradient(x, np.zeros_like(x), dropout_step=3)[1][-50:].mean() * 50 / 2
    assert mean == pytest.approx(0.0, abs=0.02)


def test_flatten_takes_rows_of_any_shape():
    layers = fn.Flatten(), fn.Dense(3)
    images = np.random.default_rng(0).random((40, 4, 5)).astype(np.float32)
    model = fn.Sequential(*layers)
    trainer = fn.Trainer(model, loss="cross_entropy", optimizer="sgd", seed=0)
    trainer.fit(images, np.arange(40) % 3, validation_data=(images[:7], np.arange(7) % 3))
    flat = images.reshape(40, 20)
    np.testing.assert_array_equal(model.predict(images), model.predict(flat))
    assert trainer.evaluate(images, np.arange(40) % 3) == trainer.evaluate(flat, np.arange(40) % 3)
    assert model.predict(images[:0]).shape == (0, 3)
    with pytest.raises(ValueError, match="x must have 20 columns, got shape"):
        model.predict(images[:, :3])
    with pytest.raises(ValueError, match="x must be 2-D"):
        fn.Sequential(fn.Dense(3)).build(20).predict(images)
    with pytest.raises(ValueError, match="layers must have one that computes something"):
        fn.Sequential(fn.Flatten()).build(3)
    assert "Flatten" in model.summary()
    assert "63 parameters" in model.summary()


# ---------------------------------------------------------------- statistics


def test_evaluation_and_prediction_change_no_statistics():
    model = normed()
    trainer, x, y = trained(model)
    before = model.buffers.copy()
    trainer.evaluate(x, y)
    trainer.gradient(x, y)
    model.predict(x)
    np.testing.assert_array_equal(model.buffers, before)
    assert before[0] != 0


def test_statistics_are_those_before_a_step_that_diverges(threads):
    for n in (1, 2, 4):
        threads(n)
        model = normed()
        trainer, x, y = trained(model)
        before = model.buffers.copy(), model.parameters.copy()
        for row in (0, 77, 149):  # of one thread's share: the others must not wait for it
            broken = x.copy()
            broken[row, 2] = np.inf
            with pytest.raises(fn.DivergenceError):
                trainer.run(broken, y, np.arange(150)[None])
            broken[row] = 3e38
            with pytest.raises(fn.DivergenceError):
                trainer.run(broken, y, np.arange(150)[None])
        np.testing.assert_array_equal(model.buffers, before[0])
        np.testing.assert_array_equal(model.parameters, before[1])
        trainer.run(x, y, np.arange(150)[None])


def test_statistics_do_not_depend_on_threads_or_instruction_sets(threads):
    found, before = set(), kernels.isa()
    for isa in kernels.isa_available():
        kernels.set_isa(isa)
        for n in (1, 2, 3, 4):
            threads(n)
            found.add(trained(normed(), rows=333, batch_size=100)[0].model.buffers.tobytes())
    kernels.set_isa(before)
    assert len(found) == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_statistics_equal_the_array_program(dtype):
    made = []
    for device in ("cpu", "numpy"):
        model = normed(dtype)
        # not Adam, which makes steps of the roundings that are the gradient of a bias before a norm
        trained(model, device=device, optimizer=fn.SGD(lr=0.1, momentum=0.9))
        made.append(np.concatenate([model.parameters, model.buffers]))
    close = {"rtol": 1e-3, "atol": 1e-4} if dtype == "float32" else {"rtol": 1e-10, "atol": 1e-12}
    np.testing.assert_allclose(made[0], made[1], **close)


def test_a_batch_of_one_row_is_an_error():
    for device in ("cpu", "numpy"):
        trainer = fn.Trainer(normed(), loss="cross_entropy", optimizer="sgd", device=device, seed=0)
        x, y = np.zeros((31, 6)), np.zeros(31, int)
        for batch_size in (1, 10, 30):
            with pytest.raises(ValueError, match="batch_size must leave no batch of one row"):
                trainer.fit(x, y, batch_size=batch_size)
        with pytest.raises(ValueError, match="a batch of one row has no variance"):
            trainer.partial_fit(x[:1], y[:1])
        trainer.partial_fit(x, y)
        trainer.evaluate(x[:1], y[:1])


# ---------------------------------------------------------------- prediction


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_folded_predictions_equal_the_unfolded(isa, threads, dtype):
    model = normed(dtype)
    trainer, x, _ = trained(model)
    unfolded = np.empty((len(x), 3), dtype)
    trainer._current_program().predict(x, unfolded)
    expected = np.empty((len(x), 3), dtype)
    devices.make("numpy", model.steps, model._require(), buffers=model.buffers).predict(x, expected)
    handle = model.compile()
    assert len(handle.steps) < len(model.steps)
    close = {"rtol": 1e-3, "atol": 1e-5} if dtype == "float32" else {"rtol": 1e-11, "atol": 1e-12}
    np.testing.assert_allclose(unfolded, expected, **close)
    for n in (1, 3):
        threads(n)
        given = model.predict(x)
        np.testing.assert_allclose(given, expected, **close)
        np.testing.assert_array_equal(handle(x), given)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(handle))(x), given)
        for rows in (slice(0, 1), slice(5, 7), slice(3, 20), slice(96, 129)):
            np.testing.assert_array_equal(model.predict(x[rows]), given[rows])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_norm_before_a_product_is_folded_into_it(isa, dtype, affine, bias):
    layers = [
        fn.BatchNorm(affine=affine),
        fn.Dense(9, activation="tanh", bias=bias),
        fn.BatchNorm(affine=affine),
    ]
    model = fn.Sequential(*layers, fn.Dense(3, bias=bias), dtype=dtype)
    trainer, x, _ = trained(model)
    if affine:
        rng = np.random.default_rng(1)
        model.parameters = model.parameters + rng.normal(size=len(model.parameters)).astype(dtype) / 4
    unfolded = np.empty((len(x), 3), dtype)
    trainer._current_program().predict(x, unfolded)
    assert [step.kind for step in model.compile().steps] == ["dense", "dense"]
    given = model.predict(x)
    close = {"rtol": 1e-4, "atol": 1e-5} if dtype == "float32" else {"rtol": 1e-12, "atol": 1e-12}
    np.testing.assert_allclose(given, unfolded, **close)
    np.testing.assert_array_equal(model.predict(x[7:9]), given[7:9])


def test_a_norm_of_columns_far_from_0_is_not_folded():
    model = fn.Sequential(fn.BatchNorm(), fn.Dense(3))
    _, x, _ = trained(model)
    model.running["0.running_mean"][...] = 2000
    model.running["0.running_var"][...] = 1
    far = x + np.float32(2000)
    assert len(model.compile().steps) == 2
    expected = np.empty((len(x), 3))
    exact = fn.Sequential(fn.BatchNorm(), fn.Dense(3), dtype="float64").build(6)
    exact.parameters, exact.buffers = model.parameters.astype(float), model.buffers.astype(float)
    exact._require()
    devices.make("numpy", exact.steps, exact._require(), buffers=exact.buffers).predict(
        far.astype(float), expected
    )
    np.testing.assert_allclose(model.predict(far), expected, rtol=1e-5, atol=1e-6)


def test_predictions_follow_weights_and_statistics():
    model = normed()
    trained(model)
    x = np.ones((2, 6), np.float32)
    before, handle = model.predict(x), model.compile()
    model.weights["1.weight"][...] *= 2
    after = model.predict(x)
    assert (after != before).any()
    model.running["1.running_mean"][...] += 1
    assert (model.predict(x) != after).any()
    np.testing.assert_array_equal(handle(x), before)


# ---------------------------------------------------------------- files and copies


def test_models_with_statistics_are_saved_copied_and_pickled(tmp_path):
    model = normed()
    _, x, _ = trained(model)
    model.save(tmp_path / "m.safetensors")
    for other in (
        fn.load(tmp_path / "m.safetensors"),
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
    ):
        np.testing.assert_array_equal(other.buffers, model.buffers)
        np.testing.assert_array_equal(other.predict(x), model.predict(x))
    assert list(model.running) == list(running_places(model.steps))
    assert "68 numbers of running statistics" in model.summary()
    with pytest.raises(ValueError, match=r"buffers must have shape \(68,\), got \(3,\)"):
        model.buffers = np.zeros(3)


def test_resumed_trainings_reach_the_same_statistics(tmp_path):
    x, y = np.random.default_rng(1).standard_normal((90, 6)).astype(np.float32), np.arange(90) % 3
    whole = fn.Trainer(normed(), loss="cross_entropy", optimizer="adam", seed=0)
    whole.fit(x, y, epochs=4, batch_size=20)
    first = fn.Trainer(normed(), loss="cross_entropy", optimizer="adam", seed=0)
    first.fit(x, y, epochs=2, batch_size=20)
    first.save_checkpoint(tmp_path / "c.safetensors")
    rest = fn.Trainer(normed(), loss="cross_entropy", optimizer="adam", seed=0)
    rest.resume(tmp_path / "c.safetensors")
    rest.fit(x, y, epochs=2, batch_size=20)
    np.testing.assert_array_equal(rest.model.parameters, whole.model.parameters)
    np.testing.assert_array_equal(rest.model.buffers, whole.model.buffers)


def test_early_stopping_restores_statistics_too():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((60, 6)).astype(np.float32), rng.integers(0, 3, 60)
    kept = {}

    class Keep(fn.Callback):
        def on_epoch_end(self, trainer, epoch, logs):
            kept[epoch] = trainer.model.buffers.copy()

    stopping = fn.EarlyStopping(patience=2)
    trainer = fn.Trainer(normed(), loss="cross_entropy", optimizer=fn.Adam(lr=0.1), seed=0)
    data = rng.standard_normal((30, 6)).astype(np.float32), rng.integers(0, 3, 30)
    trainer.fit(x, y, epochs=30, batch_size=20, validation_data=data, callbacks=[Keep(), stopping])
    assert len(kept) < 30
    np.testing.assert_array_equal(trainer.model.buffers, kept[stopping.best_epoch])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: fn.BatchNorm(momentum=1.5), "momentum must be from 0 to 1, got 1.5"),
        (lambda: fn.LayerNorm(eps=-1), "eps must be"),
        (lambda: fn.PReLU(0), "n must be at least 1"),
        (lambda: fn.Sequential(fn.PReLU(3)).build(2), r"layer 0, PReLU\(n=3\): n must be 1 or 2"),
        (lambda: fn.AlphaDropout(1.0), "rate must be"),
        (lambda: fn.GaussianNoise(-1.0), "std must be"),
        (lambda: fn.PiecewiseLinear(((1.0, 1.0),)), r"bins\[0\] must rise"),
        (lambda: fn.Sequential(fn.PiecewiseLinear(((0.0, 1.0),))).build(2), "has bins for 1 of 2 columns"),
        (lambda: fn.Periodic(0), "n_frequencies must be at least 1"),
    ],
)
def test_errors_name_what_is_wrong(make, text):
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.parametrize("device", ["cpu", "numpy"])
def test_lbfgs_updates_running_statistics_once_a_step(device):
    rng = np.random.default_rng(0)
    x, y = rng.normal(2.0, 3.0, (40, 3)), rng.integers(0, 2, 40)
    layers = fn.BatchNorm(momentum=0.25), fn.Dense(4, activation="tanh"), fn.Dense(2)
    model = fn.Sequential(*layers, dtype="float64")
    optimizer = fn.LBFGS(max_iter=4, line_search="strong_wolfe")
    trainer = fn.Trainer(model, loss="cross_entropy", optimizer=optimizer, seed=0, device=device)
    history = trainer.fit(x, y, epochs=3, batch_size=None)
    assert history["loss"][-1] < history["loss"][0]
    # of the input: the same at every step
    left = 0.75**3
    np.testing.assert_allclose(model.buffers[:3], (1 - left) * x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(model.buffers[3:], left + (1 - left) * x.var(axis=0, ddof=1), rtol=1e-12)
    before = model.parameters.copy(), model.buffers.copy()
    x[0, 0] = np.inf
    with pytest.raises(fn.DivergenceError):
        trainer.fit(x, y, batch_size=None)
    np.testing.assert_array_equal(model.parameters, before[0])
    np.testing.assert_array_equal(model.buffers, before[1])
