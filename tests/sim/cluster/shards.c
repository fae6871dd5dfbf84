/* SPDX-License-Identifier: Apache-2.0
 *
 * What an owner says is where, against the shard tables of the disks themselves, looked at from outside while
 * everything runs.
 *
 * Only what can be known is judged: an owner whose lease holds (nobody can have taken over), shards on disks whose
 * node runs and which have not failed (the owner hears of that a little later), and no node whose disks were made to rot.
 */
#include <stdlib.h>
#include <string.h>

#include "blockd/disk/local_disk.h"
#include "blockd/volume/volume_impl.h"
#include "common/env_impl.h"
#include "tests/sim/cluster/cluster.h"

enum { LIST_MAX = 4096 };

/* A disk of a node that runs, and the volume's shards there. */
struct listing {
    uint32_t number;
    unsigned domain;
    bool sound;
    struct shard_info *shards;
    unsigned count;
};

struct listings {
    struct listing disks[CLUSTER_NODES_MAX * CLUSTER_DISKS_MAX];
    unsigned count;
};

/* deep: the disks' indices by volume are compared with their tables, too (D18). */
static void look(struct cluster *c, uint64_t volume, bool deep, struct listings *ret)
{
    static struct shard_info shards[LIST_MAX];
    unsigned used = 0;
    ret->count = 0;
    for (unsigned n = 0; n < c->node_count; n++) {
        if (!c->nodes[n].node)
            continue;
        list_for_each (it, &disks_present(c->nodes[n].node->disks)->all) {
            struct disk *disk = list_entry(it, struct disk, link);
            if (!disk->local)
                continue;
            struct listing *listing = &ret->disks[ret->count++];
            *listing = (struct listing){.number = disk->number,
                .domain = c->nodes[n].domain,
                .sound = disk->state == DISK_IN && !c->nodes[n].rotten,
                .shards = &shards[used]};
            if (deep)
                local_disk_check(disk);
            for (uint32_t cursor = 0; cursor != UINT32_MAX && used < LIST_MAX;) {
                int more =
                    local_disk_list_page(disk, volume, &cursor, &shards[used], LIST_MAX - used);
                if (more < 0)
                    break; /* it is just coming back */
                used += (unsigned)more;
                listing->count += (unsigned)more;
            }
        }
    }
}

static const struct listing *listing_of(const struct listings *all, uint32_t number)
{
    for (unsigned i = 0; i < all->count; i++) {
        if (all->disks[i].number == number)
            return &all->disks[i];
    }
    return NULL;
}

/* --- Named, and there ------------------------------------------------------------------------------- */

static void check_there(const struct volume *v, const struct listings *all,
    const struct shard_place *place, uint64_t chunk, unsigned index, uint32_t length_blocks,
    const char *what)
{
    const struct listing *listing = listing_of(all, place->disk);
    if (!listing || !listing->sound)
        return;
    for (unsigned i = 0; i < listing->count; i++) {
        const struct shard_info *info = &listing->shards[i];
        if (info->key.chunk != chunk || info->key.index != index ||
            info->instance != place->instance)
            continue;
        CHECK_MSG(!info->sealed || info->length_blocks >= length_blocks,
            "%s says ok in epoch %u; %s %llx shard %u on disk %u has %u blocks of %u", v->root.name,
            v->root.epoch, what, (unsigned long long)chunk, index, place->disk, info->length_blocks,
            length_blocks);
        return;
    }
    CHECK_MSG(false, "%s says ok in epoch %u; %s %llx shard %u is not on disk %u", v->root.name,
        v->root.epoch, what, (unsigned long long)chunk, index, place->disk);
}

static void check_apart(
    const struct volume *v, const struct listings *all, uint32_t a, uint32_t b, uint64_t chunk)
{
    const struct listing *one = listing_of(all, a), *other = listing_of(all, b);
    CHECK_MSG(!one || !other || one->domain != other->domain,
        "%s says ok; two shards of chunk %llx are in one domain of failure (disks %u, %u)",
        v->root.name, (unsigned long long)chunk, a, b);
}

static void check_shards(const struct volume *v, const struct listings *all,
    const struct chunk_shard *shards, unsigned count, uint64_t chunk, uint32_t length_blocks,
    const char *what)
{
    for (unsigned i = 0; i < count; i++) {
        check_there(v, all, &shards[i].place, chunk, i, length_blocks, what);
        for (unsigned k = 0; k < i; k++)
            check_apart(v, all, shards[i].place.disk, shards[k].place.disk, chunk);
    }
}

static void check_volume(const struct volume *v, const struct listings *all)
{
    uint32_t pos = 0;
    for (const struct place *p; (p = idmap_next(&v->state.places, &pos));)
        check_shards(v, all, p->shards, place_shards(p), p->chunk,
            place_length_blocks(p, p->rows_recorded), "chunk");
    list_for_each (it, &v->state.wals) {
        const struct wal *wal = list_entry(it, struct wal, link);
        if (wal != v->wal_open && wal->last_seq <= v->state.committed_seq)
            continue;
        CHECK_MSG(wal->copies == v->pool.code.m + 1, "%s says ok; log %llx has %u copies",
            v->root.name, (unsigned long long)wal->chunk, wal->copies);
        check_shards(v, all, wal->shards, wal->copies, wal->chunk,
            wal->sealed ? wal->length_blocks : 0, "log");
    }
    for (unsigned n = 0; n < v->manifest.chain_count; n++) {
        const struct copies_ref *ref = &v->manifest.chain[n];
        for (unsigned i = 0; i < ref->count; i++)
            check_there(v, all, &ref->places[i], ref->chunk, i, 0, "manifest");
    }
}

/* Nobody else can be its owner now. */
static bool surely_owner(struct cluster_node *node, const struct volume *v)
{
    const struct volume_session *lease = &v->host->lease;
    return volume_takes_io(v) && v->serving && lease->id &&
           lease->id(lease->ctx) == v->root.owner_session &&
           lease->valid_until_ns(lease->ctx) > node->env->ops->boottime_ns(node->env);
}

void cluster_judge_shards(struct cluster *c)
{
    for (unsigned i = 0; i < c->volume_count && c->volumes_made; i++) {
        struct cluster_node *node = cluster_owner(c, &c->volumes[i]);
        const struct volume *v =
            node ? volumes_peek(node->node->volumes, c->volumes[i].id, NULL) : NULL;
        if (!v || !surely_owner(node, v))
            continue;
        struct volume_info info;
        volume_get_info(v, &info);
        if (strcmp(info.health, "ok") != 0)
            continue;
        struct listings all;
        look(c, v->root.id, false, &all);
        check_volume(v, &all);
        cluster_totals->shard_looks++;
    }
}

/* --- There, and named ------------------------------------------------------------------------------- */

static bool shards_name(
    const struct chunk_shard *shards, unsigned count, const struct shard_info *info, uint32_t disk)
{
    return info->key.index < count && shards[info->key.index].place.disk == disk &&
           shards[info->key.index].place.instance == info->instance;
}

static bool named(const struct volume *v, const struct shard_info *info, uint32_t disk)
{
    const struct place *p = state_place(&v->state, info->key.chunk);
    if (p)
        return shards_name(p->shards, place_shards(p), info, disk);
    list_for_each (it, &v->state.wals) {
        const struct wal *wal = list_entry(it, struct wal, link);
        if (wal->chunk == info->key.chunk)
            return shards_name(wal->shards, wal->copies, info, disk);
    }
    for (unsigned n = 0; n < v->manifest.chain_count; n++) {
        const struct copies_ref *ref = &v->manifest.chain[n];
        if (ref->chunk == info->key.chunk && info->key.index < ref->count)
            return ref->places[info->key.index].disk == disk &&
                   ref->places[info->key.index].instance == info->instance;
    }
    return false;
}

static bool is_exact(struct cluster *c, const struct cluster_volume *volume, bool tell)
{
    struct cluster_node *node = cluster_owner(c, volume);
    const struct volume *v = node ? volumes_peek(node->node->volumes, volume->id, NULL) : NULL;
    struct listings all;
    unsigned extra = 0;
    if (!v)
        return false;
    look(c, volume->id, true, &all);
    for (unsigned d = 0; d < all.count; d++) {
        for (unsigned i = 0; i < all.disks[d].count; i++) {
            const struct shard_info *info = &all.disks[d].shards[i];
            if (info->tombstone || named(v, info, all.disks[d].number))
                continue;
            extra++;
            if (tell)
                fprintf(stderr,
                    "%s, epoch %u: nothing names shard %llx.%u on disk %u (kind %d, epoch %u, %u "
                    "blocks)\n",
                    volume->name, v->root.epoch, (unsigned long long)info->key.chunk,
                    info->key.index, all.disks[d].number, info->kind, info->epoch,
                    info->length_blocks);
        }
    }
    return extra == 0;
}

static bool all_exact(struct cluster *c)
{
    for (unsigned i = 0; i < c->volume_count; i++) {
        if (!is_exact(c, &c->volumes[i], false))
            return false;
    }
    return true;
}

static bool exact_until(void *ctx)
{
    return all_exact(ctx);
}

void cluster_judge_orphans(struct cluster *c)
{
    uint64_t until_ns = sim_now_ns(c->sim) + 240 * CLUSTER_S;
    while (!all_exact(c) && sim_now_ns(c->sim) < until_ns)
        (void)sim_run(c->sim, exact_until, c, sim_now_ns(c->sim) + CLUSTER_S);
    for (unsigned i = 0; i < c->volume_count; i++)
        CHECK_MSG(is_exact(c, &c->volumes[i], true), "%s: shards that nothing names stay",
            c->volumes[i].name);
}
