/* SPDX-License-Identifier: Apache-2.0
 *
 * Tests whose body runs on a fiber of a fake env, between setup() and teardown() of the test file:
 *
 *   BODY(name_of_the_test) { ... }        and     cmocka_unit_test(name_of_the_test)
 *
 * What the three allocate is freed at the end, or the test fails. FAKE_FIBERS, defined before, is the size of the pool.
 */
#pragma once

#include "fake_env.h"

#include <stdlib.h>

#include "common/log.h"
#include "common/mem.h"

#ifndef FAKE_FIBERS
#define FAKE_FIBERS 16
#endif

static void setup(void);
static void teardown(void);

struct fake_fixture {
    void (*body)(void);
    bool finished;
};

static void fake_fixture_main(void *arg)
{
    struct fake_fixture *fixture = arg;
    setup();
    fixture->body();
    teardown();
    fixture->finished = true;
}

static void fake_fixture_run(void (*body)(void))
{
    struct fake_env fake;
    struct fake_fixture fixture = {.body = body};
    setenv("CMOCKA_TEST_ABORT", "1", 1); /* no way back from a failed assertion inside a fiber */
    fiber_sched_init(FAKE_FIBERS);
    fake_env_init(&fake);
    log_set_level(LOG_LEVEL_ERROR);
    fake_env_run(&fake, fake_fixture_main, &fixture);
    assert_true(fixture.finished);
    assert_int_equal(mem_used_bytes(&fake.env), 0);
    fiber_set_default_env(NULL);
    env_fini(&fake.env);
    fiber_sched_fini();
}

#define BODY(name)                     \
    static void name##_body(void);     \
    static void name(void **state)     \
    {                                  \
        fake_fixture_run(name##_body); \
    }                                  \
    static void name##_body(void)
