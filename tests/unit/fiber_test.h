/* SPDX-License-Identifier: Apache-2.0
 *
 * Tests that are a fiber of a fake env: FIBER_TEST(name) in the list of a `static void name(void *arg)`, which may
 * draw from rnd(). What it allocates it frees, or the test fails; what is left when it has failed goes with the env.
 */
#pragma once

#include "fake_env.h"

#include "common/mem.h"

static struct fake_env fake;
static uint64_t seed;

static inline uint64_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static inline int fiber_test_setup(void **state)
{
    seed = 0x5eed5eed5eed;
    fiber_sched_init(64);
    fake_env_init(&fake);
    fiber_set_default_env(&fake.env);
    return 0;
}

static inline int fiber_test_teardown(void **state)
{
    fiber_kill_env(&fake.env);
    mem_release_all(&fake.env);
    env_fini(&fake.env);
    fiber_sched_fini();
    return 0;
}

struct fiber_test {
    fiber_fn *fn;
    bool finished;
};

static inline void fiber_test_main(void *arg)
{
    struct fiber_test *test = arg;
    test->fn(NULL);
    test->finished = true;
}

static inline void fiber_test_run(void **state)
{
    struct fiber_test test = {.fn = *(fiber_fn **)*state};
    fake_env_run(&fake, fiber_test_main, &test);
    assert_true(test.finished);
    assert_int_equal(mem_used_bytes(&fake.env), 0);
}

#define FIBER_TEST(f)                                                                      \
    {                                                                                      \
        .name = #f, .test_func = fiber_test_run, .setup_func = fiber_test_setup,           \
        .teardown_func = fiber_test_teardown, .initial_state = &(struct { fiber_fn *fn; }) \
        {                                                                                  \
            f                                                                              \
        }                                                                                  \
    }
