/* SPDX-License-Identifier: Apache-2.0
 *
 * See sim_check.h. A round that fails aborts; the handler here then names the seed and dumps the
 * simulation, on a stack of its own, since the failing fiber's may be what is broken.
 */
#include "tests/sim/sim_check.h"
#include "common/planted.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *program;
static uint64_t round_seed;
static bool trace;
static unsigned nodes;

bool sim_check_trace(void)
{
    return trace;
}

unsigned sim_check_nodes(void)
{
    return nodes;
}

/* --- Failure ------------------------------------------------------------ */

static void failed(int signal_number)
{
    signal(signal_number, SIG_DFL);
    if (sim_current())
        sim_dump(sim_current(), stderr);
    fprintf(stderr, "FAILED with seed %lu (%s); again: %s --seed %lu --trace\n", round_seed,
        strsignal(signal_number), program, round_seed);
    raise(signal_number);
}

static void catch_failures(void)
{
    static char stack[256 * 1024];
    static const int signals[] = {SIGABRT, SIGALRM, SIGSEGV, SIGBUS};
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof(stack)};
    sigaltstack(&alternate, NULL);
    struct sigaction action = {.sa_handler = failed, .sa_flags = SA_ONSTACK | SA_NODEFER};
    for (unsigned i = 0; i < ARRAY_SIZE(signals); i++) {
        struct sigaction old;
        sigaction(signals[i], NULL, &old);
        /* A sanitizer's own handler says more. */
        if (old.sa_handler == SIG_DFL)
            sigaction(signals[i], &action, NULL);
    }
}

/* --- main --------------------------------------------------------------- */

static uint64_t clock_s(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec;
}

static void run_round(const struct sim_check *check, uint64_t seed)
{
    round_seed = seed;
    alarm(300); /* of real time: a round that spins */
    check->round(seed);
    alarm(0);
    CHECK_MSG(!sim_current(), "the round has not freed its simulation");
}

static _Noreturn void usage(int status)
{
    fprintf(status ? stderr : stdout,
        "usage: %s [--seed S | --rounds N | --minutes M] [--trace] [--planted BUG]\n", program);
    exit(status);
}

static void choose_planted(const char *bug)
{
#ifdef HOLDFAST_PLANTED_BUGS
    planted_choose(bug);
#else
    fprintf(stderr, "%s: no bugs in this build: set it up with -Dplanted_bugs=true\n", bug);
    exit(2);
#endif
}

int sim_check_main(int argc, char **argv, const struct sim_check *check)
{
    static const struct option options[] = {{"seed", required_argument, NULL, 's'},
        {"rounds", required_argument, NULL, 'r'}, {"minutes", required_argument, NULL, 'm'},
        {"trace", no_argument, NULL, 't'}, {"planted", required_argument, NULL, 'p'},
        {"nodes", required_argument, NULL, 'n'}, {"help", no_argument, NULL, 'h'}, {0}};
    uint64_t seed = 0, rounds = check->rounds, minutes = 0;
    bool one = false;
    program = argv[0];
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (option) {
        case 's':
            seed = strtoull(optarg, NULL, 0);
            one = true;
            break;
        case 'r':
            rounds = strtoull(optarg, NULL, 0);
            break;
        case 'm':
            minutes = strtoull(optarg, NULL, 0);
            break;
        case 'n':
            nodes = (unsigned)strtoul(optarg, NULL, 0);
            break;
        case 't':
            trace = true;
            break;
        case 'p':
            choose_planted(optarg);
            break;
        default:
            usage(option == 'h' ? 0 : 2);
        }
    }
    if (minutes && getenv("HOLDFAST_TEST_LONG") && strcmp(getenv("HOLDFAST_TEST_LONG"), "1") == 0)
        minutes *= 60; /* ./check --long */
    catch_failures();
    if (one) {
        run_round(check, seed);
        printf("%s: seed %lu passed\n", program, seed);
        return 0;
    }
    for (unsigned i = 0; i < check->seeds_kept_count; i++)
        run_round(check, check->seeds_kept[i]);
    if (minutes)
        seed = clock_s(CLOCK_REALTIME) << 24;
    uint64_t end_s = clock_s(CLOCK_MONOTONIC) + minutes * 60, first = seed + 1;
    while (minutes ? clock_s(CLOCK_MONOTONIC) < end_s : seed - first + 1 < rounds)
        run_round(check, ++seed);
    printf("%s: %lu rounds passed, seeds %lu to %lu\n", program, seed - first + 1, first, seed);
    return 0;
}

/* --- Fibers to their end ------------------------------------------------ */

struct errand {
    fiber_fn *fn;
    void *arg;
    struct env *node;
    bool done;
};

static void errand_main(void *arg)
{
    struct errand *errand = arg;
    errand->fn(errand->arg);
    errand->done = true;
}

static bool errand_over(void *arg)
{
    const struct errand *errand = arg;
    return errand->done || !sim_node_is_up(errand->node);
}

bool sim_do(struct env *node, const char *name, fiber_fn *fn, void *arg)
{
    struct errand errand = {.fn = fn, .arg = arg, .node = node};
    struct sim *sim = sim_current();
    sim_node_start(node, name, errand_main, &errand);
    enum sim_result result =
        sim_run(sim, errand_over, &errand, sim_now_ns(sim) + 3600 * 1000000000ull);
    CHECK_MSG(
        result != SIM_STUCK, "%s of %s waits for what cannot happen", name, sim_node_name(node));
    CHECK_MSG(result == SIM_UNTIL, "%s of %s takes longer than an hour", name, sim_node_name(node));
    return errand.done;
}

/* --- Crash loops -------------------------------------------------------- */

bool sim_crash_next(struct sim_crash *crash)
{
    if (crash->number == 0) {
        crash->number = crash->first ? crash->first : 1;
        crash->when = SIM_POINT_BEFORE;
    } else if (!crash->reached) {
        CHECK_MSG(crash->armed, "sim_crash_arm was not called");
        return false;
    } else if (crash->when == SIM_POINT_AFTER) {
        crash->number += crash->step ? crash->step : 1;
        crash->when = SIM_POINT_BEFORE;
    } else {
        crash->when++;
    }
    crash->reached = crash->armed = false;
    return true;
}

static void crash_at_point(void *ctx, struct sim_io_point *point)
{
    struct sim_crash *crash = ctx;
    if (point->number != crash->number)
        return;
    crash->reached = true;
    point->when = crash->when;
    point->scope = crash->scope;
    point->mode = crash->mode;
}

void sim_crash_arm(struct sim *sim, struct sim_crash *crash)
{
    crash->armed = true;
    sim_set_io_hook(sim, crash_at_point, crash);
}

void sim_crash_disarm(struct sim *sim)
{
    sim_set_io_hook(sim, NULL, NULL);
}
