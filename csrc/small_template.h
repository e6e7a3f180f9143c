/* Whole training steps of a small net on one thread: gather, forward, loss, backward, gradient and update.
 *
 * Of the time that such a step takes in the general kernels, calls, setups and tails are most: 4-16-3 on one row is 336
 * multiply-adds. So here is what a step needs, with the setup done once for thousands of steps. While they run, the
 * parameters live in copies whose rows are whole vectors, so that nothing has a tail; what fills up the rows are
 * neurons of nobody, whose numbers meet no others.
 *
 * The order of every sum is that of the general kernels, to the bit: FMA from zero over k, or the dot products of
 * dots_template.h where a layer is narrow and deep (small_dots), then the bias; rows of the batch in order, then the
 * update; the trees of the losses. A step that may not be done (a row or label out of range, what is not finite) is left
 * to the general way, which says what is wrong.
 *
 * A matrix is kept as `w`, lanes along its outputs, as `turned`, lanes along its inputs, or both: the product forward
 * wants the first, the gradient at the input the second. Where the last layer has few outputs and the batch is large
 * enough, its lanes run along the rows of the batch ("across"), which wants the second alone, and the loss reduces
 * nothing within a register. */

/* The gradient at the input of a layer that is larger would have sums of another order (fastnn_input_by_dots). */
_Static_assert(SMALL_BYTES <= FASTNN_DOTS_WEIGHTS * 4, "small_steps takes a matrix whose dx is made of dot products");

/* Elements that fill n up to whole blocks of 64 bytes, on every instruction set. */
#define WHOLE(n) (((n) + BLOCK - 1) / BLOCK * BLOCK)
#define VECTORS(n) (((n) + LANES - 1) / LANES)

/* A product c = a b, or the update of c whose gradient it is. */
typedef struct {
    ptrdiff_t k, a_row, a_col, ld_b, ld_c;
    const REAL *a, *b;
    REAL *c;
    const REAL *bias;        /* of columns, or NULL */
    int relu;
    const REAL *relu_gate;   /* output of a ReLU whose derivative multiplies the result, or NULL */
    ptrdiff_t ld_gate;
    double decay;            /* of an update */
} FN(small_task);

typedef struct {
    const fastnn_small_layer *of;
    ptrdiff_t n_in, n_out, ld_w, ld_turned;
    REAL *w, *turned;       /* or NULL */
    int turned_first;       /* gradient and states are laid out as `turned` */
    REAL *b;                /* or NULL */
    ptrdiff_t at, at_bias;  /* of gradient and states, from the first parameter in the workspace */
    const REAL *x;          /* input: (batch, ld_x) */
    ptrdiff_t ld_x;
    int across;
    FN(small_task) forward, input, along, against; /* output; gradient at the input; of w; of turned */
} FN(small_layer);

/* Whether the optimizer keeps nothing from step to step: then a matrix is updated as its gradient is summed. */
INLINE int FN(small_folds)(const fastnn_small *s)
{
    return s->update.optimizer == FASTNN_sgd && s->update.momentum == 0;
}

typedef struct {
    const fastnn_small *s;
    ptrdiff_t n_layers, batch, ld_across;
    FN(small_layer) layers[FASTNN_SMALL_LAYERS];
    int across;             /* the last layer */
    REAL *parameters, *gradient, *states[2];
    ptrdiff_t n, n_weights; /* parameters with what fills them up; the matrices are first */
    double *squares;        /* of the columns of all matrices */
    int late_logs;          /* see late_losses */
    REAL *losses;           /* of the rows of a batch */
    REAL *y;                /* values: (n_out, ld_across) if across, else (batch, ld_y) */
    ptrdiff_t ld_y;
    REAL *x_across, *z_across, *d_across, *labels_across;
    ptrdiff_t bytes;
} FN(small_plan);

/* The four products of a layer, where they are known to lie. */
static void FN(plan_products)(const FN(small_plan) *p, FN(small_layer) *l)
{
    const fastnn_small *s = p->s;
    const REAL *d = l->across ? p->d_across : l->of->d;
    const ptrdiff_t ld_d = l->of->ld, row = l->across ? 1 : ld_d, column = l->across ? p->ld_across : 1; /* of d */
    /* Gradients go into the parameters at once, or to their own place for an optimizer with states. */
    REAL *g = p->gradient + l->at;
    const int folded = FN(small_folds)(s);
    if (l->across)
        l->forward = (FN(small_task)){.k = l->n_in, .a_row = l->ld_turned, .a_col = 1, .ld_b = p->ld_across,
                                      .ld_c = p->ld_across, .a = l->turned, .b = p->x_across, .c = p->z_across};
    else
        l->forward = (FN(small_task)){.k = l->n_in, .a_row = l->ld_x, .a_col = 1, .ld_b = l->ld_w, .ld_c = l->of->ld,
                                      .a = l->x, .b = l->w, .c = l->of->a, .bias = l->b,
                                      .relu = l->of->activation == FASTNN_relu};
    if (l->of > s->layers) {
        const fastnn_small_layer *before = l->of - 1;
        l->input = (FN(small_task)){.k = l->n_out, .a_row = row, .a_col = column, .ld_b = l->ld_turned,
                                    .ld_c = before->ld, .a = d, .b = l->turned, .c = before->d,
                                    .relu_gate = before->activation == FASTNN_relu ? before->a : NULL,
                                    .ld_gate = before->ld};
    }
    l->along = (FN(small_task)){.k = p->batch, .a_row = 1, .a_col = l->ld_x, .ld_b = ld_d, .ld_c = l->ld_w, .a = l->x,
                                .b = d, .c = folded ? l->w : g, .decay = s->decay};
    l->against = (FN(small_task)){.k = p->batch, .a_row = column, .a_col = row, .ld_b = l->ld_x, .ld_c = l->ld_turned,
                                  .a = d, .b = l->x, .c = folded ? l->turned : g, .decay = s->decay};
}

/* Where everything lies in the workspace. */
static FN(small_plan) FN(plan_small)(const fastnn_small *s, REAL *work)
{
    FN(small_plan) p = {.s = s, .n_layers = s->n_layers, .batch = s->batch, .ld_across = WHOLE(s->batch)};
    const ptrdiff_t n_out = s->layers[s->n_layers - 1].n_out;
    /* Turning x costs about six operations for each of its columns; lanes along the outputs cost LANES for each. */
    p.across = s->batch > LANES / 4 && n_out <= BLOCK && 8 * n_out <= 5 * LANES * VECTORS(n_out) &&
               !s->layers[s->n_layers - 1].slope;
    p.late_logs = s->loss == FASTNN_cross_entropy && n_out <= BLOCK && s->batch <= LANES / 4;
    ptrdiff_t at = 0;
    for (ptrdiff_t i = 0; i < s->n_layers; i++) {
        FN(small_layer) *l = &p.layers[i];
        const int last_across = p.across && i == s->n_layers - 1;
        l->of = &s->layers[i];
        l->n_in = l->of->n_in;
        l->n_out = l->of->n_out;
        l->ld_w = WHOLE(l->n_out);
        l->ld_turned = WHOLE(l->n_in);
        l->x = i ? s->layers[i - 1].a : s->x_batch;
        l->ld_x = i ? s->layers[i - 1].ld : s->ld_batch;
        l->at = at;
        l->across = last_across;
        l->turned_first = last_across || (i > 0 && l->n_out * l->ld_turned < l->n_in * l->ld_w);
        l->w = l->turned_first ? NULL : work + at;
        l->turned = l->turned_first ? work + at : NULL;
        at += l->turned_first ? l->n_out * l->ld_turned : l->n_in * l->ld_w;
    }
    p.n_weights = at;
    for (ptrdiff_t i = 0; i < s->n_layers; i++) {
        FN(small_layer) *l = &p.layers[i];
        l->b = l->of->bias >= 0 ? work + at : NULL;
        l->at_bias = at;
        at += l->b ? l->ld_w : 0;
    }
    p.n = at;
    p.parameters = work;
    p.gradient = work + at;
    at *= FN(small_folds)(s) ? 1 : 2;
    if (s->state1) {
        p.states[0] = work + at;
        at += p.n;
    }
    if (s->state2) {
        p.states[1] = work + at;
        at += p.n;
    }
    for (ptrdiff_t i = 1; i < s->n_layers; i++) {
        FN(small_layer) *l = &p.layers[i];
        if (!l->turned) {
            l->turned = work + at;
            at += l->n_out * l->ld_turned;
        } else if (!p.across || i < s->n_layers - 1) {
            l->w = work + at;
            at += l->n_in * l->ld_w;
        }
    }
    p.losses = work + at;
    p.y = p.losses + p.ld_across;
    p.ld_y = WHOLE(n_out);
    if (p.across) {
        p.z_across = p.y + n_out * p.ld_across;
        p.d_across = p.z_across + n_out * p.ld_across;
        p.x_across = p.d_across + n_out * p.ld_across;
        p.labels_across = p.x_across + p.layers[s->n_layers - 1].n_in * p.ld_across;
        at = p.labels_across + p.ld_across - work;
    } else {
        at = p.y + (s->labels ? 0 : s->batch * p.ld_y) - work;
    }
    at = WHOLE(at);
    p.squares = (double *)(work + at);
    p.bytes = at * (ptrdiff_t)sizeof(REAL);
    for (ptrdiff_t i = 0; s->l2 != 0 && i < s->n_layers; i++)
        p.bytes += p.layers[i].n_out * (ptrdiff_t)sizeof(double);
    for (ptrdiff_t i = 0; i < s->n_layers; i++) FN(plan_products)(&p, &p.layers[i]);
    return p;
}

static ptrdiff_t FN(small_bytes)(const fastnn_small *s)
{
    return FN(plan_small)(s, (REAL *)64).bytes;
}

/* ---------------------------------------------------------------- products */

/* One tile at (i, j): FMA from zero over k. Literal bounds, as in matmul_template.h. */
#define SMALL_SUMS(MR, NV)                                                                    \
    vec sum[MR][NV];                                                                          \
    {                                                                                         \
        const REAL *a = t->a + i * t->a_row, *b = t->b + j;                                   \
        UNROLL for (int r = 0; r < MR; r++)                                                   \
            UNROLL for (int v = 0; v < NV; v++) sum[r][v] = vec_set(0);                       \
        for (ptrdiff_t p = 0; p < t->k; p++, a += t->a_col, b += t->ld_b) {                   \
            vec bv[NV];                                                                       \
            UNROLL for (int v = 0; v < NV; v++) bv[v] = vec_load(b + v * LANES);              \
            UNROLL for (int r = 0; r < MR; r++) {                                             \
                const vec ar = vec_set(a[r * t->a_row]);                                      \
                UNROLL for (int v = 0; v < NV; v++) sum[r][v] = vec_fma(ar, bv[v], sum[r][v]); \
            }                                                                                 \
        }                                                                                     \
    }

#define SMALL_PRODUCT_TILE(MR, NV)                                                                              \
    static void FN(small_product_##MR##x##NV)(const FN(small_task) *t, REAL rate, ptrdiff_t i, ptrdiff_t j) \
    {                                                                                                           \
        (void)rate;                                                                                             \
        SMALL_SUMS(MR, NV)                                                                                      \
        if (t->bias)                                                                                            \
            UNROLL for (int r = 0; r < MR; r++)                                                                 \
                UNROLL for (int v = 0; v < NV; v++) sum[r][v] += vec_load(t->bias + j + v * LANES);             \
        if (t->relu)                                                                                            \
            UNROLL for (int r = 0; r < MR; r++)                                                                 \
                UNROLL for (int v = 0; v < NV; v++) sum[r][v] = FN(forward_relu)(sum[r][v]);                    \
        if (t->relu_gate)                                                                                       \
            UNROLL for (int r = 0; r < MR; r++)                                                                 \
                UNROLL for (int v = 0; v < NV; v++) sum[r][v] = FN(backward_relu)(                              \
                    sum[r][v], vec_load(t->relu_gate + (i + r) * t->ld_gate + j + v * LANES));                  \
        UNROLL for (int r = 0; r < MR; r++)                                                                     \
            UNROLL for (int v = 0; v < NV; v++) vec_store(t->c + (i + r) * t->ld_c + j + v * LANES, sum[r][v]); \
    }

/* c is a matrix of parameters, the sums its gradient: SGD without momentum, as optimizers_template.h has it. */
#define SMALL_UPDATE_TILE(MR, NV)                                                                \
    static void FN(small_update_##MR##x##NV)(const FN(small_task) *t, REAL rate, ptrdiff_t i, ptrdiff_t j) \
    {                                                                                            \
        SMALL_SUMS(MR, NV)                                                                       \
        const vec minus_rate = vec_set(-rate), decay = vec_set((REAL)t->decay);                \
        UNROLL for (int r = 0; r < MR; r++)                                                      \
            UNROLL for (int v = 0; v < NV; v++) {                                                \
                REAL *c = t->c + (i + r) * t->ld_c + j + v * LANES;                              \
                const vec w = vec_load(c);                                                       \
                if (t->decay != 0)                                                               \
                    sum[r][v] = vec_fma(decay, w, sum[r][v]);                                    \
                vec_store(c, vec_fma(minus_rate, sum[r][v], w));                                 \
            }                                                                                    \
    }

/* Rows [0, m) and n whole vectors. Four vectors to a row where there is only one: with fewer, each FMA waits for the
 * one before. */
#define SMALL_STRIP(name, NV)                                                   \
    for (ptrdiff_t i = 0; i < m;)                                               \
        switch (m - i) {                                                        \
        case 1: FN(small_##name##_1x##NV)(t, rate, i, j * LANES); i += 1; break; \
        case 2: FN(small_##name##_2x##NV)(t, rate, i, j * LANES); i += 2; break; \
        case 3: FN(small_##name##_3x##NV)(t, rate, i, j * LANES); i += 3; break; \
        default: FN(small_##name##_4x##NV)(t, rate, i, j * LANES); i += 4;      \
        }
#define SMALL_LOOP(name)                                                                        \
    static void FN(small_##name)(const FN(small_task) *t, REAL rate, ptrdiff_t m, ptrdiff_t n) \
    {                                                                                           \
        ptrdiff_t j = 0;                                                                        \
        if (m == 1)                                                                             \
            for (; j + 4 <= n; j += 4) FN(small_##name##_1x4)(t, rate, 0, j * LANES);           \
        for (; j + 2 <= n; j += 2) SMALL_STRIP(name, 2)                                         \
        for (; j < n; j++) SMALL_STRIP(name, 1)                                                 \
    }
#define SMALL_TILES(X) X(1, 1) X(2, 1) X(3, 1) X(4, 1) X(1, 2) X(2, 2) X(3, 2) X(4, 2) X(1, 4)
SMALL_TILES(SMALL_PRODUCT_TILE)
SMALL_TILES(SMALL_UPDATE_TILE)
SMALL_LOOP(product)
SMALL_LOOP(update)
#undef SMALL_TILES
#undef SMALL_LOOP
#undef SMALL_STRIP
#undef SMALL_UPDATE_TILE
#undef SMALL_PRODUCT_TILE
#undef SMALL_SUMS

/* out (n, ld_out) = the transpose of a (m, n); whole vectors are read and written, with zeros from m on. */
static void FN(turn_whole)(ptrdiff_t m, ptrdiff_t n, const REAL *a, ptrdiff_t ld_a, REAL *out, ptrdiff_t ld_out)
{
    for (ptrdiff_t i = 0; i < m; i += LANES)
        for (ptrdiff_t j = 0; j < n; j += LANES) {
            const ptrdiff_t rows = m - i, columns = n - j;
#if TURNS_IN_REGISTERS
            vec block[LANES];
            UNROLL for (int q = 0; q < LANES; q++) block[q] = q < rows ? vec_load(a + (i + q) * ld_a + j) : vec_set(0);
            FN(transpose)(block);
            UNROLL for (int q = 0; q < LANES; q++)
                if (q < columns)
                    vec_store(out + (j + q) * ld_out + i, block[q]);
#else
            for (ptrdiff_t r = 0; r < LANES && r < columns; r++)
                for (ptrdiff_t q = 0; q < LANES; q++)
                    out[(j + r) * ld_out + i + q] = q < rows ? a[(i + q) * ld_a + j + r] : 0;
#endif
        }
}

/* ---------------------------------------------------------------- parameters in and out */

/* Copies between a flat block as users see it and its counterpart in the workspace. */
static void FN(copy_small)(const FN(small_plan) *p, REAL *flat, REAL *work, int back)
{
    for (ptrdiff_t i = 0; i < p->n_layers; i++) {
        const FN(small_layer) *l = &p->layers[i];
        REAL *w = flat + l->of->weight, *to = work + l->at;
        for (ptrdiff_t r = 0; r < l->n_in; r++, w += l->n_out) {
            if (!l->turned_first)
                memcpy(back ? w : to + r * l->ld_w, back ? to + r * l->ld_w : w, (size_t)l->n_out * sizeof(REAL));
            else if (back)
                for (ptrdiff_t c = 0; c < l->n_out; c++) w[c] = to[r + c * l->ld_turned];
            else
                for (ptrdiff_t c = 0; c < l->n_out; c++) to[r + c * l->ld_turned] = w[c];
        }
        if (l->b)
            memcpy(back ? flat + l->of->bias : work + l->at_bias, back ? work + l->at_bias : flat + l->of->bias,
                   (size_t)l->n_out * sizeof(REAL));
    }
}

static void FN(copy_all_small)(const FN(small_plan) *p, int back)
{
    FN(copy_small)(p, p->s->parameters, p->parameters, back);
    if (p->states[0])
        FN(copy_small)(p, p->s->state1, p->states[0], back);
    if (p->states[1])
        FN(copy_small)(p, p->s->state2, p->states[1], back);
}

/* The other copy of a matrix that has two. */
static void FN(renew_small)(const FN(small_layer) *l)
{
    if (!l->w || !l->turned)
        return;
    if (l->turned_first)
        FN(turn_whole)(l->n_out, l->n_in, l->turned, l->ld_turned, l->w, l->ld_w);
    else
        FN(turn_whole)(l->n_in, l->n_out, l->w, l->ld_w, l->turned, l->ld_turned);
}
