"""What the device "cuda" uses of CuPy, on the CPU: NumPy's arrays and the kernels of cuda_on_cpu.

It is stricter than NumPy where CuPy is: arrays of the host and of the card do not mix, `where` is no argument
of a ufunc, `take` has no mode, nothing but kernels runs while a stream is captured. Work that is queued on a
stream runs when somebody waits for it, not before: what forgets to wait reads old numbers, as on a card.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import cuda_on_cpu
import numpy as np
import pytest

from fastnn import errors, foreign
from fastnn.devices import cuda_cards


class _Here(threading.local):
    """What is current in a thread, the innermost last."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self.devices = [0]


_here = _Here()


class Stream:
    """A queue of work; nothing in it has been done yet."""

    by_pointer: ClassVar[Any] = WeakValueDictionary()

    def __init__(self, non_blocking: bool = False) -> None:
        self.queue: deque[Callable[[], None]] = deque()
        self.n_done = self.n_queued = 0
        self.captured: list[Callable[[], None]] | None = None
        self.ptr = id(self)  # what a library is given
        self.by_pointer[self.ptr] = self

    def __enter__(self) -> Stream:
        _here.streams.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        _here.streams.pop()

    def add(self, work: Callable[[], None], is_kernel: bool = False) -> None:
        """Queue it, or record it in the graph."""
        if self.captured is not None:
            if not is_kernel:
                raise RuntimeError("only kernels may run while a stream is captured")
            self.captured.append(work)
        else:
            self.queue.append(work)
            self.n_queued += 1

    def run_until(self, count: int) -> None:
        while self.n_done < count:
            work = self.queue.popleft()
            self.n_done += 1
            work()

    def synchronize(self) -> None:
        if self.captured is not None:
            raise RuntimeError("a stream that is captured cannot be waited for")
        self.run_until(self.n_queued)

    def record(self) -> tuple[Stream, int]:
        return self, self.n_queued

    def wait_event(self, event: tuple[Stream, int]) -> None:
        other, count = event
        self.add(lambda: other.run_until(count))

    def begin_capture(self) -> None:
        self.captured = []

    def end_capture(self) -> Graph:
        assert self.captured is not None
        found, self.captured = self.captured, None
        return Graph(found)


class Graph:
    """Recorded kernels."""

    def __init__(self, kernels: list[Callable[[], None]]) -> None:
        self.kernels = kernels

    def launch(self, stream: Stream | None = None) -> None:
        for one in self.kernels:
            (stream or _current()).add(one)


_default = Stream()


def _current() -> Stream:
    return _here.streams[-1] if _here.streams else _default


def _settle() -> None:
    """What array code does on a card comes after what is queued: do that first."""
    if _current().captured is not None:
        raise RuntimeError("array code must not run while a stream is captured")
    _current().synchronize()


def _refuse_host(values: Any) -> None:
    for value in values if isinstance(values, (tuple, list)) else (values,):
        if isinstance(value, np.ndarray) and not isinstance(value, ndarray) and value.ndim:
            raise TypeError(f"an array of the host, {value.dtype}{value.shape}, among those of the card")


def _wrapped(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):  # of no dimensions too: a sum stays on the card
        return np.asarray(value).view(ndarray)
    return tuple(map(_wrapped, value)) if isinstance(value, tuple) else value


def _plain(value: Any) -> Any:
    if isinstance(value, ndarray):
        return value.view(np.ndarray)
    return type(value)(map(_plain, value)) if type(value) in (tuple, list) else value


class ndarray(np.ndarray):
    """An array on the card."""

    __cuda_array_interface__: ClassVar[dict[str, int]] = {"version": 3}

    def __array_finalize__(self, other: Any) -> None:
        self._number = getattr(other, "_number", _here.devices[-1])

    @property
    def device(self) -> _Device:
        return _Device(self._number)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        _settle()
        _refuse_host(inputs)
        if "where" in options and method == "__call__":
            raise TypeError("Wrong arguments: where")
        out = options.get("out")
        options["out"] = _plain(out)
        with np.errstate(all="ignore"):  # a card warns of nothing
            found = _wrapped(getattr(ufunc, method)(*map(_plain, inputs), **options))
        return out[0] if out is not None and len(out) == 1 else found

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        return _call(function, args, options)

    def __setitem__(self, key: Any, value: Any) -> None:
        _settle()
        _refuse_host(key)
        _refuse_host(value)
        self.view(np.ndarray)[_plain(key)] = _plain(value)

    def __getitem__(self, key: Any) -> Any:
        _refuse_host(key)
        if _current().captured is None:
            _settle()
        return super().__getitem__(_plain(key))

    def astype(self, *args: Any, **options: Any) -> Any:
        _settle()
        with np.errstate(all="ignore"):
            return super().astype(*args, **options)

    def __bool__(self) -> bool:
        _settle()
        return bool(self.view(np.ndarray))

    def __index__(self) -> int:
        raise TypeError("an array on the card is no index of Python's")

    def __float__(self) -> float:
        _settle()
        return float(self.view(np.ndarray))

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self.ctypes.data)

    def set(self, host: np.ndarray, stream: Stream | None = None) -> None:
        if isinstance(host, ndarray) or host.dtype != self.dtype or host.shape != self.shape:
            raise ValueError(f"set of {self.dtype}{self.shape} from {host.dtype}{host.shape}")
        if not host.flags.c_contiguous:
            raise ValueError("set from an array that is not contiguous")
        pinned = any(np.may_share_memory(host, one) for one in _pinned)
        source = host if pinned else host.copy()  # pinned memory is read when its turn comes
        self._later(stream, lambda: np.copyto(self.view(np.ndarray), source))

    def _later(self, stream: Stream | None, work: Callable[[], None]) -> None:
        (stream or _current()).add(work)

    def get(self, stream: Stream | None = None) -> np.ndarray:
        (stream or _current()).synchronize()
        return np.array(self.view(np.ndarray))


_pinned: list[np.ndarray] = []


def _alloc_pinned(n_bytes: int) -> np.ndarray:
    _pinned.append(np.zeros(n_bytes, np.uint8))
    return _pinned[-1]


def _call(function: Any, args: Any, options: Any) -> Any:
    _settle()
    _refuse_host(args)
    for value in options.values():
        _refuse_host(value)
    plain = {name: _plain(value) for name, value in options.items()}
    with np.errstate(all="ignore"):
        return _wrapped(function(*map(_plain, args), **plain))


class _Error(RuntimeError):
    pass


class _OutOfMemoryError(MemoryError):
    pass


class _Device:
    """A card with a number."""

    def __init__(self, number: int | None = None) -> None:
        self.id = _here.devices[-1] if number is None else number
        self.mem_info = StandIn.free, 8 << 30

    def __enter__(self) -> _Device:
        _here.devices.append(self.id)
        return self

    def __exit__(self, *error: object) -> None:
        _here.devices.pop()


class _RawModule:
    def __init__(self, code: str, options: tuple[str, ...], backend: str) -> None:
        self._kernels = cuda_on_cpu.compiled(code)

    def get_function(self, name: str) -> Any:
        return _Function(self._kernels[name])


class _Function:
    """A kernel, with the memory that its blocks may ask for."""

    def __init__(self, kernel: cuda_on_cpu.Kernel) -> None:
        self._kernel = kernel
        self.max_dynamic_shared_size_bytes = 48 << 10

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int], arguments: tuple[Any, ...], *, shared_mem: int = 0
    ) -> None:
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise _Error("invalid argument: more shared memory than the function may ask for")
        plain = tuple(_plain(one) for one in arguments)
        self._kernel.checked(plain)
        _current().add(lambda: self._kernel(grid, block[0], plain, shared_mem), is_kernel=True)


def as_numpy(argument: str, value: Any) -> np.ndarray:
    """`fastnn.foreign.as_numpy` for a machine with this module: an array of CuPy is none of NumPy's."""
    if isinstance(value, ndarray):
        foreign._judge_place(argument, value)
    return foreign.as_numpy(argument, value)


class StandIn:
    """The module; `n_cards`, `capability`, `free` and `shared_bytes` are what its one machine has.

    shared_bytes: of shared memory, for a block. With none no net is small, and all steps are captured ones.
    """

    __version__ = "14.2.0"
    free = 6 << 30
    ndarray = ndarray
    RawModule = _RawModule

    def __init__(
        self,
        n_cards: int = 1,
        capability: tuple[int, int] = (9, 0),
        error: str = "",
        shared_bytes: int = 0,
    ) -> None:
        def count() -> int:
            if error:
                raise _Error(error)
            return n_cards

        properties = {
            "name": b"Stand-in",
            "multiProcessorCount": 4,
            "major": capability[0],
            "minor": capability[1],
            "sharedMemPerBlockOptin": shared_bytes,
        }
        self.cuda = SimpleNamespace(
            Device=_Device,
            Stream=Stream,
            get_current_stream=_current,
            alloc_pinned_memory=_alloc_pinned,
            memory=SimpleNamespace(OutOfMemoryError=_OutOfMemoryError),
            runtime=SimpleNamespace(
                CUDARuntimeError=_Error,
                getDeviceCount=count,
                getDeviceProperties=lambda number: properties,
            ),
        )

    @staticmethod
    def asnumpy(array: Any) -> np.ndarray:
        return array.get() if isinstance(array, ndarray) else np.asarray(array)

    @staticmethod
    def asarray(value: Any, dtype: Any = None) -> Any:
        _settle()
        if isinstance(value, ndarray):
            return value if dtype is None or value.dtype == dtype else value.astype(dtype)
        return np.array(value, dtype=dtype, order="C").view(ndarray)

    @staticmethod
    def take(a: Any, indices: Any, axis: int | None = None, out: Any = None) -> Any:
        return _call(np.take, (a, indices, axis), {} if out is None else {"out": out, "mode": "clip"})

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        if isinstance(found, type) or not callable(found):
            return found
        if isinstance(found, np.ufunc):
            return _Ufunc(found)
        return lambda *args, **options: _call(found, args, options)


class _Ufunc:
    """A ufunc for arrays of the card alone."""

    def __init__(self, ufunc: np.ufunc) -> None:
        self._ufunc = ufunc

    def __call__(self, *args: Any, **options: Any) -> Any:
        if "where" in options:
            raise TypeError("Wrong arguments: where")
        return _call(self._ufunc, args, options)

    def at(self, *args: Any) -> None:
        _call(self._ufunc.at, args, {})


def put_in(monkeypatch: pytest.MonkeyPatch, **machine: Any) -> StandIn:
    """This module in CuPy's place, with such a machine, until the test ends."""
    found = StandIn(**machine)
    monkeypatch.setattr(cuda_cards, "_cupy", lambda device: found)
    monkeypatch.setattr(errors, "_as_numpy", as_numpy)
    return found
