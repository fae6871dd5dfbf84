/* SPDX-License-Identifier: Apache-2.0
 *
 * malloc with an owner. In front of every block stand its length and its env. Where the env tracks
 * (simulation, sanitizer builds) a list link stands before those, so that mem_release_all() can
 * free what a crashed node had. Page blocks have no room in front: tracking puts a whole page
 * there.
 *
 *   tracked:    [struct list][struct mem_header] payload      [page: struct mem_pages] payload
 * pages otherwise:               [struct mem_header] payload                               payload
 * pages
 *
 *  M1 A block is freed on the env that allocated it (CHECKed), or it was allocated before any env
 * was. M2 Whether an env tracks is fixed before its first allocation.
 *  M3 Pages in which a read was left behind (T2) are freed when no I/O has them any more.
 */
#include "common/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/check.h"
#include "common/env_impl.h"
#include "common/fiber.h"
#include "common/fiber_switch.h"
#include "common/mem_arena.h"

#define PAGE_BYTES 4096ul
#define HUGE_BYTES (2ul << 20)

struct mem_header {
    size_t len_bytes;
    struct env *env;
};

/* What mem_release_all() finds on the env's list. */
struct mem_tracked {
    struct list link;
    struct mem_header header;
};
struct mem_pages {
    struct list link;
    size_t len_bytes;
};

_Static_assert(sizeof(struct mem_header) == 16, "payload keeps malloc's alignment");
_Static_assert(sizeof(struct mem_tracked) == 32, "payload keeps malloc's alignment");

static bool env_tracks(const struct env *env)
{
    return env && env->mem_track;
}

static size_t front_bytes(const struct env *env)
{
    return env_tracks(env) ? sizeof(struct mem_tracked) : sizeof(struct mem_header);
}

static void *out_of_memory(size_t len_bytes)
{
    check_failed(__FILE__, __LINE__, "memory", "the system has no %zu bytes more", len_bytes);
}

static struct mem_header *header_of(void *ptr)
{
    struct mem_header *header = (struct mem_header *)ptr - 1;
    CHECK_MSG(!header->env || header->env == fiber_env(), "freed on another env (M1)");
    return header;
}

/* Fills the front of `base` and returns the payload's address. */
static void *enlist(void *base, struct env *env, size_t len_bytes)
{
    char *payload = (char *)base + front_bytes(env);
    struct mem_header *header = (struct mem_header *)payload - 1;
    header->len_bytes = len_bytes;
    header->env = env;
    if (env)
        env->mem_used_bytes += len_bytes;
    if (env_tracks(env))
        list_push_back(&env->mem_blocks, base);
    return payload;
}

/* Reverse of enlist: returns malloc's address. */
static void *delist(struct mem_header *header)
{
    struct env *env = header->env;
    void *base = (char *)(header + 1) - front_bytes(env);
    if (env)
        env->mem_used_bytes -= header->len_bytes;
    if (env_tracks(env))
        list_remove(base);
    return base;
}

void *mem_alloc(size_t len_bytes)
{
    struct env *env = fiber_env();
    CHECK(len_bytes < SIZE_MAX / 2);
    void *base = malloc(len_bytes + front_bytes(env));
    if (!base)
        out_of_memory(len_bytes);
    return enlist(base, env, len_bytes);
}

void *mem_zalloc(size_t count, size_t size_bytes)
{
    struct env *env = fiber_env();
    size_t len_bytes;
    CHECK(!__builtin_mul_overflow(count, size_bytes, &len_bytes) && len_bytes < SIZE_MAX / 2);
    /* calloc, not memset: large blocks come zeroed from the kernel, untouched. */
    void *base = calloc(1, len_bytes + front_bytes(env));
    if (!base)
        out_of_memory(len_bytes);
    return enlist(base, env, len_bytes);
}

void *mem_realloc(void *ptr, size_t len_bytes)
{
    if (!ptr)
        return mem_alloc(len_bytes);
    CHECK(len_bytes < SIZE_MAX / 2);
    struct mem_header *header = header_of(ptr);
    struct env *env = header->env;
    void *base = realloc(delist(header), len_bytes + front_bytes(env));
    if (!base)
        out_of_memory(len_bytes);
    return enlist(base, env, len_bytes);
}

void mem_free(void *ptr)
{
    if (ptr)
        free(delist(header_of(ptr)));
}

char *mem_strdup(const char *text)
{
    size_t len_bytes = strlen(text) + 1;
    return memcpy(mem_alloc(len_bytes), text, len_bytes);
}

char *mem_printf(const char *format, ...)
{
    char *raw;
    va_list args;
    va_start(args, format);
    int len = vasprintf(&raw, format, args);
    va_end(args);
    if (len < 0)
        out_of_memory(0);
    char *text = memcpy(mem_alloc(len + 1), raw, len + 1);
    free(raw);
    return text;
}

/* Whole multiples of 2 MiB are mapped at 2 MiB alignment, so that the kernel may back them by huge pages and
 * their owners find the start of a slab by masking; `before_bytes` more are mapped before. */
static bool is_huge(size_t len_bytes)
{
    return len_bytes > 0 && len_bytes % HUGE_BYTES == 0;
}

/* What the simulation tracks, and what ASan watches, has each its own block. */
static bool in_arena(const struct env *env, size_t len_bytes)
{
#ifdef FIBER_ASAN
    return false;
#else
    return !env_tracks(env) && mem_arena_takes(len_bytes);
#endif
}

static void free_pages_base(void *base, size_t len_bytes, size_t before_bytes)
{
    if (!is_huge(len_bytes)) {
        free(base);
        return;
    }
#ifdef FIBER_ASAN
    ASAN_UNPOISON_MEMORY_REGION(base, len_bytes + before_bytes); /* bufpool.c poisons free blocks */
#endif
    munmap(base, len_bytes + before_bytes);
}

void *mem_alloc_pages(size_t len_bytes)
{
    struct env *env = fiber_env();
    CHECK(len_bytes < SIZE_MAX / 2);
    len_bytes = ROUND_UP(MAX(len_bytes, 1ul), PAGE_BYTES);
    size_t before_bytes = env_tracks(env) ? PAGE_BYTES : 0;
    char *base = is_huge(len_bytes)         ? mem_map_huge(len_bytes, before_bytes)
                 : in_arena(env, len_bytes) ? mem_arena_alloc(len_bytes)
                                            : aligned_alloc(PAGE_BYTES, len_bytes + before_bytes);
    if (!base)
        out_of_memory(len_bytes);
    if (env_tracks(env)) {
        struct mem_pages *pages = (struct mem_pages *)base;
        pages->len_bytes = len_bytes;
        list_push_back(&env->mem_page_blocks, &pages->link);
    }
    if (env)
        env->mem_used_bytes += len_bytes;
    return base + before_bytes;
}

struct pages_left {
    struct list link;
    struct mem_left *left; /* NULL: nobody counts them, or not any more */
    void *ptr;
    size_t len_bytes;
};

static void pages_back(void *ctx)
{
    struct pages_left *pages = ctx;
    if (pages->left)
        pages->left->bytes -= pages->len_bytes;
    list_remove(&pages->link);
    mem_free_pages(pages->ptr, pages->len_bytes);
    mem_free(pages);
}

void mem_left_init(struct mem_left *left)
{
    list_init(&left->pages);
    left->bytes = 0;
}

void mem_left_fini(struct mem_left *left)
{
    struct list *link;
    while ((link = list_pop_front(&left->pages)))
        list_entry(link, struct pages_left, link)->left = NULL;
    left->bytes = 0;
}

bool mem_left_take(struct mem_left *left, void *ptr, size_t len_bytes)
{
    if (!env_memory_left(ptr, len_bytes))
        return false;
    struct pages_left *pages = NEW(struct pages_left);
    *pages = (struct pages_left){.left = left, .ptr = ptr, .len_bytes = len_bytes};
    list_init(&pages->link);
    if (left) {
        list_push_back(&left->pages, &pages->link);
        left->bytes += len_bytes;
    }
    env_memory_leave(ptr, len_bytes, pages_back, pages);
    return true;
}

void mem_free_pages(void *ptr, size_t len_bytes)
{
    if (!ptr || mem_left_take(NULL, ptr, len_bytes)) /* M3 */
        return;
    struct env *env = fiber_env();
    len_bytes = ROUND_UP(MAX(len_bytes, 1ul), PAGE_BYTES);
    size_t before_bytes = env_tracks(env) ? PAGE_BYTES : 0;
    char *base = (char *)ptr - before_bytes;
    if (env_tracks(env)) {
        struct mem_pages *pages = (struct mem_pages *)base;
        CHECK_MSG(pages->len_bytes == len_bytes, "freed as %zu bytes, allocated as %zu", len_bytes,
            pages->len_bytes);
        list_remove(&pages->link);
    }
    if (env)
        env->mem_used_bytes -= len_bytes;
    if (in_arena(env, len_bytes))
        mem_arena_free(base, len_bytes);
    else
        free_pages_base(base, len_bytes, before_bytes);
}

uint64_t mem_used_bytes(const struct env *env)
{
    return env->mem_used_bytes;
}

void mem_release_all(struct env *env)
{
    struct list *link;
    CHECK(env->mem_track);
    while ((link = list_pop_front(&env->mem_blocks)))
        free(link);
    while ((link = list_pop_front(&env->mem_page_blocks))) {
        struct mem_pages *pages = (struct mem_pages *)link;
        free_pages_base(pages, pages->len_bytes, PAGE_BYTES);
    }
    env->mem_used_bytes = 0;
}
