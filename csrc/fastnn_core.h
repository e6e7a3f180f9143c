/* fastnn_core.h - what dispatch.c and threads.c give: tables and names, random numbers, the worker pool; and sums of one
 * shape. Comes with fastnn.h. */
#ifndef FASTNN_CORE_H
#define FASTNN_CORE_H

#include "fastnn.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---------------------------------------------------------------- dispatch.c */

/* Table of an instruction set for itemsize 4 or 8, NULL where this build or CPU has it not. */
const fastnn_kernels *fastnn_kernels_of(int isa, int itemsize);
/* The best instruction set of this build and CPU. */
int fastnn_best_isa(void);
/* Names from the lists; NULL beyond them. */
const char *fastnn_isa_name(int isa);
const char *fastnn_activation_name(int activation);
const char *fastnn_loss_name(int loss);
const char *fastnn_optimizer_name(int optimizer);
const char *fastnn_path_name(int path);
const char *fastnn_activation_kind(int activation);
int fastnn_loss_takes_labels(int loss);
/* The numbers that a loss reads, separated by blanks. */
const char *fastnn_loss_numbers(int loss);
int fastnn_optimizer_states(int optimizer);

/* Whether small_steps knows a loss: three of them, in their plain form. */
static inline int fastnn_small_takes(const fastnn_loss *l)
{
    return l->loss == FASTNN_mse || (l->loss == FASTNN_cross_entropy && l->smoothing == 0) ||
           (l->loss == FASTNN_binary_cross_entropy && !l->each);
}

/* Sum of n numbers in one shape: eight running sums, then a tree. */
static inline double fastnn_sum(ptrdiff_t n, const double *a)
{
    double s[8] = {0};
    ptrdiff_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int q = 0; q < 8; q++) s[q] += a[i + q];
    for (int q = 0; i < n; i++, q++) s[q] += a[i];
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

/* base^exponent by squaring: libm's pow need not give the same bits everywhere. */
static inline double fastnn_power(double base, uint64_t exponent)
{
    double result = 1;
    for (; exponent; exponent >>= 1, base *= base)
        if (exponent & 1)
            result *= base;
    return result;
}

/* ---------------------------------------------------------------- random.h, through dispatch.c */

/* Philox4x32-10 (Salmon et al. 2011). One block: four words from a counter and a key. */
void fastnn_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);
/* order = a permutation of 0 .. n-1 (Fisher-Yates), a function of (seed, epoch) alone. */
void fastnn_shuffle(uint64_t seed, uint64_t epoch, ptrdiff_t n, int64_t *order);
/* n uniform doubles in (0, 1), 52 bits each and never an end: a function of (seed, layer, parameter, index). */
void fastnn_uniform(uint64_t seed, uint32_t layer, uint32_t parameter, ptrdiff_t n, double *out);
/* The same in 23 bits: number i is the middle of the 2^-23 in which that of fastnn_uniform lies. */
void fastnn_uniform_single(uint64_t seed, uint32_t layer, uint32_t parameter, ptrdiff_t n, float *out);

/* ---------------------------------------------------------------- threads.c */

/* A task runs once on each thread of a team: thread = 0 .. n_threads-1, the caller being 0. */
typedef void (*fastnn_task)(void *context, int thread, int n_threads);

/* Runs the task on up to n_threads threads and returns when all have returned. Where the pool serves
 * another caller or threads cannot be had, the task runs on fewer (its n_threads says how many; 1 is the
 * caller alone). Thread-safe. A task does not call it again. Returns the number of threads used. */
int fastnn_run(fastnn_task task, void *context, int n_threads);
/* Whether a team of n_threads would start at once. If not, sleeping workers are woken, so that a call that
 * follows closely finds them awake; this one does better alone if it is short. Returns at once. */
int fastnn_ready(int n_threads);
/* Waits until every thread of the running team is here; only inside a task, with the task's own
 * thread and n_threads. What threads wrote before it can be read by all after it. */
void fastnn_barrier(int thread, int n_threads);
/* Workers that exist now (not counting callers). */
int fastnn_threads_started(void);
/* Ends the workers (they start again at the next use); at exit and before fork. */
void fastnn_stop_threads(void);
#define FASTNN_MAX_THREADS 256

#ifdef __cplusplus
}
#endif
#endif
