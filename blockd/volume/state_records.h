/* SPDX-License-Identifier: Apache-2.0
 *
 * Types of the manifest's records, version 1; on disk: numbers stay (docs/FORMAT.md).
 */
#pragma once

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
};

struct place;
struct lchunk;
/* state.c: for state_apply.c, which takes them out of the tables. */
void state_place_free(struct place *place);
void state_chunk_free(struct lchunk *chunk);
