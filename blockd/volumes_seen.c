/* SPDX-License-Identifier: Apache-2.0
 *
 * An array in the order of noting. Searched from end to end: what is noted one by one is what this
 * node's clients attach to, and the searches are for an outage.
 */
#include "blockd/volumes_seen.h"

#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"

#define SEEN_MAX 4096

struct volumes_seen {
    struct volumes_name *names;
    unsigned count;
};

struct volumes_seen *volumes_seen_new(void)
{
    return NEW(struct volumes_seen);
}

void volumes_seen_free(struct volumes_seen *seen)
{
    mem_free(seen->names);
    mem_free(seen);
}

static void remove_at(struct volumes_seen *seen, unsigned i)
{
    memmove(&seen->names[i], &seen->names[i + 1], (--seen->count - i) * sizeof(seen->names[0]));
}

void volumes_seen_forget(struct volumes_seen *seen, uint64_t id)
{
    for (unsigned i = 0; i < seen->count; i++) {
        if (seen->names[i].id == id) {
            remove_at(seen, i);
            return;
        }
    }
}

void volumes_seen_note(struct volumes_seen *seen, const struct volumes_name *name)
{
    volumes_seen_forget(seen, name->id);
    if (name->state == VOLUME_DELETING)
        return;
    for (unsigned i = 0; i < seen->count; i++) {
        if (strcmp(seen->names[i].name, name->name) == 0) { /* its predecessor of that name */
            remove_at(seen, i);
            break;
        }
    }
    if (seen->count == SEEN_MAX)
        remove_at(seen, 0);
    if (!seen->names)
        seen->names = mem_zalloc(SEEN_MAX, sizeof(*seen->names));
    seen->names[seen->count++] = *name;
}

void volumes_seen_note_all(
    struct volumes_seen *seen, const struct volumes_name *names, unsigned count)
{
    if (count > 0 && !seen->names)
        seen->names = mem_zalloc(SEEN_MAX, sizeof(*seen->names));
    seen->count = MIN(count, SEEN_MAX);
    if (seen->count > 0)
        memcpy(seen->names, names, seen->count * sizeof(*names));
}

const struct volumes_name *volumes_seen_find(const struct volumes_seen *seen, const char *name)
{
    for (unsigned i = seen->count; i-- > 0;)
        if (strcmp(seen->names[i].name, name) == 0)
            return &seen->names[i];
    return NULL;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct volumes_name *)a)->name, ((const struct volumes_name *)b)->name);
}

void volumes_seen_list(
    const struct volumes_seen *seen, struct volumes_name **ret_names, unsigned *ret_count)
{
    struct volumes_name *names = mem_zalloc(seen->count + 1u, sizeof(*names));
    if (seen->count > 0)
        memcpy(names, seen->names, seen->count * sizeof(*names));
    qsort(names, seen->count, sizeof(*names), by_name);
    *ret_names = names;
    *ret_count = seen->count;
}
