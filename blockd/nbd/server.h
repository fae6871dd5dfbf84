/* SPDX-License-Identifier: Apache-2.0
 *
 * The NBD server of a node: every volume of the cluster is an export of its name. The rules it
 * keeps are numbered in README.md.
 */
#pragma once

#include "blockd/attach.h"

struct nbd_server;

/* The largest request has 32 MiB. */
#define NBD_BUFFER_BYTES_MIN (40ull << 20)

/* 0 in any field means the default, which is named. */
struct nbd_server_options {
    unsigned socket_mode;          /* of unix sockets; 0660 */
    unsigned connections_max;      /* 512; one more is closed as soon as it is accepted */
    unsigned handshakes_max;       /* 64 of them in the handshake; the oldest makes room */
    uint64_t handshake_timeout_ns; /* 10 s of waiting for the client */
    uint64_t drain_timeout_ns;     /* 10 s without progress end a connection that should end */
    uint64_t stall_timeout_ns;     /* 5 s without progress, while others wait for memory */
    uint64_t hold_timeout_ns;      /* for ever: how long requests are held while the volume is gone;
                                      then the connection is dropped */
    unsigned requests_max;         /* 1024 in flight, all connections */
    unsigned connection_requests_max; /* 256 */
    uint64_t buffer_bytes_max;        /* 256 MiB, all connections; at least NBD_BUFFER_BYTES_MIN */
    uint64_t connection_buffer_bytes_max; /* half of that, 40 to 64 MiB */
};

struct nbd_server_stats {
    unsigned connections, handshakes; /* now; a handshake is counted as a connection too */
    unsigned requests_in_flight, requests_held;
    uint64_t buffer_bytes, buffer_bytes_cached;
    uint64_t connections_accepted, connections_refused; /* since the start, as the rest */
    uint64_t handshakes_failed, handshakes_timed_out;
    uint64_t protocol_errors; /* connections ended for what the client sent after the handshake */
    uint64_t stalled;         /* connections ended because others needed what they hoarded */
    uint64_t dropped_for_resize;
    uint64_t requests, request_errors;
    uint64_t read_bytes, written_bytes;
    uint64_t sends, receives; /* system calls, about */
};

/* Listens on `addresses` (as env_listen takes them) and serves what `attach` finds, which outlives
 * the server. 0, or negative errno with *ret_error (mem_free) that names the address. */
MAY_SUSPEND int nbd_server_start(struct attach *attach, const char *const *addresses,
    unsigned address_count, const struct nbd_server_options *options,
    struct nbd_server **ret_server, char **ret_error);

/* Stops listening, answers what is in flight (at most for the drain timeout), ends all connections,
 * frees the server. What volumes still work at is waited for, however long. */
MAY_SUSPEND void nbd_server_stop(struct nbd_server *server);

void nbd_server_get_stats(const struct nbd_server *server, struct nbd_server_stats *ret_stats);
unsigned nbd_server_address_count(const struct nbd_server *server);
/* With the port that the system chose for port 0. Valid as long as the server. */
const char *nbd_server_address(const struct nbd_server *server, unsigned index);
