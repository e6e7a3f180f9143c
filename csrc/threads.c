/* The worker pool: threads of our own that start at first use, wait spinning for a short while and then
 * asleep, and are joined before a fork.
 *
 * 1. One caller holds the pool at a time (`busy`). Whoever finds it taken does its task alone, at once: no
 *    function here waits for another caller, so none can deadlock with a lock of the caller's (Python's GIL).
 * 2. The caller puts a job into each worker's slot and moves the slot's `start` word. Workers that are not
 *    in the team never hear of it and sleep on.
 * 3. Inside the team, barriers count arrivals; the last to arrive moves `generation`.
 * 4. A worker that is done takes itself off `running`; the caller waits until nobody is left.
 *
 * Words that are waited on count in steps of two. Their lowest bit, SLEEPER, is set by a waiter before it goes
 * to sleep, so that whoever moves the word knows, from the same atomic operation, whether a system call is
 * needed to wake somebody: none is while all spin. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* pthread_setname_np, syscall, sched_getcpu, cpu_set_t */
#endif
#include "fastnn.h"
#include "affinity.h"
#include "sleep.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

/* Bytes between words that different threads write. Two lines of 64: x86 fetches lines in pairs, and Apple's
 * lines are 128 long. Less would make threads slow each other down; more only costs memory. */
#define LINE 128

/* How long a thread spins before it sleeps, in nanoseconds: about what being woken costs (10-80 us), so that
 * waiting never costs more than twice the better of the two choices. Longer keeps workers hot across longer
 * pauses between calls, and burns that much of a core after every call; below 20 us the gaps between calls
 * from a loop in Python already cost a wake-up each. */
#define SPIN_NANOSECONDS 50000
/* The same at a barrier, where the others are at work. It must exceed the cost of a wake-up: with less, two
 * threads of which one was once put to sleep by the system go on putting each other to sleep (with 50 us and
 * steps of 60 us, each step took 170). */
#define SPIN_BARRIER_NANOSECONDS 200000
/* The same once so many barriers in a row have ended asleep: more threads than free cores, where spinning
 * keeps the awaited thread from running. Longer costs that much a barrier while cores are short. */
#define MANY_SLEEPS 8
#define SPIN_BRIEF_NANOSECONDS 5000
/* Of every RETRY_BARRIERS barriers, RETRY_LENGTH are waited for with the long spin all the same, from another
 * core if need be (see move_off), to find out that cores are free. All threads do so at the same barriers: one
 * that spins while the other still sleeps finds out nothing. A smaller share finds it later, a larger one
 * wastes more while cores are short. */
#define RETRY_BARRIERS 256
#define RETRY_LENGTH 12
/* Looks at the word between two looks at the clock: about 1 us; the clock is never read in a hot join. */
#define SPIN_LOOKS 64
/* Threads up to which a barrier counts arrivals in the line that is waited on; see `generation`. */
#define SMALL_TEAM 4
/* Stack of a worker. Kernels use up to 128 KiB, libraries' thread-local data come out of it as well; unused
 * pages cost nothing. The default is as small as 128 KiB on some systems. */
#define STACK_BYTES (2 << 20)

/* Of `busy`. WARMING: held by workers that wake up, of which the last releases it. */
enum { FREE, HELD, WARMING };

#define SLEEPER 1u
#define STEP 2u

struct slot {
    /* written by the caller that posts a job */
    _Alignas(LINE) _Atomic uint32_t start;
    int n_threads;
    fastnn_task task; /* NULL: end */
    void *context;
    /* written by the thread itself */
    _Alignas(LINE) int slept; /* barriers in a row that ended asleep, up to MANY_SLEEPS */
    atomic_int cpu;           /* 1 + the core on which it last found out, 0: none */
    atomic_int id;            /* of the thread for the system, 0: it has not run yet */
    /* written and read under `busy` */
    pthread_t handle;
    struct affinity affinity; /* the worker writes as well, before its job */
};

static struct {
    _Alignas(LINE) atomic_int busy; /* HELD: a caller, a stop or a fork holds everything below; WARMING */
    atomic_int started;             /* workers that exist: slots 1 .. started */
    int fork_handled;               /* are the fork handlers registered? */
    _Alignas(LINE) _Atomic uint32_t running; /* STEP for each worker that still works */
    /* A small team counts beside the word that it waits on: the last to arrive then moves a line that it has
     * just fetched to count (0.17 us a barrier of two, against 0.32). In a large team those who wait would
     * keep pulling that line off those who arrive. */
    _Alignas(LINE) _Atomic uint32_t generation; /* STEP for each barrier passed */
    _Atomic uint32_t arrived_small;             /* threads at the barrier */
    _Alignas(LINE) _Atomic uint32_t arrived_large;
    struct slot slots[FASTNN_MAX_THREADS]; /* by thread; slot 0, the caller's, never gets a job */
} pool;

/* Does this thread hold the pool for its fork? Two threads may fork at the same time. */
static _Thread_local int held_for_fork;

/* ---------------------------------------------------------------- waiting */

/* Leaves the core's other hardware thread, and the power budget, to those who work. */
static inline void cpu_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory"); /* `yield` does nothing on most cores */
#else
    __asm__ volatile("" ::: "memory");
#endif
}

static int64_t nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Acquire: whoever moved the word released what it had written before. */
static inline int reached(_Atomic uint32_t *word, uint32_t target)
{
    return (atomic_load_explicit(word, memory_order_acquire) & ~SLEEPER) == target;
}

static inline int spin_looks(_Atomic uint32_t *word, uint32_t target)
{
    for (int i = 0; i < SPIN_LOOKS; i++) {
        if (reached(word, target))
            return 1;
        cpu_pause();
    }
    return 0;
}

/* Moves a worker at a barrier to a core that none of the team was seen on, if it shares its own. Threads that sleep
 * and wake each other in turn are drawn to one core by Linux and look to its balancer like one thread; left alone,
 * a team of two stayed there for seconds (20 us a barrier, against 0.2, with the other core half free). The
 * caller's thread is not ours to move. */
static void move_off(struct slot *self)
{
    const int cpu = core_now();
    atomic_store_explicit(&self->cpu, cpu + 1, memory_order_relaxed);
    if (self == &pool.slots[0] || cpu < 0)
        return;
    int taken[FASTNN_MAX_THREADS], n_taken = 0, shared = 0;
    for (int i = 0; i < self->n_threads; i++) {
        const int other = atomic_load_explicit(&pool.slots[i].cpu, memory_order_relaxed) - 1;
        if (other >= 0 && &pool.slots[i] != self) {
            taken[n_taken++] = other;
            shared |= other == cpu;
        }
    }
    if (shared && leave_cores(taken, n_taken))
        atomic_store_explicit(&self->cpu, core_now() + 1, memory_order_relaxed);
}

/* The rest of a wait that was not over at once. Yielding before the sleep lost: it hands a busy neighbour a whole
 * time slice (9-108 us a barrier of two with both cores taken, against 6-29), and gains nothing with three
 * threads on two cores. */
static __attribute__((noinline)) void wait_long(_Atomic uint32_t *word, uint32_t target, struct slot *self)
{
    int64_t spin = self ? SPIN_BARRIER_NANOSECONDS : SPIN_NANOSECONDS;
    if (self && self->slept == MANY_SLEEPS) {
        const uint32_t turn = target / STEP % RETRY_BARRIERS;
        if (turn == 0)
            move_off(self);
        if (turn >= RETRY_LENGTH)
            spin = SPIN_BRIEF_NANOSECONDS;
    }
    const int64_t end = nanoseconds() + spin;
    do {
        if (spin_looks(word, target)) {
            if (self)
                self->slept = 0;
            return;
        }
    } while (nanoseconds() < end);
    if (self && self->slept < MANY_SLEEPS)
        self->slept++;
    while (!reached(word, target)) {
        /* Relaxed: the mark carries no data. If the word moves first, the exchange or the sleep fails. */
        uint32_t value = atomic_load_explicit(word, memory_order_relaxed);
        if ((value & ~SLEEPER) == target)
            continue;
        if ((value & SLEEPER) || atomic_compare_exchange_strong_explicit(word, &value, value | SLEEPER,
                                                                         memory_order_relaxed, memory_order_relaxed))
            sleep_while(word, value | SLEEPER);
    }
}

/* Returns when the word, its mark aside, is `target`. `self`: who waits at a barrier; NULL elsewhere. */
static inline void wait_for(_Atomic uint32_t *word, uint32_t target, struct slot *self)
{
    if (!spin_looks(word, target))
        wait_long(word, target, self);
}

/* Moves a word on which others wait, and releases what was written before. */
static inline void move_to(_Atomic uint32_t *word, uint32_t target)
{
    if (atomic_exchange_explicit(word, target, memory_order_release) & SLEEPER)
        wake_all(word);
}

/* ---------------------------------------------------------------- workers */

static void post(struct slot *slot, fastnn_task task, void *context, int n_threads)
{
    slot->task = task;
    slot->context = context;
    slot->n_threads = n_threads;
    /* only the holder of the pool moves this word */
    const uint32_t start = atomic_load_explicit(&slot->start, memory_order_relaxed);
    if (start & SLEEPER)
        keep_off(&slot->affinity, atomic_load_explicit(&slot->id, memory_order_relaxed), core_now());
    move_to(&slot->start, (start & ~SLEEPER) + STEP);
}

static void set_name(int thread)
{
    char name[16]; /* as long as Linux allows */
    snprintf(name, sizeof name, "fastnn-%d", thread % FASTNN_MAX_THREADS);
#if defined(__linux__)
    pthread_setname_np(pthread_self(), name);
#elif defined(__APPLE__)
    pthread_setname_np(name);
#endif
}

static int hold_pool_as(int how)
{
    int expected = FREE;
    /* the look before the exchange keeps callers who find it taken from pulling the line off the holder */
    return atomic_load_explicit(&pool.busy, memory_order_relaxed) == FREE &&
           atomic_compare_exchange_strong_explicit(&pool.busy, &expected, how, memory_order_acquire,
                                                   memory_order_relaxed);
}

/* Workers that wake up are waited for: they take no locks, and are up in 100 us. */
static int hold_pool(void)
{
    for (;;) {
        if (hold_pool_as(HELD))
            return 1;
        if (atomic_load_explicit(&pool.busy, memory_order_relaxed) == HELD)
            return 0;
        cpu_pause();
    }
}

static void release_pool(void)
{
    atomic_store_explicit(&pool.busy, FREE, memory_order_release);
}

/* The job of fastnn_ready: to be awake. */
static void warm_up(void *context, int thread, int n_threads) { (void)context, (void)thread, (void)n_threads; }

static void *work(void *argument)
{
    struct slot *own = argument;
    const int thread = (int)(own - pool.slots);
    set_name(thread);
    atomic_store_explicit(&own->id, thread_id(), memory_order_relaxed);
    for (uint32_t next = STEP;; next += STEP) {
        /* Always the long spin: a sleep here says that the caller had other things to do, not that cores
         * are short, and the next calls may follow closely. */
        wait_for(&own->start, next, NULL);
        keep_no_longer(&own->affinity);
        if (!own->task)
            return NULL;
        const fastnn_task task = own->task; /* the slot belongs to the next caller once all have subtracted */
        task(own->context, thread, own->n_threads);
        /* Release for the caller, who acquires through the chain of these subtractions what all have written. */
        const uint32_t before = atomic_fetch_sub_explicit(&pool.running, STEP, memory_order_acq_rel);
        if (before == (STEP | SLEEPER))
            wake_all(&pool.running);
        else if (before == STEP && task == warm_up) /* nobody waits for this one */
            release_pool();
    }
}

/* Ends all workers. The pool is held: they are idle, so the joins are short. */
static void end_workers(void)
{
    const int started = atomic_load_explicit(&pool.started, memory_order_relaxed);
    for (int i = 1; i <= started; i++)
        post(&pool.slots[i], NULL, NULL, 0);
    for (int i = 1; i <= started; i++)
        pthread_join(pool.slots[i].handle, NULL);
    atomic_store_explicit(&pool.started, 0, memory_order_relaxed);
}

/* A child of fork has the forking thread alone; workers that ran would leave locked memory and half a team
 * behind, so there are none at the fork. A pool at work is left alone: its task may be waiting for a lock
 * that the forking thread holds (the GIL), and waiting for it here would never end. */
static void before_fork(void)
{
    held_for_fork = hold_pool();
    if (held_for_fork)
        end_workers();
}

static void after_fork_in_parent(void)
{
    if (held_for_fork)
        release_pool();
    held_for_fork = 0;
}

/* Whoever held the pool does not exist here, unless it is this thread for its fork: all starts afresh. (A task
 * that itself forks has no team in its child, which must exec or _exit.) */
static void after_fork_in_child(void)
{
    atomic_store_explicit(&pool.started, 0, memory_order_relaxed);
    atomic_store_explicit(&pool.running, 0, memory_order_relaxed);
    atomic_store_explicit(&pool.arrived_small, 0, memory_order_relaxed);
    atomic_store_explicit(&pool.arrived_large, 0, memory_order_relaxed);
    atomic_store_explicit(&pool.generation, 0, memory_order_relaxed);
    reset_sleep();
    held_for_fork = 0;
    release_pool();
}

static int start_worker(int thread, const pthread_attr_t *attributes)
{
    struct slot *slot = &pool.slots[thread];
    atomic_store_explicit(&slot->start, 0, memory_order_relaxed);
    slot->slept = 0;
    slot->affinity.kept = 0;
    atomic_store_explicit(&slot->cpu, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->id, 0, memory_order_relaxed);
    return pthread_create(&slot->handle, attributes, work, slot) == 0;
}

/* Makes the pool at least `wanted` workers large if the system gives them; the pool is held. Returns how many
 * of them there are. */
static int start_workers(int wanted)
{
    int started = atomic_load_explicit(&pool.started, memory_order_relaxed);
    if (started >= wanted)
        return wanted;
    if (!pool.fork_handled) { /* inherited by children, so once in a family of processes */
        if (pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child) != 0)
            return started;
        pool.fork_handled = 1;
    }
    /* Workers inherit the mask: signals land on the program's own threads (Ctrl-C on Python's main thread).
     * Faults of the thread itself stay open, or a crash handler would never see a crash in a kernel. */
    sigset_t blocked, before;
    sigfillset(&blocked);
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT};
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        sigdelset(&blocked, faults[i]);
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes) != 0)
        return started;
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    if (pthread_attr_setstacksize(&attributes, STACK_BYTES) == 0)
        while (started < wanted && start_worker(started + 1, &attributes))
            started++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    atomic_store_explicit(&pool.started, started, memory_order_relaxed);
    return started;
}

/* ---------------------------------------------------------------- the interface */

int fastnn_run(fastnn_task task, void *context, int n_threads)
{
    if (n_threads > FASTNN_MAX_THREADS)
        n_threads = FASTNN_MAX_THREADS;
    if (n_threads > 1 && hold_pool()) {
        n_threads = start_workers(n_threads - 1) + 1;
        if (n_threads > 1) {
            /* relaxed: published with the jobs; all workers are idle */
            atomic_store_explicit(&pool.running, STEP * (uint32_t)(n_threads - 1), memory_order_relaxed);
            for (int i = 1; i < n_threads; i++)
                post(&pool.slots[i], task, context, n_threads);
            task(context, 0, n_threads);
            wait_for(&pool.running, 0, NULL);
            release_pool();
            return n_threads;
        }
        release_pool();
    }
    task(context, 0, 1);
    return 1;
}

void fastnn_barrier(int thread, int n_threads)
{
    if (n_threads <= 1)
        return;
    /* It cannot move before this thread has arrived. */
    const uint32_t next = (atomic_load_explicit(&pool.generation, memory_order_relaxed) & ~SLEEPER) + STEP;
    _Atomic uint32_t *arrived = n_threads <= SMALL_TEAM ? &pool.arrived_small : &pool.arrived_large;
    /* The last to arrive acquires what all others released with their additions, and releases it to them. */
    if (atomic_fetch_add_explicit(arrived, 1, memory_order_acq_rel) + 1 == (uint32_t)n_threads) {
        atomic_store_explicit(arrived, 0, memory_order_relaxed);
        move_to(&pool.generation, next);
    } else {
        wait_for(&pool.generation, next, &pool.slots[thread]);
    }
}

int fastnn_threads_started(void)
{
    return atomic_load_explicit(&pool.started, memory_order_relaxed);
}

int fastnn_ready(int n_threads)
{
    if (n_threads > FASTNN_MAX_THREADS)
        n_threads = FASTNN_MAX_THREADS;
    if (n_threads <= 1 || !hold_pool_as(WARMING))
        return 0;
    const int before = atomic_load_explicit(&pool.started, memory_order_relaxed);
    const int started = start_workers(n_threads - 1);
    int asleep = 0, at[FASTNN_MAX_THREADS];
    for (int i = 1; i <= started && i <= before; i++)
        if (atomic_load_explicit(&pool.slots[i].start, memory_order_relaxed) & SLEEPER)
            at[asleep++] = i;
    if (asleep == 0) {
        release_pool();
        return before >= n_threads - 1;
    }
    atomic_store_explicit(&pool.running, STEP * (uint32_t)asleep, memory_order_relaxed);
    for (int i = 0; i < asleep; i++)
        post(&pool.slots[at[i]], warm_up, NULL, 1);
    return 0; /* the last of them releases the pool */
}

void fastnn_stop_threads(void)
{
    if (hold_pool()) {
        end_workers();
        release_pool();
    }
}
