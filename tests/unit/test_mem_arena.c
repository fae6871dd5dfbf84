/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_env.h"

#include <string.h>

#include "common/mem_arena.h"

#define PIECES_MAX 100

static void takes_powers_of_two_from_64_kib_to_1_mib(void **state)
{
    assert_true(mem_arena_takes(64 << 10));
    assert_true(mem_arena_takes(1 << 20));
    assert_false(mem_arena_takes(32 << 10));
    assert_false(mem_arena_takes(2 << 20));
    assert_false(mem_arena_takes(68 << 10));
    assert_false(mem_arena_takes(0));
}

static void buffers_are_aligned_and_do_not_overlap(void **state)
{
    for (size_t bytes = 64 << 10; bytes <= 1 << 20; bytes *= 2) {
        char *pieces[PIECES_MAX];
        for (unsigned i = 0; i < PIECES_MAX; i++) {
            pieces[i] = mem_arena_alloc(bytes);
            assert_non_null(pieces[i]);
            assert_int_equal((uintptr_t)pieces[i] % bytes, 0);
            memset(pieces[i], (int)i, 1);
            memset(pieces[i] + bytes - 1, (int)i, 1);
        }
        for (unsigned i = 0; i < PIECES_MAX; i++) {
            assert_int_equal(pieces[i][0], i);
            assert_int_equal(pieces[i][bytes - 1], i);
        }
        /* Every third, then the rest: arenas fill again and go one by one. */
        for (unsigned step = 0; step < 3; step++) {
            for (unsigned i = step; i < PIECES_MAX; i += 3)
                mem_arena_free(pieces[i], bytes);
        }
    }
}

static void a_freed_buffer_is_used_again(void **state)
{
    char *a = mem_arena_alloc(256 << 10);
    char *b = mem_arena_alloc(256 << 10);
    assert_ptr_not_equal(a, b);
    mem_arena_free(a, 256 << 10);
    assert_ptr_equal(mem_arena_alloc(256 << 10), a);
    mem_arena_free(a, 256 << 10);
    mem_arena_free(b, 256 << 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_powers_of_two_from_64_kib_to_1_mib),
        cmocka_unit_test(buffers_are_aligned_and_do_not_overlap),
        cmocka_unit_test(a_freed_buffer_is_used_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
