/* SPDX-License-Identifier: Apache-2.0
 *
 * Watches of a store in etcd. Each is a stream of its own that one fiber reads.
 *
 *  E5 `revision`: all that happened under the prefix up to it has been told. A stream is asked for
 *     what came after, so a broken one misses nothing, and nothing is told twice.
 *     That holds for one history: the members of another cluster, an earlier term or an earlier revision than
 *     was seen tell of another one (a store restored from a backup), perhaps far beyond `revision`.
 *  E6 Where etcd cannot tell what came after (compacted, restored from a backup, too much at once),
 *     the keys are listed: all that there are are told as put, all that were known and are not
 *     there any more as deleted. Therefore the keys (not the values) are remembered.
 *
 * A member that lost its leader ends the stream by itself (store_etcd_http.c asks for that), one
 * that is gone fails TCP's keepalive; one that hangs is noticed by the next request that it does
 * not answer, at the latest by the session's keepalive, and left (etcd_watches_leave).
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/env.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/store_etcd_impl.h"

#define MS_NS 1000000ull
#define PAUSE_MIN_NS (20 * MS_NS)
#define PAUSE_MAX_NS (1000 * MS_NS)

struct etcd_watch {
    struct list link; /* etcd->watches */
    struct store_etcd *etcd;
    struct store_watch *watch;
    char *prefix;
    uint64_t revision;              /* E5 */
    uint64_t cluster_id, raft_term; /* of the stream before; 0 = none yet */
    char **keys;                    /* E6, in order */
    unsigned key_count, key_capacity;
    struct etcd_stream *stream; /* NULL: none */
    bool behind;                /* its member has not all that was seen */
    bool outdated;              /* etcd has another history (E7): look again */
    unsigned endpoint;          /* of the stream */
    bool stop, running;
    struct fiber_queue wake, quiet;
};

/* --- Known keys ------------------------------------------------------------------------------ */

/* Index of `key`, or of the first one after it. */
static unsigned key_at(const struct etcd_watch *watch, const char *key)
{
    unsigned low = 0, high = watch->key_count;
    while (low < high) {
        unsigned mid = (low + high) / 2;
        if (strcmp(watch->keys[mid], key) < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static bool key_known(const struct etcd_watch *watch, unsigned at, const char *key)
{
    return at < watch->key_count && strcmp(watch->keys[at], key) == 0;
}

static void key_add(struct etcd_watch *watch, const char *key)
{
    unsigned at = key_at(watch, key);
    if (key_known(watch, at, key))
        return;
    if (watch->key_count == watch->key_capacity) {
        watch->key_capacity = watch->key_capacity ? watch->key_capacity * 2 : 16;
        watch->keys = mem_realloc(watch->keys, watch->key_capacity * sizeof(*watch->keys));
    }
    memmove(&watch->keys[at + 1], &watch->keys[at], (watch->key_count - at) * sizeof(char *));
    watch->keys[at] = mem_strdup(key);
    watch->key_count++;
}

static void key_remove(struct etcd_watch *watch, const char *key)
{
    unsigned at = key_at(watch, key);
    if (!key_known(watch, at, key))
        return;
    mem_free(watch->keys[at]);
    watch->key_count--;
    memmove(&watch->keys[at], &watch->keys[at + 1], (watch->key_count - at) * sizeof(char *));
}

static void keys_free(struct etcd_watch *watch)
{
    for (unsigned i = 0; i < watch->key_count; i++)
        mem_free(watch->keys[i]);
    mem_free(watch->keys);
    watch->keys = NULL;
    watch->key_count = watch->key_capacity = 0;
}

/* --- Telling --------------------------------------------------------------------------------- */

static void tell_event(struct etcd_watch *watch, const struct etcd_event *event)
{
    const struct store_value *value = &event->value;
    if (event->deleted)
        key_remove(watch, value->key);
    else
        key_add(watch, value->key);
    store_watch_tell(watch->watch, value->key, value->data, value->len_bytes, value->revision);
}

static bool listed(const struct store_value *values, unsigned count, const char *key)
{
    unsigned low = 0, high = count;
    while (low < high) {
        unsigned mid = (low + high) / 2;
        int order = strcmp(values[mid].key, key);
        if (order == 0)
            return true;
        if (order < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return false;
}

/* E6. Tells of keys put after `newer_than`, and of those that went. */
static MAY_SUSPEND int look(struct etcd_watch *watch, uint64_t newer_than)
{
    struct store_value *values;
    unsigned count;
    struct etcd_header header;
    int r = etcd_list(watch->etcd, watch->prefix, NULL, UINT_MAX, &values, &count, &header);
    if (r < 0)
        return r;
    /* Another cluster may be there before the first stream has begun. */
    watch->cluster_id = header.cluster_id;
    for (unsigned i = 0; i < watch->key_count; i++)
        if (!listed(values, count, watch->keys[i]))
            store_watch_tell(watch->watch, watch->keys[i], NULL, 0, header.revision);
    keys_free(watch);
    for (unsigned i = 0; i < count; i++) {
        const struct store_value *value = &values[i];
        key_add(watch, value->key);
        if (value->revision > newer_than)
            store_watch_tell(
                watch->watch, value->key, value->data, value->len_bytes, value->revision);
    }
    store_list_free(values, count);
    watch->revision = header.revision;
    return 0;
}

/* --- The stream ------------------------------------------------------------------------------ */

static bool is_other_cluster(const struct etcd_watch *watch, const struct etcd_header *header)
{
    return watch->cluster_id && header->cluster_id != watch->cluster_id;
}

static bool is_behind(const struct etcd_watch *watch, const struct etcd_header *header)
{
    return header->revision < watch->revision || header->raft_term < watch->raft_term;
}

/* -ESTALE: E6. -EHOSTUNREACH: try again. */
static int take_answer(struct etcd_watch *watch, const struct etcd_answer_json *answer)
{
    if (answer->error_code) {
        if (etcd_is_token_refused(answer))
            etcd_forget_token(watch->etcd);
        log_info("etcd: the watch of \"%s\" ends: %s", watch->prefix,
            answer->error_text ? answer->error_text : "an error without words");
        return -EHOSTUNREACH;
    }
    if (answer->compact_revision > 0)
        return -ESTALE;
    if (answer->canceled)
        return -EHOSTUNREACH;
    if (answer->created && is_other_cluster(watch, &answer->header))
        return -ESTALE;
    if (answer->created) {
        watch->behind = is_behind(watch, &answer->header);
        watch->cluster_id = answer->header.cluster_id;
        watch->raft_term = MAX(watch->raft_term, answer->header.raft_term);
    }
    uint64_t told = watch->revision;
    for (unsigned i = 0; i < answer->event_count; i++) {
        const struct etcd_event *event = &answer->events[i];
        if (event->value.revision <= told ||
            strncmp(event->value.key, watch->prefix, strlen(watch->prefix)) != 0)
            continue;
        tell_event(watch, event);
        watch->revision = MAX(watch->revision, event->value.revision);
        watch->etcd->seen.revision = MAX(watch->etcd->seen.revision, watch->revision);
    }
    return 0;
}

static MAY_SUSPEND int read_answer(
    struct etcd_watch *watch, uint64_t deadline_ns, bool *ret_created)
{
    char *line;
    size_t len;
    int r = etcd_stream_read(watch->stream, deadline_ns, &line, &len);
    if (r < 0)
        return r == -E2BIG ? -ESTALE : r;
    struct etcd_answer_json answer;
    r = len == 0 ? -EBADMSG : etcd_json_decode(line, len, &answer);
    free(line);
    if (r < 0)
        return r;
    if (answer.created)
        *ret_created = true;
    r = take_answer(watch, &answer);
    etcd_answer_json_fini(&answer);
    return r;
}

/* The stream's member is behind what was seen. Does it lag, or has the cluster another history
 * (restored from a backup)? -ESTALE: that. */
static MAY_SUSPEND int check_history(struct etcd_watch *watch)
{
    struct store_etcd *etcd = watch->etcd;
    struct etcd_call call = {"/v3/kv/range", etcd_json_get(etcd->probe_key),
        etcd->request_timeout_ns, .repeatable = true};
    struct etcd_answer_json answer;
    int r = etcd_call(etcd, &call, &answer, NULL);
    if (r < 0)
        return -EHOSTUNREACH;
    r = is_behind(watch, &answer.header) || is_other_cluster(watch, &answer.header) ? -ESTALE : 0;
    etcd_answer_json_fini(&answer);
    watch->behind = false;
    return r;
}

/* Reads one stream to its end, and says why it ended; *ret_created: it has begun. */
static MAY_SUSPEND int follow(struct etcd_watch *watch, bool *ret_created)
{
    struct store_etcd *etcd = watch->etcd;
    int r = etcd_login(etcd, NULL);
    if (r < 0 || watch->stop)
        return r < 0 ? r : -ECANCELED;
    watch->endpoint = etcd->preferred;
    CLEANUP_FREE char *url = mem_printf("%s/v3/watch", etcd->endpoints[watch->endpoint]);
    CLEANUP_FREE char *token = etcd->token ? mem_strdup(etcd->token) : NULL;
    char *body = etcd_json_watch(watch->prefix, watch->revision + 1);
    struct etcd_post post = {url, body, token, 0};
    etcd_stream_open(etcd->http, &post, &watch->stream);
    free(body);
    uint64_t deadline_ns = env_now_ns() + etcd->request_timeout_ns;
    watch->behind = false;
    do {
        r = read_answer(watch, *ret_created ? UINT64_MAX : deadline_ns, ret_created);
        if (r == 0 && watch->behind && !watch->stop)
            r = check_history(watch);
    } while (r == 0 && !watch->stop);
    struct etcd_stream *stream = watch->stream;
    watch->stream = NULL;
    etcd_stream_close(stream);
    return r;
}

static void watch_fiber(void *arg)
{
    struct etcd_watch *watch = arg;
    uint64_t pause_ns = 0;
    bool resync = false;
    while (!watch->stop) {
        if (pause_ns)
            fiber_queue_wait_until(&watch->wake, env_now_ns() + pause_ns);
        if (watch->stop)
            break;
        if (resync)
            watch->cluster_id = watch->raft_term = 0;
        watch->outdated = false;
        int r = resync ? look(watch, 0) : 0;
        bool created = false;
        if (r == 0) {
            resync = false;
            r = follow(watch, &created);
            resync = r == -ESTALE || watch->outdated;
            if (!created && !resync && r != -ECANCELED)
                etcd_endpoint_failed(watch->etcd, watch->endpoint);
        }
        if (resync && (r == -ESTALE || watch->outdated))
            log_info("etcd: the watch of \"%s\" missed changes; listing its keys", watch->prefix);
        pause_ns = created ? PAUSE_MIN_NS : MIN(MAX(pause_ns * 2, PAUSE_MIN_NS), PAUSE_MAX_NS);
    }
    watch->running = false;
    fiber_queue_wake_all(&watch->quiet);
}

void etcd_watches_leave(struct store_etcd *etcd, unsigned endpoint)
{
    list_for_each (it, &etcd->watches) {
        struct etcd_watch *watch = list_entry(it, struct etcd_watch, link);
        if (watch->stream && watch->endpoint == endpoint)
            etcd_stream_cancel(watch->stream);
    }
}

void etcd_watches_look_again(struct store_etcd *etcd)
{
    list_for_each (it, &etcd->watches) {
        struct etcd_watch *watch = list_entry(it, struct etcd_watch, link);
        watch->outdated = true;
        if (watch->stream)
            etcd_stream_cancel(watch->stream);
    }
}

/* --- Begin, end ------------------------------------------------------------------------------ */

static void watch_free(struct etcd_watch *watch)
{
    list_remove(&watch->link);
    keys_free(watch);
    mem_free(watch->prefix);
    mem_free(watch);
}

int etcd_watch_start(struct store *store, struct store_watch *store_watch, const char *prefix,
    uint64_t revision, void **ret_remote)
{
    struct etcd_watch *watch = NEW(struct etcd_watch);
    watch->etcd = etcd_of(store);
    watch->watch = store_watch;
    watch->prefix = mem_strdup(prefix);
    fiber_queue_init(&watch->wake);
    fiber_queue_init(&watch->quiet);
    list_push_back(&watch->etcd->watches, &watch->link);
    int r = look(watch, revision);
    if (r < 0) {
        watch_free(watch);
        return r;
    }
    watch->running = true;
    fiber_spawn("etcd watch", watch_fiber, watch);
    *ret_remote = watch;
    return 0;
}

void etcd_watch_stop(struct store *store, void *remote)
{
    struct etcd_watch *watch = remote;
    watch->stop = true;
    if (watch->stream)
        etcd_stream_cancel(watch->stream);
    fiber_queue_wake_all(&watch->wake);
    while (watch->running)
        fiber_queue_wait(&watch->quiet);
    watch_free(watch);
}
