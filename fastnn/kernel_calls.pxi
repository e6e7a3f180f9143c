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




def dropout(x, mask, uint64_t seed, uint64_t step, uint32_t layer, double rate, ptrdiff_t first_row):
    """mask (m, n) = 0 or 1 / (1 - rate); x (m, n) *= mask in place."""
    cdef Array x_ = Array(x, True), mask_ = Array(mask, True)
    cdef const fastnn_kernels *t = table_for(x_, mask_)
    check_shape(x_, x_.rows, x_.columns, "x")
    check_shape(mask_, x_.rows, x_.columns, "mask")
    if not 0 <= rate < 1:
        raise ValueError(f"rate must be in [0, 1), got {rate}")
    with nogil:
        t.dropout(seed, step, layer, rate, first_row, x_.rows, x_.columns, x_.data, x_.row_stride, mask_.data,
                  mask_.row_stride)


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
