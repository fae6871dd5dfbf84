/* SPDX-License-Identifier: Apache-2.0
 *
 * What travels between machines: links with their latency and cuts, and packets in pipes. A packet
 * whose way is blocked waits at the head of its pipe, as TCP retransmits; after HOLD_MAX_NS the
 * sender's stream breaks.
 */
#include "common/env_sim_net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"

#define HOLD_MAX_NS 60000000000ull
#define LOCAL_NS 8000ull

/* Exceptions; a pair of machines without one has the default latency. */
struct sim_link {
    struct list link;
    struct sim_machine *from, *to;
    bool cut;
    struct sim_net_latency latency;
};

static const struct sim_net_latency default_latency = {
    .base_ns = 40000, .jitter_ns = 60000, .ns_per_kib = 400};

static struct sim_link *link_find(
    struct sim *sim, const struct sim_machine *from, const struct sim_machine *to)
{
    list_for_each (it, &sim->links) {
        struct sim_link *link = list_entry(it, struct sim_link, link);
        if (link->from == from && link->to == to)
            return link;
    }
    return NULL;
}

static struct sim_link *link_get(struct env *from_env, struct env *to_env)
{
    struct sim_machine *from = sim_node_of(from_env)->machine, *to = sim_node_of(to_env)->machine;
    struct sim_link *link = link_find(from->sim, from, to);
    if (!link) {
        link = sim_zalloc(sizeof(*link));
        *link = (struct sim_link){.from = from, .to = to, .latency = default_latency};
        list_push_back(&from->sim->links, &link->link);
    }
    return link;
}

static uint64_t travel_ns(struct sim_conn *conn, unsigned to, size_t len_bytes)
{
    struct rng *rng = &conn->sim->net_rng;
    const struct sim_machine *from = conn->machine[!to];
    if (from == conn->machine[to])
        return LOCAL_NS + rng_below(rng, LOCAL_NS);
    const struct sim_link *link = link_find(conn->sim, from, conn->machine[to]);
    const struct sim_net_latency *latency = link ? &link->latency : &default_latency;
    uint64_t jitter_ns = rng_below(rng, latency->jitter_ns + 1) * (rng_one_in(rng, 100) ? 20 : 1);
    return latency->base_ns + jitter_ns + len_bytes * latency->ns_per_kib / 1024;
}

/* --- Connections -------------------------------------------------------- */

static void pipe_fire(struct sim_event *event);

struct sim_conn *sim_conn_new(struct sim_node *node, struct sim_machine *to, const char *address)
{
    struct sim_conn *conn = sim_zalloc(sizeof(*conn));
    conn->sim = node->sim;
    conn->number = ++node->sim->conn_count;
    conn->address = sim_strdup(address);
    conn->machine[0] = node->machine;
    conn->machine[1] = to;
    for (unsigned side = 0; side < 2; side++) {
        conn->pipe[side].conn = conn;
        conn->pipe[side].to = side;
        conn->pipe[side].event.fire = pipe_fire;
        list_init(&conn->pipe[side].packets);
    }
    list_push_back(&node->sim->conns, &conn->link);
    return conn;
}

static void pipe_clear(struct sim_pipe *pipe)
{
    struct list *link;
    sim_event_cancel(pipe->conn->sim, &pipe->event);
    while ((link = list_pop_front(&pipe->packets)))
        free(list_entry(link, struct sim_packet, link));
    pipe->held = false;
}

static void conn_free(struct sim_conn *conn)
{
    pipe_clear(&conn->pipe[0]);
    pipe_clear(&conn->pipe[1]);
    list_remove(&conn->link);
    free(conn->address);
    free(conn);
}

void sim_conn_put(struct sim_conn *conn)
{
    if (!conn->stream[0] && !conn->stream[1])
        conn_free(conn);
}

static void pipe_arm(struct sim_pipe *pipe)
{
    if (list_empty(&pipe->packets))
        return;
    struct sim_packet *head = list_entry(pipe->packets.next, struct sim_packet, link);
    struct sim_stream *stream = pipe->conn->stream[pipe->to];
    pipe->event.node = stream ? stream->node : NULL; /* a paused process takes nothing */
    sim_event_arm(pipe->conn->sim, &pipe->event, head->due_ns);
}

void sim_conn_send(struct sim_conn *conn, unsigned to, enum sim_packet_type type, const void *bytes,
    size_t len_bytes)
{
    struct sim_pipe *pipe = &conn->pipe[to];
    struct sim_packet *packet = sim_zalloc(sizeof(*packet) + (bytes ? len_bytes : 0));
    packet->type = type;
    packet->len_bytes = len_bytes;
    if (bytes)
        memcpy(packet->bytes, bytes, len_bytes);
    uint64_t due_ns = conn->sim->now_ns + travel_ns(conn, to, len_bytes);
    packet->due_ns = MAX(pipe->last_due_ns, due_ns);
    pipe->last_due_ns = packet->due_ns;
    bool first = list_empty(&pipe->packets);
    list_push_back(&pipe->packets, &packet->link);
    if (first)
        pipe_arm(pipe);
}

/* --- Delivery ----------------------------------------------------------- */

static void deliver_syn(struct sim_conn *conn)
{
    struct sim_listener *listener =
        sim_net_listener(conn->machine[1], conn->machine[0], conn->address);
    if (!listener || listener->accepted_count == SIM_BACKLOG) {
        sim_conn_send(conn, 0, SIM_PACKET_RESET, NULL, 0);
        return;
    }
    struct sim_stream *stream = sim_stream_new(listener->node, conn, 1);
    stream->connected = true;
    list_push_back(&listener->accepted, &stream->accept_link);
    listener->accepted_count++;
    fiber_queue_wake_one(&listener->queue);
    sim_conn_send(conn, 0, SIM_PACKET_ACCEPTED, NULL, 0);
}

static bool deliver_to_stream(struct sim_stream *stream, struct sim_packet *packet)
{
    bool kept = false;
    switch (packet->type) {
    case SIM_PACKET_SYN:
        CHECK(false);
    case SIM_PACKET_ACCEPTED:
        stream->connected = true;
        break;
    case SIM_PACKET_DATA:
        list_push_back(&stream->received, &packet->link);
        kept = true;
        break;
    case SIM_PACKET_WINDOW:
        stream->sent_bytes -= packet->len_bytes;
        break;
    case SIM_PACKET_FIN:
        stream->eof = true;
        break;
    case SIM_PACKET_RESET:
        sim_stream_break(stream, stream->connected ? -ECONNRESET : -ECONNREFUSED);
        break;
    }
    fiber_queue_wake_all(&stream->receivers);
    fiber_queue_wake_all(&stream->senders);
    return kept;
}

static bool deliver(struct sim_conn *conn, unsigned to, struct sim_packet *packet)
{
    struct sim_stream *stream = conn->stream[to];
    sim_trace_node(conn->sim, stream ? stream->node : NULL, "packet",
        conn->number << 8 | packet->type, packet->len_bytes);
    conn->sim->trace_hash = sim_hash(conn->sim->trace_hash, packet->bytes,
        packet->type == SIM_PACKET_DATA ? packet->len_bytes : 0);
    if (packet->type == SIM_PACKET_SYN) {
        deliver_syn(conn);
        return false;
    }
    if (stream && !stream->shut)
        return deliver_to_stream(stream, packet);
    if (packet->type == SIM_PACKET_DATA)
        sim_conn_send(conn, !to, SIM_PACKET_RESET, NULL, 0);
    return false;
}

static bool way_is_open(const struct sim_pipe *pipe)
{
    const struct sim_machine *from = pipe->conn->machine[!pipe->to];
    const struct sim_machine *to = pipe->conn->machine[pipe->to];
    const struct sim_link *link = link_find(pipe->conn->sim, from, to);
    return to->up && !(link && link->cut);
}

static void hold(struct sim_pipe *pipe)
{
    struct sim_conn *conn = pipe->conn;
    if (!pipe->held) {
        pipe->held = true;
        pipe->held_since_ns = conn->sim->now_ns;
    }
    uint64_t give_up_ns = pipe->held_since_ns + HOLD_MAX_NS;
    if (conn->sim->now_ns < give_up_ns) {
        sim_event_arm(conn->sim, &pipe->event, give_up_ns);
        return;
    }
    struct sim_stream *sender = conn->stream[!pipe->to];
    pipe_clear(pipe);
    if (sender)
        sim_stream_break(sender, -ETIMEDOUT);
}

static void pipe_fire(struct sim_event *event)
{
    struct sim_pipe *pipe = container_of(event, struct sim_pipe, event);
    if (!way_is_open(pipe)) {
        hold(pipe);
        return;
    }
    pipe->held = false;
    struct sim_packet *packet = list_entry(list_pop_front(&pipe->packets), struct sim_packet, link);
    pipe_arm(pipe);
    if (!deliver(pipe->conn, pipe->to, packet))
        free(packet);
}

/* Whatever is held tries again. */
static void retry_held(struct sim *sim)
{
    list_for_each (it, &sim->conns) {
        struct sim_conn *conn = list_entry(it, struct sim_conn, link);
        for (unsigned side = 0; side < 2; side++) {
            struct sim_pipe *pipe = &conn->pipe[side];
            if (pipe->held)
                sim_event_arm(sim, &pipe->event, sim->now_ns + travel_ns(conn, side, 0));
        }
    }
}

/* --- Links -------------------------------------------------------------- */

void sim_net_cut(struct env *from, struct env *to, bool cut)
{
    struct sim *sim = sim_node_of(from)->sim;
    sim_trace_node(sim, sim_node_of(from), cut ? "link cut to" : "link healed to",
        sim_node_of(to)->machine->index, 0);
    link_get(from, to)->cut = cut;
    if (!cut)
        retry_held(sim);
}

void sim_net_isolate(struct env *node, bool cut)
{
    list_for_each (it, &sim_node_of(node)->sim->nodes) {
        struct sim_node *other = list_entry(it, struct sim_node, link);
        if (other->machine == sim_node_of(node)->machine)
            continue;
        sim_net_cut(node, &other->env, cut);
        sim_net_cut(&other->env, node, cut);
    }
}

void sim_net_heal_all(struct sim *sim)
{
    list_for_each (it, &sim->links)
        list_entry(it, struct sim_link, link)->cut = false;
    retry_held(sim);
}

void sim_net_set_latency(struct env *from, struct env *to, const struct sim_net_latency *latency)
{
    link_get(from, to)->latency = *latency;
}

void sim_net_reset(struct env *a, struct env *b)
{
    struct sim_node *one = sim_node_of(a), *other = sim_node_of(b);
    list_for_each (it, &one->sim->conns) {
        struct sim_conn *conn = list_entry(it, struct sim_conn, link);
        struct sim_stream **s = conn->stream;
        if (!s[0] || !s[1])
            continue;
        if (!(s[0]->node == one && s[1]->node == other) &&
            !(s[1]->node == one && s[0]->node == other))
            continue;
        for (unsigned side = 0; side < 2; side++) {
            pipe_clear(&conn->pipe[side]);
            sim_stream_break(s[side], -ECONNRESET);
        }
    }
}

/* --- Ends of nodes and of the simulation -------------------------------- */

/* Processes that end leave their peers an end of stream, or a reset when they had not read all;
 * machines that lose power leave them nothing, and what they had sent may or may not arrive. */
static void stream_orphan(struct sim_stream *stream, bool power)
{
    struct sim_conn *conn = stream->conn;
    if (power)
        pipe_clear(&conn->pipe[!stream->side]);
    else if (list_empty(&stream->received) && rng_one_in(&conn->sim->net_rng, 2))
        sim_conn_send(conn, !stream->side, SIM_PACKET_FIN, NULL, 0);
    else
        sim_conn_send(conn, !stream->side, SIM_PACKET_RESET, NULL, 0);
    sim_stream_free(stream);
}

void sim_net_node_gone(struct sim_node *node, bool power)
{
    list_for_each_safe (it, &node->listeners) {
        struct sim_listener *listener = list_entry(it, struct sim_listener, link);
        list_remove(&listener->link);
        free(listener->address);
        free(listener);
    }
    list_for_each_safe (it, &node->streams)
        stream_orphan(list_entry(it, struct sim_stream, link), power);
}

void sim_net_machine_up(struct sim_machine *machine)
{
    retry_held(machine->sim);
}

void sim_net_free(struct sim *sim)
{
    struct list *link;
    while ((link = list_pop_front(&sim->links)))
        free(list_entry(link, struct sim_link, link));
    list_for_each_safe (it, &sim->conns)
        conn_free(list_entry(it, struct sim_conn, link));
}
