/* SPDX-License-Identifier: Apache-2.0
 *
 * Create, fence, stat.
 *
 *  D6  A fence is durable before it is answered, and is answered only when no append of a lower
 *      epoch is in flight.
 *  D7  Full is a state: each priority has a share of space and of table entries it may not use.
 *  D13 Of one shard, create, seal, remove and fence run one after the other; each answer waits for
 *      the table write that carries it, an answer "it is so already" too.
 */
#include <errno.h>
#include <string.h>

#include "blockd/disk/local_disk_impl.h"
#include "common/mem.h"
#include "common/planted.h"

/* --- Create ----------------------------------------------------------------------------------- */

static unsigned reserved_percent(enum shard_priority priority)
{
    switch (priority) {
    case SHARD_PRIORITY_USER:
        return 5;
    case SHARD_PRIORITY_CLEAN:
        return 2;
    case SHARD_PRIORITY_SYSTEM:
        return 0;
    }
    CHECK_MSG(false, "priority %d", (int)priority);
    return 0;
}

/* A reserve of fragments would be none: writes leave whole slabs, too, to cleaning, which makes more of them. */
static uint32_t reserved_slabs(const struct local_disk *disk, enum shard_priority priority)
{
    if (priority != SHARD_PRIORITY_USER)
        return 0;
    return 1 + (uint32_t)DIV_ROUND_UP(
                   (uint64_t)disk->slabs.slab_count * reserved_percent(priority), 100);
}

/* Logs, manifests and map pages come even then, but leave whole slabs, without which cleaning makes none, as long as
 * they find room elsewhere. */
static bool slabs_are_scarce(const struct local_disk *disk)
{
    return disk->slabs.free_slabs <= reserved_slabs(disk, SHARD_PRIORITY_USER);
}

/* Without a log nothing is acknowledged, trims neither: writes and cleaning leave room for some. */
#define LOG_UNITS 16u /* of one when space is short */

static bool logs_find_room(
    const struct local_disk *disk, uint32_t units, enum shard_priority priority)
{
    uint32_t keep = priority == SHARD_PRIORITY_USER ? 2 : priority == SHARD_PRIORITY_CLEAN ? 1 : 0;
    return keep == 0 ||
           slab_count_with(&disk->slabs, LOG_UNITS, keep + DIV_ROUND_UP(units, SLAB_UNITS)) >=
               keep + DIV_ROUND_UP(units, SLAB_UNITS);
}

static bool space_allows(
    struct local_disk *disk, uint32_t units, bool new_slot, enum shard_priority priority)
{
    unsigned percent = reserved_percent(priority);
    const struct table *table = &disk->table;
    if (disk->slabs.free_units < units || (new_slot && table->free_count == 0))
        return false;
    if ((disk->slabs.free_units - units) * UINT64_C(100) < disk->unit_total * percent)
        return false;
    if (!logs_find_room(disk, units, priority))
        return false;
    if (!slab_fits_partly_used(&disk->slabs, units) &&
        disk->slabs.free_slabs < DIV_ROUND_UP(units, SLAB_UNITS) + reserved_slabs(disk, priority))
        return false;
    return !new_slot ||
           (table->free_count - 1) * UINT64_C(100) >= (uint64_t)table->entry_count * percent;
}

/* The next smaller extent. */
static uint32_t smaller_units(uint32_t units)
{
    return units > SLAB_UNITS ? units - SLAB_UNITS : units / 2;
}

static int choose_extent(struct local_disk *disk, const struct shard_create *create, bool new_slot,
    uint32_t *ret_first, uint32_t *ret_units)
{
    uint32_t units_min =
        slab_round_units(shard_units_for(create->kind, create->capacity_blocks_min));
    uint32_t units = slab_round_units(shard_units_for(create->kind, create->capacity_blocks));
    if (create->priority == SHARD_PRIORITY_SYSTEM && slabs_are_scarce(disk)) {
        uint32_t partly = units;
        while (partly > units_min && !slab_fits_partly_used(&disk->slabs, partly))
            partly = smaller_units(partly);
        if (slab_fits_partly_used(&disk->slabs, partly))
            units = partly;
    }
    for (; units >= units_min && units > 0; units = smaller_units(units)) {
        if (space_allows(disk, units, new_slot, create->priority) &&
            slab_alloc(&disk->slabs, units, ret_first) == 0) {
            *ret_units = units;
            return 0;
        }
    }
    return -ENOSPC;
}

static bool create_is_valid(const struct shard_create *create)
{
    if (create->kind < SHARD_DATA || create->kind > SHARD_MANIFEST)
        return false;
    if (create->code.k < 1 || create->code.k > CODE_K_MAX || create->code.m > CODE_M_MAX)
        return false;
    if (create->key.index >= create->code.k + create->code.m || create->epoch == 0 ||
        create->instance == 0)
        return false;
    return create->capacity_blocks_min <= create->capacity_blocks && create->capacity_blocks > 0 &&
           shard_units_for(create->kind, create->capacity_blocks) != 0;
}

static uint64_t new_nonce(void)
{
    uint64_t nonce;
    do
        nonce = env_random_u64();
    while (nonce == 0);
    return nonce;
}

/* Fills a slot; a fence that a tombstone holds stays (S8). */
static void fill_slot(
    struct table_slot *slot, const struct shard_create *create, uint32_t first_unit, uint32_t units)
{
    slot->instance = create->instance;
    slot->nonce = new_nonce();
    slot->epoch = create->epoch;
    slot->first_unit = first_unit;
    slot->unit_count = (uint16_t)units;
    slot->length_blocks = 0;
    slot->kind = (uint8_t)create->kind;
    slot->k = create->code.k;
    slot->m = create->code.m;
    slot->state = TABLE_OPEN;
    slot->flags = 0;
}

static int finish_create(struct active *active, struct shard_info *ret_info)
{
    struct local_disk *disk = active->disk;
    local_table_dirty(disk, active->slot_no);
    int r = PLANTED(create_undurable) ? 0 : local_table_commit(disk);
    if (r == 0 && ret_info != NULL)
        local_fill_info(disk, active_slot(active), active, ret_info);
    return r;
}

static int create_new(
    struct local_disk *disk, const struct shard_create *create, struct shard_info *ret_info)
{
    uint32_t first_unit, units;
    int r = choose_extent(disk, create, true, &first_unit, &units);
    if (r < 0)
        return r;
    uint32_t slot_no = table_alloc(&disk->table);
    struct table_slot *slot = &disk->table.slots[slot_no];
    slot->volume = create->key.volume;
    slot->chunk = create->key.chunk;
    slot->index = create->key.index;
    fill_slot(slot, create, first_unit, units);
    table_link(&disk->table, slot_no);
    disk->table.shard_count++;
    local_update_space(disk);
    struct active *active = active_get(disk, slot_no);
    active->loaded = true;
    fiber_mutex_lock(&active->control);
    r = finish_create(active, ret_info);
    active_release(active);
    return r;
}

static bool is_same_creation(const struct table_slot *slot, const struct shard_create *create)
{
    return slot->instance == create->instance && slot->epoch == create->epoch &&
           slot->kind == (uint8_t)create->kind && slot->k == create->code.k &&
           slot->m == create->code.m;
}

static int create_over(
    struct active *active, const struct shard_create *create, struct shard_info *ret_info)
{
    struct local_disk *disk = active->disk;
    struct table_slot *slot = active_slot(active);
    if (disk->failed)
        return local_retired_error(disk);
    if (create->epoch < slot_epoch_min(slot))
        return -ESTALE;
    if (slot->state != TABLE_TOMBSTONE) {
        if (!is_same_creation(slot, create))
            return -EEXIST;
        return finish_create(active, ret_info);
    }
    uint32_t first_unit, units;
    int r = choose_extent(disk, create, false, &first_unit, &units);
    if (r < 0)
        return r;
    fill_slot(slot, create, first_unit, units);
    disk->table.shard_count++;
    local_update_space(disk);
    active->loaded = true;
    return finish_create(active, ret_info);
}

MAY_SUSPEND int local_create(
    struct disk *base, const struct shard_create *create, struct shard_info *ret_info)
{
    struct local_disk *disk = local_disk_of(base);
    if (!create_is_valid(create))
        return -EINVAL;
    if (disk->failed)
        return local_retired_error(disk);
    struct active *active;
    /* A shard under removal is waited for: two entries of one key must never meet on disk. */
    while (table_find(&disk->table, create->key) != TABLE_NONE) {
        uint32_t slot_no = table_find(&disk->table, create->key);
        active = active_get(disk, slot_no);
        fiber_mutex_lock(&active->control);
        bool present = (active_slot(active)->flags & TABLE_REMOVING) == 0;
        int r = present ? create_over(active, create, ret_info) : 0;
        bool failed = disk->failed;
        active_release(active);
        if (present)
            return r;
        if (failed)
            return local_retired_error(disk);
    }
    return create_new(disk, create, ret_info);
}

/* --- Fence ------------------------------------------------------------------------------------ */

/* Whoever may fence can make tombstones of any keys: they get no more than an eighth of the table once that is
 * getting full (D7). Reconciliation removes those of earlier epochs. */
static bool tombstones_allowed(const struct local_disk *disk)
{
    const struct table *table = &disk->table;
    uint32_t count = 0;
    if (table->free_count >= table->entry_count / 4)
        return true;
    for (uint32_t i = 0; i < table->entry_count; i++)
        count += table->slots[i].state == TABLE_TOMBSTONE;
    return count < table->entry_count / 8;
}

static int fence_absent(struct local_disk *disk, struct shard_key key, uint32_t epoch, int error)
{
    if (PLANTED(fence_without_tombstone))
        return error;
    if (!tombstones_allowed(disk))
        return -ENOSPC;
    uint32_t slot_no = table_alloc(&disk->table);
    if (slot_no == TABLE_NONE)
        return -ENOSPC;
    struct table_slot *slot = &disk->table.slots[slot_no];
    *slot = (struct table_slot){
        .volume = key.volume,
        .chunk = key.chunk,
        .index = key.index,
        .fence_epoch = epoch,
        .state = TABLE_TOMBSTONE,
    };
    table_link(&disk->table, slot_no);
    local_table_dirty(disk, slot_no);
    int r = local_table_commit(disk);
    return r < 0 ? r : error;
}

static int fence_present(struct active *active, uint32_t epoch, struct shard_info *ret_info)
{
    struct local_disk *disk = active->disk;
    struct table_slot *slot = active_slot(active);
    if (disk->failed)
        return local_retired_error(disk);
    if (epoch < slot_epoch_min(slot))
        return -ESTALE;
    /* From here on lower appends are refused; those in flight end before the fence is answered. */
    slot->fence_epoch = epoch;
    active_wait_appends(active);
    local_table_dirty(disk, active->slot_no);
    int r = local_table_commit(disk);
    if (r < 0)
        return r;
    if (slot->state == TABLE_TOMBSTONE)
        return -ENOENT;
    if (slot->state == TABLE_OPEN) {
        r = active_load(active);
        if (r < 0)
            return r;
    }
    if (ret_info != NULL)
        local_fill_info(disk, slot, active, ret_info);
    return 0;
}

MAY_SUSPEND int local_fence(
    struct disk *base, struct shard_key key, uint32_t epoch, struct shard_info *ret_info)
{
    struct local_disk *disk = local_disk_of(base);
    if (disk->failed)
        return local_retired_error(disk);
    struct active *active;
    /* A shard under removal keeps its entry until that is durable; its tombstone comes after it. */
    for (;;) {
        uint32_t slot_no = table_find(&disk->table, key);
        if (slot_no == TABLE_NONE)
            return fence_absent(disk, key, epoch, disk->table.lost_count > 0 ? -EBADMSG : -ENOENT);
        active = active_get(disk, slot_no);
        fiber_mutex_lock(&active->control);
        bool present = (active_slot(active)->flags & TABLE_REMOVING) == 0;
        int r = present ? fence_present(active, epoch, ret_info) : 0;
        bool failed = disk->failed;
        active_release(active);
        if (present)
            return r;
        if (failed)
            return local_retired_error(disk);
    }
}

/* --- Stat ------------------------------------------------------------------------------- */

MAY_SUSPEND int local_stat(struct disk *base, struct shard_key key, struct shard_info *ret_info)
{
    struct local_disk *disk = local_disk_of(base);
    int error;
    struct table_slot *slot = local_find(disk, key, &error);
    if (slot == NULL)
        return error;
    if (slot->state == TABLE_TOMBSTONE)
        return -ENOENT;
    struct active *active = active_get(disk, local_slot_no(disk, slot));
    int r = slot->state == TABLE_OPEN ? active_load(active) : 0;
    if (r == 0 && (slot->flags & TABLE_REMOVING) != 0)
        r = -ENOENT;
    if (r == 0)
        local_fill_info(disk, slot, active, ret_info);
    active_put(active);
    return r;
}
