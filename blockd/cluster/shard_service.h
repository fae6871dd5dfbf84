/* SPDX-License-Identifier: Apache-2.0
 *
 * The server's side of remote_disk.c: shard operations of other nodes on the disks of this one.
 *
 *  V1 Nothing from the wire fails a CHECK: bodies are decoded with bounds (wire_shard.h), an append's
 *     payload is compared with its entries' CRCs. What is wrong is answered -EINVAL and logged.
 *  V2 Append, read, sync are given to the disk from the handler itself, so in the order of arrival (R1);
 *     the rest runs on fibers, in no order. A caller waits for a create before it appends.
 *  V3 Served are disks of this node that are open, failed ones too (they answer for themselves). Any
 *     other number is -EHOSTUNREACH: that says nothing of its shards (S14). A disk stays while an
 *     operation runs on it, and no fence, create, seal or remove is answered before it is durable.
 *  V4 Buffers of reads are capped; at the cap reads wait, in order.
 */
#pragma once

#include "common/rpc.h"

struct disks;
struct shard_service;

struct shard_service *shard_service_new(struct disks *disks);
/* After the RPC server has stopped. */
void shard_service_free(struct shard_service *service);
/* For rpc_server_start; the context of their handlers is struct cluster_server (server.h). */
extern const struct rpc_method shard_methods[];
extern const unsigned shard_method_count;
