/* SPDX-License-Identifier: Apache-2.0
 *
 * Volumes of one node over disks in memory. A test's setup() makes the world, changes what it wants of `host`, makes
 * pool and volumes; its teardown() closes them and ends the world. TEST(name): sim_store_fixture.h.
 */
#pragma once

#include "sim_store_fixture.h"

#include "blockd/volume/map.h"
#include "blockd/volume/volume_impl.h"
#include "tests/lib/fake_disk.h"

#define MIB (1ull << 20)

enum { DISKS_MAX = 8 };

static struct fake_disk *disks[DISKS_MAX]; /* [i] has number i + 1 */
static struct disk_list present;
static struct volume_host host;
static struct memory_budget budget;

static void make_world(unsigned disk_count, uint64_t disk_bytes)
{
    memory_budget_init(&budget, MEMORY_BLOCKS_MIN, MEMORY_IO_MIN);
    disk_list_init(&present);
    memset(disks, 0, sizeof(disks));
    for (unsigned i = 0; i < disk_count; i++) {
        disks[i] = fake_disk_new(i + 1, disk_bytes / BLOCK_BYTES);
        disk_list_add(&present, &disks[i]->disk);
    }
    host = (struct volume_host){.store = store,
        .node_name = "n1",
        .session = 5,
        .disks = &present,
        .budget = &budget,
        .repair_wait_ns = 600 * SEC,
        .map_cache = map_cache_new(MIB)};
}

static void end_world(void)
{
    map_cache_free(host.map_cache);
    memory_budget_fini(&budget);
    for (unsigned i = 0; i < DISKS_MAX && disks[i]; i++)
        fake_disk_free(disks[i]);
}

/* All volumes are in it; its name is given here. */
static void make_pool(struct pool pool)
{
    char key[KEY_BYTES_MAX];
    strcpy(pool.name, "p");
    CLEANUP_FREE char *text = pool_encode(&pool, NULL);
    struct store_op op = {STORE_PUT, key_pool("p", key), text, strlen(text), false};
    CHECK(store_txn(store, NULL, 0, &op, 1, NULL) == 0);
}

/* Open. */
static struct volume *make_volume(const char *name, uint64_t size_bytes)
{
    CLEANUP_FREE char *error = NULL;
    struct volume *made;
    uint64_t id;
    CHECK(volume_create(&host, name, size_bytes, "p", &id, &error) == 0);
    CHECK_MSG(volume_open(&host, id, &made, &error) == 0, "%s", error);
    return made;
}
