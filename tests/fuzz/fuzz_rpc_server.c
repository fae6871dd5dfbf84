/* SPDX-License-Identifier: Apache-2.0
 *
 * What a server hears of a client. Whatever comes, handlers see only requests that their methods
 * allow and that fit the window, sessions end once, nothing is left over, and all that the server
 * sends decodes.
 */
#include "fuzz.h"

#include <errno.h>
#include <stdlib.h>

#include "rpc_input.h"

enum { NOW = 1, LATER = 2, BODY_MIN = 8, PAYLOAD_MAX = 200000, LATER_NS = 3000000 };

static unsigned began, ended, handled, in_handlers;

static void sent(void *arg)
{
    mem_free(arg);
}

static void reply(struct rpc_request *request)
{
    struct iovec iov = {mem_alloc(5000), MIN(request->payload_bytes, 5000u)};
    memset(iov.iov_base, 'x', 5000);
    in_handlers--;
    rpc_reply(
        request, -ENOENT, request->body, request->body_len_bytes, &iov, 1, sent, iov.iov_base);
}

static void later(void *arg)
{
    env_sleep_ns(LATER_NS);
    reply(arg);
}

static void handle(void *ctx, struct rpc_request *request)
{
    CHECK(request->body_len_bytes >= BODY_MIN && request->body_len_bytes <= RPC_BODY_BYTES_MAX);
    CHECK(request->payload_bytes <= PAYLOAD_MAX && (uintptr_t)request->payload % 4096 == 0);
    CHECK(!request->payload == !request->payload_bytes && !request->cancelled);
    handled++;
    CHECK(++in_handlers <= 8);
    /* All of it is there. */
    CHECK(crc32c(0, request->body, request->body_len_bytes) |
          crc32c(1, request->payload, request->payload_bytes) | 1);
    if (request->method == NOW)
        reply(request);
    else
        fiber_spawn("later", later, request);
}

static int session_began(void *ctx, struct rpc_session *session)
{
    began++;
    return 0;
}

static void session_ended(void *ctx, struct rpc_session *session)
{
    ended++;
    CHECK(in_handlers == 0);
}

/* Decodes what the server sends, until it closes. */
struct reader {
    struct env_stream *stream;
    struct fiber_group group;
};

static MAY_SUSPEND bool read_exactly(struct env_stream *stream, uint8_t *buf, size_t len_bytes)
{
    while (len_bytes > 0) {
        int64_t n = env_recv(stream, buf, len_bytes, UINT64_MAX);
        if (n <= 0)
            return false;
        buf += n;
        len_bytes -= (size_t)n;
    }
    return true;
}

static void read_all(void *arg)
{
    struct reader *r = arg;
    uint8_t wire[RPC_HEADER_BYTES], *rest = mem_alloc(RPC_BODY_BYTES_MAX + 5000);
    struct rpc_header h;
    while (read_exactly(r->stream, wire, sizeof(wire))) {
        CHECK(!rpc_header_decode(wire, 1, &h));
        if (!read_exactly(r->stream, rest, h.body_len_bytes + h.payload_bytes))
            break;
        CHECK(h.body_crc == crc32c(0, rest, h.body_len_bytes));
        CHECK(h.payload_crc == crc32c(0, rest + h.body_len_bytes, h.payload_bytes));
    }
    mem_free(rest);
    fiber_group_done(&r->group, 0);
}

static void client(struct rpc_input *input)
{
    static const struct rpc_method methods[] = {{NOW, "now", handle, BODY_MIN, PAYLOAD_MAX},
        {LATER, "later", handle, BODY_MIN, PAYLOAD_MAX}};
    static const struct rpc_server_events events = {session_began, session_ended};
    struct rpc_options server_options = rpc_input_options("b", 2),
                       options = rpc_input_options("a", 1);
    struct rpc_server *server;
    char *error;
    began = ended = handled = in_handlers = 0;
    CHECK(rpc_server_start(
              &server_options, RPC_INPUT_ADDRESS, methods, 2, &events, NULL, &server, &error) == 0);
    struct reader reader = {0};
    CHECK(env_connect(RPC_INPUT_ADDRESS, UINT64_MAX, &reader.stream) == 0);
    fiber_group_init(&reader.group);
    fiber_group_add(&reader.group, 1);
    fiber_spawn("reader", read_all, &reader);
    if (!input->raw)
        CHECK(rpc_input_hello(reader.stream, &options) == 0);
    rpc_input_send(reader.stream, input);
    env_sleep_ns(2 * LATER_NS);
    env_stream_shutdown(reader.stream);
    fiber_group_wait(&reader.group);
    env_stream_close(reader.stream);
    rpc_server_stop(server);
    CHECK(began == ended && began <= 1 && (began == 1 || input->raw) && in_handlers == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len_bytes)
{
    rpc_input_run(data, len_bytes, client);
    return 0;
}
