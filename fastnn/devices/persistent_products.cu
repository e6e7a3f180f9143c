/* Products within shared memory. */

/* out(u, v) = left(u, .) right(., v), then bias(v) and, of the functions, relu alone: each one chain of FMAs over s, in
 * order, from zero, as in all products; or, where it adds, from the sum of the terms before, which is in out. left(u, s)
 * is left[u left_u + s left_s], and so on. Neighbouring threads have neighbouring v. */
template <int RU, int RV>
__device__ inline void product_by(int across, const float *left, int left_u, int left_s, const float *right,
                                  int right_v, int right_s, int n_u, int n_v, int n_s, float *out, int out_u,
                                  int out_v, const float *bias, float *kept, int is_relu, int adds)
{
    const int down = THREADS / across, tu = threadIdx.x / across, tv = threadIdx.x % across;
    for (int u0 = tu; u0 < n_u; u0 += RU * down)
        for (int v0 = tv; v0 < n_v; v0 += RV * across) {
            float sum[RU][RV];
            int a[RU], b[RV];
#pragma unroll
            for (int i = 0; i < RU; i++) { /* beyond the edge: the last one once more, which is not stored */
                const int u = u0 + i * down;
                a[i] = (u < n_u ? u : n_u - 1) * left_u;
            }
#pragma unroll
            for (int j = 0; j < RV; j++) {
                const int v = v0 + j * across;
                b[j] = (v < n_v ? v : n_v - 1) * right_v;
            }
#pragma unroll
            for (int i = 0; i < RU; i++)
#pragma unroll
                for (int j = 0; j < RV; j++) {
                    sum[i][j] = 0;
                    if (CLUSTERED && adds && u0 + i * down < n_u && v0 + j * across < n_v)
                        sum[i][j] = out[(u0 + i * down) * out_u + (v0 + j * across) * out_v];
                }
#pragma unroll 4
            for (int s = 0; s < n_s; s++) {
                float l[RU], r[RV];
#pragma unroll
                for (int i = 0; i < RU; i++) l[i] = left[a[i] + s * left_s];
#pragma unroll
                for (int j = 0; j < RV; j++) r[j] = right[b[j] + s * right_s];
#pragma unroll
                for (int i = 0; i < RU; i++)
#pragma unroll
                    for (int j = 0; j < RV; j++) sum[i][j] = fmaf(l[i], r[j], sum[i][j]);
            }
#pragma unroll
            for (int i = 0; i < RU; i++) {
                const int u = u0 + i * down;
#pragma unroll
                for (int j = 0; j < RV; j++) {
                    const int v = v0 + j * across;
                    if (u >= n_u || v >= n_v)
                        continue;
                    const float value = bias ? sum[i][j] + bias[v] : sum[i][j];
                    if (kept)
                        kept[u * out_u + v * out_v] = value;
                    out[u * out_u + v * out_v] = is_relu && value <= 0 ? 0.0f : value;
                }
            }
        }
}

__device__ inline void product(const float *left, int left_u, int left_s, const float *right, int right_v,
                               int right_s, int n_u, int n_v, int n_s, float *out, int out_u, int out_v,
                               const float *bias = 0, float *kept = 0, int is_relu = 0, int adds = 0)
{
    /* Few columns: more rows at a time, so that fewer threads have nothing to do. */
    const int across = n_v > 16 ? 32 : n_v > 8 ? 16 : 8;
    if (n_u > THREADS / across * 2 && n_v > across)
        product_by<4, 2>(across, left, left_u, left_s, right, right_v, right_s, n_u, n_v, n_s, out, out_u, out_v, bias,
                         kept, is_relu, adds);
    else
        product_by<2, 1>(across, left, left_u, left_s, right, right_v, right_s, n_u, n_v, n_s, out, out_u, out_v, bias,
                         kept, is_relu, adds);
}

#if !CLUSTERED
/* out = x w, then the bias and of the functions relu alone. kept: takes what f is of, or 0. */
__device__ inline void product_out(const i64 *net, const i64 *op, float *f, const float *x, float *out, float *kept,
                                   int is_relu, int is_first)
{
    const int m = (int)net[NET_ROWS], n = (int)op[OP_OUT], k = (int)op[OP_IN];
    const float *w = f + net[AT_W];
    product(x, apart(k), 1, w + op[OP_WEIGHT], 1, n, m, n, k, out, apart(n), 1, op[OP_BIAS] >= 0 ? w + op[OP_BIAS] : 0,
            kept, is_relu);
}

/* The gradient of w: x' da. */
__device__ inline void product_weights(const i64 *net, const i64 *op, float *f, const float *x, const float *da,
                                       float *g, int is_first)
{
    const int m = (int)net[NET_ROWS], n = (int)op[OP_OUT], k = (int)op[OP_IN];
    product(x, 1, apart(k), da, 1, apart(n), k, n, m, g + op[OP_WEIGHT], n, 1);
}

/* below = da w'. Neighbouring threads have neighbouring rows: of these, not of w's, the columns have no conflicts. */
__device__ inline void product_down(const i64 *net, const i64 *op, float *f, const float *da, float *below)
{
    const int m = (int)net[NET_ROWS], n = (int)op[OP_OUT], k = (int)op[OP_IN];
    product(f + net[AT_W] + op[OP_WEIGHT], n, 1, da, apart(n), 1, k, m, n, below, 1, apart(k));
}
#endif
