/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening a volume, which is always a takeover, also after this daemon's own predecessor (S10):
 *
 *   epoch + 1 in the root -> fence and read the manifest -> fence the logs it names -> replay them ->
 *   seal what the earlier epoch left open -> a new log -> the manifest afresh, made current by one CAS
 *   -> serve.
 *
 * Invariants
 *  O1 Nothing is appended to a shard of an earlier epoch (S11).
 *  O2 Replay stops at the first gap in the sequence; records up to committed_seq are not needed and not replayed.
 *  O3 Absent, damaged, unreachable are not the same: what cannot be read now but may be later makes the open fail,
 *     never the log shorter (S14). Only suspect copies (the machine lost power) may have lost a tail that was not flushed.
 *  O4 Every log that stays is sealed, durably, at what was replayed, on every copy that has it, before the
 *     record that says so.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "blockd/disk/append_header.h"
#include "blockd/volume/volume_impl.h"
#include "common/check.h"
#include "common/crc32c.h"
#include "common/log.h"
#include "common/mem.h"

#define WINDOW_BLOCKS 512
#define WAL_BLOCKS_FIRST 1024
#define WAIT_FOR_DISKS_NS 500000000ull

/* What is known of the shards of one open place: how far each goes. */
struct probe {
    uint64_t chunk;
    struct shard_info infos[CODE_SHARDS_MAX];
    int errors[CODE_SHARDS_MAX];
};

struct recovery {
    struct volume *volume;
    char **ret_error;
    uint64_t expected_seq; /* of the next record */
    bool stopped;          /* O2: nothing behind this point counts */
    bool power_loss;       /* only suspect copies had something */
    struct idmap probes;   /* by place */
    struct copies_ref
        *removed; /* chunks of copies to be removed once the new manifest is current */
    unsigned removed_count;
};

/* --- Large-write rows -------------------------------------------------------------------------- */

static int probe_place(struct recovery *rec, const struct place *p, struct probe **ret_probe)
{
    struct volume *v = rec->volume;
    struct probe *probe = idmap_get(&rec->probes, p->chunk);
    if (!probe) {
        probe = NEW(struct probe);
        probe->chunk = p->chunk;

        for (unsigned i = 0; i < place_shards(p); i++) {
            struct disk *disk = volume_disk(v, p->shards[i].place.disk);
            struct shard_key key = {.volume = v->root.id, .chunk = p->chunk, .index = (uint8_t)i};
            probe->errors[i] = -EHOSTUNREACH;
            if (p->shards[i].state == CHUNK_SHARD_LOST)
                probe->errors[i] = -ENOENT;
            else if (disk_usable(disk))
                probe->errors[i] = shard_fence(disk, key, v->root.epoch, &probe->infos[i]);
            if (probe->errors[i] == -ESTALE) {
                mem_free(probe);
                return -ESTALE;
            }
        }
        idmap_put(&rec->probes, p->chunk, probe);
    }
    *ret_probe = probe;
    return 0;
}

/* Whether the shard has every block of the row at [off, end) undamaged. */
static bool row_intact(
    struct recovery *rec, const struct place *p, unsigned shard, uint32_t off, uint32_t end)
{
    struct volume *v = rec->volume;
    struct disk *disk = volume_disk(v, p->shards[shard].place.disk);
    struct shard_key key = {.volume = v->root.id, .chunk = p->chunk, .index = (uint8_t)shard};
    size_t bytes = (size_t)(end - off) * BLOCK_BYTES;
    void *buf = mem_alloc_pages(bytes);
    int r = shard_read(disk, key, off, end - off, buf, NULL);
    mem_free_pages(buf, bytes);
    return r == 0;
}

/* Whether enough shards hold the row at [off, end): 1 yes, 0 no (and only power loss explains it),
 * or an error. After a power loss a later append may have survived an earlier one, so being longer
 * is not enough. */
static int row_present(struct recovery *rec, const struct place *p, uint32_t off, uint32_t end)
{
    struct probe *probe;
    int r = probe_place(rec, p, &probe);
    if (r < 0)
        return r;
    unsigned have = 0, unreachable = 0, lost_power = 0;
    for (unsigned i = 0; i < place_shards(p); i++) {
        const struct shard_info *info = &probe->infos[i];
        if (probe->errors[i] == -EHOSTUNREACH || probe->errors[i] == -EIO)
            unreachable++;
        else if (probe->errors[i] < 0)
            continue;
        else if (info->length_blocks >= end &&
                 ((!info->suspect && !info->damaged) || row_intact(rec, p, i, off, end)))
            have++;
        else if (info->suspect)
            lost_power++;
    }
    if (have >= p->code.k)
        return lost_power == 0 ? 1 : 2;
    if (lost_power > 0)
        return 0; /* S14 */
    if (have + unreachable >= p->code.k) {
        *rec->ret_error = mem_printf("a large write needs %u shards of chunk %llx and %u can be "
                                     "reached: bring back the disks that hold it",
            p->code.k, (unsigned long long)p->chunk, have);
        return -EHOSTUNREACH;
    }
    *rec->ret_error = mem_printf("a large write in chunk %llx has lost more shards than its code "
                                 "can rebuild",
        (unsigned long long)p->chunk);
    return -EIO;
}

/* The row was not synced everywhere when power was lost: what is left of it has less redundancy than
 * promised. Its blocks go through the memtable to a new row. */
static int replay_row_data(
    struct recovery *rec, const struct log_record *record, const struct place *p, uint64_t seq)
{
    struct volume *v = rec->volume;
    struct chunk_place place;
    bool froze = false;
    int r = 0;
    place_expand(&v->state, p, &place);
    struct memtable_gen *gen =
        memtable_active(&v->memtable, (unsigned)record->count, env_now_ns(), &froze); /* T1 */
    for (uint32_t i = 0; i < record->count && r == 0; i++) {
        void *data;
        if ((r = volume_get_blocks(v, 1, &data)) < 0)
            break;
        r = row_read(&v->row_io, &place, record->linear + i, 1, record->block + i, data);
        if (r < 0) {
            volume_put_block(v, data);
            *rec->ret_error = mem_printf("a large write in chunk %llx cannot be read: %s",
                (unsigned long long)p->chunk, strerror(-r));
            break;
        }
        memtable_put(&v->memtable, gen, record->block + i, data, crc32c(0, data, BLOCK_BYTES), seq);
    }
    v->destage_all = true;
    return r;
}

/* Gives the row its place in the geometry; how far it can be had as row_present. */
static int stage_row(
    struct recovery *rec, const struct log_record *record, uint64_t seq, bool *ret_added)
{
    struct volume *v = rec->volume;
    struct lchunk *chunk = state_chunk(&v->state, record->chunk_index);
    struct place *p = chunk ? chunk->place : NULL;
    if (!p || record->row > p->row_count ||
        (record->row < p->row_count && p->row_len[record->row] != record->row_len) ||
        (record->row == p->row_count && (p->sealed || record->row >= CHUNK_ROWS_MAX))) {
        *rec->ret_error = mem_printf("log record %llu refers to row %u of chunk %llu, which the "
                                     "manifest contradicts",
            (unsigned long long)seq, record->row, (unsigned long long)record->chunk_index);
        return -EBADMSG;
    }
    *ret_added = record->row == p->row_count;
    if (*ret_added)
        (void)place_add_row(p, record->row_len);
    return p->sealed ? 1
                     : row_present(rec, p, place_length_blocks(p, record->row),
                           place_length_blocks(p, record->row + 1u));
}

static int replay_row(
    struct recovery *rec, const struct log_record *record, uint64_t seq, int presence)
{
    struct volume *v = rec->volume;
    struct lchunk *chunk = state_chunk(&v->state, record->chunk_index);
    if (presence == 2)
        return replay_row_data(rec, record, chunk->place, seq);
    bool froze = false;
    struct memtable_gen *gen = memtable_active(&v->memtable, 0, env_now_ns(), &froze);
    memtable_put_mapped(gen, record->block, record->count,
        map_entry(MAP_MAPPED, 0, record->chunk_index, record->linear), seq);
    memtable_put_row(gen, record->chunk_index, record->row, record->row_len, seq);
    chunk->memtable_rows++;
    return 0;
}

/* --- Replay ------------------------------------------------------------------------------------ */

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
        int r = volume_get_blocks(v, 1, &data);
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
    else if (record->type == LOG_TRIM)
        memtable_put_trim(memtable_active(&v->memtable, 0, env_now_ns(), &froze), record->block,
            record->count, seq);
    else if (record->type == LOG_ROW)
        r = replay_row(rec, record, seq, presence);
    if (r == 0) {
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

/* Looks whether every row that the append refers to can be had. 1 = not, and only power loss explains it: the append as a whole does not
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
        r = stage_row(rec, &a->records[i], a->base_seq + i, &a->added[i]);
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
    if (header->inline_len_bytes > 0 && header->base_seq > rec->expected_seq) {
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
        rec->stopped = rec->power_loss = true;
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

/* Replays blocks [0, length) of a log; *ret_end = end of the last append that counts. */
static int replay_wal(struct recovery *rec, const struct copies_set *copies, uint32_t length,
    uint64_t *ret_last_seq, uint32_t *ret_end)
{
    uint8_t *window = mem_alloc_pages((size_t)WINDOW_BLOCKS * BLOCK_BYTES);
    uint32_t off = 0;
    int r = 0;
    while (off < length && !rec->stopped && r == 0) {
        uint32_t count = MIN(length - off, (uint32_t)WINDOW_BLOCKS), at = 0, bad;
        r = copies_read(copies, off, count, window, &bad);
        if (r < 0 && copies->suspect == copies->usable) {
            /* Power was lost: a later append may have survived an earlier one that nobody flushed.
             * What comes before counts. */
            rec->power_loss = true;
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
            if (copies->suspect == copies->usable) {
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

/* Seals every copy that has `end` (O4); the others are lost. */
static int seal_copies(
    struct recovery *rec, struct wal *wal, const struct copies_set *copies, uint32_t end)
{
    struct volume *v = rec->volume;
    unsigned sealed = 0;
    for (unsigned i = 0; i < wal->copies; i++) {
        struct shard_key key = {.volume = v->root.id, .chunk = wal->chunk, .index = (uint8_t)i};
        int r = -ENOENT;
        if (copies->disks[i] && copies->infos[i].length_blocks >= end)
            r = shard_seal(copies->disks[i], key, v->root.epoch, end);
        if (r == -ESTALE)
            return r;
        wal->shards[i].state = r == 0 ? CHUNK_SHARD_OK : CHUNK_SHARD_LOST;
        sealed += r == 0;
    }
    wal->sealed = true;
    wal->length_blocks = wal->synced_blocks = end;
    if (sealed == 0 && end > 0) {
        *rec->ret_error =
            mem_printf("no copy of log %llx could be sealed", (unsigned long long)wal->chunk);
        return -EIO;
    }
    /* Fewer copies than wanted: what they hold goes into full rows at once (S3). */
    if (sealed < wal->copies)
        v->destage_all = true;
    return 0;
}

static void remove_later(struct recovery *rec, const struct wal *wal)
{
    struct copies_ref ref = {.chunk = wal->chunk, .count = wal->copies};
    for (unsigned i = 0; i < wal->copies; i++)
        ref.places[i] = wal->shards[i].place;
    rec->removed = mem_realloc(rec->removed, (rec->removed_count + 1) * sizeof(ref));
    rec->removed[rec->removed_count++] = ref;
}

static int recover_wal(struct recovery *rec, struct wal *wal)
{
    struct volume *v = rec->volume;
    struct copies_set copies;
    int r = copies_fence(
        &copies, v->host, v->root.id, wal->chunk, wal->shards, wal->copies, v->root.epoch);
    if (r == -ESTALE)
        return r;
    bool needed = !(wal->sealed && wal->last_seq <= v->state.committed_seq) && !rec->stopped;
    if (r < 0 && needed) {
        *rec->ret_error =
            mem_printf("no copy of log %llx can be read (%s): acknowledged writes are "
                       "in it; bring back the disks that hold it",
                (unsigned long long)wal->chunk, strerror(-r));
        return r == -ENOENT ? -EIO : r;
    }
    uint32_t length = wal->sealed ? MIN(wal->length_blocks, copies.length_max) : copies.length_max;
    /* Only recovery seals copies: one that was cut short has chosen the length already; if the others
     * are suspect, so was that one. */
    unsigned chosen = 0;
    for (unsigned i = 0; i < copies.count && !wal->sealed; i++) {
        if (copies.disks[i] && copies.infos[i].sealed) {
            length = MIN(length, copies.infos[i].length_blocks);
            chosen += !copies.infos[i].suspect;
        }
    }
    if (copies.suspect > 0)
        copies.suspect += chosen;
    if (needed && wal->sealed && length < wal->length_blocks) {
        if (copies.suspect < copies.usable) {
            *rec->ret_error = mem_printf("log %llx is shorter than recorded in every copy that can "
                                         "be reached: bring back the disks that hold it",
                (unsigned long long)wal->chunk);
            return -EHOSTUNREACH;
        }
        rec->power_loss = true;
    }
    if (needed && copies.suspect == copies.usable)
        rec->power_loss = true;
    uint32_t end = 0;
    uint64_t last_seq = 0;
    if (needed)
        r = replay_wal(rec, &copies, length, &last_seq, &end);
    log_debug("volume %s: log %llx: %u of %u copies (%u suspect), replayed %u of %u blocks, up to "
              "record %llu",
        v->root.name, (unsigned long long)wal->chunk, copies.usable, copies.count, copies.suspect,
        end, length, (unsigned long long)last_seq);
    if (r == 0 || !needed)
        r = seal_copies(rec, wal, &copies, needed ? end : 0);
    wal->last_seq = last_seq;
    return r;
}

static int recover_logs(struct recovery *rec)
{
    struct volume *v = rec->volume;
    rec->expected_seq = v->state.committed_seq + 1;
    v->acked_seq = v->state.committed_seq;
    list_for_each_safe (it, &v->state.wals) {
        struct wal *wal = list_entry(it, struct wal, link);
        int r = recover_wal(rec, wal);
        if (r < 0)
            return r;
        if (wal->last_seq <= v->state.committed_seq) {
            remove_later(rec, wal);
            list_remove(&wal->link);
            mem_free(wal);
        }
    }
    if (rec->power_loss)
        log_warn("volume %s: only copies on machines that lost power were found: writes that were "
                 "not flushed may be lost (up to write %llu is there)",
            v->root.name, (unsigned long long)v->acked_seq);
    v->next_seq = v->acked_seq + 1;
    v->synced_seq = v->acked_seq;
    return 0;
}

/* --- Places left open -------------------------------------------------------------------------- */

/* After a power loss a shard may lack the last rows, which nobody flushed. It is sealed behind those
 * that it has: they are still of use, and only the others count as damaged (S23). */
static int close_short_shard(
    struct volume *v, struct place *p, const struct chunk_place *place, unsigned shard)
{
    struct disk *disk = volume_disk(v, p->shards[shard].place.disk);
    struct shard_key key = chunk_shard_key(place, shard);
    struct shard_info info;
    if (!disk_usable(disk) || p->shards[shard].state == CHUNK_SHARD_LOST)
        return 0;
    int r = shard_stat(disk, key, &info);
    if (r == -ENOENT)
        p->shards[shard].state = CHUNK_SHARD_LOST;
    if (r < 0 || (info.sealed && info.length_blocks == place->length_blocks))
        return 0;
    unsigned rows = p->row_count;
    while (rows > 0 && place_length_blocks(p, rows) > info.length_blocks)
        rows--;
    if (!info.sealed)
        r = shard_seal(disk, key, v->root.epoch, place_length_blocks(p, rows));
    p->shards[shard].state = CHUNK_SHARD_DAMAGED;
    return r;
}

static int close_place(struct recovery *rec, struct place *p)
{
    struct volume *v = rec->volume;
    struct chunk_place place;
    log_debug("volume %s: chunk %llx was left open with %u rows, %u of them recorded", v->root.name,
        (unsigned long long)p->chunk, p->row_count, p->rows_recorded);
    p->rows_recorded = p->row_count; /* the log named them; the new manifest does */
    place_expand(&v->state, p, &place);
    int r = chunk_seal(&v->row_io, &place, v->root.epoch);
    if (r == -ESTALE)
        return r;
    for (unsigned i = 0; i < place_shards(p) && r != -ESTALE; i++)
        r = close_short_shard(v, p, &place, i);
    if (r == -ESTALE)
        return r;
    p->sealed = true;
    return 0;
}

static void drop_place(struct recovery *rec, struct place *p)
{
    struct volume *v = rec->volume;
    struct records records = {0};
    uint32_t pos = 0;
    for (const struct lchunk *c; (c = idmap_next(&v->state.chunks, &pos));) {
        if (c->place == p)
            record_chunk_freed(&records, c->index);
    }
    record_place_freed(&records, p->chunk);
    char error[256];
    int r = state_apply(&v->state, records.bytes, records.len_bytes, error);
    CHECK_MSG(r == 0, "%s", error);
    records_fini(&records);
    /* Its shards have no row of ours: reconciliation removes them (they are of an earlier epoch). */
}

/* A place without a row may still be where cleaning has put chunks without a survivor: what the map
 * holds of them is overwritten, but not merged yet, and counts until it is (C3). */
static bool unused(const struct volume *v, const struct place *p)
{
    uint32_t pos = 0;
    for (const struct lchunk *c; (c = idmap_next(&v->state.chunks, &pos));) {
        if (c->place == p && c->live > 0)
            return false;
    }
    return true;
}

static int close_places(struct recovery *rec)
{
    struct volume *v = rec->volume;
    for (;;) {
        struct place *open = NULL;
        uint32_t pos = 0;
        for (struct place *p; !open && (p = idmap_next(&v->state.places, &pos));)
            open = p->sealed ? NULL : p;
        if (!open)
            return 0;

        if (open->row_count == 0 && unused(v, open)) {
            drop_place(rec, open);
            continue;
        }
        int r = close_place(rec, open);
        if (r < 0)
            return r;
    }
}

/* --- Opening ----------------------------------------------------------------------------------- */

static int take_ownership(struct volume_host *host, struct volume_root *root, char **ret_error)
{
    for (;;) {
        if (root->state == VOLUME_DELETING) {
            *ret_error = mem_printf("volume '%s' is being deleted", root->name);
            return -ENOENT;
        }
        if (root->state == VOLUME_OWNED && strcmp(root->owner, host->node_name) != 0) {
            *ret_error = mem_printf(
                "volume '%s' belongs to node '%s', and taking a volume over from another "
                "node is not supported yet; if this node was renamed, give it its old "
                "name ([node] name=%s)",
                root->name, root->owner, root->owner);
            return -EBUSY;
        }
        struct volume_root mine = *root;
        mine.epoch++;
        mine.state = VOLUME_OWNED;
        snprintf(mine.owner, sizeof(mine.owner), "%s", host->node_name);
        mine.owner_session = host->session;
        int r = volume_root_save(host->store, &mine);
        if (r == 0) {
            *root = mine;
            return 0;
        }
        if (r != -ECANCELED) {
            *ret_error = mem_printf("the store did not take the new owner: %s", strerror(-r));
            return r;
        }
        r = volume_root_load(host->store, root->id, root);
        if (r < 0) {
            *ret_error = mem_printf("the volume's root cannot be read: %s", strerror(-r));
            return r;
        }
    }
}

static struct volume *volume_new(
    struct volume_host *host, const struct volume_root *root, const struct pool *pool)
{
    struct volume *v = NEW(struct volume);
    v->host = host;
    v->root = *root;
    v->pool = *pool;
    state_init(&v->state, root->id);
    v->row_blocks = host->row_blocks_max ? (unsigned)host->row_blocks_max : APPEND_ENTRIES_MAX;
    v->gen_blocks = v->row_blocks * pool->code.k;
    uint64_t bypass = host->bypass_bytes_min ? host->bypass_bytes_min : 64 * 1024;
    v->bypass_blocks_min = bypass / BLOCK_BYTES * pool->code.k;
    memtable_init(&v->memtable, host->budget->blocks, v->gen_blocks);
    v->row_io = (struct row_io){
        .host = host, .buffers = host->budget->io, .trouble = volume_trouble, .ctx = v};
    v->wal_capacity_blocks = WAL_BLOCKS_FIRST;
    struct fiber_queue *queues[] = {&v->ack_waiters, &v->committer_wake, &v->syncer_wake,
        &v->sync_waiters, &v->provisioner_wake, &v->space_waiters, &v->destager_wake, &v->destaged,
        &v->checkpoint_wake, &v->checkpoint_waiters, &v->repair_wake, &v->repair_waiters,
        &v->idle_waiters, &v->reader_waiters, &v->bypass_turn};
    for (unsigned i = 0; i < ARRAY_SIZE(queues); i++)
        fiber_queue_init(queues[i]);
    struct list *lists[] = {
        &v->commit_queue, &v->bypass_queue, &v->partials, &v->budget_link, &v->meta_pending};
    for (unsigned i = 0; i < ARRAY_SIZE(lists); i++)
        list_init(lists[i]);
    fiber_mutex_init(&v->manifest.mutex);
    fiber_mutex_init(&v->bypass_mutex);
    fiber_mutex_init(&v->clean_mutex);
    fiber_mutex_init(&v->grow_mutex);
    extmap_init(&v->delta);
    extmap_init(&v->delta_frozen);
    checkpoint_init_store(v);
    return v;
}

void volume_free(struct volume *v)
{
    list_remove(&v->budget_link);
    memtable_fini(&v->memtable);
    fiber_queue_wake_all(&v->host->budget->waiters);
    extmap_fini(&v->delta);
    extmap_fini(&v->delta_frozen);
    if (v->map)
        map_free(v->map);
    state_fini(&v->state);
    mem_free(v->manifest.chain);
    mem_free(v);
}

static int first_wal(struct volume *v)
{
    struct wal *wal = NEW(struct wal);
    int r = wal_new(v, wal);
    if (r < 0) {
        mem_free(wal);
        return r;
    }
    list_push_back(&v->state.wals, &wal->link);
    v->wal_open = wal;
    v->wal_opened_ns = env_now_ns();
    return 0;
}

static int recover(struct recovery *rec)
{
    struct volume *v = rec->volume;
    int r = 0;
    if (v->root.manifest.chunk != 0)
        r = manifest_load(v->host, &v->root, &v->state, &v->manifest.chain,
            &v->manifest.chain_count, rec->ret_error);
    else
        v->state.size_bytes = v->root.size_bytes;
    if (r < 0)
        return r;
    v->state.map_levels = MAX(v->state.map_levels,
        v->state.map_root == 0 ? map_levels_for(DIV_ROUND_UP(v->state.size_bytes, BLOCK_BYTES))
                               : 1);
    v->map = map_new(v->host->map_cache, &v->map_store, v->state.map_root, v->state.map_levels);
    r = recover_logs(rec);
    if (r == 0)
        r = close_places(rec);
    if (r == 0)
        r = delta_rebuild(v, rec->ret_error);
    return r;
}

/* A log and a manifest of this epoch: from then on the volume takes writes. */
static int begin_epoch(struct volume *v)
{
    int r = first_wal(v);
    return r == 0 ? manifest_rewrite(v) : r;
}

static void start(struct volume *v, const struct copies_ref *removed, unsigned removed_count)
{
    v->serving = true;
    volume_start_fibers(v);
    for (unsigned i = 0; i < removed_count; i++)
        copies_remove(v, &removed[i]);
    volume_spawn(v, "reconcile", reconcile);
    repair_kick(v);
}

/* Too few disks are up for a log or a manifest: what can be read is served, writes wait (S12). */
static void wait_for_disks(void *arg)
{
    struct volume *v = arg;
    while (!v->halted && !v->stopping) {
        int r = begin_epoch(v);
        if (r == 0) {
            v->problem[0] = 0;
            log_info("volume %s: enough disks are up again: taking writes", v->root.name);
            start(v, NULL, 0);
            return;
        }
        fiber_queue_wait_until(&v->repair_wake, env_now_ns() + WAIT_FOR_DISKS_NS);
    }
}

static int serve(struct recovery *rec)
{
    struct volume *v = rec->volume;
    int r = begin_epoch(v);
    if (r == -ESHUTDOWN || r == -ESTALE)
        return r;
    list_push_back(&v->host->budget->volumes, &v->budget_link);
    if (r == 0) {
        start(v, rec->removed, rec->removed_count);
        return 0;
    }
    snprintf(v->problem, sizeof(v->problem),
        "no log can be allocated in pool '%s' (%s): reads are served, writes wait; see 'holdfast "
        "disk list'",
        v->root.pool, r == -EHOSTUNREACH ? "too few disks are up" : strerror(-r));
    log_warn("volume %s: %s", v->root.name, v->problem);
    volume_spawn(v, "wait for disks", wait_for_disks);
    return 0;
}

static void recovery_fini(struct recovery *rec)
{
    uint32_t pos = 0;
    for (struct probe *probe; (probe = idmap_next(&rec->probes, &pos));)
        mem_free(probe);
    idmap_fini(&rec->probes);
    mem_free(rec->removed);
}

int volume_open(struct volume_host *host, uint64_t id, struct volume **ret_volume, char **ret_error)
{
    struct volume_root root;
    struct pool pool;
    char *error = NULL;
    int r = volume_root_load(host->store, id, &root);
    if (r < 0) {
        *ret_error = mem_printf("the volume's root cannot be read: %s", strerror(-r));
        return r;
    }
    r = pool_load(host->store, root.pool, &pool);
    if (r < 0) {
        *ret_error = mem_printf("volume '%s' is in pool '%s', which cannot be read: %s", root.name,
            root.pool, strerror(-r));
        return r;
    }
    r = take_ownership(host, &root, ret_error);
    if (r < 0)
        return r;
    /* One replay at a time: what it needs of the budget comes free because the volumes already
     * open destage, and a log is smaller than the budget. */
    fiber_mutex_lock(&host->budget->replay);
    struct volume *v = volume_new(host, &root, &pool);
    struct recovery rec = {.volume = v, .ret_error = &error};
    r = recover(&rec);
    if (r == 0)
        r = serve(&rec);
    recovery_fini(&rec);
    fiber_mutex_unlock(&host->budget->replay);
    if (r < 0) {
        *ret_error = mem_printf("volume '%s': %s", root.name, error ? error : strerror(-r));
        mem_free(error);
        volume_free(v);
        return r;
    }
    mem_free(error);
    *ret_volume = v;
    return 0;
}
