/* Losses of logits or values whose outputs count alone, the mean over outputs: those that small_steps takes too. */

/* Loss of outputs z with targets y, and its derivative. Neutral logits of an absent output (with y = 0) give
 * the loss 0: so far left that the exponential is 0. */
#define NEUTRAL_binary_cross_entropy -1000
INLINE vec FN(binary_cross_entropy_terms)(vec z, vec y, vec *gradient)
{
    const vec e = vec_exp(-vec_abs(z));
    /* sigmoid(z) - y over the common denominator 1 + e: where y is 0 or 1, nothing cancels. */
    const vec not_y = 1 - y, zero = vec_set(0);
    const vec of_e = vec_where(z, less, zero, not_y, -y), of_one = vec_where(z, less, zero, -y, not_y);
    *gradient = vec_fma(e, of_e, of_one) / (1 + e);
    return vec_fma(-z, y, vec_max(zero, z)) + vec_log1p(e);
}

#define NEUTRAL_mse 0
INLINE vec FN(mse_terms)(vec z, vec y, vec *gradient)
{
    const vec d = z - y;
    *gradient = d + d;
    return d * d;
}

/* Mean over the n outputs in blocks, as row_sum; one output: LANES rows at a time, which gives the same bits
 * (its sum would be that one number). */
#define DEFINE_VALUES_LOSS(name)                                                                             \
    static void FN(name)(ptrdiff_t m, ptrdiff_t n, const REAL *z, ptrdiff_t ld_z, const REAL *y,             \
                         ptrdiff_t ld_y, const double *weight, double scale, double *loss_rows, REAL *dz,    \
                         ptrdiff_t ld_dz)                                                                    \
    {                                                                                                        \
        if (n == 1) {                                                                                        \
            FN(name##_one_output)(m, z, ld_z, y, ld_y, weight, scale, loss_rows, dz, ld_dz);                 \
            return;                                                                                          \
        }                                                                                                    \
        for (ptrdiff_t i = 0; i < m; i++, z += ld_z, y += ld_y) {                                            \
            const REAL factor = FN(row_factor)(weight, i, scale / (double)n);                                \
            vec sum[BLOCK_VECTORS], zs[BLOCK_VECTORS], ys[BLOCK_VECTORS], gradient[BLOCK_VECTORS];           \
            UNROLL for (int v = 0; v < BLOCK_VECTORS; v++) sum[v] = vec_set(0);                              \
            for (ptrdiff_t j = 0; j < n; j += BLOCK) {                                                       \
                FN(load_block)(z + j, n - j, NEUTRAL_##name, zs);                                            \
                FN(load_block)(y + j, n - j, 0, ys);                                                         \
                UNROLL for (int v = 0; v < BLOCK_VECTORS; v++)                                               \
                    if (n - j > v * LANES) {                                                                 \
                        sum[v] += FN(name##_terms)(zs[v], ys[v], &gradient[v]);                              \
                        gradient[v] *= factor;                                                               \
                    } else {                                                                                 \
                        gradient[v] = vec_set(0);                                                            \
                    }                                                                                        \
                if (dz)                                                                                      \
                    FN(store_block)(dz + i * ld_dz + j, n - j, gradient);                                    \
            }                                                                                                \
            loss_rows[i] = FN(tree_sum)(sum) / (REAL)n;                                                      \
        }                                                                                                    \
    }

#define DEFINE_ONE_OUTPUT(name)                                                                              \
    static void FN(name##_one_output)(ptrdiff_t m, const REAL *z, ptrdiff_t ld_z, const REAL *y,             \
                                      ptrdiff_t ld_y, const double *weight, double scale,                    \
                                      double *loss_rows, REAL *dz, ptrdiff_t ld_dz)                          \
    {                                                                                                        \
        REAL zs[LANES] = {0}, ys[LANES] = {0}, factors[LANES] = {0};                                         \
        for (ptrdiff_t first = 0; first < m; first += LANES) {                                               \
            const int rows = m - first < LANES ? (int)(m - first) : LANES;                                   \
            for (int l = 0; l < rows; l++) {                                                                 \
                zs[l] = z[(first + l) * ld_z];                                                               \
                ys[l] = y[(first + l) * ld_y];                                                               \
                factors[l] = FN(row_factor)(weight, first + l, scale);                                       \
            }                                                                                                \
            vec gradient;                                                                                    \
            const vec loss = FN(name##_terms)(vec_load(zs), vec_load(ys), &gradient);                        \
            gradient *= vec_load(factors);                                                                   \
            for (int l = 0; l < LANES; l++)                                                                  \
                if (l < rows) {                                                                              \
                    loss_rows[first + l] = loss[l];                                                          \
                    if (dz)                                                                                  \
                        dz[(first + l) * ld_dz] = gradient[l];                                               \
                }                                                                                            \
        }                                                                                                    \
    }

/* LANES rows across, as cross_entropy_columns: output j has its targets at y + j ld_y. The neutral terms of absent
 * outputs are zeros, which the tree may leave out. */
#define DEFINE_VALUES_COLUMNS(name)                                                                             \
    static vec FN(name##_columns)(ptrdiff_t n, vec e[BLOCK], const REAL *y, ptrdiff_t ld_y, vec factor)         \
    {                                                                                                           \
        vec terms[BLOCK], sum;                                                                                  \
        if (n < 1)                                                                                              \
            __builtin_unreachable();                                                                            \
        for (ptrdiff_t j = 0; j < n; j++) {                                                                     \
            vec gradient;                                                                                       \
            terms[j] = vec_set(0) + FN(name##_terms)(e[j], vec_load(y + j * ld_y), &gradient);                  \
            e[j] = gradient * factor;                                                                           \
        }                                                                                                       \
        TURNED_TREE(sum, n, terms, SUM_OF);                                                                     \
        return sum / (REAL)n;                                                                                   \
    }

/* One row of at most BLOCK outputs whose z, y and dz are whole blocks of memory; y is 0 from n on. No tail is read or
 * written under a mask: what was stored so has to reach the cache before it can be read. */
#define DEFINE_VALUES_SHORT(name)                                                                               \
    INLINE REAL FN(name##_short)(ptrdiff_t n, const REAL *z, const REAL *y, REAL factor, REAL *dz)              \
    {                                                                                                           \
        vec sum[BLOCK_VECTORS];                                                                                 \
        UNROLL for (int v = 0; v < BLOCK_VECTORS; v++) {                                                        \
            const ivec here = LANE_NUMBERS < (ivec){0} + (REAL_BITS)(n - v * LANES);                            \
            vec gradient;                                                                                       \
            sum[v] = vec_set(0) + FN(name##_terms)(vec_select(here, vec_load(z + v * LANES), vec_set(NEUTRAL_##name)), \
                                                   vec_load(y + v * LANES), &gradient);                         \
            vec_store(dz + v * LANES, gradient * factor);                                                       \
        }                                                                                                       \
        return FN(short_tree_sum)(n, sum) / (REAL)n;                                                            \
    }

#define DEFINE_LOSS(name) \
    DEFINE_VALUES_COLUMNS(name) DEFINE_VALUES_SHORT(name) DEFINE_ONE_OUTPUT(name) DEFINE_VALUES_LOSS(name)
DEFINE_LOSS(binary_cross_entropy)
DEFINE_LOSS(mse)
#undef DEFINE_LOSS
#undef DEFINE_VALUES_LOSS
#undef DEFINE_ONE_OUTPUT
#undef DEFINE_VALUES_COLUMNS
#undef DEFINE_VALUES_SHORT
#undef TURNED_TREE
