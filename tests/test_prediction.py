"""The compiled handle: its direct and its careful door agree, and so do a row alone and a row in a batch."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn as fn
from fastnn import kernels, prediction

ISAS = [isa for isa in kernels.isa_available() if isa != "generic"]


@pytest.fixture(params=[True, False], ids=["direct", "careful"])
def door(request: pytest.FixtureRequest) -> Iterator[bool]:
    was = prediction.use_direct_door(request.param)
    yield request.param
    prediction.use_direct_door(was)


@pytest.fixture
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = kernels.isa()
    kernels.set_isa(request.param)
    yield request.param
    kernels.set_isa(before)


def net(*widths: int, activation: str = "relu", dtype: str = "float32", bias: bool = True) -> fn.Sequential:
    """Dense layers of these widths, with biases that are not zero."""
    hidden = [fn.Dense(n, activation=activation, bias=bias) for n in widths[1:-1]]
    model = fn.Sequential(*hidden, fn.Dense(widths[-1], bias=bias), dtype=dtype).build(widths[0], seed=1)
    model.parameters += np.random.default_rng(0).normal(size=model.parameters.size) * 0.1
    return model


class Sub(np.ndarray):
    """A subclass may mean anything by its fields."""


def test_numpy_of_this_process_is_read_directly() -> None:
    assert prediction.HAS_DIRECT_DOOR
    assert prediction.use_direct_door(True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_kind_of_array_gives_the_same_through_both_doors(door: bool, dtype: str) -> None:
    model = net(6, 5, 3, dtype=dtype)
    handle = model.compile()
    x = np.random.default_rng(0).normal(size=(7, 6)).astype(dtype)
    expected = model.predict(x.tolist())
    wide = np.zeros((7, 11), dtype)
    wide[:, 2:8] = x
    unaligned_rows = np.zeros((14, 6), dtype)
    unaligned_rows[::2] = x
    read_only = x.copy()
    read_only.flags.writeable = False
    for given in (x, wide[:, 2:8], unaligned_rows[::2], read_only, x.view(Sub), x[::-1][::-1], memoryview(x)):
        np.testing.assert_array_equal(handle(given), expected)
        np.testing.assert_array_equal(handle(given, None), expected)
        out = np.full((7, 3), 7, dtype)
        assert handle(given, out) is out
        np.testing.assert_array_equal(out, expected)
        out[:] = 7
        assert handle(given, out=out) is out
        np.testing.assert_array_equal(out, expected)
        np.testing.assert_array_equal(handle(x=given, out=out), expected)
    np.testing.assert_array_equal(handle(x[::-1]), expected[::-1])
    np.testing.assert_array_equal(handle(np.broadcast_to(x[:1], (4, 6))), expected[[0, 0, 0, 0]])
    held = np.full((7, 3), 7, dtype).view(Sub)
    assert handle(x, held) is held
    np.testing.assert_array_equal(held, expected)
    assert handle(x[:0]).shape == (0, 3)
    assert handle(x).dtype == dtype
    assert type(handle(x.view(Sub))) is np.ndarray
    assert handle(x).flags.owndata


def mistakes() -> list[tuple[str, Any, Any, type[Exception], str]]:
    """(name, x, out, error, message) for a float32 net of 6 inputs and 3 outputs."""
    x, out = np.zeros((2, 6), np.float32), np.zeros((2, 3), np.float32)
    shared = np.zeros(40, np.float32)
    odd = np.zeros(49, np.uint8)[1:].view(np.float32).reshape(2, 6)
    locked = out.copy()
    locked.flags.writeable = False
    swapped = x.astype(">f4" if np.little_endian else "<f4")
    return [
        ("list", x.tolist(), None, TypeError, "x must be a float32, float64 or uint8 array"),
        ("None", None, None, TypeError, "x must be a float32"),
        ("float64", x.astype(float), None, TypeError, "x must be float32 as the model is"),
        ("float16", x.astype(np.float16), None, TypeError, "x must be an aligned, native"),
        ("integers", x.astype(int), None, TypeError, "x must be an aligned, native"),
        ("swapped", swapped, None, TypeError, "x must be an aligned, native"),
        ("unaligned", odd, None, TypeError, "x must be an aligned, native"),
        ("one dimension", x[0], None, ValueError, r"x must have shape \(rows, 6\), got \(6,\)"),
        ("three dimensions", x[None], None, ValueError, "x must have one or two dimensions, got 3"),
        ("columns", x[:, :5].copy(), None, ValueError, r"x must have shape \(rows, 6\), got \(2, 5\)"),
        ("transposed", np.zeros((6, 2), np.float32).T, None, ValueError, "x must have its columns side"),
        ("out list", x, out.tolist(), TypeError, "out must be a writable float32 or float64 array"),
        ("out rows", x, np.zeros((3, 3), np.float32), ValueError, r"out must have shape \(2, 3\)"),
        ("out columns", x, np.zeros((2, 4), np.float32), ValueError, r"out must have shape \(2, 3\)"),
        ("out one dimension", x, np.zeros(6, np.float32), ValueError, r"out must have shape \(2, 3\)"),
        ("out float64", x, out.astype(float), TypeError, "out must be float32 as the model is"),
        ("out read-only", x, locked, TypeError, "out must be a writable"),
        ("out strided", x, np.zeros((2, 6), np.float32)[:, ::2], ValueError, "out must be C-contiguous"),
        ("out of order", x, np.zeros((3, 2), np.float32).T, ValueError, "out must be C-contiguous"),
        ("overlap", shared[:12].reshape(2, 6), shared[11:17].reshape(2, 3), ValueError, "not overlap x"),
        ("inside", shared[:12].reshape(2, 6), shared[3:9].reshape(2, 3), ValueError, "not overlap x"),
    ]


@pytest.mark.parametrize("mistake", mistakes(), ids=lambda mistake: mistake[0])
def test_mistakes_are_named_by_both_doors(door: bool, mistake: tuple[Any, ...]) -> None:
    _, x, out, error, message = mistake
    handle = net(6, 5, 3).compile()
    with pytest.raises(error, match=message):
        handle(x, out)
    with pytest.raises(error, match=message):
        handle(x, out=out)


def test_neighbours_do_not_overlap(door: bool) -> None:
    handle, shared = net(6, 5, 3).compile(), np.zeros(40, np.float32)
    for x, out in ((shared[:12], shared[12:18]), (shared[6:18], shared[:6])):
        assert handle(x.reshape(2, 6), out.reshape(2, 3)).base is not None


def test_calls_of_a_wrong_form_are_type_errors(door: bool) -> None:
    handle, x = net(6, 5, 3).compile(), np.zeros((2, 6), np.float32)
    call: Any = handle
    for arguments, names in (((), {}), ((x, None, None), {}), ((x,), {"y": 1}), ((x, None), {"out": None})):
        with pytest.raises(TypeError):
            call(*arguments, **names)
    with pytest.raises(TypeError):
        call(out=x)


def test_bytes_are_widened(door: bool) -> None:
    model = fn.Sequential(fn.Scale(1 / 255), fn.Dense(5, "relu"), fn.Dense(3)).build(6)
    x = np.random.default_rng(0).integers(0, 256, (7, 6)).astype(np.uint8)
    handle = model.compile()
    np.testing.assert_array_equal(handle(x), model.predict(x.astype(np.float32)))
    np.testing.assert_array_equal(handle(x[:1]), handle(x)[:1])


def test_a_handle_pickles_and_cannot_be_changed(door: bool) -> None:
    model = net(6, 5, 3)
    handle, x = model.compile(), np.ones((2, 6), np.float32)
    again = pickle.loads(pickle.dumps(handle))
    np.testing.assert_array_equal(again(x), handle(x))
    assert (again.n_in, again.n_out, again.dtype, again.steps) == (6, 3, np.float32, handle.steps)
    for name in ("n_in", "steps", "new"):
        with pytest.raises(AttributeError):
            setattr(handle, name, 1)
    with pytest.raises(TypeError):
        type("Mine", (prediction.Predictor,), {})


def test_predict_reads_the_weights_of_now(door: bool) -> None:
    model, x = net(6, 5, 3), np.ones((2, 6), np.float32)
    first = model.predict(x)
    np.testing.assert_array_equal(model.predict(x), first)
    model.weights["1.bias"][:] += 1
    np.testing.assert_array_equal(model.predict(x), model.compile()(x))
    assert (model.predict(x) != first).all()
    model.build(4)
    assert model.predict(np.ones((2, 4), np.float32)).shape == (2, 3)
    with pytest.raises(ValueError, match="x must have 4 columns"):
        model.predict(x)


@pytest.mark.parametrize("isa", ISAS, indirect=True)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_few_rows_are_rows_of_a_batch(isa: str, dtype: str) -> None:
    """All widths to 70: tails of every length, and strips of every number of vectors."""
    rng = np.random.default_rng(0)
    for n_in in range(1, 71):
        x = rng.normal(size=(20, n_in)).astype(dtype)
        for n_out in range(1, 71):
            block = rng.normal(size=n_in * n_out + (n_out if n_in % 2 else 0)).astype(dtype)
            bias, activation = bool(n_in % 2), ("relu", "identity", "tanh")[n_out % 3]
            steps = fn.layers.lower((fn.Dense(n_out, activation=activation, bias=bias),), n_in)
            handle = prediction.Predictor(steps, block)  # no room after the last weight
            whole = handle(x)
            for rows in (1, 2, 3):
                np.testing.assert_array_equal(handle(x[5 : 5 + rows]), whole[5 : 5 + rows])


@pytest.mark.parametrize("isa", ISAS, indirect=True)
@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_rows_of_every_way_are_equal(isa: str, n_threads: int) -> None:
    """Wide enough that the columns of one row are split between threads, and beyond the stack."""
    rng, before = np.random.default_rng(0), fn.get_num_threads()
    fn.set_num_threads(n_threads)
    try:
        for widths in ((300, 900, 701, 3), (17, 33), (700, 5000, 2)):
            model = net(*widths)
            handle = model.compile()
            x = rng.normal(size=(40, widths[0])).astype(np.float32)
            whole = handle(x)
            expected = x.astype(float)
            for i in range(len(widths) - 1):
                weights = model.weights
                expected = expected @ weights[f"{i}.weight"] + weights[f"{i}.bias"]
                expected = np.maximum(expected, 0) if i < len(widths) - 2 else expected
            np.testing.assert_allclose(whole, expected, rtol=1e-4, atol=1e-4)
            for rows in (1, 2, 3, 4, 5, 8, 9, 13, 14, 15, 29):
                some = x[7 : 7 + rows]
                closely = [handle(some) for _ in range(4)]  # calls that follow closely ask for workers
                for outputs in closely:
                    np.testing.assert_array_equal(outputs, whole[7 : 7 + rows])
                np.testing.assert_array_equal(model.predict(x[7 : 7 + rows]), whole[7 : 7 + rows])
    finally:
        fn.set_num_threads(before)


@pytest.mark.parametrize(
    "layers",
    [
        (fn.Dense(9), fn.Activation("softmax"), fn.Dense(3)),
        (fn.Dense(9, "tanh"), fn.Dropout(0.5), fn.Dense(3), fn.Activation("softmax")),
        (fn.Dense(9), fn.Dropout(0.5), fn.Activation("relu"), fn.Activation("tanh"), fn.Dense(3)),
        (fn.Dense(3), fn.Activation("relu"), fn.Dropout(0.5)),
        (fn.Activation("relu"), fn.Dense(3)),
        (fn.Dropout(0.5), fn.Dense(3)),
        (fn.Activation("relu"),),
    ],
    ids=str,
)
def test_other_layers_between_give_what_the_reference_gives(layers: tuple[Any, ...]) -> None:
    model = fn.Sequential(*layers, dtype="float64").build(6)
    x = np.random.default_rng(0).normal(size=(20, 6))
    expected = np.empty((20, model.steps[-1].n_out))
    assert model.parameters.size >= 0
    fn.devices.make("numpy", model.steps, model._require()).predict(x, expected)
    handle = model.compile()
    np.testing.assert_allclose(handle(x), expected, rtol=1e-12, atol=1e-12)
    for rows in (1, 2, 3):
        np.testing.assert_array_equal(handle(x[:rows]), handle(x)[:rows])


def test_nan_stays_nan_in_a_single_row() -> None:
    handle, x = net(6, 5, 3).compile(), np.ones((2, 6), np.float32)
    x[1, 2] = np.nan
    assert np.isnan(handle(x[1:])).all()
    assert np.isfinite(handle(x[:1])).all()


def test_heavy_rows_from_many_threads() -> None:
    """Single rows that give the GIL away and ask for a team, many at once."""
    before = fn.get_num_threads()
    fn.set_num_threads(2)
    handle = net(300, 1100, 701, 3).compile()
    x = np.random.default_rng(0).normal(size=(8, 300)).astype(np.float32)
    expected, wrong = handle(x), []

    def work(i: int) -> None:
        wrong.extend(i for _ in range(200) if not (handle(x[i : i + 1]) == expected[i]).all())

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fn.set_num_threads(before)
    assert wrong == []


def test_a_long_call_right_after_short_ones_gets_its_team() -> None:
    """Workers that a short call has just asked for do not make the next call work alone, or wait for ever."""
    before = fn.get_num_threads()
    fn.set_num_threads(2)
    handle, x = net(64, 64, 10).compile(), np.ones((4096, 64), np.float32)
    whole = handle(x)
    for n_rows in (80, 80, 80, 4096) * 50:
        np.testing.assert_array_equal(handle(x[:n_rows]), whole[:n_rows])
    kernels.stop_threads()
    assert kernels.threads_started() == 0
    fn.set_num_threads(before)


# What another thread predicts at the moment of a fork never ends in the child, which needs its own workers.
FORK_AT_WORK = """
import os, threading, time
import numpy as np, fastnn as fn
fn.set_num_threads(2)
model = fn.Sequential(fn.Dense(1024, activation="relu"), fn.Dense(10)).build(1024, seed=0)
h, x, done = model.compile(), np.zeros((20000, 1024), np.float32), []
def others():
    while not done:
        h(x)
other = threading.Thread(target=others)
other.start()
time.sleep(0.1)
child = os.fork()
if child == 0:
    h(x[:4000])
    os._exit(0 if fn.show_config(mode="dict")["threads_started"] == 1 else 3)
done.append(True)
other.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_of_a_fork_during_predictions_has_a_team():
    assert said_by(FORK_AT_WORK) == "0"


# A block of 168 rows through these layers takes a second with the plain instructions: of the own time of the
# main thread, which stands still while others have the cores.
INTERRUPTED = """
import gc, os, signal, threading, time
import numpy as np, fastnn as fn
signal.signal(signal.SIGINT, signal.default_int_handler)  # as Python has it, whoever started the tests
fn.set_num_threads(1)
fn.kernels.set_isa("generic")
model = fn.Sequential(*[fn.Dense(512) for _ in range(24)]).build(512, seed=0)
x = np.zeros((4096, 512), np.float32)
clock = time.pthread_getcpuclockid(threading.get_ident())
one = fn.Sequential(fn.Dense(512)).build(512, seed=0).compile()
begin = time.clock_gettime(clock)
one(x[:168])
layer, sent = time.clock_gettime(clock) - begin, []
def interrupt():
    begin = time.clock_gettime(clock)
    while time.clock_gettime(clock) < begin + 2 * layer:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGINT)
    sent.append(time.clock_gettime(clock))
h = model.compile()
gc.disable()  # Python drops what a signal raises while a finalizer runs
thread = threading.Thread(target=interrupt)
thread.start()
try:
    h(x)
except KeyboardInterrupt:
    thread.join()
    print((time.clock_gettime(clock) - sent[0]) / layer)
"""


@pytest.mark.skipif(not hasattr(time, "pthread_getcpuclockid"), reason="no clock of one thread here")
def test_an_interrupt_is_answered_between_the_layers_of_a_large_net():
    """After one layer or two; without looks the other 22 would be done first."""
    assert float(said_by(INTERRUPTED)) < 12


def said_by(source: str) -> str:
    root = str(Path(fn.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    command = [sys.executable, "-W", "ignore", "-c", source]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=True)
    return done.stdout.strip()
