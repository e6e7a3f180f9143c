/* The narrow last layer of a small net on single rows: see small_row_template.h, which includes this. */

/* Matrices of up to four columns, packed: each row is four numbers, a vector LANES / 4 rows, and an update that many
 * times fewer loads, FMAs and stores than with a vector, or half of one, for each row. Only the AVX-512 has the shuffles
 * that make it pay. */
#define PACK 4
typedef struct {
    REAL *w[FASTNN_SMALL_LAYERS]; /* or NULL: a layer that is not packed */
} FN(packed);

#if ISA_AVX512
#if REAL_IS_FLOAT
typedef __m128 FN(pack);
#define pack_load(p) _mm_load_ps(p)
#define pack_load_anywhere(p) _mm_loadu_ps(p)
#define pack_max(a, b) _mm_max_ps(a, b)
#define pack_first(n, v, rest) _mm_mask_blend_ps((__mmask8)((1u << (n)) - 1), _mm_set1_ps(rest), v)
#define pack_of(v) _mm512_castps512_ps128((__m512)(v))
#define pack_widened(v) (vec)_mm512_zextps128_ps512(v)
#define pack_fma(a, b, c) _mm_fmadd_ps(a, b, c)
#define pack_rows(j) _mm512_add_epi32(_mm512_set1_epi32((int)(j)), \
                                      _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3))
#define pack_columns _mm512_setr_epi32(0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3)
#else
typedef __m256d FN(pack);
#define pack_load(p) _mm256_load_pd(p)
#define pack_load_anywhere(p) _mm256_loadu_pd(p)
#define pack_max(a, b) _mm256_max_pd(a, b)
#define pack_first(n, v, rest) _mm256_mask_blend_pd((__mmask8)((1u << (n)) - 1), _mm256_set1_pd(rest), v)
#define pack_of(v) _mm512_castpd512_pd256((__m512d)(v))
#define pack_widened(v) (vec)_mm512_zextpd256_pd512(v)
#define pack_fma(a, b, c) _mm256_fmadd_pd(a, b, c)
#define pack_rows(j) _mm512_add_epi64(_mm512_set1_epi64(j), _mm512_setr_epi64(0, 0, 0, 0, 1, 1, 1, 1))
#define pack_columns _mm512_setr_epi64(0, 1, 2, 3, 0, 1, 2, 3)
#endif

/* w -= rate x d of a packed matrix of n rows, those that fill up its last vector too. */
INLINE void FN(update_packed)(REAL *w, ptrdiff_t n, const vec x[2], const vec d[2], vec minus_rate, const int V)
{
    const vec columns = FN(pick)(d, pack_columns, 1);
    for (ptrdiff_t j = 0; j < n; j += LANES / PACK, w += LANES) {
        const vec g = vec_fma(FN(pick)(x, pack_rows(j), V), columns, vec_set(0));
        vec_store(w, vec_fma(minus_rate, g, vec_load(w)));
    }
}

#define pack_spread(v, r) __builtin_shufflevector(v, v, r, r, r, r)
/* The tree of short_tree_max and short_tree_sum, its result in all four numbers: a shuffle within 16 bytes takes one
 * cycle, one across a vector four, and so does a spread. */
#define PACK_TREE(v, combine)                                  \
    v = combine(v, __builtin_shufflevector(v, v, 2, 3, 0, 1)); \
    v = combine(v, __builtin_shufflevector(v, v, 1, 0, 3, 2));
/* Rows 4 q .. 4 q + 3 of the sums of a packed matrix: there are n_in. */
#define ADD_ROW(q, r)            \
    if (n_in > PACK * (q) + (r)) \
        z = pack_fma(pack_spread(four, r), pack_load(w + (PACK * (q) + (r)) * PACK), z);
#define ADD_FOUR(q)                                                                                             \
    {                                                                                                           \
        const FN(pack) four =                                                                                   \
            (FN(pack))__builtin_shufflevector(x, x, PACK * (q), PACK * (q) + 1, PACK * (q) + 2, PACK * (q) + 3); \
        ADD_ROW(q, 0) ADD_ROW(q, 1) ADD_ROW(q, 2) ADD_ROW(q, 3)                                                 \
    }

/* A packed last layer and cross-entropy of its outputs: forward from x, all of cross_entropy_short four numbers wide, and
 * back: the layer is updated, dx the gradient at x. Whether the loss is finite; if not, nothing is changed. */
INLINE int FN(packed_end)(const FN(small_layer) *l, REAL *w, vec x, ptrdiff_t label, REAL factor, vec minus_rate,
                          REAL *above, REAL *total, vec *dx)
{
    static const REAL one_hot[2 * PACK - 1] = {[PACK - 1] = 1};
    const ptrdiff_t n_in = l->n_in, n_out = l->n_out;
    FN(pack) z = {0};
    ADD_FOUR(0)
    ADD_FOUR(1)
#if REAL_IS_FLOAT
    ADD_FOUR(2)
    ADD_FOUR(3)
#endif
    z += pack_load(l->b);
    REAL outputs[PACK];
    memcpy(outputs, &z, sizeof outputs);
    z = pack_first(n_out, z, -REAL_INFINITY);
    FN(pack) max = z;
    PACK_TREE(max, pack_max)
    const FN(pack) e = pack_of(vec_exp(pack_widened(z - max)));
    FN(pack) sum = e;
    PACK_TREE(sum, SUM_OF)
    const FN(pack) d = (e / sum - pack_load_anywhere(one_hot + PACK - 1 - label)) * factor;
    *above = max[0] - outputs[label];
    *total = sum[0];
    const REAL loss = *above + *total;
    if (!(loss - loss == 0))
        return 0;
    const vec inputs[2] = {x}, gradients[2] = {pack_widened(d)}, zero = vec_set(0);
    vec before = zero;
    UNROLL for (int j = 0; j < PACK; j++)
        if (j < n_out) {
            REAL *row = l->turned + j * l->ld_turned;
            const vec dj = FN(spread)(gradients, j, 1), old = vec_load(row);
            before = vec_fma(dj, old, before);
            vec_store(row, vec_fma(minus_rate, vec_fma(dj, x, zero), old));
        }
    *dx = before;
    FN(update_packed)(w, n_in, inputs, gradients, minus_rate, 1);
    const FN(pack) b = pack_fma(pack_of(minus_rate), d + 0, pack_load(l->b));
    memcpy(l->b, &b, sizeof b);
    return 1;
}
#undef ADD_FOUR
#undef ADD_ROW
#undef PACK_TREE
#undef pack_spread
#undef pack_load_anywhere
#undef pack_max
#undef pack_first
#undef pack_rows
#undef pack_columns
#endif

/* The packed matrices of a plan, in `to`, or what was packed back to the plan. */
INLINE void FN(pack_all)(const FN(small_plan) *p, FN(packed) *packed, REAL (*to)[2 * BLOCK * PACK], int back)
{
    for (ptrdiff_t i = 0; i < p->n_layers; i++) {
        const FN(small_layer) *l = &p->layers[i];
        const int packs = ISA_AVX512 && i > 0 && l->n_out <= PACK;
        packed->w[i] = packs ? to[i] : NULL;
        for (ptrdiff_t j = 0; packs && j < l->n_in; j++)
            memcpy(back ? l->w + j * l->ld_w : to[i] + j * PACK, back ? to[i] + j * PACK : l->w + j * l->ld_w,
                   PACK * sizeof(REAL));
    }
}
