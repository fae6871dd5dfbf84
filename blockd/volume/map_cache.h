/* SPDX-License-Identifier: Apache-2.0
 *
 * Cached pages of all maps of a node. Pages never change once they are in the table (M1), so there
 * is
 * nothing to write back: any page that nobody pins can go at any time.
 *
 * The table is open-addressed and holds all that a hit needs: two cache lines a level, the slot's
 * and
 * the entry's. Eviction is by second chance (CLOCK) over the slots; a hit only sets the slot's
 * counter. Interior pages get two chances: losing one costs every lookup below it.
 *
 * Pinned pages may be more than the cap. Then the leaves that are let go of make room, and interior
 * pages stay as long as they take at most three quarters of the cap: were they given up for the
 * leaves on their way, each lookup would read the whole path again.
 */
#pragma once

#include "blockd/volume/map_page.h"
#include "common/bufpool.h"
#include "common/list.h"

/* What the cache knows of a map; embedded there. */
struct map_owner {
    uint64_t salt;     /* a number, not an address: a simulated run must repeat */
    struct list pages; /* in the table */
};

struct map_page {
    struct map_owner *map; /* NULL = not in the table: being filled, or dropped while pinned */
    uint64_t pointer;
    struct list map_link; /* map's, while in the table */
    unsigned pins;
    uint8_t level;
    bool loading;
    int error;                 /* of loading */
    struct fiber_queue loaded; /* waiters while loading */
    uint64_t *entries;         /* 4 KiB aligned */
};

struct map_slot {
    struct map_owner *map; /* NULL = empty */
    uint64_t pointer;
    uintptr_t
        entries_chances; /* 0 while loading; the low bits of an aligned address count chances */
    struct map_page *page;
};

struct map_cache {
    uint64_t cap_bytes, used_bytes;
    uint64_t interior_bytes; /* of pages in the table above the leaves */
    struct map_slot *slots;  /* linear probing, at most half full */
    uint64_t slot_mask, slot_used, clock_hand;
    uint64_t owner_count;   /* ever */
    struct bufpool *blocks; /* for entries; its own cap is not used */
};

#define MAP_CHANCES_MASK ((uintptr_t)3)

/* What a page costs, against the cap. */
#define MAP_CACHE_PAGE_BYTES \
    (MAP_PAGE_BYTES + sizeof(struct map_page) + 3 * sizeof(struct map_slot))

static inline uint64_t map_cache_home(
    const struct map_cache *cache, const struct map_owner *map, uint64_t pointer)
{
    uint64_t x = (pointer ^ map->salt) * 0x9e3779b97f4a7c15;
    return (x ^ x >> 32) & cache->slot_mask;
}

/* NULL when not in the table. Valid until the next insert or drop. */
static inline struct map_slot *map_cache_slot(
    const struct map_cache *cache, const struct map_owner *map, uint64_t pointer)
{
    for (uint64_t i = map_cache_home(cache, map, pointer);; i = (i + 1) & cache->slot_mask) {
        struct map_slot *slot = &cache->slots[i];
        if (!slot->map)
            return NULL;
        if (slot->pointer == pointer && slot->map == map)
            return slot;
    }
}

static inline void map_slot_touch(struct map_slot *slot, unsigned level)
{
    if (slot->entries_chances)
        slot->entries_chances |= level > 0 ? 2 : 1;
}

/* The entries of a page that is cached and loaded, and counted as a hit; NULL otherwise. Not
 * pinned:
 * good until the fiber suspends or a page is made. */
static inline const uint64_t *map_cache_hit(
    const struct map_cache *cache, const struct map_owner *map, uint64_t pointer, unsigned level)
{
    struct map_slot *slot = map_cache_slot(cache, map, pointer);
    if (!slot || !slot->entries_chances)
        return NULL;
    map_slot_touch(slot, level);
    return (const uint64_t *)(slot->entries_chances & ~MAP_CHANCES_MASK);
}

/* NULL when not cached; may be still loading. Pins nothing. */
static inline struct map_page *map_cache_find(
    const struct map_cache *cache, const struct map_owner *map, uint64_t pointer)
{
    struct map_slot *slot = map_cache_slot(cache, map, pointer);
    return slot ? slot->page : NULL;
}

void map_owner_init(struct map_owner *map, struct map_cache *cache);
/* A page outside the table, pinned once; its contents are undefined. */
struct map_page *map_cache_page_new(struct map_cache *cache, unsigned level);
/* Puts it into the table, where no page of this map has this pointer. A page that is `loading` is
 * not
 * a hit until map_cache_loaded. `chance`: is it likely to be of use again? */
void map_cache_insert(struct map_cache *cache, struct map_page *page, struct map_owner *map,
    uint64_t pointer, bool chance);
void map_cache_loaded(struct map_cache *cache, struct map_page *page);
/* The page at `pointer`, if cached, is of no more use: it goes before all others. */
void map_cache_forget(struct map_cache *cache, const struct map_owner *map, uint64_t pointer);
/* Takes it out; it goes as soon as nobody pins it. */
void map_cache_drop(struct map_cache *cache, struct map_page *page);
void map_cache_unpin(struct map_cache *cache, struct map_page *page);
