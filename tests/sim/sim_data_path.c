/* SPDX-License-Identifier: Apache-2.0
 *
 * The data path of one owner over the disks of its machine: short lives, each of which ends at the very moment at which a
 * promise begins to count: a flush was answered, the power goes, and up to m disks with it; a read or a write was
 * answered, the process is killed. What is found is judged by history.h; partial writes have a model of their own.
 *
 * Each kind of round has the circumstances of one rule at a high rate: flushes beside others' writes while logs roll (S4) and
 * other volumes' flushes are under way (D12), a flush that fails (D2), reads of what is being written (I2), large writes
 * on slow disks (S14), logs let go (S1), disks that are away for a moment (S23, W3, W7), sectors of one block (I3).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/mem.h"
#include "tests/sim/data_path_world.h"

/* --- Flushes ----------------------------------------------------------------------------------- */

/* S4: a flush, then the power goes and up to m disks with it. Logs are on disks of their own, mostly. */
static void round_flush(struct world *w, uint64_t seed)
{
    static const struct shard_code codes[] = {{1, 1}, {1, 1}, {1, 2}, {2, 1}};
    struct rng rng = rng_fork(seed, "shape");
    struct shard_code code = codes[rng_below(&rng, ARRAY_SIZE(codes))];
    unsigned shards = code.k + code.m;
    world_init(w, seed, code, shards + 1 + (unsigned)rng_below(&rng, DISKS_MAX - shards),
        1 + (unsigned)rng_below(&rng, VOLUMES_MAX));
    world_set_latency(w, rng_between(&rng, 20000, MS_NS), rng_between(&rng, 50000, 20 * MS_NS));
    w->linked = rng_one_in(&rng, 3);
    if (rng_one_in(&rng, 3))
        w->bypass_bytes_min = 16 * 1024;
    w->load = (struct load){.clients = 1 + (unsigned)rng_below(&rng, 4),
        .write_percent = 80,
        .trim_percent = 2,
        .flush_percent = 1 + (unsigned)rng_below(&rng, 15),
        .fua_percent = rng_one_in(&rng, 2) ? 0 : (unsigned)rng_below(&rng, 20),
        .blocks = BLOCKS,
        .blocks_max = 1 + (uint32_t)rng_below(&rng, WRITE_BLOCKS_MAX),
        .pause_ns_max = rng_one_in(&rng, 2) ? 0 : rng_below(&rng, 2 * MS_NS),
        .end_one_in = 1 + (unsigned)rng_below(&rng, 8),
        .end_at = END_AT_FLUSH,
        .end_by_power = true,
        .cut_mode = rng_one_in(&rng, 4) ? SIM_CUT_RANDOM : SIM_CUT_LOSE_ALL};
    world_run_lives(w, 4, true);
}

/* S4: the last roll was a moment ago, and what was written before it is on other disks. */
static void round_roll(struct world *w, uint64_t seed)
{
    struct rng rng = rng_fork(seed, "shape");
    world_init(w, seed, (struct shard_code){1, 1}, DISKS_MAX, 1);
    world_set_latency(w, rng_between(&rng, 20000, MS_NS), rng_between(&rng, 5, 20) * MS_NS);
    w->load = (struct load){.clients = 4,
        .write_percent = 98,
        .flush_percent = 1 + (unsigned)rng_below(&rng, 2),
        .blocks = BLOCKS,
        .blocks_max = WRITE_BLOCKS_MAX,
        .end_one_in = 1 + (unsigned)rng_below(&rng, 3),
        .end_at = END_AT_FLUSH,
        .end_by_power = true,
        .cut_mode = SIM_CUT_LOSE_ALL};
    world_run_lives(w, 6, rng_one_in(&rng, 2));
}

/* D12: the disks are flushing for another volume all the time. */
static void round_join(struct world *w, uint64_t seed)
{
    struct rng rng = rng_fork(seed, "shape");
    world_init(w, seed, (struct shard_code){1, 1}, 3, VOLUMES_MAX);
    world_set_latency(w, rng_between(&rng, 20000, MS_NS), rng_between(&rng, 2, 20) * MS_NS);
    w->load = (struct load){.clients = 2,
        .write_percent = 80,
        .flush_percent = 20,
        .blocks = BLOCKS,
        .blocks_max = 4,
        .pause_ns_max = rng_below(&rng, MS_NS) + 1,
        .end_one_in = 1 + (unsigned)rng_below(&rng, 4),
        .end_at = END_AT_FLUSH,
        .end_by_power = true,
        .cut_mode = SIM_CUT_LOSE_ALL};
    world_run_lives(w, 6, rng_one_in(&rng, 2));
}

/* --- A flush that fails ------------------------------------------------------------------------ */

/* The disks with a copy of the open log of the first volume. */
static unsigned log_disks(struct world *w, unsigned *ret_disks)
{
    unsigned found = 0;
    for (unsigned i = 0; i < w->disk_count; i++) {
        struct shard_info *list, now;
        unsigned count;
        CHECK(shard_list(w->real[i], w->vols[0].id, &list, &count) == 0);
        for (unsigned s = 0; s < count; s++) {
            if (list[s].kind != SHARD_LOG || list[s].tombstone)
                continue;
            int r = shard_stat(w->real[i], list[s].key, &now);
            CHECK(r == 0 || r == -ENOENT); /* removed meanwhile */
            if (r == 0 && now.length_blocks > 0 && found < 2)
                ret_disks[found++] = i;
        }
        mem_free(list);
    }
    return found;
}

static void fail_a_flush(void *arg)
{
    struct world *w = arg;
    world_start(w);
    struct client c = {.world = w, .vol = &w->vols[0]};
    rng_init(&c.rng, rng_u64(&w->rng));
    c.buf = mem_alloc_pages(WRITE_BLOCKS_MAX * BLOCK_BYTES);
    for (unsigned i = 0, n = 1 + (unsigned)rng_below(&w->rng, 30); i < n; i++)
        client_write(&c, false);
    unsigned disks[2];
    CHECK(log_disks(w, disks) == 2);
    w->failing = disks[rng_below(&w->rng, 2)];
    w->other = disks[0] + disks[1] - w->failing;
    sim_disk_fault(
        w->sim_disks[w->failing], &(struct sim_fault){.ops = SIM_OP_SYNC, .kind = SIM_FAULT_ERROR});
    client_flush(&c);
    sim_disk_clear_faults(w->sim_disks[w->failing]);
    world_wait_until_whole(w);
    mem_free_pages(c.buf, WRITE_BLOCKS_MAX * BLOCK_BYTES);
}

/* D2: what a failed flush covered need not be on the disk ever, whatever it says later. */
static void round_failed_flush(struct world *w, uint64_t seed)
{
    world_init(w, seed, (struct shard_code){1, 1}, 3, 1);
    if (!rng_one_in(&w->rng, 4)) {
        world_set_latency(w, rng_between(&w->rng, 1, 5) * MS_NS, MS_NS);
        w->linked = true;
    }
    w->load = (struct load){.blocks = BLOCKS, .blocks_max = 4};
    w->settled = true;
    world_must(w, "make", world_start);
    world_end_life(w, false, 0);
    world_must(w, "fail", fail_a_flush);
    world_end_life(w, true, SIM_CUT_LOSE_ALL);
    CHECK(w->whole);
    sim_disk_remove(w->sim_disks[w->other]);
    world_must(w, "verify", world_start);
    world_fini(w);
}

/* --- Kills ------------------------------------------------------------------------------------- */

/* I2: what was read while it was on its way to the copies is there after the process was killed. */
static void round_read(struct world *w, uint64_t seed)
{
    struct rng rng = rng_fork(seed, "shape");
    world_init(w, seed, (struct shard_code){1, 1}, 3, 1);
    world_set_latency(w, rng_between(&rng, 1, 10) * MS_NS, MS_NS);
    w->load = (struct load){.clients = 4,
        .write_percent = 50,
        .trim_percent = 5,
        .blocks = 1 + (uint32_t)rng_below(&rng, 16),
        .blocks_max = 1,
        .pause_ns_max = MS_NS,
        .end_one_in = 1 + (unsigned)rng_below(&rng, 20),
        .end_at = END_AT_READ};
    world_run_lives(w, 8, rng_one_in(&rng, 2));
}

/* S14: a large write was answered, slow disks have its row. */
static void round_large(struct world *w, uint64_t seed)
{
    static const struct shard_code codes[] = {{1, 1}, {2, 1}, {2, 2}, {4, 2}};
    struct rng rng = rng_fork(seed, "shape");
    struct shard_code code = codes[rng_below(&rng, ARRAY_SIZE(codes))];
    world_init(w, seed, code, code.k + code.m + 1 + (unsigned)rng_below(&rng, 2), 1);
    w->bypass_bytes_min = 16 * 1024;
    world_set_latency(w, rng_between(&rng, 1, 10) * MS_NS, MS_NS);
    w->load = (struct load){.clients = 1 + (unsigned)rng_below(&rng, 3),
        .write_percent = 90,
        .trim_percent = 2,
        .flush_percent = rng_one_in(&rng, 2) ? 0 : 5,
        .blocks = BLOCKS,
        .blocks_max = WRITE_BLOCKS_MAX,
        .pause_ns_max = rng_below(&rng, 3 * MS_NS) + 1,
        .end_one_in = 1 + (unsigned)rng_below(&rng, 20),
        .end_at = END_AT_WRITE};
    world_run_lives(w, 6, rng_one_in(&rng, 2));
}

/* S1: logs are let go all the time, since rows with what is in them are committed. */
static void round_release(struct world *w, uint64_t seed)
{
    struct rng rng = rng_fork(seed, "shape");
    world_init(w, seed, (struct shard_code){1, 1}, 3 + (unsigned)rng_below(&rng, 3), 1);
    w->log_bytes = 4 << 20;
    w->row_blocks = 248;
    w->life_ns = 2 * SECOND_NS;
    world_set_latency(w, rng_between(&rng, 1, 5) * MS_NS, MS_NS);
    w->load = (struct load){.clients = 4,
        .write_percent = 95,
        .blocks = BLOCKS,
        .blocks_max = WRITE_BLOCKS_MAX,
        .end_one_in = 4 + (unsigned)rng_below(&rng, 30),
        .end_at = END_AT_TABLE};
    world_run_lives(w, 12, rng_one_in(&rng, 2));
}

/* --- A disk that is away for a moment ---------------------------------------------------------- */

static void one_link_cut(void *arg)
{
    struct world *w = arg;
    world_start(w);
    w->failing = (unsigned)rng_below(&w->rng, w->disk_count);
    world_spawn_clients(w);
    env_sleep_ns(rng_between(&w->rng, 20, 100) * MS_NS);
    link_disk_cut(w->links[w->failing], true);
    env_sleep_ns(rng_between(&w->rng, 100, 500) * MS_NS);
    link_disk_cut(w->links[w->failing], false);
    if (rng_one_in(&w->rng, 2))
        volume_disk_changed(w->vols[0].volume); /* Q6 */
    env_sleep_ns(rng_between(&w->rng, 20, 100) * MS_NS);
    world_stop_clients(w);
    world_wait_until_whole(w);
}

/* S23: a shard that missed a row is not one of those that have it, though its disk is there again: any other may be lost
 * once all is well again. */
static void round_missed_row(struct world *w, uint64_t seed)
{
    static const struct shard_code codes[] = {{1, 1}, {2, 1}};
    struct rng rng = rng_fork(seed, "shape");
    struct shard_code code = codes[rng_below(&rng, ARRAY_SIZE(codes))];
    world_init(w, seed, code, code.k + code.m + 1, 1);
    w->bypass_bytes_min = 16 * 1024;
    w->linked = true;
    w->settled = true;
    w->load = (struct load){.clients = 2,
        .write_percent = 90,
        .blocks = BLOCKS,
        .blocks_max = WRITE_BLOCKS_MAX,
        .pause_ns_max = 10 * MS_NS};
    world_must(w, "cut", one_link_cut);
    world_end_life(w, false, 0);
    w->linked = false;
    if (w->whole) {
        w->other =
            (w->failing + 1 + (unsigned)rng_below(&w->rng, w->disk_count - 1)) % w->disk_count;
        sim_disk_remove(w->sim_disks[w->other]);
    }
    world_must(w, "verify", world_start);
    world_fini(w);
}

/* W3, W7: a flush is answered while a copy of the log is away, or just was; then the power goes, or the process. */
static void round_cut_links(struct world *w, uint64_t seed)
{
    static const struct shard_code codes[] = {{1, 1}, {2, 1}};
    struct rng rng = rng_fork(seed, "shape");
    struct shard_code code = codes[rng_below(&rng, ARRAY_SIZE(codes))];
    bool power = rng_one_in(&rng, 2);
    world_init(w, seed, code, code.k + code.m + 1 + (unsigned)rng_below(&rng, 2), 1);
    world_set_latency(w, rng_between(&rng, 20000, MS_NS), rng_between(&rng, 50000, 5 * MS_NS));
    w->linked = true;
    w->life_ns = SECOND_NS;
    if (rng_one_in(&rng, 2))
        w->bypass_bytes_min = 16 * 1024;
    w->load = (struct load){.clients = 1 + (unsigned)rng_below(&rng, 3),
        .write_percent = 70,
        .trim_percent = 5,
        .flush_percent = 1 + (unsigned)rng_below(&rng, 15),
        .blocks = BLOCKS,
        .blocks_max = 1 + (uint32_t)rng_below(&rng, WRITE_BLOCKS_MAX),
        .pause_ns_max = rng_below(&rng, 10 * MS_NS) + 1,
        .end_one_in = 1 + (unsigned)rng_below(&rng, 20),
        .end_at = power ? END_AT_FLUSH : END_AT_WRITE | END_AT_READ,
        .end_by_power = power,
        .cut_links = true,
        .cut_mode = rng_one_in(&rng, 2) ? SIM_CUT_RANDOM : SIM_CUT_LOSE_ALL};
    world_run_lives(w, 5, false);
}

/* --- Partial writes ---------------------------------------------------------------------------- */

struct sector_writer {
    struct world *world;
    uint64_t off_bytes;
    unsigned writes;
};

/* Nobody else writes its sector: it is as this one has left it. */
static void sector_writer_main(void *arg)
{
    struct sector_writer s = *(struct sector_writer *)arg;
    struct volume *volume = s.world->vols[0].volume;
    uint64_t buf[512 / sizeof(uint64_t)], found[512 / sizeof(uint64_t)];
    mem_free(arg);
    for (unsigned i = 1; i <= s.writes; i++) {
        for (unsigned n = 0; n < ARRAY_SIZE(buf); n++)
            buf[n] = s.off_bytes + i;
        int r = volume_write(volume, s.off_bytes, 512, buf, 0, (struct request_id){0});
        CHECK_MSG(r == 0, "write: %s", strerror(-r));
        env_sleep_ns(env_random_u64() % (10 * MS_NS));
        r = volume_read(volume, s.off_bytes, 512, found);
        CHECK_MSG(r == 0, "read: %s", strerror(-r));
        CHECK_MSG(memcmp(buf, found, 512) == 0,
            "sector at %llu: %llu was found after %llu was written",
            (unsigned long long)s.off_bytes, (unsigned long long)found[0],
            (unsigned long long)buf[0]);
    }
    s.world->clients--;
}

static void write_sectors(void *arg)
{
    struct world *w = arg;
    world_start(w);
    unsigned blocks = 1 + (unsigned)rng_below(&w->rng, 3);
    for (unsigned i = 0; i < blocks * SECTORS; i++) {
        struct sector_writer *s = NEW(struct sector_writer);
        *s = (struct sector_writer){.world = w,
            .off_bytes = (uint64_t)i * 512,
            .writes = 10 + (unsigned)rng_below(&w->rng, 30)};
        w->clients++;
        fiber_spawn("sector writer", sector_writer_main, s);
    }
    /* Blocks that are read from disks take a while. */
    for (; w->clients > 0; env_sleep_ns(rng_below(&w->rng, 5 * MS_NS)))
        CHECK(volume_destage(w->vols[0].volume) == 0);
}

/* I3: writes to the sectors of one block at once. */
static void round_sectors(struct world *w, uint64_t seed)
{
    world_init(w, seed, (struct shard_code){1, 1}, 3, 1);
    w->settled = true;
    world_set_latency(w, 100000, 200000);
    world_must(w, "write sectors", write_sectors);
    world_fini(w);
}

static void round_of(uint64_t seed)
{
    static void (*const rounds[])(struct world * w, uint64_t seed) = {round_flush, round_roll,
        round_join, round_failed_flush, round_read, round_large, round_release, round_sectors,
        round_missed_row, round_cut_links};
    static struct world world;
    rounds[seed % ARRAY_SIZE(rounds)](&world, seed);
}

int main(int argc, char **argv)
{
    log_set_level(getenv("SIM_LOG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
    return sim_check_main(argc, argv, &(struct sim_check){.round = round_of, .rounds = 40});
}
