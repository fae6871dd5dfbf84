/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/volume/map_cache.h"

#include "blockd/volume/map_impl.h"
#include "common/check.h"
#include "common/mem.h"

static uint64_t bucket_count_for(uint64_t cap_bytes)
{
    uint64_t count = 1024;
    while (count < cap_bytes / MAP_CACHE_PAGE_BYTES)
        count *= 2;
    return count;
}

struct map_cache *map_cache_new(uint64_t cap_bytes)
{
    struct map_cache *cache = NEW(struct map_cache);
    cache->cap_bytes = cap_bytes;
    cache->bucket_mask = bucket_count_for(cap_bytes) - 1;
    cache->buckets = mem_zalloc(cache->bucket_mask + 1, sizeof(*cache->buckets));
    return cache;
}

void map_cache_free(struct map_cache *cache)
{
    CHECK_MSG(cache->clock_count == 0 && cache->used_bytes == 0, "maps must be freed before");
    mem_free(cache->buckets);
    mem_free(cache->clock);
    mem_free(cache);
}

uint64_t map_cache_used_bytes(const struct map_cache *cache)
{
    return cache->used_bytes;
}

static void remove_from_clock(struct map_cache *cache, struct map_page *page)
{
    struct map_page *last = cache->clock[--cache->clock_count];
    cache->clock[page->clock_slot] = last;
    last->clock_slot = page->clock_slot;
}

static void remove_from_bucket(struct map_cache *cache, struct map_page *page)
{
    struct map_page **at = map_cache_bucket(cache, page->map, page->pointer);
    while (*at != page)
        at = &(*at)->bucket_next;
    *at = page->bucket_next;
}

static void remove_from_table(struct map_cache *cache, struct map_page *page)
{
    remove_from_bucket(cache, page);
    remove_from_clock(cache, page);
    list_remove(&page->map_link);
    page->map = NULL;
}

static void page_free(struct map_cache *cache, struct map_page *page)
{
    CHECK(page->pins == 0 && !page->map);
    cache->used_bytes -= MAP_CACHE_PAGE_BYTES;
    mem_free_pages(page->entries, MAP_PAGE_BYTES);
    mem_free(page);
}

/* The next page that can go, out of the table; NULL when all are pinned. */
static struct map_page *take_victim(struct map_cache *cache)
{
    /* Three rounds use up all chances; what is left then is pinned. */
    for (uint64_t steps = 3ull * cache->clock_count; steps > 0; steps--) {
        if (cache->clock_hand >= cache->clock_count)
            cache->clock_hand = 0;
        struct map_page *page = cache->clock[cache->clock_hand];
        if (page->pins == 0 && page->chances == 0) {
            remove_from_table(cache, page);
            return page;
        }
        if (page->chances > 0)
            page->chances--;
        cache->clock_hand++;
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
    uint64_t count = bucket_count_for(cap_bytes);
    if (count == cache->bucket_mask + 1)
        return;
    mem_free(cache->buckets);
    cache->buckets = mem_zalloc(count, sizeof(*cache->buckets));
    cache->bucket_mask = count - 1;
    for (unsigned i = 0; i < cache->clock_count; i++) {
        struct map_page *page = cache->clock[i];
        struct map_page **bucket = map_cache_bucket(cache, page->map, page->pointer);
        page->bucket_next = *bucket;
        *bucket = page;
    }
}

struct map_page *map_cache_page_new(struct map_cache *cache, unsigned level)
{
    struct map_page *page = NULL;
    if (cache->used_bytes + MAP_CACHE_PAGE_BYTES > cache->cap_bytes)
        page = take_victim(cache);
    if (!page) {
        page = NEW(struct map_page);
        page->entries = mem_alloc_pages(MAP_PAGE_BYTES);
        list_init(&page->map_link);
        cache->used_bytes += MAP_CACHE_PAGE_BYTES;
    }
    page->pins = 1;
    page->level = (uint8_t)level;
    page->chances = 0;
    page->loading = false;
    page->error = 0;
    fiber_queue_init(&page->loaded);
    return page;
}

void map_cache_insert(
    struct map_cache *cache, struct map_page *page, struct map *map, uint64_t pointer)
{
    CHECK(!page->map && !map_cache_find(cache, map, pointer));
    page->map = map;
    page->pointer = pointer;
    struct map_page **bucket = map_cache_bucket(cache, map, pointer);
    page->bucket_next = *bucket;
    *bucket = page;
    if (cache->clock_count == cache->clock_capacity) {
        cache->clock_capacity = MAX(64u, 2 * cache->clock_capacity);
        cache->clock = mem_realloc(cache->clock, cache->clock_capacity * sizeof(*cache->clock));
    }
    page->clock_slot = cache->clock_count;
    cache->clock[cache->clock_count++] = page;
    list_push_back(&map->pages, &page->map_link);
}

void map_cache_drop(struct map_cache *cache, struct map_page *page)
{
    remove_from_table(cache, page);
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
    else if (cache->used_bytes > cache->cap_bytes)
        shrink(cache);
}
