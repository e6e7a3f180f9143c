"""The check at import: every broken installation is one clear sentence that says what to run."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fastnn
from fastnn import build_check, kernels

PACKAGE = Path(fastnn.__file__).parent
ROOT = PACKAGE.parent
SUFFIX = ".abi3.so"


def import_error(folder):
    """The message of ``import fastnn`` with `folder` on the path; None if it worked."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\ntry: import fastnn\nexcept ImportError as e: print(e)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True, cwd=folder
    )
    return done.stdout.strip() or None


@pytest.fixture
def installed(tmp_path):
    """A copy of the package as a wheel installs it."""
    package = tmp_path / "fastnn"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__", "*.pyx", "*.c"))
    write_manifest(package, kernels.BUILD)
    return package


@pytest.fixture
def source_tree(tmp_path):
    """A copy of the sources with modules built in place."""
    if not (ROOT / "csrc").exists():
        pytest.fail("these tests run in a source tree")
    shutil.copytree(PACKAGE, tmp_path / "fastnn", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    shutil.copy2(ROOT / "setup.py", tmp_path)
    return tmp_path / "fastnn"


def write_manifest(package, build):
    manifest = package / build_check.MANIFEST
    manifest.touch()
    names = [path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()]
    manifest.write_text("\n".join([build, *sorted(names), ""]), encoding="utf-8")


def says(message, *parts):
    """One sentence on one line with all parts."""
    assert message is not None
    assert "\n" not in message
    for part in parts:
        assert part in message
    return True


def test_an_installed_package_is_imported(installed):
    assert import_error(installed.parent) is None


def test_a_built_source_tree_is_imported(source_tree):
    assert import_error(source_tree.parent) is None


def test_an_unbuilt_source_tree_says_what_builds_it(source_tree):
    for path in source_tree.glob("*.so"):
        path.unlink()
    says(import_error(source_tree.parent), "not built", "python -m pip install -e .", str(source_tree.parent))


@pytest.mark.parametrize("module", build_check.COMPILED)
def test_a_missing_module_of_a_source_tree_is_named(source_tree, module):
    (source_tree / f"{module}{SUFFIX}").unlink()
    says(import_error(source_tree.parent), f"no compiled module {module}", "pip install -e .")


@pytest.mark.parametrize("lost", ["program.abi3.so", "trainer.py", "devices/cpu.py", "build.txt"])
def test_an_incomplete_installation_names_what_is_missing(installed, lost):
    (installed / lost).unlink()
    says(import_error(installed.parent), "incomplete", lost, "--force-reinstall", "fastnn-core")


def test_type_stubs_and_declarations_may_be_missing(installed):
    for path in [*installed.glob("*.pyi"), *installed.glob("*.pxd"), installed / "py.typed"]:
        path.unlink()
    assert import_error(installed.parent) is None


def test_a_manifest_that_is_no_text_is_a_damaged_installation(installed):
    (installed / build_check.MANIFEST).write_bytes(b"0.1.0\xff\xfe\n")
    says(import_error(installed.parent), "damaged", "build.txt", "reinstall the distribution fastnn-core")


def test_the_advice_does_not_ask_an_index_for_the_distribution(installed):
    (installed / "trainer.py").unlink()
    says(import_error(installed.parent), "--no-deps PATH_OF_ITS_WHEEL_OR_CLONE)")


@pytest.mark.parametrize(
    "source", ["csrc/fastnn.h", "csrc/threads.c", "fastnn/program.pyx", "fastnn/kernels.pxd"]
)
def test_a_source_changed_after_the_build_is_stale(source_tree, source):
    path = source_tree.parent / source
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    os.utime(path, (time.time() + 5,) * 2)
    says(import_error(source_tree.parent), "older than their sources", "pip install -e .")


def test_a_source_touched_but_not_changed_is_not_stale(source_tree):
    os.utime(source_tree.parent / "csrc" / "fastnn.h", (time.time() + 5,) * 2)
    assert import_error(source_tree.parent) is None


def test_a_manifest_of_another_version_is_a_mixed_installation(installed):
    write_manifest(installed, "0.0.9+00000000")
    says(
        import_error(installed.parent),
        "mixed from two versions",
        kernels.BUILD,
        "0.0.9+00000000",
        "--force-reinstall",
    )


def test_compiled_modules_of_two_builds_are_a_mixed_installation(installed):
    # A module whose stamp differs in one digit, as a half-finished upgrade leaves it.
    path = installed / f"program{SUFFIX}"
    digit = kernels.BUILD[-1]
    other = kernels.BUILD[:-1] + ("0" if digit != "0" else "1")
    content = path.read_bytes()
    assert content.count(kernels.BUILD.encode()) == 1
    path.write_bytes(content.replace(kernels.BUILD.encode(), other.encode()))
    says(import_error(installed.parent), "mixed from two versions", "program", other)


@pytest.mark.parametrize(
    "foreign", ["numpy.py", "conv.py", "fast.abi3.so", "devices/tpu.py", "nn/__init__.py"]
)
def test_foreign_files_in_an_installed_package_are_named(installed, foreign):
    path = installed / foreign
    path.parent.mkdir(exist_ok=True)
    path.touch()
    named = "nn/" if foreign.startswith("nn/") else foreign
    says(import_error(installed.parent), "not fastnn's", named, "fastnn-core", "remove")


@pytest.mark.parametrize("foreign", ["numpy.py", "random.py", "fast.abi3.so", "numpy/__init__.py"])
def test_foreign_files_in_a_source_tree_are_named(source_tree, foreign):
    path = source_tree / foreign
    path.parent.mkdir(exist_ok=True)
    path.touch()
    says(import_error(source_tree.parent), "not fastnn's", foreign.split("/")[0])


def test_a_new_module_of_a_developer_is_not_foreign(source_tree):
    (source_tree / "pruning.py").touch()
    assert import_error(source_tree.parent) is None


def test_files_that_python_does_not_import_are_not_foreign(installed):
    for name in ("notes.txt", ".DS_Store", "empty", "__pycache__"):
        path = installed / name
        if "." in name:
            path.touch()
        else:
            path.mkdir(exist_ok=True)
    assert import_error(installed.parent) is None


def test_a_module_for_another_python_is_named_with_this_python(installed):
    (installed / f"kernels{SUFFIX}").rename(installed / "kernels.cpython-39-x86_64-linux-gnu.so")
    write_manifest(installed, kernels.BUILD)
    says(import_error(installed.parent), "another Python or platform", "kernels.cpython-39", "cpython 3.")


def test_a_second_module_that_would_win_is_named(installed):
    # CPython looks for its own suffix before .abi3.so: a leftover of another build would be loaded.
    from importlib.machinery import EXTENSION_SUFFIXES

    other = f"kernels{EXTENSION_SUFFIXES[0]}"
    shutil.copy2(installed / f"kernels{SUFFIX}", installed / other)
    says(import_error(installed.parent), "2 times", other)


def test_a_module_that_cannot_be_loaded_says_why(installed):
    (installed / f"kernels{SUFFIX}").write_bytes(b"\x7fELF of another machine")
    says(import_error(installed.parent), "cannot be loaded", "kernels.abi3.so", "--force-reinstall")


def test_the_check_is_a_few_hundred_calls_and_reads_no_source(source_tree):
    """Two milliseconds, where a reading of all sources would take thirty."""
    for path in source_tree.glob("*.so"):
        os.utime(path, (time.time() + 5,) * 2)  # newer than all sources, as a build leaves them
    counted = []
    sys.setprofile(lambda frame, event, what: counted.append((event, what)))
    try:
        build_check.check(str(source_tree))
    finally:
        sys.setprofile(None)
    calls = [what for event, what in counted if event in ("call", "c_call")]
    assert calls.count(open) == 1  # of the manifest that an installation has
    assert len(calls) < 3000


def test_the_check_imports_neither_metadata_nor_hashes():
    code = "import sys; sys.path.insert(0, sys.argv[1]); import build_check; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(PACKAGE)], capture_output=True, text=True, check=True
    )
    assert not {"importlib.metadata", "hashlib", "numpy"} & set(done.stdout.split())


def test_stamps_of_all_modules_are_equal():
    import importlib

    stamps = {importlib.import_module(f"fastnn.{name}").BUILD for name in build_check.COMPILED}
    assert len(stamps) == 1
