/* SPDX-License-Identifier: Apache-2.0
 *
 * Who this node is, between its state directory (state_file.h) and the store. A node alone makes its
 * records by itself at its first start; a node of a cluster is joined by somebody's command.
 */
#pragma once

#include "blockd/cluster/records.h"
#include "blockd/cluster/state_file.h"

/* A record as the store has it, made if there is none. *ret_error (mem_free) on any failure. */
MAY_SUSPEND int cluster_load_or_make(
    struct store *store, struct cluster_record *ret_record, char **ret_error);

struct identity {
    struct cluster_record cluster;
    struct node_record node;
};

/* With the embedded store: makes what is missing. `file` may be NULL (a file system without direct
 * I/O): then only the store knows. */
MAY_SUSPEND int identity_alone(struct store *store, const char *name, struct state_file *file,
    struct identity *ret_identity, char **ret_error);

enum identity_state { IDENTITY_NO_CLUSTER, IDENTITY_NOT_JOINED, IDENTITY_JOINED };
/* With a store that is shared. *ret_identity is whole with IDENTITY_JOINED only (its cluster also with
 * _NOT_JOINED). -EEXIST: another host has this name. -EXDEV: this node belongs to another cluster. */
MAY_SUSPEND int identity_look(struct store *store, const char *name, const struct state_file *file,
    enum identity_state *ret_state, struct identity *ret_identity, char **ret_error);
/* Makes the cluster. -EEXIST: there is one. */
MAY_SUSPEND int identity_init(struct store *store, const struct state_file *file, char **ret_error);
/* Adds this node to the cluster. -ENOENT: there is none; -EEXIST, -EXDEV as above. */
MAY_SUSPEND int identity_join(
    struct store *store, const char *name, struct state_file *file, char **ret_error);
/* Brings address and rack of our own record up to date. */
MAY_SUSPEND int identity_publish(struct store *store, struct node_record *record,
    const char *address, const char *rack, char **ret_error);
