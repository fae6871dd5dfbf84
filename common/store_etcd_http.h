/* SPDX-License-Identifier: Apache-2.0
 *
 * HTTP POSTs for store_etcd*.c: libcurl's multi interface on a thread of its own. A request is one
 * attempt at one URL; whom to ask, and whether to ask again, is the caller's.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/fiber.h"

struct etcd_http;
struct etcd_http_options {
    const char *ca_path, *cert_path, *key_path; /* NULL: none; lent until etcd_http_stop */
    unsigned connect_timeout_ms;
};

/* -EAGAIN and the like when there can be no thread. */
int etcd_http_start(const struct etcd_http_options *options, struct etcd_http **ret_http);
/* Every transfer has been ended. Waits for the thread, which does nothing long any more. */
void etcd_http_stop(struct etcd_http *http);

/* `token` (may be NULL) goes into the Authorization header. */
struct etcd_post {
    const char *url;
    const char *body;
    const char *token;
    unsigned timeout_ms; /* 0 = none */
};

struct etcd_answer {
    long status; /* of HTTP */
    char *data;  /* free(); NUL-terminated beyond len_bytes */
    size_t len_bytes;
};

/* 0: there is an answer, whatever it says. -EHOSTUNREACH: the server cannot have had the whole
 * request. -ETIMEDOUT: it may have. -E2BIG: it has answered more than is taken. `ret_why` (may be
 * NULL, ETCD_WHY_BYTES): libcurl's words. */
#define ETCD_WHY_BYTES 256
MAY_SUSPEND int etcd_http_call(struct etcd_http *http, const struct etcd_post *post,
    struct etcd_answer *ret_answer, char *ret_why);

/* An answer that comes line by line, and does not end. One fiber reads. */
struct etcd_stream;
void etcd_stream_open(
    struct etcd_http *http, const struct etcd_post *post, struct etcd_stream **ret_stream);
/* The next line (free()), NUL-terminated, without its newline; at the end of the answer what there
 * is of a line. -ETIMEDOUT at deadline_ns; -EHOSTUNREACH: the stream has ended; -ECANCELED:
 * etcd_stream_cancel; -E2BIG: more came than is taken. */
MAY_SUSPEND int etcd_stream_read(
    struct etcd_stream *stream, uint64_t deadline_ns, char **ret_line, size_t *ret_len_bytes);
/* Its reader gets -ECANCELED soon. */
void etcd_stream_cancel(struct etcd_stream *stream);
MAY_SUSPEND void etcd_stream_close(struct etcd_stream *stream);
