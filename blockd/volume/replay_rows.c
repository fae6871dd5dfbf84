/* SPDX-License-Identifier: Apache-2.0
 *
 * Large-write rows at recovery: their data went to a chunk before the log record that names them,
 * and
 * after a power loss a record may be there whose row is not, or not on every shard (S14).
 */
#include <errno.h>
#include <string.h>

#include "blockd/volume/recovery.h"
#include "common/check.h"
#include "common/crc32c.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/planted.h"

static int fence_shard(
    const struct volume *v, struct disk *disk, struct shard_key key, struct shard_info *ret_info)
{
    uint32_t number = disk->number;
    int r = shard_fence(disk, key, v->root.epoch, ret_info);
    disk = volume_disk(v, number);
    if (disk_usable(disk))
        disk_answered(disk, r);
    return r;
}

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
                probe->errors[i] = fence_shard(v, disk, key, &probe->infos[i]);
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

/* Whether the shard has every block of the row at [off, end) undamaged; an error says nothing of that. */
static int row_intact(
    struct recovery *rec, const struct place *p, unsigned shard, uint32_t off, uint32_t end)
{
    struct volume *v = rec->volume;
    struct disk *disk = volume_disk(v, p->shards[shard].place.disk);
    struct shard_key key = {.volume = v->root.id, .chunk = p->chunk, .index = (uint8_t)shard};
    size_t bytes = (size_t)(end - off) * BLOCK_BYTES;
    if (!disk_usable(disk))
        return -EHOSTUNREACH;
    void *buf = mem_alloc_pages(bytes);
    int r = shard_read(disk, key, off, end - off, buf, NULL);
    mem_free_pages(buf, bytes);
    return shard_error_says_nothing(r) ? -EHOSTUNREACH : r == 0;
}

/* S14: suspect shards lack the row, and so few have it that those of disks that are away decide. */
static int await_row(
    struct recovery *rec, const struct place *p, const struct probe *probe, unsigned have)
{
    const struct volume_host *host = rec->volume->host;
    uint32_t number = 0, first = 0;
    unsigned away = 0, awaited = 0;
    for (unsigned i = 0; i < place_shards(p); i++) {
        if (probe->errors[i] != -EHOSTUNREACH && probe->errors[i] != -EIO)
            continue;
        number = p->shards[i].place.disk;
        away += disk_may_come(host, number);
        if (disk_awaited_ns(host, number) > 0 && awaited++ == 0)
            first = number;
    }
    if (have + away < p->code.k || PLANTED(unreachable_is_absent))
        return 0;
    if (rec->volume->root.tail_log) { /* X9: as a copy of the log that is as long is waited for */
        *rec->ret_error = mem_printf("a large write that has been read is in chunk %llx, on disks "
                                     "that are away: bring back disk %u, or forget it "
                                     "('holdfast disk remove %u --force')",
            (unsigned long long)p->chunk, number, number);
        return -EHOSTUNREACH;
    }
    if (have + awaited >= p->code.k)
        return recovery_await(rec, first, "a large write");
    rec->given_up = number;
    return 0;
}

/* Fewer than k shards that are not LOST have the row. Those whose disks had failed and are back are asked, as LOST
 * copies of a log are (copies_fence). `answered`: those that have it, and those taken back before that lack it. 2: with them there are k; they count as damaged from here on. 0: every
 * shard answers, and those that lack the row lost it with the power: then no flush has covered it, which needs k
 * of them. 1: neither. */
static int ask_lost_shards(struct recovery *rec, struct place *p, struct probe *probe, uint32_t off,
    uint32_t end, unsigned have, unsigned answered)
{
    struct volume *v = rec->volume;
    bool has[CODE_SHARDS_MAX] = {false};
    struct shard_info infos[CODE_SHARDS_MAX];
    for (unsigned i = 0; i < place_shards(p); i++) {
        struct shard_key key = {.volume = v->root.id, .chunk = p->chunk, .index = (uint8_t)i};
        struct disk *disk = volume_disk(v, p->shards[i].place.disk);
        struct shard_info *info = &infos[i];
        if (p->shards[i].state != CHUNK_SHARD_LOST || !disk_usable(disk))
            continue;
        int r = fence_shard(v, disk, key, info);
        if (r == -ESTALE)
            return r;
        if (r < 0 || info->instance != p->shards[i].place.instance)
            continue;
        r = info->length_blocks >= end ? row_intact(rec, p, i, off, end) : 0;
        if (r < 0)
            continue;
        has[i] = r;
        have += has[i];
        answered += has[i] || info->suspect;
    }
    if (have < p->code.k)
        return answered == place_shards(p) ? 0 : 1;
    for (unsigned i = 0; i < place_shards(p); i++) {
        if (!has[i])
            continue;
        p->shards[i].state = CHUNK_SHARD_DAMAGED;
        probe->taken_back[i] = true;
        probe->errors[i] = 0; /* for the rows behind it */
        probe->infos[i] = infos[i];
        probe->infos[i].damaged = true;
    }
    return 2;
}

/* 1: the shard has the row. 0: not. -ENOENT: it is no shard that could say so; -EHOSTUNREACH: it does not now. */
static int has_row(struct recovery *rec, const struct place *p, struct probe *probe, unsigned shard,
    uint32_t off, uint32_t end)
{
    const struct shard_info *info = &probe->infos[shard];
    int error = probe->errors[shard];
    if (error < 0)
        return error == -EHOSTUNREACH || error == -EIO ? -EHOSTUNREACH : -ENOENT;
    if (info->length_blocks < end)
        return 0;
    if (!info->suspect && !info->damaged)
        return 1;
    int r = row_intact(rec, p, shard, off, end);
    if (r < 0)
        probe->errors[shard] = r; /* S14: that is no damage */
    return r;
}

/* Whether enough shards hold the row at [off, end): 1 yes, 0 no (and only power loss explains it),
 * or an error. Also 1: it was there, and is lost; its blocks fail when they are read (promise (e)). After a power loss a later append may have survived an earlier one, so being longer
 * is not enough. */
static int row_present(struct recovery *rec, struct place *p, uint32_t off, uint32_t end)
{
    struct probe *probe;
    int r = probe_place(rec, p, &probe);
    if (r < 0)
        return r;
    unsigned have = 0, away = 0, lost_power = 0, back_without = 0;
    for (unsigned i = 0; i < place_shards(p); i++) {
        int has = has_row(rec, p, probe, i, off, end);
        have += has == 1;
        away += has == -EHOSTUNREACH && disk_may_come(rec->volume->host, p->shards[i].place.disk);
        /* One that was LOST lacks what was flushed without it (S23): that says nothing of the row. */
        bool lacks = has == 0 && probe->infos[i].suspect;
        lost_power += lacks && !probe->taken_back[i];
        back_without += lacks && probe->taken_back[i];
    }
    if (have >= p->code.k)
        return lost_power == 0 ? 1 : 2;
    if (lost_power > 0)
        return await_row(rec, p, probe, have);
    r = ask_lost_shards(rec, p, probe, off, end, have, have + back_without);
    if (r != 1)
        return r;
    if (have + away >= p->code.k) {
        *rec->ret_error = mem_printf("a large write needs %u shards of chunk %llx and %u can be "
                                     "reached: bring back the disks that hold it",
            p->code.k, (unsigned long long)p->chunk, have);
        return -EHOSTUNREACH;
    }
    log_error_limited(
        "volume %s: a large write in chunk %llx has lost more shards than its code can "
        "rebuild: its blocks cannot be read",
        rec->volume->root.name, (unsigned long long)p->chunk);
    return 1;
}

/* The row was not synced everywhere when power was lost: what is left of it has less redundancy
 * than
 * promised. Its blocks go through the memtable to a new row. */
static int replay_row_data(
    struct recovery *rec, const struct log_record *record, const struct place *p, uint64_t seq)
{
    struct volume *v = rec->volume;
    struct chunk_place place;
    bool froze = false;
    int r = open_replay_more(v, record->count);
    if (r < 0) {
        *rec->ret_error =
            mem_strdup("other volumes that are being opened have the memory that its large "
                       "writes need: trying again");
        return r;
    }
    place_expand(&v->state, p, &place);
    struct memtable_gen *gen =
        memtable_active(&v->memtable, (unsigned)record->count, env_now_ns(), &froze); /* T1 */
    for (uint32_t i = 0; i < record->count && r == 0; i++) {
        void *data;
        if ((r = recovery_block(rec, &data)) < 0)
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
int recovery_stage_row(
    struct recovery *rec, const struct log_record *record, uint64_t seq, bool *ret_added)
{
    struct volume *v = rec->volume;
    struct lchunk *chunk = state_chunk(&v->state, record->chunk_index);
    struct place *p = chunk ? chunk->place : NULL;
    if (!p || record->row > p->row_count ||
        (record->row < p->row_count && p->row_len[record->row] != record->row_len) ||
        (record->row == p->row_count && (p->sealed || record->row >= CHUNK_ROWS_MAX)) ||
        record->count > (uint64_t)p->code.k * record->row_len) {
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

int recovery_replay_row(
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
    memtable_put_row(gen, &(struct memtable_row){.chunk_index = record->chunk_index,
                              .row = record->row,
                              .len = record->row_len,
                              .block = record->block,
                              .count = (uint32_t)record->count,
                              .seq = seq});
    chunk->memtable_rows++;
    return 0;
}
