/* SPDX-License-Identifier: Apache-2.0
 *
 * The registry of a node's volumes: opens on first use, once; counts users; what front ends hold.
 */
#pragma once

#include "blockd/volume/volume.h"

struct volumes;

struct volumes *volumes_new(struct volume_host *host);
/* Closes all (clean). Nobody may hold one. */
MAY_SUSPEND void volumes_free(struct volumes *volumes);

/* The open volume named `name`, opened if it was not; counted. -ENOENT; other errors as volume_open, with *ret_error (mem_free). Two
 * callers at once get the same one. */
MAY_SUSPEND int volumes_get(
    struct volumes *volumes, const char *name, struct volume **ret_volume, char **ret_error);
/* Uncounts. A volume without users stays open; it is destaged and closed when it has been idle for a while. */
void volumes_put(struct volumes *volumes, struct volume *volume);

/* Front ends that want to know of growth or removal register a listener per get. */
struct volumes_listener {
    struct volume *volume;
    void (*resized)(struct volumes_listener
            *listener); /* the size has changed: QEMU wants its connection dropped */
    void (*removed)(
        struct volumes_listener *listener); /* deleted or renamed away: end the connection */
    struct list link;
};
void volumes_listen(struct volumes *volumes, struct volumes_listener *listener);
void volumes_unlisten(struct volumes_listener *listener);

struct volumes_name {
    char name[NAME_BYTES_MAX];
    uint64_t id, size_bytes;
};
/* All volumes of the store (not only open ones), by name. mem_free. */
MAY_SUSPEND int volumes_list(
    struct volumes *volumes, struct volumes_name **ret_names, unsigned *ret_count);

/* Admin: as volume_*, and keep the open ones in step. Deleting one with users: -EBUSY unless `force`. */
MAY_SUSPEND int volumes_resize(
    struct volumes *volumes, const char *name, uint64_t size_bytes, char **ret_error);
MAY_SUSPEND int volumes_rename(
    struct volumes *volumes, const char *name, const char *new_name, char **ret_error);
MAY_SUSPEND int volumes_delete(
    struct volumes *volumes, const char *name, bool force, char **ret_error);
