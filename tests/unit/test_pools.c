/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_env.h"

#include "blockd/pools.h"
#include "common/check.h"

static uint64_t usable(unsigned k, unsigned m, unsigned count, const uint64_t *bytes)
{
    return pool_usable_bytes(bytes, count, (struct shard_code){(uint8_t)k, (uint8_t)m});
}

static void equal_disks_give_their_share(void **state)
{
    uint64_t six[6] = {100, 100, 100, 100, 100, 100};
    assert_int_equal(usable(4, 2, 6, six), 400);
    assert_int_equal(usable(1, 2, 6, six), 200);
    assert_int_equal(usable(1, 0, 6, six), 600);
    assert_int_equal(usable(4, 2, 5, six), 0);
    assert_int_equal(usable(1, 1, 0, six), 0);
}

static void a_large_disk_counts_only_as_far_as_others_can_keep_up(void **state)
{
    uint64_t disks[3] = {1000, 50, 50};
    assert_int_equal(usable(1, 1, 3, disks), 100);
    assert_int_equal(usable(1, 2, 3, disks), 50);
    assert_int_equal(usable(2, 1, 3, disks), 100);
    uint64_t huge[2] = {UINT64_MAX / 4, UINT64_MAX / 4};
    assert_true(usable(1, 1, 2, huge) == UINT64_MAX / 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_disks_give_their_share),
        cmocka_unit_test(a_large_disk_counts_only_as_far_as_others_can_keep_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
