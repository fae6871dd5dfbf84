/* SPDX-License-Identifier: Apache-2.0
 *
 * Calls of attachments, news of their volumes, and requests that no good client sends.
 */
#include "attach_fixture.h"

/* --- Calls --------------------------------------------------------------------------------------- */

static void calls_body(void)
{
    static uint8_t out[200000], in[200000];
    struct events e1 = {0}, e2 = {0};
    struct attachment *a1 = get(&n1, &e1), *a2 = get(&n2, &e2);
    assert_string_equal(attach_owner(a1), "");
    assert_string_equal(attach_owner(a2), "n1");
    assert_true(attach_size_bytes(a2) == VOLUME_BYTES);
    assert_string_equal(attach_volume_name(a2), "vm1");
    assert_true(attach_volume_id(a1) == attach_volume_id(a2));
    assert_int_equal(fake_volume_users(n1.volumes, "vm1"), 2);
    fill(out, sizeof(out), 3);
    assert_int_equal(attach_write(a2, 512, sizeof(out), out, VOLUME_FUA, number(1)), 0);
    assert_int_equal(counts()->fua_calls, 1);
    assert_int_equal(counts()->last_id.session, 7);
    assert_int_equal(counts()->last_id.number, 1);
    assert_int_equal(attach_read(a1, 512, sizeof(in), in), 0);
    assert_memory_equal(in, out, sizeof(in));
    assert_int_equal(attach_write_zeroes(a2, 4096, 8192, VOLUME_NO_HOLE, number(2)), 0);
    assert_int_equal(counts()->no_hole, 1);
    memset(out + 4096 - 512, 0, 8192);
    assert_int_equal(attach_read(a2, 512, sizeof(in), in), 0);
    assert_memory_equal(in, out, sizeof(in));
    assert_int_equal(attach_trim(a2, 0, VOLUME_BYTES, 0, number(3)), 0);
    assert_int_equal(counts()->trims, 1);
    assert_int_equal(attach_flush(a2), 0);
    assert_int_equal(counts()->flushes, 1);
    attach_put(a1);
    attach_put(a2);
}

static void test_calls_reach_the_volume_wherever_it_is(void **state)
{
    run(calls_body);
}

static void large_body(void)
{
    size_t len_bytes = (40u << 20) + 512;
    uint8_t *out = mem_alloc(len_bytes), *in = mem_alloc(len_bytes);
    struct events e = {0};
    struct attachment *a1 = get(&n1, &e), *a2 = get(&n2, &e);
    fill(out, len_bytes, 9);
    assert_int_equal(attach_write(a2, 0, len_bytes, out, 0, number(1)), 0);
    assert_int_equal(counts()->writes, 2);
    assert_int_equal(counts()->duplicates, 0);
    assert_int_equal(attach_read(a2, 0, len_bytes, in), 0);
    assert_memory_equal(in, out, len_bytes);
    mem_free(out);
    mem_free(in);
    attach_put(a2);
    attach_put(a1);
}

static void test_what_is_longer_than_a_frame_is_split(void **state)
{
    run(large_body);
}

static void status_body(void)
{
    static uint8_t out[BLOCK];
    struct volume_extent here[100], there[100];
    unsigned here_count, there_count;
    struct events e = {0};
    struct attachment *a1 = get(&n1, &e), *a2 = get(&n2, &e);
    for (unsigned i = 0; i < 30; i++)
        assert_int_equal(attach_write(a1, i * 3 * BLOCK, BLOCK, out, 0, (struct request_id){0}), 0);
    assert_int_equal(attach_block_status(a1, 0, VOLUME_BYTES, here, 100, &here_count), 0);
    assert_int_equal(attach_block_status(a2, 0, VOLUME_BYTES, there, 100, &there_count), 0);
    assert_int_equal(here_count, there_count);
    for (unsigned i = 0; i < here_count; i++) {
        assert_true(here[i].len_bytes == there[i].len_bytes);
        assert_true(here[i].hole == there[i].hole);
    }
    assert_int_equal(attach_block_status(a2, 0, VOLUME_BYTES, there, 1, &there_count), 0);
    assert_int_equal(there_count, 1);
    attach_put(a1);
    attach_put(a2);
}

static void test_block_status_comes_as_extents(void **state)
{
    run(status_body);
}

static void errors_body(void)
{
    static uint8_t buf[BLOCK];
    struct events e = {0};
    struct attachment *a1 = get(&n1, &e), *a2 = get(&n2, &e);
    fake_volume_faults(n1.volumes, "vm1")->error = -ENOSPC;
    assert_int_equal(attach_write(a2, 0, BLOCK, buf, 0, number(1)), -ENOSPC);
    fake_volume_faults(n1.volumes, "vm1")->error = -EIO;
    assert_int_equal(attach_read(a2, 0, BLOCK, buf), -EIO);
    fake_volume_faults(n1.volumes, "vm1")->error = 0;
    assert_int_equal(attach_read(a2, VOLUME_BYTES - 512, BLOCK, buf), -EINVAL);
    assert_int_equal(attach_trim(a2, UINT64_MAX - 5, 10, 0, number(2)), -EINVAL);
    assert_int_equal(attach_read(a2, 0, BLOCK, buf), 0);
    assert_int_equal(e.halted, 0);
    attach_put(a1);
    attach_put(a2);
}

static void test_the_owners_errors_are_the_callers(void **state)
{
    run(errors_body);
}

/* --- News ---------------------------------------------------------------------------------------- */

static void resize_body(void)
{
    static uint8_t buf[BLOCK];
    char *error = NULL;
    struct events e1 = {0}, e2 = {0};
    struct attachment *a1 = get(&n1, &e1), *a2 = get(&n2, &e2);
    assert_int_equal(volumes_resize(n1.volumes, "vm1", VOLUME_BYTES + 4096, &error), 0);
    assert_int_equal(e1.resized, 1);
    env_sleep_ns(2500 * MS); /* nothing is read or written */
    assert_int_equal(e2.resized, 1);
    assert_true(attach_size_bytes(a2) == VOLUME_BYTES + 4096);
    assert_int_equal(volumes_resize(n1.volumes, "vm1", VOLUME_BYTES + 8192, &error), 0);
    assert_int_equal(attach_read(a2, 0, BLOCK, buf), 0); /* at once with an answer */
    assert_int_equal(e2.resized, 2);
    attach_put(a1);
    attach_put(a2);
}

static void test_growth_is_seen_everywhere(void **state)
{
    run(resize_body);
}

static void delete_vm1(void *arg)
{
    char *error = NULL;
    assert_int_equal(volumes_delete(n1.volumes, "vm1", true, &error), 0);
    fake_volumes_add(n1.volumes, "vm1", VOLUME_BYTES); /* for the end of the test */
    *(bool *)arg = true;
}

static void removed_body(void)
{
    struct events e1 = {0}, e2 = {0};
    struct attachment *a1 = get(&n1, &e1), *a2 = get(&n2, &e2);
    bool deleted = false;
    fiber_spawn("delete", delete_vm1, &deleted);
    env_sleep_ns(2500 * MS);
    assert_int_equal(e1.removed, 1);
    assert_true(e2.removed > 0);
    attach_put(a1);
    attach_put(a2);
    env_sleep_ns(SEC);
    assert_true(deleted);
}

static void test_a_forced_delete_reaches_all_nodes(void **state)
{
    run(removed_body);
}

/* --- What comes off the wire is not trusted -------------------------------------------------------- */

static int raw(uint16_t method, const struct wire_volume_request *request, const void *payload,
    size_t payload_bytes)
{
    uint8_t body[WIRE_VOLUME_REQUEST_BYTES], reply[512];
    static uint8_t data[BLOCK];
    struct iovec in = {(void *)payload, payload_bytes}, out = {data, sizeof(data)};
    wire_volume_request_encode(request, body);
    struct rpc_call call = {.method = method,
        .body = body,
        .body_len_bytes = sizeof(body),
        .payload = &in,
        .payload_count = payload_bytes > 0,
        .deadline_ns = UINT64_MAX,
        .reply_body = reply,
        .reply_body_max = sizeof(reply),
        .reply_payload = &out,
        .reply_payload_count = 1};
    return peer_call(&n2.peers.peer, &call);
}

static void hostile_body(void)
{
    static uint8_t buf[BLOCK];
    struct events e = {0};
    struct attachment *a1 = get(&n1, &e), *a2 = get(&n2, &e);
    struct wire_volume_request good = {
        .volume_id = attach_volume_id(a1), .attachment = 1, .epoch = 1, .len_bytes = BLOCK};
    assert_int_equal(raw(METHOD_VOLUME_READ, &good, NULL, 0), 0);
    struct wire_volume_request bad = good;
    bad.epoch = 2;
    assert_int_equal(raw(METHOD_VOLUME_READ, &bad, NULL, 0), -ESTALE);
    bad = good;
    bad.volume_id = 99;
    assert_int_equal(raw(METHOD_VOLUME_READ, &bad, NULL, 0), -ESTALE);
    bad = good;
    bad.attachment = 99;
    assert_int_equal(raw(METHOD_VOLUME_READ, &bad, NULL, 0), -ESTALE);
    assert_int_equal(raw(METHOD_VOLUME_HANDOFF, &bad, NULL, 0), -ESTALE);
    assert_int_equal(raw(METHOD_VOLUME_DETACH, &bad, NULL, 0), 0);
    bad = good;
    bad.len_bytes = WIRE_VOLUME_DATA_BYTES_MAX + 512;
    assert_int_equal(raw(METHOD_VOLUME_READ, &bad, NULL, 0), -EINVAL);
    bad.len_bytes = 2 * BLOCK; /* more than came */
    assert_int_equal(raw(METHOD_VOLUME_WRITE, &bad, buf, BLOCK), -EINVAL);
    bad.off_bytes = UINT64_MAX;
    assert_int_equal(raw(METHOD_VOLUME_TRIM, &bad, NULL, 0), -EINVAL);
    bad = good;
    assert_int_equal(raw(METHOD_VOLUME_BLOCK_STATUS, &bad, NULL, 0), -EINVAL); /* no extents_max */
    bad.extents_max = WIRE_VOLUME_EXTENTS_MAX + 1;
    assert_int_equal(raw(METHOD_VOLUME_BLOCK_STATUS, &bad, NULL, 0), -EBADMSG);
    attach_put(a1);
    attach_put(a2);
}

static void test_requests_name_only_what_their_session_attached(void **state)
{
    run(hostile_body);
}

int main(void)
{
    log_set_level(LOG_LEVEL_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calls_reach_the_volume_wherever_it_is),
        cmocka_unit_test(test_what_is_longer_than_a_frame_is_split),
        cmocka_unit_test(test_block_status_comes_as_extents),
        cmocka_unit_test(test_the_owners_errors_are_the_callers),
        cmocka_unit_test(test_growth_is_seen_everywhere),
        cmocka_unit_test(test_a_forced_delete_reaches_all_nodes),
        cmocka_unit_test(test_requests_name_only_what_their_session_attached),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
