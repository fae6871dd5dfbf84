/* SPDX-License-Identifier: Apache-2.0
 *
 * The index of a shard table: one hash finds a key and lists a volume.
 *
 * Volumes fall into groups by their hash. A group has a window of buckets, one after the other: twice as many as it has
 * entries, and 16 at least. The window grows and shrinks with them by linear hashing (Litwin: Linear hashing, a
 * new tool for file and table addressing, 1980): two buckets are split, or given back, for each entry that comes or
 * goes. So the entries of a volume stand in a window that is not much longer than what its group has, and nothing is
 * kept for a volume. Windows overlap: any bucket may have entries of several groups.
 *
 *  D18 A linked slot is in the chain of the bucket that its key has in its group's window, as long as that is now.
 */
#include <stdlib.h>
#include <string.h>

#include "blockd/disk/table.h"
#include "common/check.h"
#include "common/mem.h"

#define GROUP_BUCKETS_MIN 16u

/* A quarter more buckets than entries, and a number of 4 bytes for each 16 of them. */
_Static_assert(
    GROUP_BUCKETS_MIN *(sizeof(struct table_slot) + 5) + 5 <= GROUP_BUCKETS_MIN * 123 / 2,
    "64 MiB a TiB, with 2.5 MiB of slab masks");

void table_index_init(struct table *table)
{
    table->bucket_count = table->entry_count / 4 * 5;
    table->group_count = table->bucket_count / GROUP_BUCKETS_MIN;
    table->buckets = mem_alloc(table->bucket_count * sizeof(uint32_t));
    memset(table->buckets, 0xff, table->bucket_count * sizeof(uint32_t));
    table->group_entries = mem_zalloc(table->group_count, sizeof(uint32_t));
}

void table_index_fini(struct table *table)
{
    mem_free(table->buckets);
    mem_free(table->group_entries);
}

/* splitmix64's finaliser (Steele, Lea, Flood: Fast splittable pseudorandom number generators,
 * 2014). */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static uint64_t volume_hash(uint64_t volume)
{
    return mix(volume + UINT64_C(0x9e3779b97f4a7c15));
}

static uint32_t group_of(const struct table *table, uint64_t volume)
{
    return (uint32_t)((volume_hash(volume) >> 32) * table->group_count >> 32);
}

static uint32_t key_hash(struct shard_key key)
{
    return (uint32_t)mix(mix(volume_hash(key.volume) ^ key.chunk) + key.index);
}

static uint32_t window_of(const struct table *table, uint32_t entries)
{
    return MIN(MAX(2 * entries, GROUP_BUCKETS_MIN), table->bucket_count);
}

/* The highest power of two that is not above `window`. */
static uint32_t floor_power(uint32_t window)
{
    return UINT32_C(1) << (31 - __builtin_clz(window));
}

/* The place of a hash in a window: that of linear hashing. */
static uint32_t place_in(uint32_t hash, uint32_t window)
{
    uint32_t power = floor_power(window), place = hash & (2 * power - 1);
    return place < window ? place : place - power;
}

static uint32_t *bucket_at(const struct table *table, uint32_t group, uint32_t place)
{
    uint64_t bucket = (uint64_t)group * GROUP_BUCKETS_MIN + place;
    return &table->buckets[bucket < table->bucket_count ? bucket : bucket - table->bucket_count];
}

static uint32_t *bucket_of(const struct table *table, struct shard_key key)
{
    uint32_t group = group_of(table, key.volume);
    uint32_t window = window_of(table, table->group_entries[group]);
    return bucket_at(table, group, place_in(key_hash(key), window));
}

uint32_t table_find(const struct table *table, struct shard_key key)
{
    uint32_t i = *bucket_of(table, key);
    while (i != TABLE_NONE) {
        const struct table_slot *slot = &table->slots[i];
        if (slot->volume == key.volume && slot->chunk == key.chunk && slot->index == key.index)
            return i;
        i = slot->next;
    }
    return TABLE_NONE;
}

static void chain_remove(const struct table *table, uint32_t *bucket, uint32_t slot_no)
{
    while (*bucket != TABLE_NONE && *bucket != slot_no)
        bucket = &table->slots[*bucket].next;
    CHECK(*bucket == slot_no);
    *bucket = table->slots[slot_no].next;
}

/* What the group has in the bucket at `from` and what belongs at `to` in the window goes there. */
static void chain_move(
    const struct table *table, uint32_t group, uint32_t from, uint32_t to, uint32_t window)
{
    uint32_t *at = bucket_at(table, group, from), *target = bucket_at(table, group, to);
    while (*at != TABLE_NONE) {
        uint32_t slot_no = *at;
        struct table_slot *slot = &table->slots[slot_no];
        if (group_of(table, slot->volume) != group ||
            place_in(key_hash(table_slot_key(slot)), window) != to) {
            at = &slot->next;
            continue;
        }
        *at = slot->next;
        slot->next = *target;
        *target = slot_no;
    }
}

/* The group has as many entries from now on; what is linked is moved to where it is found then. */
static void group_resize(struct table *table, uint32_t group, uint32_t entries)
{
    uint32_t window = window_of(table, table->group_entries[group]);
    uint32_t wanted = window_of(table, entries);
    table->group_entries[group] = entries;
    for (; window < wanted; window++) /* splits a bucket: the new one is the last */
        chain_move(table, group, window - floor_power(window), window, window + 1);
    for (; window > wanted; window--)
        chain_move(table, group, window - 1, window - 1 - floor_power(window - 1), window - 1);
}

static void chain_add(struct table *table, uint32_t slot_no)
{
    struct table_slot *slot = &table->slots[slot_no];
    uint32_t *bucket = bucket_of(table, table_slot_key(slot));
    slot->next = *bucket;
    *bucket = slot_no;
}

void table_link(struct table *table, uint32_t slot_no)
{
    uint32_t group = group_of(table, table->slots[slot_no].volume);
    group_resize(table, group, table->group_entries[group] + 1);
    chain_add(table, slot_no);
}

void table_unlink(struct table *table, uint32_t slot_no)
{
    const struct table_slot *slot = &table->slots[slot_no];
    uint32_t group = group_of(table, slot->volume);
    chain_remove(table, bucket_of(table, table_slot_key(slot)), slot_no);
    group_resize(table, group, table->group_entries[group] - 1);
}

static bool is_keyed(const struct table_slot *slot)
{
    return slot->state != TABLE_FREE && slot->state != TABLE_LOST;
}

void table_expect(struct table *table)
{
    for (uint32_t i = 0; i < table->entry_count; i++)
        if (is_keyed(&table->slots[i]))
            table->group_entries[group_of(table, table->slots[i].volume)]++;
}

void table_link_expected(struct table *table, uint32_t slot_no)
{
    chain_add(table, slot_no);
}

void table_forget_expected(struct table *table, uint32_t slot_no)
{
    uint32_t group = group_of(table, table->slots[slot_no].volume);
    group_resize(table, group, table->group_entries[group] - 1);
}

uint32_t table_group_entries(const struct table *table, uint64_t volume)
{
    return table->group_entries[group_of(table, volume)];
}

static int compare_u32(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

uint32_t table_list_volume(
    const struct table *table, uint64_t volume, uint32_t from, uint32_t *ret_slots)
{
    uint32_t group = group_of(table, volume), count = 0;
    uint32_t entries = table->group_entries[group];
    uint32_t window = entries ? window_of(table, entries) : 0;
    for (uint32_t place = 0; place < window; place++) {
        for (uint32_t i = *bucket_at(table, group, place); i != TABLE_NONE;
             i = table->slots[i].next) {
            if (table->slots[i].volume == volume && i >= from)
                ret_slots[count++] = i;
        }
    }
    qsort(ret_slots, count, sizeof(*ret_slots), compare_u32);
    return count;
}

void table_check(const struct table *table)
{
    uint64_t linked = 0, counted = 0;
    for (uint32_t i = 0; i < table->bucket_count; i++) {
        for (uint32_t slot_no = table->buckets[i]; slot_no != TABLE_NONE;
             slot_no = table->slots[slot_no].next) {
            CHECK(++linked <= table->entry_count);
            CHECK(bucket_of(table, table_slot_key(&table->slots[slot_no])) == &table->buckets[i]);
        }
    }
    for (uint32_t group = 0; group < table->group_count; group++)
        counted += table->group_entries[group];
    CHECK(linked == counted);
    for (uint32_t i = 0; i < table->entry_count; i++) {
        const struct table_slot *slot = &table->slots[i];
        if (is_keyed(slot))
            linked -= table_find(table, table_slot_key(slot)) == i;
    }
    CHECK(linked == 0);
}
