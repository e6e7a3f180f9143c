/* Products, in float32 and of rounded factors, and what stands around those of a library. The kernel for small nets
 * has none of these (persistent.cu). */

/* c (m, n) = a b, then bias (n,) and f; z: what f was of. Each element is one chain of FMAs over k, in order, from
 * zero: the bits of the products of the CPU. A thread has RM x RN sums that lie apart by the threads of the
 * tile, so that a warp reads shared memory without conflicts and stores whole lines. While a panel is multiplied the
 * next one is on its way to registers.
 *   TA: a is stored (k, m); TB: b is stored (n, k). */
template <int BM, int BN, int BK, int RM, int RN, int TA, int TB>
__device__ inline void matmul(const float *a, const float *b, int m, int n, int k, float *c, const float *bias,
                              int kind, float *z)
{
    enum { ACROSS = BN / RN, DOWN = BM / RM, LOADS_A = BM * BK / THREADS, LOADS_B = BN * BK / THREADS };
    __shared__ float as[BK][BM + 1], bs[BK][BN + 1]; /* + 1: a panel that is turned is stored without conflicts */
    const int tid = threadIdx.x, tx = tid % ACROSS, ty = tid / ACROSS;
    const int row = blockIdx.y * BM, column = blockIdx.x * BN;
    float sum[RM][RN], next_a[LOADS_A], next_b[LOADS_B];
    for (int i = 0; i < RM; i++)
        for (int j = 0; j < RN; j++) sum[i][j] = 0;

    for (int first = -BK; first < k; first += BK) {
        const int coming = first + BK;
        if (coming < k) {
#pragma unroll
            for (int l = 0; l < LOADS_A; l++) {
                const int i = tid + l * THREADS, r = row + (TA ? i % BM : i / BK), p = coming + (TA ? i / BM : i % BK);
                next_a[l] = r < m && p < k ? a[TA ? (i64)p * m + r : (i64)r * k + p] : 0.0f;
            }
#pragma unroll
            for (int l = 0; l < LOADS_B; l++) {
                const int i = tid + l * THREADS, q = column + (TB ? i / BK : i % BN),
                          p = coming + (TB ? i % BK : i / BN);
                next_b[l] = q < n && p < k ? b[TB ? (i64)q * k + p : (i64)p * n + q] : 0.0f;
            }
        }
        if (first >= 0) {
#pragma unroll
            for (int p = 0; p < BK; p++) {
                float left[RM], right[RN];
#pragma unroll
                for (int i = 0; i < RM; i++) left[i] = as[p][ty + i * DOWN];
#pragma unroll
                for (int j = 0; j < RN; j++) right[j] = bs[p][tx + j * ACROSS];
#pragma unroll
                for (int i = 0; i < RM; i++)
#pragma unroll
                    for (int j = 0; j < RN; j++) sum[i][j] = fmaf(left[i], right[j], sum[i][j]);
            }
        }
        __syncthreads();
        if (coming < k) {
#pragma unroll
            for (int l = 0; l < LOADS_A; l++) {
                const int i = tid + l * THREADS;
                as[TA ? i / BM : i % BK][TA ? i % BM : i / BK] = next_a[l];
            }
#pragma unroll
            for (int l = 0; l < LOADS_B; l++) {
                const int i = tid + l * THREADS;
                bs[TB ? i % BK : i / BN][TB ? i / BK : i % BN] = next_b[l];
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < RM; i++) {
        const int r = row + ty + i * DOWN;
#pragma unroll
        for (int j = 0; j < RN; j++) {
            const int q = column + tx + j * ACROSS;
            if (r >= m || q >= n)
                continue;
            const float v = bias ? sum[i][j] + bias[q] : sum[i][j];
            if (z)
                z[(i64)r * n + q] = v;
            c[(i64)r * n + q] = kind == ACT_relu && v <= 0 ? 0.0f : v;
        }
    }
    if (kind == ACT_identity || kind == ACT_relu)
        return;
    /* What the thread has just stored, once more: f unrolled into the loop above would be most of the program. */
#pragma unroll 1
    for (int i = 0; i < RM * RN; i++) {
        const int r = row + ty + i / RN * DOWN, q = column + tx + i % RN * ACROSS;
        if (r < m && q < n)
            c[(i64)r * n + q] = activate(kind, c[(i64)r * n + q]);
    }
}

/* Names: t where an operand is turned, and the side of the tile. 32 has most blocks for a small product, 128 most
 * work for a number that is read. */
#define MATMUL(name, side, depth, each, ta, tb)                                                                     \
    TOGETHER __launch_bounds__(THREADS) name(const float *a, const float *b, int m, int n, int k, float *c,         \
                                             const float *bias, int kind, float *z)                                 \
    {                                                                                                               \
        matmul<side, side, depth, each, each, ta, tb>(a, b, m, n, k, c, bias, kind, z);                             \
    }
MATMUL(matmul_nn_32, 32, 32, 2, 0, 0)
MATMUL(matmul_nt_32, 32, 32, 2, 0, 1)
MATMUL(matmul_tn_32, 32, 32, 2, 1, 0)
MATMUL(matmul_nn_64, 64, 16, 4, 0, 0)
MATMUL(matmul_nt_64, 64, 16, 4, 0, 1)
MATMUL(matmul_tn_64, 64, 16, 4, 1, 0)
MATMUL(matmul_nn_128, 128, 8, 8, 0, 0)
MATMUL(matmul_nt_128, 128, 8, 8, 0, 1)
MATMUL(matmul_tn_128, 128, 8, 8, 1, 0)

/* ---------------------------------------------------------------- products of rounded numbers */

#ifndef FASTNN_SHIM
/* Round to 10 bits after the point, ties away from zero. */
__device__ inline u32 to_tf32(float v)
{
    u32 r;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(v));
    return r;
}

/* Round both to bfloat16, ties to even; `low` is in the low half. */
__device__ inline u32 to_bf16(float low, float high)
{
    u32 r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

/* c (16, 8) += a (16, 8) b (8, 8), spread over a warp as PTX has it for mma.m16n8k8. */
__device__ inline void mma_tf32(float c[4], const u32 a[4], const u32 b[2])
{
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* The same with a (16, 16) and b (16, 8): mma.m16n8k16. */
__device__ inline void mma_bf16(float c[4], const u32 a[4], const u32 b[2])
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

#define MMA_TILE 64
#define MMA_DEPTH 16
#define MMA_THREADS 128 /* 2 x 2 warps of 32 x 32: 2 x 4 pieces of 16 x 8 each */

/* As matmul, but a and b are rounded to TF32 or bfloat16 first; sums are float32. Cards from 8.0 on: the host
 * refuses older ones. */
template <int BF16, int TA, int TB>
__device__ inline void matmul_rounded(const float *a, const float *b, int m, int n, int k, float *c,
                                      const float *bias, int kind, float *z)
{
    __shared__ float as[MMA_TILE][MMA_DEPTH + 4], bs[MMA_DEPTH][MMA_TILE + 8]; /* rows apart: no conflicts */
    const int tid = threadIdx.x, warp = tid / WARP, group = tid % WARP / 4, in_group = tid % 4;
    const int row = blockIdx.y * MMA_TILE, column = blockIdx.x * MMA_TILE;
    const int down = warp / 2 * 32, across = warp % 2 * 32; /* of the warp in the tile */
    float sum[2][4][4];
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++)
            for (int q = 0; q < 4; q++) sum[i][j][q] = 0;
    for (int first = 0; first < k; first += MMA_DEPTH) {
        for (int i = tid; i < MMA_TILE * MMA_DEPTH; i += MMA_THREADS) {
            const int r = TA ? i % MMA_TILE : i / MMA_DEPTH, p = TA ? i / MMA_TILE : i % MMA_DEPTH;
            as[r][p] = row + r < m && first + p < k
                           ? a[TA ? (i64)(first + p) * m + row + r : (i64)(row + r) * k + first + p]
                           : 0.0f;
            const int q = TB ? i / MMA_DEPTH : i % MMA_TILE, s = TB ? i % MMA_DEPTH : i / MMA_TILE;
            bs[s][q] = column + q < n && first + s < k
                           ? b[TB ? (i64)(column + q) * k + first + s : (i64)(first + s) * n + column + q]
                           : 0.0f;
        }
        __syncthreads();
        if (BF16) {
            u32 left[2][4], right[4][2];
            for (int i = 0; i < 2; i++)
                for (int q = 0; q < 4; q++) {
                    const int r = down + 16 * i + group + 8 * (q % 2), p = 2 * in_group + 8 * (q / 2);
                    left[i][q] = to_bf16(as[r][p], as[r][p + 1]);
                }
            for (int j = 0; j < 4; j++)
                for (int q = 0; q < 2; q++) {
                    const int p = 2 * in_group + 8 * q, s = across + 8 * j + group;
                    right[j][q] = to_bf16(bs[p][s], bs[p + 1][s]);
                }
            for (int i = 0; i < 2; i++)
                for (int j = 0; j < 4; j++) mma_bf16(sum[i][j], left[i], right[j]);
        } else {
            for (int half = 0; half < MMA_DEPTH; half += 8) {
                u32 left[2][4], right[4][2];
                for (int i = 0; i < 2; i++)
                    for (int q = 0; q < 4; q++)
                        left[i][q] = to_tf32(
                            as[down + 16 * i + group + 8 * (q % 2)][half + in_group + 4 * (q / 2)]);
                for (int j = 0; j < 4; j++)
                    for (int q = 0; q < 2; q++)
                        right[j][q] = to_tf32(bs[half + in_group + 4 * q][across + 8 * j + group]);
                for (int i = 0; i < 2; i++)
                    for (int j = 0; j < 4; j++) mma_tf32(sum[i][j], left[i], right[j]);
            }
        }
        __syncthreads();
    }
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++)
            for (int q = 0; q < 4; q++) {
                const int r = row + down + 16 * i + group + 8 * (q / 2);
                const int s = column + across + 8 * j + 2 * in_group + q % 2;
                if (r >= m || s >= n)
                    continue;
                const float v = bias ? sum[i][j][q] + bias[s] : sum[i][j][q];
                if (z)
                    z[(i64)r * n + s] = v;
                c[(i64)r * n + s] = kind == ACT_relu && v <= 0 ? 0.0f : v;
            }
    if (kind == ACT_identity || kind == ACT_relu)
        return;
#pragma unroll 1
    for (int i = 0; i < 32; i++) {
        const int r = row + down + i / 16 * 16 + group + 8 * (i % 4 / 2);
        const int s = column + across + 8 * (i / 4 % 4) + 2 * in_group + i % 2;
        if (r < m && s < n)
            c[(i64)r * n + s] = activate(kind, c[(i64)r * n + s]);
    }
}

#if defined(FASTNN_SHIM) || __CUDA_ARCH__ >= 800
#define MATMUL_ROUNDED(name, bf16, ta, tb)                                                                          \
    TOGETHER __launch_bounds__(MMA_THREADS) name(const float *a, const float *b, int m, int n, int k, float *c,     \
                                                 const float *bias, int kind, float *z)                             \
    {                                                                                                               \
        matmul_rounded<bf16, ta, tb>(a, b, m, n, k, c, bias, kind, z);                                              \
    }
MATMUL_ROUNDED(matmul_nn_tf32, 0, 0, 0)
MATMUL_ROUNDED(matmul_nt_tf32, 0, 0, 1)
MATMUL_ROUNDED(matmul_tn_tf32, 0, 1, 0)
MATMUL_ROUNDED(matmul_nn_bf16, 1, 0, 0)
MATMUL_ROUNDED(matmul_nt_bf16, 1, 0, 1)
MATMUL_ROUNDED(matmul_tn_bf16, 1, 1, 0)
#endif



/* ---------------------------------------------------------------- around products of a library */

/* Numbers in -1 .. 1 that look like chance: what products are tried on. */
SEPARATE pattern(float *out, i64 size, u32 seed)
{
    const i64 i = thread_number();
    if (i >= size)
        return;
    u32 h = ((u32)i + 1) * 0x9E3779B1u ^ seed; /* the finalizer of MurmurHash3 (Appleby, public domain) */
    h = (h ^ h >> 16) * 0x85EBCA6Bu;
    h = (h ^ h >> 13) * 0xC2B2AE35u;
    out[i] = (float)((int)((h ^ h >> 16) >> 8) - (1 << 23)) / (1 << 23);
}

/* alpha and beta of w = beta w + alpha (x' dz), one step of plain SGD with decay; one thread. Nothing is changed once
 * the training has stopped, if `still` has made zeros of x and dz. */
SEPARATE fold_factors(const u64 *sources, const i64 *progress, int rule, int n_rules, float decay, float *factors)
{
    if (thread_number())
        return;
    const float *k = (const float *)sources[SRC_CONSTANTS] + (progress[0] * n_rules + rule) * K_COLUMNS;
    factors[0] = progress[2] ? 0.0f : k[K_RATE];
    factors[1] = progress[2] ? 1.0f : fmaf(k[K_RATE], decay, 1.0f);
}

/* Zeros for both factors of a product that updates weights, once the training has stopped: their infinities and NaN
 * would be in the weights though alpha is 0. */
SEPARATE still(const i64 *progress, float *a, i64 size_a, float *b, i64 size_b)
{
    if (!progress[2])
        return;
    const i64 step = (i64)gridDim.x * blockDim.x;
    for (i64 i = thread_number(); i < size_a; i += step) a[i] = 0;
    for (i64 i = thread_number(); i < size_b; i += step) b[i] = 0;
}
