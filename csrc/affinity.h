/* On which cores the threads of threads.c run. Linux alone; elsewhere the system's choice stands.
 *
 * When a thread wakes another that slept, Linux likes to put it on the waker's own core: they look like two that hand
 * work to each other. Here the waker is about to compute, and the woken one waits until the system's time slice or its
 * balancer sets it free. Measured on two idle cores, with a pause of 1 ms or more before: on the waker's core in 95 of
 * 100 wake-ups, up to 5 ms late; never, and 0.2 ms at worst, with the waker's core taken out of the worker's mask. */
#ifndef FASTNN_AFFINITY_H
#define FASTNN_AFFINITY_H

#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

struct affinity {
    int kept;          /* is the thread kept off a core? */
    cpu_set_t allowed; /* its own mask */
};

static inline int core_now(void) { return sched_getcpu(); }

static inline int thread_id(void) { return (int)syscall(SYS_gettid); }

/* Keeps a worker that sleeps off the core `cpu`, where its caller runs, until it runs itself: two system calls, 1 us
 * beside a wake-up of 10. Masks of over 1024 cores, and of one core, are left alone. */
static inline void keep_off(struct affinity *a, int id, int cpu)
{
    if (cpu < 0 || id == 0 || sched_getaffinity(id, sizeof a->allowed, &a->allowed) != 0)
        return;
    cpu_set_t others = a->allowed;
    CPU_CLR((size_t)cpu, &others);
    a->kept = CPU_COUNT(&others) != 0 && sched_setaffinity(id, sizeof others, &others) == 0;
}

/* The worker's part: it runs, and stays where it is if the system finds nothing better. Were the mask left so, a
 * caller that is moved to the worker's core would share it. */
static inline void keep_no_longer(struct affinity *a)
{
    if (a->kept)
        sched_setaffinity(0, sizeof a->allowed, &a->allowed);
    a->kept = 0;
}

/* Moves this thread off these cores, at once, if it may run elsewhere; later it may come back. */
static inline int leave_cores(const int *cores, int n)
{
    cpu_set_t allowed, others;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        return 0;
    others = allowed;
    for (int i = 0; i < n; i++)
        CPU_CLR((size_t)cores[i], &others);
    if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others) != 0)
        return 0;
    sched_setaffinity(0, sizeof allowed, &allowed);
    return 1;
}

#else

struct affinity {
    int kept;
};

static inline int core_now(void) { return -1; }

static inline int thread_id(void) { return 0; }

static inline void keep_off(struct affinity *a, int id, int cpu) { (void)a, (void)id, (void)cpu; }

static inline void keep_no_longer(struct affinity *a) { (void)a; }

static inline int leave_cores(const int *cores, int n)
{
    (void)cores, (void)n;
    return 0;
}

#endif
#endif
