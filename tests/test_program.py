"""The compiled program: against the array program, central differences, and itself in other circumstances."""

import hashlib
import itertools
import os
import signal
import threading
import time

import layer_cases
import numpy as np
import pytest
from loss_targets import OF_THREE_OUTPUTS, targets_of

import fastnn as fn
from fastnn import devices, kernels
from fastnn.errors import DivergenceError
from fastnn.layers import lower, n_parameters

ACTIVATIONS = list(kernels.ACTIVATIONS)
LOSSES = OF_THREE_OUTPUTS  # the others are among test_losses.py's
# Gradients of the same batch in another order of summation: a few roundings of sums of up to 100 terms.
CLOSE = {"float32": {"rtol": 1e-4, "atol": 2e-6}, "float64": {"rtol": 1e-10, "atol": 1e-13}}

NETWORKS = {
    "one dense": lambda f: (fn.Dense(3, activation=f),),
    "no bias": lambda f: (fn.Dense(5, activation=f, bias=False), fn.Dense(3, bias=False)),
    "two hidden": lambda f: (fn.Dense(17, activation=f), fn.Dense(9, activation=f), fn.Dense(3)),
    "activation layers": lambda f: (
        fn.Activation(f),
        fn.Dense(7),
        fn.Activation(f),
        fn.Dense(3),
        fn.Activation(f),
    ),
    "dropout": lambda f: (fn.Dropout(0.2), fn.Dense(33, activation=f), fn.Dropout(0.5), fn.Dense(3)),
    **layer_cases.NETWORKS,
    "dropout twice": lambda f: (fn.Dense(8), fn.Dropout(0.3), fn.Dropout(0.3), fn.Activation(f), fn.Dense(3)),
}


def problem(layers, loss, n_rows, dtype, seed=0, n_in=6):
    """Steps, parameters, data and weights for a network."""
    rng = np.random.default_rng(seed)
    steps = lower(layers, n_in)
    parameters = (0.5 * rng.standard_normal(n_parameters(steps))).astype(dtype)
    x = rng.standard_normal((n_rows, n_in)).astype(dtype)
    n_out = steps[-1].n_out
    y = targets_of(loss, rng, n_rows, n_out, dtype)
    return steps, parameters, x, y, rng.random(n_rows) + 0.1


def both(layers, loss, n_rows, dtype, optimizer=None, seed=0):
    """The compiled and the array program over equal parameters, and their data."""
    steps, parameters, x, y, weight = problem(layers, loss, n_rows, dtype, seed)
    made = [
        devices.make(device, steps, parameters.copy(), loss=loss, optimizer=optimizer, seed=3)
        for device in ("cpu", "numpy")
    ]
    return *made, x, y, weight


# Every activation with one loss, every loss with one activation; test_gradients.py has all with all.
PAIRS = [(activation, LOSSES[i % len(LOSSES)]) for i, activation in enumerate(ACTIVATIONS)]
PAIRS += [("tanh", loss) for loss in LOSSES if ("tanh", loss) not in PAIRS]
CASES = [
    (network, *pair, dtype)
    for network, pair, dtype in itertools.product(NETWORKS, PAIRS, ["float32", "float64"])
]


@pytest.mark.parametrize(("network", "activation", "loss", "dtype"), CASES)
def test_gradients_equal_the_array_program(isa, network, activation, loss, dtype):
    for n_rows, weighted, dropout_step in [(1, False, None), (7, True, 2), (33, False, 5), (64, True, None)]:
        if n_rows == 1 and network in layer_cases.COUPLED:
            n_rows = 16  # of two rows, all numbers become 1 and -1, and gradients nearly cancel
        program, reference, x, y, weight = both(NETWORKS[network](activation), loss, n_rows, dtype)
        weight = weight if weighted else None
        loss_value, gradient = program.gradient(x, y, weight, dropout_step=dropout_step)
        expected_loss, expected = reference.gradient(x, y, weight, dropout_step=dropout_step)
        assert loss_value == pytest.approx(expected_loss, rel=CLOSE[dtype]["rtol"])
        # what cancels in a sum has the roundings of its largest terms
        atol = CLOSE[dtype]["atol"] * max(1, np.abs(expected).max())
        if network in layer_cases.COUPLED:
            atol *= 10  # the gradient of a bias before a norm is 0: a sum that cancels altogether
        np.testing.assert_allclose(gradient, expected, rtol=CLOSE[dtype]["rtol"], atol=atol)


def central_differences(value, parameters, h=1e-5):
    """Gradient of value() at parameters, which are moved one at a time and put back."""
    gradient = np.empty_like(parameters)
    for i, p in enumerate(parameters.copy()):
        parameters[i] = p + h
        above = value()
        parameters[i] = p - h
        gradient[i] = (above - value()) / (2 * h)
        parameters[i] = p
    return gradient


@pytest.mark.parametrize(
    ("network", "activation", "loss"),
    [(network, *pair) for network, pair in itertools.product(NETWORKS, PAIRS)],
)
def test_gradients_equal_central_differences(network, activation, loss):
    for n_rows, weighted, dropout_step in [(1, False, None), (5, True, 4)]:
        if n_rows == 1 and network in layer_cases.COUPLED:
            n_rows = 16
        steps, parameters, x, y, weight = problem(
            NETWORKS[network](activation), loss, n_rows, "float64", seed=1
        )
        program = devices.make("cpu", steps, parameters, loss=loss, seed=3)
        weight = weight if weighted else None

        def value(program=program, data=(x, y, weight), step=dropout_step):
            return program.gradient(*data, dropout_step=step)[0]

        _, gradient = program.gradient(x, y, weight, dropout_step=dropout_step)
        size = max(1.0, np.abs(gradient).max())  # of exponentials, with poisson
        expected = central_differences(value, parameters)
        np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-7 * size)
        single = devices.make("cpu", steps, parameters.astype(np.float32), loss=loss, seed=3)
        data = x.astype(np.float32), y if kernels.LOSSES[loss] == "label" else y.astype(np.float32), weight
        _, gradient32 = single.gradient(*data, dropout_step=dropout_step)
        coupled = 10 if network in layer_cases.COUPLED else 1
        np.testing.assert_allclose(gradient32, gradient, rtol=1e-4, atol=1e-5 * size * coupled)


OPTIMIZERS = [
    fn.SGD(lr=0.1),
    fn.SGD(lr=0.05, momentum=0.9, weight_decay=0.01),
    fn.SGD(lr=0.05, momentum=0.9, nesterov=True),
    fn.Adam(lr=0.01),
    fn.Adam(lr=0.01, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.1),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_training_equals_the_array_program(isa, optimizer, dtype):
    layers = (fn.Dense(33, activation="tanh"), fn.Dropout(0.2), fn.Dense(10, activation="relu"), fn.Dense(3))
    program, reference, x, y, weight = both(layers, "cross_entropy", 70, dtype, optimizer)
    order = np.random.default_rng(1).integers(0, 70, (20, 16))
    rates = optimizer.lr * np.linspace(1, 0.1, 20)
    for one in (order, order[:3, :7].copy(), order[:1, :1].copy()):
        got, expected = (p.run(x, y, one, rates[: len(one)], weight) for p in (program, reference))
        np.testing.assert_allclose(got, expected, rtol=1e-4 if dtype == "float32" else 1e-10)
    assert program.step == reference.step == 24
    np.testing.assert_allclose(program.state, reference.state, **CLOSE[dtype])
    out, expected_out = np.empty((70, 3), dtype), np.empty((70, 3), dtype)
    program.predict(x, out)
    reference.predict(x, expected_out)
    np.testing.assert_allclose(
        out, expected_out, rtol=2e-4 if dtype == "float32" else 1e-9, atol=CLOSE[dtype]["atol"] * 50
    )


def trained(dtype="float32", batch=64, seed=0, n_hidden=40):
    """All parameters after some training with dropout and Adam, as bytes."""
    rng = np.random.default_rng(7)
    x, y = rng.standard_normal((300, 30)).astype(dtype), rng.integers(0, 10, 300)
    model = fn.Sequential(
        fn.Dense(n_hidden, activation="relu"),
        fn.Dropout(0.3),
        fn.Dense(33, activation="tanh"),
        fn.Dense(10),
        dtype=dtype,
    )
    trainer = fn.Trainer(model, loss="cross_entropy", optimizer=fn.Adam(lr=1e-2), seed=seed)
    trainer.fit(x, y, epochs=3, batch_size=batch, sample_weight=rng.random(300))
    return model.parameters.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_do_not_depend_on_threads_or_instruction_set(threads, request, dtype):
    before = kernels.isa()
    request.addfinalizer(lambda: kernels.set_isa(before))
    found = {}
    for isa in kernels.isa_available():
        kernels.set_isa(isa)
        for count in (1, 2, 3):
            threads(count)
            kernels.stop_threads()
            found[isa, count] = trained(dtype)
            config = fn.show_config(mode="dict")
            assert (config["isa"], config["num_threads"], config["threads_started"]) == (
                isa,
                count,
                count - 1,
            )
    assert len(set(found.values())) == 1, {key: hash(value) for key, value in found.items()}
    assert trained(dtype, seed=1) not in found.values()


@pytest.mark.parametrize(
    ("layers", "batch", "n_steps", "times"),
    [
        ((fn.Dense(64, activation="relu"), fn.Dense(10)), 200, 1500, 20),
        # A tenth of the time of the team's first steps is arithmetic.
        ((fn.Dense(256, activation="gelu"), fn.Dense(256, activation="gelu"), fn.Dense(10)), 128, 400, 8),
    ],
)
def test_a_team_that_is_slower_is_not_kept(threads, layers, batch, n_steps, times):
    """Far more threads than cores lose to one at every join: the first comparison must count, slow as it was.

    In CPU time of this process, of which a team that is kept takes a hundred times as much, or twenty.
    """
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((1000, 64), np.float32), rng.integers(0, 10, 1000)
    order = rng.integers(0, 1000, (n_steps, batch))

    def cpu_seconds(n_threads):
        threads(n_threads)
        trainer = fn.Trainer(fn.Sequential(*layers), loss="cross_entropy", optimizer=fn.SGD(lr=0.01), seed=0)
        begin = time.process_time()
        trainer.run(x, y, order)
        return time.process_time() - begin

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        team, one = cpu_seconds(min(256, 32 * cores)), cpu_seconds(1)
    finally:
        kernels.stop_threads()
    assert team < times * one, (team, one)


def test_two_threads_work_at_the_same_time(threads):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core")
    rng = np.random.default_rng(0)
    # Steps of over 10 ms: of those it is not tried whether one thread would be faster.
    x, y = rng.standard_normal((1024, 256)).astype(np.float32), rng.integers(0, 10, 1024)
    model = fn.Sequential(fn.Dense(512, activation="relu"), fn.Dense(512, activation="relu"), fn.Dense(10))
    trainer = fn.Trainer(model, loss="cross_entropy", optimizer=fn.SGD(lr=1e-3), seed=0)
    order = np.arange(1024).reshape(1, 1024).repeat(3, axis=0)

    def cores_and_help():
        """CPU time over wall time, and the worker's CPU time over the caller's."""
        wall, cpu, own = time.perf_counter(), time.process_time(), time.thread_time()
        trainer.run(x, y, order)
        wall, cpu, own = time.perf_counter() - wall, time.process_time() - cpu, time.thread_time() - own
        return cpu / wall, cpu / own - 1

    threads(1)
    cores, help_ = cores_and_help()
    assert cores < 1.1
    assert help_ < 0.1
    threads(2)
    found, free = [], []
    while len(found) < 5 or (len(found) < 20 and max(cores for cores, _ in found) < 1.2):
        found.append(cores_and_help())
        free.append(cores_of_two_hashes())
    assert fn.show_config(mode="dict")["threads_started"] >= 1
    assert np.median([help_ for _, help_ in found]) > 0.3  # the worker does its half
    # Both at a time: once more CPU than wall time, where the machine gives two threads that much at all.
    if np.median(free) > 1.5:
        assert max(cores for cores, _ in found) > 1.2


def cores_of_two_hashes():
    """CPU time over wall time of two threads that need nothing of each other: what others leave to us."""
    data = bytes(2_000_000)  # a few milliseconds, without the GIL
    workers = [threading.Thread(target=hashlib.sha256, args=(data,)) for _ in range(2)]
    wall, cpu = time.perf_counter(), time.process_time()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return (time.process_time() - cpu) / (time.perf_counter() - wall)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_row_alone_equals_the_row_in_its_batch(isa, threads, activation, dtype):
    model = fn.Sequential(
        fn.Dense(47, activation=activation),
        fn.Dense(130, activation=activation),
        fn.Dense(10),
        fn.Dense(3),
        fn.Activation(activation),
        dtype=dtype,
    ).build(19, seed=1)
    x = np.random.default_rng(2).standard_normal((700, 19)).astype(dtype)
    threads(2)
    whole = model.predict(x)
    predictor = model.compile()
    for n_rows in range(1, 65):
        np.testing.assert_array_equal(model.predict(x[:n_rows]), whole[:n_rows])
        np.testing.assert_array_equal(predictor(x[n_rows : 2 * n_rows]), whole[n_rows : 2 * n_rows])
    assert all((model.predict(x[i : i + 1]) == whole[i]).all() for i in range(0, 700, 29))


def test_a_compiled_handle_is_a_snapshot(rng):
    model = fn.Sequential(fn.Dense(5, activation="relu"), fn.Dense(2)).build(4)
    x = rng.standard_normal((3, 4)).astype(np.float32)
    handle, before = model.compile(), model.predict(x)
    model.parameters[:] = 0
    out = np.empty((3, 2), np.float32)
    assert handle(x, out) is out
    np.testing.assert_array_equal(out, before)
    with pytest.raises(ValueError, match=r"x must have shape \(rows, 4\), got \(3, 3\)"):
        handle(x[:, :3].copy())
    with pytest.raises(TypeError, match="float32"):
        handle(x.astype(float))
    with pytest.raises((ValueError, BufferError), match=r"out must have shape \(3, 2\)"):
        handle(x, np.empty((2, 2), np.float32))


def test_batches_larger_than_the_data_and_ragged_ones_are_legal():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((10, 4)).astype(np.float32), rng.integers(0, 3, 10)
    for batch_size in (1, 3, 10, 1000):
        trainer = fn.Trainer(
            fn.Sequential(fn.Dense(3)), loss="cross_entropy", optimizer=fn.SGD(lr=0.1), seed=0
        )
        trainer.fit(x, y, batch_size=batch_size)
        assert trainer.step == -(-10 // batch_size)


def test_one_call_of_many_steps_equals_many_calls_of_one():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((50, 8)).astype(np.float32), rng.standard_normal(50).astype(np.float32)
    order = rng.integers(0, 50, (12, 9))
    found = []
    for parts in ([order], list(order[:, None]), [order[:5], order[5:]]):
        model = fn.Sequential(fn.Dense(20, activation="sigmoid"), fn.Dropout(0.5), fn.Dense(1))
        trainer = fn.Trainer(model, loss="mse", optimizer=fn.Adam(), seed=4)
        for part in parts:
            trainer.run(x, y, part)
        found.append(model.parameters.tobytes())
    assert len(set(found)) == 1


def test_a_batch_without_weight_has_no_gradient_and_counts_as_a_step(rng):
    x, y = rng.standard_normal((6, 4)).astype(np.float32), rng.integers(0, 3, 6)
    weight = np.array([0.0, 0, 0, 1, 1, 1])
    model = fn.Sequential(fn.Dense(3)).build(4)
    trainer = fn.Trainer(model, loss="cross_entropy", optimizer=fn.SGD(lr=0.1), seed=0)
    before = model.parameters.copy()
    trainer.run(x, y, [[0, 1, 2]], weight)
    np.testing.assert_array_equal(model.parameters, before)
    assert trainer.step == 1


@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_loss_that_is_not_finite_changes_nothing(threads, n_threads):
    threads(n_threads)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((640, 50)).astype(np.float32), rng.integers(0, 3, 640)
    x[300, 7] = np.nan
    model = fn.Sequential(fn.Dense(200, activation="relu"), fn.Dropout(0.1), fn.Dense(3))
    trainer = fn.Trainer(model, loss="cross_entropy", optimizer=fn.Adam(), seed=0)
    trainer.run(x, y, np.arange(256).reshape(2, 128))
    state, parameters = trainer._program.state.copy(), model.parameters.copy()
    with pytest.raises(DivergenceError, match="x itself"):
        trainer.run(x, y, np.arange(256, 384).reshape(1, 128))
    np.testing.assert_array_equal(model.parameters, parameters)
    np.testing.assert_array_equal(trainer._program.state, state)
    assert trainer.step == 2
    trainer.run(x, y, np.arange(384, 512).reshape(1, 128))  # usable afterwards
    model.weights["2.weight"][0, 0] = np.inf
    with pytest.raises(DivergenceError, match="layer 2, Dense"):
        trainer.run(x, y, np.arange(128).reshape(1, 128))


@pytest.mark.usefixtures("ctrl_c")
def test_interrupt_ends_at_a_step_and_leaves_the_trainer_usable():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((1000, 50)).astype(np.float32), rng.integers(0, 3, 1000)
    # Many seconds of steps: the other thread may be kept waiting for a core.
    layers = fn.Dense(1500), fn.Dense(3)
    trainer = fn.Trainer(fn.Sequential(*layers), loss="cross_entropy", optimizer=fn.SGD(1e-4), seed=0)
    order = rng.integers(0, 1000, (50_000, 64))
    trainer.run(x, y, order[:1])

    def interrupt():
        while trainer.step < 100:  # the call is past its checks and at work
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    worker = threading.Thread(target=interrupt, daemon=True)
    worker.start()
    with pytest.raises(KeyboardInterrupt):
        trainer.run(x, y, order)
    worker.join()
    steps = trainer.step
    assert 100 <= steps < 50_000  # seen in the call, not after it
    trainer.run(x, y, order[:1])
    assert trainer.step == steps + 1
    assert np.isfinite(trainer.model.parameters).all()


def test_many_threads_predict_at_once(threads):
    threads(2)
    model = fn.Sequential(fn.Dense(128, activation="tanh"), fn.Dense(10)).build(64, seed=0)
    x = np.random.default_rng(0).standard_normal((500, 64)).astype(np.float32)
    expected = model.predict(x)
    handle, wrong = model.compile(), []

    def work():
        for n_rows in (1, 3, 500) * 30:
            calls = (handle, model.predict)
            wrong.extend(n_rows for predict in calls if not (predict(x[:n_rows]) == expected[:n_rows]).all())

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_a_trainer_at_work_refuses_a_second_thread():
    at_work, go_on = threading.Event(), threading.Event()

    def loss(z, y, sample_weight):
        at_work.set()
        assert go_on.wait(60)
        return float((z - y).sum()), z - y

    trainer = fn.Trainer(fn.Sequential(fn.Dense(1)), loss=loss, optimizer="sgd", seed=0)
    x, order = np.ones((5, 2), np.float32), np.zeros((3, 4), np.int64)
    worker = threading.Thread(target=trainer.run, args=(x, x[:, :1], order))
    worker.start()
    assert at_work.wait(60)
    try:
        with pytest.raises(RuntimeError, match="another thread"):
            trainer.run(x, x[:, :1], order)
    finally:
        go_on.set()
        worker.join()
    assert trainer.step == 3


def test_a_forked_child_trains_after_threaded_work(threads):
    threads(2)
    expected = trained(n_hidden=200)
    assert fn.show_config(mode="dict")["threads_started"] >= 1
    child = os.fork()
    if child == 0:  # no pytest in the child: only its exit status counts
        status = 1
        try:
            status = 0 if trained(n_hidden=200) == expected else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert trained(n_hidden=200) == expected
