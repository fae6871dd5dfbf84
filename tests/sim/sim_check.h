/* SPDX-License-Identifier: Apache-2.0
 *
 * What every simulation test shares: its main(), which runs a round per seed and names the seed of
 * a round that fails, running a fiber to its end, and crash loops. See README.md.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/check.h"
#include "common/env_sim.h"
#include "common/rng.h"

/* One round: makes a simulation from `seed`, does its work in it and frees it. A failure is a
 * failed CHECK. */
typedef void sim_round_fn(uint64_t seed);

struct sim_check {
    sim_round_fn *round;
    unsigned rounds;            /* of a plain run, with seeds 1, 2, ...: some seconds in all */
    const uint64_t *seeds_kept; /* seeds that have failed once: run first, always */
    unsigned seeds_kept_count;
    bool children; /* rounds run in processes of their own, and one that fails is made small
                      (sim_minimise.h): not with --here, --trace or SIM_LOG */
};
/* For main(): `--seed S` runs that one round, `--rounds N` so many, `--minutes M` as many as fit,
 * from a seed drawn by time; `--trace` prints all events; `--same` runs each seed four times, in three processes,
 * and compares the trace hashes. The exit status. */
int sim_check_main(int argc, char **argv, const struct sim_check *check);
/* As given by --trace; for sim_options. */
bool sim_check_trace(void);
/* As given by --nodes, for simulations of clusters; 0 = as the seed draws. */
unsigned sim_check_nodes(void);

/* sim_free(), at the end of a round: notes the trace hash first, for --same. */
void sim_check_ends(struct sim *sim);

/* Starts fn(arg) on the node and runs the simulation until it has returned: true; or the node went
 * down first: false. Stuck, or an hour of virtual time: dumps and fails. */
bool sim_do(struct env *node, const char *name, fiber_fn *fn, void *arg);

/* A loop over crash points, one simulation each:
 *
 *   for (struct sim_crash crash = {.scope = .., .mode = ..}; sim_crash_next(&crash);) {
 *       struct sim *sim = sim_new(..);
 *       sim_crash_arm(sim, &crash);
 *       if (sim_do(node, .., workload, ..)) -> it ran to its end, the loop ends after this round
 *       verify after a restart
 *       sim_free(sim);
 *   }
 *
 * It ends the node (or machine, or all) before, half-way through and after the first write or sync,
 * then the second, and so on, until a workload meets no crash any more. `step` > 1 skips
 * operations, beginning with a first one below `step`. */
struct sim_crash {
    unsigned scope; /* SIM_SCOPE_ */
    enum sim_cut_mode mode;
    unsigned step;  /* 0 = 1 */
    uint64_t first; /* 0 = 1 */
    /* set by sim_crash_next */
    uint64_t number;
    unsigned when;
    bool armed, reached;
};
bool sim_crash_next(struct sim_crash *crash);
void sim_crash_arm(struct sim *sim, struct sim_crash *crash);
/* No crash from here on (during verification). */
void sim_crash_disarm(struct sim *sim);
