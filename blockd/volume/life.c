/* SPDX-License-Identifier: Apache-2.0
 *
 * The rest of a volume's life: create, grow, close, delete.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "blockd/volume/volume_impl.h"
#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/planted.h"

#define CLOSE_PATIENCE_NS 5000000000ull
#define CLOSE_LOOK_NS 1000000000ull

/* Name and root, while the pool is there: its record is put again as it was, so that whoever looked
 * for volumes in it, to delete it, has to look once more. -ECANCELED: try again. */
static int put_records(struct store *store, const struct volume_root *root, char **ret_error)
{
    char name_key[KEY_BYTES_MAX], volume_key[KEY_BYTES_MAX], pool_key[KEY_BYTES_MAX], id_text[32];
    struct store_value pool;
    uint64_t other;
    int r = store_get(store, key_pool(root->pool, pool_key), &pool);
    if (r < 0) {
        *ret_error =
            r == -ENOENT
                ? mem_printf("no pool named '%s'; see 'holdfast pool list'", root->pool)
                : mem_printf("pool '%s' cannot be read: %s", root->pool, store_strerror(r));
        return r;
    }
    snprintf(id_text, sizeof(id_text), "%016llx", (unsigned long long)root->id);
    CLEANUP_FREE char *text = volume_root_encode(root, NULL);
    struct store_compare compares[] = {{.key = key_name(root->name, name_key)},
        {.key = key_volume(root->id, volume_key)}, {.key = pool_key, .revision = pool.revision}};
    struct store_op ops[] = {
        {.type = STORE_PUT, .key = name_key, .data = id_text, .len_bytes = strlen(id_text)},
        {.type = STORE_PUT, .key = volume_key, .data = text, .len_bytes = strlen(text)},
        {.type = STORE_PUT, .key = pool_key, .data = pool.data, .len_bytes = pool.len_bytes}};
    r = store_txn(store, compares, 3, ops, 3, NULL);
    store_value_fini(&pool);
    if (r == -ECANCELED && volume_id_by_name(store, root->name, &other) == 0) {
        *ret_error =
            mem_printf("there is a volume named '%s' already; choose another name", root->name);
        return -EEXIST;
    }
    if (r < 0 && r != -ECANCELED)
        *ret_error = mem_printf("the store did not take the new volume: %s", store_strerror(r));
    return r;
}

static int make_records(struct store *store, const struct volume_root *root, char **ret_error)
{
    int r;
    do
        r = put_records(store, root, ret_error);
    while (r == -ECANCELED);
    return r;
}

int volume_create(struct volume_host *host, const char *name, uint64_t size_bytes, const char *pool,
    uint64_t *ret_id, char **ret_error)
{
    if (!name_valid(name)) {
        *ret_error =
            mem_printf("'%s' is not a name: letters, digits, '.', '_' and '-', beginning with "
                       "a letter or digit, at most %u",
                name, NAME_BYTES_MAX - 1);
        return -EINVAL;
    }
    if (size_bytes == 0 || size_bytes % 512 != 0 || size_bytes > VOLUME_SIZE_BYTES_MAX) {
        *ret_error =
            mem_printf("a size is a multiple of 512 bytes, at least 512 bytes and at most 1 PiB");
        return -EINVAL;
    }
    struct volume_root root = {.size_bytes = size_bytes, .state = VOLUME_NEW};
    while (root.id == 0)
        root.id = env_random_u64();
    snprintf(root.name, sizeof(root.name), "%s", name);
    snprintf(root.pool, sizeof(root.pool), "%s", pool);
    int r = make_records(host->store, &root, ret_error);
    if (r == 0)
        *ret_id = root.id;
    return r;
}

/* The root's copy of the size, for lists; the manifest's is the one that counts. */
static void set_size(struct volume_root *root, const void *arg)
{
    root->size_bytes = *(const uint64_t *)arg;
}

static int grow_locked(struct volume *v, uint64_t size_bytes)
{
    if (size_bytes < v->state.size_bytes) /* another grow was faster */
        return -EINVAL;
    if (size_bytes == v->state.size_bytes)
        return 0;
    /* The tail of a last block that was cut by the old end reads as zeroes: nothing was ever
     * written there, the block's unused part is zero. */
    struct records records = {0};
    record_size(&records, size_bytes);
    int r = manifest_commit(v, &records, NULL, NULL);
    records_fini(&records);
    if (r == 0)
        r = root_change(v, set_size, &v->state.size_bytes);
    return r;
}

int volume_grow(struct volume *v, uint64_t size_bytes)
{
    if (v->closed_to_io || v->halted)
        return -ESHUTDOWN;
    if (size_bytes % 512 != 0 || size_bytes > VOLUME_SIZE_BYTES_MAX)
        return -EINVAL;
    v->ios++;
    fiber_mutex_lock(&v->grow_mutex);
    int r = grow_locked(v, size_bytes);
    fiber_mutex_unlock(&v->grow_mutex);
    io_leave(v);
    return r;
}

/* --- Close ------------------------------------------------------------------------------------- */

/* Changes whenever something became durable. */
static uint64_t progress(const struct volume *v)
{
    return v->acked_seq + v->state.committed_seq + v->checkpoint_done + v->manifest.bytes +
           v->manifest.length_blocks + v->stats.rows;
}

/* A clean close puts down what is in memory. Where nothing gets on for lack of disks (or of the
 * store) the log has to do, which has all of it: the next open recovers from there. */
static void close_watch_fired(struct env_timer *timer)
{
    struct close_watch *watch = container_of(timer, struct close_watch, timer);
    struct volume *v = container_of(watch, struct volume, close_watch);
    uint64_t now_ns = env_now_ns();
    if (watch->progress != progress(v) || v->trouble_ns + 2 * CLOSE_LOOK_NS < now_ns) {
        watch->progress = progress(v);
        watch->since_ns = now_ns;
    }
    if (now_ns >= watch->since_ns + CLOSE_PATIENCE_NS)
        volume_halt(v, -ESHUTDOWN,
            "too few disks are up (or have room) to close it cleanly: the next open recovers it");
    else
        env_timer_arm(timer, now_ns + CLOSE_LOOK_NS);
}

static void close_watch_start(struct volume *v)
{
    struct close_watch *watch = &v->close_watch;
    if (watch->since_ns)
        return;
    env_timer_init(&watch->timer, close_watch_fired);
    watch->since_ns = env_now_ns();
    env_timer_arm(&watch->timer, watch->since_ns + CLOSE_LOOK_NS);
}

void volume_close_begin(struct volume *v)
{
    v->closed_to_io = true;
    fiber_queue_wake_all(&v->space_waiters);
    fiber_queue_wake_all(&v->sync_waiters);
    fiber_queue_wake_all(&v->host->budget->waiters);
    fiber_queue_wake_all(&v->host->budget->reclaim_waiters);
    close_watch_start(v);
}

static void stop_fibers(struct volume *v)
{
    v->stopping = true;
    struct fiber_queue *queues[] = {&v->committer_wake, &v->syncer_wake, &v->provisioner_wake,
        &v->space_waiters, &v->destager_wake, &v->checkpoint_wake, &v->checkpoint_waiters,
        &v->repair_wake, &v->reader_waiters, &v->ack_waiters, &v->sync_waiters};
    for (unsigned i = 0; i < ARRAY_SIZE(queues); i++)
        fiber_queue_wake_all(queues[i]);
    while (v->fibers > 0)
        fiber_queue_wait(&v->idle_waiters);
}

/* Places that never got a row go; the others are sealed. */
static int close_targets(struct volume *v)
{
    uint32_t pos = 0;
    for (struct place *p; (p = idmap_next(&v->state.places, &pos));) {
        if (!p->sealed) {
            volume_forget_target(v, p);
            p->retired = true;
        }
    }
    int r = place_seal_retired(v);
    return r == 0 ? free_dead_chunks(v) : r;
}

static int free_logs(struct volume *v)
{
    struct records records = {0};
    struct list removed;
    list_init(&removed);
    uint64_t committed_seq = v->state.committed_seq;
    if (memtable_empty(&v->memtable) && v->acked_seq > committed_seq) { /* no-ops, for reads */
        committed_seq = v->acked_seq;
        record_committed(&records, committed_seq);
        requests_record(&v->requests, &v->state, committed_seq, &records);
    }
    list_for_each (it, &v->state.wals) {
        struct wal *wal = list_entry(it, struct wal, link);
        if (wal->last_seq <= committed_seq)
            wal->sealed = true;
    }
    v->wal_open = v->wal_next = NULL;
    log_collect_freed(v, committed_seq, &records, &removed);
    int r = manifest_commit(v, &records, NULL, NULL);
    records_fini(&records);
    log_remove_freed(v, &removed);
    return r;
}

int volume_close(struct volume *v)
{
    volume_close_begin(v);
    while (v->ios > 0)
        fiber_queue_wait(&v->idle_waiters);
    int r = v->serving ? destage_everything(v) : -EHOSTUNREACH;
    if (r == 0)
        r = checkpoint_wait(v);
    stop_fibers(v);
    if (r == 0 && !v->halted)
        r = close_targets(v);
    if (r == 0 && !v->halted)
        r = free_logs(v);
    env_timer_cancel(&v->close_watch.timer);
    if (r == 0 && !v->halted)
        r = ownership_release(v, "");
    if (v->halted)
        r = v->released ? 0 : -ESHUTDOWN;
    if (r < 0)
        log_warn("volume %s: not closed cleanly (%s): the next open recovers it from its log",
            v->root.name, strerror(-r));
    volume_free(v);
    return r;
}

/* --- Handing over -------------------------------------------------------------------------------
 *
 * What the next owner does is the same as after a crash (S20): it fences, replays the log and seals
 * what is open. So nothing of that is done here while I/O waits: the pause is the I/O in flight and
 * one CAS here, and a short replay there. That it is short is made sure before, while serving. */

#define HAND_OVER_BYTES_MAX (1u << 20) /* of data to replay: little, not nothing */
#define HAND_OVER_ITEMS_MAX 64         /* directories to read */
#define HAND_OVER_LOG_BLOCKS_MAX 64    /* to read, also what is committed */
#define HAND_OVER_ROUNDS 4
#define HAND_OVER_PREPARE_NS 5000000000ull
#define HAND_OVER_WAIT_NS 1000000000ull

static void hand_over_prepare(struct volume *v)
{
    uint64_t deadline_ns = env_now_ns() + HAND_OVER_PREPARE_NS;
    log_roll_if_long(v, HAND_OVER_LOG_BLOCKS_MAX);
    if (v->state.item_count > HAND_OVER_ITEMS_MAX)
        checkpoint_ask(v);
    for (unsigned i = 0; i < HAND_OVER_ROUNDS; i++) {
        uint64_t target = v->next_seq - 1;
        while (v->state.committed_seq < target && !memtable_empty(&v->memtable) && !v->halted &&
               env_now_ns() < deadline_ns) {
            v->destage_all = true;
            fiber_queue_wake_all(&v->destager_wake);
            fiber_queue_wait_until(&v->destaged, deadline_ns);
        }
        if (memtable_bytes(&v->memtable) <= HAND_OVER_BYTES_MAX)
            break;
    }
    while (v->checkpoint_done < v->checkpoint_wanted && !v->halted && env_now_ns() < deadline_ns)
        fiber_queue_wait_until(&v->checkpoint_waiters, deadline_ns);
}

/* What is still in flight after a while may have happened or not: its front end asks the next owner
 * (S19). */
static void wait_for_ios(struct volume *v, uint64_t deadline_ns)
{
    while (v->ios > 0 && !v->halted && env_now_ns() < deadline_ns)
        fiber_queue_wait_until(&v->idle_waiters, deadline_ns);
}

/* S18: once I/O is refused only the store can give the volume to somebody. Not while that is away, then. */
static bool store_answers(struct volume *v)
{
    struct volume_root root;
    return volume_host_lease_valid(v->host) &&
           volume_root_load(v->host->store, v->root.id, &root) == 0;
}

static int hand_over_locked(struct volume *v, const char *successor, uint64_t *ret_pause_ns)
{
    hand_over_prepare(v);
    if (!v->halted && !store_answers(v))
        return -EHOSTUNREACH;
    if (v->halted || v->closed_to_io)
        return -ESHUTDOWN;
    uint64_t start_ns = env_now_ns();
    v->closed_to_io = true;
    fiber_queue_wake_all(&v->space_waiters);
    wait_for_ios(v, start_ns + HAND_OVER_WAIT_NS);
    if (v->halted)
        return -ESHUTDOWN;
    snprintf(v->problem, sizeof(v->problem), "handed over to node '%s'", successor);
    if (PLANTED(serves_after_release)) {
        v->closed_to_io = ownership_release(v, successor) != 0;
        return 0;
    }
    volume_stop(v, -ESHUTDOWN); /* X4: from here on it serves nothing, whatever becomes of this */
    int r = ownership_release(v, successor);
    v->released = r == 0;
    if (r < 0)
        log_warn("volume %s: handing it over to node '%s': %s", v->root.name, successor,
            r == -ESTALE ? "somebody else has it already" : store_strerror(r));
    if (ret_pause_ns)
        *ret_pause_ns = env_now_ns() - start_ns;
    return r;
}

int volume_hand_over(struct volume *v, const char *successor, uint64_t *ret_pause_ns)
{
    fiber_mutex_lock(&v->hand_over_mutex);
    int r = -ESHUTDOWN;
    if (!v->halted && !v->closed_to_io)
        r = v->serving ? hand_over_locked(v, successor, ret_pause_ns) : -EHOSTUNREACH;
    fiber_mutex_unlock(&v->hand_over_mutex);
    return r;
}

/* --- Delete ------------------------------------------------------------------------------------ */

int volume_delete(struct volume_host *host, uint64_t id, const char *name, char **ret_error)
{
    uint64_t named_id;
    char name_key[KEY_BYTES_MAX], volume_key[KEY_BYTES_MAX], session_key[KEY_BYTES_MAX];
    char deleted_key[KEY_BYTES_MAX];
    for (;;) {
        struct volume_root root = {0};
        struct store_value named;
        int r = store_get(host->store, key_name(name, name_key), &named);
        uint64_t name_revision = r == 0 ? named.revision : 0;
        if (r == 0) {
            /* Another node may have deleted it meanwhile, and made another one of that name. */
            r = id_parse(named.data, &named_id) == 0 && named_id == id ? 0 : -ENOENT;
            store_value_fini(&named);
        }
        if (r == 0)
            r = volume_root_load(host->store, id, &root);
        if (r < 0) {
            *ret_error =
                r == -ENOENT
                    ? mem_printf("no volume named '%s'; see 'holdfast volume list'", name)
                    : mem_printf("volume '%s' cannot be read: %s", name, store_strerror(r));
            return r;
        }
        uint64_t revision = root.revision;
        bool others = root.state == VOLUME_OWNED && root.owner_session != volume_host_session(host);
        root.state = VOLUME_DELETING;
        CLEANUP_FREE char *text = volume_root_encode(&root, NULL);
        struct store_compare compares[] = {{.key = name_key, .revision = name_revision},
            {.key = key_volume(id, volume_key), .revision = root.revision},
            {.key = key_session(root.owner_session, session_key)}};
        struct store_op ops[] = {{.type = STORE_DELETE, .key = name_key},
            {.type = STORE_PUT, .key = volume_key, .data = text, .len_bytes = strlen(text)},
            {.type = STORE_PUT,
                .key = key_deleted(id, deleted_key),
                .data = name,
                .len_bytes = strlen(name)}};
        r = store_txn(host->store, compares, others ? 3 : 2, ops, ARRAY_SIZE(ops), NULL);
        if (r == -ECANCELED && others && volume_root_load(host->store, id, &root) == 0 &&
            root.revision == revision) {
            *ret_error =
                mem_printf("volume '%s' is served by node '%s': delete it there", name, root.owner);
            return -EBUSY;
        }
        if (r == -ECANCELED)
            continue;
        if (r < 0)
            *ret_error = mem_printf("the store did not take the deletion: %s", store_strerror(r));
        return r;
    }
}
