/* SPDX-License-Identifier: Apache-2.0
 *
 * Shards of one chunk that share a failure domain. None is made like that; a disk that is carried to another
 * node, or a node with another rack, brings them together. The loss of that domain then costs all of them.
 *
 *  Q7 The second shard in a domain is moved as lost ones are rebuilt (Q2: copied, durable, recorded, then the old one goes),
 *     after all lost ones; only to a domain that has none of the chunk. A log rolls and a manifest is written afresh only
 *     where the next one is in more domains than this one is. So every move makes it better, and moving ends; where there
 *     is no such domain nothing is moved, and health says it.
 *
 * Counted are shards that are whole, on disks that are up: what is missing or lost has its own rules (Q3, Q5), and of a
 * node that is not connected nobody knows its rack for sure.
 */
#include "blockd/cluster/placement.h"
#include "blockd/volume/volume_impl.h"
#include "common/check.h"

static struct disk *counted(const struct volume *v, const struct chunk_shard *shard)
{
    struct disk *disk = shard->state == CHUNK_SHARD_OK ? volume_disk(v, shard->place.disk) : NULL;
    return disk && placement_disk_up(disk) ? disk : NULL;
}

static uint32_t shards_crowded(
    const struct volume *v, const struct chunk_shard *shards, unsigned count, unsigned *ret_domains)
{
    struct disk *disks[CODE_SHARDS_MAX];
    for (unsigned i = 0; i < count; i++)
        disks[i] = counted(v, &shards[i]);
    return placement_crowded(disks, count, v->pool.domain, ret_domains);
}

uint32_t place_crowded(const struct volume *v, const struct place *p)
{
    bool can_be = v->pool.domain != DOMAIN_DISK; /* of a million places one asks often */
    return can_be ? shards_crowded(v, p->shards, place_shards(p), NULL) : 0;
}

unsigned data_domains_up(const struct volume *v)
{
    return placement_domains_up(
        v->host->disks, v->pool.domain, v->pool.data_class, CODE_SHARDS_MAX);
}

/* An open one is left for a new one first: there has to be one. */
static bool may_be_left(const struct volume *v, const struct place *p, unsigned domains_up)
{
    unsigned needed = p->kind == SHARD_META ? MIN(v->pool.log_copies_min, v->pool.code.m + 1u)
                                            : MAX(v->pool.shards_min, (unsigned)v->pool.code.k);
    return p->sealed || domains_up >= needed;
}

bool place_can_spread(const struct volume *v, const struct place *p, unsigned domains_up)
{
    unsigned domains;
    return shards_crowded(v, p->shards, place_shards(p), &domains) != 0 && domains < domains_up &&
           may_be_left(v, p, domains_up);
}

unsigned wal_domains(const struct volume *v, const struct wal *wal)
{
    uint32_t crowded = shards_crowded(v, wal->shards, wal->copies, NULL);
    return wal->copies - (unsigned)__builtin_popcount(crowded);
}

unsigned copies_domains(const struct volume *v, const struct copies_ref *ref)
{
    struct chunk_shard shards[CODE_M_MAX + 1] = {0};
    for (unsigned i = 0; i < ref->count; i++)
        shards[i].place = ref->places[i];
    uint32_t crowded = shards_crowded(v, shards, ref->count, NULL);
    return ref->count - (unsigned)__builtin_popcount(crowded);
}
