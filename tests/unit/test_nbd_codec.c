/* SPDX-License-Identifier: Apache-2.0
 *
 * What clients may say, and the answer that the protocol text wants for it.
 */
#include "blockd/nbd/codec.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "common/check.h"

#define SIZE (1ull << 20)

static enum nbd_error check(uint16_t type, uint16_t flags, uint64_t off, uint32_t len)
{
    struct nbd_request_header header = {
        .type = type, .flags = flags, .off_bytes = off, .len_bytes = len};
    struct nbd_terms terms = {.size_bytes = SIZE, .structured = true, .allocation = true};
    return nbd_check_request(&header, &terms);
}

static void test_requests_outside_the_export_get_the_errors_of_the_text(void **state)
{
    const struct {
        uint16_t type;
        enum nbd_error error;
    } table[] = {
        {NBD_CMD_READ, NBD_EINVAL},
        {NBD_CMD_WRITE, NBD_ENOSPC},
        {NBD_CMD_WRITE_ZEROES, NBD_ENOSPC},
        {NBD_CMD_TRIM, NBD_EINVAL},
        {NBD_CMD_CACHE, NBD_EINVAL},
        {NBD_CMD_BLOCK_STATUS, NBD_EINVAL},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
        uint16_t type = table[i].type;
        assert_int_equal(check(type, 0, 0, SIZE), NBD_SUCCESS);
        assert_int_equal(check(type, 0, SIZE - 1, 1), NBD_SUCCESS);
        assert_int_equal(check(type, 0, SIZE - 1, 2), table[i].error);
        assert_int_equal(check(type, 0, SIZE, 1), table[i].error);
        assert_int_equal(check(type, 0, SIZE + 1, 1), table[i].error);
        assert_int_equal(check(type, 0, UINT64_MAX, 1), table[i].error);
        assert_int_equal(check(type, 0, UINT64_MAX - 10, 11), table[i].error);
        assert_int_equal(check(type, 0, UINT64_MAX - 10, 12), table[i].error);
    }
}

static void test_flags_are_valid_for_their_command_only(void **state)
{
    const uint16_t valid[] = {
        [NBD_CMD_READ] = NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_DF,
        [NBD_CMD_WRITE] = NBD_CMD_FLAG_FUA,
        [NBD_CMD_FLUSH] = NBD_CMD_FLAG_FUA,
        [NBD_CMD_TRIM] = NBD_CMD_FLAG_FUA,
        [NBD_CMD_CACHE] = NBD_CMD_FLAG_FUA,
        [NBD_CMD_WRITE_ZEROES] = NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO,
        [NBD_CMD_BLOCK_STATUS] = NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_REQ_ONE,
    };
    for (unsigned type = 0; type < ARRAY_SIZE(valid); type++) {
        if (type == NBD_CMD_DISC)
            continue;
        for (unsigned bit = 0; bit < 16; bit++) {
            uint32_t len = type == NBD_CMD_FLUSH ? 0 : 512;
            enum nbd_error want = valid[type] & 1 << bit ? NBD_SUCCESS : NBD_EINVAL;
            assert_int_equal(check(type, 1 << bit, 0, len), want);
        }
    }
}

static void test_what_was_not_negotiated_is_refused(void **state)
{
    struct nbd_terms plain = {.size_bytes = SIZE};
    struct nbd_request_header read = {
        .type = NBD_CMD_READ, .flags = NBD_CMD_FLAG_DF, .len_bytes = 512};
    struct nbd_request_header status = {.type = NBD_CMD_BLOCK_STATUS, .len_bytes = 512};
    assert_int_equal(nbd_check_request(&read, &plain), NBD_EINVAL);
    assert_int_equal(nbd_check_request(&status, &plain), NBD_EINVAL);
    assert_false(nbd_transmission_flags(false) & NBD_FLAG_SEND_DF);
    assert_true(nbd_transmission_flags(true) & NBD_FLAG_SEND_DF);
}

static void test_lengths_beyond_the_maximum_payload(void **state)
{
    struct nbd_terms terms = {.size_bytes = 1ull << 40, .structured = true};
    struct nbd_request_header header = {.type = NBD_CMD_READ, .len_bytes = (32u << 20) + 1};
    assert_int_equal(nbd_check_request(&header, &terms), NBD_EOVERFLOW);
    terms.structured = false;
    assert_int_equal(nbd_check_request(&header, &terms), NBD_EINVAL);
    header.type = NBD_CMD_WRITE;
    assert_int_equal(nbd_check_request(&header, &terms), NBD_EINVAL);
    header.len_bytes = 32u << 20;
    assert_int_equal(nbd_check_request(&header, &terms), NBD_SUCCESS);
    /* Without payload any length is served. */
    header.type = NBD_CMD_WRITE_ZEROES;
    header.len_bytes = UINT32_MAX;
    assert_int_equal(nbd_check_request(&header, &terms), NBD_SUCCESS);
    header.type = NBD_CMD_TRIM;
    assert_int_equal(nbd_check_request(&header, &terms), NBD_SUCCESS);
}

static void test_unknown_commands_and_flushes_with_a_range_are_invalid(void **state)
{
    for (unsigned type = 8; type < 300; type++)
        assert_int_equal(check(type, 0, 0, 0), NBD_EINVAL);
    assert_int_equal(check(NBD_CMD_FLUSH, 0, 0, 0), NBD_SUCCESS);
    assert_int_equal(check(NBD_CMD_FLUSH, 0, 1, 0), NBD_EINVAL);
    assert_int_equal(check(NBD_CMD_FLUSH, 0, 0, 1), NBD_EINVAL);
    assert_int_equal(check(NBD_CMD_BLOCK_STATUS, 0, 0, 0), NBD_EINVAL);
}

static void test_only_error_values_of_the_protocol_leave(void **state)
{
    static const int allowed[] = {0, 1, 5, 12, 22, 28, 75, 95, 108};
    for (int error = 0; error < 200; error++) {
        bool found = false;
        for (unsigned i = 0; i < ARRAY_SIZE(allowed); i++)
            found |= (int)nbd_error_of(-error) == allowed[i];
        assert_true(found);
        assert_true(error == 0 || nbd_error_of(-error) != NBD_SUCCESS);
    }
    assert_int_equal(nbd_error_of(-EDQUOT), NBD_ENOSPC);
    assert_int_equal(nbd_error_of(-EFBIG), NBD_ENOSPC);
    assert_int_equal(nbd_error_of(-EHOSTUNREACH), NBD_EIO);
}

static void test_a_wrong_magic_is_found(void **state)
{
    uint8_t wire[28] = {0};
    struct nbd_request_header header;
    struct nbd_option_header option;
    put_be32(wire, NBD_REQUEST_MAGIC);
    put_be16(wire + 4, 0x0102);
    put_be16(wire + 6, 7);
    put_be64(wire + 8, 0x1122334455667788);
    put_be64(wire + 16, 0x99);
    put_be32(wire + 24, 0x77);
    assert_int_equal(nbd_decode_request(wire, &header), 0);
    assert_int_equal(header.flags, 0x0102);
    assert_int_equal(header.type, 7);
    assert_int_equal(header.cookie, 0x1122334455667788);
    assert_int_equal(header.off_bytes, 0x99);
    assert_int_equal(header.len_bytes, 0x77);
    wire[3] ^= 1;
    assert_int_equal(nbd_decode_request(wire, &header), -EPROTO);
    assert_int_equal(nbd_decode_option_header(wire, &option), -EPROTO);
}

/* Every prefix and every wrong length of a good option is refused, and read no further. */
static void test_option_data_is_believed_only_if_all_lengths_agree(void **state)
{
    uint8_t info[] = {0, 0, 0, 3, 'v', 'm', '1', 0, 2, 0, 3, 0, 1};
    struct nbd_info_request request;
    assert_int_equal(nbd_decode_info_request(info, sizeof(info), &request), 0);
    assert_true(nbd_string_equal(request.name, "vm1"));
    assert_true(nbd_info_requested(&request, NBD_INFO_BLOCK_SIZE));
    assert_true(nbd_info_requested(&request, NBD_INFO_NAME));
    assert_false(nbd_info_requested(&request, NBD_INFO_DESCRIPTION));
    for (unsigned len = 0; len < sizeof(info); len++)
        assert_int_equal(nbd_decode_info_request(info, len, &request), -EINVAL);
    for (unsigned i = 0; i < 4; i++) {
        info[i] ^= 0x80;
        assert_int_equal(nbd_decode_info_request(info, sizeof(info), &request), -EINVAL);
        info[i] ^= 0x80;
    }
    info[5] = 0; /* "MUST NOT contain NUL characters" */
    assert_int_equal(nbd_decode_info_request(info, sizeof(info), &request), -EINVAL);
}

static void test_meta_context_queries_are_walked_whole(void **state)
{
    uint8_t data[] = {
        0, 0, 0, 1, 'v', 0, 0, 0, 2, 0, 0, 0, 5, 'b', 'a', 's', 'e', ':', 0, 0, 0, 1, 'x'};
    struct nbd_meta_request request;
    struct nbd_string query;
    assert_int_equal(nbd_decode_meta_request(data, sizeof(data), &request), 0);
    assert_true(nbd_string_equal(request.name, "v"));
    assert_true(nbd_meta_query_next(&request, &query));
    assert_true(nbd_string_equal(query, "base:"));
    assert_true(nbd_meta_query_next(&request, &query));
    assert_true(nbd_string_equal(query, "x"));
    assert_false(nbd_meta_query_next(&request, &query));
    for (unsigned len = 0; len < sizeof(data); len++)
        assert_int_equal(nbd_decode_meta_request(data, len, &request), -EINVAL);
    data[8] = 1; /* one query, and bytes behind it */
    assert_int_equal(nbd_decode_meta_request(data, sizeof(data), &request), -EINVAL);
    put_be32(data + 5, UINT32_MAX);
    assert_int_equal(nbd_decode_meta_request(data, sizeof(data), &request), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests_outside_the_export_get_the_errors_of_the_text),
        cmocka_unit_test(test_flags_are_valid_for_their_command_only),
        cmocka_unit_test(test_what_was_not_negotiated_is_refused),
        cmocka_unit_test(test_lengths_beyond_the_maximum_payload),
        cmocka_unit_test(test_unknown_commands_and_flushes_with_a_range_are_invalid),
        cmocka_unit_test(test_only_error_values_of_the_protocol_leave),
        cmocka_unit_test(test_a_wrong_magic_is_found),
        cmocka_unit_test(test_option_data_is_believed_only_if_all_lengths_agree),
        cmocka_unit_test(test_meta_context_queries_are_walked_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
