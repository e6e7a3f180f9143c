# Included by kernels.pyx: products of arrays, on several threads.

cdef struct Product:
    const fastnn_kernels *table
    ptrdiff_t m, n, k, a_row, a_col, ld_b, ld_c
    const char *a
    const char *b
    bint b_is_turned    # b is w (n, k), to be read as its transpose
    char *c
    fastnn_epilogue epilogue
    bint by_rows


cdef void product_task(void *context, int thread, int n_threads) noexcept nogil:
    """Rows, or column panels where rows are few, of one product; never a part of a sum."""
    cdef Product *p = <Product *>context
    cdef ptrdiff_t size = p.table.itemsize, panel = p.table.panel, first, last, n_panels
    cdef fastnn_epilogue e = p.epilogue
    if p.by_rows:
        first, last = p.m * thread // n_threads, p.m * (thread + 1) // n_threads
        if p.b_is_turned:
            p.table.matmul_transposed(last - first, p.n, p.k, p.a + first * p.a_row * size, p.a_row, p.a_col, p.b,
                                      p.ld_b, p.c + first * p.ld_c * size, p.ld_c, &e)
        else:
            p.table.matmul(last - first, p.n, p.k, p.a + first * p.a_row * size, p.a_row, p.a_col, p.b, p.ld_b, 0,
                           p.c + first * p.ld_c * size, p.ld_c, &e)
        return
    n_panels = (p.n + panel - 1) // panel
    first, last = n_panels * thread // n_threads * panel, min(n_panels * (thread + 1) // n_threads * panel, p.n)
    if first >= last:
        return
    if e.bias != NULL:
        e.bias = <const char *>e.bias + first * size
    if p.b_is_turned:
        p.table.matmul_transposed(p.m, last - first, p.k, p.a, p.a_row, p.a_col, p.b + first * p.ld_b * size, p.ld_b,
                                  p.c + first * size, p.ld_c, &e)
        return
    # the columns of the next share may be read beyond this one's
    p.table.matmul(p.m, last - first, p.k, p.a, p.a_row, p.a_col, p.b + first * size, p.ld_b, p.n - last,
                   p.c + first * size, p.ld_c, &e)


cdef void run_product(Product *p) noexcept nogil:
    cdef int n_threads = thread_limit() if 2.0 * p.m * p.n * p.k >= TEAM_FLOPS else 1
    p.by_rows = p.m >= 8 * n_threads or p.n < p.table.panel * n_threads
    p.by_rows |= fastnn_is_rowwise(p.epilogue.activation)
    run_team(product_task, p, n_threads)


def matmul(a, b, bias, str activation, out):
    """out (m, n) = f(a (m, k) @ b (k, n) + bias); bias may be None; a may have any strides.

    The rows or the columns of b lie side by side in memory; those of out, its columns.
    """
    cdef Array a_ = Array(a), b_ = Array(b), out_ = Array(out, True)
    cdef Array bias_ = Array(bias) if bias is not None else None
    cdef Product p
    memset(&p, 0, sizeof(p))
    p.table = table_for(a_, b_, out_, bias_)
    p.b_is_turned = b_.column_stride != 1 and b_.row_stride == 1 and b_.columns > 1
    if p.b_is_turned and b_.rows != a_.columns:
        raise ValueError(f"b must have {a_.columns} rows, got shape ({b_.rows}, {b_.columns})")
    if not p.b_is_turned:
        check_shape(b_, a_.columns, b_.columns, "b")
    check_shape(out_, a_.rows, b_.columns, "out")
    if bias_ is not None:
        check_shape(bias_, 1, b_.columns, "bias")
        p.epilogue.bias = bias_.data
    p.epilogue.activation = _ACTIVATION_ID[activation]
    p.m, p.n, p.k = a_.rows, b_.columns, a_.columns
    p.a, p.a_row, p.a_col = a_.data, a_.row_stride, a_.column_stride
    p.b, p.ld_b, p.c, p.ld_c = b_.data, b_.row_stride, out_.data, out_.row_stride
    if p.b_is_turned:
        p.ld_b = b_.column_stride
    with nogil:
        run_product(&p)


def linear_input_gradient(dz, w, out):
    """out (m, n_in) = dz (m, n_out) @ w.T, for w (n_in, n_out)."""
    cdef Array dz_ = Array(dz), w_ = Array(w), out_ = Array(out, True)
    cdef Product p
    memset(&p, 0, sizeof(p))
    p.table = table_for(dz_, w_, out_)
    check_shape(w_, w_.rows, dz_.columns, "w")
    check_shape(out_, dz_.rows, w_.rows, "out")
    p.m, p.n, p.k = dz_.rows, w_.rows, dz_.columns
    p.a, p.a_row, p.a_col = dz_.data, dz_.row_stride, dz_.column_stride
    p.b, p.ld_b, p.b_is_turned, p.c, p.ld_c = w_.data, w_.row_stride, True, out_.data, out_.row_stride
    with nogil:
        run_product(&p)


def product_path(m, n, k, *, itemsize=4, a_is_transposed=False, b_is_transposed=False):
    """Way of a product (m, k) @ (k, n) of contiguous arrays: in_place, panels, turned or narrow."""
    return fastnn_path_name(kernel_table(itemsize).path(
        m, n, k, 1 if a_is_transposed else k, m if a_is_transposed else 1, b_is_transposed,
        k if b_is_transposed else n)).decode()


def sum_rows(a, out):
    """out (n,) = sums of the columns of a (m, n)."""
    cdef Array a_ = Array(a), out_ = Array(out, True)
    cdef const fastnn_kernels *t = table_for(a_, out_)
    check_shape(a_, a_.rows, a_.columns, "a")
    check_shape(out_, 1, a_.columns, "out")
    with nogil:
        t.sum_rows(a_.rows, a_.columns, a_.data, a_.row_stride, out_.data)
