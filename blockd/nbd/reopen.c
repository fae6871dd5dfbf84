/* SPDX-License-Identifier: Apache-2.0
 *
 * What happens when a volume answers -ESHUTDOWN: it is being closed here, this node was deposed, or
 * its owner on another node has gone or handed it over. The client must not see that (N4). Its
 * requests are held, without a fiber each; the attachment is let go, got again by the volume's name,
 * and the requests are executed there, under the same request ids, so that a write that did get
 * through is not done twice (S19).
 */
#include <errno.h>
#include <string.h>

#include "blockd/nbd/connection.h"
#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"

#define RETRY_NS_MIN 10000000ull
#define RETRY_NS_MAX 1000000000ull

/* Lets go of the volume once nobody is in a call of it. */
MAY_SUSPEND static void put_volume(struct nbd_connection *c)
{
    while (c->volume_users > 0)
        fiber_queue_wait(&c->quiet);
    struct attachment *attachment = c->attachment;
    c->attachment = NULL;
    if (attachment)
        attach_put(attachment);
}

/* The volume is back: the same one, of the same size, or the client has to look at it anew. */
static bool adopt(struct nbd_connection *c, struct attachment *attachment)
{
    if (attach_volume_id(attachment) != c->volume_id ||
        attach_size_bytes(attachment) != c->terms.size_bytes)
        return false;
    c->attachment = attachment;
    c->volume_gone = false;
    return true;
}

/* 0: back. Otherwise the connection cannot go on. */
MAY_SUSPEND static int get_volume(struct nbd_connection *c)
{
    CLEANUP_FREE char *error = NULL;
    struct attachment *attachment;
    int rc = attach_get(c->server->attach, c->name, &nbd_attachment_events, c, &attachment, &error);
    if (rc < 0) {
        if (rc != -ESHUTDOWN)
            log_warn_limited("nbd: volume %s cannot be opened again, its requests wait: %s",
                c->name, error ? error : strerror(-rc));
        return rc;
    }
    if (!c->broken && adopt(c, attachment))
        return 0;
    attach_put(attachment);
    return -ENOENT;
}

struct waiter {
    struct attach_waiter base;
    struct nbd_connection *connection;
};

static void woken(struct attach_waiter *base)
{
    struct nbd_connection *c = container_of(base, struct waiter, base)->connection;
    c->retry = true;
    fiber_queue_wake_all(&c->quiet);
}

/* Until it is worth another try: something changed, or *wait_ns are over, which grow. */
MAY_SUSPEND static void wait_for_change(struct nbd_connection *c, uint64_t *wait_ns)
{
    uint64_t until_ns = env_now_ns() + *wait_ns;
    while (!c->broken && !c->retry && fiber_queue_wait_until(&c->quiet, until_ns) == 0)
        ;
    /* Slowly: what has been down for long may be late by a quarter of that. */
    *wait_ns = c->retry ? RETRY_NS_MIN : MIN(*wait_ns * 5 / 4, RETRY_NS_MAX);
}

/* The volume is back, or the connection is broken. */
MAY_SUSPEND static void look_for_volume(struct nbd_connection *c)
{
    uint64_t hold_ns = c->server->options.hold_timeout_ns, wait_ns = RETRY_NS_MIN;
    uint64_t deadline_ns = hold_ns ? env_now_ns() + hold_ns : UINT64_MAX;
    struct waiter waiter = {.base.woken = woken, .connection = c};
    attach_wait_begin(c->server->attach, &waiter.base);
    while (!c->broken) {
        c->retry = false;
        int rc = get_volume(c);
        if (rc == 0)
            break;
        if (rc == -ENOENT || env_now_ns() >= deadline_ns ||
            env_stream_peer_state(c->stream) == ENV_PEER_GONE) {
            if (!c->drain_reason)
                c->drain_reason = rc == -ENOENT ? "its volume is not what it was"
                                                : "its volume did not come back in time";
            nbd_connection_break(c);
            break;
        }
        wait_for_change(c, &wait_ns);
    }
    attach_wait_end(&waiter.base);
}

MAY_SUSPEND static void reopen_main(void *arg)
{
    struct nbd_connection *c = arg;
    put_volume(c);
    look_for_volume(c);
    c->reopening = false;
    struct list held;
    list_init(&held);
    list_splice_back(&held, &c->held);
    struct list *link;
    while ((link = list_pop_front(&held))) {
        c->server->stats.requests_held--;
        nbd_request_start(list_entry(link, struct nbd_request, link));
    }
    nbd_connection_settle(c); /* and it may be gone */
}

void nbd_reopen(struct nbd_connection *c)
{
    c->volume_gone = true;
    fiber_queue_wake_all(&c->quiet); /* put_volume() may wait for the call that has just ended */
    if (c->broken || c->reopening)
        return;
    c->reopening = true;
    fiber_spawn("nbd-reopen", reopen_main, c);
}

void nbd_hold(struct nbd_request *request)
{
    struct nbd_connection *c = request->connection;
    nbd_reopen(c);
    if (c->broken) {
        nbd_request_free(request);
        return;
    }
    list_push_back(&c->held, &request->link);
    c->server->stats.requests_held++;
}

void nbd_held_drop(struct nbd_connection *c)
{
    struct list *link;
    while ((link = list_pop_front(&c->held))) {
        c->server->stats.requests_held--;
        nbd_request_free(list_entry(link, struct nbd_request, link));
    }
}
