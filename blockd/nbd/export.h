/* SPDX-License-Identifier: Apache-2.0
 *
 * What an export name of a client stands for.
 */
#pragma once

#include "blockd/nbd/codec.h"
#include "blockd/volumes.h"

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
/* Opens it: the volume is counted. NULL: ret_export->error says why. */
MAY_SUSPEND struct volume *nbd_export_open(
    struct volumes *volumes, struct nbd_string name, struct nbd_export *ret_export);
/* NBD_REP_ERR_* for a negative errno of the registry. */
uint32_t nbd_export_error(int rc);
