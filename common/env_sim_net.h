/* SPDX-License-Identifier: Apache-2.0
 *
 * Between env_sim_net.c (what travels) and env_sim_stream.c (the env calls on streams).
 *
 * A connection is two pipes, one per direction. A pipe is a queue of packets of which the head has
 * an event; it is in order whatever the delays (V4). Two ends: each has a stream while its process
 * holds one, else it is dead and answers data with a reset, if its machine has power.
 */
#pragma once

#include "common/env_sim_impl.h"

enum {
    SIM_WINDOW_BYTES = 256 * 1024, /* sent and not yet read by the peer's program */
    SIM_SEGMENT_BYTES = 64 * 1024,
    SIM_BACKLOG = 128,
};

enum sim_packet_type {
    SIM_PACKET_SYN,
    SIM_PACKET_ACCEPTED,
    SIM_PACKET_DATA,
    SIM_PACKET_WINDOW, /* `len_bytes` were read */
    SIM_PACKET_FIN,
    SIM_PACKET_RESET,
};

struct sim_packet {
    struct list link;
    enum sim_packet_type type;
    uint64_t due_ns;
    size_t len_bytes, used_bytes;
    uint8_t bytes[];
};

struct sim_pipe {
    struct sim_event event; /* for the head */
    struct sim_conn *conn;
    unsigned to; /* side */
    struct list packets;
    uint64_t last_due_ns;
    bool held; /* the head meets a cut link or a machine without power */
    uint64_t held_since_ns;
};

struct sim_conn {
    struct list link; /* sim->conns */
    struct sim *sim;
    uint64_t number;
    char *address; /* as connected to */
    struct sim_machine *machine[2];
    struct sim_stream *stream[2]; /* NULL: dead, or not yet accepted by anybody */
    struct sim_pipe pipe[2];      /* pipe[side] leads to `side` */
};

struct sim_stream {
    struct env_stream stream;
    struct sim_conn *conn;
    unsigned side;
    struct sim_node *node;
    struct list link;        /* node->streams */
    struct list accept_link; /* listener->accepted */
    struct list received;    /* DATA packets */
    struct fiber_queue receivers, senders;
    bool connected, eof, shut;
    int error;           /* negative errno once broken */
    uint64_t sent_bytes; /* and not known to be read */
    uint64_t read_bytes; /* and not yet told to the peer */
    char *peer;
};

struct sim_listener {
    struct env_listener listener;
    struct sim_node *node;
    struct list link; /* node->listeners */
    char *address;
    struct list accepted;
    unsigned accepted_count;
    struct fiber_queue queue;
    unsigned waiting;
    bool closed;
};

struct sim_stream *sim_stream_new(struct sim_node *node, struct sim_conn *conn, unsigned side);
/* Forgets the stream; the conn goes when its other end is dead, too. */
void sim_stream_free(struct sim_stream *stream);
/* The stream is broken: whoever waits on it returns. */
void sim_stream_break(struct sim_stream *stream, int error);

struct sim_conn *sim_conn_new(struct sim_node *node, struct sim_machine *to, const char *address);
void sim_conn_put(struct sim_conn *conn);
/* Sends towards `to`. `bytes` may be NULL. */
void sim_conn_send(struct sim_conn *conn, unsigned to, enum sim_packet_type type, const void *bytes,
    size_t len_bytes);

/* Whom `address` means to `node`: the machine, or NULL. */
struct sim_machine *sim_net_resolve(struct sim_node *node, const char *address);
/* The listener of `machine` that answers to `address`, as seen from machine `from`. */
struct sim_listener *sim_net_listener(
    struct sim_machine *machine, const struct sim_machine *from, const char *address);
