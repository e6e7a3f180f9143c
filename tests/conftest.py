"""Fixtures that several test files use."""

import gc
import signal
import sys

import numpy as np
import pytest
from building import copy_sources, run

from fastnn import kernels


@pytest.fixture(params=kernels.isa_available())
def isa(request):
    """Each instruction set that this machine can run, one after the other."""
    before = kernels.isa()
    kernels.set_isa(request.param)
    yield request.param
    kernels.set_isa(before)


@pytest.fixture
def threads():
    """A function that sets the number of threads; what was set before comes back."""
    before = kernels.get_num_threads()
    yield kernels.set_num_threads
    kernels.set_num_threads(before)


@pytest.fixture
def ctrl_c():
    """Ctrl-C as Python has it, and none that is lost.

    A shell's background jobs start with it ignored. Python drops what a signal raises while a finalizer runs,
    so nothing is collected meanwhile of what other tests left.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.disable()
    yield
    gc.enable()
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    """A copy of the sources, with the objects that were compiled from them."""
    return copy_sources(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="session")
def wheel(tree, tmp_path_factory):
    """The wheel that pip makes of the sources."""
    folder = tmp_path_factory.mktemp("wheels")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "wheel"]
    run(*command, "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(tree), cwd=folder)
    (archive,) = folder.glob("*.whl")
    return archive
