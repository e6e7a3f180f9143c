/* Optimizer steps, in place over segments of the flat block of parameters. One pass: each number is read
 * and written once. Hyperparameters arrive as doubles and are rounded once to the real type. */

/* SGD as PyTorch has it: g += decay w; v = momentum v + g; g = g + momentum v (Nesterov) or v; w -= lr g. */
static void FN(sgd)(const fastnn_update *u, ptrdiff_t n, double lr, double decay, REAL *w, const REAL *g, REAL *v)
{
    const REAL rate = (REAL)(u->lr * lr);
    const vec minus_lr = vec_set(-rate), wd = vec_set((REAL)decay), mu = vec_set((REAL)u->momentum);
    const int momentum = u->momentum != 0, nesterov = u->nesterov;
    for (ptrdiff_t i = 0; i < n; i += LANES) {
        const ptrdiff_t count = n - i;
        const int whole = count >= LANES;
        vec wi = whole ? vec_load(w + i) : vec_load_part(w + i, count);
        vec gi = whole ? vec_load(g + i) : vec_load_part(g + i, count);
        if (decay != 0)
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

static void FN(adam)(const fastnn_update *u, ptrdiff_t n, double lr, double decay, REAL *w, const REAL *g, REAL *m,
                     REAL *v)
{
    const double root = 1 / __builtin_sqrt(u->correction2); /* IEEE: the same bits everywhere */
    const vec constants[7] = {
        vec_set((REAL)decay),      vec_set((REAL)(1 - u->beta1)), vec_set((REAL)u->beta2),
        vec_set((REAL)(1 - u->beta2)), vec_set((REAL)root),       vec_set((REAL)u->eps),
        vec_set((REAL)(-u->lr * lr / u->correction1))};
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

#define OPTIMIZER_ARGUMENTS u, s->length, s->lr, s->decay, w + s->offset, g + s->offset
static void FN(update)(const fastnn_update *u, ptrdiff_t n_segments, const fastnn_segment *segments, void *w_,
                       const void *g_, void *state1_, void *state2_)
{
    REAL *w = w_, *state1 = state1_, *state2 = state2_;
    const REAL *g = g_;
    for (const fastnn_segment *s = segments; s < segments + n_segments; s++)
        switch (u->optimizer) {
        case FASTNN_sgd:
            FN(sgd)(OPTIMIZER_ARGUMENTS, state1 ? state1 + s->offset : NULL);
            break;
        case FASTNN_adam:
            FN(adam)(OPTIMIZER_ARGUMENTS, state1 + s->offset, state2 + s->offset);
            break;
        }
}
#undef OPTIMIZER_ARGUMENTS
