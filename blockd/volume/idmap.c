/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/volume/idmap.h"

#include "common/check.h"
#include "common/mem.h"

static uint32_t ideal(const struct idmap *map, uint64_t id)
{
    return (uint32_t)((id * 0x9E3779B97F4A7C15ull) >> 32) & (map->capacity - 1);
}

void idmap_fini(struct idmap *map)
{
    mem_free(map->slots);
    *map = (struct idmap){0};
}

void *idmap_get(const struct idmap *map, uint64_t id)
{
    if (map->capacity == 0)
        return NULL;
    for (uint32_t i = ideal(map, id);; i = (i + 1) & (map->capacity - 1)) {
        if (!map->slots[i].value)
            return NULL;
        if (map->slots[i].id == id)
            return map->slots[i].value;
    }
}

static void insert(struct idmap *map, uint64_t id, void *value)
{
    uint32_t i = ideal(map, id);
    while (map->slots[i].value) {
        CHECK(map->slots[i].id != id);
        i = (i + 1) & (map->capacity - 1);
    }
    map->slots[i] = (struct idmap_slot){.id = id, .value = value};
    map->count++;
}

void idmap_put(struct idmap *map, uint64_t id, void *value)
{
    CHECK(value);
    if ((map->count + 1) * 4 > map->capacity * 3) {
        struct idmap old = *map;
        map->capacity = old.capacity ? old.capacity * 2 : 16;
        map->slots = mem_zalloc(map->capacity, sizeof(*map->slots));
        map->count = 0;
        for (uint32_t i = 0; i < old.capacity; i++) {
            if (old.slots[i].value)
                insert(map, old.slots[i].id, old.slots[i].value);
        }
        mem_free(old.slots);
    }
    insert(map, id, value);
}

void *idmap_remove(struct idmap *map, uint64_t id)
{
    if (map->capacity == 0)
        return NULL;
    uint32_t mask = map->capacity - 1, i = ideal(map, id);
    while (map->slots[i].value && map->slots[i].id != id)
        i = (i + 1) & mask;
    void *value = map->slots[i].value;
    if (!value)
        return NULL;
    /* Close the gap: move back whatever could not stand where a search would miss it. */
    uint32_t gap = i;
    for (uint32_t j = (i + 1) & mask; map->slots[j].value; j = (j + 1) & mask) {
        uint32_t home = ideal(map, map->slots[j].id);
        if (((j - home) & mask) >= ((j - gap) & mask)) {
            map->slots[gap] = map->slots[j];
            gap = j;
        }
    }
    map->slots[gap] = (struct idmap_slot){0};
    map->count--;
    return value;
}

void *idmap_next(const struct idmap *map, uint32_t *pos)
{
    while (*pos < map->capacity) {
        void *value = map->slots[(*pos)++].value;
        if (value)
            return value;
    }
    return NULL;
}
