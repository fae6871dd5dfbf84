/* SPDX-License-Identifier: Apache-2.0
 *
 * The whole cluster under simulation; see cluster.h and README.md. A seed is a cluster, its load and a mix of
 * faults; a round is a minute or so of its time.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/pools.h"
#include "common/log.h"
#include "common/mem.h"
#include "tests/sim/cluster/cluster.h"

static void make_volumes(void *arg)
{
    struct cluster *c = arg;
    struct node *node = c->nodes[0].node;
    CLEANUP_FREE char *error = NULL;
    int r;
    while ((r = pools_create(node->store, node->disks, &c->pool, &error)) < 0) {
        /* Disks of the other nodes are seen a little later. */
        mem_free(error);
        error = NULL;
        env_sleep_ns(100 * CLUSTER_MS);
    }
    for (unsigned i = 0; i < c->volume_count; i++) {
        struct cluster_volume *volume = &c->volumes[i];
        r = volume_create(&node->host, volume->name, (uint64_t)CLUSTER_BLOCKS * BLOCK_BYTES,
            c->pool.name, &volume->id, &error);
        CHECK_MSG(r == 0, "volume_create: %s", error);
    }
    c->volumes_made = true;
}

static void some_time(struct cluster *c)
{
    unsigned faults = cluster_draw_faults(c);
    cluster_clients_start(c);
    for (unsigned i = 0; i < faults; i++)
        cluster_fault(c);
    cluster_heal(c);
    cluster_clients_stop(c);
}

static void round_of(uint64_t seed)
{
    struct cluster *c = cluster_new(seed, sim_check_nodes());
    cluster_start_all(c);
    cluster_until(c, cluster_all_up, 120, "the cluster is made");
    CHECK(cluster_do(&c->nodes[0], 120, "make volumes", make_volumes, c));
    for (unsigned i = 0; i < 2; i++) {
        some_time(c);
        cluster_quiet(c);
    }
    cluster_judge_redundancy(c);
    cluster_judge_space(c);
    cluster_free(c);
}

static void print_totals(void)
{
    const struct cluster_totals *t = cluster_totals;
    printf("%llu rounds, %.2f simulated hours, %llu requests (%llu repeated), %llu writes, %llu "
           "reads, %llu times no space, %llu resizes, %llu looks at \"ok\"\n",
        (unsigned long long)t->rounds, (double)t->virtual_ns / 3600e9,
        (unsigned long long)t->requests, (unsigned long long)t->resends,
        (unsigned long long)t->writes, (unsigned long long)t->reads,
        (unsigned long long)t->no_space, (unsigned long long)t->resizes,
        (unsigned long long)t->shard_looks);
    for (unsigned i = 0; i < FAULT_KINDS; i++) {
        if (t->faults[i])
            printf("%8llu  %s\n", (unsigned long long)t->faults[i], cluster_fault_name(i));
    }
}

/* What has failed once, and what it found (2 and 14, of the seeds that are run anyway, count too):
 *   2           shards on a disk that had been pulled out stayed when it was back in and they had been freed meanwhile
 *   14          the same for a node that had been killed; before that, as 15 and 26:
 *   15, 26      a lost shard was rebuilt onto the disk that it was on
 *   22          -ENOSPC in the middle of a long write said that nothing of it had happened
 *   28          "ok" with a manifest on two of three copies: the loss of two nodes closed the volume; later: the loss
 *               of two of three nodes kept reads waiting (X7, X9)
 *   37          -ENOSPC on disks with room: full of what could not be removed while their node was away
 *   41          "ok" with a log on two of three copies, as 28
 *   30121633368768712  a volume that was being handed over was given to front ends, refused them, was given again ...
 *   30121766361759782  a read that came while its owner had no lease waited for nodes of its log, also with the lease back
 *   30121850499498004  damage that scrub found while the owner had no session was told to nobody (and not waited for here)
 *   30121956749607004  an owner that was deposed while it was paused called a block of a volume that had grown beyond the end
 *   30122077159686146  none: a machine lost power and the other copy's process was down for longer than [repair] wait (3 s
 *               here): what was not flushed is given up then, by ADR 7. Such seeds inject no loss of power alone now
 *   30121990354370633  none: a node stopped while a resize ran there, which the simulation did not wait for as node_stop() does
 *   2593961561994054  a chunk that was made while the volume did not serve yet, and could not be recorded, stayed until the next epoch
 * They are good starts still, though what a seed draws has changed with the code since. */
static const uint64_t seeds_kept[] = {14, 15, 22, 26, 28, 37, 41, 30121633368768712,
    30121766361759782, 30121850499498004, 30121956749607004, 30122077159686146, 30121990354370633,
    2593961561994054};

int main(int argc, char **argv)
{
    log_set_level(getenv("SIM_LOG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
    cluster_totals = sim_shared_new(sizeof(*cluster_totals));
    int code = sim_check_main(argc, argv,
        &(struct sim_check){.round = round_of,
            .rounds = 10,
            .children = true,
            .seeds_kept = seeds_kept,
            .seeds_kept_count = ARRAY_SIZE(seeds_kept)});
    print_totals();
    return code;
}
