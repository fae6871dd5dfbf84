/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/cluster/server.h"

#include <string.h>

#include "blockd/admin/forward.h"
#include "blockd/attach.h"
#include "blockd/cluster/protocol.h"
#include "blockd/cluster/shard_service.h"
#include "common/check.h"
#include "common/mem.h"

static const struct rpc_method admin_method = {METHOD_ADMIN, "admin", admin_forward_handle, 2, 0};

static unsigned collect(struct rpc_method *methods)
{
    unsigned count = 0;
    memcpy(methods, shard_methods, shard_method_count * sizeof(*methods));
    count += shard_method_count;
    memcpy(methods + count, attach_methods, attach_method_count * sizeof(*methods));
    count += attach_method_count;
    methods[count++] = admin_method;
    return count;
}

static int session_began(void *ctx, struct rpc_session *session)
{
    struct cluster_server *server = ctx;
    const struct rpc_identity *peer = rpc_session_peer(session);
    rpc_session_set_user(session, attach_session_new(server->attach, peer->node_name));
    return 0;
}

static void session_ended(void *ctx, struct rpc_session *session)
{
    struct attach_session *attached = rpc_session_user(session);
    if (attached)
        attach_session_end(attached);
    rpc_session_set_user(session, NULL);
}

static const struct rpc_server_events events = {session_began, session_ended};

int cluster_server_start(const struct cluster_server_options *options,
    struct cluster_server **ret_server, char **ret_error)
{
    struct cluster_server *server = NEW(struct cluster_server);
    server->attach = options->attach;
    server->node = options->node;
    server->shards = shard_service_new(options->disks);
    server->methods =
        mem_zalloc(shard_method_count + attach_method_count + 1, sizeof(*server->methods));
    unsigned count = collect(server->methods);
    int r = rpc_server_start(&options->rpc, options->address, server->methods, count, &events,
        server, &server->rpc, ret_error);
    if (r < 0)
        cluster_server_stop(server);
    else
        *ret_server = server;
    return r;
}

void cluster_server_stop(struct cluster_server *server)
{
    if (server->rpc)
        rpc_server_stop(server->rpc);
    shard_service_free(server->shards);
    mem_free(server->methods);
    mem_free(server);
}
