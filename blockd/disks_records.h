/* SPDX-License-Identifier: Apache-2.0
 *
 * The records of disks in the store, as this node changes them for its own. All: 0, or what the store says.
 */
#pragma once

#include "blockd/cluster/records.h"

/* Gives it the next number (N1). */
MAY_SUSPEND int disk_record_make(struct store *store, struct disk_record *record);
/* N5. -ENOENT: none has the UUID. */
MAY_SUSPEND int disk_record_find(
    struct store *store, const struct uuid *uuid, struct disk_record *ret_record);
/* Whether this node may have it; -EBUSY, with *ret_error (mem_free): the node that it is recorded for is up. */
MAY_SUSPEND int disk_record_check_left(struct store *store, const struct disk_record *record,
    const char *node_name, const char *path, char **ret_error);
/* Puts the record of that number and UUID as it shall be, and tries for a while to learn whether it is. */
MAY_SUSPEND int disk_record_take(struct store *store, const struct disk_record *wanted);
/* N6. Puts the record again that the store had; *record's number is not given to others from then on. `here`: the
 * disk is open here, so it is ours whatever node the store's record names. -EEXIST: the store has another
 * disk of that number, this one by another number, or another node's; others: it did not answer. */
MAY_SUSPEND int disk_record_again(struct store *store, const struct uuid *cluster_uuid,
    const struct disk_record *record, bool here);
MAY_SUSPEND int disk_record_move(struct store *store, struct disk_record *record, const char *path);
MAY_SUSPEND int disk_record_delete(struct store *store, uint32_t number);
/* Whether the store is that cluster's and has no such disk of that node: one that is empty, or another cluster's, says
 * nothing. */
MAY_SUSPEND bool disk_record_is_gone(
    struct store *store, const struct uuid *cluster, const char *node_name, uint32_t number);
