/* SPDX-License-Identifier: Apache-2.0
 *
 * Blocking calls go to a few threads; signals come by a signalfd. Both wake the loop through a read
 * that the ring holds, so an idle process runs nothing at all.
 *
 * A job lives on the stack of the fiber that waits for it. A thread moves it from `jobs` to
 * `jobs_done` and writes the eventfd only when `jobs_done` and `posts` were empty: one wake-up
 * serves many.
 */
#include "common/env_uring.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "common/check.h"
#include "common/log.h"

struct job {
    struct list link;
    int64_t (*fn)(void *arg);
    void *arg;
    int64_t result;
    struct fiber *fiber;
    bool done;
};

static bool nothing_done(const struct env_uring *uring)
{
    return list_empty(&uring->jobs_done) && list_empty(&uring->posts);
}

static void *thread_main(void *arg)
{
    struct env_uring *uring = arg;
    pthread_mutex_lock(&uring->job_mutex);
    for (;;) {
        struct list *link = list_pop_front(&uring->jobs);
        if (!link) {
            if (uring->threads_stop)
                break;
            pthread_cond_wait(&uring->job_cond, &uring->job_mutex);
            continue;
        }
        struct job *job = list_entry(link, struct job, link);
        pthread_mutex_unlock(&uring->job_mutex);
        job->result = job->fn(job->arg);
        pthread_mutex_lock(&uring->job_mutex);
        bool first = nothing_done(uring);
        list_push_back(&uring->jobs_done, &job->link);
        if (first)
            CHECK(eventfd_write(uring->wake_fd, 1) == 0);
    }
    pthread_mutex_unlock(&uring->job_mutex);
    return NULL;
}

static void wake_post(struct env_uring *uring)
{
    io_uring_prep_read(
        &uring->wake_op.sqe, uring->wake_fd, &uring->wake_value, sizeof(uring->wake_value), 0);
    uring_op_submit(uring, &uring->wake_op);
}

static void wake_done(struct uring_op *op, int res)
{
    struct env_uring *uring = container_of(op, struct env_uring, wake_op);
    struct list done, posts, *link;
    list_init(&done);
    list_init(&posts);
    pthread_mutex_lock(&uring->job_mutex);
    list_splice_back(&done, &uring->jobs_done);
    list_splice_back(&posts, &uring->posts);
    pthread_mutex_unlock(&uring->job_mutex);
    while ((link = list_pop_front(&done))) {
        struct job *job = list_entry(link, struct job, link);
        job->done = true;
        fiber_wake(job->fiber);
    }
    while ((link = list_pop_front(&posts))) {
        struct env_post *post = list_entry(link, struct env_post, link);
        post->fn(post);
    }
    wake_post(uring);
}

void uring_post(struct env *env, struct env_post *post)
{
    struct env_uring *uring = uring_of(env);
    pthread_mutex_lock(&uring->job_mutex);
    bool first = nothing_done(uring);
    list_push_back(&uring->posts, &post->link);
    if (first)
        CHECK(eventfd_write(uring->wake_fd, 1) == 0);
    pthread_mutex_unlock(&uring->job_mutex);
}

int64_t uring_offload(struct env *env, int64_t (*fn)(void *arg), void *arg)
{
    struct env_uring *uring = uring_of(env);
    struct job job = {.fn = fn, .arg = arg, .fiber = fiber_self()};
    CHECK_MSG(job.fiber, "env_offload outside a fiber");
    pthread_mutex_lock(&uring->job_mutex);
    list_push_back(&uring->jobs, &job.link);
    pthread_cond_signal(&uring->job_cond);
    pthread_mutex_unlock(&uring->job_mutex);
    while (!job.done)
        fiber_suspend();
    return job.result;
}

/* --- Signals ----------------------------------------------------------------------------------- */

static void signal_set(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
}

int uring_wait_signal(struct env *env)
{
    struct env_uring *uring = uring_of(env);
    for (;;) {
        struct signalfd_siginfo info;
        struct uring_wait wait;
        io_uring_prep_read(&wait.op.sqe, uring->signal_fd, &info, sizeof(info), 0);
        int res = uring_wait(uring, &wait, UINT64_MAX);
        if (res == -EINTR || res == -EAGAIN)
            continue;
        CHECK_MSG(res == sizeof(info), "signalfd: %s", res < 0 ? strerror(-res) : "short read");
        if (info.ssi_signo != SIGHUP)
            return (int)info.ssi_signo;
        log_info("SIGHUP ignored: a daemon outlives its terminal; SIGTERM ends it");
    }
}

/* --- Start, stop
 * ----------------------------------------------------------------------------------- */

int uring_threads_start(struct env_uring *uring)
{
    sigset_t set;
    signal_set(&set);
    CHECK(pthread_sigmask(SIG_BLOCK, &set, &uring->old_signals) == 0);
    signal(SIGPIPE, SIG_IGN);

    pthread_mutex_init(&uring->job_mutex, NULL);
    pthread_cond_init(&uring->job_cond, NULL);
    list_init(&uring->jobs);
    list_init(&uring->jobs_done);
    list_init(&uring->posts);
    uring->signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
    uring->wake_fd = eventfd(0, EFD_CLOEXEC);
    int rc = uring->signal_fd < 0 || uring->wake_fd < 0 ? -errno : 0;
    while (rc == 0 && uring->thread_count < ARRAY_SIZE(uring->threads)) {
        rc = -pthread_create(&uring->threads[uring->thread_count], NULL, thread_main, uring);
        uring->thread_count += rc == 0;
    }
    if (rc < 0) {
        log_error("cannot start helper threads: %s", strerror(-rc));
        uring_threads_stop(uring);
        return rc;
    }
    uring->wake_op.done = wake_done;
    wake_post(uring);
    return 0;
}

void uring_threads_stop(struct env_uring *uring)
{
    pthread_mutex_lock(&uring->job_mutex);
    __atomic_store_n(&uring->threads_stop, true, __ATOMIC_RELAXED);
    list_init(&uring->jobs); /* not begun, and nobody will wait for them any more */
    pthread_cond_broadcast(&uring->job_cond);
    pthread_mutex_unlock(&uring->job_mutex);
    for (unsigned i = 0; i < uring->thread_count; i++)
        pthread_join(uring->threads[i], NULL);
    uring->thread_count = 0;
}

void uring_threads_fini(struct env_uring *uring)
{
    if (uring->signal_fd >= 0)
        close(uring->signal_fd);
    if (uring->wake_fd >= 0)
        close(uring->wake_fd);
    pthread_cond_destroy(&uring->job_cond);
    pthread_mutex_destroy(&uring->job_mutex);
    pthread_sigmask(SIG_SETMASK, &uring->old_signals, NULL);
}
