"""What the tests of packages have in common: a copy of the sources, commands that must succeed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

__all__ = ["ROOT", "copy_sources", "run"]

ROOT = Path(__file__).parents[1]


def run(*command: str, cwd: Path, **environment: str) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env={**os.environ, **environment}, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copy_sources(folder: Path) -> Path:
    """Copy the sources into an empty folder, with the objects that were compiled from them."""
    for name in ("csrc", "fastnn", "tests", "benchmarks", "examples", "docs", ".ci"):
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in (
        "setup.py",
        "pyproject.toml",
        "MANIFEST.in",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "Makefile",
    ):
        shutil.copy2(ROOT / name, folder)
    for built in ROOT.glob("build/fastnn-*"):
        shutil.copytree(built, folder / "build" / built.name)
    return folder
