/* SPDX-License-Identifier: Apache-2.0
 *
 * A node and the others: peers, members, the RPC server. A node alone has members too, so that there
 * is one way: its session ends with the process, its map is itself.
 */
#include <errno.h>
#include <string.h>

#include "blockd/cluster/server.h"
#include "blockd/node_impl.h"
#include "common/check.h"
#include "common/env.h"
#include "common/log.h"
#include "common/mem.h"

#define SECOND_NS 1000000000ull
/* Changes of disks come in bunches. */
#define ADOPT_DELAY_NS (1 * SECOND_NS)

/* --- Changes ----------------------------------------------------------------------------------- */

static void tell_volume(void *ctx, struct volume *volume)
{
    volume_disk_changed(volume);
}

/* When the next disk that is missing now will have been waited for; UINT64_MAX = none. */
static uint64_t next_repair_ns(const struct node *node)
{
    uint64_t next_ns = UINT64_MAX, now_ns = env_now_ns();
    list_for_each (it, members_disks(node->members)) {
        const struct disk *disk = list_entry(it, struct disk, link);
        uint64_t due_ns = disk->missing_since_ns + node->config->repair_wait_ns;
        if (disk->number && disk->state == DISK_MISSING && disk->missing_since_ns &&
            due_ns > now_ns)
            next_ns = MIN(next_ns, due_ns);
    }
    return next_ns;
}

void node_disks_changed(struct node *node)
{
    if (!node->adopt)
        return; /* starting or stopping */
    volumes_each_open(node->volumes, tell_volume, NULL);
    adopt_all(node->adopt, ADOPT_DELAY_NS);
    uint64_t next_ns = next_repair_ns(node);
    if (next_ns != UINT64_MAX)
        env_timer_arm(&node->repair_due, next_ns);
    else
        env_timer_cancel(&node->repair_due);
}

static void repair_is_due(struct env_timer *timer)
{
    node_disks_changed(container_of(timer, struct node, repair_due));
}

static void members_changed(void *ctx)
{
    struct node *node = ctx;
    node_disks_changed(node);
    if (node->attach)
        attach_changed(node->attach);
}

static void session_renewed(void *ctx, uint64_t session)
{
    struct node *node = ctx;
    if (node->volumes)
        volumes_session_renewed(node->volumes);
}

static void peer_changed(void *ctx, struct peer *peer)
{
    struct node *node = ctx;
    if (node->members)
        members_peer_changed(node->members, peer);
    if (node->attach)
        attach_changed(node->attach);
}

/* --- Peers and members ------------------------------------------------------------------------- */

static struct rpc_options rpc_options_of(const struct node *node)
{
    struct rpc_options options = {.silence_ns = node->config->silence_ns};
    options.self = (struct rpc_identity){.cluster = node->identity.cluster.uuid,
        .node = node->identity.node.uuid,
        .incarnation = node->incarnation};
    strcpy(options.self.node_name, node->config->name);
    env_boot_id(options.self.boot_id);
    return options;
}

int node_start_members(struct node *node, char **ret_error)
{
    const char *address = node->config->cluster_address;
    struct rpc_options rpc = rpc_options_of(node);
    int r =
        identity_publish(node->store, &node->identity.node, address, node->config->rack, ret_error);
    if (r < 0)
        return r;
    if (address) {
        struct peers_options peers = {.rpc = rpc, .changed = peer_changed, .ctx = node};
        node->peers = peers_new(&peers);
    }
    env_timer_init(&node->repair_due, repair_is_due);
    struct members_options options = {.store = node->store,
        .self = rpc.self,
        .address = address,
        .software = HOLDFAST_VERSION,
        .session_ttl_ns = node->config->session_ttl_ns,
        .disks = node->disks,
        .peers = node->peers,
        .changed = members_changed,
        .session_renewed = session_renewed,
        .ctx = node};
    return members_start(&options, &node->members, ret_error);
}

/* --- RPC server -------------------------------------------------------------------------------- */

/* Then waits for the other nodes that are up: those that start at the same time have theirs now. */
int node_start_rpc(struct node *node, char **ret_error)
{
    if (!node->config->cluster_address)
        return 0;
    struct cluster_server_options options = {.rpc = rpc_options_of(node),
        .address = node->config->cluster_address,
        .disks = node->disks,
        .attach = node->attach,
        .node = node};
    int r = cluster_server_start(&options, &node->cluster_server, ret_error);
    if (r == 0)
        members_wait(node->members);
    return r;
}

void node_stop_rpc(struct node *node)
{
    if (node->cluster_server)
        cluster_server_stop(node->cluster_server);
    node->cluster_server = NULL;
}
