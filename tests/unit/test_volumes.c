/* SPDX-License-Identifier: Apache-2.0
 *
 * The registry, over volumes that only count what is done to them (defined here in place of the
 * engine's) and the memory store.
 */
#include "fake_env.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/volumes.h"
#include "blockd/volumes_refused.h"
#include "common/check.h"
#include "common/env.h"
#include "common/log.h"
#include "common/mem.h"

#define SECOND_NS 1000000000ull

/* --- The engine's part ----------------------------------------------------------------------- */

struct volume {
    struct volume_root root;
    const char *health;
    unsigned closing;
    bool closed_to_io;
};

static struct {
    unsigned opens, closes, open_now, purges, hand_overs, renewals;
    int open_error, close_error, purge_error;
    bool misuse; /* open twice at once, or closed with I/O */
} engine;
static struct store *store;

int volume_acquire(struct volume_host *host, uint64_t id, unsigned flags,
    struct volume **ret_volume, struct volume_owner *ret_owner, char **ret_error)
{
    struct volume *volume = NEW(struct volume);
    env_sleep_ns(SECOND_NS);
    int r = volume_root_load(host->store, id, &volume->root);
    const struct volume_root *root = &volume->root;
    bool theirs = root->state == VOLUME_OWNED;
    if (r == 0 && (theirs || (root->successor[0] && !(flags & VOLUME_ACQUIRE_FROM_SUCCESSOR)))) {
        *ret_owner = (struct volume_owner){.session = root->owner_session, .epoch = root->epoch};
        strcpy(ret_owner->node, theirs ? root->owner : root->successor);
        r = -EBUSY;
    }
    if (r == 0)
        r = engine.open_error;
    if (r < 0) {
        *ret_error = mem_strdup("cannot open");
        mem_free(volume);
        return r;
    }
    engine.opens++;
    engine.misuse |= engine.open_now++ > 0;
    volume->health = "ok";
    *ret_volume = volume;
    return 0;
}

uint32_t volume_epoch(const struct volume *volume)
{
    return volume->root.epoch;
}

int volume_hand_over(struct volume *volume, const char *successor, uint64_t *ret_pause_ns)
{
    volume->closed_to_io = true;
    env_sleep_ns(SECOND_NS);
    engine.hand_overs++;
    volume->root.state = VOLUME_RELEASED;
    strcpy(volume->root.successor, successor);
    assert_int_equal(volume_root_save(store, &volume->root), 0);
    volume->health = "halted";
    *ret_pause_ns = 5;
    return 0;
}

int volume_session_renewed(struct volume *volume)
{
    env_sleep_ns(SECOND_NS);
    return ++engine.renewals % 2 ? -EAGAIN : 0; /* once more, each */
}

void volume_close_begin(struct volume *volume)
{
    volume->closing++;
}

int volume_close(struct volume *volume)
{
    env_sleep_ns(SECOND_NS);
    engine.closes++;
    engine.open_now--;
    mem_free(volume);
    return engine.close_error;
}

const char *volume_name(const struct volume *volume)
{
    return volume->root.name;
}

const char *volume_pool_name(const struct volume *volume)
{
    return volume->root.pool;
}

static bool store_away;

bool volume_host_lease_valid(const struct volume_host *host)
{
    return !store_away;
}

uint64_t volume_host_session(const struct volume_host *host)
{
    return 1;
}

uint64_t volume_size_bytes(const struct volume *volume)
{
    return volume->root.size_bytes;
}

bool volume_halted(const struct volume *volume)
{
    return strcmp(volume->health, "halted") == 0;
}

bool volume_takes_io(const struct volume *volume)
{
    return !volume_halted(volume) && !volume->closed_to_io;
}

int volume_grow(struct volume *volume, uint64_t size_bytes)
{
    struct volume_root root = volume->root;
    root.size_bytes = size_bytes;
    int r = volume_root_save(store, &root);
    if (r == 0)
        volume->root = root;
    return r;
}

int volume_delete(struct volume_host *host, const char *name, char **ret_error)
{
    uint64_t id;
    struct volume_root root;
    char key[KEY_BYTES_MAX];
    assert_int_equal(volume_id_by_name(host->store, name, &id), 0);
    assert_int_equal(volume_root_load(host->store, id, &root), 0);
    root.state = VOLUME_DELETING;
    assert_int_equal(volume_root_save(host->store, &root), 0);
    struct store_op op = {STORE_DELETE, key_name(name, key), NULL, 0, false};
    return store_txn(host->store, NULL, 0, &op, 1, NULL);
}

int volume_purge(struct volume_host *host, uint64_t id)
{
    char key[KEY_BYTES_MAX];
    struct store_op op = {STORE_DELETE, key_volume(id, key), NULL, 0, false};
    env_sleep_ns(SECOND_NS);
    engine.purges++;
    return engine.purge_error ? engine.purge_error : store_txn(host->store, NULL, 0, &op, 1, NULL);
}

/* --- World ----------------------------------------------------------------------------------- */

static struct fake_env fake;
static struct volume_host host;
static struct volumes *volumes;
static struct store_mem *mem;
static void (*body)(void);
static bool finished;

static void make_volume(uint64_t id, const char *name, enum volume_state state)
{
    char key[KEY_BYTES_MAX], text[32];
    struct volume_root root = {.id = id, .size_bytes = 4096, .state = state};
    strcpy(root.name, name);
    strcpy(root.pool, "p");
    assert_int_equal(volume_root_save(store, &root), 0);
    snprintf(text, sizeof(text), "%016lx", id);
    struct store_op op = {STORE_PUT, key_name(name, key), text, 16, false};
    if (state != VOLUME_DELETING)
        assert_int_equal(store_txn(store, NULL, 0, &op, 1, NULL), 0);
}

static void run_body(void *arg)
{
    store = store_mem_open(mem);
    host = (struct volume_host){.store = store};
    make_volume(1, "a", VOLUME_NEW);
    make_volume(2, "b", VOLUME_NEW);
    volumes = volumes_new(&host, NULL);
    body();
    volumes_free(volumes);
    assert_int_equal(engine.open_now, 0);
    assert_false(engine.misuse);
    store_close(store);
    finished = true;
}

static void run(void **state, void (*fn)(void))
{
    body = fn;
    finished = false;
    memset(&engine, 0, sizeof(engine));
    mem = store_mem_new();
    fiber_sched_init(32);
    fake_env_init(&fake);
    log_set_level(LOG_LEVEL_ERROR);
    fake_env_run(&fake, run_body, NULL);
    assert_true(finished);
    assert_int_equal(mem_used_bytes(&fake.env), 0);
    fiber_set_default_env(NULL);
    env_fini(&fake.env);
    fiber_sched_fini();
    store_mem_free(mem);
}

#define BODY(name)                 \
    static void name##_body(void); \
    static void name(void **state) \
    {                              \
        run(state, name##_body);   \
    }                              \
    static void name##_body(void)

static struct volume *get(const char *name)
{
    struct volume *volume;
    CLEANUP_FREE char *error = NULL;
    assert_int_equal(volumes_get(volumes, name, &volume, &error), 0);
    return volume;
}

/* --- Getting --------------------------------------------------------------------------------- */

static struct volume *got[8];
static struct fiber_group group;

static void get_a(void *arg)
{
    *(struct volume **)arg = get("a");
    fiber_group_done(&group, 0);
}

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

static unsigned resized, removed;

static void on_resized(struct volumes_listener *listener)
{
    resized++;
}

static void let_go(void *arg)
{
    struct volumes_listener *listener = arg;
    env_sleep_ns(SECOND_NS);
    volumes_unlisten(listener);
    volumes_put(volumes, listener->volume);
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

/* --- Listeners, resize, rename, delete ---------------------------------------------------------
 */

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
    assert_in_range(engine.purges, 1, 5);
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
        cmocka_unit_test(callers_at_once_get_one_volume),
        cmocka_unit_test(unknown_and_unopenable_volumes_are_errors_with_words),
        cmocka_unit_test(why_a_volume_could_not_be_opened_is_remembered_for_a_while),
        cmocka_unit_test(of_many_that_could_not_be_opened_the_last_are_remembered),
        cmocka_unit_test(volume_without_users_is_closed_when_idle),
        cmocka_unit_test(halted_volume_is_opened_anew_once_its_users_let_go),
        cmocka_unit_test(the_owner_elsewhere_is_told),
        cmocka_unit_test(what_is_being_handed_over_is_given_to_nobody),
        cmocka_unit_test(what_was_handed_over_is_left_to_its_successor_for_a_while),
        cmocka_unit_test(a_new_session_reaches_every_open_volume),
        cmocka_unit_test(idle_holders_of_a_halted_volume_are_told_when_somebody_wants_it),
        cmocka_unit_test(growth_is_told_and_shrinking_refused),
        cmocka_unit_test(rename_needs_an_unused_volume_and_a_free_name),
        cmocka_unit_test(delete_of_a_used_volume_needs_force_and_ends_connections),
        cmocka_unit_test(connection_that_is_just_ending_does_not_make_it_busy),
        cmocka_unit_test(front_end_that_does_not_let_go_stops_a_forced_delete),
        cmocka_unit_test(deletes_and_gets_that_race_open_nothing_twice),
        cmocka_unit_test(close_releases_until_the_next_get),
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
