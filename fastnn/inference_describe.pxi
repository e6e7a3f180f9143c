# Included by inference.pyx: from descriptions of steps to the C structs that batches and predictions go by.

cdef dict KINDS = {
    "dense": DENSE, "activation": ACTIVATION, "dropout": DROPOUT, "scale": SCALE, "embedding": EMBEDDING,
    "add": ADD, "columns": COLUMNS, "join": JOIN,
    "batch_norm": BATCH_NORM, "layer_norm": LAYER_NORM, "rms_norm": RMS_NORM, "prelu": PRELU,
    "alpha_dropout": ALPHA_DROPOUT, "noise": NOISE, "periodic": PERIODIC, "piecewise": PIECEWISE,
    "scale_columns": SCALE_COLUMNS,
}


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
