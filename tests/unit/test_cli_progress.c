/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "cli/progress.h"

#define S 1000000000ull
#define MIB (1ull << 20)

static void test_a_steady_rate_gives_the_time_left(void **state)
{
    struct progress p;
    progress_init(&p, "vm1", 1000 * MIB, 5 * S);
    assert_int_equal(progress_eta_s(&p), -1);
    for (unsigned i = 1; i <= 50; i++)
        assert_true(progress_update(&p, i * 10 * MIB, 5 * S + i * S / 10));
    assert_float_equal(p.rate, 100.0 * MIB, 1000);
    assert_int_equal(progress_eta_s(&p), 5);
}

static void test_the_rate_follows_a_change_smoothly(void **state)
{
    struct progress p;
    uint64_t done = 0, now = 0;
    progress_init(&p, "vm1", 100000 * MIB, now);
    for (unsigned i = 0; i < 100; i++)
        progress_update(&p, done += 10 * MIB, now += S / 10);
    progress_update(&p, done, now += S / 10); /* a hiccup */
    assert_true(p.rate > 90.0 * MIB);
    for (unsigned i = 0; i < 150; i++)
        progress_update(&p, done += 20 * MIB, now += S / 10);
    assert_true(p.rate > 195.0 * MIB && p.rate < 205.0 * MIB);
}

static void test_updates_are_due_ten_times_a_second(void **state)
{
    struct progress p;
    progress_init(&p, "vm1", 0, 0);
    unsigned due = 0;
    for (unsigned ms = 1; ms <= 1000; ms++)
        due += progress_update(&p, ms, ms * (S / 1000));
    assert_int_equal(due, 10);
    assert_int_equal(p.done_bytes, 1000);
}

static void test_the_line(void **state)
{
    char text[PROGRESS_LINE_BYTES];
    struct progress p;
    progress_init(&p, "vm1", 1024 * MIB, 0);
    progress_update(&p, 256 * MIB, 1 * S);
    progress_line(&p, 80, text);
    assert_string_equal(text, "vm1:  25%  256 MiB of 1 GiB  256 MiB/s  ETA 3 s");
    progress_line(&p, 120, text);
    assert_string_equal(
        text, "vm1: [======>                 ]  25%  256 MiB of 1 GiB  256 MiB/s  ETA 3 s");
    progress_update(&p, 1024 * MIB, 2 * S);
    progress_line(&p, 120, text);
    assert_non_null(strstr(text, "[========================] 100%"));
    progress_line(&p, 20, text);
    assert_int_equal(strlen(text), 20);
}

static void test_without_a_total_there_is_no_percentage(void **state)
{
    char text[PROGRESS_LINE_BYTES];
    struct progress p;
    progress_init(&p, "vm1", 0, 0);
    progress_update(&p, 64 * MIB, 2 * S);
    progress_line(&p, 80, text);
    assert_string_equal(text, "vm1: 64 MiB  32 MiB/s");
    assert_int_equal(progress_eta_s(&p), -1);
}

static void test_a_standstill_has_no_end(void **state)
{
    struct progress p;
    progress_init(&p, "vm1", 1024 * MIB, 0);
    progress_update(&p, 0, 10 * S);
    assert_int_equal(progress_eta_s(&p), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_steady_rate_gives_the_time_left),
        cmocka_unit_test(test_the_rate_follows_a_change_smoothly),
        cmocka_unit_test(test_updates_are_due_ten_times_a_second),
        cmocka_unit_test(test_the_line),
        cmocka_unit_test(test_without_a_total_there_is_no_percentage),
        cmocka_unit_test(test_a_standstill_has_no_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
