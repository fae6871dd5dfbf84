/* SPDX-License-Identifier: Apache-2.0
 *
 * What a takeover waits for and for how long (O5, S14, S6): one node dies, another one opens the volume over
 * disks in memory, one of which has lost its power and one of which is away.
 */
#include "away_fixture.h"

static void set_up(struct shard_code code)
{
    set_up_disks(code, 1, DISKS);
}

/* A write that was flushed, and one that was acknowledged: it is whole on the copy that is away alone. */
static unsigned lose_a_log(void)
{
    unsigned logs[DISKS];
    write_old(1, 1);
    CHECK(volume_flush(old) == 0);
    write_old(1, 2);
    CHECK(disks_with(SHARD_LOG, logs) == 2);
    fake_disk_lose_power(disks[logs[0]]);
    go_away(logs[1]);
    return logs[1];
}

static void a_log_on_suspect_copies_alone_waits_for_the_one_that_is_away(void)
{
    set_up((struct shard_code){1, 1});
    unsigned away = lose_a_log();
    CHECK(inherit() == -EHOSTUNREACH);
    env_sleep_ns(WAIT_NS / 2);
    CHECK(inherit() == -EHOSTUNREACH);
    come_back(away);
    CHECK(inherit() == 0);
    assert_int_equal(first_byte(), 2);
    assert_int_equal(info().loss_epoch, 0);
    tear_down();
}

static void the_wait_ends_with_the_repair_wait(void)
{
    set_up((struct shard_code){1, 1});
    (void)lose_a_log();
    CHECK(inherit() == -EHOSTUNREACH);
    env_sleep_ns(WAIT_NS);
    CHECK(inherit() == 0);
    assert_int_equal(
        first_byte(), 1); /* what was flushed is there, and that it may not be all is on record */
    assert_int_equal(info().loss_epoch, info().epoch);
    struct volume_root root;
    CHECK(volume_root_load(store, id, &root) == 0);
    assert_int_equal(root.loss_epoch, info().epoch);
    assert_int_equal(root.loss_time_s, env_realtime_ns() / SEC);
    tear_down();
}

static void the_wait_ends_when_the_disk_is_forgotten(void)
{
    set_up((struct shard_code){1, 1});
    unsigned away = lose_a_log();
    CHECK(inherit() == -EHOSTUNREACH);
    forgotten = disks[away]->disk.number;
    disk_list_remove(&present, &disks[away]->disk);
    CHECK(inherit() == 0);
    assert_int_equal(first_byte(), 1);
    assert_int_equal(info().loss_epoch, info().epoch);
    tear_down();
}

static void a_disk_that_hangs_is_not_waited_for_for_ever(void)
{
    set_up((struct shard_code){1, 1});
    unsigned away = lose_a_log();
    disks[away]->disk.state = DISK_IN; /* its node is up, and says nothing of it */
    uint64_t start_ns = env_now_ns();
    while (inherit() < 0)
        env_sleep_ns(5 * SEC);
    assert_in_range(env_now_ns() - start_ns, WAIT_NS, WAIT_NS + 10 * SEC);
    assert_int_equal(first_byte(), 1);
    come_back(away);
    tear_down();
}

static void a_disk_that_is_not_there_at_start_is_waited_for(void)
{
    set_up((struct shard_code){1, 1});
    unsigned away = lose_a_log();
    disk_list_remove(&present, &disks[away]->disk); /* on record */
    CHECK(inherit() == -EHOSTUNREACH);
    env_sleep_ns(WAIT_NS);
    CHECK(inherit() == 0);
    assert_int_equal(first_byte(), 1);
    tear_down();
}

/* A row that was acknowledged: on one shard whose disk is up, on one whose disk is away, and gone with the power
 * from the third. */
static unsigned lose_a_row(void)
{
    unsigned logs[DISKS], rows[DISKS];
    write_old(LARGE_BLOCKS, 3);
    CHECK(disks_with(SHARD_LOG, logs) == 2);
    CHECK(disks_with(SHARD_DATA, rows) == 3);
    unsigned dark = rows[0] == logs[0] || rows[0] == logs[1] ? 1 : 0; /* a log is left */
    unsigned away = rows[dark + 1] == logs[0] || rows[dark + 1] == logs[1] ? dark + 1 : 2;
    fake_disk_lose_power(disks[rows[dark]]);
    go_away(rows[away]);
    return rows[away];
}

static void a_row_that_suspect_shards_lack_waits_for_the_shard_that_is_away(void)
{
    set_up((struct shard_code){2, 1});
    unsigned away = lose_a_row();
    CHECK(inherit() == -EHOSTUNREACH);
    come_back(away);
    CHECK(inherit() == 0);
    assert_int_equal(first_byte(), 3);
    assert_int_equal(info().loss_epoch, 0);
    tear_down();
}

static void a_row_is_given_up_after_the_repair_wait(void)
{
    set_up((struct shard_code){2, 1});
    (void)lose_a_row();
    CHECK(inherit() == -EHOSTUNREACH);
    env_sleep_ns(WAIT_NS);
    CHECK(inherit() == 0);
    assert_int_equal(first_byte(), 0); /* never flushed */
    assert_int_equal(info().loss_epoch, info().epoch);
    tear_down();
}

/* Opens while the disk does not answer from its operation `at` on, for some; false: it was done before. */
static bool inherit_over_outage(unsigned i, uint64_t at, uint64_t count)
{
    int r = -1;
    disks[i]->fail_op_at = disks[i]->ops + at;
    disks[i]->fail_ops_more = count - 1;
    disks[i]->fail_op_error = -EHOSTUNREACH;
    session_put(0xa, false);
    for (unsigned tries = 0; r < 0; tries++) {
        CLEANUP_FREE char *error = NULL;
        r = volume_open(&heir.host, id, &volume, &error);
        CHECK_MSG(
            r == 0 || (r == -EHOSTUNREACH && tries < 20), "open: %s, %s", strerror(-r), error);
    }
    bool hit = disks[i]->ops >= disks[i]->fail_op_at;
    disks[i]->fail_op_at = 0;
    return hit;
}

/* S14: of a log that was flushed only suspect copies are left, and the disk goes away while it is read. */
static void a_disk_that_goes_away_during_replay_cuts_no_log(void)
{
    bool hit = true;
    for (uint64_t at = 1; hit; at++) {
        unsigned logs[DISKS];
        set_up((struct shard_code){1, 1});
        write_old(1, 1);
        write_old(1, 2);
        CHECK(volume_flush(old) == 0);
        CHECK(disks_with(SHARD_LOG, logs) == 2);
        fake_disk_lose_power(disks[logs[0]]);
        forget(logs[1]);
        hit = inherit_over_outage(logs[0], at, 4);
        assert_int_equal(first_byte(), 2);
        tear_down();
    }
}

/* The same of a row: all of it is there, on suspect shards, just enough of them. */
static void a_disk_that_goes_away_during_replay_cuts_no_row(void)
{
    bool hit = true;
    for (uint64_t at = 1; hit; at++) {
        unsigned rows[DISKS];
        set_up((struct shard_code){2, 1});
        write_old(LARGE_BLOCKS, 3);
        CHECK(volume_flush(old) == 0);
        CHECK(disks_with(SHARD_DATA, rows) == 3);
        fake_disk_lose_power(disks[rows[0]]);
        fake_disk_lose_power(disks[rows[1]]);
        forget(rows[2]);
        hit = inherit_over_outage(rows[0], at, 4);
        assert_int_equal(first_byte(), 3);
        tear_down();
    }
}

/* Q6, S23: the disk was away at the takeover, and comes back without the row's end. Nobody asks it while the
 * others answer. */
static void a_shard_that_comes_back_short_is_rebuilt(void)
{
    unsigned rows[DISKS];
    set_up((struct shard_code){2, 1});
    write_old(LARGE_BLOCKS, 3);
    CHECK(disks_with(SHARD_DATA, rows) == 3);
    fake_disk_lose_power(disks[rows[2]]);
    go_away(rows[2]);
    CHECK(inherit() == 0);
    assert_int_equal(first_byte(), 3);
    CHECK(volume_flush(volume) == 0);
    env_sleep_ns(10 * SEC);
    assert_int_equal(volume_stats(volume)->repaired_shards, 0);
    come_back(rows[2]);
    volume_disk_changed(volume);
    env_sleep_ns(10 * SEC);
    assert_int_equal(volume_stats(volume)->repaired_shards, 1);
    assert_string_equal(info().health, "ok");
    go_away(rows[0]);
    for (unsigned b = 0; b < LARGE_BLOCKS; b++) {
        CHECK(volume_read(volume, b * BLOCK_BYTES, BLOCK_BYTES, page) == 0);
        CHECK(page[0] == 3 && page[BLOCK_BYTES - 1] == 3);
    }
    come_back(rows[0]);
    tear_down();
}

/* One that has all of it costs no rebuild, only the seal that it missed. */
static void a_shard_that_comes_back_whole_is_not(void)
{
    unsigned rows[DISKS];
    set_up((struct shard_code){2, 1});
    write_old(LARGE_BLOCKS, 3);
    CHECK(disks_with(SHARD_DATA, rows) == 3);
    go_away(rows[2]);
    CHECK(inherit() == 0);
    uint64_t seals = disks[rows[2]]->seals;
    come_back(rows[2]);
    volume_disk_changed(volume);
    env_sleep_ns(10 * SEC);
    assert_int_equal(volume_stats(volume)->repaired_shards, 0);
    assert_true(disks[rows[2]]->seals > seals);
    assert_string_equal(info().health, "ok");
    uint64_t ops = disks[rows[2]]->ops;
    volume_disk_changed(volume); /* once */
    env_sleep_ns(10 * SEC);
    assert_int_equal(disks[rows[2]]->ops, ops);
    go_away(rows[0]);
    assert_int_equal(first_byte(), 3);
    come_back(rows[0]);
    tear_down();
}

/* --- Rows on disks that failed ------------------------------------------------------------------------- */

/* Two of its three disks fail before it is flushed, which is on record, and come back. */
static void fail_under_a_row(bool power)
{
    unsigned rows[DISKS], logs[DISKS];
    set_up((struct shard_code){2, 1});
    write_old(LARGE_BLOCKS, 3);
    CHECK(disks_with(SHARD_DATA, rows) == 3 && disks_with(SHARD_LOG, logs) == 2);
    unsigned keep = 0; /* a disk with a copy of the log, if there is one */
    for (unsigned i = 0; i < 3; i++)
        keep = rows[i] == logs[0] ? i : keep;
    for (unsigned i = 0; i < 3; i++)
        disks[rows[i]]->error = i == keep ? 0 : -EIO;
    CHECK(volume_flush(old) < 0);
    for (unsigned i = 0; i < 3; i++) {
        disks[rows[i]]->error = 0;
        if (power && i != keep)
            fake_disk_lose_power(disks[rows[i]]);
    }
    while (inherit() < 0)
        env_sleep_ns(SEC);
}

static void a_row_is_had_from_disks_that_failed_and_are_back(void)
{
    fail_under_a_row(false);
    assert_int_equal(first_byte(), 3);
    tear_down();
}

static void a_row_that_failed_disks_lost_with_the_power_is_given_up(void)
{
    fail_under_a_row(true);
    assert_int_equal(first_byte(), 0);
    tear_down();
}

/* --- A record on one copy of the manifest ------------------------------------------------------------- */

static struct shard_info manifest_on(unsigned i)
{
    struct shard_info *list, info = {.epoch = 0};
    unsigned count;
    CHECK(shard_list(&disks[i]->disk, id, &list, &count) == 0);
    for (unsigned n = 0; n < count; n++)
        if (list[n].kind == SHARD_MANIFEST)
            info = list[n];
    mem_free(list);
    return info;
}

/* O6: the owner ended when one copy had the record of its second row. An open reads the other one, and ends before
 * it has a manifest of its own. */
static void an_open_that_ends_early_takes_no_rows_away(void)
{
    unsigned manifests[DISKS];
    set_up_disks(
        (struct shard_code){2, 1}, 2, DISKS); /* too few shards are on the disk that is away */
    write_old(1, 1);
    CHECK(volume_destage(old) == 0 && disks_with(SHARD_MANIFEST, manifests) == 2);
    struct shard_info before = manifest_on(manifests[0]);
    write_old(2, 2);
    CHECK(volume_destage(old) == 0);
    CHECK(manifest_on(manifests[0]).length_blocks > before.length_blocks);
    fake_disk_cut_shard(disks[manifests[0]], before.key, before.length_blocks);
    for (unsigned i = 0; i < DISKS; i++)
        disks[i]->disk.state = DISK_OUT; /* no new manifest */
    go_away(manifests[1]);
    CHECK(inherit() == 0);
    CHECK_MSG(strstr(info().problem, "no log can be allocated"), "%s", info().problem);
    CHECK(volume_close(volume) < 0);
    for (unsigned i = 0; i < DISKS; i++)
        come_back(i);
    CHECK(inherit() == 0);
    assert_int_equal(first_byte(), 2);
    tear_down();
}

TEST(a_log_on_suspect_copies_alone_waits_for_the_one_that_is_away)
TEST(the_wait_ends_with_the_repair_wait)
TEST(the_wait_ends_when_the_disk_is_forgotten)
TEST(a_disk_that_hangs_is_not_waited_for_for_ever)
TEST(a_disk_that_is_not_there_at_start_is_waited_for)
TEST(a_row_that_suspect_shards_lack_waits_for_the_shard_that_is_away)
TEST(a_row_is_given_up_after_the_repair_wait)
TEST(a_disk_that_goes_away_during_replay_cuts_no_log)
TEST(a_disk_that_goes_away_during_replay_cuts_no_row)
TEST(a_shard_that_comes_back_short_is_rebuilt)
TEST(a_shard_that_comes_back_whole_is_not)
TEST(a_row_that_failed_disks_lost_with_the_power_is_given_up)
TEST(a_row_is_had_from_disks_that_failed_and_are_back)
TEST(an_open_that_ends_early_takes_no_rows_away)

int main(void)
{
    log_set_level(getenv("SIM_LOG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_log_on_suspect_copies_alone_waits_for_the_one_that_is_away_),
        cmocka_unit_test(the_wait_ends_with_the_repair_wait_),
        cmocka_unit_test(the_wait_ends_when_the_disk_is_forgotten_),
        cmocka_unit_test(a_disk_that_hangs_is_not_waited_for_for_ever_),
        cmocka_unit_test(a_disk_that_is_not_there_at_start_is_waited_for_),
        cmocka_unit_test(a_row_that_suspect_shards_lack_waits_for_the_shard_that_is_away_),
        cmocka_unit_test(a_row_is_given_up_after_the_repair_wait_),
        cmocka_unit_test(a_disk_that_goes_away_during_replay_cuts_no_log_),
        cmocka_unit_test(a_disk_that_goes_away_during_replay_cuts_no_row_),
        cmocka_unit_test(a_shard_that_comes_back_short_is_rebuilt_),
        cmocka_unit_test(a_shard_that_comes_back_whole_is_not_),
        cmocka_unit_test(a_row_that_failed_disks_lost_with_the_power_is_given_up_),
        cmocka_unit_test(a_row_is_had_from_disks_that_failed_and_are_back_),
        cmocka_unit_test(an_open_that_ends_early_takes_no_rows_away_),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
