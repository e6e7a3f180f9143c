/* The kernel for small nets: see persistent_base.cu. */

/* The rows of the batch; of x the columns of this block. `found`: set where x is not finite. */
__device__ inline void gather_batch(const i64 *net, float *f, const i64 *order, double *weights, int *found)
{
    const u64 *sources = (const u64 *)net[NET_SOURCES];
    const int m = (int)net[NET_ROWS], n = (int)net[NET_IN], n_targets = (int)net[NET_TARGETS];
    float *x = f + net[AT_X], *y = f + net[AT_TARGETS];
    int *labels = (int *)(f + net[AT_LABELS]);
    const Part part = part_of(n, own_rank(), SPLIT_UNIT);
    for (int i = threadIdx.x; i < m * part.n; i += THREADS) {
        const int r = i / part.n, j = i % part.n;
        const i64 at = order[r] * n + part.first + j;
        float v;
        if (net[NET_BYTES])
            v = (float)((const u8 *)sources[SRC_X])[at];
        else {
            v = ((const float *)sources[SRC_X])[at];
            if (!is_finite(v))
                *found = 1; /* all that write, write the same */
        }
        x[r * apart(part.width) + j] = v;
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

__device__ inline void drop(const i64 *op, const i64 *net, Part part, const float *x, float *out, i64 step)
{
    const int m = (int)net[NET_ROWS], blocks = (part.n + 3) / 4;
    for (int i = threadIdx.x; i < m * blocks; i += THREADS) {
        const int r = i / blocks, row = r * apart(part.width) - part.first;
        drop_four(x + row, out + row, r, part.first + i % blocks * 4, part.first + part.n, (u64)net[NET_SEED],
                  (u64)step, (u32)op[OP_LAYER], (u32)op[OP_THRESHOLD], float_of(op[OP_NUMBER]));
    }
}

__device__ inline void forward(const i64 *net, const i64 *ops, float *f, i64 step)
{
    const int m = (int)net[NET_ROWS], warp = threadIdx.x / WARP;
    const float *x = f + net[AT_X];
#pragma unroll 1
    for (int q = 0; q < (int)net[NET_OPS]; q++) {
        const i64 *op = ops + q * OP_COLUMNS;
        const Part part = columns_of(net, q, (int)op[OP_OUT]);
        const int n = part.n, ld = apart(part.width), by_row = (int)op[OP_BY_ROW];
        const int act = by_row ? (int)ACT_identity : (int)op[OP_ACTIVATION];
        float *out = f + op[OP_AT], *kept = op[OP_KEPT] >= 0 ? f + op[OP_KEPT] : 0;
        int bends = 0; /* whether f is still to come */
        if (op[OP_KIND] == KIND_DENSE) {
            product_out(net, op, f, x, out, kept, act == ACT_relu, q == (int)net[NET_FIRST]);
            bends = act != ACT_identity && act != ACT_relu;
            x = out;
        } else if (op[OP_KIND] == KIND_DROPOUT)
            drop(op, net, part, x, out, step);
        else if (op[OP_KIND] == KIND_SCALE) {
            const float *factors = (const float *)op[OP_NUMBERS], *shifts = (const float *)op[OP_SHIFTS];
            for (int i = threadIdx.x; i < m * n; i += THREADS) {
                const int j = i % n, at = i / n * ld + j;
                out[at] = scaled(x[at], factors ? factors[part.first + j] : float_of(op[OP_NUMBER]),
                                 shifts ? shifts[part.first + j] : float_of(op[OP_SHIFT]));
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
    float *da = f + net[AT_GRADIENTS], *next = f + net[AT_GRADIENTS_TOO];
#pragma unroll 1
    for (int i = (int)net[NET_OPS] - 1; i >= first; i--) {
        const i64 *op = ops + i * OP_COLUMNS;
        const int n = (int)op[OP_OUT], ld = apart(n), by_row = (int)op[OP_BY_ROW];
        const int act = (int)op[OP_ACTIVATION], bends = !by_row && act != ACT_identity;
        const float *a = f + op[OP_AT];
        if (by_row) {
            for (int r = warp; r < m; r += THREADS / WARP)
                softmax_slope_of(a + r * ld, da + r * ld, n, by_row == BY_ROW_LOGARITHM);
            __syncthreads();
        }
        if (op[OP_KIND] == KIND_DROPOUT) {
            drop(op, net, Part{n, 0, n}, da, da, step);
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
            float *db = op[OP_BIAS] >= 0 ? g + op[OP_BIAS] : 0;
#if CLUSTERED /* slopes of all columns, sums of its own */
            slopes_and_own_sums(da, kept, ld, act, m, n, db);
#else
            for (int j = 0; j < n; j += WARP) {
                slope_and_sums(da, kept, ld, act, m, n, db, j);
                __syncthreads();
            }
#endif
        }
        if (op[OP_KIND] != KIND_DENSE)
            continue;
        const float *x = i ? f + (op - OP_COLUMNS)[OP_AT] : f + net[AT_X];
        product_weights(net, op, f, x, da, g, i == first);
        if (i > first) {
            product_down(net, op, f, da, next);
            float *const was = da;
            da = next;
            next = was;
        }
        __syncthreads();
    }
}

__device__ inline void apply(const i64 *net, const i64 *ops, const i64 *rules, float *w, float *g, float *state, const float *constants,
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
#if CLUSTERED
        const double total = squares_of_cluster(net, ops, g, clip);
#else
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
#endif
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
        const Part part = columns_of(net, i, (int)op[OP_OUT]);
        __syncthreads();
        if (threadIdx.x == 0)
            *mark = 0;
        __syncthreads();
        for (int e = threadIdx.x; e < (int)net[NET_ROWS] * part.n; e += THREADS)
            if (!is_finite(f[op[OP_AT] + e / part.n * apart(part.width) + e % part.n]))
                *mark = 1;
        meet();
        if (any_of(mark))
            return i;
        meet(); /* before it is taken back */
    }
    return -1;
}

__device__ inline void copy(float *to, const float *from, i64 size)
{
    for (i64 i = threadIdx.x; i < size; i += THREADS) to[i] = from[i];
}

/* Block or cluster b trains the net of the table at tasks[2 b] for tasks[2 b + 1] steps, or until one is not finite; then
 * progress[3] is the step of the network that was broken first. A launch of no steps does nothing. */
PERSISTENT __launch_bounds__(THREADS, 1) train_nets(const u64 *tasks)
{
    SHARED_BLOCK;
    __shared__ int bad_input, bad_loss;
    const int task = 2 * (blockIdx.x / CLUSTER), n_steps = (int)tasks[task + 1], tid = threadIdx.x;
    if (!n_steps)
        return;
    const i64 *there = (const i64 *)tasks[task];
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
    float *g = net[AT_G] >= 0 ? f + net[AT_G] : (float *)net[NET_G] + own_rank() * size;
#if CLUSTERED
    float *state = net[AT_STATE] >= 0 ? f + net[AT_STATE] : (float *)net[NET_ROOM] + own_rank() * net[NET_STATES] * size;
    copy_parts(net, ops, w, state, 0);
#else
    float *state = net[AT_STATE] >= 0 ? f + net[AT_STATE] : (float *)net[NET_STATE];
    copy(w, (const float *)net[NET_W], size);
    if (net[AT_STATE] >= 0)
        copy(state, (const float *)net[NET_STATE], net[NET_STATES] * size);
#endif
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
        why = any_of(&bad_input) ? STOP_INPUT : bad_loss ? STOP_LOSS : STOP_NONE;
        if (why)
            break;
        double sum = 0;
        for (int i = tid; i < m; i += THREADS) sum += weights[i] * losses[i];
        sum = block_sum(sum);
        if (!(weights[m] > 0))
            sum = 0;
        loss_sum += sum;
        weight_sum += weights[m];
        if (tid == 0 && own_rank() == 0 && sources[SRC_LOSSES])
            ((double *)sources[SRC_LOSSES])[t] = sum;
        backward(net, ops, f, g, step + t);
        apply(net, ops, rules, w, g, state, (const float *)sources[SRC_CONSTANTS], t, step + t);
        meet();
    }
    if (why == STOP_LOSS)
        broken = first_broken(net, ops, f, &bad_loss);
#if CLUSTERED
    copy_parts(net, ops, w, state, 1);
    meet(); /* nobody leaves while others may look into its memory */
#else
    copy((float *)net[NET_W], w, size);
    if (net[AT_STATE] >= 0)
        copy((float *)net[NET_STATE], state, net[NET_STATES] * size);
#endif
    if (tid == 0 && own_rank() == 0) {
        progress[0] += t;
        progress[1] += t;
        progress[2] = why;
        progress[3] = broken;
        sums[0] = loss_sum;
        sums[1] = weight_sum;
    }
}
