/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/admin_client.h"
#include "common/check.h"
#include "common/mem.h"

int cli_fail(const char *format, ...)
{
    va_list list;
    fflush(stdout); /* in the order in which it was said */
    fputs("holdfast: ", stderr);
    va_start(list, format);
    vfprintf(stderr, format, list);
    va_end(list);
    fputc('\n', stderr);
    return CLI_FAILED;
}

/* --- Calls ----------------------------------------------------------------------------------- */

static const char *way_out(int error)
{
    if (error == -EACCES || error == -EPERM)
        return "try again as root (sudo)";
    return "is holdfast-blockd running ('systemctl status holdfast-blockd')? A socket elsewhere is "
           "named by --socket PATH or HOLDFAST_SOCKET";
}

static int connect_daemon(struct cli *cli, char **ret_error)
{
    if (cli->client)
        return CLI_OK;
    int r = admin_client_open(cli->socket_path, &cli->client);
    if (r < 0) {
        *ret_error =
            mem_printf("no daemon at %s (%s): %s", cli->socket_path, strerror(-r), way_out(r));
        return CLI_NO_DAEMON;
    }
    return CLI_OK;
}

/* The daemon's signs of life during what takes long. */
static void show_elapsed(void *ctx, const json_t *progress)
{
    bool *shown = ctx;
    if (!isatty(STDERR_FILENO))
        return;
    fprintf(stderr, "\r%" PRIu64 " s ...\033[K", json_number(progress, "elapsed_s"));
    *shown = true;
}

int cli_call_quiet(
    struct cli *cli, const char *method, json_t *params, json_t **ret_result, char **ret_error)
{
    int code = connect_daemon(cli, ret_error);
    if (code != CLI_OK) {
        json_decref(params);
        return code;
    }
    char *text = NULL;
    bool elapsed_shown = false;
    int r = admin_client_call(cli->client, method, params, CLI_TIMEOUT_MS, show_elapsed,
        &elapsed_shown, ret_result, &text);
    cli->error = r;
    if (elapsed_shown)
        fputs("\r\033[K", stderr);
    if (r < 0)
        *ret_error = mem_strdup(text ? text : strerror(-r));
    free(text);
    return r < 0 ? CLI_FAILED : CLI_OK;
}

int cli_call(struct cli *cli, const char *method, json_t *params, json_t **ret_result)
{
    CLEANUP_FREE char *error = NULL;
    int code = cli_call_quiet(cli, method, params, ret_result, &error);
    if (code != CLI_OK)
        cli_fail("%s", error);
    return code;
}

int cli_do(struct cli *cli, const char *method, json_t *params, const char *format, ...)
{
    CLEANUP_JSON json_t *result = NULL;
    int code = cli_call(cli, method, params, &result);
    if (code != CLI_OK)
        return code;
    if (cli->json) {
        cli_print_json(result);
        return CLI_OK;
    }
    va_list list;
    va_start(list, format);
    vprintf(format, list);
    va_end(list);
    putchar('\n');
    return CLI_OK;
}

int cli_default_pool(struct cli *cli, char **ret_pool)
{
    CLEANUP_JSON json_t *result = NULL;
    int code = cli_call(cli, "pool.list", NULL, &result);
    if (code != CLI_OK)
        return code;
    const json_t *pools = json_object_get(result, "pools");
    if (json_array_size(pools) == 0)
        return cli_fail("there is no pool yet: make one with 'holdfast pool create'");
    if (json_array_size(pools) > 1)
        return cli_fail("which pool? Name one with --pool ('holdfast pool list' shows them)");
    *ret_pool = mem_strdup(json_text(json_array_get(pools, 0), "name"));
    return CLI_OK;
}

/* --- JSON ------------------------------------------------------------------------------------ */

void cli_print_json(const json_t *json)
{
    json_dumpf(json, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER | JSON_ENCODE_ANY);
    putchar('\n');
}

const char *json_text(const json_t *object, const char *member)
{
    const char *text = json_string_value(json_object_get(object, member));
    return text ? text : "";
}

uint64_t json_number(const json_t *object, const char *member)
{
    json_int_t value = json_integer_value(json_object_get(object, member));
    return value < 0 ? 0 : (uint64_t)value;
}

bool json_flag(const json_t *object, const char *member)
{
    return json_is_true(json_object_get(object, member));
}

const char *size_text(uint64_t bytes)
{
    static char texts[16][SIZE_TEXT_BYTES];
    static unsigned next;
    return size_format(bytes, texts[next++ % ARRAY_SIZE(texts)]);
}

const char *count_text(uint64_t count, const char *one)
{
    static char texts[8][48];
    static unsigned next;
    char *text = texts[next++ % ARRAY_SIZE(texts)];
    snprintf(text, sizeof(texts[0]), "%" PRIu64 " %s%s", count, one, count == 1 ? "" : "s");
    return text;
}

const char *json_size(const json_t *object, const char *member)
{
    return size_text(json_number(object, member));
}

/* --- The world ------------------------------------------------------------------------------- */

uint64_t cli_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

int cli_flush_stdout(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return CLI_OK;
    return cli_fail("cannot write the result to stdout: %s", strerror(errno));
}

volatile bool cli_interrupted;

static void on_signal(int number)
{
    cli_interrupted = true;
}

void cli_catch_signals(void)
{
    /* No SA_RESTART: what waits returns. The second signal ends the process as usual. */
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

bool cli_confirm(const char *question)
{
    if (!isatty(STDIN_FILENO) || !isatty(STDERR_FILENO))
        return true;
    char answer[16];
    fprintf(stderr, "%s [y/N] ", question);
    return fgets(answer, sizeof(answer), stdin) && (answer[0] == 'y' || answer[0] == 'Y');
}

/* Symbolic links stay: /dev/disk/by-id names outlive a reboot, what they point to does not. */
char *cli_absolute_path(const char *path)
{
    char directory[PATH_MAX];
    if (path[0] == '/' || !getcwd(directory, sizeof(directory)))
        return mem_strdup(path);
    while (strncmp(path, "./", 2) == 0)
        path += 2;
    return mem_printf("%s/%s", strcmp(directory, "/") == 0 ? "" : directory, path);
}
