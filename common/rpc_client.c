/* SPDX-License-Identifier: Apache-2.0
 *
 * The life of a client, on its main fiber: connect, hello, receive until the connection is over, end
 * what was in flight, wait a little, again.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/rpc_client_impl.h"

#define RETRY_NS_MIN 10000000ull
/* A connection that lived that long was a good one: the next attempt comes soon. */
#define GOOD_NS 1000000000ull
/* That long without a connection is worth a warning: a node that starts is announced a moment before
 * it listens. */
#define QUIET_NS 1000000000ull

static const struct uuid nil;

/* --- What is wrong ------------------------------------------------------------------------------ */

static const char *wanted_name(const struct rpc_client *client)
{
    return client->peer_name[0] ? client->peer_name : "a node";
}

/* Logged when it is another one than last time: attempts go on for ever. */
static void set_problem(struct rpc_client *client, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void set_problem(struct rpc_client *client, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(client->problem, sizeof(client->problem), format, args);
    va_end(args);
    if (client->stopping || strcmp(client->problem, client->logged) == 0)
        return;
    strcpy(client->logged, client->problem);
    log_warn_limited("rpc: %s", client->problem);
}

static void cannot_connect(struct rpc_client *client, const char *address, int error)
{
    static const char format[] = "cannot connect to %s at %s: %s";
    if (env_now_ns() < client->loud_from_ns)
        snprintf(client->problem, sizeof(client->problem), format, wanted_name(client), address,
            strerror(-error));
    else
        set_problem(client, format, wanted_name(client), address, strerror(-error));
}

/* NULL, or why we do not speak to who answered. */
static char *find_fault(const struct rpc_client *client, const struct rpc_hello *own)
{
    char theirs[UUID_TEXT_BYTES], ours[UUID_TEXT_BYTES];
    const struct rpc_hello *peer = &client->peer;
    if (rpc_hello_agree(own, peer) == 0)
        return mem_printf("node %s speaks versions %u to %u of the protocol and node %s %u to %u: "
                          "upgrade the older one",
            peer->self.node_name, peer->version_min, peer->version_max, own->self.node_name,
            own->version_min, own->version_max);
    if (!uuid_equal(&peer->self.cluster, &own->self.cluster))
        return mem_printf("node %s belongs to cluster %s, node %s to %s", peer->self.node_name,
            uuid_format(&peer->self.cluster, theirs), own->self.node_name,
            uuid_format(&own->self.cluster, ours));
    if (client->peer_name[0] && strcmp(peer->self.node_name, client->peer_name) != 0)
        return mem_printf("node %s answers where node %s is expected: check the address of %s",
            peer->self.node_name, client->peer_name, client->peer_name);
    if (!uuid_is_nil(&client->peer_node) && !uuid_equal(&peer->self.node, &client->peer_node))
        return mem_printf("node %s answers with UUID %s where %s is expected: another node of "
                          "that name",
            peer->self.node_name, uuid_format(&peer->self.node, theirs),
            uuid_format(&client->peer_node, ours));
    return NULL;
}

/* --- One connection ----------------------------------------------------------------------------- */

static struct rpc_hello own_hello(const struct rpc_client *client)
{
    struct rpc_hello hello = {.version_min = RPC_VERSION_MIN,
        .version_max = RPC_VERSION,
        .features = RPC_FEATURES,
        .self = client->options.self,
        .silence_ms = (uint32_t)MAX(client->options.silence_ns / 1000000, 1ull),
        .wanted_node = client->peer_node};
    strcpy(hello.wanted_name, client->peer_name);
    return hello;
}

/* Both hellos; false with client->problem. */
MAY_SUSPEND static bool shake_hands(struct rpc_client *client, uint64_t deadline_ns)
{
    struct rpc_conn *conn = &client->conn;
    struct rpc_hello own = own_hello(client);
    int rc = rpc_conn_send_hello(conn, &own, deadline_ns);
    snprintf(client->problem, sizeof(client->problem),
        "waits for the hello of %s at %s (requests of our earlier connection may have to end "
        "first)",
        wanted_name(client), client->address);
    if (rc == 0)
        rc = rpc_conn_recv_hello(conn, client->options.connect_wait_ns, true, &client->peer);
    if (rc < 0) {
        set_problem(client, "%s at %s%s: %s", wanted_name(client), client->address,
            rc == -ECONNREFUSED ? " refuses us" : "", conn->reason);
        return false;
    }
    CLEANUP_FREE char *fault = find_fault(client, &own);
    if (fault) {
        set_problem(client, "%s at %s: %s", wanted_name(client), client->address, fault);
        rpc_conn_refuse(conn, -EPERM, fault);
        return false;
    }
    return !client->stopping && !conn->broken;
}

MAY_SUSPEND static bool attempt(struct rpc_client *client)
{
    struct rpc_stream *stream;
    uint64_t deadline_ns = env_now_ns() + client->options.connect_wait_ns;
    CLEANUP_FREE char *address = mem_strdup(client->address); /* that may change meanwhile */
    int rc = rpc_stream_connect(address, deadline_ns, &stream);
    if (rc < 0) {
        cannot_connect(client, address, rc);
        return false;
    }
    rpc_conn_init(&client->conn, &rpc_client_conn_ops, stream);
    client->have_stream = true;
    if (!client->stopping && shake_hands(client, deadline_ns))
        return true;
    client->have_stream = false;
    rpc_conn_finish(&client->conn);
    return false;
}

MAY_SUSPEND static void serve(struct rpc_client *client)
{
    struct rpc_conn *conn = &client->conn;
    struct rpc_hello own = own_hello(client);
    rpc_conn_start(conn, rpc_hello_agree(&own, &client->peer), client->options.silence_ns,
        client->peer.silence_ms * 1000000ull);
    client->connected = true;
    client->problem[0] = client->logged[0] = 0;
    log_info_limited("rpc: connected to node %s at %s", client->peer.self.node_name,
        rpc_stream_peer(conn->stream));
    if (client->events.connected)
        client->events.connected(client->events.ctx, &client->peer.self);

    rpc_conn_receive(conn);

    client->connected = false;
    client->loud_from_ns = 0;
    rpc_conn_finish(conn);
    set_problem(client, "lost the connection to node %s at %s: %s", client->peer.self.node_name,
        client->address, conn->reason);
    rpc_calls_end(client);
    client->have_stream = false; /* not before: rpc_client_free() waits for the end of the calls */
    if (client->events.disconnected)
        client->events.disconnected(client->events.ctx);
}

/* --- The client --------------------------------------------------------------------------------- */

static void client_free(struct rpc_client *client)
{
    rpc_calls_fini(client);
    mem_free(client->address);
    mem_free(client);
}

static void client_main(void *arg)
{
    struct rpc_client *client = arg;
    uint64_t retry_ns = RETRY_NS_MIN;
    while (!client->stopping) {
        if (attempt(client)) {
            uint64_t since_ns = env_now_ns();
            serve(client);
            if (env_now_ns() - since_ns >= GOOD_NS)
                retry_ns = RETRY_NS_MIN;
        }
        if (client->stopping)
            break;
        uint64_t wait_ns = retry_ns / 2 + env_random_u64() % retry_ns;
        fiber_queue_wait_until(&client->wake, env_now_ns() + wait_ns);
        retry_ns = MIN(retry_ns * 2, client->options.retry_ns_max);
    }
    client->main_runs = false;
    fiber_queue_wake_all(&client->gone);
    if (client->orphaned)
        client_free(client);
}

static void set_defaults(struct rpc_options *options)
{
    if (options->silence_ns == 0)
        options->silence_ns = 2000000000ull;
    if (options->connect_wait_ns == 0)
        options->connect_wait_ns = 1000000000ull;
    if (options->retry_ns_max == 0)
        options->retry_ns_max = 1000000000ull;
}

struct rpc_client *rpc_client_new(const struct rpc_options *options, const char *address,
    const char *peer_name, const struct uuid *peer_node, const struct rpc_client_events *events)
{
    struct rpc_client *client = NEW(struct rpc_client);
    client->options = *options;
    set_defaults(&client->options);
    client->address = mem_strdup(address);
    snprintf(client->peer_name, sizeof(client->peer_name), "%s", peer_name ? peer_name : "");
    client->peer_node = peer_node ? *peer_node : nil;
    if (events)
        client->events = *events;
    snprintf(client->problem, sizeof(client->problem), "not yet connected to %s at %s",
        wanted_name(client), address);
    fiber_queue_init(&client->wake);
    fiber_queue_init(&client->gone);
    rpc_calls_init(client);
    client->main_runs = true;
    client->loud_from_ns = env_now_ns() + QUIET_NS;
    fiber_spawn("rpc-client", client_main, client);
    return client;
}

void rpc_client_free(struct rpc_client *client)
{
    if (!client)
        return;
    client->stopping = true;
    fiber_queue_wake_all(&client->wake);
    if (client->have_stream) {
        rpc_conn_break(&client->conn, "the client is closed");
        while (client->main_runs)
            fiber_queue_wait(&client->gone);
    }
    while (!list_empty(&client->ended))
        rpc_calls_end(client);
    /* It may be connecting, and what that is told by the peer's silence is not worth waiting for. */
    client->orphaned = true;
    client->events = (struct rpc_client_events){0};
    if (!client->main_runs)
        client_free(client);
}

void rpc_client_set_address(struct rpc_client *client, const char *address)
{
    if (strcmp(client->address, address) == 0)
        return;
    char *old = client->address;
    client->address = mem_strdup(address);
    mem_free(old);
    fiber_queue_wake_all(&client->wake);
}

bool rpc_client_connected(const struct rpc_client *client)
{
    return client->connected && rpc_conn_open(&client->conn);
}

const struct rpc_identity *rpc_client_peer(const struct rpc_client *client)
{
    return client->connected ? &client->peer.self : NULL;
}

const char *rpc_client_problem(const struct rpc_client *client)
{
    return client->problem;
}
