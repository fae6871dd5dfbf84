/* SPDX-License-Identifier: Apache-2.0
 *
 * Nodes are 1 KiB: a leaf's starts lie together so that the search touches four cache lines at
 * most, and an insert moves half a KiB on average. Nodes that become empty or less than a third
 * full join a sibling when the result leaves room to grow, so trims give memory back.
 */
#include "common/extmap_tree.h"

#include <string.h>

#include "common/check.h"
#include "common/mem.h"

enum {
    SPARE_MAX = 32, /* free nodes kept */
};

#define TRIMMED_BIT ((uint64_t)1 << 63)

struct leaf_rest {
    uint64_t len_kind; /* TRIMMED_BIT and the length */
    uint64_t value;
    uint64_t seq;
};

struct extmap_node {
    uint32_t count;
    uint32_t level;
    struct extmap_node *next_spare;
    union {
        struct {
            uint64_t start[EXTMAP_LEAF_MAX];
            struct leaf_rest rest[EXTMAP_LEAF_MAX];
        } leaf;
        struct {
            uint64_t key[EXTMAP_INNER_MAX];
            struct extmap_node *child[EXTMAP_INNER_MAX];
        } inner;
    };
};
_Static_assert(sizeof(struct extmap_node) <= 1024, "one node, one KiB");

static unsigned node_max(const struct extmap_node *node)
{
    return node->level == 0 ? EXTMAP_LEAF_MAX : EXTMAP_INNER_MAX;
}

static struct extmap_node *node_new(struct extmap_tree *tree, unsigned level)
{
    struct extmap_node *node = tree->spare;
    if (node) {
        tree->spare = node->next_spare;
        tree->spare_count--;
    } else {
        node = mem_alloc(sizeof(*node));
        tree->node_count++;
    }
    node->count = 0;
    node->level = level;
    return node;
}

static void node_free(struct extmap_tree *tree, struct extmap_node *node)
{
    if (tree->spare_count < SPARE_MAX) {
        node->next_spare = tree->spare;
        tree->spare = node;
        tree->spare_count++;
        return;
    }
    mem_free(node);
    tree->node_count--;
}

/* How many of the n ascending keys are <= key. */
static unsigned count_at_most(const uint64_t *keys, unsigned n, uint64_t key)
{
    unsigned low = 0;
    while (n > 0) {
        unsigned half = n / 2;
        bool right = keys[low + half] <= key;
        low = right ? low + half + 1 : low;
        n = right ? n - half - 1 : half;
    }
    return low;
}

/* --- Cursors ------------------------------------------------------------ */

bool extmap_tree_seek(const struct extmap_tree *tree, uint64_t key, struct extmap_cursor *cursor)
{
    cursor->height = tree->height;
    if (tree->height == 0)
        return false;
    struct extmap_node *node = tree->root;
    for (unsigned level = tree->height - 1; level > 0; level--) {
        unsigned i = count_at_most(node->inner.key + 1, node->count - 1, key); /* T1: not key[0] */
        cursor->node[level] = node;
        cursor->index[level] = i;
        node = node->inner.child[i];
    }
    cursor->node[0] = node;
    cursor->index[0] = count_at_most(node->leaf.start, node->count, key);
    return true;
}

/* Goes to the first position of the next leaf, or the last of the one before. */
static bool cursor_leap(struct extmap_cursor *cursor, bool forward)
{
    unsigned level = 1;
    for (; level < cursor->height; level++) {
        unsigned i = cursor->index[level];
        if (forward ? i + 1 < cursor->node[level]->count : i > 0)
            break;
    }
    if (level >= cursor->height)
        return false;
    cursor->index[level] += forward ? 1 : -1;
    while (level > 0) {
        struct extmap_node *node = cursor->node[level]->inner.child[cursor->index[level]];
        level--;
        cursor->node[level] = node;
        cursor->index[level] = forward ? 0 : node->count - 1;
    }
    return true;
}

bool extmap_cursor_settle(struct extmap_cursor *cursor)
{
    return cursor->index[0] < cursor->node[0]->count || cursor_leap(cursor, true);
}

bool extmap_cursor_prev(struct extmap_cursor *cursor)
{
    if (cursor->index[0] == 0)
        return cursor_leap(cursor, false);
    cursor->index[0]--;
    return true;
}

uint64_t extmap_cursor_upper(const struct extmap_cursor *cursor)
{
    for (unsigned level = 1; level < cursor->height; level++) {
        unsigned i = cursor->index[level] + 1;
        if (i < cursor->node[level]->count)
            return cursor->node[level]->inner.key[i];
    }
    return UINT64_MAX;
}

void extmap_cursor_get(const struct extmap_cursor *cursor, struct extmap_extent *ret_extent)
{
    const struct extmap_node *leaf = cursor->node[0];
    unsigned i = cursor->index[0];
    ret_extent->start = leaf->leaf.start[i];
    ret_extent->len = leaf->leaf.rest[i].len_kind & ~TRIMMED_BIT;
    ret_extent->trimmed = leaf->leaf.rest[i].len_kind & TRIMMED_BIT;
    ret_extent->value = leaf->leaf.rest[i].value;
    ret_extent->seq = leaf->leaf.rest[i].seq;
}

void extmap_cursor_set(struct extmap_cursor *cursor, const struct extmap_extent *extent)
{
    struct extmap_node *leaf = cursor->node[0];
    unsigned i = cursor->index[0];
    leaf->leaf.start[i] = extent->start;
    leaf->leaf.rest[i].len_kind = extent->len | (extent->trimmed ? TRIMMED_BIT : 0);
    leaf->leaf.rest[i].value = extent->value;
    leaf->leaf.rest[i].seq = extent->seq;
}

uint64_t extmap_cursor_start(const struct extmap_cursor *cursor)
{
    return cursor->node[0]->leaf.start[cursor->index[0]];
}

unsigned extmap_cursor_left(const struct extmap_cursor *cursor)
{
    return cursor->node[0]->count - cursor->index[0];
}

/* --- Insert ------------------------------------------------------------- */

/* Moves what is at and behind `from` of `node` to the end of `to`, a node of the same level. */
static void node_move(struct extmap_node *to, struct extmap_node *node, unsigned from)
{
    unsigned n = node->count - from, at = to->count;
    if (node->level == 0) {
        memcpy(&to->leaf.start[at], &node->leaf.start[from], n * sizeof(node->leaf.start[0]));
        memcpy(&to->leaf.rest[at], &node->leaf.rest[from], n * sizeof(node->leaf.rest[0]));
    } else {
        memcpy(&to->inner.key[at], &node->inner.key[from], n * sizeof(node->inner.key[0]));
        memcpy(&to->inner.child[at], &node->inner.child[from], n * sizeof(node->inner.child[0]));
    }
    to->count += n;
    node->count = from;
}

/* Slides what is at and behind `at` by `by` places (negative: over what is there). */
static void node_slide(struct extmap_node *node, unsigned at, int by)
{
    unsigned n = node->count - at;
    if (node->level == 0) {
        memmove(&node->leaf.start[at + by], &node->leaf.start[at], n * sizeof(node->leaf.start[0]));
        memmove(&node->leaf.rest[at + by], &node->leaf.rest[at], n * sizeof(node->leaf.rest[0]));
    } else {
        memmove(&node->inner.key[at + by], &node->inner.key[at], n * sizeof(node->inner.key[0]));
        memmove(
            &node->inner.child[at + by], &node->inner.child[at], n * sizeof(node->inner.child[0]));
    }
    node->count += by;
}

static void grow_root(struct extmap_tree *tree, struct extmap_cursor *cursor)
{
    CHECK(tree->height < EXTMAP_HEIGHT_MAX);
    struct extmap_node *root = node_new(tree, tree->height);
    root->count = 1;
    root->inner.key[0] = 0;
    root->inner.child[0] = tree->root;
    tree->root = root;
    cursor->node[tree->height] = root;
    cursor->index[tree->height] = 0;
    cursor->height = ++tree->height;
}

/* Makes the cursor's node of `level` have room for one more, splitting upwards as needed. `key` is
 * the start about to be inserted: when all goes to the tree's right edge the left node stays full.
 */
static void make_room(
    struct extmap_tree *tree, struct extmap_cursor *cursor, unsigned level, uint64_t key)
{
    struct extmap_node *node = cursor->node[level];
    if (node->count < node_max(node))
        return;
    if (level + 1 == tree->height)
        grow_root(tree, cursor);
    make_room(tree, cursor, level + 1, key);

    bool append = extmap_cursor_upper(cursor) == UINT64_MAX && extmap_cursor_left(cursor) == 0;
    unsigned keep = !append ? node->count / 2 : level == 0 ? node->count : node->count - 1;
    struct extmap_node *right = node_new(tree, level);
    node_move(right, node, keep);
    uint64_t separator = level > 0 ? right->inner.key[0] : append ? key : right->leaf.start[0];

    struct extmap_node *parent = cursor->node[level + 1];
    unsigned at = cursor->index[level + 1] + 1;
    node_slide(parent, at, 1);
    parent->inner.key[at] = separator;
    parent->inner.child[at] = right;

    /* A leaf position equal to `keep` is the end of the left one (its start is below the
     * separator), a child index equal to `keep` is in the right one. */
    unsigned index = cursor->index[level];
    if (append || index > keep || (level > 0 && index == keep)) {
        cursor->node[level] = right;
        cursor->index[level] = index - keep;
        cursor->index[level + 1] = at;
    }
}

void extmap_tree_insert_at(
    struct extmap_tree *tree, struct extmap_cursor *cursor, const struct extmap_extent *extent)
{
    if (tree->height == 0) {
        tree->root = node_new(tree, 0);
        tree->height = 1;
        extmap_tree_seek(tree, extent->start, cursor);
    }
    make_room(tree, cursor, 0, extent->start);
    node_slide(cursor->node[0], cursor->index[0], 1);
    extmap_cursor_set(cursor, extent);
    tree->extent_count++;
}

void extmap_tree_insert(struct extmap_tree *tree, const struct extmap_extent *extent)
{
    struct extmap_cursor cursor;
    extmap_tree_seek(tree, extent->start, &cursor);
    extmap_tree_insert_at(tree, &cursor, extent);
}

/* --- Delete ------------------------------------------------------------- */

static void shrink_root(struct extmap_tree *tree)
{
    struct extmap_node *root = tree->root;
    while (root->level > 0 && root->count == 1) {
        tree->root = root->inner.child[0];
        tree->height--;
        node_free(tree, root);
        root = tree->root;
    }
    if (root->count == 0) {
        node_free(tree, root);
        tree->root = NULL;
        tree->height = 0;
    }
}

/* Joins children i and i+1 of `parent` if the result leaves a quarter free. */
static bool join(struct extmap_tree *tree, struct extmap_node *parent, unsigned i)
{
    struct extmap_node *left = parent->inner.child[i], *right = parent->inner.child[i + 1];
    if (left->count + right->count > node_max(left) * 3 / 4)
        return false;
    if (right->level > 0)
        right->inner.key[0] = parent->inner.key[i + 1]; /* T1: it becomes a key that counts */
    node_move(left, right, 0);
    node_free(tree, right);
    node_slide(parent, i + 2, -1);
    return true;
}

static void shrink(struct extmap_tree *tree, struct extmap_cursor *cursor, unsigned level)
{
    if (level + 1 == tree->height) {
        shrink_root(tree);
        return;
    }
    struct extmap_node *node = cursor->node[level], *parent = cursor->node[level + 1];
    unsigned i = cursor->index[level + 1];
    if (node->count == 0) {
        node_free(tree, node);
        node_slide(parent, i + 1, -1);
    } else if (node->count >= node_max(node) / 3) {
        return;
    } else if (!(i > 0 && join(tree, parent, i - 1)) &&
               !(i + 1 < parent->count && join(tree, parent, i))) {
        return;
    }
    shrink(tree, cursor, level + 1);
}

void extmap_tree_delete(struct extmap_tree *tree, struct extmap_cursor *cursor, unsigned count)
{
    CHECK(count <= extmap_cursor_left(cursor));
    node_slide(cursor->node[0], cursor->index[0] + count, -(int)count);
    tree->extent_count -= count;
    shrink(tree, cursor, 0);
}

static void free_below(struct extmap_tree *tree, struct extmap_node *node)
{
    for (unsigned i = 0; node->level > 0 && i < node->count; i++)
        free_below(tree, node->inner.child[i]);
    mem_free(node);
    tree->node_count--;
}

void extmap_tree_clear(struct extmap_tree *tree)
{
    if (tree->root)
        free_below(tree, tree->root);
    while (tree->spare) {
        struct extmap_node *node = tree->spare;
        tree->spare = node->next_spare;
        mem_free(node);
        tree->node_count--;
    }
    CHECK(tree->node_count == 0);
    *tree = (struct extmap_tree){0};
}

uint64_t extmap_tree_memory_bytes(const struct extmap_tree *tree)
{
    return tree->node_count * sizeof(struct extmap_node);
}

/* --- Verification ------------------------------------------------------- */

static uint64_t verify_below(
    const struct extmap_node *node, unsigned level, uint64_t low, uint64_t high)
{
    CHECK(node->level == level && node->count > 0 && node->count <= node_max(node));
    uint64_t extents = 0;
    for (unsigned i = 0; i < node->count; i++) {
        if (level == 0) {
            uint64_t start = node->leaf.start[i];
            CHECK(start >= low && start < high);
            low = start + 1;
            extents++;
            continue;
        }
        uint64_t from = i == 0 ? low : node->inner.key[i];
        uint64_t to = i + 1 < node->count ? node->inner.key[i + 1] : high;
        CHECK(from >= low && from < to && to <= high);
        extents += verify_below(node->inner.child[i], level - 1, from, to);
    }
    return extents;
}

void extmap_tree_verify(const struct extmap_tree *tree)
{
    CHECK((tree->root == NULL) == (tree->height == 0));
    uint64_t extents = tree->root ? verify_below(tree->root, tree->height - 1, 0, UINT64_MAX) : 0;
    CHECK(extents == tree->extent_count);
}
