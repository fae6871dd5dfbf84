/* SPDX-License-Identifier: Apache-2.0
 *
 * Shards of one disk that are made, read and removed all the time, so that space is used again at once (D5), until the
 * process or the power goes, mostly behind a write of the shard table. Whoever reads gets the bytes or is told that the
 * shard is gone; what was made and not removed is there afterwards, what was removed is not; nothing is ever damaged.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/disk/local_disk.h"
#include "common/log.h"
#include "common/mem.h"
#include "tests/sim/sim_check.h"
#include "tests/unit/disk_blocks.h"

enum {
    KEEPERS = 6, /* each makes one shard after the other */
    READERS = 6,
    CAPACITY_BLOCKS = 14,
    DISK_BYTES = 64 << 20,
    TABLE_OFF_BYTES = 2 << 20, /* docs/FORMAT.md */
};
#define MS_NS 1000000ull

/* What the keeper of a shard knows of it. */
struct shard {
    uint64_t chunk; /* 0 = it has none; never used again */
    uint32_t durable_blocks;
    bool removing, gone;
};

static struct world {
    struct rng rng;
    struct sim *sim;
    struct env *node;
    struct shard shards[KEEPERS];
    uint64_t last_chunk;
    unsigned end_one_in; /* writes of the table */
    bool power;
    struct disk *disk;
} world;

static const struct uuid cluster = {.bytes = {1, 2, 3}};

static void damaged(void *ctx, struct disk *disk, struct shard_key key, uint32_t block)
{
    CHECK_MSG(false, "block %u of shard %llu is damaged", block, (unsigned long long)key.chunk);
}

/* --- Shards ------------------------------------------------------------------------------------ */

static void keep_one(struct world *w, struct shard *shard, struct rng *rng)
{
    static const enum shard_kind kinds[] = {SHARD_DATA, SHARD_LOG, SHARD_META};
    *shard = (struct shard){.chunk = ++w->last_chunk};
    struct shard_key key = key_of(1, shard->chunk, 0);
    int r = create_simple(w->disk, key, kinds[rng_below(rng, ARRAY_SIZE(kinds))], CAPACITY_BLOCKS);
    CHECK_MSG(r == 0, "create: %s", strerror(-r));
    for (unsigned i = 0, n = 1 + (unsigned)rng_below(rng, 3); i < n; i++) {
        unsigned count = 1 + (unsigned)rng_below(rng, 3);
        r = append_blocks(w->disk, key, 1, shard->durable_blocks, count, 0, SHARD_APPEND_DSYNC);
        CHECK_MSG(r == 0, "append: %s", strerror(-r));
        shard->durable_blocks += 1 + count;
    }
    env_sleep_ns(rng_below(rng, 3 * MS_NS));
    shard->removing = true;
    r = shard_remove(w->disk, key, 0, 1);
    CHECK_MSG(r == 0, "remove: %s", strerror(-r));
    shard->gone = true;
}

static void keeper_main(void *arg)
{
    struct shard *shard = arg;
    struct rng rng;
    rng_init(&rng, rng_u64(&world.rng));
    for (;;)
        keep_one(&world, shard, &rng);
}

/* What a reader may be told. */
static void read_some(struct world *w, struct shard *shard)
{
    struct shard before = *shard;
    if (before.durable_blocks == 0 || before.gone)
        return;
    int r = read_and_compare(w->disk, key_of(1, before.chunk, 0), 0, before.durable_blocks, 0);
    bool may_be_gone = shard->chunk != before.chunk || shard->removing;
    CHECK_MSG(r == 0 || (r == -ENOENT && may_be_gone), "read of shard %llu: %s",
        (unsigned long long)before.chunk, strerror(-r));
}

static void reader_main(void *arg)
{
    struct world *w = arg;
    struct rng rng;
    rng_init(&rng, rng_u64(&w->rng));
    for (;;) {
        read_some(w, &w->shards[rng_below(&rng, KEEPERS)]);
        env_sleep_ns(rng_below(&rng, MS_NS));
    }
}

/* --- Lives ------------------------------------------------------------------------------------- */

static void open_disk(struct world *w)
{
    struct local_disk_options options = {
        .trailer_cache_bytes = 4096, .verify_appends = true, .damaged = damaged};
    char *error = NULL;
    int r = local_disk_open("/disk0", cluster, &options, &w->disk, &error);
    CHECK_MSG(r == 0, "open: %s", error);
}

/* What the crash has left; then nothing. */
static void verify(void *arg)
{
    struct world *w = arg;
    open_disk(w);
    local_disk_check(w->disk);
    for (unsigned i = 0; i < KEEPERS; i++) {
        struct shard *shard = &w->shards[i];
        if (shard->chunk == 0)
            continue;
        struct shard_key key = key_of(1, shard->chunk, 0);
        struct shard_info info;
        int r = shard_stat(w->disk, key, &info);
        CHECK_MSG(shard->gone                 ? r == -ENOENT
                  : shard->removing           ? r == 0 || r == -ENOENT
                  : shard->durable_blocks > 0 ? r == 0
                                              : r == 0 || r == -ENOENT,
            "shard %llu: %s", (unsigned long long)shard->chunk, strerror(-r));
        if (r == 0 && shard->durable_blocks > 0) {
            r = read_and_compare(w->disk, key, 0, shard->durable_blocks, 0);
            CHECK_MSG(
                r == 0, "read of shard %llu: %s", (unsigned long long)shard->chunk, strerror(-r));
        }
        shard->removing = true; /* a crash may come here, too */
        r = shard_remove(w->disk, key, 0, 1);
        CHECK(r == 0 || r == -ENOENT);
        *shard = (struct shard){0};
    }
    local_disk_check(w->disk);
    CHECK_MSG(local_disk_shard_count(w->disk) == 0 && w->disk->free_bytes == w->disk->size_bytes,
        "%u shards are left, %llu of %llu bytes are free", local_disk_shard_count(w->disk),
        (unsigned long long)w->disk->free_bytes, (unsigned long long)w->disk->size_bytes);
}

static void life(void *arg)
{
    struct world *w = arg;
    verify(w);
    for (unsigned i = 0; i < KEEPERS; i++)
        fiber_spawn("keeper", keeper_main, &w->shards[i]);
    for (unsigned i = 0; i < READERS; i++)
        fiber_spawn("reader", reader_main, w);
    env_sleep_ns(1000 * MS_NS);
}

static void table_hook(void *ctx, struct sim_io_point *point)
{
    struct world *w = ctx;
    if (point->off_bytes < TABLE_OFF_BYTES || point->off_bytes >= TABLE_OFF_BYTES + (1 << 20) ||
        !rng_one_in(&w->rng, w->end_one_in))
        return;
    point->when = SIM_POINT_BEFORE + (unsigned)rng_below(&w->rng, 3);
    point->scope = w->power ? SIM_SCOPE_MACHINE : SIM_SCOPE_NODE;
    point->mode = SIM_CUT_RANDOM;
}

static void format_main(void *arg)
{
    char *error = NULL;
    struct uuid uuid;
    CHECK(local_disk_format("/disk0", 0, cluster, cluster, "ssd", true, &uuid, &error) == 0);
}

static void round_of(uint64_t seed)
{
    world = (struct world){.rng = rng_fork(seed, "world")};
    struct world *w = &world;
    w->sim = sim_new(&(struct sim_options){.seed = seed, .trace = sim_check_trace()});
    w->node = sim_node_new(w->sim, "node");
    struct sim_disk *disk = sim_disk_new(w->node, "/disk0", DISK_BYTES);
    CHECK(sim_do(w->node, "format", format_main, w));
    sim_node_crash(w->node);
    sim_disk_set_latency(
        disk, &(struct sim_disk_latency){.read_ns = rng_between(&w->rng, 50000, 3 * MS_NS),
                  .write_ns = rng_between(&w->rng, 50000, MS_NS / 2),
                  .sync_ns = 200000,
                  .jitter_ns = 300000});
    w->end_one_in = 50 + (unsigned)rng_below(&w->rng, 300);
    for (unsigned i = 0; i < 5; i++) {
        w->power = rng_one_in(&w->rng, 2);
        sim_set_io_hook(w->sim, table_hook, w);
        bool lived = sim_do(w->node, "life", life, w);
        sim_set_io_hook(w->sim, NULL, NULL);
        if (lived)
            sim_node_crash(w->node);
    }
    CHECK(sim_do(w->node, "verify", verify, w));
    sim_free(w->sim);
}

int main(int argc, char **argv)
{
    log_set_level(getenv("SIM_LOG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
    return sim_check_main(argc, argv, &(struct sim_check){.round = round_of, .rounds = 20});
}
