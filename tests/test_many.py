"""Trainings side by side: the bits of each alone, who fails, what Ctrl-C leaves, arguments by trainer."""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import fastnn as fn
from fastnn import many

rng = np.random.default_rng(0)
X = rng.standard_normal((120, 6)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0.5)


def trainer_of(
    seed=0, units=8, lr=0.01, dtype="float32", optimizer=None, device="cpu", metrics=(), layers=()
):
    model = fn.Sequential(*layers, fn.Dense(units, "relu"), fn.Dense(3), dtype=dtype)
    return fn.Trainer(model, "cross_entropy", optimizer or fn.Adam(lr), metrics, seed=seed, device=device)


def several():
    return [
        trainer_of(0),
        trainer_of(1, units=17, metrics=["accuracy"]),
        trainer_of(2, dtype="float64"),
        trainer_of(3, layers=(fn.BatchNorm(), fn.Dropout(0.2))),
        trainer_of(4, device="numpy"),
    ]


def test_each_reaches_the_bits_that_it_reaches_alone():
    together, alone = several(), several()
    histories = fn.fit_many(together, X, Y, epochs=4, batch_size=16, validation_split=0.2, n_workers=3)
    for one, other, history in zip(together, alone, histories, strict=True):
        expected = other.fit(X, Y, epochs=4, batch_size=16, validation_split=0.2)
        assert dict(history) == dict(expected)
        assert one.model.parameters.tobytes() == other.model.parameters.tobytes()
        assert one.step == other.step


def test_rows_train_as_a_copy_of_them_would():
    folds = [np.arange(0, 100), np.array([5, 5, 5, 3, 100, 7, 9, 9]), np.arange(120) % 3 > 0, None]
    weight = rng.random(120) + 0.1
    given = {"epochs": 3, "batch_size": 4, "class_weight": "balanced", "validation_split": 0.25}
    together, alone = ([trainer_of(i, metrics=["accuracy"]) for i in range(4)] for _ in range(2))
    histories = fn.fit_many(together, X, Y, rows=folds, sample_weight=weight, **given)
    for one, other, history, fold in zip(together, alone, histories, folds, strict=True):
        part = slice(None) if fold is None else fold
        expected = other.fit(X[part], Y[part], sample_weight=weight[part], **given)
        assert dict(history) == dict(expected)
        assert one.model.parameters.tobytes() == other.model.parameters.tobytes()


def test_arguments_by_trainer_callbacks_and_validation_are_each_ones_own():
    stops = [fn.EarlyStopping(patience=1, min_delta=1e9), fn.EarlyStopping("loss", patience=100)]
    trainers = [trainer_of(0), trainer_of(1)]
    histories = fn.fit_many(
        trainers, X, Y, epochs=[9, 5], batch_size=[16, 40], callbacks=[[stops[0]], [stops[1]]],
        validation_data=[(X[:20], Y[:20]), None],
    )  # fmt: skip
    assert [len(history.epoch) for history in histories] == [2, 5]
    assert "val_loss" in histories[0]
    assert "val_loss" not in histories[1]
    assert [trainer.step for trainer in trainers] == [2 * 8, 5 * 3]
    by_number = []
    fn.fit_many([trainer_of(0), trainer_of(1)], X, Y, callbacks=lambda i: by_number.append(i) or [])
    assert by_number == [0, 1]


def test_one_that_fails_stops_no_other():
    trainers = [trainer_of(0), trainer_of(1, lr=1e30, optimizer=fn.SGD(1e30)), trainer_of(2)]
    with pytest.warns(RuntimeWarning, match=r"1 of 3 trainers failed; trainer 1: DivergenceError"):
        results = fn.fit_many(trainers, X, Y, epochs=5)
    assert [type(one).__name__ for one in results] == ["History", "DivergenceError", "History"]
    assert "trainer 1" in results[1].__notes__[0]
    assert len(results[2].epoch) == 5
    trainers[1] = trainer_of(1, optimizer=fn.SGD(1e30))
    with pytest.raises(ExceptionGroup, match="1 of 3 trainers failed") as group:
        fn.fit_many(trainers, X, Y, epochs=5, on_error="raise")
    assert isinstance(group.value.exceptions[0], fn.DivergenceError)
    assert np.isfinite(trainers[1].model.parameters).all()


CTRL_C = """
import _thread, gc, os, signal, threading, time
import numpy as np
import fastnn as fn
from test_many import X, Y, trainer_of

signal.signal(signal.SIGINT, signal.default_int_handler)  # as Python has it, whoever started the tests
trainers = [trainer_of(i, units=64) for i in range(4)]
x, y = np.tile(X, (400, 1)), np.tile(Y, 400)
at_work = threading.Barrier(3)  # both workers have ended an epoch; then this thread is told to stop

class Tell(fn.Callback):
    def on_epoch_end(self, trainer, epoch, logs):
        if epoch == 1:
            at_work.wait(60)

def interrupt():
    at_work.wait(60)
    time.sleep(0.1)  # the main thread sleeps
    if HOW == "process":
        os.kill(os.getpid(), signal.SIGINT)
    elif HOW == "thread":  # the system may give it to any thread that does not block it
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
    else:
        _thread.interrupt_main()
    # While this thread goes on, as do the trainings, for hours: what would wait for its end is not answered.
    heard.append(answered.wait(60))

answered, heard = threading.Event(), []
gc.disable()  # Python drops what a signal raises while a finalizer runs
thread = threading.Thread(target=interrupt)
thread.start()
try:
    fn.fit_many(trainers, x, y, epochs=100_000, batch_size=32, n_workers=2, callbacks=lambda i: [Tell()])
except KeyboardInterrupt:
    print("interrupted")
answered.set()
thread.join()
assert heard == [True]
assert not [one for one in threading.enumerate() if one.name.startswith("fastnn-fit")]
assert trainers[0].step > 0
assert trainers[3].step == 0
assert not trainers[3].model.is_built
for trainer in trainers[:2]:
    assert np.isfinite(trainer.predict(X)).all()
    trainer.fit(X, Y)  # goes on
print("usable")
"""


@pytest.mark.parametrize("how", ["process", "thread", "simulated"])
def test_ctrl_c_stops_all_and_leaves_usable_models(how):
    command = [sys.executable, "-c", f"HOW = {how!r}" + CTRL_C]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["interrupted", "usable"]


def test_what_ends_the_process_ends_all():
    class Leave(fn.Callback):
        def on_epoch_end(self, trainer, epoch, logs):
            raise SystemExit(3)

    trainers = [trainer_of(0), trainer_of(1)]
    with pytest.raises(SystemExit):
        fn.fit_many(trainers, X, Y, epochs=10**7, callbacks=[[Leave()], []], n_workers=2)


def test_a_bar_for_all_is_lines_where_there_is_no_terminal(capsys):
    fn.fit_many([trainer_of(0), trainer_of(1)], X, Y, epochs=2, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "(2/2)  History(2 epochs" in lines[1]
    fn.fit_many([trainer_of(0)], X, Y, progress=False)
    assert capsys.readouterr().err == ""


def test_x_is_shared_and_never_copied():
    trainers = [trainer_of(i) for i in range(3)]
    jobs = many.jobs_of(trainers, X, Y, [np.arange(9)] * 3, {})
    assert all(job.x is X and job.y is Y for job in jobs)
    converted = many.jobs_of(trainers, X.astype(np.float64), Y, None, {})
    assert converted[0].x is converted[2].x


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"trainers": []}, ValueError, "trainers must be at least one"),
        ({"trainers": [3]}, TypeError, r"trainers\[0\] must be a Trainer, got int"),
        ({"rows": [None]}, ValueError, "rows must have one for each of 2 trainers, got 1"),
        ({"rows": [None, [0, 120]]}, ValueError, r"rows\[1\] must hold row numbers from 0 to 119, got 120"),
        ({"rows": [None, []]}, ValueError, r"rows\[1\] must be row numbers, one at least"),
        ({"rows": [None, [True]]}, ValueError, r"rows\[1\] must be a mask of shape \(120,\)"),
        ({"epoch": 3}, ValueError, "fit_arguments must be one of .*did you mean 'epochs'"),
        ({"epochs": [1, 2, 3]}, ValueError, "epochs must have one for each of 2 trainers, got 3"),
        ({"epochs": [1, -1]}, ValueError, "epochs of trainer 1 must be"),
        ({"callbacks": [fn.EarlyStopping()]}, TypeError, "callbacks must be a list of lists"),
        ({"on_error": "ignore"}, ValueError, "on_error must be one of return, raise"),
        ({"n_workers": 0}, ValueError, "n_workers"),
        ({"x": X[0]}, ValueError, "x must be 2-D"),
        ({"y": Y[:5]}, ValueError, r"y must have 120 rows as x has, got shape \(5,\)"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named_before_anything_has_happened(arguments, error, message):
    trainers = [trainer_of(0), trainer_of(1)]
    given = {"trainers": trainers, "x": X, "y": Y, **arguments}
    with pytest.raises(error, match=message):
        fn.fit_many(**given)
    assert trainers[0].step == 0


def test_a_model_or_a_callback_is_nobody_elses():
    one = trainer_of(0)
    with pytest.raises(ValueError, match=r"trainers\[1\] must have a model of its own"):
        fn.fit_many([one, fn.Trainer(one.model, "cross_entropy", "sgd")], X, Y)
    stop = fn.EarlyStopping("loss")
    with pytest.raises(ValueError, match=r"callbacks\[1\] must have callbacks of its own"):
        fn.fit_many([trainer_of(0), trainer_of(1)], X, Y, callbacks=[[stop], [stop]])


def test_workers_take_no_team_and_the_caller_has_its_threads_back():
    seen = []

    class Look(fn.Callback):
        def on_fit_begin(self, trainer):
            seen.append(threading.current_thread().name)

    before = fn.get_num_threads()
    fn.fit_many([trainer_of(0), trainer_of(1)], X, Y, n_workers=2, callbacks=lambda i: [Look()])
    assert all(name.startswith("fastnn-fit") for name in seen)
    assert fn.get_num_threads() == before


# ---------------------------------------------------------------- one row at a time


def online(loss, layers, y, optimizer=None, dtype="float32"):
    both = []
    for _ in range(2):
        model = fn.Sequential(*layers, dtype=dtype)
        both.append(fn.Trainer(model, loss, optimizer or fn.Adam(0.01), seed=5))
    for rows in (1, 3, 1, 64, 2):
        x, targets = X[:rows].astype(dtype), y[:rows]
        first = both[0].partial_fit(x, targets)
        second = both[1].run(x, targets, np.arange(rows).reshape(1, -1))
        assert first == second
    assert both[0].model.parameters.tobytes() == both[1].model.parameters.tobytes()
    assert both[0].step == both[1].step == 5
    return both[0]


def test_partial_fit_by_the_short_way_has_the_bits_of_run():
    net = fn.Dense(16, "relu"), fn.Dropout(0.3), fn.Dense(3)
    assert online("cross_entropy", net, Y)._learn is not None
    online("mse", net, X[:, :3].copy(), fn.SGD(0.1, momentum=0.9))
    online("mae", (fn.Dense(1),), X[:, 0].astype(np.float64), dtype="float64")
    online("cross_entropy", net, Y, fn.Adam(0.01, clip_norm=0.5, accumulate=2, ema=0.9))
    online("cross_entropy", net, Y, fn.RMSprop(0.01, l1=0.01))


def test_the_short_way_judges_as_the_long_one():
    trainer = trainer_of(0)
    trainer.partial_fit(X[:1], Y[:1])
    before, step = trainer.model.parameters.copy(), trainer.step
    bad = X[:2].copy()
    bad[1, 3] = np.nan
    for x, y, error, message in (
        (X[:2], np.array([0, 3]), ValueError, "y must hold labels from 0 to 2, got 3 in row 1"),
        (X[:2], np.array([-1, 0]), ValueError, "y must hold labels from 0 to 2, got -1 in row 0"),
        (X[:2], Y[:1], ValueError, r"y must have shape \(2,\), got \(1,\)"),
        (X[:2, :5].copy(), Y[:2], ValueError, r"x must have 6 columns, got shape \(2, 5\)"),
        (bad, Y[:2], fn.DivergenceError, "x itself has a value that is not finite"),
        (X[:0], Y[:0], ValueError, "x must have at least one row"),
    ):
        with pytest.raises(error, match=message):
            trainer.partial_fit(x, y)
        assert trainer.model.parameters.tobytes() == before.tobytes()
        assert trainer.step == step
    trainer.rate_factor = 0.0
    trainer.partial_fit(X[:1], Y[:1])
    assert trainer.model.parameters.tobytes() == before.tobytes()
    trainer.model.build(6, seed=9)
    trainer.partial_fit(X[:1], Y[:1])
    assert trainer.step == 1
