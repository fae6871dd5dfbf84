/* SPDX-License-Identifier: Apache-2.0
 *
 * Bounds of memory and requests.
 */
#include "blockd/nbd/quota.h"

#include "tests/unit/fake_env.h"

static const struct nbd_amount reserve = {2, 100}, max = {10, 1000};

static struct nbd_amount amount(unsigned requests, uint64_t bytes)
{
    return (struct nbd_amount){requests, bytes};
}

static void test_a_reserve_cannot_be_taken_by_others(void **state)
{
    struct nbd_quota quota;
    struct nbd_quota_user hog, other;
    nbd_quota_init(&quota, amount(4, 500));
    nbd_quota_user_init(&hog, &quota, reserve, max);
    nbd_quota_user_init(&other, &quota, reserve, max);
    assert_true(nbd_quota_take(&hog, amount(1, 600))); /* NQ1: 100 of its own, 500 shared */
    assert_int_equal(quota.shared.bytes, 500);
    assert_false(nbd_quota_take(&hog, amount(1, 1)));
    assert_true(nbd_quota_take(&other, amount(1, 100)));
    assert_false(nbd_quota_take(&other, amount(1, 1)));
    assert_true(nbd_quota_take(&other, amount(1, 0)));
    nbd_quota_leave(&hog);
    nbd_quota_leave(&other);
    nbd_quota_give(&hog, amount(1, 600));
    assert_int_equal(quota.shared.bytes, 0);
    assert_true(nbd_quota_take(&other, amount(1, 400)));
    assert_int_equal(quota.shared.requests, 1);
}

static void test_the_first_who_waits_is_served_first(void **state)
{
    struct nbd_quota quota;
    struct nbd_quota_user a, b, c;
    nbd_quota_init(&quota, amount(100, 500));
    nbd_quota_user_init(&a, &quota, reserve, max);
    nbd_quota_user_init(&b, &quota, reserve, max);
    nbd_quota_user_init(&c, &quota, reserve, max);
    assert_true(nbd_quota_take(&a, amount(1, 500)));
    assert_false(nbd_quota_take(&b, amount(1, 500)));
    assert_false(nbd_quota_take(&c, amount(1, 150))); /* NQ2: would fit, but b was first */
    nbd_quota_give(&a, amount(1, 500));
    assert_false(nbd_quota_take(&c, amount(1, 250)));
    assert_true(nbd_quota_take(&b, amount(1, 500)));
    assert_true(nbd_quota_take(&c, amount(1, 200)));
    assert_true(list_empty(&quota.waiting));
}

static void test_a_users_maximum_holds_except_for_a_single_request(void **state)
{
    struct nbd_quota quota;
    struct nbd_quota_user a;
    nbd_quota_init(&quota, amount(100, 1 << 20));
    nbd_quota_user_init(&a, &quota, reserve, max);
    assert_true(nbd_quota_take(&a, amount(0, 100)));
    assert_true(nbd_quota_take(&a, amount(1, 5000))); /* NQ3 */
    assert_false(nbd_quota_take(&a, amount(1, 0)));
    nbd_quota_give(&a, amount(1, 5000));
    for (unsigned i = 0; i < 10; i++)
        assert_true(nbd_quota_take(&a, amount(1, 0)));
    assert_false(nbd_quota_take(&a, amount(1, 0)));
    assert_true(list_empty(&quota.waiting)); /* it waits for itself only */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_reserve_cannot_be_taken_by_others),
        cmocka_unit_test(test_the_first_who_waits_is_served_first),
        cmocka_unit_test(test_a_users_maximum_holds_except_for_a_single_request),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
