/* SPDX-License-Identifier: Apache-2.0
 *
 * See data_path_world.h.
 */
#include "tests/sim/data_path_world.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/disk/local_disk.h"
#include "blockd/volume/map.h"
#include "common/mem.h"
#include "tests/sim/formatted_disk.h"

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
    disk_list_init(&w->disks);
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
            link_disk_base(w->links[i])->local = false; /* away is not lost (S14) */
            disk_list_add(&w->disks, link_disk_base(w->links[i]));
        } else {
            disk_list_add(&w->disks, w->real[i]);
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

/* Which blocks are lost is said block by block: what fails at once does so for any of them. */
static void settle_blocks(struct world *w, struct vol *vol, uint32_t from, uint32_t end, void *buf)
{
    for (uint32_t at = from; at < end; at++) {
        int r = volume_read(vol->volume, (uint64_t)at * BLOCK_BYTES, BLOCK_BYTES, buf);
        CHECK_MSG(r == 0 || (r == -EIO && w->beyond), "read after recovery: %s", strerror(-r));
        w->unreadable += r < 0;
        if (r < 0)
            history_unreadable(vol->history, at);
        else
            history_found(vol->history, at, 1, buf);
    }
}

static void settle(struct world *w, struct vol *vol)
{
    uint8_t *buf = mem_alloc_pages(64 * BLOCK_BYTES);
    for (uint32_t at = 0; at < BLOCKS; at += 64) {
        int r = volume_read(vol->volume, (uint64_t)at * BLOCK_BYTES, 64 * BLOCK_BYTES, buf);
        CHECK_MSG(r == 0 || (r == -EIO && w->beyond), "read after recovery: %s", strerror(-r));
        if (r == 0)
            history_found(vol->history, at, 64, buf);
        else
            settle_blocks(w, vol, at, at + 64, buf);
    }
    mem_free_pages(buf, 64 * BLOCK_BYTES);
    history_settled(vol->history);
}

/* Without its manifest or its log nobody knows what else there was; rows keep nothing closed (promise (e)). */
static bool keeps_closed(const char *error)
{
    return strstr(error, "copies of the manifest") || strstr(error, "copy of log");
}

static uint64_t lease_id(void *ctx)
{
    return ((struct world *)ctx)->session;
}

static uint64_t lease_until(void *ctx)
{
    return UINT64_MAX;
}

void world_start(void *arg)
{
    struct world *w = arg;
    w->session = env_random_u64() | 1;
    for (unsigned i = 0; i < VOLUMES_MAX; i++)
        w->vols[i].volume = NULL;
    open_disks(w);
    memory_budget_init(&w->budget, MEMORY_BLOCKS_MIN, MEMORY_IO_MIN);
    w->host = (struct volume_host){.store = store_mem_open(w->store),
        .cluster = cluster,
        .node_name = "node",
        .lease = {.id = lease_id, .valid_until_ns = lease_until, .ctx = w},
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
        CHECK_MSG(r == 0 || (w->beyond && keeps_closed(error)), "volume_open: %s", error);
        w->refused += r < 0;
        mem_free(error);
        if (r == 0 && !w->settled)
            settle(w, &w->vols[i]);
    }
    w->settled = true;
}

/* --- Clients ----------------------------------------------------------------------------------- */

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

void client_write(struct client *c, bool zero)
{
    const struct load *load = &c->world->load;
    uint32_t count = 1 + (uint32_t)rng_below(&c->rng, load->blocks_max);
    uint32_t first = (uint32_t)rng_below(&c->rng, load->blocks - count + 1);
    uint64_t off = (uint64_t)first * BLOCK_BYTES, len = (uint64_t)count * BLOCK_BYTES;
    bool fua = rng_below(&c->rng, 100) < load->fua_percent;
    uint64_t number = history_write(c->vol->history, first, count, zero ? NULL : c->buf, fua);
    struct request_id id = {0};
    unsigned flags = fua ? VOLUME_FUA : 0;
    int r = zero ? volume_trim(c->vol->volume, off, len, flags, id)
                 : volume_write(c->vol->volume, off, len, c->buf, flags, id);
    CHECK_MSG(r == 0, "write: %s", strerror(-r));
    history_written(c->vol->history, number);
    answered(c, fua ? END_AT_FLUSH | END_AT_WRITE : END_AT_WRITE);
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

void client_flush(struct client *c)
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

void world_spawn_clients(struct world *w)
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

void world_stop_clients(struct world *w)
{
    w->stop = true;
    while (w->clients > 0)
        env_sleep_ns(MS_NS);
}

/* --- Worlds ------------------------------------------------------------------------------------ */

void world_init(
    struct world *w, uint64_t seed, struct shard_code code, unsigned disks, unsigned volumes)
{
    struct sim_image *image = formatted_disk(DISK_BYTES, cluster);
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

void world_fini(struct world *w)
{
    for (unsigned i = 0; i < w->volume_count; i++)
        history_free(w->vols[i].history);
    sim_free(w->sim);
    store_mem_free(w->store);
}

void world_set_latency(struct world *w, uint64_t write_ns, uint64_t sync_ns)
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
void world_end_life(struct world *w, bool power, enum sim_cut_mode mode)
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

void world_must(struct world *w, const char *name, fiber_fn *fn)
{
    CHECK_MSG(sim_do(w->node, name, fn, w), "%s: the node went down", name);
}

static bool is_whole(struct world *w)
{
    for (unsigned i = 0; i < w->volume_count; i++) {
        struct volume_info info;
        volume_get_info(w->vols[i].volume, &info);
        if (strcmp(info.health, "ok") != 0)
            return false;
    }
    return true;
}

void world_wait_until_whole(struct world *w)
{
    for (unsigned tries = 0; tries < 20 && !is_whole(w); tries++) {
        env_sleep_ns(100 * MS_NS);
        for (unsigned i = 0; i < w->volume_count; i++)
            (void)volume_repair_wait(w->vols[i].volume);
    }
    w->whole = is_whole(w);
}

/* Until everything is: what the power took of rows before is missing, too, when disks are lost. */
static void watch(void *arg)
{
    struct world *w = arg;
    while (!(w->whole = is_whole(w)))
        env_sleep_ns(MS_NS / 10);
}

/* The next one once everything is whole again: no more than m copies are missing. */
static void cut_links(void *arg)
{
    struct world *w = arg;
    while (!w->stop) {
        struct link_disk *link = w->links[rng_below(&w->rng, w->disk_count)];
        env_sleep_ns(rng_below(&w->rng, 50) * MS_NS);
        link_disk_cut(link, true);
        env_sleep_ns(rng_between(&w->rng, 1, 400) * MS_NS);
        link_disk_cut(link, false);
        world_wait_until_whole(w);
    }
    w->clients--;
}

static void life(void *arg)
{
    struct world *w = arg;
    world_start(w);
    if (w->last && w->load.end_by_power)
        fiber_spawn("watch", watch, w);
    world_spawn_clients(w);
    if (w->load.cut_links) {
        w->clients++;
        fiber_spawn("cut links", cut_links, w);
    }
    env_sleep_ns(w->life_ns);
    world_stop_clients(w);
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
void world_run_lives(struct world *w, unsigned lives, bool lose)
{
    w->settled = true; /* zeroes */
    world_must(w, "make", world_start);
    world_end_life(w, w->load.end_by_power, SIM_CUT_LOSE_ALL);
    for (unsigned i = 0; i < lives; i++) {
        w->last = i + 1 == lives;
        w->whole = false;
        if (w->load.end_at == END_AT_TABLE)
            sim_set_io_hook(w->sim, table_hook, w);
        sim_do(w->node, "life", life, w);
        sim_set_io_hook(w->sim, NULL, NULL);
        world_end_life(w, w->load.end_by_power, w->load.cut_mode);
    }
    w->beyond = lose && w->load.end_by_power && !w->whole;
    if (lose)
        lose_disks(w);
    world_must(w, "verify", world_start);
    world_fini(w);
}
