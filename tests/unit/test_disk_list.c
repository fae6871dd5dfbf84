/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_env.h"

#include <string.h>

#include "blockd/disk/disk_list.h"
#include "common/rng.h"

#define DISKS 3000u /* more than there are chains */

static struct disk_list list;
static struct disk disks[DISKS];

static int setup(void **state)
{
    memset(disks, 0, sizeof(disks));
    disk_list_init(&list);
    return 0;
}

static void add(struct disk *disk, uint32_t number)
{
    disk->number = number;
    disk_list_add(&list, disk);
}

static void test_a_disk_is_found_by_its_number_while_it_is_there(void **state)
{
    assert_null(disk_list_find(&list, 1));
    add(&disks[0], 1);
    add(&disks[1], 1 + DISK_LIST_BUCKETS); /* the same chain */
    add(&disks[2], UINT32_MAX);
    assert_ptr_equal(disk_list_find(&list, 1), &disks[0]);
    assert_ptr_equal(disk_list_find(&list, 1 + DISK_LIST_BUCKETS), &disks[1]);
    assert_ptr_equal(disk_list_find(&list, UINT32_MAX), &disks[2]);
    disk_list_remove(&list, &disks[0]);
    assert_null(disk_list_find(&list, 1));
    assert_ptr_equal(disk_list_find(&list, 1 + DISK_LIST_BUCKETS), &disks[1]);
}

static void test_one_without_a_number_is_in_the_list_and_not_found(void **state)
{
    add(&disks[0], 0);
    add(&disks[1], 7);
    disk_list_set_number(&list, &disks[1], 0);
    assert_null(disk_list_find(&list, 0));
    assert_null(disk_list_find(&list, 7));
    unsigned count = 0;
    list_for_each (it, &list.all)
        count++;
    assert_int_equal(count, 2);
    disk_list_set_number(&list, &disks[1], 7);
    assert_ptr_equal(disk_list_find(&list, 7), &disks[1]);
}

/* A disk that is carried to another node is in the list twice until its old entry has lost its number. */
static void test_of_two_with_one_number_the_first_is_found(void **state)
{
    add(&disks[0], 5);
    add(&disks[1], 5);
    assert_ptr_equal(disk_list_find(&list, 5), &disks[0]);
    disk_list_set_number(&list, &disks[0], 0);
    assert_ptr_equal(disk_list_find(&list, 5), &disks[1]);
    disk_list_remove(&list, &disks[0]);
    assert_ptr_equal(disk_list_find(&list, 5), &disks[1]);
}

static const struct disk *find_slowly(uint32_t number)
{
    list_for_each (it, &list.all)
        if (number != 0 && list_entry(it, struct disk, link)->number == number)
            return list_entry(it, struct disk, link);
    return NULL;
}

static void test_disks_come_and_go_and_change_their_numbers_in_any_order(void **state)
{
    struct rng rng;
    bool in[DISKS] = {0};
    rng_init(&rng, 1);
    for (unsigned step = 0; step < 20000; step++) {
        unsigned i = (unsigned)rng_below(&rng, DISKS);
        if (!in[i])
            add(&disks[i], i + 1);
        else if (rng_below(&rng, 2))
            disk_list_remove(&list, &disks[i]);
        else
            disk_list_set_number(&list, &disks[i], disks[i].number ? 0 : i + 1);
        if (!in[i] || list_empty(&disks[i].link))
            in[i] = !in[i];
        uint32_t number = (uint32_t)rng_below(&rng, DISKS + 2);
        if (step % 16 == 0)
            assert_ptr_equal(disk_list_find(&list, number), find_slowly(number));
        assert_ptr_equal(disk_list_find(&list, i + 1), in[i] && disks[i].number ? &disks[i] : NULL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_a_disk_is_found_by_its_number_while_it_is_there, setup),
        cmocka_unit_test_setup(test_one_without_a_number_is_in_the_list_and_not_found, setup),
        cmocka_unit_test_setup(test_of_two_with_one_number_the_first_is_found, setup),
        cmocka_unit_test_setup(test_disks_come_and_go_and_change_their_numbers_in_any_order, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
