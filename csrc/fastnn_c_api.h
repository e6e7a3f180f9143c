/* fastnn_c_api.h - the kernels for other compiled packages: C, C++ and Cython (`from fastnn.c_api cimport ..`).
 *
 * Compile with the folder of fastnn.get_include(); nothing is linked. Include Python.h before this header, and call
 * fastnn_import() once in the initialisation of the module, in each file that includes it: it imports fastnn, takes
 * the functions from the capsule fastnn.kernels._C_API and compares versions, or sets an ImportError and returns -1.
 * Before that no function may be called.
 *
 * Kernels come in two types: fastnn_linear_f32 for float, fastnn_linear_f64 for double. Of all holds:
 * - Arrays are row-major; ld_x is the number of elements from one row of x to the next, at least the columns. An
 *   address is a multiple of the element's size, no more is asked; nothing outside the arrays is read or written.
 * - Outputs are overwritten. They overlap neither an input nor each other, unless "in place" or "may be" says so.
 * - Zero is a legal size, and an array without elements may be NULL. NaN in an input stays NaN.
 * - They return 0, or -1 where sizes, an id or a label cannot be right; then nothing was written.
 * - They need no GIL, wait for no lock, allocate no memory (the first large call starts the pool's threads) and may
 *   be called from any number of threads at once, on different outputs.
 * - Large products and updates use up to fastnn_get_num_threads() threads of one pool, which serves one call at a
 *   time: whoever finds it taken computes in the calling thread. The bits do not depend on it, nor on the
 *   instruction set; those of a row do not depend on the rows beside it. */
#ifndef FASTNN_C_API_H
#define FASTNN_C_API_H

#include <stddef.h>
#include <stdint.h>

/* VERSION is raised when a function goes or changes: a module that was compiled with another is not imported.
 * REVISION is raised when one is added at the end: modules that were compiled with an older one go on working. */
#define FASTNN_API_VERSION 1
#define FASTNN_API_REVISION 0
#define FASTNN_API_CAPSULE "fastnn.kernels._C_API"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int32_t version, revision; /* of the fastnn that is installed; these two are first in all versions */
    const char *fastnn;        /* its own version */

    /* Id of "relu", "gelu", "softmax", .. (fastnn.ops has them all), -1 where there is none; 0 is identity. Other ids
     * may differ between versions of fastnn: ask at import, never compile one in. */
    int (*activation_id)(const char *name);
    /* Whether f' cannot be had from f(z), so that activation_and_slope has to keep it for the way back. */
    int (*activation_has_slope)(int activation);
    /* Threads that a call may use in this process: fastnn.get_num_threads(). */
    int (*get_num_threads)(void);
    /* fastnn.set_num_threads(n), for all; 0, or -1 where n is not 1 .. 256. */
    int (*set_num_threads)(int n);
    /* From now on calls from the calling thread use up to n threads; 0: as many as any. Returns the limit before,
     * or -1 for a negative n. For a package with threads of its own: where each takes 1, none disturbs another. */
    int (*limit_threads)(int n);
    /* One block of Philox4x32-10: out (4,) from counter (4,) and key (2,). */
    void (*philox)(const uint32_t *counter, const uint32_t *key, uint32_t *out);

    /* Below: itemsize is 4 for float, 8 for double; the typed functions at the end of this file pass it. */

    /* out (m, n_out) = f(x (m, n_in) @ w (n_in, n_out) + bias (n_out,)); bias may be NULL; f by its id, 0 for none. */
    int (*linear)(int itemsize, ptrdiff_t m, ptrdiff_t n_in, ptrdiff_t n_out, const void *x, ptrdiff_t ld_x,
                  const void *w, ptrdiff_t ld_w, const void *bias, int activation, void *out, ptrdiff_t ld_out);
    /* dx (m, n_in) = dz (m, n_out) @ w^T. The last bits of a row depend on m where n_in * n_out >= 65536 and n_out >= 64:
     * a batch of one row has sums of its own. */
    int (*linear_input_gradient)(int itemsize, ptrdiff_t m, ptrdiff_t n_in, ptrdiff_t n_out, const void *dz,
                                 ptrdiff_t ld_dz, const void *w, ptrdiff_t ld_w, void *dx, ptrdiff_t ld_dx);
    /* dw (n_in, n_out) = x^T @ dz, summed over the rows in their order. */
    int (*linear_weight_gradient)(int itemsize, ptrdiff_t m, ptrdiff_t n_in, ptrdiff_t n_out, const void *x,
                                  ptrdiff_t ld_x, const void *dz, ptrdiff_t ld_dz, void *dw, ptrdiff_t ld_dw);
    /* db (n,) = the sum of the rows of dz (m, n). */
    int (*bias_gradient)(int itemsize, ptrdiff_t m, ptrdiff_t n, const void *dz, ptrdiff_t ld_dz, void *db);
    /* a (m, n) = f(z); softmax and log_softmax by rows. a may be z. */
    int (*activation)(int itemsize, int activation, ptrdiff_t m, ptrdiff_t n, const void *z, ptrdiff_t ld_z,
                      void *a, ptrdiff_t ld_a);
    /* The same, and slope = f'(z), for an activation that fastnn_activation_has_slope; -1 for others. a may be z. */
    int (*activation_and_slope)(int itemsize, int activation, ptrdiff_t m, ptrdiff_t n, const void *z,
                                ptrdiff_t ld_z, void *a, ptrdiff_t ld_a, void *slope, ptrdiff_t ld_slope);
    /* dz (m, n) = the gradient at z for da at a. kept: the slope where the activation has one, else a. dz may be
     * da. */
    int (*activation_backward)(int itemsize, int activation, ptrdiff_t m, ptrdiff_t n, const void *kept,
                               ptrdiff_t ld_kept, const void *da, ptrdiff_t ld_da, void *dz, ptrdiff_t ld_dz);
    /* loss[i] = -log(softmax(z[i])[labels[i]]); dz = weight[i] * scale * its gradient: with 1 / m as scale, that
     * of the mean. weight (m,), or NULL for ones; dz may be NULL, or z. loss (m,) is not weighted. Labels are
     * 0 .. n-1, and n is at least 1. */
    int (*cross_entropy)(int itemsize, ptrdiff_t m, ptrdiff_t n, const void *z, ptrdiff_t ld_z,
                         const int64_t *labels, const double *weight, double scale, double *loss, void *dz,
                         ptrdiff_t ld_dz);
    /* Likewise for logits z and targets y from 0 to 1, both (m, n): the mean over the n outputs of a row. */
    int (*binary_cross_entropy)(int itemsize, ptrdiff_t m, ptrdiff_t n, const void *z, ptrdiff_t ld_z,
                                const void *y, ptrdiff_t ld_y, const double *weight, double scale, double *loss,
                                void *dz, ptrdiff_t ld_dz);
    /* Likewise: the mean of (z - y)^2 over the n outputs of a row. */
    int (*mse)(int itemsize, ptrdiff_t m, ptrdiff_t n, const void *z, ptrdiff_t ld_z, const void *y, ptrdiff_t ld_y,
               const double *weight, double scale, double *loss, void *dz, ptrdiff_t ld_dz);
    /* One step on w (n,) with the gradient g, in place; velocity (n,), zeros at first, or NULL without momentum.
     * nesterov needs momentum. */
    int (*sgd)(int itemsize, ptrdiff_t n, void *w, const void *g, void *velocity, double lr, double momentum,
               int nesterov, double weight_decay);
    /* Step number `step`, from 1, on w, mean and square (n,), in place; the last two are zeros at first. decoupled:
     * AdamW. */
    int (*adam)(int itemsize, ptrdiff_t n, void *w, const void *g, void *mean, void *square, uint64_t step,
                double lr, double beta1, double beta2, double eps, double weight_decay, int decoupled);
    /* mask (m, n) = 0 with probability `rate` (from 0, below 1), else 1 / (1 - rate); a = a * mask in place. The mask
     * is a function of (seed, step below 2^44, layer below 2^16, row, column); first_row is the number of row 0 in
     * its batch. */
    int (*dropout)(int itemsize, uint64_t seed, uint64_t step, uint32_t layer, double rate, ptrdiff_t first_row,
                   ptrdiff_t m, ptrdiff_t n, void *a, ptrdiff_t ld_a, void *mask, ptrdiff_t ld_mask);
    /* a (m, n) = a * b in place: the way back of dropout. */
    int (*multiply)(int itemsize, ptrdiff_t m, ptrdiff_t n, void *a, ptrdiff_t ld_a, const void *b, ptrdiff_t ld_b);
    /* n uniform numbers in (0, 1), never an end: a function of (seed, layer, parameter, index). */
    int (*uniform)(int itemsize, uint64_t seed, uint32_t layer, uint32_t parameter, ptrdiff_t n, void *out);
} fastnn_c_api;

/* fastnn's own modules, which include fastnn.h first, need no more than the struct. */
#ifndef FASTNN_H

static const fastnn_c_api *fastnn_c_api_table;

#ifdef Py_PYTHON_H
/* 0, or -1 with an ImportError: no fastnn, or one whose functions are not those of this header. Holds the GIL. */
static inline int fastnn_import(void)
{
    /* PyCapsule_Import would import it too, and put a sentence of its own in the place of fastnn's. */
    PyObject *module = PyImport_ImportModule("fastnn.kernels");
    if (!module)
        return -1;
    Py_DECREF(module);
    const fastnn_c_api *api = (const fastnn_c_api *)PyCapsule_Import(FASTNN_API_CAPSULE, 0);
    if (!api) {
        PyErr_Clear();
        PyErr_SetString(PyExc_ImportError, "the fastnn that is installed has no C interface (" FASTNN_API_CAPSULE
                                           "): install a newer fastnn-core");
        return -1;
    }
    if (api->version != FASTNN_API_VERSION || api->revision < FASTNN_API_REVISION) {
        PyErr_Format(PyExc_ImportError,
                     "this module was compiled for version %d.%d of fastnn's C interface, but the fastnn that is "
                     "installed (%s) has version %d.%d: compile the module again with this fastnn, or install the "
                     "fastnn that it was compiled with",
                     FASTNN_API_VERSION, FASTNN_API_REVISION, api->fastnn, (int)api->version, (int)api->revision);
        return -1;
    }
    fastnn_c_api_table = api;
    return 0;
}
#endif

static inline int fastnn_activation_id(const char *name) { return fastnn_c_api_table->activation_id(name); }
static inline int fastnn_activation_has_slope(int activation)
{
    return fastnn_c_api_table->activation_has_slope(activation);
}
static inline int fastnn_get_num_threads(void) { return fastnn_c_api_table->get_num_threads(); }
static inline int fastnn_set_num_threads(int n) { return fastnn_c_api_table->set_num_threads(n); }
static inline int fastnn_limit_threads(int n) { return fastnn_c_api_table->limit_threads(n); }
static inline void fastnn_philox(const uint32_t *counter, const uint32_t *key, uint32_t *out)
{
    fastnn_c_api_table->philox(counter, key, out);
}

#define FASTNN_TYPED_FUNCTIONS(suffix, real)                                                                          \
    static inline int fastnn_linear_##suffix(ptrdiff_t m, ptrdiff_t n_in, ptrdiff_t n_out, const real *x,             \
                                             ptrdiff_t ld_x, const real *w, ptrdiff_t ld_w, const real *bias,         \
                                             int activation, real *out, ptrdiff_t ld_out)                             \
    {                                                                                                                 \
        return fastnn_c_api_table->linear((int)sizeof(real), m, n_in, n_out, x, ld_x, w, ld_w, bias, activation,      \
                                          out, ld_out);                                                               \
    }                                                                                                                 \
    static inline int fastnn_linear_input_gradient_##suffix(ptrdiff_t m, ptrdiff_t n_in, ptrdiff_t n_out,             \
                                                            const real *dz, ptrdiff_t ld_dz, const real *w,           \
                                                            ptrdiff_t ld_w, real *dx, ptrdiff_t ld_dx)                \
    {                                                                                                                 \
        return fastnn_c_api_table->linear_input_gradient((int)sizeof(real), m, n_in, n_out, dz, ld_dz, w, ld_w,       \
                                                         dx, ld_dx);                                                  \
    }                                                                                                                 \
    static inline int fastnn_linear_weight_gradient_##suffix(ptrdiff_t m, ptrdiff_t n_in, ptrdiff_t n_out,            \
                                                             const real *x, ptrdiff_t ld_x, const real *dz,           \
                                                             ptrdiff_t ld_dz, real *dw, ptrdiff_t ld_dw)              \
    {                                                                                                                 \
        return fastnn_c_api_table->linear_weight_gradient((int)sizeof(real), m, n_in, n_out, x, ld_x, dz, ld_dz,      \
                                                          dw, ld_dw);                                                 \
    }                                                                                                                 \
    static inline int fastnn_bias_gradient_##suffix(ptrdiff_t m, ptrdiff_t n, const real *dz, ptrdiff_t ld_dz,        \
                                                    real *db)                                                         \
    {                                                                                                                 \
        return fastnn_c_api_table->bias_gradient((int)sizeof(real), m, n, dz, ld_dz, db);                             \
    }                                                                                                                 \
    static inline int fastnn_activation_##suffix(int activation, ptrdiff_t m, ptrdiff_t n, const real *z,             \
                                                 ptrdiff_t ld_z, real *a, ptrdiff_t ld_a)                             \
    {                                                                                                                 \
        return fastnn_c_api_table->activation((int)sizeof(real), activation, m, n, z, ld_z, a, ld_a);                 \
    }                                                                                                                 \
    static inline int fastnn_activation_and_slope_##suffix(int activation, ptrdiff_t m, ptrdiff_t n, const real *z,   \
                                                           ptrdiff_t ld_z, real *a, ptrdiff_t ld_a, real *slope,      \
                                                           ptrdiff_t ld_slope)                                        \
    {                                                                                                                 \
        return fastnn_c_api_table->activation_and_slope((int)sizeof(real), activation, m, n, z, ld_z, a, ld_a,        \
                                                        slope, ld_slope);                                             \
    }                                                                                                                 \
    static inline int fastnn_activation_backward_##suffix(int activation, ptrdiff_t m, ptrdiff_t n,                   \
                                                          const real *kept, ptrdiff_t ld_kept, const real *da,        \
                                                          ptrdiff_t ld_da, real *dz, ptrdiff_t ld_dz)                 \
    {                                                                                                                 \
        return fastnn_c_api_table->activation_backward((int)sizeof(real), activation, m, n, kept, ld_kept, da,        \
                                                       ld_da, dz, ld_dz);                                             \
    }                                                                                                                 \
    static inline int fastnn_cross_entropy_##suffix(ptrdiff_t m, ptrdiff_t n, const real *z, ptrdiff_t ld_z,          \
                                                    const int64_t *labels, const double *weight, double scale,        \
                                                    double *loss, real *dz, ptrdiff_t ld_dz)                          \
    {                                                                                                                 \
        return fastnn_c_api_table->cross_entropy((int)sizeof(real), m, n, z, ld_z, labels, weight, scale, loss,       \
                                                 dz, ld_dz);                                                          \
    }                                                                                                                 \
    static inline int fastnn_binary_cross_entropy_##suffix(ptrdiff_t m, ptrdiff_t n, const real *z, ptrdiff_t ld_z,   \
                                                           const real *y, ptrdiff_t ld_y, const double *weight,       \
                                                           double scale, double *loss, real *dz, ptrdiff_t ld_dz)     \
    {                                                                                                                 \
        return fastnn_c_api_table->binary_cross_entropy((int)sizeof(real), m, n, z, ld_z, y, ld_y, weight, scale,     \
                                                        loss, dz, ld_dz);                                             \
    }                                                                                                                 \
    static inline int fastnn_mse_##suffix(ptrdiff_t m, ptrdiff_t n, const real *z, ptrdiff_t ld_z, const real *y,     \
                                          ptrdiff_t ld_y, const double *weight, double scale, double *loss,           \
                                          real *dz, ptrdiff_t ld_dz)                                                  \
    {                                                                                                                 \
        return fastnn_c_api_table->mse((int)sizeof(real), m, n, z, ld_z, y, ld_y, weight, scale, loss, dz, ld_dz);    \
    }                                                                                                                 \
    static inline int fastnn_sgd_##suffix(ptrdiff_t n, real *w, const real *g, real *velocity, double lr,             \
                                          double momentum, int nesterov, double weight_decay)                         \
    {                                                                                                                 \
        return fastnn_c_api_table->sgd((int)sizeof(real), n, w, g, velocity, lr, momentum, nesterov, weight_decay);   \
    }                                                                                                                 \
    static inline int fastnn_adam_##suffix(ptrdiff_t n, real *w, const real *g, real *mean, real *square,             \
                                           uint64_t step, double lr, double beta1, double beta2, double eps,          \
                                           double weight_decay, int decoupled)                                        \
    {                                                                                                                 \
        return fastnn_c_api_table->adam((int)sizeof(real), n, w, g, mean, square, step, lr, beta1, beta2, eps,        \
                                        weight_decay, decoupled);                                                     \
    }                                                                                                                 \
    static inline int fastnn_dropout_##suffix(uint64_t seed, uint64_t step, uint32_t layer, double rate,              \
                                              ptrdiff_t first_row, ptrdiff_t m, ptrdiff_t n, real *a,                 \
                                              ptrdiff_t ld_a, real *mask, ptrdiff_t ld_mask)                          \
    {                                                                                                                 \
        return fastnn_c_api_table->dropout((int)sizeof(real), seed, step, layer, rate, first_row, m, n, a, ld_a,      \
                                           mask, ld_mask);                                                            \
    }                                                                                                                 \
    static inline int fastnn_multiply_##suffix(ptrdiff_t m, ptrdiff_t n, real *a, ptrdiff_t ld_a, const real *b,      \
                                               ptrdiff_t ld_b)                                                        \
    {                                                                                                                 \
        return fastnn_c_api_table->multiply((int)sizeof(real), m, n, a, ld_a, b, ld_b);                               \
    }                                                                                                                 \
    static inline int fastnn_uniform_##suffix(uint64_t seed, uint32_t layer, uint32_t parameter, ptrdiff_t n,         \
                                              real *out)                                                              \
    {                                                                                                                 \
        return fastnn_c_api_table->uniform((int)sizeof(real), seed, layer, parameter, n, out);                        \
    }

FASTNN_TYPED_FUNCTIONS(f32, float)
FASTNN_TYPED_FUNCTIONS(f64, double)

#endif /* FASTNN_H */

#ifdef __cplusplus
}
#endif
#endif
