/* SPDX-License-Identifier: Apache-2.0
 *
 * A volume that this node owns: the whole I/O path above shards. Front ends (NBD, tests) call this;
 * the rules are in blockd/volume/README.md.
 *
 * All offsets and lengths are bytes, any alignment; 4 KiB-aligned I/O is the fast path. Calls
 * suspend the calling fiber; many run at once. A write is acknowledged (returns 0) once it is on
 * all copies of the log; FUA and volume_flush once it is durable there.
 *
 * Errors of I/O: -EINVAL beyond the end, -ENOSPC (nothing of the write happened; of one longer than a row a part
 * may have), -EIO (data lost
 * or damaged beyond repair: reads of that range only), -ESHUTDOWN (the volume is closing or this
 * node was deposed: the front end holds the request and retries through volumes_get()).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "blockd/cluster/records.h"
#include "blockd/disk/disk_list.h"
#include "common/fiber.h"

struct bufpool;
struct volume;

/* What a volume needs of its node. One per node, outlives its volumes. */
struct map_cache;

/* The node's session in the store, as members.h keeps it; asked each time, never cached. While `id`
 * stays the same its key has been there without a gap: an extension of valid_until_ns is the
 * outcome of a transaction that needs the session (S16). Neither may suspend. */
struct volume_session {
    uint64_t (*id)(void *ctx);             /* 0 = none just now */
    uint64_t (*valid_until_ns)(void *ctx); /* CLOCK_BOOTTIME; 0 = not valid */
    void *ctx;
};

/* What a volume asks of the map of the cluster (members.h); NULL = a node alone. Neither suspends. */
struct volume_cluster {
    /* A disk that is not in the list is gone for good; otherwise we have not heard of it yet. */
    bool (*disk_removed)(void *ctx, uint32_t number);
    /* A disk that is not in the list may come: it is on record (one of ours that could not be opened), or
     * news that has not come here yet. */
    bool (*disk_expected)(void *ctx, uint32_t number);
    /* Of one that is not in the list and is on record here: since when, as far as we know (env_now_ns()); 0:
     * it is no such disk. */
    uint64_t (*disk_missing_since_ns)(void *ctx, uint32_t number);
    /* Of the nodes that are up this one cares for what nobody owns. */
    bool (*volume_is_ours)(void *ctx, uint64_t id);
    void *ctx;
};

struct volume_host {
    struct store *store;
    struct uuid cluster;
    const char *node_name;
    uint64_t session; /* of this process, where lease.id is NULL: a store of its own (embedded),
                           the session is valid for ever */
    struct volume_session lease;
    struct volume_cluster map;
    /* What is on a disk that is DISK_MISSING is rebuilt elsewhere after so long; its logs roll at once. */
    uint64_t repair_wait_ns;
    uint64_t
        start_ns; /* env_now_ns(): a disk that is on record and not in the list is away since then */
    struct disk_list *disks; /* entries come and go only when no volume is open or with number 0 */
    struct memory_budget *budget;
    uint64_t row_blocks_max;     /* per data shard; 0 = APPEND_ENTRIES_MAX */
    uint64_t log_bytes_max;      /* unreleased log per volume; 0 = 64 MiB */
    struct map_cache *map_cache; /* of map pages, shared by all volumes (map.h) */
    uint64_t delta_bytes_max;    /* per volume delta table; 0 = 16 MiB */
    uint64_t bypass_bytes_min;   /* per data shard; 0 = 64 KiB */
    uint64_t flush_after_ns;     /* unflushed log is synced within; 0 = 5 s (S5) */
    bool rows_unnamed; /* simulations: no records of type 18, as before them (FORMAT.md) */
};

/* The node's budget for data in memory (architecture section 4): memtables of all volumes. Owned by
 * the node. */
struct memory_budget {
    struct bufpool *blocks; /* 4 KiB blocks of memtables; its cap is the budget */
    struct bufpool *io; /* parity, decoding, bounce buffers: small, separate, so that destage can
                           always go on */
    struct fiber_queue waiters;  /* writers without a block; whoever frees blocks wakes them */
    struct list volumes;         /* open volumes: the largest is destaged first */
    struct fiber_mutex cleaning; /* one volume cleans at a time */
    struct fiber_queue reclaim_waiters; /* writers of a full pool, while volumes look for garbage */
    uint64_t places_freed;              /* by all volumes, logs too */
    uint64_t reclaim_ticket;            /* of the last one who asked for space (reclaim.c) */
    uint64_t reclaim_freed;             /* places_freed then */
    uint64_t
        delta_bytes_max;  /* of all volumes' delta tables: then the largest is merged; 0 = no cap */
    struct open_memory {  /* of volumes that are being opened (open_memory.c) */
        unsigned readers; /* that have a window in memory */
        unsigned replaying;
        uint64_t blocks;     /* given to such as cannot destage yet */
        struct volume *over; /* the one that needs more than fits */
        struct fiber_queue reader_queue, block_queue;
    } opens;
};
/* The caps of the two pools: at least a generation of each code's rows for memtables (MEMORY_BLOCKS_MIN), and what
 * decoding and parity of a few rows need (MEMORY_IO_MIN). */
#define MEMORY_BLOCKS_MIN (16ull << 20)
#define MEMORY_IO_MIN (24ull << 20)
void memory_budget_init(struct memory_budget *budget, uint64_t blocks_bytes, uint64_t io_bytes);
void memory_budget_fini(struct memory_budget *budget);

struct disk *volume_host_disk(const struct volume_host *host, uint32_t number);
/* The node's session now, and whether reads may rely on it now; by reading the clock (S16). */
uint64_t volume_host_session(const struct volume_host *host);
bool volume_host_lease_valid(const struct volume_host *host);

/* Makes the volume's records (name and root) in one transaction; nothing on disks. -EEXIST, -ENOENT
 * (pool), -EINVAL. */
MAY_SUSPEND int volume_create(struct volume_host *host, const char *name, uint64_t size_bytes,
    const char *pool, uint64_t *ret_id, char **ret_error);

/* Who has a volume that cannot be opened here. */
struct volume_owner {
    char node[64];
    uint64_t session; /* 0: nobody serves it; it was released for `node`, which is to open it */
    uint32_t epoch;
};

enum volume_acquire_flags {
    VOLUME_ACQUIRE_FROM_SUCCESSOR = 1, /* it was left alone for its successor long enough */
};

/* Takes ownership (epoch+1, S10), recovers, serves. -EBUSY with *ret_owner (may be NULL): the session
 * of its owner is there (also when that is a session this process had before), or it waits for its
 * successor; ask again later or forward to it. *ret_error (mem_free) says what is wrong and the way
 * out. */
MAY_SUSPEND int volume_acquire(struct volume_host *host, uint64_t id, unsigned flags,
    struct volume **ret_volume, struct volume_owner *ret_owner, char **ret_error);
/* The same, whoever was to be its successor. */
MAY_SUSPEND int volume_open(
    struct volume_host *host, uint64_t id, struct volume **ret_volume, char **ret_error);
/* This process has a new session: the root is asserted under it by a CAS, then reads rely on its
 * lease again (S16). -ESHUTDOWN: halted (somebody else has it); -EAGAIN: the store has not answered
 * for a while, to be called again. */
MAY_SUSPEND int volume_session_renewed(struct volume *volume);
/* Ends this node's ownership while front ends hold the volume: destages, then refuses I/O
 * (-ESHUTDOWN), finishes what is in flight and releases the root for `successor` ("" = anybody).
 * The volume counts as halted from then on, and is to be closed (volume_close). *ret_pause_ns (may
 * be NULL): from the refusal to the release. -ESHUTDOWN: it halted on the way; -EHOSTUNREACH: it
 * does not serve (too few disks), or the store does not answer (S18), and goes on as before; others: it has halted, perhaps released. */
MAY_SUSPEND int volume_hand_over(
    struct volume *volume, const char *successor, uint64_t *ret_pause_ns);
/* Clean: destages everything, seals, releases the root; no I/O may be in flight. The volume is gone
 * afterwards, also on error (then the next open recovers from the log). */
MAY_SUSPEND int volume_close(struct volume *volume);
/* Takes no more I/O: what waits for space or for disks ends with -ESHUTDOWN, at the latest when nothing
 * has got on for some seconds (the volume halts then). volume_close() is to follow. */
void volume_close_begin(struct volume *volume);

/* Names the front end's request for exactly-once resends (S19); 0,0 = none. A request that is sent
 * again under its id is done once. Numbers of a session rise from 1; all below `answered_below` have
 * been answered to whoever asked, and will not be sent again. */
struct request_id {
    uint64_t session, number;
    uint64_t answered_below;
    /* NULL, or lent for the call: true once nobody waits for it any more. From then on it gets no place
     * in the order and ends with -ECANCELED: whoever sent it may be sending it again under another id. */
    const bool *given_up;
};

enum volume_io_flags {
    VOLUME_FUA = 1,
    VOLUME_STABLE = 2,  /* write: the buffer is private to this request and 4 KiB-aligned: may be
                           used without a copy */
    VOLUME_NO_HOLE = 4, /* write_zeroes: allocate */
};

MAY_SUSPEND int volume_read(
    struct volume *volume, uint64_t off_bytes, uint64_t len_bytes, void *buf);
/* With `leave`, buf may be left behind with a read of a disk that hangs: whatever the answer is, where env_memory_left() is
 * true of it take other memory and read again (env.h, T2). Without, what a disk gives is copied. */
MAY_SUSPEND int volume_read_leaving(
    struct volume *volume, uint64_t off_bytes, uint64_t len_bytes, void *buf, bool leave);
MAY_SUSPEND int volume_write(struct volume *volume, uint64_t off_bytes, uint64_t len_bytes,
    const void *buf, unsigned flags, struct request_id id);
/* Reads as zeroes afterwards (also trim: deterministic). Always possible, also when full or
 * degraded. */
MAY_SUSPEND int volume_trim(struct volume *volume, uint64_t off_bytes, uint64_t len_bytes,
    unsigned flags, struct request_id id);
MAY_SUSPEND int volume_write_zeroes(struct volume *volume, uint64_t off_bytes, uint64_t len_bytes,
    unsigned flags, struct request_id id);
/* Everything acknowledged before the call, on any connection, is durable when it returns 0. */
MAY_SUSPEND int volume_flush(struct volume *volume);

struct volume_extent {
    uint64_t len_bytes;
    bool hole; /* unallocated; reads as zeroes */
};
/* Extents from off_bytes on, merged; at most `max`, covering at most len_bytes and at least 1 byte.
 */
MAY_SUSPEND int volume_block_status(struct volume *volume, uint64_t off_bytes, uint64_t len_bytes,
    struct volume_extent *ret_extents, unsigned max, unsigned *ret_count);

/* -EINVAL when smaller than now or not a multiple of 512; durable when answered. */
MAY_SUSPEND int volume_grow(struct volume *volume, uint64_t size_bytes);

/* Marks the root as deleting and drops the name, in one transaction; the volume must be closed.
 * volume_purge then frees its shards and the root: background, resumable, repeated after a restart
 * for each root in VOLUME_DELETING. */
MAY_SUSPEND int volume_delete(
    struct volume_host *host, uint64_t id, const char *name, char **ret_error);
MAY_SUSPEND int volume_purge(struct volume_host *host, uint64_t id);

struct volume_stats {
    uint64_t reads, writes, flushes, trims;
    uint64_t read_bytes, written_bytes, trimmed_bytes;
    uint64_t read_latency_ns_sum, write_latency_ns_sum, flush_latency_ns_sum;
    /* log2 buckets of microseconds: bucket i counts latencies in [2^i, 2^(i+1)) us. */
    uint64_t read_latency_us[24], write_latency_us[24];
    uint64_t read_noops; /* log records for reads without a lease (S17) */
    uint64_t degraded_reads, damaged_blocks, repaired_shards, cleaned_chunks, rows, log_appends;
};

struct volume_info {
    uint64_t id;
    char name[NAME_BYTES_MAX];
    uint64_t size_bytes;
    char pool[NAME_BYTES_MAX];
    uint32_t epoch;
    uint64_t allocated_bytes; /* blocks that hold data */
    uint64_t stored_bytes;    /* on disks, all shards */
    uint64_t log_bytes;       /* unreleased */
    uint64_t memtable_bytes;
    uint64_t chunks, chunks_degraded, chunks_lost;
    uint64_t chunks_crowded; /* have shards that share a failure domain (Q7) */
    bool repair_is_idle;     /* degraded by these alone, and there is nowhere to move them to */
    const char
        *health;       /* "ok", "degraded" (fewer shards than the code wants, or some of them in one
                           failure domain), "damaged" (some ranges lost), "halted" */
    char problem[256]; /* a sentence when health is not ok */
    /* S6: the last takeover that found only copies on machines that had lost power; 0 = none. */
    uint32_t loss_epoch;
    uint64_t loss_time_s; /* since 1970 */
};

uint64_t volume_id(const struct volume *volume);
/* Constant while it is open: a request for another epoch is not for this volume (S19). */
uint32_t volume_epoch(const struct volume *volume);
const char *volume_name(const struct volume *volume);
const char *volume_pool_name(const struct volume *volume);
uint64_t volume_size_bytes(const struct volume *volume);
const struct volume_stats *volume_stats(const struct volume *volume);
/* Deposed, or unsure whether it is: it serves nothing any more and is to be closed. */
bool volume_halted(const struct volume *volume);
/* Neither halted nor on the way there: while it is handed over it answers -ESHUTDOWN to new requests. */
bool volume_takes_io(const struct volume *volume);
void volume_get_info(const struct volume *volume, struct volume_info *ret_info);

/* The node tells an open volume of changes. */
void volume_renamed(struct volume *volume, const char *name);
/* A disk failed, came, went, or its shards are damaged: wakes repair. block UINT32_MAX = the whole
 * shard. */
void volume_disk_changed(struct volume *volume);
void volume_shard_damaged(
    struct volume *volume, struct shard_key key, uint32_t disk, uint32_t block);
/* Test and admin hooks: destage all, wait for it; one pass of cleaning; wait until repair has
 * nothing to do (or -ENOSPC etc.). */
MAY_SUSPEND int volume_destage(struct volume *volume);
MAY_SUSPEND int volume_clean(struct volume *volume);
MAY_SUSPEND int volume_repair_wait(struct volume *volume);
