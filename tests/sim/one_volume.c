/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/one_volume.h"

#include <stdio.h>
#include <string.h>

#include "blockd/disk/local_disk.h"
#include "blockd/volume/map.h"
#include "common/mem.h"

#define DISK_BYTES (256u << 20)

static const struct uuid cluster = {.bytes = {1, 2, 3}};

static const char *disk_path(unsigned number, char *buf)
{
    sprintf(buf, "/disk%u", number);
    return buf;
}

static void open_disks(struct one_volume *world)
{
    char *error = NULL, path[32];
    struct uuid uuid;
    struct disk *disk;
    disk_list_init(&world->disks);
    for (unsigned i = 1; i <= ONE_VOLUME_DISKS; i++) {
        disk_path(i, path);
        CHECK(local_disk_format(path, 0, cluster, cluster, "ssd", true, &uuid, &error) == 0);
        struct local_disk_options options = {.trailer_cache_bytes = 64 * 1024};
        CHECK(local_disk_open(path, cluster, &options, &disk, &error) == 0);
        disk->number = i;
        disk_list_add(&world->disks, disk);
    }
}

static void open_volume(struct one_volume *world)
{
    char *error = NULL, key[KEY_BYTES_MAX];
    uint64_t id;
    memory_budget_init(&world->budget, MEMORY_BLOCKS_MIN, MEMORY_IO_MIN);
    world->host = (struct volume_host){.store = store_mem_open(world->store),
        .cluster = cluster,
        .node_name = "node",
        .session = 1,
        .disks = &world->disks,
        .budget = &world->budget,
        .row_blocks_max = 32,
        .log_bytes_max = 2 << 20,
        .map_cache = map_cache_new(64 * 1024),
        .bypass_bytes_min = 16 * BLOCK_BYTES};
    struct pool pool = {.name = "pool", .code = {2, 1}, .shards_min = 3, .log_copies_min = 2};
    CLEANUP_FREE char *text = pool_encode(&pool, NULL);
    struct store_op op = {
        .type = STORE_PUT, .key = key_pool("pool", key), .data = text, .len_bytes = strlen(text)};
    CHECK(store_txn(world->host.store, NULL, 0, &op, 1, NULL) == 0);
    CHECK(volume_create(
              &world->host, "vol", ONE_VOLUME_BLOCKS * BLOCK_BYTES, "pool", &id, &error) == 0);
    int r = volume_open(&world->host, id, &world->volume, &error);
    CHECK_MSG(r == 0, "open: %s", error);
}

static struct {
    struct one_volume *world;
    fiber_fn *fn;
} the_round;

static void round_main(void *arg)
{
    open_disks(the_round.world);
    open_volume(the_round.world);
    the_round.fn(the_round.world);
    CHECK(volume_close(the_round.world->volume) == 0);
}

void one_volume_round(
    struct one_volume *world, uint64_t seed, unsigned fiber_count_max, fiber_fn *fn)
{
    char path[32];
    *world = (struct one_volume){.rng = rng_fork(seed, "world")};
    world->sim = sim_new(&(struct sim_options){
        .seed = seed, .fiber_count_max = fiber_count_max, .trace = sim_check_trace()});
    world->node = sim_node_new(world->sim, "node");
    world->store = store_mem_new();
    for (unsigned i = 1; i <= ONE_VOLUME_DISKS; i++)
        sim_disk_new(world->node, disk_path(i, path), DISK_BYTES);
    the_round.world = world;
    the_round.fn = fn;
    CHECK_MSG(sim_do(world->node, "run", round_main, NULL), "a fiber waits for ever");
    sim_free(world->sim);
    store_mem_free(world->store);
}

struct sim_disk *one_volume_any_disk(struct one_volume *world)
{
    char path[32];
    return sim_disk_find(
        world->node, disk_path(1 + (unsigned)rng_below(&world->rng, ONE_VOLUME_DISKS), path));
}
