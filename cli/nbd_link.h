/* SPDX-License-Identifier: Apache-2.0
 *
 * Several connections to one volume's export, with many requests in flight on each, by libnbd. One
 * thread: callbacks of requests run inside nbd_link_wait() only.
 */
#pragma once

#include <libnbd.h>
#include <stdbool.h>
#include <stdint.h>

#define NBD_LINK_CONNECTIONS_MAX 8u
/* Data of one request. Large enough for whole rows of wide codes, small enough for 16 in memory. */
#define NBD_LINK_REQUEST_BYTES (1u << 20)
#define NBD_LINK_REQUESTS 16u

struct nbd_link {
    struct nbd_handle *handles[NBD_LINK_CONNECTIONS_MAX];
    unsigned count, next;
    uint64_t size_bytes;
    uint32_t block_bytes; /* smallest unit of I/O */
    bool read_only, can_zero, can_flush, has_extents;
};

/* `address`: "unix:/PATH", "tcp:HOST:PORT" (as the daemon says), "/PATH" or an nbd URI with or
 * without an export name. Opens `connections` if the server allows several. An exit code, 0 = ok;
 * *ret_error (mem_free) otherwise. */
int nbd_link_open(struct nbd_link *link, const char *address, const char *export_name,
    unsigned connections, char **ret_error);
/* Requests in flight are given up. */
void nbd_link_close(struct nbd_link *link);
/* The URI that other programs understand; mem_free. */
char *nbd_link_uri(const char *address, const char *export_name);
/* The connection for the next request: each in turn. */
struct nbd_handle *nbd_link_next(struct nbd_link *link);
/* Waits for anything and runs callbacks. -EINTR: a signal; else negative errno, the link is dead. */
int nbd_link_wait(struct nbd_link *link, char **ret_error);
/* All that was answered is on stable storage. */
int nbd_link_flush(struct nbd_link *link, char **ret_error);
