/* SPDX-License-Identifier: Apache-2.0
 *
 * One page of a map: 512 little-endian entries, nothing else (docs/FORMAT.md). Pure functions.
 */
#pragma once

#include <endian.h>

#include "blockd/volume/map.h"

#define MAP_PAGE_BYTES 4096
/* Most blocks that a chunk's linear index can name. */
#define MAP_LINEAR_END 65536u

_Static_assert(MAP_FANOUT * 8 == MAP_PAGE_BYTES, "a page is full of entries");

/* Blocks that one entry of a page of `level` stands for, and that the page stands for. */
static inline uint64_t map_entry_blocks(unsigned level)
{
    return 1ull << 9 * level;
}
static inline uint64_t map_page_blocks(unsigned level)
{
    return 1ull << 9 * (level + 1);
}

static inline uint64_t map_page_get(const uint64_t *page, unsigned i)
{
    return le64toh(page[i]);
}
static inline void map_page_set(uint64_t *page, unsigned i, uint64_t entry)
{
    page[i] = htole64(entry);
}

/* M2: NULL when every entry is allowed in a page of `level`, else what is wrong with one of them,
 * whose index is in *ret_i. layer_count 0 = any layer. */
const char *map_page_check(
    const uint64_t *page, unsigned level, uint32_t layer_count, unsigned *ret_i);

bool map_page_is_hole(const uint64_t *page);
/* Are the blocks of a leaf one run, so that an entry in the parent can stand for them? */
bool map_page_is_run(const uint64_t *page);
/* How many entries from `i` on continue the run that begins there (at least 1), up to `max`. */
unsigned map_page_run(const uint64_t *page, unsigned level, unsigned i, unsigned max);
/* Fills a leaf with what the entry of its parent stood for: HOLE, MAPPED or TRIMMED. */
void map_page_expand(uint64_t *page, uint64_t entry);
