/* Losses of rows with their gradients, their total and the end of a step. */

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
