/* SPDX-License-Identifier: Apache-2.0
 *
 * Up to m disks of a volume hang while it is written and read: no I/O on them comes back, for a while or for ever.
 * They are retired after their timeout (D19), every request is answered soon after it, nothing is lost, and the
 * close ends. What comes back late changes nothing: readers let their buffers be left behind (T2), as NBD does.
 * In some rounds all disks do, as when the storage that all are on stalls, and the next process finds all that was
 * acknowledged, also where up to m disks have lost what they had cached.
 * In some rounds of both kinds disks that have hung come back in the same process (D20): then all goes on by itself,
 * flushes too, everything is read, and after a repair all is whole.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/disk/local_disk.h"
#include "common/log.h"
#include "common/mem.h"
#include "tests/sim/one_node.h"

#define MS 1000000ull
#define SEC 1000000000ull
#define TIMEOUT_NS (2 * SEC)
#define ANSWER_NS (TIMEOUT_NS * 5 / 4 + 5 * SEC)
#define CLOSE_NS (30 * SEC)
#define BACK_NS (30 * SEC) /* from the moment in which all disks go on to that in which writes do */

enum { WRITERS = 4, READERS = 4, READ_BLOCKS_MAX = 48 };

static struct world {
    struct one_node node;
    unsigned hang_count, hangs[2]; /* disks */
    uint64_t after_ns;             /* from the start of the load */
    uint64_t back_after_ns;        /* from the hang; UINT64_MAX: not before the process has ended */
    bool returns;                  /* disks come back by themselves */
    bool closes;                   /* while all disks hang */
    bool loses;                    /* up to m disks lose what they had cached, too (D20) */
    bool stopping;
    unsigned running;
    uint64_t worst_ns;
} world;

static void note(uint64_t begin_ns, const char *what)
{
    uint64_t taken_ns = env_now_ns() - begin_ns;
    world.worst_ns = MAX(world.worst_ns, taken_ns);
    CHECK_MSG(taken_ns < ANSWER_NS, "a %s took %llu ms", what, (unsigned long long)(taken_ns / MS));
}

static void pause_somewhat(void)
{
    env_sleep_ns(rng_below(&world.node.rng, 30 * MS));
}

static void writer(void *arg)
{
    struct one_node *n = &world.node;
    while (!world.stopping) {
        /* Small ones by the log, large ones as rows. */
        uint32_t count = 1 + (uint32_t)rng_below(
                                 &n->rng, rng_one_in(&n->rng, 4) ? ONE_NODE_WRITE_BLOCKS_MAX : 8);
        uint64_t begin_ns = env_now_ns();
        CHECK(one_node_write(n, (uint32_t)rng_below(&n->rng, ONE_NODE_BLOCKS - count), count));
        note(begin_ns, "write");
        begin_ns = env_now_ns();
        if (rng_one_in(&n->rng, 8))
            CHECK(one_node_flush(n) == 0);
        note(begin_ns, "flush");
        pause_somewhat();
    }
    world.running--;
}

static void reader(void *arg)
{
    struct one_node *n = &world.node;
    void *buf = mem_alloc_pages(READ_BLOCKS_MAX * BLOCK_BYTES);
    while (!world.stopping) {
        uint32_t count = 1 + (uint32_t)rng_below(&n->rng, READ_BLOCKS_MAX);
        uint32_t first = (uint32_t)rng_below(&n->rng, ONE_NODE_BLOCKS - count);
        uint64_t since = history_now(n->history), begin_ns = env_now_ns();
        int r = volume_read_leaving(
            n->volume, (uint64_t)first * BLOCK_BYTES, (uint64_t)count * BLOCK_BYTES, buf, true);
        note(begin_ns, "read");
        if (env_memory_left(buf, READ_BLOCKS_MAX * BLOCK_BYTES)) {
            mem_free_pages(buf, READ_BLOCKS_MAX * BLOCK_BYTES);
            buf = mem_alloc_pages(READ_BLOCKS_MAX * BLOCK_BYTES);
            continue;
        }
        CHECK_MSG(r == 0, "read: %s", strerror(-r));
        pause_somewhat(); /* a late read would be seen */
        history_read(n->history, since, first, count, buf);
    }
    mem_free_pages(buf, READ_BLOCKS_MAX * BLOCK_BYTES);
    world.running--;
}

static void hang_all(bool hang)
{
    for (unsigned i = 0; i < world.hang_count; i++) {
        struct sim_disk *disk = one_node_sim_disk(&world.node, world.hangs[i]);
        if (hang)
            sim_disk_hang(disk);
        else
            sim_disk_go_on(disk);
    }
}

/* --- Coming back --------------------------------------------------------------------------------- */

/* As blockd/disks_return.c does. */
static void returner(void *arg)
{
    struct one_node *n = &world.node;
    for (;;) {
        env_sleep_ns(rng_below(&n->rng, SEC));
        if (world.stopping)
            break;
        list_for_each (it, &n->disks.all) {
            struct disk *disk = list_entry(it, struct disk, link);
            CLEANUP_FREE char *error = NULL;
            int r = disk->state == DISK_MISSING ? local_disk_reopen(disk, &error) : -EAGAIN;
            CHECK_MSG(disk->state != DISK_FAILED, "%s", strerror(-r));
            if (r == 0)
                volume_disk_changed(n->volume);
        }
    }
    world.running--;
}

static unsigned disks_out(void)
{
    unsigned out = 0;
    list_for_each (it, &world.node.disks.all)
        out += list_entry(it, struct disk, link)->state != DISK_IN;
    return out;
}

static void read_everything(struct one_node *n)
{
    void *buf = mem_alloc_pages(READ_BLOCKS_MAX * BLOCK_BYTES);
    for (uint32_t first = 0; first < ONE_NODE_BLOCKS; first += READ_BLOCKS_MAX) {
        uint32_t count = MIN((uint32_t)READ_BLOCKS_MAX, ONE_NODE_BLOCKS - first);
        uint64_t since = history_now(n->history);
        int r = volume_read(
            n->volume, (uint64_t)first * BLOCK_BYTES, (uint64_t)count * BLOCK_BYTES, buf);
        CHECK_MSG(r == 0, "read of block %u: %s", first, strerror(-r));
        history_read(n->history, since, first, count, buf);
    }
    mem_free_pages(buf, READ_BLOCKS_MAX * BLOCK_BYTES);
}

/* All disks have gone on just now. */
static void expect_back(struct one_node *n)
{
    uint64_t begin_ns = env_now_ns();
    while (disks_out() > 0 && env_now_ns() - begin_ns < BACK_NS)
        env_sleep_ns(10 * MS);
    CHECK_MSG(disks_out() == 0, "%u disks are still out", disks_out());
    CHECK(one_node_write(n, (uint32_t)rng_below(&n->rng, ONE_NODE_BLOCKS), 1));
    CHECK(one_node_flush(n) == 0);
    CHECK_MSG(env_now_ns() - begin_ns < BACK_NS, "writes took %llu ms to go on",
        (unsigned long long)((env_now_ns() - begin_ns) / MS));
    read_everything(n);
}

/* Nobody writes any more. */
static void expect_whole(struct one_node *n)
{
    struct volume_info info;
    uint64_t begin_ns = env_now_ns();
    do {
        env_sleep_ns(100 * MS);
        (void)volume_repair_wait(n->volume);
        volume_get_info(n->volume, &info);
    } while (strcmp(info.health, "ok") != 0 && env_now_ns() - begin_ns < 2 * BACK_NS);
    CHECK_MSG(strcmp(info.health, "ok") == 0, "health is %s", info.health);
}

/* Those that hung, or were not used meanwhile, and no others. */
static void expect_retired(void)
{
    unsigned failed = 0;
    list_for_each (it, &world.node.disks.all) {
        const struct disk *disk = list_entry(it, struct disk, link);
        bool hung = disk->number == world.hangs[0] ||
                    (world.hang_count > 1 && disk->number == world.hangs[1]);
        CHECK(disk->state == DISK_IN || hung);
        CHECK(disk->state != DISK_FAILED);
        failed += disk->state == DISK_MISSING;
    }
    CHECK_MSG(failed > 0, "no disk is retired");
}

static void close_disks(void)
{
    while (!list_empty(&world.node.disks.all)) {
        struct disk *disk = list_entry(world.node.disks.all.next, struct disk, link);
        disk_list_remove(&world.node.disks, disk);
        local_disk_close(disk);
    }
}

static void life(void *arg)
{
    struct one_node *n = arg;
    one_node_open(n);
    one_node_write_some(n, 60, 32);
    world.running = WRITERS + READERS;
    for (unsigned i = 0; i < WRITERS; i++)
        fiber_spawn("writer", writer, NULL);
    for (unsigned i = 0; i < READERS; i++)
        fiber_spawn("reader", reader, NULL);
    world.running += world.returns;
    if (world.returns)
        fiber_spawn("returner", returner, NULL);
    env_sleep_ns(world.after_ns);
    hang_all(true);
    uint64_t rest_ns = TIMEOUT_NS * 2;
    if (world.back_after_ns != UINT64_MAX) {
        env_sleep_ns(world.back_after_ns);
        hang_all(false);
    }
    env_sleep_ns(rest_ns);
    if (world.returns)
        expect_back(n);
    else if (world.back_after_ns > TIMEOUT_NS * 7 / 4) /* each disk is used now and then */
        expect_retired();
    world.stopping = true;
    while (world.running > 0)
        env_sleep_ns(10 * MS);
    if (world.returns)
        expect_whole(n);
    uint64_t begin_ns = env_now_ns();
    int r = volume_close(n->volume);
    CHECK_MSG(r == 0, "close: %s", strerror(-r));
    n->volume = NULL;
    close_disks();
    note(begin_ns, "close");
}

/* --- All of them --------------------------------------------------------------------------------- */

static void stalled_writer(void *arg)
{
    struct one_node *n = &world.node;
    while (!world.stopping) {
        uint32_t count = 1 + (uint32_t)rng_below(
                                 &n->rng, rng_one_in(&n->rng, 4) ? ONE_NODE_WRITE_BLOCKS_MAX : 8);
        if (!one_node_write(n, (uint32_t)rng_below(&n->rng, ONE_NODE_BLOCKS - count), count))
            break;
        int r = rng_one_in(&n->rng, 8) ? one_node_flush(n) : 0;
        CHECK_MSG(r == 0 || !world.returns || world.closes, "flush: %s", strerror(-r));
        pause_somewhat();
    }
    world.running--;
}

/* All disks hang. A clean stop ends all the same: the next process finds in the log what did not get further. */
static void close_stalled(struct one_node *n)
{
    world.stopping = true;
    uint64_t begin_ns = env_now_ns();
    (void)volume_close(n->volume);
    CHECK_MSG(env_now_ns() - begin_ns < CLOSE_NS, "the close took %llu ms",
        (unsigned long long)((env_now_ns() - begin_ns) / MS));
    n->volume = NULL;
    while (world.running > 0)
        env_sleep_ns(10 * MS);
    close_disks();
}

static void lose_caches(struct one_node *n)
{
    unsigned first = (unsigned)rng_below(&n->rng, n->disk_count);
    for (unsigned i = 0; i < n->code.m; i++)
        sim_disk_lose_cache(one_node_sim_disk(n, 1 + (first + i) % n->disk_count), SIM_CUT_RANDOM);
}

static void stalled_life(void *arg)
{
    struct one_node *n = arg;
    one_node_open(n);
    world.running = WRITERS + world.returns;
    world.stopping = false;
    for (unsigned i = 0; i < WRITERS; i++)
        fiber_spawn("writer", stalled_writer, NULL);
    if (world.returns)
        fiber_spawn("returner", returner, NULL);
    env_sleep_ns(world.after_ns);
    for (unsigned i = 1; i <= n->disk_count; i++)
        sim_disk_hang(one_node_sim_disk(n, i));
    env_sleep_ns(TIMEOUT_NS / 2 + rng_below(&n->rng, 2 * TIMEOUT_NS));
    if (world.closes) {
        close_stalled(n);
        for (unsigned i = 1; i <= n->disk_count; i++)
            sim_disk_go_on(one_node_sim_disk(n, i));
        return;
    }
    if (world.loses && disks_out() == n->disk_count)
        lose_caches(n);
    for (unsigned i = 1; i <= n->disk_count; i++) {
        sim_disk_go_on(one_node_sim_disk(n, i));
        env_sleep_ns(rng_below(&n->rng, 100 * MS));
    }
    if (world.returns && rng_one_in(&n->rng, 2)) {
        expect_back(n);
        if (rng_one_in(&n->rng, 2)) {
            world.stopping = true;
            while (world.running > 0)
                env_sleep_ns(10 * MS);
            expect_whole(n);
        }
    }
    env_sleep_ns(rng_below(&n->rng, rng_one_in(&n->rng, 2) ? 20 * MS : 20 * SEC));
}

static void stalled_round(uint64_t seed, struct rng *rng)
{
    static const struct shard_code codes[] = {{1, 1}, {2, 1}, {1, 2}, {2, 2}};
    struct shard_code code = codes[rng_below(rng, 4)];
    world = (struct world){.after_ns = rng_below(rng, 2 * SEC), .returns = rng_one_in(rng, 2)};
    one_node_init(&world.node, seed, code, code.k + 2u * code.m);
    world.node.repair_wait_ns = rng_one_in(rng, 2) ? 600 * SEC : 0;
    world.node.log_bytes_max = 8 << 20; /* recovery copies whole logs, and the disks are small */
    world.node.io_timeout_ns = TIMEOUT_NS;
    world.node.bypass_bytes_min = 16 * BLOCK_BYTES;
    for (unsigned i = 0; i < 2; i++) {
        world.closes = rng_one_in(rng, 6);
        world.loses = rng_one_in(rng, 3);
        one_node_must(&world.node, "stalled life", stalled_life);
        if (rng_one_in(rng, 2))
            one_node_kill(&world.node);
        else
            one_node_power_cut(&world.node, SIM_CUT_RANDOM);
        one_node_must(&world.node, "recover", one_node_recover);
        one_node_kill(&world.node);
    }
    one_node_fini(&world.node);
}

static void round_of(uint64_t seed)
{
    struct rng stall = rng_fork(seed, "stall");
    if (rng_one_in(&stall, 3)) {
        stalled_round(seed, &stall);
        return;
    }
    static const struct shard_code codes[] = {{1, 1}, {2, 1}, {1, 2}, {2, 2}};
    struct rng rng = rng_fork(seed, "hang");
    struct shard_code code = codes[rng_below(&rng, 4)];
    unsigned disks = code.k + 2u * code.m + (unsigned)rng_below(&rng, 2);
    world = (struct world){.after_ns = rng_below(&rng, 2 * SEC),
        .hang_count = 1 + (unsigned)rng_below(&rng, code.m),
        .back_after_ns = rng_one_in(&rng, 2) ? UINT64_MAX : rng_below(&rng, 2 * TIMEOUT_NS)};
    world.returns = world.back_after_ns != UINT64_MAX && rng_one_in(&rng, 2);
    world.hangs[0] = 1 + (unsigned)rng_below(&rng, disks);
    world.hangs[1] = 1 + world.hangs[0] % disks;
    one_node_init(&world.node, seed, code, disks);
    world.node.repair_wait_ns = world.returns && rng_one_in(&rng, 2) ? 600 * SEC : 0;
    if (world.returns)
        world.node.log_bytes_max = 8 << 20;
    world.node.io_timeout_ns = TIMEOUT_NS;
    world.node.bypass_bytes_min = 16 * BLOCK_BYTES;
    one_node_must(&world.node, "life", life);
    hang_all(false);
    sim_run_for(world.node.sim, SEC);
    one_node_kill(&world.node);
    one_node_must(&world.node, "recover", one_node_recover);
    one_node_kill(&world.node);
    one_node_fini(&world.node);
}

int main(int argc, char **argv)
{
    log_set_level(getenv("SIM_LOG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
    return sim_check_main(argc, argv, &(struct sim_check){.round = round_of, .rounds = 30});
}
