# Included by prediction.pyx: a block of rows through a net whose steps are more than a plain chain.

cdef struct Place:
    char *a
    ptrdiff_t ld


cdef Place place_of(const Net *net, const Prediction *p, ptrdiff_t value, char *x, ptrdiff_t ld_x, char *out,
                    char *scratch) noexcept nogil:
    """Where the result of a step lies; -1: the input."""
    cdef Place place
    if value < 0:
        place.a, place.ld = x, ld_x
    elif value == net.final:
        place.a, place.ld = out, net.n_out
    else:
        place.a, place.ld = scratch + net.layers[value].slot * p.block_bytes, net.layers[value].ld
    return place


cdef void copy_rows(ptrdiff_t rows, ptrdiff_t n_bytes, const char *x, ptrdiff_t ld_bytes, char *out,
                    ptrdiff_t ld_out_bytes) noexcept nogil:
    cdef ptrdiff_t i
    for i in range(rows):
        memcpy(out + i * ld_out_bytes, x + i * ld_bytes, n_bytes)


cdef void predict_graph(Prediction *p, int thread, ptrdiff_t first, ptrdiff_t rows, char *scratch) noexcept nogil:
    """A block of rows through all steps, each into a room of its own, which is free after its last reader."""
    cdef const Net *net = p.net
    cdef const fastnn_kernels *t = net.table
    cdef ptrdiff_t size = net.size, x_size = 1 if p.is_bytes else size, ld = p.ld_x, i, j, at, n
    cdef char *x = <char *>p.x + first * ld * x_size  # not written to
    cdef char *out = p.out + first * net.n_out * size
    cdef Layer *s
    cdef Place to, from_, second
    cdef fastnn_epilogue e
    memset(&e, 0, sizeof(e))
    if p.is_bytes or net.scales_first:
        n = padded_ld(net.n_in, size)
        for i in range(rows):
            take_row(net, x + i * ld * x_size, p.is_bytes, scratch + i * n * size)
        x, ld = scratch, n
    for i in range(net.n_steps):
        s = &net.layers[i]
        if is_left_out(s):
            continue
        if i > 0 and given_up(p, thread):
            return
        to = place_of(net, p, i, x, ld, out, scratch)
        from_ = place_of(net, p, s.values[0], x, ld, out, scratch)
        if s.kind == DENSE:
            e.bias = net.parameters + s.bias * size if s.bias >= 0 else NULL
            e.activation = s.activation
            t.dense(rows, s.n_out, s.n_in, from_.a, from_.ld, 1, net.parameters + s.weight * size, s.n_out, s.slack,
                     to.a, to.ld, &e)
        elif s.kind == ACTIVATION:
            t.activation(s.activation, rows, s.n_out, from_.a, from_.ld, to.a, to.ld)
        elif s.kind == EMBEDDING:
            t.embed(rows, s.n_in, s.n_tables, s.tables, net.parameters, from_.a, from_.ld, to.a, to.ld)
        elif s.kind == SCALE:
            if i == 0 and net.scales_first:
                copy_rows(rows, s.n_out * size, from_.a, from_.ld * size, to.a, to.ld * size)
            else:
                t.scale(rows, s.n_out, s.factor, s.shift, from_.a, from_.ld, to.a, to.ld)
        elif s.kind == ADD:
            second = place_of(net, p, s.values[1], x, ld, out, scratch)
            t.add(rows, s.n_out, from_.a, from_.ld, second.a, second.ld, to.a, to.ld)
        elif s.kind == COLUMNS:
            t.take_columns(rows, s.n_out, s.columns, from_.a, from_.ld, to.a, to.ld)
        elif s.kind == JOIN:
            at = 0
            for j in range(s.n_sources):
                from_ = place_of(net, p, s.values[j], x, ld, out, scratch)
                n = net.layers[s.values[j]].n_out if s.values[j] >= 0 else net.n_in
                copy_rows(rows, n * size, from_.a, from_.ld * size, to.a + at * size, to.ld * size)
                at += n
        elif s.kind == BATCH_NORM:
            t.norm_columns(rows, s.n_out, s.eps, net.buffers + s.running * size,
                           net.buffers + (s.running + s.n_out) * size,
                           net.parameters + s.weight * size if s.weight >= 0 else NULL,
                           net.parameters + s.bias * size if s.bias >= 0 else NULL, False, from_.a, from_.ld, to.a,
                           to.ld)
        else:
            apply_layer(net, s, rows, from_.a, from_.ld, to.a, to.ld, NULL)
    if net.final < 0:
        copy_rows(rows, net.n_out * size, x, ld * size, out, net.n_out * size)
