/* SPDX-License-Identifier: Apache-2.0
 *
 * volumes.h and volume.h in memory, for tests of front ends: sparse, with delays and errors on
 * order. Data is copied out of the caller's buffer at the end of a delay, not at its start, as an
 * engine that waits for memory does.
 */
#pragma once

#include "blockd/volumes.h"

struct volumes *fake_volumes_new(void); /* of node "n1" */
/* The registry of another node, `node`, of the same cluster: the same volumes, each open on one node
 * at a time. Freed before the first. */
struct volumes *fake_volumes_join(struct volumes *first, const char *node);
/* Nobody may hold a volume (CHECKed). */
void fake_volumes_free(struct volumes *volumes);
/* From now on lists are from memory: the store does not answer. */
void fake_volumes_recall(struct volumes *volumes);
void fake_volumes_add(struct volumes *volumes, const char *name, uint64_t size_bytes);

/* What happens to calls on a volume; 0 = nothing special. Read again at the end of each delay. */
struct fake_faults {
    uint64_t delay_ns;
    uint64_t delay_every;      /* delay only each n-th call; 0 = all */
    int error;                 /* negative errno for reads and writes */
    int open_error;            /* negative errno for volumes_get of a volume that is not open */
    struct volumes *successor; /* who gets it in the next handoff */
    bool stuck;                /* calls do not end until this is false again (looked at each ms) */
    bool full;                 /* writes get no place until this is false again */
};
struct fake_faults *fake_volume_faults(struct volumes *volumes, const char *name);

/* Whoever has the volume gets -ESHUTDOWN from now on; volumes_get() makes a new one, with the same
 * data, unless open_error is set. */
void fake_volume_depose(struct volumes *volumes, const char *name);
/* Users of the volume now, of all its incarnations. */
unsigned fake_volume_users(struct volumes *volumes, const char *name);

struct fake_counts {
    uint64_t writes, stable_writes, fua_calls, flushes, reads, trims, zeroes, no_hole, statuses;
    uint64_t calls_now, handoffs;
    uint64_t duplicates; /* changes with a request id seen before; they change nothing (S19) */
    struct request_id last_id;
};
const struct fake_counts *fake_volume_counts(struct volumes *volumes, const char *name);
