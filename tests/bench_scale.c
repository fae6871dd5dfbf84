/* SPDX-License-Identifier: Apache-2.0
 *
 * What grows with the cluster, in CPU: finding one of a thousand disks by its number, choosing six of them; finding a shard, and all of a
 * volume's, in the table of a disk with a million entries and ten thousand volumes. Not a test: prints figures.
 */
#include "tests/unit/fake_env.h"

#include <stdio.h>
#include <time.h>

#include "blockd/cluster/placement.h"
#include "blockd/disk/disk_list.h"
#include "blockd/disk/table.h"
#include "common/check.h"
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

#define ENTRIES (1u << 20) /* a disk of 1 TiB */
#define VOLUMES 10000u

static struct shard_key key_of(uint32_t i, uint32_t volumes)
{
    return (struct shard_key){.volume = 0x1234567 * (1 + (uint64_t)(i % volumes)),
        .chunk = 1ull << 32 | i / volumes / 2,
        .index = (uint8_t)(i / volumes % 2)};
}

static void lists(struct table *table, uint32_t entries, uint32_t volumes)
{
    uint32_t *found = mem_alloc(ENTRIES * sizeof(*found));
    uint64_t sum = 0;
    uint32_t count = MIN(volumes, 2000u);
    double begin = cpu_ns();
    for (uint32_t n = 0; n < 20; n++) {
        uint64_t volume = key_of(n, volumes).volume;
        for (uint32_t i = 0; i < ENTRIES; i++)
            if (table->slots[i].state != TABLE_FREE && table->slots[i].volume == volume)
                sum++;
    }
    double middle = cpu_ns();
    for (uint32_t n = 0; n < count; n++)
        sum += table_list_volume(table, key_of(n, volumes).volume, 0, found);
    double end = cpu_ns();
    printf(
        "  a volume's slots, %u each: %.1f us by reading the table, %.1f us by its group (%llu)\n",
        entries / volumes, (middle - begin) / 20 / 1e3, (end - middle) / count / 1e3,
        (unsigned long long)sum);
    mem_free(found);
}

static void table_of(uint32_t entries, uint32_t volumes)
{
    static const struct uuid disk = {.bytes = {1}};
    struct table table;
    struct rng rng;
    uint64_t sum = 0;
    rng_init(&rng, 1);
    table_init(&table, ENTRIES, &disk);
    table_build_free_list(&table);
    for (uint32_t i = 0; i < entries; i++) {
        struct shard_key key = key_of(i, volumes);
        table.slots[table_alloc(&table)] = (struct table_slot){
            .volume = key.volume, .chunk = key.chunk, .index = key.index, .state = TABLE_SEALED};
    }
    double begin = cpu_ns();
    table_expect(&table);
    for (uint32_t i = 0; i < entries; i++) { /* as a disk is opened */
        sum += table_find(&table, table_slot_key(&table.slots[i]));
        table_link_expected(&table, i);
    }
    double made = cpu_ns();
    for (unsigned i = 0; i < LOOKUPS; i++)
        sum += table_find(&table, key_of((uint32_t)rng_below(&rng, entries), volumes));
    double end = cpu_ns();
    printf("%u entries of %u volumes: %.0f ns to link one, %.0f ns to find one (%llu)\n", entries,
        volumes, (made - begin) / entries, (end - made) / LOOKUPS, (unsigned long long)sum);
    lists(&table, entries, volumes);
    table_fini(&table);
}

static void place(void)
{
    static struct disk_list list;
    struct disk *chosen[6];
    disk_list_init(&list);
    for (unsigned i = 0; i < DISKS; i++) {
        struct disk *disk = NEW(struct disk);
        disk->number = i + 1;
        snprintf(disk->node, sizeof(disk->node), "node-%u", i / 5);
        disk->size_bytes = disk->free_bytes = 1ull << 40;
        disk->latency_ewma_ns = 1000000 + i;
        disk_list_add(&list, disk);
    }
    double begin = cpu_ns();
    for (unsigned i = 0; i < 100; i++) {
        struct placement_request request = {.count = 6,
            .count_min = 5,
            .domain = DOMAIN_NODE,
            .class_name = "",
            .shard_bytes = 1 << 22,
            .chance = i,
            .reserve_percent = 5};
        CHECK(placement_choose(&list, &request, chosen) == 6);
    }
    printf("6 of %u disks chosen for a chunk: %.0f us\n", DISKS, (cpu_ns() - begin) / 100 / 1e3);
}

int main(void)
{
    struct fake_env fake;
    fake_env_init(&fake);
    fiber_sched_init(1);
    fiber_set_default_env(&fake.env);
    disks_by_number();
    place();
    table_of(1000000, VOLUMES);
    table_of(1000000, 100);
    table_of(1000000, 1);
    table_of(1000000, 500000);
    table_of(200000, VOLUMES);
    fiber_sched_fini();
    env_fini(&fake.env);
    return 0;
}
