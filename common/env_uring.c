/* SPDX-License-Identifier: Apache-2.0
 *
 * The production env: one io_uring per reactor thread and the loop around it. Invariants U1-U4 are
 * in env_uring.h. One turn of the loop:
 *
 *   take completions -> fire timers -> run fibers -> fill the submission queue -> one
 * io_uring_enter
 *
 * user_data is the address of a uring_op, or of an env_io with bit 0 set.
 */
#include "common/env_uring.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/check.h"
#include "common/fiber_switch.h"
#include "common/log.h"
#include "common/mem.h"

#define USER_DATA_IO 1ull
/* Two mappings each (F3), of the 65,530 that a process may have; made as they are needed. */
#define FIBER_COUNT_DEFAULT 16384
#define RING_ENTRIES_DEFAULT 4096
#define IO_WORKERS_MAX 512 /* four disks that hang (T4) may have theirs each */

/* --- Submission -------------------------------------------------------------------------------- */

/* NULL when the submission queue is full. */
static struct io_uring_sqe *take_sqe(struct env_uring *uring)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);
    uring->in_flight += sqe != NULL;
    return sqe;
}

/* For a disk I/O: NULL also when enough are in flight (U2). */
static struct io_uring_sqe *take_io_sqe(struct env_uring *uring)
{
    if (uring->io_in_flight >= uring->io_in_flight_max)
        return NULL;
    struct io_uring_sqe *sqe = take_sqe(uring);
    uring->io_in_flight += sqe != NULL;
    return sqe;
}

static void op_fill(struct uring_op *op, struct io_uring_sqe *sqe)
{
    *sqe = op->sqe;
    sqe->user_data = (uintptr_t)op;
}

static void io_fill(struct env_io *io, struct io_uring_sqe *sqe)
{
    uring_io_prep(io, sqe);
    sqe->user_data = (uintptr_t)io | USER_DATA_IO;
}

void uring_op_submit(struct env_uring *uring, struct uring_op *op)
{
    list_init(&op->link);
    struct io_uring_sqe *sqe = list_empty(&uring->op_backlog) ? take_sqe(uring) : NULL;
    if (sqe)
        op_fill(op, sqe);
    else
        list_push_back(&uring->op_backlog, &op->link);
}

void uring_io_queue(struct env_uring *uring, struct env_io *io)
{
    struct io_uring_sqe *sqe = list_empty(&uring->io_backlog) ? take_io_sqe(uring) : NULL;
    io->queued = sqe == NULL;
    if (sqe)
        io_fill(io, sqe);
    else
        list_push_back(&uring->io_backlog, &io->link);
}

static void fill_from_backlog(struct env_uring *uring)
{
    struct io_uring_sqe *sqe;
    while (!list_empty(&uring->op_backlog) && (sqe = take_sqe(uring)))
        op_fill(list_entry(list_pop_front(&uring->op_backlog), struct uring_op, link), sqe);
    while (!list_empty(&uring->io_backlog) && (sqe = take_io_sqe(uring))) {
        struct env_io *io = list_entry(list_pop_front(&uring->io_backlog), struct env_io, link);
        io->queued = false;
        io_fill(io, sqe);
    }
}

void uring_io_complete_later(struct env_io *io, int64_t result)
{
    io->result = result;
    list_push_back(&uring_of(io->env)->io_completed, &io->link);
}

/* --- Waiting for one operation ----------------------------------------------------------------- */

static void wait_op_done(struct uring_op *op, int res)
{
    struct uring_wait *wait = container_of(op, struct uring_wait, op);
    wait->res = res;
    wait->done = true;
    fiber_wake(wait->fiber);
}

static void wait_cancel_done(struct uring_op *op, int res)
{
    struct uring_wait *wait = container_of(op, struct uring_wait, cancel);
    wait->cancel_done = true;
    fiber_wake(wait->fiber);
}

void uring_wait_cancel(struct env_uring *uring, struct uring_wait *wait)
{
    if (wait->done || wait->cancel_sent)
        return;
    if (!list_empty(&wait->op.link)) { /* the kernel does not know it yet */
        list_remove(&wait->op.link);
        wait_op_done(&wait->op, -ECANCELED);
        return;
    }
    wait->cancel_sent = true;
    wait->cancel.done = wait_cancel_done;
    io_uring_prep_cancel(&wait->cancel.sqe, &wait->op, 0);
    uring_op_submit(uring, &wait->cancel);
}

static void wait_deadline(struct env_timer *timer)
{
    struct uring_wait *wait = container_of(timer, struct uring_wait, timer);
    wait->timed_out = true;
    uring_wait_cancel(uring_of(timer->env), wait);
}

int uring_wait(struct env_uring *uring, struct uring_wait *wait, uint64_t deadline_ns)
{
    wait->fiber = fiber_self();
    wait->done = wait->cancel_sent = wait->cancel_done = wait->timed_out = false;
    wait->op.done = wait_op_done;
    CHECK_MSG(wait->fiber, "waited outside a fiber");
    uring_op_submit(uring, &wait->op);

    if (deadline_ns != UINT64_MAX) {
        env_timer_init(&wait->timer, wait_deadline);
        env_timer_arm(&wait->timer, deadline_ns);
    }
    while (!wait->done || (wait->cancel_sent && !wait->cancel_done)) /* U1 */
        fiber_suspend();
    if (deadline_ns != UINT64_MAX)
        env_timer_cancel(&wait->timer);
    return wait->timed_out && wait->res == -ECANCELED ? -ETIMEDOUT : wait->res;
}

/* --- Handles ----------------------------------------------------------------------------------- */

void uring_handle_open(struct env_uring *uring, struct uring_handle *handle, int fd)
{
    *handle = (struct uring_handle){.fd = fd};
    list_push_back(&uring->handles, &handle->link);
}

void uring_handle_close(struct uring_handle *handle)
{
    struct stat st;
    list_remove(&handle->link);
    /* Only our own socket file: another daemon may have replaced it. */
    if (handle->unlink_path && stat(handle->unlink_path, &st) == 0 &&
        st.st_dev == handle->unlink_dev && st.st_ino == handle->unlink_ino)
        unlink(handle->unlink_path);
    close(handle->fd);
    mem_free(handle->unlink_path);
    handle->unlink_path = NULL;
    handle->fd = -1;
}

/* --- Time, chance ------------------------------------------------------------------------------ */

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec ts;
    CHECK(clock_gettime(clock, &ts) == 0);
    return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

static uint64_t uring_now_ns(struct env *env)
{
    return clock_ns(CLOCK_MONOTONIC);
}

static uint64_t uring_boottime_ns(struct env *env)
{
    return clock_ns(CLOCK_BOOTTIME);
}

static uint64_t uring_realtime_ns(struct env *env)
{
    return clock_ns(CLOCK_REALTIME);
}

static void random_from_kernel(void *buf, size_t len_bytes)
{
    for (size_t done = 0; done < len_bytes;) {
        ssize_t n = getrandom((char *)buf + done, len_bytes - done, 0);
        CHECK_MSG(n > 0 || errno == EINTR, "getrandom: %s", strerror(errno));
        done += n > 0 ? n : 0;
    }
}

/* Small draws come from a pool: they are too frequent for a system call each. */
static void uring_random(struct env *env, void *buf, size_t len_bytes)
{
    struct env_uring *uring = uring_of(env);
    if (len_bytes > sizeof(uring->random_pool) / 4) {
        random_from_kernel(buf, len_bytes);
        return;
    }
    if (uring->random_left < len_bytes) {
        random_from_kernel(uring->random_pool, sizeof(uring->random_pool));
        uring->random_left = sizeof(uring->random_pool);
    }
    uring->random_left -= len_bytes;
    memcpy(buf, uring->random_pool + uring->random_left, len_bytes);
    explicit_bzero(uring->random_pool + uring->random_left, len_bytes); /* nothing is drawn twice */
}

static void uring_boot_id(struct env *env, uint8_t ret_id[16])
{
    memcpy(ret_id, uring_of(env)->boot_id, 16);
}

static int read_boot_id(uint8_t ret_id[16])
{
    static const char path[] = "/proc/sys/kernel/random/boot_id";
    FILE *f = fopen(path, "re");
    unsigned n = 0, byte;
    if (!f)
        return -errno;
    while (n < 16) { /* xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx */
        int c = fgetc(f);
        if (c == '-')
            continue;
        ungetc(c, f);
        if (fscanf(f, "%2x", &byte) != 1)
            break;
        ret_id[n++] = byte;
    }
    fclose(f);
    return n == 16 ? 0 : -EINVAL;
}

/* --- The loop ---------------------------------------------------------------------------------- */

static struct env_io *io_of(uint64_t user_data)
{
    return (struct env_io *)(uintptr_t)(user_data & ~USER_DATA_IO);
}

static void complete(uint64_t user_data, int res)
{
    if (user_data & USER_DATA_IO) {
        uring_io_complete(io_of(user_data), res);
    } else {
        struct uring_op *op = (struct uring_op *)(uintptr_t)user_data;
        op->done(op, res);
    }
}

static unsigned take_completions(struct env_uring *uring)
{
    struct io_uring_cqe *cqes[64];
    unsigned total = 0, n;
    while ((n = io_uring_peek_batch_cqe(&uring->ring, cqes, ARRAY_SIZE(cqes))) > 0) {
        for (unsigned i = 0; i < n; i++) {
            uint64_t user_data = cqes[i]->user_data;
            int res = cqes[i]->res;
            uring->in_flight--;
            if (user_data & USER_DATA_IO) {
                uring->io_in_flight--;
                uring->io_abandoned -= io_of(user_data)->abandoned;
            }
            if (!uring->stopping)
                complete(user_data, res);
        }
        io_uring_cq_advance(&uring->ring, n);
        total += n;
    }
    return total;
}

static void run_completed(struct env_uring *uring)
{
    struct list batch, *link;
    list_init(&batch);
    list_splice_back(&batch, &uring->io_completed);
    while ((link = list_pop_front(&batch))) {
        struct env_io *io = list_entry(link, struct env_io, link);
        uring->io_abandoned -= io->abandoned;
        io->done(io);
    }
}

/* What has been prepared goes to the kernel; sleeps there until a completion or `deadline_ns`
 * unless there is work here (`busy`). */
static void enter(struct env_uring *uring, bool busy, uint64_t deadline_ns)
{
    int rc;
    if (busy) {
        rc = io_uring_submit_and_get_events(&uring->ring);
    } else if (deadline_ns == UINT64_MAX) {
        rc = io_uring_submit_and_wait(&uring->ring, 1);
    } else {
        uint64_t now_ns = clock_ns(CLOCK_MONOTONIC);
        uint64_t left_ns = deadline_ns > now_ns ? deadline_ns - now_ns : 0;
        struct __kernel_timespec ts = {left_ns / 1000000000u, left_ns % 1000000000u};
        struct io_uring_cqe *cqe;
        rc = io_uring_submit_and_wait_timeout(&uring->ring, &cqe, 1, &ts, NULL);
    }
    /* EAGAIN, EBUSY: the kernel is short of something for a moment; what was not taken stays
     * queued. */
    CHECK_MSG(rc >= 0 || rc == -ETIME || rc == -EINTR || rc == -EAGAIN || rc == -EBUSY,
        "io_uring_enter: %s", strerror(-rc));
}

static void loop(struct env_uring *uring)
{
    while (!uring->stopping) {
        take_completions(uring);
        run_completed(uring);
        if (uring->env.timer_count)
            env_timer_run(&uring->env, clock_ns(CLOCK_MONOTONIC));
        fiber_run_ready();
        if (uring->stopping)
            return;
        fill_from_backlog(uring);
        /* What found no submission entry can go in the next turn; what is over the limit cannot. */
        bool backlog =
            !list_empty(&uring->op_backlog) ||
            (!list_empty(&uring->io_backlog) && uring->io_in_flight < uring->io_in_flight_max);
        bool busy = backlog || fiber_any_ready() || !list_empty(&uring->io_completed);
        enter(uring, busy, env_timer_next_ns(&uring->env));
    }
}

/* --- Start, end -------------------------------------------------------------------------------- */

static const struct env_ops uring_ops = {
    .now_ns = uring_now_ns,
    .boottime_ns = uring_boottime_ns,
    .realtime_ns = uring_realtime_ns,
    .random = uring_random,
    .boot_id = uring_boot_id,
    .file_open = uring_file_open,
    .listen = uring_listen,
    .accept = uring_accept,
    .listener_close = uring_listener_close,
    .listener_address = uring_listener_address,
    .connect = uring_connect,
    .recv = uring_recv,
    .send = uring_send,
    .stream_shutdown = uring_stream_shutdown,
    .stream_close = uring_stream_close,
    .stream_peer_state = uring_stream_peer_state,
    .stream_peer = uring_stream_peer,
    .offload = uring_offload,
    .post = uring_post,
    .wait_signal = uring_wait_signal,
};

/* Newer kernels run completion work only when this thread asks for it, which saves interrupts and
 * locks. */
static int ring_init(struct env_uring *uring, unsigned entries, unsigned fiber_count_max)
{
    static const unsigned flags[] = {
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_COOP_TASKRUN,
        IORING_SETUP_COOP_TASKRUN,
        0,
    };
    int rc = -EINVAL;
    for (unsigned i = 0; i < ARRAY_SIZE(flags) && rc == -EINVAL; i++) {
        struct io_uring_params params = {
            .flags = flags[i] | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_SUBMIT_ALL,
            .cq_entries = 2 * fiber_count_max + 2 * entries,
        };
        rc = io_uring_queue_init_params(entries, &uring->ring, &params);
        uring->io_in_flight_max = 2 * entries;
    }
    if (rc < 0) {
        log_error("io_uring is not available: %s (a kernel from 6.1 on is needed; see also "
                  "/proc/sys/kernel/io_uring_disabled and the memlock limit)",
            strerror(-rc));
        return rc;
    }
    io_uring_register_ring_fd(&uring->ring); /* saves a file look-up per enter; fine without */
    /* What the kernel cannot submit without waiting has a worker of its own: on a device that hangs (T1) until it is
     * back. The few that a small machine has by default would be used up soon, and all disks' flushes need one (T4). */
    unsigned workers[2] = {IO_WORKERS_MAX, 0}; /* threads as they are needed; 0 = as it is */
    io_uring_register_iowq_max_workers(&uring->ring, workers);
    return 0;
}

/* The kernel must be done with our memory before it goes (U1): cancel what would wait for ever,
 * then wait for the rest, running no callbacks. What was abandoned has memory of its own, which goes with the
 * process and no sooner. */
static void drain(struct env_uring *uring)
{
    bool cancel_sent = false;
    while (uring->in_flight > uring->io_abandoned) {
        if (!cancel_sent) {
            struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);
            if (sqe) {
                io_uring_prep_cancel(sqe, NULL, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
                sqe->user_data = 0;
                uring->in_flight++;
                cancel_sent = true;
            }
        }
        enter(uring, false, UINT64_MAX);
        take_completions(uring);
    }
}

static void main_fiber(void *arg)
{
    struct env_uring *uring = arg;
    uring->main_result = uring->main_fn(uring->main_arg);
    uring->stopping = true;
}

static int run(struct env_uring *uring, unsigned ring_entries, unsigned fiber_count_max)
{
    int rc = read_boot_id(uring->boot_id);
    if (rc < 0) {
        log_error("cannot read /proc/sys/kernel/random/boot_id: %s", strerror(-rc));
        return rc;
    }
    if (uring->power_cut) /* a kill is to look like a reboot, also to what compares boot ids (S6) */
        random_from_kernel(uring->boot_id, sizeof(uring->boot_id));
    rc = ring_init(uring, ring_entries, fiber_count_max);
    if (rc < 0)
        return rc;
    rc = uring_threads_start(uring);
    if (rc < 0) {
        uring_threads_fini(uring);
        io_uring_queue_exit(&uring->ring);
        return rc;
    }
    fiber_spawn("main", main_fiber, uring);
    loop(uring);
    uring_threads_stop(uring);
    drain(uring);
    while (!list_empty(&uring->handles))
        uring_handle_close(list_entry(uring->handles.next, struct uring_handle, link));
    io_uring_queue_exit(&uring->ring);
    uring_threads_fini(uring);
    return uring->main_result;
}

int env_uring_run(const struct env_uring_options *options, int (*main_fn)(void *arg), void *arg)
{
    struct env_uring *uring = calloc(1, sizeof(*uring));
    if (!uring)
        return -ENOMEM;
    env_init(&uring->env, &uring_ops);
    uring->power_cut = options->power_cut;
    uring->main_fn = main_fn;
    uring->main_arg = arg;
#ifdef FIBER_ASAN
    uring->env.mem_track = true;
#endif
    list_init(&uring->op_backlog);
    list_init(&uring->io_backlog);
    list_init(&uring->io_completed);
    list_init(&uring->handles);
    unsigned fibers = options->fiber_count_max ? options->fiber_count_max : FIBER_COUNT_DEFAULT;
    unsigned entries = options->ring_entries ? options->ring_entries : RING_ENTRIES_DEFAULT;
    fiber_sched_init(fibers);
    fiber_set_default_env(&uring->env);

    int rc = run(uring, entries, fibers);

    /* Where fibers are cut off, what they had is no leak. */
    if (fiber_kill_env(&uring->env) > 0 && uring->env.mem_track)
        mem_release_all(&uring->env);
    env_fini(&uring->env);
    fiber_set_default_env(NULL);
    fiber_sched_fini();
    free(uring);
    return rc;
}
