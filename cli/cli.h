/* SPDX-License-Identifier: Apache-2.0
 *
 * What every command shares: the connection to the daemon, exit codes, messages.
 *
 * Results go to stdout, everything else to stderr. With --json, stdout is what the daemon answered.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "cli/args.h"
#include "common/units.h"

struct admin_client;

enum exit_code { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_NO_DAEMON = 3 };

#define CLI_SOCKET_DEFAULT "/run/holdfast/admin.sock"
/* The daemon shows a sign of life more often than that, however long a method takes. */
#define CLI_TIMEOUT_MS 60000u

struct cli {
    const char *socket_path;
    bool json;
    struct admin_client *client; /* opened by the first call */
    int error;                   /* of the last call: 0, or what it failed with (negative errno) */
};

/* "holdfast: TEXT" on stderr. Returns CLI_FAILED, for `return cli_fail(...)`. */
int cli_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Calls the daemon; `params` is stolen (NULL = none). CLI_OK: *ret_result is the caller's. An error
 * is told on stderr and is the exit code. cli_call_quiet gives the error's text instead of telling
 * it (mem_free). */
int cli_call(struct cli *cli, const char *method, json_t *params, json_t **ret_result);
int cli_call_quiet(
    struct cli *cli, const char *method, json_t *params, json_t **ret_result, char **ret_error);
/* For methods of which only success matters: prints the result if --json, else the sentence. */
int cli_do(struct cli *cli, const char *method, json_t *params, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

void cli_print_json(const json_t *json);
/* CLI_OK, or CLI_FAILED when what was printed did not get out (a full disk). */
int cli_flush_stdout(void);

/* Members of an object: an absent or wrong one is "", 0, false or an empty array. */
const char *json_text(const json_t *object, const char *member);
uint64_t json_number(const json_t *object, const char *member);
bool json_flag(const json_t *object, const char *member);
/* "1 client", "2 clients": storage as of size_text. */
const char *count_text(uint64_t count, const char *one);
/* A size as text; its storage lives for some calls (a line of output). */
const char *size_text(uint64_t bytes);
const char *json_size(const json_t *object, const char *member);

/* Monotonic. */
uint64_t cli_now_ns(void);
/* Set by SIGINT and SIGTERM once cli_catch_signals() was called: a copy stops in an orderly way. */
extern volatile bool cli_interrupted;
void cli_catch_signals(void);
/* Asks on the terminal; true without asking when there is none to ask. */
bool cli_confirm(const char *question);
/* Relative paths are made absolute (the daemon's directory is another); mem_free. */
char *cli_absolute_path(const char *path);
/* *ret_pool (mem_free) is the pool to use when none is named: the only one. An exit code. */
int cli_default_pool(struct cli *cli, char **ret_pool);

static inline void json_cleanup(json_t **json)
{
    json_decref(*json);
}
#define CLEANUP_JSON __attribute__((cleanup(json_cleanup)))
