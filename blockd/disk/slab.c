/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/disk/slab.h"

#include <errno.h>

#include "common/check.h"
#include "common/mem.h"

/* Where aligned runs of 2^order units may start. */
static const uint64_t ALIGNED_STARTS[SLAB_ORDERS] = {
    0xffffffffffffffff,
    0x5555555555555555,
    0x1111111111111111,
    0x0101010101010101,
    0x0001000100010001,
    0x0000000100000001,
    0x0000000000000001,
};

static uint64_t run_mask(uint32_t first, uint32_t count)
{
    return (count == SLAB_UNITS ? UINT64_MAX : (UINT64_C(1) << count) - 1) << first;
}

/* Starts of the free aligned runs of 2^order units. */
static uint64_t free_runs(uint64_t used, unsigned order)
{
    uint64_t starts = ~used;
    for (unsigned o = 0; o < order; o++)
        starts &= starts >> (1u << o);
    return starts & ALIGNED_STARTS[order];
}

/* The order of the largest free aligned run; -1 when the slab is full. */
static int largest_order(uint64_t used)
{
    for (int order = SLAB_ORDERS - 1; order >= 0; order--) {
        if (free_runs(used, (unsigned)order) != 0)
            return order;
    }
    return -1;
}

static void index_remove(struct slab_map *map, uint32_t slab, uint64_t used)
{
    int order = largest_order(used);
    if (order < 0)
        return;
    map->by_order[order][slab / 64] &= ~(UINT64_C(1) << (slab % 64));
    if (order == SLAB_ORDERS - 1)
        map->free_slabs--;
}

static void index_add(struct slab_map *map, uint32_t slab, uint64_t used)
{
    int order = largest_order(used);
    if (order < 0)
        return;
    map->by_order[order][slab / 64] |= UINT64_C(1) << (slab % 64);
    map->first_hint[order] = MIN(map->first_hint[order], slab / 64);
    if (order == SLAB_ORDERS - 1)
        map->free_slabs++;
}

static void set_used(struct slab_map *map, uint32_t slab, uint64_t used)
{
    index_remove(map, slab, map->used[slab]);
    map->used[slab] = used;
    index_add(map, slab, used);
}

void slab_map_init(struct slab_map *map, uint32_t slab_count)
{
    CHECK(slab_count > 0 && slab_count <= SLAB_COUNT_MAX);
    *map = (struct slab_map){.slab_count = slab_count, .word_count = DIV_ROUND_UP(slab_count, 64)};
    map->used = mem_zalloc(slab_count, sizeof(uint64_t));
    for (unsigned order = 0; order < SLAB_ORDERS; order++)
        map->by_order[order] = mem_zalloc(map->word_count, sizeof(uint64_t));
    for (uint32_t slab = 0; slab < slab_count; slab++)
        index_add(map, slab, 0);
    map->free_units = slab_count * SLAB_UNITS;
}

void slab_map_fini(struct slab_map *map)
{
    mem_free(map->used);
    for (unsigned order = 0; order < SLAB_ORDERS; order++)
        mem_free(map->by_order[order]);
    *map = (struct slab_map){0};
}

uint32_t slab_round_units(uint32_t units)
{
    if (units > SLAB_UNITS)
        return ROUND_UP(units, SLAB_UNITS);
    uint32_t rounded = 1;
    while (rounded < units)
        rounded *= 2;
    return rounded;
}

/* The lowest slab whose largest free run has exactly this order; -1 when there is none. */
static int64_t find_slab(struct slab_map *map, unsigned order)
{
    for (uint32_t w = map->first_hint[order]; w < map->word_count; w++) {
        if (map->by_order[order][w] == 0)
            continue;
        map->first_hint[order] = w;
        return (int64_t)w * 64 + __builtin_ctzll(map->by_order[order][w]);
    }
    map->first_hint[order] = map->word_count;
    return -1;
}

/* A free run of 2^order units inside a slab that has one, from the smallest free run that holds it:
 * large runs stay whole. */
static uint32_t choose_run(uint64_t used, unsigned order)
{
    for (unsigned o = order; o < SLAB_ORDERS; o++) {
        uint64_t starts = free_runs(used, o);
        if (o + 1 < SLAB_ORDERS) {
            uint64_t larger = free_runs(used, o + 1);
            starts &= ~(larger | larger << (1u << o));
        }
        if (starts != 0)
            return (uint32_t)__builtin_ctzll(starts);
    }
    CHECK_MSG(false, "slab index says order %u is free", order);
    return 0;
}

static int alloc_small(struct slab_map *map, uint32_t units, uint32_t *ret_first_unit)
{
    unsigned order = (unsigned)__builtin_ctz(units);
    for (unsigned o = order; o < SLAB_ORDERS; o++) {
        int64_t slab = find_slab(map, o);
        if (slab < 0)
            continue;
        uint32_t first = choose_run(map->used[slab], order);
        set_used(map, (uint32_t)slab, map->used[slab] | run_mask(first, units));
        map->free_units -= units;
        *ret_first_unit = (uint32_t)slab * SLAB_UNITS + first;
        return 0;
    }
    return -ENOSPC;
}

bool slab_fits_partly_used(struct slab_map *map, uint32_t units)
{
    unsigned order = 0;
    while (1u << order < units)
        order++;
    for (; order < SLAB_ORDERS - 1; order++) {
        if (find_slab(map, order) >= 0)
            return true;
    }
    return false;
}

uint32_t slab_count_with(const struct slab_map *map, uint32_t units, uint32_t max)
{
    uint32_t count = 0;
    for (unsigned order = (unsigned)__builtin_ctz(units); order < SLAB_ORDERS; order++) {
        for (uint32_t w = map->first_hint[order]; w < map->word_count && count < max; w++)
            count += (uint32_t)__builtin_popcountll(map->by_order[order][w]);
    }
    return MIN(count, max);
}

/* First fit over the wholly free slabs. */
static int alloc_slabs(struct slab_map *map, uint32_t slabs, uint32_t *ret_first_unit)
{
    if (map->free_slabs < slabs)
        return -ENOSPC;
    const uint64_t *free_map = map->by_order[SLAB_ORDERS - 1];
    uint32_t run = 0;
    for (uint32_t slab = 0; slab < map->slab_count; slab++) {
        if (slab % 64 == 0 && free_map[slab / 64] == 0) {
            run = 0;
            slab += 63;
            continue;
        }
        run = (free_map[slab / 64] >> (slab % 64) & 1) != 0 ? run + 1 : 0;
        if (run < slabs)
            continue;
        uint32_t first = slab + 1 - slabs;
        for (uint32_t i = first; i <= slab; i++)
            set_used(map, i, UINT64_MAX);
        map->free_units -= slabs * SLAB_UNITS;
        *ret_first_unit = first * SLAB_UNITS;
        return 0;
    }
    return -ENOSPC;
}

int slab_alloc(struct slab_map *map, uint32_t units, uint32_t *ret_first_unit)
{
    CHECK(units > 0 && units == slab_round_units(units));
    if (units > map->free_units)
        return -ENOSPC;
    if (units <= SLAB_UNITS)
        return alloc_small(map, units, ret_first_unit);
    return alloc_slabs(map, units / SLAB_UNITS, ret_first_unit);
}

/* The part of [first_unit, first_unit + units) that lies in the slab of `unit`. */
static uint64_t part_mask(uint32_t first_unit, uint32_t units, uint32_t unit, uint32_t *ret_count)
{
    uint32_t in_slab = unit % SLAB_UNITS;
    uint32_t count = MIN(SLAB_UNITS - in_slab, first_unit + units - unit);
    *ret_count = count;
    return run_mask(in_slab, count);
}

int slab_take(struct slab_map *map, uint32_t first_unit, uint32_t units)
{
    uint64_t end = (uint64_t)first_unit + units;
    if (units == 0 || end > (uint64_t)map->slab_count * SLAB_UNITS)
        return -ERANGE;
    uint32_t count;
    for (uint32_t unit = first_unit; unit < end; unit += count) {
        uint64_t mask = part_mask(first_unit, units, unit, &count);
        if ((map->used[unit / SLAB_UNITS] & mask) != 0)
            return -EEXIST;
    }
    for (uint32_t unit = first_unit; unit < end; unit += count) {
        uint64_t mask = part_mask(first_unit, units, unit, &count);
        set_used(map, unit / SLAB_UNITS, map->used[unit / SLAB_UNITS] | mask);
    }
    map->free_units -= units;
    return 0;
}

void slab_free(struct slab_map *map, uint32_t first_unit, uint32_t units)
{
    uint64_t end = (uint64_t)first_unit + units;
    CHECK(end <= (uint64_t)map->slab_count * SLAB_UNITS);
    uint32_t count;
    for (uint32_t unit = first_unit; unit < end; unit += count) {
        uint64_t mask = part_mask(first_unit, units, unit, &count);
        CHECK_MSG(
            (map->used[unit / SLAB_UNITS] & mask) == mask, "units %u+%u freed twice", unit, count);
        set_used(map, unit / SLAB_UNITS, map->used[unit / SLAB_UNITS] & ~mask);
    }
    map->free_units += units;
}
