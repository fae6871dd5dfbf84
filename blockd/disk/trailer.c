/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/disk/trailer.h"

#include <errno.h>
#include <string.h>

#include "common/bytes.h"
#include "common/check.h"
#include "common/crc32c.h"

/* Byte offsets; docs/FORMAT.md. */
enum {
    AT_MAGIC = 0,
    AT_VERSION = 8,
    AT_COUNT = 10,
    AT_CRC = 12,
    AT_CLUSTER = 16,
    AT_VOLUME = 32,
    AT_CHUNK = 40,
    AT_INDEX = 48,
    AT_KIND = 49,
    AT_K = 50,
    AT_M = 51,
    AT_FIRST = 52,
    AT_NONCE = 56,
    AT_LENGTH = 64,
    AT_ENTRIES = 128,
};

static const char MAGIC[8] = {'H', 'F', 'T', 'R', 'A', 'I', 'L', 'R'};

#define TRAILER_VERSION 1

static uint32_t block_crc(const uint8_t *block)
{
    static const uint8_t zero[4];
    uint32_t crc = crc32c(0, block, AT_CRC);
    crc = crc32c(crc, zero, sizeof(zero));
    return crc32c(crc, block + AT_CRC + 4, BLOCK_BYTES - AT_CRC - 4);
}

void trailer_build(void *block, const struct trailer *trailer, const struct shard_entry *entries)
{
    CHECK(trailer->entry_count > 0 && trailer->entry_count <= TRAILER_ENTRIES);
    uint8_t *p = block;
    memset(p, 0, BLOCK_BYTES);
    memcpy(p + AT_MAGIC, MAGIC, sizeof(MAGIC));
    put_le16(p + AT_VERSION, TRAILER_VERSION);
    put_le16(p + AT_COUNT, (uint16_t)trailer->entry_count);
    memcpy(p + AT_CLUSTER, &trailer->cluster, 16);
    put_le64(p + AT_VOLUME, trailer->key.volume);
    put_le64(p + AT_CHUNK, trailer->key.chunk);
    p[AT_INDEX] = trailer->key.index;
    p[AT_KIND] = (uint8_t)trailer->kind;
    p[AT_K] = trailer->code.k;
    p[AT_M] = trailer->code.m;
    put_le32(p + AT_FIRST, trailer->first_block);
    put_le64(p + AT_NONCE, trailer->nonce);
    put_le32(p + AT_LENGTH, trailer->length_blocks);
    for (unsigned i = 0; i < trailer->entry_count; i++) {
        uint8_t *e = p + AT_ENTRIES + 16 * i;
        put_le64(e, entries[i].address);
        put_le32(e + 8, entries[i].crc);
        put_le32(e + 12, entries[i].aux);
    }
    put_le32(p + AT_CRC, block_crc(p));
}

int trailer_parse(const void *block, struct trailer *ret_trailer)
{
    const uint8_t *p = block;
    unsigned count = get_le16(p + AT_COUNT);
    if (memcmp(p + AT_MAGIC, MAGIC, sizeof(MAGIC)) != 0 ||
        get_le16(p + AT_VERSION) != TRAILER_VERSION)
        return -EBADMSG;
    if (count == 0 || count > TRAILER_ENTRIES || get_le32(p + AT_CRC) != block_crc(p))
        return -EBADMSG;
    *ret_trailer = (struct trailer){
        .key = {.volume = get_le64(p + AT_VOLUME),
            .chunk = get_le64(p + AT_CHUNK),
            .index = p[AT_INDEX]},
        .kind = p[AT_KIND],
        .code = {.k = p[AT_K], .m = p[AT_M]},
        .nonce = get_le64(p + AT_NONCE),
        .first_block = get_le32(p + AT_FIRST),
        .length_blocks = get_le32(p + AT_LENGTH),
        .entry_count = count,
    };
    memcpy(&ret_trailer->cluster, p + AT_CLUSTER, 16);
    return 0;
}

bool trailer_matches(const struct trailer *found, const struct trailer *wanted)
{
    return memcmp(&found->cluster, &wanted->cluster, sizeof(found->cluster)) == 0 &&
           found->key.volume == wanted->key.volume && found->key.chunk == wanted->key.chunk &&
           found->key.index == wanted->key.index && found->kind == wanted->kind &&
           found->code.k == wanted->code.k && found->code.m == wanted->code.m &&
           found->nonce == wanted->nonce && found->first_block == wanted->first_block &&
           found->length_blocks == wanted->length_blocks &&
           found->entry_count == wanted->entry_count;
}

struct shard_entry trailer_entry(const void *block, unsigned i)
{
    const uint8_t *e = (const uint8_t *)block + AT_ENTRIES + 16 * i;
    return (struct shard_entry){
        .address = get_le64(e), .crc = get_le32(e + 8), .aux = get_le32(e + 12)};
}
