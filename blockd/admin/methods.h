/* SPDX-License-Identifier: Apache-2.0
 *
 * The methods of the admin protocol; admin_call.ctx is the struct node. What each takes and answers:
 * common/admin_client.h.
 */
#pragma once

#include "blockd/admin/server.h"

extern const struct admin_method admin_methods[];
extern const unsigned admin_method_count;

/* methods_cluster.c, methods_disk.c, methods_pool.c, methods_volume.c, methods_volume_list.c, methods_node.c */
int method_cluster_init(struct admin_call *call);
int method_cluster_join(struct admin_call *call);
int method_node_list(struct admin_call *call);
int method_node_remove(struct admin_call *call);
int method_shard_damaged(struct admin_call *call);
int method_disk_format(struct admin_call *call);
int method_disk_add(struct admin_call *call);
int method_disk_remove(struct admin_call *call);
int method_disk_list(struct admin_call *call);
int method_disk_scrub(struct admin_call *call);
int method_pool_create(struct admin_call *call);
int method_pool_list(struct admin_call *call);
int method_pool_delete(struct admin_call *call);
int method_volume_create(struct admin_call *call);
int method_volume_list(struct admin_call *call);
int method_volume_info(struct admin_call *call);
int method_volume_resize(struct admin_call *call);
int method_volume_rename(struct admin_call *call);
int method_volume_delete(struct admin_call *call);
int method_volume_flush(struct admin_call *call);
int method_volume_close(struct admin_call *call);
int method_volume_move(struct admin_call *call);
int method_status(struct admin_call *call);
int method_stats(struct admin_call *call);
int method_shutdown(struct admin_call *call);

struct node;
/* Arrays for the lists, and for status. */
json_t *admin_nodes_json(struct node *node);
json_t *admin_disks_json(struct node *node);
MAY_SUSPEND int admin_pools_json(struct node *node, json_t **ret_pools);
/* While the store does not answer: what is known here, *ret_recalled. */
MAY_SUSPEND int admin_volumes_json(struct node *node, json_t **ret_volumes, bool *ret_recalled);
struct volumes_name;
/* S18, while the store does not answer: volumes_recall, after the nodes that can be reached were asked what
 * they serve, if need be. */
MAY_SUSPEND bool admin_recall(struct node *node, const char *name, struct volumes_name *ret_name);
/* Asks them; not more than once a second. ctx: the node (attach_options.ask_others). */
MAY_SUSPEND void admin_ask_what_others_serve(void *ctx);
json_t *admin_volume_json(struct node *node, const struct volumes_name *name);

/* Disks that are recorded for the node. */
unsigned admin_node_disks(struct node *node, const char *name);

/* Deletes the record `key` of something of a node that is down, as the store has it now: not as this node was told
 * a while ago. -EBUSY: that node has a session. `what` as for admin_fail. */
MAY_SUSPEND int admin_remove_record(
    struct admin_call *call, const char *key, const char *node_name, const char *what);

/* Sets call->error, if it has none, to "<doing>: <what the store's error means>"; returns `error`. */
int admin_fail(struct admin_call *call, int error, const char *doing);
