/* SPDX-License-Identifier: Apache-2.0
 *
 * The one seam to the world. Nothing above it calls the kernel, reads a clock or draws randomness by
 * itself. Two implementations: env_uring (production: io_uring) and env_sim (deterministic, virtual
 * time, many nodes in one process). A third, env_powercut, wraps env_uring for tests: unsynced writes stay in
 * process memory, so that kill -9 is a power cut.
 *
 * One env per node and thread (= reactor). All calls except env_post are for the env's own thread.
 * Completion callbacks run in the loop, outside any fiber, with fiber_env() set; they must not suspend: they wake
 * fibers or submit more.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common/fiber.h"
#include "common/list.h"

struct env;
struct env_file;
struct env_listener;
struct env_stream;

/* --- Time, chance ------------------------------------------------------------------------------ */

/* Monotonic, for timers and latencies. */
uint64_t env_now_ns(void);
/* CLOCK_BOOTTIME: goes on through suspend; for leases. */
uint64_t env_boottime_ns(void);
/* CLOCK_REALTIME, for people only. */
uint64_t env_realtime_ns(void);
void env_random(void *buf, size_t len_bytes);
uint64_t env_random_u64(void);
/* Changes with each boot of the machine (16 bytes; /proc/sys/kernel/random/boot_id). */
void env_boot_id(uint8_t ret_id[16]);

MAY_SUSPEND void env_sleep_ns(uint64_t duration_ns);

/* A one-shot timer, embedded in its owner. Arm again freely (moves it); cancel is idempotent. */
struct env_timer {
    uint64_t deadline_ns;
    void (*fired)(struct env_timer *timer);
    struct env *env;
    unsigned heap_index; /* 0 = not armed */
};
void env_timer_init(struct env_timer *timer, void (*fired)(struct env_timer *timer));
void env_timer_arm(struct env_timer *timer, uint64_t deadline_ns);
void env_timer_cancel(struct env_timer *timer);
bool env_timer_armed(const struct env_timer *timer);

/* --- Disks -------------------------------------------------------------------------------------
 * A file or block device, opened O_DIRECT: offset, length and every buffer aligned to 4096 bytes
 * (-EINVAL otherwise, in the simulation too). */

enum env_io_op {
    ENV_IO_READ,
    ENV_IO_WRITE,       /* complete = the device has it; durable only after a sync */
    ENV_IO_WRITE_DSYNC, /* complete = durable */
    ENV_IO_SYNC,        /* complete = all writes completed before its submission are durable */
};

/* Embedded by the submitter, who owns it, its iovec array and its buffers until done() is called.
 * result: bytes moved (reads and writes are always whole: short transfers are continued inside) or negative
 * errno. A read past the end of the file is -EIO. */
struct env_io {
    enum env_io_op op;
    struct env_file *file;
    const struct iovec *iov;
    unsigned iov_count; /* <= 1024 */
    uint64_t off_bytes;
    void (*done)(struct env_io *io);
    int64_t result;
    uint64_t submitted_ns; /* set by env, for latency accounting */
    /* Of a file with a deadline: the I/O works on `iov` itself, without a copy; see there. */
    bool leave;
    bool queued, abandoned; /* env's */
    struct env *env;
    struct list link;    /* env's */
    uint64_t done_bytes; /* env's */
    void *impl;          /* env's */
};
void env_io_submit(struct env_io *io);

enum env_open_flags {
    ENV_OPEN_EXCLUSIVE_LOCK =
        1,               /* an OFD lock held while open; -EBUSY when another has it for a second */
    ENV_OPEN_CREATE = 2, /* only with regular files; with `size_bytes` */
    ENV_OPEN_READ_ONLY = 4,
    ENV_OPEN_MAY_BE_ABSENT = 8, /* -ENOENT is not logged */
};
/* Runs on a helper thread. `size_bytes` for ENV_OPEN_CREATE: the file must not exist (-EEXIST); it is allocated,
 * written with zeros over its whole length (appends to unwritten extents cost 3x) and synced. */
MAY_SUSPEND int env_file_open(
    const char *path, unsigned flags, uint64_t size_bytes, struct env_file **ret_file);
/* A hung one (T1) goes on in the background until all its I/O is back. */
MAY_SUSPEND void env_file_close(struct env_file *file);
uint64_t env_file_size_bytes(const struct env_file *file);
const char *env_file_path(const struct env_file *file);

/* --- I/O that does not come back (env_deadline.c) --------------------------------------------------
 * A device or its driver may hang: an I/O neither completes nor fails, and cannot be called back.
 *
 *  T1 Of a file with a deadline every I/O is answered. When one has been under way for the timeout, the file
 *     is *hung*: all that is under way is answered -ETIMEDOUT, and so is whatever is submitted later.
 *  T2 Memory that the kernel may still write is not used again before the I/O is back. So an I/O works on a copy, which
 *     is kept until then; unless `leave` is set. A read with `leave` (one buffer) that hangs leaves that buffer behind:
 *     env_memory_left() says so until its owner gives it away by env_memory_leave(). Pools and mem_free_pages
 *     do that by themselves (M3); nobody else may read what is in it, not even when the I/O has come back meanwhile.
 *     A write with `leave` may write anything where it should go, long after its -ETIMEDOUT.
 *  T3 Only time that passes while the env runs counts, in steps of an eighth: a process that was stopped, or a machine
 *     that slept, does not find all its disks hung.
 *  T4 At most 128 I/Os of a file are with the kernel at a time; the others wait for their turn, which is no part of T1's time.
 *     Otherwise one disk that hangs would keep all of io_uring's workers, and the flushes of all others would hang too.
 *
 * The file owns `inner` from here on. `timeout_ns` >= 8. */
struct env_file *env_file_deadline(struct env_file *inner, uint64_t timeout_ns);
/* hung(ctx) is called once, from the loop, before the first -ETIMEDOUT is given. */
void env_file_on_hung(struct env_file *file, void (*hung)(void *ctx), void *ctx);
/* Of one that has hung: 1 = all its I/O is back, nothing of it will reach the device any more; 0 = not yet. Negative
 * errno: a write or a flush came back with that, late. */
int env_file_hung_back(const struct env_file *file);
bool env_file_hangs(const struct env_file *file);

/* Whether a read was left behind in any of this memory (T2). */
bool env_memory_left(const void *ptr, size_t len_bytes);
/* Takes memory of which that is so away from its owner; back(ctx) is called, from the loop or at once, when no I/O
 * has it any more. */
void env_memory_leave(void *ptr, size_t len_bytes, void (*back)(void *ctx), void *ctx);

/* Fiber forms: one buffer. 0 or negative errno. */
MAY_SUSPEND int env_file_read(
    struct env_file *file, void *buf, size_t len_bytes, uint64_t off_bytes);
MAY_SUSPEND int env_file_write(
    struct env_file *file, const void *buf, size_t len_bytes, uint64_t off_bytes, bool dsync);
MAY_SUSPEND int env_file_sync(struct env_file *file);

/* --- Network -----------------------------------------------------------------------------------
 * Addresses: "unix:/path" or "tcp:HOST:PORT" (HOST numeric, [v6] in brackets; port 0 = any, see env_listener_address).
 * A stream has at most one receiver and one sender at a time. */

/* unix: a stale socket file (nobody listening) is replaced; a live one gives -EADDRINUSE (after a second: a killed
 * process may hold its sockets for a moment). */
MAY_SUSPEND int env_listen(const char *address, unsigned mode, struct env_listener **ret_listener);
const char *env_listener_address(const struct env_listener *listener);
/* -ECANCELED after env_listener_close. */
MAY_SUSPEND int env_accept(struct env_listener *listener, struct env_stream **ret_stream);
void env_listener_close(struct env_listener *listener);

MAY_SUSPEND int env_connect(
    const char *address, uint64_t deadline_ns, struct env_stream **ret_stream);
/* At least 1 byte; 0 = the peer closed; -ETIMEDOUT at deadline_ns (UINT64_MAX = none); -ECONNRESET after shutdown. */
MAY_SUSPEND int64_t env_recv(
    struct env_stream *stream, void *buf, size_t len_bytes, uint64_t deadline_ns);
/* All or an error. `iov` may be changed by the call. */
MAY_SUSPEND int env_send(
    struct env_stream *stream, struct iovec *iov, unsigned iov_count, uint64_t deadline_ns);
/* Ends both directions; a suspended receiver or sender returns with an error. */
void env_stream_shutdown(struct env_stream *stream);
/* Nobody may be suspended on it. */
MAY_SUSPEND void env_stream_close(struct env_stream *stream);
/* What the peer has done to the stream, without reading: what it sent before may still be there. For
 * whoever does not read just now and must know whether somebody waits for the answer. */
enum env_peer_state {
    ENV_PEER_OPEN,
    ENV_PEER_FINISHED, /* sends no more; may still read (TCP cannot tell: it may have closed) */
    ENV_PEER_GONE,     /* closed or reset */
};
enum env_peer_state env_stream_peer_state(const struct env_stream *stream);
/* Peer as text for logs: "unix:pid 123 uid 0" or "tcp:1.2.3.4:567". */
const char *env_stream_peer(const struct env_stream *stream);

/* --- Threads -----------------------------------------------------------------------------------
 * Runs fn(arg) on a pool thread (blocking calls: LMDB, resolvers) and returns its value. fn may use no env or
 * fiber call and no mem_*. In the simulation it runs at once, after a virtual delay. */
MAY_SUSPEND int64_t env_offload(int64_t (*fn)(void *arg), void *arg);

/* From any thread: `env` calls post->fn(post) from its loop, as a completion callback. The memory is
 * the poster's; fn may free it or post it again, nobody else before. A thread that posts ends before
 * its env does. Not in the simulation, which has no other threads. */
struct env_post {
    struct list link; /* env's */
    void (*fn)(struct env_post *post);
};
void env_post(struct env *env, struct env_post *post);

/* --- Signals, life ----------------------------------------------------------------------------- */

/* Production: blocks until SIGTERM/SIGINT arrives (delivered by signalfd), returns its number. */
MAY_SUSPEND int env_wait_signal(void);

struct env_uring_options {
    unsigned fiber_count_max; /* 0 = 16384 */
    unsigned ring_entries;    /* 0 = 4096 */
    bool power_cut;           /* tests: env_powercut below */
};
/* Makes the production env, runs main_fn(arg) as the first fiber and returns its return value once it has
 * returned. The process's other fibers then cease. Negative errno when the env cannot be made. */
int env_uring_run(const struct env_uring_options *options, int (*main_fn)(void *arg), void *arg);
