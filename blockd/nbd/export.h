/* SPDX-License-Identifier: Apache-2.0
 *
 * What an export name of a client stands for.
 */
#pragma once

#include "blockd/attach.h"
#include "blockd/nbd/codec.h"

struct nbd_export {
    char name[NAME_BYTES_MAX]; /* canonical */
    uint64_t size_bytes;
    uint32_t error; /* NBD_REP_ERR_*, with a sentence for people; 0 = found */
    char message[512];
};

/* Looks `name` up without opening the volume. The empty name is the only volume if there is exactly
 * one. */
MAY_SUSPEND void nbd_export_find(
    struct volumes *volumes, struct nbd_string name, struct nbd_export *ret_export);
/* Who waits for an export to open, and until when. */
struct nbd_export_user {
    const struct attachment_events *events;
    void *ctx;
    const bool *gone; /* waits no more: its connection has ended */
    uint64_t deadline_ns;
};
/* Attaches to it; while its owner is out of reach, or it is just being handed over, tries again until
 * the deadline. NULL: ret_export->error says why. */
MAY_SUSPEND struct attachment *nbd_export_open(struct attach *attach, struct nbd_string name,
    const struct nbd_export_user *user, struct nbd_export *ret_export);
/* NBD_REP_ERR_* for a negative errno of the registry. */
uint32_t nbd_export_error(int rc);
