/* The kernels of the device "cuda". NVRTC compiles this text when a program is first made, after lines
 * `#define ACT_relu 1`, `#define OPT_adam 4`, ... that cuda_kernels.py writes from the lists of csrc/fastnn.h.
 * tests/cuda_shim.h lets g++ compile the same text, so that every kernel is tested without a card.
 *
 * Matrices are row-major without gaps, m rows of n columns. One dimension of the grid and one of the block is used,
 * but for products. SEPARATE kernels have threads that never wait for each other; TOGETHER kernels have a barrier or
 * change registers within a warp (the shim runs those as fibers, which is slower).
 *
 * A step is a row of launches without a word of the host: what changes from step to step is read through
 *   progress[0] step within the call, [1] step of the training, [2] why it stopped (STOP_*), [3] x was not finite
 *   sources[SRC_*] addresses of the data of this call, 0 where there is none.
 * Once progress[2] is set the counters stand still and no kernel writes parameters, state or sums: the steps that are
 * queued behind go over the same batch again, so that its numbers are still there when the host looks.
 *
 * Every sum has one order that depends on sizes alone: the same bits in each run on one kind of card. */

typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;
typedef unsigned char u8;

#ifdef FASTNN_PARTS /* of persistent.cu, which follows: it calls the functions of this text and has none of its kernels */
#undef SEPARATE
#undef TOGETHER
#define SEPARATE static __device__ __attribute__((unused)) void
#define TOGETHER static __device__ __attribute__((unused)) void
#elif !defined FASTNN_SHIM
#define SEPARATE extern "C" __global__ void
#define TOGETHER extern "C" __global__ void
#endif
#define THREADS 256
#define WARP 32
#define ALL_LANES 0xFFFFFFFFu

enum { SRC_X, SRC_Y, SRC_WEIGHT, SRC_ORDER, SRC_CONSTANTS, SRC_LOSSES };
enum { STOP_NONE, STOP_LOSS, STOP_INPUT };

__device__ inline i64 thread_number() { return (i64)blockIdx.x * blockDim.x + threadIdx.x; }

/* False for NaN and infinities, whatever flags a compiler was given. */
__device__ inline int is_finite(float v) { return (__float_as_uint(v) & 0x7F800000u) != 0x7F800000u; }

__device__ inline float warp_sum(float v)
{
    for (int half = WARP / 2; half > 0; half /= 2) v += __shfl_xor_sync(ALL_LANES, v, half);
    return v;
}

__device__ inline float warp_max(float v)
{
    for (int half = WARP / 2; half > 0; half /= 2) v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, half));
    return v;
}

/* The sum over a block of THREADS; all threads get it. */
__device__ inline double block_sum(double v)
{
    __shared__ double part[THREADS];
    __syncthreads(); /* of a sum before */
    part[threadIdx.x] = v;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if ((int)threadIdx.x < half)
            part[threadIdx.x] += part[threadIdx.x + half];
    }
    __syncthreads();
    return part[0];
}

/* ---------------------------------------------------------------- rows of the batch */

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

/* ---------------------------------------------------------------- activations */

__device__ inline float sigmoid_of(float z)
{
    const float e = expf(-fabsf(z)); /* never overflows */
    return (z < 0 ? e : 1.0f) / (1.0f + e);
}

/* -inf times 0 would be NaN; at -1e4 all of these are 0 in float. */
__device__ inline float bounded(float z) { return z < -1e4f ? -1e4f : z; }

#define GELU_C1 1.5957691216057308f /* 2 sqrt(2 / pi) (z + 0.044715 z^3) is the logit of the GELU with tanh */
#define GELU_C3 (1.5957691216057308f * 0.044715f)
#define SELU_LEFT 1.7580993408473768f
#define SELU_RIGHT 1.0507009873554805f

/* f(z). Comparisons are written so that NaN stays NaN. */
__device__ inline float activate(int kind, float z)
{
    switch (kind) {
    case ACT_relu: return z <= 0 ? 0.0f : z;
    case ACT_leaky_relu: return z <= 0 ? 0.01f * z : z;
    case ACT_relu6: return z <= 0 ? 0.0f : z >= 6 ? 6.0f : z;
    case ACT_hard_tanh: return z <= -1 ? -1.0f : z >= 1 ? 1.0f : z;
    case ACT_hard_sigmoid: return z <= -3 ? 0.0f : z >= 3 ? 1.0f : (z + 3) / 6;
    case ACT_hard_swish: return z <= -3 ? -0.0f : z >= 3 ? z : z * ((z + 3) / 6);
    case ACT_softsign: {
        const float t = fabsf(z);
        return copysignf(t < 1 ? t / (1 + t) : 1 - 1 / (1 + t), z);
    }
    case ACT_elu:
    case ACT_celu: return z < 0 ? expm1f(z) : z; /* with alpha 1 the same */
    case ACT_selu: return z < 0 ? SELU_LEFT * expm1f(z) : SELU_RIGHT * z;
    case ACT_softplus: return z > 20 ? z : (z > 0 ? z : 0.0f) + log1pf(expf(-fabsf(z)));
    case ACT_silu: return bounded(z) * sigmoid_of(z);
    case ACT_mish: {
        if (z >= 40)
            return z; /* there tanh(softplus) is 1 */
        const float e = expf(z), w = e * (e + 2);
        return bounded(z) * (w / (w + 2));
    }
    case ACT_gelu: return bounded(z) * normcdff(z);
    case ACT_gelu_tanh: return z > 1e4f ? z : bounded(z) * sigmoid_of(bounded(z) * (GELU_C1 + GELU_C3 * z * bounded(z)));
    case ACT_sigmoid: return sigmoid_of(z);
    case ACT_tanh: return tanhf(z);
    }
    return z; /* identity */
}

/* f'(z) from v, which is z where the host says so (FROM_INPUT in cuda_kernels.py), else f(z). */
__device__ inline float slope(int kind, float v)
{
    switch (kind) {
    case ACT_relu: return v <= 0 ? 0.0f : 1.0f;
    case ACT_leaky_relu: return v <= 0 ? 0.01f : 1.0f;
    case ACT_relu6: return v <= 0 || v >= 6 ? 0.0f : 1.0f;
    case ACT_hard_tanh: return v <= -1 || v >= 1 ? 0.0f : 1.0f;
    case ACT_hard_sigmoid: return v <= 0 || v >= 1 ? 0.0f : 1.0f / 6;
    case ACT_hard_swish: return v <= -3 ? 0.0f : v >= 3 ? 1.0f : v / 3 + 0.5f;
    case ACT_softsign: {
        const float rest = 1 - fabsf(v);
        return rest * rest;
    }
    case ACT_elu:
    case ACT_celu: return v <= 0 ? v + 1 : 1.0f;
    case ACT_selu: return v <= 0 ? v + SELU_LEFT : SELU_RIGHT;
    case ACT_softplus: return v > 20.0f ? 1.0f : -expm1f(-v);
    case ACT_silu: {
        const float z = v > 1e4f ? 1e4f : bounded(v), s = sigmoid_of(z);
        return s * (1 + z * sigmoid_of(-z));
    }
    case ACT_mish: {
        const float z = v > 40 ? 40.0f : bounded(v), e = expf(z), part = 1 / (e * (e + 2) + 2);
        return part * (e * (e + 2) + 4 * z * (e * part) * (1 + e));
    }
    case ACT_gelu: {
        const float z = v > 1e4f ? 1e4f : bounded(v);
        return normcdff(z) + z * (0.3989422804014327f * expf(-0.5f * z * z));
    }
    case ACT_gelu_tanh: {
        const float z = v > 1e4f ? 1e4f : bounded(v), u = z * (GELU_C1 + GELU_C3 * z * z);
        return sigmoid_of(u) + z * (GELU_C1 + 3 * GELU_C3 * z * z) * (sigmoid_of(u) * sigmoid_of(-u));
    }
    case ACT_sigmoid: return v * (1 - v);
    case ACT_tanh: return 1 - v * v;
    }
    return 1.0f;
}

/* out = f(z), of a layer that is nothing else. */
SEPARATE activation(const float *z, float *out, i64 size, int kind)
{
    const i64 i = thread_number();
    if (i < size)
        out[i] = activate(kind, z[i]);
}

/* A block has 32 columns, the first of them being number `first`, and 8 rows of threads walk down them. da (m, n)
 * becomes the gradient at z, and its columns are summed into db (n,); kept: f(z) or z. Neither is looked at where
 * NULL. Rows of da and kept lie `apart` elements apart. */
__device__ inline void slope_and_sums(float *da, const float *kept, int apart, int kind, int m, int n, float *db,
                                      int first)
{
    __shared__ float part[8][WARP];
    const int lane = threadIdx.x % WARP, row = threadIdx.x / WARP, j = first + lane;
    float sum = 0;
    if (j < n)
        for (int i = row; i < m; i += 8) {
            const i64 at = (i64)i * apart + j;
            float g = da[at];
            if (kept)
                da[at] = g = g * slope(kind, kept[at]);
            sum += g;
        }
    part[row][lane] = sum;
    __syncthreads();
    if (row || j >= n || !db)
        return;
    for (int r = 1; r < 8; r++) sum += part[r][lane];
    db[j] = sum;
}

TOGETHER slope_and_bias(float *da, const float *kept, int kind, int m, int n, float *db)
{
    slope_and_sums(da, kept, n, kind, m, n, db, blockIdx.x * WARP);
}

/* Softmax of a row, or its logarithm, by a warp. out may be z. */
__device__ inline void softmax_of(const float *z, float *out, int n, int logarithm)
{
    const int lane = threadIdx.x % WARP;
    float most = z[0], total = 0;
    for (int j = lane; j < n; j += WARP) most = fmaxf(most, z[j]);
    most = warp_max(most);
    for (int j = lane; j < n; j += WARP) total += expf(z[j] - most);
    total = warp_sum(total);
    const float log_total = logf(total);
    for (int j = lane; j < n; j += WARP)
        out[j] = logarithm ? z[j] - most - log_total : expf(z[j] - most) / total;
}

/* The gradient at z from that at a, in place. */
__device__ inline void softmax_slope_of(const float *a, float *da, int n, int logarithm)
{
    const int lane = threadIdx.x % WARP;
    float sum = 0;
    for (int j = lane; j < n; j += WARP) sum += logarithm ? da[j] : da[j] * a[j];
    sum = warp_sum(sum);
    for (int j = lane; j < n; j += WARP)
        da[j] = logarithm ? da[j] - expf(a[j]) * sum : a[j] * (da[j] - sum);
}

/* The row of this warp. */
__device__ inline int row_number() { return blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP; }

TOGETHER softmax(const float *z, float *out, int m, int n, int logarithm)
{
    const i64 row = row_number();
    if (row < m) /* a whole warp */
        softmax_of(z + row * n, out + row * n, n, logarithm);
}

TOGETHER softmax_slope(const float *a, float *da, int m, int n, int logarithm)
{
    const i64 row = row_number();
    if (row < m)
        softmax_slope_of(a + row * n, da + row * n, n, logarithm);
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

/* ---------------------------------------------------------------- dropout */

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

/* ---------------------------------------------------------------- losses */

/* The share of a row in the weighted mean over the batch. */
__device__ inline float share_of(double weight, double total) { return total > 0 ? (float)(weight / total) : 0.0f; }

__device__ inline double within(double v, double floor, double cap) { return v < floor ? floor : v > cap ? cap : v; }

/* What is told of a row's loss: NaN, which stops the training, where it is beyond the limit or no number. */
__device__ inline double told_of(double loss, double cut, double told, double limit)
{
    return fabs(loss) <= limit ? told * cut : nan("");
}

/* Softmax cross-entropy of a row's label, by a warp. dz is that of the weighted mean over the batch, in which the row
 * has the share `factor`; the loss, lane 0's, is that of the row alone, within floor .. cap, times `told`. The logarithm
 * of a sum of exponentials is taken apart so that nothing overflows. */
__device__ inline void cross_entropy_of(const float *z, int label, float factor, int n, float smoothing, double told,
                                        double floor, double cap, double limit, float *dz, double *loss)
{
    const int lane = threadIdx.x % WARP;
    float most = z[0], total = 0, below = 0;
    for (int j = lane; j < n; j += WARP) most = fmaxf(most, z[j]);
    most = warp_max(most);
    for (int j = lane; j < n; j += WARP) {
        total += expf(z[j] - most);
        below += most - z[j];
    }
    total = warp_sum(total);
    if (smoothing != 0)
        below = warp_sum(below) / n;
    const float other = smoothing / n, chosen = 1 - smoothing + other;
    for (int j = lane; j < n; j += WARP)
        dz[j] = (expf(z[j] - most) / total - (j == label ? chosen : other)) * factor;
    if (lane == 0) {
        const float own = most - z[label];
        const double l = logf(total) + (smoothing != 0 ? (1 - smoothing) * own + smoothing * below : own);
        *loss = told_of(l, within(l, floor, cap), told, limit);
    }
}

TOGETHER cross_entropy(const float *z, const i64 *labels, const double *weight, int m, int n, float smoothing,
                       float scale, double told, double floor, double cap, double limit, float *dz, double *loss)
{
    const i64 row = row_number();
    if (row < m)
        cross_entropy_of(z + row * n, (int)labels[row], share_of(weight[row], weight[m]) * scale, n, smoothing, told,
                         floor, cap, limit, dz + row * n, loss + row);
}

__device__ inline float log1p_exp(float z) { return (z > 0 ? z : 0.0f) + log1pf(expf(-fabsf(z))); }

/* The loss of a row of values y (n,), the mean over its outputs, by a warp. number: Huber's delta; the others as above,
 * but that of binary_cross_entropy each output's share is within floor .. cap. */
__device__ inline void loss_of_row(int kind, float number, const float *z, const float *y, float factor, int n,
                                   double told, double floor, double cap, double limit, float *dz, double *loss)
{
    const int lane = threadIdx.x % WARP, each = kind == LOSS_binary_cross_entropy;
    float sum = 0, cut = 0;
    for (int j = lane; j < n; j += WARP) {
        const float v = z[j], t = y[j], d = v - t, size = fabsf(d);
        float l = 0, g = 0;
        switch (kind) {
        case LOSS_mse:
            l = d * d;
            g = 2 * d;
            break;
        case LOSS_mae:
            l = size;
            g = d > 0 ? 1.0f : d < 0 ? -1.0f : d; /* NaN stays */
            break;
        case LOSS_huber:
            l = size > number ? number * (size - number / 2) : d * d / 2;
            g = d > number ? number : d < -number ? -number : d;
            break;
        case LOSS_log_cosh: {
            const float s = sinhf(size < 1 ? size : 1.0f); /* the other form cancels near 0 */
            l = size < 1 ? log1pf(s * s) / 2 : size + log1pf(expf(-2 * size)) - 0.6931471805599453f;
            g = tanhf(d);
            break;
        }
        case LOSS_binary_cross_entropy:
            l = log1p_exp(v) - v * t;
            g = sigmoid_of(v) - t;
            break;
        case LOSS_hinge: {
            const float margin = 1 - t * v;
            l = margin <= 0 ? 0.0f : margin;
            g = margin > 0 ? -t : 0.0f;
            break;
        }
        }
        sum += l;
        cut += each ? (float)within(l, floor, cap) : l;
        dz[j] = g / n * factor;
    }
    sum = warp_sum(sum);
    cut = warp_sum(cut);
    if (lane == 0)
        *loss = told_of(sum / n, within(cut / n, floor, cap), told, limit);
}

TOGETHER loss_of_values(int kind, float number, const float *z, const float *y, const double *weight, int m, int n,
                        float scale, double told, double floor, double cap, double limit, float *dz, double *loss)
{
    const i64 row = row_number();
    if (row < m)
        loss_of_row(kind, number, z + row * n, y + row * n, share_of(weight[row], weight[m]) * scale, n, told, floor,
                    cap, limit, dz + row * n, loss + row);
}

/* Adds the batch to sums (weight * loss, weight), or stops the training before anything is updated: at x or a loss
 * that is not finite, be it of a row without weight. half_l2 times the sum of `squares` joins the loss; the loss of the
 * step is kept where the call wants it. One block. */
TOGETHER loss_total(const double *loss, const double *weight, int m, const double *squares, int n_squares,
                    double half_l2, const u64 *sources, i64 *progress, double *sums)
{
    double sum = 0, broken = 0;
    for (int i = threadIdx.x; i < m; i += THREADS) {
        sum += weight[i] * loss[i];
        broken += loss[i] - loss[i] == 0 ? 0 : 1;
    }
    sum = block_sum(sum);
    broken = block_sum(broken);
    if (threadIdx.x || progress[2])
        return;
    if (progress[3])
        progress[2] = STOP_INPUT;
    else if (broken != 0)
        progress[2] = STOP_LOSS;
    else {
        double penalty = 0;
        for (int i = 0; i < n_squares; i++) penalty += squares[i];
        sum = (weight[m] > 0 ? sum : 0.0) + half_l2 * penalty;
        sums[0] += sum;
        sums[1] += weight[m];
        if (sources[SRC_LOSSES])
            ((double *)sources[SRC_LOSSES])[progress[0]] = sum;
    }
}

/* g += l2 / total * w: the gradient of a penalty, l2 / 2 times the squares, that is divided by the weight of the batch
 * as the loss is. */
SEPARATE penalty_slope(float *g, const float *w, i64 size, const double *total, double l2)
{
    const i64 i = thread_number();
    if (i < size && *total > 0)
        g[i] = fmaf((float)(l2 / *total), w[i], g[i]);
}

/* The step is done. */
SEPARATE advance(i64 *progress)
{
    if (progress[2] || thread_number())
        return;
    progress[0] += 1;
    progress[1] += 1;
}

/* ---------------------------------------------------------------- products */

#ifndef FASTNN_PARTS /* whose products are of one block */
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
#endif /* FASTNN_PARTS */

/* ---------------------------------------------------------------- the update */

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
