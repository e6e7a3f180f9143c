# cython: language_level=3
"""The two phases of a training step, each for one thread's share.

In the first, each thread takes its own rows of the batch through gather, forward, loss and backward. Rows never
meet, so nothing is waited for; but for coupled runs (batch normalisation, a loss of the user's), where the team
waits in the middle, always all of it or none. In the second, the rows of each weight matrix are split: a thread sums
the gradient of its rows over the whole batch and updates them at once. Neither split touches the order of any sum, so
the bits do not depend on the number of threads.
"""
from libc.math cimport fabs, isfinite, sqrt
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from fastnn.inference cimport (
    ADD, ALPHA_DROPOUT, BATCH_NORM, COLUMNS, DENSE, DROPOUT, EMBEDDING, JOIN, LAYER_NORM, PERIODIC, PIECEWISE, PRELU,
    RMS_NORM, SCALE, SCALE_COLUMNS, Layer, Net, Part, Rule, end_of, forward, is_left_out, keep_exception,
    share_of_columns, source_of, take_row, tells_slope,
)
from fastnn.kernels cimport (
    FASTNN_DOT_BLOCK, FASTNN_SMALL_LAYERS, FASTNN_STATES, Array, FASTNN_cross_entropy, FASTNN_identity, fastnn_ahead,
    fastnn_epilogue, fastnn_kernels, fastnn_segment, fastnn_small, fastnn_small_layer, fastnn_small_takes, fastnn_swap,
    fastnn_input_by_dots, fastnn_table, fastnn_target, fastnn_update, kernel_table, team_barrier,
)

import numpy as np

cdef extern from *:
    const char *FASTNN_BUILD

cdef extern from "tuning.h" nogil:
    enum: AHEAD_BYTES
    enum: SMALL_BYTES
    enum: SMALL_FLOPS
    enum: SMALL_STEPS

BUILD = FASTNN_BUILD.decode()

# ------------------------------------------------------------------ forward and backward, by rows


cdef double LEAST_WEIGHT = 1e-290  # a batch of less has none: the reciprocal would overflow


cdef double batch_weight(const Run *r, const int64_t *order) noexcept nogil:
    """Sum of the weights of a batch, in row order: each thread needs it before its first gradient."""
    cdef double total = 0
    cdef ptrdiff_t i, row
    if r.weight == NULL:
        return <double>r.batch
    for i in range(r.batch):
        row = order[i] if order != NULL else i
        if 0 <= row < r.n_rows:  # else gather says so
            total += r.weight[row]
    return total


cdef double divided(double number, double total) noexcept nogil:
    return number / total if total > LEAST_WEIGHT else 0


cdef void sum_squares(const Net *net, int thread, int n_threads) noexcept nogil:
    """Squares of this thread's columns of all dense weights, for the penalty of the batch."""
    cdef ptrdiff_t i, at = 0, first, last
    cdef Layer *s
    for i in range(net.n_steps):
        s = &net.layers[i]
        if s.kind == DENSE:
            first, last = s.n_out * thread // n_threads, s.n_out * (thread + 1) // n_threads
            net.table.column_squares(s.n_in, last - first, net.parameters + (s.weight + first) * net.size, s.n_out,
                                     net.column_squares + at + first)
            at += s.n_out


cdef Bad gather(const Run *r, const int64_t *order, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    """Rows first .. last of a batch into the net's own buffers. Nothing is read outside the arrays where another
    thread has changed order or labels since they were judged."""
    cdef Net *net = r.net
    cdef ptrdiff_t i, row, size = net.size
    cdef char *x = net.x + first * net.ld_x * size
    cdef int state = 1
    if net.scales_first or r.x_size == 1:
        for i in range(first, last):
            row = order[i] if order != NULL else i
            if not 0 <= row < r.n_rows:
                return CHANGED
            take_row(net, r.x + row * r.ld_x * r.x_size, r.x_size == 1, net.x + i * net.ld_x * size)
        state = net.table.all_finite(last - first, net.n_in, x, net.ld_x)
    elif order != NULL:
        state = net.table.gather(last - first, net.n_in, r.x, r.ld_x, r.n_rows, order + first, x, net.ld_x)
    else:
        state = net.table.gather(last - first, net.n_in, r.x + first * r.ld_x * size, r.ld_x, r.n_rows - first, NULL,
                                 x, net.ld_x)
    for i in range(first, last):
        row = order[i] if order != NULL else i
        if not 0 <= row < r.n_rows:
            return CHANGED
        if r.labels != NULL:
            net.labels[i] = r.labels[row]
            if not 0 <= net.labels[i] < net.n_out:
                return CHANGED
        if r.y != NULL:
            memcpy(net.y + i * net.n_y * size, r.y + row * net.n_y * size, net.n_y * size)
        if r.weight != NULL:
            net.weight[i] = r.weight[row]
    # A saturated activation would hide an infinity in x from the loss, and the gradient be NaN.
    return FINE if state == 1 else NOT_FINITE if state == 0 else CHANGED


include "phases_augment.pxi"


cdef bint together(Run *r, int stage, const Part *part, Bad met) noexcept nogil:
    cdef int q
    r.met[stage][part.thread] = met
    team_barrier(part.thread, part.n_threads)
    for q in range(part.n_threads):
        if r.met[stage][q] != FINE:
            return False
    return True


cdef void backward_several(const Net *net, const Layer *s, ptrdiff_t first, ptrdiff_t rows) noexcept nogil:
    """The gradient of a step with several sources, at each of them."""
    cdef ptrdiff_t size = net.size, at = 0, i, j, n
    cdef char *d = s.d + first * s.ld * size
    cdef char *dx
    cdef Layer *before
    for j in range(s.n_sources):
        n = net.n_in
        if s.sources[j] >= 0:
            before = &net.layers[s.sources[j]]
            n = before.n_out
            dx = before.d + first * before.ld * size
            if not before.trained:
                pass
            elif s.adds[j]:
                net.table.add(rows, n, dx, before.ld, d + at * size, s.ld, dx, before.ld)
            else:
                for i in range(rows):
                    memcpy(dx + i * before.ld * size, d + (i * s.ld + at) * size, n * size)
        if s.kind == JOIN:
            at += n


include "phases_layers.pxi"


cdef void backward(const Net *net, bint training, ptrdiff_t lowest, const Part *part) noexcept nogil:
    """From the gradient at the last output to the gradient at each z down to step `lowest`, rows of a part."""
    cdef const fastnn_kernels *t = net.table
    cdef ptrdiff_t size = net.size, first = part.first, rows = part.last - first, i, at
    cdef Layer *s
    cdef Layer *before
    cdef char *dx
    cdef fastnn_epilogue e
    for i in range(net.n_steps - 1, max(net.first_trained, lowest) - 1, -1):
        s = &net.layers[i]
        at = first * s.ld * size
        if not s.trained:
            continue
        if not s.gated and s.activation != FASTNN_identity:
            t.activation_backward(s.activation, rows, s.n_out, tells_slope(s) + at, s.ld, s.d + at, s.ld, s.d + at,
                                  s.ld)
        if s.is_done:  # what reads it next is the gradient at z, where it is
            continue
        if not s.needs_dx or i <= lowest:
            if s.kind == BATCH_NORM:
                backward_batch_norm(net, s, part, NULL, 0)
            if net.chain:
                return
            continue
        if s.kind == ADD or s.kind == JOIN:
            backward_several(net, s, first, rows)
            continue
        before = &net.layers[s.sources[0]]
        dx = before.d + first * before.ld * size
        if s.adds[0]:
            dx = net.scratch + first * net.ld_scratch * size
        if s.kind == DENSE:
            memset(&e, 0, sizeof(e))
            if before.gated:
                e.gate, e.ld_gate = tells_slope(before) + first * before.ld * size, before.ld
                e.gate_activation = before.activation
            if rows == 1 and fastnn_input_by_dots(part.batch, s.n_in, s.n_out):
                t.row_dots(s.n_in, s.n_out, s.d + at, 1, net.parameters + s.weight * size, s.n_out, dx, &e)
            else:
                t.matmul_transposed(rows, s.n_in, s.n_out, s.d + at, s.ld, 1, net.parameters + s.weight * size,
                                    s.n_out, dx, before.ld, &e)
        elif s.kind == SCALE:
            t.scale(rows, s.n_out, s.factor, 0, s.d + at, s.ld, dx, s.ld)
        elif s.kind == COLUMNS:
            t.put_columns(rows, s.n_out, s.columns, s.d + at, s.ld, s.n_in, dx, before.ld)
        elif s.kind == BATCH_NORM:
            backward_batch_norm(net, s, part, dx, before.ld)
        elif s.kind > JOIN and not is_left_out(s):
            backward_layer(net, s, first, rows, dx, before.ld)
        else:
            memcpy(dx, s.d + at, rows * s.ld * size)
            if (s.kind == DROPOUT or s.kind == ALPHA_DROPOUT) and training and s.rate > 0:
                t.multiply(rows, s.n_out, dx, s.ld, s.mask + at, s.ld)
        if s.adds[0]:
            at = first * before.ld * size
            t.add(rows, s.n_in, before.d + at, before.ld, dx, before.ld, before.d + at, before.ld)


cdef Bad rows_phase(Run *r, uint64_t step, const int64_t *order, const Part *part) noexcept nogil:
    """Everything that the rows of a part need before the weights."""
    cdef Net *net = r.net
    cdef Layer *end = &net.layers[net.n_steps - 1]
    cdef ptrdiff_t size = net.size, first = part.first, last = part.last, i
    cdef double total = batch_weight(r, order)
    cdef Bad met = gather(r, order, first, last)
    if r.n_augments and met == FINE:
        met = augment(r, step, order, part)
    if r.coupled:
        if not together(r, 0, part, met):
            return met
    elif met != FINE:
        return met
    if net.l2 != 0:
        sum_squares(net, part.thread, part.n_threads)
    forward(net, step, r.training, not r.loss_only, part)
    if r.own_loss != NULL:
        team_barrier(part.thread, part.n_threads)  # all outputs are there
        if part.thread == 0:
            met = ask_own_loss(r, total)
    else:
        net.table.loss(&net.loss, last - first, net.n_out, end.a + first * end.ld * size, end.ld,
                       net.labels + first if r.labels != NULL and not r.mixed else NULL,
                       net.y + first * net.n_y * size if r.y != NULL or r.mixed else NULL, net.n_y,
                       net.weight + first if r.weight != NULL else NULL,
                       divided(net.factor, total), net.loss_rows + first,
                       NULL if r.loss_only else end.d + first * end.ld * size, end.ld)
        if net.bounds.by_output:
            net.table.bound_losses(&net.bounds, last - first, net.n_out, end.a + first * end.ld * size, end.ld,
                                   net.y + first * net.n_y * size, net.n_y, net.loss_rows + first)
        for i in range(first, last):
            if not fabs(net.loss_rows[i]) <= net.bounds.limit:  # not finite, where there is no limit
                met = NOT_FINITE
                break
    if r.coupled:
        if not together(r, 1, part, met):
            return met
    elif met != FINE:
        return met
    if r.rates != NULL and part.thread == 0:
        count_batch(net)  # read after the next wait alone
    if not r.loss_only:
        backward(net, r.training, net.first_updated if r.rates != NULL else 0, part)
    return FINE


cdef object copied(const char *a, ptrdiff_t m, ptrdiff_t n, ptrdiff_t ld, ptrdiff_t size):
    """Rows as an array of their own."""
    cdef ptrdiff_t i
    array = np.empty((m, n), np.float32 if size == 4 else np.float64)
    cdef Array to = Array(array, True)
    for i in range(m):
        memcpy(to.data + i * n * size, a + i * ld * size, n * size)
    return array


cdef Bad ask_own_loss(Run *r, double total) noexcept with gil:
    """The user's loss of the batch, on one thread: fills the losses of rows, and the gradient at the last output."""
    cdef Net *net = r.net
    cdef Layer *end = &net.layers[net.n_steps - 1]
    cdef ptrdiff_t size = net.size, i
    cdef double loss = 0
    cdef Array given
    cdef object y, weight = None
    if not total > LEAST_WEIGHT:  # a batch without weight has no mean
        for i in range(r.batch):
            net.loss_rows[i] = 0
            memset(end.d + i * end.ld * size, 0, net.n_out * size)
        return FINE
    try:
        z = copied(end.a, r.batch, net.n_out, end.ld, size)
        if r.labels != NULL:
            y = np.array(<int64_t[:r.batch]>net.labels)
        else:
            y = copied(net.y, r.batch, net.n_y, net.n_y, size)
        if r.weight != NULL:
            weight = np.array(<double[:r.batch]>net.weight)
        loss, dz = (<object>r.own_loss)(z, y, weight)
        if not isfinite(loss) or not np.isfinite(dz).all():
            return NOT_FINITE
        given = Array(dz)
        for i in range(r.batch):
            net.loss_rows[i] = loss
            memcpy(end.d + i * end.ld * size, given.data + i * net.n_out * size, net.n_out * size)
    except BaseException as error:
        keep_exception(&r.watch, error)
        return RAISED
    return FINE


# ------------------------------------------------------------------ weights, by rows of each matrix


include "phases_updates.pxi"


cdef ptrdiff_t share(const Layer *s, int thread, int n_threads) noexcept nogil:
    """First row of w of a thread's share."""
    return s.n_in * thread // n_threads


cdef void table_phase(Run *r, const fastnn_update *u, const Layer *s, const fastnn_table *table, const char *x,
                      ptrdiff_t ld, char *g) noexcept nogil:
    """Gradient of one table of categories over the batch, and its update."""
    cdef Net *net = r.net
    if not is_trained(r, table.weight):
        return
    if r.gradient != NULL:
        g = r.gradient + table.weight * net.size
    net.table.embed_gradient(r.batch, table, x, ld, s.d, s.ld, g)
    if r.gradient == NULL:
        update_parameters(net, u, table.weight, table.n_categories * table.width, g)


cdef void gradient_of(Run *r, const fastnn_update *u, const Layer *s, const char *x, ptrdiff_t ld, ptrdiff_t first,
                      ptrdiff_t last) noexcept nogil:
    """Rows first .. last of the gradient of w."""
    cdef Net *net = r.net
    cdef ptrdiff_t size = net.size
    net.table.matmul(last - first, s.n_out, r.batch, x + first * size, 1, ld, s.d, s.ld, s.ld - s.n_out,
                     r.gradient + (s.weight + first * s.n_out) * size, s.n_out, NULL)
    if u.l2 != 0:
        first, last = s.weight + first * s.n_out, s.weight + last * s.n_out
        net.table.accumulate(last - first, u.l2, net.parameters + first * size, r.gradient + first * size)


cdef void update_weights(Run *r, const fastnn_update *u, const Layer *s, const char *x, ptrdiff_t ld, ptrdiff_t first,
                         ptrdiff_t last, const fastnn_ahead *ahead) noexcept nogil:
    """The step of rows first .. last of w."""
    cdef Net *net = r.net
    cdef ptrdiff_t size = net.size, at = (s.weight + first * s.n_out) * size
    cdef fastnn_target target
    cdef const Rule *rule = rule_of(net, s.weight)
    cdef int q
    if first >= last:
        return
    target.update, target.lr, target.decay, target.l1, target.ld = u, rule.lr, rule.decay + u.l2, rule.l1, s.n_out
    target.w = net.parameters + at
    for q in range(FASTNN_STATES):
        target.states[q] = net.states[q] + at if net.states[q] != NULL else NULL
    net.table.weights(last - first, s.n_out, r.batch, x + first * size, ld, s.d, s.ld, &target, ahead)


cdef void weights_phase(Run *r, const fastnn_update *u, int thread, int n_threads,
                        const fastnn_ahead *ahead) noexcept nogil:
    """Gradient of this thread's rows of each w, summed over the batch, and their update."""
    cdef Net *net = r.net
    cdef ptrdiff_t size = net.size, i, row, first, last, ld = 0
    cdef const char *x
    cdef char *g
    cdef Layer *s
    for i in range(net.n_steps):
        s = &net.layers[i]
        x = source_of(net, s, 0, 0, &ld)
        g = net.gradients + thread * net.gradient_bytes
        if s.kind == EMBEDDING:
            for row in range(s.n_tables):
                if row % n_threads == thread:
                    table_phase(r, u, s, &s.tables[row], x, ld, g)
        if s.kind > JOIN:
            layer_phase(r, u, s, thread, n_threads, g)
        if s.kind != DENSE:
            continue
        first, last = share(s, thread, n_threads), share(s, thread + 1, n_threads)
        if not is_trained(r, s.weight):
            pass
        elif r.gradient != NULL:
            gradient_of(r, u, s, x, ld, first, last)
        else:
            update_weights(r, u, s, x, ld, first, last, ahead)
            ahead = NULL
        if s.bias >= 0 and thread == n_threads - 1 and is_trained(r, s.bias):  # small: one thread suffices
            if r.gradient != NULL:
                g = r.gradient + s.bias * size
            net.table.sum_rows(r.batch, s.n_out, s.d, s.ld, g)
            if r.gradient == NULL:
                update_parameters(net, u, s.bias, s.n_out, g)


cdef bint next_rows(const Run *r, fastnn_ahead *ahead, ptrdiff_t step, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    """Rows first .. last of a step's batch, if memory is to be asked for them before their gather."""
    ahead.x, ahead.m, ahead.row_bytes, ahead.ld_bytes = r.x, last - first, r.net.n_in * r.x_size, r.ld_x * r.x_size
    if r.order == NULL or step >= r.n_steps or r.n_rows * ahead.row_bytes < AHEAD_BYTES:
        return False
    ahead.order = r.order + step * r.batch + first
    return True


# ------------------------------------------------------------------ whole steps of small nets


cdef bint describe_small(Run *r, double flops, fastnn_small *s) noexcept:
    cdef Net *net = r.net
    cdef Layer *from_
    cdef fastnn_small_layer *layer
    cdef ptrdiff_t i
    if r.own_loss != NULL or not fastnn_small_takes(&net.loss) or (
            net.loss.loss == FASTNN_cross_entropy and r.labels == NULL):
        return False
    if r.n_augments or r.order == NULL or r.rates == NULL or r.momenta != NULL or r.x_size != net.size or flops > SMALL_FLOPS:
        return False
    if net.n_steps > FASTNN_SMALL_LAYERS or r.n_steps < SMALL_STEPS or r.coupled or not (net.chain and net.simple):
        return False
    for i in range(net.n_steps):
        from_ = &net.layers[i]
        if from_.kind != DENSE or from_.rowwise:
            return False
        layer = &s.layers[i]
        layer.n_in, layer.n_out, layer.ld = from_.n_in, from_.n_out, from_.ld
        layer.weight, layer.bias, layer.activation = from_.weight, from_.bias, from_.activation
        layer.a, layer.d, layer.slope = from_.a, from_.d, from_.slope
    s.n_layers, s.parameters, s.state1, s.state2 = net.n_steps, net.parameters, net.states[0], net.states[1]
    s.update, s.decay, s.loss = net.update, net.rules[0].decay, net.loss.loss
    s.l2, s.factor, s.told, s.bounds, s.step_losses = net.l2, net.factor, net.told, net.bounds, r.step_losses
    s.x, s.ld_x, s.n_rows, s.n_in = r.x, r.ld_x, r.n_rows, net.n_in
    s.y, s.labels, s.weight, s.order, s.rates = r.y, r.labels, r.weight, r.order, r.rates
    s.batch, s.n_steps, s.first_step, s.least_weight = r.batch, r.n_steps, r.first_step, LEAST_WEIGHT
    s.x_batch, s.ld_batch, s.label_batch = net.x, net.ld_x, net.labels
    s.weight_batch, s.loss_rows = net.weight, net.loss_rows
    return net.table.small_bytes(s) <= SMALL_BYTES
