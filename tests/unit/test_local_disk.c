/* SPDX-License-Identifier: Apache-2.0
 *
 * The operations of the shard store, on a simulated disk without faults. Faults: test_local_disk_faults.c; crashes:
 * test_local_disk_crash.c; rot: test_local_disk_rot.c; bad disks: test_local_disk_open.c.
 */
#include "disk_fixture.h"

#define MIB (1ull << 20)

static const struct shard_key A = {.volume = 7, .chunk = (1ull << 32) | 1, .index = 2};
static const struct shard_key L = {.volume = 7, .chunk = (1ull << 32) | 2, .index = 1};

static void on_disk(uint64_t size_bytes, void (*fn)(struct fixture *f))
{
    struct fixture f;
    fixture_init(&f, 1, size_bytes);
    assert_true(fixture_run(&f, fn));
    fixture_fini(&f);
}

/* Closed and opened again by another process of the same boot. */
static void reopen(struct fixture *f)
{
    fixture_close(f);
    fixture_open(f);
}

/* --- Appends and reads ------------------------------------------------------------------------ */

static void appends_and_reads(struct fixture *f)
{
    assert_int_equal(create_simple(f->disk, A, SHARD_DATA, 200), 0);
    assert_int_equal(append_blocks(f->disk, A, 1, 0, 10, 0, 0), 0);
    assert_int_equal(append_blocks(f->disk, A, 1, 11, 0, 0, 0), 0);
    assert_int_equal(append_blocks(f->disk, A, 1, 12, 100, 0, SHARD_APPEND_DSYNC), 0);
    assert_int_equal(read_and_compare(f->disk, A, 0, 113, 0), 0);
    assert_int_equal(read_and_compare(f->disk, A, 5, 1, 0), 0);
    assert_int_equal(read_and_compare(f->disk, A, 100, 14, 0), -ERANGE);
    struct shard_info info;
    assert_int_equal(shard_stat(f->disk, A, &info), 0);
    assert_int_equal(info.length_blocks, 113);
    assert_true(info.capacity_blocks >= 200);
    assert_false(info.sealed || info.suspect || info.damaged);
    assert_int_equal(shard_sync(f->disk, A, 1, 113), 0);
    assert_int_equal(shard_sync(f->disk, A, 1, 114), -ERANGE);
    assert_int_equal(shard_seal(f->disk, A, 1, 50), -ERANGE); /* no append ends there */
    assert_int_equal(shard_seal(f->disk, A, 1, 12), 0);
    assert_int_equal(shard_seal(f->disk, A, 1, 12), 0);
    assert_int_equal(shard_seal(f->disk, A, 1, 113), -ERANGE);
    for (unsigned round = 0; round < 2; round++) {
        assert_int_equal(read_and_compare(f->disk, A, 0, 12, 0), 0);
        assert_int_equal(read_and_compare(f->disk, A, 3, 4, 0), 0);
        assert_int_equal(read_and_compare(f->disk, A, 0, 13, 0), -ERANGE);
        assert_int_equal(append_blocks(f->disk, A, 1, 12, 1, 0, 0), -EROFS);
        assert_int_equal(shard_sync(f->disk, A, 1, 12), 0);
        reopen(f);
    }
}

static void test_appended_blocks_are_read_back_open_sealed_and_reopened(void **state)
{
    on_disk(64 * MIB, appends_and_reads);
}

static void logs(struct fixture *f)
{
    struct shard_info info;
    assert_int_equal(create_simple(f->disk, L, SHARD_LOG, 1500), 0);
    uint32_t off = 0;
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(append_blocks(f->disk, L, 1, off, i * 3, 0, 0), 0);
        off += 1 + i * 3;
    }
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(read_and_compare(f->disk, L, 0, off, 0), 0);
        assert_int_equal(shard_stat(f->disk, L, &info), 0);
        assert_int_equal(info.length_blocks, off);
        if (i == 1)
            assert_int_equal(shard_seal(f->disk, L, 1, off), 0);
        reopen(f);
    }
    assert_int_equal(read_and_compare(f->disk, L, off - 5, 5, 0), 0);
}

static void test_a_log_is_walked_after_restart_open_and_sealed(void **state)
{
    on_disk(64 * MIB, logs);
}

static void absent(struct fixture *f)
{
    struct shard_info info;
    assert_int_equal(shard_stat(f->disk, A, &info), -ENOENT);
    assert_int_equal(read_and_compare(f->disk, A, 0, 1, 0), -ENOENT);
    assert_int_equal(append_blocks(f->disk, A, 1, 0, 1, 0, 0), -ENOENT);
    assert_int_equal(shard_sync(f->disk, A, 1, 0), -ENOENT);
    assert_int_equal(shard_seal(f->disk, A, 1, 0), -ENOENT);
    assert_int_equal(shard_remove(f->disk, A, 0, 1), -ENOENT);
}

static void test_absent_shards_are_absent(void **state)
{
    on_disk(64 * MIB, absent);
}

static void removes(struct fixture *f)
{
    uint64_t free_bytes = f->disk->free_bytes;
    assert_int_equal(create_simple(f->disk, A, SHARD_DATA, 1000), 0);
    assert_int_equal(free_bytes - f->disk->free_bytes, 4 * MIB);
    assert_int_equal(local_disk_shard_count(f->disk), 1);
    assert_int_equal(append_blocks(f->disk, A, 1, 0, 10, 0, 0), 0);
    assert_int_equal(shard_remove(f->disk, A, 12345, 1), -ENOENT);
    assert_int_equal(shard_remove(f->disk, A, 0, 0), -ESTALE);
    assert_int_equal(shard_remove(f->disk, A, create_of(A, SHARD_DATA, 1).instance, 1), 0);
    assert_int_equal(f->disk->free_bytes, free_bytes);
    assert_int_equal(read_and_compare(f->disk, A, 0, 1, 0), -ENOENT);
    reopen(f);
    assert_int_equal(read_and_compare(f->disk, A, 0, 1, 0), -ENOENT);
    assert_int_equal(f->disk->free_bytes, free_bytes);
    /* The same place again: what the first one left there is not found. */
    assert_int_equal(create_simple(f->disk, A, SHARD_DATA, 1000), 0);
    reopen(f);
    struct shard_info info;
    assert_int_equal(shard_stat(f->disk, A, &info), 0);
    assert_int_equal(info.length_blocks, 0);
}

static void test_removed_shards_are_gone_and_their_space_is_free(void **state)
{
    on_disk(64 * MIB, removes);
}

static void creates(struct fixture *f)
{
    struct shard_create create = create_of(A, SHARD_DATA, 100);
    struct shard_info info;
    assert_int_equal(shard_create(f->disk, &create, &info), 0);
    assert_int_equal(append_blocks(f->disk, A, 1, 0, 3, 0, 0), 0);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(shard_create(f->disk, &create, &info), 0);
        assert_int_equal(read_and_compare(f->disk, A, 0, 4, 0), 0);
        reopen(f);
    }
    struct shard_create other = create;
    other.instance++;
    assert_int_equal(shard_create(f->disk, &other, &info), -EEXIST);
    other = create;
    other.epoch++;
    assert_int_equal(shard_create(f->disk, &other, &info), -EEXIST);
    other.epoch = 0;
    assert_int_equal(shard_create(f->disk, &other, &info), -EINVAL);
    other = create_of(key_of(1, 1, 6), SHARD_DATA, 100);
    assert_int_equal(shard_create(f->disk, &other, &info), -EINVAL);
    other = create_of(key_of(1, 1, 0), SHARD_DATA, 1020);
    assert_int_equal(shard_create(f->disk, &other, &info), -EINVAL);
    other = create_of(key_of(1, 1, 0), SHARD_LOG, LOG_CAPACITY_BLOCKS_MAX + 1);
    assert_int_equal(shard_create(f->disk, &other, &info), -EINVAL);
}

static void test_a_create_can_be_repeated_but_not_changed(void **state)
{
    on_disk(64 * MIB, creates);
}

static void capacity(struct fixture *f)
{
    struct shard_create create = create_of(A, SHARD_DATA, 15);
    struct shard_info info;
    assert_int_equal(shard_create(f->disk, &create, &info), 0);
    assert_int_equal(info.capacity_blocks, 15);
    assert_int_equal(append_blocks(f->disk, A, 1, 0, 15, 0, 0), -ERANGE);
    assert_int_equal(append_blocks(f->disk, A, 1, 0, 14, 0, 0), 0);
    assert_int_equal(append_blocks(f->disk, A, 1, 15, 0, 0, 0), -ERANGE);
    assert_int_equal(shard_seal(f->disk, A, 1, 15), 0);
    assert_int_equal(read_and_compare(f->disk, A, 0, 15, 0), 0);
    reopen(f);
    assert_int_equal(read_and_compare(f->disk, A, 0, 15, 0), 0);
}

static void test_a_shard_can_be_filled_to_its_capacity(void **state)
{
    on_disk(64 * MIB, capacity);
}

/* --- Pipelining ------------------------------------------------------------------------------- */

#define PIPE_DEPTH 16

struct pipe {
    struct shard_append append;
    struct shard_entry entry;
    struct iovec iov;
    struct fiber *fiber;
    unsigned *pending;
};

static void pipe_done(struct shard_append *append)
{
    struct pipe *pipe = container_of(append, struct pipe, append);
    if (--*pipe->pending == 0)
        fiber_wake(pipe->fiber);
}

static void pipe_init(
    struct pipe *pipe, struct fixture *f, uint32_t off_blocks, unsigned *pending, void *buf)
{
    fill_block(buf, L, off_blocks + 1, 0);
    pipe->entry = (struct shard_entry){.address = 1, .crc = crc32c(0, buf, BLOCK_BYTES)};
    pipe->iov = (struct iovec){.iov_base = buf, .iov_len = BLOCK_BYTES};
    pipe->fiber = fiber_self();
    pipe->pending = pending;
    pipe->append = (struct shard_append){
        .disk = f->disk,
        .key = L,
        .epoch = 1,
        .off_blocks = off_blocks,
        .entries = &pipe->entry,
        .entry_count = 1,
        .payload = &pipe->iov,
        .payload_count = 1,
        .done = pipe_done,
    };
    ++*pending;
}

static void pipelines(struct fixture *f)
{
    assert_int_equal(create_simple(f->disk, L, SHARD_LOG, 64), 0);
    uint8_t *buf = mem_alloc_pages(PIPE_DEPTH * BLOCK_BYTES);
    struct pipe pipes[2 * PIPE_DEPTH];
    unsigned pending = 0;
    for (unsigned i = 0; i < PIPE_DEPTH; i++) {
        pipe_init(&pipes[i], f, i * 2, &pending, buf + i * BLOCK_BYTES);
        shard_append_submit(&pipes[i].append);
    }
    /* Each of them again while the first is in flight. */
    for (unsigned i = 0; i < PIPE_DEPTH; i++) {
        struct pipe *again = &pipes[PIPE_DEPTH + i];
        pipe_init(again, f, i * 2, &pending, buf + i * BLOCK_BYTES);
        again->append.flags = i % 2 ? SHARD_APPEND_DSYNC : 0;
        shard_append_submit(&again->append);
    }
    assert_int_equal(append_blocks(f->disk, L, 1, 0, 2, 0, 0), -ERANGE);
    while (pending > 0)
        fiber_suspend();
    for (unsigned i = 0; i < 2 * PIPE_DEPTH; i++)
        assert_int_equal(pipes[i].append.result, 0);
    assert_int_equal(read_and_compare(f->disk, L, 0, 2 * PIPE_DEPTH, 0), 0);
    assert_int_equal(sim_disk_volatile_pages(f->medium), 0); /* the last retry was a durable one */
    mem_free_pages(buf, PIPE_DEPTH * BLOCK_BYTES);
    reopen(f);
    assert_int_equal(read_and_compare(f->disk, L, 0, 2 * PIPE_DEPTH, 0), 0);
    assert_int_equal(append_blocks(f->disk, L, 1, 2 * PIPE_DEPTH, 5, 0, 0), 0);
}

static void test_appends_in_flight_together_and_retried_are_all_there(void **state)
{
    on_disk(64 * MIB, pipelines);
}

struct slow_read {
    struct shard_read read;
    struct iovec iov;
    bool done;
};

static void slow_read_done(struct shard_read *read)
{
    container_of(read, struct slow_read, read)->done = true;
}

/* Many first users of a shard after a restart: one walk, and each gets its answer. */
static void first_users(struct fixture *f)
{
    assert_int_equal(create_simple(f->disk, L, SHARD_LOG, 256), 0);
    for (uint32_t i = 0; i < 16; i++)
        assert_int_equal(append_blocks(f->disk, L, 1, i * 8, 7, 0, 0), 0);
    reopen(f);
    uint8_t *buf = mem_alloc_pages(32 * BLOCK_BYTES);
    struct slow_read reads[16];
    struct pipe pipes[4];
    unsigned pending = 0;
    for (unsigned i = 0; i < 16; i++) {
        reads[i].iov = (struct iovec){.iov_base = buf + i * BLOCK_BYTES, .iov_len = BLOCK_BYTES};
        reads[i].done = false;
        reads[i].read = (struct shard_read){.disk = f->disk,
            .key = L,
            .off_blocks = i * 8,
            .count = 1,
            .iov = &reads[i].iov,
            .iov_count = 1,
            .done = slow_read_done};
        shard_read_submit(&reads[i].read);
    }
    for (unsigned i = 0; i < 4; i++) {
        pipe_init(&pipes[i], f, 128 + 2 * i, &pending, buf + (16 + i) * BLOCK_BYTES);
        shard_append_submit(&pipes[i].append);
    }
    assert_int_equal(shard_sync(f->disk, L, 1, 128), 0);
    while (pending > 0)
        fiber_suspend();
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(pipes[i].append.result, 0);
    env_sleep_ns(1000000000);
    for (unsigned i = 0; i < 16; i++)
        assert_true(reads[i].done && reads[i].read.result == 0);
    mem_free_pages(buf, 32 * BLOCK_BYTES);
    assert_int_equal(read_and_compare(f->disk, L, 0, 136, 0), 0);
}

static void test_many_first_users_of_a_shard_share_one_walk(void **state)
{
    on_disk(64 * MIB, first_users);
}

/* --- Group commit (D8, D12) ------------------------------------------------------------------- */

static struct fiber_group together;
static struct fixture *shared;

static void create_and_sync(void *arg)
{
    uint64_t chunk = (uintptr_t)arg;
    int r = create_simple(shared->disk, key_of(4, chunk, 0), SHARD_META, 15);
    if (r == 0)
        r = append_blocks(shared->disk, key_of(4, chunk, 0), 1, 0, 1, 0, 0);
    if (r == 0)
        r = shard_sync(shared->disk, key_of(4, chunk, 0), 1, 2);
    fiber_group_done(&together, r);
}

static void creates_together(struct fixture *f)
{
    uint64_t before = sim_io_count(f->sim);
    shared = f;
    fiber_group_init(&together);
    fiber_group_add(&together, 32);
    for (uintptr_t i = 0; i < 32; i++)
        fiber_spawn("create", create_and_sync, (void *)(i + 1));
    assert_int_equal(fiber_group_wait(&together), 0);
    /* 32 appends; two rounds of the table, one or two blocks each; a few flushes. */
    assert_true(sim_io_count(f->sim) - before <= 32 + 4 + 12);
}

static void test_creates_share_table_writes_and_syncs_share_flushes(void **state)
{
    on_disk(64 * MIB, creates_together);
}

/* --- Retries (S8) ----------------------------------------------------------------------------- */

static void retries(struct fixture *f)
{
    assert_int_equal(create_simple(f->disk, A, SHARD_DATA, 100), 0);
    assert_int_equal(append_blocks(f->disk, A, 1, 0, 5, 0, 0), 0);
    assert_int_equal(append_blocks(f->disk, A, 1, 6, 5, 0, 0), 0);
    for (unsigned round = 0; round < 2; round++) {
        uint64_t writes = sim_io_count(f->sim);
        assert_int_equal(append_blocks(f->disk, A, 1, 0, 5, 0, 0), 0);
        assert_int_equal(append_blocks(f->disk, A, 1, 6, 5, 0, 0), 0);
        assert_int_equal(append_blocks(f->disk, A, 1, 6, 5, 1, 0), -ERANGE);  /* other bytes */
        assert_int_equal(append_blocks(f->disk, A, 1, 6, 4, 0, 0), -ERANGE);  /* other length */
        assert_int_equal(append_blocks(f->disk, A, 2, 6, 5, 0, 0), -ERANGE);  /* other epoch */
        assert_int_equal(append_blocks(f->disk, A, 1, 3, 5, 0, 0), -ERANGE);  /* inside another */
        assert_int_equal(append_blocks(f->disk, A, 1, 13, 5, 0, 0), -ERANGE); /* a gap */
        assert_int_equal(sim_io_count(f->sim), writes);
        reopen(f);
    }
    assert_true(sim_disk_volatile_pages(f->medium) > 0);
    assert_int_equal(append_blocks(f->disk, A, 1, 6, 5, 0, SHARD_APPEND_DSYNC), 0);
    assert_int_equal(sim_disk_volatile_pages(f->medium), 0);
    assert_int_equal(read_and_compare(f->disk, A, 0, 12, 0), 0);
}

static void test_a_retry_succeeds_only_with_the_same_content(void **state)
{
    on_disk(64 * MIB, retries);
}

static void wrong_crcs(struct fixture *f)
{
    f->verify_appends = true;
    reopen(f);
    assert_int_equal(create_simple(f->disk, A, SHARD_DATA, 100), 0);
    assert_int_equal(append_blocks(f->disk, A, 1, 0, 5, 0, 0), 0);
    uint8_t *buf = mem_alloc_pages(BLOCK_BYTES);
    memset(buf, 1, BLOCK_BYTES);
    struct shard_entry entry = {.crc = 1};
    struct iovec iov = {.iov_base = buf, .iov_len = BLOCK_BYTES};
    struct shard_append append = {.disk = f->disk,
        .key = A,
        .epoch = 1,
        .off_blocks = 6,
        .entries = &entry,
        .entry_count = 1,
        .payload = &iov,
        .payload_count = 1};
    assert_int_equal(shard_append(&append), -EBADMSG);
    mem_free_pages(buf, BLOCK_BYTES);
    assert_int_equal(append_blocks(f->disk, A, 1, 6, 5, 0, 0), 0);
}

static void test_payload_that_does_not_match_its_crc_is_not_written(void **state)
{
    on_disk(64 * MIB, wrong_crcs);
}

/* --- Fences (D6, S7, S8) ---------------------------------------------------------------------- */

static void fences(struct fixture *f)
{
    struct shard_info info;
    assert_int_equal(create_simple(f->disk, A, SHARD_DATA, 100), 0);
    assert_int_equal(append_blocks(f->disk, A, 1, 0, 5, 0, 0), 0);
    assert_int_equal(shard_fence(f->disk, A, 5, &info), 0);
    assert_int_equal(info.length_blocks, 6);
    assert_int_equal(info.fence_epoch, 5);
    for (unsigned round = 0; round < 2; round++) {
        assert_int_equal(append_blocks(f->disk, A, 1, 0, 5, 0, 0), -ESTALE);
        assert_int_equal(append_blocks(f->disk, A, 4, 6, 5, 0, 0), -ESTALE);
        assert_int_equal(shard_sync(f->disk, A, 1, 6), -ESTALE);
        assert_int_equal(shard_seal(f->disk, A, 4, 6), -ESTALE);
        assert_int_equal(shard_remove(f->disk, A, 0, 4), -ESTALE);
        assert_int_equal(create_simple(f->disk, A, SHARD_DATA, 100), -ESTALE);
        assert_int_equal(shard_fence(f->disk, A, 4, &info), -ESTALE);
        assert_int_equal(shard_fence(f->disk, A, 5, &info), 0);
        assert_int_equal(read_and_compare(f->disk, A, 0, 6, 0), 0);
        reopen(f);
    }
    assert_int_equal(shard_seal(f->disk, A, 5, 6), 0);
    assert_int_equal(shard_remove(f->disk, A, 0, 4), -ESTALE);
    assert_int_equal(shard_remove(f->disk, A, 0, 5), 0);
}

static void test_a_fence_refuses_all_lower_epochs_for_ever(void **state)
{
    on_disk(64 * MIB, fences);
}

static void tombstones(struct fixture *f)
{
    struct shard_create create = create_of(A, SHARD_DATA, 100);
    struct shard_info info, *list;
    unsigned count;
    assert_int_equal(shard_fence(f->disk, A, 5, &info), -ENOENT);
    for (unsigned round = 0; round < 2; round++) {
        assert_int_equal(shard_create(f->disk, &create, &info), -ESTALE);
        assert_int_equal(append_blocks(f->disk, A, 1, 0, 1, 0, 0), -ESTALE);
        assert_int_equal(append_blocks(f->disk, A, 5, 0, 1, 0, 0), -ENOENT);
        assert_int_equal(shard_stat(f->disk, A, &info), -ENOENT);
        assert_int_equal(read_and_compare(f->disk, A, 0, 1, 0), -ENOENT);
        assert_int_equal(shard_fence(f->disk, A, 4, &info), -ESTALE);
        assert_int_equal(shard_fence(f->disk, A, 5, &info), -ENOENT);
        assert_int_equal(shard_list(f->disk, A.volume, &list, &count), 0);
        assert_int_equal(count, 1);
        assert_true(list[0].tombstone);
        assert_int_equal(list[0].fence_epoch, 5);
        mem_free(list);
        assert_int_equal(local_disk_shard_count(f->disk), 0);
        reopen(f);
    }
    create.epoch = 6;
    assert_int_equal(shard_create(f->disk, &create, &info), 0);
    assert_int_equal(info.fence_epoch, 5);
    reopen(f);
    assert_int_equal(append_blocks(f->disk, A, 6, 0, 1, 0, 0), 0);
    assert_int_equal(shard_fence(f->disk, L, 9, NULL), -ENOENT);
    assert_int_equal(shard_remove(f->disk, L, 3, 9), -ENOENT);
    assert_int_equal(shard_remove(f->disk, L, 0, 9), 0);
    assert_int_equal(create_simple(f->disk, L, SHARD_LOG, 100), 0);
}

static void test_fencing_an_absent_shard_leaves_a_durable_tombstone(void **state)
{
    on_disk(64 * MIB, tombstones);
}

static void fences_in_flight(struct fixture *f)
{
    assert_int_equal(create_simple(f->disk, L, SHARD_LOG, 64), 0);
    sim_disk_fault(f->medium,
        &(struct sim_fault){
            .ops = SIM_OP_WRITE, .kind = SIM_FAULT_DELAY, .times = 1, .delay_ns = 50000000});
    uint8_t *buf = mem_alloc_pages(BLOCK_BYTES);
    unsigned pending = 0;
    struct pipe pipe;
    pipe_init(&pipe, f, 0, &pending, buf);
    shard_append_submit(&pipe.append);
    struct shard_info info;
    uint64_t before_ns = env_now_ns();
    assert_int_equal(shard_fence(f->disk, L, 2, &info), 0);
    assert_true(env_now_ns() - before_ns >= 50000000);
    assert_int_equal(pending, 0);
    assert_int_equal(info.length_blocks, 2);
    mem_free_pages(buf, BLOCK_BYTES);
}

static void test_a_fence_is_answered_after_the_appends_in_flight(void **state)
{
    on_disk(64 * MIB, fences_in_flight);
}

/* --- Space (D5, D7) --------------------------------------------------------------------------- */

static int fill(struct fixture *f, enum shard_priority priority, uint64_t chunk)
{
    struct shard_create create = create_of(key_of(1, chunk, 0), SHARD_DATA, 1019);
    create.priority = priority;
    return shard_create(f->disk, &create, NULL);
}

static void space(struct fixture *f)
{
    uint64_t chunk = 1;
    unsigned total = (unsigned)(f->disk->size_bytes / (4 * MIB)), made = 0;
    static const unsigned reserved_percent[] = {5, 2, 0};
    for (unsigned priority = 0; priority < 3; priority++) {
        while (fill(f, (enum shard_priority)priority, chunk) == 0) {
            chunk++;
            made++;
        }
        assert_int_equal(fill(f, (enum shard_priority)priority, chunk), -ENOSPC);
        /* Of whole slabs users leave one more: cleaning finds one also on the smallest disk. */
        assert_int_equal(
            total - made, DIV_ROUND_UP(total * reserved_percent[priority], 100) + (priority == 0));
    }
    assert_int_equal(f->disk->free_bytes, 0);
    assert_int_equal(shard_remove(f->disk, key_of(1, 1, 0), 0, 1), 0);
    assert_int_equal(fill(f, SHARD_PRIORITY_CLEAN, chunk), -ENOSPC);
    assert_int_equal(fill(f, SHARD_PRIORITY_SYSTEM, chunk), 0);
}

static void test_each_priority_stops_at_its_share_of_space(void **state)
{
    on_disk(420 * MIB, space);
}

static void entries(struct fixture *f)
{
    uint32_t made = 0;
    struct shard_create create;
    do {
        create = create_of(key_of(2, made, 0), SHARD_META, 15);
        create.priority = SHARD_PRIORITY_SYSTEM;
        made++;
    } while (made < 5000 && shard_fence(f->disk, create.key, 1, NULL) == -ENOENT);
    assert_int_equal(made, 3 * 1024 / 4 + 2); /* tombstones leave a quarter to shards */
    while (shard_create(f->disk, &create, NULL) == 0)
        create.key.chunk = ++made;
    assert_int_equal(made, 1024 + 1);
    assert_int_equal(shard_create(f->disk, &create, NULL), -ENOSPC);
    assert_int_equal(shard_remove(f->disk, key_of(2, 5, 0), 0, 1), 0);
    create.priority = SHARD_PRIORITY_USER;
    assert_int_equal(shard_create(f->disk, &create, NULL), -ENOSPC);
    create.priority = SHARD_PRIORITY_SYSTEM;
    assert_int_equal(shard_create(f->disk, &create, NULL), 0);
}

static void test_table_entries_are_space_too(void **state)
{
    on_disk(64 * MIB, entries);
}

static void smaller(struct fixture *f)
{
    struct shard_info info;
    struct shard_create create = create_of(L, SHARD_LOG, 16384);
    create.capacity_blocks_min = 100;
    create.priority = SHARD_PRIORITY_SYSTEM;
    assert_int_equal(shard_create(f->disk, &create, &info), 0);
    assert_int_equal(info.capacity_blocks, f->disk->size_bytes / BLOCK_BYTES);
    assert_int_equal(f->disk->free_bytes, 0);
    /* An unsealed log keeps everything, a sealed one what it holds. */
    assert_int_equal(append_blocks(f->disk, L, 1, 0, 20, 0, 0), 0);
    assert_int_equal(shard_seal(f->disk, L, 1, 21), 0);
    assert_int_equal(f->disk->free_bytes, f->disk->size_bytes - 2 * 65536);
    create = create_of(A, SHARD_DATA, 1019);
    create.capacity_blocks_min = 1019;
    assert_int_equal(shard_create(f->disk, &create, &info), 0);
    reopen(f);
    assert_int_equal(f->disk->free_bytes, f->disk->size_bytes - 2 * 65536 - 4 * MIB);
    assert_int_equal(read_and_compare(f->disk, L, 0, 21, 0), 0);
}

static void test_create_gives_less_when_it_must_and_seal_gives_back(void **state)
{
    on_disk(64 * MIB, smaller);
}

static void slow_read_start(
    struct slow_read *slow, struct fixture *f, struct shard_key key, void *buf)
{
    sim_disk_fault(f->medium,
        &(struct sim_fault){
            .ops = SIM_OP_READ, .kind = SIM_FAULT_DELAY, .times = 1, .delay_ns = 100000000});
    slow->iov = (struct iovec){.iov_base = buf, .iov_len = BLOCK_BYTES};
    slow->done = false;
    slow->read = (struct shard_read){.disk = f->disk,
        .key = key,
        .off_blocks = 1,
        .count = 1,
        .iov = &slow->iov,
        .iov_count = 1,
        .done = slow_read_done};
    shard_read_submit(&slow->read);
}

static void readers(struct fixture *f)
{
    uint8_t *buf = mem_alloc_pages(BLOCK_BYTES);
    struct slow_read slow;
    assert_int_equal(create_simple(f->disk, A, SHARD_DATA, 1019), 0);
    assert_int_equal(append_blocks(f->disk, A, 1, 0, 10, 0, 0), 0);
    uint64_t free_bytes = f->disk->free_bytes;
    slow_read_start(&slow, f, A, buf);
    assert_int_equal(shard_seal(f->disk, A, 1, 11), 0);
    assert_int_equal(f->disk->free_bytes, free_bytes);
    env_sleep_ns(200000000);
    assert_true(slow.done);
    assert_int_equal(slow.read.result, 0);
    assert_int_equal(f->disk->free_bytes, free_bytes + 63 * 65536);

    slow_read_start(&slow, f, A, buf);
    assert_int_equal(shard_remove(f->disk, A, 0, 1), 0);
    assert_int_equal(f->disk->free_bytes, free_bytes + 63 * 65536);
    assert_int_equal(read_and_compare(f->disk, A, 0, 1, 0), -ENOENT);
    env_sleep_ns(200000000);
    assert_true(slow.done);
    assert_int_equal(slow.read.result, 0);
    assert_int_equal(f->disk->free_bytes, f->disk->size_bytes);
    mem_free_pages(buf, BLOCK_BYTES);
}

static void test_space_is_used_again_only_after_the_last_reader(void **state)
{
    on_disk(64 * MIB, readers);
}

/* --- Restart and reboot (S5, S6) -------------------------------------------------------------- */

static void make_open_shards(struct fixture *f)
{
    assert_int_equal(create_simple(f->disk, A, SHARD_DATA, 100), 0);
    assert_int_equal(append_blocks(f->disk, A, 1, 0, 5, 0, 0), 0);
    assert_int_equal(create_simple(f->disk, L, SHARD_LOG, 100), 0);
    assert_int_equal(append_blocks(f->disk, L, 1, 0, 5, 0, SHARD_APPEND_DSYNC), 0);
}

static void goes_on(struct fixture *f)
{
    fixture_open(f);
    assert_int_equal(append_blocks(f->disk, A, 1, 6, 5, 0, 0), 0);
    assert_int_equal(shard_sync(f->disk, A, 1, 12), 0);
    assert_int_equal(read_and_compare(f->disk, A, 0, 12, 0), 0);
    assert_int_equal(append_blocks(f->disk, L, 1, 0, 5, 0, 0), 0);
}

static void suspects(struct fixture *f)
{
    fixture_open(f);
    for (unsigned round = 0; round < 2; round++) {
        struct shard_info info;
        assert_int_equal(append_blocks(f->disk, A, 1, 12, 5, 0, 0), -EREMOTEIO);
        assert_int_equal(append_blocks(f->disk, A, 1, 0, 5, 0, 0), -EREMOTEIO);
        assert_int_equal(shard_sync(f->disk, A, 1, 6), -EREMOTEIO);
        assert_int_equal(shard_stat(f->disk, A, &info), 0);
        assert_true(info.suspect);
        assert_int_equal(info.length_blocks, 12);
        assert_int_equal(read_and_compare(f->disk, A, 0, 12, 0), 0);
        reopen(f); /* a new daemon does not wash it clean */
    }
    assert_int_equal(shard_fence(f->disk, A, 2, NULL), 0);
    assert_int_equal(shard_seal(f->disk, A, 2, 6), 0);
    assert_int_equal(read_and_compare(f->disk, A, 0, 6, 0), 0);
    fixture_close(f);
}

static void test_open_shards_go_on_after_a_restart_but_not_after_a_reboot(void **state)
{
    struct fixture f;
    fixture_init(&f, 1, 64 * MIB);
    assert_true(fixture_run(&f, make_open_shards));
    sim_node_crash(f.node);
    assert_true(fixture_run(&f, goes_on));
    sim_node_power_cut(f.node, SIM_CUT_LOSE_ALL);
    assert_true(fixture_run(&f, suspects));
    fixture_fini(&f);
}

/* --- The trailer cache ------------------------------------------------------------------------ */

static void trailers(struct fixture *f)
{
    for (unsigned i = 0; i < 20; i++) {
        struct shard_key key = key_of(3, i, 0);
        assert_int_equal(create_simple(f->disk, key, SHARD_DATA, 600), 0);
        assert_int_equal(append_blocks(f->disk, key, 1, 0, 248, 0, 0), 0);
        assert_int_equal(append_blocks(f->disk, key, 1, 249, 248, 0, 0), 0);
        assert_int_equal(append_blocks(f->disk, key, 1, 498, 50, 0, 0), 0);
        assert_int_equal(shard_seal(f->disk, key, 1, 549), 0);
    }
    f->cache_bytes = 0; /* the least: eight blocks */
    reopen(f);
    for (unsigned round = 0; round < 200; round++) {
        struct shard_key key = key_of(3, env_random_u64() % 20, 0);
        uint32_t off = (uint32_t)(env_random_u64() % 549),
                 count = 1 + (uint32_t)(env_random_u64() % (549 - off));
        assert_int_equal(read_and_compare(f->disk, key, off, count, 0), 0);
    }
    local_disk_set_trailer_cache(f->disk, 1 << 20);
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(read_and_compare(f->disk, key_of(3, i, 0), 0, 549, 0), 0);
    assert_int_equal(f->disk->damage_count, 0);
    fixture_close(f);
}

static void test_reads_with_hardly_any_cache_are_right(void **state)
{
    on_disk(128 * MIB, trailers);
}

/* --- List, scrub ------------------------------------------------------------------------------ */

static void lists(struct fixture *f)
{
    struct shard_info *list;
    unsigned count;
    for (unsigned i = 0; i < 30; i++)
        assert_int_equal(create_simple(f->disk, key_of(1 + i % 3, i, 0), SHARD_META, 15), 0);
    assert_int_equal(shard_list(f->disk, 0, &list, &count), 0);
    assert_int_equal(count, 30);
    mem_free(list);
    assert_int_equal(shard_list(f->disk, 2, &list, &count), 0);
    assert_int_equal(count, 10);
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(list[i].key.volume, 2);
    mem_free(list);
}

static void test_shards_are_listed_by_volume(void **state)
{
    on_disk(64 * MIB, lists);
}

static void scrubs(struct fixture *f)
{
    uint64_t bytes;
    make_open_shards(f);
    assert_int_equal(local_disk_scrub_shard(f->disk, A, &bytes), 0);
    assert_int_equal(bytes, 6 * BLOCK_BYTES);
    assert_int_equal(shard_seal(f->disk, A, 1, 6), 0);
    assert_int_equal(shard_seal(f->disk, L, 1, 6), 0);
    assert_int_equal(local_disk_scrub_shard(f->disk, A, &bytes), 0);
    assert_int_equal(local_disk_scrub_shard(f->disk, L, &bytes), 0);
    assert_int_equal(local_disk_scrub_shard(f->disk, key_of(9, 9, 9), &bytes), -ENOENT);
    assert_int_equal(f->damaged_calls, 0);
}

static void test_scrub_of_sound_shards_finds_nothing(void **state)
{
    on_disk(64 * MIB, scrubs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_appended_blocks_are_read_back_open_sealed_and_reopened),
        cmocka_unit_test(test_a_log_is_walked_after_restart_open_and_sealed),
        cmocka_unit_test(test_absent_shards_are_absent),
        cmocka_unit_test(test_removed_shards_are_gone_and_their_space_is_free),
        cmocka_unit_test(test_a_create_can_be_repeated_but_not_changed),
        cmocka_unit_test(test_a_shard_can_be_filled_to_its_capacity),
        cmocka_unit_test(test_appends_in_flight_together_and_retried_are_all_there),
        cmocka_unit_test(test_many_first_users_of_a_shard_share_one_walk),
        cmocka_unit_test(test_creates_share_table_writes_and_syncs_share_flushes),
        cmocka_unit_test(test_a_retry_succeeds_only_with_the_same_content),
        cmocka_unit_test(test_payload_that_does_not_match_its_crc_is_not_written),
        cmocka_unit_test(test_a_fence_refuses_all_lower_epochs_for_ever),
        cmocka_unit_test(test_fencing_an_absent_shard_leaves_a_durable_tombstone),
        cmocka_unit_test(test_a_fence_is_answered_after_the_appends_in_flight),
        cmocka_unit_test(test_each_priority_stops_at_its_share_of_space),
        cmocka_unit_test(test_table_entries_are_space_too),
        cmocka_unit_test(test_create_gives_less_when_it_must_and_seal_gives_back),
        cmocka_unit_test(test_space_is_used_again_only_after_the_last_reader),
        cmocka_unit_test(test_open_shards_go_on_after_a_restart_but_not_after_a_reboot),
        cmocka_unit_test(test_reads_with_hardly_any_cache_are_right),
        cmocka_unit_test(test_shards_are_listed_by_volume),
        cmocka_unit_test(test_scrub_of_sound_shards_finds_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
