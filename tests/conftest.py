"""Fixtures that several test files use."""

import numpy as np
import pytest

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
def rng():
    return np.random.default_rng(0)
