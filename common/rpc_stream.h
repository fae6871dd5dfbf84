/* SPDX-License-Identifier: Apache-2.0
 *
 * What RPC needs of a stream of bytes, and the only place where it touches one of env: TLS goes
 * in here. A stream has at most one receiver and one sender at a time; a call that has returned
 * uses no memory of its caller any more.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common/fiber.h"

struct rpc_listener;
struct rpc_stream;

MAY_SUSPEND int rpc_stream_listen(const char *address, struct rpc_listener **ret_listener);
const char *rpc_stream_listener_address(const struct rpc_listener *listener);
/* -ECANCELED after rpc_stream_listener_close. */
MAY_SUSPEND int rpc_stream_accept(struct rpc_listener *listener, struct rpc_stream **ret_stream);
void rpc_stream_listener_close(struct rpc_listener *listener);

MAY_SUSPEND int rpc_stream_connect(
    const char *address, uint64_t deadline_ns, struct rpc_stream **ret_stream);
/* At least one byte; 0 = the peer finished; negative errno. */
MAY_SUSPEND int64_t rpc_stream_recv(
    struct rpc_stream *stream, void *buf, size_t len_bytes, uint64_t deadline_ns);
/* All, or negative errno. Changes `iov`. */
MAY_SUSPEND int rpc_stream_send(
    struct rpc_stream *stream, struct iovec *iov, unsigned iov_count, uint64_t deadline_ns);
/* Both directions end; whoever is suspended on it returns. Idempotent. */
void rpc_stream_shutdown(struct rpc_stream *stream);
/* Nobody may be suspended on it. */
MAY_SUSPEND void rpc_stream_close(struct rpc_stream *stream);
/* For logs: "tcp:1.2.3.4:567". */
const char *rpc_stream_peer(const struct rpc_stream *stream);
