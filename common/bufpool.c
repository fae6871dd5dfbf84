/* SPDX-License-Identifier: Apache-2.0
 *
 * A slab's first block is its header: the numbers of its free blocks, as a stack. Freed blocks are never
 * written to, so a block's memory is touched by its users only.
 *
 * Slabs that have a free block and a block in use are on `partial`; those wholly unused are on `unused`; full ones on
 * no list. A new slab is made only when both are empty, so slabs never hold more than the most blocks ever in use.
 */
#include "common/bufpool.h"

#include <stdbool.h>

#include "common/check.h"
#include "common/fiber_switch.h"
#include "common/list.h"
#include "common/mem.h"

#define SLAB_BYTES (2ul << 20)
#define SLAB_BLOCKS (SLAB_BYTES / BUFPOOL_BLOCK_BYTES - 1)
#define UNUSED_MAX 2
#define RUN_CLASSES 14 /* 4 KiB .. 32 MiB */

struct slab {
    struct list link;
    struct bufpool *pool;
    unsigned free_count;
    uint16_t free[SLAB_BLOCKS];
};

_Static_assert(sizeof(struct slab) <= BUFPOOL_BLOCK_BYTES, "fits the first block");

struct bufpool {
    uint64_t cap_bytes, used_bytes, held_bytes;
    uint64_t cached_bytes;       /* in `runs` */
    struct list partial, unused; /* slab.link */
    unsigned unused_count;
    struct list runs[RUN_CLASSES]; /* free runs; the link lies in the run itself */
    struct mem_left left; /* put, and not back from I/O that hangs; neither used nor held */
};

#ifdef FIBER_ASAN
#define POISON(ptr) ASAN_POISON_MEMORY_REGION(ptr, BUFPOOL_BLOCK_BYTES)
#define UNPOISON(ptr) ASAN_UNPOISON_MEMORY_REGION(ptr, BUFPOOL_BLOCK_BYTES)
#else
#define POISON(ptr)
#define UNPOISON(ptr)
#endif

struct bufpool *bufpool_new(uint64_t cap_bytes)
{
    struct bufpool *pool = NEW(struct bufpool);
    pool->cap_bytes = cap_bytes;
    list_init(&pool->partial);
    list_init(&pool->unused);
    for (unsigned i = 0; i < RUN_CLASSES; i++)
        list_init(&pool->runs[i]);
    mem_left_init(&pool->left);
    return pool;
}

static bool may_use(const struct bufpool *pool, uint64_t len_bytes)
{
    return pool->used_bytes <= pool->cap_bytes && len_bytes <= pool->cap_bytes - pool->used_bytes;
}

/* --- Blocks -------------------------------------------------------------------------------------- */

static char *block_at(struct slab *slab, unsigned number)
{
    return (char *)slab + (size_t)(number + 1) * BUFPOOL_BLOCK_BYTES;
}

static struct slab *slab_new(struct bufpool *pool)
{
    struct slab *slab = mem_alloc_pages(SLAB_BYTES);
    CHECK((uintptr_t)slab % SLAB_BYTES == 0);
    slab->pool = pool;
    slab->free_count = SLAB_BLOCKS;
    for (unsigned i = 0; i < SLAB_BLOCKS; i++) {
        slab->free[i] = (uint16_t)(SLAB_BLOCKS - 1 - i); /* low addresses first */
        POISON(block_at(slab, i));
    }
    pool->held_bytes += SLAB_BYTES;
    return slab;
}

static void slab_free(struct slab *slab)
{
    slab->pool->held_bytes -= SLAB_BYTES;
    list_remove(&slab->link);
    mem_free_pages(slab, SLAB_BYTES);
}

static struct slab *slab_with_room(struct bufpool *pool)
{
    if (!list_empty(&pool->partial))
        return list_entry(pool->partial.next, struct slab, link);
    struct slab *slab;
    if (pool->unused_count > 0) {
        slab = list_entry(list_pop_front(&pool->unused), struct slab, link);
        pool->unused_count--;
    } else {
        slab = slab_new(pool);
    }
    list_push_front(&pool->partial, &slab->link);
    return slab;
}

void *bufpool_get(struct bufpool *pool)
{
    if (!may_use(pool, BUFPOOL_BLOCK_BYTES))
        return NULL;
    struct slab *slab = slab_with_room(pool);
    char *block = block_at(slab, slab->free[--slab->free_count]);
    if (slab->free_count == 0)
        list_remove(&slab->link);
    pool->used_bytes += BUFPOOL_BLOCK_BYTES;
    UNPOISON(block);
    return block;
}

void bufpool_put(struct bufpool *pool, void *block)
{
    if (!block)
        return;
    struct slab *slab = (struct slab *)((uintptr_t)block & ~(SLAB_BYTES - 1));
    CHECK_MSG(slab->pool == pool && slab->free_count < SLAB_BLOCKS, "not a block of this pool");
    unsigned number = ((char *)block - (char *)slab) / BUFPOOL_BLOCK_BYTES - 1;
    POISON(block);
    pool->used_bytes -= BUFPOOL_BLOCK_BYTES;
    slab->free[slab->free_count++] = (uint16_t)number;
    if (slab->free_count == 1)
        list_push_front(&pool->partial, &slab->link);
    if (slab->free_count < SLAB_BLOCKS)
        return;
    list_remove(&slab->link);
    list_push_front(&pool->unused, &slab->link);
    if (++pool->unused_count > UNUSED_MAX) {
        slab_free(list_entry(pool->unused.prev, struct slab, link));
        pool->unused_count--;
    }
}

/* --- Runs ------------------------------------------------------------------------------------------ */

static unsigned run_class(size_t len_bytes)
{
    unsigned class = 0;
    while (((size_t)BUFPOOL_BLOCK_BYTES << class) < len_bytes)
        class ++;
    CHECK_MSG(len_bytes > 0 && class < RUN_CLASSES, "a run of %zu bytes", len_bytes);
    return class;
}

static void run_release(struct bufpool *pool, void *run, size_t bytes)
{
    pool->held_bytes -= bytes;
    mem_free_pages(run, bytes);
}

/* Gives kept runs back, largest first, until used and kept fit the cap. */
static void trim_runs(struct bufpool *pool, uint64_t wanted_bytes)
{
    for (unsigned class = RUN_CLASSES; class -- > 0;) {
        size_t bytes = (size_t)BUFPOOL_BLOCK_BYTES << class;
        while (pool->used_bytes + wanted_bytes + pool->cached_bytes > pool->cap_bytes) {
            struct list *run = list_pop_front(&pool->runs[class]);
            if (!run)
                break;
            pool->cached_bytes -= bytes;
            run_release(pool, run, bytes);
        }
    }
}

void *bufpool_get_run(struct bufpool *pool, size_t len_bytes)
{
    unsigned class = run_class(len_bytes);
    size_t bytes = (size_t)BUFPOOL_BLOCK_BYTES << class;
    if (!may_use(pool, bytes))
        return NULL;
    void *run = list_pop_front(&pool->runs[class]);
    if (run) {
        pool->cached_bytes -= bytes;
    } else {
        trim_runs(pool, bytes);
        run = mem_alloc_pages(bytes);
        pool->held_bytes += bytes;
    }
    pool->used_bytes += bytes;
    return run;
}

void bufpool_put_run(struct bufpool *pool, void *run, size_t len_bytes)
{
    if (!run)
        return;
    unsigned class = run_class(len_bytes);
    size_t bytes = (size_t)BUFPOOL_BLOCK_BYTES << class;
    CHECK_MSG(pool->used_bytes >= bytes, "more put than got");
    pool->used_bytes -= bytes;
    if (mem_left_take(&pool->left, run, bytes)) {
        pool->held_bytes -= bytes;
        return;
    }
    if (pool->used_bytes + pool->cached_bytes + bytes > pool->cap_bytes) {
        run_release(pool, run, bytes);
        return;
    }
    list_push_front(&pool->runs[class], run);
    pool->cached_bytes += bytes;
}

/* --- The pool ---------------------------------------------------------------------------------------- */

void bufpool_free(struct bufpool *pool)
{
    if (!pool)
        return;
    mem_left_fini(&pool->left);
    CHECK_MSG(pool->used_bytes == 0, "%llu bytes were not put back",
        (unsigned long long)pool->used_bytes);
    pool->cap_bytes = 0;
    trim_runs(pool, 0);
    while (!list_empty(&pool->unused))
        slab_free(list_entry(pool->unused.next, struct slab, link));
    mem_free(pool);
}

uint64_t bufpool_used_bytes(const struct bufpool *pool)
{
    return pool->used_bytes;
}

uint64_t bufpool_cap_bytes(const struct bufpool *pool)
{
    return pool->cap_bytes;
}

void bufpool_set_cap_bytes(struct bufpool *pool, uint64_t cap_bytes)
{
    pool->cap_bytes = cap_bytes;
    trim_runs(pool, 0);
}

uint64_t bufpool_left_bytes(const struct bufpool *pool)
{
    return pool->left.bytes;
}

uint64_t bufpool_held_bytes(const struct bufpool *pool)
{
    return pool->held_bytes;
}
