/* SPDX-License-Identifier: Apache-2.0
 *
 * Volumes' records in the store, as names: finding and listing them, giving one another name. Of the registry, which
 * sees to it that nobody uses a volume meanwhile (V2).
 */
#pragma once

#include "blockd/volumes.h"

/* All but those being deleted, by name. mem_free. Damaged ones are logged and left out. */
MAY_SUSPEND int volumes_names_list(
    struct store *store, struct volumes_name **ret_names, unsigned *ret_count);
/* Some of them, by id: those behind *cursor. Damaged ones are logged and left out. */
MAY_SUSPEND int volumes_names_page(struct store *store, struct volumes_cursor *cursor,
    struct volumes_name **ret_names, unsigned *ret_count);
/* One by its name: -ENOENT also when it is on its way out. */
MAY_SUSPEND int volumes_names_find(
    struct store *store, const char *name, struct volumes_name *ret_name);
/* The name of the only volume that there is: -ENOENT: there is none; -EEXIST: there are several. */
MAY_SUSPEND int volumes_names_only(struct store *store, char ret_name[NAME_BYTES_MAX]);
/* -EEXIST with *ret_error (mem_free): the new name is taken; -ESTALE likewise: another session than
 * `session` owns it (V6). */
MAY_SUSPEND int volumes_names_rename(struct store *store, uint64_t session, uint64_t id,
    const char *name, const char *new_name, char **ret_error);
