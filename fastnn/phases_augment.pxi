# Included by phases.pyx: what a training step does to the rows that it has gathered.

# In place of a layer's number in the counter of random numbers: no network has so many layers.
cdef uint32_t FIRST_AUGMENTED = 0xFF00


cdef void add_share(const Net *net, ptrdiff_t i, ptrdiff_t column, double share) noexcept nogil:
    """More of a class in the targets of row i."""
    if net.size == 4:
        (<float *>net.y)[i * net.n_y + column] += <float>share
    else:
        (<double *>net.y)[i * net.n_y + column] += share


cdef Bad mix(Run *r, uint32_t layer, double alpha, uint64_t step, const int64_t *order,
             const Part *part) noexcept nogil:
    """Rows of a part with those so many places further on in the batch, which may be another thread's: x has them."""
    cdef Net *net = r.net
    cdef ptrdiff_t size = net.size, i, j, row, own, shift = 0
    cdef double share, of_targets, weight
    cdef uint32_t word = 0
    cdef const char *other
    cdef char *room = r.row_of_thread + part.thread * net.ld_x * size
    share = kernel_table(8).mixup_share(net.seed, step, layer, alpha, &word)  # the same whatever the net's type
    if r.batch > 1:
        shift = 1 + <ptrdiff_t>(word * <uint64_t>(r.batch - 1) >> 32)
    for i in range(part.first, part.last):
        j = i + shift if i + shift < r.batch else i + shift - r.batch
        row = order[j] if order != NULL else j
        own = order[i] if order != NULL else i
        if not (0 <= row < r.n_rows and 0 <= own < r.n_rows):
            return CHANGED
        other = r.x + row * r.ld_x * r.x_size
        if net.scales_first or r.x_size == 1:
            take_row(net, other, r.x_size == 1, room)
            other = room
        net.table.mix(net.n_in, share, other, net.x + i * net.ld_x * size)
        of_targets = share
        if r.weight != NULL:  # each of the two counts as it would alone
            weight = share * r.weight[own] + (1 - share) * r.weight[row]
            if weight > 0:
                of_targets = share * r.weight[own] / weight
            net.weight[i] = weight
        if r.labels != NULL:
            memset(net.y + i * net.n_y * size, 0, net.n_y * size)
            if not 0 <= r.labels[row] < net.n_out:
                return CHANGED
            add_share(net, i, net.labels[i], of_targets)
            add_share(net, i, r.labels[row], 1 - of_targets)
        else:
            net.table.mix(net.n_y, of_targets, r.y + row * net.n_y * size, net.y + i * net.n_y * size)
    return FINE


cdef Bad augment(Run *r, uint64_t step, const int64_t *order, const Part *part) noexcept nogil:
    """All augmentations of a part of a batch, in their order."""
    cdef Net *net = r.net
    cdef ptrdiff_t size = net.size, i
    cdef uint32_t layer
    cdef double number, limit
    cdef fastnn_swap s
    cdef int q
    for q in range(r.n_augments):
        layer, number = FIRST_AUGMENTED + q, r.augments[q].number
        if r.augments[q].kind == MIXUP:
            if mix(r, layer, number, step, order, part) != FINE:
                return CHANGED
        elif r.augments[q].kind == SWAP:
            limit = number * 4294967296.0 + 0.5
            if limit < 1:
                continue
            s.seed, s.step, s.layer, s.order, s.batch = net.seed, step, layer, order, r.batch
            s.threshold = 0xFFFFFFFF if limit >= 4294967295.0 else <uint32_t>limit
            s.n_rows, s.n, s.ld_x, s.x, s.is_bytes = r.n_rows, net.n_in, r.ld_x, r.x, r.x_size == 1
            s.scaled, s.factor, s.shift = net.scales_first, net.x_factor, net.x_shift
            for i in range(part.first, part.last):
                if net.table.swap_noise(&s, i, net.x + i * net.ld_x * size) != 0:
                    return CHANGED
        else:  # in units of x as it was given
            net.table.gaussian_noise(net.seed, step, layer, number * net.x_factor, part.first, part.last - part.first,
                                     net.n_in, net.x + part.first * net.ld_x * size, net.ld_x)
    return FINE
