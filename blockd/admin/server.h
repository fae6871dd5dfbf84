/* SPDX-License-Identifier: Apache-2.0
 *
 * The admin server: the protocol of common/admin_client.h on a unix socket, one fiber a connection.
 *
 * Invariants
 *  A1 Whatever a client sends or leaves unsent costs its own connection only: connections, the
 *     bytes buffered for all of them, and the time that half a request or an unread reply may take
 *     are bounded.
 *  A2 A line that is no request is answered (with what a request looks like), then the connection
 *     ends; a request with wrong parameters is answered and the connection goes on.
 *  A3 A method that has begun runs to its end, also when its client has gone.
 */
#pragma once

#include <jansson.h>

#include "blockd/admin/request.h"
#include "common/fiber.h"

struct admin_server;

/* What a method gets. Methods read their parameters first, all of them. */
struct admin_call {
    void *ctx;
    struct admin_params params;
    json_t *result; /* out; NULL = {} */
    char *error;    /* out, with a negative return: a sentence (mem_*) */
    bool forwarded; /* by another node: is executed here, whatever the volume's owner is (F1) */
    void *server;   /* the server's; NULL when forwarded */
};

struct admin_method {
    const char *name;
    MAY_SUSPEND int (*call)(struct admin_call *call);
};

/* A progress line to the client; `progress` is stolen. For methods that take long. */
MAY_SUSPEND void admin_call_progress(struct admin_call *call, json_t *progress);

/* 0 in any field means the default, which is named. */
struct admin_server_options {
    unsigned connections_max;  /* 128; one more makes the longest idle one go */
    uint64_t buffer_bytes_max; /* 8 MiB: of requests not yet whole, all connections */
    uint64_t request_wait_ns;  /* 30 s for the rest of a request that has begun */
    uint64_t reply_wait_ns;    /* 30 s for the client to take a reply */
    /* NULL, or asked before each method: a negative errno with *ret_error (mem_free) is the answer
     * then. May suspend. */
    int (*admit)(void *ctx, const char *method, char **ret_error);
};

/* Listens on `address` ("unix:/path", mode 0600) and dispatches to `methods` (static). 0, or
 * negative errno with *ret_error (mem_free) that names the address. */
MAY_SUSPEND int admin_server_start(const char *address, const struct admin_method *methods,
    unsigned method_count, void *ctx, const struct admin_server_options *options,
    struct admin_server **ret_server, char **ret_error);
/* Ends all connections; waits for methods under way (A3). */
MAY_SUSPEND void admin_server_stop(struct admin_server *server);
unsigned admin_server_connections(const struct admin_server *server);
