/* SPDX-License-Identifier: Apache-2.0
 *
 * What every env shares: dispatch to the calling fiber's env, the timer heap, and the fiber forms
 * of disk I/O.
 */
#include <errno.h>
#include <stdlib.h>

#include "common/check.h"
#include "common/env_impl.h"

#define ENV_BLOCK_BYTES 4096u
#define ENV_IOV_COUNT_MAX 1024u

static struct env *self_env(void)
{
    struct env *env = fiber_env();
    CHECK_MSG(env, "an env call on a thread without env");
    return env;
}

void env_init(struct env *env, const struct env_ops *ops)
{
    *env = (struct env){.ops = ops};
    list_init(&env->mem_blocks);
    list_init(&env->mem_page_blocks);
    list_init(&env->left);
}

void env_fini(struct env *env)
{
    free(env->timer_heap);
    env->timer_heap = NULL;
    env->timer_count = env->timer_capacity = 0;
    list_init(&env->left); /* goes with the process's memory */
}

/* --- Time, chance ------------------------------------------------------------------------------ */

uint64_t env_now_ns(void)
{
    struct env *env = self_env();
    return env->ops->now_ns(env);
}

uint64_t env_boottime_ns(void)
{
    struct env *env = self_env();
    return env->ops->boottime_ns(env);
}

uint64_t env_realtime_ns(void)
{
    struct env *env = self_env();
    return env->ops->realtime_ns(env);
}

void env_random(void *buf, size_t len_bytes)
{
    struct env *env = self_env();
    env->ops->random(env, buf, len_bytes);
}

uint64_t env_random_u64(void)
{
    uint64_t value;
    env_random(&value, sizeof(value));
    return value;
}

void env_boot_id(uint8_t ret_id[16])
{
    struct env *env = self_env();
    env->ops->boot_id(env, ret_id);
}

struct sleeper {
    struct env_timer timer;
    struct fiber *fiber;
    bool done;
};

static void sleeper_fired(struct env_timer *timer)
{
    struct sleeper *sleeper = container_of(timer, struct sleeper, timer);
    sleeper->done = true;
    fiber_wake(sleeper->fiber);
}

void env_sleep_ns(uint64_t duration_ns)
{
    struct sleeper sleeper = {.fiber = fiber_self()};
    uint64_t deadline_ns;
    if (__builtin_add_overflow(env_now_ns(), duration_ns, &deadline_ns))
        deadline_ns = UINT64_MAX;
    env_timer_init(&sleeper.timer, sleeper_fired);
    env_timer_arm(&sleeper.timer, deadline_ns);
    while (!sleeper.done)
        fiber_suspend();
}

/* --- Timers: a binary heap, root at index 1 so that index 0 means "not armed" ----------------- */

static bool slot_before(const struct env_timer_slot *a, const struct env_timer_slot *b)
{
    if (a->deadline_ns != b->deadline_ns)
        return a->deadline_ns < b->deadline_ns;
    return a->order < b->order;
}

static void slot_put(struct env *env, unsigned index, struct env_timer_slot slot)
{
    env->timer_heap[index] = slot;
    slot.timer->heap_index = index;
}

static void sift_up(struct env *env, unsigned index, struct env_timer_slot slot)
{
    while (index > 1 && slot_before(&slot, &env->timer_heap[index / 2])) {
        slot_put(env, index, env->timer_heap[index / 2]);
        index /= 2;
    }
    slot_put(env, index, slot);
}

static void sift_down(struct env *env, unsigned index, struct env_timer_slot slot)
{
    for (;;) {
        unsigned child = index * 2;
        if (child > env->timer_count)
            break;
        if (child < env->timer_count &&
            slot_before(&env->timer_heap[child + 1], &env->timer_heap[child]))
            child++;
        if (slot_before(&slot, &env->timer_heap[child]))
            break;
        slot_put(env, index, env->timer_heap[child]);
        index = child;
    }
    slot_put(env, index, slot);
}

/* `slot` goes to `index`, where the heap may be wrong in either direction. */
static void heap_settle(struct env *env, unsigned index, struct env_timer_slot slot)
{
    if (index > 1 && slot_before(&slot, &env->timer_heap[index / 2]))
        sift_up(env, index, slot);
    else
        sift_down(env, index, slot);
}

void env_timer_init(struct env_timer *timer, void (*fired)(struct env_timer *timer))
{
    *timer = (struct env_timer){.fired = fired, .env = self_env()};
}

void env_timer_arm(struct env_timer *timer, uint64_t deadline_ns)
{
    struct env *env = timer->env;
    struct env_timer_slot slot = {deadline_ns, env->timer_order++, timer};
    timer->deadline_ns = deadline_ns;
    if (timer->heap_index) {
        heap_settle(env, timer->heap_index, slot);
        return;
    }
    if (env->timer_count + 1 >= env->timer_capacity) {
        env->timer_capacity = MAX(64u, env->timer_capacity * 2);
        env->timer_heap = realloc(env->timer_heap, env->timer_capacity * sizeof(slot));
        CHECK_MSG(env->timer_heap, "no memory for timers");
    }
    sift_up(env, ++env->timer_count, slot);
}

void env_timer_cancel(struct env_timer *timer)
{
    struct env *env = timer->env;
    unsigned index = timer->heap_index;
    if (!index)
        return;
    CHECK(index <= env->timer_count && env->timer_heap[index].timer == timer);
    timer->heap_index = 0;
    struct env_timer_slot last = env->timer_heap[env->timer_count--];
    if (last.timer != timer)
        heap_settle(env, index, last);
}

bool env_timer_armed(const struct env_timer *timer)
{
    return timer->heap_index != 0;
}

uint64_t env_timer_next_ns(const struct env *env)
{
    return env->timer_count ? env->timer_heap[1].deadline_ns : UINT64_MAX;
}

unsigned env_timer_run(struct env *env, uint64_t now_ns)
{
    unsigned fired = 0;
    /* Timers armed meanwhile for now or earlier wait for the next call: no endless round here. */
    uint64_t order_end = env->timer_order;
    while (env->timer_count && env->timer_heap[1].deadline_ns <= now_ns &&
           env->timer_heap[1].order < order_end) {
        struct env_timer *timer = env->timer_heap[1].timer;
        env_timer_cancel(timer);
        timer->fired(timer);
        fired++;
    }
    return fired;
}

/* --- Disks ------------------------------------------------------------------------------------- */

static bool is_aligned(uint64_t value)
{
    return value % ENV_BLOCK_BYTES == 0;
}

int env_io_check(const struct env_io *io)
{
    const struct env_file *file = io->file;
    if (io->op == ENV_IO_SYNC)
        return 0;
    if (io->op != ENV_IO_READ && file->read_only)
        return -EBADF;
    if (io->iov_count == 0 || io->iov_count > ENV_IOV_COUNT_MAX || !is_aligned(io->off_bytes))
        return -EINVAL;

    uint64_t len_bytes = 0;
    for (unsigned i = 0; i < io->iov_count; i++) {
        if (!is_aligned((uintptr_t)io->iov[i].iov_base) || !is_aligned(io->iov[i].iov_len))
            return -EINVAL;
        len_bytes += io->iov[i].iov_len;
    }
    /* A write must not grow the file either. */
    if (io->off_bytes > file->size_bytes || len_bytes > file->size_bytes - io->off_bytes)
        return -EIO;
    return 0;
}

void env_io_submit(struct env_io *io)
{
    struct env *env = io->file->env;
    io->env = env;
    io->done_bytes = 0;
    io->queued = io->abandoned = false;
    io->submitted_ns = env->ops->now_ns(env);
    io->file->ops->submit(io);
}

int env_file_open(const char *path, unsigned flags, uint64_t size_bytes, struct env_file **ret_file)
{
    struct env *env = self_env();
    return env->ops->file_open(env, path, flags, size_bytes, ret_file);
}

void env_file_close(struct env_file *file)
{
    if (file)
        file->ops->close(file);
}

uint64_t env_file_size_bytes(const struct env_file *file)
{
    return file->size_bytes;
}

const char *env_file_path(const struct env_file *file)
{
    return file->path;
}

struct io_wait {
    struct env_io io;
    struct fiber *fiber;
    bool done;
};

static void io_wait_done(struct env_io *io)
{
    struct io_wait *wait = container_of(io, struct io_wait, io);
    wait->done = true;
    fiber_wake(wait->fiber);
}

static MAY_SUSPEND int io_and_wait(
    struct env_file *file, enum env_io_op op, void *buf, size_t len_bytes, uint64_t off_bytes)
{
    struct iovec iov = {buf, len_bytes};
    struct io_wait wait = {
        .io = {.op = op,
            .file = file,
            .iov = &iov,
            .iov_count = 1,
            .off_bytes = off_bytes,
            .done = io_wait_done},
        .fiber = fiber_self(),
    };
    env_io_submit(&wait.io);
    while (!wait.done)
        fiber_suspend();
    return wait.io.result < 0 ? (int)wait.io.result : 0;
}

int env_file_read(struct env_file *file, void *buf, size_t len_bytes, uint64_t off_bytes)
{
    return io_and_wait(file, ENV_IO_READ, buf, len_bytes, off_bytes);
}

int env_file_write(
    struct env_file *file, const void *buf, size_t len_bytes, uint64_t off_bytes, bool dsync)
{
    return io_and_wait(
        file, dsync ? ENV_IO_WRITE_DSYNC : ENV_IO_WRITE, (void *)buf, len_bytes, off_bytes);
}

int env_file_sync(struct env_file *file)
{
    return io_and_wait(file, ENV_IO_SYNC, NULL, 0, 0);
}

/* --- Network, threads, signals ----------------------------------------------------------------- */

int env_listen(const char *address, unsigned mode, struct env_listener **ret_listener)
{
    struct env *env = self_env();
    return env->ops->listen(env, address, mode, ret_listener);
}

const char *env_listener_address(const struct env_listener *listener)
{
    return listener->env->ops->listener_address(listener);
}

int env_accept(struct env_listener *listener, struct env_stream **ret_stream)
{
    return listener->env->ops->accept(listener, ret_stream);
}

void env_listener_close(struct env_listener *listener)
{
    if (listener)
        listener->env->ops->listener_close(listener);
}

int env_connect(const char *address, uint64_t deadline_ns, struct env_stream **ret_stream)
{
    struct env *env = self_env();
    return env->ops->connect(env, address, deadline_ns, ret_stream);
}

int64_t env_recv(struct env_stream *stream, void *buf, size_t len_bytes, uint64_t deadline_ns)
{
    CHECK(len_bytes > 0);
    return stream->env->ops->recv(stream, buf, len_bytes, deadline_ns);
}

int env_send(struct env_stream *stream, struct iovec *iov, unsigned iov_count, uint64_t deadline_ns)
{
    return stream->env->ops->send(stream, iov, iov_count, deadline_ns);
}

void env_stream_shutdown(struct env_stream *stream)
{
    stream->env->ops->stream_shutdown(stream);
}

void env_stream_close(struct env_stream *stream)
{
    if (stream)
        stream->env->ops->stream_close(stream);
}

enum env_peer_state env_stream_peer_state(const struct env_stream *stream)
{
    return stream->env->ops->stream_peer_state(stream);
}

const char *env_stream_peer(const struct env_stream *stream)
{
    return stream->env->ops->stream_peer(stream);
}

int64_t env_offload(int64_t (*fn)(void *arg), void *arg)
{
    struct env *env = self_env();
    return env->ops->offload(env, fn, arg);
}

void env_post(struct env *env, struct env_post *post)
{
    CHECK_MSG(env->ops->post, "this env has no other threads");
    env->ops->post(env, post);
}

int env_wait_signal(void)
{
    struct env *env = self_env();
    return env->ops->wait_signal(env);
}
