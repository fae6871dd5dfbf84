/* SPDX-License-Identifier: Apache-2.0
 *
 * Bodies of the shard methods: what is encoded decodes to the same, and nothing else decodes (W1).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "blockd/cluster/wire_shard.h"
#include "common/bytes.h"
#include "common/check.h"
#include "common/rpc.h"

static const struct shard_key KEY = {
    .volume = 0x1122334455667788, .chunk = 5ull << 32 | 9, .index = 3};

/* Decodes, and encodes again into `ret_again`: its length, or -EBADMSG. */
typedef int recode_fn(const uint8_t *body, size_t len_bytes, uint8_t *ret_again);

static struct shard_entry entries[APPEND_ENTRIES_MAX];
static size_t append_payload_bytes;

static int recode_create(const uint8_t *body, size_t len_bytes, uint8_t *ret_again)
{
    struct wire_create r;
    int error = wire_create_decode(body, len_bytes, &r);
    return error ? error : (int)wire_create_encode(&r, ret_again);
}

static int recode_append(const uint8_t *body, size_t len_bytes, uint8_t *ret_again)
{
    struct wire_append r;
    int error = wire_append_decode(body, len_bytes, append_payload_bytes, &r, entries);
    return error ? error : (int)wire_append_encode(&r, entries, ret_again);
}

static int recode_list_reply(const uint8_t *body, size_t len_bytes, uint8_t *ret_again)
{
    static struct shard_info list[WIRE_LIST_SHARDS_MAX];
    uint32_t cursor;
    unsigned count;
    int error = wire_list_reply_decode(body, len_bytes, 76, &cursor, list, &count);
    return error ? error : (int)wire_list_reply_encode(cursor, list, count, ret_again);
}

static int recode_status_reply(const uint8_t *body, size_t len_bytes, uint8_t *ret_again)
{
    static struct wire_disk disks[WIRE_STATUS_DISKS_MAX];
    bool more;
    unsigned count;
    int error = wire_status_reply_decode(body, len_bytes, 2, &more, disks, &count);
    return error ? error : (int)wire_status_reply_encode(more, disks, count, ret_again);
}

#define RECODE(name, type)                                                              \
    static int recode_##name(const uint8_t *body, size_t len_bytes, uint8_t *ret_again) \
    {                                                                                   \
        type r;                                                                         \
        int error = wire_##name##_decode(body, len_bytes, &r);                          \
        return error ? error : (int)wire_##name##_encode(&r, ret_again);                \
    }
RECODE(read, struct wire_read)
RECODE(length, struct wire_length)
RECODE(remove, struct wire_remove)
RECODE(fence, struct wire_fence)
RECODE(stat, struct wire_stat)
RECODE(list, struct wire_list)
RECODE(info, struct shard_info)

/* A byte of a good body becomes `value`: refused. */
struct wrong {
    unsigned at;
    uint8_t value;
};

static void assert_strict(recode_fn *recode, const uint8_t *body, unsigned len,
    const struct wrong *wrongs, unsigned count)
{
    static uint8_t copy[RPC_BODY_BYTES_MAX + 1], again[RPC_BODY_BYTES_MAX];
    assert_true(len <= RPC_BODY_BYTES_MAX);
    memset(again, 0xff, sizeof(again));
    assert_int_equal(recode(body, len, again), len);
    assert_memory_equal(body, again, len);
    memcpy(copy, body, len);
    copy[len] = 0;
    assert_int_equal(recode(copy, len + 1, again), -EBADMSG);
    for (unsigned shorter = 0; shorter < len; shorter++)
        assert_int_equal(recode(body, shorter, again), -EBADMSG);
    for (unsigned i = 0; i < count; i++) {
        memcpy(copy, body, len);
        copy[wrongs[i].at] = wrongs[i].value;
        assert_int_equal(recode(copy, len, again), -EBADMSG);
    }
}

#define STRICT(recode, body, len, ...)                                  \
    do {                                                                \
        const struct wrong wrongs_[] = {__VA_ARGS__};                   \
        assert_strict(recode, body, len, wrongs_, ARRAY_SIZE(wrongs_)); \
    } while (0)

static void test_creates(void **state)
{
    uint8_t body[WIRE_CREATE_BYTES];
    struct wire_create request = {.disk = 7,
        .create = {.key = KEY,
            .kind = SHARD_DATA,
            .code = {4, 2},
            .instance = 0x8877665544332211,
            .epoch = 5,
            .capacity_blocks = 1000,
            .capacity_blocks_min = 1000,
            .priority = SHARD_PRIORITY_CLEAN}};
    unsigned len = wire_create_encode(&request, body);
    struct wire_create back;
    assert_int_equal(wire_create_decode(body, len, &back), 0);
    assert_int_equal(back.disk, 7);
    assert_int_equal(back.create.instance, request.create.instance);
    assert_int_equal(back.create.key.volume, KEY.volume);
    assert_int_equal(back.create.priority, SHARD_PRIORITY_CLEAN);
    /* index beyond the code, kind, k, m, priority, capacities (41: the second byte) */
    STRICT(recode_create, body, len, {4, 6}, {5, 1}, {24, 0}, {24, 5}, {25, 0}, {25, 17}, {26, 5},
        {27, 3}, {41, 0}, {41, 0x80}, {45, 4});
    put_le32(body + 28, 0); /* epoch */
    assert_int_equal(wire_create_decode(body, len, &back), -EBADMSG);
    put_le32(body + 28, 5);
    put_le64(body + 32, 0); /* instance */
    assert_int_equal(wire_create_decode(body, len, &back), -EBADMSG);
}

static unsigned append_of(unsigned entry_count, unsigned inline_len, uint8_t *body)
{
    static const uint8_t inline_bytes[APPEND_BODY_BYTES] = {1, 2, 3};
    for (unsigned i = 0; i < entry_count; i++)
        entries[i] = (struct shard_entry){.address = i * 1000003ull << 20, .crc = ~i, .aux = i};
    struct wire_append request = {.disk = UINT32_MAX,
        .key = KEY,
        .epoch = 6,
        .off_blocks = 12,
        .base_seq = 1ull << 60,
        .flags = SHARD_APPEND_DSYNC,
        .entry_count = entry_count,
        .inline_len_bytes = inline_len,
        .inline_bytes = inline_bytes};
    append_payload_bytes = (size_t)entry_count * BLOCK_BYTES;
    return wire_append_encode(&request, entries, body);
}

static void test_appends(void **state)
{
    static uint8_t body[WIRE_APPEND_BYTES_MAX];
    /* counts, lengths, flags */
    STRICT(recode_append, body, append_of(2, 10, body), {4, 20}, {6, 1}, {40, 1}, {40, 3}, {41, 1},
        {42, 9}, {42, 11}, {43, 1}, {44, 2}, {47, 0x80});
    STRICT(recode_append, body, append_of(0, 0, body), {40, 1}, {42, 1});
    STRICT(
        recode_append, body, append_of(APPEND_ENTRIES_MAX, 0, body), {40, 247}, {40, 249}, {42, 1});
    STRICT(recode_append, body, append_of(0, APPEND_BODY_BYTES, body), {42, 0x81}, {43, 0xff});
    struct wire_append back;
    unsigned len = append_of(2, 3, body);
    assert_int_equal(wire_append_decode(body, len, append_payload_bytes, &back, entries), 0);
    assert_int_equal(back.disk, UINT32_MAX);
    assert_int_equal(back.off_blocks, 12);
    assert_int_equal(back.base_seq, 1ull << 60);
    assert_memory_equal(back.inline_bytes, "\1\2\3", 3);
    assert_int_equal(entries[1].address, 1000003ull << 20);
    assert_int_equal(wire_append_decode(body, len, 0, &back, entries), -EBADMSG);
    assert_int_equal(
        wire_append_decode(body, len, append_payload_bytes - 1, &back, entries), -EBADMSG);
    assert_int_equal(
        wire_append_decode(body, len, append_payload_bytes + BLOCK_BYTES, &back, entries),
        -EBADMSG);
}

static void test_requests_of_fixed_length(void **state)
{
    uint8_t body[64];
    struct wire_read read = {.disk = 1, .key = KEY, .off_blocks = 9, .count = WIRE_READ_BLOCKS_MAX};
    STRICT(recode_read, body, wire_read_encode(&read, body), {4, 20}, {7, 1}, {28, 1}, {30, 1});
    struct wire_length length = {.disk = 1, .key = KEY, .epoch = 2, .length_blocks = 3};
    STRICT(recode_length, body, wire_length_encode(&length, body), {4, 255});
    struct wire_remove remove = {.disk = 1, .key = KEY, .instance = 0, .epoch = 4};
    STRICT(recode_remove, body, wire_remove_encode(&remove, body), {4, 20}, {28, 1});
    struct wire_fence fence = {.disk = 1, .key = KEY, .epoch = 4};
    STRICT(recode_fence, body, wire_fence_encode(&fence, body), {4, 20}, {24, 0}, {31, 1});
    struct wire_stat stat = {.disk = 1, .key = KEY};
    STRICT(recode_stat, body, wire_stat_encode(&stat, body), {5, 1});
    struct wire_list list = {.disk = 1, .volume = 2, .cursor = 3};
    assert_strict(recode_list, body, wire_list_encode(&list, body), NULL, 0);
    uint32_t after;
    assert_int_equal(wire_status_decode(body, wire_status_encode(77, body), &after), 0);
    assert_int_equal(after, 77);
    assert_int_equal(wire_status_decode(body, 3, &after), -EBADMSG);
}

static struct shard_info some_info(void)
{
    return (struct shard_info){.key = KEY,
        .kind = SHARD_DATA,
        .code = {2, 2},
        .instance = 99,
        .epoch = 3,
        .fence_epoch = 4,
        .length_blocks = 200,
        .capacity_blocks = 1000,
        .sealed = true,
        .suspect = true};
}

static void test_what_a_shard_is(void **state)
{
    uint8_t body[WIRE_INFO_BYTES];
    struct shard_info info = some_info(), back;
    unsigned len = wire_info_encode(&info, body);
    assert_int_equal(wire_info_decode(body, len, &back), 0);
    assert_true(back.sealed && back.suspect && !back.tombstone && !back.damaged);
    assert_int_equal(back.fence_epoch, 4);
    assert_int_equal(back.length_blocks, 200);
    /* index, kind, k, m, flags, length beyond the capacity, capacity */
    STRICT(recode_info, body, len, {16, 4}, {17, 0}, {17, 5}, {18, 0}, {18, 17}, {19, 5}, {20, 16},
        {23, 1}, {42, 1}, {46, 1});
    struct shard_info tombstone = {.key = KEY, .fence_epoch = 9, .tombstone = true};
    STRICT(recode_info, body, wire_info_encode(&tombstone, body), {20, 0}, {18, 1}, {40, 1});
    struct shard_info lost = {.damaged = true};
    STRICT(recode_info, body, wire_info_encode(&lost, body), {20, 0});
}

static void test_lists_of_shards(void **state)
{
    static uint8_t body[WIRE_LIST_REPLY_BYTES_MAX];
    static struct shard_info list[WIRE_LIST_SHARDS_MAX];
    for (unsigned i = 0; i < WIRE_LIST_SHARDS_MAX; i++) {
        list[i] = some_info();
        list[i].instance = i;
    }
    /* The cursor goes on (from 76), each shard is checked. */
    STRICT(recode_list_reply, body, wire_list_reply_encode(77, list, 3, body), {0, 76}, {4, 2},
        {4, 4}, {7, 1}, {8 + 2 * WIRE_INFO_BYTES + 17, 0});
    STRICT(recode_list_reply, body, wire_list_reply_encode(WIRE_LIST_END, list, 0, body), {4, 1});
    unsigned len = wire_list_reply_encode(500, list, WIRE_LIST_SHARDS_MAX, body), count;
    static struct shard_info back[WIRE_LIST_SHARDS_MAX];
    uint32_t cursor;
    assert_int_equal(wire_list_reply_decode(body, len, 0, &cursor, back, &count), 0);
    assert_int_equal(cursor, 500);
    assert_int_equal(count, WIRE_LIST_SHARDS_MAX);
    assert_int_equal(back[count - 1].instance, count - 1);
}

static void test_the_status_of_disks(void **state)
{
    static uint8_t body[WIRE_STATUS_REPLY_BYTES_MAX];
    struct wire_disk disks[] = {
        {.number = 3, .state = DISK_FAILED, .class_name = "ssd", .size_bytes = 9, .free_bytes = 9},
        {.number = 5,
            .state = DISK_IN,
            .class_name = "fifteen-letters",
            .error_count = 1,
            .damage_count = 2,
            .latency_ewma_ns = 3}};
    unsigned second = WIRE_PAGE_BYTES + WIRE_DISK_BYTES;
    /* count, more, a number that does not rise, state, class (unended, not printable, bytes after
     * its end), more free than there is, padding */
    STRICT(recode_status_reply, body, wire_status_reply_encode(true, disks, 2, body), {0, 2},
        {4, 1}, {4, 3}, {8, 2}, {second, 3}, {12, 4}, {second + 24 + 15, 'x'}, {32, 7},
        {32 + 10, 'x'}, {8 + 48, 10}, {second + 87, 1});
    STRICT(
        recode_status_reply, body, wire_status_reply_encode(false, NULL, 0, body), {0, 1}, {4, 1});
    struct wire_disk back[2];
    bool more;
    unsigned count, len = wire_status_reply_encode(true, disks, 2, body);
    static struct wire_disk all[WIRE_STATUS_DISKS_MAX];
    assert_int_equal(wire_status_reply_decode(body, len, 0, &more, all, &count), 0);
    memcpy(back, all, sizeof(back));
    assert_true(more && count == 2);
    assert_string_equal(back[1].class_name, "fifteen-letters");
    assert_int_equal(back[1].latency_ewma_ns, 3);
    assert_int_equal(back[0].state, DISK_FAILED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_creates),
        cmocka_unit_test(test_appends),
        cmocka_unit_test(test_requests_of_fixed_length),
        cmocka_unit_test(test_what_a_shard_is),
        cmocka_unit_test(test_lists_of_shards),
        cmocka_unit_test(test_the_status_of_disks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
