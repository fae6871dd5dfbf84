/* SPDX-License-Identifier: Apache-2.0
 *
 * The life of a connection, on its main fiber: handshake, waiting for predecessors (N3), taking
 * requests (receive.c), waiting for all that was started (N2), the end.
 */
#include "blockd/nbd/connection.h"

#include <errno.h>
#include <string.h>

#include "blockd/nbd/handshake.h"
#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"

/* While something has to be waited for, how often to look whether the client still stays. */
#define POLL_NS 1000000000ull

/* --- Ways to end -------------------------------------------------------------------------------
 */

void nbd_connection_break(struct nbd_connection *c)
{
    if (c->broken)
        return;
    c->broken = true;
    env_stream_shutdown(c->stream);
    nbd_held_drop(c);
    fiber_queue_wake_all(&c->quota.wake);
    fiber_queue_wake_all(&c->quiet);
}

void nbd_connection_settle(struct nbd_connection *c)
{
    fiber_queue_wake_all(&c->quiet);
    if (c->draining && c->in_flight == 0 && !c->sending)
        nbd_connection_break(c);
}

/* A volume may take its time, unless the server stops; a client that takes no replies, and requests
 * that are held for it, may not. */
static void drain_timer_fired(struct env_timer *timer)
{
    struct nbd_connection *c = container_of(timer, struct nbd_connection, drain_timer);
    uint64_t now_ns = env_now_ns(), timeout_ns = c->server->options.drain_timeout_ns;
    bool moves = now_ns < c->progress_ns + timeout_ns;
    bool works = c->volume_users > 0 && !c->server->stopping;
    if (moves || works)
        env_timer_arm(timer, moves ? c->progress_ns + timeout_ns : now_ns + timeout_ns);
    else
        nbd_connection_break(c);
}

void nbd_connection_drain(struct nbd_connection *c, const char *reason)
{
    if (c->broken)
        return;
    if (!c->draining) {
        c->draining = true;
        c->drain_reason = reason;
        c->progress_ns = env_now_ns();
        env_timer_arm(&c->drain_timer, c->progress_ns + c->server->options.drain_timeout_ns);
        fiber_queue_wake_all(&c->quota.wake);
    }
    nbd_connection_settle(c);
}

/* The protocol knows no resize; QEMU sees the new size when it connects anew. */
static void volume_resized(struct attachment *attachment, void *ctx)
{
    struct nbd_connection *c = ctx;
    if (!c->serving)
        return; /* serve() looks */
    c->server->stats.dropped_for_resize++;
    nbd_connection_drain(c, "the volume's size changed; the client sees it when it reconnects");
}

static void volume_removed(struct attachment *attachment, void *ctx)
{
    nbd_connection_drain(ctx, "the volume was deleted or renamed");
}

/* Nobody can open it anew while we hold it, however idle this connection is. */
static void volume_has_halted(struct attachment *attachment, void *ctx)
{
    struct nbd_connection *c = ctx;
    if (c->serving)
        nbd_reopen(c);
    else
        c->volume_gone = true; /* serve() looks */
}

const struct attachment_events nbd_attachment_events = {
    volume_resized, volume_removed, volume_has_halted};

/* --- Waiting -----------------------------------------------------------------------------------
 */

int nbd_connection_wait(struct nbd_connection *c)
{
    if (!c->draining && !c->broken) {
        if (!list_empty(&c->quota.link))
            nbd_server_pressure(c->server);
        fiber_queue_wait_until(&c->quota.wake, env_now_ns() + POLL_NS);
        if (!c->broken && env_stream_peer_state(c->stream) == ENV_PEER_GONE)
            nbd_connection_break(c);
    }
    return c->draining || c->broken ? -ECANCELED : 0;
}

int nbd_connection_take(struct nbd_connection *c, struct nbd_amount amount)
{
    int rc = 0;
    while (rc == 0 && !nbd_quota_take(&c->quota, amount))
        rc = nbd_connection_wait(c);
    if (rc < 0)
        nbd_quota_leave(&c->quota);
    return rc;
}

/* An older connection to the same volume whose client has left it, or is about to. */
static struct nbd_connection *find_predecessor(const struct nbd_connection *c)
{
    list_for_each (link, &c->server->connections) {
        struct nbd_connection *other = list_entry(link, struct nbd_connection, link);
        if (other->number >= c->number)
            return NULL;
        if (other->serving && other->volume_id == c->volume_id &&
            (other->draining || other->broken ||
                env_stream_peer_state(other->stream) != ENV_PEER_OPEN))
            return other;
    }
    return NULL;
}

/* N3. A client that is gone takes nothing of its old connection along; one that only finished
 * sending is given the time to take its replies. */
MAY_SUSPEND static void wait_for_predecessors(struct nbd_connection *c)
{
    uint64_t patience_ns = env_now_ns() + c->server->options.drain_timeout_ns;
    struct nbd_connection *other;
    while (!c->broken && (other = find_predecessor(c))) {
        if (other->broken) {
            fiber_queue_wait_until(&c->server->gone, env_now_ns() + POLL_NS);
        } else if (env_stream_peer_state(other->stream) == ENV_PEER_GONE ||
                   env_now_ns() >= patience_ns) {
            nbd_connection_break(other);
        } else {
            fiber_queue_wait_until(&c->server->gone, env_now_ns() + POLL_NS / 10);
        }
        if (!c->broken && env_stream_peer_state(c->stream) == ENV_PEER_GONE)
            nbd_connection_break(c);
    }
}

/* --- Phases ------------------------------------------------------------------------------------
 */

MAY_SUSPEND static bool shake_hands(struct nbd_connection *c, struct nbd_negotiated *ret_negotiated)
{
    struct nbd_server *server = c->server;
    CLEANUP_FREE char *reason = NULL;
    server->stats.handshakes++;
    struct nbd_handshake_options options = {.attach = server->attach,
        .events = &nbd_attachment_events,
        .ctx = c,
        .gone = &c->broken,
        .timeout_ns = server->options.handshake_timeout_ns};
    int rc = nbd_handshake(c->stream, &options, ret_negotiated, &reason);
    server->stats.handshakes--;
    if (rc == 0)
        return true;
    server->stats.handshakes_failed += rc == -EPROTO;
    server->stats.handshakes_timed_out += rc == -ETIMEDOUT;
    if (rc != -ECONNRESET)
        log_info_limited("nbd: %s: handshake failed: %s", env_stream_peer(c->stream), reason);
    return false;
}

MAY_SUSPEND static void serve(struct nbd_connection *c, const struct nbd_negotiated *negotiated)
{
    c->terms = negotiated->terms;
    c->attachment = negotiated->attachment;
    c->volume_id = attach_volume_id(c->attachment);
    strncpy(c->name, attach_volume_name(c->attachment), sizeof(c->name) - 1);
    c->serving = true;
    if (attach_size_bytes(c->attachment) != c->terms.size_bytes) /* grown during the handshake */
        volume_resized(c->attachment, c);
    if (c->volume_gone) /* likewise */
        nbd_reopen(c);
    log_debug("nbd: %s: uses volume %s", env_stream_peer(c->stream), c->name);

    wait_for_predecessors(c);
    nbd_receive(c);

    CHECK(c->draining || c->broken);
    nbd_discard(c);
    while (c->in_flight > 0 || c->sending || c->reopening) { /* N2 */
        fiber_queue_wait_until(&c->quiet, env_now_ns() + POLL_NS);
        if (!c->broken && env_stream_peer_state(c->stream) == ENV_PEER_GONE)
            nbd_connection_break(c);
    }
    if (c->drain_reason)
        log_info_limited("nbd: %s: connection to volume %s ended: %s", env_stream_peer(c->stream),
            c->name, c->drain_reason);
    if (c->attachment)
        attach_put(c->attachment);
}

MAY_SUSPEND static void connection_main(void *arg)
{
    struct nbd_connection *c = arg;
    struct nbd_server *server = c->server;
    struct nbd_negotiated negotiated;
    if (shake_hands(c, &negotiated))
        serve(c, &negotiated);
    env_timer_cancel(&c->drain_timer);
    nbd_quota_leave(&c->quota);
    CHECK(c->quota.used.requests == 0 && c->quota.used.bytes == 0);
    env_stream_close(c->stream);
    list_remove(&c->link);
    server->stats.connections--;
    fiber_queue_wake_all(&server->gone);
    mem_free(c);
}

void nbd_connection_start(struct nbd_server *server, struct env_stream *stream)
{
    struct nbd_connection *c = NEW(struct nbd_connection);
    c->server = server;
    c->stream = stream;
    c->number = ++server->connection_number;
    c->session = env_random_u64() | 1; /* 0 means none */
    env_timer_init(&c->drain_timer, drain_timer_fired);
    list_init(&c->taken);
    list_init(&c->held);
    list_init(&c->replies);
    fiber_queue_init(&c->quiet);
    nbd_quota_user_init(&c->quota, &server->quota, NBD_RESERVE,
        (struct nbd_amount){
            server->options.connection_requests_max, server->options.connection_buffer_bytes_max});
    list_push_back(&server->connections, &c->link);
    server->stats.connections++;
    fiber_spawn("nbd-connection", connection_main, c);
}
