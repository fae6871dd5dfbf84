/* SPDX-License-Identifier: Apache-2.0
 *
 * The records of disks in the store, as this node changes them for its own. All: 0, or what the store says.
 */
#pragma once

#include "blockd/cluster/records.h"

/* Gives it the next number (N1). */
MAY_SUSPEND int disk_record_make(struct store *store, struct disk_record *record);
/* Of a disk that has a record already (N5), by its UUID: it is from now on at record->node and record->path;
 * *record is what it was else. -ENOENT: it has none. -EBUSY: the node that it is recorded for is up; *ret_error
 * (mem_free) with that alone. */
MAY_SUSPEND int disk_record_take(struct store *store, struct disk_record *record, char **ret_error);
MAY_SUSPEND int disk_record_move(struct store *store, struct disk_record *record, const char *path);
MAY_SUSPEND int disk_record_delete(struct store *store, uint32_t number);
/* Whether the store is that cluster's and has no such disk of that node: one that is empty, or another cluster's, says
 * nothing. */
MAY_SUSPEND bool disk_record_is_gone(
    struct store *store, const struct uuid *cluster, const char *node_name, uint32_t number);
