/* Tiles of a weights product that meanwhile take the optimizer's step on the tile before them, a row at a time, spread
 * over the steps of the sum.
 *
 * A step in one go, between two tiles, is waited for: with two threads every line of w is to be taken from the other
 * core, which has read it (4 ns a line, whether asked for or not; nothing where the stores are spread), and while Adam
 * divides the FMA units are idle. Between two steps of a sum the registers of a and b are free for it; constants come
 * from L1. The columns of x that are summed are asked for a few steps ahead: the rows of x lie too far apart for the
 * CPU's own prefetcher. */

/* What is to be done of the tile before. */
typedef struct {
    FN(constants) constants;
    REAL *w, *states[2];
    const REAL *g;      /* its sums, rows PANEL apart */
    ptrdiff_t ld, rows; /* of w and states; 0: there is none */
} FN(following);

INLINE FN(constants) FN(plain_constants)(const fastnn_target *t) { return FN(common_constants)(t, 0); }

/* SGD without momentum and decay. */
INLINE void FN(plain_vector)(const FN(constants) *c, vec *w, vec g, vec *s)
{
    (void)s;
    *w = vec_fma(c->rate, g, *w);
}

/* Adam and AdamW: a weight times 1 is itself. */
INLINE void FN(any_adam_vector)(const FN(constants) *c, vec *w, vec g, vec *s)
{
    g = FN(regularised)(c, *w, g, 0);
    FN(adamw_vector)(c, w, g, s);
}

/* One line a step: that of the last column, or the second of two and more. */
#define FOLLOWED_STEP(MR)                                                                                    \
    __builtin_prefetch(row[0] + X_AHEAD_STEPS * a_col + (MR * sizeof(REAL) < 64 ? MR * sizeof(REAL) : 64) -  \
                       sizeof(REAL), 0, 3);                                                                  \
    TILE_STEP(MR, TILE_VECTORS)
#define DEFINE_FOLLOWED(MR, name, n_states)                                                                  \
    static void FN(name##_followed_##MR)(const FN(tile_task) *t, ptrdiff_t k, const REAL *a, const REAL *b,  \
                                         REAL *c, const FN(following) *f)                                    \
    {                                                                                                        \
        const ptrdiff_t a_row = sizeof(REAL), a_col = t->a_col, ld_b = t->ld_b;                              \
        vec sum[MR][TILE_VECTORS];                                                                           \
        const char *row[(MR + 2) / 3];                                                                       \
        UNROLL for (int i = 0; i < (MR + 2) / 3; i++) row[i] = (const char *)a + 3 * i * a_row;              \
        UNROLL for (int i = 0; i < MR; i++)                                                                  \
            UNROLL for (int v = 0; v < TILE_VECTORS; v++) sum[i][v] = vec_set(0);                            \
        ptrdiff_t p = 0, at = 0;                                                                             \
        const REAL *g = f->g;                                                                                \
        TILE_ASKS(FOLLOWED_STEP(MR))                                                                         \
        const ptrdiff_t gap = f->rows > 0 && k - p > f->rows ? (k - p) / f->rows : 1;                        \
        for (ptrdiff_t rows = f->rows; rows > 0; rows--, at += f->ld, g += PANEL) {                          \
            UNROLL for (int v = 0; v < TILE_VECTORS; v++) {                                                  \
                vec w = vec_load(f->w + at + v * LANES), s[2];                                               \
                for (int q = 0; q < n_states; q++) s[q] = vec_load(f->states[q] + at + v * LANES);           \
                FN(name##_vector)(&f->constants, &w, vec_load(g + v * LANES), s);                            \
                vec_store(f->w + at + v * LANES, w);                                                         \
                for (int q = 0; q < n_states; q++) vec_store(f->states[q] + at + v * LANES, s[q]);           \
            }                                                                                                \
            const ptrdiff_t until = p + gap < k ? p + gap : k;                                               \
            for (; p < until; p++) { FOLLOWED_STEP(MR) }                                                     \
        }                                                                                                    \
        for (; p < k; p++) { TILE_STEP(MR, TILE_VECTORS) }                                                   \
        UNROLL for (int i = 0; i < MR; i++)                                                                  \
            UNROLL for (int v = 0; v < TILE_VECTORS; v++) vec_store(c + i * PANEL + v * LANES, sum[i][v]);   \
    }
#define DEFINE_PLAIN_FOLLOWED(MR, NV) DEFINE_FOLLOWED(MR, plain, 0)
#define DEFINE_ADAM_FOLLOWED(MR, NV) DEFINE_FOLLOWED(MR, any_adam, 2)
TILE_HEIGHTS(DEFINE_PLAIN_FOLLOWED, TILE_VECTORS)
TILE_HEIGHTS(DEFINE_ADAM_FOLLOWED, TILE_VECTORS)

typedef void (*FN(followed_function))(const FN(tile_task) *t, ptrdiff_t k, const REAL *a, const REAL *b, REAL *c,
                                      const FN(following) *f);
#define PLAIN_ENTRY(MR, NV) FN(plain_followed_##MR),
#define ADAM_ENTRY(MR, NV) FN(any_adam_followed_##MR),
static const FN(followed_function) FN(plain_followed)[] = {NULL, TILE_HEIGHTS(PLAIN_ENTRY, TILE_VECTORS)};
static const FN(followed_function) FN(adam_followed)[] = {NULL, TILE_HEIGHTS(ADAM_ENTRY, TILE_VECTORS)};
#undef PLAIN_ENTRY
#undef ADAM_ENTRY
#undef DEFINE_PLAIN_FOLLOWED
#undef DEFINE_ADAM_FOLLOWED
#undef DEFINE_FOLLOWED
#undef FOLLOWED_STEP

/* The tiles that follow a target's optimizer, and its constants; or NULL. */
static const FN(followed_function) *FN(follow)(const fastnn_target *t, FN(following) *f)
{
    const fastnn_update *u = t->update;
    if (u->clip_value > 0 || t->l1 != 0)
        return NULL;
    if (u->optimizer == FASTNN_sgd && u->momentum == 0 && t->decay == 0) {
        f->constants = FN(plain_constants)(t);
        return FN(plain_followed);
    }
    if ((u->optimizer == FASTNN_adam || u->optimizer == FASTNN_adamw) && !u->amsgrad) {
        f->constants = FN(any_adam_constants)(t, u->optimizer == FASTNN_adamw);
        return FN(adam_followed);
    }
    return NULL;
}

/* The sums of a tile, whose first weight is number `at` of the target, are left to the next one. */
static void FN(leave)(FN(following) *f, const fastnn_target *t, ptrdiff_t at, ptrdiff_t rows, const REAL *sums)
{
    f->w = (REAL *)t->w + at;
    for (int q = 0; q < 2; q++) f->states[q] = t->states[q] ? (REAL *)t->states[q] + at : NULL;
    f->g = sums;
    f->rows = rows;
}
