/* exp, expm1, log, log1p, tanh and sigmoid of a vector, without branches. Included after vector_template.h, with
 * the same parameters.
 *
 * Coefficients are minimax fits (Remez) made for this file: each comment says what is approximated, where,
 * and the largest relative error of the result that the fit alone causes. */
#ifndef FASTNN_MATH_NAMES
#define FASTNN_MATH_NAMES
/* c[0] + c[1] x + .. in Horner's order. */
#define POLYNOMIAL(name, x) FN(polynomial)(x, FN(name), (int)(sizeof FN(name) / sizeof(REAL)))
#endif

#undef MANTISSA
#undef BIAS
#undef LN2_HIGH
#undef LN2_LOW
#undef LOG2E
#undef LN2
#undef ROUNDER
#undef EXP_LOWEST
#undef EXP_HIGHEST
#undef EXPM1_FLAT
#undef LIFT
#undef TANH_FLAT
#undef TANH_SMALL
#undef SQRT_HALF
#undef TINY
#undef TINY_SHIFT

/* ROUNDER: added to a small number, leaves its nearest integer in the low bits of the sum.
 * LN2_HIGH has trailing zeros enough that n * LN2_HIGH is exact for every exponent n.
 * EXP_LOWEST: exp rounds to 0 here, EXP_HIGHEST: to infinity; both keep the exponent arithmetic in range.
 * LIFT: makes the smallest 2^n that an exponential is scaled by a normal number.
 * EXPM1_FLAT: exp - 1 rounds to -1. TANH_FLAT: tanh(TANH_FLAT / 2) rounds to 1. */
#if REAL_IS_FLOAT
#define MANTISSA 23
#define BIAS 127
#define LN2_HIGH 0x1.62e4p-1f
#define LN2_LOW 0x1.7f7d1cp-20f
#define LOG2E 0x1.715476p+0f
#define LN2 0x1.62e43p-1f
#define ROUNDER 0x1.8p+23f
#define EXP_LOWEST -104.0f
#define EXP_HIGHEST 89.0f
#define LIFT 0x1p+64f
#define EXPM1_FLAT -20.0f
#define TANH_FLAT 20.0f
#define TANH_SMALL 0.55f
#define SQRT_HALF 0x1.6a09e6p-1f
#define TINY FLT_MIN
#define TINY_SHIFT 24
/* (exp(r) - 1 - r) / r^2 on |r| <= log(2) / 2: 2^-28 of exp(r). */
static const REAL FN(exp_coefficients)[] = {
    0x1.fffffcp-2f, 0x1.555492p-3f, 0x1.5558f2p-5f, 0x1.1239f2p-7f, 0x1.6a241ap-10f};
/* (2^r - 1) / r on |r| <= 1/2: 2^-28 of 2^r. */
static const REAL FN(exp2_coefficients)[] = {
    0x1.62e43p-1f, 0x1.ebfbdcp-3f, 0x1.c6af7ap-5f, 0x1.3b2ddap-7f, 0x1.5f0976p-10f, 0x1.4172b6p-13f};
/* (log(1 + f) - f) / f^2 on sqrt(1/2) <= 1 + f <= sqrt(2): 2^-27.5 of log(1 + f). */
static const REAL FN(log_coefficients)[] = {
    -0x1.fffff8p-2f, 0x1.55555p-2f, -0x1.000426p-2f, 0x1.99a3f2p-3f, -0x1.54276ep-3f, 0x1.22719cp-3f,
    -0x1.0f3766p-3f, 0x1.084864p-3f, -0x1.38302p-4f};
/* (tanh(x) - x) / x^3, in x^2, on |x| <= 0.55: 2^-27.7 of tanh(x). */
static const REAL FN(tanh_coefficients)[] = {
    -0x1.55554ap-2f, 0x1.110d26p-3f, -0x1.b9287ap-5f, 0x1.593d08p-6f, -0x1.9b3046p-8f};
#else
#define MANTISSA 52
#define BIAS 1023
#define LN2_HIGH 0x1.62e42fefap-1
#define LN2_LOW 0x1.cf79abc9e3b3ap-40
#define LOG2E 0x1.71547652b82fep+0
#define LN2 0x1.62e42fefa39efp-1
#define ROUNDER 0x1.8p+52
#define EXP_LOWEST -746.0
#define EXP_HIGHEST 710.0
#define LIFT 0x1p+128
#define EXPM1_FLAT -40.0
#define TANH_FLAT 40.0
#define TANH_SMALL 0.55
#define SQRT_HALF 0x1.6a09e667f3bcdp-1
#define TINY DBL_MIN
#define TINY_SHIFT 54
/* As for float: 2^-60 of exp(r). */
static const REAL FN(exp_coefficients)[] = {
    0x1.0p-1, 0x1.555555555555bp-3, 0x1.5555555555503p-5, 0x1.111111110ec56p-7, 0x1.6c16c16c304ep-10,
    0x1.a01a01b38132bp-13, 0x1.a01a01367f3fep-16, 0x1.71ddf019339cbp-19, 0x1.27e5b459392fep-22,
    0x1.af6bf566435d5p-26, 0x1.1e3d2402fc015p-29};
/* (log(1 + f) / s - 2) / z with s = f / (2 + f), z = s^2, which halves the number of terms at the price of
 * a division: 2^-59 of log(1 + f). */
static const REAL FN(log_coefficients)[] = {
    0x1.5555555555593p-1, 0x1.999999997f9f8p-2, 0x1.249249422a477p-2, 0x1.c71c51d7ccca9p-3,
    0x1.746649b02527dp-3, 0x1.39a095798ac24p-3, 0x1.2f118033f6cap-3};
/* As for float: 2^-58 of tanh(x). */
static const REAL FN(tanh_coefficients)[] = {
    -0x1.555555555554fp-2, 0x1.111111111079fp-3, -0x1.ba1ba1b97d88fp-5, 0x1.664f485970a49p-6,
    -0x1.226e2f147ae33p-7, 0x1.d6d29b96e2c14p-9, -0x1.7d8fd3ad41d83p-10, 0x1.3483ae8f3e629p-11,
    -0x1.e96fc5deeb129p-13, 0x1.5d745a45dc7a1p-14, -0x1.47110b169479dp-16};
#endif

INLINE vec FN(polynomial)(vec x, const REAL *c, int terms)
{
    vec sum = vec_set(c[terms - 1]);
    UNROLL for (int i = terms - 2; i >= 0; i--) sum = vec_fma(sum, x, vec_set(c[i]));
    return sum;
}

/* The bits of a number, as an integer constant of the lane's width. */
INLINE REAL_UBITS FN(bits_of)(REAL x)
{
    REAL_UBITS bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* x = n log(2) + r, whose first step is exact; n as rounded = ROUNDER + n. */
INLINE vec FN(exp_remainder)(vec x, vec *rounded)
{
    *rounded = vec_fma(x, vec_set(LOG2E), vec_set(ROUNDER));
    const vec n = *rounded - ROUNDER;
    return vec_fma(n, vec_set(-LN2_LOW), vec_fma(n, vec_set(-LN2_HIGH), x));
}

/* exp(r) for |r| <= log(2) / 2: sqrt(1/2) .. sqrt(2). */
INLINE vec FN(exp_polynomial)(vec r)
{
    return vec_fma(vec_fma(POLYNOMIAL(exp_coefficients, r), r, vec_set(1)), r, vec_set(1));
}

/* 2^r for |r| <= 1/2. */
INLINE vec FN(exp2_polynomial)(vec r)
{
#if REAL_IS_FLOAT
    return vec_fma(POLYNOMIAL(exp2_coefficients, r), r, vec_set(1));
#else
    return FN(exp_polynomial)(r * LN2);
#endif
}

/* exp(x) = 2^n p. */
INLINE vec FN(exp_reduced)(vec x, vec *rounded)
{
    return FN(exp_polynomial)(FN(exp_remainder)(x, rounded));
}

/* 2^n for rounded = ROUNDER + n and a normal 2^n: the bits of ROUNDER leave at the upper end of the shift. */
INLINE vec FN(power_of_two)(vec rounded)
{
    const REAL_UBITS offset = FN(bits_of)(1) - (FN(bits_of)(ROUNDER) << MANTISSA);
    return (vec)(((uvec)rounded << MANTISSA) + offset);
}

/* 2^n p for rounded = ROUNDER + n with n + 2 BIAS > 0. */
INLINE vec FN(scaled)(vec p, vec rounded)
{
#if ISA_AVX512 && REAL_IS_FLOAT
    return (vec)_mm512_scalef_ps((__m512)p, (__m512)(rounded - ROUNDER));
#elif ISA_AVX512
    return (vec)_mm512_scalef_pd((__m512d)p, (__m512d)(rounded - ROUNDER));
#else
    /* 2^n may be no normal number: two factors of about half the exponent. The first product is exact, so
     * that a subnormal result is rounded once. */
    const uvec both = (uvec)rounded - (FN(bits_of)(ROUNDER) - 2 * BIAS);
    const uvec half = both >> 1;
    return p * (vec)(half << MANTISSA) * (vec)((both - half) << MANTISSA);
#endif
}

/* The same for n well below BIAS, in two steps for what is multiplied in between: lifted gives q, 2^n p times LIFT
 * (with AVX-512 p: one operation scales it at the end), and lowered takes it back. */
INLINE vec FN(lifted)(vec p, vec rounded)
{
#if ISA_AVX512
    (void)rounded;
    return p;
#else
    const REAL_UBITS offset = FN(bits_of)(LIFT) - (FN(bits_of)(ROUNDER) << MANTISSA);
    return p * (vec)(((uvec)rounded << MANTISSA) + offset);
#endif
}

INLINE vec FN(lowered)(vec q, vec rounded)
{
#if ISA_AVX512
    return FN(scaled)(q, rounded);
#else
    (void)rounded;
    return q * (1 / LIFT);
#endif
}

/* 2^n p at once. */
INLINE vec FN(scaled_down)(vec p, vec rounded)
{
#if ISA_AVX512
    return FN(scaled)(p, rounded);
#else
    return FN(lowered)(FN(lifted)(p, rounded), rounded);
#endif
}

/* 1 + lowered q. Rounding it before the sum would change nothing: where it is not exact it is lost beside 1. */
INLINE vec FN(one_and_lowered)(vec q, vec rounded)
{
#if ISA_AVX512
    return 1 + FN(scaled)(q, rounded);
#else
    (void)rounded;
    return vec_fma(q, vec_set(1 / LIFT), vec_set(1));
#endif
}

INLINE vec vec_exp(vec x)
{
    /* The NaN of x is the second operand and stays. */
    x = vec_min(vec_set(EXP_HIGHEST), vec_max(vec_set(EXP_LOWEST), x));
    vec rounded;
    const vec p = FN(exp_reduced)(x, &rounded);
    return FN(scaled)(p, rounded);
}

/* exp(x) - 1 for x <= 0. With exp(r) = 1 + s it is 2^n s + (2^n - 1), where 2^n - 1 is exact and nothing cancels. */
INLINE vec FN(expm1_left)(vec x)
{
    vec rounded;
    const vec r = FN(exp_remainder)(vec_max(vec_set(EXPM1_FLAT), x), &rounded);
    const vec s = vec_fma(POLYNOMIAL(exp_coefficients, r) * r, r, r), power = FN(power_of_two)(rounded);
    return vec_fma(power, s, power - 1);
}

/* log(2^e (1 + f)) for sqrt(1/2) <= 1 + f <= sqrt(2). */
INLINE vec FN(log_reduced)(vec e, vec f)
{
#if REAL_IS_FLOAT
    const vec tail = f * f * POLYNOMIAL(log_coefficients, f);
    return vec_fma(e, vec_set(LN2_HIGH), f + vec_fma(e, vec_set(LN2_LOW), tail));
#else
    /* log(1 + f) = 2 s + s z q = f - f^2/2 + s (f^2/2 + z q): f is exact and the rest is small. */
    const vec s = f / (2 + f), z = s * s, half_square = vec_set((REAL)0.5) * f * f;
    const vec q = z * POLYNOMIAL(log_coefficients, z);
    const vec tail = vec_fma(s, half_square + q, vec_fma(e, vec_set(LN2_LOW), -half_square));
    return vec_fma(e, vec_set(LN2_HIGH), f + tail);
#endif
}

/* Exponent e of x > 0, such that x = 2^e m with sqrt(1/2) <= m < sqrt(2): biased, in integers. */
INLINE uvec FN(biased_exponent)(vec x)
{
    return ((uvec)x + (FN(bits_of)(1) - FN(bits_of)(SQRT_HALF))) >> MANTISSA;
}

/* Integers below 2^MANTISSA as reals, less BIAS: their bits are put below those of 2^MANTISSA. */
INLINE vec FN(unbiased)(uvec e)
{
    const REAL two_to_mantissa = (REAL)((REAL_UBITS)1 << MANTISSA);
    return (vec)(e | FN(bits_of)(two_to_mantissa)) - (two_to_mantissa + BIAS);
}

INLINE vec vec_log(vec x)
{
    const vec zero = vec_set(0), tiny = vec_set(TINY), infinity = vec_set(REAL_INFINITY);
    const vec y = vec_where(x, less, tiny, x * (REAL)((REAL_UBITS)1 << TINY_SHIFT), x);
    const vec shift = vec_where(x, less, tiny, vec_set(TINY_SHIFT), zero);
    const uvec e = FN(biased_exponent)(y);
    const vec m = (vec)((uvec)y - ((e - BIAS) << MANTISSA));
    const vec value = FN(log_reduced)(FN(unbiased)(e) - shift, m - 1);
    const vec not_positive = vec_where(x, less, zero, vec_set(REAL_NAN), -infinity);
    /* Infinity and NaN answer for themselves. */
    return vec_where(x, less, infinity, vec_where(zero, less, x, value, not_positive), x);
}

/* For x >= 0. 1 + x = 2^e (1 + f), where f = (2^-e - 1) + 2^-e x is rounded once: log(1 + x) of a rounded
 * sum would lose the low bits of x. */
INLINE vec vec_log1p(vec x)
{
    const uvec e = FN(biased_exponent)(1 + x);
    /* 2^-e, or 0 where that is no normal number: it is lost beside -1 anyway. */
    const vec scale = vec_max(vec_set(0), (vec)((2 * BIAS - e) << MANTISSA));
    /* Zero and subnormal numbers have e = 0; the exponent is taken off as an integer, for 2^-e x would
     * need the subnormal. */
    const vec part = (vec)((uvec)x - ((e - BIAS) << MANTISSA));
    const vec value = FN(log_reduced)(FN(unbiased)(e), part + (scale - 1));
    /* Zero keeps its sign; infinity and NaN answer for themselves. */
    return vec_where(vec_set(0), less, x, vec_where(x, less, vec_set(REAL_INFINITY), value, x), x);
}

/* x + x^3 q(x^2) up to TANH_SMALL, where tanh is 1/2 and the other form, 1 - 2 / (exp(2|x|) + 1), no longer
 * cancels. */
INLINE vec vec_tanh(vec x)
{
    const vec size = vec_abs(x), sign = (vec)((uvec)x ^ (uvec)size);
    vec rounded;
    const vec p = FN(exp_reduced)(vec_min(vec_set(TANH_FLAT), size + size), &rounded);
    const vec large = 1 - 2 / vec_fma(p, FN(power_of_two)(rounded), vec_set(1));
    const vec square = size * size;
    const vec small = vec_fma(square * POLYNOMIAL(tanh_coefficients, square), size, size);
    return (vec)((uvec)vec_where(size, less, vec_set(TANH_SMALL), small, large) | (uvec)sign);
}

/* With e = exp(-|x|), which cannot overflow, and q = e / (1 + e): left = e (1 - q) left of zero, 1 - left right of it.
 * The rounding of 1 + e then counts for less than in e / (1 + e) and 1 / (1 + e): 1.7 instead of 2.4 ULP. Up to
 * 2 TANH_SMALL, where that would step back, 1/2 + tanh(x / 2) / 2. */
INLINE vec vec_sigmoid(vec x)
{
    const vec size = vec_abs(x), e = vec_exp(-size), left = vec_fma(-e, e / (1 + e), e);
    const vec half = x * (REAL)0.5, square = half * half;
    const vec tanh = vec_fma(square * POLYNOMIAL(tanh_coefficients, square), half, half);
    const vec large = vec_where(x, less, vec_set(0), left, 1 - left);
    return vec_where(size, less, vec_set(2 * TANH_SMALL), vec_fma(vec_set((REAL)0.5), tanh, vec_set((REAL)0.5)), large);
}
