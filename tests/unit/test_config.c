/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_env.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/config.h"
#include "common/mem.h"

#define MIB (1ull << 20)
#define MS 1000000ull

static const char *const modes[] = {"fast", "safe", NULL};

/* What a program would ask for. */
struct settings {
    const char *path, *listen[3];
    uint64_t budget, ttl, count;
    bool sync;
    unsigned mode;
};

static struct settings ask_all(struct config *c)
{
    return (struct settings){
        .path = config_string(c, "node", "path", "/default"),
        .listen = {config_string_nth(c, "node", "listen", 0),
            config_string_nth(c, "node", "listen", 1), config_string_nth(c, "node", "listen", 2)},
        .budget = config_size_bytes(c, "memory", "budget", 64 * MIB, MIB, 1024 * MIB),
        .ttl = config_duration_ns(c, "node", "ttl", 5000 * MS, 100 * MS, 60000 * MS),
        .count = config_u64(c, "node", "count", 3, 1, 10),
        .sync = config_bool(c, "node", "sync", true),
        .mode = config_enum(c, "node", "mode", modes, 1),
    };
}

static void values_are_read_and_defaults_fill_in(void **state)
{
    struct config *c;
    char *error;
    assert_int_equal(
        config_parse("f",
            "# comment\n[node]\npath = /a b/c ; why\nlisten=unix:/x\nlisten = tcp:[::1]:1\n"
            "ttl = 250ms\nsync = off\n\n; more\n[memory]\nbudget = 128 MiB",
            &c, &error),
        0);
    struct settings s = ask_all(c);
    assert_int_equal(config_finish(c, &error), 0);
    assert_string_equal(s.path, "/a b/c");
    assert_string_equal(s.listen[0], "unix:/x");
    assert_string_equal(s.listen[1], "tcp:[::1]:1");
    assert_null(s.listen[2]);
    assert_int_equal(s.ttl, 250 * MS);
    assert_int_equal(s.budget, 128 * MIB);
    assert_int_equal(s.count, 3);
    assert_false(s.sync);
    assert_int_equal(s.mode, 1);
    config_free(c);
}

/* The error that `text` leads to. */
static void expect_error(const char *text, const char *expected)
{
    struct config *c = NULL;
    char *error = NULL;
    int rc = config_parse("f.conf", text, &c, &error);
    if (rc == 0) {
        ask_all(c);
        rc = config_finish(c, &error);
    }
    assert_int_equal(rc, -EINVAL);
    assert_string_equal(error, expected);
    mem_free(error);
    config_free(c);
}

static void errors_name_line_key_and_what_is_allowed(void **state)
{
    expect_error(
        "[node]\n\nmode = quick\n", "f.conf:3: [node] mode = 'quick' is not one of: fast, safe");
    expect_error("[memory]\nbudget = lots\n", "f.conf:2: [memory] budget = 'lots' is not a size; "
                                              "write for example 64MiB (B, KiB, MiB, GiB, TiB)");
    expect_error(
        "[memory]\nbudget = 2TiB\n", "f.conf:2: [memory] budget = '2TiB' is outside 1MiB to 1GiB");
    expect_error("[memory]\nbudget = 99999999999999999999\n",
        "f.conf:2: [memory] budget = '99999999999999999999' is outside 1MiB to 1GiB");
    expect_error("[node]\nttl = 5\n", "f.conf:2: [node] ttl = '5' is not a duration; write for "
                                      "example 5s (ns, us, ms, s, min, h, d)");
    expect_error("[node]\nttl = 1ms\n", "f.conf:2: [node] ttl = '1ms' is outside 100ms to 1min");
    expect_error("[node]\ncount = -1\n", "f.conf:2: [node] count = '-1' is not a whole number");
    expect_error("[node]\ncount = 3x\n", "f.conf:2: [node] count = '3x' is not a whole number");
    expect_error("[node]\ncount = 11\n", "f.conf:2: [node] count = '11' is outside 1 to 10");
    expect_error("[node]\nsync = maybe\n",
        "f.conf:2: [node] sync = 'maybe' is not one of: yes, no, true, false, on, off, 1, 0");
    expect_error(
        "[memory]\nbugdet = 1\n", "f.conf:2: unknown key 'bugdet' in [memory]; known: budget");
    expect_error(
        "[nodes]\npath = 1\n", "f.conf:2: unknown section [nodes]; known: [node], [memory]");
    expect_error(
        "path = 1\n", "f.conf:1: 'path' stands before any [section]; known: [node], [memory]");
    expect_error(
        "[node]\npath = 1\n\npath = 2\n", "f.conf:4: [node] path is set twice, first in line 2");
    expect_error("[node]\nrubbish\n", "f.conf:2: neither [section], key = value nor a comment");
}

static void long_lines_are_refused_whole(void **state)
{
    char text[400] = "[node]\npath = ";
    memset(text + strlen(text), 'x', 300);
    strcat(text, "\n");
    expect_error(text, "f.conf:2: a line has at most 198 characters");
}

static void named_sections_are_found_in_order(void **state)
{
    struct config *c;
    char *error;
    assert_int_equal(
        config_parse("f", "[pool a]\nk=1\n[pool b]\nk=2\n[poolish]\nx=1\n", &c, &error), 0);
    const char *section;
    uint64_t sum = 0;
    for (unsigned i = 0; (section = config_section_nth(c, "pool", i)); i++)
        sum = sum * 10 + config_u64(c, section, "k", 0, 0, 9);
    assert_int_equal(sum, 12);
    assert_int_equal(config_finish(c, &error), -EINVAL);
    assert_string_equal(
        error, "f:6: unknown section [poolish]; known: [pool NAME], [pool a], [pool b]");
    mem_free(error);
    config_reject(c, "pool a", "k", "is silly"); /* only the first error is kept */
    config_free(c);
}

static void rejected_value_is_named(void **state)
{
    struct config *c;
    char *error;
    assert_int_equal(config_parse("f", "[node]\nlisten = what\n", &c, &error), 0);
    config_string_nth(c, "node", "listen", 0);
    config_reject(c, "node", "listen", "is no address");
    assert_int_equal(config_finish(c, &error), -EINVAL);
    assert_string_equal(error, "f:2: [node] listen = 'what' is no address");
    mem_free(error);
    config_free(c);
}

static void files_are_loaded_and_missing_or_binary_ones_reported(void **state)
{
    struct config *c;
    char *error, path[] = "/tmp/holdfast-config-XXXXXX";
    int fd = mkstemp(path);
    assert_int_equal(config_load("/nonexistent/x.conf", &c, &error), -ENOENT);
    assert_string_equal(error, "/nonexistent/x.conf: No such file or directory");
    mem_free(error);
    assert_int_equal(write(fd, "[node]\npath=/p\n", 15), 15);
    assert_int_equal(config_load(path, &c, &error), 0);
    assert_string_equal(ask_all(c).path, "/p");
    config_free(c);
    assert_int_equal(write(fd, "\0", 1), 1);
    assert_int_equal(config_load(path, &c, &error), -EINVAL);
    mem_free(error);
    close(fd);
    unlink(path);
    assert_int_equal(config_load(NULL, &c, &error), 0);
    assert_string_equal(ask_all(c).path, "/default");
    assert_int_equal(config_finish(c, &error), 0);
    config_free(c);
}

static void sizes_and_durations(void **state)
{
    uint64_t v;
    assert_int_equal(config_text_size_bytes("4096", &v), 0);
    assert_int_equal(v, 4096);
    assert_int_equal(config_text_size_bytes("2T", &v), 0);
    assert_int_equal(v, 2ull << 40);
    assert_int_equal(config_text_size_bytes("1 GiB", &v), 0);
    assert_int_equal(v, 1ull << 30);
    static const char *const bad[] = {"", " 1", "-1", "+1", "1.5G", "1kB", "G", "1GiBs", "0x10"};
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(config_text_size_bytes(bad[i], &v), -EINVAL);
    assert_int_equal(config_text_size_bytes("99999999TiB", &v), -ERANGE);
    assert_int_equal(config_text_duration_ns("0", &v), 0);
    assert_int_equal(v, 0);
    assert_int_equal(config_text_duration_ns("2 h", &v), 0);
    assert_int_equal(v, 7200000 * MS);
    assert_int_equal(config_text_duration_ns("10", &v), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_read_and_defaults_fill_in),
        cmocka_unit_test(errors_name_line_key_and_what_is_allowed),
        cmocka_unit_test(long_lines_are_refused_whole),
        cmocka_unit_test(named_sections_are_found_in_order),
        cmocka_unit_test(rejected_value_is_named),
        cmocka_unit_test(files_are_loaded_and_missing_or_binary_ones_reported),
        cmocka_unit_test(sizes_and_durations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
