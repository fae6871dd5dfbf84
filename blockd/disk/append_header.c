/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/disk/append_header.h"

#include <errno.h>
#include <string.h>

#include "common/bytes.h"
#include "common/check.h"
#include "common/crc32c.h"

/* Byte offsets; docs/FORMAT.md. */
enum {
    AT_MAGIC = 0,
    AT_VERSION = 8,
    AT_CRC = 12,
    AT_CLUSTER = 16,
    AT_VOLUME = 32,
    AT_CHUNK = 40,
    AT_INDEX = 48,
    AT_KIND = 49,
    AT_K = 50,
    AT_M = 51,
    AT_EPOCH = 52,
    AT_NONCE = 56,
    AT_APPEND_NO = 64,
    AT_OFF = 68,
    AT_BASE_SEQ = 72,
    AT_ENTRY_COUNT = 80,
    AT_INLINE_LEN = 82,
    AT_PREV_CRC = 84,
    AT_MARKS = 112, /* completed, durable, zero, CRC of these */
    AT_BODY = APPEND_HEADER_BYTES,
};

static const char MAGIC[8] = {'H', 'F', 'A', 'P', 'P', 'E', 'N', 'D'};

#define APPEND_HEADER_VERSION 1

_Static_assert(AT_BODY + APPEND_BODY_BYTES == BLOCK_BYTES, "the body fills the block");

/* The marks depend on when the append was made, not on what it is: a retry must give the same
 * header_crc (S8), so that skips them and they have a CRC of their own. */
static uint32_t header_crc(const uint8_t *p)
{
    static const uint8_t zero[16];
    uint32_t crc = crc32c(0, p, AT_CRC);
    crc = crc32c(crc, zero, 4);
    crc = crc32c(crc, p + AT_CRC + 4, AT_MARKS - AT_CRC - 4);
    crc = crc32c(crc, zero, 16);
    return crc32c(crc, p + AT_BODY, BLOCK_BYTES - AT_BODY);
}

static uint32_t marks_crc(const uint8_t *p, uint32_t seed)
{
    return crc32c(seed, p + AT_MARKS, 12);
}

void append_header_build(void *block, struct append_header *header,
    const struct shard_entry *entries, const void *inline_bytes)
{
    CHECK(header->entry_count <= APPEND_ENTRIES_MAX);
    size_t entries_bytes = 16 * (size_t)header->entry_count;
    CHECK(header->inline_len_bytes <= APPEND_BODY_BYTES - entries_bytes);
    uint8_t *p = block;
    memset(p, 0, APPEND_HEADER_BYTES);
    memcpy(p + AT_MAGIC, MAGIC, sizeof(MAGIC));
    put_le16(p + AT_VERSION, APPEND_HEADER_VERSION);
    memcpy(p + AT_CLUSTER, &header->cluster, 16);
    put_le64(p + AT_VOLUME, header->key.volume);
    put_le64(p + AT_CHUNK, header->key.chunk);
    p[AT_INDEX] = header->key.index;
    p[AT_KIND] = (uint8_t)header->kind;
    p[AT_K] = header->code.k;
    p[AT_M] = header->code.m;
    put_le32(p + AT_EPOCH, header->epoch);
    put_le64(p + AT_NONCE, header->nonce);
    put_le32(p + AT_APPEND_NO, header->append_no);
    put_le32(p + AT_OFF, header->off_blocks);
    put_le64(p + AT_BASE_SEQ, header->base_seq);
    put_le16(p + AT_ENTRY_COUNT, (uint16_t)header->entry_count);
    put_le16(p + AT_INLINE_LEN, (uint16_t)header->inline_len_bytes);
    put_le32(p + AT_PREV_CRC, header->prev_header_crc);
    for (unsigned i = 0; i < header->entry_count; i++) {
        uint8_t *e = p + AT_BODY + 16 * i;
        put_le64(e, entries[i].address);
        put_le32(e + 8, entries[i].crc);
        put_le32(e + 12, entries[i].aux);
    }
    uint8_t *body_end = p + AT_BODY + entries_bytes;
    if (header->inline_len_bytes > 0)
        memcpy(body_end, inline_bytes, header->inline_len_bytes);
    body_end += header->inline_len_bytes;
    memset(body_end, 0, (size_t)(p + BLOCK_BYTES - body_end));
    header->header_crc = header_crc(p);
    put_le32(p + AT_CRC, header->header_crc);
    put_le32(p + AT_MARKS, header->completed_blocks);
    put_le32(p + AT_MARKS + 4, header->durable_blocks);
    put_le32(p + AT_MARKS + 12, marks_crc(p, header->header_crc));
}

int append_header_parse(const void *block, struct append_header *ret_header)
{
    const uint8_t *p = block;
    if (memcmp(p + AT_MAGIC, MAGIC, sizeof(MAGIC)) != 0 ||
        get_le16(p + AT_VERSION) != APPEND_HEADER_VERSION)
        return -EBADMSG;
    unsigned entry_count = get_le16(p + AT_ENTRY_COUNT);
    unsigned inline_len = get_le16(p + AT_INLINE_LEN);
    if (entry_count > APPEND_ENTRIES_MAX || 16 * entry_count + inline_len > APPEND_BODY_BYTES)
        return -EBADMSG;
    uint32_t crc = get_le32(p + AT_CRC);
    if (crc != header_crc(p) || get_le32(p + AT_MARKS + 12) != marks_crc(p, crc))
        return -EBADMSG;
    *ret_header = (struct append_header){
        .key = {.volume = get_le64(p + AT_VOLUME),
            .chunk = get_le64(p + AT_CHUNK),
            .index = p[AT_INDEX]},
        .kind = p[AT_KIND],
        .code = {.k = p[AT_K], .m = p[AT_M]},
        .epoch = get_le32(p + AT_EPOCH),
        .append_no = get_le32(p + AT_APPEND_NO),
        .off_blocks = get_le32(p + AT_OFF),
        .nonce = get_le64(p + AT_NONCE),
        .base_seq = get_le64(p + AT_BASE_SEQ),
        .entry_count = entry_count,
        .inline_len_bytes = inline_len,
        .prev_header_crc = get_le32(p + AT_PREV_CRC),
        .header_crc = crc,
        .completed_blocks = get_le32(p + AT_MARKS),
        .durable_blocks = get_le32(p + AT_MARKS + 4),
    };
    memcpy(&ret_header->cluster, p + AT_CLUSTER, 16);
    return 0;
}

struct shard_entry append_header_entry(const void *block, unsigned i)
{
    const uint8_t *e = (const uint8_t *)block + AT_BODY + 16 * i;
    return (struct shard_entry){
        .address = get_le64(e), .crc = get_le32(e + 8), .aux = get_le32(e + 12)};
}

const void *append_header_inline(const void *block, const struct append_header *header)
{
    return (const uint8_t *)block + AT_BODY + 16 * (size_t)header->entry_count;
}
