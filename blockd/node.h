/* SPDX-License-Identifier: Apache-2.0
 *
 * A node: everything one holdfast-blockd runs, put together and taken apart in order.
 *
 *   store -> identity -> disks -> volumes, attachments -> repair, scrub -> NBD, admin
 *   (stop: the other way)
 */
#pragma once

#include "blockd/adopt.h"
#include "blockd/attach.h"
#include "blockd/config.h"
#include "blockd/disks.h"
#include "blockd/scrub.h"
#include "blockd/volume/map.h"
#include "blockd/volumes.h"

struct admin_server;
struct nbd_server;

struct node {
    const struct node_config *config;
    struct store *store;
    struct cluster_record cluster;
    struct node_record record;
    struct memory_budget budget;
    struct map_cache *map_cache;
    struct disks *disks;
    struct volume_host host;
    struct volumes *volumes;
    struct attach *attach;
    struct adopt *adopt;
    struct scrub *scrub;
    struct nbd_server *nbd;
    struct admin_server *admin;
    uint64_t started_ns;
    struct fiber_mutex pool_use; /* volume.create and pool.delete exclude each other */
    bool stop_wanted;
    struct fiber_queue stop_queue;
};

struct node_options {
    const struct node_config *config; /* outlives the node */
    /* NULL: opened as `config` says. Otherwise the node's from the call on, failure included: for the
     * simulation, which has no LMDB and no etcd. */
    struct store *store;
};
/* Negative errno with *ret_error (mem_free): nothing is left then. */
MAY_SUSPEND int node_start(
    const struct node_options *options, struct node **ret_node, char **ret_error);
/* node_wait_stop returns once somebody has asked for the stop. */
void node_want_stop(struct node *node);
MAY_SUSPEND void node_wait_stop(struct node *node);
/* Clean: clients end, volumes are closed. */
MAY_SUSPEND void node_stop(struct node *node);
