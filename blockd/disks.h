/* SPDX-License-Identifier: Apache-2.0
 *
 * The disks of this node: what the store records, what is open, and what is wrong with the rest.
 *
 * Invariants
 *  N1 A disk's number is unique in the cluster and never reused: it is assigned in the transaction
 *     that makes its record.
 *  N2 A disk is in the list that volumes see (disks_present) only while it is open; one without a
 *     number is on its way out, volumes do not see it.
 *  N3 A disk that is missing or has failed stays recorded until somebody removes it: its shards are
 *     counted as lost, not forgotten.
 *  N4 Nothing is written to a disk whose record is gone: another node has removed it while this one was away, its
 *     number means nothing to the others, and what they find on it after us is nothing.
 *  N5 A disk has one record, found by its UUID: one that is carried here from a node that is down, or whose
 *     making got no answer, keeps its number, and so what volumes have on it.
 *  N6 A store that was set back (restored from a snapshot) and has no record of a disk that is in use here says nothing of
 *     that disk: its record is put again, under its number.
 *  N7 A disk that hangs counts as missing, and comes back by itself once all its I/O is back: as at a start (D20), DISKS_RETURNS_MAX
 *     times an hour, two disks at a time. After that, or when an I/O came back with an error, it has failed.
 */
#pragma once

#include "blockd/cluster/records.h"
#include "blockd/disk/disk_list.h"
#include "blockd/disk/local_disk.h"

struct disks;

#define DISKS_RETURNS_MAX 4 /* an hour, of one disk (N7) */

struct disks_options {
    const char *node_name;
    const char *rack; /* NULL = none */
    struct uuid cluster, node;
    bool
        alone; /* the store is this node's alone: disks of another name are of its own earlier one */
    uint64_t trailer_cache_bytes; /* of all disks together */
    uint64_t io_timeout_ns;       /* as in local_disk.h */
    /* A disk came, went or failed; blocks are damaged. From the env's loop or a fiber. */
    void (*changed)(void *ctx);
    void (*damaged)(void *ctx, struct disk *disk, struct shard_key key, uint32_t block);
    void *ctx;
};

struct disks_entry {
    struct list link; /* disks_entries */
    struct disks *disks;
    struct disk_record record;
    struct disk *disk; /* NULL while missing, unless it hangs (DISK_MISSING, N7) */
    enum disk_state state;
    char *problem; /* a sentence with the way out; NULL when all is well */
    unsigned holds;
    bool opening;
    bool leaving;       /* is being removed: no new holds */
    bool removing;      /* its record is just being deleted by us */
    bool taking;        /* its record is just becoming ours */
    bool recorded;      /* the watch has told of its record */
    bool forgotten;     /* its record is gone (N4) */
    uint64_t histories; /* the store's when it had the record last (N6) */
    bool returning;     /* a fiber waits for it to come back (N7) */
    uint64_t return_due_ns;
    unsigned returns; /* how often that was tried within the last hour */
    uint64_t returns_ns[DISKS_RETURNS_MAX];
};

struct disks *disks_new(struct store *store, const struct disks_options *options);
/* Opens what the store records for this node. A disk that cannot be opened is missing (logged); the
 * node goes on without it. Fails only when the store does. */
MAY_SUSPEND int disks_open_all(struct disks *disks, char **ret_error);
/* No volume may be open. */
MAY_SUSPEND void disks_free(struct disks *disks);

/* Those that are open: for struct volume_host. On a cluster members.h adds the
 * disks of the other nodes (struct disk.local is false). */
struct disk_list *disks_present(struct disks *disks);
/* struct disks_entry.link, by number. */
struct list *disks_entries(struct disks *disks);

/* The entry whose number is the lowest above `number`, held: it (and its disk, if any) stays until
 * disks_release, which a removal waits for: not for long. NULL = none. */
struct disks_entry *disks_hold_next(struct disks *disks, uint32_t number);
void disks_release(struct disks_entry *entry);
/* The entry of an open disk, held as above while an operation of another node runs on it; a removal
 * lets no new ones in. NULL: no such disk here, or it is missing or on its way out. */
struct disks_entry *disks_hold_open(struct disks *disks, uint32_t number);

/* What the watch on records tells of the disks of this node; numbers of others are ignored (N4). */
void disks_recorded(struct disks *disks, uint32_t number);
void disks_forgotten(struct disks *disks, uint32_t number);
/* The watch has told of all records: those that disks_open_all() has found and that it did not tell of are gone. */
void disks_all_recorded(struct disks *disks);

/* All with *ret_error (mem_free) that names the disk and the way out. `which` is a number, UUID or
 * path. */
MAY_SUSPEND int disks_format(struct disks *disks, const char *path, uint64_t size_bytes,
    const char *class_name, bool force, struct uuid *ret_uuid, uint64_t *ret_size_bytes,
    char **ret_error);
/* A new disk gets the next number; one that is missing is taken back, from whatever path. */
MAY_SUSPEND int disks_add(
    struct disks *disks, const char *path, struct disk_record *ret_record, char **ret_error);
/* Refused while shards live there (or might, on a missing disk) unless `force`. */
MAY_SUSPEND int disks_remove(struct disks *disks, const char *which, bool force, char **ret_error);
