"""Arrays in .npy and .npz files, as rows that are read in pieces; and arrays in memory with the same face."""

from __future__ import annotations

import copy
import math
import os
import struct
import zipfile
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from .. import errors

__all__ = ["FileRows", "HeldRows", "Rows", "open_rows", "open_zip"]

Array = NDArray[Any]


class Rows:
    """Rows of one shard: their shape and type, and ways to read them.

    Attributes
    ----------
    name : str
        For messages.
    shape : tuple of int
        (n_rows, ...).
    dtype : numpy.dtype
    in_pieces : bool
        Whether some rows can be read without the others.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    in_pieces = True

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        """Bytes of a row where it lies."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def read(self, first: int, n: int) -> Array:
        """Rows first .. first+n-1: a view, or a new array."""
        raise NotImplementedError

    def read_pieces(self, firsts: Sequence[int], sizes: Sequence[int], out: Array) -> bool:
        """Fill out with pieces of neighbours, one after the other; False where that takes a conversion."""
        return False

    def opened_anew(self) -> Rows:
        """The same rows with files of its own, for one reader: others may read and close theirs meanwhile."""
        return self

    def close(self) -> None:
        """Give up files."""

    def mark(self) -> str:
        """What tells these rows from others: type, shape, and a check of their first and last bytes."""
        import zlib

        n = min(len(self), 16)
        seen = [self.read(0, n), self.read(len(self) - n, n)] if n else []
        check = 0
        for part in seen:
            check = zlib.crc32(np.ascontiguousarray(part).tobytes(), check)
        self.close()
        return f"{self.shape}{self.dtype.str}{check:08x}"


class HeldRows(Rows):
    """Rows of an array, or of a memory map that the caller made."""

    def __init__(self, name: str, array: Array) -> None:
        self.name, self.array = name, array
        self.shape, self.dtype = array.shape, array.dtype

    def read(self, first: int, n: int) -> Array:
        return self.array[first : first + n]


class FileRows(Rows):
    """Rows of an array in a file, in C order and not compressed.

    Parameters
    ----------
    path : str
    offset : int
        Where the elements begin.
    member : str, optional
        Name in an archive, for messages.
    """

    def __init__(
        self, path: str, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any], member: str = ""
    ) -> None:
        self.offset, self.shape, self.dtype = offset, shape, dtype
        self.path = os.path.abspath(path)  # the process may go to another folder meanwhile
        self.name = f"{path}[{member!r}]" if member else path
        self._file: IO[bytes] | None = None
        self._stamp = _stamp(os.stat(path))
        self.file_bytes = self._stamp[0]
        end = offset + len(self) * self.row_bytes
        if end > self.file_bytes:
            raise ValueError(f"{self.name} is cut off: it must have {end} bytes, got {self.file_bytes}")

    def _open(self) -> IO[bytes]:
        """The file, judged again: it may have gone or changed since the source was made."""
        if self._file is None:
            try:
                file = open(self.path, "rb", buffering=0)  # noqa: SIM115 (closed by `close`)
            except OSError as error:
                raise OSError(error.errno, f"a shard cannot be opened: {error.strerror}", self.path) from None
            try:
                _judge_stamp(self.path, self._stamp, _stamp(os.fstat(file.fileno())))
            except ValueError:
                file.close()
                raise
            self._file = file
        return self._file

    def read(self, first: int, n: int) -> Array:
        out = np.empty((n, *self.shape[1:]), self.dtype)
        self._fill(first, _bytes_of(out))
        return out

    def read_pieces(self, firsts: Sequence[int], sizes: Sequence[int], out: Array) -> bool:
        if out.dtype != self.dtype or not out.flags.c_contiguous:
            return False
        # Of a piece of 256 KiB the system's call takes 50 us, so that each line here shows.
        view, row, number, at = _bytes_of(out), self.row_bytes, self._open().fileno(), 0
        for first, n in zip(firsts, sizes, strict=True):
            end = at + n * row
            try:
                got = os.preadv(number, [view[at:end]], self.offset + first * row)
            except OSError:
                got = 0
            if got != end - at:
                self._fill(first, view[at:end])
            at = end
        return True

    def _fill(self, first: int, view: memoryview) -> None:
        """Read bytes of rows: a map of the file would end the process where the file becomes shorter."""
        file, at = self._open(), self.offset + first * self.row_bytes
        while len(view):
            try:
                got = os.preadv(file.fileno(), [view], at)
            except OSError as error:
                raise OSError(error.errno, f"a shard cannot be read: {error.strerror}", self.path) from None
            if got == 0:
                row = (at - self.offset) // self.row_bytes
                raise ValueError(f"{self.name} has become shorter: it ends in row {row} of {len(self)}")
            view, at = view[got:], at + got

    def opened_anew(self) -> Rows:
        return copy.copy(self)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}


class PackedRows(Rows):
    """Rows of a compressed member of a .npz file: read as a whole."""

    in_pieces = False

    def __init__(self, path: str, member: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.path, self.member, self.shape, self.dtype = os.path.abspath(path), member, shape, dtype
        self.name = f"{path}[{member!r}]"
        self._stamp = _stamp(os.stat(path))

    def read(self, first: int, n: int) -> Array:
        try:
            stamp = _stamp(os.stat(self.path))
            with np.load(self.path, allow_pickle=False) as archive:
                found: Array = archive[self.member]
        except OSError as error:
            raise OSError(error.errno, f"a shard cannot be opened: {error.strerror}", self.path) from None
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            _judge_stamp(self.path, self._stamp, stamp)
            raise ValueError(f"{self.name} cannot be read: {error}") from None
        _judge_stamp(self.path, self._stamp, stamp)
        return found[first : first + n]


def _bytes_of(array: Array) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def _stamp(found: os.stat_result) -> tuple[int, int]:
    """What tells a file from one that was written in its place."""
    return found.st_size, found.st_mtime_ns


def _judge_stamp(path: str, before: tuple[int, int], now: tuple[int, int]) -> None:
    """Refuse a file that is not the one that the source was made of."""
    if now[0] != before[0]:
        raise ValueError(
            f"{path} has changed: it had {before[0]} bytes when the source was made, it has {now[0]}"
        )
    if now != before:
        raise ValueError(f"{path} has changed: it was written again since the source was made")


def _header(name: str, file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type at the begin of a .npy file, which is then at its first element."""
    try:
        version = npy.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = npy.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, fortran, dtype = npy.read_array_header_2_0(file)
        else:
            raise ValueError(f"its version is {version}")
    except (ValueError, EOFError, struct.error) as error:
        raise ValueError(f"{name} must be a .npy file, but {error}") from None
    if dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold real numbers, got dtype {dtype}")
    if not shape:
        raise ValueError(f"{name} must be an array of rows, got a single number")
    if fortran and sum(n > 1 for n in shape) > 1:
        raise ValueError(
            f"{name} must hold whole rows (C order), got columns (Fortran order); write it again with "
            "np.save(path, np.ascontiguousarray(x))"
        )
    return shape, dtype


def open_rows(argument: str, value: object) -> Rows:
    """The rows of a .npy file, of an array or of a memory map."""
    if isinstance(value, (str, os.PathLike)):
        path = errors.file_path(argument, value)
        with open(path, "rb") as file:
            shape, dtype = _header(path, file)
            return FileRows(path, file.tell(), shape, dtype)
    found = errors.array(argument, value)
    if found.ndim == 0:
        raise ValueError(f"{argument} must be an array of rows, got a single number")
    return HeldRows(argument, found)


def open_zip(path: str, names: Sequence[str]) -> dict[str, Rows]:
    """The rows of arrays in a .npz file, by name; of `names` those that it has."""
    found: dict[str, Rows] = {}
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            members = {one.filename.removesuffix(".npy"): one for one in archive.infolist()}
            for name in names:
                if name not in members:
                    continue
                info = members[name]
                with archive.open(info) as member:
                    shape, dtype = _header(f"{path}[{name!r}]", member)
                    header = member.tell()
                if info.compress_type != zipfile.ZIP_STORED:
                    found[name] = PackedRows(path, name, shape, dtype)
                    continue
                # The local header of a member repeats its name, and may have another extra field.
                file.seek(info.header_offset)
                local = file.read(30)
                begin = info.header_offset + 30 + sum(struct.unpack("<HH", local[26:30]))
                found[name] = FileRows(path, begin + header, shape, dtype, name)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} must be a .npz file, but {error}") from None
    return found
