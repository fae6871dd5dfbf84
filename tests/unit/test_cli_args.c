/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "common/check.h"
#include "common/mem.h"

#define WORDS_MAX 16

/* Splits `line` at spaces; "holdfast" is in front. */
static int parse(const char *line, struct args *ret_args, char **ret_error)
{
    static char copy[512];
    char *argv[WORDS_MAX + 1] = {(char *)"holdfast"}, *rest = copy;
    int argc = 1;
    snprintf(copy, sizeof(copy), "%s", line);
    for (char *word; (word = strsep(&rest, " ")) && argc < WORDS_MAX;)
        if (*word)
            argv[argc++] = word;
    *ret_error = NULL;
    return args_parse(commands, argc, argv, ret_args, ret_error);
}

static void good(const char *line, struct args *ret_args)
{
    char *error;
    int r = parse(line, ret_args, &error);
    if (r < 0)
        fail_msg("'%s': %s", line, error);
}

/* The complaint has to contain each of the texts. */
static void bad(const char *line, const char *text, const char *text2)
{
    struct args args;
    CLEANUP_FREE char *error = NULL;
    assert_int_equal(parse(line, &args, &error), -EINVAL);
    if (!strstr(error, text) || !strstr(error, text2))
        fail_msg("'%s': '%s' has no '%s' or no '%s'", line, error, text, text2);
}

static void test_commands_operands_and_options(void **state)
{
    struct args args;
    good("volume create vm1 --size 20GiB --pool=main", &args);
    assert_string_equal(args.command->verb, "create");
    assert_int_equal(args.operand_count, 1);
    assert_string_equal(args.operands[0], "vm1");
    assert_int_equal(args_number(&args, "size", 0), 20ull << 30);
    assert_string_equal(args_text(&args, "pool"), "main");
    assert_false(args.json);

    good("volume create --size=1.5T vm1", &args);
    assert_int_equal(args_number(&args, "size", 0), 3ull << 39);
    assert_false(args_has(&args, "pool"));
    assert_null(args_text(&args, "pool"));

    good("status", &args);
    assert_null(args.command->verb);
    good("top --interval 500ms --once", &args);
    assert_int_equal(args_number(&args, "interval", 0), 500000000);
    assert_true(args_has(&args, "once"));
    good("volume export vm1 -", &args);
    assert_string_equal(args.operands[1], "-");
}

static void test_common_options_go_anywhere(void **state)
{
    static const char *const lines[] = {"--json --socket /s volume list",
        "volume --json --socket=/s list", "volume list --json --socket /s"};
    for (unsigned i = 0; i < ARRAY_SIZE(lines); i++) {
        struct args args;
        good(lines[i], &args);
        assert_true(args.json);
        assert_string_equal(args.socket, "/s");
        assert_string_equal(args.command->verb, "list");
    }
}

static void test_after_two_dashes_all_are_operands(void **state)
{
    struct args args;
    good("volume delete -- --yes", &args);
    assert_string_equal(args.operands[0], "--yes");
    assert_false(args_has(&args, "yes"));
}

static void test_help_needs_nothing_else(void **state)
{
    static const char *const lines[] = {"--help", "-h", "help", "volume --help",
        "volume create --help", "help volume create", "volume help"};
    for (unsigned i = 0; i < ARRAY_SIZE(lines); i++) {
        struct args args;
        good(lines[i], &args);
        assert_true(args.help);
        assert_int_equal(args.command != NULL, strstr(lines[i], "create") != NULL);
        assert_int_equal(args.noun != NULL, strstr(lines[i], "volume") != NULL);
    }
}

static void test_what_is_wrong_is_named(void **state)
{
    bad("", "which command", "");
    bad("volume", "'volume'", "needs a command");
    bad("volume create vm1", "--size", "missing");
    bad("volume create --size 1G", "VOLUME", "missing");
    bad("volume resize vm1", "SIZE", "missing");
    bad("volume list vm1", "too many", "'vm1'");
    bad("volume create vm1 --size lots", "--size", "'lots'");
    bad("volume create vm1 --size -5", "--size", "'-5'");
    bad("volume create vm1 --size", "--size", "needs its SIZE");
    bad("volume create vm1 --size=", "--size", "needs its SIZE");
    bad("volume import a b --connections many", "--connections", "'many'");
    bad("top --interval soon", "--interval", "'soon'");
    bad("volume delete a --yes=1", "--yes", "no value");
    bad("volume delete a -y", "'-y'", "unknown option");
    bad("--force volume delete a", "'--force'", "come after it");
}

static void test_the_nearest_is_suggested(void **state)
{
    bad("volumes list", "'volumes'", "'volume'");
    bad("vol list", "'vol'", "'volume'");
    bad("satus", "'satus'", "'status'");
    bad("volume craete x", "'volume craete'", "'create'");
    bad("volume del x", "'volume del'", "'delete'");
    bad("volume create x --sise 1G", "'--sise'", "'--size'");
    bad("volume ls", "'volume ls'", "'list'");
    bad("volume rm x", "'volume rm'", "'delete'");
    bad("disk rm x", "'disk rm'", "'remove'");
    bad("volume mv x y", "'volume mv'", "'rename'");
    bad("disk list --jsn", "'--jsn'", "'--json'");
    struct args args;
    CLEANUP_FREE char *error = NULL;
    assert_int_equal(parse("frobnicate", &args, &error), -EINVAL);
    assert_null(strstr(error, "did you mean"));
}

/* The tables are right: every command explains itself, and its examples are commands. */
static void test_every_command_has_examples_that_parse(void **state)
{
    for (const struct command *c = commands; c->noun; c++) {
        unsigned option_count = 0;
        while (c->options[option_count].name)
            option_count++;
        assert_in_range(option_count, 0, ARGS_OPTIONS_MAX);
        assert_non_null(c->summary);
        assert_non_null(c->run);
        const char *found = strstr(c->examples, "holdfast ");
        assert_non_null(found);
        for (; found; found = strstr(found + 1, "holdfast ")) {
            char line[256];
            struct args args;
            size_t len = strcspn(found, "\n|>");
            snprintf(line, sizeof(line), "%.*s", (int)(len - 9), found + 9);
            if (found > c->examples && found[-1] == '/') /* a path: /srv/holdfast */
                continue;
            good(line, &args);
            assert_ptr_equal(args.command, c);
        }
    }
}

static void test_help_shows_usage_options_and_examples(void **state)
{
    for (const struct command *c = commands; c->noun; c++) {
        char *text = NULL;
        size_t len;
        FILE *out = open_memstream(&text, &len);
        args_print_command_help(out, c);
        fclose(out);
        assert_memory_equal(text, "Usage: holdfast ", 16);
        assert_non_null(strstr(text, "--json"));
        assert_non_null(strstr(text, "Examples:"));
        for (const struct option_spec *s = c->options; s->name; s++) {
            assert_non_null(strstr(text, s->name));
            assert_int_equal(s->value == NULL, s->kind == OPTION_FLAG);
        }
        for (const char *line = text; *line; line += strcspn(line, "\n") + 1)
            assert_in_range(strcspn(line, "\n"), 0, 100);
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_commands_operands_and_options),
        cmocka_unit_test(test_common_options_go_anywhere),
        cmocka_unit_test(test_after_two_dashes_all_are_operands),
        cmocka_unit_test(test_help_needs_nothing_else),
        cmocka_unit_test(test_what_is_wrong_is_named),
        cmocka_unit_test(test_the_nearest_is_suggested),
        cmocka_unit_test(test_every_command_has_examples_that_parse),
        cmocka_unit_test(test_help_shows_usage_options_and_examples),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
