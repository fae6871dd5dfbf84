/* SPDX-License-Identifier: Apache-2.0
 *
 * Bodies of the shard methods: the first byte chooses the decoder (of an append, and of pages, the
 * second says what came with it). What is let through is within the bounds that the shard store
 * trusts and encodes to the same bytes.
 */
#include "fuzz.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/cluster/wire_shard.h"
#include "common/check.h"
#include "common/rpc.h"

static uint8_t again[RPC_BODY_BYTES_MAX];

static void same(const uint8_t *body, size_t len_bytes, unsigned again_len)
{
    CHECK(again_len == len_bytes && memcmp(body, again, len_bytes) == 0);
}

static void create(const uint8_t *body, size_t len_bytes)
{
    struct wire_create r;
    if (wire_create_decode(body, len_bytes, &r) < 0)
        return;
    CHECK(r.create.priority <= SHARD_PRIORITY_SYSTEM && r.create.kind >= SHARD_DATA &&
          r.create.kind <= SHARD_MANIFEST);
    CHECK(r.create.code.k >= 1 && r.create.key.index < r.create.code.k + r.create.code.m &&
          r.create.code.k + r.create.code.m <= CODE_SHARDS_MAX);
    CHECK(r.create.capacity_blocks_min <= r.create.capacity_blocks &&
          r.create.capacity_blocks <= LOG_CAPACITY_BLOCKS_MAX);
    same(body, len_bytes, wire_create_encode(&r, again));
}

static void append(const uint8_t *body, size_t len_bytes)
{
    struct wire_append r;
    struct shard_entry entries[APPEND_ENTRIES_MAX];
    size_t payload_bytes = len_bytes > 0 ? (size_t)body[0] * BLOCK_BYTES : 0;
    body += len_bytes > 0;
    len_bytes -= len_bytes > 0;
    if (wire_append_decode(body, len_bytes, payload_bytes, &r, entries) < 0)
        return;
    CHECK(r.entry_count <= APPEND_ENTRIES_MAX && payload_bytes == r.entry_count * BLOCK_BYTES);
    CHECK(16 * r.entry_count + r.inline_len_bytes <= APPEND_BODY_BYTES);
    CHECK((const uint8_t *)r.inline_bytes + r.inline_len_bytes == body + len_bytes);
    same(body, len_bytes, wire_append_encode(&r, entries, again));
}

static void list_reply(const uint8_t *body, size_t len_bytes)
{
    static struct shard_info list[WIRE_LIST_SHARDS_MAX];
    uint32_t cursor, before = len_bytes > 0 ? body[0] : 0;
    unsigned count;
    body += len_bytes > 0;
    len_bytes -= len_bytes > 0;
    if (wire_list_reply_decode(body, len_bytes, before, &cursor, list, &count) < 0)
        return;
    CHECK(cursor > before && count <= WIRE_LIST_SHARDS_MAX);
    same(body, len_bytes, wire_list_reply_encode(cursor, list, count, again));
}

static void status_reply(const uint8_t *body, size_t len_bytes)
{
    static struct wire_disk disks[WIRE_STATUS_DISKS_MAX];
    uint32_t after = len_bytes > 0 ? body[0] : 0;
    unsigned count;
    bool more;
    body += len_bytes > 0;
    len_bytes -= len_bytes > 0;
    if (wire_status_reply_decode(body, len_bytes, after, &more, disks, &count) < 0)
        return;
    for (unsigned i = 0; i < count; i++) {
        CHECK(disks[i].number > after && disks[i].state <= DISK_MISSING);
        CHECK(memchr(disks[i].class_name, 0, sizeof(disks[i].class_name)) != NULL);
        after = disks[i].number;
    }
    same(body, len_bytes, wire_status_reply_encode(more, disks, count, again));
}

static void info(const uint8_t *body, size_t len_bytes)
{
    struct shard_info r;
    if (wire_info_decode(body, len_bytes, &r) < 0)
        return;
    CHECK(r.length_blocks <= r.capacity_blocks && r.key.index < CODE_SHARDS_MAX);
    same(body, len_bytes, wire_info_encode(&r, again));
}

#define SIMPLE(name)                                                \
    static void name##_(const uint8_t *body, size_t len_bytes)      \
    {                                                               \
        struct wire_##name r;                                       \
        int error = wire_##name##_decode(body, len_bytes, &r);      \
        CHECK(error == 0 || error == -EBADMSG);                     \
        if (error == 0)                                             \
            same(body, len_bytes, wire_##name##_encode(&r, again)); \
    }
SIMPLE(read)
SIMPLE(length)
SIMPLE(remove)
SIMPLE(fence)
SIMPLE(stat)
SIMPLE(list)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len_bytes)
{
    static void (*const decoders[])(const uint8_t *, size_t) = {create, append, read_, length_,
        remove_, fence_, stat_, list_, info, list_reply, status_reply};
    if (len_bytes == 0 || len_bytes > RPC_BODY_BYTES_MAX)
        return 0;
    decoders[data[0] % ARRAY_SIZE(decoders)](data + 1, len_bytes - 1);
    return 0;
}
