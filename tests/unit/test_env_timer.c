/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_env.h"

#include <stdlib.h>

#include "common/check.h"
#include "common/env.h"

static struct fake_env fake;
static uint64_t fired_deadlines[1000];
static unsigned fired_count;

static void record(struct env_timer *timer)
{
    assert_false(env_timer_armed(timer));
    fired_deadlines[fired_count++] = timer->deadline_ns;
}

static int setup(void **state)
{
    fiber_sched_init(2);
    fake_env_init(&fake);
    fiber_set_default_env(&fake.env);
    fired_count = 0;
    return 0;
}

static int teardown(void **state)
{
    env_fini(&fake.env);
    fiber_sched_fini();
    return 0;
}

static void timers_fire_in_deadline_order_after_any_changes(void **state)
{
    struct env_timer timers[300];
    bool armed[300] = {0};
    srand(1);
    for (int i = 0; i < 300; i++)
        env_timer_init(&timers[i], record);
    for (int i = 0; i < 5000; i++) {
        int n = rand() % 300;
        armed[n] = rand() % 4 != 0;
        if (armed[n])
            env_timer_arm(&timers[n], rand() % 100);
        else
            env_timer_cancel(&timers[n]);
    }
    unsigned armed_count = 0;
    for (int i = 0; i < 300; i++) {
        assert_int_equal(env_timer_armed(&timers[i]), armed[i]);
        armed_count += armed[i];
    }
    assert_int_equal(env_timer_run(&fake.env, 1000), armed_count);
    for (unsigned i = 1; i < armed_count; i++)
        assert_true(fired_deadlines[i - 1] <= fired_deadlines[i]);
    assert_int_equal(env_timer_next_ns(&fake.env), UINT64_MAX);
}

static void equal_deadlines_fire_in_arming_order(void **state)
{
    struct env_timer timers[5];
    for (int i = 0; i < 5; i++)
        env_timer_init(&timers[i], record);
    for (int i = 0; i < 5; i++)
        env_timer_arm(&timers[4 - i], 7);
    struct env_timer *first = fake.env.timer_heap[1].timer;
    assert_ptr_equal(first, &timers[4]);
    env_timer_arm(&timers[4], 7); /* moved to the end of its equals */
    assert_ptr_equal(fake.env.timer_heap[1].timer, &timers[3]);
    assert_int_equal(env_timer_run(&fake.env, 6), 0);
    assert_int_equal(env_timer_run(&fake.env, 7), 5);
}

static void rearm(struct env_timer *timer)
{
    record(timer);
    env_timer_arm(timer, 0);
}

static void timer_rearmed_in_its_callback_waits_for_the_next_round(void **state)
{
    struct env_timer timer;
    env_timer_init(&timer, rearm);
    env_timer_arm(&timer, 0);
    assert_int_equal(env_timer_run(&fake.env, 10), 1);
    assert_int_equal(env_timer_run(&fake.env, 10), 1);
    assert_true(env_timer_armed(&timer));
    env_timer_cancel(&timer);
    env_timer_cancel(&timer);
    assert_int_equal(env_timer_run(&fake.env, 10), 0);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(timers_fire_in_deadline_order_after_any_changes),
        T(equal_deadlines_fire_in_arming_order),
        T(timer_rearmed_in_its_callback_waits_for_the_next_round),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
