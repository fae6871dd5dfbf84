/* SPDX-License-Identifier: Apache-2.0
 *
 * More requests than there are fibers for what they spawn: reads of many pieces at once, with a small
 * pool. Each comes to its end (F5).
 */
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/mem.h"
#include "tests/sim/one_volume.h"

/* The pool: the volume has some ten fibers of its own, the readers more than all others together. */
enum { FIBERS = 64, READERS = 100, READS = 3, READ_BLOCKS = 128, SPAN_BLOCKS = ONE_VOLUME_BLOCKS };

static struct one_volume world;

/* In random order, so that what a read finds lies in many rows. */
static void fill(void)
{
    uint8_t *buf = mem_alloc_pages(BLOCK_BYTES);
    uint16_t order[SPAN_BLOCKS];
    for (unsigned i = 0; i < SPAN_BLOCKS; i++) {
        unsigned j = (unsigned)rng_below(&world.rng, i + 1);
        order[i] = order[j];
        order[j] = (uint16_t)i;
    }
    for (unsigned i = 0; i < SPAN_BLOCKS; i++) {
        memset(buf, order[i] % 251, BLOCK_BYTES);
        int r = volume_write(world.volume, order[i] * (uint64_t)BLOCK_BYTES, BLOCK_BYTES, buf, 0,
            (struct request_id){0});
        CHECK_MSG(r == 0, "write: %s", strerror(-r));
    }
    mem_free_pages(buf, BLOCK_BYTES);
}

static void read_some(void *arg)
{
    struct fiber_group *group = arg;
    uint8_t *buf = mem_alloc_pages(READ_BLOCKS * BLOCK_BYTES);
    for (unsigned i = 0; i < READS; i++) {
        uint64_t block = rng_below(&world.rng, SPAN_BLOCKS - READ_BLOCKS);
        int r = volume_read(world.volume, block * BLOCK_BYTES, READ_BLOCKS * BLOCK_BYTES, buf);
        CHECK_MSG(r == 0, "read: %s", strerror(-r));
        for (unsigned j = 0; j < READ_BLOCKS; j++)
            CHECK(buf[j * BLOCK_BYTES] == (block + j) % 251);
    }
    mem_free_pages(buf, READ_BLOCKS * BLOCK_BYTES);
    fiber_group_done(group, 0);
}

static void run(void *arg)
{
    fill();
    struct fiber_group group;
    fiber_group_init(&group);
    fiber_group_add(&group, READERS);
    for (unsigned i = 0; i < READERS; i++)
        fiber_spawn("reader", read_some, &group);
    fiber_group_wait(&group);
}

static void round_of(uint64_t seed)
{
    one_volume_round(&world, seed, FIBERS, run);
}

int main(int argc, char **argv)
{
    log_set_level(getenv("SIM_LOG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
    return sim_check_main(argc, argv, &(struct sim_check){.round = round_of, .rounds = 2});
}
