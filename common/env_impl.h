/* SPDX-License-Identifier: Apache-2.0
 *
 * For implementations of the env seam only (env.c, env_uring*.c, env_powercut.c, env_sim*.c).
 * env.c holds what all share: dispatch through `ops`, the timer heap, fiber forms of file I/O.
 */
#pragma once

#include "common/env.h"

struct env_file {
    struct env *env;
    const struct env_file_ops *ops;
    uint64_t size_bytes;
    char *path;
    bool read_only;
};

struct env_file_ops {
    void (*submit)(struct env_io *io);
    /* Nobody waits for `io` any more, which itself stays; without `buffers_stay` its buffers may go, or carry
     * something else (not those of a read). True: it was not under way yet, and done() will not be called.
     * NULL (env_powercut): all buffers must stay. */
    bool (*abandon)(struct env_io *io, bool buffers_stay);
    MAY_SUSPEND void (*close)(struct env_file *file);
};

struct env_ops {
    uint64_t (*now_ns)(struct env *env);
    uint64_t (*boottime_ns)(struct env *env);
    uint64_t (*realtime_ns)(struct env *env);
    void (*random)(struct env *env, void *buf, size_t len_bytes);
    void (*boot_id)(struct env *env, uint8_t ret_id[16]);
    MAY_SUSPEND int (*file_open)(struct env *env, const char *path, unsigned flags,
        uint64_t size_bytes, struct env_file **ret_file);
    MAY_SUSPEND int (*listen)(
        struct env *env, const char *address, unsigned mode, struct env_listener **ret_listener);
    MAY_SUSPEND int (*accept)(struct env_listener *listener, struct env_stream **ret_stream);
    void (*listener_close)(struct env_listener *listener);
    const char *(*listener_address)(const struct env_listener *listener);
    MAY_SUSPEND int (*connect)(
        struct env *env, const char *address, uint64_t deadline_ns, struct env_stream **ret_stream);
    MAY_SUSPEND int64_t (*recv)(
        struct env_stream *stream, void *buf, size_t len_bytes, uint64_t deadline_ns);
    MAY_SUSPEND int (*send)(
        struct env_stream *stream, struct iovec *iov, unsigned iov_count, uint64_t deadline_ns);
    void (*stream_shutdown)(struct env_stream *stream);
    MAY_SUSPEND void (*stream_close)(struct env_stream *stream);
    enum env_peer_state (*stream_peer_state)(const struct env_stream *stream);
    const char *(*stream_peer)(const struct env_stream *stream);
    MAY_SUSPEND int64_t (*offload)(struct env *env, int64_t (*fn)(void *arg), void *arg);
    void (*post)(struct env *env, struct env_post *post); /* NULL: there are no other threads */
    MAY_SUSPEND int (*wait_signal)(struct env *env);
};

struct env_timer_slot {
    uint64_t deadline_ns, order;
    struct env_timer *timer;
};

/* First member of every implementation's env. env_init/env_fini set up and tear down what is here.
 */
struct env {
    const struct env_ops *ops;
    struct env_timer_slot *timer_heap; /* 1-based binary heap by deadline, then by arming order */
    unsigned timer_count, timer_capacity;
    uint64_t timer_order;
    /* mem.c: everything allocated on behalf of this env; the lists only if mem_track, which is set
     * (after env_init) before the first allocation. */
    bool mem_track;
    struct list mem_blocks, mem_page_blocks;
    uint64_t mem_used_bytes;
    struct list left; /* env_deadline.c: reads left behind (T2); most often none */
    const char *name; /* for log lines: the simulated node; NULL in production */
};

struct env_listener {
    struct env *env;
};
struct env_stream {
    struct env *env;
};

void env_init(struct env *env, const struct env_ops *ops);
/* Forgets all timers, wherever they are (their memory may be gone); leaves mem_* alone. */
void env_fini(struct env *env);
/* What every file_ops.submit checks first: 0, or the result to complete `io` with (through the
 * loop, never from inside submit): -EINVAL misaligned or too many buffers, -EBADF write to a
 * read-only file, -EIO outside the file. */
int env_io_check(const struct env_io *io);
/* Deadline of the earliest timer, UINT64_MAX when none is armed. */
uint64_t env_timer_next_ns(const struct env *env);
/* Fires every timer due at now_ns, in deadline order; returns how many. */
unsigned env_timer_run(struct env *env, uint64_t now_ns);
/* Simulation: frees all that `env` (with mem_track) still has allocated. */
void mem_release_all(struct env *env);
