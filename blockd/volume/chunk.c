/* SPDX-License-Identifier: Apache-2.0
 *
 * The arithmetic of chunks. A chunk has at most CHUNK_ROWS_MAX rows and usually four, so walking
 * row_len[] beats keeping sums that every commit would have to update.
 */
#include "blockd/volume/chunk.h"

#include "common/check.h"

uint32_t chunk_row_off_blocks(const struct chunk_place *place, unsigned row)
{
    CHECK(row <= place->row_count && place->row_count <= CHUNK_ROWS_MAX);
    uint32_t off_blocks = 0;
    for (unsigned i = 0; i < row; i++)
        off_blocks += 1u + place->row_len[i];
    return off_blocks;
}

uint32_t chunk_row_linear_start(const struct chunk_place *place, unsigned row)
{
    return (chunk_row_off_blocks(place, row) - row) * place->code.k;
}

uint32_t chunk_linear_end(const struct chunk_place *place)
{
    return chunk_row_linear_start(place, place->row_count);
}

struct chunk_position chunk_locate(const struct chunk_place *place, uint32_t linear)
{
    uint32_t off_blocks = 0;
    for (unsigned row = 0; row < place->row_count; row++) {
        uint32_t len = place->row_len[row];
        if (linear < len * place->code.k) {
            uint32_t column = linear % len;
            return (struct chunk_position){
                .row = row,
                .shard = linear / len,
                .off_blocks = off_blocks + 1 + column,
                .run_blocks = len - column,
            };
        }
        linear -= len * place->code.k;
        off_blocks += 1 + len;
    }
    CHECK_MSG(false, "linear block beyond the end of chunk %llx", (unsigned long long)place->chunk);
    __builtin_unreachable();
}

struct shard_key chunk_shard_key(const struct chunk_place *place, unsigned shard)
{
    return (struct shard_key){.volume = place->volume, .chunk = place->chunk, .index = shard};
}
