"""The device "cuda" where something is missing, and the cards of a machine, with stand-ins. Needs no card."""

from __future__ import annotations

import importlib.machinery
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cuda_on_cpu
import numpy as np
import pytest
from cuda_stand_in import StandIn, put_in

import fastnn as fn
from fastnn import cli
from fastnn.devices import cuda, cuda_cards

pytestmark = pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="needs a C++ compiler")

X = np.random.default_rng(0).standard_normal((150, 9)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, 4, 150)


@pytest.fixture(autouse=True)
def card(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """A machine with one card."""
    return put_in(monkeypatch)


def trainer_on(device: str) -> Any:
    model = fn.Sequential(fn.Dense(13, activation="relu"), fn.Dense(4))
    return fn.Trainer(model, loss="cross_entropy", optimizer=fn.Adam(), seed=3, device=device)


def test_import_and_cpu_load_nothing_of_cuda() -> None:
    code = (
        "import sys, fastnn as fn; fn.Trainer(fn.Sequential(fn.Dense(1)), 'mse', 'sgd').fit([[1.0]], [1.0], "
        "progress=False); print([m for m in sys.modules if 'cuda' in m or 'cupy' in m])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("machine", "text"),
    [
        (
            StandIn(error="cudaErrorInsufficientDriver: old"),
            "needs NVIDIA's driver.*cudaErrorInsufficientDriver.*pip",
        ),
        (StandIn(error="cudaErrorNoDevice: no CUDA-capable device is detected"), "needs a card"),
        (StandIn(n_cards=0), "needs a card"),
        (StandIn(n_cards=1), "'cuda:2' is not there: the driver sees cuda:0$"),
        (StandIn(n_cards=2), "'cuda:2' is not there: the driver sees cuda:0 to cuda:1"),
    ],
)
def test_the_error_names_what_is_missing(
    machine: StandIn, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_cards, "_cupy", lambda device: machine)
    with pytest.raises(fn.DeviceError, match=text):
        trainer_on("cuda:2")


def test_without_cupy_or_with_an_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(cuda_cards.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        fn.DeviceError, match=r"'cuda' needs CuPy, which is not installed: pip .*fastnn-core\[cuda12\]"
    ):
        trainer_on("cuda")
    spec = importlib.machinery.ModuleSpec("cupy", None)
    monkeypatch.setattr(cuda_cards.importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(
        cuda_cards.importlib, "import_module", lambda name: SimpleNamespace(__version__="13.4.0")
    )
    with pytest.raises(fn.DeviceError, match=r"needs CuPy 14 or newer, got 13\.4\.0"):
        trainer_on("cuda")

    def broken(name: str) -> Any:
        raise ImportError("libcudart.so.12: no such file")

    monkeypatch.setattr(cuda_cards.importlib, "import_module", broken)
    with pytest.raises(fn.DeviceError, match=r"could not be imported \(libcudart"):
        trainer_on("cuda")


@pytest.mark.parametrize("name", ["cuda:", "cuda:x", "cuda:-1", "cuda:1.5"])
def test_names_of_no_card(name: str) -> None:
    with pytest.raises(ValueError, match="device must be 'cuda' or 'cuda:' and the number"):
        trainer_on(name)


def test_memory_is_named(card: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StandIn, "free", 1000)
    with pytest.raises(fn.DeviceError, match=r"1,000 bytes free of .*and 4 blocks of 744 bytes"):
        trainer_on("cuda").fit(X, Y)
    monkeypatch.setattr(StandIn, "free", 6 << 30)

    def full(*args: Any) -> Any:
        raise card.cuda.memory.OutOfMemoryError("Out of memory allocating 8 bytes")

    trainer = trainer_on("cuda")
    trainer.partial_fit(X, Y)
    monkeypatch.setattr(card, "empty", full, raising=False)
    with pytest.raises(fn.DeviceError, match=r"no memory for this batch size.*try a smaller batch_size"):
        trainer.partial_fit(X[:50], Y[:50])


def test_info_shows_the_cards(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.main(["info"]) == 0
    assert "cuda:0          Stand-in, 6.0 of 8.0 GiB free, compute capability 9.0" in capsys.readouterr().out
    monkeypatch.setattr(cuda_cards, "_cupy", lambda device: StandIn(n_cards=0))
    assert cli.main(["info"]) == 0
    assert "cuda            none: device 'cuda' needs a card" in capsys.readouterr().out


def test_the_benchmark_lists_its_plan_and_says_that_there_is_no_card(tmp_path: Any) -> None:
    (tmp_path / "cupy.py").write_text("raise ImportError('not here')")
    command = [sys.executable, str(Path(__file__).parents[1] / "benchmarks" / "bench_gpu.py")]
    dry = subprocess.run([*command, "--dry"], capture_output=True, text=True)
    assert dry.returncode == 0
    assert "1024-4096-4096-1000 b8192" in dry.stdout
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert "needs CuPy, which could not be imported (not here)" in done.stderr


def test_the_cards_of_the_machine() -> None:
    assert cuda.cards() == [
        {"device": "cuda:0", "name": "Stand-in", "memory": 8 << 30, "free": 6 << 30, "capability": "9.0"}
    ]
