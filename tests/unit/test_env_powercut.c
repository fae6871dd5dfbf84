/* SPDX-License-Identifier: Apache-2.0 */
#include "uring_run.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/wait.h>

#include "common/mem.h"

#define BLOCKS 64

static struct env_file *file;
static char *buf;

static void open_file(bool create)
{
    unsigned flags = ENV_OPEN_EXCLUSIVE_LOCK | (create ? ENV_OPEN_CREATE : 0);
    CHECK(env_file_open(scratch_path("", "disk"), flags, BLOCKS * 4096, &file) == 0);
    buf = mem_alloc_pages(BLOCKS * 4096);
}

static void write_blocks(unsigned first, unsigned count, char value, bool dsync)
{
    memset(buf, value, count * 4096);
    CHECK(env_file_write(file, buf, count * 4096, first * 4096, dsync) == 0);
}

/* As the process sees it. */
static void expect_read(unsigned block, char value)
{
    CHECK(env_file_read(file, buf, 4096, block * 4096) == 0);
    for (int i = 0; i < 4096; i++)
        CHECK_MSG(buf[i] == value, "block %u has %c, not %c", block, buf[i], value);
}

/* Runs main_fn in a child, which ends in the middle of things, then reads what the disk has: a letter a block, '.' = 0. */
static void run_and_cut(int (*main_fn)(void *arg), char ret_disk[BLOCKS + 1])
{
    pid_t pid = fork();
    if (pid == 0) {
        run_in_env(main_fn, (struct env_uring_options){.power_cut = true});
        _exit(1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 77);
    int fd = open(scratch_path("", "disk"), O_RDONLY);
    assert_true(fd >= 0);
    for (int i = 0; i < BLOCKS; i++) {
        char block[4096];
        assert_int_equal(read(fd, block, 4096), 4096);
        for (int j = 1; j < 4096; j++)
            assert_int_equal(block[j], block[0]);
        ret_disk[i] = block[0] ? block[0] : '.';
    }
    ret_disk[BLOCKS] = 0;
    close(fd);
}

static int unsynced_writes(void *arg)
{
    open_file(true);
    write_blocks(0, 4, 'a', false);
    write_blocks(2, 4, 'b', false);
    expect_read(0, 'a');
    expect_read(3, 'b');
    expect_read(6, 0);
    _exit(77);
}

static void unsynced_writes_are_seen_and_lost(void **state)
{
    char disk[BLOCKS + 1];
    run_and_cut(unsynced_writes, disk);
    assert_int_equal(strspn(disk, "."), BLOCKS);
}

static int synced_writes(void *arg)
{
    open_file(true);
    write_blocks(0, 4, 'a', false);
    write_blocks(2, 4, 'b', false);
    write_blocks(20, 1, 'c', false);
    CHECK(env_file_sync(file) == 0);
    write_blocks(1, 1, 'd', false);
    write_blocks(9, 1, 'e', false);
    expect_read(1, 'd');
    expect_read(2, 'b');
    CHECK(env_file_sync(file) == 0);
    CHECK(env_file_sync(file) == 0);
    write_blocks(0, 1, 'f', false);
    expect_read(0, 'f');
    _exit(77);
}

static void sync_keeps_all_that_completed_before(void **state)
{
    char disk[BLOCKS + 1];
    run_and_cut(synced_writes, disk);
    assert_memory_equal(disk, "adbbbb...e..........c...", 24);
}

static int dsync_writes(void *arg)
{
    open_file(true);
    write_blocks(0, 4, 'a', false);
    write_blocks(1, 2, 'b', true);
    expect_read(0, 'a');
    expect_read(1, 'b');
    write_blocks(8, 2, 'c', true);
    write_blocks(9, 1, 'd', false);
    expect_read(9, 'd');
    _exit(77);
}

static void dsync_keeps_its_own_range_only(void **state)
{
    char disk[BLOCKS + 1];
    run_and_cut(dsync_writes, disk);
    assert_memory_equal(disk, ".bb.....cc..", 12);
}

static int closed_file(void *arg)
{
    open_file(true);
    write_blocks(0, 2, 'a', false);
    CHECK(env_file_sync(file) == 0);
    write_blocks(1, 2, 'b', false);
    env_file_close(file);
    mem_free_pages(buf, BLOCKS * 4096);
    open_file(false);
    expect_read(1, 'b');
    _exit(77);
}

static void close_is_no_power_cut(void **state)
{
    char disk[BLOCKS + 1];
    run_and_cut(closed_file, disk);
    assert_memory_equal(disk, "abb.", 4);
}

/* --- Everything at once, against a model ------------------------------------------------------ */

struct model_op {
    struct env_io io;
    struct iovec iov;
    char *data;
    char value;
    bool busy;
};

#define OPS 16
static struct model_op ops[OPS];
static char current[BLOCKS]; /* what a read must see */
static bool block_busy[BLOCKS];
static struct fiber *driver;
static unsigned busy_count;

static void model_done(struct env_io *io)
{
    struct model_op *op = container_of(io, struct model_op, io);
    unsigned block = io->off_bytes / 4096;
    CHECK(io->result >= 0);
    if (io->op == ENV_IO_READ)
        for (int i = 0; i < 4096; i++)
            CHECK_MSG(op->data[i] == current[block], "block %u", block);
    if (io->op == ENV_IO_WRITE || io->op == ENV_IO_WRITE_DSYNC)
        current[block] = op->value;
    if (io->op != ENV_IO_SYNC)
        block_busy[block] = false;
    op->busy = false;
    busy_count--;
    fiber_wake(driver);
}

/* Overlapping syncs, DSYNC writes, writes and reads; no two on one block at a time, as the rules are. */
static int random_ops(void *arg)
{
    open_file(true);
    driver = fiber_self();
    for (int i = 0; i < OPS; i++)
        ops[i].data = mem_alloc_pages(4096);
    for (int n = 0; n < 5000; n++) {
        while (busy_count == OPS)
            fiber_suspend();
        struct model_op *op = ops;
        while (op->busy)
            op++;
        unsigned block = env_random_u64() % BLOCKS, kind = env_random_u64() % 16;
        op->io = (struct env_io){
            .op = kind < 6    ? ENV_IO_WRITE
                  : kind < 13 ? ENV_IO_READ
                  : kind < 15 ? ENV_IO_WRITE_DSYNC
                              : ENV_IO_SYNC,
            .file = file,
            .iov = &op->iov,
            .iov_count = 1,
            .off_bytes = block * 4096,
            .done = model_done,
        };
        op->iov = (struct iovec){op->data, 4096};
        if (op->io.op != ENV_IO_SYNC) {
            if (block_busy[block])
                continue;
            block_busy[block] = true;
            op->value = (char)('A' + n % 50);
            memset(op->data, op->value, 4096);
        }
        op->busy = true;
        busy_count++;
        env_io_submit(&op->io);
    }
    while (busy_count > 0)
        fiber_suspend();
    CHECK(env_file_sync(file) == 0);
    int fd = open(scratch_path("", "expected"), O_WRONLY | O_CREAT, 0600);
    CHECK(write(fd, current, BLOCKS) == BLOCKS);
    write_blocks(5, 10, '!', false); /* lost */
    _exit(77);
}

static void overlapping_operations_keep_their_promises(void **state)
{
    char disk[BLOCKS + 1], expected[BLOCKS];
    run_and_cut(random_ops, disk);
    int fd = open(scratch_path("", "expected"), O_RDONLY);
    assert_int_equal(read(fd, expected, BLOCKS), BLOCKS);
    close(fd);
    for (int i = 0; i < BLOCKS; i++)
        assert_int_equal(disk[i], expected[i] ? expected[i] : '.');
}

static int refused(void *arg)
{
    open_file(true);
    CHECK(env_file_read(file, buf + 512, 4096, 0) == -EINVAL);
    CHECK(env_file_write(file, buf, 4096, BLOCKS * 4096, false) == -EIO);
    CHECK(env_file_size_bytes(file) == BLOCKS * 4096);
    CHECK(strcmp(env_file_path(file), scratch_path("", "disk")) == 0);
    env_file_close(file);
    mem_free_pages(buf, BLOCKS * 4096);
    return 0;
}

static void rules_of_disks_hold_here_too(void **state)
{
    assert_int_equal(run_in_env(refused, (struct env_uring_options){.power_cut = true}), 0);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, scratch_setup, scratch_teardown)
    const struct CMUnitTest tests[] = {
        T(unsynced_writes_are_seen_and_lost),
        T(sync_keeps_all_that_completed_before),
        T(dsync_keeps_its_own_range_only),
        T(close_is_no_power_cut),
        T(overlapping_operations_keep_their_promises),
        T(rules_of_disks_hold_here_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
