/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_env.h"

#include <string.h>

#include "common/fiber.h"
#include "common/mem.h"

static struct fake_env fake;

static int setup(void **state)
{
    fiber_sched_init(2);
    fake_env_init(&fake);
    fake.env.mem_track = *state != NULL;
    fiber_set_default_env(&fake.env);
    return 0;
}

static int teardown(void **state)
{
    fiber_set_default_env(NULL);
    env_fini(&fake.env);
    fiber_sched_fini();
    return 0;
}

static void used_bytes_follow_every_call(void **state)
{
    char *a = mem_alloc(100);
    memset(a, 1, 100);
    assert_int_equal(mem_used_bytes(&fake.env), 100);
    a = mem_realloc(a, 5000);
    assert_int_equal(a[99], 1);
    assert_int_equal(mem_used_bytes(&fake.env), 5000);
    char *b = mem_zalloc(10, 20);
    for (int i = 0; i < 200; i++)
        assert_int_equal(b[i], 0);
    assert_int_equal(mem_used_bytes(&fake.env), 5200);
    char *p = mem_alloc_pages(4097);
    assert_int_equal((uintptr_t)p % 4096, 0);
    memset(p, 2, 8192);
    assert_int_equal(mem_used_bytes(&fake.env), 5200 + 8192);
    mem_free_pages(p, 4097);
    mem_free(a);
    mem_free(b);
    mem_free(NULL);
    mem_free_pages(NULL, 100);
    assert_int_equal(mem_used_bytes(&fake.env), 0);
}

static void strings_are_copied_and_formatted(void **state)
{
    CLEANUP_FREE char *a = mem_strdup("holdfast");
    CLEANUP_FREE char *b = mem_printf("%s-%d", a, 42);
    CLEANUP_FREE void *unique = mem_alloc(0);
    assert_string_equal(b, "holdfast-42");
    assert_non_null(unique);
}

static void huge_pages_are_aligned_zeroed_and_returned(void **state)
{
    size_t huge = 2ul << 20;
    char *p = mem_alloc_pages(2 * huge);
    assert_int_equal((uintptr_t)p % huge, 0);
    assert_int_equal(p[0], 0);
    assert_int_equal(p[2 * huge - 1], 0);
    memset(p, 3, 2 * huge);
    mem_free_pages(p, 2 * huge);
    assert_int_equal(mem_used_bytes(&fake.env), 0);
}

static void release_all_frees_what_a_node_had(void **state)
{
    for (int i = 0; i < 10; i++) {
        mem_alloc(100);
        mem_realloc(mem_zalloc(1, 100), 200);
        mem_alloc_pages(4096);
    }
    mem_alloc_pages(2ul << 20);
    mem_release_all(&fake.env); /* the sanitizer run shows that nothing leaks */
    assert_int_equal(mem_used_bytes(&fake.env), 0);
}

static void before_any_env_memory_belongs_to_none(void **state)
{
    fiber_set_default_env(NULL);
    char *a = mem_strdup("startup");
    fiber_set_default_env(&fake.env);
    mem_free(a);
    assert_int_equal(mem_used_bytes(&fake.env), 0);
}

int main(void)
{
    static int yes;
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define TRACKED(name)                                   \
    {                                                   \
#name " (tracked)", name, setup, teardown, &yes \
    }
    const struct CMUnitTest tests[] = {
        T(used_bytes_follow_every_call),
        TRACKED(used_bytes_follow_every_call),
        T(strings_are_copied_and_formatted),
        T(huge_pages_are_aligned_zeroed_and_returned),
        TRACKED(huge_pages_are_aligned_zeroed_and_returned),
        TRACKED(release_all_frees_what_a_node_had),
        T(before_any_env_memory_belongs_to_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
