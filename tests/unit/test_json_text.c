/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_env.h"

#include <stdlib.h>
#include <string.h>

#include "common/json_text.h"
#include "common/mem.h"

static void assert_refused(const char *text, const char *because)
{
    CLEANUP_FREE char *error = NULL;
    assert_null(json_text_decode(text, strlen(text), &error));
    assert_non_null(strstr(error, because));
}

static void object_is_decoded(void **state)
{
    CLEANUP_FREE char *error = NULL;
    const char *text = "{\"a\": {\"b\": [[[[1, \"]]}\\\"}{[[\"]]]]}}";
    json_t *json = json_text_decode(text, strlen(text), &error);
    assert_true(json_is_object(json_object_get(json, "a")));
    json_decref(json);
}

static void anything_else_is_refused_with_a_reason(void **state)
{
    assert_refused("", "not JSON");
    assert_refused("{\"a\":1,\"a\":2}", "duplicate");
    assert_refused("{\"a\":1} x", "not JSON");
    assert_refused("[1]", "not a JSON object");
    assert_refused("{\"a\":\"\\u0000\"}", "not JSON");
    assert_refused("{\"a\":\"\xff\"}", "not JSON");
}

/* On a fiber's stack of 64 KiB, which jansson's own limit of 2048 levels overflows. */
static void deep(void *arg)
{
    static char text[100000];
    memset(text, '[', sizeof(text) - 1);
    assert_refused(text, "nested deeper");
    for (unsigned i = 0; i + 5 < sizeof(text); i += 5)
        memcpy(text + i, "{\"a\":", 5);
    assert_refused(text, "nested deeper");
    char some[64] = "{\"a\":";
    for (unsigned i = 0; i < JSON_DEPTH_MAX - 1; i++)
        strcat(some, "[");
    assert_refused(some, "not JSON");
    strcat(some, "[");
    assert_refused(some, "nested deeper");
    *(bool *)arg = true;
}

static void deep_nesting_is_refused_within_a_fibers_stack(void **state)
{
    struct fake_env fake;
    bool done = false;
    fiber_sched_init(2);
    fake_env_init(&fake);
    fake_env_run(&fake, deep, &done);
    assert_true(done);
    fiber_set_default_env(NULL);
    env_fini(&fake.env);
    fiber_sched_fini();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(object_is_decoded),
        cmocka_unit_test(anything_else_is_refused_with_a_reason),
        cmocka_unit_test(deep_nesting_is_refused_within_a_fibers_stack),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
