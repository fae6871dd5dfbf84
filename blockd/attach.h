/* SPDX-License-Identifier: Apache-2.0
 *
 * A front end's hold on a volume, wherever that is: the calls of volume.h, done here when this node
 * owns the volume and forwarded to its owner when not. Every attachment, on every node, sees one
 * linearizable disk.
 *
 * An attachment serves one owner at one epoch. When that ends (handoff, takeover, connection lost,
 * closed) every call answers -ESHUTDOWN: the front end keeps the request, lets go, attaches again
 * by name and repeats it under the same request id, which the owner answers from memory or replay
 * if it was done (S19). While the store does not answer, whoever was last seen to own it is asked (S18). attach_get() finds out who owns: it takes a volume that is released or
 * whose owner's session is gone, forwards to a living owner, and answers -EAGAIN (retry soon) while
 * that cannot be reached or the volume is just being handed over.
 *
 * Invariants
 *  A1 A call that answered -ESHUTDOWN may have happened; one that answered anything else has, or has not,
 *     as it says.
 *  A2 A forwarded request carries (session, number, epoch); the owner refuses another epoch when the
 *     request gets its place in the order.
 *     The wire is not trusted: what it names is looked up among what that session has attached.
 *  A4 Nor does the owner give it a place once its client does not wait for it any more (deadline, end
 *     of the session): the front end may be sending it again, under a new session too.
 *  A5 What a node can make us hold is bounded, and one that does not take its replies does not hold up
 *     the others'.
 *  A3 Ownership follows traffic: an attachment whose forwarded I/O has been most of the volume's for
 *     a while asks its owner for a handoff. The owner destages while it serves, stops, releases to
 *     that node by name (root.successor), and nobody else takes it for a while.
 */
#pragma once

#include "blockd/volumes.h"
#include "common/rpc.h"

struct attach;     /* the node's */
struct attachment; /* one front end's */
struct members;
struct peers;
struct attach_session; /* what a client of our RPC server has attached */

struct attach_options {
    struct volumes *volumes;
    struct members *members; /* NULL: one node, everything is local */
    struct peers *peers;     /* NULL likewise */
    /* S18: the store does not answer, and nobody here knows the volume: asks the nodes that can be reached what
     * they serve (volumes_remember). May suspend; may be NULL. */
    void (*ask_others)(void *ctx);
    void *ctx;                   /* of ask_others */
    uint64_t handoff_after_ns;   /* of being most of the traffic; 0 = 1 s; UINT64_MAX: never */
    uint64_t handoff_again_ns;   /* between handoffs of one volume; 0 = 10 s */
    uint64_t forward_timeout_ns; /* of one forwarded call; 0 = 30 s, then -ESHUTDOWN */
    unsigned executing_max;      /* requests of other nodes at the same time; 0 = 4096 */
};
struct attach *attach_new(const struct attach_options *options);
/* No attachment is left, nobody is in attach_get(). */
MAY_SUSPEND void attach_free(struct attach *attach);
struct volumes *attach_volumes(const struct attach *attach);

/* Nodes came or went, connections too: what answered -EAGAIN may be worth another try. */
void attach_changed(struct attach *attach);
/* Whoever waits to try attach_get() again hears of that: woken() from a fiber or the env's loop; must
 * not suspend. */
struct attach_waiter {
    struct list link;
    void (*woken)(struct attach_waiter *waiter);
};
void attach_wait_begin(struct attach *attach, struct attach_waiter *waiter);
void attach_wait_end(struct attach_waiter *waiter);

struct attachment_events {
    /* As struct volumes_listener; from the env's loop or a fiber; must not suspend. */
    void (*resized)(struct attachment *attachment, void *ctx);
    void (*removed)(struct attachment *attachment, void *ctx);
    void (*halted)(struct attachment *attachment, void *ctx);
};

/* -ENOENT, -ESHUTDOWN (this node is stopping), -EAGAIN (see above), or as volume_open; *ret_error
 * (mem_free) with each. `events` may be NULL, and outlives the attachment. */
MAY_SUSPEND int attach_get(struct attach *attach, const char *name,
    const struct attachment_events *events, void *ctx, struct attachment **ret_attachment,
    char **ret_error);
/* No call is under way. */
MAY_SUSPEND void attach_put(struct attachment *attachment);

/* As volume_*; errors too. Of a forwarded volume -ENOSPC etc. come from its owner. */
MAY_SUSPEND int attach_read(
    struct attachment *attachment, uint64_t off_bytes, uint64_t len_bytes, void *buf);
MAY_SUSPEND int attach_read_leaving(
    struct attachment *attachment, uint64_t off_bytes, uint64_t len_bytes, void *buf, bool leave);
MAY_SUSPEND int attach_write(struct attachment *attachment, uint64_t off_bytes, uint64_t len_bytes,
    const void *buf, unsigned flags, struct request_id id);
MAY_SUSPEND int attach_trim(struct attachment *attachment, uint64_t off_bytes, uint64_t len_bytes,
    unsigned flags, struct request_id id);
MAY_SUSPEND int attach_write_zeroes(struct attachment *attachment, uint64_t off_bytes,
    uint64_t len_bytes, unsigned flags, struct request_id id);
MAY_SUSPEND int attach_flush(struct attachment *attachment);
MAY_SUSPEND int attach_block_status(struct attachment *attachment, uint64_t off_bytes,
    uint64_t len_bytes, struct volume_extent *ret_extents, unsigned max, unsigned *ret_count);

uint64_t attach_volume_id(const struct attachment *attachment);
const char *attach_volume_name(const struct attachment *attachment);
uint64_t attach_size_bytes(const struct attachment *attachment);
/* The owner's node; "" = this one. */
const char *attach_owner(const struct attachment *attachment);

/* How much of the node's I/O went to other nodes' volumes, and other way round. */
struct attach_stats {
    unsigned attachments, remote_attachments; /* now */
    unsigned attaching;                       /* calls of attach_get() under way */
    unsigned served;                          /* volumes that other nodes hold here, now */
    uint64_t forwarded, forwarded_bytes;      /* requests, since the start */
    uint64_t executed, executed_bytes;        /* for other nodes */
    uint64_t lost; /* owners that went away under attachments (also by handoff) */
    uint64_t handoffs_in, handoffs_out, handoffs_refused;
    uint64_t handoff_pause_ns_max;
};
void attach_get_stats(const struct attach *attach, struct attach_stats *ret_stats);
/* Calls fn for each node that holds the volume here through us; its name is lent. */
void attach_each_served(
    struct attach *attach, uint64_t volume_id, void (*fn)(void *ctx, const char *node), void *ctx);
/* What counts as traffic of a volume (A3): operations, and bytes in units of 64 KiB. */
uint64_t attach_traffic(uint64_t operations, uint64_t bytes);

/* The owner's side of forwarding, for rpc_server_start (context: struct cluster_server; the user of
 * each of its sessions is a struct attach_session). */
struct attach_session *attach_session_new(struct attach *attach, const char *node);
/* Its connection is over. Requests that were left behind keep what they use until they end. */
void attach_session_end(struct attach_session *session);
extern const struct rpc_method attach_methods[];
extern const unsigned attach_method_count;
