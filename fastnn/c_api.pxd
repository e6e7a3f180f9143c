# cython: language_level=3
"""The kernels for other compiled packages, without the GIL:

    from fastnn.c_api cimport fastnn_activation_id, fastnn_import, fastnn_linear_f32

    fastnn_import()                                    # once in each module: compares versions, ImportError
    cdef int RELU = fastnn_activation_id(b"relu")

Compile with `include_dirs=[fastnn.get_include()]`. Shapes, alignment, what may overlap and the rules of threads are
described in fastnn_c_api.h, function by function; an int that is returned is 0, or -1 for arguments that cannot be
right. (`fastnn/kernels.pxd` and fastnn.h are between fastnn's own modules and change with any release.)
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from "Python.h":
    pass  # before the header below, which has fastnn_import only then

cdef extern from "fastnn_c_api.h":
    enum: FASTNN_API_VERSION
    enum: FASTNN_API_REVISION

    int fastnn_import() except -1

cdef extern from "fastnn_c_api.h" nogil:
    int fastnn_activation_id(const char *name) noexcept
    int fastnn_activation_has_slope(int activation) noexcept
    int fastnn_get_num_threads() noexcept
    int fastnn_set_num_threads(int n) noexcept
    int fastnn_limit_threads(int n) noexcept
    void fastnn_philox(const uint32_t *counter, const uint32_t *key, uint32_t *out) noexcept

    int fastnn_linear_f32(ptrdiff_t m, ptrdiff_t n_in, ptrdiff_t n_out, const float *x, ptrdiff_t ld_x,
                          const float *w, ptrdiff_t ld_w, const float *bias, int activation, float *out,
                          ptrdiff_t ld_out) noexcept
    int fastnn_linear_input_gradient_f32(ptrdiff_t m, ptrdiff_t n_in, ptrdiff_t n_out, const float *dz,
                                         ptrdiff_t ld_dz, const float *w, ptrdiff_t ld_w, float *dx,
                                         ptrdiff_t ld_dx) noexcept
    int fastnn_linear_weight_gradient_f32(ptrdiff_t m, ptrdiff_t n_in, ptrdiff_t n_out, const float *x,
                                          ptrdiff_t ld_x, const float *dz, ptrdiff_t ld_dz, float *dw,
                                          ptrdiff_t ld_dw) noexcept
    int fastnn_bias_gradient_f32(ptrdiff_t m, ptrdiff_t n, const float *dz, ptrdiff_t ld_dz, float *db) noexcept
    int fastnn_activation_f32(int activation, ptrdiff_t m, ptrdiff_t n, const float *z, ptrdiff_t ld_z,
                              float *a, ptrdiff_t ld_a) noexcept
    int fastnn_activation_and_slope_f32(int activation, ptrdiff_t m, ptrdiff_t n, const float *z,
                                        ptrdiff_t ld_z, float *a, ptrdiff_t ld_a, float *slope,
                                        ptrdiff_t ld_slope) noexcept
    int fastnn_activation_backward_f32(int activation, ptrdiff_t m, ptrdiff_t n, const float *kept,
                                       ptrdiff_t ld_kept, const float *da, ptrdiff_t ld_da, float *dz,
                                       ptrdiff_t ld_dz) noexcept
    int fastnn_cross_entropy_f32(ptrdiff_t m, ptrdiff_t n, const float *z, ptrdiff_t ld_z,
                                 const int64_t *labels, const double *weight, double scale, double *loss,
                                 float *dz, ptrdiff_t ld_dz) noexcept
    int fastnn_binary_cross_entropy_f32(ptrdiff_t m, ptrdiff_t n, const float *z, ptrdiff_t ld_z,
                                        const float *y, ptrdiff_t ld_y, const double *weight, double scale,
                                        double *loss, float *dz, ptrdiff_t ld_dz) noexcept
    int fastnn_mse_f32(ptrdiff_t m, ptrdiff_t n, const float *z, ptrdiff_t ld_z, const float *y,
                       ptrdiff_t ld_y, const double *weight, double scale, double *loss, float *dz,
                       ptrdiff_t ld_dz) noexcept
    int fastnn_sgd_f32(ptrdiff_t n, float *w, const float *g, float *velocity, double lr, double momentum,
                       int nesterov, double weight_decay) noexcept
    int fastnn_adam_f32(ptrdiff_t n, float *w, const float *g, float *mean, float *square, uint64_t step,
                        double lr, double beta1, double beta2, double eps, double weight_decay,
                        int decoupled) noexcept
    int fastnn_dropout_f32(uint64_t seed, uint64_t step, uint32_t layer, double rate, ptrdiff_t first_row,
                           ptrdiff_t m, ptrdiff_t n, float *a, ptrdiff_t ld_a, float *mask,
                           ptrdiff_t ld_mask) noexcept
    int fastnn_multiply_f32(ptrdiff_t m, ptrdiff_t n, float *a, ptrdiff_t ld_a, const float *b,
                            ptrdiff_t ld_b) noexcept
    int fastnn_uniform_f32(uint64_t seed, uint32_t layer, uint32_t parameter, ptrdiff_t n, float *out) noexcept

    int fastnn_linear_f64(ptrdiff_t m, ptrdiff_t n_in, ptrdiff_t n_out, const double *x, ptrdiff_t ld_x,
                          const double *w, ptrdiff_t ld_w, const double *bias, int activation, double *out,
                          ptrdiff_t ld_out) noexcept
    int fastnn_linear_input_gradient_f64(ptrdiff_t m, ptrdiff_t n_in, ptrdiff_t n_out, const double *dz,
                                         ptrdiff_t ld_dz, const double *w, ptrdiff_t ld_w, double *dx,
                                         ptrdiff_t ld_dx) noexcept
    int fastnn_linear_weight_gradient_f64(ptrdiff_t m, ptrdiff_t n_in, ptrdiff_t n_out, const double *x,
                                          ptrdiff_t ld_x, const double *dz, ptrdiff_t ld_dz, double *dw,
                                          ptrdiff_t ld_dw) noexcept
    int fastnn_bias_gradient_f64(ptrdiff_t m, ptrdiff_t n, const double *dz, ptrdiff_t ld_dz, double *db) noexcept
    int fastnn_activation_f64(int activation, ptrdiff_t m, ptrdiff_t n, const double *z, ptrdiff_t ld_z,
                              double *a, ptrdiff_t ld_a) noexcept
    int fastnn_activation_and_slope_f64(int activation, ptrdiff_t m, ptrdiff_t n, const double *z,
                                        ptrdiff_t ld_z, double *a, ptrdiff_t ld_a, double *slope,
                                        ptrdiff_t ld_slope) noexcept
    int fastnn_activation_backward_f64(int activation, ptrdiff_t m, ptrdiff_t n, const double *kept,
                                       ptrdiff_t ld_kept, const double *da, ptrdiff_t ld_da, double *dz,
                                       ptrdiff_t ld_dz) noexcept
    int fastnn_cross_entropy_f64(ptrdiff_t m, ptrdiff_t n, const double *z, ptrdiff_t ld_z,
                                 const int64_t *labels, const double *weight, double scale, double *loss,
                                 double *dz, ptrdiff_t ld_dz) noexcept
    int fastnn_binary_cross_entropy_f64(ptrdiff_t m, ptrdiff_t n, const double *z, ptrdiff_t ld_z,
                                        const double *y, ptrdiff_t ld_y, const double *weight, double scale,
                                        double *loss, double *dz, ptrdiff_t ld_dz) noexcept
    int fastnn_mse_f64(ptrdiff_t m, ptrdiff_t n, const double *z, ptrdiff_t ld_z, const double *y,
                       ptrdiff_t ld_y, const double *weight, double scale, double *loss, double *dz,
                       ptrdiff_t ld_dz) noexcept
    int fastnn_sgd_f64(ptrdiff_t n, double *w, const double *g, double *velocity, double lr,
                       double momentum, int nesterov, double weight_decay) noexcept
    int fastnn_adam_f64(ptrdiff_t n, double *w, const double *g, double *mean, double *square,
                        uint64_t step, double lr, double beta1, double beta2, double eps,
                        double weight_decay, int decoupled) noexcept
    int fastnn_dropout_f64(uint64_t seed, uint64_t step, uint32_t layer, double rate, ptrdiff_t first_row,
                           ptrdiff_t m, ptrdiff_t n, double *a, ptrdiff_t ld_a, double *mask,
                           ptrdiff_t ld_mask) noexcept
    int fastnn_multiply_f64(ptrdiff_t m, ptrdiff_t n, double *a, ptrdiff_t ld_a, const double *b,
                            ptrdiff_t ld_b) noexcept
    int fastnn_uniform_f64(uint64_t seed, uint32_t layer, uint32_t parameter, ptrdiff_t n, double *out) noexcept
