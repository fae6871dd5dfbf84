/* SPDX-License-Identifier: Apache-2.0
 *
 * Space of one disk's slabs: which 64 KiB units are in use. Pure: no I/O, no clock. Rebuilt from
 * the shard table at each open, nothing of it is on disk.
 *
 * An extent of up to 64 units (one slab) is a naturally aligned power of two inside one slab; a
 * larger one is whole adjacent slabs. Small extents go where a slab is partly used already, so that
 * whole slabs stay free for large ones. The unused end of an extent may be given back at any unit.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define SLAB_BYTES (4u << 20)
#define SLAB_UNIT_BYTES (64u << 10)
#define SLAB_UNIT_BLOCKS (SLAB_UNIT_BYTES / 4096)
#define SLAB_UNITS (SLAB_BYTES / SLAB_UNIT_BYTES) /* 64: one mask word a slab */
#define SLAB_ORDERS 7                             /* runs of 1, 2, 4 .. 64 units */
#define SLAB_COUNT_MAX (1u << 25)                 /* 128 TiB: unit numbers fit 32 bits */

struct slab_map {
    uint64_t *used;                  /* a mask per slab; bit i = unit i is taken */
    uint64_t *by_order[SLAB_ORDERS]; /* bit per slab: its largest free aligned run has this order */
    uint32_t first_hint[SLAB_ORDERS]; /* no set bit in by_order[o] below this word */
    uint32_t slab_count;
    uint32_t word_count;
    uint32_t free_units;
    uint32_t free_slabs; /* wholly free ones */
};

void slab_map_init(struct slab_map *map, uint32_t slab_count);
void slab_map_fini(struct slab_map *map);

/* The size slab_alloc really takes for `units` wanted: the next power of two, or whole slabs. */
uint32_t slab_round_units(uint32_t units);
/* `units` as from slab_round_units. -ENOSPC when no such run is free. */
int slab_alloc(struct slab_map *map, uint32_t units, uint32_t *ret_first_unit);
/* Whether slab_alloc would find it in a slab that is partly used already. */
bool slab_fits_partly_used(struct slab_map *map, uint32_t units);
/* How many slabs have a free run of `units`, a power of two; counts no further than `max`. */
uint32_t slab_count_with(const struct slab_map *map, uint32_t units, uint32_t max);
/* Takes exactly these units (rebuilding). -EEXIST: one is taken already; -ERANGE: not on this disk.
 * Nothing is taken then. */
int slab_take(struct slab_map *map, uint32_t first_unit, uint32_t units);
/* All of them must be taken (CHECKed). */
void slab_free(struct slab_map *map, uint32_t first_unit, uint32_t units);
