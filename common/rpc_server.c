/* SPDX-License-Identifier: Apache-2.0
 *
 * A server: listening, and the life of each session on its main fiber: hello, the end of the same
 * node's earlier sessions (C3), requests, the end.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/rpc_server_impl.h"

#define STRANGERS_MAX 256u
#define POOL_BYTES (32ull << 20)
/* While a client waits for the end of its earlier session it hears from us that often. */
#define WAIT_PING_NS 100000000ull
#define PING_SEND_NS 1000000000ull
#define ACCEPT_RETRY_NS 100000000ull

/* --- Hello -------------------------------------------------------------------------------------- */

static struct rpc_hello own_hello(const struct rpc_server *server)
{
    return (struct rpc_hello){.version_min = RPC_VERSION_MIN,
        .version_max = RPC_VERSION,
        .features = RPC_FEATURES,
        .self = server->options.self,
        .silence_ms = (uint32_t)MAX(server->options.silence_ns / 1000000, 1ull),
        .window_bytes = server->options.window_bytes,
        .window_calls = server->options.window_calls};
}

/* NULL, or why we do not serve it. */
static char *find_fault(const struct rpc_hello *own, const struct rpc_hello *peer)
{
    char theirs[UUID_TEXT_BYTES], ours[UUID_TEXT_BYTES];
    if (rpc_hello_agree(own, peer) == 0)
        return mem_printf("node %s speaks versions %u to %u of the protocol and node %s %u to %u: "
                          "upgrade the older one",
            own->self.node_name, own->version_min, own->version_max, peer->self.node_name,
            peer->version_min, peer->version_max);
    if (!uuid_equal(&peer->self.cluster, &own->self.cluster))
        return mem_printf("node %s belongs to cluster %s, node %s to %s", own->self.node_name,
            uuid_format(&own->self.cluster, ours), peer->self.node_name,
            uuid_format(&peer->self.cluster, theirs));
    if (peer->wanted_name[0] && strcmp(peer->wanted_name, own->self.node_name) != 0)
        return mem_printf("this is node %s and not %s: check the address of %s",
            own->self.node_name, peer->wanted_name, peer->wanted_name);
    if (!uuid_is_nil(&peer->wanted_node) && !uuid_equal(&peer->wanted_node, &own->self.node))
        return mem_printf("this is node %s with UUID %s, not the one with %s", own->self.node_name,
            uuid_format(&own->self.node, ours), uuid_format(&peer->wanted_node, theirs));
    return NULL;
}

MAY_SUSPEND static bool hear_hello(struct rpc_session *session)
{
    struct rpc_server *server = session->server;
    struct rpc_conn *conn = &session->conn;
    struct rpc_hello own = own_hello(server);
    int rc = rpc_conn_recv_hello(conn, server->options.connect_wait_ns, false, &session->peer);
    if (rc < 0) {
        log_warn_limited("rpc: %s was not let in: %s", rpc_stream_peer(conn->stream), conn->reason);
        if (rc == -EPROTO)
            rpc_conn_refuse(conn, rc, conn->reason);
        return false;
    }
    CLEANUP_FREE char *fault = find_fault(&own, &session->peer);
    if (!fault)
        return true;
    log_warn_limited("rpc: node %s (%s) was not let in: %s", session->peer.self.node_name,
        rpc_stream_peer(conn->stream), fault);
    rpc_conn_refuse(conn, -EPERM, fault);
    return false;
}

/* The node's nearest session before this one. */
static struct rpc_session *earlier(struct rpc_session *session)
{
    for (struct list *link = session->link.prev; link != &session->server->sessions;
         link = link->prev) {
        struct rpc_session *other = list_entry(link, struct rpc_session, link);
        if (other->identified && uuid_equal(&other->peer.self.node, &session->peer.self.node))
            return other;
    }
    return NULL;
}

/* C3. The newest of several is the one that stays. */
MAY_SUSPEND static void end_earlier(struct rpc_session *session)
{
    struct rpc_server *server = session->server;
    struct rpc_conn *conn = &session->conn;
    struct rpc_session *other;
    while (!conn->broken && (other = earlier(session))) {
        rpc_conn_break(&other->conn, "the node connected again");
        uint64_t now_ns = env_now_ns();
        if (fiber_queue_wait_until(&server->gone, now_ns + WAIT_PING_NS) == -ETIMEDOUT &&
            rpc_conn_send_ping(conn, now_ns + PING_SEND_NS) < 0)
            rpc_conn_break(conn, "it left while its earlier requests ended");
    }
}

MAY_SUSPEND static bool begin(struct rpc_session *session)
{
    struct rpc_server *server = session->server;
    struct rpc_conn *conn = &session->conn;
    struct rpc_hello own = own_hello(server);
    if (conn->broken || server->stopping)
        return false;
    int rc = server->events.session_began ? server->events.session_began(server->ctx, session) : 0;
    if (rc < 0) {
        CLEANUP_FREE char *text = mem_printf("node %s takes no session of node %s now: %s",
            own.self.node_name, session->peer.self.node_name, strerror(-rc));
        log_warn_limited("rpc: %s", text);
        rpc_conn_refuse(conn, rc, text);
        return false;
    }
    rc = rpc_conn_send_hello(conn, &own, env_now_ns() + server->options.connect_wait_ns);
    if (rc < 0)
        rpc_conn_break(conn, "%s", "");
    return true;
}

/* --- Sessions ----------------------------------------------------------------------------------- */

MAY_SUSPEND static void serve(struct rpc_session *session)
{
    struct rpc_server *server = session->server;
    struct rpc_conn *conn = &session->conn;
    struct rpc_hello own = own_hello(server);
    const char *name = session->peer.self.node_name;
    if (!conn->broken) {
        log_info_limited("rpc: node %s connected from %s", name, rpc_stream_peer(conn->stream));
        rpc_conn_start(conn, rpc_hello_agree(&own, &session->peer), server->options.silence_ns,
            session->peer.silence_ms * 1000000ull);
        if (server->stopping)
            rpc_conn_end(conn, -ESHUTDOWN, "node %s is shutting down", own.self.node_name);
        rpc_conn_receive(conn);
    }
    rpc_session_cancel(session);
    log_info_limited("rpc: the connection of node %s from %s ended: %s", name,
        rpc_stream_peer(conn->stream), conn->reason);
    rpc_conn_finish(conn);
    rpc_session_drain(session);
    if (server->events.session_ended)
        server->events.session_ended(server->ctx, session);
}

static void session_main(void *arg)
{
    struct rpc_session *session = arg;
    struct rpc_server *server = session->server;
    bool known = hear_hello(session);
    server->strangers--;
    if (known) {
        session->identified = true;
        end_earlier(session);
    }
    if (known && begin(session))
        serve(session);
    else
        rpc_conn_finish(&session->conn);
    list_remove(&session->link);
    fiber_queue_wake_all(&server->gone);
    mem_free(session);
}

static void session_new(struct rpc_server *server, struct rpc_stream *stream)
{
    struct rpc_session *session = NEW(struct rpc_session);
    session->server = server;
    rpc_conn_init(&session->conn, &rpc_session_conn_ops, stream);
    list_init(&session->open);
    fiber_queue_init(&session->quiet);
    list_push_back(&server->sessions, &session->link);
    server->strangers++;
    fiber_spawn("rpc-session", session_main, session);
}

static void accept_main(void *arg)
{
    struct rpc_server *server = arg;
    struct rpc_stream *stream;
    while (!server->stopping) { /* else the listener has gone */
        int rc = rpc_stream_accept(server->listener, &stream);
        if (rc == -ECANCELED)
            break;
        if (rc < 0) { /* no descriptors left, most likely */
            log_error_limited("rpc: cannot accept on %s: %s", server->address, strerror(-rc));
            env_sleep_ns(ACCEPT_RETRY_NS);
        } else if (server->strangers >= STRANGERS_MAX) {
            log_warn_limited("rpc: %s was not let in: %u others have not said who they are yet",
                rpc_stream_peer(stream), server->strangers);
            rpc_stream_close(stream);
        } else {
            session_new(server, stream);
        }
    }
    server->accept_runs = false;
    fiber_queue_wake_all(&server->gone);
}

/* --- The server --------------------------------------------------------------------------------- */

static void set_defaults(struct rpc_options *options)
{
    if (options->silence_ns == 0)
        options->silence_ns = 2000000000ull;
    if (options->connect_wait_ns == 0)
        options->connect_wait_ns = 1000000000ull;
    if (options->window_bytes == 0)
        options->window_bytes = 64ull << 20;
    if (options->window_calls == 0)
        options->window_calls = 1024;
}

int rpc_server_start(const struct rpc_options *options, const char *address,
    const struct rpc_method *methods, unsigned method_count, const struct rpc_server_events *events,
    void *ctx, struct rpc_server **ret_server, char **ret_error)
{
    struct rpc_listener *listener;
    int rc = rpc_stream_listen(address, &listener);
    if (rc < 0) {
        *ret_error = mem_printf("cannot listen for other nodes at %s: %s", address, strerror(-rc));
        return rc;
    }
    struct rpc_server *server = NEW(struct rpc_server);
    server->options = *options;
    set_defaults(&server->options);
    server->methods = methods;
    server->method_count = method_count;
    if (events)
        server->events = *events;
    server->ctx = ctx;
    server->listener = listener;
    server->address = mem_strdup(rpc_stream_listener_address(listener));
    list_init(&server->sessions);
    list_init(&server->free_tasks);
    list_init(&server->left);
    fiber_queue_init(&server->gone);
    server->pool = bufpool_new(POOL_BYTES);
    server->accept_runs = true;
    fiber_spawn("rpc-accept", accept_main, server);
    *ret_server = server;
    return 0;
}

void rpc_server_stop(struct rpc_server *server)
{
    if (!server)
        return;
    server->stopping = true;
    if (server->accept_runs)
        rpc_stream_listener_close(server->listener);
    list_for_each (link, &server->sessions) {
        struct rpc_session *session = list_entry(link, struct rpc_session, link);
        if (session->conn.started)
            rpc_conn_end(&session->conn, -ESHUTDOWN, "node %s is shutting down",
                server->options.self.node_name);
        else if (session->conn.stream)
            rpc_conn_break(&session->conn, "the server is shutting down");
    }
    while (server->accept_runs || !list_empty(&server->sessions) || !list_empty(&server->left))
        fiber_queue_wait(&server->gone);
    rpc_server_free_tasks(server);
    bufpool_free(server->pool);
    mem_free(server->address);
    mem_free(server);
}

const char *rpc_server_address(const struct rpc_server *server)
{
    return server->address;
}
