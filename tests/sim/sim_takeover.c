/* SPDX-License-Identifier: Apache-2.0
 *
 * Takeovers that are cut off: a process is killed in the middle of an append to the log's copies, the
 * next one somewhere in its recovery or soon after, then one disk is lost. With m = 1 the third must open
 * and find every acknowledged write, whichever disk it was (S12).
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

enum {
    ROW_BLOCKS = 16, /* a generation: code 1+0 */
    WRITES = 24,
    SPAN_BLOCKS = 512,
    DISK_BYTES = 64 << 20,
    DISKS = 3,
};

static struct world {
    struct rng rng;
    struct env *node;
    struct store_mem *store;
    uint64_t volume_id;
    unsigned row_blocks; /* of the next process */
    uint32_t acked[SPAN_BLOCKS], begun[SPAN_BLOCKS];
    uint32_t tag;
    bool made, lost;
    /* of the running process */
    struct list disks;
    struct volume_host host;
    struct memory_budget budget;
    struct volume *volume;
} world;

static const struct uuid cluster = {.bytes = {1, 2, 3}};

static void make(struct world *w)
{
    char *error = NULL, key[KEY_BYTES_MAX];
    struct pool pool = {.name = "pool", .code = {1, 1}, .shards_min = 2, .log_copies_min = 2};
    CLEANUP_FREE char *text = pool_encode(&pool, NULL);
    struct store_op op = {
        .type = STORE_PUT, .key = key_pool("pool", key), .data = text, .len_bytes = strlen(text)};
    CHECK(store_txn(w->host.store, NULL, 0, &op, 1, NULL) == 0);
    int r =
        volume_create(&w->host, "vol", SPAN_BLOCKS * BLOCK_BYTES, "pool", &w->volume_id, &error);
    CHECK_MSG(r == 0, "create: %s", error);
}

static void start(struct world *w)
{
    char *error = NULL;
    struct uuid uuid;
    struct disk *disk;
    int r;
    list_init(&w->disks);
    for (unsigned i = 0; i < DISKS; i++) {
        char path[32];
        snprintf(path, sizeof(path), "/disk%u", i);
        if (!w->made)
            CHECK(local_disk_format(path, 0, cluster, cluster, "ssd", true, &uuid, &error) == 0);
        struct local_disk_options options = {.trailer_cache_bytes = 64 * 1024};
        r = local_disk_open(path, cluster, &options, &disk, &error);
        if (r < 0) {
            CHECK(w->lost);
            continue;
        }
        disk->number = i + 1;
        list_push_back(&w->disks, &disk->link);
    }
    memory_budget_init(&w->budget, 64ull << 20);
    w->host = (struct volume_host){.store = store_mem_open(w->store),
        .cluster = cluster,
        .node_name = "node",
        .session = env_random_u64(),
        .disks = &w->disks,
        .budget = &w->budget,
        .row_blocks_max = w->row_blocks,
        .map_cache = map_cache_new(64 * 1024),
        .bypass_bytes_min = 1 << 30};
    if (!w->made)
        make(w);
    w->made = true;
    r = volume_open(&w->host, w->volume_id, &w->volume, &error);
    CHECK_MSG(r == 0, "open: %s", error);
}

static void verify(struct world *w)
{
    uint32_t *block = mem_alloc_pages(BLOCK_BYTES);
    for (unsigned b = 0; b < SPAN_BLOCKS; b++) {
        int r = volume_read(w->volume, (uint64_t)b * BLOCK_BYTES, BLOCK_BYTES, block);
        CHECK_MSG(r == 0, "block %u: %s", b, strerror(-r));
        CHECK_MSG(block[0] == w->acked[b] || block[0] == w->begun[b],
            "block %u has version %u, acknowledged %u", b, block[0], w->acked[b]);
        w->acked[b] = w->begun[b] = block[0];
    }
    mem_free_pages(block, BLOCK_BYTES);
}

static void do_write(struct world *w)
{
    uint32_t count = 1 + (uint32_t)rng_below(&w->rng, 11);
    uint32_t first = (uint32_t)rng_below(&w->rng, SPAN_BLOCKS - count), tag = ++w->tag;
    uint32_t *buf = mem_alloc_pages(count * BLOCK_BYTES);
    memset(buf, 0, count * BLOCK_BYTES);
    for (uint32_t i = 0; i < count; i++) {
        buf[i * BLOCK_BYTES / 4] = tag;
        w->begun[first + i] = tag;
    }
    int r = volume_write(w->volume, (uint64_t)first * BLOCK_BYTES, count * BLOCK_BYTES, buf, 0,
        (struct request_id){0});
    CHECK_MSG(r == 0, "write: %s", strerror(-r));
    for (uint32_t i = 0; i < count; i++)
        w->acked[first + i] = tag;
    mem_free_pages(buf, count * BLOCK_BYTES);
}

static void writer(void *arg)
{
    start(arg);
    verify(arg);
    for (unsigned i = 0; i < WRITES; i++)
        do_write(arg);
    env_sleep_ns(1000000000);
}

static void replayer(void *arg)
{
    start(arg);
    env_sleep_ns(1000000000);
}

static void verifier(void *arg)
{
    start(arg);
    verify(arg);
}

static void round_of(uint64_t seed)
{
    struct sim *sim = sim_new(&(struct sim_options){.seed = seed, .trace = sim_check_trace()});
    world = (struct world){.rng = rng_fork(seed, "world"), .row_blocks = ROW_BLOCKS};
    world.node = sim_node_new(sim, "node");
    world.store = store_mem_new();
    for (unsigned i = 0; i < DISKS; i++) {
        char path[32];
        snprintf(path, sizeof(path), "/disk%u", i);
        sim_disk_new(world.node, path, DISK_BYTES);
    }
    CHECK(sim_do(world.node, "make", verifier, &world));
    sim_node_crash(world.node);
    store_mem_env_crashed(world.store, world.node);
    fiber_fn *const steps[] = {writer, replayer, verifier};
    for (unsigned i = 0; i < 3; i++) {
        struct sim_crash crash = {.scope = SIM_SCOPE_NODE,
            .first = i == 0   ? sim_io_count(sim) + rng_between(&world.rng, 40, 600)
                     : i == 1 ? sim_io_count(sim) + rng_between(&world.rng, 20, 150)
                              : UINT64_MAX};
        CHECK(sim_crash_next(&crash));
        sim_crash_arm(sim, &crash);
        if (i == 2) {
            char path[32];
            snprintf(path, sizeof(path), "/disk%u", (unsigned)rng_below(&world.rng, DISKS));
            sim_disk_remove(sim_disk_find(world.node, path));
            world.lost = true;
        }
        if (sim_do(world.node, "step", steps[i], &world))
            sim_node_crash(world.node);
        sim_crash_disarm(sim);
        store_mem_env_crashed(world.store, world.node);
    }
    sim_free(sim);
    store_mem_free(world.store);
}

/* The longest copy of a log was the only one with the recorded length, and was lost. */
static const uint64_t seeds_kept[] = {88};

int main(int argc, char **argv)
{
    log_set_level(getenv("SIM_LOG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
    return sim_check_main(argc, argv,
        &(struct sim_check){
            .round = round_of, .rounds = 24, .seeds_kept = seeds_kept, .seeds_kept_count = 1});
}
