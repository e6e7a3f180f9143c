/* The machine's own limits: FMAs in registers and nothing else, and vectors that go through a core and back. Benchmarks
 * state shares of what these reach. */

/* Chains that do not wait for each other: more than latency x FMAs a cycle (4 x 2 on today's x86, 4 x 4 on
 * the widest Arm), and, with two constants, fewer than AVX2's 16 registers. */
#undef CHAINS
#define CHAINS 12

/* x = x / 2 + 1/2 in every lane, CHAINS * `turns` times: tends to 1, never a subnormal number. */
static double FN(fma_loop)(ptrdiff_t turns)
{
    const vec half = vec_set((REAL)0.5);
    vec x[CHAINS];
    UNROLL
    for (int i = 0; i < CHAINS; i++)
        x[i] = vec_set((REAL)(i + 1));
    for (ptrdiff_t t = 0; t < turns; t++) {
        UNROLL
        for (int i = 0; i < CHAINS; i++)
            x[i] = vec_fma(x[i], half, half);
        __asm__ volatile(""); /* no turn may be left out */
    }
    double sum = 0.0;
    /* Unrolled, as all loops over x: a counter as index would put x into memory, at a third of the speed. */
    UNROLL
    for (int i = 0; i < CHAINS; i++)
        for (int j = 0; j < LANES; j++)
            sum += (double)x[i][j];
    /* The sum is a positive number, which only the reader of this line knows. */
    return sum >= 0.0 ? 2.0 * CHAINS * LANES * (double)turns : 0.0;
}

/* Fixed counts: the loop has as many streams as it would in an optimizer's step, and no loop within. */
INLINE void FN(stream_of)(ptrdiff_t n, const int count, vec c, const REAL *g, REAL *const *x)
{
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const vec step = vec_load(g + i);
        UNROLL for (int q = 0; q < count; q++) vec_store(x[q] + i, vec_fma(c, step, vec_load(x[q] + i)));
    }
    if (i < n) {
        const vec step = vec_load_part(g + i, n - i);
        UNROLL for (int q = 0; q < count; q++)
            vec_store_part(x[q] + i, vec_fma(c, step, vec_load_part(x[q] + i, n - i)), n - i);
    }
}

static void FN(stream)(ptrdiff_t n, int count, double c, const void *g, void *const *x)
{
    REAL *own[FASTNN_STATES + 1];
    for (int q = 0; q < count; q++) own[q] = x[q];
    switch (count) {
    case 1: FN(stream_of)(n, 1, vec_set((REAL)c), g, own); break;
    case 2: FN(stream_of)(n, 2, vec_set((REAL)c), g, own); break;
    case 3: FN(stream_of)(n, 3, vec_set((REAL)c), g, own); break;
    case 4: FN(stream_of)(n, 4, vec_set((REAL)c), g, own); break;
    }
}
