/* SPDX-License-Identifier: Apache-2.0
 *
 * The I/O requests of open files: each becomes one NBD command, or several one after the other
 * where the server's limits ask for it, and is replied to when the last is answered. Nothing here
 * blocks.
 */
#pragma once

#include "fuse/mount.h"
#include "fuse/volume.h"

void request_read(struct volume *v, fuse_req_t fuse, uint64_t off_bytes, size_t len_bytes);
/* `dsync`: the reply means durable (O_DSYNC, O_SYNC). `data` is in mount->received. */
void request_write(struct volume *v, fuse_req_t fuse, const uint8_t *data, uint64_t off_bytes,
    size_t len_bytes, bool dsync);
void request_flush(struct volume *v, fuse_req_t fuse);
/* fallocate(2) with FUSE's modes. */
void request_allocate(
    struct volume *v, fuse_req_t fuse, int mode, uint64_t off_bytes, uint64_t len_bytes);
/* lseek(2) with SEEK_DATA or SEEK_HOLE. */
void request_seek(struct volume *v, fuse_req_t fuse, uint64_t off_bytes, int whence);

/* For the session: `op` is a request's whose caller is being killed. */
bool request_op_abandoned(struct nbd_op *op);
