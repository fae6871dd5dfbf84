/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/volumes_sightings.h"

#include "common/env.h"
#include "common/mem.h"

/* Who wants a volume asks again after a second at most, a node that is busy with many later. */
#define UNUSED_NS (300 * 1000000000ull)
#define SIGHTINGS_MAX 65536u

struct sighting {
    struct list link;
    uint64_t id, first_ns, used_ns;
    uint32_t epoch;
};

void sightings_init(struct sightings *sightings)
{
    *sightings = (struct sightings){0};
    list_init(&sightings->by_use);
}

static void drop_first(struct sightings *sightings)
{
    struct sighting *s = list_entry(sightings->by_use.next, struct sighting, link);
    list_remove(&s->link);
    idmap_remove(&sightings->by_id, s->id);
    mem_free(s);
}

void sightings_fini(struct sightings *sightings)
{
    while (!list_empty(&sightings->by_use))
        drop_first(sightings);
    idmap_fini(&sightings->by_id);
}

static void forget_old(struct sightings *sightings, uint64_t now_ns)
{
    while (!list_empty(&sightings->by_use)) {
        const struct sighting *s = list_entry(sightings->by_use.next, struct sighting, link);
        if (s->used_ns + UNUSED_NS > now_ns && sightings->by_id.count < SIGHTINGS_MAX)
            return;
        drop_first(sightings);
    }
}

static struct sighting *sighting_get(struct sightings *sightings, uint64_t id, uint64_t now_ns)
{
    struct sighting *s = idmap_get(&sightings->by_id, id);
    if (s) {
        list_remove(&s->link);
    } else {
        forget_old(sightings, now_ns);
        s = NEW(struct sighting);
        s->id = id;
        idmap_put(&sightings->by_id, id, s);
    }
    list_push_back(&sightings->by_use, &s->link);
    return s;
}

bool sightings_late(struct sightings *sightings, uint64_t id, uint32_t epoch, uint64_t wait_ns)
{
    uint64_t now_ns = env_now_ns();
    struct sighting *s = sighting_get(sightings, id, now_ns);
    if (s->first_ns == 0 || s->epoch != epoch) {
        s->epoch = epoch;
        s->first_ns = now_ns;
    }
    s->used_ns = now_ns;
    return now_ns - s->first_ns >= wait_ns;
}
