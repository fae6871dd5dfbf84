/* SPDX-License-Identifier: Apache-2.0
 *
 * The write-ahead log: what is durable. The syncer, and those who wait for it.
 *
 * Invariants (W1-W3: log.c)
 *  W4 synced_seq rises only when every record up to it is durable on all present copies of its log,
 *     and every
 *     large-write row it refers to on all its shards, by syncs submitted after their appends were
 *     complete (S4).
 *  W5 A log without any copy left is made durable by no sync: synced_seq does not pass its records
 *     before destage has committed them. Destage itself waits only for rows (G2), never for logs.
 *  W7 While the manifest still names a failed copy of the open log, synced_seq does not pass what that copy
 *     may lack: recovery counts it, perhaps it alone. Flushes wait for the roll's record, or for destage (S2).
 *  W6 Unsynced rows of which fewer than k shards are left are lost: the next flush says so (-EIO).
 */
#include <errno.h>

#include "blockd/volume/log_impl.h"
#include "common/check.h"
#include "common/env.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/planted.h"

#define UNREACHABLE_RETRY_NS 100000000ull

int log_sync_to(struct volume *v, uint64_t seq)
{
    uint64_t lost = v->rows_lost_told;
    while (v->synced_seq < seq && v->rows_lost == lost) {
        if (v->halted)
            return -ESHUTDOWN;
        v->sync_wanted_seq = MAX(v->sync_wanted_seq, seq);
        fiber_queue_wake_all(&v->syncer_wake);
        fiber_queue_wait(&v->sync_waiters);
    }
    if (v->rows_lost == lost)
        return 0;
    v->rows_lost_told = v->rows_lost; /* W6 */
    return -EIO;
}

int log_sync_rows_to(struct volume *v, uint64_t seq)
{
    while (MAX(v->rows_synced_seq, v->synced_seq) < seq) {
        if (v->halted)
            return -ESHUTDOWN;
        v->rows_wanted_seq = MAX(v->rows_wanted_seq, seq);
        fiber_queue_wake_all(&v->syncer_wake);
        fiber_queue_wait(&v->sync_waiters);
    }
    return 0;
}

/* What one round of syncs covers; by name, since logs and places may go while it is under way. */
struct sync_target {
    bool row;
    uint64_t chunk;
    uint32_t length_blocks;
    unsigned copy;
    unsigned rows;
    struct group_sync sync;
};

static struct wal *wal_find(struct volume *v, uint64_t chunk)
{
    list_for_each (it, &v->state.wals) {
        struct wal *wal = list_entry(it, struct wal, link);
        if (wal->chunk == chunk)
            return wal;
    }
    return NULL;
}

static struct sync_target *target_add(struct sync_target **targets, unsigned *count)
{
    if (*count % 32 == 0)
        *targets = mem_realloc(*targets, (*count + 32) * sizeof(**targets));
    struct sync_target *target = &(*targets)[(*count)++];
    *target = (struct sync_target){0};
    return target;
}

static void target_prepare(
    struct volume *v, struct sync_target *t, struct shard_key key, uint32_t disk)
{
    t->sync.sync = (struct shard_sync){.disk = volume_disk(v, disk),
        .key = key,
        .epoch = v->root.epoch,
        .length_blocks = t->length_blocks,
        .result = -EHOSTUNREACH};
}

static struct sync_target *sync_collect(struct volume *v, unsigned *ret_count)
{
    struct sync_target *targets = NULL;
    unsigned count = 0;
    list_for_each (it, &v->state.wals) {
        const struct wal *wal = list_entry(it, struct wal, link);
        if (wal->synced_blocks == wal->length_blocks || wal->epoch != v->root.epoch ||
            wal->last_seq <= v->state.committed_seq)
            continue;
        if (PLANTED(flush_open_log_only) && wal != v->wal_open)
            continue;
        for (unsigned i = 0; i < wal->copies; i++) {
            if (wal->shards[i].state != CHUNK_SHARD_OK)
                continue;
            struct sync_target *t = target_add(&targets, &count);
            t->chunk = wal->chunk;
            t->copy = i;
            t->length_blocks = wal->length_blocks;
            target_prepare(v, t, log_wal_key(v, wal, i), wal->shards[i].place.disk);
        }
    }
    uint32_t pos = 0;
    for (const struct place *p; v->unsynced_rows > 0 && (p = idmap_next(&v->state.places, &pos));) {
        if (p->unsynced_rows == 0 || PLANTED(flush_without_rows))
            continue;
        for (unsigned i = 0; i < place_shards(p); i++) {
            if (p->shards[i].state == CHUNK_SHARD_LOST)
                continue;
            struct sync_target *t = target_add(&targets, &count);
            t->row = true;
            t->chunk = p->chunk;
            t->copy = i;
            t->rows = p->unsynced_rows;
            t->length_blocks = p->unsynced_end_blocks;
            target_prepare(v, t,
                (struct shard_key){.volume = v->root.id, .chunk = p->chunk, .index = (uint8_t)i},
                p->shards[i].place.disk);
        }
    }
    *ret_count = count;
    return targets;
}

static unsigned place_lost(const struct place *p)
{
    unsigned lost = 0;
    for (unsigned i = 0; i < place_shards(p); i++)
        lost += p->shards[i].state == CHUNK_SHARD_LOST;
    return lost;
}

/* A shard of rows on another node, or on a disk that hangs: it may be back in a moment, or is just now. */
static bool merely_away(struct volume *v, const struct sync_target *t)
{
    const struct place *p = t->row ? state_place(&v->state, t->chunk) : NULL;
    const struct disk *disk = p ? volume_disk(v, p->shards[t->copy].place.disk) : NULL;
    return t->sync.sync.result == -EHOSTUNREACH && disk &&
           (!disk->local || disk->state != DISK_FAILED);
}

/* A shard of a row that could not be synced is lost from there on; recorded before the flush is
 * answered (S23). */
static int row_sync_failed(struct volume *v, const struct sync_target *t)
{
    struct place *p = state_place(&v->state, t->chunk);
    if (!p || p->shards[t->copy].state == CHUNK_SHARD_LOST)
        return 0;
    if (merely_away(v, t) &&
        place_lost(p) >= p->code.m) { /* away is not lost: the flush waits (S14) */
        v->trouble_ns = env_now_ns();
        env_sleep_ns(UNREACHABLE_RETRY_NS);
        return 0;
    }
    struct chunk_shard lost = p->shards[t->copy];
    lost.state = CHUNK_SHARD_LOST;
    place_retire(v, p);
    struct records records = {0};
    record_shard(&records, t->chunk, t->copy, &lost);
    int r = manifest_commit(v, &records, NULL, NULL);
    records_fini(&records);
    repair_kick(v);
    return r;
}

static int sync_failed(struct volume *v, const struct sync_target *t)
{
    int error = t->sync.sync.result;
    if (error == -ESTALE) {
        volume_deposed(v);
        return -ESHUTDOWN;
    }
    if (t->row)
        return row_sync_failed(v, t);
    struct wal *wal = wal_find(v, t->chunk);
    if (!wal)
        return 0;
    log_copy_failed(v, wal, t->copy, error); /* W7 */
    return v->halted ? -ESHUTDOWN : 0;
}

static void sync_succeeded(struct volume *v, const struct sync_target *targets, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        const struct sync_target *t = &targets[i];
        if (t->row && (i == 0 || targets[i - 1].chunk != t->chunk)) {
            struct place *p = state_place(&v->state, t->chunk);
            unsigned rows = t->rows;
            if (p && p->unsynced_rows >= rows) {
                p->unsynced_rows -= (uint16_t)rows;
                v->unsynced_rows -= rows;
            }
        } else if (!t->row) {
            struct wal *wal = wal_find(v, t->chunk);
            if (wal)
                wal->synced_blocks = MAX(wal->synced_blocks, t->length_blocks);
        }
    }
}

/* W6 */
static void give_up_rows(struct volume *v)
{
    uint32_t pos = 0;
    for (struct place *p; v->unsynced_rows > 0 && (p = idmap_next(&v->state.places, &pos));) {
        unsigned lost = place_lost(p);
        if (p->unsynced_rows == 0 || lost <= p->code.m)
            continue;
        log_error(
            "volume %s: %u large writes to chunk %llx are lost: %u of its %u disks failed before "
            "they were flushed",
            v->root.name, p->unsynced_rows, (unsigned long long)p->chunk, lost, place_shards(p));
        v->rows_lost += p->unsynced_rows;
        v->unsynced_rows -= p->unsynced_rows;
        p->unsynced_rows = 0;
        fiber_queue_wake_all(&v->sync_waiters);
    }
}

/* One round: everything acknowledged before it is durable after it, but for what only destage can
 * make durable (W5). */
static int sync_round(struct volume *v)
{
    give_up_rows(v);
    uint64_t target_seq = v->acked_seq, start_ns = env_now_ns();
    unsigned count;
    struct sync_target *targets = sync_collect(v, &count);
    struct fiber_group group;
    fiber_group_init(&group);
    for (unsigned i = 0; i < count; i++) {
        if (PLANTED(drop_a_sync) && !targets[i].row && targets[i].copy == 0)
            targets[i].sync.sync.result = 0;
        else if (targets[i].sync.sync.disk)
            group_sync_submit(&targets[i].sync, &group);
    }
    fiber_group_wait(&group);
    int r = 0;
    bool failed = false;
    /* What is lost for good first: of what is left those that are away may be needed. */
    for (unsigned i = 0; i < 2 * count && r == 0; i++) {
        const struct sync_target *t = &targets[i % count];
        if (t->sync.sync.result < 0 && merely_away(v, t) == (i >= count) &&
            (t->row || wal_find(v, t->chunk))) {
            failed = true;
            r = sync_failed(v, t);
        }
    }
    if (!failed) {
        sync_succeeded(v, targets, count);
        v->rows_synced_seq = MAX(v->rows_synced_seq, target_seq);
        fiber_queue_wake_all(&v->sync_waiters);
        if (!log_any_beyond_sync(v) && !log_roll_unrecorded(v))
            log_note_synced(v, target_seq);
        if (v->synced_seq < v->acked_seq) /* what came meanwhile has its own time */
            v->oldest_unsynced_ns = start_ns;
    }
    mem_free(targets);
    return r;
}

static bool round_wanted(const struct volume *v, uint64_t after_ns)
{
    if (v->rows_wanted_seq > MAX(v->rows_synced_seq, v->synced_seq))
        return true;
    if (log_any_beyond_sync(v) || log_roll_unrecorded(v))
        return false;
    bool due = v->oldest_unsynced_ns && env_now_ns() >= v->oldest_unsynced_ns + after_ns;
    return v->sync_wanted_seq > v->synced_seq || (due && v->synced_seq < v->acked_seq);
}

void log_syncer(void *arg)
{
    struct volume *v = arg;
    uint64_t after_ns = v->host->flush_after_ns ? v->host->flush_after_ns : 5000000000ull;
    while (!v->halted && !v->stopping) {
        if (round_wanted(v, after_ns)) {
            if (v->synced_seq < v->acked_seq)
                sync_round(v);
            else
                log_wait_acked(v, MAX(v->sync_wanted_seq, v->rows_wanted_seq));
        } else if (log_any_beyond_sync(v)) {
            v->destage_all = true;
            fiber_queue_wake_all(&v->destager_wake);
            fiber_queue_wait(&v->syncer_wake);
        } else if (log_roll_unrecorded(v)) {
            fiber_queue_wait(&v->syncer_wake); /* for the roll, or for destage */
        } else if (v->oldest_unsynced_ns) {
            fiber_queue_wait_until(&v->syncer_wake, v->oldest_unsynced_ns + after_ns);
        } else {
            fiber_queue_wait(&v->syncer_wake);
        }
    }
    fiber_queue_wake_all(&v->sync_waiters);
}
