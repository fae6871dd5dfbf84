/* SPDX-License-Identifier: Apache-2.0
 *
 * The header block of an append, version 1 (docs/FORMAT.md). One 4 KiB block: 128 bytes of identity
 * and geometry, then 3968 bytes: entries of 16 bytes for the payload blocks, then inline bytes.
 */
#pragma once

#include "blockd/disk/shard.h"

#define APPEND_HEADER_BYTES 128

struct append_header {
    struct uuid cluster;
    struct shard_key key;
    enum shard_kind kind;
    struct shard_code code;
    uint32_t epoch;
    uint32_t append_no;       /* 0, 1, ... within the shard */
    uint32_t off_blocks;      /* where this header stands in the shard */
    uint64_t nonce;           /* of the shard's creation: reused space never matches */
    uint32_t prev_header_crc; /* header_crc of the append before, 0 for the first: a chain */
    uint64_t base_seq;
    unsigned entry_count;
    unsigned inline_len_bytes;
    uint32_t header_crc; /* set by both build and parse; covers all but the two marks below */
    /* What the disk knew when the append was made: blocks below were on the device / durable. A bad
     * block below a later header's mark is damage, never the torn end of an unsealed shard. Zero is
     * always true. */
    uint32_t completed_blocks, durable_blocks;
};

/* Fills the whole 4096-byte block (unused bytes zero) and sets header->header_crc. */
void append_header_build(void *block, struct append_header *header,
    const struct shard_entry *entries, const void *inline_bytes);

/* Decodes a block: -EBADMSG when it is no valid header (magic, version, CRC, counts). Checks nothing
 * against an expected identity. */
int append_header_parse(const void *block, struct append_header *ret_header);
/* Entry i of a parsed block; the inline bytes inside it. */
struct shard_entry append_header_entry(const void *block, unsigned i);
const void *append_header_inline(const void *block, const struct append_header *header);
