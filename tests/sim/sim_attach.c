/* SPDX-License-Identifier: Apache-2.0
 *
 * Three whole nodes and clients that speak NBD to all of them, of which one owns the volume: forwarding
 * over the real RPC, handoffs by traffic and by hand, while connections are reset, links are cut,
 * processes stand still, crash, or are stopped and started. What the clients saw of each block must be
 * linearizable: no answered write lost, none done twice (S19), no stale read; no request is answered
 * with an error; and all goes on when the faults are over.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/nbd/protocol.h"
#include "blockd/node.h"
#include "blockd/pools.h"
#include "common/bytes.h"
#include "common/log.h"
#include "common/mem.h"
#include "tests/sim/sim_check.h"
#include "tests/sim/sim_history.h"

#define MS 1000000ull
#define SEC 1000000000ull

enum {
    NODES = 3,
    CLIENTS = 3,
    OPS = 300, /* of each client */
    FAULTS = 24,
    HOT = 2,           /* registers in use at a time */
    REGISTERS = 128,   /* blocks; one is given up when its history is full */
    REGISTER_OPS = 40, /* then */
    BULK_BLOCKS = 64,  /* behind the registers: written so that there is traffic, never looked at */
    DISK_BYTES = 128 << 20,
    NBD_PORT = 10809,
};
#define VOLUME_BYTES ((uint64_t)(REGISTERS + BULK_BLOCKS) * BLOCK_BYTES)

struct host {
    struct env *env;
    char name[8];
    struct node_config config;
    struct node *node; /* NULL unless it runs */
    bool made;         /* its disk */
    bool down;         /* crashed or stopped, to be started */
    unsigned
        moves; /* move_main() under way: the node stays until they are over, as for admin requests */
};

static struct world {
    struct sim *sim;
    struct rng rng;
    struct store_mem *store;
    struct host hosts[NODES];
    struct env *client_env;
    bool ready;
    unsigned forwarded_max;
    uint32_t value;
    struct history registers[REGISTERS];
    unsigned hot[HOT], next_register;
    unsigned clients_done, answered, lost, handoffs, crashes;
} world;

/* --- Nodes --------------------------------------------------------------------------------------- */

static void make_disk(struct host *host)
{
    struct uuid uuid;
    uint64_t size_bytes;
    struct disk_record record;
    CLEANUP_FREE char *error = NULL;
    sim_disk_new(host->env, "/disk", DISK_BYTES);
    int r = disks_format(host->node->disks, "/disk", 0, "ssd", false, &uuid, &size_bytes, &error);
    if (r == 0)
        r = disks_add(host->node->disks, "/disk", &record, &error);
    CHECK_MSG(r == 0, "disk: %s", error);
    host->made = true;
}

static unsigned disks_up(struct node *node)
{
    unsigned count = 0;
    list_for_each (it, &members_disks(node->members)->all)
        count += list_entry(it, struct disk, link)->state == DISK_IN;
    return count;
}

/* The first node makes pool and volume once all disks are there. */
static void make_volume(struct node *node)
{
    struct pool pool = {
        .name = "p", .code = {1, 1}, .shards_min = 2, .log_copies_min = 2, .domain = DOMAIN_NODE};
    CLEANUP_FREE char *error = NULL;
    uint64_t id;
    while (disks_up(node) < NODES)
        env_sleep_ns(50 * MS);
    int r = pools_create(node->store, node->disks, &pool, &error);
    if (r == 0)
        r = volume_create(&node->host, "v", VOLUME_BYTES, "p", &id, &error);
    CHECK_MSG(r == 0, "volume: %s", error);
    world.ready = true;
}

static void node_main(void *arg)
{
    struct host *host = arg;
    char text[512];
    const char *address = sim_node_address(host->env);
    struct node *node;
    CLEANUP_FREE char *error = NULL;
    snprintf(text, sizeof(text),
        "[node]\nstate_dir=/state\nrun_dir=/run\nmemory=128MiB\n"
        "[nbd]\nlisten=tcp:%s:%d\n[store]\ntype=etcd\nendpoints=http://10.0.0.99:2379\n"
        "[cluster]\naddress=tcp:%s:7100\nsession_ttl=2s\nsilence=1s\n[log]\nlevel=%s\n",
        address, NBD_PORT, address, getenv("SIM_ATTACH_LOG") ? "info" : "error");
    CHECK_MSG(node_config_parse(text, host->name, &host->config, &error) == 0, "%s", error);
    host->config.forwarded_max = world.forwarded_max;
    struct node_options options = {
        .config = &host->config, .store = store_mem_open(world.store), .join = true};
    int r = node_start(&options, &node, &error);
    CHECK_MSG(r == 0, "%s: %s", host->name, error);
    host->node = node;
    if (!host->made)
        make_disk(host);
    if (!world.ready && host == &world.hosts[0])
        make_volume(node);
    node_wait_stop(node);
    struct attach_stats stats;
    attach_get_stats(node->attach, &stats);
    world.handoffs += (unsigned)stats.handoffs_in;
    host->node = NULL;
    while (host->moves > 0)
        env_sleep_ns(10 * MS);
    node_stop(node);
    node_config_fini(&host->config);
    host->down = true;
}

static void stop_main(void *arg)
{
    struct host *host = arg;
    while (!host->node && !host->down) /* it is starting */
        env_sleep_ns(10 * MS);
    if (host->node)
        node_want_stop(host->node);
}

static void move_main(void *arg)
{
    struct host *host = arg;
    struct node *node = host->node;
    CLEANUP_FREE char *error = NULL;
    struct volumes_name *names;
    unsigned count;
    if (!node)
        return;
    host->moves++;
    if (volumes_list(node->volumes, &names, &count) == 0) {
        if (host->node == node && count == 1)
            volumes_handoff(node->volumes, names[0].id, 0,
                world.hosts[rng_below(&world.rng, NODES)].name, NULL, &error);
        mem_free(names);
    }
    host->moves--;
}

/* --- NBD ----------------------------------------------------------------------------------------- */

static bool receive(struct env_stream *stream, void *buf, size_t len_bytes)
{
    uint64_t deadline_ns = env_now_ns() + 60 * SEC;
    for (size_t done = 0; done < len_bytes;) {
        int64_t n = env_recv(stream, (char *)buf + done, len_bytes - done, deadline_ns);
        if (n <= 0)
            return false;
        done += (size_t)n;
    }
    return true;
}

static bool send_all(
    struct env_stream *stream, const void *a, size_t a_bytes, const void *b, size_t b_bytes)
{
    struct iovec iov[2] = {{(void *)a, a_bytes}, {(void *)b, b_bytes}};
    return env_send(stream, iov, b_bytes > 0 ? 2 : 1, env_now_ns() + 60 * SEC) == 0;
}

/* NULL: it is not there now. */
static struct env_stream *dial(const struct host *host)
{
    uint8_t greeting[NBD_GREETING_BYTES], hello[4 + 16 + 1], reply[NBD_EXPORT_NAME_REPLY_BYTES];
    char address[64];
    struct env_stream *stream;
    snprintf(address, sizeof(address), "tcp:%s:%d", sim_node_address(host->env), NBD_PORT);
    if (env_connect(address, env_now_ns() + SEC, &stream) < 0)
        return NULL;
    put_be32(hello, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    put_be64(hello + 4, NBD_OPTION_MAGIC);
    put_be32(hello + 12, NBD_OPT_EXPORT_NAME);
    put_be32(hello + 16, 1);
    hello[20] = 'v';
    if (receive(stream, greeting, sizeof(greeting)) &&
        send_all(stream, hello, sizeof(hello), NULL, 0) && receive(stream, reply, sizeof(reply))) {
        CHECK(get_be64(reply) == VOLUME_BYTES);
        return stream;
    }
    env_stream_close(stream);
    return NULL;
}

static bool call(struct env_stream *stream, uint16_t type, uint64_t block, uint8_t *buf)
{
    uint8_t header[NBD_REQUEST_BYTES] = {0}, reply[16];
    uint32_t len_bytes = type == NBD_CMD_FLUSH ? 0 : BLOCK_BYTES;
    put_be32(header, 0x25609513); /* NBD_REQUEST_MAGIC of the protocol text */
    put_be16(header + 6, type);
    put_be64(header + 16, type == NBD_CMD_FLUSH ? 0 : block * BLOCK_BYTES);
    put_be32(header + 24, len_bytes);
    if (!send_all(stream, header, sizeof(header), buf, type == NBD_CMD_WRITE ? len_bytes : 0) ||
        !receive(stream, reply, sizeof(reply)))
        return false;
    CHECK_MSG(get_be32(reply + 4) == 0, "request %u was answered with error %u", type,
        get_be32(reply + 4));
    return type != NBD_CMD_READ || receive(stream, buf, len_bytes);
}

/* --- Clients -------------------------------------------------------------------------------------- */

struct client {
    struct rng rng;
    struct env_stream *stream;
    unsigned at; /* host */
    uint8_t *buf;
};

/* A place in the history of one of the registers in use. */
static struct history_op *begin_op(struct client *c, unsigned *ret_register)
{
    unsigned *slot = &world.hot[rng_below(&c->rng, HOT)];
    if (world.registers[*slot].count == REGISTER_OPS && world.next_register < REGISTERS)
        *slot = world.next_register++;
    struct history *history = &world.registers[*slot];
    if (history->count == REGISTER_OPS)
        return NULL;
    *ret_register = *slot;
    struct history_op *op = &history->ops[history->count++];
    *op = (struct history_op){.begin = sim_now_ns(world.sim), .end = UINT64_MAX, .write = true};
    return op;
}

static bool use_register(struct client *c)
{
    unsigned block;
    struct history_op *op = begin_op(c, &block);
    if (!op)
        return true;
    bool write = rng_below(&c->rng, 2);
    if (write) {
        op->value = ++world.value;
        memset(c->buf, 0, BLOCK_BYTES);
        put_le32(c->buf, op->value);
        put_le32(c->buf + BLOCK_BYTES - 4, op->value);
    } else {
        op->value =
            ++world.value; /* a write that nobody made, until it is a read that was answered */
    }
    bool ok = call(c->stream, write ? NBD_CMD_WRITE : NBD_CMD_READ, block, c->buf);
    if (!ok)
        return false;
    op->end = sim_now_ns(world.sim);
    op->write = write;
    if (!write) {
        op->value = get_le32(c->buf);
        CHECK_MSG(get_le32(c->buf + BLOCK_BYTES - 4) == op->value, "block %u is torn", block);
    }
    return true;
}

static bool step(struct client *c)
{
    uint64_t what = rng_below(&c->rng, 16);
    if (what == 0)
        return call(c->stream, NBD_CMD_FLUSH, 0, NULL);
    if (what < 6)
        return call(c->stream, NBD_CMD_WRITE, REGISTERS + rng_below(&c->rng, BULK_BLOCKS), c->buf);
    return use_register(c);
}

static void client_main(void *arg)
{
    struct client *c = arg;
    c->buf = mem_alloc_pages(BLOCK_BYTES);
    memset(c->buf, 0, BLOCK_BYTES);
    for (unsigned ops = 0; ops < OPS;) {
        if (!c->stream) {
            c->at = (unsigned)rng_below(&c->rng, NODES);
            c->stream = dial(&world.hosts[c->at]);
            if (!c->stream)
                env_sleep_ns(100 * MS);
            continue;
        }
        bool ok = step(c);
        world.answered += ok;
        world.lost += !ok;
        ops++;
        if (!ok || rng_below(&c->rng, 48) == 0) {
            env_stream_close(c->stream);
            c->stream = NULL;
        }
        env_sleep_ns(rng_below(&c->rng, 40) ? rng_below(&c->rng, 60) * MS : 2 * SEC);
    }
    if (c->stream)
        env_stream_close(c->stream);
    mem_free_pages(c->buf, BLOCK_BYTES);
    mem_free(c);
    world.clients_done++;
}

static void clients_begin(void *arg)
{
    for (unsigned i = 0; i < CLIENTS; i++) {
        struct client *c = NEW(struct client);
        rng_init(&c->rng, rng_u64(&world.rng));
        fiber_spawn("client", client_main, c);
    }
}

/* --- Faults --------------------------------------------------------------------------------------- */

static void start_host(struct host *host)
{
    host->down = false;
    sim_node_start(host->env, "node", node_main, host);
}

static void crash(struct host *host)
{
    sim_node_crash(host->env);
    store_mem_env_crashed(world.store, host->env);
    host->node = NULL;
    host->moves = 0;
    host->down = true;
    world.crashes++;
}

/* One node at a time is in trouble: what two others are left with must do. */
static void fault(void)
{
    struct host *host = &world.hosts[rng_below(&world.rng, NODES)];
    struct host *other = &world.hosts[rng_below(&world.rng, NODES)];
    uint64_t for_ns = rng_below(&world.rng, 5000) * MS;
    if (!host->node)
        return;
    switch (rng_below(&world.rng, 7)) {
    case 0:
        crash(host);
        sim_run_for(world.sim, for_ns);
        break;
    case 1:
        sim_node_start(host->env, "stop", stop_main, host);
        sim_run_for(world.sim, for_ns);
        break;
    case 2:
        sim_node_pause(host->env, for_ns);
        sim_run_for(world.sim, for_ns);
        break;
    case 3:
        if (other != host) {
            sim_net_cut(host->env, other->env, true);
            sim_net_cut(other->env, host->env, rng_below(&world.rng, 2));
        }
        sim_run_for(world.sim, for_ns);
        break;
    case 4:
        sim_node_start(host->env, "move", move_main, host);
        break;
    default:
        if (other != host)
            sim_net_reset(host->env, other->env);
        break;
    }
    sim_net_heal_all(world.sim);
    for (unsigned i = 0; i < NODES; i++)
        if (world.hosts[i].down)
            start_host(&world.hosts[i]);
}

/* --- The round ------------------------------------------------------------------------------------ */

static bool is_ready(void *arg)
{
    return world.ready;
}

static bool clients_are_done(void *arg)
{
    for (unsigned i = 0; i < NODES; i++)
        if (world.hosts[i].down)
            start_host(&world.hosts[i]);
    return world.clients_done == CLIENTS;
}

static bool all_down(void *arg)
{
    for (unsigned i = 0; i < NODES; i++)
        if (!world.hosts[i].down)
            return false;
    return true;
}

static uint64_t world_now_ns(void)
{
    return sim_now_ns(world.sim);
}

static void setup(uint64_t seed)
{
    memset(&world, 0, sizeof(world));
    world.sim = sim_new(&(struct sim_options){
        .seed = seed, .fiber_count_max = 4096, .strict_io = true, .trace = sim_check_trace()});
    rng_init(&world.rng, seed);
    world.forwarded_max = seed % 2 ? 2 : 0; /* requests of other nodes wait for one another */
    world.store = store_mem_new();
    store_mem_set_clock(world.store, world_now_ns);
    store_mem_set_fault(world.store, 0, 2 * MS);
    for (unsigned i = 0; i < HOT; i++)
        world.hot[i] = world.next_register++;
    for (unsigned i = 0; i < NODES; i++) {
        struct host *host = &world.hosts[i];
        snprintf(host->name, sizeof(host->name), "n%u", i + 1);
        host->env = sim_node_new(world.sim, host->name);
        start_host(host);
    }
    world.client_env = sim_node_new(world.sim, "c");
    CHECK(sim_run(world.sim, is_ready, NULL, 60 * SEC) == SIM_UNTIL);
}

static void run_round(uint64_t seed)
{
    setup(seed);
    sim_node_start(world.client_env, "clients", clients_begin, NULL);
    for (unsigned i = 0; i < FAULTS && world.clients_done < CLIENTS; i++) {
        for (unsigned resets = (unsigned)rng_below(&world.rng, 6); resets > 0; resets--) {
            sim_run_for(world.sim, rng_below(&world.rng, 500) * MS);
            unsigned a = (unsigned)rng_below(&world.rng, NODES);
            sim_net_reset(world.hosts[a].env, world.hosts[(a + 1) % NODES].env);
        }
        sim_run_for(world.sim, 100 * MS + rng_below(&world.rng, 1500) * MS);
        fault();
    }
    uint64_t deadline_ns = sim_now_ns(world.sim) + 600 * SEC;
    if (sim_run(world.sim, clients_are_done, NULL, deadline_ns) != SIM_UNTIL) {
        sim_dump(world.sim, stderr);
        CHECK_MSG(false, "clients wait for ever");
    }
    for (unsigned i = 0; i < world.next_register; i++)
        CHECK_MSG(history_is_linearizable(&world.registers[i]), "block %u is not linearizable", i);
    CHECK(world.answered > world.lost);
    for (unsigned i = 0; i < NODES; i++)
        sim_node_start(world.hosts[i].env, "stop", stop_main, &world.hosts[i]);
    if (sim_run(world.sim, all_down, NULL, sim_now_ns(world.sim) + 120 * SEC) != SIM_UNTIL) {
        sim_dump(world.sim, stderr);
        CHECK_MSG(false, "a node does not stop");
    }
    log_info("seed %lu: %u answered, %u lost, %u handoffs by traffic, %u crashes, %lu s", seed,
        world.answered, world.lost, world.handoffs, world.crashes,
        (uint64_t)(sim_now_ns(world.sim) / SEC));
    sim_free(world.sim);
    store_mem_free(world.store);
}

int main(int argc, char **argv)
{
    log_set_level(getenv("SIM_ATTACH_LOG") ? LOG_LEVEL_INFO : LOG_LEVEL_ERROR);
    struct sim_check check = {.round = run_round, .rounds = 20};
    return sim_check_main(argc, argv, &check);
}
