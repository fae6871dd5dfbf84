/* SPDX-License-Identifier: Apache-2.0
 *
 * Making a failure small. A round is made of parts that can be left out: faults, clients. A seed that fails is run
 * again, each time in a process of its own, without some of them, as long as the same check fails; what is left
 * is printed, with the last events of each node of that run and the command that repeats it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum { SIM_PARTS_MAX = 1024 };

/* Whether the round shall have this part: letter and number are its name ("f12"), `kind` is static text, those of
 * one kind are tried together first. Noted in the order of asking, with the time. */
bool sim_part_wanted(char letter, unsigned number, const char *kind);
/* What there is to say of the part asked for last; printf. */
void sim_part_says(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* --- For sim_check.c --- */

/* Of --only f3,f9,c1: all other parts are left out. Ends the program if it cannot be read. */
void sim_parts_only(const char *names);

struct sim_outcome {
    int signal; /* 0 = passed */
    uint64_t ms;
    char check[160]; /* which failed: file, line, condition */
};
/* round(seed) in a child process. What it says goes to `fd`, -1 = to our stderr. One that takes longer than
 * `limit_ms` is killed (SIGKILL). */
struct sim_outcome sim_child_run(
    void (*round)(uint64_t seed), uint64_t seed, int fd, uint64_t limit_ms);
/* Of CPU for a round of the children to come; 0 = the usual. */
extern unsigned sim_round_limit_s;
/* A file in memory, for what a child says. */
int sim_said_new(void);
/* The child run last has failed, with `said` (closed here): made small within `limit_s` (0 = not at all), and
 * told on stderr. */
void sim_minimise(void (*round)(uint64_t seed), uint64_t seed, struct sim_outcome failure, int said,
    unsigned limit_s, const char *command);
/* Memory that children share with us, zeroed. */
void *sim_shared_new(uint64_t len_bytes);
