/* SPDX-License-Identifier: Apache-2.0
 *
 * A device that hangs: its I/O neither comes back nor fails (D19).
 */
#include "disk_fixture.h"

#include "blockd/disk/superblock.h"

#define MIB (1ull << 20)
#define SEC 1000000000ull
#define TIMEOUT_NS (2 * SEC)

static const struct shard_key A = {.volume = 7, .chunk = (1ull << 32) | 1, .index = 2}; /* open */
static const struct shard_key B = {.volume = 7, .chunk = (1ull << 32) | 2, .index = 3}; /* sealed */
static const struct shard_key N = {.volume = 7, .chunk = (1ull << 32) | 9, .index = 0}; /* absent */

static void make_shards(struct fixture *f)
{
    f->io_timeout_ns = TIMEOUT_NS;
    fixture_close(f);
    fixture_open(f);
    const struct shard_key keys[] = {A, B};
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(create_simple(f->disk, keys[i], SHARD_DATA, 200), 0);
        assert_int_equal(append_blocks(f->disk, keys[i], 1, 0, 60, 0, 0), 0);
        assert_int_equal(shard_sync(f->disk, keys[i], 1, 61), 0);
    }
    assert_int_equal(shard_seal(f->disk, B, 1, 61), 0);
}

/* --- Each operation is the first to meet it ---------------------------------------------------- */

static int do_append(struct fixture *f)
{
    return append_blocks(f->disk, A, 1, 61, 5, 0, 0);
}

static int do_append_durable(struct fixture *f)
{
    return append_blocks(f->disk, A, 1, 61, 5, 0, SHARD_APPEND_DSYNC);
}

static int do_sync(struct fixture *f)
{
    return shard_sync(f->disk, A, 1, 67);
}

static int do_create(struct fixture *f)
{
    return create_simple(f->disk, N, SHARD_DATA, 10);
}

static int do_fence(struct fixture *f)
{
    struct shard_info info;
    return shard_fence(f->disk, A, 2, &info);
}

static int do_seal(struct fixture *f)
{
    return shard_seal(f->disk, A, 1, 61);
}

static int do_remove(struct fixture *f)
{
    return shard_remove(f->disk, B, 0, 1);
}

static int do_read(struct fixture *f)
{
    return read_and_compare(f->disk, A, 0, 61, 0);
}

static int do_read_with_trailer(struct fixture *f)
{
    return read_and_compare(f->disk, B, 0, 61, 0);
}

static int do_walk(struct fixture *f)
{
    struct shard_info info;
    return shard_stat(f->disk, A, &info);
}

static int do_scrub(struct fixture *f)
{
    uint64_t bytes;
    return local_disk_scrub_shard(f->disk, B, &bytes);
}

static const struct operation {
    int (*run)(struct fixture *f);
    int answer;
    bool reopened; /* beforehand: what is open is not loaded then */
} operations[] = {
    {do_append, -EHOSTUNREACH, false},
    {do_append_durable, -EHOSTUNREACH, false},
    {do_sync, -EHOSTUNREACH, false},
    {do_create, -EHOSTUNREACH, false},
    {do_fence, -EHOSTUNREACH, false},
    {do_seal, -EHOSTUNREACH, false},
    {do_remove, -EHOSTUNREACH, false},
    {do_read, -EHOSTUNREACH, false},
    {do_read_with_trailer, -EHOSTUNREACH, true},
    {do_walk, -EHOSTUNREACH, true},
    {do_append, -EHOSTUNREACH, true},
    {do_scrub, -EHOSTUNREACH, false},
};
static const struct operation *operation;

static void expect_retired(struct fixture *f)
{
    uint64_t now_ns = env_now_ns();
    assert_int_equal(f->failed_calls, 1);
    assert_int_equal(f->disk->state, DISK_MISSING);
    assert_true(f->disk->missing_since_ns > 0);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(operations[i].run(f), operations[i].answer);
    assert_true(env_now_ns() - now_ns < SEC); /* without waiting again */
}

static void meets_it_first(struct fixture *f)
{
    if (operation->run == do_sync)
        assert_int_equal(do_append(f), 0);
    if (operation->reopened) {
        fixture_close(f);
        fixture_open(f);
    }
    uint64_t start_ns = env_now_ns();
    sim_disk_hang(f->medium);
    assert_int_equal(operation->run(f), operation->answer);
    uint64_t taken_ns = env_now_ns() - start_ns;
    assert_true(taken_ns >= TIMEOUT_NS && taken_ns < 2 * TIMEOUT_NS);
    expect_retired(f);
    sim_disk_go_on(f->medium); /* all of it comes back, late */
    env_sleep_ns(SEC);
    expect_retired(f);
    fixture_close(f);

    /* Whatever was written late: what was durable is there, the rest is there or is not. */
    env_sleep_ns(SEC);
    fixture_open(f);
    int r = read_and_compare(f->disk, B, 0, 61, 0);
    assert_true(r == 0 || (r == -ENOENT && operation->run == do_remove));
    assert_int_equal(read_and_compare(f->disk, A, 0, 61, 0), 0);
    fixture_close(f);
}

static void test_each_operation_is_answered_and_the_disk_retired(void **state)
{
    for (unsigned i = 0; i < sizeof(operations) / sizeof(operations[0]); i++) {
        struct fixture f;
        operation = &operations[i];
        fixture_init(&f, 1 + i, 64 * MIB);
        assert_true(fixture_run(&f, make_shards));
        assert_true(fixture_run(&f, meets_it_first));
        fixture_fini(&f);
    }
}

/* --- Many at once ------------------------------------------------------------------------------ */

struct many {
    struct fixture *fixture;
    unsigned begun, running, failed;
};

static void one_of_many(void *arg)
{
    struct many *many = arg;
    unsigned i = many->begun++;
    many->running++;
    many->failed += operations[i % 8].run(many->fixture) < 0;
    many->running--;
}

static void many_at_once(struct fixture *f)
{
    struct many many = {.fixture = f};
    sim_disk_hang(f->medium);
    uint64_t start_ns = env_now_ns();
    for (unsigned i = 0; i < 40; i++) {
        fiber_spawn("one of many", one_of_many, &many);
        env_sleep_ns(10000000);
    }
    while (many.running > 0)
        env_sleep_ns(10000000);
    assert_int_equal(many.failed, 40);
    assert_true(env_now_ns() - start_ns < 2 * TIMEOUT_NS);
    fixture_close(f); /* before anything is back */
    sim_disk_go_on(f->medium);
    env_sleep_ns(SEC);
    fixture_open(f);
    assert_int_equal(read_and_compare(f->disk, A, 0, 61, 0), 0);
    fixture_close(f);
}

static void test_what_waits_is_answered_together_and_the_close_ends(void **state)
{
    struct fixture f;
    fixture_init(&f, 1, 64 * MIB);
    assert_true(fixture_run(&f, make_shards));
    assert_true(fixture_run(&f, many_at_once));
    fixture_fini(&f);
}

/* --- It comes back (D20) ------------------------------------------------------------------------ */

static const struct shard_key M = {.volume = 7, .chunk = (1ull << 32) | 10, .index = 0};

static void go_on(struct fixture *f)
{
    sim_disk_go_on(f->medium);
    env_sleep_ns(SEC);
}

/* 0 or an error; `said`: part of what is wrong, NULL = nothing is said. */
static int come_back(struct fixture *f, const char *said)
{
    char *error = NULL;
    int r = local_disk_reopen(f->disk, &error);
    assert_true(!said == !error);
    assert_true(!said || strstr(error, said));
    mem_free(error);
    return r;
}

static uint64_t incarnation(void)
{
    struct local_disk_superblock super;
    char *error = NULL;
    assert_int_equal(local_disk_probe(FIXTURE_PATH, 0, &super, &error), 0);
    return super.incarnation;
}

/* All that was durable is there, and it takes new shards. */
static void expect_back(struct fixture *f, bool b_removed)
{
    assert_int_equal(f->disk->state, DISK_IN);
    assert_int_equal(f->disk->missing_since_ns, 0);
    local_disk_check(f->disk);
    int r = read_and_compare(f->disk, B, 0, 61, 0);
    assert_true(r == 0 || (r == -ENOENT && b_removed));
    assert_int_equal(read_and_compare(f->disk, A, 0, 61, 0), 0);
    assert_int_equal(create_simple(f->disk, M, SHARD_DATA, 10), 0);
    assert_int_equal(append_blocks(f->disk, M, 1, 0, 5, 0, 0), 0);
    assert_int_equal(shard_sync(f->disk, M, 1, 6), 0);
    assert_int_equal(shard_seal(f->disk, M, 1, 6), 0);
    assert_int_equal(read_and_compare(f->disk, M, 0, 6, 0), 0);
}

static void comes_back(struct fixture *f)
{
    uint64_t before = incarnation();
    if (operation->run == do_sync)
        assert_int_equal(do_append(f), 0);
    sim_disk_hang(f->medium);
    (void)operation->run(f);
    assert_int_equal(come_back(f, NULL), -EAGAIN);
    expect_retired(f);
    go_on(f);
    expect_retired(f); /* not by itself */
    assert_int_equal(come_back(f, NULL), 0);
    assert_int_equal(incarnation(), before + 1);
    expect_back(f, operation->run == do_remove);
    assert_int_equal(f->failed_calls, 1);
    reopen(f);
    assert_int_equal(read_and_compare(f->disk, M, 0, 6, 0), 0);
    fixture_close(f);
}

static void test_after_each_operation_it_comes_back(void **state)
{
    for (unsigned i = 0; i < sizeof(operations) / sizeof(operations[0]); i++) {
        struct fixture f;
        if (operations[i].reopened)
            continue;
        operation = &operations[i];
        fixture_init(&f, 1 + i, 64 * MIB);
        assert_true(fixture_run(&f, make_shards));
        assert_true(fixture_run(&f, comes_back));
        fixture_fini(&f);
    }
}

static void expect_away(struct fixture *f)
{
    struct shard_info info, *list;
    unsigned count;
    uint32_t cursor = 0;
    uint64_t bytes;
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(operations[i].run(f), -EHOSTUNREACH);
    assert_int_equal(shard_stat(f->disk, A, &info), -EHOSTUNREACH);
    assert_int_equal(shard_list(f->disk, 0, &list, &count), -EHOSTUNREACH);
    assert_int_equal(local_disk_list_page(f->disk, 0, &cursor, &info, 1), -EHOSTUNREACH);
    assert_int_equal(local_disk_scrub_shard(f->disk, B, &bytes), -EHOSTUNREACH);
    local_disk_set_trailer_cache(f->disk, 4096);
    assert_string_equal(local_disk_path(f->disk), FIXTURE_PATH);
}

/* Nothing of it is there, and it is not opened; then it is pulled out; then it hangs again. */
static void fails_to_open(struct fixture *f)
{
    sim_disk_hang(f->medium);
    assert_int_equal(do_append(f), -EHOSTUNREACH);
    go_on(f);
    sim_disk_remove(f->medium);
    assert_int_equal(come_back(f, "no such file"), -ENOENT);
    expect_away(f);
    sim_disk_return(f->medium);
    sim_disk_hang(f->medium);
    assert_int_equal(come_back(f, "does not come back"), -EHOSTUNREACH);
    expect_away(f);
    assert_int_equal(come_back(f, NULL), -EAGAIN);
    go_on(f);
    assert_int_equal(f->disk->state, DISK_MISSING);
    assert_int_equal(come_back(f, NULL), 0);
    expect_back(f, false);
    assert_int_equal(f->failed_calls, 1);
    sim_disk_hang(f->medium); /* and once more */
    assert_int_equal(do_append(f), -EHOSTUNREACH);
    assert_int_equal(f->failed_calls, 2);
    go_on(f);
    sim_disk_remove(f->medium);
    assert_int_equal(come_back(f, "no such file"), -ENOENT);
    sim_disk_return(f->medium);
    fixture_close(f); /* between two incarnations */
    fixture_open(f);
    assert_int_equal(read_and_compare(f->disk, M, 0, 6, 0), 0);
    fixture_close(f);
}

static void test_one_that_cannot_be_opened_stays_away(void **state)
{
    struct fixture f;
    fixture_init(&f, 1, 64 * MIB);
    assert_true(fixture_run(&f, make_shards));
    assert_true(fixture_run(&f, fails_to_open));
    fixture_fini(&f);
}

/* D2 */
static void ends_in_an_error(struct fixture *f)
{
    sim_disk_hang(f->medium);
    assert_int_equal(do_append(f), -EHOSTUNREACH);
    sim_disk_fault(
        f->medium, &(struct sim_fault){.ops = SIM_OP_WRITE, .kind = SIM_FAULT_ERROR, .times = 1});
    go_on(f);
    assert_int_equal(come_back(f, NULL), -EIO);
    assert_int_equal(f->disk->state, DISK_FAILED);
    assert_int_equal(f->failed_calls, 2);
    assert_int_equal(do_append(f), -EIO);
    assert_int_equal(do_create(f), -EIO);
    assert_int_equal(do_read(f), -EHOSTUNREACH);
    fixture_close(f);
}

/* The new incarnation cannot be written. */
static void errors_at_the_open(struct fixture *f)
{
    sim_disk_hang(f->medium);
    assert_int_equal(do_append(f), -EHOSTUNREACH);
    go_on(f);
    sim_disk_fault(
        f->medium, &(struct sim_fault){.ops = SIM_OP_WRITE, .kind = SIM_FAULT_ERROR, .times = 1});
    assert_int_equal(come_back(f, "superblock"), -EIO);
    local_disk_fail(f->disk, -EIO); /* as who asked for it does */
    assert_int_equal(f->disk->state, DISK_FAILED);
    assert_int_equal(do_append(f), -EIO);
    fixture_close(f);
}

static void errors_in_the_table(struct fixture *f)
{
    sim_disk_hang(f->medium);
    assert_int_equal(do_append(f), -EHOSTUNREACH);
    go_on(f);
    sim_disk_fault(f->medium,
        &(struct sim_fault){
            .ops = SIM_OP_WRITE, .kind = SIM_FAULT_ERROR, .after = SUPERBLOCK_COPIES, .times = 1});
    assert_int_equal(come_back(f, "shard table"), -EIO);
    fixture_close(f);
}

static void test_one_with_errors_has_failed(void **state)
{
    void (*const rounds[])(struct fixture *) = {
        ends_in_an_error, errors_at_the_open, errors_in_the_table};
    for (unsigned i = 0; i < 3; i++) {
        struct fixture f;
        fixture_init(&f, 1, 64 * MIB);
        assert_true(fixture_run(&f, make_shards));
        assert_true(fixture_run(&f, rounds[i]));
        fixture_fini(&f);
    }
}

/* Who is inside, at work, keeps it from being closed under him. */
static void many_while_it_comes_back(struct fixture *f)
{
    struct many many = {.fixture = f};
    unsigned returns = 0;
    for (unsigned i = 0; i < 200; i++) {
        if (i % 50 == 8)
            sim_disk_hang(f->medium);
        if (i % 50 == 40)
            sim_disk_go_on(f->medium);
        fiber_spawn("one of many", one_of_many, &many);
        env_sleep_ns(100000000);
        char *error = NULL;
        if (f->disk->state == DISK_MISSING)
            returns += local_disk_reopen(f->disk, &error) == 0;
        assert_null(error);
    }
    while (many.running > 0)
        env_sleep_ns(10000000);
    assert_int_equal(returns, 4);
    assert_int_equal(f->disk->state, DISK_IN);
    fixture_close(f);
}

static void test_it_comes_back_while_it_is_used(void **state)
{
    struct fixture f;
    fixture_init(&f, 1, 64 * MIB);
    assert_true(fixture_run(&f, make_shards));
    assert_true(fixture_run(&f, many_while_it_comes_back));
    fixture_fini(&f);
}

/* What stalls may lose what it had cached. */
static void loses_its_cache(struct fixture *f)
{
    uint8_t *image = mem_alloc(64 * MIB);
    sim_disk_peek(f->medium, 0, image, 64 * MIB);
    assert_int_equal(append_blocks(f->disk, A, 1, 61, 5, 0, 0), 0);
    assert_int_equal(append_blocks(f->disk, A, 1, 67, 5, 0, 0), 0);
    sim_disk_hang(f->medium);
    assert_int_equal(append_blocks(f->disk, A, 1, 73, 5, 0, 0), -EHOSTUNREACH);
    go_on(f);
    sim_disk_poke(f->medium, 0, image, 64 * MIB);
    assert_int_equal(come_back(f, NULL), 0);
    assert_int_equal(shard_sync(f->disk, A, 1, 67), -ERANGE);
    assert_int_equal(shard_sync(f->disk, A, 1, 73), -ERANGE);
    assert_int_equal(shard_sync(f->disk, A, 1, 61), 0);
    expect_back(f, false);
    fixture_close(f);
    mem_free(image);
}

/* The first of two appends, one of its blocks; the second one is there. */
static void loses_a_block(struct fixture *f, unsigned header_no, uint32_t synced)
{
    uint8_t *before = mem_alloc(64 * MIB), *after = mem_alloc(64 * MIB);
    sim_disk_peek(f->medium, 0, before, 64 * MIB);
    assert_int_equal(append_blocks(f->disk, A, 1, 61, 5, 0, 0), 0);
    assert_int_equal(append_blocks(f->disk, A, 1, 67, 5, 0, 0), 0);
    assert_int_equal(append_blocks(f->disk, A, 1, 73, 5, 0, 0), 0);
    sim_disk_hang(f->medium);
    assert_int_equal(append_blocks(f->disk, A, 1, 79, 5, 0, 0), -EHOSTUNREACH);
    go_on(f);
    sim_disk_peek(f->medium, 0, after, 64 * MIB);
    uint64_t off = 0;
    for (unsigned changed = 0; changed < header_no; off += changed < header_no ? BLOCK_BYTES : 0)
        changed += memcmp(before + off, after + off, BLOCK_BYTES) != 0;
    sim_disk_poke(f->medium, off, before + off, BLOCK_BYTES);
    assert_int_equal(come_back(f, NULL), 0);
    assert_int_equal(shard_sync(f->disk, A, 1, synced), 0);
    assert_int_equal(shard_sync(f->disk, A, 1, synced + 6), -EBADMSG);
    assert_int_equal(shard_sync(f->disk, A, 1, 73), -EBADMSG);
    assert_int_equal(shard_sync(f->disk, A, 1, 79), -EBADMSG);
    assert_int_equal(append_blocks(f->disk, A, 1, 79, 5, 0, SHARD_APPEND_DSYNC), 0);
    assert_int_equal(shard_sync(f->disk, A, 1, 85), -EBADMSG);
    assert_int_equal(read_and_compare(f->disk, A, 0, 61, 0), 0);
    assert_int_equal(f->disk->damage_count, 1);
    expect_back(f, false);
    fixture_close(f);
    mem_free(before);
    mem_free(after);
}

static void loses_a_payload_block(struct fixture *f)
{
    loses_a_block(f, 3, 61);
}

static void loses_a_header(struct fixture *f)
{
    loses_a_block(f, 7, 67);
}

static void test_what_it_has_lost_is_not_synced(void **state)
{
    struct fixture f;
    void (*const losses[])(struct fixture *) = {
        loses_its_cache, loses_a_payload_block, loses_a_header};
    for (unsigned i = 0; i < 3; i++) {
        fixture_init(&f, 1, 64 * MIB);
        assert_true(fixture_run(&f, make_shards));
        assert_true(fixture_run(&f, losses[i]));
        fixture_fini(&f);
    }
}

/* --- Open, close, probe ------------------------------------------------------------------------ */

static void open_hangs(struct fixture *f)
{
    char *error = NULL;
    fixture_close(f);
    sim_disk_hang(f->medium);
    assert_int_equal(fixture_open_status(f, &error), -EHOSTUNREACH);
    assert_non_null(strstr(error, FIXTURE_PATH));
    assert_non_null(strstr(error, "does not come back"));
    mem_free(error);
    sim_disk_go_on(f->medium);
    env_sleep_ns(SEC);
    struct local_disk_superblock super;
    sim_disk_hang(f->medium);
    assert_int_equal(local_disk_probe(FIXTURE_PATH, TIMEOUT_NS, &super, &error), -EHOSTUNREACH);
    mem_free(error);
    sim_disk_go_on(f->medium);
    env_sleep_ns(SEC);
    fixture_open(f);
    sim_disk_hang(f->medium);
    uint64_t start_ns = env_now_ns();
    fixture_close(f); /* the first to meet it */
    assert_true(env_now_ns() - start_ns < 2 * TIMEOUT_NS);
}

static void test_open_and_close_of_a_disk_that_hangs_end(void **state)
{
    struct fixture f;
    fixture_init(&f, 1, 64 * MIB);
    assert_true(fixture_run(&f, make_shards));
    assert_true(fixture_run(&f, open_hangs));
    fixture_fini(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_operation_is_answered_and_the_disk_retired),
        cmocka_unit_test(test_what_waits_is_answered_together_and_the_close_ends),
        cmocka_unit_test(test_open_and_close_of_a_disk_that_hangs_end),
        cmocka_unit_test(test_after_each_operation_it_comes_back),
        cmocka_unit_test(test_one_that_cannot_be_opened_stays_away),
        cmocka_unit_test(test_one_with_errors_has_failed),
        cmocka_unit_test(test_it_comes_back_while_it_is_used),
        cmocka_unit_test(test_what_it_has_lost_is_not_synced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
