# cython: language_level=3
"""A network as steps over one block of parameters: predict, gradient, and mini-batch training without the GIL.

One training step has two phases (`fastnn.phases`) and two joins.
"""
from cpython.object cimport PyObject
from libc.float cimport DBL_MAX
from libc.math cimport INFINITY, log
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memchr, memset

from fastnn.inference cimport (
    DENSE, Net, Part, Rule, allocate, begin_watch, describe, first_not_finite, forget, free_batch, look, prepare_batch,
    prepare_small, raise_again, release, seconds,
)
from fastnn.kernels cimport (
    FASTNN_DOT_BLOCK, FASTNN_MAX_THREADS, FASTNN_adam, FASTNN_cross_entropy, FASTNN_sgd, Array, Loss, begin_update,
    describe_update, fastnn_ahead, fastnn_bounds, fastnn_small, fastnn_sum, fastnn_update, run_team, shuffle_rows,
    team_barrier, thread_limit, threads_aside, told_to_stop,
)
from fastnn.phases cimport (
    CHANGED, GAUSSIAN, MIXUP, SWAP, Augment, Run, after_phase, batch_weight, describe_small, divided, next_rows,
    rows_phase, update_phase, weights_phase,
)
from fastnn.prediction cimport Right, predict, right_array

import os
import threading
from functools import partial

import numpy as np

from fastnn.errors import DivergenceError
from fastnn.kernels import LOSSES, target_columns
from fastnn.targets import own_loss, without_ignored

cdef extern from *:
    const char *FASTNN_BUILD

cdef extern from "tuning.h" nogil:
    enum: EPOCHS_MICROSECONDS
    enum: GIL_FLOPS
    enum: LEAST_TEAM_FLOPS
    enum: SEGMENT_MICROSECONDS
    enum: TEAM_FLOPS

BUILD = FASTNN_BUILD.decode()

cdef enum:
    MOST_AUGMENTS = 16
AUGMENTS = {"mixup": MIXUP, "swap": SWAP, "noise": GAUSSIAN}

cdef int64_t NO_LABEL = -(2**63 - 1)
cdef ptrdiff_t LEARN_ROWS = 64  # of a call of `learn`, whatever the net
cdef ptrdiff_t KEPT_ROWS = 8192  # buffers of larger batches are given back after a gradient


include "program_loop.pxi"
include "program_epochs.pxi"


cdef class Program:
    """A network compiled for one CPU: trains whole epochs and predicts, in place on `parameters`.

    steps : tuple of `fastnn.layers.Step`
    parameters : array (n,) float32 or float64, changed in place. Elements after the last parameter, if any,
        are room that kernels may read.
    loss : description, name where the loss has no numbers, or None
    optimizer : description or None (then the program only predicts)
    seed : of dropout
    objective : `fastnn.steps.Objective` or None
    buffers : array of that dtype with the running statistics of batch normalisation, changed in place; see
        `fastnn.steps.running_places`. None where no step has any.
    """
    cdef Net net
    cdef Array held_parameters, held_buffers, held_state
    cdef readonly tuple steps
    cdef readonly object state
    cdef readonly object numbers  # scalars of the state
    cdef readonly object loss_name
    cdef readonly object optimizer
    cdef readonly bint small  # whether the last run, where on one thread, went by the kernel for small nets
    cdef bint takes_labels
    cdef bint at_work          # a call that leaves Python holds the lock
    cdef double row_flops      # of a training step
    cdef int64_t ignored       # a label whose rows count for nothing; NO_LABEL: none
    cdef Loss held_loss
    cdef object own_loss       # the user's function, judged; or None
    cdef object lock
    cdef object process  # that the lock is of
    cdef Pace pace, other_pace  # of the present size of batch, and of another: an epoch has whole ones and a rest

    def __init__(self, steps, parameters, *, loss=None, optimizer=None, seed=0, buffers=None, objective=None):
        self.lock, self.process = threading.Lock(), os.getpid()
        self.steps = tuple(steps)
        self.loss_name, self.optimizer = getattr(loss, "name", loss), optimizer
        self.held_parameters = Array(parameters, True)
        self.held_buffers = Array(buffers, True, False, "buffers") if buffers is not None else None
        describe(&self.net, self.steps, self.held_parameters, self.held_buffers)
        self.row_flops = 6.0 * sum([step.n_in * step.n_out for step in self.steps if step.kind == "dense"])
        self.net.seed = seed
        self.state, self.numbers = np.zeros((0, self.net.n_parameters), self.dtype), np.zeros(0)
        if loss is not None:
            describe_loss(self, loss)
        if optimizer is not None:
            describe_optimizer(self, optimizer)
        describe_objective(self, objective)

    @property
    def dtype(self):
        """NumPy dtype of parameters, inputs and outputs."""
        return np.dtype(np.float32 if self.net.size == 4 else np.float64)

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

    cdef int go(self, Run *r, x, y, sample_weight, Epochs *e=NULL) except -1:
        """Judge what would be unsafe, run, and turn the way it stopped into an exception.

        With e the run is of whole epochs, whose order holds the rows that they take.
        """
        cdef Net *net = &self.net
        cdef Array x_ = Array(x, False, True, "x"), y_ = None
        cdef const int64_t[::1] labels
        cdef const double[::1] weight
        cdef ptrdiff_t i
        cdef EpochPart whole, rest
        if self.loss_name is None:
            raise ValueError("a program without a loss only predicts")
        if x_.itemsize not in (1, net.size) or x_.buffer.ndim != 2 or x_.columns != net.n_in or (
                x_.columns > 1 and x_.column_stride != 1) or x_.buffer.strides[0] % x_.itemsize:
            raise ValueError(f"x must be a {self.dtype} or uint8 array (rows, {net.n_in}) with its columns side by side")
        r.own_loss = <PyObject *>self.own_loss if self.own_loss is not None else NULL
        r.coupled = (net.coupled and not r.loss_only) or r.own_loss != NULL
        r.net, r.x, r.ld_x, r.x_size, r.n_rows = net, x_.data, x_.row_stride, x_.itemsize, x_.rows
        if self.takes_labels and not (net.loss.loss == FASTNN_cross_entropy and np.ndim(y) == 2):
            labels = y
            if labels.shape[0] != x_.rows:
                raise ValueError(f"y must have {x_.rows} labels, got {labels.shape[0]}")
            r.labels = &labels[0] if x_.rows else NULL
        else:
            y_ = Array(y, False, False, "y")
            if y_.itemsize != net.size or y_.rows != x_.rows or y_.columns != net.n_y or (
                    y_.rows > 1 and y_.row_stride != net.n_y) or (y_.columns > 1 and y_.column_stride != 1):
                raise ValueError(f"y must be a contiguous {self.dtype} array ({x_.rows}, {net.n_y})")
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
        i = r.n_steps * r.batch if e == NULL else e.n_rows
        if net.coupled and (r.batch == 1 or i % r.batch == 1) and not r.loss_only:
            raise ValueError("a batch of one row has no variance: BatchNorm must have 2 rows or more to train")
        if check_rows(r, i, x_.rows, net.n_out, self.ignored):
            y, sample_weight = without_ignored(y, sample_weight, self.ignored)
            labels, weight = y, sample_weight
            r.labels, r.weight = &labels[0], &weight[0]
        begin_watch(&r.watch)
        if told_to_stop():
            raise KeyboardInterrupt
        if self.process != os.getpid():  # a child of fork: who held the lock is not here
            self.lock, self.process = threading.Lock(), os.getpid()
        if not self.lock.acquire(False):
            raise RuntimeError("this trainer is at work in another thread")
        self.at_work = True
        try:
            if r.rates != NULL:
                r.first_step = net.step
                r.gradient = net.gradient
            memset(&rest, 0, sizeof(rest))
            if e != NULL and e.n_rows % e.batch:
                rest.first, rest.n_steps, rest.batch = r.n_steps, 1, e.n_rows % e.batch
                self.set_pace(rest.batch)
            whole.first, whole.n_steps, whole.batch = 0, r.n_steps, r.batch
            self.set_pace(whole.batch)
            self.prepare(&whole)  # before the rest, whose buffers they hold
            if e != NULL:
                self.prepare(&rest)
                take_part(r, e, &rest)
                rest.pace, rest.is_small = &self.other_pace, rest.n_steps and describe_small(r, rest.flops, &rest.small)
                take_part(r, e, &whole)
            whole.pace, whole.is_small = &self.pace, describe_small(r, whole.flops, &whole.small)
            self.small = whole.is_small
            if whole.is_small:
                prepare_small(net, net.table.small_bytes(&whole.small))
            if rest.is_small:
                prepare_small(net, net.table.small_bytes(&rest.small))
            whole.small.work = rest.small.work = net.small
            if r.mixed:
                r.row_of_thread = allocate(net.gradient_threads * net.ld_x * net.size)
            with nogil:
                if e != NULL:
                    advance_epochs(r, e, &whole, &rest)
                else:
                    advance(r, whole.pace, whole.flops, &whole.small if whole.is_small else NULL)
            if r.rates != NULL:
                keep_pace(whole.pace, whole.flops, net.size)
                if rest.n_steps:
                    keep_pace(rest.pace, rest.flops, net.size)
            if r.order == NULL and r.done and net.capacity > KEPT_ROWS:
                free_batch(net)  # all rows of the data as one batch: not for keeps
        finally:
            if r.row_of_thread != NULL:
                release(&r.row_of_thread)
            self.at_work = False
            self.lock.release()
        if r.watch.interrupted:
            return raise_again(&r.watch)
        if r.out_of_time:
            return 0
        if r.done < r.n_steps and memchr(r.bad, CHANGED, FASTNN_MAX_THREADS) != NULL:
            raise RuntimeError("order or y was changed while the trainer was at work on it; steps before are done")
        if r.done < r.n_steps:
            i = first_not_finite(net, r.batch)
            raise DivergenceError(step_in_call=r.before + r.done, loss_sum=r.loss_sum, weight_sum=r.weight_sum,
                                  layer=None if i == net.n_steps else -1 if i < 0 else self.steps[i].layer)
        return 0

    cdef int set_pace(self, ptrdiff_t batch) except -1:
        """Let `pace` be that of a size of batch, and `other_pace` what it was."""
        if self.pace.batch != batch:
            self.pace, self.other_pace = self.other_pace, self.pace
        if self.pace.batch != batch or self.pace.limit != thread_limit():
            begin_pace(&self.pace, batch * self.row_flops, self.net.size, batch, thread_limit())
        return 0

    cdef int prepare(self, EpochPart *p) except -1:
        """Buffers for the steps of a part."""
        p.flops = p.batch * self.row_flops
        memset(&p.small, 0, sizeof(p.small))
        return prepare_batch(&self.net, p.batch, self.pace.limit if p.flops >= LEAST_TEAM_FLOPS else 1)

    def run(self, x, y, order, rates, sample_weight=None, momenta=None, step_losses=None, sums=(0.0, 0.0),
            seconds_left=None, augment=()):
        """One step for each row of `order`, without the GIL: (sum of w l, sum of w) over all rows of all steps.

        x : (rows, n_in) of the parameters' dtype, columns side by side; never scanned
        y : int64 labels (rows,), or values (rows, columns) of that dtype, C-contiguous
        order : int64 (steps, batch), C-contiguous, row numbers into x
        rates : float64 (steps,); sample_weight : float64 (rows,) or None
        momenta : float64 (steps,), in place of the optimizer's momentum or first beta, or None
        step_losses : float64 (steps,) to be filled with each step's share of the first sum, or None
        sums : what the sums begin with: a run in parts then has the bits of the whole
        seconds_left : after which it ends at a step, as `step` tells; None: it goes to the end
        augment : ((kind, number), ...): see `fastnn.augment`
        Raises DivergenceError before the update of the first batch whose loss is not finite, ValueError for
        rows and labels out of range, KeyboardInterrupt at the end of a step.
        """
        cdef const int64_t[:, ::1] order_ = order
        cdef const double[::1] rates_ = rates, momenta_ = momenta
        cdef double[::1] told
        cdef Run r
        cdef Augment augments[MOST_AUGMENTS]
        memset(&r, 0, sizeof(r))
        if augment:
            describe_augments(self, &r, augments, augment, y)
        if self.optimizer is None:
            raise ValueError("a program without an optimizer does not train")
        if rates_.shape[0] != order_.shape[0]:
            raise ValueError(f"rates must have {order_.shape[0]} elements, got {rates_.shape[0]}")
        if momenta_ is not None and momenta_.shape[0] != order_.shape[0]:
            raise ValueError(f"momenta must have {order_.shape[0]} elements, got {momenta_.shape[0]}")
        r.n_steps, r.batch, r.training = order_.shape[0], order_.shape[1], True
        r.loss_sum, r.weight_sum = sums
        if seconds_left is not None:
            r.deadline = seconds() + <double>seconds_left
        if r.n_steps and r.batch:
            r.order, r.rates = &order_[0, 0], &rates_[0]
            r.momenta = &momenta_[0] if momenta_ is not None else NULL
            if step_losses is not None:
                told = step_losses
                if told.shape[0] != r.n_steps:
                    raise ValueError(f"step_losses must have {r.n_steps} elements, got {told.shape[0]}")
                r.step_losses = &told[0]
            self.go(&r, x, y, sample_weight)
        return r.loss_sum, r.weight_sum

    def run_epochs(self, x, y, rates, sums, *, n_rows, batch, seed=0, epoch=0, shuffle=True, rows=None,
                   sample_weight=None, momenta=None, augment=()):
        """Epochs of n_rows rows each, without the GIL, the rest of each as a smaller batch: how many were done.

        As many as sums has room for, but none is begun after 5 ms, or after one without weight. The bits are those
        of `run` with the whole batches of `kernels.shuffle(seed, epoch, n_rows)`, then the rest, and so on.

        x, y, sample_weight, augment : as for `run`
        rates, momenta : float64 (steps of an epoch,), the same for each; momenta may be None
        sums : float64 (epochs, 2), filled with (sum of w l, sum of w) of each that was done
        n_rows, batch : at least 1
        epoch : how many were done before
        shuffle : whether each takes the rows in another order
        rows : int64 (n_rows,) numbers of those that are taken, or None: the first n_rows of x
        Raises what `run` does; `step` tells then how many epochs were done. step_in_call of a DivergenceError counts
        within its epoch.
        """
        cdef const double[::1] rates_ = rates, momenta_ = momenta
        cdef const int64_t[::1] rows_ = rows
        cdef double[:, ::1] sums_ = sums
        cdef int64_t[::1] order
        cdef Run r
        cdef Epochs e
        cdef Augment augments[MOST_AUGMENTS]
        cdef ptrdiff_t n_steps
        memset(&r, 0, sizeof(r))
        memset(&e, 0, sizeof(e))
        if augment:
            describe_augments(self, &r, augments, augment, y)
        if self.optimizer is None:
            raise ValueError("a program without an optimizer does not train")
        e.n_epochs, e.n_rows, e.batch = sums_.shape[0], n_rows, batch
        if e.n_rows < 1 or e.batch < 1 or e.n_epochs < 1 or sums_.shape[1] != 2:
            raise ValueError(f"n_rows, batch and epochs must be at least 1, got {n_rows}, {batch} and {sums.shape}")
        e.batch = min(e.batch, e.n_rows)
        n_steps = (e.n_rows - 1) // e.batch + 1
        if rates_.shape[0] != n_steps:
            raise ValueError(f"rates must have {n_steps} elements, got {rates_.shape[0]}")
        if momenta_ is not None and momenta_.shape[0] != n_steps:
            raise ValueError(f"momenta must have {n_steps} elements, got {momenta_.shape[0]}")
        if rows_ is not None and rows_.shape[0] != e.n_rows:
            raise ValueError(f"rows must have {n_rows} elements, got {rows_.shape[0]}")
        order = np.empty(n_rows, np.int64)
        e.order, e.rates, e.sums = &order[0], &rates_[0], &sums_[0, 0]
        e.rows = &rows_[0] if rows_ is not None else NULL
        e.momenta = &momenta_[0] if momenta_ is not None else NULL
        take_order(&e)  # as they lie: what is judged
        e.seed, e.first, e.shuffles = seed, epoch, shuffle
        r.training, r.order, r.rates, r.momenta = True, e.order, e.rates, e.momenta
        r.n_steps, r.batch = e.n_rows // e.batch, e.batch
        self.go(&r, x, y, sample_weight, &e)
        return e.done

    def learn(self, x, y, double lr):
        """One step on all rows without the way through Python, or None: then nothing has happened, and `run` tells.

        The mean loss where x (rows, n_in) and y, as `run` takes them, are arrays in C order, right in all and small.
        """
        return learn(self, x, y, lr)

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


include "program_describe.pxi"
include "program_learn.pxi"


cdef bint check_rows(const Run *r, ptrdiff_t n, ptrdiff_t n_rows, ptrdiff_t n_out, int64_t ignored) except -1:
    """n row numbers, and the labels that they gather, before anything is touched. Whether some label is to be ignored."""
    cdef ptrdiff_t i, row, bad_row = -1, bad_label = -1
    cdef bint found = False
    with nogil:
        for i in range(n):
            row = r.order[i] if r.order != NULL else i
            if row < 0 or row >= n_rows:
                bad_row = i
                break
            if r.labels != NULL and (r.labels[row] == ignored or not 0 <= r.labels[row] < n_out):
                if r.labels[row] == ignored:
                    found = True
                    continue
                bad_label = row
                break
    if bad_row >= 0:
        raise ValueError(f"order must hold row numbers from 0 to {n_rows - 1}, got {r.order[bad_row]}")
    if bad_label >= 0:
        raise ValueError(f"y must hold labels from 0 to {n_out - 1}, got {r.labels[bad_label]} in row {bad_label}")
    return found
