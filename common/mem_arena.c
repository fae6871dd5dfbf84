/* SPDX-License-Identifier: Apache-2.0 */
#include "common/mem_arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "common/check.h"
#include "common/list.h"

#define ARENA_BYTES (2ul << 20)
#define PIECE_BYTES_MIN (64ul << 10)
#define CLASSES 5 /* 64 KiB .. 1 MiB */
#define BUCKETS 64

struct arena {
    struct list link;      /* in `partial` of its class, or lone: nothing is free */
    struct list hash_link; /* by address */
    char *base;
    unsigned class;
    uint32_t free; /* bit per piece */
};

/* Made ready at first use: threads come and go without an init. */
struct arena_lists {
    bool ready;
    struct list partial[CLASSES];
    struct list buckets[BUCKETS];
    unsigned empty[CLASSES]; /* arenas with all free, among `partial`: one is kept */
};

static _Thread_local struct arena_lists lists;

void *mem_map_huge(size_t len_bytes, size_t before_bytes)
{
    size_t map_bytes = len_bytes + ARENA_BYTES + before_bytes;
    char *map = mmap(NULL, map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return NULL;
    char *ptr = (char *)ROUND_UP((uintptr_t)map + before_bytes, ARENA_BYTES);
    char *used_end = ptr + len_bytes, *map_end = map + map_bytes;
    if (ptr - before_bytes > map)
        munmap(map, ptr - before_bytes - map);
    if (map_end > used_end)
        munmap(used_end, map_end - used_end);
    madvise(ptr, len_bytes, MADV_HUGEPAGE); /* refused where there are none: fine */
    return ptr - before_bytes;
}

static unsigned class_of(size_t len_bytes)
{
    return (unsigned)__builtin_ctzl(len_bytes / PIECE_BYTES_MIN);
}

bool mem_arena_takes(size_t len_bytes)
{
    return len_bytes >= PIECE_BYTES_MIN && len_bytes < ARENA_BYTES &&
           (len_bytes & (len_bytes - 1)) == 0;
}

static uint32_t all_free(unsigned class)
{
    unsigned pieces = (unsigned)(ARENA_BYTES / (PIECE_BYTES_MIN << class));
    return pieces == 32 ? UINT32_MAX : (1u << pieces) - 1;
}

static struct list *bucket_of(const void *base)
{
    return &lists.buckets[(uintptr_t)base / ARENA_BYTES % BUCKETS];
}

static void make_ready(void)
{
    for (unsigned i = 0; i < CLASSES; i++)
        list_init(&lists.partial[i]);
    for (unsigned i = 0; i < BUCKETS; i++)
        list_init(&lists.buckets[i]);
    lists.ready = true;
}

static struct arena *arena_new(unsigned class)
{
    struct arena *arena = malloc(sizeof(*arena));
    char *base = arena ? mem_map_huge(ARENA_BYTES, 0) : NULL;
    if (!base) {
        free(arena);
        return NULL;
    }
    *arena = (struct arena){.base = base, .class = class, .free = all_free(class)};
    list_init(&arena->link);
    list_push_back(bucket_of(base), &arena->hash_link);
    list_push_front(&lists.partial[class], &arena->link);
    lists.empty[class]++;
    return arena;
}

void *mem_arena_alloc(size_t len_bytes)
{
    unsigned class = class_of(len_bytes);
    if (!lists.ready)
        make_ready();
    struct arena *arena = list_empty(&lists.partial[class])
                              ? arena_new(class)
                              : list_entry(lists.partial[class].next, struct arena, link);
    if (!arena)
        return NULL;
    lists.empty[class] -= arena->free == all_free(class);
    unsigned piece = (unsigned)__builtin_ctz(arena->free);
    arena->free &= arena->free - 1;
    if (arena->free == 0)
        list_remove(&arena->link);
    return arena->base + (size_t)piece * len_bytes;
}

static struct arena *arena_find(const void *base)
{
    if (!lists.ready)
        return NULL;
    list_for_each (it, bucket_of(base)) {
        struct arena *arena = list_entry(it, struct arena, hash_link);
        if (arena->base == base)
            return arena;
    }
    return NULL;
}

void mem_arena_free(void *ptr, size_t len_bytes)
{
    unsigned class = class_of(len_bytes);
    char *base = (char *)ROUND_DOWN((uintptr_t)ptr, ARENA_BYTES);
    struct arena *arena = arena_find(base);
    size_t off = (size_t)((char *)ptr - base);
    CHECK_MSG(arena && arena->class == class && off % len_bytes == 0,
        "no buffer of %zu bytes of this thread", len_bytes);
    uint32_t bit = 1u << off / len_bytes;
    CHECK_MSG(!(arena->free & bit), "freed twice");
    if (arena->free == 0)
        list_push_front(&lists.partial[class], &arena->link);
    arena->free |= bit;
    if (arena->free != all_free(class))
        return;
    if (lists.empty[class] == 0) {
        lists.empty[class]++;
        return;
    }
    list_remove(&arena->link);
    list_remove(&arena->hash_link);
    munmap(arena->base, ARENA_BYTES);
    free(arena);
}
