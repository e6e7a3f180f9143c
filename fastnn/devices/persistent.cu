/* Small nets, each trained by one block that keeps its parameters in shared memory from step to step.
 *
 * Compiled behind kernels_*.cu, whose functions it calls (there FASTNN_PARTS), so that each number is made by the same
 * lines and each sum has the same order as in the captured step. What a block does is written in a table of 64-bit
 * numbers (cuda_persistent.py): the columns NET_*, then a row OP_* for each step of the network, then a row RULE_* for
 * each rule of the optimizer. Addresses of what changes from call to call are behind SRC_*, as for all kernels.
 *
 * Places in shared memory are counted in floats. Rows of a matrix there lie an odd number of floats apart, so that a
 * warp reads a column without conflicts. */

#ifdef FASTNN_SHIM
#define PERSISTENT extern "C" void
#define SHARED_BLOCK i64 *const shared = shim_shared
#else
#define PERSISTENT extern "C" __global__ void
#define SHARED_BLOCK extern __shared__ i64 shared[]
#endif

enum {
    NET_SIZE, NET_OPS, NET_FIRST, NET_RULES, NET_ROWS, NET_TARGETS, NET_BYTES, NET_IN, NET_OUT, /* sizes */
    NET_W, NET_G, NET_STATE, NET_SOURCES, NET_PROGRESS, NET_SUMS,                               /* addresses */
    NET_PARAMETERS, NET_STATES, NET_AVERAGE, NET_TOWARD, NET_SEED,
    NET_LOSS, NET_LOSS_NUMBER, NET_OPTIMIZER, NET_FLAGS, NET_CLIP_VALUE, NET_CLIP_NORM, NET_NORM_BLOCKS,
    AT_W, AT_G, AT_STATE, AT_X, AT_TARGETS, AT_LABELS, AT_WEIGHTS, AT_LOSSES, AT_GRADIENTS, AT_GRADIENTS_TOO,
    NET_COLUMNS
};
enum {
    OP_KIND, OP_IN, OP_OUT, OP_ACTIVATION, OP_BY_ROW, OP_WEIGHT, OP_BIAS, OP_KEPT, OP_AT, OP_THRESHOLD, OP_LAYER,
    OP_NUMBER, OP_SHIFT, OP_NUMBERS, OP_SHIFTS, OP_COLUMNS
};
enum { RULE_OFFSET, RULE_LENGTH, RULE_FROZEN, RULE_DECAY, RULE_L1, RULE_ROW, RULE_COLUMNS };
enum { KIND_DENSE, KIND_ACTIVATION, KIND_SCALE, KIND_DROPOUT };
enum { BY_ROW_SOFTMAX = 1, BY_ROW_LOGARITHM };

#define LARGEST 1.7976931348623157e308

/* Numbers of the table that are no whole ones. */
__device__ inline float float_of(i64 bits) { return __uint_as_float((u32)bits); }
__device__ inline double double_of(i64 bits) { return __longlong_as_double(bits); }

/* How far rows of n floats lie apart. */
__device__ inline int apart(int n) { return n | 1; }

/* out(u, v) = left(u, .) right(., v), then bias(v) and, of the functions, relu alone: each one chain of FMAs over s, in
 * order, from zero, as in all products. left(u, s) is left[u left_u + s left_s], and so on. Neighbouring threads have
 * neighbouring v. */
template <int RU, int RV>
__device__ inline void product_by(int across, const float *left, int left_u, int left_s, const float *right,
                                  int right_v, int right_s, int n_u, int n_v, int n_s, float *out, int out_u,
                                  int out_v, const float *bias, float *kept, int is_relu)
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
                for (int j = 0; j < RV; j++) sum[i][j] = 0;
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
                               const float *bias = 0, float *kept = 0, int is_relu = 0)
{
    /* Few columns: more rows at a time, so that fewer threads have nothing to do. */
    const int across = n_v > 16 ? 32 : n_v > 8 ? 16 : 8;
    if (n_u > THREADS / across * 2 && n_v > across)
        product_by<4, 2>(across, left, left_u, left_s, right, right_v, right_s, n_u, n_v, n_s, out, out_u, out_v, bias,
                         kept, is_relu);
    else
        product_by<2, 1>(across, left, left_u, left_s, right, right_v, right_s, n_u, n_v, n_s, out, out_u, out_v, bias,
                         kept, is_relu);
}

/* The rows of the batch. `found`: set where x is not finite. */
__device__ inline void gather_batch(const i64 *net, float *f, const i64 *order, double *weights, int *found)
{
    const u64 *sources = (const u64 *)net[NET_SOURCES];
    const int m = (int)net[NET_ROWS], n = (int)net[NET_IN], n_targets = (int)net[NET_TARGETS];
    float *x = f + net[AT_X], *y = f + net[AT_TARGETS];
    int *labels = (int *)(f + net[AT_LABELS]);
    for (int i = threadIdx.x; i < m * n; i += THREADS) {
        const int r = i / n, j = i % n;
        const i64 at = order[r] * n + j;
        float v;
        if (net[NET_BYTES])
            v = (float)((const u8 *)sources[SRC_X])[at];
        else {
            v = ((const float *)sources[SRC_X])[at];
            if (!is_finite(v))
                *found = 1; /* all that write, write the same */
        }
        x[r * apart(n) + j] = v;
    }
    for (int i = threadIdx.x; i < m * n_targets; i += THREADS) {
        const int r = i / n_targets, j = i % n_targets;
        y[r * apart(n_targets) + j] = ((const float *)sources[SRC_Y])[order[r] * n_targets + j];
    }
    const double *given = (const double *)sources[SRC_WEIGHT];
    double sum = 0;
    for (int i = threadIdx.x; i < m; i += THREADS) {
        const double w = given ? given[order[i]] : 1.0;
        weights[i] = w;
        sum += w;
        if (!n_targets)
            labels[i] = (int)((const i64 *)sources[SRC_Y])[order[i]];
    }
    sum = given ? block_sum(sum) : (double)m; /* the same: sums of ones are exact */
    if (threadIdx.x == 0)
        weights[m] = sum;
}

__device__ inline void drop(const i64 *op, const i64 *net, const float *x, float *out, i64 step)
{
    const int m = (int)net[NET_ROWS], n = (int)op[OP_OUT], blocks = (n + 3) / 4;
    for (int i = threadIdx.x; i < m * blocks; i += THREADS) {
        const int r = i / blocks;
        drop_four(x + r * apart(n), out + r * apart(n), r, i % blocks * 4, n, (u64)net[NET_SEED], (u64)step,
                  (u32)op[OP_LAYER], (u32)op[OP_THRESHOLD], float_of(op[OP_NUMBER]));
    }
}

__device__ inline void forward(const i64 *net, const i64 *ops, float *f, i64 step)
{
    const int m = (int)net[NET_ROWS], warp = threadIdx.x / WARP;
    const float *w = f + net[AT_W], *x = f + net[AT_X];
#pragma unroll 1
    for (const i64 *op = ops; op < ops + net[NET_OPS] * OP_COLUMNS; op += OP_COLUMNS) {
        const int n = (int)op[OP_OUT], k = (int)op[OP_IN], ld = apart(n), by_row = (int)op[OP_BY_ROW];
        const int act = by_row ? (int)ACT_identity : (int)op[OP_ACTIVATION];
        float *out = f + op[OP_AT], *kept = op[OP_KEPT] >= 0 ? f + op[OP_KEPT] : 0;
        int bends = 0; /* whether f is still to come */
        if (op[OP_KIND] == KIND_DENSE) {
            product(x, apart(k), 1, w + op[OP_WEIGHT], 1, n, m, n, k, out, ld, 1,
                    op[OP_BIAS] >= 0 ? w + op[OP_BIAS] : 0, kept, act == ACT_relu);
            bends = act != ACT_identity && act != ACT_relu;
            x = out;
        } else if (op[OP_KIND] == KIND_DROPOUT)
            drop(op, net, x, out, step);
        else if (op[OP_KIND] == KIND_SCALE) {
            const float *factors = (const float *)op[OP_NUMBERS], *shifts = (const float *)op[OP_SHIFTS];
            for (int i = threadIdx.x; i < m * n; i += THREADS) {
                const int j = i % n, at = i / n * ld + j;
                out[at] = scaled(x[at], factors ? factors[j] : float_of(op[OP_NUMBER]),
                                 shifts ? shifts[j] : float_of(op[OP_SHIFT]));
            }
        } else
            bends = !by_row;
        if (bends) {
            if (op[OP_KIND] == KIND_DENSE)
                __syncthreads();
            for (int i = threadIdx.x; i < m * n; i += THREADS) {
                const int at = i / n * ld + i % n;
                const float z = x[at];
                if (kept)
                    kept[at] = z;
                out[at] = activate(act, z);
            }
        }
        if (by_row) {
            __syncthreads();
            for (int r = warp; r < m; r += THREADS / WARP)
                softmax_of(x + r * ld, out + r * ld, n, by_row == BY_ROW_LOGARITHM);
        }
        __syncthreads();
        x = out;
    }
}

/* The gradient at the last output and the loss of each row. `broken`: set where one is not finite. */
__device__ inline void losses_of_rows(const i64 *net, const i64 *last, float *f, const double *weights, double *losses,
                                      int *broken)
{
    const int m = (int)net[NET_ROWS], n = (int)net[NET_OUT], n_targets = (int)net[NET_TARGETS];
    const int *labels = (const int *)(f + net[AT_LABELS]);
    const float number = float_of(net[NET_LOSS_NUMBER]);
    for (int r = threadIdx.x / WARP; r < m; r += THREADS / WARP) {
        const float *z = f + last[OP_AT] + r * apart(n), share = share_of(weights[r], weights[m]);
        float *dz = f + net[AT_GRADIENTS] + r * apart(n);
        double loss = 0;
        if (n_targets)
            loss_of_row((int)net[NET_LOSS], number, z, f + net[AT_TARGETS] + r * apart(n), share, n, 1.0, -LARGEST,
                        LARGEST, LARGEST, dz, &loss);
        else
            cross_entropy_of(z, labels[r], share, n, number, 1.0, -LARGEST, LARGEST, LARGEST, dz, &loss);
        if (threadIdx.x % WARP == 0) {
            losses[r] = loss;
            if (loss - loss != 0)
                *broken = 1;
        }
    }
}

/* Fills g with the gradient of the parameters. */
__device__ inline void backward(const i64 *net, const i64 *ops, float *f, float *g, i64 step)
{
    const int m = (int)net[NET_ROWS], first = (int)net[NET_FIRST], warp = threadIdx.x / WARP;
    const float *w = f + net[AT_W];
    float *da = f + net[AT_GRADIENTS], *next = f + net[AT_GRADIENTS_TOO];
#pragma unroll 1
    for (int i = (int)net[NET_OPS] - 1; i >= first; i--) {
        const i64 *op = ops + i * OP_COLUMNS;
        const int n = (int)op[OP_OUT], k = (int)op[OP_IN], ld = apart(n), by_row = (int)op[OP_BY_ROW];
        const int act = (int)op[OP_ACTIVATION], bends = !by_row && act != ACT_identity;
        const float *a = f + op[OP_AT];
        if (by_row) {
            for (int r = warp; r < m; r += THREADS / WARP)
                softmax_slope_of(a + r * ld, da + r * ld, n, by_row == BY_ROW_LOGARITHM);
            __syncthreads();
        }
        if (op[OP_KIND] == KIND_DROPOUT) {
            drop(op, net, da, da, step);
            __syncthreads();
        } else if (op[OP_KIND] == KIND_SCALE) {
            const float *factors = (const float *)op[OP_NUMBERS];
            for (int e = threadIdx.x; e < m * n; e += THREADS) {
                const int j = e % n, at = e / n * ld + j;
                da[at] = scaled(da[at], factors ? factors[j] : float_of(op[OP_NUMBER]), 0.0f);
            }
            __syncthreads();
        } else if (bends || op[OP_BIAS] >= 0) {
            const float *kept = bends ? op[OP_KEPT] >= 0 ? f + op[OP_KEPT] : a : 0;
            for (int j = 0; j < n; j += WARP) {
                slope_and_sums(da, kept, ld, act, m, n, op[OP_BIAS] >= 0 ? g + op[OP_BIAS] : 0, j);
                __syncthreads();
            }
        }
        if (op[OP_KIND] != KIND_DENSE)
            continue;
        const float *x = i ? f + (op - OP_COLUMNS)[OP_AT] : f + net[AT_X];
        product(x, 1, apart(k), da, 1, ld, k, n, m, g + op[OP_WEIGHT], n, 1);
        if (i > first) {
            /* Neighbouring threads have neighbouring rows: of these, not of w's, the columns have no conflicts. */
            product(w + op[OP_WEIGHT], n, 1, da, ld, 1, k, m, n, next, 1, apart(k));
            float *const was = da;
            da = next;
            next = was;
        }
        __syncthreads();
    }
}

__device__ inline void apply(const i64 *net, const i64 *rules, float *w, float *g, float *state, const float *constants,
                             int t, i64 step)
{
    const int size = (int)net[NET_PARAMETERS], tid = threadIdx.x;
    const float clip = float_of(net[NET_CLIP_VALUE]);
    const double most = double_of(net[NET_CLIP_NORM]);
    float factor = 1;
    int n_rows = 0; /* of the table of constants for a step: rules that are not frozen */
    for (int q = 0; q < net[NET_RULES]; q++) n_rows += !rules[q * RULE_COLUMNS + RULE_FROZEN];
    if (most >= 0) {
        for (int q = 0; q < net[NET_RULES]; q++) {
            const i64 *rule = rules + q * RULE_COLUMNS;
            for (int i = tid; rule[RULE_FROZEN] && i < rule[RULE_LENGTH]; i += THREADS) g[rule[RULE_OFFSET] + i] = 0;
        }
        __syncthreads();
        double total = 0;
        const int n_blocks = (int)net[NET_NORM_BLOCKS]; /* as many as the captured step has: the order of the sum */
        for (int b = 0; b < n_blocks; b++) {
            double sum = 0;
            for (int i = b * THREADS + tid; i < size; i += n_blocks * THREADS) {
                float v = g[i];
                if (clip > 0)
                    g[i] = v = clipped(v, clip);
                sum += (double)v * v;
            }
            total += block_sum(sum);
        }
        factor = factor_of_norm(total, most);
    }
#pragma unroll 1
    for (int q = 0; q < net[NET_RULES]; q++) {
        const i64 *rule = rules + q * RULE_COLUMNS, offset = rule[RULE_OFFSET];
        if (rule[RULE_FROZEN])
            continue;
        const float *k = constants + ((i64)t * n_rows + rule[RULE_ROW]) * K_COLUMNS;
#pragma unroll 1
        for (int i = tid; i < rule[RULE_LENGTH]; i += THREADS)
            update_of((int)net[NET_OPTIMIZER], (int)net[NET_FLAGS], w + offset, g + offset, state + offset, size, i, k,
                      float_of(rule[RULE_DECAY]), float_of(rule[RULE_L1]), clip, most >= 0 ? &factor : 0);
    }
    if (net[NET_AVERAGE]) {
        __syncthreads();
        float *mean = state + (net[NET_STATES] - 1) * size;
        for (int i = tid; i < size; i += THREADS) mean[i] = averaged(mean[i], w[i], step, float_of(net[NET_TOWARD]));
    }
}

/* The first step of the network whose output is not finite, or -1. */
__device__ inline int first_broken(const i64 *net, const i64 *ops, const float *f, int *mark)
{
    for (int i = 0; i < net[NET_OPS]; i++) {
        const i64 *op = ops + i * OP_COLUMNS;
        const int n = (int)op[OP_OUT];
        __syncthreads();
        if (threadIdx.x == 0)
            *mark = 0;
        __syncthreads();
        for (int e = threadIdx.x; e < (int)net[NET_ROWS] * n; e += THREADS)
            if (!is_finite(f[op[OP_AT] + e / n * apart(n) + e % n]))
                *mark = 1;
        __syncthreads();
        if (*mark)
            return i;
    }
    return -1;
}

__device__ inline void copy(float *to, const float *from, i64 size)
{
    for (i64 i = threadIdx.x; i < size; i += THREADS) to[i] = from[i];
}

/* Block b trains the net of the table at tasks[2 b] for tasks[2 b + 1] steps, or until one is not finite; then
 * progress[3] is the step of the network that was broken first. */
PERSISTENT __launch_bounds__(THREADS, 1) train_nets(const u64 *tasks)
{
    SHARED_BLOCK;
    __shared__ int bad_input, bad_loss;
    const i64 *there = (const i64 *)tasks[2 * blockIdx.x];
    const int n_steps = (int)tasks[2 * blockIdx.x + 1], tid = threadIdx.x;
    for (int i = tid; i < there[NET_SIZE]; i += THREADS) shared[i] = there[i];
    __syncthreads();
    const i64 *net = shared, *ops = net + NET_COLUMNS, *rules = ops + net[NET_OPS] * OP_COLUMNS;
    float *f = (float *)shared, *w = f + net[AT_W];
    i64 *progress = (i64 *)net[NET_PROGRESS];
    double *sums = (double *)net[NET_SUMS], *weights = (double *)(f + net[AT_WEIGHTS]),
           *losses = (double *)(f + net[AT_LOSSES]);
    const u64 *sources = (const u64 *)net[NET_SOURCES];
    const int m = (int)net[NET_ROWS];
    const i64 size = net[NET_PARAMETERS];
    float *g = net[AT_G] >= 0 ? f + net[AT_G] : (float *)net[NET_G];
    float *state = net[AT_STATE] >= 0 ? f + net[AT_STATE] : (float *)net[NET_STATE];
    copy(w, (const float *)net[NET_W], size);
    if (net[AT_STATE] >= 0)
        copy(state, (const float *)net[NET_STATE], net[NET_STATES] * size);
    const i64 step = progress[1];
    double loss_sum = sums[0], weight_sum = sums[1];
    int why = STOP_NONE, t = 0, broken = -1;
#pragma unroll 1
    for (; t < n_steps; t++) {
        if (tid == 0)
            bad_input = bad_loss = 0;
        __syncthreads();
        gather_batch(net, f, (const i64 *)sources[SRC_ORDER] + (i64)t * m, weights, &bad_input);
        __syncthreads();
        forward(net, ops, f, step + t);
        losses_of_rows(net, rules - OP_COLUMNS, f, weights, losses, &bad_loss);
        __syncthreads();
        why = bad_input ? STOP_INPUT : bad_loss ? STOP_LOSS : STOP_NONE;
        if (why)
            break;
        double sum = 0;
        for (int i = tid; i < m; i += THREADS) sum += weights[i] * losses[i];
        sum = block_sum(sum);
        if (!(weights[m] > 0))
            sum = 0;
        loss_sum += sum;
        weight_sum += weights[m];
        if (tid == 0 && sources[SRC_LOSSES])
            ((double *)sources[SRC_LOSSES])[t] = sum;
        backward(net, ops, f, g, step + t);
        apply(net, rules, w, g, state, (const float *)sources[SRC_CONSTANTS], t, step + t);
        __syncthreads();
    }
    if (why == STOP_LOSS)
        broken = first_broken(net, ops, f, &bad_loss);
    copy((float *)net[NET_W], w, size);
    if (net[AT_STATE] >= 0)
        copy((float *)net[NET_STATE], state, net[NET_STATES] * size);
    if (tid == 0) {
        progress[0] += t;
        progress[1] += t;
        progress[2] = why;
        progress[3] = broken;
        sums[0] = loss_sum;
        sums[1] = weight_sum;
    }
}
