/* SPDX-License-Identifier: Apache-2.0
 *
 * Two nodes that fight for one volume whose disks stand elsewhere: clients of both, which attach to
 * one owner at one epoch and send what was not answered to the next under the same request id; nodes that stop for a while and go
 * on (zombies), crash, lose their disks or their session; clocks that drift and jump; a store that
 * answers late, not at all, or not whether it happened; volumes handed over; clients that give a write up and go on
 * in a new session, as one does that connects anew. What every client saw
 * of each block must be linearizable: no acknowledged write lost (S10-S13), none done twice, none done once it
 * was given up (S19), no stale read (S16, S17).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/disk/local_disk.h"
#include "blockd/volume/map.h"
#include "blockd/volumes.h"
#include "common/log.h"
#include "common/mem.h"
#include "tests/sim/sim_check.h"
#include "tests/sim/sim_history.h"
#include "tests/sim/sim_proxy.h"

enum {
    NODES = 2,
    DISKS = 5,
    CLIENTS = 3,
    HOT = 4,        /* blocks whose history is kept */
    COLD = 96,      /* blocks written so that rows and logs come and go */
    ROW_BLOCKS = 8, /* per data shard */
    DISK_BYTES = 64 << 20,
    OPS = 56, /* of each client */
};
/* A third of the rounds each is for one thing: requests that come again after others have written;
 * clients that give up what waits; or all of it. */
enum mood { ANY, RESEND, GIVE_UP, MOODS };
#define MS 1000000ull
#define SECOND 1000000000ull
#define TTL_NS (2 * SECOND)

struct node {
    struct env *env;
    const char *name;
    struct sim_link link;
    struct sim_proxy disks[DISKS];
    /* of the running process */
    struct disk_list disk_list;
    struct memory_budget budget;
    struct volume_host host;
    struct volumes *volumes;
    uint64_t session;
    uint64_t busy_until_ns; /* crashed or paused */
    struct mail *inbox;     /* to be taken by the timer */
    struct env_timer inbox_timer;
    bool up;
};

enum what { ATTACH, WRITE, TRIM, READ };

/* A request on its way to a node and back, in plain memory. */
struct mail {
    struct mail *next, *next_all;
    struct node *node;
    enum what what;
    unsigned block, count;
    uint32_t value;
    struct request_id id;
    uint32_t epoch; /* it is for this one (S19); of an ATTACH: the answer */
    uint8_t *buf;
    int result;
    char error[256]; /* of the open */
    bool answered;
    struct fiber *client;
};

static struct world {
    struct rng rng;
    struct sim *sim;
    struct env *outside, *disk_node;
    struct store_mem *store;
    struct disk *targets[DISKS];
    struct node nodes[NODES];
    uint64_t volume_id;
    enum mood mood;
    struct history histories[HOT];
    uint64_t clock; /* logical: begins and ends of operations */
    uint32_t value_last;
    struct mail *mails;
    unsigned clients_left;
    bool over;
    bool given_up[CLIENTS][OPS + 1];
    unsigned takeovers, hand_overs, noops, gave_up;
} world;

static const struct uuid cluster = {.bytes = {1, 2, 3}};

static uint64_t world_now_ns(void)
{
    return sim_now_ns(world.sim);
}

/* --- Nodes ------------------------------------------------------------------------------------- */

static uint64_t session_id(void *ctx)
{
    return ((struct node *)ctx)->session;
}

static uint64_t session_valid_until_ns(void *ctx)
{
    struct node *node = ctx;
    return node->session ? store_session_valid_until_ns(node->host.store) : 0;
}

/* What members.c does, without its watches. */
static bool session_begin(struct node *node)
{
    char key[KEY_BYTES_MAX];
    uint64_t id = env_random_u64();
    node->session = 0;
    if (store_session_start(node->host.store, TTL_NS) < 0)
        return false;
    struct store_op op = {STORE_PUT, key_session(id, key), "{}", 2, true};
    if (store_txn(node->host.store, NULL, 0, &op, 1, NULL) < 0)
        return false;
    node->session = id;
    return true;
}

static void session_keeper(void *arg)
{
    struct node *node = arg;
    for (;;) {
        env_sleep_ns(100 * MS);
        if (node->session && store_session_valid_until_ns(node->host.store) != 0)
            continue;
        if (!session_begin(node))
            continue;
        env_sleep_ns(env_random_u64() % 4 ? 0 : 700 * MS); /* a slow start of the renewals */
        volumes_session_renewed(node->volumes);
    }
}

static void inbox_fired(struct env_timer *timer);

static void node_run(void *arg)
{
    struct node *node = arg;
    disk_list_init(&node->disk_list);
    for (unsigned i = 0; i < DISKS; i++) {
        sim_proxy_init(&node->disks[i], &node->link, world.targets[i]);
        disk_list_add(&node->disk_list, &node->disks[i].disk);
    }
    memory_budget_init(&node->budget, MEMORY_BLOCKS_MIN, MEMORY_IO_MIN);
    node->host = (struct volume_host){.store = store_mem_open(world.store),
        .cluster = cluster,
        .node_name = node->name,
        .lease = {session_id, session_valid_until_ns, node},
        .disks = &node->disk_list,
        .budget = &node->budget,
        .row_blocks_max = ROW_BLOCKS,
        .log_bytes_max = 1 << 20,
        .map_cache = map_cache_new(64 * 1024),
        .bypass_bytes_min = 12 * BLOCK_BYTES};
    while (!session_begin(node))
        env_sleep_ns(100 * MS);
    struct volumes_options options = {0};
    node->volumes = volumes_new(&node->host, &options);
    env_timer_init(&node->inbox_timer, inbox_fired);
    fiber_spawn("session", session_keeper, node);
    node->up = true;
}

static int execute(struct node *node, struct mail *mail, struct volume *volume)
{
    uint64_t off = (uint64_t)mail->block * BLOCK_BYTES, len = (uint64_t)mail->count * BLOCK_BYTES;
    if (mail->what == ATTACH) {
        mail->epoch = volume_epoch(volume);
        return 0;
    }
    if (volume_epoch(volume) != mail->epoch)
        return -ESHUTDOWN;
    switch (mail->what) {
    case WRITE: /* a part of a block has to be read before it gets its place */
        return volume_write(volume, off, world.mood == GIVE_UP && mail->count == 1 ? 512 : len,
            mail->buf, 0, mail->id);
    case TRIM:
        return volume_trim(volume, off, len, 0, mail->id);
    case READ:
        return volume_read(volume, off, len, mail->buf);
    default:
        return 0;
    }
}

static void mail_run(void *arg)
{
    struct mail *mail = arg;
    struct node *node = mail->node;
    struct volume *volume;
    struct volume_owner owner;
    char *error = NULL;
    int r = volumes_acquire(node->volumes, NULL, world.volume_id, &volume, &owner, &error);
    snprintf(mail->error, sizeof(mail->error), "%s", error ? error : "");
    mem_free(error);
    if (r == 0) {
        world.takeovers = MAX(world.takeovers, volume_epoch(volume));
        r = execute(node, mail, volume);
        world.noops += (unsigned)volume_stats(volume)->read_noops;
        volumes_put(node->volumes, volume);
    }
    mail->result = r;
    mail->answered = true;
    if (mail->client)
        fiber_wake(mail->client);
}

/* By a timer of the node: a paused one takes its mail when it goes on. */
static void inbox_fired(struct env_timer *timer)
{
    struct node *node = container_of(timer, struct node, inbox_timer);
    while (node->inbox) {
        struct mail *mail = node->inbox;
        node->inbox = mail->next;
        fiber_spawn("request", mail_run, mail);
    }
}

static void node_crash(struct node *node)
{
    if (!node->up)
        return;
    sim_link_client_crashed(&node->link);
    store_mem_env_crashed(world.store, node->env);
    sim_node_crash(node->env);
    node->up = false;
    node->inbox = NULL;
}

/* --- Clients ----------------------------------------------------------------------------------- */

static struct mail *mail_new(void)
{
    struct mail *mail = calloc(1, sizeof(*mail));
    mail->buf = aligned_alloc(BLOCK_BYTES, COLD * BLOCK_BYTES);
    mail->next_all = world.mails;
    world.mails = mail;
    return mail;
}

static void mail_timeout(struct env_timer *timer);

struct patience {
    struct env_timer timer;
    struct fiber *fiber;
    bool over;
};

static void mail_timeout(struct env_timer *timer)
{
    struct patience *patience = container_of(timer, struct patience, timer);
    patience->over = true;
    fiber_wake(patience->fiber);
}

/* Whether there was an answer in time. */
static bool mail_send(struct mail *mail, struct node *node, uint64_t timeout_ns)
{
    struct patience patience = {.fiber = fiber_self()};
    env_timer_init(&patience.timer, mail_timeout);
    env_timer_arm(&patience.timer, env_now_ns() + timeout_ns);
    mail->node = node;
    mail->client = fiber_self();
    mail->next = node->inbox;
    node->inbox = mail;
    env_timer_arm(&node->inbox_timer, 1);
    while (!mail->answered && !patience.over)
        fiber_suspend();
    mail->client = NULL;
    env_timer_cancel(&patience.timer);
    return mail->answered;
}

/* Sends the request, to one node or the other, until one has done it; under one id. Every attempt has
 * a copy of its own, since a late one may still run. NULL: given up. */
static struct mail *until_done(struct mail *request, unsigned *node_now, bool *may_give_up)
{
    for (;;) {
        struct node *node = &world.nodes[*node_now];
        if (node->up) {
            struct mail *mail = mail_new();
            mail->what = request->epoch ? request->what : ATTACH;
            mail->epoch = request->epoch;
            mail->block = request->block;
            mail->count = request->count;
            mail->id = request->id;
            memcpy(mail->buf, request->buf, COLD * BLOCK_BYTES);
            uint64_t patience_ms =
                rng_between(&world.rng, 50, world.mood == RESEND && request->epoch ? 300 : 3000);
            bool answered = mail_send(mail, node, patience_ms * MS);
            if (answered && mail->result == 0 && mail->what != ATTACH)
                return mail;
            if (!answered && may_give_up &&
                rng_below(&world.rng, world.mood == GIVE_UP ? 1 : 3) == 0) {
                *may_give_up = true;
                world.gave_up++;
                return NULL;
            }
            request->epoch = answered && mail->result == 0 ? mail->epoch : 0;
            if (request->epoch)
                continue;
            CHECK_MSG(!answered || mail->result == -ESHUTDOWN || mail->result == -EBUSY ||
                          mail->result == -EHOSTUNREACH || mail->result == -ETIMEDOUT ||
                          mail->result == -EAGAIN || mail->result == -ECANCELED,
                "%s answers %s (%s)", node->name, strerror(-mail->result), mail->error);
        }
        /* Now and then others write meanwhile what it may have written already. */
        bool at_once = world.mood != RESEND && rng_below(&world.rng, 3);
        env_sleep_ns(rng_between(&world.rng, 1, at_once ? 100 : 4000) * MS);
        if (rng_below(&world.rng, 3) > 0)
            *node_now = (unsigned)rng_below(&world.rng, NODES);
    }
}

static struct history_op *history_begin(unsigned block, bool write, uint32_t value)
{
    struct history *h = &world.histories[block];
    CHECK(h->count < HISTORY_OPS_MAX);
    struct history_op *op = &h->ops[h->count++];
    *op = (struct history_op){
        .begin = ++world.clock, .end = UINT64_MAX, .write = write, .value = value};
    return op;
}

/* False: it was given up. */
static bool hot_op(struct mail *request, unsigned *node, bool *may_give_up)
{
    unsigned block = (unsigned)rng_below(&world.rng, world.mood == RESEND ? 2 : HOT);
    unsigned count = rng_below(&world.rng, 4) == 0 ? HOT - block : 1;
    uint64_t draw = rng_below(&world.rng, 100);
    request->what = draw < 50 ? READ : draw < 92 ? WRITE : TRIM;
    if (request->what == READ)
        count = 1;
    for (unsigned i = 0; i < count; i++) {
        if (world.histories[block + i].count == HISTORY_OPS_MAX)
            return true;
    }
    request->block = block;
    request->count = count;
    memset(request->buf, 0, HOT * BLOCK_BYTES);
    struct history_op *ops[HOT];
    for (unsigned i = 0; i < count; i++) {
        uint32_t value = request->what == WRITE ? ++world.value_last : 0;
        memcpy(request->buf + i * BLOCK_BYTES, &value, sizeof(value));
        ops[i] = history_begin(block + i, request->what != READ, value);
    }
    request->id.given_up = may_give_up;
    struct mail *done = until_done(request, node, request->what == READ ? NULL : may_give_up);
    request->id.given_up = NULL;
    uint64_t end = ++world.clock;
    for (unsigned i = 0; i < count; i++) {
        ops[i]->end = end;
        ops[i]->given_up = !done;
        if (request->what == READ)
            memcpy(&ops[i]->value, done->buf, sizeof(uint32_t));
    }
    return done;
}

static void cold_op(struct mail *request, unsigned *node)
{
    request->what = WRITE;
    request->count = (unsigned)rng_between(&world.rng, 4, 32);
    request->block = HOT + (unsigned)rng_below(&world.rng, COLD - request->count);
    until_done(request, node, NULL);
}

static void client_run(void *arg)
{
    unsigned self = (unsigned)(uintptr_t)arg, node = self % NODES;
    uint64_t session = 100 + self;
    bool gave_up = false;
    struct mail *request = mail_new();
    memset(request->buf, 0, COLD * BLOCK_BYTES);
    for (uint64_t i = 1; i <= OPS; i++) {
        request->id = (struct request_id){.session = session, .number = i, .answered_below = i};
        if (rng_below(&world.rng, 100) < (world.mood == RESEND ? 90 : 60) || gave_up) {
            gave_up = !hot_op(request, &node, &world.given_up[self][i]);
            session += gave_up ? CLIENTS : 0;
            if (gave_up)
                continue; /* with the same, mostly */
        } else {
            cold_op(request, &node);
        }
        if (rng_below(&world.rng, 3) == 0) {
            node = (unsigned)rng_below(&world.rng, NODES);
            request->epoch = 0;
        }
        env_sleep_ns(rng_below(&world.rng, rng_below(&world.rng, 4) ? 20 : 3000) * MS);
    }
    world.clients_left--;
}

/* --- What goes wrong --------------------------------------------------------------------------- */

static void heal(void)
{
    store_mem_set_fault(world.store, 0, 0);
    for (unsigned i = 0; i < NODES; i++) {
        struct node *node = &world.nodes[i];
        node->link.cut = false;
        node->link.delay_ns = 50000;
        if (!node->up && !sim_node_is_up(node->env))
            sim_node_start(node->env, "node", node_run, node);
    }
}

static void hand_over_run(void *arg)
{
    struct node *node = arg, *other = &world.nodes[node == &world.nodes[0]];
    char *error = NULL;
    uint64_t pause_ns;
    int r = volumes_handoff(node->volumes, world.volume_id, 0, other->name, &pause_ns, &error);
    world.hand_overs += r == 0;
    mem_free(error);
}

static void trouble(void)
{
    struct node *node = &world.nodes[rng_below(&world.rng, NODES)];
    bool move = world.mood == RESEND && rng_below(&world.rng, 3) > 0;
    static const unsigned moves[] = {0, 2, 2, 2, 4, 11}; /* mostly at the cost of a replay */
    switch (move ? moves[rng_below(&world.rng, ARRAY_SIZE(moves))] : rng_below(&world.rng, 12)) {
    case 0:
    case 1: /* a zombie in the making */
        sim_node_pause(node->env, rng_between(&world.rng, 100, 6000) * MS);
        break;
    case 2:
        if (rng_below(&world.rng, 2))
            node_crash(node);
        break;
    case 3:
        node->link.cut = true;
        break;
    case 4: /* what it sent arrives late: after the next owner has begun, too */
        node->link.delay_ns = rng_between(&world.rng, 1, 800) * MS;
        break;
    case 5:
        store_mem_set_fault(world.store, -ETIMEDOUT, rng_below(&world.rng, 300) * MS);
        break;
    case 6:
        store_mem_set_fault(world.store, -EHOSTUNREACH, rng_below(&world.rng, 10) * MS);
        break;
    case 7:
        sim_clock_drift(node->env, (int32_t)rng_below(&world.rng, 200000) - 100000);
        break;
    case 8:
        sim_clock_jump_boottime(node->env, rng_below(&world.rng, 5000) * MS);
        break;
    default:
        if (node->up)
            fiber_spawn_on(node->env, "hand over", hand_over_run, node);
        break;
    }
}

static void trouble_run(void *arg)
{
    while (world.clients_left > 0) {
        env_sleep_ns(rng_between(&world.rng, 50, 900) * MS);
        if (rng_below(&world.rng, 4) == 0)
            heal();
        else
            trouble();
    }
    heal();
}

/* --- The round --------------------------------------------------------------------------------- */

static void disks_run(void *arg)
{
    char *error = NULL;
    struct uuid uuid;
    for (unsigned i = 0; i < DISKS; i++) {
        char path[32];
        snprintf(path, sizeof(path), "/disk%u", i);
        CHECK(local_disk_format(path, 0, cluster, cluster, "ssd", true, &uuid, &error) == 0);
        struct local_disk_options options = {.trailer_cache_bytes = 64 * 1024};
        int r = local_disk_open(path, cluster, &options, &world.targets[i], &error);
        CHECK_MSG(r == 0, "%s", error);
        world.targets[i]->number = i + 1;
    }
    char key[KEY_BYTES_MAX];
    struct store *store = store_mem_open(world.store);
    struct pool pool = {.name = "pool", .code = {2, 1}, .shards_min = 3, .log_copies_min = 2};
    CLEANUP_FREE char *text = pool_encode(&pool, NULL);
    struct store_op op = {
        .type = STORE_PUT, .key = key_pool("pool", key), .data = text, .len_bytes = strlen(text)};
    CHECK(store_txn(store, NULL, 0, &op, 1, NULL) == 0);
    struct volume_host host = {.store = store};
    int r =
        volume_create(&host, "vol", (HOT + COLD) * BLOCK_BYTES, "pool", &world.volume_id, &error);
    CHECK_MSG(r == 0, "create: %s", error);
    for (unsigned i = 0; i < NODES; i++)
        fiber_spawn("link", sim_link_serve, &world.nodes[i].link);
}

static bool clients_done(void *ctx)
{
    return world.clients_left == 0 && world.over;
}

/* After all trouble: what is there now, block by block, belongs to the history too. */
static void last_look(void *arg)
{
    struct mail *request = mail_new();
    unsigned node = 0;
    env_sleep_ns(10 * SECOND);
    for (unsigned b = 0; b < HOT; b++) {
        struct history *h = &world.histories[b];
        if (h->count == HISTORY_OPS_MAX)
            continue;
        struct history_op *op = history_begin(b, false, 0);
        request->what = READ;
        request->block = b;
        request->count = 1;
        memcpy(&op->value, until_done(request, &node, NULL)->buf, sizeof(uint32_t));
        op->end = ++world.clock;
    }
    world.over = true;
}

static void judge(uint64_t seed)
{
    for (unsigned b = 0; b < HOT; b++) {
        const struct history *h = &world.histories[b];
        if (history_is_linearizable(h))
            continue;
        for (unsigned i = 0; i < h->count; i++)
            fprintf(stderr, "  %4llu..%-4lld %s %u\n", (unsigned long long)h->ops[i].begin,
                (long long)h->ops[i].end, h->ops[i].write ? "write" : "read ", h->ops[i].value);
        CHECK_MSG(false, "seed %llu: the history of block %u is not linearizable",
            (unsigned long long)seed, b);
    }
}

static void world_init(uint64_t seed)
{
    static const char *const names[NODES] = {"a", "b"};
    world = (struct world){
        .rng = rng_fork(seed, "world"), .clients_left = CLIENTS, .mood = (enum mood)(seed % MOODS)};
    world.sim = sim_new(&(struct sim_options){.seed = seed, .trace = sim_check_trace()});
    world.outside = sim_node_new(world.sim, "outside");
    world.disk_node = sim_node_new(world.sim, "disks");
    world.store = store_mem_new();
    store_mem_set_clock(world.store, world_now_ns);
    for (unsigned i = 0; i < DISKS; i++) {
        char path[32];
        snprintf(path, sizeof(path), "/disk%u", i);
        sim_disk_new(world.disk_node, path, DISK_BYTES);
    }
    for (unsigned i = 0; i < NODES; i++) {
        struct node *node = &world.nodes[i];
        node->name = names[i];
        node->env = sim_node_new(world.sim, names[i]);
        sim_link_init(&node->link, node->env, world.disk_node);
    }
}

static void world_fini(void)
{
    for (unsigned i = 0; i < NODES; i++)
        sim_link_fini(&world.nodes[i].link);
    sim_free(world.sim);
    store_mem_free(world.store);
    while (world.mails) {
        struct mail *mail = world.mails;
        world.mails = mail->next_all;
        free(mail->buf);
        free(mail);
    }
}

static void round_of(uint64_t seed)
{
    world_init(seed);
    CHECK(sim_do(world.disk_node, "disks", disks_run, NULL));
    for (unsigned i = 0; i < NODES; i++)
        CHECK(sim_do(world.nodes[i].env, "node", node_run, &world.nodes[i]));
    for (unsigned i = 0; i < CLIENTS; i++)
        sim_node_start(world.outside, "client", client_run, (void *)(uintptr_t)i);
    sim_node_start(world.outside, "trouble", trouble_run, NULL);
    enum sim_result r = SIM_UNTIL;
    for (unsigned i = 0; i < 40 && world.clients_left > 0; i++)
        r = sim_run_for(world.sim, 60 * SECOND);
    CHECK_MSG(world.clients_left == 0, "clients hang (%d)", r);
    sim_node_start(world.outside, "last look", last_look, NULL);
    r = sim_run(world.sim, clients_done, NULL, sim_now_ns(world.sim) + 600 * SECOND);
    CHECK_MSG(r == SIM_UNTIL, "the last look hangs (%d)", r);
    if (getenv("SIM_LOG"))
        fprintf(stderr, "seed %llu: epoch %u, %u handed over, no-ops %u, given up %u\n",
            (unsigned long long)seed, world.takeovers, world.hand_overs, world.noops,
            world.gave_up);
    world_fini();
    judge(seed);
}

/* What could not be reached while a volume was opened made it fail with -EIO: the directory of a row,
 * then every copy of a log at its seal. And a deposed owner's write of a part of a block, the rest of which its
 * successor had moved. */
static const uint64_t seeds_kept[] = {30121546714447995, 30121550925529297, 30121850382057494};

int main(int argc, char **argv)
{
    log_set_level(getenv("SIM_LOG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
    return sim_check_main(argc, argv,
        &(struct sim_check){.round = round_of,
            .rounds = 12,
            .seeds_kept = seeds_kept,
            .seeds_kept_count = ARRAY_SIZE(seeds_kept)});
}
