/* SPDX-License-Identifier: Apache-2.0
 *
 * Replies. Requests: wire_shard.c.
 */
#include <errno.h>
#include <string.h>

#include "blockd/cluster/wire_shard.h"
#include "common/bytes.h"
#include "common/check.h"
#include "common/rpc.h"

/* Byte offsets; docs/PROTOCOL.md. */
enum {
    AT_INFO_VOLUME = 0,
    AT_INFO_CHUNK = 8,
    AT_INFO_INDEX = 16,
    AT_INFO_KIND = 17,
    AT_INFO_K = 18,
    AT_INFO_M = 19,
    AT_INFO_FLAGS = 20,
    AT_INFO_INSTANCE = 24,
    AT_INFO_EPOCH = 32,
    AT_INFO_FENCE_EPOCH = 36,
    AT_INFO_LENGTH = 40,
    AT_INFO_CAPACITY = 44,

    AT_PAGE_NEXT = 0, /* cursor; or whether there are more disks */
    AT_PAGE_COUNT = 4,

    AT_DISK_NUMBER = 0,
    AT_DISK_STATE = 4,
    AT_DISK_UUID = 8,
    AT_DISK_CLASS = 24,
    AT_DISK_SIZE = 40,
    AT_DISK_FREE = 48,
    AT_DISK_ERRORS = 56,
    AT_DISK_DAMAGES = 64,
    AT_DISK_LATENCY = 72,
    AT_DISK_ZERO = 80,
};

enum {
    INFO_SEALED = 1,
    INFO_SUSPECT = 2,
    INFO_TOMBSTONE = 4,
    INFO_DAMAGED = 8,
    INFO_FLAGS = 15,
};

_Static_assert(WIRE_LIST_REPLY_BYTES_MAX <= RPC_BODY_BYTES_MAX, "a page of shards is one body");
_Static_assert(WIRE_STATUS_REPLY_BYTES_MAX <= RPC_BODY_BYTES_MAX, "a page of disks is one body");
_Static_assert(WIRE_READ_BLOCKS_MAX *WIRE_ENTRY_BYTES <= RPC_BODY_BYTES_MAX, "a read's entries");
_Static_assert(WIRE_APPEND_BYTES_MAX <= RPC_BODY_BYTES_MAX, "an append's entries are one body");

/* --- One shard --------------------------------------------------------------------------------- */

unsigned wire_info_encode(const struct shard_info *info, uint8_t body[WIRE_INFO_BYTES])
{
    put_le64(body + AT_INFO_VOLUME, info->key.volume);
    put_le64(body + AT_INFO_CHUNK, info->key.chunk);
    body[AT_INFO_INDEX] = info->key.index;
    body[AT_INFO_KIND] = (uint8_t)info->kind;
    body[AT_INFO_K] = info->code.k;
    body[AT_INFO_M] = info->code.m;
    put_le32(body + AT_INFO_FLAGS,
        (info->sealed ? INFO_SEALED : 0u) | (info->suspect ? INFO_SUSPECT : 0u) |
            (info->tombstone ? INFO_TOMBSTONE : 0u) | (info->damaged ? INFO_DAMAGED : 0u));
    put_le64(body + AT_INFO_INSTANCE, info->instance);
    put_le32(body + AT_INFO_EPOCH, info->epoch);
    put_le32(body + AT_INFO_FENCE_EPOCH, info->fence_epoch);
    put_le32(body + AT_INFO_LENGTH, info->length_blocks);
    put_le32(body + AT_INFO_CAPACITY, info->capacity_blocks);
    return WIRE_INFO_BYTES;
}

/* Tombstones, and table entries that are lost, have no kind and no code. */
static bool info_is_sane(const struct shard_info *info)
{
    if (info->length_blocks > info->capacity_blocks ||
        info->capacity_blocks > LOG_CAPACITY_BLOCKS_MAX || info->key.index >= CODE_SHARDS_MAX)
        return false;
    if (info->kind == 0)
        return (info->tombstone || info->damaged) && info->code.k == 0 && info->code.m == 0;
    return info->kind <= SHARD_MANIFEST && info->code.k >= 1 && info->code.k <= CODE_K_MAX &&
           info->code.m <= CODE_M_MAX && info->key.index < info->code.k + info->code.m;
}

int wire_info_decode(const uint8_t *body, size_t len_bytes, struct shard_info *ret_info)
{
    if (len_bytes != WIRE_INFO_BYTES)
        return -EBADMSG;
    uint32_t flags = get_le32(body + AT_INFO_FLAGS);
    struct shard_info info = {
        .key = {.volume = get_le64(body + AT_INFO_VOLUME),
            .chunk = get_le64(body + AT_INFO_CHUNK),
            .index = body[AT_INFO_INDEX]},
        .kind = (enum shard_kind)body[AT_INFO_KIND],
        .code = {.k = body[AT_INFO_K], .m = body[AT_INFO_M]},
        .instance = get_le64(body + AT_INFO_INSTANCE),
        .epoch = get_le32(body + AT_INFO_EPOCH),
        .fence_epoch = get_le32(body + AT_INFO_FENCE_EPOCH),
        .length_blocks = get_le32(body + AT_INFO_LENGTH),
        .capacity_blocks = get_le32(body + AT_INFO_CAPACITY),
        .sealed = (flags & INFO_SEALED) != 0,
        .suspect = (flags & INFO_SUSPECT) != 0,
        .tombstone = (flags & INFO_TOMBSTONE) != 0,
        .damaged = (flags & INFO_DAMAGED) != 0,
    };
    if ((flags & ~(uint32_t)INFO_FLAGS) != 0 || !info_is_sane(&info))
        return -EBADMSG;
    *ret_info = info;
    return 0;
}

unsigned wire_entries_encode(const struct shard_entry *entries, unsigned count, uint8_t *body)
{
    for (unsigned i = 0; i < count; i++) {
        put_le64(body + i * WIRE_ENTRY_BYTES, entries[i].address);
        put_le32(body + i * WIRE_ENTRY_BYTES + 8, entries[i].crc);
        put_le32(body + i * WIRE_ENTRY_BYTES + 12, entries[i].aux);
    }
    return count * WIRE_ENTRY_BYTES;
}

int wire_entries_decode(
    const uint8_t *body, size_t len_bytes, unsigned count, struct shard_entry *ret_entries)
{
    if (len_bytes != (size_t)count * WIRE_ENTRY_BYTES)
        return -EBADMSG;
    for (unsigned i = 0; i < count; i++)
        ret_entries[i] = (struct shard_entry){.address = get_le64(body + i * WIRE_ENTRY_BYTES),
            .crc = get_le32(body + i * WIRE_ENTRY_BYTES + 8),
            .aux = get_le32(body + i * WIRE_ENTRY_BYTES + 12)};
    return 0;
}

unsigned wire_u32_encode(uint32_t value, uint8_t body[4])
{
    put_le32(body, value);
    return 4;
}

int wire_u32_decode(const uint8_t *body, size_t len_bytes, uint32_t *ret_value)
{
    if (len_bytes != 4)
        return -EBADMSG;
    *ret_value = get_le32(body);
    return 0;
}

/* --- Lists ------------------------------------------------------------------------------------- */

static unsigned page_begin(uint32_t next, unsigned count, uint8_t *body)
{
    put_le32(body + AT_PAGE_NEXT, next);
    put_le32(body + AT_PAGE_COUNT, count);
    return WIRE_PAGE_BYTES;
}

/* Whether the page has its header and exactly the items it says. */
static bool page_is_whole(
    const uint8_t *body, size_t len_bytes, unsigned item_bytes, unsigned count_max)
{
    if (len_bytes < WIRE_PAGE_BYTES)
        return false;
    uint32_t count = get_le32(body + AT_PAGE_COUNT);
    return count <= count_max && len_bytes == WIRE_PAGE_BYTES + (size_t)count * item_bytes;
}

unsigned wire_list_reply_encode(
    uint32_t cursor, const struct shard_info *list, unsigned count, uint8_t *body)
{
    CHECK(count <= WIRE_LIST_SHARDS_MAX);
    unsigned len = page_begin(cursor, count, body);
    for (unsigned i = 0; i < count; i++)
        len += wire_info_encode(&list[i], body + len);
    return len;
}

int wire_list_reply_decode(const uint8_t *body, size_t len_bytes, uint32_t cursor_before,
    uint32_t *ret_cursor, struct shard_info *ret_list, unsigned *ret_count)
{
    if (!page_is_whole(body, len_bytes, WIRE_INFO_BYTES, WIRE_LIST_SHARDS_MAX))
        return -EBADMSG;
    uint32_t cursor = get_le32(body + AT_PAGE_NEXT), count = get_le32(body + AT_PAGE_COUNT);
    if (cursor <= cursor_before)
        return -EBADMSG;
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *item = body + WIRE_PAGE_BYTES + i * WIRE_INFO_BYTES;
        if (wire_info_decode(item, WIRE_INFO_BYTES, &ret_list[i]) < 0)
            return -EBADMSG;
    }
    *ret_cursor = cursor;
    *ret_count = count;
    return 0;
}

static void disk_encode(const struct wire_disk *disk, uint8_t *item)
{
    put_le32(item + AT_DISK_NUMBER, disk->number);
    put_le32(item + AT_DISK_STATE, (uint32_t)disk->state);
    memcpy(item + AT_DISK_UUID, &disk->uuid, sizeof(disk->uuid));
    memset(item + AT_DISK_CLASS, 0, sizeof(disk->class_name));
    memcpy(item + AT_DISK_CLASS, disk->class_name,
        strnlen(disk->class_name, sizeof(disk->class_name) - 1));
    put_le64(item + AT_DISK_SIZE, disk->size_bytes);
    put_le64(item + AT_DISK_FREE, disk->free_bytes);
    put_le64(item + AT_DISK_ERRORS, disk->error_count);
    put_le64(item + AT_DISK_DAMAGES, disk->damage_count);
    put_le64(item + AT_DISK_LATENCY, disk->latency_ewma_ns);
    put_le64(item + AT_DISK_ZERO, 0);
}

/* A class is a word: printable, zeros after it. */
static bool class_is_sane(const uint8_t *text)
{
    size_t len = strnlen((const char *)text, sizeof(((struct wire_disk *)0)->class_name));
    if (len == sizeof(((struct wire_disk *)0)->class_name))
        return false;
    for (size_t i = 0; i < len; i++)
        if (text[i] < 0x20 || text[i] > 0x7e)
            return false;
    for (size_t i = len; i < sizeof(((struct wire_disk *)0)->class_name); i++)
        if (text[i] != 0)
            return false;
    return true;
}

static bool disk_decode(const uint8_t *item, struct wire_disk *ret_disk)
{
    uint32_t state = get_le32(item + AT_DISK_STATE);
    if (state > DISK_MISSING || get_le64(item + AT_DISK_ZERO) != 0 ||
        !class_is_sane(item + AT_DISK_CLASS))
        return false;
    *ret_disk = (struct wire_disk){
        .number = get_le32(item + AT_DISK_NUMBER),
        .state = (enum disk_state)state,
        .size_bytes = get_le64(item + AT_DISK_SIZE),
        .free_bytes = get_le64(item + AT_DISK_FREE),
        .error_count = get_le64(item + AT_DISK_ERRORS),
        .damage_count = get_le64(item + AT_DISK_DAMAGES),
        .latency_ewma_ns = get_le64(item + AT_DISK_LATENCY),
    };
    memcpy(&ret_disk->uuid, item + AT_DISK_UUID, sizeof(ret_disk->uuid));
    memcpy(ret_disk->class_name, item + AT_DISK_CLASS, sizeof(ret_disk->class_name));
    return ret_disk->free_bytes <= ret_disk->size_bytes;
}

unsigned wire_status_reply_encode(
    bool more, const struct wire_disk *disks, unsigned count, uint8_t *body)
{
    CHECK(count <= WIRE_STATUS_DISKS_MAX);
    page_begin(more, count, body);
    for (unsigned i = 0; i < count; i++)
        disk_encode(&disks[i], body + WIRE_PAGE_BYTES + i * WIRE_DISK_BYTES);
    return WIRE_PAGE_BYTES + count * WIRE_DISK_BYTES;
}

int wire_status_reply_decode(const uint8_t *body, size_t len_bytes, uint32_t after, bool *ret_more,
    struct wire_disk *ret_disks, unsigned *ret_count)
{
    if (!page_is_whole(body, len_bytes, WIRE_DISK_BYTES, WIRE_STATUS_DISKS_MAX))
        return -EBADMSG;
    uint32_t more = get_le32(body + AT_PAGE_NEXT), count = get_le32(body + AT_PAGE_COUNT);
    if (more > 1 || (more == 1 && count == 0))
        return -EBADMSG;
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *item = body + WIRE_PAGE_BYTES + i * WIRE_DISK_BYTES;
        if (!disk_decode(item, &ret_disks[i]) || ret_disks[i].number <= after)
            return -EBADMSG;
        after = ret_disks[i].number;
    }
    *ret_more = more == 1;
    *ret_count = count;
    return 0;
}
