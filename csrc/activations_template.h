/* Activations. A new one of numbers is a line in FASTNN_ACTIVATIONS (fastnn.h) and its two lines here: f and f' from
 * a, or f and f' together where a does not tell (`from_input`). At kinks f' is PyTorch's. */

/* ---------------------------------------------------------------- f(z) and da f'(z), from a = f(z) */

#define FORWARD(name, expression) \
    INLINE vec FN(forward_##name)(vec z) { return expression; }
#define BACKWARD(name, expression) \
    INLINE vec FN(backward_##name)(vec da, vec a) { (void)a; return expression; }
/* Where the slope is not wanted, the compiler leaves out what only it needs. */
#define FROM_INPUT(name, expression)                                           \
    INLINE vec FN(both_##name)(vec z, vec *slope) { return expression; }       \
    INLINE vec FN(forward_##name)(vec z) { vec slope; return FN(both_##name)(z, &slope); } \
    INLINE vec FN(backward_##name)(vec da, vec slope) { return da * slope; }

FORWARD(identity, z)
BACKWARD(identity, da)
/* vec_max returns its second operand where either is NaN. */
FORWARD(relu, vec_max(vec_set(0), z))
BACKWARD(relu, vec_where(a, less_equal, vec_set(0), vec_set(0), da))
FORWARD(leaky_relu, vec_max((REAL)0.01 * z, z))
BACKWARD(leaky_relu, vec_where(a, less_equal, vec_set(0), (REAL)0.01 * da, da))
FORWARD(sigmoid, vec_sigmoid(z))
BACKWARD(sigmoid, da * (a * (1 - a)))
FORWARD(tanh, vec_tanh(z))
BACKWARD(tanh, da * vec_fma(-a, a, vec_set(1)))

/* Bounds first: vec_max and vec_min return their second operand where it is NaN. */
FORWARD(relu6, vec_min(vec_set(6), vec_max(vec_set(0), z)))
BACKWARD(relu6, vec_where(a, less_equal, vec_set(0), vec_set(0), vec_where(vec_set(6), less_equal, a, vec_set(0), da)))
FORWARD(hard_tanh, vec_min(vec_set(1), vec_max(vec_set(-1), z)))
BACKWARD(hard_tanh, vec_where(vec_set(1), less_equal, vec_abs(a), vec_set(0), da))
FORWARD(hard_sigmoid, vec_min(vec_set(6), vec_max(vec_set(0), z + 3)) * (REAL)(1.0 / 6))
BACKWARD(hard_sigmoid, vec_where(a, less_equal, vec_set(0), vec_set(0),
                                 vec_where(vec_set(1), less_equal, a, vec_set(0), da * (REAL)(1.0 / 6))))
FORWARD(softsign, FN(softsign)(z))
BACKWARD(softsign, da * ((1 - vec_abs(a)) * (1 - vec_abs(a))))
FROM_INPUT(hard_swish, FN(hard_swish)(z, slope))
FORWARD(elu, vec_where(z, less, vec_set(0), FN(expm1_left)(z), z))
BACKWARD(elu, vec_where(a, less_equal, vec_set(0), da * (a + 1), da))
FORWARD(selu, vec_where(z, less, vec_set(0), FN(expm1_left)(z) * SELU_LEFT, z * SELU_RIGHT))
BACKWARD(selu, da * vec_where(a, less_equal, vec_set(0), a + SELU_LEFT, vec_set(SELU_RIGHT)))
FORWARD(celu, FN(forward_elu)(z))
BACKWARD(celu, FN(backward_elu)(da, a))
FORWARD(softplus, FN(softplus)(z))
/* a = log(1 + exp(z)), so f' = 1 - exp(-a). */
BACKWARD(softplus, vec_where(vec_set(SOFTPLUS_LINE), less, a, da, -da * FN(expm1_left)(-a)))
FROM_INPUT(silu, FN(silu)(z, slope))
FROM_INPUT(mish, FN(mish)(z, slope))
FROM_INPUT(gelu, FN(gelu)(z, slope))
FROM_INPUT(gelu_tanh, FN(gelu_tanh)(z, slope))

#undef FORWARD
#undef BACKWARD
#undef FROM_INPUT

/* ---------------------------------------------------------------- loops of the elementwise ones */

/* Rows that follow each other without gaps are one long row: narrow outputs then fill whole vectors. */
#define DEFINE_ELEMENTWISE(name)                                                                             \
    static void FN(rows_##name)(ptrdiff_t m, ptrdiff_t n, const REAL *z, ptrdiff_t ld_z, REAL *a,            \
                                ptrdiff_t ld_a)                                                              \
    {                                                                                                        \
        if (n == ld_z && n == ld_a) {                                                                        \
            n *= m;                                                                                          \
            m = 1;                                                                                           \
        }                                                                                                    \
        for (; m > 0; m--, z += ld_z, a += ld_a) {                                                           \
            ptrdiff_t j = 0;                                                                                 \
            for (; j + LANES <= n; j += LANES) vec_store(a + j, FN(forward_##name)(vec_load(z + j)));        \
            if (j < n)                                                                                       \
                vec_store_part(a + j, FN(forward_##name)(vec_load_part(z + j, n - j)), n - j);               \
        }                                                                                                    \
    }                                                                                                        \
    static void FN(rows_backward_##name)(ptrdiff_t m, ptrdiff_t n, const REAL *a, ptrdiff_t ld_a,            \
                                         const REAL *da, ptrdiff_t ld_da, REAL *dz, ptrdiff_t ld_dz)         \
    {                                                                                                        \
        if (n == ld_a && n == ld_da && n == ld_dz) {                                                         \
            n *= m;                                                                                          \
            m = 1;                                                                                           \
        }                                                                                                    \
        for (; m > 0; m--, a += ld_a, da += ld_da, dz += ld_dz) {                                            \
            ptrdiff_t j = 0;                                                                                 \
            for (; j + LANES <= n; j += LANES)                                                               \
                vec_store(dz + j, FN(backward_##name)(vec_load(da + j), vec_load(a + j)));                   \
            if (j < n) {                                                                                     \
                const vec rest = vec_load_part(da + j, n - j);                                               \
                vec_store_part(dz + j, FN(backward_##name)(rest, vec_load_part(a + j, n - j)), n - j);       \
            }                                                                                                \
        }                                                                                                    \
    }

/* Forward of a from_input activation, and its slope. */
#define DEFINE_FROM_INPUT(name)                                                                              \
    DEFINE_ELEMENTWISE(name)                                                                                 \
    static void FN(rows_both_##name)(ptrdiff_t m, ptrdiff_t n, const REAL *z, ptrdiff_t ld_z, REAL *a,       \
                                     ptrdiff_t ld_a, REAL *slope, ptrdiff_t ld_slope)                        \
    {                                                                                                        \
        if (n == ld_z && n == ld_a && n == ld_slope) {                                                       \
            n *= m;                                                                                          \
            m = 1;                                                                                           \
        }                                                                                                    \
        for (; m > 0; m--, z += ld_z, a += ld_a, slope += ld_slope) {                                        \
            ptrdiff_t j = 0;                                                                                 \
            vec s;                                                                                           \
            for (; j + LANES <= n; j += LANES) {                                                             \
                vec_store(a + j, FN(both_##name)(vec_load(z + j), &s));                                      \
                vec_store(slope + j, s);                                                                     \
            }                                                                                                \
            if (j < n) {                                                                                     \
                vec_store_part(a + j, FN(both_##name)(vec_load_part(z + j, n - j), &s), n - j);              \
                vec_store_part(slope + j, s, n - j);                                                         \
            }                                                                                                \
        }                                                                                                    \
    }

/* ---------------------------------------------------------------- softmax */

/* exp(z - max) of a block whose lanes from `count` on hold -inf; there 0. Infinities need no care: a row with
 * +inf, or of -inf alone, is NaN, as the formula says. */
INLINE void FN(exp_block)(ptrdiff_t count, REAL max, vec block[BLOCK_VECTORS])
{
    UNROLL for (int i = 0; i < BLOCK_VECTORS; i++)
        block[i] = count > i * LANES ? vec_exp(block[i] - max) : vec_set(0);
}

/* The same for a row that is one block (n <= BLOCK), of which memory is read once; gives max and sum. */
INLINE void FN(exp_short_row)(ptrdiff_t n, const REAL *z, vec e[BLOCK_VECTORS], REAL *max, REAL *sum)
{
    vec copy[BLOCK_VECTORS];
    FN(load_block)(z, n, -REAL_INFINITY, e);
    UNROLL for (int i = 0; i < BLOCK_VECTORS; i++) copy[i] = e[i];
    *max = FN(tree_max)(copy);
    FN(exp_block)(n, *max, e);
    UNROLL for (int i = 0; i < BLOCK_VECTORS; i++) copy[i] = e[i];
    *sum = FN(tree_sum)(copy);
}

INLINE void FN(store_block)(REAL *p, ptrdiff_t count, const vec block[BLOCK_VECTORS])
{
    UNROLL for (int i = 0; i < BLOCK_VECTORS; i++) {
        const ptrdiff_t rest = count - i * LANES;
        if (rest >= LANES)
            vec_store(p + i * LANES, block[i]);
        else if (rest > 0)
            vec_store_part(p + i * LANES, block[i], rest);
    }
}

/* e = exp(z - max) where e is not NULL, and its sum; both in blocks. */
static REAL FN(exp_row)(ptrdiff_t n, const REAL *z, REAL max, REAL *e)
{
    vec sum[BLOCK_VECTORS], block[BLOCK_VECTORS];
    UNROLL for (int i = 0; i < BLOCK_VECTORS; i++) sum[i] = vec_set(0);
    for (ptrdiff_t j = 0; j < n; j += BLOCK) {
        const ptrdiff_t count = n - j < BLOCK ? n - j : BLOCK;
        FN(load_block)(z + j, count, -REAL_INFINITY, block);
        FN(exp_block)(count, max, block);
        UNROLL for (int i = 0; i < BLOCK_VECTORS; i++) sum[i] += block[i];
        if (e)
            FN(store_block)(e + j, count, block);
    }
    return FN(tree_sum)(sum);
}

/* Divided, not multiplied by a reciprocal: a row of equal logits is exactly 1/n. */
static void FN(rows_softmax)(ptrdiff_t m, ptrdiff_t n, const REAL *z, ptrdiff_t ld_z, REAL *a, ptrdiff_t ld_a)
{
    for (; m > 0; m--, z += ld_z, a += ld_a) {
        if (n <= BLOCK) { /* nothing but the result goes to memory */
            vec e[BLOCK_VECTORS];
            REAL max, sum;
            FN(exp_short_row)(n, z, e, &max, &sum);
            UNROLL for (int i = 0; i < BLOCK_VECTORS; i++) e[i] = e[i] / sum;
            FN(store_block)(a, n, e);
            continue;
        }
        const REAL sum = FN(exp_row)(n, z, row_max(n, z), a);
        ptrdiff_t j = 0;
        for (; j + LANES <= n; j += LANES) vec_store(a + j, vec_load(a + j) / sum);
        if (j < n)
            vec_store_part(a + j, vec_load_part(a + j, n - j) / sum, n - j);
    }
}

/* dz = a (da - sum(da a)). */
static void FN(rows_backward_softmax)(ptrdiff_t m, ptrdiff_t n, const REAL *a, ptrdiff_t ld_a, const REAL *da,
                                      ptrdiff_t ld_da, REAL *dz, ptrdiff_t ld_dz)
{
    for (; m > 0; m--, a += ld_a, da += ld_da, dz += ld_dz) {
        vec sum[BLOCK_VECTORS], left[BLOCK_VECTORS], right[BLOCK_VECTORS];
        UNROLL for (int i = 0; i < BLOCK_VECTORS; i++) sum[i] = vec_set(0);
        for (ptrdiff_t j = 0; j < n; j += BLOCK) {
            FN(load_block)(a + j, n - j, 0, left);
            FN(load_block)(da + j, n - j, 0, right);
            UNROLL for (int i = 0; i < BLOCK_VECTORS; i++) sum[i] = vec_fma(left[i], right[i], sum[i]);
        }
        const vec dot = vec_set(FN(tree_sum)(sum));
        for (ptrdiff_t j = 0; j < n; j += BLOCK) {
            FN(load_block)(a + j, n - j, 0, left);
            FN(load_block)(da + j, n - j, 0, right);
            UNROLL for (int i = 0; i < BLOCK_VECTORS; i++) right[i] = left[i] * (right[i] - dot);
            FN(store_block)(dz + j, n - j, right);
        }
    }
}

/* One logarithm for a number, the same as in a vector of them. */
INLINE REAL FN(log_of)(REAL x)
{
    return vec_log(vec_set(x))[0];
}

static void FN(rows_log_softmax)(ptrdiff_t m, ptrdiff_t n, const REAL *z, ptrdiff_t ld_z, REAL *a, ptrdiff_t ld_a)
{
    for (; m > 0; m--, z += ld_z, a += ld_a) {
        const REAL max = row_max(n, z), log_sum = FN(log_of)(FN(exp_row)(n, z, max, NULL));
        ptrdiff_t j = 0;
        for (; j + LANES <= n; j += LANES) vec_store(a + j, (vec_load(z + j) - max) - log_sum);
        if (j < n)
            vec_store_part(a + j, (vec_load_part(z + j, n - j) - max) - log_sum, n - j);
    }
}

/* dz = da - exp(a) sum(da). */
static void FN(rows_backward_log_softmax)(ptrdiff_t m, ptrdiff_t n, const REAL *a, ptrdiff_t ld_a, const REAL *da,
                                          ptrdiff_t ld_da, REAL *dz, ptrdiff_t ld_dz)
{
    for (; m > 0; m--, a += ld_a, da += ld_da, dz += ld_dz) {
        const vec minus_sum = vec_set(-row_sum(n, da));
        ptrdiff_t j = 0;
        for (; j + LANES <= n; j += LANES)
            vec_store(dz + j, vec_fma(vec_exp(vec_load(a + j)), minus_sum, vec_load(da + j)));
        if (j < n) {
            const vec rest = vec_exp(vec_load_part(a + j, n - j));
            vec_store_part(dz + j, vec_fma(rest, minus_sum, vec_load_part(da + j, n - j)), n - j);
        }
    }
}

/* ---------------------------------------------------------------- the table's functions */

#define DEFINE_elementwise(name) DEFINE_ELEMENTWISE(name)
#define DEFINE_from_input(name) DEFINE_FROM_INPUT(name)
#define DEFINE_rowwise(name) /* written out above */
#define DEFINE_ACTIVATION(name, kind) DEFINE_##kind(name)
FASTNN_ACTIVATIONS(DEFINE_ACTIVATION)
#undef DEFINE_ACTIVATION
#undef DEFINE_rowwise
#undef DEFINE_from_input
#undef DEFINE_elementwise
#undef DEFINE_FROM_INPUT
#undef DEFINE_ELEMENTWISE

static void FN(activation)(int activation, ptrdiff_t m, ptrdiff_t n, const void *z_, ptrdiff_t ld_z, void *a_,
                           ptrdiff_t ld_a)
{
    const REAL *z = z_;
    REAL *a = a_;
#define CASE(name, kind) \
    case FASTNN_##name: FN(rows_##name)(m, n, z, ld_z, a, ld_a); return;
    switch (activation) { FASTNN_ACTIVATIONS(CASE) }
#undef CASE
}

static void FN(activation_and_slope)(int activation, ptrdiff_t m, ptrdiff_t n, const void *z_, ptrdiff_t ld_z,
                                     void *a_, ptrdiff_t ld_a, void *slope_, ptrdiff_t ld_slope)
{
    const REAL *z = z_;
    REAL *a = a_, *slope = slope_;
#define CASE_elementwise(name)
#define CASE_rowwise(name)
#define CASE_from_input(name) \
    case FASTNN_##name: FN(rows_both_##name)(m, n, z, ld_z, a, ld_a, slope, ld_slope); return;
#define CASE(name, kind) CASE_##kind(name)
    switch (activation) { FASTNN_ACTIVATIONS(CASE) }
#undef CASE
#undef CASE_from_input
#undef CASE_rowwise
#undef CASE_elementwise
}

static void FN(activation_backward)(int activation, ptrdiff_t m, ptrdiff_t n, const void *a_, ptrdiff_t ld_a,
                                    const void *da_, ptrdiff_t ld_da, void *dz_, ptrdiff_t ld_dz)
{
    const REAL *a = a_, *da = da_;
    REAL *dz = dz_;
#define CASE(name, kind) \
    case FASTNN_##name: FN(rows_backward_##name)(m, n, a, ld_a, da, ld_da, dz, ld_dz); return;
    switch (activation) { FASTNN_ACTIVATIONS(CASE) }
#undef CASE
}

#define DEFINE_VECTOR_FUNCTION(name)                                                                  \
    static void FN(name##_n)(ptrdiff_t n, const void *x_, void *out_)                                 \
    {                                                                                                 \
        const REAL *x = x_;                                                                           \
        REAL *out = out_;                                                                             \
        ptrdiff_t j = 0;                                                                              \
        for (; j + LANES <= n; j += LANES) vec_store(out + j, FN(vec_##name)(vec_load(x + j)));       \
        if (j < n)                                                                                    \
            vec_store_part(out + j, FN(vec_##name)(vec_load_part(x + j, n - j)), n - j);              \
    }
DEFINE_VECTOR_FUNCTION(exp)
DEFINE_VECTOR_FUNCTION(log)
DEFINE_VECTOR_FUNCTION(log1p)
DEFINE_VECTOR_FUNCTION(tanh)
DEFINE_VECTOR_FUNCTION(sigmoid)
#undef DEFINE_VECTOR_FUNCTION
