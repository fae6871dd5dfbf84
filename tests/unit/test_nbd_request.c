/* SPDX-License-Identifier: Apache-2.0
 *
 * Every command, alone and many at once, against a whole server in the simulation.
 */
#include "blockd/nbd/connection.h"

#include "tests/unit/nbd_fixture.h"

#define BLOCK 4096u

static void fill(void *buf, uint32_t len_bytes, unsigned tag)
{
    for (uint32_t i = 0; i < len_bytes; i++)
        ((uint8_t *)buf)[i] = tag + i / 7;
}

static struct fake_faults *faults(struct nbd_test *t)
{
    return fake_volume_faults(t->volumes, "vm1");
}

static const struct fake_counts *counts(struct nbd_test *t)
{
    return fake_volume_counts(t->volumes, "vm1");
}

MAY_SUSPEND static struct nbd_client *use(bool structured)
{
    return nbd_client_use(NBD_TEST_ADDRESS, "vm1", structured);
}

/* --- Commands ----------------------------------------------------------------------------------
 */

/* All lengths and alignments around the seams: inline and large payloads, chunk ends. */
static void write_and_read(struct nbd_test *t)
{
    static const uint32_t lengths[] = {
        1, 511, 512, 513, 4095, 4096, 4097, 65535, 65536, 65537, 1 << 20, (1 << 20) + 1, 5 << 20};
    uint8_t *out = mem_alloc(8 << 20), *back = mem_alloc(8 << 20);
    for (unsigned structured = 0; structured < 2; structured++) {
        struct nbd_client *c = use(structured);
        for (unsigned i = 0; i < ARRAY_SIZE(lengths); i++) {
            uint64_t off = (i * 12345 + structured) % 100000;
            fill(out, lengths[i], i + structured);
            assert_int_equal(nbd_client_call(c, NBD_CMD_WRITE, 0, off, lengths[i], out), 0);
            memset(back, 0xee, lengths[i]);
            assert_int_equal(nbd_client_call(c, NBD_CMD_READ, 0, off, lengths[i], back), 0);
            assert_memory_equal(out, back, lengths[i]);
        }
        nbd_client_free(c);
    }
    assert_int_equal(counts(t)->stable_writes, 2 * 4);
    mem_free(out);
    mem_free(back);
}

static void test_any_length_and_alignment_is_written_and_read(void **state)
{
    nbd_test_run(write_and_read, (struct nbd_server_options){0});
}

static void largest(struct nbd_test *t)
{
    const uint32_t len = 32 << 20;
    uint8_t *out = mem_alloc(len), *back = mem_alloc(len);
    struct nbd_client *c = use(true);
    fill(out, len, 9);
    assert_int_equal(nbd_client_call(c, NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, 512, len, out), 0);
    assert_int_equal(nbd_client_call(c, NBD_CMD_READ, NBD_CMD_FLAG_DF, 512, len, back), 0);
    assert_memory_equal(out, back, len);
    assert_int_equal(nbd_client_call(c, NBD_CMD_READ, 0, 0, len + 1, back), NBD_EOVERFLOW);
    /* Its payload is passed over, and the connection goes on. */
    assert_true(nbd_client_request(c, NBD_CMD_WRITE, 0, 1, 0, len + 1, NULL));
    for (uint32_t done = 0; done < len + 1; done += 1 << 20)
        nbd_client_send(c, out, MIN(1u << 20, len + 1 - done));
    struct nbd_client_reply r;
    assert_true(nbd_client_reply(c, 0, 0, NULL, &r));
    assert_int_equal(r.error, NBD_EINVAL);
    assert_int_equal(nbd_client_call(c, NBD_CMD_FLUSH, 0, 0, 0, NULL), 0);
    /* This one is an attack. */
    assert_true(nbd_client_request(c, NBD_CMD_WRITE, 0, 1, 0, UINT32_MAX, NULL));
    assert_true(nbd_client_closed(c, SEC));
    nbd_client_free(c);
    mem_free(out);
    mem_free(back);
}

static void test_requests_up_to_32_mib(void **state)
{
    nbd_test_run(largest, (struct nbd_server_options){0});
}

static void refused_writes(struct nbd_test *t)
{
    static uint8_t buf[200000];
    struct nbd_client *c = use(false);
    assert_int_equal(
        nbd_client_call(c, NBD_CMD_WRITE, 0, NBD_TEST_BYTES - 100, 101, buf), NBD_ENOSPC);
    assert_int_equal(
        nbd_client_call(c, NBD_CMD_WRITE, 0, UINT64_MAX, sizeof(buf), buf), NBD_ENOSPC);
    assert_int_equal(nbd_client_call(c, NBD_CMD_WRITE, 0x8000, 0, sizeof(buf), buf), NBD_EINVAL);
    assert_int_equal(nbd_client_call(c, 77, 0, 0, 0, buf), NBD_EINVAL);
    assert_int_equal(nbd_client_call(c, NBD_CMD_READ, 0, NBD_TEST_BYTES, 1, buf), NBD_EINVAL);
    assert_int_equal(nbd_client_call(c, NBD_CMD_READ, 0, 0, 0, buf), 0);
    assert_int_equal(nbd_client_call(c, NBD_CMD_WRITE, 0, 0, 0, buf), 0);
    assert_int_equal(nbd_client_call(c, NBD_CMD_TRIM, 0, 0, 0, buf), 0);
    faults(t)->error = -EDQUOT;
    assert_int_equal(nbd_client_call(c, NBD_CMD_WRITE, 0, 0, 512, buf), NBD_ENOSPC);
    faults(t)->error = -ENOMEDIUM;
    assert_int_equal(nbd_client_call(c, NBD_CMD_READ, 0, 0, 512, buf), NBD_EIO);
    faults(t)->error = 0;
    assert_int_equal(nbd_client_call(c, NBD_CMD_READ, 0, 0, 512, buf), 0);
    assert_int_equal(counts(t)->writes, 0);
    nbd_client_free(c);
    c = use(true);
    faults(t)->error = -EIO;
    assert_int_equal(nbd_client_call(c, NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, 100000, buf), NBD_EIO);
    faults(t)->error = 0;
    assert_int_equal(nbd_client_call(c, NBD_CMD_READ, 0, 0, 0, buf), 0);
    nbd_client_free(c);
}

static void test_refused_requests_leave_the_stream_in_step(void **state)
{
    nbd_test_run(refused_writes, (struct nbd_server_options){0});
}

static void holes(struct nbd_test *t)
{
    static uint8_t buf[1 << 20];
    struct nbd_client_reply r;
    struct nbd_client *c = use(true);
    memset(buf, 1, sizeof(buf));
    assert_int_equal(nbd_client_call(c, NBD_CMD_WRITE, 0, 256 << 10, 64 << 10, buf), 0);
    assert_true(nbd_client_request(c, NBD_CMD_READ, 0, 7, 0, sizeof(buf), NULL));
    assert_true(nbd_client_reply(c, 0, sizeof(buf), buf, &r));
    assert_int_equal(r.hole_chunks, 2);
    assert_int_equal(r.data_chunks, 1);
    for (unsigned i = 0; i < sizeof(buf); i++)
        assert_int_equal(buf[i], i >= 256 << 10 && i < 320 << 10);
    assert_true(nbd_client_request(c, NBD_CMD_READ, NBD_CMD_FLAG_DF, 7, 0, sizeof(buf), NULL));
    assert_true(nbd_client_reply(c, 0, sizeof(buf), buf, &r));
    assert_int_equal(r.hole_chunks, 0);
    assert_int_equal(r.data_chunks, 1);
    /* More pieces than a reply describes one by one: the rest is sent as data. */
    for (unsigned i = 0; i < 64; i++)
        assert_int_equal(nbd_client_call(c, NBD_CMD_WRITE, 0, i * 16384, 4096, buf), 0);
    assert_true(nbd_client_request(c, NBD_CMD_READ, 0, 7, 0, sizeof(buf), NULL));
    assert_true(nbd_client_reply(c, 0, sizeof(buf), buf, &r));
    assert_true(r.hole_chunks > 0 && r.hole_chunks + r.data_chunks <= NBD_PIECES_MAX);
    nbd_client_free(c);
}

static void test_structured_reads_show_holes_unless_told_not_to(void **state)
{
    nbd_test_run(holes, (struct nbd_server_options){0});
}

static void block_status(struct nbd_test *t)
{
    static uint8_t buf[8192];
    struct nbd_client_reply r;
    struct nbd_client *c = use(true);
    assert_int_equal(nbd_client_call(c, NBD_CMD_WRITE, 0, 8192, 8192, buf), 0);
    assert_true(nbd_client_request(c, NBD_CMD_BLOCK_STATUS, 0, 7, 4096, 1 << 20, NULL));
    assert_true(nbd_client_reply(c, 0, 0, NULL, &r));
    assert_int_equal(r.extent_count, 3);
    assert_int_equal(r.extents[0].len_bytes, 4096);
    assert_int_equal(r.extents[0].flags, NBD_STATE_HOLE | NBD_STATE_ZERO);
    assert_int_equal(r.extents[1].len_bytes, 8192);
    assert_int_equal(r.extents[1].flags, 0);
    assert_int_equal(r.extents[2].len_bytes, (1 << 20) - 12288);
    assert_int_equal(r.extents[2].flags, NBD_STATE_HOLE | NBD_STATE_ZERO);
    assert_true(
        nbd_client_request(c, NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_REQ_ONE, 7, 10000, 1 << 20, NULL));
    assert_true(nbd_client_reply(c, 0, 0, NULL, &r));
    assert_int_equal(r.extent_count, 1);
    assert_int_equal(r.extents[0].len_bytes, 6384);
    /* More extents than a reply has room for: as many as fit. */
    for (unsigned i = 0; i < 5000; i++)
        assert_int_equal(nbd_client_call(c, NBD_CMD_WRITE, 0, i * 8192, 1, buf), 0);
    assert_true(nbd_client_request(c, NBD_CMD_BLOCK_STATUS, 0, 7, 0, 60 << 20, NULL));
    assert_true(nbd_client_reply(c, 0, 0, NULL, &r));
    assert_int_equal(r.extent_count, NBD_STATUS_EXTENTS_MAX);
    nbd_client_free(c);
}

static void test_block_status_tells_holes_from_data(void **state)
{
    nbd_test_run(block_status, (struct nbd_server_options){0});
}

static void zeroes_and_flags(struct nbd_test *t)
{
    uint8_t buf[BLOCK];
    struct nbd_client *c = use(true);
    const uint16_t zeroes = NBD_CMD_WRITE_ZEROES;
    memset(buf, 1, sizeof(buf));
    assert_int_equal(nbd_client_call(c, NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, 0, BLOCK, buf), 0);
    assert_int_equal(counts(t)->fua_calls, 1);
    assert_int_equal(nbd_client_call(c, zeroes, NBD_CMD_FLAG_FAST_ZERO, 100, 1000, buf), 0);
    assert_int_equal(nbd_client_call(c, NBD_CMD_READ, 0, 0, BLOCK, buf), 0);
    assert_int_equal(buf[99], 1);
    assert_int_equal(buf[100], 0);
    assert_int_equal(buf[1099], 0);
    assert_int_equal(buf[1100], 1);
    assert_int_equal(nbd_client_call(c, zeroes, NBD_CMD_FLAG_NO_HOLE, 0, BLOCK, buf), 0);
    assert_int_equal(counts(t)->no_hole, 1);
    assert_int_equal(
        nbd_client_call(c, zeroes, NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO, 0, BLOCK, buf),
        NBD_ENOTSUP);
    assert_int_equal(nbd_client_call(c, NBD_CMD_TRIM, NBD_CMD_FLAG_FUA, 0, BLOCK, buf), 0);
    assert_int_equal(counts(t)->fua_calls, 2);
    assert_int_equal(nbd_client_call(c, NBD_CMD_CACHE, 0, 0, BLOCK, buf), 0);
    assert_int_equal(nbd_client_call(c, NBD_CMD_FLUSH, NBD_CMD_FLAG_FUA, 0, 0, buf), 0);
    assert_int_equal(counts(t)->flushes, 1);
    nbd_client_free(c);
}

static void test_zeroes_trims_and_their_flags(void **state)
{
    nbd_test_run(zeroes_and_flags, (struct nbd_server_options){0});
}

/* --- Many at once ------------------------------------------------------------------------------
 */

/* Writes that end in any order, with their payloads in chunks all that time (N6), then read back. */
static void pipeline(struct nbd_test *t)
{
    enum { COUNT = 600 };
    static uint8_t out[20000], back[20000];
    bool seen[COUNT] = {0};
    struct nbd_client_reply r;
    struct nbd_client *c = use(false);
    faults(t)->delay_ns = 3 * MS;
    faults(t)->delay_every = 3;
    unsigned sent = 0, answered = 0;
    while (answered < COUNT) {
        while (sent < COUNT && sent - answered < 200) {
            uint32_t len = 1 + sent * 31 % 20000;
            fill(out, len, sent);
            assert_true(nbd_client_request(c, NBD_CMD_WRITE, 0, sent, sent * 20000ull, len, out));
            sent++;
        }
        assert_true(nbd_client_reply(c, 0, 0, NULL, &r));
        assert_int_equal(r.error, 0);
        assert_true(r.cookie < sent && !seen[r.cookie]); /* N1 */
        seen[r.cookie] = true;
        answered++;
    }
    faults(t)->delay_ns = 0;
    for (unsigned i = 0; i < COUNT; i++) {
        uint32_t len = 1 + i * 31 % 20000;
        fill(out, len, i);
        assert_int_equal(nbd_client_call(c, NBD_CMD_READ, 0, i * 20000ull, len, back), 0);
        assert_memory_equal(out, back, len);
    }
    nbd_client_free(c);
}

static void test_payloads_stay_whole_while_more_is_received(void **state)
{
    nbd_test_run(pipeline, (struct nbd_server_options){0});
}

/* A client that pipelines beyond every limit is slowed down, not refused. */
static void test_limits_slow_a_client_down(void **state)
{
    nbd_test_run(pipeline, (struct nbd_server_options){.connection_requests_max = 5});
    nbd_test_run(pipeline, (struct nbd_server_options){.requests_max = 1});
}

static void interleaved_lengths(struct nbd_test *t)
{
    static uint8_t out[300000];
    struct nbd_client_reply r;
    struct nbd_client *c = use(true);
    faults(t)->delay_ns = 2 * MS;
    faults(t)->delay_every = 2;
    for (unsigned i = 0; i < 60; i++) {
        uint32_t len = i % 3 == 0 ? 300000 : i % 3 == 1 ? 4096 : 60000;
        fill(out, len, i);
        assert_true(nbd_client_request(c, NBD_CMD_WRITE, 0, i, i * 300000ull, len, out));
    }
    for (unsigned i = 0; i < 60; i++)
        assert_true(nbd_client_reply(c, 0, 0, NULL, &r) && !r.error);
    for (unsigned i = 0; i < 60; i++) {
        static uint8_t back[300000];
        uint32_t len = i % 3 == 0 ? 300000 : i % 3 == 1 ? 4096 : 60000;
        fill(out, len, i);
        assert_int_equal(nbd_client_call(c, NBD_CMD_READ, 0, i * 300000ull, len, back), 0);
        assert_memory_equal(out, back, len);
    }
    nbd_client_free(c);
}

static void test_small_and_large_payloads_in_one_stream(void **state)
{
    nbd_test_run(interleaved_lengths, (struct nbd_server_options){0});
    nbd_test_run(
        interleaved_lengths, (struct nbd_server_options){.connection_buffer_bytes_max = 600 << 10});
}

int main(void)
{
    log_set_level(LOG_LEVEL_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_length_and_alignment_is_written_and_read),
        cmocka_unit_test(test_requests_up_to_32_mib),
        cmocka_unit_test(test_refused_requests_leave_the_stream_in_step),
        cmocka_unit_test(test_structured_reads_show_holes_unless_told_not_to),
        cmocka_unit_test(test_block_status_tells_holes_from_data),
        cmocka_unit_test(test_zeroes_trims_and_their_flags),
        cmocka_unit_test(test_payloads_stay_whole_while_more_is_received),
        cmocka_unit_test(test_limits_slow_a_client_down),
        cmocka_unit_test(test_small_and_large_payloads_in_one_stream),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
