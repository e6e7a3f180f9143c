/* x w where w has one to four columns and many rows, by dot products: lanes run along k.
 *
 * The order of such a sum is its own (fastnn_by_dots): BLOCK running sums, 64 bytes, of the terms i, i + BLOCK, .. from
 * zero, the last block filled up with zeros; then the tree of vector_template.h. So a row of x is read as it lies, where
 * one chain of FMAs in the order of k needs lanes along the rows, and x turned in registers for it. Included by
 * matmul_template.h.
 *
 * Several tiles of rows are summed before the trees of all of them are walked together, LANES sums at a time. One column
 * in four rows at a time comes near the rate of L2; what lost with AVX-512: eight rows (up to 17 % slower), asking for the
 * next group of rows (up to 60 %), two columns in four or twelve rows (5-10 %), four in six (3-7 %). */

/* ---------------------------------------------------------------- trees side by side */

/* Of a and b, with twice as many running sums in a vector as shall be left: the halves of each one's. Within 16 bytes
 * where that is possible, so that sums leave their order; DOTS_FROM says which one goes where for them to end in it. */
#undef DOTS_FROM
#undef dots_low8
#undef dots_high8
#undef dots_low4
#undef dots_high4
#undef dots_low2
#undef dots_high2
#undef dots_low1
#undef dots_high1
#if LANES == 16
#define DOTS_FROM(i) ((i) % 4 * 4 + (i) / 4)
#define dots_low8(a, b) __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23)
#define dots_high8(a, b) __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31)
#define dots_low4(a, b) __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27)
#define dots_high4(a, b) __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31)
#define dots_low2(a, b) __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
#define dots_high2(a, b) __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31)
#define dots_low1(a, b) __builtin_shufflevector(a, b, 0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30)
#define dots_high1(a, b) __builtin_shufflevector(a, b, 1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31)
#elif LANES == 8 && REAL_IS_FLOAT
#define DOTS_FROM(i) ((i) % 2 * 4 + (i) / 2)
#define dots_low4(a, b) __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11)
#define dots_high4(a, b) __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15)
#define dots_low2(a, b) __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13)
#define dots_high2(a, b) __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15)
#define dots_low1(a, b) __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14)
#define dots_high1(a, b) __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15)
#elif LANES == 8
#define DOTS_FROM(i) ((i) % 4 * 2 + (i) / 4)
#define dots_low4(a, b) __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11)
#define dots_high4(a, b) __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15)
#define dots_low2(a, b) __builtin_shufflevector(a, b, 0, 1, 4, 5, 8, 9, 12, 13)
#define dots_high2(a, b) __builtin_shufflevector(a, b, 2, 3, 6, 7, 10, 11, 14, 15)
#define dots_low1(a, b) __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14)
#define dots_high1(a, b) __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15)
#elif LANES == 4 && REAL_IS_FLOAT
#define DOTS_FROM(i) (i)
#define dots_low2(a, b) __builtin_shufflevector(a, b, 0, 1, 4, 5)
#define dots_high2(a, b) __builtin_shufflevector(a, b, 2, 3, 6, 7)
#define dots_low1(a, b) __builtin_shufflevector(a, b, 0, 2, 4, 6)
#define dots_high1(a, b) __builtin_shufflevector(a, b, 1, 3, 5, 7)
#elif LANES == 4
#define DOTS_FROM(i) ((i) % 2 * 2 + (i) / 2)
#define dots_low2(a, b) __builtin_shufflevector(a, b, 0, 1, 4, 5)
#define dots_high2(a, b) __builtin_shufflevector(a, b, 2, 3, 6, 7)
#define dots_low1(a, b) __builtin_shufflevector(a, b, 0, 4, 2, 6)
#define dots_high1(a, b) __builtin_shufflevector(a, b, 1, 5, 3, 7)
#else
#define DOTS_FROM(i) (i)
#define dots_low1(a, b) __builtin_shufflevector(a, b, 0, 2)
#define dots_high1(a, b) __builtin_shufflevector(a, b, 1, 3)
#endif

/* Lane i is what tree_sum leaves of row i. */
INLINE vec FN(dots_trees)(const vec rows[LANES])
{
    vec r[LANES];
    UNROLL for (int i = 0; i < LANES; i++) r[i] = rows[DOTS_FROM(i)];
#define DOTS_LEVEL(half, count)               \
    UNROLL for (int i = 0; i < (count); i++) \
        r[i] = dots_low##half(r[2 * i], r[2 * i + 1]) + dots_high##half(r[2 * i], r[2 * i + 1]);
#if LANES >= 16
    DOTS_LEVEL(8, LANES / 2)
#endif
#if LANES >= 8
    DOTS_LEVEL(4, LANES >= 16 ? LANES / 4 : LANES / 2)
#endif
#if LANES >= 4
    DOTS_LEVEL(2, 2)
#endif
    DOTS_LEVEL(1, 1)
#undef DOTS_LEVEL
    return r[0];
}

/* ---------------------------------------------------------------- rows of x by columns of w */

/* A block of R rows and N columns; of each row and column the vectors from `pass` on. wt: the columns, ld_wt apart. */
#define DOTS_STEP(R, N, LOAD)                                                                                  \
    UNROLL for (int v = 0; v < vectors; v++) {                                                                 \
        vec factor[N];                                                                                         \
        UNROLL for (int j = 0; j < N; j++) factor[j] = LOAD(wt + j * ld_wt, pass + v);                         \
        UNROLL for (int i = 0; i < R; i++) {                                                                   \
            const vec xi = LOAD((const REAL *)(row[i / 3] + i % 3 * ld), pass + v);                            \
            UNROLL for (int j = 0; j < N; j++) sum[i * N + j][v] = vec_fma(xi, factor[j], sum[i * N + j][v]);  \
        }                                                                                                      \
    }
#define DOTS_WHOLE(at, v) vec_load((at) + (v) * LANES)
#define DOTS_PART(at, v) FN(dots_part)(at, v, rest)

/* Vector v of a block of which `rest` numbers are there. */
INLINE vec FN(dots_part)(const REAL *at, int v, ptrdiff_t rest)
{
    const ptrdiff_t count = rest - v * LANES;
    return count >= LANES ? vec_load(at + v * LANES) : count > 0 ? vec_load_part(at + v * LANES, count) : vec_set(0);
}

/* PASSES: 1, or 2 where a block is two vectors, and registers hold the sums of more rows a half at a time. */
#define DEFINE_DOTS(R, N, TILES, PASSES)                                                                       \
    static void FN(dots_##R##x##N)(ptrdiff_t k, const REAL *x, ptrdiff_t ld, const REAL *w, ptrdiff_t ld_wt,   \
                                   REAL *out)                                                                  \
    {                                                                                                          \
        enum { count = R * N * (TILES), groups = (count + LANES - 1) / LANES, vectors = BLOCK_VECTORS / PASSES }; \
        vec part[groups * LANES];                                                                              \
        UNROLL for (int i = count; i < groups * LANES; i++) part[i] = vec_set(0);                              \
        UNROLL for (int t = 0; t < TILES; t++)                                                                 \
            UNROLL for (int pass = 0; pass < PASSES; pass++) {                                                 \
                vec sum[R * N][vectors];                                                                       \
                UNROLL for (int i = 0; i < R * N; i++)                                                         \
                    UNROLL for (int v = 0; v < vectors; v++) sum[i][v] = vec_set(0);                           \
                const char *row[(R + 2) / 3];                                                                  \
                UNROLL for (int i = 0; i < (R + 2) / 3; i++) row[i] = (const char *)x + (t * R + 3 * i) * ld;  \
                const REAL *wt = w;                                                                            \
                ptrdiff_t rest = k;                                                                            \
                for (; rest >= BLOCK; rest -= BLOCK) {                                                         \
                    DOTS_STEP(R, N, DOTS_WHOLE)                                                                \
                    wt += BLOCK;                                                                               \
                    UNROLL for (int i = 0; i < (R + 2) / 3; i++) row[i] += 64;                                 \
                }                                                                                              \
                if (rest > 0) { DOTS_STEP(R, N, DOTS_PART) }                                                   \
                UNROLL for (int i = 0; i < R * N; i++) {                                                       \
                    UNROLL for (int half = vectors / 2; half > 0; half /= 2)                                   \
                        UNROLL for (int v = 0; v < half; v++) sum[i][v] = sum[i][v] + sum[i][v + half];        \
                    part[t * R * N + i] = pass == 0 ? sum[i][0] : part[t * R * N + i] + sum[i][0];             \
                }                                                                                              \
            }                                                                                                  \
        UNROLL for (int g = 0; g < groups; g++) vec_store(out + g * LANES, FN(dots_trees)(part + g * LANES));  \
    }
/* x by bytes, ld of x in bytes; out: (rows, columns), whole vectors. */
typedef void (*FN(dots_function))(ptrdiff_t k, const REAL *x, ptrdiff_t ld, const REAL *w, ptrdiff_t ld_wt, REAL *out);

/* As many sums as registers hold, with rows enough for LANES of them; rows of such a group, by columns. */
#undef DOTS_HEIGHTS
#if ISA_AVX512
DEFINE_DOTS(4, 1, LANES / 4, 1)
DEFINE_DOTS(8, 2, 1, 1)
DEFINE_DOTS(8, 3, 1, 1)
DEFINE_DOTS(4, 4, 1, 1)
#define DOTS_HEIGHTS {0, LANES, 8, 8, 4}
static const FN(dots_function) FN(dots_functions)[] = {NULL, FN(dots_4x1), FN(dots_8x2), FN(dots_8x3), FN(dots_4x4)};
#elif ISA_AVX2
DEFINE_DOTS(4, 1, LANES / 4, 1)
#if REAL_IS_FLOAT
DEFINE_DOTS(4, 2, 1, 2)
#define DOTS_HEIGHTS {0, LANES, 4, LANES, 6}
#else
DEFINE_DOTS(3, 2, 1, 1)
#define DOTS_HEIGHTS {0, LANES, 3, LANES, 6}
#endif
DEFINE_DOTS(4, 3, LANES / 4, 2)
DEFINE_DOTS(3, 4, 2, 2)
static const FN(dots_function) FN(dots_functions)[] = {NULL, FN(dots_4x1),
#if REAL_IS_FLOAT
                                                     FN(dots_4x2),
#else
                                                     FN(dots_3x2),
#endif
                                                     FN(dots_4x3), FN(dots_3x4)};
#else
DEFINE_DOTS(4, 1, 1, 1)
DEFINE_DOTS(2, 2, 1, 1)
DEFINE_DOTS(1, 3, 1, 1)
DEFINE_DOTS(1, 4, 1, 1)
#define DOTS_HEIGHTS {0, 4, 2, 1, 1}
static const FN(dots_function) FN(dots_functions)[] = {NULL, FN(dots_4x1), FN(dots_2x2), FN(dots_1x3), FN(dots_1x4)};
#endif
static const int FN(dots_heights)[] = DOTS_HEIGHTS;
#undef DEFINE_DOTS

/* One row and one column. */
INLINE REAL FN(dots_one)(ptrdiff_t k, const REAL *x, const REAL *wt)
{
    vec sum[BLOCK_VECTORS];
    UNROLL for (int v = 0; v < BLOCK_VECTORS; v++) sum[v] = vec_set(0);
    ptrdiff_t rest = k;
    for (; rest >= BLOCK; rest -= BLOCK, x += BLOCK, wt += BLOCK)
        UNROLL for (int v = 0; v < BLOCK_VECTORS; v++) sum[v] = vec_fma(DOTS_WHOLE(x, v), DOTS_WHOLE(wt, v), sum[v]);
    if (rest > 0)
        UNROLL for (int v = 0; v < BLOCK_VECTORS; v++) sum[v] = vec_fma(DOTS_PART(x, v), DOTS_PART(wt, v), sum[v]);
    return FN(tree_sum)(sum);
}
#undef DOTS_STEP
#undef DOTS_WHOLE
#undef DOTS_PART

/* out (m, n) of rows of x and columns of w that lie together. Of a last group that is not whole some rows are summed
 * again. After out there is room for DOTS_AFTER numbers: vectors are stored whole. */
#define DOTS_AFTER 16
static void FN(dots_rows)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const REAL *x, ptrdiff_t ld_x, const REAL *wt,
                          ptrdiff_t ld_wt, REAL *out)
{
    const ptrdiff_t height = FN(dots_heights)[n], ld = ld_x * (ptrdiff_t)sizeof(REAL);
    if (m >= height) {
        const FN(dots_function) f = FN(dots_functions)[n];
        ptrdiff_t i = 0;
        for (; i + height <= m; i += height) f(k, x + i * ld_x, ld, wt, ld_wt, out + i * n);
        if (i < m)
            f(k, x + (m - height) * ld_x, ld, wt, ld_wt, out + (m - height) * n);
        return;
    }
    for (ptrdiff_t i = 0; i < m; i++)
        for (ptrdiff_t j = 0; j < n; j++) out[i * n + j] = FN(dots_one)(k, x + i * ld_x, wt + j * ld_wt);
}

/* ---------------------------------------------------------------- rows of w as they lie */

/* One row, and w (k, N) without gaps: a block of w is N x BLOCK_VECTORS vectors, which numbers of x are spread for. */
INLINE vec FN(dots_spread)(const REAL *x, const int at, const int n)
{
    /* lane i of the vector at `at` belongs to row (at + i) / n of the block */
    const int last = BLOCK - LANES, from = at / n < last ? at / n : last;
#if ISA_AVX512 || ISA_AVX2
    const ivec index = (LANE_NUMBERS + at) / n - from;
#endif
#if ISA_AVX512 && REAL_IS_FLOAT
    return (vec)_mm512_permutexvar_ps((__m512i)index, (__m512)vec_load(x + from));
#elif ISA_AVX512
    return (vec)_mm512_permutexvar_pd((__m512i)index, (__m512d)vec_load(x + from));
#elif ISA_AVX2 && REAL_IS_FLOAT
    return (vec)_mm256_permutevar8x32_ps((__m256)vec_load(x + from), (__m256i)index);
#elif ISA_AVX2
    const ivec halves = index * 2 + ((index * 2 + 1) << 32);
    return (vec)_mm256_permutevar8x32_ps((__m256)vec_load(x + from), (__m256i)halves);
#else
    (void)from;
    vec v;
    UNROLL for (int i = 0; i < LANES; i++) v[i] = x[(at + i) / n];
    return v;
#endif
}

#define DEFINE_DOTS_ROW(N)                                                                                     \
    static void FN(dots_row_##N)(ptrdiff_t k, const REAL *x, const REAL *w, REAL *out)                         \
    {                                                                                                          \
        vec sum[N * BLOCK_VECTORS];                                                                            \
        UNROLL for (int v = 0; v < N * BLOCK_VECTORS; v++) sum[v] = vec_set(0);                                \
        ptrdiff_t rest = k;                                                                                    \
        for (; rest >= BLOCK; rest -= BLOCK, x += BLOCK, w += N * BLOCK)                                       \
            UNROLL for (int v = 0; v < N * BLOCK_VECTORS; v++)                                                 \
                sum[v] = vec_fma(FN(dots_spread)(x, v * LANES, N), vec_load(w + v * LANES), sum[v]);           \
        if (rest > 0) {                                                                                        \
            REAL xs[BLOCK] = {0}, ws[N * BLOCK] = {0};                                                         \
            memcpy(xs, x, (size_t)rest * sizeof(REAL));                                                        \
            memcpy(ws, w, (size_t)rest * N * sizeof(REAL));                                                    \
            UNROLL for (int v = 0; v < N * BLOCK_VECTORS; v++)                                                 \
                sum[v] = vec_fma(FN(dots_spread)(xs, v * LANES, N), vec_load(ws + v * LANES), sum[v]);         \
        }                                                                                                      \
        REAL sums[N * BLOCK];                                                                                  \
        UNROLL for (int v = 0; v < N * BLOCK_VECTORS; v++) vec_store(sums + v * LANES, sum[v]);                \
        UNROLL for (int half = BLOCK / 2; half > 0; half /= 2)                                                 \
            for (int i = 0; i < half * N; i++) sums[i] = sums[i] + sums[i + half * N];                         \
        UNROLL for (int j = 0; j < N; j++) out[j] = sums[j];                                                   \
    }
DEFINE_DOTS_ROW(2)
DEFINE_DOTS_ROW(3)
DEFINE_DOTS_ROW(4)
#undef DEFINE_DOTS_ROW

/* ---------------------------------------------------------------- any strides */

/* Element (i, p) of x is x[i * x_row + p * x_col]: lanes along the rows, a vector for each running sum. */
static void FN(dots_strided)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const REAL *x, ptrdiff_t x_row, ptrdiff_t x_col,
                             const REAL *w, ptrdiff_t w_row, ptrdiff_t w_col, REAL *out)
{
    for (ptrdiff_t i = 0; i < m; i += LANES) {
        const ptrdiff_t rows = m - i < LANES ? m - i : LANES;
        for (ptrdiff_t j = 0; j < n; j++) {
            vec sum[BLOCK];
            UNROLL for (int q = 0; q < BLOCK; q++) sum[q] = vec_set(0);
            for (ptrdiff_t p = 0; p < k; p += BLOCK)
                for (int q = 0; q < BLOCK; q++) {
                    vec xs = vec_set(0);
                    REAL factor = 0;
                    if (p + q < k) {
                        const REAL *at = x + i * x_row + (p + q) * x_col;
                        factor = w[(p + q) * w_row + j * w_col];
                        if (x_row == 1)
                            xs = vec_load_part(at, rows);
                        else
                            for (ptrdiff_t r = 0; r < rows; r++) xs[r] = at[r * x_row];
                    }
                    sum[q] = vec_fma(xs, vec_set(factor), sum[q]);
                }
            for (int half = BLOCK / 2; half > 0; half /= 2)
                for (int q = 0; q < half; q++) sum[q] = sum[q] + sum[q + half];
            for (ptrdiff_t r = 0; r < rows; r++) out[(i + r) * n + j] = sum[0][r];
        }
    }
}

/* ---------------------------------------------------------------- the product */

/* Columns of w one after the other: wt (n, k). */
static void FN(dots_turn)(ptrdiff_t n, ptrdiff_t k, const REAL *restrict w, ptrdiff_t w_row, REAL *restrict wt)
{
#define DOTS_TURN(N)                  \
    for (ptrdiff_t p = 0; p < k; p++) \
        UNROLL for (int j = 0; j < N; j++) wt[j * k + p] = w[p * (N) + j];
    if (n == 2 && w_row == 2) {
        DOTS_TURN(2)
    } else if (n == 3 && w_row == 3) {
        DOTS_TURN(3)
    } else if (n == 4 && w_row == 4) {
        DOTS_TURN(4)
    } else {
        for (ptrdiff_t p = 0; p < k; p++, w += w_row)
            for (ptrdiff_t j = 0; j < n; j++) wt[j * k + p] = w[j];
    }
#undef DOTS_TURN
}

/* One product: element (i, p) of x is x[i * x_row + p * x_col], and so on. */
typedef struct {
    ptrdiff_t n, k;
    const REAL *x, *w;
    ptrdiff_t x_row, x_col, w_row, w_col;
    REAL *c;
    ptrdiff_t c_row, c_col;
} FN(dots_task);

/* A chunk of rows: their sums, and what follows them. */
#define DOTS_ROWS 64
static void FN(dots_finish)(const FN(dots_task) *t, ptrdiff_t first, ptrdiff_t rows, REAL *sums, const fastnn_epilogue *e)
{
    const ptrdiff_t n = t->n, count = rows * n;
    const REAL *bias = e ? e->bias : NULL;
    if (bias && count >= 4 * LANES) {
        REAL spread[4 * LANES];
        for (ptrdiff_t i = 0, j = 0; i < n * LANES; i++, j = j + 1 < n ? j + 1 : 0) spread[i] = bias[j];
        for (ptrdiff_t i = 0; i < count; i += n * LANES) /* there is room behind the last one */
            for (ptrdiff_t v = 0; v < n * LANES && i + v < count; v += LANES)
                vec_store(sums + i + v, vec_load(sums + i + v) + vec_load(spread + v));
    } else if (bias) {
        for (ptrdiff_t i = 0; i < count; i += n)
            for (ptrdiff_t j = 0; j < n; j++) sums[i + j] += bias[j];
    }
    if (e && e->activation != FASTNN_identity && !fastnn_is_rowwise(e->activation))
        FN(activation)(e->activation, 1, count, sums, count, sums, count);
    REAL *c = t->c + first * t->c_row;
    if (t->c_row == n && (t->c_col == 1 || n == 1)) {
        memcpy(c, sums, (size_t)count * sizeof(REAL));
        return;
    }
    for (ptrdiff_t i = 0; i < rows; i++, c += t->c_row, sums += n)
        for (ptrdiff_t j = 0; j < n; j++) c[j * t->c_col] = sums[j];
}

static __attribute__((noinline)) void FN(dots_chunks)(const FN(dots_task) *t, ptrdiff_t m, const REAL *wt, ptrdiff_t ld_wt,
                                                      const fastnn_epilogue *e)
{
    REAL sums[4 * DOTS_ROWS + DOTS_AFTER] __attribute__((aligned(64)));
    for (ptrdiff_t i = 0, rows; i < m; i += rows) {
        rows = m - i < DOTS_ROWS ? m - i : DOTS_ROWS;
        const REAL *x = t->x + i * t->x_row;
        if (wt)
            FN(dots_rows)(rows, t->n, t->k, x, t->x_row, wt, ld_wt, sums);
        else
            FN(dots_strided)(rows, t->n, t->k, x, t->x_row, t->x_col, t->w, t->w_row, t->w_col, sums);
        FN(dots_finish)(t, i, rows, sums, e);
    }
}

/* The same with the columns of w brought together. Not a part of the caller: a row by itself needs no such stack, and a
 * small w needs little; of fixed size, a call is 5-7 % faster (256x128 by 2 to 4 columns in float32). */
static __attribute__((noinline)) void FN(dots_turned)(const FN(dots_task) *t, ptrdiff_t m, const fastnn_epilogue *e)
{
    REAL wt[t->n * t->k] __attribute__((aligned(64)));
    FN(dots_turn)(t->n, t->k, t->w, t->w_row, wt);
    FN(dots_chunks)(t, m, wt, t->k, e);
}
static __attribute__((noinline)) void FN(dots_turned_few)(const FN(dots_task) *t, ptrdiff_t m, const fastnn_epilogue *e)
{
    REAL wt[DOTS_FEW] __attribute__((aligned(64)));
    FN(dots_turn)(t->n, t->k, t->w, t->w_row, wt);
    FN(dots_chunks)(t, m, wt, t->k, e);
}

/* c (m, n) = x (m, k) w (k, n), 1 <= n <= 4, and the epilogue. Element (i, p) of x is x[i * x_row + p * x_col], and so
 * on; where there is a rowwise activation or a gate, rows of c lie together. */
static void FN(product_dots)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const REAL *x, ptrdiff_t x_row, ptrdiff_t x_col,
                             const REAL *w, ptrdiff_t w_row, ptrdiff_t w_col, REAL *c, ptrdiff_t c_row, ptrdiff_t c_col,
                             const fastnn_epilogue *e)
{
    const FN(dots_task) t = {.n = n, .k = k, .x = x, .w = w, .x_row = x_row, .x_col = x_col, .w_row = w_row,
                             .w_col = w_col, .c = c, .c_row = c_row, .c_col = c_col};
    const ptrdiff_t most = DOTS_BYTES / (ptrdiff_t)sizeof(REAL);
    if (x_col == 1 && w_row == 1)
        FN(dots_chunks)(&t, m, w, w_col, e);
    else if (x_col == 1 && w_col == 1 && w_row == n && n > 1 && (m < DOTS_TURN_ROWS || n * k > most))
        for (ptrdiff_t i = 0; i < m; i++) {
            REAL sums[4 * LANES + DOTS_AFTER];
            switch (n) {
            case 2: FN(dots_row_2)(k, x + i * x_row, w, sums); break;
            case 3: FN(dots_row_3)(k, x + i * x_row, w, sums); break;
            default: FN(dots_row_4)(k, x + i * x_row, w, sums);
            }
            FN(dots_finish)(&t, i, 1, sums, e);
        }
    else if (x_col == 1 && w_col == 1 && n * k <= DOTS_FEW)
        FN(dots_turned_few)(&t, m, e);
    else if (x_col == 1 && w_col == 1 && n * k <= most)
        FN(dots_turned)(&t, m, e);
    else
        FN(dots_chunks)(&t, m, NULL, 0, e);
    if (e && fastnn_is_rowwise(e->activation))
        FN(activation)(e->activation, m, n, c, c_row, c, c_row);
    if (e && e->gate)
        FN(activation_backward)(e->gate_activation, m, n, e->gate, e->ld_gate, c, c_row, c, c_row);
}
