/* SPDX-License-Identifier: Apache-2.0
 *
 * One node with six disks and one volume of 2+1 in one process: the world of simulations that look at what a
 * volume does under load, not at what survives it (one_node.h). Small rows, a small log, large writes from 64 KiB on.
 */
#pragma once

#include "blockd/volume/volume.h"
#include "tests/sim/sim_check.h"

enum { ONE_VOLUME_DISKS = 6, ONE_VOLUME_BLOCKS = 2048 };

struct one_volume {
    struct rng rng;
    struct sim *sim;
    struct env *node;
    struct store_mem *store;
    struct disk_list disks;
    struct volume_host host;
    struct memory_budget budget;
    struct volume *volume;
};

/* A round: makes the world (fiber_count_max 0 = the usual), opens the volume, runs fn(world) on a fiber of the node, closes
 * the volume. fn has to come to its end. */
void one_volume_round(
    struct one_volume *world, uint64_t seed, unsigned fiber_count_max, fiber_fn *fn);
/* Of its disks, one drawn by its rng. */
struct sim_disk *one_volume_any_disk(struct one_volume *world);
