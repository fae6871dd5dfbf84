/* SPDX-License-Identifier: Apache-2.0
 *
 * What changes a volume as a whole: resize while it is open; rename, delete and close once nobody
 * uses it.
 */
#include "blockd/volumes_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "blockd/volumes_names.h"
#include "blockd/volumes_purge.h"
#include "blockd/volumes_seen.h"
#include "common/mem.h"

/* How long a delete, rename or close waits for users to go; when front ends were told to. */
#define UNUSED_WAIT_NS (2 * 1000000000ull)
#define FORCE_WAIT_NS (30 * 1000000000ull)

static void tell_resized(struct volumes_entry *entry)
{
    list_for_each_safe (it, &entry->listeners) {
        struct volumes_listener *listener = list_entry(it, struct volumes_listener, link);
        listener->resized(listener);
    }
}

static void tell_removed(struct volumes_entry *entry)
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
            tell_resized(volumes_entry_of(volumes, volume));
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
    struct volumes_entry *entry = volumes_entry_by_id(volumes, id);
    if (entry && force)
        tell_removed(entry);
    while ((entry = volumes_entry_by_id(volumes, id)) && entry->users > 0)
        if (fiber_queue_wait_until(&volumes->changed, deadline_ns) < 0)
            return -EBUSY;
    return 0;
}

/* The entry of `name`, closed and the caller's alone (V1). volumes_entry_free() when done. It is closed
 * also where that was not clean (*ret_close_error). */
static int take_closed(struct volumes *volumes, const char *name, const char *what, bool force,
    struct volumes_entry **ret_entry, int *ret_close_error, char **ret_error)
{
    *ret_close_error = 0;
    for (;;) {
        uint64_t id;
        int r = volumes_find_id(volumes, name, &id, ret_error);
        if (r < 0)
            return r;
        struct volumes_entry *entry = volumes_entry_by_id(volumes, id);
        if (volumes->closing) {
            *ret_error = mem_strdup("this node is stopping");
            return -ESHUTDOWN;
        }
        if (!entry) {
            *ret_entry = volumes_entry_new(volumes, id, name);
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
        if (volumes_entry_by_id(volumes, id) != entry || entry->busy || entry->users > 0)
            continue; /* the wait for users suspended */
        *ret_close_error = volumes_entry_close(entry);
        *ret_entry = entry;
        return 0;
    }
}

static int rename_closed(
    struct volumes *volumes, const char *name, const char *new_name, char **ret_error)
{
    struct volumes_entry *entry;
    int close_error;
    int r = take_closed(volumes, name, "rename", false, &entry, &close_error, ret_error);
    if (r < 0)
        return r;
    char *error = NULL;
    r = volumes_names_rename(volumes->host->store, volume_host_session(volumes->host), entry->id,
        name, new_name, &error);
    volumes_seen_forget(volumes->seen, entry->id);
    volumes_entry_free(entry);
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
    if (strcmp(name, new_name) == 0) {
        *ret_error = mem_printf("volume '%s' has that name already", name);
        return -EEXIST;
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
    struct volumes_entry *entry;
    int close_error;
    int r = take_closed(volumes, name, "delete", force, &entry, &close_error, ret_error);
    if (r < 0)
        return r;
    uint64_t id = entry->id;
    r = volume_delete(volumes->host, id, name, ret_error);
    volumes_entry_free(entry);
    if (r == 0) {
        volumes_seen_forget(volumes->seen, id);
        volumes_purge_add(volumes->purge, id);
    }
    return r;
}

int volumes_close(struct volumes *volumes, const char *name, char **ret_error)
{
    struct volumes_entry *entry;
    int close_error;
    int r = take_closed(volumes, name, "close", false, &entry, &close_error, ret_error);
    if (r < 0)
        return r;
    volumes_entry_free(entry);
    if (close_error < 0)
        *ret_error = mem_printf("volume '%s' was not closed cleanly: %s; the next open recovers it "
                                "from its log",
            name, strerror(-close_error));
    return close_error;
}
