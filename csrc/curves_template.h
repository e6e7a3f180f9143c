/* Activations that take more than a line: f(z), and where `slope` is asked for f'(z) beside it, which shares the
 * exponential and the division.
 *
 * z times a sigmoid is written by t = |z| as max(z, 0) - t T(t), where T falls from 1/2 to 0 and is computed to its
 * own last places: neither side of zero cancels, and f'(z) is w = T + t T' on the left and 1 - w on the right. The tail
 * t T is multiplied by its power of two last, so that it is rounded once where it is subnormal. Infinities have the
 * limits of the function: +inf and -0. */

#undef SILU_FLAT
#undef SOFTSIGN_FLAT
/* SILU_FLAT: t exp(-t) rounds to 0 here. SOFTSIGN_FLAT: t / (1 + t) rounds to 1. */
#if REAL_IS_FLOAT
#define SILU_FLAT 110.0f
#define SOFTSIGN_FLAT 0x1p+26f
#else
#define SILU_FLAT 760.0
#define SOFTSIGN_FLAT 0x1p+55
#endif

/* The bits that are not those of |z|: its sign. */
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

/* z / (1 + |z|). */
INLINE vec FN(softsign)(vec z)
{
    const vec size = vec_min(vec_set(SOFTSIGN_FLAT), vec_abs(z));
    return FN(with_sign)(size / (1 + size), z);
}

/* z min(max(z + 3, 0), 6) / 6 (Howard et al. 2019). The left factor stays -3 where the right one is 0. */
INLINE vec FN(hard_swish)(vec z, vec *slope)
{
    const vec three = vec_set(3), left = vec_max(-three, z);
    *slope = vec_where(three, less_equal, z, vec_set(1), vec_fma(z, vec_set((REAL)(1.0 / 3)), vec_set((REAL)0.5)));
    *slope = vec_where(z, less_equal, -three, vec_set(0), *slope);
    return left * (vec_min(vec_set(6), left + 3) * (REAL)(1.0 / 6));
}

/* z / (1 + exp(-z)) (Elfwing et al. 2017): T = e / (1 + e) with e = exp(-t), and w = T (1 - t / (1 + e)). */
INLINE vec FN(silu)(vec z, vec *slope)
{
    const vec t = vec_min(vec_set(SILU_FLAT), vec_abs(z));
    vec rounded;
    const vec p = FN(exp_reduced)(-t, &rounded), e = FN(scaled)(p, rounded), part = 1 / (1 + e);
    return FN(one_sided)(z, FN(scaled)(t * p * part, rounded), e * part * vec_fma(-t, part, vec_set(1)), slope);
}
