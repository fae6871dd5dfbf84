/* SPDX-License-Identifier: Apache-2.0
 *
 * Files with a deadline, on simulated disks that hang (T1-T4 in env.h).
 */
#include "tests/unit/sim_fixture.h"

#include "common/bufpool.h"
#include "common/env_sim_disk.h"

#define TIMEOUT_NS (2 * SEC)

static struct sim *sim;
static struct env *node;

static void with_disk(void (*fn)(void *arg))
{
    sim = sim_with(3);
    node = sim_node_new(sim, "a");
    sim_disk_new(node, "/d", 4 << 20);
    run_on(node, fn, NULL);
    sim_free(sim);
}

static struct sim_disk *disk(void)
{
    return sim_disk_find(node, "/d");
}

static struct env_file *open_with_deadline(void)
{
    return env_file_deadline(open_disk("/d"), TIMEOUT_NS);
}

/* --- One I/O that can be looked at ----------------------------------------------------------------- */

struct one {
    struct env_io io;
    struct iovec iov;
    bool done;
};

static void one_done(struct env_io *io)
{
    container_of(io, struct one, io)->done = true;
}

static void submit(
    struct one *one, struct env_file *file, enum env_io_op op, void *buf, size_t len, bool leave)
{
    *one = (struct one){.iov = {buf, len}};
    one->io = (struct env_io){.op = op,
        .file = file,
        .iov = &one->iov,
        .iov_count = 1,
        .off_bytes = 0,
        .leave = leave,
        .done = one_done};
    env_io_submit(&one->io);
}

static int64_t await(struct one *one)
{
    while (!one->done)
        env_sleep_ns(MS);
    return one->io.result;
}

static bool all_are(const char *buf, size_t len, char value)
{
    for (size_t i = 0; i < len; i++)
        if (buf[i] != value)
            return false;
    return true;
}

/* --- T1 -------------------------------------------------------------------------------------------- */

static unsigned hung_calls;

static void hung(void *ctx)
{
    hung_calls++;
}

static void everything_is_answered(void *arg)
{
    struct env_file *file = open_with_deadline();
    hung_calls = 0;
    env_file_on_hung(file, hung, NULL);
    assert_int_equal(write_page(file, 3, 7, true), 0);
    assert_int_equal(read_page(file, 3), 7);
    assert_int_equal(env_file_sync(file), 0);
    env_sleep_ns(10 * TIMEOUT_NS); /* nothing under way: nothing hangs */
    assert_int_equal(hung_calls, 0);

    sim_disk_hang(disk());
    struct one first, second;
    char *buf = mem_alloc_pages(2 * PAGE);
    memset(buf, 1, 2 * PAGE);
    uint64_t start_ns = env_now_ns();
    submit(&first, file, ENV_IO_WRITE, buf, PAGE, true);
    env_sleep_ns(TIMEOUT_NS / 2);
    submit(&second, file, ENV_IO_SYNC, NULL, 0, false);
    assert_int_equal(await(&first), -ETIMEDOUT);
    uint64_t taken_ns = env_now_ns() - start_ns;
    assert_true(taken_ns >= TIMEOUT_NS && taken_ns < TIMEOUT_NS * 5 / 4);
    assert_int_equal(await(&second), -ETIMEDOUT); /* with the first */
    assert_true(env_now_ns() - start_ns < TIMEOUT_NS * 5 / 4);
    assert_int_equal(hung_calls, 1);
    start_ns = env_now_ns();
    assert_int_equal(write_page(file, 4, 1, false), -ETIMEDOUT); /* at once */
    assert_int_equal(env_now_ns(), start_ns);

    /* What comes back late disturbs nobody, and changes nothing. */
    sim_disk_go_on(disk());
    env_sleep_ns(SEC);
    assert_int_equal(env_file_sync(file), -ETIMEDOUT);
    assert_int_equal(hung_calls, 1);
    mem_free_pages(buf, 2 * PAGE);
    env_file_close(file);
}

static void test_everything_on_a_disk_that_hangs_is_answered(void **state)
{
    with_disk(everything_is_answered);
}

static void close_before_it_is_back(void *arg)
{
    struct env_file *file = open_with_deadline();
    struct one one;
    char *buf = mem_alloc_pages(16 * PAGE);
    uint64_t used = mem_used_bytes(node);
    sim_disk_hang(disk());
    submit(&one, file, ENV_IO_READ, buf, 16 * PAGE, false);
    assert_int_equal(await(&one), -ETIMEDOUT);
    env_file_close(file);
    struct env_file *again;
    assert_int_equal(
        env_file_open("/d", ENV_OPEN_EXCLUSIVE_LOCK, 0, &again), -EBUSY); /* still its I/O's */
    sim_disk_go_on(disk());
    env_sleep_ns(SEC);
    assert_true(mem_used_bytes(node) <= used);
    again = open_disk("/d");
    env_file_close(again);
    mem_free_pages(buf, 16 * PAGE);
}

static void test_a_file_is_closed_when_its_last_io_is_back(void **state)
{
    with_disk(close_before_it_is_back);
}

static void crash_meanwhile(void *arg)
{
    struct env_file *file = open_with_deadline();
    struct one read, write;
    char *buf = mem_alloc_pages(16 * PAGE);
    sim_disk_hang(disk());
    submit(&read, file, ENV_IO_READ, buf, 16 * PAGE, true);
    submit(&write, file, ENV_IO_WRITE, buf + PAGE, PAGE, false);
    assert_int_equal(await(&read), -ETIMEDOUT);
    assert_int_equal(await(&write), -ETIMEDOUT);
    env_file_close(file);
}

static void test_the_process_may_end_before_it_is_back(void **state)
{
    for (int power = 0; power < 2; power++) {
        sim = sim_with(3);
        node = sim_node_new(sim, "a");
        sim_disk_new(node, "/d", 4 << 20);
        run_on(node, crash_meanwhile, NULL);
        if (power)
            sim_node_power_cut(node, SIM_CUT_RANDOM);
        else
            sim_node_crash(node);
        sim_disk_go_on(disk());
        sim_run_for(sim, SEC);
        sim_free(sim);
    }
}

/* --- T2 -------------------------------------------------------------------------------------------- */

static void copies_protect(void *arg)
{
    struct env_file *file = open_with_deadline();
    struct one read, write;
    char *buf = mem_alloc_pages(4 * PAGE);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(write_page(file, i, 7, true), 0);
    sim_disk_hang(disk());
    submit(&read, file, ENV_IO_READ, buf, 2 * PAGE, false);
    submit(&write, file, ENV_IO_WRITE_DSYNC, buf + 2 * PAGE, PAGE, false);
    memset(buf + 2 * PAGE, 9, PAGE); /* too late to be written */
    await(&read);
    await(&write);
    assert_false(env_memory_left(buf, 4 * PAGE));
    memset(buf, 5, 4 * PAGE);
    sim_disk_go_on(disk());
    env_sleep_ns(SEC);
    assert_true(all_are(buf, 4 * PAGE, 5));
    mem_free_pages(buf, 4 * PAGE);
    env_file_close(file);
}

static void test_an_io_that_comes_back_late_touches_its_copy_only(void **state)
{
    with_disk(copies_protect);
}

/* Nobody gets it until the read is back. */
static void left_in_a_pool(void *arg)
{
    struct env_file *file = open_with_deadline();
    struct bufpool *pool = bufpool_new(64 * PAGE);
    char *run = bufpool_get_run(pool, 16 * PAGE);
    struct one one;
    submit(&one, file, ENV_IO_READ, run, 16 * PAGE, true);
    assert_int_equal(await(&one), 16 * PAGE);
    assert_false(env_memory_left(run, 16 * PAGE));
    sim_disk_hang(disk());
    submit(&one, file, ENV_IO_READ, run, 16 * PAGE, true);
    assert_int_equal(await(&one), -ETIMEDOUT);
    assert_true(env_memory_left(run, 16 * PAGE));
    assert_true(env_memory_left(run + 15 * PAGE, 1));
    assert_false(env_memory_left(run + 16 * PAGE, PAGE));
    bufpool_put_run(pool, run, 16 * PAGE);
    assert_false(env_memory_left(run, 16 * PAGE)); /* it is the pool's trouble now */
    assert_int_equal(bufpool_used_bytes(pool), 0);
    assert_int_equal(bufpool_left_bytes(pool), 16 * PAGE);
    char *other = bufpool_get_run(pool, 16 * PAGE);
    assert_ptr_not_equal(other, run);
    sim_disk_go_on(disk());
    env_sleep_ns(SEC);
    assert_int_equal(bufpool_left_bytes(pool), 0);
    bufpool_put_run(pool, other, 16 * PAGE);
    assert_int_equal(bufpool_held_bytes(pool), 16 * PAGE);
    bufpool_free(pool);
    env_file_close(file);
}

static void test_a_run_left_behind_stays_away_until_its_read_is_back(void **state)
{
    with_disk(left_in_a_pool);
}

/* It is back before its owner looks: what is in it may be the late read's all the same. */
static void back_before_the_owner_looks(void *arg)
{
    struct env_file *file = open_with_deadline();
    char *buf = mem_alloc_pages(16 * PAGE);
    uint64_t used = mem_used_bytes(node);
    struct one one;
    sim_disk_hang(disk());
    submit(&one, file, ENV_IO_READ, buf, 16 * PAGE, true);
    assert_int_equal(await(&one), -ETIMEDOUT);
    sim_disk_go_on(disk());
    env_sleep_ns(SEC);
    assert_true(env_memory_left(buf, 16 * PAGE));
    mem_free_pages(buf, 16 * PAGE);
    assert_false(env_memory_left(buf, 16 * PAGE));
    assert_true(mem_used_bytes(node) < used);
    env_file_close(file);
}

static void test_a_read_left_behind_is_known_of_when_it_is_back_too(void **state)
{
    with_disk(back_before_the_owner_looks);
}

static void pool_goes_first(void *arg)
{
    struct env_file *file = open_with_deadline();
    uint64_t used = mem_used_bytes(node);
    struct bufpool *pool = bufpool_new(64 * PAGE);
    char *run = bufpool_get_run(pool, 16 * PAGE);
    char *pages = mem_alloc_pages(32 * PAGE);
    struct one one, two;
    sim_disk_hang(disk());
    submit(&one, file, ENV_IO_READ, run, 16 * PAGE, true);
    submit(&two, file, ENV_IO_READ, pages + PAGE, 16 * PAGE, true);
    assert_int_equal(await(&one), -ETIMEDOUT);
    assert_int_equal(await(&two), -ETIMEDOUT);
    bufpool_put_run(pool, run, 16 * PAGE);
    bufpool_free(pool);
    mem_free_pages(pages, 32 * PAGE);
    assert_true(mem_used_bytes(node) >= used + 48 * PAGE); /* not freed yet */
    sim_disk_go_on(disk());
    env_sleep_ns(SEC);
    assert_true(mem_used_bytes(node) <= used + PAGE);
    env_file_close(file);
}

static void test_memory_left_behind_outlives_its_pool(void **state)
{
    with_disk(pool_goes_first);
}

/* --- T3 -------------------------------------------------------------------------------------------- */

static struct one paused;
static struct env_file *paused_file;
static char *paused_buf;

static void submit_slow(void *arg)
{
    paused_file = open_with_deadline();
    paused_buf = mem_alloc_pages(PAGE);
    sim_disk_fault(disk(),
        &(struct sim_fault){
            .ops = SIM_OP_READ, .kind = SIM_FAULT_DELAY, .delay_ns = TIMEOUT_NS / 2, .times = 1});
    submit(&paused, paused_file, ENV_IO_READ, paused_buf, PAGE, false);
}

static void await_slow(void *arg)
{
    assert_int_equal(await(&paused), PAGE);
    mem_free_pages(paused_buf, PAGE);
    env_file_close(paused_file);
}

static void test_a_pause_of_the_process_is_no_hang(void **state)
{
    sim = sim_with(3);
    node = sim_node_new(sim, "a");
    sim_disk_new(node, "/d", 4 << 20);
    run_on(node, submit_slow, NULL);
    sim_node_pause(node, 20 * TIMEOUT_NS);
    run_on(node, await_slow, NULL);
    sim_free(sim);
}

/* --- T4 -------------------------------------------------------------------------------------------- */

#define MANY 300
#define BELOW_MAX 128

static struct one many[MANY];

static unsigned below(void)
{
    unsigned count = 0;
    list_for_each (it, &disk()->ios)
        count++;
    return count;
}

static void submit_many(struct env_file *file, char *buf)
{
    for (unsigned i = 0; i < MANY; i++) {
        submit(&many[i], file, i % 2 ? ENV_IO_READ : ENV_IO_WRITE, buf, PAGE, false);
        assert_true(below() <= BELOW_MAX);
    }
    assert_int_equal(below(), BELOW_MAX);
}

static void few_at_a_time(void *arg)
{
    struct env_file *file = open_with_deadline();
    char *buf = mem_alloc_pages(PAGE);
    memset(buf, 6, PAGE);
    for (unsigned round = 0; round < 3; round++) {
        submit_many(file, buf);
        for (unsigned i = 0; i < MANY; i++) {
            assert_int_equal(await(&many[i]), PAGE);
            assert_true(below() <= BELOW_MAX);
        }
        assert_int_equal(below(), 0);
    }
    assert_int_equal(env_file_sync(file), 0);

    sim_disk_hang(disk());
    uint64_t start_ns = env_now_ns();
    submit_many(file, buf);
    for (unsigned i = 0; i < MANY; i++)
        assert_int_equal(await(&many[i]), -ETIMEDOUT);
    assert_true(env_now_ns() - start_ns < TIMEOUT_NS * 5 / 4);
    assert_int_equal(below(), BELOW_MAX);
    sim_disk_go_on(disk());
    env_sleep_ns(SEC);
    assert_int_equal(below(), 0);
    mem_free_pages(buf, PAGE);
    env_file_close(file);
}

static void test_few_are_with_the_kernel_at_a_time(void **state)
{
    with_disk(few_at_a_time);
}

/* Who waits for its turn is not the one who hangs: a disk that does one after the other may take longer for all. */
static void many_on_a_slow_disk(void *arg)
{
    struct env_file *file = open_with_deadline();
    char *buf = mem_alloc_pages(PAGE);
    sim_disk_fault(disk(), &(struct sim_fault){.ops = SIM_OP_READ,
                               .kind = SIM_FAULT_DELAY,
                               .delay_ns = TIMEOUT_NS * 3 / 4,
                               .times = MANY});
    for (unsigned i = 0; i < MANY; i++)
        submit(&many[i], file, ENV_IO_READ, buf, PAGE, false);
    uint64_t start_ns = env_now_ns();
    for (unsigned i = 0; i < MANY; i++)
        assert_int_equal(await(&many[i]), PAGE);
    assert_true(env_now_ns() - start_ns > TIMEOUT_NS * 2);
    mem_free_pages(buf, PAGE);
    env_file_close(file);
}

static void test_waiting_for_a_turn_is_no_hang(void **state)
{
    with_disk(many_on_a_slow_disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_everything_on_a_disk_that_hangs_is_answered),
        cmocka_unit_test(test_a_file_is_closed_when_its_last_io_is_back),
        cmocka_unit_test(test_the_process_may_end_before_it_is_back),
        cmocka_unit_test(test_an_io_that_comes_back_late_touches_its_copy_only),
        cmocka_unit_test(test_a_run_left_behind_stays_away_until_its_read_is_back),
        cmocka_unit_test(test_a_read_left_behind_is_known_of_when_it_is_back_too),
        cmocka_unit_test(test_memory_left_behind_outlives_its_pool),
        cmocka_unit_test(test_a_pause_of_the_process_is_no_hang),
        cmocka_unit_test(test_few_are_with_the_kernel_at_a_time),
        cmocka_unit_test(test_waiting_for_a_turn_is_no_hang),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
