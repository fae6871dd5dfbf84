/* SPDX-License-Identifier: Apache-2.0
 *
 * What goes wrong, drawn by the seed: which kinds at all, how often, where.
 *
 * No more than m domains may lack data at a time. A fault that loses data (power, a disk) on a node is
 * injected only while no more than m of them, that one included, have been touched by anything since the
 * last quiet moment: a node that was away has missed what was written meanwhile. Nor does a machine lose power
 * alone where nodes that are away are given up within a fault (draw_repair_wait()).
 */
#include <errno.h>
#include <string.h>

#include "tests/sim/cluster/cluster.h"

static const char *const names[FAULT_KINDS] = {
    [FAULT_KILL] = "process killed",
    [FAULT_POWER_CUT] = "machine without power",
    [FAULT_RESTART] = "clean restart",
    [FAULT_PAUSE] = "process paused",
    [FAULT_ISOLATE] = "node cut off",
    [FAULT_ONE_WAY] = "one-way partition",
    [FAULT_RESET] = "connections reset",
    [FAULT_SLOW_LINK] = "slow link",
    [FAULT_DISK_ERROR] = "disk error",
    [FAULT_DISK_SLOW] = "slow disk",
    [FAULT_DISK_FLIP] = "flipped bits",
    [FAULT_DISK_MISDIRECT] = "misdirected write",
    [FAULT_DISK_GONE] = "disk pulled out, or hangs",
    [FAULT_DISK_FULL] = "full disks",
    [FAULT_STORE_DOWN] = "store outage",
    [FAULT_STORE_UNKNOWN] = "store: outcome unknown",
    [FAULT_STORE_SLOW] = "slow store",
    [FAULT_STORE_WATCH] = "store: late watches",
    [FAULT_STORE_CONFLICT] = "store: conflicts",
    [FAULT_CLOCK_DRIFT] = "clock drift",
    [FAULT_CLOCK_JUMP] = "clock jump",
    [FAULT_KILL_ALL] = "all processes killed",
    [FAULT_POWER_ALL] = "all without power",
};

const char *cluster_fault_name(enum cluster_fault fault)
{
    return names[fault];
}

unsigned cluster_draw_faults(struct cluster *c)
{
    char label[32];
    snprintf(label, sizeof(label), "mix %u", c->mix_count++);
    struct rng rng = rng_fork(c->seed, label);
    bool any = false;
    for (unsigned i = 0; i < FAULT_KINDS; i++)
        any |= c->fault_on[i] = rng_one_in(&rng, 3);
    bool kill_instead = c->gives_up_soon && c->fault_on[FAULT_POWER_CUT];
    c->fault_on[FAULT_POWER_CUT] &= !kill_instead;
    c->fault_on[FAULT_KILL] |= !any || kill_instead;
    c->fault_pace_ms = (unsigned)rng_between(&rng, 100, 8000);
    return 2 + (unsigned)rng_below(&rng, 14);
}

static bool domain_touched(const struct cluster *c, unsigned domain)
{
    for (unsigned i = 0; i < c->node_count; i++) {
        if (c->nodes[i].domain == domain && c->nodes[i].dirty)
            return true;
    }
    return false;
}

/* Domains that something has happened to since it was quiet. */
static unsigned domains_touched(const struct cluster *c)
{
    unsigned n = 0;
    for (unsigned domain = 0; domain < c->node_count; domain++)
        n += domain_touched(c, domain);
    return n;
}

static bool may_lose(const struct cluster_node *node)
{
    const struct cluster *c = node->cluster;
    return domains_touched(c) + !domain_touched(c, node->domain) <= c->pool.code.m;
}

static struct sim_disk *some_disk(struct cluster_node *node)
{
    return node->disks[rng_below(&node->cluster->fault_rng, node->cluster->disks_per_node)];
}

/* --- Nodes ------------------------------------------------------------------------------------- */

static void end_node(struct cluster_node *node, bool power)
{
    node->dirty = true;
    if (power)
        sim_node_power_cut(node->env, SIM_CUT_RANDOM);
    else
        sim_node_crash(node->env);
    cluster_node_ended(node);
    cluster_run_for(node->cluster, rng_below(&node->cluster->fault_rng, 4000) * CLUSTER_MS);
    cluster_start_node(node);
}

static bool went_down(struct cluster *c)
{
    for (unsigned i = 0; i < c->node_count; i++) {
        if (c->nodes[i].want_stop)
            return false;
    }
    return true;
}

static void restart(struct cluster_node *node)
{
    if (!node->node || !node->formatted)
        return;
    node->dirty = true;
    node->want_stop = true;
    cluster_until(node->cluster, went_down, 120, "a clean stop");
    sim_node_crash(node->env); /* whatever is left */
    cluster_node_ended(node);
    cluster_start_node(node);
}

static void end_all(struct cluster *c, bool power)
{
    if (power) {
        sim_power_cut_all(c->sim, SIM_CUT_RANDOM);
    } else {
        for (unsigned i = 0; i < c->node_count; i++)
            sim_node_crash(c->nodes[i].env);
    }
    for (unsigned i = 0; i < c->node_count; i++)
        cluster_node_ended(&c->nodes[i]);
    cluster_settle(c, power);
}

/* --- Disks ------------------------------------------------------------------------------------- */

/* All disks of all nodes for a while, as when the storage that all are on stalls: nothing is lost, and all goes on by
 * itself. */
static void hang_all(struct cluster *c)
{
    sim_part_says(", all hang");
    for (unsigned i = 0; i < c->node_count; i++) {
        c->nodes[i].dirty = true;
        for (unsigned d = 0; d < c->disks_per_node; d++)
            sim_disk_hang(c->nodes[i].disks[d]);
    }
    cluster_run_for(c, rng_below(&c->fault_rng, 3 * CLUSTER_IO_TIMEOUT_S * 1000) * CLUSTER_MS);
    for (unsigned i = 0; i < c->node_count; i++)
        for (unsigned d = 0; d < c->disks_per_node; d++)
            sim_disk_go_on(c->nodes[i].disks[d]);
}

/* For a while, shorter or longer than the deadline, or until it is quiet. */
static void hang(struct cluster *c, struct sim_disk *disk)
{
    if (rng_one_in(&c->fault_rng, 4)) {
        hang_all(c);
        return;
    }
    sim_part_says(", hangs");
    sim_disk_hang(disk);
    if (!rng_one_in(&c->fault_rng, 2))
        return;
    cluster_run_for(c, rng_below(&c->fault_rng, 3 * CLUSTER_IO_TIMEOUT_S * 1000) * CLUSTER_MS);
    sim_disk_go_on(disk);
}

static bool disk_fault(struct cluster_node *node, enum cluster_fault kind)
{
    struct cluster *c = node->cluster;
    struct sim_disk *disk = some_disk(node);
    if (kind != FAULT_DISK_SLOW && !may_lose(node))
        return false;
    node->dirty = true;
    struct sim_fault fault = {.after = rng_below(&c->fault_rng, 100), .times = 1};
    switch (kind) {
    case FAULT_DISK_ERROR:
        fault.ops = rng_one_in(&c->fault_rng, 3) ? SIM_OP_SYNC : SIM_OP_WRITE;
        fault.kind = SIM_FAULT_ERROR;
        break;
    case FAULT_DISK_SLOW:
        fault.ops = SIM_OP_WRITE | SIM_OP_SYNC | SIM_OP_READ;
        fault.kind = SIM_FAULT_DELAY;
        fault.delay_ns = rng_between(&c->fault_rng, 1, 500) * CLUSTER_MS;
        fault.times = rng_between(&c->fault_rng, 10, 300);
        break;
    case FAULT_DISK_MISDIRECT:
        node->rotten = true;
        fault.ops = SIM_OP_WRITE;
        fault.kind = SIM_FAULT_MISDIRECT;
        fault.target_off_bytes = UINT64_MAX;
        break;
    case FAULT_DISK_GONE:
        if (rng_one_in(&c->fault_rng, 2))
            hang(c, disk);
        else if (sim_disk_find(node->env, sim_disk_path(disk)))
            sim_disk_remove(disk);
        return true;
    default:
        node->rotten = true;
        for (unsigned i = 0; i < 30; i++)
            sim_disk_flip(disk, (4ull << 20) + rng_below(&c->fault_rng, 12ull << 20),
                (unsigned)rng_below(&c->fault_rng, 8));
        return true;
    }
    sim_disk_fault(disk, &fault);
    return true;
}

/* --- Network, clocks, store -------------------------------------------------------------------- */

static struct cluster_node *another(struct cluster_node *node)
{
    struct cluster *c = node->cluster;
    unsigned step = 1 + (unsigned)rng_below(&c->fault_rng, c->node_count - 1);
    return &c->nodes[(node->number + step) % c->node_count];
}

static void network(struct cluster_node *node, enum cluster_fault kind)
{
    struct cluster *c = node->cluster;
    struct cluster_node *other = another(node);
    if (kind != FAULT_ISOLATE)
        sim_part_says(", %s", other->name);
    uint64_t away_ns = rng_between(&c->fault_rng, 50, 5000) * CLUSTER_MS;
    struct sim_net_latency slow = {.base_ns = rng_between(&c->fault_rng, 1, 80) * CLUSTER_MS,
        .jitter_ns = 5 * CLUSTER_MS,
        .ns_per_kib = 20000};
    switch (kind) {
    case FAULT_ISOLATE:
        node->dirty = true;
        sim_net_isolate(node->env, true);
        cluster_run_for(c, away_ns);
        sim_net_isolate(node->env, false);
        break;
    case FAULT_ONE_WAY:
        node->dirty = other->dirty = true;
        sim_net_cut(node->env, other->env, true);
        cluster_run_for(c, away_ns);
        sim_net_cut(node->env, other->env, false);
        break;
    case FAULT_RESET:
        node->dirty = other->dirty = true;
        sim_net_reset(node->env, other->env);
        break;
    default:
        sim_net_set_latency(node->env, other->env, &slow);
        sim_net_set_latency(other->env, node->env, &slow);
        break;
    }
}

static void store_fault(struct cluster *c, enum cluster_fault kind)
{
    int error = kind == FAULT_STORE_DOWN      ? -EHOSTUNREACH
                : kind == FAULT_STORE_UNKNOWN ? -ETIMEDOUT
                                              : 0;
    store_mem_set_fault(c->store, error, rng_below(&c->fault_rng, 400) * CLUSTER_MS);
    cluster_run_for(c, rng_between(&c->fault_rng, 50, 6000) * CLUSTER_MS);
    store_mem_set_fault(c->store, 0, 0);
}

/* They stay late until it is quiet, or until another fault of this kind. */
static void watch_fault(struct cluster *c)
{
    store_mem_set_watch_delay(c->store, rng_between(&c->fault_rng, 20, 4000) * CLUSTER_MS);
    cluster_run_for(c, rng_between(&c->fault_rng, 50, 6000) * CLUSTER_MS);
    if (rng_one_in(&c->fault_rng, 2)) {
        sim_part_says(", compacted");
        store_mem_resync(c->store);
    }
}

static void clock_fault(struct cluster_node *node, enum cluster_fault kind)
{
    struct cluster *c = node->cluster;
    if (kind == FAULT_CLOCK_DRIFT)
        sim_clock_drift(node->env, (int32_t)rng_below(&c->fault_rng, 40000) - 20000); /* 2 % */
    else if (rng_one_in(&c->fault_rng, 2))
        sim_clock_jump_boottime(node->env, rng_below(&c->fault_rng, 20000) * CLUSTER_MS);
    else
        sim_clock_jump_realtime(
            node->env, ((int64_t)rng_below(&c->fault_rng, 200) - 100) * (int64_t)CLUSTER_S);
}

/* --- One of them ------------------------------------------------------------------------------- */

static bool inject(struct cluster *c, enum cluster_fault kind)
{
    struct cluster_node *node = &c->nodes[rng_below(&c->fault_rng, c->node_count)];
    sim_part_says(": %s", node->name);
    switch (kind) {
    case FAULT_KILL:
        end_node(node, false);
        return true;
    case FAULT_POWER_CUT:
        if (!may_lose(node))
            return false;
        end_node(node, true);
        return true;
    case FAULT_RESTART:
        restart(node);
        return true;
    case FAULT_PAUSE:
        node->dirty = true;
        sim_node_pause(node->env, rng_between(&c->fault_rng, 10, 5000) * CLUSTER_MS);
        return true;
    case FAULT_ISOLATE:
    case FAULT_ONE_WAY:
    case FAULT_RESET:
    case FAULT_SLOW_LINK:
        network(node, kind);
        return true;
    case FAULT_DISK_ERROR:
    case FAULT_DISK_SLOW:
    case FAULT_DISK_FLIP:
    case FAULT_DISK_MISDIRECT:
    case FAULT_DISK_GONE:
        return disk_fault(node, kind);
    case FAULT_DISK_FULL:
        cluster_fill(c);
        return true;
    case FAULT_STORE_DOWN:
    case FAULT_STORE_UNKNOWN:
    case FAULT_STORE_SLOW:
        store_fault(c, kind);
        return true;
    case FAULT_STORE_WATCH:
        watch_fault(c);
        return true;
    case FAULT_STORE_CONFLICT:
        store_mem_set_conflicts(c->store, (uint32_t)rng_between(&c->fault_rng, 50000, 700000));
        return true;
    case FAULT_CLOCK_DRIFT:
    case FAULT_CLOCK_JUMP:
        clock_fault(node, kind);
        return true;
    case FAULT_KILL_ALL:
    case FAULT_POWER_ALL:
        end_all(c, kind == FAULT_POWER_ALL);
        return true;
    case FAULT_KINDS:
        break;
    }
    return false;
}

void cluster_fault(struct cluster *c)
{
    char label[32];
    unsigned number = ++c->fault_count;
    snprintf(label, sizeof(label), "fault %u", number);
    c->fault_rng = rng_fork(c->seed, label);
    cluster_run_for(c, rng_below(&c->fault_rng, c->fault_pace_ms) * CLUSTER_MS);
    enum cluster_fault kind;
    do
        kind = (enum cluster_fault)rng_below(&c->fault_rng, FAULT_KINDS);
    while (!c->fault_on[kind]);
    if (!sim_part_wanted('f', number, names[kind]))
        return;
    sim_trace(c->sim, names[kind], kind, 0);
    if (inject(c, kind))
        cluster_totals->faults[kind]++;
    else
        sim_part_says(" (not now)");
}

/* Of this node disks that hang come back by themselves (disks.h, N7); of the others with a new process. */
static bool lets_return(const struct cluster *c, unsigned node)
{
    return (c->seed >> node & 1) != 0;
}

static bool all_returned(struct cluster *c)
{
    for (unsigned i = 0; i < c->node_count; i++) {
        if (!c->nodes[i].node || !lets_return(c, i))
            continue;
        list_for_each (it, disks_entries(c->nodes[i].node->disks)) {
            const struct disks_entry *entry = list_entry(it, struct disks_entry, link);
            if (entry->disk && entry->state == DISK_MISSING)
                return false;
        }
    }
    return true;
}

/* A disk that failed stays retired until the process starts anew (D2), and so does one that hung at its start. */
static bool has_lost_disk(const struct cluster_node *node)
{
    if (!node->node)
        return false;
    list_for_each (it, disks_entries(node->node->disks)) {
        const struct disks_entry *entry = list_entry(it, struct disks_entry, link);
        if (entry->state == DISK_FAILED || entry->state == DISK_MISSING)
            return true;
    }
    return false;
}

static bool heal_disks(struct cluster_node *node, bool lets_return)
{
    bool again = false;
    for (unsigned d = 0; d < node->cluster->disks_per_node; d++) {
        sim_disk_clear_faults(node->disks[d]);
        again = again || (sim_disk_hangs(node->disks[d]) && !lets_return);
        sim_disk_go_on(node->disks[d]);
        if (!sim_disk_find(node->env, sim_disk_path(node->disks[d]))) {
            sim_disk_return(node->disks[d]);
            again = true;
        }
    }
    return again;
}

void cluster_heal(struct cluster *c)
{
    bool again[CLUSTER_NODES_MAX];
    struct sim_net_latency usual = {.base_ns = 100000, .jitter_ns = 50000, .ns_per_kib = 800};
    sim_net_heal_all(c->sim);
    store_mem_set_fault(c->store, 0, 0);
    store_mem_set_watch_delay(c->store, 0);
    store_mem_set_conflicts(c->store, 0);
    for (unsigned i = 0; i < c->node_count; i++) {
        struct cluster_node *node = &c->nodes[i];
        for (unsigned k = 0; k < c->node_count; k++) {
            if (k != i)
                sim_net_set_latency(node->env, c->nodes[k].env, &usual);
        }
        again[i] = heal_disks(node, lets_return(c, i));
    }
    cluster_until(c, all_returned, 300, "disks that hung come back");
    for (unsigned i = 0; i < c->node_count; i++) {
        struct cluster_node *node = &c->nodes[i];
        if ((again[i] || has_lost_disk(node)) && sim_node_is_up(node->env)) {
            sim_node_crash(node->env);
            cluster_node_ended(node);
        }
    }
    cluster_start_all(c);
    cluster_until(c, cluster_all_up, 120, "all nodes run");
    cluster_empty(c);
}
