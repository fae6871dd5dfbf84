/* SPDX-License-Identifier: Apache-2.0
 *
 * See faults_world.h.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/volume/map.h"
#include "common/mem.h"
#include "tests/sim/faults_world.h"

/* --- The node ---------------------------------------------------------------------------------- */

static const struct uuid cluster = {.bytes = {1, 2, 3}};

const char *world_disk_path(unsigned i, char *buf)
{
    sprintf(buf, "/disk%u", i);
    return buf;
}

static void disk_damaged(void *ctx, struct disk *disk, struct shard_key key, uint32_t block)
{
    struct world *w = ctx;
    w->damage_told++;
    for (unsigned i = 0; i < w->volume_count; i++) {
        if (w->vols[i].volume && w->vols[i].id == key.volume)
            volume_shard_damaged(w->vols[i].volume, key, disk->number, block);
    }
}

static void disk_failed(void *ctx, struct disk *disk, int error)
{
    struct world *w = ctx;
    for (unsigned i = 0; i < w->volume_count; i++) {
        if (w->vols[i].volume)
            volume_disk_changed(w->vols[i].volume);
    }
}

static void open_disk(struct world *w, unsigned i)
{
    char path[32], *error = NULL;
    if (!sim_disk_find(w->node, world_disk_path(i, path)))
        return;
    if (!w->formatted[i]) {
        struct uuid uuid;
        int r = local_disk_format(path, 0, cluster, cluster, "ssd", true, &uuid, &error);
        CHECK_MSG(r == 0, "format: %s", error);
        w->formatted[i] = true;
    }
    struct disk *disk;
    struct local_disk_options options = {
        .trailer_cache_bytes = 64 * 1024, .failed = disk_failed, .damaged = disk_damaged, .ctx = w};
    int r = local_disk_open(path, cluster, &options, &disk, &error);
    CHECK_MSG(r == 0, "open %s: %s", path, error);
    disk->number = i + 1;
    disk_list_add(&w->disks, disk);
}

static void make_volumes(struct world *w)
{
    struct pool pool = {.code = w->code,
        .shards_min = w->code.m ? w->code.k + 1u : w->code.k,
        .log_copies_min = w->code.m ? 2 : 1};
    strcpy(pool.name, "pool");
    CLEANUP_FREE char *text = pool_encode(&pool, NULL);
    char key[KEY_BYTES_MAX], *error = NULL;
    struct store_op op = {
        .type = STORE_PUT, .key = key_pool("pool", key), .data = text, .len_bytes = strlen(text)};
    CHECK(store_txn(w->host.store, NULL, 0, &op, 1, NULL) == 0);
    for (unsigned i = 0; i < w->volume_count; i++) {
        struct vol *vol = &w->vols[i];
        sprintf(vol->name, "vol%u", i);
        int r = volume_create(
            &w->host, vol->name, (uint64_t)vol->blocks * BLOCK, "pool", &vol->id, &error);
        CHECK_MSG(r == 0, "create: %s", error);
    }
    w->made = true;
}

void world_open_disks(struct world *w)
{
    disk_list_init(&w->disks);
    for (unsigned i = 0; i < VOLUMES_MAX; i++)
        w->vols[i].volume = NULL;
    for (unsigned i = 0; i < w->disk_count; i++)
        open_disk(w, i);
    memory_budget_init(&w->budget, MEMORY_BLOCKS_MIN, MEMORY_IO_MIN);
    w->host = (struct volume_host){.store = store_mem_open(w->store),
        .cluster = cluster,
        .node_name = "node",
        .session = env_random_u64(),
        .disks = &w->disks,
        .budget = &w->budget,
        .row_blocks_max = w->row_blocks,
        .log_bytes_max = w->log_bytes,
        .map_cache = map_cache_new(64 * 1024),
        .delta_bytes_max = 8192,
        .bypass_bytes_min = 16 * 1024,
        .flush_after_ns = 100000000};
}

void world_open(struct world *w)
{
    world_open_disks(w);
    if (!w->made)
        make_volumes(w);
    for (unsigned i = 0; i < w->volume_count; i++) {
        char *error = NULL;
        int r = volume_open(&w->host, w->vols[i].id, &w->vols[i].volume, &error);
        CHECK_MSG(r == 0, "volume_open: %s", error);
    }
}

void world_close_disks(struct world *w)
{
    list_for_each_safe (it, &w->disks.all) {
        struct disk *disk = list_entry(it, struct disk, link);
        disk_list_remove(&w->disks, disk);
        local_disk_close(disk);
    }
    memory_budget_fini(&w->budget);
    map_cache_free(w->host.map_cache);
    store_close(w->host.store);
}

void world_close_volumes(struct world *w)
{
    for (unsigned i = 0; i < w->volume_count; i++) {
        struct volume *volume = w->vols[i].volume;
        w->vols[i].volume = NULL;
        int r = volume ? volume_close(volume) : 0;
        CHECK_MSG(r == 0, "close: %s", strerror(-r));
    }
}

void world_close(struct world *w)
{
    world_close_volumes(w);
    world_close_disks(w);
}

/* --- Content ----------------------------------------------------------------------------------- */

static void fill(uint8_t *to, const struct vol *vol, unsigned block, uint32_t tag)
{
    uint64_t word = rng_mix(vol->id ^ (uint64_t)block << 32 ^ tag);
    for (unsigned i = 0; i < BLOCK / 8; i++) {
        uint64_t value = i == 0 ? (uint64_t)block << 32 | tag : word + i;
        memcpy(to + (size_t)i * 8, &value, 8);
    }
}

/* Version found, 0 = zeroes. */
static uint32_t tag_of(const uint8_t *from, const struct vol *vol, unsigned block)
{
    static uint8_t expected[BLOCK];
    uint64_t first;
    memcpy(&first, from, 8);
    if (first == 0)
        memset(expected, 0, BLOCK);
    else
        fill(expected, vol, block, (uint32_t)first);
    CHECK_MSG(memcmp(from, expected, BLOCK) == 0, "%s block %u: content that nobody wrote (%llx)",
        vol->name, block, (unsigned long long)first);
    return (uint32_t)first;
}

static void check_found(const struct vol *vol, unsigned block, uint32_t tag, bool exact)
{
    const struct version *v = &vol->versions[block];
    bool ok;
    if (tag == 0)
        ok = (v->known_is_zero && v->known >= v->acked) ||
             ((v->zero > v->void_to || v->zero == 0) && v->zero >= v->acked);
    else
        ok = (tag == v->known || tag > v->void_to) && tag >= v->acked && tag <= v->cur;
    if (exact && v->acked == v->cur)
        ok = ok && (tag == v->cur || (tag == 0 && v->zero == v->cur));
    CHECK_MSG(ok,
        "%s block %u: found version %u; issued %u, acknowledged %u, durable %u, known %u, zeroes "
        "%u, void to %u",
        vol->name, block, tag, v->cur, v->acked, v->durable, v->known, v->zero, v->void_to);
}

void world_read_check(struct vol *vol, unsigned first, unsigned count, bool settle)
{
    uint8_t *buf = mem_alloc_pages((size_t)count * BLOCK);
    int r = volume_read(vol->volume, (uint64_t)first * BLOCK, (uint64_t)count * BLOCK, buf);
    CHECK_MSG(r == 0, "%s: read of %u blocks at %u: %s", vol->name, count, first, strerror(-r));
    for (unsigned i = 0; i < count; i++) {
        struct version *v = &vol->versions[first + i];
        uint32_t tag = tag_of(buf + (size_t)i * BLOCK, vol, first + i);
        check_found(vol, first + i, tag, !settle);
        if (!settle)
            continue;
        v->known_is_zero = tag == 0;
        v->known = tag ? tag : v->zero > v->void_to ? v->zero : v->known;
        v->acked = v->known;
        v->void_to = vol->tag;
    }
    mem_free_pages(buf, (size_t)count * BLOCK);
}

/* Reads everything; what is found is what is there from now on. */
void world_verify(struct world *w)
{
    for (unsigned n = 0; n < w->volume_count; n++) {
        for (unsigned at = 0; at < w->vols[n].blocks; at += 64)
            world_read_check(&w->vols[n], at, MIN(64u, w->vols[n].blocks - at), true);
    }
}

/* The process ended: what is still promised. */
void world_ended(struct world *w, bool power)
{
    store_mem_env_crashed(w->store, w->node);
    for (unsigned n = 0; n < w->volume_count; n++) {
        for (unsigned b = 0; power && b < w->vols[n].blocks; b++)
            w->vols[n].versions[b].acked =
                MIN(w->vols[n].versions[b].acked, w->vols[n].versions[b].durable);
    }
}

int world_write(struct vol *vol, unsigned first, unsigned count, bool zero, unsigned flags)
{
    uint32_t tag = ++vol->tag;
    uint8_t *buf = mem_alloc_pages((size_t)count * BLOCK);
    for (unsigned i = 0; i < count; i++) {
        struct version *v = &vol->versions[first + i];
        v->cur = tag;
        if (zero)
            v->zero = tag;
        else
            fill(buf + (size_t)i * BLOCK, vol, first + i, tag);
    }
    uint64_t off = (uint64_t)first * BLOCK, len = (uint64_t)count * BLOCK;
    int r = zero ? volume_trim(vol->volume, off, len, flags, (struct request_id){0})
                 : volume_write(vol->volume, off, len, buf, flags, (struct request_id){0});
    mem_free_pages(buf, (size_t)count * BLOCK);
    for (unsigned i = 0; r == 0 && i < count; i++) {
        vol->versions[first + i].acked = tag;
        if (flags & VOLUME_FUA)
            vol->versions[first + i].durable = tag;
    }
    return r;
}

void world_flush(struct vol *vol)
{
    uint32_t *before = mem_alloc(vol->blocks * sizeof(*before));
    for (unsigned b = 0; b < vol->blocks; b++)
        before[b] = vol->versions[b].acked;
    int r = volume_flush(vol->volume);
    CHECK_MSG(r == 0, "flush: %s", strerror(-r));
    for (unsigned b = 0; b < vol->blocks; b++)
        vol->versions[b].durable = MAX(vol->versions[b].durable, before[b]);
    mem_free(before);
}

struct client {
    struct world *world;
    struct vol *vol;
    unsigned first, blocks;
    uint64_t seed;
};

static void client_main(void *arg)
{
    struct client c = *(struct client *)arg;
    mem_free(arg);
    struct world *w = c.world;
    struct rng rng;
    rng_init(&rng, c.seed);
    for (unsigned i = 0; i < w->ops; i++) {
        static const unsigned sizes[] = {1, 1, 1, 2, 5, 16, 33, 64};
        unsigned count = sizes[rng_below(&rng, ARRAY_SIZE(sizes))];
        unsigned first = c.first + (unsigned)rng_below(&rng, c.blocks - count + 1);
        unsigned what = (unsigned)rng_below(&rng, 100);
        int r = 0;
        if (what < 65)
            r = world_write(c.vol, first, count, false, rng_one_in(&rng, 20) ? VOLUME_FUA : 0);
        else if (what < 75)
            r = world_write(c.vol, first, count, true, 0);
        else if (what < 85)
            world_flush(c.vol);
        else if (what < 98)
            world_read_check(c.vol, first, count, false);
        else if (what < 99)
            r = volume_destage(c.vol->volume);
        else
            r = volume_clean(c.vol->volume);
        CHECK_MSG(r == 0 || r == -ENOSPC, "operation failed: %s", strerror(-r));
        w->enospc = w->enospc || r == -ENOSPC;
    }
    w->running--;
}

void world_run_clients(struct world *w, unsigned ops)
{
    w->ops = ops;
    for (unsigned n = 0; n < w->volume_count; n++) {
        for (unsigned i = 0; i < CLIENTS; i++) {
            struct client *c = NEW(struct client);
            unsigned part = w->vols[n].blocks / CLIENTS;
            *c = (struct client){.world = w,
                .vol = &w->vols[n],
                .first = i * part,
                .blocks = part,
                .seed = rng_u64(&w->rng)};
            w->running++;
            fiber_spawn("client", client_main, c);
        }
    }
    while (w->running > 0)
        env_sleep_ns(5000000);
}

/* --- Worlds ------------------------------------------------------------------------------------ */

void world_add_disk(struct world *w)
{
    char path[32];
    CHECK(w->disk_count < DISKS_MAX);
    sim_disk_new(w->node, world_disk_path(w->disk_count++, path), w->disk_bytes);
}

void world_init(struct world *w, uint64_t seed, struct shard_code code, unsigned disks,
    unsigned volumes, unsigned blocks)
{
    *w = (struct world){.rng = rng_fork(seed, "world"),
        .code = code,
        .disk_bytes = 96ull << 20,
        .row_blocks = 16,
        .log_bytes = 1 << 20,
        .volume_count = volumes};
    w->sim = sim_new(&(struct sim_options){.seed = seed, .trace = sim_check_trace()});
    w->node = sim_node_new(w->sim, "node");
    w->store = store_mem_new();
    for (unsigned i = 0; i < disks; i++)
        world_add_disk(w);
    for (unsigned i = 0; i < volumes; i++) {
        w->vols[i].blocks = blocks;
        w->vols[i].versions = calloc(blocks, sizeof(struct version));
    }
}

void world_fini(struct world *w)
{
    for (unsigned i = 0; i < w->volume_count; i++)
        free(w->vols[i].versions);
    sim_free(w->sim);
    store_mem_free(w->store);
}

void world_must(struct world *w, const char *name, fiber_fn *fn)
{
    CHECK_MSG(sim_do(w->node, name, fn, w), "%s: the node went down", name);
}

void world_end_process(struct world *w, bool power)
{
    if (power)
        sim_node_power_cut(w->node, SIM_CUT_RANDOM);
    else
        sim_node_crash(w->node);
    w->running = 0;
    world_ended(w, power);
}
