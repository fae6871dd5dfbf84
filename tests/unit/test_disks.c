/* SPDX-License-Identifier: Apache-2.0
 *
 * The node's disks: real files of 64 MiB in the production env, the memory store. Inside fibers
 * CHECK takes the place of assertions.
 */
#include "uring_run.h"

#include <errno.h>

#include "blockd/cluster/identity.h"
#include "blockd/disks.h"
#include "blockd/disks_records.h"
#include "common/log.h"
#include "common/mem.h"

#define SIZE_BYTES (64ull << 20)

static struct store_mem *mem;
static struct store *store;
static struct uuid cluster;
static struct disks *disks;
static unsigned changes;

static void on_changed(void *ctx)
{
    changes++;
}

static void start(const char *node)
{
    struct disks_options options = {.node_name = node,
        .cluster = cluster,
        .trailer_cache_bytes = 1 << 20,
        .changed = on_changed};
    CLEANUP_FREE char *error = NULL;
    disks = disks_new(store, &options);
    CHECK_MSG(disks_open_all(disks, &error) == 0, "%s", error);
}

static void restart(void)
{
    disks_free(disks);
    start("n1");
}

static int format(const char *name, bool force, const char *want_error)
{
    struct uuid uuid;
    uint64_t size_bytes;
    CLEANUP_FREE char *error = NULL;
    int r = disks_format(
        disks, scratch_path("", name), SIZE_BYTES, "ssd", force, &uuid, &size_bytes, &error);
    CHECK_MSG(!want_error == !error && (!error || strstr(error, want_error)), "%s", error);
    CHECK(r < 0 || size_bytes == SIZE_BYTES);
    return r;
}

/* The number, or a negative errno. */
static int add(const char *name, const char *want_error)
{
    struct disk_record record;
    CLEANUP_FREE char *error = NULL;
    int r = disks_add(disks, scratch_path("", name), &record, &error);
    CHECK_MSG(!want_error == !error && (!error || strstr(error, want_error)), "%s", error);
    return r < 0 ? r : (int)record.number;
}

static int take_away(const char *which, bool force, const char *want_error)
{
    CLEANUP_FREE char *error = NULL;
    int r = disks_remove(disks, which, force, &error);
    CHECK_MSG(!want_error == !error && (!error || strstr(error, want_error)), "%s", error);
    return r;
}

static struct disks_entry *entry(uint32_t number)
{
    list_for_each (it, disks_entries(disks))
        if (list_entry(it, struct disks_entry, link)->record.number == number)
            return list_entry(it, struct disks_entry, link);
    return NULL;
}

static unsigned present(void)
{
    unsigned count = 0;
    list_for_each (it, &disks_present(disks)->all)
        count++;
    return count;
}

static void make_shard(uint32_t number)
{
    struct shard_create create = {.key = {.volume = 1, .chunk = 1, .index = 0},
        .kind = SHARD_LOG,
        .code = {1, 1},
        .instance = 5,
        .epoch = 1,
        .capacity_blocks = 64,
        .capacity_blocks_min = 1};
    CHECK(shard_create(entry(number)->disk, &create, NULL) == 0);
}

/* What other fibers do comes to pass sooner or later: a machine may be busy. */
#define AWAIT(condition)                                                          \
    do {                                                                          \
        for (unsigned tries_ = 0;; tries_++) {                                    \
            if (condition)                                                        \
                break;                                                            \
            CHECK_MSG(tries_ < 60000, "waited a minute in vain for " #condition); \
            env_sleep_ns(1000000);                                                \
        }                                                                         \
    } while (0)

static void rename_file(const char *from, const char *to)
{
    CHECK(rename(scratch_path("", from), scratch_path("", to)) == 0);
}

static int disks_are_numbered_once_and_opened_again_body(void *arg)
{
    CHECK(add("a", "no such file") < 0);
    CHECK(format("a", false, NULL) == 0);
    CHECK(format("a", false, "--force") == -EEXIST);
    CHECK(format("a", true, NULL) == 0);
    CHECK(format("b", false, NULL) == 0);
    CHECK(add("a", NULL) == 1);
    CHECK(add("b", NULL) == 2);
    CHECK(changes == 2);
    CHECK(add("a", "is disk 1 already") == -EEXIST);
    CHECK(format("a", true, "is disk 1 of this node") == -EBUSY);
    CHECK(present() == 2 && entry(1)->disk->number == 1 && entry(1)->state == DISK_IN);
    CHECK(
        strcmp(entry(2)->disk->node, "n1") == 0 && strcmp(entry(2)->disk->class_name, "ssd") == 0);
    restart();
    CHECK(present() == 2 && entry(2)->disk->number == 2 && !entry(2)->problem);
    CHECK(take_away("2", false, NULL) == 0);
    CHECK(take_away("2", false, "no disk '2'") == -ENOENT);
    CHECK(format("b", true, NULL) == 0);
    CHECK(add("b", NULL) == 3); /* N1 */
    return 0;
}

static int missing_disk_is_named_and_taken_back_from_anywhere_body(void *arg)
{
    CHECK(format("a", false, NULL) == 0 && add("a", NULL) == 1);
    CHECK(format("b", false, NULL) == 0 && add("b", NULL) == 2);
    disks_free(disks);
    rename_file("a", "elsewhere");
    start("n1");
    CHECK(present() == 1 && entry(1)->state == DISK_MISSING && !entry(1)->disk);
    CHECK(strstr(entry(1)->problem, "disk 1 is missing") && strstr(entry(1)->problem, "disk add"));
    CHECK(take_away("1", false, "disk 1 is missing") == -EBUSY);
    CHECK(add("elsewhere", NULL) == 1);
    CHECK(present() == 2 && entry(1)->state == DISK_IN && !entry(1)->problem);
    restart();
    CHECK(present() == 2 && strstr(entry(1)->record.path, "elsewhere"));
    /* Another disk in its place. */
    disks_free(disks);
    rename_file("elsewhere", "away");
    rename_file("b", "elsewhere");
    start("n1");
    CHECK(present() == 0 && strstr(entry(1)->problem, "another disk is at"));
    CHECK(add("elsewhere", NULL) == 2);
    CHECK(take_away("1", true, NULL) == 0);
    CHECK(!entry(1));
    restart();
    CHECK(!entry(1) && present() == 1);
    CHECK(add("away", NULL) == 3);
    return 0;
}

static int disk_with_shards_is_removed_by_force_only_body(void *arg)
{
    CHECK(format("a", false, NULL) == 0 && add("a", NULL) == 1);
    make_shard(1);
    CHECK(take_away(scratch_path("", "a"), false, "holds 1 shards") == -EBUSY);
    CHECK(entry(1)->disk->number == 1 && entry(1)->disk->state == DISK_IN);
    struct disk *disk = entry(1)->disk;
    CHECK(take_away("1", true, NULL) == 0);
    CHECK(present() == 0 && disk->state == DISK_FAILED); /* open operations end with errors */
    return 0;
}

static int failed_disk_says_so_and_asks_for_force_body(void *arg)
{
    CHECK(format("a", false, NULL) == 0 && add("a", NULL) == 1);
    local_disk_fail(entry(1)->disk, -EIO);
    CHECK(entry(1)->state == DISK_FAILED && changes == 2);
    CHECK(strstr(entry(1)->problem, "disk 1") && strstr(entry(1)->problem, "Input/output"));
    CHECK(add("a", "has failed") == -EEXIST);
    CHECK(take_away("1", false, "has failed") == -EBUSY);
    CHECK(take_away("1", true, NULL) == 0);
    return 0;
}

static bool removed;

static void remove_fiber(void *arg)
{
    CHECK(take_away("1", true, NULL) == 0);
    removed = true;
}

static int removal_waits_for_holds_and_lets_no_new_ones_in_body(void *arg)
{
    CHECK(format("a", false, NULL) == 0 && add("a", NULL) == 1);
    CHECK(!disks_hold_open(disks, 2));
    struct disks_entry *held = disks_hold_open(disks, 1);
    CHECK(held == entry(1));
    removed = false;
    fiber_spawn("remove", remove_fiber, NULL);
    AWAIT(held->disk->state == DISK_FAILED); /* what runs there ends */
    env_sleep_ns(50 * 1000000);
    CHECK(!removed);
    CHECK(!disks_hold_open(disks, 1) && !disks_hold_next(disks, 0));
    disks_release(held);
    AWAIT(removed && !entry(1));
    return 0;
}

static int foreign_disks_are_refused_body(void *arg)
{
    CHECK(format("a", false, NULL) == 0 && add("a", NULL) == 1);
    disks_free(disks);
    cluster = uuid_random();
    start("n2"); /* of the same store, but another node: none of its disks are here */
    CHECK(present() == 0 && list_empty(disks_entries(disks)));
    CHECK(add("a", "belongs to cluster") == -EPERM);
    return 0;
}

static void delete_key(const char *key)
{
    struct store_op op = {.type = STORE_DELETE, .key = key};
    CHECK(store_txn(store, NULL, 0, &op, 1, NULL) == 0);
}

static int disk_that_another_node_has_removed_takes_no_writes_body(void *arg)
{
    char key[KEY_BYTES_MAX];
    for (unsigned i = 0; i < 3; i++)
        CHECK(format((const char *[]){"a", "b", "c"}[i], false, NULL) == 0);
    CHECK(add("a", NULL) == 1 && add("b", NULL) == 2 && add("c", NULL) == 3);
    make_shard(1);
    disks_forgotten(disks, 1); /* its record is there: news of another history */
    disks_forgotten(disks, 9); /* another node's */
    env_sleep_ns(50 * 1000000);
    CHECK(entry(1)->state == DISK_IN);
    delete_key(key_disk(1, key));
    unsigned before = changes;
    disks_forgotten(disks, 1);
    AWAIT(entry(1)->state == DISK_FAILED && entry(1)->disk->state == DISK_FAILED); /* N4 */
    CHECK(strstr(entry(1)->problem, "removed from this node by another") && changes > before);
    CHECK(add("a", "removed from this node by another") == -EEXIST);
    CHECK(take_away("1", true, NULL) == 0 && !entry(1));
    CHECK(add("a", "another process") < 0); /* until no volume can have it in hand */

    delete_key(key_disk(2, key)); /* just when this node starts */
    disks_recorded(disks, 3);
    disks_all_recorded(disks);
    AWAIT(entry(2)->state == DISK_FAILED);
    CHECK(entry(3)->state == DISK_IN);

    disks_free(disks); /* one that is missing is not waited for */
    rename_file("c", "elsewhere");
    start("n1");
    CHECK(entry(3)->state == DISK_MISSING);
    struct disks_entry *held = disks_hold_next(disks, 0);
    CHECK(held == entry(3));
    delete_key(key_disk(3, key));
    disks_forgotten(disks, 3);
    env_sleep_ns(50 * 1000000);
    CHECK(entry(3));
    disks_release(held);
    CHECK(list_empty(disks_entries(disks)));
    CHECK(add("elsewhere", NULL) == 4);
    return 0;
}

static void put_session(const char *node)
{
    struct session_record record = {.id = 7, .incarnation = 1, .boot_id = {1}};
    char key[KEY_BYTES_MAX];
    strcpy(record.node, node);
    CLEANUP_FREE char *text = session_record_encode(&record);
    struct store_op op = {STORE_PUT, key_session(7, key), text, strlen(text), false};
    CHECK(store_txn(store, NULL, 0, &op, 1, NULL) == 0);
}

static void add_b_fiber(void *arg)
{
    CHECK(add("b", NULL) == 1);
    *(bool *)arg = true;
}

/* A disk that is known by no list for a moment counts as removed, and is waited for no more (O5). */
static int disk_that_is_carried_is_there_before_its_record_says_so_body(void *arg)
{
    bool added = false;
    CHECK(format("a", false, NULL) == 0 && add("a", NULL) == 1);
    disks_free(disks);
    rename_file("a", "b");
    start("n2");
    store_mem_set_fault(mem, 0, 200 * 1000000);
    fiber_spawn("add", add_b_fiber, &added);
    while (list_empty(disks_entries(disks)))
        env_sleep_ns(1000000);
    CHECK(!added && entry(1)->disk->number == 1 && present() == 1);
    CHECK(entry(1)->disk->state == DISK_OUT); /* and nothing is placed there */
    disks_forgotten(disks, 1);                /* of the other node's time */
    AWAIT(added);
    store_mem_set_fault(mem, 0, 0);
    env_sleep_ns(500 * 1000000); /* what disks_forgotten() had asked is answered */
    AWAIT(entry(1)->state == DISK_IN && entry(1)->disk->state == DISK_IN);
    return 0;
}

/* N5 */
static int disk_that_is_carried_to_another_node_keeps_its_number_body(void *arg)
{
    char key[KEY_BYTES_MAX];
    CHECK(format("a", false, NULL) == 0 && add("a", NULL) == 1);
    make_shard(1);
    disks_free(disks);
    rename_file("a", "b");
    put_session("n1");
    start("n2");
    CHECK(add("b", "is disk 1 of node 'n1', which is up") == -EBUSY);
    CHECK(list_empty(disks_entries(disks)));
    delete_key(key_session(7, key));
    CHECK(add("b", NULL) == 1);
    CHECK(strcmp(entry(1)->record.node, "n2") == 0 && present() == 1);
    CHECK(local_disk_shard_count(entry(1)->disk) == 1);
    disks_free(disks);
    start("n1"); /* not its any more */
    CHECK(list_empty(disks_entries(disks)));
    CHECK(format("c", false, NULL) == 0 && add("c", NULL) == 2);
    disks_free(disks);
    start("n2");
    CHECK(present() == 1 && entry(1)->state == DISK_IN);
    return 0;
}

/* N4, N5: of a node that had it open, and was away for too long. */
static int disk_that_another_node_has_taken_takes_no_writes_body(void *arg)
{
    CHECK(format("a", false, NULL) == 0 && add("a", NULL) == 1);
    struct disk_record record = entry(1)->record;
    strcpy(record.node, "n2");
    CHECK(disk_record_take(store, &record) == 0);
    disks_forgotten(disks, 1);
    AWAIT(entry(1)->state == DISK_FAILED);
    return 0;
}

static int store_that_lost_everything_takes_no_disk_away_body(void *arg)
{
    char key[KEY_BYTES_MAX];
    CHECK(format("a", false, NULL) == 0 && add("a", NULL) == 1);
    delete_key(key_disk(1, key));
    delete_key(key_cluster());
    disks_forgotten(disks, 1);
    env_sleep_ns(50 * 1000000);
    CHECK(entry(1)->state == DISK_IN && entry(1)->disk->state == DISK_IN);
    return 0;
}

static char *cluster_text(void)
{
    struct store_value value;
    CHECK(store_get(store, key_cluster(), &value) == 0);
    char *text = mem_strdup(value.data);
    store_value_fini(&value);
    return text;
}

static void put_text(const char *key, const char *text)
{
    struct store_op op = {STORE_PUT, key, text, strlen(text), false};
    CHECK(store_txn(store, NULL, 0, &op, 1, NULL) == 0);
}

static void put_record(const struct disk_record *record)
{
    char key[KEY_BYTES_MAX];
    CLEANUP_FREE char *text = disk_record_encode(record, NULL);
    put_text(key_disk(record->number, key), text);
}

/* N6: the store is restored from a snapshot of before disks 2 and 3 were added and disk 1 was carried here. */
static int disks_that_are_younger_than_a_restored_store_stay_body(void *arg)
{
    char key[KEY_BYTES_MAX];
    for (unsigned i = 0; i < 4; i++)
        CHECK(format((const char *[]){"a", "b", "c", "d"}[i], false, NULL) == 0);
    CHECK(add("c", NULL) == 1);
    CLEANUP_FREE char *then = cluster_text();
    CHECK(add("a", NULL) == 2 && add("b", NULL) == 3);
    make_shard(2);
    struct disk_record carried = entry(1)->record, found;
    strcpy(carried.node, "n2");
    put_text(key_cluster(), then);
    delete_key(key_disk(2, key));
    delete_key(key_disk(3, key));
    put_record(&carried);
    store_mem_set_back(mem);
    for (uint32_t number = 1; number <= 3; number++)
        disks_forgotten(disks, number);
    env_sleep_ns(100 * 1000000);
    for (uint32_t number = 1; number <= 3; number++) {
        AWAIT(disk_record_find(store, &entry(number)->record.uuid, &found) == 0 &&
              strcmp(found.node, "n1") == 0);
        CHECK(entry(number)->state == DISK_IN && entry(number)->disk->state == DISK_IN);
        CHECK(found.number == number && strcmp(found.node, "n1") == 0);
    }
    CHECK(add("d", NULL) == 4); /* N1 */

    delete_key(key_disk(2, key)); /* in the history of now: N4 */
    disks_forgotten(disks, 2);
    AWAIT(entry(2)->state == DISK_FAILED);
    CHECK(entry(3)->state == DISK_IN);

    struct disk_record other = entry(3)->record; /* its number was given away meanwhile */
    other.uuid = uuid_random();
    strcpy(other.node, "n2");
    put_record(&other);
    store_mem_set_back(mem);
    disks_forgotten(disks, 3);
    AWAIT(entry(3)->state == DISK_FAILED);
    CHECK(entry(1)->state == DISK_IN);
    return 0;
}

/* N1, also where the record of the cluster was put back and those of the disks were not. */
static int numbers_that_disks_have_are_passed_over_body(void *arg)
{
    for (unsigned i = 0; i < 3; i++)
        CHECK(format((const char *[]){"a", "b", "c"}[i], false, NULL) == 0);
    CLEANUP_FREE char *then = cluster_text();
    CHECK(add("a", NULL) == 1 && add("b", NULL) == 2);
    put_text(key_cluster(), then);
    CHECK(add("c", NULL) == 3);
    return 0;
}

static int run_body(void *arg)
{
    int (*body)(void *) = *(int (**)(void *))arg;
    struct cluster_record record, again;
    CLEANUP_FREE char *error = NULL;
    store = store_mem_open(mem);
    CHECK(cluster_load_or_make(store, &record, &error) == 0);
    CHECK(cluster_load_or_make(store, &again, &error) == 0);
    CHECK(uuid_equal(&record.uuid, &again.uuid));
    cluster = record.uuid;
    changes = 0;
    start("n1");
    int r = body(NULL);
    disks_free(disks);
    store_close(store);
    return r;
}

#define TEST(name)                                                     \
    static void name(void **state)                                     \
    {                                                                  \
        int (*body)(void *) = name##_body;                             \
        struct env_uring_options options = {0};                        \
        mem = store_mem_new();                                         \
        log_set_level(LOG_LEVEL_ERROR);                                \
        assert_int_equal(env_uring_run(&options, run_body, &body), 0); \
        store_mem_free(mem);                                           \
    }
TEST(disks_are_numbered_once_and_opened_again)
TEST(missing_disk_is_named_and_taken_back_from_anywhere)
TEST(disk_with_shards_is_removed_by_force_only)
TEST(failed_disk_says_so_and_asks_for_force)
TEST(removal_waits_for_holds_and_lets_no_new_ones_in)
TEST(foreign_disks_are_refused)
TEST(disk_that_another_node_has_removed_takes_no_writes)
TEST(disk_that_is_carried_is_there_before_its_record_says_so)
TEST(disk_that_is_carried_to_another_node_keeps_its_number)
TEST(disk_that_another_node_has_taken_takes_no_writes)
TEST(store_that_lost_everything_takes_no_disk_away)
TEST(disks_that_are_younger_than_a_restored_store_stay)
TEST(numbers_that_disks_have_are_passed_over)

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, scratch_setup, scratch_teardown)
    const struct CMUnitTest tests[] = {
        T(disks_are_numbered_once_and_opened_again),
        T(missing_disk_is_named_and_taken_back_from_anywhere),
        T(disk_with_shards_is_removed_by_force_only),
        T(failed_disk_says_so_and_asks_for_force),
        T(removal_waits_for_holds_and_lets_no_new_ones_in),
        T(foreign_disks_are_refused),
        T(disk_that_another_node_has_removed_takes_no_writes),
        T(disk_that_is_carried_is_there_before_its_record_says_so),
        T(disk_that_is_carried_to_another_node_keeps_its_number),
        T(disk_that_another_node_has_taken_takes_no_writes),
        T(store_that_lost_everything_takes_no_disk_away),
        T(disks_that_are_younger_than_a_restored_store_stay),
        T(numbers_that_disks_have_are_passed_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
