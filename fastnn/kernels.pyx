# cython: language_level=3
"""Thin bindings of the kernel table: the one module that holds the C core.

The functions take arrays that are already judged (dtype, shape, layout); `fastnn.ops` is their public face.
Arrays come through the buffer protocol: float32 or float64, one type in a call.
"""
cimport cython
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdlib cimport free, malloc
from libc.string cimport memset

import os

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
    int fastnn_activation_is_rowwise(int activation)
    int fastnn_loss_takes_labels(int loss)
    int fastnn_optimizer_states(int optimizer)
    double fastnn_power(double base, uint64_t exponent)
    void fastnn_philox(const uint32_t *counter, const uint32_t *key, uint32_t *out)
    void fastnn_shuffle(uint64_t seed, uint64_t epoch, ptrdiff_t n, int64_t *order)
    void fastnn_uniform(uint64_t seed, uint32_t layer, uint32_t parameter, ptrdiff_t n, double *out)
    int fastnn_run(fastnn_task task, void *context, int n_threads)
    int fastnn_ready(int n_threads)
    void fastnn_barrier(int thread, int n_threads)
    int fastnn_threads_started()
    void fastnn_stop_threads()

cdef extern from "tuning.h" nogil:
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
API_VERSION = FASTNN_API_VERSION

# The lists of fastnn.h: name -> what the Python side needs to know of it.
ACTIVATIONS = {fastnn_activation_name(i).decode(): "rowwise" if fastnn_activation_is_rowwise(i) else "elementwise"
               for i in range(FASTNN_N_ACTIVATIONS)}
LOSSES = {fastnn_loss_name(i).decode(): "label" if fastnn_loss_takes_labels(i) else "values"
          for i in range(FASTNN_N_LOSSES)}
OPTIMIZERS = {fastnn_optimizer_name(i).decode(): fastnn_optimizer_states(i) for i in range(FASTNN_N_OPTIMIZERS)}
_ACTIVATION_ID = {name: i for i, name in enumerate(ACTIVATIONS)}
_LOSS_ID = {name: i for i, name in enumerate(LOSSES)}
_ISA_ID = {fastnn_isa_name(i).decode(): i for i in range(FASTNN_N_ISAS)}

# ------------------------------------------------------------------ instruction set and threads

cdef const fastnn_kernels *active32 = NULL
cdef const fastnn_kernels *active64 = NULL
cdef int n_threads_limit = 0

cdef const fastnn_kernels *kernel_table(int itemsize) noexcept nogil:
    return active32 if itemsize == 4 else active64 if itemsize == 8 else NULL


cdef int run_team(fastnn_task task, void *context, int n_threads) noexcept nogil:
    return fastnn_run(task, context, n_threads)

cdef bint team_ready(int n_threads) noexcept nogil:
    return fastnn_ready(n_threads)

cdef void team_barrier(int thread, int n_threads) noexcept nogil:
    fastnn_barrier(thread, n_threads)

cdef int thread_limit() noexcept nogil:
    return n_threads_limit


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
    return n_threads_limit


def set_num_threads(n):
    """Use up to `n` threads (1 .. 256) in later calls. Results do not depend on it, to the bit.

    Raises ValueError or TypeError for what is no such number.
    """
    global n_threads_limit
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"n must be an integer, got {n!r}")
    value = n.__index__()
    if not 1 <= value <= FASTNN_MAX_THREADS:
        raise ValueError(f"n must be from 1 to {FASTNN_MAX_THREADS}, got {value}")
    n_threads_limit = value


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
        if format not in ((b"f", b"d", b"B") if or_bytes else (b"f", b"d")):
            raise TypeError(f"{name} must be an aligned, native {kinds} array, got format {format.decode()!r}")
        if not 1 <= self.buffer.ndim <= 2:
            raise ValueError(f"{name} must have one or two dimensions, got {self.buffer.ndim}")
        self.itemsize = self.buffer.itemsize
        self.data = <char *>self.buffer.buf
        cdef int last = self.buffer.ndim - 1
        self.columns = self.buffer.shape[last]
        self.column_stride = self.buffer.strides[last] // self.itemsize
        self.rows = self.buffer.shape[0] if last else 1
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


# ------------------------------------------------------------------ products
cdef struct Product:
    const fastnn_kernels *table
    ptrdiff_t m, n, k, a_row, a_col, ld_b, ld_c
    const char *a
    const char *b
    bint b_is_turned    # b is w (n, k), to be read as its transpose
    char *c
    fastnn_epilogue epilogue
    bint by_rows


cdef void product_task(void *context, int thread, int n_threads) noexcept nogil:
    """Rows, or column panels where rows are few, of one product; never a part of a sum."""
    cdef Product *p = <Product *>context
    cdef ptrdiff_t size = p.table.itemsize, panel = p.table.panel, first, last, n_panels
    cdef fastnn_epilogue e = p.epilogue
    if p.by_rows:
        first, last = p.m * thread // n_threads, p.m * (thread + 1) // n_threads
        if p.b_is_turned:
            p.table.matmul_transposed(last - first, p.n, p.k, p.a + first * p.a_row * size, p.a_row, p.a_col, p.b,
                                      p.ld_b, p.c + first * p.ld_c * size, p.ld_c, &e)
        else:
            p.table.matmul(last - first, p.n, p.k, p.a + first * p.a_row * size, p.a_row, p.a_col, p.b, p.ld_b, 0,
                           p.c + first * p.ld_c * size, p.ld_c, &e)
        return
    n_panels = (p.n + panel - 1) // panel
    first, last = n_panels * thread // n_threads * panel, min(n_panels * (thread + 1) // n_threads * panel, p.n)
    if first >= last:
        return
    if e.bias != NULL:
        e.bias = <const char *>e.bias + first * size
    if p.b_is_turned:
        p.table.matmul_transposed(p.m, last - first, p.k, p.a, p.a_row, p.a_col, p.b + first * p.ld_b * size, p.ld_b,
                                  p.c + first * size, p.ld_c, &e)
        return
    # the columns of the next share may be read beyond this one's
    p.table.matmul(p.m, last - first, p.k, p.a, p.a_row, p.a_col, p.b + first * size, p.ld_b, p.n - last,
                   p.c + first * size, p.ld_c, &e)


cdef void run_product(Product *p) noexcept nogil:
    cdef int n_threads = thread_limit() if 2.0 * p.m * p.n * p.k >= TEAM_FLOPS else 1
    p.by_rows = p.m >= 8 * n_threads or p.n < p.table.panel * n_threads
    p.by_rows |= p.epilogue.activation == FASTNN_softmax  # needs whole rows
    run_team(product_task, p, n_threads)


def matmul(a, b, bias, str activation, out):
    """out (m, n) = f(a (m, k) @ b (k, n) + bias); bias may be None; a may have any strides."""
    cdef Array a_ = Array(a), b_ = Array(b), out_ = Array(out, True)
    cdef Array bias_ = Array(bias) if bias is not None else None
    cdef Product p
    memset(&p, 0, sizeof(p))
    p.table = table_for(a_, b_, out_, bias_)
    check_shape(b_, a_.columns, b_.columns, "b")
    check_shape(out_, a_.rows, b_.columns, "out")
    if bias_ is not None:
        check_shape(bias_, 1, b_.columns, "bias")
        p.epilogue.bias = bias_.data
    p.epilogue.activation = _ACTIVATION_ID[activation]
    p.m, p.n, p.k = a_.rows, b_.columns, a_.columns
    p.a, p.a_row, p.a_col = a_.data, a_.row_stride, a_.column_stride
    p.b, p.ld_b, p.c, p.ld_c = b_.data, b_.row_stride, out_.data, out_.row_stride
    with nogil:
        run_product(&p)


def linear_input_gradient(dz, w, out):
    """out (m, n_in) = dz (m, n_out) @ w.T, for w (n_in, n_out)."""
    cdef Array dz_ = Array(dz), w_ = Array(w), out_ = Array(out, True)
    cdef Product p
    memset(&p, 0, sizeof(p))
    p.table = table_for(dz_, w_, out_)
    check_shape(w_, w_.rows, dz_.columns, "w")
    check_shape(out_, dz_.rows, w_.rows, "out")
    p.m, p.n, p.k = dz_.rows, w_.rows, dz_.columns
    p.a, p.a_row, p.a_col = dz_.data, dz_.row_stride, dz_.column_stride
    p.b, p.ld_b, p.b_is_turned, p.c, p.ld_c = w_.data, w_.row_stride, True, out_.data, out_.row_stride
    with nogil:
        run_product(&p)


def product_path(m, n, k, *, itemsize=4, a_is_transposed=False, b_is_transposed=False):
    """Way of a product (m, k) @ (k, n) of contiguous arrays: in_place, panels, turned or narrow."""
    return fastnn_path_name(kernel_table(itemsize).path(
        m, n, k, 1 if a_is_transposed else k, m if a_is_transposed else 1, b_is_transposed,
        k if b_is_transposed else n)).decode()


def sum_rows(a, out):
    """out (n,) = sums of the columns of a (m, n)."""
    cdef Array a_ = Array(a), out_ = Array(out, True)
    cdef const fastnn_kernels *t = table_for(a_, out_)
    check_shape(a_, a_.rows, a_.columns, "a")
    check_shape(out_, 1, a_.columns, "out")
    with nogil:
        t.sum_rows(a_.rows, a_.columns, a_.data, a_.row_stride, out_.data)


# ------------------------------------------------------------------ activations, losses, updates


def activation(str name, z, out):
    """out = f(z), both (m, n); out may be z."""
    cdef Array z_ = Array(z), out_ = Array(out, True)
    cdef const fastnn_kernels *t = table_for(z_, out_)
    cdef int f = _ACTIVATION_ID[name]
    check_shape(z_, z_.rows, z_.columns, "z")
    check_shape(out_, z_.rows, z_.columns, "out")
    with nogil:
        t.activation(f, z_.rows, z_.columns, z_.data, z_.row_stride, out_.data, out_.row_stride)


def activation_backward(str name, a, da, out):
    """out = da * f'(z) from the activation's output a, all (m, n); out may be da."""
    cdef Array a_ = Array(a), da_ = Array(da), out_ = Array(out, True)
    cdef const fastnn_kernels *t = table_for(a_, da_, out_)
    cdef int f = _ACTIVATION_ID[name]
    check_shape(a_, a_.rows, a_.columns, "a")
    check_shape(da_, a_.rows, a_.columns, "da")
    check_shape(out_, a_.rows, a_.columns, "out")
    with nogil:
        t.activation_backward(f, a_.rows, a_.columns, a_.data, a_.row_stride, da_.data, da_.row_stride, out_.data,
                              out_.row_stride)


def log_softmax(z, out):
    """out = log(softmax(z)) by rows; out may be z."""
    cdef Array z_ = Array(z), out_ = Array(out, True)
    cdef const fastnn_kernels *t = table_for(z_, out_)
    check_shape(z_, z_.rows, z_.columns, "z")
    check_shape(out_, z_.rows, z_.columns, "out")
    with nogil:
        t.log_softmax(z_.rows, z_.columns, z_.data, z_.row_stride, out_.data, out_.row_stride)


def loss(str name, z, y, const double[::1] weight, double scale, double[::1] loss_rows, dz):
    """Losses of rows, and dz = weight * scale * gradient. z (m, n); y int64 labels (m,) or values (m, n)."""
    cdef Array z_ = Array(z), y_ = None
    cdef Array dz_ = Array(dz, True) if dz is not None else None
    cdef int which = _LOSS_ID[name]
    cdef const int64_t[::1] labels
    cdef const int64_t *labels_p = NULL
    cdef ptrdiff_t m = z_.rows, i
    check_shape(z_, m, z_.columns, "z")
    if fastnn_loss_takes_labels(which):
        labels = y
        if labels.shape[0] != m:
            raise ValueError(f"y must have {m} labels, got {labels.shape[0]}")
        for i in range(m):
            if not 0 <= labels[i] < z_.columns:
                raise ValueError(f"y must hold labels from 0 to {z_.columns - 1}, got {labels[i]} in row {i}")
        if m:
            labels_p = &labels[0]
    else:
        y_ = Array(y)
        check_shape(y_, m, z_.columns, "y")
    if dz_ is not None:
        check_shape(dz_, m, z_.columns, "dz")
    cdef const fastnn_kernels *t = table_for(z_, y_, dz_)
    if loss_rows.shape[0] != m or (weight is not None and weight.shape[0] != m):
        raise ValueError(f"loss_rows and weight must have {m} elements")
    if m == 0:
        return
    cdef const double *weight_p = &weight[0] if weight is not None else NULL
    with nogil:
        t.loss(which, m, z_.columns, z_.data, z_.row_stride, labels_p, y_.data if y_ is not None else NULL,
               y_.row_stride if y_ is not None else 0, weight_p, scale, &loss_rows[0],
               dz_.data if dz_ is not None else NULL, dz_.row_stride if dz_ is not None else 0)


cdef run_update(fastnn_update *u, w, g, state1, state2, double weight_decay, segments):
    cdef Array w_ = Array(w, True), g_ = Array(g)
    cdef Array s1 = Array(state1, True) if state1 is not None else None
    cdef Array s2 = Array(state2, True) if state2 is not None else None
    cdef const fastnn_kernels *t = table_for(w_, g_, s1, s2)
    cdef ptrdiff_t n = w_.columns, i, count
    cdef Array array
    for name, array in (("w", w_), ("g", g_), ("state", s1), ("state", s2)):
        if array is not None:
            check_shape(array, 1, n, name)
    rows = [(0, n, 1.0, weight_decay)] if segments is None else list(segments)
    count = len(rows)
    cdef fastnn_segment *list_ = <fastnn_segment *>malloc(max(1, count) * sizeof(fastnn_segment))
    if list_ == NULL:
        raise MemoryError
    try:
        for i in range(count):
            offset, length, lr, decay = rows[i]
            if offset < 0 or length < 0 or offset + length > n:
                raise ValueError(f"segments[{i}] must lie within {n} parameters, got offset {offset}, length {length}")
            list_[i].offset, list_[i].length, list_[i].lr, list_[i].decay = offset, length, lr, decay
        with nogil:
            t.update(u, count, list_, w_.data, g_.data, s1.data if s1 is not None else NULL,
                     s2.data if s2 is not None else NULL)
    finally:
        free(list_)


def sgd_update(w, g, velocity, double lr, double momentum, bint nesterov, double weight_decay, segments):
    """One SGD step on w (n,) in place; velocity (n,) or None; segments: (offset, length, lr, decay) or None."""
    cdef fastnn_update u
    memset(&u, 0, sizeof(u))
    if momentum != 0 and velocity is None:
        raise ValueError("velocity must be an array where momentum is not 0, got None")
    u.optimizer, u.lr, u.momentum, u.nesterov = FASTNN_sgd, lr, momentum, nesterov
    run_update(&u, w, g, velocity, None, weight_decay, segments)


cdef void adam_corrections(fastnn_update *u, uint64_t t) noexcept nogil:
    u.correction1, u.correction2 = 1 - fastnn_power(u.beta1, t), 1 - fastnn_power(u.beta2, t)


def adam_update(w, g, m, v, uint64_t step, double lr, double beta1, double beta2, double eps, double weight_decay,
                segments):
    """Adam step number `step` (from 1) on w (n,), m (n,), v (n,) in place."""
    cdef fastnn_update u
    memset(&u, 0, sizeof(u))
    if step < 1:
        raise ValueError(f"step counts from 1, got {step}")
    u.optimizer, u.lr, u.beta1, u.beta2, u.eps = FASTNN_adam, lr, beta1, beta2, eps
    adam_corrections(&u, step)
    run_update(&u, w, g, m, v, weight_decay, segments)


def dropout(x, mask, uint64_t seed, uint64_t step, uint32_t layer, double rate, ptrdiff_t first_row):
    """mask (m, n) = 0 or 1 / (1 - rate); x (m, n) *= mask in place."""
    cdef Array x_ = Array(x, True), mask_ = Array(mask, True)
    cdef const fastnn_kernels *t = table_for(x_, mask_)
    check_shape(x_, x_.rows, x_.columns, "x")
    check_shape(mask_, x_.rows, x_.columns, "mask")
    if not 0 <= rate < 1:
        raise ValueError(f"rate must be in [0, 1), got {rate}")
    with nogil:
        t.dropout(seed, step, layer, rate, first_row, x_.rows, x_.columns, x_.data, x_.row_stride, mask_.data,
                  mask_.row_stride)


def vector(str name, x, out):
    """out (n,) = exp, log, log1p (of x >= 0), tanh or sigmoid of x (n,); out may be x."""
    cdef Array x_ = Array(x), out_ = Array(out, True)
    cdef const fastnn_kernels *t = table_for(x_, out_)
    check_shape(x_, 1, x_.columns, "x")
    check_shape(out_, 1, x_.columns, "out")
    cdef void (*function)(ptrdiff_t, const void *, void *) noexcept nogil
    if name == "exp":
        function = t.exp
    elif name == "log":
        function = t.log
    elif name == "log1p":
        function = t.log1p
    elif name == "tanh":
        function = t.tanh
    elif name == "sigmoid":
        function = t.sigmoid
    else:
        raise ValueError(f"name must be exp, log, log1p, tanh or sigmoid, got {name!r}")
    with nogil:
        function(x_.columns, x_.data, out_.data)


def fma_loop(ptrdiff_t turns, int itemsize):
    """Run so many turns of FMAs in registers, float32 or float64 by size; gives the operations done."""
    cdef const fastnn_kernels *t = kernel_table(itemsize)
    if t == NULL:
        raise ValueError(f"itemsize must be 4 or 8, got {itemsize}")
    with nogil:
        done = t.fma_loop(turns)
    return done
