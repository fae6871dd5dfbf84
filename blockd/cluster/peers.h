/* SPDX-License-Identifier: Apache-2.0
 *
 * The other nodes as this one reaches them: one rpc_client a node, made when its address is first
 * known.
 *
 *  P1 A struct peer stays where it is until peers_free, also when its node is removed: remote disks
 *     point to it. A node that comes back under its name gets the same one.
 *  P2 done() of a call never comes from inside the submit, also without an address.
 */
#pragma once

#include "blockd/cluster/records.h"
#include "common/rpc.h"

struct peer {
    struct list link; /* peers' */
    char name[64];
    struct rpc_client *client; /* NULL as long as no address is known */
    struct uuid node;          /* whom it dials */
    struct peers *peers;
    uint64_t disk_status_ns; /* when the disks' status last came; 0 = never */
};

struct peers_options {
    struct rpc_options rpc;
    /* A connection came or went. From a fiber; must not suspend. */
    void (*changed)(void *ctx, struct peer *peer);
    void *ctx;
};

struct peers *peers_new(const struct peers_options *options);
MAY_SUSPEND void peers_free(struct peers *peers);
/* The node's record: makes its peer, or changes its address; one with another UUID is another node
 * under the same name, and is dialled anew. Not for this node's own record. */
void peers_set(struct peers *peers, const struct node_record *record);
/* The node was removed from the cluster. */
MAY_SUSPEND void peers_remove(struct peers *peers, const char *name);
/* NULL: no such node is known. */
struct peer *peers_find(struct peers *peers, const char *name);
struct list *peers_all(struct peers *peers);
/* Also for a NULL client, and for a NULL peer: -EHOSTUNREACH by done(). */
void peer_submit(struct peer *peer, struct rpc_call *call);
MAY_SUSPEND int peer_call(struct peer *peer, struct rpc_call *call);
/* The same, cancelled (-ECANCELED) soon after *given_up has become true; NULL: never. */
MAY_SUSPEND int peer_call_unless(struct peer *peer, struct rpc_call *call, const bool *given_up);
bool peer_connected(const struct peer *peer);
