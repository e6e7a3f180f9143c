"""What must not crash or give wrong numbers, however it is called."""

import copy
import os
import pickle
import threading
import time

import numpy as np
import pytest

import fastnn as fn
from fastnn import devices
from fastnn.errors import DivergenceError
from fastnn.layers import lower


def long_training(n_steps=20_000, width=2000):
    """A trainer and data for a run that takes many seconds."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2000, 64)).astype(np.float32), rng.integers(0, 10, 2000)
    layers = fn.Dense(width, activation="relu"), fn.Dense(10)
    trainer = fn.Trainer(fn.Sequential(*layers), loss="cross_entropy", optimizer=fn.SGD(lr=1e-3), seed=0)
    return trainer, x, y, rng.integers(0, 2000, (n_steps, 32))


@pytest.mark.parametrize("what", ["order", "labels"])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_indices_that_change_during_a_run_are_an_error_and_never_followed(threads, what, n_threads):
    threads(n_threads)
    trainer, x, y, order = long_training()

    def change():
        while trainer.step < 50:
            time.sleep(0.001)
        (order if what == "order" else y)[...] = 2**45

    worker = threading.Thread(target=change)
    trainer.run(x, y, order[:1])
    worker.start()
    with pytest.raises(RuntimeError, match="changed while the trainer was at work"):
        trainer.run(x, y, order)
    worker.join()
    assert trainer.step >= 50
    assert np.isfinite(trainer.model.parameters).all()


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
@pytest.mark.parametrize("device", ["cpu", "numpy"])
def test_an_infinity_that_saturates_is_seen_before_the_update(activation, device):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((64, 4)).astype(np.float32), rng.integers(0, 2, 64)
    x[7, 2] = -np.inf
    model = fn.Sequential(fn.Dense(8, activation=activation), fn.Dense(2)).build(4)
    trainer = fn.Trainer(model, loss="cross_entropy", optimizer=fn.SGD(), device=device, seed=0)
    before = model.parameters.copy()
    for act in (trainer.partial_fit, trainer.gradient):
        with pytest.raises(DivergenceError, match="x itself"):
            act(x, y)
    np.testing.assert_array_equal(model.parameters, before)


def test_a_handle_refuses_an_output_that_overlaps_its_input():
    handle = fn.Sequential(fn.Dense(64)).build(64, seed=1).compile()
    memory = np.zeros((202, 64), np.float32)
    for x, out in (
        (memory[:200], memory[:200]),
        (memory[:200], memory[1:201]),
        (memory[199::-1], memory[:200]),
    ):
        with pytest.raises(ValueError, match="out must not overlap x"):
            handle(x, out=out)
    handle(memory[:100], out=memory[100:200])


def test_a_handle_says_what_was_wrong_with_which_argument():
    handle = fn.Sequential(fn.Dense(2)).build(3).compile()
    x = np.zeros((4, 3), np.float32)
    read_only = np.zeros((4, 2), np.float32)
    read_only.flags.writeable = False
    for arguments, error, text in [
        (
            ([[1, 2, 3]],),
            TypeError,
            r"x must be a float32, float64 or uint8 array, got \[\[1, 2, 3\]\]",
        ),
        ((None,), TypeError, "x must be a float32, float64 or uint8 array, got None"),
        ((x.astype(float),), TypeError, "x must be float32 as the model is, or uint8, got float64"),
        ((x.astype(int),), TypeError, "x must be an aligned, native float32, float64 or uint8 array"),
        ((np.zeros((2, 3, 4), np.float32),), ValueError, "x must have one or two dimensions, got 3"),
        ((x, read_only), TypeError, "out must be a writable float32 or float64 array"),
        ((x, np.zeros((4, 2))), TypeError, "out must be float32 as the model is, got float64"),
    ]:
        with pytest.raises(error, match=text):
            handle(*arguments)
    assert handle(x).shape == (4, 2)


def test_a_handle_pickles_and_copies():
    handle = fn.Sequential(fn.Dense(5, activation="tanh"), fn.Dense(2)).build(3).compile()
    x = np.ones((4, 3), np.float32)
    for other in (pickle.loads(pickle.dumps(handle)), copy.deepcopy(handle)):
        np.testing.assert_array_equal(other(x), handle(x))


def test_weights_of_any_scale_are_told_apart_from_no_weight():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((50, 4)).astype(np.float32), rng.integers(0, 2, 50)
    model = fn.Sequential(fn.Dense(2))
    trainer = fn.Trainer(model, loss="cross_entropy", optimizer=fn.SGD(lr=0.1), seed=0)
    program = trainer.partial_fit(x, y) and trainer._program
    before = model.parameters.copy()
    program.run(x, y, np.arange(50).reshape(1, 50), np.array([0.1]), np.full(50, 1e-320))
    np.testing.assert_array_equal(model.parameters, before)


def test_a_child_of_fork_trains_though_its_parent_was_at_work():
    trainer, x, y, order = long_training(5000, 300)
    trainer.run(x, y, order[:1])
    worker = threading.Thread(target=trainer.run, args=(x, y, order))
    worker.start()
    while trainer.step < 50:
        time.sleep(0.001)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            trainer.run(x, y, order[:2])
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    worker.join()
    assert trainer.step == 5001


def test_a_gradient_of_many_rows_keeps_no_buffers():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20_000, 8)).astype(np.float32), rng.standard_normal(20_000).astype(np.float32)
    model = fn.Sequential(fn.Dense(4), fn.Dense(1)).build(8)
    trainer = fn.Trainer(model, loss="mse", optimizer=fn.SGD(), seed=0)
    first = trainer.gradient(x, y)
    again = trainer.gradient(x, y)
    assert first[0] == again[0]
    np.testing.assert_array_equal(first[1], again[1])
    trainer.partial_fit(x[:5], y[:5])


def test_more_categories_than_the_dtype_can_tell_apart_are_refused():
    layers = (fn.Embedding(((0, 2**24 + 1, 1),)),)
    weights = np.zeros(2**24 + 1, np.float32)  # random ones would take seconds
    with pytest.raises(ValueError, match="n_categories of column 0 must be at most 16777216"):
        devices.make("cpu", lower(layers, 1), weights, loss="mse", optimizer=fn.SGD())
