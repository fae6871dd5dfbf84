/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_env.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/volume/log_record.h"
#include "common/bytes.h"
#include "common/check.h"
#include "common/rng.h"

static struct log_record row_record(void)
{
    struct log_record r = {.type = LOG_ROW,
        .block = 1000,
        .count = 48,
        .session = 0x1122334455667788,
        .number = 9,
        .chunk_index = (1ull << 34) - 1,
        .row = 63,
        .row_len = 16,
        .linear = 65536 - 48,
        .header_crc_count = 5,
        .header_crcs = {1, 2, 3, 4, UINT32_MAX}};
    return r;
}

static void check_round_trip(const struct log_record *record)
{
    uint8_t bytes[LOG_RECORD_BYTES_MAX], again[LOG_RECORD_BYTES_MAX];
    struct log_record back;
    memset(bytes, 0xaa, sizeof(bytes));
    size_t size = log_record_encode(record, bytes);
    assert_int_equal(size, log_record_size(record));
    assert_int_equal(size % 8, 0);
    assert_true(size <= LOG_RECORD_BYTES_MAX);
    assert_int_equal(log_record_decode(bytes, size, &back), size);
    assert_int_equal(back.type, record->type);
    assert_int_equal(back.block, record->block);
    assert_int_equal(back.count, record->count);
    assert_int_equal(back.session, record->session);
    assert_int_equal(back.number, record->number);
    assert_int_equal(log_record_encode(&back, again), size);
    assert_memory_equal(again, bytes, size);
    /* Every shorter piece is refused, a longer one is not looked at. */
    for (size_t cut = 0; cut < size; cut++)
        assert_int_equal(log_record_decode(bytes, cut, &back), -EBADMSG);
}

static void every_type_comes_back_as_it_was(void **state)
{
    const struct log_record records[] = {
        {.type = LOG_WRITE, .block = 0, .count = 1},
        {.type = LOG_WRITE, .block = (1ull << 52) - 248, .count = 248, .session = UINT64_MAX},
        {.type = LOG_TRIM, .block = 7, .count = (1ull << 52) - 7, .number = UINT64_MAX},
        {.type = LOG_NOOP},
        row_record(),
    };
    for (size_t i = 0; i < ARRAY_SIZE(records); i++)
        check_round_trip(&records[i]);
    struct log_record row = row_record();
    for (unsigned n = 0; n <= CODE_SHARDS_MAX; n++) {
        row.header_crc_count = (uint8_t)n;
        check_round_trip(&row);
    }
    uint8_t bytes[LOG_RECORD_BYTES_MAX];
    struct log_record back;
    row = row_record();
    log_record_encode(&row, bytes);
    assert_true(log_record_decode(bytes, sizeof(bytes), &back) > 0);
    assert_int_equal(back.chunk_index, row.chunk_index);
    assert_int_equal(back.row, row.row);
    assert_int_equal(back.row_len, row.row_len);
    assert_int_equal(back.linear, row.linear);
    assert_memory_equal(back.header_crcs, row.header_crcs, 5 * 4);
}

static void refuse(struct log_record record)
{
    uint8_t bytes[LOG_RECORD_BYTES_MAX];
    struct log_record back;
    size_t size = log_record_encode(&record, bytes);
    assert_int_equal(log_record_decode(bytes, size, &back), -EBADMSG);
}

/* Each of these would break what replay takes for granted (extents are not empty and below 2^52, map
 * entries hold 16 bits of linear index). */
static void values_that_make_no_sense_are_refused(void **state)
{
    const uint64_t end = 1ull << 52;
    refuse((struct log_record){.type = 0, .count = 1});
    refuse((struct log_record){.type = LOG_NOOP + 1, .count = 1});
    refuse((struct log_record){.type = LOG_WRITE, .count = 0});
    refuse((struct log_record){.type = LOG_WRITE, .count = 249});
    refuse((struct log_record){.type = LOG_WRITE, .block = end, .count = 1});
    refuse((struct log_record){.type = LOG_WRITE, .block = end - 1, .count = 2});
    refuse((struct log_record){.type = LOG_TRIM, .count = 0});
    refuse((struct log_record){.type = LOG_TRIM, .count = end});
    refuse((struct log_record){.type = LOG_TRIM, .block = 1, .count = end - 0});
    struct log_record row = row_record();
    row.row = 64;
    refuse(row);
    row = row_record();
    row.row_len = 0;
    refuse(row);
    row.row_len = 249;
    refuse(row);
    row = row_record();
    row.count = 0;
    refuse(row);
    row.count = 16 * CODE_K_MAX + 1;
    row.linear = 0;
    refuse(row);
    row = row_record();
    row.linear++;
    refuse(row);
}

static void a_size_that_contradicts_the_type_is_refused(void **state)
{
    uint8_t bytes[256] = {0};
    struct log_record row = row_record(), back;
    size_t size = log_record_encode(&row, bytes);
    put_le16(bytes + 2, (uint16_t)(size + 8));
    assert_int_equal(log_record_decode(bytes, sizeof(bytes), &back), -EBADMSG);
    put_le16(bytes + 2, (uint16_t)size);
    put_le32(bytes + 56, CODE_SHARDS_MAX + 1);
    assert_int_equal(log_record_decode(bytes, sizeof(bytes), &back), -EBADMSG);
    put_le32(bytes + 56, UINT32_MAX);
    assert_int_equal(log_record_decode(bytes, sizeof(bytes), &back), -EBADMSG);
}

/* What is accepted is what its own encoding decodes to. */
static void noise_is_refused_or_consistent(void **state)
{
    struct rng rng;
    rng_init(&rng, 1);
    for (unsigned i = 0; i < 200000; i++) {
        uint8_t bytes[LOG_RECORD_BYTES_MAX], again[LOG_RECORD_BYTES_MAX];
        struct log_record record = row_record(), back;
        record.type = (enum log_record_type)rng_between(&rng, 1, 4);
        size_t size = log_record_encode(&record, bytes);
        for (unsigned n = 0; n < 4; n++)
            bytes[rng_below(&rng, size)] = (uint8_t)rng_u64(&rng);
        int64_t r = log_record_decode(bytes, size, &record);
        assert_true(r == -EBADMSG || (r > 0 && (size_t)r <= size));
        if (r > 0) {
            assert_int_equal(log_record_encode(&record, again), r);
            assert_int_equal(log_record_decode(again, (size_t)r, &back), r);
            assert_int_equal(back.count, record.count);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_comes_back_as_it_was),
        cmocka_unit_test(values_that_make_no_sense_are_refused),
        cmocka_unit_test(a_size_that_contradicts_the_type_is_refused),
        cmocka_unit_test(noise_is_refused_or_consistent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
