# Included by kernels.pyx: products of arrays, on several threads.

cdef struct Product:
    const fastnn_kernels *table
    ptrdiff_t m, n, k, a_row, a_col, ld_b, ld_c
    const char *a
    const char *b
    bint b_is_turned    # b is w (n, k), to be read as its transpose
    bint by_dots        # a layer's product, summed as fastnn_by_dots has it
    bint b_is_row       # dx = dz w^T of one row, as fastnn_input_by_dots has it
    char *c
    fastnn_epilogue epilogue
    bint by_rows


cdef void product_task(void *context, int thread, int n_threads) noexcept nogil:
    """Rows, or column panels where rows are few, of one product; never a part of a sum."""
    cdef Product *p = <Product *>context
    cdef ptrdiff_t size = p.table.itemsize, panel = p.table.panel, first, last, n_panels
    cdef fastnn_epilogue e = p.epilogue
    if p.b_is_row:
        first, last = p.n * thread // n_threads, p.n * (thread + 1) // n_threads
        p.table.row_dots(last - first, p.k, p.a, p.a_col, p.b + first * p.ld_b * size, p.ld_b, p.c + first * size, &e)
        return
    if p.by_rows:
        first, last = p.m * thread // n_threads, p.m * (thread + 1) // n_threads
        if p.by_dots:
            p.table.dots(last - first, p.n, p.k, p.a + first * p.a_row * size, p.a_row, p.a_col, p.b,
                         1 if p.b_is_turned else p.ld_b, p.ld_b if p.b_is_turned else 1,
                         p.c + first * p.ld_c * size, p.ld_c, &e)
        elif p.b_is_turned:
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
    p.by_rows |= p.by_dots or fastnn_is_rowwise(p.epilogue.activation)
    run_team(product_task, p, n_threads)


def matmul(a, b, bias, str activation, out):
    """out (m, n) = f(a (m, k) @ b (k, n) + bias); bias may be None; a may have any strides.

    The rows or the columns of b lie side by side in memory; those of out, its columns. The sums are those of a layer:
    dot products where n is 4 or less and k 64 or more.
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
    p.by_dots = fastnn_by_dots(p.n, p.k)
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
    p.b_is_row = fastnn_input_by_dots(p.m, p.n, p.k)
    with nogil:
        run_product(&p)


def linear_weight_gradient(x, dz, out):
    """out (n_in, n_out) = x.T @ dz, for x (m, n_in) of any strides and dz (m, n_out), summed in the order of the rows."""
    cdef Array x_ = Array(x), dz_ = Array(dz), out_ = Array(out, True)
    cdef Product p
    memset(&p, 0, sizeof(p))
    p.table = table_for(x_, dz_, out_)
    check_shape(dz_, x_.rows, dz_.columns, "dz")
    check_shape(out_, x_.columns, dz_.columns, "out")
    p.m, p.n, p.k = x_.columns, dz_.columns, x_.rows
    p.a, p.a_row, p.a_col = x_.data, x_.column_stride, x_.row_stride
    p.b, p.ld_b, p.c, p.ld_c = dz_.data, dz_.row_stride, out_.data, out_.row_stride
    with nogil:
        run_product(&p)


def by_dots(n, k):
    """Whether the sums of a product with n columns and k terms each are dot products, in an order of their own."""
    return bool(fastnn_by_dots(n, k))


def product_path(m, n, k, *, itemsize=4, a_is_transposed=False, b_is_transposed=False):
    """Way of a product (m, k) @ (k, n) of contiguous arrays that `matmul` is given: in_place, panels, turned, narrow or
    dots; with a or b transposed, as a gradient of the weights or of the input is."""
    if not a_is_transposed and (fastnn_input_by_dots(m, n, k) if b_is_transposed else fastnn_by_dots(n, k)):
        return "dots"
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
