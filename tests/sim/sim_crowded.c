/* SPDX-License-Identifier: Apache-2.0
 *
 * More requests than there are fibers for what they spawn: reads of many pieces at once, with a small
 * pool. Each comes to its end (F5).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/disk/local_disk.h"
#include "blockd/volume/map.h"
#include "blockd/volume/volume.h"
#include "common/log.h"
#include "common/mem.h"
#include "tests/sim/sim_check.h"

enum { DISKS = 6, DISK_BYTES = 256 << 20, SPAN_BLOCKS = 2048 };
/* The pool: the volume has some ten fibers of its own, the readers more than all others together. */
enum { FIBERS = 64, READERS = 100, READS = 3, READ_BLOCKS = 128 };

static struct world {
    struct rng rng;
    struct sim *sim;
    struct env *node;
    struct store_mem *store;
    struct disk_list disks;
    struct volume_host host;
    struct memory_budget budget;
    struct volume *volume;
} world;

static const struct uuid cluster = {.bytes = {1, 2, 3}};

static void start(void)
{
    char *error = NULL, key[KEY_BYTES_MAX];
    uint64_t id;
    disk_list_init(&world.disks);
    for (unsigned i = 1; i <= DISKS; i++) {
        char path[32];
        struct uuid uuid;
        struct disk *disk;
        sprintf(path, "/disk%u", i);
        CHECK(local_disk_format(path, 0, cluster, cluster, "ssd", true, &uuid, &error) == 0);
        struct local_disk_options options = {.trailer_cache_bytes = 64 * 1024};
        CHECK(local_disk_open(path, cluster, &options, &disk, &error) == 0);
        disk->number = i;
        disk_list_add(&world.disks, disk);
    }
    memory_budget_init(&world.budget, 64ull << 20);
    world.host = (struct volume_host){.store = store_mem_open(world.store),
        .cluster = cluster,
        .node_name = "node",
        .session = 1,
        .disks = &world.disks,
        .budget = &world.budget,
        .row_blocks_max = 32,
        .log_bytes_max = 2 << 20,
        .map_cache = map_cache_new(64 * 1024),
        .bypass_bytes_min = 16 * BLOCK_BYTES};
    struct pool pool = {.name = "pool", .code = {2, 1}, .shards_min = 3, .log_copies_min = 2};
    CLEANUP_FREE char *text = pool_encode(&pool, NULL);
    struct store_op op = {
        .type = STORE_PUT, .key = key_pool("pool", key), .data = text, .len_bytes = strlen(text)};
    CHECK(store_txn(world.host.store, NULL, 0, &op, 1, NULL) == 0);
    CHECK(volume_create(&world.host, "vol", SPAN_BLOCKS * BLOCK_BYTES, "pool", &id, &error) == 0);
    int r = volume_open(&world.host, id, &world.volume, &error);
    CHECK_MSG(r == 0, "open: %s", error);
}

/* In random order, so that what a read finds lies in many rows. */
static void fill(void)
{
    uint8_t *buf = mem_alloc_pages(BLOCK_BYTES);
    uint16_t order[SPAN_BLOCKS];
    for (unsigned i = 0; i < SPAN_BLOCKS; i++) {
        unsigned j = (unsigned)rng_below(&world.rng, i + 1);
        order[i] = order[j];
        order[j] = (uint16_t)i;
    }
    for (unsigned i = 0; i < SPAN_BLOCKS; i++) {
        memset(buf, order[i] % 251, BLOCK_BYTES);
        int r = volume_write(world.volume, order[i] * (uint64_t)BLOCK_BYTES, BLOCK_BYTES, buf, 0,
            (struct request_id){0});
        CHECK_MSG(r == 0, "write: %s", strerror(-r));
    }
    mem_free_pages(buf, BLOCK_BYTES);
}

static void read_some(void *arg)
{
    struct fiber_group *group = arg;
    uint8_t *buf = mem_alloc_pages(READ_BLOCKS * BLOCK_BYTES);
    for (unsigned i = 0; i < READS; i++) {
        uint64_t block = rng_below(&world.rng, SPAN_BLOCKS - READ_BLOCKS);
        int r = volume_read(world.volume, block * BLOCK_BYTES, READ_BLOCKS * BLOCK_BYTES, buf);
        CHECK_MSG(r == 0, "read: %s", strerror(-r));
        for (unsigned j = 0; j < READ_BLOCKS; j++)
            CHECK(buf[j * BLOCK_BYTES] == (block + j) % 251);
    }
    mem_free_pages(buf, READ_BLOCKS * BLOCK_BYTES);
    fiber_group_done(group, 0);
}

static void run(void *arg)
{
    start();
    fill();
    struct fiber_group group;
    fiber_group_init(&group);
    fiber_group_add(&group, READERS);
    for (unsigned i = 0; i < READERS; i++)
        fiber_spawn("reader", read_some, &group);
    fiber_group_wait(&group);
    CHECK(volume_close(world.volume) == 0);
}

static void round_of(uint64_t seed)
{
    world = (struct world){.rng = rng_fork(seed, "world")};
    world.sim = sim_new(
        &(struct sim_options){.seed = seed, .fiber_count_max = FIBERS, .trace = sim_check_trace()});
    world.node = sim_node_new(world.sim, "node");
    world.store = store_mem_new();
    for (unsigned i = 1; i <= DISKS; i++) {
        char path[32];
        sprintf(path, "/disk%u", i);
        sim_disk_new(world.node, path, DISK_BYTES);
    }
    CHECK_MSG(sim_do(world.node, "run", run, NULL), "every fiber waits for one that cannot begin");
    sim_free(world.sim);
    store_mem_free(world.store);
}

int main(int argc, char **argv)
{
    log_set_level(getenv("SIM_LOG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
    return sim_check_main(argc, argv, &(struct sim_check){.round = round_of, .rounds = 2});
}
