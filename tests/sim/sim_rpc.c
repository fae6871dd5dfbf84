/* SPDX-License-Identifier: Apache-2.0
 *
 * Three nodes, each a server and a client of the two others, under random calls (bodies, payloads,
 * deadlines, cancels) and faults: links cut one way or both, resets, slow links, crashes, power cuts,
 * stopped and restarted processes, clean restarts. Checked (C1-C6 of common/rpc.h): every call of a
 * process that lives ends once, with a result that it can have; what was handled arrived whole, at
 * most once, in order, also from one connection to the next and to the node's next process; no
 * session begins while requests of the node's earlier one are with handlers; windows hold; who was cut
 * off for longer than the silence knows it. In the end all is given back, memory too.
 *
 * Memory is spoilt as soon as it is the caller's again: a use after done() shows as a damaged frame.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/mem.h"
#include "common/rpc.h"
#include "tests/sim/sim_check.h"

#define MS 1000000ull
#define SEC 1000000000ull

enum {
    NODES = 3,
    CALLS_MAX = 4096,
    WORK = 7,
    WINDOW_BYTES = 300 << 10,
    WINDOW_CALLS = 12,
    IN_FLIGHT_MAX = 40, /* of a client: more than the window */
    SILENCE_MS = 400,
    FAULTS = 24,
};

/* What a request carries, and what the reply repeats. */
struct work {
    uint64_t number; /* of the call, in the order of submissions of the whole world */
    uint64_t process;
    uint32_t from, payload_bytes, reply_bytes;
    int32_t status;
};

struct record {
    bool done, cancelled;
    unsigned handled;
};

static struct world {
    struct env *node[NODES];
    bool up[NODES];     /* its process runs, or stands still */
    bool ending[NODES]; /* it is to end */
    uint64_t process[NODES];
    uint64_t number;
    struct record records[CALLS_MAX];
    struct rpc_client *client[NODES][NODES];
    unsigned ok, lost, late, cancelled, disconnects, cut_offs;
    uint64_t paused_until_ns[NODES];
    bool quiet; /* no more calls */
} world;

/* --- Bytes -------------------------------------------------------------------------------------- */

static uint8_t *pattern_new(uint64_t seed, uint32_t len_bytes)
{
    uint8_t *data = mem_alloc(len_bytes + 8);
    for (uint32_t i = 0; i < len_bytes; i += 8) {
        uint64_t word = rng_mix(seed + i);
        memcpy(data + i, &word, 8);
    }
    return data;
}

static bool is_pattern(const uint8_t *data, uint64_t seed, uint32_t len_bytes)
{
    for (uint32_t i = 0; i < len_bytes; i += 8) {
        uint64_t word = rng_mix(seed + i);
        if (memcmp(data + i, &word, MIN(8u, len_bytes - i)) != 0)
            return false;
    }
    return true;
}

static void spoil(uint8_t *data, uint32_t len_bytes)
{
    memset(data, 0xee, len_bytes);
    mem_free(data);
}

static uint32_t random_bytes(void)
{
    uint64_t r = env_random_u64();
    switch (r % 16) {
    case 0:
        return (uint32_t)(64 << 10) + (r >> 8) % (200 << 10);
    case 1:
        return (uint32_t)((r >> 8) % (70 << 10));
    case 2:
    case 3:
    case 4:
        return 0;
    default:
        return (uint32_t)((r >> 8) % 9000);
    }
}

/* --- Server ------------------------------------------------------------------------------------- */

struct peer_state { /* of a node, in a server's process */
    struct rpc_session *session;
    unsigned open;
    uint64_t open_bytes;
    uint64_t process, number; /* of the request handled last */
};

struct process {
    unsigned node;
    uint64_t number;
    struct rpc_server *server;
    struct rpc_client *client[NODES];
    struct peer_state peers[NODES];
    unsigned in_flight;
};

static unsigned node_of(const struct rpc_identity *identity)
{
    unsigned node = identity->node.bytes[0] - 1u;
    CHECK(node < NODES);
    return node;
}

static int session_began(void *ctx, struct rpc_session *session)
{
    struct process *process = ctx;
    struct peer_state *peer = &process->peers[node_of(rpc_session_peer(session))];
    if (env_random_u64() % 32 == 0)
        return -EBUSY;
    CHECK_MSG(!peer->session && peer->open == 0, "C3: %u requests are open", peer->open);
    peer->session = session;
    return 0;
}

static void session_ended(void *ctx, struct rpc_session *session)
{
    struct process *process = ctx;
    struct peer_state *peer = &process->peers[node_of(rpc_session_peer(session))];
    CHECK(peer->session == session && peer->open == 0 && peer->open_bytes == 0);
    peer->session = NULL;
}

struct job {
    struct process *process;
    struct rpc_request *request;
    struct work work;
    uint8_t *payload;
};

static void reply_sent(void *arg)
{
    struct job *job = arg;
    spoil(job->payload, job->work.reply_bytes);
    mem_free(job);
}

static void job_reply(struct job *job)
{
    struct peer_state *peer = &job->process->peers[job->work.from];
    struct work work = job->work;
    bool fails = work.status != 0;
    job->payload = pattern_new(work.number + 1, work.reply_bytes);
    struct iovec iov[2] = {{job->payload, work.reply_bytes / 3},
        {job->payload + work.reply_bytes / 3, work.reply_bytes - work.reply_bytes / 3}};
    peer->open--;
    peer->open_bytes -= work.payload_bytes + work.reply_bytes;
    rpc_reply(job->request, work.status, &work, fails ? 0 : sizeof(work), iov, fails ? 0 : 2,
        reply_sent, job);
}

static void job_main(void *arg)
{
    struct job *job = arg;
    uint64_t r = env_random_u64(), end_ns = env_now_ns() + (r >> 8) % (60 * MS);
    if (r % 32 == 0)
        end_ns += (r >> 32) % (3 * SEC);
    while (env_now_ns() < end_ns && !(job->request->cancelled && r % 2))
        env_sleep_ns(MS);
    job_reply(job);
}

static void handle_work(void *ctx, struct rpc_request *request)
{
    struct process *process = ctx;
    struct job *job = NEW(struct job);
    *job = (struct job){.process = process, .request = request};
    memcpy(&job->work, request->body, sizeof(job->work));
    struct work *w = &job->work;
    struct peer_state *peer = &process->peers[w->from];
    CHECK(w->from == node_of(rpc_session_peer(request->session)));
    CHECK(peer->session == request->session);
    CHECK(request->payload_bytes == w->payload_bytes);
    CHECK(is_pattern(request->payload, w->number, w->payload_bytes)); /* C4 */
    CHECK_MSG(++world.records[w->number].handled == 1, "call %lu handled again", w->number);
    CHECK_MSG(
        w->process > peer->process || (w->process == peer->process && w->number > peer->number),
        "C2: call %lu after %lu", w->number, peer->number);
    peer->process = w->process;
    peer->number = w->number;
    peer->open++;
    peer->open_bytes += w->payload_bytes + w->reply_bytes;
    CHECK(peer->open <= WINDOW_CALLS); /* C5 */
    CHECK(peer->open == 1 || peer->open_bytes <= WINDOW_BYTES);
    sim_trace(sim_current(), "handled", w->from, w->number);
    if (env_random_u64() % 2)
        job_reply(job);
    else
        fiber_spawn("job", job_main, job);
}

/* --- Client ------------------------------------------------------------------------------------- */

struct sim_call {
    struct rpc_call call;
    struct work work, back;
    struct process *process;
    unsigned to;
    uint8_t *payload, *reply;
    struct iovec out[3], in[3];
};

static void split(struct iovec iov[3], uint8_t *data, uint32_t len_bytes)
{
    uint32_t a = len_bytes ? (uint32_t)(env_random_u64() % len_bytes) : 0, b = (len_bytes - a) / 2;
    iov[0] = (struct iovec){data, a};
    iov[1] = (struct iovec){data + a, b};
    iov[2] = (struct iovec){data + a + b, len_bytes - a - b};
}

static void check_reply(const struct sim_call *c)
{
    const struct rpc_call *call = &c->call;
    CHECK(world.records[c->work.number].handled == 1);
    if (call->result == 0) {
        CHECK(call->ret_body_len_bytes == sizeof(c->back));
        CHECK(memcmp(&c->back, &c->work, sizeof(c->back)) == 0);
        CHECK(call->ret_payload_bytes == c->work.reply_bytes);
        CHECK(is_pattern(c->reply, c->work.number + 1, c->work.reply_bytes));
    }
    world.ok++;
}

static void call_done(struct rpc_call *call)
{
    struct sim_call *c = container_of(call, struct sim_call, call);
    struct record *record = &world.records[c->work.number];
    CHECK_MSG(!record->done, "C1: call %lu ended again", c->work.number);
    record->done = true;
    sim_trace(sim_current(), "ended", c->work.number, (uint64_t)-call->result);
    if (call->result == -EHOSTUNREACH) {
        world.lost++;
    } else if (call->result == -ETIMEDOUT) {
        CHECK(call->deadline_ns != 0 && env_now_ns() >= call->deadline_ns);
        world.late++;
    } else if (call->result == -ECANCELED) {
        CHECK(record->cancelled);
        world.cancelled++;
    } else {
        CHECK(call->result == c->work.status);
        check_reply(c);
    }
    c->process->in_flight--;
    spoil(c->payload, c->work.payload_bytes);
    spoil(c->reply, c->work.reply_bytes);
    memset(c, 0xee, sizeof(*c));
    mem_free(c);
}

static struct sim_call *call_new(struct process *process, unsigned to)
{
    static const int statuses[] = {0, 0, 0, 0, 0, 0, -ENOENT, -ESTALE};
    struct sim_call *c = NEW(struct sim_call);
    struct work *w = &c->work;
    *w = (struct work){.number = ++world.number,
        .process = process->number,
        .from = process->node,
        .payload_bytes = random_bytes(),
        .reply_bytes = random_bytes(),
        .status = statuses[env_random_u64() % ARRAY_SIZE(statuses)]};
    CHECK(w->number < CALLS_MAX);
    c->process = process;
    c->to = to;
    c->payload = pattern_new(w->number, w->payload_bytes);
    c->reply = mem_alloc(w->reply_bytes + 1);
    split(c->out, c->payload, w->payload_bytes);
    split(c->in, c->reply, w->reply_bytes);
    uint64_t r = env_random_u64();
    c->call = (struct rpc_call){.method = WORK,
        .body = w,
        .body_len_bytes = sizeof(*w),
        .payload = c->out,
        .payload_count = 3,
        .deadline_ns = r % 4 == 0 ? env_now_ns() + 1 + (r >> 8) % (r % 8 ? 20 * MS : 2 * SEC) : 0,
        .reply_body = &c->back,
        .reply_body_max = sizeof(c->back),
        .reply_payload = c->in,
        .reply_payload_count = 3,
        .done = call_done};
    return c;
}

struct canceller {
    struct sim_call *c;
    struct process *process;
    unsigned to;
    uint64_t number, at_ns;
};

static void cancel_main(void *arg)
{
    struct canceller *k = arg;
    env_sleep_ns(k->at_ns);
    struct rpc_client *client = k->process->client[k->to];
    if (client && !world.records[k->number].done) {
        world.records[k->number].cancelled = true;
        rpc_call_cancel(client, &k->c->call);
    }
    k->process->in_flight--;
    mem_free(k);
}

static void submit_one(struct process *process, unsigned to)
{
    struct sim_call *c = call_new(process, to);
    process->in_flight++;
    if (env_random_u64() % 8 == 0) {
        struct canceller *k = NEW(struct canceller);
        *k = (struct canceller){c, process, to, c->work.number, env_random_u64() % (20 * MS)};
        process->in_flight++;
        fiber_spawn("cancel", cancel_main, k);
    }
    rpc_call_submit(process->client[to], &c->call);
    CHECK(!world.records[world.number].done);
}

static void disconnected(void *ctx)
{
    world.disconnects++;
}

/* Bursts of calls to anybody, until the process is to end. */
static void drive(struct process *process)
{
    while (!world.ending[process->node]) {
        unsigned to = (process->node + 1 + env_random_u64() % (NODES - 1)) % NODES;
        bool some = rpc_client_connected(process->client[to]) || env_random_u64() % 8 == 0;
        for (unsigned n = 1 + env_random_u64() % 10; some && n > 0; n--)
            if (!world.quiet && process->in_flight < IN_FLIGHT_MAX && world.number < CALLS_MAX - 2)
                submit_one(process, to);
        env_sleep_ns(MS + env_random_u64() % (60 * MS));
    }
}

/* --- Processes ---------------------------------------------------------------------------------- */

static const struct rpc_method methods[] = {
    {WORK, "work", handle_work, sizeof(struct work), RPC_PAYLOAD_BYTES_MAX}};
static const struct rpc_server_events server_events = {session_began, session_ended};
static const struct rpc_client_events client_events = {NULL, disconnected, NULL};

static struct rpc_options options_of(unsigned node)
{
    struct rpc_options options = {.self = {.cluster = {.bytes = {5}},
                                      .node = {.bytes = {(uint8_t)(node + 1)}},
                                      .incarnation = env_random_u64()},
        .silence_ns = SILENCE_MS * MS,
        .connect_wait_ns = 300 * MS,
        .retry_ns_max = 200 * MS,
        .window_bytes = WINDOW_BYTES,
        .window_calls = WINDOW_CALLS};
    snprintf(options.self.node_name, sizeof(options.self.node_name), "n%u", node + 1);
    env_boot_id(options.self.boot_id);
    return options;
}

static void process_start(struct process *process)
{
    struct rpc_options options = options_of(process->node);
    char address[64], name[16], *error = NULL;
    snprintf(address, sizeof(address), "tcp:10.0.0.%u:7000", process->node + 1);
    int rc = rpc_server_start(
        &options, address, methods, 1, &server_events, process, &process->server, &error);
    CHECK_MSG(rc == 0, "%s", error);
    for (unsigned to = 0; to < NODES; to++) {
        if (to == process->node)
            continue;
        snprintf(address, sizeof(address), "tcp:10.0.0.%u:7000", to + 1);
        snprintf(name, sizeof(name), "n%u", to + 1);
        struct uuid uuid = {.bytes = {(uint8_t)(to + 1)}};
        process->client[to] = rpc_client_new(&options, address, name, &uuid, &client_events);
        world.client[process->node][to] = process->client[to];
    }
}

static void process_main(void *arg)
{
    unsigned node = (unsigned)(uintptr_t)arg;
    uint64_t before_bytes = mem_used_bytes(fiber_env());
    struct process *process = NEW(struct process);
    process->node = node;
    process->number = ++world.process[node];
    process_start(process);
    drive(process);
    for (unsigned to = 0; to < NODES; to++) {
        struct rpc_client *client = process->client[to];
        process->client[to] = world.client[node][to] = NULL;
        rpc_client_free(client);
    }
    rpc_server_stop(process->server);
    while (process->in_flight > 0) /* cancellers */
        env_sleep_ns(MS);
    mem_free(process);
    env_sleep_ns(2 * SEC); /* a client that was connecting goes when that has ended */
    CHECK_MSG(mem_used_bytes(fiber_env()) == before_bytes, "%lu bytes are left",
        mem_used_bytes(fiber_env()) - before_bytes);
    world.up[node] = false;
}

static void start_node(unsigned node)
{
    world.up[node] = true;
    world.ending[node] = false;
    sim_node_start(world.node[node], "process", process_main, (void *)(uintptr_t)node);
}

/* What it had in flight is forgotten with it. */
static void node_gone(unsigned node)
{
    world.up[node] = false;
    for (unsigned to = 0; to < NODES; to++)
        world.client[node][to] = NULL;
}

/* --- Faults ------------------------------------------------------------------------------------- */

/* C6, on both sides of what was cut for long enough, unless they stood still meanwhile. */
static void check_cut_off(unsigned a, unsigned b, uint64_t since_ns)
{
    uint64_t now_ns = sim_now_ns(sim_current());
    struct rpc_client *client = world.client[a][b];
    if (now_ns - since_ns < 3 * SILENCE_MS * MS / 2 || world.paused_until_ns[a] > since_ns)
        return;
    world.cut_offs++;
    CHECK_MSG(!client || !rpc_client_connected(client), "C6: n%u does not know that n%u is cut off",
        a + 1, b + 1);
}

static void fault_cut(struct sim *sim, struct rng *rng, unsigned a, unsigned b)
{
    uint64_t since_ns = sim_now_ns(sim), way = rng_below(rng, 3);
    if (way != 1)
        sim_net_cut(world.node[a], world.node[b], true);
    if (way != 0)
        sim_net_cut(world.node[b], world.node[a], true);
    sim_run_for(sim, rng_below(rng, rng_one_in(rng, 2) ? 2 * SEC : 100 * MS));
    /* One way is enough: nobody hears what the other sends, or nobody hears its end. */
    if (way != 0)
        check_cut_off(a, b, since_ns);
    if (way != 1)
        check_cut_off(b, a, since_ns);
    sim_net_cut(world.node[a], world.node[b], false);
    sim_net_cut(world.node[b], world.node[a], false);
}

static void fault_end(struct sim *sim, struct rng *rng, unsigned a)
{
    if (!world.up[a])
        return;
    switch (rng_below(rng, 3)) {
    case 0:
        sim_node_crash(world.node[a]);
        node_gone(a);
        break;
    case 1:
        sim_node_power_cut(world.node[a], SIM_CUT_RANDOM);
        node_gone(a);
        break;
    default:
        world.ending[a] = true;
    }
    sim_run_for(sim, rng_below(rng, 1 * SEC));
    if (!world.up[a])
        start_node(a);
}

static void fault(struct sim *sim, struct rng *rng)
{
    unsigned a = (unsigned)rng_below(rng, NODES);
    unsigned b = (unsigned)(a + 1 + rng_below(rng, NODES - 1)) % NODES;
    uint64_t pause_ns;
    switch (rng_below(rng, 6)) {
    case 0:
    case 1:
        fault_cut(sim, rng, a, b);
        break;
    case 2:
        sim_net_reset(world.node[a], world.node[b]);
        break;
    case 3:
        fault_end(sim, rng, a);
        break;
    case 4:
        pause_ns = rng_below(rng, 2 * SEC);
        world.paused_until_ns[a] = MAX(world.paused_until_ns[a], sim_now_ns(sim) + pause_ns);
        sim_node_pause(world.node[a], pause_ns);
        break;
    default:
        sim_net_set_latency(world.node[a], world.node[b],
            &(struct sim_net_latency){.base_ns = rng_below(rng, 5 * MS),
                .jitter_ns = rng_below(rng, 5 * MS),
                .ns_per_kib = rng_below(rng, 20000)});
    }
    for (unsigned node = 0; node < NODES; node++)
        if (!world.up[node])
            start_node(node);
}

/* --- Rounds ------------------------------------------------------------------------------------- */

static bool all_down(void *ctx)
{
    for (unsigned node = 0; node < NODES; node++)
        if (world.up[node])
            return false;
    return true;
}

static bool all_connected(void *ctx)
{
    for (unsigned a = 0; a < NODES; a++)
        for (unsigned b = 0; b < NODES; b++)
            if (a != b && !(world.client[a][b] && rpc_client_connected(world.client[a][b])))
                return false;
    return true;
}

/* No line may speak of damage: there is none here. */
static void watch_log(void *ctx, enum log_level level, const char *line)
{
    if (getenv("SIM_LOG"))
        fprintf(stderr, "%s\n", line);
    CHECK_MSG(!strstr(line, "damaged") && !strstr(line, "the peer sent"), "%s", line);
}

static void settle(struct sim *sim)
{
    const struct sim_net_latency fast = {40000, 60000, 400};
    sim_net_heal_all(sim);
    for (unsigned a = 0; a < NODES; a++) {
        for (unsigned b = 0; b < NODES; b++)
            if (a != b)
                sim_net_set_latency(world.node[a], world.node[b], &fast);
        if (!world.up[a])
            start_node(a);
        else if (world.ending[a])
            sim_run_for(sim, 10 * SEC);
        CHECK(!world.ending[a] || !world.up[a]);
        if (!world.up[a])
            start_node(a);
    }
    CHECK(sim_run(sim, all_connected, NULL, sim_now_ns(sim) + 60 * SEC) == SIM_UNTIL);
    world.quiet = true;
    sim_run_for(sim, 4 * SEC); /* the longest handlers end */
    CHECK(all_connected(NULL));
    unsigned disconnects = world.disconnects;
    sim_run_for(sim, 3 * SILENCE_MS * MS);
    CHECK_MSG(world.disconnects == disconnects, "C6: idle connections ended");
    for (unsigned a = 0; a < NODES; a++)
        world.ending[a] = true;
    CHECK(sim_run(sim, all_down, NULL, sim_now_ns(sim) + 60 * SEC) == SIM_UNTIL);
}

static uint64_t run(uint64_t seed)
{
    struct sim *sim = sim_new(&(struct sim_options){.seed = seed, .trace = sim_check_trace()});
    struct rng rng = rng_fork(seed, "faults");
    world = (struct world){0};
    for (unsigned i = 0; i < NODES; i++) {
        char name[8];
        snprintf(name, sizeof(name), "n%u", i + 1);
        world.node[i] = sim_node_new(sim, name);
    }
    for (unsigned i = 0; i < NODES; i++)
        start_node(i);
    unsigned faults = (unsigned)rng_below(&rng, FAULTS);
    for (unsigned i = 0; i < faults; i++) {
        sim_run_for(sim, rng_below(&rng, 300 * MS));
        fault(sim, &rng);
    }
    settle(sim);
    uint64_t hash = sim_trace_hash(sim);
    if (getenv("SIM_STATS"))
        printf("seed %lu: %lu calls, %u ok, %u lost, %u late, %u cancelled, %u disconnects, %u cut "
               "off\n",
            seed, world.number, world.ok, world.lost, world.late, world.cancelled,
            world.disconnects, world.cut_offs);
    sim_free(sim);
    return hash;
}

static void round_of(uint64_t seed)
{
    log_set_output(watch_log, NULL);
    uint64_t hash = run(seed);
    if (seed % 8 == 0)
        CHECK_MSG(run(seed) == hash, "another run of the same seed was another one");
}

/* A server that was stopped before it had begun to accept used its listener after its end. */
static const uint64_t seeds_kept[] = {30121483095245271};

int main(int argc, char **argv)
{
    log_set_level(LOG_LEVEL_INFO);
    return sim_check_main(argc, argv,
        &(struct sim_check){
            .round = round_of, .rounds = 60, .seeds_kept = seeds_kept, .seeds_kept_count = 1});
}
