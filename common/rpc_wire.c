/* SPDX-License-Identifier: Apache-2.0
 *
 * Every field at its offset, little-endian. A header's CRC is looked at before anything else in it
 * but the magic.
 */
#include "common/rpc_wire.h"

#include <errno.h>
#include <string.h>

#include "common/bytes.h"
#include "common/check.h"
#include "common/crc32c.h"

#define MAGIC 0x43505248u /* "HRPC" */

/* --- Header ------------------------------------------------------------------------------------- */

enum {
    AT_MAGIC = 0,
    AT_VERSION = 4,
    AT_TYPE = 5,
    AT_CODE = 6,
    AT_ID = 8,
    AT_DEADLINE = 16,
    AT_BODY_LEN = 24,
    AT_PAYLOAD_LEN = 28,
    AT_REPLY_MAX = 32,
    AT_BODY_CRC = 36,
    AT_PAYLOAD_CRC = 40,
    AT_HEADER_CRC = 44,
};

/* Which fields a type uses (W2). */
enum {
    USES_CODE = 1,
    USES_ID = 2,
    USES_DEADLINE = 4, /* and reply_bytes_max */
    USES_BODY = 8,
    USES_PAYLOAD = 16,
};

static const uint8_t uses_of[] = {
    [RPC_FRAME_HELLO] = USES_BODY,
    [RPC_FRAME_END] = USES_CODE | USES_BODY,
    [RPC_FRAME_REQUEST] = USES_CODE | USES_ID | USES_DEADLINE | USES_BODY | USES_PAYLOAD,
    [RPC_FRAME_REPLY] = USES_CODE | USES_ID | USES_BODY | USES_PAYLOAD,
    [RPC_FRAME_CANCEL] = USES_ID,
    [RPC_FRAME_PING] = 0,
};

void rpc_header_encode(const struct rpc_header *h, uint8_t ret_wire[RPC_HEADER_BYTES])
{
    put_le32(ret_wire + AT_MAGIC, MAGIC);
    ret_wire[AT_VERSION] = h->version;
    ret_wire[AT_TYPE] = h->type;
    put_le16(ret_wire + AT_CODE, h->code);
    put_le64(ret_wire + AT_ID, h->id);
    put_le64(ret_wire + AT_DEADLINE, h->deadline_us);
    put_le32(ret_wire + AT_BODY_LEN, h->body_len_bytes);
    put_le32(ret_wire + AT_PAYLOAD_LEN, h->payload_bytes);
    put_le32(ret_wire + AT_REPLY_MAX, h->reply_bytes_max);
    put_le32(ret_wire + AT_BODY_CRC, h->body_crc);
    put_le32(ret_wire + AT_PAYLOAD_CRC, h->payload_crc);
    put_le32(ret_wire + AT_HEADER_CRC, crc32c(0, ret_wire, AT_HEADER_CRC));
}

static bool unused_is_zero(const struct rpc_header *h, unsigned uses)
{
    return (uses & USES_CODE || h->code == 0) && (uses & USES_ID || h->id == 0) &&
           (uses & USES_DEADLINE || (h->deadline_us == 0 && h->reply_bytes_max == 0)) &&
           (uses & USES_BODY || h->body_len_bytes == 0) &&
           (uses & USES_PAYLOAD || h->payload_bytes == 0) &&
           (h->body_len_bytes > 0 || h->body_crc == 0) &&
           (h->payload_bytes > 0 || h->payload_crc == 0);
}

static uint32_t body_max(const struct rpc_header *h)
{
    return h->type == RPC_FRAME_HELLO ? RPC_HELLO_BYTES_MAX
           : h->type == RPC_FRAME_END ? RPC_END_TEXT_BYTES_MAX
                                      : RPC_BODY_BYTES_MAX;
}

static const char *header_check(const struct rpc_header *h, uint8_t version)
{
    if (h->type == 0 || h->type >= ARRAY_SIZE(uses_of))
        return "a frame of unknown type";
    bool of_all_versions = h->type == RPC_FRAME_HELLO || h->type == RPC_FRAME_END ||
                           h->type == RPC_FRAME_PING; /* W1 */
    if (!of_all_versions && version == 0)
        return "a frame before the hello";
    if (h->version != (of_all_versions ? 0 : version))
        return "a frame of another version than agreed";
    if (!unused_is_zero(h, uses_of[h->type]))
        return "a frame header with fields that its type does not have";
    if (h->body_len_bytes > body_max(h))
        return "a frame body that is too long";
    if (h->payload_bytes > RPC_PAYLOAD_BYTES_MAX || h->reply_bytes_max > RPC_PAYLOAD_BYTES_MAX)
        return "a payload that is too long";
    return NULL;
}

const char *rpc_header_decode(
    const uint8_t wire[RPC_HEADER_BYTES], uint8_t version, struct rpc_header *ret_header)
{
    if (get_le32(wire + AT_MAGIC) != MAGIC)
        return "what is no frame (wrong magic number)";
    if (get_le32(wire + AT_HEADER_CRC) != crc32c(0, wire, AT_HEADER_CRC))
        return "a damaged frame header (CRC)";
    struct rpc_header h = {
        .version = wire[AT_VERSION],
        .type = wire[AT_TYPE],
        .code = get_le16(wire + AT_CODE),
        .id = get_le64(wire + AT_ID),
        .deadline_us = get_le64(wire + AT_DEADLINE),
        .body_len_bytes = get_le32(wire + AT_BODY_LEN),
        .payload_bytes = get_le32(wire + AT_PAYLOAD_LEN),
        .reply_bytes_max = get_le32(wire + AT_REPLY_MAX),
        .body_crc = get_le32(wire + AT_BODY_CRC),
        .payload_crc = get_le32(wire + AT_PAYLOAD_CRC),
    };
    const char *wrong = header_check(&h, version);
    if (!wrong)
        *ret_header = h;
    return wrong;
}

/* --- Hello -------------------------------------------------------------------------------------- */

enum {
    HELLO_VERSION_MIN = 0,
    HELLO_VERSION_MAX = 2,
    HELLO_SILENCE = 4,
    HELLO_FEATURES = 8,
    HELLO_CLUSTER = 16,
    HELLO_NODE = 32,
    HELLO_BOOT = 48,
    HELLO_INCARNATION = 64,
    HELLO_WINDOW_BYTES = 72,
    HELLO_WINDOW_CALLS = 80,
    HELLO_ZERO = 84,
    HELLO_WANTED_NODE = 88,
    HELLO_NAME = 104,
    HELLO_WANTED_NAME = HELLO_NAME + RPC_NODE_NAME_BYTES_MAX,
};

_Static_assert(HELLO_WANTED_NAME + RPC_NODE_NAME_BYTES_MAX == RPC_HELLO_BYTES, "docs/PROTOCOL.md");

static void put_name(uint8_t *at, const char *name)
{
    memset(at, 0, RPC_NODE_NAME_BYTES_MAX);
    memcpy(at, name, strnlen(name, RPC_NODE_NAME_BYTES_MAX - 1));
}

/* Printable ASCII without spaces, zeros to the end. */
static bool get_name(const uint8_t *at, char ret_name[RPC_NODE_NAME_BYTES_MAX])
{
    unsigned len = 0;
    while (len < RPC_NODE_NAME_BYTES_MAX && at[len] > ' ' && at[len] < 0x7f)
        len++;
    for (unsigned i = len; i < RPC_NODE_NAME_BYTES_MAX; i++)
        if (at[i] != 0)
            return false;
    if (len == RPC_NODE_NAME_BYTES_MAX)
        return false;
    memcpy(ret_name, at, RPC_NODE_NAME_BYTES_MAX);
    return true;
}

void rpc_hello_encode(const struct rpc_hello *hello, uint8_t ret_body[RPC_HELLO_BYTES])
{
    put_le16(ret_body + HELLO_VERSION_MIN, hello->version_min);
    put_le16(ret_body + HELLO_VERSION_MAX, hello->version_max);
    put_le32(ret_body + HELLO_SILENCE, hello->silence_ms);
    put_le64(ret_body + HELLO_FEATURES, hello->features);
    memcpy(ret_body + HELLO_CLUSTER, hello->self.cluster.bytes, 16);
    memcpy(ret_body + HELLO_NODE, hello->self.node.bytes, 16);
    memcpy(ret_body + HELLO_BOOT, hello->self.boot_id, 16);
    put_le64(ret_body + HELLO_INCARNATION, hello->self.incarnation);
    put_le64(ret_body + HELLO_WINDOW_BYTES, hello->window_bytes);
    put_le32(ret_body + HELLO_WINDOW_CALLS, hello->window_calls);
    put_le32(ret_body + HELLO_ZERO, 0);
    memcpy(ret_body + HELLO_WANTED_NODE, hello->wanted_node.bytes, 16);
    put_name(ret_body + HELLO_NAME, hello->self.node_name);
    put_name(ret_body + HELLO_WANTED_NAME, hello->wanted_name);
}

const char *rpc_hello_decode(
    const uint8_t *body, uint32_t body_len_bytes, struct rpc_hello *ret_hello)
{
    struct rpc_hello hello = {0};
    if (body_len_bytes < RPC_HELLO_BYTES)
        return "a hello that is too short";
    hello.version_min = get_le16(body + HELLO_VERSION_MIN);
    hello.version_max = get_le16(body + HELLO_VERSION_MAX);
    hello.silence_ms = get_le32(body + HELLO_SILENCE);
    hello.features = get_le64(body + HELLO_FEATURES);
    memcpy(hello.self.cluster.bytes, body + HELLO_CLUSTER, 16);
    memcpy(hello.self.node.bytes, body + HELLO_NODE, 16);
    memcpy(hello.self.boot_id, body + HELLO_BOOT, 16);
    hello.self.incarnation = get_le64(body + HELLO_INCARNATION);
    hello.window_bytes = get_le64(body + HELLO_WINDOW_BYTES);
    hello.window_calls = get_le32(body + HELLO_WINDOW_CALLS);
    memcpy(hello.wanted_node.bytes, body + HELLO_WANTED_NODE, 16);
    if (!get_name(body + HELLO_NAME, hello.self.node_name) ||
        !get_name(body + HELLO_WANTED_NAME, hello.wanted_name))
        return "a hello with a name that is none";
    if (hello.version_min == 0 || hello.version_min > hello.version_max)
        return "a hello without a protocol version";
    if (hello.silence_ms == 0)
        return "a hello without a time of silence";
    *ret_hello = hello;
    return NULL;
}

uint8_t rpc_hello_agree(const struct rpc_hello *a, const struct rpc_hello *b)
{
    uint16_t highest = MIN(a->version_max, b->version_max);
    return highest >= MAX(a->version_min, b->version_min) && highest <= UINT8_MAX ? (uint8_t)highest
                                                                                  : 0;
}

void rpc_end_text(
    const uint8_t *body, uint32_t body_len_bytes, char ret_text[RPC_END_TEXT_BYTES_MAX + 1])
{
    CHECK(body_len_bytes <= RPC_END_TEXT_BYTES_MAX);
    for (uint32_t i = 0; i < body_len_bytes; i++)
        ret_text[i] = body[i] >= ' ' && body[i] < 0x7f ? (char)body[i] : '?';
    ret_text[body_len_bytes] = 0;
}

/* --- Status ------------------------------------------------------------------------------------- */

/* The index is the number on the wire: append only. */
static const int statuses[] = {
    0,
    ENOENT,
    EBADMSG,
    EIO,
    EHOSTUNREACH,
    ESTALE,
    ENOSPC,
    ERANGE,
    EEXIST,
    EROFS,
    EREMOTEIO,
    EINVAL,
    EAGAIN,
    EBUSY,
    ESHUTDOWN,
    ECANCELED,
    ENOSYS,
    ENOTSUP,
    ETIMEDOUT,
    ENODEV,
    EMSGSIZE,
    ENOMEM,
    EACCES,
    EPROTO,
    EPERM,
    E2BIG,
    ENAMETOOLONG,
};

uint16_t rpc_status_encode(int status)
{
    for (uint16_t i = 0; i < ARRAY_SIZE(statuses); i++)
        if (statuses[i] == -status)
            return i;
    return rpc_status_encode(-EIO);
}

int rpc_status_decode(uint16_t code)
{
    return code < ARRAY_SIZE(statuses) ? -statuses[code] : -EIO;
}
