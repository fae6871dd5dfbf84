/* SPDX-License-Identifier: Apache-2.0
 *
 * The store is the queue: a key for each deleted volume, made in the transaction that deletes it (volume_delete), gone
 * with its root. Each pass lists those, page by page. A delete only starts a pass, so that nothing is forgotten that a
 * crash or a failure left behind.
 *
 * Nodes of an earlier version make no such key. So the first pass of a process, and one an hour, looks at all roots, page
 * by page, and makes the keys that are missing. A key without a root is what a node of an earlier version has purged.
 */
#include "blockd/volumes_purge.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/check.h"
#include "common/env.h"
#include "common/log.h"
#include "common/mem.h"

#define RETRY_NS_DEFAULT (60 * 1000000000ull)
#define OWN_MAX 64
#define PAGE_KEYS 256
#define ROOTS_EVERY_NS (3600 * 1000000000ull)
/* A pass may list all volumes, and one change of the cluster seldom comes alone: they are waited for, and
 * not all nodes list at once. */
#define LOOK_NS (1 * 1000000000ull)
#define LOOK_SPREAD_NS (4 * 1000000000ull)

struct volumes_purge {
    struct volume_host *host;
    uint64_t retry_ns;
    bool wanted;  /* a pass is to start */
    bool running; /* the fiber exists */
    bool stopping;
    uint64_t roots_at_ns; /* when all roots are to be looked at again */
    struct env_timer retry;
    struct fiber_queue ended;
    uint64_t
        own[OWN_MAX]; /* deleted by this node: its to purge, whoever cares for them otherwise */
    unsigned own_next;
};

/* --- All roots --------------------------------------------------------------------------------- */

/* The root is still what it was, and has no key yet. */
static int note_deleted(struct store *store, const struct store_value *value)
{
    char key[KEY_BYTES_MAX];
    struct volume_root root;
    CLEANUP_FREE char *error = NULL;
    if (volume_root_decode(value->data, &root, &error) < 0 || root.state != VOLUME_DELETING)
        return 0;
    struct store_compare compares[] = {
        {.key = value->key, .revision = value->revision}, {.key = key_deleted(root.id, key)}};
    struct store_op op = {
        .type = STORE_PUT, .key = key, .data = root.name, .len_bytes = strlen(root.name)};
    int r = store_txn(store, compares, 2, &op, 1, NULL);
    return r == -ECANCELED ? 0 : r;
}

static int look_at_roots(struct volumes_purge *purge)
{
    struct store *store = purge->host->store;
    char after[KEY_BYTES_MAX] = "";
    unsigned count = PAGE_KEYS;
    int r = 0;
    while (r == 0 && count == PAGE_KEYS && !purge->stopping) {
        struct store_value *values;
        r = store_list_page(
            store, KEY_PREFIX_VOLUMES, after[0] ? after : NULL, PAGE_KEYS, &values, &count);
        if (r < 0)
            break;
        for (unsigned i = 0; i < count && r == 0; i++)
            r = note_deleted(store, &values[i]);
        if (count > 0)
            snprintf(after, sizeof(after), "%s", values[count - 1].key);
        store_list_free(values, count);
        fiber_yield();
    }
    return r;
}

/* --- Deleted ones ------------------------------------------------------------------------------ */

static bool is_ours(const struct volumes_purge *purge, uint64_t id)
{
    const struct volume_host *host = purge->host;
    for (unsigned i = 0; i < MIN(purge->own_next, OWN_MAX); i++)
        if (purge->own[i] == id)
            return true;
    return !host->map.volume_is_ours || host->map.volume_is_ours(host->map.ctx, id);
}

/* Only what the root calls deleted is purged, whatever keys there are. */
static int purge_one(struct volumes_purge *purge, uint64_t id)
{
    char key[KEY_BYTES_MAX];
    struct volume_root root;
    struct store_op forget = {.type = STORE_DELETE, .key = key_deleted(id, key)};
    int r = volume_root_load(purge->host->store, id, &root);
    if (r == -ENOENT)
        return store_txn(purge->host->store, NULL, 0, &forget, 1, NULL);
    if (r == 0 && root.state != VOLUME_DELETING) {
        log_error_limited(
            "store: %s: volume '%s' is not deleted; nothing of it is purged", key, root.name);
        return 0;
    }
    if (r == 0)
        r = volume_purge(purge->host, id);
    if (r == 0 || r == -ENOENT) {
        log_info("deleted volume %016" PRIx64 ": its space is free again", id);
        return 0;
    }
    log_warn_limited("deleted volume %016" PRIx64
                     ": its space is not free yet: %s; this is tried again",
        id, strerror(-r));
    return r;
}

/* The first error; the others are tried all the same. */
static int pass(struct volumes_purge *purge)
{
    char after[KEY_BYTES_MAX] = "";
    unsigned count = PAGE_KEYS;
    int first = 0;
    if (env_now_ns() >= purge->roots_at_ns) {
        first = look_at_roots(purge);
        if (first == 0)
            purge->roots_at_ns = env_now_ns() + ROOTS_EVERY_NS;
    }
    while (count == PAGE_KEYS && !purge->stopping) {
        struct store_value *values;
        int r = store_list_page(purge->host->store, KEY_PREFIX_DELETED, after[0] ? after : NULL,
            PAGE_KEYS, &values, &count);
        if (r < 0)
            return r;
        for (unsigned i = 0; i < count && !purge->stopping; i++) {
            uint64_t id;
            if (id_parse(values[i].key + strlen(KEY_PREFIX_DELETED), &id) < 0) {
                log_error_limited("store: %s: not a volume's id; delete the key", values[i].key);
                continue;
            }
            r = is_ours(purge, id) ? purge_one(purge, id) : 0;
            first = first < 0 ? first : r;
        }
        if (count > 0)
            snprintf(after, sizeof(after), "%s", values[count - 1].key);
        store_list_free(values, count);
    }
    return first;
}

static void run(void *arg)
{
    struct volumes_purge *purge = arg;
    while (purge->wanted && !purge->stopping) {
        purge->wanted = false;
        if (pass(purge) < 0 && !purge->stopping && !env_timer_armed(&purge->retry))
            env_timer_arm(&purge->retry, env_now_ns() + purge->retry_ns);
    }
    purge->running = false;
    fiber_queue_wake_all(&purge->ended);
}

static void start_pass(struct volumes_purge *purge)
{
    purge->wanted = true;
    env_timer_cancel(&purge->retry);
    if (purge->running || purge->stopping)
        return;
    purge->running = true;
    fiber_spawn("volumes purge", run, purge);
}

static void retry_fired(struct env_timer *timer)
{
    start_pass(container_of(timer, struct volumes_purge, retry));
}

struct volumes_purge *volumes_purge_start(struct volume_host *host, uint64_t retry_ns)
{
    struct volumes_purge *purge = NEW(struct volumes_purge);
    purge->host = host;
    purge->retry_ns = retry_ns ? retry_ns : RETRY_NS_DEFAULT;
    fiber_queue_init(&purge->ended);
    env_timer_init(&purge->retry, retry_fired);
    start_pass(purge);
    return purge;
}

void volumes_purge_add(struct volumes_purge *purge, uint64_t id)
{
    purge->own[purge->own_next++ % OWN_MAX] = id;
    start_pass(purge);
}

void volumes_purge_look(struct volumes_purge *purge)
{
    uint64_t from_ns = env_now_ns() + LOOK_NS;
    bool soon =
        env_timer_armed(&purge->retry) && purge->retry.deadline_ns <= from_ns + LOOK_SPREAD_NS;
    if (!purge->stopping && !soon)
        env_timer_arm(&purge->retry, from_ns + env_random_u64() % LOOK_SPREAD_NS);
}

bool volumes_purge_idle(const struct volumes_purge *purge)
{
    return !purge->running && !env_timer_armed(&purge->retry);
}

void volumes_purge_stop(struct volumes_purge *purge)
{
    purge->stopping = true;
    env_timer_cancel(&purge->retry);
    while (purge->running)
        fiber_queue_wait(&purge->ended);
    mem_free(purge);
}
