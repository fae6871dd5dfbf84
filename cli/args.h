/* SPDX-License-Identifier: Apache-2.0
 *
 * The command line: commands by tables, so that parsing, help, completion and the complaints about
 * wrong usage are the same everywhere. Pure: nothing here prints or leaves the process.
 *
 *   holdfast [COMMON] NOUN [VERB] [OPTION | COMMON | OPERAND]...
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct cli;
struct args;

enum option_kind {
    OPTION_FLAG,
    OPTION_TEXT,
    OPTION_SIZE,   /* bytes: "10GiB" */
    OPTION_NUMBER, /* at most 2^31 */
    OPTION_TIME,   /* ns: "500ms", "2s" */
};

struct option_spec {
    const char *name; /* without the dashes; NULL ends a table */
    enum option_kind kind;
    const char *value; /* what the help calls it; NULL for flags */
    const char *help;
    bool required;
};

struct command {
    const char *noun, *verb; /* verb NULL: the noun alone is the command */
    const char *operands;    /* "VOLUME FILE", "[VOLUME]": words; may be "" */
    const char *summary;     /* one line */
    const char *text;        /* lines after it; may be NULL */
    const char *examples;    /* lines, without indentation */
    const struct option_spec *options;
    int (*run)(struct cli *cli, const struct args *args);
};

#define ARGS_OPERANDS_MAX 3
#define ARGS_OPTIONS_MAX 12

struct args_value {
    bool given;
    const char *text;
    uint64_t number; /* OPTION_SIZE, _NUMBER, _TIME */
};

struct args {
    const struct command *command; /* NULL: none was named */
    const char *noun;              /* known, also when its verb is missing; NULL: none */
    const char *operands[ARGS_OPERANDS_MAX];
    unsigned operand_count;
    struct args_value values[ARGS_OPTIONS_MAX]; /* in the order of command->options */
    bool help, version, json;
    const char *socket;
};

/* `commands` ends with a noun of NULL. 0; -EINVAL with *ret_error (mem_free), then ret_args->command
 * and ->noun are what was understood. With --help or --version nothing is missing. */
int args_parse(
    const struct command *commands, int argc, char **argv, struct args *ret_args, char **ret_error);

/* Options by name, which must be in the command's table. */
bool args_has(const struct args *args, const char *name);
const char *args_text(const struct args *args, const char *name); /* NULL: not given */
uint64_t args_number(const struct args *args, const char *name, uint64_t absent);

/* --help of a command; of a noun (its verbs) or, with noun NULL, of all. */
void args_print_command_help(FILE *out, const struct command *command);
void args_print_overview(FILE *out, const struct command *commands, const char *noun);
/* "holdfast volume create VOLUME --size SIZE [OPTION...]" */
void args_print_usage(FILE *out, const struct command *command);
