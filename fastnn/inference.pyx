# cython: language_level=3
"""A network as C structs over one block of parameters, its buffers, and the way of a batch through it."""
from cpython.ref cimport Py_INCREF
from libc.math cimport isfinite
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from fastnn.kernels cimport (
    FASTNN_identity, FASTNN_relu, fastnn_epilogue, fastnn_kernels, kernel_table, run_team, team_barrier, thread_limit,
    told_to_stop,
)

import numpy as np

from fastnn.kernels import ACTIVATIONS

cdef extern from *:
    const char *FASTNN_BUILD

cdef extern from "tuning.h" nogil:
    enum: CHUNK_BYTES
    enum: SIGNAL_MILLISECONDS

cdef extern from "pages.h" nogil:
    void fastnn_ask_for_large_pages(void *block, size_t n_bytes)

cdef extern from "Python.h":
    int PyErr_CheckSignals() noexcept
    void PyErr_Fetch(PyObject **type, PyObject **value, PyObject **traceback) noexcept
    void PyErr_Restore(PyObject *type, PyObject *value, PyObject *traceback) noexcept

BUILD = FASTNN_BUILD.decode()

cdef dict KINDS = {
    "dense": DENSE, "activation": ACTIVATION, "dropout": DROPOUT, "scale": SCALE, "embedding": EMBEDDING,
    "add": ADD, "columns": COLUMNS, "join": JOIN,
    "batch_norm": BATCH_NORM, "layer_norm": LAYER_NORM, "rms_norm": RMS_NORM, "prelu": PRELU,
    "alpha_dropout": ALPHA_DROPOUT, "noise": NOISE, "periodic": PERIODIC, "piecewise": PIECEWISE,
    "scale_columns": SCALE_COLUMNS,
}


cdef ptrdiff_t padded_ld(ptrdiff_t n, ptrdiff_t size) noexcept nogil:
    """Whole 64-byte lines, from four on an odd number of them: a column strip of many rows then spreads over all
    sets of the cache, where rows at a power of two would meet in a few (512 floats apart in 4 of L1's 64)."""
    cdef ptrdiff_t line = 64 // size, lines = (n + line - 1) // line
    return (lines | 1 if lines >= 4 else lines) * line


cdef char *allocate(ptrdiff_t n_bytes) except NULL:
    """Zeroed bytes on a 64-byte boundary with 64 to spare; the pointer to free stands before them."""
    cdef char *raw = <char *>calloc(1, n_bytes + 192)
    if raw == NULL:
        raise MemoryError(f"{n_bytes} bytes for the buffers of a program")
    fastnn_ask_for_large_pages(raw, n_bytes + 192)
    cdef char *aligned = raw + 64 + (64 - <size_t>raw % 64) % 64
    (<char **>aligned - 1)[0] = raw
    return aligned


cdef void release(char **block) noexcept:
    if block[0] != NULL:
        free((<char **>block[0] - 1)[0])
        block[0] = NULL


cdef int describe(Net *net, tuple steps, Array parameters, Array buffers) except -1:
    """Fill a zeroed net from `fastnn.layers.Step` descriptions over a block of parameters."""
    cdef ptrdiff_t i
    cdef Layer *s
    names = list(ACTIVATIONS)
    net.size, net.parameters, net.table = parameters.itemsize, parameters.data, kernel_table(parameters.itemsize)
    net.n_steps = len(steps)
    net.layers = <Layer *>calloc(max(1, net.n_steps), sizeof(Layer))
    if net.layers == NULL:
        raise MemoryError
    net.n_in, net.n_out = steps[0].n_in, steps[net.n_steps - 1].n_out
    net.n_y = net.n_out
    for i, step in enumerate(steps):
        s = &net.layers[i]
        s.kind = KINDS[step.kind]
        s.activation = names.index(step.activation)
        s.rowwise = ACTIVATIONS[step.activation] == "rowwise"
        s.from_input = ACTIVATIONS[step.activation] == "from_input"
        s.layer, s.rate, s.n_in, s.n_out = step.draws, step.rate, step.n_in, step.n_out
        s.ld = padded_ld(s.n_out, net.size)
        s.weight, s.bias, s.factor, s.shift = step.weight, step.bias, step.factor, step.shift
        net.n_parameters += step.n_parameters
        s.trained = step.n_parameters > 0
        describe_layer(net, s, step)
        describe_sources(net, i, step.sources or (i - 1,), step.columns)
        if s.kind == DENSE:
            s.slack = parameters.columns - (s.weight + s.n_in * s.n_out)
        elif s.kind == EMBEDDING:
            # beyond these, neighbouring whole numbers are one and the same real
            describe_tables(s, step.tables, 2 ** (24 if net.size == 4 else 53))
        elif s.kind == BATCH_NORM:
            net.coupled = True
            net.counts = net.counts or s.momentum < 0
            if buffers is None or buffers.itemsize != net.size or buffers.columns < s.running + step.n_buffers:
                raise ValueError(f"buffers must have {8 * net.size}-bit numbers for the statistics of step {i}")
            net.buffers = buffers.data
    describe_gradients(net)
    if parameters.rows != 1 or parameters.columns < net.n_parameters:
        raise ValueError(f"parameters must have {net.n_parameters} elements, got {parameters.columns}")
    describe_prediction(net)
    return 0


cdef int describe_sources(Net *net, ptrdiff_t i, sources, columns) except -1:
    """What step i reads."""
    cdef Layer *s = &net.layers[i]
    cdef ptrdiff_t j
    s.n_sources = len(sources)
    s.sources = <ptrdiff_t *>calloc(s.n_sources, sizeof(ptrdiff_t))
    s.values = <ptrdiff_t *>calloc(s.n_sources, sizeof(ptrdiff_t))
    s.adds = <bint *>calloc(s.n_sources, sizeof(bint))
    s.columns = <int64_t *>calloc(max(1, len(columns)), sizeof(int64_t))
    if s.sources == NULL or s.values == NULL or s.adds == NULL or s.columns == NULL:
        raise MemoryError
    for j, source in enumerate(sources):
        if not -1 <= source < i:
            raise ValueError(f"step {i} must read earlier steps, got {source}")
        s.sources[j] = source
        if source >= 0 and net.layers[source].trained:
            s.trained = s.needs_dx = True
    for j, column in enumerate(columns):
        if not 0 <= column < s.n_in:
            raise ValueError(f"columns of step {i} must be below {s.n_in}, got {column}")
        s.columns[j] = column
    return 0


cdef int describe_gradients(Net *net) except -1:
    """Where gradients add up, and what the fast ways may take for granted."""
    cdef ptrdiff_t i, j, source
    cdef Layer *s
    cdef ptrdiff_t *n_readers = <ptrdiff_t *>calloc(net.n_steps + 1, sizeof(ptrdiff_t))  # of the input, of step 0 ..
    if n_readers == NULL:
        raise MemoryError
    net.chain, net.first_trained = True, net.n_steps
    for i in range(net.n_steps - 1, -1, -1):
        s = &net.layers[i]
        if s.trained:
            net.first_trained = i
        net.chain = net.chain and s.n_sources == 1 and s.sources[0] == i - 1
        for j in range(s.n_sources):
            s.adds[j] = n_readers[s.sources[j] + 1] > 0
            n_readers[s.sources[j] + 1] += 1
    for i in range(net.n_steps):
        s = &net.layers[i]
        source = s.sources[0]
        if s.kind == DENSE and s.needs_dx and n_readers[source + 1] == 1 and net.layers[source].kind == DENSE:
            if not net.layers[source].rowwise:
                net.layers[source].gated = net.layers[source].activation != FASTNN_identity
        elif s.kind == ACTIVATION and source >= 0 and net.layers[source].kind == BATCH_NORM and not s.rowwise:
            if n_readers[source + 1] == 1:
                net.layers[source].with_next, s.is_done = i, True
    s = &net.layers[0]
    net.scales_first = s.kind == SCALE and n_readers[0] == 1
    net.x_factor = s.factor if net.scales_first else 1.0
    net.x_shift = s.shift if net.scales_first else 0.0
    free(n_readers)
    return 0


cdef int describe_prediction(Net *net) except -1:
    """What prediction would else find out anew in each call."""
    cdef ptrdiff_t i
    cdef Layer *s
    cdef fastnn_dense *d = NULL
    cdef bint straight = True
    net.last_room, net.widest, net.n_slots, net.plain = -1, padded_ld(net.n_in, net.size), 2, net.chain
    net.dense = <fastnn_dense *>calloc(max(1, net.n_steps), sizeof(fastnn_dense))
    if net.dense == NULL:
        raise MemoryError
    for i in range(net.n_steps):
        s = &net.layers[i]
        if i < net.n_steps - 1:
            net.widest = max(net.widest, s.ld)
        if s.kind == DENSE or s.kind == EMBEDDING:
            net.last_room = i
        if s.kind == DENSE:
            net.row_flops += 2.0 * s.n_in * s.n_out
            d = &net.dense[net.n_dense]
            net.n_dense += 1
            d.weight = net.parameters + s.weight * net.size
            d.bias = net.parameters + s.bias * net.size if s.bias >= 0 else NULL
            d.n_in, d.n_out, d.ld, d.slack, d.activation = s.n_in, s.n_out, s.n_out, s.slack, s.activation
        elif s.kind == ACTIVATION and d != NULL and d.activation == FASTNN_identity:
            d.activation = s.activation
        elif s.kind != DROPOUT:
            straight = False
        net.plain = net.plain and s.kind <= EMBEDDING
    if not straight or not net.chain:
        net.n_dense = 0
    if not net.plain:
        describe_slots(net)
    for i in range(net.n_dense - 1):
        net.widest_between = max(net.widest_between, padded_ld(net.dense[i].n_out, net.size))
    return 0


cdef int describe_slots(Net *net) except -1:
    """Room for each result of a block until its last reader is done. Room 0 is that of x, where it is converted."""
    cdef ptrdiff_t i, j, value, n_free = 0
    cdef Layer *s
    cdef ptrdiff_t *last = <ptrdiff_t *>calloc(net.n_steps + 1, sizeof(ptrdiff_t))  # readers of the input, of step 0 ..
    cdef ptrdiff_t *free_slots = <ptrdiff_t *>calloc(net.n_steps + 1, sizeof(ptrdiff_t))
    if last == NULL or free_slots == NULL:
        free(last)
        free(free_slots)
        raise MemoryError
    for i in range(net.n_steps):
        s = &net.layers[i]
        for j in range(s.n_sources):
            value = s.sources[j]
            while value >= 0 and is_left_out(&net.layers[value]):
                value = net.layers[value].sources[0]
            s.values[j] = value
            if not is_left_out(s):
                last[value + 1] = i
    net.final = net.n_steps - 1
    while net.final >= 0 and is_left_out(&net.layers[net.final]):
        net.final = net.layers[net.final].sources[0]
    net.n_slots = 1
    for i in range(net.n_steps):
        s = &net.layers[i]
        if is_left_out(s) or i == net.final:
            continue
        if n_free:
            n_free -= 1
            s.slot = free_slots[n_free]
        else:
            s.slot = net.n_slots
            net.n_slots += 1
        for value in range(i):
            if last[value + 1] == i and not is_left_out(&net.layers[value]):
                free_slots[n_free] = net.layers[value].slot
                n_free += 1
    free(last)
    free(free_slots)
    return 0


cdef bint is_left_out(const Layer *s) noexcept nogil:
    return s.kind == DROPOUT or s.kind == ALPHA_DROPOUT or s.kind == NOISE


cdef int describe_tables(Layer *s, tables, codes) except -1:
    s.tables = <fastnn_table *>calloc(max(1, len(tables)), sizeof(fastnn_table))
    if s.tables == NULL:
        raise MemoryError
    s.n_tables = len(tables)
    for i, table in enumerate(tables):
        if table.n_categories > codes:
            raise ValueError(f"n_categories of column {table.column} must be at most {codes} in this dtype, "
                             f"got {table.n_categories}")
        s.tables[i].column, s.tables[i].n_categories, s.tables[i].width = table.column, table.n_categories, table.width
        s.tables[i].weight, s.tables[i].out = table.weight, table.out
    return 0


cdef void forget(Net *net) noexcept:
    cdef ptrdiff_t i
    for i in range(net.n_steps if net.layers != NULL else 0):
        free(net.layers[i].tables)
        free(net.layers[i].sources)
        free(net.layers[i].values)
        free(net.layers[i].adds)
        free(net.layers[i].columns)
        release(&net.layers[i].line)
        free(net.layers[i].n_edges)
        free(net.layers[i].edges)
    free(net.layers)
    free(net.dense)
    free(net.rules)
    free(net.squares)
    free(net.column_squares)
    net.column_squares = NULL
    release(&net.gradient)
    net.layers, net.dense, net.rules, net.squares = NULL, NULL, NULL, NULL


cdef void free_batch(Net *net) noexcept:
    cdef ptrdiff_t i
    cdef Layer *s
    if net.scales_first:
        net.layers[0].a = NULL  # net.x by another name
    for i in range(net.n_steps):
        s = &net.layers[i]
        release(&s.a)
        release(&s.d)
        release(&s.slope)
        release(&s.mask)
        release(&s.stats)
    release(&net.x)
    release(<char **>&net.labels)
    release(&net.y)
    release(<char **>&net.weight)
    release(<char **>&net.loss_rows)
    release(&net.scratch)
    release(&net.gradients)
    release(&net.small)
    net.capacity = net.gradient_threads = net.small_bytes = 0


cdef int prepare_batch(Net *net, ptrdiff_t batch, int n_threads) except -1:
    cdef ptrdiff_t i, j, t, widest = 1, widest_table = 0
    cdef Layer *s
    net.table = kernel_table(net.size)
    if batch <= net.capacity and n_threads <= net.gradient_threads:
        return 0
    batch = max(batch, net.capacity)
    n_threads = max(n_threads, net.gradient_threads)
    free_batch(net)
    for i in range(net.n_steps):
        s = &net.layers[i]
        widest = max(widest, s.n_out)
        for t in range(s.n_tables):
            widest_table = max(widest_table, s.tables[t].n_categories * s.tables[t].width)
        if i > 0 or not net.scales_first:
            s.a = allocate(batch * s.ld * net.size)
        s.d = allocate(batch * s.ld * net.size)
        if s.from_input:
            s.slope = allocate(batch * s.ld * net.size)
        for j in range(s.n_sources):
            if s.adds[j] and s.needs_dx:
                net.ld_scratch = max(net.ld_scratch, net.layers[s.sources[j]].ld if s.sources[j] >= 0 else 0)
        if s.kind == BATCH_NORM:
            s.stats = allocate(4 * s.n_out * net.size)
        elif s.kind == LAYER_NORM or s.kind == RMS_NORM:
            s.stats = allocate(2 * batch * net.size)
        if s.kind == DROPOUT or s.kind == ALPHA_DROPOUT:
            s.mask = allocate(batch * s.ld * net.size)
    net.ld_x = padded_ld(net.n_in, net.size)
    net.x = allocate(batch * net.ld_x * net.size)
    if net.scales_first:
        net.layers[0].a = net.x
    if net.ld_scratch:
        net.scratch = allocate(batch * net.ld_scratch * net.size)
    net.labels = <int64_t *>allocate(batch * sizeof(int64_t))
    net.y = allocate(batch * net.n_y * net.size)
    net.weight = <double *>allocate(batch * sizeof(double))
    net.loss_rows = <double *>allocate(batch * sizeof(double))
    # of biases and of tables; a line more keeps threads out of each other's lines
    net.gradient_bytes = max(widest, widest_table) * net.size + 64
    net.gradients = allocate(n_threads * net.gradient_bytes)
    net.gradient_threads = n_threads
    net.capacity = batch
    return 0


cdef int prepare_small(Net *net, ptrdiff_t n_bytes) except -1:
    if n_bytes > net.small_bytes:
        release(&net.small)
        net.small_bytes = 0
        net.small = allocate(n_bytes)
        net.small_bytes = n_bytes
    return 0


cdef char *tells_slope(const Layer *s) noexcept nogil:
    return s.slope if s.from_input else s.a


cdef const char *source_of(const Net *net, const Layer *s, ptrdiff_t j, ptrdiff_t first,
                           ptrdiff_t *ld) noexcept nogil:
    cdef const Layer *source
    if s.sources[j] < 0:
        ld[0] = net.ld_x
        return net.x + first * net.ld_x * net.size
    source = &net.layers[s.sources[j]]
    ld[0] = source.ld
    return source.a + first * source.ld * net.size


cdef void join(const Net *net, const Layer *s, const Part *part) noexcept nogil:
    """The sources of a step side by side."""
    cdef ptrdiff_t size = net.size, at = 0, ld = 0, n, i, j
    cdef const char *x
    for j in range(s.n_sources):
        x = source_of(net, s, j, part.first, &ld)
        n = net.layers[s.sources[j]].n_out if s.sources[j] >= 0 else net.n_in
        for i in range(part.last - part.first):
            memcpy(s.a + ((part.first + i) * s.ld + at) * size, x + i * ld * size, n * size)
        at += n


cdef void forward(const Net *net, uint64_t step, bint training, bint slopes, const Part *part) noexcept nogil:
    cdef const fastnn_kernels *t = net.table
    cdef ptrdiff_t first = part.first, size = net.size, rows = part.last - first, ld = net.ld_x, ld_second = 0, i
    cdef const char *x = net.x + first * ld * size
    cdef const char *second
    cdef char *a
    cdef Layer *s
    cdef fastnn_epilogue e
    memset(&e, 0, sizeof(e))
    for i in range(net.n_steps):
        s = &net.layers[i]
        a = s.a + first * s.ld * size
        if not net.chain:
            x = source_of(net, s, 0, first, &ld)
        if s.kind == DENSE:
            e.bias = net.parameters + s.bias * size if s.bias >= 0 else NULL
            e.activation = FASTNN_identity if slopes and s.from_input else s.activation
            t.dense(rows, s.n_out, s.n_in, x, ld, 1, net.parameters + s.weight * size, s.n_out, s.slack, a, s.ld, &e)
            if slopes and s.from_input:
                t.activation_and_slope(s.activation, rows, s.n_out, a, s.ld, a, s.ld, s.slope + first * s.ld * size,
                                       s.ld)
        elif s.is_done:
            pass
        elif s.kind == ACTIVATION and slopes and s.from_input:
            t.activation_and_slope(s.activation, rows, s.n_out, x, ld, a, s.ld, s.slope + first * s.ld * size, s.ld)
        elif s.kind == ACTIVATION:
            t.activation(s.activation, rows, s.n_out, x, ld, a, s.ld)
        elif s.kind == EMBEDDING:
            t.embed(rows, s.n_in, s.n_tables, s.tables, net.parameters, x, ld, a, s.ld)
        elif s.kind == SCALE:
            if i > 0 or not net.scales_first:
                t.scale(rows, s.n_out, s.factor, s.shift, x, ld, a, s.ld)
        elif s.kind == ADD:
            second = source_of(net, s, 1, first, &ld_second)
            t.add(rows, s.n_out, x, ld, second, ld_second, a, s.ld)
        elif s.kind == COLUMNS:
            t.take_columns(rows, s.n_out, s.columns, x, ld, a, s.ld)
        elif s.kind == JOIN:
            join(net, s, part)
        elif is_left_out(s):
            memcpy(a, x, rows * s.ld * size)  # the step before has the same width, so the same ld
            if training:
                add_noise(net, s, step, first, rows, a)
        elif s.kind == BATCH_NORM:
            batch_norm(net, s, slopes, slopes, part)
        else:
            apply_layer(net, s, rows, x, ld, a, s.ld, s.stats + 2 * first * size if s.stats != NULL else NULL)
        x, ld = a, s.ld


include "inference_layers.pxi"


cdef bint all_finite(const char *a, ptrdiff_t m, ptrdiff_t n, ptrdiff_t ld, ptrdiff_t size) noexcept:
    cdef ptrdiff_t i, j
    for i in range(m):
        for j in range(n):
            if not isfinite((<const float *>a)[i * ld + j] if size == 4 else (<const double *>a)[i * ld + j]):
                return False
    return True


cdef ptrdiff_t first_not_finite(const Net *net, ptrdiff_t batch) noexcept:
    cdef ptrdiff_t i
    if not all_finite(net.x, batch, net.n_in, net.ld_x, net.size):
        return -1
    for i in range(net.n_steps):
        if not all_finite(net.layers[i].a, batch, net.layers[i].n_out, net.layers[i].ld, net.size):
            return i
    return net.n_steps


cdef double seconds() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec + 1e-9 * now.tv_nsec


cdef void begin_watch(Watch *w) noexcept:
    memset(w, 0, sizeof(w[0]))
    w.next_look = seconds() + 1e-3 * SIGNAL_MILLISECONDS


cdef void look(Watch *w) noexcept nogil:
    cdef double now = seconds()
    if now < w.next_look:
        return
    w.next_look = now + 1e-3 * SIGNAL_MILLISECONDS
    with gil:
        if told_to_stop():
            keep_exception(w, KeyboardInterrupt())
            return
        if PyErr_CheckSignals():  # does nothing in other threads than Python's main one
            PyErr_Fetch(&w.exception[0], &w.exception[1], &w.exception[2])
            w.interrupted = True


cdef void keep_exception(Watch *w, object error) noexcept:
    if w.interrupted:
        return
    cdef object kind = type(error), trace = error.__traceback__
    for one in (kind, error, trace):
        Py_INCREF(one)
    w.exception[0], w.exception[1] = <PyObject *>kind, <PyObject *>error
    w.exception[2] = <PyObject *>trace if trace is not None else NULL
    w.interrupted = True


cdef int raise_again(Watch *w) except -1:
    PyErr_Restore(w.exception[0], w.exception[1], w.exception[2])
    return -1


cdef void take_row(const Net *net, const char *x, bint is_bytes, char *out) noexcept nogil:
    if is_bytes:
        net.table.widen(net.n_in, <const uint8_t *>x, net.x_factor, net.x_shift, out)
    elif net.scales_first:
        net.table.scale(1, net.n_in, net.x_factor, net.x_shift, x, net.n_in, out, net.n_in)
    else:
        memcpy(out, x, net.n_in * net.size)
