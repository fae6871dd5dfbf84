/* SPDX-License-Identifier: Apache-2.0
 *
 * What every store shares: dispatch, argument checks, and watches.
 *
 * A watch holds the changes not yet told, at most one a key (the newest): what waits is bounded by
 * the number of keys, however slow the callee is. One fiber a watch tells them, oldest first; it
 * exists only while there is something to tell.
 */
#include "common/store.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/store_impl.h"

struct watch_event {
    struct list link;
    struct store_value value;
};

struct store_watch {
    struct list link; /* store->watches */
    struct store *store;
    void *remote; /* of ops->watch_start */
    char *prefix;
    void (*changed)(void *ctx, const struct store_value *value);
    void *ctx;
    struct list events; /* struct watch_event.link, by revision */
    bool telling;       /* the fiber exists */
    bool stopped;
    struct fiber_queue quiet; /* store_watch_stop waits for the fiber's end */
};

void store_init(struct store *store, const struct store_ops *ops)
{
    *store = (struct store){.ops = ops, .env = fiber_env()};
    list_init(&store->watches);
}

void store_value_fini(struct store_value *value)
{
    mem_free(value->key);
    mem_free(value->data);
    *value = (struct store_value){0};
}

void store_list_free(struct store_value *values, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        store_value_fini(&values[i]);
    mem_free(values);
}

const char *store_strerror(int error)
{
    switch (error) {
    case -EHOSTUNREACH:
        return "it cannot be reached";
    case -ETIMEDOUT:
        return "it has not answered, and the outcome is not known";
    case -ENOSPC:
        return "its file system is full";
    case -ECANCELED:
        return "somebody else changed the same meanwhile";
    case -EBADMSG:
        return "a record is damaged (see the log)";
    default:
        return strerror(-error);
    }
}

/* --- Requests -------------------------------------------------------------------------------- */

static bool key_ok(const char *key)
{
    size_t len = strnlen(key, STORE_KEY_BYTES_MAX + 1);
    return len > 0 && len <= STORE_KEY_BYTES_MAX;
}

int store_get(struct store *store, const char *key, struct store_value *ret_value)
{
    return key_ok(key) ? store->ops->get(store, key, ret_value) : -EINVAL;
}

int store_list(
    struct store *store, const char *prefix, struct store_value **ret_values, unsigned *ret_count)
{
    if (strlen(prefix) > STORE_KEY_BYTES_MAX)
        return -EINVAL;
    return store->ops->list(store, prefix, NULL, UINT_MAX, ret_values, ret_count);
}

int store_list_page(struct store *store, const char *prefix, const char *after, unsigned max,
    struct store_value **ret_values, unsigned *ret_count)
{
    if (strlen(prefix) > STORE_KEY_BYTES_MAX || max == 0 ||
        (after && (!key_ok(after) || strncmp(after, prefix, strlen(prefix)) != 0)))
        return -EINVAL;
    return store->ops->list(store, prefix, after, max, ret_values, ret_count);
}

static bool op_ok(const struct store_op *ops, unsigned i)
{
    if (!key_ok(ops[i].key) || ops[i].len_bytes > STORE_VALUE_BYTES_MAX)
        return false;
    for (unsigned j = 0; j < i; j++)
        if (strcmp(ops[i].key, ops[j].key) == 0)
            return false;
    return true;
}

int store_txn(struct store *store, const struct store_compare *compares, unsigned compare_count,
    const struct store_op *ops, unsigned op_count, uint64_t *ret_revision)
{
    if (compare_count > STORE_TXN_MAX || op_count > STORE_TXN_MAX)
        return -EINVAL;
    for (unsigned i = 0; i < compare_count; i++)
        if (!key_ok(compares[i].key))
            return -EINVAL;
    for (unsigned i = 0; i < op_count; i++)
        if (!op_ok(ops, i))
            return -EINVAL;
    uint64_t revision;
    int r = store->ops->txn(store, compares, compare_count, ops, op_count, &revision);
    if (r == 0 && ret_revision)
        *ret_revision = revision;
    return r;
}

int store_session_start(struct store *store, uint64_t ttl_ns)
{
    return store->ops->session_start(store, ttl_ns);
}

uint64_t store_session_valid_until_ns(const struct store *store)
{
    return store->ops->session_valid_until_ns(store);
}

void store_close(struct store *store)
{
    while (!list_empty(&store->watches))
        store_watch_stop(list_entry(store->watches.next, struct store_watch, link));
    store->ops->close(store);
}

/* --- Watches: plain malloc, since a change by one simulated node is queued for another ---------
 */

static void *must_alloc(size_t len_bytes)
{
    void *p = malloc(len_bytes ? len_bytes : 1);
    CHECK_MSG(p, "out of memory");
    return p;
}

static void event_free(struct watch_event *event)
{
    free(event->value.key);
    free(event->value.data);
    free(event);
}

static void watch_free(struct store_watch *watch)
{
    list_remove(&watch->link);
    for (struct list *item; (item = list_pop_front(&watch->events));)
        event_free(list_entry(item, struct watch_event, link));
    free(watch->prefix);
    free(watch);
}

static void watch_tell(void *arg)
{
    struct store_watch *watch = arg;
    while (!watch->stopped) {
        struct list *item = list_pop_front(&watch->events);
        if (!item)
            break;
        struct watch_event *event = list_entry(item, struct watch_event, link);
        watch->changed(watch->ctx, &event->value);
        event_free(event);
    }
    watch->telling = false;
    fiber_queue_wake_all(&watch->quiet);
}

static struct watch_event *event_of_key(struct store_watch *watch, const char *key)
{
    list_for_each (it, &watch->events) {
        struct watch_event *event = list_entry(it, struct watch_event, link);
        if (strcmp(event->value.key, key) == 0)
            return event;
    }
    return NULL;
}

static void watch_queue(struct store_watch *watch, const char *key, const void *data,
    size_t len_bytes, uint64_t revision)
{
    struct watch_event *event = event_of_key(watch, key);
    if (event && event->value.revision >= revision)
        return; /* the first look found what the notice brings */
    if (event) {
        list_remove(&event->link);
        free(event->value.data);
    } else {
        event = must_alloc(sizeof(*event));
        event->value.key = must_alloc(strlen(key) + 1);
        strcpy(event->value.key, key);
    }
    event->value.data = NULL;
    if (data) {
        event->value.data = must_alloc(len_bytes + 1);
        memcpy(event->value.data, data, len_bytes);
        event->value.data[len_bytes] = 0;
    }
    event->value.len_bytes = len_bytes;
    event->value.revision = revision;
    list_push_back(&watch->events, &event->link);
    if (!watch->telling) {
        watch->telling = true;
        fiber_spawn_on(watch->store->env, "store watch", watch_tell, watch);
    }
}

void store_notify(
    struct store *store, const char *key, const void *data, size_t len_bytes, uint64_t revision)
{
    list_for_each (it, &store->watches) {
        struct store_watch *watch = list_entry(it, struct store_watch, link);
        if (strncmp(key, watch->prefix, strlen(watch->prefix)) == 0)
            watch_queue(watch, key, data, len_bytes, revision);
    }
}

void store_watch_tell(struct store_watch *watch, const char *key, const void *data,
    size_t len_bytes, uint64_t revision)
{
    watch_queue(watch, key, data, len_bytes, revision);
}

void store_forget_watches(struct store *store)
{
    while (!list_empty(&store->watches))
        watch_free(list_entry(store->watches.next, struct store_watch, link));
}

/* What is there now, for a store that learns of changes by store_notify(). */
static MAY_SUSPEND int watch_look(struct store_watch *watch, uint64_t revision)
{
    struct store_value *values;
    unsigned count;
    int r = store_list(watch->store, watch->prefix, &values, &count);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < count; i++)
        if (values[i].revision > revision)
            watch_queue(
                watch, values[i].key, values[i].data, values[i].len_bytes, values[i].revision);
    store_list_free(values, count);
    return 0;
}

uint64_t store_histories(const struct store *store)
{
    return store->histories;
}

int store_watch_start(struct store *store, const char *prefix, uint64_t revision,
    void (*changed)(void *ctx, const struct store_value *value), void *ctx,
    struct store_watch **ret_watch)
{
    struct store_watch *watch = must_alloc(sizeof(*watch));
    *watch = (struct store_watch){.store = store, .changed = changed, .ctx = ctx};
    watch->prefix = must_alloc(strlen(prefix) + 1);
    strcpy(watch->prefix, prefix);
    list_init(&watch->events);
    fiber_queue_init(&watch->quiet);
    /* Listed before the look at what is there: no change falls between. */
    list_push_back(&store->watches, &watch->link);

    /* Nothing is told before the look is done: a delete that follows a put must not precede it. */
    watch->telling = true;
    int r = store->ops->watch_start
                ? store->ops->watch_start(store, watch, prefix, revision, &watch->remote)
                : watch_look(watch, revision);
    watch->telling = false;
    if (r < 0) {
        watch_free(watch);
        return r;
    }
    if (!list_empty(&watch->events) && !watch->telling) {
        watch->telling = true;
        fiber_spawn_on(store->env, "store watch", watch_tell, watch);
    }
    *ret_watch = watch;
    return 0;
}

void store_watch_settle(struct store_watch *watch)
{
    while (watch->telling)
        fiber_queue_wait(&watch->quiet);
}

void store_watch_stop(struct store_watch *watch)
{
    watch->stopped = true;
    if (watch->remote)
        watch->store->ops->watch_stop(watch->store, watch->remote);
    while (watch->telling)
        fiber_queue_wait(&watch->quiet);
    watch_free(watch);
}
