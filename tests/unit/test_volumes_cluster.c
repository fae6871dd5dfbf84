/* SPDX-License-Identifier: Apache-2.0
 *
 * The registry among others: owners elsewhere, hand-overs, sessions, stops, purges, lists.
 */
#include "volumes_fixture.h"

/* --- Other owners ------------------------------------------------------------------------------ */

BODY(the_owner_elsewhere_is_told)
{
    struct volume_root root;
    struct volume *volume = NULL;
    struct volume_owner owner;
    char *error;
    assert_int_equal(volume_root_load(store, 1, &root), 0);
    root.state = VOLUME_OWNED;
    root.epoch = 7;
    root.owner_session = 70;
    strcpy(root.owner, "other");
    assert_int_equal(volume_root_save(store, &root), 0);
    assert_int_equal(volumes_acquire(volumes, "a", 0, &volume, &owner, &error), -EBUSY);
    mem_free(error);
    assert_string_equal(owner.node, "other");
    assert_int_equal(owner.session, 70);
    assert_int_equal(owner.epoch, 7);
    assert_int_equal(volumes_get(volumes, "a", &volume, &error), -EBUSY);
    mem_free(error);
    /* Gone, and known by its id too. */
    root.state = VOLUME_RELEASED;
    assert_int_equal(volume_root_save(store, &root), 0);
    assert_int_equal(volumes_acquire(volumes, NULL, 1, &volume, &owner, &error), 0);
    volumes_put(volumes, volume);
}

static void on_handed_over(struct volumes_listener *listener)
{
    fiber_spawn("front end", let_go, listener);
}

/* V5 */
BODY(what_was_handed_over_is_left_to_its_successor_for_a_while)
{
    struct volumes_listener listener = {
        .volume = get("a"), .resized = on_resized, .halted = on_handed_over};
    struct volume *volume = NULL;
    struct volume_owner owner;
    uint64_t pause_ns = 0;
    char *error;
    volumes_listen(volumes, &listener);
    assert_int_equal(volumes_handoff(volumes, 2, 0, "other", &pause_ns, &error), -ENOENT);
    mem_free(error);
    assert_int_equal(volumes_handoff(volumes, 1, 99, "other", &pause_ns, &error), -ENOENT);
    mem_free(error);
    assert_int_equal(engine.hand_overs, 0);
    assert_int_equal(volumes_handoff(volumes, 1, 0, "other", &pause_ns, &error), 0);
    assert_int_equal(pause_ns, 5);
    env_sleep_ns(5 * SECOND_NS); /* the front end lets go, the volume is closed */
    assert_int_equal(engine.closes, 1);
    assert_int_equal(volumes_handoff(volumes, 1, 0, "other", &pause_ns, &error), -ENOENT);
    mem_free(error);
    uint64_t first_ns = env_now_ns();
    unsigned refused = 0;
    while (volumes_acquire(volumes, "a", 0, &volume, &owner, &error) == -EBUSY) {
        mem_free(error);
        assert_string_equal(owner.node, "other");
        assert_int_equal(owner.session, 0);
        refused++;
    }
    assert_true(refused > 0);
    assert_in_range(env_now_ns() - first_ns, 2 * SECOND_NS, 6 * SECOND_NS);
    volumes_put(volumes, volume);
}

/* V5: all of them are asked for in turn, and each is given up once its successor is late. */
BODY(a_successor_that_died_with_many_volumes_keeps_none)
{
    enum { MANY = 200 };
    struct volume_root root;
    struct volume *volume;
    struct volume_owner owner;
    for (uint64_t id = 100; id < 100 + MANY; id++) {
        char name[16];
        snprintf(name, sizeof(name), "v%u", (unsigned)id);
        make_volume(id, name, VOLUME_RELEASED);
        assert_int_equal(volume_root_load(store, id, &root), 0);
        strcpy(root.successor, "dead");
        assert_int_equal(volume_root_save(store, &root), 0);
    }
    for (unsigned round = 0; round < 2; round++)
        for (uint64_t id = 100; id < 100 + MANY; id++) {
            CLEANUP_FREE char *error = NULL;
            int r = volumes_acquire(volumes, NULL, id, &volume, &owner, &error);
            assert_int_equal(r, round == 0 ? -EBUSY : 0);
            if (r < 0)
                continue;
            volumes_put(volumes, volume);
            assert_int_equal(volumes_close(volumes, volume_name(volume), &error), 0);
        }
}

static void hand_over_main(void *arg)
{
    CLEANUP_FREE char *error = NULL;
    uint64_t pause_ns;
    assert_int_equal(volumes_handoff(volumes, 1, 0, "other", &pause_ns, &error), 0);
}

/* V3: or a front end would get it, be refused, let go and get it again, in no time at all. */
BODY(what_is_being_handed_over_is_given_to_nobody)
{
    struct volume *volume;
    struct volume_owner owner;
    char *error;
    volumes_put(volumes, get("a"));
    fiber_spawn("hand over", hand_over_main, NULL);
    env_sleep_ns(SECOND_NS / 2);
    assert_int_equal(engine.hand_overs, 0);
    assert_int_equal(volumes_acquire(volumes, "a", 0, &volume, &owner, &error), -EBUSY);
    mem_free(error);
    assert_int_equal(engine.hand_overs, 1);
    assert_string_equal(owner.node, "other");
}

BODY(a_new_session_reaches_every_open_volume)
{
    volumes_put(volumes, get("a"));
    struct volume *b = get("b");
    engine.misuse = false; /* two open at once are two volumes here */
    volumes_session_renewed(volumes);
    assert_int_equal(engine.renewals, 4);
    volumes_put(volumes, b);
    volumes_peek(volumes, 1, NULL)->health = "halted";
    volumes_session_renewed(volumes);
    assert_int_equal(engine.renewals, 6);
}

/* --- Purge, list ----------------------------------------------------------------------------- */

/* Who waits for the end of a request that waits for disks would wait for ever. */
BODY(a_stop_begins_before_users_let_go)
{
    struct volume *a = get("a"), *none = NULL;
    char *error = NULL;
    volumes_close_begin(volumes);
    assert_int_equal(a->closing, 1);
    assert_int_equal(volumes_get(volumes, "a", &none, &error), -ESHUTDOWN);
    mem_free(error);
    volumes_put(volumes, a);
}

BODY(a_stop_reaches_what_is_just_being_opened)
{
    struct volume *a = NULL;
    fiber_group_init(&group);
    fiber_group_add(&group, 1);
    fiber_spawn("get", get_a, &a);
    env_sleep_ns(SECOND_NS / 2);
    volumes_close_begin(volumes);
    fiber_group_wait(&group);
    assert_int_equal(a->closing, 1);
    volumes_put(volumes, a);
}

BODY(roots_left_deleting_are_purged_and_tried_again)
{
    volumes_free(volumes);
    make_volume(7, "gone", VOLUME_DELETING);
    make_volume(8, "gone2", VOLUME_DELETING);
    engine.purge_error = -EIO;
    volumes = volumes_new(&host, NULL);
    env_sleep_ns(10 * SECOND_NS);
    assert_int_equal(engine.purges, 2);
    engine.purge_error = 0;
    env_sleep_ns(60 * SECOND_NS);
    assert_int_equal(engine.purges, 4);
    env_sleep_ns(1000 * SECOND_NS);
    assert_int_equal(engine.purges, 4);
    struct volume_root root;
    assert_int_equal(volume_root_load(store, 7, &root), -ENOENT);
}

BODY(list_has_every_volume_by_name_but_those_being_deleted)
{
    struct volumes_name *names;
    unsigned count;
    make_volume(9, "0first", VOLUME_NEW);
    make_volume(3, "gone", VOLUME_DELETING);
    char key[KEY_BYTES_MAX];
    struct store_op damaged = {STORE_PUT, key_volume(66, key), "{}", 2, false};
    assert_int_equal(store_txn(store, NULL, 0, &damaged, 1, NULL), 0);
    log_set_output(NULL, NULL);
    assert_int_equal(volumes_list(volumes, &names, &count), 0);
    assert_int_equal(count, 3);
    assert_string_equal(names[0].name, "0first");
    assert_string_equal(names[1].name, "a");
    assert_string_equal(names[2].name, "b");
    assert_int_equal(names[2].size_bytes, 4096);
    assert_string_equal(names[2].pool, "p");
    mem_free(names);
}

BODY(many_changes_of_the_cluster_make_few_passes)
{
    make_volume(7, "gone", VOLUME_DELETING);
    engine.purge_error = -EIO;
    for (unsigned i = 0; i < 80; i++) {
        volumes_cluster_changed(volumes);
        env_sleep_ns(SECOND_NS / 10);
    }
    env_sleep_ns(6 * SECOND_NS);
    assert_in_range(
        engine.purges, 1, 10); /* each a second after a change at least, of 8 s with 80 */
    engine.purge_error = 0;
    env_sleep_ns(100 * SECOND_NS);
}

static void own(uint64_t id, enum volume_state state, const char *owner, uint64_t session)
{
    struct volume_root root;
    assert_int_equal(volume_root_load(store, id, &root), 0);
    root.state = state;
    strcpy(root.owner, owner);
    root.owner_session = session;
    assert_int_equal(volume_root_save(store, &root), 0);
}

BODY(what_another_node_has_open_is_not_renamed_here)
{
    char *error;
    struct volume_root root;
    own(1, VOLUME_OWNED, "other", 77);
    assert_int_equal(volumes_rename(volumes, "a", "c", &error), -EBUSY);
    mem_free(error);
    assert_int_equal(volume_root_load(store, 1, &root), 0);
    assert_string_equal(root.name, "a");
    own(1, VOLUME_RELEASED, "other", 77);
    assert_int_equal(volumes_rename(volumes, "a", "c", &error), 0);
}

static void linger(void *arg)
{
    env_sleep_ns(30 * SECOND_NS);
}

BODY(with_few_fibers_left_an_idle_volume_makes_room_for_another)
{
    struct volume *volume;
    char *error;
    volumes_put(volumes, get("a"));
    for (unsigned i = 0; i < 26; i++)
        fiber_spawn("linger", linger, NULL);
    assert_int_equal(volumes_get(volumes, "b", &volume, &error), -EAGAIN);
    assert_non_null(strstr(error, "has 1 volume open, as many as it can"));
    mem_free(error);
    env_sleep_ns(2 * SECOND_NS);
    assert_int_equal(engine.closes, 1);
    env_sleep_ns(30 * SECOND_NS);
    volumes_put(volumes, get("b"));
}

BODY(without_the_store_what_is_open_or_was_seen_is_recalled)
{
    struct volumes_name *names, name;
    unsigned count;
    bool recalled;
    struct volume *a = get("a");
    assert_int_equal(volumes_list_or_recall(volumes, &names, &count, &recalled), 0);
    assert_false(recalled);
    mem_free(names);
    make_volume(9, "later", VOLUME_NEW);
    store_away = true;
    assert_true(volumes_store_away(volumes));
    assert_int_equal(volumes_list_or_recall(volumes, &names, &count, &recalled), 0);
    assert_true(recalled);
    assert_int_equal(count, 2);
    assert_string_equal(names[1].name, "b");
    mem_free(names);
    assert_true(volumes_recall(volumes, "a", &name));
    assert_int_equal(name.state, VOLUME_OWNED);
    assert_int_equal(name.id, 1);
    assert_true(volumes_recall(volumes, "b", &name));
    assert_false(volumes_recall(volumes, "later", &name));
    volumes_put(volumes, a);
    store_away = false;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_owner_elsewhere_is_told),
        cmocka_unit_test(what_is_being_handed_over_is_given_to_nobody),
        cmocka_unit_test(what_was_handed_over_is_left_to_its_successor_for_a_while),
        cmocka_unit_test(a_successor_that_died_with_many_volumes_keeps_none),
        cmocka_unit_test(a_new_session_reaches_every_open_volume),
        cmocka_unit_test(a_stop_begins_before_users_let_go),
        cmocka_unit_test(a_stop_reaches_what_is_just_being_opened),
        cmocka_unit_test(without_the_store_what_is_open_or_was_seen_is_recalled),
        cmocka_unit_test(roots_left_deleting_are_purged_and_tried_again),
        cmocka_unit_test(list_has_every_volume_by_name_but_those_being_deleted),
        cmocka_unit_test(many_changes_of_the_cluster_make_few_passes),
        cmocka_unit_test(what_another_node_has_open_is_not_renamed_here),
        cmocka_unit_test(with_few_fibers_left_an_idle_volume_makes_room_for_another),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
