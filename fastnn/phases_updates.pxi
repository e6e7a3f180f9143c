# Included by phases.pyx: updates, of one weight as its gradient is known, or of all when the whole gradient is.


cdef const Rule *rule_of(const Net *net, ptrdiff_t offset) noexcept nogil:
    """The rule of the weight that begins at an offset of the block."""
    cdef ptrdiff_t low = 0, high = net.n_rules - 1, middle
    while low < high:
        middle = (low + high + 1) // 2
        if net.rules[middle].offset <= offset:
            low = middle
        else:
            high = middle - 1
    return &net.rules[low]


cdef bint is_trained(const Run *r, ptrdiff_t offset) noexcept nogil:
    """Whether the gradient of the weight that begins there is wanted: of frozen ones only by `gradient`."""
    return r.rates == NULL or not rule_of(r.net, offset).frozen


cdef void update_by(const Net *net, const fastnn_update *u, const Rule *rule, ptrdiff_t offset, ptrdiff_t length,
                    const char *g) noexcept nogil:
    """One optimizer step on parameters offset .. offset + length by a rule; their gradient begins at g."""
    cdef fastnn_segment segment
    cdef void *states[FASTNN_STATES]
    cdef ptrdiff_t at = offset * net.size
    cdef int q
    segment.offset, segment.length, segment.lr, segment.decay, segment.l1 = 0, length, rule.lr, rule.decay, rule.l1
    for q in range(FASTNN_STATES):
        states[q] = net.states[q] + at if net.states[q] != NULL else NULL
    net.table.update(u, 1, &segment, net.parameters + at, g, states)


cdef void update_parameters(const Net *net, const fastnn_update *u, ptrdiff_t offset, ptrdiff_t length,
                            const char *g) noexcept nogil:
    """One optimizer step on the weight at offset .. offset + length, whose gradient begins at g."""
    update_by(net, u, rule_of(net, offset), offset, length, g)


# ------------------------------------------------------------------ when the whole gradient is known


cdef ptrdiff_t first_block(const Net *net, int thread, int n_threads) noexcept nogil:
    """First of the blocks of the parameters that are a thread's share: the blocks of `dot`, so that a norm does not
    depend on the number of threads."""
    return (net.n_parameters + FASTNN_DOT_BLOCK - 1) // FASTNN_DOT_BLOCK * thread // n_threads


cdef double clip_factor(const Net *net) noexcept nogil:
    """What the gradient is multiplied by, from the sums of squares of its blocks: torch.nn.utils.clip_grad_norm_."""
    cdef ptrdiff_t i
    cdef double total = 0, factor
    for i in range(first_block(net, 1, 1)):
        total += net.squares[i]
    factor = net.clip_norm / (sqrt(total) + 1e-6)
    return factor if not factor >= 1 else 1  # NaN stays


cdef bint update_phase(Run *r, const fastnn_update *u, uint64_t step, int thread, int n_threads) noexcept nogil:
    """From the gradient of a batch in its block to the update of this thread's share; False: the batch was only added
    to others before it. The gradient is complete when this is called."""
    cdef Net *net = r.net
    cdef ptrdiff_t size = net.size, block, first, last, i, begin, end
    cdef double weight = net.accumulated_weight[0] if net.accumulated != NULL else 0
    cdef double factor = 1
    cdef const Rule *rule
    cdef char *g
    cdef ptrdiff_t first_of_share = first_block(net, thread, n_threads)
    cdef ptrdiff_t last_of_share = first_block(net, thread + 1, n_threads)
    first = min(net.n_parameters, first_of_share * FASTNN_DOT_BLOCK)
    last = min(net.n_parameters, last_of_share * FASTNN_DOT_BLOCK)
    g = net.gradient + first * size
    if net.accumulated != NULL:
        if step % net.accumulate == 0:
            memset(net.accumulated + first * size, 0, (last - first) * size)
        net.table.accumulate(last - first, r.batch_weight, g, net.accumulated + first * size)
        if (step + 1) % net.accumulate:
            return False
        factor = 1 / weight if weight > LEAST_WEIGHT else 0
        net.table.scale(1, last - first, factor, 0, net.accumulated + first * size, last - first, g, last - first)
    if u.clip_value > 0 and net.clip_norm > 0:  # by value first; the kernel of the update does it otherwise
        clip_values(net, u.clip_value, g, last - first)
    if net.clip_norm > 0:
        for block in range(first_of_share, last_of_share):
            begin = block * FASTNN_DOT_BLOCK
            end = min(net.n_parameters, begin + FASTNN_DOT_BLOCK)
            net.squares[block] = net.table.dot(end - begin, net.gradient + begin * size, net.gradient + begin * size)
        team_barrier(thread, n_threads)
        factor = clip_factor(net)
        if factor != 1:
            net.table.scale(1, last - first, factor, 0, g, last - first, g, last - first)
    for i in range(net.n_rules):
        rule = &net.rules[i]
        begin, end = max(first, rule.offset), min(last, rule.offset + rule.length)
        if begin < end and not rule.frozen:
            update_by(net, u, rule, begin, end - begin, net.gradient + begin * size)
    return True


cdef void clip_values(const Net *net, double most, char *g, ptrdiff_t n) noexcept nogil:
    """Cut n numbers to -most .. most; NaN stays."""
    cdef float *single = <float *>g
    cdef double *double_ = <double *>g
    cdef float most_single = <float>most
    cdef ptrdiff_t i
    if net.size == 4:
        for i in range(n):
            single[i] = most_single if single[i] > most_single else -most_single if single[i] < -most_single else single[i]
    else:
        for i in range(n):
            double_[i] = most if double_[i] > most else -most if double_[i] < -most else double_[i]


cdef void after_phase(Run *r, uint64_t n_updates, int thread, int n_threads) noexcept nogil:
    """What follows an update, which all threads have begun: the limits of the columns, the average."""
    cdef Net *net = r.net
    cdef ptrdiff_t size = net.size, line = 64 // size, i, lines, first, last
    cdef const Rule *rule
    if net.limited:
        team_barrier(thread, n_threads)
        for i in range(net.n_rules):
            rule = &net.rules[i]
            if rule.max_norm == 0 or rule.frozen:
                continue
            lines = (rule.columns + line - 1) // line
            first, last = lines * thread // n_threads * line, min(rule.columns, lines * (thread + 1) // n_threads * line)
            if first < last:
                net.table.limit_columns(rule.length // rule.columns, last - first, rule.max_norm,
                                        net.parameters + (rule.offset + first) * size, rule.columns)
    if net.average != NULL:
        team_barrier(thread, n_threads)
        first = min(net.n_parameters, first_block(net, thread, n_threads) * FASTNN_DOT_BLOCK)
        last = min(net.n_parameters, first_block(net, thread + 1, n_threads) * FASTNN_DOT_BLOCK)
        if n_updates == 1:
            memcpy(net.average + first * size, net.parameters + first * size, (last - first) * size)
        else:
            net.table.average(last - first, 1 - net.ema, net.parameters + first * size, net.average + first * size)
