# Included by kernels.pyx: norms, PReLU, noise and embeddings of arrays.

cdef const void *row_or_null(Array array, ptrdiff_t n, str name) except? NULL:
    """Where the numbers (n,) of an array lie, or NULL for None."""
    if array is None:
        return NULL
    check_shape(array, 1, n, name)
    return array.data


cdef Array optional(array):
    return None if array is None else Array(array)


def norm_rows(x, gamma, beta, bint centred, double eps, out, stats):
    """out (m, n) = x normalised by rows, times gamma (n,), plus beta (n,); stats (m, 2): mean and 1 / deviation.

    gamma and beta may be None, beta wants gamma; out may be x.
    """
    cdef Array x_ = Array(x), out_ = Array(out, True), stats_ = Array(stats, True)
    cdef Array gamma_ = optional(gamma), beta_ = optional(beta)
    cdef const fastnn_kernels *t = table_for(x_, out_, gamma_, beta_)
    cdef const void *g = row_or_null(gamma_, x_.columns, "gamma")
    cdef const void *b = row_or_null(beta_, x_.columns, "beta")
    table_for(x_, stats_)
    if beta_ is not None and gamma_ is None:
        raise ValueError("beta needs gamma")
    check_shape(x_, x_.rows, x_.columns, "x")
    check_shape(out_, x_.rows, x_.columns, "out")
    check_shape(stats_, x_.rows, 2, "stats")
    if stats_.row_stride != 2 and stats_.rows > 1:
        raise ValueError("stats must be contiguous")
    with nogil:
        t.norm_rows(x_.rows, x_.columns, centred, eps, g, b, x_.data, x_.row_stride, out_.data, out_.row_stride,
                    stats_.data)


def norm_rows_backward(x, gamma, bint centred, stats, d, dx, dgamma):
    """dgamma (n,) and dx (m, n) from the gradient d (m, n) of what norm_rows gave; dx may be d or x."""
    cdef Array x_ = Array(x), stats_ = Array(stats), d_ = Array(d), dx_ = Array(dx, True), gamma_ = optional(gamma)
    cdef Array dgamma_ = Array(dgamma, True)
    cdef const fastnn_kernels *t = table_for(x_, stats_, d_, dx_)
    cdef const void *g = row_or_null(gamma_, x_.columns, "gamma")
    table_for(x_, gamma_, dgamma_)
    for name, array in (("x", x_), ("d", d_), ("dx", dx_)):
        check_shape(array, x_.rows, x_.columns, name)
    check_shape(stats_, x_.rows, 2, "stats")
    check_shape(dgamma_, 1, x_.columns, "dgamma")
    if stats_.row_stride != 2 and stats_.rows > 1:
        raise ValueError("stats must be contiguous")
    with nogil:
        t.norm_rows_gradient(x_.rows, x_.columns, x_.data, x_.row_stride, stats_.data, d_.data, d_.row_stride,
                             dgamma_.data)
        t.norm_rows_backward(x_.rows, x_.columns, centred, g, x_.data, x_.row_stride, stats_.data, d_.data,
                             d_.row_stride, dx_.data, dx_.row_stride)


def column_moments(x, mean, var):
    """Mean and biased variance (n,) of the columns of x (m, n), m >= 1."""
    cdef Array x_ = Array(x), mean_ = Array(mean, True), var_ = Array(var, True)
    cdef const fastnn_kernels *t = table_for(x_, mean_, var_)
    check_shape(x_, x_.rows, x_.columns, "x")
    check_shape(mean_, 1, x_.columns, "mean")
    check_shape(var_, 1, x_.columns, "var")
    with nogil:
        t.column_moments(x_.rows, x_.columns, x_.data, x_.row_stride, mean_.data, var_.data)


def norm_columns(x, mean, var, gamma, beta, double eps, out):
    """out (m, n) = x normalised by columns, times gamma, plus beta; these (n,), or both None; out may be x."""
    cdef Array x_ = Array(x), mean_ = Array(mean), var_ = Array(var), out_ = Array(out, True)
    cdef Array gamma_ = optional(gamma), beta_ = optional(beta)
    cdef const fastnn_kernels *t = table_for(x_, mean_, var_, out_)
    cdef const void *g = row_or_null(gamma_, x_.columns, "gamma")
    cdef const void *b = row_or_null(beta_, x_.columns, "beta")
    table_for(x_, gamma_, beta_)
    if (gamma_ is None) != (beta_ is None):
        raise ValueError("gamma and beta must both be given, or both be None")
    check_shape(x_, x_.rows, x_.columns, "x")
    check_shape(mean_, 1, x_.columns, "mean")
    check_shape(var_, 1, x_.columns, "var")
    check_shape(out_, x_.rows, x_.columns, "out")
    with nogil:
        t.norm_columns(x_.rows, x_.columns, eps, mean_.data, var_.data, g, b, False, x_.data, x_.row_stride,
                       out_.data, out_.row_stride)


def norm_columns_backward(x, mean, var, gamma, double eps, bint of_batch, d, dx, dgamma, dbeta):
    """dgamma, dbeta (n,) and dx (m, n) from the gradient d of what norm_columns gave; dx may be d or x.

    of_batch: whether mean and var are those of x, and have a part in the gradient.
    """
    cdef Array x_ = Array(x), mean_ = Array(mean), var_ = Array(var), d_ = Array(d), dx_ = Array(dx, True)
    cdef Array gamma_ = optional(gamma), dgamma_ = Array(dgamma, True), dbeta_ = Array(dbeta, True), sum_, dot_
    cdef const fastnn_kernels *t = table_for(x_, mean_, var_, d_)
    cdef const void *g = row_or_null(gamma_, x_.columns, "gamma")
    table_for(x_, gamma_, dgamma_, dbeta_)
    table_for(x_, dx_)
    for name, array in (("x", x_), ("d", d_), ("dx", dx_)):
        check_shape(array, x_.rows, x_.columns, name)
    for name, array in (("mean", mean_), ("var", var_), ("dgamma", dgamma_), ("dbeta", dbeta_)):
        check_shape(array, 1, x_.columns, name)
    sum_, dot_ = dbeta_, dgamma_
    if not of_batch:
        nothing = np.zeros(x_.columns, np.float32 if x_.itemsize == 4 else np.float64)
        sum_ = dot_ = Array(nothing)
    with nogil:
        t.norm_columns_sums(x_.rows, x_.columns, eps, mean_.data, var_.data, x_.data, x_.row_stride, d_.data,
                            d_.row_stride, dbeta_.data, dgamma_.data)
        t.norm_columns_backward(x_.rows, x_.rows, x_.columns, eps, mean_.data, var_.data, g, sum_.data, dot_.data,
                                x_.data, x_.row_stride, d_.data, d_.row_stride, dx_.data, dx_.row_stride)


def prelu(z, slope, out):
    """out (m, n) = z where z > 0, else slope z; slope (1,) or (n,); out may be z."""
    cdef Array z_ = Array(z), slope_ = Array(slope), out_ = Array(out, True)
    cdef const fastnn_kernels *t = table_for(z_, slope_, out_)
    cdef bint shared = slope_.columns == 1
    check_shape(z_, z_.rows, z_.columns, "z")
    check_shape(slope_, 1, 1 if shared else z_.columns, "slope")
    check_shape(out_, z_.rows, z_.columns, "out")
    with nogil:
        t.prelu(z_.rows, z_.columns, slope_.data, shared, z_.data, z_.row_stride, out_.data, out_.row_stride)


def prelu_backward(z, slope, d, dz, dslope):
    """dslope, like slope, and dz (m, n) from the gradient d; dz may be d or z."""
    cdef Array z_ = Array(z), slope_ = Array(slope), d_ = Array(d), dz_ = Array(dz, True), dslope_ = Array(dslope, True)
    cdef const fastnn_kernels *t = table_for(z_, slope_, d_, dz_)
    cdef bint shared = slope_.columns == 1
    table_for(z_, dslope_)
    for name, array in (("z", z_), ("d", d_), ("dz", dz_)):
        check_shape(array, z_.rows, z_.columns, name)
    for name, array in (("slope", slope_), ("dslope", dslope_)):
        check_shape(array, 1, 1 if shared else z_.columns, name)
    with nogil:
        t.prelu_gradient(z_.rows, z_.columns, shared, z_.data, z_.row_stride, d_.data, d_.row_stride, dslope_.data)
        t.prelu_backward(z_.rows, z_.columns, slope_.data, shared, z_.data, z_.row_stride, d_.data, d_.row_stride,
                         dz_.data, dz_.row_stride)


def multiply(a, b):
    """a (m, n) *= b, in place."""
    cdef Array a_ = Array(a, True), b_ = Array(b)
    cdef const fastnn_kernels *t = table_for(a_, b_)
    check_shape(a_, a_.rows, a_.columns, "a")
    check_shape(b_, a_.rows, a_.columns, "b")
    with nogil:
        t.multiply(a_.rows, a_.columns, a_.data, a_.row_stride, b_.data, b_.row_stride)


def alpha_dropout(x, mask, double scale, double shift, double dropped):
    """From a mask of dropout on: x (m, n) = scale x + shift where it is not 0, else dropped; mask = scale or 0."""
    cdef Array x_ = Array(x, True), mask_ = Array(mask, True)
    cdef const fastnn_kernels *t = table_for(x_, mask_)
    check_shape(x_, x_.rows, x_.columns, "x")
    check_shape(mask_, x_.rows, x_.columns, "mask")
    with nogil:
        t.alpha_dropout(scale, shift, dropped, x_.rows, x_.columns, x_.data, x_.row_stride, mask_.data,
                        mask_.row_stride)


def gaussian_noise(x, uint64_t seed, uint64_t step, uint32_t layer, double deviation, ptrdiff_t first_row):
    """x (m, n) += deviation times normal numbers, in place; keyed as masks of dropout are."""
    cdef Array x_ = Array(x, True)
    cdef const fastnn_kernels *t = table_for(x_)
    check_shape(x_, x_.rows, x_.columns, "x")
    with nogil:
        t.gaussian_noise(seed, step, layer, deviation, first_row, x_.rows, x_.columns, x_.data, x_.row_stride)


def embed(const int64_t[::1] codes, table, out):
    """out (m, width) = the rows of table (n, width) that codes (m,) name; zeros for codes outside 0 .. n-1."""
    cdef Array table_ = Array(table), out_ = Array(out, True)
    cdef ptrdiff_t m = codes.shape[0], i, width = table_.columns, size = table_.itemsize
    table_for(table_, out_)
    check_shape(table_, table_.rows, width, "table")
    check_shape(out_, m, width, "out")
    with nogil:
        for i in range(m):
            if 0 <= codes[i] < table_.rows:
                memcpy(out_.data + i * out_.row_stride * size, table_.data + codes[i] * table_.row_stride * size,
                       width * size)
            else:
                memset(out_.data + i * out_.row_stride * size, 0, width * size)


def embed_gradient(const int64_t[::1] codes, d, g):
    """g (n, width) = sums of the rows of d (m, width) by code, in their order; other codes are left out."""
    cdef Array d_ = Array(d), g_ = Array(g, True)
    cdef const fastnn_kernels *t = table_for(d_, g_)
    cdef ptrdiff_t m = codes.shape[0], i, width = g_.columns, size = g_.itemsize
    cdef char *row
    check_shape(d_, m, width, "d")
    check_shape(g_, g_.rows, width, "g")
    with nogil:
        for i in range(g_.rows):
            memset(g_.data + i * g_.row_stride * size, 0, width * size)
        for i in range(m):
            if 0 <= codes[i] < g_.rows:
                row = g_.data + codes[i] * g_.row_stride * size
                t.add(1, width, row, width, d_.data + i * d_.row_stride * size, width, row, width)
