/* SPDX-License-Identifier: Apache-2.0
 *
 * X10: a store that is set back under an owner, which writes its root again when it is certain that nobody has taken the
 * volume over, and does not touch it else.
 */
#include "away_fixture.h"

#include "blockd/volume/volume_impl.h"

static struct volume_root then;

static struct volume_root root_now(void)
{
    struct volume_root root;
    CHECK(volume_root_load(store, id, &root) == 0);
    return root;
}

/* The store is as it was; *root is what it says. */
static void set_back(const struct volume_root *root)
{
    struct volume_root back = *root;
    back.revision = root_now().revision;
    CHECK(volume_root_save(store, &back) == 0);
    store_mem_set_back(mem);
}

static struct volume *reopen(struct host *h)
{
    CLEANUP_FREE char *error = NULL;
    struct volume *opened = NULL;
    CHECK_MSG(volume_open(&h->host, id, &opened, &error) == 0, "%s", error);
    return opened;
}

/* The owner is at epoch 2; `then` is from before. */
static void set_up(void)
{
    set_up_disks((struct shard_code){1, 1}, 1, DISKS);
    write_old(1, 1);
    CHECK(volume_close(old) == 0);
    then = root_now();
    CHECK(then.state == VOLUME_RELEASED && then.epoch == 1);
    old = reopen(&dead);
    volume = NULL;
    write_old(1, 2);
    CHECK(root_now().epoch == 2 && root_now().manifest.chunk != then.manifest.chunk);
}

static void is_at(uint32_t epoch, uint64_t manifest)
{
    struct volume_root root = root_now();
    assert_int_equal(root.state, VOLUME_OWNED);
    assert_int_equal(root.epoch, epoch);
    assert_int_equal(root.manifest.chunk, manifest);
    assert_int_equal(root.owner_session, 0xa);
    assert_string_equal(root.owner, "dead");
}

/* Whoever opens it next finds all of it. */
static void inherited_with(uint8_t byte)
{
    CHECK(volume_flush(old) == 0 || volume_halted(old));
    CHECK(inherit() == 0);
    assert_int_equal(first_byte(), byte);
}

static void an_earlier_root_is_written_again(void)
{
    set_up();
    uint64_t manifest = root_now().manifest.chunk;
    set_back(&then);
    CHECK(volume_session_renewed(old) == 0);
    is_at(2, manifest);
    write_old(1, 3);
    inherited_with(3);
    tear_down();
}

/* Without any word of it: at the next change of the root. */
static void a_close_writes_it_again(void)
{
    set_up();
    struct volume_root back = then;
    back.revision = root_now().revision;
    CHECK(volume_root_save(store, &back) == 0);
    CHECK(volume_close(old) == 0);
    assert_int_equal(root_now().state, VOLUME_RELEASED);
    assert_int_equal(root_now().epoch, 2);
    old = reopen(&dead);
    inherited_with(2);
    tear_down();
}

static void a_root_that_another_node_has_halted_is_written_again(void)
{
    set_up();
    uint64_t manifest = root_now().manifest.chunk;
    then.state = VOLUME_HALTED;
    set_back(&then);
    CHECK(volume_session_renewed(old) == 0);
    is_at(2, manifest);
    inherited_with(2);
    tear_down();
}

/* The owner's own root, of before its manifest was written afresh. */
static void an_earlier_manifest_of_its_own_is_replaced(void)
{
    set_up();
    struct volume_root before = root_now();
    struct shard_key key = {.volume = id, .chunk = before.manifest.chunk, .index = 0};
    fake_disk_lose_shard(disks[before.manifest.places[0].disk - 1], key);
    CHECK(volume_destage(old) == 0);
    uint64_t manifest = root_now().manifest.chunk;
    assert_int_not_equal(manifest, before.manifest.chunk);
    set_back(&before);
    CHECK(volume_session_renewed(old) == 0);
    is_at(2, manifest);
    inherited_with(2);
    tear_down();
}

/* Others have tried to open it since, in vain, each with an epoch of its own: those are not used again. */
static void where_others_have_come_further_it_is_opened_anew(void)
{
    set_up();
    uint64_t manifest = root_now().manifest.chunk;
    then.epoch = 9;
    set_back(&then);
    CHECK(volume_session_renewed(old) == -ESHUTDOWN);
    CHECK(volume_halted(old));
    is_at(9, manifest);
    volume_close(old);
    old = reopen(&dead);
    assert_int_equal(root_now().epoch, 10);
    inherited_with(2);
    tear_down();
}

/* In the history that is lost another node has taken it over: whoever was deposed leaves the root alone, the other one
 * writes it. */
static void who_was_deposed_leaves_it_alone(void)
{
    set_up();
    write_old(1, 3);
    CHECK(inherit() == 0);
    uint64_t manifest = root_now().manifest.chunk;
    session_put(0xa, true);
    set_back(&then);
    struct volume_root back = root_now();
    CHECK(volume_session_renewed(old) == -ESHUTDOWN);
    CHECK(volume_halted(old));
    assert_int_equal(root_now().revision, back.revision);
    CHECK(volume_session_renewed(volume) == 0);
    assert_int_equal(root_now().epoch, 3);
    assert_int_equal(root_now().manifest.chunk, manifest);
    assert_int_equal(first_byte(), 3);
    tear_down();
}

/* Its session is in the snapshot, and so it lives again: that alone does not give it the right to read, nor does a
 * manifest that it has written afresh since. */
static void who_was_deposed_reads_nothing_under_its_old_session(void)
{
    for (unsigned afresh = 0; afresh < 2; afresh++) {
        set_up();
        struct volume_root mine = root_now();
        CHECK(inherit() == 0);
        memset(page, 3, BLOCK_BYTES);
        CHECK(volume_write(volume, 0, BLOCK_BYTES, page, 0, (struct request_id){0}) == 0);
        session_put(0xa, true);
        set_back(&mine);
        if (afresh)
            (void)manifest_rewrite(old);
        int r = volume_read(old, 0, BLOCK_BYTES, page);
        assert_int_equal(r, -ESHUTDOWN);
        CHECK(volume_halted(old));
        tear_down();
    }
}

/* It had only begun to: one copy of the manifest is fenced. */
static void one_fenced_copy_is_enough(void)
{
    set_up();
    struct volume_root mine = root_now();
    struct shard_key key = {.volume = id, .chunk = mine.manifest.chunk, .index = 1};
    CHECK(shard_fence(&disks[mine.manifest.places[1].disk - 1]->disk, key, 3, NULL) == 0);
    set_back(&then);
    struct volume_root back = root_now();
    CHECK(volume_session_renewed(old) == -ESHUTDOWN);
    assert_int_equal(root_now().revision, back.revision);
    tear_down();
}

/* While copies of manifest and log are away nobody knows; when they are back it is done. */
static void copies_that_are_away_are_waited_for(void)
{
    unsigned logs[DISKS];
    set_up();
    uint64_t manifest = root_now().manifest.chunk;
    struct volume_root mine = root_now();
    CHECK(disks_with(SHARD_LOG, logs) == 2);
    go_away(logs[0]);
    go_away(logs[1]);
    go_away(mine.manifest.places[0].disk - 1);
    set_back(&then);
    struct volume_root back = root_now();
    CHECK(volume_session_renewed(old) == -EAGAIN);
    CHECK(!volume_halted(old));
    assert_int_equal(root_now().revision, back.revision);
    for (unsigned i = 0; i < DISKS; i++)
        come_back(i);
    CHECK(volume_session_renewed(old) == 0);
    is_at(2, manifest);
    inherited_with(2);
    tear_down();
}

/* Made after the snapshot: there is nothing to write again, and no reason to end. Without a restore it was deleted. */
static void a_root_that_is_gone_ends_nothing_after_a_restore_alone(void)
{
    for (unsigned restored = 0; restored < 2; restored++) {
        char key[KEY_BYTES_MAX];
        set_up();
        struct store_op op = {.type = STORE_DELETE, .key = key_volume(id, key)};
        CHECK(store_txn(store, NULL, 0, &op, 1, NULL) == 0);
        if (restored)
            store_mem_set_back(mem);
        CHECK(volume_session_renewed(old) == (restored ? -EAGAIN : -ESHUTDOWN));
        CHECK(volume_halted(old) == !restored);
        if (restored)
            write_old(1, 4);
        tear_down();
    }
}

/* Deleted since, by who saw it there: that is meant. */
static void what_is_being_deleted_is_left_alone(void)
{
    set_up();
    then.state = VOLUME_DELETING;
    set_back(&then);
    CHECK(volume_session_renewed(old) == -ESHUTDOWN);
    assert_int_equal(root_now().state, VOLUME_DELETING);
    tear_down();
}

TEST(an_earlier_root_is_written_again)
TEST(a_close_writes_it_again)
TEST(a_root_that_another_node_has_halted_is_written_again)
TEST(an_earlier_manifest_of_its_own_is_replaced)
TEST(where_others_have_come_further_it_is_opened_anew)
TEST(who_was_deposed_leaves_it_alone)
TEST(who_was_deposed_reads_nothing_under_its_old_session)
TEST(one_fenced_copy_is_enough)
TEST(copies_that_are_away_are_waited_for)
TEST(a_root_that_is_gone_ends_nothing_after_a_restore_alone)
TEST(what_is_being_deleted_is_left_alone)

int main(void)
{
    log_set_level(getenv("SIM_LOG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
    setenv("CMOCKA_TEST_ABORT", "1", 1); /* no way back from a failed assertion inside a fiber */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_earlier_root_is_written_again_),
        cmocka_unit_test(a_close_writes_it_again_),
        cmocka_unit_test(a_root_that_another_node_has_halted_is_written_again_),
        cmocka_unit_test(an_earlier_manifest_of_its_own_is_replaced_),
        cmocka_unit_test(where_others_have_come_further_it_is_opened_anew_),
        cmocka_unit_test(who_was_deposed_leaves_it_alone_),
        cmocka_unit_test(who_was_deposed_reads_nothing_under_its_old_session_),
        cmocka_unit_test(one_fenced_copy_is_enough_),
        cmocka_unit_test(copies_that_are_away_are_waited_for_),
        cmocka_unit_test(a_root_that_is_gone_ends_nothing_after_a_restore_alone_),
        cmocka_unit_test(what_is_being_deleted_is_left_alone_),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
