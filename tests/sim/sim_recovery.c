/* SPDX-License-Identifier: Apache-2.0
 *
 * What a takeover must not take for granted: each round makes, from one seed, just the circumstances in
 * which one rule of recovery decides, and not more than m failures at a time. Where a disk is away that
 * holds what is needed, opening may be refused; it must never succeed with less.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/disk/append_header.h"
#include "common/log.h"
#include "common/mem.h"
#include "tests/sim/one_node.h"

#define MS_NS 1000000ull
enum { COPIES = 2, APPENDS_MAX = 256 };

static struct world {
    struct one_node node; /* first */
    uint64_t log;         /* the open log's chunk, its disks, how many of these have the manifest */
    unsigned log_disks[COPIES], log_disk_count;
    bool has_manifest[ONE_NODE_DISKS_MAX + 1];
    unsigned tried;
    struct volume_root root;
    unsigned victim; /* a disk */
    bool linger;
} world;

static void must(const char *name, fiber_fn *fn)
{
    one_node_must(&world.node, name, fn);
}

static void world_init(uint64_t seed, struct shard_code code, unsigned disks)
{
    world = (struct world){0};
    one_node_init(&world.node, seed, code, disks);
    world.node.row_blocks_max = 128; /* what is written stays in the log for a while */
    must("make", one_node_recover);
    one_node_kill(&world.node);
}

static void world_fini(void)
{
    one_node_fini(&world.node);
}

static uint64_t draw(uint64_t below)
{
    return rng_below(&world.node.rng, below);
}

static void note_shard(struct one_node *node, struct disk *disk, const struct shard_info *info)
{
    struct shard_info now;
    if (info->tombstone)
        return;
    if (info->kind == SHARD_MANIFEST)
        world.has_manifest[disk->number] = true;
    if (info->kind != SHARD_LOG)
        return;
    CHECK(shard_stat(disk, info->key, &now) == 0);
    if (now.length_blocks == 0 || now.sealed || world.log_disk_count == COPIES)
        return;
    world.log = info->key.chunk;
    world.log_disks[world.log_disk_count++] = disk->number;
}

/* Finds the log that is being written, some of which has been; in random order. */
static void find_log(struct world *w)
{
    w->log_disk_count = 0;
    memset(w->has_manifest, 0, sizeof(w->has_manifest));
    one_node_each_shard(&w->node, note_shard);
    CHECK(w->log_disk_count == COPIES);
    if (draw(2) == 0) {
        unsigned first = w->log_disks[0];
        w->log_disks[0] = w->log_disks[1];
        w->log_disks[1] = first;
    }
}

static bool on_record(void *ctx, uint32_t number)
{
    return true;
}

static int try_open(struct world *w)
{
    char *error = NULL;
    one_node_start(&w->node);
    w->node.host.map.disk_expected = on_record;
    int r = volume_open(&w->node.host, w->node.volume_id, &w->node.volume, &error);
    CHECK_MSG(r == 0 || r == -EHOSTUNREACH || r == -EBADMSG || r == -EUCLEAN, "open: %s, %s",
        strerror(-r), error);
    if (r < 0)
        w->node.volume = NULL;
    mem_free(error);
    return r;
}

/* While something is away: all of it, or refused. */
static void recover_or_refuse(void *arg)
{
    struct world *w = arg;
    if (try_open(w) == 0)
        one_node_verify(&w->node);
}

/* No more than m failures: nothing excuses a refusal. */
static void recover_all(void *arg)
{
    struct world *w = arg;
    int r = try_open(w);
    CHECK_MSG(r == 0, "open: %s", strerror(-r));
    one_node_verify(&w->node);
}

static void write_log(struct world *w)
{
    one_node_recover(w);
    env_sleep_ns(100 * MS_NS); /* what is of the epoch before goes */
    one_node_write_some(&w->node, 1 + (unsigned)draw(12), 4);
    find_log(w);
}

/* --- A copy that could not be reached for a while -------------------------------------------------- */

static void write_without_copy(void *arg)
{
    struct world *w = arg;
    write_log(w);
    struct link_disk *link = w->node.links[w->log_disks[0]];
    link_disk_cut(link, true);
    one_node_write_some(&w->node, 1 + (unsigned)draw(3), 4);
    if (draw(2) == 0) {
        link_disk_cut(link, false);
        one_node_write_some(&w->node, 1 + (unsigned)draw(3), 4);
    }
}

/* S2, S3: what was acknowledged without it is on other disks, and the log says how long it is: then the
 * other copy may be lost. Or the power goes, and with it the tail of the log that was left, but not the begin of the next
 * one (O2). */
static void round_left_behind(uint64_t seed)
{
    world_init(seed, (struct shard_code){1, 1}, 4);
    world.node.linked = true;
    must("write", write_without_copy);
    if (draw(2) == 0) {
        one_node_power_cut(&world.node, draw(2) ? SIM_CUT_WRITES : SIM_CUT_RANDOM);
    } else {
        one_node_kill(&world.node);
        one_node_pull(&world.node, world.log_disks[1]);
    }
    must("recover", recover_all);
    one_node_kill(&world.node);
    world_fini();
}

/* --- A copy that failed before the power ----------------------------------------------------------- */

/* It fails in a write, or not before it is to be synced, when the next log has nothing yet that would show
 * that something is missing before it. */
static void fail_roll_flush(void *arg)
{
    struct world *w = arg;
    write_log(w);
    if (draw(2) == 0)
        link_disk_cut(w->node.links[w->log_disks[0]], true);
    else
        sim_disk_fault(one_node_sim_disk(&w->node, w->log_disks[0]),
            &(struct sim_fault){.ops = SIM_OP_WRITE | SIM_OP_SYNC, .kind = SIM_FAULT_ERROR});
    one_node_write_some(&w->node, (unsigned)draw(2), 4);
    (void)one_node_flush(&w->node);
}

/* S2, S14: the copy that failed lost its tail with the power; what was flushed is on the other one, which
 * is away. */
static void round_failed_before(uint64_t seed)
{
    world_init(seed, (struct shard_code){1, 1}, 6);
    world.node.linked = true;
    must("roll, flush", fail_roll_flush);
    one_node_power_cut(&world.node, draw(2) ? SIM_CUT_LOSE_ALL : SIM_CUT_RANDOM);
    sim_disk_clear_faults(one_node_sim_disk(&world.node, world.log_disks[0]));
    one_node_pull(&world.node, world.log_disks[1]);
    must("recover without", recover_or_refuse);
    one_node_kill(&world.node);
    one_node_return(&world.node, world.log_disks[1]);
    must("recover", recover_all);
    one_node_kill(&world.node);
    world_fini();
}

/* --- The longest copy ------------------------------------------------------------------------------ */

static void writer(void *arg)
{
    one_node_write_some(arg, 1, 4);
}

static void several_writes(void *arg)
{
    one_node_write_some(arg, 12, 4);
}

static void append_to_one(void *arg)
{
    struct world *w = arg;
    write_log(w);
    link_disk_cut(w->node.links[w->log_disks[0]], true);
    fiber_spawn("writer", writer, w);
    env_sleep_ns((2 + draw(20)) * MS_NS);
}

/* S12: an append without an answer is on one copy only, is found by a takeover that reaches only that
 * one, and is read. It must be on other disks before. */
static void round_longest(uint64_t seed)
{
    world_init(seed, (struct shard_code){1, 1}, 4);
    world.node.linked = true;
    must("write", append_to_one);
    one_node_kill(&world.node);
    if (draw(2) == 0)
        one_node_pull(&world.node, world.log_disks[0]);
    must("read", recover_all);
    one_node_kill(&world.node);
    one_node_return(&world.node, world.log_disks[0]);
    one_node_pull(&world.node, world.log_disks[1]);
    must("recover", recover_all);
    one_node_kill(&world.node);
    world_fini();
}

/* --- Damage in a log that is open ------------------------------------------------------------------ */

struct log_append {
    uint64_t off_bytes; /* of its header on the disk */
    unsigned blocks;
};

static unsigned find_appends(struct world *w, struct sim_disk *disk, struct log_append *ret)
{
    uint8_t *block = mem_alloc_pages(BLOCK_BYTES);
    unsigned count = 0;
    for (uint64_t off = 0; off < sim_disk_size_bytes(disk); off += BLOCK_BYTES) {
        struct append_header header;
        sim_disk_peek(disk, off, block, BLOCK_BYTES);
        if (append_header_parse(block, &header) == 0 && header.key.chunk == w->log &&
            header.key.volume == w->node.volume_id && count < APPENDS_MAX)
            ret[count++] = (struct log_append){.off_bytes = off, .blocks = 1 + header.entry_count};
    }
    mem_free_pages(block, BLOCK_BYTES);
    return count;
}

static void flip(struct sim_disk *disk, const struct log_append *append)
{
    sim_disk_flip(
        disk, append->off_bytes + draw((uint64_t)append->blocks * BLOCK_BYTES), (unsigned)draw(8));
}

static void write_and_rot(void *arg)
{
    struct world *w = arg;
    struct log_append appends[COPIES][APPENDS_MAX];
    unsigned count = 0;
    write_log(w);
    one_node_write_some(&w->node, 3, 4);
    for (unsigned i = 0; i < COPIES; i++) {
        unsigned found = find_appends(w, one_node_sim_disk(&w->node, w->log_disks[i]), appends[i]);
        CHECK(i == 0 || found == count);
        count = found;
    }
    CHECK(count >= 4);
    /* Not the same append of both, and of the second copy not the last one, which only a later one proves. */
    unsigned first = (unsigned)draw(count), second = (unsigned)draw(count - 1);
    if (!w->linger && first != second)
        flip(one_node_sim_disk(&w->node, w->log_disks[0]), &appends[0][first]);
    flip(one_node_sim_disk(&w->node, w->log_disks[1]), &appends[1][second]);
}

/* S14, D4: a block that rots inside a log is damage, never its end: each of the two copies has what
 * the other one has lost; or the other one is away. */
static void round_rot(uint64_t seed)
{
    world_init(seed, (struct shard_code){1, 1}, 4);
    world.linger = draw(2) == 0;
    must("write", write_and_rot);
    one_node_kill(&world.node);
    if (world.linger) {
        one_node_pull(&world.node, world.log_disks[0]);
        must("recover without", recover_or_refuse);
        one_node_kill(&world.node);
        one_node_return(&world.node, world.log_disks[0]);
    }
    must("recover", recover_all);
    one_node_kill(&world.node);
    world_fini();
}

/* --- A store without answers ----------------------------------------------------------------------- */

static void store_trouble(void *arg)
{
    struct world *w = arg;
    env_sleep_ns(draw(8 * MS_NS));
    store_mem_set_fault(w->node.store, -ETIMEDOUT, draw(3 * MS_NS));
    if (w->linger)
        one_node_pull(&w->node, 1 + (unsigned)draw(w->node.disk_count));
    env_sleep_ns((10 + draw(300)) * MS_NS);
    store_mem_set_fault(w->node.store, 0, 0);
}

static void take_in_trouble(void *arg)
{
    struct world *w = arg;
    char *error = NULL;
    one_node_start(&w->node);
    fiber_spawn("store trouble", store_trouble, w);
    struct volume *volume;
    while (volume_open(&w->node.host, w->node.volume_id, &volume, &error) < 0) {
        mem_free(error);
        env_sleep_ns(10 * MS_NS);
        CHECK_MSG(w->tried++ < 200, "open: %s", error);
    }
    w->node.volume = volume;
    one_node_verify(&w->node);
    one_node_write_some(&w->node, 1 + (unsigned)draw(8), 4);
    env_sleep_ns(draw(100 * MS_NS));
}

/* S13: a root that may or may not have been changed. */
static void round_unknown(uint64_t seed)
{
    world_init(seed, (struct shard_code){1, 1}, 4);
    must("write", one_node_recover);
    one_node_kill(&world.node);
    world.linger = draw(2) == 0;
    must("take", take_in_trouble);
    one_node_kill(&world.node);
    store_mem_set_fault(world.node.store, 0, 0);
    must("recover", recover_all);
    one_node_kill(&world.node);
    world_fini();
}

/* --- A store that was set back --------------------------------------------------------------------- */

static void write_note_root(void *arg)
{
    struct world *w = arg;
    write_log(w);
    CHECK(volume_root_load(w->node.host.store, w->node.volume_id, &w->root) == 0);
}

static void open_refused(void *arg)
{
    CHECK(try_open(arg) == -EHOSTUNREACH);
}

static void set_back(void *arg)
{
    struct world *w = arg;
    struct volume_root now;
    one_node_start(&w->node);
    CHECK(volume_root_load(w->node.host.store, w->node.volume_id, &now) == 0);
    w->root.revision = now.revision;
    CHECK(volume_root_save(w->node.host.store, &w->root) == 0);
}

static void open_set_back(void *arg)
{
    struct world *w = arg;
    struct volume_root now;
    int r = try_open(w);
    CHECK_MSG(r == -EUCLEAN, "a store that was set back: %s", strerror(-r));
    CHECK(volume_root_load(w->node.host.store, w->node.volume_id, &now) == 0);
    CHECK_MSG(now.state == VOLUME_HALTED, "state %d", (int)now.state);
}

/* S15: the disks have fences of later epochs than the store names. */
static void round_set_back(uint64_t seed)
{
    do {
        world_init(seed, (struct shard_code){1, 1}, 5);
        must("write", write_note_root);
        one_node_kill(&world.node);
        if (!world.has_manifest[world.log_disks[0]] || !world.has_manifest[world.log_disks[1]])
            break;
        world_fini(); /* without the log's disks there is no manifest to fence */
        seed = rng_mix(seed);
    } while (true);
    for (unsigned i = 0; i < COPIES; i++)
        one_node_pull(&world.node, world.log_disks[i]);
    for (unsigned i = 0, n = 2 + (unsigned)draw(2); i < n; i++) {
        must("refused", open_refused);
        one_node_kill(&world.node);
    }
    for (unsigned i = 0; i < COPIES; i++)
        one_node_return(&world.node, world.log_disks[i]);
    must("set back", set_back);
    one_node_kill(&world.node);
    must("open", open_set_back);
    world_fini();
}

/* --- Rows that a shard lost with the power ----------------------------------------------------------- */

static void find_parity(struct one_node *node, struct disk *disk, const struct shard_info *info)
{
    if (info->kind == SHARD_DATA && info->key.index >= node->code.k)
        world.victim = disk->number;
}

static void sync_others(struct one_node *node, struct disk *disk, const struct shard_info *info)
{
    struct shard_info now;
    if (disk->number == world.victim || info->tombstone || shard_stat(disk, info->key, &now) < 0 ||
        now.sealed || now.length_blocks == 0)
        return;
    CHECK(shard_sync(disk, info->key, info->epoch, now.length_blocks) == 0);
}

/* Rows that nobody flushed, on a disk that alone loses what it has not synced. A parity shard's loss is
 * not found by reading. */
static void write_rows(void *arg)
{
    struct world *w = arg;
    one_node_recover(w);
    for (unsigned i = 0, n = 2 + (unsigned)draw(6); i < n; i++)
        one_node_write(&w->node, (uint32_t)draw(ONE_NODE_BLOCKS - 32), 16 + (uint32_t)draw(16));
    w->victim = 1 + (unsigned)draw(w->node.disk_count);
    if (draw(2) == 0)
        one_node_each_shard(&w->node, find_parity);
    if (draw(4) != 0)
        one_node_each_shard(&w->node, sync_others);
}

static void take_only(void *arg)
{
    CHECK(try_open(arg) == 0);
}

/* Nothing is read, which would find out by itself. */
static void repair_all(void *arg)
{
    struct world *w = arg;
    struct volume_info info;
    CHECK(try_open(w) == 0);
    CHECK(volume_repair_wait(w->node.volume) == 0);
    volume_get_info(w->node.volume, &info);
    CHECK_MSG(strcmp(info.health, "ok") == 0, "%s: %s", info.health, info.problem);
}

/* S23: when the volume says that it is whole again, any disk may be lost. */
static void round_lost_rows(uint64_t seed)
{
    world_init(seed, (struct shard_code){2, 1}, 4);
    world.node.bypass_bytes_min = 16 * 1024;
    must("write", write_rows);
    one_node_power_cut(&world.node, draw(3) ? SIM_CUT_LOSE_ALL : SIM_CUT_RANDOM);
    for (unsigned i = 0, n = (unsigned)draw(3); i < n; i++) {
        must("take", take_only);
        one_node_kill(&world.node);
    }
    must("repair", repair_all);
    one_node_kill(&world.node);
    one_node_pull(&world.node, 1 + (unsigned)draw(4));
    must("recover without", recover_all);
    one_node_kill(&world.node);
    world_fini();
}

/* --- A record on one copy of the manifest ------------------------------------------------------------ */

/* The owner ends while it records a row, or that its log has rolled; one copy of the manifest has not
 * got it. */
static void record_on_one_copy(void *arg)
{
    struct world *w = arg;
    write_log(w);
    if (draw(2) == 0)
        link_disk_cut(w->node.links[w->log_disks[0]], true);
    fiber_spawn("writer", several_writes, w);
    do
        w->victim = 1 + (unsigned)draw(w->node.disk_count);
    while (!w->has_manifest[w->victim]);
    env_sleep_ns(
        (link_disk_is_cut(w->node.links[w->log_disks[0]]) ? 200 * MS_NS : 0) + draw(8 * MS_NS));
    link_disk_cut(w->node.links[w->victim], true);
    env_sleep_ns(draw(5 * MS_NS));
}

static void end_at(void *ctx, struct sim_io_point *point)
{
    const uint64_t *at = ctx;
    if (point->number < *at)
        return;
    point->when = SIM_POINT_BEFORE;
    point->scope = SIM_SCOPE_NODE;
}

/* O6: an open that reads one copy of the manifest is cut short; the next one reads the other. */
static void round_two_manifests(uint64_t seed)
{
    world_init(seed, (struct shard_code){1 + (uint8_t)(seed / 8 % 2), 1}, 4);
    world.node.linked = true;
    world.node.row_blocks_max = 8;
    must("write", record_on_one_copy);
    one_node_kill(&world.node);
    for (unsigned i = 0, n = 1 + (unsigned)draw(3); i < n; i++) {
        uint64_t at = sim_io_count(world.node.sim) + 8 + draw(60);
        unsigned away = 1 + (unsigned)draw(world.node.disk_count);
        for (unsigned d = 1; d <= world.node.disk_count && i == 0; d++)
            away = world.has_manifest[d] && d != world.victim ? d : away;
        sim_set_io_hook(world.node.sim, end_at, &at);
        one_node_pull(&world.node, away);
        (void)one_node_do(&world.node, "cut short", recover_or_refuse);
        sim_set_io_hook(world.node.sim, NULL, NULL);
        one_node_kill(&world.node);
        one_node_return(&world.node, away);
    }
    must("recover", recover_all);
    one_node_kill(&world.node);
    world_fini();
}

static void round_of(uint64_t seed)
{
    static sim_round_fn *const rounds[] = {round_left_behind, round_failed_before, round_longest,
        round_rot, round_unknown, round_set_back, round_lost_rows, round_two_manifests};
    rounds[seed % ARRAY_SIZE(rounds)](seed);
}

/* O6: chunks were cut where one copy of the manifest ended, another one named rows behind that. */
static const uint64_t seeds_kept[] = {183, 527, 663};

int main(int argc, char **argv)
{
    log_set_level(getenv("SIM_LOG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
    return sim_check_main(argc, argv,
        &(struct sim_check){.round = round_of,
            .rounds = 160,
            .seeds_kept = seeds_kept,
            .seeds_kept_count = ARRAY_SIZE(seeds_kept)});
}
