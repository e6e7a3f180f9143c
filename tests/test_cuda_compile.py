"""The kernels as NVRTC compiles them for the cards of five generations: no error, no spilled register.

Needs the extra `test-cuda` (NVIDIA's compiler as a wheel, no card, no driver): make test-cuda, in .ci/run.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from fastnn.devices import cuda_kernels, cuda_persistent

pytestmark = pytest.mark.nvrtc

# Turing, Ampere, Hopper, Blackwell of data centres and of desks.
ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_100", "sm_120")


def nvrtc() -> Any:
    """The library of the wheel."""
    spec = importlib.util.find_spec("nvidia")
    places = [] if spec is None else list(spec.submodule_search_locations or [])
    found = sorted(path for place in places for path in Path(place).glob("*/lib/libnvrtc.so.*"))
    assert found, "nvidia-cuda-nvrtc is missing: make test-cuda installs it"
    return ctypes.CDLL(str(found[-1]))


def compiled(library: Any, architecture: str, text: str) -> tuple[int, str]:
    """NVRTC's answer and its log."""
    program = ctypes.c_void_p()
    assert library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"source.cu", 0, None, None) == 0
    options = [
        f"--gpu-architecture={architecture}",
        "--std=c++17",
        "--ptxas-options=-v",
        "--ptxas-options=-warn-spills",
    ]
    given = (ctypes.c_char_p * len(options))(*(one.encode() for one in options))
    answer = library.nvrtcCompileProgram(program, len(options), given)
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return answer, log.value.decode()


def kernels_of(text: str) -> tuple[int, int]:
    """How many kernels it has, and how many more from sm_80 on: those of rounded products."""
    rounded = re.findall(r"^MATMUL_ROUNDED\(", text, re.MULTILINE)
    return len(re.findall(r"^(?:SEPARATE \w+|TOGETHER \w+|MATMUL)\(", text, re.MULTILINE)), len(rounded)


def spilled(log: str) -> list[tuple[str, str]]:
    """Bytes that are stored and loaded for want of registers, of each function."""
    return re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log)


def test_a_spilled_register_is_seen() -> None:
    text = """extern "C" __global__ void __launch_bounds__(1024) crowded(float *x)
    {
        float kept[200];
    #pragma unroll
        for (int i = 0; i < 200; i++) kept[i] = x[i * 1024 + threadIdx.x];
        __syncthreads();
    #pragma unroll
        for (int i = 0; i < 200; i++) x[i * 1024 + threadIdx.x] = kept[199 - i] * kept[i];
    }"""
    answer, log = compiled(nvrtc(), "sm_90", text)
    assert answer == 0, log
    assert any(int(stores) > 0 for stores, _ in spilled(log)), log


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_compile_without_spilled_registers(architecture: str) -> None:
    all_cards, rounded = kernels_of(cuda_kernels.source())
    assert rounded == 6
    n_expected = all_cards + (0 if architecture == "sm_75" else rounded)
    judge(*compiled(nvrtc(), architecture, cuda_kernels.source()), n_expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_kernel_of_small_nets_compiles_without_spilled_registers(architecture: str) -> None:
    answer, log = compiled(nvrtc(), architecture, cuda_persistent.source())
    judge(answer, log, 1)
    assert_declares_little(log)


@pytest.mark.parametrize(
    ("architecture", "n_blocks"), [("sm_90", 2), ("sm_90", 8), ("sm_100", 8), ("sm_120", 4)]
)
def test_the_kernel_for_clusters_compiles_without_spilled_registers(architecture: str, n_blocks: int) -> None:
    answer, log = compiled(nvrtc(), architecture, cuda_persistent.source(n_blocks))
    judge(answer, log, 1)
    assert_declares_little(log)


def assert_declares_little(log: str) -> None:
    """No more shared memory of its own than cuda_persistent.py leaves it."""
    static = re.search(r"(\d+) bytes smem", log)
    assert static is not None, log
    assert int(static[1]) <= cuda_persistent._OWN_BYTES


def judge(answer: int, log: str, n_expected: int) -> None:
    """No error, no spill, and so many kernels."""
    assert answer == 0, log
    assert "error" not in log
    spills = spilled(log)
    n_kernels = len(set(re.findall(r"Compiling entry function '(\w+)'", log)))
    assert n_kernels == n_expected, log[:2000]
    assert len(spills) >= n_kernels
    assert all(stores == loads == "0" for stores, loads in spills), log
