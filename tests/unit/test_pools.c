/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_env.h"

#include <errno.h>
#include <string.h>

#include "blockd/pools.h"
#include "blockd/volume/volume.h"
#include "common/check.h"
#include "common/env.h"
#include "common/env_sim.h"
#include "common/mem.h"

static uint64_t usable(unsigned k, unsigned m, unsigned count, const uint64_t *bytes)
{
    return pool_usable_bytes(bytes, count, (struct shard_code){(uint8_t)k, (uint8_t)m});
}

static void equal_disks_give_their_share(void **state)
{
    uint64_t six[6] = {100, 100, 100, 100, 100, 100};
    assert_int_equal(usable(4, 2, 6, six), 400);
    assert_int_equal(usable(1, 2, 6, six), 200);
    assert_int_equal(usable(1, 0, 6, six), 600);
    assert_int_equal(usable(4, 2, 5, six), 0);
    assert_int_equal(usable(1, 1, 0, six), 0);
}

static void a_large_disk_counts_only_as_far_as_others_can_keep_up(void **state)
{
    uint64_t disks[3] = {1000, 50, 50};
    assert_int_equal(usable(1, 1, 3, disks), 100);
    assert_int_equal(usable(1, 2, 3, disks), 50);
    assert_int_equal(usable(2, 1, 3, disks), 100);
    uint64_t huge[2] = {UINT64_MAX / 4, UINT64_MAX / 4};
    assert_true(usable(1, 1, 2, huge) == UINT64_MAX / 4);
}

/* --- One makes a volume while another deletes its pool -------------------------------------------- */

#define MS 1000000ull

static struct {
    struct store_mem *mem;
    uint64_t create_after_ns, delete_after_ns;
    int created, deleted;
    unsigned done;
} race;

static void make_volume(void *arg)
{
    struct store *store = store_mem_open(race.mem);
    struct volume_host host = {.store = store};
    char *error = NULL;
    uint64_t id;
    env_sleep_ns(race.create_after_ns);
    race.created = volume_create(&host, "vm1", 1 << 20, "p", &id, &error);
    mem_free(error);
    store_close(store);
    race.done++;
}

static void delete_pool(void *arg)
{
    struct store *store = store_mem_open(race.mem);
    char *error = NULL;
    env_sleep_ns(race.delete_after_ns);
    race.deleted = pools_delete(store, "p", &error);
    mem_free(error);
    store_close(store);
    race.done++;
}

static void begin(void *arg)
{
    struct store *store = store_mem_open(race.mem);
    struct pool pool = {.name = "p", .code = {1, 0}, .shards_min = 1, .log_copies_min = 1};
    char key[KEY_BYTES_MAX];
    CLEANUP_FREE char *text = pool_encode(&pool, NULL);
    struct store_op op = {STORE_PUT, key_pool("p", key), text, strlen(text), false};
    assert_int_equal(store_txn(store, NULL, 0, &op, 1, NULL), 0);
    store_close(store);
    store_mem_set_fault(race.mem, 0, 2 * MS);
    fiber_spawn("create", make_volume, NULL);
    fiber_spawn("delete", delete_pool, NULL);
}

static bool both_done(void *arg)
{
    return race.done == 2;
}

static void a_pool_with_a_volume_is_not_deleted_however_they_meet(void **state)
{
    unsigned made = 0, deleted = 0;
    for (unsigned i = 0; i < 24; i++) {
        memset(&race, 0, sizeof(race));
        race.mem = store_mem_new();
        race.create_after_ns = i < 12 ? 0 : (i - 12) * MS;
        race.delete_after_ns = i < 12 ? i * MS : 0;
        struct sim *sim = sim_new(&(struct sim_options){.seed = i + 1});
        sim_node_start(sim_node_new(sim, "n"), "begin", begin, NULL);
        assert_int_equal(sim_run(sim, both_done, NULL, 1000 * MS), SIM_UNTIL);
        sim_free(sim);
        store_mem_free(race.mem);
        assert_true((race.created == 0 && race.deleted == -EBUSY) ||
                    (race.created == -ENOENT && race.deleted == 0));
        made += race.created == 0;
        deleted += race.deleted == 0;
    }
    assert_true(made > 0 && deleted > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_disks_give_their_share),
        cmocka_unit_test(a_large_disk_counts_only_as_far_as_others_can_keep_up),
        cmocka_unit_test(a_pool_with_a_volume_is_not_deleted_however_they_meet),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
