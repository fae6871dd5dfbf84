/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the production env share. Only env_uring*.c and env_powercut.c include this.
 *
 *  U1 Whatever the kernel was told of (an op, its buffers) stays until its completion was taken: a
 *     deadline or a close cancels and then waits for the completion. But for disk I/O that was abandoned (T2 in
 *     env.h), which has memory of its own: nobody waits for it, not even the end of the env.
 *  U2 The completion queue has room for two operations of every fiber (one and its cancel) and for
 *     `io_in_flight_max` disk I/Os, so it cannot overflow. Disk I/Os beyond that, and whatever finds no
 *     submission entry, wait in a list, in order. Only disk I/Os are limited: they end by themselves,
 *     while a fiber that waits for a peer may hold its operation for ever.
 *  U3 One io_uring_enter per turn of the loop; an idle loop sleeps in it without a timeout.
 *  U4 Callbacks run from the loop only, never from inside a submission.
 */
#pragma once

#include <liburing.h>
#include <pthread.h>
#include <signal.h>

#include "common/env_impl.h"

/* Any operation but disk I/O. `sqe` is filled by io_uring_prep_*; `done` is called from the loop.
 */
struct uring_op {
    struct list link; /* in the backlog, else lone */
    void (*done)(struct uring_op *op, int res);
    struct io_uring_sqe sqe;
};

/* An operation that a fiber waits for, with a deadline; lives on that fiber's stack. */
struct uring_wait {
    struct uring_op op;
    struct uring_op cancel;
    struct env_timer timer;
    struct fiber *fiber;
    int res;
    bool done, cancel_sent, cancel_done, timed_out;
};

struct env_uring {
    struct env env;
    struct io_uring ring;
    unsigned in_flight; /* all, disk I/Os included */
    unsigned io_in_flight, io_in_flight_max;
    unsigned io_abandoned;    /* of those in flight: nobody waits for them (T1) */
    struct list op_backlog;   /* uring_op.link */
    struct list io_backlog;   /* env_io.link */
    struct list io_completed; /* env_io.link: results known without the kernel */
    struct list handles;      /* uring_handle.link */
    bool power_cut;
    bool stopping;
    int main_result;
    int (*main_fn)(void *arg);
    void *main_arg;

    uint8_t random_pool[1024];
    unsigned random_left;
    uint8_t boot_id[16];

    /* env_uring_threads.c */
    pthread_t threads[4];
    unsigned thread_count;
    pthread_mutex_t job_mutex;
    pthread_cond_t job_cond;
    struct list jobs, jobs_done;
    struct list posts; /* env_post.link */
    bool threads_stop;
    int wake_fd; /* eventfd, written by a thread that has put something on jobs_done or posts */
    uint64_t wake_value;
    struct uring_op wake_op;
    int signal_fd;
    sigset_t old_signals;
};

/* Everything open, so that the end of the env closes it. */
struct uring_handle {
    struct list link;
    int fd;
    char *unlink_path; /* unix listeners: removed when closed */
    dev_t unlink_dev;
    ino_t unlink_ino;
};

static inline struct env_uring *uring_of(struct env *env)
{
    return (struct env_uring *)env;
}

/* --- env_uring.c ------------------------------------------------------------------------------- */

void uring_op_submit(struct env_uring *uring, struct uring_op *op);
/* Submits `wait->op` (its sqe is prepared) and suspends until it is complete: its result, or
 * -ETIMEDOUT. */
MAY_SUSPEND int uring_wait(struct env_uring *uring, struct uring_wait *wait, uint64_t deadline_ns);
/* Makes a suspended uring_wait() return soon, with -ECANCELED unless it completes first. */
void uring_wait_cancel(struct env_uring *uring, struct uring_wait *wait);
/* Hands a disk I/O to the kernel (again, for the rest of a short transfer). */
void uring_io_queue(struct env_uring *uring, struct env_io *io);
/* Completes `io` from the loop with `result`, without the kernel. */
void uring_io_complete_later(struct env_io *io, int64_t result);

void uring_handle_open(struct env_uring *uring, struct uring_handle *handle, int fd);
void uring_handle_close(struct uring_handle *handle);

/* --- env_uring_file.c -------------------------------------------------------------------------- */

MAY_SUSPEND int uring_file_open(struct env *env, const char *path, unsigned flags,
    uint64_t size_bytes, struct env_file **ret_file);
void uring_io_prep(struct env_io *io, struct io_uring_sqe *sqe);
void uring_io_complete(struct env_io *io, int res);

/* --- env_uring_net.c --------------------------------------------------------------------------- */

MAY_SUSPEND int uring_listen(
    struct env *env, const char *address, unsigned mode, struct env_listener **ret_listener);
MAY_SUSPEND int uring_accept(struct env_listener *listener, struct env_stream **ret_stream);
void uring_listener_close(struct env_listener *listener);
const char *uring_listener_address(const struct env_listener *listener);
MAY_SUSPEND int uring_connect(
    struct env *env, const char *address, uint64_t deadline_ns, struct env_stream **ret_stream);
MAY_SUSPEND int64_t uring_recv(
    struct env_stream *stream, void *buf, size_t len_bytes, uint64_t deadline_ns);
MAY_SUSPEND int uring_send(
    struct env_stream *stream, struct iovec *iov, unsigned iov_count, uint64_t deadline_ns);
void uring_stream_shutdown(struct env_stream *stream);
MAY_SUSPEND void uring_stream_close(struct env_stream *stream);
enum env_peer_state uring_stream_peer_state(const struct env_stream *stream);
const char *uring_stream_peer(const struct env_stream *stream);

/* --- env_uring_threads.c ----------------------------------------------------------------------- */

/* Blocks the signals that env_wait_signal() takes, then starts the threads (which inherit that). */
int uring_threads_start(struct env_uring *uring);
/* Waits for the jobs that run; the others will not. */
void uring_threads_stop(struct env_uring *uring);
/* After the ring has let go of the descriptors. */
void uring_threads_fini(struct env_uring *uring);
MAY_SUSPEND int64_t uring_offload(struct env *env, int64_t (*fn)(void *arg), void *arg);
void uring_post(struct env *env, struct env_post *post);
MAY_SUSPEND int uring_wait_signal(struct env *env);

/* --- env_powercut.c ---------------------------------------------------------------------------- */

/* Wraps `inner`, which the wrapper then owns. */
struct env_file *powercut_wrap(struct env_file *inner);
