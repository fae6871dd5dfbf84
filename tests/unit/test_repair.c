/* SPDX-License-Identifier: Apache-2.0
 *
 * What repair waits for and what it does at once, over disks in memory that come and go.
 */
#include "volume_fixture.h"

#define DISKS 4
#define WAIT_NS (600 * SEC)

static struct volume *volume;
static uint32_t unheard_of; /* a disk's number that the map does not know */

static uint64_t looks; /* at disks that are not there */

static bool disk_removed(void *ctx, uint32_t number)
{
    looks++;
    return number != unheard_of;
}

static uint32_t missing_here; /* one that could not be opened at the start */
static uint64_t missing_here_since_ns;

static uint64_t disk_missing_since_ns(void *ctx, uint32_t number)
{
    return number == missing_here ? missing_here_since_ns : 0;
}

static bool disk_expected(void *ctx, uint32_t number)
{
    return number == missing_here;
}

static void setup(void)
{
    make_world(DISKS, 64 * MIB);
    unheard_of = missing_here = 0;
    host.repair_wait_ns = WAIT_NS;
    host.map.disk_removed = disk_removed;
    host.map.disk_missing_since_ns = disk_missing_since_ns;
    host.map.disk_expected = disk_expected;
    make_pool((struct pool){.code = {1, 1}, .shards_min = 1, .log_copies_min = 2});
    volume = make_volume("v", 16 * MIB);
    void *buf = mem_alloc_pages(MIB);
    memset(buf, 7, MIB);
    CHECK(volume_write(volume, 0, MIB, buf, 0, (struct request_id){0}) == 0);
    CHECK(volume_destage(volume) == 0);
    mem_free_pages(buf, MIB);
}

static void teardown(void)
{
    CHECK(volume_close(volume) == 0);
    end_world();
}

static struct volume_info info(void)
{
    struct volume_info info;
    volume_get_info(volume, &info);
    return info;
}

static void check_ok(void)
{
    struct volume_info now = info();
    CHECK_MSG(strcmp(now.health, "ok") == 0, "%s: %s", now.health, now.problem);
}

/* The first disk with data. */
static struct fake_disk *used_disk(void)
{
    for (unsigned i = 0; i < DISKS; i++)
        if (fake_disk_shard_count(disks[i]) > 0)
            return disks[i];
    CHECK(false);
}

static void go_away(struct fake_disk *disk)
{
    disk->error = -EHOSTUNREACH;
    disk->disk.state = DISK_MISSING;
    disk->disk.missing_since_ns = env_now_ns();
    volume_disk_changed(volume);
}

static void come_back(struct fake_disk *disk)
{
    disk->error = 0;
    disk->disk.state = DISK_IN;
    disk->disk.missing_since_ns = 0;
    volume_disk_changed(volume);
}

static void a_disk_that_comes_back_in_time_costs_no_rebuild(void)
{
    struct fake_disk *disk = used_disk();
    go_away(disk);
    env_sleep_ns(WAIT_NS / 2);
    volume_disk_changed(volume);
    env_sleep_ns(10 * SEC);
    assert_int_equal(volume_stats(volume)->repaired_shards, 0);
    assert_string_equal(info().health, "degraded");
    come_back(disk);
    env_sleep_ns(10 * SEC);
    assert_int_equal(volume_stats(volume)->repaired_shards, 0);
    check_ok();
}

static void a_disk_that_stays_away_is_rebuilt_after_the_wait(void)
{
    struct fake_disk *disk = used_disk();
    go_away(disk);
    env_sleep_ns(WAIT_NS + SEC);
    assert_int_equal(volume_stats(volume)->repaired_shards, 0); /* the node tells when it is time */
    volume_disk_changed(volume);
    env_sleep_ns(10 * SEC);
    assert_true(volume_stats(volume)->repaired_shards > 0);
    check_ok();
    come_back(disk);
}

static void a_failed_disk_is_rebuilt_at_once(void)
{
    struct fake_disk *disk = used_disk();
    disk->error = -EIO;
    disk->disk.state = DISK_FAILED;
    volume_disk_changed(volume);
    env_sleep_ns(10 * SEC);
    assert_true(volume_stats(volume)->repaired_shards > 0);
    check_ok();
}

static void a_removed_disk_is_rebuilt_at_once_one_that_is_news_is_not(void)
{
    struct fake_disk *disk = used_disk();
    unheard_of = disk->disk.number;
    disk_list_remove(&present, &disk->disk);
    volume_disk_changed(volume);
    env_sleep_ns(10 * SEC);
    assert_int_equal(volume_stats(volume)->repaired_shards, 0);
    unheard_of = 0;
    volume_disk_changed(volume);
    env_sleep_ns(10 * SEC);
    assert_true(volume_stats(volume)->repaired_shards > 0);
    check_ok();
}

/* Q5: it is not in the list, but on record here. */
static void a_disk_that_is_missing_at_the_start_is_waited_for_too(void)
{
    struct fake_disk *disk = used_disk();
    missing_here = disk->disk.number;
    missing_here_since_ns = env_now_ns();
    disk_list_remove(&present, &disk->disk);
    volume_disk_changed(volume);
    env_sleep_ns(WAIT_NS / 2);
    volume_disk_changed(volume);
    env_sleep_ns(10 * SEC);
    assert_int_equal(volume_stats(volume)->repaired_shards, 0);
    env_sleep_ns(WAIT_NS / 2);
    volume_disk_changed(volume);
    env_sleep_ns(10 * SEC);
    assert_true(volume_stats(volume)->repaired_shards > 0);
    check_ok();
}

static struct fake_disk *disk_of(uint32_t number)
{
    return disks[number - 1];
}

/* Q3: "ok" would be said of two shards in one domain once it is back. */
static void the_domain_of_a_disk_that_is_missing_here_stays_its(void)
{
    uint32_t pos = 0;
    const struct place *p;
    while ((p = idmap_next(&volume->state.places, &pos)) &&
           (p->kind != SHARD_DATA || p->row_count == 0))
        ;
    CHECK(p);
    uint64_t chunk = p->chunk;
    struct fake_disk *missing = disk_of(p->shards[0].place.disk), *other = NULL, *away = NULL;
    struct fake_disk *failing = disk_of(p->shards[1].place.disk);
    for (unsigned i = 0; i < DISKS; i++) {
        if (disks[i] != missing && disks[i] != failing) {
            away = other;
            other = disks[i];
        }
    }
    volume->pool.domain = DOMAIN_NODE;
    volume->pool.log_copies_min = 1; /* or nothing could be recorded */
    missing->disk.local = other->disk.local = true;
    failing->disk.local = away->disk.local = false;
    strcpy(missing->disk.node, "n1");
    strcpy(other->disk.node, "n1");
    strcpy(failing->disk.node, "n2");
    strcpy(away->disk.node, "n3");
    go_away(away);
    missing_here = missing->disk.number;
    missing_here_since_ns = env_now_ns();
    disk_list_remove(&present, &missing->disk);
    failing->disk.state = DISK_FAILED; /* it is still read */
    volume_disk_changed(volume);
    env_sleep_ns(20 * SEC);
    p = state_place(&volume->state, chunk);
    assert_int_equal(
        p->shards[1].place.disk, failing->disk.number); /* not this node's other disk */
    come_back(away);
    env_sleep_ns(60 * SEC);
    p = state_place(&volume->state, chunk);
    assert_int_equal(p->shards[1].place.disk, away->disk.number);
    disk_list_add(&present, &missing->disk);
    missing_here = 0;
    volume_disk_changed(volume);
    env_sleep_ns(20 * SEC);
}

/* More than a log holds, then time for what is done in the background. */
static void load(void)
{
    void *page = mem_alloc_pages(BLOCK_BYTES);
    memset(page, 3, BLOCK_BYTES);
    for (unsigned i = 0; i < 3000; i++)
        CHECK(volume_write(volume, (i % 256) * BLOCK_BYTES, BLOCK_BYTES, page, 0,
                  (struct request_id){0}) == 0);
    mem_free_pages(page, BLOCK_BYTES);
    CHECK(volume_destage(volume) == 0);
    env_sleep_ns(30 * SEC);
}

static int unnamed_shards(void)
{
    int count = 0;
    uint32_t pos = 0;
    for (unsigned i = 0; i < DISKS; i++)
        count += (int)fake_disk_shard_count(disks[i]);
    for (struct place *p; (p = idmap_next(&volume->state.places, &pos));)
        count -= place_shards(p);
    list_for_each (it, &volume->state.wals)
        count -= list_entry(it, struct wal, link)->copies;
    for (unsigned i = 0; i < volume->manifest.chain_count; i++)
        count -= volume->manifest.chain[i].count;
    return count;
}

/* S9: creates were done, their answers were lost. */
static void a_create_without_an_answer_leaves_nothing_behind(void)
{
    for (unsigned i = 0; i < DISKS; i++)
        disks[i]->lose_create_answers = 3;
    load();
    assert_int_equal(unnamed_shards(), 0);
}

/* A place is looked at when the round begins and when its turn comes, not once for each of the others. */
static void many_places_to_repair_cost_a_look_each(void)
{
    enum { PLACES = 1500 };
    struct records records = {0};
    for (unsigned i = 0; i < PLACES; i++) {
        struct chunk_place place = {.volume = volume->root.id,
            .chunk = volume_new_chunk_id(volume),
            .kind = SHARD_DATA,
            .code = {1, 1},
            .capacity_blocks = 64,
            .epoch = volume->root.epoch,
            .shards = {{.place = {77, 1}}, {.place = {78, 1}}}};
        record_new_place(&records, &place);
        record_sealed(&records, place.chunk);
    }
    CHECK(manifest_commit(volume, &records, NULL, NULL) == 0);
    records_fini(&records);
    uint64_t before = looks;
    assert_int_equal(volume_repair_wait(volume), 0);
    assert_in_range(looks - before, 2 * PLACES, 20 * PLACES);
}

/* L1: logs, manifests and chunks that were freed while a disk was away go when it is back, not with the next open. */
static void what_was_freed_while_a_disk_was_away_goes_when_it_is_back(void)
{
    for (unsigned i = 0; i < DISKS; i++) {
        go_away(disks[i]);
        load();
        come_back(disks[i]);
        env_sleep_ns(30 * SEC);
        assert_int_equal(unnamed_shards(), 0);
    }
}

/* L1: rebuilding does not wait for thousands of removals, and they do not wait for each other. */
static void many_leftovers_do_not_hold_up_what_is_rebuilt(void)
{
    enum { LEFTOVERS = 20000 };
    CHECK(volume_repair_wait(volume) == 0);
    env_sleep_ns(70 * SEC); /* a second look is over */
    for (unsigned i = 0; i < DISKS; i++)
        disks[i]->latency_ns = 10 * MS;
    for (unsigned i = 0; i < LEFTOVERS; i++)
        leftover_note(volume, 1 + i % DISKS,
            (struct shard_key){.volume = volume->root.id, .chunk = UINT64_MAX - i}, 77);
    struct fake_disk *disk = used_disk();
    uint64_t repaired = volume_stats(volume)->repaired_shards;
    disk->disk.state = DISK_FAILED;
    volume_disk_changed(volume);
    for (unsigned i = 0; i < 20 && volume_stats(volume)->repaired_shards == repaired; i++)
        env_sleep_ns(SEC / 10);
    assert_true(volume_stats(volume)->repaired_shards > repaired);
    assert_true(volume->leftover_count > LEFTOVERS / 2);
    env_sleep_ns(20 * SEC);
    /* Those of the failed one. */
    assert_in_range(volume->leftover_count, LEFTOVERS / DISKS, LEFTOVERS / DISKS + 10);
    disk->disk.state = DISK_IN;
    env_sleep_ns(30 * SEC);
    assert_int_equal(volume->leftover_count, 0);
}

/* L1, S9: a removal of what was there before does not take what has come to the same place since. */
static void a_late_removal_takes_only_the_instance_that_it_names(void)
{
    uint32_t pos = 0;
    const struct place *p;
    while ((p = idmap_next(&volume->state.places, &pos)) && p->row_count == 0)
        ;
    CHECK(p);
    struct shard_key key = {.volume = volume->root.id, .chunk = p->chunk, .index = 1};
    struct shard_place now = p->shards[1].place;
    leftover_note(volume, now.disk, key, now.instance + 2);
    env_sleep_ns(10 * SEC);
    assert_int_equal(volume->leftover_count, 0);
    assert_true(fake_disk_has(disks[now.disk - 1], key));
}

/* What setup() wrote is there. */
static void check_data(void)
{
    uint8_t *page = mem_alloc_pages(BLOCK_BYTES);
    for (unsigned i = 0; i < MIB / BLOCK_BYTES; i++) {
        page[5] = 0;
        assert_int_equal(volume_read(volume, i * BLOCK_BYTES, BLOCK_BYTES, page), 0);
        assert_int_equal(page[5], 7);
    }
    mem_free_pages(page, BLOCK_BYTES);
}

static struct fiber_group reading;

static void read_first(void *arg)
{
    void *page = mem_alloc_pages(BLOCK_BYTES);
    int r = volume_read(volume, 0, BLOCK_BYTES, page);
    mem_free_pages(page, BLOCK_BYTES);
    fiber_group_done(&reading, r);
}

/* R4: it is on its way to a disk when both copies have gone elsewhere. */
static void a_read_finds_what_was_moved_under_it(void)
{
    struct map_run run;
    CHECK(volume_repair_wait(volume) == 0 && lookup_committed(volume, 0, 1, &run) == 0);
    struct place *p = state_chunk(&volume->state, map_entry_chunk(run.entry))->place;
    uint64_t chunk = p->chunk;
    struct fake_disk *on[2];
    volume_forget_target(volume, p);
    place_retire(volume, p);
    env_sleep_ns(SEC);
    CHECK(p->sealed);
    for (unsigned i = 0; i < 2; i++) {
        on[i] = disk_of(p->shards[i].place.disk);
        on[i]->disk.state = DISK_OUT; /* it is read */
        on[i]->latency_ns = 10 * SEC;
    }
    fiber_group_init(&reading);
    fiber_group_add(&reading, 1);
    fiber_spawn("reader", read_first, NULL);
    env_sleep_ns(SEC / 10);
    struct records records = {0};
    for (unsigned i = 0; i < 2; i++) {
        on[0]->latency_ns = on[1]->latency_ns = 0;
        struct chunk_shard lost = state_place(&volume->state, chunk)->shards[i];
        lost.state = CHUNK_SHARD_LOST;
        records_clear(&records);
        record_shard(&records, chunk, i, &lost);
        CHECK(manifest_commit(volume, &records, NULL, NULL) == 0);
        CHECK(volume_repair_wait(volume) == 0);
        struct shard_key key = {.volume = volume->root.id, .chunk = chunk, .index = (uint8_t)i};
        CHECK(!fake_disk_has(on[i], key));
    }
    records_fini(&records);
    assert_int_equal(reading.pending, 1);
    assert_int_equal(fiber_group_wait(&reading), 0);
    check_data();
    for (unsigned i = 0; i < 2; i++)
        on[i]->disk.state = DISK_IN;
}

/* All shards of the data are recorded LOST, and are there. */
static void what_is_on_lost_shards_alone_is_rebuilt_from_them(void)
{
    struct records records = {0};
    uint32_t pos = 0;
    CHECK(volume_repair_wait(volume) == 0);
    for (struct place *p; (p = idmap_next(&volume->state.places, &pos));) {
        for (unsigned i = 0; i < place_shards(p); i++) {
            struct chunk_shard lost = p->shards[i];
            lost.state = CHUNK_SHARD_LOST;
            record_shard(&records, p->chunk, i, &lost);
        }
        if (!p->sealed)
            record_sealed(&records, p->chunk);
    }
    CHECK(manifest_commit(volume, &records, NULL, NULL) == 0);
    records_fini(&records);
    volume_disk_changed(volume);
    env_sleep_ns(60 * SEC);
    check_data();
    check_ok();
}

/* R40's guard, Q3: one shard of the data is all that is left, also recorded LOST, and nothing else has room for either
 * of the two. What is there is not taken for what may be removed from where the shard is to be built. */
static void what_is_left_of_lost_shards_is_not_taken_for_room(void)
{
    for (unsigned left = 0; left < 2; left++) {
        struct place *data = NULL;
        uint32_t pos = 0;
        CHECK(volume_repair_wait(volume) == 0);
        for (struct place *p; (p = idmap_next(&volume->state.places, &pos));)
            data = p->kind == SHARD_DATA && p->row_count > 0 ? p : data;
        CHECK(data);
        for (unsigned i = 0; i < DISKS; i++) {
            bool has = data->shards[0].place.disk == i + 1 || data->shards[1].place.disk == i + 1;
            disks[i]->disk.state = has ? DISK_IN : DISK_OUT;
        }
        struct records records = {0};
        for (unsigned i = 0; i < 2; i++) {
            struct chunk_shard lost = data->shards[i];
            lost.state = CHUNK_SHARD_LOST;
            record_shard(&records, data->chunk, i, &lost);
        }
        if (!data->sealed)
            record_sealed(&records, data->chunk);
        struct shard_key gone = {
            .volume = volume->root.id, .chunk = data->chunk, .index = (uint8_t)!left};
        fake_disk_lose_shard(disks[data->shards[!left].place.disk - 1], gone);
        CHECK(manifest_commit(volume, &records, NULL, NULL) == 0);
        records_fini(&records);
        volume_disk_changed(volume);
        env_sleep_ns(60 * SEC);
        check_ok();
        check_data();
        for (unsigned i = 0; i < DISKS; i++)
            disks[i]->disk.state = DISK_IN;
    }
}

/* The same of what was rebuilt elsewhere. */
static void what_was_rebuilt_goes_from_the_disk_that_is_back(void)
{
    struct fake_disk *disk = used_disk();
    load();
    go_away(disk);
    env_sleep_ns(WAIT_NS + 10 * SEC);
    volume_disk_changed(volume);
    load();
    assert_true(volume_stats(volume)->repaired_shards > 0);
    come_back(disk);
    env_sleep_ns(30 * SEC);
    assert_int_equal(unnamed_shards(), 0);
    check_ok();
}

static void swap_numbers(struct disk *one, struct disk *other)
{
    uint32_t number = one->number, another = other->number;
    disk_list_set_number(&present, one, 0);
    disk_list_set_number(&present, other, number);
    disk_list_set_number(&present, one, another);
}

/* Q4: disks that were added anew after a restore of the store, in another order (R49). */
static void what_is_on_a_disk_with_another_number_is_not_removed(void)
{
    uint64_t id = volume->root.id;
    CLEANUP_FREE char *error = NULL;
    CHECK(volume_close(volume) == 0);
    CHECK_MSG(volume_open(&host, id, &volume, &error) == 0, "%s", error);
    struct shard_key key = {.volume = id};
    struct disk *on[2] = {NULL};
    uint32_t pos = 0;
    for (const struct place *p; (p = idmap_next(&volume->state.places, &pos));)
        if (p->kind == SHARD_DATA && p->row_count > 0 && p->epoch < volume->root.epoch) {
            key.chunk = p->chunk;
            for (unsigned i = 0; i < 2; i++)
                on[i] = &disks[p->shards[i].place.disk - 1]->disk;
        }
    CHECK(on[0] && on[1]);
    swap_numbers(on[0], on[1]);
    volume_disk_changed(volume);
    env_sleep_ns(200 * SEC);
    for (unsigned i = 0; i < 2; i++) {
        struct shard_info found;
        key.index = (uint8_t)i;
        CHECK_MSG(shard_stat(on[i], key, &found) == 0, "shard %u", i);
    }
    swap_numbers(on[0], on[1]);
}

static bool written;

static void write_and_destage(void *arg)
{
    void *page = mem_alloc_pages(BLOCK_BYTES);
    memset(page, 4, BLOCK_BYTES);
    CHECK(volume_write(volume, 3 * MIB, BLOCK_BYTES, page, 0, (struct request_id){0}) == 0);
    mem_free_pages(page, BLOCK_BYTES);
    CHECK(volume_destage(volume) == 0);
    written = true;
}

/* S18: the manifest has a copy on a disk that was away for too long, and still takes it. */
static void a_manifest_that_could_be_better_does_not_wait_for_a_store_that_is_away(void)
{
    written = false;
    store_mem_set_fault(mem, -EHOSTUNREACH, 0);
    for (unsigned i = 0; i < 2; i++) {
        struct disk *disk = &disks[volume->manifest.ref.places[i].disk - 1]->disk;
        disk->state = DISK_MISSING;
        disk->missing_since_ns = 1;
    }
    env_sleep_ns(WAIT_NS);
    volume_disk_changed(volume);
    env_sleep_ns(10 * SEC);
    fiber_spawn("write", write_and_destage, NULL);
    env_sleep_ns(20 * SEC);
    assert_true(written);
    store_mem_set_fault(mem, 0, 0);
    env_sleep_ns(10 * SEC);
    for (unsigned i = 0; i < volume->manifest.ref.count; i++)
        assert_int_equal(disks[volume->manifest.ref.places[i].disk - 1]->disk.state, DISK_IN);
}

/* Without a write that would find out. */
static void a_log_leaves_a_missing_disk_at_once(void)
{
    uint8_t *page = mem_alloc_pages(BLOCK_BYTES);
    memset(page, 9, BLOCK_BYTES);
    CHECK(volume_write(volume, 2 * MIB, BLOCK_BYTES, page, 0, (struct request_id){0}) == 0);
    unsigned rolled = 0;
    for (unsigned i = 0; i < DISKS; i++) {
        uint64_t before = info().log_bytes;
        CHECK(before > 0);
        go_away(disks[i]);
        env_sleep_ns(10 * SEC);
        rolled += strstr(info().problem, "log lacks") == NULL;
        come_back(disks[i]);
        env_sleep_ns(10 * SEC);
        CHECK(volume_write(volume, 2 * MIB, BLOCK_BYTES, page, 0, (struct request_id){0}) == 0);
    }
    assert_int_equal(rolled, DISKS);
    memset(page, 0, BLOCK_BYTES);
    assert_int_equal(volume_read(volume, 2 * MIB, BLOCK_BYTES, page), 0);
    assert_int_equal(page[5], 9);
    assert_int_equal(volume_stats(volume)->repaired_shards, 0);
    mem_free_pages(page, BLOCK_BYTES);
}

TEST(a_disk_that_comes_back_in_time_costs_no_rebuild)
TEST(a_disk_that_stays_away_is_rebuilt_after_the_wait)
TEST(a_failed_disk_is_rebuilt_at_once)
TEST(a_removed_disk_is_rebuilt_at_once_one_that_is_news_is_not)
TEST(a_disk_that_is_missing_at_the_start_is_waited_for_too)
TEST(the_domain_of_a_disk_that_is_missing_here_stays_its)
TEST(a_create_without_an_answer_leaves_nothing_behind)
TEST(many_leftovers_do_not_hold_up_what_is_rebuilt)
TEST(a_late_removal_takes_only_the_instance_that_it_names)
TEST(what_was_freed_while_a_disk_was_away_goes_when_it_is_back)
TEST(what_is_on_lost_shards_alone_is_rebuilt_from_them)
TEST(what_is_left_of_lost_shards_is_not_taken_for_room)
TEST(a_read_finds_what_was_moved_under_it)
TEST(what_was_rebuilt_goes_from_the_disk_that_is_back)
TEST(what_is_on_a_disk_with_another_number_is_not_removed)
TEST(a_log_leaves_a_missing_disk_at_once)
TEST(a_manifest_that_could_be_better_does_not_wait_for_a_store_that_is_away)
TEST(many_places_to_repair_cost_a_look_each)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_disk_that_comes_back_in_time_costs_no_rebuild_),
        cmocka_unit_test(a_disk_that_stays_away_is_rebuilt_after_the_wait_),
        cmocka_unit_test(a_failed_disk_is_rebuilt_at_once_),
        cmocka_unit_test(a_removed_disk_is_rebuilt_at_once_one_that_is_news_is_not_),
        cmocka_unit_test(a_disk_that_is_missing_at_the_start_is_waited_for_too_),
        cmocka_unit_test(the_domain_of_a_disk_that_is_missing_here_stays_its_),
        cmocka_unit_test(a_create_without_an_answer_leaves_nothing_behind_),
        cmocka_unit_test(many_leftovers_do_not_hold_up_what_is_rebuilt_),
        cmocka_unit_test(a_late_removal_takes_only_the_instance_that_it_names_),
        cmocka_unit_test(what_was_freed_while_a_disk_was_away_goes_when_it_is_back_),
        cmocka_unit_test(what_is_on_lost_shards_alone_is_rebuilt_from_them_),
        cmocka_unit_test(what_is_left_of_lost_shards_is_not_taken_for_room_),
        cmocka_unit_test(a_read_finds_what_was_moved_under_it_),
        cmocka_unit_test(what_was_rebuilt_goes_from_the_disk_that_is_back_),
        cmocka_unit_test(what_is_on_a_disk_with_another_number_is_not_removed_),
        cmocka_unit_test(a_log_leaves_a_missing_disk_at_once_),
        cmocka_unit_test(a_manifest_that_could_be_better_does_not_wait_for_a_store_that_is_away_),
        cmocka_unit_test(many_places_to_repair_cost_a_look_each_),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
