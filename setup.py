"""Builds the C core, once per instruction set, and the extension modules.

Metadata stands in pyproject.toml; compiler flags have their home here. Settings for developers, read from
the environment: ``FASTNN_DEBUG=1`` (bounds checks, -O1 -g), ``FASTNN_SANITIZE=address,undefined`` or
``thread``. Every module is given the macro ``FASTNN_BUILD``, a string that names the sources it was compiled
from; the check at import compares it.
"""

import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_clib import build_clib
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
os.chdir(ROOT)  # every path below is relative to the sources, as setuptools wants them

LIMITED_API = "0x030B0000"  # CPython 3.11: the first with the buffer protocol in the limited API
WHEEL_TAG = "cp311"
# Compilations at a time: each holds up to 0.5 GB, so more only pays where there are cores for them.
JOBS = max(2, min(8, os.cpu_count() or 1))

DEBUG = os.environ.get("FASTNN_DEBUG", "0") not in ("", "0")
SANITIZE = os.environ.get("FASTNN_SANITIZE", "")
if not re.fullmatch(r"([a-z]+(,[a-z]+)*)?", SANITIZE):
    sys.exit(f"FASTNN_SANITIZE must be a list of sanitizers as in address,undefined, got {SANITIZE!r}")

if sys.platform == "darwin" and "ARCHFLAGS" not in os.environ:
    # A "universal" Python asks for both architectures in one compilation, which cannot take the flags of one.
    os.environ["ARCHFLAGS"] = f"-arch {platform.machine()}"
    parts = sysconfig.get_platform().split("-")
    os.environ.setdefault("_PYTHON_HOST_PLATFORM", "-".join([*parts[:2], platform.machine()]))

BUILD = Path("build", f"fastnn-{sysconfig.get_platform()}")


# ---------------------------------------------------------------- the machine that is compiled for


def compiler_target():
    """The architecture that the C compiler compiles for: ``x86_64``, ``aarch64`` or another name.

    The compiler is asked, since in a cross build the machine that runs this file is another one.
    """
    archflags = re.findall(r"-arch\s+(\S+)", os.environ.get("ARCHFLAGS", ""))
    if archflags:
        machine = archflags[0]
    else:
        command = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
        try:
            answer = subprocess.run([*command, "-dumpmachine"], capture_output=True, text=True, check=True)
            machine = answer.stdout.split("-")[0].strip()
        except (OSError, subprocess.CalledProcessError):
            # No compiler: metadata and sdist are still made; a build ends with the compiler's own message.
            machine = sysconfig.get_platform().split("-")[-1]
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine.lower(), machine.lower())


# ---------------------------------------------------------------- flags

# No -ffast-math: loading such a module changes rounding of subnormals in the whole process. Contraction is
# off because a compiler that chooses where to fuse also chooses the bits. -fno-lto: code compiled wide must
# stay behind its own table and not be merged into callers that run everywhere.
C_FLAGS = [
    "-std=gnu11",
    "-O3",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-lto",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-pthread",
]
EXTENSION_FLAGS = ["-O3", "-fvisibility=hidden", "-ffp-contract=off"]
LINK_FLAGS = ["-pthread"]
ISA_FLAGS = {
    "generic": [],
    "avx2": ["-march=x86-64-v3"],
    "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    "neon": [],
}
ISAS = {"x86_64": ["generic", "avx2", "avx512"], "aarch64": ["generic", "neon"]}

EXTRA_FLAGS = ["-g0"]  # the interpreter's own flags may ask for debug information, five times the code
if DEBUG or SANITIZE:
    EXTRA_FLAGS = ["-O1", "-g", "-UNDEBUG", "-fno-omit-frame-pointer"]
if SANITIZE:
    EXTRA_FLAGS += [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all"]
    LINK_FLAGS += [f"-fsanitize={SANITIZE}"]

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": DEBUG,
    # Two that mypy's stubtest needs to see the modules as their stubs describe them.
    "autotestdict": False,
    "auto_pickle": False,
}


# ---------------------------------------------------------------- what is compiled

HEADERS = sorted(str(path) for path in Path("csrc").glob("*.h"))
# What other packages compile with: theirs, and those that fastnn/kernels.pxd speaks of.
PUBLIC_HEADERS = ("fastnn_c_api.h", "fastnn.h", "fastnn_core.h")
CORE_SOURCES = ["csrc/dispatch.c", "csrc/threads.c"]
KERNEL_SOURCES = {isa: f"csrc/kernels_{isa}.c" for isa in ISA_FLAGS}


def load_build_check():
    """The package's own module of that name, without importing the package."""
    spec = importlib.util.spec_from_file_location("build_check", "fastnn/build_check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build_check = load_build_check()
VERSION = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
# What the modules are stamped with. It names all sources, so a change of any of them compiles both modules.
BUILD_NAME = build_check.build_name(VERSION, build_check.digest_of_sources("."))


def c_libraries():
    """One static library per instruction set, so that each has flags of its own, and one for the rest."""

    def library(name, sources, flags):
        return name, {
            "sources": sources,
            "include_dirs": ["csrc"],
            "cflags": [*C_FLAGS, *flags, *EXTRA_FLAGS],
            "obj_deps": {"": list(HEADERS)},
        }

    isas = ISAS.get(compiler_target(), ["generic"])
    return [library("fastnn_core", CORE_SOURCES, [])] + [
        library(f"fastnn_{isa}", [KERNEL_SOURCES[isa]], ISA_FLAGS[isa]) for isa in isas
    ]


def extension(name, **keywords):
    return Extension(
        f"fastnn.{name}",
        [f"fastnn/{name}.pyx"],
        include_dirs=["csrc", "fastnn"],
        define_macros=[("Py_LIMITED_API", LIMITED_API), ("FASTNN_BUILD", f'"{BUILD_NAME}"')],
        depends=[os.path.relpath(path) for path in build_check.sources(".")],
        extra_compile_args=[*EXTENSION_FLAGS, *EXTRA_FLAGS],
        extra_link_args=LINK_FLAGS,
        py_limited_api=True,
        **keywords,
    )


LIBRARIES = c_libraries()
# The core is linked into `kernels` alone: two modules that each hold it would start two worker pools.
CORE_EXTENSION = "fastnn.kernels"
EXTENSIONS = [extension(name, libraries=["m"]) for name in build_check.COMPILED]


# ---------------------------------------------------------------- commands


def flags_file():
    """A file that changes when compiler, flags or Cython change: what was built with others is built anew."""
    from Cython import __version__ as cython_version

    names = ("CC", "CFLAGS", "CPPFLAGS", "LDFLAGS", "ARCHFLAGS")
    variables = [f"{name}={os.environ.get(name, '')}" for name in names]
    flags = [
        VERSION,
        C_FLAGS,
        EXTENSION_FLAGS,
        LINK_FLAGS,
        ISA_FLAGS,
        EXTRA_FLAGS,
        DIRECTIVES,
        cython_version,
    ]
    text = "\n".join([compiler_target(), *variables, *map(str, flags)])
    path = BUILD / "flags.txt"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        shutil.rmtree(BUILD / "cython", ignore_errors=True)  # directives may have changed
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return str(path)


class BuildLibraries(build_clib):
    """Libraries are compiled side by side, into a folder that all kinds of builds share."""

    def finalize_options(self):
        super().finalize_options()
        self.build_temp = self.build_clib = str(BUILD)

    def build_libraries(self, libraries):
        flags = flags_file()
        for _, options in libraries:
            options["obj_deps"][""].append(flags)
        # The kernels take longest, so they start first.
        build_one = super().build_libraries
        with ThreadPoolExecutor(JOBS) as executor:
            for done in [executor.submit(build_one, [library]) for library in reversed(libraries)]:
                done.result()


class BuildExtensions(build_ext):
    """Cython first, then the modules side by side; only `kernels` is linked with the core."""

    def finalize_options(self):
        super().finalize_options()
        self.build_temp = str(BUILD)
        if self.inplace:
            self.build_lib = str(BUILD / "lib")  # else each `pip install -e .` compiles anew
        self.parallel = self.parallel or JOBS

    def run(self):
        if self.distribution.has_c_libraries():
            self.run_command("build_clib")  # `build_ext --inplace` alone would not
        super().run()

    def build_extensions(self):
        from Cython.Build import cythonize
        from Cython.Compiler import Options

        Options.warning_errors = True
        flags = flags_file()
        self.compiler.set_libraries([])
        modules = cythonize(
            # Without `depends`, which cythonize would copy into its folder.
            [Extension(ext.name, ext.sources, include_dirs=ext.include_dirs) for ext in self.extensions],
            build_dir=str(BUILD / "cython"),
            compiler_directives=DIRECTIVES,
        )
        translated = {module.name: module.sources for module in modules}
        for ext in self.extensions:
            ext.sources = translated[ext.name]
            ext.depends.append(flags)
            if ext.name == CORE_EXTENSION:
                ext.libraries = [name for name, _ in LIBRARIES] + ext.libraries
        super().build_extensions()


class BuildPython(build_py):
    """Adds the headers, and the list of the package's files, which the check at import reads."""

    def run(self):
        super().run()
        if self.editable_mode:
            return  # the package is used where it lies, beside the sources
        package = Path(self.build_lib, "fastnn")
        for path in self.headers():
            self.mkpath(str(path.parent))
            self.copy_file(str(Path("csrc", path.name)), str(path))
        compiled = [Path(path) for path in self.get_finalized_command("build_ext").get_outputs()]
        written = {Path(path) for path in super().get_outputs(include_bytecode=False)}
        ours = {path for path in [*written, *compiled, *self.headers()] if path.is_relative_to(package)} | {
            package / "build.txt"
        }
        for path in sorted(package.rglob("*")):
            if path.is_file() and path not in ours:
                path.unlink()  # of an earlier build: a module since deleted must not travel in the wheel
        names = sorted(path.relative_to(package).as_posix() for path in ours)
        (package / "build.txt").write_text("\n".join([BUILD_NAME, *names, ""]), encoding="utf-8")

    def get_outputs(self, include_bytecode=True):
        outputs = super().get_outputs(include_bytecode)
        if not self.editable_mode:
            outputs += [str(Path(self.build_lib, "fastnn", "build.txt")), *map(str, self.headers())]
        return outputs

    def headers(self):
        """Paths of the headers for other compiled packages, in the folder of fastnn.get_include()."""
        return [Path(self.build_lib, "fastnn", build_check.INCLUDE, name) for name in PUBLIC_HEADERS]


if __name__ == "__main__":  # the checks import this file for its flags
    setup(
        libraries=LIBRARIES,
        ext_modules=EXTENSIONS,
        cmdclass={"build_clib": BuildLibraries, "build_ext": BuildExtensions, "build_py": BuildPython},
        options={"bdist_wheel": {"py_limited_api": WHEEL_TAG}},
    )
