/* SPDX-License-Identifier: Apache-2.0
 *
 * Disks are carried from node to node (their labels change) while a volume is written and its process is killed or loses
 * its power: Q7. While a shard is moved nothing that was promised is lost; in the end health says "ok" only when each
 * shard is in a node of its own, and then what the disks of any m nodes hold is not missed.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/volume/volume_impl.h"
#include "common/log.h"
#include "tests/sim/one_node.h"

#define MS 1000000ull
#define SEC 1000000000ull

enum { DISKS = 8, NODES_MAX = 6, WRITERS = 3 };

static struct world {
    struct one_node node; /* first */
    unsigned nodes;
    unsigned node_of[DISKS + 1]; /* by disk number */
} world;

static unsigned draw(unsigned below)
{
    return (unsigned)rng_below(&world.node.rng, below);
}

static void label_disks(void)
{
    list_for_each (it, &world.node.disks.all) {
        struct disk *disk = list_entry(it, struct disk, link);
        snprintf(disk->node, sizeof(disk->node), "n%u", world.node_of[disk->number]);
    }
}

static void open_labelled(void)
{
    struct one_node *n = &world.node;
    char *error = NULL;
    one_node_start(n);
    label_disks();
    int r = volume_open(&n->host, n->volume_id, &n->volume, &error);
    CHECK_MSG(r == 0, "open: %s", error);
}

static void writer(void *arg)
{
    struct one_node *n = &world.node;
    for (;;) {
        uint32_t count = 1 + draw(rng_one_in(&n->rng, 4) ? ONE_NODE_WRITE_BLOCKS_MAX : 8);
        if (!one_node_write(n, draw(ONE_NODE_BLOCKS - count), count))
            return;
        if (rng_one_in(&n->rng, 8))
            one_node_flush(n);
        env_sleep_ns(rng_below(&n->rng, 30 * MS));
    }
}

static void life(void *arg)
{
    struct one_node *n = arg;
    open_labelled();
    one_node_verify(n);
    for (unsigned i = 0; i < WRITERS; i++)
        fiber_spawn("writer", writer, NULL);
    for (unsigned i = 0, carried = 1 + draw(6); i < carried; i++) {
        env_sleep_ns(rng_below(&n->rng, rng_one_in(&n->rng, 2) ? 20 * MS : 3 * SEC));
        world.node_of[1 + draw(DISKS)] = draw(world.nodes);
        label_disks();
        volume_disk_changed(n->volume);
    }
    env_sleep_ns(rng_below(&n->rng, rng_one_in(&n->rng, 2) ? 20 * MS : SEC));
}

static void check_apart(const struct shard_place *places, unsigned count, const char *what)
{
    for (unsigned i = 0; i < count; i++)
        for (unsigned j = 0; j < i; j++)
            CHECK_MSG(world.node_of[places[i].disk] != world.node_of[places[j].disk],
                "'ok', and disks %u and %u, with a %s, are in one node", places[i].disk,
                places[j].disk, what);
}

static void check_all_apart(const struct volume *v)
{
    struct shard_place places[CODE_SHARDS_MAX];
    uint32_t pos = 0;
    for (const struct place *p; (p = idmap_next(&v->state.places, &pos));) {
        for (unsigned i = 0; i < place_shards(p); i++)
            places[i] = p->shards[i].place;
        check_apart(places, place_shards(p), "chunk");
    }
    list_for_each (it, &v->state.wals) {
        const struct wal *wal = list_entry(it, struct wal, link);
        for (unsigned i = 0; i < wal->copies; i++)
            places[i] = wal->shards[i].place;
        if (wal == v->wal_open || wal->last_seq > v->state.committed_seq)
            check_apart(places, wal->copies, "log");
    }
    for (unsigned n = 0; n < v->manifest.chain_count; n++)
        check_apart(v->manifest.chain[n].places, v->manifest.chain[n].count, "manifest");
}

static void get_whole(void *arg)
{
    struct one_node *n = arg;
    struct volume_info info;
    open_labelled();
    one_node_verify(n);
    for (unsigned i = 0; i < 600; i++) {
        volume_get_info(n->volume, &info);
        if (strcmp(info.health, "ok") == 0)
            break;
        env_sleep_ns(SEC / 10);
    }
    CHECK_MSG(strcmp(info.health, "ok") == 0, "after a minute: %s", info.problem);
    check_all_apart(n->volume);
    one_node_write_some(n, 20, 16); /* what is acknowledged has as many */
    CHECK(one_node_flush(n) == 0);
    check_all_apart(n->volume);
}

static void end_process(void)
{
    if (draw(2))
        one_node_kill(&world.node);
    else
        one_node_power_cut(&world.node, SIM_CUT_RANDOM);
}

/* All disks of the nodes first, first + 1, .. are gone. */
static void lose_nodes(unsigned first, unsigned count)
{
    for (unsigned i = 1; i <= DISKS; i++)
        if ((world.node_of[i] + world.nodes - first) % world.nodes < count)
            one_node_pull(&world.node, i);
}

static void verify(void *arg)
{
    open_labelled();
    one_node_verify(arg);
}

static void round_of(uint64_t seed)
{
    static const struct shard_code codes[] = {{1, 1}, {2, 1}, {1, 2}, {2, 2}};
    struct rng rng = rng_fork(seed, "domains");
    struct shard_code code = codes[rng_below(&rng, ARRAY_SIZE(codes))];
    world = (struct world){0};
    one_node_init(&world.node, seed, code, DISKS);
    world.node.domain = DOMAIN_NODE;
    world.node.bypass_bytes_min = rng_one_in(&rng, 2) ? 16 * BLOCK_BYTES : 1 << 30;
    world.nodes = MIN(code.k + code.m + 1u + (unsigned)rng_below(&rng, 2), (unsigned)NODES_MAX);
    for (unsigned i = 1; i <= DISKS; i++)
        world.node_of[i] = i % world.nodes;
    for (unsigned lives = 2 + draw(3); lives > 0; lives--) {
        one_node_must(&world.node, "life", life);
        end_process();
        if (draw(2)) /* each node has a disk, or it does not get whole in every case */
            for (unsigned i = 1; i <= world.nodes; i++)
                world.node_of[i] = i % world.nodes;
    }
    for (unsigned i = 1; i <= world.nodes; i++)
        world.node_of[i] = i % world.nodes;
    one_node_must(&world.node, "get whole", get_whole);
    end_process();
    lose_nodes(draw(world.nodes), code.m);
    one_node_must(&world.node, "verify", verify);
    one_node_kill(&world.node);
    one_node_fini(&world.node);
}

int main(int argc, char **argv)
{
    log_set_level(getenv("SIM_LOG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
    return sim_check_main(argc, argv, &(struct sim_check){.round = round_of, .rounds = 20});
}
