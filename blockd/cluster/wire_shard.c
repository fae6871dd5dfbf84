/* SPDX-License-Identifier: Apache-2.0
 *
 * Requests. Replies: wire_shard_reply.c.
 */
#include "blockd/cluster/wire_shard.h"

#include <errno.h>
#include <string.h>

#include "common/bytes.h"
#include "common/check.h"

/* Byte offsets; docs/PROTOCOL.md. The first five are those of every request of one shard. */
enum {
    AT_DISK = 0,
    AT_INDEX = 4, /* and three bytes of zero */
    AT_VOLUME = 8,
    AT_CHUNK = 16,
    AT_ARGUMENTS = 24,

    AT_CREATE_KIND = 24,
    AT_CREATE_K = 25,
    AT_CREATE_M = 26,
    AT_CREATE_PRIORITY = 27,
    AT_CREATE_EPOCH = 28,
    AT_CREATE_INSTANCE = 32,
    AT_CREATE_CAPACITY = 40,
    AT_CREATE_CAPACITY_MIN = 44,

    AT_APPEND_EPOCH = 24,
    AT_APPEND_OFF = 28,
    AT_APPEND_BASE_SEQ = 32,
    AT_APPEND_ENTRY_COUNT = 40,
    AT_APPEND_INLINE_LEN = 42,
    AT_APPEND_FLAGS = 44,
    AT_APPEND_ENTRIES = 48,

    AT_READ_OFF = 24,
    AT_READ_COUNT = 28,

    AT_LENGTH_EPOCH = 24,
    AT_LENGTH_BLOCKS = 28,

    AT_REMOVE_EPOCH = 24,
    AT_REMOVE_ZERO = 28,
    AT_REMOVE_INSTANCE = 32,

    AT_FENCE_EPOCH = 24,
    AT_FENCE_ZERO = 28,

    AT_LIST_CURSOR = 4,
    AT_LIST_VOLUME = 8,
};

_Static_assert(WIRE_APPEND_BYTES == AT_APPEND_ENTRIES, "");
_Static_assert(WIRE_STAT_BYTES == AT_ARGUMENTS, "");

static void put_shard(uint8_t *body, uint32_t disk, struct shard_key key)
{
    put_le32(body + AT_DISK, disk);
    put_le32(body + AT_INDEX, key.index);
    put_le64(body + AT_VOLUME, key.volume);
    put_le64(body + AT_CHUNK, key.chunk);
}

static bool get_shard(const uint8_t *body, uint32_t *ret_disk, struct shard_key *ret_key)
{
    uint32_t index = get_le32(body + AT_INDEX);
    *ret_disk = get_le32(body + AT_DISK);
    *ret_key = (struct shard_key){.volume = get_le64(body + AT_VOLUME),
        .chunk = get_le64(body + AT_CHUNK),
        .index = (uint8_t)index};
    return index < CODE_SHARDS_MAX;
}

/* --- Create ------------------------------------------------------------------------------------ */

unsigned wire_create_encode(const struct wire_create *request, uint8_t body[WIRE_CREATE_BYTES])
{
    const struct shard_create *create = &request->create;
    put_shard(body, request->disk, create->key);
    body[AT_CREATE_KIND] = (uint8_t)create->kind;
    body[AT_CREATE_K] = create->code.k;
    body[AT_CREATE_M] = create->code.m;
    body[AT_CREATE_PRIORITY] = (uint8_t)create->priority;
    put_le32(body + AT_CREATE_EPOCH, create->epoch);
    put_le64(body + AT_CREATE_INSTANCE, create->instance);
    put_le32(body + AT_CREATE_CAPACITY, create->capacity_blocks);
    put_le32(body + AT_CREATE_CAPACITY_MIN, create->capacity_blocks_min);
    return WIRE_CREATE_BYTES;
}

static bool create_is_sane(const struct shard_create *create)
{
    if (create->kind < SHARD_DATA || create->kind > SHARD_MANIFEST ||
        create->priority > SHARD_PRIORITY_SYSTEM)
        return false;
    if (create->code.k < 1 || create->code.k > CODE_K_MAX || create->code.m > CODE_M_MAX ||
        create->key.index >= create->code.k + create->code.m)
        return false;
    return create->epoch != 0 && create->instance != 0 && create->capacity_blocks > 0 &&
           create->capacity_blocks <= LOG_CAPACITY_BLOCKS_MAX &&
           create->capacity_blocks_min <= create->capacity_blocks;
}

int wire_create_decode(const uint8_t *body, size_t len_bytes, struct wire_create *ret_request)
{
    struct wire_create request;
    struct shard_key key;
    if (len_bytes != WIRE_CREATE_BYTES || !get_shard(body, &request.disk, &key))
        return -EBADMSG;
    request.create = (struct shard_create){
        .key = key,
        .kind = (enum shard_kind)body[AT_CREATE_KIND],
        .code = {.k = body[AT_CREATE_K], .m = body[AT_CREATE_M]},
        .instance = get_le64(body + AT_CREATE_INSTANCE),
        .epoch = get_le32(body + AT_CREATE_EPOCH),
        .capacity_blocks = get_le32(body + AT_CREATE_CAPACITY),
        .capacity_blocks_min = get_le32(body + AT_CREATE_CAPACITY_MIN),
        .priority = (enum shard_priority)body[AT_CREATE_PRIORITY],
    };
    if (!create_is_sane(&request.create))
        return -EBADMSG;
    *ret_request = request;
    return 0;
}

/* --- Append ------------------------------------------------------------------------------------ */

unsigned wire_append_encode(const struct wire_append *request, const struct shard_entry *entries,
    uint8_t body[WIRE_APPEND_BYTES_MAX])
{
    CHECK(request->entry_count <= APPEND_ENTRIES_MAX);
    CHECK(WIRE_ENTRY_BYTES * request->entry_count + request->inline_len_bytes <= APPEND_BODY_BYTES);
    put_shard(body, request->disk, request->key);
    put_le32(body + AT_APPEND_EPOCH, request->epoch);
    put_le32(body + AT_APPEND_OFF, request->off_blocks);
    put_le64(body + AT_APPEND_BASE_SEQ, request->base_seq);
    put_le16(body + AT_APPEND_ENTRY_COUNT, (uint16_t)request->entry_count);
    put_le16(body + AT_APPEND_INLINE_LEN, (uint16_t)request->inline_len_bytes);
    put_le32(body + AT_APPEND_FLAGS, request->flags);
    unsigned len = WIRE_APPEND_BYTES;
    len += wire_entries_encode(entries, request->entry_count, body + len);
    if (request->inline_len_bytes > 0)
        memcpy(body + len, request->inline_bytes, request->inline_len_bytes);
    return len + request->inline_len_bytes;
}

int wire_append_decode(const uint8_t *body, size_t len_bytes, size_t payload_bytes,
    struct wire_append *ret_request, struct shard_entry *ret_entries)
{
    struct wire_append request;
    if (len_bytes < WIRE_APPEND_BYTES || !get_shard(body, &request.disk, &request.key))
        return -EBADMSG;
    request.epoch = get_le32(body + AT_APPEND_EPOCH);
    request.off_blocks = get_le32(body + AT_APPEND_OFF);
    request.base_seq = get_le64(body + AT_APPEND_BASE_SEQ);
    request.entry_count = get_le16(body + AT_APPEND_ENTRY_COUNT);
    request.inline_len_bytes = get_le16(body + AT_APPEND_INLINE_LEN);
    request.flags = get_le32(body + AT_APPEND_FLAGS);
    size_t entries_bytes = (size_t)request.entry_count * WIRE_ENTRY_BYTES;
    if (request.entry_count > APPEND_ENTRIES_MAX ||
        entries_bytes + request.inline_len_bytes > APPEND_BODY_BYTES ||
        len_bytes != WIRE_APPEND_BYTES + entries_bytes + request.inline_len_bytes ||
        payload_bytes != (size_t)request.entry_count * BLOCK_BYTES ||
        (request.flags & ~(unsigned)SHARD_APPEND_DSYNC) != 0)
        return -EBADMSG;
    request.inline_bytes = body + WIRE_APPEND_BYTES + entries_bytes;
    *ret_request = request;
    return wire_entries_decode(
        body + WIRE_APPEND_BYTES, entries_bytes, request.entry_count, ret_entries);
}

/* --- Read, sync, seal -------------------------------------------------------------------------- */

unsigned wire_read_encode(const struct wire_read *request, uint8_t body[WIRE_READ_BYTES])
{
    put_shard(body, request->disk, request->key);
    put_le32(body + AT_READ_OFF, request->off_blocks);
    put_le32(body + AT_READ_COUNT, request->count);
    return WIRE_READ_BYTES;
}

int wire_read_decode(const uint8_t *body, size_t len_bytes, struct wire_read *ret_request)
{
    struct wire_read request;
    if (len_bytes != WIRE_READ_BYTES || !get_shard(body, &request.disk, &request.key))
        return -EBADMSG;
    request.off_blocks = get_le32(body + AT_READ_OFF);
    request.count = get_le32(body + AT_READ_COUNT);
    if (request.count > WIRE_READ_BLOCKS_MAX)
        return -EBADMSG;
    *ret_request = request;
    return 0;
}

unsigned wire_length_encode(const struct wire_length *request, uint8_t body[WIRE_LENGTH_BYTES])
{
    put_shard(body, request->disk, request->key);
    put_le32(body + AT_LENGTH_EPOCH, request->epoch);
    put_le32(body + AT_LENGTH_BLOCKS, request->length_blocks);
    return WIRE_LENGTH_BYTES;
}

int wire_length_decode(const uint8_t *body, size_t len_bytes, struct wire_length *ret_request)
{
    struct wire_length request;
    if (len_bytes != WIRE_LENGTH_BYTES || !get_shard(body, &request.disk, &request.key))
        return -EBADMSG;
    request.epoch = get_le32(body + AT_LENGTH_EPOCH);
    request.length_blocks = get_le32(body + AT_LENGTH_BLOCKS);
    *ret_request = request;
    return 0;
}

/* --- Remove, fence, stat ----------------------------------------------------------------------- */

unsigned wire_remove_encode(const struct wire_remove *request, uint8_t body[WIRE_REMOVE_BYTES])
{
    put_shard(body, request->disk, request->key);
    put_le32(body + AT_REMOVE_EPOCH, request->epoch);
    put_le32(body + AT_REMOVE_ZERO, 0);
    put_le64(body + AT_REMOVE_INSTANCE, request->instance);
    return WIRE_REMOVE_BYTES;
}

int wire_remove_decode(const uint8_t *body, size_t len_bytes, struct wire_remove *ret_request)
{
    struct wire_remove request;
    if (len_bytes != WIRE_REMOVE_BYTES || get_le32(body + AT_REMOVE_ZERO) != 0 ||
        !get_shard(body, &request.disk, &request.key))
        return -EBADMSG;
    request.epoch = get_le32(body + AT_REMOVE_EPOCH);
    request.instance = get_le64(body + AT_REMOVE_INSTANCE);
    *ret_request = request;
    return 0;
}

unsigned wire_fence_encode(const struct wire_fence *request, uint8_t body[WIRE_FENCE_BYTES])
{
    put_shard(body, request->disk, request->key);
    put_le32(body + AT_FENCE_EPOCH, request->epoch);
    put_le32(body + AT_FENCE_ZERO, 0);
    return WIRE_FENCE_BYTES;
}

int wire_fence_decode(const uint8_t *body, size_t len_bytes, struct wire_fence *ret_request)
{
    struct wire_fence request;
    if (len_bytes != WIRE_FENCE_BYTES || get_le32(body + AT_FENCE_ZERO) != 0 ||
        !get_shard(body, &request.disk, &request.key))
        return -EBADMSG;
    request.epoch = get_le32(body + AT_FENCE_EPOCH);
    if (request.epoch == 0)
        return -EBADMSG; /* every owner's epoch is higher */
    *ret_request = request;
    return 0;
}

unsigned wire_stat_encode(const struct wire_stat *request, uint8_t body[WIRE_STAT_BYTES])
{
    put_shard(body, request->disk, request->key);
    return WIRE_STAT_BYTES;
}

int wire_stat_decode(const uint8_t *body, size_t len_bytes, struct wire_stat *ret_request)
{
    struct wire_stat request;
    if (len_bytes != WIRE_STAT_BYTES || !get_shard(body, &request.disk, &request.key))
        return -EBADMSG;
    *ret_request = request;
    return 0;
}

/* --- Lists ------------------------------------------------------------------------------------- */

unsigned wire_list_encode(const struct wire_list *request, uint8_t body[WIRE_LIST_BYTES])
{
    put_le32(body + AT_DISK, request->disk);
    put_le32(body + AT_LIST_CURSOR, request->cursor);
    put_le64(body + AT_LIST_VOLUME, request->volume);
    return WIRE_LIST_BYTES;
}

int wire_list_decode(const uint8_t *body, size_t len_bytes, struct wire_list *ret_request)
{
    if (len_bytes != WIRE_LIST_BYTES)
        return -EBADMSG;
    *ret_request = (struct wire_list){.disk = get_le32(body + AT_DISK),
        .cursor = get_le32(body + AT_LIST_CURSOR),
        .volume = get_le64(body + AT_LIST_VOLUME)};
    return 0;
}

unsigned wire_status_encode(uint32_t after, uint8_t body[WIRE_STATUS_BYTES])
{
    return wire_u32_encode(after, body);
}

int wire_status_decode(const uint8_t *body, size_t len_bytes, uint32_t *ret_after)
{
    return wire_u32_decode(body, len_bytes, ret_after);
}
