# cython: language_level=3
"""Thin bindings of the kernel table: the one module that holds the C core.

The functions take arrays that are already judged (dtype, shape, layout); `fastnn.ops` is their public face.
Arrays come through the buffer protocol: float32 or float64, one type in a call.
"""
cimport cython
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.pycapsule cimport PyCapsule_New
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset, strcmp

import os
import sys

import numpy as np

from fastnn.cores import default_threads

cdef extern from "fastnn.h" nogil:
    const fastnn_kernels *fastnn_kernels_of(int isa, int itemsize)
    int fastnn_best_isa()
    const char *fastnn_isa_name(int isa)
    const char *fastnn_activation_name(int activation)
    const char *fastnn_loss_name(int loss)
    const char *fastnn_optimizer_name(int optimizer)
    const char *fastnn_path_name(int path)
    const char *fastnn_activation_kind(int activation)
    int fastnn_loss_takes_labels(int loss)
    const char *fastnn_loss_numbers(int loss)
    int fastnn_optimizer_states(int optimizer)
    void fastnn_philox(const uint32_t *counter, const uint32_t *key, uint32_t *out)
    void fastnn_shuffle(uint64_t seed, uint64_t epoch, ptrdiff_t n, int64_t *order)
    void fastnn_uniform(uint64_t seed, uint32_t layer, uint32_t parameter, ptrdiff_t n, double *out)
    int fastnn_run(fastnn_task task, void *context, int n_threads)
    int fastnn_ready(int n_threads)
    void fastnn_barrier(int thread, int n_threads)
    int fastnn_threads_started()
    void fastnn_stop_threads()

cdef extern from "update_steps.h" nogil:
    void fastnn_begin_update(fastnn_update *u, uint64_t t)

cdef extern from "tuning.h" nogil:
    enum: TEAM_ELEMENTS
    enum: TEAM_FLOPS

cdef extern from *:
    """
    #if defined(__clang__)
    #define FASTNN_COMPILER "clang " __clang_version__
    #elif defined(__GNUC__)
    #define FASTNN_COMPILER "gcc " __VERSION__
    #else
    #define FASTNN_COMPILER "unknown"
    #endif
    """
    const char *FASTNN_COMPILER
    const char *FASTNN_BUILD

COMPILER = FASTNN_COMPILER.decode()
BUILD = FASTNN_BUILD.decode()  # the build check compares it with the other modules'

# The lists of fastnn.h: name -> what the Python side needs to know of it.
ACTIVATIONS = {fastnn_activation_name(i).decode(): fastnn_activation_kind(i).decode()
               for i in range(FASTNN_N_ACTIVATIONS)}
LOSSES = {fastnn_loss_name(i).decode(): "label" if fastnn_loss_takes_labels(i) else "values"
          for i in range(FASTNN_N_LOSSES)}
# The numbers that a description of a loss must give: fields of fastnn_loss.
LOSS_NUMBERS = {name: tuple(fastnn_loss_numbers(i).decode().split()) for i, name in enumerate(LOSSES)}
OPTIMIZERS = {fastnn_optimizer_name(i).decode(): fastnn_optimizer_states(i) for i in range(FASTNN_N_OPTIMIZERS)}
_ACTIVATION_ID = {name: i for i, name in enumerate(ACTIVATIONS)}
_OPTIMIZER_ID = {name: i for i, name in enumerate(OPTIMIZERS)}
_LOSS_ID = {name: i for i, name in enumerate(LOSSES)}
_ISA_ID = {fastnn_isa_name(i).decode(): i for i in range(FASTNN_N_ISAS)}

# ------------------------------------------------------------------ instruction set and threads

cdef const fastnn_kernels *active32 = NULL
cdef const fastnn_kernels *active64 = NULL

# The limit that threadpoolctl finds by its symbols, calls by ctypes and moves at any time, from any thread: the only
# names beside PyInit_kernels that the linker shows.
cdef extern from *:
    """
    #define SHOWN __attribute__((visibility("default")))
    static int limit_of_threads;
    SHOWN int fastnn_get_num_threads(void) { return __atomic_load_n(&limit_of_threads, __ATOMIC_RELAXED); }
    SHOWN void fastnn_set_num_threads(int n)
    {
        const int most = n > FASTNN_MAX_THREADS ? FASTNN_MAX_THREADS : n;
        __atomic_store_n(&limit_of_threads, most < 1 ? 1 : most, __ATOMIC_RELAXED);
    }
    """
    int fastnn_get_num_threads() noexcept nogil
    void fastnn_set_num_threads(int n) noexcept nogil


cdef const fastnn_kernels *kernel_table(int itemsize) noexcept nogil:
    return active32 if itemsize == 4 else active64 if itemsize == 8 else NULL


cdef int run_team(fastnn_task task, void *context, int n_threads) noexcept nogil:
    return fastnn_run(task, context, n_threads)

cdef bint team_ready(int n_threads) noexcept nogil:
    return fastnn_ready(n_threads)

cdef void team_barrier(int thread, int n_threads) noexcept nogil:
    fastnn_barrier(thread, n_threads)

# One of several trainings side by side takes no team, and ends when its caller asks: a signal reaches the main thread
# alone. The words are looked at by the thread that is held and moved by another.
cdef extern from *:
    """
    struct reins { int limit, stopped; };
    static _Thread_local struct { const struct reins *reins; int most; } own; /* most: what limit_own was told */
    static const struct reins *held_by(const struct reins *reins)
    {
        const struct reins *before = own.reins;
        own.reins = reins;
        return before;
    }
    static int limit_own(int most)
    {
        const int before = own.most;
        own.most = most;
        return before;
    }
    static int own_limit(void)
    {
        const int most = own.most, limit = own.reins ? __atomic_load_n(&own.reins->limit, __ATOMIC_RELAXED) : 0;
        return most == 0 || (limit > 0 && limit < most) ? limit : most;
    }
    static int own_stopped(void) { return own.reins && __atomic_load_n(&own.reins->stopped, __ATOMIC_RELAXED); }
    static void move_word(int *word, int value) { __atomic_store_n(word, value, __ATOMIC_RELAXED); }
    static int read_word(const int *word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }
    """
    struct reins:
        int limit, stopped
    const reins *held_by(const reins *of) noexcept nogil
    int limit_own(int most) noexcept nogil
    int own_limit() noexcept nogil
    int own_stopped() noexcept nogil
    void move_word(int *word, int value) noexcept nogil
    int read_word(const int *word) noexcept nogil


cdef int thread_limit() noexcept nogil:
    cdef int own = own_limit(), limit = fastnn_get_num_threads()
    return own if 0 < own < limit else limit

cdef bint told_to_stop() noexcept nogil:
    return own_stopped()


# Threads of ours that compute beside trainings, as those that read what comes next.
cdef int n_aside = 0

cdef int threads_aside() noexcept nogil:
    return read_word(&n_aside)


def step_aside(int change):
    """So many threads more, or fewer, now compute beside trainings: teams leave them that many cores.

    Results do not depend on it. The caller holds the GIL, and gives back what it took.
    """
    move_word(&n_aside, max(0, read_word(&n_aside) + change))


def _after_fork():
    """In a child of fork those threads are not there."""
    move_word(&n_aside, 0)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


cdef class Reins:
    """What one worker thread is held by: `with reins:` in that thread; the rest in any.

    limit : threads that one of its calls may use; 0: as many as any other.
    """
    cdef reins words
    cdef const reins *before

    def __init__(self, int limit=0):
        move_word(&self.words.limit, limit)

    @property
    def limit(self):
        """Threads of its next calls."""
        return read_word(&self.words.limit)

    @limit.setter
    def limit(self, int value):
        move_word(&self.words.limit, value)

    @property
    def stopped(self):
        """Whether it was told to stop."""
        return bool(read_word(&self.words.stopped))

    def stop(self):
        """Its running call, and each one after, ends with KeyboardInterrupt at the end of a step."""
        move_word(&self.words.stopped, 1)

    def __enter__(self):
        self.before = held_by(&self.words)
        return self

    def __exit__(self, *_):
        held_by(self.before)


def is_told_to_stop():
    """Whether the calling thread is a worker that was told to stop."""
    return bool(told_to_stop())


def isa():
    """Name of the instruction set in use."""
    return active32.isa.decode()


def isa_available():
    """Instruction sets that this build and CPU can run, the best last."""
    return tuple(name for name, i in _ISA_ID.items() if fastnn_kernels_of(i, 4) != NULL)


def set_isa(name):
    """Use one of `isa_available()` from now on; no call may be running. Raises ValueError."""
    global active32, active64
    available = isa_available()
    if name not in _ISA_ID:
        raise ValueError(f"FASTNN_ISA must be one of {', '.join(_ISA_ID)}, got {name!r}")
    if name not in available:
        raise ValueError(f"FASTNN_ISA={name} is impossible on this machine, which can run {', '.join(available)}")
    active32 = fastnn_kernels_of(_ISA_ID[name], 4)
    active64 = fastnn_kernels_of(_ISA_ID[name], 8)


def get_num_threads():
    """Threads that a call may use."""
    return fastnn_get_num_threads()


def set_num_threads(n):
    """Use up to `n` threads (1 .. 256) in later calls. Results do not depend on it, to the bit.

    Raises ValueError or TypeError for what is no such number.
    """
    if getattr(n, "ndim", 0):
        raise TypeError(f"n must be an integer, got {type(n).__name__} of shape {n.shape}")
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"n must be an integer, got {n!r}")
    value = n.__index__()
    if not 1 <= value <= FASTNN_MAX_THREADS:
        raise ValueError(f"n must be from 1 to {FASTNN_MAX_THREADS}, got {value}")
    fastnn_set_num_threads(value)


def threads_started():
    """Worker threads that exist now; callers are not counted."""
    return fastnn_threads_started()


def stop_threads():
    """End the workers; they start again at the next use."""
    with nogil:
        fastnn_stop_threads()


set_isa(os.environ.get("FASTNN_ISA") or fastnn_isa_name(fastnn_best_isa()).decode())
set_num_threads(default_threads(FASTNN_MAX_THREADS))

# ------------------------------------------------------------------ random numbers on the host


def philox(counter, key):
    """One Philox4x32-10 block: four 32-bit words from a counter of four and a key of two."""
    cdef uint32_t c[4]
    cdef uint32_t k[2]
    cdef uint32_t out[4]
    for i in range(4):
        c[i] = counter[i]
    for i in range(2):
        k[i] = key[i]
    fastnn_philox(c, k, out)
    return out[0], out[1], out[2], out[3]


cdef void shuffle_rows(uint64_t seed, uint64_t epoch, ptrdiff_t n, int64_t *order) noexcept nogil:
    fastnn_shuffle(seed, epoch, n, order)


def shuffle(uint64_t seed, uint64_t epoch, ptrdiff_t n):
    """A permutation of 0 .. n-1 (int64), a function of (seed, epoch, n) alone."""
    order = np.empty(n, np.int64)
    cdef int64_t[::1] view = order
    if n:
        with nogil:
            fastnn_shuffle(seed, epoch, n, &view[0])
    return order


def uniform(uint64_t seed, uint32_t layer, uint32_t parameter, ptrdiff_t n):
    """`n` uniform numbers in (0, 1), float64: number i is a function of (seed, layer, parameter, i) alone."""
    numbers = np.empty(n)
    cdef double[::1] view = numbers
    if n:
        with nogil:
            fastnn_uniform(seed, layer, parameter, n, &view[0])
    return numbers


# ------------------------------------------------------------------ arrays


cdef bytes NATIVE_ORDER = b"<" if sys.byteorder == "little" else b">"

cdef bint is_aligned(const Py_buffer *buffer) noexcept:
    """Whether each element lies at a multiple of its size."""
    cdef int i
    if <size_t>buffer.buf % buffer.itemsize:
        return False
    if buffer.strides != NULL:
        for i in range(buffer.ndim):
            if buffer.strides[i] % buffer.itemsize:
                return False
    return True


cdef class Array:
    def __cinit__(self, array, bint writable=False, bint or_bytes=False, str name="array"):
        kinds = "float32, float64 or uint8" if or_bytes else "float32 or float64"
        try:
            PyObject_GetBuffer(array, &self.buffer, PyBUF_STRIDES | PyBUF_FORMAT | (PyBUF_WRITABLE if writable else 0))
        except (BufferError, TypeError, ValueError) as error:
            what = f"{type(array).__name__}, dtype {array.dtype}" if hasattr(array, "dtype") else repr(array)[:80]
            writing = "a writable" if writable else "a"
            raise TypeError(f"{name} must be {writing} {kinds} array, got {what} ({error})") from None
        self.held = True
        cdef bytes format = self.buffer.format if self.buffer.format != NULL else b"B"
        # As ctypes and JAX write it, wherever the array lies; to NumPy "=" is the word for what is not aligned.
        if len(format) == 2 and format[:1] in (NATIVE_ORDER, b"=") and is_aligned(&self.buffer):
            format = format[1:]
        if format not in ((b"f", b"d", b"B") if or_bytes else (b"f", b"d")):
            raise TypeError(f"{name} must be an aligned, native {kinds} array, got format {format.decode()!r}")
        if not 1 <= self.buffer.ndim <= 2:
            raise ValueError(f"{name} must have one or two dimensions, got {self.buffer.ndim}")
        self.itemsize = self.buffer.itemsize
        self.data = <char *>self.buffer.buf
        cdef int last = self.buffer.ndim - 1
        self.columns = self.buffer.shape[last]
        self.rows = self.buffer.shape[0] if last else 1
        if self.buffer.strides == NULL:  # of ctypes, though asked for: its arrays are contiguous
            self.strides[0], self.strides[last] = self.columns * self.itemsize, self.itemsize
            self.buffer.strides = self.strides
        self.column_stride = self.buffer.strides[last] // self.itemsize
        self.row_stride = self.buffer.strides[0] // self.itemsize if last else self.columns

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.buffer)


cdef const fastnn_kernels *table_for(Array first, Array second=None, Array third=None, Array fourth=None) except NULL:
    """The kernels for arrays that must share one real type."""
    cdef Array other
    for other in (second, third, fourth):
        if other is not None and other.itemsize != first.itemsize:
            raise TypeError("arrays of one call must be all float32 or all float64")
    return kernel_table(first.itemsize)


cdef int check_shape(Array array, ptrdiff_t rows, ptrdiff_t columns, str name) except -1:
    if array.rows != rows or array.columns != columns:
        raise ValueError(f"{name} must have shape ({rows}, {columns}), got ({array.rows}, {array.columns})")
    if array.column_stride != 1 and array.columns > 1:
        raise ValueError(f"{name} must have its columns side by side in memory")
    return 0


# ------------------------------------------------------------------ the kernels as functions of arrays

include "kernel_products.pxi"
include "kernel_losses.pxi"
include "kernel_calls.pxi"
include "kernel_layers.pxi"
include "kernel_updates.pxi"

# ------------------------------------------------------------------ for other compiled packages

include "kernel_api.pxi"
