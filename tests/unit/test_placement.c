/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_env.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/cluster/placement.h"
#include "common/check.h"
#include "common/rng.h"

enum { DISKS_MAX = 24 };
#define GIB (1ull << 30)

static struct disk disks[DISKS_MAX];
static struct disk_list all;

/* Disks 1.. of 100 GiB, half free, `per_node` on each node, two nodes to a rack. */
static void make(unsigned count, unsigned per_node)
{
    memset(disks, 0, sizeof(disks));
    disk_list_init(&all);
    for (unsigned i = 0; i < count; i++) {
        struct disk *d = &disks[i];
        d->number = i + 1;
        d->state = DISK_IN;
        strcpy(d->class_name, i % 2 ? "hdd" : "ssd");
        snprintf(d->node, sizeof(d->node), "node%u", i / per_node);
        snprintf(d->rack, sizeof(d->rack), "rack%u", i / per_node / 2);
        d->size_bytes = 100 * GIB;
        d->free_bytes = 50 * GIB;
        disk_list_add(&all, d);
    }
}

static struct placement_request want(unsigned count, unsigned count_min, enum failure_domain domain)
{
    return (struct placement_request){.count = count,
        .count_min = count_min,
        .domain = domain,
        .class_name = "",
        .shard_bytes = 4 << 20,
        .reserve_percent = 5,
        .chance = 1};
}

static const char *domain_of(const struct disk *d, enum failure_domain domain)
{
    return domain == DOMAIN_RACK ? d->rack : domain == DOMAIN_NODE ? d->node : (const char *)d;
}

static void check_distinct(struct disk **chosen, int count, enum failure_domain domain)
{
    for (int i = 0; i < count; i++) {
        for (int j = 0; j < i; j++) {
            if (domain == DOMAIN_DISK)
                assert_ptr_not_equal(chosen[i], chosen[j]);
            else
                assert_string_not_equal(domain_of(chosen[i], domain), domain_of(chosen[j], domain));
        }
    }
}

static void shards_get_distinct_failure_domains(void **state)
{
    static const enum failure_domain domains[] = {DOMAIN_DISK, DOMAIN_NODE, DOMAIN_RACK};
    static const unsigned most[] = {12, 6, 3};
    struct disk *chosen[DISKS_MAX];
    make(12, 2);
    for (unsigned i = 0; i < 3; i++) {
        for (unsigned n = 1; n <= most[i]; n++) {
            for (uint64_t chance = 0; chance < 50; chance++) {
                struct placement_request r = want(n, n, domains[i]);
                r.chance = chance;
                assert_int_equal(placement_choose(&all, &r, chosen), n);
                check_distinct(chosen, (int)n, domains[i]);
            }
        }
        struct placement_request r = want(most[i] + 1, most[i] + 1, domains[i]);
        assert_int_equal(placement_choose(&all, &r, chosen), -EHOSTUNREACH);
    }
}

static void fewer_domains_are_accepted_down_to_the_minimum(void **state)
{
    struct disk *chosen[DISKS_MAX];
    make(4, 1);
    struct placement_request r = want(6, 4, DOMAIN_NODE);
    assert_int_equal(placement_choose(&all, &r, chosen), 4);
    for (unsigned i = 0; i < 6; i++)
        assert_true((chosen[i] != NULL) == (i < 4));
    r.count_min = 5;
    assert_int_equal(placement_choose(&all, &r, chosen), -EHOSTUNREACH);
}

static void only_disks_that_are_in_and_numbered_count(void **state)
{
    struct disk *chosen[DISKS_MAX];
    make(5, 1);
    disks[0].state = DISK_OUT;
    disks[1].state = DISK_FAILED;
    disks[2].state = DISK_MISSING;
    disks[3].number = 0;
    assert_true(placement_disk_up(&disks[4]));
    for (unsigned i = 0; i < 4; i++)
        assert_false(placement_disk_up(&disks[i]));
    struct placement_request r = want(1, 1, DOMAIN_DISK);
    assert_int_equal(placement_choose(&all, &r, chosen), 1);
    assert_ptr_equal(chosen[0], &disks[4]);
    r = want(2, 2, DOMAIN_DISK);
    assert_int_equal(placement_choose(&all, &r, chosen), -EHOSTUNREACH);
}

/* The two are told apart: more disks help against one, more space against the other. */
static void no_room_is_not_no_disks(void **state)
{
    struct disk *chosen[DISKS_MAX];
    make(4, 1);
    struct placement_request r = want(3, 2, DOMAIN_NODE);
    disks[0].free_bytes = disks[1].free_bytes = 5 * GIB; /* just the reserve */
    assert_int_equal(placement_choose(&all, &r, chosen), -ENOSPC);
    r.reserve_percent = 2; /* cleaning may go deeper, manifests to the end */
    assert_int_equal(placement_choose(&all, &r, chosen), 3);
    disks[0].free_bytes = disks[1].free_bytes = 4 << 20;
    assert_int_equal(placement_choose(&all, &r, chosen), -ENOSPC);
    r.reserve_percent = 0;
    assert_int_equal(placement_choose(&all, &r, chosen), 3);
    for (unsigned i = 0; i < 4; i++)
        disks[i].free_bytes = (4 << 20) - 1;
    assert_int_equal(placement_choose(&all, &r, chosen), -ENOSPC);
    disks[0].state = disks[1].state = disks[2].state = DISK_FAILED;
    assert_int_equal(placement_choose(&all, &r, chosen), -EHOSTUNREACH);
}

static void a_class_and_excluded_domains_are_kept_to(void **state)
{
    struct disk *chosen[DISKS_MAX];
    make(12, 2); /* each node has an ssd and an hdd */
    uint32_t exclude[] = {1, 99};
    for (uint64_t chance = 0; chance < 100; chance++) {
        struct placement_request r = want(5, 5, DOMAIN_NODE);
        r.class_name = "hdd";
        r.exclude = exclude;
        r.exclude_count = 2;
        r.chance = chance;
        assert_int_equal(placement_choose(&all, &r, chosen), 5);
        for (unsigned i = 0; i < 5; i++) {
            assert_string_equal(chosen[i]->class_name, "hdd");
            assert_string_not_equal(chosen[i]->node, "node0"); /* that of disk 1, all of it */
        }
        r.count = r.count_min = 6;
        assert_int_equal(placement_choose(&all, &r, chosen), -EHOSTUNREACH);
    }
    struct placement_request r = want(1, 1, DOMAIN_DISK);
    r.class_name = "nvme";
    assert_int_equal(placement_choose(&all, &r, chosen), -EHOSTUNREACH);
}

/* A disk of this node that could not be opened is in no list, and may come back. */
static void the_domain_of_this_node_can_be_taken(void **state)
{
    struct disk *chosen[DISKS_MAX];
    make(8, 2);
    disks[2].local = disks[3].local = true; /* node1, in rack0 with node0 */
    for (uint64_t chance = 0; chance < 100; chance++) {
        struct placement_request r = want(3, 3, DOMAIN_NODE);
        r.exclude_here = true;
        r.chance = chance;
        assert_int_equal(placement_choose(&all, &r, chosen), 3);
        for (unsigned i = 0; i < 3; i++)
            assert_string_not_equal(chosen[i]->node, "node1");
        r.count = r.count_min = 4;
        assert_int_equal(placement_choose(&all, &r, chosen), -EHOSTUNREACH);
        r.domain = DOMAIN_RACK;
        r.count = r.count_min = 1;
        assert_int_equal(placement_choose(&all, &r, chosen), 1);
        assert_string_equal(chosen[0]->rack, "rack1");
        r.domain = DOMAIN_DISK;
        r.count = r.count_min = 8;
        assert_int_equal(placement_choose(&all, &r, chosen), 8);
    }
}

static void space_draws_shards(void **state)
{
    unsigned hits[DISKS_MAX] = {0};
    struct disk *chosen[DISKS_MAX];
    make(4, 1);
    disks[0].free_bytes = 95 * GIB; /* 90 above the reserve; the others 45, 45, 15 */
    disks[3].free_bytes = 20 * GIB;
    for (uint64_t chance = 0; chance < 20000; chance++) {
        struct placement_request r = want(1, 1, DOMAIN_DISK);
        r.chance = rng_mix(chance);
        assert_int_equal(placement_choose(&all, &r, chosen), 1);
        hits[chosen[0]->number - 1]++;
    }
    /* In proportion to what is free: 90 : 45 : 45 : 15 of 195. */
    assert_true(abs((int)hits[0] - 20000 * 90 / 195) < 600);
    assert_true(abs((int)hits[1] - 20000 * 45 / 195) < 600);
    assert_true(abs((int)hits[2] - 20000 * 45 / 195) < 600);
    assert_true(abs((int)hits[3] - 20000 * 15 / 195) < 600);
}

static void slow_disks_come_last(void **state)
{
    struct disk *chosen[DISKS_MAX];
    make(6, 1);
    for (unsigned i = 0; i < 6; i++)
        disks[i].latency_ewma_ns = 1000000;
    disks[2].latency_ewma_ns = 50000000;
    for (uint64_t chance = 0; chance < 100; chance++) {
        struct placement_request r = want(5, 5, DOMAIN_NODE);
        r.chance = chance;
        assert_int_equal(placement_choose(&all, &r, chosen), 5);
        for (unsigned i = 0; i < 5; i++)
            assert_ptr_not_equal(chosen[i], &disks[2]);
        r.count = r.count_min = 6; /* there is no other */
        assert_int_equal(placement_choose(&all, &r, chosen), 6);
        assert_ptr_equal(chosen[5], &disks[2]);
    }
    /* What was measured long ago counts less and less: it is tried again. */
    struct placement_request late = want(6, 6, DOMAIN_NODE);
    late.count = late.count_min = 1;
    unsigned again = 0;
    for (late.chance = 0; late.chance < 100; late.chance++) {
        late.now_ns = 60000000000ull * 2;
        assert_int_equal(placement_choose(&all, &late, chosen), 1);
        assert_ptr_not_equal(chosen[0], &disks[2]);
        late.now_ns = 60000000000ull * 10;
        disks[0].latency_at_ns = disks[1].latency_at_ns = disks[3].latency_at_ns =
            disks[4].latency_at_ns = disks[5].latency_at_ns = late.now_ns;
        assert_int_equal(placement_choose(&all, &late, chosen), 1);
        again += chosen[0] == &disks[2];
    }
    assert_true(again > 0);
    for (unsigned i = 0; i < 6; i++)
        disks[i].latency_at_ns = 0;
    /* Slow by a factor, but fast enough: below the floor nothing is avoided. */
    for (unsigned i = 0; i < 6; i++)
        disks[i].latency_ewma_ns = 50000;
    disks[2].latency_ewma_ns = 1900000;
    unsigned used = 0;
    for (uint64_t chance = 0; chance < 100; chance++) {
        struct placement_request r = want(1, 1, DOMAIN_NODE);
        r.chance = chance;
        assert_int_equal(placement_choose(&all, &r, chosen), 1);
        used += chosen[0] == &disks[2];
    }
    assert_true(used > 0);
}

static void the_same_chance_chooses_the_same(void **state)
{
    struct disk *a[DISKS_MAX], *b[DISKS_MAX];
    make(12, 2);
    struct placement_request r = want(4, 4, DOMAIN_NODE);
    r.chance = 42;
    assert_int_equal(placement_choose(&all, &r, a), 4);
    assert_int_equal(placement_choose(&all, &r, b), 4);
    assert_memory_equal(a, b, 4 * sizeof(a[0]));
}

/* All domains that have room are found, however the draw goes (no greedy dead end). */
static void a_domain_with_one_good_disk_is_enough(void **state)
{
    struct disk *chosen[DISKS_MAX];
    make(12, 3);
    for (unsigned i = 0; i < 12; i++)
        disks[i].free_bytes = i % 3 == i / 3 % 3 ? 50 * GIB : 0;
    for (uint64_t chance = 0; chance < 100; chance++) {
        struct placement_request r = want(4, 4, DOMAIN_NODE);
        r.chance = chance;
        assert_int_equal(placement_choose(&all, &r, chosen), 4);
        check_distinct(chosen, 4, DOMAIN_NODE);
    }
}

static void one_copy_is_local_if_a_local_disk_can_take_it(void **state)
{
    struct disk *chosen[DISKS_MAX];
    make(8, 2);
    disks[4].local = disks[5].local = true; /* node2 */
    unsigned local[DISKS_MAX] = {0};
    for (uint64_t chance = 0; chance < 100; chance++) {
        struct placement_request r = want(2, 2, DOMAIN_NODE);
        r.chance = chance;
        r.local_first = true;
        assert_int_equal(placement_choose(&all, &r, chosen), 2);
        assert_true(chosen[0]->local && !chosen[1]->local); /* another node has the other copy */
        local[chosen[0]->number]++;
        r.domain = DOMAIN_DISK;
        assert_int_equal(placement_choose(&all, &r, chosen), 2);
        assert_true(chosen[0]->local);
    }
    assert_true(local[5] > 20 && local[6] > 20); /* both in turn */

    /* Not at the price of a slow disk, of room, or of what is excluded. */
    for (unsigned i = 0; i < 8; i++)
        disks[i].latency_ewma_ns = 1000000;
    disks[4].latency_ewma_ns = disks[5].latency_ewma_ns = 200000000;
    struct placement_request r = want(2, 2, DOMAIN_NODE);
    r.local_first = true;
    assert_int_equal(placement_choose(&all, &r, chosen), 2);
    assert_true(!chosen[0]->local && !chosen[1]->local);
    disks[4].latency_ewma_ns = disks[5].latency_ewma_ns = 1000000;
    disks[4].free_bytes = disks[5].free_bytes = 0;
    assert_int_equal(placement_choose(&all, &r, chosen), 2);
    assert_true(!chosen[0]->local && !chosen[1]->local);
    disks[4].free_bytes = disks[5].free_bytes = 50 * GIB;
    uint32_t exclude[] = {5};
    r.exclude = exclude;
    r.exclude_count = 1;
    assert_int_equal(placement_choose(&all, &r, chosen), 2);
    assert_true(!chosen[0]->local && !chosen[1]->local);
}

/* Two nodes of a rack never hold two shards of a pool by racks, whatever fails. */
static void racks_are_kept_apart_also_when_nodes_are_down(void **state)
{
    struct disk *chosen[DISKS_MAX];
    make(16, 2); /* 8 nodes, 4 racks */
    for (uint64_t chance = 0; chance < 200; chance++) {
        for (unsigned i = 0; i < 16; i++)
            disks[i].state = (chance >> (i / 2) & 1) ? DISK_MISSING : DISK_IN;
        struct placement_request r = want(3, 1, DOMAIN_RACK);
        r.chance = chance;
        int placed = placement_choose(&all, &r, chosen);
        unsigned racks = 0;
        for (unsigned rack = 0; rack < 4; rack++)
            racks += (chance >> (rack * 2) & 3) != 3;
        assert_int_equal(placed, racks == 0 ? -EHOSTUNREACH : (int)MIN(racks, 3));
        check_distinct(chosen, MAX(placed, 0), DOMAIN_RACK);
        for (int i = 0; i < placed; i++)
            assert_int_equal(chosen[i]->state, DISK_IN);
    }
}

static bool counts(const struct disk *d, const struct placement_request *r)
{
    const struct disk *excluded = &disks[r->exclude[0] - 1];
    if (!placement_disk_up(d) || (r->class_name[0] && strcmp(d->class_name, r->class_name) != 0))
        return false;
    return r->domain == DOMAIN_DISK
               ? d != excluded
               : strcmp(domain_of(d, r->domain), domain_of(excluded, r->domain)) != 0;
}

/* In any order of the list, with disks that are not up, of another class, and excluded with their domain. */
static void domains_that_are_up_are_counted_once(void **state)
{
    const enum failure_domain domains[] = {DOMAIN_DISK, DOMAIN_NODE, DOMAIN_RACK};
    struct rng rng;
    rng_init(&rng, 1);
    for (unsigned round = 0; round < 500; round++) {
        make(DISKS_MAX, 1);
        for (unsigned i = 0; i < DISKS_MAX; i++) {
            sprintf(disks[i].node, "node%u", (unsigned)rng_below(&rng, 8));
            sprintf(disks[i].rack, "rack%u", disks[i].node[4] % 3u);
            disks[i].state = rng_below(&rng, 3) ? DISK_IN : DISK_MISSING;
        }
        uint32_t exclude = 1 + (uint32_t)rng_below(&rng, DISKS_MAX);
        struct disk *chosen[DISKS_MAX];
        struct placement_request r = want(1, 0, domains[round % 3]);
        r.class_name = round % 2 ? "hdd" : "";
        r.exclude = &exclude;
        r.exclude_count = 1;
        unsigned up = 0;
        for (unsigned i = 0; i < DISKS_MAX; i++) {
            bool first = counts(&disks[i], &r);
            for (unsigned j = 0; j < i && first && r.domain != DOMAIN_DISK; j++)
                first = !counts(&disks[j], &r) ||
                        strcmp(domain_of(&disks[i], r.domain), domain_of(&disks[j], r.domain)) != 0;
            up += first;
        }
        r.count_min = up;
        assert_int_equal(placement_choose(&all, &r, chosen), MIN(up, 1u));
        r.count_min = up + 1;
        assert_int_equal(placement_choose(&all, &r, chosen), -EHOSTUNREACH);
    }
}

static void shards_in_one_domain_are_found(void **state)
{
    make(8, 2); /* nodes 0 0 1 1 2 2 3 3, racks 0 0 0 0 1 1 1 1 */
    struct disk *of[] = {&disks[0], &disks[2], &disks[1], NULL, &disks[6], &disks[7], &disks[3]};
    unsigned domains;
    assert_int_equal(placement_crowded(of, 7, DOMAIN_NODE, &domains), 1 << 2 | 1 << 5 | 1 << 6);
    assert_int_equal(domains, 3);
    assert_int_equal(
        placement_crowded(of, 7, DOMAIN_RACK, &domains), 1 << 1 | 1 << 2 | 1 << 5 | 1 << 6);
    assert_int_equal(domains, 2);
    assert_int_equal(placement_crowded(of, 7, DOMAIN_DISK, &domains), 0);
    assert_int_equal(domains, 6);
    assert_int_equal(placement_crowded(of, 0, DOMAIN_NODE, NULL), 0);
}

static void domains_that_are_up_are_counted(void **state)
{
    make(8, 2);
    assert_int_equal(placement_domains_up(&all, DOMAIN_NODE, "", CODE_SHARDS_MAX), 4);
    assert_int_equal(placement_domains_up(&all, DOMAIN_NODE, "", 3), 3);
    assert_int_equal(placement_domains_up(&all, DOMAIN_RACK, "", CODE_SHARDS_MAX), 2);
    assert_int_equal(placement_domains_up(&all, DOMAIN_DISK, "hdd", CODE_SHARDS_MAX), 4);
    disks[0].state = DISK_MISSING;
    disks[1].state = DISK_FAILED;
    disks[2].free_bytes = disks[3].free_bytes = 0; /* full: there all the same */
    assert_int_equal(placement_domains_up(&all, DOMAIN_NODE, "", CODE_SHARDS_MAX), 3);
    make(0, 1);
    assert_int_equal(placement_domains_up(&all, DOMAIN_NODE, "", CODE_SHARDS_MAX), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shards_get_distinct_failure_domains),
        cmocka_unit_test(fewer_domains_are_accepted_down_to_the_minimum),
        cmocka_unit_test(only_disks_that_are_in_and_numbered_count),
        cmocka_unit_test(no_room_is_not_no_disks),
        cmocka_unit_test(a_class_and_excluded_domains_are_kept_to),
        cmocka_unit_test(the_domain_of_this_node_can_be_taken),
        cmocka_unit_test(space_draws_shards),
        cmocka_unit_test(slow_disks_come_last),
        cmocka_unit_test(the_same_chance_chooses_the_same),
        cmocka_unit_test(one_copy_is_local_if_a_local_disk_can_take_it),
        cmocka_unit_test(racks_are_kept_apart_also_when_nodes_are_down),
        cmocka_unit_test(a_domain_with_one_good_disk_is_enough),
        cmocka_unit_test(domains_that_are_up_are_counted_once),
        cmocka_unit_test(shards_in_one_domain_are_found),
        cmocka_unit_test(domains_that_are_up_are_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
