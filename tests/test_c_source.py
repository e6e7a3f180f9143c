"""Models as C: compiled, they give the bits of `predict`."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layer_cases import NETWORKS
from numpy.typing import NDArray

import fastnn as fn
from fastnn import c_source, cli, kernels, layers
from fastnn.c_source.generate import _literals as literals
from fastnn.c_source.plan import plan
from fastnn.steps import Lowering, Step

Array = NDArray[Any]
Function = Callable[[Array], Array]

WARNINGS = ("-Wall", "-Wextra", "-pedantic", "-Werror")
FLAGS = ("-std=c99", "-O2", "-mfma")
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
pytestmark = pytest.mark.skipif("gcc" not in COMPILERS, reason="needs gcc")
on_x86 = pytest.mark.skipif(kernels.isa() in ("generic", "neon"), reason="needs a processor with -mfma")


def architectures(dtype: str) -> dict[str, fn.Sequential]:
    """Models of 6 columns with each kind of layer, their numbers all other than those they begin with."""
    names = list(kernels.ACTIVATIONS)
    lists: dict[str, tuple[Any, ...]] = {
        name.replace(" ", "_"): make(names[i % len(names)]) for i, (name, make) in enumerate(NETWORKS.items())
    }
    lists["every_activation"] = (fn.Dense(17), fn.Concat(*((None, fn.Activation(f)) for f in names)))
    lists["activations_first"] = tuple(fn.Activation(f) for f in ("relu", "mish", "softmax", "log_softmax"))
    first = fn.Scale(0.3, -0.1), fn.Dense(7, bias=False, activation="silu")
    lists["classes"] = (*first, fn.Dense(1), fn.Dense(17), fn.Dense(10, activation="softmax"))
    many = fn.Dense(37, activation="log_softmax")
    lists["many_classes"] = (many, fn.LayerNorm(), fn.Dense(33), fn.RMSNorm())
    lists["categories"] = (fn.Scale(2.0), fn.Embedding(((1, 5, 3), (4, 2, 1))), fn.Dense(2))
    heads = ((None, fn.Dense(n, bias=n < 4)) for n in (1, 3, 4))  # dot products, in an order of their own
    lists["narrow_heads"] = fn.Dense(77, activation="tanh"), fn.Concat(*heads)
    lists["nothing"] = (fn.Flatten(), fn.Dropout(0.5))
    random = np.random.default_rng(0)
    models = {}
    for i, (name, layers_) in enumerate(lists.items()):
        model = fn.Sequential(*layers_, dtype=dtype).build(6, seed=i)
        model.parameters += 0.1 * random.standard_normal(model.parameters.shape)
        model.buffers += 0.3 * random.random(model.buffers.shape)
        models[name] = model
    return models


def rows(n: int, columns: int, dtype: Any) -> Array:
    """Numbers of all sizes; the first rows have all that is not ordinary."""
    random = np.random.default_rng(1)
    x = random.standard_normal((n, columns)) * random.choice([0.1, 1.0, 6.0, 40.0], (n, 1))
    odd = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-310, -1e-42, 1e30, -1e30, 1.0]
    x[:60] = random.choice(odd, (60, columns))
    x[60:120] = random.choice([-1.0, 0.0, 0.5, 1.0, 2.0, 4.0, 1e9], (60, columns))  # categories
    return x.astype(dtype)


def compiled(
    models: dict[str, fn.Sequential], folder: Path, compiler: str, target: str, flags: tuple[str, ...] = FLAGS
) -> dict[str, Function]:
    """The exported models as functions of arrays, all in one library."""
    sources = [fn.to_c(model, folder / f"{name}.c", name, target=target)[0] for name, model in models.items()]
    library = folder / "library.so"
    command = [compiler, *flags, *WARNINGS, "-shared", "-fPIC", *sources, "-o", str(library), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = ctypes.CDLL(str(library))
    return {name: function(loaded[f"{name}_predict"], model) for name, model in models.items()}


def function(address: Any, model: fn.Sequential) -> Function:
    address.argtypes, address.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ssize_t], None

    def predict(x: Array) -> Array:
        out = np.full((len(x) + 1, model.n_out or 0), 77, model.dtype)
        address(x.ctypes.data, out.ctypes.data, len(x))
        assert (out[-1] == 77).all()  # nothing is written beyond
        return out[:-1]

    return predict


def same_bits(found: Array, wanted: Array) -> bool:
    """Equal to the bit, the sign of a zero too; of a NaN, that it is one."""
    whole = f"u{wanted.itemsize}"
    return bool(((found.view(whole) == wanted.view(whole)) | (np.isnan(found) & np.isnan(wanted))).all())


CASES = [
    ("gcc", "computer", "float32"),
    ("gcc", "computer", "float64"),
    ("gcc", "microcontroller", "float64"),
    ("clang", "computer", "float64"),
    ("clang", "microcontroller", "float32"),
]


@on_x86
@pytest.mark.parametrize(("compiler", "target", "dtype"), CASES, ids=lambda value: str(value))
def test_results_have_the_bits_of_predict(tmp_path: Path, compiler: str, target: str, dtype: str) -> None:
    if compiler not in COMPILERS:
        pytest.skip(f"needs {compiler}")
    models = architectures(dtype)
    x = rows(1000, 6, dtype)
    differing = []
    for name, predict in compiled(models, tmp_path, compiler, target).items():
        with np.errstate(all="ignore"):
            wanted = models[name].predict(x)
        assert np.isfinite(wanted).any(), name
        for part in (x, x[500:501], x[:0]):
            at = slice(500, 501) if len(part) == 1 else slice(len(part))
            if not same_bits(predict(part), wanted[at]):
                differing.append((name, len(part)))
    assert not differing


@on_x86
@pytest.mark.parametrize("flags", [("-std=gnu99", "-O3", "-mfma"), ("-std=c99", "-O1"), ("-std=c11", "-Os")])
def test_the_bits_do_not_depend_on_flags(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """GNU's default would make FMAs of its own; without -mfma the C library does each."""
    for compiler in COMPILERS:
        every = architectures("float32")
        models = {name: every[name] for name in ("every_activation", "batch_norm", "numerical_embeddings")}
        x = rows(200, 6, "float32")
        for name, predict in compiled(models, tmp_path, compiler, "computer", flags).items():
            with np.errstate(all="ignore"):
                assert same_bits(predict(x), models[name].predict(x)), (compiler, name)


@on_x86
@pytest.mark.parametrize("width", [1, 7, 17])
def test_awkward_widths_and_odd_weights(tmp_path: Path, width: int) -> None:
    model = fn.Sequential(
        fn.Dense(width, activation="tanh"), fn.LayerNorm(), fn.Dense(width, activation="softmax")
    )
    model.build(width, seed=3)
    odd = [0.0, -0.0, 1e-45, -1e-40, 3.4e38, 1 / 3, np.inf, np.nan]
    model.weights["0.bias"][...] = (odd * 3)[:width]
    x = rows(200, width, "float32")
    with np.errstate(all="ignore"):
        wanted = model.predict(x)
    assert same_bits(compiled({"odd": model}, tmp_path, "gcc", "computer")["odd"](x), wanted)


def test_weights_are_written_exactly() -> None:
    random = np.random.default_rng(0)
    for dtype, whole in ((np.float32, "<u4"), (np.float64, "<u8")):
        numbers = random.integers(0, 2**64, 2000, dtype=np.uint64).astype(whole).view(dtype)
        numbers = numbers[np.isfinite(numbers)]
        texts = literals(numbers)
        back = np.array([float.fromhex(text.removesuffix("f")) for text in texts if "x" in text], dtype)
        kept = numbers[["x" in text for text in texts]]
        assert len(kept) > 1900
        assert same_bits(back, kept)


# ---------------------------------------------------------------- what is written


def stated(header: str, what: str) -> int:
    found = re.search(rf"{what}: (\d+) bytes", header)
    assert found
    return int(found[1])


def test_the_header_of_a_microcontroller_states_flash_and_ram(tmp_path: Path) -> None:
    """What nm finds in the object is what the header says."""
    for dtype, size in (("float32", 4), ("float64", 8)):
        layers_ = fn.Dense(16, activation="relu"), fn.Dense(9, activation="gelu"), fn.Dense(5), fn.LayerNorm()
        model = fn.Sequential(*layers_, dtype=dtype).build(30)
        source, header = fn.to_c(model, tmp_path / "net.c", "net", target="microcontroller")
        text = Path(header).read_text()
        assert stated(text, "RAM") == size * (16 + 9)  # the last row is made in `out`
        assert stated(text, "Flash") == size * len(model.parameters)
        object_file = str(tmp_path / "net.o")
        subprocess.run(["gcc", "-std=c99", "-Os", *WARNINGS, "-c", source, "-o", object_file], check=True)
        symbols = subprocess.run(["nm", "-S", object_file], capture_output=True, text=True, check=True).stdout
        total = {"b": 0, "r": 0, "d": 0}
        for _, n_bytes, kind, _ in (line.split() for line in symbols.splitlines() if len(line.split()) == 4):
            if kind in total:
                total[kind] += int(n_bytes, 16)
        assert total == {"b": stated(text, "RAM"), "r": stated(text, "Flash"), "d": 0}


def test_a_chain_takes_two_buffers_of_exact_size() -> None:
    model = fn.Sequential(*(fn.Dense(n, activation="tanh") for n in (50, 8, 20, 7, 30, 2))).build(3)
    places = plan(model.steps)
    assert list(places.buffers.values()) == [50, 8]  # of 50, 20, 30 and of 8, 7
    assert places.place[5] == "out"


def test_only_functions_that_are_needed_are_written(tmp_path: Path) -> None:
    model = fn.Sequential(fn.Dense(3, activation="relu"), fn.Dense(2)).build(4)
    text = Path(fn.to_c(model, tmp_path / "a.c", "net")[0]).read_text()
    functions = set(re.findall(r"^(?:static )?\w+ net_(\w+)\(", text, re.MULTILINE))
    assert functions == {"dense", "relu", "row", "predict"}
    assert re.findall(r"#include (\S+)", text) == ['"a.h"', "<math.h>"]
    assert "malloc" not in text


@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
def test_the_header_serves_cpp(tmp_path: Path) -> None:
    model = fn.Sequential(fn.Dense(2)).build(4)
    fn.to_c(model, tmp_path / "a.c", "net")
    (tmp_path / "b.cpp").write_text(
        '#include "a.h"\n#include "a.h"\nint main() { float x[NET_INPUTS] = {0}, y[NET_OUTPUTS];'
        " net_predict(x, y, 1); return 0; }\n"
    )
    subprocess.run(["g++", *WARNINGS, "-fsyntax-only", str(tmp_path / "b.cpp")], check=True)


def test_a_recipe_of_links_is_told(tmp_path: Path) -> None:
    model = fn.Sequential(fn.Dense(2)).build(4)
    model.link = "softmax"
    assert "softmax" in Path(fn.to_c(model, tmp_path / "a.c")[1]).read_text()


def test_the_command_writes_what_the_function_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = fn.Sequential(fn.Dense(3, activation="gelu"), fn.Dense(2)).build(4)
    saved = str(tmp_path / "net.safetensors")
    model.save(saved)
    assert cli.main(["export", saved, "--to", "c"]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "net.c"), str(tmp_path / "net.h")]
    by_command = (tmp_path / "net.c").read_text()
    fn.to_c(model, tmp_path / "net.c")
    assert (tmp_path / "net.c").read_text() == by_command
    output = str(tmp_path / "a.c")
    more = ["-o", output, "--name", "a", "--target", "microcontroller"]
    assert cli.main(["export", saved, "--to", "c", *more]) == 0
    assert "bytes, static" in (tmp_path / "a.h").read_text()
    assert cli.main(["export", saved, "--to", "c", "--name", "int"]) == 1
    assert capsys.readouterr().err.startswith("fastnn: error: name must not be a word of C")


# ---------------------------------------------------------------- what is refused


class Unknown(layers.Layer):
    def lower(self, to: Lowering) -> None:
        to.add(Step("sorting", to.layer, to.width, to.width))

    def __repr__(self) -> str:
        return "Unknown()"


def test_errors_are_clear(tmp_path: Path) -> None:
    model = fn.Sequential(fn.Dense(2)).build(4)
    path = tmp_path / "a.c"
    with pytest.raises(fn.NotFittedError, match="no parameters yet"):
        fn.to_c(fn.Sequential(fn.Dense(2)), path)
    with pytest.raises(TypeError, match="model must be a Sequential, got int"):
        fn.to_c(3, path)  # type: ignore[arg-type]
    for name in ("", "2nd", "a b", "a-b", "_a", "é", "a\n", "a" * 41):
        with pytest.raises(ValueError, match="name must be a C identifier"):
            fn.to_c(model, path, name)
    for name in ("float", "restrict", "class"):
        with pytest.raises(ValueError, match="must not be a word of C"):
            fn.to_c(model, path, name)
    with pytest.raises(TypeError, match="name must be a text, got None"):
        fn.to_c(model, path, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="target must be one of computer, microcontroller, got 'arduino'"):
        fn.to_c(model, path, target="arduino")
    for wrong in ("a.h", "a", ".c", 'a".c', "a\n.c"):
        with pytest.raises(ValueError, match="path must"):
            fn.to_c(model, tmp_path / wrong)
    with pytest.raises(ValueError, match=r"layer 1, Unknown\(\), has no form in C: a step of kind 'sorting'"):
        fn.to_c(fn.Sequential(fn.Dense(2), Unknown()).build(4), path)
    assert not list(tmp_path.iterdir())


def test_files_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    model = fn.Sequential(fn.Dense(2)).build(4)
    with pytest.raises(FileNotFoundError):
        fn.to_c(model, tmp_path / "missing" / "a.c")
    (tmp_path / "a.c").mkdir()  # the second file can not be replaced: the first is not either
    (tmp_path / "a.h").write_text("before")
    with pytest.raises(IsADirectoryError):
        fn.to_c(model, tmp_path / "a.c")
    assert (tmp_path / "a.h").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.c", "a.h"]


# ---------------------------------------------------------------- another processor

ARM = ("aarch64-linux-gnu-gcc", "qemu-aarch64")
MAIN = """\
#include <stdio.h>
#include "arm.h"

int main(void)
{
    float x[ARM_INPUTS], out[ARM_OUTPUTS];
    while (fread(x, sizeof x, 1, stdin) == 1) {
        arm_predict(x, out, 1);
        fwrite(out, sizeof out, 1, stdout);
    }
    return 0;
}
"""


@pytest.mark.skipif(not all(map(shutil.which, ARM)), reason=f"needs {' and '.join(ARM)}")
@pytest.mark.parametrize("target", c_source.TARGETS)
def test_aarch64_gives_the_same_bits(tmp_path: Path, target: str) -> None:
    every = fn.Concat(*((None, fn.Activation(f)) for f in kernels.ACTIVATIONS))
    layers_ = fn.Dense(9), fn.BatchNorm(), fn.Residual(fn.Dense(9, activation="gelu"), fn.LayerNorm()), every
    last = fn.Dense(70, activation="relu"), fn.Dense(3, activation="softmax")
    model = fn.Sequential(*layers_, fn.RMSNorm(), *last).build(6, seed=2)
    source, _ = fn.to_c(model, tmp_path / "arm.c", "arm", target=target)
    (tmp_path / "main.c").write_text(MAIN)
    program = str(tmp_path / "arm")
    files = [source, str(tmp_path / "main.c")]
    flags = ["-std=c99", "-O2", *WARNINGS, "-static"]
    subprocess.run([ARM[0], *flags, *files, "-o", program, "-lm"], check=True)
    x = rows(1000, 6, "float32")
    done = subprocess.run([ARM[1], program], input=x.tobytes(), capture_output=True, check=True)
    with np.errstate(all="ignore"):
        wanted = model.predict(x)
    assert same_bits(np.frombuffer(done.stdout, np.float32).reshape(wanted.shape), wanted)
