/* SPDX-License-Identifier: Apache-2.0
 *
 * One entry for each volume that is open, or that somebody is opening, closing, renaming or
 * deleting:
 *
 *            get: entry made, busy            opened
 *   (none) ------------------------> BUSY -----------> OPEN (users counted, idle timer at 0)
 *     ^        close, delete, rename done  |             |
 *     +------------------------------------+ <-----------+ idle, close, rename, delete
 *
 * Whoever finds an entry busy waits for a change of it and looks again from the start.
 */
#include "blockd/volumes.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/volumes_names.h"
#include "blockd/volumes_purge.h"
#include "blockd/volumes_refused.h"
#include "blockd/volumes_seen.h"
#include "common/check.h"
#include "common/env.h"
#include "common/log.h"
#include "common/mem.h"

#define IDLE_CLOSE_NS_DEFAULT (600 * 1000000000ull)
/* How long a delete, rename or close waits for users to go; when front ends were told to. */
#define UNUSED_WAIT_NS (2 * 1000000000ull)
#define FORCE_WAIT_NS (30 * 1000000000ull)
#define SUCCESSOR_WAIT_NS (2 * 1000000000ull) /* V5 */
#define SIGHTINGS_MAX 64

struct entry {
    struct list link; /* volumes->entries */
    struct volumes *volumes;
    uint64_t id;
    char name[NAME_BYTES_MAX];
    struct volume *volume; /* NULL unless open */
    bool busy;             /* V1 */
    bool handing_over;
    unsigned users;
    struct list listeners; /* struct volumes_listener.link */
    struct env_timer idle;
};

struct volumes {
    struct volume_host *host;
    struct volumes_options options;
    struct list entries;
    struct fiber_queue changed; /* an entry became not busy, went, or lost its last user */
    struct volumes_purge *purge;
    struct volumes_seen *seen;
    struct volumes_refused *refused;
    bool closing;
    unsigned renewals; /* fibers of volumes_session_renewed */
    /* Volumes that wait for their successor, and since when we know (V5); the oldest goes first. */
    struct sighting {
        uint64_t id, first_ns;
        uint32_t epoch;
    } sightings[SIGHTINGS_MAX];
    unsigned sighting_next;
};

/* --- Entries --------------------------------------------------------------------------------- */

static struct entry *entry_by_id(struct volumes *volumes, uint64_t id)
{
    list_for_each (it, &volumes->entries)
        if (list_entry(it, struct entry, link)->id == id)
            return list_entry(it, struct entry, link);
    return NULL;
}

static struct entry *entry_by_name(struct volumes *volumes, const char *name)
{
    list_for_each (it, &volumes->entries)
        if (strcmp(list_entry(it, struct entry, link)->name, name) == 0)
            return list_entry(it, struct entry, link);
    return NULL;
}

static struct entry *entry_of(struct volumes *volumes, const struct volume *volume)
{
    list_for_each (it, &volumes->entries)
        if (list_entry(it, struct entry, link)->volume == volume)
            return list_entry(it, struct entry, link);
    CHECK_MSG(false, "a volume that is not in the registry");
    return NULL;
}

static void idle_fired(struct env_timer *timer);

/* Busy; the caller opens it or works on the closed volume. */
static struct entry *entry_new(struct volumes *volumes, uint64_t id, const char *name)
{
    struct entry *entry = NEW(struct entry);
    entry->volumes = volumes;
    entry->id = id;
    entry->busy = true;
    strcpy(entry->name, name);
    list_init(&entry->listeners);
    env_timer_init(&entry->idle, idle_fired);
    list_push_back(&volumes->entries, &entry->link);
    return entry;
}

static void entry_free(struct entry *entry)
{
    struct volumes *volumes = entry->volumes;
    CHECK(entry->users == 0 && list_empty(&entry->listeners) && !entry->volume);
    env_timer_cancel(&entry->idle);
    list_remove(&entry->link);
    mem_free(entry);
    fiber_queue_wake_all(&volumes->changed);
}

static struct volumes_name name_of(const struct entry *entry)
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

/* For when the store is away: whose it is from now on, as far as we know. */
static void note_owner(const struct entry *entry, enum volume_state state, const char *owner)
{
    struct volumes_name name = name_of(entry);
    name.state = state;
    name.owner_session = 0;
    snprintf(name.owner, sizeof(name.owner), "%s", owner);
    volumes_seen_note(entry->volumes->seen, &name);
}

/* Takes the idle entry alone and closes its volume; the entry stays, busy. */
static int entry_close(struct entry *entry)
{
    CHECK(!entry->busy && entry->users == 0);
    entry->busy = true;
    env_timer_cancel(&entry->idle);
    struct volume *volume = entry->volume;
    if (!volume_halted(volume))
        note_owner(entry, VOLUME_RELEASED, "");
    int r = volume_close(volume);
    entry->volume = NULL;
    if (r < 0)
        log_warn("volume %s: not closed cleanly: %s; the next open recovers it from its log",
            entry->name, strerror(-r));
    return r;
}

static void close_and_free(void *arg)
{
    struct entry *entry = arg;
    entry->busy = false; /* taken by who spawned this fiber */
    entry_close(entry);
    entry_free(entry);
}

/* From callbacks outside fibers too. */
static void close_in_background(struct entry *entry)
{
    entry->busy = true;
    fiber_spawn("volume close", close_and_free, entry);
}

static void idle_fired(struct env_timer *timer)
{
    struct entry *entry = container_of(timer, struct entry, idle);
    if (entry->busy || entry->users > 0)
        return;
    log_info("volume %s: idle, closing", entry->name);
    close_in_background(entry);
}

/* No user is left, and the entry is not busy. */
static void entry_idle(struct entry *entry)
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

/* Whether the successor has had its time; remembers when that began. */
static bool successor_is_late(struct volumes *volumes, uint64_t id, uint32_t epoch)
{
    for (unsigned i = 0; i < SIGHTINGS_MAX; i++) {
        const struct sighting *s = &volumes->sightings[i];
        if (s->id == id && s->epoch == epoch)
            return env_now_ns() >= s->first_ns + SUCCESSOR_WAIT_NS;
    }
    volumes->sightings[volumes->sighting_next++ % SIGHTINGS_MAX] =
        (struct sighting){.id = id, .epoch = epoch, .first_ns = env_now_ns()};
    return false;
}

/* An open volume has fibers of its own for as long as it is open, and the pool is the node's (F5): the one
 * that has been idle for longest makes room. */
static int no_fibers(struct volumes *volumes, char **ret_error)
{
    struct entry *idle = NULL;
    unsigned open = 0;
    list_for_each (it, &volumes->entries) {
        struct entry *entry = list_entry(it, struct entry, link);
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
static int entry_open(struct entry *entry, struct volume **ret_volume,
    struct volume_owner *ret_owner, char **ret_error)
{
    struct volumes *volumes = entry->volumes;
    struct volume *volume;
    struct volume_owner owner = {0};
    char *error = NULL;
    int r = fiber_pool_is_short()
                ? no_fibers(volumes, &error)
                : volume_acquire(volumes->host, entry->id, 0, &volume, &owner, &error);
    if (r == -EBUSY && owner.session == 0 && successor_is_late(volumes, entry->id, owner.epoch)) {
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
        entry_free(entry);
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

/* Those who hold it and have nothing to do with it just now have not noticed. */
static void tell_halted(struct entry *entry)
{
    list_for_each_safe (it, &entry->listeners) {
        struct volumes_listener *listener = list_entry(it, struct volumes_listener, link);
        if (listener->halted)
            listener->halted(listener);
    }
}

/* 1: *ret_volume is counted. 0: look again, something changed meanwhile. */
static int entry_join(struct entry *entry, struct volume **ret_volume)
{
    if (!entry->busy && volume_halted(entry->volume) && entry->users == 0)
        close_in_background(entry); /* V3 */
    if (!entry->busy && volume_halted(entry->volume))
        tell_halted(entry);
    if (entry->busy || !volume_takes_io(entry->volume)) { /* V3 */
        fiber_queue_wait(&entry->volumes->changed);
        return 0;
    }
    entry->users++;
    env_timer_cancel(&entry->idle);
    *ret_volume = entry->volume;
    return 1;
}

static int find_id(struct volumes *volumes, const char *name, uint64_t *ret_id, char **ret_error)
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
        struct entry *entry = name ? entry_by_name(volumes, name) : entry_by_id(volumes, id);
        if (!entry && name) {
            int r = find_id(volumes, name, &id, ret_error);
            if (r < 0)
                return r;
            /* The look-up suspended. */
            entry = entry_by_id(volumes, id);
            if (volumes->closing)
                continue;
        }
        if (!entry)
            return entry_open(
                entry_new(volumes, id, name ? name : ""), ret_volume, ret_owner, ret_error);
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
    struct entry *entry = entry_of(volumes, volume);
    CHECK(entry->users > 0);
    if (--entry->users == 0 && !entry->busy)
        entry_idle(entry);
    else
        fiber_queue_wake_all(&volumes->changed);
}

void volumes_listen(struct volumes *volumes, struct volumes_listener *listener)
{
    list_push_back(&entry_of(volumes, listener->volume)->listeners, &listener->link);
}

void volumes_unlisten(struct volumes_listener *listener)
{
    list_remove(&listener->link);
}

struct volume *volumes_peek(struct volumes *volumes, uint64_t id, unsigned *ret_connections)
{
    struct entry *entry = entry_by_id(volumes, id);
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
        if (list_entry(it, struct entry, link)->volume)
            fn(ctx, list_entry(it, struct entry, link)->volume);
}

/* --- Handing over, new sessions ---------------------------------------------------------------- */

int volumes_handoff(struct volumes *volumes, uint64_t id, uint32_t epoch, const char *successor,
    uint64_t *ret_pause_ns, char **ret_error)
{
    struct entry *entry = entry_by_id(volumes, id);
    if (!entry || entry->busy || volume_halted(entry->volume) ||
        (epoch && volume_epoch(entry->volume) != epoch)) {
        *ret_error = mem_printf("volume %016" PRIx64 " is not served here", id);
        return -ENOENT;
    }
    if (entry->handing_over) {
        *ret_error = mem_printf("volume '%s' is being handed over already", entry->name);
        return -EBUSY;
    }
    entry->users++; /* so that it is not closed meanwhile */
    env_timer_cancel(&entry->idle);
    entry->handing_over = true;
    int r = volume_hand_over(entry->volume, successor, ret_pause_ns);
    entry->handing_over = false;
    if (r < 0)
        *ret_error =
            mem_printf("volume '%s' was not handed over to node '%s': %s", entry->name, successor,
                r == -EHOSTUNREACH
                    ? "the store does not answer, or too few of its disks are there just "
                      "now; it stays where it is"
                    : strerror(-r));
    else
        log_info("volume %s: handed over to node '%s'", entry->name, successor);
    if (r == 0)
        note_owner(entry, VOLUME_OWNED, successor);
    if (volume_halted(entry->volume))
        tell_halted(entry);
    volumes_put(volumes, entry->volume);
    return r;
}

struct renewal {
    struct entry *entry;
    struct fiber_group *group;
};

static void renew(void *arg)
{
    struct renewal renewal = *(struct renewal *)arg;
    struct volumes *volumes = renewal.entry->volumes;
    struct volume *volume = renewal.entry->volume;
    mem_free(arg);
    while (!volumes->closing && volume_session_renewed(volume) == -EAGAIN)
        log_warn_limited("volume %s: reads do not use the new session yet", volume_name(volume));
    if (volume_halted(volume))
        tell_halted(renewal.entry);
    volumes_put(volumes, volume);
    fiber_group_done(renewal.group, 0);
}

void volumes_session_renewed(struct volumes *volumes)
{
    struct fiber_group group;
    fiber_group_init(&group);
    volumes->renewals++;
    list_for_each (it, &volumes->entries) {
        struct entry *entry = list_entry(it, struct entry, link);
        if (entry->busy || volume_halted(entry->volume))
            continue; /* opening: it looks at the session when it is done */
        struct renewal *renewal = NEW(struct renewal);
        *renewal = (struct renewal){.entry = entry, .group = &group};
        entry->users++;
        env_timer_cancel(&entry->idle);
        fiber_group_add(&group, 1);
        fiber_spawn("renew session", renew, renewal);
    }
    fiber_group_wait(&group);
    volumes->renewals--;
    fiber_queue_wake_all(&volumes->changed);
}

void volumes_cluster_changed(struct volumes *volumes)
{
    volumes_purge_look(volumes->purge);
}

/* --- Resize, rename, delete, close ------------------------------------------------------------ */

static void tell_resized(struct entry *entry)
{
    list_for_each_safe (it, &entry->listeners) {
        struct volumes_listener *listener = list_entry(it, struct volumes_listener, link);
        listener->resized(listener);
    }
}

static void tell_removed(struct entry *entry)
{
    list_for_each_safe (it, &entry->listeners) {
        struct volumes_listener *listener = list_entry(it, struct volumes_listener, link);
        listener->removed(listener);
    }
}

static int check_new_size(const struct volume *volume, uint64_t size_bytes, char **ret_error)
{
    uint64_t now_bytes = volume_size_bytes(volume);
    if (size_bytes < now_bytes) {
        *ret_error = mem_printf("volume '%s' has %" PRIu64 " bytes; it cannot shrink to %" PRIu64
                                ", which would cut off data: make a smaller volume and copy to it",
            volume_name(volume), now_bytes, size_bytes);
        return -EINVAL;
    }
    if (size_bytes % 512 || size_bytes > VOLUME_SIZE_BYTES_MAX) {
        *ret_error = mem_printf(
            "%" PRIu64 " bytes is not a size: a multiple of 512 up to 1 PiB is", size_bytes);
        return -EINVAL;
    }
    return 0;
}

int volumes_resize(struct volumes *volumes, const char *name, uint64_t size_bytes, char **ret_error)
{
    struct volume *volume;
    int r = volumes_get(volumes, name, &volume, ret_error);
    if (r < 0)
        return r;
    r = check_new_size(volume, size_bytes, ret_error);
    bool grows = r == 0 && size_bytes > volume_size_bytes(volume);
    if (grows) {
        r = volume_grow(volume, size_bytes);
        if (r < 0)
            *ret_error = mem_printf("volume '%s' was not resized: %s", name, strerror(-r));
        else
            tell_resized(entry_of(volumes, volume));
    }
    volumes_put(volumes, volume);
    return r;
}

static char *in_use(struct volumes *volumes, uint64_t id, const char *name, const char *what)
{
    unsigned connections;
    volumes_peek(volumes, id, &connections);
    if (connections == 0)
        return mem_printf("volume '%s' is in use; try to %s it again later", name, what);
    return mem_printf("volume '%s' is in use by %u connection%s; end %s before you %s it%s", name,
        connections, connections == 1 ? "" : "s", connections == 1 ? "it" : "them", what,
        strcmp(what, "delete") == 0 ? ", or use --force" : "");
}

/* Waits until the volume has no users: those that force made go, or a connection whose end has not
 * been noticed yet. */
static int wait_unused(struct volumes *volumes, uint64_t id, bool force)
{
    uint64_t deadline_ns = env_now_ns() + (force ? FORCE_WAIT_NS : UNUSED_WAIT_NS);
    struct entry *entry = entry_by_id(volumes, id);
    if (entry && force)
        tell_removed(entry);
    while ((entry = entry_by_id(volumes, id)) && entry->users > 0)
        if (fiber_queue_wait_until(&volumes->changed, deadline_ns) < 0)
            return -EBUSY;
    return 0;
}

/* The entry of `name`, closed and the caller's alone (V1). entry_free() when done. It is closed
 * also where that was not clean (*ret_close_error). */
static int take_closed(struct volumes *volumes, const char *name, const char *what, bool force,
    struct entry **ret_entry, int *ret_close_error, char **ret_error)
{
    *ret_close_error = 0;
    for (;;) {
        uint64_t id;
        int r = find_id(volumes, name, &id, ret_error);
        if (r < 0)
            return r;
        struct entry *entry = entry_by_id(volumes, id);
        if (volumes->closing) {
            *ret_error = mem_strdup("this node is stopping");
            return -ESHUTDOWN;
        }
        if (!entry) {
            *ret_entry = entry_new(volumes, id, name);
            return 0;
        }
        if (entry->busy) {
            fiber_queue_wait(&volumes->changed);
            continue;
        }
        if (entry->users > 0 && wait_unused(volumes, id, force) < 0) {
            *ret_error = in_use(volumes, id, name, what);
            return -EBUSY;
        }
        if (entry_by_id(volumes, id) != entry || entry->busy || entry->users > 0)
            continue; /* the wait for users suspended */
        *ret_close_error = entry_close(entry);
        *ret_entry = entry;
        return 0;
    }
}

static int rename_closed(
    struct volumes *volumes, const char *name, const char *new_name, char **ret_error)
{
    struct entry *entry;
    int close_error;
    int r = take_closed(volumes, name, "rename", false, &entry, &close_error, ret_error);
    if (r < 0)
        return r;
    char *error = NULL;
    r = volumes_names_rename(volumes->host->store, volume_host_session(volumes->host), entry->id,
        name, new_name, &error);
    volumes_seen_forget(volumes->seen, entry->id);
    entry_free(entry);
    if (r < 0)
        *ret_error = error ? error
                           : mem_printf("volume '%s' was not renamed in the store: %s", name,
                                 store_strerror(r));
    return r;
}

int volumes_rename(
    struct volumes *volumes, const char *name, const char *new_name, char **ret_error)
{
    if (!name_valid(new_name)) {
        *ret_error = mem_printf("'%s' is not a name: a letter or digit, then letters, digits, '.', "
                                "'_' or '-', at most %u in all, is",
            new_name, NAME_BYTES_MAX - 1);
        return -EINVAL;
    }
    int r = rename_closed(volumes, name, new_name, ret_error);
    if (r != -ESTALE)
        return r;
    mem_free(*ret_error);
    *ret_error = NULL;
    struct volume *volume; /* taken over, if its owner is dead */
    r = volumes_get(volumes, name, &volume, ret_error);
    if (r < 0)
        return r;
    volumes_put(volumes, volume);
    r = rename_closed(volumes, name, new_name, ret_error);
    return r == -ESTALE ? -EBUSY : r;
}

int volumes_delete(struct volumes *volumes, const char *name, bool force, char **ret_error)
{
    struct entry *entry;
    int close_error;
    int r = take_closed(volumes, name, "delete", force, &entry, &close_error, ret_error);
    if (r < 0)
        return r;
    uint64_t id = entry->id;
    r = volume_delete(volumes->host, name, ret_error);
    entry_free(entry);
    if (r == 0) {
        volumes_seen_forget(volumes->seen, id);
        volumes_purge_add(volumes->purge, id);
    }
    return r;
}

int volumes_close(struct volumes *volumes, const char *name, char **ret_error)
{
    struct entry *entry;
    int close_error;
    int r = take_closed(volumes, name, "close", false, &entry, &close_error, ret_error);
    if (r < 0)
        return r;
    entry_free(entry);
    if (close_error < 0)
        *ret_error = mem_printf("volume '%s' was not closed cleanly: %s; the next open recovers it "
                                "from its log",
            name, strerror(-close_error));
    return close_error;
}

/* --- List, also without the store ------------------------------------------------------------- */

int volumes_list(struct volumes *volumes, struct volumes_name **ret_names, unsigned *ret_count)
{
    int r = volumes_names_list(volumes->host->store, ret_names, ret_count);
    if (r == 0)
        volumes_seen_note_all(volumes->seen, *ret_names, *ret_count);
    return r;
}

bool volumes_store_away(const struct volumes *volumes)
{
    return !volume_host_lease_valid(volumes->host);
}

bool volumes_recall(const struct volumes *volumes, const char *name, struct volumes_name *ret_name)
{
    list_for_each (it, &volumes->entries) {
        const struct entry *entry = list_entry(it, struct entry, link);
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

int volumes_list_or_recall(struct volumes *volumes, struct volumes_name **ret_names,
    unsigned *ret_count, bool *ret_recalled)
{
    int r =
        volumes_store_away(volumes) ? -EHOSTUNREACH : volumes_list(volumes, ret_names, ret_count);
    *ret_recalled = volumes_not_answered(r);
    if (!*ret_recalled)
        return r;
    list_for_each (it, &volumes->entries) {
        const struct entry *entry = list_entry(it, struct entry, link);
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
    volumes->purge = volumes_purge_start(host, volumes->options.purge_retry_ns);
    return volumes;
}

void volumes_close_begin(struct volumes *volumes)
{
    volumes->closing = true;
    list_for_each (it, &volumes->entries) {
        struct entry *entry = list_entry(it, struct entry, link);
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
            struct entry *entry = list_entry(it, struct entry, link);
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
    mem_free(volumes);
}
