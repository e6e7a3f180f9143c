/* The update: the norm of a gradient, optimizers, the moving average of the weights. */

__device__ inline float clipped(float g, float most) { return g < -most ? -most : g > most ? most : g; }

/* Sums of squares of g, one a block; norm_factor adds them. Elements are
 * clipped to +-clip first, in place, where it is above 0. */
TOGETHER sum_of_squares(float *g, i64 size, float clip, double *partial)
{
    double sum = 0;
    for (i64 i = thread_number(); i < size; i += (i64)gridDim.x * THREADS) {
        float v = g[i];
        if (clip > 0)
            g[i] = v = clipped(v, clip);
        sum += (double)v * v;
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0)
        partial[blockIdx.x] = sum;
}

/* What brings a gradient with that sum of squares down to the norm `most`. */
__device__ inline float factor_of_norm(double sum, double most)
{
    const double f = most / (sqrt(sum) + 1e-6);
    return f < 1 || f != f ? (float)f : 1.0f;
}

/* What brings a gradient of n_partial such sums down to the norm `most`; one thread. */
SEPARATE norm_factor(const double *partial, int n_partial, double most, float *factor)
{
    if (thread_number())
        return;
    double sum = 0;
    for (int i = 0; i < n_partial; i++) sum += partial[i];
    *factor = factor_of_norm(sum, most);
}

/* Numbers of a step that the host has worked out in double: columns of a row of the table of constants. */
enum { K_RATE, K_SHRINK, K_0, K_1, K_2, K_3, K_4, K_5, K_COLUMNS };
enum { UPDATE_NESTEROV = 1, UPDATE_MOMENTUM = 2, UPDATE_CENTERED = 4, UPDATE_AMSGRAD = 8 };

/* One step of the optimizer on element i of parameters w that have one rule, whose constants are k. s: the first state
 * of the first of them, the others follow `between` elements apart. The order is PyTorch's: the gradient is clipped,
 * then decay * w and l1 * sign(w) join it, then the step; K_RATE is minus the learning rate. */
__device__ inline void update_of(int kind, int flags, float *w, const float *g, float *s, i64 between, i64 i,
                                 const float *k, float decay, float l1, float clip, const float *factor)
{
    const float rate = k[K_RATE], shrink = k[K_SHRINK];
    float v = w[i], d = g[i];
    if (factor)
        d *= *factor;
    if (clip > 0)
        d = clipped(d, clip);
    d = fmaf(decay, v, d);
    if (l1 != 0)
        d += v > 0 ? l1 : v < 0 ? -l1 : 0.0f;
    float *const s0 = s + i, *const s1 = s0 + between, *const s2 = s1 + between;
    switch (kind) {
    case OPT_sgd:
        if (flags & UPDATE_MOMENTUM) {
            const float speed = *s0 = fmaf(k[K_0], *s0, k[K_1] * d);
            d = flags & UPDATE_NESTEROV ? fmaf(k[K_0], speed, d) : speed;
        }
        v = fmaf(rate, d, v);
        break;
    case OPT_rmsprop: {
        float square = *s0 = fmaf(k[K_1] * d, d, k[K_0] * *s0);
        if (flags & UPDATE_CENTERED) {
            float *const mean = flags & UPDATE_MOMENTUM ? s2 : s1;
            const float a = *mean = fmaf(k[K_1], d - *mean, *mean);
            square = fmaf(-a, a, square);
        }
        d /= sqrtf(square) + k[K_2];
        if (flags & UPDATE_MOMENTUM)
            d = *s1 = fmaf(k[K_3], *s1, d);
        v = fmaf(rate, d, v);
        break;
    }
    case OPT_adagrad:
        *s0 = fmaf(d, d, *s0);
        v = fmaf(rate, d / (sqrtf(*s0) + k[K_0]), v);
        break;
    case OPT_adadelta:
        *s0 = fmaf(k[K_1] * d, d, k[K_0] * *s0);
        d *= sqrtf(*s1 + k[K_2]) / sqrtf(*s0 + k[K_2]);
        *s1 = fmaf(k[K_1] * d, d, k[K_0] * *s1);
        v = fmaf(rate, d, v);
        break;
    case OPT_adamax:
        *s0 = fmaf(k[K_0], d - *s0, *s0);
        {
            const float kept = k[K_1] * *s1, size_of = fabsf(d) + k[K_3];
            *s1 = kept > size_of ? kept : size_of; /* NaN of d passes */
        }
        v = fmaf(rate, *s0 / *s1, v);
        break;
    case OPT_lion: {
        const float toward = fmaf(k[K_0], d, k[K_3] * *s0);
        *s0 = fmaf(k[K_2], d, k[K_1] * *s0);
        v = fmaf(rate, toward > 0 ? 1.0f : toward < 0 ? -1.0f : toward, v * shrink);
        break;
    }
    default: { /* adam, adamw, nadam, radam */
        const float mean = *s0 = fmaf(k[K_0], d - *s0, *s0);
        float square = *s1 = fmaf(k[K_2] * d, d, k[K_1] * *s1);
        if (kind == OPT_nadam) {
            v = fmaf(k[K_5], mean, rate * d) / fmaf(sqrtf(square), k[K_4], k[K_3]) + v * shrink;
            break;
        }
        if (flags & UPDATE_AMSGRAD)
            square = *s2 = *s2 > square ? *s2 : square;
        /* radam's K_3 is 1 and its K_4 is 0 while the variance is not known */
        v = fmaf(rate, mean / fmaf(sqrtf(square), k[K_4], k[K_3]), v * shrink);
    }
    }
    w[i] = v;
}

SEPARATE update(int kind, int flags, float *w, const float *g, float *s, i64 between, i64 size, const u64 *sources,
                const i64 *progress, int rule, int n_rules, float decay, float l1, float clip, const float *factor)
{
    const i64 i = thread_number();
    if (i >= size || progress[2])
        return;
    const float *k = (const float *)sources[SRC_CONSTANTS] + (progress[0] * n_rules + rule) * K_COLUMNS;
    update_of(kind, flags, w, g, s, between, i, k, decay, l1, clip, factor);
}

SEPARATE fill(float *out, i64 size, float value)
{
    const i64 i = thread_number();
    if (i < size)
        out[i] = value;
}

/* The moving average of the weights, which begins as what the first update gives; toward: 1 less its decay. */
__device__ inline float averaged(float mean, float w, i64 step, float toward)
{
    return step == 0 ? w : mean + toward * (w - mean);
}

SEPARATE average(float *mean, const float *w, i64 size, const i64 *progress, float toward)
{
    const i64 i = thread_number();
    if (i < size && !progress[2])
        mean[i] = averaged(mean[i], w[i], progress[1], toward);
}
