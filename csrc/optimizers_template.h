/* Optimizer steps, in place over segments of the flat block of parameters. One pass: each number is read
 * and written once. Hyperparameters arrive as doubles and are rounded once to the real type. */

/* SGD as PyTorch has it: g += decay w; v = momentum v + g; g = g + momentum v (Nesterov) or v; w -= lr g. */
static void FN(sgd)(const fastnn_target *t, ptrdiff_t at, ptrdiff_t m, ptrdiff_t n, const REAL *g, ptrdiff_t ld_g)
{
    const fastnn_update *u = t->update;
    REAL *w = (REAL *)t->w + at, *v = t->state1 ? (REAL *)t->state1 + at : NULL;
    const REAL rate = (REAL)(u->lr * t->lr);
    const vec minus_lr = vec_set(-rate), wd = vec_set((REAL)t->decay), mu = vec_set((REAL)u->momentum);
    const int decay = t->decay != 0, momentum = u->momentum != 0, nesterov = u->nesterov;
    for (; m > 0; m--, w += t->ld, v += v ? t->ld : 0, g += ld_g) {
        ptrdiff_t i = 0;
        if (!decay && !momentum)
            for (; i + LANES <= n; i += LANES) vec_store(w + i, vec_fma(minus_lr, vec_load(g + i), vec_load(w + i)));
        for (; i < n; i += LANES) {
            const ptrdiff_t count = n - i;
            const int whole = count >= LANES;
            vec wi = whole ? vec_load(w + i) : vec_load_part(w + i, count);
            vec gi = whole ? vec_load(g + i) : vec_load_part(g + i, count);
            if (decay)
                gi = vec_fma(wd, wi, gi);
            if (momentum) {
                const vec vi = vec_fma(mu, whole ? vec_load(v + i) : vec_load_part(v + i, count), gi);
                if (whole)
                    vec_store(v + i, vi);
                else
                    vec_store_part(v + i, vi, count);
                gi = nesterov ? vec_fma(mu, vi, gi) : vi;
            }
            wi = vec_fma(minus_lr, gi, wi);
            if (whole)
                vec_store(w + i, wi);
            else
                vec_store_part(w + i, wi, count);
        }
    }
}

/* Adam (Kingma & Ba 2015), PyTorch's form: g += decay w; m += (1 - beta1)(g - m);
 * v = beta2 v + (1 - beta2) g^2; w -= lr / correction1 * m / (sqrt(v) / sqrt(correction2) + eps). */
static inline __attribute__((always_inline)) void FN(adam_vector)(const vec constants[7], vec *w, vec g, vec *m, vec *v)
{
    g = vec_fma(constants[0], *w, g);
    *m = vec_fma(constants[1], g - *m, *m);
    *v = vec_fma(constants[3] * g, g, constants[2] * *v);
    const vec denominator = vec_fma(vec_sqrt(*v), constants[4], constants[5]);
    *w = vec_fma(constants[6], *m / denominator, *w);
}

static void FN(adam)(const fastnn_target *t, ptrdiff_t at, ptrdiff_t rows, ptrdiff_t n, const REAL *g, ptrdiff_t ld_g)
{
    const fastnn_update *u = t->update;
    REAL *w = (REAL *)t->w + at, *m = (REAL *)t->state1 + at, *v = (REAL *)t->state2 + at;
    const double root = 1 / __builtin_sqrt(u->correction2); /* IEEE: the same bits everywhere */
    const vec constants[7] = {
        vec_set((REAL)t->decay),       vec_set((REAL)(1 - u->beta1)), vec_set((REAL)u->beta2),
        vec_set((REAL)(1 - u->beta2)), vec_set((REAL)root),           vec_set((REAL)u->eps),
        vec_set((REAL)(-u->lr * t->lr / u->correction1))};
    for (; rows > 0; rows--, w += t->ld, m += t->ld, v += t->ld, g += ld_g) {
        ptrdiff_t i = 0;
        for (; i + LANES <= n; i += LANES) {
            vec wi = vec_load(w + i), mi = vec_load(m + i), vi = vec_load(v + i);
            FN(adam_vector)(constants, &wi, vec_load(g + i), &mi, &vi);
            vec_store(w + i, wi);
            vec_store(m + i, mi);
            vec_store(v + i, vi);
        }
        if (i < n) {
            const ptrdiff_t count = n - i;
            vec wi = vec_load_part(w + i, count), mi = vec_load_part(m + i, count), vi = vec_load_part(v + i, count);
            FN(adam_vector)(constants, &wi, vec_load_part(g + i, count), &mi, &vi);
            vec_store_part(w + i, wi, count);
            vec_store_part(m + i, mi, count);
            vec_store_part(v + i, vi, count);
        }
    }
}

/* One step on rows [0, m) and columns [0, n) of a matrix within the parameters; its first is number `at` of the
 * target, rows lie target->ld apart, those of the gradient g ld_g. */
static void FN(update_rows)(const fastnn_target *t, ptrdiff_t at, ptrdiff_t m, ptrdiff_t n, const REAL *g,
                            ptrdiff_t ld_g)
{
    switch (t->update->optimizer) {
    case FASTNN_sgd: FN(sgd)(t, at, m, n, g, ld_g); break;
    case FASTNN_adam: FN(adam)(t, at, m, n, g, ld_g); break;
    }
}

static void FN(update)(const fastnn_update *u, ptrdiff_t n_segments, const fastnn_segment *segments, void *w,
                       const void *g, void *state1, void *state2)
{
    fastnn_target t = {.update = u, .w = w, .state1 = state1, .state2 = state2};
    for (const fastnn_segment *s = segments; s < segments + n_segments; s++) {
        t.lr = s->lr;
        t.decay = s->decay;
        FN(update_rows)(&t, s->offset, 1, s->length, (const REAL *)g + s->offset, 0);
    }
}
