/* SPDX-License-Identifier: Apache-2.0
 *
 * The store is the queue: each pass lists the roots and purges those that say "deleting". A delete
 * only starts a pass, so that nothing is forgotten that a crash or a failure left behind.
 */
#include "blockd/volumes_purge.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/check.h"
#include "common/env.h"
#include "common/log.h"
#include "common/mem.h"

#define RETRY_NS_DEFAULT (60 * 1000000000ull)
#define OWN_MAX 64
/* A pass lists all volumes, and one change of the cluster seldom comes alone: they are waited for, and
 * not all nodes list at once. */
#define LOOK_NS (1 * 1000000000ull)
#define LOOK_SPREAD_NS (4 * 1000000000ull)

struct volumes_purge {
    struct volume_host *host;
    uint64_t retry_ns;
    bool wanted;  /* a pass is to start */
    bool running; /* the fiber exists */
    bool stopping;
    struct env_timer retry;
    struct fiber_queue ended;
    uint64_t
        own[OWN_MAX]; /* deleted by this node: its to purge, whoever cares for them otherwise */
    unsigned own_next;
};

/* Ids of roots in VOLUME_DELETING. mem_free. */
static int deleting_ids(struct volumes_purge *purge, uint64_t **ret_ids, unsigned *ret_count)
{
    struct store_value *values;
    unsigned value_count, count = 0;
    int r = store_list(purge->host->store, KEY_PREFIX_VOLUMES, &values, &value_count);
    if (r < 0)
        return r;
    uint64_t *ids = mem_zalloc(value_count, sizeof(*ids));
    for (unsigned i = 0; i < value_count; i++) {
        struct volume_root root;
        CLEANUP_FREE char *error = NULL;
        if (volume_root_decode(values[i].data, &root, &error) == 0 && root.state == VOLUME_DELETING)
            ids[count++] = root.id;
    }
    store_list_free(values, value_count);
    *ret_ids = ids;
    *ret_count = count;
    return 0;
}

static bool is_ours(const struct volumes_purge *purge, uint64_t id)
{
    const struct volume_host *host = purge->host;
    for (unsigned i = 0; i < MIN(purge->own_next, OWN_MAX); i++)
        if (purge->own[i] == id)
            return true;
    return !host->map.volume_is_ours || host->map.volume_is_ours(host->map.ctx, id);
}

/* The first error; the others are tried all the same. */
static int pass(struct volumes_purge *purge)
{
    CLEANUP_FREE uint64_t *ids = NULL;
    unsigned count = 0;
    int first = deleting_ids(purge, &ids, &count);
    for (unsigned i = 0; i < count && !purge->stopping; i++) {
        if (!is_ours(purge, ids[i]))
            continue;
        int r = volume_purge(purge->host, ids[i]);
        if (r == 0 || r == -ENOENT) {
            log_info("deleted volume %016" PRIx64 ": its space is free again", ids[i]);
            continue;
        }
        log_warn_limited("deleted volume %016" PRIx64
                         ": its space is not free yet: %s; this is tried again",
            ids[i], strerror(-r));
        first = first < 0 ? first : r;
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
