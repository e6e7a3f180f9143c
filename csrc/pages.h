/* Memory pages of blocks that stream through a core. With pages of 4 KB an in-place pass over long vectors waits for
 * the page tables: an Adam step on 20 M float32 ran at 42 GB/s, one of SGD at 31; with pages of 2 MB at 52 and 47 (Zen 4,
 * one core). Linux gives them where they are asked for; NumPy asks for its own arrays, from the same size on. */
#ifndef FASTNN_PAGES_H
#define FASTNN_PAGES_H

#include <stddef.h>
#include <stdint.h>
#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

/* Less would hardly hold a page of 2 MB that is whole, and a page that is only begun costs all of its memory. */
#define LARGE_PAGES_FROM ((size_t)1 << 22)

/* A wish: where the system does not know it or has no such page, the block stays as it is. Before it is written to. */
static inline void fastnn_ask_for_large_pages(void *block, size_t n_bytes)
{
#if defined(MADV_HUGEPAGE)
    if (n_bytes < LARGE_PAGES_FROM)
        return;
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t first = ((uintptr_t)block + page - 1) / page * page, end = ((uintptr_t)block + n_bytes) / page * page;
    madvise((void *)first, end - first, MADV_HUGEPAGE);
#else
    (void)block, (void)n_bytes;
#endif
}

#endif
