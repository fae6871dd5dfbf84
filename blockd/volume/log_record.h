/* SPDX-License-Identifier: Apache-2.0
 *
 * Records of the write-ahead log, the inline bytes of a log append's header (docs/FORMAT.md).
 * Record i of an append has the sequence number base_seq + i. The payload blocks of the append are
 * those of its WRITE records, in order; their entries carry address and CRC.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "blockd/disk/shard.h"

enum log_record_type {
    LOG_WRITE = 1, /* `count` payload blocks at `block` */
    LOG_TRIM = 2,  /* `count` blocks at `block` read as zeroes from here on */
    LOG_ROW =
        3, /* large write: the data is row `row` of chunk `chunk_index` (written before this record was) */
    LOG_NOOP = 4, /* takes a place in the order and nothing else (reads without a lease, S17) */
};

struct log_record {
    enum log_record_type type;
    uint64_t block, count;
    uint64_t session, number; /* of the request (S19); 0, 0 = none */
    /* LOG_ROW */
    uint64_t chunk_index;
    uint16_t row, row_len;
    uint32_t linear;          /* of `block`, in the chunk */
    uint8_t header_crc_count; /* k+m */
    uint32_t header_crcs[CODE_SHARDS_MAX];
};

#define LOG_RECORD_BYTES_MAX (64 + 4 * CODE_SHARDS_MAX)

/* Bytes that the record takes, a multiple of 8. */
size_t log_record_size(const struct log_record *record);
/* Writes it at `to`, which has room for log_record_size(); returns the size. */
size_t log_record_encode(const struct log_record *record, void *to);
/* Decodes one record from [from, from + len_bytes); returns its size or -EBADMSG. */
int64_t log_record_decode(const void *from, size_t len_bytes, struct log_record *ret_record);
