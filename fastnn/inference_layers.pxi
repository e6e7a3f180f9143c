# Included by inference.pyx: steps that normalise, bend, blur and spread their input.

cdef int describe_layer(Net *net, Layer *s, step) except -1:
    """What only some kinds of steps have."""
    cdef ptrdiff_t j, n = 0
    s.eps, s.momentum, s.running = step.eps, step.momentum, step.running
    if s.kind == RMS_NORM and s.eps < 0:
        s.eps = np.finfo(np.float32 if net.size == 4 else np.float64).eps
    s.centred = s.kind != RMS_NORM
    s.shared = s.kind == PRELU and step.weight_shape == (1,)
    if s.kind == PERIODIC:
        s.k = step.weight_shape[1]
    if s.kind == ALPHA_DROPOUT:
        s.factor, s.shift, s.dropped = step.factor, step.shift, step.dropped
    if s.kind == SCALE_COLUMNS:
        s.line = allocate(4 * s.n_out * net.size)
        for j, number in enumerate([0] * s.n_out + [1] * s.n_out + list(step.factors) + list(step.shifts)):
            if net.size == 4:
                (<float *>s.line)[j] = <float><double>number
            else:
                (<double *>s.line)[j] = number
    if s.kind != PIECEWISE:
        return 0
    s.n_edges = <int64_t *>calloc(max(1, s.n_in), sizeof(int64_t))
    s.edges = <double *>calloc(sum([len(edges) for edges in step.edges]) + 1, sizeof(double))
    if s.n_edges == NULL or s.edges == NULL:
        raise MemoryError
    for j, edges in enumerate(step.edges):
        rounded = np.asarray(edges, np.float32 if net.size == 4 else np.float64)
        if not (np.diff(rounded) > 0).all():
            raise ValueError(f"edges of bins[{j}] must be {8 * net.size}-bit numbers that rise, got {edges}")
        s.n_edges[j] = len(edges)
        for edge in rounded.tolist():
            s.edges[n] = edge
            n += 1
    return 0


cdef Layer *end_of(const Net *net, Layer *s) noexcept nogil:
    """The step whose output a normalising step writes: the activation that follows it, or itself."""
    return &net.layers[s.with_next] if s.with_next else s


cdef void share_of_columns(const Part *part, ptrdiff_t n, ptrdiff_t size, ptrdiff_t *first,
                           ptrdiff_t *last) noexcept nogil:
    """A thread's columns of n, by whole lines."""
    cdef ptrdiff_t unit = 64 // size, units = (n + unit - 1) // unit
    first[0] = min(n, unit * (units * part.thread // part.n_threads))
    last[0] = min(n, unit * (units * (part.thread + 1) // part.n_threads))


cdef void batch_norm(const Net *net, Layer *s, bint statistics, bint slopes, const Part *part) noexcept nogil:
    """A step and the activation after it. With `statistics` those of the batch, for which the team waits twice."""
    cdef const fastnn_kernels *t = net.table
    cdef ptrdiff_t size = net.size, c = 0, c_end = 0, ld = 0, row, rows, chunk
    cdef Layer *end = end_of(net, s)
    cdef const char *x
    cdef char *a
    cdef char *slope
    cdef char *mean = s.stats
    cdef char *var = s.stats + s.n_out * size
    if statistics:
        team_barrier(part.thread, part.n_threads)  # all rows of the source are there
        share_of_columns(part, s.n_out, size, &c, &c_end)
        x = source_of(net, s, 0, 0, &ld)
        if c < c_end:
            t.column_moments(part.batch, c_end - c, x + c * size, ld, mean + c * size, var + c * size)
        team_barrier(part.thread, part.n_threads)
    else:
        mean = net.buffers + s.running * size
        var = mean + s.n_out * size
    chunk = max(1, CHUNK_BYTES // (end.ld * size))
    row = part.first
    while row < part.last:
        rows = min(chunk, part.last - row)
        x = source_of(net, s, 0, row, &ld)
        a = end.a + row * end.ld * size
        t.norm_columns(rows, s.n_out, s.eps, mean, var, net.parameters + s.weight * size if s.weight >= 0 else NULL,
                       net.parameters + s.bias * size if s.bias >= 0 else NULL, end.activation == FASTNN_relu, x, ld,
                       a, end.ld)
        if slopes and end.from_input:
            slope = end.slope + row * end.ld * size
            t.activation_and_slope(end.activation, rows, s.n_out, a, end.ld, a, end.ld, slope, end.ld)
        elif end.activation != FASTNN_identity and end.activation != FASTNN_relu:
            t.activation(end.activation, rows, s.n_out, a, end.ld, a, end.ld)
        row += rows


cdef void apply_layer(const Net *net, const Layer *s, ptrdiff_t rows, const char *x, ptrdiff_t ld, char *a,
                      ptrdiff_t ld_a, char *stats) noexcept nogil:
    """What one of these steps gives, the same in training and prediction; stats: of norm_rows, or NULL."""
    cdef const fastnn_kernels *t = net.table
    cdef ptrdiff_t n
    cdef const char *weight = net.parameters + s.weight * net.size if s.weight >= 0 else NULL
    cdef const char *bias = net.parameters + s.bias * net.size if s.bias >= 0 else NULL
    if s.kind == LAYER_NORM or s.kind == RMS_NORM:
        t.norm_rows(rows, s.n_out, s.centred, s.eps, weight, bias, x, ld, a, ld_a, stats)
    elif s.kind == PRELU:
        t.prelu(rows, s.n_out, weight, s.shared, x, ld, a, ld_a)
    elif s.kind == PERIODIC:
        t.periodic(rows, s.n_in, s.k, weight, x, ld, a, ld_a)
    elif s.kind == PIECEWISE:
        t.piecewise(rows, s.n_in, s.n_edges, s.edges, x, ld, a, ld_a)
    elif s.kind == SCALE_COLUMNS:  # a norm with a mean of 0 and a variance of 1
        n = s.n_out * net.size
        t.norm_columns(rows, s.n_out, 0, s.line, s.line + n, s.line + 2 * n, s.line + 3 * n, False, x, ld, a, ld_a)


cdef void add_noise(const Net *net, const Layer *s, uint64_t step, ptrdiff_t first, ptrdiff_t rows,
                    char *a) noexcept nogil:
    """What a step of noise does to a copy of its input while training."""
    cdef const fastnn_kernels *t = net.table
    cdef char *mask = s.mask + first * s.ld * net.size if s.mask != NULL else NULL
    if s.kind == NOISE and s.factor > 0:
        t.gaussian_noise(net.seed, step, s.layer, s.factor, first, rows, s.n_out, a, s.ld)
    elif s.kind == DROPOUT and s.rate > 0:
        t.dropout(net.seed, step, s.layer, s.rate, first, rows, s.n_out, a, s.ld, mask, s.ld)
    elif s.kind == ALPHA_DROPOUT and s.rate > 0:
        # the mask alone, as what is dropped becomes another number than zero; d is not in use yet
        t.dropout(net.seed, step, s.layer, s.rate, first, rows, s.n_out, s.d + first * s.ld * net.size, s.ld, mask, s.ld)
        t.alpha_dropout(s.factor, s.shift, s.dropped, rows, s.n_out, a, s.ld, mask, s.ld)
