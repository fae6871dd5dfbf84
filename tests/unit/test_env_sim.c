/* SPDX-License-Identifier: Apache-2.0
 *
 * The simulation itself: what its disks may lose and must keep, each fault, clocks, streams, and
 * that a seed means one run.
 */
#include "common/env_sim.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/check.h"
#include "common/mem.h"

#define MS 1000000ull
#define SEC 1000000000ull
#define PAGE 4096u

static struct sim *sim_with(uint64_t seed)
{
    return sim_new(&(struct sim_options){.seed = seed});
}

/* Runs fn(arg) as a fiber of `node` to its end. */
struct job {
    fiber_fn *fn;
    void *arg;
    bool done;
};

static void job_main(void *arg)
{
    struct job *job = arg;
    job->fn(job->arg);
    job->done = true;
}

static bool job_done(void *arg)
{
    return ((struct job *)arg)->done;
}

static void run_on(struct env *node, fiber_fn *fn, void *arg)
{
    struct job job = {.fn = fn, .arg = arg};
    sim_node_start(node, "job", job_main, &job);
    assert_int_equal(sim_run(sim_current(), job_done, &job, UINT64_MAX), SIM_UNTIL);
}

/* --- Loop, fibers, clocks ----------------------------------------------- */

static void sleep_and_mark(void *arg)
{
    env_sleep_ns(5 * MS);
    *(uint64_t *)arg = sim_now_ns(sim_current());
}

static void test_virtual_time_jumps_to_the_next_event(void **state)
{
    struct sim *sim = sim_with(1);
    uint64_t at_ns = 0;
    sim_node_start(sim_node_new(sim, "a"), "sleeper", sleep_and_mark, &at_ns);
    assert_int_equal(sim_run(sim, NULL, NULL, UINT64_MAX), SIM_QUIET);
    assert_int_equal(at_ns, 5 * MS);
    assert_int_equal(sim_run_for(sim, SEC), SIM_QUIET);
    sim_free(sim);
}

static void never(void *arg)
{
    struct fiber_queue queue;
    fiber_queue_init(&queue);
    fiber_queue_wait(&queue);
}

static void test_waiting_for_ever_is_found(void **state)
{
    struct sim *sim = sim_with(1);
    sim_node_start(sim_node_new(sim, "a"), "waits for nobody", never, NULL);
    assert_int_equal(sim_run(sim, NULL, NULL, UINT64_MAX), SIM_STUCK);
    struct job job = {0};
    assert_int_equal(sim_run(sim, job_done, &job, UINT64_MAX), SIM_STUCK);
    sim_free(sim);
}

static void spin(void *arg)
{
    while (sim_now_ns(sim_current()) < MS)
        fiber_yield();
}

static void test_a_fiber_that_yields_lets_time_pass(void **state)
{
    struct sim *sim = sim_with(1);
    run_on(sim_node_new(sim, "a"), spin, NULL);
    assert_true(sim_now_ns(sim) >= MS);
    sim_free(sim);
}

struct clocks {
    uint64_t now_ns, boottime_ns, realtime_ns;
    uint8_t boot_id[16];
    uint64_t random;
};

static void read_clocks(void *arg)
{
    struct clocks *clocks = arg;
    clocks->now_ns = env_now_ns();
    clocks->boottime_ns = env_boottime_ns();
    clocks->realtime_ns = env_realtime_ns();
    clocks->random = env_random_u64();
    env_boot_id(clocks->boot_id);
}

static void sleep_ten_seconds(void *arg)
{
    uint64_t begin_ns = env_now_ns();
    env_sleep_ns(10 * SEC);
    assert_in_range(env_now_ns() - begin_ns, 10 * SEC, 10 * SEC + 2);
}

static void test_clocks_drift_and_jump(void **state)
{
    struct sim *sim = sim_with(3);
    struct env *fast = sim_node_new(sim, "fast");
    struct clocks before, after;
    run_on(fast, read_clocks, &before);
    sim_clock_drift(fast, 1000);
    uint64_t begin_ns = sim_now_ns(sim);
    run_on(fast, sleep_ten_seconds, NULL);
    assert_in_range(sim_now_ns(sim) - begin_ns, 9990 * MS, 9991 * MS);
    sim_clock_jump_boottime(fast, 7 * SEC);
    sim_clock_jump_realtime(fast, -3600 * (int64_t)SEC);
    run_on(fast, read_clocks, &after);
    assert_in_range(after.now_ns - before.now_ns, 10 * SEC, 10 * SEC + 2);
    assert_in_range(after.boottime_ns - before.boottime_ns, 17 * SEC, 17 * SEC + 2);
    assert_true(after.realtime_ns < before.realtime_ns);
    assert_memory_equal(after.boot_id, before.boot_id, 16);
    sim_node_power_cut(fast, SIM_CUT_KEEP_ALL);
    run_on(fast, read_clocks, &after);
    assert_memory_not_equal(after.boot_id, before.boot_id, 16);
    assert_true(after.random != before.random);
    sim_free(sim);
}

static void test_a_paused_node_does_nothing_and_goes_on(void **state)
{
    struct sim *sim = sim_with(4);
    struct env *node = sim_node_new(sim, "a");
    uint64_t at_ns = 0;
    sim_node_start(node, "sleeper", sleep_and_mark, &at_ns);
    sim_run_for(sim, MS);
    sim_node_pause(node, SEC);
    sim_run_for(sim, 500 * MS);
    assert_int_equal(at_ns, 0);
    sim_run_for(sim, SEC);
    assert_int_equal(at_ns, SEC + MS);
    sim_free(sim);
}

static int64_t twice(void *arg)
{
    return *(int *)arg * 2;
}

static void offload_twice(void *arg)
{
    int value = 21;
    *(int64_t *)arg = env_offload(twice, &value);
}

static void wait_signal(void *arg)
{
    *(int64_t *)arg = env_wait_signal();
}

static void signal_fifteen(void *node)
{
    sim_node_signal(node, 15);
}

static void test_offload_and_signals(void **state)
{
    struct sim *sim = sim_with(5);
    struct env *node = sim_node_new(sim, "a");
    int64_t result = 0;
    run_on(node, offload_twice, &result);
    assert_int_equal(result, 42);
    sim_at(sim, sim_now_ns(sim) + MS, signal_fifteen, node);
    run_on(node, wait_signal, &result);
    assert_int_equal(result, 15);
    sim_free(sim);
}

static void crash_myself(void *arg)
{
    (void)!mem_alloc(100);
    fiber_spawn("other", never, NULL);
    env_sleep_ns(MS);
    sim_node_crash(fiber_env());
}

static void test_a_crash_takes_fibers_timers_and_memory(void **state)
{
    struct sim *sim = sim_with(6);
    struct env *node = sim_node_new(sim, "a");
    sim_node_start(node, "main", crash_myself, NULL);
    assert_int_equal(sim_run(sim, NULL, NULL, UINT64_MAX), SIM_QUIET);
    assert_false(sim_node_is_up(node));
    assert_int_equal(mem_used_bytes(node), 0);
    uint64_t at_ns = 0;
    run_on(node, sleep_and_mark, &at_ns);
    assert_true(sim_node_is_up(node));
    sim_free(sim);
}

/* --- Disks: plain use --------------------------------------------------- */

static struct env_file *open_disk(const char *path)
{
    struct env_file *file = NULL;
    assert_int_equal(env_file_open(path, ENV_OPEN_EXCLUSIVE_LOCK, 0, &file), 0);
    return file;
}

static void *page_of(uint8_t byte)
{
    return memset(mem_alloc_pages(PAGE), byte, PAGE);
}

static int write_page(struct env_file *file, uint64_t page, uint8_t byte, bool dsync)
{
    void *buf = page_of(byte);
    int error = env_file_write(file, buf, PAGE, page * PAGE, dsync);
    mem_free_pages(buf, PAGE);
    return error;
}

/* The page's byte if all are equal, -1 otherwise, or -errno - 1000. */
static int read_page(struct env_file *file, uint64_t page)
{
    uint8_t *buf = page_of(0);
    int error = env_file_read(file, buf, PAGE, page * PAGE);
    int byte = buf[0];
    for (unsigned i = 1; i < PAGE; i++) {
        if (buf[i] != buf[0])
            byte = -1;
    }
    mem_free_pages(buf, PAGE);
    return error ? error - 1000 : byte;
}

static void use_files(void *arg)
{
    struct env_file *file, *again;
    assert_int_equal(env_file_open("/missing", 0, 0, &file), -ENOENT);
    assert_int_equal(env_file_open("/new", ENV_OPEN_CREATE, 1 << 20, &file), 0);
    assert_int_equal(env_file_size_bytes(file), 1 << 20);
    assert_string_equal(env_file_path(file), "/new");
    assert_int_equal(env_file_open("/new", ENV_OPEN_CREATE, 1 << 20, &again), -EEXIST);
    env_file_close(file);

    file = open_disk("/new");
    assert_int_equal(env_file_open("/new", ENV_OPEN_EXCLUSIVE_LOCK, 0, &again), -EBUSY);
    assert_int_equal(read_page(file, 255), 0);
    assert_int_equal(write_page(file, 255, 7, false), 0);
    assert_int_equal(read_page(file, 255), 7);
    assert_int_equal(write_page(file, 256, 7, false), -EIO);
    char *buf = mem_alloc_pages(2 * PAGE);
    assert_int_equal(env_file_read(file, buf + 512, PAGE, 0), -EINVAL);
    assert_int_equal(env_file_read(file, buf, 512, 0), -EINVAL);
    assert_int_equal(env_file_read(file, buf, PAGE, 512), -EINVAL);
    mem_free_pages(buf, 2 * PAGE);
    env_file_close(file);

    assert_int_equal(env_file_open("/new", ENV_OPEN_READ_ONLY, 0, &file), 0);
    assert_int_equal(write_page(file, 0, 1, false), -EBADF);
    env_file_close(file);
}

static void test_files_open_lock_and_check_their_arguments(void **state)
{
    struct sim *sim = sim_with(7);
    run_on(sim_node_new(sim, "a"), use_files, NULL);
    sim_free(sim);
}

struct slow_io {
    struct env_io io;
    struct iovec iov;
    unsigned *order, position;
};

static void slow_done(struct env_io *io)
{
    struct slow_io *slow = container_of(io, struct slow_io, io);
    slow->position = ++*slow->order;
}

static void submit_thirty(void *arg)
{
    struct env_file *file = open_disk("/d");
    struct slow_io *ios = mem_zalloc(30, sizeof(*ios));
    char *buf = mem_alloc_pages(30 * PAGE);
    memset(buf, 1, 30 * PAGE);
    unsigned order = 0, overtaken = 0;
    for (unsigned i = 0; i < 30; i++) {
        ios[i].order = &order;
        ios[i].iov = (struct iovec){buf + i * PAGE, PAGE};
        ios[i].io = (struct env_io){.op = ENV_IO_WRITE,
            .file = file,
            .iov = &ios[i].iov,
            .iov_count = 1,
            .off_bytes = i * PAGE,
            .done = slow_done};
        env_io_submit(&ios[i].io);
    }
    while (order < 30)
        env_sleep_ns(MS);
    for (unsigned i = 0; i < 30; i++) {
        assert_int_equal(ios[i].io.result, PAGE);
        overtaken += ios[i].position != i + 1;
    }
    assert_true(overtaken > 5);
    env_file_close(file);
}

static void test_completions_overtake_one_another(void **state)
{
    struct sim *sim = sim_with(8);
    struct env *node = sim_node_new(sim, "a");
    sim_disk_new(node, "/d", 1 << 20);
    run_on(node, submit_thirty, NULL);
    sim_free(sim);
}

/* --- Disks: faults ------------------------------------------------------ */

static void meet_errors(void *arg)
{
    struct sim_disk *disk = arg;
    struct env_file *file = open_disk("/d");
    assert_int_equal(write_page(file, 1, 1, true), 0);
    sim_disk_fault(disk, &(struct sim_fault){.ops = SIM_OP_READ, .after = 2, .times = 1});
    assert_int_equal(read_page(file, 1), 1);
    assert_int_equal(read_page(file, 1), 1);
    assert_int_equal(read_page(file, 1), -EIO - 1000);
    assert_int_equal(read_page(file, 1), 1);
    assert_int_equal(sim_disk_faults_applied(disk), 1);
    sim_disk_clear_faults(disk);

    sim_disk_fault(disk, &(struct sim_fault){.ops = SIM_OP_WRITE | SIM_OP_SYNC,
                             .off_bytes = 8 * PAGE,
                             .len_bytes = PAGE,
                             .error = ENOSPC});
    assert_int_equal(write_page(file, 7, 1, false), 0);
    assert_int_equal(write_page(file, 8, 1, false), -ENOSPC);
    assert_int_equal(write_page(file, 8, 1, false), -ENOSPC);
    assert_int_equal(env_file_sync(file), -ENOSPC);
    sim_disk_clear_faults(disk);
    assert_int_equal(env_file_sync(file), 0);
    env_file_close(file);
}

static void meet_lies(void *arg)
{
    struct sim_disk *disk = arg;
    struct env_file *file = open_disk("/d");
    assert_int_equal(write_page(file, 3, 3, true), 0);
    sim_disk_flip(disk, 3 * PAGE + 17, 5);
    assert_int_equal(read_page(file, 3), -1);
    sim_disk_flip(disk, 3 * PAGE + 17, 5);
    assert_int_equal(read_page(file, 3), 3);

    sim_disk_fault(
        disk, &(struct sim_fault){.ops = SIM_OP_READ, .kind = SIM_FAULT_FLIP, .times = 1});
    assert_int_equal(read_page(file, 3), -1);
    assert_int_equal(read_page(file, 3), 3);

    sim_disk_fault(
        disk, &(struct sim_fault){.ops = SIM_OP_WRITE, .kind = SIM_FAULT_LOST, .times = 1});
    assert_int_equal(write_page(file, 3, 4, true), 0);
    assert_int_equal(read_page(file, 3), 3);

    sim_disk_fault(disk, &(struct sim_fault){.ops = SIM_OP_WRITE,
                             .kind = SIM_FAULT_MISDIRECT,
                             .target_off_bytes = 9 * PAGE,
                             .times = 1});
    assert_int_equal(write_page(file, 3, 5, true), 0);
    assert_int_equal(read_page(file, 3), 3);
    assert_int_equal(read_page(file, 9), 5);

    sim_disk_fault(
        disk, &(struct sim_fault){
                  .ops = SIM_OP_READ, .kind = SIM_FAULT_DELAY, .delay_ns = SEC, .times = 1});
    uint64_t begin_ns = env_now_ns();
    assert_int_equal(read_page(file, 3), 3);
    assert_true(env_now_ns() - begin_ns >= SEC);
    env_file_close(file);
}

static void meet_absence(void *arg)
{
    struct sim_disk *disk = arg;
    struct env_file *file = open_disk("/d"), *again;
    assert_int_equal(write_page(file, 100, 1, true), 0);
    sim_disk_remove(disk);
    assert_int_equal(read_page(file, 100), -ENODEV - 1000);
    assert_int_equal(write_page(file, 100, 2, false), -ENODEV);
    assert_int_equal(env_file_sync(file), -ENODEV);
    assert_int_equal(env_file_open("/d", 0, 0, &again), -ENOENT);
    sim_disk_return(disk);
    assert_int_equal(read_page(file, 100), 1);
    sim_disk_resize(disk, 50 * PAGE);
    assert_int_equal(read_page(file, 100), -EIO - 1000);
    assert_int_equal(read_page(file, 49), 0);
    sim_disk_resize(disk, 256 * PAGE);
    assert_int_equal(read_page(file, 100), 0);
    env_file_close(file);
}

static void run_with_disk(uint64_t seed, fiber_fn *fn)
{
    struct sim *sim = sim_with(seed);
    struct env *node = sim_node_new(sim, "a");
    struct sim_disk *disk = sim_disk_new(node, "/d", 256 * PAGE);
    run_on(node, fn, disk);
    sim_free(sim);
}

static void test_disk_errors_come_once_or_for_ever_and_where_told(void **state)
{
    run_with_disk(9, meet_errors);
}

static void test_disk_lies_flips_lost_misdirected_slow(void **state)
{
    run_with_disk(10, meet_lies);
}

static void test_disk_removed_returned_and_cut_short(void **state)
{
    run_with_disk(11, meet_absence);
}

static void test_peek_and_poke_cross_pages(void **state)
{
    struct sim *sim = sim_with(12);
    struct sim_disk *disk = sim_disk_new(sim_node_new(sim, "a"), "/d", 16 * PAGE);
    char text[10000], back[10000];
    for (unsigned i = 0; i < sizeof(text); i++)
        text[i] = i * 7;
    sim_disk_poke(disk, 4000, text, sizeof(text));
    sim_disk_peek(disk, 4000, back, sizeof(back));
    assert_memory_equal(text, back, sizeof(text));
    assert_int_equal(sim_disk_volatile_pages(disk), 0);
    sim_free(sim);
}

/* --- Disks: durability -------------------------------------------------- */

static void write_sync_write(void *arg)
{
    struct env_file *file = open_disk("/d");
    assert_int_equal(write_page(file, 0, 1, false), 0);
    assert_int_equal(env_file_sync(file), 0);
    assert_int_equal(write_page(file, 0, 2, false), 0);
    assert_int_equal(write_page(file, 1, 2, false), 0);
    assert_int_equal(write_page(file, 2, 2, true), 0);
    env_file_close(file);
}

static uint8_t peek_byte(struct sim_disk *disk, uint64_t page)
{
    uint8_t byte;
    sim_disk_peek(disk, page * PAGE + 5, &byte, 1);
    return byte;
}

static void test_only_synced_and_dsync_writes_must_survive(void **state)
{
    for (unsigned mode = 0; mode <= SIM_CUT_RANDOM; mode++) {
        struct sim *sim = sim_with(13);
        struct env *node = sim_node_new(sim, "a");
        struct sim_disk *disk = sim_disk_new(node, "/d", 16 * PAGE);
        run_on(node, write_sync_write, NULL);
        assert_int_equal(sim_disk_volatile_pages(disk), 2);
        sim_node_crash(node);
        assert_int_equal(peek_byte(disk, 1), 2); /* a process crash loses nothing */
        sim_node_power_cut(node, mode);
        assert_true(peek_byte(disk, 0) == 1 || peek_byte(disk, 0) == 2);
        if (mode == SIM_CUT_LOSE_ALL)
            assert_true(peek_byte(disk, 0) == 1 && peek_byte(disk, 1) == 0);
        if (mode == SIM_CUT_KEEP_ALL)
            assert_true(peek_byte(disk, 0) == 2 && peek_byte(disk, 1) == 2);
        if (mode == SIM_CUT_PREFIX || mode == SIM_CUT_TEAR) /* page 1 was written after page 0 */
            assert_true(peek_byte(disk, 1) == 0 || peek_byte(disk, 0) == 2);
        assert_int_equal(peek_byte(disk, 2), 2);
        assert_int_equal(sim_disk_volatile_pages(disk), 0);
        sim_free(sim);
    }
}

static void fail_a_sync(void *arg)
{
    struct env_file *file = open_disk("/d");
    assert_int_equal(write_page(file, 0, 1, false), 0);
    sim_disk_fault(arg, &(struct sim_fault){.ops = SIM_OP_SYNC, .times = 1});
    assert_int_equal(env_file_sync(file), -EIO);
    assert_int_equal(env_file_sync(file), 0);
    assert_int_equal(sim_disk_volatile_pages(arg), 1); /* V2 */
    assert_int_equal(write_page(file, 0, 1, false), 0);
    assert_int_equal(env_file_sync(file), 0);
    assert_int_equal(sim_disk_volatile_pages(arg), 0);
    env_file_close(file);
}

static void test_a_failed_sync_is_not_made_good_by_the_next(void **state)
{
    run_with_disk(14, fail_a_sync);
}

struct lone_io {
    struct env_io io;
    struct iovec iov;
    bool done;
};

static void lone_done(struct env_io *io)
{
    container_of(io, struct lone_io, io)->done = true;
}

static struct lone_io *submit(struct env_file *file, enum env_io_op op, uint64_t page, void *buf)
{
    struct lone_io *lone = NEW(struct lone_io);
    lone->iov = (struct iovec){buf, PAGE};
    lone->io = (struct env_io){.op = op,
        .file = file,
        .iov = &lone->iov,
        .iov_count = op == ENV_IO_SYNC ? 0 : 1,
        .off_bytes = page * PAGE,
        .done = lone_done};
    env_io_submit(&lone->io);
    return lone;
}

static void sync_before_completion(void *arg)
{
    struct env_file *file = open_disk("/d");
    sim_disk_fault(
        arg, &(struct sim_fault){.ops = SIM_OP_SYNC, .kind = SIM_FAULT_DELAY, .delay_ns = 50 * MS});
    struct lone_io *write = submit(file, ENV_IO_WRITE, 0, page_of(9));
    struct lone_io *sync = submit(file, ENV_IO_SYNC, 0, NULL);
    while (!sync->done)
        env_sleep_ns(MS);
    assert_true(write->done); /* completed before the sync did, but after its submission */
    assert_int_equal(sim_disk_volatile_pages(arg), 1);
    env_file_close(file);
}

static void test_a_sync_covers_only_what_completed_before_its_submission(void **state)
{
    run_with_disk(15, sync_before_completion);
}

static void read_into_soil(void *arg)
{
    struct env_file *file = open_disk("/d");
    uint8_t *buf = page_of(0);
    struct lone_io *read = submit(file, ENV_IO_READ, 0, buf);
    assert_int_equal(buf[100], 0xd5); /* V3 */
    while (!read->done)
        env_sleep_ns(MS);
    assert_int_equal(buf[100], 0);
    env_file_close(file);
}

static void test_a_read_buffer_is_garbage_until_completion(void **state)
{
    run_with_disk(16, read_into_soil);
}

/* A run of random writes and syncs, cut somewhere, against per-sector sets of what may be there.
 * The writer has up to 8 operations under way; each write fills its pages with its number. */
enum {
    MODEL_PAGES = 24,
    MODEL_DEPTH = 8,
    SECTORS = MODEL_PAGES * 8,
};

struct model_write {
    unsigned value, page, pages;
    bool dsync, completed, durable;
    uint64_t completion;
};

struct model {
    struct sim_disk *disk;
    struct rng rng;
    struct model_write writes[400];
    unsigned count;
    uint64_t completions;
    unsigned busy;
};

struct model_op {
    struct env_io io;
    struct iovec iov;
    struct model *model;
    unsigned write;     /* index */
    uint64_t submitted; /* completions at submission */
};

static void model_done(struct env_io *io)
{
    struct model_op *op = container_of(io, struct model_op, io);
    struct model *model = op->model;
    assert_true(io->result >= 0);
    model->busy--;
    if (io->op == ENV_IO_SYNC) {
        for (unsigned i = 0; i < model->count; i++)
            model->writes[i].durable |=
                model->writes[i].completed && model->writes[i].completion <= op->submitted;
    } else {
        struct model_write *write = &model->writes[op->write];
        write->completed = true;
        write->durable = write->dsync;
        write->completion = ++model->completions;
        mem_free_pages(op->iov.iov_base, op->iov.iov_len);
    }
    mem_free(op);
}

static void model_fill(char *buf, unsigned pages, unsigned value)
{
    for (unsigned s = 0; s < pages * 8; s++) {
        memset(buf + s * 512, value, 512);
        memcpy(buf + s * 512, &value, sizeof(value));
    }
}

static bool pages_busy(const struct model *model, unsigned page, unsigned pages)
{
    for (unsigned i = 0; i < model->count; i++) {
        const struct model_write *write = &model->writes[i];
        if (!write->completed && write->page < page + pages && page < write->page + write->pages)
            return true;
    }
    return false;
}

static void model_submit(struct model *model, struct env_file *file)
{
    struct model_op *op = NEW(struct model_op);
    op->model = model;
    op->io = (struct env_io){.op = ENV_IO_SYNC, .file = file, .done = model_done};
    op->submitted = model->completions;
    unsigned pages = 1 + rng_below(&model->rng, 4);
    unsigned page = rng_below(&model->rng, MODEL_PAGES - pages + 1);
    /* Overlapping writes under way have no defined order: the model avoids them. */
    if (!rng_one_in(&model->rng, 8) && !pages_busy(model, page, pages)) {
        op->write = model->count++;
        bool dsync = rng_one_in(&model->rng, 6);
        model->writes[op->write] = (struct model_write){
            .value = model->count, .page = page, .pages = pages, .dsync = dsync};
        op->iov = (struct iovec){mem_alloc_pages(pages * PAGE), pages * PAGE};
        model_fill(op->iov.iov_base, pages, model->count);
        op->io.op = dsync ? ENV_IO_WRITE_DSYNC : ENV_IO_WRITE;
        op->io.iov = &op->iov;
        op->io.iov_count = 1;
        op->io.off_bytes = page * PAGE;
    }
    model->busy++;
    env_io_submit(&op->io);
}

static void model_writer(void *arg)
{
    struct model *model = arg;
    struct env_file *file = open_disk("/d");
    while (model->count < ARRAY_SIZE(model->writes)) {
        if (model->busy < MODEL_DEPTH)
            model_submit(model, file);
        else
            env_sleep_ns(rng_below(&model->rng, 300000));
    }
}

/* May the sector hold `value` after a power cut (or, with `cut` false, a crash)? */
static bool model_allows(const struct model *model, unsigned sector, unsigned value, bool cut)
{
    const struct model_write *found = NULL;
    if (value) {
        assert_in_range(value, 1, model->count);
        found = &model->writes[value - 1];
        if (sector / 8 < found->page || sector / 8 >= found->page + found->pages)
            return false;
    }
    if (found && !found->completed)
        return true;
    /* Nothing that must be there may be newer than what is. */
    for (unsigned i = 0; i < model->count; i++) {
        const struct model_write *write = &model->writes[i];
        bool covers = sector / 8 >= write->page && sector / 8 < write->page + write->pages;
        bool must = write->completed && (write->durable || !cut);
        if (covers && must && (!found || write->completion > found->completion))
            return false;
    }
    return true;
}

static void model_check(const struct model *model, bool cut)
{
    for (unsigned s = 0; s < SECTORS; s++) {
        char bytes[512], expected[512];
        unsigned value;
        sim_disk_peek(model->disk, s * 512, bytes, sizeof(bytes));
        memcpy(&value, bytes, sizeof(value));
        memset(expected, value, sizeof(expected));
        memcpy(expected, &value, sizeof(value));
        assert_memory_equal(bytes, expected, sizeof(bytes)); /* sectors are atomic */
        assert_true(model_allows(model, s, value, cut));
    }
}

static unsigned model_run(uint64_t seed)
{
    struct sim *sim = sim_with(seed);
    struct env *node = sim_node_new(sim, "a");
    struct model *model = calloc(1, sizeof(*model));
    model->disk = sim_disk_new(node, "/d", MODEL_PAGES * PAGE);
    model->rng = *sim_rng(sim);
    sim_node_start(node, "writer", model_writer, model);
    sim_run_for(sim, rng_below(sim_rng(sim), 40 * MS));
    enum sim_cut_mode mode = seed % (SIM_CUT_RANDOM + 2);
    bool cut = mode <= SIM_CUT_RANDOM;
    if (cut)
        sim_node_power_cut(node, mode);
    else
        sim_node_crash(node);
    model_check(model, cut && mode != SIM_CUT_KEEP_ALL);
    unsigned count = model->count;
    free(model);
    sim_free(sim);
    return count;
}

static void test_random_writes_syncs_and_cuts_match_the_model(void **state)
{
    unsigned writes = 0;
    for (uint64_t seed = 1; seed <= 400; seed++)
        writes += model_run(seed);
    assert_true(writes > 10000);
}

/* The model must be able to fail: a disk whose syncs lie is found out. */
static void test_the_model_catches_lost_syncs(void **state)
{
    unsigned caught = 0;
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct sim *sim = sim_with(seed);
        struct env *node = sim_node_new(sim, "a");
        struct model *model = calloc(1, sizeof(*model));
        model->disk = sim_disk_new(node, "/d", MODEL_PAGES * PAGE);
        model->rng = *sim_rng(sim);
        sim_disk_fault(
            model->disk, &(struct sim_fault){.ops = SIM_OP_SYNC, .kind = SIM_FAULT_LOST});
        sim_node_start(node, "writer", model_writer, model);
        sim_run_for(sim, 20 * MS);
        sim_node_power_cut(node, SIM_CUT_LOSE_ALL);
        bool wrong = false;
        for (unsigned s = 0; s < SECTORS; s++) {
            unsigned value;
            sim_disk_peek(model->disk, s * 512, &value, sizeof(value));
            wrong |= !model_allows(model, s, value, true);
        }
        caught += wrong;
        free(model);
        sim_free(sim);
    }
    assert_int_equal(caught, 20);
}

/* --- Cuts at a given write, images -------------------------------------- */

struct point {
    uint64_t number;
    struct sim_io_point set;
};

static void stop_at_point(void *ctx, struct sim_io_point *point)
{
    const struct point *at = ctx;
    if (point->number != at->number)
        return;
    point->when = at->set.when;
    point->scope = at->set.scope;
    point->mode = at->set.mode;
}

static void write_five_of_two_pages(void *arg)
{
    struct env_file *file = open_disk("/d");
    char *buf = mem_alloc_pages(2 * PAGE);
    for (unsigned i = 1; i <= 5; i++) {
        memset(buf, i, 2 * PAGE);
        env_file_write(file, buf, 2 * PAGE, i * 2 * PAGE, false);
    }
    env_file_close(file);
}

static void test_power_goes_before_half_way_or_after_write_three(void **state)
{
    static const uint8_t expected[][2] = {
        [SIM_POINT_BEFORE] = {0, 0}, [SIM_POINT_HALF] = {3, 0}, [SIM_POINT_AFTER] = {3, 3}};
    for (unsigned when = SIM_POINT_BEFORE; when <= SIM_POINT_AFTER; when++) {
        struct sim *sim = sim_with(17);
        struct env *node = sim_node_new(sim, "a");
        struct sim_disk *disk = sim_disk_new(node, "/d", 64 * PAGE);
        enum sim_cut_mode mode = when == SIM_POINT_BEFORE ? SIM_CUT_LOSE_ALL : SIM_CUT_KEEP_ALL;
        struct point point = {3, {.when = when, .mode = mode}};
        sim_set_io_hook(sim, stop_at_point, &point);
        sim_node_start(node, "writer", write_five_of_two_pages, NULL);
        assert_int_equal(sim_run(sim, NULL, NULL, UINT64_MAX), SIM_QUIET);
        assert_int_equal(sim_io_count(sim), 3);
        assert_false(sim_node_is_up(node));
        assert_int_equal(peek_byte(disk, 2), when == SIM_POINT_BEFORE ? 0 : 1);
        assert_int_equal(peek_byte(disk, 6), expected[when][0]);
        assert_int_equal(peek_byte(disk, 7), expected[when][1]);
        assert_int_equal(peek_byte(disk, 8), 0);
        sim_free(sim);
    }
}

static void test_images_rewind_a_disk_to_any_outcome_of_a_cut(void **state)
{
    struct sim *sim = sim_with(18);
    struct env *node = sim_node_new(sim, "a");
    struct sim_disk *disk = sim_disk_new(node, "/d", 16 * PAGE);
    run_on(node, write_sync_write, NULL);
    struct sim_image *image = sim_disk_snapshot(disk);
    struct sim_image *lost = sim_image_copy(image);
    sim_image_cut(lost, SIM_CUT_LOSE_ALL, 1);
    run_on(node, write_sync_write, NULL);
    sim_disk_restore(disk, lost);
    assert_int_equal(peek_byte(disk, 0), 1);
    sim_disk_restore(disk, image);
    assert_int_equal(peek_byte(disk, 0), 2);
    assert_int_equal(sim_disk_volatile_pages(disk), 2);
    sim_free(sim);

    sim = sim_with(19); /* also in another simulation, where it can be synced */
    node = sim_node_new(sim, "b");
    disk = sim_disk_new(node, "/d", 16 * PAGE);
    sim_disk_restore(disk, image);
    run_on(node, write_sync_write, NULL);
    sim_node_power_cut(node, SIM_CUT_LOSE_ALL);
    assert_int_equal(peek_byte(disk, 1), 2);
    sim_image_free(image);
    sim_image_free(lost);
    sim_free(sim);
}

/* What a write under way leaves must be able to be everything, nothing and, at a cut, parts. */
enum {
    LEFT_NOTHING = 1,
    LEFT_ALL = 2,
    LEFT_PARTS = 4,
};

static void submit_and_wait(void *arg)
{
    submit(open_disk("/d"), ENV_IO_WRITE, 3, page_of(9));
    never(NULL);
}

static unsigned left_by_write_under_way(uint64_t seed, bool cut, bool *ret_image_kept)
{
    struct sim *sim = sim_with(seed);
    struct env *node = sim_node_new(sim, "a");
    struct sim_disk *disk = sim_disk_new(node, "/d", 16 * PAGE);
    sim_disk_set_latency(disk, &(struct sim_disk_latency){.write_ns = SEC});
    sim_node_start(node, "writer", submit_and_wait, NULL);
    sim_run_for(sim, 100 * MS);
    struct sim_image *image = sim_disk_snapshot(disk);
    if (cut)
        sim_node_power_cut(node, SIM_CUT_SECTORS);
    else
        sim_node_crash(node);
    uint8_t bytes[PAGE];
    unsigned count = 0;
    sim_disk_peek(disk, 3 * PAGE, bytes, PAGE);
    for (unsigned i = 0; i < PAGE; i++)
        count += bytes[i] == 9;

    /* The image of that moment: not there by itself, there or not after a cut. */
    sim_disk_restore(disk, image);
    assert_int_equal(peek_byte(disk, 3), 0);
    assert_int_equal(sim_disk_volatile_pages(disk), 0);
    sim_image_cut(image, SIM_CUT_WRITES, seed);
    sim_disk_restore(disk, image);
    assert_true(peek_byte(disk, 3) == 0 || peek_byte(disk, 3) == 9);
    *ret_image_kept |= peek_byte(disk, 3) == 9;
    sim_image_free(image);
    sim_free(sim);
    return count == 0 ? LEFT_NOTHING : count == PAGE ? LEFT_ALL : LEFT_PARTS;
}

static void test_a_write_under_way_may_leave_anything(void **state)
{
    unsigned by_crash = 0, by_cut = 0;
    bool image_kept = false;
    for (uint64_t seed = 0; seed < 60; seed++) {
        by_crash |= left_by_write_under_way(seed, false, &image_kept);
        by_cut |= left_by_write_under_way(seed, true, &image_kept);
    }
    assert_int_equal(by_crash, LEFT_NOTHING | LEFT_ALL);
    assert_int_equal(by_cut, LEFT_NOTHING | LEFT_ALL | LEFT_PARTS);
    assert_true(image_kept);
}

static void write_and_mark(void *arg)
{
    struct env_file *file = open_disk("/d");
    assert_int_equal(write_page(file, 0, 1, false), 0);
    *(uint64_t *)arg = sim_now_ns(sim_current());
    env_file_close(file);
}

static void test_a_pause_holds_completions_too_and_ends_with_a_crash(void **state)
{
    struct sim *sim = sim_with(4);
    struct env *node = sim_node_new(sim, "a");
    struct sim_disk *disk = sim_disk_new(node, "/d", 16 * PAGE);
    sim_disk_set_latency(disk, &(struct sim_disk_latency){.write_ns = 10 * MS});
    uint64_t at_ns = 0;
    sim_node_start(node, "writer", write_and_mark, &at_ns);
    sim_run_for(sim, 5 * MS);
    sim_node_pause(node, SEC);
    sim_run_for(sim, 500 * MS);
    assert_int_equal(at_ns, 0);
    sim_run_for(sim, SEC);
    assert_int_equal(at_ns, SEC + 5 * MS);

    sim_node_pause(node, 100 * SEC);
    sim_node_crash(node);
    uint64_t begin_ns = sim_now_ns(sim);
    run_on(node, write_and_mark, &at_ns);
    assert_true(at_ns - begin_ns < SEC);
    sim_free(sim);
}

static void write_misaligned(void *arg)
{
    struct env_file *file = open_disk("/d");
    char *buf = mem_alloc_pages(PAGE);
    assert_int_equal(env_file_write(file, buf, 512, 0, false), -EINVAL);
    mem_free_pages(buf, PAGE);
    env_file_close(file);
}

static void strict_io_run(bool strict)
{
    struct sim *sim = sim_new(&(struct sim_options){.seed = 1, .strict_io = strict});
    struct env *node = sim_node_new(sim, "a");
    sim_disk_new(node, "/d", 16 * PAGE);
    run_on(node, write_misaligned, NULL);
    sim_free(sim);
}

/* Does fn(arg) abort? In a child, its stderr closed. */
static bool aborts(void (*fn)(bool arg), bool arg)
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        close(STDERR_FILENO);
        fn(arg);
        _exit(0);
    }
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void test_strict_io_makes_a_malformed_request_a_failed_check(void **state)
{
    strict_io_run(false);
    assert_true(aborts(strict_io_run, true));
}

static void change_under_way(void *arg)
{
    struct env_file *file = open_disk("/d");
    char *buf = page_of(1);
    struct lone_io *write = submit(file, ENV_IO_WRITE, 0, buf);
    if (*(bool *)arg)
        buf[5] = 2;
    while (!write->done)
        env_sleep_ns(MS);
    env_file_close(file);
}

static void change_under_way_run(bool change)
{
    struct sim *sim = sim_with(1);
    struct env *node = sim_node_new(sim, "a");
    sim_disk_new(node, "/d", 16 * PAGE);
    run_on(node, change_under_way, &change);
    sim_free(sim);
}

static void test_a_buffer_changed_under_way_is_a_failed_check(void **state)
{
    assert_false(aborts(change_under_way_run, false));
    assert_true(aborts(change_under_way_run, true));
}

/* --- Network ------------------------------------------------------------ */

#define FOR_EVER UINT64_MAX

static int send_bytes(struct env_stream *stream, const void *buf, size_t len, uint64_t deadline_ns)
{
    struct iovec iov[2] = {{(void *)buf, len / 3}, {(char *)buf + len / 3, len - len / 3}};
    return env_send(stream, iov, 2, deadline_ns);
}

static int64_t recv_whole(struct env_stream *stream, void *buf, size_t len)
{
    size_t got = 0;
    while (got < len) {
        int64_t n = env_recv(stream, (char *)buf + got, len - got, FOR_EVER);
        if (n <= 0)
            return n < 0 ? n : (int64_t)got;
        got += n;
    }
    return got;
}

/* Echoes each connection until it ends. */
static void echo_stream(void *arg)
{
    struct env_stream *stream = arg;
    char *buf = mem_alloc(100000);
    int64_t n;
    while ((n = env_recv(stream, buf, 100000, FOR_EVER)) > 0) {
        if (send_bytes(stream, buf, n, FOR_EVER))
            break;
    }
    mem_free(buf);
    env_stream_close(stream);
}

static void echo_server(void *arg)
{
    struct env_listener *listener;
    assert_int_equal(env_listen(arg, 0600, &listener), 0);
    struct env_stream *stream;
    while (env_accept(listener, &stream) == 0)
        fiber_spawn("echo", echo_stream, stream);
}

static struct env_stream *connect_to(const char *address)
{
    struct env_stream *stream = NULL;
    assert_int_equal(env_connect(address, FOR_EVER, &stream), 0);
    return stream;
}

struct echo_sender {
    struct env_stream *stream;
    const char *bytes;
    size_t len;
};

static void echo_send_all(void *arg)
{
    struct echo_sender *sender = arg;
    for (size_t at = 0; at < sender->len;) {
        size_t n = 1 + env_random_u64() % 150000;
        n = MIN(n, sender->len - at);
        assert_int_equal(send_bytes(sender->stream, sender->bytes + at, n, FOR_EVER), 0);
        at += n;
    }
}

static void echo_two_megabytes(void *arg)
{
    struct echo_sender sender = {.stream = connect_to(arg), .len = 2000000};
    char *bytes = mem_alloc(sender.len), *back = mem_alloc(sender.len);
    env_random(bytes, sender.len);
    sender.bytes = bytes;
    fiber_spawn("echo sender", echo_send_all, &sender);
    assert_int_equal(recv_whole(sender.stream, back, sender.len), sender.len);
    assert_memory_equal(bytes, back, sender.len);
    mem_free(bytes);
    mem_free(back);
    env_stream_close(sender.stream);
}

struct pair {
    struct sim *sim;
    struct env *server, *client;
};

static struct pair pair_new(uint64_t seed, const char *address)
{
    struct pair pair = {.sim = sim_with(seed)};
    pair.server = sim_node_new(pair.sim, "server");
    pair.client = sim_node_new(pair.sim, "client");
    sim_node_start(pair.server, "echo server", echo_server, (void *)address);
    sim_run_for(pair.sim, MS);
    return pair;
}

static void test_streams_keep_bytes_and_order_both_ways(void **state)
{
    for (uint64_t seed = 0; seed < 5; seed++) {
        struct pair pair = pair_new(seed, "tcp:10.0.0.1:7000");
        run_on(pair.client, echo_two_megabytes, "tcp:10.0.0.1:7000");
        sim_free(pair.sim);
    }
}

static void connect_here_and_there(void *arg)
{
    struct env_stream *stream;
    assert_int_equal(env_connect("tcp:10.0.0.1:1", FOR_EVER, &stream), -ECONNREFUSED);
    assert_int_equal(env_connect("unix:/run/x", FOR_EVER, &stream), -ECONNREFUSED);
    assert_int_equal(env_connect("tcp:127.0.0.1:7000", FOR_EVER, &stream), -ECONNREFUSED);
    assert_int_equal(env_connect("bad", FOR_EVER, &stream), -EINVAL);
    stream = connect_to("tcp:10.0.0.1:7000");
    assert_string_equal(env_stream_peer(stream), "tcp:10.0.0.1:7000");
    env_stream_close(stream);

    struct env_listener *listener, *other;
    assert_int_equal(env_listen("unix:/run/x", 0600, &listener), 0);
    assert_int_equal(env_listen("unix:/run/x", 0600, &other), -EADDRINUSE);
    env_stream_close(connect_to("unix:/run/x"));
    env_listener_close(listener);
    assert_int_equal(env_connect("unix:/run/x", FOR_EVER, &stream), -ECONNREFUSED);
    assert_int_equal(env_listen("tcp:127.0.0.1:0", 0, &listener), 0);
    env_stream_close(connect_to(env_listener_address(listener)));
    env_listener_close(listener);
}

static void test_addresses_are_global_or_of_the_machine(void **state)
{
    struct pair pair = pair_new(20, "tcp:0.0.0.0:7000");
    run_on(pair.client, connect_here_and_there, NULL);
    sim_free(pair.sim);
}

static void listen_and_ignore(void *arg)
{
    struct env_listener *listener;
    struct env_stream *stream;
    assert_int_equal(env_listen("tcp:name:1", 0, &listener), 0);
    assert_int_equal(env_accept(listener, &stream), 0);
    never(NULL);
}

static void send_until_full(void *arg)
{
    struct env_stream *stream = connect_to("tcp:name:1");
    size_t len = 4 << 20;
    char *bytes = mem_zalloc(1, len);
    uint64_t begin_ns = env_now_ns();
    assert_int_equal(send_bytes(stream, bytes, len, begin_ns + SEC), -ETIMEDOUT);
    assert_in_range(env_now_ns() - begin_ns, SEC, SEC + MS);
    char byte;
    assert_int_equal(env_recv(stream, &byte, 1, env_now_ns() + SEC), -ETIMEDOUT);
    env_stream_close(stream);
}

static void test_a_reader_that_stops_holds_up_the_sender(void **state)
{
    struct sim *sim = sim_with(21);
    struct env *server = sim_node_new(sim, "server");
    sim_node_start(server, "ignores", listen_and_ignore, NULL);
    sim_run_for(sim, MS);
    run_on(sim_node_new(sim, "client"), send_until_full, NULL);
    sim_free(sim);
}

static void end_streams(void *arg)
{
    struct env_listener *listener;
    struct env_stream *ours, *theirs;
    assert_int_equal(env_listen("unix:/x", 0, &listener), 0);
    ours = connect_to("unix:/x");
    assert_int_equal(env_accept(listener, &theirs), 0);
    char buf[100];
    assert_int_equal(send_bytes(ours, "hello", 5, FOR_EVER), 0);
    assert_int_equal(env_stream_peer_state(theirs), ENV_PEER_OPEN);
    env_stream_close(ours);
    assert_int_equal(recv_whole(theirs, buf, 100), 5);
    assert_int_equal(env_recv(theirs, buf, 1, FOR_EVER), 0);
    assert_int_equal(env_stream_peer_state(theirs), ENV_PEER_GONE);
    assert_int_equal(send_bytes(theirs, "x", 1, FOR_EVER), 0); /* met by a reset */
    env_sleep_ns(MS);
    assert_int_equal(send_bytes(theirs, "x", 1, FOR_EVER), -ECONNRESET);
    env_stream_close(theirs);
    *(struct env_listener **)arg = listener;
}

static void accept_until_closed(void *arg)
{
    struct env_stream *stream;
    assert_int_equal(env_accept(*(struct env_listener **)arg, &stream), -ECANCELED);
    *(struct env_listener **)arg = NULL;
}

static void close_listener(void *arg)
{
    struct env_listener **listener = arg;
    fiber_spawn("acceptor", accept_until_closed, listener);
    env_sleep_ns(MS);
    env_listener_close(*listener);
    env_sleep_ns(MS);
    assert_null(*listener);
}

static void shut_under_receiver(void *arg)
{
    env_sleep_ns(MS);
    env_stream_shutdown(arg);
}

static void receive_until_shut(void *arg)
{
    struct env_stream *stream = connect_to("tcp:10.0.0.1:7000");
    fiber_spawn("shuts", shut_under_receiver, stream);
    char byte;
    assert_int_equal(env_recv(stream, &byte, 1, FOR_EVER), -ECONNRESET);
    assert_int_equal(send_bytes(stream, "abc", 3, FOR_EVER), -ECONNRESET);
    env_stream_close(stream);
}

static void test_streams_and_listeners_end(void **state)
{
    struct pair pair = pair_new(22, "tcp:10.0.0.1:7000");
    struct env_listener *listener;
    run_on(pair.client, end_streams, &listener);
    run_on(pair.client, close_listener, &listener);
    run_on(pair.client, receive_until_shut, NULL);
    sim_free(pair.sim);
}

/* Sends one byte every 10 ms until that fails; then keeps what recv says. */
struct pinger {
    uint64_t echoed;
    uint64_t last_ns;
    int64_t end;
};

static void ping(void *arg)
{
    struct pinger *pinger = arg;
    struct env_stream *stream = connect_to("tcp:10.0.0.1:7000");
    char byte = 1;
    pinger->end = 1;
    for (;;) {
        int64_t end = send_bytes(stream, &byte, 1, FOR_EVER);
        if (end == 0)
            end = env_recv(stream, &byte, 1, FOR_EVER);
        if (end <= 0) {
            pinger->end = end;
            env_stream_close(stream);
            return;
        }
        pinger->echoed++;
        pinger->last_ns = sim_now_ns(sim_current());
        env_sleep_ns(10 * MS);
    }
}

static void test_one_way_partition_holds_then_heals_or_breaks(void **state)
{
    struct pair pair = pair_new(23, "tcp:10.0.0.1:7000");
    struct pinger pinger = {0};
    sim_node_start(pair.client, "ping", ping, &pinger);
    sim_run_for(pair.sim, SEC);
    assert_in_range(pinger.echoed, 50, 100);
    sim_net_cut(pair.server, pair.client, true);
    sim_run_for(pair.sim, 10 * SEC);
    assert_true(sim_now_ns(pair.sim) - pinger.last_ns > 9 * SEC && pinger.end == 1);
    sim_net_cut(pair.server, pair.client, false);
    sim_run_for(pair.sim, SEC);
    assert_true(sim_now_ns(pair.sim) - pinger.last_ns < 100 * MS);
    sim_net_isolate(pair.client, true);
    sim_run_for(pair.sim, 100 * SEC);
    assert_int_equal(pinger.end, -ETIMEDOUT);
    sim_free(pair.sim);
}

static void test_peers_see_a_crash_and_after_a_power_cut_silence(void **state)
{
    struct pair pair = pair_new(24, "tcp:10.0.0.1:7000");
    struct pinger pinger = {0};
    sim_node_start(pair.client, "ping", ping, &pinger);
    sim_run_for(pair.sim, 100 * MS);
    sim_node_crash(pair.server);
    sim_run_for(pair.sim, 100 * MS);
    assert_true(pinger.end == 0 || pinger.end == -ECONNRESET);

    sim_node_start(pair.server, "echo server", echo_server, "tcp:10.0.0.1:7000");
    sim_run_for(pair.sim, 10 * MS);
    sim_node_start(pair.client, "ping", ping, &pinger);
    sim_run_for(pair.sim, 100 * MS);
    sim_node_power_cut(pair.server, SIM_CUT_RANDOM);
    sim_run_for(pair.sim, 20 * SEC);
    assert_int_equal(pinger.end, 1);
    sim_node_start(pair.server, "echo server", echo_server, "tcp:10.0.0.1:7000");
    sim_run_for(pair.sim, SEC);
    assert_true(pinger.end == -ECONNRESET || pinger.end == 1); /* 1: it had sent nothing since */
    sim_free(pair.sim);
}

static void test_slow_links_and_resets(void **state)
{
    struct pair pair = pair_new(25, "tcp:10.0.0.1:7000");
    struct pinger pinger = {0};
    sim_net_set_latency(pair.client, pair.server, &(struct sim_net_latency){.base_ns = 300 * MS});
    sim_node_start(pair.client, "ping", ping, &pinger);
    sim_run_for(pair.sim, 2 * SEC);
    assert_in_range(pinger.echoed, 4, 7);
    sim_net_reset(pair.client, pair.server);
    sim_run_for(pair.sim, SEC);
    assert_int_equal(pinger.end, -ECONNRESET);
    sim_free(pair.sim);
}

static void connect_with_deadline(void *arg)
{
    struct env_stream *stream;
    uint64_t begin_ns = env_now_ns();
    assert_int_equal(env_connect("tcp:10.0.0.1:7000", begin_ns + 3 * SEC, &stream), -ETIMEDOUT);
    assert_in_range(env_now_ns() - begin_ns, 3 * SEC, 3 * SEC + MS);
}

static void test_connecting_to_a_dead_machine_times_out(void **state)
{
    struct pair pair = pair_new(26, "tcp:10.0.0.1:7000");
    sim_node_power_cut(pair.server, SIM_CUT_LOSE_ALL);
    run_on(pair.client, connect_with_deadline, NULL);
    sim_free(pair.sim);
}

/* --- One seed, one run -------------------------------------------------- */

static void disk_worker(void *arg)
{
    struct env_file *file;
    if (env_file_open(arg, 0, 0, &file))
        return;
    for (;;) {
        unsigned page = env_random_u64() % 200;
        if (env_random_u64() % 3)
            write_page(file, page, env_random_u64(), false);
        else if (env_random_u64() % 2)
            read_page(file, page);
        else
            env_file_sync(file);
    }
}

static void ping_again(void *arg)
{
    struct pinger pinger;
    for (;;) {
        struct env_stream *stream;
        if (env_connect("tcp:10.0.0.1:7000", env_now_ns() + SEC, &stream) == 0) {
            env_stream_close(stream);
            ping(&pinger);
        }
        env_sleep_ns(20 * MS);
    }
}

static void node_main(void *arg)
{
    for (unsigned i = 0; i < 4; i++)
        fiber_spawn("disk worker", disk_worker, i % 2 ? "/d1" : "/d2");
    fiber_spawn("echo server", echo_server, "tcp:0.0.0.0:7000");
    fiber_spawn("ping", ping_again, NULL);
}

/* Three nodes with everything going on, crashes and cuts included. */
static uint64_t busy_run_hash(uint64_t seed)
{
    static const char *const names[] = {"one", "two", "three"};
    struct sim *sim = sim_with(seed);
    struct env *nodes[3];
    for (unsigned i = 0; i < 3; i++) {
        nodes[i] = sim_node_new(sim, names[i]);
        sim_disk_new(nodes[i], "/d1", 200 * PAGE);
        struct sim_disk *disk = sim_disk_new(nodes[i], "/d2", 200 * PAGE);
        sim_disk_fault(disk, &(struct sim_fault){.ops = SIM_OP_READ, .ppm = 20000});
        sim_node_start(nodes[i], "main", node_main, NULL);
    }
    for (unsigned step = 0; step < 10; step++) {
        sim_run_for(sim, 30 * MS);
        struct env *victim = nodes[rng_below(sim_rng(sim), 3)];
        switch (rng_below(sim_rng(sim), 4)) {
        case 0:
            sim_node_crash(victim);
            sim_node_start(victim, "main", node_main, NULL);
            break;
        case 1:
            sim_node_power_cut(victim, SIM_CUT_RANDOM);
            sim_node_start(victim, "main", node_main, NULL);
            break;
        case 2:
            sim_net_isolate(victim, true);
            break;
        default:
            sim_net_heal_all(sim);
        }
    }
    uint64_t hash = sim_trace_hash(sim);
    sim_free(sim);
    return hash;
}

static void test_one_seed_is_one_run(void **state)
{
    assert_int_equal(busy_run_hash(1), busy_run_hash(1));
    assert_int_equal(busy_run_hash(2), busy_run_hash(2));
    assert_int_not_equal(busy_run_hash(1), busy_run_hash(2));
}

/* A process of its own has other addresses. */
static void test_one_seed_is_one_run_in_another_process(void **state)
{
    FILE *child = popen("HOLDFAST_SIM_SEED=5 /proc/$PPID/exe", "r");
    assert_non_null(child);
    unsigned long hash = 0;
    assert_int_equal(fscanf(child, "%lx", &hash), 1);
    pclose(child);
    assert_int_equal(hash, busy_run_hash(5));
}

static void test_dump_names_fibers_and_events(void **state)
{
    char *text = NULL;
    size_t len;
    struct sim *sim = sim_with(30);
    struct env *node = sim_node_new(sim, "a");
    sim_node_start(node, "waits for nobody", never, NULL);
    sim_run(sim, NULL, NULL, UINT64_MAX);
    FILE *out = open_memstream(&text, &len);
    sim_dump(sim, out);
    fclose(out);
    assert_non_null(strstr(text, "seed 30"));
    assert_non_null(strstr(text, "waits for nobody, suspended"));
    assert_non_null(strstr(text, "start"));
    free(text);
    sim_free(sim);
}

int main(void)
{
    const char *seed = getenv("HOLDFAST_SIM_SEED");
    if (seed) {
        printf("%lx\n", busy_run_hash(strtoull(seed, NULL, 0)));
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_virtual_time_jumps_to_the_next_event),
        cmocka_unit_test(test_waiting_for_ever_is_found),
        cmocka_unit_test(test_a_fiber_that_yields_lets_time_pass),
        cmocka_unit_test(test_clocks_drift_and_jump),
        cmocka_unit_test(test_a_paused_node_does_nothing_and_goes_on),
        cmocka_unit_test(test_offload_and_signals),
        cmocka_unit_test(test_a_crash_takes_fibers_timers_and_memory),
        cmocka_unit_test(test_files_open_lock_and_check_their_arguments),
        cmocka_unit_test(test_completions_overtake_one_another),
        cmocka_unit_test(test_disk_errors_come_once_or_for_ever_and_where_told),
        cmocka_unit_test(test_disk_lies_flips_lost_misdirected_slow),
        cmocka_unit_test(test_disk_removed_returned_and_cut_short),
        cmocka_unit_test(test_peek_and_poke_cross_pages),
        cmocka_unit_test(test_only_synced_and_dsync_writes_must_survive),
        cmocka_unit_test(test_a_failed_sync_is_not_made_good_by_the_next),
        cmocka_unit_test(test_a_sync_covers_only_what_completed_before_its_submission),
        cmocka_unit_test(test_a_read_buffer_is_garbage_until_completion),
        cmocka_unit_test(test_random_writes_syncs_and_cuts_match_the_model),
        cmocka_unit_test(test_the_model_catches_lost_syncs),
        cmocka_unit_test(test_power_goes_before_half_way_or_after_write_three),
        cmocka_unit_test(test_images_rewind_a_disk_to_any_outcome_of_a_cut),
        cmocka_unit_test(test_a_write_under_way_may_leave_anything),
        cmocka_unit_test(test_a_pause_holds_completions_too_and_ends_with_a_crash),
        cmocka_unit_test(test_strict_io_makes_a_malformed_request_a_failed_check),
        cmocka_unit_test(test_a_buffer_changed_under_way_is_a_failed_check),
        cmocka_unit_test(test_streams_keep_bytes_and_order_both_ways),
        cmocka_unit_test(test_addresses_are_global_or_of_the_machine),
        cmocka_unit_test(test_a_reader_that_stops_holds_up_the_sender),
        cmocka_unit_test(test_streams_and_listeners_end),
        cmocka_unit_test(test_one_way_partition_holds_then_heals_or_breaks),
        cmocka_unit_test(test_peers_see_a_crash_and_after_a_power_cut_silence),
        cmocka_unit_test(test_slow_links_and_resets),
        cmocka_unit_test(test_connecting_to_a_dead_machine_times_out),
        cmocka_unit_test(test_one_seed_is_one_run),
        cmocka_unit_test(test_one_seed_is_one_run_in_another_process),
        cmocka_unit_test(test_dump_names_fibers_and_events),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
