/* SPDX-License-Identifier: Apache-2.0
 *
 * Page-aligned buffers of 64 KiB to 1 MiB (powers of two), cut from 2 MiB pieces that the kernel may back
 * by huge pages: pinning a 1 MiB buffer for O_DIRECT is then one step instead of 256, and it goes to the
 * device as one segment. For mem.c only. State is per thread: freed by the thread that allocated.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* Maps `len_bytes` (a multiple of 2 MiB) aligned to 2 MiB with `before_bytes` before it; NULL: no memory. */
void *mem_map_huge(size_t len_bytes, size_t before_bytes);

bool mem_arena_takes(size_t len_bytes);
/* NULL: the system has no memory. */
void *mem_arena_alloc(size_t len_bytes);
void mem_arena_free(void *ptr, size_t len_bytes);
