/* SPDX-License-Identifier: Apache-2.0
 *
 * A disk that has become slow holds up every write: the log's slowest copy is the log's speed. New
 * shards avoid it (placement); here the volume leaves it with what it is just writing to. The log rolls,
 * the manifest is written afresh, open chunks are sealed where they are.
 *
 * Whether a disk is slow is told by its moving average beside that of the others, and by a floor
 * well above what any healthy disk under load has. The average of a disk that is left halves each
 * minute, so it is not taken again at once, but some time. What was being made on it just then is left a second later;
 * where nothing better is there, leaving is tried again less and less often.
 */
#include "blockd/cluster/placement.h"
#include "blockd/volume/volume_impl.h"
#include "common/check.h"
#include "common/log.h"

#define CHECK_NS 100000000ull
#define AGAIN_NS_MIN 1000000000ull
#define AGAIN_NS_MAX 300000000000ull

static bool is_slow(const struct volume *v, uint32_t number, uint64_t limit_ns)
{
    const struct disk *disk = volume_disk(v, number);
    return disk && disk_latency_ns(disk, env_now_ns()) > limit_ns;
}

static bool wal_is_slow(const struct volume *v, const struct wal *wal, uint64_t limit_ns)
{
    for (unsigned i = 0; wal && i < wal->copies; i++) {
        if (is_slow(v, wal->shards[i].place.disk, limit_ns))
            return true;
    }
    return false;
}

static bool manifest_is_slow(const struct volume *v, uint64_t limit_ns)
{
    for (unsigned i = 0; i < v->manifest.ref.count; i++) {
        if (is_slow(v, v->manifest.ref.places[i].disk, limit_ns))
            return true;
    }
    return false;
}

/* The place that the target names, if it is one to leave. */
static struct place *slow_target(
    const struct volume *v, const struct open_chunk *open, uint64_t limit_ns)
{
    const struct lchunk *chunk = open->index ? state_chunk(&v->state, open->index) : NULL;
    struct place *p = chunk ? chunk->place : NULL;
    for (unsigned i = 0; p && !p->sealed && !p->retired && i < place_shards(p); i++) {
        if (p->shards[i].state != CHUNK_SHARD_LOST && is_slow(v, p->shards[i].place.disk, limit_ns))
            return p;
    }
    return NULL;
}

/* Places for rows of data; those of map pages and of cleaning are nobody's to wait for. */
static struct place *any_slow_target(const struct volume *v, uint64_t limit_ns)
{
    struct place *p = slow_target(v, &v->bypass_chunk, limit_ns);
    if (!p)
        p = slow_target(v, &v->bypass_spare, limit_ns);
    for (unsigned i = 0; i < v->destage_chunk_count && !p; i++)
        p = slow_target(v, &v->destage_chunks[i], limit_ns);
    return p;
}

static bool anything_slow(const struct volume *v, uint64_t limit_ns)
{
    return wal_is_slow(v, v->wal_open, limit_ns) || wal_is_slow(v, v->wal_next, limit_ns) ||
           manifest_is_slow(v, limit_ns) || any_slow_target(v, limit_ns);
}

static void leave(struct volume *v, uint64_t limit_ns)
{
    if (wal_is_slow(v, v->wal_next, limit_ns))
        v->wal_next_leave = true;
    if (wal_is_slow(v, v->wal_open, limit_ns)) {
        v->wal_roll = true;
        fiber_queue_wake_all(&v->committer_wake);
    }
    if (manifest_is_slow(v, limit_ns))
        v->manifest.broken = true; /* written afresh before the next record */
    for (struct place *p; (p = any_slow_target(v, limit_ns));)
        place_retire(v, p); /* its rows are whole; the next one goes elsewhere */
}

void slow_check(struct volume *v)
{
    uint64_t now_ns = env_now_ns();
    if (now_ns < v->slow_next_ns || !v->wal_open || v->halted)
        return;
    v->slow_next_ns = now_ns + CHECK_NS;
    bool any = false;
    list_for_each (it, &v->host->disks->all)
        any = any || list_entry(it, struct disk, link)->latency_ewma_ns > DISK_SLOW_FLOOR_NS;
    uint64_t limit_ns = any ? placement_slow_limit_ns(v->host->disks, now_ns) : UINT64_MAX;
    if (limit_ns == UINT64_MAX || !anything_slow(v, MAX(limit_ns, DISK_SLOW_FLOOR_NS)))
        return;
    bool again = v->slow_left_ns && now_ns - v->slow_left_ns < 4 * v->slow_backoff_ns;
    v->slow_backoff_ns = again ? MIN(2 * v->slow_backoff_ns, AGAIN_NS_MAX) : AGAIN_NS_MIN;
    v->slow_left_ns = now_ns;
    v->slow_next_ns = now_ns + v->slow_backoff_ns;
    log_warn("volume %s: a disk has become slow: going on elsewhere", v->root.name);
    leave(v, MAX(limit_ns, DISK_SLOW_FLOOR_NS));
}
