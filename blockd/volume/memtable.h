/* SPDX-License-Identifier: Apache-2.0
 *
 * Memtable generations: what is in the log and not yet in a committed row. A generation takes data
 * blocks (each with its sequence number) and ranges (trimmed, or mapped to a large-write row). The
 * newest generation is active; frozen ones wait for destage, oldest first. Pure data structure:
 * nothing here suspends or does I/O.
 *
 * Invariants
 *  T1 Sequence numbers of one generation form an interval; generations follow each other in order,
 *     and
 *     no record is in two of them: what commits a generation lets go of the log up to its last_seq.
 *  T2 For each block the entry with the highest sequence number wins, whether block or range.
 *  T3 A block's buffer is freed only when its write is acknowledged (the log append, or a roll, may
 *     still need it) and no newer generation step needs it: a replaced buffer is parked until the
 *     acknowledged sequence reaches the replacing one.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/bufpool.h"
#include "common/extmap.h"
#include "common/list.h"

struct memtable_slot {
    uint64_t block; /* MEMTABLE_EMPTY = free slot */
    uint64_t seq;
    void *data; /* 4 KiB, from the pool */
    uint32_t crc;
};
#define MEMTABLE_EMPTY UINT64_MAX

struct memtable_gen {
    struct list link;
    struct memtable_slot *slots; /* open addressing, linear probing */
    unsigned slot_mask;
    unsigned block_count;         /* data blocks held */
    unsigned block_count_max;     /* freeze before this would be passed */
    struct extmap ranges;         /* TRIMMED, and MAPPED to map entries of large-write rows */
    uint64_t first_seq, last_seq; /* of the records taken; last_seq 0 = none */
    uint64_t created_ns;
    bool frozen;
    /* Rows of large writes recorded in this generation, in order: destage commits them. */
    struct memtable_row {
        uint64_t chunk_index; /* logical */
        uint16_t row;
        uint16_t len;
        uint32_t count; /* blocks of the volume, from `block` on */
        uint64_t block;
        uint64_t seq;
    } * rows;
    unsigned row_count, row_capacity;
};

struct memtable {
    struct list gens; /* oldest first; the last one is active */
    unsigned gen_count;
    unsigned block_count_max; /* per generation */
    struct bufpool *pool;
    struct list parked;   /* T3 */
    uint64_t block_total; /* data blocks in all generations */
    uint64_t parked_total;
};

enum memtable_kind { MEMTABLE_MISS, MEMTABLE_DATA, MEMTABLE_TRIMMED, MEMTABLE_MAPPED };

struct memtable_hit {
    enum memtable_kind kind;
    uint64_t seq;
    const void *data; /* DATA: one block, valid until the caller suspends */
    uint64_t entry;   /* MAPPED: map entry of `block` */
    uint64_t len;     /* blocks for which the answer holds: DATA 1; MISS: at least 1 */
};

void memtable_init(struct memtable *table, struct bufpool *pool, unsigned block_count_max);
void memtable_fini(struct memtable *table);

/* The active generation, made if there is none that can take `blocks` more data blocks (the former
 * one is frozen then; *ret_froze says so). A record larger than block_count_max (replayed, written
 * under
 * larger limits) gets a generation of its size. now_ns dates a new one. */
struct memtable_gen *memtable_active(
    struct memtable *table, unsigned blocks, uint64_t now_ns, bool *ret_froze);
/* Freezes the active generation if it holds anything; false when there was nothing. */
bool memtable_freeze(struct memtable *table);

/* Puts a block; takes over `data`. The generation must have room (memtable_active). */
void memtable_put(struct memtable *table, struct memtable_gen *gen, uint64_t block, void *data,
    uint32_t crc, uint64_t seq);
void memtable_put_trim(struct memtable_gen *gen, uint64_t block, uint64_t len, uint64_t seq);
void memtable_put_mapped(
    struct memtable_gen *gen, uint64_t block, uint64_t len, uint64_t entry, uint64_t seq);
/* A large-write row that destage is to commit with the generation. */
void memtable_put_row(struct memtable_gen *gen, const struct memtable_row *row);

/* The newest answer for `block`, over all generations; runs are cut to len_max. */
void memtable_lookup(
    const struct memtable *table, uint64_t block, uint64_t len_max, struct memtable_hit *ret_hit);

/* Frees parked buffers whose replacement is acknowledged; how many. */
unsigned memtable_acked(struct memtable *table, uint64_t acked_seq);

/* Oldest generation if it is frozen, else NULL. */
struct memtable_gen *memtable_oldest_frozen(struct memtable *table);
/* Live data slots of a frozen generation (not superseded by its own ranges), sorted by block;
 * at most gen->block_count into ret_slots. Returns how many. */
unsigned memtable_sorted(const struct memtable_gen *gen, const struct memtable_slot **ret_slots);
/* Takes the generation out and frees it and its buffers: its content is in the delta table now. */
void memtable_drop(struct memtable *table, struct memtable_gen *gen);

bool memtable_empty(const struct memtable *table);
uint64_t memtable_bytes(const struct memtable *table);
