/* Matrix products. One register-blocked tile (tiles_template.h) serves all three products of training:
 *   forward   z  = x w        a = x,     b = w in place
 *   weights   dw = x^T dz     a = x^T (strides swapped), b = dz in place
 *   input     dx = dz w^T     a = dz,    b = w^T, which is turned panel by panel
 * A layer with a few outputs and many inputs is made of dot products instead (dots_template.h), in an order of their own.
 * Of all others lanes run along n, every sum runs over p = 0, 1, .. with one FMA each: whichever path, tile, block or
 * thread computes c[i, j], its bits are the same. Between k blocks a sum is stored and loaded, which rounds
 * nothing; and a b is b a, so that the product may be computed as c^T = b^T a^T, lanes along m, where that
 * fills the lanes better or turns less. */
#include "tiles_template.h"
#include "narrow_template.h"
#include "dots_template.h"

/* ---------------------------------------------------------------- across the diagonal */

/* LANES x LANES numbers across the diagonal, in log2(LANES) rounds: each interleaves row i with row
 * i + LANES / 2. */
#undef TURNS_IN_REGISTERS
#if !ISA_GENERIC && LANES > 2
#define TURNS_IN_REGISTERS 1
INLINE void FN(transpose)(vec r[LANES])
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
#else
#define TURNS_IN_REGISTERS 0
#endif

/* to[p, i] = from[i, p] for i < rows and p < columns; zeros for rows <= i < width. */
static void FN(turn)(ptrdiff_t rows, ptrdiff_t columns, const REAL *from, ptrdiff_t ld_from, ptrdiff_t width,
                     REAL *to, ptrdiff_t ld_to)
{
    for (ptrdiff_t i = 0; i < width; i += LANES) {
        const ptrdiff_t n_rows = rows - i < 0 ? 0 : rows - i < LANES ? rows - i : LANES;
        const ptrdiff_t n_to = width - i < LANES ? width - i : LANES;
        const REAL *row = from + i * ld_from;
        ptrdiff_t p = 0;
#if TURNS_IN_REGISTERS
        /* 16 bytes of a row at a time: 1 to 9 % of a product faster than whole vectors, whose shuffles are twice as many
         * and of twice the width. */
        const ptrdiff_t from_row = ld_from * (ptrdiff_t)sizeof(REAL);
        if (n_rows == LANES)
            for (; p + CHUNK <= columns; p += CHUNK)
                UNROLL for (int h = 0; h < LANES; h += SLIM_LANES) {
                    const REAL *low = row + h * ld_from + p;
                    slim block[CHUNK];
                    FN(load_columns)(low, low + CHUNK * ld_from, from_row, 3 * from_row, block);
                    UNROLL for (int q = 0; q < CHUNK; q++) slim_store(to + (p + q) * ld_to + i + h, block[q]);
                }
        for (; p < columns && n_rows > 2; p += LANES) { /* the ragged edges */
            const ptrdiff_t n_columns = columns - p < LANES ? columns - p : LANES;
            vec block[LANES];
            UNROLL for (int q = 0; q < LANES; q++)
                block[q] = q < n_rows ? vec_load_part(row + q * ld_from + p, n_columns) : vec_set(0);
            FN(transpose)(block);
            UNROLL for (int q = 0; q < LANES; q++)
                if (q < n_columns)
                    vec_store_part(to + (p + q) * ld_to + i, block[q], n_to);
        }
#endif
        for (; p < columns; p++)
            for (ptrdiff_t q = 0; q < n_to; q++)
                to[p * ld_to + i + q] = q < n_rows ? row[q * ld_from + p] : 0;
    }
}

/* ---------------------------------------------------------------- panels of b */

/* b (k, n): element (p, j) is b[p * ld + j], or, turned, b[j * ld + p]. */
typedef struct {
    const REAL *b;
    ptrdiff_t ld;
    int turned;
    int pack;             /* full panels are copied before use; turned ones always are */
    int tail_is_readable; /* a whole vector may be read at the end of the rows of this k block */
    int far_a, far_b, far_c; /* what it is multiplied with, it, the product: more than fits into L2 */
} FN(operand);

/* Rows [first, last) of a panel, columns [j, j + count), zeros up to `width`. */
static void FN(copy_panel)(const FN(operand) *o, ptrdiff_t first, ptrdiff_t last, ptrdiff_t j, ptrdiff_t count,
                           ptrdiff_t width, REAL *panel)
{
    panel += first * width;
    if (o->turned) {
        FN(turn)(count, last - first, o->b + j * o->ld + first, o->ld, width, panel, width);
        return;
    }
    const REAL *b = o->b + first * o->ld + j;
    for (ptrdiff_t p = first; p < last; p++, b += o->ld, panel += width)
        for (ptrdiff_t i = 0; i < width; i += LANES) {
            const ptrdiff_t rest = count - i;
            vec_store(panel + i, rest >= LANES ? vec_load(b + i)
                                               : rest > 0 ? vec_load_part(b + i, rest) : vec_set(0));
        }
}

/* What the tile leaves to do on columns [j, j + count) of its m rows, just stored and still in L1. */
static void FN(finish)(const fastnn_epilogue *e, ptrdiff_t m, ptrdiff_t count, const REAL *gate, REAL *c,
                       ptrdiff_t ld_c)
{
    if (e->activation != FASTNN_identity)
        FN(activation)(e->activation, m, count, c, ld_c, c, ld_c);
    if (gate)
        FN(activation_backward)(e->gate_activation, m, count, gate, e->ld_gate, c, ld_c, c, ld_c);
}

/* A column strip of a block of rows, and meanwhile the panel after it. */
typedef struct {
    ptrdiff_t m, k, count;      /* count: columns of the strip */
    const FN(tile_function) *tiles;
    const REAL *a, *b, *gate;
    REAL *c;
    const fastnn_epilogue *last; /* NULL where nothing is left to finish */
    ptrdiff_t next;              /* first column of the panel after it, or -1 */
    REAL *next_copy;             /* where that one is copied to, or NULL */
    int far_a, far_c;            /* rows of a, and of c, are asked for */
} FN(strip_task);

/* Rows of a, or of x where a is x^T, that the next tile reads. */
INLINE void FN(ask_for_a)(FN(asked) *asked, const FN(tile_task) *t, ptrdiff_t height, ptrdiff_t k, const char *a)
{
    if (t->a_row == sizeof(REAL)) {
        FN(ask)(asked, a, k, t->a_col, 0);
        return;
    }
    for (ptrdiff_t r = 0; r < height; r++)
        FN(ask)(asked, a + r * t->a_row, (k * t->a_col + PANEL_BYTES - 1) / PANEL_BYTES, PANEL_BYTES, 0);
}

/* Tiles differ by at most one row in height, so that 32 rows are 11 + 11 + 10 rather than 14 + 14 + 4. Each
 * fetches its share of the next panel into L2 while it computes, and copies it where it must be copied: so
 * the misses of a copy, which took a quarter of a product whose w was not in L2, are waited for by nobody. Nor are
 * those of the sums that the next tile adds to, or writes. */
static void FN(strip)(FN(tile_task) *t, const FN(operand) *o, const FN(strip_task) *s)
{
    const ptrdiff_t n_tiles = (s->m + TILE_ROWS - 1) / TILE_ROWS, size = sizeof(REAL);
    ptrdiff_t fetched = 0;
    for (ptrdiff_t q = 0, i = 0; q < n_tiles; q++) {
        const ptrdiff_t height = (s->m - i) / (n_tiles - q), left = n_tiles - q - 1;
        const ptrdiff_t next_height = left ? (s->m - i - height) / left : s->next < 0 ? 0 : s->m / n_tiles;
        const char *a = (const char *)s->a + i * t->a_row;
        REAL *c = s->c + i * t->ld_c;
        ptrdiff_t until = s->next < 0 ? 0 : (s->k * (q + 1) / n_tiles + LANES - 1) / LANES * LANES;
        until = until < s->k ? until : s->k;
        FN(asked) asked;
        asked.total = asked.count = 0;
        if (s->far_c)
            FN(ask)(&asked, left ? c + height * t->ld_c : s->c + s->count, next_height, t->ld_c * size, 1);
        if (o->turned && o->far_b) {
            for (ptrdiff_t p = fetched; p < until; p += PANEL)
                FN(ask)(&asked, o->b + s->next * o->ld + p, PANEL, o->ld * size, 0);
        } else if (o->turned && until > fetched) {
            for (ptrdiff_t r = 0; r < PANEL; r++)
                for (ptrdiff_t p = fetched; p < until; p += 64 / size)
                    __builtin_prefetch(o->b + (s->next + r) * o->ld + p, 0, 2);
        } else {
            FN(ask)(&asked, o->b + fetched * o->ld + s->next, until - fetched, o->ld * size, 0);
        }
        if (s->far_a && left)
            FN(ask_for_a)(&asked, t, next_height, s->k, a + height * t->a_row);
        FN(ask_while)(t, &asked, s->k, o->far_b);
        s->tiles[height](t, s->k, (const REAL *)a, s->b, c, s->count);
        if (s->last)
            FN(finish)(s->last, height, s->count, s->gate ? s->gate + i * s->last->ld_gate : NULL, c, t->ld_c);
        if (s->next_copy && until > fetched)
            FN(copy_panel)(o, fetched, until, s->next, PANEL, PANEL, s->next_copy);
        fetched = until;
        i += height;
    }
}

/* Rows [0, m) of c for one k block. */
static void FN(product_block)(FN(tile_task) t, const FN(operand) *o, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k,
                              const REAL *a, REAL *c, const fastnn_epilogue *e, int last)
{
    const REAL *bias = last ? e->bias : NULL;
    fastnn_epilogue rest_of_e = *e;
    t.relu = last && e->activation == FASTNN_relu;
    if (t.relu)
        rest_of_e.activation = FASTNN_identity;
    const int finishes = last && (rest_of_e.activation != FASTNN_identity || e->gate);
    REAL copies[2][K_BLOCK * PANEL] __attribute__((aligned(64)));
    int copied = -1; /* which of them holds the panel at j */

    for (ptrdiff_t j = 0; j < n;) {
        const ptrdiff_t rest = n - j;
        FN(strip_task) s = {.m = m, .k = k, .a = a, .c = c + j, .tiles = FN(tiles), .count = PANEL, .next = -1};
        ptrdiff_t width = PANEL;
        if (m <= 3 && rest >= FN(wide_vectors)[m] * LANES && !o->turned) {
            s.tiles = FN(wide_tiles);
            width = s.count = FN(wide_vectors)[m] * LANES;
        } else if (rest < PANEL) {
            s.tiles = FN(narrow_tiles);
            width = LANES;
            s.count = rest < LANES ? rest : LANES;
        }
        const int packs = o->turned || (o->pack && width == PANEL) || (s.count < width && !o->tail_is_readable);
        if (packs && copied < 0) {
            copied = 0;
            FN(copy_panel)(o, 0, k, j, s.count, width, copies[0]);
        }
        s.b = packs ? copies[copied] : o->b + j;
        t.ld_b = packs ? width : o->ld;
        t.bias = bias ? bias + j : NULL;
        s.gate = e->gate ? (const REAL *)e->gate + j : NULL;
        s.last = finishes ? &rest_of_e : NULL;
        if (rest > s.count)
            s.next = j + s.count;
        const int copies_next = width == PANEL && rest >= 2 * PANEL && (o->turned || o->pack);
        s.next_copy = copies_next ? copies[1 - copied] : NULL;
        s.far_a = j == 0 && o->far_a;
        s.far_c = o->far_c;
        FN(strip)(&t, o, &s);
        copied = copies_next ? 1 - copied : -1;
        j += s.count;
    }
}

static void FN(product)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const REAL *a, ptrdiff_t a_row, ptrdiff_t a_col,
                        const REAL *b, ptrdiff_t ld_b, int b_turned, ptrdiff_t b_slack, REAL *c, ptrdiff_t ld_c,
                        const fastnn_epilogue *e)
{
    /* The last vector of a row reaches so many elements into what follows. */
    const ptrdiff_t reach = (LANES - n % LANES) % LANES;
    FN(tile_task) t = {.a_row = a_row * (ptrdiff_t)sizeof(REAL), .a_col = a_col * (ptrdiff_t)sizeof(REAL),
                       .ld_c = ld_c};
    FN(operand) o = {.ld = ld_b, .turned = b_turned,
                     .far_a = m * k * (ptrdiff_t)sizeof(REAL) >= FAR_BYTES,
                     .far_b = k * n * (ptrdiff_t)sizeof(REAL) >= FAR_BYTES,
                     .far_c = m * n * (ptrdiff_t)sizeof(REAL) >= FAR_BYTES};
    const ptrdiff_t most = M_BLOCK_BYTES / (K_BLOCK * (ptrdiff_t)sizeof(REAL));
    ptrdiff_t m_blocks = (m + most - 1) / most;
    for (ptrdiff_t i = 0, rows; i < m; i += rows) {
        rows = (m - i) / m_blocks--;
        o.pack = rows >= PACK_MIN_ROWS && ld_b * (ptrdiff_t)sizeof(REAL) % PACK_STRIDE_BYTES == 0;
        fastnn_epilogue block = e ? *e : (fastnn_epilogue){0};
        if (fastnn_is_rowwise(block.activation))
            block.activation = FASTNN_identity; /* needs whole rows */
        if (block.gate)
            block.gate = (const REAL *)block.gate + i * block.ld_gate;
        /* Blocks of even depth, in whole lines; one also for k = 0: the sum over nothing is zero. */
        ptrdiff_t k_blocks = k > K_BLOCK ? (k + K_BLOCK - 1) / K_BLOCK : 1;
        for (ptrdiff_t p = 0, depth; k_blocks > 0; p += depth) {
            depth = ((k - p) / k_blocks-- + 15) / 16 * 16;
            depth = depth < k - p ? depth : k - p;
            t.first = p == 0;
            o.b = b + p * (b_turned ? 1 : ld_b);
            o.tail_is_readable = (k - p - depth) * ld_b + b_slack >= reach;
            FN(product_block)(t, &o, rows, n, depth, a + i * a_row + p * a_col, c + i * ld_c, &block, k_blocks == 0);
        }
        if (e && fastnn_is_rowwise(e->activation))
            FN(activation)(e->activation, rows, n, c + i * ld_c, ld_c, c + i * ld_c, ld_c);
    }
}

/* The same where there is nothing to prepare: a few tiles over weights that L1 holds. What `product` weighs for each
 * strip and tile took a tenth of 64-64-10 on 16 rows. 0: it has to do it. */
INLINE int FN(product_lean)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const REAL *a, ptrdiff_t a_row, ptrdiff_t a_col,
                            const REAL *b, ptrdiff_t ld_b, ptrdiff_t b_slack, REAL *c, ptrdiff_t ld_c,
                            const fastnn_epilogue *e)
{
    const ptrdiff_t size = sizeof(REAL), rest = n % PANEL, reach = (LANES - n % LANES) % LANES;
    if (m < 4 || m > LEAN_ROWS || k > K_BLOCK || k * n * size > LEAN_BYTES || b_slack < reach || (e && e->gate))
        return 0;
    const int relu = e && e->activation == FASTNN_relu;
    if (e && e->activation != FASTNN_identity && !relu)
        return 0;
    FN(tile_task) t = {.a_row = a_row * size, .a_col = a_col * size, .ld_b = ld_b, .ld_c = ld_c, .first = 1, .relu = relu};
    const REAL *bias = e ? e->bias : NULL;
    /* As in a strip, heights differ by one row at most; the lower tiles come first. */
    const ptrdiff_t n_tiles = (m + TILE_ROWS - 1) / TILE_ROWS, height = m / n_tiles, high = m - height * n_tiles;
    for (ptrdiff_t j = 0; j < n;) {
        const int is_wide = j < n - rest;
        const ptrdiff_t count = is_wide ? PANEL : n - j < LANES ? n - j : LANES;
        const FN(tile_function) *tiles = is_wide ? FN(tiles) : FN(narrow_tiles);
        t.bias = bias ? bias + j : NULL;
        for (ptrdiff_t q = 0, i = 0, rows; q < n_tiles; q++, i += rows) {
            rows = height + (q >= n_tiles - high);
            tiles[rows](&t, k, a + i * a_row, b + j, c + i * ld_c + j, count);
        }
        j += count;
    }
    return 1;
}

/* ---------------------------------------------------------------- paths */

/* The product as c^T = b^T a^T, block by block into a buffer that is then turned into its place. Of b, element
 * (p, j) is b[p * b_row + j * b_col]. a is read in place where its rows are side by side (as in dw), else
 * turned. */
static void FN(product_turned)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const REAL *a, ptrdiff_t a_row,
                               ptrdiff_t a_col, const REAL *b, ptrdiff_t b_row, ptrdiff_t b_col, REAL *c,
                               ptrdiff_t ld_c, const fastnn_epilogue *e)
{
    REAL buffer[TURN_ELEMENTS] __attribute__((aligned(64)));
    const int in_place = a_row == 1;
    const fastnn_epilogue none = {0};
    const ptrdiff_t most = n < TURN_COLUMNS ? n : TURN_COLUMNS, wide = TURN_ELEMENTS / most / LANES * LANES;
    for (ptrdiff_t j = 0; j < n; j += most)
        for (ptrdiff_t i = 0; i < m; i += wide) {
            const ptrdiff_t count = n - j < most ? n - j : most, rows = m - i < wide ? m - i : wide;
            REAL *to = c + i * ld_c + j;
            FN(product)(count, rows, k, b + j * b_col, b_col, b_row, a + i * a_row, in_place ? a_col : a_row,
                        !in_place, 0, buffer, wide, &none);
            FN(turn)(count, rows, buffer, wide, count, to, ld_c);
            if (!e)
                continue;
            if (e->bias)
                for (ptrdiff_t r = 0; r < rows; r++)
                    for (ptrdiff_t q = 0; q < count; q++) to[r * ld_c + q] += ((const REAL *)e->bias)[j + q];
            if (e->gate)
                FN(activation_backward)(e->gate_activation, rows, count,
                                        (const REAL *)e->gate + i * e->ld_gate + j, e->ld_gate, to, ld_c, to, ld_c);
        }
    if (e && e->activation != FASTNN_identity)
        FN(activation)(e->activation, m, n, c, ld_c, c, ld_c);
}

/* Which way a product goes; the benchmark of products prints it. Turning costs about 0.4 cycles a number, an FMA
 * of one vector one cycle: w^T by panels costs what 6 more of m rows would; the whole product turned what 6 more of
 * the columns of a block and of k would. */
static int FN(path)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, ptrdiff_t a_row, ptrdiff_t a_col, int b_turned,
                    ptrdiff_t ld_b)
{
    const int a_turns = m >= 16 && (a_row == 1 || a_col == 1);
    if (b_turned && k == 1 && ld_b == 1)
        return FASTNN_PATH_in_place; /* one column is one row */
    /* One row is the product of w, whose rows are read as they lie, and one column: in float32 784x128 6.3 us, 512x512
     * 20 us (50 by panels). */
    if (b_turned && m == 1 && n >= SLIM_LANES && k >= CHUNK)
        return FASTNN_PATH_narrow;
    if (b_turned) {
        const ptrdiff_t block = n < TURN_COLUMNS ? n : TURN_COLUMNS;
        return a_turns && k * block >= m * (k + block) ? FASTNN_PATH_turned : FASTNN_PATH_panels;
    }
    /* Lanes along n would be idle. Along m they need no turning in dw; else they pay where n is a few. */
    if (a_turns && a_row == 1 && n < TURN_NARROW_IN_PLACE)
        return FASTNN_PATH_turned;
    if (a_col == 1 && FN(is_narrow)(m, n, k, a_row))
        return FASTNN_PATH_narrow;
    return FASTNN_PATH_in_place;
}

/* b: of w^T where b_turned. */
static void FN(product_by_path)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const REAL *a, ptrdiff_t a_row,
                                ptrdiff_t a_col, const REAL *b, ptrdiff_t ld_b, int b_turned, ptrdiff_t b_slack,
                                REAL *c, ptrdiff_t ld_c, const fastnn_epilogue *e)
{
    switch (FN(path)(m, n, k, a_row, a_col, b_turned, ld_b)) {
    case FASTNN_PATH_narrow:
        if (!b_turned) {
            FN(product_narrow)(m, n, k, a, a_row, b, ld_b, c, ld_c, e);
            return;
        }
        if (e && (e->bias || fastnn_is_rowwise(e->activation)))
            break; /* are of a row, which is a column there */
        fastnn_epilogue column = e ? *e : (fastnn_epilogue){0};
        column.ld_gate = 1;
        FN(product_narrow)(n, 1, k, b, ld_b, a, a_col, c, 1, &column);
        return;
    case FASTNN_PATH_turned:
        FN(product_turned)(m, n, k, a, a_row, a_col, b, b_turned ? 1 : ld_b, b_turned ? ld_b : 1, c, ld_c, e);
        return;
    case FASTNN_PATH_in_place:
        if (!b_turned && FN(product_lean)(m, n, k, a, a_row, a_col, b, ld_b, b_slack, c, ld_c, e))
            return;
        b_turned = 0;
    }
    FN(product)(m, n, k, a, a_row, a_col, b, ld_b, b_turned, b_slack, c, ld_c, e);
}

static void FN(matmul)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *a, ptrdiff_t a_row, ptrdiff_t a_col,
                       const void *b, ptrdiff_t ld_b, ptrdiff_t b_slack, void *c, ptrdiff_t ld_c,
                       const fastnn_epilogue *e)
{
    FN(product_by_path)(m, n, k, a, a_row, a_col, b, ld_b, 0, b_slack, c, ld_c, e);
}

static void FN(matmul_transposed)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *a, ptrdiff_t a_row,
                                  ptrdiff_t a_col, const void *w, ptrdiff_t ld_w, void *c, ptrdiff_t ld_c,
                                  const fastnn_epilogue *e)
{
    FN(product_by_path)(m, n, k, a, a_row, a_col, w, ld_w, 1, 0, c, ld_c, e);
}

static void FN(dots)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *x, ptrdiff_t x_row, ptrdiff_t x_col, const void *w,
                     ptrdiff_t w_row, ptrdiff_t w_col, void *c, ptrdiff_t ld_c, const fastnn_epilogue *e)
{
    FN(product_dots)(m, n, k, x, x_row, x_col, w, w_row, w_col, c, ld_c, 1, e);
}

static void FN(row_dots)(ptrdiff_t n_in, ptrdiff_t n_out, const void *dz, ptrdiff_t dz_col, const void *w, ptrdiff_t ld_w,
                         void *dx, const fastnn_epilogue *e)
{
    FN(product_dots)(n_in, 1, n_out, w, ld_w, 1, dz, dz_col, 1, dx, 1, 1, NULL);
    if (e && e->gate)
        FN(activation_backward)(e->gate_activation, 1, n_in, e->gate, e->ld_gate, dx, n_in, dx, n_in);
}

static void FN(dense)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *x, ptrdiff_t x_row, ptrdiff_t x_col, const void *w,
                      ptrdiff_t ld_w, ptrdiff_t w_slack, void *c, ptrdiff_t ld_c, const fastnn_epilogue *e)
{
    if (fastnn_by_dots(n, k))
        FN(product_dots)(m, n, k, x, x_row, x_col, w, ld_w, 1, c, ld_c, 1, e);
    else
        FN(product_by_path)(m, n, k, x, x_row, x_col, w, ld_w, 0, w_slack, c, ld_c, e);
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
