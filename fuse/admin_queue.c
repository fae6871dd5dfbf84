/* SPDX-License-Identifier: Apache-2.0
 *
 * Shared between the two threads, under `lock`: the two lists. A call belongs to the
 * thread from `waiting` to `finished`; the loop only ever sets its `forgotten`, under the lock too.
 */
#include "fuse/admin_queue.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "common/admin_client.h"
#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"

#define CALL_LIMIT_MS 30000
#define RETRY_FIRST_MS 100
#define RETRY_MAX_MS 1000

struct admin_call {
    struct list link;
    const char *method;
    json_t *params;
    enum admin_when_down when_down;
    admin_done_fn *done;
    void *ctx;
    bool forgotten;
    int64_t asked_ms;
    int error;
    json_t *result;
    char *text;
};

struct admin_queue {
    struct loop *loop;
    struct loop_source source; /* eventfd: something is on `finished` */
    char *path;
    int64_t timeout_ms;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct list waiting, finished;

    struct admin_client *client; /* the thread's */
    bool outage_logged;
};

static void call_free(struct admin_call *call)
{
    json_decref(call->params);
    json_decref(call->result);
    free(call->text);
    mem_free(call);
}

/* --- The thread ------------------------------------------------------------------------------- */

/* Errors of the connection and not of what was asked. */
static bool is_outage(int error)
{
    switch (error) {
    case -ENOTCONN:
    case -ECONNREFUSED:
    case -ECONNRESET:
    case -EPIPE:
    case -ETIMEDOUT:
    case -EPROTO:
    case -ESHUTDOWN:
        return true;
    default:
        return false;
    }
}

static void call_once(struct admin_queue *queue, struct admin_call *call)
{
    free(call->text);
    call->text = NULL;
    if (queue->client == NULL) {
        int r = admin_client_open(queue->path, &queue->client);
        if (r < 0) {
            CHECK(asprintf(&call->text, "%s: %s", queue->path, strerror(-r)) >= 0);
            call->error = -ENOTCONN;
            return;
        }
    }
    call->error = admin_client_call(queue->client, call->method, json_incref(call->params),
        CALL_LIMIT_MS, NULL, NULL, &call->result, &call->text);
    if (is_outage(call->error)) {
        admin_client_close(queue->client);
        queue->client = NULL;
    }
}

static bool is_forgotten(struct admin_queue *queue, struct admin_call *call)
{
    pthread_mutex_lock(&queue->lock);
    bool forgotten = call->forgotten;
    pthread_mutex_unlock(&queue->lock);
    return forgotten;
}

static void call_with_retries(struct admin_queue *queue, struct admin_call *call)
{
    /* A connection that stood idle while blockd restarted fails at the first use: that is no outage
     * yet. */
    call_once(queue, call);
    if (is_outage(call->error))
        call_once(queue, call);
    for (int64_t delay_ms = RETRY_FIRST_MS; is_outage(call->error);
         delay_ms = MIN(2 * delay_ms, RETRY_MAX_MS)) {
        bool late = queue->timeout_ms > 0 && loop_now_ms() - call->asked_ms >= queue->timeout_ms;
        if (late)
            log_error_limited("blockd has not answered %s for %lld s: %s", call->method,
                (long long)queue->timeout_ms / 1000, call->text);
        if (call->when_down == ADMIN_FAIL || late || is_forgotten(queue, call)) {
            call->error = late ? -ETIMEDOUT : -EIO;
            return;
        }
        if (!queue->outage_logged)
            log_warn("blockd does not answer: %s; %s waits", call->text, call->method);
        queue->outage_logged = true;
        struct timespec delay = {.tv_nsec = delay_ms % 1000 * 1000000, .tv_sec = delay_ms / 1000};
        nanosleep(&delay, NULL);
        call_once(queue, call);
    }
    queue->outage_logged = false;
}

static void *thread_main(void *arg)
{
    struct admin_queue *queue = arg;
    pthread_mutex_lock(&queue->lock);
    for (;;) {
        struct list *first;
        while ((first = list_pop_front(&queue->waiting)) == NULL)
            pthread_cond_wait(&queue->wake, &queue->lock);
        pthread_mutex_unlock(&queue->lock);

        struct admin_call *call = list_entry(first, struct admin_call, link);
        call_with_retries(queue, call);

        pthread_mutex_lock(&queue->lock);
        list_push_back(&queue->finished, &call->link);
        uint64_t one = 1;
        CHECK(write(queue->source.fd, &one, sizeof(one)) == sizeof(one));
    }
    return NULL;
}

/* --- The loop's side -------------------------------------------------------------------------- */

static void finished_ready(struct loop_source *source, uint32_t events)
{
    struct admin_queue *queue = container_of(source, struct admin_queue, source);
    uint64_t count;
    (void)!read(source->fd, &count, sizeof(count));
    struct list finished;
    list_init(&finished);
    pthread_mutex_lock(&queue->lock);
    list_splice_back(&finished, &queue->finished);
    pthread_mutex_unlock(&queue->lock);
    for (struct list *it; (it = list_pop_front(&finished)) != NULL;) {
        struct admin_call *call = list_entry(it, struct admin_call, link);
        if (!call->forgotten)
            call->done(call->ctx, call->error, call->result, call->text ? call->text : "");
        call_free(call);
    }
}

struct admin_call *admin_queue_call(struct admin_queue *queue, const char *method, json_t *params,
    enum admin_when_down when_down, admin_done_fn *done, void *ctx)
{
    struct admin_call *call = NEW(struct admin_call);
    call->method = method;
    call->params = params != NULL ? params : json_object();
    call->when_down = when_down;
    call->done = done;
    call->ctx = ctx;
    call->asked_ms = loop_now_ms();
    pthread_mutex_lock(&queue->lock);
    list_push_back(&queue->waiting, &call->link);
    pthread_cond_signal(&queue->wake);
    pthread_mutex_unlock(&queue->lock);
    return call;
}

void admin_queue_forget(struct admin_queue *queue, struct admin_call *call)
{
    pthread_mutex_lock(&queue->lock);
    call->forgotten = true;
    pthread_mutex_unlock(&queue->lock);
}

struct admin_queue *admin_queue_new(struct loop *loop, const char *path, int64_t timeout_ms)
{
    struct admin_queue *queue = NEW(struct admin_queue);
    queue->loop = loop;
    queue->path = mem_strdup(path);
    queue->timeout_ms = timeout_ms;
    list_init(&queue->waiting);
    list_init(&queue->finished);
    pthread_mutex_init(&queue->lock, NULL);
    pthread_cond_init(&queue->wake, NULL);
    queue->source.ready = finished_ready;
    queue->source.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    CHECK_MSG(queue->source.fd >= 0, "eventfd: errno %d", errno);
    loop_watch(loop, &queue->source, EPOLLIN);
    int r = pthread_create(&queue->thread, NULL, thread_main, queue);
    CHECK_MSG(r == 0, "pthread_create: %s", strerror(r));
    return queue;
}
