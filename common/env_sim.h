/* SPDX-License-Identifier: Apache-2.0
 *
 * The simulated env: many nodes in one process on one thread, in virtual time, everything that is
 * left to chance drawn from one seed. Same program and seed: same run, event by event
 * (sim_trace_hash). How to write a test with it: tests/sim/README.md.
 *
 * A *machine* has a clock, a boot id, an address (10.0.0.N) and disks. A *node* is one process on a
 * machine: an env with its fibers, memory, open files and streams. Most machines have one node.
 *
 * Invariants
 *  V1 A write is volatile from its completion until a sync that was submitted after that
 *     completes without error; with DSYNC it is durable at once. A power cut may lose any 512-byte
 *     sector of any volatile write and of any write under way, each by itself; a process crash
 *     loses nothing that completed.
 *  V2 After a failed sync what it covered stays volatile for ever: no later sync makes it durable,
 *     only writing it again does.
 *  V3 Bytes written are taken from the submitter's buffer when the write completes. The buffer must
 *     not change meanwhile (CHECKed, by hash). A read's buffer is garbage from its submission on. Of a write with
 *     `leave` that was given up (T2) garbage is written.
 *  V4 Within one direction of a stream bytes arrive in order and once, or the stream breaks.
 *  V5 No pointer value, address order or real clock enters a decision or the trace hash.
 *
 * Unless a function says otherwise it may be called from anywhere on the thread: between
 * sim_run()s, from fibers, from sim_at() callbacks. All times are virtual nanoseconds since
 * sim_new.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "common/env.h"
#include "common/rng.h"

struct sim;
struct sim_disk;
struct sim_image;

struct sim_options {
    uint64_t seed;
    unsigned fiber_count_max; /* for all nodes together; 0 = 1024 */
    bool strict_io;           /* a malformed disk request fails a CHECK, not with -EINVAL */
    bool trace;               /* prints every event to stderr as it happens */
};

/* --- The simulation ----------------------------------------------------- */

/* One at a time per thread (it owns the thread's fiber scheduler). */
struct sim *sim_new(const struct sim_options *options);
/* Everything vanishes: nodes, their memory, disks. Disk images made by sim_disk_snapshot remain. */
void sim_free(struct sim *sim);
/* The thread's simulation, NULL if none. */
struct sim *sim_current(void);

enum sim_result {
    SIM_UNTIL,    /* `until` became true */
    SIM_DEADLINE, /* the deadline came first; the time is now the deadline */
    SIM_QUIET,    /* nothing can ever happen and no fiber is left */
    SIM_STUCK,    /* nothing can ever happen and fibers wait; given `until`, stderr lists them */
};
/* Runs until `until(ctx)` (may be NULL; asked after every step), `deadline_ns` (UINT64_MAX: none)
 * or until nothing can happen any more. Not from a fiber. */
enum sim_result sim_run(struct sim *sim, bool (*until)(void *ctx), void *ctx, uint64_t deadline_ns);
/* sim_run for `duration_ns` from now. */
enum sim_result sim_run_for(struct sim *sim, uint64_t duration_ns);

uint64_t sim_now_ns(const struct sim *sim);
/* Runs fn(ctx) at `at_ns`, outside fibers. */
void sim_at(struct sim *sim, uint64_t at_ns, void (*fn)(void *ctx), void *ctx);
/* For choices of the test itself that shall follow the seed. */
struct rng *sim_rng(struct sim *sim);
uint64_t sim_seed(const struct sim *sim);

/* Hash over all events so far: node, kind, time, what was moved where and its contents. */
uint64_t sim_trace_hash(const struct sim *sim);
/* Adds an event of the test or of the code under test to the trace. `what` is static text. */
void sim_trace(struct sim *sim, const char *what, uint64_t a, uint64_t b);
/* Seed, time, suspended fibers and the last events of every node. */
void sim_dump(struct sim *sim, FILE *out);

/* --- Machines and nodes ------------------------------------------------- */

/* A node on a machine of its own, or beside another on the same machine. `name` is copied. The env
 * pointer stays valid until sim_free, through crashes and restarts. */
struct env *sim_node_new(struct sim *sim, const char *name);
struct env *sim_node_new_beside(struct env *node, const char *name);
/* Starts fn(arg) on a fiber of the node; boots machine and process if they are down. Its return
 * ends that fiber only. `name` is static text. */
void sim_node_start(struct env *node, const char *name, fiber_fn *fn, void *arg);
bool sim_node_is_up(const struct env *node);
const char *sim_node_name(const struct env *node);
/* "10.0.0.N" */
const char *sim_node_address(const struct env *node);

/* Ends the process as by kill -9: its fibers vanish without unwinding, its memory is released,
 * files are closed, listeners are gone, peers of its streams see end of stream or a reset. Each
 * write under way is done or not. From one of the node's own fibers it does not return. */
void sim_node_crash(struct env *node);

/* What of the volatile writes survives a loss of power. */
enum sim_cut_mode {
    SIM_CUT_LOSE_ALL,
    SIM_CUT_KEEP_ALL, /* only the boot id changes */
    SIM_CUT_SECTORS,  /* each sector of each write survives or not */
    SIM_CUT_WRITES,   /* each write survives whole or not */
    SIM_CUT_PREFIX,   /* those up to some moment, as completed */
    SIM_CUT_TEAR,     /* as PREFIX, and some leading sectors of the next write */
    SIM_CUT_RANDOM,   /* for each disk one of the above */
};
/* The node's machine loses power: all its nodes end, disks lose by `mode`, peers hear nothing
 * any more. The machine boots (new boot id, clock starts anew) at the next sim_node_start. */
void sim_node_power_cut(struct env *node, enum sim_cut_mode mode);
void sim_power_cut_all(struct sim *sim, enum sim_cut_mode mode);

/* The process stops for a while (a stalled host): nothing of it runs, clocks go on. */
void sim_node_pause(struct env *node, uint64_t duration_ns);
/* env_wait_signal() on the node returns `signal_number`; kept until somebody waits. */
void sim_node_signal(struct env *node, int signal_number);

/* The machine's clock runs by `ppm` faster (negative: slower) from now on. */
void sim_clock_drift(struct env *node, int32_t ppm);
/* boottime jumps ahead alone, as by a suspend; realtime jumps anywhere. */
void sim_clock_jump_boottime(struct env *node, uint64_t by_ns);
void sim_clock_jump_realtime(struct env *node, int64_t by_ns);

/* --- Disks -------------------------------------------------------------- */

#define SIM_SECTOR_BYTES 512u
#define SIM_PAGE_BYTES 4096u

/* A disk of zeros on the node's machine, found by env_file_open(path) of the machine's nodes.
 * Contents are held sparsely. `size_bytes` is a multiple of 4096. Belongs to the machine, survives
 * crashes. */
struct sim_disk *sim_disk_new(struct env *node, const char *path, uint64_t size_bytes);
/* NULL when there is none (also after sim_disk_remove). */
struct sim_disk *sim_disk_find(const struct env *node, const char *path);
const char *sim_disk_path(const struct sim_disk *disk);
uint64_t sim_disk_size_bytes(const struct sim_disk *disk);

/* The time an operation takes: base, plus what its length costs, plus jitter: mostly up to
 * `jitter_ns`, one time in 64 ten times that. Operations do not wait for one another, so they
 * complete in any order. */
struct sim_disk_latency {
    uint64_t read_ns, write_ns, sync_ns;
    uint64_t jitter_ns;
    uint64_t ns_per_page;
};
void sim_disk_set_latency(struct sim_disk *disk, const struct sim_disk_latency *latency);

enum sim_op {
    SIM_OP_READ = 1,
    SIM_OP_WRITE = 2, /* with and without DSYNC */
    SIM_OP_SYNC = 4,
};
enum sim_fault_kind {
    SIM_FAULT_ERROR,     /* fails with `error`; of a write some sectors may have got there */
    SIM_FAULT_LOST,      /* a write or sync claims success and does nothing */
    SIM_FAULT_MISDIRECT, /* goes to (comes from) `target_off_bytes`, UINT64_MAX: some other page */
    SIM_FAULT_FLIP,      /* one bit of what is read, or of what gets stored, is wrong */
    SIM_FAULT_DELAY,     /* takes `delay_ns` longer (UINT64_MAX / 2: hangs) */
};
/* A rule; the first rule of a disk that matches an operation applies to it. */
struct sim_fault {
    unsigned ops; /* enum sim_op, or'ed */
    enum sim_fault_kind kind;
    uint64_t off_bytes, len_bytes; /* only operations that touch this range; len 0 = anywhere */
    uint64_t after;                /* spares this many matching operations first */
    uint64_t times;                /* then applies this often; 0 = for ever */
    uint32_t ppm;                  /* to an operation by this chance; 0 = always */
    int error;                     /* positive errno; 0 = EIO */
    uint64_t target_off_bytes;
    uint64_t delay_ns;
};
void sim_disk_fault(struct sim_disk *disk, const struct sim_fault *fault);
void sim_disk_clear_faults(struct sim_disk *disk);
/* How often rules have applied. */
uint64_t sim_disk_faults_applied(const struct sim_disk *disk);

/* Rot of the medium: durable and cached. bit 0..7 */
void sim_disk_flip(struct sim_disk *disk, uint64_t off_bytes, unsigned bit);
/* Current content, any alignment, without time passing and without faults. A poke is durable. */
void sim_disk_peek(const struct sim_disk *disk, uint64_t off_bytes, void *buf, size_t len_bytes);
void sim_disk_poke(struct sim_disk *disk, uint64_t off_bytes, const void *buf, size_t len_bytes);
/* Pulled out: all I/O on it fails with -ENODEV, opening finds nothing; and back in. */
void sim_disk_remove(struct sim_disk *disk);
void sim_disk_return(struct sim_disk *disk);
/* Hangs: no I/O comes back, those under way neither. And goes on: all of them do, in a while. */
void sim_disk_hang(struct sim_disk *disk);
void sim_disk_go_on(struct sim_disk *disk);
bool sim_disk_hangs(const struct sim_disk *disk);
/* What a power cut does to its volatile writes, and nothing else: storage that fails over without its cache. */
void sim_disk_lose_cache(struct sim_disk *disk, enum sim_cut_mode mode);
/* Shorter: I/O beyond fails with -EIO and what was there is gone. Or longer, for files opened
 * afterwards. */
void sim_disk_resize(struct sim_disk *disk, uint64_t size_bytes);
/* Volatile pages now; 0 = all that was written is durable. */
uint64_t sim_disk_volatile_pages(const struct sim_disk *disk);

/* A copy of the disk with its volatile writes and those under way; cheap (pages are shared). The
 * caller frees it. Restoring needs the disk closed; it may be another disk, also of another sim. */
struct sim_image *sim_disk_snapshot(const struct sim_disk *disk);
void sim_image_free(struct sim_image *image);
struct sim_image *sim_image_copy(const struct sim_image *image);
/* Makes it what a power cut at the moment of the snapshot may leave. */
void sim_image_cut(struct sim_image *image, enum sim_cut_mode mode, uint64_t seed);
/* Without a sim_image_cut the writes that were under way have not happened, those that were
 * volatile still are. */
void sim_disk_restore(struct sim_disk *disk, const struct sim_image *image);

/* Called when a write or sync of any disk completes, before it takes effect, outside fibers. By
 * filling the last three fields the hook ends a node, a machine or all of them at this very
 * operation: before it takes effect, when half of its sectors are durable, or after it. */
struct sim_io_point {
    struct sim_disk *disk;
    struct env *node;
    enum env_io_op op;
    uint64_t number; /* counts writes and syncs of the simulation, from 1 */
    uint64_t off_bytes, len_bytes;
    /* filled by the hook */
    enum { SIM_POINT_GO_ON, SIM_POINT_BEFORE, SIM_POINT_HALF, SIM_POINT_AFTER } when;
    enum { SIM_SCOPE_MACHINE, SIM_SCOPE_NODE, SIM_SCOPE_ALL } scope;
    enum sim_cut_mode mode;
};
void sim_set_io_hook(
    struct sim *sim, void (*hook)(void *ctx, struct sim_io_point *point), void *ctx);
/* Writes and syncs so far. */
uint64_t sim_io_count(const struct sim *sim);

/* --- Network ------------------------------------------------------------ */

/* "unix:PATH" and loopback addresses are the machine's own. "tcp:10.0.0.N:PORT" is machine N; any
 * other host text is a name that belongs to whoever listens on it. A machine without power answers
 * nothing. */

/* From the machine of `from` to that of `to`, one way. While cut, what is sent waits as in TCP's
 * retransmission; after 60 s the sender's stream breaks (-ETIMEDOUT). */
void sim_net_cut(struct env *from, struct env *to, bool cut);
/* Both ways between `node` and every other machine. */
void sim_net_isolate(struct env *node, bool cut);
void sim_net_heal_all(struct sim *sim);

struct sim_net_latency {
    uint64_t base_ns, jitter_ns;
    uint64_t ns_per_kib;
};
void sim_net_set_latency(struct env *from, struct env *to, const struct sim_net_latency *latency);
/* Breaks all streams between the two nodes; both ends see -ECONNRESET. */
void sim_net_reset(struct env *a, struct env *b);
