/* Matrix products. One register-blocked tile serves all three products of training:
 *   forward   z  = x w        a = x,     b = w in place
 *   weights   dw = x^T dz     a = x^T (strides swapped), b = dz
 *   input     dx = dz w^T     a = dz,    b = panels of w^T
 * Lanes run along n, every sum runs over p = 0, 1, .. with one FMA each: whichever tile, block or thread
 * computes c[i, j], its bits are the same. Between k blocks a sum is stored and loaded, which rounds
 * nothing. */

#define PANEL (TILE_VECTORS * LANES)

/* Where a tile reads and writes. Strides of a in bytes: rows are reached as base, base + r, base + 2 r
 * from one pointer for three rows, which x86 addresses without further arithmetic. */
typedef struct {
    ptrdiff_t a_row, a_col; /* bytes */
    ptrdiff_t ld_b, ld_c;   /* elements */
    int first;              /* sums start at zero, else at c */
    const REAL *bias;       /* non-NULL in the last k block alone; at the tile's first column */
    int relu;               /* likewise: the one activation that is done in registers */
} FN(tile_task);
typedef void (*FN(tile_function))(const FN(tile_task) *t, ptrdiff_t k, const REAL *a, const REAL *b, REAL *c,
                                  ptrdiff_t count);

/* A tile of MR rows by NV vectors; count: columns that are stored, below LANES only where NV is 1.
 * Literal bounds and full unrolling keep `sum` in registers (inlined constant arguments do not suffice for
 * clang). */
#define TILE_A(i) (*(const REAL *)((const char *)row[(i) / 3] + (i) % 3 * a_row))
#define DEFINE_TILE(MR, NV)                                                                                  \
    static void FN(tile_##MR##x##NV)(const FN(tile_task) *t, ptrdiff_t k, const REAL *a, const REAL *b,      \
                                     REAL *c, ptrdiff_t count)                                               \
    {                                                                                                        \
        const ptrdiff_t a_row = t->a_row, a_col = t->a_col, ld_b = t->ld_b, ld_c = t->ld_c;                  \
        vec sum[MR][NV];                                                                                     \
        const char *row[(MR + 2) / 3];                                                                       \
        UNROLL for (int i = 0; i < (MR + 2) / 3; i++) row[i] = (const char *)a + 3 * i * a_row;              \
        if (t->first) {                                                                                      \
            UNROLL for (int i = 0; i < MR; i++)                                                              \
                UNROLL for (int v = 0; v < NV; v++) sum[i][v] = vec_set(0);                                  \
        } else {                                                                                             \
            UNROLL for (int i = 0; i < MR; i++)                                                              \
                UNROLL for (int v = 0; v < NV; v++)                                                          \
                    sum[i][v] = NV > 1 || count == LANES ? vec_load(c + i * ld_c + v * LANES)                \
                                                         : vec_load_part(c + i * ld_c, count);               \
        }                                                                                                    \
        for (ptrdiff_t p = 0; p < k; p++) {                                                                  \
            vec bv[NV];                                                                                      \
            UNROLL for (int v = 0; v < NV; v++) bv[v] = vec_load(b + v * LANES);                             \
            UNROLL for (int i = 0; i < MR; i++) {                                                            \
                const vec ai = vec_set(TILE_A(i));                                                           \
                UNROLL for (int v = 0; v < NV; v++) sum[i][v] = vec_fma(ai, bv[v], sum[i][v]);               \
            }                                                                                                \
            b += ld_b;                                                                                       \
            UNROLL for (int i = 0; i < (MR + 2) / 3; i++) row[i] += a_col;                                   \
        }                                                                                                    \
        if (t->bias) {                                                                                       \
            vec bias[NV];                                                                                    \
            UNROLL for (int v = 0; v < NV; v++)                                                              \
                bias[v] = NV > 1 || count == LANES ? vec_load(t->bias + v * LANES)                           \
                                                   : vec_load_part(t->bias, count);                          \
            UNROLL for (int i = 0; i < MR; i++)                                                              \
                UNROLL for (int v = 0; v < NV; v++) sum[i][v] += bias[v];                                    \
        }                                                                                                    \
        if (t->relu) {                                                                                       \
            UNROLL for (int i = 0; i < MR; i++)                                                              \
                UNROLL for (int v = 0; v < NV; v++) sum[i][v] = FN(forward_relu)(sum[i][v]);                 \
        }                                                                                                    \
        if (NV > 1 || count == LANES) {                                                                      \
            UNROLL for (int i = 0; i < MR; i++)                                                              \
                UNROLL for (int v = 0; v < NV; v++) vec_store(c + i * ld_c + v * LANES, sum[i][v]);          \
        } else {                                                                                             \
            UNROLL for (int i = 0; i < MR; i++) vec_store_part(c + i * ld_c, sum[i][0], count);              \
        }                                                                                                    \
    }

/* Rows 1 .. TILE_ROWS, in vectors of 1 and of TILE_VECTORS; wide ones for one to three rows, where two
 * vectors would leave the FMA units waiting for each other (latency 4, two a cycle). */
#if TILE_ROWS == 14
#define TILE_HEIGHTS(X, NV) \
    X(1, NV) X(2, NV) X(3, NV) X(4, NV) X(5, NV) X(6, NV) X(7, NV) X(8, NV) X(9, NV) X(10, NV) X(11, NV) \
    X(12, NV) X(13, NV) X(14, NV)
#elif TILE_ROWS == 6
#define TILE_HEIGHTS(X, NV) X(1, NV) X(2, NV) X(3, NV) X(4, NV) X(5, NV) X(6, NV)
#else
#define TILE_HEIGHTS(X, NV) X(1, NV) X(2, NV) X(3, NV) X(4, NV)
#endif
TILE_HEIGHTS(DEFINE_TILE, 1)
#if TILE_VECTORS == 4
TILE_HEIGHTS(DEFINE_TILE, 4)
#else
TILE_HEIGHTS(DEFINE_TILE, 2)
DEFINE_TILE(2, 4)
DEFINE_TILE(3, 4)
#endif
DEFINE_TILE(1, 8)

#define TILE_ENTRY(MR, NV) FN(tile_##MR##x##NV),
static const FN(tile_function) FN(narrow_tiles)[] = {NULL, TILE_HEIGHTS(TILE_ENTRY, 1)};
#if TILE_VECTORS == 4
static const FN(tile_function) FN(tiles)[] = {NULL, TILE_HEIGHTS(TILE_ENTRY, 4)};
static const FN(tile_function) FN(wide_tiles)[] = {NULL, FN(tile_1x8), FN(tile_2x4), FN(tile_3x4)};
#else
static const FN(tile_function) FN(tiles)[] = {NULL, TILE_HEIGHTS(TILE_ENTRY, 2)};
static const FN(tile_function) FN(wide_tiles)[] = {NULL, FN(tile_1x8), FN(tile_2x4), FN(tile_3x4)};
#endif
static const int FN(wide_vectors)[] = {0, 8, 4, 4};
#undef TILE_ENTRY
#undef TILE_A

/* What the tile leaves to do on columns [0, count) of its m rows, just stored and still in L1. */
static void FN(finish)(const fastnn_epilogue *e, ptrdiff_t m, ptrdiff_t count, const REAL *gate, REAL *c,
                       ptrdiff_t ld_c)
{
    if (e->gate)
        FN(activation_backward)(e->gate_activation, m, count, gate, e->ld_gate, c, ld_c, c, ld_c);
}

/* One column strip of a block of rows: `count` columns in tiles of one kind. Tiles differ by at most one
 * row in height, so that 32 rows are 11 + 11 + 10 rather than 14 + 14 + 4. */
static void FN(strip)(FN(tile_task) *t, const FN(tile_function) *tiles, ptrdiff_t m, ptrdiff_t k, const REAL *a,
                      const REAL *b, REAL *c, ptrdiff_t count, const fastnn_epilogue *last, const REAL *gate)
{
    const ptrdiff_t n_tiles = (m + TILE_ROWS - 1) / TILE_ROWS;
    for (ptrdiff_t q = 0, i = 0; q < n_tiles; q++) {
        const ptrdiff_t height = (m - i) / (n_tiles - q);
        REAL *ci = c + i * t->ld_c;
        tiles[height](t, k, (const REAL *)((const char *)a + i * t->a_row), b, ci, count);
        if (last)
            FN(finish)(last, height, count, gate ? gate + i * last->ld_gate : NULL, ci, t->ld_c);
        i += height;
    }
}

/* Rows of b copied to the stack: columns [0, count) of k rows, zeros up to `width`. */
static void FN(copy_panel)(ptrdiff_t k, ptrdiff_t count, const REAL *b, ptrdiff_t ld_b, ptrdiff_t width,
                           REAL *panel)
{
    for (ptrdiff_t p = 0; p < k; p++, b += ld_b, panel += width)
        for (ptrdiff_t j = 0; j < width; j += LANES) {
            const ptrdiff_t rest = count - j;
            vec_store(panel + j, rest >= LANES ? vec_load(b + j)
                                               : rest > 0 ? vec_load_part(b + j, rest) : vec_set(0));
        }
}

/* Rows [0, m) of c for one k block. tail_is_readable: a whole vector may be read at the end of b's rows. */
static void FN(product_block)(FN(tile_task) t, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const REAL *a,
                              const REAL *b, int tail_is_readable, REAL *c,
                              const fastnn_epilogue *e, int last)
{
    const fastnn_epilogue *finish = last && e && e->gate ? e : NULL;
    const REAL *bias = last && e ? e->bias : NULL, *gate = e ? e->gate : NULL;
    const ptrdiff_t ld_b = t.ld_b;
    t.relu = last && e && e->activation == FASTNN_relu;
    REAL copy[K_BLOCK * PANEL] __attribute__((aligned(64)));
    const int pack = m >= PACK_MIN_ROWS && ld_b * (ptrdiff_t)sizeof(REAL) % PACK_STRIDE_BYTES == 0;

    for (ptrdiff_t j = 0; j < n;) {
        const ptrdiff_t rest = n - j;
        const REAL *bj = b + j;
        const FN(tile_function) *tiles = FN(tiles);
        ptrdiff_t width = PANEL, count = PANEL;
        if (m <= 3 && rest >= FN(wide_vectors)[m] * LANES) {
            tiles = FN(wide_tiles);
            width = count = FN(wide_vectors)[m] * LANES;
        } else if (rest < PANEL) {
            tiles = FN(narrow_tiles);
            width = LANES;
            count = rest < LANES ? rest : LANES;
        }
        t.ld_b = ld_b;
        if ((pack && width == PANEL) || (count < width && !tail_is_readable)) {
            FN(copy_panel)(k, count, bj, ld_b, width, copy);
            bj = copy;
            t.ld_b = width;
        }
        t.bias = bias ? bias + j : NULL;
        FN(strip)(&t, tiles, m, k, a, bj, c + j, count, finish, gate ? gate + j : NULL);
        j += count;
    }
}

static void FN(product)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const REAL *a, ptrdiff_t a_row, ptrdiff_t a_col,
                        const REAL *b, ptrdiff_t ld_b, ptrdiff_t b_slack, REAL *c,
                        ptrdiff_t ld_c, const fastnn_epilogue *e)
{
    /* The last vector of a row reaches so many elements into what follows. */
    const ptrdiff_t reach = (LANES - n % LANES) % LANES;
    FN(tile_task) t = {.a_row = a_row * (ptrdiff_t)sizeof(REAL), .a_col = a_col * (ptrdiff_t)sizeof(REAL),
                       .ld_b = ld_b, .ld_c = ld_c};
    for (ptrdiff_t i = 0; i < m; i += M_BLOCK) {
        const ptrdiff_t rows = m - i < M_BLOCK ? m - i : M_BLOCK;
        fastnn_epilogue block = e ? *e : (fastnn_epilogue){0};
        if (block.gate)
            block.gate = (const REAL *)block.gate + i * block.ld_gate;
        ptrdiff_t p = 0;
        do { /* once also for k = 0: the sum over nothing is zero */
            const ptrdiff_t depth = k - p < K_BLOCK ? k - p : K_BLOCK;
            t.first = p == 0;
            FN(product_block)(t, rows, n, depth, a + i * a_row + p * a_col, b + p * ld_b,
                              (k - p - depth) * ld_b + b_slack >= reach, c + i * ld_c, &block, p + depth >= k);
            p += depth;
        } while (p < k);
        if (block.activation != FASTNN_identity && block.activation != FASTNN_relu)
            FN(activation)(block.activation, rows, n, c + i * ld_c, ld_c, c + i * ld_c, ld_c);
    }
}

static void FN(matmul)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *a, ptrdiff_t a_row, ptrdiff_t a_col,
                       const void *b, ptrdiff_t ld_b, ptrdiff_t b_slack, void *c, ptrdiff_t ld_c,
                       const fastnn_epilogue *e)
{
    FN(product)(m, n, k, a, a_row, a_col, b, ld_b, b_slack, c, ld_c, e);
}

static void FN(matmul_packed)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *a, ptrdiff_t a_row,
                              ptrdiff_t a_col, const void *panels, void *c, ptrdiff_t ld_c,
                              const fastnn_epilogue *e)
{
    /* One panel is an ordinary b with rows PANEL apart, so that strip by strip the same code serves. */
    const REAL *b = panels;
    for (ptrdiff_t j = 0; j < n; j += PANEL) {
        const ptrdiff_t width = n - j < PANEL ? n - j : PANEL;
        fastnn_epilogue part = e ? *e : (fastnn_epilogue){0};
        if (part.bias)
            part.bias = (const REAL *)part.bias + j;
        if (part.gate)
            part.gate = (const REAL *)part.gate + j;
        FN(product)(m, width, k, a, a_row, a_col, b + j * k, PANEL, PANEL, (REAL *)c + j, ld_c, &part);
    }
}

/* LANES x LANES numbers across the diagonal, in log2(LANES) rounds: each interleaves row i with row
 * i + LANES / 2. */
#if !ISA_GENERIC && LANES > 2
static inline __attribute__((always_inline)) void FN(transpose)(vec r[LANES])
{
    UNROLL for (int round = 1; round < LANES; round *= 2) {
        vec s[LANES];
        UNROLL for (int i = 0; i < LANES / 2; i++) {
            s[2 * i] = vec_interleave_low(r[i], r[i + LANES / 2]);
            s[2 * i + 1] = vec_interleave_high(r[i], r[i + LANES / 2]);
        }
        UNROLL for (int i = 0; i < LANES; i++) r[i] = s[i];
    }
}
#endif

static void FN(pack_transposed)(ptrdiff_t first, ptrdiff_t last, ptrdiff_t columns, const void *w_,
                                ptrdiff_t ld_w, void *panels_)
{
    const REAL *w = w_;
    REAL *panels = panels_;
    for (ptrdiff_t q = first; q < last; q += PANEL) {
        REAL *panel = panels + q * columns;
        for (ptrdiff_t r = 0; r < PANEL; r += LANES) {
            const REAL *rows = w + (q + r) * ld_w;
            const ptrdiff_t n_rows = last - q - r < 0 ? 0 : last - q - r < LANES ? last - q - r : LANES;
            ptrdiff_t p = 0;
#if !ISA_GENERIC && LANES > 2
            if (n_rows == LANES)
                for (; p + LANES <= columns; p += LANES) {
                    /* the other core has read them */
                    UNROLL for (int i = 0; i < LANES; i++)
                        prefetch_for_writing(panel + (p + 2 * LANES + i) * PANEL + r);
                    vec block[LANES];
                    UNROLL for (int i = 0; i < LANES; i++) block[i] = vec_load(rows + i * ld_w + p);
                    FN(transpose)(block);
                    UNROLL for (int i = 0; i < LANES; i++) vec_store(panel + (p + i) * PANEL + r, block[i]);
                }
#endif
            for (; p < columns; p++)
                for (ptrdiff_t i = 0; i < LANES; i++)
                    panel[p * PANEL + r + i] = i < n_rows ? rows[i * ld_w + p] : 0;
        }
    }
}

/* Four running sums over rows 0, 4, .., 1, 5, .. and so on, then a tree: one order for every width, and
 * four additions in flight where n is narrow. */
static void FN(sum_rows)(ptrdiff_t m, ptrdiff_t n, const void *a_, ptrdiff_t ld_a, void *out_)
{
    const REAL *a = a_;
    REAL *out = out_;
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        const ptrdiff_t count = n - j < LANES ? n - j : LANES;
        vec s[4] = {vec_set(0), vec_set(0), vec_set(0), vec_set(0)};
        ptrdiff_t i = 0;
        if (count == LANES) {
            for (; i + 4 <= m; i += 4)
                UNROLL for (int q = 0; q < 4; q++) s[q] += vec_load(a + (i + q) * ld_a + j);
            for (; i < m; i++) s[i % 4] += vec_load(a + i * ld_a + j);
        } else {
            for (; i + 4 <= m; i += 4)
                UNROLL for (int q = 0; q < 4; q++) s[q] += vec_load_part(a + (i + q) * ld_a + j, count);
            for (; i < m; i++) s[i % 4] += vec_load_part(a + i * ld_a + j, count);
        }
        vec_store_part(out + j, (s[0] + s[1]) + (s[2] + s[3]), count);
    }
}

/* a = a * b, in place. */
static void FN(multiply)(ptrdiff_t m, ptrdiff_t n, void *a_, ptrdiff_t ld_a, const void *b_, ptrdiff_t ld_b)
{
    REAL *a = a_;
    const REAL *b = b_;
    for (ptrdiff_t i = 0; i < m; i++, a += ld_a, b += ld_b) {
        ptrdiff_t j = 0;
        for (; j + LANES <= n; j += LANES) vec_store(a + j, vec_load(a + j) * vec_load(b + j));
        if (j < n)
            vec_store_part(a + j, vec_load_part(a + j, n - j) * vec_load_part(b + j, n - j), n - j);
    }
}
