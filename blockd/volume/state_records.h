/* SPDX-License-Identifier: Apache-2.0
 *
 * Types of the manifest's records, version 1; on disk: numbers stay (docs/FORMAT.md).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum record_type {
    REC_VOLUME = 1,
    REC_PLACE,
    REC_CHUNK,
    REC_ROW,
    REC_ITEM,
    REC_SEALED,
    REC_SHARD,
    REC_PLACE_FREED,
    REC_CHUNK_FREED,
    REC_WAL,
    REC_WAL_FREED,
    REC_COMMITTED,
    REC_MAP,
    REC_LIVE,
    REC_SIZE,
    REC_CONTINUE,
    REC_REQUESTS,
    REC_ITEM_BLOCKS,
};

struct place;
struct lchunk;
/* A number of 7 bits a byte, the lowest first; the highest bit of a byte says that one more follows. False: it does
 * not end there, or is 2^56 or more. */
bool read_varint(const uint8_t **at, const uint8_t *end, uint64_t *ret_value);
/* state.c: for state_apply.c, which takes them out of the tables. */
void state_place_free(struct place *place);
void state_chunk_free(struct lchunk *chunk);
