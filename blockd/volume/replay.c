/* SPDX-License-Identifier: Apache-2.0
 *
 * Replaying the logs that the manifest names; the invariants O1-O4 stand at the head of open.c.
 */
#include <errno.h>
#include <string.h>

#include "blockd/disk/append_header.h"
#include "blockd/volume/fanout.h"
#include "blockd/volume/recovery.h"
#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/planted.h"

#define WINDOW_BLOCKS 512

int recovery_block(struct recovery *rec, void **ret_data)
{
    int r = volume_get_blocks(rec->volume, 1, NULL, ret_data);
    if (r == -EAGAIN)
        *rec->ret_error = mem_strdup("no memory comes free for its log, for other volumes wait for "
                                     "disks (see 'holdfast status'): trying again");
    return r;
}

static int replay_write(struct recovery *rec, const struct log_record *record, uint64_t seq,
    const uint8_t *header, unsigned entry, const uint8_t *payload)
{
    struct volume *v = rec->volume;
    bool froze = false;
    /* All of it in one generation (T1): the commit of a generation releases the log up to its last
     * record. Nothing else touches the memtable during replay, so `gen` stays the active one. */
    struct memtable_gen *gen =
        memtable_active(&v->memtable, (unsigned)record->count, env_now_ns(), &froze);
    for (unsigned i = 0; i < record->count; i++) {
        void *data;
        int r = recovery_block(rec, &data);
        if (r < 0)
            return r;
        memcpy(data, payload + (size_t)i * BLOCK_BYTES, BLOCK_BYTES);
        memtable_put(&v->memtable, gen, record->block + i, data,
            append_header_entry(header, entry + i).crc, seq);
    }
    return 0;
}

static int replay_record(struct recovery *rec, const struct log_record *record, uint64_t seq,
    const uint8_t *header, unsigned entry, const uint8_t *payload, int presence)
{
    struct volume *v = rec->volume;
    uint64_t blocks = DIV_ROUND_UP(v->state.size_bytes, BLOCK_BYTES);
    if (record->type != LOG_NOOP &&
        (record->block >= blocks || record->count > blocks - record->block)) {
        *rec->ret_error =
            mem_printf("log record %llu is beyond the volume's end", (unsigned long long)seq);
        return -EBADMSG;
    }
    int r = 0;
    bool froze = false;
    if (record->type == LOG_WRITE)
        r = replay_write(rec, record, seq, header, entry, payload);
    else if (record->type == LOG_TRIM && !PLANTED(lost_trim))
        memtable_put_trim(memtable_active(&v->memtable, 0, env_now_ns(), &froze), record->block,
            record->count, seq);
    else if (record->type == LOG_ROW)
        r = recovery_replay_row(rec, record, seq, presence);
    if (r == 0) {
        requests_replayed(
            &v->requests, record->session, record->number, record->block + record->count, seq);
        v->acked_seq = seq;
        memtable_acked(&v->memtable, seq);
    }
    return r;
}

#define RECORDS_MAX (APPEND_BODY_BYTES / 40) /* of one append; 40 is the smallest record */

/* The records of one append, decoded. */
struct append_records {
    unsigned count;
    uint64_t base_seq;
    struct log_record records[RECORDS_MAX];
    unsigned entries[RECORDS_MAX]; /* first payload block of a WRITE */
    int8_t presence[RECORDS_MAX];  /* of a ROW: as row_present */
    bool added[RECORDS_MAX];       /* of a ROW: its place has the row since this replay */
};

static int decode_append(struct recovery *rec, const uint8_t *at,
    const struct append_header *header, struct append_records *ret)
{
    const uint8_t *body = append_header_inline(at, header);
    size_t left = header->inline_len_bytes;
    unsigned entry = 0;
    ret->count = 0;
    ret->base_seq = header->base_seq;
    while (left > 0) {
        struct log_record *record = &ret->records[ret->count];
        int64_t size = ret->count < RECORDS_MAX ? log_record_decode(body, left, record) : -EBADMSG;
        unsigned blocks = size > 0 && record->type == LOG_WRITE ? (unsigned)record->count : 0;
        if (size < 0 || entry + blocks > header->entry_count) {
            *rec->ret_error = mem_printf("log record %llu cannot be decoded",
                (unsigned long long)(header->base_seq + ret->count));
            return -EBADMSG;
        }
        ret->entries[ret->count++] = entry;
        entry += blocks;
        body += size;
        left -= (size_t)size;
    }
    return 0;
}

/* Looks whether every row that the append refers to can be had. 1 = not, and only power loss
 * explains it: the append as a whole does not
 * count, for the log is sealed before it (O4) and nothing behind the seal may be served. */
static int stage_append(struct recovery *rec, struct append_records *a)
{
    unsigned i;
    int r = 1;
    for (i = 0; i < a->count && r > 0; i++) {
        a->added[i] = false;
        a->presence[i] = 1;
        if (a->records[i].type != LOG_ROW || a->base_seq + i < rec->expected_seq)
            continue;
        r = recovery_stage_row(rec, &a->records[i], a->base_seq + i, &a->added[i]);
        a->presence[i] = (int8_t)MAX(r, 0);
    }
    if (r > 0)
        return 0;
    while (i-- > 0) {
        if (a->added[i])
            state_chunk(&rec->volume->state, a->records[i].chunk_index)->place->row_count--;
    }
    return r < 0 ? r : 1;
}

/* One append, header and payload in memory; all of it counts or nothing. */
static int replay_append(
    struct recovery *rec, const uint8_t *at, const struct append_header *header)
{
    struct volume *v = rec->volume;
    if (PLANTED(replay_over_gap))
        rec->expected_seq = MAX(rec->expected_seq, header->base_seq);
    if (header->inline_len_bytes > 0 && header->base_seq > rec->expected_seq) {
        if (!rec->tail_lost) {
            *rec->ret_error = mem_printf(
                "the log lacks records %llu to %llu, which no loss of power explains; nothing was "
                "given up: bring back the disks that are away (see 'holdfast disk list'), and if "
                "none is, report this: it is an error of holdfast",
                (unsigned long long)rec->expected_seq, (unsigned long long)header->base_seq - 1);
            return -EBADMSG;
        }
        rec->stopped = true; /* O2 */
        log_warn("volume %s: the log lacks records %llu to %llu: what comes after is given up",
            v->root.name, (unsigned long long)rec->expected_seq,
            (unsigned long long)header->base_seq - 1);
        return 0;
    }
    CLEANUP_FREE struct append_records *a = mem_alloc(sizeof(*a));
    int r = decode_append(rec, at, header, a);
    if (r == 0)
        r = stage_append(rec, a);
    if (r == 1) {
        rec->stopped = rec->power_loss = rec->tail_lost = true;
        return 0;
    }
    for (unsigned i = 0; i < a->count && r == 0; i++) {
        uint64_t seq = a->base_seq + i;
        if (seq != rec->expected_seq)
            continue; /* committed long ago */
        r = replay_record(rec, &a->records[i], seq, at, a->entries[i],
            at + (size_t)(1 + a->entries[i]) * BLOCK_BYTES, a->presence[i]);
        if (r == 0)
            rec->expected_seq++;
    }
    return r;
}

/* What the copies at hand lack, one that is away may have (S14). */
static int wait_for_copy(struct recovery *rec, const struct copies_set *copies, const char *what)
{
    *rec->ret_error =
        mem_printf("log %llx is %s in every copy that can be reached: bring back the disks that "
                   "hold it, or forget them ('holdfast disk remove N --force')",
            (unsigned long long)copies->chunk, what);
    return -EHOSTUNREACH;
}

/* Replays blocks [0, length) of a log; *ret_end = end of the last append that counts. `away`: its length is
 * on record, and a copy that cannot be reached now may have all of it. */
static int replay_wal(struct recovery *rec, const struct copies_set *copies, uint32_t length,
    bool away, uint64_t *ret_last_seq, uint32_t *ret_end)
{
    uint8_t *window = mem_alloc_pages((size_t)WINDOW_BLOCKS * BLOCK_BYTES);
    uint32_t off = 0;
    int r = 0;
    while (off < length && !rec->stopped && r == 0) {
        uint32_t count = MIN(length - off, (uint32_t)WINDOW_BLOCKS), at = 0, bad;
        r = copies_read(copies, off, count, window, &bad);
        if (r < 0 && away) {
            r = wait_for_copy(rec, copies, "damaged");
            break;
        }
        if (r == -EHOSTUNREACH) { /* S14: that is no damage */
            *rec->ret_error = mem_printf("log %llx: its disks went away while it was read",
                (unsigned long long)copies->chunk);
            break;
        }
        if (r < 0 && copies->suspect == copies->usable) {
            /* Power was lost: a later append may have survived an earlier one that nobody flushed.
             * What comes before counts. */
            rec->power_loss = rec->tail_lost = true;
            r = 0;
            count = bad - off;
            length = bad;
        }
        if (r < 0)
            *rec->ret_error = mem_printf("block %u of log %llx is damaged in every copy", bad,
                (unsigned long long)copies->chunk);
        while (r == 0 && at < count && !rec->stopped) {
            struct append_header header;
            r = append_header_parse(window + (size_t)at * BLOCK_BYTES, &header);
            if (r < 0)
                *rec->ret_error = mem_printf("block %u of log %llx is not a header", off + at,
                    (unsigned long long)copies->chunk);
            if (r < 0 || at + 1 + header.entry_count > count)
                break;
            r = replay_append(rec, window + (size_t)at * BLOCK_BYTES, &header);
            if (r == 0 && !rec->stopped) {
                at += 1 + header.entry_count;
                *ret_last_seq = rec->expected_seq - 1;
            }
        }
        off += at;
        if (r == 0 && at == 0 && !rec->stopped) {
            if (copies->suspect == copies->usable && !away) {
                rec->stopped = true;
                break;
            }
            *rec->ret_error =
                mem_printf("log %llx ends inside an append", (unsigned long long)copies->chunk);
            r = -EBADMSG;
        }
    }
    mem_free_pages(window, (size_t)WINDOW_BLOCKS * BLOCK_BYTES);
    *ret_end = off;
    return r;
}

struct sealing {
    const struct volume *volume;
    const struct copies_set *copies;
    uint64_t chunk;
    uint32_t end;
    int results[CODE_M_MAX + 1];
};

static void seal_one(void *ctx, unsigned i)
{
    struct sealing *s = ctx;
    struct shard_key key = {.volume = s->volume->root.id, .chunk = s->chunk, .index = (uint8_t)i};
    s->results[i] = -ENOENT;
    if (s->copies->disks[i] && PLANTED(append_to_old_log))
        s->results[i] = 0;
    else if (s->copies->disks[i] && s->copies->infos[i].sealed &&
             s->copies->infos[i].length_blocks >= s->end)
        s->results[i] = 0; /* by an open that was cut short: O6 */
    else if (s->copies->disks[i] && s->copies->infos[i].length_blocks >= s->end)
        s->results[i] = shard_seal(s->copies->disks[i], key, s->volume->root.epoch, s->end);
}

/* Whether another owner may find this copy and read it: not what is gone or was left behind. */
static bool may_be_found(
    const struct volume *v, const struct wal *wal, const struct copies_set *copies, unsigned copy)
{
    return wal->shards[copy].state != CHUNK_SHARD_LOST && copies->errors[copy] != -ENOENT &&
           disk_may_come(v->host, wal->shards[copy].place.disk);
}

/* Seals every copy that has `end` (O4); the others are lost. */
static int seal_copies(
    struct recovery *rec, struct wal *wal, const struct copies_set *copies, uint32_t end)
{
    struct volume *v = rec->volume;
    unsigned sealed = 0;
    bool away = false, differs = false, on_record = wal->sealed;
    struct sealing sealing = {.volume = v, .copies = copies, .chunk = wal->chunk, .end = end};
    fanout_run("seal copies", wal->copies, MAX(wal->copies, 1u), seal_one, &sealing);
    for (unsigned i = 0; i < wal->copies; i++) {
        int r = sealing.results[i];
        if (r == -ESTALE)
            return r;
        differs = differs || (r < 0 && may_be_found(v, wal, copies, i));
        wal->shards[i].state = r == 0 ? CHUNK_SHARD_OK : CHUNK_SHARD_LOST;
        sealed += r == 0;
        away = away || r == -EHOSTUNREACH;
    }
    wal->sealed = true;
    wal->length_blocks = wal->synced_blocks = end;
    if (sealed == 0 && end > 0) {
        *rec->ret_error =
            mem_printf("no copy of log %llx could be sealed", (unsigned long long)wal->chunk);
        return away ? -EHOSTUNREACH : -EIO;
    }
    if (differs && end > 0 && !on_record)
        v->tail_unsure = true; /* X7 */
    /* Fewer copies than wanted: what they hold goes into full rows at once (S3). */
    if (sealed < wal->copies)
        v->destage_all = true;
    return 0;
}

/* A log and its copies, fenced (`result`). */
struct fenced_wal {
    struct wal *wal;
    struct copies_set copies;
    int result;
};

int recovery_await(struct recovery *rec, uint32_t number, const char *what)
{
    const struct volume_host *host = rec->volume->host;
    uint64_t wait_ns = disk_awaited_ns(host, number);
    char disk[DISK_TEXT_BYTES];
    if (wait_ns == 0) {
        rec->given_up = number;
        return 0;
    }
    disk_describe(host, number, disk);
    *rec->ret_error = mem_printf(
        "power was lost, and %s, which is away, may have more of %s than what was found: waiting "
        "for it for %llu s more, then going on without it (writes that were not flushed may be "
        "lost); bring it back, or forget it ('holdfast disk remove %u --force')",
        disk, what, (unsigned long long)DIV_ROUND_UP(wait_ns, 1000000000), number);
    return -EHOSTUNREACH;
}

/* S14: only suspect copies of a log whose length is not on record were found; one that is away may be longer,
 * with writes that were acknowledged. A flushed one is on all of them. */
static int await_copies(
    struct recovery *rec, const struct copies_set *copies, const struct wal *wal)
{
    int r = 0;
    for (unsigned i = 0; i < copies->count && r == 0; i++) {
        bool away = copies->errors[i] == -EHOSTUNREACH || copies->errors[i] == -EIO;
        uint32_t number = wal->shards[i].place.disk;
        if (away && wal->shards[i].state != CHUNK_SHARD_LOST &&
            disk_may_come(rec->volume->host, number) && !PLANTED(unreachable_is_absent))
            r = recovery_await(rec, number, "its log");
    }
    return r;
}

/* X9 */
static bool ended_by_root(const struct volume *v, const struct wal *wal)
{
    return v->root.tail_log && wal->chunk == v->root.tail_log;
}

/* An earlier owner that could write no manifest has put its end on record in the root: as if it was sealed there. Also
 * where the manifest says otherwise: that record was on its way when the owner before ended, on some copies alone, for
 * who put the end into the root has not found it. Nothing was acknowledged on its word, and a copy that it calls LOST
 * may be the one that was read. */
static void end_by_root(struct volume *v)
{
    list_for_each (it, &v->state.wals) {
        struct wal *wal = list_entry(it, struct wal, link);
        if (!ended_by_root(v, wal))
            continue;
        wal->sealed = true;
        wal->length_blocks = v->root.tail_blocks;
        wal->last_seq = wal->length_blocks ? UINT64_MAX : 0; /* not known, so it is needed */
        for (unsigned i = 0; i < wal->copies; i++) {
            if (wal->shards[i].state == CHUNK_SHARD_LOST)
                wal->shards[i].state = CHUNK_SHARD_DAMAGED;
        }
    }
}

/* How much of the log counts, and whether what was found proves that it is all there was: else `suspect` becomes
 * `usable`. */
static int choose_length(struct recovery *rec, struct copies_set *copies, const struct wal *wal,
    bool needed, uint32_t *ret_length)
{
    uint32_t length =
        wal->sealed ? MIN(wal->length_blocks, copies->length_max) : copies->length_max;
    /* Only recovery seals copies: one that was cut short has chosen the length already; if the
     * others are suspect, so was that one. */
    unsigned chosen = 0;
    for (unsigned i = 0; i < copies->count && !wal->sealed; i++) {
        if (copies->disks[i] && copies->infos[i].sealed &&
            (!copies->infos[i].suspect || copies->suspect == copies->usable)) {
            length = MIN(length, copies->infos[i].length_blocks);
            chosen += !copies->infos[i].suspect;
        }
    }
    if (copies->suspect > 0)
        copies->suspect += chosen;
    *ret_length = length;
    bool spare =
        !wal->sealed && rec->open_seen; /* its first append comes after the other's seal (W3) */
    rec->open_seen = rec->open_seen || !wal->sealed || ended_by_root(rec->volume, wal);
    if (!wal->sealed && !spare && copies_away(copies, rec->volume->host, wal->shards))
        rec->volume->tail_unsure = true; /* X7: it may have more */
    if (!needed || spare || copies->suspect < copies->usable)
        return 0;
    rec->power_loss = true;
    return wal->sealed || chosen > 0 ? 0 : await_copies(rec, copies, wal);
}

static bool wal_needed(const struct volume *v, const struct wal *wal)
{
    return !(wal->sealed && wal->last_seq <= v->state.committed_seq);
}

/* Copies that nobody lost power of have what was acknowledged. */
static void lost_tail(struct volume *v)
{
    log_warn("volume %s: the disk with the longest copy of its log is gone: writes that were never "
             "acknowledged, and "
             "were read while only that disk was there, are lost",
        v->root.name);
    v->possible_loss = true;
}

static int recover_wal(struct recovery *rec, struct fenced_wal *fenced)
{
    struct volume *v = rec->volume;
    struct wal *wal = fenced->wal;
    struct copies_set copies = fenced->copies;
    bool was_open = !wal->sealed && !rec->open_seen;
    int r = fenced->result;
    if (r == -ESTALE)
        return r;
    /* Nothing is in a log before the one before it is sealed on record (W3): it may as well be away. */
    bool unused = r < 0 && !wal->sealed && rec->open_seen;
    bool needed = wal_needed(v, wal) && !rec->stopped && !unused;
    if (r < 0 && needed) {
        *rec->ret_error =
            mem_printf("no copy of log %llx can be read (%s): acknowledged writes are "
                       "in it; bring back the disks that hold it",
                (unsigned long long)wal->chunk, strerror(-r));
        return r == -ENOENT ? -EIO : r;
    }
    if (needed && copies.lost_only)
        log_warn("volume %s: every copy of log %llx had failed: what they hold is used, "
                 "acknowledged writes may be lost",
            v->root.name, (unsigned long long)wal->chunk);
    uint32_t length, end = 0;
    uint64_t last_seq = 0;
    int waits = choose_length(rec, &copies, wal, needed, &length);
    if (waits < 0)
        return waits;
    bool away = wal->sealed && copies_away(&copies, v->host, wal->shards);
    if (needed && wal->sealed && length < wal->length_blocks) {
        /* Only a power loss excuses that, and only if no copy is away that may have the rest
         * (S14); a disk that the operator has forgotten has none. */
        bool lost = ended_by_root(v, wal) && !away; /* with the only copy that was as long */
        if ((copies.suspect < copies.usable && !lost) || away)
            return wait_for_copy(rec, &copies, "shorter than recorded");
        if (copies.suspect < copies.usable)
            lost_tail(v);
        else
            rec->tail_lost = true;
    }
    if (needed)
        r = replay_wal(rec, &copies, length, away, &last_seq, &end);
    log_debug("volume %s: log %llx: %u of %u copies (%u suspect), replayed %u of %u blocks, up to "
              "record %llu",
        v->root.name, (unsigned long long)wal->chunk, copies.usable, copies.count, copies.suspect,
        end, length, (unsigned long long)last_seq);
    /* One that is replayed to its end and was committed goes as it is: it says the same again. */
    bool stays = rec->stopped || (needed && end < length) || last_seq > v->state.committed_seq;
    if ((r == 0 && stays) || (r < 0 && !needed))
        r = seal_copies(rec, wal, &copies, needed ? end : 0);
    if (was_open && needed && !copies.lost_only) {
        v->tail_log = wal->chunk;
        v->tail_blocks = end;
    }
    wal->last_seq = last_seq;
    return r;
}

struct fencing_wals {
    struct volume *volume;
    struct fenced_wal *wals;
};

static void fence_wal(void *ctx, unsigned i)
{
    const struct fencing_wals *fencing = ctx;
    const struct volume *v = fencing->volume;
    struct fenced_wal *f = &fencing->wals[i];
    f->result = copies_fence(&f->copies, v->host, v->root.id, f->wal->chunk, f->wal->shards,
        f->wal->copies, v->root.epoch);
    if (f->result == 0 && copies_set_back(&f->copies, v->root.epoch))
        f->result = -ESTALE;
}

#define FENCE_WIDTH 16

/* All at once; then one after the other, in order. */
static struct fenced_wal *fence_wals(struct volume *v, unsigned *ret_count)
{
    unsigned count = 0;
    list_for_each (it, &v->state.wals)
        count++;
    struct fenced_wal *wals = mem_zalloc(count + 1, sizeof(*wals));
    *ret_count = count;
    count = 0;
    list_for_each (it, &v->state.wals)
        wals[count++].wal = list_entry(it, struct wal, link);
    struct fencing_wals fencing = {.volume = v, .wals = wals};
    fanout_run("fence logs", count, FENCE_WIDTH, fence_wal, &fencing);
    return wals;
}

static uint64_t blocks_to_replay(
    const struct volume *v, const struct fenced_wal *fenced, unsigned count)
{
    uint64_t blocks = 0;
    for (unsigned i = 0; i < count; i++)
        blocks += wal_needed(v, fenced[i].wal) ? fenced[i].copies.length_max : 0;
    return blocks;
}

static int replay_all(struct recovery *rec, struct fenced_wal *fenced, unsigned count)
{
    struct volume *v = rec->volume;
    for (unsigned i = 0; i < count; i++) {
        struct wal *wal = fenced[i].wal;
        int r = recover_wal(rec, &fenced[i]);
        if (r < 0)
            return r;
        if (wal->last_seq <= v->state.committed_seq) {
            recovery_remove_later(v, wal);
            list_remove(&wal->link);
            mem_free(wal);
        }
    }
    return 0;
}

/* S6: on record with the first manifest of this epoch. */
static void report_loss(const struct recovery *rec)
{
    struct volume *v = rec->volume;
    char disk[DISK_TEXT_BYTES] = "";
    if (!rec->power_loss)
        return;
    if (rec->given_up)
        disk_describe(v->host, rec->given_up, disk);
    log_warn(
        "volume %s: only copies on machines that lost power were found%s%s%s: writes that were "
        "not flushed may be lost (up to write %llu is there)",
        v->root.name, disk[0] ? ", and " : "", disk, disk[0] ? " was waited for in vain" : "",
        (unsigned long long)v->acked_seq);
    v->possible_loss = true;
}

int recovery_logs(struct recovery *rec)
{
    struct volume *v = rec->volume;
    rec->expected_seq = v->state.committed_seq + 1;
    v->acked_seq = v->state.committed_seq;
    unsigned count;
    end_by_root(v);
    CLEANUP_FREE struct fenced_wal *fenced = fence_wals(v, &count);
    open_replay_begin(v, blocks_to_replay(v, fenced, count));
    open_reader_begin(v->host->budget);
    int r = replay_all(rec, fenced, count);
    open_reader_end(v->host->budget);
    open_replay_end(v);
    if (r < 0)
        return r;
    report_loss(rec);
    if (rec->power_loss || rec->stopped || rec->tail_lost)
        v->tail_log = 0; /* X9: the machines that are away may have more that was acknowledged */
    if (rec->stopped || rec->tail_lost)
        v->tail_unsure =
            true; /* X7: so may those that the next owner reaches, until a manifest says where it ends */
    v->next_seq = v->acked_seq + 1;
    v->sent_seq = v->acked_seq;
    v->synced_seq =
        v->state.committed_seq; /* the rest once it is on enough copies that are on record */
    return 0;
}
