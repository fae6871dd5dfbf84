/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "blockd/cluster/wire_volume.h"
#include "common/bytes.h"
#include "common/check.h"

static struct wire_volume_request example_request(void)
{
    return (struct wire_volume_request){
        .volume_id = 0x1122334455667788,
        .attachment = 3,
        .epoch = 7,
        .flags = VOLUME_FUA | VOLUME_NO_HOLE,
        .extents_max = WIRE_VOLUME_EXTENTS_MAX,
        .id = {.session = 9, .number = 100, .answered_below = 90},
        .off_bytes = 512,
        .len_bytes = 4096,
    };
}

static struct wire_volume_state example_state(void)
{
    return (struct wire_volume_state){.volume_id = 5,
        .size_bytes = VOLUME_SIZE_BYTES_MAX,
        .epoch = 6,
        .flags = WIRE_VOLUME_REMOVED | WIRE_VOLUME_HALTED,
        .traffic = 77,
        .extents = 2048,
        .pause_ns = 1234567};
}

static void test_requests_survive_the_wire(void **state)
{
    uint8_t body[WIRE_VOLUME_REQUEST_BYTES];
    struct wire_volume_request request = example_request(), back;
    memset(body, 0xff, sizeof(body));
    memset(&back, 0, sizeof(back));
    wire_volume_request_encode(&request, body);
    assert_int_equal(wire_volume_request_decode(body, sizeof(body), &back), 0);
    assert_int_equal(back.volume_id, request.volume_id);
    assert_int_equal(back.attachment, request.attachment);
    assert_int_equal(back.epoch, request.epoch);
    assert_int_equal(back.flags, request.flags);
    assert_int_equal(back.extents_max, request.extents_max);
    assert_int_equal(back.id.session, request.id.session);
    assert_int_equal(back.id.number, request.id.number);
    assert_int_equal(back.id.answered_below, request.id.answered_below);
    assert_int_equal(back.off_bytes, request.off_bytes);
    assert_int_equal(back.len_bytes, request.len_bytes);
}

/* A buffer may not be declared stable by somebody who does not hold it. */
static void test_the_promise_of_a_stable_buffer_stays_at_home(void **state)
{
    uint8_t body[WIRE_VOLUME_REQUEST_BYTES];
    struct wire_volume_request request = example_request(), back;
    request.flags |= VOLUME_STABLE;
    wire_volume_request_encode(&request, body);
    assert_int_equal(wire_volume_request_decode(body, sizeof(body), &back), 0);
    assert_int_equal(back.flags, VOLUME_FUA | VOLUME_NO_HOLE);
}

static void test_wrong_requests_are_refused(void **state)
{
    struct wire_volume_request back = {0}, before = back;
    uint8_t good[WIRE_VOLUME_REQUEST_BYTES + 1] = {0}, body[sizeof(good)];
    struct wire_volume_request request = example_request();
    wire_volume_request_encode(&request, good);
    assert_int_equal(wire_volume_request_decode(good, sizeof(good), &back), -EBADMSG);
    assert_int_equal(wire_volume_request_decode(good, sizeof(good) - 2, &back), -EBADMSG);
    static const struct {
        unsigned at, value;
    } wrong[] = {
        {20, 0x80 | VOLUME_FUA},           /* an unknown flag */
        {20, VOLUME_STABLE},               /* not for the wire */
        {24, 0},                           /* a number without a session */
        {40, 101},                         /* it declares itself answered */
        {64, WIRE_VOLUME_EXTENTS_MAX + 1}, /* more extents than fit */
        {68, 1},                           /* padding */
    };
    for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++) {
        memcpy(body, good, sizeof(body));
        put_le32(body + wrong[i].at, wrong[i].value);
        assert_int_equal(
            wire_volume_request_decode(body, WIRE_VOLUME_REQUEST_BYTES, &back), -EBADMSG);
    }
    assert_memory_equal(&back, &before, sizeof(back));
}

static void test_states_survive_the_wire(void **unused)
{
    uint8_t body[WIRE_VOLUME_STATE_BYTES];
    struct wire_volume_state state = example_state(), back;
    wire_volume_state_encode(&state, body);
    assert_int_equal(wire_volume_state_decode(body, sizeof(body), &back), 0);
    assert_int_equal(back.volume_id, state.volume_id);
    assert_int_equal(back.size_bytes, state.size_bytes);
    assert_int_equal(back.epoch, state.epoch);
    assert_int_equal(back.flags, state.flags);
    assert_int_equal(back.traffic, state.traffic);
    assert_int_equal(back.extents, state.extents);
    assert_int_equal(back.pause_ns, state.pause_ns);
}

static void test_wrong_states_are_refused(void **unused)
{
    uint8_t body[WIRE_VOLUME_STATE_BYTES];
    struct wire_volume_state state = example_state(), back;
    wire_volume_state_encode(&state, body);
    assert_int_equal(wire_volume_state_decode(body, sizeof(body) - 1, &back), -EBADMSG);
    put_le32(body + 20, 8);
    assert_int_equal(wire_volume_state_decode(body, sizeof(body), &back), -EBADMSG);
    state.size_bytes = VOLUME_SIZE_BYTES_MAX + 512;
    wire_volume_state_encode(&state, body);
    assert_int_equal(wire_volume_state_decode(body, sizeof(body), &back), -EBADMSG);
    state.size_bytes = 513;
    wire_volume_state_encode(&state, body);
    assert_int_equal(wire_volume_state_decode(body, sizeof(body), &back), -EBADMSG);
}

static void test_attach_names_a_volume(void **state)
{
    uint8_t body[WIRE_VOLUME_ATTACH_BYTES];
    struct wire_volume_attach attach = {.attachment = 4, .name = "vm-1.disk"}, back;
    wire_volume_attach_encode(&attach, body);
    assert_int_equal(wire_volume_attach_decode(body, sizeof(body), &back), 0);
    assert_int_equal(back.attachment, 4);
    assert_string_equal(back.name, "vm-1.disk");
    memset(attach.name, 'x', NAME_BYTES_MAX - 1);
    attach.name[NAME_BYTES_MAX - 1] = 0;
    wire_volume_attach_encode(&attach, body);
    assert_int_equal(wire_volume_attach_decode(body, sizeof(body), &back), 0);
    assert_string_equal(back.name, attach.name);
    body[WIRE_VOLUME_ATTACH_BYTES - 1] = 'x'; /* without an end */
    assert_int_equal(wire_volume_attach_decode(body, sizeof(body), &back), -EBADMSG);
}

static void test_attach_takes_nothing_but_a_name(void **state)
{
    static const char *const names[] = {"", "../etc", "a b", "-x"};
    uint8_t body[WIRE_VOLUME_ATTACH_BYTES];
    struct wire_volume_attach attach = {.attachment = 4}, back;
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        strcpy(attach.name, names[i]);
        wire_volume_attach_encode(&attach, body);
        assert_int_equal(wire_volume_attach_decode(body, sizeof(body), &back), -EBADMSG);
    }
    strcpy(attach.name, "ok");
    wire_volume_attach_encode(&attach, body);
    body[8 + 5] = 'x'; /* behind the end of the name */
    assert_int_equal(wire_volume_attach_decode(body, sizeof(body), &back), -EBADMSG);
    body[8 + 5] = 0;
    put_le64(body, 0); /* no number */
    assert_int_equal(wire_volume_attach_decode(body, sizeof(body), &back), -EBADMSG);
}

static void test_extents_are_converted_in_place(void **state)
{
    struct volume_extent extents[3] = {{4096, true}, {1ull << 50, false}, {512, true}};
    wire_volume_extents_encode(extents, 3, (uint8_t *)extents);
    assert_int_equal(
        wire_volume_extents_decode((uint8_t *)extents, 3, (1ull << 50) + 4608, extents), 0);
    assert_int_equal(extents[0].len_bytes, 4096);
    assert_true(extents[0].hole);
    assert_true(extents[1].len_bytes == 1ull << 50);
    assert_false(extents[1].hole);
    assert_int_equal(extents[2].len_bytes, 512);
    assert_true(extents[2].hole);
}

static void test_extents_beyond_what_was_asked_are_refused(void **state)
{
    struct volume_extent extents[2] = {{4096, true}, {4096, false}};
    uint8_t bytes[2 * WIRE_VOLUME_EXTENT_BYTES];
    wire_volume_extents_encode(extents, 2, bytes);
    assert_int_equal(wire_volume_extents_decode(bytes, 2, 8191, extents), -EBADMSG);
    assert_int_equal(wire_volume_extents_decode(bytes, 2, 8192, extents), 0);
    put_le64(bytes + 8, 1ull << 63); /* an empty hole */
    assert_int_equal(wire_volume_extents_decode(bytes, 2, 8192, extents), -EBADMSG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests_survive_the_wire),
        cmocka_unit_test(test_the_promise_of_a_stable_buffer_stays_at_home),
        cmocka_unit_test(test_wrong_requests_are_refused),
        cmocka_unit_test(test_states_survive_the_wire),
        cmocka_unit_test(test_wrong_states_are_refused),
        cmocka_unit_test(test_attach_names_a_volume),
        cmocka_unit_test(test_attach_takes_nothing_but_a_name),
        cmocka_unit_test(test_extents_are_converted_in_place),
        cmocka_unit_test(test_extents_beyond_what_was_asked_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
