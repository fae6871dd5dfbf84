/* SPDX-License-Identifier: Apache-2.0
 *
 * Seal and remove.
 *
 *  D5  Space is used again only when the table entry that gave it up is durable and the last read
 *      begun before has ended.
 *  D14 A seal makes the data durable up to the cut, writes the trailer behind it, durably, then
 *      marks the table: a sealed entry always has all its blocks and its trailer. Blocks beyond the
 *      cut are void from the moment the seal is asked for; if there are any in the trailer's way,
 *      an entry that says "cut here" comes before it.
 */
#include <errno.h>
#include <string.h>

#include "blockd/disk/local_disk_impl.h"
#include "common/mem.h"
#include "common/planted.h"

/* --- Seal ------------------------------------------------------------------------------------- */

static void build_trailer(struct active *active, uint32_t length, uint8_t *blocks)
{
    const struct table_slot *slot = active_slot(active);
    for (uint32_t first = 0; first < length; first += TRAILER_ENTRIES) {
        struct trailer trailer = {
            .cluster = active->disk->super.cluster,
            .key = table_slot_key(slot),
            .kind = (enum shard_kind)slot->kind,
            .code = {.k = slot->k, .m = slot->m},
            .nonce = slot->nonce,
            .first_block = first,
            .length_blocks = length,
            .entry_count = MIN(length - first, (uint32_t)TRAILER_ENTRIES),
        };
        trailer_build(blocks, &trailer, &active->entries[first]);
        blocks += BLOCK_BYTES;
    }
}

/* Data up to the cut durable. Where the trailer will stand on blocks that were appended, the table
 * says so first: after a crash these would look damaged. */
static int cut(struct active *active, uint32_t length)
{
    struct local_disk *disk = active->disk;
    struct table_slot *slot = active_slot(active);
    int r = active->durable_blocks >= length ? 0 : local_flush(disk);
    if (r < 0 || !slot_has_trailer(slot) || length == active->end_blocks)
        return r;
    slot->flags |= TABLE_CUT;
    slot->length_blocks = (uint16_t)length;
    active->end_blocks = active->completed_blocks = active->durable_blocks = length;
    local_table_dirty(disk, active->slot_no);
    return local_table_commit(disk);
}

static int write_trailer(struct active *active, uint32_t length)
{
    struct local_disk *disk = active->disk;
    const struct table_slot *slot = active_slot(active);
    uint32_t count = shard_trailer_blocks((enum shard_kind)slot->kind, length);
    if (count == 0)
        return 0;
    uint8_t *blocks = mem_alloc_pages(count * BLOCK_BYTES);
    build_trailer(active, length, blocks);
    int r = env_file_write(
        disk->file, blocks, count * BLOCK_BYTES, slot_block_off(disk, slot, length), true);
    mem_free_pages(blocks, count * BLOCK_BYTES);
    if (r < 0) {
        local_retire(disk, r, "writing a trailer failed");
        return local_retired_error(disk);
    }
    return 0;
}

static void give_tail_back(struct active *active)
{
    struct local_disk *disk = active->disk;
    if (active->reads[0] > 0) {
        active->has_tail = true; /* the last of them does it */
        return;
    }
    slab_free(&disk->slabs, active->tail_first, active->tail_units);
    local_update_space(disk);
}

static int mark_sealed(struct active *active, uint32_t length)
{
    struct local_disk *disk = active->disk;
    struct table_slot *slot = active_slot(active);
    uint32_t blocks = length + shard_trailer_blocks((enum shard_kind)slot->kind, length);
    uint32_t units = MAX(1u, DIV_ROUND_UP(blocks, SLAB_UNIT_BLOCKS));
    uint32_t tail_units = slot->unit_count - units;
    slot->state = TABLE_SEALED;
    slot->length_blocks = (uint16_t)length;
    slot->unit_count = (uint16_t)units;
    /* The content is whole up to the cut and durable: nothing is left to suspect. */
    slot->flags &= (uint8_t) ~(TABLE_SUSPECT | TABLE_CUT);
    active->end_blocks = active->completed_blocks = active->durable_blocks = length;
    local_table_dirty(disk, active->slot_no);
    int r = local_table_commit(disk);
    if (r == 0 && tail_units > 0) {
        active->tail_first = slot->first_unit + units;
        active->tail_units = tail_units;
        give_tail_back(active);
    }
    return r;
}

static int seal_open(struct active *active, uint32_t length)
{
    struct local_disk *disk = active->disk;
    int r = active_load(active);
    if (r < 0)
        return r;
    active->sealing = true;
    active_wait_appends(active);
    bool at_boundary = length == active->end_blocks ||
                       (length < active->end_blocks && active_is_header(active, length));
    if (disk->failed)
        r = local_retired_error(disk);
    else if (!at_boundary)
        r = -ERANGE;
    else
        r = cut(active, length);
    if (r == 0)
        r = write_trailer(active, length);
    if (r == 0)
        r = mark_sealed(active, length);
    active->sealing = false;
    return r;
}

MAY_SUSPEND int local_seal(
    struct disk *base, struct shard_key key, uint32_t epoch, uint32_t length_blocks)
{
    struct local_disk *disk = local_disk_of(base);
    struct active *active;
    int r = active_acquire(disk, key, &active);
    if (r < 0)
        return disk->failed ? local_retired_error(disk) : r;
    const struct table_slot *slot = active_slot(active);
    if (disk->failed)
        r = local_retired_error(disk);
    else if (epoch < slot_epoch_min(slot))
        r = -ESTALE;
    else if (slot->state == TABLE_TOMBSTONE)
        r = -ENOENT;
    else if (slot->state == TABLE_SEALED)
        r = length_blocks == slot->length_blocks ? 0 : -ERANGE;
    else if ((slot->flags & TABLE_NO_EXTENT) != 0)
        r = -EBADMSG;
    else
        r = seal_open(active, length_blocks);
    active_release(active);
    return r;
}

/* --- Remove ----------------------------------------------------------------------------------- */

static int remove_present(struct active *active)
{
    struct local_disk *disk = active->disk;
    struct table_slot *slot = active_slot(active);
    slot->flags |= TABLE_REMOVING; /* absent for everybody from here on */
    if (PLANTED(early_reuse) && slot->unit_count > 0) {
        slab_free(&disk->slabs, slot->first_unit, slot->unit_count);
        slot->unit_count = 0;
    }
    active_wait_appends(active);
    local_table_dirty(disk, active->slot_no);
    int r = local_table_commit(disk);
    if (r < 0)
        return r; /* the disk has failed: what it says about this shard does not matter any more */
    if (slot->state != TABLE_TOMBSTONE)
        disk->table.shard_count--;
    table_unlink(&disk->table, active->slot_no);
    active->removed = true;
    return 0;
}

MAY_SUSPEND int local_remove(
    struct disk *base, struct shard_key key, uint64_t instance, uint32_t epoch)
{
    struct local_disk *disk = local_disk_of(base);
    struct active *active;
    int r = active_acquire(disk, key, &active);
    /* What may have been a lost entry's is gone as well as it can be. */
    if (r < 0)
        return disk->failed ? local_retired_error(disk) : -ENOENT;
    const struct table_slot *slot = active_slot(active);
    if (disk->failed)
        r = local_retired_error(disk);
    else if (epoch < slot_epoch_min(slot))
        r = -ESTALE;
    else if (instance != 0 && !PLANTED(remove_any_instance) &&
             (slot->state == TABLE_TOMBSTONE || slot->instance != instance))
        r = -ENOENT;
    else
        r = remove_present(active);
    active_release(active);
    return r;
}
