/* SPDX-License-Identifier: Apache-2.0
 *
 * What a client hears of a server while three calls are in flight: without room for a reply, with
 * room in many pieces, with room for a long one. Whatever comes, each call ends once, bytes arrive
 * only where there is room, and nothing is left over.
 */
#include "fuzz.h"

#include <stdlib.h>

#include "rpc_input.h"

enum { CALLS = 3, SMALL = 600, LARGE = 150000 };

static struct one {
    struct rpc_call call;
    uint8_t *body, *reply;
    struct iovec iov[16];
    unsigned done;
} ones[CALLS];

static void done(struct rpc_call *call)
{
    struct one *one = container_of(call, struct one, call);
    CHECK(++one->done == 1 && call->result <= 0);
    CHECK(call->ret_body_len_bytes <= call->reply_body_max);
    uint64_t room = 0;
    for (unsigned i = 0; i < call->reply_payload_count; i++)
        room += call->reply_payload[i].iov_len;
    CHECK(call->ret_payload_bytes <= room);
    mem_free(one->body);
    mem_free(one->reply);
}

static void submit(struct rpc_client *client, unsigned i)
{
    static const uint32_t rooms[CALLS] = {0, SMALL, LARGE};
    struct one *one = &ones[i];
    *one = (struct one){.body = mem_alloc(64), .reply = mem_alloc(rooms[i] + 1)};
    for (unsigned n = 0; n < 16; n++)
        one->iov[n] = (struct iovec){one->reply + n * (rooms[i] / 16), rooms[i] / 16};
    if (i == 2)
        one->iov[0] = (struct iovec){one->reply, rooms[i]};
    one->call = (struct rpc_call){.method = 1,
        .reply_body = i ? one->body : NULL,
        .reply_body_max = i ? 64 : 0,
        .reply_payload = one->iov,
        .reply_payload_count = i == 0   ? 0
                               : i == 1 ? 16
                                        : 1,
        .deadline_ns = i == 1 ? env_now_ns() + 500000000 : 0,
        .done = done};
    rpc_call_submit(client, &one->call);
}

static void connected(void *ctx, const struct rpc_identity *peer)
{
    for (unsigned i = 0; i < CALLS; i++)
        submit(*(struct rpc_client **)ctx, i);
}

static void server(struct rpc_input *input)
{
    struct rpc_client *client = NULL;
    struct rpc_options options = rpc_input_options("a", 1),
                       server_options = rpc_input_options("b", 2);
    const struct rpc_client_events events = {.connected = connected, .ctx = &client};
    struct env_listener *listener;
    struct env_stream *stream;
    uint8_t *buf = mem_alloc(4096);
    memset(ones, 0, sizeof(ones));
    CHECK(env_listen(RPC_INPUT_ADDRESS, 0, &listener) == 0);
    client = rpc_client_new(&options, RPC_INPUT_ADDRESS, "b", NULL, &events);
    CHECK(env_accept(listener, &stream) == 0);
    CHECK(env_recv(stream, buf, 4096, UINT64_MAX) > 0);
    if (!input->raw) {
        CHECK(rpc_input_hello(stream, &server_options) == 0);
        env_sleep_ns(2000000); /* the calls are under way: replies to them mean something */
    }
    rpc_input_send(stream, input);
    while (env_recv(stream, buf, 4096, env_now_ns() + 20000000) > 0)
        ;
    env_listener_close(listener);
    env_stream_close(stream);
    rpc_client_free(client);
    for (unsigned i = 0; i < CALLS; i++)
        CHECK(ones[i].done == (ones[i].call.method ? 1 : 0) && (input->raw || ones[i].done));
    env_sleep_ns(2000000000); /* it may have been connecting again */
    mem_free(buf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len_bytes)
{
    rpc_input_run(data, len_bytes, server);
    return 0;
}
