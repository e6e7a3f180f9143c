# cython: language_level=3
"""A network as steps over one block of parameters: predict, gradient, and mini-batch training without the GIL.

One training step has two phases and two joins. In the first, each thread takes its own rows of the batch
through gather, forward, loss and backward: rows never meet, so nothing is waited for. In the second, the
rows of each weight matrix are split: a thread sums the gradient of its rows over the whole batch, updates
them while they are in its cache, and renews their transposed copy. Neither split touches the order of any
sum, so the bits do not depend on the number of threads.
"""
from libc.math cimport isfinite
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memchr, memcpy, memset

from fastnn.inference cimport (
    DENSE, DROPOUT, EMBEDDING, GRADIENT_BYTES, SCALE, Layer, Net, Watch, begin_watch, describe,
    first_not_finite, forget, forward, free_batch, look, predict, prepare_batch, raise_again, take_row,
)
from fastnn.kernels cimport (
    FASTNN_MAX_THREADS, FASTNN_adam, FASTNN_identity, FASTNN_sgd, Array, adam_corrections, fastnn_epilogue,
    fastnn_ahead, fastnn_kernels, fastnn_segment, fastnn_table, fastnn_target, fastnn_update, run_team, team_barrier, thread_limit,
)

import os
import threading

import numpy as np

from fastnn.errors import DivergenceError
from fastnn.kernels import LOSSES, OPTIMIZERS

cdef extern from *:
    const char *FASTNN_BUILD

cdef extern from "tuning.h" nogil:
    enum: AHEAD_BYTES
    enum: TEAM_FLOPS

BUILD = FASTNN_BUILD.decode()


cdef enum Bad:
    FINE
    NOT_FINITE
    CHANGED  # order or labels are no longer what was judged


cdef struct Run:
    Net *net
    const char *x
    ptrdiff_t ld_x             # elements
    ptrdiff_t x_size           # itemsize of x: the net's, or 1 for bytes
    const int64_t *labels      # or NULL
    const char *y              # or NULL; (rows, n_out)
    const double *weight       # or NULL
    const int64_t *order       # (n_steps, batch), or NULL: rows 0 .. batch of x, one step
    const double *rates        # (n_steps,), or NULL: nothing is updated
    ptrdiff_t n_steps, batch, n_rows
    uint64_t first_step        # number of the first step, for dropout and Adam
    bint training              # dropout on
    char *gradient             # instead of updating: (n_parameters,)
    bint loss_only
    ptrdiff_t done
    double loss_sum, weight_sum
    Watch watch                # by thread 0, between joins
    char bad[FASTNN_MAX_THREADS]  # Bad, by thread


# ------------------------------------------------------------------ forward and backward, by rows


cdef double LEAST_WEIGHT = 1e-290  # a batch of less has none: the reciprocal would overflow
cdef ptrdiff_t KEPT_ROWS = 8192  # buffers of larger batches are given back after a gradient


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
            memcpy(net.y + i * net.n_out * size, r.y + row * net.n_out * size, net.n_out * size)
        if r.weight != NULL:
            net.weight[i] = r.weight[row]
    # A saturated activation would hide an infinity in x from the loss, and the gradient be NaN.
    return FINE if state == 1 else NOT_FINITE if state == 0 else CHANGED


cdef void backward(const Net *net, bint training, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    """From the gradient at the last output to the gradient at each z, rows first .. last."""
    cdef const fastnn_kernels *t = net.table
    cdef ptrdiff_t size = net.size, rows = last - first, i, at
    cdef Layer *s
    cdef Layer *before
    cdef fastnn_epilogue e
    for i in range(net.n_steps - 1, -1, -1):
        s = &net.layers[i]
        at = first * s.ld * size
        if not s.gated and s.activation != FASTNN_identity:
            t.activation_backward(s.activation, rows, s.n_out, s.a + at, s.ld, s.d + at, s.ld, s.d + at, s.ld)
        if not s.needs_dx:
            return
        before = &net.layers[i - 1]
        if s.kind == DENSE:
            memset(&e, 0, sizeof(e))
            if before.gated:
                e.gate, e.ld_gate = before.a + first * before.ld * size, before.ld
                e.gate_activation = before.activation
            t.matmul_packed(rows, s.n_in, s.n_out, s.d + at, s.ld, 1, s.panels, before.d + first * before.ld * size,
                            before.ld, &e)
        elif s.kind == SCALE:
            t.scale(rows, s.n_out, s.factor, 0, s.d + at, s.ld, before.d + at, s.ld)
        else:
            memcpy(before.d + at, s.d + at, rows * s.ld * size)
            if s.kind == DROPOUT and training and s.rate > 0:
                t.multiply(rows, s.n_out, before.d + at, s.ld, s.mask + at, s.ld)


cdef Bad rows_phase(Run *r, uint64_t step, const int64_t *order, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    """Everything that rows first .. last need alone."""
    cdef Net *net = r.net
    cdef Layer *end = &net.layers[net.n_steps - 1]
    cdef ptrdiff_t size = net.size, i
    cdef double total = batch_weight(r, order)
    cdef Bad gathered = gather(r, order, first, last)
    if gathered != FINE:
        return gathered
    forward(net, step, r.training, first, last)
    net.table.loss(net.loss, last - first, net.n_out, end.a + first * end.ld * size, end.ld,
                   net.labels + first if r.labels != NULL else NULL,
                   net.y + first * net.n_out * size if r.y != NULL else NULL, net.n_out,
                   net.weight + first if r.weight != NULL else NULL,
                   1 / total if total > LEAST_WEIGHT else 0, net.loss_rows + first,
                   NULL if r.loss_only else end.d + first * end.ld * size, end.ld)
    for i in range(first, last):
        if not isfinite(net.loss_rows[i]):
            return NOT_FINITE
    if not r.loss_only:
        backward(net, r.training, first, last)
    return FINE


# ------------------------------------------------------------------ weights, by rows of each matrix


cdef void update_parameters(const Net *net, const fastnn_update *u, ptrdiff_t offset, ptrdiff_t length,
                            const char *g) noexcept nogil:
    """One optimizer step on parameters offset .. offset + length, whose gradient begins at g."""
    cdef fastnn_segment segment
    cdef ptrdiff_t at = offset * net.size
    segment.offset, segment.length, segment.lr, segment.decay = 0, length, 1, net.decay
    net.table.update(u, 1, &segment, net.parameters + at, g, net.state1 + at if net.state1 != NULL else NULL,
                     net.state2 + at if net.state2 != NULL else NULL)


cdef ptrdiff_t share(const Net *net, const Layer *s, int thread, int n_threads) noexcept nogil:
    """First row of w of a thread's share: whole panels where w has any, so that no two threads write one."""
    cdef ptrdiff_t panel = net.table.panel if s.needs_dx else 1
    return min((s.n_in + panel - 1) // panel * thread // n_threads * panel, s.n_in)


cdef void pack_panels(const Net *net, const Layer *s, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    net.table.pack_transposed(first, last, s.n_out, net.parameters + s.weight * net.size, s.n_out, s.panels)


cdef void table_phase(Run *r, const fastnn_update *u, const Layer *s, const fastnn_table *table, const char *x,
                      ptrdiff_t ld, char *g) noexcept nogil:
    """Gradient of one table of categories over the batch, and its update."""
    cdef Net *net = r.net
    if r.gradient != NULL:
        g = r.gradient + table.weight * net.size
    net.table.embed_gradient(r.batch, table, x, ld, s.d, s.ld, g)
    if r.gradient == NULL:
        update_parameters(net, u, table.weight, table.n_categories * table.width, g)


cdef void gradient_of(Run *r, const Layer *s, const char *x, ptrdiff_t ld, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    """Rows first .. last of the gradient of w."""
    cdef Net *net = r.net
    cdef ptrdiff_t size = net.size
    net.table.matmul(last - first, s.n_out, r.batch, x + first * size, 1, ld, s.d, s.ld, s.ld - s.n_out,
                     r.gradient + (s.weight + first * s.n_out) * size, s.n_out, NULL)


cdef void update_weights(Run *r, const fastnn_update *u, const Layer *s, const char *x, ptrdiff_t ld, ptrdiff_t first,
                         ptrdiff_t last, const fastnn_ahead *ahead) noexcept nogil:
    """The step of rows first .. last of w, a chunk at a time: its copy in panels is renewed while it is in the cache."""
    cdef Net *net = r.net
    cdef const fastnn_kernels *t = net.table
    cdef ptrdiff_t size = net.size, rows, at, chunk = last - first
    cdef fastnn_target target
    cdef fastnn_ahead part
    memset(&target, 0, sizeof(target))
    target.update, target.lr, target.decay, target.ld = u, 1, net.decay, s.n_out
    if s.needs_dx:
        chunk = max(1, GRADIENT_BYTES // (s.n_out * size * t.panel)) * t.panel
    while first < last:
        rows = min(chunk, last - first)
        at = (s.weight + first * s.n_out) * size
        target.w = net.parameters + at
        if net.state1 != NULL:
            target.state1 = net.state1 + at
        if net.state2 != NULL:
            target.state2 = net.state2 + at
        t.weights(rows, s.n_out, r.batch, x + first * size, ld, s.d, s.ld, &target, ahead)
        ahead = NULL
        if s.needs_dx:
            pack_panels(net, s, first, first + rows)
        first += rows


cdef void weights_phase(Run *r, const fastnn_update *u, int thread, int n_threads,
                        const fastnn_ahead *ahead) noexcept nogil:
    """Gradient of this thread's rows of each w, summed over the batch, and their update."""
    cdef Net *net = r.net
    cdef ptrdiff_t size = net.size, i, row, first, last, ld
    cdef const char *x
    cdef char *g
    cdef Layer *s
    for i in range(net.n_steps):
        s = &net.layers[i]
        x, ld = net.x, net.ld_x
        if i:
            x, ld = net.layers[i - 1].a, net.layers[i - 1].ld
        g = net.gradients + thread * net.gradient_bytes
        if s.kind == EMBEDDING:
            for row in range(s.n_tables):
                if row % n_threads == thread:
                    table_phase(r, u, s, &s.tables[row], x, ld, g)
        if s.kind != DENSE:
            continue
        first, last = share(net, s, thread, n_threads), share(net, s, thread + 1, n_threads)
        if r.gradient != NULL:
            gradient_of(r, s, x, ld, first, last)
        else:
            update_weights(r, u, s, x, ld, first, last, ahead)
            ahead = NULL
        if s.bias >= 0 and thread == n_threads - 1:  # small: one thread suffices
            if r.gradient != NULL:
                g = r.gradient + s.bias * size
            net.table.sum_rows(r.batch, s.n_out, s.d, s.ld, g)
            if r.gradient == NULL:
                update_parameters(net, u, s.bias, s.n_out, g)


# ------------------------------------------------------------------ the loop


cdef void add_losses(Run *r) noexcept nogil:
    cdef Net *net = r.net
    cdef ptrdiff_t i
    cdef double loss = 0, weight = 0
    if r.weight == NULL:
        for i in range(r.batch):
            loss += net.loss_rows[i]
        weight = <double>r.batch
    else:
        for i in range(r.batch):
            loss += net.weight[i] * net.loss_rows[i]
            weight += net.weight[i]
    r.loss_sum += loss
    r.weight_sum += weight


cdef bint next_rows(const Run *r, fastnn_ahead *ahead, ptrdiff_t step, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    """Rows first .. last of a step's batch, if memory is to be asked for them before their gather."""
    ahead.x, ahead.m, ahead.row_bytes, ahead.ld_bytes = r.x, last - first, r.net.n_in * r.x_size, r.ld_x * r.x_size
    if r.order == NULL or step >= r.n_steps or r.n_rows * ahead.row_bytes < AHEAD_BYTES:
        return False
    ahead.order = r.order + step * r.batch + first
    return True


cdef void train(void *context, int thread, int n_threads) noexcept nogil:
    """The task of each thread of the team: all steps of a run."""
    cdef Run *r = <Run *>context
    cdef Net *net = r.net
    cdef ptrdiff_t first = r.batch * thread // n_threads, last = r.batch * (thread + 1) // n_threads
    cdef ptrdiff_t i, q, step
    cdef const int64_t *order = NULL
    cdef fastnn_update u = net.update
    cdef fastnn_ahead ahead
    cdef uint64_t before = r.first_step  # thread 0 counts net.step up while others read
    if not r.loss_only:
        for i in range(net.n_steps):
            if net.layers[i].needs_dx and net.layers[i].kind == DENSE:
                pack_panels(net, &net.layers[i], share(net, &net.layers[i], thread, n_threads),
                            share(net, &net.layers[i], thread + 1, n_threads))
        team_barrier(thread, n_threads)
    for step in range(r.n_steps):
        if r.order != NULL:
            order = r.order + step * r.batch
        if thread == 0:
            look(&r.watch)  # the others see an interruption after the join; nothing is updated
        r.bad[thread] = rows_phase(r, before + step, order, first, last)
        team_barrier(thread, n_threads)
        if r.watch.interrupted:
            return
        for q in range(n_threads):
            if r.bad[q]:
                return
        if thread == 0:
            add_losses(r)
            r.done += 1
            if r.rates != NULL:
                net.step += 1
        if r.loss_only:
            return
        if r.rates != NULL:
            u.lr = r.rates[step]
            if u.optimizer == FASTNN_adam:
                adam_corrections(&u, before + step + 1)
        weights_phase(r, &u, thread, n_threads, &ahead if next_rows(r, &ahead, step + 1, first, last) else NULL)
        team_barrier(thread, n_threads)


cdef class Program:
    """A network compiled for one CPU: trains whole epochs and predicts, in place on `parameters`.

    steps : tuple of `fastnn.layers.Step`
    parameters : array (n,) float32 or float64, changed in place. Elements after the last parameter, if any,
        are room that kernels may read.
    loss : name or None; optimizer : description or None (then the program only predicts)
    seed : of dropout
    """
    cdef Net net
    cdef Array held_parameters, held_state
    cdef readonly tuple steps
    cdef readonly object state
    cdef readonly object loss_name
    cdef readonly object optimizer
    cdef bint takes_labels
    cdef object lock
    cdef object process  # that the lock is of

    def __init__(self, steps, parameters, *, loss=None, optimizer=None, seed=0):
        self.lock, self.process = threading.Lock(), os.getpid()
        self.steps = tuple(steps)
        self.loss_name, self.optimizer = loss, optimizer
        self.held_parameters = Array(parameters, True)
        describe(&self.net, self.steps, self.held_parameters)
        self.net.seed = seed
        self.state = np.zeros((0, self.net.n_parameters), self.dtype)
        if loss is not None:
            self.net.loss = list(LOSSES).index(loss)
            self.takes_labels = LOSSES[loss] == "label"
        if optimizer is not None:
            self.configure(optimizer)

    @property
    def dtype(self):
        """NumPy dtype of parameters, inputs and outputs."""
        return np.dtype(np.float32 if self.net.size == 4 else np.float64)

    cdef int configure(self, optimizer) except -1:
        cdef fastnn_update *u = &self.net.update
        name = optimizer.name
        u.optimizer = list(OPTIMIZERS).index(name)
        self.net.decay = optimizer.weight_decay
        n_states = OPTIMIZERS[name]
        if u.optimizer == FASTNN_sgd:
            u.momentum, u.nesterov = optimizer.momentum, optimizer.nesterov
            n_states = 1 if u.momentum != 0 else 0
        else:
            (u.beta1, u.beta2), u.eps = optimizer.betas, optimizer.eps
        self.state = np.zeros((n_states, self.net.n_parameters), self.dtype)
        self.held_state = Array(self.state, True) if n_states else None
        if n_states:
            self.net.state1 = self.held_state.data
        if n_states == 2:
            self.net.state2 = self.held_state.data + self.net.n_parameters * self.net.size
        return 0

    def __dealloc__(self):
        free_batch(&self.net)
        forget(&self.net)

    @property
    def step(self):
        """Training steps done so far; settable, to go on from a checkpoint."""
        return self.net.step

    @step.setter
    def step(self, uint64_t value):
        self.net.step = value

    cdef int go(self, Run *r, x, y, sample_weight) except -1:
        """Judge what would be unsafe, run, and turn the way it stopped into an exception."""
        cdef Net *net = &self.net
        cdef Array x_ = Array(x, False, True, "x"), y_ = None
        cdef const int64_t[::1] labels
        cdef const double[::1] weight
        cdef double flops = 0
        cdef ptrdiff_t i
        if self.loss_name is None:
            raise ValueError("a program without a loss only predicts")
        if x_.itemsize not in (1, net.size) or x_.buffer.ndim != 2 or x_.columns != net.n_in or (
                x_.columns > 1 and x_.column_stride != 1) or x_.buffer.strides[0] % x_.itemsize:
            raise ValueError(f"x must be a {self.dtype} or uint8 array (rows, {net.n_in}) with its columns side by side")
        r.net, r.x, r.ld_x, r.x_size, r.n_rows = net, x_.data, x_.row_stride, x_.itemsize, x_.rows
        if self.takes_labels:
            labels = y
            if labels.shape[0] != x_.rows:
                raise ValueError(f"y must have {x_.rows} labels, got {labels.shape[0]}")
            r.labels = &labels[0] if x_.rows else NULL
        else:
            y_ = Array(y, False, False, "y")
            if y_.itemsize != net.size or y_.rows != x_.rows or y_.columns != net.n_out or (
                    y_.rows > 1 and y_.row_stride != net.n_out) or (y_.columns > 1 and y_.column_stride != 1):
                raise ValueError(f"y must be a contiguous {self.dtype} array ({x_.rows}, {net.n_out})")
            r.y = y_.data
        if sample_weight is not None:
            weight = sample_weight
            if weight.shape[0] != x_.rows:
                raise ValueError(f"sample_weight must have {x_.rows} elements, got {weight.shape[0]}")
            r.weight = &weight[0] if x_.rows else NULL
        if r.order == NULL:
            r.n_steps, r.batch = 1, x_.rows
        if r.batch == 0 or r.n_steps == 0:
            return 0
        check_rows(r, x_.rows, net.n_out)
        for i in range(net.n_steps):
            if net.layers[i].kind == DENSE:
                flops += 6.0 * r.batch * net.layers[i].n_in * net.layers[i].n_out
        cdef int n_threads = thread_limit() if flops >= TEAM_FLOPS else 1
        begin_watch(&r.watch)
        if self.process != os.getpid():  # a child of fork: who held the lock is not here
            self.lock, self.process = threading.Lock(), os.getpid()
        if not self.lock.acquire(False):
            raise RuntimeError("this trainer is at work in another thread")
        try:
            if r.rates != NULL:
                r.first_step = net.step
            prepare_batch(net, r.batch, n_threads)
            with nogil:
                run_team(train, r, n_threads)
            if r.order == NULL and r.done and net.capacity > KEPT_ROWS:
                free_batch(net)  # all rows of the data as one batch: not for keeps
        finally:
            self.lock.release()
        if r.watch.interrupted:
            return raise_again(&r.watch)
        if r.done < r.n_steps and memchr(r.bad, CHANGED, FASTNN_MAX_THREADS) != NULL:
            raise RuntimeError("order or y was changed while the trainer was at work on it; steps before are done")
        if r.done < r.n_steps:
            i = first_not_finite(net, r.batch)
            raise DivergenceError(step_in_call=r.done, loss_sum=r.loss_sum, weight_sum=r.weight_sum,
                                  layer=None if i == net.n_steps else -1 if i < 0 else self.steps[i].layer)
        return 0

    def run(self, x, y, order, rates, sample_weight=None):
        """One step for each row of `order`, without the GIL: (sum of w l, sum of w) over all rows of all steps.

        x : (rows, n_in) of the parameters' dtype, columns side by side; never scanned
        y : int64 labels (rows,), or values (rows, n_out) of that dtype, C-contiguous
        order : int64 (steps, batch), C-contiguous, row numbers into x
        rates : float64 (steps,); sample_weight : float64 (rows,) or None
        Raises DivergenceError before the update of the first batch whose loss is not finite, ValueError for
        rows and labels out of range, KeyboardInterrupt at the end of a step.
        """
        cdef const int64_t[:, ::1] order_ = order
        cdef const double[::1] rates_ = rates
        cdef Run r
        memset(&r, 0, sizeof(r))
        if self.optimizer is None:
            raise ValueError("a program without an optimizer does not train")
        if rates_.shape[0] != order_.shape[0]:
            raise ValueError(f"rates must have {order_.shape[0]} elements, got {rates_.shape[0]}")
        r.n_steps, r.batch, r.training = order_.shape[0], order_.shape[1], True
        if r.n_steps and r.batch:
            r.order, r.rates = &order_[0, 0], &rates_[0]
            self.go(&r, x, y, sample_weight)
        return r.loss_sum, r.weight_sum

    def gradient(self, x, y, sample_weight=None, dropout_step=None):
        """(mean loss, flat gradient) of all rows as one batch; dropout off, or with the masks of a step."""
        cdef Run r
        memset(&r, 0, sizeof(r))
        gradient = np.zeros(self.net.n_parameters, self.dtype)
        cdef Array gradient_ = Array(gradient, True)
        r.gradient = gradient_.data
        if dropout_step is not None:
            r.training, r.first_step = True, dropout_step
        self.go(&r, x, y, sample_weight)
        return (r.loss_sum / r.weight_sum if r.weight_sum else 0.0), gradient

    def loss(self, x, y, sample_weight=None):
        """Mean loss of all rows, dropout off."""
        cdef Run r
        memset(&r, 0, sizeof(r))
        r.loss_only = True
        self.go(&r, x, y, sample_weight)
        return r.loss_sum / r.weight_sum if r.weight_sum else 0.0

    def predict(self, x, out):
        """Fill out (rows, n_out) with what the last layer gives, dropout off."""
        predict(&self.net, Array(x, False, True, "x"), Array(out, True, False, "out"))
        return out


cdef int check_rows(const Run *r, ptrdiff_t n_rows, ptrdiff_t n_out) except -1:
    """Row numbers, and the labels that they gather, before anything is touched."""
    cdef ptrdiff_t i, row, bad_row = -1, bad_label = -1
    with nogil:
        for i in range(r.n_steps * r.batch):
            row = r.order[i] if r.order != NULL else i
            if row < 0 or row >= n_rows:
                bad_row = i
                break
            if r.labels != NULL and not 0 <= r.labels[row] < n_out:
                bad_label = row
                break
    if bad_row >= 0:
        raise ValueError(f"order must hold row numbers from 0 to {n_rows - 1}, got {r.order[bad_row]}")
    if bad_label >= 0:
        raise ValueError(f"y must hold labels from 0 to {n_out - 1}, got {r.labels[bad_label]} in row {bad_label}")
    return 0
