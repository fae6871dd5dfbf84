/* SPDX-License-Identifier: Apache-2.0
 *
 * Between rpc_client.c (the life of a client) and rpc_call.c (its calls).
 *
 * A call waits in `queued` until the server's window has room (C5), then has a slot until the server has
 * answered, also when its caller has given it up meanwhile: the server still holds it. The id on the wire is
 * the slot's number and a generation. States of a call:
 *
 *   QUEUED --> OPEN (in a slot) --> DONE
 *      |         |                   ^
 *      +---------+----> ENDED -------+  (done() from the loop, never from the submitter's stack)
 */
#pragma once

#include "common/rpc_conn.h"

enum rpc_call_state { RPC_CALL_QUEUED = 1, RPC_CALL_OPEN, RPC_CALL_ENDED, RPC_CALL_DONE };

#define RPC_SLOTS_MAX 65535u

struct rpc_slot {
    struct rpc_out out;    /* the request, then perhaps its cancel */
    struct list link;      /* in free_slots */
    struct rpc_call *call; /* NULL: free, or its caller has gone */
    uint64_t id;           /* low 16 bits: index */
    uint64_t charge_bytes; /* of the window */
    bool patient;
    bool used;
    bool begun;     /* the request's sending has begun: the server may know of it */
    bool receiving; /* the payload of the reply is coming */
    bool answered;  /* but the request's memory is still in a send */
    bool given_up;  /* call->result says why; ends when no memory is in use */
};

struct rpc_client {
    struct rpc_options options;
    char *address;
    char peer_name[RPC_NODE_NAME_BYTES_MAX];
    struct uuid peer_node;
    struct rpc_client_events events;

    /* rpc_client.c */
    struct rpc_conn conn;
    bool have_stream; /* conn is initialised */
    bool connected;
    bool stopping, orphaned, main_runs;
    struct fiber_queue wake, gone;
    struct rpc_hello peer;
    uint64_t loud_from_ns; /* a peer that cannot be connected to before that is not logged */
    char problem[RPC_REASON_BYTES + 256], logged[RPC_REASON_BYTES + 256];

    /* rpc_call.c */
    struct list queued[2], ended; /* rpc_call.link; queued: [1] the patient ones */
    struct env_timer ended_timer, deadline_timer;
    struct rpc_slot **slots;
    unsigned slot_count, slot_capacity;
    struct list free_slots;
    unsigned open_calls[2]; /* in all; patient ones of these */
    uint64_t open_bytes[2];
    uint64_t generation;
    struct rpc_slot *incoming;
};

extern const struct rpc_conn_ops rpc_client_conn_ops;

void rpc_calls_init(struct rpc_client *client);
/* No call is left. */
void rpc_calls_fini(struct rpc_client *client);
/* There is no connection (any more) and no memory in use by one: every call ends, done() and all. */
void rpc_calls_end(struct rpc_client *client);
