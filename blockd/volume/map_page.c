/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/volume/map_page.h"

#include <string.h>

#include "common/check.h"

uint64_t map_page_address(unsigned level, uint64_t index)
{
    return (uint64_t)level << 56 | index;
}

unsigned map_levels_for(uint64_t blocks)
{
    unsigned levels = 1;
    while (levels < MAP_LEVELS_MAX && map_page_blocks(levels - 1) < blocks)
        levels++;
    CHECK_MSG(map_page_blocks(levels - 1) >= blocks, "no map is that large");
    return levels;
}

static const char *check_entry(uint64_t entry, unsigned level, uint32_t layer_count)
{
    switch (map_entry_type(entry)) {
    case MAP_HOLE:
        return entry == 0 ? NULL : "a hole with contents";
    case MAP_TRIMMED:
        return entry == map_entry(MAP_TRIMMED, 0, 0, 0) ? NULL : "a trimmed entry with contents";
    case MAP_PAGE:
        if (level == 0)
            return "a leaf points to a page";
        break;
    case MAP_MAPPED:
        /* Above level 1 an entry stands for more blocks than a chunk has. */
        if (level > 1)
            return "a mapped entry too far up";
        if (map_entry_linear(entry) + map_entry_blocks(level) > MAP_LINEAR_END)
            return "a mapped run beyond its chunk";
        break;
    }
    return layer_count > 0 && map_entry_layer(entry) >= layer_count ? "an unknown layer" : NULL;
}

const char *map_page_check(
    const uint64_t *page, unsigned level, uint32_t layer_count, unsigned *ret_i)
{
    bool empty = true;
    for (unsigned i = 0; i < MAP_FANOUT; i++) {
        uint64_t entry = map_page_get(page, i);
        if (entry == 0)
            continue;
        empty = false;
        const char *problem = check_entry(entry, level, layer_count);
        if (problem) {
            *ret_i = i;
            return problem;
        }
    }
    *ret_i = 0;
    return empty ? "it is empty, which no page is ever written" : NULL;
}

bool map_page_is_hole(const uint64_t *page)
{
    uint64_t any = 0;
    for (unsigned i = 0; i < MAP_FANOUT; i++)
        any |= page[i];
    return any == 0;
}

bool map_page_is_run(const uint64_t *page)
{
    uint64_t first = map_page_get(page, 0);
    return map_entry_type(first) == MAP_MAPPED &&
           map_entry_linear(first) + MAP_FANOUT <= MAP_LINEAR_END &&
           map_page_run(page, 0, 0, MAP_FANOUT) == MAP_FANOUT;
}

unsigned map_page_run(const uint64_t *page, unsigned level, unsigned i, unsigned max)
{
    uint64_t expected = map_page_get(page, i);
    uint64_t step = 0;
    unsigned n = 1;
    if (map_entry_type(expected) == MAP_MAPPED) { /* a run ends with its chunk at the latest */
        step = map_entry_blocks(level);
        max = MIN(max, (MAP_LINEAR_END - map_entry_linear(expected)) / step);
    }
    while (n < max && i + n < MAP_FANOUT && map_page_get(page, i + n) == expected + step * n)
        n++;
    return n;
}

void map_page_expand(uint64_t *page, uint64_t entry)
{
    uint64_t step = map_entry_type(entry) == MAP_MAPPED;
    if (entry == 0) {
        memset(page, 0, MAP_PAGE_BYTES);
        return;
    }
    for (unsigned i = 0; i < MAP_FANOUT; i++)
        map_page_set(page, i, entry + step * i);
}
