/* SPDX-License-Identifier: Apache-2.0
 *
 * Bodies of the shard methods, version 1 (docs/PROTOCOL.md). Pure: encoders fill a caller's buffer and
 * give its length; decoders check every field against its bounds and give -EBADMSG, with what they were
 * given untouched, when one is wrong. Integers are little-endian, padding is zero and is checked, a
 * body has exactly its length.
 *
 *  W1 What decodes fails no CHECK of the shard store: counts, kinds, codes, priorities and lengths
 *     are within the bounds of shard.h, an append's entries and a read's blocks fit what comes with
 *     them.
 *  W2 A decoder allocates nothing. Arrays may have been written to when it fails.
 */
#pragma once

#include "blockd/disk/shard.h"

/* Blocks in one message of a read, shards and disks in one page of a list: so that replies fit
 * RPC_BODY_BYTES_MAX and 2 MiB of payload. */
#define WIRE_READ_BLOCKS_MAX 512u
#define WIRE_LIST_SHARDS_MAX 320u
#define WIRE_STATUS_DISKS_MAX 160u

#define WIRE_CREATE_BYTES 48u
#define WIRE_APPEND_BYTES 48u /* before entries and inline bytes */
#define WIRE_APPEND_BYTES_MAX (WIRE_APPEND_BYTES + APPEND_BODY_BYTES)
#define WIRE_READ_BYTES 32u
#define WIRE_LENGTH_BYTES 32u /* sync, seal */
#define WIRE_REMOVE_BYTES 40u
#define WIRE_FENCE_BYTES 32u
#define WIRE_STAT_BYTES 24u
#define WIRE_LIST_BYTES 16u
#define WIRE_STATUS_BYTES 4u

#define WIRE_INFO_BYTES 48u /* reply of create, fence, stat */
#define WIRE_ENTRY_BYTES 16u
#define WIRE_CRC_BYTES 4u     /* reply of append */
#define WIRE_DAMAGED_BYTES 4u /* reply of a read with -EBADMSG */
#define WIRE_PAGE_BYTES 8u    /* before the shards or disks of a page */
#define WIRE_DISK_BYTES 88u
#define WIRE_LIST_REPLY_BYTES_MAX (WIRE_PAGE_BYTES + WIRE_LIST_SHARDS_MAX * WIRE_INFO_BYTES)
#define WIRE_STATUS_REPLY_BYTES_MAX (WIRE_PAGE_BYTES + WIRE_STATUS_DISKS_MAX * WIRE_DISK_BYTES)

/* Of a list's cursor: the whole list was given. */
#define WIRE_LIST_END UINT32_MAX

/* --- Requests ---------------------------------------------------------------------------------- */

struct wire_create {
    uint32_t disk;
    struct shard_create create;
};

struct wire_append {
    uint32_t disk;
    struct shard_key key;
    uint32_t epoch;
    uint32_t off_blocks;
    uint64_t base_seq;
    unsigned flags;
    unsigned entry_count;
    unsigned inline_len_bytes;
    const void *inline_bytes; /* decoded: inside the body */
};

struct wire_read {
    uint32_t disk;
    struct shard_key key;
    uint32_t off_blocks;
    uint32_t count; /* 0..WIRE_READ_BLOCKS_MAX */
};

struct wire_length { /* sync, seal */
    uint32_t disk;
    struct shard_key key;
    uint32_t epoch;
    uint32_t length_blocks;
};

struct wire_remove {
    uint32_t disk;
    struct shard_key key;
    uint64_t instance;
    uint32_t epoch;
};

struct wire_fence {
    uint32_t disk;
    struct shard_key key;
    uint32_t epoch;
};

struct wire_stat {
    uint32_t disk;
    struct shard_key key;
};

struct wire_list {
    uint32_t disk;
    uint64_t volume; /* 0 = all */
    uint32_t cursor; /* 0, then what the page before gave */
};

unsigned wire_create_encode(const struct wire_create *request, uint8_t body[WIRE_CREATE_BYTES]);
unsigned wire_append_encode(const struct wire_append *request, const struct shard_entry *entries,
    uint8_t body[WIRE_APPEND_BYTES_MAX]);
unsigned wire_read_encode(const struct wire_read *request, uint8_t body[WIRE_READ_BYTES]);
unsigned wire_length_encode(const struct wire_length *request, uint8_t body[WIRE_LENGTH_BYTES]);
unsigned wire_remove_encode(const struct wire_remove *request, uint8_t body[WIRE_REMOVE_BYTES]);
unsigned wire_fence_encode(const struct wire_fence *request, uint8_t body[WIRE_FENCE_BYTES]);
unsigned wire_stat_encode(const struct wire_stat *request, uint8_t body[WIRE_STAT_BYTES]);
unsigned wire_list_encode(const struct wire_list *request, uint8_t body[WIRE_LIST_BYTES]);
/* Of the disks above this number. */
unsigned wire_status_encode(uint32_t after, uint8_t body[WIRE_STATUS_BYTES]);

int wire_create_decode(const uint8_t *body, size_t len_bytes, struct wire_create *ret_request);
/* ret_entries has room for APPEND_ENTRIES_MAX. */
int wire_append_decode(const uint8_t *body, size_t len_bytes, size_t payload_bytes,
    struct wire_append *ret_request, struct shard_entry *ret_entries);
int wire_read_decode(const uint8_t *body, size_t len_bytes, struct wire_read *ret_request);
int wire_length_decode(const uint8_t *body, size_t len_bytes, struct wire_length *ret_request);
int wire_remove_decode(const uint8_t *body, size_t len_bytes, struct wire_remove *ret_request);
int wire_fence_decode(const uint8_t *body, size_t len_bytes, struct wire_fence *ret_request);
int wire_stat_decode(const uint8_t *body, size_t len_bytes, struct wire_stat *ret_request);
int wire_list_decode(const uint8_t *body, size_t len_bytes, struct wire_list *ret_request);
int wire_status_decode(const uint8_t *body, size_t len_bytes, uint32_t *ret_after);

/* --- Replies ----------------------------------------------------------------------------------- */

/* What a node says of one of its disks. */
struct wire_disk {
    uint32_t number;
    enum disk_state state;
    struct uuid uuid;
    char class_name[16];
    uint64_t size_bytes, free_bytes;
    uint64_t error_count, damage_count;
    uint64_t latency_ewma_ns;
};

unsigned wire_info_encode(const struct shard_info *info, uint8_t body[WIRE_INFO_BYTES]);
int wire_info_decode(const uint8_t *body, size_t len_bytes, struct shard_info *ret_info);
unsigned wire_entries_encode(const struct shard_entry *entries, unsigned count, uint8_t *body);
/* ret_entries has room for `count`, which is how many must be there. */
int wire_entries_decode(
    const uint8_t *body, size_t len_bytes, unsigned count, struct shard_entry *ret_entries);
/* An append's header CRC, the first damaged block of a read. */
unsigned wire_u32_encode(uint32_t value, uint8_t body[4]);
int wire_u32_decode(const uint8_t *body, size_t len_bytes, uint32_t *ret_value);

/* A page of a list: count <= WIRE_LIST_SHARDS_MAX. */
unsigned wire_list_reply_encode(
    uint32_t cursor, const struct shard_info *list, unsigned count, uint8_t *body);
/* ret_list has room for WIRE_LIST_SHARDS_MAX. The cursor is beyond the one that was asked with. */
int wire_list_reply_decode(const uint8_t *body, size_t len_bytes, uint32_t cursor_before,
    uint32_t *ret_cursor, struct shard_info *ret_list, unsigned *ret_count);
/* Rising numbers; `more`: ask again with the last one's. */
unsigned wire_status_reply_encode(
    bool more, const struct wire_disk *disks, unsigned count, uint8_t *body);
int wire_status_reply_decode(const uint8_t *body, size_t len_bytes, uint32_t after, bool *ret_more,
    struct wire_disk *ret_disks, unsigned *ret_count);
