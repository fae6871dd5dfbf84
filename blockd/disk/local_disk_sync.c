/* SPDX-License-Identifier: Apache-2.0
 *
 * Sync: one device flush serves all that wait for one.
 *
 *  D12 A waiter joins only a flush that is submitted after its appends completed (S4). One flush is
 *      in flight at a time; what asks meanwhile shares the next one.
 */
#include <errno.h>

#include "blockd/disk/local_disk_impl.h"
#include "common/mem.h"
#include "common/planted.h"

static void flush_start(struct local_disk *disk);

static void flush_done(struct env_io *io)
{
    struct local_disk *disk = container_of(io, struct local_disk, flush_io);
    if (io->result < 0 && !PLANTED(retry_failed_flush))
        local_retire(disk, (int)io->result, "flushing the device failed");
    struct list served;
    list_init(&served);
    list_splice_back(&served, &disk->flush_served);
    disk->flush_in_flight = false;
    if (!list_empty(&disk->flush_waiting))
        flush_start(disk);
    struct list *link;
    while ((link = list_pop_front(&served)) != NULL) {
        struct flush_waiter *waiter = list_entry(link, struct flush_waiter, link);
        waiter->done(waiter, disk->failed ? local_retired_error(disk) : 0);
    }
}

static void flush_start(struct local_disk *disk)
{
    disk->flush_in_flight = true;
    list_splice_back(&disk->flush_served, &disk->flush_waiting);
    list_for_each (it, &disk->flush_served) {
        struct flush_waiter *waiter = list_entry(it, struct flush_waiter, link);
        if (waiter->begun != NULL)
            waiter->begun(waiter);
    }
    disk->flush_io = (struct env_io){.op = ENV_IO_SYNC, .file = disk->file, .done = flush_done};
    env_io_submit(&disk->flush_io);
}

void local_flush_join(struct local_disk *disk, struct flush_waiter *waiter)
{
    if (PLANTED(join_running_flush) && disk->flush_in_flight) {
        list_push_back(&disk->flush_served, &waiter->link);
        if (waiter->begun != NULL)
            waiter->begun(waiter);
        return;
    }
    list_push_back(&disk->flush_waiting, &waiter->link);
    if (!disk->flush_in_flight)
        flush_start(disk);
}

struct fiber_flush {
    struct flush_waiter waiter;
    struct fiber *fiber;
    int error;
    bool done;
};

static void fiber_flush_done(struct flush_waiter *waiter, int error)
{
    struct fiber_flush *flush = container_of(waiter, struct fiber_flush, waiter);
    flush->error = error;
    flush->done = true;
    fiber_wake(flush->fiber);
}

MAY_SUSPEND int local_flush(struct local_disk *disk)
{
    if (disk->failed)
        return local_retired_error(disk);
    struct fiber_flush flush = {.waiter.done = fiber_flush_done, .fiber = fiber_self()};
    local_flush_join(disk, &flush.waiter);
    while (!flush.done)
        fiber_suspend();
    return flush.error;
}

/* --- shard_sync ------------------------------------------------------------------------------- */

struct sync_op {
    struct flush_waiter waiter;
    struct active *active;
    struct shard_sync *sync;
    uint32_t completed_blocks; /* when the flush was submitted */
};

void local_sync_pool_free(struct local_disk *disk)
{
    struct list *link;
    while ((link = list_pop_front(&disk->free_syncs)) != NULL)
        mem_free(list_entry(link, struct sync_op, waiter.link));
}

static void sync_begun(struct flush_waiter *waiter)
{
    struct sync_op *op = container_of(waiter, struct sync_op, waiter);
    op->completed_blocks = MIN(op->active->completed_blocks, op->active->sync_max_blocks);
}

static void sync_done(struct flush_waiter *waiter, int error)
{
    struct sync_op *op = container_of(waiter, struct sync_op, waiter);
    struct active *active = op->active;
    struct local_disk *disk = active->disk;
    struct shard_sync *sync = op->sync;
    if (error == 0)
        active->durable_blocks = MAX(active->durable_blocks, op->completed_blocks);
    /* Fenced while the flush was under way: the owner is deposed, do not let it count on this (S8).
     */
    if (error == 0 && sync->epoch < slot_epoch_min(active_slot(active)))
        error = -ESTALE;
    list_push_front(&disk->free_syncs, &op->waiter.link);
    active_put(active);
    sync->result = error;
    disk->ops_in_flight--;
    sync->done(sync);
}

/* 0: goes on; 1: durable already; or an error. */
static int check(
    struct local_disk *disk, const struct table_slot *slot, const struct shard_sync *sync)
{
    if (disk->failed)
        return local_retired_error(disk);
    if (sync->epoch < slot_epoch_min(slot))
        return -ESTALE;
    if (slot->state == TABLE_TOMBSTONE)
        return -ENOENT;
    if (slot->state == TABLE_SEALED)
        return sync->length_blocks <= slot->length_blocks ? 1 : -ERANGE;
    if ((slot->flags & TABLE_SUSPECT) != 0 && !PLANTED(sync_after_reboot))
        return -EREMOTEIO;
    return (slot->flags & TABLE_NO_EXTENT) != 0 ? -EBADMSG : 0;
}

static int start(struct active *active, struct shard_sync *sync)
{
    struct local_disk *disk = active->disk;
    if (!active->loaded) {
        list_push_back(&active->parked_syncs, &sync->link);
        disk->ops_in_flight++;
        active_load_start(active);
        return 0;
    }
    if (sync->length_blocks > active->completed_blocks)
        return -ERANGE;
    if (sync->length_blocks > active->sync_max_blocks)
        return -EBADMSG; /* D20 */
    if (sync->length_blocks <= active->durable_blocks)
        return 1;
    struct list *link = list_pop_front(&disk->free_syncs);
    struct sync_op *op =
        link != NULL ? list_entry(link, struct sync_op, waiter.link) : NEW(struct sync_op);
    *op = (struct sync_op){
        .waiter = {.begun = sync_begun, .done = sync_done}, .active = active, .sync = sync};
    active->refs++;
    disk->ops_in_flight++;
    local_flush_join(disk, &op->waiter);
    return 0;
}

void local_sync(struct shard_sync *sync)
{
    struct local_disk *disk = local_disk_of(sync->disk);
    int r;
    struct table_slot *slot = local_find(disk, sync->key, &r);
    if (slot != NULL)
        r = check(disk, slot, sync);
    else if (disk->failed)
        r = local_retired_error(disk);
    if (r == 0) {
        struct active *active = active_get(disk, local_slot_no(disk, slot));
        r = start(active, sync);
        active_put(active);
    }
    if (r != 0)
        local_sync_later(disk, sync, MIN(r, 0));
}
