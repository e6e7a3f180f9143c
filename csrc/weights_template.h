/* The weights phase of a training step: gradient of rows of a weight matrix, and at once their update.
 *
 * The gradient of a tile is in registers when its sum is complete; from there it goes through a few lines of L1 into
 * the optimizer, so that neither is it written to memory nor are the weights read twice. Plain SGD, Adam and AdamW do
 * their step on whole panels while the next tile is summed (following_template.h), unless Adam's weights and states come
 * from memory (FOLLOW_BYTES); all else is done at once, on weights that were asked for before. */

/* Room for a tile's sums; rows up to a multiple of LANES, so that they can be transposed. */
#define SUMS_ROWS ((TILE_ROWS + LANES - 1) / LANES * LANES)
#define SUMS_WIDTH (8 * LANES)

/* Columns [0, count) of rows of a matrix will be written soon. */
static void FN(ask_for_rows)(ptrdiff_t m, ptrdiff_t count, const REAL *w, ptrdiff_t ld_w)
{
    for (ptrdiff_t i = 0; i < m; i++) {
        const char *row = (const char *)(w + i * ld_w), *end = (const char *)(w + i * ld_w + count);
        for (; row < end; row += 64) prefetch_for_writing(row);
        prefetch_for_writing(end - 1); /* rows need not begin with a line */
    }
}

static void FN(ask_for_parameters)(const fastnn_target *t, ptrdiff_t at, ptrdiff_t m, ptrdiff_t count)
{
    FN(ask_for_rows)(m, count, (const REAL *)t->w + at, t->ld);
    for (int q = 0; q < FASTNN_STATES && t->states[q]; q++)
        FN(ask_for_rows)(m, count, (const REAL *)t->states[q] + at, t->ld);
}

/* The same, of the tile that sums their gradients: where they come from L3 or memory. */
static void FN(ask_in_tile)(FN(asked) *a, const fastnn_target *t, ptrdiff_t at, ptrdiff_t m)
{
    const ptrdiff_t ld = t->ld * (ptrdiff_t)sizeof(REAL);
    FN(ask)(a, (const REAL *)t->w + at, m, ld, 1);
    for (int q = 0; q < FASTNN_STATES && t->states[q]; q++) FN(ask)(a, (const REAL *)t->states[q] + at, m, ld, 1);
}

/* A share of the lines that the next step gathers: asked for a few at a time, memory brings them while this step
 * computes; all at once would wait for memory after the first two dozen. */
typedef struct {
    const fastnn_ahead *rows;
    ptrdiff_t row, at, share; /* next row, next byte of it, lines a tile */
} FN(asking);

static FN(asking) FN(begin_asking)(const fastnn_ahead *rows, ptrdiff_t n_tiles)
{
    FN(asking) a = {.rows = rows};
    if (rows)
        a.share = rows->m * (rows->row_bytes / 64 + 1) / n_tiles + 1;
    return a;
}

static void FN(ask_for_next_rows)(FN(asking) *a)
{
    const fastnn_ahead *rows = a->rows;
    if (!rows)
        return;
    for (ptrdiff_t line = 0; line < a->share && a->row < rows->m; line++) {
        /* whatever the number is: a prefetch never fails */
        const uintptr_t offset = (uintptr_t)rows->order[a->row] * (uintptr_t)rows->ld_bytes + (uintptr_t)a->at;
        __builtin_prefetch((const void *)((uintptr_t)rows->x + offset), 0, 2);
        if ((a->at += 64) >= rows->row_bytes + 63) {
            a->at = 0;
            a->row++;
        }
    }
}

/* sums (n, width) to its transpose (width, n), rows without gaps; out has room for LANES more. */
static void FN(transpose_sums)(ptrdiff_t n, ptrdiff_t width, const REAL *sums, REAL *out)
{
#if TURNS_IN_REGISTERS
    for (ptrdiff_t j = 0; j < width; j += LANES) {
        vec block[LANES];
        UNROLL for (int i = 0; i < LANES; i++) block[i] = vec_load(sums + i * SUMS_WIDTH + j);
        FN(transpose)(block);
        /* upwards: each store mends what the one before wrote beyond its row */
        UNROLL for (int i = 0; i < LANES; i++) vec_store(out + (j + i) * n, block[i]);
    }
#else
    for (ptrdiff_t j = 0; j < width; j++)
        for (ptrdiff_t i = 0; i < n; i++) out[j * n + i] = sums[i * SUMS_WIDTH + j];
#endif
}

/* Few outputs fill few lanes: so the lanes run along the rows of w, and the sums are those of its transpose. The
 * factors of each FMA change places, which changes no bit. */
static void FN(narrow_weights)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const REAL *x, ptrdiff_t ld_x, const REAL *dz,
                               ptrdiff_t ld_dz, const fastnn_target *target, const fastnn_ahead *ahead)
{
    REAL sums[SUMS_ROWS * SUMS_WIDTH] __attribute__((aligned(64)));
    REAL turned[SUMS_WIDTH * TILE_ROWS + LANES] __attribute__((aligned(64)));
    FN(tile_task) t = {.a_row = sizeof(REAL), .a_col = ld_dz * (ptrdiff_t)sizeof(REAL), .ld_b = ld_x,
                       .ld_c = SUMS_WIDTH, .first = 1};
    FN(asking) asking = FN(begin_asking)(ahead, (m + PANEL - 1) / PANEL);
    for (ptrdiff_t j = 0; j < m;) {
        const ptrdiff_t rest = m - j;
        FN(tile_function) tile = FN(tiles)[n];
        ptrdiff_t width = PANEL;
        if (n <= 3 && rest >= FN(wide_vectors)[n] * LANES) {
            tile = FN(wide_tiles)[n];
            width = FN(wide_vectors)[n] * LANES;
        } else if (rest <= LANES) {
            tile = FN(narrow_tiles)[n];
            width = LANES;
        }
        /* x's rows end with whole lines, so whole vectors are read and summed; the superfluous ones go nowhere */
        const ptrdiff_t used = rest < width ? rest : width;
        FN(ask_for_parameters)(target, j * n, 1, used * n);
        tile(&t, k, dz, x + j, sums, width);
        FN(ask_for_next_rows)(&asking);
        const REAL *g = sums;
        if (n > 1) {
            FN(transpose_sums)(n, used, sums, turned);
            g = turned;
        }
        FN(update_rows)(target, j * n, 1, used * n, g, 0);
        j += used;
    }
}

static void FN(weights)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *x_, ptrdiff_t ld_x, const void *dz_,
                        ptrdiff_t ld_dz, const fastnn_target *target, const fastnn_ahead *ahead)
{
    const REAL *x = x_, *dz = dz_;
    if (n <= LANES && n <= TILE_ROWS && target->ld == n) { /* its rows follow each other without gaps */
        FN(narrow_weights)(m, n, k, x, ld_x, dz, ld_dz, target, ahead);
        return;
    }
    REAL buffers[2][TILE_ROWS * PANEL] __attribute__((aligned(64))), *sums = buffers[0];
    FN(tile_task) t = {.a_row = sizeof(REAL), .a_col = ld_x * (ptrdiff_t)sizeof(REAL), .ld_b = ld_dz,
                       .ld_c = PANEL, .first = 1};
    const ptrdiff_t dz_bytes = ld_dz * (ptrdiff_t)sizeof(REAL);
    const int far_x = m * k * (ptrdiff_t)sizeof(REAL) >= FAR_BYTES, far_dz = k * dz_bytes >= DZ_BYTES;
    ptrdiff_t n_arrays = 1;
    while (n_arrays <= FASTNN_STATES && target->states[n_arrays - 1]) n_arrays++;
    const int far_w = m * n * n_arrays * (ptrdiff_t)sizeof(REAL) >= FAR_BYTES;
    ptrdiff_t whole = WEIGHTS_BYTES / (n * (ptrdiff_t)sizeof(REAL));
    if (far_dz) /* so many rows of w, or columns of x */
        whole = WEIGHTS_BYTES_LARGE / ((n > k ? n : k) * (ptrdiff_t)sizeof(REAL));
    whole = (whole / TILE_ROWS + 1) * TILE_ROWS;
    FN(following) f = {.ld = target->ld};
    const int in_memory = n_arrays > 1 && m * n * n_arrays * (ptrdiff_t)sizeof(REAL) >= FOLLOW_BYTES;
    const FN(followed_function) *followed = in_memory ? NULL : FN(follow)(target, &f);
    FN(asking) asking = FN(begin_asking)(ahead, (m + TILE_ROWS - 1) / TILE_ROWS * ((n + PANEL - 1) / PANEL));
    for (ptrdiff_t first = 0; first < m; first += whole) {
        const ptrdiff_t rows = m - first < whole ? m - first : whole, n_tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
        for (ptrdiff_t j = 0; j < n; j += PANEL) {
            const ptrdiff_t count = n - j < PANEL ? n - j : PANEL;
            /* dz's rows end with whole lines too */
            const FN(tile_function) *tiles = count <= LANES ? FN(narrow_tiles) : FN(tiles);
            const ptrdiff_t width = count <= LANES ? LANES : PANEL;
            for (ptrdiff_t q = 0, i = 0; q < n_tiles; q++) {
                const ptrdiff_t height = (rows - i) / (n_tiles - q), at = (first + i) * target->ld + j;
                FN(asked) asked;
                asked.total = asked.count = 0;
                const int follows = followed && count == PANEL;
                if (far_w && (follows || 3 * height * n_arrays <= k)) /* the last of them have time to come */
                    FN(ask_in_tile)(&asked, target, at, height);
                else if (!follows)
                    FN(ask_for_parameters)(target, at, height, count);
                if (far_x && j == 0 && q + 1 < n_tiles)
                    FN(ask)(&asked, x + first + i + height, k, t.a_col, 0);
                if (far_dz && j + PANEL < n) {
                    const ptrdiff_t from = k * q / n_tiles;
                    FN(ask)(&asked, dz + from * ld_dz + j + PANEL, k * (q + 1) / n_tiles - from, dz_bytes, 0);
                }
                if (far_w || far_x || far_dz)
                    FN(ask_while)(&t, &asked, k, 1);
                if (follows) {
                    followed[height](&t, k, x + first + i, dz + j, sums, &f);
                    FN(ask_for_next_rows)(&asking);
                    FN(leave)(&f, target, at, height, sums);
                    sums = sums == buffers[0] ? buffers[1] : buffers[0];
                    i += height;
                    continue;
                }
                tiles[height](&t, k, x + first + i, dz + j, sums, width);
                FN(ask_for_next_rows)(&asking);
                FN(update_rows)(target, at, height, count, sums, PANEL);
                i += height;
            }
        }
    }
    if (f.rows > 0)
        FN(update_rows)(target, f.w - (REAL *)target->w, f.rows, PANEL, f.g, PANEL);
}
