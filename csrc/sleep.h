/* How threads.c puts a thread to sleep on a word and wakes it: by futex, or by one condition for all. */
#ifndef FASTNN_SLEEP_H
#define FASTNN_SLEEP_H
#include "fastnn.h"

#include <pthread.h>
#include <stdatomic.h>

/* FASTNN_PORTABLE_SLEEP picks the sleep of other systems on Linux too, so that it can be tested there. */
#if defined(__linux__) && !defined(FASTNN_PORTABLE_SLEEP)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#define HAVE_FUTEX 1
#else
#define HAVE_FUTEX 0
#endif

#if HAVE_FUTEX

/* Sleeps if *word is still `value`; may return early. */
static void sleep_while(_Atomic uint32_t *word, uint32_t value)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void wake_all(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, FASTNN_MAX_THREADS, NULL, NULL, 0);
}

static void reset_sleep(void) {}

#else

/* One condition for all words: sleepers are woken now and then for another's word and sleep again. */
static pthread_mutex_t sleep_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t sleep_over = PTHREAD_COND_INITIALIZER;

static void sleep_while(_Atomic uint32_t *word, uint32_t value)
{
    pthread_mutex_lock(&sleep_lock);
    /* The word is moved before the lock is taken to wake: either the move is seen here or the wake comes later. */
    while (atomic_load_explicit(word, memory_order_relaxed) == value)
        pthread_cond_wait(&sleep_over, &sleep_lock);
    pthread_mutex_unlock(&sleep_lock);
}

static void wake_all(_Atomic uint32_t *word)
{
    (void)word;
    pthread_mutex_lock(&sleep_lock);
    pthread_cond_broadcast(&sleep_over);
    pthread_mutex_unlock(&sleep_lock);
}

static void reset_sleep(void)
{
    sleep_lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    sleep_over = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
}

#endif

#endif
