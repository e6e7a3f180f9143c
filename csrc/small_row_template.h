/* Steps of a small net on one row at a time whose layers are a vector or two wide: SGD without states or decay, ReLU
 * or nothing between the layers.
 *
 * Such a step is one chain of dependent instructions: each layer's sums wait for the layer before, and the next step's
 * for this one's update. So nothing on the chain goes through memory between layers but the parameters: outputs and
 * gradients stay in registers, a lane is spread by a shuffle (with AVX-512; a store that is read again takes three
 * times as long), and a matrix is updated in the pass that reads it. The sums are those of small_template.h, FMA by
 * FMA. */

/* Whether a plan can go this way with layers of at most `vectors`: no more than fill up the narrowest row. */
static int FN(row_takes)(const FN(small_plan) *p, int vectors)
{
    const fastnn_small *s = p->s;
    if (vectors > BLOCK_VECTORS || p->batch != 1 || p->across || p->layers[p->n_layers - 1].n_out > BLOCK ||
        s->weight || s->decay != 0 || !FN(small_folds)(s) || (s->labels && !p->late_logs))
        return 0;
    if (s->l2 != 0 || s->factor != 1 || s->told != 1 || s->step_losses || s->bounds.are_set) /* an objective of its own */
        return 0;
    for (ptrdiff_t i = 0; i < p->n_layers; i++) {
        const int activation = s->layers[i].activation;
        if (p->layers[i].n_out > vectors * LANES || !p->layers[i].b || fastnn_by_dots(p->layers[i].n_out, p->layers[i].n_in) ||
            (activation != FASTNN_identity && (activation != FASTNN_relu || i == p->n_layers - 1)))
            return 0;
    }
    return 1;
}

#if ISA_AVX512
/* Numbers of a row of V vectors, each lane the one that `index` names; what is above the lanes of V is not looked at. */
INLINE vec FN(pick)(const vec row[2], __m512i index, const int V)
{
#if REAL_IS_FLOAT
    return V == 1 ? (vec)_mm512_permutexvar_ps(index, (__m512)row[0])
                  : (vec)_mm512_permutex2var_ps((__m512)row[0], index, (__m512)row[1]);
#else
    return V == 1 ? (vec)_mm512_permutexvar_pd(index, (__m512d)row[0])
                  : (vec)_mm512_permutex2var_pd((__m512d)row[0], index, (__m512d)row[1]);
#endif
}
#endif

/* Number j of a row of V vectors, in all lanes. */
INLINE vec FN(spread)(const vec row[2], ptrdiff_t j, const int V)
{
#if ISA_AVX512 && REAL_IS_FLOAT
    return FN(pick)(row, _mm512_set1_epi32((int)j), V);
#elif ISA_AVX512
    return FN(pick)(row, _mm512_set1_epi64(j), V);
#else
    (void)V;
    return vec_set(((const REAL *)row)[j]);
#endif
}

/* The first lanes of a vector, and of memory. */
INLINE slim FN(slim_of)(vec v)
{
    slim s;
    memcpy(&s, &v, sizeof s);
    return s;
}

INLINE slim FN(slim_load)(const REAL *p)
{
    slim s;
    memcpy(&s, p, sizeof s);
    return s;
}

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
#define pack_of(v) _mm512_castps512_ps128((__m512)(v))
#define pack_widened(v) (vec)_mm512_zextps128_ps512(v)
#define pack_fma(a, b, c) _mm_fmadd_ps(a, b, c)
#define pack_rows(j) _mm512_add_epi32(_mm512_set1_epi32((int)(j)), \
                                      _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3))
#define pack_columns _mm512_setr_epi32(0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3)
#else
typedef __m256d FN(pack);
#define pack_load(p) _mm256_load_pd(p)
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

/* Four rows of a matrix in each turn, then what is left, one by one: with a loop of single rows the CPU had more
 * instructions of loops than of sums to look through for those it need not wait for. */
#define BY_FOUR(n, row)                             \
    {                                               \
        ptrdiff_t j = 0;                            \
        for (; j + 4 <= (n); j += 4)                \
            UNROLL for (int q = 0; q < 4; q++) row(j + q) \
        for (; j < (n); j++) row(j)                 \
    }

/* One step on the row in x_batch; whether its loss is finite. V: vectors of the widest layer, 1 or 2. */
INLINE int FN(row_step)(const FN(small_plan) *p, const FN(packed) *packed, REAL factor, REAL rate, REAL *total, const int V)
{
    (void)packed;
    const fastnn_small *s = p->s;
    const ptrdiff_t n_layers = p->n_layers;
    const vec minus_rate = vec_set(-rate), zero = vec_set(0);
    vec outputs[FASTNN_SMALL_LAYERS][2], a[2] = {zero, zero}, d[2] = {zero, zero};
    for (ptrdiff_t i = 0; i < n_layers; i++) {
        const FN(small_layer) *l = &p->layers[i];
        const ptrdiff_t n_in = l->n_in, ld = l->ld_w;
        const REAL *w = l->w;
        vec sum[2] = {zero, zero};
#define ADD_ROW(x, j)                                                                                      \
    {                                                                                                      \
        const vec xj = x;                                                                                  \
        UNROLL for (int v = 0; v < V; v++) sum[v] = vec_fma(xj, vec_load(w + (j) * ld + v * LANES), sum[v]); \
    }
#define ADD_SLIM(j) \
    narrow = slim_fma(FN(slim_of)(FN(spread)(a, j, V)), FN(slim_load)(w + (j) * ld), narrow);
#define ADD_PACKED(j) few = pack_fma(pack_of(FN(spread)(a, j, V)), pack_load(packed->w[i] + (j) * PACK), few);
#define ADD_FIRST(j) ADD_ROW(vec_set(l->x[j]), j)
#define ADD_OTHER(j) ADD_ROW(FN(spread)(a, j, V), j)
        if (i == 0) {
            BY_FOUR(n_in, ADD_FIRST)
#if ISA_AVX512
        } else if (packed->w[i]) {
            FN(pack) few = {0};
            BY_FOUR(n_in, ADD_PACKED)
            sum[0] = pack_widened(few);
#endif
        } else if (l->n_out <= SLIM_LANES) {
            slim narrow = slim_set(0);
            BY_FOUR(n_in, ADD_SLIM)
            memcpy(&sum[0], &narrow, sizeof narrow);
        } else
            BY_FOUR(n_in, ADD_OTHER)
        UNROLL for (int v = 0; v < V; v++) {
            a[v] = sum[v] + vec_load(l->b + v * LANES);
            if (l->of->activation == FASTNN_relu)
                a[v] = FN(forward_relu)(a[v]);
            outputs[i][v] = a[v];
        }
    }
    {
        const ptrdiff_t n = p->layers[n_layers - 1].n_out;
        REAL z[2 * BLOCK], dz[2 * BLOCK] = {0}; /* whole blocks, and all of a and d */
        UNROLL for (int v = 0; v < V; v++) vec_store(z + v * LANES, a[v]);
        UNROLL for (int v = V; v < BLOCK_VECTORS; v++) vec_store(z + v * LANES, zero);
        if (s->labels)
            *total = FN(cross_entropy_short)(n, z, (ptrdiff_t)s->label_batch[0], factor, dz, &p->losses[0]);
        else
            p->losses[0] = FN(values_short)(s->loss, n, z, p->y, factor, dz);
        UNROLL for (int v = 0; v < V; v++) d[v] = vec_load(dz + v * LANES);
        const REAL loss = p->losses[0] + *total;
        if (!(loss - loss == 0))
            return 0;
    }
    for (ptrdiff_t i = n_layers - 1; i >= 0; i--) {
        const FN(small_layer) *l = &p->layers[i];
        const ptrdiff_t n_in = l->n_in, n_out = l->n_out, ld = l->ld_w;
        vec before[2] = {zero, zero};
        if (i > 0) {
            const vec *x = outputs[i - 1];
            REAL *t = l->turned;
            for (ptrdiff_t j = 0; j < n_out; j++, t += l->ld_turned) {
                const vec dj = FN(spread)(d, j, V);
                UNROLL for (int v = 0; v < V; v++) {
                    const vec w = vec_load(t + v * LANES);
                    before[v] = vec_fma(dj, w, before[v]);
                    vec_store(t + v * LANES, vec_fma(minus_rate, vec_fma(dj, x[v], zero), w));
                }
            }
            if (l->of[-1].activation == FASTNN_relu)
                UNROLL for (int v = 0; v < V; v++) before[v] = FN(backward_relu)(before[v], x[v]);
        }
        REAL *w = l->w;
#define UPDATE_ROW(x, j)                                                                    \
    {                                                                                       \
        const vec xj = x;                                                                   \
        UNROLL for (int v = 0; v < V; v++) {                                                \
            REAL *to = w + (j) * ld + v * LANES;                                            \
            vec_store(to, vec_fma(minus_rate, vec_fma(xj, d[v], zero), vec_load(to)));      \
        }                                                                                   \
    }
#define UPDATE_FIRST(j) UPDATE_ROW(vec_set(l->x[j]), j)
/* The first lanes of a row alone: a store of 64 bytes takes two cycles, and the next step waits for it. Whole vectors
 * took 5 % longer; the updates after all gradients, in the order of the layers, 7 %. */
#define UPDATE_SLIM(j)                                                                      \
    {                                                                                       \
        REAL *to = w + (j) * ld;                                                            \
        const slim xj = FN(slim_of)(FN(spread)(outputs[i - 1], j, V));                      \
        const slim g = slim_fma(xj, FN(slim_of)(d[0]), slim_set(0));                        \
        slim_store(to, slim_fma(FN(slim_of)(minus_rate), g, FN(slim_load)(to)));            \
    }
#define UPDATE_OTHER(j) UPDATE_ROW(FN(spread)(outputs[i - 1], j, V), j)
        if (i == 0)
            BY_FOUR(n_in, UPDATE_FIRST)
#if ISA_AVX512
        else if (packed->w[i])
            FN(update_packed)(packed->w[i], n_in, outputs[i - 1], d, minus_rate, V);
#endif
        else if (n_out <= SLIM_LANES)
            BY_FOUR(n_in, UPDATE_SLIM)
        else
            BY_FOUR(n_in, UPDATE_OTHER)
        UNROLL for (int v = 0; v < V; v++) {
            REAL *to = l->b + v * LANES;
            vec_store(to, vec_fma(minus_rate, d[v] + 0, vec_load(to))); /* the sum of one and three times nothing */
            d[v] = before[v];
        }
    }
    return 1;
}

#undef ADD_ROW
#undef ADD_FIRST
#undef ADD_OTHER
#undef UPDATE_ROW
#undef UPDATE_FIRST
#undef UPDATE_OTHER
#undef UPDATE_SLIM
#undef ADD_SLIM
#undef ADD_PACKED
#undef BY_FOUR
#undef pack_load
#undef pack_of
#undef pack_widened
#undef pack_fma
#undef pack_rows
#undef pack_columns

/* small_steps of such a plan. */
#define DEFINE_ROW_STEPS(V)                                                                                     \
    static __attribute__((noinline)) ptrdiff_t FN(row_steps_##V)(const FN(small_plan) *p, fastnn_small *s,      \
                                                                 ptrdiff_t step, FN(late_losses) *late)         \
    {                                                                                                           \
        const double scale = 1 > s->least_weight ? 1 : 0;                                                       \
        const REAL factor = (REAL)(s->labels ? scale : scale / (double)p->layers[p->n_layers - 1].n_out);       \
        FN(packed) packed;                                                                                      \
        REAL rows[FASTNN_SMALL_LAYERS][2 * BLOCK * PACK] __attribute__((aligned(64)));                          \
        FN(pack_all)(p, &packed, rows, 0);                                                                      \
        for (; step < s->end; step++) {                                                                         \
            REAL total = 0;                                                                                     \
            if (!FN(small_gather)(p, step) || !FN(row_step)(p, &packed, factor, (REAL)s->rates[step], &total, V)) \
                break;                                                                                          \
            s->weight_sum += 1;                                                                                 \
            if (s->labels) {                                                                                    \
                late->above[late->rows] = p->losses[0];                                                         \
                late->totals[late->rows] = total;                                                               \
                if (++late->rows == LANES)                                                                      \
                    FN(add_late_losses)(late, s);                                                               \
            } else {                                                                                            \
                s->loss_sum += p->losses[0];                                                                    \
            }                                                                                                   \
        }                                                                                                       \
        FN(pack_all)(p, &packed, rows, 1);                                                                      \
        return step;                                                                                            \
    }
DEFINE_ROW_STEPS(1)
DEFINE_ROW_STEPS(2)
#undef DEFINE_ROW_STEPS
#undef PACK
