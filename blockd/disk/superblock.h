/* SPDX-License-Identifier: Apache-2.0
 *
 * The superblock of a disk, version 1 (docs/FORMAT.md): who the disk is and where its parts stand.
 * Three copies: block 0, at 1 MiB, in the last 4 KiB. Pure codec.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/uuid.h"

#define SUPERBLOCK_BYTES 4096
#define SUPERBLOCK_COPIES 3
#define SUPERBLOCK_VERSION 1
#define DISK_BYTES_MIN (64ull << 20)
#define DISK_CLASS_BYTES 16

/* Features this code knows. An unknown "needed" one forbids opening; an unknown "readable" one does
 * not. */
#define SUPERBLOCK_FEATURES_NEEDED UINT64_C(0)
#define SUPERBLOCK_FEATURES_READABLE UINT64_C(0)

struct superblock {
    struct uuid cluster, node, disk;
    uint64_t features_needed, features_readable;
    uint64_t incarnation; /* rises at each open */
    uint64_t size_bytes;  /* of the device, rounded down to 4 KiB; the last copy ends there */
    uint64_t table_off_bytes;
    uint64_t slab_off_bytes;
    uint32_t table_entry_count;
    uint32_t slab_count;
    uint32_t clean; /* 1: closed in order, nothing that was written is in doubt (D17) */
    char class_name[DISK_CLASS_BYTES]; /* ends with a zero byte */
};

/* Fills the geometry fields for a device. -ERANGE: smaller than DISK_BYTES_MIN, or larger than 128
 * TiB. */
int superblock_layout(struct superblock *sb, uint64_t device_bytes);
void superblock_copy_offsets(uint64_t size_bytes, uint64_t ret_off_bytes[SUPERBLOCK_COPIES]);

/* Fills all SUPERBLOCK_BYTES of `block`, the copy that stands at off_bytes. */
void superblock_encode(const struct superblock *sb, uint64_t off_bytes, void *block);
/* -ENOENT: no superblock (wrong magic); -EBADMSG: one, damaged or from another place; -EOPNOTSUPP:
 * valid, but of a newer version or with a needed feature this code does not know (ret_sb has UUIDs,
 * class and features). */
int superblock_decode(const void *block, uint64_t off_bytes, struct superblock *ret_sb);
