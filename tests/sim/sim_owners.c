/* SPDX-License-Identifier: Apache-2.0
 *
 * One volume and two hosts that take it from one another, over slow links to the same disks which get
 * cut, lose answers and deliver late; disks fail and come back, others are lost; now and then the process or the
 * power goes. Clients write, read, trim and flush through whoever has the volume, and through the one who
 * still thinks so. What they see is judged by history.h.
 *
 * Not more than m copies are missing at any time: a disk that failed, or was away while something was
 * written, counts as missing until repair has said that everything is whole.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/disk/local_disk.h"
#include "blockd/volume/map.h"
#include "blockd/volume/volume.h"
#include "common/log.h"
#include "common/mem.h"
#include "tests/sim/formatted_disk.h"
#include "tests/sim/history.h"
#include "tests/sim/link_disk.h"
#include "tests/sim/sim_check.h"

enum {
    DISKS_MAX = 8,
    HOSTS = 2,
    BLOCKS = 384,
    WRITE_BLOCKS_MAX = 40,
    DISK_BYTES = 64 << 20, /* the smallest */
};
#define MS_NS 1000000ull

struct host {
    struct volume_host host;
    char name[8];
    struct memory_budget budget;
    struct disk_list disks;
    struct link_disk *links[DISKS_MAX];
    struct volume *volume; /* NULL: it has not got it */
    uint64_t lease_until_ns, session;
    unsigned users;
};

static struct world {
    struct rng rng;
    struct sim *sim;
    struct env *node;
    struct store_mem *store;
    struct history *history;
    struct shard_code code;
    unsigned disk_count;
    bool bad[DISKS_MAX]; /* may lack something */
    uint64_t volume_id;
    bool made, settled;
    bool power_lost;                            /* the running process ended by it */
    unsigned old_host_percent, old_host_writes; /* reads by any host; writes so many times less */
    bool hold_writes;    /* none during a takeover: the earlier owner does not notice it so soon */
    unsigned hot_blocks; /* half of all I/O */
    unsigned
        end_one_in;   /* after an answer to a client the end comes at once, so often; 0 = never */
    bool short_lives; /* many processes, each ends soon, nothing else goes wrong */
    enum sim_cut_mode cut_mode;
    uint64_t flush_after_ns;
    uint64_t delay_ns_max;
    unsigned write_percent, flush_percent, large_percent;
    uint64_t shuffle_percent; /* of events that are a takeover */
    /* of the running process */
    struct disk *real[DISKS_MAX];
    struct host hosts[HOSTS];
    unsigned current;
    bool taking;
    bool stop;
    bool hooked; /* it may end at any moment */
    bool quiet;  /* nothing has gone wrong in this process: it leaves nothing behind */
    unsigned clients;
} world;

static const struct uuid cluster = {.bytes = {1, 2, 3}};

static const char *disk_path(unsigned i, char *buf)
{
    sprintf(buf, "/disk%u", i);
    return buf;
}

static unsigned bad_count(const struct world *w)
{
    unsigned n = 0;
    for (unsigned i = 0; i < w->disk_count; i++)
        n += w->bad[i];
    return n;
}

/* --- Start ------------------------------------------------------------------------------------- */

static void tell(struct world *w)
{
    for (unsigned h = 0; h < HOSTS; h++) {
        if (w->hosts[h].volume)
            volume_disk_changed(w->hosts[h].volume);
    }
}

static void disk_failed(void *ctx, struct disk *disk, int error)
{
    struct world *w = ctx;
    for (unsigned h = 0; h < HOSTS; h++) {
        if (w->hosts[h].links[disk->number - 1])
            link_disk_base(w->hosts[h].links[disk->number - 1])->state = DISK_FAILED;
    }
    tell(w);
}

static void disk_damaged(void *ctx, struct disk *disk, struct shard_key key, uint32_t block)
{
    struct world *w = ctx;
    if (w->hosts[w->current].volume)
        volume_shard_damaged(w->hosts[w->current].volume, key, disk->number, block);
}

static void open_disks(struct world *w)
{
    for (unsigned i = 0; i < w->disk_count; i++) {
        char path[32], *error = NULL;
        struct local_disk_options options = {.trailer_cache_bytes = 64 * 1024,
            .verify_appends = true,
            .failed = disk_failed,
            .damaged = disk_damaged,
            .ctx = w};
        w->real[i] = NULL;
        int r = local_disk_open(disk_path(i, path), cluster, &options, &w->real[i], &error);
        CHECK_MSG(r == 0 || w->bad[i], "open %s: %s", path, error);
        mem_free(error);
        if (w->real[i])
            w->real[i]->number = i + 1;
    }
}

static uint64_t lease_id(void *ctx)
{
    return ((struct host *)ctx)->session;
}

static uint64_t lease_until(void *ctx)
{
    return ((struct host *)ctx)->lease_until_ns;
}

static void start_host(struct world *w, unsigned number)
{
    struct host *host = &w->hosts[number];
    memset(host, 0, sizeof(*host));
    sprintf(host->name, "host%u", number);
    disk_list_init(&host->disks);
    for (unsigned i = 0; i < w->disk_count; i++) {
        if (!w->real[i])
            continue;
        host->links[i] = link_disk_new(w->real[i], &w->rng, w->delay_ns_max);
        disk_list_add(&host->disks, link_disk_base(host->links[i]));
    }
    memory_budget_init(&host->budget, MEMORY_BLOCKS_MIN, MEMORY_IO_MIN);
    host->session = env_random_u64() | 1;
    host->host = (struct volume_host){.store = store_mem_open(w->store),
        .cluster = cluster,
        .node_name = host->name,
        .lease = {.id = lease_id, .valid_until_ns = lease_until, .ctx = host},
        .disks = &host->disks,
        .budget = &host->budget,
        .row_blocks_max = 16,
        .log_bytes_max = 1 << 20,
        .map_cache = map_cache_new(64 * 1024),
        .delta_bytes_max = 8192,
        .bypass_bytes_min = 16 * 1024,
        .flush_after_ns = w->flush_after_ns};
}

static void make_volume(struct world *w)
{
    struct pool pool = {
        .name = "pool", .code = w->code, .shards_min = w->code.k + 1u, .log_copies_min = 2};
    CLEANUP_FREE char *text = pool_encode(&pool, NULL);
    char key[KEY_BYTES_MAX], *error = NULL;
    struct store *store = w->hosts[0].host.store;
    struct store_op op = {
        .type = STORE_PUT, .key = key_pool("pool", key), .data = text, .len_bytes = strlen(text)};
    CHECK(store_txn(store, NULL, 0, &op, 1, NULL) == 0);
    int r = volume_create(
        &w->hosts[0].host, "vol", (uint64_t)BLOCKS * BLOCK_BYTES, "pool", &w->volume_id, &error);
    CHECK_MSG(r == 0, "create: %s", error);
    w->made = true;
}

/* The lease of the one who has it ends before another takes it: sessions are the store's affair. */
static void take(struct world *w, unsigned number)
{
    struct host *host = &w->hosts[number];
    CHECK(!host->volume);
    w->taking = true;
    w->hosts[w->current].lease_until_ns = 0;
    for (unsigned tries = 0; !host->volume; tries++) {
        char *error = NULL;
        host->lease_until_ns = UINT64_MAX;
        int r = volume_open(&host->host, w->volume_id, &host->volume, &error);
        if (r < 0) {
            host->volume = NULL;
            CHECK_MSG(tries < 400, "volume_open: %s", error);
            env_sleep_ns(20 * MS_NS);
        }
        mem_free(error);
    }
    w->current = number;
    w->taking = false;
}

static void heal_all(struct world *w)
{
    for (unsigned h = 0; h < HOSTS; h++) {
        for (unsigned i = 0; i < w->disk_count; i++) {
            struct link_disk *link = w->hosts[h].links[i];
            if (!link)
                continue;
            link_disk_cut(link, false);
            link_disk_lose_answers(link, 0);
            if (link_disk_base(link)->state == DISK_MISSING)
                link_disk_base(link)->state = DISK_IN;
        }
    }
    tell(w);
}

/* --- Clients ----------------------------------------------------------------------------------- */

/* The moment at which a promise counts. */
static void maybe_end(struct world *w, struct rng *rng, bool power)
{
    if (w->end_one_in == 0 || !rng_one_in(rng, w->end_one_in) || !w->hooked)
        return;
    w->power_lost = power;
    if (power)
        sim_node_power_cut(w->node, w->cut_mode);
    else
        sim_node_crash(w->node);
}

static bool may_be(int r)
{
    return r == 0 || r == -ESHUTDOWN || r == -ENOSPC;
}

static uint32_t first_block(struct world *w, struct rng *rng, uint32_t count)
{
    uint32_t span = rng_one_in(rng, 2) ? BLOCKS : MAX(w->hot_blocks, count);
    return (uint32_t)rng_below(rng, span - count + 1);
}

static void client_write(struct world *w, struct host *host, struct rng *rng, void *buf)
{
    bool large = rng_below(rng, 100) < w->large_percent;
    uint32_t count = 1 + (uint32_t)rng_below(rng, large ? WRITE_BLOCKS_MAX : 6);
    uint32_t first = first_block(w, rng, count);
    bool zero = rng_one_in(rng, 7), fua = rng_one_in(rng, 12);
    uint64_t off = (uint64_t)first * BLOCK_BYTES, len = (uint64_t)count * BLOCK_BYTES;
    uint64_t number = history_write(w->history, first, count, zero ? NULL : buf, fua);
    unsigned flags = fua ? VOLUME_FUA : 0;
    int r = zero ? volume_trim(host->volume, off, len, flags, (struct request_id){0})
                 : volume_write(host->volume, off, len, buf, flags, (struct request_id){0});
    CHECK_MSG(may_be(r), "write: %s", strerror(-r));
    if (r == 0) {
        history_written(w->history, number);
        maybe_end(w, rng, fua);
    } else if (r == -ENOSPC) {
        history_refused(w->history, number);
    }
}

static void client_read(struct world *w, struct host *host, struct rng *rng, void *buf)
{
    uint32_t count = 1 + (uint32_t)rng_below(rng, WRITE_BLOCKS_MAX);
    uint32_t first = first_block(w, rng, count);
    uint64_t since = history_now(w->history);
    int r = volume_read(
        host->volume, (uint64_t)first * BLOCK_BYTES, (uint64_t)count * BLOCK_BYTES, buf);
    CHECK_MSG(may_be(r) || (r == -EIO && host != &w->hosts[w->current]), "read: %s", strerror(-r));
    if (r == 0)
        history_read(w->history, since, first, count, buf);
}

static void client_flush(struct world *w, struct host *host, struct rng *rng)
{
    uint64_t since = history_now(w->history);
    int r = volume_flush(host->volume);
    CHECK_MSG(may_be(r), "flush: %s", strerror(-r));
    if (r == 0) {
        history_flushed(w->history, since);
        maybe_end(w, rng, true);
    }
}

/* Mostly who has it; sometimes who had, and need not know yet that it has it no more. */
static struct host *choose_host(struct world *w, struct rng *rng, unsigned percent)
{
    unsigned number = rng_below(rng, 100) < percent ? (unsigned)rng_below(rng, HOSTS) : w->current;
    struct host *host = &w->hosts[number];
    return host->volume && !volume_halted(host->volume) ? host : NULL;
}

static void client_main(void *arg)
{
    struct world *w = arg;
    struct rng rng;
    rng_init(&rng, rng_u64(&w->rng));
    void *buf = mem_alloc_pages(WRITE_BLOCKS_MAX * BLOCK_BYTES);
    while (!w->stop) {
        unsigned what = (unsigned)rng_below(&rng, 100);
        bool reads = what >= w->write_percent + w->flush_percent;
        struct host *host = choose_host(
            w, &rng, reads ? w->old_host_percent : w->old_host_percent / w->old_host_writes);
        if (!host || (!reads && w->taking && w->hold_writes)) {
            env_sleep_ns(host ? MS_NS : 5 * MS_NS);
            continue;
        }
        host->users++;
        if (what < w->write_percent)
            client_write(w, host, &rng, buf);
        else if (what < w->write_percent + w->flush_percent)
            client_flush(w, host, &rng);
        else
            client_read(w, host, &rng, buf);
        host->users--;
        if (rng_one_in(&rng, 3))
            env_sleep_ns(rng_below(&rng, 3 * MS_NS));
    }
    mem_free_pages(buf, WRITE_BLOCKS_MAX * BLOCK_BYTES);
    w->clients--;
}

/* --- Events ------------------------------------------------------------------------------------ */

/* Whoever has been deposed notices when it writes, or is told; then it is closed. */
static void close_others(struct world *w)
{
    for (unsigned h = 0; h < HOSTS; h++) {
        struct host *host = &w->hosts[h];
        if (h == w->current || !host->volume || host->users > 0)
            continue;
        struct volume *volume = host->volume;
        host->volume = NULL;
        (void)volume_close(volume);
    }
}

static void event_take(struct world *w)
{
    unsigned next = (w->current + 1) % HOSTS;
    if (w->hosts[next].volume)
        close_others(w);
    if (!w->hosts[next].volume)
        take(w, next);
}

/* A link of one host to one disk goes and comes back. What the host wrote meanwhile is elsewhere. */
static void event_cut(struct world *w)
{
    unsigned i = (unsigned)rng_below(&w->rng, w->disk_count);
    struct link_disk *link = w->hosts[rng_below(&w->rng, HOSTS)].links[i];
    if (!link || link_disk_base(link)->state != DISK_IN ||
        (!w->bad[i] && bad_count(w) >= w->code.m))
        return;
    w->bad[i] = true;
    link_disk_cut(link, true);
    uint64_t away_ns = rng_between(&w->rng, 20, 400) * MS_NS;
    if (rng_one_in(&w->rng, 2)) {
        link_disk_base(link)->state = DISK_MISSING;
        tell(w);
    }
    env_sleep_ns(away_ns);
    link_disk_cut(link, false);
    if (link_disk_base(link)->state == DISK_MISSING)
        link_disk_base(link)->state = DISK_IN;
    tell(w);
}

/* One write or flush of a disk fails: the disk is retired (D2) until the next process. */
static void event_fail(struct world *w)
{
    char path[32];
    unsigned i = (unsigned)rng_below(&w->rng, w->disk_count);
    struct sim_disk *disk = sim_disk_find(w->node, disk_path(i, path));
    if (!disk || w->bad[i] || bad_count(w) >= w->code.m)
        return;
    w->bad[i] = true;
    sim_disk_fault(
        disk, &(struct sim_fault){.ops = rng_one_in(&w->rng, 2) ? SIM_OP_SYNC : SIM_OP_WRITE,
                  .kind = SIM_FAULT_ERROR,
                  .times = 1});
}

/* Answers of one disk get lost for a while: the operation was done, and is not known to be. */
static void event_lose(struct world *w)
{
    unsigned i = (unsigned)rng_below(&w->rng, w->disk_count);
    struct link_disk *link = w->hosts[w->current].links[i];
    if (!link || (!w->bad[i] && bad_count(w) >= w->code.m))
        return;
    w->bad[i] = true;
    link_disk_lose_answers(link, 100000);
    env_sleep_ns(rng_below(&w->rng, 100) * MS_NS);
    link_disk_lose_answers(link, 0);
}

static void clear_faults(struct world *w)
{
    for (unsigned i = 0; i < w->disk_count; i++) {
        char path[32];
        struct sim_disk *disk = sim_disk_find(w->node, disk_path(i, path));
        if (disk)
            sim_disk_clear_faults(disk);
    }
}

/* When everything is whole again, whatever came back counts as empty. */
static void event_repair(struct world *w)
{
    heal_all(w);
    clear_faults(w);
    struct volume *volume = w->hosts[w->current].volume;
    struct volume_info info;
    if (volume_halted(volume) || volume_destage(volume) < 0 || volume_repair_wait(volume) < 0)
        return;
    volume_get_info(volume, &info);
    if (strcmp(info.health, "ok") != 0)
        return;
    for (unsigned i = 0; i < w->disk_count; i++)
        w->bad[i] = w->bad[i] && (!w->real[i] || w->real[i]->state != DISK_IN);
}

static void one_event(struct world *w)
{
    w->quiet = false;
    env_sleep_ns(rng_below(&w->rng, 60) * MS_NS);
    unsigned what = (unsigned)rng_below(&w->rng, 100);
    if (what < w->shuffle_percent)
        event_take(w);
    else if (what < 50)
        event_cut(w);
    else if (what < 65)
        event_fail(w);
    else if (what < 80)
        event_lose(w);
    else
        event_repair(w);
    if (rng_one_in(&w->rng, 3))
        close_others(w);
}

/* --- A process --------------------------------------------------------------------------------- */

static void settle(struct world *w)
{
    uint8_t *buf = mem_alloc_pages(64 * BLOCK_BYTES);
    for (uint32_t at = 0; at < BLOCKS; at += 64) {
        int r = volume_read(
            w->hosts[w->current].volume, (uint64_t)at * BLOCK_BYTES, 64 * BLOCK_BYTES, buf);
        CHECK_MSG(r == 0, "read after recovery: %s", strerror(-r));
        history_found(w->history, at, 64, buf);
    }
    mem_free_pages(buf, 64 * BLOCK_BYTES);
    history_settled(w->history);
}

/* Shards that nothing needs after a clean close, beside the manifest. */
static void check_orphans(struct world *w)
{
    for (unsigned i = 0; i < w->disk_count; i++) {
        struct shard_info *list;
        unsigned count;
        if (!w->real[i] || shard_list(w->real[i], w->volume_id, &list, &count) < 0)
            continue;
        for (unsigned s = 0; s < count && !w->bad[i]; s++)
            CHECK_MSG(list[s].kind != SHARD_LOG || list[s].tombstone,
                "log %llx.%u is left on disk %u after a clean close",
                (unsigned long long)list[s].key.chunk, list[s].key.index, i + 1);
        mem_free(list);
    }
}

static void stop_clients(struct world *w)
{
    w->stop = true;
    heal_all(w);
    while (w->clients > 0)
        env_sleep_ns(MS_NS);
}

static bool links_idle(const struct world *w)
{
    for (unsigned h = 0; h < HOSTS; h++) {
        for (unsigned i = 0; i < w->disk_count; i++) {
            if (w->hosts[h].links[i] && !link_disk_idle(w->hosts[h].links[i]))
                return false;
        }
    }
    return true;
}

static void process_main(void *arg)
{
    struct world *w = arg;
    open_disks(w);
    for (unsigned h = 0; h < HOSTS; h++)
        start_host(w, h);
    if (!w->made)
        make_volume(w);
    take(w, (unsigned)rng_below(&w->rng, HOSTS));
    if (!w->settled)
        settle(w);
    w->settled = true;
    w->stop = false;
    w->quiet = bad_count(w) == 0;
    w->clients = 1 + (unsigned)rng_below(&w->rng, 4);
    for (unsigned i = 0; i < w->clients; i++)
        fiber_spawn("client", client_main, w);
    for (unsigned i = 0, n = w->short_lives ? 0 : (unsigned)rng_below(&w->rng, 12); i < n; i++)
        one_event(w);
    if (w->short_lives)
        env_sleep_ns(300 * MS_NS);
    stop_clients(w);
    close_others(w);
    while (!links_idle(w))
        env_sleep_ns(MS_NS);
    struct host *host = &w->hosts[w->current];
    (void)volume_repair_wait(host->volume);
    struct volume *volume = host->volume;
    host->volume = NULL;
    int r = volume_close(volume);
    CHECK_MSG(r == 0 || bad_count(w) > 0, "close: %s", strerror(-r));
    if (r == 0 && w->quiet)
        check_orphans(w);
}

/* --- Rounds ------------------------------------------------------------------------------------ */

struct plan {
    uint64_t at;
    bool power;
};

static void crash_hook(void *ctx, struct sim_io_point *point)
{
    const struct plan *plan = ctx;
    if (point->number < plan->at)
        return;
    point->when = SIM_POINT_BEFORE + (unsigned)(plan->at % 3);
    point->scope = plan->power ? SIM_SCOPE_MACHINE : SIM_SCOPE_NODE;
    point->mode = world.cut_mode;
}

static void run_process(struct world *w)
{
    struct plan plan = {.at = sim_io_count(w->sim) + rng_between(&w->rng, 20, 1500),
        .power = rng_one_in(&w->rng, 2)};
    bool made = w->made;
    if (made)
        sim_set_io_hook(w->sim, crash_hook, &plan);
    w->hooked = made;
    w->power_lost = plan.power;
    bool ended = sim_do(w->node, "process", process_main, w);
    sim_set_io_hook(w->sim, NULL, NULL);
    if (ended && w->power_lost)
        sim_node_power_cut(w->node, w->cut_mode);
    else if (ended)
        sim_node_crash(w->node);
    store_mem_env_crashed(w->store, w->node);
    history_crashed(w->history, w->power_lost);
    w->settled = false;
    clear_faults(w);
}

/* Between two processes disks vanish, others come back as they were. */
static void change_disks(struct world *w, struct sim_disk **disks, bool *gone)
{
    unsigned i = (unsigned)rng_below(&w->rng, w->disk_count);
    if (gone[i] && rng_one_in(&w->rng, 2)) {
        sim_disk_return(disks[i]);
        gone[i] = false;
    } else if (!gone[i] && (w->bad[i] || bad_count(w) < w->code.m) && rng_one_in(&w->rng, 2)) {
        sim_disk_remove(disks[i]);
        gone[i] = w->bad[i] = true;
    }
}

static void round_of(uint64_t seed)
{
    static const struct shard_code codes[] = {{1, 1}, {1, 1}, {1, 2}, {2, 1}, {2, 2}, {4, 2}};
    struct sim_image *image = formatted_disk(DISK_BYTES, cluster);
    struct sim *sim = sim_new(&(struct sim_options){.seed = seed, .trace = sim_check_trace()});
    struct sim_disk *disks[DISKS_MAX];
    bool gone[DISKS_MAX] = {0};
    world = (struct world){.rng = rng_fork(seed, "world"), .sim = sim};
    struct world *w = &world;
    w->node = sim_node_new(sim, "node");
    w->store = store_mem_new();
    w->history = history_new("vol", BLOCKS);
    w->code = codes[rng_below(&w->rng, ARRAY_SIZE(codes))];
    w->disk_count = w->code.k + w->code.m + 1u + (unsigned)rng_below(&w->rng, 2);
    w->delay_ns_max = rng_one_in(&w->rng, 3) ? 0 : rng_between(&w->rng, 10000, 3 * MS_NS);
    w->write_percent = (unsigned)rng_between(&w->rng, 40, 85);
    w->flush_percent = (unsigned)rng_below(&w->rng, 15);
    w->large_percent = (unsigned)rng_below(&w->rng, 40);
    w->shuffle_percent = rng_below(&w->rng, 45);
    w->old_host_percent = (unsigned)rng_between(&w->rng, 10, 90);
    w->old_host_writes = 1 + (unsigned)rng_below(&w->rng, 20);
    w->hold_writes = rng_one_in(&w->rng, 2);
    w->hot_blocks = 1 + (unsigned)rng_below(&w->rng, 64);
    w->end_one_in = rng_one_in(&w->rng, 2) ? (unsigned)rng_between(&w->rng, 5, 60) : 0;
    for (unsigned i = 0; i < w->disk_count; i++) {
        char path[32];
        disks[i] = sim_disk_new(w->node, disk_path(i, path), DISK_BYTES);
        sim_disk_restore(disks[i], image);
    }
    w->cut_mode = rng_one_in(&w->rng, 2) ? SIM_CUT_RANDOM : SIM_CUT_LOSE_ALL;
    w->short_lives = rng_one_in(&w->rng, 3);
    if (w->short_lives) {
        w->end_one_in = 2 + (unsigned)rng_below(&w->rng, 6);
        w->flush_percent = 5 + (unsigned)rng_below(&w->rng, 20);
        w->delay_ns_max /= 10;
    }
    /* An owner that is deposed and does not notice it, asked for what the next one has written. */
    w->flush_after_ns = 100 * MS_NS;
    if (!w->short_lives && rng_one_in(&w->rng, 3)) {
        w->hold_writes = true;
        w->old_host_percent = 80;
        w->old_host_writes = 100;
        w->shuffle_percent = 60;
        w->hot_blocks = 1 + (unsigned)rng_below(&w->rng, 4);
        w->flush_after_ns = 5000 * MS_NS;
        w->flush_percent = 1;
    }
    unsigned lives = (w->short_lives ? 3 : 1) * (4 + (unsigned)rng_below(&w->rng, 8));
    for (unsigned i = 0; i < lives; i++) {
        run_process(w);
        change_disks(w, disks, gone);
    }
    history_free(w->history);
    sim_free(sim);
    store_mem_free(w->store);
}

int main(int argc, char **argv)
{
    log_set_level(getenv("SIM_LOG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
    return sim_check_main(argc, argv, &(struct sim_check){.round = round_of, .rounds = 16});
}
