/* SPDX-License-Identifier: Apache-2.0
 *
 * The env calls on listeners and streams of the simulation. A sender may be SIM_WINDOW_BYTES ahead
 * of what the peer's program has read; then it waits. Receives are often shorter than what is
 * there, as on a real wire.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/env_sim_net.h"

#define CONNECT_MAX_NS 127000000000ull

/* --- Addresses ---------------------------------------------------------- */

static bool is_unix(const char *address)
{
    return strncmp(address, "unix:", 5) == 0;
}

/* The end of "tcp:HOST", i.e. the last colon; NULL when the address is not one of tcp. */
static const char *host_end(const char *address)
{
    const char *colon = strrchr(address, ':');
    return strncmp(address, "tcp:", 4) == 0 && colon > address + 3 ? colon : NULL;
}

static bool host_is(const char *address, const char *host)
{
    const char *end = host_end(address);
    size_t len = strlen(host);
    return end && (size_t)(end - address - 4) == len && strncmp(address + 4, host, len) == 0;
}

static bool is_loopback(const char *address)
{
    return strncmp(address, "tcp:127.", 8) == 0 || host_is(address, "[::1]");
}

static bool is_wildcard(const char *address)
{
    return host_is(address, "0.0.0.0") || host_is(address, "[::]");
}

/* Does one who listens at `own` on `machine` answer to `address`, called from machine `from`? */
static bool answers_to(const char *own, const struct sim_machine *machine,
    const struct sim_machine *from, const char *address)
{
    bool local_only = is_unix(own) || is_loopback(own);
    if (local_only && machine != from)
        return false;
    if (strcmp(own, address) == 0)
        return true;
    if (!is_wildcard(own) || !host_end(address) || strcmp(host_end(own), host_end(address)) != 0)
        return false;
    return host_is(address, machine->address) || (is_loopback(address) && machine == from);
}

struct sim_listener *sim_net_listener(
    struct sim_machine *machine, const struct sim_machine *from, const char *address)
{
    list_for_each (it, &machine->nodes) {
        struct sim_node *node = list_entry(it, struct sim_node, machine_link);
        list_for_each (jt, &node->listeners) {
            struct sim_listener *listener = list_entry(jt, struct sim_listener, link);
            if (answers_to(listener->address, machine, from, address))
                return listener;
        }
    }
    return NULL;
}

struct sim_machine *sim_net_resolve(struct sim_node *node, const char *address)
{
    if (is_unix(address) || is_loopback(address))
        return node->machine;
    list_for_each (it, &node->sim->machines) {
        struct sim_machine *machine = list_entry(it, struct sim_machine, link);
        if (host_is(address, machine->address) || sim_net_listener(machine, node->machine, address))
            return machine;
    }
    return NULL;
}

/* --- Listeners ---------------------------------------------------------- */

static bool is_taken(struct sim_node *node, const char *address)
{
    list_for_each (it, &node->sim->machines) {
        struct sim_machine *machine = list_entry(it, struct sim_machine, link);
        if (sim_net_listener(machine, node->machine, address))
            return !is_wildcard(address) || machine == node->machine;
    }
    return false;
}

int sim_listen(
    struct env *env, const char *address, unsigned mode, struct env_listener **ret_listener)
{
    struct sim_node *node = sim_node_of(env);
    const char *end = host_end(address);
    if (!is_unix(address) && !end)
        return -EINVAL;
    sim_delay(node, rng_between(&node->sim->net_rng, 10000, 100000), NULL, NULL);
    char text[256];
    if (end && strcmp(end, ":0") == 0)
        snprintf(
            text, sizeof(text), "%.*s:%u", (int)(end - address), address, node->sim->next_port++);
    else
        snprintf(text, sizeof(text), "%s", address);
    if (is_taken(node, text))
        return -EADDRINUSE;

    struct sim_listener *listener = sim_zalloc(sizeof(*listener));
    listener->listener.env = env;
    listener->node = node;
    listener->address = sim_strdup(text);
    list_init(&listener->accepted);
    fiber_queue_init(&listener->queue);
    list_push_back(&node->listeners, &listener->link);
    *ret_listener = &listener->listener;
    return 0;
}

const char *sim_listener_address(const struct env_listener *env_listener)
{
    return container_of(env_listener, struct sim_listener, listener)->address;
}

static void listener_free(struct sim_listener *listener)
{
    free(listener->address);
    free(listener);
}

int sim_accept(struct env_listener *env_listener, struct env_stream **ret_stream)
{
    struct sim_listener *listener = container_of(env_listener, struct sim_listener, listener);
    listener->waiting++;
    while (!listener->closed && list_empty(&listener->accepted))
        fiber_queue_wait(&listener->queue);
    listener->waiting--;
    if (listener->closed) {
        if (listener->waiting == 0)
            listener_free(listener);
        return -ECANCELED;
    }
    struct sim_stream *stream =
        list_entry(list_pop_front(&listener->accepted), struct sim_stream, accept_link);
    listener->accepted_count--;
    *ret_stream = &stream->stream;
    return 0;
}

void sim_listener_close(struct env_listener *env_listener)
{
    struct sim_listener *listener = container_of(env_listener, struct sim_listener, listener);
    struct list *link;
    while ((link = list_pop_front(&listener->accepted))) {
        struct sim_stream *stream = list_entry(link, struct sim_stream, accept_link);
        sim_conn_send(stream->conn, 0, SIM_PACKET_RESET, NULL, 0);
        sim_stream_free(stream);
    }
    list_remove(&listener->link);
    listener->closed = true;
    fiber_queue_wake_all(&listener->queue);
    if (listener->waiting == 0)
        listener_free(listener);
}

/* --- Streams ------------------------------------------------------------ */

struct sim_stream *sim_stream_new(struct sim_node *node, struct sim_conn *conn, unsigned side)
{
    struct sim_stream *stream = sim_zalloc(sizeof(*stream));
    stream->stream.env = &node->env;
    stream->conn = conn;
    stream->side = side;
    stream->node = node;
    list_init(&stream->accept_link);
    list_init(&stream->received);
    fiber_queue_init(&stream->receivers);
    fiber_queue_init(&stream->senders);
    list_push_back(&node->streams, &stream->link);
    conn->stream[side] = stream;
    char text[256];
    if (is_unix(conn->address))
        snprintf(text, sizeof(text), "unix:pid %lu uid 0", 1000 + conn->number);
    else if (side == 0)
        snprintf(text, sizeof(text), "%s", conn->address);
    else
        snprintf(text, sizeof(text), "tcp:%s:%lu", conn->machine[0]->address,
            50000 + conn->number % 10000);
    stream->peer = sim_strdup(text);
    return stream;
}

static void drop_received(struct sim_stream *stream)
{
    struct list *link;
    while ((link = list_pop_front(&stream->received)))
        free(list_entry(link, struct sim_packet, link));
}

void sim_stream_free(struct sim_stream *stream)
{
    struct sim_conn *conn = stream->conn;
    drop_received(stream);
    conn->stream[stream->side] = NULL;
    sim_conn_put(conn);
    list_remove(&stream->accept_link);
    list_remove(&stream->link);
    free(stream->peer);
    free(stream);
}

void sim_stream_break(struct sim_stream *stream, int error)
{
    if (!stream->error)
        stream->error = error;
    drop_received(stream);
    fiber_queue_wake_all(&stream->receivers);
    fiber_queue_wake_all(&stream->senders);
}

enum env_peer_state sim_stream_peer_state(const struct env_stream *env_stream)
{
    const struct sim_stream *stream = container_of(env_stream, struct sim_stream, stream);
    if (stream->error || stream->shut)
        return ENV_PEER_GONE;
    if (!stream->eof)
        return ENV_PEER_OPEN;
    /* Streams end in both directions at once here; a unix socket shows that, TCP does not. */
    return is_unix(stream->conn->address) ? ENV_PEER_GONE : ENV_PEER_FINISHED;
}

const char *sim_stream_peer(const struct env_stream *stream)
{
    return container_of(stream, struct sim_stream, stream)->peer;
}

int sim_connect(
    struct env *env, const char *address, uint64_t deadline_ns, struct env_stream **ret_stream)
{
    struct sim_node *node = sim_node_of(env);
    if (!is_unix(address) && !host_end(address))
        return -EINVAL;
    struct sim_machine *to = sim_net_resolve(node, address);
    uint64_t give_up_ns = sim_clock_now_ns(node->machine) + CONNECT_MAX_NS;
    deadline_ns = MIN(deadline_ns, give_up_ns);
    if (!to) {
        env_sleep_ns(1000000);
        return -ECONNREFUSED;
    }
    struct sim_conn *conn = sim_conn_new(node, to, address);
    struct sim_stream *stream = sim_stream_new(node, conn, 0);
    sim_conn_send(conn, 1, SIM_PACKET_SYN, NULL, 0);
    int error = 0;
    while (!stream->connected && !stream->error && !error)
        error = fiber_queue_wait_until(&stream->senders, deadline_ns);
    if (stream->error)
        error = stream->error;
    if (error && !stream->connected) {
        if (conn->stream[1])
            sim_conn_send(conn, 1, SIM_PACKET_RESET, NULL, 0);
        sim_stream_free(stream);
        return error;
    }
    *ret_stream = &stream->stream;
    return 0;
}

static size_t take_received(struct sim_stream *stream, void *buf, size_t len_bytes)
{
    struct rng *rng = &stream->node->sim->net_rng;
    size_t taken = 0, limit = len_bytes;
    if (rng_one_in(rng, 8))
        limit = 1 + rng_below(rng, len_bytes);
    while (taken < limit && !list_empty(&stream->received)) {
        struct sim_packet *packet = list_entry(stream->received.next, struct sim_packet, link);
        size_t n = MIN(limit - taken, packet->len_bytes - packet->used_bytes);
        memcpy((char *)buf + taken, packet->bytes + packet->used_bytes, n);
        packet->used_bytes += n;
        taken += n;
        if (packet->used_bytes == packet->len_bytes) {
            list_remove(&packet->link);
            free(packet);
        }
    }
    return taken;
}

int64_t sim_recv(struct env_stream *env_stream, void *buf, size_t len_bytes, uint64_t deadline_ns)
{
    struct sim_stream *stream = container_of(env_stream, struct sim_stream, stream);
    CHECK_MSG(fiber_queue_empty(&stream->receivers), "two receivers on one stream");
    while (list_empty(&stream->received)) {
        if (stream->error || stream->shut)
            return stream->error ? stream->error : -ECONNRESET;
        if (stream->eof)
            return 0;
        int error = fiber_queue_wait_until(&stream->receivers, deadline_ns);
        if (error)
            return error;
    }
    size_t taken = take_received(stream, buf, len_bytes);
    stream->read_bytes += taken;
    if (stream->read_bytes >= SIM_WINDOW_BYTES / 4) {
        sim_conn_send(stream->conn, !stream->side, SIM_PACKET_WINDOW, NULL, stream->read_bytes);
        stream->read_bytes = 0;
    }
    return taken;
}

/* Sends some of `bytes`, waiting for room; how many, or negative errno. */
static MAY_SUSPEND int64_t send_some(
    struct sim_stream *stream, const void *bytes, size_t len_bytes, uint64_t deadline_ns)
{
    for (;;) {
        if (stream->error || stream->shut)
            return stream->error ? stream->error : -ECONNRESET;
        if (stream->sent_bytes < SIM_WINDOW_BYTES)
            break;
        int error = fiber_queue_wait_until(&stream->senders, deadline_ns);
        if (error)
            return error;
    }
    size_t n = MIN(len_bytes, SIM_WINDOW_BYTES - stream->sent_bytes);
    n = MIN(n, (size_t)SIM_SEGMENT_BYTES);
    sim_conn_send(stream->conn, !stream->side, SIM_PACKET_DATA, bytes, n);
    stream->sent_bytes += n;
    return n;
}

int sim_send(
    struct env_stream *env_stream, struct iovec *iov, unsigned iov_count, uint64_t deadline_ns)
{
    struct sim_stream *stream = container_of(env_stream, struct sim_stream, stream);
    CHECK_MSG(fiber_queue_empty(&stream->senders), "two senders on one stream");
    for (unsigned i = 0; i < iov_count; i++) {
        while (iov[i].iov_len > 0) {
            int64_t n = send_some(stream, iov[i].iov_base, iov[i].iov_len, deadline_ns);
            if (n < 0)
                return n;
            iov[i].iov_base = (char *)iov[i].iov_base + n;
            iov[i].iov_len -= n;
        }
    }
    return 0;
}

void sim_stream_shutdown(struct env_stream *env_stream)
{
    struct sim_stream *stream = container_of(env_stream, struct sim_stream, stream);
    if (stream->shut)
        return;
    stream->shut = true;
    if (!stream->error) {
        bool unread = !list_empty(&stream->received);
        sim_conn_send(
            stream->conn, !stream->side, unread ? SIM_PACKET_RESET : SIM_PACKET_FIN, NULL, 0);
    }
    drop_received(stream);
    fiber_queue_wake_all(&stream->receivers);
    fiber_queue_wake_all(&stream->senders);
}

void sim_stream_close(struct env_stream *env_stream)
{
    struct sim_stream *stream = container_of(env_stream, struct sim_stream, stream);
    CHECK_MSG(fiber_queue_empty(&stream->receivers) && fiber_queue_empty(&stream->senders),
        "closed a stream that fibers wait on");
    sim_stream_shutdown(env_stream);
    sim_stream_free(stream);
}
