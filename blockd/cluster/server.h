/* SPDX-License-Identifier: Apache-2.0
 *
 * What other nodes may ask of this one: the RPC server of a node and the context of its methods.
 */
#pragma once

#include "common/rpc.h"

struct attach;
struct disks;
struct node;
struct shard_service;

struct cluster_server {
    struct rpc_server *rpc;
    struct shard_service *shards;
    struct attach *attach;
    struct node *node; /* METHOD_ADMIN; NULL: there is none (tests) */
    struct rpc_method *methods;
};

struct cluster_server_options {
    struct rpc_options rpc;
    const char *address;
    struct disks *disks;
    struct attach *attach;
    struct node *node;
};

/* Serves shards of `disks`, volumes of `attach` and admin requests for `node`. 0, or negative errno
 * with *ret_error (mem_free). */
MAY_SUSPEND int cluster_server_start(const struct cluster_server_options *options,
    struct cluster_server **ret_server, char **ret_error);
/* Waits for the requests under way. No volume is held for other nodes afterwards. */
MAY_SUSPEND void cluster_server_stop(struct cluster_server *server);
