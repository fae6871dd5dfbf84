/* SPDX-License-Identifier: Apache-2.0
 *
 * A disk of another simulated node behind struct disk_ops, without a wire: what a volume sees of
 * remote disks, and all that may go wrong on the way there. Operations of one link arrive in the
 * order in which they were sent; those of a client that has crashed, is paused or has given up
 * (timeout) still arrive, with the bytes they had when they were sent.
 */
#pragma once

#include "blockd/disk/shard.h"
#include "common/env_sim.h"

/* From one client node to all disks of one server node. In plain memory that outlives nodes. */
struct sim_link {
    struct env *client, *server;
    uint64_t generation; /* of the client: rises with each crash (sim_link_client_crashed) */
    uint64_t delay_ns;   /* each way */
    uint64_t timeout_ns; /* of an operation: -EHOSTUNREACH then, whatever becomes of it */
    bool cut;            /* nothing arrives any more, nor does an answer */
    struct list queue;   /* of calls on their way */
    struct fiber_queue arrivals;
    bool serving;
    struct list calls; /* all, for sim_link_fini */
};
void sim_link_init(struct sim_link *link, struct env *client, struct env *server);
void sim_link_fini(struct sim_link *link);
void sim_link_client_crashed(struct sim_link *link);
/* From a fiber of the server: serves for ever. */
void sim_link_serve(void *link);

struct sim_proxy {
    struct disk disk; /* first */
    struct sim_link *proxy_link;
    struct disk *target;
};
/* Takes number, size and class from the target. */
void sim_proxy_init(struct sim_proxy *proxy, struct sim_link *link, struct disk *target);
