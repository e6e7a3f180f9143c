/* One to FASTNN_FEW_ROWS rows through a dense layer: prediction of single rows, where a call's own cost counts.
 *
 * The sums are those of matmul_template.h, FMA by FMA (p = 0, 1, .. from zero, then the bias), or of dots_template.h, so a row
 * alone has the bits of a row in a batch. What differs is the shape: all columns of a narrow layer are in flight
 * at once, since a row by itself waits for the latency of its chains (4 cycles an FMA) and for nothing else.
 * Two strips of two vectors instead of one of four took twice as long. */

typedef struct {
    ptrdiff_t k;
    ptrdiff_t whole;           /* rows of w whose last vector may be read whole */
    ptrdiff_t ld_x, ld_w, ld_out;
    ptrdiff_t count;           /* columns in the last vector, 1 .. LANES */
    int relu;                  /* the one activation that is done in registers */
} FN(row_task);
typedef void (*FN(row_function))(const FN(row_task) *t, const REAL *x, const REAL *w, const REAL *bias, REAL *out);

#define DEFINE_ROWS(MR, NV)                                                                                  \
    static void FN(rows_##MR##x##NV)(const FN(row_task) *t, const REAL *x, const REAL *w, const REAL *bias,  \
                                     REAL *out)                                                              \
    {                                                                                                        \
        const ptrdiff_t k = t->k, whole = t->whole, ld_x = t->ld_x, ld_w = t->ld_w, count = t->count;        \
        vec sum[MR][NV];                                                                                     \
        UNROLL for (int i = 0; i < MR; i++) UNROLL for (int v = 0; v < NV; v++) sum[i][v] = vec_set(0);      \
        ptrdiff_t p = 0;                                                                                     \
        for (; p < whole; p++, w += ld_w) {                                                                  \
            vec xv[MR];                                                                                      \
            UNROLL for (int i = 0; i < MR; i++) xv[i] = vec_set(x[i * ld_x + p]);                            \
            UNROLL for (int v = 0; v < NV; v++) {                                                            \
                const vec wv = vec_load(w + v * LANES);                                                      \
                UNROLL for (int i = 0; i < MR; i++) sum[i][v] = vec_fma(xv[i], wv, sum[i][v]);               \
            }                                                                                                \
        }                                                                                                    \
        for (; p < k; p++, w += ld_w)                                                                        \
            UNROLL for (int v = 0; v < NV; v++) {                                                            \
                const vec wv = v < NV - 1 ? vec_load(w + v * LANES) : vec_load_part(w + v * LANES, count);   \
                UNROLL for (int i = 0; i < MR; i++)                                                          \
                    sum[i][v] = vec_fma(vec_set(x[i * ld_x + p]), wv, sum[i][v]);                            \
            }                                                                                                \
        if (bias)                                                                                            \
            UNROLL for (int v = 0; v < NV; v++) {                                                            \
                const vec b = v < NV - 1 || count == LANES ? vec_load(bias + v * LANES)                      \
                                                           : vec_load_part(bias + v * LANES, count);         \
                UNROLL for (int i = 0; i < MR; i++) sum[i][v] += b;                                          \
            }                                                                                                \
        if (t->relu)                                                                                         \
            UNROLL for (int i = 0; i < MR; i++)                                                              \
                UNROLL for (int v = 0; v < NV; v++) sum[i][v] = FN(forward_relu)(sum[i][v]);                 \
        UNROLL for (int i = 0; i < MR; i++) {                                                                \
            REAL *o = out + i * t->ld_out;                                                                   \
            UNROLL for (int v = 0; v < NV - 1; v++) vec_store(o + v * LANES, sum[i][v]);                     \
            if (count == LANES)                                                                              \
                vec_store(o + (NV - 1) * LANES, sum[i][NV - 1]);                                             \
            else                                                                                             \
                vec_store_part(o + (NV - 1) * LANES, sum[i][NV - 1], count);                                 \
        }                                                                                                    \
    }

/* Vectors side by side: 8 chains keep two FMA units of latency 4 busy; more rows need fewer vectors. */
#define ROW_VECTORS 8
#define FEW_VECTORS 4
DEFINE_ROWS(1, 1)
DEFINE_ROWS(1, 2)
DEFINE_ROWS(1, 3)
DEFINE_ROWS(1, 4)
DEFINE_ROWS(1, 5)
DEFINE_ROWS(1, 6)
DEFINE_ROWS(1, 7)
DEFINE_ROWS(1, 8)
DEFINE_ROWS(2, 1)
DEFINE_ROWS(2, 2)
DEFINE_ROWS(2, 3)
DEFINE_ROWS(2, 4)
DEFINE_ROWS(3, 1)
DEFINE_ROWS(3, 2)
DEFINE_ROWS(3, 3)
DEFINE_ROWS(3, 4)
#undef DEFINE_ROWS

static const FN(row_function) FN(row_functions)[FASTNN_FEW_ROWS + 1][ROW_VECTORS + 1] = {
    {NULL},
    {NULL, FN(rows_1x1), FN(rows_1x2), FN(rows_1x3), FN(rows_1x4), FN(rows_1x5), FN(rows_1x6), FN(rows_1x7),
     FN(rows_1x8)},
    {NULL, FN(rows_2x1), FN(rows_2x2), FN(rows_2x3), FN(rows_2x4)},
    {NULL, FN(rows_3x1), FN(rows_3x2), FN(rows_3x3), FN(rows_3x4)},
};

static void FN(dense_rows)(const fastnn_dense *d, ptrdiff_t first, ptrdiff_t last, ptrdiff_t m, const void *x,
                           ptrdiff_t ld_x, void *out_, ptrdiff_t ld_out)
{
    const REAL *w = d->weight, *bias = d->bias;
    REAL *out = out_;
    if (fastnn_by_dots(d->n_out, d->n_in)) {
        const fastnn_epilogue e = {.bias = bias, .activation = d->activation};
        FN(product_dots)(m, d->n_out, d->n_in, x, ld_x, 1, w, d->ld, 1, out, ld_out, 1, &e);
        return;
    }
    const ptrdiff_t widest = (m == 1 ? ROW_VECTORS : FEW_VECTORS) * LANES;
    FN(row_task) t = {.k = d->n_in, .ld_x = ld_x, .ld_w = d->ld, .ld_out = ld_out, .relu = d->activation == FASTNN_relu};
    for (ptrdiff_t j = first; j < last; j += widest) {
        const ptrdiff_t rest = last - j < widest ? last - j : widest, n_vectors = (rest + LANES - 1) / LANES;
        /* elements after the last row of w that its last vector reaches */
        const ptrdiff_t beyond = j + n_vectors * LANES - d->n_out - d->slack;
        t.count = rest - (n_vectors - 1) * LANES;
        t.whole = t.k;
        if (beyond > 0) {
            const ptrdiff_t rows = (beyond + d->ld - 1) / d->ld;
            t.whole = t.k > rows ? t.k - rows : 0;
        }
        FN(row_functions)[m][n_vectors](&t, x, w + j, bias ? bias + j : NULL, out + j);
    }
    if (d->activation != FASTNN_identity && d->activation != FASTNN_relu)
        FN(activation)(d->activation, m, last - first, out + first, ld_out, out + first, ld_out);
}
#undef ROW_VECTORS
#undef FEW_VECTORS
