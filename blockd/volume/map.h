/* SPDX-License-Identifier: Apache-2.0
 *
 * The map of a volume: block address -> where the block is, a copy-on-write radix tree of 4 KiB
 * pages of 512 entries, like a page table (architecture section 6). Level 0 pages (leaves) cover 2
 * MiB, level 1: 1 GiB, level 2: 512 GiB, level 3: 256 TiB; the tree is as high as the volume's size
 * needs, and grows at the top. Pages live in metadata chunks; every page is evictable under a cap.
 *
 * An entry (64 bits, little-endian on disk):
 *   63..62 type: 0 hole, 1 mapped, 2 page pointer (level > 0 only), 3 trimmed
 *   61..50 layer: index into the volume's table of ancestors (0 = itself)
 *   49..16 chunk: the layer's own dense chunk index (page pointers: metadata chunk index)
 *   15..0  linear block in the chunk
 * A mapped entry in a level L > 0 page stands for 512^L blocks contiguous in the chunk's linear
 * order (as far as a chunk can hold); a trimmed or hole entry for as many blocks of zeroes.
 *
 * Invariants
 *  M1 Pages are never changed in place: a merge writes new pages and answers a new root; the old
 *     tree stays readable until the caller drops it.
 *  M2 Every page read is verified: by the storing disk, by its address (page_address) and by its own
 *     content rules (types allowed at that level, layers below layer_count).
 *  M3 map_merge reports each block that it replaces exactly once (replaced), and each page that the
 *     new tree no longer uses exactly once (page_freed).
 *  M4 Cached pages never exceed the cap by more than what a running operation pins.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/extmap.h"
#include "common/fiber.h"

#define MAP_FANOUT 512
#define MAP_LEVELS_MAX 5

enum map_type { MAP_HOLE = 0, MAP_MAPPED = 1, MAP_PAGE = 2, MAP_TRIMMED = 3 };

static inline uint64_t map_entry(
    enum map_type type, uint32_t layer, uint64_t chunk, uint32_t linear)
{
    return (uint64_t)type << 62 | (uint64_t)layer << 50 | chunk << 16 | linear;
}
static inline enum map_type map_entry_type(uint64_t e)
{
    return (enum map_type)(e >> 62);
}
static inline uint32_t map_entry_layer(uint64_t e)
{
    return e >> 50 & 0xfff;
}
static inline uint64_t map_entry_chunk(uint64_t e)
{
    return e >> 16 & ((1ull << 34) - 1);
}
static inline uint32_t map_entry_linear(uint64_t e)
{
    return e & 0xffff;
}

/* Identity of a page, as the address of its block in a metadata chunk: level << 56 | first block
 * address / 512^(level+1). */
uint64_t map_page_address(unsigned level, uint64_t index);

/* How pages are stored; the volume implements it on metadata chunks, unit tests in memory. */
struct map_store {
    /* Reads the page that entry `pointer` (type MAP_PAGE) names into buf (4 KiB aligned). */
    MAY_SUSPEND int (*page_read)(void *ctx, uint64_t pointer, uint64_t page_address, void *buf);
    /* Gives places for `count` pages to be written, in order: fills ret_pointers. Then, after the
     * caller has filled the pages, pages_commit writes them durably. One reservation at a time per
     * map. */
    MAY_SUSPEND int (*pages_reserve)(void *ctx, unsigned count, uint64_t *ret_pointers);
    MAY_SUSPEND int (*pages_commit)(
        void *ctx, unsigned count, const uint64_t *page_addresses, void *const *pages);
    void *ctx;
    uint32_t layer_count; /* M2: layers that entries may name; 0 = any */
};

/* A cache of pages shared by all maps of a node (one per env). */
struct map_cache;
struct map_cache *map_cache_new(uint64_t cap_bytes);
void map_cache_free(struct map_cache *cache);
void map_cache_set_cap(struct map_cache *cache, uint64_t cap_bytes);
uint64_t map_cache_used_bytes(const struct map_cache *cache);

struct map;
/* root: MAP_HOLE entry (0) for an empty map. levels: height of the tree (>= 1; root page is level
 * levels-1). */
struct map *map_new(
    struct map_cache *cache, const struct map_store *store, uint64_t root, unsigned levels);
void map_free(struct map *map);
uint64_t map_root(const struct map *map);
unsigned map_levels(const struct map *map);
/* Height that a volume of that many blocks needs. */
unsigned map_levels_for(uint64_t blocks);

struct map_run {
    enum map_type type; /* HOLE, MAPPED or TRIMMED */
    uint64_t entry;     /* MAPPED: of the first block */
    uint64_t
        len; /* blocks, at most what was asked; the run is maximal within one leaf page at least */
};
/* The run that starts at `address`. Concurrent with a merge it sees the old tree or the new one,
 * whole. */
MAY_SUSPEND int map_lookup(
    struct map *map, uint64_t address, uint64_t len_max, struct map_run *ret_run);

struct map_merge_callbacks {
    /* `len` blocks whose entry was `old_entry` (type MAPPED, contiguous run) are replaced; and as
     * many MAPPED ones put (live counts). */
    void (*replaced)(void *ctx, uint64_t old_entry, uint64_t len);
    void (*mapped)(void *ctx, uint64_t new_entry, uint64_t len);
    /* The page at `pointer` is not part of the new tree. */
    void (*page_freed)(void *ctx, uint64_t pointer);
    /* The merge failed: everything told so far is void; page_freed calls after this name the new
     * pages that were written (or given a place) in vain. May be NULL, like the others. */
    void (*aborted)(void *ctx);
    void *ctx;
};
/* Applies all extents of `updates` (extmap values for MAPPED are map entries; TRIMMED becomes a
 * hole) and writes the new pages. Memory is bounded: works through the address space in order, leaf
 * by leaf, keeping only the path of interior pages and a window of finished pages that it writes in
 * groups. A trimmed or contiguous range that covers a whole subtree replaces it by one entry
 * without reading its leaves' content, except as M3 needs (a detached subtree's mapped blocks are
 * still reported: read them here, in the background nature of merge). ret_root/ret_levels: the new
 * tree; the map itself switches to it only by map_switch (after the caller has made it durable in
 * the manifest). On error the old tree stays; new pages written are reported by page_freed. Put
 * entries equal to the old ones change nothing and report nothing. */
MAY_SUSPEND int map_merge(struct map *map, const struct extmap *updates, unsigned levels_min,
    const struct map_merge_callbacks *callbacks, uint64_t *ret_root, unsigned *ret_levels);
void map_switch(struct map *map, uint64_t root, unsigned levels);
/* Visits every page of the tree (pointer, level, page address) and every mapped run: for checking,
 * accounting and salvage. Either may be NULL. */
MAY_SUSPEND int map_walk(struct map *map,
    int (*page)(void *ctx, uint64_t pointer, uint64_t page_address),
    int (*run)(void *ctx, uint64_t address, uint64_t entry, uint64_t len), void *ctx);
/* Marks the pages at these addresses as to be rewritten by the next merge if they are still at
 * `pointer` (cleaning of metadata chunks). */
void map_rewrite_page(struct map *map, uint64_t page_address, uint64_t pointer);
