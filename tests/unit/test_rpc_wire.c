/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "common/check.h"
#include "common/crc32c.h"
#include "common/rpc_wire.h"

static const struct rpc_header request = {.version = 1,
    .type = RPC_FRAME_REQUEST,
    .code = 7,
    .id = 9,
    .deadline_us = 5,
    .body_len_bytes = 3,
    .payload_bytes = 4,
    .reply_bytes_max = 6,
    .body_crc = 1,
    .payload_crc = 2};

/* W2, bounds, versions: all with a good CRC. */
static bool refused(struct rpc_header header, uint8_t version)
{
    uint8_t wire[RPC_HEADER_BYTES];
    struct rpc_header back;
    rpc_header_encode(&header, wire);
    return rpc_header_decode(wire, version, &back) != NULL;
}

static void any_flipped_bit_of_a_header_is_found(void **state)
{
    uint8_t wire[RPC_HEADER_BYTES];
    struct rpc_header back = {.id = 1234};
    for (unsigned bit = 0; bit < 8 * RPC_HEADER_BYTES; bit++) {
        rpc_header_encode(&request, wire);
        wire[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_non_null(rpc_header_decode(wire, 1, &back));
        assert_int_equal(back.id, 1234);
    }
    assert_false(refused(request, 1));
}

static void a_header_has_only_the_fields_of_its_type(void **state)
{
    struct rpc_header h = {.version = 1, .type = RPC_FRAME_CANCEL, .id = 3};
    assert_false(refused(h, 1));
    h.code = 1;
    assert_true(refused(h, 1));
    h = (struct rpc_header){.type = RPC_FRAME_PING};
    assert_false(refused(h, 1));
    assert_false(refused(h, 0));
    h.id = 1;
    assert_true(refused(h, 1));
    h = (struct rpc_header){.version = 1, .type = RPC_FRAME_REPLY, .id = 1};
    assert_false(refused(h, 1));
    h.deadline_us = 1;
    assert_true(refused(h, 1));
    h = (struct rpc_header){.version = 1, .type = RPC_FRAME_REPLY, .id = 1, .payload_crc = 1};
    assert_true(refused(h, 1));
    h = (struct rpc_header){.type = 0};
    assert_true(refused(h, 1));
    h.type = 7;
    assert_true(refused(h, 1));
}

static void versions_and_lengths_have_bounds(void **state)
{
    struct rpc_header h = request;
    assert_true(refused(h, 0)); /* before the hello */
    assert_true(refused(h, 2));
    h.body_len_bytes = RPC_BODY_BYTES_MAX;
    h.payload_bytes = h.reply_bytes_max = RPC_PAYLOAD_BYTES_MAX;
    assert_false(refused(h, 1));
    h.body_len_bytes++;
    assert_true(refused(h, 1));
    h = request;
    h.payload_bytes = RPC_PAYLOAD_BYTES_MAX + 1;
    assert_true(refused(h, 1));
    h = request;
    h.reply_bytes_max = RPC_PAYLOAD_BYTES_MAX + 1;
    assert_true(refused(h, 1));
    h = (struct rpc_header){.type = RPC_FRAME_HELLO, .body_len_bytes = RPC_HELLO_BYTES_MAX + 1};
    assert_true(refused(h, 0));
    h = (struct rpc_header){.type = RPC_FRAME_END, .body_len_bytes = RPC_END_TEXT_BYTES_MAX + 1};
    assert_true(refused(h, 0));
}

static void two_nodes_agree_on_the_highest_common_version(void **state)
{
    struct rpc_hello a = {.version_min = 1, .version_max = 3};
    struct rpc_hello b = {.version_min = 2, .version_max = 5};
    assert_int_equal(rpc_hello_agree(&a, &b), 3);
    assert_int_equal(rpc_hello_agree(&b, &a), 3);
    b.version_min = 4;
    assert_int_equal(rpc_hello_agree(&a, &b), 0);
    a = b = (struct rpc_hello){.version_min = 256, .version_max = 300};
    assert_int_equal(rpc_hello_agree(&a, &b), 0);
}

static const char *decode_changed(unsigned at, uint8_t value)
{
    struct rpc_hello hello = {.version_min = 1, .version_max = 1, .silence_ms = 1};
    uint8_t body[RPC_HELLO_BYTES_MAX] = {0};
    strcpy(hello.self.node_name, "n1");
    rpc_hello_encode(&hello, body);
    body[at] = value;
    /* What a later version adds at the end is passed over. */
    return rpc_hello_decode(body, RPC_HELLO_BYTES_MAX, &hello);
}

static void hellos_are_checked(void **state)
{
    uint8_t body[RPC_HELLO_BYTES];
    struct rpc_hello hello;
    assert_null(decode_changed(500, 1));
    assert_non_null(decode_changed(0, 2)); /* min above max */
    assert_non_null(decode_changed(0, 0));
    assert_non_null(decode_changed(4, 0));     /* no silence */
    assert_non_null(decode_changed(104, 10));  /* a newline in the name */
    assert_non_null(decode_changed(110, 'x')); /* after its end */
    memset(body, 'x', sizeof(body));
    assert_non_null(rpc_hello_decode(body, sizeof(body), &hello));
    assert_non_null(rpc_hello_decode(body, sizeof(body) - 1, &hello));
}

/* The table of docs/PROTOCOL.md. */
static void statuses_have_fixed_numbers(void **state)
{
    static const int errnos[] = {0, ENOENT, EBADMSG, EIO, EHOSTUNREACH, ESTALE, ENOSPC, ERANGE,
        EEXIST, EROFS, EREMOTEIO, EINVAL, EAGAIN, EBUSY, ESHUTDOWN, ECANCELED, ENOSYS, ENOTSUP,
        ETIMEDOUT, ENODEV, EMSGSIZE, ENOMEM, EACCES, EPROTO, EPERM, E2BIG, ENAMETOOLONG};
    for (uint16_t i = 0; i < ARRAY_SIZE(errnos); i++) {
        assert_int_equal(rpc_status_encode(-errnos[i]), i);
        assert_int_equal(rpc_status_decode(i), -errnos[i]);
    }
    assert_int_equal(rpc_status_encode(-ETXTBSY), 3);
    assert_int_equal(rpc_status_decode(ARRAY_SIZE(errnos)), -EIO);
    assert_int_equal(rpc_status_decode(UINT16_MAX), -EIO);
}

static void texts_for_people_are_made_harmless(void **state)
{
    char text[RPC_END_TEXT_BYTES_MAX + 1];
    rpc_end_text((const uint8_t *)"a\nb\x1b[c", 6, text);
    assert_string_equal(text, "a?b?[c");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_flipped_bit_of_a_header_is_found),
        cmocka_unit_test(a_header_has_only_the_fields_of_its_type),
        cmocka_unit_test(versions_and_lengths_have_bounds),
        cmocka_unit_test(two_nodes_agree_on_the_highest_common_version),
        cmocka_unit_test(hellos_are_checked),
        cmocka_unit_test(statuses_have_fixed_numbers),
        cmocka_unit_test(texts_for_people_are_made_harmless),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
