/* SPDX-License-Identifier: Apache-2.0
 *
 * holdfast-blockd: arguments, configuration, signals, readiness. Everything else is the node's.
 */
#include <errno.h>
#include <getopt.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "blockd/nbd/server.h"
#include "blockd/node.h"
#include "common/env.h"
#include "common/mem.h"

#define CONFIG_PATH_DEFAULT "/etc/holdfast/blockd.conf"

static const char usage[] =
    "Usage: holdfast-blockd [--config FILE]\n"
    "The block daemon of a Holdfast node.\n"
    "\n"
    "  --config FILE  read FILE instead of " CONFIG_PATH_DEFAULT "\n"
    "                 (which need not be there: everything has a default)\n"
    "  --check        only read the configuration; exit code 0 if it is good\n"
    "  --help         show this and exit\n"
    "  --version      show the version and exit\n"
    "\n"
    "Signals: SIGTERM and SIGINT stop it cleanly; a second one stops it at once (nothing that was\n"
    "acknowledged is lost then either).\n"
    "See blockd.conf(5), and holdfast(8) for the command that talks to it.\n";

/* --- Running --------------------------------------------------------------------------------- */

static void wait_for_signals(void *arg)
{
    struct node *node = arg;
    int number = env_wait_signal();
    log_info("signal %d: stopping; another one stops at once", number);
    node_want_stop(node);
    number = env_wait_signal();
    log_warn("signal %d: stopping at once", number);
    _exit(128 + number);
}

static void say_ready(const struct node *node)
{
    CLEANUP_FREE char *nbd = mem_strdup("");
    for (unsigned i = 0; i < nbd_server_address_count(node->nbd); i++) {
        char *more = mem_printf("%s%s%s", nbd, i ? " " : "", nbd_server_address(node->nbd, i));
        mem_free(nbd);
        nbd = more;
    }
    printf("holdfast-blockd: ready (nbd %s, admin %s)\n", nbd, node->config->admin_address);
    fflush(stdout);
    sd_notify(0, "READY=1\nSTATUS=Running");
}

/* A node that waits counts as ready for systemd: what it waits for is up to others, maybe for long. */
static void phase_changed(void *ctx, struct node *node)
{
    bool *signals = ctx;
    if (!*signals)
        fiber_spawn("signals", wait_for_signals, node);
    *signals = true;
    if (!node->waits_for)
        return;
    printf("holdfast-blockd: %s (admin %s)\n", node->waits_for, node->config->admin_address);
    fflush(stdout);
    sd_notifyf(0, "READY=1\nSTATUS=%s", node->waits_for);
}

static int run(void *arg)
{
    struct node *node;
    bool signals = false;
    CLEANUP_FREE char *error = NULL;
    struct node_options options = {.config = arg, .phase_changed = phase_changed, .ctx = &signals};
    int r = node_start(&options, &node, &error);
    if (r == -ECANCELED) {
        log_info("stopped");
        return 0;
    }
    if (r < 0) {
        log_error("%s", error);
        return 1;
    }
    say_ready(node);
    node_wait_stop(node);
    sd_notify(0, "STOPPING=1");
    node_stop(node);
    log_info("stopped");
    return 0;
}

/* --- Before there is an env ------------------------------------------------------------------ */

static int make_directory(const char *path)
{
    if (mkdir(path, 0755) == 0 || errno == EEXIST)
        return 0;
    fprintf(stderr,
        "holdfast-blockd: %s cannot be made: %s; make it, or choose another in the "
        "configuration\n",
        path, strerror(errno));
    return -1;
}

static int start(const struct node_config *config)
{
    const char *power_cut = getenv("HOLDFAST_TEST_POWER_CUT");
    struct env_uring_options options = {.power_cut = power_cut && strcmp(power_cut, "1") == 0};
    log_set_level(config->log_level);
    if (make_directory(config->run_dir) < 0 || make_directory(config->state_dir) < 0)
        return 1;
    int r = env_uring_run(&options, run, (void *)config);
    if (r < 0)
        fprintf(stderr,
            "holdfast-blockd: io_uring cannot be set up: %s; it needs Linux 6.1 or "
            "later, and kernel.io_uring_disabled=0\n",
            strerror(-r));
    return r < 0 ? 1 : r;
}

/* The default file may be absent; one that was asked for may not. */
static int load(const char *path, struct node_config *ret_config)
{
    char hostname[256] = "";
    CLEANUP_FREE char *error = NULL;
    (void)gethostname(hostname, sizeof(hostname) - 1);
    if (!path)
        path = access(CONFIG_PATH_DEFAULT, F_OK) == 0 ? CONFIG_PATH_DEFAULT : NULL;
    int r = node_config_load(path, hostname, ret_config, &error);
    if (r < 0)
        fprintf(stderr, "holdfast-blockd: %s\n", error);
    return r;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"config", required_argument, NULL, 'c'},
        {"check", no_argument, NULL, 'k'}, {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'v'}, {0}};
    const char *path = NULL;
    bool check = false;
    for (int option; (option = getopt_long(argc, argv, "c:h", options, NULL)) != -1;) {
        switch (option) {
        case 'c':
            path = optarg;
            break;
        case 'k':
            check = true;
            break;
        case 'h':
            fputs(usage, stdout);
            return 0;
        case 'v':
            puts("holdfast-blockd " HOLDFAST_VERSION);
            return 0;
        default:
            fputs("Try 'holdfast-blockd --help'.\n", stderr);
            return 2;
        }
    }
    if (optind < argc) {
        fprintf(
            stderr, "holdfast-blockd: what is '%s'? Try 'holdfast-blockd --help'.\n", argv[optind]);
        return 2;
    }
    /* What is large and short-lived is not mixed with what stays. (glibc would move this limit up.) */
    mallopt(M_MMAP_THRESHOLD, 256 << 10);
    struct node_config config;
    if (load(path, &config) < 0)
        return 2;
    int code = check ? 0 : start(&config);
    node_config_fini(&config);
    return code;
}
