/* SPDX-License-Identifier: Apache-2.0
 *
 * What other nodes may ask of this one: the RPC server of a node and the context of its methods.
 */
#pragma once

#include "common/rpc.h"

struct attach;
struct node;
struct shard_service;

struct cluster_server {
    struct rpc_server *rpc;
    struct shard_service *shards;
    struct attach *attach;
    struct node *node; /* METHOD_ADMIN */
};
