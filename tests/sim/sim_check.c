/* SPDX-License-Identifier: Apache-2.0
 *
 * See sim_check.h. A round that fails aborts; the handler here then names the seed and dumps the
 * simulation, on a stack of its own, since the failing fiber's may be what is broken.
 */
#include "tests/sim/sim_check.h"
#include "common/planted.h"
#include "tests/sim/sim_minimise.h"

#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const char *program;
static uint64_t round_seed;
static bool trace;
static unsigned nodes;
static uint64_t hash_last; /* of a round in this process */

enum { MINIMISE_S = 40, MINIMISE_LONG_S = 1200, ROUND_S = 200 };

bool sim_check_trace(void)
{
    return trace;
}

unsigned sim_check_nodes(void)
{
    return nodes;
}

void sim_check_ends(struct sim *sim)
{
    hash_last = sim_trace_hash(sim);
    sim_free(sim);
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
    static const int signals[] = {SIGABRT, SIGPROF, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
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

static const struct sim_check *the_check;

/* A round that spins ends, and says where. */
static void limit_cpu(unsigned seconds)
{
    struct itimerval limit = {.it_value.tv_sec = seconds};
    setitimer(ITIMER_PROF, &limit, NULL);
}

static void run_here(uint64_t seed)
{
    round_seed = seed;
    limit_cpu(sim_round_limit_s ? sim_round_limit_s : ROUND_S);
    the_check->round(seed);
    limit_cpu(0);
    CHECK_MSG(!sim_current(), "the round has not freed its simulation");
}

struct plan {
    uint64_t seed, rounds, minutes;
    bool one, here, same, hash;
    unsigned minimise_s;
};

/* In a child, so that a failure can be repeated and made small. */
static void run_round(const struct plan *plan, uint64_t seed)
{
    if (plan->here) {
        run_here(seed);
        return;
    }
    char command[256];
    if (nodes)
        snprintf(command, sizeof(command), "%s --nodes %u", program, nodes);
    else
        snprintf(command, sizeof(command), "%s", program);
    int said = sim_said_new();
    struct sim_outcome outcome = sim_child_run(run_here, seed, said, 20000 * ROUND_S);
    if (outcome.signal) {
        sim_minimise(run_here, seed, outcome, said, plan->minimise_s, command);
        signal(outcome.signal, SIG_DFL);
        raise(outcome.signal);
    }
    close(said);
}

static _Noreturn void usage(int status)
{
    fprintf(status ? stderr : stdout,
        "usage: %s [--seed S | --rounds N | --minutes M] [--trace] [--planted BUG]\n"
        "    [--here] [--same] [--nodes N] [--only PARTS] [--minimise] [--hash]\n",
        program);
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

/* --- The same seed, the same run -------------------------------------------------------------------- */

/* The hash of a round in another process, with other addresses and other garbage in fresh memory. */
static uint64_t hash_elsewhere(uint64_t seed, unsigned which)
{
    char command[1024], self[512];
    ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);
    CHECK(len > 0);
    self[len] = 0;
    snprintf(command, sizeof(command),
        "cd %s && SIM_PADDING=%0*u MALLOC_PERTURB_=%u MALLOC_TOP_PAD_=%u '%s' --seed %lu --nodes "
        "%u --here --hash",
        which % 2 ? "/" : "/tmp", (int)(1 + which * 100), which, 85 + 85 * which, which * 1000000,
        self, seed, nodes);
    FILE *out = popen(command, "r");
    CHECK_MSG(out, "%s", command);
    uint64_t hash = 0;
    char line[256];
    while (fgets(line, sizeof(line), out))
        sscanf(line, "trace hash %lx", &hash);
    CHECK_MSG(pclose(out) == 0, "%s", command);
    return hash;
}

/* V5: twice in this process, after other rounds, and in two others. */
static void same_everywhere(uint64_t seed)
{
    uint64_t hash = 0;
    for (unsigned i = 0; i < 4; i++) {
        if (i < 2)
            run_here(seed);
        uint64_t now = i < 2 ? hash_last : hash_elsewhere(seed, i - 2);
        CHECK_MSG(i == 0 || now == hash, "seed %lu: run %u has trace hash %016lx, the first %016lx",
            seed, i + 1, now, hash);
        hash = now;
    }
    printf("%s: seed %lu: trace hash %016lx, four times\n", program, seed, hash);
}

/* --- The command ------------------------------------------------------------------------------------- */

static struct plan plan_of(int argc, char **argv)
{
    static const struct option options[] = {{"seed", required_argument, NULL, 's'},
        {"rounds", required_argument, NULL, 'r'}, {"minutes", required_argument, NULL, 'm'},
        {"trace", no_argument, NULL, 't'}, {"planted", required_argument, NULL, 'p'},
        {"nodes", required_argument, NULL, 'n'}, {"here", no_argument, NULL, 'H'},
        {"same", no_argument, NULL, 'S'}, {"hash", no_argument, NULL, 'x'},
        {"only", required_argument, NULL, 'o'}, {"minimise", no_argument, NULL, 'M'},
        {"help", no_argument, NULL, 'h'}, {0}};
    struct plan plan = {.rounds = the_check->rounds,
        .minimise_s = MINIMISE_S,
        .here = !the_check->children || getenv("SIM_LOG")};
    bool minimise = false;
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (option) {
        case 's':
            plan.seed = strtoull(optarg, NULL, 0);
            plan.one = true;
            break;
        case 'r':
            plan.rounds = strtoull(optarg, NULL, 0);
            break;
        case 'm':
            plan.minutes = strtoull(optarg, NULL, 0);
            break;
        case 'n':
            nodes = (unsigned)strtoul(optarg, NULL, 0);
            break;
        case 't':
            trace = plan.here = true;
            break;
        case 'H':
            plan.here = true;
            break;
        case 'S':
            plan.same = true;
            break;
        case 'x':
            plan.hash = true;
            break;
        case 'o':
            sim_parts_only(optarg);
            break;
        case 'M':
            minimise = true;
            break;
        case 'p':
            choose_planted(optarg);
            plan.minimise_s = 0;
            break;
        default:
            usage(option == 'h' ? 0 : 2);
        }
    }
    if (minimise)
        plan.minimise_s = MINIMISE_LONG_S;
    if (plan.minutes && getenv("HOLDFAST_TEST_LONG") &&
        strcmp(getenv("HOLDFAST_TEST_LONG"), "1") == 0)
        plan.minutes *= 60; /* ./check --long */
    return plan;
}

/* Where seeds that nobody has tried begin: what ./check has drawn from the commit, else the time. */
static uint64_t fresh_seed(void)
{
    const char *text = getenv("HOLDFAST_TEST_FRESH_SEED");
    if (!text || !*text)
        return clock_s(CLOCK_REALTIME) << 24;
    char *end;
    uint64_t seed = strtoull(text, &end, 0);
    if (*end) {
        fprintf(stderr, "HOLDFAST_TEST_FRESH_SEED=%s: a number is wanted\n", text);
        exit(2);
    }
    return seed;
}

static void run_rounds(const struct plan *plan)
{
    uint64_t seed = plan->minutes ? fresh_seed() : 0;
    uint64_t end_s = clock_s(CLOCK_MONOTONIC) + plan->minutes * 60, first = seed + 1;
    for (unsigned i = 0; i < the_check->seeds_kept_count && !plan->minutes; i++)
        run_round(plan, the_check->seeds_kept[i]);
    while (plan->minutes ? clock_s(CLOCK_MONOTONIC) < end_s : seed - first + 1 < plan->rounds)
        run_round(plan, ++seed);
    printf("%s: %lu rounds passed, seeds %lu to %lu\n", program, seed - first + 1, first, seed);
}

int sim_check_main(int argc, char **argv, const struct sim_check *check)
{
    program = argv[0];
    the_check = check;
    struct plan plan = plan_of(argc, argv);
    catch_failures();
    /* Memory of nodes that come and go stays with us: the kernel would clear it each time. */
    mallopt(M_MMAP_THRESHOLD, 64 << 20);
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
    if (plan.same) {
        for (uint64_t seed = 1; seed <= plan.rounds; seed++)
            same_everywhere(plan.one ? plan.seed + seed - 1 : seed);
    } else if (plan.one) {
        run_round(&plan, plan.seed);
        printf("%s: seed %lu passed\n", program, plan.seed);
        if (plan.hash)
            printf("trace hash %016lx\n", hash_last);
    } else {
        run_rounds(&plan);
    }
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
