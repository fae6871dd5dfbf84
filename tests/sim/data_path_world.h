/* SPDX-License-Identifier: Apache-2.0
 *
 * The world of sim_data_path: volumes of one node on disks of its machine, and clients of them, one of whose answers ends the
 * process. What they do and see goes into each volume's history.
 */
#pragma once

#include "blockd/volume/volume.h"
#include "tests/sim/history.h"
#include "tests/sim/link_disk.h"
#include "tests/sim/sim_check.h"

enum {
    DISKS_MAX = 8,
    VOLUMES_MAX = 3,
    BLOCKS = 1024,
    WRITE_BLOCKS_MAX = 32,
    DISK_BYTES = 192 << 20,
    TABLE_OFF_BYTES = 2 << 20, /* docs/FORMAT.md */
    SECTORS = BLOCK_BYTES / 512,
};
#define MS_NS 1000000ull
#define SECOND_NS (1000 * MS_NS)

struct vol {
    uint64_t id;
    struct volume *volume;
    struct history *history;
};

/* What clients do, in percent; the rest are reads. */
struct load {
    unsigned clients; /* of each volume */
    unsigned write_percent, trim_percent, flush_percent;
    unsigned fua_percent; /* of writes and trims; an answer to one counts as that to a flush */
    uint32_t blocks;      /* they work on so many */
    uint32_t blocks_max;  /* of one write */
    uint64_t pause_ns_max;
    unsigned end_one_in; /* answers of `end_at`, or writes of a shard table */
    enum { END_AT_FLUSH = 1, END_AT_READ = 2, END_AT_WRITE = 4, END_AT_TABLE = 8 } end_at;
    bool end_by_power;
    bool cut_links; /* one disk after the other is away for a moment */
    enum sim_cut_mode cut_mode;
};

struct world {
    struct rng rng;
    struct sim *sim;
    struct env *node;
    struct store_mem *store;
    struct shard_code code;
    unsigned disk_count, volume_count;
    struct sim_disk *sim_disks[DISKS_MAX];
    struct vol vols[VOLUMES_MAX];
    struct load load;
    uint64_t bypass_bytes_min, row_blocks, log_bytes, life_ns;
    bool made, settled;
    unsigned failing, other;      /* disks */
    bool last;                    /* life: then disks may be lost */
    bool linked;                  /* its disks are behind links */
    bool whole;                   /* it was: all is there when m disks are lost */
    bool beyond;                  /* more than that is lost */
    unsigned refused, unreadable; /* volumes then, blocks */
    /* of the running process */
    struct disk *real[DISKS_MAX];
    struct link_disk *links[DISKS_MAX];
    struct volume_host host;
    uint64_t session;
    struct memory_budget budget;
    struct disk_list disks;
    bool stop;
    unsigned clients;
};

/* Freshly formatted disks; nothing runs. Then `load` and the rest may be set. */
void world_init(
    struct world *w, uint64_t seed, struct shard_code code, unsigned disks, unsigned volumes);
void world_fini(struct world *w);
void world_set_latency(struct world *w, uint64_t write_ns, uint64_t sync_ns);

/* Starts the process, as its first fiber (arg: the world): opens the disks and the volumes, which are made if there are none;
 * takes what is found for what is there, unless that is settled. */
MAY_SUSPEND void world_start(void *arg);
/* fn(w) on the node, to its end. */
void world_must(struct world *w, const char *name, fiber_fn *fn);
/* The process has ended, or ends now. */
void world_end_life(struct world *w, bool power, enum sim_cut_mode mode);
/* Until nothing needs a disk that failed or was away, or lacks a row since the power went; w->whole: it came to that. */
MAY_SUSPEND void world_wait_until_whole(struct world *w);
/* Some lives that clients end, then one, perhaps without m of the disks; and the end. */
void world_run_lives(struct world *w, unsigned lives, bool lose);

/* One client; `buf` has room for WRITE_BLOCKS_MAX blocks. */
struct client {
    struct world *world;
    struct vol *vol;
    struct rng rng;
    void *buf;
};
MAY_SUSPEND void client_write(struct client *c, bool zero);
MAY_SUSPEND void client_flush(struct client *c);
/* load.clients of each volume, until they are told to stop. */
void world_spawn_clients(struct world *w);
MAY_SUSPEND void world_stop_clients(struct world *w);
