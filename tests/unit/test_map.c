/* SPDX-License-Identifier: Apache-2.0
 *
 * The map against a plain array, over pages in memory that answer late, fail and lie.
 */
#include "fake_env.h"

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

static struct fake_env fake;
static uint64_t seed;

static uint64_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

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

static uint64_t pointer_of(uint64_t number)
{
    return map_entry(MAP_PAGE, 0, number >> 10, number & 1023);
}

static struct stored *stored_at(uint64_t pointer)
{
    uint64_t number = map_entry_chunk(pointer) << 10 | map_entry_linear(pointer);
    assert_true(number < fx.stored_count);
    return &fx.stored[number];
}

static int next_call(void)
{
    if (fx.latency_ns)
        env_sleep_ns(1 + rnd() % fx.latency_ns);
    return ++fx.calls == fx.fail_at ? fx.fail_error : 0;
}

static int page_read(void *ctx, uint64_t pointer, uint64_t page_address, void *buf)
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

static int pages_reserve(void *ctx, unsigned count, uint64_t *ret_pointers)
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

static int pages_commit(
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

static void on_replaced(void *ctx, uint64_t entry, uint64_t len)
{
    assert_int_equal(map_entry_type(entry), MAP_MAPPED);
    fx.change[map_entry_chunk(entry)] -= len;
    fx.replaced += len;
}

static void on_mapped(void *ctx, uint64_t entry, uint64_t len)
{
    assert_int_equal(map_entry_type(entry), MAP_MAPPED);
    fx.change[map_entry_chunk(entry)] += len;
    fx.mapped += len;
}

static void on_page_freed(void *ctx, uint64_t pointer)
{
    if (fx.freed_count == fx.freed_capacity) {
        fx.freed_capacity = MAX(64u, 2 * fx.freed_capacity);
        fx.freed = mem_realloc(fx.freed, fx.freed_capacity * sizeof(*fx.freed));
    }
    fx.freed[fx.freed_count++] = pointer;
}

static void on_aborted(void *ctx)
{
    assert_false(fx.aborted);
    fx.aborted = true;
    fx.freed_count = 0;
    memset(fx.change, 0, CHUNKS * sizeof(*fx.change));
}

static void take_reports(void)
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

static int merge(const struct extmap *updates, unsigned levels_min)
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

static int walk_page(void *ctx, uint64_t pointer, uint64_t page_address)
{
    assert_true(stored_at(pointer)->live);
    assert_int_equal(stored_at(pointer)->address, page_address);
    walked_pages++;
    return 0;
}

static int walk_run(void *ctx, uint64_t address, uint64_t entry, uint64_t len)
{
    assert_true(address + len <= BLOCKS);
    for (uint64_t i = 0; i < len; i++)
        walked[address + i] = entry + i;
    walked_live[map_entry_chunk(entry)] += len;
    return 0;
}

static void check_tree(void)
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

static void check_lookup(uint64_t address, uint64_t len_max)
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

static uint64_t entry_next(uint64_t len)
{
    /* Chunks of up to 16,384 blocks; few enough that counts mix. */
    return map_entry(MAP_MAPPED, 0, rnd() % CHUNKS, rnd() % (16384 - MIN(len, 16000)));
}

static uint64_t put_end = BLOCKS;

static void put(
    struct extmap *updates, uint64_t *next_model, uint64_t at, uint64_t len, bool mapped)
{
    len = MIN(len, put_end - at);
    uint64_t entry = mapped ? entry_next(len) : 0;
    extmap_insert(updates, at, len, mapped ? EXTMAP_MAPPED : EXTMAP_TRIMMED, entry, 1);
    for (uint64_t i = 0; i < len; i++)
        next_model[at + i] = mapped ? entry + i : 0;
}

static void put_random(struct extmap *updates, uint64_t *next_model, uint64_t blocks)
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

static void begin(uint64_t cache_bytes, unsigned levels)
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

static void end(void)
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
static int merge_random(unsigned count, uint64_t blocks, unsigned levels_min)
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

/* --- Tests, each run as a fiber ------------------------------------------------------------------- */

static void an_empty_map_is_one_hole(void *arg)
{
    begin(1 << 20, 3);
    struct map_run run;
    assert_int_equal(map_lookup(fx.map, 12345, UINT64_MAX, &run), 0);
    assert_int_equal(run.type, MAP_HOLE);
    assert_true(run.len >= 1ull << 45);
    check_tree();
    end();
}

static void levels_follow_the_size(void *arg)
{
    assert_int_equal(map_levels_for(0), 1);
    assert_int_equal(map_levels_for(512), 1);
    assert_int_equal(map_levels_for(513), 2);
    assert_int_equal(map_levels_for(1ull << 18), 2);
    assert_int_equal(map_levels_for((1ull << 28) - 1), 4); /* 1 TiB */
    assert_int_equal(map_levels_for(1ull << 45), 5);
}

static void random_merges(uint64_t cache_bytes, unsigned levels, unsigned rounds)
{
    begin(cache_bytes, levels);
    for (unsigned round = 0; round < rounds; round++) {
        uint64_t blocks = round < rounds / 4 ? 512 << round % 3 * 4 : BLOCKS;
        assert_int_equal(merge_random(1 + rnd() % 100, blocks, round == rounds / 2 ? 4 : 0), 0);
        if (round % 8 == 7)
            check_tree();
        for (unsigned i = 0; i < 200; i++)
            check_lookup(rnd() % BLOCKS, 1 + rnd() % 4000);
        assert_true(map_cache_used_bytes(fx.cache) <= cache_bytes);
    }
    check_tree();
    assert_int_equal(map_levels(fx.map), rounds > 1 ? 4 : levels);
    end();
}

static void random_merges_equal_a_plain_array(void *arg)
{
    for (unsigned i = 0; i < 3; i++)
        random_merges(64 << 20, 1 + i, 64);
}

static void a_tiny_cache_changes_nothing_but_speed(void *arg)
{
    random_merges(0, 1, 24);
    random_merges(5 * MAP_CACHE_PAGE_BYTES, 2, 24);
}

static void equal_entries_change_nothing(void *arg)
{
    begin(1 << 20, 3);
    assert_int_equal(merge_random(200, BLOCKS, 0), 0);
    uint64_t root = map_root(fx.map), stored = fx.stored_count;
    struct extmap updates;
    extmap_init(&updates);
    for (uint64_t i = 0; i < BLOCKS; i++) {
        if (rnd() % 3)
            continue;
        if (model[i] != 0)
            extmap_insert(&updates, i, 1, EXTMAP_MAPPED, model[i], 1);
        else
            extmap_insert(&updates, i, 1, EXTMAP_TRIMMED, 0, 1);
    }
    assert_int_equal(merge(&updates, 0), 0);
    assert_true(map_root(fx.map) == root && fx.stored_count == stored);
    assert_true(fx.replaced == 0 && fx.mapped == 0 && fx.freed_count == 0);
    extmap_fini(&updates);
    end();
}

static void a_sequential_terabyte_takes_one_entry_a_leaf(void *arg)
{
    begin(1 << 20, 4);
    struct extmap updates;
    extmap_init(&updates);
    uint64_t leaves = (1ull << 28) / MAP_FANOUT;
    for (uint64_t i = 0; i < leaves; i++) /* never continuing: an extent for each leaf */
        extmap_insert(&updates, i * MAP_FANOUT, MAP_FANOUT, EXTMAP_MAPPED,
            map_entry(MAP_MAPPED, 0, i % CHUNKS, i % 7 * MAP_FANOUT), 1);
    assert_int_equal(merge(&updates, 0), 0);
    assert_int_equal(fx.live_count, 1024 + 2 + 1); /* 4 MiB for a TiB */
    assert_int_equal(fx.reads, 0);
    extmap_remove_all(&updates);

    /* One block in the middle makes one leaf; the trim of everything reads no leaf but that. */
    extmap_insert(&updates, 123456789, 1, EXTMAP_MAPPED, map_entry(MAP_MAPPED, 0, 1, 1), 1);
    assert_int_equal(merge(&updates, 0), 0);
    assert_true(fx.replaced == 1 && fx.mapped == 1);
    assert_int_equal(fx.live_count, 1024 + 2 + 1 + 1);
    extmap_remove_all(&updates);
    extmap_insert(&updates, 0, 1ull << 40, EXTMAP_TRIMMED, 0, 1);
    assert_int_equal(merge(&updates, 0), 0);
    assert_int_equal(fx.live_count, 0);
    assert_int_equal(fx.replaced, 1ull << 28);
    assert_int_equal(map_root(fx.map), 0);
    extmap_fini(&updates);
    end();
}

static void growth_keeps_what_is_there(void *arg)
{
    begin(1 << 20, 1);
    assert_int_equal(merge_random(20, 512, 0), 0);
    assert_int_equal(map_levels(fx.map), 1);
    struct extmap none;
    extmap_init(&none);
    for (unsigned levels = 2; levels <= MAP_LEVELS_MAX; levels++) {
        uint64_t before = fx.live_count;
        assert_int_equal(merge(&none, levels), 0);
        assert_int_equal(map_levels(fx.map), levels);
        assert_int_equal(fx.live_count, before + 1);
        check_tree();
        check_lookup(rnd() % 512, 512);
    }
    struct extmap far;
    extmap_init(&far);
    extmap_insert(&far, (1ull << 45) - 1, 1, EXTMAP_MAPPED, map_entry(MAP_MAPPED, 0, 9, 9), 1);
    assert_int_equal(merge(&far, 0), 0);
    struct map_run run;
    assert_int_equal(map_lookup(fx.map, (1ull << 45) - 1, 10, &run), 0);
    assert_int_equal(run.entry, map_entry(MAP_MAPPED, 0, 9, 9));
    extmap_fini(&far);
    extmap_fini(&none);
    end();
}

static void growth_and_update_in_one_merge(void *arg)
{
    for (unsigned levels = 1; levels <= 3; levels++) {
        begin(1 << 20, levels);
        if (levels > 1)
            assert_int_equal(merge_random(20, 512, 0), 0);
        assert_int_equal(merge_random(200, BLOCKS, 4), 0);
        check_tree();
        struct extmap all;
        extmap_init(&all);
        extmap_insert(&all, 0, 1ull << 45, EXTMAP_TRIMMED, 0, 1);
        memset(model, 0, BLOCKS * sizeof(*model));
        assert_int_equal(merge(&all, 5), 0);
        check_tree();
        assert_int_equal(fx.live_count, 0);
        extmap_fini(&all);
        end();
    }
}

/* Each call into the store fails once: the old tree stays whole, nothing leaks, the next try works. */
static void a_fault_at_each_store_call(void *arg)
{
    begin(20 * MAP_CACHE_PAGE_BYTES, 3);
    fx.latency_ns = 1000;
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(merge_random(60, BLOCKS, 0), 0);
    unsigned failures = 0;
    for (unsigned at = 1; at < 100; at++) {
        fx.calls = 0;
        fx.fail_at = at;
        fx.fail_error = at % 2 ? -EIO : -ENOSPC;
        int r = merge_random(10, BLOCKS, 0);
        fx.fail_at = 0;
        if (r == 0) {
            continue; /* it made fewer calls */
        }
        failures++;
        assert_int_equal(r, fx.fail_error);
        if (at % 8 == 0)
            check_tree();
    }
    check_tree();
    assert_true(failures > 8);
    end();
}

/* --- Concurrency ---------------------------------------------------------------------------------- */

static bool stop_readers;
static uint64_t *old_model;
static unsigned lookups_done;

/* Every answer must be the old tree's or the new one's, for the whole run. */
static void keep_looking(void *arg)
{
    while (!stop_readers) {
        uint64_t address = rnd() % BLOCKS;
        struct map_run run;
        assert_int_equal(map_lookup(fx.map, address, 100, &run), 0);
        bool is_old = true, is_new = true;
        for (uint64_t i = 0; i < run.len; i++) {
            uint64_t entry = run.type == MAP_MAPPED ? run.entry + i : 0;
            uint64_t at = address + i;
            is_old &= entry == (at < BLOCKS ? old_model[at] : 0);
            is_new &= entry == (at < BLOCKS ? model[at] : 0);
        }
        assert_true(is_old || is_new);
        lookups_done++;
        env_sleep_ns(rnd() % 500);
    }
    fiber_group_done(arg, 0);
}

static void lookups_during_merges_see_one_tree(void *arg)
{
    begin(40 * MAP_CACHE_PAGE_BYTES, 3);
    old_model = mem_zalloc(BLOCKS, sizeof(*old_model));
    fx.latency_ns = 2000;
    fx.drop_freed = true;
    struct fiber_group group;
    fiber_group_init(&group);
    fiber_group_add(&group, 8);
    stop_readers = false;
    lookups_done = 0;
    for (unsigned i = 0; i < 8; i++)
        fiber_spawn("reader", keep_looking, &group);
    for (unsigned round = 0; round < 30; round++) {
        struct extmap updates;
        extmap_init(&updates);
        memcpy(old_model, model, BLOCKS * sizeof(*model));
        uint64_t *new_model = mem_alloc(BLOCKS * sizeof(*model));
        memcpy(new_model, model, BLOCKS * sizeof(*model));
        for (unsigned i = 0; i < 60; i++)
            put_random(&updates, new_model, BLOCKS);
        memcpy(model, new_model, BLOCKS * sizeof(*model)); /* readers may see it from now on */
        fx.drop_freed = false; /* until the switch, the old tree stays readable */
        assert_int_equal(merge(&updates, 0), 0);
        fx.drop_freed = true;
        env_sleep_ns(20000);
        mem_free(new_model);
        extmap_fini(&updates);
    }
    stop_readers = true;
    assert_int_equal(fiber_group_wait(&group), 0);
    assert_true(lookups_done > 1000);
    check_tree();
    mem_free(old_model);
    end();
}

#define LOOKERS 24u

static void look_up_often(void *arg)
{
    for (unsigned i = 0; i < 100; i++) {
        struct map_run run;
        assert_int_equal(map_lookup(fx.map, rnd() % BLOCKS, 1, &run), 0);
    }
    fiber_group_done(arg, 0);
}

/* Three times as many leaves on their way as the cache holds pages: the path to them is not read again for each. */
static void pages_on_their_way_do_not_push_out_the_path_to_them(void *arg)
{
    begin(64 << 20, 3);
    struct extmap updates;
    extmap_init(&updates);
    put_end = BLOCKS;
    for (uint64_t leaf = 0; leaf < BLOCKS / MAP_FANOUT; leaf++)
        put(&updates, model, leaf * MAP_FANOUT + rnd() % MAP_FANOUT, 1, true);
    assert_int_equal(merge(&updates, 0), 0);
    extmap_fini(&updates);
    map_cache_set_cap(fx.cache, 8 * MAP_CACHE_PAGE_BYTES);
    fx.latency_ns = 2000;
    fx.reads = fx.interior_reads = 0;
    struct fiber_group group;
    fiber_group_init(&group);
    fiber_group_add(&group, LOOKERS);
    for (unsigned i = 0; i < LOOKERS; i++)
        fiber_spawn("reader", look_up_often, &group);
    assert_int_equal(fiber_group_wait(&group), 0);
    assert_true(fx.reads > LOOKERS * 20);
    if (fx.interior_reads > fx.reads / 20)
        fail_msg("%llu of %llu pages read were interior ones",
            (unsigned long long)fx.interior_reads, (unsigned long long)fx.reads);
    assert_true(map_cache_used_bytes(fx.cache) <= fx.cache->cap_bytes);
    fx.latency_ns = 0;
    check_tree();
    end();
}

/* --- Damage --------------------------------------------------------------------------------------- */

static void damaged_pages_are_refused_by_their_content(void *arg)
{
    static const struct {
        unsigned level;
        uint64_t entry;
    } bad[] = {
        {0, (uint64_t)MAP_PAGE << 62 | 1 << 16},
        {0, (uint64_t)MAP_HOLE << 62 | 1},
        {0, (uint64_t)MAP_TRIMMED << 62 | 1},
        {0, (uint64_t)MAP_MAPPED << 62 | 3ull << 50}, /* layer 3 of 2 */
        {1, (uint64_t)MAP_MAPPED << 62 | 65025},      /* runs out of the chunk */
        {2, (uint64_t)MAP_MAPPED << 62},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(bad) + 1; i++) {
        begin(0, 3);
        fx.store.layer_count = 2;
        map_free(fx.map);
        fx.map = map_new(fx.cache, &fx.store, 0, 3);
        struct extmap updates;
        extmap_init(&updates);
        extmap_insert(&updates, 5, 1, EXTMAP_MAPPED, map_entry(MAP_MAPPED, 1, 1, 1), 1);
        assert_int_equal(merge(&updates, 0), 0);
        unsigned level = i < ARRAY_SIZE(bad) ? bad[i].level : 1;
        for (uint64_t s = 0; s < fx.stored_count; s++) {
            if (fx.stored[s].address >> 56 != level)
                continue;
            if (i < ARRAY_SIZE(bad))
                fx.stored[s].page[100] = htole64(bad[i].entry);
            else
                memset(fx.stored[s].page, 0, MAP_PAGE_BYTES);
        }
        struct map_run run;
        assert_int_equal(map_lookup(fx.map, 5, 1, &run), -EBADMSG);
        assert_int_equal(map_lookup(fx.map, 5, 1, &run), -EBADMSG); /* not cached */
        extmap_insert(&updates, 6, 1, EXTMAP_MAPPED, map_entry(MAP_MAPPED, 0, 1, 1), 2);
        assert_int_equal(merge(&updates, 0), -EBADMSG);
        assert_int_equal(map_walk(fx.map, NULL, NULL, NULL), -EBADMSG);
        extmap_fini(&updates);
        end();
    }
}

/* --- Rewriting ------------------------------------------------------------------------------------ */

static int mark_some(void *ctx, uint64_t pointer, uint64_t page_address)
{
    unsigned *count = ctx;
    if (rnd() % 3 == 0) {
        map_rewrite_page(fx.map, page_address, pointer);
        ++*count;
    } else if (rnd() % 3 == 0) { /* has moved since: nothing to do */
        map_rewrite_page(fx.map, page_address, pointer_of(1 << 20));
    }
    return 0;
}

static uint64_t count_old_pages(uint64_t below)
{
    uint64_t count = 0;
    for (uint64_t i = 0; i < below; i++)
        count += fx.stored[i].live;
    return count;
}

static void marked_pages_move_in_the_next_merge(void *arg)
{
    begin(1 << 20, 3);
    for (unsigned round = 0; round < 20; round++) {
        assert_int_equal(merge_random(60, BLOCKS, 0), 0);
        uint64_t stored = fx.stored_count, live = fx.live_count;
        unsigned marked = 0;
        assert_int_equal(map_walk(fx.map, mark_some, NULL, &marked), 0);
        if (round % 2) {
            assert_int_equal(merge_random(1 + rnd() % 5, BLOCKS, 0), 0);
        } else {
            struct extmap none;
            extmap_init(&none);
            if (round == 2) { /* a failed merge forgets nothing */
                fx.calls = 0;
                fx.fail_at = 2;
                fx.fail_error = -EIO;
                assert_int_equal(merge(&none, 0), -EIO);
                fx.fail_at = 0;
                stored = fx.stored_count;
            }
            assert_int_equal(merge(&none, 0), 0);
            assert_true(fx.replaced == 0 && fx.mapped == 0);
            assert_int_equal(fx.live_count, live);
        }
        check_tree();
        assert_true(count_old_pages(stored) <= live - marked);
        assert_int_equal(fx.map->mark_count, 0);
    }
    end();
}

static void the_cap_can_change_at_any_time(void *arg)
{
    begin(16 << 20, 3);
    for (unsigned i = 0; i < 40; i++) {
        uint64_t cap = rnd() % 3 ? (rnd() % 200) * MAP_CACHE_PAGE_BYTES : 64 << 20;
        map_cache_set_cap(fx.cache, cap);
        assert_true(map_cache_used_bytes(fx.cache) <= cap);
        assert_int_equal(merge_random(30, BLOCKS, 0), 0);
        for (unsigned j = 0; j < 100; j++)
            check_lookup(rnd() % BLOCKS, 1);
    }
    check_tree();
    end();
}

/* --- Harness -------------------------------------------------------------------------------------- */

static int setup(void **state)
{
    seed = 0x5eed5eed5eed;
    fiber_sched_init(64);
    fake_env_init(&fake);
    fiber_set_default_env(&fake.env);
    return 0;
}

static int teardown(void **state)
{
    fiber_kill_env(&fake.env);
    mem_release_all(&fake.env);
    env_fini(&fake.env);
    fiber_sched_fini();
    return 0;
}

struct fiber_test {
    fiber_fn *fn;
    bool finished;
};

static void run_fiber_test(void *arg)
{
    struct fiber_test *test = arg;
    test->fn(NULL);
    test->finished = true;
}

static void run(void **state)
{
    struct fiber_test test = {.fn = *(fiber_fn **)*state};
    fake_env_run(&fake, run_fiber_test, &test);
    assert_true(test.finished);
    assert_int_equal(mem_used_bytes(&fake.env), 0);
}

#define FIBER_TEST(f)                                                                 \
    {                                                                                 \
        .name = #f, .test_func = run, .setup_func = setup, .teardown_func = teardown, \
        .initial_state = &(struct { fiber_fn *fn; })                                  \
        {                                                                             \
            f                                                                         \
        }                                                                             \
    }

int main(void)
{
    setenv("CMOCKA_TEST_ABORT", "1", 1); /* no way back from a failed assertion inside a fiber */
    const struct CMUnitTest tests[] = {
        FIBER_TEST(an_empty_map_is_one_hole),
        FIBER_TEST(levels_follow_the_size),
        FIBER_TEST(random_merges_equal_a_plain_array),
        FIBER_TEST(a_tiny_cache_changes_nothing_but_speed),
        FIBER_TEST(equal_entries_change_nothing),
        FIBER_TEST(a_sequential_terabyte_takes_one_entry_a_leaf),
        FIBER_TEST(growth_keeps_what_is_there),
        FIBER_TEST(growth_and_update_in_one_merge),
        FIBER_TEST(a_fault_at_each_store_call),
        FIBER_TEST(lookups_during_merges_see_one_tree),
        FIBER_TEST(pages_on_their_way_do_not_push_out_the_path_to_them),
        FIBER_TEST(damaged_pages_are_refused_by_their_content),
        FIBER_TEST(marked_pages_move_in_the_next_merge),
        FIBER_TEST(the_cap_can_change_at_any_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
