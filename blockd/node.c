/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/node.h"

#include <errno.h>
#include <string.h>

#include "blockd/admin/forward.h"
#include "blockd/admin/methods.h"
#include "blockd/admin/server.h"
#include "blockd/nbd/server.h"
#include "blockd/node_impl.h"
#include "common/check.h"
#include "common/env.h"
#include "common/mem.h"

#define SECOND_NS 1000000000ull
#define MIB (1ull << 20)
#define STOP_PATIENCE_NS (5 * SECOND_NS) /* of a stop, with requests of clients */
#define SCRUB_FIRST_DELAY_NS (600 * SECOND_NS)

/* --- Disks tell ------------------------------------------------------------------------------ */

static void disks_changed(void *ctx)
{
    node_disks_changed(ctx);
}

static void disk_damaged(void *ctx, struct disk *disk, struct shard_key key, uint32_t block)
{
    struct node *node = ctx;
    if (node->adopt)
        adopt_damaged(node->adopt, key, disk->number, block);
}

static uint64_t lease_id(void *ctx)
{
    return members_session(((struct node *)ctx)->members);
}

static uint64_t lease_valid_until_ns(void *ctx)
{
    return members_valid_until_ns(((struct node *)ctx)->members);
}

/* --- Start ----------------------------------------------------------------------------------- */

static int start_disks(struct node *node, char **ret_error)
{
    struct disks_options options = {.node_name = node->config->name,
        .rack = node->config->rack,
        .cluster = node->identity.cluster.uuid,
        .node = node->identity.node.uuid,
        .alone = node->config->store_type == STORE_TYPE_EMBEDDED,
        .trailer_cache_bytes = node->config->trailer_cache_bytes,
        .io_timeout_ns = node->config->io_timeout_ns,
        .changed = disks_changed,
        .damaged = disk_damaged,
        .ctx = node};
    node->disks = disks_new(node->store, &options);
    return disks_open_all(node->disks, ret_error);
}

static void start_volumes(struct node *node)
{
    const struct node_config *config = node->config;
    memory_budget_init(&node->budget, config->memory.blocks_bytes, config->memory.io_bytes);
    node->budget.delta_bytes_max = config->memory.delta_bytes;
    node->map_cache = map_cache_new(config->map_cache_bytes);
    node->host = (struct volume_host){.store = node->store,
        .cluster = node->identity.cluster.uuid,
        .node_name = config->name,
        .session = node->incarnation,
        .lease = {lease_id, lease_valid_until_ns, node},
        .map = node_volume_cluster(node),
        .repair_wait_ns = config->repair_wait_ns,
        .start_ns = node->started_ns,
        .disks = disks_present(node->disks),
        .budget = &node->budget,
        .row_blocks_max = config->row_blocks,
        .log_bytes_max = config->log_limit_bytes,
        .map_cache = node->map_cache,
        .delta_bytes_max = config->delta_limit_bytes,
        .bypass_bytes_min = config->bypass_min_bytes,
        .flush_after_ns = config->flush_after_ns};
    struct volumes_options options = {.idle_close_ns = config->idle_close_ns};
    node->volumes = volumes_new(&node->host, &options);
    node->attach = attach_new(&(struct attach_options){.volumes = node->volumes,
        .members = node->members,
        .peers = node->peers,
        .ask_others = admin_ask_what_others_serve,
        .ctx = node,
        .handoff_after_ns = node->config->handoff_after_ns,
        .executing_max = node->config->forwarded_max});
}

static bool any_disk_lost(struct node *node)
{
    list_for_each (it, disks_entries(node->disks))
        if (list_entry(it, struct disks_entry, link)->problem)
            return true;
    return false;
}

static void start_background(struct node *node)
{
    struct scrub_options scrub = {.rate_bytes = node->config->scrub_rate_bytes,
        .interval_ns = node->config->scrub_interval_ns,
        .first_delay_ns = MIN(node->config->scrub_interval_ns, SCRUB_FIRST_DELAY_NS)};
    struct adopt_options adopt = {
        .may = node_may_adopt, .may_damaged = node_may_adopt_damaged, .ctx = node};
    node->adopt = adopt_start(node->volumes, &adopt);
    node_watch_disks(node);
    if (any_disk_lost(node))
        adopt_all(node->adopt, node->config->repair_wait_ns);
    node->scrub = scrub_start(node->disks, &scrub);
}

static int start_servers(struct node *node, char **ret_error)
{
    const struct node_config *config = node->config;
    struct nbd_server_options options = {
        .hold_timeout_ns = config->hold_timeout_ns, .buffer_bytes_max = config->memory.nbd_bytes};
    int r = nbd_server_start(node->attach, (const char *const *)config->nbd_addresses,
        config->nbd_address_count, &options, &node->nbd, ret_error);
    return r < 0 ? r : node_start_admin(node, ret_error);
}

static int start_all(struct node *node, char **ret_error)
{
    int r = node_start_identity(node, ret_error);
    if (r == 0)
        r = start_disks(node, ret_error);
    if (r == 0)
        r = node_start_members(node, ret_error);
    if (r == 0) {
        start_volumes(node);
        r = node_start_rpc(node, ret_error);
    }
    if (r == 0) {
        start_background(node);
        r = start_servers(node, ret_error);
    }
    return r;
}

int node_start(const struct node_options *options, struct node **ret_node, char **ret_error)
{
    struct node *node = NEW(struct node);
    node->options = *options;
    node->config = options->config;
    node->store = options->store;
    node->started_ns = env_now_ns();
    node->incarnation = env_random_u64();
    fiber_queue_init(&node->stop_queue);
    fiber_queue_init(&node->phase_queue);
    if (options->phase_changed)
        options->phase_changed(options->ctx, node);
    int r = start_all(node, ret_error);
    if (r < 0) {
        node_stop(node);
        return r;
    }
    node_set_phase(node, NODE_RUNNING, NULL);
    *ret_node = node;
    return 0;
}

/* --- Stop ------------------------------------------------------------------------------------ */

void node_want_stop(struct node *node)
{
    node->stop_wanted = true;
    fiber_queue_wake_all(&node->stop_queue);
    fiber_queue_wake_all(&node->phase_queue);
}

void node_wait_stop(struct node *node)
{
    while (!node->stop_wanted)
        fiber_queue_wait(&node->stop_queue);
}

static void stop_volumes(struct node *node)
{
    if (node->attach)
        attach_free(node->attach);
    node->attach = NULL;
    if (!node->volumes)
        return;
    volumes_free(node->volumes);
    node->volumes = NULL;
    map_cache_free(node->map_cache);
    memory_budget_fini(&node->budget);
}

/* Clients' requests have had their time; what waits for disks now may wait for ever. */
static void stop_is_due(struct env_timer *timer)
{
    volumes_close_begin(container_of(timer, struct node, stop_due)->volumes);
}

/* Also of a node that has not started wholly. */
void node_stop(struct node *node)
{
    node_set_phase(node, NODE_STOPPING, NULL);
    env_timer_init(&node->stop_due, stop_is_due);
    if (node->volumes)
        env_timer_arm(&node->stop_due, env_now_ns() + STOP_PATIENCE_NS);
    admin_asks_end(node);
    if (node->admin)
        admin_server_stop(node->admin);
    if (node->nbd)
        nbd_server_stop(node->nbd);
    if (node->scrub)
        scrub_stop(node->scrub);
    if (node->adopt) {
        env_timer_cancel(&node->repair_due);
        adopt_stop(node->adopt);
    }
    node->adopt = NULL;
    env_timer_cancel(&node->stop_due);
    /* Other nodes' requests that wait for disks would keep the server. */
    if (node->volumes)
        volumes_close_begin(node->volumes);
    node_stop_rpc(node);
    stop_volumes(node);
    if (node->members)
        members_stop(node->members);
    node->members = NULL;
    if (node->peers)
        peers_free(node->peers);
    if (node->disks)
        disks_free(node->disks);
    if (node->store)
        store_close(node->store);
    state_file_close(node->state);
    mem_free(node);
}
