/* SPDX-License-Identifier: Apache-2.0
 *
 * The small pure parts of the command: zero detection, edit distance, tables, rates, addresses,
 * image formats.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/image.h"
#include "cli/nbd_link.h"
#include "cli/nearest.h"
#include "cli/rates.h"
#include "cli/table.h"
#include "cli/zero.h"
#include "common/check.h"
#include "common/mem.h"

/* --- zero.c ---------------------------------------------------------------------------------- */

static void test_one_bit_anywhere_is_not_zero(void **state)
{
    unsigned char data[300] = {0};
    for (size_t len = 0; len <= sizeof(data); len += 7)
        assert_true(zero_is(data, len));
    for (size_t i = 0; i < sizeof(data); i++) {
        data[i] = 1u << i % 8;
        assert_false(zero_is(data, sizeof(data)));
        assert_true(zero_is(data, i));
        data[i] = 0;
    }
}

static void test_runs_are_of_whole_blocks(void **state)
{
    enum { BLOCK = ZERO_BLOCK_BYTES };
    char *data = calloc(8, BLOCK);
    bool zero;
    assert_int_equal(zero_run(data, 8 * BLOCK, &zero), 8 * BLOCK);
    assert_true(zero);
    data[2 * BLOCK + 5] = 1;
    data[4 * BLOCK - 1] = 1;
    assert_int_equal(zero_run(data, 8 * BLOCK, &zero), 2 * BLOCK);
    assert_true(zero);
    assert_int_equal(zero_run(data + 2 * BLOCK, 6 * BLOCK, &zero), 2 * BLOCK);
    assert_false(zero);
    /* The last block is short. */
    assert_int_equal(zero_run(data + 4 * BLOCK, BLOCK + 10, &zero), BLOCK + 10);
    assert_true(zero);
    assert_int_equal(zero_run(data + 2 * BLOCK, 10, &zero), 10);
    assert_false(zero);
    free(data);
}

/* --- nearest.c ------------------------------------------------------------------------------- */

static void test_edit_distance(void **state)
{
    assert_int_equal(nearest_distance("", ""), 0);
    assert_int_equal(nearest_distance("list", "list"), 0);
    assert_int_equal(nearest_distance("lst", "list"), 1);
    assert_int_equal(nearest_distance("lists", "list"), 1);
    assert_int_equal(nearest_distance("lsit", "list"), 1); /* neighbours swapped */
    assert_int_equal(nearest_distance("kitten", "sitting"), 3);
    assert_int_equal(nearest_distance("", "list"), 4);
    char longer[100];
    memset(longer, 'x', sizeof(longer));
    longer[99] = 0;
    assert_int_equal(nearest_distance(longer, "list"), UINT_MAX);
}

/* --- table.c --------------------------------------------------------------------------------- */

static void test_columns_are_aligned(void **state)
{
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    struct table *table = table_new("lrl", "NAME", "SIZE", "PATH");
    table_add(table, "a", "1 GiB", "/x");
    table_add(table, "volume", "", NULL);
    table_add(table, "\xc3\xa9t\xc3\xa9", "12 GiB", "/y"); /* 3 columns, 5 bytes */
    table_print(table, out);
    fclose(out);
    assert_string_equal(text, "NAME      SIZE  PATH\n"
                              "a        1 GiB  /x\n"
                              "volume       -  -\n"
                              "\xc3\xa9t\xc3\xa9     12 GiB  /y\n");
    free(text);
}

/* --- rates.c --------------------------------------------------------------------------------- */

static json_t *volume_stats(json_int_t reads, json_int_t bytes, json_int_t latency_ns,
    unsigned bucket, json_int_t in_bucket)
{
    json_t *buckets = json_array();
    for (unsigned i = 0; i < 24; i++)
        json_array_append_new(buckets, json_integer(i == bucket ? in_bucket : 0));
    return json_pack("{s:s, s:I, s:I, s:I, s:o}", "name", "v", "reads", reads, "read_bytes", bytes,
        "read_latency_ns_sum", latency_ns, "read_latency_us", buckets);
}

static void test_rates_are_of_the_interval(void **state)
{
    json_t *before = volume_stats(1000, 4096000, 500000000, 6, 1000);
    json_t *after = volume_stats(3000, 12288000, 700000000, 6, 3000);
    struct volume_rates rates;
    rates_compute(before, after, 2.0, &rates);
    assert_string_equal(rates.name, "v");
    assert_float_equal(rates.read.per_s, 1000, 0.001);
    assert_float_equal(rates.read.bytes_per_s, 4096000, 0.001);
    assert_float_equal(rates.read.latency_us_mean, 100, 0.001);
    assert_float_equal(rates.read.latency_us_p99, 64 + 64 * 0.99, 0.001);
    assert_float_equal(rates.write.per_s, 0, 0);
    assert_float_equal(rates.write.latency_us_p99, 0, 0);
    json_decref(before);
    json_decref(after);
}

static void test_counters_that_began_anew_are_taken_from_zero(void **state)
{
    json_t *before = volume_stats(1000, 4096000, 500000000, 6, 1000);
    json_t *after = volume_stats(10, 40960, 1000000, 3, 10);
    struct volume_rates rates;
    rates_compute(before, after, 1.0, &rates);
    assert_float_equal(rates.read.per_s, 10, 0.001);
    assert_float_equal(rates.read.latency_us_mean, 100, 0.001);
    assert_true(rates.read.latency_us_p99 <= 16);
    rates_compute(NULL, after, 1.0, &rates); /* opened meanwhile */
    assert_float_equal(rates.read.per_s, 10, 0.001);
    json_decref(before);
    json_decref(after);
}

/* --- nbd_link.c ------------------------------------------------------------------------------ */

static void test_addresses_become_uris(void **state)
{
    static const char *const cases[][2] = {
        {"unix:/run/holdfast/nbd.sock", "nbd+unix:///vm1?socket=/run/holdfast/nbd.sock"},
        {"/tmp/a b.sock", "nbd+unix:///vm1?socket=/tmp/a%20b.sock"},
        {"tcp:10.0.0.1:10809", "nbd://10.0.0.1:10809/vm1"},
        {"tcp:0.0.0.0:10809", "nbd://localhost:10809/vm1"},
        {"tcp:[::]:10809", "nbd://localhost:10809/vm1"},
        {"nbd://host", "nbd://host/vm1"},
        {"nbd://host/", "nbd://host/vm1"},
        {"nbd://host/other", "nbd://host/other"},
        {"nbd+unix://?socket=/s", "nbd+unix:///vm1?socket=/s"},
        {"nbd+unix:///?socket=/s", "nbd+unix:///vm1?socket=/s"},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        CLEANUP_FREE char *uri = nbd_link_uri(cases[i][0], "vm1");
        assert_string_equal(uri, cases[i][1]);
    }
}

/* --- image.c --------------------------------------------------------------------------------- */

static const char *format_of(const void *bytes, size_t len)
{
    char path[] = "/tmp/test_cli_parts.XXXXXX";
    int fd = mkstemp(path);
    unlink(path);
    assert_int_equal(write(fd, bytes, len), len);
    const char *format = image_format(fd);
    close(fd);
    return format;
}

static void test_image_formats_are_told_from_raw_data(void **state)
{
    char data[600] = {0};
    assert_null(format_of(data, 0));
    assert_null(format_of(data, 3));
    assert_null(format_of(data, sizeof(data)));
    strcpy(data + 510, "\x55\xaa"); /* a boot sector is raw */
    assert_null(format_of(data, sizeof(data)));
    assert_string_equal(format_of("QFI\xfb\0\0\0\3", 8), "qcow2");
    assert_string_equal(format_of("vhdxfile....", 12), "VHDX");
    memcpy(data + 64, "\x7f\x10\xda\xbe", 4);
    assert_string_equal(format_of(data, sizeof(data)), "VDI");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_bit_anywhere_is_not_zero),
        cmocka_unit_test(test_runs_are_of_whole_blocks),
        cmocka_unit_test(test_edit_distance),
        cmocka_unit_test(test_columns_are_aligned),
        cmocka_unit_test(test_rates_are_of_the_interval),
        cmocka_unit_test(test_counters_that_began_anew_are_taken_from_zero),
        cmocka_unit_test(test_addresses_become_uris),
        cmocka_unit_test(test_image_formats_are_told_from_raw_data),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
