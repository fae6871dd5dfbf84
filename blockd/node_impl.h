/* SPDX-License-Identifier: Apache-2.0
 *
 * Between node.c (the order of start and stop), node_join.c (until the node knows who it is) and
 * node_cluster.c (the other nodes).
 */
#pragma once

#include "blockd/node.h"

/* `waits_for` is stolen. */
void node_set_phase(struct node *node, enum node_phase phase, char *waits_for);

/* node_join.c: state directory, store, identity; with a shared store it waits for them, the admin
 * socket being there. */
MAY_SUSPEND int node_start_identity(struct node *node, char **ret_error);
MAY_SUSPEND int node_start_admin(struct node *node, char **ret_error);

/* node_cluster.c */
MAY_SUSPEND int node_start_members(struct node *node, char **ret_error);
MAY_SUSPEND int node_start_rpc(struct node *node, char **ret_error);
MAY_SUSPEND void node_stop_rpc(struct node *node);
/* A disk of this node came, went or failed. */
void node_disks_changed(struct node *node);
/* Arms what the state of the disks at the start makes due later. */
void node_watch_disks(struct node *node);
MAY_SUSPEND int node_may_adopt_damaged(
    void *ctx, struct shard_key key, uint32_t disk_number, uint32_t block);
bool node_may_adopt(void *ctx, const struct volumes_name *volume);
struct volume_cluster node_volume_cluster(struct node *node);
