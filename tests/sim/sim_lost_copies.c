/* SPDX-License-Identifier: Apache-2.0
 *
 * Logs whose copies are lost, disks that are away when a volume opens, closes or is deleted: one
 * history for each rule that such a moment has broken.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/disk/local_disk.h"
#include "blockd/volume/log_record.h"
#include "blockd/volume/map.h"
#include "blockd/volume/volume.h"
#include "common/log.h"
#include "common/mem.h"
#include "tests/sim/sim_check.h"

enum {
    SPAN_BLOCKS = 512,
    DISK_BYTES = 64 << 20,
    DISKS_MAX = 8,
};
#define SECOND_NS 1000000000ull

static struct world {
    struct rng rng;
    struct sim *sim;
    struct env *node;
    struct store_mem *store;
    struct shard_code code;
    unsigned disk_count;
    uint64_t volume_id;
    uint64_t bypass_bytes_min;
    uint32_t tag;
    uint32_t acked[SPAN_BLOCKS], begun[SPAN_BLOCKS], durable[SPAN_BLOCKS];
    bool made, linger, flushed;
    unsigned log_disks[2], log_disk_count;
    unsigned has[DISKS_MAX + 1];
    uint64_t log_blocks;
    struct sim_disk *pulled[DISKS_MAX + 1];
    /* of the running process */
    struct list disks;
    struct volume_host host;
    struct memory_budget budget;
    struct volume *volume;
    bool done;
} world;

static const struct uuid cluster = {.bytes = {1, 2, 3}};

/* --- The node ---------------------------------------------------------------------------------- */

static struct sim_disk *sim_disk_of(struct world *w, unsigned number)
{
    char path[32];
    sprintf(path, "/disk%u", number);
    return sim_disk_find(w->node, path);
}

static void pull_disk(struct world *w, unsigned number)
{
    w->pulled[number] = sim_disk_of(w, number);
    sim_disk_remove(w->pulled[number]);
}

static void return_disk(struct world *w, unsigned number)
{
    if (w->pulled[number])
        sim_disk_return(w->pulled[number]);
    w->pulled[number] = NULL;
}

static void disk_failed(void *ctx, struct disk *disk, int error)
{
    struct world *w = ctx;
    if (w->volume)
        volume_disk_changed(w->volume);
}

/* As `holdfast disk add` does. */
static void add_disk(struct world *w, unsigned number)
{
    char path[32], *error = NULL;
    struct uuid uuid;
    struct disk *disk;
    sprintf(path, "/disk%u", number);
    if (!w->made) {
        int r = local_disk_format(path, 0, cluster, cluster, "ssd", true, &uuid, &error);
        CHECK_MSG(r == 0, "format: %s", error);
    }
    struct local_disk_options options = {
        .trailer_cache_bytes = 64 * 1024, .failed = disk_failed, .ctx = w};
    int r = local_disk_open(path, cluster, &options, &disk, &error);
    CHECK_MSG(r == 0, "open %s: %s", path, error);
    disk->number = number;
    list_push_back(&w->disks, &disk->link);
    if (w->volume)
        volume_disk_changed(w->volume);
}

static void make(struct world *w)
{
    char *error = NULL, key[KEY_BYTES_MAX];
    struct pool pool = {.name = "pool",
        .code = w->code,
        .shards_min = w->code.k + (w->code.m > 0),
        .log_copies_min = w->code.m ? 2 : 1};
    CLEANUP_FREE char *text = pool_encode(&pool, NULL);
    struct store_op op = {
        .type = STORE_PUT, .key = key_pool("pool", key), .data = text, .len_bytes = strlen(text)};
    CHECK(store_txn(w->host.store, NULL, 0, &op, 1, NULL) == 0);
    int r =
        volume_create(&w->host, "vol", SPAN_BLOCKS * BLOCK_BYTES, "pool", &w->volume_id, &error);
    CHECK_MSG(r == 0, "create: %s", error);
    w->made = true;
}

/* Everything but the volume. */
static void start_node(struct world *w)
{
    w->volume = NULL;
    w->done = false;
    list_init(&w->disks);
    for (unsigned i = 1; i <= w->disk_count; i++) {
        if (sim_disk_of(w, i))
            add_disk(w, i);
    }
    memory_budget_init(&w->budget, 64ull << 20);
    w->host = (struct volume_host){.store = store_mem_open(w->store),
        .cluster = cluster,
        .node_name = "node",
        .session = env_random_u64(),
        .disks = &w->disks,
        .budget = &w->budget,
        .row_blocks_max = 16,
        .map_cache = map_cache_new(64 * 1024),
        .bypass_bytes_min = w->bypass_bytes_min};
    if (!w->made)
        make(w);
}

static void open_volume(struct world *w)
{
    char *error = NULL;
    int r = volume_open(&w->host, w->volume_id, &w->volume, &error);
    CHECK_MSG(r == 0, "open: %s", error);
}

static void start(struct world *w)
{
    start_node(w);
    open_volume(w);
}

static void world_init(uint64_t seed, struct shard_code code, unsigned disks)
{
    world = (struct world){.rng = rng_fork(seed, "world"),
        .code = code,
        .disk_count = disks,
        .bypass_bytes_min = 1 << 30};
    world.sim = sim_new(&(struct sim_options){.seed = seed, .trace = sim_check_trace()});
    world.node = sim_node_new(world.sim, "node");
    world.store = store_mem_new();
    for (unsigned i = 1; i <= disks; i++) {
        char path[32];
        sprintf(path, "/disk%u", i);
        sim_disk_new(world.node, path, DISK_BYTES);
    }
}

static void world_fini(void)
{
    sim_free(world.sim);
    store_mem_free(world.store);
}

static void end_process(bool power)
{
    if (power)
        sim_node_power_cut(world.node, SIM_CUT_LOSE_ALL);
    else
        sim_node_crash(world.node);
    store_mem_env_crashed(world.store, world.node);
    for (unsigned b = 0; power && b < SPAN_BLOCKS; b++)
        world.acked[b] = world.durable[b];
}

static void must(const char *name, fiber_fn *fn)
{
    CHECK_MSG(sim_do(world.node, name, fn, &world), "%s: the node went down", name);
}

/* --- Content ----------------------------------------------------------------------------------- */

static void verify(struct world *w)
{
    uint32_t *block = mem_alloc_pages(BLOCK_BYTES);
    for (unsigned b = 0; b < SPAN_BLOCKS; b++) {
        int r = volume_read(w->volume, (uint64_t)b * BLOCK_BYTES, BLOCK_BYTES, block);
        CHECK_MSG(r == 0, "block %u: %s", b, strerror(-r));
        CHECK_MSG(block[0] >= w->acked[b] && block[0] <= w->begun[b],
            "block %u has version %u, acknowledged %u, begun %u", b, block[0], w->acked[b],
            w->begun[b]);
        w->acked[b] = w->begun[b] = block[0];
    }
    mem_free_pages(block, BLOCK_BYTES);
}

static void write_blocks(struct world *w, unsigned first, unsigned count)
{
    uint32_t tag = ++w->tag;
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

static void write_some(struct world *w, unsigned writes)
{
    for (unsigned i = 0; i < writes; i++) {
        unsigned count = 1 + (unsigned)rng_below(&w->rng, 11);
        write_blocks(w, (unsigned)rng_below(&w->rng, SPAN_BLOCKS - count), count);
    }
}

static void make_only(void *arg)
{
    start(arg);
    verify(arg);
}

static void verify_only(void *arg)
{
    start(arg);
    verify(arg);
}

/* --- Shards ------------------------------------------------------------------------------------ */

/* Calls fn for each shard of the volume. */
static void each_shard(
    struct world *w, void (*fn)(struct world *w, struct disk *disk, const struct shard_info *info))
{
    list_for_each (it, &w->disks) {
        struct disk *disk = list_entry(it, struct disk, link);
        struct shard_info *list;
        unsigned count;
        if (disk->state != DISK_IN)
            continue;
        CHECK(shard_list(disk, w->volume_id, &list, &count) == 0);
        for (unsigned i = 0; i < count; i++)
            fn(w, disk, &list[i]);
        mem_free(list);
    }
}

/* --- All copies of a log fail at the flush ------------------------------------------------------ */

static void fail_sync_of_log(struct world *w, struct disk *disk, const struct shard_info *info)
{
    struct shard_info now;
    if (info->kind != SHARD_LOG || info->tombstone)
        return;
    CHECK(shard_stat(disk, info->key, &now) == 0);
    struct sim_fault fault = {.ops = SIM_OP_SYNC, .kind = SIM_FAULT_ERROR};
    if (now.length_blocks > 0)
        sim_disk_fault(sim_disk_of(w, disk->number), &fault);
}

static void flush_without_log(void *arg)
{
    struct world *w = arg;
    start(w);
    write_some(w, 5);
    if (w->bypass_bytes_min < 1 << 20)
        write_blocks(w, 100, 64);
    write_some(w, 5);
    uint32_t before[SPAN_BLOCKS];
    memcpy(before, w->acked, sizeof(before));
    each_shard(w, fail_sync_of_log);
    int r = volume_flush(w->volume);
    CHECK_MSG(r == 0 || (r == -EIO && w->bypass_bytes_min < 1 << 20), "flush: %s", strerror(-r));
    if (r == 0)
        memcpy(w->durable, before, sizeof(before));
    w->done = true;
}

/* D1, W5: with no copy left a flush waits until the records are in rows, which themselves do not
 * wait for it. The power goes the moment it is answered. */
static void round_flush_without_log(uint64_t seed, struct shard_code code, bool large)
{
    world_init(seed, code, code.k + 2u * code.m + 2);
    must("make", make_only);
    end_process(false);
    world.bypass_bytes_min = large ? 16 * 1024 : 1 << 30;
    must("flush", flush_without_log);
    for (unsigned i = 1; i <= world.disk_count; i++)
        sim_disk_clear_faults(sim_disk_of(&world, i));
    end_process(true);
    must("verify", verify_only);
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
    uint32_t before[SPAN_BLOCKS];
    memcpy(before, w->acked, sizeof(before));
    if (volume_flush(w->volume) == 0) {
        w->flushed = true;
        memcpy(w->durable, before, sizeof(before));
    }
}

static void flush_unrolled(void *arg)
{
    struct world *w = arg;
    write_log(w);
    for (unsigned i = 1; i <= 3; i++) {
        if (i != w->log_disks[0])
            pull_disk(w, i);
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
    must("make", make_only);
    end_process(false);
    must("flush", flush_unrolled);
    end_process(true);
    for (unsigned i = 1; i <= 3; i++)
        return_disk(&world, i);
    pull_disk(&world, world.log_disks[0]);
    must("verify", verify_only);
    world_fini();
}

/* --- A clean stop while too few disks are up ----------------------------------------------------- */

/* Pulls all disks but `left`. */
static void pull_disks(struct world *w, unsigned left)
{
    unsigned start = (unsigned)rng_below(&w->rng, w->disk_count);
    for (unsigned i = 0; i < w->disk_count - left; i++)
        pull_disk(w, 1 + (start + i) % w->disk_count);
}

static void writer(void *arg)
{
    struct world *w = arg;
    uint32_t *buf = mem_alloc_pages(BLOCK_BYTES);
    memset(buf, 0, BLOCK_BYTES);
    uint32_t b = (uint32_t)rng_below(&w->rng, SPAN_BLOCKS);
    buf[0] = w->begun[b] = ++w->tag;
    int r = volume_write(
        w->volume, (uint64_t)b * BLOCK_BYTES, BLOCK_BYTES, buf, 0, (struct request_id){0});
    CHECK_MSG(r == 0 || r == -ESHUTDOWN, "write: %s", strerror(-r));
    if (r == 0)
        w->acked[b] = buf[0];
    mem_free_pages(buf, BLOCK_BYTES);
}

static void close_on_one_disk(void *arg)
{
    struct world *w = arg;
    start(w);
    write_some(w, 10);
    pull_disks(w, 1);
    if (rng_one_in(&w->rng, 2)) {
        fiber_spawn("writer", writer, w);
        env_sleep_ns(rng_below(&w->rng, SECOND_NS));
    }
    uint64_t start_ns = env_now_ns();
    (void)volume_close(w->volume);
    CHECK_MSG(env_now_ns() - start_ns < 60 * SECOND_NS, "the close took %llu s",
        (unsigned long long)((env_now_ns() - start_ns) / SECOND_NS));
}

/* What the log has need not be put down for a stop. */
static void round_close(uint64_t seed)
{
    world_init(seed, (struct shard_code){1, 1}, 3);
    must("make", make_only);
    end_process(false);
    must("close", close_on_one_disk);
    end_process(false);
    for (unsigned i = 1; i <= world.disk_count; i++)
        return_disk(&world, i);
    must("verify", verify_only);
    world_fini();
}

/* --- Opening with too few disks ------------------------------------------------------------------ */

static void note_shard(struct world *w, struct disk *disk, const struct shard_info *info)
{
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
    start(w);
    write_blocks(w, (unsigned)rng_below(&w->rng, 400), 7); /* not enough for a row */
    env_sleep_ns(SECOND_NS);                               /* what is of the epoch before goes */
    each_shard(w, note_shard);
    CHECK(w->log_disk_count == 2);
}

static void count_old_log(struct world *w, struct disk *disk, const struct shard_info *info)
{
    struct volume_info volume;
    volume_get_info(w->volume, &volume);
    CHECK_MSG(info->kind != SHARD_LOG || info->tombstone || info->epoch >= volume.epoch,
        "log %llx of an earlier epoch is left on disk %u", (unsigned long long)info->key.chunk,
        disk->number);
}

/* One disk of the log alone, then the disk that never had it. */
static void open_then_add(void *arg)
{
    struct world *w = arg;
    start(w);
    struct volume_info info;
    volume_get_info(w->volume, &info);
    CHECK(strcmp(info.health, "degraded") == 0);
    fiber_spawn("flusher", flusher, w);
    env_sleep_ns(SECOND_NS);
    CHECK_MSG(!w->flushed, "a flush was answered while the log is on one disk");
    unsigned third = 6 - w->log_disks[0] - w->log_disks[1];
    return_disk(w, third);
    add_disk(w, third);
    write_blocks(w, 0, 1); /* waits until a log is there */
    env_sleep_ns(SECOND_NS / 100);
    CHECK(w->flushed);
    if (!w->linger)
        return;
    env_sleep_ns(2 * SECOND_NS);
    CHECK(volume_destage(w->volume) == 0);
    env_sleep_ns(SECOND_NS);
    each_shard(w, count_old_log);
}

/* S12: the log found on one disk is on two before the new manifest says what its length is, also
 * when the second one came late. Then the one may be lost. */
static void round_late_disk(uint64_t seed)
{
    world_init(seed, (struct shard_code){1, 1}, 3);
    must("make", make_only);
    end_process(false);
    must("write", write_log);
    end_process(false);
    /* The log, the spare one and the manifest: more than m disks are away at first. */
    unsigned keep = world.has[world.log_disks[0]] < 3;
    if (world.has[world.log_disks[keep]] < 3) {
        world_fini();
        return;
    }
    for (unsigned i = 1; i <= 3; i++) {
        if (i != world.log_disks[keep])
            pull_disk(&world, i);
    }
    world.linger = rng_one_in(&world.rng, 3);
    must("open, add", open_then_add);
    end_process(false);
    pull_disk(&world, world.log_disks[keep]);
    return_disk(&world, world.log_disks[!keep]);
    must("verify", verify_only);
    world_fini();
}

/* --- A gap in the log ---------------------------------------------------------------------------- */

/* What no correct owner does: a record far ahead of the last one, on every copy. */
static void append_ahead(struct world *w, struct disk *disk, const struct shard_info *info)
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
    start_node(arg);
    each_shard(arg, append_ahead);
}

static void count_log_blocks(struct world *w, struct disk *disk, const struct shard_info *info)
{
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
    start_node(w);
    for (unsigned i = 0; i < 2; i++) {
        uint64_t before = w->log_blocks = 0;
        each_shard(w, count_log_blocks);
        before = w->log_blocks;
        int r = volume_open(&w->host, w->volume_id, &w->volume, &error);
        CHECK_MSG(
            r == -EBADMSG && strstr(error, "lacks records"), "open: %s, %s", strerror(-r), error);
        mem_free(error);
        w->log_blocks = 0;
        each_shard(w, count_log_blocks);
        CHECK(w->log_blocks == before && before > 0);
    }
}

/* O2: records are missing and no power was lost, or no log has lost its tail with it. */
static void round_gap(uint64_t seed)
{
    world_init(seed, (struct shard_code){1, 1}, 3);
    must("make", make_only);
    end_process(false);
    must("write", write_log);
    end_process(false);
    must("gap", make_gap);
    if (rng_one_in(&world.rng, 2))
        end_process(false);
    else
        sim_node_power_cut(world.node, SIM_CUT_KEEP_ALL);
    must("open", open_refused);
    world_fini();
}

/* --- Deleting while a disk is away --------------------------------------------------------------- */

/* As the node has it in the store. */
static void record_disks(struct world *w)
{
    for (unsigned i = 1; i <= w->disk_count; i++) {
        char key[KEY_BYTES_MAX];
        struct disk_record record = {.number = i,
            .uuid = {.bytes = {(uint8_t)i}},
            .node = "node",
            .path = "/disk",
            .class_name = "ssd"};
        CLEANUP_FREE char *text = disk_record_encode(&record, NULL);
        struct store_op op = {
            .type = STORE_PUT, .key = key_disk(i, key), .data = text, .len_bytes = strlen(text)};
        CHECK(store_txn(w->host.store, NULL, 0, &op, 1, NULL) == 0);
    }
}

static void forget_disk(struct world *w, unsigned number)
{
    char key[KEY_BYTES_MAX];
    struct store_op op = {.type = STORE_DELETE, .key = key_disk(number, key)};
    CHECK(store_txn(w->host.store, NULL, 0, &op, 1, NULL) == 0);
}

static void no_shard(struct world *w, struct disk *disk, const struct shard_info *info)
{
    CHECK_MSG(false, "shard %llx.%u is left on disk %u", (unsigned long long)info->key.chunk,
        info->key.index, disk->number);
}

static void write_close(void *arg)
{
    struct world *w = arg;
    start(w);
    write_some(w, 60);
    CHECK(volume_close(w->volume) == 0);
}

static int purge(struct world *w)
{
    int r = volume_purge(&w->host, w->volume_id);
    struct volume_root root;
    int there = volume_root_load(w->host.store, w->volume_id, &root);
    CHECK_MSG(
        there == (r == 0 ? -ENOENT : 0), "purge: %s, root: %s", strerror(-r), strerror(-there));
    return r;
}

static void delete_without_disk(void *arg)
{
    struct world *w = arg;
    char *error = NULL;
    start_node(w);
    record_disks(w);
    int r = volume_delete(&w->host, "vol", &error);
    CHECK_MSG(r == 0, "delete: %s", error);
    CHECK_MSG(purge(w) == -EHOSTUNREACH, "the disk that is away was not missed");
    CHECK(purge(w) == -EHOSTUNREACH);
    each_shard(w, no_shard); /* on those that are there */
    if (w->linger) {
        forget_disk(w, w->log_disks[0]);
        CHECK(purge(w) == 0);
    }
}

static void purge_again(void *arg)
{
    start_node(arg);
    int r = purge(arg);
    CHECK_MSG(r == 0, "purge: %s", strerror(-r));
    each_shard(arg, no_shard);
}

/* Z1 */
static void round_delete(uint64_t seed)
{
    world_init(seed, (struct shard_code){2, 1}, 4);
    must("make", make_only);
    end_process(false);
    must("write", write_close);
    end_process(false);
    world.log_disks[0] = 1 + (unsigned)rng_below(&world.rng, 4);
    world.linger = rng_one_in(&world.rng, 2);
    pull_disk(&world, world.log_disks[0]);
    must("delete", delete_without_disk);
    end_process(false);
    return_disk(&world, world.log_disks[0]);
    if (!world.linger)
        must("purge again", purge_again);
    world_fini();
}

/* --- A grow that ends in the middle -------------------------------------------------------------- */

static void grow_half(void *arg)
{
    struct world *w = arg;
    start(w);
    CHECK(volume_grow(w->volume, (SPAN_BLOCKS + 8) * BLOCK_BYTES) == 0);
    struct volume_root root;
    CHECK(volume_root_load(w->host.store, w->volume_id, &root) == 0);
    CHECK(root.size_bytes == (SPAN_BLOCKS + 8) * BLOCK_BYTES);
    root.size_bytes = SPAN_BLOCKS * BLOCK_BYTES; /* the manifest has it, the store not yet */
    CHECK(volume_root_save(w->host.store, &root) == 0);
}

static void root_is_right(void *arg)
{
    struct world *w = arg;
    struct volume_root root;
    start(w);
    CHECK(volume_root_load(w->host.store, w->volume_id, &root) == 0);
    CHECK_MSG(root.size_bytes == volume_size_bytes(w->volume) &&
                  root.size_bytes == (SPAN_BLOCKS + 8) * BLOCK_BYTES,
        "the root says %llu bytes, the volume has %llu", (unsigned long long)root.size_bytes,
        (unsigned long long)volume_size_bytes(w->volume));
}

/* The manifest is the truth; the next open puts the root right. */
static void round_grow(uint64_t seed)
{
    world_init(seed, (struct shard_code){1, 1}, 3);
    must("make", make_only);
    end_process(false);
    must("grow", grow_half);
    end_process(false);
    must("open", root_is_right);
    world_fini();
}

/* --- A disk that is missing when the daemon starts ------------------------------------------------- */

static void roll_and_flush(void *arg)
{
    struct world *w = arg;
    write_log(w);
    struct sim_fault fault = {.ops = SIM_OP_WRITE, .kind = SIM_FAULT_ERROR};
    sim_disk_fault(sim_disk_of(w, w->log_disks[1]), &fault);
    write_blocks(w, 450, 1); /* acknowledged in the next log */
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
    start_node(w);
    w->host.map.disk_expected = on_record;
    int r = volume_open(&w->host, w->volume_id, &w->volume, &error);
    CHECK_MSG(r == 0 || r == -EHOSTUNREACH, "open: %s", strerror(-r));
    if (r == 0) {
        verify(w); /* all of it was in rows */
        return;
    }
    struct volume_root root; /* X6: another node may have the disk */
    CHECK(volume_root_load(w->host.store, w->volume_id, &root) == 0);
    CHECK_MSG(root.state == VOLUME_RELEASED && !root.successor[0], "state %d", (int)root.state);
    mem_free(error);
}

/* S14: what was flushed is on the disk that the daemon does not find now, and not on the one that failed
 * before and lost power since: that is no reason to give it up. */
static void round_missing(uint64_t seed)
{
    world_init(seed, (struct shard_code){1, 1}, 3);
    must("make", make_only);
    end_process(false);
    must("roll, flush", roll_and_flush);
    end_process(true);
    sim_disk_clear_faults(sim_disk_of(&world, world.log_disks[1]));
    pull_disk(&world, world.log_disks[0]);
    must("open without", open_without);
    end_process(false);
    return_disk(&world, world.log_disks[0]);
    must("verify", verify_only);
    world_fini();
}

/* --- A store that was set back --------------------------------------------------------------------- */

static void meet_equal_epoch(void *arg)
{
    struct world *w = arg;
    struct volume_root root;
    start(w);
    CHECK(volume_root_load(w->host.store, w->volume_id, &root) == 0);
    strcpy(root.owner, "other");
    root.owner_session++;
    CHECK(volume_root_save(w->host.store, &root) == 0);
    CHECK(volume_session_renewed(w->volume) == -ESHUTDOWN && volume_halted(w->volume));
    struct volume_root now;
    CHECK(volume_root_load(w->host.store, w->volume_id, &now) == 0);
    CHECK_MSG(strcmp(now.owner, "other") == 0, "'%s' took it back", now.owner);
}

/* S15: the other node came from an older epoch to the one that this node has. */
static void round_set_back(uint64_t seed)
{
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
    30121479689470009, /* all copies of a log recorded LOST, then power loss: refused for ever */
};

int main(int argc, char **argv)
{
    log_set_level(getenv("SIM_LOG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
    return sim_check_main(argc, argv,
        &(struct sim_check){.round = round_of,
            .rounds = 12,
            .seeds_kept = seeds_kept,
            .seeds_kept_count = ARRAY_SIZE(seeds_kept)});
}
