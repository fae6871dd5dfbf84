/* SPDX-License-Identifier: Apache-2.0
 */
#include "tests/lib/nbd_client.h"

#include <errno.h>
#include <string.h>

#include "common/bytes.h"
#include "common/check.h"
#include "common/mem.h"

/* --- Bytes -------------------------------------------------------------------------------------
 */

bool nbd_client_recv(struct nbd_client *c, void *buf, size_t len_bytes)
{
    for (size_t done = 0; done < len_bytes;) {
        int64_t n = env_recv(c->stream, (char *)buf + done, len_bytes - done, UINT64_MAX);
        if (n <= 0)
            return false;
        done += n;
    }
    return true;
}

bool nbd_client_send(struct nbd_client *c, const void *buf, size_t len_bytes)
{
    struct iovec iov = {(void *)buf, len_bytes};
    return len_bytes == 0 || env_send(c->stream, &iov, 1, UINT64_MAX) == 0;
}

bool nbd_client_closed(struct nbd_client *c, uint64_t timeout_ns)
{
    char byte;
    int64_t n = env_recv(c->stream, &byte, 1, env_now_ns() + timeout_ns);
    return n == 0 || n == -ECONNRESET;
}

/* --- Handshake ---------------------------------------------------------------------------------
 */

struct nbd_client *nbd_client_new(const char *address, uint32_t client_flags)
{
    struct nbd_client *c = NEW(struct nbd_client);
    uint8_t greeting[18], flags[4];
    CHECK(env_connect(address, UINT64_MAX, &c->stream) == 0);
    CHECK(nbd_client_recv(c, greeting, sizeof(greeting)));
    CHECK(memcmp(greeting, "NBDMAGICIHAVEOPT", 16) == 0 && get_be16(greeting + 16) == 3);
    put_be32(flags, client_flags);
    CHECK(nbd_client_send(c, flags, sizeof(flags)));
    return c;
}

void nbd_client_free(struct nbd_client *c)
{
    env_stream_close(c->stream);
    mem_free(c);
}

void nbd_client_option(struct nbd_client *c, uint32_t option, const void *data, uint32_t len_bytes)
{
    uint8_t header[16];
    memcpy(header, "IHAVEOPT", 8);
    put_be32(header + 8, option);
    put_be32(header + 12, len_bytes);
    if (nbd_client_send(c, header, sizeof(header)))
        nbd_client_send(c, data, len_bytes);
}

uint32_t nbd_client_option_reply(
    struct nbd_client *c, uint32_t option, void *buf, uint32_t max, uint32_t *ret_len_bytes)
{
    uint8_t header[20];
    if (!nbd_client_recv(c, header, sizeof(header)))
        return 0;
    CHECK(get_be64(header) == 0x0003e889045565a9ull && get_be32(header + 8) == option);
    uint32_t len_bytes = get_be32(header + 16);
    CHECK(len_bytes <= max);
    if (!nbd_client_recv(c, buf, len_bytes))
        return 0;
    *ret_len_bytes = len_bytes;
    return get_be32(header + 12);
}

uint32_t nbd_client_info(struct nbd_client *c, uint32_t option, const char *name)
{
    uint8_t data[4200] = {0}, reply[4200];
    uint32_t name_bytes = strlen(name), len_bytes = 0, type;
    put_be32(data, name_bytes);
    memcpy(data + 4, name, name_bytes);
    nbd_client_option(c, option, data, 4 + name_bytes + 2);
    while ((type = nbd_client_option_reply(c, option, reply, sizeof(reply), &len_bytes)) ==
           NBD_REP_INFO) {
        if (get_be16(reply) != NBD_INFO_EXPORT)
            continue;
        c->size_bytes = get_be64(reply + 2);
        c->flags = get_be16(reply + 10);
    }
    return type;
}

uint32_t nbd_client_meta_data(
    uint8_t *buf, const char *name, const char *const *queries, unsigned query_count)
{
    uint8_t *at = buf;
    put_be32(at, strlen(name));
    at = mempcpy(at + 4, name, strlen(name));
    put_be32(at, query_count);
    at += 4;
    for (unsigned i = 0; i < query_count; i++) {
        put_be32(at, strlen(queries[i]));
        at = mempcpy(at + 4, queries[i], strlen(queries[i]));
    }
    return at - buf;
}

struct nbd_client *nbd_client_use(const char *address, const char *name, bool structured)
{
    static const char *const queries[] = {"base:allocation"};
    struct nbd_client *c = nbd_client_new(address, 3);
    uint8_t buf[4200];
    uint32_t len_bytes;
    if (structured) {
        nbd_client_option(c, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
        CHECK(nbd_client_option_reply(c, NBD_OPT_STRUCTURED_REPLY, buf, sizeof(buf), &len_bytes) ==
              NBD_REP_ACK);
        c->structured = true;
        len_bytes = nbd_client_meta_data(buf, name, queries, 1);
        nbd_client_option(c, NBD_OPT_SET_META_CONTEXT, buf, len_bytes);
        CHECK(nbd_client_option_reply(c, NBD_OPT_SET_META_CONTEXT, buf, sizeof(buf), &len_bytes) ==
              NBD_REP_META_CONTEXT);
        CHECK(nbd_client_option_reply(c, NBD_OPT_SET_META_CONTEXT, buf, sizeof(buf), &len_bytes) ==
              NBD_REP_ACK);
    }
    CHECK(nbd_client_info(c, NBD_OPT_GO, name) == NBD_REP_ACK);
    return c;
}

/* --- Transmission ------------------------------------------------------------------------------
 */

bool nbd_client_request(struct nbd_client *c, uint16_t type, uint16_t flags, uint64_t cookie,
    uint64_t off_bytes, uint32_t len_bytes, const void *payload)
{
    uint8_t header[28];
    put_be32(header, 0x25609513);
    put_be16(header + 4, flags);
    put_be16(header + 6, type);
    put_be64(header + 8, cookie);
    put_be64(header + 16, off_bytes);
    put_be32(header + 24, len_bytes);
    struct iovec iov[2] = {{header, sizeof(header)}, {(void *)payload, payload ? len_bytes : 0}};
    return env_send(c->stream, iov, 2, UINT64_MAX) == 0;
}

struct chunk {
    uint16_t flags, type;
    uint64_t cookie;
    uint32_t len_bytes;
};

MAY_SUSPEND static bool recv_content(struct nbd_client *c, const struct chunk *chunk,
    uint64_t off_bytes, uint32_t len_bytes, void *buf, struct nbd_client_reply *r)
{
    uint8_t wire[12];
    bool hole = chunk->type == NBD_REPLY_TYPE_OFFSET_HOLE;
    if (!nbd_client_recv(c, wire, hole ? 12 : 8))
        return false;
    uint64_t at = get_be64(wire);
    uint32_t n = hole ? get_be32(wire + 8) : chunk->len_bytes - 8;
    CHECK(n > 0 && at >= off_bytes && at - off_bytes <= len_bytes &&
          n <= len_bytes - (at - off_bytes));
    char *to = (char *)buf + (at - off_bytes);
    r->hole_chunks += hole;
    r->data_chunks += !hole;
    if (!hole)
        return nbd_client_recv(c, to, n);
    CHECK(chunk->len_bytes == 12);
    memset(to, 0, n);
    return true;
}

MAY_SUSPEND static bool recv_error(
    struct nbd_client *c, const struct chunk *chunk, struct nbd_client_reply *r)
{
    uint8_t wire[512];
    CHECK(chunk->len_bytes >= 6 && chunk->len_bytes <= sizeof(wire));
    if (!nbd_client_recv(c, wire, chunk->len_bytes))
        return false;
    CHECK(get_be16(wire + 4) == chunk->len_bytes - 6);
    r->error = get_be32(wire);
    CHECK(r->error != 0);
    return true;
}

MAY_SUSPEND static bool recv_status(
    struct nbd_client *c, const struct chunk *chunk, struct nbd_client_reply *r)
{
    uint8_t wire[8];
    CHECK(chunk->len_bytes >= 12 && chunk->len_bytes % 8 == 4);
    if (!nbd_client_recv(c, wire, 4))
        return false;
    r->extent_count = (chunk->len_bytes - 4) / 8;
    for (unsigned i = 0; i < r->extent_count; i++) {
        if (!nbd_client_recv(c, wire, 8))
            return false;
        if (i >= ARRAY_SIZE(r->extents))
            continue;
        r->extents[i].len_bytes = get_be32(wire);
        r->extents[i].flags = get_be32(wire + 4);
    }
    return true;
}

MAY_SUSPEND static bool recv_chunk(struct nbd_client *c, uint64_t off_bytes, uint32_t len_bytes,
    void *buf, struct nbd_client_reply *r, bool *ret_done)
{
    uint8_t wire[16];
    if (!nbd_client_recv(c, wire, sizeof(wire)))
        return false;
    struct chunk chunk = {
        get_be16(wire), get_be16(wire + 2), get_be64(wire + 4), get_be32(wire + 12)};
    r->cookie = chunk.cookie;
    *ret_done = chunk.flags & NBD_REPLY_FLAG_DONE;
    switch (chunk.type) {
    case NBD_REPLY_TYPE_NONE:
        CHECK(chunk.len_bytes == 0 && *ret_done);
        return true;
    case NBD_REPLY_TYPE_OFFSET_DATA:
    case NBD_REPLY_TYPE_OFFSET_HOLE:
        return recv_content(c, &chunk, off_bytes, len_bytes, buf, r);
    case NBD_REPLY_TYPE_BLOCK_STATUS:
        return recv_status(c, &chunk, r);
    case NBD_REPLY_TYPE_ERROR:
        return recv_error(c, &chunk, r);
    default:
        CHECK_MSG(false, "chunk of type %u", chunk.type);
    }
    return false;
}

bool nbd_client_reply(struct nbd_client *c, uint64_t off_bytes, uint32_t len_bytes, void *buf,
    struct nbd_client_reply *ret_reply)
{
    uint8_t magic[4], rest[12];
    bool done = false;
    memset(ret_reply, 0, sizeof(*ret_reply));
    if (!nbd_client_recv(c, magic, 4))
        return false;
    if (get_be32(magic) == 0x67446698) {
        if (!nbd_client_recv(c, rest, sizeof(rest)))
            return false;
        ret_reply->error = get_be32(rest);
        ret_reply->cookie = get_be64(rest + 4);
        return ret_reply->error || c->structured || nbd_client_recv(c, buf, len_bytes);
    }
    for (;;) {
        CHECK(get_be32(magic) == 0x668e33ef && c->structured);
        if (!recv_chunk(c, off_bytes, len_bytes, buf, ret_reply, &done))
            return false;
        if (done)
            return true;
        if (!nbd_client_recv(c, magic, 4))
            return false;
    }
}

uint32_t nbd_client_call(struct nbd_client *c, uint16_t type, uint16_t flags, uint64_t off_bytes,
    uint32_t len_bytes, void *buf)
{
    struct nbd_client_reply reply;
    uint64_t cookie = env_random_u64();
    if (!nbd_client_request(
            c, type, flags, cookie, off_bytes, len_bytes, type == NBD_CMD_WRITE ? buf : NULL) ||
        !nbd_client_reply(c, off_bytes, type == NBD_CMD_READ ? len_bytes : 0, buf, &reply))
        return UINT32_MAX;
    CHECK(reply.cookie == cookie);
    return reply.error;
}
