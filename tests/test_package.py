"""What users get: sdist, wheel and an installed package that runs away from its sources."""

import os
import re
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from building import run

import fastnn

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def sdist(tree):
    run(sys.executable, "setup.py", "-q", "sdist", cwd=tree)
    (archive,) = (tree / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as file:
        return archive.name, {name.split("/", 1)[1] for name in file.getnames() if "/" in name}


def test_the_sdist_holds_all_sources_and_nothing_generated(sdist):
    name, files = sdist
    assert name == f"fastnn_core-{PROJECT['version']}.tar.gz"
    tracked = [
        *ROOT.glob("csrc/*.[ch]"),
        *ROOT.glob("tests/*.py"),
        *ROOT.glob("tests/c/*.c"),
        *ROOT.glob("benchmarks/*.py"),
        *ROOT.glob("benchmarks/results/*.md"),
        *ROOT.glob("benchmarks/results/*.json"),
        *ROOT.glob("docs/*.png"),
        *[path for end in ("py", "pyx", "c", "md", "toml") for path in (ROOT / "examples").rglob(f"*.{end}")],
        *[path for path in (ROOT / "tests" / "golden").rglob("*") if path.is_file()],
        *[path for path in (ROOT / ".ci").iterdir() if path.is_file()],
    ]
    tracked += [
        path for end in ("py", "pyx", "pxd", "pyi", "cu") for path in (ROOT / "fastnn").rglob(f"*.{end}")
    ]
    wanted = {path.relative_to(ROOT).as_posix() for path in tracked}
    wanted |= {
        "setup.py",
        "pyproject.toml",
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "Makefile",
        "fastnn/py.typed",
    }
    assert wanted <= files
    assert not [
        path for path in files if path.endswith((".so", ".o", ".a", ".pyc")) or path.startswith("build/")
    ]


@pytest.mark.packages
def test_one_limited_api_wheel_with_stubs_and_declarations(wheel):
    assert wheel.name.startswith(f"fastnn_core-{PROJECT['version']}-cp311-abi3-")
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if name.startswith("fastnn/")}
        manifest = file.read("fastnn/build.txt").decode().split("\n")
    endings = ("py", "pxd", "pyi", "cu")
    wanted = {
        path.relative_to(ROOT).as_posix() for end in endings for path in (ROOT / "fastnn").rglob(f"*.{end}")
    }
    wanted |= {f"fastnn/{name}.abi3.so" for name in fastnn.build_check.COMPILED} | {
        "fastnn/py.typed",
        "fastnn/build.txt",
        "fastnn/include/fastnn.h",
        "fastnn/include/fastnn_core.h",
        "fastnn/include/fastnn_c_api.h",
    }
    assert names == wanted
    assert {f"fastnn/{name}" for name in manifest[1:] if name} == names
    assert manifest[0] == fastnn.kernels.BUILD


@pytest.mark.packages
@pytest.mark.skipif(
    bool({"FASTNN_DEBUG", "FASTNN_SANITIZE"} & set(os.environ)),
    reason="a build for developers keeps its symbols",
)
def test_the_wheel_is_small(wheel):
    # 2.9 MB on x86-64, 7.0 MB unpacked. Debug information alone would make five times as much of it.
    with zipfile.ZipFile(wheel) as file:
        unpacked = {info.filename: info.file_size for info in file.infolist()}
        assert all(b".debug_info" not in file.read(name) for name in unpacked if name.endswith(".so"))
    assert wheel.stat().st_size <= 3_000_000
    assert sum(unpacked.values()) <= 8_000_000


@pytest.mark.packages
def test_the_core_is_linked_into_one_module(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path)
    symbols = {
        name: run("nm", "--defined-only", str(tmp_path / "fastnn" / f"{name}.abi3.so"), cwd=tmp_path)
        for name in fastnn.build_check.COMPILED
    }
    assert {name for name, text in symbols.items() if re.search(r" fastnn_\w+$", text, re.MULTILINE)} == {
        "kernels"
    }
    exported = run("nm", "-D", "--defined-only", str(tmp_path / "fastnn" / "kernels.abi3.so"), cwd=tmp_path)
    # Beside Python's entry, what threadpoolctl looks for.
    assert {line.split()[-1] for line in exported.splitlines()} == {
        "PyInit_kernels",
        "fastnn_get_num_threads",
        "fastnn_set_num_threads",
    }


@pytest.mark.packages
def test_an_installed_wheel_trains_away_from_its_sources(wheel, tmp_path):
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    run(*pip, "--target", str(target), str(wheel), cwd=tmp_path)
    code = (
        "import fastnn as fn, numpy as np\n"
        "model = fn.Sequential(fn.Dense(8, activation='relu'), fn.Dense(1))\n"
        "x = np.random.default_rng(0).standard_normal((64, 3))\n"
        "trainer = fn.Trainer(model, loss='mse', optimizer=fn.Adam(lr=0.01), seed=0)\n"
        "history = trainer.fit(x, x.sum(axis=1), epochs=50, progress=False)\n"
        "assert history['loss'][-1] < history['loss'][0] / 10\n"
        "print(fn.__version__, fn.__file__)\n"
    )
    version, path = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(target)).split()
    assert version == PROJECT["version"]
    assert Path(path).is_relative_to(target)


def test_the_version_stands_once():
    assert fastnn.__version__ == PROJECT["version"]
    assert fastnn.kernels.BUILD.startswith(f"{PROJECT['version']}+")


def test_import_starts_no_thread_and_loads_no_heavy_module():
    code = (
        "import sys, threading, os, fastnn\n"
        "print(len(os.listdir('/proc/self/task')) if os.path.exists('/proc/self/task') else 1)\n"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    # OpenBLAS starts its own threads when NumPy is loaded.
    threads, modules = run(sys.executable, "-c", code, cwd=ROOT, OPENBLAS_NUM_THREADS="1").splitlines()
    assert threads == "1"
    assert not {"sklearn", "scipy", "torch", "cupy", "matplotlib", "threadpoolctl"} & set(modules.split())
    assert fastnn.__name__ in modules.split()


def test_no_text_tells_to_install_the_other_distribution():
    # `fastnn` on the index is an unrelated project.
    texts = [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("fastnn/**/*.py"),
        *ROOT.glob("examples/*.py"),
    ]
    for path in texts:
        assert not re.search(r"pip install (-\S+ )*fastnn(?!-core)\b", path.read_text(encoding="utf-8")), path
