"""Processes killed without warning (SIGKILL) while they save and while they train: nothing is lost or mixed.

FASTNN_FULL=1 kills 200, 50, 100 and 100 times; without it a tenth of that or less, for each run of the tests.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import fastnn as fn

FULL = os.environ.get("FASTNN_FULL") == "1"
N_SAVES, N_TRAININGS, N_INSIDE, N_STREAMED = (200, 50, 100, 100) if FULL else (12, 3, 3, 3)

# One process has imported everything and forks another for each word that it is told: starting anew would
# take most of the time.
NURSERY = """
import itertools, os, signal, sys, time
import numpy as np
import fastnn as fn
{work}
print("ready", flush=True)
for line in sys.stdin:
    seconds, word = line.strip().split(" ", 1)
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        work(word, lambda: os.write(sender, b"x"))
        os._exit(0)
    os.close(sender)
    os.read(receiver, 1)  # nothing to read where it has died
    os.close(receiver)
    if seconds != "-":
        time.sleep(float(seconds))
        os.kill(child, signal.SIGKILL)  # not waited for yet, so the number is still its own
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class Nursery:
    """Processes that do one piece of work each."""

    def __init__(self, work: str) -> None:
        code = NURSERY.replace("{work}", work)
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"  # from here on work is timed

    def run(self, word: str, seconds: float | None = None) -> int:
        """Exit status of a process that is told the word, and killed so many seconds after it was ready."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{'-' if seconds is None else seconds} {word}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


SAVING = """
def work(word, ready):
    first, path = word.split(" ", 1)
    models = [fn.Sequential(fn.Dense(n)).build(300) for n in (200, 500)]
    for value in itertools.count(int(first)):
        model = models[value % 2]
        model.parameters[...] = value
        model.classes = [value]
        model.save(path)
        if value == int(first):
            ready()
"""


@pytest.mark.slow
def test_a_file_that_is_overwritten_by_a_killed_process_is_whole(tmp_path: Path) -> None:
    path, rng = tmp_path / "m", np.random.default_rng(0)
    n_saves = interrupted = 0
    with Nursery(SAVING) as nursery:
        for i in itertools.count():
            # On a busy machine the first kills may all come before the first bytes.
            if i >= N_SAVES and (interrupted or i >= 20 * N_SAVES):
                break
            first = 10_000 * i
            assert nursery.run(f"{first} {path}", rng.uniform(0, 0.05)) == -signal.SIGKILL
            model = fn.load(path)  # raises where it is not intact
            assert model.classes is not None
            (value,) = model.classes
            assert value >= first
            assert set(model.parameters.tolist()) == {value}
            assert model.n_out == (200, 500)[value % 2]
            n_saves += value - first + 1
            interrupted += len(os.listdir(tmp_path)) > 1
    # A half written file lay beside. The next save removes it.
    assert interrupted > 0
    fn.load(path).save(path)
    assert os.listdir(tmp_path) == ["m"]
    print(f"{i} kills, {interrupted} in the middle of a save, {n_saves} saves done: all whole")


TRAINING = """
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6000, 20)).astype(np.float32)
    return x, (x[:, 0] * x[:, 1] > 0).astype(np.int64)

def trainer():
    model = fn.Sequential(fn.Dense(128, activation="relu"), fn.Dropout(0.3), fn.Dense(2))
    return fn.Trainer(model, "cross_entropy", fn.Adam(lr=3e-3), ["accuracy"], seed=7)

class Diary(fn.Callback):
    # One line for each epoch that a process has begun, before its first step.
    def __init__(self, path):
        self.path = path
    def on_epoch_begin(self, trainer, epoch):
        with open(self.path, "a") as file:
            file.write(f"{os.getpid()} {epoch} {trainer.step}\\n")

def work(folder, ready):
    one, checkpoint = trainer(), os.path.join(folder, "checkpoint")
    if os.path.exists(checkpoint):
        one.resume(checkpoint)
    ready()
    callbacks = [fn.EarlyStopping("val_loss", patience=9), Diary(os.path.join(folder, "diary")),
                 fn.ModelCheckpoint(checkpoint)]
    one.fit(*data(), epochs=25, batch_size=16, validation_split=0.2, callbacks=callbacks)
    one.save_checkpoint(os.path.join(folder, "end"))
"""


@pytest.mark.slow
def test_a_training_that_is_killed_goes_on_to_the_bits_of_the_undisturbed_one(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    with Nursery(TRAINING) as nursery:
        begin = time.perf_counter()
        assert nursery.run(str(whole)) == 0
        a_fit, rng = time.perf_counter() - begin, np.random.default_rng(1)
        kills = rounds = redone = 0
        n_epochs = len((whole / "diary").read_text().splitlines())
        while kills < N_TRAININGS:
            folder = killed / str(rounds)
            folder.mkdir(parents=True)
            rounds += 1
            # About three kills a training, then it may end.
            for _ in range(3):
                if nursery.run(str(folder), rng.uniform(0, a_fit / 2)) == -signal.SIGKILL:
                    kills += 1
            assert nursery.run(str(folder)) == 0
            redone += judged(whole, folder, n_epochs)
    print(f"{kills} kills in {rounds} trainings of {n_epochs} epochs, each ended with the undisturbed bits;")
    print(f"{redone} epochs in all were begun twice")
    assert kills >= N_TRAININGS


def judged(whole: Path, folder: Path, n_epochs: int) -> int:
    """Compare a training in pieces with the one that nothing disturbed; gives the epochs begun twice."""
    # The files at the end are equal to the byte: parameters, optimizer state, step, history.
    assert (folder / "end").read_bytes() == (whole / "end").read_bytes()
    lines = [tuple(map(int, line.split())) for line in (folder / "diary").read_text().splitlines()]
    steps = {epoch: step for _, epoch, step in lines}
    assert steps == {epoch: (epoch - 1) * 300 for epoch in range(1, n_epochs + 1)}
    # Each process went on with the epoch that the one before had begun, or with the next where the kill came
    # after the checkpoint: never with the first again.
    for (pid, epoch, _), (next_pid, next_epoch, _) in itertools.pairwise(lines):
        assert next_epoch == epoch + 1 or (next_pid != pid and next_epoch == epoch)
    return len(lines) - n_epochs


INSIDE = """
from fastnn import schedules

def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9000, 20)).astype(np.float32)
    return x, (x[:, 0] * x[:, 1] > 0).astype(np.int64)

def trainer():
    layers = fn.GaussianNoise(0.1), fn.Dense(32), fn.BatchNorm(), fn.Dropout(0.3), fn.Dense(2)
    optimizer = fn.Adam(lr=schedules.OneCycle(0.02, 600), accumulate=3, ema=0.99, clip_norm=1.0)
    return fn.Trainer(fn.Sequential(*layers), "cross_entropy", optimizer, ["accuracy"], seed=7)

class Diary(fn.Callback):
    # The step from which a process goes on.
    def __init__(self, path):
        self.path = path
    def on_fit_begin(self, trainer):
        with open(self.path, "a") as file:
            file.write(f"{os.getpid()} {trainer.epoch} {trainer.epoch_step} {trainer.step}\\n")

def work(folder, ready):
    one = trainer()
    files = sorted(name for name in os.listdir(folder) if name.startswith("at-"))
    if files:
        one.resume(os.path.join(folder, files[-1]))
    ready()
    callbacks = [
        fn.EarlyStopping(patience=99, every_steps=100), fn.WeightAverage(start=2),
        fn.ReduceLROnPlateau("loss", patience=0, threshold=0.1), Diary(os.path.join(folder, "diary")),
        fn.CSVLogger(os.path.join(folder, "log.csv")),
        fn.ModelCheckpoint(os.path.join(folder, "at-{step:06d}"), every_steps=40, keep=2),
    ]
    one.fit(*data(), epochs=2, batch_size=8, validation_split=0.2, callbacks=callbacks)
    one.save_checkpoint(os.path.join(folder, "end"))
"""


def killed_inside(work: str, base: Path, kinds: list[str], n_kills: int, seed: int, share: float) -> None:
    """Kill trainings of 2 epochs of 900 steps inside them, go on, and compare with undisturbed ones.

    A process is killed within `share` of the time that an undisturbed one takes.
    """
    takes: dict[str, float] = {}
    with Nursery(work) as nursery:
        for kind in kinds:
            (base / f"{kind}-whole").mkdir()
            begin = time.perf_counter()
            assert nursery.run(str(base / f"{kind}-whole")) == 0
            takes[kind] = time.perf_counter() - begin
        rng = np.random.default_rng(seed)
        kills = rounds = inside = 0
        # A few kills may all come before the first checkpoint: go on until one did not.
        while kills < n_kills or rounds < len(kinds) or (inside == 0 and rounds < 20):
            kind = kinds[rounds % len(kinds)]
            whole, folder = base / f"{kind}-whole", base / f"{kind}-{rounds}"
            folder.mkdir()
            rounds += 1
            for _ in range(3):
                kills += nursery.run(str(folder), rng.uniform(0, takes[kind] * share)) == -signal.SIGKILL
            assert nursery.run(str(folder)) == 0
            for name in ("end", "log.csv"):
                assert (folder / name).read_bytes() == (whole / name).read_bytes()
            files = sorted(name for name in os.listdir(folder) if name.startswith("at-"))
            assert files == ["at-001760", "at-001800"]
            assert not [name for name in os.listdir(folder) if name.startswith(".")]  # of killed conversions
            lines = [tuple(map(int, line.split())) for line in (folder / "diary").read_text().splitlines()]
            for (_, _, _, step), (_, epoch, epoch_step, next_step) in itertools.pairwise(lines):
                assert next_step >= step  # no process falls behind the one before
                assert next_step == 900 * epoch + epoch_step
                inside += epoch_step > 0
    told = f"{kills} kills in {rounds} trainings, {inside} times gone on inside an epoch"
    print(f"{told}: equal bits each time")
    assert inside > 0


@pytest.mark.slow
def test_a_training_that_is_killed_inside_its_epochs_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    killed_inside(INSIDE, tmp_path, ["array"], N_INSIDE, seed=2, share=0.5)


STREAMED = (
    """
from fastnn import samplers
from fastnn.data import Source
import pyarrow, pyarrow.parquet

def source(kind, folder):
    few = {"block_rows": 64, "buffer_rows": 1500}
    given = os.path.dirname(folder)
    if kind == "shards":
        return Source.shards(os.path.join(given, "shards"), **few)
    # Converted by whoever comes first; a kill may come meanwhile.
    path = os.path.join(given, "t.parquet")
    return Source.parquet(path, "y", cache=os.path.join(folder, "cache"), progress=False, **few)

def trainer():
    layers = fn.GaussianNoise(0.1), fn.Dense(32), fn.BatchNorm(), fn.Dropout(0.3), fn.Dense(2)
    optimizer = fn.Adam(lr=0.01, accumulate=3, ema=0.99, clip_norm=1.0)
    return fn.Trainer(fn.Sequential(*layers), "cross_entropy", optimizer, seed=7)

"""
    + INSIDE[INSIDE.index("class Diary") : INSIDE.index("    one.fit(")]
    + """
    kind = os.path.basename(folder).partition("-")[0]
    one.fit(source(kind, folder), epochs=2, batch_size=8, validation_data=source("shards", folder),
            sampler=samplers.Balanced() if kind == "shards" else None,
            augment=[fn.Mixup(0.3), fn.ColumnDropout(0.1)], callbacks=callbacks)
    one.save_checkpoint(os.path.join(folder, "end"))
"""
)


@pytest.mark.slow
def test_a_streamed_training_that_is_killed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(7200, 20)).astype(np.float32)
    y = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
    (tmp_path / "shards").mkdir()
    for i, rows in enumerate(np.array_split(np.arange(7200), 5)):
        np.save(tmp_path / "shards" / f"x{i}.npy", x[rows])
        np.save(tmp_path / "shards" / f"y{i}.npy", y[rows])
    columns = {f"c{j}": x[:, j] for j in range(20)}
    parquet.write_table(pa.table({**columns, "y": y}), tmp_path / "t.parquet", row_group_size=1000)
    kinds = ["shards", "parquet"] if FULL else ["parquet"]
    # Each process loads pyarrow anew, and the first ones convert: with less time none would come to an epoch.
    killed_inside(STREAMED, tmp_path, kinds, N_STREAMED, seed=4, share=0.9)
