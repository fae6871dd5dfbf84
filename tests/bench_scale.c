/* SPDX-License-Identifier: Apache-2.0
 *
 * What grows with the cluster, in CPU: finding one of a thousand disks by its number. Not a test: prints figures.
 */
#include "tests/unit/fake_env.h"

#include <stdio.h>
#include <time.h>

#include "blockd/disk/disk_list.h"
#include "common/mem.h"
#include "common/rng.h"

#define DISKS 1000u
#define LOOKUPS 200000u

static double cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* As every I/O did it for each shard before there was disk_list_find(). */
static struct disk *find_in_list(const struct disk_list *list, uint32_t number)
{
    list_for_each (it, &list->all)
        if (list_entry(it, struct disk, link)->number == number)
            return list_entry(it, struct disk, link);
    return NULL;
}

static void disks_by_number(void)
{
    static struct disk_list list;
    struct rng rng;
    uint64_t sum = 0;
    disk_list_init(&list);
    rng_init(&rng, 1);
    for (unsigned i = 0; i < DISKS; i++) {
        struct disk *disk = NEW(struct disk);
        disk->number = i + 1;
        disk_list_add(&list, disk);
    }
    double begin = cpu_ns();
    for (unsigned i = 0; i < LOOKUPS; i++)
        sum += find_in_list(&list, 1 + (uint32_t)rng_below(&rng, DISKS))->number;
    double middle = cpu_ns();
    for (unsigned i = 0; i < LOOKUPS; i++)
        sum += disk_list_find(&list, 1 + (uint32_t)rng_below(&rng, DISKS))->number;
    double end = cpu_ns();
    printf(
        "a disk of %u by its number: %.1f ns through the list, %.1f ns by disk_list_find (%llu)\n",
        DISKS, (middle - begin) / LOOKUPS, (end - middle) / LOOKUPS, (unsigned long long)sum);
    while (!list_empty(&list.all)) {
        struct disk *disk = list_entry(list.all.next, struct disk, link);
        disk_list_remove(&list, disk);
        mem_free(disk);
    }
}

int main(void)
{
    struct fake_env fake;
    fake_env_init(&fake);
    fiber_sched_init(1);
    fiber_set_default_env(&fake.env);
    disks_by_number();
    fiber_sched_fini();
    env_fini(&fake.env);
    return 0;
}
