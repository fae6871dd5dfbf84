/* SPDX-License-Identifier: Apache-2.0
 *
 * holdfast: finds the command, runs it.
 */
#include <locale.h>
#include <signal.h>
#include <stdlib.h>

#include "cli/commands.h"
#include "common/admin_client.h"
#include "common/mem.h"

/* A wrong command line: what is wrong, and how it goes. */
static int usage_error(const struct args *args, const char *error)
{
    cli_fail("%s", error);
    if (args->command) {
        args_print_usage(stderr, args->command);
        fprintf(stderr, "Try 'holdfast %s%s%s --help'.\n", args->command->noun,
            args->command->verb ? " " : "", args->command->verb ? args->command->verb : "");
    } else {
        fprintf(stderr, "Try 'holdfast%s%s --help'.\n", args->noun ? " " : "",
            args->noun ? args->noun : "");
    }
    return CLI_USAGE;
}

static int print_help(const struct args *args)
{
    if (args->command)
        args_print_command_help(stdout, args->command);
    else
        args_print_overview(stdout, commands, args->noun);
    return cli_flush_stdout();
}

static const char *choose_socket(const struct args *args)
{
    const char *socket = args->socket ? args->socket : getenv("HOLDFAST_SOCKET");
    return socket && *socket ? socket : CLI_SOCKET_DEFAULT;
}

static int run_command(const struct args *args)
{
    struct cli cli = {.socket_path = choose_socket(args), .json = args->json};
    int code = args->command->run(&cli, args);
    admin_client_close(cli.client);
    int flushed = cli_flush_stdout();
    return code == CLI_OK ? flushed : code;
}

int main(int argc, char **argv)
{
    struct args args;
    CLEANUP_FREE char *error = NULL;
    setlocale(LC_CTYPE, "");
    signal(SIGPIPE, SIG_IGN); /* write errors are told like all others */
    int r = args_parse(commands, argc, argv, &args, &error);
    if (r < 0 && argc == 1 + (args.noun != NULL)) { /* nothing, or a noun alone: a question */
        args_print_overview(stderr, commands, args.noun);
        return CLI_USAGE;
    }
    if (r < 0)
        return usage_error(&args, error);
    if (args.help)
        return print_help(&args);
    if (args.version) {
        puts("holdfast " HOLDFAST_VERSION);
        return cli_flush_stdout();
    }
    return run_command(&args);
}
