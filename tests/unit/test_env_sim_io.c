/* SPDX-License-Identifier: Apache-2.0
 *
 * Files on simulated disks, and each fault.
 */
#include "tests/unit/sim_fixture.h"

/* --- Disks: plain use --------------------------------------------------- */

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_files_open_lock_and_check_their_arguments),
        cmocka_unit_test(test_completions_overtake_one_another),
        cmocka_unit_test(test_disk_errors_come_once_or_for_ever_and_where_told),
        cmocka_unit_test(test_disk_lies_flips_lost_misdirected_slow),
        cmocka_unit_test(test_disk_removed_returned_and_cut_short),
        cmocka_unit_test(test_peek_and_poke_cross_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
