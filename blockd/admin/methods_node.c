/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <string.h>

#include "blockd/admin/methods.h"
#include "blockd/cluster/peers.h"
#include "blockd/nbd/server.h"
#include "blockd/node.h"
#include "blockd/volumes_refused.h"
#include "common/bufpool.h"
#include "common/check.h"
#include "common/env.h"
#include "common/mem.h"

/* --- status ---------------------------------------------------------------------------------- */

static void add_problem(json_t *problems, const char *text)
{
    json_t *string = json_string(text);
    if (string)
        json_array_append_new(problems, string);
}

struct health {
    json_t *problems;
    const char *worst; /* "ok", "warning", "degraded", "damaged", "halted" */
};

static int severity(const char *health)
{
    static const char *const order[] = {"ok", "warning", "degraded", "damaged", "halted"};
    for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
        if (strcmp(order[i], health) == 0)
            return (int)i;
    return 0;
}

static void worsen(struct health *health, const char *to)
{
    if (severity(to) > severity(health->worst))
        health->worst = to;
}

static void volume_health(void *ctx, struct volume *volume)
{
    struct health *health = ctx;
    struct volume_info info;
    volume_get_info(volume, &info);
    worsen(health, info.health);
    if (!info.problem[0])
        return;
    CLEANUP_FREE char *text = mem_printf("volume '%s': %s", info.name, info.problem);
    add_problem(health->problems, text);
}

static void volume_refused(void *ctx, const char *why)
{
    struct health *health = ctx;
    worsen(health, "degraded");
    add_problem(health->problems, why);
}

/* Damage that was found is repaired; a disk that goes on like this is one to replace. */
static void disk_health(struct health *health, const struct disks_entry *entry)
{
    if (entry->problem) {
        worsen(health, "degraded");
        add_problem(health->problems, entry->problem);
    } else if (entry->disk && entry->disk->damage_count > 0) {
        CLEANUP_FREE char *text =
            mem_printf("disk %" PRIu32 " (%s): %" PRIu64
                       " damaged blocks found since the start; they are repaired "
                       "from the code, but look after the disk",
                entry->record.number, entry->record.path, entry->disk->damage_count);
        worsen(health, "warning");
        add_problem(health->problems, text);
    }
}

/* It says that it lives, and not to us. */
static bool cut_off(const struct node *node, const struct member *member)
{
    return member->session && node->peers && strcmp(member->record.name, node->config->name) != 0 &&
           !peer_connected(peers_find(node->peers, member->record.name));
}

static void cut_off_health(struct health *health, struct node *node, const struct member *member)
{
    unsigned disks = admin_node_disks(node, member->record.name);
    const struct peer *peer = peers_find(node->peers, member->record.name);
    CLEANUP_FREE char *text = mem_printf("node '%s' cannot be reached from here, and %u disk%s "
                                         "with it: %s",
        member->record.name, disks, disks == 1 ? "" : "s",
        peer && peer->client ? rpc_client_problem(peer->client) : "its address is not known yet");
    add_problem(health->problems, text);
    worsen(health, disks > 0 ? "degraded" : "warning");
}

/* One sentence a node, not one a disk. */
static void member_health(struct health *health, struct node *node, const struct member *member)
{
    unsigned disks = admin_node_disks(node, member->record.name);
    if (cut_off(node, member))
        cut_off_health(health, node, member);
    if (member->session || strcmp(member->record.name, node->config->name) == 0)
        return;
    CLEANUP_FREE char *text = mem_printf("node '%s' is down (for %" PRIu64 " s)%s",
        member->record.name, (env_now_ns() - member->down_since_ns) / 1000000000,
        disks == 0
            ? ""
            : ": its disks are away; what is on them is rebuilt on others if it does not come "
              "back in time ([repair] wait)");
    add_problem(health->problems, text);
    worsen(health, disks > 0 ? "degraded" : "warning");
}

/* Of a node that is up. */
static void remote_disk_health(struct health *health, struct node *node, const struct disk *disk)
{
    const struct member *member = members_find(node->members, disk->node);
    if (disk->local || !disk->number || disk->state == DISK_IN || disk->state == DISK_OUT ||
        !member || !member->session || cut_off(node, member))
        return;
    CLEANUP_FREE char *text =
        mem_printf("disk %" PRIu32 " of node '%s' %s", disk->number, disk->node,
            disk->state == DISK_FAILED         ? "has failed; its data is rebuilt on the others"
            : disk->home_state == DISK_MISSING ? "is missing there, or hangs"
                                               : "has not told how it is yet");
    add_problem(health->problems, text);
    worsen(health, "degraded");
}

static struct health node_health(struct node *node)
{
    struct health health = {json_array(), "ok"};
    list_for_each (it, disks_entries(node->disks))
        disk_health(&health, list_entry(it, struct disks_entry, link));
    list_for_each (it, members_all(node->members))
        member_health(&health, node, list_entry(it, struct member, link));
    list_for_each (it, &members_disks(node->members)->all)
        remote_disk_health(&health, node, list_entry(it, struct disk, link));
    if (!members_find(node->members, node->config->name)) {
        add_problem(health.problems,
            "this node was removed from the cluster ('holdfast node remove' on another one): the "
            "others do not reach it any more; restart its daemon, then 'holdfast cluster join'");
        worsen(&health, "degraded");
    } else if (members_valid_until_ns(node->members) < env_boottime_ns()) {
        add_problem(health.problems, "this node has no session in the store: it serves its open "
                                     "volumes, and opens no others until the store answers");
        worsen(&health, "degraded");
    }
    volumes_each_open(node->volumes, volume_health, &health);
    volumes_refused_each(volumes_refused(node->volumes), volume_refused, &health);
    return health;
}

static json_t *memory_json(const struct node *node)
{
    const struct memory_budget *budget = &node->budget;
    uint64_t held = bufpool_held_bytes(budget->blocks) + bufpool_held_bytes(budget->io);
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "budget_bytes",
        (json_int_t)node->config->memory_bytes, "used_bytes",
        (json_int_t)mem_used_bytes(fiber_env()), "memtable_bytes",
        (json_int_t)bufpool_used_bytes(budget->blocks), "memtable_bytes_max",
        (json_int_t)bufpool_cap_bytes(budget->blocks), "pools_held_bytes", (json_int_t)held,
        "map_cache_bytes", (json_int_t)map_cache_used_bytes(node->map_cache));
}

static json_t *addresses_json(const struct node *node)
{
    json_t *array = json_array();
    for (unsigned i = 0; i < nbd_server_address_count(node->nbd); i++)
        json_array_append_new(array, json_string(nbd_server_address(node->nbd, i)));
    return array;
}

static json_t *scrub_json(const struct node *node)
{
    struct scrub_status status;
    scrub_get_status(node->scrub, &status);
    return json_pack("{s:b, s:I, s:I, s:I, s:I, s:I}", "running", status.running, "disk",
        (json_int_t)status.disk, "bytes", (json_int_t)status.bytes, "shards",
        (json_int_t)status.shards, "damaged_shards", (json_int_t)status.damaged_shards, "passes",
        (json_int_t)status.passes);
}

/* Of a node that does not run yet. */
static json_t *waiting_json(const struct node *node)
{
    json_t *problems = json_array();
    add_problem(problems, node->waits_for                ? node->waits_for
                          : node->phase == NODE_STOPPING ? "this node is stopping"
                                                         : "this node is starting");
    return json_pack("{s:s, s:s, s:s, s:I, s:s, s:o}", "version", HOLDFAST_VERSION, "node",
        node->config->name, "state", node_phase_name(node->phase), "uptime_s",
        (json_int_t)((env_now_ns() - node->started_ns) / 1000000000), "health", "waiting",
        "problems", problems);
}

int method_status(struct admin_call *call)
{
    struct node *node = call->ctx;
    int r = admin_params_end(&call->params, &call->error);
    if (r < 0)
        return r;
    if (node->phase != NODE_RUNNING) {
        call->result = waiting_json(node);
        return 0;
    }
    json_t *pools = NULL, *volumes = NULL;
    struct health health = {NULL, "ok"};
    r = admin_pools_json(node, &pools);
    bool recalled;
    int rv = admin_volumes_json(node, &volumes, &recalled);
    health = node_health(node);
    if (r < 0 || rv < 0) { /* I/O goes on, and so does this command */
        CLEANUP_FREE char *text =
            mem_printf("the store does not answer: %s; volumes that are open go on, nothing can be "
                       "opened or changed: %s",
                store_strerror(r < 0 ? r : rv),
                node->config->store_type == STORE_TYPE_EMBEDDED
                    ? "see the log, and restart the daemon"
                    : "look after etcd, and leave the daemons running");
        add_problem(health.problems, text);
        worsen(&health, "degraded");
    }
    char cluster[UUID_TEXT_BYTES];
    uint64_t uptime_s = (env_now_ns() - node->started_ns) / 1000000000;
    call->result =
        json_pack("{s:s, s:s, s:s, s:o, s:s, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:s*, s:s, s:o}",
            "version", HOLDFAST_VERSION, "node", node->config->name, "state",
            node_phase_name(node->phase), "nodes", admin_nodes_json(node), "cluster",
            uuid_format(&node->identity.cluster.uuid, cluster), "uptime_s", (json_int_t)uptime_s,
            "memory", memory_json(node), "disks", admin_disks_json(node), "pools",
            pools ? pools : json_array(), "volumes", volumes ? volumes : json_array(), "nbd",
            addresses_json(node), "scrub", scrub_json(node), "repairing",
            adopt_current(node->adopt), "health", health.worst, "problems", health.problems);
    CHECK(call->result);
    return 0;
}

/* --- stats ----------------------------------------------------------------------------------- */

static uint64_t percentile_us(const uint64_t buckets[24], unsigned percent)
{
    uint64_t total = 0, below = 0;
    for (unsigned i = 0; i < 24; i++)
        total += buckets[i];
    for (unsigned i = 0; i < 24; i++) {
        uint64_t wanted = DIV_ROUND_UP(total * percent, 100);
        if (buckets[i] > 0 && below + buckets[i] >= wanted)
            return (1ull << i) + (((1ull << i) * (wanted - below)) / buckets[i]);
        below += buckets[i];
    }
    return 0;
}

static json_t *buckets_json(const uint64_t buckets[24])
{
    json_t *array = json_array();
    for (unsigned i = 0; i < 24; i++)
        json_array_append_new(array, json_integer((json_int_t)buckets[i]));
    return array;
}

static void put(json_t *json, const char *member, uint64_t value)
{
    json_object_set_new(json, member, json_integer((json_int_t)(value & INT64_MAX)));
}

static void volume_stats_json(void *ctx, struct volume *volume)
{
    const struct volume_stats *stats = volume_stats(volume);
    json_t *json = json_pack("{s:s, s:o, s:o}", "name", volume_name(volume), "read_latency_us",
        buckets_json(stats->read_latency_us), "write_latency_us",
        buckets_json(stats->write_latency_us));
    put(json, "reads", stats->reads);
    put(json, "writes", stats->writes);
    put(json, "flushes", stats->flushes);
    put(json, "trims", stats->trims);
    put(json, "read_bytes", stats->read_bytes);
    put(json, "written_bytes", stats->written_bytes);
    put(json, "trimmed_bytes", stats->trimmed_bytes);
    put(json, "read_latency_ns_sum", stats->read_latency_ns_sum);
    put(json, "write_latency_ns_sum", stats->write_latency_ns_sum);
    put(json, "flush_latency_ns_sum", stats->flush_latency_ns_sum);
    put(json, "read_latency_us_p50", percentile_us(stats->read_latency_us, 50));
    put(json, "read_latency_us_p99", percentile_us(stats->read_latency_us, 99));
    put(json, "write_latency_us_p50", percentile_us(stats->write_latency_us, 50));
    put(json, "write_latency_us_p99", percentile_us(stats->write_latency_us, 99));
    put(json, "degraded_reads", stats->degraded_reads);
    put(json, "damaged_blocks", stats->damaged_blocks);
    put(json, "repaired_shards", stats->repaired_shards);
    put(json, "cleaned_chunks", stats->cleaned_chunks);
    put(json, "rows", stats->rows);
    put(json, "log_appends", stats->log_appends);
    json_array_append_new(ctx, json);
}

static json_t *nbd_json(const struct node *node)
{
    struct nbd_server_stats stats;
    nbd_server_get_stats(node->nbd, &stats);
    json_t *json = json_object();
    put(json, "connections", stats.connections);
    put(json, "requests_in_flight", stats.requests_in_flight);
    put(json, "requests_held", stats.requests_held);
    put(json, "connections_accepted", stats.connections_accepted);
    put(json, "connections_refused", stats.connections_refused);
    put(json, "protocol_errors", stats.protocol_errors);
    put(json, "requests", stats.requests);
    put(json, "request_errors", stats.request_errors);
    return json;
}

static json_t *attach_json(const struct node *node)
{
    struct attach_stats stats;
    attach_get_stats(node->attach, &stats);
    json_t *json = json_object();
    put(json, "attachments", stats.attachments);
    put(json, "remote_attachments", stats.remote_attachments);
    put(json, "served", stats.served);
    put(json, "forwarded", stats.forwarded);
    put(json, "forwarded_bytes", stats.forwarded_bytes);
    put(json, "executed", stats.executed);
    put(json, "executed_bytes", stats.executed_bytes);
    put(json, "lost", stats.lost);
    put(json, "handoffs_in", stats.handoffs_in);
    put(json, "handoffs_out", stats.handoffs_out);
    put(json, "handoffs_refused", stats.handoffs_refused);
    put(json, "handoff_pause_us_max", stats.handoff_pause_ns_max / 1000);
    return json;
}

int method_stats(struct admin_call *call)
{
    struct node *node = call->ctx;
    int r = admin_params_end(&call->params, &call->error);
    if (r < 0)
        return r;
    json_t *volumes = json_array();
    volumes_each_open(node->volumes, volume_stats_json, volumes);
    call->result = json_pack("{s:o, s:o, s:o, s:I}", "volumes", volumes, "nbd", nbd_json(node),
        "attach", attach_json(node), "time_ns", (json_int_t)env_now_ns());
    return 0;
}

int method_shutdown(struct admin_call *call)
{
    int r = admin_params_end(&call->params, &call->error);
    if (r == 0)
        node_want_stop(call->ctx);
    return r;
}
