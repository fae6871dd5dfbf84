/* SPDX-License-Identifier: Apache-2.0
 *
 * Cached pages of all maps of a node. Pages never change once they are in the table (M1), so there is
 * nothing to write back: any page that nobody pins can go at any time.
 *
 * Eviction is by second chance (CLOCK): a hit only sets a counter in the page. Interior pages get two
 * chances: losing one costs every lookup below it.
 */
#pragma once

#include "blockd/volume/map_page.h"
#include "common/list.h"

struct map_page {
    struct map *map; /* NULL = not in the table: being filled, or dropped while pinned */
    uint64_t pointer;
    struct map_page *bucket_next;
    struct list map_link; /* map's, while in the table */
    unsigned clock_slot;
    unsigned pins;
    uint8_t chances;
    uint8_t level;
    bool loading;
    int error;                 /* of loading */
    struct fiber_queue loaded; /* waiters while loading */
    uint64_t *entries;         /* 4 KiB aligned */
};

struct map_cache {
    uint64_t cap_bytes, used_bytes;
    struct map_page **buckets;
    uint64_t bucket_mask;
    struct map_page **clock; /* all pages in the table */
    unsigned clock_count, clock_capacity, clock_hand;
};

/* What a page costs, against the cap. */
#define MAP_CACHE_PAGE_BYTES (MAP_PAGE_BYTES + sizeof(struct map_page))

static inline struct map_page **map_cache_bucket(
    const struct map_cache *cache, const struct map *map, uint64_t pointer)
{
    uint64_t x = (pointer ^ (uintptr_t)map >> 4) * 0x9e3779b97f4a7c15;
    return &cache->buckets[(x ^ x >> 32) & cache->bucket_mask];
}

/* NULL when not cached; may be still loading. Pins nothing. */
static inline struct map_page *map_cache_find(
    const struct map_cache *cache, const struct map *map, uint64_t pointer)
{
    struct map_page *page = *map_cache_bucket(cache, map, pointer);
    while (page && (page->pointer != pointer || page->map != map))
        page = page->bucket_next;
    return page;
}

static inline void map_cache_touch(struct map_page *page)
{
    page->chances = page->level > 0 ? 2 : 1;
}

/* A page outside the table, pinned once; its contents are undefined. */
struct map_page *map_cache_page_new(struct map_cache *cache, unsigned level);
/* Puts it into the table, where no page of this map has this pointer. */
void map_cache_insert(
    struct map_cache *cache, struct map_page *page, struct map *map, uint64_t pointer);
/* Takes it out; it goes as soon as nobody pins it. */
void map_cache_drop(struct map_cache *cache, struct map_page *page);
void map_cache_unpin(struct map_cache *cache, struct map_page *page);
