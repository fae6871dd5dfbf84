/* SPDX-License-Identifier: Apache-2.0
 *
 * A node and the others: peers, members, the RPC server. A node alone has members too, so that there
 * is one way: its session ends with the process, its map is itself.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "blockd/admin/forward.h"
#include "blockd/cluster/server.h"
#include "blockd/node_impl.h"
#include "common/check.h"
#include "common/env.h"
#include "common/log.h"
#include "common/mem.h"

#define SECOND_NS 1000000000ull
/* Changes of disks come in bunches. */
#define ADOPT_DELAY_NS (1 * SECOND_NS)
#define TELL_OWNER_NS (10 * SECOND_NS)

/* --- Changes ----------------------------------------------------------------------------------- */

static void tell_volume(void *ctx, struct volume *volume)
{
    volume_disk_changed(volume);
}

struct missing {
    bool lost;        /* some disk has failed, was removed, or has been waited for long enough */
    uint64_t next_ns; /* when the next one that is missing will have been; UINT64_MAX = none */
};

/* The disk (0: any) is on record as ours, and could not be opened at the start. */
static bool own_disk_missing(const struct node *node, uint32_t number)
{
    list_for_each (it, disks_entries(node->disks)) {
        const struct disks_entry *entry = list_entry(it, struct disks_entry, link);
        if (entry->state == DISK_MISSING && !entry->disk &&
            (number == 0 || entry->record.number == number))
            return true;
    }
    return false;
}

static struct missing look_at_disks(const struct node *node)
{
    struct missing missing = {.next_ns = UINT64_MAX};
    uint64_t now_ns = env_now_ns();
    list_for_each (it, &members_disks(node->members)->all) {
        const struct disk *disk = list_entry(it, struct disk, link);
        uint64_t due_ns = disk->missing_since_ns + node->config->repair_wait_ns;
        if (disk->number == 0 || disk->state == DISK_FAILED)
            missing.lost = true;
        if (disk->number == 0 || disk->state != DISK_MISSING || !disk->missing_since_ns)
            continue;
        if (due_ns <= now_ns)
            missing.lost = true;
        else
            missing.next_ns = MIN(missing.next_ns, due_ns);
    }
    if (own_disk_missing(node, 0)) {
        uint64_t due_ns = node->started_ns + node->config->repair_wait_ns;
        if (due_ns <= now_ns)
            missing.lost = true;
        else
            missing.next_ns = MIN(missing.next_ns, due_ns);
    }
    return missing;
}

void node_watch_disks(struct node *node)
{
    struct missing missing = look_at_disks(node);
    if (missing.next_ns != UINT64_MAX)
        env_timer_arm(&node->repair_due, missing.next_ns);
    else
        env_timer_cancel(&node->repair_due);
    if (missing.lost)
        adopt_all(node->adopt, ADOPT_DELAY_NS);
}

static void repair_is_due(struct env_timer *timer)
{
    struct node *node = container_of(timer, struct node, repair_due);
    volumes_each_open(node->volumes, tell_volume, NULL);
    node_watch_disks(node);
}

void node_disks_changed(struct node *node)
{
    if (!node->adopt)
        return; /* starting or stopping */
    volumes_each_open(node->volumes, tell_volume, NULL);
    volumes_cluster_changed(node->volumes);
    adopt_all(node->adopt, ADOPT_DELAY_NS);
    node_watch_disks(node); /* one that hangs is missing from now on */
}

/* Of the nodes that are up and the disks there are. */
static uint64_t hash_of_cluster(const struct node *node)
{
    uint64_t hash = 0;
    list_for_each (it, members_all(node->members))
        hash = hash * 31 + list_entry(it, struct member, link)->session;
    list_for_each (it, &members_disks(node->members)->all)
        hash = hash * 31 + list_entry(it, struct disk, link)->number;
    return hash;
}

static void members_changed(void *ctx)
{
    struct node *node = ctx;
    if (node->attach)
        attach_changed(node->attach);
    if (!node->adopt)
        return; /* starting or stopping */
    volumes_each_open(node->volumes, tell_volume, NULL);
    node_watch_disks(node);
    uint64_t hash = hash_of_cluster(node);
    if (hash != node->cluster_hash)
        volumes_cluster_changed(node->volumes);
    node->cluster_hash = hash;
}

/* --- What volumes and adoption ask ------------------------------------------------------------- */

static bool disk_removed(void *ctx, uint32_t number)
{
    return members_disk_known(((struct node *)ctx)->members, number);
}

/* It is there for as long as the operator has not forgotten it. */
static bool disk_expected(void *ctx, uint32_t number)
{
    const struct node *node = ctx;
    list_for_each (it, disks_entries(node->disks)) {
        if (list_entry(it, struct disks_entry, link)->record.number == number)
            return true;
    }
    return members_disk_record(node->members, number) || !members_disk_known(node->members, number);
}

static uint64_t disk_missing_since_ns(void *ctx, uint32_t number)
{
    const struct node *node = ctx;
    return own_disk_missing(node, number) ? node->started_ns : 0;
}

static bool volume_is_ours(void *ctx, uint64_t id)
{
    return members_volume_is_ours(((struct node *)ctx)->members, id);
}

struct volume_cluster node_volume_cluster(struct node *node)
{
    return (struct volume_cluster){.disk_removed = disk_removed,
        .disk_expected = disk_expected,
        .disk_missing_since_ns = disk_missing_since_ns,
        .volume_is_ours = volume_is_ours,
        .ctx = node};
}

/* Since when the session is gone, as far as we know: its node is down, or has another one. */
static uint64_t gone_since_ns(const struct node *node, const char *owner)
{
    const struct member *member = members_find(node->members, owner);
    if (!member)
        return node->started_ns;
    return member->session ? member->since_ns : member->down_since_ns;
}

/* S24: nobody owns it: released, or its owner gone for longer than is waited for. What was ours before
 * a restart is ours. */
static bool nobody_owns(
    const struct node *node, enum volume_state state, const char *owner, uint64_t session)
{
    if (state != VOLUME_OWNED || strcmp(owner, node->config->name) == 0)
        return true;
    return !members_session_alive(node->members, session) &&
           env_now_ns() - gone_since_ns(node, owner) >= node->config->repair_wait_ns;
}

bool node_may_adopt(void *ctx, const struct volumes_name *volume)
{
    struct node *node = ctx;
    bool was_ours = volume->state == VOLUME_OWNED && strcmp(volume->owner, node->config->name) == 0;
    return nobody_owns(node, volume->state, volume->owner, volume->owner_session) &&
           (was_ours || members_volume_is_ours(node->members, volume->id));
}

static int tell_owner(struct node *node, const struct volume_root *root, struct shard_key key,
    uint32_t disk_number, uint32_t block)
{
    CLEANUP_FREE char *error = NULL;
    char volume[17], chunk[17];
    snprintf(volume, sizeof(volume), "%016" PRIx64, key.volume);
    snprintf(chunk, sizeof(chunk), "%016" PRIx64, key.chunk);
    json_t *params = json_pack("{s:s, s:s, s:i, s:I, s:I}", "volume", volume, "chunk", chunk,
        "index", key.index, "disk", (json_int_t)disk_number, "block", (json_int_t)block);
    if (admin_ask(node, root->owner, "shard.damaged", params, TELL_OWNER_NS, NULL, &error) == 0)
        return 0;
    log_warn_limited(
        "damage of volume '%s' was not told to its owner: %s; trying again", root->name, error);
    return -EAGAIN;
}

int node_may_adopt_damaged(void *ctx, struct shard_key key, uint32_t disk_number, uint32_t block)
{
    struct node *node = ctx;
    struct volume_root root;
    int r = volume_root_load(node->store, key.volume, &root);
    if (r < 0)
        return r == -ENOENT ? 0 : -EAGAIN;
    if (nobody_owns(node, root.state, root.owner, root.owner_session))
        return 1;
    if (!members_session_alive(node->members, root.owner_session))
        return -EAGAIN; /* it comes back, or somebody takes the volume over */
    return tell_owner(node, &root, key, disk_number, block);
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

/* What all other nodes together may have under way here: half as much as the node's memory, which comes on
 * top of it. A node that joins later gets what those that were there have. */
#define WINDOW_BYTES_MIN (4ull << 20)
#define WINDOW_BYTES_MAX (64ull << 20)

static uint64_t window_bytes(const struct node *node)
{
    unsigned others = 0;
    list_for_each (it, members_all(node->members))
        others += strcmp(list_entry(it, struct member, link)->record.name, node->config->name) != 0;
    uint64_t share = node->config->memory_bytes / 2 / MAX(others, 1u);
    return MIN(MAX(share, WINDOW_BYTES_MIN), WINDOW_BYTES_MAX);
}

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
    options.rpc.window_bytes = window_bytes(node);
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
