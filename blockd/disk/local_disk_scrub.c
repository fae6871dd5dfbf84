/* SPDX-License-Identifier: Apache-2.0
 *
 * Scrub of one shard: everything the disk holds of it, read from the device and checked (D3).
 */
#include <errno.h>
#include <string.h>

#include "blockd/disk/local_disk_impl.h"
#include "common/mem.h"

#define SCRUB_BLOCKS 64u

/* Trailer blocks as they are on the device: a cached one says nothing about that. */
static int scrub_trailer(struct active *active, void *buf)
{
    struct local_disk *disk = active->disk;
    const struct table_slot *slot = active_slot(active);
    uint32_t length = slot->length_blocks;
    uint32_t count = shard_trailer_blocks((enum shard_kind)slot->kind, length);
    if (count == 0)
        return 0;
    int result = local_read_blocks(disk, buf, count, slot_block_off(disk, slot, length));
    for (uint32_t i = 0; result != -EHOSTUNREACH && i < count; i++) {
        struct trailer found;
        const uint8_t *block = (uint8_t *)buf + i * BLOCK_BYTES;
        if (trailer_parse(block, &found) == 0 && found.nonce == slot->nonce &&
            found.first_block == i * TRAILER_ENTRIES && found.length_blocks == length)
            continue;
        local_report_damage(disk, active->slot_no, length + i);
        result = -EBADMSG;
    }
    return result;
}

/* All blocks below `length`, through the checks of an ordinary read. */
static int scrub_blocks(struct local_disk *disk, struct shard_key key, uint32_t length, void *buf)
{
    int result = 0;
    for (uint32_t block = 0; block < length; block += SCRUB_BLOCKS) {
        int r = shard_read(&disk->base, key, block, MIN(SCRUB_BLOCKS, length - block), buf, NULL);
        if (r < 0 && r != -EBADMSG)
            return r;
        result = MIN(result, r);
    }
    return result;
}

static int scrub_shard(struct local_disk *disk, struct shard_key key, uint64_t *ret_bytes)
{
    struct shard_info info;
    int r = local_stat(&disk->base, key, &info);
    if (r < 0)
        return r;
    void *buf = mem_alloc_pages(SCRUB_BLOCKS * BLOCK_BYTES);
    int result = scrub_blocks(disk, key, info.length_blocks, buf);
    struct table_slot *slot = local_find(disk, key, &r);
    if (slot == NULL) {
        result = r; /* removed meanwhile */
    } else if (slot->state == TABLE_SEALED && (result == 0 || result == -EBADMSG)) {
        struct active *active = active_get(disk, local_slot_no(disk, slot));
        r = scrub_trailer(active, buf);
        active_put(active);
        result = r < 0 ? r : result;
    }
    mem_free_pages(buf, SCRUB_BLOCKS * BLOCK_BYTES);
    *ret_bytes = (uint64_t)info.length_blocks * BLOCK_BYTES;
    return result;
}

MAY_SUSPEND int local_disk_scrub_shard(struct disk *base, struct shard_key key, uint64_t *ret_bytes)
{
    struct local_disk *disk = local_disk_of(base);
    *ret_bytes = 0;
    if (disk->gone)
        return -EHOSTUNREACH;
    COUNTED(disk);
    return scrub_shard(disk, key, ret_bytes);
}
