/* SPDX-License-Identifier: Apache-2.0
 *
 * Full disks (D7). Shards of a volume that nobody knows take the space, as another tenant's volumes would: to a few
 * percent free, so that the limits for writes (5 %), for cleaning and repair (2 %) and the end itself are all met. They
 * stay through crashes, and go when the fault is over. Until then a write may end in -ENOSPC, and nothing else changes:
 * trims and reads go on. Afterwards writes go on (cluster_quiet).
 */
#include <errno.h>
#include <string.h>

#include "common/mem.h"
#include "tests/sim/cluster/cluster.h"

#define BALLAST_VOLUME 0xba11a57ba11a57ull
#define STALE_NS (20 * CLUSTER_S) /* other nodes know of free space by word of mouth */

struct ballast {
    struct cluster_node *node;
    unsigned free_permille;
};

static int create(struct disk *disk, uint64_t chunk, uint32_t capacity_blocks)
{
    struct shard_create create = {.key = {.volume = BALLAST_VOLUME, .chunk = chunk},
        .kind = SHARD_DATA,
        .code = {.k = 1, .m = 1},
        .instance = env_random_u64() | 1,
        .epoch = 1,
        .capacity_blocks = capacity_blocks,
        .capacity_blocks_min = capacity_blocks,
        .priority = SHARD_PRIORITY_SYSTEM};
    return shard_create(disk, &create, NULL);
}

static void fill_main(void *arg)
{
    const struct ballast *ballast = arg;
    list_for_each (it, &disks_present(ballast->node->node->disks)->all) {
        struct disk *disk = list_entry(it, struct disk, link);
        if (!disk->local || disk->state != DISK_IN)
            continue;
        uint64_t target_bytes = disk->size_bytes / 1000 * ballast->free_permille;
        uint32_t capacity_blocks = SHARD_EXTENT_BLOCKS_MAX - 8;
        while (disk->state == DISK_IN && disk->free_bytes > target_bytes) {
            uint64_t rest_blocks = (disk->free_bytes - target_bytes) / BLOCK_BYTES;
            if (rest_blocks < 2 * capacity_blocks && capacity_blocks > 15)
                capacity_blocks /= 4;
            else if (create(disk, env_random_u64() >> 1, capacity_blocks) < 0)
                break;
            else if (rest_blocks < 32)
                break;
        }
    }
}

static void empty_main(void *arg)
{
    const struct ballast *ballast = arg;
    list_for_each (it, &disks_present(ballast->node->node->disks)->all) {
        struct disk *disk = list_entry(it, struct disk, link);
        struct shard_info *list;
        unsigned count;
        if (!disk->local || disk->state != DISK_IN ||
            shard_list(disk, BALLAST_VOLUME, &list, &count) < 0)
            continue;
        for (unsigned i = 0; i < count; i++) {
            int r = shard_remove(disk, list[i].key, 0, 1);
            if (r == -EIO && disk->state != DISK_IN) /* a fault that waited for a write: later */
                break;
            CHECK_MSG(r == 0, "%s: ballast is not removed: %s", ballast->node->name, strerror(-r));
        }
        mem_free(list);
    }
}

void cluster_fill(struct cluster *c)
{
    c->full_until_ns = UINT64_MAX;
    c->ballast = true;
    unsigned permille = (unsigned)rng_below(&c->fault_rng, 80);
    unsigned all = rng_one_in(&c->fault_rng, 2);
    sim_part_says(" to %u in 1000%s", permille, all ? "" : ", some disks");
    for (unsigned i = 0; i < c->node_count; i++) {
        struct ballast ballast = {.node = &c->nodes[i], .free_permille = permille};
        if ((all || rng_one_in(&c->fault_rng, 2)) && c->nodes[i].node && !c->nodes[i].want_stop)
            (void)cluster_do(&c->nodes[i], 120, "fill", fill_main, &ballast);
    }
    cluster_run_for(c, rng_between(&c->fault_rng, 500, 8000) * CLUSTER_MS);
    if (rng_one_in(&c->fault_rng, 2)) {
        sim_part_says(", for a while");
        cluster_empty(c);
        c->ballast = true; /* on disks that are away or have failed just now */
    }
}

void cluster_empty(struct cluster *c)
{
    if (!c->ballast)
        return;
    for (unsigned i = 0; i < c->node_count; i++) {
        struct ballast ballast = {.node = &c->nodes[i]};
        if (c->nodes[i].node && !c->nodes[i].want_stop)
            (void)cluster_do(&c->nodes[i], 120, "empty", empty_main, &ballast);
    }
    c->full_until_ns = sim_now_ns(c->sim) + STALE_NS;
    c->ballast = false;
}

bool cluster_is_full(const struct cluster *c)
{
    return sim_now_ns(c->sim) < c->full_until_ns;
}
