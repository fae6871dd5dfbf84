/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_env.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"

#define SECOND 1000000000ull

static char lines[64][1100];
static unsigned line_count;
static struct fake_env fake;

static void capture(void *ctx, enum log_level level, const char *line)
{
    assert_true(line_count < 64);
    strcpy(lines[line_count++], line);
}

static int setup(void **state)
{
    fiber_sched_init(2);
    fake_env_init(&fake);
    fake.env.name = "node2";
    fake.now_ns = 1700000000ull * SECOND + 123456789;
    fiber_set_default_env(&fake.env);
    log_set_output(capture, NULL);
    log_set_level(LOG_LEVEL_INFO);
    line_count = 0;
    return 0;
}

static int teardown(void **state)
{
    log_set_output(NULL, NULL);
    fiber_set_default_env(NULL);
    env_fini(&fake.env);
    fiber_sched_fini();
    return 0;
}

static void line_has_time_level_node_and_text(void **state)
{
    log_warn("disk %d: %s", 3, "gone");
    assert_string_equal(lines[0], "2023-11-14T22:13:20.123456Z warn node2: disk 3: gone");
    fake.env.name = NULL;
    log_error("x");
    assert_string_equal(lines[1], "2023-11-14T22:13:20.123456Z error x");
}

static void levels_above_the_set_one_are_dropped(void **state)
{
    enum log_level level;
    log_debug("no");
    log_info("yes");
    log_set_level(LOG_LEVEL_DEBUG);
    log_debug("yes");
    log_set_level(LOG_LEVEL_ERROR);
    log_warn("no");
    assert_int_equal(line_count, 2);
    assert_true(log_level_parse("debug", &level) && level == LOG_LEVEL_DEBUG);
    assert_false(log_level_parse("loud", &level));
}

static void names_cannot_forge_lines_and_long_ones_are_cut(void **state)
{
    static char name[5000];
    log_info("export '%s'", "a\nb\033[1m\x7f");
    assert_non_null(strstr(lines[0], "export 'a?b?[1m?'"));
    memset(name, 'x', sizeof(name) - 1);
    log_info("%s", name);
    assert_true(strlen(lines[1]) < 1024);
}

static void warn_at_one_site(int n)
{
    log_warn_limited("peer sent garbage %d", n);
}

static void limited_site_says_what_it_left_out(void **state)
{
    for (int i = 0; i < 100; i++)
        warn_at_one_site(i);
    assert_int_equal(line_count, 5);
    fake.now_ns += 11 * SECOND;
    warn_at_one_site(100);
    warn_at_one_site(101);
    assert_int_equal(line_count, 7);
    assert_non_null(strstr(lines[5], "garbage 100 (95 more like this left out)"));
    assert_null(strstr(lines[6], "left out"));
    log_warn_limited("another site"); /* has a count of its own */
    assert_int_equal(line_count, 8);
}

static void stderr_gets_one_whole_line(void **state)
{
    int fds[2], saved = dup(STDERR_FILENO);
    char got[200] = {0};
    log_set_output(NULL, NULL);
    assert_int_equal(pipe(fds), 0);
    dup2(fds[1], STDERR_FILENO);
    log_info("to stderr");
    dup2(saved, STDERR_FILENO);
    assert_true(read(fds[0], got, sizeof(got) - 1) > 0);
    assert_string_equal(got, "2023-11-14T22:13:20.123456Z info node2: to stderr\n");
    close(fds[0]);
    close(fds[1]);
    close(saved);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(line_has_time_level_node_and_text),
        T(levels_above_the_set_one_are_dropped),
        T(names_cannot_forge_lines_and_long_ones_are_cut),
        T(limited_site_says_what_it_left_out),
        T(stderr_gets_one_whole_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
