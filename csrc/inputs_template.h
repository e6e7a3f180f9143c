/* What happens to inputs before the first product: bytes widened and scaled, categories looked up. */

/* out = factor x + shift, from bytes: exact up to the one rounding of the FMA. */
static void FN(widen)(ptrdiff_t n, const uint8_t *x, double factor, double shift, void *out_)
{
    REAL *out = out_;
    const vec f = vec_set((REAL)factor), s = vec_set((REAL)shift);
    REAL part[LANES];
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        const ptrdiff_t count = n - j < LANES ? n - j : LANES;
        for (ptrdiff_t q = 0; q < LANES; q++) part[q] = q < count ? (REAL)x[j + q] : 0;
        const vec v = vec_fma(f, vec_load(part), s);
        if (count == LANES)
            vec_store(out + j, v);
        else
            vec_store_part(out + j, v, count);
    }
}

static int FN(is_zero)(vec v)
{
    REAL lanes[LANES], total = 0;
    vec_store(lanes, v);
    for (int q = 0; q < LANES; q++) total += lanes[q];
    return total == 0; /* not of NaN */
}

/* Rows of a batch side by side, judged on the way: two passes over them would cost a third more. Rows lie
 * anywhere in x, so that the CPU's own prefetcher starts anew at each; those that follow are asked for ahead. */
static int FN(gather)(ptrdiff_t m, ptrdiff_t n, const void *x_, ptrdiff_t ld_x, ptrdiff_t n_rows, const int64_t *order,
                      void *out_, ptrdiff_t ld_out)
{
    const REAL *x = x_;
    REAL *out = out_;
    const ptrdiff_t ahead = 1 + GATHER_AHEAD_BYTES / (n * (ptrdiff_t)sizeof(REAL) + 64);
    vec sum[4] = {vec_set(0), vec_set(0), vec_set(0), vec_set(0)}; /* NaN times zero and infinity times zero are NaN */
    const vec zero = vec_set(0);
    for (ptrdiff_t i = 0; i < m; i++, out += ld_out) {
        const ptrdiff_t row = order ? (ptrdiff_t)((const volatile int64_t *)order)[i] : i;
        if (row < 0 || row >= n_rows)
            return -1;
        const REAL *from = x + row * ld_x;
        /* of whatever order holds: a prefetch never fails */
        const uintptr_t offset = order && i + ahead < m ? (uintptr_t)order[i + ahead] * (uintptr_t)ld_x : 0;
        const char *next = offset ? (const char *)((uintptr_t)x + offset * sizeof(REAL)) : NULL;
        ptrdiff_t j = 0;
        for (; j + 4 * LANES <= n; j += 4 * LANES) {
            if (next)
                for (size_t line = 0; line < 4 * VECTOR_BYTES; line += 64)
                    __builtin_prefetch(next + (size_t)j * sizeof(REAL) + line);
            UNROLL for (int q = 0; q < 4; q++) {
                const vec v = vec_load(from + j + q * LANES);
                vec_store(out + j + q * LANES, v);
                sum[q] = vec_fma(v, zero, sum[q]);
            }
        }
        if (next)
            for (size_t at = (size_t)j * sizeof(REAL); at < (size_t)n * sizeof(REAL) + 63; at += 64)
                __builtin_prefetch(next + at);
        for (; j + LANES <= n; j += LANES) {
            const vec v = vec_load(from + j);
            vec_store(out + j, v);
            sum[0] = vec_fma(v, zero, sum[0]);
        }
        if (j < n) {
            const vec v = vec_load_part(from + j, n - j);
            vec_store_part(out + j, v, n - j);
            sum[1] = vec_fma(v, zero, sum[1]);
        }
    }
    return FN(is_zero)((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

/* The largest size of n numbers; NaN where one is not finite. */
static double FN(largest)(ptrdiff_t n, const void *x_)
{
    const REAL *x = x_;
    const vec zero = vec_set(0);
    vec most[4] = {zero, zero, zero, zero}, sum[4] = {zero, zero, zero, zero}; /* NaN or infinity times zero is NaN */
    REAL sizes[LANES], found = 0;
    ptrdiff_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES)
        UNROLL for (int q = 0; q < 4; q++) {
            const vec v = vec_load(x + i + q * LANES);
            most[q] = vec_max(vec_abs(v), most[q]);
            sum[q] = vec_fma(v, zero, sum[q]);
        }
    for (; i < n; i += LANES) {
        const vec v = n - i < LANES ? vec_load_part(x + i, n - i) : vec_load(x + i);
        most[0] = vec_max(vec_abs(v), most[0]);
        sum[0] = vec_fma(v, zero, sum[0]);
    }
    if (!FN(is_zero)((sum[0] + sum[1]) + (sum[2] + sum[3])))
        return REAL_NAN;
    vec_store(sizes, vec_max(vec_max(most[0], most[1]), vec_max(most[2], most[3])));
    for (int q = 0; q < LANES; q++)
        if (sizes[q] > found)
            found = sizes[q];
    return found;
}

static int FN(all_finite)(ptrdiff_t m, ptrdiff_t n, const void *x_, ptrdiff_t ld_x)
{
    const REAL *x = x_;
    vec sum = vec_set(0); /* of zeros: NaN times zero and infinity times zero are NaN */
    for (ptrdiff_t i = 0; i < m; i++, x += ld_x) {
        ptrdiff_t j = 0;
        for (; j + LANES <= n; j += LANES) sum += vec_load(x + j) * vec_set(0);
        if (j < n)
            sum += vec_load_part(x + j, n - j) * vec_set(0);
    }
    return FN(is_zero)(sum);
}

static void FN(scale)(ptrdiff_t m, ptrdiff_t n, double factor, double shift, const void *x_, ptrdiff_t ld_x, void *a_,
                      ptrdiff_t ld_a)
{
    const REAL *x = x_;
    REAL *a = a_;
    const vec f = vec_set((REAL)factor), s = vec_set((REAL)shift);
    for (ptrdiff_t i = 0; i < m; i++, x += ld_x, a += ld_a) {
        ptrdiff_t j = 0;
        for (; j + LANES <= n; j += LANES) vec_store(a + j, vec_fma(f, vec_load(x + j), s));
        if (j < n)
            vec_store_part(a + j, vec_fma(f, vec_load_part(x + j, n - j), s), n - j);
    }
}

/* Row of a table that a code names: -1 for a category that is not there, -2 for what is no whole number. */
static ptrdiff_t FN(category)(REAL code, ptrdiff_t n_categories)
{
    /* From 2^53 on all reals are whole, and further on too large for the conversion. NaN and infinities are
     * not: their difference with themselves is NaN. */
    const REAL whole = 9007199254740992.0;
    if (code >= whole || code <= -whole)
        return code - code == 0 ? -1 : -2;
    const ptrdiff_t row = code == code ? (ptrdiff_t)code : 0;
    return (REAL)row != code ? -2 : row >= 0 && row < n_categories ? row : -1;
}

static void FN(embed)(ptrdiff_t m, ptrdiff_t n_in, ptrdiff_t n_tables, const fastnn_table *tables, const void *w_,
                      const void *x_, ptrdiff_t ld_x, void *a_, ptrdiff_t ld_a)
{
    const REAL *w = w_, *x = x_;
    REAL *a = a_;
    for (ptrdiff_t i = 0; i < m; i++, x += ld_x, a += ld_a) {
        ptrdiff_t kept = 0;
        for (ptrdiff_t t = 0, j = 0; t <= n_tables; t++) {
            const ptrdiff_t end = t < n_tables ? tables[t].column : n_in;
            for (; j < end; j++) a[kept++] = x[j];
            j++; /* the table's own column */
        }
        for (ptrdiff_t t = 0; t < n_tables; t++) {
            const ptrdiff_t row = FN(category)(x[tables[t].column], tables[t].n_categories);
            for (ptrdiff_t q = 0; q < tables[t].width; q++)
                a[tables[t].out + q] = row >= 0    ? w[tables[t].weight + row * tables[t].width + q]
                                       : row == -1 ? 0
                                                   : REAL_NAN;
        }
    }
}

static void FN(embed_gradient)(ptrdiff_t m, const fastnn_table *table, const void *x_, ptrdiff_t ld_x, const void *d_,
                               ptrdiff_t ld_d, void *g_)
{
    const REAL *x = x_, *d = d_;
    REAL *g = g_;
    for (ptrdiff_t q = 0; q < table->n_categories * table->width; q++) g[q] = 0;
    for (ptrdiff_t i = 0; i < m; i++) {
        const ptrdiff_t row = FN(category)(x[i * ld_x + table->column], table->n_categories);
        for (ptrdiff_t q = 0; row >= 0 && q < table->width; q++)
            g[row * table->width + q] += d[i * ld_d + table->out + q];
    }
}
