/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening a disk: find a good superblock copy, refuse what cannot be right, repair bad copies, load
 * the table, and make the new incarnation and the suspect marks (S6) durable before anything is
 * answered.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "blockd/disk/local_disk_impl.h"
#include "common/log.h"
#include "common/mem.h"

/* --- Superblock copies ------------------------------------------------------------------------ */

struct candidates {
    struct superblock best;
    bool found;
    unsigned bad;     /* copies that are not valid */
    bool any_damaged; /* one of them was a superblock once */
    bool newer;       /* one is valid and of a newer version */
    int read_error;
};

static void look_at_copy(
    struct candidates *candidates, struct env_file *file, uint64_t off_bytes, void *buf)
{
    int r = env_file_read(file, buf, SUPERBLOCK_BYTES, off_bytes);
    if (r < 0) {
        candidates->read_error = r;
        candidates->bad++;
        return;
    }
    struct superblock super;
    r = superblock_decode(buf, off_bytes, &super);
    if (r == -EOPNOTSUPP) {
        if (!candidates->found)
            candidates->best = super;
        candidates->newer = true;
        return;
    }
    if (r < 0) {
        candidates->bad++;
        candidates->any_damaged |= r == -EBADMSG;
        return;
    }
    if (!candidates->found || super.incarnation > candidates->best.incarnation)
        candidates->best = super;
    candidates->found = true;
}

/* What there is to say when no copy can be used. */
static int explain(const struct candidates *candidates, const char *path, char **ret_error)
{
    if (candidates->newer) {
        *ret_error =
            mem_printf("%s: formatted by a newer version of Holdfast (features needed 0x%" PRIx64
                       "); run that version, or newer",
                path, candidates->best.features_needed);
        return -EOPNOTSUPP;
    }
    if (candidates->read_error != 0 && error_is_gone(candidates->read_error)) {
        *ret_error =
            mem_printf("%s: the device cannot be read: %s; check its cable and the kernel log",
                path, local_disk_strerror(candidates->read_error));
        return -EHOSTUNREACH;
    }
    *ret_error = candidates->any_damaged || candidates->read_error != 0
                     ? mem_printf("%s: no copy of the superblock is valid (three were tried); if "
                                  "this was a Holdfast "
                                  "disk, its shards can be rebuilt from the other disks: then "
                                  "format it with --force",
                           path)
                     : mem_printf("%s: not a Holdfast disk; 'holdfast disk format %s' makes it one",
                           path, path);
    return -EBADMSG;
}

MAY_SUSPEND int local_read_superblock(
    struct env_file *file, struct superblock *ret_super, unsigned *ret_bad_copies, char **ret_error)
{
    const char *path = env_file_path(file);
    uint64_t size = env_file_size_bytes(file);
    if (size < 2 * SUPERBLOCK_BYTES) {
        *ret_error =
            mem_printf("%s: %" PRIu64 " bytes is too small for a Holdfast disk", path, size);
        return -EBADMSG;
    }
    struct candidates candidates = {0};
    uint64_t offs[SUPERBLOCK_COPIES];
    superblock_copy_offsets(size, offs);
    void *buf = mem_alloc_pages(SUPERBLOCK_BYTES);
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++) {
        if (candidates.found) /* it knows best where the last copy stands */
            superblock_copy_offsets(candidates.best.size_bytes, offs);
        if (offs[i] + SUPERBLOCK_BYTES > size)
            continue;
        look_at_copy(&candidates, file, offs[i], buf);
    }
    mem_free_pages(buf, SUPERBLOCK_BYTES);
    if (!candidates.found)
        return explain(&candidates, path, ret_error);
    if (size < candidates.best.size_bytes) {
        *ret_error =
            mem_printf("%s: the superblock says %" PRIu64 " bytes, the device has %" PRIu64
                       ": it was cut short or is another one; restore its size before it is used",
                path, candidates.best.size_bytes, size);
        return -EBADMSG;
    }
    *ret_super = candidates.best;
    *ret_bad_copies = candidates.bad;
    return 0;
}

/* One copy after the other: a power cut in the middle leaves at least two good ones. */
MAY_SUSPEND int local_write_superblocks(struct env_file *file, const struct superblock *super)
{
    uint64_t offs[SUPERBLOCK_COPIES];
    superblock_copy_offsets(super->size_bytes, offs);
    void *buf = mem_alloc_pages(SUPERBLOCK_BYTES);
    int r = 0;
    for (unsigned i = 0; r == 0 && i < SUPERBLOCK_COPIES; i++) {
        superblock_encode(super, offs[i], buf);
        r = env_file_write(file, buf, SUPERBLOCK_BYTES, offs[i], true);
    }
    mem_free_pages(buf, SUPERBLOCK_BYTES);
    return r;
}

/* --- Open ------------------------------------------------------------------------------------- */

int local_explain_open(const char *path, int error, char **ret_error)
{
    switch (error) {
    case -EBUSY:
        *ret_error =
            mem_printf("%s: in use by another process (a running blockd?); stop that first", path);
        break;
    case -ENOENT:
        *ret_error = mem_printf("%s: no such file or device", path);
        break;
    case -EACCES:
    case -EPERM:
        *ret_error =
            mem_printf("%s: no permission to open it; run as root or change its owner", path);
        return -EACCES; /* -EPERM says "another cluster's" */
    default:
        *ret_error = mem_printf("%s: cannot be opened: %s", path, strerror(-error));
        break;
    }
    return error;
}

static int check_cluster(
    const char *path, const struct superblock *super, const struct uuid *cluster, char **ret_error)
{
    if (uuid_equal(&super->cluster, cluster))
        return 0;
    char theirs[UUID_TEXT_BYTES], ours[UUID_TEXT_BYTES];
    *ret_error = mem_printf(
        "%s: belongs to cluster %s, this node to %s; use it there, or format it with --force", path,
        uuid_format(&super->cluster, theirs), uuid_format(cluster, ours));
    return -EPERM;
}

MAY_SUSPEND int local_begin_incarnation(struct env_file *file, const struct uuid *cluster,
    struct superblock *ret_super, bool *ret_in_doubt, unsigned *ret_bad_copies, char **ret_error)
{
    const char *path = env_file_path(file);
    int r = local_read_superblock(file, ret_super, ret_bad_copies, ret_error);
    if (r == 0)
        r = check_cluster(path, ret_super, cluster, ret_error);
    if (r < 0)
        return r;
    if (*ret_bad_copies > 0)
        log_warn("disk %s: %u of %u superblock copies were damaged; written again", path,
            *ret_bad_copies, SUPERBLOCK_COPIES);
    *ret_in_doubt = ret_super->clean != 1;
    ret_super->clean = 0;
    ret_super->incarnation++;
    r = local_write_superblocks(file, ret_super);
    if (r < 0) {
        *ret_error = mem_printf("%s: writing the superblock failed: %s; the device is not used",
            path, local_disk_strerror(r));
        return -EIO;
    }
    return 0;
}

static int open_file(struct env_file *file, const struct uuid *cluster,
    const struct local_disk_options *options, struct local_disk **ret_disk, char **ret_error)
{
    struct superblock super;
    unsigned bad_copies;
    bool in_doubt;
    int r = local_begin_incarnation(file, cluster, &super, &in_doubt, &bad_copies, ret_error);
    if (r < 0)
        return r;
    struct local_disk *disk = local_disk_new(file, &super, options);
    disk->in_doubt = in_doubt;
    *ret_error = NULL;
    r = local_table_load(disk, ret_error);
    if (r == -EIO || (r < 0 && !*ret_error))
        *ret_error = mem_printf(
            "%s: writing the shard table failed; the device is not used", env_file_path(file));
    if (r < 0) {
        local_disk_delete(disk);
        return r;
    }
    disk->base.damage_count += bad_copies;
    *ret_disk = disk;
    return 0;
}

void local_log_opened(const struct local_disk *disk)
{
    log_info("disk %s: opened, incarnation %" PRIu64 ", %u shards, %" PRIu64 " of %" PRIu64
             " MiB free",
        disk->path, disk->super.incarnation, disk->table.shard_count, disk->base.free_bytes >> 20,
        disk->base.size_bytes >> 20);
}

MAY_SUSPEND int local_disk_open(const char *path, struct uuid cluster,
    const struct local_disk_options *options, struct disk **ret_disk, char **ret_error)
{
    struct env_file *file;
    int r = env_file_open(path, ENV_OPEN_EXCLUSIVE_LOCK, 0, &file);
    if (r < 0)
        return local_explain_open(path, r, ret_error);
    if (options->io_timeout_ns > 0)
        file = env_file_deadline(file, options->io_timeout_ns);
    struct local_disk *disk;
    r = open_file(file, &cluster, options, &disk, ret_error);
    if (r < 0) {
        env_file_close(file);
        return r;
    }
    local_log_opened(disk);
    *ret_disk = &disk->base;
    return 0;
}

MAY_SUSPEND int local_disk_probe(const char *path, uint64_t io_timeout_ns,
    struct local_disk_superblock *ret_super, char **ret_error)
{
    struct env_file *file;
    int r = env_file_open(path, ENV_OPEN_READ_ONLY, 0, &file);
    if (r < 0)
        return local_explain_open(path, r, ret_error);
    if (io_timeout_ns > 0)
        file = env_file_deadline(file, io_timeout_ns);
    struct superblock super;
    unsigned bad_copies;
    r = local_read_superblock(file, &super, &bad_copies, ret_error);
    env_file_close(file);
    if (r < 0)
        return r;
    *ret_super = (struct local_disk_superblock){
        .cluster = super.cluster,
        .node = super.node,
        .disk = super.disk,
        .size_bytes = super.size_bytes,
        .incarnation = super.incarnation,
        .features_needed = super.features_needed,
        .features_readable = super.features_readable,
    };
    memcpy(ret_super->class_name, super.class_name, sizeof(ret_super->class_name));
    return 0;
}
