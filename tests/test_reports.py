"""What callbacks write: CSV files and progress."""

from __future__ import annotations

import csv
import io
import os
import resource
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from test_callbacks import data, make

import fastnn as fn

# ---------------------------------------------------------------- CSVLogger


def read(path: Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_the_csv_file_holds_the_history_in_full(tmp_path: Path) -> None:
    x, y = data()
    path = tmp_path / "log.csv"
    trainer = make(["accuracy"])
    history = trainer.fit(x, y, epochs=3, validation_split=0.3, callbacks=[fn.CSVLogger(path)])
    header, *rows = read(path)
    assert header == ["epoch", "loss", "accuracy", "val_loss", "val_accuracy"]
    assert [int(row[0]) for row in rows] == [1, 2, 3]
    for i, name in enumerate(header[1:], 1):
        assert [float(row[i]) for row in rows] == history[name]


def test_a_full_disk_names_the_csv_file_and_the_logger_goes_on_where_there_is_room(tmp_path: Path) -> None:
    x, y = data()
    logger, trainer = fn.CSVLogger(tmp_path / "log.csv", append=True), make()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60, before[1]))
        with pytest.raises(OSError, match=r"File too large: '.*log\.csv'") as caught:
            trainer.fit(x, y, epochs=9, callbacks=[logger])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not hasattr(caught.value, "__notes__")  # closing the file is no second failure
    done = trainer.epoch
    assert 1 <= done < 9
    trainer.fit(x, y, callbacks=[logger])
    rows = read(tmp_path / "log.csv")  # without the part of a line for which there was room
    assert [row[0] for row in rows] == ["epoch", *map(str, range(1, done)), str(done + 1)]
    assert {len(row) for row in rows} == {len(rows[0])}
    trainer.fit(x, y, callbacks=[fn.CSVLogger(tmp_path / "log.csv")])
    assert [row[0] for row in read(tmp_path / "log.csv")] == ["epoch", str(done + 2)]


def test_a_csv_file_is_begun_anew_or_appended_to(tmp_path: Path) -> None:
    x, y = data()
    path = tmp_path / "log.csv"
    trainer = make()
    for append, epochs in ((False, "1 2"), (False, "3 4"), (True, "3 4 5 6")):
        trainer.fit(x, y, epochs=2, callbacks=[fn.CSVLogger(str(path), append)])
        assert " ".join(row[0] for row in read(path)[1:]) == epochs
    with pytest.raises(ValueError, match="must have the columns epoch, loss, val_loss, got epoch, loss"):
        trainer.fit(x, y, validation_split=0.3, callbacks=[fn.CSVLogger(path, append=True)])
    new = tmp_path / "new.csv"
    trainer.fit(x, y, callbacks=[fn.CSVLogger(new, append=True)])
    assert [row[0] for row in read(new)] == ["epoch", "7"]


def test_a_file_that_cannot_be_made_ends_the_fit_before_its_first_step(tmp_path: Path) -> None:
    x, y = data()
    trainer = make()
    with pytest.raises(FileNotFoundError):
        trainer.fit(x, y, callbacks=[fn.CSVLogger(tmp_path / "none" / "log.csv")])
    assert trainer.step == 0


def test_a_csv_file_goes_on_where_the_checkpoint_was(tmp_path: Path) -> None:
    x, y = data()
    whole, killed = tmp_path / "whole.csv", tmp_path / "killed.csv"
    make().fit(x, y, epochs=6, callbacks=[fn.CSVLogger(whole)])
    trainer, states = make(), []

    class Kill(fn.Callback):
        def on_checkpoint(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
            if epoch == 3:
                states.extend((type(one).__name__, one.state_dict()) for one in trainer._callbacks)

    trainer.fit(x, y, epochs=5, callbacks=[fn.CSVLogger(killed), Kill()])  # lines 4 and 5 are not known
    resumed = make()
    resumed.fit(x, y, epochs=3)
    resumed._interrupted, resumed._resumed_states = True, states
    resumed.fit(x, y, epochs=6, callbacks=[fn.CSVLogger(killed), Kill()])
    assert killed.read_bytes() == whole.read_bytes()

    os.truncate(killed, 20)
    resumed._interrupted, resumed._resumed_states = True, states
    with pytest.raises(ValueError, match=r"must have the \d+ bytes of the interrupted fit, got 20"):
        resumed.fit(x, y, epochs=7, callbacks=[fn.CSVLogger(killed), Kill()])


# ---------------------------------------------------------------- ProgressBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_whole_lines_where_stderr_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = data()
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    trainer = make(["accuracy"])
    history = trainer.fit(x, y, epochs=2, validation_split=0.3, callbacks=[fn.ProgressBar()])
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[1].startswith(f"epoch 2/2  loss {history.loss[1]:.6g}  accuracy ")
    assert f"val_accuracy {history.val_accuracy[1]:.6g}" in lines[1]
    trainer.fit(x, y, epochs=5, callbacks=[fn.ProgressBar(), fn.EarlyStopping("loss", 1, 1e9)], progress=True)
    lines = stream.getvalue().splitlines()[2:]
    assert lines[0].startswith("epoch 3/7")
    assert lines[2].startswith("stopped after epoch 4: loss has not improved for 1 epoch since epoch 3")
    assert len(lines) == 3  # one bar, though it is asked for twice


def test_progress_is_a_bar_on_a_terminal_where_tqdm_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tqdm")
    x, y = data()
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    threads = threading.active_count()
    trainer = make()
    trainer.fit(x, y, epochs=3)
    history = trainer.fit(x, y, epochs=2)
    shown = stream.getvalue()
    assert "5/5" in shown
    assert f"loss {history.loss[-1]:.6g}" in shown
    assert shown.endswith("\n")
    assert threading.active_count() == threads
