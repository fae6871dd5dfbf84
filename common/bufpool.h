/* SPDX-License-Identifier: Apache-2.0
 *
 * Pools of I/O memory with a cap: what grows with load lives here, and at the cap the answer is NULL, which the
 * caller waits out (it knows who frees, and who is next). All memory is 4 KiB aligned for O_DIRECT, contents
 * undefined. A pool belongs to one env.
 *
 * Blocks of 4096 bytes are carved from 2 MiB slabs, get and put in constant time; a slab without a block in use
 * goes back to the system, but for two. Larger runs are kept for reuse by size, rounded up to a power of two.
 * The blocks and runs in use never exceed the cap; what is held beyond them is at most the cap again.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define BUFPOOL_BLOCK_BYTES 4096u

struct bufpool;

struct bufpool *bufpool_new(uint64_t cap_bytes);
/* Everything must have been put back (CHECKed). */
void bufpool_free(struct bufpool *pool);

/* One block; NULL at the cap. */
void *bufpool_get(struct bufpool *pool);
void bufpool_put(struct bufpool *pool, void *block);

/* len_bytes adjacent bytes (> 0; counted as BUFPOOL_BLOCK_BYTES times a power of two); NULL at the cap. Put back with
 * the same length. */
void *bufpool_get_run(struct bufpool *pool, size_t len_bytes);
void bufpool_put_run(struct bufpool *pool, void *run, size_t len_bytes);

/* In use, and the most there may be. The cap may be lowered below what is in use: gets then fail until enough was put. */
uint64_t bufpool_used_bytes(const struct bufpool *pool);
uint64_t bufpool_cap_bytes(const struct bufpool *pool);
void bufpool_set_cap_bytes(struct bufpool *pool, uint64_t cap_bytes);
/* Runs that were put with a read left behind in them (env.h, T2), until it is back: in use by nobody, and beside the cap. Whoever
 * lets reads be left behind does so only while this is 0, so that it is never more than the cap. */
uint64_t bufpool_left_bytes(const struct bufpool *pool);
/* Held from the system, in use or not. */
uint64_t bufpool_held_bytes(const struct bufpool *pool);
