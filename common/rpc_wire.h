/* SPDX-License-Identifier: Apache-2.0
 *
 * The bytes of the RPC protocol (docs/PROTOCOL.md): frame headers, hellos, status codes. Pure: no
 * I/O, no memory, no clock. Decoders take anything and refuse with a sentence.
 *
 *  W1 The header's layout and the frames hello, end and ping are the same in every version, so that nodes
 *     of any two versions can tell one another why they do not get along.
 *  W2 A field that a frame's type does not use is zero; a decoder refuses what is not.
 */
#pragma once

#include "common/rpc.h"

#define RPC_HEADER_BYTES 48u
#define RPC_HELLO_BYTES 232u
#define RPC_HELLO_BYTES_MAX 1024u /* later versions may add at the end */
#define RPC_END_TEXT_BYTES_MAX 256u
#define RPC_VERSION_MIN 1
#define RPC_FEATURES 0ull /* known to this program */

enum rpc_frame_type {
    RPC_FRAME_HELLO = 1,
    RPC_FRAME_END = 2, /* why the sender ends the connection; nothing follows it */
    RPC_FRAME_REQUEST = 3,
    RPC_FRAME_REPLY = 4,
    RPC_FRAME_CANCEL = 5,
    RPC_FRAME_PING = 6, /* a sign of life; asks for nothing */
};

struct rpc_header {
    uint8_t version; /* the agreed one; 0 in hello, end, ping (W1) */
    uint8_t type;
    uint16_t code;            /* request: method; reply, end: status on the wire */
    uint64_t id;              /* request, reply, cancel */
    uint64_t deadline_us;     /* request: from when it was sent; 0 = none */
    uint32_t body_len_bytes;  /* <= RPC_BODY_BYTES_MAX */
    uint32_t payload_bytes;   /* request, reply; <= RPC_PAYLOAD_BYTES_MAX */
    uint32_t reply_bytes_max; /* request: payload that the reply may carry */
    uint32_t body_crc;        /* of no bytes: 0 */
    uint32_t payload_crc;
};

void rpc_header_encode(const struct rpc_header *header, uint8_t ret_wire[RPC_HEADER_BYTES]);
/* NULL when it is a good header of a known type, with lengths in their bounds; `version` 0: only
 * those of W1 are. Else what is wrong with it (static text). */
const char *rpc_header_decode(
    const uint8_t wire[RPC_HEADER_BYTES], uint8_t version, struct rpc_header *ret_header);

struct rpc_hello {
    uint16_t version_min, version_max;
    uint64_t features;
    struct rpc_identity self;
    uint32_t silence_ms;   /* after which the sender takes the other one for gone */
    uint64_t window_bytes; /* of a server: what a client may have unanswered; of a client: 0 */
    uint32_t window_calls;
    struct uuid wanted_node;                   /* of a client: whom it dialled; nil = any */
    char wanted_name[RPC_NODE_NAME_BYTES_MAX]; /* "" = any */
};

void rpc_hello_encode(const struct rpc_hello *hello, uint8_t ret_body[RPC_HELLO_BYTES]);
/* NULL, or what is wrong with it. Names come out terminated and printable. */
const char *rpc_hello_decode(
    const uint8_t *body, uint32_t body_len_bytes, struct rpc_hello *ret_hello);
/* The highest version that both speak; 0: there is none. */
uint8_t rpc_hello_agree(const struct rpc_hello *a, const struct rpc_hello *b);

/* The text of an end frame as it may be shown to people: printable ASCII, terminated. */
void rpc_end_text(
    const uint8_t *body, uint32_t body_len_bytes, char ret_text[RPC_END_TEXT_BYTES_MAX + 1]);

/* 0 or negative errno <-> number on the wire. An errno without a number becomes EIO's, a number
 * without an errno becomes -EIO. */
uint16_t rpc_status_encode(int status);
int rpc_status_decode(uint16_t code);
