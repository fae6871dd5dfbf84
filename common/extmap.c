/* SPDX-License-Identifier: Apache-2.0
 *
 * What an insert means (X2, X3); the ordered tree of extents is extmap_tree.c. The general way of
 * an insert finds the parts that may change, clears each and puts the new extent there;
 * insert_quick() does the common cases (into a gap, or over exactly one extent) with one descent.
 */
#include "common/extmap.h"

#include "common/check.h"

static uint64_t extent_end(const struct extmap_extent *extent)
{
    return extent->start + extent->len;
}

/* Cuts the first `len` blocks off. */
static void extent_advance(struct extmap_extent *extent, uint64_t len)
{
    extent->start += len;
    extent->len -= len;
    if (!extent->trimmed)
        extent->value += len;
}

static uint64_t order_of(const struct extmap *map, uint64_t seq)
{
    return MAX(seq, map->floor);
}

/* X3 */
static bool can_join(
    const struct extmap *map, const struct extmap_extent *left, const struct extmap_extent *right)
{
    uint64_t value = left->trimmed ? left->value : left->value + left->len;
    return extent_end(left) == right->start && left->trimmed == right->trimmed &&
           value == right->value &&
           (left->seq == right->seq || MAX(left->seq, right->seq) <= map->floor);
}

static void join(struct extmap_extent *left, const struct extmap_extent *right)
{
    left->len += right->len;
    left->seq = MAX(left->seq, right->seq);
}

void extmap_init(struct extmap *map)
{
    *map = (struct extmap){0};
}

void extmap_fini(struct extmap *map)
{
    extmap_remove_all(map);
}

void extmap_remove_all(struct extmap *map)
{
    extmap_tree_clear(&map->tree);
    map->changes++;
}

void extmap_set_floor(struct extmap *map, uint64_t seq)
{
    CHECK_MSG(seq >= map->floor, "floor %llu below %llu", (unsigned long long)seq,
        (unsigned long long)map->floor);
    map->floor = seq;
}

uint64_t extmap_count(const struct extmap *map)
{
    return map->tree.extent_count;
}

uint64_t extmap_memory_bytes(const struct extmap *map)
{
    return extmap_tree_memory_bytes(&map->tree);
}

/* The extent that covers `at` or else the first behind it; the cursor is on it. */
static bool find(const struct extmap *map, uint64_t at, struct extmap_cursor *cursor,
    struct extmap_extent *ret_extent)
{
    if (!extmap_tree_seek(&map->tree, at, cursor))
        return false;
    struct extmap_cursor here = *cursor;
    if (extmap_cursor_prev(cursor)) {
        extmap_cursor_get(cursor, ret_extent);
        if (extent_end(ret_extent) > at)
            return true;
        *cursor = here;
    }
    if (!extmap_cursor_settle(cursor))
        return false;
    extmap_cursor_get(cursor, ret_extent);
    return true;
}

void extmap_lookup(
    const struct extmap *map, uint64_t start, uint64_t len_max, struct extmap_run *ret_run)
{
    CHECK(len_max > 0 && start < EXTMAP_ADDRESS_MAX);
    struct extmap_cursor cursor;
    struct extmap_extent extent;
    bool found = find(map, start, &cursor, &extent);
    if (!found || extent.start > start) {
        uint64_t gap = (found ? extent.start : EXTMAP_ADDRESS_MAX) - start;
        *ret_run =
            (struct extmap_run){.start = start, .len = MIN(gap, len_max), .kind = EXTMAP_GAP};
        return;
    }
    extent_advance(&extent, start - extent.start);
    *ret_run = (struct extmap_run){
        .start = start,
        .len = MIN(extent.len, len_max),
        .kind = extent.trimmed ? EXTMAP_TRIMMED : EXTMAP_MAPPED,
        .value = extent.value,
        .seq = extent.seq,
    };
}

/* Moves the start of the extent at the cursor up to `at`. */
static void cut_front(struct extmap *map, struct extmap_cursor *cursor, uint64_t at)
{
    struct extmap_extent extent;
    extmap_cursor_get(cursor, &extent);
    extent_advance(&extent, at - extent.start);
    if (at < extmap_cursor_upper(cursor)) {
        extmap_cursor_set(cursor, &extent);
        return;
    }
    extmap_tree_delete(&map->tree, cursor, 1);
    extmap_tree_insert(&map->tree, &extent);
}

/* Deletes the extents that lie wholly in [start, end), of which the cursor is on the first, as far
 * as they are in its leaf. */
static void delete_whole(struct extmap *map, struct extmap_cursor *cursor, uint64_t end)
{
    struct extmap_cursor first = *cursor;
    unsigned left = extmap_cursor_left(cursor), n = 0;
    struct extmap_extent extent;
    for (; n < left; n++, cursor->index[0]++) {
        extmap_cursor_get(cursor, &extent);
        if (extent_end(&extent) > end)
            break;
    }
    extmap_tree_delete(&map->tree, &first, n);
}

/* Unmaps [start, end). */
static void clear(struct extmap *map, uint64_t start, uint64_t end)
{
    struct extmap_cursor cursor;
    struct extmap_extent extent;
    while (find(map, start, &cursor, &extent) && extent.start < end) {
        if (extent.start >= start && extent_end(&extent) <= end) {
            delete_whole(map, &cursor, end);
        } else if (extent.start >= start) {
            cut_front(map, &cursor, end);
            return;
        } else {
            struct extmap_extent tail = extent;
            extent.len = start - extent.start;
            extmap_cursor_set(&cursor, &extent);
            if (extent_end(&tail) > end) {
                extent_advance(&tail, end - tail.start);
                extmap_tree_insert(&map->tree, &tail);
                return;
            }
        }
    }
}

/* Puts `extent` into a gap, joined with what touches it. */
static void put(struct extmap *map, struct extmap_extent extent)
{
    struct extmap_cursor cursor;
    struct extmap_extent other;
    uint64_t end = extent_end(&extent);
    if (find(map, end, &cursor, &other) && can_join(map, &extent, &other)) {
        extmap_tree_delete(&map->tree, &cursor, 1);
        join(&extent, &other);
    }
    if (extmap_tree_seek(&map->tree, extent.start, &cursor)) {
        struct extmap_cursor before = cursor;
        if (extmap_cursor_prev(&before)) {
            extmap_cursor_get(&before, &other);
            if (can_join(map, &other, &extent)) {
                join(&other, &extent);
                extmap_cursor_set(&before, &other);
                return;
            }
        }
    }
    extmap_tree_insert_at(&map->tree, &cursor, &extent);
}

/* The common cases, with both neighbours in one leaf: `extent` falls into a gap, or replaces
 * exactly one extent and joins none. false: nothing done. */
static bool insert_quick(struct extmap *map, const struct extmap_extent *extent)
{
    struct extmap_cursor cursor;
    if (!extmap_tree_seek(&map->tree, extent->start, &cursor) || cursor.index[0] == 0)
        return false;
    struct extmap_extent before, behind;
    bool has_behind = extmap_cursor_left(&cursor) > 0;
    if (has_behind)
        extmap_cursor_get(&cursor, &behind);
    else if (extmap_cursor_upper(&cursor) != UINT64_MAX)
        return false;
    if (has_behind && (extent_end(extent) > behind.start || can_join(map, extent, &behind)))
        return false;

    cursor.index[0]--;
    extmap_cursor_get(&cursor, &before);
    if (can_join(map, &before, extent)) {
        join(&before, extent);
        extmap_cursor_set(&cursor, &before);
        return true;
    }
    if (extent_end(&before) <= extent->start) {
        cursor.index[0]++;
        extmap_tree_insert_at(&map->tree, &cursor, extent);
        return true;
    }
    if (before.start != extent->start || before.len != extent->len)
        return false;
    if (order_of(map, before.seq) > order_of(map, extent->seq))
        return true; /* X2 */
    if (cursor.index[0] == 0)
        return false; /* the one before may join */
    struct extmap_extent first;
    cursor.index[0]--;
    extmap_cursor_get(&cursor, &first);
    if (can_join(map, &first, extent))
        return false;
    cursor.index[0]++;
    extmap_cursor_set(&cursor, extent);
    return true;
}

/* End of the part of [start, end) that `order` may replace; it is empty when that is `start`. If it
 * ends before `end`, *ret_newer_end is where the newer extent there ends. */
static uint64_t replaceable_end(
    const struct extmap *map, uint64_t start, uint64_t end, uint64_t order, uint64_t *ret_newer_end)
{
    struct extmap_iter iter;
    struct extmap_run run;
    extmap_iter_init(&iter, map, start);
    while (extmap_iter_next(&iter, &run) && run.start < end) {
        if (order_of(map, run.seq) > order) {
            *ret_newer_end = run.start + run.len;
            return MAX(run.start, start);
        }
    }
    return end;
}

void extmap_insert(struct extmap *map, uint64_t start, uint64_t len, enum extmap_kind kind,
    uint64_t value, uint64_t seq)
{
    CHECK(len > 0 && start < EXTMAP_ADDRESS_MAX && len <= EXTMAP_ADDRESS_MAX - start);
    CHECK(kind == EXTMAP_MAPPED || kind == EXTMAP_TRIMMED);
    struct extmap_extent extent = {start, len, value, seq, kind == EXTMAP_TRIMMED};
    map->changes++;
    if (insert_quick(map, &extent))
        return;

    while (extent.len > 0) {
        uint64_t end = extent_end(&extent), newer_end = end;
        uint64_t part_end = replaceable_end(map, extent.start, end, order_of(map, seq), &newer_end);
        if (part_end > extent.start) {
            struct extmap_extent part = extent;
            part.len = part_end - part.start;
            clear(map, part.start, part_end);
            put(map, part);
        }
        extent_advance(&extent, MIN(newer_end, end) - extent.start);
    }
}

void extmap_remove(struct extmap *map, uint64_t start, uint64_t len, uint64_t seq_max)
{
    CHECK(start <= EXTMAP_ADDRESS_MAX && len <= EXTMAP_ADDRESS_MAX - start);
    map->changes++;
    uint64_t end = start + len;
    if (seq_max == UINT64_MAX) {
        clear(map, start, end);
        return;
    }
    while (start < end) {
        struct extmap_run run;
        extmap_lookup(map, start, end - start, &run);
        if (run.kind != EXTMAP_GAP && order_of(map, run.seq) <= order_of(map, seq_max))
            clear(map, run.start, run.start + run.len);
        start = run.start + run.len;
    }
}

void extmap_iter_init(struct extmap_iter *iter, const struct extmap *map, uint64_t from)
{
    iter->map = map;
    iter->changes = map->changes;
    struct extmap_extent extent;
    if (!find(map, from, &iter->cursor, &extent))
        iter->cursor.height = 0;
}

bool extmap_iter_next(struct extmap_iter *iter, struct extmap_run *ret_run)
{
    CHECK_MSG(iter->changes == iter->map->changes, "map changed under an iteration");
    if (iter->cursor.height == 0 || !extmap_cursor_settle(&iter->cursor))
        return false;
    struct extmap_extent extent;
    extmap_cursor_get(&iter->cursor, &extent);
    iter->cursor.index[0]++;
    *ret_run = (struct extmap_run){
        .start = extent.start,
        .len = extent.len,
        .kind = extent.trimmed ? EXTMAP_TRIMMED : EXTMAP_MAPPED,
        .value = extent.value,
        .seq = extent.seq,
    };
    return true;
}
