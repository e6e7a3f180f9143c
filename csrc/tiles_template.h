/* The register-blocked tile that all products are made of: MR x NV vectors of sums, one FMA each for every p.
 * Included by matmul_template.h. */

#define PANEL (TILE_VECTORS * LANES)
#define PANEL_BYTES (TILE_VECTORS * VECTOR_BYTES)

/* Rows that are needed soon, `ld` bytes apart and as wide as a panel: tiles ask for them while they sum, a row at a
 * time. What comes from memory is asked for evenly, over the first half of the steps: in a burst, all that exceeds the
 * two dozen lines which a core may wait for is waited for by the sums, and what is asked for in the last steps is not
 * there in time. Lines are those of the 65 last bytes of a row, which need not begin with a line: the one before came
 * with the panel before. */
typedef struct {
    const char *at;
    ptrdiff_t n, ld;
    int writes; /* will be written: this core is to own them. The others come into L2: L1 is full of what is in use. */
} FN(rows_ahead);

#undef TILE_AHEADS
#define TILE_AHEADS (TILE_ROWS + 4)
typedef struct {
    ptrdiff_t total; /* rows in the list */
    int count;
    FN(rows_ahead) list[TILE_AHEADS + 1]; /* one of no rows ends it */
} FN(asked);

/* n may be 0; what finds no room is not asked for. */
INLINE void FN(ask)(FN(asked) *a, const void *at, ptrdiff_t n, ptrdiff_t ld, int writes)
{
    if (n <= 0 || a->count == TILE_AHEADS)
        return;
    a->list[a->count++] = (FN(rows_ahead)){at, n, ld, writes};
    a->total += n;
}

/* Where a tile reads and writes. Strides of a in bytes: rows are reached as base, base + r, base + 2 r
 * from one pointer for three rows, which x86 addresses without further arithmetic. */
typedef struct {
    ptrdiff_t a_row, a_col; /* bytes */
    ptrdiff_t ld_b, ld_c;   /* elements */
    int first;              /* sums start at zero, else at c */
    const REAL *bias;       /* non-NULL in the last k block alone; at the tile's first column */
    int relu;               /* likewise: the one activation that is done in registers */
    const FN(rows_ahead) *ahead; /* NULL, or a list of what to ask for */
    ptrdiff_t gap;               /* steps of the sum from one row of it to the next, 1 or more */
} FN(tile_task);
typedef void (*FN(tile_function))(const FN(tile_task) *t, ptrdiff_t k, const REAL *a, const REAL *b, REAL *c,
                                  ptrdiff_t count);

/* The next tile is to ask for them: spread over half of its k steps, or one a step. */
INLINE void FN(ask_while)(FN(tile_task) *t, FN(asked) *a, ptrdiff_t k, int spread)
{
    a->list[a->count].n = 0;
    t->ahead = a->count > 0 ? a->list : NULL;
    t->gap = spread && a->count > 0 && k > 2 * a->total ? k / (2 * a->total) : 1;
}

/* A tile of MR rows by NV vectors; count: columns that are stored, below LANES only where NV is 1.
 * Literal bounds and full unrolling keep `sum` in registers (inlined constant arguments do not suffice for
 * clang). */
#define TILE_A(i) (*(const REAL *)((const char *)row[(i) / 3] + (i) % 3 * a_row))
#define TILE_STEP(MR, NV)                                                                                    \
    vec bv[NV];                                                                                              \
    UNROLL for (int v = 0; v < NV; v++) bv[v] = vec_load(b + v * LANES);                                     \
    UNROLL for (int i = 0; i < MR; i++) {                                                                    \
        const vec ai = vec_set(TILE_A(i));                                                                   \
        UNROLL for (int v = 0; v < NV; v++) sum[i][v] = vec_fma(ai, bv[v], sum[i][v]);                       \
    }                                                                                                        \
    b += ld_b;                                                                                               \
    UNROLL for (int i = 0; i < (MR + 2) / 3; i++) row[i] += a_col;
/* Steps from p on, and between them what is asked for. */
#define TILE_ASKS(STEP)                                                                                      \
    if (t->ahead)                                                                                            \
        for (const FN(rows_ahead) *r = t->ahead; r->n > 0; r++) {                                            \
            const char *ahead = r->at + 63;                                                                  \
            for (ptrdiff_t rows = r->n; rows > 0 && p < k; rows--, ahead += r->ld) {                         \
                if (r->writes)                                                                               \
                    UNROLL for (int v = 0; v < PANEL_BYTES; v += 64) prefetch_for_writing(ahead + v);        \
                else                                                                                         \
                    UNROLL for (int v = 0; v < PANEL_BYTES; v += 64) __builtin_prefetch(ahead + v, 0, 2);    \
                const ptrdiff_t until = p + t->gap < k ? p + t->gap : k;                                     \
                for (; p < until; p++) { STEP }                                                              \
            }                                                                                                \
        }
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
        ptrdiff_t p = 0;                                                                                     \
        TILE_ASKS(TILE_STEP(MR, NV))                                                                         \
        for (; p < k; p++) { TILE_STEP(MR, NV) }                                                             \
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
