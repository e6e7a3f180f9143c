/* The machine's own limit: FMAs in registers and nothing else. Benchmarks state shares of what this reaches. */

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
