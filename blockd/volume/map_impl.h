/* SPDX-License-Identifier: Apache-2.0
 *
 * What the map_*.c files share.
 */
#pragma once

#include "blockd/volume/map_cache.h"

/* A page that the next merge is to write elsewhere. */
struct map_mark {
    uint64_t start; /* first block address that the page stands for */
    unsigned level;
    uint64_t pointer;
    bool taken; /* by a merge whose tree is not switched to yet */
};

struct map {
    struct map_owner owner;
    struct map_cache *cache;
    struct map_store store;
    uint64_t root;
    unsigned levels;
    struct map_mark *marks;
    unsigned mark_count, mark_capacity;
    bool merging;
    unsigned walking;
};

/* The page of (level, index) that `pointer` names, from the cache or the store; pinned. */
MAY_SUSPEND int map_page_load(
    struct map *map, uint64_t pointer, unsigned level, uint64_t index, struct map_page **ret_page);

/* Children of one interior page, loaded together: reads of cold maps go out many at a time. */
#define MAP_BATCH_MAX 32
struct map_batch {
    struct map *map;
    unsigned level; /* of the children */
    unsigned count;
    uint64_t indices[MAP_BATCH_MAX]; /* ascending */
    uint64_t pointers[MAP_BATCH_MAX];
    struct map_page *pages[MAP_BATCH_MAX]; /* pinned */
    int error;
};
void map_batch_init(struct map_batch *batch, struct map *map);
/* False when it is full. */
bool map_batch_add(struct map_batch *batch, unsigned level, uint64_t index, uint64_t pointer);
MAY_SUSPEND int map_batch_load(struct map_batch *batch);
/* NULL when it is not in the batch. Valid until map_batch_clear. */
struct map_page *map_batch_find(const struct map_batch *batch, unsigned level, uint64_t index);
void map_batch_clear(struct map_batch *batch);
