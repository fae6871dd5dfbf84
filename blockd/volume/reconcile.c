/* SPDX-License-Identifier: Apache-2.0
 *
 * Reconciliation: what is on a disk is compared with what the manifest says, once in an epoch, as soon as the
 * disk is up, and a second time after a minute. One list of the volume's shards there serves both questions.
 *
 * Invariants
 *  Q4 What nothing names is removed: only shards of an earlier epoch, only by the serving owner (S24). The owner
 *     before may have been in the middle of a create, and not know yet that it is deposed: hence the second look.
 *     What is named by its instance stays on a disk of whatever number: numbers may be lost with the store.
 *  Q6 What the manifest names is there, and as long as the place that was sealed. A disk that was away when its
 *     places were sealed, by a takeover, may lack rows that nobody flushed: its machine lost power too. It says
 *     so nowhere, and a parity shard is never read. It is recorded as damaged or lost, and repaired (S23).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/volume/volume_impl.h"
#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/planted.h"

/* --- What nothing names ------------------------------------------------------------------------ */

static bool named(const struct volume *v, const struct shard_info *info)
{
    const struct place *p = state_place(&v->state, info->key.chunk);
    if (p) /* an instance is one shard (S9): also where its disk has got another number */
        return info->key.index < place_shards(p) &&
               p->shards[info->key.index].place.instance == info->instance;
    list_for_each (it, &v->state.wals) {
        const struct wal *wal = list_entry(it, struct wal, link);
        if (wal->chunk == info->key.chunk)
            return true;
    }
    for (unsigned i = 0; i < v->manifest.chain_count;
         i++) /* it is of this epoch: the volume serves (S11) */
        CHECK(v->manifest.chain[i].chunk != info->key.chunk);
    return false;
}

static void remove_unnamed(
    struct volume *v, uint32_t number, const struct shard_info *list, unsigned count)
{
    unsigned removed = 0;
    for (unsigned i = 0; i < count && !v->halted && !v->stopping; i++) {
        if (list[i].epoch >= v->root.epoch + PLANTED(reconcile_own_epoch) || named(v, &list[i]))
            continue;
        struct disk *disk = volume_disk(v, number);
        if (!disk_usable(disk))
            break;
        if (shard_remove(disk, list[i].key, list[i].instance, v->root.epoch) == 0)
            removed++;
    }
    if (removed > 0)
        log_info("volume %s: removed %u shards of earlier epochs from disk %u that nothing names",
            v->root.name, removed, number);
}

/* --- What is named and not whole --------------------------------------------------------------- */

struct doubt {
    uint64_t chunk, instance;
    unsigned shard;
};

static int by_key(const void *a, const void *b)
{
    const struct shard_key *x = &((const struct shard_info *)a)->key,
                           *y = &((const struct shard_info *)b)->key;
    if (x->chunk != y->chunk)
        return x->chunk < y->chunk ? -1 : 1;
    return (int)x->index - (int)y->index;
}

/* Those of this epoch were watched from their first row on. */
static bool is_old(const struct volume *v, const struct place *p)
{
    return p->sealed && !p->freeing && p->epoch < v->root.epoch;
}

static bool listed_whole(const struct volume *v, const struct place *p, unsigned shard,
    const struct shard_info *list, unsigned count)
{
    struct shard_info wanted = {.key = {.chunk = p->chunk, .index = (uint8_t)shard}};
    const struct shard_info *info = bsearch(&wanted, list, count, sizeof(*list), by_key);
    return info && info->instance == p->shards[shard].place.instance && info->sealed &&
           info->length_blocks >= place_length_blocks(p, p->row_count); /* O6 */
}

/* The list is sorted. What it says may be old: repair may have put a shard there since. */
static struct doubt *find_doubts(const struct volume *v, uint32_t number,
    const struct shard_info *list, unsigned count, unsigned *ret_count)
{
    struct doubt *doubts = NULL;
    uint32_t pos = 0;
    *ret_count = 0;
    for (const struct place *p; (p = idmap_next(&v->state.places, &pos));) {
        for (unsigned i = 0; is_old(v, p) && i < place_shards(p); i++) {
            const struct chunk_shard *shard = &p->shards[i];
            if (shard->place.disk != number || shard->state != CHUNK_SHARD_OK ||
                listed_whole(v, p, i, list, count))
                continue;
            doubts = mem_realloc(doubts, (*ret_count + 1) * sizeof(*doubts));
            doubts[(*ret_count)++] =
                (struct doubt){.chunk = p->chunk, .instance = shard->place.instance, .shard = i};
        }
    }
    return doubts;
}

/* The place, if the doubt is still about it. */
static struct place *doubted(const struct volume *v, uint32_t number, const struct doubt *d)
{
    struct place *p = state_place(&v->state, d->chunk);
    if (!p || !is_old(v, p))
        return NULL;
    const struct chunk_shard *shard = &p->shards[d->shard];
    return shard->place.disk == number && shard->place.instance == d->instance &&
                   shard->state == CHUNK_SHARD_OK
               ? p
               : NULL;
}

/* CHUNK_SHARD_OK: it is as it should be, sealed now if it was not. Or an error that says nothing of it. */
static int judge(struct volume *v, uint32_t number, const struct doubt *d)
{
    struct place *p = doubted(v, number, d);
    struct disk *disk = volume_disk(v, number);
    struct chunk_place place;
    struct shard_info info;
    if (!p)
        return CHUNK_SHARD_OK;
    if (!disk_usable(disk))
        return -EHOSTUNREACH;
    place_expand(&v->state, p, &place);
    struct shard_key key = chunk_shard_key(&place, d->shard);
    int r = shard_stat(disk, key, &info);
    if (!(p = doubted(v, number, d)))
        return CHUNK_SHARD_OK;
    if (r == -ENOENT || (r == 0 && info.instance != d->instance))
        return CHUNK_SHARD_LOST;
    if (r == -EBADMSG)
        return CHUNK_SHARD_DAMAGED;
    if (r < 0 || !disk_usable(disk = volume_disk(v, number)))
        return r < 0 ? r : -EHOSTUNREACH;
    if (info.sealed)
        return info.length_blocks >= place.length_blocks ? CHUNK_SHARD_OK : CHUNK_SHARD_DAMAGED;
    unsigned rows = p->row_count;
    while (rows > 0 && place_length_blocks(p, rows) > info.length_blocks)
        rows--;
    bool whole = rows == p->row_count;
    r = shard_seal(disk, key, v->root.epoch, place_length_blocks(p, rows));
    if (r == -ESTALE)
        volume_deposed(v);
    if (r == -ESTALE || r == -EHOSTUNREACH || r == -EIO)
        return r;
    return r == 0 && whole ? CHUNK_SHARD_OK : CHUNK_SHARD_DAMAGED;
}

/* Repair and cleaning change shards under the same mutex. */
static int record_bad(
    struct volume *v, uint32_t number, const struct doubt *d, enum chunk_shard_state state)
{
    struct records records = {0};
    int r = 0;
    fiber_mutex_lock(&v->clean_mutex);
    const struct place *p = doubted(v, number, d);
    if (p) {
        struct chunk_shard shard = p->shards[d->shard];
        shard.state = state;
        log_warn("volume %s: chunk %llx shard %u on disk %u %s: it was away when the chunk was "
                 "sealed, and lost power; it is rebuilt",
            v->root.name, (unsigned long long)d->chunk, d->shard, number,
            state == CHUNK_SHARD_LOST ? "is not there" : "lacks rows");
        record_shard(&records, d->chunk, d->shard, &shard);
        r = manifest_commit(v, &records, NULL, NULL);
    }
    fiber_mutex_unlock(&v->clean_mutex);
    records_fini(&records);
    return r;
}

static int settle_doubts(
    struct volume *v, uint32_t number, const struct shard_info *list, unsigned count)
{
    unsigned doubt_count;
    int result = 0;
    CLEANUP_FREE struct doubt *doubts = find_doubts(v, number, list, count, &doubt_count);
    for (unsigned i = 0; i < doubt_count && !v->halted && !v->stopping; i++) {
        int r = judge(v, number, &doubts[i]);
        if (r > 0 && !PLANTED(missed_row_not_recorded))
            r = record_bad(v, number, &doubts[i], (enum chunk_shard_state)r);
        result = r < 0 ? r : result;
    }
    return result;
}

/* --- Disk by disk ------------------------------------------------------------------------------ */

static bool is_reconciled(const struct volume *v, uint32_t number)
{
    for (unsigned i = 0; i < v->reconciled_count; i++)
        if (v->reconciled[i] == number)
            return true;
    return false;
}

static int reconcile_disk(struct volume *v, uint32_t number)
{
    struct shard_info *list;
    unsigned count;
    int r = shard_list(volume_disk(v, number), v->root.id, &list, &count);
    if (r < 0)
        return r;
    qsort(list, count, sizeof(*list), by_key);
    r = settle_doubts(v, number, list, count);
    remove_unnamed(v, number, list, count);
    mem_free(list);
    if (r < 0 || v->halted || v->stopping)
        return r;
    v->reconciled = mem_realloc(v->reconciled, (v->reconciled_count + 1) * sizeof(*v->reconciled));
    v->reconciled[v->reconciled_count++] = number;
    return 0;
}

/* By number: disks come and go while it waits. */
int reconcile_disks(struct volume *v)
{
    unsigned count = 0;
    int result = 0;
    list_for_each (it, &v->host->disks->all)
        count++;
    CLEANUP_FREE uint32_t *numbers = mem_zalloc(count + 1, sizeof(*numbers));
    count = 0;
    list_for_each (it, &v->host->disks->all)
        numbers[count++] = list_entry(it, struct disk, link)->number;
    for (unsigned i = 0; i < count && !v->halted && !v->stopping; i++) {
        if (is_reconciled(v, numbers[i]) || !disk_usable(volume_disk(v, numbers[i])))
            continue;
        int r = reconcile_disk(v, numbers[i]);
        result = r < 0 ? r : result;
    }
    return result;
}
