/* Vectors as long as the parameters: their products, sums, averages; and the norms of a matrix's columns. */

/* Terms of a sum that is complete in itself; longer ones are sums of these in order. A fixed number: it is part of the
 * result. */
#define DOT_BLOCK FASTNN_DOT_BLOCK

/* Sum of a[i] b[i], in double whatever the real type: a float's square neither overflows nor loses digits. Sixteen
 * sums in turns and their tree, on every instruction set; sums of whole blocks are added in order. */
static double FN(dot)(ptrdiff_t n, const void *a_, const void *b_)
{
    const REAL *a = a_, *b = b_;
    double total = 0;
    for (ptrdiff_t first = 0; first < n; first += DOT_BLOCK) {
        const ptrdiff_t last = n - first < DOT_BLOCK ? n : first + DOT_BLOCK;
        double sums[16] = {0};
        ptrdiff_t i = first;
        for (; i + 16 <= last; i += 16)
            for (int j = 0; j < 16; j++) sums[j] += (double)a[i + j] * (double)b[i + j];
        for (int j = 0; i < last; i++, j++) sums[j] += (double)a[i] * (double)b[i];
        for (int half = 8; half > 0; half /= 2)
            for (int j = 0; j < half; j++) sums[j] += sums[j + half];
        total += sums[0];
    }
    return total;
}

/* Four running sums over rows 0, 4, .., 1, 5, .. and so on, then a tree, as sum_rows has them. */
static void FN(column_squares)(ptrdiff_t m, ptrdiff_t n, const void *w_, ptrdiff_t ld, double *out)
{
    const REAL *w = w_;
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        const ptrdiff_t count = n - j < LANES ? n - j : LANES;
        vec s[4] = {vec_set(0), vec_set(0), vec_set(0), vec_set(0)};
        REAL sums[LANES];
        ptrdiff_t i = 0;
        if (count == LANES) {
            for (; i + 4 <= m; i += 4)
                UNROLL for (int q = 0; q < 4; q++) {
                    const vec v = vec_load(w + (i + q) * ld + j);
                    s[q] = vec_fma(v, v, s[q]);
                }
        } else {
            for (; i + 4 <= m; i += 4)
                UNROLL for (int q = 0; q < 4; q++) {
                    const vec v = vec_load_part(w + (i + q) * ld + j, count);
                    s[q] = vec_fma(v, v, s[q]);
                }
        }
        for (; i < m; i++) {
            const vec v = vec_load_part(w + i * ld + j, count);
            s[i % 4] = vec_fma(v, v, s[i % 4]);
        }
        vec_store(sums, (s[0] + s[1]) + (s[2] + s[3]));
        for (ptrdiff_t q = 0; q < count; q++) out[j + q] = sums[q];
    }
}

/* sum += factor * g. */
static void FN(accumulate)(ptrdiff_t n, double factor, const void *g_, void *sum_)
{
    const REAL *g = g_;
    REAL *sum = sum_;
    const vec f = vec_set((REAL)factor);
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES) vec_store(sum + i, vec_fma(f, vec_load(g + i), vec_load(sum + i)));
    if (i < n)
        vec_store_part(sum + i, vec_fma(f, vec_load_part(g + i, n - i), vec_load_part(sum + i, n - i)), n - i);
}

/* mean += share * (w - mean). */
static void FN(average)(ptrdiff_t n, double share, const void *w_, void *mean_)
{
    const REAL *w = w_;
    REAL *mean = mean_;
    const vec f = vec_set((REAL)share);
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const vec m = vec_load(mean + i);
        vec_store(mean + i, vec_fma(f, vec_load(w + i) - m, m));
    }
    if (i < n) {
        const vec m = vec_load_part(mean + i, n - i);
        vec_store_part(mean + i, vec_fma(f, vec_load_part(w + i, n - i) - m, m), n - i);
    }
}

/* The n numbers of a part of a column, at most a block of 64 bytes of them side by side in m rows. */
INLINE void FN(limit_vector)(ptrdiff_t m, ptrdiff_t count, REAL *w, ptrdiff_t ld, vec most)
{
    vec sum = vec_set(0);
    for (ptrdiff_t i = 0; i < m; i++) {
        const vec v = vec_load_part(w + i * ld, count);
        sum = vec_fma(v, v, sum);
    }
    const vec norm = vec_sqrt(sum), one = vec_set(1);
    /* NaN is not less than or equal to anything: it stays NaN */
    const vec factor = vec_where(norm, less_equal, most, one, most / norm);
    for (ptrdiff_t i = 0; i < m; i++) vec_store_part(w + i * ld, vec_load_part(w + i * ld, count) * factor, count);
}

/* Columns of w (m, n) longer than `most` are scaled to that length; squares are summed in the order of the rows. */
static void FN(limit_columns)(ptrdiff_t m, ptrdiff_t n, double most, void *w_, ptrdiff_t ld)
{
    REAL *w = w_;
    const vec limit = vec_set((REAL)most);
    for (ptrdiff_t j = 0; j < n; j += LANES)
        FN(limit_vector)(m, n - j < LANES ? n - j : LANES, w + j, ld, limit);
}
