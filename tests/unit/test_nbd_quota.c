/* SPDX-License-Identifier: Apache-2.0
 *
 * Bounds of memory and requests, and the pool of buffers behind them.
 */
#include "blockd/nbd/quota.h"

#include "blockd/nbd/pool.h"
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

static void pool_reuses(void *arg)
{
    struct nbd_pool pool;
    nbd_pool_init(&pool, 1 << 20, 64 << 20);
    assert_int_equal(nbd_pool_bytes(1), 4096);
    assert_int_equal(nbd_pool_bytes(4096), 4096);
    assert_int_equal(nbd_pool_bytes(4097), 8192);
    assert_int_equal(nbd_pool_bytes(32 << 20), 32 << 20);
    void *a = nbd_pool_get(&pool, 5000), *large = nbd_pool_get(&pool, 2 << 20);
    assert_int_equal((uintptr_t)a % 4096, 0);
    assert_int_equal((uintptr_t)large % 4096, 0);
    nbd_pool_put(&pool, a, 5000);
    assert_ptr_equal(nbd_pool_get(&pool, 8192), a);
    nbd_pool_put(&pool, a, 8192);
    nbd_pool_put(&pool, large, 2 << 20); /* beyond the cap: back to the system */
    assert_int_equal(pool.cached_bytes, 8192);
    assert_int_equal(pool.used_bytes, 0);
    nbd_pool_fini(&pool);

    /* What is kept makes room for what is used. */
    nbd_pool_init(&pool, 1 << 20, 1 << 20);
    a = nbd_pool_get(&pool, 512 << 10);
    void *b = nbd_pool_get(&pool, 256 << 10);
    nbd_pool_put(&pool, a, 512 << 10);
    assert_int_equal(pool.cached_bytes, 512 << 10);
    large = nbd_pool_get(&pool, 1 << 20);
    assert_int_equal(pool.cached_bytes, 0);
    nbd_pool_put(&pool, b, 256 << 10);
    assert_int_equal(pool.cached_bytes, 0);
    nbd_pool_put(&pool, large, 1 << 20);
    assert_int_equal(pool.cached_bytes, 1 << 20);
    nbd_pool_fini(&pool);
    *(bool *)arg = true;
}

static void test_buffers_are_reused_up_to_a_cap(void **state)
{
    struct fake_env fake;
    bool done = false;
    fiber_sched_init(4);
    fake_env_init(&fake);
    fake_env_run(&fake, pool_reuses, &done);
    assert_true(done);
    assert_int_equal(fake.env.mem_used_bytes, 0);
    env_fini(&fake.env);
    fiber_sched_fini();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_reserve_cannot_be_taken_by_others),
        cmocka_unit_test(test_the_first_who_waits_is_served_first),
        cmocka_unit_test(test_a_users_maximum_holds_except_for_a_single_request),
        cmocka_unit_test(test_buffers_are_reused_up_to_a_cap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
