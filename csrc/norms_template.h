/* Layers that normalise, and PReLU. Sums over a row have the fixed shape of row_sum, sums over a batch that of
 * sum_rows: row i goes to partial sum i % 4. */

INLINE vec FN(load_up_to)(const REAL *p, ptrdiff_t count)
{
    return count >= LANES ? vec_load(p) : vec_load_part(p, count);
}

INLINE void FN(store_up_to)(REAL *p, vec v, ptrdiff_t count)
{
    if (count >= LANES)
        vec_store(p, v);
    else
        vec_store_part(p, v, count);
}

INLINE REAL FN(root)(REAL x)
{
    return vec_sqrt(vec_set(x))[0];
}

/* body for each row i, q being i % 4 and known to the compiler: partial sums stay in registers. */
#define BY_FOUR_ROWS(m, i, q, body)                                       \
    for (ptrdiff_t block_ = 0; block_ < (m); block_ += 4)                 \
        UNROLL for (int q = 0; q < 4; q++) {                              \
            const ptrdiff_t i = block_ + q;                               \
            if (i < (m))                                                  \
                body                                                      \
        }

/* ---------------------------------------------------------------- by rows: LayerNorm, RMSNorm */

/* Sum of (x - mean)^2 of a row. */
static REAL FN(row_squares)(ptrdiff_t n, const REAL *x, REAL mean)
{
    vec sum[BLOCK_VECTORS], block[BLOCK_VECTORS];
    UNROLL for (int i = 0; i < BLOCK_VECTORS; i++) sum[i] = vec_set(0);
    for (ptrdiff_t j = 0; j < n; j += BLOCK) {
        FN(load_block)(x + j, n - j, mean, block);
        UNROLL for (int i = 0; i < BLOCK_VECTORS; i++) {
            block[i] = block[i] - mean;
            sum[i] = vec_fma(block[i], block[i], sum[i]);
        }
    }
    return FN(tree_sum)(sum);
}

static void FN(norm_rows)(ptrdiff_t m, ptrdiff_t n, int centred, double eps, const void *gamma_, const void *beta_,
                          const void *x_, ptrdiff_t ld_x, void *a_, ptrdiff_t ld_a, void *stats_)
{
    const REAL *x = x_, *gamma = gamma_, *beta = beta_;
    REAL *a = a_, *stats = stats_;
    for (; m > 0; m--, x += ld_x, a += ld_a) {
        const REAL mean = centred ? row_sum(n, x) / (REAL)n : 0;
        const REAL scale = 1 / FN(root)(FN(row_squares)(n, x, mean) / (REAL)n + (REAL)eps);
        for (ptrdiff_t j = 0; j < n; j += LANES) {
            vec v = (FN(load_up_to)(x + j, n - j) - mean) * scale;
            if (beta)
                v = vec_fma(v, FN(load_up_to)(gamma + j, n - j), FN(load_up_to)(beta + j, n - j));
            else if (gamma)
                v = v * FN(load_up_to)(gamma + j, n - j);
            FN(store_up_to)(a + j, v, n - j);
        }
        if (stats) {
            stats[0] = mean;
            stats[1] = scale;
            stats += 2;
        }
    }
}

/* With g = gamma d and h = (x - mean) scale: dx = scale (g - mean(g) - h mean(g h)); without the first mean where
 * nothing is centred. */
static void FN(norm_rows_backward)(ptrdiff_t m, ptrdiff_t n, int centred, const void *gamma_, const void *x_,
                                   ptrdiff_t ld_x, const void *stats_, const void *d_, ptrdiff_t ld_d, void *dx_,
                                   ptrdiff_t ld_dx)
{
    const REAL *x = x_, *gamma = gamma_, *d = d_, *stats = stats_;
    REAL *dx = dx_;
    for (; m > 0; m--, x += ld_x, d += ld_d, dx += ld_dx, stats += 2) {
        const REAL mean = stats[0], scale = stats[1];
        vec sum[BLOCK_VECTORS], dot[BLOCK_VECTORS], g[BLOCK_VECTORS], h[BLOCK_VECTORS];
        UNROLL for (int i = 0; i < BLOCK_VECTORS; i++) sum[i] = dot[i] = vec_set(0);
        for (ptrdiff_t j = 0; j < n; j += BLOCK) {
            FN(load_block)(d + j, n - j, 0, g);
            if (gamma) {
                FN(load_block)(gamma + j, n - j, 0, h);
                UNROLL for (int i = 0; i < BLOCK_VECTORS; i++) g[i] = g[i] * h[i];
            }
            FN(load_block)(x + j, n - j, mean, h);
            UNROLL for (int i = 0; i < BLOCK_VECTORS; i++) {
                sum[i] += g[i];
                dot[i] = vec_fma(g[i], (h[i] - mean) * scale, dot[i]);
            }
        }
        const vec mean_g = vec_set(centred ? FN(tree_sum)(sum) / (REAL)n : 0);
        const vec mean_gh = vec_set(FN(tree_sum)(dot) / (REAL)n);
        for (ptrdiff_t j = 0; j < n; j += LANES) {
            vec v = FN(load_up_to)(d + j, n - j);
            if (gamma)
                v = v * FN(load_up_to)(gamma + j, n - j);
            const vec t = (FN(load_up_to)(x + j, n - j) - mean) * scale;
            FN(store_up_to)(dx + j, vec_fma(-t, mean_gh, v - mean_g) * scale, n - j);
        }
    }
}

static void FN(norm_rows_gradient)(ptrdiff_t m, ptrdiff_t n, const void *x_, ptrdiff_t ld_x, const void *stats_,
                                   const void *d_, ptrdiff_t ld_d, void *dgamma_)
{
    const REAL *x = x_, *stats = stats_, *d = d_;
    REAL *dgamma = dgamma_;
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        vec s[4] = {vec_set(0), vec_set(0), vec_set(0), vec_set(0)};
        BY_FOUR_ROWS(m, i, q, {
            const vec h = (FN(load_up_to)(x + i * ld_x + j, n - j) - stats[2 * i]) * stats[2 * i + 1];
            s[q] = vec_fma(FN(load_up_to)(d + i * ld_d + j, n - j), h, s[q]);
        })
        FN(store_up_to)(dgamma + j, (s[0] + s[1]) + (s[2] + s[3]), n - j);
    }
}

/* ---------------------------------------------------------------- by columns: BatchNorm */

static void FN(column_moments)(ptrdiff_t m, ptrdiff_t n, const void *x_, ptrdiff_t ld_x, void *mean_, void *var_)
{
    const REAL *x = x_;
    REAL *mean = mean_, *var = var_;
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        vec s[4] = {vec_set(0), vec_set(0), vec_set(0), vec_set(0)};
        BY_FOUR_ROWS(m, i, q, { s[q] += FN(load_up_to)(x + i * ld_x + j, n - j); })
        const vec centre = ((s[0] + s[1]) + (s[2] + s[3])) / (REAL)m;
        UNROLL for (int q = 0; q < 4; q++) s[q] = vec_set(0);
        BY_FOUR_ROWS(m, i, q, {
            const vec v = FN(load_up_to)(x + i * ld_x + j, n - j) - centre;
            s[q] = vec_fma(v, v, s[q]);
        })
        FN(store_up_to)(mean + j, centre, n - j);
        FN(store_up_to)(var + j, ((s[0] + s[1]) + (s[2] + s[3])) / (REAL)m, n - j);
    }
}

/* Columns of one strip, whose numbers stay in registers while the rows go by. */
#define STRIP 4

static void FN(norm_columns)(ptrdiff_t m, ptrdiff_t n, double eps, const void *mean_, const void *var_,
                             const void *gamma_, const void *beta_, int relu, const void *x_, ptrdiff_t ld_x, void *a_,
                             ptrdiff_t ld_a)
{
    const REAL *mean = mean_, *var = var_, *gamma = gamma_, *beta = beta_;
    for (ptrdiff_t first = 0; first < n; first += STRIP * LANES) {
        const REAL *x = (const REAL *)x_ + first;
        REAL *a = (REAL *)a_ + first;
        vec centre[STRIP], scale[STRIP], shift[STRIP];
        UNROLL for (int q = 0; q < STRIP; q++) {
            const ptrdiff_t j = first + q * LANES, rest = n - j;
            centre[q] = scale[q] = shift[q] = vec_set(0);
            if (rest <= 0)
                continue;
            centre[q] = FN(load_up_to)(mean + j, rest);
            scale[q] = 1 / vec_sqrt(FN(load_up_to)(var + j, rest) + (REAL)eps);
            if (gamma) {
                scale[q] = scale[q] * FN(load_up_to)(gamma + j, rest);
                shift[q] = FN(load_up_to)(beta + j, rest);
            }
        }
        if (n - first >= STRIP * LANES) {
            for (ptrdiff_t i = 0; i < m; i++, x += ld_x, a += ld_a)
                UNROLL for (int q = 0; q < STRIP; q++) {
                    const vec v = vec_fma(vec_load(x + q * LANES) - centre[q], scale[q], shift[q]);
                    vec_store(a + q * LANES, relu ? FN(forward_relu)(v) : v);
                }
            continue;
        }
        for (ptrdiff_t i = 0; i < m; i++, x += ld_x, a += ld_a)
            UNROLL for (int q = 0; q < STRIP; q++) {
                const ptrdiff_t rest = n - first - q * LANES;
                if (rest <= 0)
                    break;
                const vec v = vec_fma(FN(load_up_to)(x + q * LANES, rest) - centre[q], scale[q], shift[q]);
                FN(store_up_to)(a + q * LANES, relu ? FN(forward_relu)(v) : v, rest);
            }
    }
}

static void FN(norm_columns_sums)(ptrdiff_t m, ptrdiff_t n, double eps, const void *mean_, const void *var_,
                                  const void *x_, ptrdiff_t ld_x, const void *d_, ptrdiff_t ld_d, void *sum_,
                                  void *dot_)
{
    const REAL *mean = mean_, *var = var_, *x = x_, *d = d_;
    REAL *sum = sum_, *dot = dot_;
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        const ptrdiff_t rest = n - j;
        const vec centre = FN(load_up_to)(mean + j, rest);
        const vec scale = 1 / vec_sqrt(FN(load_up_to)(var + j, rest) + (REAL)eps);
        vec s[4], p[4];
        UNROLL for (int q = 0; q < 4; q++) s[q] = p[q] = vec_set(0);
        BY_FOUR_ROWS(m, i, q, {
            const vec g = FN(load_up_to)(d + i * ld_d + j, rest);
            const vec h = (FN(load_up_to)(x + i * ld_x + j, rest) - centre) * scale;
            s[q] += g;
            p[q] = vec_fma(g, h, p[q]);
        })
        FN(store_up_to)(sum + j, (s[0] + s[1]) + (s[2] + s[3]), rest);
        FN(store_up_to)(dot + j, (p[0] + p[1]) + (p[2] + p[3]), rest);
    }
}

/* dx = gamma scale (d - sum / batch - h dot / batch), h = (x - mean) scale. */
static void FN(norm_columns_backward)(ptrdiff_t batch, ptrdiff_t m, ptrdiff_t n, double eps, const void *mean_,
                                      const void *var_, const void *gamma_, const void *sum_, const void *dot_,
                                      const void *x_, ptrdiff_t ld_x, const void *d_, ptrdiff_t ld_d, void *dx_,
                                      ptrdiff_t ld_dx)
{
    const REAL *mean = mean_, *var = var_, *gamma = gamma_, *sum = sum_, *dot = dot_;
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        const ptrdiff_t rest = n - j;
        const REAL *x = (const REAL *)x_ + j, *d = (const REAL *)d_ + j;
        REAL *dx = (REAL *)dx_ + j;
        const vec centre = FN(load_up_to)(mean + j, rest);
        const vec scale = 1 / vec_sqrt(FN(load_up_to)(var + j, rest) + (REAL)eps);
        const vec factor = gamma ? scale * FN(load_up_to)(gamma + j, rest) : scale;
        const vec mean_d = FN(load_up_to)(sum + j, rest) / (REAL)batch;
        const vec mean_dh = FN(load_up_to)(dot + j, rest) / (REAL)batch;
        for (ptrdiff_t i = 0; i < m; i++, x += ld_x, d += ld_d, dx += ld_dx) {
            const vec h = (FN(load_up_to)(x, rest) - centre) * scale;
            FN(store_up_to)(dx, vec_fma(-h, mean_dh, FN(load_up_to)(d, rest) - mean_d) * factor, rest);
        }
    }
}
#undef STRIP

static void FN(running)(ptrdiff_t n, double momentum, double factor, const void *x_, void *out_)
{
    const REAL *x = x_;
    REAL *out = out_;
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        const vec old = FN(load_up_to)(out + j, n - j) * (REAL)(1 - momentum);
        FN(store_up_to)(out + j, vec_fma(FN(load_up_to)(x + j, n - j) * (REAL)factor, vec_set((REAL)momentum), old),
                        n - j);
    }
}

/* ---------------------------------------------------------------- PReLU */

/* slope: one number, or one a column. */
INLINE vec FN(slopes)(const REAL *slope, int shared, ptrdiff_t j, ptrdiff_t n)
{
    return shared ? vec_set(slope[0]) : FN(load_up_to)(slope + j, n - j);
}

static void FN(prelu)(ptrdiff_t m, ptrdiff_t n, const void *slope_, int shared, const void *z_, ptrdiff_t ld_z,
                      void *a_, ptrdiff_t ld_a)
{
    const REAL *z = z_, *slope = slope_;
    REAL *a = a_;
    for (; m > 0; m--, z += ld_z, a += ld_a)
        for (ptrdiff_t j = 0; j < n; j += LANES) {
            const vec v = FN(load_up_to)(z + j, n - j);
            FN(store_up_to)(a + j, vec_where(vec_set(0), less, v, v, v * FN(slopes)(slope, shared, j, n)), n - j);
        }
}

static void FN(prelu_backward)(ptrdiff_t m, ptrdiff_t n, const void *slope_, int shared, const void *z_,
                               ptrdiff_t ld_z, const void *d_, ptrdiff_t ld_d, void *dz_, ptrdiff_t ld_dz)
{
    const REAL *z = z_, *slope = slope_, *d = d_;
    REAL *dz = dz_;
    for (; m > 0; m--, z += ld_z, d += ld_d, dz += ld_dz)
        for (ptrdiff_t j = 0; j < n; j += LANES) {
            const vec v = FN(load_up_to)(z + j, n - j), g = FN(load_up_to)(d + j, n - j);
            FN(store_up_to)(dz + j, vec_where(vec_set(0), less, v, g, g * FN(slopes)(slope, shared, j, n)), n - j);
        }
}

static void FN(prelu_gradient)(ptrdiff_t m, ptrdiff_t n, int shared, const void *z_, ptrdiff_t ld_z, const void *d_,
                               ptrdiff_t ld_d, void *dslope_)
{
    const REAL *z = z_, *d = d_;
    REAL *dslope = dslope_;
    vec total[BLOCK_VECTORS];
    UNROLL for (int q = 0; q < BLOCK_VECTORS; q++) total[q] = vec_set(0);
    for (ptrdiff_t first = 0; first < n; first += BLOCK)
        UNROLL for (int q = 0; q < BLOCK_VECTORS; q++) {
            const ptrdiff_t j = first + q * LANES, rest = n - j;
            if (rest <= 0)
                break;
            vec s[4] = {vec_set(0), vec_set(0), vec_set(0), vec_set(0)};
            BY_FOUR_ROWS(m, i, q, {
                const vec v = FN(load_up_to)(z + i * ld_z + j, rest);
                const vec g = FN(load_up_to)(d + i * ld_d + j, rest);
                s[q] += vec_where(vec_set(0), less, v, vec_set(0), v * g);
            })
            const vec column = (s[0] + s[1]) + (s[2] + s[3]);
            if (shared)
                total[q] += column;
            else
                FN(store_up_to)(dslope + j, column, rest);
        }
    if (shared)
        dslope[0] = FN(tree_sum)(total);
}
#undef BY_FOUR_ROWS
