/* SPDX-License-Identifier: Apache-2.0
 *
 * Everything that reads what a client sent stands here and in nothing else, so that the fuzzers see
 * all of it. Sections of the protocol text are quoted.
 */
#include "blockd/nbd/codec.h"

#include <errno.h>
#include <string.h>

#include "common/bytes.h"

/* --- Handshake ---------------------------------------------------------------------------------
 */

int nbd_decode_option_header(
    const uint8_t wire[NBD_OPTION_HEADER_BYTES], struct nbd_option_header *ret_header)
{
    if (get_be64(wire) != NBD_OPTION_MAGIC)
        return -EPROTO;
    ret_header->option = get_be32(wire + 8);
    ret_header->len_bytes = get_be32(wire + 12);
    return 0;
}

void nbd_encode_option_reply(
    uint8_t wire[NBD_OPTION_REPLY_HEADER_BYTES], uint32_t option, uint32_t type, uint32_t len_bytes)
{
    put_be64(wire, NBD_OPTION_REPLY_MAGIC);
    put_be32(wire + 8, option);
    put_be32(wire + 12, type);
    put_be32(wire + 16, len_bytes);
}

bool nbd_string_valid(struct nbd_string s)
{
    return s.len_bytes <= NBD_STRING_BYTES_MAX && !memchr(s.text, 0, s.len_bytes);
}

bool nbd_string_equal(struct nbd_string s, const char *text)
{
    return s.len_bytes == strlen(text) && memcmp(s.text, text, s.len_bytes) == 0;
}

/* A 32-bit length and that many bytes, at *pos of what ends at `end`. */
static int take_string(const uint8_t **pos, const uint8_t *end, struct nbd_string *ret_string)
{
    if (end - *pos < 4)
        return -EINVAL;
    uint32_t len_bytes = get_be32(*pos);
    if (len_bytes > (size_t)(end - *pos - 4))
        return -EINVAL;
    struct nbd_string s = {(const char *)*pos + 4, len_bytes};
    if (!nbd_string_valid(s))
        return -EINVAL;
    *pos += 4 + len_bytes;
    *ret_string = s;
    return 0;
}

int nbd_decode_info_request(
    const uint8_t *data, uint32_t len_bytes, struct nbd_info_request *ret_request)
{
    const uint8_t *pos = data, *end = data + len_bytes;
    struct nbd_info_request request;
    if (take_string(&pos, end, &request.name) < 0 || end - pos < 2)
        return -EINVAL;
    request.info_count = get_be16(pos);
    request.infos = pos + 2;
    if ((size_t)(end - request.infos) != request.info_count * 2u)
        return -EINVAL;
    *ret_request = request;
    return 0;
}

bool nbd_info_requested(const struct nbd_info_request *request, enum nbd_info info)
{
    for (unsigned i = 0; i < request->info_count; i++)
        if (get_be16(request->infos + 2 * i) == info)
            return true;
    return false;
}

int nbd_decode_meta_request(
    const uint8_t *data, uint32_t len_bytes, struct nbd_meta_request *ret_request)
{
    const uint8_t *pos = data, *end = data + len_bytes;
    struct nbd_meta_request request;
    if (take_string(&pos, end, &request.name) < 0 || end - pos < 4)
        return -EINVAL;
    request.query_count = get_be32(pos);
    request.queries = pos += 4;
    request.end = end;
    for (uint32_t i = 0; i < request.query_count; i++) {
        struct nbd_string query;
        if (take_string(&pos, end, &query) < 0)
            return -EINVAL;
    }
    if (pos != end)
        return -EINVAL;
    *ret_request = request;
    return 0;
}

bool nbd_meta_query_next(struct nbd_meta_request *request, struct nbd_string *ret_query)
{
    return take_string(&request->queries, request->end, ret_query) == 0;
}

/* --- Transmission ------------------------------------------------------------------------------
 */

int nbd_decode_request(const uint8_t wire[NBD_REQUEST_BYTES], struct nbd_request_header *ret_header)
{
    if (get_be32(wire) != NBD_REQUEST_MAGIC)
        return -EPROTO;
    *ret_header = (struct nbd_request_header){
        .flags = get_be16(wire + 4),
        .type = get_be16(wire + 6),
        .cookie = get_be64(wire + 8),
        .off_bytes = get_be64(wire + 16),
        .len_bytes = get_be32(wire + 24),
    };
    return 0;
}

uint16_t nbd_transmission_flags(bool structured)
{
    /* MULTI_CONN: volume_flush() covers what was acknowledged on every connection, and there is no
     * cache per connection. DF "MUST be left clear if structured replies have not been negotiated".
     */
    return NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_TRIM |
           NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_CAN_MULTI_CONN | NBD_FLAG_SEND_CACHE |
           NBD_FLAG_SEND_FAST_ZERO | (structured ? NBD_FLAG_SEND_DF : 0);
}

/* "Command flags": FUA is valid for every command, the others for one each. */
static uint16_t valid_flags(const struct nbd_request_header *header, const struct nbd_terms *terms)
{
    switch (header->type) {
    case NBD_CMD_READ:
        return NBD_CMD_FLAG_FUA | (terms->structured ? NBD_CMD_FLAG_DF : 0);
    case NBD_CMD_WRITE_ZEROES:
        return NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO;
    case NBD_CMD_BLOCK_STATUS:
        return NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_REQ_ONE;
    default:
        return NBD_CMD_FLAG_FUA;
    }
}

enum nbd_error nbd_check_request(
    const struct nbd_request_header *header, const struct nbd_terms *terms)
{
    if (header->flags & ~valid_flags(header, terms))
        return NBD_EINVAL;
    bool beyond = header->off_bytes > terms->size_bytes ||
                  header->len_bytes > terms->size_bytes - header->off_bytes;
    bool large = header->len_bytes > NBD_PAYLOAD_BYTES_MAX;
    switch (header->type) {
    case NBD_CMD_READ:
        /* "also permitted to reject large read requests up front with NBD_EOVERFLOW": only with
         * structured replies. */
        if (large)
            return terms->structured ? NBD_EOVERFLOW : NBD_EINVAL;
        return beyond ? NBD_EINVAL : NBD_SUCCESS;
    case NBD_CMD_WRITE:
        if (large)
            return NBD_EINVAL;
        return beyond ? NBD_ENOSPC : NBD_SUCCESS;
    case NBD_CMD_WRITE_ZEROES:
        return beyond ? NBD_ENOSPC : NBD_SUCCESS;
    case NBD_CMD_TRIM:
    case NBD_CMD_CACHE:
        return beyond ? NBD_EINVAL : NBD_SUCCESS;
    case NBD_CMD_FLUSH:
        return header->off_bytes || header->len_bytes ? NBD_EINVAL : NBD_SUCCESS;
    case NBD_CMD_BLOCK_STATUS:
        /* A reply needs at least one extent of at least one byte. */
        return beyond || !terms->allocation || header->len_bytes == 0 ? NBD_EINVAL : NBD_SUCCESS;
    default:
        return NBD_EINVAL;
    }
}

enum nbd_error nbd_error_of(int rc)
{
    switch (-rc) {
    case 0:
        return NBD_SUCCESS;
    case EPERM:
    case EROFS:
    case EACCES:
        return NBD_EPERM;
    case ENOMEM:
        return NBD_ENOMEM;
    case EINVAL:
        return NBD_EINVAL;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return NBD_ENOSPC;
    case EOVERFLOW:
        return NBD_EOVERFLOW;
    case ENOTSUP:
        return NBD_ENOTSUP;
    case ESHUTDOWN:
        return NBD_ESHUTDOWN;
    default:
        return NBD_EIO;
    }
}

const char *nbd_error_text(enum nbd_error error)
{
    switch (error) {
    case NBD_EPERM:
        return "the volume is read-only";
    case NBD_EIO:
        return "input/output error; 'holdfast volume info' says what is wrong";
    case NBD_ENOMEM:
        return "out of memory";
    case NBD_EINVAL:
        return "invalid request: unknown command or flag, or outside the volume";
    case NBD_ENOSPC:
        return "no space, or beyond the end of the volume; see 'holdfast status'";
    case NBD_EOVERFLOW:
        return "longer than the advertised maximum of 32 MiB";
    case NBD_ENOTSUP:
        return "no faster than a write";
    case NBD_ESHUTDOWN:
        return "the server is being shut down";
    default:
        return "error";
    }
}

void nbd_encode_simple_reply(
    uint8_t wire[NBD_SIMPLE_REPLY_BYTES], enum nbd_error error, uint64_t cookie)
{
    put_be32(wire, NBD_SIMPLE_REPLY_MAGIC);
    put_be32(wire + 4, error);
    put_be64(wire + 8, cookie);
}

void nbd_encode_chunk(uint8_t wire[NBD_STRUCTURED_REPLY_BYTES], uint16_t flags, uint16_t type,
    uint64_t cookie, uint32_t len_bytes)
{
    put_be32(wire, NBD_STRUCTURED_REPLY_MAGIC);
    put_be16(wire + 4, flags);
    put_be16(wire + 6, type);
    put_be64(wire + 8, cookie);
    put_be32(wire + 16, len_bytes);
}
