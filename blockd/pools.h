/* SPDX-License-Identifier: Apache-2.0
 *
 * Pools: making them, listing them, and what fits.
 */
#pragma once

#include "blockd/cluster/records.h"

struct disks;

/* How many bytes of data fit when each stripe of k+m shards puts at most one in a failure domain,
 * given each domain's bytes. 0 with fewer than k+m domains. */
uint64_t pool_usable_bytes(const uint64_t *domain_bytes, unsigned count, struct shard_code code);

struct pools_space {
    uint64_t size_bytes, free_bytes; /* usable: data, without parity */
    uint64_t raw_size_bytes, raw_free_bytes;
    unsigned disks; /* present, of its class */
};
void pools_space(const struct pool *pool, struct disks *disks, struct pools_space *ret_space);

/* Makes the record; -EEXIST, -EINVAL with *ret_error (mem_free): also when the disks there are could
 * not hold one stripe. */
MAY_SUSPEND int pools_create(
    struct store *store, struct disks *disks, const struct pool *pool, char **ret_error);
/* By name; records that are damaged are logged and left out. mem_free. */
MAY_SUSPEND int pools_list(struct store *store, struct pool **ret_pools, unsigned *ret_count);
/* -EBUSY while a volume is in it; -ENOENT. Volumes that are made meanwhile, on any node, change the
 * pool's record (volume_create), which is compared. */
MAY_SUSPEND int pools_delete(struct store *store, const char *name, char **ret_error);
