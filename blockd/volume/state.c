/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/volume/state.h"
#include "blockd/volume/state_records.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "blockd/volume/map.h"
#include "common/check.h"
#include "common/mem.h"

void state_init(struct state *state, uint64_t volume)
{
    *state = (struct state){.volume = volume, .chunk_index_next = 1, .map_levels = 1};
    list_init(&state->wals);
}

void state_place_free(struct place *place)
{
    mem_free(place->row_len);
    mem_free(place);
}

void state_chunk_free(struct lchunk *chunk)
{
    mem_free(chunk->bitmap);
    mem_free(chunk);
}

void state_fini(struct state *state)
{
    uint32_t pos = 0;
    for (struct lchunk *chunk; (chunk = idmap_next(&state->chunks, &pos));)
        state_chunk_free(chunk);
    pos = 0;
    for (struct place *place; (place = idmap_next(&state->places, &pos));)
        state_place_free(place);
    idmap_fini(&state->chunks);
    idmap_fini(&state->places);
    while (!list_empty(&state->wals))
        mem_free(list_entry(list_pop_front(&state->wals), struct wal, link));
    mem_free(state->requests);
    state->requests = NULL;
    for (uint32_t i = 0; i < state->item_count; i++)
        mem_free(state->items[i].blocks);
    mem_free(state->items);
    state->items = NULL;
    state->item_count = 0;
}

bool read_varint(const uint8_t **at, const uint8_t *end, uint64_t *ret_value)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 56 && *at < end; shift += 7) {
        uint8_t byte = *(*at)++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) {
            *ret_value = value;
            return true;
        }
    }
    return false;
}

bool item_next_run(const struct item *item, uint32_t *at_bytes, struct block_run *run)
{
    const uint8_t *at = item->blocks + *at_bytes, *end = item->blocks + item->blocks_len_bytes;
    uint64_t gap, count;
    if (at == end)
        return false;
    CHECK(read_varint(&at, end, &gap) && read_varint(&at, end, &count));
    run->block = *at_bytes > 0 ? run->block + run->count + gap : gap;
    run->count = (uint32_t)count;
    *at_bytes = (uint32_t)(at - item->blocks);
    return true;
}

void place_expand(
    const struct state *state, const struct place *place, struct chunk_place *ret_place)
{
    ret_place->volume = state->volume;
    ret_place->chunk = place->chunk;
    ret_place->kind = place->kind;
    ret_place->code = place->code;
    ret_place->epoch = place->epoch;
    ret_place->capacity_blocks = place->capacity_blocks;
    ret_place->length_blocks = place_length_blocks(place, place->row_count);
    ret_place->sealed = place->sealed;
    ret_place->row_count = place->row_count;
    memcpy(ret_place->row_len, place->row_len, place->row_count * sizeof(uint16_t));
    memcpy(ret_place->shards, place->shards, place_shards(place) * sizeof(struct chunk_shard));
}

uint32_t place_length_blocks(const struct place *place, unsigned rows)
{
    uint32_t length = 0;
    for (unsigned r = 0; r < rows; r++)
        length += 1u + place->row_len[r];
    return length;
}

uint32_t place_linear_end(const struct place *place, unsigned rows)
{
    uint32_t end = 0;
    for (unsigned r = 0; r < rows; r++)
        end += (uint32_t)place->code.k * place->row_len[r];
    return end;
}

unsigned place_add_row(struct place *place, unsigned len)
{
    CHECK(!place->sealed && place->row_count < CHUNK_ROWS_MAX && len >= 1);
    place->row_len[place->row_count] = (uint16_t)len;
    return place->row_count++;
}

static uint32_t bits_below(const uint64_t *bitmap, uint32_t bit)
{
    uint32_t count = 0;
    for (uint32_t w = 0; w < bit / 64; w++)
        count += (uint32_t)__builtin_popcountll(bitmap[w]);
    if (bit % 64)
        count += (uint32_t)__builtin_popcountll(bitmap[bit / 64] & ((1ull << bit % 64) - 1));
    return count;
}

static bool bit_set(const struct lchunk *chunk, uint32_t bit)
{
    return bit / 64 < chunk->bitmap_words && (chunk->bitmap[bit / 64] >> bit % 64 & 1);
}

int chunk_translate(const struct lchunk *chunk, uint32_t linear, uint32_t len_max,
    uint32_t *ret_linear, uint32_t *ret_run)
{
    uint32_t end = place_linear_end(chunk->place, chunk->place->row_count);
    uint32_t at = linear, run = len_max;
    if (chunk->bitmap_words > 0) {
        if (!bit_set(chunk, linear))
            return -ENOENT;
        at = chunk->base + bits_below(chunk->bitmap, linear);
        for (run = 1; run < len_max && bit_set(chunk, linear + run);)
            run++;
    }
    if (at >= end)
        return -ENOENT;
    *ret_linear = at;
    *ret_run = MIN(run, end - at);
    return 0;
}

int chunk_untranslate(const struct lchunk *chunk, uint32_t place_linear, uint32_t *ret_linear)
{
    if (chunk->bitmap_words == 0) {
        *ret_linear = place_linear;
        return 0;
    }
    if (place_linear < chunk->base)
        return -ENOENT;
    uint32_t rank = place_linear - chunk->base;
    for (uint32_t w = 0; w < chunk->bitmap_words; w++) {
        uint64_t bits = chunk->bitmap[w];
        uint32_t here = (uint32_t)__builtin_popcountll(bits);
        if (rank >= here) {
            rank -= here;
            continue;
        }
        while (rank-- > 0)
            bits &= bits - 1;
        *ret_linear = w * 64 + (uint32_t)__builtin_ctzll(bits);
        return 0;
    }
    return -ENOENT;
}
