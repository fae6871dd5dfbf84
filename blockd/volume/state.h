/* SPDX-License-Identifier: Apache-2.0
 *
 * What a volume's manifest says, in memory, and the records that change it. Every durable change
 * goes
 * record -> manifest (durable on all copies) -> state_apply(), live and in recovery alike, so the
 * state in memory is always exactly what the manifest holds (N1 in README.md).
 */
#pragma once

#include "blockd/volume/chunk.h"
#include "blockd/volume/idmap.h"
#include "common/list.h"

/* A place (chunk.h), compact: one allocation. */
struct place {
    uint64_t chunk;
    uint32_t epoch;
    uint32_t capacity_blocks;
    uint8_t kind; /* enum shard_kind */
    struct shard_code code;
    bool sealed;
    uint8_t row_count; /* rows that have their place, recorded or still being written */
    uint8_t
        rows_recorded; /* rows the manifest knows; not recorded ones are named by log records only */
    uint16_t chunk_refs;          /* logical chunks that live here */
    uint16_t readers;             /* fibers reading: removal waits for them */
    uint16_t appending;           /* rows in flight */
    uint16_t unsynced_rows;       /* large-write rows not yet synced */
    uint32_t unsynced_end_blocks; /* end of the last of them that a log record names */
    bool retired;                 /* takes no more rows: something failed; to be sealed */
    bool sealing, freeing;
    bool clean_target;  /* made by cleaning: freeing it without a row gains nothing */
    bool scratch_busy;  /* of the running cleaning pass */
    bool scratch_moved; /* what was live here is in the target, not committed yet */
    uint32_t scratch_live, scratch_largest; /* of all its chunks, of the largest */
    uint16_t *row_len;                      /* CHUNK_ROWS_MAX while open, row_count when sealed */
    struct chunk_shard shards[];
};

/* A logical chunk: what map entries name. */
struct lchunk {
    uint64_t index;
    struct place *place;
    uint32_t live;          /* blocks (pages) that the merged map holds here */
    uint32_t base;          /* where its survivors start in the place's linear order */
    uint16_t unmerged_rows; /* rows of it that are not in the map yet: not to be cleaned or freed */
    uint16_t memtable_rows; /* large-write rows of it that only the memtable names: likewise */
    uint16_t bitmap_words;  /* 0 = never moved: linear index is the place's */
    uint64_t *bitmap;       /* survivors by original linear index */
};

/* A log chunk. */
struct wal {
    struct list link; /* state.wals, oldest first */
    uint64_t chunk;
    uint32_t epoch;
    uint32_t capacity_blocks;
    uint32_t length_blocks; /* acknowledged; recorded when sealed */
    uint32_t synced_blocks; /* durable on all its copies */
    uint64_t last_seq;      /* of acknowledged records; 0 = none */
    bool sealed;            /* as recorded in the manifest */
    uint8_t copies;
    struct chunk_shard shards[CODE_M_MAX + 1];
};

/* A step of the volume's history that the map does not hold yet: what the delta table is rebuilt
 * from. */
struct item {
    bool trim;
    uint16_t row;
    uint64_t chunk_index; /* row */
    uint64_t block, len;  /* trim */
    uint64_t seq;    /* trim, large-write row; 0 = a row of a generation's blocks, each newer than
                             whatever else the group has for it */
    uint64_t group;  /* last sequence number of the memtable generation that it came from */
    uint8_t *blocks; /* row: which blocks it has (item_next_run), as the record says it; NULL = its
                             directory says so (recorded by an earlier version) */
    uint32_t blocks_len_bytes;
};

/* Blocks of the volume that stand one behind the other in a row. */
struct block_run {
    uint64_t block;
    uint32_t count;
};

/* Requests that are done and perhaps not answered yet (requests.h): `count` whole ones in a row, or
 * (count 0) one that is done up to end_block. */
struct request_run {
    uint64_t session, number;
    uint32_t count;
    uint64_t end_block;
};
#define REQUEST_RUNS_MAX 65536

struct state {
    uint64_t volume;
    uint64_t size_bytes;
    uint64_t chunk_index_next;
    uint64_t committed_seq; /* all records up to here are in rows, items or the map */
    uint64_t map_root;
    unsigned map_levels;
    struct idmap places; /* struct place by .chunk */
    struct idmap chunks; /* struct lchunk by .index */
    struct list wals;
    struct item *items;
    uint64_t item_first; /* number of items[0] */
    uint32_t item_count, item_capacity;
    uint64_t item_blocks_bytes;   /* of all items */
    struct request_run *requests; /* as of committed_seq */
    uint32_t request_count;
    struct copies_ref continued; /* the manifest goes on there (REC_CONTINUE was applied) */
};

void state_init(struct state *state, uint64_t volume);
void state_fini(struct state *state);

/* --- Records ----------------------------------------------------------------------------------- */

/* A growing buffer of records, one atomic group. */
struct records {
    uint8_t *bytes;
    size_t len_bytes, capacity_bytes;
};
void records_fini(struct records *records);
void records_clear(struct records *records);

void record_volume(struct records *records, const struct state *state);
void record_place(struct records *records, const struct place *place);
/* As record_place for a chunk not in the state yet. */
void record_new_place(struct records *records, const struct chunk_place *place);
void record_chunk(struct records *records, uint64_t index, uint64_t place_chunk, uint32_t live,
    uint32_t base, const uint64_t *bitmap, unsigned bitmap_words);
void record_row(struct records *records, uint64_t place_chunk, unsigned row, unsigned len);
void record_item(struct records *records, const struct item *item);
/* Which blocks the row of the item just recorded has, from its first linear index on: runs in order, none of which
 * overlap. */
void record_item_blocks(struct records *records, const struct block_run *runs, unsigned count);
void record_sealed(struct records *records, uint64_t place_chunk);
void record_shard(
    struct records *records, uint64_t place_chunk, unsigned shard, const struct chunk_shard *value);
void record_place_freed(struct records *records, uint64_t place_chunk);
void record_chunk_freed(struct records *records, uint64_t index);
void record_wal(struct records *records, const struct wal *wal);
void record_wal_freed(struct records *records, uint64_t chunk);
void record_committed(struct records *records, uint64_t seq);
void record_map(struct records *records, uint64_t root, unsigned levels, uint64_t items_merged);
void record_live(struct records *records, uint64_t index, uint32_t live);
void record_size(struct records *records, uint64_t size_bytes);
/* All of them: what was there before goes. */
void record_requests(struct records *records, const struct request_run *runs, uint32_t count);
void record_continue(struct records *records, const struct copies_ref *ref);

/* The whole state afresh. */
void state_snapshot(const struct state *state, struct records *ret_records);

/* Applies a group. -EBADMSG (with a sentence in ret_error, 256 bytes) when a record makes no sense:
 * state is
 * undefined then and only good for state_fini. Reads memory only within [bytes, bytes + len). */
int state_apply(struct state *state, const void *bytes, size_t len_bytes, char ret_error[256]);

/* --- Look-ups ---------------------------------------------------------------------------------- */

static inline struct lchunk *state_chunk(const struct state *state, uint64_t index)
{
    return idmap_get(&state->chunks, index);
}
static inline struct place *state_place(const struct state *state, uint64_t chunk)
{
    return idmap_get(&state->places, chunk);
}
/* The run behind *run (which *at_bytes 0 makes the first) of item->blocks; *at_bytes moves on. False at the end.
 * state_apply() has checked them. */
bool item_next_run(const struct item *item, uint32_t *at_bytes, struct block_run *run);
/* The place as row.h wants it: a private copy, good across suspensions. */
void place_expand(
    const struct state *state, const struct place *place, struct chunk_place *ret_place);
uint32_t place_length_blocks(const struct place *place, unsigned rows);
uint32_t place_linear_end(const struct place *place, unsigned rows);
static inline unsigned place_shards(const struct place *place)
{
    return place->code.k + place->code.m;
}
static inline uint32_t place_row_len(const struct place *place, unsigned row)
{
    return place->row_len[row];
}
/* Makes room for a row not recorded yet; returns its number. */
unsigned place_add_row(struct place *place, unsigned len);

/* Place-linear index of the chunk's block `linear`; *run = how many blocks from there on are
 * contiguous (at most len_max).
 * -ENOENT when it did not survive cleaning or is beyond the end. */
int chunk_translate(const struct lchunk *chunk, uint32_t linear, uint32_t len_max,
    uint32_t *ret_linear, uint32_t *ret_run);
/* The other way: which of the chunk's blocks stands at the place-linear index. -ENOENT: none of
 * this chunk's. */
int chunk_untranslate(const struct lchunk *chunk, uint32_t place_linear, uint32_t *ret_linear);
