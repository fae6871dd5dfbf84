/* SPDX-License-Identifier: Apache-2.0
 *
 * What every implementation of common/store.h does. The including test defines, before:
 *   static struct store *open_store(void);   a handle to the test's store, from a fiber
 *   static void run(void (*body)(void));     runs `body` in a fiber, to its end
 *   static uint64_t second_ns;               how long nothing has to happen to be believed
 * and lists SUITE(TEST), where TEST(name) makes a cmocka entry.
 */
#pragma once

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/env.h"
#include "common/mem.h"
#include "common/store.h"

#define SECOND_NS second_ns

#define BODY(name)                 \
    static void name##_body(void); \
    static void name(void **state) \
    {                              \
        run(name##_body);          \
    }                              \
    static void name##_body(void)

static struct store_op put_op(const char *key, const char *text)
{
    return (struct store_op){STORE_PUT, key, text, strlen(text), false};
}

static uint64_t put(struct store *store, const char *key, const char *text)
{
    struct store_op op = put_op(key, text);
    uint64_t revision;
    assert_int_equal(store_txn(store, NULL, 0, &op, 1, &revision), 0);
    return revision;
}

static void remove_key(struct store *store, const char *key)
{
    struct store_op op = {STORE_DELETE, key, NULL, 0, false};
    assert_int_equal(store_txn(store, NULL, 0, &op, 1, NULL), 0);
}

static void assert_holds(struct store *store, const char *key, const char *text)
{
    struct store_value value;
    int r = store_get(store, key, &value);
    assert_int_equal(r, text ? 0 : -ENOENT);
    if (text) {
        assert_string_equal(value.key, key);
        assert_int_equal(value.len_bytes, strlen(text));
        assert_string_equal(value.data, text);
        store_value_fini(&value);
    }
}

/* --- Every store ----------------------------------------------------------------------------- */

BODY(put_is_read_back_with_the_transactions_revision)
{
    struct store *store = open_store();
    uint64_t revision = put(store, "a/1", "one");
    struct store_value value;
    assert_int_equal(store_get(store, "a/1", &value), 0);
    assert_int_equal(value.revision, revision);
    assert_string_equal(value.data, "one");
    store_value_fini(&value);
    assert_true(put(store, "a/1", "") > revision);
    assert_holds(store, "a/1", "");
    remove_key(store, "a/1");
    remove_key(store, "a/1");
    assert_holds(store, "a/1", NULL);
    store_close(store);
}

BODY(list_gives_the_prefix_in_key_order)
{
    struct store *store = open_store();
    const char *keys[] = {"v/3", "v/1", "w", "v/22", "v", "u/9", "v/"};
    for (unsigned i = 0; i < ARRAY_SIZE(keys); i++)
        put(store, keys[i], keys[i]);
    struct store_value *values;
    unsigned count;
    assert_int_equal(store_list(store, "v/", &values, &count), 0);
    assert_int_equal(count, 4);
    assert_string_equal(values[0].key, "v/");
    assert_string_equal(values[1].key, "v/1");
    assert_string_equal(values[2].key, "v/22");
    assert_string_equal(values[3].data, "v/3");
    store_list_free(values, count);
    assert_int_equal(store_list(store, "", &values, &count), 0);
    assert_int_equal(count, 7);
    store_list_free(values, count);
    assert_int_equal(store_list(store, "zzz", &values, &count), 0);
    assert_int_equal(count, 0);
    store_list_free(values, count);
    store_close(store);
}

/* The keys of a list, page by page, as "a b c|d e f|". */
static void assert_pages(struct store *store, const char *after, unsigned max, const char *expected)
{
    char text[256] = "", key[64] = "";
    if (after)
        strcpy(key, after);
    unsigned count;
    do {
        struct store_value *values;
        assert_int_equal(
            store_list_page(store, "v/", key[0] ? key : NULL, max, &values, &count), 0);
        assert_true(count <= max);
        for (unsigned i = 0; i < count; i++) {
            sprintf(text + strlen(text), "%s%s", i ? " " : "", values[i].key);
            assert_string_equal(values[i].key, values[i].data);
        }
        if (count > 0)
            strcpy(key, values[count - 1].key);
        store_list_free(values, count);
        strcat(text, "|");
    } while (count == max);
    assert_string_equal(text, expected);
}

BODY(list_comes_page_by_page)
{
    struct store *store = open_store();
    const char *keys[] = {"v/3", "v/1", "w", "v/22", "v", "u/9", "v/", "v/4"};
    for (unsigned i = 0; i < ARRAY_SIZE(keys); i++)
        put(store, keys[i], keys[i]);
    assert_pages(store, NULL, 1, "v/|v/1|v/22|v/3|v/4||");
    assert_pages(store, NULL, 2, "v/ v/1|v/22 v/3|v/4|");
    assert_pages(store, NULL, 5, "v/ v/1 v/22 v/3 v/4||");
    assert_pages(store, NULL, 1000, "v/ v/1 v/22 v/3 v/4|");
    assert_pages(store, "v/22", 3, "v/3 v/4|");
    assert_pages(store, "v/2", 2, "v/22 v/3|v/4|"); /* it is gone meanwhile, say */
    assert_pages(store, "v/9", 2, "|");
    struct store_value *values;
    unsigned count;
    assert_int_equal(store_list_page(store, "v/", "w", 2, &values, &count), -EINVAL);
    assert_int_equal(store_list_page(store, "v/", NULL, 0, &values, &count), -EINVAL);
    store_close(store);
}

BODY(transaction_is_all_or_nothing)
{
    struct store *store = open_store();
    uint64_t revision = put(store, "root", "r");
    struct store_op ops[] = {
        put_op("root", "r2"), put_op("name", "n"), {STORE_DELETE, "old", NULL, 0, false}};
    put(store, "old", "o");
    struct store_compare compares[] = {{"root", revision}, {"name", 1}};
    uint64_t untouched = 77;
    assert_int_equal(store_txn(store, compares, 2, ops, 3, &untouched), -ECANCELED);
    assert_int_equal(untouched, 77);
    assert_holds(store, "root", "r");
    assert_holds(store, "name", NULL);
    assert_holds(store, "old", "o");
    compares[1].revision = 0; /* must be absent */
    uint64_t after;
    assert_int_equal(store_txn(store, compares, 2, ops, 3, &after), 0);
    assert_holds(store, "root", "r2");
    assert_holds(store, "name", "n");
    assert_holds(store, "old", NULL);
    assert_int_equal(store_txn(store, compares, 2, ops, 3, NULL), -ECANCELED);
    struct store_value value;
    assert_int_equal(store_get(store, "name", &value), 0);
    assert_int_equal(value.revision, after);
    store_value_fini(&value);
    store_close(store);
}

BODY(revision_of_a_key_made_again_is_new)
{
    struct store *store = open_store();
    uint64_t first = put(store, "k", "1");
    remove_key(store, "k");
    struct store_compare compare = {"k", first};
    struct store_op op = put_op("k", "2");
    assert_int_equal(store_txn(store, &compare, 1, &op, 1, NULL), -ECANCELED);
    assert_true(put(store, "k", "1") > first);
    store_close(store);
}

BODY(limits_are_refused_by_name)
{
    struct store *store = open_store();
    char key[STORE_KEY_BYTES_MAX + 2];
    memset(key, 'k', sizeof(key));
    key[STORE_KEY_BYTES_MAX + 1] = 0;
    struct store_value value;
    assert_int_equal(store_get(store, key, &value), -EINVAL);
    assert_int_equal(store_get(store, "", &value), -EINVAL);
    key[STORE_KEY_BYTES_MAX] = 0;
    put(store, key, "longest");
    assert_holds(store, key, "longest");
    struct store_op twice[] = {put_op("k", "1"), put_op("k", "2")};
    assert_int_equal(store_txn(store, NULL, 0, twice, 2, NULL), -EINVAL);
    size_t len = STORE_VALUE_BYTES_MAX;
    char *big = mem_zalloc(1, len + 1);
    struct store_op op = {STORE_PUT, "big", big, len + 1, false};
    assert_int_equal(store_txn(store, NULL, 0, &op, 1, NULL), -EINVAL);
    op.len_bytes = len;
    assert_int_equal(store_txn(store, NULL, 0, &op, 1, NULL), 0);
    assert_int_equal(store_get(store, "big", &value), 0);
    assert_int_equal(value.len_bytes, len);
    assert_int_equal(value.data[len], 0);
    store_value_fini(&value);
    mem_free(big);
    store_close(store);
}

BODY(content_outlives_the_handle_and_revisions_go_on)
{
    struct store *store = open_store();
    uint64_t before = put(store, "k", "v");
    store_close(store);
    store = open_store();
    assert_holds(store, "k", "v");
    assert_true(put(store, "k", "w") > before);
    store_close(store);
}

BODY(session_keys_go_with_the_handle)
{
    struct store *store = open_store();
    struct store_op ops[] = {put_op("node/1", "here"), put_op("plain", "p")};
    ops[0].session = true;
    assert_int_equal(store_session_valid_until_ns(store), 0);
    assert_int_equal(store_txn(store, NULL, 0, ops, 2, NULL), -ESTALE);
    assert_holds(store, "plain", NULL);
    assert_int_equal(store_session_start(store, 5 * SECOND_NS), 0);
    assert_true(store_session_valid_until_ns(store) > env_boottime_ns());
    assert_int_equal(store_txn(store, NULL, 0, ops, 2, NULL), 0);
    assert_holds(store, "node/1", "here");
    store_close(store);
    store = open_store();
    assert_holds(store, "node/1", NULL);
    assert_holds(store, "plain", "p");
    store_close(store);
}

/* Watches: notes what they were told as "key=data" or "-key". */
static char told[512];
static bool hold_watch; /* calls of a watch that was given a ctx wait for its end */

static void note_change(void *ctx, const struct store_value *value)
{
    size_t len = strlen(told);
    if (value->data)
        snprintf(told + len, sizeof(told) - len, "%s=%s ", value->key, value->data);
    else
        snprintf(told + len, sizeof(told) - len, "-%s ", value->key);
    assert_true(value->revision > 0);
    while (ctx && hold_watch)
        env_sleep_ns(SECOND_NS / 100);
}

static void await_told(const char *what)
{
    for (unsigned i = 0; i < 6000 && strcmp(told, what) != 0; i++)
        env_sleep_ns(SECOND_NS / 10);
    CHECK_MSG(strcmp(told, what) == 0, "told \"%s\", not \"%s\"", told, what);
}

BODY(watch_tells_what_is_there_and_each_change)
{
    struct store *store = open_store();
    struct store_watch *watch;
    told[0] = 0;
    uint64_t first = put(store, "d/1", "old");
    put(store, "d/2", "new");
    assert_int_equal(store_watch_start(store, "d/", first, note_change, NULL, &watch), 0);
    await_told("d/2=new ");
    put(store, "e", "not mine");
    put(store, "d/3", "x");
    await_told("d/2=new d/3=x ");
    remove_key(store, "d/3");
    remove_key(store, "d/3");
    await_told("d/2=new d/3=x -d/3 ");
    store_watch_stop(watch);
    put(store, "d/4", "x");
    env_sleep_ns(SECOND_NS);
    assert_string_equal(told, "d/2=new d/3=x -d/3 ");
    store_close(store);
}

static void release_watch(void *arg)
{
    env_sleep_ns(SECOND_NS / 4);
    hold_watch = false;
}

BODY(slow_watch_is_told_the_last_change_of_each_key)
{
    struct store *store = open_store();
    struct store_watch *watch;
    told[0] = 0;
    hold_watch = true;
    assert_int_equal(store_watch_start(store, "", 0, note_change, "slow", &watch), 0);
    put(store, "a", "1");
    await_told("a=1 ");
    put(store, "b", "1");
    put(store, "c", "1");
    put(store, "b", "2");
    remove_key(store, "c");
    put(store, "b", "3");
    env_sleep_ns(10 * SECOND_NS); /* all of it has come; nothing is told meanwhile */
    assert_string_equal(told, "a=1 ");
    hold_watch = false;
    await_told("a=1 -c b=3 ");
    hold_watch = true;
    put(store, "a", "2");
    await_told("a=1 -c b=3 a=2 ");
    put(store, "a", "never told");
    fiber_spawn("release", release_watch, NULL);
    store_watch_stop(watch); /* waits for the call under way */
    assert_string_equal(told, "a=1 -c b=3 a=2 ");
    store_close(store);
}

BODY(close_stops_watches)
{
    struct store *store = open_store();
    struct store_watch *watch;
    told[0] = 0;
    assert_int_equal(store_watch_start(store, "", 0, note_change, NULL, &watch), 0);
    put(store, "a", "1");
    store_close(store);
}

struct counter {
    struct store *store;
    struct fiber_group group;
};

static void count_up(void *arg)
{
    struct counter *counter = arg;
    for (unsigned done = 0; done < 10;) {
        struct store_value value;
        char text[16];
        CHECK(store_get(counter->store, "n", &value) == 0);
        snprintf(text, sizeof(text), "%d", atoi(value.data) + 1);
        struct store_compare compare = {"n", value.revision};
        struct store_op op = put_op("n", text);
        int r = store_txn(counter->store, &compare, 1, &op, 1, NULL);
        CHECK(r == 0 || r == -ECANCELED);
        done += r == 0;
        store_value_fini(&value);
    }
    fiber_group_done(&counter->group, 0);
}

BODY(concurrent_compare_and_swap_loses_no_update)
{
    struct counter counter = {.store = open_store()};
    put(counter.store, "n", "0");
    fiber_group_init(&counter.group);
    fiber_group_add(&counter.group, 8);
    for (unsigned i = 0; i < 8; i++)
        fiber_spawn("count", count_up, &counter);
    assert_int_equal(fiber_group_wait(&counter.group), 0);
    assert_holds(counter.store, "n", "80");
    store_close(counter.store);
}

#define SUITE(TEST)                                                                              \
    TEST(put_is_read_back_with_the_transactions_revision),                                       \
        TEST(list_gives_the_prefix_in_key_order), TEST(list_comes_page_by_page),                 \
        TEST(transaction_is_all_or_nothing), TEST(revision_of_a_key_made_again_is_new),          \
        TEST(limits_are_refused_by_name), TEST(content_outlives_the_handle_and_revisions_go_on), \
        TEST(session_keys_go_with_the_handle), TEST(watch_tells_what_is_there_and_each_change),  \
        TEST(slow_watch_is_told_the_last_change_of_each_key), TEST(close_stops_watches),         \
        TEST(concurrent_compare_and_swap_loses_no_update)
