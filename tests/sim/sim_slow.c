/* SPDX-License-Identifier: Apache-2.0
 *
 * A disk that takes 200 ms for each write from some moment on: the volume that writes to it leaves
 * it, and its clients' latency is what it was before (docs/ARCHITECTURE.md, many nodes).
 */
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/mem.h"
#include "tests/sim/one_volume.h"

enum { SPAN_BLOCKS = ONE_VOLUME_BLOCKS };
#define MS 1000000ull
#define SLOW_NS (200 * MS)

static struct one_volume world;

/* The longest that a write took. */
static uint64_t write_for(uint64_t duration_ns)
{
    uint64_t until_ns = env_now_ns() + duration_ns, worst_ns = 0;
    uint8_t *buf = mem_alloc_pages(64 * BLOCK_BYTES);
    memset(buf, 7, 64 * BLOCK_BYTES);
    while (env_now_ns() < until_ns) {
        uint64_t count = rng_below(&world.rng, 20) ? 1 + rng_below(&world.rng, 8) : 48;
        uint64_t block = rng_below(&world.rng, SPAN_BLOCKS - count), begin_ns = env_now_ns();
        int r = volume_write(
            world.volume, block * BLOCK_BYTES, count * BLOCK_BYTES, buf, 0, (struct request_id){0});
        CHECK_MSG(r == 0, "write: %s", strerror(-r));
        worst_ns = MAX(worst_ns, env_now_ns() - begin_ns);
        env_sleep_ns(rng_below(&world.rng, 4 * MS));
    }
    mem_free_pages(buf, 64 * BLOCK_BYTES);
    return worst_ns;
}

static void run(void *arg)
{
    uint64_t before_ns = write_for(3000 * MS);
    CHECK_MSG(before_ns < 50 * MS, "a write took %llu ms with all disks well",
        (unsigned long long)(before_ns / MS));
    struct sim_fault fault = {
        .ops = SIM_OP_WRITE | SIM_OP_SYNC, .kind = SIM_FAULT_DELAY, .delay_ns = SLOW_NS};
    sim_disk_fault(one_volume_any_disk(&world), &fault);
    write_for(5000 * MS); /* time to notice, and for what was on its way */
    uint64_t after_ns = write_for(5000 * MS);
    CHECK_MSG(after_ns < SLOW_NS, "writes still take %llu ms", (unsigned long long)(after_ns / MS));
}

static void round_of(uint64_t seed)
{
    one_volume_round(&world, seed, 0, run);
}

/* Something was being made on the disk when the volume left it, and was found after five seconds only. */
static const uint64_t seeds_kept[] = {30121882913079308};

int main(int argc, char **argv)
{
    log_set_level(getenv("SIM_LOG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
    return sim_check_main(argc, argv,
        &(struct sim_check){
            .round = round_of, .rounds = 4, .seeds_kept = seeds_kept, .seeds_kept_count = 1});
}
