/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "common/check.h"
#include "common/units.h"

static void sizes_are_parsed_as_people_write_them(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {
        {"0", 0},
        {"512", 512},
        {"512B", 512},
        {"1k", 1024},
        {"1 KiB", 1024},
        {"10GiB", 10ull << 30},
        {"10G", 10ull << 30},
        {"10gb", 10ull << 30},
        {"512MiB", 512ull << 20},
        {"1.5T", 3ull << 39},
        {"0.5P", 1ull << 49},
        {"9223372036854775807", INT64_MAX},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(good); i++) {
        uint64_t bytes = 1;
        if (size_parse(good[i].text, &bytes) != 0 || bytes != good[i].bytes)
            fail_msg("%s gave %lu", good[i].text, bytes);
    }
    static const char *const bad[] = {"", "G", "-1", "1.G", "1.5", "1..5G", "10GG", "10 GiB ",
        "10Gi", "10X", "lots", " 10", "0x10", "1e3"};
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        uint64_t bytes = 77;
        if (size_parse(bad[i], &bytes) != -EINVAL || bytes != 77)
            fail_msg("'%s' gave %lu", bad[i], bytes);
    }
    uint64_t bytes;
    assert_int_equal(size_parse("9223372036854775808", &bytes), -ERANGE);
    assert_int_equal(size_parse("8192P", &bytes), -ERANGE);
    assert_int_equal(size_parse("99999999999999999999999", &bytes), -ERANGE);
}

static void assert_size(uint64_t bytes, const char *want)
{
    char text[SIZE_TEXT_BYTES];
    assert_string_equal(size_format(bytes, text), want);
}

static void sizes_are_shown_with_three_digits(void **state)
{
    assert_size(0, "0 B");
    assert_size(1023, "1023 B");
    assert_size(1024, "1 KiB");
    assert_size(1536, "1.50 KiB");
    assert_size(10ull << 30, "10 GiB");
    assert_size((10ull << 30) + (1 << 29), "10.5 GiB");
    assert_size((100ull << 30) + (1 << 29), "100 GiB");
    assert_size(1023ull << 30, "1023 GiB");
    assert_size(UINT64_MAX, "15.9 EiB");
}

static void durations_are_parsed(void **state)
{
    uint64_t ns;
    assert_int_equal(duration_parse("90", &ns), 0);
    assert_int_equal(ns, 90000000000);
    assert_int_equal(duration_parse("250ms", &ns), 0);
    assert_int_equal(ns, 250000000);
    assert_int_equal(duration_parse("1.5 h", &ns), 0);
    assert_int_equal(ns, 5400000000000);
    assert_int_equal(duration_parse("1w", &ns), 0);
    assert_int_equal(ns, 604800000000000);
    static const char *const bad[] = {"", "s", "5 ", "5x", "-1s", "5S", "1h30m"};
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(duration_parse(bad[i], &ns), -EINVAL);
    assert_int_equal(duration_parse("99999999w", &ns), -ERANGE);
}

static void assert_duration(uint64_t ns, const char *want)
{
    char text[DURATION_TEXT_BYTES];
    assert_string_equal(duration_format(ns, text), want);
}

static void durations_are_shown_in_two_units(void **state)
{
    assert_duration(0, "0 us");
    assert_duration(1500, "1.50 us");
    assert_duration(350 * 1000000ull, "350 ms");
    assert_duration(1200 * 1000000ull, "1.20 s");
    assert_duration(125 * 1000000000ull, "2m 05s");
    assert_duration(7500 * 1000000000ull, "2h 05m");
    assert_duration(76 * 3600 * 1000000000ull, "3d 4h");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_parsed_as_people_write_them),
        cmocka_unit_test(sizes_are_shown_with_three_digits),
        cmocka_unit_test(durations_are_parsed),
        cmocka_unit_test(durations_are_shown_in_two_units),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
