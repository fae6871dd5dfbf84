/* SPDX-License-Identifier: Apache-2.0
 *
 * A whole cluster in one process and virtual time: nodes as node_start() makes them, on machines, disks and a
 * network that fail, over a store that does, with clients that attach wherever they are. README.md.
 *
 *   cluster.c   set-up, processes of nodes, running until something is so
 *   clients.c   what clients do and see
 *   faults.c    what goes wrong
 *   full.c      full disks
 *   shards.c    what owners say against what the disks have
 *   judge.c     what must hold once it is quiet, and after total crashes
 */
#pragma once

#include "blockd/node.h"
#include "common/store.h"
#include "tests/sim/history.h"
#include "tests/sim/sim_check.h"
#include "tests/sim/sim_minimise.h"

enum {
    CLUSTER_NODES_MAX = 8,
    CLUSTER_DISKS_MAX = 2, /* of a node */
    CLUSTER_VOLUMES_MAX = 2,
    CLUSTER_CLIENTS_MAX = 6,
    CLUSTER_BLOCKS = 256, /* of a volume, before it grows */
    CLUSTER_BLOCKS_MAX = 640,
};
#define CLUSTER_IO_TIMEOUT_S 3 /* [disk] io_timeout */
#define CLUSTER_MS 1000000ull
#define CLUSTER_S 1000000000ull

enum cluster_fault {
    FAULT_KILL,
    FAULT_POWER_CUT,
    FAULT_RESTART, /* clean */
    FAULT_PAUSE,
    FAULT_ISOLATE,
    FAULT_ONE_WAY,
    FAULT_RESET,
    FAULT_SLOW_LINK,
    FAULT_DISK_ERROR,
    FAULT_DISK_SLOW,
    FAULT_DISK_FLIP,
    FAULT_DISK_MISDIRECT,
    FAULT_DISK_GONE,
    FAULT_DISK_FULL,
    FAULT_STORE_DOWN,
    FAULT_STORE_UNKNOWN,
    FAULT_STORE_SLOW,
    FAULT_STORE_WATCH,
    FAULT_STORE_CONFLICT,
    FAULT_CLOCK_DRIFT,
    FAULT_CLOCK_JUMP,
    FAULT_KILL_ALL,
    FAULT_POWER_ALL,
    FAULT_KINDS,
};
const char *cluster_fault_name(enum cluster_fault fault);

struct cluster_node {
    struct cluster *cluster;
    unsigned number;
    unsigned domain; /* of failure: its rack, or itself */
    char name[8];
    struct env *env;
    struct node_config config;
    struct sim_disk *disks[CLUSTER_DISKS_MAX];
    bool formatted;
    struct node *node; /* NULL while it does not run */
    bool want_up, want_stop;
    unsigned starts;
    unsigned resizes; /* calls of an administrator that run in this process */
    bool
        rotten; /* its disks were made to: until it is quiet, what is there is not what should be */
    bool dirty; /* something of it may be missing or bad: counts among the m */
};

struct cluster_volume {
    char name[16];
    uint64_t id;
    struct history *history;
};

/* A resize that a client has asked the owner for; the owner may be gone without an answer. */
struct cluster_resize {
    struct cluster_client *client;
    struct cluster_node *owner;
    unsigned owner_starts; /* which process of it */
    uint32_t blocks;
    bool busy, done;
    int result;
};

struct cluster_client {
    struct cluster *cluster;
    struct cluster_volume *volume;
    unsigned number;
    unsigned home; /* node */
    uint64_t life; /* of the fiber that runs it; another one has to go */
    bool running, left_out;
    struct rng rng;
    struct cluster_resize resize;
};

struct cluster {
    uint64_t seed;
    struct rng rng;       /* what the cluster is, what the judge does */
    struct rng fault_rng; /* of the fault that is being injected: leaving one out shifts no other */
    unsigned fault_count, mix_count;
    uint64_t steps;
    struct sim *sim;
    struct store_mem *store;
    struct pool pool;
    unsigned node_count, disks_per_node, volume_count, client_count;
    unsigned rack_count; /* 0 = none: the domain of failure is the node */
    bool gives_up_soon;  /* [repair] wait is short, and no machine loses power alone */
    struct cluster_node nodes[CLUSTER_NODES_MAX];
    struct cluster_volume volumes[CLUSTER_VOLUMES_MAX];
    struct cluster_client clients[CLUSTER_CLIENTS_MAX];
    uint64_t session_ttl_ns;
    bool volumes_made;
    bool ballast;           /* may be on disks */
    uint64_t full_until_ns; /* disks are full, UINT64_MAX: until further notice */
    /* what this seed has drawn */
    bool fault_on[FAULT_KINDS];
    unsigned fault_pace_ms;
    unsigned write_percent, flush_percent, trim_percent, large_percent, hot_blocks;
    unsigned resize_permille;
    uint64_t think_ns_max;
    /* clients */
    bool clients_stop;
    unsigned clients_running;
    uint64_t requests, resends;
};

/* Of all rounds of the process. */
struct cluster_totals {
    uint64_t faults[FAULT_KINDS];
    uint64_t rounds, virtual_ns, requests, resends, reads, writes, no_space, resizes, shard_looks;
};
extern struct cluster_totals *cluster_totals; /* shared with the rounds' processes */

/* --- cluster.c --- */
struct cluster *cluster_new(uint64_t seed, unsigned node_count);
void cluster_free(struct cluster *cluster);
/* Starts the process of the node, or marks it as down after it has ended (sim_node_crash...). */
void cluster_start_node(struct cluster_node *node);
void cluster_node_ended(struct cluster_node *node);
/* Runs until it is so; fails when it takes longer than `seconds`, naming `what`. */
void cluster_until(struct cluster *cluster, bool (*so)(struct cluster *cluster), unsigned seconds,
    const char *what);
void cluster_run_for(struct cluster *cluster, uint64_t ns);
bool cluster_all_up(struct cluster *cluster);
void cluster_start_all(struct cluster *cluster);
/* Runs fn(arg) on a fiber of the node to its end; false when the node went down before. */
bool cluster_do(
    struct cluster_node *node, unsigned seconds, const char *what, fiber_fn *fn, void *arg);
/* A node that runs; NULL when none does. */
struct cluster_node *cluster_any_up(struct cluster *cluster);

/* --- clients.c --- */
void cluster_clients_start(struct cluster *cluster);
/* Each ends the request that it is in. */
void cluster_clients_stop(struct cluster *cluster);
/* A node runs (again): its clients go on there. */
void cluster_clients_node_up(struct cluster_node *node);
void cluster_clients_node_down(struct cluster_node *node);
/* On a fiber of the node: the volume as it is now, all of it. */
MAY_SUSPEND struct attachment *cluster_attach(struct cluster_node *node, const char *name);
MAY_SUSPEND void cluster_read_all(
    struct cluster_node *node, struct cluster_volume *volume, bool settle);

/* --- faults.c --- */
/* A mix of faults, and how many. */
unsigned cluster_draw_faults(struct cluster *cluster);
/* Waits a while, then one of them. */
void cluster_fault(struct cluster *cluster);
void cluster_heal(struct cluster *cluster);

/* --- full.c --- */
void cluster_fill(struct cluster *cluster);
void cluster_empty(struct cluster *cluster);
/* A write may end in -ENOSPC. */
bool cluster_is_full(const struct cluster *cluster);

/* --- shards.c --- */
/* At any time: a volume that says "ok" has all its shards, logs and manifests on disks of different nodes. */
void cluster_judge_shards(struct cluster *cluster);
/* When it is quiet: the disks hold what the volumes name, and soon nothing else. */
void cluster_judge_orphans(struct cluster *cluster);

/* --- judge.c --- */
/* The node that serves the volume, by the highest epoch; NULL = none. */
struct cluster_node *cluster_owner(struct cluster *cluster, const struct cluster_volume *volume);
/* At any time: no two nodes serve a volume in one epoch. */
void cluster_judge_owners(struct cluster *cluster);
/* Heals all, waits until every volume says that it is whole, clears `dirty`. */
void cluster_quiet(struct cluster *cluster);
/* Everything was down: what is there now is a prefix of what was asked for (H2, H3). */
void cluster_settle(struct cluster *cluster, bool power_lost);
/* Any m nodes may be lost now: they are, and everything is there. */
void cluster_judge_redundancy(struct cluster *cluster);
/* Volumes are deleted: nothing is left on the disks. */
void cluster_judge_space(struct cluster *cluster);
