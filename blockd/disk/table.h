/* SPDX-License-Identifier: Apache-2.0
 *
 * The shard table of one disk: the codec of its 128-byte entries (version 1, docs/FORMAT.md) and its
 * form in memory, 56 bytes an entry and 5.3 of its index (table_index.c). Pure: no I/O.
 *
 * An entry carries its slot number and a CRC seeded by the disk's UUID, and never crosses a 512-byte
 * sector: a torn write harms no neighbour, a misdirected one is seen. Free entries are written out
 * too (all zeros is damage), so that a lost or wiped table never reads as "no shards here" (D4).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "blockd/disk/shard.h"

#define TABLE_ENTRY_BYTES 128
#define TABLE_BLOCK_ENTRIES (BLOCK_BYTES / TABLE_ENTRY_BYTES) /* 32 */
#define TABLE_ENTRIES_MIN 1024u
#define TABLE_NONE UINT32_MAX

/* Values on disk. */
enum table_state {
    TABLE_FREE = 0,
    TABLE_OPEN = 1,
    TABLE_SEALED = 2,
    TABLE_TOMBSTONE = 3,
    TABLE_LOST = 4, /* was damaged: some shard's entry, nobody knows which */
};

#define TABLE_FLAGS_ON_DISK (TABLE_SUSPECT | TABLE_CUT)

enum table_flags {
    /* On disk too: */
    TABLE_SUSPECT = 1, /* S6 */
    TABLE_CUT = 32,    /* open, but being sealed at length_blocks, below what was appended (D14) */
    /* In memory only: */
    TABLE_OLD_BOOT = 2,  /* made in an earlier boot of the machine */
    TABLE_DAMAGED = 4,   /* a block of it, or what its entry says, is known bad */
    TABLE_NO_EXTENT = 8, /* its units are claimed by another entry: they are not its to free */
    TABLE_REMOVING = 16, /* unlinked; the slot waits for the table write and for the last reader */
};

struct table_slot {
    uint64_t volume, chunk, instance, nonce;
    uint32_t epoch, fence_epoch;
    uint32_t first_unit;
    uint32_t next; /* in its hash chain, or in the free list */
    uint16_t unit_count;
    uint16_t length_blocks; /* sealed and cut ones */
    uint8_t index, flags;
    uint8_t k : 5, m : 3;
    uint8_t kind : 4, state : 4;
} __attribute__((packed, aligned(4)));

struct table {
    struct table_slot *slots;
    uint32_t *buckets;
    uint32_t bucket_count;
    uint32_t *group_entries; /* linked slots of each group of volumes */
    uint32_t group_count;
    uint32_t entry_count;
    uint32_t free_head;
    uint32_t free_count;
    uint32_t lost_count;
    uint32_t shard_count; /* open and sealed */
    uint32_t crc_seed;    /* CRC32C of the disk's UUID */
};

/* All slots start as TABLE_FREE but on no free list: load them, then table_build_free_list. */
void table_init(struct table *table, uint32_t entry_count, const struct uuid *disk);
void table_fini(struct table *table);
void table_build_free_list(struct table *table);

static inline struct shard_key table_slot_key(const struct table_slot *slot)
{
    return (struct shard_key){.volume = slot->volume, .chunk = slot->chunk, .index = slot->index};
}

/* The shard's length is recorded: whatever does not match below it is damage. */
static inline bool table_slot_has_length(const struct table_slot *slot)
{
    return slot->state == TABLE_SEALED || (slot->flags & TABLE_CUT) != 0;
}

/* The slot of `key`, or TABLE_NONE. */
uint32_t table_find(const struct table *table, struct shard_key key);
/* Takes a free slot (lowest first after open), or TABLE_NONE; its content is zero. */
uint32_t table_alloc(struct table *table);
/* table_init and table_fini call these. */
void table_index_init(struct table *table);
void table_index_fini(struct table *table);
/* Puts a filled slot into the index; takes it out (its content stays). */
void table_link(struct table *table, uint32_t slot_no);
void table_unlink(struct table *table, uint32_t slot_no);
/* A table that was loaded, in less time: once all slots are filled, table_expect(), then for each that has a key
 * table_link_expected(), or table_forget_expected() before its content goes. */
void table_expect(struct table *table);
void table_link_expected(struct table *table, uint32_t slot_no);
void table_forget_expected(struct table *table, uint32_t slot_no);
/* How many slots a listing of the volume looks at: its own and those of volumes of the same group. */
uint32_t table_group_entries(const struct table *table, uint64_t volume);
/* The volume's linked slots from slot number `from` on, in order. ret_slots has room for table_group_entries().
 * How many there are. */
uint32_t table_list_volume(
    const struct table *table, uint64_t volume, uint32_t from, uint32_t *ret_slots);
/* For tests: CHECKs D18, and that the groups' numbers of entries agree with the slots. */
void table_check(const struct table *table);
/* Back to the free list; not linked any more. */
void table_release(struct table *table, uint32_t slot_no);

/* `boot_id`: what to record as the boot of creation. */
void table_entry_encode(
    const struct table *table, uint32_t slot_no, const uint8_t boot_id[16], void *entry);
/* 0, or -EBADMSG: damaged. `unit_limit`: units of the disk. ret_slot's flags are TABLE_FLAGS_ON_DISK
 * only. */
int table_entry_decode(const struct table *table, uint32_t slot_no, const void *entry,
    uint64_t unit_limit, struct table_slot *ret_slot, uint8_t ret_boot_id[16]);
/* As above for a damaged entry, if a single flipped bit explains the damage. Takes some 20 us. */
int table_entry_repair(const struct table *table, uint32_t slot_no, const void *entry,
    uint64_t unit_limit, struct table_slot *ret_slot, uint8_t ret_boot_id[16]);

/* Geometry of an extent: what appends may fill, and the blocks of the trailer behind them. */
bool shard_kind_has_trailer(enum shard_kind kind);
uint32_t shard_capacity_blocks(enum shard_kind kind, uint32_t units);
uint32_t shard_trailer_blocks(enum shard_kind kind, uint32_t length_blocks);
/* 64 KiB units for a capacity (not rounded to what the allocator gives); 0 = larger than any shard.
 */
uint32_t shard_units_for(enum shard_kind kind, uint32_t capacity_blocks);
