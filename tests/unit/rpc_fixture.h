/* SPDX-License-Identifier: Apache-2.0
 *
 * A server with a few methods and clients of it, in one env. Used in the production env (test_rpc)
 * and in the simulated one (test_rpc_faults).
 */
#pragma once

#include <errno.h>
#include <string.h>

#include "common/check.h"
#include "common/crc32c.h"
#include "common/env.h"
#include "common/mem.h"
#include "common/rpc.h"

#define RPC_MS 1000000ull

enum {
    ECHO = 1,   /* body and payload come back */
    WAIT = 2,   /* replies when the test says so: fixture.waiting */
    ERROR = 3,  /* the body is a negative errno */
    FILL = 4,   /* body: u32 length, which many bytes of 'f' come back */
    STRICT = 5, /* body of 8 bytes and more, no payload */
};

static struct rpc_fixture {
    struct rpc_server *server;
    struct rpc_client *client;
    unsigned connected, disconnected, began, ended;
    int refuse;
    struct rpc_request *waiting[16];
    unsigned waiting_count;
    unsigned replies_sent, handled;
    uint64_t order_last; /* bodies of ECHO: must rise (C2) when `ordered` */
    bool ordered;
} fx;

static inline struct rpc_options rpc_options_of(const char *name, uint8_t node)
{
    struct rpc_options options = {.self = {.cluster = {.bytes = {1, 2, 3}},
                                      .node = {.bytes = {node}},
                                      .incarnation = node * 1000ull,
                                      .boot_id = {9}}};
    strcpy(options.self.node_name, name);
    return options;
}

struct fixture_payload {
    struct iovec iov;
};

static inline void fixture_sent(void *arg)
{
    struct fixture_payload *payload = arg;
    fx.replies_sent++;
    mem_free_pages(payload->iov.iov_base, payload->iov.iov_len);
    mem_free(payload);
}

/* Each of whole blocks has its own CRC, and NULL it is otherwise. */
static inline void check_block_crcs(
    const uint32_t *block_crcs, const void *payload, uint64_t len_bytes)
{
    CHECK((block_crcs != NULL) == (len_bytes > 0 && len_bytes % 4096 == 0));
    for (uint64_t off = 0; block_crcs && off < len_bytes; off += 4096)
        CHECK(block_crcs[off / 4096] == crc32c(0, (const uint8_t *)payload + off, 4096));
}

static inline void fixture_reply(
    struct rpc_request *request, uint32_t bytes, const void *data, uint8_t fill)
{
    struct fixture_payload *payload = NEW(struct fixture_payload);
    payload->iov = (struct iovec){mem_alloc_pages(bytes), bytes};
    if (data)
        memcpy(payload->iov.iov_base, data, bytes);
    else
        memset(payload->iov.iov_base, fill, bytes);
    struct iovec iov = payload->iov; /* the array itself need not stay */
    rpc_reply(request, 0, request->body, request->body_len_bytes, &iov, 1, fixture_sent, payload);
}

static inline void handle_echo(void *ctx, struct rpc_request *request)
{
    uint64_t number = 0;
    fx.handled++;
    CHECK((uintptr_t)request->payload % 4096 == 0);
    check_block_crcs(request->block_crcs, request->payload, request->payload_bytes);
    request->reply_crc_known = request->block_crcs != NULL;
    request->reply_crc = request->block_crcs ? crc32c_add_blocks(0, request->block_crcs,
                                                   request->payload_bytes / 4096, sizeof(uint32_t))
                                             : 0;
    memcpy(&number, request->body, MIN(request->body_len_bytes, sizeof(number)));
    CHECK_MSG(!fx.ordered || number > fx.order_last, "C2");
    fx.order_last = number;
    if (request->payload_bytes > 0)
        fixture_reply(request, request->payload_bytes, request->payload, 0);
    else
        rpc_reply(request, 0, request->body, request->body_len_bytes, NULL, 0, NULL, NULL);
}

static inline void handle_wait(void *ctx, struct rpc_request *request)
{
    CHECK(fx.waiting_count < ARRAY_SIZE(fx.waiting));
    fx.waiting[fx.waiting_count++] = request;
}

static inline void fixture_release(void)
{
    for (unsigned i = 0; i < fx.waiting_count; i++)
        rpc_reply(fx.waiting[i], 0, NULL, 0, NULL, 0, NULL, NULL);
    fx.waiting_count = 0;
}

static inline void handle_error(void *ctx, struct rpc_request *request)
{
    int status;
    memcpy(&status, request->body, sizeof(status));
    rpc_reply(request, status, NULL, 0, NULL, 0, NULL, NULL);
}

static inline void handle_fill(void *ctx, struct rpc_request *request)
{
    uint32_t bytes;
    memcpy(&bytes, request->body, sizeof(bytes));
    fixture_reply(request, bytes, NULL, 'f');
}

static const struct rpc_method fixture_methods[] = {
    {ECHO, "echo", handle_echo, 0, RPC_PAYLOAD_BYTES_MAX},
    {WAIT, "wait", handle_wait, 0, 1 << 20},
    {ERROR, "error", handle_error, 4, 0},
    {FILL, "fill", handle_fill, 4, 0},
    {STRICT, "strict", handle_error, 8, 0},
};

static inline int fixture_began(void *ctx, struct rpc_session *session)
{
    if (fx.refuse)
        return fx.refuse;
    fx.began++;
    rpc_session_set_user(session, &fx);
    return 0;
}

static inline void fixture_ended(void *ctx, struct rpc_session *session)
{
    CHECK(rpc_session_user(session) == &fx);
    fx.ended++;
}

static inline void fixture_connected(void *ctx, const struct rpc_identity *peer)
{
    fx.connected++;
}

static inline void fixture_disconnected(void *ctx)
{
    fx.disconnected++;
}

static const struct rpc_server_events fixture_server_events = {fixture_began, fixture_ended};
static const struct rpc_client_events fixture_client_events = {
    fixture_connected, fixture_disconnected, NULL};

static inline void fixture_serve(const struct rpc_options *options, const char *address)
{
    char *error = NULL;
    int rc = rpc_server_start(options, address, fixture_methods, ARRAY_SIZE(fixture_methods),
        &fixture_server_events, NULL, &fx.server, &error);
    CHECK_MSG(rc == 0, "%s", error);
}

static inline bool wait_until(bool (*is)(void), uint64_t timeout_ns)
{
    uint64_t end_ns = env_now_ns() + timeout_ns;
    while (!is() && env_now_ns() < end_ns)
        env_sleep_ns(RPC_MS);
    return is();
}

static inline bool is_connected(void)
{
    return rpc_client_connected(fx.client);
}

static inline bool is_disconnected(void)
{
    return !rpc_client_connected(fx.client);
}

/* A server "b" and a client "a" of it, connected. */
static inline void fixture_start(struct rpc_options server, struct rpc_options client)
{
    fx = (struct rpc_fixture){0};
    fixture_serve(&server, "tcp:127.0.0.1:0");
    fx.client = rpc_client_new(&client, rpc_server_address(fx.server), server.self.node_name,
        &server.self.node, &fixture_client_events);
    CHECK_MSG(wait_until(is_connected, 30000 * RPC_MS), "%s", rpc_client_problem(fx.client));
}

static inline void fixture_stop(void)
{
    fixture_release();
    rpc_client_free(fx.client);
    rpc_server_stop(fx.server);
    CHECK(fx.connected == fx.disconnected && fx.began == fx.ended);
}

static inline uint64_t bytes_of(const struct iovec *iov, unsigned count)
{
    uint64_t bytes = 0;
    for (unsigned i = 0; i < count; i++)
        bytes += iov[i].iov_len;
    return bytes;
}
