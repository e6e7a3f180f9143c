/* A net that is trained by a cluster of blocks (compute capability 9.0), each with its columns of the weights, their
 * gradient and the states of the optimizer.
 *
 * A block has all rows of a batch. It computes its columns of a product, each sum from the first term to the last as one
 * block would, and writes them to the others: outputs and gradients of all columns are in each block, and what is no
 * product, each does alone. In parts too are x and what comes before the first matrix; who needs the columns of others
 * fetches them, one part at a time, and goes on with its sums. So it does with the weights of others on the way back.
 *
 * No block looks into another one's memory but between two `meet` of which the first is after it was written and the
 * second before it is written anew, and none leaves before the last `meet`. */

#ifdef FASTNN_SHIM
__device__ inline void meet() { shim_meet(); }
template <typename T> __device__ inline T *of_block(T *here, int rank) { return (T *)shim_of_block((const void *)here, rank); }
#else
/* Wait for all threads of the cluster. */
__device__ inline void meet()
{
    asm volatile("barrier.cluster.arrive.release;\n\tbarrier.cluster.wait.acquire;" : : : "memory");
}

/* Where another block of the cluster has what this one has `here`, in shared memory. */
template <typename T> __device__ inline T *of_block(T *here, int rank)
{
    u64 there;
    asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"((u64)here), "r"(rank));
    return (T *)there;
}
#endif

/* Whether a block of the net has set its flag. */
__device__ inline int any_of(const int *flag)
{
    int found = 0;
    for (int r = 0; r < CLUSTER; r++) found |= *of_block(flag, r);
    return found;
}

/* What block `rank` has at `from`, so many floats: in place where it is this one, else fetched to `stage`. */
__device__ inline const float *fetched(float *__restrict__ stage, const float *from, int rank, int size)
{
    if (rank == own_rank())
        return from;
    const float *__restrict__ there = of_block(from, rank);
#pragma unroll 8
    for (int i = threadIdx.x; i < size; i += THREADS) stage[i] = there[i];
    __syncthreads();
    return stage;
}

/* Give the others this block's columns of a matrix of m rows; all its threads have met since these were written. */
__device__ inline void give(float *matrix, Part own, int m, int ld)
{
    for (int next = 1; next < CLUSTER; next++) { /* each begins with another one */
        float *there = of_block(matrix, (own_rank() + next) % CLUSTER) + own.first;
        for (int i = threadIdx.x; i < m * own.n; i += THREADS) {
            const int at = i / own.n * ld + i % own.n;
            there[at] = matrix[own.first + at];
        }
    }
    meet();
}

/* As of one block (persistent_products.cu), but that what is kept is left to who bends it. */
__device__ inline void product_out(const i64 *net, const i64 *op, float *f, const float *x, float *out, float *kept,
                                   int is_relu, int is_first)
{
    const int m = (int)net[NET_ROWS], n = (int)op[OP_OUT], k = (int)op[OP_IN], ld = apart(n);
    const Part own = part_of(n, own_rank(), 1);
    const float *w = f + net[AT_W] + op[OP_WEIGHT], *bias = op[OP_BIAS] >= 0 ? f + net[AT_W] + op[OP_BIAS] : 0;
    const int width = is_first ? part_of(k, 0, SPLIT_UNIT).width : k, x_ld = apart(width);
    if (is_first)
        meet(); /* what it fetches is there */
    for (int at = 0; at < k; at += width) {
        const int is_last = at + width >= k;
        const float *left = is_first ? fetched(f + net[AT_STAGE], x, at / width, m * x_ld) : x;
        product(left, x_ld, 1, w + at * own.width, 1, own.width, m, own.n, is_last ? k - at : width, out + own.first,
                ld, 1, is_last ? bias : 0, 0, is_last && is_relu, at > 0);
        __syncthreads(); /* before the stage is filled anew */
    }
    give(out, own, m, ld);
}

__device__ inline void product_weights(const i64 *net, const i64 *op, float *f, const float *x, const float *da,
                                       float *g, int is_first)
{
    const int m = (int)net[NET_ROWS], n = (int)op[OP_OUT], k = (int)op[OP_IN], n_parts = is_first ? CLUSTER : 1;
    const Part own = part_of(n, own_rank(), 1);
    for (int i = 0; i < n_parts; i++) { /* each begins with its own part of x, and none needs that of all at once */
        const int rank = (own_rank() + i) % CLUSTER;
        const Part part = is_first ? part_of(k, rank, SPLIT_UNIT) : Part{k, 0, k};
        const int x_ld = apart(part.width);
        if (!part.n)
            continue;
        const float *left = is_first ? fetched(f + net[AT_STAGE], x, rank, m * x_ld) : x;
        product(left, 1, x_ld, da + own.first, 1, apart(n), part.n, own.n, m, g + op[OP_WEIGHT] + part.first * own.width,
                own.width, 1);
        __syncthreads();
    }
}

__device__ inline void product_down(const i64 *net, const i64 *op, float *f, const float *da, float *below)
{
    const int m = (int)net[NET_ROWS], n = (int)op[OP_OUT], k = (int)op[OP_IN], width = part_of(n, 0, 1).width;
    const Part own = part_of(k, own_rank(), 1);
    const float *w = f + net[AT_W] + op[OP_WEIGHT] + own.first * width;
    for (int at = 0; at < n; at += width) {
        const float *left = fetched(f + net[AT_STAGE], w, at / width, own.n * width);
        product(left, width, 1, da + at, apart(n), 1, own.n, m, n - at < width ? n - at : width, below + own.first, 1,
                apart(k), 0, 0, 0, at > 0);
        __syncthreads();
    }
    give(below, own, m, apart(k));
}

/* slope_and_sums: slopes of all columns, where there are any to come, and sums of this block's. */
__device__ inline void slopes_and_own_sums(float *da, const float *kept, int ld, int act, int m, int n, float *db)
{
    const Part own = part_of(n, own_rank(), 1);
    for (int j = 0; kept && j < n; j += WARP) slope_and_sums(da, kept, ld, act, m, n, 0, j); /* its threads meet in it */
    for (int j = 0; db && j < own.n; j += WARP) {
        slope_and_sums(da + own.first, 0, ld, act, m, own.n, db, j);
        __syncthreads();
    }
}

/* Parameters and states of this block from the flat blocks of the card, or back to them. Those of columns that are its
 * own alone: what else there is room for is never looked at. */
__device__ inline void copy_parts(const i64 *net, const i64 *ops, float *w, float *state, int is_back)
{
    const i64 size = net[NET_PARAMETERS], size_there = net[NET_ALL_PARAMETERS];
#pragma unroll 1
    for (int s = -1; s < (int)net[NET_STATES]; s++) {
        float *here = s < 0 ? w : state + s * size;
        float *there = s < 0 ? (float *)net[NET_W] : (float *)net[NET_STATE] + s * size_there;
#pragma unroll 1
        for (const i64 *op = ops; op < ops + net[NET_OPS] * OP_COLUMNS; op += OP_COLUMNS) {
            if (op[OP_KIND] != KIND_DENSE)
                continue;
            const int n = (int)op[OP_OUT];
            const Part own = part_of(n, own_rank(), 1);
#pragma unroll 1
            for (int is_bias = 0; is_bias <= (op[OP_BIAS] >= 0); is_bias++) {
                float *a = here + (is_bias ? op[OP_BIAS] : op[OP_WEIGHT]);
                float *b = there + (is_bias ? op[OP_BIAS_THERE] : op[OP_WEIGHT_THERE]) + own.first;
                const int rows = is_bias ? 1 : (int)op[OP_IN];
                for (int i = threadIdx.x; i < rows * own.n; i += THREADS) {
                    const int row = i / own.n, j = i % own.n;
                    if (is_back)
                        b[(i64)row * n + j] = a[row * own.width + j];
                    else
                        a[row * own.width + j] = b[(i64)row * n + j];
                }
            }
        }
    }
}

#define MOST_NORM_BLOCKS 64 /* NORM_BLOCKS of cuda_kernels.py */

/* The sum of squares of the gradient, whose elements are clipped first where clip is above 0; in the order that the
 * captured step has: elements as they lie in the flat block, thread after thread, its blocks one after the other. */
__device__ inline double squares_of_cluster(const i64 *net, const i64 *ops, float *g, float clip)
{
    __shared__ double partial[MOST_NORM_BLOCKS];
    const int n_blocks = (int)net[NET_NORM_BLOCKS], rank = own_rank();
    const i64 size = net[NET_PARAMETERS];
    for (i64 i = threadIdx.x; clip > 0 && i < size; i += THREADS) g[i] = clipped(g[i], clip);
    meet();
#pragma unroll 1
    for (int b = rank; b < n_blocks; b += CLUSTER) {
        double sum = 0;
        const i64 *op = ops;
#pragma unroll 1
        for (i64 i = (i64)b * THREADS + threadIdx.x; i < net[NET_ALL_PARAMETERS]; i += n_blocks * THREADS) {
            i64 at;
            for (;; op += OP_COLUMNS) { /* i grows: none of those that were passed has it */
                if (op[OP_KIND] != KIND_DENSE)
                    continue;
                at = i - op[OP_WEIGHT_THERE];
                if (at >= 0 && at < op[OP_IN] * op[OP_OUT])
                    break;
                at = i - op[OP_BIAS_THERE];
                if (op[OP_BIAS] >= 0 && at >= 0 && at < op[OP_OUT])
                    break;
            }
            const int n = (int)op[OP_OUT], is_bias = i != op[OP_WEIGHT_THERE] + at, width = part_of(n, 0, 1).width;
            const int row = (int)at / n, j = (int)at % n, r = j / width;
            const i64 place = (is_bias ? op[OP_BIAS] : op[OP_WEIGHT]) + row * width + j % width;
            const float v = net[AT_G] >= 0 ? of_block(g, r)[place] : g[(r - rank) * size + place];
            sum += (double)v * v;
        }
        sum = block_sum(sum);
        if (threadIdx.x == 0)
            partial[b] = sum;
    }
    meet();
    double total = 0;
    for (int b = 0; b < n_blocks; b++) total += of_block(partial, b % CLUSTER)[b];
    return total;
}
