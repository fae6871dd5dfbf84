/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_env.h"

#include <stdlib.h>
#include <string.h>

#include "common/bufpool.h"
#include "common/mem.h"

#define MIB (1ul << 20)
#define BLOCK BUFPOOL_BLOCK_BYTES

static struct fake_env fake;

static int setup(void **state)
{
    fiber_sched_init(2);
    fake_env_init(&fake);
    fiber_set_default_env(&fake.env);
    return 0;
}

static int teardown(void **state)
{
    assert_int_equal(mem_used_bytes(&fake.env), 0);
    fiber_set_default_env(NULL);
    env_fini(&fake.env);
    fiber_sched_fini();
    return 0;
}

static void blocks_are_distinct_aligned_and_capped(void **state)
{
    enum { COUNT = 2000 };
    static char *blocks[COUNT];
    struct bufpool *pool = bufpool_new(COUNT * BLOCK);
    for (int i = 0; i < COUNT; i++) {
        blocks[i] = bufpool_get(pool);
        assert_non_null(blocks[i]);
        assert_int_equal((uintptr_t)blocks[i] % BLOCK, 0);
        memset(blocks[i], i, BLOCK);
    }
    assert_null(bufpool_get(pool));
    assert_null(bufpool_get_run(pool, 1));
    assert_int_equal(bufpool_used_bytes(pool), COUNT * BLOCK);
    for (int i = 0; i < COUNT; i++)
        for (unsigned j = 0; j < BLOCK; j += 511)
            assert_int_equal(blocks[i][j], (char)i);
    bufpool_put(pool, blocks[0]);
    blocks[0] = bufpool_get(pool);
    assert_non_null(blocks[0]);
    for (int i = 0; i < COUNT; i++)
        bufpool_put(pool, blocks[i]);
    bufpool_put(pool, NULL);
    assert_int_equal(bufpool_used_bytes(pool), 0);
    bufpool_free(pool);
}

static void unused_slabs_go_back_to_the_system(void **state)
{
    enum { COUNT = 5110 }; /* ten slabs */
    static void *blocks[COUNT];
    struct bufpool *pool = bufpool_new(64 * MIB);
    for (int i = 0; i < COUNT; i++)
        blocks[i] = bufpool_get(pool);
    assert_int_equal(bufpool_held_bytes(pool), 10 * 2 * MIB);
    for (int i = 0; i < COUNT; i++)
        bufpool_put(pool, blocks[i]);
    assert_int_equal(bufpool_held_bytes(pool), 2 * 2 * MIB);
    bufpool_free(pool);
}

static void random_gets_and_puts_never_hold_more_than_the_peak(void **state)
{
    enum { COUNT = 3000 };
    static char *blocks[COUNT];
    struct bufpool *pool = bufpool_new(COUNT * BLOCK);
    memset(blocks, 0, sizeof(blocks));
    srand(3);
    for (int i = 0; i < 100000; i++) {
        int n = rand() % COUNT;
        if (!blocks[n]) {
            blocks[n] = bufpool_get(pool);
            assert_non_null(blocks[n]);
            *(int *)blocks[n] = n;
        } else {
            assert_int_equal(*(int *)blocks[n], n);
            bufpool_put(pool, blocks[n]);
            blocks[n] = NULL;
        }
        assert_true(bufpool_held_bytes(pool) <= (COUNT / 511 + 1 + 2) * 2 * MIB);
    }
    for (int i = 0; i < COUNT; i++)
        bufpool_put(pool, blocks[i]);
    bufpool_free(pool);
}

static void runs_are_counted_reused_and_capped(void **state)
{
    struct bufpool *pool = bufpool_new(4 * MIB);
    char *a = bufpool_get_run(pool, 248 * BLOCK);
    assert_int_equal((uintptr_t)a % BLOCK, 0);
    memset(a, 1, 248 * BLOCK);
    assert_int_equal(bufpool_used_bytes(pool), MIB);
    bufpool_put_run(pool, a, 248 * BLOCK);
    assert_int_equal(bufpool_used_bytes(pool), 0);
    assert_int_equal(bufpool_held_bytes(pool), MIB);
    char *b = bufpool_get_run(pool, 200 * BLOCK);
    assert_ptr_equal(a, b);
    /* Another size: what is kept makes room. */
    bufpool_put_run(pool, b, 200 * BLOCK);
    char *c = bufpool_get_run(pool, 4 * MIB);
    assert_non_null(c);
    memset(c, 2, 4 * MIB);
    assert_int_equal(bufpool_held_bytes(pool), 4 * MIB);
    assert_null(bufpool_get_run(pool, 1));
    bufpool_set_cap_bytes(pool, MIB);
    bufpool_put_run(pool, c, 4 * MIB);
    assert_int_equal(bufpool_held_bytes(pool), 0);
    assert_null(bufpool_get_run(pool, 2 * MIB));
    bufpool_free(pool);
}

static void a_crashed_node_gives_its_pool_back(void **state)
{
    struct bufpool *pool = bufpool_new(64 * MIB);
    for (int i = 0; i < 1000; i++)
        bufpool_get(pool);
    bufpool_get_run(pool, 5 * BLOCK);
    bufpool_put_run(pool, bufpool_get_run(pool, 100 * BLOCK), 100 * BLOCK);
    mem_release_all(&fake.env);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(blocks_are_distinct_aligned_and_capped),
        T(unused_slabs_go_back_to_the_system),
        T(random_gets_and_puts_never_hold_more_than_the_peak),
        T(runs_are_counted_reused_and_capped),
        T(a_crashed_node_gives_its_pool_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
