/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/disk/table.h"

#include <errno.h>

#include "blockd/disk/slab.h"
#include "blockd/disk/trailer.h"
#include "common/bytes.h"
#include "common/check.h"
#include "common/crc32c.h"
#include "common/mem.h"

/* Byte offsets; docs/FORMAT.md. */
enum {
    AT_CRC = 0,
    AT_SLOT = 4,
    AT_VERSION = 8,
    AT_STATE = 9,
    AT_FLAGS = 10,
    AT_KIND = 11,
    AT_K = 12,
    AT_M = 13,
    AT_INDEX = 14,
    AT_VOLUME = 16,
    AT_CHUNK = 24,
    AT_INSTANCE = 32,
    AT_NONCE = 40,
    AT_EPOCH = 48,
    AT_FENCE_EPOCH = 52,
    AT_BOOT_ID = 56,
    AT_FIRST_UNIT = 72,
    AT_UNIT_COUNT = 76,
    AT_LENGTH = 80,
};

#define TABLE_ENTRY_VERSION 1

void table_init(struct table *table, uint32_t entry_count, const struct uuid *disk)
{
    *table = (struct table){
        .slots = mem_zalloc(entry_count, sizeof(struct table_slot)),
        .entry_count = entry_count,
        .free_head = TABLE_NONE,
        .crc_seed = crc32c(0, disk, sizeof(*disk)),
    };
    table_index_init(table);
}

void table_fini(struct table *table)
{
    mem_free(table->slots);
    table_index_fini(table);
    *table = (struct table){0};
}

void table_build_free_list(struct table *table)
{
    for (uint32_t i = table->entry_count; i-- > 0;) {
        if (table->slots[i].state == TABLE_FREE) {
            table->slots[i].next = table->free_head;
            table->free_head = i;
            table->free_count++;
        }
    }
}

uint32_t table_alloc(struct table *table)
{
    uint32_t slot_no = table->free_head;
    if (slot_no == TABLE_NONE)
        return TABLE_NONE;
    table->free_head = table->slots[slot_no].next;
    table->free_count--;
    table->slots[slot_no] = (struct table_slot){0};
    return slot_no;
}

void table_release(struct table *table, uint32_t slot_no)
{
    table->slots[slot_no] = (struct table_slot){.next = table->free_head};
    table->free_head = slot_no;
    table->free_count++;
}

static uint32_t entry_crc(const struct table *table, const uint8_t *entry)
{
    return crc32c(table->crc_seed, entry + AT_CRC + 4, TABLE_ENTRY_BYTES - 4);
}

void table_entry_encode(
    const struct table *table, uint32_t slot_no, const uint8_t boot_id[16], void *entry)
{
    const struct table_slot *slot = &table->slots[slot_no];
    uint8_t *p = entry;
    memset(p, 0, TABLE_ENTRY_BYTES);
    put_le32(p + AT_SLOT, slot_no);
    p[AT_VERSION] = TABLE_ENTRY_VERSION;
    bool removed = (slot->flags & TABLE_REMOVING) != 0;
    p[AT_STATE] = removed ? TABLE_FREE : slot->state;
    if (p[AT_STATE] != TABLE_FREE && p[AT_STATE] != TABLE_LOST) {
        p[AT_FLAGS] = slot->flags & TABLE_FLAGS_ON_DISK;
        p[AT_KIND] = slot->kind;
        p[AT_K] = slot->k;
        p[AT_M] = slot->m;
        p[AT_INDEX] = slot->index;
        put_le64(p + AT_VOLUME, slot->volume);
        put_le64(p + AT_CHUNK, slot->chunk);
        put_le64(p + AT_INSTANCE, slot->instance);
        put_le64(p + AT_NONCE, slot->nonce);
        put_le32(p + AT_EPOCH, slot->epoch);
        put_le32(p + AT_FENCE_EPOCH, slot->fence_epoch);
        memcpy(p + AT_BOOT_ID, boot_id, 16);
        put_le32(p + AT_FIRST_UNIT, slot->first_unit);
        put_le32(p + AT_UNIT_COUNT, slot->unit_count);
        put_le32(p + AT_LENGTH, slot->length_blocks);
    }
    put_le32(p + AT_CRC, entry_crc(table, p));
}

/* What a valid CRC cannot promise: written by this code or by something that agrees with it. */
static bool entry_is_sane(const uint8_t *p, uint64_t unit_limit)
{
    uint32_t first = get_le32(p + AT_FIRST_UNIT), units = get_le32(p + AT_UNIT_COUNT);
    if (p[AT_STATE] == TABLE_FREE || p[AT_STATE] == TABLE_LOST)
        return true;
    if (p[AT_STATE] == TABLE_TOMBSTONE)
        return units == 0 && get_le32(p + AT_LENGTH) == 0;
    if (p[AT_STATE] > TABLE_LOST || p[AT_KIND] < SHARD_DATA || p[AT_KIND] > SHARD_MANIFEST)
        return false;
    if (p[AT_K] < 1 || p[AT_K] > CODE_K_MAX || p[AT_M] > CODE_M_MAX ||
        p[AT_INDEX] >= p[AT_K] + p[AT_M])
        return false;
    uint32_t units_max = shard_kind_has_trailer(p[AT_KIND])
                             ? SLAB_UNITS
                             : LOG_CAPACITY_BLOCKS_MAX / SLAB_UNIT_BLOCKS;
    if (units == 0 || units > units_max || first + (uint64_t)units > unit_limit)
        return false;
    return get_le32(p + AT_LENGTH) <= shard_capacity_blocks(p[AT_KIND], units);
}

int table_entry_decode(const struct table *table, uint32_t slot_no, const void *entry,
    uint64_t unit_limit, struct table_slot *ret_slot, uint8_t ret_boot_id[16])
{
    const uint8_t *p = entry;
    if (get_le32(p + AT_CRC) != entry_crc(table, p))
        return -EBADMSG;
    if (get_le32(p + AT_SLOT) != slot_no || p[AT_VERSION] != TABLE_ENTRY_VERSION)
        return -EBADMSG;
    if (!entry_is_sane(p, unit_limit))
        return -EBADMSG;
    if (p[AT_STATE] == TABLE_FREE || p[AT_STATE] == TABLE_LOST) {
        *ret_slot = (struct table_slot){.state = p[AT_STATE]};
        return 0;
    }
    *ret_slot = (struct table_slot){
        .volume = get_le64(p + AT_VOLUME),
        .chunk = get_le64(p + AT_CHUNK),
        .instance = get_le64(p + AT_INSTANCE),
        .nonce = get_le64(p + AT_NONCE),
        .epoch = get_le32(p + AT_EPOCH),
        .fence_epoch = get_le32(p + AT_FENCE_EPOCH),
        .first_unit = get_le32(p + AT_FIRST_UNIT),
        .unit_count = (uint16_t)get_le32(p + AT_UNIT_COUNT),
        .length_blocks = (uint16_t)get_le32(p + AT_LENGTH),
        .index = p[AT_INDEX],
        .kind = p[AT_KIND] & 15,
        .k = p[AT_K] & 31,
        .m = p[AT_M] & 7,
        .state = p[AT_STATE] & 15,
        .flags = p[AT_FLAGS] & TABLE_FLAGS_ON_DISK,
    };
    memcpy(ret_boot_id, p + AT_BOOT_ID, 16);
    return 0;
}

int table_entry_repair(const struct table *table, uint32_t slot_no, const void *entry,
    uint64_t unit_limit, struct table_slot *ret_slot, uint8_t ret_boot_id[16])
{
    /* CRC32C tells all patterns of up to 5 flipped bits in 128 bytes apart (its Hamming distance
     * there is 6: Koopman, 32-bit cyclic redundancy codes for internet applications, 2002), so
     * putting one bit right cannot produce another entry; slot number and sanity are checked on
     * top. */
    uint8_t copy[TABLE_ENTRY_BYTES];
    memcpy(copy, entry, sizeof(copy));
    for (unsigned bit = 0; bit < TABLE_ENTRY_BYTES * 8; bit++) {
        copy[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        if (table_entry_decode(table, slot_no, copy, unit_limit, ret_slot, ret_boot_id) == 0)
            return 0;
        copy[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    return -EBADMSG;
}

bool shard_kind_has_trailer(enum shard_kind kind)
{
    return kind == SHARD_DATA || kind == SHARD_META;
}

uint32_t shard_capacity_blocks(enum shard_kind kind, uint32_t units)
{
    uint32_t blocks = units * SLAB_UNIT_BLOCKS;
    if (!shard_kind_has_trailer(kind))
        return blocks;
    return blocks - DIV_ROUND_UP(blocks, TRAILER_ENTRIES + 1);
}

uint32_t shard_trailer_blocks(enum shard_kind kind, uint32_t length_blocks)
{
    return shard_kind_has_trailer(kind) ? DIV_ROUND_UP(length_blocks, TRAILER_ENTRIES) : 0;
}

uint32_t shard_units_for(enum shard_kind kind, uint32_t capacity_blocks)
{
    if (capacity_blocks > LOG_CAPACITY_BLOCKS_MAX)
        return 0;
    uint32_t blocks = capacity_blocks + shard_trailer_blocks(kind, capacity_blocks);
    uint32_t blocks_max =
        shard_kind_has_trailer(kind) ? SHARD_EXTENT_BLOCKS_MAX : LOG_CAPACITY_BLOCKS_MAX;
    return blocks > blocks_max ? 0 : MAX(1u, DIV_ROUND_UP(blocks, SLAB_UNIT_BLOCKS));
}
