/* SPDX-License-Identifier: Apache-2.0
 *
 * What becomes of a write for which there is no space, over disks in memory: E1 and E5 of
 * blockd/volume/reclaim.c; that what was acknowledged has its space already (P1); and that nothing is freed while it is
 * read (C3).
 */
#include "volume_fixture.h"

enum { DISKS = 3 };
#define VOLUME_BYTES (64 * MIB)

static struct volume *volume;
static unsigned row_blocks = 32;
static uint64_t log_bytes_max = 4 * MIB, bypass_bytes_min = 1 << 30; /* no large writes */
static uint64_t others_blocks; /* of each disk, held by volumes of other nodes */

static void setup(void)
{
    make_world(DISKS, 64 * MIB);
    host.row_blocks_max = row_blocks;
    host.log_bytes_max = log_bytes_max;
    host.bypass_bytes_min = bypass_bytes_min;
    make_pool((struct pool){.code = {1, 1}, .shards_min = 2, .log_copies_min = 2});
    volume = make_volume("v", VOLUME_BYTES);
    others_blocks = 0;
}

static void teardown(void)
{
    CHECK(volume_close(volume) == 0);
    end_world();
}

static void others_take(uint64_t blocks)
{
    for (unsigned i = 0; i < DISKS; i++) {
        disks[i]->used_blocks += blocks - others_blocks;
        disks[i]->disk.free_bytes =
            (disks[i]->capacity_blocks - disks[i]->used_blocks) * BLOCK_BYTES;
    }
    others_blocks = blocks;
}

/* Fills the volume until a write is refused, or all is written: how long the last one took. */
static int fill(uint64_t *ret_took_ns)
{
    static unsigned times;
    void *buf = mem_alloc_pages(32 * BLOCK_BYTES);
    memset(buf, (int)++times, 32 * BLOCK_BYTES);
    int r = 0;
    for (uint64_t off = 0; off < VOLUME_BYTES && r == 0; off += 32 * BLOCK_BYTES) {
        uint64_t begin_ns = env_now_ns();
        r = volume_write(volume, off, 32 * BLOCK_BYTES, buf, 0, (struct request_id){0});
        *ret_took_ns = env_now_ns() - begin_ns;
        if (r == 0 && *ret_took_ns > SEC) /* it waited, and got its space */
            break;
    }
    mem_free_pages(buf, 32 * BLOCK_BYTES);
    return r;
}

/* E1: nobody else can free anything, so that the answer comes at once. */
static void a_node_alone_says_at_once_that_it_is_full(void)
{
    uint64_t took_ns;
    others_take(48 * MIB / BLOCK_BYTES);
    assert_int_equal(fill(&took_ns), -ENOSPC);
    assert_true(took_ns < 5 * SEC);
}

/* E5: somebody else's garbage may be on the way out. */
static void where_disks_are_shared_it_is_tried_for_ten_seconds(void)
{
    uint64_t took_ns;
    disks[0]->disk.local = false;
    others_take(48 * MIB / BLOCK_BYTES);
    assert_int_equal(fill(&took_ns), -ENOSPC);
    assert_in_range(took_ns, 10 * SEC, 20 * SEC);
}

/* E5: what waits for its disk to answer (leftover.c) is space, too. */
static void what_waits_for_a_disk_is_waited_for(void)
{
    uint64_t took_ns;
    leftover_note(volume, 1, (struct shard_key){.volume = volume->root.id, .chunk = 1}, 77);
    disks[0]->disk.state = DISK_MISSING;
    others_take(48 * MIB / BLOCK_BYTES);
    assert_int_equal(fill(&took_ns), -ENOSPC);
    assert_in_range(took_ns, 10 * SEC, 20 * SEC);
    disks[0]->disk.state = DISK_IN;
}

static void free_later(void *arg)
{
    env_sleep_ns(5 * SEC);
    others_take(0);
}

static bool wrote;

static void others_free(void *arg)
{
    while (!volume->no_space_since_ns)
        env_sleep_ns(SEC / 10);
    free_later(NULL);
    wrote = true;
}

static void what_others_free_meanwhile_is_space(void)
{
    uint64_t took_ns;
    disks[0]->disk.local = false;
    others_take(48 * MIB / BLOCK_BYTES);
    wrote = false;
    fiber_spawn("others", others_free, NULL);
    assert_int_equal(fill(&took_ns), 0);
    assert_true(wrote);
    assert_in_range(took_ns, 4 * SEC, 10 * SEC);
}

/* E1: what is garbage only once large writes that wait for more of their kind are destaged. A log is not to be had
 * either, and the open one has room. */
static void write_large(unsigned first, unsigned end)
{
    void *buf = mem_alloc_pages(128 * BLOCK_BYTES);
    memset(buf, 1, 128 * BLOCK_BYTES);
    for (uint64_t row = first; row < end; row++)
        assert_int_equal(volume_write(volume, row * 128 * BLOCK_BYTES, 128 * BLOCK_BYTES, buf, 0,
                             (struct request_id){0}),
            0);
    mem_free_pages(buf, 128 * BLOCK_BYTES);
}

static void what_is_not_destaged_yet_is_looked_at(void)
{
    write_large(0, 30);
    assert_int_equal(volume_clean(volume), 0);
    write_large(0, 30); /* 64 rows would be destaged */
    for (unsigned i = 0; i < DISKS; i++) {
        disks[i]->used_blocks = disks[i]->capacity_blocks;
        disks[i]->disk.free_bytes = 0;
    }
    log_roll_if_long(volume, 0); /* the next log is the open one, and has no successor */
    write_large(50, 80);
    for (unsigned i = 0; i < DISKS; i++)
        disks[i]->used_blocks -= 16 * MIB / BLOCK_BYTES; /* for a clean end */
}

/* --- What has its space already ------------------------------------------------------------------- */

static void set_latency(uint64_t latency_ns)
{
    for (unsigned i = 0; i < DISKS; i++)
        disks[i]->latency_ns = latency_ns;
}

enum { WRITERS = 100 };
static struct fiber_group group;
static unsigned written;

static void writer(void *arg)
{
    void *buf = mem_alloc_pages(32 * BLOCK_BYTES);
    memset(buf, 9, 32 * BLOCK_BYTES);
    int r = volume_write(volume, (uintptr_t)arg * 32 * BLOCK_BYTES, 32 * BLOCK_BYTES, buf, 0,
        (struct request_id){0});
    written += r == 0;
    mem_free_pages(buf, 32 * BLOCK_BYTES);
    fiber_group_done(&group, r == -ENOSPC ? 0 : r);
}

static void destage(void *arg)
{
    fiber_group_done(arg, volume_destage(volume));
}

/* P1: rows are slower than the log, then not a byte is left on any disk. */
static void what_is_acknowledged_gets_home_to_full_disks(void)
{
    struct fiber_group destaged;
    others_take(30 * MIB / BLOCK_BYTES);
    set_latency(SEC);
    fiber_group_init(&group);
    fiber_group_add(&group, WRITERS);
    for (uintptr_t i = 0; i < WRITERS; i++)
        fiber_spawn("writer", writer, (void *)i);
    for (unsigned i = 0; i < 60 && memtable_bytes(&volume->memtable) < 10 * MIB; i++)
        env_sleep_ns(SEC);
    assert_true(
        memtable_bytes(&volume->memtable) >= 10 * MIB); /* more than two chunks have room for */
    for (unsigned i = 0; i < DISKS; i++) {
        disks[i]->used_blocks = disks[i]->capacity_blocks;
        disks[i]->disk.free_bytes = 0;
    }
    set_latency(0);
    assert_int_equal(fiber_group_wait(&group), 0);
    fiber_group_init(&destaged);
    fiber_group_add(&destaged, 1);
    fiber_spawn("destage", destage, &destaged);
    env_sleep_ns(60 * SEC);
    assert_int_equal(destaged.pending, 0);
    assert_int_equal(destaged.error, 0);
    assert_true(written > 0);
    for (unsigned i = 0; i < DISKS; i++)
        disks[i]->used_blocks -= 20 * MIB / BLOCK_BYTES; /* for a clean end */
}

/* --- What is being read --------------------------------------------------------------------------- */

static void slow_reader(void *arg)
{
    uint8_t *buf = mem_alloc_pages(32 * BLOCK_BYTES);
    int r = volume_read(volume, 0, 32 * BLOCK_BYTES, buf);
    assert_true(buf[0] == 1 || buf[0] == 2);
    mem_free_pages(buf, 32 * BLOCK_BYTES);
    fiber_group_done(&group, r);
}

static void write_row(int byte)
{
    void *buf = mem_alloc_pages(32 * BLOCK_BYTES);
    memset(buf, byte, 32 * BLOCK_BYTES);
    assert_int_equal(volume_write(volume, 0, 32 * BLOCK_BYTES, buf, 0, (struct request_id){0}), 0);
    assert_int_equal(volume_destage(volume), 0);
    mem_free_pages(buf, 32 * BLOCK_BYTES);
}

/* C3: its row is overwritten meanwhile, and its place has nothing else. */
static void a_place_goes_after_its_last_reader(void)
{
    write_row(1);
    uint32_t pos = 0;
    for (struct place *p; (p = idmap_next(&volume->state.places, &pos));)
        place_retire(volume, p);
    assert_int_equal(volume_clean(volume), 0); /* all is sealed and in the map */
    fiber_group_init(&group);
    fiber_group_add(&group, 1);
    set_latency(10 * SEC);
    fiber_spawn("reader", slow_reader, NULL);
    env_sleep_ns(SEC / 10);
    set_latency(0);
    uint64_t begin_ns = env_now_ns();
    write_row(2);
    uint64_t freed = host.budget->places_freed;
    assert_int_equal(volume_clean(volume), 0);
    assert_true(host.budget->places_freed > freed);
    assert_true(env_now_ns() - begin_ns > 5 * SEC);
    assert_int_equal(group.pending, 0);
    assert_int_equal(fiber_group_wait(&group), 0);
}

TEST(a_node_alone_says_at_once_that_it_is_full)
TEST(where_disks_are_shared_it_is_tried_for_ten_seconds)
TEST(what_waits_for_a_disk_is_waited_for)
TEST(what_others_free_meanwhile_is_space)
TEST(a_place_goes_after_its_last_reader)

static void what_is_acknowledged_gets_home_to_full_disks_(void **state)
{
    row_blocks = 32;
    log_bytes_max = 64 * MIB;
    bypass_bytes_min = 1 << 30;
    run(what_is_acknowledged_gets_home_to_full_disks);
}

static void what_is_not_destaged_yet_is_looked_at_(void **state)
{
    row_blocks = 128;
    bypass_bytes_min = 32 * BLOCK_BYTES;
    run(what_is_not_destaged_yet_is_looked_at);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_node_alone_says_at_once_that_it_is_full_),
        cmocka_unit_test(where_disks_are_shared_it_is_tried_for_ten_seconds_),
        cmocka_unit_test(what_waits_for_a_disk_is_waited_for_),
        cmocka_unit_test(what_others_free_meanwhile_is_space_),
        cmocka_unit_test(a_place_goes_after_its_last_reader_),
        cmocka_unit_test(what_is_not_destaged_yet_is_looked_at_),
        cmocka_unit_test(what_is_acknowledged_gets_home_to_full_disks_),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
