"""Nothing slow around the program: what it is given, what is copied, looked at and kept on the way there."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fastnn as fn
from fastnn import stepping

Array = NDArray[Any]


class Spy:
    """A program that notes what it is called with."""

    def __init__(self, program: Any) -> None:
        self.__dict__.update(program=program, calls=[])

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.program, name)
        if name not in ("run", "loss", "gradient"):
            return found

        def noted(*arguments: Any, **named: Any) -> Any:
            self.calls.append((name, arguments))
            return found(*arguments, **named)

        return noted

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.program, name, value)


def address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def make(loss: str = "cross_entropy", n_out: int = 3, n_in: int = 4, **arguments: Any) -> fn.Trainer:
    model = fn.Sequential(fn.Dense(5, "tanh"), fn.Dense(n_out)).build(n_in)
    return fn.Trainer(model, loss, fn.SGD(0.01), seed=1, **arguments)


def spied(loss: str = "cross_entropy", n_out: int = 3) -> tuple[fn.Trainer, Spy]:
    trainer = make(loss, n_out)
    spy = Spy(trainer._current_program())
    trainer._program = spy  # type: ignore[assignment]
    trainer._learn = None  # the program's own quick step is not seen from outside
    return trainer, spy


def data(loss: str = "cross_entropy", n: int = 40) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 4)).astype(np.float32)
    return x, (rng.integers(0, 3, n) if loss == "cross_entropy" else rng.random((n, 3)).astype(np.float32))


LOSSES = ["cross_entropy", "mse", "binary_cross_entropy"]
CALLS: dict[str, Callable[[fn.Trainer, Array, Array], object]] = {
    "fit": lambda t, x, y: t.fit(x, y, epochs=3, batch_size=16, validation_data=(x, y)),
    "split": lambda t, x, y: t.fit(x, y, epochs=2, batch_size=16, validation_split=0.25),
    "run": lambda t, x, y: t.run(x, y, np.arange(40).reshape(4, 10)),
    "partial_fit": lambda t, x, y: t.partial_fit(x, y),
    "gradient": lambda t, x, y: t.gradient(x, y),
    "evaluate": lambda t, x, y: t.evaluate(x, y),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("call", CALLS)
def test_the_program_is_given_the_arrays_of_the_caller(call: str, loss: str) -> None:
    trainer, spy = spied(loss)
    x, y = data(loss)
    CALLS[call](trainer, x, y)
    assert spy.calls
    for name, arguments in spy.calls:
        if call == "split" and name == "loss":  # rows picked from all over, block by block
            continue
        assert (address(arguments[0]), address(arguments[1])) == (address(x), address(y)), name


@pytest.mark.parametrize("call", ["run", "partial_fit"])
def test_an_order_is_given_on_and_that_of_all_rows_kept(call: str) -> None:
    trainer, spy = spied()
    x, y = data()
    order = np.arange(40).reshape(4, 10)
    for _ in range(2):
        if call == "run":
            trainer.run(x, y, order)
        else:
            trainer.partial_fit(x, y)
    given = [arguments[2] for _, arguments in spy.calls]
    assert given[0] is given[1]
    assert (given[0] is order) == (call == "run")
    rates = [arguments[3] for _, arguments in spy.calls]
    assert rates[0] is rates[1]
    assert rates[0].tolist() == [0.01] * (4 if call == "run" else 1)


def test_what_is_not_right_is_converted_once_a_fit() -> None:
    trainer, spy = spied()
    x, y = data()
    trainer.fit(np.asfortranarray(x.astype(np.float64)), y.astype(np.int8), epochs=3, batch_size=40)
    calls = [arguments for name, arguments in spy.calls if name == "run"]
    assert len(calls) == 3
    assert len({(address(arguments[0]), address(arguments[1])) for arguments in calls}) == 1
    trained = make()
    trained.fit(x, y, epochs=3, batch_size=40)
    np.testing.assert_array_equal(trained.model.parameters, trainer.model.parameters)


def test_x_is_not_scanned_before_the_steps() -> None:
    trainer = make()
    x, y = data()
    x[-1, 2] = np.nan
    with pytest.raises(fn.DivergenceError, match=r"in epoch 1, batch 4.*x itself has a value"):
        trainer.fit(x, y, batch_size=10, shuffle=False)
    assert trainer.step == 3


def test_rows_that_order_does_not_name_are_not_looked_at() -> None:
    for loss in LOSSES:
        trainer = make(loss)
        x, y = data(loss)
        y = y.copy()
        x[7], y[7] = np.nan, 99 if loss == "cross_entropy" else np.nan
        weight = np.ones(40)
        weight[7] = -1.0
        order = np.delete(np.arange(40), 7).reshape(3, 13)
        assert np.isfinite(trainer.run(x, y, order))
        assert np.isfinite(trainer.run(x, y, order, sample_weight=weight))
        with pytest.raises(ValueError, match=r"^sample_weight must be finite .*, got -1\.0 in row 7"):
            trainer.run(np.abs(x), np.abs(data(loss)[1]), [[3, 7]], sample_weight=weight)


# ---------------------------------------------------------------- the gate and the door say the same

WRONG: list[tuple[str, str, Callable[[Array, Array], tuple[Any, ...]]]] = [
    ("mse", r"^y must be finite, got nan in row 3", lambda x, y: (x, altered(y, 3, np.nan))),
    ("mse", r"^y must be finite, got inf in row 3", lambda x, y: (x, altered(y, 3, np.inf))),
    ("mse", r"^y must have shape \(40, 3\), got \(40, 2\)", lambda x, y: (x, y[:, :2].copy())),
    ("binary_cross_entropy", r"^y must lie from 0 to 1, got 1\.5", lambda x, y: (x, altered(y, 3, 1.5))),
    ("cross_entropy", r"^y must hold labels from 0 to 2, got 3 in row 3", lambda x, y: (x, altered(y, 3, 3))),
    ("cross_entropy", r"^y must have shape \(40,\), got \(39,\)", lambda x, y: (x, y[:39].copy())),
    ("cross_entropy", r"^x must have 4 columns, got shape \(40, 3\)", lambda x, y: (x[:, :3].copy(), y)),
    ("cross_entropy", r"^x must be 2-D", lambda x, y: (x[0].copy(), y)),
    ("cross_entropy", r"^order must hold row numbers from 0 to 39, got 40", lambda x, y: (x, y, [[39, 40]])),
    ("cross_entropy", r"^order must hold row numbers from 0 to 39, got -1", lambda x, y: (x, y, [[39, -1]])),
    ("cross_entropy", r"^order must be 2-D", lambda x, y: (x, y, [1, 2])),
]  # fmt: skip


def altered(array: Array, row: int, value: float) -> Array:
    array = array.copy()
    array[row] = value
    return array


@pytest.mark.parametrize(("loss", "message", "wrong"), WRONG)
@pytest.mark.parametrize("as_arrays", [True, False], ids=["gate", "door"])
def test_wrong_input_is_refused_in_the_same_words(
    loss: str, message: str, wrong: Callable[[Array, Array], tuple[Any, ...]], as_arrays: bool
) -> None:
    trainer = make(loss)
    x, y, *rest = wrong(*data(loss))
    trainer.run(*data(loss), np.arange(40).reshape(1, 40))
    before, step = trainer.model.parameters.copy(), trainer.step
    order: Any = np.asarray(rest[0] if rest else np.arange(len(x)).reshape(1, -1))
    calls: list[Callable[[], object]] = [
        lambda: trainer.run(x, y, order if as_arrays else order.tolist()),
    ]
    if not rest:
        calls += [lambda: trainer.partial_fit(*given()), lambda: trainer.gradient(*given())]

    def given() -> tuple[Any, Any]:
        return (x, y) if as_arrays else (x.tolist(), y)

    for call in calls:
        with pytest.raises((ValueError, TypeError), match=message):
            call()
        np.testing.assert_array_equal(trainer.model.parameters, before)
        assert trainer.step == step


def test_the_gate_opens_for_what_is_right_and_for_nothing_else() -> None:
    x, y = data()
    gate = stepping.Gate(make().model.steps, np.dtype(np.float32), fn.CrossEntropy())
    order = np.zeros((2, 3), np.int64)
    passed = gate.passed(x, y, order)
    assert passed is not None
    assert (passed[0] is x, passed[1] is y, passed[3] is order) == (True, True, True)
    strange = np.frombuffer(b"\0" * (x.nbytes + 1), np.uint8)[1:].view(np.float32).reshape(x.shape)
    for wrong in (
        (x.astype(np.float64), y, None),
        (np.asfortranarray(x), y, None),
        (x[::2], y[::2], None),
        (strange, y, None),
        (x.astype(">f4"), y, None),
        (np.ma.masked_array(x), y, None),
        (x.tolist(), y, None),
        (x[:0], y[:0], None),
        (x, y.astype(np.int32), None),
        (x, y[:, None], None),
        (x, y, order.astype(np.int32)),
        (x, y, order[0]),
        (x, y, order.T),
        (x, y, order.tolist()),
    ):
        assert gate.passed(*wrong) is None
    one = stepping.Gate(make("mse", 1).model.steps, np.dtype(np.float32), fn.MSE())
    passed = one.passed(x, x[:, 0].copy(), None)
    assert passed is not None
    assert passed[1].shape == (40, 1)


def test_a_model_that_was_built_anew_is_trained_anew() -> None:
    trainer = make()
    x, y = data()
    trainer.partial_fit(x, y)
    trainer.model.build(4, seed=9)
    before = trainer.model.parameters.copy()
    trainer.partial_fit(x, y)
    assert trainer.step == 1
    assert not np.array_equal(trainer.model.parameters, before)


# ---------------------------------------------------------------- memory


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def grown(call: Callable[[], object]) -> int:
    """Bytes that a call held at once."""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    call()
    return tracemalloc.get_traced_memory()[1] - before


@pytest.mark.usefixtures("traced")
def test_calls_hold_a_few_blocks_beside_the_data() -> None:
    x = np.zeros((50_000, 256), np.float32)  # 51 MB
    rng = np.random.default_rng(0)
    y, targets = rng.integers(0, 3, len(x)), np.zeros((len(x), 64), np.float32)
    classifier, regressor = make(n_in=256, metrics=["accuracy"]), make("mse", 64, 256)
    classifier.partial_fit(x[:1], y[:1])
    order = np.zeros((10, 32), np.int64)
    # Eight bytes a row for each of: the shuffled order, what splits and sorts it; a copy would be 51 MB.
    few = 5_000_000
    assert grown(lambda: classifier.fit(x, y, batch_size=512, validation_data=(x, y))) < few
    assert grown(lambda: classifier.fit(x, y, batch_size=512, validation_split=0.2)) < few
    assert grown(lambda: regressor.fit(x, targets, batch_size=512)) < few
    assert grown(lambda: classifier.evaluate(x, y)) < few
    assert grown(lambda: classifier.evaluate(x.astype(np.float16), y)) < few + x.nbytes // 2
    assert grown(lambda: classifier.run(x, y, order)) < 100_000
    assert grown(lambda: regressor.run(x, targets, order)) < 100_000
    assert grown(lambda: classifier.partial_fit(x[:100], y[:100])) < 100_000
    out = len(x) * 3 * 4
    assert grown(lambda: classifier.predict(x)) < out + 100_000
    wide = np.zeros((50_000, 256))
    assert grown(lambda: classifier.predict(wide)) < out + 3_000_000  # converted block by block


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_resident_memory_is_the_data_and_little_more() -> None:
    # The pages of zeros that are only read take no memory of their own, so all that is resident beyond the
    # start is ours: buffers of C too, which tracemalloc does not see.
    code = r"""
    import re
    import numpy as np, fastnn as fn
    x, y = np.zeros((65536, 784), np.float32), np.zeros(65536, np.int64)  # 205 MB
    model = fn.Sequential(fn.Dense(32, "relu"), fn.Dense(10))
    trainer = fn.Trainer(model, "cross_entropy", fn.SGD(0.1), metrics=["accuracy"], seed=0)
    trainer.fit(x[:256], y[:256], validation_data=(x[:256], y[:256]), progress=False)
    # The peak of this process alone: ru_maxrss begins with that of the one that started it.
    peak = lambda: int(re.search(r"VmHWM:\s*(\d+) kB", open("/proc/self/status").read())[1]) // 1000
    before = peak()
    trainer.fit(x, y, batch_size=128, validation_data=(x, y), callbacks=[fn.EarlyStopping()], progress=False)
    trainer.run(x, y, np.arange(65536).reshape(-1, 128))
    trainer.evaluate(x, y)
    trainer.predict(x)
    trainer.partial_fit(x[:128], y[:128])
    print(peak() - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) <= 16  # MB: outputs of all rows for the metric are 2.6, orders 1
