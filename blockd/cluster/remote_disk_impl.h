/* SPDX-License-Identifier: Apache-2.0
 *
 * Between remote_disk.c (life, status, fiber operations) and remote_disk_io.c (append, read, sync).
 */
#pragma once

#include "blockd/cluster/protocol.h"
#include "blockd/cluster/remote_disk.h"
#include "blockd/cluster/wire_shard.h"
#include "common/check.h"

struct remote_disk {
    struct disk base;
    struct peer *peer;
    uint64_t timeout_ns;

    uint64_t told_ns;         /* when home_state was told */
    uint64_t told_latency_ns; /* by the node itself, last */
    bool measured;            /* latency_ewma_ns has appends of ours since the last refresh */

    struct list free_appends, free_reads, free_syncs; /* pools */
    unsigned in_flight;
};

static inline struct remote_disk *remote_disk_of(struct disk *disk)
{
    return container_of(disk, struct remote_disk, base);
}

/* A call's result as an answer of shard.h. */
int remote_answer(const struct remote_disk *remote, uint16_t method, int result);
/* The peer's answer makes no sense (R2): -EIO. */
int remote_nonsense(const struct remote_disk *remote, uint16_t method);

void remote_append(struct shard_append *append);
void remote_read(struct shard_read *read);
void remote_sync(struct shard_sync *sync);
void remote_io_pools_free(struct remote_disk *remote);
