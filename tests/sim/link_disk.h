/* SPDX-License-Identifier: Apache-2.0
 *
 * A disk behind a link, as a node has those of other nodes, without a network: operations of one host
 * reach it in order, after a while; while the link is cut they wait in it, the host is told
 * -EHOSTUNREACH after its patience, and what was on its way may still arrive after the link heals.
 */
#pragma once

#include "blockd/disk/shard.h"
#include "common/rng.h"

struct link_disk;

struct link_disk *link_disk_new(struct disk *real, struct rng *rng, uint64_t delay_ns_max);
struct disk *link_disk_base(struct link_disk *disk);
/* Nothing is done on arrival while cut; `state` of the disk follows after a while. */
void link_disk_cut(struct link_disk *disk, bool cut);
bool link_disk_is_cut(const struct link_disk *disk);
/* Each answer gets lost by this chance, though the operation was done. */
void link_disk_lose_answers(struct link_disk *disk, uint32_t ppm);
/* No operation is on its way. */
bool link_disk_idle(const struct link_disk *disk);
