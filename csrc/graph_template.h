/* What joins and parts the branches of a net: sums of two arrays, groups of columns. */

static void FN(add)(ptrdiff_t m, ptrdiff_t n, const void *a_, ptrdiff_t ld_a, const void *b_, ptrdiff_t ld_b,
                    void *out_, ptrdiff_t ld_out)
{
    const REAL *a = a_, *b = b_;
    REAL *out = out_;
    for (; m > 0; m--, a += ld_a, b += ld_b, out += ld_out) {
        ptrdiff_t j = 0;
        for (; j + LANES <= n; j += LANES) vec_store(out + j, vec_load(a + j) + vec_load(b + j));
        if (j < n)
            vec_store_part(out + j, vec_load_part(a + j, n - j) + vec_load_part(b + j, n - j), n - j);
    }
}

static void FN(take_columns)(ptrdiff_t m, ptrdiff_t n, const int64_t *columns, const void *x_, ptrdiff_t ld_x,
                             void *out_, ptrdiff_t ld_out)
{
    const REAL *x = x_;
    REAL *out = out_;
    for (; m > 0; m--, x += ld_x, out += ld_out)
        for (ptrdiff_t j = 0; j < n; j++) out[j] = x[columns[j]];
}

static void FN(put_columns)(ptrdiff_t m, ptrdiff_t n, const int64_t *columns, const void *d_, ptrdiff_t ld_d,
                            ptrdiff_t n_out, void *out_, ptrdiff_t ld_out)
{
    const REAL *d = d_;
    REAL *out = out_;
    for (; m > 0; m--, d += ld_d, out += ld_out) {
        memset(out, 0, (size_t)n_out * sizeof(REAL));
        for (ptrdiff_t j = 0; j < n; j++) out[columns[j]] = d[j];
    }
}
