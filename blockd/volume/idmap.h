/* SPDX-License-Identifier: Apache-2.0
 *
 * Hash map from a 64-bit id to a pointer. Iteration order is by table position, which depends only
 * on the ids present and the order they came in (simulations repeat).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct idmap {
    struct idmap_slot {
        uint64_t id;
        void *value; /* NULL = free */
    } * slots;
    uint32_t capacity, count;
};

void idmap_fini(struct idmap *map); /* frees the table, not the values; the map is empty then */
void *idmap_get(const struct idmap *map, uint64_t id);
/* `value` is not NULL and `id` not present (CHECKed). */
void idmap_put(struct idmap *map, uint64_t id, void *value);
/* Returns what was there, NULL if nothing. */
void *idmap_remove(struct idmap *map, uint64_t id);
/* Next value at or after position *pos, which is advanced; NULL at the end. Start with 0; do not
 * put or
 * remove in between. */
void *idmap_next(const struct idmap *map, uint32_t *pos);
