/* SPDX-License-Identifier: Apache-2.0
 *
 * The registry's users: getting, opening once, growth, renaming, deleting.
 */
#include "volumes_fixture.h"

/* --- Getting --------------------------------------------------------------------------------- */

static struct volume *got[8];

BODY(callers_at_once_get_one_volume)
{
    fiber_group_init(&group);
    fiber_group_add(&group, 8);
    for (unsigned i = 0; i < 8; i++)
        fiber_spawn("get", get_a, &got[i]);
    fiber_group_wait(&group);
    assert_int_equal(engine.opens, 1);
    for (unsigned i = 0; i < 8; i++) {
        assert_ptr_equal(got[i], got[0]);
        volumes_put(volumes, got[i]);
    }
    struct volume *by_id;
    char *error;
    assert_int_equal(volumes_get_by_id(volumes, 1, &by_id, &error), 0);
    assert_ptr_equal(by_id, got[0]);
    volumes_put(volumes, by_id);
}

BODY(unknown_and_unopenable_volumes_are_errors_with_words)
{
    struct volume *volume = NULL;
    char *error = NULL;
    assert_int_equal(volumes_get(volumes, "nope", &volume, &error), -ENOENT);
    assert_non_null(strstr(error, "no volume named 'nope'"));
    mem_free(error);
    engine.open_error = -EIO;
    assert_int_equal(volumes_get(volumes, "a", &volume, &error), -EIO);
    assert_string_equal(error, "cannot open");
    mem_free(error);
    assert_null(volume);
    engine.open_error = 0;
    volumes_put(volumes, get("a"));
    store_mem_set_fault(mem, -EHOSTUNREACH, 0);
    assert_int_equal(volumes_get(volumes, "b", &volume, &error), -EHOSTUNREACH);
    assert_non_null(strstr(error, "cannot be looked up in the store: it cannot be reached"));
    mem_free(error);
    volumes_put(volumes, get("a")); /* open: the store is not asked */
    store_mem_set_fault(mem, 0, 0);
}

static void count_refused(void *ctx, const char *why)
{
    assert_string_equal(why, "cannot open");
    ++*(unsigned *)ctx;
}

static unsigned refused_now(void)
{
    unsigned count = 0;
    volumes_refused_each(volumes_refused(volumes), count_refused, &count);
    assert_int_equal(volumes_refused_why(volumes_refused(volumes), 1) != NULL, count == 1);
    return count;
}

static int try_a(int open_error)
{
    struct volume *volume = NULL;
    char *error = NULL;
    engine.open_error = open_error;
    int r = volumes_get(volumes, "a", &volume, &error);
    mem_free(error);
    if (r == 0)
        volumes_put(volumes, volume);
    engine.open_error = 0;
    return r;
}

/* An open that waits for disks fails: what it waits for is told meanwhile. */
BODY(why_a_volume_could_not_be_opened_is_remembered_for_a_while)
{
    assert_int_equal(refused_now(), 0);
    assert_int_equal(try_a(-EHOSTUNREACH), -EHOSTUNREACH);
    assert_int_equal(refused_now(), 1);
    assert_int_equal(try_a(-EHOSTUNREACH), -EHOSTUNREACH);
    assert_int_equal(refused_now(), 1);
    env_sleep_ns(61 * SECOND_NS);
    assert_int_equal(refused_now(), 0);
    assert_int_equal(try_a(-EIO), -EIO);
    assert_int_equal(refused_now(), 1);
    assert_int_equal(try_a(0), 0);
    assert_int_equal(refused_now(), 0);
}

static void count_any(void *ctx, const char *why)
{
    ++*(unsigned *)ctx;
}

BODY(of_many_that_could_not_be_opened_the_last_are_remembered)
{
    struct volumes_refused *refused = volumes_refused_new();
    unsigned count = 0;
    for (uint64_t id = 1; id <= 300; id++)
        volumes_refused_note(refused, id, "why");
    volumes_refused_each(refused, count_any, &count);
    assert_int_equal(count, 16);
    assert_null(volumes_refused_why(refused, 44));
    assert_non_null(volumes_refused_why(refused, 45));
    volumes_refused_forget(refused, 45);
    assert_null(volumes_refused_why(refused, 45));
    assert_non_null(volumes_refused_why(refused, 300));
    volumes_refused_free(refused);
}

BODY(volume_without_users_is_closed_when_idle)
{
    volumes_put(volumes, get("a"));
    env_sleep_ns(599 * SECOND_NS);
    assert_int_equal(engine.closes, 0);
    volumes_put(volumes, get("a"));
    env_sleep_ns(599 * SECOND_NS);
    assert_int_equal(engine.closes, 0);
    struct volume *held = get("a");
    env_sleep_ns(10000 * SECOND_NS);
    assert_int_equal(engine.closes, 0);
    assert_ptr_equal(volumes_peek(volumes, 1, NULL), held);
    volumes_put(volumes, held);
    env_sleep_ns(600 * SECOND_NS + SECOND_NS / 2); /* closing takes a second */
    volumes_put(volumes, get("a"));
    assert_int_equal(engine.closes, 1);
    assert_int_equal(engine.opens, 2);
}

BODY(halted_volume_is_opened_anew_once_its_users_let_go)
{
    struct volume *old = get("a");
    old->health = "halted";
    fiber_group_init(&group);
    fiber_group_add(&group, 1);
    fiber_spawn("get", get_a, &got[0]);
    env_sleep_ns(100 * SECOND_NS);
    assert_int_equal(group.pending, 1);
    volumes_put(volumes, old);
    fiber_group_wait(&group);
    assert_int_equal(engine.opens, 2);
    volumes_put(volumes, got[0]);
    /* One that halts while nobody holds it. */
    volumes_peek(volumes, 1, NULL)->health = "halted";
    volumes_put(volumes, get("a"));
    assert_int_equal(engine.opens, 3);
}

/* --- Listeners, resize, rename, delete ---------------------------------------------------------
 */

static unsigned removed;

static void on_removed(struct volumes_listener *listener)
{
    removed++;
    fiber_spawn("front end", let_go, listener);
}

static void on_halted(struct volumes_listener *listener)
{
    static bool told;
    if (!told)
        fiber_spawn("front end", let_go, listener);
    told = true;
}

static struct volumes_listener attach(const char *name)
{
    return (struct volumes_listener){
        .volume = get(name), .resized = on_resized, .removed = on_removed};
}

BODY(growth_is_told_and_shrinking_refused)
{
    struct volumes_listener listener = attach("a");
    char *error = NULL;
    resized = 0;
    volumes_listen(volumes, &listener);
    assert_int_equal(volumes_resize(volumes, "a", 8192, &error), 0);
    assert_int_equal(resized, 1);
    assert_int_equal(volume_size_bytes(listener.volume), 8192);
    assert_int_equal(volumes_resize(volumes, "a", 8192, &error), 0);
    assert_int_equal(resized, 1);
    assert_int_equal(volumes_resize(volumes, "a", 4096, &error), -EINVAL);
    assert_non_null(strstr(error, "cannot shrink"));
    mem_free(error);
    assert_int_equal(volumes_resize(volumes, "a", 8193, &error), -EINVAL);
    mem_free(error);
    unsigned connections;
    volumes_peek(volumes, 1, &connections);
    assert_int_equal(connections, 1);
    volumes_unlisten(&listener);
    volumes_put(volumes, listener.volume);
}

BODY(idle_holders_of_a_halted_volume_are_told_when_somebody_wants_it)
{
    struct volumes_listener listener = attach("a");
    listener.halted = on_halted;
    volumes_listen(volumes, &listener);
    listener.volume->health = "halted";
    struct volume *fresh = get("a");
    assert_false(volume_halted(fresh));
    assert_int_equal(engine.closes, 1);
    volumes_put(volumes, fresh);
}

BODY(rename_needs_an_unused_volume_and_a_free_name)
{
    char *error = NULL;
    struct volume *held = get("a");
    assert_int_equal(volumes_rename(volumes, "a", "c", &error), -EBUSY);
    assert_non_null(strstr(error, "in use"));
    mem_free(error);
    volumes_put(volumes, held);
    assert_int_equal(volumes_rename(volumes, "a", "b", &error), -EEXIST);
    assert_non_null(strstr(error, "'b' already"));
    mem_free(error);
    assert_int_equal(volumes_rename(volumes, "a", "b/b", &error), -EINVAL);
    mem_free(error);
    assert_int_equal(volumes_rename(volumes, "a", "a", &error), -EEXIST);
    assert_non_null(strstr(error, "that name already"));
    mem_free(error);
    assert_int_equal(volumes_rename(volumes, "x", "y", &error), -ENOENT);
    mem_free(error);
    assert_int_equal(volumes_rename(volumes, "a", "c", &error), 0);
    assert_int_equal(volumes_get(volumes, "a", &held, &error), -ENOENT);
    mem_free(error);
    held = get("c");
    assert_string_equal(volume_name(held), "c");
    volumes_put(volumes, held);
}

BODY(delete_of_a_used_volume_needs_force_and_ends_connections)
{
    struct volumes_listener listener = attach("a");
    char *error = NULL;
    removed = 0;
    volumes_listen(volumes, &listener);
    assert_int_equal(volumes_delete(volumes, "a", false, &error), -EBUSY);
    assert_non_null(strstr(error, "1 connection; end it before you delete it, or use --force"));
    mem_free(error);
    assert_int_equal(removed, 0);
    assert_int_equal(volumes_delete(volumes, "a", true, &error), 0);
    assert_int_equal(removed, 1);
    struct volume *volume;
    assert_int_equal(volumes_get(volumes, "a", &volume, &error), -ENOENT);
    mem_free(error);
    env_sleep_ns(2 * SECOND_NS);
    assert_int_equal(engine.purges, 1);
    assert_int_equal(volumes_delete(volumes, "b", false, &error), 0);
    env_sleep_ns(2 * SECOND_NS);
    assert_int_equal(engine.purges, 2);
}

static void disconnect_soon(void *arg)
{
    env_sleep_ns(SECOND_NS);
    volumes_put(volumes, arg);
}

BODY(connection_that_is_just_ending_does_not_make_it_busy)
{
    char *error = NULL;
    fiber_spawn("ending", disconnect_soon, get("a"));
    assert_int_equal(volumes_delete(volumes, "a", false, &error), 0);
}

static void on_removed_stubborn(struct volumes_listener *listener)
{
    removed++;
}

BODY(front_end_that_does_not_let_go_stops_a_forced_delete)
{
    struct volumes_listener listener = attach("a");
    char *error = NULL;
    listener.removed = on_removed_stubborn;
    volumes_listen(volumes, &listener);
    assert_int_equal(volumes_delete(volumes, "a", true, &error), -EBUSY);
    mem_free(error);
    volumes_unlisten(&listener);
    volumes_put(volumes, listener.volume);
    volumes_put(volumes, get("a"));
}

static void delete_a(void *arg)
{
    CLEANUP_FREE char *error = NULL;
    int r = volumes_delete(volumes, "a", false, &error);
    assert_true(r == 0 || r == -ENOENT || r == -EBUSY);
    fiber_group_done(&group, 0);
}

static void get_put_a(void *arg)
{
    struct volume *volume;
    CLEANUP_FREE char *error = NULL;
    int r = volumes_get(volumes, "a", &volume, &error);
    if (r == 0) {
        env_sleep_ns(3 * SECOND_NS);
        volumes_put(volumes, volume);
    }
    assert_true(r == 0 || r == -ENOENT);
    fiber_group_done(&group, 0);
}

BODY(deletes_and_gets_that_race_open_nothing_twice)
{
    fiber_group_init(&group);
    fiber_group_add(&group, 20);
    for (unsigned i = 0; i < 10; i++) {
        fiber_spawn("delete", delete_a, NULL);
        fiber_spawn("get", get_put_a, NULL);
        env_sleep_ns(SECOND_NS / 3 * i);
    }
    fiber_group_wait(&group);
    assert_null(volumes_peek(volumes, 1, NULL));
}

BODY(close_releases_until_the_next_get)
{
    char *error = NULL;
    volumes_put(volumes, get("a"));
    assert_int_equal(volumes_close(volumes, "a", &error), 0);
    assert_int_equal(engine.closes, 1);
    assert_int_equal(volumes_close(volumes, "a", &error), 0);
    assert_int_equal(engine.closes, 1);
    engine.close_error = -EIO;
    volumes_put(volumes, get("a"));
    assert_int_equal(volumes_close(volumes, "a", &error), -EIO);
    assert_non_null(strstr(error, "recovers"));
    mem_free(error);
    engine.close_error = 0;
    volumes_put(volumes, get("a"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(callers_at_once_get_one_volume),
        cmocka_unit_test(unknown_and_unopenable_volumes_are_errors_with_words),
        cmocka_unit_test(why_a_volume_could_not_be_opened_is_remembered_for_a_while),
        cmocka_unit_test(of_many_that_could_not_be_opened_the_last_are_remembered),
        cmocka_unit_test(volume_without_users_is_closed_when_idle),
        cmocka_unit_test(halted_volume_is_opened_anew_once_its_users_let_go),
        cmocka_unit_test(idle_holders_of_a_halted_volume_are_told_when_somebody_wants_it),
        cmocka_unit_test(growth_is_told_and_shrinking_refused),
        cmocka_unit_test(rename_needs_an_unused_volume_and_a_free_name),
        cmocka_unit_test(delete_of_a_used_volume_needs_force_and_ends_connections),
        cmocka_unit_test(connection_that_is_just_ending_does_not_make_it_busy),
        cmocka_unit_test(front_end_that_does_not_let_go_stops_a_forced_delete),
        cmocka_unit_test(deletes_and_gets_that_race_open_nothing_twice),
        cmocka_unit_test(close_releases_until_the_next_get),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
