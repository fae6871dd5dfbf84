/* SPDX-License-Identifier: Apache-2.0
 *
 * Each format version against its golden file: known values encode to exactly these bytes, and the bytes decode to
 * exactly these values. Disks of users hold such bytes: a test that fails here is a format that changed.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "blockd/cluster/records.h"
#include "blockd/cluster/wire_shard.h"
#include "blockd/cluster/wire_volume.h"
#include "blockd/disk/append_header.h"
#include "blockd/disk/superblock.h"
#include "blockd/disk/table.h"
#include "blockd/disk/trailer.h"
#include "blockd/volume/log_record.h"
#include "blockd/volume/map_page.h"
#include "blockd/volume/state.h"
#include "common/check.h"
#include "common/mem.h"
#include "common/rpc_wire.h"
#include "golden.h"

static struct uuid uuid_of(uint8_t first)
{
    struct uuid uuid;
    for (unsigned i = 0; i < 16; i++)
        uuid.bytes[i] = (uint8_t)(first + i);
    return uuid;
}

static const struct shard_key some_key = {
    .volume = 0x1122334455667788, .chunk = 0x300000005, .index = 4};
static const struct shard_code some_code = {4, 2};

/* --- Disk --------------------------------------------------------------------------------------- */

static void superblock_version_1(void **state)
{
    struct superblock sb = {.cluster = uuid_of(0x10),
        .node = uuid_of(0x30),
        .disk = uuid_of(0x50),
        .features_readable = 0x8000000000000000,
        .incarnation = 7,
        .clean = 1,
        .class_name = "ssd"};
    struct superblock back;
    uint8_t block[GOLDEN_BYTES_MAX];
    assert_int_equal(superblock_layout(&sb, 10ull << 30), 0);
    superblock_encode(&sb, 1 << 20, block);
    golden_compare("superblock-v1", "superblock, copy 2 of a disk of 10 GiB", block, 4096);
    golden_load("superblock-v1", block);
    assert_int_equal(superblock_decode(block, 1 << 20, &back), 0);
    assert_memory_equal(&back, &sb, sizeof(sb));
}

static void shard_table_entry_version_1(void **state)
{
    struct uuid disk = uuid_of(0x50), boot = uuid_of(0x70);
    struct table table;
    uint8_t entry[GOLDEN_BYTES_MAX], boot_back[16];
    struct table_slot back;
    table_init(&table, 64, &disk);
    table.slots[9] = (struct table_slot){.volume = some_key.volume,
        .chunk = some_key.chunk,
        .instance = 0xaabbccddeeff0011,
        .nonce = 0x0123456789abcdef,
        .epoch = 3,
        .fence_epoch = 5,
        .first_unit = 48,
        .unit_count = 16,
        .length_blocks = 250,
        .index = some_key.index,
        .flags = TABLE_SUSPECT,
        .k = 4,
        .m = 2,
        .kind = SHARD_DATA,
        .state = TABLE_SEALED};
    table_entry_encode(&table, 9, boot.bytes, entry);
    golden_compare("table-entry-v1", "shard table entry of slot 9: a sealed data shard", entry,
        TABLE_ENTRY_BYTES);
    golden_load("table-entry-v1", entry);
    assert_int_equal(table_entry_decode(&table, 9, entry, 1 << 20, &back, boot_back), 0);
    table.slots[9].next = back.next; /* of the memory form */
    assert_memory_equal(&back, &table.slots[9], sizeof(back));
    assert_memory_equal(boot_back, boot.bytes, 16);
    table_fini(&table);
}

static void append_header_version_1(void **state)
{
    const struct shard_entry entries[] = {{0x1234, 0xdeadbeef, 1}, {UINT64_MAX, 0x98f94189, 0}};
    struct append_header header = {.cluster = uuid_of(0x10),
        .key = some_key,
        .kind = SHARD_DATA,
        .code = some_code,
        .epoch = 3,
        .append_no = 2,
        .off_blocks = 100,
        .nonce = 0x0123456789abcdef,
        .prev_header_crc = 0x11223344,
        .base_seq = 0x100000000,
        .entry_count = 2,
        .inline_len_bytes = 5,
        .completed_blocks = 99,
        .durable_blocks = 50};
    struct append_header back;
    uint8_t block[GOLDEN_BYTES_MAX];
    append_header_build(block, &header, entries, "bytes");
    golden_compare(
        "append-header-v1", "append header: two entries, five inline bytes", block, 4096);
    golden_load("append-header-v1", block);
    assert_int_equal(append_header_parse(block, &back), 0);
    assert_memory_equal(&back.cluster, &header.cluster, 16);
    assert_true(back.key.volume == some_key.volume && back.key.chunk == some_key.chunk &&
                back.key.index == some_key.index && back.kind == SHARD_DATA && back.code.k == 4 &&
                back.code.m == 2 && back.epoch == 3 && back.append_no == 2 &&
                back.off_blocks == 100 && back.nonce == header.nonce &&
                back.prev_header_crc == 0x11223344 && back.base_seq == header.base_seq &&
                back.entry_count == 2 && back.inline_len_bytes == 5 &&
                back.completed_blocks == 99 && back.durable_blocks == 50 &&
                back.header_crc == header.header_crc);
    for (unsigned i = 0; i < 2; i++) {
        struct shard_entry entry = append_header_entry(block, i);
        assert_memory_equal(&entry, &entries[i], sizeof(entry));
    }
    assert_memory_equal(append_header_inline(block, &back), "bytes", 5);
}

static void trailer_version_1(void **state)
{
    struct shard_entry entries[3] = {{UINT64_MAX, 1, 2}, {0x1234, 0xdeadbeef, 1}, {5, 6, 7}};
    struct trailer trailer = {.cluster = uuid_of(0x10),
        .key = some_key,
        .kind = SHARD_DATA,
        .code = some_code,
        .nonce = 0x0123456789abcdef,
        .first_block = 248,
        .length_blocks = 251,
        .entry_count = 3};
    struct trailer back;
    uint8_t block[GOLDEN_BYTES_MAX];
    trailer_build(block, &trailer, entries);
    golden_compare("trailer-v1", "second trailer block of a shard of 251 blocks", block, 4096);
    golden_load("trailer-v1", block);
    assert_int_equal(trailer_parse(block, &back), 0);
    assert_true(trailer_matches(&back, &trailer));
    for (unsigned i = 0; i < 3; i++) {
        struct shard_entry entry = trailer_entry(block, i);
        assert_memory_equal(&entry, &entries[i], sizeof(entry));
    }
}

/* --- Volume ------------------------------------------------------------------------------------- */

static void log_records_version_1(void **state)
{
    const struct log_record records[] = {
        {.type = LOG_WRITE,
            .block = 0x123456789,
            .count = 16,
            .session = 0xa1a2a3a4a5a6a7a8,
            .number = 0x42},
        {.type = LOG_TRIM, .block = 7, .count = 0x1000000000},
        {.type = LOG_ROW,
            .block = 64,
            .count = 992,
            .session = 1,
            .number = 2,
            .chunk_index = 0x3fffffffe,
            .row = 3,
            .row_len = 248,
            .linear = 2976,
            .header_crc_count = 5,
            .header_crcs = {0x11111111, 2, 3, 4, 0xffffffff}},
        {.type = LOG_NOOP},
    };
    uint8_t bytes[GOLDEN_BYTES_MAX];
    size_t len = 0, at = 0;
    for (size_t i = 0; i < ARRAY_SIZE(records); i++)
        len += log_record_encode(&records[i], bytes + len);
    golden_compare("log-records-v1", "log records: write, trim, row, no-op", bytes, len);
    len = golden_load("log-records-v1", bytes);
    for (size_t i = 0; i < ARRAY_SIZE(records); i++) {
        struct log_record back;
        int64_t size = log_record_decode(bytes + at, len - at, &back);
        assert_true(size > 0);
        at += (size_t)size;
        assert_true(back.type == records[i].type && back.block == records[i].block &&
                    back.count == records[i].count && back.session == records[i].session &&
                    back.number == records[i].number);
        assert_true(back.chunk_index == records[i].chunk_index && back.row == records[i].row &&
                    back.row_len == records[i].row_len && back.linear == records[i].linear &&
                    back.header_crc_count == records[i].header_crc_count);
        assert_memory_equal(back.header_crcs, records[i].header_crcs, sizeof(back.header_crcs));
    }
    assert_int_equal(at, len);
}

static const struct copies_ref some_ref = {
    .chunk = 0x300000009, .count = 3, .places = {{1, 11}, {2, 22}, {UINT32_MAX, UINT64_MAX}}};

/* One record of each type, in an order that makes sense. */
static void every_record(struct records *records)
{
    struct state s;
    state_init(&s, 1);
    s.size_bytes = 1ull << 30;
    s.chunk_index_next = 2;
    s.committed_seq = 40;
    s.map_root = map_entry(MAP_PAGE, 0, 1, 5);
    s.map_levels = 3;
    s.item_first = 1000;
    record_volume(records, &s);
    state_fini(&s);
    struct chunk_place place = {.chunk = 0x300000005,
        .kind = SHARD_DATA,
        .code = {2, 1},
        .epoch = 3,
        .capacity_blocks = 996,
        .row_count = 1,
        .row_len = {248},
        .shards = {{{1, 0x1111}, CHUNK_SHARD_OK}, {{2, 0x2222}, CHUNK_SHARD_LOST},
            {{3, 0x3333333333333333}, CHUNK_SHARD_DAMAGED}}};
    const uint64_t bitmap[] = {0xf0f0f0f0f0f0f0f0, 1};
    record_new_place(records, &place);
    record_chunk(records, 0x200000003, place.chunk, 33, 77, bitmap, 2);
    record_row(records, place.chunk, 1, 16);
    struct item row = {.row = 1, .chunk_index = 0x200000003, .seq = 0, .group = 50};
    struct item trim = {.trim = true, .block = 9, .len = 1ull << 40, .seq = 49, .group = 50};
    record_item(records, &row);
    record_item(records, &trim);
    record_committed(records, 50);
    record_sealed(records, place.chunk);
    struct chunk_shard moved = {{7, 0x7777}, CHUNK_SHARD_OK};
    record_shard(records, place.chunk, 1, &moved);
    struct wal wal = {.chunk = 0x300000006,
        .epoch = 3,
        .capacity_blocks = 1024,
        .copies = 2,
        .shards = {{{1, 5}, CHUNK_SHARD_OK}, {{2, 6}, CHUNK_SHARD_LOST}}};
    record_wal(records, &wal);
    wal.sealed = true;
    wal.length_blocks = 1000;
    wal.last_seq = 50;
    record_wal(records, &wal);
    record_map(records, map_entry(MAP_PAGE, 0, 1, 6), 3, 1001);
    record_live(records, 0x200000003, 44);
    record_size(records, 2ull << 30);
    wal.chunk = 0x300000007;
    record_wal(records, &wal);
    record_wal_freed(records, 0x300000007);
    place.chunk = 0x300000008;
    record_new_place(records, &place);
    record_chunk(records, 0x200000004, place.chunk, 0, 0, NULL, 0);
    record_chunk_freed(records, 0x200000004);
    record_place_freed(records, place.chunk);
    record_continue(records, &some_ref);
}

static void manifest_records_version_1(void **state)
{
    struct records records = {0};
    uint8_t bytes[GOLDEN_BYTES_MAX];
    char error[256] = "";
    struct state s;
    every_record(&records);
    golden_compare("manifest-records-v1", "manifest records, each type at least once",
        records.bytes, records.len_bytes);
    size_t len = golden_load("manifest-records-v1", bytes);
    state_init(&s, 1);
    if (state_apply(&s, bytes, len, error) < 0)
        fail_msg("%s", error);
    assert_true(s.size_bytes == 2ull << 30 && s.chunk_index_next == 0x200000005 &&
                s.committed_seq == 50 && s.map_levels == 3 && s.item_first == 1001);
    assert_int_equal(s.map_root, map_entry(MAP_PAGE, 0, 1, 6));
    assert_true(s.places.count == 1 && s.chunks.count == 1 && s.item_count == 1);
    const struct place *p = state_place(&s, 0x300000005);
    assert_true(p && p->kind == SHARD_DATA && p->code.k == 2 && p->code.m == 1 && p->epoch == 3 &&
                p->capacity_blocks == 996 && p->sealed && p->rows_recorded == 2 &&
                p->row_len[0] == 248 && p->row_len[1] == 16);
    assert_true(p->shards[0].place.disk == 1 && p->shards[1].place.disk == 7 &&
                p->shards[1].place.instance == 0x7777 && p->shards[1].state == CHUNK_SHARD_OK &&
                p->shards[2].place.instance == 0x3333333333333333 &&
                p->shards[2].state == CHUNK_SHARD_DAMAGED);
    const struct lchunk *c = state_chunk(&s, 0x200000003);
    assert_true(c && c->place == p && c->live == 44 && c->base == 77 && c->bitmap_words == 2 &&
                c->bitmap[0] == 0xf0f0f0f0f0f0f0f0 && c->bitmap[1] == 1);
    assert_true(s.items[0].trim && s.items[0].block == 9 && s.items[0].len == 1ull << 40 &&
                s.items[0].seq == 49 && s.items[0].group == 50);
    const struct wal *wal = list_entry(s.wals.next, struct wal, link);
    assert_true(wal->chunk == 0x300000006 && wal->sealed && wal->length_blocks == 1000 &&
                wal->last_seq == 50 && wal->copies == 2 && wal->capacity_blocks == 1024 &&
                wal->shards[1].state == CHUNK_SHARD_LOST);
    assert_true(s.continued.chunk == some_ref.chunk && s.continued.count == 3 &&
                s.continued.places[1].instance == 22);

    struct records snapshot = {0};
    state_snapshot(&s, &snapshot);
    golden_compare("manifest-snapshot-v1", "snapshot of the state that manifest-records-v1 leaves",
        snapshot.bytes, snapshot.len_bytes);
    records_fini(&snapshot);
    records_fini(&records);
    state_fini(&s);
}

/* The two that came later than the others of version 1. */
static void manifest_blocks_version_1(void **state)
{
    const struct block_run runs[] = {{.block = 5, .count = 1}, {.block = 6 + 300, .count = 247},
        {.block = 1ull << 50, .count = 248}};
    struct chunk_place place = {.chunk = 0x300000005,
        .kind = SHARD_DATA,
        .code = {2, 1},
        .capacity_blocks = 996,
        .row_count = 1,
        .row_len = {248}};
    struct item row = {.chunk_index = 3, .group = 50};
    struct records records = {0};
    uint8_t bytes[GOLDEN_BYTES_MAX];
    char error[256] = "";
    struct state s;
    record_new_place(&records, &place);
    record_chunk(&records, 3, place.chunk, 0, 0, NULL, 0);
    record_item(&records, &row);
    record_item_blocks(&records, runs, ARRAY_SIZE(runs));
    golden_compare("manifest-blocks-v1",
        "manifest record of the blocks that a row has, behind its item", records.bytes,
        records.len_bytes);
    size_t len = golden_load("manifest-blocks-v1", bytes);
    state_init(&s, 1);
    if (state_apply(&s, bytes, len, error) < 0)
        fail_msg("%s", error);
    struct block_run run;
    uint32_t at_bytes = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(runs); i++) {
        assert_true(item_next_run(&s.items[0], &at_bytes, &run));
        assert_true(run.block == runs[i].block && run.count == runs[i].count);
    }
    assert_false(item_next_run(&s.items[0], &at_bytes, &run));
    records_fini(&records);
    state_fini(&s);
}

static void manifest_requests_version_1(void **state)
{
    const struct request_run runs[] = {{.session = 0xa1a2a3a4a5a6a7a8, .number = 5, .count = 3},
        {.session = 2, .number = UINT64_MAX, .end_block = 0x123456789}};
    struct records records = {0};
    uint8_t bytes[GOLDEN_BYTES_MAX];
    char error[256] = "";
    struct state s;
    record_requests(&records, runs, 2);
    golden_compare("manifest-requests-v1", "manifest record of requests that may come again",
        records.bytes, records.len_bytes);
    size_t len = golden_load("manifest-requests-v1", bytes);
    state_init(&s, 1);
    if (state_apply(&s, bytes, len, error) < 0)
        fail_msg("%s", error);
    assert_true(s.request_count == 2 && s.requests[0].session == 0xa1a2a3a4a5a6a7a8 &&
                s.requests[0].number == 5 && s.requests[0].count == 3 &&
                s.requests[1].number == UINT64_MAX && s.requests[1].count == 0 &&
                s.requests[1].end_block == 0x123456789);
    records_fini(&records);
    state_fini(&s);
}

static void map_page_version_1(void **state)
{
    const uint64_t entries[] = {map_entry(MAP_MAPPED, 0, 0x200000003, 65535),
        map_entry(MAP_TRIMMED, 0, 0, 0), 0, map_entry(MAP_MAPPED, 0xfff, 1, 0)};
    uint8_t bytes[GOLDEN_BYTES_MAX] = {0};
    uint64_t page[MAP_FANOUT] = {0};
    unsigned at;
    for (unsigned i = 0; i < ARRAY_SIZE(entries); i++)
        map_page_set(page, i, entries[i]);
    golden_compare(
        "map-page-v1", "a leaf: mapped, trimmed, hole, mapped of layer 4095", page, 4096);
    golden_load("map-page-v1", bytes);
    memcpy(page, bytes, sizeof(page));
    assert_null(map_page_check(page, 0, 0, &at));
    for (unsigned i = 0; i < ARRAY_SIZE(entries); i++)
        assert_int_equal(map_page_get(page, i), entries[i]);
    assert_int_equal(map_page_address(2, 0x1234), 0x0200000000001234);
}

/* --- Store -------------------------------------------------------------------------------------- */

#define STORE_RECORD(type, decode, encode, name, ...)                                   \
    do {                                                                                \
        struct type record = __VA_ARGS__, back;                                         \
        uint8_t bytes[GOLDEN_BYTES_MAX + 1];                                            \
        char *error = NULL;                                                             \
        CLEANUP_FREE char *text = encode(&record, NULL);                                \
        golden_compare(name, "JSON text of a record of the store", text, strlen(text)); \
        bytes[golden_load(name, bytes)] = 0;                                            \
        if (decode((char *)bytes, &back, &error) < 0)                                   \
            fail_msg("%s: %s", name, error);                                            \
        CLEANUP_FREE char *again = encode(&back, NULL);                                 \
        assert_string_equal(again, text);                                               \
    } while (0)

static void store_records_version_1(void **state)
{
    STORE_RECORD(cluster_record, cluster_record_decode, cluster_record_encode, "store-cluster-v1",
        {uuid_of(0x10), 9});
    STORE_RECORD(node_record, node_record_decode, node_record_encode, "store-node-v1",
        {uuid_of(0x30), "node-1"});
    STORE_RECORD(disk_record, disk_record_decode, disk_record_encode, "store-disk-v1",
        {.number = 4,
            .uuid = uuid_of(0x50),
            .path = "/dev/sdb",
            .node = "node-1",
            .class_name = "ssd",
            .state = DISK_OUT});
    STORE_RECORD(pool, pool_decode, pool_encode, "store-pool-v1",
        {.name = "fast",
            .code = {4, 2},
            .shards_min = 5,
            .log_copies_min = 2,
            .domain = DOMAIN_NODE,
            .data_class = "hdd",
            .log_class = "ssd"});
    STORE_RECORD(volume_root, volume_root_decode, volume_root_encode, "store-volume-v1",
        {.id = 0xfedcba9876543210,
            .name = "vm1",
            .size_bytes = 1ull << 40,
            .pool = "fast",
            .state = VOLUME_OWNED,
            .epoch = 3,
            .owner = "node-1",
            .owner_session = 0xabc,
            .manifest = some_ref});
    static const uint32_t disks[] = {3, 17, UINT32_MAX};
    CLEANUP_FREE char *text = purge_record_encode(disks, 3);
    golden_compare("store-purge-v1", "JSON text of a record of the store", text, strlen(text));
    uint8_t bytes[GOLDEN_BYTES_MAX + 1];
    bytes[golden_load("store-purge-v1", bytes)] = 0;
    CLEANUP_FREE uint32_t *back = NULL;
    unsigned count = 0;
    char *error = NULL;
    assert_int_equal(purge_record_decode((char *)bytes, &back, &count, &error), 0);
    assert_int_equal(count, 3);
    assert_memory_equal(back, disks, sizeof(disks));
}

/* --- Wire --------------------------------------------------------------------------------------- */

/* A header of every type, then the body of a hello. */
static void rpc_frames_version_1(void **state)
{
    static const struct rpc_header headers[] = {
        {.type = RPC_FRAME_HELLO, .body_len_bytes = RPC_HELLO_BYTES, .body_crc = 0x11223344},
        {.type = RPC_FRAME_END, .code = 24, .body_len_bytes = 5, .body_crc = 0x55667788},
        {.version = 1,
            .type = RPC_FRAME_REQUEST,
            .code = 0x0203,
            .id = 0x1122334455667788,
            .deadline_us = 10000000,
            .body_len_bytes = 100,
            .payload_bytes = 8192,
            .reply_bytes_max = 4096,
            .body_crc = 0xa1a2a3a4,
            .payload_crc = 0xb1b2b3b4},
        {.version = 1,
            .type = RPC_FRAME_REPLY,
            .code = 5,
            .id = 0x1122334455667788,
            .body_len_bytes = 8,
            .payload_bytes = 4096,
            .body_crc = 0xc1c2c3c4,
            .payload_crc = 0xd1d2d3d4},
        {.version = 1, .type = RPC_FRAME_CANCEL, .id = 0x1122334455667788},
        {.type = RPC_FRAME_PING},
    };
    struct rpc_hello back, hello = {.version_min = 1,
                               .version_max = 1,
                               .features = 0x8000000000000001,
                               .self = {.cluster = uuid_of(0x10),
                                   .node = uuid_of(0x30),
                                   .node_name = "node1",
                                   .incarnation = 0xaabbccddeeff0011},
                               .silence_ms = 2000,
                               .window_bytes = 64 << 20,
                               .window_calls = 1024,
                               .wanted_node = uuid_of(0x50),
                               .wanted_name = "node2"};
    uint8_t bytes[GOLDEN_BYTES_MAX], *at = bytes;
    memcpy(hello.self.boot_id, uuid_of(0x70).bytes, 16);
    for (unsigned i = 0; i < ARRAY_SIZE(headers); i++, at += RPC_HEADER_BYTES)
        rpc_header_encode(&headers[i], at);
    rpc_hello_encode(&hello, at);
    golden_compare("rpc-frames-v1", "headers of hello, end, request, reply, cancel, ping; a hello",
        bytes, (size_t)(at - bytes) + RPC_HELLO_BYTES);
    golden_load("rpc-frames-v1", bytes);
    for (unsigned i = 0; i < ARRAY_SIZE(headers); i++) {
        struct rpc_header header = {0};
        uint8_t again[RPC_HEADER_BYTES];
        assert_null(rpc_header_decode(bytes + i * RPC_HEADER_BYTES, 1, &header));
        rpc_header_encode(&header, again); /* structs have padding */
        assert_memory_equal(again, bytes + i * RPC_HEADER_BYTES, sizeof(again));
    }
    uint8_t again[RPC_HELLO_BYTES];
    assert_null(rpc_hello_decode(at, RPC_HELLO_BYTES, &back));
    rpc_hello_encode(&back, again);
    assert_memory_equal(again, at, sizeof(again));
}

/* One body of every shard method, then of their replies. */
static uint8_t *shard_requests(uint8_t *at)
{
    const struct shard_entry entries[2] = {{0x1000, 0xa1a2a3a4, 7}, {0x2000, 0xb1b2b3b4, 8}};
    struct wire_create create = {.disk = 9,
        .create = {.key = some_key,
            .kind = SHARD_DATA,
            .code = some_code,
            .instance = 0xaabbccddeeff0011,
            .epoch = 3,
            .capacity_blocks = 1000,
            .capacity_blocks_min = 500,
            .priority = SHARD_PRIORITY_SYSTEM}};
    struct wire_append append = {.disk = 9,
        .key = some_key,
        .epoch = 3,
        .off_blocks = 12,
        .base_seq = 0x0102030405060708,
        .flags = SHARD_APPEND_DSYNC,
        .entry_count = 2,
        .inline_len_bytes = 6,
        .inline_bytes = "inline"};
    at += wire_create_encode(&create, at);
    at += wire_append_encode(&append, entries, at);
    at += wire_read_encode(&(struct wire_read){9, some_key, 12, 512}, at);
    at += wire_length_encode(&(struct wire_length){9, some_key, 3, 15}, at);
    at += wire_remove_encode(&(struct wire_remove){9, some_key, 0xaabbccddeeff0011, 4}, at);
    at += wire_fence_encode(&(struct wire_fence){9, some_key, 4}, at);
    at += wire_stat_encode(&(struct wire_stat){9, some_key}, at);
    at += wire_list_encode(&(struct wire_list){9, 0x1122334455667788, 320}, at);
    return at + wire_status_encode(7, at);
}

static uint8_t *shard_replies(uint8_t *at)
{
    struct shard_info infos[] = {{.key = some_key,
                                     .kind = SHARD_DATA,
                                     .code = some_code,
                                     .instance = 0xaabbccddeeff0011,
                                     .epoch = 3,
                                     .fence_epoch = 4,
                                     .length_blocks = 15,
                                     .capacity_blocks = 1000,
                                     .sealed = true,
                                     .damaged = true},
        {.key = some_key, .fence_epoch = 4, .tombstone = true}};
    struct wire_disk disk = {.number = 9,
        .state = DISK_OUT,
        .uuid = uuid_of(0x10),
        .class_name = "ssd",
        .size_bytes = 1ull << 40,
        .free_bytes = 1ull << 39,
        .error_count = 1,
        .damage_count = 2,
        .latency_ewma_ns = 30000};
    at += wire_u32_encode(0xc1c2c3c4, at);
    at += wire_list_reply_encode(640, infos, 2, at);
    return at + wire_status_reply_encode(true, &disk, 1, at);
}

static void shard_bodies_version_1(void **state)
{
    uint8_t bytes[GOLDEN_BYTES_MAX];
    uint8_t *end = shard_replies(shard_requests(bytes));
    golden_compare("shard-bodies-v1",
        "requests: create, append, read, sync or seal, remove, fence, stat, list, disk status; "
        "replies: header CRC, page of shards, page of disks",
        bytes, (size_t)(end - bytes)); /* what decodes encodes to the same: test_wire_shard */
}

static void volume_bodies_version_1(void **state)
{
    struct wire_volume_attach attach = {.attachment = 3, .name = "vm-1"};
    struct wire_volume_request request = {.volume_id = 0x1122334455667788,
        .attachment = 3,
        .epoch = 7,
        .flags = VOLUME_FUA | VOLUME_NO_HOLE,
        .extents_max = 2048,
        .id = {.session = 0x99, .number = 100, .answered_below = 90},
        .off_bytes = 4096,
        .len_bytes = 8192};
    struct wire_volume_state news = {.volume_id = 0x1122334455667788,
        .size_bytes = 1ull << 40,
        .epoch = 7,
        .flags = WIRE_VOLUME_REMOVED | WIRE_VOLUME_HALTED,
        .traffic = 123456,
        .extents = 2,
        .pause_ns = 5000000};
    struct volume_extent extents[] = {{4096, true}, {1ull << 40, false}};
    uint8_t bytes[WIRE_VOLUME_ATTACH_BYTES + WIRE_VOLUME_REQUEST_BYTES + WIRE_VOLUME_STATE_BYTES +
                  2 * WIRE_VOLUME_EXTENT_BYTES];
    uint8_t *end = bytes;
    wire_volume_attach_encode(&attach, end);
    end += WIRE_VOLUME_ATTACH_BYTES;
    wire_volume_request_encode(&request, end);
    end += WIRE_VOLUME_REQUEST_BYTES;
    wire_volume_state_encode(&news, end);
    end += WIRE_VOLUME_STATE_BYTES;
    wire_volume_extents_encode(extents, 2, end);
    golden_compare("volume-bodies-v1", "attach, request, state, two extents", bytes,
        sizeof(bytes)); /* what decodes encodes to the same: test_wire_volume */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(superblock_version_1),
        cmocka_unit_test(shard_table_entry_version_1),
        cmocka_unit_test(append_header_version_1),
        cmocka_unit_test(trailer_version_1),
        cmocka_unit_test(log_records_version_1),
        cmocka_unit_test(manifest_records_version_1),
        cmocka_unit_test(manifest_requests_version_1),
        cmocka_unit_test(manifest_blocks_version_1),
        cmocka_unit_test(map_page_version_1),
        cmocka_unit_test(store_records_version_1),
        cmocka_unit_test(rpc_frames_version_1),
        cmocka_unit_test(shard_bodies_version_1),
        cmocka_unit_test(volume_bodies_version_1),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
