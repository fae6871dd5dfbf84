/* SPDX-License-Identifier: Apache-2.0
 *
 * The pool of I/O buffers.
 */
#include "blockd/nbd/pool.h"

#include "tests/unit/fake_env.h"

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
        cmocka_unit_test(test_buffers_are_reused_up_to_a_cap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
