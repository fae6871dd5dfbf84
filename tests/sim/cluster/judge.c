/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/cluster/cluster.h"

#include <errno.h>
#include <string.h>

#include "blockd/disk/local_disk.h"
#include "blockd/volume/volume_impl.h"
#include "common/mem.h"

static struct volume *open_on(struct cluster_node *node, const struct cluster_volume *volume)
{
    struct volume *v = node->node && node->node->volumes
                           ? volumes_peek(node->node->volumes, volume->id, NULL)
                           : NULL;
    return v && !volume_halted(v) ? v : NULL;
}

/* One epoch has one owner (S10). Two may be open: an earlier one that has not noticed yet. */
void cluster_judge_owners(struct cluster *c)
{
    for (unsigned v = 0; v < c->volume_count; v++) {
        for (unsigned i = 0; i < c->node_count; i++) {
            for (unsigned k = i + 1; k < c->node_count; k++) {
                const struct volume *a = open_on(&c->nodes[i], &c->volumes[v]);
                const struct volume *b = open_on(&c->nodes[k], &c->volumes[v]);
                CHECK_MSG(!a || !b || volume_epoch(a) != volume_epoch(b),
                    "%s is served by %s and %s in epoch %u", c->volumes[v].name, c->nodes[i].name,
                    c->nodes[k].name, volume_epoch(a));
            }
        }
    }
}

/* --- Quiet ------------------------------------------------------------------------------------- */

struct cluster_node *cluster_owner(struct cluster *c, const struct cluster_volume *volume)
{
    struct cluster_node *owner = NULL;
    uint32_t epoch = 0;
    for (unsigned i = 0; i < c->node_count; i++) {
        const struct volume *v = open_on(&c->nodes[i], volume);
        if (v && volume_epoch(v) > epoch) {
            owner = &c->nodes[i];
            epoch = volume_epoch(v);
        }
    }
    return owner;
}

struct errand {
    struct cluster *cluster;
    struct cluster_node *node;
    struct cluster_volume *volume;
    bool settle;
    int result;
    struct volume_info info;
};

static void open_main(void *arg)
{
    struct errand *e = arg;
    struct attachment *attachment = cluster_attach(e->node, e->volume->name);
    e->result = attach_flush(attachment);
    attach_put(attachment);
}

static void scrub_main(void *arg)
{
    struct errand *e = arg;
    list_for_each (it, &disks_present(e->node->node->disks)->all) {
        struct disk *disk = list_entry(it, struct disk, link);
        struct shard_info *list;
        unsigned count;
        if (!disk->local || disk->state != DISK_IN || shard_list(disk, 0, &list, &count) < 0)
            continue;
        for (unsigned i = 0; i < count; i++) {
            uint64_t bytes;
            (void)local_disk_scrub_shard(disk, list[i].key, &bytes);
        }
        mem_free(list);
    }
}

static void repair_main(void *arg)
{
    struct errand *e = arg;
    struct volume *volume = open_on(e->node, e->volume);
    CLEANUP_FREE char *error = NULL;
    e->result = -EAGAIN;
    if (!volume || volumes_get_by_id(e->node->node->volumes, e->volume->id, &volume, &error) < 0)
        return;
    e->result = volume_destage(volume);
    if (e->result == 0)
        e->result = volume_repair_wait(volume);
    volume_get_info(volume, &e->info);
    if (e->result == 0 && strcmp(e->info.health, "ok") != 0)
        e->result = -EAGAIN;
    volumes_put(e->node->node->volumes, volume);
}

/* What was refused for lack of space is possible again. */
static void write_main(void *arg)
{
    struct errand *e = arg;
    struct history *history = e->volume->history;
    void *buf = mem_alloc_pages(BLOCK_BYTES);
    uint32_t block = (uint32_t)rng_below(&e->cluster->rng, history_size(history));
    uint64_t write = history_write(history, block, 1, buf, false);
    do {
        struct attachment *attachment = cluster_attach(e->node, e->volume->name);
        e->result = attach_write(
            attachment, (uint64_t)block * BLOCK_BYTES, BLOCK_BYTES, buf, 0, (struct request_id){0});
        attach_put(attachment);
    } while (e->result == -ESHUTDOWN);
    if (e->result == 0)
        history_written(history, write);
    mem_free_pages(buf, BLOCK_BYTES);
}

static void writes_go_on(struct cluster *c, struct cluster_volume *volume)
{
    struct errand e = {.cluster = c, .volume = volume, .result = -EAGAIN};
    for (unsigned tries = 0; e.result < 0; tries++) {
        CHECK_MSG(tries < 60, "%s takes no write: %s", volume->name, strerror(-e.result));
        e.node = cluster_any_up(c);
        (void)cluster_do(e.node, 300, "write", write_main, &e);
        CHECK_MSG(e.result == 0 || (e.result == -ENOSPC && cluster_is_full(c)),
            "%s: write when quiet: %s", volume->name, strerror(-e.result));
        if (e.result < 0)
            cluster_run_for(c, 500 * CLUSTER_MS);
    }
}

static void make_whole(struct cluster *c, struct cluster_volume *volume)
{
    struct errand e = {.cluster = c, .volume = volume};
    for (unsigned tries = 0;; tries++) {
        CHECK_MSG(tries < 100, "%s does not get whole: %s; %s, %s", volume->name,
            strerror(-e.result), e.info.health, e.info.problem);
        e.node = cluster_owner(c, volume);
        if (!e.node) {
            e.node = cluster_any_up(c);
            (void)cluster_do(e.node, 300, "open", open_main, &e);
        } else {
            (void)cluster_do(e.node, 600, "repair", repair_main, &e);
            if (e.result == 0)
                return;
        }
        cluster_run_for(c, 500 * CLUSTER_MS);
    }
}

/* What scrub has found has come to those whose it is. */
static bool all_damage_told(struct cluster *c)
{
    for (unsigned i = 0; i < c->node_count; i++) {
        const struct node *node = c->nodes[i].node;
        if (node && node->adopt && adopt_report_count(node->adopt) > 0)
            return false;
    }
    return true;
}

void cluster_quiet(struct cluster *c)
{
    cluster_heal(c);
    for (unsigned i = 0; i < c->volume_count; i++) {
        writes_go_on(c, &c->volumes[i]);
        make_whole(c, &c->volumes[i]);
    }
    for (unsigned i = 0; i < c->node_count; i++) {
        struct errand e = {.cluster = c, .node = &c->nodes[i]};
        if (e.node->node)
            (void)cluster_do(e.node, 600, "scrub", scrub_main, &e);
    }
    cluster_until(c, all_damage_told, 300, "damage is told");
    for (unsigned i = 0; i < c->volume_count; i++)
        make_whole(c, &c->volumes[i]);
    for (unsigned i = 0; i < c->node_count; i++)
        c->nodes[i].dirty = c->nodes[i].rotten = false;
    cluster_judge_orphans(c);
    cluster_judge_shards(c);
}

/* --- After everything was down ----------------------------------------------------------------- */

static void read_main(void *arg)
{
    struct errand *e = arg;
    cluster_read_all(e->node, e->volume, e->settle);
}

static void read_everything(struct cluster *c, bool settle)
{
    for (unsigned i = 0; i < c->volume_count; i++) {
        struct cluster_node *node = cluster_any_up(c);
        struct errand e = {.cluster = c, .node = node, .volume = &c->volumes[i], .settle = settle};
        CHECK_MSG(node && cluster_do(node, 300, "read all", read_main, &e), "no node is left");
    }
}

void cluster_settle(struct cluster *c, bool power_lost)
{
    bool stop = c->clients_stop;
    for (unsigned i = 0; i < c->volume_count; i++)
        history_crashed(c->volumes[i].history, power_lost);
    c->clients_stop = true;
    cluster_heal(c);
    read_everything(c, true);
    for (unsigned i = 0; i < c->volume_count; i++)
        history_settled(c->volumes[i].history);
    if (!stop)
        cluster_clients_start(c);
}

/* --- Redundancy, space ------------------------------------------------------------------------- */

void cluster_judge_redundancy(struct cluster *c)
{
    cluster_quiet(c);
    unsigned domains = c->rack_count ? MIN(c->rack_count, c->node_count) : c->node_count;
    unsigned first = (unsigned)rng_below(&c->rng, domains);
    for (unsigned i = 0; i < c->node_count; i++) {
        struct cluster_node *node = &c->nodes[i];
        if ((node->domain + domains - first) % domains >= c->pool.code.m)
            continue;
        sim_node_power_cut(node->env, SIM_CUT_RANDOM);
        cluster_node_ended(node);
    }
    read_everything(c, false);
    cluster_heal(c);
    read_everything(c, false);
}

static void delete_main(void *arg)
{
    struct errand *e = arg;
    CLEANUP_FREE char *error = NULL, *closing = NULL;
    (void)volumes_close(e->node->node->volumes, e->volume->name, &closing);
    e->result = volumes_delete(e->node->node->volumes, e->volume->name, true, &error);
    CHECK_MSG(e->result == 0 || e->result == -EBUSY || e->result == -EAGAIN, "delete: %s", error);
}

/* On the node that serves it: it may have been adopted for repair just now. */
static void delete_volume(struct cluster *c, struct cluster_volume *volume)
{
    struct errand e = {.cluster = c, .volume = volume, .result = -EBUSY};
    for (unsigned tries = 0; e.result != 0; tries++) {
        CHECK_MSG(tries < 50, "%s cannot be deleted", volume->name);
        e.node = cluster_owner(c, volume);
        if (!e.node)
            e.node = cluster_any_up(c);
        (void)cluster_do(e.node, 300, "delete", delete_main, &e);
        if (e.result < 0)
            cluster_run_for(c, 200 * CLUSTER_MS);
    }
}

static bool all_free(struct cluster *c)
{
    for (unsigned i = 0; i < c->node_count; i++) {
        if (!c->nodes[i].node)
            return false;
        list_for_each (it, &disks_present(c->nodes[i].node->disks)->all) {
            struct disk *disk = list_entry(it, struct disk, link);
            if (disk->local &&
                (local_disk_shard_count(disk) > 0 || disk->free_bytes != disk->size_bytes))
                return false;
        }
    }
    return true;
}

void cluster_judge_space(struct cluster *c)
{
    for (unsigned i = 0; i < c->volume_count; i++)
        delete_volume(c, &c->volumes[i]);
    cluster_until(c, all_free, 600, "all space of deleted volumes is free");
}
