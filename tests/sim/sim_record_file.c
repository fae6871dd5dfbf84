/* SPDX-License-Identifier: Apache-2.0
 *
 * The example of README.md, and a test of the simulation by a program whose rules are plain: a file
 * of records, one a block, each with its number, the seed and a checksum. Several are written at
 * once, a sync follows, then they count as kept. After a crash anywhere all that was kept is there,
 * and nothing is there that was never written.
 */
#include <errno.h>
#include <string.h>

#include "common/mem.h"
#include "tests/sim/sim_check.h"

enum {
    RECORDS = 24,
    BATCH_MAX = 4,
    BLOCK_BYTES = 4096,
};

/* What the world outside the node knows: it survives the node. */
struct world {
    uint64_t seed;
    unsigned written, kept;
    unsigned found; /* by recovery: records 0 .. found-1 are whole */
    bool forget_sync;
};

struct record {
    uint64_t number, seed, sum;
    uint64_t filler[(BLOCK_BYTES - 24) / 8];
};

static uint64_t record_sum(const struct record *record)
{
    uint64_t sum = record->number * 31 + record->seed;
    for (unsigned i = 0; i < ARRAY_SIZE(record->filler); i++)
        sum = rng_mix(sum + record->filler[i]);
    return sum;
}

static MAY_SUSPEND int record_write(struct env_file *file, uint64_t number, uint64_t seed)
{
    struct record *record = mem_alloc_pages(sizeof(*record));
    *record = (struct record){.number = number, .seed = seed};
    memset(record->filler, number, sizeof(record->filler));
    record->sum = record_sum(record);
    int error = env_file_write(file, record, sizeof(*record), number * BLOCK_BYTES, false);
    mem_free_pages(record, sizeof(*record));
    return error;
}

struct writer {
    struct env_file *file;
    struct fiber_group *group;
    uint64_t number, seed;
};

static void write_one(void *arg)
{
    struct writer *writer = arg;
    fiber_group_done(writer->group, record_write(writer->file, writer->number, writer->seed));
    mem_free(writer);
}

static void workload(void *arg)
{
    struct world *world = arg;
    struct env_file *file;
    CHECK(env_file_open("/records", ENV_OPEN_EXCLUSIVE_LOCK, 0, &file) == 0);
    while (world->written < RECORDS) {
        struct fiber_group group;
        fiber_group_init(&group);
        unsigned count = 1 + env_random_u64() % BATCH_MAX;
        count = MIN(count, RECORDS - world->written);
        for (unsigned i = 0; i < count; i++) {
            struct writer *writer = NEW(struct writer);
            *writer = (struct writer){file, &group, world->written++, world->seed};
            fiber_group_add(&group, 1);
            fiber_spawn("record writer", write_one, writer);
        }
        CHECK(fiber_group_wait(&group) == 0);
        CHECK(world->forget_sync || env_file_sync(file) == 0);
        world->kept = world->written;
    }
    env_file_close(file);
}

static void recover(void *arg)
{
    struct world *world = arg;
    struct env_file *file;
    struct record *record = mem_alloc_pages(sizeof(*record));
    CHECK(env_file_open("/records", ENV_OPEN_EXCLUSIVE_LOCK, 0, &file) == 0);
    for (world->found = 0; world->found < RECORDS; world->found++) {
        uint64_t off_bytes = world->found * BLOCK_BYTES;
        CHECK(env_file_read(file, record, sizeof(*record), off_bytes) == 0);
        if (record->sum != record_sum(record) || record->sum == 0)
            break;
        CHECK(record->number == world->found && record->seed == world->seed);
    }
    mem_free_pages(record, sizeof(*record));
    env_file_close(file);
}

/* The workload, ended at `crash`, and recovery. */
static struct world run_and_recover(uint64_t seed, struct sim_crash *crash, bool forget_sync)
{
    struct sim *sim = sim_new(&(struct sim_options){.seed = seed, .trace = sim_check_trace()});
    struct env *node = sim_node_new(sim, "node");
    struct world world = {.seed = seed, .forget_sync = forget_sync};
    sim_disk_new(node, "/records", RECORDS * BLOCK_BYTES);
    sim_crash_arm(sim, crash);
    bool finished = sim_do(node, "workload", workload, &world);
    CHECK(finished == !crash->reached);
    sim_crash_disarm(sim);
    CHECK(sim_do(node, "recovery", recover, &world));
    sim_free(sim);
    return world;
}

static void crash_everywhere(uint64_t seed)
{
    struct sim_crash crash = {.mode = SIM_CUT_RANDOM};
    while (sim_crash_next(&crash)) {
        struct world world = run_and_recover(seed, &crash, false);
        CHECK_MSG(world.found >= world.kept && world.found <= world.written,
            "kept %u, found %u, written %u after a cut at operation %lu", world.kept, world.found,
            world.written, crash.number);
    }
    CHECK(crash.number > RECORDS);
}

/* The check must be able to fail: without the sync records are lost somewhere. */
static void planted_fault_is_found(uint64_t seed)
{
    struct sim_crash crash = {.mode = SIM_CUT_LOSE_ALL};
    bool lost = false;
    while (sim_crash_next(&crash)) {
        struct world world = run_and_recover(seed, &crash, true);
        lost |= world.found < world.kept;
    }
    CHECK_MSG(lost, "the planted fault was not found");
}

static void round_of(uint64_t seed)
{
    crash_everywhere(seed);
    if (seed % 8 == 0)
        planted_fault_is_found(seed);
}

int main(int argc, char **argv)
{
    return sim_check_main(argc, argv, &(struct sim_check){.round = round_of, .rounds = 24});
}
