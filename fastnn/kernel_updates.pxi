# Included by kernels.pyx: optimizer steps and sums of long vectors, for arrays.

cdef dict _FIELDS = {  # of a description: the number of the kernels
    "nesterov": "nesterov", "centered": "centered", "amsgrad": "amsgrad", "decoupled_weight_decay": "decoupled",
    "momentum": "momentum", "dampening": "dampening", "alpha": "beta2", "rho": "beta2", "eps": "eps",
    "lr_decay": "step_decay", "momentum_decay": "step_decay", "clip_value": "clip_value",
}


cdef int describe_update(fastnn_update *u, optimizer) except -1:
    """Fill a fastnn_update from a description of `fastnn.optimizers`."""
    cdef dict found = {"nesterov": False, "centered": False, "amsgrad": False, "decoupled": False, "momentum": 0.0,
                       "dampening": 0.0, "beta2": 0.0, "eps": 0.0, "step_decay": 0.0, "clip_value": 0.0}
    for field, name in _FIELDS.items():
        value = getattr(optimizer, field, None)
        if value is not None:
            found[name] = value
    memset(u, 0, sizeof(u[0]))
    u.optimizer = _OPTIMIZER_ID[optimizer.name]
    u.nesterov, u.centered, u.amsgrad = found["nesterov"], found["centered"], found["amsgrad"]
    u.decoupled, u.momentum, u.dampening = found["decoupled"], found["momentum"], found["dampening"]
    u.beta2, u.eps, u.step_decay = found["beta2"], found["eps"], found["step_decay"]
    u.clip_value, u.scale1 = found["clip_value"], 1
    u.eps_hat = u.eps if getattr(optimizer, "eps_hat", False) else 0.0
    betas = getattr(optimizer, "betas", None)
    if betas is not None:
        u.beta1, u.beta2 = betas
    return 0


cdef void begin_update(fastnn_update *u, uint64_t t) noexcept nogil:
    fastnn_begin_update(u, t)


cdef struct Vectors:
    # One pass over vectors of n numbers: a step of an optimizer, or the traffic of one.
    const fastnn_kernels *table
    ptrdiff_t n, n_segments
    const fastnn_update *update
    const fastnn_segment *segments
    char *w
    const char *g
    void **states
    int n_streams  # 0: an update
    double c


cdef void vectors_task(void *context, int thread, int n_threads) noexcept nogil:
    """A thread's share, in whole lines: numbers do not depend on each other."""
    cdef Vectors *p = <Vectors *>context
    cdef ptrdiff_t size = p.table.itemsize, lines = (p.n * size + 63) // 64, line = 64 // size, begin, end, i
    cdef ptrdiff_t first = lines * thread // n_threads * line, last = min(p.n, lines * (thread + 1) // n_threads * line)
    cdef void *streams[FASTNN_STATES + 1]
    cdef fastnn_segment segment
    if p.n_streams:
        for i in range(p.n_streams):
            streams[i] = <char *>p.states[i] + first * size
        if first < last:
            p.table.stream(last - first, p.n_streams, p.c, p.g + first * size, streams)
        return
    for i in range(p.n_segments):
        segment = p.segments[i]
        begin, end = max(first, segment.offset), min(last, segment.offset + segment.length)
        if begin < end:
            segment.offset, segment.length = begin, end - begin
            p.table.update(p.update, 1, &segment, p.w, p.g, p.states)


cdef void run_vectors(Vectors *p) noexcept nogil:
    run_team(vectors_task, p, thread_limit() if p.n >= TEAM_ELEMENTS else 1)


def update(optimizer, w, g, states, uint64_t step, double lr, segments=None):
    """Step number `step` (from 1) of an optimizer on w (n,) and its states, each (n,), in place.

    optimizer : a description; states : sequence of as many arrays as it has
    segments : (offset, length, lr, decay, l1) each, or None: all, as the description says. What is in none stays.
    """
    cdef fastnn_update u
    cdef Vectors vectors
    cdef void *pointers[FASTNN_STATES]
    cdef Array w_ = Array(w, True), g_ = Array(g)
    cdef list held = [Array(state, True) for state in states]
    cdef Array array
    cdef const fastnn_kernels *t = table_for(w_, g_)
    cdef ptrdiff_t n = w_.columns, i, count
    if step < 1:
        raise ValueError(f"step counts from 1, got {step}")
    if len(held) != optimizer.n_states:
        raise ValueError(f"states must be {optimizer.n_states} arrays, got {len(held)}")
    memset(pointers, 0, sizeof(pointers))
    for name, array in [("w", w_), ("g", g_), *[("a state", state) for state in held]]:
        check_shape(array, 1, n, name)
        table_for(w_, array)
    for i in range(len(held)):
        array = held[i]
        pointers[i] = array.data
    describe_update(&u, optimizer)
    u.lr = lr
    begin_update(&u, step)
    rows = [(0, n, 1.0, optimizer.weight_decay, optimizer.l1)] if segments is None else list(segments)
    count = len(rows)
    cdef fastnn_segment *list_ = <fastnn_segment *>malloc(max(1, count) * sizeof(fastnn_segment))
    if list_ == NULL:
        raise MemoryError
    try:
        for i in range(count):
            offset, length, rate, decay, l1 = rows[i]
            if offset < 0 or length < 0 or offset + length > n:
                raise ValueError(f"segments[{i}] must lie within {n} parameters, got offset {offset}, length {length}")
            list_[i].offset, list_[i].length = offset, length
            list_[i].lr, list_[i].decay, list_[i].l1 = rate, decay, l1
        vectors.table, vectors.n, vectors.n_segments, vectors.n_streams = t, n, count, 0
        vectors.update, vectors.segments = &u, list_
        vectors.w, vectors.g, vectors.states = w_.data, g_.data, pointers
        with nogil:
            run_vectors(&vectors)
    finally:
        free(list_)


def stream(g, vectors, double c):
    """x += c g for each x of `vectors`, all (n,), in place: what an optimizer with one state less than there are
    vectors reads and writes, the yardstick of its speed."""
    cdef Array g_ = Array(g), array
    cdef list held = [Array(x, True) for x in vectors]
    cdef const fastnn_kernels *t = table_for(g_)
    cdef void *pointers[FASTNN_STATES + 1]
    cdef Vectors p
    cdef int i
    if not 1 <= len(held) <= FASTNN_STATES + 1:
        raise ValueError(f"vectors must be 1 to {FASTNN_STATES + 1} arrays, got {len(held)}")
    check_shape(g_, 1, g_.columns, "g")
    for i in range(len(held)):
        array = held[i]
        table_for(g_, array)
        check_shape(array, 1, g_.columns, "an array of vectors")
        pointers[i] = array.data
    memset(&p, 0, sizeof(p))
    p.table, p.n, p.n_streams, p.c, p.g, p.states = t, g_.columns, len(held), c, g_.data, pointers
    with nogil:
        run_vectors(&p)


cdef struct Pair:
    # Two vectors of n numbers: their product, or what the second becomes.
    const fastnn_kernels *table
    ptrdiff_t n
    const char *a
    char *b
    double *blocks  # of the product, in order
    double share


cdef void dot_task(void *context, int thread, int n_threads) noexcept nogil:
    cdef Pair *p = <Pair *>context
    cdef ptrdiff_t size = p.table.itemsize, count = (p.n + FASTNN_DOT_BLOCK - 1) // FASTNN_DOT_BLOCK, i, first
    for i in range(count * thread // n_threads, count * (thread + 1) // n_threads):
        first = i * FASTNN_DOT_BLOCK
        p.blocks[i] = p.table.dot(min(FASTNN_DOT_BLOCK, p.n - first), p.a + first * size, p.b + first * size)


cdef void average_task(void *context, int thread, int n_threads) noexcept nogil:
    cdef Pair *p = <Pair *>context
    cdef ptrdiff_t size = p.table.itemsize, lines = (p.n * size + 63) // 64, line = 64 // size
    cdef ptrdiff_t first = lines * thread // n_threads * line, last = min(p.n, lines * (thread + 1) // n_threads * line)
    if first < last:
        p.table.average(last - first, p.share, p.a + first * size, p.b + first * size)


def dot(a, b):
    """Sum of a[i] b[i] for a and b (n,), in double; the same bits on every instruction set and thread count."""
    cdef Array a_ = Array(a), b_ = Array(b)
    cdef Pair p
    cdef ptrdiff_t count, i
    cdef double found = 0
    p.table, p.n, p.a, p.b = table_for(a_, b_), a_.columns, a_.data, b_.data
    check_shape(a_, 1, p.n, "a")
    check_shape(b_, 1, p.n, "b")
    if p.n < TEAM_ELEMENTS // 2:
        with nogil:
            found = p.table.dot(p.n, p.a, p.b)
        return found
    count = (p.n + FASTNN_DOT_BLOCK - 1) // FASTNN_DOT_BLOCK
    p.blocks = <double *>malloc(count * sizeof(double))
    if p.blocks == NULL:
        raise MemoryError
    with nogil:
        run_team(dot_task, &p, thread_limit())
        for i in range(count):
            found += p.blocks[i]
    free(p.blocks)
    return found


cdef struct Largest:
    const fastnn_kernels *table
    ptrdiff_t n
    const char *x
    double found[FASTNN_MAX_THREADS]


cdef void largest_task(void *context, int thread, int n_threads) noexcept nogil:
    cdef Largest *p = <Largest *>context
    cdef ptrdiff_t first = p.n * thread // n_threads
    p.found[thread] = p.table.largest(p.n * (thread + 1) // n_threads - first, p.x + first * p.table.itemsize)


def largest(x):
    """The largest size of a number of x (n,), 0 of none; NaN where one is not finite."""
    cdef Array x_ = Array(x)
    cdef Largest p
    cdef double found = 0
    cdef int n_threads, i
    p.table, p.n, p.x = table_for(x_), x_.columns, x_.data
    check_shape(x_, 1, x_.columns, "x")
    with nogil:
        n_threads = run_team(largest_task, &p, thread_limit() if p.n >= TEAM_ELEMENTS else 1)
        for i in range(n_threads):
            if not found >= p.found[i]:  # NaN stays
                found = p.found[i]
            if found != found:
                break
    return found


def limit_columns(w, double most):
    """Scale columns of w (m, n) that are longer than `most` down to that length, in place."""
    cdef Array w_ = Array(w, True)
    cdef const fastnn_kernels *t = table_for(w_)
    check_shape(w_, w_.rows, w_.columns, "w")
    with nogil:
        t.limit_columns(w_.rows, w_.columns, most, w_.data, w_.row_stride)


def average(double share, w, mean):
    """mean (n,) += share (w - mean), in place."""
    cdef Array w_ = Array(w), mean_ = Array(mean, True)
    cdef Pair p
    p.table, p.n, p.share, p.a, p.b = table_for(w_, mean_), w_.columns, share, w_.data, mean_.data
    check_shape(w_, 1, p.n, "w")
    check_shape(mean_, 1, p.n, "mean")
    with nogil:
        run_team(average_task, &p, thread_limit() if p.n >= TEAM_ELEMENTS else 1)
