/* Vectors of 32 bytes at most, for work that consists of shuffles: within 16 bytes they are the cheapest there are, and
 * in vectors of 64 bytes a CPU does no more bytes of them a cycle (Zen 4), or leaves one of two units idle (Intel). */
#ifndef FASTNN_SLIM_NAMES
#define FASTNN_SLIM_NAMES
#define slim FN(slim_t)
#define slim_load_halves FN(slim_load_halves)
#define slim_store FN(slim_store)
#define slim_set FN(slim_set)
#define slim_fma FN(slim_fma)
#define SLIM_BYTES (VECTOR_BYTES < 32 ? VECTOR_BYTES : 32)
#endif

#undef SLIM_LANES
#define SLIM_LANES (SLIM_BYTES / (ptrdiff_t)sizeof(REAL))
typedef REAL slim __attribute__((vector_size(SLIM_BYTES)));

/* 16 bytes at low and, where a vector has room for them, 16 at high. A broadcast into the upper half and a blend took
 * as long as the insertion. */
INLINE slim slim_load_halves(const REAL *low, const REAL *high)
{
#if (ISA_AVX512 || ISA_AVX2) && REAL_IS_FLOAT
    return (slim)_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)), _mm_loadu_ps(high), 1);
#elif ISA_AVX512 || ISA_AVX2
    return (slim)_mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(low)), _mm_loadu_pd(high), 1);
#else
    (void)high;
    return vec_load(low);
#endif
}

INLINE void slim_store(REAL *p, slim v)
{
    memcpy(p, &v, sizeof v);
}

INLINE slim slim_set(REAL s)
{
    return s - (slim){0}; /* a sum would lose the sign of -0 */
}

/* a * b + c, rounded once. */
INLINE slim slim_fma(slim a, slim b, slim c)
{
#if ISA_AVX512 && REAL_IS_FLOAT
    return (slim)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif ISA_AVX512
    return (slim)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
    return vec_fma(a, b, c);
#endif
}

/* Lanes of the first, or of the last, halves of a and b in turns, within every 16 bytes. */
#undef slim_interleave_low
#undef slim_interleave_high
#if SLIM_BYTES == 32 && REAL_IS_FLOAT
#define slim_interleave_low(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13)
#define slim_interleave_high(a, b) __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15)
#elif SLIM_BYTES == 32
#define slim_interleave_low(a, b) __builtin_shufflevector(a, b, 0, 4, 2, 6)
#define slim_interleave_high(a, b) __builtin_shufflevector(a, b, 1, 5, 3, 7)
#else
#define slim_interleave_low vec_interleave_low
#define slim_interleave_high vec_interleave_high
#endif
