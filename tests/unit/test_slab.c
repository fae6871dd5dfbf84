/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_env.h"

#include <errno.h>
#include <string.h>

#include "blockd/disk/slab.h"
#include "common/mem.h"
#include "common/rng.h"

static struct fake_env fake;

static int setup(void **state)
{
    fake_env_init(&fake);
    fiber_sched_init(1);
    fiber_set_default_env(&fake.env);
    return 0;
}

static int teardown(void **state)
{
    assert_int_equal(mem_used_bytes(&fake.env), 0);
    fiber_sched_fini();
    env_fini(&fake.env);
    return 0;
}

static uint32_t alloc(struct slab_map *map, uint32_t units)
{
    uint32_t first;
    assert_int_equal(slab_alloc(map, units, &first), 0);
    return first;
}

static void test_sizes_are_rounded_to_what_the_allocator_gives(void **state)
{
    assert_int_equal(slab_round_units(0), 1);
    assert_int_equal(slab_round_units(1), 1);
    assert_int_equal(slab_round_units(3), 4);
    assert_int_equal(slab_round_units(33), 64);
    assert_int_equal(slab_round_units(64), 64);
    assert_int_equal(slab_round_units(65), 128);
    assert_int_equal(slab_round_units(1000), 1024);
}

static void test_small_extents_are_aligned_and_share_slabs(void **state)
{
    struct slab_map map;
    slab_map_init(&map, 4);
    uint32_t a = alloc(&map, 1), b = alloc(&map, 16), c = alloc(&map, 2), d = alloc(&map, 32);
    assert_int_equal(b % 16, 0);
    assert_int_equal(c % 2, 0);
    assert_int_equal(d % 32, 0);
    assert_true(a / SLAB_UNITS == b / SLAB_UNITS && b / SLAB_UNITS == c / SLAB_UNITS &&
                c / SLAB_UNITS == d / SLAB_UNITS);
    assert_int_equal(map.free_slabs, 3);
    assert_int_equal(map.free_units, 4 * 64 - 51);
    slab_map_fini(&map);
}

static void test_a_small_extent_takes_the_smallest_hole_that_holds_it(void **state)
{
    struct slab_map map;
    slab_map_init(&map, 1);
    /* Holes of 1 (unit 1), 2 (units 2-3), 4 (4-7), 8, 16, 32. */
    assert_int_equal(alloc(&map, 1), 0);
    assert_int_equal(alloc(&map, 1), 1);
    assert_int_equal(alloc(&map, 1), 2);
    assert_int_equal(alloc(&map, 4), 4);
    assert_int_equal(alloc(&map, 1), 3);
    assert_int_equal(alloc(&map, 32), 32);
    slab_map_fini(&map);
}

static void test_large_extents_are_adjacent_whole_slabs(void **state)
{
    struct slab_map map;
    slab_map_init(&map, 200);
    uint32_t small = alloc(&map, 1);
    uint32_t log = alloc(&map, 1024);
    assert_int_equal(log % 64, 0);
    assert_true(small < log || small >= log + 1024);
    uint32_t first;
    assert_int_equal(slab_alloc(&map, 64 * 190, &first), -ENOSPC);
    slab_free(&map, log, 1024);
    slab_free(&map, small, 1);
    assert_int_equal(alloc(&map, 64 * 200), 0);
    assert_int_equal(slab_alloc(&map, 1, &first), -ENOSPC);
    slab_map_fini(&map);
}

static void test_the_end_of_an_extent_can_be_given_back(void **state)
{
    struct slab_map map;
    slab_map_init(&map, 3);
    uint32_t first = alloc(&map, 128);
    slab_free(&map, first + 65, 63);
    assert_int_equal(map.free_units, 64 * 3 - 65);
    assert_int_equal(alloc(&map, 32), first + 96);
    assert_int_equal(alloc(&map, 1), first + 65);
    slab_map_fini(&map);
}

static void test_taking_what_is_taken_is_refused_whole(void **state)
{
    struct slab_map map;
    slab_map_init(&map, 2);
    assert_int_equal(slab_take(&map, 60, 10), 0);
    assert_int_equal(slab_take(&map, 0, 61), -EEXIST);
    assert_int_equal(slab_take(&map, 69, 2), -EEXIST);
    assert_int_equal(slab_take(&map, 120, 9), -ERANGE);
    assert_int_equal(slab_take(&map, UINT32_MAX, 2), -ERANGE);
    assert_int_equal(map.free_units, 118);
    assert_int_equal(slab_take(&map, 0, 60), 0);
    slab_map_fini(&map);
}

/* Against a plain array of units. */
static void test_random_use_keeps_the_map_and_a_model_equal(void **state)
{
    enum { SLABS = 130, UNITS = SLABS * 64, EXTENTS = 600 };
    static uint8_t model[UNITS];
    struct extent {
        uint32_t first, units;
    } extents[EXTENTS] = {0};
    struct slab_map map;
    struct rng rng;
    rng_init(&rng, 1);
    slab_map_init(&map, SLABS);
    memset(model, 0, sizeof(model));
    uint32_t used = 0;
    for (unsigned round = 0; round < 20000; round++) {
        struct extent *e = &extents[rng_below(&rng, EXTENTS)];
        if (e->units == 0) {
            uint32_t units = slab_round_units(
                1 + (uint32_t)rng_below(&rng, rng_below(&rng, 10) == 0 ? 300 : 40));
            if (slab_alloc(&map, units, &e->first) < 0)
                continue;
            e->units = units;
            for (uint32_t i = 0; i < units; i++)
                assert_int_equal(model[e->first + i]++, 0);
            assert_int_equal(e->first % (units < 64 ? units : 64), 0);
            used += units;
        } else {
            uint32_t keep = (uint32_t)rng_below(&rng, e->units);
            slab_free(&map, e->first + keep, e->units - keep);
            for (uint32_t i = keep; i < e->units; i++)
                model[e->first + i]--;
            used -= e->units - keep;
            e->units = keep;
        }
        assert_int_equal(map.free_units, UNITS - used);
    }
    for (unsigned i = 0; i < EXTENTS; i++) {
        if (extents[i].units > 0)
            slab_free(&map, extents[i].first, extents[i].units);
    }
    assert_int_equal(map.free_units, UNITS);
    assert_int_equal(map.free_slabs, SLABS);
    slab_map_fini(&map);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_sizes_are_rounded_to_what_the_allocator_gives),
        TEST(test_small_extents_are_aligned_and_share_slabs),
        TEST(test_a_small_extent_takes_the_smallest_hole_that_holds_it),
        TEST(test_large_extents_are_adjacent_whole_slabs),
        TEST(test_the_end_of_an_extent_can_be_given_back),
        TEST(test_taking_what_is_taken_is_refused_whole),
        TEST(test_random_use_keeps_the_map_and_a_model_equal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
