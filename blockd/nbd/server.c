/* SPDX-License-Identifier: Apache-2.0
 *
 * Listeners, limits, the end of it all.
 */
#include "blockd/nbd/server.h"

#include <errno.h>
#include <string.h>

#include "blockd/nbd/connection.h"
#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"

#define ACCEPT_RETRY_NS 100000000ull
#define CACHED_BYTES_MAX (64ull << 20)

static struct nbd_server_options with_defaults(const struct nbd_server_options *given)
{
    struct nbd_server_options o = *given;
    o.socket_mode = o.socket_mode ?: 0660;
    o.connections_max = o.connections_max ?: 512;
    o.handshakes_max = o.handshakes_max ?: 64;
    o.handshake_timeout_ns = o.handshake_timeout_ns ?: 10000000000ull;
    o.drain_timeout_ns = o.drain_timeout_ns ?: 10000000000ull;
    o.stall_timeout_ns = o.stall_timeout_ns ?: 5000000000ull;
    o.requests_max = o.requests_max ?: 1024;
    o.connection_requests_max = o.connection_requests_max ?: 256;
    o.buffer_bytes_max = MAX(o.buffer_bytes_max ?: 256ull << 20, NBD_BUFFER_BYTES_MIN);
    if (!o.connection_buffer_bytes_max) /* not all for one, unless that is the least */
        o.connection_buffer_bytes_max = MIN(MAX(o.buffer_bytes_max / 2, 40ull << 20), 64ull << 20);
    return o;
}

/* --- Accepting ---------------------------------------------------------------------------------
 */

/* The oldest connection that is still in the handshake makes room for one more. */
static void end_oldest_handshake(struct nbd_server *server)
{
    list_for_each (link, &server->connections) {
        struct nbd_connection *c = list_entry(link, struct nbd_connection, link);
        if (!c->serving && !c->broken) {
            nbd_connection_break(c);
            return;
        }
    }
}

MAY_SUSPEND static void accepted(struct nbd_server *server, struct env_stream *stream)
{
    server->stats.connections_accepted++;
    if (server->stats.handshakes >= server->options.handshakes_max)
        end_oldest_handshake(server);
    if (server->stats.connections < server->options.connections_max) {
        nbd_connection_start(server, stream);
        return;
    }
    /* Closing beats leaving it in the backlog: a client that gets no answer hangs. */
    server->stats.connections_refused++;
    log_warn_limited("nbd: %s refused: there are %u connections, the most that are allowed",
        env_stream_peer(stream), server->stats.connections);
    env_stream_close(stream);
}

struct acceptor {
    struct nbd_server *server;
    struct env_listener *listener;
};

MAY_SUSPEND static void accept_main(void *arg)
{
    struct acceptor acceptor = *(struct acceptor *)arg;
    struct nbd_server *server = acceptor.server;
    mem_free(arg);
    for (;;) {
        struct env_stream *stream;
        int rc = env_accept(acceptor.listener, &stream);
        if (rc == -ECANCELED)
            break;
        if (rc == 0 && server->stopping) {
            env_stream_close(stream);
        } else if (rc == 0) {
            accepted(server, stream);
        } else {
            log_error_limited("nbd: accept: %s", strerror(-rc));
            env_sleep_ns(ACCEPT_RETRY_NS);
            if (server->stopping)
                break; /* the listener is closed, nobody may touch it */
        }
    }
    server->accepting--;
    fiber_queue_wake_all(&server->gone);
}

static void start_accepting(struct nbd_server *server, struct env_listener *listener)
{
    struct acceptor *acceptor = NEW(struct acceptor);
    *acceptor = (struct acceptor){server, listener};
    server->accepting++;
    fiber_spawn("nbd-accept", accept_main, acceptor);
}

/* --- Memory pressure ---------------------------------------------------------------------------
 */

static bool hoards(const struct nbd_connection *c)
{
    return c->quota.used.bytes > c->quota.reserve.bytes ||
           c->quota.used.requests > c->quota.reserve.requests;
}

/* N8: who holds shared quota and neither takes replies nor sends the payload it announced. */
static void stall_timer_fired(struct env_timer *timer)
{
    struct nbd_server *server = container_of(timer, struct nbd_server, stall_timer);
    uint64_t now_ns = env_now_ns(), timeout_ns = server->options.stall_timeout_ns;
    if (list_empty(&server->quota.waiting))
        return;
    list_for_each (link, &server->connections) {
        struct nbd_connection *c = list_entry(link, struct nbd_connection, link);
        if (c->broken || !hoards(c) || !(c->sending || c->payload_pending) ||
            now_ns < c->progress_ns + timeout_ns)
            continue;
        server->stats.stalled++;
        log_warn_limited("nbd: %s: ended: it holds %lu bytes of buffers that others wait for, and "
                         "nothing has moved for %lu ms",
            env_stream_peer(c->stream), c->quota.used.bytes, timeout_ns / 1000000);
        nbd_connection_break(c);
    }
    env_timer_arm(timer, now_ns + timeout_ns / 4);
}

void nbd_server_pressure(struct nbd_server *server)
{
    if (!env_timer_armed(&server->stall_timer))
        env_timer_arm(&server->stall_timer, env_now_ns() + server->options.stall_timeout_ns / 4);
}

/* --- Start, stop -------------------------------------------------------------------------------
 */

static void close_listeners(struct nbd_server *server)
{
    for (unsigned i = 0; i < server->listener_count; i++)
        env_listener_close(server->listeners[i]);
}

static void server_free(struct nbd_server *server)
{
    struct list *link;
    while ((link = list_pop_front(&server->requests_free)))
        mem_free(list_entry(link, struct nbd_request, link));
    nbd_pool_fini(&server->pool);
    for (unsigned i = 0; i < server->listener_count; i++)
        mem_free(server->addresses[i]);
    mem_free(server->addresses);
    mem_free(server->listeners);
    mem_free(server);
}

MAY_SUSPEND static int listen_all(struct nbd_server *server, const char *const *addresses,
    unsigned address_count, char **ret_error)
{
    for (unsigned i = 0; i < address_count; i++) {
        int rc = env_listen(addresses[i], server->options.socket_mode, &server->listeners[i]);
        if (rc < 0) {
            *ret_error = mem_printf("NBD cannot listen on %s: %s%s", addresses[i], strerror(-rc),
                rc == -EADDRINUSE ? " (another daemon serves there; stop it or configure another)"
                                  : "");
            return rc;
        }
        server->addresses[i] = mem_strdup(env_listener_address(server->listeners[i]));
        server->listener_count++;
    }
    return 0;
}

int nbd_server_start(struct attach *attach, const char *const *addresses, unsigned address_count,
    const struct nbd_server_options *options, struct nbd_server **ret_server, char **ret_error)
{
    struct nbd_server *server = NEW(struct nbd_server);
    server->attach = attach;
    server->options = with_defaults(options);
    server->listeners = mem_zalloc(address_count + 1, sizeof(*server->listeners));
    server->addresses = mem_zalloc(address_count + 1, sizeof(*server->addresses));
    list_init(&server->connections);
    list_init(&server->requests_free);
    fiber_queue_init(&server->gone);
    env_timer_init(&server->stall_timer, stall_timer_fired);
    nbd_pool_init(&server->pool, CACHED_BYTES_MAX, server->options.buffer_bytes_max);
    nbd_quota_init(&server->quota,
        (struct nbd_amount){server->options.requests_max, server->options.buffer_bytes_max});

    int rc = listen_all(server, addresses, address_count, ret_error);
    if (rc < 0) {
        close_listeners(server);
        server_free(server);
        return rc;
    }
    for (unsigned i = 0; i < address_count; i++)
        start_accepting(server, server->listeners[i]);
    *ret_server = server;
    return 0;
}

void nbd_server_stop(struct nbd_server *server)
{
    server->stopping = true;
    close_listeners(server);
    list_for_each_safe (link, &server->connections) {
        struct nbd_connection *c = list_entry(link, struct nbd_connection, link);
        if (c->serving)
            nbd_connection_drain(c, "the server stops");
        else
            nbd_connection_break(c);
    }
    while (!list_empty(&server->connections) || server->accepting > 0)
        fiber_queue_wait(&server->gone);
    env_timer_cancel(&server->stall_timer);
    server_free(server);
}

/* --- Questions ---------------------------------------------------------------------------------
 */

void nbd_server_get_stats(const struct nbd_server *server, struct nbd_server_stats *ret_stats)
{
    *ret_stats = server->stats;
    ret_stats->buffer_bytes = server->pool.used_bytes;
    ret_stats->buffer_bytes_cached = server->pool.cached_bytes;
}

unsigned nbd_server_address_count(const struct nbd_server *server)
{
    return server->listener_count;
}

const char *nbd_server_address(const struct nbd_server *server, unsigned index)
{
    CHECK(index < server->listener_count);
    return server->addresses[index];
}
