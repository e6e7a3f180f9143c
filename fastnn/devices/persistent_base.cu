/* Small nets, each trained by one block, or by a cluster of blocks, that keeps its parameters in shared memory from step
 * to step.
 *
 * Compiled behind kernels_*.cu, whose functions it calls (there FASTNN_PARTS), so that each number is made by the same
 * lines and each sum has the same order as in the captured step. What a block does is written in a table of 64-bit
 * numbers (cuda_persistent.py): the columns NET_*, then a row OP_* for each step of the network, then a row RULE_* for
 * each rule of the optimizer. Addresses of what changes from call to call are behind SRC_*, as for all kernels.
 *
 * Places in shared memory are counted in floats. Rows of a matrix there lie an odd number of floats apart, so that a
 * warp reads a column without conflicts. */

#ifndef CLUSTERED /* else the host has said 1, and how many blocks: CLUSTER */
#define CLUSTERED 0
#define CLUSTER 1
#define CLUSTER_SIZE
#elif defined FASTNN_SHIM
#define CLUSTER_SIZE
#else
#define CLUSTER_SIZE __cluster_dims__(CLUSTER, 1, 1)
#endif

#ifdef FASTNN_SHIM
#define PERSISTENT extern "C" void
#define SHARED_BLOCK i64 *const shared = shim_shared
#else
#define PERSISTENT extern "C" __global__ void CLUSTER_SIZE
#define SHARED_BLOCK extern __shared__ i64 shared[]
#endif

enum {
    NET_SIZE, NET_OPS, NET_FIRST, NET_RULES, NET_ROWS, NET_TARGETS, NET_BYTES, NET_IN, NET_OUT, /* sizes */
    NET_W, NET_G, NET_STATE, NET_ROOM, NET_SOURCES, NET_PROGRESS, NET_SUMS,                     /* addresses */
    NET_PARAMETERS, NET_ALL_PARAMETERS, NET_STATES, NET_AVERAGE, NET_TOWARD, NET_SEED,
    NET_LOSS, NET_LOSS_NUMBER, NET_OPTIMIZER, NET_FLAGS, NET_CLIP_VALUE, NET_CLIP_NORM, NET_NORM_BLOCKS,
    AT_W, AT_G, AT_STATE, AT_X, AT_TARGETS, AT_LABELS, AT_WEIGHTS, AT_LOSSES, AT_GRADIENTS, AT_GRADIENTS_TOO,
    AT_STAGE,
    NET_COLUMNS
};
enum {
    OP_KIND, OP_IN, OP_OUT, OP_ACTIVATION, OP_BY_ROW, OP_WEIGHT, OP_BIAS, OP_KEPT, OP_AT, OP_THRESHOLD, OP_LAYER,
    OP_NUMBER, OP_SHIFT, OP_NUMBERS, OP_SHIFTS, OP_WEIGHT_THERE, OP_BIAS_THERE, OP_COLUMNS
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

/* Columns that a block of a cluster has of a matrix of n: so many as `n` says from `first` on, in memory for `width`.
 * Widths are multiples of `unit`. One block has all. */
struct Part {
    int width, first, n;
};

__device__ inline Part part_of(int n, int rank, int unit)
{
#if CLUSTERED
    const int width = (n + unit * CLUSTER - 1) / (unit * CLUSTER) * unit, before = rank * width;
    const int first = before < n ? before : n, rest = n - first;
    return {width, first, rest < width ? rest : width};
#else
    return {n, 0, n};
#endif
}

/* Which block of its cluster this one is. */
__device__ inline int own_rank() { return CLUSTERED ? (int)(blockIdx.x % CLUSTER) : 0; }

/* x, and what steps before the first matrix make of it, lie in parts; dropout draws for four columns at a time. */
#define SPLIT_UNIT 4

/* The columns of a step's output that this block has: of those before the first matrix its part, else all. */
__device__ inline Part columns_of(const i64 *net, int step, int n)
{
    return CLUSTERED && step < (int)net[NET_FIRST] ? part_of(n, own_rank(), SPLIT_UNIT) : Part{n, 0, n};
}

#if !CLUSTERED
/* Wait for all threads that train the net. */
__device__ inline void meet() { __syncthreads(); }

/* Whether a block of the net has set its flag. */
__device__ inline int any_of(const int *flag) { return *flag; }
#endif
