/* SPDX-License-Identifier: Apache-2.0
 *
 * The handshake phase: fixed newstyle, no TLS ("NOTLS mode"). Runs on the connection's own fiber.
 */
#pragma once

#include "blockd/attach.h"
#include "blockd/nbd/codec.h"
#include "common/env.h"

struct nbd_negotiated {
    struct attachment *attachment; /* the caller puts it */
    struct nbd_terms terms;
};

struct nbd_handshake_options {
    struct attach *attach;
    const struct attachment_events *events; /* of the attachment, with `ctx` */
    void *ctx;
    const bool *gone; /* set when the connection is ended meanwhile */
    uint64_t timeout_ns;
};

/* Haggles until the client has chosen an export. The client has `timeout_ns` in all; the time that
 * opening the volume takes does not count; a volume whose owner cannot be reached is waited for as
 * long. 0; -ECONNRESET: the client left (also by NBD_OPT_ABORT);
 * -ETIMEDOUT; -EPROTO: it broke the protocol or asked by NBD_OPT_EXPORT_NAME, which knows no error
 * reply, for what is not there. ret_reason: a sentence (mem_free) on failure. */
MAY_SUSPEND int nbd_handshake(struct env_stream *stream,
    const struct nbd_handshake_options *options, struct nbd_negotiated *ret_negotiated,
    char **ret_reason);
