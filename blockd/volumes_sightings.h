/* SPDX-License-Identifier: Apache-2.0
 *
 * Volumes that wait for their successor (V5), and since when this node knows that. One that is asked for is
 * remembered as long as that goes on, however many others are: a node that dies right after a thousand volumes
 * were handed to it does not keep them.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "blockd/volume/idmap.h"
#include "common/list.h"

struct sightings {
    struct idmap by_id;
    struct list by_use; /* struct sighting.link, the longest unused first */
};

void sightings_init(struct sightings *sightings);
void sightings_fini(struct sightings *sightings);
/* Whether the successor of that epoch has had `wait_ns` since it was first asked for. */
bool sightings_late(struct sightings *sightings, uint64_t id, uint32_t epoch, uint64_t wait_ns);
