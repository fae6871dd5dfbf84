/* SPDX-License-Identifier: Apache-2.0
 *
 * The UUIDs of the cluster and of this node: made at the first start, kept in the store.
 */
#pragma once

#include "blockd/cluster/records.h"

/* *ret_error (mem_free) on any failure. */
MAY_SUSPEND int cluster_load_or_make(
    struct store *store, struct cluster_record *ret_record, char **ret_error);
MAY_SUSPEND int node_load_or_make(
    struct store *store, const char *name, struct node_record *ret_record, char **ret_error);
