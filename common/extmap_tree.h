/* SPDX-License-Identifier: Apache-2.0
 *
 * The B+tree under extmap.c: extents keyed by start. It knows nothing of overlap, sequences or
 * merging.
 *
 * Invariants
 *  T1 In an inner node, key[i] for i >= 1 is above every start under child i-1 and at or below
 * every start under child i. key[0] means nothing: child 0 is bounded by the parent's key. Keys
 * need not be tight. T2 No node but the root leaf is empty, and an empty tree has no root. T3 A
 * cursor is valid until the next insert or delete; `set` keeps it valid.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum {
    EXTMAP_LEAF_MAX = 31,
    EXTMAP_INNER_MAX = 63,
    EXTMAP_HEIGHT_MAX = 12,
};

struct extmap_node;

struct extmap_extent {
    uint64_t start, len, value, seq;
    bool trimmed;
};

struct extmap_tree {
    struct extmap_node *root;
    unsigned height; /* levels; 0 = empty */
    uint64_t extent_count;
    uint64_t node_count; /* in use and spare */
    struct extmap_node *spare;
    unsigned spare_count;
};

/* Level 0 is the leaf; index[0] may be the leaf's count (= behind its last extent). */
struct extmap_cursor {
    struct extmap_node *node[EXTMAP_HEIGHT_MAX];
    unsigned index[EXTMAP_HEIGHT_MAX];
    unsigned height;
};

/* To the leaf where `key` belongs, behind the last extent there with start <= key: where an
 * extent with that start would be inserted. false when the tree is empty. */
bool extmap_tree_seek(const struct extmap_tree *tree, uint64_t key, struct extmap_cursor *cursor);
/* To the extent at or behind / before the position; false, cursor unchanged, when there is none. */
bool extmap_cursor_settle(struct extmap_cursor *cursor);
bool extmap_cursor_prev(struct extmap_cursor *cursor);
/* Starts below this belong in the cursor's leaf (those before its lower bound apart). */
uint64_t extmap_cursor_upper(const struct extmap_cursor *cursor);

void extmap_cursor_get(const struct extmap_cursor *cursor, struct extmap_extent *ret_extent);
/* The new start must keep order and T1: above the extent before, below the one behind and
 * cursor_upper. */
void extmap_cursor_set(struct extmap_cursor *cursor, const struct extmap_extent *extent);
uint64_t extmap_cursor_start(const struct extmap_cursor *cursor);
/* Extents in the leaf at and behind the position. */
unsigned extmap_cursor_left(const struct extmap_cursor *cursor);

/* By start, which must not be there yet. */
void extmap_tree_insert(struct extmap_tree *tree, const struct extmap_extent *extent);
/* As above, at a cursor from seek(extent->start). */
void extmap_tree_insert_at(
    struct extmap_tree *tree, struct extmap_cursor *cursor, const struct extmap_extent *extent);
/* Deletes `count` <= cursor_left extents of one leaf. */
void extmap_tree_delete(struct extmap_tree *tree, struct extmap_cursor *cursor, unsigned count);
void extmap_tree_clear(struct extmap_tree *tree);
uint64_t extmap_tree_memory_bytes(const struct extmap_tree *tree);
/* Tests: CHECKs T1, T2 and the counts. */
void extmap_tree_verify(const struct extmap_tree *tree);
