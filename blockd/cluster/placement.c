/* SPDX-License-Identifier: Apache-2.0
 *
 * Weighted sampling without replacement after Efraimidis and Spirakis (Information Processing
 * Letters 97, 2006): each candidate draws -log(u) / weight, the smallest ones win.
 */
#include "blockd/cluster/placement.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"

/* A disk whose appends take this many times the median's is written to only when there is no other.
 * */
#define SLOW_FACTOR 8
#define SLOW_FLOOR_NS 2000000

struct candidate {
    struct disk *disk;
    double score;
    bool slow;
};

bool placement_disk_up(const struct disk *disk)
{
    return disk->number != 0 && disk->state == DISK_IN;
}

static bool same_domain(const struct disk *a, const struct disk *b, enum failure_domain domain)
{
    switch (domain) {
    case DOMAIN_RACK:
        return strcmp(a->rack, b->rack) == 0;
    case DOMAIN_NODE:
        return strcmp(a->node, b->node) == 0;
    default:
        return a == b;
    }
}

uint32_t placement_crowded(
    struct disk *const *disks, unsigned count, enum failure_domain domain, unsigned *ret_domains)
{
    uint32_t crowded = 0;
    unsigned domains = 0;
    for (unsigned i = 0; i < count; i++) {
        bool shared = false;
        for (unsigned j = 0; disks[i] && j < i && !shared; j++)
            shared = disks[j] && same_domain(disks[i], disks[j], domain);
        crowded |= (uint32_t)shared << i;
        domains += disks[i] && !shared;
    }
    if (ret_domains)
        *ret_domains = domains;
    return crowded;
}

/* Of the disks that this node could not open nobody knows more than that they are its own. */
static bool is_here(
    const struct disk_list *disks, enum failure_domain domain, const struct disk *disk)
{
    if (domain == DOMAIN_DISK || disk->local)
        return domain != DOMAIN_DISK;
    list_for_each (it, &disks->all) {
        const struct disk *other = list_entry(it, struct disk, link);
        if (other->local && same_domain(disk, other, domain))
            return true;
    }
    return false;
}

static bool excluded(
    const struct disk_list *disks, const struct placement_request *request, const struct disk *disk)
{
    if (request->exclude_here && is_here(disks, request->domain, disk))
        return true;
    for (unsigned i = 0; i < request->exclude_count; i++) {
        const struct disk *other = disk_list_find(disks, request->exclude[i]);
        if (other && same_domain(disk, other, request->domain))
            return true;
    }
    return false;
}

/* splitmix64, Steele et al. 2014 */
static double draw(uint64_t *chance)
{
    uint64_t z = *chance += 0x9E3779B97F4A7C15ull;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    z ^= z >> 31;
    return ((double)(z >> 11) + 1) / 9007199254740993.0;
}

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static int compare_candidates(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->slow != y->slow)
        return x->slow ? 1 : -1;
    if (x->score != y->score)
        return x->score < y->score ? -1 : 1;
    return x->disk->number < y->disk->number ? -1 : 1;
}

uint64_t placement_slow_limit_ns(const struct disk_list *disks, uint64_t now_ns)
{
    unsigned count = 0;
    list_for_each (it, &disks->all)
        count++;
    CLEANUP_FREE uint64_t *latencies = mem_zalloc(count + 1, sizeof(*latencies));
    unsigned n = 0;
    list_for_each (it, &disks->all) {
        const struct disk *disk = list_entry(it, struct disk, link);
        if (placement_disk_up(disk) && disk->latency_ewma_ns > 0)
            latencies[n++] = disk_latency_ns(disk, now_ns);
    }
    if (n < 3)
        return UINT64_MAX;
    qsort(latencies, n, sizeof(*latencies), compare_u64);
    return MAX(latencies[n / 2] * SLOW_FACTOR, (uint64_t)SLOW_FLOOR_NS);
}

static bool class_matches(const struct disk *disk, const char *class_name)
{
    return class_name[0] == 0 || strcmp(disk->class_name, class_name) == 0;
}

static int compare_nodes(const void *a, const void *b)
{
    return strcmp((*(const struct disk *const *)a)->node, (*(const struct disk *const *)b)->node);
}

static int compare_racks(const void *a, const void *b)
{
    return strcmp((*(const struct disk *const *)a)->rack, (*(const struct disk *const *)b)->rack);
}

/* How many failure domains the disks are in; their order is lost. */
static unsigned count_domains(const struct disk **disks, unsigned count, enum failure_domain domain)
{
    unsigned domains = count > 0;
    if (domain == DOMAIN_NODE || domain == DOMAIN_RACK)
        qsort(disks, count, sizeof(*disks), domain == DOMAIN_NODE ? compare_nodes : compare_racks);
    for (unsigned i = 1; i < count; i++)
        domains += !same_domain(disks[i - 1], disks[i], domain);
    return domains;
}

/* The best local one comes first; what was before it keeps its order. */
static void move_local_first(struct candidate *candidates, unsigned count)
{
    for (unsigned i = 0; i < count && !candidates[i].slow; i++) {
        if (!candidates[i].disk->local)
            continue;
        struct candidate local = candidates[i];
        memmove(&candidates[1], &candidates[0], i * sizeof(*candidates));
        candidates[0] = local;
        return;
    }
}

int placement_choose(
    const struct disk_list *disks, const struct placement_request *request, struct disk **ret_disks)
{
    unsigned total = 0, up = 0, n = 0;
    list_for_each (it, &disks->all)
        total++;
    CLEANUP_FREE struct candidate *candidates = mem_zalloc(total + 1, sizeof(*candidates));
    CLEANUP_FREE const struct disk **disks_up = mem_zalloc(total + 1, sizeof(*disks_up));
    uint64_t slow_ns = placement_slow_limit_ns(disks, request->now_ns), chance = request->chance;
    list_for_each (it, &disks->all) {
        struct disk *disk = list_entry(it, struct disk, link);
        double u = draw(&chance);
        if (!placement_disk_up(disk) || !class_matches(disk, request->class_name) ||
            excluded(disks, request, disk))
            continue;
        disks_up[up++] = disk;
        uint64_t reserve = disk->size_bytes / 100 * request->reserve_percent;
        if (disk->free_bytes < reserve + request->shard_bytes)
            continue;
        double weight = (double)(disk->free_bytes - reserve) + 1;
        candidates[n++] = (struct candidate){.disk = disk,
            .score = -log(u) / weight,
            .slow = disk_latency_ns(disk, request->now_ns) > slow_ns};
    }
    unsigned domains_up = count_domains(disks_up, up, request->domain);
    if (domains_up < request->count_min)
        return -EHOSTUNREACH;
    unsigned wanted = MIN(request->count, domains_up);
    qsort(candidates, n, sizeof(*candidates), compare_candidates);
    if (request->local_first)
        move_local_first(candidates, n);
    unsigned chosen = 0;
    for (unsigned i = 0; i < n && chosen < wanted; i++) {
        bool taken = false;
        for (unsigned j = 0; j < chosen; j++)
            taken = taken || same_domain(candidates[i].disk, ret_disks[j], request->domain);
        if (!taken)
            ret_disks[chosen++] = candidates[i].disk;
    }
    if (chosen < wanted)
        return -ENOSPC;
    for (unsigned i = chosen; i < request->count; i++)
        ret_disks[i] = NULL;
    return (int)chosen;
}

unsigned placement_domains_up(
    const struct disk_list *disks, enum failure_domain domain, const char *class_name, unsigned max)
{
    struct disk *chosen[CODE_SHARDS_MAX];
    struct placement_request request = {.count = MIN(max, (unsigned)CODE_SHARDS_MAX),
        .count_min = 0,
        .domain = domain,
        .class_name = class_name};
    int placed = placement_choose(disks, &request, chosen);
    return placed > 0 ? (unsigned)placed : 0;
}
