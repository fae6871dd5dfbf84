/* SPDX-License-Identifier: Apache-2.0
 *
 * Q7: shards that came to share a failure domain are moved apart, without ever having fewer, or are left where they are
 * when there is nowhere to go. Disks in memory, one a node, that change their labels.
 */
#include "volume_fixture.h"

enum { NEXT_LOG = 77 }; /* beside the kinds of shards */
enum { DISKS = 8, BLOCKS = 3 * 256 };
#define VOLUME_BYTES (64 * MIB)

static struct volume *volume;
static unsigned nodes; /* with a disk */
static struct shard_code code;
static uint8_t *page;

static void node_of(struct fake_disk *disk, unsigned node)
{
    sprintf(disk->disk.node, "n%u", node + 1);
    sprintf(disk->disk.rack, "r%u", node + 1);
}

static void write_all(uint8_t byte)
{
    void *buf = mem_alloc_pages(MIB);
    memset(buf, byte, MIB);
    for (unsigned i = 0; i < BLOCKS * BLOCK_BYTES / MIB; i++)
        CHECK(volume_write(volume, i * MIB, MIB, buf, 0, (struct request_id){0}) == 0);
    mem_free_pages(buf, MIB);
}

static void setup(void)
{
    make_world(DISKS, 64 * MIB);
    for (unsigned i = 0; i < DISKS; i++) {
        node_of(disks[i], i);
        disks[i]->disk.state = i < nodes ? DISK_IN : DISK_OUT;
        disks[i]->latency_ns = MS;
    }
    host.row_blocks_max = 32;
    make_pool((struct pool){.code = code,
        .shards_min = code.k + 1u,
        .log_copies_min = code.m + 1u,
        .domain = DOMAIN_NODE});
    volume = make_volume("v", VOLUME_BYTES);
    page = mem_alloc_pages(BLOCK_BYTES);
    write_all(7);
    CHECK(volume_destage(volume) == 0);
    env_sleep_ns(10 * SEC);
}

static void teardown(void)
{
    mem_free_pages(page, BLOCK_BYTES);
    CHECK(volume_close(volume) == 0);
    end_world();
}

static struct volume_info info(void)
{
    struct volume_info info;
    volume_get_info(volume, &info);
    return info;
}

static void check_data(uint8_t byte)
{
    for (unsigned i = 0; i < BLOCKS; i++) {
        page[5] = 0;
        assert_int_equal(volume_read(volume, i * BLOCK_BYTES, BLOCK_BYTES, page), 0);
        assert_int_equal(page[5], byte);
    }
}

static struct fake_disk *disk_of(uint32_t number)
{
    return disks[number - 1];
}

static bool apart(const uint32_t *numbers, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        for (unsigned j = 0; j < i; j++)
            if (strcmp(disk_of(numbers[i])->disk.node, disk_of(numbers[j])->disk.node) == 0)
                return false;
    return true;
}

/* Places whose shards are not each in a node of its own, by the labels. */
static unsigned places_crowded(void)
{
    unsigned crowded = 0;
    uint32_t pos = 0, numbers[CODE_SHARDS_MAX];
    for (const struct place *p; (p = idmap_next(&volume->state.places, &pos));) {
        for (unsigned i = 0; i < place_shards(p); i++)
            numbers[i] = p->shards[i].place.disk;
        crowded += !apart(numbers, place_shards(p));
    }
    return crowded;
}

static unsigned copies_crowded(void)
{
    unsigned crowded = 0;
    uint32_t numbers[CODE_SHARDS_MAX];
    list_for_each (it, &volume->state.wals) {
        const struct wal *wal = list_entry(it, struct wal, link);
        if (wal->sealed && wal->last_seq <= volume->state.committed_seq)
            continue; /* it waits to be freed */
        for (unsigned i = 0; i < wal->copies; i++)
            numbers[i] = wal->shards[i].place.disk;
        crowded += !apart(numbers, wal->copies);
    }
    for (unsigned n = 0; n < volume->manifest.chain_count; n++) {
        const struct copies_ref *ref = &volume->manifest.chain[n];
        for (unsigned i = 0; i < ref->count; i++)
            numbers[i] = ref->places[i].disk;
        crowded += !apart(numbers, ref->count);
    }
    return crowded;
}

/* Each shard that is named is there: nothing was deleted before its copy was on record. */
static void check_there(void)
{
    uint32_t pos = 0;
    for (const struct place *p; (p = idmap_next(&volume->state.places, &pos));)
        for (unsigned i = 0; i < place_shards(p); i++) {
            struct shard_key key = {
                .volume = volume->root.id, .chunk = p->chunk, .index = (uint8_t)i};
            CHECK(p->shards[i].state != CHUNK_SHARD_OK ||
                  fake_disk_has(disk_of(p->shards[i].place.disk), key));
        }
}

static uint64_t shards_made(void)
{
    uint64_t made = 0;
    for (unsigned i = 0; i < DISKS; i++)
        made += disks[i]->creates;
    return made;
}

static void six_nodes(void)
{
    nodes = 6;
    code = (struct shard_code){2, 1};
}

static void three_nodes(void)
{
    nodes = 3;
    code = (struct shard_code){2, 1};
}

static void eight_nodes_three_copies(void)
{
    nodes = 8;
    code = (struct shard_code){2, 2};
}

static void wait_apart(void)
{
    for (unsigned i = 0; i < 20000 && strcmp(info().health, "ok") != 0; i++) {
        check_there();
        env_sleep_ns(MS);
    }
    struct volume_info now = info();
    CHECK_MSG(strcmp(now.health, "ok") == 0, "%s: %s", now.health, now.problem);
    assert_int_equal(now.chunks_crowded, 0);
    assert_int_equal(places_crowded(), 0);
    assert_int_equal(copies_crowded(), 0);
}

/* The disk of the chunk's second shard, of that kind, comes to where the first one is. */
static struct fake_disk *carry(unsigned kind)
{
    uint32_t pos = 0, numbers[2] = {0};
    for (const struct place *p; (p = idmap_next(&volume->state.places, &pos));)
        for (unsigned i = 0; i < 2 && p->kind == kind && p->row_count > 0; i++)
            numbers[i] = p->shards[i].place.disk;
    for (unsigned i = 0; i < 2 && kind == SHARD_LOG; i++)
        numbers[i] = volume->wal_open->shards[i].place.disk;
    for (unsigned i = 0; i < 2 && kind == NEXT_LOG; i++)
        numbers[i] = volume->wal_next->shards[i].place.disk;
    for (unsigned i = 0; i < 2 && kind == SHARD_MANIFEST; i++)
        numbers[i] = volume->manifest.ref.places[i].disk;
    CHECK(numbers[0] && numbers[1]);
    struct fake_disk *carried = disk_of(numbers[1]);
    strcpy(carried->disk.node, disk_of(numbers[0])->disk.node);
    strcpy(carried->disk.rack, disk_of(numbers[0])->disk.rack);
    return carried;
}

/* Also of a chunk that is being written to. */
static void what_shares_a_node_is_moved_apart(void)
{
    static const unsigned kinds[] = {SHARD_DATA, SHARD_META, SHARD_LOG, SHARD_MANIFEST, NEXT_LOG};
    CHECK(volume_destage(volume) == 0 && checkpoint_wait(volume) == 0);
    for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
        struct fake_disk *carried = carry(kinds[i]);
        struct volume_info now = info();
        if (kinds[i] == NEXT_LOG) { /* nothing is in it yet */
            volume_disk_changed(volume);
            env_sleep_ns(SEC);
            wait_apart();
            node_of(carried, carried->disk.number - 1);
            continue;
        }
        assert_string_equal(now.health, "degraded");
        assert_int_equal(now.chunks_crowded, places_crowded());
        assert_non_null(strstr(now.problem, "share a node"));
        bool chunks = strstr(now.problem, "repair moves them");
        assert_true(chunks == (now.chunks_crowded > 0) && (i > 1 || chunks));
        volume_disk_changed(volume);
        wait_apart();
        check_data(7);
        node_of(carried, carried->disk.number - 1);
        volume_disk_changed(volume);
        wait_apart();
    }
    /* There is nothing more to be done. */
    uint64_t made = shards_made();
    for (unsigned i = 0; i < 10; i++) {
        volume_disk_changed(volume);
        env_sleep_ns(10 * SEC);
    }
    assert_int_equal(shards_made(), made);
}

static void racks_count_where_they_are_the_domain(void)
{
    volume->pool.domain = DOMAIN_RACK;
    volume_disk_changed(volume);
    env_sleep_ns(10 * SEC);
    carry(SHARD_DATA);
    assert_non_null(strstr(info().problem, "share a rack"));
    volume_disk_changed(volume);
    for (unsigned i = 0; i < 20000 && strcmp(info().health, "ok") != 0; i++) {
        check_there();
        env_sleep_ns(MS);
    }
    assert_string_equal(info().health, "ok");
    check_data(7);
}

/* A chunk for each MiB, all sealed. */
static void make_sealed_chunks(unsigned count)
{
    void *buf = mem_alloc_pages(MIB);
    memset(buf, 7, MIB);
    for (unsigned i = 0; i < count; i++) {
        uint32_t pos = 0;
        CHECK(volume_write(volume, i * MIB, MIB, buf, 0, (struct request_id){0}) == 0);
        CHECK(volume_destage(volume) == 0);
        for (struct place *p; (p = idmap_next(&volume->state.places, &pos));) {
            volume_forget_target(volume, p);
            place_retire(volume, p);
        }
        env_sleep_ns(SEC);
    }
    mem_free_pages(buf, MIB);
}

/* Of the sealed ones: those with a shard on a failed disk; those with two in one node, and whole. */
static void count_sealed(unsigned *ret_bad, unsigned *ret_crowded)
{
    uint32_t pos = 0, numbers[CODE_SHARDS_MAX];
    *ret_bad = *ret_crowded = 0;
    for (const struct place *p; (p = idmap_next(&volume->state.places, &pos));) {
        bool bad = false;
        for (unsigned i = 0; i < place_shards(p); i++) {
            numbers[i] = p->shards[i].place.disk;
            bad = bad || disk_of(numbers[i])->disk.state == DISK_FAILED;
        }
        *ret_bad += p->sealed && p->row_count > 0 && bad;
        *ret_crowded += p->sealed && !bad && !apart(numbers, place_shards(p));
    }
}

static void what_is_lost_is_rebuilt_before(void)
{
    unsigned bad, crowded, most = 0;
    make_sealed_chunks(8);
    node_of(disks[0], 1);
    disks[2]->disk.state = DISK_FAILED; /* it is still read */
    count_sealed(&bad, &crowded);
    assert_true(bad > 1 && crowded > 1);
    volume_disk_changed(volume);
    for (unsigned i = 0; i < 20000 && bad > 0; i++) {
        check_there();
        count_sealed(&bad, &crowded);
        assert_true(bad == 0 || crowded >= most);
        most = MAX(most, crowded); /* one that has been rebuilt may be crowded */
        env_sleep_ns(MS);
    }
    wait_apart();
    check_data(7);
}

/* Also where something else is wrong that repair does not get over: a disk that does not list its shards. */
static void what_is_lost_meanwhile_is_rebuilt_next(void)
{
    unsigned bad, crowded, before = 0, carried = 1;
    make_sealed_chunks(16);
    CHECK(volume_repair_wait(volume) == 0);
    disks[7]->error = -EIO;
    volume->reconciled_count = 0;
    uint64_t repaired = volume_stats(volume)->repaired_shards;
    for (unsigned i = 1; i < nodes; i++) {
        node_of(disks[i], 0);
        count_sealed(&bad, &crowded);
        node_of(disks[i], i);
        carried = crowded > before ? i : carried;
        before = MAX(before, crowded);
    }
    assert_true(before > 4);
    node_of(disks[carried], 0);
    volume_disk_changed(volume);
    while (volume_stats(volume)->repaired_shards == repaired)
        env_sleep_ns(MS / 4);
    disks[carried % 5 + 1]->disk.state = DISK_FAILED; /* it is still read */
    volume_disk_changed(volume);
    count_sealed(&bad, &before);
    assert_true(bad > 1 && before > 2);
    for (unsigned i = 0; i < 20000 && bad > 0; i++) {
        count_sealed(&bad, &crowded);
        assert_true(crowded + 1 >= before); /* one was under way */
        env_sleep_ns(MS);
    }
    disks[7]->error = 0;
    wait_apart();
    check_data(7);
}

/* The one that lacks a shard is still written to: it is sealed and rebuilt before what is only crowded is moved. */
static void what_is_lost_and_open_is_rebuilt_before(void)
{
    unsigned bad, crowded;
    make_sealed_chunks(8);
    CHECK(volume_repair_wait(volume) == 0);
    write_all(7);
    CHECK(volume_destage(volume) == 0);
    struct place *open = NULL;
    uint32_t pos = 0;
    for (struct place *p; !open && (p = idmap_next(&volume->state.places, &pos));)
        open = p->kind == SHARD_DATA && !p->sealed && p->row_count > 0 ? p : NULL;
    CHECK(open);
    uint64_t chunk = open->chunk;
    struct chunk_shard lost = open->shards[0];
    lost.state = CHUNK_SHARD_LOST;
    struct records records = {0};
    record_shard(&records, chunk, 0, &lost);
    CHECK(manifest_commit(volume, &records, NULL, NULL) == 0);
    records_fini(&records);
    uint64_t repaired = volume_stats(volume)->repaired_shards;
    node_of(disks[0], 1);
    count_sealed(&bad, &crowded);
    assert_true(crowded > 1);
    volume_disk_changed(volume);
    for (unsigned i = 0; i < 20000 && state_place(&volume->state, chunk); i++) {
        if (state_place(&volume->state, chunk)->shards[0].state == CHUNK_SHARD_OK)
            break;
        env_sleep_ns(MS);
    }
    assert_true(volume_stats(volume)->repaired_shards <= repaired + 1);
    wait_apart();
    check_data(7);
}

/* It is repaired, and nothing but that has anybody look at it again. */
static void a_chunk_that_lacks_a_shard_and_is_crowded_gets_both(void)
{
    uint32_t pos = 0;
    struct place *found = NULL;
    make_sealed_chunks(8);
    CHECK(volume_repair_wait(volume) == 0);
    for (struct place *p; !found && (p = idmap_next(&volume->state.places, &pos));) {
        struct fake_disk *carried = disk_of(p->shards[1].place.disk);
        if (!p->sealed || p->kind != SHARD_DATA || p->row_count == 0)
            continue;
        strcpy(carried->disk.node, disk_of(p->shards[0].place.disk)->disk.node);
        uint32_t other = 0;
        bool open_ones = copies_crowded() > 0;
        for (struct place *o; (o = idmap_next(&volume->state.places, &other));)
            open_ones = open_ones || (!o->sealed && place_crowded(volume, o));
        if (open_ones)
            node_of(carried, carried->disk.number - 1);
        else
            found = p;
    }
    CHECK(found);
    struct chunk_shard lost = found->shards[2];
    lost.state = CHUNK_SHARD_LOST;
    struct records records = {0};
    record_shard(&records, found->chunk, 2, &lost);
    CHECK(manifest_commit(volume, &records, NULL, NULL) == 0);
    records_fini(&records);
    volume_disk_changed(volume);
    wait_apart();
    check_data(7);
}

/* Two nodes are left for three shards: an hour of it costs nothing, and writes go on. */
static void where_there_is_no_other_node_health_says_it_and_nothing_moves(void)
{
    node_of(disks[2], 1);
    volume_disk_changed(volume);
    env_sleep_ns(30 * SEC);
    uint64_t made = shards_made();
    for (unsigned i = 0; i < 60; i++) {
        env_sleep_ns(30 * SEC);
        volume_disk_changed(volume);
        env_sleep_ns(30 * SEC);
    }
    assert_int_equal(shards_made(), made);
    assert_int_equal(volume->repair_result, 0);
    struct volume_info now = info();
    assert_string_equal(now.health, "degraded");
    assert_true(now.chunks_crowded > 0 && now.chunks_degraded == 0);
    assert_non_null(strstr(now.problem, "there is no other one to move them to"));
    assert_int_equal(copies_crowded(), 0); /* these want two */
    assert_true(now.repair_is_idle);
    disks[3]->disk.state = DISK_IN;
    assert_false(info().repair_is_idle);
    volume_disk_changed(volume);
    wait_apart();
    check_data(7);
}

static void set_room(struct fake_disk *disk, uint64_t blocks)
{
    disk->capacity_blocks = disk->used_blocks + blocks;
    disk->disk.free_bytes = blocks * BLOCK_BYTES;
}

/* The domains are there, and their disks are full. */
static void where_there_is_no_room_health_says_it_and_it_is_tried_again(void)
{
    make_sealed_chunks(8);
    CHECK(volume_repair_wait(volume) == 0);
    for (unsigned i = 0; i < DISKS; i++)
        set_room(disks[i], 0);
    carry(SHARD_DATA);
    volume_disk_changed(volume);
    env_sleep_ns(30 * SEC);
    assert_int_equal(volume->repair_result, -ENOSPC);
    assert_non_null(strstr(info().problem, "have no room for them"));
    check_data(7);
    for (unsigned i = 0; i < DISKS; i++)
        set_room(disks[i], 64 * MIB / BLOCK_BYTES);
    env_sleep_ns(30 * SEC);
    wait_apart();
    check_data(7);
}

static void write_block(uint8_t byte)
{
    memset(page, byte, BLOCK_BYTES);
    uint64_t begin_ns = env_now_ns();
    assert_int_equal(
        volume_write(volume, 0, BLOCK_BYTES, page, VOLUME_FUA, (struct request_id){0}), 0);
    assert_true(env_now_ns() - begin_ns < SEC);
}

/* Two nodes, and three copies of a log and four shards of a chunk wanted: no others could be made. What is sealed goes
 * to both. Whichever disk is the one of the second node. */
static void what_is_written_to_stays_where_nothing_better_can_be_made(void)
{
    make_sealed_chunks(4);
    for (unsigned odd = 0; odd < DISKS; odd++) {
        for (unsigned i = 0; i < DISKS; i++)
            node_of(disks[i], i == odd);
        assert_int_equal(volume_repair_wait(volume), 0);
        assert_non_null(strstr(info().problem, "there is no other one to move them to"));
        write_block(9);
        write_all(9);
        assert_int_equal(volume_destage(volume), 0); /* into what is open */
        for (unsigned i = 0; i < DISKS; i++)
            node_of(disks[i], i);
        volume_disk_changed(volume);
        env_sleep_ns(30 * SEC);
        assert_string_equal(info().health, "ok");
    }
    check_data(9);
}

/* One that is full, with the newest blocks of a volume that nobody writes to any more. */
static void what_a_crowded_log_holds_goes_into_rows(void)
{
    const struct wal *full = volume->wal_open;
    write_block(9);
    uint32_t numbers[2] = {full->shards[0].place.disk, full->shards[1].place.disk};
    strcpy(disk_of(numbers[1])->disk.node, disk_of(numbers[0])->disk.node);
    do {
        node_of(disk_of(numbers[1]), numbers[1] - 1);
        volume->wal_roll = true;
        fiber_queue_wake_all(&volume->committer_wake);
        env_sleep_ns(SEC);
        strcpy(disk_of(numbers[1])->disk.node, disk_of(numbers[0])->disk.node);
    } while (wal_domains(volume, volume->wal_open) < 2);
    assert_true(full->sealed && full->last_seq > volume->state.committed_seq);
    assert_int_equal(wal_domains(volume, full), 1);
    volume_disk_changed(volume);
    wait_apart();
}

/* Nobody is asked to move what is on a disk that is away: its node's label may be news that has not come. */
static void disks_that_are_away_do_not_count(void)
{
    uint64_t repaired = volume_stats(volume)->repaired_shards;
    struct fake_disk *away = carry(SHARD_DATA);
    away->disk.state = DISK_MISSING;
    away->disk.missing_since_ns = env_now_ns();
    away->error = -EHOSTUNREACH;
    volume_disk_changed(volume);
    env_sleep_ns(30 * SEC);
    assert_int_equal(info().chunks_crowded, 0);
    assert_int_equal(volume_stats(volume)->repaired_shards, repaired);
    node_of(away, away->disk.number - 1);
    away->error = 0;
    away->disk.state = DISK_IN;
    away->disk.missing_since_ns = 0;
    volume_disk_changed(volume);
    env_sleep_ns(30 * SEC);
    assert_string_equal(info().health, "ok");
    assert_int_equal(volume_stats(volume)->repaired_shards, repaired);
}

#define TEST_WITH(world, name)        \
    static void name##_(void **state) \
    {                                 \
        world();                      \
        run(name);                    \
    }

TEST_WITH(six_nodes, what_shares_a_node_is_moved_apart)
TEST_WITH(six_nodes, racks_count_where_they_are_the_domain)
TEST_WITH(six_nodes, what_is_lost_is_rebuilt_before)
TEST_WITH(six_nodes, what_is_lost_meanwhile_is_rebuilt_next)
TEST_WITH(six_nodes, what_is_lost_and_open_is_rebuilt_before)
TEST_WITH(six_nodes, disks_that_are_away_do_not_count)
TEST_WITH(three_nodes, where_there_is_no_other_node_health_says_it_and_nothing_moves)
TEST_WITH(six_nodes, where_there_is_no_room_health_says_it_and_it_is_tried_again)
TEST_WITH(eight_nodes_three_copies, what_is_written_to_stays_where_nothing_better_can_be_made)
TEST_WITH(six_nodes, a_chunk_that_lacks_a_shard_and_is_crowded_gets_both)
TEST_WITH(six_nodes, what_a_crowded_log_holds_goes_into_rows)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_shares_a_node_is_moved_apart_),
        cmocka_unit_test(racks_count_where_they_are_the_domain_),
        cmocka_unit_test(what_is_lost_is_rebuilt_before_),
        cmocka_unit_test(what_is_lost_meanwhile_is_rebuilt_next_),
        cmocka_unit_test(what_is_lost_and_open_is_rebuilt_before_),
        cmocka_unit_test(disks_that_are_away_do_not_count_),
        cmocka_unit_test(where_there_is_no_other_node_health_says_it_and_nothing_moves_),
        cmocka_unit_test(where_there_is_no_room_health_says_it_and_it_is_tried_again_),
        cmocka_unit_test(what_is_written_to_stays_where_nothing_better_can_be_made_),
        cmocka_unit_test(a_chunk_that_lacks_a_shard_and_is_crowded_gets_both_),
        cmocka_unit_test(what_a_crowded_log_holds_goes_into_rows_),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
