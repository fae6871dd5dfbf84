/* SPDX-License-Identifier: Apache-2.0
 *
 * Between rpc_server.c (listening, sessions) and rpc_session.c (the requests of a session).
 */
#pragma once

#include "common/bufpool.h"
#include "common/rpc_conn.h"

#define RPC_TASK_BODY_BYTES 512u
#define RPC_TASK_IOV 8u

/* A request and its reply: until rpc_reply() the handler's, then until it is sent the connection's. */
struct rpc_task {
    struct rpc_request request;
    struct list link; /* session->open; left behind: server->left; free: server->free_tasks */
    struct rpc_server *server;
    struct rpc_session *session;     /* NULL: left behind */
    const struct rpc_method *method; /* NULL: nobody handles it */
    uint64_t id;
    uint32_t reply_bytes_max;
    uint64_t charge_bytes; /* of the window, as long as `charged` */
    bool charged;
    bool payload_pooled;
    struct iovec payload_to;
    uint8_t *long_body; /* of RPC_BODY_BYTES_MAX; NULL: `body` will do */
    struct rpc_out out;
    struct iovec *iov; /* of the reply's payload; own_iov, or allocated */
    struct iovec own_iov[RPC_TASK_IOV];
    void (*sent)(void *arg);
    void *sent_arg;
    uint8_t body[RPC_TASK_BODY_BYTES];
};

struct rpc_session {
    struct rpc_conn conn;
    struct rpc_server *server;
    struct list link; /* server->sessions, in the order of their connections */
    struct rpc_hello peer;
    bool identified; /* `peer` has come and is good */
    void *user;
    struct list open;    /* rpc_task.link: with handlers */
    unsigned task_count; /* with handlers or being sent */
    struct fiber_queue quiet;
    unsigned open_calls; /* C5 */
    uint64_t open_bytes;
    struct rpc_task *incoming; /* its payload is coming */
};

struct rpc_server {
    struct rpc_options options;
    const struct rpc_method *methods;
    unsigned method_count;
    struct rpc_server_events events;
    void *ctx;
    struct rpc_listener *listener;
    char *address;
    bool stopping, accept_runs;
    struct list sessions;
    unsigned strangers;      /* sessions not yet identified */
    struct fiber_queue gone; /* a session has ended, or accepting */
    struct bufpool *pool;
    struct list free_tasks;
    unsigned free_task_count;
    struct list
        left; /* rpc_task.link: with handlers, their sessions are over; LEFT_BYTES_MAX at most */
    uint64_t left_bytes;
};

extern const struct rpc_conn_ops rpc_session_conn_ops;

/* The connection is over: what handlers still have is cancelled. */
void rpc_session_cancel(struct rpc_session *session);
/* Leaves behind what may be; returns when handlers have replied to the rest. */
MAY_SUSPEND void rpc_session_drain(struct rpc_session *session);
void rpc_server_free_tasks(struct rpc_server *server);
