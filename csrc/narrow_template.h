/* x w where w has a few columns: lanes run along the rows of x, CHUNK columns of x (16 bytes a row) at a time are
 * turned in registers and multiplied there. Included by matmul_template.h.
 *
 * A group is as many rows as a slim vector has lanes. Several groups run side by side: their sums are chains that wait
 * for the latency of an FMA, and w is read once for all of them. To turn panels of x through memory first took two to
 * three times as long. What lost on Zen 4, in AVX2 and AVX-512 alike: rows loaded 32 bytes at a time (half the loads,
 * but shuffles across halves), 5-15 % slower; two groups rather than four where AVX2 runs out of registers for the sums
 * (n = 3, 4), up to 40 % slower; 16 rows in vectors of 64 bytes, 30 % slower. */

#undef CHUNK
#define CHUNK (16 / (ptrdiff_t)sizeof(REAL))

/* q strides from base; AT3 where three strides are in a register: x86 adds one, or two, without further arithmetic. */
#undef AT
#undef AT3
#define AT(base, q, stride) ((const REAL *)((const char *)(base) + (q) * (stride)))
#define AT3(base, q, stride) AT(base, (q) == 3 ? 1 : (q), (q) == 3 ? stride##3 : stride)

/* CHUNK x CHUNK numbers across the diagonal, within every 16 bytes. */
INLINE void FN(turn_chunks)(slim r[CHUNK])
{
    UNROLL for (int round = 1; round < CHUNK; round *= 2) {
        slim s[CHUNK];
        UNROLL for (int q = 0; q < CHUNK / 2; q++) {
            s[2 * q] = slim_interleave_low(r[q], r[q + CHUNK / 2]);
            s[2 * q + 1] = slim_interleave_high(r[q], r[q + CHUNK / 2]);
        }
        UNROLL for (int q = 0; q < CHUNK; q++) r[q] = s[q];
    }
}

/* Columns [0, CHUNK) of a group: rows from low on, and from high on, `row` bytes apart. Row q and, above it, row
 * q + CHUNK are loaded into one vector; a transpose within 16 bytes then leaves one column of the group in each. */
INLINE void FN(load_columns)(const REAL *low, const REAL *high, ptrdiff_t row, ptrdiff_t row3, slim r[CHUNK])
{
    (void)row3;
    UNROLL for (int q = 0; q < CHUNK; q++) r[q] = slim_load_halves(AT3(low, q, row), AT3(high, q, row));
    FN(turn_chunks)(r);
}

/* k >= CHUNK: the last columns of x, where they are no whole chunk, are loaded with the ones before them, which
 * nothing is done with. Sums of column j go to out[j * NARROW_ROWS]. An address is hidden from the compiler, which
 * would else keep those of all rows, in more registers than there are. TOGETHER groups are turned before they are
 * multiplied, so that a number of w is loaded once for them: where registers suffice, 2-5 % faster with a few columns,
 * 25-70 % with five and more. */
#define NARROW_GROUPS(FROM, COUNT, N, FIRST)                                                                 \
    slim r[COUNT][CHUNK];                                                                                    \
    UNROLL for (int i = 0; i < COUNT; i++) {                                                                 \
        const REAL *const low = at;                                                                          \
        if (SLIM_LANES > CHUNK) {                                                                            \
            at = AT(at, 1, half);                                                                            \
            __asm__("" : "+r"(at));                                                                          \
        }                                                                                                    \
        FN(load_columns)(low, at, row, row3, r[i]);                                                          \
        at = AT(at, 1, half);                                                                                \
        __asm__("" : "+r"(at));                                                                              \
    }                                                                                                        \
    UNROLL for (int q = 0; q < CHUNK; q++)                                                                   \
        if (q >= (FIRST))                                                                                    \
            UNROLL for (int j = 0; j < N; j++) {                                                             \
                const slim factor = slim_set(AT3(w, q, w_row)[j]);                                           \
                UNROLL for (int i = 0; i < COUNT; i++)                                                       \
                    sum[(FROM) + i][j] = slim_fma(r[i][q], factor, sum[(FROM) + i][j]);                      \
            }
#define NARROW_STEP(G, TOGETHER, N, FIRST)                                                                   \
    const REAL *at = x;                                                                                      \
    if (TOGETHER == G) {                                                                                     \
        NARROW_GROUPS(0, G, N, FIRST)                                                                        \
    } else                                                                                                   \
        UNROLL for (int g = 0; g < G; g += TOGETHER) { NARROW_GROUPS(g, TOGETHER, N, FIRST) }
#define DEFINE_NARROW(G, N, T)                                                                               \
    static void FN(narrow_##G##x##N)(ptrdiff_t k, const REAL *x, ptrdiff_t row, const REAL *w,               \
                                     ptrdiff_t w_row, const REAL *bias, REAL *out)                           \
    {                                                                                                        \
        ptrdiff_t row3 = 3 * row, w_row3 = 3 * w_row, half = CHUNK * row;                                    \
        __asm__("" : "+r"(row3), "+r"(w_row3), "+r"(half));                                                  \
        slim sum[G][N];                                                                                      \
        UNROLL for (int g = 0; g < G; g++) UNROLL for (int j = 0; j < N; j++) sum[g][j] = slim_set(0);       \
        ptrdiff_t p = 0;                                                                                     \
        for (; p + CHUNK <= k; p += CHUNK, x += CHUNK, w = AT(w, CHUNK, w_row)) { NARROW_STEP(G, T, N, 0) }  \
        if (p < k) {                                                                                         \
            const ptrdiff_t again = CHUNK - (k - p);                                                         \
            x -= again;                                                                                      \
            w = AT(w, -again, w_row);                                                                        \
            NARROW_STEP(G, T, N, again)                                                                      \
        }                                                                                                    \
        UNROLL for (int j = 0; j < N; j++)                                                                   \
            UNROLL for (int g = 0; g < G; g++)                                                               \
                slim_store(out + j * NARROW_ROWS + g * SLIM_LANES,                                           \
                           bias ? sum[g][j] + slim_set(bias[j]) : sum[g][j]);                                \
    }
typedef void (*FN(narrow_function))(ptrdiff_t k, const REAL *x, ptrdiff_t row, const REAL *w, ptrdiff_t w_row,
                                    const REAL *bias, REAL *out);

#undef NARROW_ROWS
#define NARROW_ROWS (4 * SLIM_LANES)
#if ISA_AVX512
#define NARROW_TOGETHER(G) G
#else
#define NARROW_TOGETHER(G) 1
#endif
DEFINE_NARROW(1, 1, NARROW_TOGETHER(1))
DEFINE_NARROW(1, 2, NARROW_TOGETHER(1))
DEFINE_NARROW(1, 3, NARROW_TOGETHER(1))
DEFINE_NARROW(1, 4, NARROW_TOGETHER(1))
DEFINE_NARROW(2, 1, NARROW_TOGETHER(2))
DEFINE_NARROW(2, 2, NARROW_TOGETHER(2))
DEFINE_NARROW(2, 3, NARROW_TOGETHER(2))
DEFINE_NARROW(2, 4, NARROW_TOGETHER(2))
DEFINE_NARROW(4, 1, NARROW_TOGETHER(4))
DEFINE_NARROW(4, 2, NARROW_TOGETHER(4))
DEFINE_NARROW(4, 3, NARROW_TOGETHER(4))
DEFINE_NARROW(4, 4, NARROW_TOGETHER(4))
#if NARROW_PASS >= 5
DEFINE_NARROW(2, 5, 2)
#endif
#if NARROW_PASS >= 10
DEFINE_NARROW(2, 6, 2)
DEFINE_NARROW(2, 7, 2)
DEFINE_NARROW(2, 8, 2)
DEFINE_NARROW(2, 9, 2)
DEFINE_NARROW(2, 10, 2)
#endif
#undef DEFINE_NARROW
#undef NARROW_STEP
#undef NARROW_GROUPS
#undef NARROW_TOGETHER

/* [log2 of groups][columns]; more than NARROW_COLUMNS for two groups alone */
static const FN(narrow_function) FN(narrow_functions)[3][NARROW_PASS + 1] = {
    {NULL, FN(narrow_1x1), FN(narrow_1x2), FN(narrow_1x3), FN(narrow_1x4)},
    {NULL, FN(narrow_2x1), FN(narrow_2x2), FN(narrow_2x3), FN(narrow_2x4),
#if NARROW_PASS >= 5
     FN(narrow_2x5),
#endif
#if NARROW_PASS >= 10
     FN(narrow_2x6), FN(narrow_2x7), FN(narrow_2x8), FN(narrow_2x9), FN(narrow_2x10),
#endif
    },
    {NULL, FN(narrow_4x1), FN(narrow_4x2), FN(narrow_4x3), FN(narrow_4x4)},
};

/* Whether x w is faster this way than in place, where lanes that w does not fill are idle. */
static int FN(is_narrow)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, ptrdiff_t ld_x)
{
    if (m < SLIM_LANES || k < CHUNK || n > NARROW_WIDEST)
        return 0;
    if (n < NARROW_COLUMNS)
        return 1;
    /* Four columns fill so many lanes in place that few rows, or a short k, are faster there (float64 with AVX2, 15
     * rows, k = 300: 1.8 and 2.2 us). */
    if (n == NARROW_COLUMNS)
        return m >= 16 && k >= LANES;
    /* The kernels of more columns take two groups: too many lines of the same sets where rows are 4096 bytes apart. */
    if (m < 2 * SLIM_LANES || ld_x * (ptrdiff_t)sizeof(REAL) % 4096 == 0)
        return 0;
    if (NARROW_PASS == 5 && n % 5 != 0 && n % 5 != 4)
        return 0; /* passes of three columns: float32, six columns, 10 % slower than in place */
    const ptrdiff_t rows = (m + 2 * SLIM_LANES - 1) / (2 * SLIM_LANES) * (2 * SLIM_LANES);
    const ptrdiff_t lanes = (n + LANES - 1) / LANES * LANES;
    return rows * n * 8 <= m * lanes * (ISA_AVX512 && REAL_IS_FLOAT ? 6 : 7);
}

/* (rows, n) of c from its columns, NARROW_ROWS apart. */
INLINE void FN(put_narrow)(ptrdiff_t rows, ptrdiff_t n, const REAL *columns, REAL *c, ptrdiff_t ld_c)
{
    ptrdiff_t r = 0;
    if (n >= CHUNK)
        for (; r + SLIM_LANES <= rows; r += SLIM_LANES, c += SLIM_LANES * ld_c)
            for (ptrdiff_t at = 0; at < n; at += CHUNK) {
                const ptrdiff_t j = at < n - CHUNK ? at : n - CHUNK; /* some are written twice */
                slim block[CHUNK];
                UNROLL for (int q = 0; q < CHUNK; q++)
                    memcpy(&block[q], columns + (j + q) * NARROW_ROWS + r, SLIM_BYTES);
                FN(turn_chunks)(block);
                UNROLL for (int q = 0; q < CHUNK; q++) {
                    memcpy(c + q * ld_c + j, &block[q], 16);
                    if (SLIM_LANES > CHUNK)
                        memcpy(c + (q + CHUNK) * ld_c + j, (const char *)&block[q] + SLIM_BYTES - 16, 16);
                }
            }
    for (; r < rows; r++, c += ld_c)
        for (ptrdiff_t j = 0; j < n; j++) c[j] = columns[j * NARROW_ROWS + r];
}

/* m >= SLIM_LANES, k >= CHUNK, n <= NARROW_WIDEST, m >= 2 SLIM_LANES where n > NARROW_COLUMNS; a row of x lies
 * together. */
static void FN(product_narrow)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const REAL *x, ptrdiff_t ld_x, const REAL *w,
                               ptrdiff_t ld_w, REAL *c, ptrdiff_t ld_c, const fastnn_epilogue *e)
{
    REAL sums[NARROW_WIDEST * NARROW_ROWS] __attribute__((aligned(64)));
    const ptrdiff_t size = sizeof(REAL);
    const int activation = e ? e->activation : FASTNN_identity;
    /* The power of two by which rows are apart: such rows share the sets of L1, one in 4096 bytes. */
    const ptrdiff_t apart = (ld_x * size) & -(ld_x * size);
    const int least = n > NARROW_COLUMNS;
    int most = n > NARROW_COLUMNS ? 1 : 2;
    while (most > least && (apart < 4096 ? apart : 4096) * (SLIM_LANES << most) > NARROW_L1_BYTES) most--;
    for (ptrdiff_t i = 0, rows; i < m; i += rows) {
        /* The fewest groups that hold what is left; where that is fewer rows than they have, some are summed again. */
        int log_groups = least;
        while (log_groups < most && (SLIM_LANES << log_groups) < m - i && (SLIM_LANES << (log_groups + 1)) <= m)
            log_groups++;
        const ptrdiff_t height = SLIM_LANES << log_groups;
        rows = m - i < height ? m - i : height;
        const ptrdiff_t from = i + rows - height;
        for (ptrdiff_t j = 0, passes = (n + NARROW_PASS - 1) / NARROW_PASS, count; j < n; j += count) {
            count = (n - j) / passes--;
            FN(narrow_functions)[log_groups][count](k, x + from * ld_x, ld_x * size, w + j, ld_w * size,
                                                    e && e->bias ? (const REAL *)e->bias + j : NULL,
                                                    sums + j * NARROW_ROWS);
        }
        const REAL *found = sums + height - rows;
        if (activation != FASTNN_identity && !fastnn_is_rowwise(activation))
            FN(activation)(activation, n, height, sums, NARROW_ROWS, sums, NARROW_ROWS);
        FN(put_narrow)(rows, n, found, c + i * ld_c, ld_c);
    }
    if (fastnn_is_rowwise(activation))
        FN(activation)(activation, m, n, c, ld_c, c, ld_c);
    if (e && e->gate)
        FN(activation_backward)(e->gate_activation, m, n, e->gate, e->ld_gate, c, ld_c, c, ld_c);
}
