/* SPDX-License-Identifier: Apache-2.0
 *
 * The data path of one owner over the disks of its machine: short lives, each of which ends at the very moment at which a
 * promise begins to count: a flush was answered, the power goes, and up to m disks with it; a read or a write was
 * answered, the process is killed. What is found is judged by history.h; partial writes have a model of their own.
 *
 * Each kind of round has the circumstances of one rule at a high rate: flushes beside others' writes while logs roll (S4) and
 * other volumes' flushes are under way (D12), a flush that fails (D2), reads of what is being written (I2), large writes
 * on slow disks (S14), logs let go (S1), a disk that is away for a moment (S23), sectors of one block (I3).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/disk/local_disk.h"
#include "blockd/volume/map.h"
#include "blockd/volume/volume.h"
#include "common/log.h"
#include "common/mem.h"
#include "tests/sim/history.h"
#include "tests/sim/link_disk.h"
#include "tests/sim/sim_check.h"

enum {
    DISKS_MAX = 8,
    VOLUMES_MAX = 3,
    BLOCKS = 1024,
    WRITE_BLOCKS_MAX = 32,
    DISK_BYTES = 64 << 20,
    TABLE_OFF_BYTES = 2 << 20, /* docs/FORMAT.md */
    SECTORS = BLOCK_BYTES / 512,
};
#define MS_NS 1000000ull
#define SECOND_NS (1000 * MS_NS)

struct vol {
    uint64_t id;
    struct volume *volume;
    struct history *history;
};

/* What clients do, in percent; the rest are reads. */
struct load {
    unsigned clients; /* of each volume */
    unsigned write_percent, trim_percent, flush_percent;
    uint32_t blocks;     /* they work on so many */
    uint32_t blocks_max; /* of one write */
    uint64_t pause_ns_max;
    unsigned end_one_in; /* answers of `end_at`, or writes of a shard table */
    enum { END_AT_FLUSH = 1, END_AT_READ = 2, END_AT_WRITE = 4, END_AT_TABLE = 8 } end_at;
    bool end_by_power;
    enum sim_cut_mode cut_mode;
};

static struct world {
    struct rng rng;
    struct sim *sim;
    struct env *node;
    struct store_mem *store;
    struct shard_code code;
    unsigned disk_count, volume_count;
    struct sim_disk *sim_disks[DISKS_MAX];
    struct sim_disk_latency latency;
    struct vol vols[VOLUMES_MAX];
    struct load load;
    uint64_t bypass_bytes_min, row_blocks, log_bytes, life_ns;
    bool made, settled;
    unsigned failing, other; /* disks */
    bool linked;             /* its disks are behind links */
    bool whole;              /* it was not needed any more */
    /* of the running process */
    struct disk *real[DISKS_MAX];
    struct link_disk *links[DISKS_MAX];
    struct volume_host host;
    struct memory_budget budget;
    struct list disks;
    bool stop;
    unsigned clients;
} world;

static const struct uuid cluster = {.bytes = {1, 2, 3}};

/* --- The node ---------------------------------------------------------------------------------- */

static const char *disk_path(unsigned i, char *buf)
{
    sprintf(buf, "/disk%u", i);
    return buf;
}

static void disk_failed(void *ctx, struct disk *disk, int error)
{
    struct world *w = ctx;
    for (unsigned i = 0; i < w->volume_count; i++) {
        if (w->vols[i].volume)
            volume_disk_changed(w->vols[i].volume);
    }
}

static void open_disks(struct world *w)
{
    list_init(&w->disks);
    for (unsigned i = 0; i < w->disk_count; i++) {
        char path[32], *error = NULL;
        struct local_disk_options options = {.trailer_cache_bytes = 64 * 1024,
            .verify_appends = true,
            .failed = disk_failed,
            .ctx = w};
        w->real[i] = NULL;
        if (!sim_disk_find(w->node, disk_path(i, path)))
            continue;
        int r = local_disk_open(path, cluster, &options, &w->real[i], &error);
        CHECK_MSG(r == 0, "open %s: %s", path, error);
        w->real[i]->number = i + 1;
        if (w->linked) {
            w->links[i] = link_disk_new(w->real[i], &w->rng, MS_NS);
            list_push_back(&w->disks, &link_disk_base(w->links[i])->link);
        } else {
            list_push_back(&w->disks, &w->real[i]->link);
        }
    }
}

static void make_volumes(struct world *w)
{
    struct pool pool = {
        .name = "pool", .code = w->code, .shards_min = w->code.k + 1u, .log_copies_min = 2};
    CLEANUP_FREE char *text = pool_encode(&pool, NULL);
    char key[KEY_BYTES_MAX], *error = NULL;
    struct store_op op = {
        .type = STORE_PUT, .key = key_pool("pool", key), .data = text, .len_bytes = strlen(text)};
    CHECK(store_txn(w->host.store, NULL, 0, &op, 1, NULL) == 0);
    for (unsigned i = 0; i < w->volume_count; i++) {
        char name[16];
        sprintf(name, "vol%u", i);
        int r = volume_create(
            &w->host, name, (uint64_t)BLOCKS * BLOCK_BYTES, "pool", &w->vols[i].id, &error);
        CHECK_MSG(r == 0, "create: %s", error);
    }
    w->made = true;
}

static void settle(struct vol *vol)
{
    uint8_t *buf = mem_alloc_pages(64 * BLOCK_BYTES);
    for (uint32_t at = 0; at < BLOCKS; at += 64) {
        int r = volume_read(vol->volume, (uint64_t)at * BLOCK_BYTES, 64 * BLOCK_BYTES, buf);
        CHECK_MSG(r == 0, "read after recovery: %s", strerror(-r));
        history_found(vol->history, at, 64, buf);
    }
    mem_free_pages(buf, 64 * BLOCK_BYTES);
    history_settled(vol->history);
}

static void start(void *arg)
{
    struct world *w = arg;
    for (unsigned i = 0; i < VOLUMES_MAX; i++)
        w->vols[i].volume = NULL;
    open_disks(w);
    memory_budget_init(&w->budget, 32ull << 20);
    w->host = (struct volume_host){.store = store_mem_open(w->store),
        .cluster = cluster,
        .node_name = "node",
        .session = env_random_u64(),
        .disks = &w->disks,
        .budget = &w->budget,
        .row_blocks_max = w->row_blocks,
        .log_bytes_max = w->log_bytes,
        .map_cache = map_cache_new(64 * 1024),
        .delta_bytes_max = 64 * 1024,
        .bypass_bytes_min = w->bypass_bytes_min};
    if (!w->made)
        make_volumes(w);
    for (unsigned i = 0; i < w->volume_count; i++) {
        char *error = NULL;
        int r = volume_open(&w->host, w->vols[i].id, &w->vols[i].volume, &error);
        CHECK_MSG(r == 0, "volume_open: %s", error);
        if (!w->settled)
            settle(&w->vols[i]);
    }
    w->settled = true;
}

/* --- Clients ----------------------------------------------------------------------------------- */

struct client {
    struct world *world;
    struct vol *vol;
    struct rng rng;
    void *buf;
};

/* The moment at which a promise counts. It does not return then. */
static void answered(struct client *c, unsigned what)
{
    const struct load *load = &c->world->load;
    if (!(load->end_at & what) || !rng_one_in(&c->rng, load->end_one_in))
        return;
    if (load->end_by_power)
        sim_node_power_cut(c->world->node, load->cut_mode);
    else
        sim_node_crash(c->world->node);
}

static void client_write(struct client *c, bool zero)
{
    const struct load *load = &c->world->load;
    uint32_t count = 1 + (uint32_t)rng_below(&c->rng, load->blocks_max);
    uint32_t first = (uint32_t)rng_below(&c->rng, load->blocks - count + 1);
    uint64_t off = (uint64_t)first * BLOCK_BYTES, len = (uint64_t)count * BLOCK_BYTES;
    uint64_t number = history_write(c->vol->history, first, count, zero ? NULL : c->buf, false);
    struct request_id id = {0};
    int r = zero ? volume_trim(c->vol->volume, off, len, 0, id)
                 : volume_write(c->vol->volume, off, len, c->buf, 0, id);
    CHECK_MSG(r == 0, "write: %s", strerror(-r));
    history_written(c->vol->history, number);
    answered(c, END_AT_WRITE);
}

static void client_read(struct client *c)
{
    const struct load *load = &c->world->load;
    uint32_t count = 1 + (uint32_t)rng_below(&c->rng, load->blocks_max);
    uint32_t first = (uint32_t)rng_below(&c->rng, load->blocks - count + 1);
    uint64_t since = history_now(c->vol->history);
    int r = volume_read(
        c->vol->volume, (uint64_t)first * BLOCK_BYTES, (uint64_t)count * BLOCK_BYTES, c->buf);
    CHECK_MSG(r == 0, "read: %s", strerror(-r));
    history_read(c->vol->history, since, first, count, c->buf);
    answered(c, END_AT_READ);
}

static void client_flush(struct client *c)
{
    uint64_t since = history_now(c->vol->history);
    int r = volume_flush(c->vol->volume);
    CHECK_MSG(r == 0, "flush: %s", strerror(-r));
    history_flushed(c->vol->history, since);
    answered(c, END_AT_FLUSH);
}

static void client_main(void *arg)
{
    struct client *c = arg;
    struct world *w = c->world;
    const struct load *load = &w->load;
    c->buf = mem_alloc_pages(WRITE_BLOCKS_MAX * BLOCK_BYTES);
    while (!w->stop) {
        unsigned what = (unsigned)rng_below(&c->rng, 100);
        if (what < load->write_percent)
            client_write(c, false);
        else if (what < load->write_percent + load->trim_percent)
            client_write(c, true);
        else if (what < load->write_percent + load->trim_percent + load->flush_percent)
            client_flush(c);
        else
            client_read(c);
        if (load->pause_ns_max > 0)
            env_sleep_ns(rng_below(&c->rng, load->pause_ns_max));
    }
    mem_free_pages(c->buf, WRITE_BLOCKS_MAX * BLOCK_BYTES);
    mem_free(c);
    w->clients--;
}

static void spawn_clients(struct world *w)
{
    w->stop = false;
    for (unsigned i = 0; i < w->volume_count * w->load.clients; i++) {
        struct client *c = NEW(struct client);
        c->world = w;
        c->vol = &w->vols[i % w->volume_count];
        rng_init(&c->rng, rng_u64(&w->rng));
        w->clients++;
        fiber_spawn("client", client_main, c);
    }
}

static void stop_clients(struct world *w)
{
    w->stop = true;
    while (w->clients > 0)
        env_sleep_ns(MS_NS);
}

/* --- Worlds ------------------------------------------------------------------------------------ */

static void format_main(void *arg)
{
    char *error = NULL;
    struct uuid uuid;
    CHECK(local_disk_format("/disk0", 0, cluster, cluster, "ssd", true, &uuid, &error) == 0);
}

static struct sim_image *formatted(void)
{
    static struct sim_image *image; /* once for all rounds: formatting writes the whole disk */
    if (image)
        return image;
    struct sim *sim = sim_new(&(struct sim_options){.seed = 1});
    struct env *node = sim_node_new(sim, "node");
    struct sim_disk *disk = sim_disk_new(node, "/disk0", DISK_BYTES);
    CHECK(sim_do(node, "format", format_main, NULL));
    image = sim_disk_snapshot(disk);
    sim_free(sim);
    return image;
}

static void world_init(uint64_t seed, struct shard_code code, unsigned disks, unsigned volumes)
{
    struct sim_image *image = formatted();
    struct world *w = &world;
    *w = (struct world){.rng = rng_fork(seed, "world"),
        .sim = sim_new(&(struct sim_options){.seed = seed, .trace = sim_check_trace()}),
        .code = code,
        .disk_count = disks,
        .volume_count = volumes,
        .bypass_bytes_min = 1 << 20,
        .row_blocks = 64,
        .log_bytes = 8 << 20,
        .life_ns = 300 * MS_NS};
    w->node = sim_node_new(w->sim, "node");
    w->store = store_mem_new();
    for (unsigned i = 0; i < disks; i++) {
        char path[32];
        w->sim_disks[i] = sim_disk_new(w->node, disk_path(i, path), DISK_BYTES);
        sim_disk_restore(w->sim_disks[i], image);
    }
    for (unsigned i = 0; i < volumes; i++) {
        char name[16];
        sprintf(name, "vol%u", i);
        w->vols[i].history = history_new(name, BLOCKS);
    }
}

static void world_fini(void)
{
    for (unsigned i = 0; i < world.volume_count; i++)
        history_free(world.vols[i].history);
    sim_free(world.sim);
    store_mem_free(world.store);
}

static void set_latency(struct world *w, uint64_t write_ns, uint64_t sync_ns)
{
    struct sim_disk_latency latency = {.read_ns = 20000,
        .write_ns = write_ns,
        .sync_ns = sync_ns,
        .jitter_ns = write_ns / 2,
        .ns_per_page = 100};
    for (unsigned i = 0; i < w->disk_count; i++)
        sim_disk_set_latency(w->sim_disks[i], &latency);
}

/* The process has ended, or ends now. */
static void end_life(struct world *w, bool power, enum sim_cut_mode mode)
{
    if (sim_node_is_up(w->node) && power)
        sim_node_power_cut(w->node, mode);
    else if (sim_node_is_up(w->node))
        sim_node_crash(w->node);
    store_mem_env_crashed(w->store, w->node);
    for (unsigned i = 0; i < w->volume_count; i++)
        history_crashed(w->vols[i].history, power);
    w->clients = 0;
    w->settled = false;
}

static void lose_disks(struct world *w)
{
    unsigned first = (unsigned)rng_below(&w->rng, w->disk_count);
    for (unsigned i = 0; i < w->code.m; i++)
        sim_disk_remove(w->sim_disks[(first + i) % w->disk_count]);
}

static void must(const char *name, fiber_fn *fn)
{
    CHECK_MSG(sim_do(world.node, name, fn, &world), "%s: the node went down", name);
}

/* Until nothing needs a disk that failed or was away. */
static void wait_until_whole(struct world *w)
{
    struct volume_info info;
    w->whole = false;
    for (unsigned i = 0; i < 20 && !w->whole; i++) {
        env_sleep_ns(100 * MS_NS);
        (void)volume_repair_wait(w->vols[0].volume);
        volume_get_info(w->vols[0].volume, &info);
        w->whole = strcmp(info.health, "ok") == 0;
    }
}

static void life(void *arg)
{
    start(arg);
    spawn_clients(arg);
    env_sleep_ns(world.life_ns);
    stop_clients(arg);
}

/* A shard was made, sealed or removed, whoever waits for that has not heard of it. */
static void table_hook(void *ctx, struct sim_io_point *point)
{
    struct world *w = ctx;
    if (point->off_bytes < TABLE_OFF_BYTES || point->off_bytes >= TABLE_OFF_BYTES + (1 << 20) ||
        point->len_bytes == 0 || !rng_one_in(&w->rng, w->load.end_one_in))
        return;
    point->when = SIM_POINT_AFTER;
    point->scope = SIM_SCOPE_NODE;
}

/* Some lives that clients end, then one without m of the disks. */
static void run_lives(unsigned lives, bool lose)
{
    struct world *w = &world;
    w->settled = true; /* zeroes */
    must("make", start);
    end_life(w, w->load.end_by_power, SIM_CUT_LOSE_ALL);
    for (unsigned i = 0; i < lives; i++) {
        if (w->load.end_at == END_AT_TABLE)
            sim_set_io_hook(w->sim, table_hook, w);
        sim_do(w->node, "life", life, w);
        sim_set_io_hook(w->sim, NULL, NULL);
        end_life(w, w->load.end_by_power, w->load.cut_mode);
    }
    if (lose)
        lose_disks(w);
    must("verify", start);
    world_fini();
}

/* --- Flushes ----------------------------------------------------------------------------------- */

/* S4: a flush, then the power goes and up to m disks with it. Logs are on disks of their own, mostly. */
static void round_flush(uint64_t seed)
{
    static const struct shard_code codes[] = {{1, 1}, {1, 1}, {1, 2}, {2, 1}};
    struct rng rng = rng_fork(seed, "shape");
    struct shard_code code = codes[rng_below(&rng, ARRAY_SIZE(codes))];
    unsigned shards = code.k + code.m;
    world_init(seed, code, shards + 1 + (unsigned)rng_below(&rng, DISKS_MAX - shards),
        1 + (unsigned)rng_below(&rng, VOLUMES_MAX));
    struct world *w = &world;
    set_latency(w, rng_between(&rng, 20000, MS_NS), rng_between(&rng, 50000, 20 * MS_NS));
    w->load = (struct load){.clients = 1 + (unsigned)rng_below(&rng, 4),
        .write_percent = 80,
        .trim_percent = 2,
        .flush_percent = 1 + (unsigned)rng_below(&rng, 15),
        .blocks = BLOCKS,
        .blocks_max = 1 + (uint32_t)rng_below(&rng, WRITE_BLOCKS_MAX),
        .pause_ns_max = rng_one_in(&rng, 2) ? 0 : rng_below(&rng, 2 * MS_NS),
        .end_one_in = 1 + (unsigned)rng_below(&rng, 8),
        .end_at = END_AT_FLUSH,
        .end_by_power = true,
        .cut_mode = rng_one_in(&rng, 4) ? SIM_CUT_RANDOM : SIM_CUT_LOSE_ALL};
    run_lives(4, true);
}

/* S4: the last roll was a moment ago, and what was written before it is on other disks. */
static void round_roll(uint64_t seed)
{
    struct rng rng = rng_fork(seed, "shape");
    world_init(seed, (struct shard_code){1, 1}, DISKS_MAX, 1);
    struct world *w = &world;
    set_latency(w, rng_between(&rng, 20000, MS_NS), rng_between(&rng, 5, 20) * MS_NS);
    w->load = (struct load){.clients = 4,
        .write_percent = 98,
        .flush_percent = 1 + (unsigned)rng_below(&rng, 2),
        .blocks = BLOCKS,
        .blocks_max = WRITE_BLOCKS_MAX,
        .end_one_in = 1 + (unsigned)rng_below(&rng, 3),
        .end_at = END_AT_FLUSH,
        .end_by_power = true,
        .cut_mode = SIM_CUT_LOSE_ALL};
    run_lives(6, rng_one_in(&rng, 2));
}

/* D12: the disks are flushing for another volume all the time. */
static void round_join(uint64_t seed)
{
    struct rng rng = rng_fork(seed, "shape");
    world_init(seed, (struct shard_code){1, 1}, 3, VOLUMES_MAX);
    struct world *w = &world;
    set_latency(w, rng_between(&rng, 20000, MS_NS), rng_between(&rng, 2, 20) * MS_NS);
    w->load = (struct load){.clients = 2,
        .write_percent = 80,
        .flush_percent = 20,
        .blocks = BLOCKS,
        .blocks_max = 4,
        .pause_ns_max = rng_below(&rng, MS_NS) + 1,
        .end_one_in = 1 + (unsigned)rng_below(&rng, 4),
        .end_at = END_AT_FLUSH,
        .end_by_power = true,
        .cut_mode = SIM_CUT_LOSE_ALL};
    run_lives(6, rng_one_in(&rng, 2));
}

/* --- A flush that fails ------------------------------------------------------------------------ */

/* The disks with a copy of the open log of the first volume. */
static unsigned log_disks(struct world *w, unsigned *ret_disks)
{
    unsigned found = 0;
    for (unsigned i = 0; i < w->disk_count; i++) {
        struct shard_info *list, now;
        unsigned count;
        CHECK(shard_list(w->real[i], w->vols[0].id, &list, &count) == 0);
        for (unsigned s = 0; s < count; s++) {
            if (list[s].kind != SHARD_LOG || list[s].tombstone)
                continue;
            int r = shard_stat(w->real[i], list[s].key, &now);
            CHECK(r == 0 || r == -ENOENT); /* removed meanwhile */
            if (r == 0 && now.length_blocks > 0 && found < 2)
                ret_disks[found++] = i;
        }
        mem_free(list);
    }
    return found;
}

static void fail_a_flush(void *arg)
{
    struct world *w = arg;
    start(w);
    struct client c = {.world = w, .vol = &w->vols[0]};
    rng_init(&c.rng, rng_u64(&w->rng));
    c.buf = mem_alloc_pages(WRITE_BLOCKS_MAX * BLOCK_BYTES);
    for (unsigned i = 0, n = 1 + (unsigned)rng_below(&w->rng, 30); i < n; i++)
        client_write(&c, false);
    unsigned disks[2];
    CHECK(log_disks(w, disks) == 2);
    w->failing = disks[rng_below(&w->rng, 2)];
    w->other = disks[0] + disks[1] - w->failing;
    sim_disk_fault(
        w->sim_disks[w->failing], &(struct sim_fault){.ops = SIM_OP_SYNC, .kind = SIM_FAULT_ERROR});
    client_flush(&c);
    sim_disk_clear_faults(w->sim_disks[w->failing]);
    wait_until_whole(w);
    mem_free_pages(c.buf, WRITE_BLOCKS_MAX * BLOCK_BYTES);
}

/* D2: what a failed flush covered need not be on the disk ever, whatever it says later. */
static void round_failed_flush(uint64_t seed)
{
    struct world *w = &world;
    world_init(seed, (struct shard_code){1, 1}, 3, 1);
    w->load = (struct load){.blocks = BLOCKS, .blocks_max = 4};
    w->settled = true;
    must("make", start);
    end_life(w, false, 0);
    must("fail", fail_a_flush);
    end_life(w, true, SIM_CUT_LOSE_ALL);
    CHECK(w->whole);
    sim_disk_remove(w->sim_disks[w->other]);
    must("verify", start);
    world_fini();
}

/* --- Kills ------------------------------------------------------------------------------------- */

/* I2: what was read while it was on its way to the copies is there after the process was killed. */
static void round_read(uint64_t seed)
{
    struct rng rng = rng_fork(seed, "shape");
    world_init(seed, (struct shard_code){1, 1}, 3, 1);
    struct world *w = &world;
    set_latency(w, rng_between(&rng, 1, 10) * MS_NS, MS_NS);
    w->load = (struct load){.clients = 4,
        .write_percent = 50,
        .trim_percent = 5,
        .blocks = 1 + (uint32_t)rng_below(&rng, 16),
        .blocks_max = 1,
        .pause_ns_max = MS_NS,
        .end_one_in = 1 + (unsigned)rng_below(&rng, 20),
        .end_at = END_AT_READ};
    run_lives(8, rng_one_in(&rng, 2));
}

/* S14: a large write was answered, slow disks have its row. */
static void round_large(uint64_t seed)
{
    static const struct shard_code codes[] = {{1, 1}, {2, 1}, {2, 2}, {4, 2}};
    struct rng rng = rng_fork(seed, "shape");
    struct shard_code code = codes[rng_below(&rng, ARRAY_SIZE(codes))];
    world_init(seed, code, code.k + code.m + 1 + (unsigned)rng_below(&rng, 2), 1);
    struct world *w = &world;
    w->bypass_bytes_min = 16 * 1024;
    set_latency(w, rng_between(&rng, 1, 10) * MS_NS, MS_NS);
    w->load = (struct load){.clients = 1 + (unsigned)rng_below(&rng, 3),
        .write_percent = 90,
        .trim_percent = 2,
        .flush_percent = rng_one_in(&rng, 2) ? 0 : 5,
        .blocks = BLOCKS,
        .blocks_max = WRITE_BLOCKS_MAX,
        .pause_ns_max = rng_below(&rng, 3 * MS_NS) + 1,
        .end_one_in = 1 + (unsigned)rng_below(&rng, 20),
        .end_at = END_AT_WRITE};
    run_lives(6, rng_one_in(&rng, 2));
}

/* S1: logs are let go all the time, since rows with what is in them are committed. */
static void round_release(uint64_t seed)
{
    struct rng rng = rng_fork(seed, "shape");
    world_init(seed, (struct shard_code){1, 1}, 3 + (unsigned)rng_below(&rng, 3), 1);
    struct world *w = &world;
    w->log_bytes = 4 << 20;
    w->row_blocks = 248;
    w->life_ns = 2 * SECOND_NS;
    set_latency(w, rng_between(&rng, 1, 5) * MS_NS, MS_NS);
    w->load = (struct load){.clients = 4,
        .write_percent = 95,
        .blocks = BLOCKS,
        .blocks_max = WRITE_BLOCKS_MAX,
        .end_one_in = 4 + (unsigned)rng_below(&rng, 30),
        .end_at = END_AT_TABLE};
    run_lives(12, rng_one_in(&rng, 2));
}

/* --- A disk that is away for a moment ---------------------------------------------------------- */

static void one_link_cut(void *arg)
{
    struct world *w = arg;
    start(w);
    w->failing = (unsigned)rng_below(&w->rng, w->disk_count);
    spawn_clients(w);
    env_sleep_ns(rng_between(&w->rng, 20, 100) * MS_NS);
    link_disk_cut(w->links[w->failing], true);
    env_sleep_ns(rng_between(&w->rng, 100, 500) * MS_NS);
    link_disk_cut(w->links[w->failing], false);
    volume_disk_changed(w->vols[0].volume);
    env_sleep_ns(rng_between(&w->rng, 20, 100) * MS_NS);
    stop_clients(w);
    wait_until_whole(w);
}

/* S23: a shard that missed a row is not one of those that have it, though its disk is there again: any other may be lost
 * once all is well again. */
static void round_missed_row(uint64_t seed)
{
    static const struct shard_code codes[] = {{1, 1}, {2, 1}};
    struct rng rng = rng_fork(seed, "shape");
    struct shard_code code = codes[rng_below(&rng, ARRAY_SIZE(codes))];
    world_init(seed, code, code.k + code.m + 2, 1);
    struct world *w = &world;
    w->bypass_bytes_min = 16 * 1024;
    w->linked = true;
    w->settled = true;
    w->load = (struct load){.clients = 2,
        .write_percent = 90,
        .blocks = BLOCKS,
        .blocks_max = WRITE_BLOCKS_MAX,
        .pause_ns_max = 10 * MS_NS};
    must("cut", one_link_cut);
    end_life(w, false, 0);
    w->linked = false;
    if (w->whole) {
        w->other =
            (w->failing + 1 + (unsigned)rng_below(&w->rng, w->disk_count - 1)) % w->disk_count;
        sim_disk_remove(w->sim_disks[w->other]);
    }
    must("verify", start);
    world_fini();
}

/* --- Partial writes ---------------------------------------------------------------------------- */

struct sector_writer {
    struct world *world;
    uint64_t off_bytes;
    unsigned writes;
};

/* Nobody else writes its sector: it is as this one has left it. */
static void sector_writer_main(void *arg)
{
    struct sector_writer s = *(struct sector_writer *)arg;
    struct volume *volume = s.world->vols[0].volume;
    uint64_t buf[512 / sizeof(uint64_t)], found[512 / sizeof(uint64_t)];
    mem_free(arg);
    for (unsigned i = 1; i <= s.writes; i++) {
        for (unsigned n = 0; n < ARRAY_SIZE(buf); n++)
            buf[n] = s.off_bytes + i;
        int r = volume_write(volume, s.off_bytes, 512, buf, 0, (struct request_id){0});
        CHECK_MSG(r == 0, "write: %s", strerror(-r));
        env_sleep_ns(env_random_u64() % (10 * MS_NS));
        r = volume_read(volume, s.off_bytes, 512, found);
        CHECK_MSG(r == 0, "read: %s", strerror(-r));
        CHECK_MSG(memcmp(buf, found, 512) == 0,
            "sector at %llu: %llu was found after %llu was written",
            (unsigned long long)s.off_bytes, (unsigned long long)found[0],
            (unsigned long long)buf[0]);
    }
    s.world->clients--;
}

static void write_sectors(void *arg)
{
    struct world *w = arg;
    start(w);
    unsigned blocks = 1 + (unsigned)rng_below(&w->rng, 3);
    for (unsigned i = 0; i < blocks * SECTORS; i++) {
        struct sector_writer *s = NEW(struct sector_writer);
        *s = (struct sector_writer){.world = w,
            .off_bytes = (uint64_t)i * 512,
            .writes = 10 + (unsigned)rng_below(&w->rng, 30)};
        w->clients++;
        fiber_spawn("sector writer", sector_writer_main, s);
    }
    /* Blocks that are read from disks take a while. */
    for (; w->clients > 0; env_sleep_ns(rng_below(&w->rng, 5 * MS_NS)))
        CHECK(volume_destage(w->vols[0].volume) == 0);
}

/* I3: writes to the sectors of one block at once. */
static void round_sectors(uint64_t seed)
{
    world_init(seed, (struct shard_code){1, 1}, 3, 1);
    world.settled = true;
    set_latency(&world, 100000, 200000);
    must("write sectors", write_sectors);
    world_fini();
}

static void round_of(uint64_t seed)
{
    static sim_round_fn *const rounds[] = {round_flush, round_roll, round_join, round_failed_flush,
        round_read, round_large, round_release, round_sectors, round_missed_row};
    rounds[seed % ARRAY_SIZE(rounds)](seed);
}

int main(int argc, char **argv)
{
    log_set_level(getenv("SIM_LOG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
    return sim_check_main(argc, argv, &(struct sim_check){.round = round_of, .rounds = 40});
}
