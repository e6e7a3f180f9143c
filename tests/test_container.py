"""The file container: every damage is seen, and no file can make it run, crash, or take memory it has not."""

from __future__ import annotations

import json
import os
import pickle
import time
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import fastnn as fn
from fastnn import container
from fastnn.errors import FormatError

Case = tuple[bytes, str]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.safetensors"


@pytest.fixture
def good(path: Path) -> bytes:
    """The bytes of a small model."""
    model = fn.Sequential(fn.Dense(3, activation="relu"), fn.Dense(2)).build(2)
    model.link, model.classes = "softmax", ["a", "b"]
    model.save(path)
    return path.read_bytes()


# ---------------------------------------------------------------- damage


def test_every_truncation_is_refused(good: bytes, path: Path) -> None:
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(FormatError, match="truncated" if length >= 9 else "truncated|empty"):
            fn.load(path)


def test_every_byte_matters(good: bytes, path: Path) -> None:
    """Each byte of the file once, with another value in its place."""
    rng = np.random.default_rng(0)
    for at in range(len(good)):
        changed = bytearray(good)
        changed[at] ^= int(rng.integers(1, 256))
        path.write_bytes(changed)
        with pytest.raises(FormatError):
            fn.load(path)


def test_random_flips_of_a_bit_are_refused(good: bytes, path: Path) -> None:
    rng = np.random.default_rng(1)
    for _ in range(2000):
        changed = bytearray(good)
        changed[rng.integers(len(good))] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with pytest.raises(FormatError):
            fn.load(path)


def test_bytes_added_moved_or_taken_out_are_refused(good: bytes, path: Path) -> None:
    header = int.from_bytes(good[:8], "little")
    spaced = (header + 8).to_bytes(8, "little") + good[8 : 8 + header] + b" " * 8 + good[8 + header :]
    for changed in (
        good + b"\0",
        good + good,
        good[:-24] + good[-20:] + good[-24:-20],
        good[1:],
        spaced,
        good[:-1] + b"x",
    ):
        path.write_bytes(changed)
        with pytest.raises(FormatError):
            fn.load(path)


def test_an_altered_file_is_told_from_a_truncated_one(good: bytes, path: Path) -> None:
    path.write_bytes(good[:-5])
    message = rf"is truncated: it must have {len(good)} bytes, got {len(good) - 5}"
    with pytest.raises(FormatError, match=message):
        fn.load(path)
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(FormatError, match="was altered after it was written: its checksum is wrong"):
        fn.load(path)


def test_random_changes_never_do_anything_but_raise_format_error(good: bytes, path: Path) -> None:
    """A seeded fuzz: pieces taken out, doubled, overwritten, put in.

    Half of the files get a right checksum, so that what is behind it is tried too.
    """
    rng = np.random.default_rng(2)
    dictionary = [
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b",",
        b":",
        b"0",
        b"-1",
        b"1e999",
        b"null",
        b"\\u0000",
        b"\xff",
    ]
    dictionary += [
        b"99999999999999999999",
        b'"F64"',
        b'"data_offsets"',
        b'"shape":[]',
        b"true",
        b'{"class":"Dense"}',
    ]
    loaded = refused = 0
    for _ in range(1500):
        changed = bytearray(good)
        for _ in range(rng.integers(1, 4)):
            start = int(rng.integers(len(changed)))
            stop = min(len(changed), start + int(rng.integers(1, 12)))
            kind = rng.integers(5)
            if kind == 0:
                del changed[start:stop]
            elif kind == 1:
                changed[start:start] = changed[start:stop]
            elif kind == 2:
                changed[start:stop] = rng.bytes(stop - start)
            else:
                changed[start : stop if kind == 3 else start] = dictionary[rng.integers(len(dictionary))]
        if rng.integers(2):
            changed = bytearray(resealed(bytes(changed), len(changed) - len(good)))
        path.write_bytes(changed)
        try:
            fn.load(path).predict([[1.0, 2.0]])
            loaded += 1
        except FormatError:
            refused += 1
    assert refused > 100
    assert loaded < refused / 10


def resealed(changed: bytes, grown: int = 0) -> bytes:
    """The bytes with a length of the header that fits and the checksum that is right, where there is one."""
    import hashlib

    length = int.from_bytes(changed[:8], "little") + grown
    if changed[8:].startswith(container._START) and 0 < length < len(changed):
        at = 8 + len(container._START)
        zeroed = length.to_bytes(8, "little") + changed[8:at] + b"0" * 64 + changed[at + 64 :]
        return zeroed[:at] + hashlib.sha256(zeroed).hexdigest().encode() + zeroed[at + 64 :]
    return changed


# ---------------------------------------------------------------- hostile headers


def sealed(
    entries: str, data: bytes = b"", metadata: str = '"format":"fastnn","format_version":"1"'
) -> bytes:
    """A file with this header and a checksum that is right."""
    text = (
        container._START.decode()
        + "0" * 64
        + '",'
        + metadata
        + "}"
        + (f",{entries}" if entries else "")
        + "}"
    )
    header = text.encode("utf-8", "surrogatepass")
    return resealed(len(header).to_bytes(8, "little") + header + data)


def entry(name: str = "a", dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> str:
    return f'"{name}":' + json.dumps({"dtype": dtype, "shape": shape, "data_offsets": offsets})


FOUR, EIGHT = bytes(4), bytes(8)
HOSTILE: dict[str, Case] = {
    "unknown dtype": (sealed(entry(dtype="BF16"), FOUR), "dtype of tensor 'a' .* F64, .*, got 'BF16'"),
    "dtype no text": (sealed(entry(dtype=["F32"]), FOUR), "dtype of tensor 'a' .* got \\['F32'\\]"),
    "negative size": (sealed(entry(shape=[-1]), FOUR), "shape of tensor 'a' .* sizes, got \\[-1\\]"),
    "bool size": (sealed(entry(shape=[True]), FOUR), "shape of tensor 'a' .* got \\[True\\]"),
    "float size": (sealed(entry(shape=[1.0]), FOUR), "shape of tensor 'a' .* got \\[1.0\\]"),
    "text size": (sealed(entry(shape="1"), FOUR), "shape of tensor 'a' .* got '1'"),
    "null shape": (sealed(entry(shape=None), FOUR), "shape of tensor 'a' .* got None"),
    "many axes": (sealed(entry(shape=[1] * 65), FOUR), "at most 8 sizes"),
    "huge shape": (sealed(entry(shape=[2**62]), FOUR), "shape of tensor 'a' .* that of an array"),
    "large shape": (sealed(entry(shape=[2**50]), FOUR), "must have 4503599627370496 bytes .* got 4"),
    "wrapping shape": (sealed(entry(shape=[2**32, 2**32]), FOUR), "that of an array"),
    "hidden by zero": (sealed(entry(shape=[0, 2**62, 2**62], offsets=[0, 0])), "that of an array"),
    "endless digits": (sealed(entry(shape=[10**30]), FOUR), "header .* JSON: 10*\\.\\.\\. has 31 digits"),
    "shape and bytes": (sealed(entry(shape=[2]), FOUR), "must have 8 bytes for F32 and shape \\[2\\], got 4"),
    "offsets swapped": (sealed(entry(offsets=[4, 0]), FOUR), "must be begin and end, got \\[4, 0\\]"),
    "offsets negative": (sealed(entry(offsets=[-4, 0]), FOUR), "data_offsets of tensor 'a'"),
    "three offsets": (sealed(entry(offsets=[0, 4, 8]), FOUR), "at most 2 sizes"),
    "one offset": (sealed(entry(offsets=[0]), FOUR), "must be begin and end"),
    "past the end": (sealed(entry(shape=[2], offsets=[0, 8]), FOUR), "is truncated: it must have"),
    "far past the end": (sealed(entry(shape=[2**58], offsets=[0, 2**60]), FOUR), "is truncated"),
    "bytes left over": (sealed(entry(), EIGHT), "longer than its header says"),
    "gap at the begin": (
        sealed(entry(offsets=[4, 8]), EIGHT),
        "must begin at byte 0 .* got 4: tensors leave a gap",
    ),
    "gap": (sealed(entry() + "," + entry("b", offsets=[8, 12]), bytes(12)), "tensors leave a gap"),
    "overlap": (sealed(entry() + "," + entry("b", offsets=[2, 6]), EIGHT), "tensors overlap"),
    "the same place": (sealed(entry() + "," + entry("b"), FOUR), "tensors overlap"),
    "missing shape": (sealed('"a":{"dtype":"F32","data_offsets":[0,4]}', FOUR), "must have dtype, shape and"),
    "extra field": (sealed(entry()[:-1] + ',"x":1}', FOUR), "must have dtype, shape and data_offsets"),
    "entry no object": (sealed('"a":[0,4]', FOUR), "must have dtype, shape and data_offsets, got \\[0, 4\\]"),
    "a name twice": (sealed(entry() + "," + entry(), FOUR), "'a' stands twice"),
    "metadata twice": (sealed('"__metadata__":{"format":"x"}'), "'__metadata__' stands twice"),
    "format twice": (sealed("", b"", '"format":"fastnn","format":"pt"'), "'format' stands twice"),
    "metadata of numbers": (sealed("", b"", '"format":1'), "__metadata__ .* texts by name"),
    "NaN": (sealed('"a":NaN'), "NaN is no number"),
    "Infinity": (sealed('"a":-Infinity'), "-Infinity is no number"),
    "overflow": (sealed('"a":1e999'), "1e999 is too large"),
    "bools not bools": (sealed(entry(dtype="BOOL", shape=[4]), b"\0\1\2\0"), "must hold bools, got 2"),
    "deep": (sealed('"a":' + "[" * 100_000 + "]" * 100_000), "nested at most 32 deep"),
    "deep objects": (sealed('"a":' + '{"a":' * 50_000 + "1" + "}" * 50_000), "nested at most 32 deep"),
    "many values": (sealed('"a":[' + "[]," * 600_000 + "[]]"), "at most 1000000 values, got"),
    "quotes": (sealed('"a":"' + '\\"' * 500_000, b""), "must be JSON: Unterminated string"),
    "backslashes": (sealed('"a":"' + "\\" * 500_001, b""), "must be JSON"),
    "no UTF-8": (sealed('"\ud800":1'), "JSON in UTF-8"),
    "a control character": (sealed('"a\n":1'), "must be JSON: Invalid control character"),
    "more after it": (sealed("").replace(b"}}", b"}}x"), "altered"),
    "no version": (sealed("", b"", '"format":"fastnn"'), "format_version of .* must be a number, got ''"),
    "version of text": (
        sealed("", b"", '"format":"fastnn","format_version":"x"'),
        "must be a number, got 'x'",
    ),
    "version zero": (
        sealed("", b"", '"format":"fastnn","format_version":"01"'),
        "must be a number, got '01'",
    ),
    "other format": (sealed("", b"", '"format":"pt"'), "must have the format 'fastnn', got 'pt'"),
    "nothing in it": (sealed(""), "must be a model, got a file of kind ''"),
    "pickle in the data": (sealed(entry("0.weight", "U8", [4]), b"cos\n"), "must be a model"),
    "huge header": (
        (1 << 62).to_bytes(8, "little") + b"{" + FOUR,
        "header would have 4611686018427387904 bytes",
    ),
    "empty header": (bytes(8) + b"{}", "header would have 0 bytes"),
    "header past the end": (
        (1000).to_bytes(8, "little") + b'{"a":1}',
        "truncated: its header ends at byte 1008",
    ),
    "header a list": ((8).to_bytes(8, "little") + b"{       ", "must be a safetensors file"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_quickly_and_in_little_memory(name: str, path: Path) -> None:
    content, message = HOSTILE[name]
    path.write_bytes(content)
    fn.load(write_small(path.with_name("other")))  # what is imported at the first load does not count
    tracemalloc.start()
    begin = time.thread_time()  # neighbours do not count
    try:
        with pytest.raises(FormatError, match=message) as caught:
            fn.load(path)
        seconds, (_, peak) = time.thread_time() - begin, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 1000 + len(str(path))
    assert peak < 200_000 + 20 * len(content)
    assert seconds < 2.0


def write_small(path: Path) -> Path:
    fn.Sequential(fn.Dense(1)).build(1).save(path)
    return path


def test_json_takes_bounded_memory_per_byte(path: Path) -> None:
    """The worst of what is let through: lists with nothing in them."""
    text = "[" + "[]," * 99_000 + "[]]"
    tracemalloc.start()
    try:
        container.parse_json("it", text)
        assert tracemalloc.get_traced_memory()[1] < 50 * len(text)
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------- files of others


def test_files_of_others_are_told_by_name(path: Path) -> None:
    safetensors.numpy.save_file({"w": np.ones(2, "f")}, path, metadata={"format": "pt"})
    with pytest.raises(FormatError, match=r"not one of fastnn \(format 'pt'\): .* only tensors \(w\)"):
        fn.load(path)
    safetensors.numpy.save_file({str(i): np.ones(2, "f") for i in range(5)}, path)
    with pytest.raises(FormatError, match=r"not one of fastnn: .* \(0, 1, 2, \.\.\.\)"):
        fn.load(path)

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", b"x" * 100)
    with pytest.raises(FormatError, match=r"safetensors file, got a zip file \(as PyTorch"):
        fn.load(path)
    np.save(path.with_suffix(".npy"), np.ones(3))
    for content, what in (
        (pickle.dumps([1] * 30), "a pickle"),
        (path.with_suffix(".npy").read_bytes(), "a NumPy array"),
        (b"\x89HDF\r\n\x1a\n" + bytes(8), "an HDF5 file"),
        (b"carat,price\n1,2\n3,4\n", "safetensors file$"),
    ):
        path.write_bytes(content)
        with pytest.raises(FormatError, match=what):
            fn.load(path)


def test_a_pickle_is_never_run(path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os._exit, (1,)

    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(FormatError):
        fn.load(path)


def test_a_file_that_another_program_wrote_anew_is_called_altered(good: bytes, path: Path) -> None:
    with safetensors.safe_open(path, "np") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    safetensors.numpy.save_file(tensors, path, metadata=metadata)
    with pytest.raises(FormatError, match="altered after it was written"):
        fn.load(path)
    safetensors.numpy.save_file(tensors, path, metadata={**metadata, "format_version": "2"})
    with pytest.raises(
        FormatError, match=r"has format 2 \(fastnn 0.*reads format 1: a newer fastnn is needed"
    ):
        fn.load(path)


def test_a_newer_format_is_told(path: Path) -> None:
    path.write_bytes(sealed("", b"", '"format":"fastnn","format_version":"12","fastnn_version":"9.0"'))
    with pytest.raises(
        FormatError, match=r"has format 12 \(fastnn 9.0\), this fastnn reads format 1: a newer"
    ):
        fn.load(path)


def test_what_can_not_be_opened_is_an_os_error(tmp_path: Path, path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"m\.safetensors"):
        fn.load(path)
    with pytest.raises(IsADirectoryError):
        fn.load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FormatError, match="must be a file, got a device or a pipe"):
        fn.load(tmp_path / "pipe")
    with pytest.raises(FormatError, match="a device or a pipe"):
        fn.load("/dev/zero")
    path.write_bytes(b"")
    with pytest.raises(FormatError, match="got an empty one"):
        fn.load(path)
    with pytest.raises(TypeError, match="path must be a path, got None"):
        fn.load(None)  # type: ignore[arg-type]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_permissions_are_obeyed(path: Path) -> None:
    write_small(path).chmod(0o000)
    with pytest.raises(PermissionError):
        fn.load(path)
    with pytest.raises(PermissionError):
        fn.Sequential(fn.Dense(1)).build(1).save(path)


# ---------------------------------------------------------------- round trips


def test_tensors_of_every_type_and_shape_come_back(path: Path) -> None:
    rng = np.random.default_rng(3)
    tensors = {}
    for name, dtype in container.DTYPES.items():
        for shape in ((), (0,), (3,), (2, 0, 5), (2, 3, 5)):
            values = rng.integers(0, 2, shape) if dtype.kind == "b" else rng.integers(-9, 99, shape)
            tensors[f"{name} {shape}"] = np.asarray(values).astype(dtype)
    tensors["turned"] = np.arange(6.0).reshape(2, 3).T
    tensors["big-endian"] = np.arange(3, dtype=">f4")
    tensors["read-only"] = np.broadcast_to(np.float32(2), (2, 2))
    container.write(path, tensors, {"note": 'ü \\ " \n'})
    found = container.read(path)
    assert found.metadata == {"note": 'ü \\ " \n'}
    assert found.tensors.keys() == tensors.keys() == safetensors.numpy.load_file(path).keys()
    for name, tensor in tensors.items():
        assert found.tensors[name].flags.aligned
        assert found.tensors[name].flags.writeable
        np.testing.assert_array_equal(found.tensors[name], tensor, strict=name != "big-endian")
    with pytest.raises(TypeError, match=r"tensor 'c' must have one of the types .* got complex128"):
        container.write(path, {"c": np.ones(1, complex)}, {})


def test_a_header_that_could_not_be_read_is_not_written(path: Path) -> None:
    with pytest.raises(ValueError, match="header must have at most 16777216 bytes"):
        container.write(path, {}, {"note": "x" * (16 << 20)})
    for value in ([float("nan")], list(range(10)) * 100_001, 10**25, {"a": object()}):
        with pytest.raises(ValueError, match="it must be what a file can keep as JSON"):
            container.dump_json("it", value)
    assert not path.exists()
