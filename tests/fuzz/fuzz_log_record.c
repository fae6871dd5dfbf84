/* SPDX-License-Identifier: Apache-2.0
 *
 * The inline bytes of a log append, record after record as replay walks them. What decodes is within
 * the bounds that replay trusts, and encodes to a record that decodes to the same.
 */
#include "fuzz.h"

#include <errno.h>
#include <string.h>

#include "blockd/volume/log_record.h"
#include "common/check.h"

static void check_bounds(const struct log_record *r)
{
    CHECK(r->type >= LOG_WRITE && r->type <= LOG_NOOP);
    if (r->type == LOG_NOOP)
        return;
    CHECK(r->count >= 1 && r->block < 1ull << 52 && r->count <= (1ull << 52) - r->block);
    if (r->type == LOG_WRITE)
        CHECK(r->count <= APPEND_ENTRIES_MAX);
    if (r->type == LOG_ROW)
        CHECK(r->row_len >= 1 && r->row_len <= APPEND_ENTRIES_MAX &&
              r->linear + r->count <= 65536 && r->header_crc_count <= CODE_SHARDS_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len_bytes)
{
    while (len_bytes > 0) {
        struct log_record record, again;
        uint8_t bytes[LOG_RECORD_BYTES_MAX], bytes2[LOG_RECORD_BYTES_MAX];
        int64_t size = log_record_decode(data, len_bytes, &record);
        CHECK(size == -EBADMSG || (size >= 8 && (size_t)size <= len_bytes && size % 8 == 0));
        if (size < 0)
            return 0;
        check_bounds(&record);
        CHECK(log_record_encode(&record, bytes) == (size_t)size);
        CHECK(log_record_decode(bytes, (size_t)size, &again) == size);
        log_record_encode(&again, bytes2);
        CHECK(memcmp(bytes, bytes2, (size_t)size) == 0);
        data += size;
        len_bytes -= (size_t)size;
    }
    return 0;
}
