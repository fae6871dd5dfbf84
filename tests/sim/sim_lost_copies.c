/* SPDX-License-Identifier: Apache-2.0
 *
 * Logs whose copies are lost, disks that are away when a volume opens, closes or is deleted: one
 * history for each rule that such a moment has broken.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/volume/log_record.h"
#include "blockd/volume/map.h"
#include "common/log.h"
#include "common/mem.h"
#include "tests/sim/one_node.h"

#define SECOND_NS 1000000000ull

static struct world {
    struct one_node node; /* first */
    bool linger, flushed;
    bool then_was_its_own; /* the snapshot was taken while the deposed owner was the owner */
    unsigned log_disks[2], log_disk_count;
    unsigned has[ONE_NODE_DISKS_MAX + 1];
    uint64_t log_blocks;
    unsigned log_on, spare_on, manifest_on; /* bits by disk number */
} world;

static void world_init(uint64_t seed, struct shard_code code, unsigned disks)
{
    world = (struct world){0};
    one_node_init(&world.node, seed, code, disks);
    one_node_must(&world.node, "make", one_node_recover);
    one_node_kill(&world.node);
}

static void world_fini(void)
{
    one_node_fini(&world.node);
}

static void must(const char *name, fiber_fn *fn)
{
    one_node_must(&world.node, name, fn);
}

/* --- All copies of a log fail at the flush ------------------------------------------------------ */

static void fail_sync_of_log(
    struct one_node *node, struct disk *disk, const struct shard_info *info)
{
    struct shard_info now;
    if (info->kind != SHARD_LOG || info->tombstone)
        return;
    CHECK(shard_stat(disk, info->key, &now) == 0);
    struct sim_fault fault = {.ops = SIM_OP_SYNC, .kind = SIM_FAULT_ERROR};
    if (now.length_blocks > 0)
        sim_disk_fault(one_node_sim_disk(node, disk->number), &fault);
}

static void flush_without_log(void *arg)
{
    struct world *w = arg;
    one_node_open(&w->node);
    one_node_write_some(&w->node, 5, 11);
    if (w->node.bypass_bytes_min < 1 << 20)
        one_node_write(&w->node, 100, 64);
    one_node_write_some(&w->node, 5, 11);
    one_node_each_shard(&w->node, fail_sync_of_log);
    int r = one_node_flush(&w->node);
    CHECK_MSG(
        r == 0 || (r == -EIO && w->node.bypass_bytes_min < 1 << 20), "flush: %s", strerror(-r));
}

/* D1, W5: with no copy left a flush waits until the records are in rows, which themselves do not
 * wait for it. The power goes the moment it is answered. */
static void round_flush_without_log(uint64_t seed, struct shard_code code, bool large)
{
    world_init(seed, code, code.k + 2u * code.m + 2);
    world.node.bypass_bytes_min = large ? 16 * 1024 : 1 << 30;
    must("flush", flush_without_log);
    for (unsigned i = 1; i <= world.node.disk_count; i++)
        sim_disk_clear_faults(one_node_sim_disk(&world.node, i));
    one_node_power_cut(&world.node, SIM_CUT_LOSE_ALL);
    must("verify", one_node_recover);
    world_fini();
}

static void round_flush_small(uint64_t seed)
{
    static const struct shard_code codes[] = {{1, 0}, {1, 1}, {2, 1}};
    round_flush_without_log(seed, codes[rng_mix(seed) % 3], false);
}

static void round_flush_large(uint64_t seed)
{
    round_flush_without_log(seed, (struct shard_code){2, 1}, true);
}

/* --- A flush while the log cannot roll ------------------------------------------------------------ */

static void writer(void *arg);
static void write_log(void *arg);

static void flusher(void *arg)
{
    struct world *w = arg;
    w->flushed = one_node_flush(&w->node) == 0;
}

static void flush_unrolled(void *arg)
{
    struct world *w = arg;
    write_log(w);
    for (unsigned i = 1; i <= 3; i++) {
        if (i != w->log_disks[0])
            one_node_pull(&w->node, i);
    }
    fiber_spawn("writer", writer, w); /* it finds out, and waits for the next log */
    env_sleep_ns(SECOND_NS / 10);
    fiber_spawn("flusher", flusher, w);
    env_sleep_ns(2 * SECOND_NS);
}

/* W7: a copy of the open log is away and no other disk is there to roll to: what a flush puts on the
 * copies that are left is not safe while the manifest names the other one as good as they are. */
static void round_flush_unrolled(uint64_t seed)
{
    world_init(seed, (struct shard_code){1, 1}, 3);
    must("flush", flush_unrolled);
    one_node_power_cut(&world.node, SIM_CUT_LOSE_ALL);
    for (unsigned i = 1; i <= 3; i++)
        one_node_return(&world.node, i);
    one_node_pull(&world.node, world.log_disks[0]);
    must("verify", one_node_recover);
    world_fini();
}

/* --- A clean stop while too few disks are up ----------------------------------------------------- */

/* Pulls all disks but `left`. */
static void pull_disks(struct world *w, unsigned left)
{
    unsigned start = (unsigned)rng_below(&w->node.rng, w->node.disk_count);
    for (unsigned i = 0; i < w->node.disk_count - left; i++)
        one_node_pull(&w->node, 1 + (start + i) % w->node.disk_count);
}

static void writer(void *arg)
{
    struct world *w = arg;
    one_node_write(&w->node, (uint32_t)rng_below(&w->node.rng, ONE_NODE_BLOCKS), 1);
}

static void close_on_one_disk(void *arg)
{
    struct world *w = arg;
    one_node_open(&w->node);
    one_node_write_some(&w->node, 10, 11);
    pull_disks(w, 1);
    if (rng_one_in(&w->node.rng, 2)) {
        fiber_spawn("writer", writer, w);
        env_sleep_ns(rng_below(&w->node.rng, SECOND_NS));
    }
    uint64_t start_ns = env_now_ns();
    (void)volume_close(w->node.volume);
    CHECK_MSG(env_now_ns() - start_ns < 60 * SECOND_NS, "the close took %llu s",
        (unsigned long long)((env_now_ns() - start_ns) / SECOND_NS));
}

/* What the log has need not be put down for a stop. */
static void round_close(uint64_t seed)
{
    world_init(seed, (struct shard_code){1, 1}, 3);
    must("close", close_on_one_disk);
    one_node_kill(&world.node);
    for (unsigned i = 1; i <= world.node.disk_count; i++)
        one_node_return(&world.node, i);
    must("verify", one_node_recover);
    world_fini();
}

/* --- Opening with too few disks ------------------------------------------------------------------ */

static void note_shard(struct one_node *node, struct disk *disk, const struct shard_info *info)
{
    struct world *w = container_of(node, struct world, node);
    struct shard_info now;
    if (info->kind == SHARD_MANIFEST && !info->tombstone)
        w->has[disk->number]++;
    if (info->kind != SHARD_LOG || info->tombstone)
        return;
    w->has[disk->number]++;
    CHECK(shard_stat(disk, info->key, &now) == 0);
    if (now.length_blocks > 0 && w->log_disk_count < 2)
        w->log_disks[w->log_disk_count++] = disk->number;
}

static void write_log(void *arg)
{
    struct world *w = arg;
    one_node_open(&w->node);
    one_node_write(&w->node, (unsigned)rng_below(&w->node.rng, 400), 7); /* not enough for a row */
    env_sleep_ns(SECOND_NS); /* what is of the epoch before goes */
    one_node_each_shard(&w->node, note_shard);
    CHECK(w->log_disk_count == 2);
}

static void count_old_log(struct one_node *node, struct disk *disk, const struct shard_info *info)
{
    struct volume_info volume;
    volume_get_info(node->volume, &volume);
    CHECK_MSG(info->kind != SHARD_LOG || info->tombstone || info->epoch >= volume.epoch,
        "log %llx of an earlier epoch is left on disk %u", (unsigned long long)info->key.chunk,
        disk->number);
}

/* One disk of the log alone, then the disk that never had it. */
static void open_then_add(void *arg)
{
    struct world *w = arg;
    one_node_open(&w->node);
    struct volume_info info;
    volume_get_info(w->node.volume, &info);
    CHECK(strcmp(info.health, "degraded") == 0);
    fiber_spawn("flusher", flusher, w);
    env_sleep_ns(SECOND_NS);
    CHECK_MSG(!w->flushed, "a flush was answered while the log is on one disk");
    unsigned third = 6 - w->log_disks[0] - w->log_disks[1];
    one_node_return(&w->node, third);
    one_node_add_disk(&w->node, third);
    one_node_write(&w->node, 0, 1); /* waits until a log is there */
    env_sleep_ns(SECOND_NS / 100);
    CHECK(w->flushed);
    if (!w->linger)
        return;
    env_sleep_ns(2 * SECOND_NS);
    CHECK(volume_destage(w->node.volume) == 0);
    env_sleep_ns(SECOND_NS);
    one_node_each_shard(&w->node, count_old_log);
}

/* S12: the log found on one disk is on two before the new manifest says what its length is, also
 * when the second one came late. Then the one may be lost. */
static void round_late_disk(uint64_t seed)
{
    world_init(seed, (struct shard_code){1, 1}, 3);
    must("write", write_log);
    one_node_kill(&world.node);
    /* The log, the spare one and the manifest: more than m disks are away at first. */
    unsigned keep = world.has[world.log_disks[0]] < 3;
    if (world.has[world.log_disks[keep]] < 3) {
        world_fini();
        return;
    }
    for (unsigned i = 1; i <= 3; i++) {
        if (i != world.log_disks[keep])
            one_node_pull(&world.node, i);
    }
    world.linger = rng_one_in(&world.node.rng, 3);
    must("open, add", open_then_add);
    one_node_kill(&world.node);
    one_node_pull(&world.node, world.log_disks[keep]);
    one_node_return(&world.node, world.log_disks[!keep]);
    must("verify", one_node_recover);
    world_fini();
}

/* --- The spare log is away ------------------------------------------------------------------------ */

static void note_copies(struct one_node *node, struct disk *disk, const struct shard_info *info)
{
    struct world *w = container_of(node, struct world, node);
    struct shard_info now;
    unsigned bit = 1u << disk->number;
    CHECK(info->tombstone || shard_stat(disk, info->key, &now) == 0);
    if (!info->tombstone && info->kind == SHARD_MANIFEST)
        w->manifest_on |= bit;
    if (!info->tombstone && info->kind == SHARD_LOG)
        *(now.length_blocks > 0 ? &w->log_on : &w->spare_on) |= bit;
}

static void write_and_note(void *arg)
{
    struct world *w = arg;
    write_log(w);
    one_node_each_shard(&w->node, note_copies);
    CHECK(w->spare_on != 0);
}

/* W3: a copy of the spare log was on a disk that has failed and gone, then the other one goes, too. Nothing is in
 * that log, so a volume whose open log and manifest are there opens. (It did not: "acknowledged writes are in it".) */
static void round_spare_away(uint64_t seed)
{
    world_init(seed, (struct shard_code){1, 1}, 5);
    must("write", write_and_note);
    one_node_kill(&world.node);
    if ((world.log_on & ~world.spare_on) && (world.manifest_on & ~world.spare_on)) {
        for (unsigned i = 1; i <= world.node.disk_count; i++)
            if (world.spare_on >> i & 1)
                one_node_pull(&world.node, i);
        must("verify", one_node_recover);
    }
    world_fini();
}

/* --- A gap in the log ---------------------------------------------------------------------------- */

/* What no correct owner does: a record far ahead of the last one, on every copy. */
static void append_ahead(struct one_node *node, struct disk *disk, const struct shard_info *info)
{
    struct shard_info now;
    uint8_t body[LOG_RECORD_BYTES_MAX];
    struct log_record record = {.type = LOG_NOOP};
    if (info->kind != SHARD_LOG || info->tombstone)
        return;
    CHECK(shard_stat(disk, info->key, &now) == 0);
    struct shard_append append = {.disk = disk,
        .key = info->key,
        .epoch = info->epoch,
        .off_blocks = now.length_blocks,
        .base_seq = 1000,
        .inline_bytes = body,
        .inline_len_bytes = (unsigned)log_record_encode(&record, body)};
    if (now.length_blocks == 0)
        return;
    CHECK(shard_append(&append) == 0);
    CHECK(shard_sync(disk, info->key, info->epoch, now.length_blocks + 1) == 0);
}

static void make_gap(void *arg)
{
    one_node_start(arg);
    one_node_each_shard(arg, append_ahead);
}

static void count_log_blocks(
    struct one_node *node, struct disk *disk, const struct shard_info *info)
{
    struct world *w = container_of(node, struct world, node);
    struct shard_info now;
    if (info->kind != SHARD_LOG || info->tombstone)
        return;
    CHECK(shard_stat(disk, info->key, &now) == 0);
    w->log_blocks += now.length_blocks;
}

static void open_refused(void *arg)
{
    struct world *w = arg;
    char *error = NULL;
    one_node_start(&w->node);
    for (unsigned i = 0; i < 2; i++) {
        uint64_t before = w->log_blocks = 0;
        one_node_each_shard(&w->node, count_log_blocks);
        before = w->log_blocks;
        int r = volume_open(&w->node.host, w->node.volume_id, &w->node.volume, &error);
        CHECK_MSG(
            r == -EBADMSG && strstr(error, "lacks records"), "open: %s, %s", strerror(-r), error);
        mem_free(error);
        w->log_blocks = 0;
        one_node_each_shard(&w->node, count_log_blocks);
        CHECK(w->log_blocks == before && before > 0);
    }
}

/* O2: records are missing and no power was lost, or no log has lost its tail with it. */
static void round_gap(uint64_t seed)
{
    world_init(seed, (struct shard_code){1, 1}, 3);
    must("write", write_log);
    one_node_kill(&world.node);
    must("gap", make_gap);
    if (rng_one_in(&world.node.rng, 2))
        one_node_kill(&world.node);
    else
        one_node_power_cut(&world.node, SIM_CUT_KEEP_ALL);
    must("open", open_refused);
    world_fini();
}

/* --- Deleting while a disk is away --------------------------------------------------------------- */

/* As the node has it in the store. */
static void record_disks(struct world *w)
{
    for (unsigned i = 1; i <= w->node.disk_count; i++) {
        char key[KEY_BYTES_MAX];
        struct disk_record record = {.number = i,
            .uuid = {.bytes = {(uint8_t)i}},
            .node = "node",
            .path = "/disk",
            .class_name = "ssd"};
        CLEANUP_FREE char *text = disk_record_encode(&record, NULL);
        struct store_op op = {
            .type = STORE_PUT, .key = key_disk(i, key), .data = text, .len_bytes = strlen(text)};
        CHECK(store_txn(w->node.host.store, NULL, 0, &op, 1, NULL) == 0);
    }
}

static void forget_disk(struct world *w, unsigned number)
{
    char key[KEY_BYTES_MAX];
    struct store_op op = {.type = STORE_DELETE, .key = key_disk(number, key)};
    CHECK(store_txn(w->node.host.store, NULL, 0, &op, 1, NULL) == 0);
}

static void no_shard(struct one_node *node, struct disk *disk, const struct shard_info *info)
{
    CHECK_MSG(false, "shard %llx.%u is left on disk %u", (unsigned long long)info->key.chunk,
        info->key.index, disk->number);
}

static void write_close(void *arg)
{
    struct world *w = arg;
    one_node_open(&w->node);
    one_node_write_some(&w->node, 60, 11);
    CHECK(volume_close(w->node.volume) == 0);
}

static int purge(struct world *w)
{
    int r = volume_purge(&w->node.host, w->node.volume_id);
    struct volume_root root;
    int there = volume_root_load(w->node.host.store, w->node.volume_id, &root);
    CHECK_MSG(
        there == (r == 0 ? -ENOENT : 0), "purge: %s, root: %s", strerror(-r), strerror(-there));
    /* By its key purges find it; it goes with the root. */
    char key[KEY_BYTES_MAX];
    struct store_value value;
    int found = store_get(w->node.host.store, key_deleted(w->node.volume_id, key), &value);
    CHECK_MSG(found == there, "root: %s, key: %s", strerror(-there), strerror(-found));
    if (found == 0)
        store_value_fini(&value);
    return r;
}

static void delete_without_disk(void *arg)
{
    struct world *w = arg;
    char *error = NULL;
    one_node_start(&w->node);
    record_disks(w);
    int r = volume_delete(&w->node.host, w->node.volume_id, "vol", &error);
    CHECK_MSG(r == 0, "delete: %s", error);
    CHECK_MSG(purge(w) == -EHOSTUNREACH, "the disk that is away was not missed");
    CHECK(purge(w) == -EHOSTUNREACH);
    one_node_each_shard(&w->node, no_shard); /* on those that are there */
    if (w->linger) {
        forget_disk(w, w->log_disks[0]);
        CHECK(purge(w) == 0);
    }
}

static void purge_again(void *arg)
{
    one_node_start(arg);
    int r = purge(arg);
    CHECK_MSG(r == 0, "purge: %s", strerror(-r));
    one_node_each_shard(arg, no_shard);
}

/* Z1 */
static void round_delete(uint64_t seed)
{
    world_init(seed, (struct shard_code){2, 1}, 4);
    must("write", write_close);
    one_node_kill(&world.node);
    world.log_disks[0] = 1 + (unsigned)rng_below(&world.node.rng, 4);
    world.linger = rng_one_in(&world.node.rng, 2);
    one_node_pull(&world.node, world.log_disks[0]);
    must("delete", delete_without_disk);
    one_node_kill(&world.node);
    one_node_return(&world.node, world.log_disks[0]);
    if (!world.linger)
        must("purge again", purge_again);
    world_fini();
}

/* --- A grow that ends in the middle -------------------------------------------------------------- */

static void grow_half(void *arg)
{
    struct world *w = arg;
    one_node_open(&w->node);
    CHECK(volume_grow(w->node.volume, (ONE_NODE_BLOCKS + 8) * BLOCK_BYTES) == 0);
    struct volume_root root;
    CHECK(volume_root_load(w->node.host.store, w->node.volume_id, &root) == 0);
    CHECK(root.size_bytes == (ONE_NODE_BLOCKS + 8) * BLOCK_BYTES);
    root.size_bytes = ONE_NODE_BLOCKS * BLOCK_BYTES; /* the manifest has it, the store not yet */
    CHECK(volume_root_save(w->node.host.store, &root) == 0);
}

static void root_is_right(void *arg)
{
    struct world *w = arg;
    struct volume_root root;
    one_node_open(&w->node);
    CHECK(volume_root_load(w->node.host.store, w->node.volume_id, &root) == 0);
    CHECK_MSG(root.size_bytes == volume_size_bytes(w->node.volume) &&
                  root.size_bytes == (ONE_NODE_BLOCKS + 8) * BLOCK_BYTES,
        "the root says %llu bytes, the volume has %llu", (unsigned long long)root.size_bytes,
        (unsigned long long)volume_size_bytes(w->node.volume));
}

/* The manifest is the truth; the next open puts the root right. */
static void round_grow(uint64_t seed)
{
    world_init(seed, (struct shard_code){1, 1}, 3);
    must("grow", grow_half);
    one_node_kill(&world.node);
    must("open", root_is_right);
    world_fini();
}

/* --- A disk that is missing when the daemon starts ------------------------------------------------- */

static void roll_and_flush(void *arg)
{
    struct world *w = arg;
    write_log(w);
    struct sim_fault fault = {.ops = SIM_OP_WRITE, .kind = SIM_FAULT_ERROR};
    sim_disk_fault(one_node_sim_disk(&w->node, w->log_disks[1]), &fault);
    one_node_write(&w->node, 450, 1); /* acknowledged in the next log */
    flusher(w);
}

static bool on_record(void *ctx, uint32_t number)
{
    return true;
}

static void open_without(void *arg)
{
    struct world *w = arg;
    char *error = NULL;
    one_node_start(&w->node);
    w->node.host.map.disk_expected = on_record;
    int r = volume_open(&w->node.host, w->node.volume_id, &w->node.volume, &error);
    CHECK_MSG(r == 0 || r == -EHOSTUNREACH, "open: %s", strerror(-r));
    if (r == 0) {
        one_node_verify(&w->node); /* all of it was in rows */
        return;
    }
    struct volume_root root; /* X6: another node may have the disk */
    CHECK(volume_root_load(w->node.host.store, w->node.volume_id, &root) == 0);
    CHECK_MSG(root.state == VOLUME_RELEASED && !root.successor[0], "state %d", (int)root.state);
    mem_free(error);
}

/* S14: what was flushed is on the disk that the daemon does not find now, and not on the one that failed
 * before and lost power since: that is no reason to give it up. */
static void round_missing(uint64_t seed)
{
    world_init(seed, (struct shard_code){1, 1}, 3);
    must("roll, flush", roll_and_flush);
    one_node_power_cut(&world.node, SIM_CUT_LOSE_ALL);
    sim_disk_clear_faults(one_node_sim_disk(&world.node, world.log_disks[1]));
    one_node_pull(&world.node, world.log_disks[0]);
    must("open without", open_without);
    one_node_kill(&world.node);
    one_node_return(&world.node, world.log_disks[0]);
    must("verify", one_node_recover);
    world_fini();
}

/* --- A store that was set back --------------------------------------------------------------------- */

static void meet_equal_epoch(void *arg)
{
    struct world *w = arg;
    struct volume_root root;
    one_node_open(&w->node);
    CHECK(volume_root_load(w->node.host.store, w->node.volume_id, &root) == 0);
    strcpy(root.owner, "other");
    root.owner_session++;
    CHECK(volume_root_save(w->node.host.store, &root) == 0);
    CHECK(volume_session_renewed(w->node.volume) == -ESHUTDOWN && volume_halted(w->node.volume));
    struct volume_root now;
    CHECK(volume_root_load(w->node.host.store, w->node.volume_id, &now) == 0);
    CHECK_MSG(strcmp(now.owner, "other") == 0, "'%s' took it back", now.owner);
}

static struct volume *open_by_another_node(struct one_node *n)
{
    static struct volume_host host;
    static struct memory_budget budget;
    struct volume *opened;
    char *error = NULL;
    memory_budget_init(&budget, MEMORY_BLOCKS_MIN, MEMORY_IO_MIN);
    host = n->host;
    host.node_name = "other";
    host.session = env_random_u64();
    host.budget = &budget;
    host.map_cache = map_cache_new(64 * 1024);
    int r = volume_open(&host, n->volume_id, &opened, &error);
    CHECK_MSG(r == 0, "take over: %s", error);
    return opened;
}

static void read_first(struct one_node *n)
{
    void *buf = mem_alloc_pages(BLOCK_BYTES);
    uint64_t since = history_now(n->history);
    if (volume_read(n->volume, 0, BLOCK_BYTES, buf) == 0)
        history_read(n->history, since, 0, 1, buf);
    mem_free_pages(buf, BLOCK_BYTES);
}

static void meet_successor(void *arg)
{
    struct one_node *n = &((struct world *)arg)->node;
    struct volume_root then, now;
    char *error = NULL;
    one_node_start(n);
    CHECK(volume_root_load(n->host.store, n->volume_id, &then) == 0);
    CHECK_MSG(volume_open(&n->host, n->volume_id, &n->volume, &error) == 0, "open: %s", error);
    if (world.then_was_its_own)
        CHECK(volume_root_load(n->host.store, n->volume_id, &then) == 0);
    one_node_write(n, 0, 1);
    struct volume *deposed = n->volume, *successor = n->volume = open_by_another_node(n);
    one_node_write(n, 0, 1);
    CHECK(volume_root_load(n->host.store, n->volume_id, &now) == 0);
    then.revision = now.revision;
    CHECK(volume_root_save(n->host.store, &then) == 0);
    store_mem_set_back(n->store);
    n->volume = deposed;
    int r = volume_session_renewed(n->volume);
    read_first(n);
    CHECK_MSG(r == -ESHUTDOWN && volume_halted(deposed), "the deposed owner goes on");
    n->volume = successor;
    CHECK(volume_session_renewed(n->volume) == 0);
    read_first(n);
    one_node_write(n, 0, 1);
}

/* X10: the store has forgotten who took the volume over, and so has the one it was taken from. */
static void round_forgotten(uint64_t seed)
{
    world_init(seed, (struct shard_code){1, 1}, 3);
    world.then_was_its_own = seed / 64 % 2;
    must("meet", meet_successor);
    one_node_kill(&world.node);
    must("verify", one_node_recover);
    world_fini();
}

/* S15: the other node came from an older epoch to the one that this node has. */
static void round_set_back(uint64_t seed)
{
    if (seed / 32 % 2) {
        round_forgotten(seed);
        return;
    }
    world_init(seed, (struct shard_code){1, 1}, 3);
    must("meet", meet_equal_epoch);
    world_fini();
}

/* One number of rounds that keeps the kept seeds theirs. */
static void round_away(uint64_t seed)
{
    if (seed / 8 % 4 == 0)
        round_set_back(seed);
    else if (seed / 8 % 4 == 1)
        round_missing(seed);
    else if (seed / 8 % 4 == 2)
        round_spare_away(seed);
    else
        round_flush_unrolled(seed);
}

static void round_of(uint64_t seed)
{
    static sim_round_fn *const rounds[] = {round_flush_small, round_flush_large, round_close,
        round_late_disk, round_gap, round_delete, round_grow, round_away};
    rounds[seed % ARRAY_SIZE(rounds)](seed);
}

/* Seeds that found something, by what. */
static const uint64_t seeds_kept[] = {
    57,  /* all copies of a log recorded LOST, then power loss: refused for ever */
    103, /* a deposed owner reads by its own root, which a restored store has */
};

int main(int argc, char **argv)
{
    log_set_level(getenv("SIM_LOG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
    return sim_check_main(argc, argv,
        &(struct sim_check){.round = round_of,
            .rounds = 64,
            .seeds_kept = seeds_kept,
            .seeds_kept_count = ARRAY_SIZE(seeds_kept)});
}
