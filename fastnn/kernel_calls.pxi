# Included by kernels.pyx: activations, losses, updates and random numbers for arrays.

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


def loss(str name, z, y, const double[::1] weight, double scale, double[::1] loss_rows, dz):
    """Losses of rows, and dz = weight * scale * gradient. z (m, n); y int64 labels (m,) or values (m, n)."""
    cdef Array z_ = Array(z), y_ = None
    cdef Array dz_ = Array(dz, True) if dz is not None else None
    cdef int which = _LOSS_ID[name]
    cdef const int64_t[::1] labels
    cdef const int64_t *labels_p = NULL
    cdef ptrdiff_t m = z_.rows, i
    check_shape(z_, m, z_.columns, "z")
    if fastnn_loss_takes_labels(which):
        labels = y
        if labels.shape[0] != m:
            raise ValueError(f"y must have {m} labels, got {labels.shape[0]}")
        for i in range(m):
            if not 0 <= labels[i] < z_.columns:
                raise ValueError(f"y must hold labels from 0 to {z_.columns - 1}, got {labels[i]} in row {i}")
        if m:
            labels_p = &labels[0]
    else:
        y_ = Array(y)
        check_shape(y_, m, z_.columns, "y")
    if dz_ is not None:
        check_shape(dz_, m, z_.columns, "dz")
    cdef const fastnn_kernels *t = table_for(z_, y_, dz_)
    if loss_rows.shape[0] != m or (weight is not None and weight.shape[0] != m):
        raise ValueError(f"loss_rows and weight must have {m} elements")
    if m == 0:
        return
    cdef const double *weight_p = &weight[0] if weight is not None else NULL
    with nogil:
        t.loss(which, m, z_.columns, z_.data, z_.row_stride, labels_p, y_.data if y_ is not None else NULL,
               y_.row_stride if y_ is not None else 0, weight_p, scale, &loss_rows[0],
               dz_.data if dz_ is not None else NULL, dz_.row_stride if dz_ is not None else 0)


cdef run_update(fastnn_update *u, w, g, state1, state2, double weight_decay, segments):
    cdef Array w_ = Array(w, True), g_ = Array(g)
    cdef Array s1 = Array(state1, True) if state1 is not None else None
    cdef Array s2 = Array(state2, True) if state2 is not None else None
    cdef const fastnn_kernels *t = table_for(w_, g_, s1, s2)
    cdef ptrdiff_t n = w_.columns, i, count
    cdef Array array
    for name, array in (("w", w_), ("g", g_), ("state", s1), ("state", s2)):
        if array is not None:
            check_shape(array, 1, n, name)
    rows = [(0, n, 1.0, weight_decay)] if segments is None else list(segments)
    count = len(rows)
    cdef fastnn_segment *list_ = <fastnn_segment *>malloc(max(1, count) * sizeof(fastnn_segment))
    if list_ == NULL:
        raise MemoryError
    try:
        for i in range(count):
            offset, length, lr, decay = rows[i]
            if offset < 0 or length < 0 or offset + length > n:
                raise ValueError(f"segments[{i}] must lie within {n} parameters, got offset {offset}, length {length}")
            list_[i].offset, list_[i].length, list_[i].lr, list_[i].decay = offset, length, lr, decay
        with nogil:
            t.update(u, count, list_, w_.data, g_.data, s1.data if s1 is not None else NULL,
                     s2.data if s2 is not None else NULL)
    finally:
        free(list_)


def sgd_update(w, g, velocity, double lr, double momentum, bint nesterov, double weight_decay, segments):
    """One SGD step on w (n,) in place; velocity (n,) or None; segments: (offset, length, lr, decay) or None."""
    cdef fastnn_update u
    memset(&u, 0, sizeof(u))
    if momentum != 0 and velocity is None:
        raise ValueError("velocity must be an array where momentum is not 0, got None")
    u.optimizer, u.lr, u.momentum, u.nesterov = FASTNN_sgd, lr, momentum, nesterov
    run_update(&u, w, g, velocity, None, weight_decay, segments)


cdef void adam_corrections(fastnn_update *u, uint64_t t) noexcept nogil:
    u.correction1, u.correction2 = 1 - fastnn_power(u.beta1, t), 1 - fastnn_power(u.beta2, t)


def adam_update(w, g, m, v, uint64_t step, double lr, double beta1, double beta2, double eps, double weight_decay,
                segments):
    """Adam step number `step` (from 1) on w (n,), m (n,), v (n,) in place."""
    cdef fastnn_update u
    memset(&u, 0, sizeof(u))
    if step < 1:
        raise ValueError(f"step counts from 1, got {step}")
    u.optimizer, u.lr, u.beta1, u.beta2, u.eps = FASTNN_adam, lr, beta1, beta2, eps
    adam_corrections(&u, step)
    run_update(&u, w, g, m, v, weight_decay, segments)


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
