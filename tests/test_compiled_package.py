"""A package on our wheel: examples/compiled_package is built, called from threads, and refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from building import run

import fastnn

pytestmark = pytest.mark.packages

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "compiled_package"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
PARTS = ["--no-deps", "--no-build-isolation"]


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    """A folder with the installed wheel and nothing of the source tree."""
    folder = tmp_path_factory.mktemp("site")
    run(*PIP, "install", "--no-deps", "--no-index", "--target", str(folder / "all"), str(wheel), cwd=folder)
    return folder / "all"


def install(site, target, headers=None):
    """Build the example against the fastnn of a site; headers before those of the wheel if given."""
    source = target.parent / "source"
    shutil.copytree(
        EXAMPLE, source, ignore=shutil.ignore_patterns("*.c", "build", "*.egg-info", "__pycache__")
    )
    shutil.copy2(EXAMPLE / "fastnn_example" / "plain.c", source / "fastnn_example")
    flags = {} if headers is None else {"CFLAGS": f"-I{headers}"}
    run(
        *PIP,
        "install",
        *PARTS,
        "--target",
        str(target),
        str(source),
        cwd=source,
        PYTHONPATH=str(site),
        **flags,
    )


@pytest.fixture(scope="module")
def example(site, tmp_path_factory):
    """The example, installed in a folder of its own."""
    target = tmp_path_factory.mktemp("example") / "all"
    install(site, target)
    return target


def python(code, *folders):
    """What a program prints that imports from these folders alone."""
    path = os.pathsep.join(map(str, folders))
    return run(sys.executable, "-W", "error", "-c", code, cwd=folders[0], PYTHONPATH=path)


def test_the_example_computes_with_the_kernels_of_the_wheel(site, example):
    code = """
import fastnn as fn, fastnn_example, numpy as np
from fastnn import ops
print(fn.__file__, fn.get_include(), fastnn_example.__file__)
rng = np.random.default_rng(0)
x = rng.normal(size=(256, 20)).astype(np.float32)
y = x[:, :3].argmax(axis=1)
net = fastnn_example.Perceptron(20, 32, 3, batch=64)
first, last = net.fit(x, y), net.fit(x, y, 60, 1e-2)
assert last < 0.05 < 0.8 < first, (first, last)

model = fn.Sequential(fn.Dense(32, activation="relu"), fn.Dense(3)).build(20)
model.parameters = net.parameters
assert np.array_equal(net.predict(x), model.predict(x))

net, params = fastnn_example.Perceptron(20, 32, 3, batch=64), None
model.parameters = net.parameters
trainer = fn.Trainer(model, loss="cross_entropy", optimizer=fn.Adam(lr=1e-2), seed=0)
loss = [net.fit(x[:64], y[:64], 1, 1e-2) for _ in range(5)]
theirs = [trainer.partial_fit(x[:64], y[:64]) for _ in range(5)]
assert np.allclose(loss, theirs, rtol=1e-6), (loss, theirs)
assert np.allclose(net.parameters, model.parameters, rtol=1e-4, atol=1e-6)

z = rng.normal(size=(5, 7))
wanted = ops.softmax(z)
fastnn_example.softmax_rows(z)
assert np.array_equal(z, wanted)
"""
    module, headers, package = python(code, site, example).split()
    assert Path(module).is_relative_to(site)
    assert Path(headers) == site / "fastnn" / "include"
    assert Path(package).is_relative_to(example)


def test_four_threads_compute_without_the_gil(site, example):
    # While all four are in one call each, this thread goes on: with the GIL held it would not run once. On a
    # busy machine the first may be done before the last has begun: then all train for longer.
    code = """
import threading, numpy as np
from fastnn_example import Perceptron
x = np.random.default_rng(0).normal(size=(4096, 64)).astype(np.float32)
y = x[:, :10].argmax(axis=1)

def all_inside(epochs):
    nets = [Perceptron(64, 96, 10) for _ in range(4)]
    before = [net.parameters.copy() for net in nets]
    threads = [threading.Thread(target=net.fit, args=(x, y, epochs)) for net in nets]
    for thread in threads:
        thread.start()
    seen = False
    while not seen and all(thread.is_alive() for thread in threads):
        seen = all((net.parameters != b).any() for net, b in zip(nets, before))
        seen = seen and all(thread.is_alive() for thread in threads)
    for thread in threads:
        thread.join()
    return seen

print(any(all_inside(20 << doubled) for doubled in range(8)))
"""
    assert python(code, site, example) == "True\n"


@pytest.mark.skipif(sys.platform != "linux", reason="nobody counts the waits of a thread")
def test_four_threads_do_not_wait_for_each_other(site, example):
    # 20 000 calls of kernels in each thread, which gives its core back by itself only where something makes
    # it wait; a lock that they share would, a thousand times.
    code = """
import resource, threading
import numpy as np
from concurrent.futures import ThreadPoolExecutor
from fastnn_example import Perceptron
from fastnn_example.__main__ import HIDDEN, N_IN, N_OUT, data, trained
from fastnn_example.perceptron import limit_threads
(x, y), gate = data(), threading.Barrier(4)
def work(seed):
    limit_threads(1)
    net = Perceptron(N_IN, HIDDEN, N_OUT, seed=seed)
    gate.wait()
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    loss = net.fit(x, y, 40)
    return loss, net.parameters, resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before
with ThreadPoolExecutor(4) as executor:
    found = list(executor.map(work, range(4)))
for seed, (loss, parameters, _) in enumerate(found):
    alone = trained(seed, x, y, 40)
    assert alone[0] == loss and np.array_equal(alone[1], parameters)
waits = [waits for _, _, waits in found]
assert max(waits) < 200, waits
"""
    python(code, site, example)


def test_four_threads_that_want_the_pool_at_once_get_the_same_bits(site, example):
    code = """
from concurrent.futures import ThreadPoolExecutor
import fastnn as fn, fastnn_example, numpy as np
fn.set_num_threads(2)
x = np.random.default_rng(0).normal(size=(512, 256)).astype(np.float32)
net = fastnn_example.Perceptron(256, 256, 10)
wanted = net.predict(x)
with ThreadPoolExecutor(4) as executor:
    for found in executor.map(lambda i: net.predict(x), range(200)):
        assert np.array_equal(found, wanted)
assert fn.threads_started() == 1
"""
    python(code, site, example)


def of_version(site, folder, old, new):
    """The wheel's headers with another number in them."""
    headers = shutil.copytree(site / "fastnn" / "include", folder)
    text = (headers / "fastnn_c_api.h").read_text(encoding="utf-8")
    assert old in text
    (headers / "fastnn_c_api.h").write_text(text.replace(old, new), encoding="utf-8")
    return headers


def message(module, *folders):
    """The text of the ImportError of a module."""
    return python(
        f"try: import {module}\nexcept ImportError as e: print(type(e).__name__, e)", *folders
    ).strip()


def test_a_package_of_another_version_is_one_clear_import_error(site, tmp_path):
    headers = of_version(site, tmp_path / "headers", "FASTNN_API_VERSION 1\n", "FASTNN_API_VERSION 2\n")
    install(site, tmp_path / "all", headers)
    major, minor = fastnn.kernels.API_VERSION
    wanted = (
        f"ImportError this module was compiled for version 2.{minor} of fastnn's C interface, but the "
        f"fastnn that is installed ({fastnn.kernels.BUILD}) has version {major}.{minor}: compile the module "
        "again with this fastnn, or install the fastnn that it was compiled with"
    )
    assert message("fastnn_example", site, tmp_path / "all") == wanted
    (tmp_path / "all" / "fastnn_example" / "__init__.py").write_text("", encoding="utf-8")
    assert message("fastnn_example.plain", site, tmp_path / "all") == wanted


def compiled(headers, target):
    """plain.c as a module of its own."""
    target.mkdir()
    output = target / f"plain{sysconfig.get_config_var('EXT_SUFFIX')}"
    subprocess.run(
        [
            *(sysconfig.get_config_var("CC") or "cc").split(),
            *("-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers"),
            *(f"-I{headers}", f"-I{sysconfig.get_paths()['include']}"),
            *(str(EXAMPLE / "fastnn_example" / "plain.c"), "-o", str(output)),
        ],
        check=True,
    )
    return target


def test_a_newer_revision_is_asked_for_and_an_older_one_is_served(site, tmp_path):
    revision = fastnn.kernels.API_VERSION[1]
    old = f"FASTNN_API_REVISION {revision}\n"
    newer = of_version(site, tmp_path / "newer", old, f"FASTNN_API_REVISION {revision + 1}\n")
    assert f"version 1.{revision + 1} of" in message("plain", site, compiled(newer, tmp_path / "asks"))
    older = of_version(site, tmp_path / "older", old, f"FASTNN_API_REVISION {revision - 1}\n")
    assert message("plain", site, compiled(older, tmp_path / "served")) == ""


def test_a_fastnn_without_the_interface_is_an_import_error(site, tmp_path):
    (tmp_path / "old" / "fastnn").mkdir(parents=True)
    (tmp_path / "old" / "fastnn" / "__init__.py").write_text("from . import kernels\n", encoding="utf-8")
    (tmp_path / "old" / "fastnn" / "kernels.py").touch()
    target = compiled(site / "fastnn" / "include", tmp_path / "all")
    assert "has no C interface (fastnn.kernels._C_API)" in message("plain", tmp_path / "old", target)
    (tmp_path / "old" / "fastnn" / "__init__.py").write_text(
        "raise ImportError('broken')\n", encoding="utf-8"
    )
    assert message("plain", tmp_path / "old", target) == "ImportError broken"
