/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/args.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/nearest.h"
#include "common/check.h"
#include "common/mem.h"
#include "common/units.h"

static const struct option_spec common_options[] = {
    {"json", OPTION_FLAG, NULL, "print the daemon's answer as JSON"},
    {"socket", OPTION_TEXT, "PATH",
        "the daemon's admin socket [HOLDFAST_SOCKET, or /run/holdfast/admin.sock]"},
    {"help", OPTION_FLAG, NULL, "show this and exit"},
    {"version", OPTION_FLAG, NULL, "show the version and exit"},
    {0},
};

/* --- Parsing --------------------------------------------------------------------------------- */

struct parser {
    const struct command *commands;
    char **argv; /* what is left; ends with NULL */
    struct args *args;
    char *error;
};

static int wrong(struct parser *parser, char *text)
{
    mem_free(parser->error);
    parser->error = text;
    return -EINVAL;
}

/* What other programs call it. */
static const char *const synonyms[][2] = {{"ls", "list"}, {"rm", "delete"}, {"rm", "remove"},
    {"delete", "remove"}, {"remove", "delete"}, {"destroy", "delete"}, {"mv", "rename"},
    {"move", "rename"}, {"show", "info"}, {"show", "list"}, {"grow", "resize"}, {"new", "create"},
    {"make", "create"}, {"mkfs", "format"}, {"init", "format"}, {"load", "import"},
    {"save", "export"}, {"sync", "flush"}, {"stats", "top"}, {"info", "status"}};

static void offer(struct nearest *nearest, const char *candidate)
{
    nearest_offer(nearest, candidate);
    for (unsigned i = 0; candidate && i < ARRAY_SIZE(synonyms); i++)
        if (strcmp(synonyms[i][0], nearest->word) == 0 && strcmp(synonyms[i][1], candidate) == 0)
            nearest_choose(nearest, candidate);
}

static void add_candidates(const struct parser *parser, struct nearest *nearest)
{
    const struct args *args = parser->args;
    for (const struct command *c = parser->commands; c->noun; c++) {
        if (!args->noun)
            offer(nearest, c->noun);
        else if (strcmp(c->noun, args->noun) == 0)
            offer(nearest, c->verb);
    }
}

/* A word before the command is complete: its noun or its verb. */
static int take_command_word(struct parser *parser, const char *word)
{
    struct args *args = parser->args;
    bool noun_known = false;
    for (const struct command *c = parser->commands; c->noun; c++) {
        if (!args->noun) {
            noun_known |= strcmp(c->noun, word) == 0;
            if (strcmp(c->noun, word) == 0 && !c->verb)
                args->command = c;
        } else if (strcmp(c->noun, args->noun) == 0 && strcmp(c->verb, word) == 0) {
            args->command = c;
        }
    }
    if (args->command || noun_known) {
        if (!args->noun)
            args->noun = word;
        return 0;
    }
    struct nearest nearest;
    nearest_init(&nearest, word);
    add_candidates(parser, &nearest);
    CLEANUP_FREE char *hint =
        nearest.best ? mem_printf("; did you mean '%s'?", nearest.best) : mem_strdup("");
    return wrong(parser, mem_printf("unknown command '%s%s%s'%s", args->noun ? args->noun : "",
                             args->noun ? " " : "", word, hint));
}

static unsigned operand_limit(const struct command *command)
{
    unsigned count = command->operands[0] != 0;
    for (const char *p = command->operands; *p; p++)
        count += *p == ' ';
    return count;
}

static int take_word(struct parser *parser, const char *word)
{
    struct args *args = parser->args;
    if (!args->command && strcmp(word, "help") == 0) {
        args->help = true;
        return 0;
    }
    if (!args->command)
        return take_command_word(parser, word);
    if (args->operand_count == operand_limit(args->command))
        return wrong(parser, mem_printf("one word too many: '%s'", word));
    CHECK(args->operand_count < ARGS_OPERANDS_MAX);
    args->operands[args->operand_count++] = word;
    return 0;
}

static int read_value(struct parser *parser, const struct option_spec *spec, const char *text,
    struct args_value *value)
{
    char *end;
    *value = (struct args_value){.given = true, .text = text};
    switch (spec->kind) {
    case OPTION_SIZE:
        if (size_parse(text, &value->number) == 0)
            return 0;
        return wrong(parser,
            mem_printf("--%s: '%s' is not a size: bytes, or a number with KiB, MiB, GiB or TiB, "
                       "for example 20GiB",
                spec->name, text));
    case OPTION_TIME:
        if (duration_parse(text, &value->number) == 0)
            return 0;
        return wrong(parser,
            mem_printf("--%s: '%s' is not a time: seconds, or a number with ms, s, min or h",
                spec->name, text));
    case OPTION_NUMBER:
        errno = 0;
        value->number = strtoull(text, &end, 10);
        if (*text >= '0' && *text <= '9' && *end == 0 && errno == 0 && value->number >> 31 == 0)
            return 0;
        return wrong(parser, mem_printf("--%s: '%s' is not a number", spec->name, text));
    default:
        return 0;
    }
}

static const struct option_spec *find_option(
    const struct option_spec *specs, const char *name, size_t len)
{
    for (; specs && specs->name; specs++)
        if (strlen(specs->name) == len && memcmp(specs->name, name, len) == 0)
            return specs;
    return NULL;
}

static int unknown_option(struct parser *parser, const char *word, const char *name, size_t len)
{
    const struct command *command = parser->args->command;
    CLEANUP_FREE char *plain = mem_printf("%.*s", (int)len, name);
    struct nearest nearest;
    nearest_init(&nearest, plain);
    for (const struct option_spec *s = command ? command->options : NULL; s && s->name; s++)
        nearest_offer(&nearest, s->name);
    for (const struct option_spec *s = common_options; s->name; s++)
        nearest_offer(&nearest, s->name);
    CLEANUP_FREE char *hint =
        nearest.best ? mem_printf("; did you mean '--%s'?", nearest.best) : mem_strdup("");
    return wrong(parser, mem_printf("unknown option '%s'%s%s", word,
                             command ? "" : " (options of a command come after it)", hint));
}

static void take_common(struct args *args, const struct option_spec *spec, const char *text)
{
    switch (spec - common_options) {
    case 0:
        args->json = true;
        break;
    case 1:
        args->socket = text;
        break;
    case 2:
        args->help = true;
        break;
    default:
        args->version = true;
        break;
    }
}

/* "--name", "--name=VALUE", "--name VALUE"; of the letters only -h. */
static int take_option(struct parser *parser, const char *word)
{
    struct args *args = parser->args;
    const char *name = strcmp(word, "-h") == 0 ? "help" : word + 1 + (word[1] == '-');
    size_t len = strcspn(name, "=");
    const struct option_spec *specs = args->command ? args->command->options : NULL;
    const struct option_spec *own = find_option(specs, name, len);
    const struct option_spec *spec = own ? own : find_option(common_options, name, len);
    if (!spec || (word[1] != '-' && strcmp(word, "-h") != 0))
        return unknown_option(parser, word, name, len);
    const char *text = name[len] ? name + len + 1 : NULL;
    if (spec->kind == OPTION_FLAG && text)
        return wrong(parser, mem_printf("--%s takes no value", spec->name));
    if (spec->kind != OPTION_FLAG && !text)
        text = *parser->argv ? *parser->argv++ : NULL;
    if (spec->kind != OPTION_FLAG && (!text || !*text))
        return wrong(parser, mem_printf("--%s needs its %s", spec->name, spec->value));
    struct args_value value;
    int r = read_value(parser, spec, text, &value);
    if (r < 0)
        return r;
    if (own)
        args->values[own - specs] = value;
    else
        take_common(args, spec, text);
    return 0;
}

/* The nth word of "A B [C]". */
static char *operand_name(const struct command *command, unsigned n)
{
    const char *p = command->operands;
    while (n-- > 0)
        p += strcspn(p, " ") + 1;
    return mem_printf("%.*s", (int)strcspn(p, " "), p);
}

static int check_complete(struct parser *parser)
{
    const struct args *args = parser->args;
    if (args->help || args->version)
        return 0;
    if (!args->noun)
        return wrong(parser, mem_strdup("which command?"));
    if (!args->command)
        return wrong(parser, mem_printf("'%s' needs a command after it", args->noun));
    if (args->operand_count < operand_limit(args->command)) {
        char *name = operand_name(args->command, args->operand_count);
        bool optional = name[0] == '[';
        if (!optional)
            wrong(parser, mem_printf("%s is missing", name));
        mem_free(name);
        if (!optional)
            return -EINVAL;
    }
    const struct option_spec *specs = args->command->options;
    for (unsigned i = 0; specs && specs[i].name; i++)
        if (specs[i].required && !args->values[i].given)
            return wrong(parser, mem_printf("--%s %s is missing", specs[i].name, specs[i].value));
    return 0;
}

int args_parse(
    const struct command *commands, int argc, char **argv, struct args *ret_args, char **ret_error)
{
    *ret_args = (struct args){0};
    struct parser parser = {.commands = commands, .argv = argv + (argc > 0), .args = ret_args};
    bool only_words = false;
    int r = 0;
    while (r == 0 && *parser.argv) {
        const char *word = *parser.argv++;
        if (!only_words && strcmp(word, "--") == 0)
            only_words = true;
        else if (!only_words && word[0] == '-' && word[1])
            r = take_option(&parser, word);
        else
            r = take_word(&parser, word);
    }
    if (r == 0)
        r = check_complete(&parser);
    if (r < 0)
        *ret_error = parser.error;
    return r;
}

/* --- Values ---------------------------------------------------------------------------------- */

static const struct args_value *find_value(const struct args *args, const char *name)
{
    const struct option_spec *specs = args->command->options;
    const struct option_spec *spec = find_option(specs, name, strlen(name));
    CHECK_MSG(spec && spec - specs < ARGS_OPTIONS_MAX, "no option --%s", name);
    return &args->values[spec - specs];
}

bool args_has(const struct args *args, const char *name)
{
    return find_value(args, name)->given;
}

const char *args_text(const struct args *args, const char *name)
{
    return find_value(args, name)->text;
}

uint64_t args_number(const struct args *args, const char *name, uint64_t absent)
{
    const struct args_value *value = find_value(args, name);
    return value->given ? value->number : absent;
}

/* --- Help ------------------------------------------------------------------------------------ */

void args_print_usage(FILE *out, const struct command *command)
{
    fprintf(out, "Usage: holdfast %s%s%s%s%s", command->noun, command->verb ? " " : "",
        command->verb ? command->verb : "", command->operands[0] ? " " : "", command->operands);
    bool more = false;
    for (const struct option_spec *s = command->options; s && s->name; s++) {
        if (s->required)
            fprintf(out, " --%s %s", s->name, s->value);
        more |= !s->required;
    }
    fprintf(out, "%s\n", more ? " [OPTION...]" : "");
}

static void print_options(FILE *out, const struct option_spec *specs)
{
    for (; specs && specs->name; specs++) {
        char left[64];
        snprintf(left, sizeof(left), "--%s%s%s", specs->name, specs->value ? " " : "",
            specs->value ? specs->value : "");
        fprintf(out, "  %-18s %s\n", left, specs->help);
    }
}

static void print_indented(FILE *out, const char *lines)
{
    while (*lines) {
        size_t len = strcspn(lines, "\n");
        fprintf(out, "  %.*s\n", (int)len, lines);
        lines += len + (lines[len] == '\n');
    }
}

void args_print_command_help(FILE *out, const struct command *command)
{
    args_print_usage(out, command);
    fprintf(out, "%s.\n", command->summary);
    if (command->text)
        fprintf(out, "\n%s\n", command->text);
    fprintf(out, "\nOptions:\n");
    print_options(out, command->options);
    print_options(out, common_options);
    if (command->examples) {
        fprintf(out, "\nExamples:\n");
        print_indented(out, command->examples);
    }
}

void args_print_overview(FILE *out, const struct command *commands, const char *noun)
{
    fprintf(out, "Usage: holdfast %s%sCOMMAND [OPTION...]\n%s\nCommands:\n", noun ? noun : "",
        noun ? " " : "", noun ? "" : "Talks to this node's Holdfast daemon, holdfast-blockd.\n");
    for (const struct command *c = commands; c->noun; c++) {
        if (noun && strcmp(c->noun, noun) != 0)
            continue;
        char left[64];
        snprintf(left, sizeof(left), "%s%s%s", c->noun, c->verb ? " " : "", c->verb ? c->verb : "");
        fprintf(out, "  %-16s %s\n", left, c->summary);
    }
    fprintf(out, "\nOptions of all commands:\n");
    print_options(out, common_options);
    fprintf(out,
        "\nSizes are bytes, or numbers with KiB, MiB, GiB, TiB (10GiB, 10G, 1.5TiB).\n"
        "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no daemon reachable.\n"
        "'holdfast COMMAND --help' shows a command's options and examples. See holdfast(8).\n");
}
