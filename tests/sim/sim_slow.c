/* SPDX-License-Identifier: Apache-2.0
 *
 * A disk that takes 200 ms for each write from some moment on: the volume that writes to it leaves
 * it, and its clients' latency is what it was before (docs/ARCHITECTURE.md, many nodes).
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
#define MS 1000000ull
#define SLOW_NS (200 * MS)

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

/* The longest that a write took. */
static uint64_t write_for(uint64_t duration_ns)
{
    uint64_t until_ns = env_now_ns() + duration_ns, worst_ns = 0;
    uint8_t *buf = mem_alloc_pages(64 * BLOCK_BYTES);
    memset(buf, 7, 64 * BLOCK_BYTES);
    while (env_now_ns() < until_ns) {
        uint64_t count = rng_below(&world.rng, 20) ? 1 + rng_below(&world.rng, 8) : 48;
        uint64_t block = rng_below(&world.rng, SPAN_BLOCKS - count), begin_ns = env_now_ns();
        int r = volume_write(
            world.volume, block * BLOCK_BYTES, count * BLOCK_BYTES, buf, 0, (struct request_id){0});
        CHECK_MSG(r == 0, "write: %s", strerror(-r));
        worst_ns = MAX(worst_ns, env_now_ns() - begin_ns);
        env_sleep_ns(rng_below(&world.rng, 4 * MS));
    }
    mem_free_pages(buf, 64 * BLOCK_BYTES);
    return worst_ns;
}

static void run(void *arg)
{
    start();
    uint64_t before_ns = write_for(3000 * MS);
    CHECK_MSG(before_ns < 50 * MS, "a write took %llu ms with all disks well",
        (unsigned long long)(before_ns / MS));
    char path[32];
    sprintf(path, "/disk%u", 1 + (unsigned)rng_below(&world.rng, DISKS));
    struct sim_fault fault = {
        .ops = SIM_OP_WRITE | SIM_OP_SYNC, .kind = SIM_FAULT_DELAY, .delay_ns = SLOW_NS};
    sim_disk_fault(sim_disk_find(world.node, path), &fault);
    write_for(5000 * MS); /* time to notice, and for what was on its way */
    uint64_t after_ns = write_for(5000 * MS);
    CHECK_MSG(after_ns < SLOW_NS, "writes still take %llu ms", (unsigned long long)(after_ns / MS));
    CHECK(volume_close(world.volume) == 0);
}

static void round_of(uint64_t seed)
{
    world = (struct world){.rng = rng_fork(seed, "world")};
    world.sim = sim_new(&(struct sim_options){.seed = seed, .trace = sim_check_trace()});
    world.node = sim_node_new(world.sim, "node");
    world.store = store_mem_new();
    for (unsigned i = 1; i <= DISKS; i++) {
        char path[32];
        sprintf(path, "/disk%u", i);
        sim_disk_new(world.node, path, DISK_BYTES);
    }
    CHECK(sim_do(world.node, "run", run, NULL));
    sim_free(world.sim);
    store_mem_free(world.store);
}

int main(int argc, char **argv)
{
    log_set_level(getenv("SIM_LOG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
    return sim_check_main(argc, argv, &(struct sim_check){.round = round_of, .rounds = 4});
}
