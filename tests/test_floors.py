"""The order of the house: a module imports only from floors below its own."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastnn

PACKAGE = Path(fastnn.__file__).parent

# From the ground up. Modules of one floor do not import each other.
FLOORS = [
    {"build_check", "cores", "demo_data", "exceptions", "foreign", "late_dataclass", "waiting"},
    {"errors"},
    {"c_api", "kernels", "replacing", "targets"},
    {"inference", "thread_control"},
    {"phases", "prediction"},
    {"program"},
    {"container", "initializers", "portable_math"},
    {"steps"},
    {
        "layers",
        "losses",
        "losses.base",
        "losses.of_classes",
        "losses.of_values",
        "losses.own",
        "optimizers",
        "metrics",
    },
    {"schedules"},
    {"input_layers", "noise_layers", "norm_layers"},
    {"descriptions", "devices", "folding"},
    {"ops", "saving"},
    {"data"},
    {"samples"},
    {"network", "stepping", "validation"},
    {"augment", "samplers"},
    {"streaming"},
    {"callbacks", "ensemble", "history"},
    {"averages", "checkpoints", "engine", "loading", "named_weights", "reports"},
    {"model_checkpoint"},
    {"epochs"},
    {"trainer", "distributed"},
    {"diagnose", "lr_finder", "workers"},
    {"many"},
    {"searching"},
    {"plots"},
    {"demo", "sklearn", "onnx", "torch", "thinc", "c_source"},
    {"bench"},
    {"cli"},
    {"__init__"},
    {"__main__"},
]
FLOOR = {module: i for i, floor in enumerate(FLOORS) for module in floor}

# Who stands above the whole package and may import it as its users do.
USERS = {"bench", "demo", "sklearn", "onnx", "torch", "thinc", "c_source", "cli", "__main__"}

SOURCES = sorted(p for p in PACKAGE.rglob("*") if p.suffix in (".py", ".pyx", ".pxd"))


def module_of(path: Path) -> str:
    """First name below the package: the floor a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].split(".")[0]


def imported_from_python(path: Path) -> set[str]:
    """Names of our own top modules that a Python file imports anywhere, "" for the package itself."""
    inside = path.relative_to(PACKAGE).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            absolute = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = ["fastnn", *inside][: len(inside) + 2 - node.level]
                stem = ".".join([*base, *([node.module] if node.module else [])])
            else:
                stem = node.module or ""
            # "from . import x" may mean a module x, or a name of the package
            absolute = [f"{stem}.{alias.name}" for alias in node.names] if stem == "fastnn" else [stem]
        else:
            continue
        for name in absolute:
            parts = name.split(".")
            if parts[0] == "fastnn":
                found.add(parts[1] if len(parts) > 1 and parts[1] in FLOOR else "")
    return found


def imported_from_cython(path: Path) -> set[str]:
    """The same for a Cython file, by its lines."""
    pattern = r"^\s*(?:from|import|cimport)\s+(?:fastnn)?\.(\w+)"
    return set(re.findall(pattern, path.read_text(encoding="utf-8"), re.MULTILINE))


def imports(path: Path) -> set[str]:
    return imported_from_cython(path) if path.suffix in (".pyx", ".pxd") else imported_from_python(path)


def test_every_module_has_a_floor() -> None:
    assert {module_of(p) for p in SOURCES} - set(FLOOR) == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_from_floors_below(path: Path) -> None:
    me = module_of(path)
    for other in imports(path):
        if other == "":
            assert me in USERS, f"{me} imports the package as a whole"
        elif other != me:
            assert FLOOR[other] < FLOOR[me], f"{me} imports {other}"


def test_the_reader_of_imports_sees_cython() -> None:
    program = PACKAGE / "program.pyx"
    if program.exists():  # an installed package may come without its sources
        assert {"errors", "inference", "kernels", "phases", "prediction"} <= imports(program)
    assert {"errors", "devices", "network"} <= imports(PACKAGE / "trainer.py")


# What `import fastnn` loads of the package and of the standard library beyond what NumPy has loaded. Each
# name costs 0.1 to 5 ms of every process: a longer list is a decision, not an accident.
EAGER = {
    "fastnn", "build_check", "callbacks", "cores", "devices", "devices.array_activations",
    "devices.array_context", "devices.array_norms", "folding", "input_layers", "noise_layers", "norm_layers",
    "devices.array_layers", "devices.array_losses", "devices.array_optimizers", "devices.array_random",
    "devices.arrays", "devices.cpu", "engine", "epochs", "errors", "exceptions", "history", "inference",
    "initializers", "kernels", "late_dataclass", "layers",
    "losses", "losses.base", "losses.of_classes", "losses.of_values", "losses.own",
    "network", "ops", "ops.activations", "ops.kinds", "ops.losses", "ops.noise", "ops.norms",
    "ops.products", "ops.shapes", "ops.updates",
    "optimizers", "optimizers.adam", "optimizers.base", "optimizers.lbfgs", "optimizers.plain",
    "phases", "prediction", "program",
    "reports", "samples", "stepping", "steps", "targets", "thread_control", "trainer",
    "validation",
}  # fmt: skip
EAGER_STANDARD = {"__future__", "copy", "dataclasses", "threading", "zlib"}


def test_import_pulls_in_numpy_and_nothing_else() -> None:
    code = """
import sys, numpy, numpy.typing
before = set(sys.modules)
import fastnn
print(*(set(sys.modules) - before))
print(fastnn.show_config("dict")["threads_started"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules, threads = done.stdout.splitlines()
    new = {
        m.removeprefix("fastnn.") for m in modules.split() if not m.startswith(("_cython", "cython_runtime"))
    }
    # Which of these NumPy has loaded itself depends on its version and Python's.
    assert new - EAGER <= EAGER_STANDARD
    assert new >= EAGER
    assert threads == "0"


def test_names_that_load_later_are_there_from_the_beginning() -> None:
    code = """
import sys, fastnn as fn
assert {"metrics", "data", "Sequential"} <= set(dir(fn)) and "fastnn.metrics" not in sys.modules
fn.Trainer(fn.Sequential(fn.Dense(1)), loss="mse", optimizer="sgd")
assert "fastnn.metrics" not in sys.modules
fn.Trainer(fn.Sequential(fn.Dense(1)), loss="mse", optimizer="sgd", metrics=["r2"])
assert "fastnn.metrics" in sys.modules
from fastnn import metrics, data
assert metrics is fn.metrics and data is fn.data
from fastnn import *
print(show_config("dict")["version"])
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


PYTHON = [p for p in SOURCES if p.suffix == ".py" and p.name != "thinc.py"]


@pytest.mark.parametrize("path", [p for p in PYTHON if p.parent.name != "torch"], ids=lambda p: p.stem)
def test_examples_in_docstrings_hold(path: Path) -> None:
    _run_examples(path)


@pytest.mark.torch
@pytest.mark.parametrize("path", [p for p in PYTHON if p.parent.name == "torch"], ids=lambda p: p.stem)
def test_examples_in_docstrings_hold_with_pytorch(path: Path) -> None:
    _run_examples(path)


@pytest.mark.thinc
def test_examples_in_docstrings_hold_with_thinc() -> None:
    _run_examples(PACKAGE / "thinc.py")


def _run_examples(path: Path) -> None:
    if ">>> " not in path.read_text(encoding="utf-8"):
        return
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    name = ".".join(["fastnn", *(part for part in parts if part != "__init__")])
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


def test_all_public_names_exist() -> None:
    for module in (fastnn, fastnn.ops, fastnn.errors):
        for name in getattr(module, "__all__", []):
            assert hasattr(module, name), name
