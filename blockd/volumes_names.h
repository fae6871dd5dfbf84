/* SPDX-License-Identifier: Apache-2.0
 *
 * Volumes' records in the store, as names: listing them, giving one another name. Of the registry, which
 * sees to it that nobody uses a volume meanwhile (V2).
 */
#pragma once

#include "blockd/volumes.h"

/* All but those being deleted, by name. mem_free. Damaged ones are logged and left out. */
MAY_SUSPEND int volumes_names_list(
    struct store *store, struct volumes_name **ret_names, unsigned *ret_count);
/* -EEXIST with *ret_error (mem_free): the new name is taken; -ESTALE likewise: another session than
 * `session` owns it (V6). */
MAY_SUSPEND int volumes_names_rename(struct store *store, uint64_t session, uint64_t id,
    const char *name, const char *new_name, char **ret_error);
