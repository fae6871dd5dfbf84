/* SPDX-License-Identifier: Apache-2.0
 *
 *   0 u8 type, 1 u8 zero, 2 u16 size, 4 u32 zero, 8 u64 block, 16 u64 session, 24 u64 number, then
 *   WRITE, TRIM, NOOP:  32 u64 count
 *   ROW:   32 u64 count, 40 u64 chunk index, 48 u16 row, 50 u16 row length, 52 u32 linear,
 *          56 u32 header CRC count, 60 u32 CRCs...; zero up to a multiple of 8
 */
#include "blockd/volume/log_record.h"

#include <errno.h>

#include "blockd/volume/chunk.h"
#include "common/bytes.h"
#include "common/check.h"

#define SIMPLE_BYTES 40
#define ROW_BYTES 60

size_t log_record_size(const struct log_record *record)
{
    if (record->type != LOG_ROW)
        return SIMPLE_BYTES;
    return ROUND_UP(ROW_BYTES + 4 * (size_t)record->header_crc_count, 8);
}

size_t log_record_encode(const struct log_record *record, void *to)
{
    size_t size = log_record_size(record);
    uint8_t *p = to;
    memset(p, 0, size);
    p[0] = (uint8_t)record->type;
    put_le16(p + 2, (uint16_t)size);
    put_le64(p + 8, record->block);
    put_le64(p + 16, record->session);
    put_le64(p + 24, record->number);
    put_le64(p + 32, record->count);
    if (record->type == LOG_ROW) {
        put_le64(p + 40, record->chunk_index);
        put_le16(p + 48, record->row);
        put_le16(p + 50, record->row_len);
        put_le32(p + 52, record->linear);
        put_le32(p + 56, record->header_crc_count);
        for (unsigned i = 0; i < record->header_crc_count; i++)
            put_le32(p + ROW_BYTES + 4 * i, record->header_crcs[i]);
    }
    return size;
}

int64_t log_record_decode(const void *from, size_t len_bytes, struct log_record *ret_record)
{
    const uint8_t *p = from;
    if (len_bytes < SIMPLE_BYTES)
        return -EBADMSG;
    struct log_record r = {.type = (enum log_record_type)p[0],
        .block = get_le64(p + 8),
        .session = get_le64(p + 16),
        .number = get_le64(p + 24),
        .count = get_le64(p + 32)};
    if (r.type < LOG_WRITE || r.type > LOG_NOOP || r.block >= 1ull << 52 || r.count >= 1ull << 52)
        return -EBADMSG;
    if (r.type != LOG_NOOP && (r.count == 0 || r.count > (1ull << 52) - r.block))
        return -EBADMSG;
    if (r.type == LOG_WRITE && r.count > APPEND_ENTRIES_MAX)
        return -EBADMSG;
    if (r.type == LOG_ROW) {
        if (len_bytes < ROW_BYTES || get_le32(p + 56) > CODE_SHARDS_MAX)
            return -EBADMSG;
        r.header_crc_count = (uint8_t)get_le32(p + 56);
        if (len_bytes < log_record_size(&r))
            return -EBADMSG;
        r.chunk_index = get_le64(p + 40);
        r.row = get_le16(p + 48);
        r.row_len = get_le16(p + 50);
        r.linear = get_le32(p + 52);
        if (r.row >= CHUNK_ROWS_MAX || r.row_len == 0 || r.row_len > APPEND_ENTRIES_MAX ||
            r.count > (uint64_t)r.row_len * CODE_K_MAX || r.linear + r.count > 65536)
            return -EBADMSG;
        for (unsigned i = 0; i < r.header_crc_count; i++)
            r.header_crcs[i] = get_le32(p + ROW_BYTES + 4 * i);
    }
    if (get_le16(p + 2) != log_record_size(&r))
        return -EBADMSG;
    *ret_record = r;
    return (int64_t)log_record_size(&r);
}
