/* SPDX-License-Identifier: Apache-2.0
 *
 * Decoder of the server's half of the NBD transmission phase: bytes in, op fields set. No I/O.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fuse/nbd_op.h"

#define REPLY_FIXED_BYTES_MAX 20

enum reply_state {
    REPLY_HEADER,
    REPLY_CHUNK_HEADER,  /* the last 4 bytes of a structured header */
    REPLY_DATA_OFFSET,   /* NBD_REPLY_TYPE_OFFSET_DATA */
    REPLY_DATA,          /* payload to op->buffer */
    REPLY_HOLE,          /* NBD_REPLY_TYPE_OFFSET_HOLE */
    REPLY_ERROR,         /* error chunk: number and length of the text */
    REPLY_STATUS_ID,     /* NBD_REPLY_TYPE_BLOCK_STATUS: id of the metadata context */
    REPLY_STATUS_EXTENT, /* ... and its extents */
    REPLY_SKIP,          /* payload of no interest */
};

struct reply_decoder {
    enum reply_state state;
    struct nbd_op *op;   /* the chunk's op, from the header on */
    uint32_t left_bytes; /* of the chunk's payload */
    uint16_t type;       /* of the chunk */
    bool last_chunk;
    uint8_t *target; /* REPLY_DATA: where the next payload byte goes */

    /* The op with this cookie that waits for an answer, or NULL. */
    struct nbd_op *(*find)(void *ctx, uint64_t cookie);
    /* The answer to `op` is complete, op->error set. */
    void (*complete)(void *ctx, struct nbd_op *op);
    void *ctx;
    const char *error_text; /* what the server did wrong, after -EPROTO */
};

/* Takes what it can of bytes[0..len_bytes): returns how many (less than REPLY_FIXED_BYTES_MAX may
 * stay: bring them again with more behind them), or -EPROTO. */
int64_t reply_decode(struct reply_decoder *decoder, const uint8_t *bytes, size_t len_bytes);
