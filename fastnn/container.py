"""The file container: the safetensors layout, read and written by our own few lines, and never half written.

Bytes of a file, in their order:

* 8 bytes: length of the header, little-endian;
* the header: JSON, ``{"__metadata__": {name: text}, tensor name: {"dtype", "shape", "data_offsets"}}``,
  filled up with spaces to a multiple of 8 bytes;
* the data: tensors without gaps, little-endian, row by row.

Any reader of safetensors opens it. Beyond that layout, and so that not one byte can change unseen, a file of
ours begins its header with the checksum: SHA-256 of the whole file in which the 64 digits themselves are
zeros. `write` and `read` are all that knows this.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from . import errors
from .errors import FormatError
from .replacing import replacing

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "Contents",
    "dump_json",
    "parse_json",
    "read",
    "read_bytes",
    "read_tensors",
    "regular",
    "write",
]

Array = NDArray[Any]

FORMAT = "fastnn"
# Raised by every change that a reader of this version would misunderstand; additions are such changes too,
# as a reader refuses what it does not know.
FORMAT_VERSION = 1

DTYPES = {
    name: np.dtype(code)
    for name, code in {
        "F64": "<f8",
        "I64": "<i8",
        "U64": "<u8",
        "F32": "<f4",
        "I32": "<i4",
        "U32": "<u4",
        "F16": "<f2",
        "I16": "<i2",
        "U16": "<u2",
        "I8": "i1",
        "U8": "u1",
        "BOOL": "?",
    }.items()
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}

_START = b'{"__metadata__":{"checksum":"sha256:'
_N_DIGITS = 64
_DIGITS = slice(len(_START), len(_START) + _N_DIGITS)
_ZEROS = b"0" * _N_DIGITS

# Parsed JSON takes up to 30 times the memory of its text, so both are bounded whatever a file claims. A
# recipe of 100,000 categories has 2 MB.
HEADER_LIMIT = 16 << 20
JSON_LIMIT = 1_000_000  # values in one JSON text
JSON_DEPTH = 32
_CHUNK = 1 << 20  # bytes that are copied, hashed and written at a time


@dataclass(frozen=True)
class Contents:
    """What a file holds, found intact.

    Parameters
    ----------
    path : str
    metadata : dict of str
        Without checksum, format and version.
    tensors : dict of ndarray
        Writable, in the order of the data.
    """

    path: str
    metadata: dict[str, str]
    tensors: dict[str, Array]


# ---------------------------------------------------------------- JSON


def dump_json(argument: str, value: object) -> str:
    """One line of JSON that `parse_json` takes back to the same value."""
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
        parse_json(argument, text)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{argument} must be what a file can keep as JSON: {error}") from None
    return text


def parse_json(name: str, text: str) -> Any:
    """The value of a JSON text: no name twice in an object, no NaN, nothing deep, long or huge.

    Raises
    ------
    FormatError
    """
    # What is left without the strings tells number and depth of the values before any is made. Nothing in
    # the pattern is tried twice, so that no text takes more than linear time.
    structure = re.sub(r'"(?s:[^"\\]++|\\.)*+"?', "", text)
    n_values = structure.count(",") + structure.count("[") + structure.count("{")
    if n_values > JSON_LIMIT:
        raise FormatError(f"{name} must hold at most {JSON_LIMIT} values, got {n_values}")
    depth = 0
    for mark in re.finditer(r"[\[\]{}]", structure):
        depth += 1 if mark[0] in "[{" else -1
        if depth > JSON_DEPTH:
            raise FormatError(f"{name} must be nested at most {JSON_DEPTH} deep")
    try:
        return json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_short_integer,
        )
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{name} must be JSON: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{twice!r} stands twice in an object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is too large")
    return number


def _short_integer(text: str) -> int:
    if len(text) > 20:  # 64 bits and a sign
        raise ValueError(f"{text[:40]}... has {len(text)} digits")
    return int(text)


# ---------------------------------------------------------------- writing


def write(path: object, tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write a file; see `replacing`.

    Parameters
    ----------
    tensors : mapping of ndarray
        Of the types in DTYPES. They are written in their order, those of larger elements first, so that
        each is aligned in the file.
    metadata : mapping of str
        Texts by name.
    """
    kept = {name: _plain(name, tensor) for name, tensor in tensors.items()}
    ordered = sorted(kept.items(), key=lambda item: -item[1].itemsize)
    header = _header(ordered, metadata)
    with replacing(path) as file:
        digest = hashlib.sha256(header)
        file.write(header)
        for _, tensor in ordered:
            flat = tensor.reshape(-1).view(np.uint8)
            for first in range(0, len(flat), _CHUNK):
                # A copy: another thread may be training, and what is hashed is what is written.
                chunk = flat[first : first + _CHUNK].tobytes()
                digest.update(chunk)
                file.write(chunk)
        file.seek(8 + _DIGITS.start)
        file.write(digest.hexdigest().encode())


def _plain(name: str, tensor: Array) -> Array:
    """A tensor as the file has it: little-endian, row by row."""
    dtype = tensor.dtype.newbyteorder("<")
    if dtype not in _NAMES:
        raise TypeError(f"tensor {name!r} must have one of the types {', '.join(DTYPES)}, got {tensor.dtype}")
    return np.require(tensor, dtype, ["C", "A"])


def _header(ordered: list[tuple[str, Array]], metadata: Mapping[str, str]) -> bytes:
    """Length and header, with zeros for the digits of the checksum."""
    texts = {
        "checksum": "sha256:" + _ZEROS.decode(),
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        **metadata,
    }
    table: dict[str, Any] = {"__metadata__": texts}
    start = 0
    for name, tensor in ordered:
        end = start + tensor.nbytes
        dtype = _NAMES[tensor.dtype.newbyteorder("<")]
        table[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = dump_json("the header", table).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > HEADER_LIMIT:
        raise ValueError(f"the header must have at most {HEADER_LIMIT} bytes, got {len(text)}")
    assert text.startswith(_START)
    return len(text).to_bytes(8, "little") + text


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class _Place:
    """Where a tensor is in the data."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    end: int


@contextlib.contextmanager
def regular(path: str) -> Iterator[tuple[io.FileIO, int]]:
    """A file to read, unbuffered, and its size; a pipe would wait for its writer."""
    with open(path, "rb", buffering=0, opener=lambda name, f: os.open(name, f | os.O_NONBLOCK)) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise FormatError(f"{path} must be a file, got a device or a pipe")
        yield file, found.st_size


def read(path: object) -> Contents:
    """What a file of ours holds. No code is run, and memory is bounded by the size of the file.

    Raises
    ------
    OSError
        FileNotFoundError, IsADirectoryError, PermissionError and their like.
    FormatError
        It is empty, truncated, altered, of a newer format, of another program, or no safetensors file.
    """
    given = errors.file_path("path", path)
    with regular(given) as (file, n_bytes):
        head, header = _read_header(given, file, n_bytes)
        if not header.startswith(_START):
            _refuse_foreign(given, header)
        data = read_bytes(given, file, n_bytes - 8 - len(header))
    digest = hashlib.sha256(head)
    digest.update(header[: _DIGITS.start] + _ZEROS + header[_DIGITS.stop :])
    digest.update(data)  # type: ignore[arg-type]
    if header[_DIGITS] != digest.hexdigest().encode():
        _refuse_damaged(given, header, len(data))
    metadata, places = _table(given, header)
    _judge_version(given, metadata)
    _judge_size(given, len(header), places, len(data))
    for name in ("checksum", "format", "format_version"):
        del metadata[name]
    return Contents(given, metadata, {place.name: _tensor(given, data, place) for place in places})


def read_tensors(path: object) -> dict[str, Array]:
    """The tensors of any safetensors file; of one of ours, found intact."""
    given = errors.file_path("path", path)
    with regular(given) as (file, n_bytes):
        _, header = _read_header(given, file, n_bytes)
        if header.startswith(_START):
            return read(given).tensors
        data = read_bytes(given, file, n_bytes - 8 - len(header))
    _, places = _table(given, header)
    _judge_size(given, len(header), places, len(data))
    return {place.name: _tensor(given, data, place) for place in places}


def read_bytes(path: str, file: io.FileIO, n: int) -> NDArray[np.uint8]:
    """The next n bytes."""
    data = np.empty(n, np.uint8)
    view, done = data.data, 0
    while done < n:
        count = file.readinto(view[done:])
        if not count:
            raise FormatError(f"{path} became shorter while it was read")
        done += count
    return data


# How files begin that are mistaken for ours.
_OTHERS = {
    b"PK\x03\x04": "a zip file (as PyTorch, Keras and NumPy write)",
    b"\x80": "a pickle",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
    b"GGUF": "a GGUF file",
    b"\x1f\x8b": "a gzip file",
}


def _read_header(path: str, file: io.FileIO, size: int) -> tuple[bytes, bytes]:
    """The 8 bytes of the length, and the header."""
    if size == 0:
        raise FormatError(f"{path} must be a file of fastnn, got an empty one")
    start = bytes(read_bytes(path, file, min(size, 9)))
    length = int.from_bytes(start[:8], "little")
    if size < 10:
        raise FormatError(f"{path} must be a file of fastnn, got one of {size} bytes: truncated, or another")
    if start[8:] != b"{" or not 2 <= length <= HEADER_LIMIT:
        other = next((f", got {what}" for mark, what in _OTHERS.items() if start.startswith(mark)), "")
        if start[8:] == b"{" and not other:
            other = f", got one whose header would have {length} bytes, outside of 2 to {HEADER_LIMIT}"
        raise FormatError(f"{path} must be a safetensors file{other}")
    if 8 + length > size:
        raise FormatError(f"{path} is truncated: its header ends at byte {8 + length}, the file at {size}")
    return start[:8], start[8:] + bytes(read_bytes(path, file, length - 1))


def _table(path: str, header: bytes) -> tuple[dict[str, str], list[_Place]]:
    """Metadata and places that a header tells, in the order of the data."""
    try:
        text = header.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"the header of {path} must be JSON in UTF-8: {error}") from None
    table = parse_json(f"the header of {path}", text)
    if not isinstance(table, dict):
        raise FormatError(f"the header of {path} must be a JSON object, got {type(table).__name__}")
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise FormatError(f"__metadata__ in the header of {path} must be texts by name")
    places = [_place(path, name, entry) for name, entry in table.items()]
    places.sort(key=lambda place: (place.start, place.end))
    end = 0
    for place in places:
        if place.start != end:
            fault = "overlap" if place.start < end else "leave a gap"
            raise FormatError(
                f"tensor {place.name!r} in {path} must begin at byte {end} of the data, got {place.start}: "
                f"tensors {fault}"
            )
        end = place.end
    return metadata, places


def _place(path: str, name: str, entry: Any) -> _Place:
    """One entry of the header."""
    where = f"tensor {name!r} in {path}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        found = sorted(entry) if isinstance(entry, dict) else entry
        raise FormatError(f"{where} must have dtype, shape and data_offsets, got {found!r}")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise FormatError(f"dtype of {where} must be one of {', '.join(DTYPES)}, got {code!r}")
    for what, sizes, most in (("shape", shape, 8), ("data_offsets", offsets, 2)):
        # No bools: True is an int.
        whole = isinstance(sizes, list) and all(type(size) is int and size >= 0 for size in sizes)
        if not whole or len(sizes) > most:
            raise FormatError(f"{what} of {where} must be at most {most} sizes, got {sizes!r:.200}")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise FormatError(f"data_offsets of {where} must be begin and end, got {offsets!r}")
    dtype = DTYPES[code]
    # A size of zero hides others that no array can have.
    if math.prod(size or 1 for size in shape) * dtype.itemsize >= 2**63:
        raise FormatError(f"shape of {where} must be that of an array, got {shape}")
    if math.prod(shape) * dtype.itemsize != offsets[1] - offsets[0]:
        raise FormatError(
            f"{where} must have {math.prod(shape) * dtype.itemsize} bytes for {code} and shape {shape}, "
            f"got {offsets[1] - offsets[0]}"
        )
    return _Place(name, dtype, tuple(shape), offsets[0], offsets[1])


def _tensor(path: str, data: NDArray[np.uint8], place: _Place) -> Array:
    """The tensor at a place, a view of the data where that is aligned."""
    taken = data[place.start : place.end]
    if place.dtype.kind == "b" and taken.size and taken.max() > 1:
        raise FormatError(f"tensor {place.name!r} in {path} must hold bools, got {taken.max()}")
    return np.require(taken.view(place.dtype).reshape(place.shape), requirements=["A"])


def _judge_size(path: str, n_header: int, places: list[_Place], n_data: int) -> None:
    """Refuse data that is not as long as the header says."""
    want = places[-1].end if places else 0
    if n_data != want:
        start = 8 + n_header
        fault = "truncated" if n_data < want else "longer than its header says"
        raise FormatError(f"{path} is {fault}: it must have {start + want} bytes, got {start + n_data}")


def _judge_version(path: str, metadata: dict[str, str]) -> None:
    """Refuse what this version can not read, though it is well formed."""
    if metadata.get("format") != FORMAT:
        raise FormatError(f"{path} must have the format {FORMAT!r}, got {metadata.get('format')!r}")
    version = metadata.get("format_version", "")
    if version != str(FORMAT_VERSION):
        if version.isascii() and version.isdigit() and version[0] != "0" and len(version) < 10:
            by = f" (fastnn {metadata['fastnn_version']})" if "fastnn_version" in metadata else ""
            raise FormatError(
                f"{path} has format {version}{by}, this fastnn reads format {FORMAT_VERSION}: a newer fastnn "
                "is needed"
            )
        raise FormatError(f"format_version of {path} must be a number, got {version!r}")


def _refuse_damaged(path: str, header: bytes, n_data: int) -> NoReturn:
    """Say what is known of a file whose checksum is wrong."""
    try:
        metadata, places = _table(path, header)
    except FormatError:
        metadata, places = {}, []
    if metadata.get("format") == FORMAT:
        _judge_version(path, metadata)  # a newer format may have another checksum in the same place
    if places:
        _judge_size(path, len(header), places, n_data)
    raise FormatError(f"{path} was altered after it was written: its checksum is wrong")


def _refuse_foreign(path: str, header: bytes) -> NoReturn:
    """Say what a file is that does not begin as ours do."""
    try:
        text = header.decode()
        table = parse_json("its header", text)
        metadata = table.get("__metadata__", {})
        texts = {str(name): str(text) for name, text in metadata.items()}
    except (UnicodeDecodeError, FormatError, AttributeError) as error:
        raise FormatError(f"{path} must be a safetensors file: {error}") from None
    if texts.get("format") == FORMAT:
        _judge_version(path, texts)
        raise FormatError(f"{path} was altered after it was written: its checksum is not where it belongs")
    said = f" (format {texts['format'][:40]!r})" if "format" in texts else ""
    names = [name for name in table if name != "__metadata__"]
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    raise FormatError(
        f"{path} is a safetensors file, but not one of fastnn{said}: it has no description of a network, "
        f"only tensors ({shown:.200}); the package safetensors reads it"
    )
