/* SPDX-License-Identifier: Apache-2.0
 *
 * The world of sim_volume_faults: volumes of one node over disks of its machine, clients of them, and what may be found: of
 * a block it is known that it holds one of a range of versions.
 */
#pragma once

#include "blockd/disk/local_disk.h"
#include "blockd/volume/volume.h"
#include "tests/sim/sim_check.h"

enum {
    BLOCK = 4096,
    DISKS_MAX = 12,
    VOLUMES_MAX = 6,
    CLIENTS = 3,
    WRITE_BLOCKS_MAX = 64,
};
#define SECOND_NS 1000000000ull

/* What one block may hold. Versions are numbers of a counter that only rises. */
struct version {
    uint32_t cur;     /* last issued */
    uint32_t acked;   /* no older one may be found */
    uint32_t durable; /* likewise after a power cut */
    uint32_t known;   /* found by the last verification */
    uint32_t void_to; /* others up to this one must not come back */
    uint32_t zero;    /* last issued that is zeroes; 0 = as made */
    bool known_is_zero;
};

struct vol {
    uint64_t id;
    char name[16];
    unsigned blocks;
    struct version *versions;
    uint32_t tag;
    struct volume *volume;
};

struct world {
    struct rng rng;
    struct sim *sim;
    struct env *node;
    struct store_mem *store;
    struct shard_code code;
    unsigned disk_count; /* paths and numbers 1..disk_count were given out */
    uint64_t disk_bytes;
    uint64_t row_blocks, log_bytes;
    bool formatted[DISKS_MAX];
    unsigned volume_count;
    struct vol vols[VOLUMES_MAX];
    bool made;
    /* of the running process */
    struct volume_host host;
    struct memory_budget budget;
    struct disk_list disks;
    unsigned ops; /* per client */
    unsigned running;
    bool enospc;
    uint64_t damage_told;
};

/* Disk i's, i from 0; in `buf` (32 bytes). */
const char *world_disk_path(unsigned i, char *buf);
/* Starts the process: disks; then, made if there are none yet, the volumes. */
MAY_SUSPEND void world_open_disks(struct world *w);
MAY_SUSPEND void world_open(struct world *w);
MAY_SUSPEND void world_close_volumes(struct world *w);
MAY_SUSPEND void world_close_disks(struct world *w);
MAY_SUSPEND void world_close(struct world *w);
/* CHECKs that what is read may be there; `settle`: nothing else may be from now on. */
MAY_SUSPEND void world_read_check(struct vol *vol, unsigned first, unsigned count, bool settle);
/* All of all volumes, settled. */
MAY_SUSPEND void world_verify(struct world *w);
/* The process has ended: what is still promised. */
void world_ended(struct world *w, bool power);
/* `zero`: a trim. */
MAY_SUSPEND int world_write(
    struct vol *vol, unsigned first, unsigned count, bool zero, unsigned flags);
MAY_SUSPEND void world_flush(struct vol *vol);
/* `ops` operations of each client, to their end. */
MAY_SUSPEND void world_run_clients(struct world *w, unsigned ops);
/* A new one, formatted when the next process starts. */
void world_add_disk(struct world *w);
void world_init(struct world *w, uint64_t seed, struct shard_code code, unsigned disks,
    unsigned volumes, unsigned blocks);
void world_fini(struct world *w);
/* fn(w) on the node, to its end. */
void world_must(struct world *w, const char *name, fiber_fn *fn);
/* By a kill, or with the power; now. */
void world_end_process(struct world *w, bool power);
