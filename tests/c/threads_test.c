/* Facts about the worker pool (csrc/threads.c), without Python: link this file with threads.c and -lpthread.
 * Silent and 0 when all hold; else one line and 1. `threads_test bench` prints latencies instead;
 * `threads_test emulated` leaves out forks beside live threads, in whose children QEMU's user emulation
 * (7.2) aborts at the first new thread, whatever the program. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* pthread_getname_np */
#endif
#include "../../csrc/fastnn.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#if defined(__has_feature)
#define HAS_FEATURE(name) __has_feature(name)
#else
#define HAS_FEATURE(name) 0
#endif
#if defined(__SANITIZE_THREAD__) || HAS_FEATURE(thread_sanitizer)
#define SANITIZED 1
/* Children of a threaded process start threads here, which is the point; 200 of them end, each without the
 * second that the sanitizer waits for races at the end. */
const char *__tsan_default_options(void);
const char *__tsan_default_options(void) { return "die_after_fork=0:atexit_sleep_ms=0"; }
#elif defined(__SANITIZE_ADDRESS__) || HAS_FEATURE(address_sanitizer)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

/* Seconds after which a hang is taken for one; a whole run takes a few, some ten under a sanitizer. */
#define TIME_LIMIT 120
#define CHILD_TIME_LIMIT 20
#define MOST 8

#define CHECK(condition, ...)                                             \
    do {                                                                  \
        if (!(condition)) {                                               \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, __func__); \
            fprintf(stderr, __VA_ARGS__);                                 \
            fprintf(stderr, " (%s)\n", #condition);                       \
            _exit(1);                                                     \
        }                                                                 \
    } while (0)

static double clock_of(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double cpu_seconds(void) { return clock_of(CLOCK_PROCESS_CPUTIME_ID); }

static void pause_for(double seconds)
{
    struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&t, NULL);
}

/* ---------------------------------------------------------------- teams and barriers */

struct count {
    int runs[FASTNN_MAX_THREADS];
    int sizes[FASTNN_MAX_THREADS];
};

static void count_runs(void *context, int thread, int n_threads)
{
    struct count *count = context;
    count->runs[thread]++;
    count->sizes[thread] = n_threads;
}

static int check_each_thread_ran_once(int asked)
{
    struct count count;
    memset(&count, 0, sizeof count);
    const int used = fastnn_run(count_runs, &count, asked);
    for (int i = 0; i < FASTNN_MAX_THREADS; i++) {
        CHECK(count.runs[i] == (i < used), "asked %d, used %d, thread %d ran %d times", asked, used, i, count.runs[i]);
        CHECK(i >= used || count.sizes[i] == used, "thread %d was told %d of %d", i, count.sizes[i], used);
    }
    return used;
}

static void test_every_thread_runs_once(void)
{
    static const int sizes[] = {1, 2, 3, MOST, 2, 1, 0, -1};
    CHECK(fastnn_threads_started() == 0, "workers before first use");
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int repeat = 0; repeat < 200; repeat++) {
            const int used = check_each_thread_ran_once(sizes[i]);
            CHECK(used == (sizes[i] < 1 ? 1 : sizes[i]), "asked %d, used %d", sizes[i], used);
            if (i == 0)
                CHECK(fastnn_threads_started() == 0, "one thread needs no workers");
        }
    CHECK(fastnn_threads_started() == MOST - 1, "%d workers", fastnn_threads_started());
}

static void test_team_is_capped(void)
{
    CHECK(check_each_thread_ran_once(FASTNN_MAX_THREADS + 100) == FASTNN_MAX_THREADS, "not the largest team");
    fastnn_stop_threads();
}

struct rounds {
    long n_rounds;
    struct {
        long value;
        char padding[120];
    } of[MOST]; /* plain memory: only the barriers order it */
};

static void exchange_rounds(void *context, int thread, int n_threads)
{
    struct rounds *rounds = context;
    for (long round = 1; round <= rounds->n_rounds; round++) {
        rounds->of[thread].value = round * 1000 + thread;
        fastnn_barrier(thread, n_threads);
        for (int i = 0; i < n_threads; i++)
            CHECK(rounds->of[i].value == round * 1000 + i, "round %ld: thread %d sees %ld of %d", round, thread,
                  rounds->of[i].value, i);
        fastnn_barrier(thread, n_threads);
    }
}

static void test_barrier_shows_what_all_threads_wrote(void)
{
    static const struct { int n_threads; long n_rounds; } cases[] = {{1, 10}, {2, 20000}, {3, 2000}, {5, 500}, {MOST, 500}, {2, 2000}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct rounds rounds = {.n_rounds = cases[i].n_rounds};
        CHECK(fastnn_run(exchange_rounds, &rounds, cases[i].n_threads) == cases[i].n_threads, "smaller team");
    }
}

static void test_team_sizes_may_change_at_every_run(void)
{
    for (int i = 0; i < 2000; i++) {
        struct rounds rounds = {.n_rounds = i % 3};
        const int n = 1 + (i * 7 + i / 5) % MOST;
        CHECK(fastnn_run(exchange_rounds, &rounds, n) == n, "smaller team");
    }
}

/* ---------------------------------------------------------------- callers that meet */

static void run_inside(void *context, int thread, int n_threads)
{
    struct rounds inner = {.n_rounds = 3};
    CHECK(fastnn_run(exchange_rounds, &inner, n_threads) == 1, "a nested run got a team");
    CHECK(inner.of[0].value == 3000, "a nested run did not run");
    fastnn_barrier(thread, n_threads);
    atomic_fetch_add((atomic_int *)context, 1);
}

static void test_run_on_a_busy_pool_is_done_by_its_caller_at_once(void)
{
    atomic_int done = 0;
    CHECK(fastnn_run(run_inside, &done, 3) == 3 && done == 3, "%d threads finished", done);
}

#define ITEMS 64
static void add_share(void *context, int thread, int n_threads)
{
    long *items = context;
    for (int pass = 0; pass < 2; pass++) {
        for (int i = (thread + pass) % n_threads; i < ITEMS; i += n_threads)
            items[i]++;
        fastnn_barrier(thread, n_threads);
    }
}

#define CALLS 3000
static void *call_often(void *teams)
{
    long items[ITEMS] = {0};
    for (int i = 0; i < CALLS; i++)
        if (fastnn_run(add_share, items, 2 + i % 2) > 1)
            atomic_fetch_add((atomic_int *)teams, 1);
    for (int i = 0; i < ITEMS; i++)
        CHECK(items[i] == 2 * CALLS, "item %d was worked on %ld times of %d", i, items[i], 2 * CALLS);
    return NULL;
}

static void *stop_often(void *unused)
{
    for (int i = 0; i < 500; i++) {
        fastnn_stop_threads();
        pause_for(2e-5);
    }
    return unused;
}

/* Four callers and, unless NULL, one more thread. */
static void run_concurrently(void *(*last)(void *))
{
    pthread_t callers[4], other;
    atomic_int teams = 0;
    for (int i = 0; i < 4; i++)
        CHECK(pthread_create(&callers[i], NULL, call_often, &teams) == 0, "no thread");
    if (last)
        CHECK(pthread_create(&other, NULL, last, NULL) == 0, "no thread");
    for (int i = 0; i < 4; i++)
        pthread_join(callers[i], NULL);
    if (last)
        pthread_join(other, NULL);
    CHECK(teams > 0, "no caller ever got a team");
}

static void test_callers_at_the_same_time_all_get_their_work_done(void) { run_concurrently(NULL); }
static void test_stop_during_runs_harms_none(void) { run_concurrently(stop_often); }

static void test_stop_and_start_again(void)
{
    for (int i = 0; i < 200; i++) {
        const int n = 2 + i % 3;
        fastnn_stop_threads();
        CHECK(fastnn_threads_started() == 0, "%d workers after a stop", fastnn_threads_started());
        fastnn_stop_threads();
        CHECK(check_each_thread_ran_once(n) == n, "smaller team after a stop");
        CHECK(fastnn_threads_started() == n - 1, "%d workers", fastnn_threads_started());
    }
}

/* ---------------------------------------------------------------- fork */

static void work_in_child(int by_exit)
{
    alarm(CHILD_TIME_LIMIT);
    CHECK(fastnn_threads_started() == 0, "the child believes in %d workers", fastnn_threads_started());
    struct rounds rounds = {.n_rounds = 20};
    CHECK(fastnn_run(exchange_rounds, &rounds, 2) == 2, "no team in the child");
    CHECK(check_each_thread_ran_once(3) == 3, "no larger team in the child");
    by_exit ? exit(0) : _exit(0);
}

static void fork_and_wait(int by_exit)
{
    const pid_t child = fork();
    CHECK(child >= 0, "no process");
    if (child == 0)
        work_in_child(by_exit);
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child, "lost the child");
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ended with status %x", (unsigned)status);
}

static void test_fork_after_threaded_work(void)
{
    for (int i = 0; i < 200; i++) {
        CHECK(check_each_thread_ran_once(2 + i % 2) == 2 + i % 2, "no team in the parent");
        fork_and_wait(i % 50 == 0);
    }
}

struct held {
    atomic_int inside, go_on;
    int used;
};

static void hold_until_told(void *context, int thread, int n_threads)
{
    struct held *held = context;
    atomic_fetch_add(&held->inside, 1);
    while (thread == 0 && !held->go_on)
        pause_for(1e-3);
    fastnn_barrier(thread, n_threads);
    fastnn_barrier(thread, n_threads);
}

static void *run_held(void *context)
{
    struct held *held = context;
    held->used = fastnn_run(hold_until_told, held, 3);
    return NULL;
}

static void test_fork_while_another_thread_runs_a_long_task(void)
{
    for (int repeat = 0; repeat < 3; repeat++) {
        struct held held = {.used = 0};
        pthread_t other;
        CHECK(pthread_create(&other, NULL, run_held, &held) == 0, "no thread");
        while (held.inside < 3)
            pause_for(1e-4);
        for (int i = 0; i < 10; i++)
            fork_and_wait(0);
        CHECK(check_each_thread_ran_once(2) == 1, "two callers held the pool");
        held.go_on = 1;
        pthread_join(other, NULL);
        CHECK(held.used == 3, "a team of %d", held.used);
        CHECK(check_each_thread_ran_once(3) == 3, "the pool was not given back");
    }
}

static void *fork_often(void *unused)
{
    for (int i = 0; i < 20; i++) {
        check_each_thread_ran_once(2);
        const pid_t child = fork();
        if (child == 0)
            _exit(check_each_thread_ran_once(2) == 2 ? 0 : 1);
        int status = -1;
        CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0, "a child ended with %x", (unsigned)status);
    }
    return unused;
}

static void test_two_threads_may_fork_at_the_same_time(void)
{
    pthread_t forkers[2];
    for (int i = 0; i < 2; i++)
        CHECK(pthread_create(&forkers[i], NULL, fork_often, NULL) == 0, "no thread");
    for (int i = 0; i < 2; i++)
        pthread_join(forkers[i], NULL);
    CHECK(check_each_thread_ran_once(2) == 2, "the pool was not given back");
}

static void test_threads_that_cannot_be_had_make_a_smaller_team(void)
{
    fastnn_stop_threads();
    const pid_t child = fork();
    CHECK(child >= 0, "no process");
    if (child == 0) {
        alarm(CHILD_TIME_LIMIT);
        const size_t limit = (size_t)128 << 20; /* far less than 255 stacks; sanitizers need more for themselves */
        const struct rlimit bytes = {limit, limit};
        if (!SANITIZED)
            setrlimit(RLIMIT_AS, &bytes);
        /* some systems and emulators accept the limit and do not apply it */
        const int applies = mmap(NULL, limit, PROT_NONE, MAP_PRIVATE | MAP_ANON, -1, 0) == MAP_FAILED;
        const int used = check_each_thread_ran_once(FASTNN_MAX_THREADS);
        CHECK(!applies || used < FASTNN_MAX_THREADS, "255 stacks of memory that is not there");
        CHECK(check_each_thread_ran_once(2) == 2, "no small team after a large one failed");
        _exit(0);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0, "the child ended with status %x", (unsigned)status);
}

/* ---------------------------------------------------------------- being a good guest */

static void look_at_thread(void *context, int thread, int n_threads)
{
    (void)n_threads, (void)context;
    if (thread == 0)
        return;
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    CHECK(sigismember(&mask, SIGINT) == 1 && sigismember(&mask, SIGALRM) == 1, "a worker takes signals");
    CHECK(sigismember(&mask, SIGSEGV) == 0, "a worker hides its crash");
#if defined(__linux__)
    char name[32] = "", expected[32];
    snprintf(expected, sizeof expected, "fastnn-%d", thread);
    pthread_getname_np(pthread_self(), name, sizeof name);
    CHECK(strcmp(name, expected) == 0, "thread %d is called %s", thread, name);
#endif
    volatile char stack[768 << 10];
    for (size_t i = 0; i < sizeof stack; i += 1024)
        stack[i] = 1;
    CHECK(stack[0] == 1, "no stack");
}

static void test_workers_block_signals_have_names_and_stack(void)
{
    sigset_t before, after;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    fastnn_stop_threads();
    CHECK(fastnn_run(look_at_thread, NULL, 3) == 3, "smaller team");
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    CHECK(sigismember(&before, SIGINT) == sigismember(&after, SIGINT), "the caller's signals changed");
}

static void many_barriers(void *context, int thread, int n_threads)
{
    for (long i = 0; i < *(long *)context; i++)
        fastnn_barrier(thread, n_threads);
}

static void wait_often(void *context, int thread, int n_threads)
{
#if defined(__linux__) /* elsewhere nobody moves them */
    cpu_set_t before, after;
    sched_getaffinity(0, sizeof before, &before);
    many_barriers(context, thread, n_threads);
    sched_getaffinity(0, sizeof after, &after);
    CHECK(CPU_EQUAL(&before, &after), "thread %d may now run on other cores", thread);
#else
    (void)context, (void)thread, (void)n_threads;
#endif
}

static void test_workers_keep_the_cores_they_were_given(void) { fastnn_run(wait_often, &(long){3000}, 3); }

static void test_idle_workers_sleep(void)
{
    check_each_thread_ran_once(3);
    const double before = cpu_seconds();
    pause_for(0.3);
    const double used = cpu_seconds() - before;
    CHECK(used < 0.03, "%.3f s of CPU time in 0.3 s of idleness", used);
}

static void be_late(void *context, int thread, int n_threads)
{
    for (int i = 0; i < 3; i++) {
        if (thread == i % n_threads)
            pause_for(0.1);
        fastnn_barrier(thread, n_threads);
    }
    if (thread == 1)
        pause_for(0.1); /* the caller waits at the end */
    (void)context;
}

static void test_those_who_wait_long_at_a_barrier_sleep(void)
{
    const double before = cpu_seconds();
    CHECK(fastnn_run(be_late, NULL, 3) == 3, "smaller team");
    const double used = cpu_seconds() - before;
    CHECK(used < 0.04, "%.3f s of CPU time in 0.4 s of waiting", used);
}

/* ---------------------------------------------------------------- latencies */

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(size_t n, double *values)
{
    qsort(values, n, sizeof *values, by_value);
    return values[n / 2];
}

/* Medians over samples, microseconds. */
static void bench(int n_threads)
{
    enum { SAMPLES = 51 };
    double barrier[SAMPLES], run[SAMPLES], parked[SAMPLES];
    long none = 0, n_barriers = n_threads <= 2 ? 20000 : 500;
    for (int s = 0; s < SAMPLES; s++) {
        fastnn_run(many_barriers, &none, n_threads);
        double start = clock_of(CLOCK_MONOTONIC);
        fastnn_run(many_barriers, &n_barriers, n_threads);
        barrier[s] = (clock_of(CLOCK_MONOTONIC) - start) / (double)n_barriers;
        start = clock_of(CLOCK_MONOTONIC);
        for (long i = 0; i < n_barriers; i++)
            fastnn_run(many_barriers, &none, n_threads);
        run[s] = (clock_of(CLOCK_MONOTONIC) - start) / (double)n_barriers;
        pause_for(2e-3);
        start = clock_of(CLOCK_MONOTONIC);
        fastnn_run(many_barriers, &none, n_threads);
        parked[s] = clock_of(CLOCK_MONOTONIC) - start;
    }
    printf("%d threads: barrier %.3f us, run %.3f us, run of parked workers %.1f us\n", n_threads,
           median(SAMPLES, barrier) * 1e6, median(SAMPLES, run) * 1e6, median(SAMPLES, parked) * 1e6);
}

int main(int n_arguments, char **arguments)
{
    alarm(TIME_LIMIT);
    if (n_arguments > 1 && strcmp(arguments[1], "bench") == 0) {
        for (int n = 1; n <= 3; n++)
            bench(n);
        return 0;
    }
    test_every_thread_runs_once();
    test_barrier_shows_what_all_threads_wrote();
    test_team_sizes_may_change_at_every_run();
    test_run_on_a_busy_pool_is_done_by_its_caller_at_once();
    test_callers_at_the_same_time_all_get_their_work_done();
    test_stop_during_runs_harms_none();
    test_stop_and_start_again();
    test_fork_after_threaded_work();
    if (n_arguments < 2 || strcmp(arguments[1], "emulated") != 0) {
        test_fork_while_another_thread_runs_a_long_task();
        test_two_threads_may_fork_at_the_same_time();
    }
    test_workers_block_signals_have_names_and_stack();
    test_workers_keep_the_cores_they_were_given();
    test_idle_workers_sleep();
    test_those_who_wait_long_at_a_barrier_sleep();
    test_threads_that_cannot_be_had_make_a_smaller_team();
    test_team_is_capped();
    return 0; /* with no workers; other ends of a process, with them: the children above */
}
