/* SPDX-License-Identifier: Apache-2.0
 *
 * Which disks get the shards of a new chunk. Pure: no I/O, no clock; chance is handed in.
 */
#pragma once

#include "blockd/cluster/records.h"
#include "blockd/disk/disk_list.h"

struct placement_request {
    unsigned count;     /* shards wanted */
    unsigned count_min; /* accepted where fewer failure domains are up than wanted */
    enum failure_domain domain;
    const char *class_name;   /* "" = any */
    uint64_t shard_bytes;     /* room that each shard needs */
    unsigned reserve_percent; /* of each disk, not to be touched (D7) */
    const uint32_t *exclude;  /* disk numbers not to use (their domains are taken too) */
    unsigned exclude_count;
    bool
        exclude_here; /* the domain of this node is taken: by a disk of it that is not in the list */
    bool local_first; /* one of them on a disk of this node, if one can take it and is not slow */
    uint64_t chance;  /* seed */
    uint64_t now_ns;  /* latencies count as of then (disk_latency_ns); 0 = as they are */
};

/* Chooses distinct failure domains, disks weighted by free space; disks much slower than the median
 * come last.
 * ret_disks has request->count places; those without a disk are NULL, at the end. Returns how many
 * were chosen,
 * -ENOSPC when enough domains are up but not with enough room, -EHOSTUNREACH when fewer than
 * count_min are up. */
int placement_choose(const struct disk_list *disks, const struct placement_request *request,
    struct disk **ret_disks);

/* Disks that hold shards of one chunk, one each (NULL: not to be counted): which of them are in the failure domain of
 * an earlier one, a bit each. *ret_domains (may be NULL): how many domains they are in. */
uint32_t placement_crowded(
    struct disk *const *disks, unsigned count, enum failure_domain domain, unsigned *ret_domains);
/* How many failure domains have disks of the class that are up, at most `max` (CODE_SHARDS_MAX). */
unsigned placement_domains_up(const struct disk_list *disks, enum failure_domain domain,
    const char *class_name, unsigned max);

/* A disk whose disk_latency_ns is above this is slow beside the others; UINT64_MAX: too few to
 * compare. */
uint64_t placement_slow_limit_ns(const struct disk_list *disks, uint64_t now_ns);
/* Whether the disk can take shards at all. */
bool placement_disk_up(const struct disk *disk);
