/* SPDX-License-Identifier: Apache-2.0
 *
 * The store of tests and of the simulation: a sorted array in memory that plays a reachable or
 * unreachable etcd for many nodes. All of it is plain malloc, since it outlives the nodes (envs).
 *
 * A request sleeps, takes effect at one instant, and sleeps again: a node that is killed in the
 * second sleep has changed the store and does not know it (S13).
 *
 * Sessions end by time: each handle's timer keeps its own alive and ends those whose time is over,
 * so that another node learns of it without asking.
 *
 * Each watch has a queue of its own: what happened is told late where that is asked for, in order, and to each node
 * at another time.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/env.h"
#include "common/env_impl.h"
#include "common/mem.h"
#include "common/rng.h"
#include "common/store_impl.h"

struct entry {
    char *key;
    char *data;
    size_t len_bytes;
    uint64_t revision;
    uint64_t session; /* 0 = of none */
};

struct session {
    struct list link;
    uint64_t id;
    uint64_t deadline_ns;
};

struct store_mem {
    struct entry *entries; /* by key */
    unsigned count, capacity;
    uint64_t revision;
    uint64_t session_last, handle_last;
    struct list sessions; /* struct session.link */
    struct list handles;  /* struct handle.link */
    int fault;
    uint64_t delay_ns;
    uint64_t watch_delay_ns;
    uint32_t conflicts_ppm;
    uint64_t (*now_ns)(void); /* the store's own clock */
};

struct handle {
    struct store store;
    struct list link;
    struct store_mem *mem;
    uint64_t number;
    uint64_t session; /* 0 = none */
    uint64_t ttl_ns;
    uint64_t valid_until_ns; /* by CLOCK_BOOTTIME */
    struct env_timer timer;
    struct list watches; /* struct mem_watch.link */
};

/* A change on its way to a watch. */
struct notice {
    struct list link;
    char *key, *data; /* data NULL: deleted */
    size_t len_bytes;
    uint64_t revision;
    uint64_t due_ns; /* by the clock of the watch's env */
    bool first_put;  /* nothing of this key was told before */
};

struct mem_watch {
    struct list link;
    struct handle *handle;
    struct store_watch *watch;
    char *prefix;
    struct list notices; /* struct notice.link, by revision */
    struct env_timer timer;
};

static struct handle *handle_of(const struct store *store)
{
    return container_of(store, struct handle, store);
}

static void *must(void *p)
{
    CHECK_MSG(p, "out of memory");
    return p;
}

static char *copy_of(const void *data, size_t len_bytes)
{
    char *copy = must(malloc(len_bytes + 1));
    if (len_bytes)
        memcpy(copy, data, len_bytes);
    copy[len_bytes] = 0;
    return copy;
}

/* --- Content --------------------------------------------------------------------------------- */

/* Index of `key`, or of the first key after it. */
static unsigned entry_at(const struct store_mem *mem, const char *key)
{
    unsigned low = 0, high = mem->count;
    while (low < high) {
        unsigned mid = (low + high) / 2;
        if (strcmp(mem->entries[mid].key, key) < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static struct entry *entry_find(const struct store_mem *mem, const char *key)
{
    unsigned i = entry_at(mem, key);
    return i < mem->count && strcmp(mem->entries[i].key, key) == 0 ? &mem->entries[i] : NULL;
}

static struct entry *entry_insert(struct store_mem *mem, const char *key)
{
    if (mem->count == mem->capacity) {
        mem->capacity = mem->capacity ? mem->capacity * 2 : 16;
        mem->entries = must(realloc(mem->entries, mem->capacity * sizeof(*mem->entries)));
    }
    unsigned i = entry_at(mem, key);
    memmove(&mem->entries[i + 1], &mem->entries[i], (mem->count - i) * sizeof(*mem->entries));
    mem->count++;
    mem->entries[i] = (struct entry){.key = copy_of(key, strlen(key))};
    return &mem->entries[i];
}

static void entry_remove(struct store_mem *mem, struct entry *entry)
{
    unsigned i = (unsigned)(entry - mem->entries);
    free(entry->key);
    free(entry->data);
    mem->count--;
    memmove(&mem->entries[i], &mem->entries[i + 1], (mem->count - i) * sizeof(*mem->entries));
}

/* --- Watches --------------------------------------------------------------------------------- */

static uint64_t watch_now_ns(const struct mem_watch *watch)
{
    struct env *env = watch->handle->store.env;
    return env->ops->now_ns(env);
}

static void notice_free(struct notice *notice)
{
    list_remove(&notice->link);
    free(notice->key);
    free(notice->data);
    free(notice);
}

static void notices_tell_due(struct mem_watch *watch)
{
    while (!list_empty(&watch->notices)) {
        struct notice *notice = list_entry(watch->notices.next, struct notice, link);
        if (notice->due_ns > watch_now_ns(watch)) {
            env_timer_arm(&watch->timer, notice->due_ns);
            return;
        }
        store_watch_tell(
            watch->watch, notice->key, notice->data, notice->len_bytes, notice->revision);
        notice_free(notice);
    }
}

static void watch_timer_fired(struct env_timer *timer)
{
    notices_tell_due(container_of(timer, struct mem_watch, timer));
}

static void notice_queue(struct mem_watch *watch, const struct entry *entry, bool deleted,
    bool first_put, uint64_t revision)
{
    const struct store_mem *mem = watch->handle->mem;
    struct notice *notice = must(calloc(1, sizeof(*notice)));
    notice->key = copy_of(entry->key, strlen(entry->key));
    notice->data = deleted ? NULL : copy_of(entry->data, entry->len_bytes);
    notice->len_bytes = deleted ? 0 : entry->len_bytes;
    notice->revision = revision;
    notice->first_put = first_put;
    notice->due_ns = watch_now_ns(watch);
    if (mem->watch_delay_ns)
        notice->due_ns += rng_mix(revision ^ watch->handle->number << 32) % mem->watch_delay_ns;
    if (!list_empty(&watch->notices))
        notice->due_ns =
            MAX(notice->due_ns, list_entry(watch->notices.prev, struct notice, link)->due_ns);
    list_push_back(&watch->notices, &notice->link);
    notices_tell_due(watch);
}

static void notify_all(struct store_mem *mem, const struct entry *entry, bool deleted,
    bool first_put, uint64_t revision)
{
    list_for_each (it, &mem->handles) {
        struct handle *handle = list_entry(it, struct handle, link);
        list_for_each (jt, &handle->watches) {
            struct mem_watch *watch = list_entry(jt, struct mem_watch, link);
            if (strncmp(entry->key, watch->prefix, strlen(watch->prefix)) == 0)
                notice_queue(watch, entry, deleted, first_put, revision);
        }
    }
}

static void watch_end(struct mem_watch *watch)
{
    while (!list_empty(&watch->notices))
        notice_free(list_entry(watch->notices.next, struct notice, link));
    list_remove(&watch->link);
    free(watch->prefix);
    free(watch);
}

/* The history between was thrown away (etcd's compaction): of each key only the latest is learned, and nothing of
 * one that came and went. */
static void watch_resync(struct mem_watch *watch)
{
    list_for_each_safe (it, &watch->notices) {
        struct notice *notice = list_entry(it, struct notice, link), *later = NULL;
        for (struct list *jt = it->next; jt != &watch->notices && !later; jt = jt->next) {
            struct notice *other = list_entry(jt, struct notice, link);
            later = strcmp(other->key, notice->key) == 0 ? other : NULL;
        }
        if (later)
            later->first_put = notice->first_put;
        if (later || (!notice->data && notice->first_put))
            notice_free(notice);
    }
}

/* --- Changes --------------------------------------------------------------------------------- */

static void delete_key(struct store_mem *mem, const char *key, uint64_t revision)
{
    struct entry *entry = entry_find(mem, key);
    if (!entry)
        return;
    notify_all(mem, entry, true, false, revision);
    entry_remove(mem, entry);
}

static void put_key(
    struct store_mem *mem, const struct store_op *op, uint64_t session, uint64_t revision)
{
    struct entry *entry = entry_find(mem, op->key);
    bool first_put = !entry;
    if (!entry)
        entry = entry_insert(mem, op->key);
    free(entry->data);
    entry->data = copy_of(op->data, op->len_bytes);
    entry->len_bytes = op->len_bytes;
    entry->revision = revision;
    entry->session = op->session ? session : 0;
    notify_all(mem, entry, false, first_put, revision);
}

/* Somebody else writes what a transaction compares, as it was. */
static void touch_one(
    struct store_mem *mem, const struct store_compare *compares, unsigned compare_count)
{
    for (unsigned i = 0; i < compare_count; i++) {
        struct entry *entry = entry_find(mem, compares[i].key);
        if (!entry)
            continue;
        entry->revision = ++mem->revision;
        notify_all(mem, entry, false, false, entry->revision);
        return;
    }
}

/* --- Sessions -------------------------------------------------------------------------------- */

static struct session *session_find(const struct store_mem *mem, uint64_t id)
{
    list_for_each (it, &mem->sessions)
        if (list_entry(it, struct session, link)->id == id)
            return list_entry(it, struct session, link);
    return NULL;
}

static void session_end(struct store_mem *mem, struct session *session)
{
    uint64_t revision = ++mem->revision;
    for (unsigned i = mem->count; i-- > 0;)
        if (mem->entries[i].session == session->id) {
            notify_all(mem, &mem->entries[i], true, false, revision);
            entry_remove(mem, &mem->entries[i]);
        }
    list_remove(&session->link);
    free(session);
}

static void sessions_expire(struct store_mem *mem)
{
    uint64_t now_ns = mem->now_ns();
    list_for_each_safe (it, &mem->sessions) {
        struct session *session = list_entry(it, struct session, link);
        if (session->deadline_ns <= now_ns)
            session_end(mem, session);
    }
}

/* A sign of life; a session that has ended stays ended. */
static void session_renew(struct handle *handle)
{
    struct session *session = handle->session ? session_find(handle->mem, handle->session) : NULL;
    if (!session) {
        handle->session = 0;
        handle->valid_until_ns = 0;
        return;
    }
    session->deadline_ns = handle->mem->now_ns() + handle->ttl_ns;
    handle->valid_until_ns = env_boottime_ns() + handle->ttl_ns / 5 * 4; /* S16 */
}

static void session_timer_fired(struct env_timer *timer)
{
    struct handle *handle = container_of(timer, struct handle, timer);
    sessions_expire(handle->mem);
    if (!handle->mem->fault)
        session_renew(handle);
    if (handle->session)
        env_timer_arm(timer, env_now_ns() + handle->ttl_ns / 5);
}

/* --- Requests -------------------------------------------------------------------------------- */

/* First half of a request's time. Negative: the request's answer, nothing happens. */
static int request_begin(struct handle *handle)
{
    struct store_mem *mem = handle->mem;
    if (mem->delay_ns)
        env_sleep_ns(mem->delay_ns / 2);
    sessions_expire(mem);
    return mem->fault;
}

static int request_end(struct handle *handle, int r)
{
    if (handle->mem->delay_ns)
        env_sleep_ns(handle->mem->delay_ns - handle->mem->delay_ns / 2);
    return r;
}

static void value_fill(struct store_value *value, const struct entry *entry)
{
    value->key = mem_strdup(entry->key);
    value->data = mem_alloc(entry->len_bytes + 1);
    memcpy(value->data, entry->data, entry->len_bytes + 1);
    value->len_bytes = entry->len_bytes;
    value->revision = entry->revision;
}

static int mem_get(struct store *store, const char *key, struct store_value *ret_value)
{
    struct handle *handle = handle_of(store);
    struct store_value value;
    int r = request_begin(handle);
    if (r < 0)
        return request_end(handle, r);
    const struct entry *entry = entry_find(handle->mem, key);
    if (!entry)
        return request_end(handle, -ENOENT);
    value_fill(&value, entry);
    *ret_value = value;
    return request_end(handle, 0);
}

static int mem_list(struct store *store, const char *prefix, const char *after, unsigned max,
    struct store_value **ret_values, unsigned *ret_count)
{
    struct handle *handle = handle_of(store);
    const struct store_mem *mem = handle->mem;
    int r = request_begin(handle);
    if (r < 0)
        return request_end(handle, r);
    unsigned first = entry_at(mem, after ? after : prefix), count = 0;
    if (after && first < mem->count && strcmp(mem->entries[first].key, after) == 0)
        first++;
    while (count < max && first + count < mem->count &&
           strncmp(mem->entries[first + count].key, prefix, strlen(prefix)) == 0)
        count++;
    struct store_value *values = mem_zalloc(count, sizeof(*values));
    for (unsigned i = 0; i < count; i++)
        value_fill(&values[i], &mem->entries[first + i]);
    *ret_values = values;
    *ret_count = count;
    return request_end(handle, 0);
}

static int txn_apply(struct handle *handle, const struct store_compare *compares,
    unsigned compare_count, const struct store_op *ops, unsigned op_count, uint64_t *ret_revision)
{
    struct store_mem *mem = handle->mem;
    bool alive = handle->session && session_find(mem, handle->session);
    for (unsigned i = 0; i < op_count; i++)
        if (ops[i].type == STORE_PUT && ops[i].session && !alive)
            return -ESTALE;
    for (unsigned i = 0; i < compare_count; i++) {
        const struct entry *entry = entry_find(mem, compares[i].key);
        if ((entry ? entry->revision : 0) != compares[i].revision)
            return -ECANCELED;
    }
    uint64_t revision = ++mem->revision;
    for (unsigned i = 0; i < op_count; i++) {
        if (ops[i].type == STORE_DELETE)
            delete_key(mem, ops[i].key, revision);
        else
            put_key(mem, &ops[i], handle->session, revision);
    }
    *ret_revision = revision;
    return 0;
}

static int mem_txn(struct store *store, const struct store_compare *compares,
    unsigned compare_count, const struct store_op *ops, unsigned op_count, uint64_t *ret_revision)
{
    struct handle *handle = handle_of(store);
    int r = request_begin(handle);
    if (r == 0 && handle->mem->conflicts_ppm &&
        env_random_u64() % 1000000 < handle->mem->conflicts_ppm)
        touch_one(handle->mem, compares, compare_count);
    if (r == 0 || (r == -ETIMEDOUT && (env_random_u64() & 1))) {
        int applied = txn_apply(handle, compares, compare_count, ops, op_count, ret_revision);
        r = r < 0 ? r : applied;
    }
    return request_end(handle, r);
}

static int mem_session_start(struct store *store, uint64_t ttl_ns)
{
    struct handle *handle = handle_of(store);
    struct store_mem *mem = handle->mem;
    int r = request_begin(handle);
    if (r == 0) {
        struct session *old = handle->session ? session_find(mem, handle->session) : NULL;
        if (old)
            session_end(mem, old);
        struct session *session = must(calloc(1, sizeof(*session)));
        session->id = handle->session = ++mem->session_last;
        list_push_back(&mem->sessions, &session->link);
        handle->ttl_ns = MAX(ttl_ns, 5);
        session_renew(handle);
        env_timer_arm(&handle->timer, env_now_ns() + handle->ttl_ns / 5);
    }
    return request_end(handle, r);
}

static uint64_t mem_session_valid_until_ns(const struct store *store)
{
    return handle_of(store)->valid_until_ns;
}

/* What is there and what comes are divided at one moment. */
static int mem_watch_start(struct store *store, struct store_watch *told, const char *prefix,
    uint64_t revision, void **ret_remote)
{
    struct handle *handle = handle_of(store);
    const struct store_mem *mem = handle->mem;
    int r = request_begin(handle);
    if (r < 0)
        return request_end(handle, r);
    for (unsigned i = entry_at(mem, prefix); i < mem->count; i++) {
        const struct entry *entry = &mem->entries[i];
        if (strncmp(entry->key, prefix, strlen(prefix)) != 0)
            break;
        if (entry->revision > revision)
            store_watch_tell(told, entry->key, entry->data, entry->len_bytes, entry->revision);
    }
    struct mem_watch *watch = must(calloc(1, sizeof(*watch)));
    watch->handle = handle;
    watch->watch = told;
    watch->prefix = copy_of(prefix, strlen(prefix));
    list_init(&watch->notices);
    env_timer_init(&watch->timer, watch_timer_fired);
    list_push_back(&handle->watches, &watch->link);
    r = request_end(handle, 0);
    *ret_remote = watch;
    return r;
}

static void mem_watch_stop(struct store *store, void *remote)
{
    struct mem_watch *watch = remote;
    env_timer_cancel(&watch->timer);
    watch_end(watch);
}

static void handle_free(struct handle *handle)
{
    list_remove(&handle->link);
    while (!list_empty(&handle->watches))
        watch_end(list_entry(handle->watches.next, struct mem_watch, link));
    store_forget_watches(&handle->store);
    free(handle);
}

static void mem_close(struct store *store)
{
    struct handle *handle = handle_of(store);
    env_timer_cancel(&handle->timer);
    struct session *session = session_find(handle->mem, handle->session);
    if (session && !handle->mem->fault)
        session_end(handle->mem, session);
    handle_free(handle);
}

static const struct store_ops mem_ops = {
    .get = mem_get,
    .list = mem_list,
    .txn = mem_txn,
    .session_start = mem_session_start,
    .session_valid_until_ns = mem_session_valid_until_ns,
    .watch_start = mem_watch_start,
    .watch_stop = mem_watch_stop,
    .close = mem_close,
};

/* --- Life ------------------------------------------------------------------------------------ */

struct store_mem *store_mem_new(void)
{
    struct store_mem *mem = must(calloc(1, sizeof(*mem)));
    list_init(&mem->sessions);
    list_init(&mem->handles);
    mem->now_ns = env_now_ns;
    return mem;
}

void store_mem_free(struct store_mem *mem)
{
    while (!list_empty(&mem->handles)) /* of envs that crashed */
        handle_free(list_entry(mem->handles.next, struct handle, link));
    for (struct list *item; (item = list_pop_front(&mem->sessions));)
        free(list_entry(item, struct session, link));
    while (mem->count)
        entry_remove(mem, &mem->entries[mem->count - 1]);
    free(mem->entries);
    free(mem);
}

struct store *store_mem_open(struct store_mem *mem)
{
    struct handle *handle = must(calloc(1, sizeof(*handle)));
    store_init(&handle->store, &mem_ops);
    handle->mem = mem;
    handle->number = ++mem->handle_last;
    list_init(&handle->watches);
    list_push_back(&mem->handles, &handle->link);
    env_timer_init(&handle->timer, session_timer_fired);
    return &handle->store;
}

void store_mem_env_crashed(struct store_mem *mem, const struct env *env)
{
    list_for_each_safe (it, &mem->handles) {
        struct handle *handle = list_entry(it, struct handle, link);
        if (handle->store.env != env)
            continue;
        if (env->timer_count > 0) { /* 0: its timers are gone already */
            env_timer_cancel(&handle->timer);
            list_for_each (jt, &handle->watches)
                env_timer_cancel(&list_entry(jt, struct mem_watch, link)->timer);
        }
        handle_free(handle);
    }
}

void store_mem_set_clock(struct store_mem *mem, uint64_t (*now_ns)(void))
{
    mem->now_ns = now_ns;
}

void store_mem_set_fault(struct store_mem *mem, int error, uint64_t delay_ns)
{
    mem->fault = error;
    mem->delay_ns = delay_ns;
}

void store_mem_set_watch_delay(struct store_mem *mem, uint64_t delay_ns)
{
    mem->watch_delay_ns = delay_ns;
}

void store_mem_resync(struct store_mem *mem)
{
    list_for_each (it, &mem->handles) {
        struct handle *handle = list_entry(it, struct handle, link);
        list_for_each (jt, &handle->watches)
            watch_resync(list_entry(jt, struct mem_watch, link));
    }
}

void store_mem_set_back(struct store_mem *mem)
{
    list_for_each (it, &mem->handles)
        list_entry(it, struct handle, link)->store.histories++;
}

void store_mem_set_conflicts(struct store_mem *mem, uint32_t ppm)
{
    mem->conflicts_ppm = ppm;
}
