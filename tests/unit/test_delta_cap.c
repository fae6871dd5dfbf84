/* SPDX-License-Identifier: Apache-2.0
 *
 * Changes of maps stay within the node's share, whatever each volume may hold by itself (destage.c), over disks in
 * memory.
 */
#include "sim_store_fixture.h"

#include "blockd/volume/map.h"
#include "blockd/volume/volume_impl.h"
#include "tests/lib/fake_disk.h"

enum { DISKS = 3, VOLUMES = 4, WRITES = 1500 };
#define MIB (1ull << 20)
#define CAP_BYTES (128ull << 10)
#define VOLUME_BYTES (256 * MIB)

static struct fake_disk *disks[DISKS];
static struct volume_host host;
static struct disk_list present;
static struct volume *volumes[VOLUMES];
static uint64_t delta_cap;

static void setup(void)
{
    host = (struct volume_host){.store = store};
    static struct memory_budget budget;
    memory_budget_init(&budget, MEMORY_BLOCKS_MIN, MEMORY_IO_MIN);
    budget.delta_bytes_max = delta_cap;
    disk_list_init(&present);
    for (unsigned i = 0; i < DISKS; i++) {
        disks[i] = fake_disk_new(i + 1, 256 * MIB / BLOCK_BYTES);
        disk_list_add(&present, &disks[i]->disk);
    }
    host.node_name = "n1";
    host.session = 5;
    host.disks = &present;
    host.budget = &budget;
    host.row_blocks_max = 32;
    host.map_cache = map_cache_new(MIB);
    struct pool pool = {.name = "p", .code = {1, 1}, .shards_min = 2, .log_copies_min = 2};
    char key[KEY_BYTES_MAX];
    CLEANUP_FREE char *text = pool_encode(&pool, NULL), *error = NULL;
    struct store_op op = {STORE_PUT, key_pool("p", key), text, strlen(text), false};
    CHECK(store_txn(host.store, NULL, 0, &op, 1, NULL) == 0);
    for (unsigned i = 0; i < VOLUMES; i++) {
        char name[] = {'v', (char)('0' + i), 0};
        uint64_t id;
        CHECK(volume_create(&host, name, VOLUME_BYTES, "p", &id, &error) == 0);
        CHECK_MSG(volume_open(&host, id, &volumes[i], &error) == 0, "%s", error);
    }
}

static void teardown(void)
{
    for (unsigned i = 0; i < VOLUMES; i++)
        CHECK(volume_close(volumes[i]) == 0);
    map_cache_free(host.map_cache);
    memory_budget_fini(host.budget);
    for (unsigned i = 0; i < DISKS; i++)
        fake_disk_free(disks[i]);
}

static uint64_t delta_bytes(const struct volume *v)
{
    return extmap_memory_bytes(&v->delta) + extmap_memory_bytes(&v->delta_frozen) +
           v->state.item_blocks_bytes;
}

static uint64_t all_bytes(void)
{
    uint64_t bytes = 0;
    for (unsigned i = 0; i < VOLUMES; i++)
        bytes += delta_bytes(volumes[i]);
    return bytes;
}

/* One block each, spread out, so that each takes an entry of its own. Returns the most that all deltas held. */
static uint64_t write_apart(struct volume *v)
{
    uint64_t most = 0;
    void *block = mem_alloc_pages(BLOCK_BYTES);
    memset(block, 7, BLOCK_BYTES);
    for (uint64_t i = 0; i < WRITES; i++) {
        uint64_t off = i * 7919 % (VOLUME_BYTES / BLOCK_BYTES) * BLOCK_BYTES;
        CHECK(volume_write(v, off, BLOCK_BYTES, block, 0, (struct request_id){0}) == 0);
        most = MAX(most, all_bytes());
    }
    CHECK(volume_destage(v) == 0);
    mem_free_pages(block, BLOCK_BYTES);
    return MAX(most, all_bytes());
}

static void write_all(uint64_t *ret_most)
{
    *ret_most = 0;
    for (unsigned i = 0; i < VOLUMES; i++)
        *ret_most = MAX(*ret_most, write_apart(volumes[i]));
}

/* At twice the cap writers wait; a generation's entries come on top. */
static void all_volumes_together_stay_within_the_cap(void)
{
    uint64_t most;
    write_all(&most);
    assert_in_range(most, CAP_BYTES / 2, 2 * CAP_BYTES + 64 * 1024);
}

/* Also of volumes that nobody writes to any more. */
static void volumes_that_rest_give_theirs_back(void)
{
    uint64_t most, first;
    write_all(&most);
    first = delta_bytes(volumes[0]);
    assert_in_range(first, 0, CAP_BYTES);
    write_apart(volumes[VOLUMES - 1]);
    write_apart(volumes[VOLUMES - 2]);
    env_sleep_ns(SEC);
    assert_in_range(all_bytes(), 0, CAP_BYTES + 64 * 1024);
}

/* The rest of this file is able to fail: they hold more when nothing stops them. */
static void without_a_cap_they_hold_more(void)
{
    uint64_t most;
    write_all(&most);
    assert_true(most > 2 * CAP_BYTES + 64 * 1024);
}

static void within_the_cap(void **state)
{
    delta_cap = CAP_BYTES;
    run(all_volumes_together_stay_within_the_cap);
    run(volumes_that_rest_give_theirs_back);
}

static void without_a_cap(void **state)
{
    delta_cap = 0;
    run(without_a_cap_they_hold_more);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(within_the_cap),
        cmocka_unit_test(without_a_cap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
