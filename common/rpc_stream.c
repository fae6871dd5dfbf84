/* SPDX-License-Identifier: Apache-2.0
 *
 * Plain TCP: the streams of env as they are. A struct rpc_stream is a struct env_stream, and never
 * anything else outside this file.
 */
#include "common/rpc_stream.h"

#include "common/env.h"

static struct env_stream *raw(const struct rpc_stream *stream)
{
    return (struct env_stream *)stream;
}

int rpc_stream_listen(const char *address, struct rpc_listener **ret_listener)
{
    return env_listen(address, 0, (struct env_listener **)ret_listener);
}

const char *rpc_stream_listener_address(const struct rpc_listener *listener)
{
    return env_listener_address((const struct env_listener *)listener);
}

int rpc_stream_accept(struct rpc_listener *listener, struct rpc_stream **ret_stream)
{
    return env_accept((struct env_listener *)listener, (struct env_stream **)ret_stream);
}

void rpc_stream_listener_close(struct rpc_listener *listener)
{
    env_listener_close((struct env_listener *)listener);
}

int rpc_stream_connect(const char *address, uint64_t deadline_ns, struct rpc_stream **ret_stream)
{
    return env_connect(address, deadline_ns, (struct env_stream **)ret_stream);
}

int64_t rpc_stream_recv(
    struct rpc_stream *stream, void *buf, size_t len_bytes, uint64_t deadline_ns)
{
    return env_recv(raw(stream), buf, len_bytes, deadline_ns);
}

int rpc_stream_send(
    struct rpc_stream *stream, struct iovec *iov, unsigned iov_count, uint64_t deadline_ns)
{
    return env_send(raw(stream), iov, iov_count, deadline_ns);
}

void rpc_stream_shutdown(struct rpc_stream *stream)
{
    env_stream_shutdown(raw(stream));
}

void rpc_stream_close(struct rpc_stream *stream)
{
    env_stream_close(raw(stream));
}

const char *rpc_stream_peer(const struct rpc_stream *stream)
{
    return env_stream_peer(raw(stream));
}
