/* SPDX-License-Identifier: Apache-2.0
 *
 * One NBD command: made by request.c, queued and resent by session.c, carried by link.c. Embedded
 * in its owner, who must leave it alone (and its buffer in place) from session_submit() until
 * `done`.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/list.h"

enum nbd_op_kind { NBD_OP_READ, NBD_OP_WRITE, NBD_OP_ZERO, NBD_OP_FLUSH, NBD_OP_STATUS };

#define NBD_REQUEST_BYTES 28

struct nbd_op {
    /* What is asked. */
    enum nbd_op_kind kind;
    bool fua;
    uint64_t off_bytes;
    uint32_t len_bytes; /* READ and WRITE: also the length of `buffer` */
    uint8_t *buffer;
    /* STATUS: look for the first byte that reads as zero for sure (true) or may not (false). */
    bool want_zero;

    /* What came of it. `done` is called once, `error` is 0 or a negative errno. */
    int error;
    void (*done)(struct nbd_op *op);
    /* STATUS: where the wanted byte is, or the end of what the server has described. */
    uint64_t status_off_bytes;
    bool status_found;

    /* session.c's. */
    struct list link; /* on the session's queue, or in flight, in order of submission */
    bool barrier;     /* a FLUSH to be sent again: only after all before it was answered */

    /* link.c's. */
    struct nbd_op *send_next;
    uint64_t cookie;
    uint32_t received_bytes; /* of a READ's answer */
    bool sent, answered;
    uint8_t header[NBD_REQUEST_BYTES];
};
