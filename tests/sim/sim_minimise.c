/* SPDX-License-Identifier: Apache-2.0
 *
 * Delta debugging after A. Zeller, R. Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002: first
 * everything of a kind, then halves, quarters and so on down to single parts, again while that finds something. A
 * part that is left out does not shift the chance that others draw (the round's business), though it does shift
 * what happens; so a failure may go away with parts that have nothing to do with it. What is left still fails.
 */
#include "tests/sim/sim_minimise.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/check.h"
#include "common/env_sim.h"

struct part {
    char letter;
    unsigned number;
    const char *kind; /* valid in children too: they are forked */
    uint64_t at_ns;
    char text[80];
};

/* Written by the child. */
struct parts {
    unsigned count;
    struct part parts[SIM_PARTS_MAX];
};

struct name {
    char letter;
    unsigned number;
};

unsigned sim_round_limit_s;

static struct parts *noted;
static struct name *only; /* NULL = all are wanted */
static unsigned only_count;

/* --- In the round --------------------------------------------------------------------------------- */

bool sim_part_wanted(char letter, unsigned number, const char *kind)
{
    bool wanted = !only;
    for (unsigned i = 0; i < only_count; i++)
        wanted = wanted || (only[i].letter == letter && only[i].number == number);
    if (wanted && noted && noted->count < SIM_PARTS_MAX)
        noted->parts[noted->count++] = (struct part){.letter = letter,
            .number = number,
            .kind = kind,
            .at_ns = sim_current() ? sim_now_ns(sim_current()) : 0};
    return wanted;
}

void sim_part_says(const char *format, ...)
{
    if (!noted || noted->count == 0)
        return;
    struct part *part = &noted->parts[noted->count - 1];
    size_t len = strlen(part->text);
    va_list args;
    va_start(args, format);
    vsnprintf(part->text + len, sizeof(part->text) - len, format, args);
    va_end(args);
}

void sim_parts_only(const char *names)
{
    only = calloc(SIM_PARTS_MAX, sizeof(*only));
    CHECK(only);
    for (const char *at = names; *at && only_count < SIM_PARTS_MAX;) {
        char *end;
        unsigned long number = strtoul(at + 1, &end, 10);
        if (end == at + 1 || (*end && *end != ',')) {
            fprintf(stderr, "--only %s: names of parts are wanted, as in f3,f9,c1\n", names);
            exit(2);
        }
        only[only_count++] = (struct name){.letter = *at, .number = (unsigned)number};
        at = *end ? end + 1 : end;
    }
}

/* --- Children ------------------------------------------------------------------------------------- */

void *sim_shared_new(uint64_t len_bytes)
{
    void *memory = mmap(NULL, len_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK_MSG(memory != MAP_FAILED, "no memory to share");
    return memory;
}

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* The first line of `fd` that says what is wrong, without path, numbers of fibers and detail. */
static void find_check(int fd, char *ret_check, size_t len_bytes)
{
    FILE *in = fdopen(dup(fd), "r");
    char line[1024];
    CHECK(in);
    rewind(in);
    while (fgets(line, sizeof(line), in)) {
        char *what = strstr(line, "CHECK failed: ");
        if (!what && !strstr(line, "runtime error: ") && !strstr(line, "ERROR: AddressSanitizer"))
            continue;
        char *begin = line;
        for (char *at = line; at < (what ? what : line); at++)
            begin = *at == '/' ? at + 1 : begin;
        char *end = what ? strstr(what + strlen("CHECK failed: "), ": ") : NULL;
        if (end)
            *end = 0;
        begin[strcspn(begin, "\n")] = 0;
        snprintf(ret_check, len_bytes, "%.*s", (int)len_bytes - 1, begin);
        break;
    }
    fclose(in);
}

static _Noreturn void child_main(void (*round)(uint64_t seed), uint64_t seed, int fd)
{
    if (fd >= 0)
        dup2(fd, STDERR_FILENO);
    round(seed);
    fflush(stdout);
    exit(0);
}

/* Its status when it has ended within the limit, else it is killed. */
static int child_wait(pid_t pid, uint64_t limit_ms)
{
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0), status;
    CHECK_MSG(pidfd >= 0, "pidfd_open: %s", strerror(errno));
    struct pollfd wait = {.fd = pidfd, .events = POLLIN};
    uint64_t until_ms = now_ms() + limit_ms;
    int r;
    do {
        uint64_t at_ms = now_ms();
        r = poll(&wait, 1, at_ms < until_ms ? (int)MIN(until_ms - at_ms, 1000000ull) : 0);
    } while ((r < 0 && errno == EINTR) || (r == 0 && now_ms() < until_ms));
    if (r == 0)
        kill(pid, SIGKILL);
    close(pidfd);
    CHECK(waitpid(pid, &status, 0) == pid);
    return status;
}

struct sim_outcome sim_child_run(
    void (*round)(uint64_t seed), uint64_t seed, int fd, uint64_t limit_ms)
{
    struct sim_outcome outcome = {0};
    if (!noted)
        noted = sim_shared_new(sizeof(*noted));
    noted->count = 0;
    fflush(NULL);
    uint64_t begin_ms = now_ms();
    pid_t pid = fork();
    CHECK_MSG(pid >= 0, "fork: %s", strerror(errno));
    if (pid == 0)
        child_main(round, seed, fd);
    int status = child_wait(pid, limit_ms);
    outcome.ms = now_ms() - begin_ms;
    if (WIFSIGNALED(status))
        outcome.signal = WTERMSIG(status);
    else if (WEXITSTATUS(status) != 0)
        outcome.signal = SIGABRT; /* a sanitizer's exit */
    snprintf(outcome.check, sizeof(outcome.check), "%s",
        outcome.signal ? strsignal(outcome.signal) : "");
    if (outcome.signal && fd >= 0)
        find_check(fd, outcome.check, sizeof(outcome.check));
    return outcome;
}

/* --- Less and less ---------------------------------------------------------------------------------- */

struct search {
    void (*round)(uint64_t seed);
    uint64_t seed;
    struct sim_outcome failure;
    uint64_t until_ms;
    unsigned tries;
    struct parts *best; /* of the last run that failed */
    int fd;             /* what it said */
};

int sim_said_new(void)
{
    int fd = memfd_create("simulation", MFD_CLOEXEC);
    CHECK_MSG(fd >= 0, "memfd_create: %s", strerror(errno));
    return fd;
}

static bool time_is_over(const struct search *s)
{
    return now_ms() >= s->until_ms;
}

/* Whether it still fails with those of best->parts for which leave[i] is false; then that is the best. */
static bool fails_without(struct search *s, const bool *leave)
{
    if (time_is_over(s))
        return false;
    unsigned count = 0;
    for (unsigned i = 0; i < s->best->count; i++) {
        if (!leave[i])
            only[count++] = (struct name){s->best->parts[i].letter, s->best->parts[i].number};
    }
    if (count == s->best->count)
        return false;
    only_count = count;
    s->tries++;
    int fd = sim_said_new();
    uint64_t limit_ms = MIN(2 * s->failure.ms + 5000, s->until_ms - MIN(s->until_ms, now_ms()));
    struct sim_outcome outcome = sim_child_run(s->round, s->seed, fd, limit_ms);
    if (outcome.signal != s->failure.signal || strcmp(outcome.check, s->failure.check) != 0) {
        close(fd);
        return false;
    }
    close(s->fd);
    s->fd = fd;
    memcpy(s->best, noted, sizeof(*noted)); /* parts that were not reached are gone too */
    return true;
}

static bool leave_kinds(struct search *s)
{
    static bool leave[SIM_PARTS_MAX];
    bool found = false;
    for (unsigned i = 0; i < s->best->count && !time_is_over(s);) {
        const char *kind = s->best->parts[i].kind;
        bool seen = false;
        for (unsigned k = 0; k < s->best->count; k++) {
            leave[k] = s->best->parts[k].kind == kind;
            seen = seen || (leave[k] && k < i);
        }
        if (!seen && fails_without(s, leave)) {
            found = true;
            i = 0;
        } else {
            i++;
        }
    }
    return found;
}

static bool leave_pieces(struct search *s, unsigned size)
{
    static bool leave[SIM_PARTS_MAX];
    bool found = false;
    for (unsigned end = s->best->count; end > 0 && !time_is_over(s);) {
        unsigned begin = end > size ? end - size : 0;
        for (unsigned k = 0; k < s->best->count; k++)
            leave[k] = k >= begin && k < end;
        found = fails_without(s, leave) || found;
        end = MIN(begin, s->best->count);
    }
    return found;
}

static void print_said(int fd)
{
    char buf[4096];
    fflush(stderr);
    lseek(fd, 0, SEEK_SET);
    for (ssize_t n; (n = read(fd, buf, sizeof(buf))) > 0;) {
        if (write(STDERR_FILENO, buf, (size_t)n) < 0)
            break;
    }
}

static void print_parts(const struct search *s, const char *command)
{
    print_said(s->fd);
    fprintf(stderr, "What is left of seed %lu (%u runs):\n", s->seed, s->tries);
    for (unsigned i = 0; i < s->best->count; i++) {
        const struct part *part = &s->best->parts[i];
        fprintf(stderr, "  %c%-3u %11.3f ms  %s%s\n", part->letter, part->number,
            (double)part->at_ns / 1e6, part->kind, part->text);
    }
    fprintf(stderr, "FAILED with seed %lu: %s; again: %s --seed %lu --only ", s->seed,
        s->failure.check, command, s->seed);
    for (unsigned i = 0; i < s->best->count; i++)
        fprintf(stderr, "%s%c%u", i ? "," : "", s->best->parts[i].letter, s->best->parts[i].number);
    fprintf(stderr, " --trace\n");
}

void sim_minimise(void (*round)(uint64_t seed), uint64_t seed, struct sim_outcome failure, int said,
    unsigned limit_s, const char *command)
{
    struct search s = {.round = round,
        .seed = seed,
        .failure = failure,
        .until_ms = now_ms() + limit_s * 1000ull,
        .best = malloc(sizeof(*s.best)),
        .fd = said};
    static bool none[SIM_PARTS_MAX];
    CHECK(s.best);
    if (failure.signal == SIGPROF) { /* it spins: others would take seconds */
        sim_round_limit_s = 5;
        s.failure.ms = 10000;
    }
    memcpy(s.best, noted, sizeof(*noted));
    only = only ? only : calloc(SIM_PARTS_MAX, sizeof(*only));
    CHECK(only);
    memset(none, true, sizeof(none));
    bool found = limit_s > 0 && !fails_without(&s, none);
    while (found && s.best->count > 0 && !time_is_over(&s)) {
        found = leave_kinds(&s);
        for (unsigned size = s.best->count / 2; size > 0; size /= 2)
            found = leave_pieces(&s, size) || found;
    }
    print_parts(&s, command);
    close(s.fd);
    free(s.best);
}
