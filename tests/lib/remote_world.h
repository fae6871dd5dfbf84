/* SPDX-License-Identifier: Apache-2.0
 *
 * Two simulated nodes: "s" has a disk behind the real shard service and RPC server, "c" uses it as a
 * remote disk. For tests of both.
 */
#pragma once

#include "blockd/cluster/peers.h"
#include "blockd/cluster/remote_disk.h"
#include "blockd/cluster/server.h"
#include "blockd/disks.h"
#include "common/env_sim.h"

#define REMOTE_WORLD_PATH "/dev/disk0"

struct remote_world {
    struct sim *sim;
    struct env *server_node, *client_node;
    struct sim_disk *medium;
    struct store_mem *store_mem;
    struct rpc_options client_options, server_options; /* node names and cluster are filled in */
    uint64_t timeout_ns;

    /* NULL: the shard service's. Else a server that says what the test wants. */
    const struct rpc_method *methods;
    unsigned method_count;

    /* Of the server's process. */
    struct cluster_server server;
    struct disks *disks;
    struct store *store;
    bool formatted;
    unsigned starts;

    /* Of the client's process. */
    struct peers *peers;
    struct peer *peer;
    struct disk_record record;
    struct disk *disk;
    unsigned peer_changes;
};

/* Simulation, nodes, medium. Options may be changed before the first start. */
void remote_world_init(struct remote_world *w, uint64_t seed, uint64_t disk_bytes, bool trace);
void remote_world_fini(struct remote_world *w);

/* Starts the server's process (again); it formats the disk the first time. */
void remote_world_start_server(struct remote_world *w);
/* Its process ends, as by kill -9; or its machine loses power. */
void remote_world_crash_server(struct remote_world *w);
void remote_world_cut_power(struct remote_world *w, enum sim_cut_mode mode);
/* On a fiber of the server: in order. */
MAY_SUSPEND void remote_world_stop_server(struct remote_world *w);

/* On a fiber of the client: peers, the disk; returns once connected. */
MAY_SUSPEND void remote_world_connect(struct remote_world *w);
MAY_SUSPEND void remote_world_disconnect(struct remote_world *w);
