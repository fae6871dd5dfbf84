/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/disk/superblock.h"

#include <errno.h>
#include <string.h>

#include "blockd/disk/slab.h"
#include "blockd/disk/table.h"
#include "common/bytes.h"
#include "common/check.h"
#include "common/crc32c.h"

/* Byte offsets; docs/FORMAT.md. Magic, version and CRC stay where they are in every version. */
enum {
    AT_MAGIC = 0,
    AT_VERSION = 8,
    AT_CRC = 12,
    AT_FEATURES_NEEDED = 16,
    AT_FEATURES_READABLE = 24,
    AT_CLUSTER = 32,
    AT_NODE = 48,
    AT_DISK = 64,
    AT_INCARNATION = 80,
    AT_SIZE = 88,
    AT_TABLE_OFF = 96,
    AT_SLAB_OFF = 104,
    AT_TABLE_ENTRIES = 112,
    AT_SLABS = 116,
    AT_CLASS = 120,
    AT_COPY_OFF = 136,
    AT_CLEAN = 144,
};

static const char MAGIC[8] = {'H', 'O', 'L', 'D', 'F', 'A', 'S', 'T'};

#define SECOND_COPY_OFF (UINT64_C(1) << 20)
#define TABLE_OFF (UINT64_C(2) << 20)

int superblock_layout(struct superblock *sb, uint64_t device_bytes)
{
    uint64_t size = ROUND_DOWN(device_bytes, SUPERBLOCK_BYTES);
    if (size < DISK_BYTES_MIN || size > (uint64_t)SLAB_COUNT_MAX * SLAB_BYTES)
        return -ERANGE;
    sb->size_bytes = size;
    sb->table_off_bytes = TABLE_OFF;
    sb->table_entry_count =
        ROUND_UP(MAX((uint32_t)(size >> 20), TABLE_ENTRIES_MIN), TABLE_BLOCK_ENTRIES);
    uint64_t table_end = TABLE_OFF + (uint64_t)sb->table_entry_count * TABLE_ENTRY_BYTES;
    sb->slab_off_bytes = ROUND_UP(table_end, SLAB_BYTES);
    sb->slab_count = (uint32_t)((size - SUPERBLOCK_BYTES - sb->slab_off_bytes) / SLAB_BYTES);
    return 0;
}

void superblock_copy_offsets(uint64_t size_bytes, uint64_t ret_off_bytes[SUPERBLOCK_COPIES])
{
    ret_off_bytes[0] = 0;
    ret_off_bytes[1] = SECOND_COPY_OFF;
    ret_off_bytes[2] = ROUND_DOWN(size_bytes, SUPERBLOCK_BYTES) - SUPERBLOCK_BYTES;
}

/* CRC32C of the whole block with the CRC field taken as zero. */
static uint32_t block_crc(const uint8_t *block)
{
    static const uint8_t zero[4];
    uint32_t crc = crc32c(0, block, AT_CRC);
    crc = crc32c(crc, zero, sizeof(zero));
    return crc32c(crc, block + AT_CRC + 4, SUPERBLOCK_BYTES - AT_CRC - 4);
}

void superblock_encode(const struct superblock *sb, uint64_t off_bytes, void *block)
{
    uint8_t *p = block;
    memset(p, 0, SUPERBLOCK_BYTES);
    memcpy(p + AT_MAGIC, MAGIC, sizeof(MAGIC));
    put_le32(p + AT_VERSION, SUPERBLOCK_VERSION);
    put_le64(p + AT_FEATURES_NEEDED, sb->features_needed);
    put_le64(p + AT_FEATURES_READABLE, sb->features_readable);
    memcpy(p + AT_CLUSTER, &sb->cluster, 16);
    memcpy(p + AT_NODE, &sb->node, 16);
    memcpy(p + AT_DISK, &sb->disk, 16);
    put_le64(p + AT_INCARNATION, sb->incarnation);
    put_le64(p + AT_SIZE, sb->size_bytes);
    put_le64(p + AT_TABLE_OFF, sb->table_off_bytes);
    put_le64(p + AT_SLAB_OFF, sb->slab_off_bytes);
    put_le32(p + AT_TABLE_ENTRIES, sb->table_entry_count);
    put_le32(p + AT_SLABS, sb->slab_count);
    memcpy(p + AT_CLASS, sb->class_name, DISK_CLASS_BYTES);
    put_le64(p + AT_COPY_OFF, off_bytes);
    put_le32(p + AT_CLEAN, sb->clean);
    put_le32(p + AT_CRC, block_crc(p));
}

static bool layout_is_sane(const struct superblock *sb)
{
    uint64_t size = sb->size_bytes;
    if (size < DISK_BYTES_MIN || size > (uint64_t)SLAB_COUNT_MAX * SLAB_BYTES ||
        size % SUPERBLOCK_BYTES != 0)
        return false;
    if (sb->table_off_bytes < SECOND_COPY_OFF + SUPERBLOCK_BYTES ||
        sb->table_off_bytes % SUPERBLOCK_BYTES != 0)
        return false;
    if (sb->table_off_bytes > size || sb->slab_off_bytes > size ||
        sb->slab_off_bytes % SUPERBLOCK_BYTES != 0)
        return false;
    if (sb->table_entry_count == 0 || sb->table_entry_count % TABLE_BLOCK_ENTRIES != 0)
        return false;
    if (sb->table_off_bytes + (uint64_t)sb->table_entry_count * TABLE_ENTRY_BYTES >
        sb->slab_off_bytes)
        return false;
    return sb->slab_count > 0 && sb->slab_count <= SLAB_COUNT_MAX &&
           sb->slab_off_bytes + (uint64_t)sb->slab_count * SLAB_BYTES <= size - SUPERBLOCK_BYTES;
}

int superblock_decode(const void *block, uint64_t off_bytes, struct superblock *ret_sb)
{
    const uint8_t *p = block;
    if (memcmp(p + AT_MAGIC, MAGIC, sizeof(MAGIC)) != 0)
        return -ENOENT;
    if (get_le32(p + AT_CRC) != block_crc(p))
        return -EBADMSG;
    struct superblock sb = {
        .features_needed = get_le64(p + AT_FEATURES_NEEDED),
        .features_readable = get_le64(p + AT_FEATURES_READABLE),
        .incarnation = get_le64(p + AT_INCARNATION),
        .size_bytes = get_le64(p + AT_SIZE),
        .table_off_bytes = get_le64(p + AT_TABLE_OFF),
        .slab_off_bytes = get_le64(p + AT_SLAB_OFF),
        .table_entry_count = get_le32(p + AT_TABLE_ENTRIES),
        .slab_count = get_le32(p + AT_SLABS),
        .clean = get_le32(p + AT_CLEAN),
    };
    memcpy(&sb.cluster, p + AT_CLUSTER, 16);
    memcpy(&sb.node, p + AT_NODE, 16);
    memcpy(&sb.disk, p + AT_DISK, 16);
    memcpy(sb.class_name, p + AT_CLASS, DISK_CLASS_BYTES);
    sb.class_name[DISK_CLASS_BYTES - 1] = '\0';
    if (get_le32(p + AT_VERSION) != SUPERBLOCK_VERSION ||
        (sb.features_needed & ~SUPERBLOCK_FEATURES_NEEDED) != 0) {
        *ret_sb = sb;
        return -EOPNOTSUPP;
    }
    if (get_le64(p + AT_COPY_OFF) != off_bytes || !layout_is_sane(&sb))
        return -EBADMSG;
    *ret_sb = sb;
    return 0;
}
