"""The contenders, one file each; nothing of theirs is imported before their own process asks for it.

A file of this folder is a peer. It offers

``WAYS_TO_TRAIN``, ``WAYS_TO_PREDICT`` : dict
    Name of a way to its class; a peer with several is measured with the fastest. Empty: it does not do that.
    A class is called with a `Task`. To train it offers ``train(order)``, the steps of `order` from where it
    stands, and ``parameters()``, flat, as fastnn lays them out. To predict: ``predict()``, the outputs for
    ``task.x`` in whatever form it gives them, and ``outputs(result)``, those as an array; ``link`` is
    "softmax" where they are probabilities.
    ``check(order)``, optional: as ``train``, for one that draws its own order when it trains.
``about(threads)``
    Name and version of what it stands on, as a dict; called once, before any task. It sets what must be set
    once in a process.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass
from types import ModuleType

from ..cells import Array, Cell

__all__ = ["PEERS", "Peer", "Task", "missing", "module"]


@dataclass(frozen=True)
class Task:
    """What a peer is made for: a cell, its data and initial parameters (float32), and its threads."""

    cell: Cell
    x: Array
    y: Array
    parameters: Array
    threads: int


@dataclass(frozen=True)
class Peer:
    """A contender.

    Parameters
    ----------
    key : str
        Name of its file, and of the choice on the command line.
    name : str
        As tables show it.
    needs : tuple of str
        Modules that must be installed.
    compiles : bool
        Whether it calls a C++ compiler, ``$CXX`` or g++ (clang++ on macOS).
    kinds : tuple of str
        Kinds of cells it takes part in.
    """

    key: str
    name: str
    needs: tuple[str, ...]
    compiles: bool = False
    kinds: tuple[str, ...] = ("train", "predict")


PEERS = {
    peer.key: peer
    for peer in (
        Peer("own", "fastnn", ()),
        Peer("by_hand", "NumPy by hand", ()),
        Peer("sklearn", "scikit-learn", ("sklearn",)),
        Peer("torch_eager", "PyTorch eager", ("torch",)),
        Peer("torch_compiled", "PyTorch compiled", ("torch",), compiles=True),
        Peer("jax", "JAX", ("jax",)),
        Peer("numba", "Numba by hand", ("numba", "scipy")),
        Peer("onnxruntime", "ONNX Runtime", ("onnxruntime", "onnx"), kinds=("predict",)),
        Peer("onednn", "oneDNN", ("torch",), kinds=("predict",)),
        Peer("openvino", "OpenVINO", ("openvino", "onnx"), kinds=("predict",)),
    )
}


def missing(peer: Peer) -> list[str]:
    """What it needs and is not installed; imports nothing of it."""
    absent = [name for name in peer.needs if importlib.util.find_spec(name) is None]
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if peer.compiles and shutil.which(compiler) is None:
        absent.append(f"the C++ compiler {compiler}")
    return absent


def module(peer: Peer) -> ModuleType:
    """Its file, imported: what it stands on comes with it."""
    return importlib.import_module(f"{__name__}.{peer.key}_peer")
