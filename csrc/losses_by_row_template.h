/* Losses whose outputs count together, a row at a time. */

/* Cross-entropy of logits and a distribution t over the outputs: sum of t (log(total) + max - z), every term of which
 * is no less than 0. t: the targets y, or 1 at the label, mixed with the even distribution by smoothing; with
 * entropy, t log(t) is added: the Kullback-Leibler divergence. */
INLINE void FN(distribution_block)(const FN(loss_call) *c, ptrdiff_t i, ptrdiff_t j, vec t[BLOCK_VECTORS])
{
    const REAL kept = (REAL)(1 - c->of->smoothing), even = (REAL)(c->of->smoothing / (double)c->n);
    if (!c->labels)
        FN(load_block)(c->y + i * c->ld_y + j, c->n - j, 0, t);
    UNROLL for (int v = 0; v < BLOCK_VECTORS; v++) {
        const ptrdiff_t first = j + v * LANES;
        if (c->labels) {
            const ivec here = LANE_NUMBERS == (ivec){0} + (REAL_BITS)((ptrdiff_t)c->labels[i] - first);
            t[v] = (vec)(here & (ivec)vec_set(1));
        }
        if (c->of->smoothing != 0)
            t[v] = vec_select(FN(lanes_before)(c->n, first), vec_fma(vec_set(kept), t[v], vec_set(even)), vec_set(0));
    }
}

static void FN(distribution_loss)(const FN(loss_call) *c, int entropy)
{
    const ptrdiff_t n = c->n;
    vec t[BLOCK_VECTORS] = {{0}}, e[BLOCK_VECTORS] = {{0}}, apart[BLOCK_VECTORS], mass[BLOCK_VECTORS];
    for (ptrdiff_t i = 0; i < c->m; i++) {
        const REAL *z = c->z + i * c->ld_z, factor = FN(row_factor)(c->weight, i, c->scale);
        REAL *dz = c->dz ? c->dz + i * c->ld_dz : NULL, max = row_max(n, z), total;
        UNROLL for (int v = 0; v < BLOCK_VECTORS; v++) apart[v] = mass[v] = vec_set(0);
        for (ptrdiff_t j = 0; j < n; j += BLOCK) { /* before dz may overwrite z */
            FN(distribution_block)(c, i, j, t);
            FN(load_block)(z + j, n - j, 0, e);
            UNROLL for (int v = 0; v < BLOCK_VECTORS; v++) {
                vec terms = t[v] * (max - e[v]);
                if (entropy)
                    terms += vec_where(t[v], unequal, vec_set(0), t[v] * vec_log(t[v]), vec_set(0));
                apart[v] += vec_select(FN(lanes_before)(n, j + v * LANES), terms, vec_set(0));
                mass[v] += t[v];
            }
        }
        const REAL sum_of_t = c->labels ? 1 : FN(tree_sum)(mass);
        if (n <= BLOCK)
            FN(exp_short_row)(n, z, e, &max, &total);
        else
            total = FN(exp_row)(n, z, max, dz);
        c->loss_rows[i] = FN(tree_sum)(apart) + sum_of_t * FN(log_of)(total);
        for (ptrdiff_t j = 0; dz && j < n; j += BLOCK) {
            FN(distribution_block)(c, i, j, t);
            if (n > BLOCK)
                FN(load_block)(dz + j, n - j, 0, e);
            UNROLL for (int v = 0; v < BLOCK_VECTORS; v++) e[v] = (e[v] / total * sum_of_t - t[v]) * factor;
            FN(store_block)(dz + j, n - j, e);
        }
    }
}

static void FN(kl_divergence_loss)(const FN(loss_call) *c)
{
    FN(distribution_loss)(c, 1);
}

/* Sum over the other outputs of max(0, margin - z[label] + z)^p, divided by n as PyTorch has it. */
static void FN(multi_margin_loss)(const FN(loss_call) *c)
{
    const ptrdiff_t n = c->n;
    const REAL margin = (REAL)c->of->margin;
    const int squared = c->of->p == 2;
    const vec zero = vec_set(0), one = vec_set(1);
    vec zs[BLOCK_VECTORS], sum[BLOCK_VECTORS], slopes[BLOCK_VECTORS];
    for (ptrdiff_t i = 0; i < c->m; i++) {
        const ptrdiff_t label = (ptrdiff_t)c->labels[i];
        const REAL *z = c->z + i * c->ld_z, chosen = z[label];
        const REAL factor = FN(row_factor)(c->weight, i, c->scale / (double)n);
        REAL *dz = c->dz ? c->dz + i * c->ld_dz : NULL;
        UNROLL for (int v = 0; v < BLOCK_VECTORS; v++) sum[v] = slopes[v] = zero;
        for (ptrdiff_t j = 0; j < n; j += BLOCK) {
            FN(load_block)(z + j, n - j, 0, zs);
            UNROLL for (int v = 0; v < BLOCK_VECTORS; v++) {
                const ptrdiff_t first = j + v * LANES;
                const ivec others = LANE_NUMBERS != (ivec){0} + (REAL_BITS)(label - first);
                const vec over = vec_max(zero, (margin - chosen) + zs[v]); /* a NaN is the second and stays */
                const vec slope = squared ? over + over : vec_where(zero, less, over, one, zero);
                const ivec counted = others & FN(lanes_before)(n, first);
                sum[v] += vec_select(counted, squared ? over * over : over, zero);
                zs[v] = vec_select(counted, slope, zero);
                slopes[v] += zs[v];
                zs[v] *= factor;
            }
            if (dz)
                FN(store_block)(dz + j, n - j, zs);
        }
        /* NaN where the label's logit is infinite or NaN: the sum would hide infinity, and of one output everything. */
        c->loss_rows[i] = FN(tree_sum)(sum) / (REAL)n + (chosen - chosen);
        if (dz)
            dz[label] = -FN(tree_sum)(slopes) * factor;
    }
}

/* q^gamma times the cross-entropy of a label, q being what its probability p lacks of 1: the share of the other outputs,
 * whose sum does not cancel. The gradient is that of the cross-entropy, p_j or -q, times q^gamma (1 + gamma p h / q), h
 * being the cross-entropy; h / q goes to 1 with q. */
static void FN(softmax_focal_loss)(const FN(loss_call) *c)
{
    const ptrdiff_t n = c->n;
    const vec zero = vec_set(0);
    vec e[BLOCK_VECTORS], sum[BLOCK_VECTORS];
    for (ptrdiff_t i = 0; i < c->m; i++) {
        const ptrdiff_t label = (ptrdiff_t)c->labels[i];
        const REAL *z = c->z + i * c->ld_z, chosen = z[label], max = row_max(n, z);
        REAL *dz = c->dz ? c->dz + i * c->ld_dz : NULL;
        UNROLL for (int v = 0; v < BLOCK_VECTORS; v++) sum[v] = zero;
        for (ptrdiff_t j = 0; j < n; j += BLOCK) {
            FN(load_block)(z + j, n - j, 0, e);
            UNROLL for (int v = 0; v < BLOCK_VECTORS; v++) {
                const ptrdiff_t first = j + v * LANES;
                const ivec others = LANE_NUMBERS != (ivec){0} + (REAL_BITS)(label - first);
                sum[v] += vec_select(others & FN(lanes_before)(n, first), vec_exp(e[v] - max), zero);
            }
        }
        const REAL rest = FN(tree_sum)(sum), own = vec_exp(vec_set(chosen - max))[0], total = rest + own;
        const REAL q = rest / total;
        /* of the largest output the logarithm of 1 + rest, which keeps a small rest */
        const REAL cross = chosen == max ? vec_log1p(vec_set(rest))[0] : FN(log_of)(total) + (max - chosen);
        const REAL power = FN(focal_power)(c->of, vec_set(q))[0];
        const REAL steep = 1 + (REAL)c->of->gamma * (own / total) * (q == 0 ? 1 : cross / q);
        const REAL factor = power * steep * FN(row_factor)(c->weight, i, c->scale);
        /* NaN where the label's logit is infinite or NaN, which one output alone would hide. */
        c->loss_rows[i] = power * cross + (chosen - chosen);
        for (ptrdiff_t j = 0; dz && j < n; j += BLOCK) { /* reads a block before dz may overwrite it */
            FN(load_block)(z + j, n - j, 0, e);
            UNROLL for (int v = 0; v < BLOCK_VECTORS; v++) e[v] = vec_exp(e[v] - max) / total * factor;
            FN(store_block)(dz + j, n - j, e);
        }
        if (dz)
            dz[label] = -q * factor;
    }
}

/* Means and, in the second half of the outputs, logarithms of variances: 1/2 (log(v) + (z - y)^2 / v) with
 * v = max(exp(s), eps). As in PyTorch the clamp does not take part in the gradient, which is that of exp(s) taken at
 * v. */
static void FN(gaussian_nll_loss)(const FN(loss_call) *c)
{
    const ptrdiff_t n = c->n / 2;
    const vec half = vec_set((REAL)0.5), zero = vec_set(0);
    const vec least = vec_set((REAL)c->of->eps), log_least = vec_log(least);
    const REAL constant = c->of->full ? (REAL)0.918938533204672741780 : 0; /* log(2 pi) / 2 */
    vec zs[BLOCK_VECTORS], ys[BLOCK_VECTORS], ss[BLOCK_VECTORS], sum[BLOCK_VECTORS];
    for (ptrdiff_t i = 0; i < c->m; i++) {
        const REAL *z = c->z + i * c->ld_z, *y = c->y + i * c->ld_y;
        const REAL factor = FN(row_factor)(c->weight, i, c->scale / (double)n);
        REAL *dz = c->dz ? c->dz + i * c->ld_dz : NULL;
        UNROLL for (int v = 0; v < BLOCK_VECTORS; v++) sum[v] = zero;
        for (ptrdiff_t j = 0; j < n; j += BLOCK) {
            FN(load_block)(z + j, n - j, 0, zs);
            FN(load_block)(z + n + j, n - j, 0, ss);
            FN(load_block)(y + j, n - j, 0, ys);
            UNROLL for (int v = 0; v < BLOCK_VECTORS; v++) {
                const vec given = vec_exp(ss[v]), d = zs[v] - ys[v];
                const vec variance = vec_where(given, less, least, least, given);
                const vec share = vec_where(given, less, least, given / least, vec_set(1)); /* of exp(s) in v */
                const vec log = vec_where(given, less, least, log_least, ss[v]);
                const vec slope = d / variance, square = d * slope;
                sum[v] += vec_select(FN(lanes_before)(n, j + v * LANES), half * (log + square), zero);
                zs[v] = slope * factor;
                ss[v] = half * (1 - square) * share * factor;
            }
            if (dz) {
                FN(store_block)(dz + j, n - j, zs);
                FN(store_block)(dz + n + j, n - j, ss);
            }
        }
        c->loss_rows[i] = FN(tree_sum)(sum) / (REAL)n + constant;
    }
}
