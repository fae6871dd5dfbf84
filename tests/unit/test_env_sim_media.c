/* SPDX-License-Identifier: Apache-2.0
 *
 * What a simulated disk may lose at a crash or a power cut and what it must keep, by a model and by
 * cases; cuts at a given operation; images.
 */
#include "tests/unit/sim_fixture.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
