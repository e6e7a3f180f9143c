/* The rows of a batch: gathered, scaled by Scale, dropped out. */

/* out[i] = x[row i of this step's order]; flag: whether a value that is not finite in x is to stop the training. */
template <typename T>
__device__ inline void gather(const u64 *sources, int source, i64 *progress, int m, int n, float *out, int flag)
{
    const i64 i = thread_number();
    if (i >= (i64)m * n)
        return;
    const i64 *order = (const i64 *)sources[SRC_ORDER] + progress[0] * m;
    const float v = (float)((const T *)sources[source])[order[i / n] * n + i % n];
    out[i] = v;
    if (flag && !is_finite(v))
        progress[3] = 1; /* all that write, write the same */
}

SEPARATE gather_floats(const u64 *sources, i64 *progress, int m, int n, float *out)
{
    gather<float>(sources, SRC_X, progress, m, n, out, 1);
}

SEPARATE gather_bytes(const u64 *sources, i64 *progress, int m, int n, float *out)
{
    gather<u8>(sources, SRC_X, progress, m, n, out, 0);
}

SEPARATE gather_targets(const u64 *sources, i64 *progress, int m, int n, float *out)
{
    gather<float>(sources, SRC_Y, progress, m, n, out, 0);
}

/* Weights of the rows, 1 where there are none, and in weight[m] their sum; labels too where the array is given.
 * One block. */
TOGETHER gather_weights(const u64 *sources, const i64 *progress, int m, double *weight, i64 *labels)
{
    const i64 *order = (const i64 *)sources[SRC_ORDER] + progress[0] * m;
    const double *given = (const double *)sources[SRC_WEIGHT];
    double sum = 0;
    for (int i = threadIdx.x; i < m; i += THREADS) {
        const double w = given ? given[order[i]] : 1.0;
        weight[i] = w;
        sum += w;
        if (labels)
            labels[i] = ((const i64 *)sources[SRC_Y])[order[i]];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0)
        weight[m] = sum;
}

/* Two roundings, as the array program has them: no FMA. */
__device__ inline float scaled(float x, float factor, float shift) { return __fadd_rn(__fmul_rn(x, factor), shift); }

/* out = x * factor + shift, by columns where arrays (n,) are given. out may be x. */
SEPARATE scale(const float *x, float *out, i64 size, int n, float factor, float shift, const float *factors,
               const float *shifts)
{
    const i64 i = thread_number();
    if (i >= size)
        return;
    const int j = (int)(i % n);
    out[i] = scaled(x[i], factors ? factors[j] : factor, shifts ? shifts[j] : shift);
}

/* Four words of Philox4x32-10 (Salmon et al. 2011) for a counter c and a key, in place. */
__device__ inline void philox(u32 c[4], u64 seed)
{
    u32 k0 = (u32)seed, k1 = (u32)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        const u64 p0 = (u64)0xD2511F53u * c[0], p1 = (u64)0xCD9E8D57u * c[2];
        c[0] = (u32)(p1 >> 32) ^ c[1] ^ k0;
        c[1] = (u32)p1;
        c[2] = (u32)(p0 >> 32) ^ c[3] ^ k1;
        c[3] = (u32)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

/* out = x times 0 or `kept`, of 4 columns of a row (n,) from column `first` on. The mask is a function of (seed, step,
 * layer, row, column), made anew on the way back rather than stored. out may be x. */
__device__ inline void drop_four(const float *x, float *out, int row, int first, int n, u64 seed, u64 step, u32 layer,
                                 u32 threshold, float kept)
{
    u32 c[4] = {(u32)(first / 4), (u32)row, (u32)step, (u32)(step >> 32 & 0xFFF) << 16 | (layer & 0xFFFF)};
    philox(c, seed);
    for (int q = 0; q < 4 && first + q < n; q++) out[first + q] = x[first + q] * (c[q] >= threshold ? kept : 0.0f);
}

SEPARATE dropout(const float *x, float *out, int m, int n, u64 seed, const i64 *progress, u32 layer, u32 threshold,
                 float kept)
{
    const int blocks = (n + 3) / 4;
    const i64 i = thread_number();
    if (i >= (i64)m * blocks)
        return;
    const i64 row = i / blocks;
    const int first = (int)(i % blocks) * 4;
    drop_four(x + row * n, out + row * n, (int)row, first, n, seed, (u64)progress[1], layer, threshold, kept);
}
