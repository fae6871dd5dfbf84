/* SPDX-License-Identifier: Apache-2.0
 *
 * The server's side of remote_disk.c: shard operations of other nodes on the disks of this one.
 */
#pragma once

#include "common/rpc.h"

struct disks;
struct shard_service;

struct shard_service *shard_service_new(struct disks *disks);
void shard_service_free(struct shard_service *service);
/* For rpc_server_start; the context of their handlers is the struct cluster_server below. */
extern const struct rpc_method shard_methods[];
extern const unsigned shard_method_count;
