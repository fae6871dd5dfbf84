/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/cluster/cluster.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/disks.h"
#include "blockd/pools.h"
#include "common/mem.h"

/* With less, what a node that was away has to delete is a good part of its disk: -ENOSPC (E1). */
#define DISK_BYTES (512ull << 20)

struct cluster_totals *cluster_totals;

static uint64_t sim_clock(void)
{
    return sim_now_ns(sim_current());
}

/* --- Set-up ------------------------------------------------------------------------------------ */

static void make_machine(struct cluster *c, unsigned number)
{
    struct cluster_node *node = &c->nodes[number];
    *node = (struct cluster_node){
        .cluster = c, .number = number, .domain = c->rack_count ? number % c->rack_count : number};
    snprintf(node->name, sizeof(node->name), "n%u", number + 1);
    node->env = sim_node_new(c->sim, node->name);
    char path[64];
    for (unsigned d = 0; d < c->disks_per_node; d++) {
        snprintf(path, sizeof(path), "/dev/disk%u", d); /* a device: format writes no zeros */
        node->disks[d] = sim_disk_new(node->env, path, DISK_BYTES);
    }
    sim_disk_new(node->env, "/state/node", 4096);
    char *error = NULL;
    char text[1024];
    snprintf(text, sizeof(text),
        "[node]\nstate_dir = /state\nmemory = 128MiB\n[log]\nlevel = error\n[store]\ntype = etcd\n"
        "endpoints = http://etcd:2379\n[cluster]\naddress = tcp:%s:7100\nsession_ttl = %llums\n"
        "silence = %llums\nrack = r%u\n",
        sim_node_address(node->env), (unsigned long long)(c->session_ttl_ns / CLUSTER_MS),
        (unsigned long long)(c->session_ttl_ns / CLUSTER_MS / 3), node->domain);
    int r = node_config_parse(text, node->name, &node->config, &error);
    CHECK_MSG(r == 0, "%s", error);
    node->config.row_blocks = 16;
    node->config.log_limit_bytes = 1 << 20;
    node->config.delta_limit_bytes = 16384;
    node->config.bypass_min_bytes = 16 * 1024;
    node->config.map_cache_bytes = 64 * 1024;
    node->config.flush_after_ns = 300 * CLUSTER_MS;
    node->config.io_timeout_ns = CLUSTER_IO_TIMEOUT_S * CLUSTER_S;
    node->config.repair_wait_ns = (c->gives_up_soon ? 3 : 20) * CLUSTER_S;
    node->config.handoff_after_ns = 500 * CLUSTER_MS;
    node->config.scrub_interval_ns = 60 * CLUSTER_S;
}

/* One seed in four: the code's shards are in different racks, of one or two nodes each. */
static void draw_racks(struct cluster *c, unsigned shards)
{
    struct rng rng = rng_fork(c->seed, "racks");
    if (!rng_one_in(&rng, 4))
        return;
    c->pool.domain = DOMAIN_RACK;
    c->rack_count = MAX(3u, shards);
    c->node_count = c->rack_count + 1 + (unsigned)rng_below(&rng, 2);
}

/* One seed in two: who is away is given up while a fault still lasts. Then what was acknowledged and not flushed may be
 * lost where another machine has lost power (docs/adr/0007-recovery-waits.md), so none does alone. */
static void draw_repair_wait(struct cluster *c)
{
    struct rng rng = rng_fork(c->seed, "repair wait");
    c->gives_up_soon = rng_one_in(&rng, 2);
}

struct cluster *cluster_new(uint64_t seed, unsigned node_count)
{
    static const struct shard_code codes[] = {{1, 1}, {1, 2}, {2, 1}, {1, 1}, {2, 2}};
    struct cluster *c = calloc(1, sizeof(*c));
    CHECK(c);
    c->seed = seed;
    c->rng = rng_fork(seed, "cluster");
    c->sim = sim_new(
        &(struct sim_options){.seed = seed, .trace = sim_check_trace(), .fiber_count_max = 4096});
    c->store = store_mem_new();
    store_mem_set_clock(c->store, sim_clock);
    c->pool = (struct pool){.name = "pool",
        .code = codes[rng_below(&c->rng, ARRAY_SIZE(codes))],
        .domain = DOMAIN_NODE};
    unsigned shards = c->pool.code.k + c->pool.code.m;
    c->pool.shards_min = c->pool.code.k + 1u;
    c->pool.log_copies_min = 2;
    c->node_count = MAX(3u, shards + (unsigned)rng_below(&c->rng, 2));
    draw_racks(c, shards);
    draw_repair_wait(c);
    if (node_count)
        c->node_count = MAX(MIN(node_count, (unsigned)CLUSTER_NODES_MAX), shards);
    c->disks_per_node = 1 + (unsigned)rng_below(&c->rng, CLUSTER_DISKS_MAX);
    c->session_ttl_ns = 1000 * CLUSTER_MS;
    for (unsigned i = 0; i < c->node_count; i++)
        make_machine(c, i);
    c->volume_count = 1 + (unsigned)rng_below(&c->rng, CLUSTER_VOLUMES_MAX);
    for (unsigned i = 0; i < c->volume_count; i++) {
        struct cluster_volume *volume = &c->volumes[i];
        snprintf(volume->name, sizeof(volume->name), "vol%u", i);
        volume->history = history_new(volume->name, CLUSTER_BLOCKS);
    }
    c->client_count = 2 + (unsigned)rng_below(&c->rng, CLUSTER_CLIENTS_MAX - 1);
    c->write_percent = (unsigned)rng_between(&c->rng, 35, 70);
    c->flush_percent = (unsigned)rng_below(&c->rng, 12);
    c->trim_percent = (unsigned)rng_below(&c->rng, 10);
    c->large_percent = (unsigned)rng_below(&c->rng, 30);
    c->hot_blocks = 1 + (unsigned)rng_below(&c->rng, 48);
    c->resize_permille = rng_one_in(&c->rng, 2) ? (unsigned)rng_below(&c->rng, 15) : 0;
    c->think_ns_max = rng_between(&c->rng, 5, 120) * CLUSTER_MS;
    return c;
}

void cluster_free(struct cluster *c)
{
    cluster_totals->rounds++;
    cluster_totals->virtual_ns += sim_now_ns(c->sim);
    cluster_totals->requests += c->requests;
    cluster_totals->resends += c->resends;
    for (unsigned i = 0; i < c->volume_count; i++) {
        cluster_totals->reads += history_reads(c->volumes[i].history);
        cluster_totals->writes += history_writes(c->volumes[i].history);
        history_free(c->volumes[i].history);
    }
    sim_check_ends(c->sim);
    for (unsigned i = 0; i < c->node_count; i++)
        node_config_fini(&c->nodes[i].config);
    store_mem_free(c->store);
    free(c);
}

/* --- Processes --------------------------------------------------------------------------------- */

static void add_disks(struct cluster_node *node)
{
    for (unsigned d = 0; d < node->cluster->disks_per_node && !node->formatted; d++) {
        char path[24];
        struct uuid uuid;
        uint64_t size_bytes;
        struct disk_record record;
        CLEANUP_FREE char *error = NULL;
        snprintf(path, sizeof(path), "/dev/disk%u", d);
        int r = disks_format(node->node->disks, path, 0, "ssd", true, &uuid, &size_bytes, &error);
        if (r == 0)
            r = disks_add(node->node->disks, path, &record, &error);
        CHECK_MSG(r == 0, "%s %s: %s", node->name, path, error);
    }
    node->formatted = true;
}

/* As node_stop() does it for NBD and the administrator's calls: those that wait for disks or for the store have some time to
 * end, then they end anyway. */
static void wait_for_clients(struct cluster_node *cluster_node)
{
    struct node *node = cluster_node->node;
    uint64_t patient_until_ns = env_now_ns() + 3 * CLUSTER_S;
    bool begun = false;
    for (;;) {
        struct attach_stats stats;
        attach_get_stats(node->attach, &stats);
        if (stats.attachments == 0 && stats.attaching == 0 && cluster_node->resizes == 0)
            return;
        if (!begun && env_now_ns() >= patient_until_ns) {
            volumes_close_begin(node->volumes);
            begun = true;
        }
        env_sleep_ns(10 * CLUSTER_MS);
    }
}

static void process_main(void *arg)
{
    struct cluster_node *node = arg;
    struct node *started = NULL;
    for (;;) {
        CLEANUP_FREE char *error = NULL;
        struct node_options options = {
            .config = &node->config, .store = store_mem_open(node->cluster->store), .join = true};
        int r = node_start(&options, &started, &error);
        if (r == 0)
            break;
        /* The store may be away; a supervisor starts it again. */
        CHECK_MSG(r != -EBADMSG && r != -EEXIST && r != -EXDEV, "%s: %s", node->name, error);
        env_sleep_ns(100 * CLUSTER_MS);
    }
    node->node = started;
    add_disks(node);
    cluster_clients_node_up(node);
    while (!node->want_stop)
        env_sleep_ns(10 * CLUSTER_MS);
    cluster_clients_node_down(node);
    wait_for_clients(node);
    node->node = NULL;
    node_stop(started);
    node->want_stop = false;
    node->want_up = false;
}

void cluster_start_node(struct cluster_node *node)
{
    CHECK(!node->node);
    node->want_up = true;
    node->want_stop = false;
    node->resizes = 0; /* those of a process that was killed went with it */
    node->starts++;
    sim_node_start(node->env, "process", process_main, node);
}

void cluster_node_ended(struct cluster_node *node)
{
    cluster_clients_node_down(node);
    node->node = NULL;
    node->want_up = node->want_stop = false;
    store_mem_env_crashed(node->cluster->store, node->env);
}

void cluster_start_all(struct cluster *c)
{
    for (unsigned i = 0; i < c->node_count; i++) {
        if (!c->nodes[i].want_up)
            cluster_start_node(&c->nodes[i]);
    }
}

bool cluster_all_up(struct cluster *c)
{
    for (unsigned i = 0; i < c->node_count; i++) {
        if (!c->nodes[i].node || !c->nodes[i].formatted || c->nodes[i].want_stop)
            return false;
    }
    return true;
}

struct cluster_node *cluster_any_up(struct cluster *c)
{
    unsigned first = (unsigned)rng_below(&c->rng, c->node_count);
    for (unsigned i = 0; i < c->node_count; i++) {
        struct cluster_node *node = &c->nodes[(first + i) % c->node_count];
        if (node->node && !node->want_stop)
            return node;
    }
    return NULL;
}

/* --- Running ----------------------------------------------------------------------------------- */

struct until {
    struct cluster *cluster;
    bool (*so)(struct cluster *cluster);
};

static bool until_so(void *ctx)
{
    const struct until *until = ctx;
    return until->so(until->cluster);
}

void cluster_until(
    struct cluster *c, bool (*so)(struct cluster *cluster), unsigned seconds, const char *what)
{
    struct until until = {.cluster = c, .so = so};
    enum sim_result r = sim_run(c->sim, until_so, &until, sim_now_ns(c->sim) + seconds * CLUSTER_S);
    CHECK_MSG(r == SIM_UNTIL, "%s: not after %u s", what, seconds);
}

void cluster_run_for(struct cluster *c, uint64_t ns)
{
    uint64_t until_ns = sim_now_ns(c->sim) + ns;
    while (sim_now_ns(c->sim) < until_ns) {
        uint64_t step_ns = MIN(until_ns - sim_now_ns(c->sim), 50 * CLUSTER_MS);
        (void)sim_run_for(c->sim, step_ns);
        cluster_judge_owners(c);
        if (c->steps++ % 4 == 0)
            cluster_judge_shards(c);
    }
}

struct task {
    struct cluster_node *node;
    fiber_fn *fn;
    void *arg;
    bool done;
};

static void task_main(void *arg)
{
    struct task *task = arg;
    task->fn(task->arg);
    task->done = true;
}

static bool task_over(void *ctx)
{
    const struct task *task = ctx;
    return task->done || !sim_node_is_up(task->node->env);
}

bool cluster_do(
    struct cluster_node *node, unsigned seconds, const char *what, fiber_fn *fn, void *arg)
{
    struct task task = {.node = node, .fn = fn, .arg = arg};
    struct sim *sim = node->cluster->sim;
    sim_node_start(node->env, what, task_main, &task);
    enum sim_result r = sim_run(sim, task_over, &task, sim_now_ns(sim) + seconds * CLUSTER_S);
    CHECK_MSG(r == SIM_UNTIL, "%s on %s: not after %u s", what, node->name, seconds);
    return task.done;
}
