/* x w where w has a few columns: lanes run along the rows of x, CHUNK columns of x (16 bytes a row) at a time are
 * turned in registers and multiplied there. Included by matmul_template.h.
 *
 * A group is as many rows as a slim vector has lanes. Several groups run side by side: their sums are chains that wait
 * for the latency of an FMA, and w is read once for all of them. To turn panels of x through memory first took two to
 * three times as long. What lost on Zen 4, in AVX2 and AVX-512 alike: rows loaded 32 bytes at a time (half the loads,
 * but shuffles across halves), 5-15 % slower; two groups rather than four where AVX2 runs out of registers for the sums
 * (n = 3, 4), up to 40 % slower. */

#undef CHUNK
#define CHUNK (16 / (ptrdiff_t)sizeof(REAL))

/* q strides from base; AT3 where three strides are in a register: x86 adds one, or two, without further arithmetic. */
#undef AT
#undef AT3
#define AT(base, q, stride) ((const REAL *)((const char *)(base) + (q) * (stride)))
#define AT3(base, q, stride) AT(base, (q) == 3 ? 1 : (q), (q) == 3 ? stride##3 : stride)

/* Columns [0, CHUNK) of a group: rows from low on, and from high on, `row` bytes apart. Row q and, above it, row
 * q + CHUNK are loaded into one vector; a transpose within 16 bytes then leaves one column of the group in each. */
INLINE void FN(load_columns)(const REAL *low, const REAL *high, ptrdiff_t row, ptrdiff_t row3, slim r[CHUNK])
{
    (void)row3;
    UNROLL for (int q = 0; q < CHUNK; q++) r[q] = slim_load_halves(AT3(low, q, row), AT3(high, q, row));
    UNROLL for (int round = 1; round < CHUNK; round *= 2) {
        slim s[CHUNK];
        UNROLL for (int q = 0; q < CHUNK / 2; q++) {
            s[2 * q] = slim_interleave_low(r[q], r[q + CHUNK / 2]);
            s[2 * q + 1] = slim_interleave_high(r[q], r[q + CHUNK / 2]);
        }
        UNROLL for (int q = 0; q < CHUNK; q++) r[q] = s[q];
    }
}

/* k >= CHUNK: the last columns of x, where they are no whole chunk, are loaded with the ones before them, which
 * nothing is done with. Sums of column j go to out[j * NARROW_ROWS]. An address is hidden from the compiler, which
 * would else keep those of all rows, in more registers than there are. */
#define NARROW_STEP(G, N, FIRST)                                                                             \
    const REAL *at = x;                                                                                      \
    UNROLL for (int g = 0; g < G; g++) {                                                                     \
        slim r[CHUNK];                                                                                       \
        const REAL *const low = at;                                                                          \
        if (SLIM_LANES > CHUNK) {                                                                            \
            at = AT(at, 1, half);                                                                            \
            __asm__("" : "+r"(at));                                                                          \
        }                                                                                                    \
        FN(load_columns)(low, at, row, row3, r);                                                             \
        at = AT(at, 1, half);                                                                                \
        __asm__("" : "+r"(at));                                                                              \
        UNROLL for (int q = 0; q < CHUNK; q++)                                                               \
            if (q >= (FIRST))                                                                                \
                UNROLL for (int j = 0; j < N; j++)                                                           \
                    sum[g][j] = slim_fma(r[q], slim_set(AT3(w, q, w_row)[j]), sum[g][j]);                    \
    }
#define DEFINE_NARROW(G, N)                                                                                  \
    static void FN(narrow_##G##x##N)(ptrdiff_t k, const REAL *x, ptrdiff_t row, const REAL *w,               \
                                     ptrdiff_t w_row, const REAL *bias, REAL *out)                           \
    {                                                                                                        \
        ptrdiff_t row3 = 3 * row, w_row3 = 3 * w_row, half = CHUNK * row;                                    \
        __asm__("" : "+r"(row3), "+r"(w_row3), "+r"(half));                                                  \
        slim sum[G][N];                                                                                      \
        UNROLL for (int g = 0; g < G; g++) UNROLL for (int j = 0; j < N; j++) sum[g][j] = slim_set(0);       \
        ptrdiff_t p = 0;                                                                                     \
        for (; p + CHUNK <= k; p += CHUNK, x += CHUNK, w = AT(w, CHUNK, w_row)) { NARROW_STEP(G, N, 0) }     \
        if (p < k) {                                                                                         \
            const ptrdiff_t again = CHUNK - (k - p);                                                         \
            x -= again;                                                                                      \
            w = AT(w, -again, w_row);                                                                        \
            NARROW_STEP(G, N, again)                                                                         \
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
DEFINE_NARROW(1, 1)
DEFINE_NARROW(1, 2)
DEFINE_NARROW(1, 3)
DEFINE_NARROW(1, 4)
DEFINE_NARROW(2, 1)
DEFINE_NARROW(2, 2)
DEFINE_NARROW(2, 3)
DEFINE_NARROW(2, 4)
DEFINE_NARROW(4, 1)
DEFINE_NARROW(4, 2)
DEFINE_NARROW(4, 3)
DEFINE_NARROW(4, 4)
#undef DEFINE_NARROW
#undef NARROW_STEP

/* [log2 of groups][columns] */
static const FN(narrow_function) FN(narrow_functions)[3][NARROW_COLUMNS + 1] = {
    {NULL, FN(narrow_1x1), FN(narrow_1x2), FN(narrow_1x3), FN(narrow_1x4)},
    {NULL, FN(narrow_2x1), FN(narrow_2x2), FN(narrow_2x3), FN(narrow_2x4)},
    {NULL, FN(narrow_4x1), FN(narrow_4x2), FN(narrow_4x3), FN(narrow_4x4)},
};

/* m >= SLIM_LANES, k >= CHUNK, n <= NARROW_COLUMNS; a row of x lies together. */
static void FN(product_narrow)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const REAL *x, ptrdiff_t ld_x, const REAL *w,
                               ptrdiff_t ld_w, REAL *c, ptrdiff_t ld_c, const fastnn_epilogue *e)
{
    REAL sums[NARROW_COLUMNS * NARROW_ROWS] __attribute__((aligned(64)));
    const ptrdiff_t size = sizeof(REAL);
    const int activation = e ? e->activation : FASTNN_identity;
    /* The power of two by which rows are apart: such rows share the sets of L1, one in 4096 bytes. */
    const ptrdiff_t apart = (ld_x * size) & -(ld_x * size);
    int most = 2;
    while (most > 0 && (apart < 4096 ? apart : 4096) * (SLIM_LANES << most) > NARROW_L1_BYTES) most--;
    for (ptrdiff_t i = 0, rows; i < m; i += rows) {
        /* The fewest groups that hold what is left; where that is fewer rows than they have, some are summed again. */
        int log_groups = 0;
        while (log_groups < most && (SLIM_LANES << log_groups) < m - i && (SLIM_LANES << (log_groups + 1)) <= m)
            log_groups++;
        const ptrdiff_t height = SLIM_LANES << log_groups;
        rows = m - i < height ? m - i : height;
        const ptrdiff_t from = i + rows - height;
        FN(narrow_functions)[log_groups][n](k, x + from * ld_x, ld_x * size, w, ld_w * size, e ? e->bias : NULL, sums);
        const REAL *found = sums + height - rows;
        if (activation != FASTNN_identity && !fastnn_is_rowwise(activation))
            FN(activation)(activation, n, height, sums, NARROW_ROWS, sums, NARROW_ROWS);
        REAL *to = c + i * ld_c;
        for (ptrdiff_t r = 0; r < rows; r++, to += ld_c)
            for (ptrdiff_t j = 0; j < n; j++) to[j] = found[j * NARROW_ROWS + r];
    }
    if (fastnn_is_rowwise(activation))
        FN(activation)(activation, m, n, c, ld_c, c, ld_c);
    if (e && e->gate)
        FN(activation_backward)(e->gate_activation, m, n, e->gate, e->ld_gate, c, ld_c, c, ld_c);
}
