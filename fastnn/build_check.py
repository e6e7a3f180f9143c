"""The check at import: compiled modules and Python files belong together, and nothing foreign lies between.

Standard library only and no import of the package: setup.py loads this file too, to stamp what it compiles.
The cost is one folder listing; in an installed package one small file more, in a source tree the times of the
sources.
"""

from __future__ import annotations

import importlib
import os
import sys
import zlib
from importlib.machinery import EXTENSION_SUFFIXES

COMPILED = ("kernels", "inference", "phases", "prediction", "program")
# Written at installation: the build's name, then the package's files, one a line.
MANIFEST = "build.txt"
# The folder of an installed package that holds the headers for other compiled packages.
INCLUDE = "include"
_PACKAGE = os.path.dirname(os.path.abspath(__file__))
_COMPILED_ENDINGS = (".so", ".pyd", ".dylib")


def build_name(version: str, digest: int) -> str:
    """What compiled modules and manifest are stamped with, as ``0.1.0+89abcdef``."""
    return f"{version}+{digest:08x}"


def sources(root: str) -> list[str]:
    """Paths of all files that compiled modules are made from, in a fixed order."""
    paths = [os.path.join(root, "setup.py")]
    for folder, endings in (("csrc", (".c", ".h")), ("fastnn", (".pyx", ".pxd", ".pxi", ".h"))):
        names = sorted(name for name in os.listdir(os.path.join(root, folder)) if name.endswith(endings))
        paths += [os.path.join(root, folder, name) for name in names]
    return paths


def digest_of_sources(root: str) -> int:
    """Checksum of names and contents of the compiled sources below `root`."""
    digest = 0
    for path in sources(root):
        digest = zlib.crc32(os.path.basename(path).encode(), digest)
        with open(path, "rb") as file:
            digest = zlib.crc32(file.read(), digest)
    return digest


def version() -> str:
    """The version that the compiled modules carry, without the digest of their sources."""
    name: str = importlib.import_module("fastnn.kernels").BUILD
    return name.split("+")[0]


def include_folder(package: str = _PACKAGE) -> str:
    """The folder of fastnn_c_api.h: of an installed package its own, in a source tree csrc.

    Raises
    ------
    FileNotFoundError
        The installation has been stripped of its headers.
    """
    folders = [os.path.join(package, INCLUDE), os.path.join(os.path.dirname(package), "csrc")]
    for folder in folders:
        if os.path.exists(os.path.join(folder, "fastnn_c_api.h")):
            return folder
    raise FileNotFoundError(f"the fastnn in {package} has no headers ({INCLUDE}/ is missing): {_reinstall()}")


def check(package: str = _PACKAGE) -> None:
    """Import the compiled modules of the package folder, or say in one sentence why that cannot be.

    Raises
    ------
    ImportError
        A compiled module is missing, was compiled for another Python, platform or version of the sources,
        or the folder holds files that are not fastnn's.
    """
    names = _names(package)
    manifest = _read_manifest(package)
    root = os.path.dirname(package)
    in_source_tree = manifest is None and os.path.exists(os.path.join(root, "csrc", "fastnn.h"))
    if manifest is None and not in_source_tree:
        raise ImportError(f"the fastnn in {package} is incomplete ({MANIFEST} is missing): {_reinstall()}")
    repair = _rebuild(root) if in_source_tree else _reinstall()

    foreign = _foreign_here(package, names) if manifest is None else _foreign(package, names, manifest[1])
    if foreign:
        raise ImportError(
            f"{package} holds files that are not fastnn's ({', '.join(foreign)}; the distribution of this "
            f"library is fastnn-core): remove them, or uninstall what brought them and {repair}"
        )
    if manifest is not None:
        # Python does without the rest: type stubs and declarations may be stripped from an installation.
        needed = [name for name in manifest[1] if _importable(name)]
        lost = sorted(name for name in needed if not os.path.exists(os.path.join(package, name)))
        if lost:
            raise ImportError(f"the fastnn in {package} is incomplete ({', '.join(lost)} missing): {repair}")

    files = {module: _compiled_file(package, names, module, repair) for module in COMPILED}
    builds = {module: _load(module, path, repair) for module, path in files.items()}
    expected = builds[COMPILED[0]] if manifest is None else manifest[0]
    for module, build in builds.items():
        if build != expected:
            raise ImportError(
                f"the fastnn in {package} is mixed from two versions ({module} is of {build}, the rest of "
                f"{expected}): {repair}"
            )
    if in_source_tree and _is_stale(root, list(files.values()), expected):
        raise ImportError(
            f"the compiled modules of fastnn in {package} are older than their sources: {repair}"
        )


# ---------------------------------------------------------------- the folder


def _names(package: str) -> list[str]:
    """Names in the package folder that Python's import could take for something."""
    return [name for name in os.listdir(package) if not name.startswith((".", "__pycache__"))]


def _read_manifest(package: str) -> tuple[str, frozenset[str]] | None:
    try:
        with open(os.path.join(package, MANIFEST), encoding="utf-8") as file:
            build, *files = file.read().split("\n")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise ImportError(
            f"the fastnn in {package} is damaged ({MANIFEST} is not the text that the installation wrote): "
            f"{_reinstall()}"
        ) from None
    return build, frozenset(name for name in files if name)


def _importable(name: str) -> bool:
    return name.endswith((".py", *_COMPILED_ENDINGS))


def _foreign(package: str, names: list[str], ours: frozenset[str]) -> list[str]:
    """Modules and packages in an installed folder that its manifest does not name."""
    folders = {name.split("/")[0] for name in ours if "/" in name}
    foreign = []
    for name in names:
        if name in folders:
            foreign += [
                f"{name}/{inner}"
                for inner in os.listdir(os.path.join(package, name))
                if _importable(inner) and f"{name}/{inner}" not in ours
            ]
        elif _importable(name):
            # Another build of our own modules is judged, with a better sentence, in _compiled_file.
            if name not in ours and name.split(".")[0] not in COMPILED:
                foreign.append(name)
        elif name not in ours and os.path.isdir(path := os.path.join(package, name)):
            foreign += [f"{name}/"] * any(_importable(inner) for inner in os.listdir(path))
    return sorted(foreign)


def _foreign_here(package: str, names: list[str]) -> list[str]:
    """Modules in the package folder of a source tree that cannot be ours.

    There a developer adds modules at will; what never is ours is a compiled module of another name, or one
    that hides NumPy or the standard library from scripts started in the folder.
    """
    hidden = sys.stdlib_module_names | {"numpy"}
    foreign = []
    for name in names:
        stem = name.split(".")[0]
        is_compiled = name.endswith(_COMPILED_ENDINGS)
        if (is_compiled and stem not in COMPILED) or (
            stem in hidden and (is_compiled or name in (stem, f"{stem}.py"))
        ):
            foreign.append(name)
    return sorted(foreign)


# ---------------------------------------------------------------- the compiled modules


def _compiled_file(package: str, names: list[str], module: str, repair: str) -> str:
    """Path of the one file that `import` takes for a compiled module."""
    found = [name for name in names if name.split(".")[0] == module and name.endswith(_COMPILED_ENDINGS)]
    usable = [name for name in found if name[len(module) :] in EXTENSION_SUFFIXES]
    if not found:
        raise ImportError(f"fastnn is not built in {package} (no compiled module {module}): {repair}")
    if not usable:
        raise ImportError(
            f"the compiled module {found[0]} in {package} is for another Python or platform than "
            f"{_this_python()}: {repair}"
        )
    if len(usable) > 1:
        raise ImportError(
            f"{package} holds the compiled module {module} {len(usable)} times "
            f"({', '.join(sorted(usable))}): remove these files, then {repair}"
        )
    return os.path.join(package, usable[0])


def _load(module: str, path: str, repair: str) -> str:
    """Import a compiled module and return the name of its build."""
    try:
        loaded = importlib.import_module(f"fastnn.{module}")
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("fastnn"):
            raise  # a library that is missing says so itself
        raise ImportError(f"the compiled module {path} cannot be loaded ({error}): {repair}") from error
    build = getattr(loaded, "BUILD", None)
    return build if isinstance(build, str) else "an unknown version"


def _is_stale(root: str, files: list[str], build: str) -> bool:
    """Whether sources differ from those that the modules were compiled from.

    Contents are read only where times give cause: a checkout touches files without changing them.
    """
    built = min(os.stat(path).st_mtime_ns for path in files)
    if all(os.stat(path).st_mtime_ns <= built for path in sources(root)):
        return False
    return not build.endswith(build_name("", digest_of_sources(root)))


# ---------------------------------------------------------------- what to run


def _this_python() -> str:
    major, minor = sys.version_info[:2]
    return f"{sys.implementation.name} {major}.{minor} on {sys.platform}"


def _rebuild(root: str) -> str:
    command = "python -m pip install -e ."
    return f'run "{command}" in {root}, or start Python in another folder to use an installed fastnn'


def _reinstall() -> str:
    command = "python -m pip install --force-reinstall --no-deps PATH_OF_ITS_WHEEL_OR_CLONE"
    return f"reinstall the distribution fastnn-core ({command})"


def is_command() -> bool:
    """Whether this import is that of the command line: ``python -m fastnn`` or the script `fastnn`."""
    started: str = (getattr(sys, "argv", None) or [""])[0]
    if started == "-m":  # what runpy leaves there while it imports the package
        return ("-m", "fastnn") in zip(sys.orig_argv, sys.orig_argv[1:], strict=False)
    name: str = os.path.splitext(os.path.basename(started))[0]
    return name == "fastnn"
