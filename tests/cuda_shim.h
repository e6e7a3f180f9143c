/* Enough of CUDA for g++ to compile fastnn/devices/kernels_*.cu and run it on the CPU, block after block.
 *
 * Threads of SEPARATE kernels are a loop. Those of TOGETHER kernels are fibers: one that comes to a barrier, or gives
 * a register to its warp, lets the others run until all of them are there. Threads that wait for others that never
 * come end the process with a message, where a card would hang. Where two threads meet without a barrier between them,
 * the result changes with who comes first: tests let the last one begin (shim_turn).
 *
 * With SHIM_CLUSTERED a launch is of clusters. Each of its blocks has a thread of the system, and so shared memory of its
 * own, which is thread-local; one of them runs at a time, until all its threads wait for the cluster. A block that looks
 * into another one's memory before that has begun, or after it has ended, ends the process with a message. */
#ifndef CUDA_SHIM_H
#define CUDA_SHIM_H

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <mutex>
#include <thread>
#include <ucontext.h>
#include <vector>

#define FASTNN_SHIM
#define SEPARATE extern "C" __attribute__((used)) void
#define TOGETHER extern "C" void
#define __device__
#define __launch_bounds__(...)
#ifdef SHIM_CLUSTERED
#define SHIM_OWN static thread_local
#else
#define SHIM_OWN static
#endif
#define __shared__ SHIM_OWN

struct shim_index { int x, y, z; };
SHIM_OWN shim_index blockIdx, threadIdx;
static shim_index blockDim, gridDim;

enum shim_wait { SHIM_RUNS, SHIM_WARP, SHIM_BLOCK, SHIM_CLUSTER, SHIM_DONE };
#if defined(__x86_64__)
/* swapcontext asks the system for the signal mask twice, 0.5 us; this keeps what the ABI says a call keeps. */
typedef void *shim_context;
extern "C" void shim_change(shim_context *from, shim_context to);
asm(".text\n.globl shim_change\n.hidden shim_change\n.type shim_change, @function\nshim_change:\n"
    "  push %rbp\n  push %rbx\n  push %r12\n  push %r13\n  push %r14\n  push %r15\n"
    "  mov %rsp, (%rdi)\n  mov %rsi, %rsp\n"
    "  pop %r15\n  pop %r14\n  pop %r13\n  pop %r12\n  pop %rbx\n  pop %rbp\n  ret\n");
static void shim_swap(shim_context *from, shim_context *to) { shim_change(from, *to); }
static void shim_begin(shim_context *c, char *stack, size_t size, void (*function)())
{
    void **top = (void **)(((size_t)(stack + size)) & ~(size_t)63);
    *--top = nullptr; /* where `function` would return to: the stack is then aligned as after a call */
    *--top = (void *)function;
    for (int i = 0; i < 6; i++) *--top = nullptr;
    *c = top;
}
#else
typedef ucontext_t shim_context;
static void shim_swap(shim_context *from, shim_context *to) { swapcontext(from, to); }
static void shim_begin(shim_context *c, char *stack, size_t size, void (*function)())
{
    getcontext(c);
    c->uc_stack.ss_sp = stack;
    c->uc_stack.ss_size = size;
    c->uc_link = nullptr;
    makecontext(c, function, 0);
}
#endif
struct shim_fiber {
    shim_context context;
    shim_wait wait;
    unsigned exchanges; /* which of two sets of registers the next exchange uses */
};
static const int SHIM_STACK = 64 << 10, SHIM_LANES = 32, SHIM_BLOCKS = 16;
SHIM_OWN std::vector<shim_fiber> shim_fibers;
static std::vector<char> shim_stacks[SHIM_BLOCKS]; /* of each block of a cluster; the first one's where there is none */
SHIM_OWN shim_context shim_scheduler;
SHIM_OWN int shim_rank;
static std::function<void()> shim_body;
SHIM_OWN int shim_now;
static int shim_is_backwards;
extern "C" int shim_turn(int is_backwards) { return shim_is_backwards = is_backwards; }

static void shim_until(shim_wait wait)
{
    shim_fiber &f = shim_fibers[shim_now];
    f.wait = wait;
    shim_swap(&f.context, &shim_scheduler);
}

static void shim_fiber_main()
{
    shim_body();
    shim_until(SHIM_DONE);
}

static inline void __syncthreads() { shim_until(SHIM_BLOCK); }

/* Shared memory that a launch asks for: not a number before each block, and so it must stay behind what was asked. */
static const int SHIM_SHARED = 256 << 10;
SHIM_OWN long long shim_shared[SHIM_SHARED / 8];

static void shim_judge_shared(int asked)
{
    for (int i = asked; i < SHIM_SHARED; i++)
        if (((unsigned char *)shim_shared)[i] != 0xFF) {
            fprintf(stderr, "cuda_shim: byte %d of shared memory was written, %d were asked for\n", i, asked);
            abort();
        }
}

/* Lets those go on that wait for nobody any more; false if there are none. */
static bool shim_release(int first, int end, shim_wait wait)
{
    bool any = false;
    for (int i = first; i < end; i++) {
        if (shim_fibers[i].wait != wait && shim_fibers[i].wait != SHIM_DONE)
            return false;
        any |= shim_fibers[i].wait == wait;
    }
    for (int i = first; any && i < end; i++)
        if (shim_fibers[i].wait == wait)
            shim_fibers[i].wait = SHIM_RUNS;
    return any;
}

#ifdef SHIM_CLUSTERED
static int shim_cluster;
static std::mutex shim_mutex;
static std::condition_variable shim_passed;
static int shim_whose, shim_arrived; /* the block that runs, and how many wait or have ended since all met */
static char *shim_memory[SHIM_BLOCKS];
static bool shim_has_begun[SHIM_BLOCKS], shim_has_ended[SHIM_BLOCKS];

/* Where another block has what this one has at p: memory of threads is laid out alike. */
static void *shim_of_block(const void *p, int rank)
{
    if (rank < 0 || rank >= shim_cluster || !shim_has_begun[rank] || shim_has_ended[rank]) {
        fprintf(stderr, "cuda_shim: a look into the memory of block %d of a cluster, which is not there\n", rank);
        abort();
    }
    return shim_memory[rank] + ((char *)p - (char *)shim_shared);
}

static inline void shim_meet() { shim_until(SHIM_CLUSTER); }

static void shim_wait_for_turn(std::unique_lock<std::mutex> &lock)
{
    shim_passed.wait(lock, [] { return shim_whose == shim_rank; });
    shim_has_begun[shim_rank] = true;
}

/* The others run until they wait too, in turn; those that have ended wait no more. */
static void shim_pass()
{
    std::unique_lock<std::mutex> lock(shim_mutex);
    if (++shim_arrived == shim_cluster) {
        shim_arrived = 0;
        for (int i = 0; i < shim_cluster; i++) shim_arrived += shim_has_ended[i];
        if (shim_arrived == shim_cluster)
            return;
    }
    do
        shim_whose = (shim_whose + (shim_is_backwards ? shim_cluster - 1 : 1)) % shim_cluster;
    while (shim_has_ended[shim_whose]);
    shim_passed.notify_all();
    if (!shim_has_ended[shim_rank])
        shim_wait_for_turn(lock);
}
#else
static void shim_pass() {}
#endif

static void shim_block(int n)
{
    std::vector<char> &stacks = shim_stacks[shim_rank];
    shim_fibers.resize(n);
    if (stacks.size() < (size_t)n * SHIM_STACK)
        stacks.resize((size_t)n * SHIM_STACK);
    for (int i = 0; i < n; i++) {
        shim_fiber &f = shim_fibers[i];
        f.wait = SHIM_RUNS;
        f.exchanges = 0;
        shim_begin(&f.context, &stacks[(size_t)i * SHIM_STACK], SHIM_STACK, shim_fiber_main);
    }
    for (;;) {
        bool ran = false, left = false;
        for (int i = 0; i < n; i++) {
            shim_now = shim_is_backwards ? n - 1 - i : i;
            if (shim_fibers[shim_now].wait == SHIM_RUNS) {
                threadIdx = {shim_now, 0, 0};
                shim_swap(&shim_scheduler, &shim_fibers[shim_now].context);
                ran = true;
            }
        }
        for (int i = 0; i < n; i += SHIM_LANES) ran |= shim_release(i, i + SHIM_LANES < n ? i + SHIM_LANES : n, SHIM_WARP);
        ran |= shim_release(0, n, SHIM_BLOCK);
        if (!ran && shim_release(0, n, SHIM_CLUSTER)) {
            shim_pass();
            ran = true;
        }
        for (int i = 0; i < n; i++) left |= shim_fibers[i].wait != SHIM_DONE;
        if (!left)
            return;
        if (!ran) {
            fputs("cuda_shim: threads wait for others that do not come\n", stderr);
            abort();
        }
    }
}

#ifdef SHIM_CLUSTERED
/* grid: blocks, 1, bytes of shared memory, blocks of a cluster. */
static void shim_run(const int *grid, int n, bool, const std::function<void()> &body)
{
    gridDim = {grid[0], 1, 1};
    blockDim = {n, 1, 1};
    shim_body = body;
    shim_cluster = grid[3];
    if (grid[1] != 1 || shim_cluster > SHIM_BLOCKS || grid[0] % shim_cluster) {
        fputs("cuda_shim: a grid is no multiple of its clusters\n", stderr);
        abort();
    }
    for (int first = 0; first < grid[0]; first += shim_cluster) {
        std::vector<std::thread> blocks;
        shim_arrived = 0;
        shim_whose = -1;
        for (int rank = 0; rank < shim_cluster; rank++) {
            shim_has_begun[rank] = shim_has_ended[rank] = false;
            shim_memory[rank] = nullptr;
        }
        int n_ready = 0;
        for (int rank = 0; rank < shim_cluster; rank++)
            blocks.emplace_back([&, rank] {
                shim_rank = rank;
                blockIdx = {first + rank, 0, 0};
                memset(shim_shared, 0xFF, SHIM_SHARED);
                {
                    std::unique_lock<std::mutex> lock(shim_mutex);
                    shim_memory[rank] = (char *)shim_shared;
                    if (++n_ready == shim_cluster)
                        shim_whose = shim_is_backwards ? shim_cluster - 1 : 0;
                    shim_passed.notify_all();
                    shim_wait_for_turn(lock);
                }
                shim_block(n);
                shim_judge_shared(grid[2]);
                shim_has_ended[rank] = true;
                shim_pass();
            });
        for (std::thread &block : blocks) block.join();
    }
}
#else
static void shim_run(const int *grid, int n, bool together, const std::function<void()> &body)
{
    gridDim = {grid[0], grid[1], 1};
    blockDim = {n, 1, 1};
    shim_body = body;
    for (int y = 0; y < grid[1]; y++)
        for (int x = 0; x < grid[0]; x++) {
            blockIdx = {x, y, 0};
            if (together) {
                if (grid[2])
                    memset(shim_shared, 0xFF, SHIM_SHARED);
                shim_block(n);
                if (grid[2])
                    shim_judge_shared(grid[2]);
                continue;
            }
            for (int i = 0; i < n; i++) {
                threadIdx = {i, 0, 0};
                body();
            }
        }
}
#endif

/* Each lane shows `mine` and gets the registers of its warp, by lane; good until the exchange after the next. */
template <typename T> static T *shim_exchange(const T &mine)
{
    static T registers[2][1024];
    T *set = registers[shim_fibers[shim_now].exchanges++ % 2];
    set[shim_now] = mine;
    shim_until(SHIM_WARP);
    return set + shim_now / SHIM_LANES * SHIM_LANES;
}

static inline float __shfl_xor_sync(unsigned, float v, int mask)
{
    return shim_exchange(v)[shim_now % SHIM_LANES ^ mask];
}

static inline unsigned __float_as_uint(float v)
{
    unsigned bits;
    memcpy(&bits, &v, 4);
    return bits;
}

static inline float shim_float(unsigned bits)
{
    float v;
    memcpy(&v, &bits, 4);
    return v;
}

static inline float __uint_as_float(unsigned bits) { return shim_float(bits); }

static inline double __longlong_as_double(long long bits)
{
    double v;
    memcpy(&v, &bits, 8);
    return v;
}

static inline float normcdff(float v) { return (float)(0.5 * erfc(-(double)v * 0.70710678118654752440)); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fmul_rn(float a, float b) { return a * b; }

/* ---- tensor cores, with the registers where PTX has them */

static inline unsigned to_tf32(float v) { return (__float_as_uint(v) + 0x1000u) & ~0x1FFFu; }

static inline unsigned shim_bf16(float v)
{
    const unsigned bits = __float_as_uint(v);
    return (bits + 0x7FFFu + (bits >> 16 & 1)) >> 16;
}
static inline unsigned to_bf16(float low, float high) { return shim_bf16(low) | shim_bf16(high) << 16; }

struct shim_operands { unsigned a[4], b[2]; };

/* a(row, p) is in lane 4 (row % 8) + p % 4, b(p, column) in lane 4 column + p % 4. */
static inline void mma_tf32(float c[4], const unsigned a[4], const unsigned b[2])
{
    shim_operands mine;
    memcpy(mine.a, a, 16);
    memcpy(mine.b, b, 8);
    const int lane = shim_now % SHIM_LANES;
    const shim_operands *all = shim_exchange(mine);
    for (int q = 0; q < 4; q++) {
        const int row = lane / 4 + 8 * (q / 2), column = 2 * (lane % 4) + q % 2;
        for (int p = 0; p < 8; p++)
            c[q] += shim_float(all[row % 8 * 4 + p % 4].a[row / 8 + 2 * (p / 4)]) *
                    shim_float(all[column * 4 + p % 4].b[p / 4]);
    }
}

static inline float shim_half(unsigned pair, int high) { return shim_float(high ? pair & 0xFFFF0000u : pair << 16); }

/* a(row, p) is in lane 4 (row % 8) + p % 8 / 2, b(p, column) in lane 4 column + p % 8 / 2, two in a register. */
static inline void mma_bf16(float c[4], const unsigned a[4], const unsigned b[2])
{
    shim_operands mine;
    memcpy(mine.a, a, 16);
    memcpy(mine.b, b, 8);
    const int lane = shim_now % SHIM_LANES;
    const shim_operands *all = shim_exchange(mine);
    for (int q = 0; q < 4; q++) {
        const int row = lane / 4 + 8 * (q / 2), column = 2 * (lane % 4) + q % 2;
        for (int p = 0; p < 16; p++)
            c[q] += shim_half(all[row % 8 * 4 + p % 8 / 2].a[row / 8 + 2 * (p / 8)], p % 2) *
                    shim_half(all[column * 4 + p % 8 / 2].b[p / 8], p % 2);
    }
}

#endif
