/* SPDX-License-Identifier: Apache-2.0
 *
 * Lists of a volume's shards, page by page, while others come and go (D18).
 */
#include "disk_fixture.h"

#include "common/rng.h"

#define MIB (1ull << 20)
#define VOLUMES 5
#define STAY 20  /* entries of each volume that are there all the while */
#define CHURN 40 /* and those that may be there or not */

/* Tombstones take an entry of the table and no space. */
static void come(struct fixture *f, struct shard_key key)
{
    assert_int_equal(shard_fence(f->disk, key, 1, NULL), -ENOENT);
}

static void go(struct fixture *f, struct shard_key key)
{
    assert_int_equal(shard_remove(f->disk, key, 0, 1), 0);
}

static void change(struct fixture *f, struct rng *rng, bool there[VOLUMES][CHURN])
{
    for (unsigned i = 0; i < 12; i++) {
        unsigned v = (unsigned)rng_below(rng, VOLUMES), n = (unsigned)rng_below(rng, CHURN);
        struct shard_key key = {.volume = 1 + v, .chunk = 1000 + n};
        if (there[v][n])
            go(f, key);
        else
            come(f, key);
        there[v][n] = !there[v][n];
    }
}

/* Each of those that stay is listed exactly once, the others at most once. */
static void list_meanwhile(
    struct fixture *f, struct rng *rng, uint64_t volume, unsigned max, bool there[VOLUMES][CHURN])
{
    struct shard_info page[64];
    unsigned seen[STAY] = {0}, stayed = 0;
    for (uint32_t cursor = 0; cursor != UINT32_MAX;) {
        int listed = local_disk_list_page(f->disk, volume, &cursor, page, max);
        unsigned count = (unsigned)listed;
        assert_true(listed >= 0 && count <= max);
        for (unsigned i = 0; i < count; i++) {
            assert_int_equal(page[i].key.volume, volume);
            if (page[i].key.chunk >= 1000)
                continue;
            assert_int_equal(seen[page[i].key.chunk]++, 0);
            stayed++;
        }
        change(f, rng, there);
    }
    assert_int_equal(stayed, STAY);
}

static void lists_meanwhile(struct fixture *f)
{
    bool there[VOLUMES][CHURN] = {0};
    struct rng rng;
    rng_init(&rng, 1);
    for (unsigned n = 0; n < STAY; n++)
        for (unsigned v = 0; v < VOLUMES; v++)
            come(f, (struct shard_key){.volume = 1 + v, .chunk = n});
    for (unsigned round = 0; round < 60; round++) {
        list_meanwhile(f, &rng, 1 + rng_below(&rng, VOLUMES),
            round % 3 == 0   ? 1 /* the whole table is looked at */
            : round % 3 == 1 ? 7 /* now this way, now that */
                             : 64,
            there);
        local_disk_check(f->disk);
        if (round % 20 == 19) {
            fixture_close(f);
            fixture_open(f);
            local_disk_check(f->disk);
        }
    }
}

static void test_what_stays_is_listed_once_while_other_shards_come_and_go(void **state)
{
    struct fixture f;
    fixture_init(&f, 1, 64 * MIB);
    assert_true(fixture_run(&f, lists_meanwhile));
    fixture_fini(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_stays_is_listed_once_while_other_shards_come_and_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
