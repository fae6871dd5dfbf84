/* SPDX-License-Identifier: Apache-2.0
 *
 * The registry of a node's volumes: opens on first use, once; counts users; what front ends hold.
 *
 * Invariants
 *  V1 A volume is open at most once on a node: whoever opens, closes, renames or deletes holds its
 *     entry alone (busy), others wait.
 *  V2 A volume with users is neither closed nor renamed; it is deleted only by force, which first
 *     tells its listeners.
 *  V3 A volume that has halted (deposed) or is being handed over is given to nobody any more: its users let
 *     go of it, it is closed, then the next volumes_get() opens it anew. Whoever got it would be refused and ask
 *     again, for ever and in no time.
 *  V4 Every root in VOLUME_DELETING is purged in the end: at start, after a delete, and again after
 *     a failure.
 *  V5 What was released for a successor is left alone until that had two seconds to take it,
 *     counted from when this node first saw it so (volume_root.successor).
 *  V6 A volume is renamed by the node that has it, while it is closed: whoever has it open finds it by
 *     the name that it had then, and would go on to, for whoever asks for another volume by that name.
 */
#pragma once

#include <errno.h>

#include "blockd/volume/volume.h"

struct volumes;
struct volumes_refused;

struct volumes_options {
    uint64_t idle_close_ns;  /* without users for so long: closed; 0 = 10 min */
    uint64_t purge_retry_ns; /* 0 = 60 s */
};

/* Starts to purge what is left of deleted volumes. `options` may be NULL. */
MAY_SUSPEND struct volumes *volumes_new(
    struct volume_host *host, const struct volumes_options *options);
/* The node is stopping: no volume is opened any more, and requests that wait for disks end with
 * -ESHUTDOWN (volume_close_begin), so that whoever waits for their end gets it. May be repeated. */
void volumes_close_begin(struct volumes *volumes);
/* Closes all (clean). Nobody may hold one. */
MAY_SUSPEND void volumes_free(struct volumes *volumes);

/* The open volume named `name`, opened if it was not; counted. -ENOENT; -ESHUTDOWN while the node
 * stops; other errors as volume_open. *ret_error (mem_free) is set with each of them. Two callers
 * at once get the same one. */
MAY_SUSPEND int volumes_get(
    struct volumes *volumes, const char *name, struct volume **ret_volume, char **ret_error);
MAY_SUSPEND int volumes_get_by_id(
    struct volumes *volumes, uint64_t id, struct volume **ret_volume, char **ret_error);
/* As above for whoever can forward: -EBUSY with *ret_owner when another node owns it, or is to take
 * it (volume_acquire). By name, or by id when name is NULL. */
MAY_SUSPEND int volumes_acquire(struct volumes *volumes, const char *name, uint64_t id,
    struct volume **ret_volume, struct volume_owner *ret_owner, char **ret_error);
/* Hands the open volume over to another node (S20): -ENOENT unless it is open here at `epoch` (0 =
 * any), -EBUSY while another handover runs. Users get -ESHUTDOWN, are told by halted() and let go.
 * *ret_pause_ns (may be NULL): how long it took no I/O. */
MAY_SUSPEND int volumes_handoff(struct volumes *volumes, uint64_t id, uint32_t epoch,
    const char *successor, uint64_t *ret_pause_ns, char **ret_error);
/* volume_session_renewed() of all open ones (members_options.session_renewed). */
MAY_SUSPEND void volumes_session_renewed(struct volumes *volumes);
/* Uncounts. A volume without users stays open; it is destaged and closed when it has been idle for
 * a while. */
void volumes_put(struct volumes *volumes, struct volume *volume);

/* Front ends that want to know of growth or removal register a listener per get. */
struct volumes_listener {
    struct volume *volume;
    void (*resized)(struct volumes_listener
            *listener); /* the size has changed: QEMU wants its connection dropped */
    void (*removed)(
        struct volumes_listener *listener); /* deleted or renamed away: end the connection */
    void (*halted)(struct volumes_listener
            *listener); /* somebody wants a volume that has halted: let go of it (V3). May be NULL,
                           may be called again */
    struct list link;
};
void volumes_listen(struct volumes *volumes, struct volumes_listener *listener);
void volumes_unlisten(struct volumes_listener *listener);

struct volumes_name {
    char name[NAME_BYTES_MAX];
    char pool[NAME_BYTES_MAX];
    uint64_t id, size_bytes;
    enum volume_state state;
    char owner[64]; /* of VOLUME_OWNED */
    uint64_t owner_session;
    uint32_t epoch; /* of the last owner */
};
struct volumes_name volumes_name_of(const struct volume_root *root);
/* All volumes of the store (not only open ones; not those being deleted), by name. mem_free. */
MAY_SUSPEND int volumes_list(
    struct volumes *volumes, struct volumes_name **ret_names, unsigned *ret_count);
/* The same, page by page, in no order: `cursor` is zeroed at first, its `done` is set with the last page. A page may
 * be empty. What is there all the while is in one page. */
struct volumes_cursor {
    char after[KEY_BYTES_MAX];
    bool done;
};
MAY_SUSPEND int volumes_list_page(struct volumes *volumes, struct volumes_cursor *cursor,
    struct volumes_name **ret_names, unsigned *ret_count);
/* One by its name, as the store has it; while that does not answer, what of it is known here. -ENOENT. */
MAY_SUSPEND int volumes_find(
    struct volumes *volumes, const char *name, struct volumes_name *ret_name);
/* The only one that there is: -ENOENT: there is none; -EEXIST: there are several; only the store can tell. */
MAY_SUSPEND int volumes_find_only(struct volumes *volumes, struct volumes_name *ret_name);
/* Without the store (volumes_seen.h). volumes_store_away: it has not been heard of for so long that the
 * session may be over, so there is no point in asking it first. volumes_recall: what is open here, or
 * what was last seen of that name; false: nothing. volumes_remember: it was seen just now. */
bool volumes_store_away(const struct volumes *volumes);
bool volumes_recall(const struct volumes *volumes, const char *name, struct volumes_name *ret_name);
/* volumes_list, or, while the store does not answer, what of it is known here: *ret_recalled. */
MAY_SUSPEND int volumes_list_or_recall(struct volumes *volumes, struct volumes_name **ret_names,
    unsigned *ret_count, bool *ret_recalled);
void volumes_remember(struct volumes *volumes, const struct volumes_name *name);
/* Whether an error says that the store (or another node) did not answer, and nothing of what was asked. */
static inline bool volumes_not_answered(int error)
{
    return error == -EHOSTUNREACH || error == -ETIMEDOUT;
}
/* Why volumes could not be opened here lately; to be asked, not kept. */
const struct volumes_refused *volumes_refused(const struct volumes *volumes);
/* NULL when it is not open. Valid until the caller next suspends. `ret_connections` (may be NULL):
 * listeners. */
struct volume *volumes_peek(struct volumes *volumes, uint64_t id, unsigned *ret_connections);
/* Calls fn(ctx, volume) for each open volume; fn must not suspend. */
void volumes_each_open(
    struct volumes *volumes, void (*fn)(void *ctx, struct volume *volume), void *ctx);

/* The nodes that are up or the disks have changed: deleted volumes may be ours to purge now, or wait
 * for nothing more (V4). */
void volumes_cluster_changed(struct volumes *volumes);

/* Admin: as volume_*, and keep the open ones in step. Renaming one with users: -EBUSY. Deleting one
 * with users: -EBUSY unless `force`, which ends their connections. volumes_close: destages, seals,
 * releases; -EBUSY with users; 0 when it is not open. *ret_error (mem_free) says the way out. */
MAY_SUSPEND int volumes_resize(
    struct volumes *volumes, const char *name, uint64_t size_bytes, char **ret_error);
MAY_SUSPEND int volumes_rename(
    struct volumes *volumes, const char *name, const char *new_name, char **ret_error);
MAY_SUSPEND int volumes_delete(
    struct volumes *volumes, const char *name, bool force, char **ret_error);
MAY_SUSPEND int volumes_close(struct volumes *volumes, const char *name, char **ret_error);
