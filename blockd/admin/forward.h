/* SPDX-License-Identifier: Apache-2.0
 *
 * Admin requests that another node has to execute: the owner of a volume, the node of a disk. They go
 * there by METHOD_ADMIN: {"method", "params"} as the body, {"result"} or {"error"} as the payload.
 *
 * Invariants
 *  F1 A request is forwarded once: the node it came to executes it, or says why not.
 *  F2 What fails on the way names the node; what fails there has that node's sentence.
 *  F3 What another node sends is decoded within a fiber's stack, whatever it is (json_text.h).
 *  F4 What another node does not answer is waited for while it is connected, but not beyond our own stop.
 */
#pragma once

#include "blockd/admin/server.h"
#include "common/rpc.h"

struct node;

/* Executes the call at `node_name` and takes over what it answered. */
MAY_SUSPEND int admin_forward(struct admin_call *call, const char *node_name);
/* The same for a request of our own; `params` is stolen. timeout_ns 0: as long as it takes (F4).
 * *ret_result (may be NULL) is the caller's; *ret_error (mem_free). */
MAY_SUSPEND int admin_ask(struct node *node, const char *node_name, const char *method,
    json_t *params, uint64_t timeout_ns, json_t **ret_result, char **ret_error);
/* The node stops (node->phase): all of them end with -ECANCELED, soon. */
void admin_asks_end(struct node *node);

/* Whether the node can be asked: this one, or one that is up. -ENOENT, -EHOSTUNREACH with call->error. */
int admin_check_node(struct admin_call *call, const char *name);
/* 1: the volume is served by a living node that is not this one, *ret_node (64 bytes); 0: this node
 * may execute it. Negative errno with call->error, -ENOENT too. Never 1 for what was forwarded (F1). */
MAY_SUSPEND int admin_volume_elsewhere(struct admin_call *call, const char *name, char *ret_node);

/* Sets call->error: the store did not answer (`error`), and nobody here knows the volume; -EAGAIN. */
int admin_volume_not_known(struct admin_call *call, const char *name, int error);

/* Handler of METHOD_ADMIN; the context is the struct cluster_server. */
void admin_forward_handle(void *ctx, struct rpc_request *request);
