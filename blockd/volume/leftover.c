/* SPDX-License-Identifier: Apache-2.0
 *
 * Shards of this epoch that are to go and whose disk does not answer: what the manifest no longer names, and what a
 * create without an answer may have left. Reconciliation (Q4) looks at earlier epochs only: without this list they
 * would take up their space until the next open. It is in memory; the next epoch's reconciliation has the rest.
 *
 *  L1 Only what nothing names is here, and a remove names the instance (S9): it is safe whenever it comes. One that
 *     finds nothing settles it too: the connection that a create went over is over when a later one is answered.
 *  Q8 What was created and could not be recorded (the volume does not serve yet, and its manifest cannot be written) is
 *     here too, and stays until there is a manifest again, which does not name it: a copy of the one before may.
 */
#include <errno.h>

#include "blockd/volume/fanout.h"
#include "blockd/volume/volume_impl.h"
#include "common/mem.h"

/* A disk of 16 TiB full of a single volume has more, and then an open finds them: 3 MiB are enough for this. */
#define LEFTOVERS_MAX 65536
/* In between of what repair does: rebuilding what is nearest to loss does not wait for all of them. Those that are under
 * way at once share commits of the disk's table (D8). */
#define LEFTOVERS_BATCH 128u
#define LEFTOVERS_AT_ONCE 32u

void leftover_note(struct volume *v, uint32_t disk_number, struct shard_key key, uint64_t instance)
{
    /* One that has failed may come back too: its node starts anew, and takes it for what it is then. */
    bool gone = !volume_host_disk(v->host, disk_number) && !disk_may_come(v->host, disk_number);
    if (disk_number == 0 || gone || v->leftover_count == LEFTOVERS_MAX)
        return;
    if (v->leftover_count == v->leftover_space) {
        v->leftover_space = v->leftover_space ? 2 * v->leftover_space : 16;
        v->leftovers = mem_realloc(v->leftovers, v->leftover_space * sizeof(v->leftovers[0]));
    }
    v->leftovers[v->leftover_count++] =
        (struct leftover){.disk = disk_number, .key = key, .instance = instance};
    if (v->leftover_count == 1)
        fiber_queue_wake_all(&v->repair_wake);
}

/* False: its disk has not answered. */
static bool try_remove(
    struct volume *v, uint32_t disk_number, struct shard_key key, uint64_t instance)
{
    struct disk *disk = volume_disk(v, disk_number);
    int r = disk_usable(disk) ? shard_remove(disk, key, instance, v->root.epoch) : -EHOSTUNREACH;
    return r != -EHOSTUNREACH && r != -EIO;
}

void leftover_remove(
    struct volume *v, uint32_t disk_number, struct shard_key key, uint64_t instance)
{
    if (!try_remove(v, disk_number, key, instance))
        leftover_note(v, disk_number, key, instance);
}

struct removal {
    struct volume *volume;
    const struct chunk_place *place;
};

static void remove_one(void *ctx, unsigned i)
{
    const struct removal *removal = ctx;
    const struct shard_place *place = &removal->place->shards[i].place;
    if (place->disk)
        leftover_remove(
            removal->volume, place->disk, chunk_shard_key(removal->place, i), place->instance);
}

void leftover_remove_chunk(struct volume *v, const struct chunk_place *place)
{
    struct removal removal = {v, place};
    unsigned shards = place->code.k + place->code.m;
    fanout_run("chunk remove", shards, shards, remove_one, &removal);
}

/* --- Later ------------------------------------------------------------------------------------- */

struct batch {
    struct volume *volume;
    struct leftover items[LEFTOVERS_BATCH];
    unsigned count, settled;
    uint32_t silent
        [LEFTOVERS_BATCH]; /* disks that have not answered one of them: the others need not try */
    unsigned silent_count;
};

static bool is_silent(const struct batch *batch, uint32_t disk)
{
    for (unsigned i = 0; i < batch->silent_count; i++)
        if (batch->silent[i] == disk)
            return true;
    return false;
}

static void settle_one(void *ctx, unsigned i)
{
    struct batch *batch = ctx;
    struct volume *v = batch->volume;
    const struct leftover *item = &batch->items[i];
    if (v->halted || v->stopping)
        return;
    bool settled =
        !is_silent(batch, item->disk) && try_remove(v, item->disk, item->key, item->instance);
    if (settled) {
        batch->settled++;
        return;
    }
    leftover_note(v, item->disk, item->key, item->instance);
    if (!is_silent(batch, item->disk))
        batch->silent[batch->silent_count++] = item->disk;
}

/* The first ones whose disks are there; the others stay in their order. */
static void batch_take(struct volume *v, struct batch *batch)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < v->leftover_count; i++) {
        if (batch->count < LEFTOVERS_BATCH && disk_usable(volume_disk(v, v->leftovers[i].disk)))
            batch->items[batch->count++] = v->leftovers[i];
        else
            v->leftovers[kept++] = v->leftovers[i];
    }
    v->leftover_count = kept;
}

void leftovers_clear(struct volume *v)
{
    v->leftovers_go_on = false;
    if (v->manifest.broken) /* Q8 */
        return;
    CLEANUP_FREE struct batch *batch = NEW(struct batch);
    batch->volume = v;
    batch_take(v, batch);
    fanout_run("leftovers", batch->count, LEFTOVERS_AT_ONCE, settle_one, batch);
    v->leftovers_go_on = batch->settled > 0 && v->leftover_count > 0;
    if (batch->settled > 0) {
        v->host->budget->places_freed++;
        fiber_queue_wake_all(&v->host->budget->reclaim_waiters);
    }
}
