/* SPDX-License-Identifier: Apache-2.0
 *
 * A node: everything one holdfast-blockd runs, put together and taken apart in order.
 *
 *   state directory -> store -> identity -> disks -> peers -> members -> volumes, attachments
 *   -> RPC server -> repair, scrub -> NBD, admin             (stop: the other way)
 *
 * A node whose store is shared with others (etcd) has its admin socket from the start on, and waits
 * there until the store answers and until it has joined the cluster.
 */
#pragma once

#include "blockd/adopt.h"
#include "blockd/attach.h"
#include "blockd/cluster/identity.h"
#include "blockd/cluster/members.h"
#include "blockd/cluster/server.h"
#include "blockd/config.h"
#include "blockd/disks.h"
#include "blockd/scrub.h"
#include "blockd/volume/map.h"
#include "blockd/volumes.h"

struct admin_server;
struct nbd_server;

enum node_phase {
    NODE_STARTING,
    NODE_WAITING_STORE, /* it does not answer */
    NODE_NOT_JOINED,    /* serves status, cluster.init and cluster.join only */
    NODE_RUNNING,
    NODE_STOPPING,
};

struct node_options {
    const struct node_config *config; /* outlives the node */
    /* NULL: opened as `config` says. Otherwise the node's from the call on, failure included: for the
     * simulation, which has no LMDB and no etcd. */
    struct store *store;
    /* Makes the cluster, and joins it, by itself if need be; so does a node with the embedded store. */
    bool join;
    /* The node's phase changed, also to NODE_STARTING; from a fiber. node_want_stop() may be called from then
     * on. NULL is allowed. */
    void (*phase_changed)(void *ctx, struct node *node);
    void *ctx;
};

struct node {
    struct node_options options;
    const struct node_config *config;
    enum node_phase phase;
    char *waits_for; /* a sentence, in the phases that wait; NULL else */
    struct fiber_queue phase_queue;
    struct state_file *state; /* NULL: embedded store on a file system without direct I/O */
    struct store *store;
    struct identity identity;
    uint64_t incarnation; /* of this process */
    struct peers *peers;  /* NULL: a node alone */
    struct members *members;
    struct cluster_server *cluster_server; /* NULL: a node alone */
    uint64_t cluster_hash;                 /* of the nodes that are up and the disks */
    struct env_timer repair_due;           /* a missing disk has been waited for long enough */
    struct env_timer stop_due;             /* a stop has waited for clients long enough */
    struct memory_budget budget;
    struct map_cache *map_cache;
    struct disks *disks;
    struct volume_host host;
    struct volumes *volumes;
    struct attach *attach;
    uint64_t others_asked_ns; /* S18: when other nodes were last asked what they serve */
    struct adopt *adopt;
    struct scrub *scrub;
    struct nbd_server *nbd;
    struct admin_server *admin;
    struct list asks; /* of other nodes, under way (admin/forward.h) */
    uint64_t started_ns;
    bool stop_wanted;
    struct fiber_queue stop_queue;
};

/* Returns when it runs. Negative errno with *ret_error (mem_free): nothing is left then; -ECANCELED
 * (without an error) when its stop was asked for meanwhile. */
MAY_SUSPEND int node_start(
    const struct node_options *options, struct node **ret_node, char **ret_error);
const char *node_phase_name(enum node_phase phase);
/* 0, -ENOENT... of the methods cluster.init and cluster.join; both return when the node runs. */
MAY_SUSPEND int node_cluster_init(struct node *node, char **ret_error);
MAY_SUSPEND int node_cluster_join(struct node *node, char **ret_error);
/* node_wait_stop returns once somebody has asked for the stop. */
void node_want_stop(struct node *node);
MAY_SUSPEND void node_wait_stop(struct node *node);
/* Clean: clients end, volumes are closed. */
MAY_SUSPEND void node_stop(struct node *node);
