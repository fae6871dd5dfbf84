/* SPDX-License-Identifier: Apache-2.0
 *
 * The registry of open volumes: its entries (volumes_impl.h), who uses them, when they close.
 */
#include "blockd/volumes_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "blockd/volumes_names.h"
#include "blockd/volumes_purge.h"
#include "blockd/volumes_refused.h"
#include "blockd/volumes_seen.h"
#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"

#define IDLE_CLOSE_NS_DEFAULT (600 * 1000000000ull)
#define SUCCESSOR_WAIT_NS (2 * 1000000000ull) /* V5 */

/* --- Entries --------------------------------------------------------------------------------- */

struct volumes_entry *volumes_entry_by_id(struct volumes *volumes, uint64_t id)
{
    list_for_each (it, &volumes->entries)
        if (list_entry(it, struct volumes_entry, link)->id == id)
            return list_entry(it, struct volumes_entry, link);
    return NULL;
}

static struct volumes_entry *entry_by_name(struct volumes *volumes, const char *name)
{
    list_for_each (it, &volumes->entries)
        if (strcmp(list_entry(it, struct volumes_entry, link)->name, name) == 0)
            return list_entry(it, struct volumes_entry, link);
    return NULL;
}

struct volumes_entry *volumes_entry_of(struct volumes *volumes, const struct volume *volume)
{
    list_for_each (it, &volumes->entries)
        if (list_entry(it, struct volumes_entry, link)->volume == volume)
            return list_entry(it, struct volumes_entry, link);
    CHECK_MSG(false, "a volume that is not in the registry");
    return NULL;
}

static void idle_fired(struct env_timer *timer);

struct volumes_entry *volumes_entry_new(struct volumes *volumes, uint64_t id, const char *name)
{
    struct volumes_entry *entry = NEW(struct volumes_entry);
    entry->volumes = volumes;
    entry->id = id;
    entry->busy = true;
    strcpy(entry->name, name);
    list_init(&entry->listeners);
    env_timer_init(&entry->idle, idle_fired);
    list_push_back(&volumes->entries, &entry->link);
    return entry;
}

void volumes_entry_free(struct volumes_entry *entry)
{
    struct volumes *volumes = entry->volumes;
    CHECK(entry->users == 0 && list_empty(&entry->listeners) && !entry->volume);
    env_timer_cancel(&entry->idle);
    list_remove(&entry->link);
    mem_free(entry);
    fiber_queue_wake_all(&volumes->changed);
}

static struct volumes_name name_of(const struct volumes_entry *entry)
{
    struct volumes_name name = {.id = entry->id,
        .size_bytes = volume_size_bytes(entry->volume),
        .state = VOLUME_OWNED,
        .owner_session = volume_host_session(entry->volumes->host),
        .epoch = volume_epoch(entry->volume)};
    strcpy(name.name, volume_name(entry->volume));
    strcpy(name.pool, volume_pool_name(entry->volume));
    snprintf(name.owner, sizeof(name.owner), "%s", entry->volumes->host->node_name);
    return name;
}

void volumes_note_owner(
    const struct volumes_entry *entry, enum volume_state state, const char *owner)
{
    struct volumes_name name = name_of(entry);
    name.state = state;
    name.owner_session = 0;
    snprintf(name.owner, sizeof(name.owner), "%s", owner);
    volumes_seen_note(entry->volumes->seen, &name);
}

int volumes_entry_close(struct volumes_entry *entry)
{
    CHECK(!entry->busy && entry->users == 0);
    entry->busy = true;
    env_timer_cancel(&entry->idle);
    struct volume *volume = entry->volume;
    if (!volume_halted(volume))
        volumes_note_owner(entry, VOLUME_RELEASED, "");
    int r = volume_close(volume);
    entry->volume = NULL;
    if (r < 0)
        log_warn("volume %s: not closed cleanly: %s; the next open recovers it from its log",
            entry->name, strerror(-r));
    return r;
}

static void close_and_free(void *arg)
{
    struct volumes_entry *entry = arg;
    entry->busy = false; /* taken by who spawned this fiber */
    volumes_entry_close(entry);
    volumes_entry_free(entry);
}

/* From callbacks outside fibers too. */
static void close_in_background(struct volumes_entry *entry)
{
    entry->busy = true;
    fiber_spawn("volume close", close_and_free, entry);
}

static void idle_fired(struct env_timer *timer)
{
    struct volumes_entry *entry = container_of(timer, struct volumes_entry, idle);
    if (entry->busy || entry->users > 0)
        return;
    log_info("volume %s: idle, closing", entry->name);
    close_in_background(entry);
}

/* No user is left, and the entry is not busy. */
static void entry_idle(struct volumes_entry *entry)
{
    struct volumes *volumes = entry->volumes;
    if (volume_halted(entry->volume))
        close_in_background(entry); /* V3 */
    else
        env_timer_arm(&entry->idle, env_now_ns() + volumes->options.idle_close_ns);
    fiber_queue_wake_all(&volumes->changed);
}

/* --- Opening --------------------------------------------------------------------------------- */

static char *cannot_find(const char *name)
{
    return mem_printf("no volume named '%s'; see 'holdfast volume list'", name);
}

/* An open volume has fibers of its own for as long as it is open, and the pool is the node's (F5): the one
 * that has been idle for longest makes room. */
static int no_fibers(struct volumes *volumes, char **ret_error)
{
    struct volumes_entry *idle = NULL;
    unsigned open = 0;
    list_for_each (it, &volumes->entries) {
        struct volumes_entry *entry = list_entry(it, struct volumes_entry, link);
        open += entry->volume != NULL;
        if (!entry->busy && entry->users == 0 &&
            (!idle || entry->idle.deadline_ns < idle->idle.deadline_ns))
            idle = entry;
    }
    if (idle) {
        log_info("volume %s: idle, closing, to make room for another", idle->name);
        env_timer_cancel(&idle->idle);
        close_in_background(idle);
    }
    *ret_error = mem_printf("this node has %u volume%s open, as many as it can; close some "
                            "('holdfast volume close'), or use this one on another node",
        open, open == 1 ? "" : "s");
    return -EAGAIN;
}

/* What is wrong with the volume, not with this node or with the moment. */
static void note_refusal(struct volumes *volumes, uint64_t id, int r, const char *why)
{
    if (r == 0 || r == -EBUSY || r == -ENOENT)
        volumes_refused_forget(volumes->refused, id);
    else if (why && r != -ESHUTDOWN && r != -ETIMEDOUT)
        volumes_refused_note(volumes->refused, id, why);
}

const struct volumes_refused *volumes_refused(const struct volumes *volumes)
{
    return volumes->refused;
}

/* The entry is the caller's alone; it is open with one user afterwards, or gone. */
static int entry_open(struct volumes_entry *entry, struct volume **ret_volume,
    struct volume_owner *ret_owner, char **ret_error)
{
    struct volumes *volumes = entry->volumes;
    struct volume *volume;
    struct volume_owner owner = {0};
    char *error = NULL;
    int r = fiber_pool_is_short()
                ? no_fibers(volumes, &error)
                : volume_acquire(volumes->host, entry->id, 0, &volume, &owner, &error);
    if (r == -EBUSY && owner.session == 0 &&
        sightings_late(&volumes->sightings, entry->id, owner.epoch, SUCCESSOR_WAIT_NS)) {
        mem_free(error);
        error = NULL;
        r = volume_acquire(
            volumes->host, entry->id, VOLUME_ACQUIRE_FROM_SUCCESSOR, &volume, &owner, &error);
    }
    note_refusal(volumes, entry->id, r, error);
    if (r < 0)
        *ret_error = error;
    if (r == -EBUSY && ret_owner)
        *ret_owner = owner;
    if (r < 0) {
        volumes_entry_free(entry);
        return r;
    }
    /* A rename may have come between the look-up and the open. */
    strcpy(entry->name, volume_name(volume));
    entry->volume = volume;
    entry->users = 1;
    entry->busy = false;
    if (volumes->closing)
        volume_close_begin(volume);
    struct volumes_name name = name_of(entry);
    volumes_seen_note(volumes->seen, &name);
    fiber_queue_wake_all(&volumes->changed);
    *ret_volume = volume;
    return 0;
}

void volumes_tell_halted(struct volumes_entry *entry)
{
    list_for_each_safe (it, &entry->listeners) {
        struct volumes_listener *listener = list_entry(it, struct volumes_listener, link);
        if (listener->halted)
            listener->halted(listener);
    }
}

/* 1: *ret_volume is counted. 0: look again, something changed meanwhile. */
static int entry_join(struct volumes_entry *entry, struct volume **ret_volume)
{
    if (!entry->busy && volume_halted(entry->volume) && entry->users == 0)
        close_in_background(entry); /* V3 */
    if (!entry->busy && volume_halted(entry->volume))
        volumes_tell_halted(entry);
    if (entry->busy || !volume_takes_io(entry->volume)) { /* V3 */
        fiber_queue_wait(&entry->volumes->changed);
        return 0;
    }
    entry->users++;
    env_timer_cancel(&entry->idle);
    *ret_volume = entry->volume;
    return 1;
}

int volumes_find_id(struct volumes *volumes, const char *name, uint64_t *ret_id, char **ret_error)
{
    int r = volume_id_by_name(volumes->host->store, name, ret_id);
    if (r == -ENOENT)
        *ret_error = cannot_find(name);
    else if (r < 0)
        *ret_error =
            mem_printf("volume '%s' cannot be looked up in the store: %s", name, store_strerror(r));
    return r;
}

/* By name, or by id when name is NULL. */
static int get(struct volumes *volumes, const char *name, uint64_t id, struct volume **ret_volume,
    struct volume_owner *ret_owner, char **ret_error)
{
    for (;;) {
        if (volumes->closing) {
            *ret_error = mem_strdup("this node is stopping");
            return -ESHUTDOWN;
        }
        struct volumes_entry *entry =
            name ? entry_by_name(volumes, name) : volumes_entry_by_id(volumes, id);
        if (!entry && name) {
            int r = volumes_find_id(volumes, name, &id, ret_error);
            if (r < 0)
                return r;
            /* The look-up suspended. */
            entry = volumes_entry_by_id(volumes, id);
            if (volumes->closing)
                continue;
        }
        if (!entry)
            return entry_open(
                volumes_entry_new(volumes, id, name ? name : ""), ret_volume, ret_owner, ret_error);
        if (entry_join(entry, ret_volume))
            return 0;
    }
}

int volumes_get(
    struct volumes *volumes, const char *name, struct volume **ret_volume, char **ret_error)
{
    return get(volumes, name, 0, ret_volume, NULL, ret_error);
}

int volumes_get_by_id(
    struct volumes *volumes, uint64_t id, struct volume **ret_volume, char **ret_error)
{
    return get(volumes, NULL, id, ret_volume, NULL, ret_error);
}

int volumes_acquire(struct volumes *volumes, const char *name, uint64_t id,
    struct volume **ret_volume, struct volume_owner *ret_owner, char **ret_error)
{
    return get(volumes, name, id, ret_volume, ret_owner, ret_error);
}

void volumes_put(struct volumes *volumes, struct volume *volume)
{
    struct volumes_entry *entry = volumes_entry_of(volumes, volume);
    CHECK(entry->users > 0);
    if (--entry->users == 0 && !entry->busy)
        entry_idle(entry);
    else
        fiber_queue_wake_all(&volumes->changed);
}

void volumes_listen(struct volumes *volumes, struct volumes_listener *listener)
{
    list_push_back(&volumes_entry_of(volumes, listener->volume)->listeners, &listener->link);
}

void volumes_unlisten(struct volumes_listener *listener)
{
    list_remove(&listener->link);
}

struct volume *volumes_peek(struct volumes *volumes, uint64_t id, unsigned *ret_connections)
{
    struct volumes_entry *entry = volumes_entry_by_id(volumes, id);
    unsigned connections = 0;
    if (entry)
        list_for_each (it, &entry->listeners)
            connections++;
    if (ret_connections)
        *ret_connections = connections;
    return entry ? entry->volume : NULL;
}

void volumes_each_open(
    struct volumes *volumes, void (*fn)(void *ctx, struct volume *volume), void *ctx)
{
    list_for_each (it, &volumes->entries)
        if (list_entry(it, struct volumes_entry, link)->volume)
            fn(ctx, list_entry(it, struct volumes_entry, link)->volume);
}

/* --- List, also without the store ------------------------------------------------------------- */

int volumes_list(struct volumes *volumes, struct volumes_name **ret_names, unsigned *ret_count)
{
    int r = volumes_names_list(volumes->host->store, ret_names, ret_count);
    if (r == 0)
        volumes_seen_note_all(volumes->seen, *ret_names, *ret_count);
    return r;
}

int volumes_list_page(struct volumes *volumes, struct volumes_cursor *cursor,
    struct volumes_name **ret_names, unsigned *ret_count)
{
    return volumes_names_page(volumes->host->store, cursor, ret_names, ret_count);
}

bool volumes_store_away(const struct volumes *volumes)
{
    return !volume_host_lease_valid(volumes->host);
}

bool volumes_recall(const struct volumes *volumes, const char *name, struct volumes_name *ret_name)
{
    list_for_each (it, &volumes->entries) {
        const struct volumes_entry *entry = list_entry(it, struct volumes_entry, link);
        if (!entry->volume || volume_halted(entry->volume) || strcmp(entry->name, name) != 0)
            continue;
        *ret_name = name_of(entry);
        return true;
    }
    const struct volumes_name *seen = volumes_seen_find(volumes->seen, name);
    if (seen)
        *ret_name = *seen;
    return seen != NULL;
}

int volumes_find(struct volumes *volumes, const char *name, struct volumes_name *ret_name)
{
    int r = volumes_store_away(volumes) ? -EHOSTUNREACH
                                        : volumes_names_find(volumes->host->store, name, ret_name);
    if (r == 0)
        volumes_seen_note(volumes->seen, ret_name);
    if (!volumes_not_answered(r))
        return r;
    return volumes_recall(volumes, name, ret_name) ? 0 : -ENOENT;
}

int volumes_find_only(struct volumes *volumes, struct volumes_name *ret_name)
{
    char name[NAME_BYTES_MAX];
    int r = volumes_store_away(volumes) ? -EHOSTUNREACH
                                        : volumes_names_only(volumes->host->store, name);
    return r == 0 ? volumes_find(volumes, name, ret_name) : r;
}

int volumes_list_or_recall(struct volumes *volumes, struct volumes_name **ret_names,
    unsigned *ret_count, bool *ret_recalled)
{
    int r =
        volumes_store_away(volumes) ? -EHOSTUNREACH : volumes_list(volumes, ret_names, ret_count);
    *ret_recalled = volumes_not_answered(r);
    if (!*ret_recalled)
        return r;
    list_for_each (it, &volumes->entries) {
        const struct volumes_entry *entry = list_entry(it, struct volumes_entry, link);
        if (!entry->volume || volume_halted(entry->volume))
            continue;
        struct volumes_name name = name_of(entry);
        volumes_seen_note(volumes->seen, &name);
    }
    volumes_seen_list(volumes->seen, ret_names, ret_count);
    return 0;
}

void volumes_remember(struct volumes *volumes, const struct volumes_name *name)
{
    volumes_seen_note(volumes->seen, name);
}

/* --- Life ------------------------------------------------------------------------------------ */

struct volumes *volumes_new(struct volume_host *host, const struct volumes_options *options)
{
    struct volumes *volumes = NEW(struct volumes);
    volumes->host = host;
    if (options)
        volumes->options = *options;
    if (!volumes->options.idle_close_ns)
        volumes->options.idle_close_ns = IDLE_CLOSE_NS_DEFAULT;
    list_init(&volumes->entries);
    fiber_queue_init(&volumes->changed);
    volumes->seen = volumes_seen_new();
    volumes->refused = volumes_refused_new();
    sightings_init(&volumes->sightings);
    volumes->purge = volumes_purge_start(host, volumes->options.purge_retry_ns);
    return volumes;
}

void volumes_close_begin(struct volumes *volumes)
{
    volumes->closing = true;
    list_for_each (it, &volumes->entries) {
        struct volumes_entry *entry = list_entry(it, struct volumes_entry, link);
        if (!entry->busy) /* else it is being closed, or entry_open() comes to this */
            volume_close_begin(entry->volume);
    }
    fiber_queue_wake_all(&volumes->changed);
}

void volumes_free(struct volumes *volumes)
{
    volumes_close_begin(volumes);
    volumes_purge_stop(volumes->purge);
    while (volumes->renewals > 0)
        fiber_queue_wait(&volumes->changed);
    /* All at once: each has to destage. Entries that are busy go by themselves, or become open. */
    while (!list_empty(&volumes->entries)) {
        list_for_each_safe (it, &volumes->entries) {
            struct volumes_entry *entry = list_entry(it, struct volumes_entry, link);
            if (entry->busy)
                continue;
            CHECK_MSG(entry->users == 0, "volume %s is held", entry->name);
            env_timer_cancel(&entry->idle);
            close_in_background(entry);
        }
        fiber_queue_wait(&volumes->changed);
    }
    volumes_seen_free(volumes->seen);
    volumes_refused_free(volumes->refused);
    sightings_fini(&volumes->sightings);
    mem_free(volumes);
}
