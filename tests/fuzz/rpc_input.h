/* SPDX-License-Identifier: Apache-2.0
 *
 * Inputs of the RPC fuzzers: a byte of flags, then a stream of frames. With RPC_INPUT_CRC the CRCs (and
 * magic numbers) of whatever looks like a frame are put right, so that mutations get past them; with
 * RPC_INPUT_RAW the stream begins with the hello, else a good one is said before it.
 */
#pragma once

#include "common/bytes.h"
#include "common/check.h"
#include "common/crc32c.h"
#include "common/env_sim.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/rpc_wire.h"

enum { RPC_INPUT_CRC = 1, RPC_INPUT_RAW = 2 };

#define RPC_INPUT_ADDRESS "tcp:127.0.0.1:7000"

struct rpc_input {
    const uint8_t *data; /* without the flags */
    size_t len_bytes;
    bool raw;
    void (*main)(struct rpc_input *input);
    bool done;
};

static inline uint32_t rpc_input_part(uint8_t *at, uint32_t len_bytes, size_t left)
{
    return len_bytes <= left ? crc32c(0, at, len_bytes) : 1;
}

static inline void rpc_input_repair(uint8_t *data, size_t len_bytes)
{
    while (len_bytes >= RPC_HEADER_BYTES) {
        uint32_t body = get_le32(data + 24), payload = get_le32(data + 28);
        size_t left = len_bytes - RPC_HEADER_BYTES;
        put_le32(data, 0x43505248);
        put_le32(data + 36, rpc_input_part(data + RPC_HEADER_BYTES, body, left));
        put_le32(data + 40,
            body <= left ? rpc_input_part(data + RPC_HEADER_BYTES + body, payload, left - body)
                         : 1);
        put_le32(data + 44, crc32c(0, data, 44));
        if ((uint64_t)body + payload > left)
            return;
        data += RPC_HEADER_BYTES + body + payload;
        len_bytes = left - body - payload;
    }
}

static inline struct rpc_options rpc_input_options(const char *name, uint8_t node)
{
    struct rpc_options options = {
        .self = {.cluster = {.bytes = {1}}, .node = {.bytes = {node}}, .incarnation = node},
        .window_calls = 8,
        .window_bytes = 400000};
    strcpy(options.self.node_name, name);
    return options;
}

static inline int rpc_input_hello(struct env_stream *stream, const struct rpc_options *options)
{
    struct rpc_hello hello = {.version_min = 1,
        .version_max = 1,
        .self = options->self,
        .silence_ms = 2000,
        .window_bytes = options->window_bytes,
        .window_calls = options->window_calls};
    uint8_t wire[RPC_HEADER_BYTES + RPC_HELLO_BYTES] = {0};
    wire[5] = RPC_FRAME_HELLO;
    put_le32(wire + 24, RPC_HELLO_BYTES);
    rpc_hello_encode(&hello, wire + RPC_HEADER_BYTES);
    rpc_input_repair(wire, sizeof(wire));
    struct iovec iov = {wire, sizeof(wire)};
    return env_send(stream, &iov, 1, UINT64_MAX);
}

static inline int rpc_input_send(struct env_stream *stream, const struct rpc_input *input)
{
    struct iovec iov = {(void *)input->data, input->len_bytes};
    return env_send(stream, &iov, 1, UINT64_MAX);
}

static inline void rpc_input_fiber(void *arg)
{
    struct rpc_input *input = arg;
    uint64_t before_bytes = mem_used_bytes(fiber_env());
    input->main(input);
    CHECK(mem_used_bytes(fiber_env()) == before_bytes);
    input->done = true;
}

static inline bool rpc_input_done(void *arg)
{
    return ((struct rpc_input *)arg)->done;
}

static inline void rpc_input_log(void *ctx, enum log_level level, const char *line)
{
}

/* Runs `main` on a fiber, with nothing left over in the end. */
static inline void rpc_input_run(
    const uint8_t *data, size_t len_bytes, void (*main)(struct rpc_input *input))
{
    if (len_bytes == 0)
        return;
    log_set_output(rpc_input_log, NULL);
    uint8_t *copy = malloc(len_bytes);
    memcpy(copy, data + 1, len_bytes - 1);
    if (data[0] & RPC_INPUT_CRC)
        rpc_input_repair(copy, len_bytes - 1);
    struct rpc_input input = {copy, len_bytes - 1, data[0] & RPC_INPUT_RAW, main, false};
    struct sim *sim = sim_new(&(struct sim_options){.seed = len_bytes, .fiber_count_max = 64});
    sim_node_start(sim_node_new(sim, "n"), "input", rpc_input_fiber, &input);
    CHECK(sim_run(sim, rpc_input_done, &input, UINT64_MAX) == SIM_UNTIL);
    sim_free(sim);
    free(copy);
}
