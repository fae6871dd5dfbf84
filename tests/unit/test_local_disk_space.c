/* SPDX-License-Identifier: Apache-2.0
 *
 * Space of the shard store (D5, D7): who may still have some, what is given back, and when it is used again.
 */
#include "disk_fixture.h"

#define MIB (1ull << 20)

static const struct shard_key A = {.volume = 7, .chunk = (1ull << 32) | 1, .index = 2};
static const struct shard_key L = {.volume = 7, .chunk = (1ull << 32) | 2, .index = 1};

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_priority_stops_at_its_share_of_space),
        cmocka_unit_test(test_table_entries_are_space_too),
        cmocka_unit_test(test_create_gives_less_when_it_must_and_seal_gives_back),
        cmocka_unit_test(test_space_is_used_again_only_after_the_last_reader),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
