/* SPDX-License-Identifier: Apache-2.0
 *
 * Shards: append-only objects on disks. This is the interface that volumes use, the same for a disk
 * of this node and (by RPC) of another: nothing here may assume that a disk is local.
 *
 * A shard is a sequence of 4 KiB blocks, made of appends: one header block and its payload blocks.
 * Offsets count ALL blocks from the shard's start, headers included. The header names the shard
 * completely and carries an entry {address, crc, aux} per payload block, so a shard explains itself
 * (append_header.h). The storing disk composes the header, checks every block it returns against its
 * CRC and identity, and never reports damage as absence.
 *
 * The answers (safety.md S14), for every operation:
 *   0            it is so (durable where the operation says so)
 *   -ENOENT      I never had it, or it was deleted
 *   -EBADMSG     I have it and it is damaged
 *   -EIO         the disk has failed (retired, D2); -EHOSTUNREACH: it cannot be reached. Neither says
 *                anything about the shard
 *   -ESTALE      fenced: the epoch given is lower than the shard's fence. You are deposed: stop (S8)
 *   -ENOSPC      no space at this priority, or no table entry
 *   -ERANGE      beyond the shard's end (reads), not at its end (appends), beyond its capacity
 *   -EEXIST      create: there, with another identity (the same create repeated succeeds)
 *   -EROFS       sealed (appends)
 *   -EREMOTEIO   open shard of an earlier boot: takes no append or sync again (S5)
 */
#pragma once

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common/fiber.h"
#include "common/list.h"
#include "common/uuid.h"

#define BLOCK_BYTES 4096
#define APPEND_ENTRIES_MAX 248        /* payload blocks in one append */
#define APPEND_BODY_BYTES (248 * 16)  /* entries and inline bytes together, in the header block */
#define SHARD_EXTENT_BLOCKS_MAX 1024  /* data, map pages: a 4 MiB extent, trailer included */
#define LOG_CAPACITY_BLOCKS_MAX 16384 /* log, manifest: 64 MiB */
#define CODE_K_MAX 16
#define CODE_M_MAX 4
#define CODE_SHARDS_MAX (CODE_K_MAX + CODE_M_MAX)

enum shard_kind {
    SHARD_DATA = 1,
    SHARD_LOG = 2,
    SHARD_META = 3, /* map pages */
    SHARD_MANIFEST = 4,
};

/* Identity in the cluster. chunk = (epoch of its creator << 32) | counter: two owners never create
 * the same one (S9). */
struct shard_key {
    uint64_t volume;
    uint64_t chunk;
    uint8_t index; /* 0..k-1 data, k..k+m-1 parity; logs and manifests: the copy's number */
};

struct shard_code {
    uint8_t k, m; /* logs, manifests, map pages: k = 1 */
};

/* On disk and wire: 16 bytes, little-endian. What `address` and `aux` mean is the volume's affair
 * (for parity shards they are the Reed-Solomon parity of the data shards' fields, so that a row's
 * directory survives what its data survives). */
struct shard_entry {
    uint64_t address;
    uint32_t crc; /* CRC32C of the payload block */
    uint32_t aux;
};

enum shard_priority {      /* D7 */
    SHARD_PRIORITY_USER,   /* refused below 5 % free */
    SHARD_PRIORITY_CLEAN,  /* cleaning and repair: below 2 % */
    SHARD_PRIORITY_SYSTEM, /* manifests, map pages, logs in need: never */
};

struct shard_info {
    struct shard_key key;
    enum shard_kind kind;
    struct shard_code code;
    uint64_t instance;      /* never reused; names this creation of the shard (S9) */
    uint32_t epoch;         /* of the creator */
    uint32_t fence_epoch;   /* lower ones are refused; 0 = never fenced */
    uint32_t length_blocks; /* end of the valid prefix (walked if unsealed) */
    uint32_t capacity_blocks;
    bool sealed;
    bool suspect; /* S6: the machine rebooted since; usable content, never proof of completeness */
    bool tombstone; /* fenced while absent: refuses creates of lower epochs */
    bool damaged;   /* its table entry, or a block before its end, is known bad */
};

struct shard_create {
    struct shard_key key;
    enum shard_kind kind;
    struct shard_code code;
    uint64_t instance;
    uint32_t epoch;
    uint32_t capacity_blocks;     /* wanted: what appends may fill (trailer space comes on top) */
    uint32_t capacity_blocks_min; /* accepted */
    enum shard_priority priority;
};

enum disk_state { DISK_IN, DISK_OUT, DISK_FAILED, DISK_MISSING };

enum shard_append_flags {
    SHARD_APPEND_DSYNC = 1, /* this append (not earlier ones) is durable when answered */
};

struct disk;

/* Whether the error of a read says something of the shard, or only of the disk and the moment (S14). */
static inline bool shard_error_says_nothing(int error)
{
    return error < 0 && error != -ENOENT && error != -EBADMSG && error != -ERANGE;
}

/* Appends one header and `entry_count` payload blocks exactly at off_blocks. The submitter owns all
 * memory until done(). Appends of one shard may be in flight together if submitted in order; one
 * that fails makes the later ones fail (-ERANGE). A retry succeeds only if bytes and epoch match
 * (S8). Complete = the device has it (D1). */
struct shard_append {
    struct disk *disk;
    struct shard_key key;
    uint32_t epoch;
    uint32_t off_blocks;
    uint64_t base_seq;
    const struct shard_entry *entries;
    unsigned entry_count;        /* 0..APPEND_ENTRIES_MAX */
    const void *inline_bytes;    /* opaque to the shard, covered by the header's CRC */
    unsigned inline_len_bytes;   /* 16 * entry_count + this <= APPEND_BODY_BYTES */
    const struct iovec *payload; /* 4 KiB aligned pieces, whole blocks, entry_count blocks in all */
    unsigned payload_count;
    unsigned flags;
    void (*done)(struct shard_append *append);
    int result;
    uint32_t ret_header_crc;
    struct list link; /* the disk's */
    void *impl;       /* the disk's */
};

/* Reads `count` whole blocks from off_blocks (headers are blocks too). Each is verified by the
 * storing disk. On -EBADMSG the contents of the buffers are undefined. */
struct shard_read {
    struct disk *disk;
    struct shard_key key;
    uint32_t off_blocks;
    uint32_t count;
    const struct iovec *iov; /* aligned, whole blocks */
    unsigned iov_count;
    bool leave; /* the disk may leave the buffers behind with an I/O that hangs: -EHOSTUNREACH, and
                   env_memory_left() is true of them (env.h, T2) */
    struct shard_entry *ret_entries; /* NULL, or room for `count`: what is recorded for each block
                                        (headers: address UINT64_MAX) */
    void (*done)(struct shard_read *read);
    int result;
    uint32_t ret_damaged_block; /* with -EBADMSG: the first */
    struct list link;
    void *impl;
};

/* Everything appended below length_blocks is durable afterwards. Refused (S5): -ERANGE shorter,
 * -ESTALE fenced higher, -EREMOTEIO boot changed. One device flush serves all waiters whose appends
 * were complete when it was submitted. */
struct shard_sync {
    struct disk *disk;
    struct shard_key key;
    uint32_t epoch;
    uint32_t length_blocks;
    void (*done)(struct shard_sync *sync);
    int result;
    struct list link;
    void *impl;
};

struct disk_ops {
    MAY_SUSPEND int (*create)(
        struct disk *disk, const struct shard_create *create, struct shard_info *ret_info);
    void (*append)(struct shard_append *append);
    void (*read)(struct shard_read *read);
    void (*sync)(struct shard_sync *sync);
    MAY_SUSPEND int (*seal)(
        struct disk *disk, struct shard_key key, uint32_t epoch, uint32_t length_blocks);
    MAY_SUSPEND int (*remove)(
        struct disk *disk, struct shard_key key, uint64_t instance, uint32_t epoch);
    MAY_SUSPEND int (*fence)(
        struct disk *disk, struct shard_key key, uint32_t epoch, struct shard_info *ret_info);
    MAY_SUSPEND int (*stat)(struct disk *disk, struct shard_key key, struct shard_info *ret_info);
    MAY_SUSPEND int (*list)(
        struct disk *disk, uint64_t volume, struct shard_info **ret_list, unsigned *ret_count);
};

/* A disk anywhere in the cluster. `number` is unique in the cluster and never reused; volumes'
 * metadata names disks by it. */
struct disk {
    const struct disk_ops *ops;
    struct uuid uuid;
    uint32_t number;
    enum disk_state state;
    char class_name[16]; /* "ssd", "hdd", ... */
    char node[64];       /* failure domains */
    char rack[64];
    bool local;
    /* Of a disk of another node: what that node last said of it (state then says what volumes are to
     * think of it, members.h B3), and env_now_ns() since when it has been DISK_MISSING, 0 = it is not. */
    enum disk_state home_state;
    uint64_t missing_since_ns;
    /* Since when recoveries have got no answer of it, and the last time, although it is not missing (O5). */
    uint64_t unanswered_since_ns, unanswered_last_ns;
    uint64_t size_bytes; /* usable by shards */
    uint64_t free_bytes; /* as last known */
    uint64_t error_count, damage_count;
    uint64_t latency_ewma_ns; /* of appends, for fail-slow avoidance */
    uint64_t latency_at_ns;   /* env_now_ns() when it was measured last */
    struct list link;         /* in the node's list: disk_list.h, as is number_next */
    struct disk *number_next;
};

/* A slow disk takes that many times what others take, and more than that. */
#define DISK_SLOW_FACTOR 8
#define DISK_SLOW_FLOOR_NS 20000000ull

/* What the disk's appends take. A slow disk is not written to, so nobody learns that it has
 * recovered: what was measured halves each minute, until it is tried again. */
static inline uint64_t disk_latency_ns(const struct disk *disk, uint64_t now_ns)
{
    uint64_t minutes =
        now_ns > disk->latency_at_ns ? (now_ns - disk->latency_at_ns) / 60000000000ull : 0;
    return minutes < 64 ? disk->latency_ewma_ns >> minutes : 0;
}

static inline void disk_note_latency(struct disk *disk, uint64_t latency_ns, uint64_t now_ns)
{
    uint64_t before_ns = disk_latency_ns(disk, now_ns);
    disk->latency_ewma_ns = before_ns + (uint64_t)((int64_t)(latency_ns - before_ns) / 16);
    disk->latency_at_ns = now_ns;
}

/* Makes the shard; ret_info (may be NULL) has its actual capacity. Durable when answered (S1, S7). */
MAY_SUSPEND int shard_create(
    struct disk *disk, const struct shard_create *create, struct shard_info *ret_info);

void shard_append_submit(struct shard_append *append);
void shard_read_submit(struct shard_read *read);
void shard_sync_submit(struct shard_sync *sync);

/* Fiber forms of the three. */
MAY_SUSPEND int shard_append(struct shard_append *append);
MAY_SUSPEND int shard_read(struct disk *disk, struct shard_key key, uint32_t off_blocks,
    uint32_t count, void *buf, struct shard_entry *ret_entries);
MAY_SUSPEND int shard_sync(
    struct disk *disk, struct shard_key key, uint32_t epoch, uint32_t length_blocks);

/* Cuts the shard at length_blocks (an append boundary at or below its end, none in flight beyond it),
 * writes its trailer (data, map pages), syncs, marks the table, gives unused space back. Durable when
 * answered. Repeating it with the same length succeeds. */
MAY_SUSPEND int shard_seal(
    struct disk *disk, struct shard_key key, uint32_t epoch, uint32_t length_blocks);

/* Deletes this instance (0 = whichever is there); -ENOENT when it is not there. Space is reused after
 * the last reader is done (D5). Durable when answered. */
MAY_SUSPEND int shard_remove(
    struct disk *disk, struct shard_key key, uint64_t instance, uint32_t epoch);

/* D6. Durable when answered; ret_info (may be NULL) as of after the fence, with the walked length. An
 * absent shard leaves a durable tombstone and answers -ENOENT (S7). -ESTALE when the fence is already
 * higher (S15). */
MAY_SUSPEND int shard_fence(
    struct disk *disk, struct shard_key key, uint32_t epoch, struct shard_info *ret_info);

MAY_SUSPEND int shard_stat(struct disk *disk, struct shard_key key, struct shard_info *ret_info);

/* Shards of `volume` (0 = all), in no order; tombstones included. mem_free the list. Lengths of
 * unsealed shards are not walked (0). */
MAY_SUSPEND int shard_list(
    struct disk *disk, uint64_t volume, struct shard_info **ret_list, unsigned *ret_count);
