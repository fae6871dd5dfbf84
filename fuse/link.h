/* SPDX-License-Identifier: Apache-2.0
 *
 * One connection to an NBD export on a unix socket. libnbd does the handshake; after it this file
 * speaks the transmission phase itself, because there the cost is: all requests of a turn leave in
 * one sendmsg, and one recv takes in as many answers as there are (README.md has the figures).
 *
 * Protocol: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md (simple and
 * structured replies, base:allocation).
 *
 * A link never sends anything twice and never reconnects: session.c does, with a new link.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "fuse/loop.h"
#include "fuse/nbd_op.h"

struct link;

/* What the handshake told; the same for all links to one export. */
struct link_export {
    uint64_t size_bytes;
    uint32_t block_min_bytes; /* requests must be aligned to this; 1 = any */
    uint32_t block_max_bytes; /* of READ and WRITE */
    bool read_only, can_flush, can_fua, can_zero, can_status, can_multi_conn;
};

/* Called from the loop; `answered` also from link_send(). The link may not be freed in them. */
struct link_events {
    void (*ready)(void *ctx, struct link *link);
    /* The connection is of no more use; `error` negative errno, -ENOENT: no export of that name.
     * Ops not answered are still the caller's. */
    void (*failed)(void *ctx, struct link *link, int error, const char *text);
    /* op->error is set. Not the same as op->done: the session looks first. */
    void (*answered)(void *ctx, struct nbd_op *op);
};

/* Starts to connect. Negative errno where the socket is not there or takes no connections. */
int link_new(struct loop *loop, const char *socket_path, const char *export_name,
    const struct link_events *events, void *ctx, struct link **ret_link);
/* Closes the connection; `polite`: with an NBD_CMD_DISC, allowed when nothing is unanswered. */
void link_free(struct link *link, bool polite);

/* Valid once ready. */
const struct link_export *link_export(const struct link *link);
/* True while one more op may be submitted. */
bool link_has_room(const struct link *link);
/* Queues `op` for sending; link_send() sends what is queued. */
void link_submit(struct link *link, struct nbd_op *op);
void link_send(struct link *link);
unsigned link_unanswered(const struct link *link);
