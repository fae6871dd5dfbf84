/* SPDX-License-Identifier: Apache-2.0
 *
 * Disks that hang and come back by themselves (disks.h, N7).
 */
#include "disk_fixture.h"

#include "blockd/cluster/identity.h"
#include "blockd/disk/superblock.h"
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

static void start_as(const char *node_name)
{
    struct store *store = store_mem_open(mem);
    struct cluster_record record;
    char *error = NULL;
    CHECK(cluster_load_or_make(store, &record, &error) == 0);
    disks = disks_new(store, &(struct disks_options){.node_name = node_name,
                                 .cluster = record.uuid,
                                 .trailer_cache_bytes = 1 << 20,
                                 .io_timeout_ns = TIMEOUT_NS,
                                 .changed = on_changed});
    CHECK_MSG(disks_open_all(disks, &error) == 0, "%s", error);
}

static void start(void)
{
    start_as("n1");
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

static void add_fiber(void *arg)
{
    struct disk_record record;
    char *error = NULL;
    CHECK(disks_add(disks, FIXTURE_PATH, &record, &error) == 0);
    *(bool *)arg = true;
}

/* It is carried here, and hangs before the store has said that it is ours. */
static void hangs_while_it_is_added(struct fixture *f)
{
    bool added = false;
    make(f);
    disks_free(disks);
    start_as("n2");
    store_mem_set_fault(mem, 0, 5 * SEC);
    fiber_spawn("add", add_fiber, &added);
    while (list_empty(disks_entries(disks)))
        env_sleep_ns(SEC / 10);
    hangs(f);
    assert_false(added);
    while (!added)
        env_sleep_ns(SEC / 10);
    store_mem_set_fault(mem, 0, 0);
    expect_hung();
    sim_disk_go_on(f->medium);
    assert_true(has_returned_within(20 * SEC));
    expect_in();
    disks_free(disks);
}

/* Another node opens it, and uses it, while it hangs here and this node learns of nothing. */
static void opened_elsewhere(struct fixture *f)
{
    make(f);
    hangs(f);
    uint64_t offs[SUPERBLOCK_COPIES];
    struct superblock super;
    uint8_t block[SUPERBLOCK_BYTES];
    sim_disk_peek(f->medium, 0, block, sizeof(block));
    CHECK(superblock_decode(block, 0, &super) == 0);
    super.incarnation++;
    superblock_copy_offsets(super.size_bytes, offs);
    superblock_encode(&super, offs[1], block);
    sim_disk_poke(f->medium, offs[1], block, sizeof(block));
    sim_disk_go_on(f->medium);
    assert_false(has_returned_within(30 * SEC));
    assert_int_equal(entry()->state, DISK_FAILED);
    struct superblock now;
    sim_disk_peek(f->medium, 0, block, sizeof(block));
    CHECK(superblock_decode(block, 0, &now) == 0);
    assert_int_equal(now.incarnation, super.incarnation - 1); /* nothing was written */
    disks_free(disks);
}

enum { MORE = 4 };

/* How many are closed just now. */
static unsigned being_reopened(void)
{
    unsigned count = 0;
    list_for_each (it, disks_entries(disks)) {
        struct disk *disk = list_entry(it, struct disks_entry, link)->disk;
        struct shard_info info;
        uint32_t cursor = 0;
        count += local_disk_list_page(disk, 0, &cursor, &info, 1) == -EHOSTUNREACH;
    }
    return count;
}

static bool all_are(enum disk_state state)
{
    list_for_each (it, disks_entries(disks))
        if (list_entry(it, struct disks_entry, link)->state != state)
            return false;
    return true;
}

static void fence_fiber(void *arg)
{
    struct shard_info info;
    (void)shard_fence(arg, L, 1, &info);
}

/* All at once; not all are opened at once, since an open that hangs keeps a thread. */
static void many(struct fixture *f)
{
    struct sim_disk *media[1 + MORE] = {f->medium};
    make(f);
    for (unsigned i = 1; i <= MORE; i++) {
        char path[] = "/dev/more0";
        struct uuid uuid;
        struct disk_record record;
        uint64_t size_bytes;
        char *error = NULL;
        path[sizeof(path) - 2] = (char)('0' + i);
        media[i] = sim_disk_new(f->node, path, 64 * MIB);
        CHECK(disks_format(disks, path, 0, "ssd", false, &uuid, &size_bytes, &error) == 0);
        CHECK(disks_add(disks, path, &record, &error) == 0);
    }
    for (unsigned i = 0; i <= MORE; i++)
        sim_disk_hang(media[i]);
    list_for_each (it, disks_entries(disks))
        fiber_spawn("fence", fence_fiber, list_entry(it, struct disks_entry, link)->disk);
    while (!all_are(DISK_MISSING))
        env_sleep_ns(SEC / 10);
    for (unsigned i = 0; i <= MORE; i++)
        sim_disk_go_on(media[i]);
    unsigned most = 0;
    uint64_t end_ns = env_now_ns() + 20 * SEC;
    while (!all_are(DISK_IN)) {
        most = MAX(most, being_reopened());
        assert_true(env_now_ns() < end_ns);
        env_sleep_ns(SEC / 50000);
    }
    assert_int_equal(most, 2);
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

static void test_all_come_back_two_at_a_time(void **state)
{
    run(many);
}

static void test_one_that_hangs_while_it_is_added(void **state)
{
    run(hangs_while_it_is_added);
}

static void test_one_that_was_opened_elsewhere_is_left_alone(void **state)
{
    run(opened_elsewhere);
}

int main(void)
{
    log_set_output(fixture_quiet, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_disk_comes_back_four_times_an_hour),
        cmocka_unit_test(test_a_disk_that_hangs_can_be_removed),
        cmocka_unit_test(test_a_stop_does_not_wait_for_it),
        cmocka_unit_test(test_one_that_cannot_be_opened_is_given_up),
        cmocka_unit_test(test_all_come_back_two_at_a_time),
        cmocka_unit_test(test_one_that_hangs_while_it_is_added),
        cmocka_unit_test(test_one_that_was_opened_elsewhere_is_left_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
