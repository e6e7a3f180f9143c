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

#include "small_packed_template.h"

/* Four rows of a matrix in each turn, then what is left, one by one: with a loop of single rows the CPU had more
 * instructions of loops than of sums to look through for those it need not wait for. */
#define BY_FOUR(n, row)                             \
    {                                               \
        ptrdiff_t j = 0;                            \
        for (; j + 4 <= (n); j += 4)                \
            UNROLL for (int q = 0; q < 4; q++) row(j + q) \
        for (; j < (n); j++) row(j)                 \
    }

/* One step on the row in x_batch; whether its loss is finite. V: vectors of the widest layer, 1 or 2; ends: the last layer
 * is packed_end's. */
INLINE int FN(row_step)(const FN(small_plan) *p, const FN(packed) *packed, REAL factor, REAL rate, REAL *total, const int V,
                        const int ends)
{
    (void)packed;
    const fastnn_small *s = p->s;
    const ptrdiff_t n_layers = p->n_layers - ends;
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
    if (ends) {
#if ISA_AVX512
        if (!FN(packed_end)(&p->layers[n_layers], packed->w[n_layers], a[0], (ptrdiff_t)s->label_batch[0], factor,
                            minus_rate, &p->losses[0], total, &d[0]))
            return 0;
        if (p->layers[n_layers - 1].of->activation == FASTNN_relu)
            d[0] = FN(backward_relu)(d[0], a[0]);
#endif
    } else {
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

/* A row's loss is told later. */
INLINE void FN(leave_loss)(FN(late_losses) *late, fastnn_small *s, REAL above, REAL total)
{
    late->above[late->rows] = above;
    late->totals[late->rows] = total;
    if (++late->rows == LANES)
        FN(add_late_losses)(late, s);
}

/* small_steps of such a plan. */
#define DEFINE_ROW_STEPS(name, V, ends)                                                                         \
    static __attribute__((noinline)) ptrdiff_t FN(row_steps_##name)(const FN(small_plan) *p, fastnn_small *s,   \
                                                                    ptrdiff_t step, FN(late_losses) *late)      \
    {                                                                                                           \
        const double scale = 1 > s->least_weight ? 1 : 0;                                                       \
        const REAL factor = (REAL)(s->labels ? scale : scale / (double)p->layers[p->n_layers - 1].n_out);       \
        FN(packed) packed;                                                                                      \
        REAL rows[FASTNN_SMALL_LAYERS][2 * BLOCK * PACK] __attribute__((aligned(64)));                          \
        FN(pack_all)(p, &packed, rows, 0);                                                                      \
        for (; step < s->end; step++) {                                                                         \
            REAL total = 0;                                                                                     \
            if (!FN(small_gather)(p, step) ||                                                                   \
                !FN(row_step)(p, &packed, factor, (REAL)s->rates[step], &total, V, ends))                       \
                break;                                                                                          \
            s->weight_sum += 1;                                                                                 \
            if (s->labels)                                                                                      \
                FN(leave_loss)(late, s, p->losses[0], total);                                                   \
            else                                                                                                \
                s->loss_sum += p->losses[0];                                                                    \
        }                                                                                                       \
        FN(pack_all)(p, &packed, rows, 1);                                                                      \
        return step;                                                                                            \
    }

DEFINE_ROW_STEPS(1, 1, 0)
DEFINE_ROW_STEPS(2, 2, 0)
#if ISA_AVX512
DEFINE_ROW_STEPS(ends, 1, 1)

/* The same of two layers, of which the first has at most PAIR_ROWS rows, which stay in registers from step to step: what is
 * stored may be loaded again eight cycles later, and the next step's first sum waits for it. The second layer's weights are
 * changed long before they are read. */
#define PAIR_ROWS 16
static __attribute__((noinline)) ptrdiff_t FN(pair_steps)(const FN(small_plan) *p, fastnn_small *s, ptrdiff_t step,
                                                          FN(late_losses) *late)
{
    const FN(small_layer) *l = p->layers;
    const REAL factor = (REAL)(1 > s->least_weight ? 1 : 0), *x = l->x;
    const ptrdiff_t n_in = l->n_in;
    const int relu = l->of->activation == FASTNN_relu;
    const vec zero = vec_set(0);
    vec w[PAIR_ROWS], b = vec_load(l->b);
    UNROLL for (int j = 0; j < PAIR_ROWS; j++) w[j] = j < n_in ? vec_load(l->w + j * l->ld_w) : zero;
    FN(packed) packed;
    REAL rows[FASTNN_SMALL_LAYERS][2 * BLOCK * PACK] __attribute__((aligned(64)));
    FN(pack_all)(p, &packed, rows, 0);
    for (; step < s->end; step++) {
        if (!FN(small_gather)(p, step))
            break;
        const vec minus_rate = vec_set(-(REAL)s->rates[step]);
        REAL above, total;
        vec a = zero, d;
        UNROLL for (int j = 0; j < PAIR_ROWS; j++)
            if (j < n_in)
                a = vec_fma(vec_set(x[j]), w[j], a);
        a += b;
        if (relu)
            a = FN(forward_relu)(a);
        if (!FN(packed_end)(l + 1, packed.w[1], a, (ptrdiff_t)s->label_batch[0], factor, minus_rate, &above, &total, &d))
            break;
        if (relu)
            d = FN(backward_relu)(d, a);
        UNROLL for (int j = 0; j < PAIR_ROWS; j++)
            if (j < n_in)
                w[j] = vec_fma(minus_rate, vec_fma(vec_set(x[j]), d, zero), w[j]);
        b = vec_fma(minus_rate, d + 0, b);
        s->weight_sum += 1;
        FN(leave_loss)(late, s, above, total);
    }
    UNROLL for (int j = 0; j < PAIR_ROWS; j++)
        if (j < n_in)
            vec_store(l->w + j * l->ld_w, w[j]);
    vec_store(l->b, b);
    FN(pack_all)(p, &packed, rows, 1);
    return step;
}
#endif
#undef DEFINE_ROW_STEPS

typedef ptrdiff_t (*FN(row_way_function))(const FN(small_plan) *p, fastnn_small *s, ptrdiff_t step, FN(late_losses) *late);

/* What does the steps of a plan row by row, or NULL. */
static FN(row_way_function) FN(row_way)(const FN(small_plan) *p)
{
    if (!FN(row_takes)(p, 1))
        return FN(row_takes)(p, 2) ? FN(row_steps_2) : NULL;
#if ISA_AVX512
    if (p->s->labels && p->n_layers > 1 && p->layers[p->n_layers - 1].n_out <= PACK)
        return p->n_layers == 2 && p->layers[0].n_in <= PAIR_ROWS ? FN(pair_steps) : FN(row_steps_ends);
#endif
    return FN(row_steps_1);
}
#undef PAIR_ROWS
#undef PACK
