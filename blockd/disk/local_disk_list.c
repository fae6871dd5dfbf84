/* SPDX-License-Identifier: Apache-2.0
 *
 * Lists of shards: all of the disk's, in the order of the table; a volume's, by the table's index, unless it is most
 * of the table anyway (D18).
 */
#include <errno.h>

#include "blockd/disk/local_disk_impl.h"
#include "common/mem.h"

/* A group of that many is listed in a millisecond or two, without a pause. */
#define GROUP_ENTRIES_MAX 16384u
#define LIST_CAPACITY_FIRST 4096u
/* As many at a time where the whole table is looked at: that takes milliseconds, and others go first now and then. */
#define SCAN_ENTRIES 65536u

static bool is_listed(const struct table_slot *slot, uint64_t volume)
{
    if (slot->state == TABLE_FREE || (slot->flags & TABLE_REMOVING) != 0)
        return false;
    /* A lost entry may be anyone's: it is listed where all are, without a key, as damaged. */
    return volume == 0 || (slot->state != TABLE_LOST && slot->volume == volume);
}

/* Whether the pages are found sooner in the volume's group than in the table: each looks at all of the group, here and
 * there in memory, which takes some 50 times as long as the next entry of the table. */
static bool group_is_shorter(const struct table *table, uint64_t volume, unsigned max)
{
    uint64_t entries = table_group_entries(table, volume);
    return volume != 0 && entries <= GROUP_ENTRIES_MAX &&
           entries * (entries / max + 1) <= MAX(256u, table->entry_count / 64);
}

/* In the order of the slots, too: the two may follow each other. */
static int list_group_page(const struct local_disk *disk, uint64_t volume, uint32_t *cursor,
    struct shard_info *ret_list, unsigned max)
{
    const struct table *table = &disk->table;
    unsigned count = 0;
    uint32_t n = 0, slot_count = table_group_entries(table, volume);
    CLEANUP_FREE uint32_t *slots = mem_alloc((slot_count + 1) * sizeof(*slots));
    slot_count = table_list_volume(table, volume, *cursor, slots);
    for (; n < slot_count && count < max; n++)
        if (is_listed(&table->slots[slots[n]], volume))
            local_fill_info(disk, &table->slots[slots[n]], NULL, &ret_list[count++]);
    *cursor = n < slot_count ? slots[n] : UINT32_MAX;
    return (int)count;
}

int local_disk_list_page(
    struct disk *base, uint64_t volume, uint32_t *cursor, struct shard_info *ret_list, unsigned max)
{
    struct local_disk *disk = local_disk_of(base);
    if (disk->gone)
        return -EHOSTUNREACH;
    if (group_is_shorter(&disk->table, volume, max))
        return list_group_page(disk, volume, cursor, ret_list, max);
    uint32_t end = disk->table.entry_count, i = MIN(*cursor, end);
    unsigned count = 0;
    for (uint32_t stop = i + MIN(end - i, SCAN_ENTRIES); i < stop && count < max; i++) {
        const struct table_slot *slot = &disk->table.slots[i];
        if (is_listed(slot, volume))
            local_fill_info(disk, slot, NULL, &ret_list[count++]);
    }
    *cursor = i < end ? i : UINT32_MAX;
    return (int)count;
}

MAY_SUSPEND int local_list(
    struct disk *base, uint64_t volume, struct shard_info **ret_list, unsigned *ret_count)
{
    const struct table *table = &local_disk_of(base)->table;
    unsigned count = 0, entries = volume ? table_group_entries(table, volume) : 0;
    unsigned capacity = MAX(16u, MIN(entries + 1, LIST_CAPACITY_FIRST)); /* one page, if possible */
    struct shard_info *list = mem_alloc(capacity * sizeof(*list));
    for (uint32_t cursor = 0; cursor != UINT32_MAX;) {
        unsigned max = capacity - count;
        int n = local_disk_list_page(base, volume, &cursor, &list[count], max);
        CHECK(n >= 0); /* the disk stays while it is listed */
        count += (unsigned)n;
        if ((unsigned)n == max) {
            capacity *= 2;
            list = mem_realloc(list, capacity * sizeof(*list));
        } else if (cursor != UINT32_MAX) {
            fiber_yield();
        }
    }
    *ret_list = list;
    *ret_count = count;
    return 0;
}

void local_disk_check(struct disk *base)
{
    if (!local_disk_of(base)->gone)
        table_check(&local_disk_of(base)->table);
}
