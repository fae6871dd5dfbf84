/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/volume/map_cache.h"

#include "common/check.h"
#include "common/mem.h"

static uint64_t slot_count_for(uint64_t pages)
{
    uint64_t count = 64;
    while (count < 2 * pages)
        count *= 2;
    return count;
}

struct map_cache *map_cache_new(uint64_t cap_bytes)
{
    struct map_cache *cache = NEW(struct map_cache);
    cache->cap_bytes = cap_bytes;
    uint64_t count = slot_count_for(cap_bytes / MAP_CACHE_PAGE_BYTES);
    cache->slot_mask = count - 1;
    cache->slots = mem_zalloc(count, sizeof(*cache->slots));
    cache->blocks = bufpool_new(UINT64_MAX);
    return cache;
}

void map_cache_free(struct map_cache *cache)
{
    CHECK_MSG(cache->slot_used == 0 && cache->used_bytes == 0, "maps must be freed before");
    bufpool_free(cache->blocks);
    mem_free(cache->slots);
    mem_free(cache);
}

uint64_t map_cache_used_bytes(const struct map_cache *cache)
{
    return cache->used_bytes;
}

/* --- The table ------------------------------------------------------------------------------------ */

static void put_slot(struct map_cache *cache, const struct map_slot *slot)
{
    uint64_t i = map_cache_home(cache, slot->map, slot->pointer);
    while (cache->slots[i].map)
        i = (i + 1) & cache->slot_mask;
    cache->slots[i] = *slot;
}

static void resize(struct map_cache *cache, uint64_t count)
{
    struct map_slot *old = cache->slots;
    uint64_t old_count = cache->slot_mask + 1;
    cache->slots = mem_zalloc(count, sizeof(*cache->slots));
    cache->slot_mask = count - 1;
    for (uint64_t i = 0; i < old_count; i++) {
        if (old[i].map)
            put_slot(cache, &old[i]);
    }
    mem_free(old);
}

/* Closes the gap, so that every page stays reachable from its home without tombstones. */
static void clear_slot(struct map_cache *cache, struct map_slot *slot)
{
    uint64_t gap = (uint64_t)(slot - cache->slots), mask = cache->slot_mask;
    for (uint64_t i = (gap + 1) & mask; cache->slots[i].map; i = (i + 1) & mask) {
        uint64_t home = map_cache_home(cache, cache->slots[i].map, cache->slots[i].pointer);
        if (((i - home) & mask) >= ((i - gap) & mask)) {
            cache->slots[gap] = cache->slots[i];
            gap = i;
        }
    }
    cache->slots[gap] = (struct map_slot){0};
}

static void take_out(struct map_cache *cache, struct map_page *page)
{
    clear_slot(cache, map_cache_slot(cache, page->map, page->pointer));
    cache->slot_used--;
    cache->interior_bytes -= page->level > 0 ? MAP_CACHE_PAGE_BYTES : 0;
    list_remove(&page->map_link);
    page->map = NULL;
}

static void page_free(struct map_cache *cache, struct map_page *page)
{
    CHECK(page->pins == 0 && !page->map);
    cache->used_bytes -= MAP_CACHE_PAGE_BYTES;
    bufpool_put(cache->blocks, page->entries);
    mem_free(page);
}

/* --- Eviction ------------------------------------------------------------------------------------- */

static bool interior_is_much(const struct map_cache *cache)
{
    return cache->interior_bytes > cache->cap_bytes / 4 * 3;
}

/* The next page that can go, out of the table; NULL when all are pinned, or interior ones that stay. */
static struct map_page *take_victim(struct map_cache *cache)
{
    if (cache->slot_used == 0)
        return NULL;
    uint64_t round = cache->slot_mask + 1;
    bool leaf_seen = false; /* one that can go, sooner or later */
    /* Four rounds use up all chances; what is left then is pinned. */
    for (uint64_t step = 0; step < 4 * round; step++) {
        struct map_slot *slot = &cache->slots[cache->clock_hand++ & cache->slot_mask];
        if (!slot->map || !slot->entries_chances)
            continue;
        struct map_page *page = slot->page;
        bool interior = page->level > 0;
        leaf_seen = leaf_seen || (!interior && page->pins == 0);
        if (interior && !interior_is_much(cache) && (step >= round || !leaf_seen))
            continue;
        if (slot->entries_chances & MAP_CHANCES_MASK) {
            slot->entries_chances--;
            continue;
        }
        if (page->pins > 0)
            continue;
        take_out(cache, page);
        return page;
    }
    return NULL;
}

static void shrink(struct map_cache *cache)
{
    while (cache->used_bytes > cache->cap_bytes) {
        struct map_page *victim = take_victim(cache);
        if (!victim)
            return;
        page_free(cache, victim);
    }
}

void map_cache_set_cap(struct map_cache *cache, uint64_t cap_bytes)
{
    cache->cap_bytes = cap_bytes;
    shrink(cache);
    uint64_t count = slot_count_for(MAX(cap_bytes / MAP_CACHE_PAGE_BYTES, cache->slot_used));
    if (count != cache->slot_mask + 1)
        resize(cache, count);
}

/* --- Pages ---------------------------------------------------------------------------------------- */

void map_owner_init(struct map_owner *map, struct map_cache *cache)
{
    /* Far apart in the hash, whatever pointers the maps use. */
    map->salt = ++cache->owner_count * 0xd6e8feb86659fd93;
    list_init(&map->pages);
}

struct map_page *map_cache_page_new(struct map_cache *cache, unsigned level)
{
    struct map_page *page = NULL;
    if (cache->used_bytes + MAP_CACHE_PAGE_BYTES > cache->cap_bytes)
        page = take_victim(cache);
    if (!page) {
        page = NEW(struct map_page);
        page->entries = bufpool_get(cache->blocks);
        list_init(&page->map_link);
        cache->used_bytes += MAP_CACHE_PAGE_BYTES;
    }
    page->pins = 1;
    page->level = (uint8_t)level;
    page->loading = false;
    page->error = 0;
    fiber_queue_init(&page->loaded);
    return page;
}

void map_cache_insert(struct map_cache *cache, struct map_page *page, struct map_owner *map,
    uint64_t pointer, bool chance)
{
    CHECK(!page->map && !map_cache_slot(cache, map, pointer));
    if (2 * (cache->slot_used + 1) > cache->slot_mask)
        resize(cache, 2 * (cache->slot_mask + 1));
    page->map = map;
    page->pointer = pointer;
    struct map_slot slot = {.map = map, .pointer = pointer, .page = page};
    if (!page->loading)
        slot.entries_chances = (uintptr_t)page->entries;
    if (chance)
        map_slot_touch(&slot, page->level);
    put_slot(cache, &slot);
    cache->slot_used++;
    cache->interior_bytes += page->level > 0 ? MAP_CACHE_PAGE_BYTES : 0;
    list_push_back(&map->pages, &page->map_link);
}

void map_cache_loaded(struct map_cache *cache, struct map_page *page)
{
    struct map_slot *slot = map_cache_slot(cache, page->map, page->pointer);
    page->loading = false;
    slot->entries_chances = (uintptr_t)page->entries;
    map_slot_touch(slot, page->level);
}

void map_cache_forget(struct map_cache *cache, const struct map_owner *map, uint64_t pointer)
{
    struct map_slot *slot = map_cache_slot(cache, map, pointer);
    if (slot)
        slot->entries_chances &= ~MAP_CHANCES_MASK;
}

void map_cache_drop(struct map_cache *cache, struct map_page *page)
{
    take_out(cache, page);
    if (page->pins == 0)
        page_free(cache, page);
}

void map_cache_unpin(struct map_cache *cache, struct map_page *page)
{
    CHECK(page->pins > 0);
    if (--page->pins > 0)
        return;
    if (!page->map)
        page_free(cache, page);
    else if (cache->used_bytes > cache->cap_bytes && page->level == 0)
        map_cache_drop(cache, page); /* over the cap by what is pinned, as this was */
    else
        shrink(cache);
}
