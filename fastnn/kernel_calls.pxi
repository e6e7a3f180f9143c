# Included by kernels.pyx: activations and random numbers for arrays.

def activation(str name, z, out):
    """out = f(z), both (m, n); out may be z."""
    cdef Array z_ = Array(z), out_ = Array(out, True)
    cdef const fastnn_kernels *t = table_for(z_, out_)
    cdef int f = _ACTIVATION_ID[name]
    check_shape(z_, z_.rows, z_.columns, "z")
    check_shape(out_, z_.rows, z_.columns, "out")
    with nogil:
        t.activation(f, z_.rows, z_.columns, z_.data, z_.row_stride, out_.data, out_.row_stride)


def activation_and_slope(str name, z, out, slope):
    """out = f(z) and slope = f'(z) of an activation of kind from_input, all (m, n); out may be z."""
    cdef Array z_ = Array(z), out_ = Array(out, True), slope_ = Array(slope, True)
    cdef const fastnn_kernels *t = table_for(z_, out_, slope_)
    cdef int f = _ACTIVATION_ID[name]
    if ACTIVATIONS[name] != "from_input":
        raise ValueError(f"name must be an activation of kind from_input, got {name!r}")
    check_shape(z_, z_.rows, z_.columns, "z")
    check_shape(out_, z_.rows, z_.columns, "out")
    check_shape(slope_, z_.rows, z_.columns, "slope")
    with nogil:
        t.activation_and_slope(f, z_.rows, z_.columns, z_.data, z_.row_stride, out_.data, out_.row_stride,
                               slope_.data, slope_.row_stride)


def activation_backward(str name, a, da, out):
    """out = da * f'(z) from the activation's output a, or its slope for kind from_input; all (m, n); out may be da."""
    cdef Array a_ = Array(a), da_ = Array(da), out_ = Array(out, True)
    cdef const fastnn_kernels *t = table_for(a_, da_, out_)
    cdef int f = _ACTIVATION_ID[name]
    check_shape(a_, a_.rows, a_.columns, "a")
    check_shape(da_, a_.rows, a_.columns, "da")
    check_shape(out_, a_.rows, a_.columns, "out")
    with nogil:
        t.activation_backward(f, a_.rows, a_.columns, a_.data, a_.row_stride, da_.data, da_.row_stride, out_.data,
                              out_.row_stride)


cdef struct Mask:
    const fastnn_kernels *table
    uint64_t seed, step
    uint32_t layer
    double rate
    ptrdiff_t first_row, m, n, ld, ld_mask
    char *x  # or NULL
    char *mask


cdef void mask_task(void *context, int thread, int n_threads) noexcept nogil:
    cdef Mask *p = <Mask *>context
    cdef ptrdiff_t size = p.table.itemsize, first = p.m * thread // n_threads, last = p.m * (thread + 1) // n_threads
    cdef char *x = p.x + first * p.ld * size if p.x != NULL else NULL
    p.table.dropout(p.seed, p.step, p.layer, p.rate, p.first_row + first, last - first, p.n, x, p.ld,
                    p.mask + first * p.ld_mask * size, p.ld_mask)


def dropout(x, mask, uint64_t seed, uint64_t step, uint32_t layer, double rate, ptrdiff_t first_row):
    """mask (m, n) = 0 or 1 / (1 - rate); x (m, n) *= mask in place, where it is not None."""
    cdef Array x_ = None if x is None else Array(x, True), mask_ = Array(mask, True)
    cdef Mask p
    memset(&p, 0, sizeof(p))
    p.table = table_for(mask_, x_)
    check_shape(mask_, mask_.rows, mask_.columns, "mask")
    if not 0 <= rate < 1:
        raise ValueError(f"rate must be in [0, 1), got {rate}")
    if x_ is not None:
        check_shape(x_, mask_.rows, mask_.columns, "x")
        p.x, p.ld = x_.data, x_.row_stride
    p.seed, p.step, p.layer, p.rate, p.first_row = seed, step, layer, rate, first_row
    p.m, p.n, p.mask, p.ld_mask = mask_.rows, mask_.columns, mask_.data, mask_.row_stride
    with nogil:
        # ten rounds of multiplications for four numbers: as long as an update of four times as many
        run_team(mask_task, &p, thread_limit() if 4 * p.m * p.n >= TEAM_ELEMENTS // 2 else 1)


def vector(str name, x, out):
    """out (n,) = exp, log, log1p (of x >= 0), tanh or sigmoid of x (n,); out may be x."""
    cdef Array x_ = Array(x), out_ = Array(out, True)
    cdef const fastnn_kernels *t = table_for(x_, out_)
    check_shape(x_, 1, x_.columns, "x")
    check_shape(out_, 1, x_.columns, "out")
    cdef void (*function)(ptrdiff_t, const void *, void *) noexcept nogil
    if name == "exp":
        function = t.exp
    elif name == "log":
        function = t.log
    elif name == "log1p":
        function = t.log1p
    elif name == "tanh":
        function = t.tanh
    elif name == "sigmoid":
        function = t.sigmoid
    else:
        raise ValueError(f"name must be exp, log, log1p, tanh or sigmoid, got {name!r}")
    with nogil:
        function(x_.columns, x_.data, out_.data)


def fma_loop(ptrdiff_t turns, int itemsize):
    """Run so many turns of FMAs in registers, float32 or float64 by size; gives the operations done."""
    cdef const fastnn_kernels *t = kernel_table(itemsize)
    if t == NULL:
        raise ValueError(f"itemsize must be 4 or 8, got {itemsize}")
    with nogil:
        done = t.fma_loop(turns)
    return done
