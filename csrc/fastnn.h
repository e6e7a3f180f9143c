/* fastnn.h - the whole C interface inside fastnn: lists, the kernel table, random numbers, worker pool, dispatch. It
 * changes with any release; other compiled packages are given fastnn_c_api.h.
 *
 * Arrays are row-major. Sizes, strides and leading dimensions (ld_*, "elements from one row to the
 * next") are ptrdiff_t and count elements. A `void *` is an array of the table's real type (float or
 * double). Zero and one are legal sizes. Inputs and outputs do not overlap unless the comment says
 * "in place". No kernel allocates, keeps state or fails: callers judge sizes first. */
#ifndef FASTNN_H
#define FASTNN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---------------------------------------------------------------- the lists: every name has its home here */

/* X(name, kind): `elementwise` activations need one line for f(z) and one for f'(a), computed from the output a, in
 * activations_template.h; `from_input` ones, whose f' cannot be had from a, one for f(z) and f'(z) together, which a
 * training step keeps; `rowwise` ones have functions of their own. */
#define FASTNN_ACTIVATIONS(X)    \
    X(identity, elementwise)     \
    X(relu, elementwise)         \
    X(leaky_relu, elementwise)   \
    X(relu6, elementwise)        \
    X(hard_tanh, elementwise)    \
    X(hard_sigmoid, elementwise) \
    X(hard_swish, from_input)    \
    X(softsign, elementwise)     \
    X(elu, elementwise)          \
    X(selu, elementwise)         \
    X(celu, elementwise)         \
    X(softplus, elementwise)     \
    X(silu, from_input)          \
    X(mish, from_input)          \
    X(gelu, from_input)          \
    X(gelu_tanh, from_input)     \
    X(sigmoid, elementwise)      \
    X(tanh, elementwise)         \
    X(softmax, rowwise)          \
    X(log_softmax, rowwise)

/* X(name, target, numbers): what a target row holds: `label` one integer, `values` reals (cross_entropy takes either);
 * the fields of fastnn_loss that it reads. */
#define FASTNN_LOSSES(X)                    \
    X(cross_entropy, label, smoothing)      \
    X(binary_cross_entropy, values, each)   \
    X(mse, values, )                        \
    X(mae, values, )                        \
    X(huber, values, delta)                 \
    X(log_cosh, values, )                   \
    X(quantile, values, each repeat)        \
    X(poisson, values, log_input full eps)  \
    X(gaussian_nll, values, full eps)       \
    X(hinge, values, )                      \
    X(multi_margin, label, p margin)        \
    X(focal, values, alpha gamma)           \
    X(kl_divergence, values, )              \
    X(softmax_focal, label, gamma)

/* X(name, n_states): vectors of optimizer state at most, each as long as the parameters. */
#define FASTNN_OPTIMIZERS(X) \
    X(sgd, 1)                \
    X(adam, 3)               \
    X(rmsprop, 3)            \
    X(adagrad, 1)            \
    X(adadelta, 2)           \
    X(adamw, 3)              \
    X(adamax, 2)             \
    X(nadam, 2)              \
    X(radam, 2)              \
    X(lion, 1)

/* X(name): the ways of a product: b read in place (or its panels copied, where the stride is a bad one); w^T
 * panel by panel; all of it turned, c^T = b^T a^T; b of a few columns, a turned in registers. */
#define FASTNN_PATHS(X) X(in_place) X(panels) X(turned) X(narrow)

/* X(name): instruction sets, best last; which of them a build holds depends on the machine. */
#define FASTNN_ISAS(X) X(generic) X(neon) X(avx2) X(avx512)

#define FASTNN_ENUM_ACTIVATION(name, kind) FASTNN_##name,
#define FASTNN_ENUM_LOSS(name, target, numbers) FASTNN_##name,
#define FASTNN_ENUM_OPTIMIZER(name, n_states) FASTNN_##name,
#define FASTNN_ENUM_ISA(name) FASTNN_ISA_##name,
enum { FASTNN_ACTIVATIONS(FASTNN_ENUM_ACTIVATION) FASTNN_N_ACTIVATIONS };
#define FASTNN_BIT_elementwise(name)
#define FASTNN_BIT_from_input(name)
#define FASTNN_BIT_rowwise(name) | (UINT64_C(1) << FASTNN_##name)
#define FASTNN_BIT_OF_ROWWISE(name, kind) FASTNN_BIT_##kind(name)
/* Whether an activation needs whole rows. */
static inline int fastnn_is_rowwise(int activation)
{
    return (0 FASTNN_ACTIVATIONS(FASTNN_BIT_OF_ROWWISE)) >> activation & 1;
}
enum { FASTNN_LOSSES(FASTNN_ENUM_LOSS) FASTNN_N_LOSSES };
enum { FASTNN_OPTIMIZERS(FASTNN_ENUM_OPTIMIZER) FASTNN_N_OPTIMIZERS };
#define FASTNN_ENUM_PATH(name) FASTNN_PATH_##name,
enum { FASTNN_PATHS(FASTNN_ENUM_PATH) FASTNN_N_PATHS };
enum { FASTNN_ISAS(FASTNN_ENUM_ISA) FASTNN_N_ISAS };

/* ---------------------------------------------------------------- the kernel table */

/* Vectors of optimizer state at most. */
#define FASTNN_STATES 3

/* Terms after which a long sum (dot) begins a new one: calls on such blocks add up to the bits of one call. */
#define FASTNN_DOT_BLOCK 2048

/* Rows that `dense_rows` takes. From four on, the tiles of a product have enough sums in flight. */
#define FASTNN_FEW_ROWS 3

/* Whether the sums of a product x w, w (k, n), are dot products with an order of their own (dots_template.h): narrow heads,
 * whose lanes then run along k. Below 64 terms the tree at their end would be most of the work. It is a part of what the
 * bits are: see "Why the bits are equal" in docs/inside.md. */
#define FASTNN_DOTS_OUTPUTS 4
#define FASTNN_DOTS_INPUTS 64
static inline int fastnn_by_dots(ptrdiff_t n, ptrdiff_t k)
{
    return 1 <= n && n <= FASTNN_DOTS_OUTPUTS && k >= FASTNN_DOTS_INPUTS;
}

/* Whether the gradient at the input of a layer, dz w^T, of a batch of one row is made of such sums too: products of w, whose
 * rows are read as they lie, and that row. From so many numbers of w on: below, reading them is not most of the time, and
 * small_steps has sums in the order of k alone. batch: all rows of it, not those of one thread. */
#define FASTNN_DOTS_WEIGHTS 65536
static inline int fastnn_input_by_dots(ptrdiff_t batch, ptrdiff_t n_in, ptrdiff_t n_out)
{
    return batch == 1 && n_out >= FASTNN_DOTS_INPUTS && n_in >= FASTNN_DOTS_WEIGHTS / n_out &&
           n_in * n_out >= FASTNN_DOTS_WEIGHTS;
}

/* What a product does with a finished sum before it is stored; all zero: nothing.
 *   v = sum; v += bias[j]; v = f(v); v *= gate'(gate[i, j]) */
typedef struct {
    const void *bias;      /* (n,) or NULL */
    int32_t activation;    /* elementwise or rowwise f, FASTNN_identity for none */
    int32_t gate_activation; /* whose derivative multiplies the result, from its output (or f', if kept) in gate */
    const void *gate;      /* (m, ld_gate) or NULL */
    ptrdiff_t ld_gate;
} fastnn_epilogue;

/* A loss and its numbers; fields that a loss does not name in FASTNN_LOSSES are not read. All zero but `loss`: the
 * plain form of cross_entropy, binary_cross_entropy and of those that name none. */
typedef struct {
    int32_t loss;          /* FASTNN_cross_entropy, .. */
    int32_t full;          /* with the terms that have no gradient */
    int32_t log_input;     /* poisson: outputs are logarithms of rates */
    int32_t p;             /* multi_margin: 1 or 2 */
    double smoothing;      /* share of the even distribution in the target */
    double delta;          /* huber: where it turns linear */
    double eps;            /* poisson: is added to a rate; gaussian_nll: least variance, above 0 */
    double margin;         /* multi_margin */
    double alpha, gamma;   /* focal; alpha below 0: classes weigh alike; gamma: softmax_focal too */
    const void *each;      /* (n,) or NULL; binary_cross_entropy: weights of positive targets; quantile: quantiles */
    ptrdiff_t repeat;      /* quantile: neighbouring outputs that share one target; n is a multiple */
} fastnn_loss;

/* How losses are told and how far they may go; their gradients know nothing of it. */
typedef struct {
    double floor, cap;     /* a row's loss is told as no less and no more */
    double limit;          /* one beyond is as one that is not finite; DBL_MAX: there is none */
    int32_t are_set;       /* 0: none of the three says anything */
    int32_t by_output;     /* floor and cap are of each output's share in a row's loss: of binary_cross_entropy, plain */
    double edge;           /* then: the share of an output nearer to 0, with a target of 0 to 1, is between the two */
} fastnn_bounds;

/* A run of parameters that share a rate: elements offset .. offset + length of the flat block. */
typedef struct {
    ptrdiff_t offset, length;
    double lr;    /* multiplies the step's rate */
    double decay; /* weight_decay: added to the gradient as decay * w, or taken from w where it is decoupled */
    double l1;    /* added to the gradient as l1 * sign(w) */
} fastnn_segment;

/* One step of an optimizer; fields that an optimizer does not name are not read. Zeroed but for scale1, it is
 * plain SGD. */
typedef struct {
    int32_t optimizer; /* FASTNN_sgd, .. */
    int32_t nesterov;  /* sgd */
    int32_t centered;  /* rmsprop */
    int32_t amsgrad;   /* adam, adamw */
    int32_t decoupled; /* nadam, radam: the decay is decoupled; adamw's and lion's always is */
    double lr;
    double clip_value; /* gradients are cut to -clip_value .. clip_value; 0: not */
    double momentum;   /* sgd, rmsprop; 0 reads and writes no state */
    double dampening;  /* sgd */
    double beta1, beta2, eps; /* adam and its family; rmsprop's alpha and adadelta's rho are beta2 */
    double eps_hat;           /* adam, adamw: if not 0, eps of each step is this / sqrt(correction2) */
    double step_decay;        /* adagrad: lr_decay; nadam: momentum_decay */
    /* of the present step: see fastnn_begin_update in update_steps.h */
    double correction1, correction2; /* 1 - beta1^t, 1 - beta2^t */
    double scale1, scale2;
    double l2;                /* of the present batch: what of its penalty joins the decay of dense weights */
    double product;           /* nadam: of its momenta up to step product_step */
    uint64_t product_step;
} fastnn_update;

/* Parameters that a gradient is for. */
typedef struct {
    const fastnn_update *update;
    double lr, decay, l1;  /* as in a segment */
    void *w;               /* rows ld apart */
    void *states[FASTNN_STATES]; /* likewise; NULL where the optimizer has none */
    ptrdiff_t ld;
} fastnn_target;

/* Dense layers of a net that small_steps takes. */
#define FASTNN_SMALL_LAYERS 8

/* Rows of x that the next step gathers: order[0] .. order[m-1], row_bytes of each. */
typedef struct {
    const void *x;
    ptrdiff_t m, row_bytes, ld_bytes;
    const int64_t *order;
} fastnn_ahead;

/* A column of category codes 0 .. n_categories-1, each looked up in a table (n_categories, width). */
typedef struct {
    ptrdiff_t column;       /* of x */
    ptrdiff_t n_categories, width;
    ptrdiff_t weight;       /* offset of the table in the flat block */
    ptrdiff_t out;          /* first column of the result */
} fastnn_table;

/* A dense layer as prediction of single rows reads it. */
typedef struct {
    const void *weight; /* (n_in, ld) */
    const void *bias;   /* (n_out,) or NULL */
    ptrdiff_t n_in, n_out, ld;
    ptrdiff_t slack;    /* elements that may be read after column n_out - 1 of the last row */
    int32_t activation;
} fastnn_dense;

/* A dense layer of a net whose steps are run by small_steps. */
typedef struct {
    ptrdiff_t n_in, n_out;
    ptrdiff_t weight, bias;  /* offsets in the parameters; bias -1: none */
    int32_t activation;      /* elementwise */
    void *a, *d;             /* (batch, ld): output, and gradient at z; rows end with whole lines of 64 bytes */
    void *slope;             /* likewise, f'(z) for a from_input activation; NULL for others */
    ptrdiff_t ld;
} fastnn_small_layer;

/* Steps begin .. end of a run, of which there are n_steps in all. */
typedef struct {
    ptrdiff_t n_layers;      /* 1 .. FASTNN_SMALL_LAYERS */
    fastnn_small_layer layers[FASTNN_SMALL_LAYERS];
    void *parameters, *state1, *state2;
    fastnn_update update;    /* lr and corrections are of each step */
    double decay;
    double l2;               /* l2 / 2 * the squares of all dense weights joins the sum of a batch's losses */
    double factor, told;     /* of the gradient of the losses; of their sum as it is told */
    fastnn_bounds bounds;
    double *step_losses;     /* (n_steps,), what each step adds to loss_sum; or NULL */
    int32_t loss;            /* one that fastnn_small_takes, plain */
    const void *x, *y;       /* (n_rows, ld_x), (n_rows, n_out); y or labels is NULL */
    const int64_t *labels;
    const double *weight;    /* (n_rows,) or NULL */
    ptrdiff_t n_in, ld_x, n_rows;
    const int64_t *order;    /* (n_steps, batch) */
    const double *rates;     /* (n_steps,) */
    ptrdiff_t batch, n_steps, begin, end;
    uint64_t first_step;     /* number of step 0, for Adam */
    double least_weight;     /* of a batch; one of less has the gradient zero */
    void *x_batch;           /* (batch, ld_batch), whole lines */
    ptrdiff_t ld_batch;
    int64_t *label_batch;
    double *weight_batch, *loss_rows; /* (batch,) */
    void *work;              /* small_bytes bytes on a 64-byte boundary */
    double loss_sum, weight_sum; /* are added to */
} fastnn_small;

/* Where swap_noise finds the other rows of a batch. */
typedef struct {
    uint64_t seed, step;
    uint32_t layer, threshold; /* of 2^32 numbers so many are replaced, one at least */
    const int64_t *order;      /* (batch,) row numbers into x, or NULL: rows 0 .. batch */
    ptrdiff_t batch, n_rows, n, ld_x;
    const void *x;             /* (n_rows, n) of the table's type, or bytes; factor v + shift of it, where so */
    int is_bytes, scaled;
    double factor, shift;
} fastnn_swap;

typedef struct {
    const char *isa;
    int32_t isa_id;
    int32_t itemsize; /* 4 or 8 */
    int32_t lanes;    /* reals in one vector register */
    int32_t panel;    /* columns of a tile; a multiple of lanes */

    /* c (m, n) = a (m, k) @ b (k, n), then the epilogue. Element (i, p) of a is a[i*a_row + p*a_col]: so
     * a transposed a costs nothing. b has unit column stride. Every c[i, j] is summed with FMA in the
     * order p = 0, 1, ..: its bits depend on k and its own numbers alone.
     * b_slack: elements that may be read past the last one of b (a whole vector is read at row ends
     * when that many are there; else the last columns are copied to the stack first). */
    void (*matmul)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *a, ptrdiff_t a_row, ptrdiff_t a_col,
                   const void *b, ptrdiff_t ld_b, ptrdiff_t b_slack, void *c, ptrdiff_t ld_c,
                   const fastnn_epilogue *epilogue);
    /* c (m, n) = a (m, k) @ w^T for w (n, k), then the epilogue; the same order of sums. */
    void (*matmul_transposed)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *a, ptrdiff_t a_row,
                              ptrdiff_t a_col, const void *w, ptrdiff_t ld_w, void *c, ptrdiff_t ld_c,
                              const fastnn_epilogue *epilogue);
    /* The product of a dense layer, of which all n columns are there: matmul, or dots where fastnn_by_dots(n, k). */
    void (*dense)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *x, ptrdiff_t x_row, ptrdiff_t x_col,
                  const void *w, ptrdiff_t ld_w, ptrdiff_t w_slack, void *c, ptrdiff_t ld_c,
                  const fastnn_epilogue *epilogue);
    /* c (m, n) = x (m, k) w (k, n), then the epilogue, for n up to FASTNN_DOTS_OUTPUTS, summed as fastnn_by_dots has it. Any
     * strides: element (i, p) of x is x[i*x_row + p*x_col]. */
    void (*dots)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *x, ptrdiff_t x_row, ptrdiff_t x_col,
                 const void *w, ptrdiff_t w_row, ptrdiff_t w_col, void *c, ptrdiff_t ld_c,
                 const fastnn_epilogue *epilogue);
    /* dx (n_in,) = w (n_in, n_out) dz for one dz (n_out,), summed so; the epilogue is that of a row. */
    void (*row_dots)(ptrdiff_t n_in, ptrdiff_t n_out, const void *dz, ptrdiff_t dz_col, const void *w, ptrdiff_t ld_w,
                     void *dx, const fastnn_epilogue *epilogue);
    /* FASTNN_PATH_*: the way that these two go with such arguments (b_turned: matmul_transposed). */
    int (*path)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, ptrdiff_t a_row, ptrdiff_t a_col, int b_turned,
                ptrdiff_t ld_b);
    /* out (n,) = sum over rows of a (m, n), in row order. */
    void (*sum_rows)(ptrdiff_t m, ptrdiff_t n, const void *a, ptrdiff_t ld_a, void *out);

    /* a = f(z); z and a may be the same array. */
    void (*activation)(int activation, ptrdiff_t m, ptrdiff_t n, const void *z, ptrdiff_t ld_z, void *a,
                       ptrdiff_t ld_a);
    /* The same for a from_input activation, and slope = f'(z). */
    void (*activation_and_slope)(int activation, ptrdiff_t m, ptrdiff_t n, const void *z, ptrdiff_t ld_z, void *a,
                                 ptrdiff_t ld_a, void *slope, ptrdiff_t ld_slope);
    /* dz = da * f'(z), computed from the output a, which for from_input activations is the slope instead; dz and da
     * may be the same array. */
    void (*activation_backward)(int activation, ptrdiff_t m, ptrdiff_t n, const void *a, ptrdiff_t ld_a,
                                const void *da, ptrdiff_t ld_da, void *dz, ptrdiff_t ld_dz);

    /* loss_rows[i] = loss of row i; dz = weight[i] * scale * its gradient. Targets: labels (m,) or y (m, ld_y), the
     * other NULL; y has n columns, n / repeat for quantile, n / 2 for gaussian_nll. Losses of values that are sums over
     * outputs are means over them. weight: (m,) doubles or NULL for ones. dz may be z itself, or NULL. loss_rows is
     * not weighted. A label outside 0 .. n-1 must not reach this. */
    void (*loss)(const fastnn_loss *loss, ptrdiff_t m, ptrdiff_t n, const void *z, ptrdiff_t ld_z,
                 const int64_t *labels, const void *y, ptrdiff_t ld_y, const double *weight, double scale,
                 double *loss_rows, void *dz, ptrdiff_t ld_dz);

    /* The same losses as they are told where bounds are of each output; y has n columns. */
    void (*bound_losses)(const fastnn_bounds *b, ptrdiff_t m, ptrdiff_t n, const void *z, ptrdiff_t ld_z, const void *y,
                         ptrdiff_t ld_y, double *loss_rows);

    /* One optimizer step, in place over the segments of w; g is the gradient, states the optimizer's
     * FASTNN_STATES vectors (NULL where it has none); all are indexed as w is. */
    void (*update)(const fastnn_update *u, ptrdiff_t n_segments, const fastnn_segment *segments, void *w,
                   const void *g, void *const *states);
    /* Sum of a[i] b[i] in double, of one shape: blocks of FASTNN_DOT_BLOCK terms, added in order. */
    double (*dot)(ptrdiff_t n, const void *a, const void *b);
    /* out[j] = sum of the squares of column j of w (m, n), in row order. */
    void (*column_squares)(ptrdiff_t m, ptrdiff_t n, const void *w, ptrdiff_t ld, double *out);
    /* sum (n,) += factor * g. */
    void (*accumulate)(ptrdiff_t n, double factor, const void *g, void *sum);
    /* mean (n,) += share * (w - mean). */
    void (*average)(ptrdiff_t n, double share, const void *w, void *mean);
    /* Columns of w (m, n) whose Euclidean norm is above `most` are scaled down to it, in place. */
    void (*limit_columns)(ptrdiff_t m, ptrdiff_t n, double most, void *w, ptrdiff_t ld);

    /* The optimizer step on m rows of a weight matrix (m, n), whose gradient is x^T dz with x (k, m) and dz (k, n):
     * each element is the sum over p = 0, 1, .. by FMA, as matmul has it. Rows of x and dz end with whole lines of
     * 64 bytes that may be read. ahead: NULL, or rows to prefetch meanwhile. */
    void (*weights)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *x, ptrdiff_t ld_x, const void *dz,
                    ptrdiff_t ld_dz, const fastnn_target *target, const fastnn_ahead *ahead);

    /* mask[i, j] = 0 or 1/(1-rate); a = a * mask in place, or NULL with ld_a 0. Rows first_row .. first_row + m of
     * the batch. */
    void (*dropout)(uint64_t seed, uint64_t step, uint32_t layer, double rate, ptrdiff_t first_row, ptrdiff_t m,
                    ptrdiff_t n, void *a, ptrdiff_t ld_a, void *mask, ptrdiff_t ld_mask);
    /* a = a * b elementwise, in place. */
    void (*multiply)(ptrdiff_t m, ptrdiff_t n, void *a, ptrdiff_t ld_a, const void *b, ptrdiff_t ld_b);

    /* out (n,) = factor * x + shift for bytes x (n,). */
    void (*widen)(ptrdiff_t n, const uint8_t *x, double factor, double shift, void *out);
    /* out (m, n) = rows order[0] .. order[m-1] of x (n_rows, n), or its first m rows where order is NULL. 1: all
     * numbers are finite, 0: some are not, -1: a row number is outside x (rows before it are copied). */
    int (*gather)(ptrdiff_t m, ptrdiff_t n, const void *x, ptrdiff_t ld_x, ptrdiff_t n_rows, const int64_t *order,
                  void *out, ptrdiff_t ld_out);
    /* The largest size of n numbers, 0 of none; NaN where one is not finite. */
    double (*largest)(ptrdiff_t n, const void *x);
    /* Whether x (m, n) holds neither NaN nor an infinity. */
    int (*all_finite)(ptrdiff_t m, ptrdiff_t n, const void *x, ptrdiff_t ld_x);
    /* a = factor * x + shift; in place allowed. */
    void (*scale)(ptrdiff_t m, ptrdiff_t n, double factor, double shift, const void *x, ptrdiff_t ld_x, void *a,
                  ptrdiff_t ld_a);
    /* a = the columns of x without a table, in order, then the rows that the codes name; tables are sorted by
     * column. A whole number outside the table gives zeros, anything else NaN. */
    void (*embed)(ptrdiff_t m, ptrdiff_t n_in, ptrdiff_t n_tables, const fastnn_table *tables, const void *parameters,
                  const void *x, ptrdiff_t ld_x, void *a, ptrdiff_t ld_a);
    /* g (n_categories, width) = sums of d's columns by category, in row order. */
    void (*embed_gradient)(ptrdiff_t m, const fastnn_table *table, const void *x, ptrdiff_t ld_x, const void *d,
                           ptrdiff_t ld_d, void *g);

    /* Columns first .. last of out (m, n_out) = f(x @ weight + bias), 1 <= m <= FASTNN_FEW_ROWS; first is a
     * multiple of 64 bytes, and a rowwise f wants all columns, as fastnn_by_dots does. The bits are those of dense. */
    void (*dense_rows)(const fastnn_dense *layer, ptrdiff_t first, ptrdiff_t last, ptrdiff_t m, const void *x,
                       ptrdiff_t ld_x, void *out, ptrdiff_t ld_out);

    /* out = a + b; out may be either. */
    void (*add)(ptrdiff_t m, ptrdiff_t n, const void *a, ptrdiff_t ld_a, const void *b, ptrdiff_t ld_b, void *out,
                ptrdiff_t ld_out);
    /* out (m, n) = columns columns[0] .. columns[n-1] of x. */
    void (*take_columns)(ptrdiff_t m, ptrdiff_t n, const int64_t *columns, const void *x, ptrdiff_t ld_x, void *out,
                         ptrdiff_t ld_out);
    /* out (m, n_out) = d (m, n) in those columns, each named once, and zeros in the others. */
    void (*put_columns)(ptrdiff_t m, ptrdiff_t n, const int64_t *columns, const void *d, ptrdiff_t ld_d,
                        ptrdiff_t n_out, void *out, ptrdiff_t ld_out);

    /* By rows: a = (x - mean) / sqrt(var + eps), times gamma (n,), plus beta (n,), where these are not NULL; not
     * `centred`: without mean, and var is the mean square. stats (m, 2): mean and 1 / sqrt(var + eps), or NULL. */
    void (*norm_rows)(ptrdiff_t m, ptrdiff_t n, int centred, double eps, const void *gamma, const void *beta,
                      const void *x, ptrdiff_t ld_x, void *a, ptrdiff_t ld_a, void *stats);
    void (*norm_rows_backward)(ptrdiff_t m, ptrdiff_t n, int centred, const void *gamma, const void *x,
                               ptrdiff_t ld_x, const void *stats, const void *d, ptrdiff_t ld_d, void *dx,
                               ptrdiff_t ld_dx);
    /* dgamma (n,), summed over rows. */
    void (*norm_rows_gradient)(ptrdiff_t m, ptrdiff_t n, const void *x, ptrdiff_t ld_x, const void *stats,
                               const void *d, ptrdiff_t ld_d, void *dgamma);
    /* Mean and (biased) variance of each column of x (m, n). */
    void (*column_moments)(ptrdiff_t m, ptrdiff_t n, const void *x, ptrdiff_t ld_x, void *mean, void *var);
    /* a = (x - mean) / sqrt(var + eps) by columns, times gamma plus beta where these are not NULL; then relu. */
    void (*norm_columns)(ptrdiff_t m, ptrdiff_t n, double eps, const void *mean, const void *var, const void *gamma,
                         const void *beta, int relu, const void *x, ptrdiff_t ld_x, void *a, ptrdiff_t ld_a);
    /* By columns: sum = sums of d, dot = sums of d times the normalised x: gradients of beta and gamma. */
    void (*norm_columns_sums)(ptrdiff_t m, ptrdiff_t n, double eps, const void *mean, const void *var, const void *x,
                              ptrdiff_t ld_x, const void *d, ptrdiff_t ld_d, void *sum, void *dot);
    /* From these sums over a batch to the gradient at m of its rows; dx may be d. */
    void (*norm_columns_backward)(ptrdiff_t batch, ptrdiff_t m, ptrdiff_t n, double eps, const void *mean,
                                  const void *var, const void *gamma, const void *sum, const void *dot, const void *x,
                                  ptrdiff_t ld_x, const void *d, ptrdiff_t ld_d, void *dx, ptrdiff_t ld_dx);
    /* out = (1 - momentum) out + momentum factor x. */
    void (*running)(ptrdiff_t n, double momentum, double factor, const void *x, void *out);
    /* a = z > 0 ? z : slope z; slope is one number (`shared`) or (n,). */
    void (*prelu)(ptrdiff_t m, ptrdiff_t n, const void *slope, int shared, const void *z, ptrdiff_t ld_z, void *a,
                  ptrdiff_t ld_a);
    void (*prelu_backward)(ptrdiff_t m, ptrdiff_t n, const void *slope, int shared, const void *z, ptrdiff_t ld_z,
                           const void *d, ptrdiff_t ld_d, void *dz, ptrdiff_t ld_dz);
    /* dslope, (1,) or (n,), summed over rows. */
    void (*prelu_gradient)(ptrdiff_t m, ptrdiff_t n, int shared, const void *z, ptrdiff_t ld_z, const void *d,
                           ptrdiff_t ld_d, void *dslope);

    /* a = a + deviation * normal numbers, in place, keyed as dropout's masks are. */
    void (*gaussian_noise)(uint64_t seed, uint64_t step, uint32_t layer, double deviation, ptrdiff_t first_row,
                           ptrdiff_t m, ptrdiff_t n, void *a, ptrdiff_t ld_a);
    /* a = other + share (a - other), n numbers in place; share as a REAL. */
    void (*mix)(ptrdiff_t n, double share, const void *other, void *a);
    /* A number of the Beta distribution (alpha, alpha) for a step, in the precision of the table, and a random word. */
    double (*mixup_share)(uint64_t seed, uint64_t step, uint32_t layer, double alpha, uint32_t *word);
    /* Row number `row` of a batch, in place: see fastnn_swap. 0, or -1 where order names a row that is not there. */
    int (*swap_noise)(const fastnn_swap *s, ptrdiff_t row, void *a);
    /* From a mask of dropout on: a = mask ? scale a + shift : dropped, and mask = mask ? scale : 0, both in place. */
    void (*alpha_dropout)(double scale, double shift, double dropped, ptrdiff_t m, ptrdiff_t n, void *a,
                          ptrdiff_t ld_a, void *mask, ptrdiff_t ld_mask);
    /* out (m, 2 n k): of each column of x (m, n) the k numbers sin(2 pi f x) and then the k cos(2 pi f x), for its
     * frequencies f (n, k). */
    void (*periodic)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *frequencies, const void *x, ptrdiff_t ld_x,
                     void *out, ptrdiff_t ld_out);
    /* Gradients at x, and of the frequencies, summed over rows; a: what periodic gave. */
    void (*periodic_backward)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *frequencies, const void *a,
                              ptrdiff_t ld_a, const void *d, ptrdiff_t ld_d, void *dx, ptrdiff_t ld_dx);
    void (*periodic_gradient)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *x, ptrdiff_t ld_x, const void *a,
                              ptrdiff_t ld_a, const void *d, ptrdiff_t ld_d, void *g);
    /* Column j of x as n_edges[j] - 1 numbers: how much of each bin lies below x; the edges of all columns stand one
     * after the other. */
    void (*piecewise)(ptrdiff_t m, ptrdiff_t n, const int64_t *n_edges, const double *edges, const void *x,
                      ptrdiff_t ld_x, void *out, ptrdiff_t ld_out);
    void (*piecewise_backward)(ptrdiff_t m, ptrdiff_t n, const int64_t *n_edges, const double *edges, const void *x,
                               ptrdiff_t ld_x, const void *d, ptrdiff_t ld_d, void *dx, ptrdiff_t ld_dx);

    /* Runs `turns` turns of a loop of FMAs in registers; gives its multiplications and additions. */
    double (*fma_loop)(ptrdiff_t turns);
    /* The traffic of an optimizer's step and no more work than it needs: x[q] += c g for q < count <= FASTNN_STATES + 1,
     * g and all x[q] (n). */
    void (*stream)(ptrdiff_t n, int count, double c, const void *g, void *const *x);

    /* Training steps of a small net on the calling thread, to the bits of the other kernels; returns the first step
     * not done: end, or one with a row or label out of range or with something that is not finite, of which nothing
     * was changed. */
    ptrdiff_t (*small_steps)(fastnn_small *s);
    /* Bytes that s->work needs; 64 more may be read. */
    ptrdiff_t (*small_bytes)(const fastnn_small *s);

    /* Functions of vectors, for the tests of their accuracy and for fastnn.ops. In place allowed. */
    void (*exp)(ptrdiff_t n, const void *x, void *out);
    void (*log)(ptrdiff_t n, const void *x, void *out);
    void (*log1p)(ptrdiff_t n, const void *x, void *out); /* x >= 0 */
    void (*tanh)(ptrdiff_t n, const void *x, void *out);
    void (*sigmoid)(ptrdiff_t n, const void *x, void *out);
} fastnn_kernels;

/* ---------------------------------------------------------------- dispatch.c */

/* Table of an instruction set for itemsize 4 or 8, NULL where this build or CPU has it not. */
const fastnn_kernels *fastnn_kernels_of(int isa, int itemsize);
/* The best instruction set of this build and CPU. */
int fastnn_best_isa(void);
/* Names from the lists; NULL beyond them. */
const char *fastnn_isa_name(int isa);
const char *fastnn_activation_name(int activation);
const char *fastnn_loss_name(int loss);
const char *fastnn_optimizer_name(int optimizer);
const char *fastnn_path_name(int path);
const char *fastnn_activation_kind(int activation);
int fastnn_loss_takes_labels(int loss);
/* The numbers that a loss reads, separated by blanks. */
const char *fastnn_loss_numbers(int loss);
int fastnn_optimizer_states(int optimizer);

/* Whether small_steps knows a loss: three of them, in their plain form. */
static inline int fastnn_small_takes(const fastnn_loss *l)
{
    return l->loss == FASTNN_mse || (l->loss == FASTNN_cross_entropy && l->smoothing == 0) ||
           (l->loss == FASTNN_binary_cross_entropy && !l->each);
}

/* Sum of n numbers in one shape: eight running sums, then a tree. */
static inline double fastnn_sum(ptrdiff_t n, const double *a)
{
    double s[8] = {0};
    ptrdiff_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int q = 0; q < 8; q++) s[q] += a[i + q];
    for (int q = 0; i < n; i++, q++) s[q] += a[i];
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

/* base^exponent by squaring: libm's pow need not give the same bits everywhere. */
static inline double fastnn_power(double base, uint64_t exponent)
{
    double result = 1;
    for (; exponent; exponent >>= 1, base *= base)
        if (exponent & 1)
            result *= base;
    return result;
}

/* ---------------------------------------------------------------- random.h, through dispatch.c */

/* Philox4x32-10 (Salmon et al. 2011). One block: four words from a counter and a key. */
void fastnn_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);
/* order = a permutation of 0 .. n-1 (Fisher-Yates), a function of (seed, epoch) alone. */
void fastnn_shuffle(uint64_t seed, uint64_t epoch, ptrdiff_t n, int64_t *order);
/* n uniform doubles in (0, 1), 52 bits each and never an end: a function of (seed, layer, parameter, index). */
void fastnn_uniform(uint64_t seed, uint32_t layer, uint32_t parameter, ptrdiff_t n, double *out);
/* The same in 23 bits: number i is the middle of the 2^-23 in which that of fastnn_uniform lies. */
void fastnn_uniform_single(uint64_t seed, uint32_t layer, uint32_t parameter, ptrdiff_t n, float *out);

/* ---------------------------------------------------------------- threads.c */

/* A task runs once on each thread of a team: thread = 0 .. n_threads-1, the caller being 0. */
typedef void (*fastnn_task)(void *context, int thread, int n_threads);

/* Runs the task on up to n_threads threads and returns when all have returned. Where the pool serves
 * another caller or threads cannot be had, the task runs on fewer (its n_threads says how many; 1 is the
 * caller alone). Thread-safe. A task does not call it again. Returns the number of threads used. */
int fastnn_run(fastnn_task task, void *context, int n_threads);
/* Whether a team of n_threads would start at once. If not, sleeping workers are woken, so that a call that
 * follows closely finds them awake; this one does better alone if it is short. Returns at once. */
int fastnn_ready(int n_threads);
/* Waits until every thread of the running team is here; only inside a task, with the task's own
 * thread and n_threads. What threads wrote before it can be read by all after it. */
void fastnn_barrier(int thread, int n_threads);
/* Workers that exist now (not counting callers). */
int fastnn_threads_started(void);
/* Ends the workers (they start again at the next use); at exit and before fork. */
void fastnn_stop_threads(void);
#define FASTNN_MAX_THREADS 256

#ifdef __cplusplus
}
#endif
#endif
