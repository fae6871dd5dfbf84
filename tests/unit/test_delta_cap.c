/* SPDX-License-Identifier: Apache-2.0
 *
 * Changes of maps stay within the node's share, whatever each volume may hold by itself (destage.c), over disks in
 * memory.
 */
#include "volume_fixture.h"

enum { DISKS = 3, VOLUMES = 4, WRITES = 1500 };
#define CAP_BYTES (128ull << 10)
#define VOLUME_BYTES (256 * MIB)

static struct volume *volumes[VOLUMES];
static uint64_t delta_cap;

static void setup(void)
{
    make_world(DISKS, 256 * MIB);
    budget.delta_bytes_max = delta_cap;
    host.row_blocks_max = 32;
    make_pool((struct pool){.code = {1, 1}, .shards_min = 2, .log_copies_min = 2});
    for (unsigned i = 0; i < VOLUMES; i++) {
        char name[] = {'v', (char)('0' + i), 0};
        volumes[i] = make_volume(name, VOLUME_BYTES);
    }
}

static void teardown(void)
{
    for (unsigned i = 0; i < VOLUMES; i++)
        CHECK(volume_close(volumes[i]) == 0);
    end_world();
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
