/* SPDX-License-Identifier: Apache-2.0
 *
 * The shard store on one device or preallocated file of this node: superblock copies, shard table,
 * 4 MiB slabs. Implements struct disk_ops. Invariants D1-D7: blockd/disk/README.md.
 */
#pragma once

#include "blockd/disk/shard.h"
#include "common/env.h"

struct local_disk_options {
    uint64_t trailer_cache_bytes; /* cap of this disk's cached CRCs */
    uint64_t io_timeout_ns; /* after that the disk hangs (D19); 0 = no I/O is waited for in vain */
    bool verify_appends; /* compare payloads with the owner's CRCs (-EBADMSG): the check of a wire,
                            needless inside one process */
    /* Told, from the env's loop or a fiber: the disk retired itself (once, D2), or hangs (-ETIMEDOUT, and its
     * state is DISK_MISSING; then perhaps, once, that it is retired for good); blocks are damaged. */
    void (*failed)(void *ctx, struct disk *disk, int error);
    void (*damaged)(void *ctx, struct disk *disk, struct shard_key key, uint32_t block);
    void *ctx;
};

struct local_disk_superblock {
    struct uuid cluster, node, disk;
    uint64_t size_bytes;
    uint64_t incarnation;
    char class_name[16];
    uint64_t features_needed, features_readable;
};

/* Formats `path` (a block device, an existing file, or a new file of size_bytes > 0; zeros are
 * written over the whole length of a file). Refuses what already carries a Holdfast superblock, or a
 * known file system's signature, unless `force`: -EEXIST. *ret_error (mem_free) says what is wrong
 * and the way out. Smallest size 64 MiB. */
MAY_SUSPEND int local_disk_format(const char *path, uint64_t size_bytes, struct uuid cluster,
    struct uuid node, const char *class_name, bool force, struct uuid *ret_disk, char **ret_error);

/* Opens, locks and loads (superblock, whole table). -EBADMSG: no valid superblock copy, or the table
 * is damaged beyond use; -EBUSY: in use by another process; -EPERM: another cluster's. *ret_error
 * (mem_free) names the path, what is wrong and the way out. A damaged single table entry does not
 * fail the open: its shard is "damaged", never absent, its slot stays reserved. */
MAY_SUSPEND int local_disk_open(const char *path, struct uuid cluster,
    const struct local_disk_options *options, struct disk **ret_disk, char **ret_error);
/* Reads only the superblock, for `disk list` and messages; each read within io_timeout_ns. */
MAY_SUSPEND int local_disk_probe(const char *path, uint64_t io_timeout_ns,
    struct local_disk_superblock *ret_super, char **ret_error);
/* No operation may be in flight. */
MAY_SUSPEND void local_disk_close(struct disk *disk);

const char *local_disk_path(const struct disk *disk);
unsigned local_disk_shard_count(const struct disk *disk);
/* Verifies every block of one shard (sealed: all; open: the valid prefix). -EBADMSG when damaged (also
 * told by the callback). */
MAY_SUSPEND int local_disk_scrub_shard(
    struct disk *disk, struct shard_key key, uint64_t *ret_bytes);
/* shard_list page by page, at most `max` shards each, without suspending: *cursor is 0 at first,
 * UINT32_MAX when there are no more. A shard that is there all the while is listed once. A page may be
 * short, or empty, before the end: it looks at no more than 64 Ki table entries. -EHOSTUNREACH: the disk is
 * between two incarnations. */
int local_disk_list_page(struct disk *disk, uint64_t volume, uint32_t *cursor,
    struct shard_info *ret_list, unsigned max);
/* For tests: CHECKs that the table's index agrees with its entries (D18). */
void local_disk_check(struct disk *disk);
/* What `failed` was told, as text: strerror, but for an I/O that hangs. */
const char *local_disk_strerror(int error);
/* Of a disk that hangs (DISK_MISSING): closes it and opens it again, as at a start (D20); it is DISK_IN then, and answers.
 * -EAGAIN: not all of its I/O is back, nothing was done. -EIO: some of that came back with an error: the disk is
 * DISK_FAILED. Others, with *ret_error (mem_free): it could not be opened; to be tried again, or given up with
 * local_disk_fail(). */
MAY_SUSPEND int local_disk_reopen(struct disk *disk, char **ret_error);
/* Retires the disk now, as after a write error; for good, if it hangs. */
void local_disk_fail(struct disk *disk, int error);
void local_disk_set_trailer_cache(struct disk *disk, uint64_t cap_bytes);
