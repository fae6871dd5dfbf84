/* SPDX-License-Identifier: Apache-2.0
 *
 * Requests and replies between daemons, many at once over one stream (docs/PROTOCOL.md has the
 * bytes). Above it nothing knows of framing; below it is a stream of env (the seam where TLS goes).
 *
 * A connection carries requests one way: from the client, who dialled, to the server. Two nodes
 * that need each other have two. Each begins with a hello in both directions (struct rpc_identity),
 * checked before anything else.
 *
 * Invariants
 *  C1 Every call is answered exactly once: done() comes with the server's status, or with
 *     -EHOSTUNREACH (there was no connection, or it broke) or -ETIMEDOUT (its deadline). After
 *     those two the server may have executed it, or may be about to.
 *  C2 The server's handlers are called in the order of the client's submissions.
 *  C3 A server accepts a new connection of a node only after every request of that node's earlier
 *     connection has ended (S19: a resent request must not be overtaken by its own past), but for
 *     those of which the handler said that they may be left behind: they are cancelled before
 *     anything of the new connection is handled, and their replies go nowhere.
 *  C4 Nothing that fails a CRC or a bound reaches a handler or a caller: the connection breaks.
 *  C5 What a peer can make us hold in memory is bounded by the window told in the hello; a client
 *     queues beyond it, a server breaks the connection of one that does not.
 *  C6 A peer that is silent for rpc_options.silence_ns, though pinged, is gone.
 *  C7 Patient calls, whose handlers may have to wait for calls in the other direction (volume I/O
 *     waits for shards), have at most half of the window and a queue of their own: two nodes that are
 *     full of each other's volume I/O still get at each other's disks. C2 holds within each kind.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common/fiber.h"
#include "common/list.h"
#include "common/uuid.h"

#define RPC_VERSION 1
#define RPC_BODY_BYTES_MAX (16u << 10)             /* small, structured part of a message */
#define RPC_PAYLOAD_BYTES_MAX ((32u << 20) + 4096) /* bulk part */
#define RPC_NODE_NAME_BYTES_MAX 64

struct rpc_identity {
    struct uuid cluster, node;
    char node_name[RPC_NODE_NAME_BYTES_MAX];
    uint64_t incarnation; /* of the process: random, new with each start (its store session) */
    uint8_t boot_id[16];
};

struct rpc_options {
    struct rpc_identity self;
    uint64_t silence_ns;      /* C6; 0 = 2 s. Pings go out after a quarter of it */
    uint64_t connect_wait_ns; /* of one attempt to connect and say hello; 0 = 1 s */
    uint64_t retry_ns_max;    /* between attempts, from 10 ms doubling; 0 = 1 s */
    uint64_t window_bytes;    /* a client of ours may have unanswered: payload, and room for the
                                 replies' payload; one call alone may have any; 0 = 64 MiB */
    uint32_t window_calls;    /* unanswered calls of theirs; 0 = 1024 */
};

/* --- Client ------------------------------------------------------------------------------------ */

struct rpc_client;

struct rpc_client_events {
    /* From the fiber of the client that receives: must not suspend. `peer` is lent for the call. */
    void (*connected)(void *ctx, const struct rpc_identity *peer);
    void (*disconnected)(void *ctx);
    void *ctx;
};

/* Keeps a connection to `address` ("tcp:HOST:PORT") for as long as it lives; a connection breaks
 * only what is in flight. `peer_name` (and `peer_node`, nil = any) is who must answer there: another one is
 * logged and not spoken to. Copies what it is given; events may be NULL. */
struct rpc_client *rpc_client_new(const struct rpc_options *options, const char *address,
    const char *peer_name, const struct uuid *peer_node, const struct rpc_client_events *events);
/* Everything in flight ends with -EHOSTUNREACH before it returns. */
MAY_SUSPEND void rpc_client_free(struct rpc_client *client); /* NULL is allowed */
/* The peer's address has changed: takes effect with the next attempt; a live connection stays. */
void rpc_client_set_address(struct rpc_client *client, const char *address);
bool rpc_client_connected(const struct rpc_client *client);
/* NULL while not connected. */
const struct rpc_identity *rpc_client_peer(const struct rpc_client *client);
/* The last attempt's outcome as a sentence, "" when connected. */
const char *rpc_client_problem(const struct rpc_client *client);

/* Embedded by the caller, who owns it and all memory it names until done(). */
struct rpc_call {
    uint16_t method;
    const void *body;
    uint32_t body_len_bytes;     /* <= RPC_BODY_BYTES_MAX */
    const struct iovec *payload; /* sent as it is, without a copy; must not change until done() */
    unsigned payload_count;      /* <= 1024 */
    bool payload_crc_known;      /* the caller has it: the payload is not read for it */
    uint32_t payload_crc;        /* CRC32C of the whole payload */
    uint64_t deadline_ns;        /* env_now_ns(); 0 = none but the connection's life */
    bool patient; /* may take long at the server, waiting for other calls perhaps: see C7 */

    void *reply_body;                  /* may be NULL */
    uint32_t reply_body_max;           /* a longer one breaks the connection */
    const struct iovec *reply_payload; /* where a reply's payload goes */
    unsigned reply_payload_count;

    void (*done)(struct rpc_call *call); /* from the client's fibers or the env's loop, not the
                                            submitter's stack; must not suspend */
    int result;                          /* 0 or negative errno: the handler's status, or C1 */
    uint32_t ret_body_len_bytes;
    uint64_t ret_payload_bytes;
    /* During done(): the CRC of each 4096 bytes of the reply's payload, as it came. NULL: not known, or not of whole
     * blocks. */
    const uint32_t *ret_block_crcs;

    struct list link; /* the client's from here */
    uint64_t id;
    unsigned state;
    void *impl;
};

/* Without a connection: done() with -EHOSTUNREACH, soon. */
void rpc_call_submit(struct rpc_client *client, struct rpc_call *call);
/* The client lets go of it: done() with -ECANCELED as soon as no memory of it is in use; the server
 * is told, and may have executed it. (Memory of a call whose deadline passes, or that is cancelled, in
 * the middle of a send to a peer that takes nothing is in use until that connection has ended, C6.) */
void rpc_call_cancel(struct rpc_client *client, struct rpc_call *call);
/* Fiber form; call->done is overwritten. Returns call->result. */
MAY_SUSPEND int rpc_call(struct rpc_client *client, struct rpc_call *call);

/* --- Server ------------------------------------------------------------------------------------ */

struct rpc_server;
struct rpc_session; /* one connection of a client */

/* A request lives from its handler's call to its rpc_reply. */
struct rpc_request {
    uint16_t method;
    const uint8_t *body;
    uint32_t body_len_bytes;
    void *payload; /* one buffer, aligned to 4096, the request's; NULL when empty */
    uint32_t payload_bytes;
    /* During handle(): the CRC of each 4096 bytes of the payload, as it came; NULL when it is not of whole blocks. */
    const uint32_t *block_crcs;
    uint64_t deadline_ns; /* in our env_now_ns(); UINT64_MAX = none */
    bool cancelled; /* the client does not wait any more, or has gone: the reply goes nowhere */
    /* Set by the handler: the session's end does not wait for it (C3). `session` is NULL afterwards. */
    bool may_be_left;
    struct rpc_session *session;
    void *user; /* the handler's */
    /* The handler's: it has the CRC32C of the reply's payload, which is not read for it. */
    bool reply_crc_known;
    uint32_t reply_crc;
    void *impl;
};

struct rpc_method {
    uint16_t number;
    const char *name;
    /* On the connection's receiving fiber, in order (C2); must not suspend: spawns a fiber for what does. */
    void (*handle)(void *ctx, struct rpc_request *request);
    uint32_t body_bytes_min;    /* shorter ones break the connection */
    uint32_t payload_bytes_max; /* larger ones break the connection */
};

struct rpc_server_events {
    /* A client said a good hello: 0, or negative errno to refuse it. session_ended: all its requests
     * have ended. */
    int (*session_began)(void *ctx, struct rpc_session *session);
    void (*session_ended)(void *ctx, struct rpc_session *session);
};

/* `methods` stay the caller's and must not change. A method nobody handles is answered -ENOSYS. */
MAY_SUSPEND int rpc_server_start(const struct rpc_options *options, const char *address,
    const struct rpc_method *methods, unsigned method_count, const struct rpc_server_events *events,
    void *ctx, struct rpc_server **ret_server, char **ret_error);
/* Ends connections, waits for their requests, also for those that were left behind. */
MAY_SUSPEND void rpc_server_stop(struct rpc_server *server);
const char *rpc_server_address(const struct rpc_server *server);

const struct rpc_identity *rpc_session_peer(const struct rpc_session *session);
void *rpc_session_user(const struct rpc_session *session);
void rpc_session_set_user(struct rpc_session *session, void *user);

/* Ends the request, which is gone afterwards, its payload too. Body is copied (<=
 * RPC_BODY_BYTES_MAX); the payload is not (its array is): `sent(arg)` is called once it is no longer
 * needed (at once without payload, also when the client has gone). status 0 or negative errno (of
 * those docs/PROTOCOL.md lists; others become -EIO). More payload than the caller has room for
 * becomes -EMSGSIZE. From anywhere on the thread; does not suspend. */
void rpc_reply(struct rpc_request *request, int status, const void *body, uint32_t body_len_bytes,
    const struct iovec *payload, unsigned payload_count, void (*sent)(void *arg), void *arg);
