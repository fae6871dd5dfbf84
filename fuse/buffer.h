/* SPDX-License-Identifier: Apache-2.0
 *
 * Buffers of requests, reused: fresh memory would cost a page fault for every 4 KiB. One thread.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define FUSE_USE_VERSION 312
#include <fuse_lowlevel.h>

/* `len_bytes` up to 1 MiB; contents undefined. */
uint8_t *buffer_get(size_t len_bytes);
void buffer_put(uint8_t *buffer, size_t len_bytes);

/* Buffers for fuse_session_receive_buf(), which makes them itself where it gets none. */
struct fuse_buf buffer_get_received(void);
void buffer_put_received(struct fuse_buf buffer);

/* Bytes in the hands of requests now. */
size_t buffer_used_bytes(void);
