/* SPDX-License-Identifier: Apache-2.0
 *
 * One node with disks of its own and one volume, through as many processes as a round wants: what the
 * directed simulations of recovery share. What clients saw is judged by history.h: all that was
 * acknowledged is there after a kill, all that was flushed after a loss of power, and what is there is a prefix.
 *
 * A round embeds struct one_node as the first member of its world, and is made of fibers that are run to their
 * end (one_node_do) and of ends of the process between them.
 */
#pragma once

#include "blockd/volume/volume.h"
#include "tests/sim/history.h"
#include "tests/sim/link_disk.h"
#include "tests/sim/sim_check.h"

enum {
    ONE_NODE_BLOCKS = 512, /* of the volume */
    ONE_NODE_DISKS_MAX = 8,
    ONE_NODE_WRITE_BLOCKS_MAX = 64,
};

struct one_node {
    /* For the next process; set after one_node_init. */
    uint64_t row_blocks_max, bypass_bytes_min, log_bytes_max;
    uint64_t io_timeout_ns; /* of the disks; 0 = none */
    uint64_t repair_wait_ns;
    bool linked;                /* disks behind link_disk.h */
    enum failure_domain domain; /* of the pool, which the first process makes */
    /* of the round */
    struct rng rng;
    struct sim *sim;
    struct env *env;
    struct store_mem *store;
    struct history *history;
    struct shard_code code;
    unsigned disk_count; /* numbers 1.. */
    uint64_t volume_id;
    bool made;
    struct sim_disk *pulled[ONE_NODE_DISKS_MAX + 1];
    /* of the running process */
    struct disk_list disks;
    struct link_disk *links[ONE_NODE_DISKS_MAX + 1];
    struct volume_host host;
    struct memory_budget budget;
    struct volume *volume; /* NULL: not open */
};

/* Formatted disks, a store, nothing else. Small rows, no large writes. */
void one_node_init(
    struct one_node *node, uint64_t seed, struct shard_code code, unsigned disk_count);
void one_node_fini(struct one_node *node);
/* Runs fn(node) on a fiber of the node; false when the process ended meanwhile. */
bool one_node_do(struct one_node *node, const char *name, fiber_fn *fn);
/* The same, and it must not end. */
void one_node_must(struct one_node *node, const char *name, fiber_fn *fn);
/* Ends the process, unless it has ended already, by itself (kill -9) or with its machine's power. */
void one_node_kill(struct one_node *node);
void one_node_power_cut(struct one_node *node, enum sim_cut_mode mode);

/* Between two processes or in one: out of the machine, and back as it was. */
void one_node_pull(struct one_node *node, unsigned number);
void one_node_return(struct one_node *node, unsigned number);
/* NULL while it is out. */
struct sim_disk *one_node_sim_disk(const struct one_node *node, unsigned number);

/* In the running process, from its fibers. */

/* Opens the disks that are there and the store; the first time makes pool and volume. */
MAY_SUSPEND void one_node_start(struct one_node *node);
/* A disk that has come back, as `holdfast disk add` does. */
MAY_SUSPEND void one_node_add_disk(struct one_node *node, unsigned number);
/* Starts, and opens the volume, which must succeed. */
MAY_SUSPEND void one_node_open(struct one_node *node);
/* Reads all of it and has history.h judge: after a start, before anything is written. */
MAY_SUSPEND void one_node_verify(struct one_node *node);
/* Opens and verifies. */
void one_node_recover(void *node);
/* Writes that are to succeed, unless the volume halts: true when they were acknowledged. */
MAY_SUSPEND bool one_node_write(struct one_node *node, uint32_t first, uint32_t count);
MAY_SUSPEND void one_node_write_some(struct one_node *node, unsigned writes, unsigned blocks_max);
/* 0 = what was acknowledged before the call is durable. */
MAY_SUSPEND int one_node_flush(struct one_node *node);

/* Calls fn for each shard of the volume, tombstones too, on the disks that are in. */
typedef void one_node_shard_fn(
    struct one_node *node, struct disk *disk, const struct shard_info *info);
MAY_SUSPEND void one_node_each_shard(struct one_node *node, one_node_shard_fn *fn);
