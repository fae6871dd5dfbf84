/* SPDX-License-Identifier: Apache-2.0
 *
 * Between shard_service.c (what runs on fibers, lists, life) and shard_service_io.c (append, read,
 * sync).
 */
#pragma once

#include "blockd/cluster/server.h"
#include "blockd/cluster/shard_service.h"
#include "blockd/cluster/wire_shard.h"
#include "blockd/disks.h"
#include "common/bufpool.h"

#define READ_BYTES_MAX_ALL (64ull << 20) /* V4 */

struct shard_service {
    struct disks *disks;
    struct bufpool *read_pool;
    struct list waiting_reads; /* for memory of the pool */
    struct list free_appends, free_reads, free_syncs;
    unsigned in_flight;
    uint8_t scratch[RPC_BODY_BYTES_MAX]; /* a reply's body; rpc_reply copies it */
};

static inline struct shard_service *shard_service_of(void *ctx)
{
    return ((struct cluster_server *)ctx)->shards;
}

/* Answers a request that does not decode (V1). `what` is the method's name. */
void shard_refuse(struct rpc_request *request, const char *what);
/* The disk, held, or NULL: the request has been answered (V3). */
struct disks_entry *shard_disk_of(
    struct shard_service *service, struct rpc_request *request, uint32_t number);

void shard_handle_append(void *ctx, struct rpc_request *request);
void shard_handle_read(void *ctx, struct rpc_request *request);
void shard_handle_sync(void *ctx, struct rpc_request *request);
void shard_io_pools_free(struct shard_service *service);
