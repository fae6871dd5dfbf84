/* SPDX-License-Identifier: Apache-2.0
 *
 * Replay, and a crash soon after it: a process is killed with several memtable generations only in the
 * log; the next one replays, destages what it will, and is killed too. The third must find every
 * acknowledged write whole. Writes are of sizes that do not divide a generation, so that where the
 * generations end in replay is not where they ended before.
 */
#include <stdlib.h>

#include "common/log.h"
#include "tests/sim/one_node.h"

enum {
    ROW_BLOCKS = 16, /* a generation: code 1+0 */
    WRITES = 24,
    WRITE_BLOCKS = 11,
    LIVES = 3 * 8,
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
    one_node_init(&node, seed, (struct shard_code){1, 0}, 1);
    one_node_must(&node, "make", one_node_recover);
    one_node_kill(&node);
    fiber_fn *const steps[] = {writer, replayer, one_node_recover};
    for (unsigned i = 0; i < LIVES; i++) {
        /* The writer is cut off anywhere, the others run as long as they want. */
        struct sim_crash crash = {.scope = SIM_SCOPE_NODE,
            .first =
                i % 3 == 0 ? sim_io_count(node.sim) + rng_between(&node.rng, 5, 250) : UINT64_MAX};
        /* Records larger than a generation, too: the setting has been lowered since. */
        node.row_blocks_max = i % 3 == 1 && rng_one_in(&node.rng, 3) ? 4 : ROW_BLOCKS;
        CHECK(sim_crash_next(&crash));
        sim_crash_arm(node.sim, &crash);
        (void)one_node_do(&node, "step", steps[i % 3]);
        sim_crash_disarm(node.sim);
        one_node_kill(&node);
    }
    one_node_fini(&node);
}

int main(int argc, char **argv)
{
    log_set_level(getenv("SIM_LOG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
    return sim_check_main(argc, argv, &(struct sim_check){.round = round_of, .rounds = 8});
}
