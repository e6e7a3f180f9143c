# Included by program.pyx: the steps of a run, without the GIL, and the segments in which they are done.

cdef void add_losses(Run *r) noexcept nogil:
    cdef Net *net = r.net
    cdef ptrdiff_t i
    cdef double loss = 0, weight = 0
    if r.weight == NULL:
        for i in range(r.batch):
            loss += min(net.bounds.cap, max(net.bounds.floor, net.loss_rows[i]))
        weight = <double>r.batch
    else:
        for i in range(r.batch):
            loss += net.weight[i] * min(net.bounds.cap, max(net.bounds.floor, net.loss_rows[i]))
            weight += net.weight[i]
    loss *= net.told
    if net.l2 != 0:
        loss += 0.5 * net.l2 * fastnn_sum(net.n_columns, net.column_squares)
    r.loss_sum += loss
    r.weight_sum += weight
    if r.step_losses != NULL:
        r.step_losses[r.done - 1] = loss
    if net.accumulated != NULL and r.rates != NULL:
        r.batch_weight = weight
        if (net.step - 1) % net.accumulate == 0:
            net.accumulated_weight[0] = 0
        net.accumulated_weight[0] += weight


cdef void train(void *context, int thread, int n_threads) noexcept nogil:
    """The task of each thread of the team: steps begin .. end of a run."""
    cdef Run *r = <Run *>context
    cdef Net *net = r.net
    cdef Part part
    cdef ptrdiff_t q, step
    cdef const int64_t *order = NULL
    cdef uint64_t n_updates = 0
    cdef fastnn_update u = net.update
    cdef fastnn_ahead ahead
    part.first, part.last = r.batch * thread // n_threads, r.batch * (thread + 1) // n_threads
    part.thread, part.n_threads, part.batch = thread, n_threads, r.batch
    for step in range(r.begin, r.end):
        if r.order != NULL:
            order = r.order + step * r.batch
        r.bad[thread] = rows_phase(r, r.first_step + step, order, &part)
        team_barrier(thread, n_threads)
        for q in range(n_threads):
            if r.bad[q]:
                return
        if thread == 0:
            r.done += 1
            if r.rates != NULL:
                net.step += 1
            add_losses(r)
            if r.until != 0 and seconds() > r.until:
                r.end, r.cut = step + 1, True
        if r.loss_only:
            return
        if net.l2 != 0:
            u.l2 = divided(net.l2, batch_weight(r, order))
        if r.rates != NULL:
            u.lr = r.rates[step]
            if r.momenta != NULL:  # an optimizer reads one of the two
                u.momentum = u.beta1 = r.momenta[step]
            n_updates = r.first_step + step + 1 if net.accumulated == NULL else (r.first_step + step) // net.accumulate + 1
            begin_update(&u, n_updates)
        weights_phase(r, &u, thread, n_threads,
                      &ahead if next_rows(r, &ahead, step + 1, part.first, part.last) else NULL)
        if net.unfolded or net.limited or net.average != NULL:
            if r.rates != NULL:
                finish_update(r, &u, r.first_step + step, n_updates, thread, n_threads)
        team_barrier(thread, n_threads)
        if r.cut:
            break
    if thread == 0 and r.rates != NULL:
        net.update.product, net.update.product_step = u.product, u.product_step


cdef void finish_update(Run *r, const fastnn_update *u, uint64_t step, uint64_t n_updates, int thread,
                        int n_threads) noexcept nogil:
    """The rest of a step that is more than an update folded into the gradients."""
    if r.net.unfolded:
        team_barrier(thread, n_threads)
        if not update_phase(r, u, step, thread, n_threads):
            return
    after_phase(r, n_updates, thread, n_threads)


cdef void train_small(Run *r, fastnn_small *s) noexcept nogil:
    """The same on this thread by the kernel for small nets. A step that it leaves undone is tried as any other, which
    tells what is wrong with it."""
    cdef ptrdiff_t end = r.end
    s.end, s.loss_sum, s.weight_sum = end, r.loss_sum, r.weight_sum
    while True:
        s.begin = r.begin
        r.begin = r.net.table.small_steps(s)
        r.done += r.begin - s.begin
        r.net.step += r.begin - s.begin
        r.loss_sum, r.weight_sum = s.loss_sum, s.weight_sum
        if r.begin == end:
            return
        r.end = r.begin + 1
        run_team(train, r, 1)
        if r.done < r.end:
            return
        r.begin, s.loss_sum, s.weight_sum = r.end, r.loss_sum, r.weight_sum
        r.end = end


# ------------------------------------------------------------------ segments of steps

include "program_pace.pxi"


cdef void advance(Run *r, Pace *p, double flops, fastnn_small *small) noexcept nogil:
    """All steps of a run, a segment of about SEGMENT_MICROSECONDS at a time; signals are looked at in between.
    small: what the kernel for small nets does on one thread, or NULL."""
    cdef double begin, taken
    cdef int n_threads, n_aside
    cdef ptrdiff_t first
    while r.begin < r.n_steps:
        n_aside = threads_aside()
        n_threads = fewer_threads(p, flops, n_aside) if n_aside > 0 else choose_threads(p, flops)
        taken = p.one if n_threads == 1 else p.team
        if taken == 0:
            taken = STEP_SECONDS + FLOP_SECONDS * flops
        r.end = min(r.n_steps, r.begin + max(1, <ptrdiff_t>(1e-6 * SEGMENT_MICROSECONDS / taken)))
        begin, first = seconds(), r.begin
        r.cut = False
        # A team that waits for a core would take 20 ms for its segment.
        r.until = 0 if n_threads == 1 else begin + LONGEST_SEGMENT * max(1e-6 * SEGMENT_MICROSECONDS, taken)
        if small != NULL and n_threads == 1:
            train_small(r, small)
        else:
            n_threads = run_team(train, r, n_threads)
        look(&r.watch)
        if r.done < r.end or r.watch.interrupted:
            return
        taken = seconds() - begin
        if n_aside == 0:
            note_time(p, n_threads, taken / (r.end - first))
        r.begin = r.end
        if r.deadline != 0 and begin + taken >= r.deadline:
            r.out_of_time = True
            return
