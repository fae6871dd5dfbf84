/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/volumes_refused.h"

#include <string.h>

#include "common/env.h"
#include "common/mem.h"

#define REFUSED_MAX 256
#define TOLD_MAX 16
#define FRESH_NS 60000000000ull

/* Oldest first. */
struct volumes_refused {
    struct refused {
        uint64_t id, at_ns;
        char *why;
    } list[REFUSED_MAX];
    unsigned count;
};

struct volumes_refused *volumes_refused_new(void)
{
    return NEW(struct volumes_refused);
}

static void remove_at(struct volumes_refused *refused, unsigned i)
{
    mem_free(refused->list[i].why);
    memmove(refused->list + i, refused->list + i + 1,
        (--refused->count - i) * sizeof(refused->list[0]));
}

void volumes_refused_free(struct volumes_refused *refused)
{
    while (refused->count > 0)
        remove_at(refused, refused->count - 1);
    mem_free(refused);
}

void volumes_refused_forget(struct volumes_refused *refused, uint64_t id)
{
    for (unsigned i = 0; i < refused->count; i++) {
        if (refused->list[i].id == id) {
            remove_at(refused, i);
            return;
        }
    }
}

void volumes_refused_note(struct volumes_refused *refused, uint64_t id, const char *why)
{
    volumes_refused_forget(refused, id);
    if (refused->count == REFUSED_MAX)
        remove_at(refused, 0);
    refused->list[refused->count++] =
        (struct refused){.id = id, .at_ns = env_now_ns(), .why = mem_strdup(why)};
}

static bool fresh(const struct refused *refused)
{
    return env_now_ns() - refused->at_ns < FRESH_NS;
}

const char *volumes_refused_why(const struct volumes_refused *refused, uint64_t id)
{
    for (unsigned i = 0; i < refused->count; i++)
        if (refused->list[i].id == id && fresh(&refused->list[i]))
            return refused->list[i].why;
    return NULL;
}

void volumes_refused_each(
    const struct volumes_refused *refused, void (*fn)(void *ctx, const char *why), void *ctx)
{
    for (unsigned i = refused->count > TOLD_MAX ? refused->count - TOLD_MAX : 0; i < refused->count;
         i++)
        if (fresh(&refused->list[i]))
            fn(ctx, refused->list[i].why);
}
