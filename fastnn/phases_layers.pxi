# Included by phases.pyx: the way back through steps that normalise, bend and spread their input.

cdef void backward_batch_norm(const Net *net, Layer *s, const Part *part, char *dx, ptrdiff_t ld_dx) noexcept nogil:
    """Sums over the batch, for which the team waits twice, and the gradient at the source where dx is not NULL."""
    cdef const fastnn_kernels *t = net.table
    cdef ptrdiff_t size = net.size, n = s.n_out, c = 0, c_end = 0, ld = 0, first = part.first
    cdef Layer *end = end_of(net, s)
    cdef char *stats = s.stats  # mean, variance, sums: see Layer
    cdef const char *x = source_of(net, s, 0, 0, &ld)
    team_barrier(part.thread, part.n_threads)
    share_of_columns(part, n, size, &c, &c_end)
    if c < c_end:
        t.norm_columns_sums(part.batch, c_end - c, s.eps, stats + c * size, stats + (n + c) * size, x + c * size, ld,
                            end.d + c * size, end.ld, stats + (2 * n + c) * size, stats + (3 * n + c) * size)
    team_barrier(part.thread, part.n_threads)
    if dx != NULL:
        t.norm_columns_backward(part.batch, part.last - first, n, s.eps, stats, stats + n * size,
                                net.parameters + s.weight * size if s.weight >= 0 else NULL, stats + 2 * n * size,
                                stats + 3 * n * size, x + first * ld * size, ld, end.d + first * end.ld * size, end.ld,
                                dx, ld_dx)


cdef void backward_layer(const Net *net, const Layer *s, ptrdiff_t first, ptrdiff_t rows, char *dx,
                         ptrdiff_t ld_dx) noexcept nogil:
    """The gradient of one of the other steps at its source."""
    cdef const fastnn_kernels *t = net.table
    cdef ptrdiff_t size = net.size, at = first * s.ld * size, ld = 0, n
    cdef const char *x = source_of(net, s, 0, first, &ld)
    cdef const char *weight = net.parameters + s.weight * size if s.weight >= 0 else NULL
    if s.kind == LAYER_NORM or s.kind == RMS_NORM:
        t.norm_rows_backward(rows, s.n_out, s.centred, weight, x, ld, s.stats + 2 * first * size, s.d + at, s.ld, dx,
                             ld_dx)
    elif s.kind == PRELU:
        t.prelu_backward(rows, s.n_out, weight, s.shared, x, ld, s.d + at, s.ld, dx, ld_dx)
    elif s.kind == PERIODIC:
        t.periodic_backward(rows, s.n_in, s.k, weight, s.a + at, s.ld, s.d + at, s.ld, dx, ld_dx)
    elif s.kind == PIECEWISE:
        t.piecewise_backward(rows, s.n_in, s.n_edges, s.edges, x, ld, s.d + at, s.ld, dx, ld_dx)
    elif s.kind == SCALE_COLUMNS:  # the same line without its shifts
        n = s.n_out * size
        t.norm_columns(rows, s.n_out, 0, s.line, s.line + n, s.line + 2 * n, s.line, False, s.d + at, s.ld, dx, ld_dx)


cdef double number_in(const Net *net, ptrdiff_t i) noexcept nogil:
    """Number i of the buffers."""
    return (<float *>net.buffers)[i] if net.size == 4 else (<double *>net.buffers)[i]


cdef void count_batch(Net *net) noexcept nogil:
    """One batch more for the norms whose running statistics are means over all batches."""
    cdef ptrdiff_t i, at
    if not net.counts:
        return
    for i in range(net.n_steps):
        if net.layers[i].kind == BATCH_NORM and net.layers[i].momentum < 0:
            at = net.layers[i].running + 2 * net.layers[i].n_out
            if net.size == 4:
                (<float *>net.buffers)[at] += 1
            else:
                (<double *>net.buffers)[at] += 1


cdef void take_gradient(Run *r, const fastnn_update *u, ptrdiff_t offset, ptrdiff_t length, const char *g) noexcept nogil:
    """A gradient of parameters to where it is wanted, or the step that it asks for."""
    cdef ptrdiff_t size = r.net.size
    if not is_trained(r, offset):
        return
    if r.gradient == NULL:
        update_parameters(r.net, u, offset, length, g)
    elif r.gradient + offset * size != g:
        memcpy(r.gradient + offset * size, g, length * size)


cdef void layer_phase(Run *r, const fastnn_update *u, Layer *s, int thread, int n_threads, char *room) noexcept nogil:
    """The weights phase of one of these steps: each thread has columns of its own."""
    cdef Net *net = r.net
    cdef const fastnn_kernels *t = net.table
    cdef ptrdiff_t size = net.size, n = s.n_out, c = 0, c_end = 0, ld = 0
    cdef const char *x = source_of(net, s, 0, 0, &ld)
    cdef char *stats = s.stats
    cdef char *buffers
    cdef double momentum
    cdef Part part
    part.thread, part.n_threads = thread, n_threads
    share_of_columns(&part, n, size, &c, &c_end)
    if s.kind == BATCH_NORM and c < c_end:
        if r.rates != NULL:
            buffers = net.buffers + s.running * size
            momentum = s.momentum
            if momentum < 0:  # counted by count_batch, which all threads have waited for
                momentum = 1 / number_in(net, s.running + 2 * n)
            t.running(c_end - c, momentum, 1, stats + c * size, buffers + c * size)
            t.running(c_end - c, momentum, <double>r.batch / (r.batch - 1), stats + (n + c) * size,
                      buffers + (n + c) * size)
        if s.weight >= 0:
            take_gradient(r, u, s.weight + c, c_end - c, stats + (3 * n + c) * size)
        if s.bias >= 0:
            take_gradient(r, u, s.bias + c, c_end - c, stats + (2 * n + c) * size)
    elif (s.kind == LAYER_NORM or s.kind == RMS_NORM) and c < c_end:
        if s.weight >= 0:
            t.norm_rows_gradient(r.batch, c_end - c, x + c * size, ld, stats, s.d + c * size, s.ld, room)
            take_gradient(r, u, s.weight + c, c_end - c, room)
        if s.bias >= 0:
            t.sum_rows(r.batch, c_end - c, s.d + c * size, s.ld, room)
            take_gradient(r, u, s.bias + c, c_end - c, room)
    elif s.kind == PRELU and s.shared:
        if thread == n_threads - 1:
            t.prelu_gradient(r.batch, n, True, x, ld, s.d, s.ld, room)
            take_gradient(r, u, s.weight, 1, room)
    elif s.kind == PRELU and c < c_end:
        t.prelu_gradient(r.batch, c_end - c, False, x + c * size, ld, s.d + c * size, s.ld, room)
        take_gradient(r, u, s.weight + c, c_end - c, room)
    elif s.kind == PERIODIC:
        c, c_end = s.n_in * thread // n_threads, s.n_in * (thread + 1) // n_threads
        if c < c_end:
            t.periodic_gradient(r.batch, c_end - c, s.k, x + c * size, ld, s.a + 2 * c * s.k * size, s.ld,
                                s.d + 2 * c * s.k * size, s.ld, room)
            take_gradient(r, u, s.weight + c * s.k, (c_end - c) * s.k, room)
