/* SPDX-License-Identifier: Apache-2.0
 *
 * The write-ahead log: group commit, switching to the next log, rolling off a failed copy.
 *
 * Invariants
 *  W1 A record is acknowledged (acked_seq) when its append was answered 0 by ALL copies that the
 *     manifest names for its log, and all records before it are acknowledged.
 *  W2 One append is in flight at a time; its records are the queue's head, in order of sequence.
 *  W3 A copy that fails is left behind by rolling: a manifest record seals the old log at its
 *     acknowledged
 *     length before anything is acknowledged in the next one (S2). Records not yet acknowledged are
 *     appended again there.
 *  W4-W7 (sync): log_sync.c
 */
#include <errno.h>
#include <string.h>

#include "blockd/volume/log_impl.h"
#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/planted.h"

#define WAL_BLOCKS_MAX 4096
#define ROLL_FAST_NS 500000000ull
#define ROLL_SLOW_NS 8000000000ull
#define DSYNC_SCORE_ON 2
#define DSYNC_SCORE_MAX 4
#define DSYNC_APPENDS_MAX 4 /* appends per flush up to which appending with DSYNC is cheaper */

/* One append being built. */
struct batch {
    struct shard_entry entries[APPEND_ENTRIES_MAX];
    struct iovec iov[APPEND_ENTRIES_MAX];
    uint8_t body[APPEND_BODY_BYTES];
    unsigned entry_count, iov_count, body_len;
    struct list commits;
    uint64_t first_seq, last_seq;
    bool fua;
    struct group_append appends[CODE_M_MAX + 1];
};

struct shard_key log_wal_key(const struct volume *v, const struct wal *wal, unsigned copy)
{
    return (struct shard_key){.volume = v->root.id, .chunk = wal->chunk, .index = (uint8_t)copy};
}

uint64_t log_bytes(const struct volume *v)
{
    uint64_t blocks = 0;
    list_for_each (it, &v->state.wals)
        blocks += list_entry(it, struct wal, link)->length_blocks;
    return blocks * BLOCK_BYTES;
}

void log_enqueue(struct volume *v, struct commit *commit)
{
    CHECK(commit->seq == v->next_seq);
    v->next_seq++;
    commit->done = false;
    commit->waiter = NULL;
    list_push_back(&v->commit_queue, &commit->link);
    fiber_queue_wake_all(&v->committer_wake);
}

void log_enqueue_noop(struct volume *v)
{
    struct commit *commit = NEW(struct commit);
    *commit = (struct commit){.record = {.type = LOG_NOOP}, .seq = v->next_seq, .nobodys = true};
    v->ios++;
    log_enqueue(v, commit);
}

/* It is in the log, or never will be. */
static void commit_over(struct volume *v, struct commit *commit)
{
    if (commit->waiter)
        fiber_wake(commit->waiter);
    if (commit->nobodys) {
        mem_free(commit);
        io_leave(v);
    }
}

int log_wait(struct volume *v, struct commit *commit)
{
    commit->waiter = fiber_self();
    while (!commit->done && !v->halted)
        fiber_suspend();
    if (commit->done)
        return 0;
    /* Halted: the committer no longer looks at the queue, unless it is just in the middle. */
    while (v->committing)
        fiber_queue_wait(&v->ack_waiters);
    if (commit->done)
        return 0;
    list_remove(&commit->link);
    return -ESHUTDOWN;
}

int log_wait_acked(struct volume *v, uint64_t seq)
{
    while (v->acked_seq < seq) {
        if (v->halted)
            return -ESHUTDOWN;
        fiber_queue_wait(&v->ack_waiters);
    }
    return 0;
}

/* --- Group commit ------------------------------------------------------------------------------ */

static void batch_add_data(struct batch *b, const struct commit *commit)
{
    for (unsigned i = 0; i < commit->block_count; i++) {
        b->entries[b->entry_count++] = commit->entries[i];
        struct iovec *last = b->iov_count > 0 ? &b->iov[b->iov_count - 1] : NULL;
        if (last && (char *)last->iov_base + last->iov_len == commit->data[i])
            last->iov_len += BLOCK_BYTES;
        else
            b->iov[b->iov_count++] =
                (struct iovec){.iov_base = commit->data[i], .iov_len = BLOCK_BYTES};
    }
}

/* Takes what fits from the queue; false when the open log has no room for the first of it. */
static bool batch_gather(struct volume *v, struct batch *b)
{
    const struct wal *wal = v->wal_open;
    uint32_t room = wal->capacity_blocks - wal->length_blocks;
    b->entry_count = b->iov_count = b->body_len = 0;
    b->fua = false;
    list_init(&b->commits);
    while (!list_empty(&v->commit_queue)) {
        struct commit *commit = list_entry(v->commit_queue.next, struct commit, link);
        size_t size = log_record_size(&commit->record);
        unsigned entries = b->entry_count + commit->block_count;
        if (entries * sizeof(struct shard_entry) + b->body_len + size > APPEND_BODY_BYTES ||
            1 + entries > room)
            break;
        list_remove(&commit->link);
        if (list_empty(&b->commits))
            b->first_seq = commit->seq;
        list_push_back(&b->commits, &commit->link);
        b->body_len += (unsigned)log_record_encode(&commit->record, b->body + b->body_len);
        batch_add_data(b, commit);
        b->last_seq = commit->seq;
        b->fua = b->fua || commit->fua;
        v->sent_seq = commit->seq;
    }
    return !list_empty(&b->commits);
}

static bool use_dsync(const struct volume *v, const struct batch *b)
{
    return b->fua || v->dsync_score >= DSYNC_SCORE_ON;
}

static void batch_submit(struct volume *v, struct batch *b, bool dsync, struct fiber_group *group)
{
    struct wal *wal = v->wal_open;
    for (unsigned i = 0; i < wal->copies; i++) {
        struct disk *disk = volume_disk(v, wal->shards[i].place.disk);
        b->appends[i].append = (struct shard_append){.disk = disk,
            .key = log_wal_key(v, wal, i),
            .epoch = v->root.epoch,
            .off_blocks = wal->length_blocks,
            .base_seq = b->first_seq,
            .entries = b->entries,
            .entry_count = b->entry_count,
            .inline_bytes = b->body,
            .inline_len_bytes = b->body_len,
            .payload = b->iov,
            .payload_count = b->iov_count,
            .flags = dsync ? SHARD_APPEND_DSYNC : 0,
            .result = -EHOSTUNREACH};
        if (disk && wal->shards[i].state == CHUNK_SHARD_OK)
            group_append_submit(&b->appends[i], group);
    }
}

/* W5 */
static bool beyond_sync(const struct volume *v, const struct wal *wal)
{
    if (wal->epoch != v->root.epoch || wal->last_seq <= v->state.committed_seq)
        return false;
    for (unsigned i = 0; i < wal->copies; i++) {
        if (wal->shards[i].state == CHUNK_SHARD_OK)
            return false;
    }
    return true;
}

bool log_any_beyond_sync(const struct volume *v)
{
    list_for_each (it, &v->state.wals) {
        if (beyond_sync(v, list_entry(it, struct wal, link)))
            return true;
    }
    return false;
}

/* W7 */
bool log_roll_unrecorded(const struct volume *v)
{
    for (unsigned i = 0; v->wal_open && i < v->wal_open->copies; i++) {
        if (v->wal_open->shards[i].state != CHUNK_SHARD_OK)
            return true;
    }
    return false;
}

static bool all_synced(const struct volume *v)
{
    list_for_each (it, &v->state.wals) {
        const struct wal *wal = list_entry(it, struct wal, link);
        if (wal->synced_blocks < wal->length_blocks && wal->last_seq > v->state.committed_seq)
            return false;
    }
    return v->unsynced_rows == 0 && !log_any_beyond_sync(v) && !log_roll_unrecorded(v);
}

void log_note_synced(struct volume *v, uint64_t seq)
{
    if (seq <= v->synced_seq)
        return;
    v->synced_seq = seq;
    if (v->synced_seq == v->acked_seq)
        v->oldest_unsynced_ns = 0;
    fiber_queue_wake_all(&v->sync_waiters);
}

static void batch_acked(struct volume *v, struct batch *b, bool dsync)
{
    struct wal *wal = v->wal_open;
    CHECK(b->first_seq == v->acked_seq + 1); /* W1 */
    bool was_synced = wal->synced_blocks == wal->length_blocks;
    wal->length_blocks += 1 + b->entry_count;
    wal->last_seq = b->last_seq;
    if (dsync && was_synced)
        wal->synced_blocks = wal->length_blocks;
    v->acked_seq = b->last_seq;
    v->stats.log_appends++;
    v->appends_since_flush++;
    if (v->appends_since_flush > 4 * DSYNC_APPENDS_MAX)
        v->dsync_score = 0;
    if (v->oldest_unsynced_ns == 0)
        v->oldest_unsynced_ns = env_now_ns();
    if (wal->synced_blocks == wal->length_blocks && all_synced(v))
        log_note_synced(v, v->acked_seq);
    for (struct list *it; (it = list_pop_front(&b->commits));) {
        struct commit *commit = list_entry(it, struct commit, link);
        commit->done = true;
        commit_over(v, commit);
    }
    if (memtable_acked(&v->memtable, v->acked_seq) > 0)
        fiber_queue_wake_all(&v->host->budget->waiters);
    fiber_queue_wake_all(&v->ack_waiters);
}

/* Puts the batch back at the head of the queue, in order. */
static void batch_return(struct volume *v, struct batch *b)
{
    if (!PLANTED(break_cumulative_acks))
        list_splice_back(&b->commits, &v->commit_queue);
    list_splice_back(&v->commit_queue, &b->commits);
    v->sent_seq = b->first_seq - 1; /* they will be sent again */
}

static uint64_t log_bytes_max(const struct volume *v)
{
    return v->host->log_bytes_max ? v->host->log_bytes_max : 64ull << 20;
}

/* What recovery would have to replay, in whole logs. */
static uint64_t unreleased_bytes(const struct volume *v)
{
    uint64_t blocks = 0;
    list_for_each (it, &v->state.wals) {
        const struct wal *wal = list_entry(it, struct wal, link);
        if (wal->last_seq > v->state.committed_seq)
            blocks += wal->length_blocks;
    }
    return blocks * BLOCK_BYTES;
}

bool log_is_long(const struct volume *v)
{
    return unreleased_bytes(v) > log_bytes_max(v) / 4 * 3;
}

static void log_limit(struct volume *v)
{
    if (!log_is_long(v))
        return;
    if (memtable_empty(&v->memtable))
        fiber_queue_wake_all(&v->destager_wake);
    /* One at a time: a generation for each batch would cost more memory and smaller rows the slower
     * destage is. */
    if (!memtable_oldest_frozen(&v->memtable) && memtable_freeze(&v->memtable))
        fiber_queue_wake_all(&v->destager_wake);
}

bool log_is_full(struct volume *v)
{
    if (unreleased_bytes(v) <= log_bytes_max(v))
        return false;
    v->destage_all = true;
    fiber_queue_wake_all(&v->destager_wake);
    return true;
}

/* A quarter of the limit at most, so that what is committed can be released. */
static unsigned wal_blocks_max(const struct volume *v)
{
    uint64_t quarter = log_bytes_max(v) / 4 / BLOCK_BYTES;
    return (unsigned)MIN((uint64_t)WAL_BLOCKS_MAX, MAX(quarter, (uint64_t)WAL_BLOCKS_MIN));
}

static void batch_commit(struct volume *v, struct batch *b)
{
    struct fiber_group group;
    fiber_group_init(&group);
    struct wal *wal = v->wal_open;
    bool dsync = use_dsync(v, b);
    v->committing = true;
    batch_submit(v, b, dsync, &group);
    if (PLANTED(ack_before_all_copies))
        batch_acked(v, b, dsync);
    fiber_group_wait(&group);
    CHECK(wal == v->wal_open);
    bool failed = false, deposed = false;
    for (unsigned i = 0; i < wal->copies; i++) {
        int r = b->appends[i].append.result;
        if (PLANTED(fenced_is_failure) && r == -ESTALE)
            continue;
        deposed = deposed || r == -ESTALE;
        if (r < 0 && !PLANTED(lost_copy_is_fine)) {
            failed = true;
            log_copy_failed(v, wal, i, r);
        }
    }
    if (deposed) {
        batch_return(v, b);
        volume_deposed(v);
    } else if (failed) {
        batch_return(v, b);
    } else {
        if (!PLANTED(ack_before_all_copies))
            batch_acked(v, b, dsync);
        log_limit(v);
        slow_check(v);
    }
    v->committing = false;
    fiber_queue_wake_all(&v->ack_waiters);
}

/* --- Switching and rolling ---------------------------------------------------------------------- */

void log_copy_failed(struct volume *v, struct wal *wal, unsigned copy, int error)
{
    if (wal->shards[copy].state == CHUNK_SHARD_OK && error != -ESTALE)
        log_warn("volume %s: log copy %u on disk %u failed (%s): rolling to other disks",
            v->root.name, copy, wal->shards[copy].place.disk, strerror(-error));
    /* One that cannot be reached is left behind, but has all that was acknowledged: recovery counts
     * it (S3). Were it recorded as lost, an owner that was cut off from all copies for a moment would
     * lose them all by its own word. */
    wal->shards[copy].state = error == -EHOSTUNREACH ? CHUNK_SHARD_DAMAGED : CHUNK_SHARD_LOST;
    if (wal == v->wal_open) {
        v->wal_roll = true;
        fiber_queue_wake_all(&v->committer_wake);
    }
    /* What only fewer copies hold now goes into full rows soon (S3). */
    v->destage_all = true;
    fiber_queue_wake_all(&v->destager_wake);
}

static bool wal_healthy(const struct volume *v, const struct wal *wal)
{
    for (unsigned i = 0; i < wal->copies; i++) {
        const struct disk *disk = volume_disk(v, wal->shards[i].place.disk);
        if (wal->shards[i].state != CHUNK_SHARD_OK || !disk || disk->state != DISK_IN)
            return false;
    }
    return true;
}

static void wal_remove_shards(struct volume *v, const struct wal *wal)
{
    for (unsigned i = 0; i < wal->copies; i++)
        leftover_remove(
            v, wal->shards[i].place.disk, log_wal_key(v, wal, i), wal->shards[i].place.instance);
}

/* The next log goes; the provisioner makes another. */
static int drop_next(struct volume *v)
{
    struct wal gone = *v->wal_next;
    struct records records = {0};
    record_wal_freed(&records, gone.chunk);
    v->wal_next = NULL;
    int r = manifest_commit(v, &records, NULL, NULL);
    records_fini(&records);
    if (r < 0)
        return r;
    wal_remove_shards(v, &gone);
    v->host->budget->places_freed += gone.capacity_blocks > WAL_BLOCKS_MIN;
    fiber_queue_wake_all(&v->host->budget->reclaim_waiters);
    fiber_queue_wake_all(&v->provisioner_wake);
    return 0;
}

int log_next_shrink(struct volume *v)
{
    v->wal_capacity_blocks = WAL_BLOCKS_MIN;
    return v->wal_next && v->wal_next->capacity_blocks > WAL_BLOCKS_MIN ? drop_next(v) : 0;
}

int log_fill_up(struct volume *v, unsigned copies)
{
    int r = v->wal_next && wal_domains(v, v->wal_next) < copies ? drop_next(v) : 0;
    if (r < 0 || !v->wal_open)
        return r;
    if (wal_domains(v, v->wal_open) < copies) {
        v->wal_roll = v->destage_all = true;
        fiber_queue_wake_all(&v->committer_wake);
    }
    list_for_each (it, &v->state.wals) { /* what they hold goes into rows */
        const struct wal *wal = list_entry(it, struct wal, link);
        unsigned domains = wal_domains(v, wal);
        if (wal->sealed && wal->last_seq > v->state.committed_seq && domains < wal->copies &&
            domains < copies)
            v->destage_all = true;
    }
    if (v->destage_all)
        fiber_queue_wake_all(&v->destager_wake);
    return 0;
}

/* Everything is in rows, the logs are about to be freed: nobody makes another one. */
static bool closing(const struct volume *v)
{
    return v->stopping && list_empty(&v->commit_queue);
}

/* Waits for a next log whose copies are all up. */
static int need_next(struct volume *v)
{
    for (;;) {
        if (v->halted || closing(v))
            return -ESHUTDOWN;
        if (v->wal_next && wal_healthy(v, v->wal_next) && !v->wal_next_leave)
            return 0;
        if (v->wal_next) {
            v->wal_next_leave = false;
            int r = drop_next(v);
            if (r < 0)
                return r;
            continue;
        }
        fiber_queue_wake_all(&v->provisioner_wake);
        fiber_queue_wait(&v->space_waiters);
    }
}

/* Seals the open log at its acknowledged length and goes on in the next one (W3). */
static int next_wal(struct volume *v)
{
    int r = need_next(v);
    if (r < 0)
        return r;
    struct wal sealed = *v->wal_open;
    sealed.sealed = true;
    sealed.length_blocks -= PLANTED(off_by_one_sealed_length) && sealed.length_blocks > 0;
    struct records records = {0};
    if (!PLANTED(roll_unrecorded))
        record_wal(&records, &sealed);
    r = manifest_commit(v, &records, NULL, NULL);
    records_fini(&records);
    if (r < 0)
        return r;
    if (!v->wal_next || !wal_healthy(v, v->wal_next))
        return next_wal(v); /* it failed meanwhile; sealing again changes nothing */
    uint64_t now_ns = env_now_ns(), took_ns = now_ns - v->wal_opened_ns;
    if (took_ns < ROLL_FAST_NS)
        v->wal_capacity_blocks = MIN(v->wal_capacity_blocks * 2, wal_blocks_max(v));
    else if (took_ns > ROLL_SLOW_NS)
        v->wal_capacity_blocks = MAX(v->wal_capacity_blocks / 2, (unsigned)WAL_BLOCKS_MIN);
    v->wal_opened_ns = now_ns;
    v->wal_open = v->wal_next;
    v->wal_next = NULL;
    v->wal_roll = false;
    fiber_queue_wake_all(&v->syncer_wake); /* W7 */
    fiber_queue_wake_all(&v->provisioner_wake);
    fiber_queue_wake_all(&v->ack_waiters);
    return 0;
}

void log_roll_if_long(struct volume *v, unsigned blocks)
{
    if (v->wal_next && wal_healthy(v, v->wal_next) && v->wal_open &&
        v->wal_open->length_blocks > blocks) {
        v->wal_roll = true;
        fiber_queue_wake_all(&v->committer_wake);
    }
}

void log_committer(void *arg)
{
    struct volume *v = arg;
    struct batch *batch = NEW(struct batch);
    list_init(&batch->commits);
    while (!v->halted && !closing(v)) {
        if (v->wal_roll || !wal_healthy(v, v->wal_open)) {
            v->wal_roll = true;
            next_wal(v);
        } else if (!list_empty(&v->commit_queue)) {
            if (batch_gather(v, batch))
                batch_commit(v, batch);
            else
                next_wal(v);
        } else {
            fiber_queue_wait(&v->committer_wake);
        }
    }
    mem_free(batch);
    /* Halted while a batch was in flight: its commits were in no queue then (volume_halt). */
    list_for_each_safe (it, &v->commit_queue) {
        struct commit *commit = list_entry(it, struct commit, link);
        if (commit->nobodys)
            list_remove(&commit->link);
        commit_over(v, commit);
    }
    fiber_queue_wake_all(&v->ack_waiters);
}

/* --- Freeing ----------------------------------------------------------------------------------- */

void log_collect_freed(
    struct volume *v, uint64_t committed_seq, struct records *records, struct list *ret_removed)
{
    list_for_each (it, &v->state.wals) {
        const struct wal *wal = list_entry(it, struct wal, link);
        if (wal == v->wal_open || wal == v->wal_next || !wal->sealed ||
            wal->last_seq > committed_seq)
            continue;
        record_wal_freed(records, wal->chunk);
        struct removed_wal *removed = NEW(struct removed_wal);
        removed->wal = *wal;
        list_push_back(ret_removed, &removed->link);
    }
}

void log_committed(struct volume *v, uint64_t committed_seq)
{
    log_note_synced(v, committed_seq);
    fiber_queue_wake_all(&v->syncer_wake); /* W5 */
}

void log_remove_freed(struct volume *v, struct list *removed)
{
    for (struct list *it; (it = list_pop_front(removed));) {
        struct removed_wal *r = list_entry(it, struct removed_wal, link);
        if (!v->halted) {
            wal_remove_shards(v, &r->wal);
            v->host->budget->places_freed++;
        }
        mem_free(r);
    }
    fiber_queue_wake_all(&v->host->budget->reclaim_waiters);
}

/* --- Learning from flushes ------------------------------------------------------------------------ */

void log_learn_flush(struct volume *v)
{
    if (v->appends_since_flush == 0)
        return;
    if (v->appends_since_flush <= DSYNC_APPENDS_MAX)
        v->dsync_score = MIN(v->dsync_score + 1, (unsigned)DSYNC_SCORE_MAX);
    else
        v->dsync_score /= 2;
    v->appends_since_flush = 0;
}
