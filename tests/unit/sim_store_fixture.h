/* SPDX-License-Identifier: Apache-2.0
 *
 * Tests whose body runs on a fiber of a simulated node that has a store in memory, between setup() and teardown() of
 * the test file:
 *
 *   static void name_of_the_test(void) { ... }
 *   TEST(name_of_the_test)                         and     cmocka_unit_test(name_of_the_test_)
 */
#pragma once

#include "common/store.h"
#include "sim_fixture.h"

static struct sim *sim;
static struct store_mem *mem;
static struct store *store;

static void setup(void);
static void teardown(void);

static void run_body(void *arg)
{
    mem = store_mem_new();
    store = store_mem_open(mem);
    setup();
    (*(void (**)(void))arg)();
    teardown();
    store_close(store);
    store_mem_free(mem);
}

static void run(void (*body)(void))
{
    setenv("CMOCKA_TEST_ABORT", "1", 1); /* no way back from a failed assertion inside a fiber */
    sim = sim_with(1);
    run_on(sim_node_new(sim, "n1"), run_body, &body);
    sim_free(sim);
}

#define TEST(name)                    \
    static void name##_(void **state) \
    {                                 \
        run(name);                    \
    }
