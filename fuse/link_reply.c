/* SPDX-License-Identifier: Apache-2.0
 *
 * Source of the formats: NBD protocol, doc/proto.md, "Simple reply message" and "Structured reply
 * chunk message". Each state consumes its fixed part whole or its payload as it comes. What the
 * server says is checked against the op it answers: it can make the link fail, not write elsewhere.
 */
#include "fuse/link_reply.h"

#include <errno.h>
#include <string.h>

#include "common/bytes.h"
#include "common/check.h"

#define SIMPLE_MAGIC 0x67446698u
#define STRUCTURED_MAGIC 0x668e33efu
#define FLAG_DONE 1u
#define TYPE_NONE 0u
#define TYPE_OFFSET_DATA 1u
#define TYPE_OFFSET_HOLE 2u
#define TYPE_BLOCK_STATUS 5u
#define TYPE_ERROR_BIT 0x8000u
#define STATE_ZERO 2u /* base:allocation: the extent reads as zeroes */

static int protocol_error(struct reply_decoder *d, const char *text)
{
    d->error_text = text;
    return -EPROTO;
}

static int errno_of_nbd(uint32_t error)
{
    switch (error) {
    case 0:
        return 0;
    case 1:
        return -EPERM;
    case 12:
        return -ENOMEM;
    case 22:
        return -EINVAL;
    case 28:
        return -ENOSPC;
    case 75:
        return -EOVERFLOW;
    case 95:
        return -EOPNOTSUPP;
    case 108:
        return -ESHUTDOWN;
    default:
        return -EIO;
    }
}

static void set_error(struct nbd_op *op, uint32_t error)
{
    if (op->error == 0)
        op->error = errno_of_nbd(error);
}

static int finish_op(struct reply_decoder *d)
{
    struct nbd_op *op = d->op;
    d->op = NULL;
    d->state = REPLY_HEADER;
    if (op->kind == NBD_OP_READ && op->error == 0 && op->received_bytes != op->len_bytes)
        return protocol_error(d, "the answer to a read has not as many bytes as were asked for");
    d->complete(d->ctx, op);
    return 0;
}

static int finish_chunk(struct reply_decoder *d)
{
    if (d->last_chunk)
        return finish_op(d);
    d->state = REPLY_HEADER;
    return 0;
}

static void expect_data(struct reply_decoder *d, uint32_t len_bytes, uint64_t off_in_op)
{
    d->state = REPLY_DATA;
    d->left_bytes = len_bytes;
    d->target = d->op->buffer + off_in_op;
}

/* The first 16 bytes are common to both kinds up to the cookie. */
static int take_header(struct reply_decoder *d, const uint8_t *p)
{
    uint32_t magic = get_be32(p);
    if (magic != SIMPLE_MAGIC && magic != STRUCTURED_MAGIC)
        return protocol_error(d, "a reply without its magic number");
    d->op = d->find(d->ctx, get_be64(p + 8));
    if (d->op == NULL)
        return protocol_error(d, "a reply to no request");
    if (magic == STRUCTURED_MAGIC) {
        d->last_chunk = get_be16(p + 4) & FLAG_DONE;
        d->type = get_be16(p + 6);
        d->state = REPLY_CHUNK_HEADER;
        return 0;
    }
    d->last_chunk = true;
    set_error(d->op, get_be32(p + 4));
    if (d->op->kind == NBD_OP_READ && d->op->error == 0) {
        expect_data(d, d->op->len_bytes, 0);
        return 0;
    }
    return finish_op(d);
}

static int take_chunk_header(struct reply_decoder *d, const uint8_t *p)
{
    uint32_t len = get_be32(p);
    enum nbd_op_kind kind = d->op->kind;
    d->left_bytes = len;
    if (d->type == TYPE_NONE && len == 0)
        return finish_chunk(d);
    if (d->type == TYPE_OFFSET_DATA && kind == NBD_OP_READ && len > 8)
        d->state = REPLY_DATA_OFFSET;
    else if (d->type == TYPE_OFFSET_HOLE && kind == NBD_OP_READ && len == 12)
        d->state = REPLY_HOLE;
    else if (d->type == TYPE_BLOCK_STATUS && kind == NBD_OP_STATUS && len >= 12 && len % 8 == 4)
        d->state = REPLY_STATUS_ID;
    else if ((d->type & TYPE_ERROR_BIT) != 0 && len >= 6 && len < 65536)
        d->state = REPLY_ERROR;
    else
        return protocol_error(d, "a reply chunk that does not fit the request");
    return 0;
}

static bool in_op(const struct reply_decoder *d, uint64_t off, uint64_t len)
{
    uint64_t start = d->op->off_bytes, end = start + d->op->len_bytes;
    return off >= start && off <= end && len <= end - off;
}

static int take_data_offset(struct reply_decoder *d, const uint8_t *p)
{
    uint64_t off = get_be64(p);
    uint32_t len = d->left_bytes - 8;
    if (!in_op(d, off, len))
        return protocol_error(d, "read data outside the range asked for");
    expect_data(d, len, off - d->op->off_bytes);
    return 0;
}

static int take_hole(struct reply_decoder *d, const uint8_t *p)
{
    uint64_t off = get_be64(p);
    uint32_t len = get_be32(p + 8);
    if (!in_op(d, off, len))
        return protocol_error(d, "a hole outside the range asked for");
    memset(d->op->buffer + (off - d->op->off_bytes), 0, len);
    d->op->received_bytes += len;
    return finish_chunk(d);
}

static int take_error(struct reply_decoder *d, const uint8_t *p)
{
    uint32_t error = get_be32(p);
    set_error(d->op, error != 0 ? error : 5);
    d->left_bytes -= 6;
    if (d->left_bytes == 0)
        return finish_chunk(d);
    d->state = REPLY_SKIP;
    return 0;
}

static int take_status_id(struct reply_decoder *d)
{
    d->left_bytes -= 4;
    d->state = REPLY_STATUS_EXTENT;
    d->op->status_off_bytes = d->op->off_bytes;
    d->op->status_found = false;
    return 0;
}

static int take_status_extent(struct reply_decoder *d, const uint8_t *p)
{
    struct nbd_op *op = d->op;
    if (!op->status_found) {
        bool zero = get_be32(p + 4) & STATE_ZERO;
        if (zero == op->want_zero)
            op->status_found = true;
        else
            op->status_off_bytes += get_be32(p);
    }
    d->left_bytes -= 8;
    return d->left_bytes == 0 ? finish_chunk(d) : 0;
}

static size_t fixed_bytes(enum reply_state state)
{
    switch (state) {
    case REPLY_HEADER:
        return 16;
    case REPLY_CHUNK_HEADER:
    case REPLY_STATUS_ID:
        return 4;
    case REPLY_DATA_OFFSET:
    case REPLY_STATUS_EXTENT:
        return 8;
    case REPLY_HOLE:
        return 12;
    case REPLY_ERROR:
        return 6;
    case REPLY_DATA:
    case REPLY_SKIP:
        return 0;
    }
    CHECK(false);
    return 0;
}

static int take_fixed(struct reply_decoder *d, const uint8_t *p)
{
    switch (d->state) {
    case REPLY_HEADER:
        return take_header(d, p);
    case REPLY_CHUNK_HEADER:
        return take_chunk_header(d, p);
    case REPLY_DATA_OFFSET:
        return take_data_offset(d, p);
    case REPLY_HOLE:
        return take_hole(d, p);
    case REPLY_ERROR:
        return take_error(d, p);
    case REPLY_STATUS_ID:
        return take_status_id(d);
    case REPLY_STATUS_EXTENT:
        return take_status_extent(d, p);
    case REPLY_DATA:
    case REPLY_SKIP:
        break;
    }
    CHECK(false);
    return 0;
}

/* `n` bytes of payload are at `p`, or at d->target already when p is that. */
static int take_payload(struct reply_decoder *d, const uint8_t *p, size_t n)
{
    if (d->state == REPLY_DATA) {
        if (p != d->target)
            memcpy(d->target, p, n);
        d->target += n;
        d->op->received_bytes += (uint32_t)n;
    }
    d->left_bytes -= (uint32_t)n;
    return d->left_bytes == 0 ? finish_chunk(d) : 0;
}

int64_t reply_decode(struct reply_decoder *d, const uint8_t *bytes, size_t len_bytes)
{
    size_t taken = 0;
    for (;;) {
        size_t left = len_bytes - taken, fixed = fixed_bytes(d->state);
        int r;
        if (left < MAX(fixed, 1))
            return (int64_t)taken;
        if (fixed > 0) {
            r = take_fixed(d, bytes + taken);
            taken += fixed;
        } else {
            size_t n = MIN(left, d->left_bytes);
            r = take_payload(d, bytes + taken, n);
            taken += n;
        }
        if (r < 0)
            return r;
    }
}
