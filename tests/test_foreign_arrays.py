"""Arrays of other libraries through the door: the right numbers, in their own memory, or one clear sentence.

Each kind is made of the same numbers. `place` is where they lie, for those that lie as programs take them.
"""

from __future__ import annotations

import array
import ctypes
import mmap
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
from numpy.typing import NDArray

import fastnn as fn
from fastnn import errors, ops

Array = NDArray[Any]

SINGLE = np.dtype(np.float32)
NUMBERS = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
WHOLE = np.arange(48).reshape(12, 4) % 7


class WithArray:
    """What xarray's and others' arrays can do."""

    def __init__(self, values: Array) -> None:
        self._values = values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self._values if dtype is None else self._values.astype(dtype)


class Failing:
    """An array that cannot be had now: a closed file, a connection that broke."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        raise self._error


class FailingByDLPack:
    def __dlpack__(self, **_: Any) -> Any:
        raise KeyError("rows")

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


class WithInterface:
    """Numbers by their address alone."""

    def __init__(self, values: Array) -> None:
        self._values = values
        self.__array_interface__ = values.__array_interface__


class WithDLPack:
    """DLPack and nothing else."""

    def __init__(self, values: Array) -> None:
        self._values = values

    def __dlpack__(self, **options: Any) -> Any:
        return self._values.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._values.__dlpack_device__()


class OnGPU:
    """What CuPy's and Numba's arrays say of themselves."""

    shape = (12, 4)
    ndim = 2
    __cuda_array_interface__ = {"shape": (12, 4), "typestr": "<f4", "data": (4096, False), "version": 3}  # noqa: RUF012

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")


class OnGPUByDLPack(WithDLPack):
    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0


def address(found: Array) -> int:
    return int(found.__array_interface__["data"][0])


def strided(values: Array) -> Array:
    """The same numbers, with others between the rows."""
    room = np.zeros((len(values), values.shape[1] + 3), values.dtype)
    room[:, 1 : 1 + values.shape[1]] = values
    return room[:, 1 : 1 + values.shape[1]]


def unaligned(values: Array) -> Array:
    room = np.zeros(values.nbytes + 1, np.uint8)[1:].view(values.dtype).reshape(values.shape)
    room[...] = values
    return room


def mapped(values: Array, path: Path) -> Array:
    found = np.memmap(path, values.dtype, "w+", shape=values.shape)
    found[...] = values
    return found


def in_map(values: Array) -> memoryview:
    room = mmap.mmap(-1, values.nbytes)
    room.write(values.tobytes())
    return memoryview(room).cast("f", values.shape)


def from_ctypes(values: Array) -> Any:
    return (ctypes.c_float * values.shape[1] * len(values)).from_buffer_copy(values.tobytes())


def read_only(values: Array) -> Array:
    values = values.copy()
    values.flags.writeable = False
    return values


def nullable(values: Array) -> pd.DataFrame:
    kinds = ["Float32", "Float64", "float[pyarrow]", "Float32"]
    return pd.DataFrame({str(j): pd.Series(values[:, j]).astype(kinds[j]) for j in range(4)})


# Kinds of (12, 4) float32 that lie as programs take them: the object, and where its numbers are.
IN_PLACE: dict[str, Callable[[Path], tuple[Any, int]]] = {}
COPIED: dict[str, Callable[[Path], Any]] = {}


def in_place(name: str, make: Callable[[Array], Any], place: Callable[[Any], int] | None = None) -> None:
    def made(folder: Path) -> tuple[Any, int]:
        values = NUMBERS.copy()
        value = make(values)
        return value, address(values) if place is None else place(value)

    IN_PLACE[name] = made


def copied(name: str, make: Callable[[Array], Any]) -> None:
    COPIED[name] = lambda folder: make(NUMBERS)


in_place("ndarray", lambda v: v)
in_place("strided rows", lambda v: strided(v), address)
in_place("read-only", lambda v: read_only(v), address)
in_place("matrix", lambda v: v.view(np.matrix))
in_place("masked without a mask", lambda v: np.ma.masked_array(v))
in_place("memoryview", lambda v: memoryview(v))
in_place("ctypes array", from_ctypes, ctypes.addressof)
in_place("memory of mmap", in_map, lambda v: address(np.asarray(v)))
in_place("bytearray as floats", lambda v: memoryview(bytearray(v.tobytes())).cast("f", v.shape),
         lambda v: address(np.asarray(v)))  # fmt: skip
in_place("__array__", WithArray)
in_place("__array_interface__", WithInterface)
in_place("__dlpack__ alone", WithDLPack)
in_place("__dlpack__ alone, read-only", lambda v: WithDLPack(read_only(v)), lambda v: address(v._values))
in_place("pyarrow Tensor", pa.Tensor.from_numpy)
in_place("polars column of arrays", lambda v: pl.Series(v, dtype=pl.Array(pl.Float32, 4)),
         lambda v: address(v.to_numpy(allow_copy=False)))  # fmt: skip
IN_PLACE["memmap"] = lambda folder: (lambda m: (m, address(m)))(mapped(NUMBERS, folder / "x"))

copied("Fortran order", np.asfortranarray)
copied("turned rows", lambda v: np.ascontiguousarray(v[::-1])[::-1])
copied("turned columns", lambda v: np.ascontiguousarray(v[:, ::-1])[:, ::-1])
copied("byte-swapped", lambda v: v.astype(">f4"))
copied("unaligned", unaligned)
copied("float64", lambda v: v.astype(np.float64))
copied("nested lists", lambda v: v.tolist())
copied("tuples of arrays", lambda v: tuple(v))
copied("pandas DataFrame", pd.DataFrame)
copied("pandas, nullable and Arrow columns", nullable)
copied("pandas, Arrow columns", lambda v: pd.DataFrame(v).astype("float[pyarrow]"))
copied("polars DataFrame", pl.DataFrame)
copied("pyarrow Table", lambda v: pa.table({str(j): v[:, j] for j in range(4)}))
copied("pyarrow RecordBatch", lambda v: pa.record_batch({str(j): v[:, j] for j in range(4)}))


@pytest.fixture(scope="module")
def model() -> fn.Sequential:
    return fn.Sequential(fn.Dense(5, activation="relu"), fn.Dense(3)).build(4, seed=1)


@pytest.mark.parametrize("kind", IN_PLACE)
def test_what_lies_right_is_read_where_it_lies(kind: str, model: fn.Sequential, tmp_path: Path) -> None:
    value, place = IN_PLACE[kind](tmp_path)
    found = errors.matrix("x", value, 4, SINGLE)
    assert address(found) == place
    np.testing.assert_array_equal(found, NUMBERS)
    np.testing.assert_array_equal(model.predict(value), model.predict(NUMBERS))
    np.testing.assert_array_equal(ops.relu(value), ops.relu(NUMBERS))
    handle = model.compile()
    out = np.empty((12, 3), np.float32)
    assert handle(value, out) is out
    np.testing.assert_array_equal(out, model.predict(NUMBERS))


@pytest.mark.parametrize("kind", COPIED)
def test_what_lies_otherwise_is_converted(kind: str, model: fn.Sequential, tmp_path: Path) -> None:
    value = COPIED[kind](tmp_path)
    found = errors.matrix("x", value, 4, SINGLE)
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, NUMBERS)
    np.testing.assert_array_equal(model.predict(value), model.predict(NUMBERS))


@pytest.mark.parametrize(
    ("kind", "make"),
    {
        "float16": lambda v: v.astype(np.float16),
        "int8": lambda v: v.astype(np.int8),
        "bool": lambda v: v > 3,
        "pandas, nullable": lambda v: pd.DataFrame(v).astype("Int64"),
        "pandas, of several": lambda v: pd.DataFrame(v).astype(
            {0: "Int8", 1: "int16[pyarrow]", 2: "Float32"}
        ),
        "polars": lambda v: pl.DataFrame(v.astype(np.int16)),
        "pyarrow": lambda v: pa.table({str(j): pa.array(v[:, j]) for j in range(4)}),
    }.items(),
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_whole_numbers_and_halves_are_widened(kind: str, make: Any, model: fn.Sequential) -> None:
    value = make(WHOLE)
    wanted = (WHOLE > 3 if kind == "bool" else WHOLE).astype(np.float32)
    np.testing.assert_array_equal(errors.matrix("x", value, 4, SINGLE), wanted)
    np.testing.assert_array_equal(model.predict(value), model.predict(wanted))


def test_bytes_stay_bytes_in_their_place() -> None:
    values = WHOLE.astype(np.uint8)
    room = bytearray(values.tobytes())
    found = errors.matrix("x", memoryview(room).cast("B", (12, 4)), 4, SINGLE)
    assert address(found) == address(np.frombuffer(room, np.uint8))
    np.testing.assert_array_equal(found, values)


LABELS = np.arange(12) % 3
COLUMNS: dict[str, Callable[[Array], tuple[Any, int | None]]] = {
    "array.array": lambda v: (lambda a: (a, a.buffer_info()[0]))(array.array("q", v.tolist())),
    "bytearray": lambda v: (bytearray(v.astype(np.uint8).tobytes()), None),
    "ctypes": lambda v: (lambda a: (a, ctypes.addressof(a)))((ctypes.c_int64 * 12)(*v.tolist())),
    "pandas Series": lambda v: (lambda s: (s, address(s.to_numpy())))(pd.Series(v)),
    "pandas, nullable": lambda v: (pd.Series(v).astype("Int64"), None),
    "pandas, Arrow": lambda v: (pd.Series(v).astype("int64[pyarrow]"), None),
    "pandas Index": lambda v: (pd.Index(v), None),
    "polars Series": lambda v: (lambda s: (s, address(s.to_numpy(allow_copy=False))))(pl.Series(v)),
    "pyarrow Array": lambda v: (lambda a: (a, a.buffers()[1].address))(pa.array(v)),
    "pyarrow, sliced": lambda v: (pa.array(np.concatenate([v, v]))[12:], None),
    "pyarrow, one chunk": lambda v: (pa.chunked_array([v]), None),
    "pyarrow, two chunks": lambda v: (pa.chunked_array([v[:5], v[5:]]), None),
    "list": lambda v: (v.tolist(), None),
    "byte-swapped": lambda v: (v.astype(">i8"), None),
    "column": lambda v: (v.reshape(-1, 1), None),
    "int8": lambda v: (v.astype(np.int8), None),
    "DLPack": lambda v: (WithDLPack(v), address(v)),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_labels_and_weights_of_any_kind(kind: str) -> None:
    value, place = COLUMNS[kind](LABELS.copy())
    found = errors.labels("y", value, 12, 3)
    np.testing.assert_array_equal(found, LABELS)
    if place is not None:
        assert address(found) == place
    weights = errors.sample_weights("sample_weight", value, 12)
    np.testing.assert_array_equal(weights, LABELS)


@pytest.mark.parametrize(
    "kind", ["polars Series", "pyarrow, two chunks", "pandas, nullable", "array.array", "DLPack"]
)
def test_every_door_of_a_trainer_takes_them(kind: str) -> None:
    def trained(x: Any, y: Any, weight: Any, order: Any) -> list[Any]:
        model = fn.Sequential(fn.Dense(5, activation="tanh"), fn.Dense(3))
        trainer = fn.Trainer(model, loss="cross_entropy", optimizer="adam", metrics=["accuracy"], seed=3)
        history = trainer.fit(
            x, y, epochs=2, batch_size=5, sample_weight=weight, validation_data=(x, y, weight), progress=False
        )
        found = [history["loss"], history["val_loss"], trainer.run(x, y, order, weight)]
        found += [trainer.partial_fit(x, y, weight), trainer.partial_fit(x, y)]
        loss, gradient = trainer.gradient(x, y, weight)
        found += [loss, gradient.tolist(), trainer.evaluate(x, y, weight), trainer.predict(x).tolist()]
        return [*found, trainer.predict_proba(x).tolist(), model.parameters.tolist()]

    y, _ = COLUMNS[kind](LABELS.copy())
    weight, _ = COLUMNS[kind](LABELS + 1)
    order = WithArray(np.arange(12).reshape(3, 4))
    assert trained(WithDLPack(NUMBERS), y, weight, order) == trained(
        NUMBERS, LABELS, LABELS + 1.0, np.arange(12).reshape(3, 4)
    )


def test_rows_of_any_shape_for_a_model_that_begins_with_flatten() -> None:
    model = fn.Sequential(fn.Flatten(), fn.Dense(3)).build(4)
    images = NUMBERS.reshape(12, 2, 2)
    for value in (WithDLPack(images), WithArray(images), memoryview(images), images.tolist()):
        np.testing.assert_array_equal(model.predict(value), model.predict(NUMBERS))


WRONG: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "objects": (lambda: np.full((12, 4), None), TypeError, "x must hold real numbers, got dtype object"),
    "texts": (lambda: [["a"] * 4] * 12, TypeError, "x must hold real numbers, got dtype <U1"),
    "complex": (lambda: NUMBERS * 1j, TypeError, "x must hold real numbers, got dtype complex64"),
    "times": (lambda: np.zeros((12, 4), "M8[s]"), TypeError, "x must hold real numbers, got dtype datetime"),
    "nothing": (lambda: None, TypeError, "x must hold real numbers, got NoneType, which is no array"),
    "0-d": (lambda: np.float32(1), ValueError, "x must be 2-D (rows, 4), got shape ()"),
    "1-d": (lambda: pl.Series([1.0, 2.0]), ValueError, "x must be 2-D (rows, 4), got shape (2,)"),
    "ragged": (lambda: [[1.0], [1.0, 2.0]], ValueError, "x must be an array of one shape: "),
    "masked": (
        lambda: np.ma.masked_greater(NUMBERS, 1),
        TypeError,
        "x must have no masked values; np.ma.filled(x, number) fills them in",
    ),
    "sparse matrix": (
        lambda: scipy.sparse.csr_matrix(NUMBERS),
        TypeError,
        "x must be a dense array, got csr_matrix; pass x.toarray()",
    ),
    "sparse array": (lambda: scipy.sparse.coo_array(NUMBERS), TypeError, "got coo_array; pass x.toarray()"),
    "frame of texts": (lambda: pd.DataFrame({"a": ["b"]}), TypeError, "x must hold real numbers, got dtype"),
    "frame of lists": (lambda: pl.DataFrame({"a": [[1]]}), TypeError, "x must hold real numbers, got dtype"),
    "frame not read yet": (
        lambda: pl.LazyFrame({"a": [1.0]}),
        TypeError,
        "x must be an array, got a polars.LazyFrame; pass x.collect()",
    ),
    "opaque": (object, TypeError, "x must hold real numbers, got object, which is no array"),
    "masked rows": (
        lambda: [np.ma.masked_greater(row, 1) for row in NUMBERS],
        TypeError,
        "x must have no masked values; np.ma.filled(row, number) fills those of a row in",
    ),
    "pointer": (lambda: ctypes.pointer(ctypes.c_float()), TypeError, "that NumPy can read, got "),
    "no memory of its own": (
        lambda: WithArray(None),  # type: ignore[arg-type]
        TypeError,
        "that NumPy can read, got test_foreign_arrays.WithArray (object __array__ method not producing",
    ),
    "fails when asked": (
        lambda: Failing(KeyError("rows")),
        TypeError,
        "x must be an array that NumPy can read, got test_foreign_arrays.Failing (KeyError: 'rows')",
    ),
    "fails with a wrong value": (
        lambda: Failing(ValueError("is closed")),
        TypeError,
        "x must be an array that NumPy can read, got test_foreign_arrays.Failing (is closed)",
    ),
    "fails when asked by DLPack": (
        FailingByDLPack,
        TypeError,
        "x must be an array that NumPy can read by DLPack, got test_foreign_arrays.FailingByDLPack (KeyErr",
    ),
    "on a GPU": (
        OnGPU,
        TypeError,
        'x must be in the memory of the CPU for device="cpu", got test_foreign_arrays.OnGPU, which is in '
        "that of a GPU; pass a copy of x as a NumPy array",
    ),
    "on a GPU, by DLPack": (lambda: OnGPUByDLPack(NUMBERS), TypeError, "which is in that of a GPU"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_array_is_one_clear_sentence(kind: str, model: fn.Sequential) -> None:
    make, error, text = WRONG[kind]
    trainer = fn.Trainer(model, loss="cross_entropy", optimizer="sgd", seed=0)
    for call in (
        lambda: model.predict(make()),
        lambda: trainer.gradient(make(), LABELS),
        lambda: trainer.fit(make(), LABELS, progress=False),
    ):
        with pytest.raises(error) as caught:
            call()
        assert text.replace("object __array__ method not producing an array", "") in str(caught.value)
        assert "\n" not in str(caught.value)


def test_arrays_of_a_gpu_are_named_with_the_way_out_at_every_door(model: fn.Sequential) -> None:
    trainer = fn.Trainer(model, loss="cross_entropy", optimizer="sgd", seed=0)
    cupy = type("ndarray", (OnGPU,), {"__module__": "cupy"})()
    for name, call in {
        "x": lambda: trainer.evaluate(cupy, LABELS),
        "y": lambda: trainer.evaluate(NUMBERS, cupy),
        "sample_weight": lambda: trainer.partial_fit(NUMBERS, LABELS, cupy),
        "order": lambda: trainer.run(NUMBERS, LABELS, cupy),
        "validation_data[0]": lambda: trainer.fit(NUMBERS, LABELS, validation_data=(cupy, LABELS)),
        "z": lambda: ops.relu(cupy),
        "w": lambda: ops.linear(NUMBERS, cupy),
        "g": lambda: ops.sgd_update(NUMBERS.copy(), cupy),
    }.items():
        with pytest.raises(TypeError) as caught:
            call()
        assert str(caught.value) == (
            f'{name} must be in the memory of the CPU for device="cpu", got cupy.ndarray, which is in that '
            f"of a GPU; pass cupy.asnumpy({name})"
        )
    with pytest.raises(TypeError, match="x must be in the memory of the CPU"):
        model.compile()(cupy)


def test_the_handle_converts_nothing_of_others_either(model: fn.Sequential) -> None:
    handle = model.compile()
    with pytest.raises(TypeError, match="x must be a float32, float64 or uint8 array, got"):
        handle(NUMBERS.tolist())
    with pytest.raises(TypeError, match="float64"):
        handle(WithArray(NUMBERS.astype(np.float64)))
    with pytest.raises(ValueError, match="side by side"):
        handle(WithArray(np.asfortranarray(NUMBERS)))
    # what is written to must be the caller's own memory, not a conversion
    with pytest.raises(TypeError, match="out must be a writable"):
        handle(NUMBERS, pl.DataFrame(np.zeros((12, 3), np.float32)))


def test_ctypes_arrays_at_an_odd_address_are_copied_or_refused(model: fn.Sequential) -> None:
    room = bytearray(NUMBERS.nbytes + 1)
    value = (ctypes.c_float * 4 * 12).from_buffer(room, 1)
    np.frombuffer(room, np.uint8)[1:] = NUMBERS.reshape(-1).view(np.uint8)
    np.testing.assert_array_equal(model.predict(value), model.predict(NUMBERS))
    with pytest.raises(TypeError, match="x must be an aligned, native"):
        model.compile()(value)


def test_rows_at_odd_distances_are_copied_or_refused(model: fn.Sequential) -> None:
    records = np.zeros(12, [("x", np.float32, 4), ("flag", np.int8)])  # 17 bytes a row
    records["x"] = NUMBERS
    for given in (records["x"], records[1:]["x"], records[4:5]["x"]):
        np.testing.assert_array_equal(model.predict(given), model.predict(given.copy()))
    for given in (records["x"], records[1:]["x"]):
        with pytest.raises(TypeError, match="x must be an aligned, native"):
            model.compile()(given)


def test_missing_numbers_of_frames_become_nan() -> None:
    frame = pd.DataFrame({"a": pd.array([1, None], "Int64"), "b": pd.array([1.5, 2.5], "Float32")})
    found = errors.array("x", frame)
    np.testing.assert_array_equal(found, [[1, 1.5], [np.nan, 2.5]])
    for kind in ("boolean", "bool[pyarrow]", "Int64", "double[pyarrow]"):
        found = errors.array("x", pd.Series([True, None, False], dtype=kind))
        np.testing.assert_array_equal(found, [1, np.nan, 0])


def test_nothing_is_imported_to_recognise_an_array() -> None:
    code = """
import sys, numpy as np, fastnn as fn
class Own:
    def __array__(self, dtype=None, copy=None):
        return np.ones((2, 3))
fn.ops.relu(Own()), fn.ops.relu([[1.0]])
print(*sorted(set(sys.modules) & {"torch", "cupy", "jax", "pandas", "polars", "pyarrow", "scipy", "numba"}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
