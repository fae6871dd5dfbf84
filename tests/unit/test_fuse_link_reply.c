/* SPDX-License-Identifier: Apache-2.0
 *
 * Answers of an NBD server, whole and in pieces of every size, honest and not.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "common/check.h"
#include "fuse/link_reply.h"

enum { OFFSET_DATA = 1, OFFSET_HOLE = 2, BLOCK_STATUS = 5, ERROR = 0x8001, ERROR_OFFSET = 0x8002 };

static struct nbd_op op;
static uint8_t payload[64];
static unsigned completions;
static uint8_t stream[512];
static size_t stream_len;

static struct nbd_op *find(void *ctx, uint64_t cookie)
{
    return cookie == 7 ? &op : NULL;
}

static void complete(void *ctx, struct nbd_op *done)
{
    assert_ptr_equal(done, &op);
    completions++;
}

static void begin(enum nbd_op_kind kind, uint64_t off, uint32_t len)
{
    op = (struct nbd_op){.kind = kind, .off_bytes = off, .len_bytes = len, .buffer = payload};
    memset(payload, 0xee, sizeof(payload));
    stream_len = 0;
    completions = 0;
}

static void add(const void *bytes, size_t len)
{
    memcpy(stream + stream_len, bytes, len);
    stream_len += len;
}

static void add_be(uint64_t value, unsigned bits)
{
    uint8_t bytes[8];
    put_be64(bytes, value << (64 - bits));
    add(bytes, bits / 8);
}

static void add_simple(uint32_t error, uint64_t cookie)
{
    add_be(0x67446698, 32);
    add_be(error, 32);
    add_be(cookie, 64);
}

static void add_chunk(bool last, uint16_t type, uint32_t len)
{
    add_be(0x668e33ef, 32);
    add_be(last, 16);
    add_be(type, 16);
    add_be(7, 64);
    add_be(len, 32);
}

static void add_data(bool last, uint64_t off, const char *text)
{
    add_chunk(last, OFFSET_DATA, 8 + (uint32_t)strlen(text));
    add_be(off, 64);
    add(text, strlen(text));
}

/* Feeds the stream `step` bytes at a time, as the link does: what is not taken comes again. */
static int feed(size_t step)
{
    struct reply_decoder decoder = {.find = find, .complete = complete};
    size_t taken = 0;
    for (size_t end = MIN(step, stream_len);; end = MIN(end + step, stream_len)) {
        int64_t r = reply_decode(&decoder, stream + taken, end - taken);
        if (r < 0) {
            assert_non_null(decoder.error_text);
            return (int)r;
        }
        taken += (size_t)r;
        if (end == stream_len)
            break;
    }
    assert_int_equal(taken, stream_len);
    return 0;
}

static void expect_each_step(void (*expected)(void))
{
    for (size_t step = 1; step <= stream_len; step++) {
        struct nbd_op before = op;
        memset(payload, 0xee, sizeof(payload));
        completions = 0;
        assert_int_equal(feed(step), 0);
        assert_int_equal(completions, 1);
        expected();
        op = before;
    }
}

static void expect_refused(void)
{
    assert_int_equal(feed(stream_len), -EPROTO);
    assert_int_equal(completions, 0);
    assert_int_equal(payload[sizeof(payload) - 1], 0xee);
}

static void has_abcdefgh(void)
{
    assert_int_equal(op.error, 0);
    assert_memory_equal(payload, "abcdefgh\xee", 9);
}

static void simple_replies(void **state)
{
    begin(NBD_OP_READ, 4096, 8);
    add_simple(0, 7);
    add("abcdefgh", 8);
    expect_each_step(has_abcdefgh);

    begin(NBD_OP_READ, 4096, 8);
    add_simple(5, 7);
    assert_int_equal(feed(1), 0);
    assert_int_equal(op.error, -EIO);

    begin(NBD_OP_WRITE, 0, 8);
    add_simple(28, 7);
    assert_int_equal(feed(3), 0);
    assert_int_equal(op.error, -ENOSPC);
    assert_int_equal(completions, 1);
}

static void read_chunks_come_in_any_order(void **state)
{
    begin(NBD_OP_READ, 4096, 8);
    add_data(false, 4100, "efgh");
    add_data(true, 4096, "abcd");
    expect_each_step(has_abcdefgh);

    begin(NBD_OP_READ, 4096, 8);
    add_data(false, 4096, "abcd");
    add_data(false, 4100, "efgh");
    add_chunk(true, 0, 0);
    expect_each_step(has_abcdefgh);
}

static void has_hole(void)
{
    assert_int_equal(op.error, 0);
    assert_memory_equal(payload, "abcd\0\0\0\0\xee", 9);
}

static void holes_read_as_zeroes(void **state)
{
    begin(NBD_OP_READ, 4096, 8);
    add_chunk(false, OFFSET_HOLE, 12);
    add_be(4100, 64);
    add_be(4, 32);
    add_data(true, 4096, "abcd");
    expect_each_step(has_hole);
}

static void has_eio(void)
{
    assert_int_equal(op.error, -EIO);
}

static void error_chunks_fail_the_op(void **state)
{
    begin(NBD_OP_READ, 4096, 8);
    add_data(false, 4096, "abcd");
    add_chunk(true, ERROR_OFFSET, 6 + 3 + 8);
    add_be(5, 32);
    add_be(3, 16);
    add("bad", 3);
    add_be(4100, 64);
    expect_each_step(has_eio);

    begin(NBD_OP_WRITE, 0, 8);
    add_chunk(true, ERROR, 6);
    add_be(0, 32); /* an error that is none */
    add_be(0, 16);
    expect_each_step(has_eio);
}

static void hole_at_6(void)
{
    assert_true(op.status_found);
    assert_int_equal(op.status_off_bytes, 6);
}

static void no_hole_to_8(void)
{
    assert_false(op.status_found);
    assert_int_equal(op.status_off_bytes, 8);
}

static void add_extents(uint32_t second_flags)
{
    add_chunk(true, BLOCK_STATUS, 4 + 16);
    add_be(1, 32);
    add_be(6, 32);
    add_be(0, 32);
    add_be(2, 32);
    add_be(second_flags, 32);
}

static void block_status_finds_the_first_extent_wanted(void **state)
{
    begin(NBD_OP_STATUS, 0, 8);
    op.want_zero = true;
    add_extents(3);
    expect_each_step(hole_at_6);

    begin(NBD_OP_STATUS, 0, 8);
    op.want_zero = true;
    add_extents(1); /* not allocated, but nobody said that it reads as zeroes */
    expect_each_step(no_hole_to_8);
}

static void lies_are_refused(void **state)
{
    begin(NBD_OP_WRITE, 0, 8);
    add_simple(0, 8); /* no such request */
    expect_refused();
    begin(NBD_OP_WRITE, 0, 8);
    add("HTTP/1.1 400 Bad", 16);
    expect_refused();
    begin(NBD_OP_READ, 4096, 8);
    add_data(true, 4092, "abcdefgh"); /* begins before */
    expect_refused();
    begin(NBD_OP_READ, 4096, 8);
    add_data(true, 4100, "abcdefgh"); /* ends behind */
    expect_refused();
    begin(NBD_OP_READ, 4096, 8);
    add_data(true, UINT64_MAX - 3, "abcdefgh");
    expect_refused();
    begin(NBD_OP_READ, 4096, 8);
    add_data(true, 4096, "abcd"); /* half of it */
    expect_refused();
    begin(NBD_OP_READ, 4096, 8);
    add_data(false, 4096, "abcdefgh"); /* twice */
    add_data(true, 4096, "abcdefgh");
    expect_refused();
    begin(NBD_OP_WRITE, 0, 8);
    add_data(true, 0, "abcdefgh"); /* data to a write */
    expect_refused();
    begin(NBD_OP_READ, 4096, 8);
    add_chunk(true, OFFSET_HOLE, 12);
    add_be(4096, 64);
    add_be(9, 32);
    expect_refused();
    begin(NBD_OP_STATUS, 0, 8);
    add_chunk(true, BLOCK_STATUS, 4); /* no extent */
    expect_refused();
    begin(NBD_OP_READ, 0, 8);
    add_chunk(true, 77, 0);
    expect_refused();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(simple_replies),
        cmocka_unit_test(read_chunks_come_in_any_order),
        cmocka_unit_test(holes_read_as_zeroes),
        cmocka_unit_test(error_chunks_fail_the_op),
        cmocka_unit_test(block_status_finds_the_first_extent_wanted),
        cmocka_unit_test(lies_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
