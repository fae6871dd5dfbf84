/* SPDX-License-Identifier: Apache-2.0
 *
 * Ordered extent map in memory: block address -> where the block is, for a volume's delta table. On
 * the hot path of every read and of every destaged row, so: runs of blocks are one entry, entries
 * live in a B+tree of 1 KiB nodes (extmap_tree.h), and nothing here suspends.
 *
 * Invariants
 *  X1 Extents never overlap, are never empty, and are ordered by start.
 *  X2 An insert never lowers a sequence (S21): of the blocks it covers it changes only those that
 *     are unmapped or whose order is lower than or equal to its own. The order of a sequence is
 *     the larger of itself and the map's floor (extmap_set_floor).
 *  X3 Two touching extents that could be one are made one when either is inserted: the kinds are
 *     equal, the values continue (MAPPED) or are equal (TRIMMED), and the sequences are equal or
 *     both at or below the floor. Then the larger sequence is kept. So a sequence above the floor
 *     is always exact, one at or below it only says "at or below the floor".
 *
 * The floor is what lets sequential writes merge although each has a sequence of its own. The
 * caller raises it to F once every insert still to come either has a sequence above F or comes in
 * write order.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/extmap_tree.h"

/* Addresses are below this; so are extents' ends at most. */
#define EXTMAP_ADDRESS_MAX ((uint64_t)1 << 52)

enum extmap_kind {
    EXTMAP_GAP,     /* nothing known: only in answers */
    EXTMAP_MAPPED,  /* `value` belongs to the first block and rises by one per block */
    EXTMAP_TRIMMED, /* all blocks are zero since `seq`; `value` is the same for all of them */
};

struct extmap_run {
    uint64_t start, len; /* blocks */
    enum extmap_kind kind;
    uint64_t value; /* of block `start`; 0 in a gap */
    uint64_t seq;   /* 0 in a gap */
};

struct extmap {
    struct extmap_tree tree;
    uint64_t floor;
    uint64_t changes; /* catches iteration across a change */
};

/* Allocates nothing until the first insert. fini frees everything; the map can be used again. */
void extmap_init(struct extmap *map);
void extmap_fini(struct extmap *map);

/* Maps the `len` >= 1 blocks at `start` by X2. `kind` is MAPPED or TRIMMED. */
void extmap_insert(struct extmap *map, uint64_t start, uint64_t len, enum extmap_kind kind,
    uint64_t value, uint64_t seq);

/* The run that covers `start`, cut to begin there and to `len_max` >= 1 blocks; or a gap up to the
 * next extent. */
void extmap_lookup(
    const struct extmap *map, uint64_t start, uint64_t len_max, struct extmap_run *ret_run);

/* Unmaps those of the `len` blocks at `start` whose order (X2) is that of `seq_max` at most;
 * UINT64_MAX: all. */
void extmap_remove(struct extmap *map, uint64_t start, uint64_t len, uint64_t seq_max);
void extmap_remove_all(struct extmap *map);

/* See X3. Never goes down (CHECKed). */
void extmap_set_floor(struct extmap *map, uint64_t seq);

/* Extents (not blocks), and bytes of memory held. */
uint64_t extmap_count(const struct extmap *map);
uint64_t extmap_memory_bytes(const struct extmap *map);

/* Extents in order, beginning with the one that covers `from` (given whole) or else the next. The
 * map must not change between init and the last next (CHECKed); to go on after a change, init
 * again. */
struct extmap_iter {
    const struct extmap *map;
    struct extmap_cursor cursor;
    uint64_t changes;
};
void extmap_iter_init(struct extmap_iter *iter, const struct extmap *map, uint64_t from);
bool extmap_iter_next(struct extmap_iter *iter, struct extmap_run *ret_run);
