/* Losses of values that take numbers: each output counts alone, and a row's loss is the mean over its outputs. Of
 * every loss one function gives the loss of outputs z with targets y, and *gradient, its derivative; `each` holds the
 * outputs' own numbers where the loss has some. p is a copy that nothing else points to, so that its numbers are
 * taken out of the loops. */

/* 1, 0 or -1 as d is positive, zero or negative: the derivative of |d|, and 0 at its kink as PyTorch has it. */
INLINE vec FN(slope_of_size)(vec d)
{
    const vec zero = vec_set(0);
    return vec_where(zero, less, d, vec_set(1), vec_where(d, less, zero, vec_set(-1), d));
}

INLINE vec FN(mae_terms)(const fastnn_loss *p, vec z, vec y, vec each, vec *gradient)
{
    (void)p, (void)each;
    const vec d = z - y;
    *gradient = FN(slope_of_size)(d);
    return vec_abs(d);
}

INLINE vec FN(huber_terms)(const fastnn_loss *p, vec z, vec y, vec each, vec *gradient)
{
    (void)each;
    const vec d = z - y, size = vec_abs(d), delta = vec_set((REAL)p->delta), half = vec_set((REAL)0.5);
    *gradient = vec_where(delta, less, size, delta * FN(slope_of_size)(d), d);
    return vec_where(delta, less, size, delta * (size - half * delta), half * d * d);
}

/* log(cosh(d)): |d| + log(1 + exp(-2|d|)) - log(2) cancels near 0, where 1/2 log(1 + sinh^2(d)) is taken with
 * sinh^2 = t^2 / (1 - t^2), t = tanh(d). One logarithm serves both. */
INLINE vec FN(log_cosh_terms)(const fastnn_loss *p, vec z, vec y, vec each, vec *gradient)
{
    (void)p, (void)each;
    const vec d = z - y, size = vec_abs(d), t = vec_tanh(d), square = t * t, edge = vec_set((REAL)0.75);
    const vec above = vec_where(size, less, edge, square / (1 - square), vec_exp(-2 * size));
    const vec log = vec_log1p(above);
    *gradient = t;
    return vec_where(size, less, edge, (REAL)0.5 * log, size + (log - (REAL)0.693147180559945309417));
}

/* Pinball: each is the quantile q; q (y - z) above the prediction, (1 - q) (z - y) below it. */
INLINE vec FN(quantile_terms)(const fastnn_loss *p, vec z, vec y, vec each, vec *gradient)
{
    (void)p;
    const vec d = z - y, zero = vec_set(0);
    *gradient = vec_where(zero, less, d, 1 - each, vec_where(d, less, zero, -each, d));
    return vec_where(zero, less, d, (1 - each) * d, -each * d);
}

/* Of counts y and a rate: exp(z), or z itself. full adds Stirling's approximation of log(y!) for y > 1. */
INLINE vec FN(poisson_terms)(const fastnn_loss *p, vec z, vec y, vec each, vec *gradient)
{
    (void)each;
    vec loss;
    if (p->log_input) {
        const vec rate = vec_exp(z);
        *gradient = rate - y;
        loss = rate - y * z;
    } else {
        const vec rate = z + (REAL)p->eps;
        *gradient = 1 - y / rate;
        loss = z - y * vec_log(rate);
    }
    if (p->full) {
        const vec one = vec_set(1), large = vec_where(one, less, y, y, one);
        const vec half_log = (REAL)0.5 * vec_log((REAL)6.28318530717958647693 * large);
        const vec stirling = (large * vec_log(large) - large) + half_log;
        loss += vec_where(one, less, y, stirling, vec_set(0));
    }
    return loss;
}

/* Targets are -1 and 1. */
INLINE vec FN(hinge_terms)(const fastnn_loss *p, vec z, vec y, vec each, vec *gradient)
{
    (void)p, (void)each;
    const vec short_of = 1 - y * z, zero = vec_set(0);
    *gradient = vec_where(zero, less, short_of, -y, zero);
    return vec_max(zero, short_of); /* a NaN is the second and stays */
}

/* each is the weight of a positive target. softplus(z) = max(z, 0) + log(1 + exp(-|z|)), as without weights. */
INLINE vec FN(weighted_binary_cross_entropy_terms)(const fastnn_loss *p, vec z, vec y, vec each, vec *gradient)
{
    (void)p;
    const vec e = vec_exp(-vec_abs(z)), rest = vec_log1p(e), zero = vec_set(0);
    const vec positive = each * y, negative = 1 - y;
    /* negative sigmoid(z) - positive sigmoid(-z) over the common denominator 1 + e */
    const vec of_e = vec_where(z, less, zero, negative, -positive);
    const vec of_one = vec_where(z, less, zero, -positive, negative);
    *gradient = vec_fma(e, of_e, of_one) / (1 + e);
    return positive * (vec_max(zero, -z) + rest) + negative * (vec_max(zero, z) + rest);
}

/* q^gamma for q from 0 to 1. */
INLINE vec FN(focal_power)(const fastnn_loss *p, vec q)
{
    if (p->gamma == 0)
        return vec_set(1);
    if (p->gamma == 1)
        return q;
    return p->gamma == 2 ? q * q : vec_exp((REAL)p->gamma * vec_log(q));
}

/* q^gamma times the cross-entropy, q being what the probability of the target lacks of 1 (Lin et al. 2017). q is a sum
 * of products of sigmoid(z) and sigmoid(-z), which do not cancel. Its derivative is q r, where r is p (1 - p)
 * (1 - 2y) / q; for targets 0 and 1 q drops out of it, so that it may be 0. */
INLINE vec FN(focal_terms)(const fastnn_loss *p, vec z, vec y, vec each, vec *gradient)
{
    (void)each;
    const vec zero = vec_set(0), one = vec_set(1);
    vec slope;
    const vec loss = FN(binary_cross_entropy_terms)(z, y, &slope);
    const vec yes = vec_sigmoid(z), no = vec_sigmoid(-z), not_y = 1 - y;
    const vec q = vec_fma(yes, not_y, no * y);
    const vec soft = yes * no * (not_y - y) / q;
    const vec r = vec_where(y, unequal, zero, vec_where(y, unequal, one, soft, -yes), no);
    const vec alpha = vec_set((REAL)p->alpha), class = p->alpha < 0 ? one : vec_fma(alpha, y, (1 - alpha) * not_y);
    const vec power = class * FN(focal_power)(p, q);
    *gradient = power * vec_fma((REAL)p->gamma * r, loss, slope);
    return power * loss;
}

/* Targets of outputs j .. of a row; `repeat` neighbouring outputs share one. */
INLINE void FN(load_targets)(const REAL *y, ptrdiff_t j, ptrdiff_t count, ptrdiff_t repeat, vec block[BLOCK_VECTORS])
{
    if (repeat <= 1) {
        FN(load_block)(y + j, count, 0, block);
        return;
    }
    REAL targets[BLOCK] = {0};
    for (ptrdiff_t i = 0; i < BLOCK && i < count; i++) targets[i] = y[(j + i) / repeat];
    UNROLL for (int v = 0; v < BLOCK_VECTORS; v++) block[v] = vec_load(targets + v * LANES);
}

/* Lanes of a vector that begins at output j of n. */
INLINE ivec FN(lanes_before)(ptrdiff_t n, ptrdiff_t j)
{
    const ptrdiff_t count = n - j < LANES ? n - j : LANES;
    return LANE_NUMBERS < (ivec){0} + (REAL_BITS)count;
}

/* One output: LANES rows at a time, which gives the same bits. */
#define DEFINE_COLUMN_OF(name)                                                                           \
    static void FN(name##_column)(const FN(loss_call) *c)                                                \
    {                                                                                                    \
        const fastnn_loss p = *c->of;                                                                    \
        const vec each = vec_set(p.each ? *(const REAL *)p.each : 0);                                    \
        REAL zs[LANES] = {0}, ys[LANES] = {0}, factors[LANES] = {0};                                     \
        for (ptrdiff_t first = 0; first < c->m; first += LANES) {                                        \
            const int rows = c->m - first < LANES ? (int)(c->m - first) : LANES;                         \
            for (int l = 0; l < rows; l++) {                                                             \
                zs[l] = c->z[(first + l) * c->ld_z];                                                     \
                ys[l] = c->y[(first + l) * c->ld_y];                                                     \
                factors[l] = FN(row_factor)(c->weight, first + l, c->scale);                             \
            }                                                                                            \
            vec gradient;                                                                                \
            const vec loss = FN(name##_terms)(&p, vec_load(zs), vec_load(ys), each, &gradient);          \
            gradient *= vec_load(factors);                                                               \
            for (int l = 0; l < LANES; l++)                                                              \
                if (l < rows) {                                                                          \
                    c->loss_rows[first + l] = loss[l];                                                   \
                    if (c->dz)                                                                           \
                        c->dz[(first + l) * c->ld_dz] = gradient[l];                                     \
                }                                                                                        \
        }                                                                                                \
    }

#define DEFINE_MEAN_OF(name)                                                                                  \
    DEFINE_COLUMN_OF(name)                                                                                    \
    static void FN(name##_loss)(const FN(loss_call) *c)                                                       \
    {                                                                                                         \
        const fastnn_loss p = *c->of;                                                                         \
        const ptrdiff_t n = c->n, repeat = p.repeat;                                                          \
        const REAL *each = p.each;                                                                            \
        if (n == 1) {                                                                                         \
            FN(name##_column)(c);                                                                             \
            return;                                                                                           \
        }                                                                                                     \
        for (ptrdiff_t i = 0; i < c->m; i++) {                                                                \
            const REAL factor = FN(row_factor)(c->weight, i, c->scale / (double)n);                           \
            const REAL *z = c->z + i * c->ld_z, *y = c->y + i * c->ld_y;                                      \
            vec sum[BLOCK_VECTORS], zs[BLOCK_VECTORS], ys[BLOCK_VECTORS], es[BLOCK_VECTORS],                  \
                gradient[BLOCK_VECTORS];                                                                      \
            UNROLL for (int v = 0; v < BLOCK_VECTORS; v++) sum[v] = es[v] = vec_set(0);                       \
            for (ptrdiff_t j = 0; j < n; j += BLOCK) {                                                        \
                FN(load_block)(z + j, n - j, 0, zs);                                                          \
                FN(load_targets)(y, j, n - j, repeat, ys);                                                    \
                if (each)                                                                                     \
                    FN(load_block)(each + j, n - j, 0, es);                                                   \
                UNROLL for (int v = 0; v < BLOCK_VECTORS; v++)                                                \
                    if (n - j > v * LANES) {                                                                  \
                        const vec terms = FN(name##_terms)(&p, zs[v], ys[v], es[v], &gradient[v]);            \
                        sum[v] += vec_select(FN(lanes_before)(n, j + v * LANES), terms, vec_set(0));          \
                        gradient[v] *= factor;                                                                \
                    } else {                                                                                  \
                        gradient[v] = vec_set(0);                                                             \
                    }                                                                                         \
                if (c->dz)                                                                                    \
                    FN(store_block)(c->dz + i * c->ld_dz + j, n - j, gradient);                               \
            }                                                                                                 \
            c->loss_rows[i] = FN(tree_sum)(sum) / (REAL)n;                                                    \
        }                                                                                                     \
    }

DEFINE_MEAN_OF(mae)
DEFINE_MEAN_OF(huber)
DEFINE_MEAN_OF(log_cosh)
DEFINE_MEAN_OF(quantile)
DEFINE_MEAN_OF(poisson)
DEFINE_MEAN_OF(hinge)
DEFINE_MEAN_OF(weighted_binary_cross_entropy)
DEFINE_MEAN_OF(focal)
#undef DEFINE_MEAN_OF
#undef DEFINE_COLUMN_OF
