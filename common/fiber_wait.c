/* SPDX-License-Identifier: Apache-2.0
 *
 * Queues, mutexes and groups over fiber_suspend() and fiber_wake(). A waiter lives on its fiber's
 * stack and is taken off the queue by whoever wakes it, so a stray wake (F2) finds it still queued
 * and waits on.
 */
#include <errno.h>

#include "common/check.h"
#include "common/env.h"
#include "common/fiber.h"

struct waiter {
    struct list link;
    struct fiber *fiber;
    bool woken;
    bool timed_out;
    struct env_timer timer;
};

void fiber_queue_init(struct fiber_queue *q)
{
    list_init(&q->waiters);
}

static void waiter_enqueue(struct waiter *w, struct fiber_queue *q)
{
    w->fiber = fiber_self();
    w->woken = w->timed_out = false;
    CHECK_MSG(w->fiber, "waited outside a fiber");
    list_push_back(&q->waiters, &w->link);
}

void fiber_queue_wait(struct fiber_queue *q)
{
    struct waiter w;
    waiter_enqueue(&w, q);
    while (!w.woken)
        fiber_suspend();
}

static void waiter_timed_out(struct env_timer *timer)
{
    struct waiter *w = container_of(timer, struct waiter, timer);
    if (w->woken)
        return;
    w->timed_out = true;
    list_remove(&w->link);
    fiber_wake(w->fiber);
}

int fiber_queue_wait_until(struct fiber_queue *q, uint64_t deadline_ns)
{
    if (deadline_ns == UINT64_MAX) {
        fiber_queue_wait(q);
        return 0;
    }
    if (env_now_ns() >= deadline_ns)
        return -ETIMEDOUT;

    struct waiter w;
    waiter_enqueue(&w, q);
    env_timer_init(&w.timer, waiter_timed_out);
    env_timer_arm(&w.timer, deadline_ns);
    while (!w.woken && !w.timed_out)
        fiber_suspend();
    env_timer_cancel(&w.timer);
    return w.woken ? 0 : -ETIMEDOUT;
}

/* Takes the first waiter off; NULL when none waits. The waiter may not be touched after its fiber
 * ran. */
static struct fiber *dequeue(struct fiber_queue *q)
{
    struct list *link = list_pop_front(&q->waiters);
    if (!link)
        return NULL;
    struct waiter *w = list_entry(link, struct waiter, link);
    w->woken = true;
    return w->fiber;
}

bool fiber_queue_wake_one(struct fiber_queue *q)
{
    struct fiber *f = dequeue(q);
    if (f)
        fiber_wake(f);
    return f;
}

void fiber_queue_wake_all(struct fiber_queue *q)
{
    while (fiber_queue_wake_one(q)) {
    }
}

bool fiber_queue_empty(const struct fiber_queue *q)
{
    return list_empty(&q->waiters);
}

void fiber_mutex_init(struct fiber_mutex *m)
{
    m->owner = NULL;
    fiber_queue_init(&m->queue);
}

void fiber_mutex_lock(struct fiber_mutex *m)
{
    CHECK_MSG(fiber_self(), "locked outside a fiber");
    CHECK_MSG(m->owner != fiber_self(), "locked twice by %s", fiber_name(fiber_self()));
    if (!m->owner)
        m->owner = fiber_self();
    else
        fiber_queue_wait(&m->queue); /* unlock hands ownership over: nobody can overtake */
    CHECK(m->owner == fiber_self());
}

bool fiber_mutex_trylock(struct fiber_mutex *m)
{
    if (m->owner)
        return false;
    m->owner = fiber_self();
    CHECK_MSG(m->owner, "locked outside a fiber");
    return true;
}

void fiber_mutex_unlock(struct fiber_mutex *m)
{
    CHECK_MSG(m->owner && m->owner == fiber_self(), "unlocked by another than its owner");
    m->owner = dequeue(&m->queue);
    if (m->owner)
        fiber_wake(m->owner);
}

void fiber_group_init(struct fiber_group *g)
{
    *g = (struct fiber_group){0};
}

void fiber_group_add(struct fiber_group *g, unsigned n)
{
    g->pending += n;
}

void fiber_group_done(struct fiber_group *g, int error)
{
    CHECK_MSG(g->pending > 0, "more done than added");
    if (error && !g->error)
        g->error = error;
    if (--g->pending == 0 && g->waiter)
        fiber_wake(g->waiter);
}

int fiber_group_wait(struct fiber_group *g)
{
    CHECK_MSG(!g->waiter, "a group has one waiter");
    g->waiter = fiber_self();
    CHECK(g->waiter);
    while (g->pending > 0)
        fiber_suspend();
    g->waiter = NULL;
    return g->error;
}
