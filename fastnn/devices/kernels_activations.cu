/* Activations and their slopes: of elements, and of whole rows (softmax). */

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
