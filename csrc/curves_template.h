/* Activations that take more than a line: f(z), and where `slope` is asked for f'(z) beside it, which shares the
 * exponential and the division.
 *
 * z times a sigmoid is written by t = |z| as max(z, 0) - t T(t), where T falls from 1/2 to 0 and is computed to its
 * own last places: neither side of zero cancels, and f'(z) is w = T + t T' on the left and 1 - w on the right. The tail
 * t T is multiplied by its power of two last, so that it is rounded once where it is subnormal. Infinities have the
 * limits of the function: +inf and -0.
 *
 * Monotone in float32, where the function rises: each rounding but the last is noise that a step of the input has to
 * outweigh. Near zero z - t T takes an exponential near 1, with its noise, to tell numbers apart whose distance is much
 * smaller; there (NEAR_ZERO) z/2 + z^2 P(z^2) is taken, which is exact but for the small second term. Left of zero on
 * the way to the minimum nothing of this helps: the slope itself goes to zero. */

#undef NEAR_OR
#undef NEAR_ZERO
#undef MISH_NEAR
#undef SILU_FLAT
#undef MISH_LINE
#undef GELU_FLAT
#undef GELU_TANH_FLAT
#undef GELU_C1
#undef GELU_C1_LOW
#undef GELU_C3
#undef GELU_C3_LOW
#undef GELU_SLOPE_C1
#undef GELU_SLOPE_C3
#undef ROOT_2PI
#undef SOFTPLUS_LINE
#undef SELU_LEFT
#undef SELU_RIGHT
/* From these on t T(t) rounds to 0 (SILU_FLAT, also of mish and softplus; GELU_FLAT; GELU_TANH_FLAT), mish to z
 * (MISH_LINE).
 * SOFTPLUS_LINE: softplus of 20, beyond which it is z (PyTorch's threshold).
 * GELU_C1, GELU_C3: 2 sqrt(2/pi) log2(e) and 0.044715 times it, with what their rounding lost. GELU_C1 ends before the
 * last place of every sum of it and c3 t^2. GELU_SLOPE_C1, GELU_SLOPE_C3: y' = c1 + 3 c3 t^2. ROOT_2PI: 1 / sqrt(2 pi).
 * SELU_LEFT, SELU_RIGHT: scale * alpha and scale (Klambauer et al. 2017). */
#define SELU_LEFT ((REAL)1.758099340847376859940218)
#define SELU_RIGHT ((REAL)1.0507009873554804934193349852946)
#if REAL_IS_FLOAT
#define SILU_FLAT 110.0f
#define MISH_LINE 20.0f
#define GELU_FLAT 14.5f
#define GELU_TANH_FLAT 11.0f
#define GELU_C1 0x1.26aecp+1f
#define GELU_C1_LOW 0x1.0de73ap-22f
#define GELU_C3 0x1.a5a7dp-4f
#define GELU_C3_LOW -0x1.151aaep-29f
#define GELU_SLOPE_C1 0x1.988454p+0f
#define GELU_SLOPE_C3 0x1.b6676cp-3f
#define ROOT_2PI 0x1.988454p-2f
#define SOFTPLUS_LINE 20.0f
/* exp(t^2 / 2) erfc(t / sqrt(2)) / 2 = P / Q on 0 <= t <= 14.5: 2^-26.4 of it. */
static const REAL FN(gelu_over)[] = {
    0x1.0p-1f, 0x1.c01908p-2f, 0x1.762344p-3f, 0x1.4b449ap-5f, 0x1.0bad2p-8f};
static const REAL FN(gelu_under)[] = {
    1, 0x1.ac4eb2p+0f, 0x1.3345fap+0f, 0x1.df3d7cp-2f, 0x1.9f35bp-4f, 0x1.4f7a7cp-7f};
/* (f(z) - z/2) / z^2 in z^2 for |z| <= 1/2: 2^-28.3, 2^-25.1, 2^-25.1 of it, and (softplus(z) - z/2 - log 2) / z^2:
 * 2^-30.7. */
#define NEAR_ZERO 0.5f
static const REAL FN(silu_near)[] = {0x1p-2f, -0x1.555516p-6f, 0x1.10e0fep-9f, -0x1.a53b9cp-13f};
static const REAL FN(gelu_near)[] = {0x1.988454p-2f, -0x1.1058a2p-4f, 0x1.46cad2p-7f, -0x1.2ddcep-10f};
static const REAL FN(gelu_tanh_near)[] = {0x1.988454p-2f, -0x1.11b1b4p-4f, 0x1.4e4136p-7f, -0x1.3c0d42p-10f};
static const REAL FN(softplus_near)[] = {0x1p-3f, -0x1.55553cp-8f, 0x1.6bf036p-12f, -0x1.a95b24p-16f};
/* (log(1 + x) - x) / x^2 on 0 <= x <= exp(-1/2): 2^-29.7 of log(1 + x). */
static const REAL FN(softplus_coefficients)[] = {
    -0x1.fffff4p-2f, 0x1.5552b2p-2f, -0x1.ff9a54p-3f, 0x1.95d8e6p-3f, -0x1.412de6p-3f, 0x1.c485d8p-4f,
    -0x1.d0f728p-5f, 0x1.e31686p-7f};
/* (mish(z) - 0.6 z) / z^2 for -1/4 <= z <= 0: 2^-25.2 of mish(z). */
#define MISH_NEAR 0.25f
static const REAL FN(mish_near)[] = {0x1.47ad92p-2f, -0x1.0761d4p-6f, -0x1.7f4654p-5f, -0x1.3da4c2p-8f};
#else
#define SILU_FLAT 760.0
#define MISH_LINE 40.0
#define GELU_FLAT 38.8
#define GELU_TANH_FLAT 22.0
#define GELU_C1 0x1.26aec21bce76p+1
#define GELU_C1_LOW -0x1.ad12d7a64bcebp-49
#define GELU_C3 0x1.a5a7cf7572a98p-4
#define GELU_C3_LOW -0x1.b91c940e4cfcfp-58
#define GELU_SLOPE_C1 0x1.9884533d43651p+0
#define GELU_SLOPE_C3 0x1.b6676bf7450fp-3
#define ROOT_2PI 0x1.9884533d43651p-2
#define SOFTPLUS_LINE 20.000000002061153
/* (log(1 + x) / s - 2) / z with s = x / (2 + x), z = s^2, on 0 <= x <= 1: 2^-58.6 of log(1 + x). */
static const REAL FN(softplus_coefficients)[] = {
    0x1.5555555555535p-1, 0x1.99999999a06c1p-2, 0x1.249249209119bp-2, 0x1.c71c741a01f1ap-3, 0x1.745cb45a6d3ccp-3,
    0x1.3b1dd39bb9821p-3, 0x1.10682fc5bbe22p-3, 0x1.efd17e0f93d99p-4, 0x1.55cf9c34cbe35p-4, 0x1.5c5be3745fe1ep-3};
/* As for float, on 0 <= t <= 38.8: 2^-59.9 before the coefficients were rounded. */
static const REAL FN(gelu_over)[] = {
    0x1.0p-1, 0x1.a7d9159b787d9p-1, 0x1.5be21b91b96f9p-1, 0x1.6dcdcbca13ac5p-2, 0x1.0e5102d3a4d34p-3,
    0x1.240955baeddep-5, 0x1.d28181d2ab597p-8, 0x1.1058dca0ae1f4p-10, 0x1.be988501c532ep-14,
    0x1.d3a78c005c27cp-18, 0x1.e0d4ea3c40b9ap-23};
static const REAL FN(gelu_under)[] = {
    0x1.0p+0, 0x1.3a0d9f9d0d181p+1, 0x1.6885138bf2f98p+1, 0x1.001ee29309bacp+1, 0x1.f5a4454850b46p-1,
    0x1.6485922d82ad9p-2, 0x1.78897f6fe4e93p-4, 0x1.28b194681dfe2p-6, 0x1.57a042806169dp-9,
    0x1.18736ee7932c5p-12, 0x1.250f19addeb17p-16, 0x1.2d510b972597fp-21};
#endif

/* A sum of the sign of z, of which a sum with -0 may have lost it. */
INLINE vec FN(or_sign)(vec sum, vec z)
{
    const uvec ones = (uvec)vec_set(0) - 1;
    return (vec)((uvec)sum | ((uvec)z & (ones ^ (ones >> 1))));
}

/* size with the sign of z. */
INLINE vec FN(with_sign)(vec size, vec z)
{
    return (vec)((uvec)size | ((uvec)z ^ (uvec)vec_abs(z)));
}

/* max(z, 0) - tail, and the slope from w, its value left of zero. */
INLINE vec FN(one_sided)(vec z, vec tail, vec w, vec *slope)
{
    *slope = vec_where(z, less, vec_set(0), w, 1 - w);
    return vec_max(vec_set((REAL)-0.0), z) - tail;
}

/* f of an f with f(z) - z/2 even: z/2 + z^2 P(z^2) for |z| = t near zero, else `far`. In float64 it is `far`: its
 * steps are not counted. */
#if REAL_IS_FLOAT
#define NEAR_OR(name, z, t, half_z, far)                                                                         \
    vec_where(t, less, vec_set(NEAR_ZERO),                                                                       \
              FN(or_sign)(vec_fma(z * z, POLYNOMIAL(name##_near, z * z), half_z), z), far)
#else
#define NEAR_OR(name, z, t, half_z, far) (far)
#endif

/* z / (1 + |z|). From 1 on 1 - 1 / (1 + t), which cannot step back: sum, quotient and difference are rounded one after
 * the other. Below 1 + t has not the places of t: what the sum lost and the remainder of the quotient are put right. */
INLINE vec FN(softsign)(vec z)
{
    const vec one = vec_set(1), t = vec_abs(z), sum = 1 + t, lost = t - (sum - 1), part = 1 / sum, ratio = t * part;
    const vec rest = vec_fma(-ratio, lost, vec_fma(-ratio, sum, t));
    return FN(with_sign)(vec_where(one, less_equal, t, 1 - part, vec_fma(rest, part, ratio)), z);
}

/* z min(max(z + 3, 0), 6) / 6 (Howard et al. 2019). From -3 on z/2 + z^2/6, whose small term alone is rounded twice;
 * around the minimum (z + 1.5)^2 / 6 - 0.375, where the sum is exact; near -3 the factors, of which z + 3 is exact. */
INLINE vec FN(hard_swish)(vec z, vec *slope)
{
    const vec three = vec_set(3), sixth = vec_set((REAL)(1.0 / 6)), left = vec_max(-three, z);
    *slope = vec_where(three, less_equal, z, vec_set(1), vec_fma(z, vec_set((REAL)(1.0 / 3)), vec_set((REAL)0.5)));
    *slope = vec_where(z, less_equal, -three, vec_set(0), *slope);
    const vec inner = vec_min(three, left), from_turn = inner + (REAL)1.5;
    /* Of the sign of z, which a sum of -0 and 0 would lose. */
    const vec near = FN(with_sign)(vec_abs(vec_fma(inner * sixth, inner, inner * (REAL)0.5)), inner);
    const vec turn = vec_fma(from_turn * from_turn, sixth, vec_set((REAL)-0.375));
    const vec far = left * ((left + 3) * sixth);
    vec value = vec_where(inner, less, vec_set((REAL)-0.75), turn, near);
    value = vec_where(inner, less, vec_set((REAL)-2.25), far, value);
    return vec_where(three, less, z, z, value);
}

/* log(1 + x) for 0 <= x <= 1; float: <= exp(-NEAR_ZERO). One chain of all terms would be waited for, as that of the
 * exponential before is. Pairs of them are of one sign: nothing cancels. */
INLINE vec FN(softplus_log)(vec x)
{
    const REAL *c = FN(softplus_coefficients);
#if REAL_IS_FLOAT
    const vec square = x * x;
    vec sum = vec_fma(vec_set(c[7]), x, vec_set(c[6]));
    UNROLL for (int i = 4; i >= 0; i -= 2)
        sum = vec_fma(sum, square, vec_fma(vec_set(c[i + 1]), x, vec_set(c[i])));
    return vec_fma(square, sum, x);
#else
    /* As log_reduced, but of 1 + x as it is: three more terms take less time than a power of two. */
    const vec s = x / (2 + x), z = s * s, square = z * z, half_square = vec_set((REAL)0.5) * x * x;
    vec sum = vec_fma(vec_set(c[9]), z, vec_set(c[8]));
    UNROLL for (int i = 6; i >= 0; i -= 2)
        sum = vec_fma(sum, square, vec_fma(vec_set(c[i + 1]), z, vec_set(c[i])));
    return x + vec_fma(s, vec_fma(z, sum, half_square), -half_square);
#endif
}

/* log(1 + exp(z)) = max(z, 0) + log(1 + exp(-|z|)). */
INLINE vec FN(softplus)(vec z)
{
    vec rounded;
    const vec t = FN(or_sign)(z, vec_set((REAL)-0.0)); /* -|z| */
    const vec p = FN(exp_reduced)(vec_max(vec_set(-SILU_FLAT), t), &rounded), e = FN(scaled_down)(p, rounded);
#if REAL_IS_FLOAT
    /* Beyond 20 the logarithm is lost beside z. */
    const vec soft = vec_max(vec_set(0), z) + FN(softplus_log)(e), square = z * z;
    const vec curved = vec_fma(square, POLYNOMIAL(softplus_near, square), (REAL)0.5 * z);
    return vec_where(vec_set(-NEAR_ZERO), less, t, curved + (REAL)LN2, soft);
#else
    return vec_where(vec_set(20), less, z, z, vec_max(vec_set(0), z) + FN(softplus_log)(e));
#endif
}

/* z / (1 + exp(-z)) (Elfwing et al. 2017): T = e / (1 + e) with e = exp(-t), and w = T (1 - t / (1 + e)). */
INLINE vec FN(silu)(vec z, vec *slope)
{
    const vec t = vec_min(vec_set(SILU_FLAT), vec_abs(z));
    vec rounded;
    const vec p = FN(exp_reduced)(-t, &rounded), q = FN(lifted)(p, rounded), part = 1 / FN(one_and_lowered)(q, rounded);
    const vec w = FN(lowered)(q, rounded) * part * vec_fma(-t, part, vec_set(1));
    return NEAR_OR(silu, z, t, (REAL)0.5 * z, FN(one_sided)(z, FN(lowered)(t * q * part, rounded), w, slope));
}

/* z tanh(log(1 + exp(z))) (Misra 2019): tanh is n / (n + 2) = 1 - 2 / (n + 2) with n = e (e + 2), e = exp(z), and
 * f' = (n + 4 z e (1 + e) / (n + 2)) / (n + 2). */
INLINE vec FN(mish)(vec z, vec *slope)
{
    const vec inner = vec_min(vec_set(MISH_LINE), vec_max(vec_set(-SILU_FLAT), z));
    vec rounded;
    const vec p = FN(exp_reduced)(inner, &rounded), q = FN(lifted)(p, rounded), e = FN(lowered)(q, rounded);
    const vec n = e * (e + 2), part = 1 / vec_fma(e, e + 2, vec_set(2));
    *slope = part * vec_fma(e * part * (1 + e), 4 * inner, n);
    vec left = FN(lowered)(inner * ((e + 2) * part) * q, rounded);
#if REAL_IS_FLOAT
    const vec curved = vec_fma(z, vec_set(0.6f), z * z * POLYNOMIAL(mish_near, z));
    left = vec_where(z, less, vec_set(-MISH_NEAR), left, curved);
#endif
    return vec_where(z, less, vec_set(0), left, z * vec_fma(vec_set(-2), part, vec_set(1)));
}

/* z Phi(z) with the normal distribution Phi (Hendrycks and Gimpel 2016): T = exp(-t^2 / 2) G, G = P(t) / Q(t), and
 * w = exp(-t^2 / 2) (G - t / sqrt(2 pi)). The square is taken in the FMA that subtracts n log(2): rounded by itself
 * it would cost exp(-100) a hundred units of the last place. */
INLINE vec FN(gelu)(vec z, vec *slope)
{
    const vec t = vec_min(vec_set(GELU_FLAT), vec_abs(z)), half = (REAL)0.5 * t;
    const vec rounded = vec_fma(t * t, vec_set((REAL)-0.5 * LOG2E), vec_set(ROUNDER)), n = rounded - ROUNDER;
    const vec r = vec_fma(n, vec_set(-LN2_LOW), vec_fma(-half, t, n * -LN2_HIGH)), p = FN(exp_polynomial)(r);
    const vec g = POLYNOMIAL(gelu_over, t) / POLYNOMIAL(gelu_under, t);
    const vec w = FN(scaled_down)(vec_fma(-t, vec_set(ROOT_2PI), g) * p, rounded);
    return NEAR_OR(gelu, z, t, FN(or_sign)(half, z), FN(one_sided)(z, FN(scaled_down)(t * g * p, rounded), w, slope));
}

/* z / (1 + exp(-y)) with y = c1 z + c3 z^3, which is GELU with a tanh for its Phi (Hendrycks and Gimpel 2016):
 * T = e / (1 + e) with e = exp(-y(t)), and w = T (1 - t y' / (1 + e)). y log2(e) / t is kept in two parts, for the same
 * reason as the square of gelu; by powers of two its remainder is one exact difference. */
INLINE vec FN(gelu_tanh)(vec z, vec *slope)
{
    const vec t = vec_min(vec_set(GELU_TANH_FLAT), vec_abs(z));
    const vec square = t * t, lost = vec_fma(t, t, -square), c1 = vec_set(GELU_C1), c3 = vec_set(GELU_C3);
    const vec high = vec_fma(c3, square, c1); /* c1 - high is exact */
    const vec low = vec_fma(c3, square, c1 - high) +
                    vec_fma(c3, lost, vec_fma(vec_set(GELU_C3_LOW), square, vec_set(GELU_C1_LOW)));
    const vec rounded = vec_fma(-t, high, vec_set(ROUNDER)), n = rounded - ROUNDER;
    const vec r = vec_fma(-t, low, vec_fma(-t, high, -n));
    const vec p = FN(exp2_polynomial)(r), q = FN(lifted)(p, rounded), part = 1 / FN(one_and_lowered)(q, rounded);
    const vec ty = t * vec_fma(square, vec_set(GELU_SLOPE_C3), vec_set(GELU_SLOPE_C1));
    const vec w = FN(lowered)(q, rounded) * part * vec_fma(-ty, part, vec_set(1));
    return NEAR_OR(gelu_tanh, z, t, (REAL)0.5 * z, FN(one_sided)(z, FN(lowered)(t * q * part, rounded), w, slope));
}
