/* SPDX-License-Identifier: Apache-2.0
 *
 * The shard interface: dispatch to a disk's implementation, and the fiber forms of append, read and
 * sync.
 */
#include "blockd/disk/shard.h"

#include "common/check.h"

MAY_SUSPEND int shard_create(
    struct disk *disk, const struct shard_create *create, struct shard_info *ret_info)
{
    return disk->ops->create(disk, create, ret_info);
}

void shard_append_submit(struct shard_append *append)
{
    append->disk->ops->append(append);
}

void shard_read_submit(struct shard_read *read)
{
    read->disk->ops->read(read);
}

void shard_sync_submit(struct shard_sync *sync)
{
    sync->disk->ops->sync(sync);
}

MAY_SUSPEND int shard_seal(
    struct disk *disk, struct shard_key key, uint32_t epoch, uint32_t length_blocks)
{
    return disk->ops->seal(disk, key, epoch, length_blocks);
}

MAY_SUSPEND int shard_remove(
    struct disk *disk, struct shard_key key, uint64_t instance, uint32_t epoch)
{
    return disk->ops->remove(disk, key, instance, epoch);
}

MAY_SUSPEND int shard_fence(
    struct disk *disk, struct shard_key key, uint32_t epoch, struct shard_info *ret_info)
{
    return disk->ops->fence(disk, key, epoch, ret_info);
}

MAY_SUSPEND int shard_stat(struct disk *disk, struct shard_key key, struct shard_info *ret_info)
{
    return disk->ops->stat(disk, key, ret_info);
}

MAY_SUSPEND int shard_list(
    struct disk *disk, uint64_t volume, struct shard_info **ret_list, unsigned *ret_count)
{
    return disk->ops->list(disk, volume, ret_list, ret_count);
}

/* --- Fiber forms ------------------------------------------------------------------------------ */

/* The disk works on a copy that stands beside who waits for it: `link` and `impl` are the disk's
 * own. */
struct append_waiter {
    struct shard_append copy;
    struct fiber *fiber;
    bool done;
};

static void append_woken(struct shard_append *append)
{
    struct append_waiter *waiter = container_of(append, struct append_waiter, copy);
    waiter->done = true;
    fiber_wake(waiter->fiber);
}

MAY_SUSPEND int shard_append(struct shard_append *append)
{
    struct append_waiter waiter = {.copy = *append, .fiber = fiber_self()};
    waiter.copy.done = append_woken;
    shard_append_submit(&waiter.copy);
    while (!waiter.done)
        fiber_suspend();
    append->result = waiter.copy.result;
    append->ret_header_crc = waiter.copy.ret_header_crc;
    return append->result;
}

struct read_waiter {
    struct shard_read read;
    struct fiber *fiber;
    bool done;
};

static void read_woken(struct shard_read *read)
{
    struct read_waiter *waiter = container_of(read, struct read_waiter, read);
    waiter->done = true;
    fiber_wake(waiter->fiber);
}

MAY_SUSPEND int shard_read(struct disk *disk, struct shard_key key, uint32_t off_blocks,
    uint32_t count, void *buf, struct shard_entry *ret_entries)
{
    struct iovec iov = {.iov_base = buf, .iov_len = (size_t)count * BLOCK_BYTES};
    struct read_waiter waiter = {
        .read = {.disk = disk,
            .key = key,
            .off_blocks = off_blocks,
            .count = count,
            .iov = &iov,
            .iov_count = 1,
            .ret_entries = ret_entries,
            .done = read_woken},
        .fiber = fiber_self(),
    };
    shard_read_submit(&waiter.read);
    while (!waiter.done)
        fiber_suspend();
    return waiter.read.result;
}

struct sync_waiter {
    struct shard_sync sync;
    struct fiber *fiber;
    bool done;
};

static void sync_woken(struct shard_sync *sync)
{
    struct sync_waiter *waiter = container_of(sync, struct sync_waiter, sync);
    waiter->done = true;
    fiber_wake(waiter->fiber);
}

MAY_SUSPEND int shard_sync(
    struct disk *disk, struct shard_key key, uint32_t epoch, uint32_t length_blocks)
{
    struct sync_waiter waiter = {
        .sync = {.disk = disk,
            .key = key,
            .epoch = epoch,
            .length_blocks = length_blocks,
            .done = sync_woken},
        .fiber = fiber_self(),
    };
    shard_sync_submit(&waiter.sync);
    while (!waiter.done)
        fiber_suspend();
    return waiter.sync.result;
}
