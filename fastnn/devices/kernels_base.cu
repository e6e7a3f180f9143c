/* The kernels of the device "cuda", and what all of them use. NVRTC compiles kernels_*.cu as one text when a program is
 * first made, this file first, after lines `#define ACT_relu 1`, `#define OPT_adam 4`, ... that cuda_kernels.py writes
 * from the lists of csrc/fastnn.h. tests/cuda_shim.h lets g++ compile the same text, so that every kernel is tested
 * without a card.
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

#ifdef FASTNN_PARTS /* of persistent.cu, which follows: it calls the functions of these texts and has none of their kernels */
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

/* The row of this warp. */
__device__ inline int row_number() { return blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP; }

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
