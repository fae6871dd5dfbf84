/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the local shard store share. Included by blockd/disk/local_disk*.c only.
 * Rules: README.md (D1..).
 *
 *   local_disk.c          life of a disk, its shards in use, failure (D2), answers given later
 *   local_disk_open.c     open, probe          local_disk_format.c   format
 *   local_disk_table.c    table: load, group commit (D8)
 *   local_disk_append.c   append, retry        local_disk_read.c     verified reads
 *   local_disk_sync.c     device flushes       local_disk_walk.c     an unsealed shard's end (D9)
 *   local_disk_seal.c     seal, remove         local_disk_control.c  create, fence, stat
 *   local_disk_scrub.c    scrub           local_disk_list.c     lists
 *   local_disk_reopen.c   a disk that has hung comes back (D20)
 */
#pragma once

#include "blockd/disk/append_header.h"
#include "blockd/disk/local_disk.h"
#include "blockd/disk/slab.h"
#include "blockd/disk/superblock.h"
#include "blockd/disk/table.h"
#include "blockd/disk/trailer.h"
#include "blockd/disk/trailer_cache.h"
#include "common/check.h"

#define ACTIVE_BUCKETS 4096u
#define WALK_WINDOW_BLOCKS 256u /* more than one append: APPEND_ENTRIES_MAX + 1 */
#define TABLE_COMMIT_BLOCKS 32u /* table blocks written in one submission */

struct local_disk;

/* A shard in use: one per slot at most, found by slot number. Lives while operations refer to it,
 * and longer while it is open and loaded (its entries are known only here and in the headers). */
struct active {
    struct local_disk *disk;
    uint32_t slot_no;
    unsigned refs;
    struct list hash_link;
    struct list idle_link; /* in disk->idle: loaded, not open, unused: may be dropped */

    /* From a walk, or from creation on (D9). Valid if loaded. */
    bool loaded, walking;
    bool sealing;                /* takes no appends any more */
    bool removed;                /* the last reference frees slot and extent (D5) */
    bool has_tail;               /* sealed: tail_first.. goes back when reads[0] is 0 (D5) */
    struct shard_entry *entries; /* of blocks 0..end_blocks-1 */
    uint64_t *header_bits;       /* which of them are append headers */
    uint32_t entries_capacity;
    uint32_t end_blocks;       /* appends in flight included */
    uint32_t completed_blocks; /* the device has all below */
    uint32_t durable_blocks;   /* all below is durable */
    uint32_t
        sync_max_blocks; /* damage begins there that was not durable yet (D20); UINT32_MAX = none does */
    uint32_t next_append_no;
    uint32_t last_header_crc;

    struct list in_flight;                                  /* append_op, by offset */
    struct list parked_appends, parked_reads, parked_syncs; /* until loaded */
    struct fiber_queue changed; /* in_flight became empty; the walk ended */
    struct fiber_mutex control; /* create, seal, remove, fence one after the other */
    unsigned reads[2];          /* in flight: begun before / after the seal */
    uint32_t tail_first, tail_units;
};

/* Called after a device flush that was submitted after the waiter was added. */
struct flush_waiter {
    struct list link;
    void (*begun)(struct flush_waiter *waiter); /* NULL, or: the flush is being submitted */
    void (*done)(struct flush_waiter *waiter, int error);
};

struct local_disk {
    struct disk base;
    char *path;
    struct env_file *file; /* NULL, or one that failed to open, while `gone` */
    struct superblock super;
    struct local_disk_options options;
    uint8_t boot_id[16];
    bool failed;
    bool hung;          /* `failed`, and for that alone: it may come back (D20) */
    bool gone;          /* between two incarnations: nothing of what follows is there */
    bool write_failed;  /* in `gone` */
    bool came_back;     /* this incarnation is not the process's first one */
    unsigned fiber_ops; /* operations on fibers */
    bool
        in_doubt; /* the last process did not close the disk: a flush of its may have failed (D17) */

    struct table table;
    struct slab_map slabs;
    uint64_t unit_total;
    uint64_t *table_dirty; /* bit per table block */
    uint64_t table_generation, table_durable_generation;
    bool table_writing;
    struct fiber_queue table_written;
    void *table_buffer; /* TABLE_COMMIT_BLOCKS blocks */

    struct list *actives; /* ACTIVE_BUCKETS chains */
    unsigned active_count;
    struct list idle; /* oldest first */
    uint64_t idle_bytes;

    struct trailer_cache trailers;
    struct fiber_mutex walk_lock; /* one walk at a time: one window of memory */
    void *walk_window;            /* from the first walk on */

    bool flush_in_flight;
    struct env_io flush_io;
    struct list flush_waiting, flush_served; /* flush_waiter */

    /* Answers that are known at once are given from the loop, never from inside a submit call. */
    struct env_timer later;
    struct list later_appends, later_reads, later_syncs;

    struct list free_appends, free_reads, free_syncs, free_actives; /* pools */
    unsigned ops_in_flight;
};

static inline struct local_disk *local_disk_of(struct disk *disk)
{
    return container_of(disk, struct local_disk, base);
}

static inline struct local_disk *local_disk_enter(struct local_disk *disk)
{
    disk->fiber_ops++;
    return disk;
}

static inline void local_disk_leave(struct local_disk **disk)
{
    (*disk)->fiber_ops--;
}

/* From here to the end of the function an operation is inside: the disk is not closed meanwhile (D20). */
#define COUNTED(disk)                                                               \
    __attribute__((cleanup(local_disk_leave), unused)) struct local_disk *inside_ = \
        local_disk_enter(disk)

static inline struct table_slot *active_slot(const struct active *active)
{
    return &active->disk->table.slots[active->slot_no];
}

static inline bool slot_has_trailer(const struct table_slot *slot)
{
    return shard_kind_has_trailer((enum shard_kind)slot->kind);
}

/* The lowest epoch that may change the shard (S8). */
static inline uint32_t slot_epoch_min(const struct table_slot *slot)
{
    return MAX(slot->epoch, slot->fence_epoch);
}

/* Byte address of a block of a shard. */
static inline uint64_t slot_block_off(
    const struct local_disk *disk, const struct table_slot *slot, uint32_t block)
{
    return disk->super.slab_off_bytes + (uint64_t)slot->first_unit * SLAB_UNIT_BYTES +
           (uint64_t)block * BLOCK_BYTES;
}

/* --- local_disk.c ----------------------------------------------------------------------------- */

/* The slot of a shard or tombstone that is there; else NULL and *ret_error = -ENOENT, or -EBADMSG
 * while the table has lost entries: it may have been one of those (D4). */
struct table_slot *local_find(struct local_disk *disk, struct shard_key key, int *ret_error);
uint32_t local_slot_no(const struct local_disk *disk, const struct table_slot *slot);
struct active *active_get(struct local_disk *disk, uint32_t slot_no);
void active_put(struct active *active);
void active_drop_entries(struct active *active);
/* Room for entries of blocks below end_blocks. */
void active_reserve(struct active *active, uint32_t end_blocks);
static inline bool active_is_header(const struct active *active, uint32_t block)
{
    return (active->header_bits[block / 64] >> (block % 64) & 1) != 0;
}
static inline void active_set_header(struct active *active, uint32_t block)
{
    active->header_bits[block / 64] |= UINT64_C(1) << (block % 64);
}
MAY_SUSPEND void active_wait_appends(struct active *active);
/* Finds the shard with its control lock held: 0 and *ret_active (end with active_release), or an
 * error. Tombstones are found too. */
MAY_SUSPEND int active_acquire(
    struct local_disk *disk, struct shard_key key, struct active **ret_active);
void active_release(struct active *active);
void local_fill_info(const struct local_disk *disk, const struct table_slot *slot,
    const struct active *active, struct shard_info *ret_info);
void local_update_space(struct local_disk *disk);
void local_report_damage(struct local_disk *disk, uint32_t slot_no, uint32_t block);
void local_retire(struct local_disk *disk, int error, const char *what);
struct local_disk *local_disk_new(struct env_file *file, const struct superblock *super,
    const struct local_disk_options *options);
void local_disk_delete(struct local_disk *disk);
/* What belongs to one incarnation: all but the disk itself and answers that wait for the loop. */
void local_disk_inside_init(
    struct local_disk *disk, struct env_file *file, const struct superblock *super);
void local_disk_inside_fini(struct local_disk *disk);
extern const struct disk_ops local_disk_ops, local_gone_ops;
void local_append_later(struct local_disk *disk, struct shard_append *append, int result);
void local_read_later(struct local_disk *disk, struct shard_read *read, int result);
void local_sync_later(struct local_disk *disk, struct shard_sync *sync, int result);
/* What a change of a retired disk is answered: of one that hangs, nobody knows what became of it (D19). */
static inline int local_retired_error(const struct local_disk *disk)
{
    return disk->hung ? -EHOSTUNREACH : -EIO;
}
/* The device is not to be had, now or any more (D19: it hangs). */
static inline bool error_is_gone(int error)
{
    return error == -ENODEV || error == -ENXIO || error == -ESHUTDOWN || error == -ETIMEDOUT;
}

/* --- local_disk_open.c, local_disk_format.c --------------------------------------------------- */

/* Reads the superblock copies of an open file and gives the best one. Negative errno and *ret_error
 * otherwise. */
MAY_SUSPEND int local_read_superblock(struct env_file *file, struct superblock *ret_super,
    unsigned *ret_bad_copies, char **ret_error);
/* Reads the superblock, checks it, and makes the new incarnation durable. */
MAY_SUSPEND int local_begin_incarnation(struct env_file *file, const struct uuid *cluster,
    struct superblock *ret_super, bool *ret_in_doubt, unsigned *ret_bad_copies, char **ret_error);
int local_explain_open(const char *path, int error, char **ret_error);
void local_log_opened(const struct local_disk *disk);
/* Writes all copies, durably. */
MAY_SUSPEND int local_write_superblocks(struct env_file *file, const struct superblock *super);

/* --- local_disk_table.c ----------------------------------------------------------------------- */

void local_table_dirty(struct local_disk *disk, uint32_t slot_no);
/* Everything marked dirty before the call is durable when it returns 0 (D8); -EIO. */
MAY_SUSPEND int local_table_commit(struct local_disk *disk);
MAY_SUSPEND int local_table_load(struct local_disk *disk, char **ret_error);

/* --- local_disk_walk.c ------------------------------------------------------------------------ */

/* Makes sure that the shard's entries and end are known. -EHOSTUNREACH; -ENOENT when removed
 * meanwhile. */
MAY_SUSPEND int active_load(struct active *active);
/* The same on a fiber of its own; the active's parked operations go on afterwards. */
void active_load_start(struct active *active);
/* Reads blocks, singly where the device cannot read them together; an unreadable block is filled
 * with zeros and counted as damage by whoever checks it. -EHOSTUNREACH when the device is gone. */
MAY_SUSPEND int local_read_blocks(
    struct local_disk *disk, void *buf, uint32_t count, uint64_t off_bytes);

/* --- The operations --------------------------------------------------------------------------- */

void local_append(struct shard_append *append);
void local_read(struct shard_read *read);
void local_sync(struct shard_sync *sync);
/* Joins the next device flush to be submitted. */
void local_flush_join(struct local_disk *disk, struct flush_waiter *waiter);
MAY_SUSPEND int local_flush(struct local_disk *disk);
MAY_SUSPEND int local_create(
    struct disk *base, const struct shard_create *create, struct shard_info *ret_info);
MAY_SUSPEND int local_seal(
    struct disk *base, struct shard_key key, uint32_t epoch, uint32_t length_blocks);
MAY_SUSPEND int local_remove(
    struct disk *base, struct shard_key key, uint64_t instance, uint32_t epoch);
MAY_SUSPEND int local_fence(
    struct disk *base, struct shard_key key, uint32_t epoch, struct shard_info *ret_info);
MAY_SUSPEND int local_stat(struct disk *base, struct shard_key key, struct shard_info *ret_info);
MAY_SUSPEND int local_list(
    struct disk *base, uint64_t volume, struct shard_info **ret_list, unsigned *ret_count);
/* Pools, at close. */
void local_append_pool_free(struct local_disk *disk);
void local_read_pool_free(struct local_disk *disk);
void local_sync_pool_free(struct local_disk *disk);
