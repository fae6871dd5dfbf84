/* SPDX-License-Identifier: Apache-2.0
 *
 * Allocation for everything above the env seam. Memory belongs to the env of the calling fiber
 * (fiber_env()), so that the simulation can "crash" a node: mem_release_all() frees what the node
 * had.
 *
 * Small allocations do not fail: when the system has no memory the process stops (an operator's
 * problem; all that was acked is on disks). What grows with load is bounded by the node's memory
 * budget, not by malloc's answer.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/list.h"

struct env;

/* Never NULL; `len_bytes` 0 gives a unique pointer. Contents undefined. */
void *mem_alloc(size_t len_bytes) __attribute__((malloc, alloc_size(1)));
/* As mem_alloc, zeroed; `count * size_bytes` must not overflow (CHECKed). */
void *mem_zalloc(size_t count, size_t size_bytes) __attribute__((malloc, alloc_size(1, 2)));
void *mem_realloc(void *ptr, size_t len_bytes);
char *mem_strdup(const char *text);
char *mem_printf(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* NULL is allowed. Must run on the env that allocated `ptr`. */
void mem_free(void *ptr);

/* `len_bytes` rounded up to 4 KiB, aligned to 4 KiB: for O_DIRECT. Whole multiples of 2 MiB are
 * zeroed, aligned to 2 MiB and go back to the system when freed. Freed by mem_free_pages. */
void *mem_alloc_pages(size_t len_bytes);
void mem_free_pages(void *ptr, size_t len_bytes);

/* Pages of one owner in which reads were left behind (env.h, T2): freed when no I/O has them any more (M3). */
struct mem_left {
    struct list pages;
    uint64_t bytes;
};

void mem_left_init(struct mem_left *left);
/* The owner goes; what is left is freed in its time all the same. */
void mem_left_fini(struct mem_left *left);
/* True: a read was left behind in these pages; they are not the caller's any more, and count in left->bytes (`left`
 * NULL: nowhere) until they are freed. */
bool mem_left_take(struct mem_left *left, void *ptr, size_t len_bytes);

/* Bytes now allocated by `env`, pages included. */
uint64_t mem_used_bytes(const struct env *env);

#define NEW(type) ((type *)mem_zalloc(1, sizeof(type)))

static inline void mem_cleanup_free(void *pp)
{
    mem_free(*(void **)pp);
}
#define CLEANUP_FREE __attribute__((cleanup(mem_cleanup_free)))
