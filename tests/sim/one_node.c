/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/one_node.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "blockd/disk/local_disk.h"
#include "blockd/volume/map.h"
#include "common/mem.h"
#include "tests/sim/formatted_disk.h"

#define DISK_BYTES (64u << 20) /* the smallest */
#define LINK_DELAY_NS_MAX 100000

static const struct uuid cluster = {.bytes = {1, 2, 3}};

static const char *disk_path(unsigned number, char *buf)
{
    sprintf(buf, "/disk%u", number);
    return buf;
}

/* --- The round --------------------------------------------------------------------------------- */

void one_node_init(struct one_node *n, uint64_t seed, struct shard_code code, unsigned disk_count)
{
    CHECK(disk_count <= ONE_NODE_DISKS_MAX);
    struct sim_image *image = formatted_disk(DISK_BYTES, cluster);
    *n = (struct one_node){.rng = rng_fork(seed, "one node"),
        .row_blocks_max = 16,
        .bypass_bytes_min = 1 << 30,
        .code = code,
        .disk_count = disk_count};
    n->sim = sim_new(&(struct sim_options){.seed = seed, .trace = sim_check_trace()});
    n->env = sim_node_new(n->sim, "node");
    n->store = store_mem_new();
    n->history = history_new("vol", ONE_NODE_BLOCKS);
    history_crashed(n->history, false); /* the first one_node_verify finds it empty */
    for (unsigned i = 1; i <= disk_count; i++) {
        char path[32];
        sim_disk_restore(sim_disk_new(n->env, disk_path(i, path), DISK_BYTES), image);
    }
}

void one_node_fini(struct one_node *n)
{
    history_free(n->history);
    sim_free(n->sim);
    store_mem_free(n->store);
}

bool one_node_do(struct one_node *n, const char *name, fiber_fn *fn)
{
    return sim_do(n->env, name, fn, n);
}

void one_node_must(struct one_node *n, const char *name, fiber_fn *fn)
{
    CHECK_MSG(one_node_do(n, name, fn), "%s: the node went down", name);
}

static void ended(struct one_node *n, bool power_lost)
{
    n->volume = NULL;
    store_mem_env_crashed(n->store, n->env);
    history_crashed(n->history, power_lost);
}

void one_node_kill(struct one_node *n)
{
    if (sim_node_is_up(n->env))
        sim_node_crash(n->env);
    ended(n, false);
}

void one_node_power_cut(struct one_node *n, enum sim_cut_mode mode)
{
    sim_node_power_cut(n->env, mode);
    ended(n, mode != SIM_CUT_KEEP_ALL);
}

/* --- Disks ------------------------------------------------------------------------------------- */

struct sim_disk *one_node_sim_disk(const struct one_node *n, unsigned number)
{
    char path[32];
    return sim_disk_find(n->env, disk_path(number, path));
}

void one_node_pull(struct one_node *n, unsigned number)
{
    CHECK(!n->pulled[number]);
    n->pulled[number] = one_node_sim_disk(n, number);
    sim_disk_remove(n->pulled[number]);
}

void one_node_return(struct one_node *n, unsigned number)
{
    if (n->pulled[number])
        sim_disk_return(n->pulled[number]);
    n->pulled[number] = NULL;
}

static void disk_failed(void *ctx, struct disk *disk, int error)
{
    struct one_node *n = ctx;
    if (n->links[disk->number])
        link_disk_base(n->links[disk->number])->state = DISK_FAILED;
    if (n->volume)
        volume_disk_changed(n->volume);
}

static void disk_damaged(void *ctx, struct disk *disk, struct shard_key key, uint32_t block)
{
    struct one_node *n = ctx;
    if (n->volume)
        volume_shard_damaged(n->volume, key, disk->number, block);
}

void one_node_add_disk(struct one_node *n, unsigned number)
{
    char path[32], *error = NULL;
    struct disk *disk;
    struct local_disk_options options = {.trailer_cache_bytes = 64 * 1024,
        .io_timeout_ns = n->io_timeout_ns,
        .failed = disk_failed,
        .damaged = disk_damaged,
        .ctx = n};
    int r = local_disk_open(disk_path(number, path), cluster, &options, &disk, &error);
    CHECK_MSG(r == 0, "open %s: %s", path, error);
    disk->number = number;
    if (n->linked) {
        n->links[number] = link_disk_new(disk, &n->rng, LINK_DELAY_NS_MAX);
        disk = link_disk_base(n->links[number]);
    }
    disk_list_add(&n->disks, disk);
    if (n->volume)
        volume_disk_changed(n->volume);
}

/* --- The process ------------------------------------------------------------------------------- */

static void make(struct one_node *n)
{
    char *error = NULL, key[KEY_BYTES_MAX];
    struct pool pool = {.name = "pool",
        .code = n->code,
        .shards_min = n->code.k + (n->code.m > 0),
        .log_copies_min = n->code.m ? 2 : 1,
        .domain = n->domain};
    CLEANUP_FREE char *text = pool_encode(&pool, NULL);
    struct store_op op = {
        .type = STORE_PUT, .key = key_pool("pool", key), .data = text, .len_bytes = strlen(text)};
    CHECK(store_txn(n->host.store, NULL, 0, &op, 1, NULL) == 0);
    int r = volume_create(
        &n->host, "vol", ONE_NODE_BLOCKS * BLOCK_BYTES, "pool", &n->volume_id, &error);
    CHECK_MSG(r == 0, "create: %s", error);
    n->made = true;
}

void one_node_start(struct one_node *n)
{
    n->volume = NULL;
    disk_list_init(&n->disks);
    memset(n->links, 0, sizeof(n->links));
    for (unsigned i = 1; i <= n->disk_count; i++) {
        if (one_node_sim_disk(n, i))
            one_node_add_disk(n, i);
    }
    memory_budget_init(&n->budget, MEMORY_BLOCKS_MIN, MEMORY_IO_MIN);
    n->host = (struct volume_host){.store = store_mem_open(n->store),
        .cluster = cluster,
        .node_name = "node",
        .session = env_random_u64(),
        .disks = &n->disks,
        .budget = &n->budget,
        .row_blocks_max = n->row_blocks_max,
        .log_bytes_max = n->log_bytes_max,
        .repair_wait_ns = n->repair_wait_ns,
        .map_cache = map_cache_new(64 * 1024),
        .bypass_bytes_min = n->bypass_bytes_min};
    if (!n->made)
        make(n);
}

void one_node_open(struct one_node *n)
{
    char *error = NULL;
    one_node_start(n);
    int r = volume_open(&n->host, n->volume_id, &n->volume, &error);
    CHECK_MSG(r == 0, "open: %s", error);
}

void one_node_recover(void *node)
{
    one_node_open(node);
    one_node_verify(node);
}

/* --- Content ----------------------------------------------------------------------------------- */

void one_node_verify(struct one_node *n)
{
    enum { AT_ONCE = 64 };
    void *buf = mem_alloc_pages(AT_ONCE * BLOCK_BYTES);
    for (uint32_t b = 0; b < ONE_NODE_BLOCKS; b += AT_ONCE) {
        int r = volume_read(n->volume, (uint64_t)b * BLOCK_BYTES, AT_ONCE * BLOCK_BYTES, buf);
        CHECK_MSG(r == 0, "blocks %u to %u: %s", b, b + AT_ONCE - 1, strerror(-r));
        history_found(n->history, b, AT_ONCE, buf);
    }
    mem_free_pages(buf, AT_ONCE * BLOCK_BYTES);
    history_settled(n->history);
}

bool one_node_write(struct one_node *n, uint32_t first, uint32_t count)
{
    void *buf = mem_alloc_pages(count * BLOCK_BYTES);
    uint64_t number = history_write(n->history, first, count, buf, false);
    int r = volume_write(n->volume, (uint64_t)first * BLOCK_BYTES, count * BLOCK_BYTES, buf, 0,
        (struct request_id){0});
    CHECK_MSG(r == 0 || r == -ESHUTDOWN, "write: %s", strerror(-r));
    if (r == 0)
        history_written(n->history, number);
    mem_free_pages(buf, count * BLOCK_BYTES);
    return r == 0;
}

void one_node_write_some(struct one_node *n, unsigned writes, unsigned blocks_max)
{
    for (unsigned i = 0; i < writes; i++) {
        uint32_t count = 1 + (uint32_t)rng_below(&n->rng, blocks_max);
        one_node_write(n, (uint32_t)rng_below(&n->rng, ONE_NODE_BLOCKS - count), count);
    }
}

int one_node_flush(struct one_node *n)
{
    uint64_t since = history_now(n->history);
    int r = volume_flush(n->volume);
    if (r == 0)
        history_flushed(n->history, since);
    return r;
}

/* --- Shards ------------------------------------------------------------------------------------ */

void one_node_each_shard(struct one_node *n, one_node_shard_fn *fn)
{
    list_for_each (it, &n->disks.all) {
        struct disk *disk = list_entry(it, struct disk, link);
        struct shard_info *list;
        unsigned count;
        if (disk->state != DISK_IN)
            continue;
        CHECK(shard_list(disk, n->volume_id, &list, &count) == 0);
        for (unsigned i = 0; i < count; i++)
            fn(n, disk, &list[i]);
        mem_free(list);
    }
}
