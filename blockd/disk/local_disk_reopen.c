/* SPDX-License-Identifier: Apache-2.0
 *
 * A disk that has hung comes back (D20): it is closed, and opened as at a start of the daemon. The struct disk stays,
 * as that of a disk of another node does when its daemon is started anew: whoever has it in hand is answered
 * -EHOSTUNREACH meanwhile.
 */
#include <errno.h>
#include <inttypes.h>

#include "blockd/disk/local_disk_impl.h"
#include "common/log.h"
#include "common/mem.h"

/* --- Operations on fibers, counted ------------------------------------------------------------- */

static MAY_SUSPEND int counted_create(
    struct disk *base, const struct shard_create *create, struct shard_info *ret_info)
{
    COUNTED(local_disk_of(base));
    return local_create(base, create, ret_info);
}

static MAY_SUSPEND int counted_seal(
    struct disk *base, struct shard_key key, uint32_t epoch, uint32_t length_blocks)
{
    COUNTED(local_disk_of(base));
    return local_seal(base, key, epoch, length_blocks);
}

static MAY_SUSPEND int counted_remove(
    struct disk *base, struct shard_key key, uint64_t instance, uint32_t epoch)
{
    COUNTED(local_disk_of(base));
    return local_remove(base, key, instance, epoch);
}

static MAY_SUSPEND int counted_fence(
    struct disk *base, struct shard_key key, uint32_t epoch, struct shard_info *ret_info)
{
    COUNTED(local_disk_of(base));
    return local_fence(base, key, epoch, ret_info);
}

static MAY_SUSPEND int counted_stat(
    struct disk *base, struct shard_key key, struct shard_info *ret_info)
{
    COUNTED(local_disk_of(base));
    return local_stat(base, key, ret_info);
}

static MAY_SUSPEND int counted_list(
    struct disk *base, uint64_t volume, struct shard_info **ret_list, unsigned *ret_count)
{
    COUNTED(local_disk_of(base));
    return local_list(base, volume, ret_list, ret_count);
}

const struct disk_ops local_disk_ops = {
    .create = counted_create,
    .append = local_append,
    .read = local_read,
    .sync = local_sync,
    .seal = counted_seal,
    .remove = counted_remove,
    .fence = counted_fence,
    .stat = counted_stat,
    .list = counted_list,
};

/* --- Between two incarnations ------------------------------------------------------------------- */

static MAY_SUSPEND int gone_create(
    struct disk *base, const struct shard_create *create, struct shard_info *ret_info)
{
    return local_retired_error(local_disk_of(base));
}

static void gone_append(struct shard_append *append)
{
    struct local_disk *disk = local_disk_of(append->disk);
    local_append_later(disk, append, local_retired_error(disk));
}

static void gone_read(struct shard_read *read)
{
    local_read_later(local_disk_of(read->disk), read, -EHOSTUNREACH);
}

static void gone_sync(struct shard_sync *sync)
{
    struct local_disk *disk = local_disk_of(sync->disk);
    local_sync_later(disk, sync, local_retired_error(disk));
}

static MAY_SUSPEND int gone_seal(
    struct disk *base, struct shard_key key, uint32_t epoch, uint32_t length_blocks)
{
    return local_retired_error(local_disk_of(base));
}

static MAY_SUSPEND int gone_remove(
    struct disk *base, struct shard_key key, uint64_t instance, uint32_t epoch)
{
    return local_retired_error(local_disk_of(base));
}

static MAY_SUSPEND int gone_fence(
    struct disk *base, struct shard_key key, uint32_t epoch, struct shard_info *ret_info)
{
    return local_retired_error(local_disk_of(base));
}

static MAY_SUSPEND int gone_stat(
    struct disk *base, struct shard_key key, struct shard_info *ret_info)
{
    return -EHOSTUNREACH;
}

static MAY_SUSPEND int gone_list(
    struct disk *base, uint64_t volume, struct shard_info **ret_list, unsigned *ret_count)
{
    return -EHOSTUNREACH;
}

const struct disk_ops local_gone_ops = {
    .create = gone_create,
    .append = gone_append,
    .read = gone_read,
    .sync = gone_sync,
    .seal = gone_seal,
    .remove = gone_remove,
    .fence = gone_fence,
    .stat = gone_stat,
    .list = gone_list,
};

/* --- Coming back -------------------------------------------------------------------------------- */

/* Nobody is inside: all that was under way has been answered (D19), walks and answers included. */
static bool is_quiet(const struct local_disk *disk)
{
    if (disk->ops_in_flight > 0 || disk->fiber_ops > 0 || disk->flush_in_flight ||
        disk->table_writing || env_timer_armed(&disk->later))
        return false;
    for (unsigned i = 0; i < ACTIVE_BUCKETS; i++)
        list_for_each (it, &disk->actives[i])
            if (list_entry(it, struct active, hash_link)->refs > 0)
                return false;
    return true;
}

static MAY_SUSPEND void close_file(struct local_disk *disk)
{
    struct env_file *file = disk->file;
    disk->file = NULL;
    env_file_on_hung(file, NULL, NULL);
    env_file_close(file);
}

/* From here on nothing of the incarnation that has hung can be answered or written (D2). */
static void leave_incarnation(struct local_disk *disk)
{
    disk->gone = true;
    disk->base.ops = &local_gone_ops;
    local_disk_inside_fini(disk);
}

/* All I/O of the file that was opened last is back: 0. -EAGAIN: not yet; -EIO: with an error, so the disk has failed. */
static int check_back(struct local_disk *disk)
{
    int r = disk->file ? env_file_hung_back(disk->file) : 1;
    if (r < 0) {
        local_disk_fail(&disk->base, r);
        return -EIO;
    }
    return r == 0 || (!disk->gone && !is_quiet(disk)) ? -EAGAIN : 0;
}

/* Whoever has opened it since, on another node, writes to it by his table: it is his now. -EIO: not tried again. */
static int check_untouched(
    const struct local_disk *disk, const struct superblock *found, char **ret_error)
{
    if (found->incarnation <= disk->super.incarnation)
        return 0;
    *ret_error = mem_printf("%s was opened elsewhere while it hung here: incarnation %" PRIu64
                            ", ours was %" PRIu64 "; nothing is written to it any more",
        disk->path, found->incarnation, disk->super.incarnation);
    return -EIO;
}

static MAY_SUSPEND int begin(
    struct local_disk *disk, struct superblock *ret_super, unsigned *ret_bad, char **ret_error)
{
    struct uuid cluster = disk->super.cluster;
    int r = env_file_open(disk->path, ENV_OPEN_EXCLUSIVE_LOCK, 0, &disk->file);
    if (r < 0) {
        disk->file = NULL;
        return local_explain_open(disk->path, r, ret_error);
    }
    disk->file = env_file_deadline(disk->file, disk->options.io_timeout_ns);
    struct superblock found;
    unsigned bad;
    r = local_read_superblock(disk->file, &found, &bad, ret_error);
    if (r == 0 && !uuid_equal(&found.disk, &disk->base.uuid)) {
        *ret_error = mem_printf("another disk is at %s now", disk->path);
        r = -ENODEV;
    }
    if (r == 0)
        r = check_untouched(disk, &found, ret_error);
    if (r == 0 && !disk->hung) /* told to fail meanwhile */
        r = -EIO;
    if (r < 0)
        return r;
    disk->super.incarnation = found.incarnation + 1; /* it may get there even if this fails */
    return local_begin_incarnation(
        disk->file, &cluster, ret_super, &disk->in_doubt, ret_bad, ret_error);
}

/* Fills the disk from its table, while everybody is still answered that it is away. It may be told to fail meanwhile. */
static MAY_SUSPEND int load(
    struct local_disk *disk, const struct superblock *super, char **ret_error)
{
    if (!disk->hung)
        return -EIO;
    local_disk_inside_init(disk, disk->file, super);
    disk->failed = false;
    int r = local_table_load(disk, ret_error);
    if (r == 0 && disk->failed)
        r = local_retired_error(disk);
    disk->failed = true;
    if (r < 0)
        local_disk_inside_fini(disk);
    if (r < 0 && !*ret_error)
        *ret_error = mem_printf("%s: its shard table could not be written", disk->path);
    return r;
}

/* D2: what failed is not tried again; what only hangs once more is. */
static int open_error(const struct local_disk *disk, int r)
{
    bool hangs = disk->file && env_file_hangs(disk->file);
    if (disk->write_failed || (r == -EIO && !hangs))
        return -EIO;
    return r == -EIO ? -EHOSTUNREACH : r;
}

MAY_SUSPEND int local_disk_reopen(struct disk *base, char **ret_error)
{
    struct local_disk *disk = local_disk_of(base);
    CHECK(disk->hung && disk->options.io_timeout_ns > 0);
    *ret_error = NULL;
    int r = check_back(disk);
    if (r < 0)
        return r;
    if (!disk->gone)
        leave_incarnation(disk);
    if (disk->file)
        close_file(disk);
    struct superblock super;
    unsigned bad_copies;
    r = begin(disk, &super, &bad_copies, ret_error);
    if (r == 0)
        r = load(disk, &super, ret_error);
    if (r < 0)
        return open_error(disk, r);
    disk->failed = disk->hung = disk->gone = false;
    disk->came_back = true;
    base->ops = &local_disk_ops;
    base->damage_count += bad_copies;
    base->missing_since_ns = 0;
    base->state = DISK_IN;
    local_log_opened(disk);
    return 0;
}
