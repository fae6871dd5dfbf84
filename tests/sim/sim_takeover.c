/* SPDX-License-Identifier: Apache-2.0
 *
 * Takeovers that are cut off: a process is killed in the middle of an append to the log's copies, the
 * next one somewhere in its recovery or soon after, then one disk is lost. With m = 1 the third must open
 * and find every acknowledged write, whichever disk it was (S12).
 */
#include <stdlib.h>

#include "common/log.h"
#include "tests/sim/one_node.h"

enum {
    WRITES = 24,
    WRITE_BLOCKS = 11,
    DISKS = 3,
};
#define SECOND_NS 1000000000ull

static void writer(void *arg)
{
    one_node_recover(arg);
    one_node_write_some(arg, WRITES, WRITE_BLOCKS);
    env_sleep_ns(SECOND_NS);
}

static void replayer(void *arg)
{
    one_node_open(arg);
    env_sleep_ns(SECOND_NS);
}

static void round_of(uint64_t seed)
{
    struct one_node node;
    one_node_init(&node, seed, (struct shard_code){1, 1}, DISKS);
    one_node_must(&node, "make", one_node_recover);
    one_node_kill(&node);
    fiber_fn *const steps[] = {writer, replayer, one_node_recover};
    for (unsigned i = 0; i < 3; i++) {
        struct sim_crash crash = {.scope = SIM_SCOPE_NODE,
            .first = i == 0   ? sim_io_count(node.sim) + rng_between(&node.rng, 40, 600)
                     : i == 1 ? sim_io_count(node.sim) + rng_between(&node.rng, 20, 150)
                              : UINT64_MAX};
        CHECK(sim_crash_next(&crash));
        sim_crash_arm(node.sim, &crash);
        if (i == 2)
            one_node_pull(&node, 1 + (unsigned)rng_below(&node.rng, DISKS));
        (void)one_node_do(&node, "step", steps[i]);
        sim_crash_disarm(node.sim);
        one_node_kill(&node);
    }
    one_node_fini(&node);
}

int main(int argc, char **argv)
{
    log_set_level(getenv("SIM_LOG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
    return sim_check_main(argc, argv, &(struct sim_check){.round = round_of, .rounds = 60});
}
