/* SPDX-License-Identifier: Apache-2.0
 *
 * The map beside a plain array, over pages in memory that answer late, fail and lie. For tests that run as fibers of a
 * fake env (FIBER_TEST).
 */
#pragma once

#include "fiber_test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/volume/map.h"
#include "blockd/volume/map_impl.h"
#include "common/check.h"
#include "common/env.h"
#include "common/mem.h"

#define BLOCKS (1u << 19)
#define CHUNKS 4096
#define STORED_MAX (1 << 20)

/* --- Pages in memory ------------------------------------------------------------------------------ */

struct stored {
    uint64_t address;
    uint64_t *page; /* NULL = reserved only */
    bool live;      /* committed, and not told as freed */
};

static struct fixture {
    struct stored *stored; /* by number */
    uint64_t stored_count;
    unsigned reserved; /* at the end of stored */
    uint64_t live_count;
    uint64_t reads, interior_reads, commits;
    uint64_t latency_ns;
    uint64_t calls, fail_at; /* all store calls; which of them fails */
    int fail_error;
    bool drop_freed; /* freed pages are gone for readers as well */

    struct map_store store;
    struct map_cache *cache;
    struct map *map;

    /* What the last merge told. */
    int64_t *live; /* mapped blocks of each chunk */
    int64_t *change;
    uint64_t *freed;
    unsigned freed_count, freed_capacity;
    bool aborted;
    uint64_t replaced, mapped;
} fx;

static inline uint64_t pointer_of(uint64_t number)
{
    return map_entry(MAP_PAGE, 0, number >> 10, number & 1023);
}

static inline struct stored *stored_at(uint64_t pointer)
{
    uint64_t number = map_entry_chunk(pointer) << 10 | map_entry_linear(pointer);
    assert_true(number < fx.stored_count);
    return &fx.stored[number];
}

static inline int next_call(void)
{
    if (fx.latency_ns)
        env_sleep_ns(1 + rnd() % fx.latency_ns);
    return ++fx.calls == fx.fail_at ? fx.fail_error : 0;
}

static inline int page_read(void *ctx, uint64_t pointer, uint64_t page_address, void *buf)
{
    int r = next_call();
    if (r < 0)
        return r;
    struct stored *stored = stored_at(pointer);
    fx.reads++;
    fx.interior_reads += page_address >> 56 > 0;
    if (!stored->page || (fx.drop_freed && !stored->live))
        return -ENOENT;
    assert_int_equal(stored->address, page_address);
    memcpy(buf, stored->page, MAP_PAGE_BYTES);
    return 0;
}

static inline int pages_reserve(void *ctx, unsigned count, uint64_t *ret_pointers)
{
    assert_int_equal(fx.reserved, 0);
    int r = next_call();
    if (r < 0)
        return r;
    assert_true(count > 0 && fx.stored_count + count < STORED_MAX);
    for (unsigned i = 0; i < count; i++) {
        fx.stored[fx.stored_count] = (struct stored){0};
        ret_pointers[i] = pointer_of(fx.stored_count++);
    }
    fx.reserved = count;
    return 0;
}

static inline int pages_commit(
    void *ctx, unsigned count, const uint64_t *page_addresses, void *const *pages)
{
    assert_int_equal(fx.reserved, count);
    fx.reserved = 0;
    fx.commits++;
    int r = next_call();
    for (unsigned i = 0; i < count; i++) {
        struct stored *stored = &fx.stored[fx.stored_count - count + i];
        unsigned at;
        assert_null(map_page_check(pages[i], page_addresses[i] >> 56, 0, &at));
        stored->address = page_addresses[i];
        stored->live = true;
        fx.live_count++;
        if (r == 0) {
            stored->page = mem_alloc(MAP_PAGE_BYTES);
            memcpy(stored->page, pages[i], MAP_PAGE_BYTES);
        }
    }
    return r;
}

/* --- What merges tell ----------------------------------------------------------------------------- */

static inline void on_replaced(void *ctx, uint64_t entry, uint64_t len)
{
    assert_int_equal(map_entry_type(entry), MAP_MAPPED);
    fx.change[map_entry_chunk(entry)] -= len;
    fx.replaced += len;
}

static inline void on_mapped(void *ctx, uint64_t entry, uint64_t len)
{
    assert_int_equal(map_entry_type(entry), MAP_MAPPED);
    fx.change[map_entry_chunk(entry)] += len;
    fx.mapped += len;
}

static inline void on_page_freed(void *ctx, uint64_t pointer)
{
    if (fx.freed_count == fx.freed_capacity) {
        fx.freed_capacity = MAX(64u, 2 * fx.freed_capacity);
        fx.freed = mem_realloc(fx.freed, fx.freed_capacity * sizeof(*fx.freed));
    }
    fx.freed[fx.freed_count++] = pointer;
}

static inline void on_aborted(void *ctx)
{
    assert_false(fx.aborted);
    fx.aborted = true;
    fx.freed_count = 0;
    memset(fx.change, 0, CHUNKS * sizeof(*fx.change));
}

static inline void take_reports(void)
{
    for (unsigned i = 0; i < fx.freed_count; i++) {
        struct stored *stored = stored_at(fx.freed[i]);
        /* A window whose reservation succeeded but whose commit was never reached does not exist. */
        assert_true(stored->live); /* exactly once (M3) */
        stored->live = false;
        fx.live_count--;
    }
    for (unsigned i = 0; i < CHUNKS; i++) {
        fx.live[i] += fx.change[i];
        fx.change[i] = 0;
    }
}

static inline int merge(const struct extmap *updates, unsigned levels_min)
{
    const struct map_merge_callbacks callbacks = {
        .replaced = on_replaced,
        .mapped = on_mapped,
        .page_freed = on_page_freed,
        .aborted = on_aborted,
    };
    fx.freed_count = 0;
    fx.aborted = false;
    fx.replaced = fx.mapped = 0;
    memset(fx.change, 0, CHUNKS * sizeof(*fx.change));
    uint64_t root = 1;
    unsigned levels = 99;
    int r = map_merge(fx.map, updates, levels_min, &callbacks, &root, &levels);
    assert_int_equal(fx.aborted, r < 0);
    if (r < 0)
        assert_true(root == 1 && levels == 99);
    take_reports();
    if (r == 0)
        map_switch(fx.map, root, levels);
    return r;
}

/* --- Comparing with the model --------------------------------------------------------------------- */

static uint64_t *model; /* BLOCKS entries: 0 or a mapped entry */
static uint64_t *walked;
static int64_t *walked_live;
static uint64_t walked_pages;

static inline int walk_page(void *ctx, uint64_t pointer, uint64_t page_address)
{
    assert_true(stored_at(pointer)->live);
    assert_int_equal(stored_at(pointer)->address, page_address);
    walked_pages++;
    return 0;
}

static inline int walk_run(void *ctx, uint64_t address, uint64_t entry, uint64_t len)
{
    assert_true(address + len <= BLOCKS);
    for (uint64_t i = 0; i < len; i++)
        walked[address + i] = entry + i;
    walked_live[map_entry_chunk(entry)] += len;
    return 0;
}

static inline void check_tree(void)
{
    memset(walked, 0, BLOCKS * sizeof(*walked));
    memset(walked_live, 0, CHUNKS * sizeof(*walked_live));
    walked_pages = 0;
    assert_int_equal(map_walk(fx.map, walk_page, walk_run, NULL), 0);
    for (unsigned i = 0; i < BLOCKS; i++) {
        if (walked[i] != model[i])
            fail_msg(
                "block %u is %llx, should be %llx", i, (long long)walked[i], (long long)model[i]);
    }
    assert_int_equal(walked_pages, fx.live_count);
    assert_memory_equal(walked_live, fx.live, CHUNKS * sizeof(*fx.live));
}

static inline void check_lookup(uint64_t address, uint64_t len_max)
{
    struct map_run run = {.type = 99};
    assert_int_equal(map_lookup(fx.map, address, len_max, &run), 0);
    assert_true(run.len >= 1 && run.len <= len_max);
    for (uint64_t i = 0; i < run.len; i++) {
        uint64_t expected = address + i < BLOCKS ? model[address + i] : 0;
        assert_int_equal(run.type == MAP_MAPPED ? run.entry + i : 0, expected);
    }
    /* maximal within a leaf at least */
    uint64_t end = address + run.len;
    if (run.len < len_max && end % MAP_FANOUT != 0) {
        uint64_t next = model[end];
        assert_true(run.type == MAP_MAPPED ? next != run.entry + run.len : next != 0);
    }
}

/* --- Random updates ------------------------------------------------------------------------------- */

static inline uint64_t entry_next(uint64_t len)
{
    /* Chunks of up to 16,384 blocks; few enough that counts mix. */
    return map_entry(MAP_MAPPED, 0, rnd() % CHUNKS, rnd() % (16384 - MIN(len, 16000)));
}

static uint64_t put_end = BLOCKS;

static inline void put(
    struct extmap *updates, uint64_t *next_model, uint64_t at, uint64_t len, bool mapped)
{
    len = MIN(len, put_end - at);
    uint64_t entry = mapped ? entry_next(len) : 0;
    extmap_insert(updates, at, len, mapped ? EXTMAP_MAPPED : EXTMAP_TRIMMED, entry, 1);
    for (uint64_t i = 0; i < len; i++)
        next_model[at + i] = mapped ? entry + i : 0;
}

static inline void put_random(struct extmap *updates, uint64_t *next_model, uint64_t blocks)
{
    uint64_t at = rnd() % blocks;
    put_end = blocks;
    switch (rnd() % 10) {
    case 0: /* contiguous aligned runs: interior entries */
        put(updates, next_model, ROUND_DOWN(at, MAP_FANOUT), MAP_FANOUT * (1 + rnd() % 8), true);
        break;
    case 1: /* nearly */
        put(updates, next_model, ROUND_DOWN(at, MAP_FANOUT), MAP_FANOUT * 2 - 1, true);
        break;
    case 2:
        put(updates, next_model, at, 1 + rnd() % 3000, false);
        break;
    case 3:
        put(updates, next_model, ROUND_DOWN(at, MAP_FANOUT), MAP_FANOUT, false);
        break;
    case 4:
        if (rnd() % 8 == 0)
            put(updates, next_model, at / 2, 1 + rnd() % blocks, false);
        break;
    case 5: /* what is there already */
        if (next_model[at] != 0)
            extmap_insert(updates, at, 1, EXTMAP_MAPPED, next_model[at], 1);
        break;
    case 6:
        put(updates, next_model, at, 1 + rnd() % 1000, true);
        break;
    default:
        put(updates, next_model, at, 1 + rnd() % 3, true);
    }
}

static inline void begin(uint64_t cache_bytes, unsigned levels)
{
    memset(&fx, 0, sizeof(fx));
    fx.stored = mem_zalloc(STORED_MAX, sizeof(*fx.stored));
    fx.live = mem_zalloc(CHUNKS, sizeof(*fx.live));
    fx.change = mem_zalloc(CHUNKS, sizeof(*fx.change));
    fx.store = (struct map_store){
        .page_read = page_read, .pages_reserve = pages_reserve, .pages_commit = pages_commit};
    fx.cache = map_cache_new(cache_bytes);
    fx.map = map_new(fx.cache, &fx.store, 0, levels);
    model = mem_zalloc(BLOCKS, sizeof(*model));
    walked = mem_zalloc(BLOCKS, sizeof(*walked));
    walked_live = mem_zalloc(CHUNKS, sizeof(*walked_live));
}

static inline void end(void)
{
    map_free(fx.map);
    assert_int_equal(map_cache_used_bytes(fx.cache), 0);
    map_cache_free(fx.cache);
    for (uint64_t i = 0; i < fx.stored_count; i++)
        mem_free(fx.stored[i].page);
    mem_free(fx.stored);
    mem_free(fx.live);
    mem_free(fx.change);
    mem_free(fx.freed);
    mem_free(model);
    mem_free(walked);
    mem_free(walked_live);
}

/* Merges `count` random updates below `blocks`; the model follows when it succeeds. */
static inline int merge_random(unsigned count, uint64_t blocks, unsigned levels_min)
{
    struct extmap updates;
    extmap_init(&updates);
    uint64_t *next_model = mem_alloc(BLOCKS * sizeof(*next_model));
    memcpy(next_model, model, BLOCKS * sizeof(*next_model));
    for (unsigned i = 0; i < count; i++)
        put_random(&updates, next_model, blocks);
    int r = merge(&updates, levels_min);
    if (r == 0)
        memcpy(model, next_model, BLOCKS * sizeof(*model));
    mem_free(next_model);
    extmap_fini(&updates);
    return r;
}
