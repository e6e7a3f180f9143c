# Included by kernels.pyx: losses of arrays.

# Whose plain form needs no numbers: zeros are none.
_PLAIN = ("cross_entropy", "binary_cross_entropy")


cdef class Loss:
    def __cinit__(self, str name, numbers, ptrdiff_t n_out, int itemsize):
        """The loss `name` of n_out outputs; numbers: {field of fastnn_loss: number, or array (n_out,)} or None."""
        memset(&self.of, 0, sizeof(self.of))
        self.of.loss, self.of.repeat = _LOSS_ID[name], 1
        if not numbers and (name in _PLAIN or not LOSS_NUMBERS[name]):
            return
        numbers = {} if numbers is None else dict(numbers)
        wanted = LOSS_NUMBERS[name]
        if not set(numbers) <= set(wanted) or (name not in _PLAIN and len(numbers) < len(wanted)):
            raise ValueError(f"loss {name!r} must be given the numbers {', '.join(wanted)}, got {', '.join(numbers)}; "
                             "a description of fastnn.losses holds them")
        each = numbers.pop("each", None)
        if each is not None:
            self.each = Array(np.array(each, np.float32 if itemsize == 4 else np.float64))
            if self.each.buffer.ndim != 1 or self.each.columns != n_out:
                raise ValueError(f"numbers of outputs must have shape ({n_out},), got {np.shape(each)}")
            self.of.each = self.each.data
        self.of.full, self.of.log_input = numbers.pop("full", 0), numbers.pop("log_input", 0)
        self.of.p, self.of.repeat = numbers.pop("p", 0), numbers.pop("repeat", 1)
        self.of.smoothing, self.of.delta = numbers.pop("smoothing", 0), numbers.pop("delta", 0)
        self.of.eps, self.of.margin = numbers.pop("eps", 0), numbers.pop("margin", 0)
        self.of.alpha, self.of.gamma = numbers.pop("alpha", 0), numbers.pop("gamma", 0)
        assert not numbers


def target_columns(str name, ptrdiff_t n_out, ptrdiff_t repeat=1):
    """Columns of the values that a loss of n_out outputs compares them with; ValueError for outputs that it has not."""
    divisor = 2 if name == "gaussian_nll" else repeat
    if n_out % divisor:
        raise ValueError(f"the model must have a multiple of {divisor} outputs for loss {name!r}, got {n_out}")
    return n_out // divisor


def loss(str name, z, y, const double[::1] weight, double scale, double[::1] loss_rows, dz, numbers=None):
    """Losses of rows, and dz = weight * scale * gradient.

    z (m, n); y int64 labels (m,) or values (m, target_columns); numbers: see Loss.
    """
    cdef Array z_ = Array(z), y_ = None
    cdef Array dz_ = Array(dz, True) if dz is not None else None
    cdef Loss of = Loss(name, numbers, z_.columns, z_.itemsize)
    cdef const int64_t[::1] labels
    cdef const int64_t *labels_p = NULL
    cdef ptrdiff_t m = z_.rows, i
    check_shape(z_, m, z_.columns, "z")
    if fastnn_loss_takes_labels(of.of.loss) and not (name == "cross_entropy" and y.dtype.kind == "f"):
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
        check_shape(y_, m, target_columns(name, z_.columns, of.of.repeat), "y")
    if dz_ is not None:
        check_shape(dz_, m, z_.columns, "dz")
    cdef const fastnn_kernels *t = table_for(z_, y_, dz_)
    if loss_rows.shape[0] != m or (weight is not None and weight.shape[0] != m):
        raise ValueError(f"loss_rows and weight must have {m} elements")
    if m == 0:
        return
    cdef const double *weight_p = &weight[0] if weight is not None else NULL
    with nogil:
        t.loss(&of.of, m, z_.columns, z_.data, z_.row_stride, labels_p, y_.data if y_ is not None else NULL,
               y_.row_stride if y_ is not None else 0, weight_p, scale, &loss_rows[0],
               dz_.data if dz_ is not None else NULL, dz_.row_stride if dz_ is not None else 0)
