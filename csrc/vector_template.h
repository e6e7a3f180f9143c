/* The few vector operations that differ between instruction sets, and row reductions of one fixed shape.
 *
 * Parameters, set by the file that includes this one (once for each real type):
 *   REAL, REAL_IS_FLOAT   float and 1, or double and 0
 *   FN(name)              name with a suffix that is the type's own
 *   VECTOR_BYTES          64, 32 or 16
 *   ISA_AVX512, ISA_AVX2, ISA_NEON or ISA_GENERIC is 1
 *
 * Every operation gives the same bits on every instruction set: IEEE + - * / sqrt and fused multiply-add,
 * integer operations, comparisons. The generic build calls fma(), which is slow where the CPU has no such
 * instruction, and exact everywhere. Only the sign and payload of a NaN are left open (CPUs differ). */
#ifndef FASTNN_VECTOR_NAMES
#define FASTNN_VECTOR_NAMES
#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if ISA_AVX512 || ISA_AVX2
#include <immintrin.h>
#elif ISA_NEON
#include <arm_neon.h>
#endif

/* A function that exists only inside its callers: vectors never travel through memory. */
#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 64")
#endif

/* The line at p, owned by this core: gcc writes the plain prefetch for want of a flag, which fetches a line that the
 * other core has to share, and the store then waits to own it. A no-op on CPUs that do not know it. */
static inline void prefetch_for_writing(const void *p)
{
#if ISA_AVX512 || ISA_AVX2
    __asm__ volatile("prefetchw %0" : : "m"(*(const char *)p));
#else
    __builtin_prefetch(p, 1);
#endif
}

/* What other templates write; FN gives them the suffix of the type. */
#define vec FN(vec_t)
#define ivec FN(ivec_t)
#define uvec FN(uvec_t)
#define vec_load FN(vec_load)
#define vec_store FN(vec_store)
#define vec_load_part FN(vec_load_part)
#define vec_load_fill FN(vec_load_fill)
#define vec_store_part FN(vec_store_part)
#define vec_set FN(vec_set)
#define vec_fma FN(vec_fma)
#define vec_select FN(vec_select)
#define vec_min FN(vec_min)
#define vec_max FN(vec_max)
#define vec_sqrt FN(vec_sqrt)
#define vec_is_zero FN(vec_is_zero)
#define vec_abs FN(vec_abs)
#define vec_exp FN(vec_exp)
#define vec_log FN(vec_log)
#define vec_log1p FN(vec_log1p)
#define vec_tanh FN(vec_tanh)
#define vec_sigmoid FN(vec_sigmoid)
#define row_sum FN(row_sum)
#define row_max FN(row_max)

#define SUM_OF(a, b) ((a) + (b))

/* Relations of vec_where. */
#if ISA_AVX512
#define WHERE_less _CMP_LT_OQ
#define WHERE_less_equal _CMP_LE_OQ
#define WHERE_unequal _CMP_NEQ_UQ
#else
#define WHERE_less <
#define WHERE_less_equal <=
#define WHERE_unequal !=
#endif
#endif

#undef LANES
#undef BLOCK
#undef BLOCK_VECTORS
#undef REAL_BITS
#undef REAL_UBITS
#undef REAL_INFINITY
#undef REAL_NAN
#undef LANE_NUMBERS
#undef vec_where
#undef vec_interleave_low
#undef vec_interleave_high

#if REAL_IS_FLOAT
#define REAL_BITS int32_t
#define REAL_UBITS uint32_t
#define REAL_INFINITY __builtin_inff()
#define REAL_NAN __builtin_nanf("")
#define LANES (VECTOR_BYTES / 4)
#else
#define REAL_BITS int64_t
#define REAL_UBITS uint64_t
#define REAL_INFINITY __builtin_inf()
#define REAL_NAN __builtin_nan("")
#define LANES (VECTOR_BYTES / 8)
#endif
/* A reduction runs over blocks of 64 bytes, whatever a register holds. */
#define BLOCK_VECTORS (64 / VECTOR_BYTES)
#define BLOCK (BLOCK_VECTORS * LANES)

typedef REAL vec __attribute__((vector_size(VECTOR_BYTES)));
typedef REAL_BITS ivec __attribute__((vector_size(VECTOR_BYTES)));
typedef REAL_UBITS uvec __attribute__((vector_size(VECTOR_BYTES)));
typedef REAL FN(unaligned_t) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));

/* ---------------------------------------------------------------- load, store, select */

INLINE vec vec_load(const REAL *p)
{
    return (vec) * (const FN(unaligned_t) *)p;
}

INLINE void vec_store(REAL *p, vec v)
{
    *(FN(unaligned_t) *)p = (FN(unaligned_t))v;
}

INLINE vec vec_set(REAL s)
{
    return s - (vec){0}; /* a sum would lose the sign of -0 */
}

/* mask: all bits or none in each lane, as comparisons give them. */
INLINE vec vec_select(ivec mask, vec a, vec b)
{
#if ISA_AVX2 && REAL_IS_FLOAT
    return (vec)_mm256_blendv_ps((__m256)b, (__m256)a, (__m256)mask);
#elif ISA_AVX2
    return (vec)_mm256_blendv_pd((__m256d)b, (__m256d)a, (__m256d)mask);
#else
    return (vec)(((ivec)a & mask) | ((ivec)b & ~mask));
#endif
}

/* x < y ? a : b for `less`, and so on. With AVX-512 the answer of a comparison stays in a mask register, which
 * gcc does not find out by itself. */
#if ISA_AVX512 && REAL_IS_FLOAT
#define vec_where(x, relation, y, a, b)                                                                \
    ((vec)_mm512_mask_blend_ps(_mm512_cmp_ps_mask((__m512)(x), (__m512)(y), WHERE_##relation), (__m512)(b), \
                               (__m512)(a)))
#elif ISA_AVX512
#define vec_where(x, relation, y, a, b)                                                                  \
    ((vec)_mm512_mask_blend_pd(_mm512_cmp_pd_mask((__m512d)(x), (__m512d)(y), WHERE_##relation), (__m512d)(b), \
                               (__m512d)(a)))
#else
#define vec_where(x, relation, y, a, b) vec_select((x) WHERE_##relation (y), a, b)
#endif

INLINE vec vec_abs(vec v)
{
    return (vec)((uvec)v & ((uvec)(vec_set(0) == vec_set(0)) >> 1));
}

/* The first `count` lanes from memory and `fill` in the others, 0 <= count <= LANES; nothing beyond is
 * read or written. */
INLINE vec vec_load_fill(const REAL *p, ptrdiff_t count, REAL fill)
{
#if ISA_AVX512 && REAL_IS_FLOAT
    return (vec)_mm512_mask_loadu_ps((__m512)vec_set(fill), (__mmask16)((1u << count) - 1), p);
#elif ISA_AVX512
    return (vec)_mm512_mask_loadu_pd((__m512d)vec_set(fill), (__mmask8)((1u << count) - 1), p);
#elif ISA_AVX2
    static const REAL_BITS ones_then_zeros[2 * LANES] = {
        -1, -1, -1, -1,
#if REAL_IS_FLOAT
        -1, -1, -1, -1,
#endif
    };
    ivec mask;
    memcpy(&mask, ones_then_zeros + LANES - count, sizeof mask);
#if REAL_IS_FLOAT
    const vec v = (vec)_mm256_maskload_ps(p, (__m256i)mask);
#else
    const vec v = (vec)_mm256_maskload_pd(p, (__m256i)mask);
#endif
    return fill == 0 ? v : vec_select(mask, v, vec_set(fill));
#else
    vec v = vec_set(fill);
    for (int j = 0; j < LANES; j++)
        if (j < count)
            v[j] = p[j];
    return v;
#endif
}

INLINE vec vec_load_part(const REAL *p, ptrdiff_t count)
{
    return vec_load_fill(p, count, 0);
}

INLINE void vec_store_part(REAL *p, vec v, ptrdiff_t count)
{
#if ISA_AVX512 && REAL_IS_FLOAT
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << count) - 1), (__m512)v);
#elif ISA_AVX512
    _mm512_mask_storeu_pd(p, (__mmask8)((1u << count) - 1), (__m512d)v);
#elif ISA_AVX2
    /* By halves: a masked store takes about twenty cycles on AMD, and these branches go one way for a
     * whole matrix. */
    if (count == LANES) {
        vec_store(p, v);
        return;
    }
#if REAL_IS_FLOAT
    __m128 part = _mm256_castps256_ps128((__m256)v);
    if (count & 4) {
        _mm_storeu_ps(p, part);
        part = _mm256_extractf128_ps((__m256)v, 1);
        p += 4;
    }
    if (count & 2) {
        _mm_storel_pi((__m64 *)p, part);
        part = _mm_movehl_ps(part, part);
        p += 2;
    }
    if (count & 1)
        _mm_store_ss(p, part);
#else
    __m128d part = _mm256_castpd256_pd128((__m256d)v);
    if (count & 2) {
        _mm_storeu_pd(p, part);
        part = _mm256_extractf128_pd((__m256d)v, 1);
        p += 2;
    }
    if (count & 1)
        _mm_store_sd(p, part);
#endif
#else
    for (int j = 0; j < LANES; j++)
        if (j < count)
            p[j] = v[j];
#endif
}

/* ---------------------------------------------------------------- arithmetic */

/* a * b + c, rounded once. */
INLINE vec vec_fma(vec a, vec b, vec c)
{
#if ISA_AVX512 && REAL_IS_FLOAT
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif ISA_AVX512
    return (vec)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif ISA_AVX2 && REAL_IS_FLOAT
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif ISA_AVX2
    return (vec)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif ISA_NEON && REAL_IS_FLOAT
    return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#elif ISA_NEON
    return (vec)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#else
    for (int j = 0; j < LANES; j++)
#if REAL_IS_FLOAT
        c[j] = fmaf(a[j], b[j], c[j]);
#else
        c[j] = fma(a[j], b[j], c[j]);
#endif
    return c;
#endif
}

/* a > b ? a : b and a < b ? a : b: b where either is NaN, and where both are zeros. */
INLINE vec vec_max(vec a, vec b)
{
#if ISA_AVX512 && REAL_IS_FLOAT
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif ISA_AVX512
    return (vec)_mm512_max_pd((__m512d)a, (__m512d)b);
#elif ISA_AVX2 && REAL_IS_FLOAT
    return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#elif ISA_AVX2
    return (vec)_mm256_max_pd((__m256d)a, (__m256d)b);
#else
    return vec_select(a > b, a, b);
#endif
}

INLINE vec vec_min(vec a, vec b)
{
#if ISA_AVX512 && REAL_IS_FLOAT
    return (vec)_mm512_min_ps((__m512)a, (__m512)b);
#elif ISA_AVX512
    return (vec)_mm512_min_pd((__m512d)a, (__m512d)b);
#elif ISA_AVX2 && REAL_IS_FLOAT
    return (vec)_mm256_min_ps((__m256)a, (__m256)b);
#elif ISA_AVX2
    return (vec)_mm256_min_pd((__m256d)a, (__m256d)b);
#else
    return vec_select(a < b, a, b);
#endif
}

INLINE vec vec_sqrt(vec v)
{
#if ISA_AVX512 && REAL_IS_FLOAT
    return (vec)_mm512_sqrt_ps((__m512)v);
#elif ISA_AVX512
    return (vec)_mm512_sqrt_pd((__m512d)v);
#elif ISA_AVX2 && REAL_IS_FLOAT
    return (vec)_mm256_sqrt_ps((__m256)v);
#elif ISA_AVX2
    return (vec)_mm256_sqrt_pd((__m256d)v);
#else
    for (int j = 0; j < LANES; j++)
#if REAL_IS_FLOAT
        v[j] = __builtin_sqrtf(v[j]);
#else
        v[j] = __builtin_sqrt(v[j]);
#endif
    return v;
#endif
}

/* Whether all lanes are +0. */
INLINE int vec_is_zero(vec v)
{
#if ISA_AVX512
    return _mm512_test_epi32_mask((__m512i)v, (__m512i)v) == 0;
#elif ISA_AVX2
    return _mm256_testz_si256((__m256i)v, (__m256i)v);
#else
    const uvec bits = (uvec)v;
    REAL_UBITS any = 0;
    for (int j = 0; j < LANES; j++) any |= bits[j];
    return any == 0;
#endif
}

/* 0, 1, .. */
#if LANES == 16
#define LANE_NUMBERS ((ivec){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15})
#elif LANES == 8
#define LANE_NUMBERS ((ivec){0, 1, 2, 3, 4, 5, 6, 7})
#elif LANES == 4
#define LANE_NUMBERS ((ivec){0, 1, 2, 3})
#else
#define LANE_NUMBERS ((ivec){0, 1})
#endif

/* Lanes of the first, or of the last, halves of a and b in turns: a0 b0 a1 b1 .. */
#if LANES == 16
#define vec_interleave_low(a, b) \
    __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define vec_interleave_high(a, b) \
    __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#elif LANES == 8
#define vec_interleave_low(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define vec_interleave_high(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#elif LANES == 4
#define vec_interleave_low(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define vec_interleave_high(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#else
#define vec_interleave_low(a, b) __builtin_shufflevector(a, b, 0, 2)
#define vec_interleave_high(a, b) __builtin_shufflevector(a, b, 1, 3)
#endif

/* ---------------------------------------------------------------- reductions of a row */

/* One number from a block: lane i meets lane i + half, for half = BLOCK / 2 .. 1. That order is part of the
 * result, so registers of every width walk the same tree. short_<name>: lanes from n on are neutral, so that levels at
 * which only those would be met are left out; it takes 1 <= n <= BLOCK. */
#define DEFINE_TREE(name, combine)                                     \
    INLINE REAL FN(short_##name)(ptrdiff_t n, vec block[BLOCK_VECTORS]) \
    {                                                                  \
        UNROLL for (int half = BLOCK_VECTORS / 2; half > 0; half /= 2) \
            if (n > half * LANES)                                      \
                UNROLL for (int i = 0; i < half; i++)                  \
                    block[i] = combine(block[i], block[i + half]);     \
        vec v = block[0];                                              \
        HALVE(n, v, combine)                                           \
        return v[0];                                                   \
    }                                                                  \
    INLINE REAL FN(name)(vec block[BLOCK_VECTORS])                     \
    {                                                                  \
        return FN(short_##name)(BLOCK, block);                         \
    }
#undef HALVE
#if LANES == 16
#define HALVE(n, v, combine)                                                                                       \
    if ((n) > 8)                                                                                                   \
        v = combine(v, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));      \
    if ((n) > 4)                                                                                                   \
        v = combine(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3));            \
    if ((n) > 2)                                                                                                   \
        v = combine(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1));            \
    if ((n) > 1)                                                                                                   \
        v = combine(v, __builtin_shufflevector(v, v, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0));
#elif LANES == 8
#define HALVE(n, v, combine)                                                      \
    if ((n) > 4)                                                                  \
        v = combine(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3));    \
    if ((n) > 2)                                                                  \
        v = combine(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 2, 3, 0, 1));    \
    if ((n) > 1)                                                                  \
        v = combine(v, __builtin_shufflevector(v, v, 1, 0, 1, 0, 1, 0, 1, 0));
#elif LANES == 4
#define HALVE(n, v, combine)                                      \
    if ((n) > 2)                                                  \
        v = combine(v, __builtin_shufflevector(v, v, 2, 3, 0, 1)); \
    if ((n) > 1)                                                  \
        v = combine(v, __builtin_shufflevector(v, v, 1, 0, 1, 0));
#else
#define HALVE(n, v, combine) \
    if ((n) > 1)             \
        v = combine(v, __builtin_shufflevector(v, v, 1, 0));
#endif
DEFINE_TREE(tree_sum, SUM_OF)
DEFINE_TREE(tree_max, vec_max)
#undef DEFINE_TREE

/* Up to BLOCK numbers of a row, `fill` beyond. */
INLINE void FN(load_block)(const REAL *p, ptrdiff_t count, REAL fill, vec block[BLOCK_VECTORS])
{
    UNROLL for (int i = 0; i < BLOCK_VECTORS; i++) {
        const ptrdiff_t rest = count - i * LANES;
        block[i] = rest >= LANES ? vec_load(p + i * LANES)
                   : rest > 0    ? vec_load_fill(p + i * LANES, rest, fill)
                                 : vec_set(fill);
    }
}

/* n = 0: the neutral element. row_max of a row with a NaN is any number of that row, or NaN: softmax, its one
 * use, comes out NaN either way. */
#define DEFINE_REDUCTION(name, neutral, combine, tree)                                                \
    static inline REAL name(ptrdiff_t n, const REAL *p)                                               \
    {                                                                                                 \
        vec s[BLOCK_VECTORS], t[BLOCK_VECTORS];                                                       \
        FN(load_block)(p, n, neutral, s);                                                             \
        for (ptrdiff_t j = BLOCK; j < n; j += BLOCK) {                                                \
            FN(load_block)(p + j, n - j, neutral, t);                                                 \
            UNROLL for (int i = 0; i < BLOCK_VECTORS; i++) s[i] = combine(s[i], t[i]);                \
        }                                                                                             \
        return FN(tree)(s);                                                                           \
    }
DEFINE_REDUCTION(row_sum, 0, SUM_OF, tree_sum)
DEFINE_REDUCTION(row_max, -REAL_INFINITY, vec_max, tree_max)
#undef DEFINE_REDUCTION
