/* SPDX-License-Identifier: Apache-2.0
 *
 * Bytes to values and back, and the checks of a request that need no I/O. Pure functions: they own
 * nothing, suspend nowhere, and read only inside the lengths they are given.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "blockd/nbd/protocol.h"

/* --- Handshake ---------------------------------------------------------------------------------
 */

struct nbd_option_header {
    uint32_t option, len_bytes;
};
/* -EPROTO: the magic is wrong. */
int nbd_decode_option_header(
    const uint8_t wire[NBD_OPTION_HEADER_BYTES], struct nbd_option_header *ret_header);
void nbd_encode_option_reply(uint8_t wire[NBD_OPTION_REPLY_HEADER_BYTES], uint32_t option,
    uint32_t type, uint32_t len_bytes);

/* A string inside option data: not NUL-terminated. */
struct nbd_string {
    const char *text;
    uint32_t len_bytes;
};

/* Data of NBD_OPT_INFO and NBD_OPT_GO. */
struct nbd_info_request {
    struct nbd_string name;
    const uint8_t *infos; /* big-endian 16 bit each */
    unsigned info_count;
};
/* -EINVAL: lengths contradict each other, or the name is no string of the protocol. */
int nbd_decode_info_request(
    const uint8_t *data, uint32_t len_bytes, struct nbd_info_request *ret_request);
bool nbd_info_requested(const struct nbd_info_request *request, enum nbd_info info);

/* Data of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT. All queries are checked at once;
 * nbd_meta_query_next() then cannot fail: false after the last. */
struct nbd_meta_request {
    struct nbd_string name;
    uint32_t query_count;
    const uint8_t *queries, *end;
};
int nbd_decode_meta_request(
    const uint8_t *data, uint32_t len_bytes, struct nbd_meta_request *ret_request);
bool nbd_meta_query_next(struct nbd_meta_request *request, struct nbd_string *ret_query);

/* At most 4096 bytes and none of them NUL ("Conventions"). */
bool nbd_string_valid(struct nbd_string s);
bool nbd_string_equal(struct nbd_string s, const char *text);

/* --- Transmission ------------------------------------------------------------------------------
 */

struct nbd_request_header {
    uint64_t cookie, off_bytes;
    uint32_t len_bytes;
    uint16_t flags, type;
};
/* -EPROTO: the magic is wrong. */
int nbd_decode_request(
    const uint8_t wire[NBD_REQUEST_BYTES], struct nbd_request_header *ret_header);

/* What was negotiated and decides whether a request is valid. */
struct nbd_terms {
    uint64_t size_bytes;
    bool structured; /* replies */
    bool allocation; /* base:allocation was selected */
};
uint16_t nbd_transmission_flags(bool structured);
/* NBD_SUCCESS, or the error that the text wants for it. Not for NBD_CMD_DISC. */
enum nbd_error nbd_check_request(
    const struct nbd_request_header *header, const struct nbd_terms *terms);

/* Negative errno of the volume, or 0, to an error value. */
enum nbd_error nbd_error_of(int rc);
/* A sentence for people. */
const char *nbd_error_text(enum nbd_error error);

void nbd_encode_simple_reply(
    uint8_t wire[NBD_SIMPLE_REPLY_BYTES], enum nbd_error error, uint64_t cookie);
void nbd_encode_chunk(uint8_t wire[NBD_STRUCTURED_REPLY_BYTES], uint16_t flags, uint16_t type,
    uint64_t cookie, uint32_t len_bytes);
