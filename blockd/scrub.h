/* SPDX-License-Identifier: Apache-2.0
 *
 * Scrub: reads every shard of this node's disks at a set pace, so that rot is found while the code
 * can still repair it. What is damaged is told by the disk itself (struct local_disk_options).
 */
#pragma once

#include "blockd/disks.h"

struct scrub;

struct scrub_options {
    uint64_t rate_bytes;     /* a second, all disks together; 0 = no scrubbing of its own accord */
    uint64_t interval_ns;    /* from the begin of a pass to that of the next */
    uint64_t first_delay_ns; /* from the start to the first pass */
};

struct scrub_status {
    bool running;
    uint32_t disk;           /* number, while running */
    uint64_t bytes, shards;  /* of this pass, or the last */
    uint64_t damaged_shards; /* of this pass, or the last */
    uint64_t passes;         /* finished since the start */
};

struct scrub *scrub_start(struct disks *disks, const struct scrub_options *options);
/* A pass begins now, if none is running. */
void scrub_now(struct scrub *scrub);
void scrub_get_status(const struct scrub *scrub, struct scrub_status *ret_status);
MAY_SUSPEND void scrub_stop(struct scrub *scrub);
