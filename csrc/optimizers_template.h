/* Optimizer steps, in place over segments of the flat block of parameters. One pass: each number is read
 * and written once. Hyperparameters arrive as doubles and are rounded once to the real type.
 *
 * An optimizer is two functions: what it needs of the hyperparameters, and the step of one vector. DEFINE_UPDATE makes
 * the loop around them, twice: plain, and with what few runs ask for (clip_value, l1), which would cost the others.
 * The order is PyTorch's: the gradient is clipped, then decay * w and l1 * sign(w) join it, then the step. */

/* Numbers of a step, rounded; what an optimizer does not set is not read. */
typedef struct {
    vec decay;      /* joins the gradient as decay * w */
    vec shrink;     /* w is multiplied by it: decay apart from the gradient */
    vec clip, l1;   /* with `more` only */
    vec rate;       /* minus the learning rate */
    vec k[6];       /* each optimizer's own */
} FN(constants);

INLINE vec FN(sign_of)(vec from, vec magnitude)
{
    const uvec sign = (uvec)vec_set(0) - 1;
    return (vec)((uvec)magnitude | ((uvec)from & (sign ^ (sign >> 1))));
}

/* NaN stays; the gradient of |w| at 0 is 0, as PyTorch's. */
INLINE vec FN(regularised)(const FN(constants) *c, vec w, vec g, const int more)
{
    if (more) {
        g = vec_max(vec_set(0) - c->clip, g);
        g = vec_min(c->clip, g);
        g += vec_where(w, unequal, vec_set(0), FN(sign_of)(w, c->l1), vec_set(0));
    }
    return vec_fma(c->decay, w, g);
}

/* Constants of all optimizers: rate, decay (of one kind or the other) and what `more` reads. */
INLINE FN(constants) FN(common_constants)(const fastnn_target *t, const int decoupled)
{
    const fastnn_update *u = t->update;
    FN(constants) c;
    c.rate = vec_set((REAL)(-u->lr * t->lr));
    c.decay = vec_set(decoupled ? 0 : (REAL)t->decay);
    c.shrink = vec_set(decoupled ? (REAL)(1 - u->lr * t->lr * t->decay) : 1);
    c.clip = vec_set(u->clip_value > 0 ? (REAL)u->clip_value : REAL_INFINITY);
    c.l1 = vec_set((REAL)t->l1);
    return c;
}

#define DEFINE_UPDATE(name, n_states)                                                                              \
    INLINE void FN(name##_loop)(const fastnn_target *t, ptrdiff_t at, ptrdiff_t rows, ptrdiff_t n, const REAL *g,  \
                                ptrdiff_t ld_g, const int more)                                                    \
    {                                                                                                              \
        const FN(constants) c = FN(name##_constants)(t);                                                           \
        REAL *w = (REAL *)t->w + at, *state[n_states];                                                             \
        UNROLL for (int q = 0; q < n_states; q++) state[q] = (REAL *)t->states[q] + at;                            \
        for (; rows > 0; rows--, w += t->ld, g += ld_g) {                                                          \
            ptrdiff_t i = 0;                                                                                       \
            vec s[n_states];                                                                                       \
            for (; i + LANES <= n; i += LANES) {                                                                   \
                vec wi = vec_load(w + i);                                                                          \
                UNROLL for (int q = 0; q < n_states; q++) s[q] = vec_load(state[q] + i);                           \
                FN(name##_vector)(&c, &wi, FN(regularised)(&c, wi, vec_load(g + i), more), s);                     \
                vec_store(w + i, wi);                                                                              \
                UNROLL for (int q = 0; q < n_states; q++) vec_store(state[q] + i, s[q]);                           \
            }                                                                                                      \
            if (i < n) {                                                                                           \
                const ptrdiff_t count = n - i;                                                                     \
                vec wi = vec_load_part(w + i, count);                                                              \
                UNROLL for (int q = 0; q < n_states; q++) s[q] = vec_load_part(state[q] + i, count);               \
                FN(name##_vector)(&c, &wi, FN(regularised)(&c, wi, vec_load_part(g + i, count), more), s);         \
                vec_store_part(w + i, wi, count);                                                                  \
                UNROLL for (int q = 0; q < n_states; q++) vec_store_part(state[q] + i, s[q], count);               \
            }                                                                                                      \
            UNROLL for (int q = 0; q < n_states; q++) state[q] += t->ld;                                           \
        }                                                                                                          \
    }                                                                                                              \
    static void FN(name)(const fastnn_target *t, ptrdiff_t at, ptrdiff_t rows, ptrdiff_t n, const REAL *g,         \
                         ptrdiff_t ld_g)                                                                           \
    {                                                                                                              \
        if (t->update->clip_value > 0 || t->l1 != 0)                                                               \
            FN(name##_loop)(t, at, rows, n, g, ld_g, 1);                                                           \
        else                                                                                                       \
            FN(name##_loop)(t, at, rows, n, g, ld_g, 0);                                                           \
    }

/* ---------------------------------------------------------------- sgd */

/* SGD as PyTorch has it: v = momentum v + (1 - dampening) g; g = g + momentum v (Nesterov) or v; w -= lr g. */
INLINE void FN(sgd_loop)(const fastnn_target *t, ptrdiff_t at, ptrdiff_t m, ptrdiff_t n, const REAL *g,
                         ptrdiff_t ld_g, const int more)
{
    const fastnn_update *u = t->update;
    const FN(constants) c = FN(common_constants)(t, 0);
    REAL *w = (REAL *)t->w + at, *v = t->states[0] ? (REAL *)t->states[0] + at : NULL;
    const vec mu = vec_set((REAL)u->momentum), fresh = vec_set((REAL)u->scale1);
    const int decay = t->decay != 0, momentum = u->momentum != 0, nesterov = u->nesterov;
    for (; m > 0; m--, w += t->ld, v += v ? t->ld : 0, g += ld_g) {
        ptrdiff_t i = 0;
        if (!more && !decay && !momentum)
            for (; i + LANES <= n; i += LANES) vec_store(w + i, vec_fma(c.rate, vec_load(g + i), vec_load(w + i)));
        for (; i < n; i += LANES) {
            const ptrdiff_t count = n - i;
            const int whole = count >= LANES;
            vec wi = whole ? vec_load(w + i) : vec_load_part(w + i, count);
            vec gi = whole ? vec_load(g + i) : vec_load_part(g + i, count);
            if (more || decay)
                gi = FN(regularised)(&c, wi, gi, more);
            if (momentum) {
                const vec vi = vec_fma(mu, whole ? vec_load(v + i) : vec_load_part(v + i, count), fresh * gi);
                if (whole)
                    vec_store(v + i, vi);
                else
                    vec_store_part(v + i, vi, count);
                gi = nesterov ? vec_fma(mu, vi, gi) : vi;
            }
            wi = vec_fma(c.rate, gi, wi);
            if (whole)
                vec_store(w + i, wi);
            else
                vec_store_part(w + i, wi, count);
        }
    }
}

static void FN(sgd)(const fastnn_target *t, ptrdiff_t at, ptrdiff_t m, ptrdiff_t n, const REAL *g, ptrdiff_t ld_g)
{
    if (t->update->clip_value > 0 || t->l1 != 0)
        FN(sgd_loop)(t, at, m, n, g, ld_g, 1);
    else
        FN(sgd_loop)(t, at, m, n, g, ld_g, 0);
}

/* ---------------------------------------------------------------- rmsprop, adagrad, adadelta */

/* RMSprop (Hinton 2012), PyTorch's form: q = alpha q + (1 - alpha) g^2; centered: a += (1 - alpha)(g - a) and q - a^2 in
 * the place of q; momentum: v = momentum v + g / (sqrt(q) + eps), and w -= lr v. States: q, then v, then a. */
INLINE FN(constants) FN(rmsprop_constants)(const fastnn_target *t)
{
    const fastnn_update *u = t->update;
    FN(constants) c = FN(common_constants)(t, 0);
    c.k[0] = vec_set((REAL)u->beta2);
    c.k[1] = vec_set((REAL)(1 - u->beta2));
    c.k[2] = vec_set((REAL)u->eps);
    c.k[3] = vec_set((REAL)u->momentum);
    return c;
}

INLINE vec FN(rmsprop_direction)(const FN(constants) *c, vec g, vec *q, vec *a)
{
    *q = vec_fma(c->k[1] * g, g, c->k[0] * *q);
    vec square = *q;
    if (a) {
        *a = vec_fma(c->k[1], g - *a, *a);
        square = vec_fma(vec_set(0) - *a, *a, square);
    }
    return g / (vec_sqrt(square) + c->k[2]);
}

INLINE void FN(rmsprop_vector)(const FN(constants) *c, vec *w, vec g, vec *s)
{
    *w = vec_fma(c->rate, FN(rmsprop_direction)(c, g, s, NULL), *w);
}

INLINE void FN(rmsprop_centered_vector)(const FN(constants) *c, vec *w, vec g, vec *s)
{
    *w = vec_fma(c->rate, FN(rmsprop_direction)(c, g, s, s + 1), *w);
}

INLINE void FN(rmsprop_momentum_vector)(const FN(constants) *c, vec *w, vec g, vec *s)
{
    s[1] = vec_fma(c->k[3], s[1], FN(rmsprop_direction)(c, g, s, NULL));
    *w = vec_fma(c->rate, s[1], *w);
}

INLINE void FN(rmsprop_both_vector)(const FN(constants) *c, vec *w, vec g, vec *s)
{
    s[1] = vec_fma(c->k[3], s[1], FN(rmsprop_direction)(c, g, s, s + 2));
    *w = vec_fma(c->rate, s[1], *w);
}

INLINE FN(constants) FN(rmsprop_centered_constants)(const fastnn_target *t) { return FN(rmsprop_constants)(t); }
INLINE FN(constants) FN(rmsprop_momentum_constants)(const fastnn_target *t) { return FN(rmsprop_constants)(t); }
INLINE FN(constants) FN(rmsprop_both_constants)(const fastnn_target *t) { return FN(rmsprop_constants)(t); }

DEFINE_UPDATE(rmsprop, 1)
DEFINE_UPDATE(rmsprop_centered, 2)
DEFINE_UPDATE(rmsprop_momentum, 2)
DEFINE_UPDATE(rmsprop_both, 3)

/* Adagrad (Duchi et al. 2011): q += g^2; w -= lr / (1 + (t - 1) lr_decay) g / (sqrt(q) + eps). */
INLINE FN(constants) FN(adagrad_constants)(const fastnn_target *t)
{
    const fastnn_update *u = t->update;
    FN(constants) c = FN(common_constants)(t, 0);
    c.rate = vec_set((REAL)(-u->lr * t->lr / u->scale1));
    c.k[0] = vec_set((REAL)u->eps);
    return c;
}

INLINE void FN(adagrad_vector)(const FN(constants) *c, vec *w, vec g, vec *s)
{
    s[0] = vec_fma(g, g, s[0]);
    *w = vec_fma(c->rate, g / (vec_sqrt(s[0]) + c->k[0]), *w);
}

DEFINE_UPDATE(adagrad, 1)

/* Adadelta (Zeiler 2012): q = rho q + (1 - rho) g^2; d = sqrt(e + eps) / sqrt(q + eps) g;
 * e = rho e + (1 - rho) d^2; w -= lr d. States: q, e. */
INLINE FN(constants) FN(adadelta_constants)(const fastnn_target *t) { return FN(rmsprop_constants)(t); }

INLINE void FN(adadelta_vector)(const FN(constants) *c, vec *w, vec g, vec *s)
{
    s[0] = vec_fma(c->k[1] * g, g, c->k[0] * s[0]);
    const vec d = vec_sqrt(s[1] + c->k[2]) / vec_sqrt(s[0] + c->k[2]) * g;
    s[1] = vec_fma(c->k[1] * d, d, c->k[0] * s[1]);
    *w = vec_fma(c->rate, d, *w);
}

DEFINE_UPDATE(adadelta, 2)

/* ---------------------------------------------------------------- adam and its family */

/* What they share: beta1, beta2 and their complements, eps. */
INLINE FN(constants) FN(moments_constants)(const fastnn_target *t, const int decoupled)
{
    const fastnn_update *u = t->update;
    FN(constants) c = FN(common_constants)(t, decoupled);
    c.k[0] = vec_set((REAL)(1 - u->beta1));
    c.k[1] = vec_set((REAL)u->beta2);
    c.k[2] = vec_set((REAL)(1 - u->beta2));
    c.k[3] = vec_set((REAL)u->eps);
    return c;
}

/* m += (1 - beta1)(g - m); v = beta2 v + (1 - beta2) g^2. States: m, v. */
INLINE void FN(moments)(const FN(constants) *c, vec g, vec *s)
{
    s[0] = vec_fma(c->k[0], g - s[0], s[0]);
    s[1] = vec_fma(c->k[2] * g, g, c->k[1] * s[1]);
}

/* Adam (Kingma & Ba 2015), PyTorch's form: w -= lr / correction1 * m / (sqrt(v) / sqrt(correction2) + eps). AMSGrad
 * (Reddi et al. 2018) has the largest v so far in the place of v; AdamW (Loshchilov & Hutter 2019) shrinks w first. */
INLINE FN(constants) FN(any_adam_constants)(const fastnn_target *t, const int decoupled)
{
    const fastnn_update *u = t->update;
    FN(constants) c = FN(moments_constants)(t, decoupled);
    c.rate = vec_set((REAL)(-u->lr * t->lr / u->correction1));
    c.k[4] = vec_set((REAL)(1 / __builtin_sqrt(u->correction2))); /* IEEE: the same bits everywhere */
    return c;
}

INLINE void FN(adam_vector)(const FN(constants) *c, vec *w, vec g, vec *s)
{
    FN(moments)(c, g, s);
    *w = vec_fma(c->rate, s[0] / vec_fma(vec_sqrt(s[1]), c->k[4], c->k[3]), *w);
}

INLINE void FN(amsgrad_vector)(const FN(constants) *c, vec *w, vec g, vec *s)
{
    FN(moments)(c, g, s);
    s[2] = vec_max(s[2], s[1]); /* NaN of s[1] passes */
    *w = vec_fma(c->rate, s[0] / vec_fma(vec_sqrt(s[2]), c->k[4], c->k[3]), *w);
}

INLINE void FN(adamw_vector)(const FN(constants) *c, vec *w, vec g, vec *s)
{
    *w *= c->shrink;
    FN(adam_vector)(c, w, g, s);
}

INLINE void FN(amsgradw_vector)(const FN(constants) *c, vec *w, vec g, vec *s)
{
    *w *= c->shrink;
    FN(amsgrad_vector)(c, w, g, s);
}

INLINE FN(constants) FN(adam_constants)(const fastnn_target *t) { return FN(any_adam_constants)(t, 0); }
INLINE FN(constants) FN(amsgrad_constants)(const fastnn_target *t) { return FN(any_adam_constants)(t, 0); }
INLINE FN(constants) FN(adamw_constants)(const fastnn_target *t) { return FN(any_adam_constants)(t, 1); }
INLINE FN(constants) FN(amsgradw_constants)(const fastnn_target *t) { return FN(any_adam_constants)(t, 1); }

DEFINE_UPDATE(adam, 2)
DEFINE_UPDATE(amsgrad, 3)
DEFINE_UPDATE(adamw, 2)
DEFINE_UPDATE(amsgradw, 3)

/* Adamax (Kingma & Ba 2015): n = max(beta2 n, |g| + eps); w -= lr / correction1 * m / n. States: m, n. */
INLINE FN(constants) FN(adamax_constants)(const fastnn_target *t)
{
    const fastnn_update *u = t->update;
    FN(constants) c = FN(moments_constants)(t, 0);
    c.rate = vec_set((REAL)(-u->lr * t->lr / u->correction1));
    return c;
}

INLINE void FN(adamax_vector)(const FN(constants) *c, vec *w, vec g, vec *s)
{
    s[0] = vec_fma(c->k[0], g - s[0], s[0]);
    s[1] = vec_max(c->k[1] * s[1], vec_abs(g) + c->k[3]); /* NaN of g passes */
    *w = vec_fma(c->rate, s[0] / s[1], *w);
}

DEFINE_UPDATE(adamax, 2)

/* NAdam (Dozat 2016), PyTorch's form: w -= lr (scale1 g + scale2 m) / (sqrt(v / correction2) + eps). */
INLINE FN(constants) FN(nadam_constants)(const fastnn_target *t)
{
    const fastnn_update *u = t->update;
    FN(constants) c = FN(moments_constants)(t, u->decoupled);
    c.k[4] = vec_set((REAL)(1 / __builtin_sqrt(u->correction2)));
    c.k[5] = vec_set((REAL)(-u->lr * t->lr * u->scale2)); /* of m */
    c.rate = vec_set((REAL)(-u->lr * t->lr * u->scale1)); /* of g */
    return c;
}

INLINE void FN(nadam_vector)(const FN(constants) *c, vec *w, vec g, vec *s)
{
    FN(moments)(c, g, s);
    const vec denominator = vec_fma(vec_sqrt(s[1]), c->k[4], c->k[3]);
    *w = vec_fma(c->k[5], s[0], c->rate * g) / denominator + *w * c->shrink;
}

DEFINE_UPDATE(nadam, 2)

/* RAdam (Liu et al. 2020), PyTorch's form: w -= lr / correction1 * scale1 * m / (sqrt(v) + eps), and while the variance
 * is not known (scale2 is 0) only w -= lr / correction1 * m. */
INLINE FN(constants) FN(radam_constants)(const fastnn_target *t)
{
    const fastnn_update *u = t->update;
    FN(constants) c = FN(moments_constants)(t, u->decoupled);
    c.rate = vec_set((REAL)(-u->lr * t->lr * u->scale1 / u->correction1));
    c.k[4] = vec_set((REAL)u->scale2);
    c.k[5] = vec_set((REAL)(u->scale2 != 0 ? u->eps : 1));
    return c;
}

INLINE void FN(radam_vector)(const FN(constants) *c, vec *w, vec g, vec *s)
{
    FN(moments)(c, g, s);
    *w = vec_fma(c->rate, s[0] / vec_fma(vec_sqrt(s[1]), c->k[4], c->k[5]), *w * c->shrink);
}

DEFINE_UPDATE(radam, 2)

/* Lion (Chen et al. 2023): w shrinks by its decay; w -= lr sign(beta1 m + (1 - beta1) g); m = beta2 m + (1 - beta2) g. */
INLINE FN(constants) FN(lion_constants)(const fastnn_target *t)
{
    FN(constants) c = FN(moments_constants)(t, 1);
    c.k[3] = vec_set((REAL)t->update->beta1);
    return c;
}

INLINE void FN(lion_vector)(const FN(constants) *c, vec *w, vec g, vec *s)
{
    const vec toward = vec_fma(c->k[0], g, c->k[3] * s[0]), zero = vec_set(0);
    vec sign = vec_where(toward, unequal, zero, FN(sign_of)(toward, vec_set(1)), zero);
    sign = vec_where(toward, unequal, toward, toward, sign); /* NaN stays */
    s[0] = vec_fma(c->k[2], g, c->k[1] * s[0]);
    *w = vec_fma(c->rate, sign, *w * c->shrink);
}

DEFINE_UPDATE(lion, 1)
#undef DEFINE_UPDATE

/* ---------------------------------------------------------------- the choice */

/* One step on rows [0, m) and columns [0, n) of a matrix within the parameters; its first is number `at` of the
 * target, rows lie target->ld apart, those of the gradient g ld_g. */
static void FN(update_rows)(const fastnn_target *t, ptrdiff_t at, ptrdiff_t m, ptrdiff_t n, const REAL *g,
                            ptrdiff_t ld_g)
{
    const fastnn_update *u = t->update;
    switch (u->optimizer) {
    case FASTNN_sgd: FN(sgd)(t, at, m, n, g, ld_g); break;
    case FASTNN_rmsprop:
        if (u->centered && u->momentum != 0)
            FN(rmsprop_both)(t, at, m, n, g, ld_g);
        else if (u->centered)
            FN(rmsprop_centered)(t, at, m, n, g, ld_g);
        else if (u->momentum != 0)
            FN(rmsprop_momentum)(t, at, m, n, g, ld_g);
        else
            FN(rmsprop)(t, at, m, n, g, ld_g);
        break;
    case FASTNN_adagrad: FN(adagrad)(t, at, m, n, g, ld_g); break;
    case FASTNN_adadelta: FN(adadelta)(t, at, m, n, g, ld_g); break;
    case FASTNN_adam: (u->amsgrad ? FN(amsgrad) : FN(adam))(t, at, m, n, g, ld_g); break;
    case FASTNN_adamw: (u->amsgrad ? FN(amsgradw) : FN(adamw))(t, at, m, n, g, ld_g); break;
    case FASTNN_adamax: FN(adamax)(t, at, m, n, g, ld_g); break;
    case FASTNN_nadam: FN(nadam)(t, at, m, n, g, ld_g); break;
    case FASTNN_radam: FN(radam)(t, at, m, n, g, ld_g); break;
    case FASTNN_lion: FN(lion)(t, at, m, n, g, ld_g); break;
    }
}

static void FN(update)(const fastnn_update *u, ptrdiff_t n_segments, const fastnn_segment *segments, void *w,
                       const void *g, void *const *states)
{
    fastnn_target t = {.update = u, .w = w};
    for (int q = 0; q < FASTNN_STATES; q++) t.states[q] = states[q];
    for (const fastnn_segment *s = segments; s < segments + n_segments; s++) {
        t.lr = s->lr;
        t.decay = s->decay;
        t.l1 = s->l1;
        FN(update_rows)(&t, s->offset, 1, s->length, (const REAL *)g + s->offset, 0);
    }
}
