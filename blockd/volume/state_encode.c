/* SPDX-License-Identifier: Apache-2.0
 *
 * Encoding manifest records (docs/FORMAT.md): {u16 type, u16 zero, u32 length of the body, body}.
 */
#include <string.h>

#include "blockd/volume/state.h"
#include "blockd/volume/state_records.h"
#include "common/check.h"
#include "common/mem.h"

void records_fini(struct records *records)
{
    mem_free(records->bytes);
    *records = (struct records){0};
}

void records_clear(struct records *records)
{
    records->len_bytes = 0;
}

static void put(struct records *records, uint64_t value, unsigned bytes)
{
    if (records->len_bytes + 8 > records->capacity_bytes) {
        records->capacity_bytes = records->capacity_bytes ? records->capacity_bytes * 2 : 512;
        records->bytes = mem_realloc(records->bytes, records->capacity_bytes);
    }
    for (unsigned i = 0; i < bytes; i++)
        records->bytes[records->len_bytes++] = (uint8_t)(value >> 8 * i);
}

static void put_bytes(struct records *records, const void *bytes, size_t len_bytes)
{
    size_t wanted = records->len_bytes + len_bytes;
    if (wanted > records->capacity_bytes) {
        records->capacity_bytes = MAX(wanted, records->capacity_bytes * 2);
        records->bytes = mem_realloc(records->bytes, records->capacity_bytes);
    }
    memcpy(records->bytes + records->len_bytes, bytes, len_bytes);
    records->len_bytes = wanted;
}

static size_t record_begin(struct records *records, enum record_type type)
{
    put(records, type, 2);
    put(records, 0, 2);
    put(records, 0, 4);
    return records->len_bytes;
}

static void record_end(struct records *records, size_t start)
{
    size_t body = records->len_bytes - start;
    for (unsigned i = 0; i < 4; i++)
        records->bytes[start - 4 + i] = (uint8_t)(body >> 8 * i);
}

static void put_shards(struct records *records, const struct chunk_shard *shards, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        put(records, shards[i].place.disk, 4);
        put(records, shards[i].place.instance, 8);
        put(records, shards[i].state, 1);
    }
}

void record_volume(struct records *records, const struct state *state)
{
    size_t start = record_begin(records, REC_VOLUME);
    put(records, state->size_bytes, 8);
    put(records, state->chunk_index_next, 8);
    put(records, state->committed_seq, 8);
    put(records, state->map_root, 8);
    put(records, state->map_levels, 1);
    put(records, state->item_first, 8);
    record_end(records, start);
}

void record_new_place(struct records *records, const struct chunk_place *place)
{
    size_t start = record_begin(records, REC_PLACE);
    put(records, place->chunk, 8);
    put(records, place->kind, 1);
    put(records, place->code.k, 1);
    put(records, place->code.m, 1);
    put(records, place->sealed, 1);
    put(records, place->epoch, 4);
    put(records, place->capacity_blocks, 4);
    put(records, place->row_count, 2);
    for (unsigned i = 0; i < place->row_count; i++)
        put(records, place->row_len[i], 2);
    put_shards(records, place->shards, place->code.k + place->code.m);
    record_end(records, start);
}

void record_place(struct records *records, const struct place *place)
{
    struct chunk_place full;
    struct state none = {0};
    place_expand(&none, place, &full);
    full.row_count = place->rows_recorded;
    record_new_place(records, &full);
}

void record_chunk(struct records *records, uint64_t index, uint64_t place_chunk, uint32_t live,
    uint32_t base, const uint64_t *bitmap, unsigned bitmap_words)
{
    size_t start = record_begin(records, REC_CHUNK);
    put(records, index, 8);
    put(records, place_chunk, 8);
    put(records, live, 4);
    put(records, base, 4);
    put(records, bitmap_words, 2);
    for (unsigned i = 0; i < bitmap_words; i++)
        put(records, bitmap[i], 8);
    record_end(records, start);
}

void record_row(struct records *records, uint64_t place_chunk, unsigned row, unsigned len)
{
    size_t start = record_begin(records, REC_ROW);
    put(records, place_chunk, 8);
    put(records, row, 2);
    put(records, len, 2);
    record_end(records, start);
}

void record_item(struct records *records, const struct item *item)
{
    size_t start = record_begin(records, REC_ITEM);
    put(records, item->trim, 1);
    put(records, item->row, 2);
    put(records, item->chunk_index, 8);
    put(records, item->block, 8);
    put(records, item->len, 8);
    put(records, item->seq, 8);
    put(records, item->group, 8);
    record_end(records, start);
}

static void put_varint(struct records *records, uint64_t value)
{
    for (; value >= 0x80; value >>= 7)
        put(records, value | 0x80, 1);
    put(records, value, 1);
}

void record_item_blocks(struct records *records, const struct block_run *runs, unsigned count)
{
    size_t start = record_begin(records, REC_ITEM_BLOCKS);
    uint64_t end = 0;
    for (unsigned i = 0; i < count; i++) {
        CHECK(runs[i].block >= end && runs[i].count > 0);
        put_varint(records, runs[i].block - end);
        put_varint(records, runs[i].count);
        end = runs[i].block + runs[i].count;
    }
    record_end(records, start);
}

static void record_item_again(struct records *records, const struct item *item)
{
    record_item(records, item);
    if (!item->blocks)
        return;
    size_t start = record_begin(records, REC_ITEM_BLOCKS);
    put_bytes(records, item->blocks, item->blocks_len_bytes);
    record_end(records, start);
}

static void record_u64(struct records *records, enum record_type type, uint64_t value)
{
    size_t start = record_begin(records, type);
    put(records, value, 8);
    record_end(records, start);
}

void record_sealed(struct records *records, uint64_t place_chunk)
{
    record_u64(records, REC_SEALED, place_chunk);
}

void record_shard(
    struct records *records, uint64_t place_chunk, unsigned shard, const struct chunk_shard *value)
{
    size_t start = record_begin(records, REC_SHARD);
    put(records, place_chunk, 8);
    put(records, shard, 1);
    put_shards(records, value, 1);
    record_end(records, start);
}

void record_place_freed(struct records *records, uint64_t place_chunk)
{
    record_u64(records, REC_PLACE_FREED, place_chunk);
}

void record_chunk_freed(struct records *records, uint64_t index)
{
    record_u64(records, REC_CHUNK_FREED, index);
}

void record_wal(struct records *records, const struct wal *wal)
{
    size_t start = record_begin(records, REC_WAL);
    put(records, wal->chunk, 8);
    put(records, wal->epoch, 4);
    put(records, wal->capacity_blocks, 4);
    put(records, wal->sealed ? wal->length_blocks : 0, 4);
    put(records, wal->sealed ? wal->last_seq : 0, 8);
    put(records, wal->sealed, 1);
    put(records, wal->copies, 1);
    put_shards(records, wal->shards, wal->copies);
    record_end(records, start);
}

void record_wal_freed(struct records *records, uint64_t chunk)
{
    record_u64(records, REC_WAL_FREED, chunk);
}

void record_committed(struct records *records, uint64_t seq)
{
    record_u64(records, REC_COMMITTED, seq);
}

void record_map(struct records *records, uint64_t root, unsigned levels, uint64_t items_merged)
{
    size_t start = record_begin(records, REC_MAP);
    put(records, root, 8);
    put(records, levels, 1);
    put(records, items_merged, 8);
    record_end(records, start);
}

void record_live(struct records *records, uint64_t index, uint32_t live)
{
    size_t start = record_begin(records, REC_LIVE);
    put(records, index, 8);
    put(records, live, 4);
    record_end(records, start);
}

void record_size(struct records *records, uint64_t size_bytes)
{
    record_u64(records, REC_SIZE, size_bytes);
}

void record_requests(struct records *records, const struct request_run *runs, uint32_t count)
{
    size_t start = record_begin(records, REC_REQUESTS);
    count = MIN(count, (uint32_t)REQUEST_RUNS_MAX);
    for (uint32_t i = 0; i < count; i++) {
        put(records, runs[i].session, 8);
        put(records, runs[i].number, 8);
        put(records, runs[i].count, 4);
        put(records, runs[i].end_block, 8);
    }
    record_end(records, start);
}

void record_continue(struct records *records, const struct copies_ref *ref)
{
    size_t start = record_begin(records, REC_CONTINUE);
    put(records, ref->chunk, 8);
    put(records, ref->count, 1);
    for (unsigned i = 0; i < ref->count; i++) {
        put(records, ref->places[i].disk, 4);
        put(records, ref->places[i].instance, 8);
    }
    record_end(records, start);
}

void state_snapshot(const struct state *state, struct records *ret_records)
{
    records_clear(ret_records);
    record_volume(ret_records, state);
    uint32_t pos = 0;
    for (const struct place *place; (place = idmap_next(&state->places, &pos));)
        record_place(ret_records, place);
    pos = 0;
    for (const struct lchunk *chunk; (chunk = idmap_next(&state->chunks, &pos));)
        record_chunk(ret_records, chunk->index, chunk->place->chunk, chunk->live, chunk->base,
            chunk->bitmap, chunk->bitmap_words);
    list_for_each (it, &state->wals)
        record_wal(ret_records, list_entry(it, struct wal, link));
    for (uint32_t i = 0; i < state->item_count; i++)
        record_item_again(ret_records, &state->items[i]);
    if (state->request_count > 0)
        record_requests(ret_records, state->requests, state->request_count);
}
