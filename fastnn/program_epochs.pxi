# Included by program.pyx: whole epochs in one call, several of them where nobody looks in between.

# The steps of an epoch that have one size: its whole batches, or the rest.
cdef struct EpochPart:
    ptrdiff_t first, n_steps, batch
    double flops               # of a step
    Pace *pace
    bint is_small              # small does it where it is on one thread
    fastnn_small small


cdef struct Epochs:
    ptrdiff_t n_epochs, n_rows, batch
    uint64_t seed, first       # of the shuffles: epochs done before
    bint shuffles
    const int64_t *rows        # (n_rows,) numbers of the rows that are taken, or NULL: 0 .. n_rows-1
    int64_t *order             # (n_rows,)
    const double *rates        # (steps of an epoch,), the same for each
    const double *momenta      # likewise, or NULL
    double *sums               # (n_epochs, 2)
    ptrdiff_t done


cdef void take_order(Epochs *e) noexcept nogil:
    """The rows in the order of the next epoch."""
    cdef ptrdiff_t i
    if e.shuffles:
        shuffle_rows(e.seed, e.first + <uint64_t>e.done, e.n_rows, e.order)
    else:
        for i in range(e.n_rows):
            e.order[i] = i
    if e.rows != NULL:
        for i in range(e.n_rows):
            e.order[i] = e.rows[e.order[i]]


cdef void take_part(Run *r, const Epochs *e, const EpochPart *p) noexcept nogil:
    """Let a run be over a part of the present epoch."""
    r.order, r.n_steps, r.batch, r.before = e.order + p.first * e.batch, p.n_steps, p.batch, p.first
    r.rates = e.rates + p.first
    r.momenta = e.momenta + p.first if e.momenta != NULL else NULL
    r.first_step, r.begin, r.end, r.done = r.net.step, 0, 0, 0


cdef bint advance_part(Run *r, const Epochs *e, EpochPart *p) noexcept nogil:
    """All steps of a part; whether they were done."""
    take_part(r, e, p)
    p.small.first_step = r.first_step
    advance(r, p.pace, p.flops, &p.small if p.is_small else NULL)
    return r.done == r.n_steps


cdef void advance_epochs(Run *r, Epochs *e, EpochPart *whole, EpochPart *rest) noexcept nogil:
    """Epochs one after the other, until EPOCHS_MICROSECONDS are over at the end of one. What the run has left undone,
    or the watch, tells why it ended before."""
    cdef double end = seconds() + 1e-6 * EPOCHS_MICROSECONDS
    while True:
        if e.done or e.shuffles:
            take_order(e)
        r.loss_sum = r.weight_sum = 0
        if not advance_part(r, e, whole):
            return
        if rest.n_steps and (r.watch.interrupted or not advance_part(r, e, rest)):
            return
        e.sums[2 * e.done], e.sums[2 * e.done + 1] = r.loss_sum, r.weight_sum
        e.done += 1
        if e.done == e.n_epochs or r.weight_sum == 0 or r.watch.interrupted or seconds() >= end:
            return
