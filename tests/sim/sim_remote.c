/* SPDX-License-Identifier: Apache-2.0
 *
 * Shards on a disk of another node while connections break, links are cut, the server's process dies,
 * its machine loses power, its disk stalls. What the owner was told holds:
 *
 *  - an append answered 0 is there, with these bytes, as long as the machine has power; what a sync or
 *    a DSYNC append was answered 0 for is there ever after (D1);
 *  - an append answered -EHOSTUNREACH succeeds when it is made again (S8), until the machine's boot
 *    changes, from then on it is -EREMOTEIO (S5);
 *  - a fence answered 0 refuses lower epochs for ever (D6), a seal and a remove stay done;
 *  - every error is one that shard.h knows for what happened;
 *  - once another node's fence is answered with a length, nothing that the fenced owner is or ever was
 *    told to be there lies beyond it (S8, S12), though it goes on appending over its own connection.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "tests/lib/remote_world.h"
#include "tests/sim/sim_check.h"
#include "tests/unit/disk_blocks.h"

#define MS 1000000ull

enum {
    OWNERS = 4,
    LIVES = 3, /* shards that an owner makes, one after the other */
    BURST_MAX = 5,
    STEPS_MAX = 14,
    ENTRIES_MAX = 24,
    ZOMBIE_BLOCKS = 1800,
    BURST_BYTES = ENTRIES_MAX * BLOCK_BYTES,
    DISK_BYTES = 96 << 20,
};

static struct remote_world w;
static unsigned owners_left;
static unsigned power_cuts;
static bool no_faults;

/* --- An owner and what it knows of its shard --------------------------------------------------- */

struct burst_append {
    struct shard_append append;
    struct owner *owner;
    struct iovec iov;
    struct shard_entry entries[ENTRIES_MAX];
    uint8_t *payload;
    bool answered;
};

struct owner {
    struct rng rng;
    uint64_t volume, chunk;
    struct shard_key key;
    enum shard_kind kind;
    uint32_t epoch;
    uint32_t acked_blocks, durable_blocks;
    unsigned cuts_seen; /* power cuts before the shard was made */
    bool deposable;     /* another node fences it: -ESTALE is an answer */
    unsigned in_flight;
    struct fiber *fiber;
    struct burst_append burst[BURST_MAX];
};

static bool boot_changed(const struct owner *o)
{
    return power_cuts != o->cuts_seen;
}

/* Tells an answer apart from "not reached"; waits a little after that. */
MAY_SUSPEND static bool reached(int r)
{
    if (r != -EHOSTUNREACH)
        return true;
    CHECK_MSG(!no_faults, "unreachable without a fault");
    env_sleep_ns(5 * MS);
    return false;
}

#define UNTIL_REACHED(r, call) \
    do                         \
        r = (call);            \
    while (!reached(r))

/* --- Appends ----------------------------------------------------------------------------------- */

static void burst_done(struct shard_append *append)
{
    struct burst_append *b = container_of(append, struct burst_append, append);
    CHECK(!b->answered);
    b->answered = true;
    if (--b->owner->in_flight == 0)
        fiber_wake(b->owner->fiber);
}

static void burst_fill(struct owner *o, struct burst_append *b, uint32_t off)
{
    unsigned count = (unsigned)rng_below(&o->rng, ENTRIES_MAX + 1);
    for (unsigned i = 0; i < count; i++) {
        uint8_t *block = b->payload + i * BLOCK_BYTES;
        fill_block(block, o->key, off + 1 + i, 0);
        b->entries[i] = (struct shard_entry){
            .address = off + i, .crc = crc32c(0, block, BLOCK_BYTES), .aux = i};
    }
    b->owner = o;
    b->iov = (struct iovec){b->payload, count * BLOCK_BYTES};
    b->append = (struct shard_append){
        .disk = w.disk,
        .key = o->key,
        .epoch = o->epoch,
        .off_blocks = off,
        .base_seq = off,
        .entries = b->entries,
        .entry_count = count,
        .inline_bytes = "simulated",
        .inline_len_bytes = (unsigned)rng_below(&o->rng, 10),
        .payload = &b->iov,
        .payload_count = count > 0 ? 1 : 0,
        .flags = rng_below(&o->rng, 3) == 0 ? SHARD_APPEND_DSYNC : 0,
        .done = burst_done,
    };
}

MAY_SUSPEND static void burst_submit(struct owner *o, unsigned first, unsigned count)
{
    o->fiber = fiber_self();
    o->in_flight = count - first;
    for (unsigned i = first; i < count; i++) {
        o->burst[i].answered = false;
        shard_append_submit(&o->burst[i].append);
        CHECK(!o->burst[i].answered);
    }
    while (o->in_flight > 0)
        fiber_suspend();
}

/* Takes over the answers from `first` on: how many appends are acknowledged now. -EREMOTEIO, -ESTALE
 * at the end of the shard's life. */
static int burst_answers(struct owner *o, unsigned first, unsigned count)
{
    bool lost = false; /* an earlier one was not reached: the later ones have no place */
    unsigned done = first;
    for (unsigned i = first; i < count; i++) {
        const struct shard_append *append = &o->burst[i].append;
        if ((append->result == -EREMOTEIO && boot_changed(o)) ||
            (append->result == -ESTALE && o->deposable))
            return append->result;
        CHECK_MSG(append->result == 0 || append->result == -EHOSTUNREACH ||
                      (lost && append->result == -ERANGE),
            "append at %u: %s", append->off_blocks, strerror(-append->result));
        lost |= append->result == -EHOSTUNREACH;
        /* Devices complete in any order: what is answered behind a gap is not there yet. */
        if (append->result != 0 || done != i)
            continue;
        o->acked_blocks = append->off_blocks + 1 + append->entry_count;
        if ((append->flags & SHARD_APPEND_DSYNC) != 0 && o->durable_blocks == append->off_blocks)
            o->durable_blocks = o->acked_blocks;
        done++;
    }
    CHECK_MSG(!lost || !no_faults, "unreachable without a fault");
    return (int)done;
}

/* Appends in flight together; those not reached are made again, the same, in order, to the end. */
MAY_SUSPEND static int do_appends(struct owner *o)
{
    unsigned count = 1 + (unsigned)rng_below(&o->rng, BURST_MAX);
    uint32_t off = o->acked_blocks;
    for (unsigned i = 0; i < count; i++) {
        burst_fill(o, &o->burst[i], off);
        off += 1 + o->burst[i].append.entry_count;
    }
    for (unsigned first = 0; first < count;) {
        burst_submit(o, first, count);
        int r = burst_answers(o, first, count);
        if (r < 0)
            return r;
        first = (unsigned)r;
        if (first < count)
            env_sleep_ns(3 * MS);
    }
    CHECK(o->acked_blocks == off);
    return 0;
}

/* Other bytes where there are some: an offset has one content for ever (S8). */
MAY_SUSPEND static int do_wrong_append(struct owner *o)
{
    if (o->acked_blocks == 0)
        return 0;
    int r;
    UNTIL_REACHED(r, append_blocks(w.disk, o->key, o->epoch, 0, 3, 77, 0));
    if (r == -EREMOTEIO && boot_changed(o))
        return r;
    CHECK_MSG(r == -ERANGE, "another append at 0: %s", strerror(-r));
    return 0;
}

/* --- The other operations ---------------------------------------------------------------------- */

MAY_SUSPEND static int do_sync(struct owner *o)
{
    uint32_t length = o->acked_blocks;
    int r;
    UNTIL_REACHED(r, shard_sync(w.disk, o->key, o->epoch, length));
    if (r == -EREMOTEIO && boot_changed(o))
        return r;
    CHECK_MSG(r == 0, "sync: %s", strerror(-r));
    o->durable_blocks = MAX(o->durable_blocks, length);
    return 0;
}

/* What must be there now. */
static uint32_t kept_blocks(const struct owner *o)
{
    return boot_changed(o) ? o->durable_blocks : o->acked_blocks;
}

MAY_SUSPEND static void do_read(struct owner *o)
{
    uint32_t end = kept_blocks(o);
    if (end == 0)
        return;
    uint32_t off = (uint32_t)rng_below(&o->rng, end);
    uint32_t count = 1 + (uint32_t)rng_below(&o->rng, end - off);
    int r;
    do {
        if (off + count > kept_blocks(o))
            return; /* the power went meanwhile */
        r = read_and_compare(w.disk, o->key, off, count, 0);
    } while (!reached(r));
    CHECK_MSG(r == 0 || (boot_changed(o) && off + count > o->durable_blocks),
        "read of [%u, +%u), acked %u, durable %u: %s", off, count, o->acked_blocks,
        o->durable_blocks, strerror(-r));
}

MAY_SUSPEND static void check_info(struct owner *o, const struct shard_info *info)
{
    CHECK(info->key.chunk == o->key.chunk && info->kind == o->kind);
    CHECK_MSG(info->length_blocks >= kept_blocks(o), "length %u, acked %u, durable %u",
        info->length_blocks, o->acked_blocks, o->durable_blocks);
    CHECK(info->suspect == false || boot_changed(o));
}

MAY_SUSPEND static void do_stat(struct owner *o)
{
    struct shard_info info;
    int r;
    UNTIL_REACHED(r, shard_stat(w.disk, o->key, &info));
    CHECK_MSG(r == 0, "stat: %s", strerror(-r));
    check_info(o, &info);
}

/* --- A shard's life ---------------------------------------------------------------------------- */

/* The next owner was here before the shard: its fence stays, whatever happens, and refuses the create
 * of the one before (S7). */
MAY_SUSPEND static void fence_absent(struct owner *o)
{
    struct shard_create create = create_of(o->key, o->kind, 900);
    int r;
    UNTIL_REACHED(r, shard_fence(w.disk, o->key, o->epoch + 1, NULL));
    CHECK_MSG(r == -ENOENT, "fence of no shard: %s", strerror(-r));
    env_sleep_ns(rng_below(&o->rng, 30) * MS);
    create.epoch = o->epoch;
    UNTIL_REACHED(r, shard_create(w.disk, &create, NULL));
    CHECK_MSG(r == -ESTALE, "create behind a fence: %s", strerror(-r));
    o->epoch++;
}

MAY_SUSPEND static void make(struct owner *o)
{
    o->key = key_of(o->volume, (uint64_t)o->epoch << 32 | o->chunk++, 0);
    o->kind = rng_below(&o->rng, 2) == 0 ? SHARD_LOG : SHARD_META;
    o->acked_blocks = o->durable_blocks = 0;
    if (rng_below(&o->rng, 4) == 0)
        fence_absent(o);
    o->cuts_seen = power_cuts;
    struct shard_create create = create_of(o->key, o->kind, 900);
    create.epoch = o->epoch;
    int r;
    UNTIL_REACHED(r, shard_create(w.disk, &create, NULL));
    CHECK_MSG(r == 0, "create: %s", strerror(-r));
    if (!boot_changed(o))
        return;
    /* Made before the cut or after it: only the disk knows whether it takes appends. */
    unsigned cuts;
    do {
        cuts = power_cuts;
        r = append_blocks(w.disk, o->key, o->epoch, 0, 0, 0, 0);
    } while (!reached(r));
    CHECK_MSG(r == 0 || r == -EREMOTEIO, "first append: %s", strerror(-r));
    if (r == 0) {
        o->cuts_seen = cuts;
        o->acked_blocks = 1;
    }
}

/* Until it has enough, or the machine's boot changes. */
MAY_SUSPEND static void fill(struct owner *o)
{
    unsigned steps = 1 + (unsigned)rng_below(&o->rng, STEPS_MAX);
    for (unsigned i = 0; i < steps && o->acked_blocks < 600; i++) {
        int r = 0;
        switch (rng_below(&o->rng, 8)) {
        case 0:
            do_read(o);
            break;
        case 1:
            r = do_sync(o);
            break;
        case 2:
            do_stat(o);
            break;
        case 3:
            r = do_wrong_append(o);
            break;
        default:
            r = do_appends(o);
            break;
        }
        if (r == -EREMOTEIO)
            return;
    }
}

/* The next owner: from its fence's answer on the old epoch is refused (D6), also by a restarted
 * server. */
MAY_SUSPEND static void fence(struct owner *o)
{
    struct shard_info info;
    uint32_t old = o->epoch;
    int r;
    o->epoch++;
    UNTIL_REACHED(r, shard_fence(w.disk, o->key, o->epoch, &info));
    CHECK_MSG(r == 0, "fence: %s", strerror(-r));
    CHECK(info.fence_epoch == o->epoch);
    check_info(o, &info);
    for (unsigned i = 0; i < 3; i++) {
        UNTIL_REACHED(r, append_blocks(w.disk, o->key, old, info.length_blocks, 1, 0, 0));
        CHECK_MSG(r == -ESTALE, "append behind a fence: %s", strerror(-r));
        UNTIL_REACHED(r, shard_fence(w.disk, o->key, old, NULL));
        CHECK_MSG(r == -ESTALE, "fence behind a fence: %s", strerror(-r));
        env_sleep_ns(rng_below(&o->rng, 30) * MS);
    }
}

MAY_SUSPEND static void seal(struct owner *o)
{
    struct shard_info info;
    int r;
    UNTIL_REACHED(r, shard_fence(w.disk, o->key, o->epoch, &info));
    CHECK_MSG(r == 0, "fence for the seal: %s", strerror(-r));
    do {
        r = shard_seal(w.disk, o->key, o->epoch, info.length_blocks);
        if (r == -ERANGE && boot_changed(o)) { /* the power took what was not durable */
            info.length_blocks = 0;
            r = -EHOSTUNREACH;
        }
    } while (!reached(r));
    CHECK_MSG(r == 0, "seal at %u: %s", info.length_blocks, strerror(-r));
    uint32_t length = info.length_blocks;
    UNTIL_REACHED(r, shard_stat(w.disk, o->key, &info));
    CHECK(r == 0 && info.sealed && info.length_blocks == length);
    UNTIL_REACHED(r, append_blocks(w.disk, o->key, o->epoch, length, 1, 0, 0));
    CHECK_MSG(r == -EROFS, "append to a sealed shard: %s", strerror(-r));
    o->acked_blocks = o->durable_blocks = MIN(length, o->acked_blocks);
}

MAY_SUSPEND static void throw_away(struct owner *o)
{
    struct shard_info info;
    int r;
    bool again = false;
    UNTIL_REACHED(r, shard_remove(w.disk, o->key, 987654321, o->epoch));
    CHECK_MSG(r == -ENOENT, "remove of another instance: %s", strerror(-r)); /* S9 */
    for (;;) {
        r = shard_remove(w.disk, o->key, 0, o->epoch);
        if (reached(r))
            break;
        again = true;
    }
    CHECK_MSG(r == 0 || (again && r == -ENOENT), "remove: %s", strerror(-r));
    UNTIL_REACHED(r, shard_stat(w.disk, o->key, &info));
    CHECK_MSG(r == -ENOENT, "stat of a removed shard: %s", strerror(-r));
}

static void burst_alloc(struct owner *o)
{
    for (unsigned i = 0; i < BURST_MAX; i++)
        o->burst[i].payload = mem_alloc_pages(BURST_BYTES);
}

static void burst_free(struct owner *o)
{
    for (unsigned i = 0; i < BURST_MAX; i++)
        mem_free_pages(o->burst[i].payload, BURST_BYTES);
}

static void owner_main(void *arg)
{
    struct owner *o = arg;
    burst_alloc(o);
    for (unsigned life = 0; life < LIVES; life++) {
        make(o);
        fill(o);
        if (rng_below(&o->rng, 2) == 0)
            fence(o);
        do_read(o);
        if (rng_below(&o->rng, 2) == 0) {
            seal(o);
            do_read(o);
        }
        if (rng_below(&o->rng, 2) == 0)
            throw_away(o);
    }
    burst_free(o);
    owners_left--;
}

/* --- An owner that is deposed ------------------------------------------------------------------ */

/* c appends until it is told that it is fenced; d fences it over a connection of its own. */
static struct zombie {
    struct owner owner;
    struct env *taker_node;
    struct peers *peers;
    struct disk *disk; /* as d sees it */
    bool made, fenced;
} zombie;

static void zombie_main(void *arg)
{
    struct owner *o = &zombie.owner;
    burst_alloc(o);
    o->key = key_of(1000, 1, 0);
    o->cuts_seen = power_cuts;
    struct shard_create create = create_of(o->key, SHARD_LOG, LOG_CAPACITY_BLOCKS_MAX / 8);
    int r;
    UNTIL_REACHED(r, shard_create(w.disk, &create, NULL));
    CHECK_MSG(r == 0, "create: %s", strerror(-r));
    zombie.made = true;
    for (r = 0; r == 0 && o->acked_blocks < ZOMBIE_BLOCKS;) {
        bool fenced = zombie.fenced;
        r = do_appends(o);
        CHECK_MSG(r != 0 || !fenced, "an append behind the fence was taken");
    }
    burst_free(o);
    owners_left--;
}

MAY_SUSPEND static void connect_taker(void)
{
    struct peers_options options = {.rpc = w.client_options};
    memset(&options.rpc.self.node, 13, sizeof(options.rpc.self.node));
    strcpy(options.rpc.self.node_name, "d");
    struct node_record node = {.name = "s"};
    memset(&node.uuid, 5, sizeof(node.uuid));
    snprintf(node.address, sizeof(node.address), "tcp:%s:7000", sim_node_address(w.server_node));
    zombie.peers = peers_new(&options);
    peers_set(zombie.peers, &node);
    struct remote_disk_options disk_options = {.timeout_ns = w.timeout_ns};
    zombie.disk = remote_disk_new(peers_find(zombie.peers, "s"), &w.record, &disk_options);
}

static void taker_main(void *arg)
{
    struct owner *o = &zombie.owner;
    struct shard_info info;
    unsigned cuts;
    int r;
    connect_taker();
    while (!zombie.made)
        env_sleep_ns(MS);
    env_sleep_ns(rng_below(sim_rng(w.sim), 300) * MS);
    do {
        cuts = power_cuts;
        r = shard_fence(zombie.disk, o->key, 2, &info);
        if (r == -EHOSTUNREACH)
            env_sleep_ns(5 * MS);
    } while (r == -EHOSTUNREACH);
    CHECK_MSG(r == 0, "fence: %s", strerror(-r));
    zombie.fenced = true;
    env_sleep_ns(100 * MS);
    do {
        r = read_and_compare(zombie.disk, o->key, 0, MAX(info.length_blocks, 1u), 0);
        if (r == -EHOSTUNREACH)
            env_sleep_ns(5 * MS);
    } while (r == -EHOSTUNREACH);
    if (power_cuts == cuts) {
        CHECK_MSG(r == (info.length_blocks > 0 ? 0 : -ERANGE), "read of %u: %s", info.length_blocks,
            strerror(-r));
        CHECK_MSG(o->acked_blocks <= info.length_blocks || boot_changed(o), "acked %u, taken %u",
            o->acked_blocks, info.length_blocks);
    }
    owners_left--;
}

/* --- What goes wrong --------------------------------------------------------------------------- */

static bool all_done(void *ctx)
{
    return owners_left == 0;
}

static void disk_stalls(struct rng *rng)
{
    struct sim_fault fault = {.ops = SIM_OP_WRITE | SIM_OP_READ | SIM_OP_SYNC,
        .kind = SIM_FAULT_DELAY,
        .times = 1 + rng_below(rng, 5),
        .delay_ns = rng_below(rng, 400) * MS};
    sim_disk_fault(w.medium, &fault);
}

static void link_cut(struct rng *rng)
{
    struct env *from = rng_below(rng, 2) == 0 ? w.client_node : w.server_node;
    struct env *to = from == w.client_node ? w.server_node : w.client_node;
    sim_net_cut(from, to, true);
    if (rng_below(rng, 3) == 0)
        sim_net_cut(to, from, true);
    sim_run(w.sim, all_done, NULL, sim_now_ns(w.sim) + rng_below(rng, 900) * MS);
    sim_net_heal_all(w.sim);
}

static void server_restarts(struct rng *rng)
{
    remote_world_crash_server(&w);
    sim_run(w.sim, all_done, NULL, sim_now_ns(w.sim) + rng_below(rng, 100) * MS);
    remote_world_start_server(&w);
}

static void power_goes(struct rng *rng)
{
    power_cuts++;
    remote_world_cut_power(&w, SIM_CUT_RANDOM);
    sim_run(w.sim, all_done, NULL, sim_now_ns(w.sim) + rng_below(rng, 100) * MS);
    remote_world_start_server(&w);
    if (rng_below(rng, 2) != 0)
        return;
    sim_run(w.sim, all_done, NULL, sim_now_ns(w.sim) + rng_below(rng, 100) * MS);
    server_restarts(rng); /* suspect is suspect still (S6) */
}

static void something_happens(struct rng *rng, bool power)
{
    struct env *from = rng_below(rng, 3) == 0 ? zombie.taker_node : w.client_node;
    switch (rng_below(rng, power ? 10 : 6)) {
    case 0:
    case 1:
        sim_net_reset(from, w.server_node);
        break;
    case 2:
        link_cut(rng);
        break;
    case 3:
        server_restarts(rng);
        break;
    case 4:
        disk_stalls(rng);
        break;
    case 5:
        sim_node_pause(w.server_node, rng_below(rng, 900) * MS);
        break;
    default:
        power_goes(rng);
        break;
    }
}

/* --- A round ----------------------------------------------------------------------------------- */

static void connect_client(void *arg)
{
    remote_world_connect(&w);
}

static void round_of(uint64_t seed)
{
    static struct owner owners[OWNERS];
    struct rng rng = rng_fork(seed, "faults");
    remote_world_init(&w, seed, DISK_BYTES, sim_check_trace());
    w.timeout_ns = rng_below(&rng, 2) == 0 ? 150 * MS : 2000 * MS;
    power_cuts = 0;
    remote_world_start_server(&w);
    CHECK(sim_do(w.client_node, "connect", connect_client, NULL));
    struct sim_disk_latency latency = {
        .read_ns = MS / 5, .write_ns = MS / 2, .sync_ns = 2 * MS, .jitter_ns = MS};
    sim_disk_set_latency(w.medium, &latency);
    no_faults = seed % 16 == 0;
    bool power = rng_below(&rng, 3) == 0;
    owners_left = OWNERS;
    for (unsigned i = 0; i < OWNERS; i++) {
        owners[i] = (struct owner){
            .rng = rng_fork(seed + i * 1000003, "owner"), .volume = i + 1, .epoch = 1, .chunk = 1};
        sim_node_start(w.client_node, "owner", owner_main, &owners[i]);
    }
    owners_left += 2;
    zombie =
        (struct zombie){.owner = {.rng = rng_fork(seed, "zombie"), .epoch = 1, .deposable = true},
            .taker_node = sim_node_new(w.sim, "d")};
    sim_node_start(w.client_node, "zombie", zombie_main, NULL);
    sim_node_start(zombie.taker_node, "taker", taker_main, NULL);
    for (unsigned faults = 0; owners_left > 0 && faults < 60; faults++) {
        sim_run(w.sim, all_done, NULL, sim_now_ns(w.sim) + rng_below(&rng, 120) * MS);
        if (!no_faults && owners_left > 0)
            something_happens(&rng, power);
    }
    sim_disk_clear_faults(w.medium);
    uint64_t deadline_ns = sim_now_ns(w.sim) + 600000 * MS;
    CHECK_MSG(
        sim_run(w.sim, all_done, NULL, deadline_ns) == SIM_UNTIL, "owners do not come to an end");
    remote_world_fini(&w);
}

int main(int argc, char **argv)
{
    static const struct sim_check check = {.round = round_of, .rounds = 160};
    log_set_level(LOG_LEVEL_ERROR);
    return sim_check_main(argc, argv, &check);
}
