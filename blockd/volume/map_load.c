/* SPDX-License-Identifier: Apache-2.0
 *
 * Getting pages from the store into the cache. Fibers that want the same page wait for one read of
 * it.
 */
#include <errno.h>

#include "blockd/volume/fanout.h"
#include "blockd/volume/map_impl.h"
#include "common/check.h"
#include "common/log.h"

/* M2: what was read must be able to be a page of this level. */
static int check_content(const struct map *map, const struct map_page *page, uint64_t index)
{
    unsigned i;
    const char *problem = map_page_check(page->entries, page->level, map->store.layer_count, &i);
    if (!problem)
        return 0;
    log_error("map page level %u of blocks %llu on, in metadata chunk %llu block %u, is damaged: "
              "entry %u: %s",
        page->level, (unsigned long long)(index << 9 * (page->level + 1)),
        (unsigned long long)map_entry_chunk(page->pointer), map_entry_linear(page->pointer), i,
        problem);
    return -EBADMSG;
}

static MAY_SUSPEND int wait_loaded(struct map *map, struct map_page *page)
{
    page->pins++;
    while (page->loading)
        fiber_queue_wait(&page->loaded);
    int r = page->error;
    if (r < 0)
        map_cache_unpin(map->cache, page);
    return r;
}

int map_page_load(
    struct map *map, uint64_t pointer, unsigned level, uint64_t index, struct map_page **ret_page)
{
    struct map_slot *slot = map_cache_slot(map->cache, &map->owner, pointer);
    if (slot) {
        map_slot_touch(slot, level);
        struct map_page *page = slot->page;
        int r = wait_loaded(map, page);
        if (r == 0)
            *ret_page = page;
        return r;
    }

    struct map_page *page = map_cache_page_new(map->cache, level);
    page->loading = true;
    map_cache_insert(map->cache, page, &map->owner, pointer, true);
    int r = map->store.page_read(
        map->store.ctx, pointer, map_page_address(level, index), page->entries);
    if (r == 0)
        r = check_content(map, page, index);
    if (r == 0) {
        map_cache_loaded(map->cache, page);
        *ret_page = page;
    } else {
        page->loading = false;
        page->error = r;
        map_cache_drop(map->cache, page);
    }
    fiber_queue_wake_all(&page->loaded);
    if (r < 0)
        map_cache_unpin(map->cache, page);
    return r;
}

void map_batch_init(struct map_batch *batch, struct map *map)
{
    batch->map = map;
    batch->count = 0;
    batch->error = 0;
}

bool map_batch_add(struct map_batch *batch, unsigned level, uint64_t index, uint64_t pointer)
{
    if (batch->count == MAP_BATCH_MAX)
        return false;
    batch->level = level;
    batch->indices[batch->count] = index;
    batch->pointers[batch->count] = pointer;
    batch->pages[batch->count++] = NULL;
    return true;
}

static void load_one(void *ctx, unsigned i)
{
    struct map_batch *batch = ctx;
    int r = map_page_load(
        batch->map, batch->pointers[i], batch->level, batch->indices[i], &batch->pages[i]);
    if (r < 0 && batch->error == 0)
        batch->error = r;
}

int map_batch_load(struct map_batch *batch)
{
    bool all_cached = true;
    for (unsigned i = 0; i < batch->count && all_cached; i++) {
        struct map_page *page =
            map_cache_find(batch->map->cache, &batch->map->owner, batch->pointers[i]);
        all_cached = page && !page->loading;
    }
    batch->error = 0;
    if (all_cached) { /* no fibers for what does not suspend */
        for (unsigned i = 0; i < batch->count; i++)
            load_one(batch, i);
    } else {
        fanout_run("map load", batch->count, batch->count, load_one, batch);
    }
    int r = batch->error;
    if (r < 0)
        map_batch_clear(batch);
    return r;
}

struct map_page *map_batch_find(const struct map_batch *batch, unsigned level, uint64_t index)
{
    for (unsigned i = 0; i < batch->count && batch->level == level; i++) {
        if (batch->indices[i] == index)
            return batch->pages[i];
    }
    return NULL;
}

void map_batch_clear(struct map_batch *batch)
{
    for (unsigned i = 0; i < batch->count; i++) {
        if (batch->pages[i])
            map_cache_unpin(batch->map->cache, batch->pages[i]);
    }
    batch->count = 0;
}
