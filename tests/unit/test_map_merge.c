/* SPDX-License-Identifier: Apache-2.0
 *
 * The map while it is not alone: lookups during merges, damaged pages, pages that move, another cap.
 */
#include "map_fixture.h"

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

int main(void)
{
    setenv("CMOCKA_TEST_ABORT", "1", 1); /* no way back from a failed assertion inside a fiber */
    const struct CMUnitTest tests[] = {
        FIBER_TEST(lookups_during_merges_see_one_tree),
        FIBER_TEST(pages_on_their_way_do_not_push_out_the_path_to_them),
        FIBER_TEST(damaged_pages_are_refused_by_their_content),
        FIBER_TEST(marked_pages_move_in_the_next_merge),
        FIBER_TEST(the_cap_can_change_at_any_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
