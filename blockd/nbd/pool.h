/* SPDX-License-Identifier: Apache-2.0
 *
 * I/O buffers of the NBD server: 4 KiB-aligned, in sizes that are powers of two from 4 KiB to 32
 * MiB, kept for reuse up to a cap. How many may be out at a time is the quota's business (quota.h);
 * what is kept beside those shrinks as more are out, so that the sum stays bounded (N7).
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/list.h"
#include "common/mem.h"

#define NBD_POOL_CLASSES 14

struct nbd_pool {
    struct list free[NBD_POOL_CLASSES];
    struct mem_left left; /* put, and not back from I/O that hangs */
    uint64_t cached_bytes, cached_bytes_max;
    uint64_t used_bytes; /* handed out */
    uint64_t bytes_max;  /* beyond this sum of both nothing is kept */
};

void nbd_pool_init(struct nbd_pool *pool, uint64_t cached_bytes_max, uint64_t bytes_max);
/* All buffers must be back (CHECKed), but for those left to I/Os that hang. */
void nbd_pool_fini(struct nbd_pool *pool);

/* The size of the buffer that nbd_pool_get(len_bytes) gives; len_bytes in 1..32 MiB. */
size_t nbd_pool_bytes(size_t len_bytes);
void *nbd_pool_get(struct nbd_pool *pool, size_t len_bytes);
/* `len_bytes` as it was given to nbd_pool_get. */
void nbd_pool_put(struct nbd_pool *pool, void *buf, size_t len_bytes);
