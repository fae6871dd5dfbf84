/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_env.h"

#include <stdlib.h>
#include <string.h>

#include "blockd/volume/idmap.h"
#include "common/mem.h"
#include "common/rng.h"

enum { IDS = 512, STEPS = 20000 };

/* Ids are taken from few values, so that puts, removals and puts again of one id are common. */
static uint64_t id_of(unsigned i)
{
    return i < 4 ? (uint64_t)i - 2 : (uint64_t)i << 32 | i % 7;
}

static void check_all(const struct idmap *map, const bool *present, unsigned count)
{
    unsigned seen = 0;
    uint32_t pos = 0;
    for (const char *value; (value = idmap_next(map, &pos));) {
        size_t i = (size_t)(uintptr_t)value - 1;
        assert_true(i < IDS && present[i]);
        seen++;
    }
    assert_int_equal(seen, count);
    assert_int_equal(map->count, count);
    for (unsigned i = 0; i < IDS; i++)
        assert_ptr_equal(idmap_get(map, id_of(i)), present[i] ? (void *)(uintptr_t)(i + 1) : NULL);
}

static void it_holds_what_was_put_and_not_removed(void **state)
{
    for (uint64_t seed = 1; seed <= 8; seed++) {
        struct rng rng;
        struct idmap map = {0};
        bool present[IDS] = {false};
        unsigned count = 0;
        rng_init(&rng, seed);
        for (unsigned step = 0; step < STEPS; step++) {
            unsigned i = (unsigned)rng_below(&rng, rng_one_in(&rng, 2) ? 24 : IDS);
            if (present[i]) {
                assert_ptr_equal(idmap_remove(&map, id_of(i)), (void *)(uintptr_t)(i + 1));
                count--;
            } else {
                assert_null(idmap_remove(&map, id_of(i)));
                idmap_put(&map, id_of(i), (void *)(uintptr_t)(i + 1));
                count++;
            }
            present[i] = !present[i];
            if (step % 512 == 0)
                check_all(&map, present, count);
        }
        check_all(&map, present, count);
        idmap_fini(&map);
        assert_null(idmap_get(&map, id_of(0)));
    }
}

static void an_empty_map_answers_nothing(void **state)
{
    struct idmap map = {0};
    uint32_t pos = 0;
    assert_null(idmap_get(&map, 1));
    assert_null(idmap_remove(&map, 1));
    assert_null(idmap_next(&map, &pos));
    idmap_fini(&map);
}

static void the_same_history_iterates_in_the_same_order(void **state)
{
    struct idmap a = {0}, b = {0};
    for (unsigned i = 0; i < 100; i++) {
        idmap_put(&a, id_of(i), (void *)(uintptr_t)(i + 1));
        idmap_put(&b, id_of(i), (void *)(uintptr_t)(i + 1));
    }
    uint32_t pos_a = 0, pos_b = 0;
    for (void *value; (value = idmap_next(&a, &pos_a));)
        assert_ptr_equal(value, idmap_next(&b, &pos_b));
    idmap_fini(&a);
    idmap_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_holds_what_was_put_and_not_removed),
        cmocka_unit_test(an_empty_map_answers_nothing),
        cmocka_unit_test(the_same_history_iterates_in_the_same_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
