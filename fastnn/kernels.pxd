# cython: language_level=3
"""The kernel table and the worker pool, for fastnn's own modules: they change with any release.

Other compiled packages cimport `fastnn.c_api`, which has a version and typed functions.
"""
from cpython.buffer cimport Py_buffer
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "fastnn.h" nogil:
    enum: FASTNN_MAX_THREADS
    enum: FASTNN_FEW_ROWS
    enum: FASTNN_N_ISAS
    enum: FASTNN_N_ACTIVATIONS
    enum: FASTNN_N_LOSSES
    enum: FASTNN_N_OPTIMIZERS
    enum: FASTNN_identity
    enum: FASTNN_cross_entropy
    enum: FASTNN_relu
    enum: FASTNN_SMALL_LAYERS
    enum: FASTNN_STATES
    enum: FASTNN_DOT_BLOCK
    enum: FASTNN_sgd
    enum: FASTNN_adam

    bint fastnn_is_rowwise(int activation)
    bint fastnn_by_dots(ptrdiff_t n, ptrdiff_t k)
    bint fastnn_input_by_dots(ptrdiff_t batch, ptrdiff_t n_in, ptrdiff_t n_out)
    double fastnn_sum(ptrdiff_t n, const double *a)

    ctypedef struct fastnn_epilogue:
        const void *bias
        int32_t activation
        int32_t gate_activation
        const void *gate
        ptrdiff_t ld_gate

    ctypedef struct fastnn_loss:
        int32_t loss
        int32_t full
        int32_t log_input
        int32_t p
        double smoothing
        double delta
        double eps
        double margin
        double alpha
        double gamma
        const void *each
        ptrdiff_t repeat

    ctypedef struct fastnn_bounds:
        double floor
        double cap
        double limit
        int32_t are_set
        int32_t by_output
        double edge

    ctypedef struct fastnn_segment:
        ptrdiff_t offset
        ptrdiff_t length
        double lr
        double decay
        double l1

    ctypedef struct fastnn_update:
        int32_t optimizer
        int32_t nesterov
        int32_t centered
        int32_t amsgrad
        int32_t decoupled
        double lr
        double clip_value
        double momentum
        double dampening
        double beta1
        double beta2
        double eps
        double eps_hat
        double step_decay
        double correction1
        double correction2
        double scale1
        double scale2
        double l2
        double product
        uint64_t product_step

    ctypedef struct fastnn_target:
        const fastnn_update *update
        double lr
        double decay
        double l1
        void *w
        void *states[FASTNN_STATES]
        ptrdiff_t ld

    ctypedef struct fastnn_ahead:
        const void *x
        ptrdiff_t m
        ptrdiff_t row_bytes
        ptrdiff_t ld_bytes
        const int64_t *order

    ctypedef struct fastnn_table:
        ptrdiff_t column
        ptrdiff_t n_categories
        ptrdiff_t width
        ptrdiff_t weight
        ptrdiff_t out

    ctypedef struct fastnn_dense:
        const void *weight
        const void *bias
        ptrdiff_t n_in
        ptrdiff_t n_out
        ptrdiff_t ld
        ptrdiff_t slack
        int32_t activation

    ctypedef struct fastnn_small_layer:
        ptrdiff_t n_in
        ptrdiff_t n_out
        ptrdiff_t weight
        ptrdiff_t bias
        int32_t activation
        void *a
        void *d
        void *slope
        ptrdiff_t ld

    ctypedef struct fastnn_small:
        ptrdiff_t n_layers
        fastnn_small_layer layers[FASTNN_SMALL_LAYERS]
        void *parameters
        void *state1
        void *state2
        fastnn_update update
        double decay
        double l2
        double factor
        double told
        fastnn_bounds bounds
        double *step_losses
        int32_t loss
        const void *x
        const void *y
        const int64_t *labels
        const double *weight
        ptrdiff_t n_in
        ptrdiff_t ld_x
        ptrdiff_t n_rows
        const int64_t *order
        const double *rates
        ptrdiff_t batch
        ptrdiff_t n_steps
        ptrdiff_t begin
        ptrdiff_t end
        uint64_t first_step
        double least_weight
        void *x_batch
        ptrdiff_t ld_batch
        int64_t *label_batch
        double *weight_batch
        double *loss_rows
        void *work
        double loss_sum
        double weight_sum

    ctypedef struct fastnn_swap:
        uint64_t seed, step
        uint32_t layer, threshold
        const int64_t *order
        ptrdiff_t batch, n_rows, n, ld_x
        const void *x
        int is_bytes, scaled
        double factor, shift
    ctypedef struct fastnn_kernels:
        const char *isa
        int32_t isa_id
        int32_t itemsize
        int32_t lanes
        int32_t panel
        void (*matmul)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *a, ptrdiff_t a_row, ptrdiff_t a_col,
                       const void *b, ptrdiff_t ld_b, ptrdiff_t b_slack, void *c, ptrdiff_t ld_c,
                       const fastnn_epilogue *epilogue) noexcept nogil
        void (*matmul_transposed)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *a, ptrdiff_t a_row,
                              ptrdiff_t a_col, const void *w, ptrdiff_t ld_w, void *c, ptrdiff_t ld_c,
                              const fastnn_epilogue *epilogue) noexcept nogil
        void (*dense)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *x, ptrdiff_t x_row, ptrdiff_t x_col,
                      const void *w, ptrdiff_t ld_w, ptrdiff_t w_slack, void *c, ptrdiff_t ld_c,
                      const fastnn_epilogue *epilogue) noexcept nogil
        void (*dots)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *x, ptrdiff_t x_row, ptrdiff_t x_col,
                     const void *w, ptrdiff_t w_row, ptrdiff_t w_col, void *c, ptrdiff_t ld_c,
                     const fastnn_epilogue *epilogue) noexcept nogil
        void (*row_dots)(ptrdiff_t n_in, ptrdiff_t n_out, const void *dz, ptrdiff_t dz_col, const void *w,
                         ptrdiff_t ld_w, void *dx, const fastnn_epilogue *epilogue) noexcept nogil
        int (*path)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, ptrdiff_t a_row, ptrdiff_t a_col, int b_turned,
                    ptrdiff_t ld_b) noexcept nogil
        void (*sum_rows)(ptrdiff_t m, ptrdiff_t n, const void *a, ptrdiff_t ld_a, void *out) noexcept nogil
        void (*activation)(int activation, ptrdiff_t m, ptrdiff_t n, const void *z, ptrdiff_t ld_z, void *a,
                           ptrdiff_t ld_a) noexcept nogil
        void (*activation_and_slope)(int activation, ptrdiff_t m, ptrdiff_t n, const void *z, ptrdiff_t ld_z, void *a,
                                     ptrdiff_t ld_a, void *slope, ptrdiff_t ld_slope) noexcept nogil
        void (*activation_backward)(int activation, ptrdiff_t m, ptrdiff_t n, const void *a, ptrdiff_t ld_a,
                                    const void *da, ptrdiff_t ld_da, void *dz, ptrdiff_t ld_dz) noexcept nogil
        void (*loss)(const fastnn_loss *loss, ptrdiff_t m, ptrdiff_t n, const void *z, ptrdiff_t ld_z,
                     const int64_t *labels, const void *y, ptrdiff_t ld_y, const double *weight, double scale,
                     double *loss_rows, void *dz, ptrdiff_t ld_dz) noexcept nogil
        void (*bound_losses)(const fastnn_bounds *b, ptrdiff_t m, ptrdiff_t n, const void *z, ptrdiff_t ld_z,
                             const void *y, ptrdiff_t ld_y, double *loss_rows) noexcept nogil
        void (*update)(const fastnn_update *u, ptrdiff_t n_segments, const fastnn_segment *segments, void *w,
                       const void *g, void *const *states) noexcept nogil
        double (*dot)(ptrdiff_t n, const void *a, const void *b) noexcept nogil
        void (*column_squares)(ptrdiff_t m, ptrdiff_t n, const void *w, ptrdiff_t ld, double *out) noexcept nogil
        void (*accumulate)(ptrdiff_t n, double factor, const void *g, void *sum) noexcept nogil
        void (*average)(ptrdiff_t n, double share, const void *w, void *mean) noexcept nogil
        void (*limit_columns)(ptrdiff_t m, ptrdiff_t n, double most, void *w, ptrdiff_t ld) noexcept nogil
        void (*weights)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *x, ptrdiff_t ld_x, const void *dz,
                        ptrdiff_t ld_dz, const fastnn_target *target, const fastnn_ahead *ahead) noexcept nogil
        void (*dropout)(uint64_t seed, uint64_t step, uint32_t layer, double rate, ptrdiff_t first_row,
                        ptrdiff_t m, ptrdiff_t n, void *a, ptrdiff_t ld_a, void *mask,
                        ptrdiff_t ld_mask) noexcept nogil
        void (*multiply)(ptrdiff_t m, ptrdiff_t n, void *a, ptrdiff_t ld_a, const void *b,
                         ptrdiff_t ld_b) noexcept nogil
        void (*widen)(ptrdiff_t n, const uint8_t *x, double factor, double shift, void *out) noexcept nogil
        int (*gather)(ptrdiff_t m, ptrdiff_t n, const void *x, ptrdiff_t ld_x, ptrdiff_t n_rows, const int64_t *order,
                      void *out, ptrdiff_t ld_out) noexcept nogil
        double (*largest)(ptrdiff_t n, const void *x) noexcept nogil
        int (*all_finite)(ptrdiff_t m, ptrdiff_t n, const void *x, ptrdiff_t ld_x) noexcept nogil
        void (*scale)(ptrdiff_t m, ptrdiff_t n, double factor, double shift, const void *x, ptrdiff_t ld_x, void *a,
                      ptrdiff_t ld_a) noexcept nogil
        void (*embed)(ptrdiff_t m, ptrdiff_t n_in, ptrdiff_t n_tables, const fastnn_table *tables,
                      const void *parameters, const void *x, ptrdiff_t ld_x, void *a, ptrdiff_t ld_a) noexcept nogil
        void (*embed_gradient)(ptrdiff_t m, const fastnn_table *table, const void *x, ptrdiff_t ld_x, const void *d,
                               ptrdiff_t ld_d, void *g) noexcept nogil
        void (*dense_rows)(const fastnn_dense *layer, ptrdiff_t first, ptrdiff_t last, ptrdiff_t m, const void *x,
                           ptrdiff_t ld_x, void *out, ptrdiff_t ld_out) noexcept nogil
        void (*add)(ptrdiff_t m, ptrdiff_t n, const void *a, ptrdiff_t ld_a, const void *b, ptrdiff_t ld_b, void *out,
                    ptrdiff_t ld_out) noexcept nogil
        void (*take_columns)(ptrdiff_t m, ptrdiff_t n, const int64_t *columns, const void *x, ptrdiff_t ld_x, void *out,
                             ptrdiff_t ld_out) noexcept nogil
        void (*put_columns)(ptrdiff_t m, ptrdiff_t n, const int64_t *columns, const void *d, ptrdiff_t ld_d,
                            ptrdiff_t n_out, void *out, ptrdiff_t ld_out) noexcept nogil
        void (*norm_rows)(ptrdiff_t m, ptrdiff_t n, int centred, double eps, const void *gamma, const void *beta,
                          const void *x, ptrdiff_t ld_x, void *a, ptrdiff_t ld_a, void *stats) noexcept nogil
        void (*norm_rows_backward)(ptrdiff_t m, ptrdiff_t n, int centred, const void *gamma, const void *x,
                                   ptrdiff_t ld_x, const void *stats, const void *d, ptrdiff_t ld_d, void *dx,
                                   ptrdiff_t ld_dx) noexcept nogil
        void (*norm_rows_gradient)(ptrdiff_t m, ptrdiff_t n, const void *x, ptrdiff_t ld_x, const void *stats,
                                   const void *d, ptrdiff_t ld_d, void *dgamma) noexcept nogil
        void (*column_moments)(ptrdiff_t m, ptrdiff_t n, const void *x, ptrdiff_t ld_x, void *mean,
                               void *var) noexcept nogil
        void (*norm_columns)(ptrdiff_t m, ptrdiff_t n, double eps, const void *mean, const void *var, const void *gamma,
                             const void *beta, int relu, const void *x, ptrdiff_t ld_x, void *a,
                                 ptrdiff_t ld_a) noexcept nogil
        void (*norm_columns_sums)(ptrdiff_t m, ptrdiff_t n, double eps, const void *mean, const void *var,
                                  const void *x,
                                  ptrdiff_t ld_x, const void *d, ptrdiff_t ld_d, void *sum, void *dot) noexcept nogil
        void (*norm_columns_backward)(ptrdiff_t batch, ptrdiff_t m, ptrdiff_t n, double eps, const void *mean,
                                      const void *var, const void *gamma, const void *sum, const void *dot,
                                          const void *x,
                                      ptrdiff_t ld_x, const void *d, ptrdiff_t ld_d, void *dx,
                                          ptrdiff_t ld_dx) noexcept nogil
        void (*running)(ptrdiff_t n, double momentum, double factor, const void *x, void *out) noexcept nogil
        void (*prelu)(ptrdiff_t m, ptrdiff_t n, const void *slope, int shared, const void *z, ptrdiff_t ld_z, void *a,
                      ptrdiff_t ld_a) noexcept nogil
        void (*prelu_backward)(ptrdiff_t m, ptrdiff_t n, const void *slope, int shared, const void *z, ptrdiff_t ld_z,
                               const void *d, ptrdiff_t ld_d, void *dz, ptrdiff_t ld_dz) noexcept nogil
        void (*prelu_gradient)(ptrdiff_t m, ptrdiff_t n, int shared, const void *z, ptrdiff_t ld_z, const void *d,
                               ptrdiff_t ld_d, void *dslope) noexcept nogil
        void (*gaussian_noise)(uint64_t seed, uint64_t step, uint32_t layer, double deviation, ptrdiff_t first_row,
                               ptrdiff_t m, ptrdiff_t n, void *a, ptrdiff_t ld_a) noexcept nogil
        void (*mix)(ptrdiff_t n, double share, const void *other, void *a) noexcept nogil
        double (*mixup_share)(uint64_t seed, uint64_t step, uint32_t layer, double alpha, uint32_t *word) noexcept nogil
        int (*swap_noise)(const fastnn_swap *s, ptrdiff_t row, void *a) noexcept nogil
        void (*alpha_dropout)(double scale, double shift, double dropped, ptrdiff_t m, ptrdiff_t n, void *a,
                              ptrdiff_t ld_a, void *mask, ptrdiff_t ld_mask) noexcept nogil
        void (*periodic)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *frequencies, const void *x, ptrdiff_t ld_x,
                         void *out, ptrdiff_t ld_out) noexcept nogil
        void (*periodic_backward)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *frequencies, const void *a,
                                  ptrdiff_t ld_a, const void *d, ptrdiff_t ld_d, void *dx,
                                      ptrdiff_t ld_dx) noexcept nogil
        void (*periodic_gradient)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *x, ptrdiff_t ld_x, const void *a,
                                  ptrdiff_t ld_a, const void *d, ptrdiff_t ld_d, void *g) noexcept nogil
        void (*piecewise)(ptrdiff_t m, ptrdiff_t n, const int64_t *n_edges, const double *edges, const void *x,
                          ptrdiff_t ld_x, void *out, ptrdiff_t ld_out) noexcept nogil
        void (*piecewise_backward)(ptrdiff_t m, ptrdiff_t n, const int64_t *n_edges, const double *edges, const void *x,
                                   ptrdiff_t ld_x, const void *d, ptrdiff_t ld_d, void *dx,
                                       ptrdiff_t ld_dx) noexcept nogil
        ptrdiff_t (*small_steps)(fastnn_small *s) noexcept nogil
        ptrdiff_t (*small_bytes)(const fastnn_small *s) noexcept nogil
        void (*exp)(ptrdiff_t n, const void *x, void *out) noexcept nogil
        void (*log)(ptrdiff_t n, const void *x, void *out) noexcept nogil
        void (*log1p)(ptrdiff_t n, const void *x, void *out) noexcept nogil
        void (*tanh)(ptrdiff_t n, const void *x, void *out) noexcept nogil
        void (*sigmoid)(ptrdiff_t n, const void *x, void *out) noexcept nogil
        double (*fma_loop)(ptrdiff_t turns) noexcept nogil
        void (*stream)(ptrdiff_t n, int count, double c, const void *g, void *const *x) noexcept nogil

    int fastnn_small_takes(const fastnn_loss *loss)

    ctypedef void (*fastnn_task)(void *context, int thread, int n_threads) noexcept nogil

# The active table for reals of itemsize 4 or 8; NULL for another size.
cdef const fastnn_kernels *kernel_table(int itemsize) noexcept nogil
# Runs a task on up to n_threads threads; see fastnn_run.
cdef int run_team(fastnn_task task, void *context, int n_threads) noexcept nogil
# Whether workers are awake for a team; if not they are woken, for later calls. See fastnn_ready.
cdef bint team_ready(int n_threads) noexcept nogil
cdef void team_barrier(int thread, int n_threads) noexcept nogil
# How many threads a call may use.
cdef int thread_limit() noexcept nogil
# Threads beside trainings that a team should leave a core each; see step_aside.
cdef int threads_aside() noexcept nogil
# Whether the thread that calls is a worker that was told to end its training; see Reins.
cdef bint told_to_stop() noexcept nogil
# A permutation of 0 .. n-1, a function of (seed, epoch, n) alone.
cdef void shuffle_rows(uint64_t seed, uint64_t epoch, ptrdiff_t n, int64_t *order) noexcept nogil
# The numbers of an optimizer's step t, from 1.
cdef void begin_update(fastnn_update *u, uint64_t t) noexcept nogil
# What the kernels need of an optimizer's description; lr is that of each step.
cdef int describe_update(fastnn_update *u, optimizer) except -1


cdef class Array:
    """A float32, float64 or (where allowed) uint8 array of one or two dimensions, held while this object lives."""
    cdef Py_buffer buffer
    cdef Py_ssize_t strides[2]  # where the exporter gave none
    cdef bint held
    cdef int itemsize
    cdef char *data
    cdef ptrdiff_t rows, columns, row_stride, column_stride  # strides in elements


cdef class Loss:
    """A loss with its numbers as the kernels take them; it holds the memory of those by output."""
    cdef fastnn_loss of
    cdef Array each
