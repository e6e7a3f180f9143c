# cython: language_level=3
"""Prediction: rows through a network in blocks, on several threads where that pays, and the compiled handle.

A call picks one of three ways by its size, all with the same bits. One to three rows of a plain network go
through `dense_rows`, on the stack, without a look at the clock. Where such a row's weights are too large
for a cache, the columns of each layer are split between threads. All else goes in blocks of rows.
"""
from cpython.buffer cimport PyObject_CheckBuffer
from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from fastnn.inference cimport (
    ACTIVATION, ADD, BATCH_NORM, COLUMNS, DENSE, EMBEDDING, JOIN, SCALE, Layer, Net, Watch, begin_watch, describe, forget,
    apply_layer, is_left_out, look, padded_ld, raise_again, seconds, take_row,
)
from fastnn.kernels cimport (
    FASTNN_FEW_ROWS, Array, fastnn_dense, fastnn_by_dots, fastnn_epilogue, fastnn_is_rowwise,
    fastnn_kernels, kernel_table,
    run_team, team_barrier, team_ready, thread_limit,
)

import importlib
import os

import numpy as np

cdef extern from *:
    const char *FASTNN_BUILD

cdef extern from "tuning.h" nogil:
    enum: TEAM_FLOPS
    enum: TEAM_ROW_FLOPS
    enum: SPLIT_ROWS
    enum: TEAM_COLD_FLOPS
    enum: TEAM_WAKING_FLOPS
    enum: FOLLOWING_MICROSECONDS
    enum: GIL_FLOPS
    enum: PREDICT_BYTES
    enum: PREDICT_ROWS
    enum: PREDICT_ROWS_LARGE
    enum: LARGE_ROW_FLOPS
    enum: ROW_STACK_BYTES

cdef extern from "handle.h":
    ctypedef int (*handle_run_function)(void *net, const char *x, Py_ssize_t ld_x, Py_ssize_t rows,
                                        char *out) except -1
    bint handle_reads_array(object array, size_t data, int ndim, object descr, int flags, Py_ssize_t rows,
                            Py_ssize_t columns, Py_ssize_t row_stride, Py_ssize_t column_stride)
    unsigned handle_numpy_abi(void *table)
    void handle_open_door(object array, object float32, object float64, object int64, void *table)
    object handle_type(object careful, handle_run_function run, const char *doc)
    bint handle_set_door(bint is_open)
    int handle_begin_work() nogil
    void handle_end_work() nogil
    void handle_forget_work()
    enum: ARRAY_C_CONTIGUOUS
    enum: ARRAY_ALIGNED
    enum: ARRAY_WRITEABLE
    ctypedef struct handle_array:
        char *data
        int ndim
        Py_ssize_t *shape
    const handle_array *handle_right_array(object array, int real_size)

cdef extern from "Python.h":
    void *PyCapsule_GetPointer(object capsule, const char *name) except NULL

BUILD = FASTNN_BUILD.decode()

# ------------------------------------------------------------------ few rows


cdef void predict_few(const Net *net, const char *x, ptrdiff_t ld, ptrdiff_t rows, char *out, char *even,
                      char *odd) noexcept nogil:
    """Rows by `dense_rows`; even and odd have room for rows of `widest_between`."""
    cdef const fastnn_kernels *t = net.table
    cdef ptrdiff_t i, last = net.n_dense - 1
    cdef const fastnn_dense *d = net.dense
    for i in range(last):
        t.dense_rows(d, 0, d.n_out, rows, x, ld, even, net.widest_between)
        x, ld = even, net.widest_between
        even, odd = odd, even
        d += 1
    t.dense_rows(d, 0, d.n_out, rows, x, ld, out, net.n_out)


cdef struct Few:
    const Net *net
    const char *x
    ptrdiff_t ld_x, rows
    char *out
    char *even
    char *odd


cdef void split_columns(void *context, int thread, int n_threads) noexcept nogil:
    """A block of rows with the columns of each layer split between the threads: each reads its part of the weights."""
    cdef Few *f = <Few *>context
    cdef const Net *net = f.net
    cdef const char *x = f.x
    cdef char *even = f.even
    cdef char *odd = f.odd
    cdef char *a
    cdef ptrdiff_t ld = f.ld_x, size = net.size, unit = 128 // size, units, ld_a, i, first, last
    cdef const fastnn_dense *d
    cdef fastnn_epilogue e
    memset(&e, 0, sizeof(e))
    for i in range(net.n_dense):
        d = &net.dense[i]
        a = f.out if i == net.n_dense - 1 else even
        ld_a = net.n_out if i == net.n_dense - 1 else padded_ld(d.n_out, size)
        units = (d.n_out + unit - 1) // unit
        first, last = unit * (units * thread // n_threads), min(d.n_out, unit * (units * (thread + 1) // n_threads))
        if fastnn_is_rowwise(d.activation) or fastnn_by_dots(d.n_out, d.n_in):
            first, last = 0, d.n_out if thread == 0 else 0
        if first >= last:
            pass
        elif f.rows <= FASTNN_FEW_ROWS:
            net.table.dense_rows(d, first, last, f.rows, x, ld, a, ld_a)
        else:
            e.bias, e.activation = d.bias + first * size if d.bias != NULL else NULL, d.activation
            if last - first == d.n_out:  # all of them: a product with few columns has sums of its own
                net.table.dense(f.rows, d.n_out, d.n_in, x, ld, 1, d.weight, d.ld, d.slack, a, ld_a, &e)
            else:
                net.table.matmul(f.rows, last - first, d.n_in, x, ld, 1, d.weight + first * size, d.ld, d.slack,
                                 a + first * size, ld_a, &e)
        if i < net.n_dense - 1:
            team_barrier(thread, n_threads)
        x, ld = a, ld_a
        even, odd = odd, even


# ------------------------------------------------------------------ blocks of rows

cdef struct Prediction:
    const Net *net
    const char *x
    bint is_bytes       # x holds uint8
    ptrdiff_t ld_x, rows
    char *out           # (rows, n_out)
    char *scratch       # two blocks of activations for each thread
    Watch watch
    bint watches        # for signals: not where the work is short
    ptrdiff_t block_rows, block_bytes


cdef bint given_up(Prediction *p, int thread) noexcept nogil:
    """Between two layers: whether a signal ends the call. A block of rows through a large net takes longer than
    Ctrl-C may wait; through a small one, less than a look at the clock is worth."""
    if p.net.row_flops < LARGE_ROW_FLOPS or not p.watches:
        return False
    if thread == 0:
        look(&p.watch)
    return p.watch.interrupted


cdef void predict_straight(Prediction *p, int thread, const char *x, ptrdiff_t ld, ptrdiff_t rows, char *out,
                           char *even, char *odd) noexcept nogil:
    """A block of rows through a net of dense layers."""
    cdef const Net *net = p.net
    cdef const fastnn_dense *d
    cdef ptrdiff_t i, ld_a
    cdef char *a
    cdef fastnn_epilogue e
    memset(&e, 0, sizeof(e))
    for i in range(net.n_dense):
        d = &net.dense[i]
        a = out if i == net.n_dense - 1 else even
        ld_a = net.n_out if i == net.n_dense - 1 else padded_ld(d.n_out, net.size)
        e.bias, e.activation = d.bias, d.activation
        net.table.dense(rows, d.n_out, d.n_in, x, ld, 1, d.weight, d.ld, d.slack, a, ld_a, &e)
        if given_up(p, thread):
            return
        x, ld = a, ld_a
        even, odd = odd, even


cdef void predict_block(Prediction *p, int thread, ptrdiff_t first, ptrdiff_t rows, char *even,
                        char *odd) noexcept nogil:
    """A block of rows through all layers; the last layer that needs room writes to out."""
    cdef const Net *net = p.net
    cdef ptrdiff_t ld = p.ld_x, x_size = 1 if p.is_bytes else net.size
    cdef const char *x = p.x + first * ld * x_size
    cdef char *out = p.out + first * net.n_out * net.size
    cdef const fastnn_kernels *t = net.table
    cdef ptrdiff_t size = net.size, i, last_room = net.last_room, ld_a
    cdef char *a = NULL
    cdef Layer *s
    cdef fastnn_epilogue e
    if net.n_dense and not p.is_bytes:
        predict_straight(p, thread, x, ld, rows, out, even, odd)
        return
    memset(&e, 0, sizeof(e))
    if last_room < 0 or p.is_bytes or net.scales_first:
        a, ld_a = even, padded_ld(net.n_in, size)
        if last_room < 0:
            a, ld_a = out, net.n_out
        for i in range(rows):
            take_row(net, x + i * ld * x_size, p.is_bytes, a + i * ld_a * size)
        x, ld = a, ld_a
    for i in range(net.n_steps):
        if i > 0 and given_up(p, thread):
            return
        s = &net.layers[i]
        if s.kind == DENSE:
            e.bias = net.parameters + s.bias * size if s.bias >= 0 else NULL
            e.activation = s.activation
            a = out if i == last_room else odd if a == even else even
            ld_a = net.n_out if i == last_room else s.ld
            t.dense(rows, s.n_out, s.n_in, x, ld, 1, net.parameters + s.weight * size, s.n_out, s.slack, a, ld_a, &e)
            x, ld = a, ld_a
        elif s.kind == EMBEDDING:
            a = out if i == last_room else odd if a == even else even
            ld_a = net.n_out if i == last_room else s.ld
            t.embed(rows, s.n_in, s.n_tables, s.tables, net.parameters, x, ld, a, ld_a)
            x, ld = a, ld_a
        elif s.kind == SCALE and i > 0:
            if a == NULL:
                a, ld_a = even, s.ld
                t.scale(rows, s.n_out, s.factor, s.shift, x, ld, a, ld_a)
                x, ld = a, ld_a
            else:
                t.scale(rows, s.n_out, s.factor, s.shift, a, ld, a, ld)
        elif s.kind == ACTIVATION:
            if a == NULL:  # before the first product: x is not ours to change
                a, ld_a = even, s.ld
                t.activation(s.activation, rows, s.n_out, x, ld, a, ld_a)
                x, ld = a, ld_a
            else:
                t.activation(s.activation, rows, s.n_out, a, ld, a, ld)


include "prediction_graph.pxi"


cdef void predict_task(void *context, int thread, int n_threads) noexcept nogil:
    cdef Prediction *p = <Prediction *>context
    cdef const Net *net = p.net
    cdef ptrdiff_t first = p.rows * thread // n_threads, last = p.rows * (thread + 1) // n_threads, row, end
    cdef ptrdiff_t n_blocks = (last - first + p.block_rows - 1) // p.block_rows, i
    cdef char *scratch = p.scratch + net.n_slots * thread * p.block_bytes
    row = first
    for i in range(n_blocks):  # of one height, give or take a row: no rest of a row or two
        if p.watch.interrupted:
            return
        if thread == 0 and p.watches:
            look(&p.watch)
        end = row + (last - row) // (n_blocks - i)
        if net.plain:
            predict_block(p, thread, row, end - row, scratch, scratch + p.block_bytes)
        else:
            predict_graph(p, thread, row, end - row, scratch)
        row = end


# ------------------------------------------------------------------ the choice

cdef double last_end = 0  # of a call that could have used several threads; written by all callers, any of them will do


cdef int team_for(double flops, double now) noexcept nogil:
    """Threads for a prediction that begins now. Short ones ask for workers only where calls follow closely."""
    cdef int n_threads = thread_limit()
    if n_threads > 1 and flops < TEAM_COLD_FLOPS:
        if now - last_end > 1e-6 * FOLLOWING_MICROSECONDS:
            return 1
        if not team_ready(n_threads) and flops < TEAM_WAKING_FLOPS:
            return 1
    return n_threads


cdef int predict_rows(Net *net, const char *x, bint is_bytes, ptrdiff_t ld, ptrdiff_t rows, char *out) except -1:
    """Judged arrays through the network; the GIL is held, and given away where the work is long."""
    global last_end
    cdef char small[ROW_STACK_BYTES + 64]
    cdef char *scratch = &small[0] + (64 - <uintptr_t>&small[0] % 64) % 64
    cdef double flops = net.row_flops * rows
    cdef ptrdiff_t bytes_few = rows * net.widest_between * net.size
    net.table = kernel_table(net.size)
    if rows <= FASTNN_FEW_ROWS and net.n_dense and not is_bytes and rows and 2 * bytes_few <= ROW_STACK_BYTES:
        if net.row_flops < TEAM_ROW_FLOPS:
            predict_few(net, x, ld, rows, out, scratch, scratch + bytes_few)
        else:
            predict_heavy_rows(net, x, ld, rows, out, scratch, scratch + bytes_few)
        return 0
    cdef Prediction p
    if net.n_dense and flops < TEAM_FLOPS and not is_bytes and 2 * bytes_few <= ROW_STACK_BYTES and rows:
        # One block on this thread, too short for a look at the clock: the divisions below took 20 ns.
        p.net, p.watches = net, False
        predict_straight(&p, 0, x, ld, rows, out, scratch, scratch + bytes_few)
        return 0
    cdef int n_threads = team_for(flops, seconds()) if flops >= TEAM_FLOPS else 1
    p.watches = n_threads > 1 or flops >= GIL_FLOPS  # two looks at the clock are 3 % of 16 rows of 64-64-10
    if p.watches:
        begin_watch(&p.watch)
    else:
        p.watch.interrupted = False
    p.net, p.x, p.ld_x, p.rows, p.out, p.is_bytes = net, x, ld, rows, out, is_bytes
    cdef ptrdiff_t width = net.widest_between if net.n_dense and not is_bytes else net.widest
    cdef ptrdiff_t per_thread = (rows + n_threads - 1) // n_threads
    cdef ptrdiff_t least = PREDICT_ROWS if net.row_flops < LARGE_ROW_FLOPS else PREDICT_ROWS_LARGE
    cdef bint split = n_threads > 1 and net.n_dense and not is_bytes and rows <= SPLIT_ROWS and (
        net.row_flops >= TEAM_ROW_FLOPS)
    p.block_rows = max(1, min(per_thread, max(PREDICT_BYTES // (2 * max(1, width) * net.size), least)))
    if split:
        p.block_rows = per_thread
    p.block_bytes = p.block_rows * width * net.size + 64  # a line more keeps threads out of each other's lines
    cdef ptrdiff_t n_bytes = net.n_slots * n_threads * p.block_bytes
    cdef Few f
    cdef char *raw = NULL
    p.scratch = scratch
    if n_bytes > ROW_STACK_BYTES:
        raw = <char *>malloc(n_bytes + 64)
        if raw == NULL:
            raise MemoryError(f"{n_bytes} bytes for the rows between two layers")
        p.scratch = raw + (64 - <uintptr_t>raw % 64) % 64
    if n_threads == 1 and flops < GIL_FLOPS:
        predict_task(&p, 0, 1)
        if flops >= TEAM_FLOPS:
            last_end = seconds()
    else:
        with nogil:
            n_threads = max(1, n_threads // handle_begin_work())  # callers at once are threads enough
            if split:  # as many rows as there are in all threads' blocks
                f.net, f.x, f.ld_x, f.rows, f.out = net, x, ld, rows, out
                f.even, f.odd = p.scratch, p.scratch + n_bytes // 2
                run_team(split_columns, &f, n_threads)
            else:
                run_team(predict_task, &p, n_threads)
            handle_end_work()
            last_end = seconds()
    free(raw)
    return raise_again(&p.watch) if p.watch.interrupted else 0


cdef void predict_heavy_rows(Net *net, const char *x, ptrdiff_t ld, ptrdiff_t rows, char *out, char *even,
                             char *odd) noexcept:
    global last_end
    cdef Few f
    cdef int n_threads
    f.net, f.x, f.ld_x, f.rows, f.out, f.even, f.odd = net, x, ld, rows, out, even, odd
    with nogil:
        n_threads = team_for(net.row_flops * rows, seconds()) // handle_begin_work()
        if n_threads > 1:
            run_team(split_columns, &f, n_threads)
        else:
            predict_few(net, x, ld, rows, out, even, odd)
        handle_end_work()
        last_end = seconds()


cdef int judge(const Net *net, Array x, Array out) except -1:
    """Whether x and out are what the net reads and writes."""
    cdef size_t first, last, begin
    if net.n_steps == 0:
        raise TypeError("this object was made without its arguments")
    if x.itemsize != net.size and x.itemsize != 1:
        raise TypeError(f"x must be float{8 * net.size} as the model is, or uint8, got float{8 * x.itemsize}")
    if out.itemsize != net.size:
        raise TypeError(f"out must be float{8 * net.size} as the model is, got float{8 * out.itemsize}")
    if x.buffer.ndim != 2 or x.columns != net.n_in:
        raise ValueError(f"x must have shape (rows, {net.n_in}), got {shape_of(x)}")
    if out.buffer.ndim != 2 or out.rows != x.rows or out.columns != net.n_out:
        raise ValueError(f"out must have shape ({x.rows}, {net.n_out}), got {shape_of(out)}")
    if (x.columns > 1 and x.column_stride != 1) or x.buffer.strides[0] % x.itemsize:
        raise ValueError("x must have its columns side by side in memory")
    if (out.rows > 1 and out.row_stride != out.columns) or (out.columns > 1 and out.column_stride != 1):
        raise ValueError("out must be C-contiguous")
    if x.rows and x.columns and out.columns:
        # where x ends, whichever way its rows lie
        first = <size_t>x.data + min(0, (x.rows - 1) * x.buffer.strides[0])
        last = <size_t>x.data + max(0, (x.rows - 1) * x.buffer.strides[0]) + x.columns * x.itemsize
        begin = <size_t>out.data
        if first < begin + out.rows * out.columns * out.itemsize and begin < last:
            raise ValueError("out must not overlap x")
    return 0

cdef int predict(Net *net, Array x, Array out) except -1:
    judge(net, x, out)
    return predict_rows(net, x.data, x.itemsize == 1, x.row_stride, x.rows, out.data)


cdef tuple shape_of(Array array):
    return tuple([array.buffer.shape[i] for i in range(array.buffer.ndim)])


# ------------------------------------------------------------------ the handle


cdef class _Careful:
    """What a handle stands on: it owns the network, and takes or refuses whatever the direct door does not know."""
    cdef Net net
    cdef Array held_parameters, held_buffers
    cdef object block, buffers
    cdef readonly tuple steps
    cdef readonly object dtype

    def __init__(self, steps, parameters, buffers=None):
        if self.held_parameters is not None:
            raise TypeError("made once")
        self.steps, self.block, self.buffers = tuple(steps), parameters, buffers
        self.held_parameters = Array(parameters)
        self.dtype = np.dtype(np.float32 if self.held_parameters.itemsize == 4 else np.float64)
        self.held_buffers = Array(buffers, False, False, "buffers") if buffers is not None else None
        describe(&self.net, self.steps, self.held_parameters, self.held_buffers)

    def __dealloc__(self):
        forget(&self.net)

    @property
    def n_in(self):
        return self.net.n_in

    @property
    def n_out(self):
        return self.net.n_out

    @property
    def itemsize(self):
        return self.net.size

    @property
    def address(self):
        return <uintptr_t>&self.net

    @property
    def arguments(self):
        """What another one is made of."""
        return self.steps, np.array(self.block), None if self.buffers is None else np.array(self.buffers)

    def __call__(self, x, out=None):
        cdef Array x_ = Array(memory_of("x", x, False), False, True, "x")
        if out is None:
            out = np.empty((x_.rows, self.net.n_out), self.dtype)
        predict(&self.net, x_, Array(memory_of("out", out, True), True, False, "out"))
        return out


cdef object memory_of(str name, value, bint written):
    """What has the buffer protocol: the value, or an array of the same memory where that is one of another library."""
    if PyObject_CheckBuffer(value):
        return value
    from fastnn import foreign
    return foreign.memory(name, value, written)


cdef int run_direct(void *net, const char *x, Py_ssize_t ld_x, Py_ssize_t rows, char *out) except -1:
    return predict_rows(<Net *>net, x, False, ld_x, rows, out)


Predictor = handle_type(_Careful, run_direct, b"""Predictor(steps, parameters, buffers=None)
--

An immutable snapshot of a network for the hot path: `h(x, out=None)` returns `out`.

x (rows, n_in) and out (rows, n_out) are arrays of the model's dtype with columns side by side; arrays of
other libraries too where they lie so in memory. Anything else is a ValueError or TypeError, and nothing is converted.

steps : tuple of `fastnn.layers.Step`
parameters : array (n,) float32 or float64 that belongs to this object from now on; elements after the
    last parameter, if any, are room that kernels may read.
buffers : array of that dtype, likewise, or None
    The running statistics of batch normalisation.
Safe to call from many threads at once.
""")


def _open_direct_door():
    """Open the handles' direct door if NumPy's arrays and its table of functions are what handle.h declares."""
    cdef void *table
    cdef int flags
    try:
        umath = importlib.import_module("numpy._core._multiarray_umath")
    except ImportError:
        umath = importlib.import_module("numpy.core._multiarray_umath")  # before NumPy 2
    if np.ndarray.__basicsize__ < <Py_ssize_t>sizeof(handle_array):
        return False
    samples = [np.zeros((2, 3), dtype) for dtype in (np.float32, np.float64)]
    samples += [np.zeros((5, 8), np.float64)[::2, 1:], np.zeros((4, 3), np.float32)[::-1, ::2]]
    samples += [np.zeros((7, 2), np.float32).T, np.zeros(50, np.uint8)[1:49].view(np.float64).reshape(2, 3)]
    samples[0].flags.writeable = False
    for array in samples:
        interface = array.__array_interface__
        flags = ARRAY_C_CONTIGUOUS if array.flags.c_contiguous else 0
        flags |= (ARRAY_ALIGNED if array.flags.aligned else 0) | (ARRAY_WRITEABLE if array.flags.writeable else 0)
        descr = np.dtype(array.dtype.type)
        if not handle_reads_array(array, interface["data"][0], array.ndim, descr, flags, array.shape[0], array.shape[1],
                                  array.strides[0], array.strides[1]):
            return False
    table = PyCapsule_GetPointer(umath._ARRAY_API, NULL)
    if handle_numpy_abi(table) not in (0x1000009, 0x2000000):  # of NumPy 1 and 2
        return False
    handle_open_door(np.ndarray, np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64), table)
    return True


cdef bint right_array(object array, int real_size, Right *out) noexcept:
    cdef const handle_array *a = handle_right_array(array, real_size)
    if a == NULL or not 1 <= a.ndim <= 2:
        return False
    out.data, out.ndim, out.rows, out.columns = a.data, a.ndim, a.shape[0], a.shape[a.ndim - 1] if a.ndim == 2 else 1
    return True


def use_direct_door(bint use):
    """Whether handles judge NumPy's arrays themselves, from now on; gives how it was. For tests."""
    return handle_set_door(use)


def _after_fork():
    """In a child of fork: the parent's predictions are not at work here."""
    handle_forget_work()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
HAS_DIRECT_DOOR = _open_direct_door()
