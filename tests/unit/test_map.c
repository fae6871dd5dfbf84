/* SPDX-License-Identifier: Apache-2.0
 *
 * The map against a plain array: what merges put in is what lookups find.
 */
#include "map_fixture.h"

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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
