/* SPDX-License-Identifier: Apache-2.0
 *
 * Looking up and walking; map_merge.c changes.
 *
 * A lookup takes the root once and descends: every page below is immutable, so whatever merges
 * meanwhile, it answers from one whole tree. Only when that tree's pages are gone under it (the
 * caller
 * switched and dropped them) does it start again from the new root.
 */
#include "blockd/volume/map.h"

#include <errno.h>
#include <string.h>

#include "blockd/volume/map_impl.h"
#include "common/check.h"
#include "common/mem.h"

struct map *map_new(
    struct map_cache *cache, const struct map_store *store, uint64_t root, unsigned levels)
{
    CHECK(levels >= 1 && levels <= MAP_LEVELS_MAX);
    CHECK(map_entry_type(root) == MAP_PAGE || root == 0);
    struct map *map = NEW(struct map);
    map->cache = cache;
    map->store = *store;
    map->root = root;
    map->levels = levels;
    map_owner_init(&map->owner, cache);
    return map;
}

void map_free(struct map *map)
{
    CHECK(!map->merging && map->walking == 0);
    list_for_each_safe (it, &map->owner.pages) {
        struct map_page *page = list_entry(it, struct map_page, map_link);
        CHECK_MSG(page->pins == 0, "a map is freed while it is read");
        map_cache_drop(map->cache, page);
    }
    mem_free(map->marks);
    mem_free(map);
}

uint64_t map_root(const struct map *map)
{
    return map->root;
}

unsigned map_levels(const struct map *map)
{
    return map->levels;
}

/* The run that begins `skip` blocks into entry `i`, as long as this page tells. */
static void run_in_page(const uint64_t *page, unsigned level, unsigned i, uint64_t skip,
    uint64_t len_max, struct map_run *ret_run)
{
    uint64_t entry = map_page_get(page, i), unit = map_entry_blocks(level);
    uint64_t wanted = (skip + len_max - 1) / unit + 1; /* entries, at most */
    uint64_t len = unit;
    if (wanted > 1)
        len *= map_page_run(page, level, i, (unsigned)MIN(wanted, MAP_FANOUT));
    ret_run->type = map_entry_type(entry);
    ret_run->entry = ret_run->type == MAP_MAPPED ? entry + skip : 0;
    ret_run->len = MIN(len - skip, len_max);
}

static MAY_SUSPEND int lookup_in_tree(struct map *map, uint64_t root, unsigned levels,
    uint64_t address, uint64_t len_max, struct map_run *ret_run)
{
    if (root == 0 || address >= map_page_blocks(levels - 1)) {
        *ret_run = (struct map_run){.type = MAP_HOLE, .len = len_max};
        return 0;
    }
    uint64_t pointer = root;
    for (unsigned level = levels - 1;; level--) {
        struct map_page *page = NULL;
        const uint64_t *entries = map_cache_hit(map->cache, &map->owner, pointer, level);
        if (!entries) {
            int r = map_page_load(map, pointer, level, address >> 9 * (level + 1), &page);
            if (r < 0)
                return r;
            entries = page->entries;
        }
        unsigned i = address >> 9 * level & (MAP_FANOUT - 1);
        pointer = map_page_get(entries, i);
        bool found = map_entry_type(pointer) != MAP_PAGE;
        if (found)
            run_in_page(
                entries, level, i, address & (map_entry_blocks(level) - 1), len_max, ret_run);
        if (page)
            map_cache_unpin(map->cache, page);
        if (found)
            return 0;
    }
}

int map_lookup(struct map *map, uint64_t address, uint64_t len_max, struct map_run *ret_run)
{
    CHECK(len_max > 0);
    len_max = MIN(len_max, map_page_blocks(MAP_LEVELS_MAX));
    for (;;) {
        uint64_t root = map->root;
        int r = lookup_in_tree(map, root, map->levels, address, len_max, ret_run);
        if (r == 0 || root == map->root)
            return r;
    }
}

/* --- Walking -------------------------------------------------------------------------------------- */

struct walk {
    struct map *map;
    int (*page)(void *ctx, uint64_t pointer, uint64_t page_address);
    int (*run)(void *ctx, uint64_t address, uint64_t entry, uint64_t len);
    void *ctx;
    struct map_batch batch;
};

static int walk_runs(
    struct walk *walk, const struct map_page *page, unsigned level, uint64_t index, unsigned *i)
{
    unsigned n = map_page_run(page->entries, level, *i, MAP_FANOUT);
    uint64_t entry = map_page_get(page->entries, *i);
    uint64_t address = ((index << 9) + *i) << 9 * level;
    *i += n;
    if (map_entry_type(entry) != MAP_MAPPED || !walk->run)
        return 0;
    return walk->run(walk->ctx, address, entry, n * map_entry_blocks(level));
}

/* Leaves of one level 1 page come in batches. */
static MAY_SUSPEND int walk_child(struct walk *walk, const struct map_page *parent, unsigned level,
    uint64_t index, struct map_page **ret_page)
{
    uint64_t pointer = map_page_get(parent->entries, index % MAP_FANOUT);
    if (level > 0)
        return map_page_load(walk->map, pointer, level, index, ret_page);
    struct map_page *page = map_batch_find(&walk->batch, level, index);
    if (!page) {
        map_batch_clear(&walk->batch);
        for (unsigned i = index % MAP_FANOUT; i < MAP_FANOUT; i++) {
            uint64_t entry = map_page_get(parent->entries, i);
            if (map_entry_type(entry) == MAP_PAGE &&
                !map_batch_add(&walk->batch, level, ROUND_DOWN(index, MAP_FANOUT) + i, entry))
                break;
        }
        int r = map_batch_load(&walk->batch);
        if (r < 0)
            return r;
        page = map_batch_find(&walk->batch, level, index);
    }
    page->pins++;
    *ret_page = page;
    return 0;
}

static MAY_SUSPEND int walk_page(
    struct walk *walk, struct map_page *page, uint64_t pointer, unsigned level, uint64_t index)
{
    int r = walk->page ? walk->page(walk->ctx, pointer, map_page_address(level, index)) : 0;
    for (unsigned i = 0; r == 0 && i < MAP_FANOUT;) {
        uint64_t entry = map_page_get(page->entries, i);
        if (map_entry_type(entry) != MAP_PAGE) {
            r = walk_runs(walk, page, level, index, &i);
            continue;
        }
        struct map_page *child;
        uint64_t child_index = index * MAP_FANOUT + i++;
        r = walk_child(walk, page, level - 1, child_index, &child);
        if (r != 0)
            break;
        r = walk_page(walk, child, entry, level - 1, child_index);
        map_cache_unpin(walk->map->cache, child);
    }
    return r;
}

int map_walk(struct map *map, int (*page)(void *ctx, uint64_t pointer, uint64_t page_address),
    int (*run)(void *ctx, uint64_t address, uint64_t entry, uint64_t len), void *ctx)
{
    if (map->root == 0)
        return 0;
    struct walk *walk = NEW(struct walk);
    walk->map = map;
    walk->page = page;
    walk->run = run;
    walk->ctx = ctx;
    map_batch_init(&walk->batch, map);
    map->walking++;
    uint64_t root = map->root;
    unsigned levels = map->levels;
    struct map_page *top;
    int r = map_page_load(map, root, levels - 1, 0, &top);
    if (r == 0) {
        r = walk_page(walk, top, root, levels - 1, 0);
        map_cache_unpin(map->cache, top);
    }
    map_batch_clear(&walk->batch);
    map->walking--;
    mem_free(walk);
    return r;
}

/* --- Rewriting ------------------------------------------------------------------------------------ */

void map_rewrite_page(struct map *map, uint64_t page_address, uint64_t pointer)
{
    unsigned level = page_address >> 56;
    uint64_t index = page_address & ((1ull << 56) - 1);
    CHECK(level < MAP_LEVELS_MAX && map_entry_type(pointer) == MAP_PAGE);
    if (map->mark_count == map->mark_capacity) {
        map->mark_capacity = MAX(64u, 2 * map->mark_capacity);
        map->marks = mem_realloc(map->marks, map->mark_capacity * sizeof(*map->marks));
    }
    map->marks[map->mark_count++] =
        (struct map_mark){.start = index << 9 * (level + 1), .level = level, .pointer = pointer};
}

void map_switch(struct map *map, uint64_t root, unsigned levels)
{
    CHECK(!map->merging && levels >= 1 && levels <= MAP_LEVELS_MAX);
    CHECK(map_entry_type(root) == MAP_PAGE || root == 0);
    map->root = root;
    map->levels = levels;
    unsigned kept = 0;
    for (unsigned i = 0; i < map->mark_count; i++) {
        if (!map->marks[i].taken)
            map->marks[kept++] = map->marks[i];
    }
    map->mark_count = kept;
}
