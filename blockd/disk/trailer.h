/* SPDX-License-Identifier: Apache-2.0
 *
 * Trailer blocks, version 1 (docs/FORMAT.md): the entries (address, CRC) of all blocks of a sealed
 * data or map-page shard, written right behind its last block. Trailer block t holds the entries of
 * blocks 248 t and on, and names its shard, so that a stale or misdirected one never matches. Pure
 * codec.
 */
#pragma once

#include "blockd/disk/shard.h"

#define TRAILER_ENTRIES 248
#define TRAILER_BLOCKS_MAX 5

/* The recorded address of blocks that are no payload; for people and owners, nothing here decides
 * by it (a parity shard's addresses may have any value). crc is of the whole block as stored. */
#define ENTRY_ADDRESS_HEADER UINT64_MAX /* an append's header; aux = its header_crc */
#define ENTRY_ADDRESS_LOST \
    (UINT64_MAX - 1) /* its header was damaged: unknown; crc is a wrong one */

struct trailer {
    struct uuid cluster;
    struct shard_key key;
    enum shard_kind kind;
    struct shard_code code;
    uint64_t nonce;
    uint32_t first_block;   /* a multiple of TRAILER_ENTRIES */
    uint32_t length_blocks; /* of the shard */
    unsigned entry_count;
};

/* Fills all BLOCK_BYTES of `block`. `entries`: entry_count of them, of blocks first_block and on.
 */
void trailer_build(void *block, const struct trailer *trailer, const struct shard_entry *entries);
/* -EBADMSG when it is no valid trailer block. Checks nothing against an expected identity. */
int trailer_parse(const void *block, struct trailer *ret_trailer);
/* Whether `found` is the trailer block that `wanted` describes (all fields). */
bool trailer_matches(const struct trailer *found, const struct trailer *wanted);
struct shard_entry trailer_entry(const void *block, unsigned i);
