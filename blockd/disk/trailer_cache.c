/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/disk/trailer_cache.h"

#include "blockd/disk/shard.h"
#include "common/check.h"
#include "common/mem.h"

#define PAGES_MIN 8 /* whatever the cap: a read must be able to hold its trailer blocks */

static uint64_t pages_for(uint64_t cap_bytes)
{
    return MAX(cap_bytes / (BLOCK_BYTES + sizeof(struct trailer_page)), (uint64_t)PAGES_MIN);
}

void trailer_cache_init(struct trailer_cache *cache, uint64_t cap_bytes)
{
    *cache = (struct trailer_cache){.page_count_max = pages_for(cap_bytes)};
    /* The chains may grow when the cap does; they stay short enough. */
    cache->bucket_count = 64;
    while (cache->bucket_count < cache->page_count_max && cache->bucket_count < (1u << 20))
        cache->bucket_count *= 2;
    cache->buckets = mem_zalloc(cache->bucket_count, sizeof(*cache->buckets));
    list_init(&cache->lru);
    cache->blocks = bufpool_new(UINT64_MAX);
}

static struct trailer_page **find_link(struct trailer_cache *cache, uint64_t nonce, uint32_t number)
{
    /* The nonce is random: its low bits and the number are hash enough. */
    struct trailer_page **link = &cache->buckets[(nonce + number) & (cache->bucket_count - 1)];
    while (*link != NULL && ((*link)->nonce != nonce || (*link)->number != number))
        link = &(*link)->hash_next;
    return link;
}

static void page_free(struct trailer_cache *cache, struct trailer_page *page)
{
    CHECK(page->pins == 0);
    bufpool_put(cache->blocks, page->block);
    mem_free(page);
    cache->page_count--;
}

static void evict(struct trailer_cache *cache, struct trailer_page *page)
{
    *find_link(cache, page->nonce, page->number) = page->hash_next;
    list_remove(&page->lru_link);
    page_free(cache, page);
}

static void shrink_to(struct trailer_cache *cache, uint64_t page_count)
{
    list_for_each_safe (it, &cache->lru) {
        if (cache->page_count <= page_count)
            return;
        struct trailer_page *page = list_entry(it, struct trailer_page, lru_link);
        if (page->pins == 0)
            evict(cache, page);
    }
}

void trailer_cache_fini(struct trailer_cache *cache)
{
    shrink_to(cache, 0);
    CHECK(cache->page_count == 0);
    mem_free(cache->buckets);
    bufpool_free(cache->blocks);
    *cache = (struct trailer_cache){0};
}

void trailer_cache_set_cap(struct trailer_cache *cache, uint64_t cap_bytes)
{
    cache->page_count_max = pages_for(cap_bytes);
    shrink_to(cache, cache->page_count_max);
}

struct trailer_page *trailer_cache_find(
    struct trailer_cache *cache, uint64_t nonce, uint32_t number)
{
    struct trailer_page *page = *find_link(cache, nonce, number);
    if (page == NULL) {
        cache->misses++;
        return NULL;
    }
    cache->hits++;
    page->pins++;
    list_remove(&page->lru_link);
    list_push_back(&cache->lru, &page->lru_link);
    return page;
}

struct trailer_page *trailer_cache_new_page(
    struct trailer_cache *cache, uint64_t nonce, uint32_t number)
{
    if (cache->page_count >= cache->page_count_max)
        shrink_to(cache, cache->page_count_max - 1);
    struct trailer_page *page = NEW(struct trailer_page);
    *page = (struct trailer_page){
        .nonce = nonce, .number = number, .pins = 1, .block = bufpool_get(cache->blocks)};
    list_init(&page->lru_link);
    cache->page_count++;
    return page;
}

void trailer_cache_insert(struct trailer_cache *cache, struct trailer_page *page)
{
    struct trailer_page **link = find_link(cache, page->nonce, page->number);
    if (*link != NULL)
        return;
    page->cached = true;
    page->hash_next = NULL;
    *link = page;
    list_push_back(&cache->lru, &page->lru_link);
}

void trailer_cache_unpin(struct trailer_cache *cache, struct trailer_page *page)
{
    CHECK(page->pins > 0);
    page->pins--;
    if (page->pins > 0)
        return;
    if (!page->cached)
        page_free(cache, page);
    else if (cache->page_count > cache->page_count_max)
        evict(cache, page);
}
