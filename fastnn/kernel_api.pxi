# Included by kernels.pyx: the functions of fastnn_c_api.h, and the capsule that other packages take them from.

# Declared with all their types once more, so that the C compiler compares these functions with the header's.
cdef extern from "fastnn_c_api.h" nogil:
    enum: FASTNN_API_VERSION
    enum: FASTNN_API_REVISION
    const char *FASTNN_API_CAPSULE

    ctypedef struct fastnn_c_api:
        int32_t version
        int32_t revision
        const char *fastnn
        int (*activation_id)(const char *name) noexcept nogil
        int (*activation_has_slope)(int activation) noexcept nogil
        int (*get_num_threads)() noexcept nogil
        int (*set_num_threads)(int n) noexcept nogil
        int (*limit_threads)(int n) noexcept nogil
        void (*philox)(const uint32_t *counter, const uint32_t *key, uint32_t *out) noexcept nogil
        int (*linear)(int itemsize, ptrdiff_t m, ptrdiff_t n_in, ptrdiff_t n_out, const void *x,
                      ptrdiff_t ld_x, const void *w, ptrdiff_t ld_w, const void *bias, int activation,
                      void *out, ptrdiff_t ld_out) noexcept nogil
        int (*linear_input_gradient)(int itemsize, ptrdiff_t m, ptrdiff_t n_in, ptrdiff_t n_out,
                                     const void *dz, ptrdiff_t ld_dz, const void *w, ptrdiff_t ld_w,
                                     void *dx, ptrdiff_t ld_dx) noexcept nogil
        int (*linear_weight_gradient)(int itemsize, ptrdiff_t m, ptrdiff_t n_in, ptrdiff_t n_out,
                                      const void *x, ptrdiff_t ld_x, const void *dz, ptrdiff_t ld_dz,
                                      void *dw, ptrdiff_t ld_dw) noexcept nogil
        int (*bias_gradient)(int itemsize, ptrdiff_t m, ptrdiff_t n, const void *dz, ptrdiff_t ld_dz,
                             void *db) noexcept nogil
        int (*activation)(int itemsize, int activation, ptrdiff_t m, ptrdiff_t n, const void *z,
                          ptrdiff_t ld_z, void *a, ptrdiff_t ld_a) noexcept nogil
        int (*activation_and_slope)(int itemsize, int activation, ptrdiff_t m, ptrdiff_t n,
                                    const void *z, ptrdiff_t ld_z, void *a, ptrdiff_t ld_a,
                                    void *slope, ptrdiff_t ld_slope) noexcept nogil
        int (*activation_backward)(int itemsize, int activation, ptrdiff_t m, ptrdiff_t n,
                                   const void *kept, ptrdiff_t ld_kept, const void *da,
                                   ptrdiff_t ld_da, void *dz, ptrdiff_t ld_dz) noexcept nogil
        int (*cross_entropy)(int itemsize, ptrdiff_t m, ptrdiff_t n, const void *z, ptrdiff_t ld_z,
                             const int64_t *labels, const double *weight, double scale, double *loss,
                             void *dz, ptrdiff_t ld_dz) noexcept nogil
        int (*binary_cross_entropy)(int itemsize, ptrdiff_t m, ptrdiff_t n, const void *z,
                                    ptrdiff_t ld_z, const void *y, ptrdiff_t ld_y,
                                    const double *weight, double scale, double *loss, void *dz,
                                    ptrdiff_t ld_dz) noexcept nogil
        int (*mse)(int itemsize, ptrdiff_t m, ptrdiff_t n, const void *z, ptrdiff_t ld_z,
                   const void *y, ptrdiff_t ld_y, const double *weight, double scale, double *loss,
                   void *dz, ptrdiff_t ld_dz) noexcept nogil
        int (*sgd)(int itemsize, ptrdiff_t n, void *w, const void *g, void *velocity, double lr,
                   double momentum, int nesterov, double weight_decay) noexcept nogil
        int (*adam)(int itemsize, ptrdiff_t n, void *w, const void *g, void *mean, void *square,
                    uint64_t step, double lr, double beta1, double beta2, double eps,
                    double weight_decay, int decoupled) noexcept nogil
        int (*dropout)(int itemsize, uint64_t seed, uint64_t step, uint32_t layer, double rate,
                       ptrdiff_t first_row, ptrdiff_t m, ptrdiff_t n, void *a, ptrdiff_t ld_a,
                       void *mask, ptrdiff_t ld_mask) noexcept nogil
        int (*multiply)(int itemsize, ptrdiff_t m, ptrdiff_t n, void *a, ptrdiff_t ld_a,
                        const void *b, ptrdiff_t ld_b) noexcept nogil
        int (*uniform)(int itemsize, uint64_t seed, uint32_t layer, uint32_t parameter, ptrdiff_t n,
                       void *out) noexcept nogil

cdef extern from "fastnn.h" nogil:
    enum: FASTNN_adamw
    enum: FASTNN_mse
    enum: FASTNN_binary_cross_entropy
    void fastnn_uniform_single(uint64_t seed, uint32_t layer, uint32_t parameter, ptrdiff_t n, float *out)

API_VERSION = FASTNN_API_VERSION, FASTNN_API_REVISION


cdef bint bad_table(int itemsize, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t ld) noexcept nogil:
    """Whether a size is negative or more than any memory, rows overlap, or there is no such type.

    What has one row is never stepped along. The product of sizes is taken in double, where it cannot wrap.
    """
    if kernel_table(itemsize) == NULL or rows < 0 or columns < 0 or (rows > 1 and ld < columns):
        return True
    return <double>itemsize * rows * (ld if rows > 1 else columns) > 2.0**62


cdef void empty_sums(int itemsize, ptrdiff_t m, ptrdiff_t n, const void *bias, char *out, ptrdiff_t ld) noexcept nogil:
    """Rows that are the bias alone, or zeros: the kernels of products want a k of one at least."""
    cdef ptrdiff_t i
    for i in range(m):
        if bias == NULL:
            memset(out + i * ld * itemsize, 0, n * itemsize)
        else:
            memcpy(out + i * ld * itemsize, bias, n * itemsize)


cdef int plain_loss(int itemsize, int name, ptrdiff_t m, ptrdiff_t n, const void *z, ptrdiff_t ld_z,
                    const int64_t *labels, const void *y, ptrdiff_t ld_y, const double *weight, double scale,
                    double *rows, void *dz, ptrdiff_t ld_dz) noexcept nogil:
    """A loss without numbers of its own. Rows of no columns have none, so that is no legal size."""
    cdef fastnn_loss of
    if bad_table(itemsize, m, n, ld_z) or (dz != NULL and bad_table(itemsize, m, n, ld_dz)) or n < 1:
        return -1
    if m:
        memset(&of, 0, sizeof(of))
        of.loss, of.repeat = name, 1
        kernel_table(itemsize).loss(&of, m, n, z, ld_z, labels, y, ld_y, weight, scale, rows, dz, ld_dz)
    return 0


cdef int one_update(int itemsize, const fastnn_update *u, ptrdiff_t n, void *w, const void *g, void **states,
                    double weight_decay) noexcept nogil:
    """A step on n numbers that share one rate, long vectors by several threads."""
    cdef Vectors v
    cdef fastnn_segment segment
    if n < 0 or kernel_table(itemsize) == NULL:
        return -1
    if n:
        memset(&v, 0, sizeof(v))
        segment.offset, segment.length, segment.lr, segment.decay, segment.l1 = 0, n, 1, weight_decay, 0
        v.table, v.n, v.n_segments, v.update, v.segments = kernel_table(itemsize), n, 1, u, &segment
        v.w, v.g, v.states = <char *>w, <const char *>g, states
        run_vectors(&v)
    return 0


# ------------------------------------------------------------------ the functions

cdef int api_activation_id(const char *name) noexcept nogil:
    cdef int i
    if name != NULL:
        for i in range(FASTNN_N_ACTIVATIONS):
            if strcmp(name, fastnn_activation_name(i)) == 0:
                return i
    return -1


cdef int api_activation_has_slope(int activation) noexcept nogil:
    return 0 <= activation < FASTNN_N_ACTIVATIONS and strcmp(fastnn_activation_kind(activation), "from_input") == 0


cdef int api_get_num_threads() noexcept nogil:
    return fastnn_get_num_threads()


cdef int api_set_num_threads(int n) noexcept nogil:
    if not 1 <= n <= FASTNN_MAX_THREADS:
        return -1
    fastnn_set_num_threads(n)
    return 0


cdef int api_limit_threads(int n) noexcept nogil:
    return limit_own(n) if n >= 0 else -1


cdef int api_linear(int itemsize, ptrdiff_t m, ptrdiff_t n_in, ptrdiff_t n_out, const void *x,
                    ptrdiff_t ld_x, const void *w, ptrdiff_t ld_w, const void *bias, int activation,
                    void *out, ptrdiff_t ld_out) noexcept nogil:
    cdef Product p
    if bad_table(itemsize, m, n_in, ld_x) or bad_table(itemsize, n_in, n_out, ld_w) or \
            bad_table(itemsize, m, n_out, ld_out):
        return -1
    if not 0 <= activation < FASTNN_N_ACTIVATIONS:
        return -1
    if m == 0 or n_out == 0:
        return 0
    if n_in == 0:
        empty_sums(itemsize, m, n_out, bias, <char *>out, ld_out)
        kernel_table(itemsize).activation(activation, m, n_out, out, ld_out, out, ld_out)
        return 0
    memset(&p, 0, sizeof(p))
    p.table, p.m, p.n, p.k = kernel_table(itemsize), m, n_out, n_in
    p.a, p.a_row, p.a_col, p.b, p.ld_b = <const char *>x, ld_x, 1, <const char *>w, ld_w
    p.c, p.ld_c, p.epilogue.bias, p.epilogue.activation = <char *>out, ld_out, bias, activation
    p.by_dots = fastnn_by_dots(n_out, n_in)
    run_product(&p)
    return 0

cdef int api_linear_input_gradient(int itemsize, ptrdiff_t m, ptrdiff_t n_in, ptrdiff_t n_out,
                                   const void *dz, ptrdiff_t ld_dz, const void *w, ptrdiff_t ld_w,
                                   void *dx, ptrdiff_t ld_dx) noexcept nogil:
    cdef Product p
    if bad_table(itemsize, m, n_out, ld_dz) or bad_table(itemsize, n_in, n_out, ld_w) or \
            bad_table(itemsize, m, n_in, ld_dx):
        return -1
    if m == 0 or n_in == 0:
        return 0
    if n_out == 0:
        empty_sums(itemsize, m, n_in, NULL, <char *>dx, ld_dx)
        return 0
    memset(&p, 0, sizeof(p))
    p.table, p.m, p.n, p.k = kernel_table(itemsize), m, n_in, n_out
    p.a, p.a_row, p.a_col, p.b, p.ld_b, p.b_is_turned = <const char *>dz, ld_dz, 1, <const char *>w, ld_w, True
    p.c, p.ld_c, p.b_is_row = <char *>dx, ld_dx, fastnn_input_by_dots(m, n_in, n_out)
    run_product(&p)
    return 0

cdef int api_linear_weight_gradient(int itemsize, ptrdiff_t m, ptrdiff_t n_in, ptrdiff_t n_out,
                                    const void *x, ptrdiff_t ld_x, const void *dz, ptrdiff_t ld_dz,
                                    void *dw, ptrdiff_t ld_dw) noexcept nogil:
    cdef Product p
    if bad_table(itemsize, m, n_in, ld_x) or bad_table(itemsize, m, n_out, ld_dz) or \
            bad_table(itemsize, n_in, n_out, ld_dw):
        return -1
    if n_in == 0 or n_out == 0:
        return 0
    if m == 0:
        empty_sums(itemsize, n_in, n_out, NULL, <char *>dw, ld_dw)
        return 0
    memset(&p, 0, sizeof(p))
    p.table, p.m, p.n, p.k = kernel_table(itemsize), n_in, n_out, m
    p.a, p.a_row, p.a_col, p.b, p.ld_b = <const char *>x, 1, ld_x, <const char *>dz, ld_dz
    p.c, p.ld_c = <char *>dw, ld_dw
    run_product(&p)
    return 0

cdef int api_bias_gradient(int itemsize, ptrdiff_t m, ptrdiff_t n, const void *dz, ptrdiff_t ld_dz,
                           void *db) noexcept nogil:
    if bad_table(itemsize, m, n, ld_dz):
        return -1
    if n == 0:
        return 0
    if m == 0:
        empty_sums(itemsize, 1, n, NULL, <char *>db, n)
    else:
        kernel_table(itemsize).sum_rows(m, n, dz, ld_dz, db)
    return 0

cdef int api_activation(int itemsize, int activation, ptrdiff_t m, ptrdiff_t n, const void *z,
                        ptrdiff_t ld_z, void *a, ptrdiff_t ld_a) noexcept nogil:
    if bad_table(itemsize, m, n, ld_z) or bad_table(itemsize, m, n, ld_a) or \
            not 0 <= activation < FASTNN_N_ACTIVATIONS:
        return -1
    if m and n:
        kernel_table(itemsize).activation(activation, m, n, z, ld_z, a, ld_a)
    return 0

cdef int api_activation_and_slope(int itemsize, int activation, ptrdiff_t m, ptrdiff_t n,
                                  const void *z, ptrdiff_t ld_z, void *a, ptrdiff_t ld_a,
                                  void *slope, ptrdiff_t ld_slope) noexcept nogil:
    if bad_table(itemsize, m, n, ld_z) or bad_table(itemsize, m, n, ld_a) or \
            bad_table(itemsize, m, n, ld_slope):
        return -1
    if not api_activation_has_slope(activation):
        return -1
    if m and n:
        kernel_table(itemsize).activation_and_slope(activation, m, n, z, ld_z, a, ld_a, slope, ld_slope)
    return 0

cdef int api_activation_backward(int itemsize, int activation, ptrdiff_t m, ptrdiff_t n,
                                 const void *kept, ptrdiff_t ld_kept, const void *da,
                                 ptrdiff_t ld_da, void *dz, ptrdiff_t ld_dz) noexcept nogil:
    if bad_table(itemsize, m, n, ld_kept) or bad_table(itemsize, m, n, ld_da) or \
            bad_table(itemsize, m, n, ld_dz):
        return -1
    if not 0 <= activation < FASTNN_N_ACTIVATIONS:
        return -1
    if m and n:
        kernel_table(itemsize).activation_backward(activation, m, n, kept, ld_kept, da, ld_da, dz, ld_dz)
    return 0

cdef int api_cross_entropy(int itemsize, ptrdiff_t m, ptrdiff_t n, const void *z, ptrdiff_t ld_z,
                           const int64_t *labels, const double *weight, double scale, double *loss,
                           void *dz, ptrdiff_t ld_dz) noexcept nogil:
    cdef ptrdiff_t i
    if m < 0 or (m and labels == NULL):
        return -1
    for i in range(m):
        if not 0 <= labels[i] < n:
            return -1
    return plain_loss(itemsize, FASTNN_cross_entropy, m, n, z, ld_z, labels, NULL, 0, weight, scale, loss, dz,
                      ld_dz)

cdef int api_binary_cross_entropy(int itemsize, ptrdiff_t m, ptrdiff_t n, const void *z,
                                  ptrdiff_t ld_z, const void *y, ptrdiff_t ld_y,
                                  const double *weight, double scale, double *loss, void *dz,
                                  ptrdiff_t ld_dz) noexcept nogil:
    if bad_table(itemsize, m, n, ld_y):
        return -1
    return plain_loss(itemsize, FASTNN_binary_cross_entropy, m, n, z, ld_z, NULL, y, ld_y, weight, scale, loss,
                      dz, ld_dz)

cdef int api_mse(int itemsize, ptrdiff_t m, ptrdiff_t n, const void *z, ptrdiff_t ld_z,
                 const void *y, ptrdiff_t ld_y, const double *weight, double scale, double *loss,
                 void *dz, ptrdiff_t ld_dz) noexcept nogil:
    if bad_table(itemsize, m, n, ld_y):
        return -1
    return plain_loss(itemsize, FASTNN_mse, m, n, z, ld_z, NULL, y, ld_y, weight, scale, loss, dz, ld_dz)

cdef int api_sgd(int itemsize, ptrdiff_t n, void *w, const void *g, void *velocity, double lr,
                 double momentum, int nesterov, double weight_decay) noexcept nogil:
    cdef fastnn_update u
    cdef void *states[FASTNN_STATES]
    if not 0 <= momentum or (momentum > 0 and velocity == NULL) or (nesterov and not momentum > 0):
        return -1
    memset(&u, 0, sizeof(u))
    memset(states, 0, sizeof(states))
    u.optimizer, u.nesterov, u.momentum, u.lr, u.scale1 = FASTNN_sgd, nesterov != 0, momentum, lr, 1
    if momentum > 0:
        states[0] = velocity
    return one_update(itemsize, &u, n, w, g, states, weight_decay)

cdef int api_adam(int itemsize, ptrdiff_t n, void *w, const void *g, void *mean, void *square,
                  uint64_t step, double lr, double beta1, double beta2, double eps,
                  double weight_decay, int decoupled) noexcept nogil:
    cdef fastnn_update u
    cdef void *states[FASTNN_STATES]
    if step < 1 or not 0 <= beta1 < 1 or not 0 <= beta2 < 1:
        return -1
    memset(&u, 0, sizeof(u))
    memset(states, 0, sizeof(states))
    u.optimizer, u.lr, u.beta1, u.beta2, u.eps, u.scale1 = FASTNN_adam, lr, beta1, beta2, eps, 1
    if decoupled:
        u.optimizer = FASTNN_adamw
    fastnn_begin_update(&u, step)
    states[0], states[1] = mean, square
    return one_update(itemsize, &u, n, w, g, states, weight_decay)

cdef int api_dropout(int itemsize, uint64_t seed, uint64_t step, uint32_t layer, double rate,
                     ptrdiff_t first_row, ptrdiff_t m, ptrdiff_t n, void *a, ptrdiff_t ld_a,
                     void *mask, ptrdiff_t ld_mask) noexcept nogil:
    if bad_table(itemsize, m, n, ld_a) or bad_table(itemsize, m, n, ld_mask) or not 0 <= rate < 1:
        return -1
    if step >> 44 or layer >> 16 or first_row < 0 or first_row > (<int64_t>1 << 32) - m:
        return -1
    if m and n:
        kernel_table(itemsize).dropout(seed, step, layer, rate, first_row, m, n, a, ld_a, mask, ld_mask)
    return 0

cdef int api_multiply(int itemsize, ptrdiff_t m, ptrdiff_t n, void *a, ptrdiff_t ld_a, const void *b,
                      ptrdiff_t ld_b) noexcept nogil:
    if bad_table(itemsize, m, n, ld_a) or bad_table(itemsize, m, n, ld_b):
        return -1
    if m and n:
        kernel_table(itemsize).multiply(m, n, a, ld_a, b, ld_b)
    return 0

cdef int api_uniform(int itemsize, uint64_t seed, uint32_t layer, uint32_t parameter, ptrdiff_t n,
                     void *out) noexcept nogil:
    if n < 0 or kernel_table(itemsize) == NULL:
        return -1
    if itemsize == 4:
        fastnn_uniform_single(seed, layer, parameter, n, <float *>out)
    else:
        fastnn_uniform(seed, layer, parameter, n, <double *>out)
    return 0


# ------------------------------------------------------------------ the capsule

cdef fastnn_c_api c_api
c_api.version, c_api.revision, c_api.fastnn = FASTNN_API_VERSION, FASTNN_API_REVISION, FASTNN_BUILD
c_api.activation_id = api_activation_id
c_api.activation_has_slope = api_activation_has_slope
c_api.get_num_threads = api_get_num_threads
c_api.set_num_threads = api_set_num_threads
c_api.limit_threads = api_limit_threads
c_api.philox = fastnn_philox
c_api.linear = api_linear
c_api.linear_input_gradient = api_linear_input_gradient
c_api.linear_weight_gradient = api_linear_weight_gradient
c_api.bias_gradient = api_bias_gradient
c_api.activation = api_activation
c_api.activation_and_slope = api_activation_and_slope
c_api.activation_backward = api_activation_backward
c_api.cross_entropy = api_cross_entropy
c_api.binary_cross_entropy = api_binary_cross_entropy
c_api.mse = api_mse
c_api.sgd = api_sgd
c_api.adam = api_adam
c_api.dropout = api_dropout
c_api.multiply = api_multiply
c_api.uniform = api_uniform

_C_API = PyCapsule_New(&c_api, FASTNN_API_CAPSULE, NULL)
