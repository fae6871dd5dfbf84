/* SPDX-License-Identifier: Apache-2.0
 *
 * S18: one node that owns a volume, and a store that is away for long: reads, writes and flushes go
 * on, logs roll and rows are written. In some rounds a disk fails meanwhile: what needs a manifest
 * record then waits, and nothing is answered without it. Then the process is killed, the store comes
 * back, and all that was answered is there.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/disk/local_disk.h"
#include "blockd/volume/map.h"
#include "blockd/volumes.h"
#include "common/env_sim.h"
#include "common/log.h"
#include "common/mem.h"
#include "tests/sim/sim_check.h"

enum { DISKS = 5, BLOCKS = 256 };
#define MS 1000000ull
#define SECOND 1000000000ull
#define TTL_NS (2 * SECOND)
#define ANSWER_NS_MAX (5 * SECOND)

static struct world {
    struct sim *sim;
    struct rng rng;
    struct env *env;
    struct store_mem *store;
    bool formatted, serving, hurt;
    uint64_t volume_id, session;
    struct disk_list disks;
    struct memory_budget budget;
    struct volume_host host;
    struct volumes *volumes;
    struct volume *volume;
    uint32_t value_last, acked[BLOCKS], tried[BLOCKS]; /* by block: the last answered, and sent */
    uint64_t op_since_ns;                              /* 0: none is under way */
    unsigned ops_in_outage;
} world;

static const struct uuid cluster = {.bytes = {1, 2, 3}};

static uint64_t world_now_ns(void)
{
    return sim_now_ns(world.sim);
}

/* --- The node ---------------------------------------------------------------------------------- */

static uint64_t session_id(void *ctx)
{
    return world.session;
}

static uint64_t session_valid_until_ns(void *ctx)
{
    return world.session ? store_session_valid_until_ns(world.host.store) : 0;
}

static bool session_begin(void)
{
    char key[KEY_BYTES_MAX];
    uint64_t id = env_random_u64();
    world.session = 0;
    if (store_session_start(world.host.store, TTL_NS) < 0)
        return false;
    struct store_op op = {STORE_PUT, key_session(id, key), "{}", 2, true};
    if (store_txn(world.host.store, NULL, 0, &op, 1, NULL) < 0)
        return false;
    world.session = id;
    return true;
}

static void session_keeper(void *arg)
{
    for (;;) {
        env_sleep_ns(100 * MS);
        if (world.session && store_session_valid_until_ns(world.host.store) != 0)
            continue;
        if (session_begin())
            volumes_session_renewed(world.volumes);
    }
}

static void open_disks(void)
{
    struct uuid uuid;
    disk_list_init(&world.disks);
    for (unsigned i = 0; i < DISKS; i++) {
        char path[32];
        CLEANUP_FREE char *error = NULL;
        struct disk *disk;
        struct local_disk_options options = {.trailer_cache_bytes = 64 * 1024};
        snprintf(path, sizeof(path), "/disk%u", i);
        if (!world.formatted)
            CHECK(local_disk_format(path, 0, cluster, cluster, "ssd", true, &uuid, &error) == 0);
        int r = local_disk_open(path, cluster, &options, &disk, &error);
        CHECK_MSG(r == 0, "%s", error);
        disk->number = i + 1;
        disk_list_add(&world.disks, disk);
    }
}

static void make_volume(void)
{
    char key[KEY_BYTES_MAX];
    struct pool pool = {.name = "pool", .code = {2, 1}, .shards_min = 3, .log_copies_min = 2};
    CLEANUP_FREE char *text = pool_encode(&pool, NULL), *error = NULL;
    struct store_op op = {
        .type = STORE_PUT, .key = key_pool("pool", key), .data = text, .len_bytes = strlen(text)};
    CHECK(store_txn(world.host.store, NULL, 0, &op, 1, NULL) == 0);
    int r =
        volume_create(&world.host, "vol", BLOCKS * BLOCK_BYTES, "pool", &world.volume_id, &error);
    CHECK_MSG(r == 0, "create: %s", error);
}

static void node_main(void *arg)
{
    open_disks();
    memory_budget_init(&world.budget, MEMORY_BLOCKS_MIN, MEMORY_IO_MIN);
    world.host = (struct volume_host){.store = store_mem_open(world.store),
        .cluster = cluster,
        .node_name = "n",
        .lease = {session_id, session_valid_until_ns, NULL},
        .disks = &world.disks,
        .budget = &world.budget,
        .row_blocks_max = 8,
        .log_bytes_max = 1 << 20,
        .map_cache = map_cache_new(64 * 1024),
        .bypass_bytes_min = 12 * BLOCK_BYTES};
    while (!session_begin())
        env_sleep_ns(100 * MS);
    world.volumes = volumes_new(&world.host, NULL);
    if (!world.formatted)
        make_volume();
    world.formatted = true;
    fiber_spawn("session", session_keeper, NULL);
    for (;;) {
        struct volume_owner owner;
        CLEANUP_FREE char *error = NULL;
        int r =
            volumes_acquire(world.volumes, NULL, world.volume_id, &world.volume, &owner, &error);
        if (r == 0)
            break;
        CHECK_MSG(r == -EBUSY || r == -EHOSTUNREACH || r == -EAGAIN, "open: %s", error);
        env_sleep_ns(200 * MS);
    }
    world.serving = true;
}

/* --- Its client -------------------------------------------------------------------------------- */

static void check_block(unsigned block, const uint8_t *data)
{
    uint32_t value;
    memcpy(&value, data, sizeof(value));
    CHECK_MSG(value == world.acked[block] || value == world.tried[block],
        "block %u has %u, answered was %u", block, value, world.acked[block]);
    world.acked[block] = world.tried[block] = value;
}

static int one_op(uint8_t *buf)
{
    unsigned count = rng_below(&world.rng, 8) ? 1 : (unsigned)rng_between(&world.rng, 2, 40);
    unsigned block = (unsigned)rng_below(&world.rng, BLOCKS - count);
    uint64_t off = (uint64_t)block * BLOCK_BYTES, len = (uint64_t)count * BLOCK_BYTES;
    uint64_t draw = rng_below(&world.rng, 16);
    int r;
    if (draw == 0)
        return volume_flush(world.volume);
    if (draw < 4) {
        r = volume_read(world.volume, off, len, buf);
        for (unsigned i = 0; r == 0 && i < count; i++)
            check_block(block + i, buf + (size_t)i * BLOCK_BYTES);
        return r;
    }
    for (unsigned i = 0; i < count; i++) {
        world.tried[block + i] = ++world.value_last;
        memcpy(buf + (size_t)i * BLOCK_BYTES, &world.value_last, sizeof(world.value_last));
    }
    r = volume_write(world.volume, off, len, buf, 0, (struct request_id){0});
    for (unsigned i = 0; r == 0 && i < count; i++)
        world.acked[block + i] = world.tried[block + i];
    return r;
}

static void client_main(void *arg)
{
    uint8_t *buf = mem_alloc_pages(40 * BLOCK_BYTES);
    memset(buf, 0, 40 * BLOCK_BYTES);
    for (;;) {
        world.op_since_ns = world_now_ns();
        int r = one_op(buf);
        CHECK_MSG(r == 0, "answered with %s", strerror(-r));
        world.op_since_ns = 0;
        world.ops_in_outage++;
        env_sleep_ns(rng_below(&world.rng, 20) * MS);
    }
}

static void read_all(void *arg)
{
    uint8_t *buf = mem_alloc_pages(BLOCK_BYTES);
    for (unsigned b = 0; b < BLOCKS; b++) {
        CHECK(volume_read(world.volume, (uint64_t)b * BLOCK_BYTES, BLOCK_BYTES, buf) == 0);
        check_block(b, buf);
    }
    mem_free_pages(buf, BLOCK_BYTES);
}

/* --- The round --------------------------------------------------------------------------------- */

static bool is_serving(void *ctx)
{
    return world.serving;
}

static void start(void)
{
    world.serving = false;
    sim_node_start(world.env, "node", node_main, NULL);
    enum sim_result r = sim_run(world.sim, is_serving, NULL, sim_now_ns(world.sim) + 120 * SECOND);
    CHECK_MSG(r == SIM_UNTIL, "the volume is not opened");
}

static void watch_for(uint64_t ns)
{
    uint64_t until_ns = sim_now_ns(world.sim) + ns;
    while (sim_now_ns(world.sim) < until_ns) {
        sim_run_for(world.sim, 100 * MS);
        CHECK_MSG(world.hurt || !world.op_since_ns ||
                      sim_now_ns(world.sim) - world.op_since_ns < ANSWER_NS_MAX,
            "no answer while the store is away");
    }
}

/* Writes to the disk fail; what a manifest copy is on is not known here. */
static void hurt_a_disk(void)
{
    char path[32];
    snprintf(path, sizeof(path), "/disk%u", (unsigned)rng_below(&world.rng, DISKS));
    sim_disk_fault(sim_disk_find(world.env, path),
        &(struct sim_fault){.ops = SIM_OP_WRITE | SIM_OP_SYNC, .kind = SIM_FAULT_ERROR});
    world.hurt = true;
}

static void setup(uint64_t seed)
{
    world = (struct world){.rng = rng_fork(seed, "outage")};
    world.sim = sim_new(&(struct sim_options){.seed = seed, .trace = sim_check_trace()});
    world.env = sim_node_new(world.sim, "n");
    world.store = store_mem_new();
    store_mem_set_clock(world.store, world_now_ns);
    for (unsigned i = 0; i < DISKS; i++) {
        char path[32];
        snprintf(path, sizeof(path), "/disk%u", i);
        sim_disk_new(world.env, path, 64 << 20);
    }
}

static void round_of(uint64_t seed)
{
    setup(seed);
    start();
    sim_node_start(world.env, "client", client_main, NULL);
    watch_for(2 * SECOND);
    store_mem_set_fault(world.store, -EHOSTUNREACH, 0);
    world.ops_in_outage = 0;
    watch_for(rng_between(&world.rng, 3, 15) * SECOND);
    CHECK_MSG(
        world.ops_in_outage > 100, "%u answers while the store was away", world.ops_in_outage);
    if (rng_below(&world.rng, 3) > 0)
        hurt_a_disk();
    watch_for(rng_between(&world.rng, 1, 10) * SECOND);
    sim_node_crash(world.env);
    store_mem_env_crashed(world.store, world.env);
    for (unsigned i = 0; i < DISKS; i++) {
        char path[32];
        snprintf(path, sizeof(path), "/disk%u", i);
        sim_disk_clear_faults(sim_disk_find(world.env, path));
    }
    store_mem_set_fault(world.store, 0, 0);
    start();
    CHECK(sim_do(world.env, "read all", read_all, NULL));
    sim_free(world.sim);
    store_mem_free(world.store);
}

int main(int argc, char **argv)
{
    log_set_level(LOG_LEVEL_ERROR + (getenv("SIM_LOG") ? 2 : 0));
    return sim_check_main(argc, argv, &(struct sim_check){.round = round_of, .rounds = 30});
}
