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
#include "common/planted.h"

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

void recovery_remove_later(struct volume *v, const struct wal *wal)
{
    v->replayed = mem_realloc(v->replayed, (v->replayed_count + 1) * sizeof(v->replayed[0]));
    v->replayed[v->replayed_count++] = wal_ref(wal);
}

/* The content of `wal` in a new log `to`, sealed and durable. */
static int copy_log(
    struct volume *v, const struct wal *wal, const struct copies_set *from, struct wal *to)
{
    unsigned copies;
    uint32_t end = wal->length_blocks;
    to->epoch = v->root.epoch;
    int r = copies_create(v, SHARD_LOG, v->pool.code.m + 1u,
        MIN(v->pool.log_copies_min, v->pool.code.m + 1u), end, end, SHARD_PRIORITY_SYSTEM,
        &to->chunk, to->shards, &copies, &to->capacity_blocks);
    if (r < 0)
        return r;
    to->copies = (uint8_t)copies;
    r = copy_blocks(v, from, end, to);
    for (unsigned i = 0; i < copies && r == 0; i++) {
        struct shard_key key = {.volume = v->root.id, .chunk = to->chunk, .index = (uint8_t)i};
        struct disk *disk = volume_disk(v, to->shards[i].place.disk);
        r = disk ? shard_seal(disk, key, v->root.epoch, end) : -EHOSTUNREACH;
    }
    if (r < 0) {
        struct copies_ref gone = wal_ref(to);
        copies_remove(v, &gone);
    }
    return r;
}

static int replace_log(struct volume *v, struct wal *wal)
{
    struct copies_set from;
    int r = copies_fence(
        &from, v->host, v->root.id, wal->chunk, wal->shards, wal->copies, v->root.epoch);
    if (r < 0)
        return r;
    struct wal to = *wal;
    r = copy_log(v, wal, &from, &to);
    if (r < 0)
        return r;
    log_info("volume %s: log %llx was whole on fewer copies than wanted: appended again as %llx on "
             "%u disks",
        v->root.name, (unsigned long long)wal->chunk, (unsigned long long)to.chunk, to.copies);
    recovery_remove_later(v, wal);
    to.link = wal->link;
    *wal = to;
    return 0;
}

static unsigned good_copies(const struct volume *v, const struct wal *wal)
{
    unsigned good = 0;
    for (unsigned i = 0; i < wal->copies; i++)
        good += wal->shards[i].state == CHUNK_SHARD_OK &&
                disk_usable(volume_disk(v, wal->shards[i].place.disk));
    return good;
}

int recovery_copy_logs(struct volume *v)
{
    unsigned wanted = v->pool.code.m + 1u, needed = MIN(v->pool.log_copies_min, wanted);
    list_for_each (it, &v->state.wals) {
        struct wal *wal = list_entry(it, struct wal, link);
        unsigned good = good_copies(v, wal);
        if (wal == v->wal_open || wal->length_blocks == 0 || good >= wanted ||
            PLANTED(log_left_short))
            continue;
        int r = replace_log(v, wal);
        if (r < 0 && (good < needed || r == -ESTALE))
            return r;
        if (r < 0) /* it is destaged at once */
            log_warn("volume %s: log %llx stays on %u copies until it is destaged: %s",
                v->root.name, (unsigned long long)wal->chunk, good, strerror(-r));
    }
    return 0;
}
