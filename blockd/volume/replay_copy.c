/* SPDX-License-Identifier: Apache-2.0
 *
 * A log that recovery did not find whole on all its copies is appended again to a new one, on as many
 * disks as the pool wants, before the manifest names its length (S12). Else the one copy that had the
 * longest prefix would be the only one with the length on record: losing it would close the volume, although
 * every acknowledged write is on the shorter copy too.
 */
#include <errno.h>
#include <string.h>

#include "blockd/disk/append_header.h"
#include "blockd/volume/recovery.h"
#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"

#define WINDOW_BLOCKS 512

/* Appends the append that stands in memory at `at` to all copies of `to`. */
static int append_again(struct volume *v, const struct wal *to, uint32_t off_blocks,
    const uint8_t *at, const struct append_header *header)
{
    CLEANUP_FREE struct shard_entry *entries =
        mem_alloc((header->entry_count + 1) * sizeof(*entries));
    for (unsigned i = 0; i < header->entry_count; i++)
        entries[i] = append_header_entry(at, i);
    struct iovec payload = {.iov_base = (void *)(at + BLOCK_BYTES),
        .iov_len = (size_t)header->entry_count * BLOCK_BYTES};
    struct group_append appends[CODE_M_MAX + 1];
    struct fiber_group group;
    int error = 0;
    fiber_group_init(&group);
    for (unsigned i = 0; i < to->copies; i++) {
        struct disk *disk = volume_disk(v, to->shards[i].place.disk);
        if (!disk) {
            error = -EHOSTUNREACH;
            continue;
        }
        appends[i].append = (struct shard_append){.disk = disk,
            .key = {.volume = v->root.id, .chunk = to->chunk, .index = (uint8_t)i},
            .epoch = v->root.epoch,
            .off_blocks = off_blocks,
            .base_seq = header->base_seq,
            .entries = entries,
            .entry_count = header->entry_count,
            .inline_bytes = append_header_inline(at, header),
            .inline_len_bytes = header->inline_len_bytes,
            .payload = &payload,
            .payload_count = header->entry_count > 0};
        group_append_submit(&appends[i], &group);
    }
    int r = fiber_group_wait(&group);
    return r < 0 ? r : error;
}

static int copy_blocks(
    struct volume *v, const struct copies_set *from, uint32_t end, const struct wal *to)
{
    uint8_t *window = mem_alloc_pages((size_t)WINDOW_BLOCKS * BLOCK_BYTES);
    uint32_t off = 0;
    int r = 0;
    while (off < end && r == 0) {
        uint32_t count = MIN(end - off, (uint32_t)WINDOW_BLOCKS), at = 0, bad;
        r = copies_read(from, off, count, window, &bad);
        while (r == 0 && at < count) {
            struct append_header header;
            const uint8_t *block = window + (size_t)at * BLOCK_BYTES;
            r = append_header_parse(block, &header);
            if (r < 0 || at + 1 + header.entry_count > count)
                break;
            r = append_again(v, to, off + at, block, &header);
            at += 1 + header.entry_count;
        }
        if (at == 0 && r == 0)
            r = -EBADMSG; /* replay has read the same: it ends at an append */
        off += at;
    }
    mem_free_pages(window, (size_t)WINDOW_BLOCKS * BLOCK_BYTES);
    return r;
}

static struct copies_ref wal_ref(const struct wal *wal)
{
    struct copies_ref ref = {.chunk = wal->chunk, .count = wal->copies};
    for (unsigned i = 0; i < wal->copies; i++)
        ref.places[i] = wal->shards[i].place;
    return ref;
}

int recovery_copy_log(struct recovery *rec, struct wal *wal, const struct copies_set *from)
{
    struct volume *v = rec->volume;
    struct wal to = *wal;
    unsigned copies;
    uint32_t end = wal->length_blocks;
    to.chunk = volume_new_chunk_id(v);
    to.epoch = v->root.epoch;
    int r = copies_create(v, SHARD_LOG, to.chunk, v->pool.code.m + 1u,
        MIN(v->pool.log_copies_min, v->pool.code.m + 1u), end, end, to.shards, &copies,
        &to.capacity_blocks);
    if (r < 0)
        return r;
    to.copies = (uint8_t)copies;
    r = copy_blocks(v, from, end, &to);
    for (unsigned i = 0; i < copies && r == 0; i++) {
        struct shard_key key = {.volume = v->root.id, .chunk = to.chunk, .index = (uint8_t)i};
        struct disk *disk = volume_disk(v, to.shards[i].place.disk);
        r = disk ? shard_seal(disk, key, v->root.epoch, end) : -EHOSTUNREACH;
    }
    struct copies_ref gone = wal_ref(r == 0 ? wal : &to);
    if (r == 0) {
        log_info(
            "volume %s: log %llx was whole on fewer copies than wanted: appended again as %llx "
            "on %u disks",
            v->root.name, (unsigned long long)wal->chunk, (unsigned long long)to.chunk, copies);
        to.link = wal->link;
        *wal = to;
        recovery_remove_later(rec, &gone);
    } else {
        copies_remove(v, &gone);
    }
    return r;
}
