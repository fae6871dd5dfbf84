/* SPDX-License-Identifier: Apache-2.0 */
#include "uring_run.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "common/mem.h"

#define MIB (1u << 20)

static struct env_file *make_file(const char *name, uint64_t size_bytes)
{
    struct env_file *file;
    CHECK(env_file_open(scratch_path("", name), ENV_OPEN_CREATE | ENV_OPEN_EXCLUSIVE_LOCK,
              size_bytes, &file) == 0);
    CHECK(env_file_size_bytes(file) == size_bytes);
    return file;
}

static int create_write_read(void *arg)
{
    struct env_file *file = make_file("disk", 8 * MIB);
    char *buf = mem_alloc_pages(64 * 1024), *back = mem_alloc_pages(64 * 1024);
    memset(back, 1, 64 * 1024);
    CHECK(env_file_read(file, back, 64 * 1024, MIB) == 0);
    for (int i = 0; i < 64 * 1024; i++)
        CHECK(back[i] == 0);
    for (int i = 0; i < 64 * 1024; i++)
        buf[i] = (char)(i * 7 + i / 256);
    CHECK(env_file_write(file, buf, 64 * 1024, 8 * MIB - 64 * 1024, false) == 0);
    CHECK(env_file_sync(file) == 0);
    CHECK(env_file_write(file, buf, 4096, 0, true) == 0);
    CHECK(env_file_read(file, back, 64 * 1024, 8 * MIB - 64 * 1024) == 0);
    CHECK(memcmp(buf, back, 64 * 1024) == 0);
    CHECK(env_file_read(file, back, 4096, 0) == 0);
    CHECK(memcmp(buf, back, 4096) == 0);
    env_file_close(file);

    struct stat st; /* written over its whole length, so nothing is sparse */
    CHECK(stat(scratch_path("", "disk"), &st) == 0);
    CHECK(st.st_size == 8 * MIB && st.st_blocks * 512 >= 8 * MIB);
    CHECK(env_file_open(scratch_path("", "disk"), ENV_OPEN_CREATE, MIB, &file) == -EEXIST);
    mem_free_pages(buf, 64 * 1024);
    mem_free_pages(back, 64 * 1024);
    return 42;
}

static void created_file_is_zeroed_and_keeps_what_is_written(void **state)
{
    assert_int_equal(run_in_env(create_write_read, (struct env_uring_options){0}), 42);
}

static int refused_io(void *arg)
{
    struct env_file *file = make_file("disk", MIB), *reader;
    char *buf = mem_alloc_pages(8192);
    memset(buf, 0, 8192);
    CHECK(env_file_read(file, buf + 512, 4096, 0) == -EINVAL);
    CHECK(env_file_read(file, buf, 512, 0) == -EINVAL);
    CHECK(env_file_write(file, buf, 4096, 512, false) == -EINVAL);
    CHECK(env_file_read(file, buf, 4096, MIB) == -EIO);
    CHECK(env_file_read(file, buf, 8192, MIB - 4096) == -EIO);
    CHECK(env_file_write(file, buf, 4096, MIB, true) == -EIO);
    CHECK(env_file_write(file, buf, 4096, UINT64_MAX - 4095, true) == -EIO);
    env_file_close(file);
    CHECK(env_file_open(scratch_path("", "disk"), ENV_OPEN_READ_ONLY, 0, &reader) == 0);
    CHECK(env_file_write(reader, buf, 4096, 0, false) == -EBADF);
    CHECK(env_file_read(reader, buf, 4096, 0) == 0);
    env_file_close(reader);
    mem_free_pages(buf, 8192);
    return 0;
}

static void misaligned_outside_and_read_only_io_is_refused(void **state)
{
    assert_int_equal(run_in_env(refused_io, (struct env_uring_options){0}), 0);
}

static int shrunk_file(void *arg)
{
    struct env_file *file = make_file("disk", MIB);
    char *buf = mem_alloc_pages(64 * 1024);
    CHECK(truncate(scratch_path("", "disk"), 8192) == 0);
    CHECK(env_file_read(file, buf, 64 * 1024, 0) == -EIO);
    CHECK(env_file_read(file, buf, 4096, 64 * 1024) == -EIO);
    CHECK(env_file_read(file, buf, 8192, 0) == 0);
    env_file_close(file);
    mem_free_pages(buf, 64 * 1024);
    return 0;
}

static void file_that_shrinks_gives_errors_not_short_data(void **state)
{
    assert_int_equal(run_in_env(shrunk_file, (struct env_uring_options){0}), 0);
}

static int locked_open(void *arg)
{
    struct env_file *file = make_file("disk", MIB), *again;
    const char *path = scratch_path("", "disk");
    CHECK(env_file_open(path, ENV_OPEN_EXCLUSIVE_LOCK, 0, &again) == -EBUSY);
    env_file_close(file);
    CHECK(env_file_open(path, ENV_OPEN_EXCLUSIVE_LOCK, 0, &again) == 0);
    env_file_close(again);
    return 0;
}

static void exclusive_lock_refuses_a_second_open(void **state)
{
    assert_int_equal(run_in_env(locked_open, (struct env_uring_options){0}), 0);
}

static int bad_opens(void *arg)
{
    struct env_file *file;
    CHECK(env_file_open(scratch_path("", "none"), 0, 0, &file) == -ENOENT);
    CHECK(env_file_open(scratch_dir, 0, 0, &file) < 0);
    CHECK(env_file_open("/dev/null", 0, 0, &file) == -EINVAL);
    CHECK(env_file_open(scratch_path("", "odd"), ENV_OPEN_CREATE, 1000, &file) == -EINVAL);
    CHECK(env_file_open(scratch_path("", "big"), ENV_OPEN_CREATE, 1ull << 60, &file) < 0);
    CHECK(access(scratch_path("", "odd"), F_OK) < 0 && access(scratch_path("", "big"), F_OK) < 0);
    return 0;
}

static void bad_opens_fail_and_leave_nothing(void **state)
{
    assert_int_equal(run_in_env(bad_opens, (struct env_uring_options){0}), 0);
}

static unsigned done_count;
static struct fiber *done_waiter;

static void count_done(struct env_io *io)
{
    CHECK(io->result == 8192);
    CHECK(fiber_self() == NULL && fiber_env() == io->env);
    if (++done_count == 500)
        fiber_wake(done_waiter);
}

/* More I/Os than the ring has entries, each of two buffers: all complete, each with its own bytes.
 */
static int many_io(void *arg)
{
    static struct env_io ios[500];
    static struct iovec iov[500][2];
    struct env_file *file = make_file("disk", 500 * 8192);
    char *buf = mem_alloc_pages(500 * 8192), *back = mem_alloc_pages(500 * 8192);
    for (int i = 0; i < 500 * 8192; i++)
        buf[i] = (char)(i / 4096 + i);
    for (int round = 0; round < 2; round++) {
        char *base = round == 0 ? buf : back;
        done_count = 0;
        done_waiter = fiber_self();
        for (int i = 0; i < 500; i++) {
            iov[i][0] = (struct iovec){base + i * 8192, 4096};
            iov[i][1] = (struct iovec){base + i * 8192 + 4096, 4096};
            ios[i] = (struct env_io){
                .op = round == 0 ? ENV_IO_WRITE : ENV_IO_READ,
                .file = file,
                .iov = iov[i],
                .iov_count = 2,
                .off_bytes = i * 8192,
                .done = count_done,
            };
            env_io_submit(&ios[i]);
        }
        CHECK(done_count == 0);
        while (done_count < 500)
            fiber_suspend();
    }
    CHECK(memcmp(buf, back, 500 * 8192) == 0);
    env_file_close(file);
    mem_free_pages(buf, 500 * 8192);
    mem_free_pages(back, 500 * 8192);
    return 0;
}

static void more_io_than_ring_entries_completes(void **state)
{
    assert_int_equal(run_in_env(many_io, (struct env_uring_options){.ring_entries = 8}), 0);
    scratch_teardown(NULL);
    scratch_setup(NULL);
    assert_int_equal(run_in_env(many_io, (struct env_uring_options){0}), 0);
    scratch_teardown(NULL);
    scratch_setup(NULL);
    assert_int_equal(run_in_env(many_io, (struct env_uring_options){.power_cut = true}), 0);
}

static void huge_done(struct env_io *io)
{
    done_count++;
    fiber_wake(done_waiter);
}

/* The kernel moves at most 2 GiB - 4 KiB at once: the rest is asked for again, into the right buffers. */
static int huge_read(void *arg)
{
    enum { PIECE = 4 * MIB, COUNT = 516 };
    static struct iovec iov[COUNT];
    const uint64_t size_bytes = (uint64_t)PIECE * COUNT;
    const char *path = scratch_path("", "sparse");
    struct env_file *file;
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    CHECK(ftruncate(fd, (off_t)size_bytes) == 0);
    CHECK(pwrite(fd, "first", 5, 0) == 5 && pwrite(fd, "last", 4, (off_t)size_bytes - PIECE) == 4);
    CHECK(fsync(fd) == 0);
    close(fd);
    CHECK(env_file_open(path, ENV_OPEN_READ_ONLY, 0, &file) == 0);
    char *first = mem_alloc_pages(PIECE), *middle = mem_alloc_pages(PIECE);
    char *last = mem_alloc_pages(PIECE);
    for (int i = 0; i < COUNT; i++)
        iov[i] = (struct iovec){i == 0 ? first : i == COUNT - 1 ? last : middle, PIECE};
    static struct env_io io;
    io = (struct env_io){.op = ENV_IO_READ, .file = file, .iov = iov, .iov_count = COUNT};
    io.done = huge_done;
    done_waiter = fiber_self();
    done_count = 0;
    env_io_submit(&io);
    while (!done_count)
        fiber_suspend();
    CHECK(io.result == (int64_t)size_bytes);
    CHECK(memcmp(first, "first", 6) == 0 && memcmp(last, "last", 5) == 0 && !middle[0]);
    CHECK(iov[0].iov_base == first && iov[0].iov_len == PIECE);
    env_file_close(file);
    mem_free_pages(first, PIECE);
    mem_free_pages(middle, PIECE);
    mem_free_pages(last, PIECE);
    return 0;
}

static void short_transfers_are_continued(void **state)
{
    assert_int_equal(run_in_env(huge_read, (struct env_uring_options){0}), 0);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, scratch_setup, scratch_teardown)
    const struct CMUnitTest tests[] = {
        T(created_file_is_zeroed_and_keeps_what_is_written),
        T(misaligned_outside_and_read_only_io_is_refused),
        T(file_that_shrinks_gives_errors_not_short_data),
        T(exclusive_lock_refuses_a_second_open),
        T(bad_opens_fail_and_leave_nothing),
        T(more_io_than_ring_entries_completes),
        T(short_transfers_are_continued),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
