/* SPDX-License-Identifier: Apache-2.0
 *
 * Cached trailer blocks of one disk, least recently used first to go, under a cap. Keyed by the
 * shard's nonce and the trailer block's number: a removed shard's blocks are never found again and
 * age out. Everything in the cache has been verified. No I/O.
 */
#pragma once

#include <stdint.h>

#include "common/bufpool.h"
#include "common/list.h"

struct trailer_page {
    struct list lru_link;
    struct trailer_page *hash_next;
    uint64_t nonce;
    uint32_t number;
    unsigned pins; /* users; a pinned page is not evicted */
    bool cached;
    void *block; /* BLOCK_BYTES, aligned */
};

struct trailer_cache {
    struct trailer_page **buckets;
    uint32_t bucket_count;
    struct list lru;        /* oldest first */
    struct bufpool *blocks; /* of the pages; the cap is page_count_max */
    uint64_t page_count, page_count_max;
    uint64_t hits, misses;
};

void trailer_cache_init(struct trailer_cache *cache, uint64_t cap_bytes);
void trailer_cache_fini(struct trailer_cache *cache);
void trailer_cache_set_cap(struct trailer_cache *cache, uint64_t cap_bytes);

/* The cached page, pinned, or NULL. */
struct trailer_page *trailer_cache_find(
    struct trailer_cache *cache, uint64_t nonce, uint32_t number);
/* A page to read into, pinned, not found by others before it is inserted. Makes room by evicting.
 */
struct trailer_page *trailer_cache_new_page(
    struct trailer_cache *cache, uint64_t nonce, uint32_t number);
/* Its block has been verified: others may find it. A page of the same block stays the first one
 * inserted. */
void trailer_cache_insert(struct trailer_cache *cache, struct trailer_page *page);
void trailer_cache_unpin(struct trailer_cache *cache, struct trailer_page *page);
