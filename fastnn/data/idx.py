"""The IDX format: the files of MNIST and its kin."""

from __future__ import annotations

import math
import os
import struct
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError

__all__ = ["read_idx"]

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | os.PathLike[str]) -> NDArray[Any]:
    """The array of an IDX file, plain or gzipped (told by its first bytes), in native byte order.

    Images of MNIST come as uint8 (n, 28, 28), labels as uint8 (n,).

    Raises
    ------
    FormatError
        It is no IDX file, or it holds more or less than its header says. Never more memory is taken than
        the file's content needs.
    """
    path = os.fspath(path)
    with open(path, "rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not is_gzip:
            return _read(path, file)
        import gzip
        import zlib

        try:
            with gzip.open(file) as stream:
                return _read(path, stream)  # type: ignore[arg-type]
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise FormatError(f"{path} must be an IDX file, got a broken gzip file ({error})") from None


def _read(path: str, file: IO[bytes]) -> NDArray[Any]:
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _TYPES or head[3] == 0:
        raise FormatError(f"{path} must be an IDX file, got one that begins with {head!r}")
    n_axes = head[3]
    sizes = file.read(4 * n_axes)
    if len(sizes) < 4 * n_axes:
        raise FormatError(f"{path} must have {n_axes} sizes in its header, but it ends before")
    shape = struct.unpack(f">{n_axes}I", sizes)
    dtype = np.dtype(_TYPES[head[2]])
    n_bytes = math.prod(shape) * dtype.itemsize
    # Pieces, so that a header that promises more than there is takes no memory for it.
    pieces, left = [], n_bytes + 1
    while left:
        piece = file.read(min(left, 1 << 24))
        if not piece:
            break
        pieces.append(piece)
        left -= len(piece)
    content = b"".join(pieces)
    if len(content) != n_bytes:
        found = "more" if len(content) > n_bytes else f"{len(content)}"
        raise FormatError(f"{path} must hold {n_bytes} bytes for shape {shape}, got {found}")
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="))
