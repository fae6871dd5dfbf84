/* SPDX-License-Identifier: Apache-2.0
 *
 * An NBD client for tests, on fibers: small enough to lie, stall and break off wherever a test
 * wants it to. Not a client of ours: encodes by itself, knows only the protocol text.
 */
#pragma once

#include "blockd/nbd/protocol.h"
#include "common/env.h"

struct nbd_client {
    struct env_stream *stream;
    bool structured;
    uint64_t size_bytes;
    uint16_t flags;
};

/* Connects and reads the greeting; sends `client_flags`. CHECKs that it went well. */
MAY_SUSPEND struct nbd_client *nbd_client_new(const char *address, uint32_t client_flags);
MAY_SUSPEND void nbd_client_free(struct nbd_client *c);

/* All of `buf` or false (the server closed). */
MAY_SUSPEND bool nbd_client_recv(struct nbd_client *c, void *buf, size_t len_bytes);
MAY_SUSPEND bool nbd_client_send(struct nbd_client *c, const void *buf, size_t len_bytes);
/* True when the server ends the stream within `timeout_ns` without sending anything more. */
MAY_SUSPEND bool nbd_client_closed(struct nbd_client *c, uint64_t timeout_ns);

/* Sends one option. */
MAY_SUSPEND void nbd_client_option(
    struct nbd_client *c, uint32_t option, const void *data, uint32_t len_bytes);
/* Reads one option reply of at most `max` bytes; its type, or 0 when the server closed. */
MAY_SUSPEND uint32_t nbd_client_option_reply(
    struct nbd_client *c, uint32_t option, void *buf, uint32_t max, uint32_t *ret_len_bytes);
/* NBD_OPT_GO or NBD_OPT_INFO with its replies read; the type of the last. */
MAY_SUSPEND uint32_t nbd_client_info(struct nbd_client *c, uint32_t option, const char *name);
/* Data of the meta context options. Returns its length. */
uint32_t nbd_client_meta_data(
    uint8_t *buf, const char *name, const char *const *queries, unsigned query_count);

/* A client in the transmission phase of `name`. `structured`: with base:allocation, too. */
MAY_SUSPEND struct nbd_client *nbd_client_use(
    const char *address, const char *name, bool structured);

/* Sends a request; payload of len_bytes for NBD_CMD_WRITE, else NULL. */
MAY_SUSPEND bool nbd_client_request(struct nbd_client *c, uint16_t type, uint16_t flags,
    uint64_t cookie, uint64_t off_bytes, uint32_t len_bytes, const void *payload);

struct nbd_client_reply {
    uint64_t cookie;
    uint32_t error;
    unsigned data_chunks, hole_chunks, extent_count;
    struct {
        uint32_t len_bytes, flags;
    } extents[256];
};
/* Reads one whole reply. `buf` takes read data of a request at off_bytes..+len_bytes (simple replies
 * do not say how long they are); holes are zeroed. False: the server closed. CHECKs the form. */
MAY_SUSPEND bool nbd_client_reply(struct nbd_client *c, uint64_t off_bytes, uint32_t len_bytes,
    void *buf, struct nbd_client_reply *ret_reply);

/* Request and reply; the error value. UINT32_MAX: the server closed. */
MAY_SUSPEND uint32_t nbd_client_call(struct nbd_client *c, uint16_t type, uint16_t flags,
    uint64_t off_bytes, uint32_t len_bytes, void *buf);
