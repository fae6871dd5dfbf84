/* SPDX-License-Identifier: Apache-2.0
 *
 * Disks that hang and come back by themselves (disks.h, N7).
 */
#include "disk_fixture.h"

#include "blockd/cluster/identity.h"
#include "blockd/disks.h"

#define MIB (1ull << 20)
#define SEC 1000000000ull
#define TIMEOUT_NS (2 * SEC)

static struct store_mem *mem;
static struct disks *disks;
static unsigned changes;

static const struct shard_key L = {.volume = 7, .chunk = (1ull << 32) | 1, .index = 0};

static void on_changed(void *ctx)
{
    changes++;
}

static void start(void)
{
    struct store *store = store_mem_open(mem);
    struct cluster_record record;
    char *error = NULL;
    CHECK(cluster_load_or_make(store, &record, &error) == 0);
    disks = disks_new(store, &(struct disks_options){.node_name = "n1",
                                 .cluster = record.uuid,
                                 .trailer_cache_bytes = 1 << 20,
                                 .io_timeout_ns = TIMEOUT_NS,
                                 .changed = on_changed});
    CHECK_MSG(disks_open_all(disks, &error) == 0, "%s", error);
}

static struct disks_entry *entry(void)
{
    return list_entry(disks_entries(disks)->next, struct disks_entry, link);
}

static void make(struct fixture *f)
{
    struct uuid uuid;
    struct disk_record record;
    uint64_t size_bytes;
    char *error = NULL;
    start();
    CHECK(disks_format(disks, FIXTURE_PATH, 0, "ssd", false, &uuid, &size_bytes, &error) == 0);
    CHECK(disks_add(disks, FIXTURE_PATH, &record, &error) == 0);
    assert_int_equal(create_simple(entry()->disk, L, SHARD_LOG, 200), 0);
    assert_int_equal(append_blocks(entry()->disk, L, 1, 0, 5, 0, SHARD_APPEND_DSYNC), 0);
}

static void hangs(struct fixture *f)
{
    struct shard_info info;
    changes = 0;
    sim_disk_hang(f->medium);
    int r = shard_fence(entry()->disk, L, 1, &info);
    assert_int_equal(r, entry()->state == DISK_FAILED ? -EIO : -EHOSTUNREACH);
    assert_true(changes > 0);
}

static bool has_returned_within(uint64_t duration_ns)
{
    uint64_t end_ns = env_now_ns() + duration_ns;
    while (entry()->state == DISK_MISSING && env_now_ns() < end_ns)
        env_sleep_ns(SEC / 10);
    return entry()->state == DISK_IN;
}

static void expect_hung(void)
{
    assert_int_equal(entry()->state, DISK_MISSING);
    assert_int_equal(entry()->disk->state, DISK_MISSING);
    assert_non_null(strstr(entry()->problem, "comes back by itself"));
    assert_non_null(strstr(entry()->problem, FIXTURE_PATH));
}

static void expect_in(void)
{
    assert_int_equal(entry()->state, DISK_IN);
    assert_int_equal(entry()->disk->state, DISK_IN);
    assert_null(entry()->problem);
    assert_int_equal(read_and_compare(entry()->disk, L, 0, 6, 0), 0);
}

/* Each time a little later; not a fifth time within an hour. */
static void four_times_an_hour(struct fixture *f)
{
    static const uint64_t pauses_s[] = {0, 5, 25, 100};
    make(f);
    struct disk *disk = entry()->disk;
    for (unsigned hour = 0; hour < 2; hour++) {
        for (unsigned i = 0; i < 4; i++) {
            hangs(f);
            env_sleep_ns(20 * SEC * (hour + 1));
            expect_hung();
            changes = 0;
            sim_disk_go_on(f->medium);
            if (hour == 0 && pauses_s[i] > 20)
                assert_false(has_returned_within((pauses_s[i] - 20) * SEC));
            assert_true(has_returned_within(130 * SEC));
            expect_in();
            assert_int_equal(changes, 1);
            assert_ptr_equal(entry()->disk, disk);
        }
        if (hour == 0)
            env_sleep_ns(3600 * SEC);
    }
    hangs(f);
    sim_disk_go_on(f->medium);
    assert_int_equal(entry()->state, DISK_FAILED);
    assert_int_equal(disk->state, DISK_FAILED);
    assert_non_null(strstr(entry()->problem, "has failed"));
    env_sleep_ns(2 * 3600 * SEC);
    assert_int_equal(entry()->state, DISK_FAILED);
    disks_free(disks);
    start(); /* anew */
    expect_in();
    disks_free(disks);
}

static void removed(struct fixture *f)
{
    char *error = NULL;
    struct disk_record record;
    make(f);
    hangs(f);
    assert_int_equal(disks_add(disks, FIXTURE_PATH, &record, &error), -EEXIST);
    assert_non_null(strstr(error, "hangs"));
    mem_free(error);
    error = NULL;
    assert_int_equal(disks_remove(disks, "1", false, &error), -EBUSY);
    assert_non_null(strstr(error, "hangs"));
    mem_free(error);
    error = NULL;
    assert_int_equal(disks_remove(disks, "1", true, &error), 0);
    sim_disk_go_on(f->medium);
    env_sleep_ns(10 * SEC);
    assert_true(list_empty(disks_entries(disks)));
    disks_free(disks);
}

static void stopped(struct fixture *f)
{
    make(f);
    hangs(f);
    env_sleep_ns(5 * SEC);
    uint64_t begin_ns = env_now_ns();
    disks_free(disks);
    assert_true(env_now_ns() - begin_ns < SEC);
    sim_disk_go_on(f->medium);
    env_sleep_ns(SEC);
    start();
    expect_in();
    disks_free(disks);
}

/* It cannot be opened: tried again, a little later each time, and then given up. */
static void gone(struct fixture *f)
{
    make(f);
    hangs(f);
    sim_disk_go_on(f->medium);
    sim_disk_remove(f->medium);
    env_sleep_ns(10 * SEC);
    /* Its writes came back with -ENODEV: an error. */
    assert_int_equal(entry()->state, DISK_FAILED);
    sim_disk_return(f->medium);
    disks_free(disks);
    start();
    expect_in();
    hangs(f);
    sim_disk_go_on(f->medium);
    env_sleep_ns(SEC / 10);
    sim_disk_remove(f->medium);
    env_sleep_ns(5 * SEC);
    assert_int_equal(entry()->state, DISK_MISSING);
    assert_non_null(strstr(entry()->problem, "no such file"));
    sim_disk_return(f->medium);
    assert_true(has_returned_within(20 * SEC));
    expect_in();
    hangs(f);
    sim_disk_go_on(f->medium);
    env_sleep_ns(SEC / 10);
    sim_disk_remove(f->medium);
    assert_false(has_returned_within(300 * SEC));
    assert_int_equal(entry()->state, DISK_FAILED);
    disks_free(disks);
}

static void run(void (*fn)(struct fixture *f))
{
    struct fixture f = {0};
    f.sim = sim_new(&(struct sim_options){.seed = 1, .strict_io = true});
    f.node = sim_node_new(f.sim, "n1");
    f.medium = sim_disk_new(f.node, FIXTURE_PATH, 64 * MIB);
    mem = store_mem_new();
    assert_true(fixture_run(&f, fn));
    sim_free(f.sim);
    store_mem_free(mem);
}

static void test_a_disk_comes_back_four_times_an_hour(void **state)
{
    run(four_times_an_hour);
}

static void test_a_disk_that_hangs_can_be_removed(void **state)
{
    run(removed);
}

static void test_a_stop_does_not_wait_for_it(void **state)
{
    run(stopped);
}

static void test_one_that_cannot_be_opened_is_given_up(void **state)
{
    run(gone);
}

int main(void)
{
    log_set_output(fixture_quiet, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_disk_comes_back_four_times_an_hour),
        cmocka_unit_test(test_a_disk_that_hangs_can_be_removed),
        cmocka_unit_test(test_a_stop_does_not_wait_for_it),
        cmocka_unit_test(test_one_that_cannot_be_opened_is_given_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
