/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/remote_world.h"

#include <string.h>

#include "blockd/cluster/identity.h"
#include "blockd/cluster/shard_service.h"
#include "common/check.h"
#include "common/mem.h"

#define SERVER_PORT ":7000"
#define MS 1000000ull

static struct uuid uuid_of(uint8_t byte)
{
    struct uuid uuid;
    memset(&uuid, byte, sizeof(uuid));
    return uuid;
}

static struct node_record node_s(const struct remote_world *w)
{
    struct node_record record = {.uuid = uuid_of(5), .name = "s"};
    strcpy(record.address, "tcp:");
    strcat(record.address, sim_node_address(w->server_node));
    strcat(record.address, SERVER_PORT);
    return record;
}

void remote_world_init(struct remote_world *w, uint64_t seed, uint64_t disk_bytes, bool trace)
{
    *w = (struct remote_world){
        .sim = sim_new(&(struct sim_options){.seed = seed, .strict_io = true, .trace = trace})};
    w->server_node = sim_node_new(w->sim, "s");
    w->client_node = sim_node_new(w->sim, "c");
    w->medium = sim_disk_new(w->server_node, REMOTE_WORLD_PATH, disk_bytes);
    w->store_mem = store_mem_new();
    w->client_options.self = (struct rpc_identity){.node = uuid_of(12), .node_name = "c"};
    w->server_options.self = (struct rpc_identity){.node = uuid_of(5), .node_name = "s"};
    w->client_options.silence_ns = w->server_options.silence_ns = 400 * MS;
    w->client_options.connect_wait_ns = 200 * MS;
    w->client_options.retry_ns_max = 100 * MS;
}

void remote_world_fini(struct remote_world *w)
{
    sim_free(w->sim);
    store_mem_free(w->store_mem);
}

/* --- Server ------------------------------------------------------------------------------------ */

static void format(struct remote_world *w)
{
    struct uuid uuid;
    uint64_t size_bytes;
    char *error = NULL;
    int r = disks_format(w->disks, REMOTE_WORLD_PATH, 0, "ssd", false, &uuid, &size_bytes, &error);
    CHECK_MSG(r == 0, "format: %s", error ? error : "");
    r = disks_add(w->disks, REMOTE_WORLD_PATH, &w->record, &error);
    CHECK_MSG(r == 0, "add: %s", error ? error : "");
    w->formatted = true;
}

static void identify(struct rpc_identity *self, struct uuid cluster)
{
    self->cluster = cluster;
    self->incarnation = env_random_u64();
    env_boot_id(self->boot_id);
}

static void server_main(void *arg)
{
    struct remote_world *w = arg;
    struct cluster_record cluster;
    char *error = NULL;
    w->store = store_mem_open(w->store_mem);
    CHECK(cluster_load_or_make(w->store, &cluster, &error) == 0);
    struct node_record node = node_s(w);
    struct disks_options options = {.node_name = node.name,
        .cluster = cluster.uuid,
        .node = node.uuid,
        .trailer_cache_bytes = 1 << 20};
    w->disks = disks_new(w->store, &options);
    CHECK_MSG(disks_open_all(w->disks, &error) == 0, "%s", error);
    if (!w->formatted)
        format(w);
    w->server = (struct cluster_server){.shards = shard_service_new(w->disks)};
    identify(&w->server_options.self, cluster.uuid);
    w->client_options.self.cluster = cluster.uuid;
    int r = rpc_server_start(&w->server_options, node.address,
        w->methods ? w->methods : shard_methods, w->methods ? w->method_count : shard_method_count,
        NULL, &w->server, &w->server.rpc, &error);
    CHECK_MSG(r == 0, "listen: %s", error ? error : "");
    w->starts++;
}

void remote_world_start_server(struct remote_world *w)
{
    sim_node_start(w->server_node, "server", server_main, w);
}

void remote_world_crash_server(struct remote_world *w)
{
    sim_node_crash(w->server_node);
    store_mem_env_crashed(w->store_mem, w->server_node);
}

void remote_world_cut_power(struct remote_world *w, enum sim_cut_mode mode)
{
    sim_node_power_cut(w->server_node, mode);
    store_mem_env_crashed(w->store_mem, w->server_node);
}

MAY_SUSPEND void remote_world_stop_server(struct remote_world *w)
{
    rpc_server_stop(w->server.rpc);
    shard_service_free(w->server.shards);
    disks_free(w->disks);
    store_close(w->store);
}

/* --- Client ------------------------------------------------------------------------------------ */

static void peer_changed(void *ctx, struct peer *peer)
{
    struct remote_world *w = ctx;
    CHECK(peer->peers == w->peers);
    w->peer_changes++;
}

MAY_SUSPEND void remote_world_connect(struct remote_world *w)
{
    while (w->starts == 0)
        env_sleep_ns(MS);
    identify(&w->client_options.self, w->client_options.self.cluster);
    struct peers_options options = {.rpc = w->client_options, .changed = peer_changed, .ctx = w};
    w->peers = peers_new(&options);
    struct node_record node = node_s(w);
    peers_set(w->peers, &node);
    w->peer = peers_find(w->peers, "s");
    struct remote_disk_options disk_options = {.timeout_ns = w->timeout_ns};
    w->disk = remote_disk_new(w->peer, &w->record, &disk_options);
    while (!peer_connected(w->peer))
        env_sleep_ns(MS);
}

MAY_SUSPEND void remote_world_disconnect(struct remote_world *w)
{
    remote_disk_free(w->disk);
    peers_free(w->peers);
}
